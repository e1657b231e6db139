"""Snappy's framing format: all vectors, every split, and what cramjam alone would let through."""

import hashlib

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import WireError
from pyp2p.reqresp.codec import PayloadReader
from pyp2p.reqresp.frames import IDENTIFIER, FrameReader, SnappyFrames, max_compressed_len
from tests.vectors import load

FRAMES = SnappyFrames()
VECTORS = load("snappy")
WHOLE = {  # too large for the file, by the rule that stands there
    "full_64_kib_chunk": bytes(range(256)) * 256,
    "70000_zeros_two_chunks": bytes(70000),
}


def frame(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + len(body).to_bytes(3, "little") + body


def plain_frame(data: bytes) -> bytes:
    return cramjam_frames(data)[len(IDENTIFIER) :] if data else frame(1, bytes.fromhex("d8ea82a2"))


def cramjam_frames(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress(data))


def read(data: bytes, size: int, step: int = 1 << 20, reader: PayloadReader | None = None) -> tuple[bytes, int]:
    """The payload of `size` bytes that `data` starts with when it comes in steps, and where it ends."""
    reader = reader or FRAMES.reader(size)
    buffer = bytearray()
    for at in range(0, max(len(data), 1), step):
        buffer += data[at : at + step]
        end = reader.scan(buffer)
        if end is not None:
            return reader.payload(buffer[:end]), end
    raise WireError("more is needed")


def framed_of(entry) -> bytes:
    if entry["framed"] is not None:
        return bytes.fromhex(entry["framed"])
    if entry["name"] in WHOLE:
        body = WHOLE[entry["name"]]
        framed = IDENTIFIER + uncompressed(body) if entry["name"].startswith("full") else cramjam_frames(body)
        return framed
    kind = {"uncompressed_chunk_65537": 1, "compressed_chunk_65537": 0}[entry["name"]]
    return IDENTIFIER + frame(kind, bytes(65537))


def uncompressed(body: bytes) -> bytes:
    crc = crc32c(body)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return frame(1, masked.to_bytes(4, "little") + body)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("entry", VECTORS["framed_valid"], ids=lambda entry: entry["name"])
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_valid_frames_are_read_whole_however_they_come(entry, step):
    framed = framed_of(entry)
    # Where many encodings are right, the file's digest is of one of them; the data's digest holds for all.
    # Two streams of two bytes each are over the bound of eth2.
    reader = FrameReader(entry["data_size"], max(len(framed), max_compressed_len(entry["data_size"])))
    payload, end = read(framed, entry["data_size"], step if len(framed) < 5000 else 1009, reader)
    assert hashlib.sha256(payload).hexdigest() == entry["data_sha256"]
    assert end == len(framed)


@pytest.mark.hostile
@pytest.mark.parametrize("entry", VECTORS["framed_invalid"], ids=lambda entry: entry["name"])
@pytest.mark.parametrize("size", [0, 1, 5, 65537])
def test_hostile_082_invalid_frames_are_refused_whatever_size_was_declared(entry, size):
    framed = framed_of(entry)
    try:
        _, end = read(framed, size)
    except WireError:
        return
    assert end < len(framed)  # and for the bytes that are left the layer above refuses it


@pytest.mark.parametrize("entry", VECTORS["crc32c"], ids=lambda entry: entry["data"][:8])
def test_checksums_are_masked_crc_32c(entry):
    data = bytes.fromhex(entry["data"])
    framed = IDENTIFIER + frame(1, bytes.fromhex(entry["masked_le_bytes"]) + data)
    assert crc32c(data) == int(entry["crc32c"], 16)
    assert read(framed, len(data))[0] == data
    if data:
        with pytest.raises(WireError):
            read(IDENTIFIER + frame(1, bytes.fromhex(entry["crc32c"]) + data), len(data))


@given(st.binary(max_size=200_000), st.integers(1, 70_000), st.binary(max_size=20))
def test_what_is_packed_is_read_back_and_what_follows_is_left(payload, step, rest):
    framed = FRAMES.pack(payload)
    assert len(framed) <= max_compressed_len(len(payload))
    assert read(framed + rest, len(payload), step) == (payload, len(framed))


@given(st.binary(min_size=1, max_size=64), st.integers(0, 80))
def test_any_bytes_give_a_payload_of_the_size_or_an_error(junk, size):
    for data in (junk, IDENTIFIER + junk):
        try:
            payload, end = read(data, size)
        except WireError:
            continue
        assert len(payload) == size
        assert end <= min(len(data), max_compressed_len(size))


def test_nothing_is_packed_as_the_identifier_alone():
    assert FRAMES.pack(b"") == IDENTIFIER
    assert read(IDENTIFIER, 0) == (b"", len(IDENTIFIER))


def test_the_bound_is_the_one_of_the_specs():
    assert max_compressed_len(10 * 1024 * 1024) == load("eth2_reqresp")["facts"]["max_compressed_len(MAX_PAYLOAD_SIZE)"]


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("name", "data", "size"),
    [
        ("a frame over the bound of all", IDENTIFIER + frame(0xFE, bytes(100))[:4], 8),
        ("16 MiB", IDENTIFIER + b"\x00\xff\xff\xff", 8),
        ("16 MiB of skippable bytes", IDENTIFIER + b"\x80\xff\xff\xff", 8),
        ("a plain frame that says more than was declared", IDENTIFIER + frame(1, bytes(13))[:4], 8),
        ("a block that says more than was declared", IDENTIFIER + frame(0, bytes(4) + b"\x09" + bytes(9))[:9], 8),
        ("a block that cannot become so much", IDENTIFIER + frame(0, bytes(4) + b"\xc8\x01\x00")[:10], 200),
        ("a block without an end of its size", IDENTIFIER + frame(0, bytes(4) + b"\x80" * 8), 65536),
        ("a block without a size", IDENTIFIER + frame(0, bytes(4)), 8),
        ("over 65,536 in one frame", IDENTIFIER + frame(0, bytes(4) + b"\x81\x80\x04" + bytes(9000))[:11], 70_000),
        ("reserved", IDENTIFIER + b"\x02\x08\x00\x00", 8),
        ("reserved, the last one", IDENTIFIER + b"\x7f\x08\x00\x00", 8),
        ("another start", b"\x01\x0c\x00\x00", 8),
        ("padding at the start", b"\xfe\x00\x00\x00", 8),
        ("no room for a checksum", IDENTIFIER + b"\x01\x03\x00\x00", 8),
        ("a block without room for a checksum", IDENTIFIER + b"\x00\x03\x00\x00", 8),
        ("another identifier", b"\xff\x06\x00\x00sNaPpX", 0),
        ("the identifier of another length", b"\xff\x07\x00\x00", 8),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_082_a_frame_is_judged_by_its_header_before_its_bytes_come(name, data, size):
    with pytest.raises(WireError):
        FRAMES.reader(size).scan(bytearray(data))


@pytest.mark.hostile
def test_hostile_081_padding_ends_at_the_bound_of_bytes():
    reader = FRAMES.reader(8)
    flood = IDENTIFIER + frame(0xFE, b"") * 10_000
    assert reader.scan(bytearray(flood[:34])) is None
    with pytest.raises(WireError):
        reader.scan(bytearray(flood[:38]))


@pytest.mark.hostile
@pytest.mark.parametrize(
    "extra", [IDENTIFIER, frame(0xFE, b""), frame(0x80, b"x"), plain_frame(b""), plain_frame(b"y")]
)
def test_hostile_081_frames_after_the_payload_are_not_part_of_it(extra):
    framed = FRAMES.pack(b"12345678")
    assert read(framed + extra, 8) == (b"12345678", len(framed))


@pytest.mark.hostile
def test_hostile_081_one_byte_more_or_less_than_declared():
    framed = FRAMES.pack(b"12345678")
    with pytest.raises(WireError):
        read(framed, 7)
    reader = FRAMES.reader(9)
    assert reader.scan(bytearray(framed)) is None


def test_a_block_that_is_no_block_is_refused_with_what_cramjam_says():
    body = bytes(4) + b"\x08\x00"
    with pytest.raises(WireError):
        read(IDENTIFIER + frame(0, body), 8)
