"""What a node tells about itself, gathered: totals count each connection once, requests by method, losses by place."""

from collections import Counter
from types import SimpleNamespace as Fake

import pytest
from multiaddr import Multiaddr

from pyp2p.beacon.collect import Totals, connection_stats, drop_stats, method_name, request_stats, topic_stats
from pyp2p.beacon.stats import TopicStats
from pyp2p.errors import AdmissionRefused, Attempt, ConnectFailed, DialFailed, NotTried
from pyp2p.io.handshake import Direction
from pyp2p.peer.address import AddressKind
from pyp2p.switch.events import Connected, Disconnected
from pyp2p.switch.facts import NORMAL, ConnectionStats
from pyp2p.trace import Stage, Trace
from tests.beacon.support import identity

KEY = identity("peer").public_key


def connection(remote: str = "/ip4/10.0.0.9/tcp/9000", kind=AddressKind.INBOUND_DIRECT, **moved):
    return Fake(
        peer="peer",
        direction=Direction.INBOUND,
        kind=kind,
        opened_at_wall=5.5,
        local=Multiaddr("/ip4/10.0.0.1/tcp/9000"),
        remote=Multiaddr(remote),
        peer_key=KEY,
        security="/noise",
        muxer_protocol="/yamux/1.0.0",
        early_muxer=False,
        stats=ConnectionStats(**moved),
    )


def test_bytes_of_open_and_ended_connections_are_counted_once() -> None:
    totals = Totals()
    first, second = connection(bytes_in=10, bytes_out=20, messages_in=1), connection(bytes_in=5, messages_out=7)
    for each in (first, second):
        totals.note(Connected(each))
    assert totals.moved([first, second]) == Counter(bytes_in=15, bytes_out=20, messages_in=1, messages_out=7)
    totals.note(Disconnected(first, NORMAL))
    assert totals.moved([second]) == Counter(bytes_in=15, bytes_out=20, messages_in=1, messages_out=7)
    assert totals.moved([second]) == totals.moved([second])


def test_connections_are_counted_by_what_they_are() -> None:
    totals = Totals()
    one = connection()
    totals.note(Connected(one))
    label = ("inbound", "tcp", "/noise", "/yamux/1.0.0", "false", "ip4")
    assert (totals.opened, totals.closed, totals.key_types) == ({label: 1}, {}, {("inbound", "Secp256k1"): 1})
    totals.note(Disconnected(one, NORMAL))
    assert (totals.opened, totals.closed) == ({label: 1}, {label: 1})


@pytest.mark.parametrize(
    ("kind", "direct"),
    [
        (AddressKind.INBOUND_DIRECT, True),
        (AddressKind.OUTBOUND_DIRECT, True),
        *((kind, False) for kind in AddressKind if kind.name not in ("INBOUND_DIRECT", "OUTBOUND_DIRECT")),
    ],
)
def test_one_connection(kind: AddressKind, direct: bool) -> None:
    said = connection_stats(connection(kind=kind, bytes_in=1, bytes_out=2, messages_in=3, messages_out=4))
    assert (said.bytes_in, said.bytes_out, said.messages_in, said.messages_out) == (1, 2, 3, 4)
    assert (said.opened_at, said.outbound, said.direct) == (5.5, False, direct)
    assert (said.key, said.key_type) == (KEY.to_protobuf(), "secp256k1")
    assert (said.local, said.remote) == ("/ip4/10.0.0.1/tcp/9000", "/ip4/10.0.0.9/tcp/9000")


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        ("/eth2/beacon_chain/req/status/2/ssz_snappy", "status"),
        ("/family/name/1", "name"),
        ("/a/b/c/things/12/proto", "things"),
        ("/x/1", "x"),
        ("/no/version", "/no/version"),
        ("1", "1"),
        ("", ""),
    ],
)
def test_a_method_is_named_by_what_stands_before_its_version(protocol: str, name: str) -> None:
    assert method_name(protocol) == name


def test_requests_are_counted_by_method_and_side() -> None:
    status, own = "/eth2/beacon_chain/req/status/1/ssz_snappy", "/app/ask/1"
    newer = status.replace("/1/", "/2/")
    counters = Counter(
        {
            ("asked", status): 3,
            ("asked", newer): 2,
            ("served", status): 4,
            ("ProtocolViolation", own): 1,
            ("too many at once", own): 6,
        }
    )
    assert request_stats(Fake(counters=counters)) == {
        ("status", "out", "asked"): 5,
        ("status", "in", "served"): 4,
        ("ask", "out", "ProtocolViolation"): 1,
        ("ask", "in", "too many at once"): 6,
    }


def test_a_dial_that_failed_is_counted_by_stage_and_each_attempt_that_sent_something_by_what_it_was() -> None:
    totals = Totals()
    attempts = [
        Attempt("/ip4/10.0.0.1/tcp/1", Stage.CONNECT, ConnectFailed("refused"), Trace()),
        Attempt("/ip4/10.0.0.1/tcp/2", Stage.CONNECT, NotTried("enough"), Trace()),
    ]
    totals.note_failure(Stage.CONNECT, DialFailed("peer", attempts))
    totals.note_failure(Stage.ADMISSION, AdmissionRefused("no"))
    assert totals.dial_errors == {"connect": 1, "admission": 1}
    assert totals.attempts_failed == {("tcp", "other", "ip4"): 1}


def test_topics_with_who_listens_and_what_was_accepted() -> None:
    pubsub = Fake(topics=["a", "b"], peers=lambda topic: [1, 2, 3], mesh=lambda topic: [1])
    assert list(topic_stats(pubsub, Fake(accepted={"a": (5, 500)}))) == [
        TopicStats("a", 3, 1, 5, 500),
        TopicStats("b", 3, 1, 0, 0),
    ]


def test_losses_by_where() -> None:
    gossip = {
        ("accepted", "a"): 9,
        ("forwarded dropped: queue full", "a"): 2,
        ("gossip dropped: peer gone", ""): 3,
        ("lost with its stream", ""): 4,
        ("own expired", "a"): 1,
        ("validation queue full", "a"): 5,
        ("slow subscriber", "a"): 6,
        ("slow subscriber", "b"): 7,
    }
    discovery = {"datagrams not sent": 8, "news missed": 9, "sessions": 50}
    assert drop_stats(gossip, discovery) == {
        "gossip to peers": 10,
        "gossip to validators": 5,
        "gossip to readers": 13,
        "datagrams": 8,
        "news of discovery": 9,
    }
    assert drop_stats({}, {}) == {}
    assert drop_stats({}, {}, 3) == {"events": 3}
