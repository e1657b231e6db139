"""Requests and responses as machines: bytes in, values out, nothing awaited (consensus-specs p2p-interface, "The
Req/Resp domain").

Rules: pure. A length is judged before one byte of its payload is waited for, and the payload's framing bounds the bytes
after it, so a reader never holds more than one payload may take and what one read brought. Readers raise `WireError`,
whose text names the rule; they are good for nothing then. Writers check what they are given by the same declaration.

    request        = length || framed payload            (nothing at all when the method has no request type)
    response chunk = result || context || length || framed payload
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from pyp2p.errors import LocalProtocolError, WireError, printable
from pyp2p.io.varint import decode, encode
from pyp2p.reqresp.codec import Bounds, Framing, Kind, PayloadReader
from pyp2p.reqresp.declare import Method

Rq = TypeVar("Rq")
Rs = TypeVar("Rs")

SUCCESS: Final = 0
INVALID_REQUEST: Final = 1
SERVER_ERROR: Final = 2
RESOURCE_UNAVAILABLE: Final = 3
FIRST_OWN: Final = 128  # results from here are the implementation's own; those between are reserved
MAX_ERROR_TEXT: Final = 256  # bytes; ErrorMessage is List[byte, 256]
_ERROR_BOUNDS: Final = Bounds(0, MAX_ERROR_TEXT)
_LENGTH_BYTES: Final = 10  # a length may take 64 bits


class _PayloadBuffer:
    """Bytes that came and are not used yet, and the payload that is being read from their start."""

    __slots__ = ("_reader", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self._reader: PayloadReader | None = None

    @property
    def inside(self) -> bool:
        """True between the length of a payload and its end."""
        return self._reader is not None

    def begin(self, framing: Framing, bounds: Bounds, start: int, what: str) -> bool:
        """Judge the length that stands `start` bytes into the data and drop both; False while it is not all there."""
        head = decode(self.data, start, _LENGTH_BYTES, minimal=False)  # a sender should, a reader bears it
        if head is None:
            return False
        length, end = head
        bounds.check(length, what)
        del self.data[:end]
        self._reader = framing.reader(length)
        return True

    def take(self) -> bytes | None:
        """The payload, and what it took is dropped; None while it is not all there."""
        if self._reader is None:
            return None
        end = self._reader.scan(self.data)
        if end is None:
            return None
        with memoryview(self.data) as view, view[:end] as framed:
            payload = self._reader.payload(framed)
        del self.data[:end]
        self._reader = None
        return payload


class RequestReader(Generic[Rq, Rs]):
    """Reads one request up to the end of the stream: the server's half."""

    def __init__(self, method: Method[Rq, Rs]) -> None:
        self._method = method
        self._buffer = _PayloadBuffer()
        self._payload: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes. Raises `WireError`: a length out of bounds, a bad payload, bytes after it."""
        buffer = self._buffer
        buffer.data += data
        kind = self._method.request
        if kind is not None and self._payload is None:
            if not buffer.inside and not buffer.begin(self._method.framing, kind.bounds, 0, kind.name):
                return
            self._payload = buffer.take()
            if self._payload is None:
                return
        if buffer.data:
            raise WireError(f"{len(buffer.data)} bytes or more after the request")

    def finish(self) -> Rq:
        """The stream has ended: the request. Raises `RemoteError` when it is cut, or no value of its type."""
        kind = self._method.request
        if kind is None:
            return cast("Rq", None)  # which `Rq` is where nothing is sent: see `Method`
        if self._payload is None:
            raise WireError(
                "the stream ended inside the request" if self._begun else "the stream ended before a request"
            )
        return kind.decode(self._payload)

    @property
    def _begun(self) -> bool:
        return self._buffer.inside or bool(self._buffer.data)


def request_bytes(method: Method[Rq, Rs], payload: bytes) -> bytes:
    """What goes over the wire for the payload that `Method.encode_request` gave."""
    if method.request is None:
        return b""
    return encode(len(payload)) + method.framing.pack(payload)


@dataclass(frozen=True, slots=True)
class Chunk(Generic[Rs]):
    """A chunk of an answer."""

    value: Rs


@dataclass(frozen=True, slots=True)
class ErrorChunk:
    """The answer ends with an error: the peer's `code` (1 to 3, or from 128) and its text, escaped."""

    code: int
    text: str


