"""Mplex sessions: the published frames, what is put on the wire, and that every state is left again."""

import pytest

from pyp2p.errors import LocalProtocolError, MuxerError
from pyp2p.muxers.base import Data, Opened
from tests.unit.muxers.support import Rig, mplex, plain, pump, steps
from tests.vectors import load

VECTORS = load("mplex")
FRAMES = {row["name"]: bytes.fromhex(row["frame"]) for row in VECTORS["frames"]}
INVALID = {row["name"]: bytes.fromhex(row["bytes"]) for row in VECTORS["invalid"]}


def ways(data: bytes) -> list[list[bytes]]:
    return [[data], steps(data, 1)]


def empty(*rigs: Rig) -> None:
    for rig in rigs:
        session = rig.session
        assert not session._streams
        assert not session._slow
        assert (session._inbound, rig.memory.used) == (0, 0)


def expected(row: dict) -> list[tuple]:
    flag, sid = row["flag"], int(row["stream_id"])
    stream = (sid, not flag.endswith("Receiver"))
    if flag == "NewStream":
        return [("opened", stream)]
    if flag.startswith("Message"):
        return [("data", stream, bytes.fromhex(row["data"]))] if row["data"] else []
    return [("eof" if flag.startswith("Close") else "reset", stream)]


@pytest.mark.parametrize("row", VECTORS["frames"], ids=lambda row: row["name"])
@pytest.mark.parametrize("more", [False, True], ids=["alone", "more behind"])
def test_frame(row, more):
    sid = int(row["stream_id"])
    behind = b"\xa0\x06\x00\x80" if more else b""  # NewStream 100 and the start of a header
    tail = [("opened", (100, True))] if more else []
    for way in ways(bytes.fromhex(row["frame"]) + behind):
        rig = mplex()
        if row["flag"].endswith("Receiver"):
            while rig.session.open(0.0).id < sid:
                pass
        elif row["flag"] != "NewStream":
            rig.feed(_varint(sid << 3) + b"\0")
        events = rig.feed_each(way)
        assert plain(events) == expected(row) + tail


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize(
    "name", ["flag_7", "over_1_mib_length", "header_10_bytes", "duplicate_open", "data_after_close"]
)
def test_violation(name):
    for way in ways(INVALID[name]):
        rig = mplex()
        if name in {"over_1_mib_length", "data_after_close"}:
            rig.feed(b"\0\0")
        with pytest.raises(MuxerError):
            rig.feed_each(way)
        with pytest.raises(MuxerError):
            rig.feed(b"")


def test_data_for_an_unknown_stream_is_ignored():
    for way in ways(INVALID["data_for_unknown_stream"] + FRAMES["open"]):
        rig = mplex()
        assert plain(rig.feed_each(way)) == [("opened", (0, True))]
        assert rig.session.strays == 1
    assert set(INVALID) == {
        *("flag_7", "over_1_mib_length", "header_10_bytes", "duplicate_open", "data_after_close"),
        *("data_for_unknown_stream", "truncated"),
    }


def test_a_message_is_passed_on_piecewise():
    rig = mplex()
    rig.feed(FRAMES["open"])
    assert plain(rig.feed(INVALID["truncated"])) == [("data", (0, True), b"he")]
    assert plain(rig.feed(b"llo\x02\x01")) == [("data", (0, True), b"llo")]
    chunk = b"!"
    [event] = rig.feed(chunk)
    assert event.data is chunk
    assert plain(rig.feed(b"\x02\x80\x80")) == []
    assert plain(rig.feed(b"\x04ab")) == [("data", (0, True), b"ab")]


def test_a_name_is_read_over():
    for way in ways(FRAMES["open_named"] + b"\x8a\x01\x01x"):
        rig = mplex()
        events = rig.feed_each(way)
        assert plain(events) == [("opened", (17, True)), ("data", (17, True), b"x")]


def test_what_an_opener_sends():
    rig = mplex()
    sub, other = rig.session.open(0.0), rig.session.open(0.0)
    assert (sub.id, other.id, rig.output()) == (0, 1, b"")
    assert rig.session.writable(sub)
    rig.session.send(sub, b"hello")
    assert rig.output() == b"\x00\x00" + FRAMES["initiator_data"]
    rig.session.fin(sub)
    rig.session.fin(sub)
    assert rig.output() == FRAMES["initiator_close"]
    rig.session.fin(other)
    assert rig.output() == b"\x08\x00\x0c\x00"
    rig.session.reset(sub)
    rig.session.reset(sub)
    assert rig.output() == FRAMES["initiator_reset"]


