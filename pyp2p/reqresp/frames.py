"""Snappy's framing format as the framing of payloads (google/snappy framing_format.txt; consensus-specs p2p-interface,
"Encoding strategies").

Rules: pure. The headers of frames are walked here and judged before their bytes are waited for: cramjam takes two
streams for one, nothing at all for an empty one, and any number of padding frames. Only what adds up exactly is
decompressed, by one call into memory of the declared size. Needs cramjam, which the extra `eth2` installs.
"""

from __future__ import annotations

from typing import Final

from pyp2p.errors import WireError
from pyp2p.reqresp.codec import PayloadReader

try:
    import cramjam
except ImportError as error:
    raise ImportError("pyp2p.reqresp.frames needs the package cramjam: install pyp2p[eth2]") from error

IDENTIFIER: Final = b"\xff\x06\x00\x00sNaPpY"  # the frame that each stream starts with, and that may come again
_HEADER: Final = 4  # type, and the length in three bytes
_CRC: Final = 4
_COMPRESSED, _UNCOMPRESSED, _SKIPPABLE, _STREAM = 0x00, 0x01, 0x80, 0xFF
_MAX_PLAIN: Final = 65536  # bytes that one frame may become
_SIZE_BYTES: Final = 5  # of the plain size that starts a compressed block: 32 bits
_GROWTH: Final = (64, 3)  # the longest copy: 64 bytes for 3


def max_compressed_len(size: int) -> int:
    """The most bytes that `size` bytes may take compressed; consensus-specs `max_compressed_len`."""
    return 32 + size + size // 6


class SnappyFrames:
    """The framing of eth2: payloads travel as a stream of snappy frames."""

    def __init__(self, name: str = "ssz_snappy") -> None:
        self.name = name

    def pack(self, payload: bytes) -> bytes:
        """The payload compressed: a stream identifier and frames of at most 64 KiB each."""
        return bytes(cramjam.snappy.compress(payload)) if payload else IDENTIFIER

    def reader(self, size: int) -> PayloadReader:
        """As `Framing.reader`; at most `max_compressed_len(size)` bytes are read."""
        return FrameReader(size, max_compressed_len(size))


class FrameReader:
    """Finds the frames that make up `size` bytes in at most `limit` bytes, and gives their content.

    The payload ends with the frame that completes it: what follows is not looked at.
    """

    def __init__(self, size: int, limit: int) -> None:
        self._size = size
        self._limit = limit
        self._at = 0  # the start of the frame that comes next
        self._plain = 0  # bytes that the frames before it become

    def scan(self, buffer: bytearray) -> int | None:
        """As `PayloadReader.scan`. Work is by frame, and each is judged by its header alone."""
        while not (self._at and self._plain == self._size):
            at = self._at
            body = at + _HEADER
            if body > self._limit:
                raise self._over(body)
            if len(buffer) < body:
                return None
            length = int.from_bytes(buffer[at + 1 : body], "little")
            end = body + length
            if end > self._limit:
                raise self._over(end)
            plain = self._judge(buffer, at, end)
            if plain is None or len(buffer) < end:
                return None
            self._check_identifier(buffer, at, end)
            self._at = end
            self._plain += plain
        return self._at

    def payload(self, framed: bytearray | memoryview) -> bytes:
        """As `PayloadReader.payload`: checksums are checked."""
        plain = bytearray(self._size)
        if not self._size:
            return b""
        try:
            # The sizes of all frames add up, and cramjam holds each to its own: it fills the memory or raises.
            cramjam.snappy.decompress_into(framed, plain)
        except cramjam.DecompressionError as error:
            raise WireError(f"snappy frames do not decompress: {error}") from None
        return bytes(plain)

    def _over(self, end: int) -> WireError:
        return WireError(f"{end} bytes of snappy frames for {self._size} bytes, at most {self._limit} are allowed")

    def _judge(self, buffer: bytearray, at: int, end: int) -> int | None:
        """The bytes that the frame at `at` becomes; None when that cannot be told yet."""
        kind, body = buffer[at], at + _HEADER
        if at == 0 and kind != _STREAM:
            raise WireError(f"snappy frames start with type {kind:#04x}, not with the stream identifier")
        if kind == _STREAM:
            if end - body != len(IDENTIFIER) - _HEADER:
                raise WireError(f"a snappy stream identifier of {end - body} bytes")
            return 0
        if kind >= _SKIPPABLE:
            return 0
        if kind > _UNCOMPRESSED:
            raise WireError(f"snappy frame of reserved type {kind:#04x} at byte {at}")
        packed = end - body - _CRC
        if packed < 0:
            raise WireError(f"snappy frame at byte {at} has no room for its checksum")
        plain: int | None = packed
        if kind == _COMPRESSED:
            plain = _block_size(buffer, body + _CRC, end)
        if plain is not None:
            self._check_plain(plain, packed, at)
        return plain

    def _check_plain(self, plain: int, packed: int, at: int) -> None:
        if plain > _MAX_PLAIN:
            raise WireError(f"snappy frame at byte {at} holds {plain} bytes, at most {_MAX_PLAIN} are allowed")
        if self._plain + plain > self._size:
            raise WireError(f"snappy frames of more than the {self._size} bytes that were declared")
        if plain * _GROWTH[1] > packed * _GROWTH[0]:
            raise WireError(f"snappy frame at byte {at}: {packed} bytes cannot become {plain}")

    def _check_identifier(self, buffer: bytearray, at: int, end: int) -> None:
        if buffer[at] == _STREAM and buffer[at:end] != IDENTIFIER:
            raise WireError(f"the snappy stream identifier at byte {at} is another text")


def _block_size(buffer: bytearray, start: int, end: int) -> int | None:
    """What a compressed block says that it becomes; None while those bytes are not there."""
    head = buffer[start : min(end, start + _SIZE_BYTES)]
    found = 0
    for place, byte in enumerate(head):  # a size longer than need be is taken, as snappy does
        found |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return found
    if len(head) == min(end - start, _SIZE_BYTES):
        raise WireError(f"snappy block at byte {start} has no size")
    return None
