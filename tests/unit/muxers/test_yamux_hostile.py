"""Hostile yamux peers: only what they attack ends, everything that they make us keep is bounded."""

import pytest

from pyp2p.errors import MuxerError
from pyp2p.muxers.base import MuxerLimits, Opened, Reset
from tests.unit.muxers.support import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    WINDOW,
    WINDOW_UPDATE,
    frame,
    frames,
    plain,
    steps,
    yamux,
)

pytestmark = pytest.mark.hostile


def opened(rig, sid=1):
    event = rig.feed(frame(WINDOW_UPDATE, SYN, sid))[0]
    assert isinstance(event, Opened)
    rig.session.accept(event.sub)
    return event.sub


@pytest.mark.parametrize("flags", [SYN, SYN | FIN, SYN | RST])
def test_hostile_018_first_frame_over_the_window_is_refused_at_its_header(flags):
    rig = yamux()
    with pytest.raises(MuxerError) as caught:
        rig.feed(frame(DATA, flags, 1, length=WINDOW + 1))
    assert caught.value.goaway_code == 1
    assert not rig.session._streams, "registered before it was checked"
    assert rig.memory.used == 0


@pytest.mark.parametrize("body", [b"", bytes(WINDOW + 1)], ids=["header only", "whole"])
def test_hostile_018_later_frame_over_the_window_is_refused_at_its_header(body):
    rig = yamux()
    opened(rig)
    with pytest.raises(MuxerError):
        rig.feed(frame(DATA, 0, 1, length=WINDOW + 1, body=body))
    assert rig.memory.used == 0