def test_what_an_answerer_sends():
    rig = mplex()
    sub = rig.feed(FRAMES["open"])[0].sub
    rig.session.accept(sub)
    rig.session.accept(sub)
    assert rig.output() == b""
    rig.session.send(sub, b"world")
    rig.session.fin(sub)
    rig.session.reset(sub)
    assert rig.output() == FRAMES["receiver_data"] + FRAMES["receiver_close"] + FRAMES["receiver_reset"]
    with pytest.raises(LocalProtocolError):
        rig.session.send(sub, b"x")
    assert not rig.session.writable(sub)
    empty(rig)


def test_reset_of_a_stream_the_peer_never_heard_of_says_nothing():
    rig = mplex()
    rig.session.reset(rig.session.open(0.0))
    assert rig.output() == b""
    empty(rig)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_send_takes_a_bounded_part_in_messages_that_fit_a_noise_message(kind):
    one, two = mplex(), mplex()
    sub = one.session.open(0.0)
    data = bytes(range(256)) * 2000
    taken = one.session.send(sub, kind(data))
    assert 0 < taken < len(data)
    opened, *rest = two.feed(one.output())
    assert isinstance(opened, Opened)
    assert b"".join(event.data for event in rest) == data[:taken]
    assert max(len(event.data) for event in rest) < 65519
    assert one.session.send(sub, kind(data)[taken:]) == len(data) - taken
    assert one.session.send(sub, b"") == 0


@pytest.mark.parametrize("first", ["opener", "answerer", "both"])
def test_half_close_either_way_ends_in_nothing(first):
    a, b = mplex(), mplex()
    here = a.session.open(0.0)
    a.session.send(here, b"question")
    there = pump(a, b)[1][0].sub
    b.session.consumed(there, 8, 0.0)
    order = {"opener": [(a, here), (b, there)], "answerer": [(b, there), (a, here)]}
    for rig, sub in order.get(first, []):
        rig.session.send(sub, b"last")
        rig.session.fin(sub)
        seen = pump(a, b)[rig is a]
        assert [type(event).__name__ for event in seen] == ["Data", "Eof"]
        other = b if rig is a else a
        assert not other.session.consumed(seen[0].sub, 4, 0.0)
    if first == "both":
        a.session.fin(here)
        b.session.fin(there)
        pump(a, b)
    empty(a, b)
    late = b"\x02\x04late\x01\x04late\x04\x00\x06\x00"
    assert a.feed(late) == b.feed(late) == []
    assert a.output() == b.output() == b""


def test_a_reset_of_the_peer_loses_no_byte_before_it():
    rig = mplex()
    events = rig.feed(FRAMES["open"] + FRAMES["initiator_data"] + FRAMES["initiator_reset"])
    assert plain(events) == [("opened", (0, True)), ("data", (0, True), b"hello"), ("reset", (0, True))]
    sub = events[0].sub
    assert (sub.reset_by_peer, sub.reset_code) == (True, 0)
    assert rig.memory.used >= 5
    rig.session.consumed(sub, 5, 0.0)
    empty(rig)


def test_messages_that_cross_our_reset_are_dropped_with_their_bodies():
    rig = mplex()
    sub = rig.feed(FRAMES["open"] + INVALID["truncated"])[0].sub
    rig.session.reset(sub)
    assert plain(rig.feed(b"llo" + FRAMES["initiator_data"] + FRAMES["open_named"])) == [("opened", (17, True))]
    assert (rig.memory.used, rig.session.strays) == (0, 0)


def test_no_ping_and_a_silent_goaway():
    rig = mplex()
    assert not rig.session.pings
    with pytest.raises(LocalProtocolError):
        rig.session.ping(0.0)
    rig.feed(FRAMES["open"])
    rig.session.goaway(1)
    assert rig.output() == b""
    assert not rig.session.can_open
    with pytest.raises(LocalProtocolError):
        rig.session.open(0.0)
    assert rig.feed(FRAMES["open_named"]) == []
    assert rig.output() == b"\x8d\x01\x00"
    assert isinstance(rig.feed(FRAMES["initiator_data"])[0], Data)


def test_taking_more_than_there_is_is_a_bug_of_ours():
    rig = mplex()
    sub = rig.feed(FRAMES["open"] + FRAMES["initiator_data"])[0].sub
    with pytest.raises(LocalProtocolError):
        rig.session.consumed(sub, 6, 0.0)


def test_release_all_returns_everything():
    rig = mplex()
    sub = rig.feed(FRAMES["open"] + FRAMES["initiator_data"])[0].sub
    assert rig.memory.used
    rig.session.release_all()
    assert rig.memory.used == 0
    rig.session.consumed(sub, 5, 0.0)
    rig.session.reset(sub)
    assert rig.memory.used == 0


def test_ids_may_be_used_up():
    rig = mplex()
    rig.session._next_id = (1 << 60) - 1
    sub = rig.session.open(0.0)
    rig.session.send(sub, b"x")
    assert rig.output().startswith(b"\xf8" + b"\xff" * 7 + b"\x7f\x00")
    assert not rig.session.can_open
