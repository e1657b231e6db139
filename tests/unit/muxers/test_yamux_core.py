"""Yamux sessions: what is put on the wire, what is understood, and that every state is left again."""

import pytest

from pyp2p.errors import LimitExceeded, LocalProtocolError
from pyp2p.muxers.base import Data, MuxerLimits, Opened, Writable
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
    Rig,
    frame,
    frames,
    plain,
    pump,
    yamux,
)


def empty(*rigs: Rig) -> None:
    """No stream is left, no place is taken, no memory is held."""
    for rig in rigs:
        session = rig.session
        assert not session._streams
        assert (session._inbound, session._unaccepted, session._unacked) == (0, 0, 0)
        assert rig.memory.used == 0


def opened(rig: Rig, sid: int = 1, more: bytes = b""):
    """The peer opens `sid`."""
    event = rig.feed(frame(WINDOW_UPDATE, SYN, sid) + more)[0]
    assert isinstance(event, Opened)
    return event.sub


# -- what we send


def test_open_sends_nothing_until_there_is_data():
    rig = yamux(dialed=True)
    sub = rig.session.open(0.0)
    assert (sub.id, sub.inbound) == (1, False)
    assert rig.output() == b""
    assert rig.session.send(sub, b"hello") == 5
    rig.session.send(sub, b"more")
    assert frames(rig.output()) == [(DATA, SYN, 1, 5, b"hello"), (DATA, 0, 1, 4, b"more")]
    assert rig.session.open(0.0).id == 3
    assert yamux().session.open(0.0).id == 2


def test_ack_rides_on_the_first_frame_after_accept():
    rig = yamux()
    sub = opened(rig)
    rig.session.send(sub, b"early")
    rig.session.accept(sub)
    rig.session.accept(sub)
    rig.session.send(sub, b"a")
    rig.session.send(sub, b"b")
    assert [row[:3] for row in frames(rig.output())] == [(DATA, 0, 1), (DATA, ACK, 1), (DATA, 0, 1)]


