"""Unsigned varints and length-prefixed messages (multiformats/unsigned-varint).

Rules: 7 bits a byte, little end first, minimal, at most 9 bytes (63 bits). Protobuf and eth2 lengths may take 10 bytes
(64 bits): `max_bytes=10`. A length is judged before one byte of its message is kept.
"""

from __future__ import annotations

from pyp2p.errors import LocalProtocolError, WireError

Buffer = bytes | bytearray | memoryview

_LIMITS = {9: 1 << 63, 10: 1 << 64}
_SMALL = tuple(bytes((n,)) for n in range(0x80))


def encode(n: int) -> bytes:
    """The shortest encoding of `n`, 0 <= n < 2**64. Raises `LocalProtocolError` out of that range."""
    if 0 <= n < 0x80:
        return _SMALL[n]
    if not 0 <= n < _LIMITS[10]:
        raise LocalProtocolError(f"{n} does not fit in an unsigned varint")
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def decode(buf: Buffer, offset: int = 0, max_bytes: int = 9, *, minimal: bool = True) -> tuple[int, int] | None:
    """The value that starts at `offset`, and the offset after it; None when its end has not arrived yet.

    Raises `WireError` when it is not `minimal`, longer than `max_bytes` (9 or 10), or over 64 bits.
    """
    end = len(buf)
    if offset < end and (first := buf[offset]) < 0x80:
        return first, offset + 1
    value = shift = 0
    for at in range(offset, min(end, offset + max_bytes)):
        byte = buf[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and minimal:
                raise WireError("varint is not minimal")
            if value >= _LIMITS[max_bytes]:
                raise WireError("varint is over 64 bits")
            return value, at + 1
        shift += 7
    if end - offset >= max_bytes:
        raise WireError(f"varint is longer than {max_bytes} bytes")
    return None


def prefixed(data: bytes) -> bytes:
    """`data` after its length."""
    return encode(len(data)) + data


class LengthPrefixed:
    """Cuts a byte stream into messages that follow their length.

    `limit` bounds one message, and with it what is held of an unfinished one; the bytes given to one `feed` bound the
    messages it returns. Whatever the segments, the messages before a violation are returned first; it is raised by the
    next call.
    """

    __slots__ = ("_broken", "_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._broken: WireError | None = None

    def feed(self, data: Buffer) -> list[bytes]:
        """The messages that `data` completes. Raises `WireError` on a bad varint or a length over the limit."""
        if self._broken is not None:
            raise self._broken
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        start = 0
        try:
            while (head := decode(buffer, start)) is not None:
                length, body = head
                if length > self._limit:
                    raise WireError(f"message of {length} bytes is over the limit of {self._limit}")
                if len(buffer) - body < length:
                    break
                start = body + length
                messages.append(bytes(buffer[body:start]))
        except WireError as error:
            self._broken = error
            buffer.clear()
            if not messages:
                raise
            return messages
        if start:
            del buffer[:start]
        return messages

    def finish(self) -> None:
        """The stream has ended. Raises `WireError` when that cuts a message, or for a violation that is pending."""
        if self._broken is not None:
            raise self._broken
        if self._buffer:
            raise WireError(f"the stream ended inside a message ({len(self._buffer)} bytes of it came)")
