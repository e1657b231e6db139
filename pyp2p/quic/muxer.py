"""The streams of a QUIC connection as a switch knows streams: a `Muxer` over the core's own.

Rules: no I/O. What arrives has been taken in by the endpoint: `feed` only tells what it meant, whatever bytes it is
given; what is to be sent stands in the core: `take_output` tells that there is something. Stream errors travel as
numbers. That a peer reads no more (STOP_SENDING) ends a stream only when more is sent on it: go-libp2p says so of every
stream that it closes.
"""

from __future__ import annotations

from typing import cast

from aioquic.quic.events import PingAcknowledged, StopSendingReceived, StreamDataReceived, StreamReset

from pyp2p.errors import LimitExceeded, LocalProtocolError
from pyp2p.muxers.base import Buffer, Data, Eof, MuxerLimits, MuxEvent, Opened, Pong, Reset, SubStream, Writable
from pyp2p.muxers.bounds import RapidReset
from pyp2p.quic.core import QuicCore

_PINGS = 8  # whose answers are waited for


class QuicStream(SubStream):
    """A stream, with the bytes that were told of it and not taken: the connection's window is short of them."""

    __slots__ = ("unread",)

    def __init__(self, stream_id: int, inbound: bool) -> None:
        super().__init__(stream_id, inbound)
        self.unread = 0


