"""The words under which connections and failed attempts are counted are go's."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.beacon import labels
from pyp2p.errors import (
    Attempt,
    BackingOff,
    ConnectFailed,
    LimitExceeded,
    NoAddresses,
    NoiseError,
    NotTried,
    ResolveError,
    StageTimeout,
)
from pyp2p.io.handshake import Direction
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.publickey import KeyType
from pyp2p.trace import Stage, Trace

TRANSPORTS = {"p2p-circuit", "webrtc", "webrtc-direct", "webtransport", "quic", "quic-v1", "wss", "ws", "tcp", "other"}
PARTS = ["/ip4/10.0.0.1", "/ip6/fd00::1", "/dns/a", "/unix/a", "/memory/1", "/tcp/1", "/udp/1", "/quic-v1", "/ws"]


def caused(cause: OSError) -> ConnectFailed:
    error = ConnectFailed("in our words")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (caused(ConnectionRefusedError()), "connection refused"),
        (caused(TimeoutError()), "timeout"),
        (caused(OSError("no route")), "other"),
        (StageTimeout(Stage.CONNECT, 5), "deadline"),
        (NoiseError("bad signature"), "other"),
    ],
)
def test_a_failed_attempt_is_counted_by_what_failed(error: Exception, word: str) -> None:
    attempt = Attempt("/ip4/10.0.0.1/tcp/4001", Stage.CONNECT, error, Trace())
    assert labels.dial_error(attempt) == ("tcp", word, "ip4")


@pytest.mark.parametrize(
    "error",
    [
        BackingOff("/ip4/10.0.0.1/tcp/4001", 1, 1),
        LimitExceeded("pending_outbound", "many"),
        NoAddresses("none"),
        NotTried("late"),
        ResolveError("no such name"),
    ],
)
def test_an_attempt_that_sent_nothing_is_not_counted(error: Exception) -> None:
    assert labels.dial_error(Attempt("/ip4/10.0.0.1/tcp/4001", Stage.CONNECT, error, Trace())) is None


@pytest.mark.parametrize(
    ("address", "transport", "version"),
    [
        ("/ip4/10.0.0.1/tcp/4001", "tcp", "ip4"),
        ("/ip6/fd00::1/tcp/4001", "tcp", "ip6"),
        ("/dns4/example.com/tcp/443/wss", "wss", "ip4"),
        ("/dns6/example.com/udp/4001/quic-v1", "quic-v1", "ip6"),
        ("/dns/example.com/tcp/4001", "tcp", "unknown"),
        ("/memory/1", "other", "unknown"),
        ("adopted proxy", "other", "unknown"),
        ("", "other", "unknown"),
    ],
)
def test_an_address_is_counted_by_its_transport_and_family(address: str, transport: str, version: str) -> None:
    attempt = Attempt(address, Stage.CONNECT, ConnectFailed("x"), Trace())
    assert labels.dial_error(attempt) == (transport, "other", version)


@pytest.mark.hostile
@given(st.text() | st.lists(st.sampled_from(PARTS), max_size=6).map("".join))
def test_no_address_makes_a_label_of_its_own(address: str) -> None:
    counted = labels.dial_error(Attempt(address, Stage.CONNECT, ConnectFailed("x"), Trace()))
    assert counted is not None
    transport, word, version = counted
    assert transport in TRANSPORTS
    assert word == "other"
    assert version in {"ip4", "ip6", "unknown"}


@pytest.mark.parametrize(
    ("local", "transport", "version"),
    [
        ("/ip4/10.0.0.1/tcp/4001", "tcp", "ip4"),
        ("/ip6/fd00::1/tcp/80/ws", "websocket", "ip6"),
        ("/memory/1", "unknown", "unknown"),
    ],
)
def test_a_connection_is_counted_as_go_does(local: str, transport: str, version: str) -> None:
    connection = SimpleNamespace(
        direction=Direction.INBOUND,
        local=parse_multiaddr(local),
        security="/noise",
        muxer_protocol="/yamux/1.0.0",
        early_muxer=True,
    )
    assert labels.connection(connection) == ("inbound", transport, "/noise", "/yamux/1.0.0", "true", version)


@pytest.mark.parametrize(("kind", "word"), list(zip(KeyType, ("RSA", "Ed25519", "Secp256k1", "ECDSA"), strict=True)))
def test_kinds_of_keys_have_the_names_of_go(kind: KeyType, word: str) -> None:
    connection = SimpleNamespace(direction=Direction.OUTBOUND, peer_key=SimpleNamespace(type=kind))
    assert labels.key_type(connection) == ("outbound", word)
