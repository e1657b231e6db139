"""The switch: listens, dials, upgrades, identifies, serves protocols, and tells who came and went.

`open_switch` is the way in. All tasks live in its nursery and end with its block (docs/architecture.md, "Who owns
which task"). This file is the composition; each step of a connection's life is in a file of its own.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio
from multiaddr import Multiaddr

from pyp2p.errors import (
    LimitExceeded,
    NotAllowed,
    P2PError,
    Refused,
    Stopping,
    describe,
    printable,
    unwrapped,
)
from pyp2p.identify.service import IDENTIFY_PROTOCOL, PUSH_PROTOCOL, Identify
from pyp2p.identify.wire import MAX_PROTOCOLS
from pyp2p.io.guard import call_guarded, run_guarded
from pyp2p.io.handshake import Direction
from pyp2p.io.loglimit import LogLimiter
from pyp2p.io.stream import PlainStream, RawStream
from pyp2p.muxers.base import MuxerFactory
from pyp2p.peer.address import AddressKind, ip_of, parse_multiaddr, split_peer, text, with_peer
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.peer.store import PeerBook, PeerStore
from pyp2p.platform import Platform
from pyp2p.protocols.perf import PERF_PROTOCOL, serve_perf
from pyp2p.protocols.ping import PING_PROTOCOL, serve_ping
from pyp2p.quic.base import Served
from pyp2p.security.base import Security
from pyp2p.switch.accept import accept_loop
from pyp2p.switch.backoff import DialBackoff
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.connecting import Connector
from pyp2p.switch.connection import Connection
from pyp2p.switch.defaults import default_muxers, default_securities, default_transports
from pyp2p.switch.establish import Establisher, Peering
from pyp2p.switch.events import EventHub, ListenAddrAdded, ListenAddrRemoved, SwitchEvent
from pyp2p.switch.facts import NORMAL, SHUTDOWN, CloseReason
from pyp2p.switch.gater import AllowAll, ConnectionGater
from pyp2p.switch.handlers import (
    Handler,
    Matcher,
    Mounted,
    ProtocolTable,
    protocol_names,
)
from pyp2p.switch.limits import Budget, ConnectionLimits, Ticket
from pyp2p.switch.outbound import Outbound
from pyp2p.switch.service import Service
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.upgrade import Stacks
from pyp2p.trace import Stage, Trace
from pyp2p.transports.base import Listener, RawConn, Transport
from pyp2p.transports.dns import Resolver, SystemResolver
from pyp2p.transports.interfaces import expand_wildcard

logger = logging.getLogger("pyp2p.switch")

_TICK = 1.0  # seconds between two looks at all deadlines of all connections
_LOOK = 5.0  # seconds between two looks at our addresses: the interfaces cost a system call each
_NOWHERE = parse_multiaddr("/memory/0")  # stands for the ends of an adopted stream that has no address


class Switch:
    """A libp2p node: identity, listeners, connections, served protocols. Made by `open_switch`.

    Addresses are `str | Multiaddr`, protocols `str | Iterable[str]` (a `str` is one protocol). Facts: `identity`,
    `peer` (our id), `peers` (the peer store), `config`.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        identity: Identity,
        config: SwitchConfig,
        transports: Sequence[Transport],
        securities: Sequence[Security],
        muxers: Sequence[MuxerFactory],
        platform: Platform,
        gater: ConnectionGater,
        resolver: Resolver,
        store: PeerBook,
    ) -> None:
        self.identity = identity
        self.peer: PeerId = identity.peer
        self.config = config
        self.platform = platform
        self.peers = store
        self._nursery = nursery
        self._transports = list(transports)
        self._limits = ConnectionLimits(config.limits)
        self._gater = gater
        self._table = ProtocolTable()
        self._hub = EventHub(config.limits.event_queue)
        self._failures = LogLimiter(logger)
        self._listeners: list[Listener] = []
        self._said: tuple[list[Multiaddr], list[Multiaddr]] = [], []  # listen addresses, and where peers see us
        self._stopping = False
        self._push_wanted = trio.Event()
        stacks = Stacks(identity, list(securities), list(muxers), config.early_muxer, platform, config.limits.muxer)
        self._identify = Identify(
            identity,
            store,
            agent=config.agent,
            protocol_version=config.protocol_version,
            protocols=self._table.names,
            addresses=self._announced,
            wall=platform.wall,
        )
        self._establisher = Establisher(
            config=config,
            stacks=stacks,
            platform=platform,
            limits=self._limits,
            gater=gater,
            table=self._table,
            hub=self._hub,
            identify=self._identify,
            store=store,
            spawn=nursery.start_soon,
        )
        self._connector = Connector(
            outbound=Outbound(
                config=config,
                transports=self._transports,
                resolver=resolver,
                limits=self._limits,
                gater=gater,
                backoff=DialBackoff(config.backoff, platform.rng),
                establisher=self._establisher,
                securities=securities,
                addresses=lambda: self.addresses,
            ),
            establisher=self._establisher,
            peer=self.peer,
            store=store,
            addresses=lambda: self.addresses,
            max_dials=config.limits.dial_peers,
            spawn=nursery.start_soon,
        )

    def __repr__(self) -> str:
        return f"<Switch {self.peer} connections={len(self._establisher.running)} listeners={len(self._listeners)}>"

    # --- protocols and services

    def mount(
        self,
        protocols: str | Iterable[str],
        handler: Handler,
        *,
        match: Matcher | None = None,
        budget: Budget | None = None,
        before_admission: bool = False,
        after_identify: bool = False,
    ) -> None:
        """Serve protocols: `handler(stream)` runs for each stream that a peer opens for one of them.

        When the handler returns the stream is closed, when it raises it is reset. `match` also takes other names that
        it says yes to. `budget` bounds concurrent streams. Streams wait for admission unless `before_admission`, and
        for the peer's identify with `after_identify`. Connected peers are told. Raises `ValueError` for a duplicate and
        for more protocols than identify can carry (1,000).
        """
        names = protocol_names(protocols)
        for name in names:
            if self._table.mounted(name) or names.count(name) > 1:
                raise ValueError(f"protocol {name} is already mounted")
        if len(self._table.names()) + len(names) > MAX_PROTOCOLS:
            raise ValueError(f"more than {MAX_PROTOCOLS} protocols: identify could not tell peers of all")
        limits = self.config.limits
        bound = Budget(per_peer=limits.streams_per_protocol_and_peer) if budget is None else budget
        for name in names:
            self._table.mount(Mounted(name, handler, match, bound, before_admission, after_identify))
        self._changed()

    def unmount(self, protocols: str | Iterable[str]) -> None:
        """Serve the protocols no longer; open streams go on. Raises `KeyError` for one that is not mounted."""
        for name in protocol_names(protocols):
            self._table.unmount(name)
        self._changed()

    def attach(self, service: Service) -> None:
        """Hook a service into admission, connection and disconnection of peers; hooks run in the order of attaching."""
        self._establisher.services.append(service)

    def detach(self, service: Service) -> None:
        """Undo `attach`; connections that it admitted stay."""
        self._establisher.services.remove(service)

    # --- listening

    @property
    def addresses(self) -> list[Multiaddr]:
        """Where we listen, wildcards as real interface addresses, without `/p2p`."""
        found: dict[Multiaddr, None] = {}
        for listener in self._listeners:
            found.update(dict.fromkeys(expand_wildcard(listener.address)))
        return list(found)

    @property
    def multiaddrs(self) -> list[Multiaddr]:
        """`addresses` with our `/p2p` id: what another node can dial."""
        return [with_peer(address, self.peer) for address in self.addresses]

    def _announced(self) -> list[Multiaddr]:
        return list(dict.fromkeys([*self.addresses, *self._identify.observed.confirmed(trio.current_time())]))

    async def listen(self, address: str | Multiaddr) -> Multiaddr:
        """Listen on an address and return it with its real port. Raises `InvalidMultiaddr`, `ValueError` for one
        that no transport handles, `OSError`, `Refused`.
        """
        self._check_running()
        wanted, named = split_peer(parse_multiaddr(address))
        if named is not None and named != self.peer:
            raise ValueError(f"cannot listen as {named}: we are {self.peer}")
        limits = self.config.limits
        if len(self._listeners) >= limits.listeners:
            refusal = LimitExceeded("listeners", f"{limits.listeners} listeners are open")
            self._establisher.refused(refusal, "listen")
            raise refusal
        transport = next((t for t in self._transports if t.handles(wanted)), None)
        if transport is None:
            raise ValueError(f"no transport handles {text(wanted)}")
        listener = await transport.listen(wanted)
        if self._stopping:
            await listener.aclose()
            self._check_running()
        self._listeners.append(listener)
        self._nursery.start_soon(accept_loop, listener, self._accepted)
        await self._compare_addresses()
        return listener.address

    async def stop_listening(self) -> None:
        """Close all listeners; connections stay."""
        await self._close_listeners()
        await self._compare_addresses()

    async def _close_listeners(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.aclose()

    async def _compare_addresses(self) -> None:
        """Tell subscribers and peers when we are elsewhere than we last said."""
        before, observed = self._said
        confirmed = self._identify.observed.confirmed(trio.current_time())
        now = self.addresses
        self._said = now, confirmed
        if (now, confirmed) != (before, observed):
            self._changed()
        for address in before:
            if address not in now:
                await self._hub.emit(ListenAddrRemoved(address))
        for address in now:
            if address not in before:
                await self._hub.emit(ListenAddrAdded(address))

    def _accepted(self, raw: RawConn) -> None:
        """Called by the accept loops; never waits, and a gater that crashes costs its connection."""
        error = call_guarded(self._take_in, raw)
        if error is None:
            return
        if isinstance(error, Refused):
            self._establisher.refused(error, text(raw.remote))
        self._note_failure(error, "refused addr=%s error=%s", text(raw.remote), describe(error))
        self._nursery.start_soon(trio.aclose_forcefully, raw.stream)

    def _take_in(self, raw: RawConn) -> None:
        self._check_running()
        reason = self._gater.allow_accept(raw.remote)
        if reason is not None:
            raise NotAllowed("accept", reason)
        ticket = self._limits.try_inbound(ip_of(raw.remote), trio.current_time())
        self._nursery.start_soon(self._serve_inbound, raw, ticket)

    async def _serve_inbound(self, raw: RawConn, ticket: Ticket) -> None:
        trace = Trace()
        trace.begin(Stage.CONNECT, text(raw.remote), trio.current_time())
        made: list[Peering] = []

        async def work() -> None:
            made.append(await self._establisher.upgrade(raw, ticket, None, trace))

        error = await run_guarded(work)
        if error is None:
            await self._establisher.serve(made[0], ticket)
            return
        if isinstance(error, Refused):
            self._establisher.refused(error, text(raw.remote))
        stage = trace.stage.value
        self._note_failure(error, "upgrade failed addr=%s stage=%s error=%s", text(raw.remote), stage, describe(error))

    def _note_failure(self, error: Exception, message: str, *args: object) -> None:
        """What peers and networks do is no more than INFO; an exception of a gater or transport is a bug to be seen."""
        expected = isinstance(error, (P2PError, OSError, trio.BrokenResourceError, trio.ClosedResourceError))
        self._failures.log(trio.current_time(), message, *args, level=logging.INFO if expected else logging.ERROR)

    # --- connecting

    async def connect(
        self,
        target: PeerId | Multiaddr | str,
        addrs: Iterable[str | Multiaddr] = (),
        *,
        isolated: bool = False,
        ignore_backoff: bool = False,
    ) -> Connection:
        """Return an open connection to `target`, dialling when there is none; admitted and identified.

        `target` is a peer id (its text too), whose addresses come from `addrs` and the peer store, or an address; one
        without `/p2p` learns the id. Of more than 100 addresses the first are considered. Callers that want the same
        peer share one dial. `isolated` opens a connection of its own that leaves no trace. Raises `DialFailed` (with
        every attempt), `DialSelf`, `LimitExceeded`, `Stopping`, `InvalidMultiaddr`, or what an admission step raised.
        Cancelling gives up the wait; the dial ends when nobody waits for it.
        """
        self._check_running()
        return await self._connector.connect(target, addrs, isolated, ignore_backoff)

    async def adopt(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        kind: AddressKind,
        direction: Direction,
        expect: PeerId | None = None,
        address: str | Multiaddr | None = None,
    ) -> Connection:
        """Upgrade a stream that was opened elsewhere (a proxy, Tor, a pipe) and use it like any connection.

        `kind` decides what its address may become; `address` is its transient label (limits, logs). Takes the stream
        over: it is closed on failure. Raises as `connect`, but a single `RemoteError`, `Refused`, ... unwrapped.
        """
        label = "an adopted stream" if address is None else printable(str(address))
        now = trio.current_time()
        trace = Trace()
        trace.begin(Stage.CONNECT, f"adopted {kind.name.lower()}", now)
        try:
            self._check_running()
            remote = _NOWHERE if address is None else parse_multiaddr(address)
            limits = self._limits
            ticket = limits.try_outbound() if direction.outbound else limits.try_inbound(ip_of(remote), now)
            raw_stream = stream if isinstance(stream, RawStream) else PlainStream(stream)
            raw = RawConn(raw_stream, _NOWHERE, remote, direction, kind)
            peering = await self._establisher.upgrade(raw, ticket, expect, trace)
        except BaseException as error:
            if isinstance(error, Refused):
                self._establisher.refused(error, label, kind is AddressKind.ISOLATED)
            await trio.aclose_forcefully(stream)
            raise
        over = await self._establisher.settle(peering, ticket)
        if over is not None:
            raise over
        return peering.connection

    async def open_stream(
        self, peer: PeerId | Multiaddr | str, protocols: str | Iterable[str], addrs: Iterable[str | Multiaddr] = ()
    ) -> MuxedStream:
        """Open a stream to `peer` for the first of `protocols` that it speaks, connecting first when needed.

        Raises as `connect` and `Connection.open_stream`.
        """
        connection = await self.connect(peer, addrs)
        return await connection.open_stream(protocols)

    def connections(self, peer: PeerId | None = None) -> list[Connection]:
        """All admitted connections, or those to `peer`, oldest first."""
        if peer is not None:
            return [peering.connection for peering in self._establisher.peers.get(peer, [])]
        return [p.connection for p in self._establisher.running.values() if p.admitted]

    async def disconnect(self, peer: PeerId, reason: CloseReason | str = NORMAL) -> None:
        """Close all connections to `peer`: services get a bounded last word, then GoAway, then the socket."""
        why = CloseReason("closed", reason) if isinstance(reason, str) else reason
        async with trio.open_nursery() as nursery:
            for connection in self.connections(peer):
                nursery.start_soon(self._close, connection, why)

    async def _close(self, connection: Connection, reason: CloseReason) -> None:
        timeouts = self.config.timeouts
        started = trio.current_time()
        try:
            with trio.move_on_after(timeouts.last_word):
                for service in self._establisher.services_of(connection):
                    word = service.last_word
                    if word is not None:
                        error = await run_guarded(word, connection, reason)
                        if error is not None:
                            logger.debug("last word failed service=%s error=%s", service.name, printable(str(error)))
        finally:  # whoever is cancelled during the last word closes all the same
            await connection.aclose(reason, timeouts.close - (trio.current_time() - started))

    # --- watching

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[SwitchEvent]]:
        """Subscribe to events: `async with switch.watch() as events: async for event in events`.

        A subscriber that does not read holds up admission (so `connect` too) and farewell of connections for as long as
        it does not read; sockets and handlers go on.
        """
        return self._hub.watch()

    @property
    def counters(self) -> dict[str, int]:
        """Current use and refusals of every limit by name, for people and metrics."""
        return self._limits.counters()

    def _check_running(self) -> None:
        if self._stopping:
            raise Stopping("the switch stops")

    # --- own tasks

    def _changed(self) -> None:
        """Our protocols or addresses changed: tell the peers soon."""
        self._push_wanted.set()

    async def _push_loop(self) -> None:
        while True:
            await self._push_wanted.wait()
            await trio.lowlevel.checkpoint()  # several changes in one go are one push
            self._push_wanted = trio.Event()
            if self.config.identify:
                await self._establisher.push_all()

    async def _tick_loop(self) -> None:
        while True:
            await trio.sleep(_TICK)
            self._establisher.tick(trio.current_time())

    async def _address_loop(self) -> None:
        """Interfaces come and go, and peers begin to agree on where we are."""
        while True:
            await trio.sleep(_LOOK)
            await self._compare_addresses()

    def start(self) -> None:
        """Start the switch's own tasks and mount what every node serves; called by `open_switch`."""
        config = self.config
        if config.identify:
            self.mount(IDENTIFY_PROTOCOL, self._establisher.handle_identify, before_admission=True)
            self.mount(PUSH_PROTOCOL, self._establisher.handle_push, after_identify=True)
        if config.ping:
            self.mount(PING_PROTOCOL, serve_ping, budget=Budget(per_peer=2), before_admission=True)
        if config.perf:
            self.mount(PERF_PROTOCOL, serve_perf)
        self._push_wanted = trio.Event()
        for task in (self._hub.run, self._tick_loop, self._push_loop, self._address_loop):
            self._nursery.start_soon(task)

    async def start_transports(self) -> None:
        """Start those that have tasks of their own; they end after the last connection."""
        for transport in self._transports:
            if isinstance(transport, Served):
                await self._nursery.start(transport.serve, self.identity, self.platform)

    async def stop(self) -> None:
        """Stop within `timeouts.close`: no new dials, listeners, last words, connections; called by `open_switch`.

        Every subscriber that reads gets each `Disconnected` before the end.
        """
        self._stopping = True
        with trio.move_on_after(self.config.timeouts.close, shield=True):
            self._connector.stop()
            self._establisher.stop()
            await self._close_listeners()
            async with trio.open_nursery() as nursery:
                for peering in list(self._establisher.running.values()):
                    nursery.start_soon(self._close, peering.connection, SHUTDOWN)
            await self._establisher.wait_over()
            await self._compare_addresses()
        self._hub.close()


