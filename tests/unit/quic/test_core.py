"""A QUIC connection of ours: who is let in, how much a peer may send, and what makes it end."""

import pytest
from aioquic.quic.packet import QuicFrameType

from pyp2p.errors import PeerIdMismatch, TlsError
from pyp2p.quic.core import CONNECTION_WINDOW, SEND_BUFFER
from pyp2p.quic.receiver import MAX_FRAGMENTS, STREAM_WINDOW, Receiver
from tests.unit.quic.quic_tools import Pair, bare, client, varint
from tests.unit.security.test_tls_core import REFUSED
from tests.unit.security.tls_tools import ALICE, BOB, certificate

STREAM = QuicFrameType.STREAM_BASE | 2 | 4  # with a length and an offset


def stream(offset, data=b"x", number=0):
    return STREAM, varint(number) + varint(offset) + varint(len(data)) + data


def test_both_sides_prove_themselves() -> None:
    pair = Pair(client(expect=BOB.peer))
    assert pair.dialler.done and pair.listener.done
    assert (pair.dialler.peer_key, pair.listener.peer_key) == (BOB.public_key, ALICE.public_key)
    assert pair.dialler.refusal is pair.listener.refusal is None


@pytest.mark.hostile
def test_hostile_014_somebody_else_is_told_apart() -> None:
    pair = Pair(client(expect=ALICE.peer))
    assert isinstance(pair.dialler.refusal, PeerIdMismatch)
    assert not pair.dialler.done and not pair.listener.done
    assert pair.listener.terminated.error_code == 0x100 + 42


@pytest.mark.hostile
def test_hostile_040_a_dialler_without_a_certificate_is_closed_before_anything_of_it_is_told() -> None:
    dialler = bare()
    dialler.send_stream_data(0, b"let me in")  # leaves with the end of its handshake
    pair = Pair(dialler)
    assert isinstance(pair.listener.refusal, TlsError)
    assert "no certificate" in str(pair.listener.refusal)
    assert not pair.listener.done and not pair.listener.told
    assert pair.dialler._close_event.error_code == 0x100 + 116


@pytest.mark.hostile
@pytest.mark.parametrize(("chain", "why"), REFUSED)
def test_hostile_035_036_037_who_proves_nothing_is_refused(chain, why: str) -> None:
    pair = Pair(bare(chain))
    assert why in str(pair.listener.refusal)
    assert not pair.listener.done and not pair.listener.told
    assert pair.dialler._close_event.error_code == 0x100 + 42


def test_the_library_with_a_good_certificate_is_let_in() -> None:
    pair = Pair(bare([certificate()]))
    assert pair.listener.done and pair.listener.peer_key == ALICE.public_key


@pytest.mark.hostile
def test_hostile_034_another_protocol_in_alpn_is_refused() -> None:
    pair = Pair(bare([certificate()], alpn=["h3"]))
    assert not pair.listener.done
    assert pair.dialler._close_event is not None


# --- credit


@pytest.mark.hostile
def test_hostile_041_the_window_does_not_grow_by_what_nobody_takes() -> None:
    pair = Pair(bare([certificate()]))
    for _ in range(8):
        granted = pair.dialler._streams[0].max_stream_data_remote if 0 in pair.dialler._streams else STREAM_WINDOW
        pair.say(stream(granted - 2))
        pair.pump()
    assert pair.listener.terminated is None
    assert pair.listener._streams[0].max_stream_data_local == STREAM_WINDOW
    assert pair.listener._local_max_data.value == CONNECTION_WINDOW
    receiver = pair.listener._streams[0].receiver
    assert (receiver._held, len(receiver._buffer)) == (1, 0)


@pytest.mark.hostile
def test_hostile_041_who_sends_beyond_its_credit_is_closed() -> None:
    for offset, number in ((STREAM_WINDOW, 0), (STREAM_WINDOW - 1, 4)):
        pair = Pair(bare([certificate()]))
        if number:
            for each in (0, 8, 12):
                pair.say(stream(STREAM_WINDOW - 1, number=each))
        pair.say(stream(offset, number=number))
        assert pair.listener._close_event.error_code == 3  # FLOW_CONTROL_ERROR


def test_credit_follows_what_was_taken() -> None:
    pair = Pair()
    ours, theirs = pair.muxers()
    sub = ours.open(0.0)
    sent = taken = 0
    for _ in range(100):
        sent += ours.send(sub, bytes(100_000))
        pair.pump(0.5)
        for event in theirs.feed(b"", pair.now):
            if hasattr(event, "data"):
                taken += len(event.data)
                theirs.consumed(event.sub, len(event.data), pair.now)
        ours.feed(b"", pair.now)
    pair.pump()
    assert taken > 4 * CONNECTION_WINDOW
    assert sent - taken <= SEND_BUFFER


def test_what_nobody_takes_holds_back_its_sender_and_no_other() -> None:
    pair = Pair()
    ours, theirs = pair.muxers()
    stuck, other = ours.open(0.0), ours.open(0.0)
    assert ours.send(stuck, bytes(2 * SEND_BUFFER)) == SEND_BUFFER
    assert ours.send(stuck, b"x") == 0
    assert not ours.writable(stuck)
    pair.pump()
    heard = sum(len(event.data) for event in theirs.feed(b"", 0.0) if hasattr(event, "data"))
    assert heard == STREAM_WINDOW
    ours.send(other, b"hello")
    pair.pump()
    assert [event.data for event in theirs.feed(b"", 0.0) if hasattr(event, "data")] == [b"hello"]


# --- reassembly


