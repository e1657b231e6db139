"""What hostile peers do to one QUIC connection: transport parameters, proofs, Retry, floods of frames."""

from datetime import UTC, datetime, timedelta

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPreferredAddress,
    encode_quic_retry,
    encode_quic_version_negotiation,
    push_quic_preferred_address,
)
from aioquic.tls import Epoch
from cryptography import x509

from pyp2p.errors import TlsError
from pyp2p.muxers.base import Data, MuxerLimits, Opened
from pyp2p.quic.core import MAX_CRYPTO, MAX_REASON, MAX_TOKEN, QuicCore
from pyp2p.quic.muxer import QuicMuxer
from pyp2p.quic.receiver import STREAM_WINDOW
from tests.fuzz.quic import original_of, packet, shake_hands
from tests.fuzz.script import Edits, Script, edits
from tests.unit.quic.quic_tools import HERE, THERE, Pair, bare, client, varint
from tests.unit.security.test_tls_core import FOREIGN, REFUSED
from tests.unit.security.tls_tools import ALICE, BOB, NOW, P256, certificate, der

pytestmark = pytest.mark.hostile

ROLES = pytest.mark.parametrize("dialling", [True, False], ids=["dialling", "listening"])
TRANSPORT_PARAMETER_ERROR, CRYPTO_ERROR = 8, 0x100


# --- 43: transport parameters, RFC 9000, 7.4 and 18.2


def parameter(number: int, raw: bytes) -> bytes:
    return varint(number) + varint(len(raw)) + raw


def preferred(cid: bytes = bytes(8), host: str = "10.0.0.9") -> bytes:
    buffer = Buffer(capacity=100)
    place = QuicPreferredAddress((host, 4001), None, cid, bytes(16))
    push_quic_preferred_address(buffer, place)
    return parameter(0x0D, buffer.data)


INVALID = {
    "max_udp_payload_size 1199": parameter(0x03, varint(1199)),
    "ack_delay_exponent 21": parameter(0x0A, varint(21)),
    "max_ack_delay 2^14": parameter(0x0B, varint(1 << 14)),
    "active_connection_id_limit 0": parameter(0x0E, varint(0)),
    "active_connection_id_limit 1": parameter(0x0E, varint(1)),
    "initial_max_streams_bidi": parameter(0x08, varint((1 << 60) + 1)),
    "initial_max_streams_uni": parameter(0x09, varint((1 << 60) + 1)),
    "original_destination_connection_id": parameter(0x00, bytes(8)),
    "initial_source_connection_id": parameter(0x0F, bytes(8)),
    "retry_source_connection_id": parameter(0x10, bytes(8)),
    "preferred_address without an id": preferred(b""),
    "disable_active_migration with content": parameter(0x0C, b"\0"),
    "a number shorter than it says": varint(0x01) + b"\x03\x05\0\0",
    "a number of no bytes": parameter(0x01, b""),
    "cut off": b"\x01",
}
OF_SERVERS = {"stateless_reset_token": parameter(0x02, bytes(16)), "preferred_address": preferred()}


@ROLES
@pytest.mark.parametrize("name", INVALID)
def test_hostile_043_transport_parameters_out_of_range_end_the_handshake(name: str, dialling: bool) -> None:
    core = shake_hands(dialling, 2, None, INVALID[name], 1).core
    assert core._close_event.error_code == TRANSPORT_PARAMETER_ERROR
    assert not core.done


@pytest.mark.parametrize("name", OF_SERVERS)
def test_hostile_043_what_only_servers_may_say_is_refused_from_a_dialler(name: str) -> None:
    core = shake_hands(False, 2, None, OF_SERVERS[name], 1).core
    assert core._close_event.error_code == TRANSPORT_PARAMETER_ERROR
    assert not core.done
    assert shake_hands(True, 2, None, OF_SERVERS[name], 1).core.done


