"""Frames of a WebSocket: cut whole, byte by byte and with what follows; wsproto reads ours, and we its."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from pyp2p.transports.wsframes import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MAX_CONTROL,
    PING,
    PONG,
    TEXT,
    Closed,
    FrameReader,
    Ping,
    closing,
    frame,
)

KEY = b"\x01\x80\xff\x03"


def read(said: bytes, masked: bool, step: int) -> list[bytes | Ping | Closed]:
    """What a reader tells, its payload joined between the other events."""
    reader = FrameReader(masked)
    told: list[bytes | Ping | Closed] = []
    for at in range(0, len(said), step):
        for each in reader.feed(said[at : at + step]):
            if isinstance(each, Ping | Closed):
                told.append(each)
            elif told and isinstance(told[-1], bytes):
                told[-1] += bytes(each)
            else:
                told.append(bytes(each))
        assert len(reader._tail) <= 130
    return told


def head(first: int, second: int, *, masked: bool, more: bytes = b"") -> bytes:
    return bytes((first, second | masked << 7)) + more + (KEY if masked else b"")


def made(payload: bytes, opcode: int = BINARY, *, masked: bool, fin: bool = True) -> bytes:
    whole = bytearray(frame(payload, KEY if masked else b"", opcode))
    whole[0] &= 0xFF if fin else 0x7F
    return bytes(whole)


SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, 200_000)


@pytest.mark.parametrize("masked", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_any_length_comes_out_as_it_went_in(size: int, masked: bool) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    said = made(payload, masked=masked) + made(b"!", masked=masked)
    for step in (len(said), 4099, *((1,) if size < 1000 else ())):
        assert read(said, masked, step) == [payload + b"!"]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("masked", [False, True], ids=["server", "client"])
def test_control_frames_between_fragments(masked: bool, step: int) -> None:
    said = b"".join(
        (
            made(b"one ", masked=masked, fin=False),
            made(b"there?", PING, masked=masked),
            made(b"", CONTINUATION, masked=masked, fin=False),
            made(b"two ", CONTINUATION, masked=masked, fin=False),
            made(b"yes", PONG, masked=masked),
            made(b"three", CONTINUATION, masked=masked),
            made(b"p" * MAX_CONTROL, PING, masked=masked),
            made(b"four", masked=masked),
            made(struct.pack("!H", 3000) + "bye \u00e4".encode(), CLOSE, masked=masked),
            made(b"after the end", masked=masked),
        )
    )
    expected = [b"one ", Ping(b"there?"), b"two three", Ping(b"p" * MAX_CONTROL), b"four", Closed(3000, "bye \u00e4")]
    assert read(said, masked, step) == expected


def wrong(masked: bool) -> dict[str, tuple[bytes, int]]:
    """What is no frame, and the code that says so."""
    other = not masked
    close = {code: made(struct.pack("!H", code), CLOSE, masked=masked) for code in (0, 999, 1004, 1005, 1006, 1015)}
    close |= {code: made(struct.pack("!H", code), CLOSE, masked=masked) for code in (1016, 2999, 5000, 65_535)}
    return {
        **{f"reserved {bit:x}": (head(0x82 | bit, 1, masked=masked), 1002) for bit in (0x40, 0x20, 0x10)},
        "the other mask": (head(0x82, 1, masked=other), 1002),
        **{f"opcode {number}": (head(0x80 | number, 1, masked=masked), 1002) for number in (3, 7, 11, 15)},
        "text": (made(b"hello", TEXT, masked=masked), 1003),
        "nothing to continue": (made(b"x", CONTINUATION, masked=masked), 1002),
        "a message inside another": (made(b"", masked=masked, fin=False) + made(b"x", masked=masked), 1002),
        "text inside a message": (made(b"", masked=masked, fin=False) + made(b"x", TEXT, masked=masked), 1002),
        **{f"{name} in fragments": (made(b"x", opcode, masked=masked, fin=False), 1002)
           for name, opcode in (("ping", PING), ("pong", PONG), ("close", CLOSE))},
        "a long ping": (made(bytes(126), PING, masked=masked), 1002),
        "125 in two bytes": (head(0x82, 126, masked=masked, more=struct.pack("!H", 125)), 1002),
        "65,535 in eight": (head(0x82, 127, masked=masked, more=struct.pack("!Q", 65_535)), 1002),
        "the highest bit": (head(0x82, 127, masked=masked, more=struct.pack("!Q", 1 << 63)), 1002),
        "half a code": (made(b"\x03", CLOSE, masked=masked), 1002),
        **{f"code {code}": (said, 1002) for code, said in close.items()},
        "a reason that is no UTF-8": (made(b"\x03\xe8\xff", CLOSE, masked=masked), 1007),
    }  # fmt: skip


@pytest.mark.hostile
@pytest.mark.parametrize("masked", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("what", wrong(False))
def test_hostile_086_what_is_no_frame_ends_it_after_what_was_right(what: str, masked: bool) -> None:
    said, code = wrong(masked)[what]
    for step in (1, 5, 1000):
        good, *ended, last = read(made(b"good", masked=masked) + said + made(b"after", masked=masked), masked, step)
        assert (good, ended) == (b"good", [])
        assert isinstance(last, Closed)
        assert last.code == code
        assert last.reason


@pytest.mark.hostile
def test_hostile_086_a_frame_without_end_is_told_as_it_comes_and_nothing_is_kept() -> None:
    reader = FrameReader(masked=True)
    reader.feed(head(0x82, 127, masked=True, more=struct.pack("!Q", (1 << 63) - 1)))
    for _ in range(100):
        assert sum(len(part) for part in reader.feed(bytes(1000))) == 1000
        assert reader._tail == b""


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1005, 1007, 1011, 4999])
def test_a_closing_frame_has_a_code_that_may_be_sent(code: int) -> None:
    (told,) = FrameReader(masked=False).feed(bytes(closing(code, b"")))
    assert told == Closed(1000 if code == 1005 else code, "")


def test_a_mask_hides_the_payload_and_stands_before_it() -> None:
    assert frame(b"\0\0\0\0\0", KEY) == bytes((0x82, 0x85)) + KEY + KEY + KEY[:1]
    assert frame(memoryview(b"Hello"), bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158").replace(
        b"\x81", b"\x82", 1
    )  # the masked "Hello" of RFC 6455, 5.7, as a binary frame


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=6), st.booleans(), st.integers(1, 400))
def test_wsproto_and_we_read_each_other(said: list[tuple[bool, bytes]], client: bool, step: int) -> None:
    theirs, reader = FrameProtocol(client=not client, extensions=[]), FrameReader(masked=client)
    writer = FrameProtocol(client=client, extensions=[])
    expected = b"".join(payload for _, payload in said)
    key = KEY if client else b""
    theirs.receive_bytes(b"".join(bytes(frame(payload, key)) for _, payload in said) + bytes(closing(1001, key)))
    *data, end = theirs.received_frames()
    assert b"".join(each.payload for each in data) == expected
    assert (end.opcode, end.payload) == (Opcode.CLOSE, (CloseReason.GOING_AWAY, ""))
    wire = b"".join(bytes(writer.send_data(payload, fin=fin)) for fin, payload in said)
    wire += bytes(writer.close(CloseReason.SERVICE_RESTART, "later"))
    got = [bytes(each) if not isinstance(each, Closed) else each
           for at in range(0, len(wire), step) for each in reader.feed(wire[at : at + step])]  # fmt: skip
    assert got[-1] == Closed(1012, "later")
    assert b"".join(got[:-1]) == expected