def test_ack_rides_on_a_window_update_or_fin():
    rig = yamux()
    sub, other = opened(rig, 1, frame(DATA, 0, 1, body=bytes(WINDOW // 2))), opened(rig, 3)
    rig.session.accept(sub)
    rig.session.accept(other)
    assert rig.session.consumed(sub, WINDOW // 2, 1.0)
    rig.session.fin(other)
    assert frames(rig.output()) == [
        (WINDOW_UPDATE, ACK, 1, WINDOW // 2, b""),
        (WINDOW_UPDATE, ACK | FIN, 3, 0, b""),
    ]


def test_fin_has_a_frame_of_its_own_after_the_data():
    rig = yamux(dialed=True)
    sub = rig.session.open(0.0)
    rig.session.send(sub, b"last")
    rig.session.fin(sub)
    rig.session.fin(sub)
    assert frames(rig.output()) == [(DATA, SYN, 1, 4, b"last"), (WINDOW_UPDATE, FIN, 1, 0, b"")]
    assert sub.fin_sent
    with pytest.raises(LocalProtocolError):
        rig.session.send(sub, b"x")
    assert not rig.session.writable(sub)


def test_fin_before_any_data_carries_syn():
    rig = yamux(dialed=True)
    rig.session.fin(rig.session.open(0.0))
    assert frames(rig.output()) == [(WINDOW_UPDATE, SYN | FIN, 1, 0, b"")]


def test_reset_before_any_frame_says_nothing_to_the_peer():
    rig = yamux(dialed=True)
    sub = rig.session.open(0.0)
    rig.session.reset(sub, 7)
    assert rig.output() == b""
    assert sub.reset_code == 7
    empty(rig)


def test_reset_carries_its_code_and_happens_once():
    rig = yamux()
    sub = opened(rig)
    rig.session.reset(sub, 0x1001)
    rig.session.reset(sub, 2)
    assert frames(rig.output()) == [(WINDOW_UPDATE, RST, 1, 0x1001, b"")]
    assert (sub.reset_code, sub.reset_by_peer) == (0x1001, False)
    with pytest.raises(LocalProtocolError):
        rig.session.send(sub, b"x")
    rig.session.fin(sub)
    rig.session.accept(sub)
    assert rig.output() == b""
    empty(rig)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_send_takes_what_the_window_allows_in_frames_that_fit_a_noise_message(kind):
    rig = yamux(dialed=True)
    sub = rig.session.open(0.0)
    data = bytes(range(256)) * 1500
    assert rig.session.send(sub, kind(data)) == WINDOW
    assert rig.session.send(sub, kind(data)) == 0
    assert not rig.session.writable(sub)
    sent = frames(rig.output())
    assert b"".join(row[4] for row in sent) == data[:WINDOW]
    assert [row[1] for row in sent] == [SYN, 0, 0, 0, 0]
    assert all(row[3] <= 65519 - 12 for row in sent)


def test_send_copies_nothing():
    rig = yamux(dialed=True)
    sub = rig.session.open(0.0)
    data = bytearray(b"before")
    rig.session.send(sub, data)
    data[:] = b"after!"
    assert rig.output().endswith(b"after!")


def test_sending_nothing_is_nothing():
    rig = yamux(dialed=True)
    assert rig.session.send(rig.session.open(0.0), b"") == 0
    assert rig.output() == b""


def test_writable_comes_only_to_those_who_were_told_to_wait():
    rig = yamux(dialed=True)
    idle, short, asked = (rig.session.open(0.0) for _ in range(3))
    rig.session.send(idle, bytes(WINDOW))
    rig.session.send(short, bytes(WINDOW + 1))
    rig.session.send(asked, bytes(WINDOW))
    assert not rig.session.writable(asked)
    credit = b"".join(frame(WINDOW_UPDATE, ACK, sid, 10) for sid in (1, 3, 5))
    assert plain(rig.feed(credit)) == [("writable", (3, False)), ("writable", (5, False))]
    assert rig.feed(credit) == []
    assert all(rig.session.writable(sub) for sub in (idle, short, asked))
    rig.output()
    assert rig.session.send(short, bytes(100)) == 20


def test_no_writable_after_our_fin():
    rig = yamux(dialed=True)
    sub = rig.session.open(0.0)
    rig.session.send(sub, bytes(WINDOW + 1))
    rig.session.fin(sub)
    assert rig.feed(frame(WINDOW_UPDATE, ACK, 1, 10)) == []


def test_a_larger_window_from_the_start():
    rig = yamux()
    [event] = rig.feed(frame(WINDOW_UPDATE, SYN, 1, 1000))
    assert rig.session.send(event.sub, bytes(WINDOW + 2000)) == WINDOW + 1000
    rig = yamux(dialed=True)
    sub = rig.session.open(0.0)
    rig.session.send(sub, b"x")
    rig.feed(frame(WINDOW_UPDATE, ACK, 1, 500))
    assert rig.session.send(sub, bytes(WINDOW + 2000)) == WINDOW + 499


# -- what we receive


def test_data_is_passed_on_piecewise():
    rig = yamux()
    sub = opened(rig)
    data = frame(DATA, 0, 1, body=b"0123456789")
    assert plain(rig.feed(data[:15])) == [("data", (1, True), b"012")]
    assert plain(rig.feed(b"3456")) == [("data", (1, True), b"3456")]
    assert plain(rig.feed(b"789" + frame(DATA, 0, 1, body=b"x")[:11])) == [("data", (1, True), b"789")]
    assert plain(rig.feed(b"\x01x")) == [("data", (1, True), b"x")]
    assert sub.window.unread == 11


def test_an_input_that_is_all_payload_is_not_copied():
    rig = yamux()
    opened(rig, 1, frame(DATA, 0, 1, length=5000))
    chunk = bytes(5000)
    [event] = rig.feed(chunk)
    assert event.data is chunk


@pytest.mark.parametrize(
    ("flags", "events"),
    [
        (SYN, ["opened", "data"]),
        (SYN | FIN, ["opened", "data", "eof"]),
        (SYN | RST, ["opened", "data", "reset"]),
        (SYN | ACK | 0xFFF0, ["opened", "data"]),
    ],
)
def test_a_first_frame_may_hold_everything(flags, events):
    rig = yamux()
    seen = plain(rig.feed(frame(DATA, flags, 1, body=b"body")))
    assert [row[0] for row in seen] == events
    assert seen[1] == ("data", (1, True), b"body")


def test_data_and_fin_in_one_frame():
    rig = yamux()
    sub = opened(rig)
    assert plain(rig.feed(frame(DATA, FIN, 1, body=b"end"))) == [("data", (1, True), b"end"), ("eof", (1, True))]
    assert sub.fin_received


def test_data_followed_at_once_by_rst_loses_no_byte():
    rig = yamux()
    sub = opened(rig)
    seen = plain(rig.feed(frame(DATA, 0, 1, body=b"last words") + frame(WINDOW_UPDATE, RST, 1, 0x1001)))
    assert seen == [("data", (1, True), b"last words"), ("reset", (1, True))]
    assert (sub.reset_code, sub.reset_by_peer) == (0x1001, True)


def test_the_code_of_a_rst_is_no_credit():
    rig = yamux()
    sub = opened(rig)
    sub.send_window = 0xFFFFFFFF
    assert plain(rig.feed(frame(WINDOW_UPDATE, RST, 1, 0xFFFFFFFF))) == [("reset", (1, True))]
    assert sub.reset_code == 0xFFFFFFFF


def test_rst_on_syn_is_a_refusal_of_ours():
    rig = yamux(dialed=True)
    sub = rig.session.open(0.0)
    rig.session.send(sub, b"x")
    assert plain(rig.feed(frame(WINDOW_UPDATE, RST, 1))) == [("reset", (1, False))]
    empty(rig)


# -- the life of a stream


@pytest.mark.parametrize("first", ["dialer", "listener", "both"])
def test_half_close_either_way_ends_in_nothing(first):
    a, b = yamux(dialed=True), yamux()
    here = a.session.open(0.0)
    a.session.send(here, b"question")
    there = pump(a, b)[1][0].sub
    b.session.accept(there)
    b.session.consumed(there, 8, 0.0)
    if first == "listener":
        b.session.send(there, b"answer")
        b.session.fin(there)
        assert plain(pump(a, b)[0])[-1] == ("eof", (1, False))
        a.session.send(here, b"more")
        assert plain(pump(a, b)[1]) == [("data", (1, True), b"more")]
        b.session.consumed(there, 4, 0.0)
        a.session.consumed(here, 6, 0.0)
        a.session.fin(here)
    elif first == "dialer":
        a.session.fin(here)
        assert plain(pump(a, b)[1]) == [("eof", (1, True))]
        b.session.send(there, b"answer")
        b.session.fin(there)
        pump(a, b)
        a.session.consumed(here, 6, 0.0)
    else:
        a.session.fin(here)
        b.session.fin(there)
    pump(a, b)
    empty(a, b)
    late = frame(DATA, 0, 1, body=b"late") + frame(WINDOW_UPDATE, 0, 1, 5) + frame(WINDOW_UPDATE, RST, 1)
    assert a.feed(late) == b.feed(late) == []
    assert (a.session.strays, b.session.strays) == (0, 0)
    assert a.output() == b.output() == b""


def test_frames_that_cross_a_reset_are_dropped_with_their_bodies():
    rig = yamux()
    sub = opened(rig, 1, frame(DATA, 0, 1, length=10, body=b"abc"))
    rig.session.reset(sub)
    rig.output()
    rest = b"defghij" + frame(DATA, FIN, 1, body=b"xyz") + frame(WINDOW_UPDATE, SYN, 3)
    assert plain(rig.feed(rest)) == [("opened", (3, True))]
    assert rig.output() == b""
    assert rig.memory.used == 0


def test_unread_data_stays_readable_and_paid_after_the_end():
    for end in (FIN, RST):
        rig = yamux()
        sub = opened(rig, 1, frame(DATA, 0, 1, body=b"hello") + frame(WINDOW_UPDATE, end, 1))
        rig.session.fin(sub)
        rig.output()
        assert not rig.session._streams
        assert rig.memory.used >= 5
        assert not rig.session.consumed(sub, 3, 0.0)
        assert rig.memory.used >= 2
        assert not rig.session.consumed(sub, 2, 0.0)
        assert not rig.session.consumed(sub, 2, 0.0)
        assert rig.output() == b""
        empty(rig)


def test_reset_gives_up_what_was_left_unread_at_the_end():
    rig = yamux()
    sub = opened(rig, 1, frame(DATA, 0, 1, body=b"hello") + frame(WINDOW_UPDATE, RST, 1, 5))
    rig.session.reset(sub, 9)
    assert sub.reset_code == 5
    assert rig.output() == b""
    empty(rig)


def test_taking_more_than_there_is_is_a_bug_of_ours():
    rig = yamux()
    sub = opened(rig, 1, frame(DATA, 0, 1, body=b"hello"))
    with pytest.raises(LocalProtocolError):
        rig.session.consumed(sub, 6, 0.0)


def test_no_credit_is_returned_after_the_peers_fin():
    rig = yamux()
    sub = opened(rig, 1, frame(DATA, 0, 1, body=bytes(WINDOW)) + frame(WINDOW_UPDATE, FIN, 1))
    assert not rig.session.consumed(sub, WINDOW, 0.0)
    assert rig.output() == b""
    assert rig.memory.used == 0


def test_ids_may_be_used_up():
    rig = yamux(dialed=True)
    rig.session._next_id = 0xFFFFFFFF
    assert rig.session.can_open
    assert rig.session.open(0.0).id == 0xFFFFFFFF
    assert not rig.session.can_open
    with pytest.raises(LocalProtocolError):
        rig.session.open(0.0)


def test_our_ack_backlog():
    rig = yamux(dialed=True, limits=MuxerLimits(max_outbound_unacked=2))
    one, two = rig.session.open(0.0), rig.session.open(0.0)
    rig.session.send(one, b"x")
    rig.session.send(two, b"x")
    with pytest.raises(LimitExceeded) as caught:
        rig.session.open(0.0)
    assert caught.value.limit == "max_outbound_unacked"
    rig.feed(frame(WINDOW_UPDATE, ACK, 1) + frame(DATA, ACK, 1, body=b"twice"))
    three = rig.session.open(0.0)
    rig.session.send(three, b"x")
    with pytest.raises(LimitExceeded):
        rig.session.open(0.0)
    rig.session.reset(three)
    rig.feed(frame(WINDOW_UPDATE, RST, 3))
    rig.session.open(0.0)
    rig.session.open(0.0)


# -- windows


def test_credit_is_returned_for_taken_bytes_only_and_by_half_windows():
    rig = yamux(limits=MuxerLimits(max_window=WINDOW))
    sub = opened(rig, 1, frame(DATA, 0, 1, body=bytes(WINDOW)))
    assert rig.output() == b""
    assert not rig.session.consumed(sub, WINDOW // 2 - 1, 0.0)
    assert rig.output() == b""
    assert rig.session.consumed(sub, 1, 0.0)
    assert frames(rig.output()) == [(WINDOW_UPDATE, 0, 1, WINDOW // 2, b"")]
    assert plain(rig.feed(frame(DATA, 0, 1, body=bytes(WINDOW // 2))))[0][0] == "data"
    assert sub.window.credit == 0


def test_a_busy_window_grows_and_is_paid_for():
    rig = yamux(limits=MuxerLimits(max_window=4 * WINDOW))
    sub = opened(rig)
    deltas = []
    for _ in range(8):
        rig.feed(frame(DATA, 0, 1, body=bytes(WINDOW // 2)))
        if rig.session.consumed(sub, WINDOW // 2, 0.0):
            deltas.append(frames(rig.output())[0][3])
    assert sub.window.size == 4 * WINDOW
    assert rig.memory.used >= 3 * WINDOW
    assert deltas == [WINDOW // 2 + WINDOW, WINDOW + 2 * WINDOW, 2 * WINDOW]
    rig.session.reset(sub)
    empty(rig)


def test_a_slow_reader_gets_no_larger_window():
    rig = yamux()
    sub = opened(rig)
    for second in range(1, 6):
        rig.feed(frame(DATA, 0, 1, body=bytes(WINDOW // 2)))
        assert rig.session.consumed(sub, WINDOW // 2, float(second))
    assert sub.window.size == WINDOW
    assert rig.memory.used == 0


def test_growth_needs_memory():
    rig = yamux(memory=3 * WINDOW)
    sub = opened(rig)
    for _ in range(6):
        rig.feed(frame(DATA, 0, 1, body=bytes(WINDOW // 2)))
        rig.session.consumed(sub, WINDOW // 2, 0.0)
    assert sub.window.size == 2 * WINDOW
    assert rig.memory.used == WINDOW


def test_release_all_returns_everything_and_late_consumers_do_no_harm():
    rig = yamux()
    sub = opened(rig, 1, frame(DATA, 0, 1, body=bytes(WINDOW)))
    rig.session.consumed(sub, WINDOW // 2, 0.0)
    assert rig.memory.used > WINDOW // 2
    rig.session.release_all()
    rig.session.release_all()
    assert rig.memory.used == 0
    rig.session.consumed(sub, WINDOW // 2, 0.0)
    rig.session.reset(sub)
    assert rig.memory.used == 0


# -- session


def test_ping_both_ways():
    rig = yamux()
    assert rig.session.pings
    rig.session.ping(10.0)
    [(kind, flags, sid, value, _)] = frames(rig.output())
    assert (kind, flags, sid) == (PING, SYN, 0)
    assert rig.feed(frame(PING, ACK, 0, value + 1), 10.5) == []
    assert plain(rig.feed(frame(PING, ACK, 0, value), 10.5)) == [("pong", 0.5)]
    assert rig.feed(frame(PING, ACK, 0, value), 11.0) == []
    assert rig.session.rtt == 0.5
    assert rig.feed(frame(PING, SYN, 0, 77) + frame(PING, 0, 0, 78)) == []
    assert frames(rig.output()) == [(PING, ACK, 0, 77, b"")]


def test_goaway_of_theirs_stops_our_opens_only():
    rig = yamux(dialed=True)
    sub = rig.session.open(0.0)
    rig.session.send(sub, b"x")
    assert plain(rig.feed(frame(GO_AWAY, 0, 0, 2))) == [("goaway", 2)]
    assert not rig.session.can_open
    with pytest.raises(LocalProtocolError):
        rig.session.open(0.0)
    rig.session.send(sub, b"still here")
    assert plain(rig.feed(frame(DATA, ACK, 1, body=b"yes"))) == [("data", (1, False), b"yes")]


def test_goaway_of_ours_refuses_new_streams_and_keeps_old_ones():
    rig = yamux()
    sub = opened(rig)
    rig.session.goaway(0)
    rig.session.goaway(2)
    assert frames(rig.output()) == [(GO_AWAY, 0, 0, 0, b"")]
    assert not rig.session.can_open
    assert rig.feed(frame(DATA, SYN, 3, body=b"no")) == []
    [(kind, flags, sid, code, _)] = frames(rig.output())
    assert (kind, flags, sid) == (WINDOW_UPDATE, RST, 3)
    assert code
    assert rig.session.refused == 0  # it is not for want of room
    assert isinstance(rig.feed(frame(DATA, 0, 1, body=b"yes"))[0], Data)
    assert rig.session.send(sub, b"x") == 1


def test_credit_for_one_stream_does_not_wake_another():
    rig = yamux(dialed=True)
    one, two = rig.session.open(0.0), rig.session.open(0.0)
    for sub in (one, two):
        rig.session.send(sub, bytes(WINDOW + 1))
    events = rig.feed(frame(WINDOW_UPDATE, 0, 3, 1))
    assert [type(event) for event in events] == [Writable]
    assert events[0].sub is two


def test_tick_has_nothing_to_do():
    assert yamux().session.tick(1e9) == []