@ROLES
@pytest.mark.parametrize(
    "extreme",
    [
        parameter(0x01, varint((1 << 62) - 1)),
        parameter(0x03, varint((1 << 62) - 1)),
        parameter(0x0B, varint((1 << 14) - 1)),
        parameter(0x0E, varint((1 << 62) - 1)),
        parameter(0x08, varint(1 << 60)) + parameter(0x04, varint((1 << 62) - 1)),
        parameter(0x3127, bytes(300)),
    ],
    ids=["idle", "payload", "ack delay", "ids", "streams", "unknown"],
)
def test_hostile_043_transport_parameters_at_their_bounds_do_no_harm(extreme: bytes, dialling: bool) -> None:
    ours = shake_hands(dialling, 2, None, extreme, 1)
    assert ours.core.done
    ours.end()  # within our own idle time


def test_hostile_043_a_peer_is_where_it_was_dialled_whatever_address_it_prefers() -> None:
    enough = b"".join(parameter(number, varint(1 << 16)) for number in range(0x04, 0x0A))
    ours = shake_hands(True, 2, None, preferred() + enough, 1)
    assert ours.core.done
    assert [path.addr for path in ours.core._network_paths] == [THERE]
    ours.speak()
    assert {place for _, place in (*ours.settle(), *ours.pass_time(5))} == {THERE}


# --- 14, 33 to 40: proofs, towards both roles


def bare_listener(first: bytes, chain, key=P256, alpn=("libp2p",), asks=True) -> QuicConnection:
    """A listening end on the library as it is."""
    configuration = QuicConfiguration(
        alpn_protocols=list(alpn),
        is_client=False,
        verify_mode=0,
        certificate=x509.load_der_x509_certificate(chain[0]),
        certificate_chain=[x509.load_der_x509_certificate(each) for each in chain[1:]],
        private_key=key,
    )
    connection = QuicConnection(configuration=configuration, original_destination_connection_id=original_of(first))
    initialize = connection._initialize

    def initialized(cid: bytes) -> None:
        initialize(cid)
        connection.tls._request_client_certificate = asks

    connection._initialize = initialized
    return connection


def dialled(listener_of, expect=None) -> tuple[QuicCore, QuicConnection]:
    """Our dialling end after a handshake with a listener that was made from the first datagram."""
    core = client(expect=expect)
    sent = core.datagrams_to_send(0.0)
    listener = listener_of(sent[0][0])
    for _ in range(6):
        for data, _ in sent:
            listener.receive_datagram(data, HERE, 0.0)
        answers = listener.datagrams_to_send(0.0)
        if listener._handshake_complete or listener._cryptos[Epoch.ONE_RTT].send.is_valid():
            listener.send_stream_data(1, b"let me in")
            answers += listener.datagrams_to_send(0.0)
        for data, _ in answers:
            core.receive_datagram(data, THERE, 0.0)
        core.look()
        sent = core.datagrams_to_send(0.0)
        core.look()
    return core, listener


def streams(core: QuicCore) -> list:
    """What was told of streams."""
    return [event for event in core.told if hasattr(event, "stream_id")]


YESTERDAY, TOMORROW = (datetime.fromtimestamp(NOW, UTC) + timedelta(days=days) for days in (-1, 1))
MORE = [
    pytest.param([certificate(last=YESTERDAY)], "now is 2026-01-01", id="expired"),
    pytest.param([certificate(first=TOMORROW)], "now is 2026-01-01", id="not yet valid"),
    pytest.param([certificate(extension=der(0x30, b""))], "no SignedKey", id="empty"),
    pytest.param([certificate(extension=b"\x30\x00\x00")], "no SignedKey|after its end", id="trailing"),
    pytest.param(
        [certificate(more=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), True)])],
        "critical extension",
        id="critical",
    ),
    pytest.param(
        [certificate(extension=der(0x30, der(4, BOB.public_key.to_protobuf()) + der(4, ALICE.sign(b"x"))))],
        "did not sign",
        id="another key",
    ),
]


