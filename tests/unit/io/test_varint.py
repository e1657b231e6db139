"""Unsigned varints and length-prefixed messages."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import LocalProtocolError, WireError
from pyp2p.io import varint
from pyp2p.io.varint import LengthPrefixed
from tests.vectors import load

VECTORS = load("varint")


@pytest.mark.parametrize("case", VECTORS["valid"], ids=lambda case: case["value"])
def test_valid(case):
    raw, value = bytes.fromhex(case["encoded"]), int(case["value"])
    assert varint.encode(value) == raw
    assert varint.decode(raw) == (value, len(raw))
    assert varint.decode(b"\xff" + raw + b"\x01", 1) == (value, len(raw) + 1)
    assert varint.decode(memoryview(raw)) == (value, len(raw))
    for cut in range(len(raw)):
        assert varint.decode(raw[:cut]) is None


def frames(raw):
    framer = LengthPrefixed(10)
    yield from framer.feed(raw)
    framer.finish()


CUT = ("no input", "input ends inside the number")


@pytest.mark.parametrize("case", VECTORS["invalid"], ids=lambda case: case["encoded"] or "empty")
def test_invalid(case):
    raw = bytes.fromhex(case["encoded"])
    if case["why"] in CUT:
        assert varint.decode(raw) is None
    else:
        with pytest.raises(WireError):
            varint.decode(raw)
    if raw:
        with pytest.raises(WireError):  # as a length, what is cut fails at the end of the stream
            list(frames(raw))


@pytest.mark.parametrize("case", VECTORS["protobuf_only"], ids=lambda case: case["value"])
def test_only_with_ten_bytes(case):
    raw, value = bytes.fromhex(case["encoded"]), int(case["value"])
    assert varint.encode(value) == raw
    assert varint.decode(raw, max_bytes=10) == (value, 10)
    with pytest.raises(WireError):
        varint.decode(raw)


@pytest.mark.parametrize(
    "raw", ["8000", "ff00", "8080808080808080808000", "ffffffffffffffffff02", "ffffffffffffffffffff01"]
)
def test_bad_with_ten_bytes(raw):
    with pytest.raises(WireError):
        varint.decode(bytes.fromhex(raw), max_bytes=10)


@pytest.mark.parametrize("n", [-1, 1 << 64])
def test_encode_refuses_what_does_not_fit(n):
    with pytest.raises(LocalProtocolError):
        varint.encode(n)


@given(st.integers(0, (1 << 63) - 1))
def test_round_trip(n):
    raw = varint.encode(n)
    assert varint.decode(raw) == (n, len(raw))
    assert all(byte & 0x80 for byte in raw[:-1]) and raw[-1] < 0x80


@given(st.binary(max_size=12))
def test_what_decodes_is_what_encodes(raw):
    try:
        found = varint.decode(raw)
    except WireError:
        return
    if found is not None:
        value, end = found
        assert varint.encode(value) == raw[:end]


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(0, 400), max_size=8), st.binary(max_size=1))
def test_framing_does_not_depend_on_the_segments(messages, cuts, tail):
    wire = b"".join(map(varint.prefixed, messages))
    tail = b"\x05" * len(tail)
    stream = wire + tail
    framer = LengthPrefixed(300)
    got: list[bytes] = []
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        got += framer.feed(stream[start:end])
    assert got == messages
    if tail:
        with pytest.raises(WireError):
            framer.finish()
    else:
        framer.finish()


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "bytewise"])
def test_messages_before_a_violation_come_first(whole):
    stream = b"\x02ok\x01!\x0b"
    framer = LengthPrefixed(10)
    pieces = [stream] if whole else [bytes((byte,)) for byte in stream]
    got: list[bytes] = []
    try:
        for piece in pieces:
            got += framer.feed(piece)
    except WireError:
        assert not whole
    assert got == [b"ok", b"!"]
    for late in (lambda: framer.feed(b""), framer.finish):
        with pytest.raises(WireError):
            late()


@pytest.mark.hostile
@pytest.mark.parametrize(
    "length", [11, 1 << 20, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1], ids=lambda n: f"{n:#x}"
)
def test_hostile_008_a_length_over_the_limit_is_refused_before_the_message(length):
    framer = LengthPrefixed(10)
    with pytest.raises(WireError):
        framer.feed(varint.encode(length))
    with pytest.raises(WireError):
        framer.feed(b"x" * 100)  # a framer that failed keeps nothing


@pytest.mark.hostile
def test_hostile_008_an_endless_varint_is_refused_at_its_tenth_byte():
    framer = LengthPrefixed(10)
    for _ in range(8):
        assert framer.feed(b"\xff") == []
    with pytest.raises(WireError):
        framer.feed(b"\xff")


def test_the_longest_message_that_is_allowed():
    framer = LengthPrefixed(300)
    assert framer.feed(varint.prefixed(bytes(300))) == [bytes(300)]
    with pytest.raises(WireError):
        framer.feed(varint.prefixed(bytes(301)))
