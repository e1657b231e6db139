"""A yamux session without I/O (libp2p specs, yamux/README.md).

Rules: header checks come before anything is registered or buffered. Payload is passed on piecewise as it arrives; only
a cut header (at most 11 bytes) is carried over. Frames for streams that are over are normal and dropped; what no honest
peer sends ends the session. A stream's first frame carries SYN or ACK, so `open` and `accept` queue nothing.
"""

from __future__ import annotations

from typing import cast

from pyp2p.errors import LimitExceeded, LocalProtocolError, MuxerError
from pyp2p.io.handshake import Direction
from pyp2p.muxers.base import (
    Buffer,
    Data,
    Eof,
    GoAway,
    MemoryBudget,
    MuxerLimits,
    MuxEvent,
    Opened,
    Pong,
    Reset,
    SubStream,
    Writable,
)
from pyp2p.muxers.bounds import CODE_RESOURCE_LIMIT, CODE_SHUTDOWN, MemoryAccount, RapidReset
from pyp2p.muxers.yamux.window import ReceiveWindow
from pyp2p.muxers.yamux.wire import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    GO_AWAY_WORD,
    HEADER,
    HEADER_SIZE,
    INITIAL_WINDOW,
    MAX_BODY,
    MAX_U32,
    PING,
    PING_WORD,
    PROTOCOL,
    RST,
    SYN,
    WINDOW_UPDATE,
    WINDOW_WORD,
)

_pack = HEADER.pack
_unpack_from = HEADER.unpack_from


class YamuxStream(SubStream):
    """The record of one stream with its two windows."""

    __slots__ = ("acknowledged", "blocked", "flags", "live", "send_window", "window")

    def __init__(self, stream_id: int, inbound: bool, window: ReceiveWindow, send_window: int) -> None:
        super().__init__(stream_id, inbound)
        self.window = window
        self.send_window = send_window
        self.flags = 0 if inbound else SYN  # to ride on our next frame
        self.acknowledged = False  # by us when inbound, else by the peer
        self.blocked = False  # a sender was told to wait
        self.live = True  # in the table of streams