@pytest.mark.parametrize(("chain", "why"), [*REFUSED, *MORE])
def test_hostile_035_036_037_039_whom_we_dialled_and_who_proves_nothing_is_refused(chain, why: str) -> None:
    core, listener = dialled(lambda first: bare_listener(first, chain))
    assert isinstance(core.refusal, TlsError)
    assert pytest.RaisesExc(TlsError, match=why).matches(core.refusal)
    assert not core.done and not core.told
    assert listener._close_event.error_code == CRYPTO_ERROR + 42


@pytest.mark.parametrize(("chain", "why"), MORE)
def test_hostile_035_036_037_039_a_dialler_that_proves_nothing_and_sends_data_at_once(chain, why: str) -> None:
    dialler = bare(chain)
    dialler.send_stream_data(0, b"let me in")
    pair = Pair(dialler)
    assert pytest.RaisesExc(TlsError, match=why).matches(pair.listener.refusal)
    assert not pair.listener.done and not pair.listener.told
    assert dialler._close_event.error_code == CRYPTO_ERROR + 42


def test_a_bare_listener_with_a_good_certificate_is_let_in() -> None:
    core, _ = dialled(lambda first: bare_listener(first, [certificate()]), expect=ALICE.peer)
    assert core.done and core.peer_key == ALICE.public_key
    assert [event.data for event in core.told if hasattr(event, "data")] == [b"let me in"]


def test_hostile_033_a_listener_that_asks_for_no_certificate_learns_nothing_and_may_be_used() -> None:
    core, listener = dialled(lambda first: bare_listener(first, [certificate()], asks=False))
    assert core.done and core.peer_key == ALICE.public_key  # its own proof is complete
    assert listener.tls._peer_certificate is None


@pytest.mark.parametrize("alpn", [[], ["h3"]], ids=["none", "another"])
def test_hostile_034_without_our_protocol_in_alpn_nobody_is_let_in(alpn: list[str]) -> None:
    pair = Pair(bare([certificate()], alpn=alpn))
    assert not pair.listener.done
    core, _ = dialled(lambda first: bare_listener(first, [certificate()], alpn=alpn))
    assert not core.done and core._close_event is not None


def test_hostile_034_a_server_name_is_ignored() -> None:
    assert Pair(bare([certificate()], server_name="example.org")).listener.done


@ROLES
@pytest.mark.parametrize("unit", [0, 1], ids=["hello", "certificate"])
def test_hostile_038_a_message_of_a_handshake_is_bounded(unit: int, dialling: bool) -> None:
    """TLS lets one have 16 MiB."""
    endless = Edits(Script(edits((unit, 0, 4, b"\x0b\xff\xff\xff" + bytes(65_000)))))
    core = shake_hands(dialling, 0, endless, b"", 1).core
    core.look()
    assert not core.done and not streams(core)
    assert len(core.tls._receive_buffer) <= MAX_CRYPTO


@ROLES
def test_hostile_038_what_is_said_of_tls_after_the_handshake_is_bounded_too(dialling: bool) -> None:
    pair = Pair()
    core, peer, place = (pair.dialler, pair.listener, THERE) if dialling else (pair.listener, pair.dialler, HERE)
    for offset in range(0, 4 * MAX_CRYPTO, 1000):
        said = (b"\x04\xff\xff\xff" if not offset else b"").ljust(1000, b"\0")
        frame = bytes((QuicFrameType.CRYPTO,)) + varint(offset) + varint(1000) + said
        core.receive_datagram(packet(peer, frame), place, pair.now)
    assert core._close_event.error_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
    assert len(core.tls._receive_buffer) <= MAX_CRYPTO


def test_hostile_034_a_foreign_key_under_a_good_certificate_is_refused() -> None:
    pair = Pair(bare([certificate()], key=FOREIGN))
    assert not pair.listener.done and not streams(pair.listener)
    assert pair.listener._close_event.error_code >= CRYPTO_ERROR


# --- 43: Retry and version negotiation towards a dialler


