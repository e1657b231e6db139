"""The frames of a WebSocket, without I/O: RFC 6455, section 5, of which binary messages are all that carries data.

Rules: pure; what the masks are made of is passed in. What has arrived of a data frame is told before the rest is there,
and a message is no unit, so nothing is kept of a frame but an unfinished header or control frame. After the closing
frame, or what is no frame, nothing more is read. No extension is ever agreed to, so every reserved bit is wrong.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from Crypto.Util.strxor import strxor

NORMAL_CLOSURE: Final = 1000  # RFC 6455, 7.4.1
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
NO_STATUS: Final = 1005  # stands for a closing frame without a code, and is never sent
BAD_TEXT: Final = 1007

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

MAX_CONTROL: Final = 125  # bytes in a control frame
_TWO_BYTES: Final = 126  # as a length: it follows in so many bytes
_EIGHT_BYTES: Final = 127
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_MAY_BE_SENT: Final = (range(1000, 1004), range(1007, 1015), range(3000, 5000))  # closing codes; and IANA's registry

Data = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a pong with the same payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The end: the peer's closing frame, or the code with which to answer what is no frame; `reason` is for people."""

    code: int
    reason: str


class _WrongFrame(Exception):
    def __init__(self, reason: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.code = code


class FrameReader:
    """Cuts what arrives into payload, pings and the end.

    `masked`: the peer is a client, which has to mask; a server must not. Bounds: of what was fed, at most 130 bytes
    are kept; payload is handed on as it comes, so the length of a frame or message has no bound.
    """

    __slots__ = ("_closed", "_fragmented", "_key", "_left", "_masked", "_tail")

    def __init__(self, masked: bool) -> None:
        self._masked = masked
        self._tail = b""  # the beginning of a header, or of a control frame
        self._left = 0  # bytes of the current data frame that are still to come
        self._key = b""  # its mask, turned so that it begins with the next byte
        self._fragmented = False  # a message has begun, whose last frame is still to come
        self._closed = False

    def feed(self, data: bytes) -> list[Data | Ping | Closed]:
        """What `data` completes, in order; the payload is of binary frames. Nothing more after a `Closed`."""
        found: list[Data | Ping | Closed] = []
        if self._tail:
            data, self._tail = self._tail + data, b""
        at, size = 0, len(data)
        try:
            while at < size and not self._closed:
                if self._left:
                    end = min(at + self._left, size)
                    found.append(self._payload(data if end - at == size else memoryview(data)[at:end]))
                    at = end
                    continue
                start, at = at, self._begin(data, at, found)
                if not at:
                    self._tail = data[start:]
                    break
        except _WrongFrame as wrong:
            self._closed = True
            found.append(Closed(wrong.code, str(wrong)))
        return found

    def _payload(self, part: Data) -> Data:
        self._left -= len(part)
        if not self._masked:
            return part
        turn = len(part) % 4
        key, self._key = self._key, self._key[turn:] + self._key[:turn]
        return _xor(part, key)

    def _begin(self, data: bytes, at: int, found: list[Data | Ping | Closed]) -> int:
        """Judge the header that begins at `at`, and take a control frame whole; returns where to go on.

        0 when not all of it is there.
        """
        if at + 2 > len(data):
            return 0
        first, second = data[at], data[at + 1]
        opcode, length = first & 0x0F, second & 0x7F
        self._judge(first, opcode, bool(second & _MASKED))
        if opcode >= CLOSE:
            return self._control(data, at, opcode, length, found)
        at += 2
        if length >= _TWO_BYTES:
            size = 2 if length == _TWO_BYTES else 8
            if at + size > len(data):
                return 0
            length = int.from_bytes(data[at : at + size], "big")
            if length >> 63:
                raise _WrongFrame("the highest bit of a length is set")
            if length < (_TWO_BYTES if size == 2 else 1 << 16):
                raise _WrongFrame(f"a length of {length} in {size} bytes")
            at += size
        if self._masked:
            if at + 4 > len(data):
                return 0
            self._key = data[at : at + 4]
            at += 4
        self._left = length
        self._fragmented = not first & _FIN
        return at

    def _judge(self, first: int, opcode: int, masked: bool) -> None:
        if first & _RESERVED:
            raise _WrongFrame("a reserved bit is set")
        if masked is not self._masked:
            raise _WrongFrame("a masked frame from a server" if masked else "an unmasked frame from a client")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise _WrongFrame(f"opcode {opcode} is none")
            if not first & _FIN:
                raise _WrongFrame("a control frame in fragments")
        elif opcode > BINARY:
            raise _WrongFrame(f"opcode {opcode} is none")
        elif self._fragmented is not (opcode == CONTINUATION):
            raise _WrongFrame("a new message inside another" if opcode else "nothing is there to continue")
        elif opcode == TEXT:
            raise _WrongFrame("a text frame in a WebSocket of bytes", UNSUPPORTED_DATA)

    def _control(self, data: bytes, at: int, opcode: int, length: int, found: list[Data | Ping | Closed]) -> int:
        if length > MAX_CONTROL:
            raise _WrongFrame(f"a control frame of more than {MAX_CONTROL} bytes")
        start = at + (6 if self._masked else 2)
        end = start + length
        if end > len(data):
            return 0
        payload = data[start:end]
        if self._masked:
            payload = _xor(payload, data[at + 2 : start])
        if opcode == PING:
            found.append(Ping(payload))
        elif opcode == CLOSE:
            found.append(_closing(payload))
            self._closed = True
        return end


def frame(payload: Data | bytearray, key: bytes, opcode: int = BINARY) -> bytes | bytearray:
    """One whole frame. `key`: 4 bytes that nobody can foresee, new for each frame of a client; `b""` for a server."""
    size = len(payload)
    masked = _MASKED if key else 0
    if size < _TWO_BYTES:
        head = bytes((_FIN | opcode, masked | size)) + key
    elif size < 1 << 16:
        head = struct.pack("!BBH", _FIN | opcode, masked | _TWO_BYTES, size) + key
    else:
        head = struct.pack("!BBQ", _FIN | opcode, masked | _EIGHT_BYTES, size) + key
    if not key or not size:
        return b"".join((head, payload))
    made = bytearray(len(head) + size)
    made[: len(head)] = head
    strxor(payload, _stream(key, size), output=memoryview(made)[len(head) :])
    return made


def closing(code: int, key: bytes) -> bytes | bytearray:
    """A closing frame; an answer to one without a code says `NORMAL_CLOSURE`."""
    return frame(struct.pack("!H", NORMAL_CLOSURE if code == NO_STATUS else code), key, CLOSE)


def _closing(payload: bytes) -> Closed:
    if not payload:
        return Closed(NO_STATUS, "")
    if len(payload) == 1:
        raise _WrongFrame("half a code in a closing frame")
    code = int.from_bytes(payload[:2], "big")
    if not any(code in codes for codes in _MAY_BE_SENT):
        raise _WrongFrame(f"code {code} must not stand in a closing frame")
    try:
        return Closed(code, payload[2:].decode("utf-8"))
    except UnicodeDecodeError:
        raise _WrongFrame("the reason in a closing frame is no UTF-8", BAD_TEXT) from None


def _xor(data: Data, key: bytes) -> bytes:
    return strxor(data, _stream(key, len(data))) if data else b""


def _stream(key: bytes, size: int) -> bytes:
    """The mask for so many bytes. pycryptodome XORs it: tables or large integers take ten times as long or more."""
    whole = key * (-(-size // 4))
    return whole if len(whole) == size else whole[:size]
