"""A mplex session without I/O (libp2p specs, mplex/README.md).

Rules: mplex has no flow control, so the only defence against a peer that sends faster than the application reads is to
reset that stream: at once when its buffer is full, or when it stays over half of it for too long. Both sides number
their streams from 0: a stream is known by its id and by who opened it. Messages are passed on piecewise as they arrive;
only a cut header (at most 17 bytes) is carried over.
"""

from __future__ import annotations

from typing import cast

from pyp2p.errors import LocalProtocolError, MuxerError
from pyp2p.io.handshake import Direction
from pyp2p.muxers.base import (
    Buffer,
    Data,
    Eof,
    MemoryBudget,
    MuxerLimits,
    MuxEvent,
    Opened,
    Reset,
    SubStream,
)
from pyp2p.muxers.bounds import CODE_RESOURCE_LIMIT, MemoryAccount, RapidReset
from pyp2p.muxers.mplex.wire import (
    CLOSE_INITIATOR,
    CLOSE_RECEIVER,
    MAX_BODY,
    MAX_HEADER,
    MAX_STREAM_ID,
    MESSAGE_INITIATOR,
    MESSAGE_RECEIVER,
    NEW_STREAM,
    PROTOCOL,
    RESET_INITIATOR,
    RESET_RECEIVER,
    header,
    read_header,
)

_TAKE = 256 * 1024  # one `send` takes at most this much: what then waits in the connection holds the sender back


class MplexStream(SubStream):
    """The record of one stream."""

    __slots__ = ("announced", "live", "slow_since", "unread")

    def __init__(self, stream_id: int, inbound: bool) -> None:
        super().__init__(stream_id, inbound)
        self.announced = inbound  # the peer knows of it
        self.live = True  # in the table of streams
        self.unread = 0
        self.slow_since: float | None = None  # over half of its buffer since then

    @property
    def key(self) -> int:
        """Id and opener in one number."""
        return self.id << 1 | self.inbound


