"""What a muxer gives the switch: streams as records, bytes in, events out, output to take.

Rules: the `SubStream` record in the muxer is the one truth about a stream. Only `feed` raises `MuxerError`. Events come
in wire order and carry all payload that came before a FIN or RST.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from pyp2p.io.handshake import Direction

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class MuxerLimits:
    """Bounds of one muxed connection; each field names the attack that it stops."""

    max_inbound_streams: int = 1000  # SYN floods: each further stream is reset
    max_unaccepted: int = 256  # streams that we have not answered (ACK backlog)
    max_outbound_unacked: int = 256  # our own opens that the peer has not acknowledged
    max_window: int = 16 * 1024 * 1024  # how far a busy stream's receive window may grow
    max_queued_pongs: int = 32  # ping flood by a peer that does not read
    max_stray_frames: int = 1000  # frames for streams that never were
    open_rate: float = 256.0  # streams per second that a peer may open and reset before any useful byte (rapid reset)
    open_burst: int = 1000
    max_frame: int = 1024 * 1024  # mplex: one message
    stream_buffer: int = 4 * 1024 * 1024  # mplex: unread bytes per stream, then the stream is reset
    stall_seconds: float = 5.0  # mplex: how long a stream may stay over half of its buffer
    max_name: int = 1024  # mplex: the debug name of a stream


class SubStream:
    """The muxer's record of one stream. Its fields are for reading: only the muxer changes them, but the last two."""

    __slots__ = ("fin_received", "fin_sent", "id", "inbound", "owner", "reset_by_peer", "reset_code", "used")

    def __init__(self, stream_id: int, inbound: bool) -> None:
        self.id = stream_id
        self.inbound = inbound
        self.fin_sent = False
        self.fin_received = False
        self.reset_code: int | None = None  # set by either side's RST
        self.reset_by_peer = False
        self.owner: Any = None  # the stream object of the layer above, set by it
        self.used = False  # the application took or sent a byte: set by the layer above


@dataclass(slots=True)
class Opened:
    """The peer opened a stream."""

    sub: SubStream


@dataclass(slots=True)
class Data:
    """Payload for a stream, in order; never empty."""

    sub: SubStream
    data: bytes


@dataclass(slots=True)
class Writable:
    """The peer granted credit: a sender that waited may go on."""

    sub: SubStream


@dataclass(slots=True)
class Eof:
    """The peer sends no more on this stream."""

    sub: SubStream


@dataclass(slots=True)
class Reset:
    """The stream is dead in both directions; `sub.reset_code` says why."""

    sub: SubStream


@dataclass(slots=True)
class GoAway:
    """The peer opens and accepts no more streams (0 normal, 1 protocol error, 2 internal error)."""

    code: int


@dataclass(slots=True)
class Pong:
    """The answer to our ping; `rtt` in seconds."""

    rtt: float


MuxEvent = Opened | Data | Writable | Eof | Reset | GoAway | Pong


class Muxer(Protocol):
    """Many streams over one ordered channel, without I/O. All times are monotonic seconds given by the caller."""

    @property
    def pending(self) -> int:
        """Bytes waiting in `take_output`."""
        ...

    @property
    def pings(self) -> bool:
        """True when the muxer has its own ping (yamux); else the connection pings by a stream."""
        ...

    @property
    def refused(self) -> int:
        """How many streams of the peer were answered with a reset for want of room."""
        ...

    @property
    def overruns(self) -> int:
        """How many streams were reset because what nobody had read of them went over a bound."""
        ...

    @property
    def congested(self) -> bool:
        """True while some stream holds so much unread data that no more should be read from the peer (mplex, which has
        no flow control; `tick` ends it after `stall_seconds` by resetting the stream)."""
        ...

    def feed(self, data: bytes, now: float) -> list[MuxEvent]:
        """Take input and return what it means. Raises `MuxerError`; the muxer is dead then, `goaway` still works."""
        ...

    def open(self, now: float) -> SubStream:
        """Open a stream. Nothing need be sent before its first data. Raises `LimitExceeded` over the ACK backlog and
        `LocalProtocolError` after a GoAway in either direction (check `can_open`)."""
        ...

    @property
    def can_open(self) -> bool:
        """False after a GoAway in either direction or when ids are used up."""
        ...

    def writable(self, sub: SubStream) -> bool:
        """True when `send` would take at least one byte."""
        ...

    def send(self, sub: SubStream, data: Buffer) -> int:
        """Queue `data` as far as the window allows and return how many bytes were taken (0: wait for `Writable`).

        Nothing is copied: `data` must not change until `take_output`. After FIN or reset: `LocalProtocolError`.
        """
        ...

    def consumed(self, sub: SubStream, count: int, now: float) -> bool:
        """The application took `count` bytes; True when credit was queued, so that a flush is worth it."""
        ...

    def accept(self, sub: SubStream) -> None:
        """Acknowledge an inbound stream: it no longer counts as unaccepted, and the ACK rides on its next frame."""
        ...

    def fin(self, sub: SubStream) -> None:
        """Send no more on this stream (after all data sent before, in a frame of its own). Idempotent."""
        ...

    def reset(self, sub: SubStream, code: int = 0) -> None:
        """End the stream both ways at once. Idempotent."""
        ...

    def ping(self, now: float) -> None:
        """Queue a ping whose answer is a `Pong` event (only where `pings`)."""
        ...

    def goaway(self, code: int, word: str = "") -> None:
        """Announce the end of the session, with a word for people where the protocol has a place for it. Idempotent."""
        ...

    def take_output(self) -> list[Buffer]:
        """All queued frames as buffers to be joined; each is returned once."""
        ...

    def release_all(self) -> None:
        """Give back all reserved memory: the connection is gone."""
        ...

    def tick(self, now: float) -> list[MuxEvent]:
        """Deadlines that the muxer itself owns (mplex: streams that stay over their buffer); call once a second."""
        ...


class MemoryBudget:
    """A bounded number of bytes that many holders share, nested: what is taken here is taken from the parent too."""

    __slots__ = ("limit", "parent", "used")

    def __init__(self, limit: int, parent: MemoryBudget | None = None) -> None:
        self.limit = limit
        self.parent = parent
        self.used = 0

    def reserve(self, count: int) -> bool:
        """Take `count` bytes, all or nothing; False when this budget or one above it is exhausted."""
        if self.used + count > self.limit or (self.parent is not None and not self.parent.reserve(count)):
            return False
        self.used += count
        return True

    def release(self, count: int) -> None:
        """Give back `count` bytes that were reserved."""
        self.used -= count
        if self.parent is not None:
            self.parent.release(count)


class MuxerFactory(Protocol):
    """A muxer protocol that can be offered in multistream-select."""

    protocol: str

    def session(self, direction: Direction, limits: MuxerLimits, memory: MemoryBudget, now: float) -> Muxer:
        """A fresh session; `direction` is that of the connection (the dialer uses odd yamux ids).

        `memory` pays for unread data and for receive windows beyond the initial ones; whoever ends the session calls
        `release_all`.
        """
        ...
