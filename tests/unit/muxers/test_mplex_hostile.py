"""Hostile mplex peers: only what they attack ends, everything that they make us keep is bounded."""

import pytest

from pyp2p.errors import MuxerError
from pyp2p.io import varint
from pyp2p.muxers.base import MuxerLimits, Opened
from tests.unit.muxers.support import mplex, plain, steps

pytestmark = pytest.mark.hostile

NEW, MESSAGE_RECEIVER, MESSAGE, CLOSE, RESET = 0, 1, 2, 4, 6


def frame(flag: int, sid: int, body: bytes = b"", length: int | None = None) -> bytes:
    return varint.encode(sid << 3 | flag) + varint.encode(len(body) if length is None else length) + body


def opened(rig, sid=0):
    event = rig.feed(frame(NEW, sid))[0]
    assert isinstance(event, Opened)
    rig.session.accept(event.sub)
    return event.sub


def flood(rig, sid, size, now=0.0):
    """Send `size` bytes to a stream in messages of 64 KiB."""
    return [event for _ in range(size >> 16) for event in rig.feed(frame(MESSAGE, sid, bytes(65536)), now)]


def test_hostile_022_new_stream_flood_is_refused_and_answered_with_no_more_than_came():
    rig = mplex(limits=MuxerLimits(max_inbound_streams=256))
    flood = b"".join(frame(NEW, sid) for sid in range(10_000))
    rig.feed(flood)
    assert len(rig.session._streams) == 256
    assert rig.session.refused == 10_000 - 256
    assert rig.session.pending <= len(flood)  # the connection reads no more when nobody takes them


def test_honest_opens_beyond_any_ack_backlog_are_fine():
    rig = mplex()
    events = rig.feed(b"".join(frame(NEW, sid) + frame(MESSAGE, sid, b"x") for sid in range(500)))
    assert len(events) == 1000
    assert rig.session.refused == 0


def test_hostile_023_rapid_reset():
    rig = mplex(limits=MuxerLimits(open_rate=256.0, open_burst=1000))
    for sid in range(1000):
        rig.feed(frame(NEW, sid) + frame(MESSAGE, sid, b"x") + frame(RESET, sid), sid * 0.0001)
        rig.output()
    with pytest.raises(MuxerError):
        rig.feed(b"".join(frame(NEW, sid) + frame(RESET, sid) for sid in range(1000, 1050)), 0.1)


def test_hostile_028_a_full_buffer_costs_its_stream_and_no_other():
    rig = mplex(limits=MuxerLimits(stream_buffer=1 << 20))
    slow, fine = opened(rig, 0), opened(rig, 1)
    assert len(flood(rig, 0, 1 << 20)) == 16
    assert plain(rig.feed(frame(MESSAGE, 0, b"x") + frame(MESSAGE, 1, b"y"))) == [
        ("reset", (0, True)),
        ("data", (1, True), b"y"),
    ]
    assert (slow.reset_by_peer, rig.session.overruns) == (False, 1)
    assert rig.output() == frame(5, 0)
    assert rig.feed(frame(MESSAGE, 0, b"late")) == []
    rig.session.consumed(fine, 1, 0.0)
    assert rig.memory.used == 0


def test_hostile_028_a_reader_that_stays_behind_loses_the_stream():
    rig = mplex(limits=MuxerLimits(stream_buffer=1 << 20, stall_seconds=5.0))
    slow, fine = opened(rig, 0), opened(rig, 1)
    flood(rig, 0, 600 << 10, now=10.0)
    flood(rig, 1, 600 << 10, now=10.0)
    assert rig.session.congested
    assert rig.session.tick(14.5) == []
    rig.session.consumed(fine, 200 << 10, 14.5)
    flood(rig, 1, 192 << 10, now=14.5)
    assert plain(rig.session.tick(15.0)) == [("reset", (0, True))]
    assert rig.output() == frame(5, 0)
    assert rig.session.tick(15.1) == []
    assert plain(rig.session.tick(19.5)) == [("reset", (1, True))]
    assert slow.reset_code
    assert rig.memory.used == 0
    assert not rig.session.congested


def test_hostile_028_a_reader_that_catches_up_keeps_the_stream():
    rig = mplex(limits=MuxerLimits(stream_buffer=1 << 20, stall_seconds=5.0))
    sub = opened(rig, 0)
    for now in range(0, 100, 4):
        flood(rig, 0, 640 << 10, now=float(now))
        rig.session.consumed(sub, 640 << 10, float(now))
        assert rig.session.tick(now + 3.9) == []


def test_hostile_028_memory_is_bounded_over_all_streams():
    rig = mplex(memory=1 << 20)
    for sid in range(8):
        opened(rig, sid)
        flood(rig, sid, 512 << 10)
    assert rig.memory.used <= 1 << 20
    assert rig.session.overruns == 6