class ResponseReader(Generic[Rq, Rs]):
    """Reads the answer to `request`: the client's half. It is pulled: nothing is decoded before it is asked for."""

    def __init__(self, method: Method[Rq, Rs], request: Rq) -> None:
        self.count = 0
        self._method = method
        self._request = request
        self._most = method.chunks(request)
        self._buffer = _PayloadBuffer()
        self._kind: Kind[Rs] | None = None  # of the chunk that is being read
        self._error: int | None = None  # the result of the error chunk that is being read
        self._before: Rs | None = None

    @property
    def full(self) -> bool:
        """True when there were as many chunks as there may be: nothing more is waited for."""
        return self.count >= self._most

    def feed(self, data: bytes) -> None:
        """Take bytes; `next` tells what they are."""
        self._buffer.data += data

    def next(self) -> Chunk[Rs] | ErrorChunk | None:
        """What comes next; None when that needs more bytes, or nothing more may come.

        After an error chunk it is not to be asked again: what may stand behind it means nothing.

        Raises `RemoteError`: a result that is reserved, an unknown context, a length out of bounds, a bad payload, a
        chunk that the method complains about, bytes after the last chunk that may come.
        """
        buffer = self._buffer
        if self.full and not buffer.inside:
            if buffer.data:
                raise WireError(f"more than the {self._most} chunks that were asked for")
            return None
        if not buffer.inside and not self._head():
            return None
        payload = buffer.take()
        if payload is None:
            return None
        if self._error is not None:
            return ErrorChunk(self._error, printable(payload, MAX_ERROR_TEXT))
        return Chunk(self._value(payload))

    def finish(self) -> None:
        """The stream has ended. Raises `WireError` when that cuts a chunk, or when chunks are missing."""
        if self._buffer.inside or self._buffer.data:
            raise WireError(f"the stream ended inside chunk {self.count + 1}")
        if self.count < self._method.least:
            raise WireError(f"the stream ended after {self.count} chunks, at least {self._method.least} are due")

    def _head(self) -> bool:
        """Judge what stands before a payload; False while it is not all there."""
        buffer, method, start = self._buffer, self._method, 0
        if method.results:
            if not buffer.data:
                return False
            start = 1
            if (code := buffer.data[0]) != SUCCESS:
                if RESOURCE_UNAVAILABLE < code < FIRST_OWN:
                    raise WireError(f"result {code} is reserved")
                if not buffer.begin(method.framing, _ERROR_BOUNDS, start, f"the error text of result {code}"):
                    return False
                self._error = code
                return True
        response = method.response
        if isinstance(response, Kind):
            kind = response
        else:
            end = start + response.size
            if len(buffer.data) < end:
                return False
            context = bytes(buffer.data[start:end])
            known = response.kind(context)
            if known is None:
                raise WireError(f"chunk {self.count + 1} has the unknown context {context.hex()}")
            kind, start = known, end
        self._kind = kind
        return buffer.begin(method.framing, kind.bounds, start, kind.name)

    def _value(self, payload: bytes) -> Rs:
        kind = self._kind
        if kind is None:
            raise LocalProtocolError("a payload without a head")
        value = kind.decode(payload)
        method = self._method
        if method.complaint is not None:
            wrong = method.complaint(self._request, value, self._before)
            if wrong is not None:
                raise WireError(f"chunk {self.count + 1}: {wrong}")
            self._before = value
        self.count += 1
        return value


class ResponseWriter(Generic[Rq, Rs]):
    """Writes the answer to a request: the server's other half, held to the same declaration."""

    def __init__(self, method: Method[Rq, Rs], most: int) -> None:
        self.count = 0
        self._method = method
        self._most = most

    @property
    def full(self) -> bool:
        """True when there were as many chunks as there may be."""
        return self.count >= self._most

    def chunk(self, value: Rs) -> bytes:
        """A chunk as bytes. Raises `ValueError` (`LocalProtocolError`), before anything is counted, for a value out of
        its bounds or of an unknown context, and for one chunk too many."""
        if self.full:
            raise LocalProtocolError(f"more than the {self._most} chunks that were asked for")
        method = self._method
        head = bytes((SUCCESS,)) if method.results else b""
        response = method.response
        if isinstance(response, Kind):
            kind = response
        else:
            context = response.of(value)
            known = response.kind(context) if len(context) == response.size else None
            if known is None:
                raise LocalProtocolError(f"the context {context.hex()} is none of those declared")
            kind = known
            head += context
        payload = kind.encode(value)
        if len(payload) not in kind.bounds:
            raise LocalProtocolError(f"{kind.name} of {len(payload)} bytes, where {kind.bounds} are allowed")
        self.count += 1
        return b"".join((head, encode(len(payload)), method.framing.pack(payload)))

    def error(self, code: int, text: str | bytes) -> bytes:
        """An error chunk as bytes; the text is cut at 256 bytes, between characters. Empty when the method has no
        result bytes: then only a reset can say that there is no answer.

        Raises `LocalProtocolError` for a code that is success or reserved.
        """
        if not (SUCCESS < code <= RESOURCE_UNAVAILABLE or FIRST_OWN <= code <= 255):
            raise LocalProtocolError(f"result {code} is no error, or reserved")
        if not self._method.results:
            return b""
        raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
        if len(raw) > MAX_ERROR_TEXT:
            raw = raw[:MAX_ERROR_TEXT]
            if isinstance(text, str):
                raw = raw.decode("utf-8", "ignore").encode()
        return b"".join((bytes((code,)), encode(len(raw)), self._method.framing.pack(raw)))
