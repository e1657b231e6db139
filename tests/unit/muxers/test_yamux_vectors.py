"""The published yamux frames and violations, each whole, byte by byte and with more behind it."""

import pytest

from pyp2p.errors import MuxerError
from tests.unit.muxers.support import FIN, RST, SYN, WINDOW_UPDATE, Rig, frame, frames, plain, steps, yamux
from tests.vectors import load

VECTORS = load("yamux")
BITS = {"SYN": 1, "ACK": 2, "FIN": 4, "RST": 8}
KINDS = {"Data": 0, "WindowUpdate": 1, "Ping": 2, "GoAway": 3}


def ways(data: bytes) -> list[list[bytes]]:
    return [[data], steps(data, 1)]


def prepared(row: dict) -> Rig:
    """A session in which the frame makes sense: its stream is open unless it is the frame that opens it."""
    sid = row["stream_id"]
    rig = yamux(dialed=sid != 0 and sid % 2 == 0)
    if sid and "SYN" not in row["flags"]:
        rig.feed(frame(WINDOW_UPDATE, SYN, sid))
    return rig


def expected(row: dict) -> list[tuple]:
    sid, flags, kind = row["stream_id"], row["flags"], row["type"]
    if kind == "Ping":
        return []
    if kind == "GoAway":
        return [("goaway", row["length"])]
    stream = (sid, True)
    events: list[tuple] = [("opened", stream)] if "SYN" in flags else []
    if row["payload"]:
        events.append(("data", stream, bytes.fromhex(row["payload"])))
    if "RST" in flags:
        events.append(("reset", stream))
    elif "FIN" in flags:
        events.append(("eof", stream))
    return events


@pytest.mark.parametrize("row", VECTORS["frames"], ids=lambda row: row["name"])
@pytest.mark.parametrize("more", [False, True], ids=["alone", "more behind"])
def test_frame(row, more):
    data = bytes.fromhex(row["frame"])
    # What follows is a frame of another stream, which must be understood as if nothing had been before it.
    other = 101 if row["stream_id"] % 2 or not row["stream_id"] else 102
    behind = frame(WINDOW_UPDATE, SYN, other) + b"\x00\x00" if more else b""
    tail = [("opened", (other, True))] if more else []
    for way in ways(data + behind):
        rig = prepared(row)
        events = rig.feed_each(way)
        assert plain(events) == expected(row) + tail
        if row["name"] == "ping":
            assert rig.output() == bytes.fromhex(next(r for r in VECTORS["frames"] if r["name"] == "pong")["frame"])


@pytest.mark.parametrize("row", VECTORS["frames"], ids=lambda row: row["name"])
def test_layout(row):
    [(kind, flags, sid, length, body)] = frames(bytes.fromhex(row["frame"]))
    assert kind == KINDS[row["type"]]
    assert flags == sum(BITS[name] for name in row["flags"])
    assert (sid, length, body) == (row["stream_id"], row["length"], bytes.fromhex(row["payload"]))


ENDS_THE_SESSION = {
    "version_1": [],
    "unknown_type": [],
    "ping_nonzero_stream": [],
    "data_stream_0": [],
    "duplicate_syn": [1],
    "wrong_parity_syn": [],
    "window_exceeded": [1],
    "huge_data": [1],
    "window_overflow": [1],
}


@pytest.mark.parametrize("name", ENDS_THE_SESSION)
def test_violation(name):
    [row] = [row for row in VECTORS["invalid"] if row["name"] == name]
    for way in ways(bytes.fromhex(row["frame"])):
        rig = yamux()
        for sid in ENDS_THE_SESSION[name]:
            rig.feed(frame(WINDOW_UPDATE, SYN, sid))
        with pytest.raises(MuxerError) as caught:
            rig.feed_each(way)
        assert caught.value.goaway_code == 1
        with pytest.raises(MuxerError):
            rig.feed(b"")
        rig.session.goaway(caught.value.goaway_code)
        assert frames(rig.output())[-1] == (3, 0, 0, 1, b"")


def test_huge_data_for_an_unknown_stream_ends_the_session_too():
    with pytest.raises(MuxerError):
        yamux().feed(bytes.fromhex("0000000000000001ffffffff"))


def test_data_for_an_unknown_stream_is_consumed_and_counted():
    data = bytes.fromhex(next(row for row in VECTORS["invalid"] if row["name"] == "data_unknown_stream")["frame"])
    for way in ways(data + frame(WINDOW_UPDATE, SYN, 1)):
        rig = yamux()
        events = rig.feed_each(way)
        assert plain(events) == [("opened", (1, True))]
        assert rig.session.strays == 1


def test_truncated_header_waits():
    rig = yamux()
    data = bytes.fromhex(next(row for row in VECTORS["invalid"] if row["name"] == "truncated_header")["frame"])
    assert rig.feed(data) == []
    assert plain(rig.feed(frame(WINDOW_UPDATE, FIN | RST, 1)[len(data) :])) == []


def test_unknown_goaway_code_is_the_end_of_new_streams():
    rig = yamux()
    data = bytes.fromhex(next(row for row in VECTORS["invalid"] if row["name"] == "go_away_unknown_code")["frame"])
    assert plain(rig.feed(data)) == [("goaway", 99)]
    assert not rig.session.can_open


def test_every_violation_is_tried():
    elsewhere = {"data_unknown_stream", "truncated_header", "go_away_unknown_code"}
    assert {row["name"] for row in VECTORS["invalid"]} == set(ENDS_THE_SESSION) | elsewhere