class YamuxSession:
    """One yamux connection: implements `muxers.base.Muxer`. All public numbers are for reading."""

    pings = True
    congested = False  # streams have windows

    def __init__(self, direction: Direction, limits: MuxerLimits, memory: MemoryBudget, now: float) -> None:
        self._limits = limits
        self._account = MemoryAccount(memory)
        self._streams: dict[int, YamuxStream] = {}
        self._next_id = 1 if direction.outbound else 2
        self._peer_parity = 0 if direction.outbound else 1
        self._highest_inbound = 0
        self._inbound = 0
        self._unaccepted = 0
        self._unacked = 0
        self._tail = b""  # a cut header
        self._left = 0  # bytes to come of the frame being received
        self._body: YamuxStream | None = None  # whose they are; None: dropped
        self._ending = 0  # FIN or RST that takes effect after them
        self._events: list[MuxEvent] = []  # of the `feed` that is running
        self._now = now
        self._out: list[Buffer] = []
        self._pongs = 0
        self._ping_value = 0
        self._ping_sent: float | None = None
        self._goaway_sent = False
        self._goaway_received = False
        self._failed = False
        self._rapid = RapidReset(limits.open_rate, limits.open_burst, now)
        self.pending = 0
        self.rtt: float | None = None  # of the latest ping
        self.strays = 0  # frames for ids never opened
        self.refused = 0  # streams of the peer that were answered with RST
        self.overruns = 0  # streams reset because their data could not be paid for

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
        events = self._events
        size = len(data)
        pos = 0
        if self._left:
            pos = self._body_piece(data, pos)
        elif self._tail:
            pos = HEADER_SIZE - len(self._tail)
            header = self._tail + data[:pos]
            if size < pos:
                self._tail = header
                return
            self._tail = b""
            word, sid, length = _unpack_from(header)
            pos = self._frame(word, sid, length, data, pos)
        find = self._streams.get
        charge = self._account.charge
        last = size - HEADER_SIZE
        while pos <= last:
            word, sid, length = _unpack_from(data, pos)
            pos += HEADER_SIZE
            end = pos + length
            # The hot path: a whole, plain data frame for a live stream. Everything else is `_frame`'s.
            if not word and length and end <= size:
                sub = find(sid)
                if sub is not None and not sub.fin_received and length <= sub.window.credit:
                    window = sub.window
                    window.credit -= length
                    unread = window.unread + length
                    over = unread - window.grown
                    if over <= 0 or charge(length if length < over else over):
                        window.unread = unread
                        events.append(Data(sub, data[pos:end]))
                    else:
                        self._cannot_pay(sub)
                    pos = end
                    continue
            pos = self._frame(word, sid, length, data, pos)
        if pos < size:
            self._tail = data[pos:]

    def _frame(self, word: int, sid: int, length: int, data: bytes, pos: int) -> int:
        """One frame whose header ends at `pos`; returns where its part in `data` ends."""
        kind = word >> 16  # a version other than 0 makes this larger than any type
        flags = word & 0xFFFF
        if kind <= WINDOW_UPDATE and not sid:
            raise MuxerError("a stream's frame with the session's id 0")
        if kind == DATA:
            return self._on_data(flags, sid, length, data, pos)
        if kind == WINDOW_UPDATE:
            self._on_window_update(flags, sid, length)
        elif kind == PING:
            self._on_ping(flags, sid, length)
        elif kind == GO_AWAY:
            if sid:
                raise MuxerError(f"GoAway on stream {sid}")
            self._goaway_received = True
            self._events.append(GoAway(length))
        else:
            raise MuxerError(f"version {kind >> 8}, frame type {kind & 0xFF}")
        return pos

    def _on_data(self, flags: int, sid: int, length: int, data: bytes, pos: int) -> int:
        sub = self._streams.get(sid)
        if flags & SYN:
            if length > INITIAL_WINDOW:
                raise MuxerError(f"stream {sid} opens with {length} bytes, over its window")
            sub = self._on_syn(sid, sub, INITIAL_WINDOW)
        elif sub is None:
            self._on_stray(sid)
            if length > max(self._limits.max_window, INITIAL_WINDOW):
                raise MuxerError(f"{length} bytes for stream {sid}, over any window")
        if sub is not None:
            if flags & ACK:
                self._on_ack(sub)
            if length:
                if sub.fin_received:
                    raise MuxerError(f"data after FIN on stream {sid}")
                if length > sub.window.credit:
                    raise MuxerError(f"{length} bytes for stream {sid}, whose window is {sub.window.credit}")
                sub.window.credit -= length
        self._left = length
        self._body = sub
        self._ending = flags & (FIN | RST)
        return self._body_piece(data, pos)

    def _body_piece(self, data: bytes, pos: int) -> int:
        """Pass on what `data` holds from `pos` of the current frame's body; returns where that ends."""
        end = min(pos + self._left, len(data))
        self._left -= end - pos
        sub = self._body
        if sub is not None and end > pos:
            if sub.window.arrived(end - pos, self._account):
                self._events.append(Data(sub, data[pos:end]))
            else:
                self._cannot_pay(sub)
                sub = None
        if not self._left:
            self._body = None
            if sub is not None and self._ending:
                self._on_end(sub, self._ending, 0)
        return end

    def _on_window_update(self, flags: int, sid: int, delta: int) -> None:
        code = 0
        if flags & RST:
            code, delta = delta, 0  # a RST carries its reason where others carry credit
        sub = self._streams.get(sid)
        if flags & SYN:
            if delta > MAX_U32 - INITIAL_WINDOW:
                raise MuxerError(f"the window of stream {sid} overflows")
            sub = self._on_syn(sid, sub, INITIAL_WINDOW + delta)
        elif sub is None:
            self._on_stray(sid)
        elif delta:
            self._on_credit(sub, delta)
        if sub is not None and flags:
            if flags & ACK:
                self._on_ack(sub)
            if flags & (FIN | RST):
                self._on_end(sub, flags, code)

    def _on_credit(self, sub: YamuxStream, delta: int) -> None:
        window = sub.send_window + delta
        if window > MAX_U32:
            raise MuxerError(f"the window of stream {sub.id} overflows")
        sub.send_window = window
        if sub.blocked:
            sub.blocked = False
            if not sub.fin_sent:
                self._events.append(Writable(sub))

    def _on_syn(self, sid: int, live: YamuxStream | None, send_window: int) -> YamuxStream | None:
        """Register the peer's stream, or answer with RST and return None."""
        if sid & 1 != self._peer_parity:
            raise MuxerError(f"SYN for stream {sid}, whose parity is ours")
        if live is not None:
            raise MuxerError(f"SYN for stream {sid}, which is open")
        self._highest_inbound = max(self._highest_inbound, sid)
        limits = self._limits
        if self._goaway_sent:  # it crossed our GoAway: no want of room
            self._queue(WINDOW_WORD | RST, sid, CODE_SHUTDOWN)
            return None
        if self._inbound >= limits.max_inbound_streams or self._unaccepted >= limits.max_unaccepted:
            self.refused += 1
            self._queue(WINDOW_WORD | RST, sid, CODE_RESOURCE_LIMIT)
            return None
        sub = YamuxStream(sid, True, ReceiveWindow(INITIAL_WINDOW, self._now), send_window)
        self._streams[sid] = sub
        self._inbound += 1
        self._unaccepted += 1
        self._events.append(Opened(sub))
        return sub

    def _cannot_pay(self, sub: YamuxStream) -> None:
        self.overruns += 1
        self.reset(sub, CODE_RESOURCE_LIMIT)
        self._events.append(Reset(sub))

    def _on_ack(self, sub: YamuxStream) -> None:
        if not sub.inbound and not sub.acknowledged:
            sub.acknowledged = True
            self._unacked -= 1

    def _on_stray(self, sid: int) -> None:
        """A frame for no live stream: late when the id was in use before, else counted."""
        known = sid <= self._highest_inbound if sid & 1 == self._peer_parity else sid < self._next_id
        if not known:
            self.strays += 1
            if self.strays > self._limits.max_stray_frames:
                raise MuxerError("too many frames for streams that never were")

    def _on_end(self, sub: YamuxStream, flags: int, code: int) -> None:
        if flags & RST:
            if sub.inbound and not sub.used:
                self._rapid.count(self._now)  # opened and reset before anyone used it
            sub.reset_code = code
            sub.reset_by_peer = True
            self._forget(sub)
            self._events.append(Reset(sub))
        elif not sub.fin_received:
            sub.fin_received = True
            self._events.append(Eof(sub))
            if sub.fin_sent:
                self._forget(sub)

    def _on_ping(self, flags: int, sid: int, value: int) -> None:
        if sid:
            raise MuxerError(f"ping on stream {sid}")
        if flags & SYN:
            self._pongs += 1
            if self._pongs > self._limits.max_queued_pongs:
                raise MuxerError("too many pings at once")
            self._queue(PING_WORD | ACK, 0, value)
        elif flags & ACK and self._ping_sent is not None and value == self._ping_value:
            self.rtt = self._now - self._ping_sent
            self._ping_sent = None
            self._events.append(Pong(self.rtt))

    # -- streams

    @property
    def can_open(self) -> bool:
        """See `Muxer.can_open`."""
        return not (self._goaway_sent or self._goaway_received or self._failed) and self._next_id <= MAX_U32

    def open(self, now: float) -> YamuxStream:
        """See `Muxer.open`."""
        if not self.can_open:
            raise LocalProtocolError("the session opens no more streams")
        if self._unacked >= self._limits.max_outbound_unacked:
            raise LimitExceeded("max_outbound_unacked", f"{self._unacked} streams wait for the peer's acknowledgement")
        sub = YamuxStream(self._next_id, False, ReceiveWindow(INITIAL_WINDOW, now), INITIAL_WINDOW)
        self._streams[self._next_id] = sub
        self._next_id += 2
        self._unacked += 1
        return sub

    def accept(self, sub: SubStream) -> None:
        """See `Muxer.accept`."""
        stream = cast(YamuxStream, sub)
        if stream.inbound and stream.live and not stream.acknowledged:
            stream.acknowledged = True
            stream.flags = ACK
            self._unaccepted -= 1

    def writable(self, sub: SubStream) -> bool:
        """See `Muxer.writable`. A no for want of credit counts as waiting: `Writable` follows."""
        stream = cast(YamuxStream, sub)
        if stream.fin_sent or not stream.live:
            return False
        if not stream.send_window:
            stream.blocked = True
            return False
        return True

    def send(self, sub: SubStream, data: Buffer) -> int:
        """See `Muxer.send`. `data` is bytes-like with items of one byte."""
        stream = cast(YamuxStream, sub)
        if stream.fin_sent or not stream.live:
            raise LocalProtocolError(f"send on stream {stream.id} after its end")
        size = len(data)
        window = stream.send_window
        if size > window:
            stream.blocked = True
            size = window
        if not size:
            return 0
        stream.send_window = window - size
        out = self._out
        flags = stream.flags
        stream.flags = 0
        if size <= MAX_BODY:
            out.append(_pack(flags, stream.id, size))
            out.append(data if size == len(data) else memoryview(data)[:size])
            self.pending += HEADER_SIZE + size
            return size
        view = memoryview(data)
        for start in range(0, size, MAX_BODY):
            end = min(start + MAX_BODY, size)
            out.append(_pack(flags, stream.id, end - start))
            out.append(view[start:end])
            flags = 0
            self.pending += HEADER_SIZE + end - start
        return size

    def consumed(self, sub: SubStream, count: int, now: float) -> bool:
        """See `Muxer.consumed`. For a stream that is over it only gives memory back."""
        stream = cast(YamuxStream, sub)
        window = stream.window
        if count > window.unread:
            if stream.live:
                raise LocalProtocolError(f"{count} bytes taken from stream {stream.id}, which held {window.unread}")
            count = window.unread
        account = self._account
        over = window.unread - window.grown
        window.unread -= count
        if over > 0:
            account.discharge(count if count < over else over)
        if stream.fin_received or not stream.live:
            if not window.unread:
                window.discard(account)
            return False
        delta = window.credit_due(count, now, self.rtt, self._limits.max_window, account)
        if not delta:
            return False
        self._queue(WINDOW_WORD | stream.flags, stream.id, delta)
        stream.flags = 0
        return True

    def fin(self, sub: SubStream) -> None:
        """See `Muxer.fin`."""
        stream = cast(YamuxStream, sub)
        if stream.fin_sent or not stream.live:
            return
        stream.fin_sent = True
        self._queue(WINDOW_WORD | FIN | stream.flags, stream.id, 0)
        stream.flags = 0
        if stream.fin_received:
            self._forget(stream)

    def reset(self, sub: SubStream, code: int = 0) -> None:
        """See `Muxer.reset`. What was not read is given up, also on a stream that is already over."""
        stream = cast(YamuxStream, sub)
        if stream.live:
            stream.reset_code = code
            if stream.flags != SYN:  # else the peer has never heard of it
                self._queue(WINDOW_WORD | RST, stream.id, code)
            if self._body is stream:
                self._body = None
            self._forget(stream)
        stream.window.discard(self._account)

    def _forget(self, stream: YamuxStream) -> None:
        """Take a stream that is over out of the table; what it holds unread stays paid for until it is read."""
        stream.live = False
        del self._streams[stream.id]
        if stream.inbound:
            self._inbound -= 1
            if not stream.acknowledged:
                self._unaccepted -= 1
        elif not stream.acknowledged:
            self._unacked -= 1
        if not stream.window.unread:
            stream.window.discard(self._account)

    # -- session

    def ping(self, now: float) -> None:
        """See `Muxer.ping`. A later ping replaces one that is unanswered."""
        self._ping_value = (self._ping_value + 1) & MAX_U32
        self._ping_sent = now
        self._queue(PING_WORD | SYN, 0, self._ping_value)

    def goaway(self, code: int, word: str = "") -> None:
        """See `Muxer.goaway`; there is no place for words."""
        if not self._goaway_sent:
            self._goaway_sent = True
            self._queue(GO_AWAY_WORD, 0, code)

    def _queue(self, word: int, sid: int, length: int) -> None:
        self._out.append(_pack(word, sid, length))
        self.pending += HEADER_SIZE

    def take_output(self) -> list[Buffer]:
        """See `Muxer.take_output`."""
        out = self._out
        self._out = []
        self.pending = self._pongs = 0
        return out

    def release_all(self) -> None:
        """See `Muxer.release_all`."""
        self._account.close()

    def tick(self, now: float) -> list[MuxEvent]:
        """See `Muxer.tick`: yamux owns no deadlines."""
        return []


class Yamux:
    """The yamux protocol, to be offered in multistream-select or in a security handshake."""

    protocol = PROTOCOL

    def session(self, direction: Direction, limits: MuxerLimits, memory: MemoryBudget, now: float) -> YamuxSession:
        """See `MuxerFactory.session`."""
        return YamuxSession(direction, limits, memory, now)