def retried(core: QuicCore, token: bytes) -> list:
    first = core.datagrams_to_send(0.0)[0][0]
    retry = encode_quic_retry(
        version=1,
        source_cid=b"12345678",
        destination_cid=core.host_cid,
        original_destination_cid=original_of(first),
        retry_token=token,
    )
    core.receive_datagram(retry, THERE, 0.1)
    core.look()
    return core.datagrams_to_send(0.1)


@pytest.mark.parametrize("size", [1, 100, MAX_TOKEN, MAX_TOKEN + 1, 1300, 1500, 60_000])
def test_hostile_043_a_retry_with_a_large_token_is_none(size: int) -> None:
    core = client()
    again = retried(core, b"t" * size)
    assert bool(again) == (size <= MAX_TOKEN)  # what has been asked waits for an answer, else
    for _ in range(3):
        core.handle_timer(core.get_timer())
        again += core.datagrams_to_send(core.get_timer())
    assert any(b"t" * min(size, MAX_TOKEN + 1) in data for data, _ in again) == (size <= MAX_TOKEN)
    core.shut()
    assert core.datagrams_to_send(9.0)


def test_hostile_043_only_one_retry_is_followed() -> None:
    core = client()
    assert retried(core, b"one")
    cid = core._peer_cid.cid
    retry = encode_quic_retry(
        version=1, source_cid=b"87654321", destination_cid=core.host_cid, original_destination_cid=cid, retry_token=b"2"
    )
    for _ in range(10):
        core.receive_datagram(retry, THERE, 0.2)
    assert core._peer_cid.cid == cid and core._peer_token == b"one"
    assert not core.datagrams_to_send(0.2)


@pytest.mark.parametrize("versions", [[1], [1, 9]], ids=["ours", "among others"])
def test_hostile_043_a_negotiation_of_the_version_that_we_speak_changes_nothing(versions: list[int]) -> None:
    core = client()
    first = core.datagrams_to_send(0.0)[0][0]
    answer = encode_quic_version_negotiation(
        source_cid=original_of(first), destination_cid=core.host_cid, supported_versions=versions
    )
    for _ in range(100):
        core.receive_datagram(answer, THERE, 0.1)
        assert not core.datagrams_to_send(0.1)
    core.look()
    assert core.terminated is None


def test_hostile_043_a_server_of_other_versions_ends_the_dial_without_another_word() -> None:
    core = client()
    first = core.datagrams_to_send(0.0)[0][0]
    answer = encode_quic_version_negotiation(
        source_cid=original_of(first), destination_cid=core.host_cid, supported_versions=[9, 0x6B3343CF]
    )
    core.receive_datagram(answer, THERE, 0.1)
    core.look()
    assert core.terminated is not None
    assert not core.datagrams_to_send(0.1)


# --- 43, 44: frames


@pytest.mark.parametrize(
    ("number", "code"), [(2, 4), (3, 5), (1, 5), (7, 5)], ids=["its uni", "our uni", "ours, unopened", "our next uni"]
)
@pytest.mark.parametrize("kind", [QuicFrameType.STREAM_BASE | 2, QuicFrameType.RESET_STREAM], ids=["data", "reset"])
def test_hostile_043_a_stream_that_is_not_its_to_use_ends_the_connection(kind: int, number: int, code: int) -> None:
    pair = Pair(bare([certificate()]))
    rest = varint(1) + b"x" if kind != QuicFrameType.RESET_STREAM else varint(0) + varint(0)
    pair.say((kind, varint(number) + rest))
    assert pair.listener._close_event.error_code == code


def test_hostile_043_challenges_are_answered_once_each_and_no_more_than_some_at_a_time() -> None:
    pair = Pair(bare([certificate()]))
    for number in range(0, 2_000, 50):
        pair.say(*((QuicFrameType.PATH_CHALLENGE, n.to_bytes(8, "big")) for n in range(number, number + 50)))
    assert len(pair.listener._network_paths[0].remote_challenges) <= 32
    said = pair.listener.datagrams_to_send(pair.now)
    assert sum(len(data) for data, _ in said) < 40 * 1500
    assert not pair.listener._network_paths[0].remote_challenges
    assert pair.listener._close_event is None


