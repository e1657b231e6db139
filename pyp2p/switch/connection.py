"""One upgraded connection: its reader and writer, the dispatch of muxer events, its heartbeat, its end.

Rules: the reader is the only one that receives, one await per read for any number of frames. Whoever has something to
send seals it and sends it at once without an await (`flush`); only what the socket did not take is left to a writer
task that lives while there is a backlog. When one read woke several streams, output is corked for a moment so that
their answers share a frame. Timers are one `tick` a second for all connections, called by the switch.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import trio
from multiaddr import Multiaddr

from pyp2p.errors import (
    LimitExceeded,
    MuxerError,
    NoCommonProtocol,
    P2PError,
    RemoteError,
    SecurityError,
    StageTimeout,
)
from pyp2p.identify.wire import IdentifyInfo
from pyp2p.io.handshake import READ_SIZE, Direction
from pyp2p.multistream.core import Dialer, Listener
from pyp2p.muxers.base import Buffer, Data, Eof, GoAway, MuxEvent, Opened, Pong, Reset, SubStream, Writable
from pyp2p.peer.address import AddressKind
from pyp2p.switch.config import Limits, Timeouts
from pyp2p.switch.deadlines import Deadlines
from pyp2p.switch.facts import NORMAL, CloseReason, ConnectionStats
from pyp2p.switch.heartbeat import Beat, Heartbeat
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.upgrade import Upgraded
from pyp2p.switch.writer import Writer
from pyp2p.trace import Stage

AGENT_PREFIX = "pyp2p/"  # of peers that are of our kind
_YIELDS = 3  # scheduler turns that woken tasks get: a handler starts in one, reads in one, answers in one
_NETWORK = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
_END_PATIENCE = 0.1  # seconds that a close whose time is up still waits for the tasks of the connection
_FIN_PATIENCE = 1.0  # seconds that the end of a stream waits for the answer to its proposal


class Connection:
    """A secured, muxed connection to a proven peer.

    Facts: `id`, `peer`, `direction`, `kind`, `local`, `remote`, `security`, `muxer_protocol`, `early_muxer`, `trace`,
    `opened_at` (monotonic) and `opened_at_wall` seconds, `rtt` (seconds, None until measured), `stats`, `info` (what
    identify said), `streams`. `identified` is set when identify has succeeded or failed; `closed` when all is over,
    and `reason` says why.
    """

    rtt: float | None = None
    info: IdentifyInfo | None = None
    reason: CloseReason | None = None
    error: Exception | None = None
    identify_error: Exception | None = None
    broken: trio.BrokenResourceError | None = None
    admitted = False
    draining = False

    def __init__(
        self,
        connection_id: int,
        upgraded: Upgraded,
        *,
        limits: Limits,
        timeouts: Timeouts,
        opened_at_wall: float,
        listener: Callable[[], Listener],
        on_stream: Callable[[MuxedStream], None],
        on_refused: Callable[[LimitExceeded], None],
    ) -> None:
        raw = upgraded.raw
        self.id = connection_id
        self.peer = upgraded.channel.peer
        self.peer_key = upgraded.channel.peer_key
        self.direction: Direction = raw.direction
        self.kind: AddressKind = raw.kind
        self.local: Multiaddr = raw.local
        self.remote: Multiaddr = raw.remote
        self.security = upgraded.security
        self.muxer_protocol = upgraded.muxer_protocol
        self.trace = upgraded.trace
        self.muxer = upgraded.muxer
        self.opened_at = trio.current_time()
        self.opened_at_wall = opened_at_wall
        self.identified = trio.Event()
        self.closed = trio.Event()
        self.stats = ConnectionStats(bytes_out=len(upgraded.unsent))
        self.streams: dict[SubStream, MuxedStream] = {}
        self._raw = raw.stream
        self._channel = upgraded.channel
        self._select = upgraded.select
        self._early = upgraded.early
        self._unsent = upgraded.unsent  # shown by the steps of the upgrade
        self._limits = limits
        self._timeouts = timeouts
        self._listener = listener
        self._on_stream = on_stream
        self._on_refused = on_refused
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()
        self._service_scopes: list[trio.CancelScope] = []
        self._handlers = 0
        self._remote_goaway: int | None = None
        self._closing = self._corked = self._mute = self._rtt_asked = False
        self._held: list[MuxedStream] = []
        self._writer = Writer(raw.stream, limits.write_backlog, self._lost)
        self._congestion = trio.lowlevel.ParkingLot()
        self._openers = trio.lowlevel.ParkingLot()
        self._unselected = Deadlines(timeouts.protocol_select)
        self._half_closed = Deadlines(timeouts.half_closed)
        self._held_fins = Deadlines(_FIN_PATIENCE)
        self._heartbeat = Heartbeat(timeouts.heartbeat_interval, timeouts.heartbeat_timeout, self.opened_at)

    def __repr__(self) -> str:
        state = f" closed ({self.reason})" if self.reason else ""
        return f"<Connection {self.id} {self.direction.value} {self.peer}{state}>"

    @property
    def early_muxer(self) -> bool:
        """True when the muxer was agreed inside the security handshake."""
        return self._channel.early_muxer is not None

    @property
    def is_open(self) -> bool:
        """True while new streams can be opened and the end has not begun."""
        return self.reason is None and not self._closing and self.muxer.can_open

    @property
    def verified(self) -> bool:
        """False while the muxer was chosen optimistically and the peer has not confirmed it."""
        return self._select is None

    # --- streams

    async def open_stream(self, protocols: str | Iterable[str], *, lazy: bool | None = None) -> MuxedStream:
        """Open a stream for the first of `protocols` (one name or several, best first) that the peer speaks.

        `lazy=True` (one protocol) returns at once: the proposal travels with the first payload and a refusal shows as
        `NoCommonProtocol` on reading. By default that is done when identify said that the peer speaks it; otherwise
        the answer is awaited. That wait, and the one while too many opened streams are unacknowledged, last at most
        `timeouts.protocol_select` each (`StageTimeout`). Raises `NoCommonProtocol`, `LimitExceeded`,
        `BrokenResourceError`. Cancelling resets it.
        """
        names = [protocols] if isinstance(protocols, str) else list(protocols)
        dialer = Dialer(names)
        if lazy is None:
            lazy = len(names) == 1 and self.info is not None and names[0] in (self.info.protocols or ())
        sub = await self._open_sub()
        stream = MuxedStream(self, sub, dialer, dialer.take_output())
        self.streams[sub] = stream
        self.stats.streams_out += 1
        if lazy and len(names) == 1:
            stream.protocol = names[0]
            return stream
        try:
            with trio.fail_after(self._timeouts.protocol_select):
                await stream.wait_selected()
        except BaseException as error:
            stream.reset()
            if isinstance(error, trio.TooSlowError):
                raise StageTimeout(Stage.PROTOCOL, self._timeouts.protocol_select) from None
            raise
        return stream

    async def _open_sub(self) -> SubStream:
        await trio.lowlevel.checkpoint()
        seconds = self._timeouts.protocol_select
        deadline = trio.current_time() + seconds
        while True:
            if self.broken is not None:
                raise trio.BrokenResourceError(*self.broken.args)
            if not self.is_open:
                raise trio.BrokenResourceError(f"the connection takes no new streams ({self.reason or 'goaway'})")
            if len(self.streams) >= self._limits.streams_per_connection:
                raise LimitExceeded("streams_per_connection", f"{len(self.streams)} streams are open to {self.peer}")
            try:
                return self.muxer.open(trio.current_time())
            except LimitExceeded as waits:
                for stream in list(self.streams.values()):
                    stream.flush_prefix()  # one that was never written to would wait for its acknowledgement for ever
                self.flush()
                with trio.move_on_at(deadline) as scope:
                    await self._openers.park()
                if scope.cancelled_caught:
                    raise StageTimeout(Stage.PROTOCOL, seconds, waits.detail) from None

    def spawn(self, handler: Callable[[MuxedStream], Awaitable[None]], stream: MuxedStream) -> bool:
        """Run a stream handler as a task of this connection; the handler catches its own errors.

        False when the connection is over: nothing was started.
        """
        if self._nursery is None or self.broken is not None:
            return False
        self._handlers += 1
        self._nursery.start_soon(self._run_handler, handler, stream)
        return True

    async def _run_handler(self, handler: Callable[[MuxedStream], Awaitable[None]], stream: MuxedStream) -> None:
        try:
            await handler(stream)
        finally:
            self._handlers -= 1
            if self._handlers == 0 and self.broken is not None and self._nursery is not None:
                self._nursery.cancel_scope.cancel()

    def start_service(self, task: Callable[[Connection], Awaitable[None]]) -> None:
        """Run a service's task for this connection; it is cancelled as soon as the connection ends."""
        if self._nursery is not None and self.broken is None:
            scope = trio.CancelScope()
            self._service_scopes.append(scope)
            self._nursery.start_soon(self._run_service, scope, task)

    async def _run_service(self, scope: trio.CancelScope, task: Callable[[Connection], Awaitable[None]]) -> None:
        with scope:
            await task(self)
        if scope in self._service_scopes:
            self._service_scopes.remove(scope)

    # --- life

    async def run(self, started: Callable[[], None]) -> None:
        """Own the connection's tasks until it ends; `reason` is set then. Cancelling closes it forcefully.

        `started` is called once tasks may be started. An exception of a service's task ends the connection and
        propagates.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._writer.attach(nursery)
                try:
                    started()
                    with self._scope:
                        await self._read()
                    self._end(CloseReason("closed"))
                finally:
                    # Before the tasks end: one that waits for a subscriber of events must not keep the socket.
                    self._end(CloseReason("cancelled"))
                    self._channel.close()
                    await self._raw.aclose_now()
                for scope in list(self._service_scopes):
                    scope.cancel()
                if self._handlers and not self._closing:
                    # What the peer sent before it went can still be worked on, for a moment.
                    nursery.cancel_scope.deadline = trio.current_time() + self._timeouts.last_word
                else:
                    nursery.cancel_scope.cancel()
        finally:
            self.muxer.release_all()
            self._nursery = None  # its tasks know us: without circles memory does not wait for the collector
            del self._listener, self._on_stream, self._on_refused
            self.closed.set()  # the last thing: whoever waited for it finds the connection in no table

    async def aclose(self, reason: CloseReason = NORMAL, seconds: float | None = None) -> None:
        """Close: announce it to the peer, flush what is queued, then end.

        Takes at most `seconds` (default `timeouts.close`), shielded from cancellation. A task of the connection itself
        (a handler) may call it too: that returns when the end is sealed, and the task is cancelled soon after.
        """
        deadline = trio.current_time() + (self._timeouts.close if seconds is None else max(seconds, 0))
        if self.closed.is_set():
            await trio.lowlevel.checkpoint()
            return
        if not self._closing:
            self._closing = True
            self._openers.unpark_all()
            if self.reason is None and self._nursery is not None:
                self.reason = reason
                with trio.CancelScope(deadline=deadline, shield=True) as scope:
                    await self._say_goodbye(reason, scope)
            self.fail(reason)
        if self._nursery is None:
            self._end(reason)
            await self._raw.aclose_now()
            self.muxer.release_all()
            self.closed.set()
            return
        if self._runs(trio.lowlevel.current_task()):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        # The end itself takes no time, unless a service or an event subscriber holds it up.
        with trio.CancelScope(deadline=max(deadline, trio.current_time() + _END_PATIENCE), shield=True):
            await self.closed.wait()

    def _runs(self, task: trio.lowlevel.Task) -> bool:
        """True when `task` is one of this connection's, so that the end of all would wait for it."""
        nursery = task.parent_nursery
        while nursery is not None and nursery is not self._nursery:
            nursery = nursery.parent_task.parent_nursery
        return nursery is not None

    async def _say_goodbye(self, reason: CloseReason, scope: trio.CancelScope) -> None:
        """Flush, send the end, wait briefly for theirs: closing with unread input can destroy our last bytes."""
        for sub in self._held_fins.expired(math.inf):
            self.streams[sub].release_fin()
        self.muxer.goaway(reason.goaway_code, reason.code)
        self._uncork()
        self._mute = True  # nothing is sealed after the channel's last bytes
        if last := self._channel.close():
            self._writer.send(last)
        await self._writer.wait_idle()
        with suppress(*_NETWORK):
            await self._raw.send_eof()
            scope.deadline = min(scope.deadline, trio.current_time() + self._timeouts.drain)
            await self._ended.wait()

    def fail(self, reason: CloseReason, error: Exception | None = None) -> None:
        """End the connection now; the first reason stands. Never waits."""
        if self.reason is None:
            self.reason = reason
            self.error = error
        self._scope.cancel()

    def _end(self, reason: CloseReason) -> None:
        if self.reason is None:
            self.reason = reason
        if self.broken is not None:
            return
        self.broken = trio.BrokenResourceError(f"the connection is closed ({self.reason})")
        self._ended.set()
        streams = list(self.streams.values())
        self.streams.clear()
        self._held.clear()
        for stream in streams:
            stream.on_reset()
            stream.sub.owner = None
        self._writer.drop()
        self._congestion.unpark_all()
        self._openers.unpark_all()

    # --- reading

    async def _read(self) -> None:
        try:
            if self._early:
                early, self._early = self._early, b""
                self._dispatch([early])
            while True:
                if self._holds_back:
                    await self._let_others_speak()
                data = await self._raw.receive_some(READ_SIZE)
                if not data:
                    self.fail(self._end_of_stream())
                    return
                self.stats.bytes_in += len(data)
                self._dispatch(self._channel.open(bytes(data)))
                if self._writer.choked:
                    # A peer that makes us answer but does not read: we read no more, and TCP pushes back.
                    await self._writer.wait_unchoked()
                while self.muxer.congested and self.broken is None:
                    await self._congestion.park()
        except (RemoteError, NoCommonProtocol) as error:
            self._refuse(error)
        except _NETWORK as error:
            self._lost(error)

    async def _let_others_speak(self) -> None:
        """Give the tasks that were just woken a few scheduler turns: what they say shares a frame with what is held."""
        for _ in range(_YIELDS):
            await trio.lowlevel.checkpoint()
            self._held = [stream for stream in self._held if stream.owes_answer]
            if not self._holds_back:
                return
        self._uncork()

    def _lost(self, error: Exception) -> None:
        self.fail(CloseReason("reset", str(error), "network"), error)

    def _end_of_stream(self) -> CloseReason:
        if self._select is not None:
            return CloseReason("violation", "the peer closed instead of agreeing to a muxer", "peer")
        code = self._remote_goaway
        return CloseReason("eof" if code in (None, 0) else "goaway", "" if not code else f"goaway code {code}", "peer")

    def _refuse(self, error: P2PError) -> None:
        """The peer broke a rule: tell it as far as that goes without waiting, and end."""
        code = error.goaway_code if isinstance(error, MuxerError) else 1
        if isinstance(error, SecurityError):
            self._mute = True  # the channel is dead in both directions: nothing can be said any more
        self.fail(CloseReason("violation", str(error), "peer", code), error)  # first: this is why, not a failed send
        self.muxer.goaway(code, "violation")
        self._uncork()

    def _dispatch(self, plaintexts: list[bytes]) -> None:
        now = trio.current_time()
        woken = 0
        for plain in plaintexts:
            if self._select is not None:
                plain = self._feed_select(self._select, plain)
            if plain:
                woken += self._handle(self.muxer.feed(plain, now))
        if self._openers:
            self._openers.unpark_all()
        if woken > 1 or self._held:
            self._corked = woken > 1
        elif self.muxer.pending:
            self.flush()

    def _feed_select(self, select: Dialer, plain: bytes) -> bytes:
        """The answer to our optimistic muxer proposal comes as a prefix of the session."""
        select.feed(plain)
        if not select.done:
            return b""
        self._select = None
        return select.leftover

    def _handle(self, events: list[MuxEvent]) -> int:
        """Pass events to their streams; returns how many tasks that may have woken: bulk of one stream wakes one."""
        woken = 0
        last: MuxedStream | None = None
        for event in events:
            if type(event) is Data:
                stream: MuxedStream | None = event.sub.owner
                if stream is not None:
                    self.stats.messages_in += 1
                    stream.on_data(event.data)
                    woken += stream is not last
                    last = stream
            else:
                woken += self._handle_control(event)
        return woken

    def _handle_control(self, event: MuxEvent) -> int:
        match event:
            case Opened():
                self._opened(event.sub)
            case Pong():
                self.heartbeat_answered(event.rtt)
            case GoAway():
                self._remote_goaway = event.code
                self._openers.unpark_all()
            case Writable() | Eof() | Reset():
                stream: MuxedStream | None = event.sub.owner
                if stream is not None:
                    stream.on_control(event)
                    return type(event) is Writable  # an end mostly comes with data, whose reader counts already
        return 0

    def _opened(self, sub: SubStream) -> None:
        limits = self._limits
        crowded = len(self._unselected) >= limits.unnegotiated_streams
        limit = "unnegotiated_streams" if crowded else "streams_per_connection"
        crowded = crowded or len(self.streams) >= limits.streams_per_connection
        if crowded or self._closing:
            self.stats.streams_refused += 1
            self.muxer.reset(sub, 0)
            if crowded:
                self._on_refused(LimitExceeded(limit, f"{getattr(limits, limit)} streams of one connection"))
            return
        self.streams[sub] = MuxedStream(self, sub, self._listener())
        self._unselected.add(sub, trio.current_time())
        self.stats.streams_in += 1

    # --- what streams ask (Carrier)

    @property
    def backlogged(self) -> bool:
        """True when senders have to wait for the socket."""
        return self._writer.full

    def transmit(self, sub: SubStream, data: Buffer, *, more: bool = False) -> int:
        """Queue what the window takes; send at once unless corked, or `more` follows: then the caller flushes."""
        if self._corked and not (isinstance(data, memoryview) and type(data.obj) is bytes):
            data = bytes(data)  # it is sent later: the caller may change its buffer by then
        sent = self.muxer.send(sub, data)
        self.stats.messages_out += 1
        if self._corked and self.muxer.pending >= READ_SIZE:
            self._corked = False
        if not more:
            self.flush()  # does nothing while corked
        return sent

    def wait_for_drain(self, stream: MuxedStream) -> None:
        """Have `stream.wake_writer` called once the backlog is down."""
        self._writer.notify(stream.wake_writer)

    def credit(self, sub: SubStream, count: int) -> None:
        """The application took `count` bytes."""
        now = trio.current_time()
        if self.muxer.consumed(sub, count, now):
            if self.rtt is None and self.muxer.pings and not self._rtt_asked:
                # The first bulk transfer: how far its window may grow depends on the round-trip time.
                self._rtt_asked = True
                self.muxer.ping(now)
            self.flush()
        if self._congestion:
            self._congestion.unpark_all()

    def selected(self, stream: MuxedStream) -> None:
        """An inbound stream has named its protocol."""
        self._unselected.drop(stream.sub)
        self.muxer.accept(stream.sub)
        self._held.append(stream)
        self._on_stream(stream)

    def holds_fin(self, stream: MuxedStream) -> bool:
        """True unless the peer is of our kind: the end of an unanswered stream waits for the answer, but not long."""
        if self.info is not None and (self.info.agent or "").startswith(AGENT_PREFIX):
            return False
        self._held_fins.add(stream.sub, trio.current_time())
        return True

    def half_closed(self, stream: MuxedStream) -> None:
        """The application is done with a stream whose other end is still open: it gets a while to end, then a reset."""
        self._half_closed.add(stream.sub, trio.current_time())

    def forget(self, stream: MuxedStream) -> None:
        """The stream is over in both directions."""
        sub = stream.sub
        sub.owner = None
        self.streams.pop(sub, None)
        for deadlines in (self._unselected, self._half_closed, self._held_fins):
            deadlines.drop(sub)
        if self._openers:
            self._openers.unpark_all()  # one fewer waits for its acknowledgement

    # --- writing

    def flush(self) -> None:
        """Seal all queued frames and send what the socket takes now; the rest is left to the writer task."""
        if self._corked or self._mute or self.broken is not None:
            return
        chunks = self.muxer.take_output()
        if not chunks and not self._unsent:
            return
        sealed = self._channel.seal(chunks) if chunks else b""
        self.stats.bytes_out += len(sealed)
        if self._unsent:
            sealed = self._unsent + sealed
            self._unsent = b""
        self._writer.send(sealed)

    @property
    def _holds_back(self) -> bool:
        return self._corked or bool(self._held) or bool(self._unsent)

    def _uncork(self) -> None:
        """Answers to stream proposals that found no company by now travel alone."""
        self._corked = False
        if self._held:
            held, self._held = self._held, []
            for stream in held:
                stream.flush_prefix()
        self.flush()

    # --- timers

    def tick(self, now: float) -> None:
        """Look at the deadlines; called about once a second (monotonic `now`). Late ticks are not made up for."""
        if self.broken is not None:
            return
        if self._writer.size and now - self._writer.progress_at > self._timeouts.write:
            self.fail(CloseReason("write_stalled", f"the peer read nothing for {self._timeouts.write:g} s", "peer"))
            return
        for sub in self._held_fins.expired(now):
            self.streams[sub].release_fin()
        for sub in [*self._unselected.expired(now), *self._half_closed.expired(now)]:
            if sub in self.streams:  # it can stand in both lists
                self.streams[sub].reset()
        events = self.muxer.tick(now)
        if events:
            self._handle(events)
        if self._congestion:
            self._congestion.unpark_all()
        if self.muxer.pending:
            self.flush()

    def heartbeat(self, now: float) -> bool:
        """Send a ping when one is due and end the connection when an answer is overdue.

        Returns True when one is due but the muxer has no ping: then the caller pings over a stream.
        """
        if self.broken is not None or self._closing:
            return False
        beat = self._heartbeat.look(now, self.stats.bytes_in)
        if beat is Beat.LOST:
            seconds = self._timeouts.heartbeat_timeout
            self.fail(CloseReason("heartbeat", f"no answer to a ping within {seconds:g} s", "peer"))
        elif beat is Beat.PING:
            if not self.muxer.pings:
                return True
            self.muxer.ping(now)
            self.flush()
        return False

    def heartbeat_answered(self, rtt: float | None) -> None:
        """The ping came back after `rtt` seconds, or (None) the peer does not serve ping."""
        self._heartbeat.answered()
        if rtt is not None:
            self.stats.heartbeats += 1
            self.rtt = rtt