class MplexSession:
    """One mplex connection: implements `muxers.base.Muxer`. All public numbers are for reading."""

    pings = False

    def __init__(self, limits: MuxerLimits, memory: MemoryBudget, now: float) -> None:
        self._limits = limits
        self._account = MemoryAccount(memory)
        self._streams: dict[int, MplexStream] = {}
        self._slow: dict[int, MplexStream] = {}
        self._next_id = 0
        self._highest_inbound = -1
        self._inbound = 0
        self._tail = b""  # a cut header
        self._left = 0  # bytes to come of the message being received
        self._body: MplexStream | None = None  # whose they are; None: dropped
        self._events: list[MuxEvent] = []  # of the `feed` that is running
        self._now = now
        self._out: list[Buffer] = []
        self._closing = False
        self._failed = False
        self._rapid = RapidReset(limits.open_rate, limits.open_burst, now)
        self.pending = 0
        self.strays = 0  # messages for ids never opened
        self.refused = 0  # streams of the peer that were answered with a reset
        self.overruns = 0  # streams reset because nobody read them in time

    @property
    def congested(self) -> bool:
        """See `Muxer.congested`: some stream is over half of its buffer."""
        return bool(self._slow)

    # -- input

    def feed(self, data: bytes, now: float) -> list[MuxEvent]:
        """See `Muxer.feed`."""
        if self._failed:
            raise MuxerError("the session has failed before")
        events = self._events = []
        self._now = now
        try:
            self._feed(data)
        except MuxerError:
            self._failed = True
            raise
        self._events = []
        return events

    def _feed(self, data: bytes) -> None:
        size = len(data)
        pos = 0
        if self._left:
            pos = self._body_piece(data, pos)
        elif self._tail:
            start = self._tail + data[:MAX_HEADER]
            found = read_header(start, 0)
            if found is None:
                self._tail = start  # shorter than a header, so this is all of `data`
                return
            pos = found[2] - len(self._tail)
            self._tail = b""
            self._on_header(found[0], found[1])
            pos = self._body_piece(data, pos)
        while pos < size:
            found = read_header(data, pos)
            if found is None:
                self._tail = data[pos:]
                return
            head, length, pos = found
            self._on_header(head, length)
            if length:
                pos = self._body_piece(data, pos)

    def _on_header(self, head: int, length: int) -> None:
        """Check a header and say by `_left` and `_body` what happens to the bytes that follow."""
        flag = head & 7
        stream_id = head >> 3
        if length > self._limits.max_frame:
            raise MuxerError(f"a message of {length} bytes")
        if flag > RESET_INITIATOR:
            raise MuxerError("frame flag 7")
        self._left = length
        self._body = None
        if flag == NEW_STREAM:
            self._on_new_stream(stream_id, length)
            return
        inbound = not flag & 1  # the sender is the initiator
        sub = self._streams.get(stream_id << 1 | inbound)
        if sub is None:
            self._on_stray(stream_id, inbound)
        elif flag <= MESSAGE_INITIATOR:
            if length and sub.fin_received:
                raise MuxerError(f"message after close on stream {stream_id}")
            self._body = sub
        elif flag <= CLOSE_INITIATOR:
            self._on_close(sub)
        else:
            self._on_reset(sub)

    def _body_piece(self, data: bytes, pos: int) -> int:
        """Pass on what `data` holds from `pos` of the current message; returns where that ends."""
        end = min(pos + self._left, len(data))
        count = end - pos
        self._left -= count
        sub = self._body
        if sub is None or not count:
            return end
        unread = sub.unread + count
        buffer = self._limits.stream_buffer
        if unread > buffer or not self._account.charge(count):
            self._overrun(sub, self._events)
            return end
        sub.unread = unread
        if unread > buffer >> 1 and sub.slow_since is None:
            sub.slow_since = self._now
            self._slow[sub.key] = sub
        self._events.append(Data(sub, data[pos:end]))
        return end

    def _on_new_stream(self, stream_id: int, name_length: int) -> None:
        """Register the peer's stream or answer with a reset; its name is for people and is dropped."""
        if name_length > self._limits.max_name:
            raise MuxerError(f"a stream name of {name_length} bytes")
        sub = MplexStream(stream_id, True)
        if sub.key in self._streams:
            raise MuxerError(f"stream {stream_id} is opened twice")
        self._highest_inbound = max(self._highest_inbound, stream_id)
        limits = self._limits
        if self._closing or self._inbound >= limits.max_inbound_streams:
            self.refused += not self._closing  # then it is for want of room
            self._queue(stream_id, RESET_RECEIVER)
            return
        self._streams[sub.key] = sub
        self._inbound += 1
        self._events.append(Opened(sub))

    def _on_stray(self, stream_id: int, inbound: bool) -> None:
        """A frame for no live stream: late when the id was in use before, else counted."""
        if not (stream_id <= self._highest_inbound if inbound else stream_id < self._next_id):
            self.strays += 1
            if self.strays > self._limits.max_stray_frames:
                raise MuxerError("too many frames for streams that never were")

    def _on_close(self, sub: MplexStream) -> None:
        if not sub.fin_received:
            sub.fin_received = True
            self._events.append(Eof(sub))
            if sub.fin_sent:
                self._forget(sub)

    def _on_reset(self, sub: MplexStream) -> None:
        if sub.inbound and not sub.used:
            self._rapid.count(self._now)
        sub.reset_code = 0
        sub.reset_by_peer = True
        self._forget(sub)
        self._events.append(Reset(sub))

    def _overrun(self, sub: MplexStream, events: list[MuxEvent]) -> None:
        self.overruns += 1
        self.reset(sub, CODE_RESOURCE_LIMIT)
        events.append(Reset(sub))

    # -- streams

    @property
    def can_open(self) -> bool:
        """See `Muxer.can_open`."""
        return not (self._closing or self._failed) and self._next_id <= MAX_STREAM_ID

    def open(self, now: float) -> MplexStream:
        """See `Muxer.open`. Mplex has no acknowledgement and so no limit on those outstanding."""
        if not self.can_open:
            raise LocalProtocolError("the session opens no more streams")
        sub = MplexStream(self._next_id, False)
        self._next_id += 1
        self._streams[sub.key] = sub
        return sub

    def accept(self, sub: SubStream) -> None:
        """See `Muxer.accept`. Mplex has no acknowledgement, so no peer could keep to a bound on those that are owed."""

    def writable(self, sub: SubStream) -> bool:
        """See `Muxer.writable`: always, while the stream is open for writing."""
        stream = cast(MplexStream, sub)
        return stream.live and not stream.fin_sent

    def send(self, sub: SubStream, data: Buffer) -> int:
        """See `Muxer.send`. Takes at most 256 KiB; never blocks, so there is never a `Writable`."""
        stream = cast(MplexStream, sub)
        if stream.fin_sent or not stream.live:
            raise LocalProtocolError(f"send on stream {stream.id} after its end")
        size = min(len(data), _TAKE)
        if not size:
            return 0
        self._announce(stream)
        flag = MESSAGE_RECEIVER if stream.inbound else MESSAGE_INITIATOR
        view = data if size == len(data) <= MAX_BODY else memoryview(data)
        for start in range(0, size, MAX_BODY):
            length = min(MAX_BODY, size - start)
            head = header(stream.id, flag, length)
            self._out.append(head)
            self._out.append(view if length == len(view) else view[start : start + length])
            self.pending += len(head) + length
        return size

    def consumed(self, sub: SubStream, count: int, now: float) -> bool:
        """See `Muxer.consumed`. Only gives memory back; never queues anything."""
        stream = cast(MplexStream, sub)
        if count > stream.unread:
            if stream.live:
                raise LocalProtocolError(f"{count} bytes taken from stream {stream.id}, which held {stream.unread}")
            count = stream.unread
        stream.unread -= count
        self._account.discharge(count)
        if stream.slow_since is not None and stream.unread <= self._limits.stream_buffer >> 1:
            self._no_longer_slow(stream)
        return False

    def fin(self, sub: SubStream) -> None:
        """See `Muxer.fin`."""
        stream = cast(MplexStream, sub)
        if stream.fin_sent or not stream.live:
            return
        self._announce(stream)
        stream.fin_sent = True
        self._queue(stream.id, CLOSE_RECEIVER if stream.inbound else CLOSE_INITIATOR)
        if stream.fin_received:
            self._forget(stream)

    def reset(self, sub: SubStream, code: int = 0) -> None:
        """See `Muxer.reset`. `code` stays here: mplex cannot carry it. What was not read is given up."""
        stream = cast(MplexStream, sub)
        if stream.live:
            stream.reset_code = code
            if stream.announced:
                self._queue(stream.id, RESET_RECEIVER if stream.inbound else RESET_INITIATOR)
            if self._body is stream:
                self._body = None
            self._forget(stream)
        if stream.unread:
            self._account.discharge(stream.unread)
            stream.unread = 0

    def _announce(self, stream: MplexStream) -> None:
        """Open the stream at the peer, without a name, right before its first frame."""
        if not stream.announced:
            stream.announced = True
            self._queue(stream.id, NEW_STREAM)

    def _forget(self, stream: MplexStream) -> None:
        """Take a stream that is over out of the table; what it holds unread stays paid for until it is read."""
        stream.live = False
        del self._streams[stream.key]
        self._no_longer_slow(stream)
        if stream.inbound:
            self._inbound -= 1

    def _no_longer_slow(self, stream: MplexStream) -> None:
        if stream.slow_since is not None:
            stream.slow_since = None
            del self._slow[stream.key]

    # -- session

    def ping(self, now: float) -> None:
        """Mplex has no ping: `pings` is False."""
        raise LocalProtocolError("mplex has no ping")

    def goaway(self, code: int, word: str = "") -> None:
        """See `Muxer.goaway`. Mplex has no word for it: only new streams are refused from now on."""
        self._closing = True

    def _queue(self, stream_id: int, flag: int) -> None:
        head = header(stream_id, flag, 0)
        self._out.append(head)
        self.pending += len(head)

    def take_output(self) -> list[Buffer]:
        """See `Muxer.take_output`."""
        out = self._out
        self._out = []
        self.pending = 0
        return out

    def release_all(self) -> None:
        """See `Muxer.release_all`."""
        self._account.close()

    def tick(self, now: float) -> list[MuxEvent]:
        """Reset the streams that have been over half of their buffer for `stall_seconds`."""
        events: list[MuxEvent] = []
        patience = self._limits.stall_seconds
        for stream in list(self._slow.values()):
            if stream.slow_since is not None and now - stream.slow_since >= patience:
                self._overrun(stream, events)
        return events


class Mplex:
    """The mplex protocol, to be offered in multistream-select after yamux."""

    protocol = PROTOCOL

    def session(self, direction: Direction, limits: MuxerLimits, memory: MemoryBudget, now: float) -> MplexSession:
        """See `MuxerFactory.session`; mplex does not care who dialled."""
        return MplexSession(limits, memory, now)
