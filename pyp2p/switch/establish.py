"""From a raw connection to a peer: upgrade, gate, run, identify, admit, tell the services; and the way back.

Rules: a limit ticket is taken before anything else and given back in one `finally`. Admission comes before anybody
hears of a connection; whoever heard of it hears of its end, exactly once. An isolated connection leaves no trace:
no identify, no admission, no store, no event.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import trio

from pyp2p.errors import (
    DialSelf,
    LimitExceeded,
    MuxerError,
    NoCommonProtocol,
    NotAllowed,
    P2PError,
    Refused,
    RemoteError,
    SecurityError,
    StageTimeout,
    describe,
    printable,
)
from pyp2p.identify.service import IDENTIFY_PROTOCOL, PUSH_CONCURRENCY, PUSH_PROTOCOL, Identify
from pyp2p.io.guard import call_guarded, run_guarded
from pyp2p.multistream.core import Listener
from pyp2p.muxers.base import MemoryBudget
from pyp2p.peer.address import AddressKind
from pyp2p.peer.id import PeerId
from pyp2p.peer.store import PeerBook
from pyp2p.platform import Platform
from pyp2p.protocols.ping import PING_PROTOCOL, ping
from pyp2p.quic.base import MuxedConn
from pyp2p.security.base import SecureChannel, Security
from pyp2p.switch.canonical import CanonicalLog
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.connection import AGENT_PREFIX, Connection
from pyp2p.switch.events import Connected, Disconnected, EventHub, Identified
from pyp2p.switch.facts import SHUTDOWN, CloseReason
from pyp2p.switch.gater import ConnectionGater
from pyp2p.switch.handlers import Mounted, ProtocolTable, run_connection, run_handler
from pyp2p.switch.limits import ConnectionLimits, StreamBudgets, Ticket
from pyp2p.switch.service import Service
from pyp2p.switch.stream import MuxedStream, StreamReset
from pyp2p.switch.upgrade import Stacks, upgrade
from pyp2p.trace import Stage, Trace
from pyp2p.transports.base import RawConn

logger = logging.getLogger("pyp2p.switch")

Admit = Callable[[Connection], Awaitable[None]]

_TELLTALE = (IDENTIFY_PROTOCOL, PUSH_PROTOCOL)  # an isolated connection does not say who and where we are
_DRAIN_GRACE = 2.0  # seconds a duplicate stays after its last stream: one opened in the race completes


@dataclass(slots=True)
class Peering:
    """What the switch keeps of one running connection, beside the connection itself."""

    connection: Connection
    isolated: bool
    admitted: bool = False
    abandoned: bool = False  # whoever asked for it gave up: it is about to be closed
    ready: trio.Event = field(default_factory=trio.Event)  # admitted and identified, or over
    parked: list[tuple[MuxedStream, Mounted]] = field(default_factory=list)
    owed_push: bool = False  # we changed after we had answered its identify and before it told what it serves
    idle_since: float | None = None
    refusals_told: tuple[int, int] = (0, 0)  # of the muxer's own counters


class Establisher:
    """Makes running connections of raw ones and keeps the table of them."""

    def __init__(
        self,
        *,
        config: SwitchConfig,
        stacks: Stacks,
        platform: Platform,
        limits: ConnectionLimits,
        gater: ConnectionGater,
        table: ProtocolTable,
        hub: EventHub,
        identify: Identify,
        store: PeerBook,
        spawn: Callable[..., None],
    ) -> None:
        self.services: list[Service] = []
        self.running: dict[int, Peering] = {}
        self.peers: dict[PeerId, list[Peering]] = {}
        self._config = config
        self._stacks = stacks
        self._platform = platform
        self._limits = limits
        self._gater = gater
        self._table = table
        self._hub = hub
        self._identify = identify
        self._store = store
        self._spawn = spawn
        self._ids = itertools.count(1)
        self._memory = MemoryBudget(config.limits.memory)
        self._budgets = StreamBudgets()
        self._pushing = trio.CapacityLimiter(PUSH_CONCURRENCY)
        self._stopping = False
        self._canonical = CanonicalLog(platform.rng)
        self._serving = 0  # `serve` calls, farewells included
        self._served = trio.lowlevel.ParkingLot()

    # --- upgrade

    async def upgrade(
        self,
        raw: RawConn,
        ticket: Ticket,
        expect: PeerId | None,
        trace: Trace,
        securities: Sequence[Security] | None = None,
    ) -> Peering:
        """Secure, mux and gate `raw` within `timeouts.upgrade`; the connection does not run yet.

        Only `securities` are offered (None: all of ours).

        On any failure `raw` is closed and the ticket given back. Raises `StageTimeout`, `RemoteError`,
        `NoCommonProtocol`, `Refused` or trio's stream errors.
        """
        limits, timeouts = self._config.limits, self._config.timeouts
        memory = MemoryBudget(limits.memory_per_connection, self._memory)
        try:
            with trio.fail_after(timeouts.upgrade):
                upgraded = await upgrade(
                    raw,
                    self._stacks if securities is None else replace(self._stacks, securities=securities),
                    expect=expect,
                    memory=memory,
                    trace=trace,
                    secured=lambda channel: self._secured(raw, channel),
                )
            ticket.bind(upgraded.channel.peer)
            peering = Peering(
                Connection(
                    next(self._ids),
                    upgraded,
                    limits=limits,
                    timeouts=timeouts,
                    opened_at_wall=self._platform.wall(),
                    listener=lambda: Listener(self._table.serves, self._table.names),
                    on_stream=lambda stream: self._on_stream(peering, stream),
                    on_refused=lambda refusal: self._stream_refused(peering, refusal),
                ),
                isolated=raw.kind is AddressKind.ISOLATED,
            )
            if isinstance(raw, MuxedConn):
                raw.session.count(peering.connection.stats)
            reason = self._gater.allow_upgraded(peering.connection)
            if reason is not None:
                raise NotAllowed("upgraded", reason)
        except BaseException as error:
            ticket.release()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(raw.stream)
            if isinstance(error, trio.TooSlowError):
                raise StageTimeout(trace.stage, timeouts.upgrade) from None
            raise
        return peering

    async def _secured(self, raw: RawConn, channel: SecureChannel) -> None:
        if channel.peer == self._stacks.identity.peer:
            raise DialSelf("connected to ourselves")
        reason = self._gater.allow_secured(raw.direction, channel.peer, raw.remote)
        if reason is not None:
            raise NotAllowed("secured", reason)

    # --- life

    async def settle(self, peering: Peering, ticket: Ticket) -> Exception | None:
        """Start a connection and wait until it is admitted and identified; returns why, when it is over by then.

        When cancelled the connection is closed.
        """
        connection = peering.connection
        self._spawn(self.serve, peering, ticket)
        try:
            await peering.ready.wait()
        except trio.Cancelled:
            peering.abandoned = True  # at once: nobody may be given a connection that is about to be closed
            self.close_soon(connection)
            raise
        if connection.reason is None and connection.error is None:
            return None
        return connection.error or trio.BrokenResourceError(f"the connection ended ({connection.reason})")

    async def serve(self, peering: Peering, ticket: Ticket) -> None:
        """Run a connection to its end and tell everybody who knew of it."""
        connection = peering.connection
        if self._stopping:
            ticket.release()
            await connection.aclose(SHUTDOWN)
            peering.ready.set()
            return
        self.running[connection.id] = peering
        self._serving += 1
        if not peering.isolated:
            self._canonical.established(connection)
        try:
            await run_connection(connection, lambda: connection.start_service(lambda _: self._welcome(peering)))
        finally:
            if isinstance(connection.error, RemoteError) and not peering.isolated:
                component = _broken_part(connection, connection.error)
                self._canonical.misbehaving(connection, component, connection.error, trio.current_time())
            self._tell_refusals(peering)
            ticket.release()
            del self.running[connection.id]
            connection.identified.set()
            peering.ready.set()
            if peering.admitted:
                await self._farewell(peering)
            self._serving -= 1
            self._served.unpark_all()

    def stop(self) -> None:
        """Start no connection any more."""
        self._stopping = True

    async def wait_over(self) -> None:
        """Wait until all connections have ended and everybody was told."""
        while self._serving:
            await self._served.park()

    async def _welcome(self, peering: Peering) -> None:
        """Identify and admit side by side; then the connection is in use."""
        connection = peering.connection
        if peering.isolated:
            connection.identified.set()
            self._admit_now(peering)
            peering.ready.set()
            return
        steps = [service.admit for service in self.services if service.admit is not None]
        if steps:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ask_identity, peering)
                refusal = await self._run_admission(connection, steps)
                if refusal is not None:
                    nursery.cancel_scope.cancel()
                    self._refuse(peering, refusal)
                    return
                await self._register(peering)
        else:
            await self._register(peering)
            await self._ask_identity(peering)
        self._start_parked(peering)
        if self._config.identify:
            await self._hub.tell(Identified(connection, connection.info))
        if peering.owed_push:
            connection.start_service(self._push)
        for service in list(self.services):
            if service.peer_connected is not None:
                connection.start_service(service.peer_connected)
        peering.ready.set()

    async def _register(self, peering: Peering) -> None:
        """The connection is admitted: whoever asks for the peer finds it from now on."""
        connection = peering.connection
        self._admit_now(peering)
        self.peers.setdefault(connection.peer, []).append(peering)
        self._store.connected(connection.peer)
        peering.admitted = True
        await self._hub.tell(Connected(connection))

    async def _run_admission(self, connection: Connection, steps: Sequence[Admit]) -> Exception | None:
        timeout = self._config.timeouts.admission
        with trio.move_on_after(timeout) as scope:
            for step in steps:
                error = await run_guarded(step, connection)
                if error is not None:
                    return error
        return StageTimeout(Stage.ADMISSION, timeout) if scope.cancelled_caught else None

    def _refuse(self, peering: Peering, refusal: Exception) -> None:
        connection = peering.connection
        connection.error = refusal
        if isinstance(refusal, Refused):
            self.refused(refusal, f"peer {connection.peer}")
            reason = CloseReason("refused", str(refusal))
        else:
            reason = CloseReason("admission_failed", f"{type(refusal).__name__}: {refusal}")
            logger.warning("admission failed peer=%s error=%s", connection.peer, printable(reason.detail, 300))
        self._spawn(connection.aclose, reason)

    def _admit_now(self, peering: Peering) -> None:
        peering.connection.admitted = True
        self._start_parked(peering)

    async def _farewell(self, peering: Peering) -> None:
        connection = peering.connection
        others = self.peers.get(connection.peer, [])
        if peering in others:
            others.remove(peering)
        if not others:
            self.peers.pop(connection.peer, None)
            self._store.disconnected(connection.peer, trio.current_time())
        reason = connection.reason or CloseReason("closed")
        for service in list(self.services):
            if service.peer_disconnected is not None:
                error = call_guarded(service.peer_disconnected, connection, reason)
                if error is not None:
                    logger.error("service failed name=%s error=%s", service.name, describe(error))
        logger.info(
            "disconnected peer=%s id=%s by=%s reason=%s", connection.peer, connection.id, reason.by, reason.code
        )
        await self._hub.tell(Disconnected(connection, reason))

    # --- identify

    async def _ask_identity(self, peering: Peering) -> None:
        connection = peering.connection
        try:
            if self._config.identify:
                with trio.move_on_after(self._config.timeouts.identify):
                    step = connection.trace.begin(Stage.IDENTIFY, IDENTIFY_PROTOCOL, trio.current_time())
                    step.waits += 1
                    before = connection.stats.bytes_in, connection.stats.bytes_out
                    stream = await connection.open_stream(IDENTIFY_PROTOCOL, lazy=True)
                    try:
                        connection.info = await self._identify.ask(stream, connection)
                    finally:
                        await stream.aclose()
                    step.bytes_in = connection.stats.bytes_in - before[0]
                    step.bytes_out = connection.stats.bytes_out - before[1]
        except (P2PError, trio.BrokenResourceError) as error:
            connection.identify_error = error
            if isinstance(error, RemoteError):
                self._canonical.misbehaving(connection, "identify", error, trio.current_time())
        finally:
            connection.trace.finish(trio.current_time())
            connection.identified.set()

    async def handle_identify(self, stream: MuxedStream) -> None:
        """A peer asks who we are."""
        await self._identify.answer(stream, stream.connection)

    async def handle_push(self, stream: MuxedStream) -> None:
        """A peer tells that its protocols or addresses changed."""
        peering = next((p for p in self.peers.get(stream.peer, []) if p.connection is stream.connection), None)
        if peering is None:
            stream.reset()
            return
        connection = peering.connection
        try:
            connection.info = await self._identify.take_push(stream, connection, stream.sub.id)
        except trio.TooSlowError:
            stream.reset()
            return
        for service in self.services_of(connection):
            if service.peer_updated is not None:
                error = call_guarded(service.peer_updated, connection)
                if error is not None:
                    logger.error("service failed service=%s error=%s", service.name, printable(repr(error), 300))
        await self._hub.tell(Identified(connection, connection.info))

    async def push_all(self) -> None:
        """Tell all peers that serve identify/push what we speak and where we are now; waits for all of them."""
        for peering in self.running.values():
            peering.owed_push = not peering.connection.identified.is_set()
        async with trio.open_nursery() as nursery:
            for connection in [self.best(peer) for peer in self.peers]:
                if connection is not None:
                    nursery.start_soon(self._push, connection)

    async def _push(self, connection: Connection) -> None:
        if connection.info is None or PUSH_PROTOCOL not in (connection.info.protocols or ()):
            return
        async with self._pushing:
            with trio.move_on_after(self._config.timeouts.identify):
                try:
                    async with await connection.open_stream(PUSH_PROTOCOL) as stream:
                        await self._identify.answer(stream, connection)
                except (P2PError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    logger.debug("push failed peer=%s error=%s", connection.peer, printable(str(error)))

    def close_soon(self, connection: Connection) -> None:
        """Close a connection that nobody wants."""
        self._spawn(connection.aclose, CloseReason("abandoned"))

    async def ping_by_stream(self, connection: Connection) -> None:
        """The heartbeat of a muxer that has no ping of its own."""
        try:
            stream = await connection.open_stream(PING_PROTOCOL)
            try:
                connection.heartbeat_answered(await ping(stream, self._platform.entropy))
            finally:
                await stream.aclose()
        except NoCommonProtocol:
            connection.heartbeat_answered(None)
        except StreamReset:
            connection.heartbeat_answered(None)  # declined, perhaps for want of room: who answers is alive
        except (P2PError, trio.BrokenResourceError) as error:
            logger.debug("heartbeat failed peer=%s error=%s", connection.peer, printable(str(error)))

    # --- inbound streams

    def _on_stream(self, peering: Peering, stream: MuxedStream) -> None:
        mounted = self._table.lookup(stream.protocol)
        if mounted is None or (peering.isolated and mounted.protocol in _TELLTALE):
            stream.reset()
        elif self._must_wait(peering, mounted):
            if len(peering.parked) >= self._config.limits.parked_streams:
                self._stream_refused(peering, LimitExceeded("parked_streams", "too many early streams"))
                stream.reset()
            else:
                peering.parked.append((stream, mounted))
        else:
            self._start(peering, stream, mounted)

    def _stream_refused(self, peering: Peering, refusal: Refused, count: int = 1) -> None:
        self.refused(refusal, f"peer {peering.connection.peer}", peering.isolated, count)

    def _tell_refusals(self, peering: Peering) -> None:
        """Count what the muxer refused since the last time: once a second, not once a frame."""
        refused, overruns = peering.refusals_told
        muxer = peering.connection.muxer
        peering.refusals_told = muxer.refused, muxer.overruns
        if muxer.refused > refused:
            self._stream_refused(peering, LimitExceeded("muxer", "too many streams at once"), muxer.refused - refused)
        if muxer.overruns > overruns:
            self._stream_refused(peering, LimitExceeded("memory", "unread data"), muxer.overruns - overruns)

    def _must_wait(self, peering: Peering, mounted: Mounted) -> bool:
        connection = peering.connection
        if mounted.after_identify and not connection.identified.is_set():
            return True
        return not (connection.admitted or mounted.before_admission)

    def _start_parked(self, peering: Peering) -> None:
        parked, peering.parked = peering.parked, []
        for stream, mounted in parked:
            if self._must_wait(peering, mounted):
                peering.parked.append((stream, mounted))
            else:
                self._start(peering, stream, mounted)

    def _start(self, peering: Peering, stream: MuxedStream, mounted: Mounted) -> None:
        try:
            self._budgets.acquire(stream.peer, mounted.protocol, mounted.budget)
        except LimitExceeded as refusal:
            self._stream_refused(peering, refusal)
            stream.reset()
            return

        async def run(stream: MuxedStream) -> None:
            try:
                await run_handler(stream, mounted.handler)
            finally:
                self._budgets.release(stream.peer, mounted.protocol)

        if not peering.connection.spawn(run, stream):
            self._budgets.release(stream.peer, mounted.protocol)

    # --- the table

    def services_of(self, connection: Connection) -> list[Service]:
        """The services that know of the connection: none before its admission and of an isolated one."""
        peering = self.running.get(connection.id)
        return list(self.services) if peering is not None and peering.admitted else []

    def refused(self, refusal: Refused, detail: str, isolated: bool = False, count: int = 1) -> None:
        """Count and tell a refusal; one of an isolated connection is only counted."""
        self._limits.count_refusal(refusal, count)
        if not isolated:
            self._hub.refused(refusal.code, f"{detail}: {refusal}", count)

    def in_use(self) -> dict[str, int]:
        """What connections and streams hold now, by name; all zero when none is left."""
        held = {name: count for name, count in self._limits.counters().items() if not name.startswith("refused.")}
        streams, pushes = self._budgets.in_use, self._pushing.borrowed_tokens
        return held | {"serving": self._serving, "streams": streams, "pushes": pushes, "memory": self._memory.used}

    def best(self, peer: PeerId) -> Connection | None:
        """The connection to use for new streams to `peer`: the oldest that is not about to go."""
        candidates = [p.connection for p in self.peers.get(peer, []) if p.connection.is_open and not p.abandoned]
        return next((c for c in candidates if not c.draining), candidates[0] if candidates else None)

    def usable(self, connection: Connection) -> bool:
        """True while the connection may be given to a caller."""
        peering = self.running.get(connection.id)
        return connection.is_open and peering is not None and not peering.abandoned

    def tick(self, now: float) -> None:
        """All timers of all connections, once a second."""
        for peering in list(self.running.values()):
            connection = peering.connection
            connection.tick(now)
            self._tell_refusals(peering)
            if self._config.heartbeat and connection.heartbeat(now):
                connection.start_service(self.ping_by_stream)
        for peerings in list(self.peers.values()):
            if len(peerings) > 1:
                self._thin_out(peerings, now)

    def _thin_out(self, peerings: list[Peering], now: float) -> None:
        """Of several connections to one peer keep the one both sides agree on; the others go when idle."""
        mine, peer = self._stacks.identity.peer, peerings[0].connection.peer
        lower_dialled = [p for p in peerings if p.connection.direction.outbound == (mine < peer)]
        keeper = (lower_dialled or peerings)[0]
        for peering in list(peerings):
            connection = peering.connection
            if peering is keeper:
                connection.draining = False
                peering.idle_since = None
                continue
            ours = connection.info is not None and (connection.info.agent or "").startswith(AGENT_PREFIX)
            connection.draining = ours
            if connection.streams:
                peering.idle_since = None
            elif peering.idle_since is None:
                peering.idle_since = now
            elif now - peering.idle_since >= (_DRAIN_GRACE if ours else self._config.timeouts.idle_duplicate):
                self._spawn(connection.aclose, CloseReason("duplicate", "another connection to this peer is kept"))


def _broken_part(connection: Connection, error: RemoteError) -> str:
    """Which part of ours the error that ended the connection came from, by its name in the canonical log."""
    if connection.reason is None or connection.reason.code != "violation":
        return "admission"
    if isinstance(error, SecurityError):
        return "security"
    return "muxer" if isinstance(error, MuxerError) else "multistream"
