"""What is fuzzed of WebSockets: the HTTP exchange from both ends, and frames."""

import struct
from collections.abc import Iterable, Iterator

from wsproto.utilities import generate_accept_token

from pyp2p.errors import WebSocketError
from pyp2p.transports.wsframes import BINARY, CLOSE, PING, Closed, FrameReader, Ping, closing, frame
from pyp2p.transports.wsopening import Opening

_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_REQUEST = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: " + _KEY + b"\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + generate_accept_token(_KEY) + b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
)
_MASK = b"\x37\xfa\x21\x3d"


def requests() -> Iterator[bytes]:
    """What a client asks, and frames after it."""
    yield _REQUEST + bytes(frame(b"early", _MASK))
    yield _REQUEST.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi")


def answers() -> Iterator[bytes]:
    """What a server answers; the key is never right, or the fuzzer would have to find a SHA-1."""
    yield _ANSWER
    yield b"HTTP/1.1 100 Continue\r\n\r\n" + _ANSWER
    yield b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://b/\r\nContent-Length: 2\r\n\r\nhi"


def one_opening(authority: str | None, pieces: Iterable[bytes]) -> None:
    """It is done, waits for more, or says what is wrong; a listener then has an answer, or nothing to say."""
    opening = Opening(authority)
    opening.take_output()
    for piece in pieces:
        wrong: WebSocketError | None = None
        try:
            opening.feed(piece)
        except WebSocketError as error:
            wrong = error
        if wrong is not None:
            assert len(str(wrong)) < 2_000 and str(wrong).isprintable()
            assert opening.take_output()[:5] in (b"", b"HTTP/")
            raise wrong
        if opening.done:
            assert authority is None, "no answer has the key that we asked with"
            assert opening.take_output().startswith(b"HTTP/1.1 101")
            return


def frames() -> Iterator[bytes]:
    """Streams of frames of a server (an even first byte) and a client (an odd one)."""
    for first, key in ((b"\0", b""), (b"\1", _MASK)):
        fragment = bytearray(frame(b"one", key))
        fragment[0] &= 0x7F
        said = [bytes(fragment), frame(b"?", key, PING), frame(b"two", key, 0), frame(bytes(300), key, BINARY)]
        yield first + b"".join(said) + bytes(closing(1000, key))
        yield first + bytes(frame(struct.pack("!H", 3000) + b"bye", key, CLOSE))


def one_stream_of_frames(masked: bool, pieces: Iterable[bytes]) -> None:
    """No more payload comes out than went in, nothing after the end, and little is kept."""
    reader = FrameReader(masked)
    fed = told = 0
    closed = False
    for piece in pieces:
        fed += len(piece)
        for each in reader.feed(piece):
            assert not closed
            closed = isinstance(each, Closed)
            told += len(each.payload) if isinstance(each, Ping) else 0 if isinstance(each, Closed) else len(each)
        assert told <= fed
        assert len(reader._tail) <= 130