@pytest.mark.parametrize("size", [WINDOW // 2, 64 * 1024, 1000])
def test_hostile_018_overrun_spread_over_frames(size):
    rig = yamux()
    opened(rig)
    fits = WINDOW // size
    assert len(rig.feed_each([frame(DATA, 0, 1, body=bytes(size))] * fits)) == fits
    with pytest.raises(MuxerError):
        rig.feed(frame(DATA, 0, 1, length=size))
    assert rig.memory.used <= WINDOW


def test_hostile_018_bytes_that_were_read_but_not_credited_count():
    rig = yamux()
    sub = opened(rig)
    rig.feed(frame(DATA, 0, 1, body=bytes(WINDOW)))
    rig.session.consumed(sub, WINDOW // 2 - 1, 0.0)
    with pytest.raises(MuxerError):
        rig.feed(frame(DATA, 0, 1, length=1))


def test_hostile_019_credit_past_32_bits():
    rig = yamux()
    sub = opened(rig)
    with pytest.raises(MuxerError):
        rig.feed_each([frame(WINDOW_UPDATE, 0, 1, 0xFFFFFFFF)] * 2)
    assert sub.send_window <= 0xFFFFFFFF
    rig = yamux()
    sub = opened(rig)
    rig.feed(frame(WINDOW_UPDATE, 0, 1, 0xFFFFFFFF - WINDOW))
    assert sub.send_window == 0xFFFFFFFF
    with pytest.raises(MuxerError):
        rig.feed(frame(WINDOW_UPDATE, 0, 1, 1))


def test_hostile_020_syn_with_credit_past_32_bits():
    rig = yamux()
    with pytest.raises(MuxerError):
        rig.feed(frame(WINDOW_UPDATE, SYN, 1, 0xFFFFFFFF - WINDOW + 1))
    assert not rig.session._streams
    assert plain(yamux().feed(frame(WINDOW_UPDATE, SYN, 1, 0xFFFFFFFF - WINDOW))) == [("opened", (1, True))]


def test_hostile_021_four_gigabytes_announced():
    for rig, prepare in ((yamux(), True), (yamux(), False)):
        if prepare:
            opened(rig)
        with pytest.raises(MuxerError):
            rig.feed(frame(DATA, 0, 1, length=0xFFFFFFFF))


def test_hostile_021_a_cut_header_holds_less_than_a_header():
    rig = yamux()
    for byte in frame(WINDOW_UPDATE, SYN, 1)[:7]:
        assert rig.feed(bytes([byte])) == []
    assert len(rig.session._tail) == 7
    assert rig.memory.used == 0


def test_hostile_022_syn_flood_is_refused_and_answered_with_no_more_than_came():
    rig = yamux(limits=MuxerLimits(max_unaccepted=256))
    flood = b"".join(frame(WINDOW_UPDATE, SYN, sid) for sid in range(1, 20_001, 2))
    rig.feed_each(steps(flood, 120))
    assert len(rig.session._streams) == 256
    assert rig.session.refused == 10_000 - 256
    assert rig.session.pending == 12 * rig.session.refused  # the connection reads no more when nobody takes them


def test_hostile_022_syn_flood_by_a_peer_that_reads_is_refused_stream_by_stream():
    rig = yamux()
    refused = []
    for sid in range(1, 4001, 2):
        events = rig.feed(frame(DATA, SYN, sid, body=b"x") + frame(DATA, FIN, sid, body=b"y"))
        refused += frames(rig.output())
        assert bool(events) == (sid < 512)
    assert {row[:2] for row in refused} == {(WINDOW_UPDATE, RST)}
    assert len(refused) == rig.session.refused == 2000 - 256
    assert all(row[3] for row in refused), "the refusal carries a code"
    assert rig.session.strays == 0


def test_hostile_022_accepted_streams_are_bounded_too():
    rig = yamux(limits=MuxerLimits(max_inbound_streams=300))
    for sid in range(1, 801, 2):
        for event in rig.feed(frame(WINDOW_UPDATE, SYN, sid)):
            rig.session.accept(event.sub)
        rig.output()
    assert len(rig.session._streams) == 300
    rig.session.reset(rig.session._streams[1])
    assert rig.feed(frame(WINDOW_UPDATE, SYN, 801))


def rapid_reset(rig, count, spacing, body=b""):
    """How many streams were opened and reset before the session was ended (or `count`)."""
    sid = 1
    for index in range(count):
        syn = frame(DATA, SYN, sid, body=body) if body else frame(WINDOW_UPDATE, SYN, sid)
        try:
            rig.feed(syn + frame(WINDOW_UPDATE, RST, sid), index * spacing)
        except MuxerError:
            return index
        rig.output()
        sid += 2
    return count


@pytest.mark.parametrize("body", [b"", b"\x13/multistream/1.0.0\n"], ids=["empty", "data that nobody took"])
def test_hostile_023_rapid_reset(body):
    rig = yamux(limits=MuxerLimits(open_rate=256.0, open_burst=1000))
    assert rapid_reset(rig, 5000, 0.0001, body) in range(1000, 1050)
    assert len(rig.session._streams) <= 1
    calm = yamux(limits=MuxerLimits(open_rate=256.0, open_burst=10))
    assert rapid_reset(calm, 3000, 1 / 250, body) == 3000


def test_hostile_023_honest_opens_and_cancelled_requests_are_no_rapid_reset():
    rig = yamux(limits=MuxerLimits(open_rate=0.0, open_burst=0))
    for sid in range(1, 4001, 2):
        opening = frame(DATA, SYN, sid, body=b"request")
        sub = rig.feed(opening)[0].sub
        rig.session.accept(sub)
        if sid % 4 == 1:
            rig.session.consumed(sub, 7, 0.0)
            sub.used = True
            rig.feed(frame(WINDOW_UPDATE, RST, sid))
        else:
            rig.session.fin(sub)
            rig.feed(frame(DATA, FIN, sid))
        rig.session.reset(sub)
        rig.output()
    assert not rig.session._streams
    assert rig.memory.used == 0


def test_hostile_024_many_streams_that_stall_after_their_first_bytes_stay_within_memory():
    rig = yamux(memory=100_000, limits=MuxerLimits(max_unaccepted=10_000))
    body = b"\x13/multistream/1.0.0\n\x0b/ipfs"
    for sid in range(1, 2001, 2):
        rig.feed(frame(DATA, SYN, sid, body=body))
    assert len(rig.session._streams) == 1000
    assert 1000 * len(body) <= rig.memory.used <= 100_000


def test_hostile_024_data_that_cannot_be_paid_for_costs_its_stream():
    rig = yamux(memory=100_000)
    good, bad = opened(rig, 1), opened(rig, 3)
    rig.feed(frame(DATA, 0, 1, body=b"x"))
    events = rig.feed(frame(DATA, 0, 3, body=bytes(90_000)) + frame(DATA, 0, 3, body=bytes(90_000)))
    assert [type(event).__name__ for event in events] == ["Data", "Reset"]
    assert (bad.reset_code != 0, bad.reset_by_peer, rig.session.overruns) == (True, False, 1)
    assert [row[:3] for row in frames(rig.output())] == [(WINDOW_UPDATE, RST, 3)]
    assert rig.memory.used < 20_000
    assert plain(rig.feed(frame(DATA, 0, 1, body=b"y"))) == [("data", (1, True), b"y")]
    rig.session.consumed(good, 2, 0.0)
    assert rig.memory.used == 0


def test_hostile_024_a_frame_that_cannot_be_paid_for_midway_costs_its_stream():
    rig = yamux(memory=50_000)
    opened(rig)
    data = frame(DATA, FIN, 1, body=bytes(60_000)) + frame(WINDOW_UPDATE, SYN, 3)
    events = rig.feed_each(steps(data, 20_000))
    assert [type(event).__name__ for event in events] == ["Data", "Data", "Reset", "Opened"]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"\x01" + frame(WINDOW_UPDATE, 0, 1)[1:], id="version 1"),
        pytest.param(b"\xff" + frame(DATA, 0, 1)[1:], id="version 255"),
        *(pytest.param(frame(kind, 0, 0), id=f"type {kind}") for kind in (4, 5, 128, 255)),
        pytest.param(frame(DATA, 0, 0), id="data on 0"),
        pytest.param(frame(DATA, SYN, 0, body=b"x"), id="syn on 0"),
        pytest.param(frame(WINDOW_UPDATE, 0, 0, 5), id="window on 0"),
        pytest.param(frame(WINDOW_UPDATE, SYN, 2), id="syn of our parity"),
        pytest.param(frame(DATA, SYN, 2, body=b"x"), id="data syn of our parity"),
        pytest.param(frame(WINDOW_UPDATE, SYN, 1), id="syn for an open stream"),
        pytest.param(frame(DATA, SYN, 1), id="data syn for an open stream"),
        pytest.param(frame(DATA, 0, 3, body=b"x"), id="data after fin"),
        pytest.param(frame(DATA, FIN, 3, body=b"x"), id="data with a second fin"),
        pytest.param(frame(PING, SYN, 1), id="ping on a stream"),
        pytest.param(frame(GO_AWAY, 0, 1), id="goaway on a stream"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_hostile_025_a_ends_the_session(bad, step):
    rig = yamux()
    opened(rig, 1)
    opened(rig, 3)
    rig.feed(frame(DATA, FIN, 3))
    with pytest.raises(MuxerError):
        rig.feed_each(steps(bad, step))


@pytest.mark.parametrize(
    ("late", "strays"),
    [
        pytest.param(frame(WINDOW_UPDATE, 0xFFF0, 1) + frame(DATA, 0x8000, 1), 0, id="unknown flags"),
        pytest.param(frame(WINDOW_UPDATE, ACK, 1) * 2 + frame(DATA, ACK, 1), 0, id="ack that nobody asked"),
        pytest.param(frame(DATA, FIN, 3) + frame(WINDOW_UPDATE, FIN, 3), 0, id="fin twice"),
        pytest.param(frame(DATA, 0, 3), 0, id="empty data after fin"),
        pytest.param(frame(WINDOW_UPDATE, 0, 3, 9), 0, id="credit after fin"),
        pytest.param(frame(WINDOW_UPDATE, RST, 5) * 2, 0, id="rst twice"),
        pytest.param(frame(DATA, 0, 5, body=b"late"), 0, id="data for a reset stream"),
        pytest.param(frame(DATA, FIN, 7, body=b"late"), 0, id="data for a stream we reset"),
        pytest.param(frame(WINDOW_UPDATE, FIN | ACK, 9, 7), 0, id="frames for a stream closed both ways"),
        pytest.param(frame(DATA, 0, 99, body=b"who") + frame(WINDOW_UPDATE, 0, 99, 7), 2, id="an id never opened"),
        pytest.param(frame(DATA, 0, 2, body=b"who") + frame(WINDOW_UPDATE, RST, 2), 2, id="an id of ours never opened"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_hostile_025_b_is_tolerated(late, strays, step):
    rig = yamux()
    bystander = opened(rig, 1)
    opened(rig, 3)
    closed = [opened(rig, sid) for sid in (5, 7, 9)]
    rig.feed(frame(DATA, FIN, 3) + frame(WINDOW_UPDATE, RST, 5) + frame(DATA, FIN, 9))
    rig.session.reset(closed[1])
    rig.session.fin(closed[2])
    rig.output()
    data = late + frame(DATA, 0, 1, body=b"still here")
    events = rig.feed_each(steps(data, step))
    assert plain(events) == [("data", (1, True), b"still here")]
    assert rig.session.strays == strays
    assert all(row[1] == RST for row in frames(rig.output()))
    assert bystander.reset_code is None


def test_hostile_025_b_frames_for_streams_that_never_were_are_bounded():
    rig = yamux(limits=MuxerLimits(max_stray_frames=1000))
    for _ in range(1000):
        assert rig.feed(frame(DATA, 0, 99, body=b"x")) == []
    with pytest.raises(MuxerError):
        rig.feed(frame(WINDOW_UPDATE, 0, 2, 1))
    assert rig.session.pending == 0


def test_hostile_026_ping_flood_by_a_peer_that_does_not_read():
    rig = yamux(limits=MuxerLimits(max_queued_pongs=32))
    with pytest.raises(MuxerError):
        rig.feed_each(frame(PING, SYN, 0, value) for value in range(100))
    assert rig.session.pending == 32 * 12


def test_hostile_026_pings_to_a_peer_that_reads_are_all_answered():
    rig = yamux()
    for value in range(1, 1000):
        rig.feed(frame(PING, SYN, 0, value))
        assert frames(rig.output()) == [(PING, ACK, 0, value, b"")]


def test_hostile_026_unasked_pong_and_strange_goaway():
    rig = yamux()
    assert rig.feed(frame(PING, ACK, 0, 5) + frame(PING, ACK, 0, 0)) == []
    assert plain(rig.feed(frame(GO_AWAY, 0, 0, 77))) == [("goaway", 77)]
    assert plain(rig.feed(frame(WINDOW_UPDATE, SYN, 1))) == [("opened", (1, True))]
    assert rig.session.rtt is None


def test_hostile_027_what_we_queue_for_a_peer_that_does_not_read_is_bounded():
    rig = yamux()
    subs = [opened(rig, sid) for sid in range(1, 201, 2)]
    body = bytes(16 * 1024 * 1024)
    taken = [rig.session.send(sub, body) for sub in subs]
    assert taken == [WINDOW] * 100
    assert [rig.session.send(sub, body) for sub in subs] == [0] * 100
    assert rig.session.pending <= 100 * (WINDOW + 5 * 12)
    # Taking everything that it sends us makes no more than one credit frame per half window.
    before = rig.session.pending
    for sub in subs:
        rig.feed(frame(DATA, 0, sub.id, body=bytes(WINDOW)))
        for _ in range(256):
            rig.session.consumed(sub, WINDOW // 256, 1.0)
    assert rig.session.pending - before <= 100 * 2 * 12


def test_hostile_028_a_stream_nobody_reads_takes_nothing_from_the_others():
    rig = yamux()
    stuck, others = opened(rig, 1), [opened(rig, sid) for sid in range(3, 103, 2)]
    rig.feed(frame(DATA, 0, 1, body=bytes(WINDOW)))
    for second in range(1, 21):
        for sub in others:
            assert plain(rig.feed(frame(DATA, 0, sub.id, body=bytes(WINDOW // 2)))) != []
            assert rig.session.consumed(sub, WINDOW // 2, float(second))
            assert rig.session.send(sub, b"echo") == 4
        rig.output()
    assert stuck.reset_code is None
    assert rig.memory.used <= WINDOW + 5 * 16 * 1024


def test_hostile_032_streams_with_a_length_prefix_only():
    rig = yamux()
    count = 0
    for sid in range(1, 3001, 2):
        for event in rig.feed(frame(DATA, SYN, sid, body=b"\x80\x80")):
            if isinstance(event, Opened):
                rig.session.accept(event.sub)
            count += isinstance(event, Opened)
            assert not isinstance(event, Reset)
        rig.output()
    assert count == len(rig.session._streams) == 1000
    assert rig.memory.used <= 1000 * 2 + 4 * 16 * 1024