@asynccontextmanager
async def open_switch(
    identity: Identity | None = None,
    *,
    listen: str | Multiaddr | Iterable[str | Multiaddr] = (),
    config: SwitchConfig | None = None,
    transports: Sequence[Transport] | None = None,
    securities: Sequence[Security] | None = None,
    muxers: Sequence[MuxerFactory] | None = None,
    platform: Platform | None = None,
    gater: ConnectionGater | None = None,
    resolver: Resolver | None = None,
    store: PeerBook | None = None,
) -> AsyncIterator[Switch]:
    """Run a switch for the length of the block; leaving it stops everything within `timeouts.close` seconds (a handler
    that shields itself from cancellation is waited for).

    Defaults: a fresh Ed25519 identity, TCP, Noise, Yamux then Mplex, and WebSocket, TLS and QUIC where they are
    installed (`defaults.py`); limits on, identify and ping served, the peer store in memory, the real clock and
    randomness. An exception in the block propagates after the stop.
    """
    world = Platform() if platform is None else platform
    wanted = [listen] if isinstance(listen, (str, Multiaddr)) else listen
    # What the block raises is the user's: the nurseries that it runs in are not part of the contract.
    with unwrapped():
        async with trio.open_nursery() as nursery:
            switch = Switch(
                nursery,
                identity=Identity.generate(entropy=world.entropy) if identity is None else identity,
                config=SwitchConfig() if config is None else config,
                transports=default_transports() if transports is None else transports,
                securities=default_securities() if securities is None else securities,
                muxers=default_muxers() if muxers is None else muxers,
                platform=world,
                gater=AllowAll() if gater is None else gater,
                resolver=SystemResolver() if resolver is None else resolver,
                store=PeerStore() if store is None else store,
            )
            switch.start()
            try:
                await switch.start_transports()
                for address in wanted:
                    await switch.listen(address)
                yield switch
            finally:
                await switch.stop()
                nursery.cancel_scope.cancel()