def test_hostile_029_streams_and_names_are_bounded():
    rig = mplex(limits=MuxerLimits(max_inbound_streams=300))
    replies = b""
    for sid in range(1000):
        for event in rig.feed(frame(NEW, sid)):
            rig.session.accept(event.sub)
        replies += rig.output()
    assert len(rig.session._streams) == 300
    assert replies == b"".join(frame(5, sid) for sid in range(300, 1000))
    assert rig.session.refused == 700
    assert rig.feed(frame(MESSAGE, 999, b"x")) == []
    assert rig.session.strays == 0
    for size, good in ((1024, True), (1025, False), (1 << 20, False)):
        rig = mplex(limits=MuxerLimits(max_name=1024))
        if good:
            assert plain(rig.feed(frame(NEW, 5, b"n" * size))) == [("opened", (5, True))]
        else:
            with pytest.raises(MuxerError):
                rig.feed(frame(NEW, 5, length=size))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(frame(MESSAGE, 0, length=(1 << 20) + 1), id="1 MiB + 1"),
        pytest.param(frame(MESSAGE, 77, length=(1 << 20) + 1), id="1 MiB + 1 for nobody"),
        pytest.param(frame(MESSAGE, 0, length=1 << 62), id="length 2^62"),
        pytest.param(b"\x02" + b"\xff" * 10, id="length of 10 bytes"),
        pytest.param(b"\xff" * 10, id="header of 10 bytes"),
        pytest.param(varint.encode((1 << 60) << 3), id="id 2^60"),
        pytest.param(b"\x82\x00\x00", id="header not minimal"),
        pytest.param(frame(7, 0), id="flag 7"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_hostile_030_malformed_frames_end_the_session(bad, step):
    rig = mplex()
    opened(rig, 0)
    with pytest.raises(MuxerError):
        rig.feed_each(steps(bad, step))
    assert rig.memory.used == 0


def test_hostile_030_one_mebibyte_is_allowed():
    rig = mplex()
    opened(rig, 0)
    assert plain(rig.feed(frame(MESSAGE, 0, bytes(1 << 20)))) == [("data", (0, True), bytes(1 << 20))]


def test_hostile_030_messages_on_unknown_ids_are_ignored_and_bounded():
    rig = mplex(limits=MuxerLimits(max_stray_frames=1000))
    for sid in range(500):
        assert rig.feed(frame(MESSAGE, sid, b"x") + frame(MESSAGE_RECEIVER, sid, b"y")) == []
    assert rig.session.strays == 1000
    with pytest.raises(MuxerError):
        rig.feed(frame(CLOSE, 0))
    assert rig.session.pending == 0


def test_hostile_030_empty_messages_are_nothing():
    rig = mplex()
    opened(rig, 0)
    assert rig.feed(frame(MESSAGE, 0) * 100_000) == []
    assert rig.memory.used == 0
    assert rig.session.send(rig.session._streams[1], b"") == 0
    assert rig.output() == b""
    rig.feed(frame(CLOSE, 0))
    assert rig.feed(frame(MESSAGE, 0) + frame(CLOSE, 0)) == []


def test_hostile_030_close_and_reset_with_a_body_lose_the_body_only():
    rig = mplex()
    opened(rig, 0)
    assert plain(rig.feed(frame(CLOSE, 0, b"junk") + frame(RESET, 0, b"junk") + frame(NEW, 1))) == [
        ("eof", (0, True)),
        ("reset", (0, True)),
        ("opened", (1, True)),
    ]


def test_hostile_031_the_same_id_of_both_sides_is_two_streams():
    rig = mplex()
    for _ in range(5):
        rig.session.open(0.0)
    ours, theirs = rig.session.open(0.0), opened(rig, 5)
    assert ours.id == theirs.id == 5
    rig.session.send(ours, b"a")
    rig.session.send(theirs, b"b")
    assert rig.output() == frame(NEW, 5) + frame(MESSAGE, 5, b"a") + frame(MESSAGE_RECEIVER, 5, b"b")
    events = rig.feed(frame(MESSAGE, 5, b"to theirs") + frame(MESSAGE_RECEIVER, 5, b"to ours") + frame(RESET, 5))
    assert plain(events) == [
        ("data", (5, True), b"to theirs"),
        ("data", (5, False), b"to ours"),
        ("reset", (5, True)),
    ]
    assert rig.session.send(ours, b"alive") == 5


def test_hostile_032_streams_with_a_length_prefix_only():
    rig = mplex()
    for sid in range(3000):
        for event in rig.feed(frame(NEW, sid) + frame(MESSAGE, sid, b"\x80\x80")):
            if isinstance(event, Opened):
                rig.session.accept(event.sub)
        rig.output()
    assert len(rig.session._streams) == 1000
    assert rig.memory.used <= 1000 * 2 + 4 * 16 * 1024