@pytest.mark.hostile
def test_hostile_042_gaps_are_bounded() -> None:
    pair = Pair(bare([certificate()]))
    for start in range(0, 20_000, 100):
        pair.say(*(stream(2 * offset + 1) for offset in range(start, start + 100)))
        if pair.listener._close_event is not None:
            break
    assert pair.listener._close_event.error_code == 1  # INTERNAL_ERROR
    assert len(pair.listener._streams[0].receiver._offsets) <= MAX_FRAGMENTS + 1


@pytest.mark.hostile
def test_hostile_042_gaps_in_the_handshake_are_bounded_too() -> None:
    pair = Pair(bare([certificate()]))
    for start in range(0, 20_000, 100):
        frames = ((QuicFrameType.CRYPTO, varint(2 * n + 1) + varint(1) + b"x") for n in range(start, start + 100))
        pair.say(*frames)
        if pair.listener._close_event is not None:
            break
    assert pair.listener._close_event is not None


def pieces(receiver: Receiver, *frames) -> list:
    class Frame:
        def __init__(self, offset, data, fin=False):
            self.offset, self.data, self.fin = offset, data, fin

    return [receiver.handle_frame(Frame(*each)) for each in frames]


def test_pieces_in_any_order_with_overlaps_are_one_stream() -> None:
    receiver = Receiver(0, STREAM_WINDOW)
    told = pieces(
        receiver, (4, b"efgh"), (2, b"cd"), (4, b"ef"), (3, b"defghij"), (0, b"abc"), (1, b"bcd"), (10, b"", True)
    )
    assert b"".join(event.data for event in told if event is not None) == b"abcdefghij"
    assert told[-1].end_stream
    assert receiver.is_finished and not receiver._pieces and not receiver._held


# --- the rest of what peers may try


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ((0x42, b""), 7),
        ((STREAM, varint(2) + varint(0) + varint(1) + b"x"), 4),
        ((STREAM, varint(1) + varint(0) + varint(1) + b"x"), 5),
        ((STREAM, varint(4 * 256) + varint(0) + varint(1) + b"x"), 4),
        ((QuicFrameType.RETIRE_CONNECTION_ID, varint(1000)), 10),
        ((QuicFrameType.NEW_TOKEN, varint(1) + b"x"), 10),
        ((QuicFrameType.HANDSHAKE_DONE, b""), 10),
    ],
    ids=["unknown", "uni", "ours", "too many", "retire", "token", "done"],
)
def test_hostile_043_what_breaks_a_rule_ends_the_connection(frame, code: int) -> None:
    pair = Pair(bare([certificate()]))
    pair.say(frame)
    assert pair.listener._close_event is not None
    assert pair.listener._close_event.error_code == code


@pytest.mark.hostile
def test_hostile_043_who_acknowledges_what_was_never_sent_is_closed() -> None:
    pair = Pair(bare([certificate()]))
    pair.say((QuicFrameType.ACK, varint(pair.listener._packet_number - 1) + varint(0) + varint(0) + varint(0)))
    assert pair.listener._close_event is None
    pair.say((QuicFrameType.ACK, varint(pair.listener._packet_number) + varint(0) + varint(0) + varint(0)))
    assert pair.listener._close_event.error_code == 10  # PROTOCOL_VIOLATION


@pytest.mark.hostile
@pytest.mark.parametrize("flood", ["path challenges", "connection ids", "resets"])
def test_hostile_043_044_floods_leave_little(flood: str) -> None:
    pair = Pair(bare([certificate()]))
    for number in range(2_000):
        if flood == "path challenges":
            pair.say((QuicFrameType.PATH_CHALLENGE, number.to_bytes(8, "big")))
        elif flood == "connection ids":
            raw = varint(number + 8) + varint(number + 8) + b"\x08" + number.to_bytes(8, "big") + bytes(16)
            pair.say((QuicFrameType.NEW_CONNECTION_ID, raw))
        else:
            pair.say(
                stream(0, number=4 * (number % 200)),
                (QuicFrameType.RESET_STREAM, varint(4 * (number % 200)) + varint(0) + varint(1)),
                (QuicFrameType.STOP_SENDING, varint(4 * (number % 200)) + varint(0)),
            )
        if pair.listener._close_event is not None:
            break
    listener = pair.listener
    assert sum(len(path.remote_challenges) for path in listener._network_paths) <= 32
    assert len(listener._retire_connection_ids) <= 100
    assert len(listener._peer_cid_available) <= 8
    assert len(listener._streams) <= 256


@pytest.mark.hostile
def test_hostile_044_a_peer_that_moves_about_is_known_at_few_places() -> None:
    pair = Pair(bare([certificate()]))
    for port in range(100):
        pair.dialler.send_ping(port)
        for data, _ in pair.dialler.datagrams_to_send(pair.now):
            pair.listener.receive_datagram(data, ("10.0.0.9", 1000 + port), pair.now)
        pair.listener.datagrams_to_send(pair.now)
    assert len(pair.listener._network_paths) <= 8


def test_the_end_carries_its_code_and_word_and_comes_after_what_was_sent() -> None:
    pair = Pair()
    ours, theirs = pair.muxers()
    sub = ours.open(0.0)
    ours.send(sub, bytes(50_000))
    ours.fin(sub)
    assert pair.dialler.unacknowledged
    pair.pump()
    assert not pair.dialler.unacknowledged
    ours.goaway(1, "violation")
    pair.dialler.shut()
    pair.pump()
    assert (pair.listener.terminated.error_code, pair.listener.terminated.reason_phrase) == (1, "violation")
    assert sum(len(event.data) for event in theirs.feed(b"", 0.0) if hasattr(event, "data")) == 50_000