def test_hostile_043_resets_and_stops_of_one_stream_are_told_once() -> None:
    pair = Pair(bare([certificate()]))
    muxer = QuicMuxer(pair.listener, MuxerLimits(), pair.now)
    reset = QuicFrameType.RESET_STREAM, varint(0) + varint(7) + varint(0)
    stop = QuicFrameType.STOP_SENDING, varint(0) + varint(7)
    found = []
    for _ in range(200):
        pair.say(*([reset, stop] * 20))
        found += muxer.feed(b"", pair.now)
        pair.listener.look()
        pair.listener.datagrams_to_send(pair.now)
    assert len(found) < 10
    assert not muxer._streams and not muxer._stops and not muxer._full
    assert pair.listener._close_event is None


def test_hostile_044_a_hundred_streams_opened_and_reset_again_and_again_leave_nothing() -> None:
    """The muxer's bucket ends it; without that the state of each is freed all the same."""
    pair = Pair(bare([certificate()]))
    dialler = pair.dialler
    muxer = QuicMuxer(pair.listener, MuxerLimits(open_rate=1e9, open_burst=1_000_000), pair.now)
    for _ in range(100):
        for _ in range(100):
            number = dialler.get_next_available_stream_id()
            dialler.send_stream_data(number, b"")
            dialler.reset_stream(number, 0)
        pair.pump(0.2)
        muxer.feed(b"", pair.now)
        pair.pump(0.2)
        while dialler.next_event():
            pass
    assert dialler._local_next_stream_id_bidi == 4 * 100 * 100
    assert pair.listener._local_max_streams_bidi.used > 9_000
    assert len(pair.listener._streams) <= 256 and len(muxer._streams) == 0
    assert not muxer._skipped
    assert len(pair.listener._streams_queue) <= 256


@pytest.mark.parametrize("how", ["refused", "taken in part", "after the reset", "reset by the peer"])
def test_hostile_028_what_nobody_will_read_is_given_back_to_the_connections_window(how: str) -> None:
    """Each round fills a stream; without that, four of them would end all others for good."""
    pair = Pair()
    ours, theirs = pair.muxers()
    for _ in range(20):
        sub = ours.open(pair.now)
        assert ours.send(sub, bytes(STREAM_WINDOW)) == STREAM_WINDOW
        pair.pump()
        told = theirs.feed(b"", pair.now)
        (there,) = (event.sub for event in told if isinstance(event, Opened))
        if how == "taken in part":
            theirs.consumed(there, 1000, pair.now)
        if how == "reset by the peer":
            ours.reset(sub)
            pair.pump()
            theirs.feed(b"", pair.now)
            theirs.consumed(there, STREAM_WINDOW, pair.now)  # what came before may be read
        theirs.reset(there)
        if how == "after the reset":
            theirs.consumed(there, STREAM_WINDOW, pair.now)  # counts no more
        pair.pump()
        ours.feed(b"", pair.now)
        core = pair.listener
        assert core._released == core._local_max_data.used
    assert core._local_max_data.used >= 20 * STREAM_WINDOW
    last = ours.open(pair.now)
    ours.send(last, b"still here")
    pair.pump()
    assert [event.data for event in theirs.feed(b"", pair.now) if isinstance(event, Data)] == [b"still here"]


def test_what_we_close_for_is_cut_to_what_a_datagram_holds() -> None:
    pair = Pair()
    pair.listener.close(1, None, "x" * 5_000)
    pair.pump()
    assert pair.dialler.terminated.reason_phrase == "x" * MAX_REASON


def test_hostile_040_a_liar_that_changes_nothing_is_let_in() -> None:
    """Else what it changes in other tests would prove nothing."""
    for dialling in (True, False):
        assert shake_hands(dialling, 0, None, b"", 1).core.done