class QuicMuxer:
    """See `Muxer`. Each stream has the core's window, the connection one for all of them."""

    pings = True
    refused = 0
    overruns = 0
    congested = False

    def __init__(self, core: QuicCore, limits: MuxerLimits, now: float) -> None:
        self._core = core
        self._streams: dict[int, QuicStream] = {}
        self._highest = -4 + core.client  # of the peer's streams that are known
        self._skipped: set[int] = set()  # of those below, whose first bytes have not come
        self._full: dict[SubStream, None] = {}  # senders that wait for room
        self._stops: dict[SubStream, int] = {}  # whose peer reads no more, and its code
        self._rapid = RapidReset(limits.open_rate, limits.open_burst, now)
        self._pings: dict[int, float] = {}
        self._pinged = 0
        self._wants_stream = False
        self._dirty = False
        self._over = False

    # --- what came

    @property
    def ready(self) -> bool:
        """True when somebody who waits to send, or for a stream, may go on."""
        if self._wants_stream and self._core.can_open:
            return True
        return any(self._core.room(sub.id) > 0 for sub in self._full)

    def feed(self, data: bytes, now: float) -> list[MuxEvent]:
        """What happened since the last call. Raises `MuxerError` for streams that are opened and reset too fast."""
        found: list[MuxEvent] = []
        self._wants_stream = False
        for event in self._core.take_events():
            if isinstance(event, StreamDataReceived):
                self._on_data(event, found)
            elif isinstance(event, StreamReset):
                self._on_reset(event, found, now)
            elif isinstance(event, StopSendingReceived):
                self._on_stop(event, found)
            elif isinstance(event, PingAcknowledged) and event.uid in self._pings:
                found.append(Pong(now - self._pings.pop(event.uid)))
        for sub in [sub for sub in self._full if self._core.room(sub.id) > 0]:
            del self._full[sub]
            found.append(Writable(sub))
        return found

    def _on_data(self, event: StreamDataReceived, found: list[MuxEvent]) -> None:
        sub = self._sub(event.stream_id, found)
        if sub is None:
            self._dirty |= self._core.dropped(len(event.data))
            return
        if event.data:
            sub.unread += len(event.data)
            found.append(Data(sub, event.data))
        if event.end_stream:
            sub.fin_received = True
            found.append(Eof(sub))
            self._forget_if_over(sub)

    def _on_reset(self, event: StreamReset, found: list[MuxEvent], now: float) -> None:
        sub = self._sub(event.stream_id, found)
        if sub is None:
            return
        if sub.inbound and not sub.used:
            self._rapid.count(now)
        if not sub.fin_sent:
            self._core.reset_stream(sub.id, 0)
            self._dirty = True
        self._end(sub, event.error_code, by_peer=True)
        found.append(Reset(sub))

    def _on_stop(self, event: StopSendingReceived, found: list[MuxEvent]) -> None:
        sub = self._sub(event.stream_id, found)
        if sub is None or sub.fin_sent:
            return
        self._stops[sub] = event.error_code
        if self._full.pop(sub, self) is None:
            found.append(Writable(sub))  # it waited for room that will not come: sending tells it why

    def _stopped(self, sub: SubStream) -> int | None:
        """Why nothing more can be sent; the core knows it before the event has been read."""
        code = self._stops.get(sub)
        return self._core.stopped(sub.id) if code is None else code

    def _sub(self, number: int, found: list[MuxEvent]) -> QuicStream | None:
        """The stream of a number, None for one that is over; one of the peer's that is new is opened."""
        sub = self._streams.get(number)
        if sub is not None or number % 4 != int(self._core.client):
            return sub
        if number > self._highest:
            self._skipped.update(range(self._highest + 4, number, 4))
            self._highest = number
        elif number not in self._skipped:
            return None
        self._skipped.discard(number)
        sub = self._streams[number] = QuicStream(number, inbound=True)
        found.append(Opened(sub))
        return sub

    # --- streams

    @property
    def can_open(self) -> bool:
        """True until the connection ends: a peer that allows no further stream may do so later."""
        return not self._over

    def open(self, now: float) -> SubStream:
        """See `Muxer.open`. Raises `LimitExceeded` while the peer allows no further stream."""
        if self._over:
            raise LocalProtocolError("the connection is closed: no stream can be opened")
        if not self._core.can_open:
            self._wants_stream = True
            raise LimitExceeded("max_outbound_unacked", "the peer allows no further stream now")
        sub = QuicStream(self._core.open_stream(), inbound=False)
        self._streams[sub.id] = sub
        return sub

    def writable(self, sub: SubStream) -> bool:
        """See `Muxer.writable`."""
        if self._stopped(sub) is not None or self._core.room(sub.id) > 0:
            return True
        self._full[sub] = None
        return False

    def send(self, sub: SubStream, data: Buffer) -> int:
        """See `Muxer.send`; what the peer does not read any more ends the stream."""
        if sub.fin_sent or sub.reset_code is not None:
            raise LocalProtocolError("nothing can be sent on a stream after its end")
        code = self._stopped(sub)
        if code is not None:
            self.reset(sub, code)
            sub.reset_by_peer = True
            return len(data)
        count = min(self._core.room(sub.id), len(data))
        if count <= 0:
            self._full[sub] = None
            return 0
        self._core.send_stream_data(sub.id, bytes(data[:count]))
        self._dirty = True
        return count

    def consumed(self, sub: SubStream, count: int, now: float) -> bool:
        """See `Muxer.consumed`."""
        stream = cast(QuicStream, sub)
        count = min(count, stream.unread)  # what was given up is not counted again
        stream.unread -= count
        due = self._core.consumed(sub.id, count)
        self._dirty |= due
        return due

    def accept(self, sub: SubStream) -> None:
        """Nothing: QUIC acknowledges by itself."""

    def fin(self, sub: SubStream) -> None:
        """See `Muxer.fin`."""
        if sub.fin_sent or sub.reset_code is not None:
            return
        sub.fin_sent = True
        if self._stopped(sub) is None:  # a stream that the peer stopped has been reset by the core
            self._core.send_stream_data(sub.id, b"", end_stream=True)
        self._dirty = True
        self._forget_if_over(sub)

    def reset(self, sub: SubStream, code: int = 0) -> None:
        """See `Muxer.reset`. What was not read is given up: the other streams get its part of the window back."""
        stream = cast(QuicStream, sub)
        self._dirty |= self._core.dropped(stream.unread)
        stream.unread = 0
        if sub.reset_code is not None or (sub.fin_sent and sub.fin_received):
            return
        if not sub.fin_sent:
            self._core.reset_stream(sub.id, code)
        if not sub.fin_received:
            self._core.stop_reading(sub.id, code)
        self._dirty = True
        self._end(sub, code, by_peer=False)

    def _end(self, sub: SubStream, code: int, by_peer: bool) -> None:
        sub.reset_code, sub.reset_by_peer = code, by_peer
        self._drop(sub)

    def _forget_if_over(self, sub: SubStream) -> None:
        if sub.fin_sent and sub.fin_received:
            self._drop(sub)

    def _drop(self, sub: SubStream) -> None:
        self._streams.pop(sub.id, None)
        self._full.pop(sub, None)
        self._stops.pop(sub, None)

    # --- the connection

    def ping(self, now: float) -> None:
        """See `Muxer.ping`."""
        self._pinged += 1
        if len(self._pings) >= _PINGS:
            del self._pings[next(iter(self._pings))]  # a peer that answers none of so many answers none
        self._pings[self._pinged] = now
        self._core.send_ping(self._pinged)
        self._dirty = True

    def goaway(self, code: int, word: str = "") -> None:
        """QUIC has none before the end itself, which then carries both."""
        if not self._over:
            self._over = True
            self._core.last_code, self._core.last_word = code, word

    @property
    def pending(self) -> int:
        """1 while something is to be sent: how much the core decides."""
        return int(self._dirty)

    def take_output(self) -> list[Buffer]:
        """Nothing but the wish to send, when there is one: the bytes are the core's."""
        if not self._dirty:
            return []
        self._dirty = False
        return [b""]

    def release_all(self) -> None:
        """Nothing is reserved: what the application leaves unread is bounded by the connection's window."""

    def tick(self, now: float) -> list[MuxEvent]:
        """Ask a peer that is silent for a sign of life, once: what is lost the core repeats. RFC 9000, 10.1.2."""
        if not self._pings and self._core.silent(now):
            self.ping(now)
        return []
