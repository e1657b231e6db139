"""multistream-select 1.0 as two `Handshake` cores: `Dialer` proposes, `Listener` answers.

Rules: pure. Header and first proposal leave in one piece, and so do header and answer: one round trip. An agreed
answer is byte for byte what was proposed, so the usual case on both sides is one comparison of the whole flight.
Every message is bounded (wire.py), a dialer sends each proposal once, a listener answers 64 of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from pyp2p.errors import LocalProtocolError, MultistreamError, NoCommonProtocol, printable
from pyp2p.multistream.wire import HEADER, NA, check_header, decode_line, encode_line, encode_list

MAX_PROPOSALS = 64  # a peer that guesses on and on costs us a table look-up and an answer each time
MAX_LISTS = 2  # `ls` costs the asker 4 bytes and us up to 64 KiB

_HEADER_SIZE = len(HEADER)
_DECLINED = HEADER + NA
_FIRST_TEXT = _HEADER_SIZE + 1  # where the first proposal's text starts when its length has one byte


@lru_cache(maxsize=1024)
def _opening(protocol: str) -> bytes:
    return HEADER + encode_line(protocol)


class Dialer:
    """Proposes `protocols`, best first, until the peer takes one.

    Header and first proposal are in the output from the start: whoever has a single offer may send payload right after
    them (lazy), and `done` says that the peer's answer was seen. Bounds: one proposal per protocol, 1024 bytes of
    unread input. multistream-select 1.0.
    """

    __slots__ = ("_answer", "_broken", "_buffer", "_greeted", "_offered", "_out", "_turn", "done", "leftover",
                 "result")  # fmt: skip

    result: str
    leftover: bytes

    def __init__(self, protocols: Sequence[str]) -> None:
        if not protocols or isinstance(protocols, str):
            raise LocalProtocolError("a dialer needs a sequence of at least one protocol")
        self._offered = tuple(protocols)
        self._turn = 0
        self._answer = self._out = _opening(protocols[0])
        self._buffer = b""
        self._greeted = False
        self._broken = ""
        self.done = False

    def take_output(self) -> bytes:
        """The bytes to send now; each byte is returned once."""
        out = self._out
        self._out = b""
        return out

    def feed(self, data: bytes) -> None:
        """Take the peer's answers.

        Raises `NoCommonProtocol` when all offers were declined and `MultistreamError` when the peer breaks a rule,
        and the same again on each later call.
        """
        if data.startswith(self._answer) and not self._buffer and not self._broken and not self.done:
            self._finish(data, len(self._answer))
        else:
            self._feed_messages(data)

    def _finish(self, data: bytes, end: int) -> None:
        self.result = self._offered[self._turn]
        self.leftover = data[end:]
        self._buffer = b""
        self.done = True

    def _feed_messages(self, data: bytes) -> None:
        if self.done:
            raise LocalProtocolError("the negotiation is over: its leftover belongs to the next layer")
        if self._turn == len(self._offered):
            raise NoCommonProtocol(self._offered)
        if self._broken:
            raise MultistreamError(self._broken)
        try:
            self._read(self._buffer + data if self._buffer else data)
        except MultistreamError as error:
            self._broken = str(error)
            self._buffer = b""
            raise

    def _read(self, buffer: bytes) -> None:
        offset = 0
        if not self._greeted:
            offset = check_header(buffer)
            self._greeted = offset > 0
            if not self._greeted:
                self._buffer = buffer
                return
            self._answer = encode_line(self._offered[0])
        while (message := decode_line(buffer, offset)) is not None:
            text, offset = message
            if text == self._offered[self._turn]:
                self._finish(buffer, offset)
                return
            elif text == "na":
                self._propose_next()
            else:
                raise MultistreamError(
                    f"proposed {printable(self._offered[self._turn])}, the answer was {printable(text)}"
                )
        self._buffer = buffer[offset:]

    def _propose_next(self) -> None:
        self._turn += 1
        if self._turn == len(self._offered):
            self._buffer = b""
            self._broken = "all declined"
            raise NoCommonProtocol(self._offered)
        self._answer = encode_line(self._offered[self._turn])
        self._out += self._answer


class Listener:
    """Answers proposals until one is ours: `match(protocol)` is true for it.

    The header leaves with the first answer, or alone when the peer sent its header alone. What we do not speak is
    answered with `na`, `ls` with `names()` (twice, then `na`). Bounds: 64 proposals, 1024 bytes of unread input,
    128 KiB of output. multistream-select 1.0.
    """

    __slots__ = ("_broken", "_buffer", "_greeted", "_lists", "_match", "_names", "_out", "_proposals", "done",
                 "leftover", "result")  # fmt: skip

    result: str
    leftover: bytes

    def __init__(self, match: Callable[[str], object], names: Callable[[], Sequence[str]] = tuple) -> None:
        self._match = match
        self._names = names
        self._out = b""
        self._buffer = b""
        self._greeted = False
        self._proposals = 0
        self._lists = 0
        self._broken = ""
        self.done = False

    def take_output(self) -> bytes:
        """The bytes to send now; each byte is returned once."""
        out = self._out
        self._out = b""
        return out

    def feed(self, data: bytes) -> None:
        """Take proposals. Raises `MultistreamError` when the peer breaks a rule, and again on each later call;
        answers that were due before stay in the output."""
        if self._greeted or self._buffer or self._broken or not self._take_opening(data):
            self._feed_messages(data)

    def _take_opening(self, data: bytes) -> bool:
        """Take header and first proposal in one step, if `data` starts with both and the line is short and plain."""
        if len(data) <= _FIRST_TEXT or not data.startswith(HEADER):
            return False
        size = data[_HEADER_SIZE]
        end = _FIRST_TEXT + size
        if not 3 < size < 0x80 or end > len(data) or data[end - 1] != 0x0A:  # 3: `na`, `ls`
            return False
        text = data[_FIRST_TEXT : end - 1]
        if not text.isascii():
            return False
        protocol = text.decode("ascii")
        if not protocol.isprintable():
            return False
        self._greeted = True
        if self._match(protocol):
            self._out = data[:end]
            self.result = protocol
            self.leftover = data[end:]
            self.done = True
        else:
            self._out = _DECLINED
            self._proposals = 1
            self._feed_messages(data[end:])
        return True

    def _feed_messages(self, data: bytes) -> None:
        if self.done:
            raise LocalProtocolError("the negotiation is over: its leftover belongs to the next layer")
        if self._broken:
            raise MultistreamError(self._broken)
        try:
            self._read(self._buffer + data if self._buffer else data)
        except MultistreamError as error:
            self._broken = str(error)
            self._buffer = b""
            raise

    def _read(self, buffer: bytes) -> None:
        offset = 0
        if not self._greeted:
            offset = check_header(buffer)
            self._greeted = offset > 0
            if not self._greeted:
                self._buffer = buffer
                return
            self._out = HEADER
        while (message := decode_line(buffer, offset)) is not None:
            text, offset = message
            if self._answer(text):
                self._buffer = b""
                self.result = text
                self.leftover = buffer[offset:]
                self.done = True
                return
        self._buffer = buffer[offset:]

    def _answer(self, text: str) -> bool:
        """Answer one proposal; True when it is agreed."""
        if self._proposals == MAX_PROPOSALS:
            raise MultistreamError(f"no agreement after {MAX_PROPOSALS} proposals")
        self._proposals += 1
        if text == "ls" and self._lists < MAX_LISTS:
            self._lists += 1
            self._out += encode_list(self._names())
            return False
        if text in ("ls", "na") or not self._match(text):
            self._out += NA
            return False
        self._out += encode_line(text)
        return True
