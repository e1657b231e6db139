"""The dialer on a switch: candidates come from sources, are reached, and get slots of their network.

Rules: one dialer serves several networks over one switch. A network's own handshake is a step on the way to its slot,
not admission: a peer that one network refuses keeps the connection while another uses it. Every failure is told to
whoever watches, none is lost, none ends more than its attempt.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from math import inf

import trio
from multiaddr import Multiaddr

from pyp2p.dialer.core import Dial, Dialer, Discover, Drop, Slot
from pyp2p.dialer.tables import MAX_ADDRESSES, DialerConfig, Failure
from pyp2p.discv5.candidates import Candidate
from pyp2p.discv5.candidates import Source as Origin
from pyp2p.errors import (
    AdmissionRefused,
    DialFailed,
    InvalidMultiaddr,
    LocalProtocolError,
    Refused,
    RemoteClosed,
    StageTimeout,
    describe,
    printable,
    unwrapped,
)
from pyp2p.io.guard import run_guarded
from pyp2p.io.hub import Hub
from pyp2p.peer.address import parse_multiaddr, split_peer, text
from pyp2p.peer.id import PeerId
from pyp2p.peer.store import Source
from pyp2p.switch.connection import Connection
from pyp2p.switch.events import Connected, Disconnected
from pyp2p.switch.facts import CloseReason
from pyp2p.switch.switch import Switch
from pyp2p.trace import Stage

logger = logging.getLogger("pyp2p.dialer")

Handshake = Callable[[Connection], Awaitable[None]]
Discovery = Callable[[], AsyncIterator[Candidate]]

_TOLD_FOR = 60.0  # seconds that the peer store keeps what a dial is tried with: it is given anew for each


@dataclass(frozen=True, slots=True)
class Joined:
    """A peer has a slot of the network: its connection stands and the network's handshake, if it has one, is done."""

    network: str
    peer: PeerId
    outbound: bool


@dataclass(frozen=True, slots=True)
class Left:
    """A peer that had `Joined` lost its slot; exactly one for each, unless the dialer ends first."""

    network: str
    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A peer was not reached, or refused by the network's handshake; `error` is what the attempt ended with."""

    failure: Failure
    error: Exception


@dataclass(frozen=True, slots=True)
class SearchFailed:
    """A source of candidates raised. It is opened anew after a pause that grows while nobody is found."""

    network: str
    error: Exception


DialerEvent = Joined | Left | Failed | SearchFailed


class Network:
    """One network of a dialer; made by `DialerService.network`. After its block all raise `LocalProtocolError`."""

    def __init__(self, service: DialerService, name: str, handshake: Handshake | None, nursery: trio.Nursery) -> None:
        self.name = name
        self.handshake = handshake
        self.nursery = nursery  # of its attempts, and of its search
        self.asked = trio.Event()  # for candidates
        self.missing = self.found = 0  # in this round of discovery
        self.round = trio.CancelScope()
        self._service = service

    def want(self, n: int, *, outbound: int = 0) -> None:
        """See `Dialer.want`."""
        self._core.want(self.name, n, outbound=outbound)

    def candidate(
        self,
        peer: PeerId,
        addrs: Iterable[str | Multiaddr] = (),
        source: Source = Source.DISCOVERY,
        *,
        urgent: bool = False,
    ) -> bool:
        """See `Dialer.candidate`; of more than 64 addresses the first are considered. We ourselves are no news.

        Raises `InvalidMultiaddr`, and `ValueError` for an address that is another peer's.
        """
        core = self._core
        own: list[Multiaddr] = []
        for given in islice(addrs, MAX_ADDRESSES):
            address, whose = split_peer(parse_multiaddr(given))
            if whose not in (None, peer):
                raise ValueError(f"address {text(address)} is of peer {whose}, not {peer}")
            own.append(address)
        if peer == self._service.switch.peer:
            return False
        return core.candidate(self.name, peer, own, source, trio.current_time(), urgent=urgent)

    def keep(self, peer: PeerId, addrs: Iterable[str | Multiaddr] = ()) -> None:
        """A static or trusted peer: see `Dialer.keep`; its addresses are our user's. Raises as `candidate`."""
        self._core.keep(self.name, peer)
        self.candidate(peer, addrs, Source.MANUAL)

    def unkeep(self, peer: PeerId) -> None:
        """See `Dialer.unkeep`."""
        self._core.unkeep(self.name, peer)

    def drop(self, peer: PeerId, reason: str) -> None:
        """See `Dialer.drop`; the connection is closed when no network uses it."""
        self._core.drop(self.name, peer, reason, trio.current_time())

    def ban(self, peer: PeerId, until: float) -> None:
        """See `Dialer.ban`; the connection is closed when no network uses it."""
        self._core.ban(self.name, peer, until)

    def unban(self, peer: PeerId) -> None:
        """See `Dialer.unban`."""
        self._core.unban(self.name, peer)

    def slots(self) -> dict[PeerId, Slot]:
        """The peers that have a slot, the oldest first."""
        return self._core.slots(self.name)

    def failure(self, peer: PeerId) -> Failure | None:
        """See `Dialer.failure`."""
        return self._core.failure(self.name, peer)

    def gauges(self) -> dict[str, int]:
        """See `Dialer.gauges`."""
        return self._core.gauges(self.name)

    def passed(self, connection: Connection) -> bool:
        """An inbound peer passed this network's handshake, says who serves that: it takes a slot.

        False when it gets none: it is banned, or the connection has ended. A network without a handshake needs no such
        word: whoever is connected has a slot.
        """
        self._core  # noqa: B018  raises after the end
        return self._service.give_slot(self, connection)

    async def search(self, source: AsyncIterator[Candidate], most: int) -> int:
        """Take up to `most` new candidates from a source (of a subnet), urgent ones; returns how many there were.

        The source is closed then. Raises what it raises; cancelling ends it.
        """
        found = 0
        try:
            async for candidate in source:
                found += self.take(candidate, urgent=True)
                if found >= most:
                    break
                await trio.lowlevel.checkpoint()  # a source may have much to tell that is no news, and never wait
        finally:
            await close_source(source)
        return found

    def take(self, candidate: Candidate, *, urgent: bool = False) -> bool:
        """A candidate of a source; where a list of our user says a peer is, is believed. True when it is news."""
        source = Source.MANUAL if candidate.source is Origin.STATIC else Source.DISCOVERY
        return self.candidate(candidate.peer, candidate.addrs, source, urgent=urgent)

    @property
    def _core(self) -> Dialer:
        if not self._service.serves(self):
            raise LocalProtocolError(f"network {self.name} was left: its block has ended")
        self._service.poke()
        return self._service.core


class DialerService:
    """A running dialer; made by `open_dialer`."""

    def __init__(self, switch: Switch, config: DialerConfig, nursery: trio.Nursery) -> None:
        self.switch = switch
        self.core = Dialer(config, switch.platform.rng)
        self._config = config
        self._nursery = nursery
        self._networks: dict[str, Network] = {}
        self._changed = trio.Event()
        self._opened: dict[PeerId, None] = {}  # whose connection we made: closed when no network uses it
        self._news: deque[DialerEvent] = deque()  # who adds waits then; at most one for each slot comes without
        self._to_tell = trio.Event()
        self._told = trio.Event()
        self._hub: Hub[DialerEvent] = Hub(config.news)

    # --- for the application

    @asynccontextmanager
    async def network(
        self,
        name: str,
        *,
        handshake: Handshake | None = None,
        discover: Discovery | None = None,
        static: Iterable[Candidate] = (),
    ) -> AsyncIterator[Network]:
        """Serve a network for the length of the block; it wants nobody before its `want`.

        `handshake(connection)` runs on a connection before its peer gets a slot, within `config.handshake` seconds;
        what it raises refuses the peer. None: every admitted connection has a slot, an inbound one too. `discover()`
        gives a source of candidates that is read while some are missing. `static` peers are kept.

        Leaving takes all its slots away, and connections that no other network uses are closed. Raises `ValueError` for
        a name that is taken and for too many networks or static peers.
        """
        with unwrapped():
            async with trio.open_nursery() as nursery:
                network = Network(self, name, handshake, nursery)
                self.core.add_network(name)
                self._networks[name] = network
                try:
                    for candidate in static:
                        network.keep(candidate.peer, candidate.addrs)
                    if handshake is None:
                        for connection in self.switch.connections():
                            self.give_slot(network, connection)
                    if discover is not None:
                        nursery.start_soon(self._search, network, discover)
                    yield network
                finally:
                    del self._networks[name]
                    self.core.remove_network(name)
                    self.poke()
                    nursery.cancel_scope.cancel()

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[DialerEvent]]:
        """All events from now on, until the dialer ends. A watcher that does not read slows the dialer, and in the end
        the switch, as one of `Switch.watch` does; none is lost.
        """
        return self._hub.watch()

    # --- for its networks

    def serves(self, network: Network) -> bool:
        """True until the network is left."""
        return self._networks.get(network.name) is network

    def poke(self) -> None:
        """Something changed: look what is to be done."""
        self._changed.set()

    def give_slot(self, network: Network, connection: Connection) -> bool:
        """The peer passed the network's handshake. False when it gets no slot: it is banned, or gone."""
        peer, name = connection.peer, network.name
        if not connection.is_open:  # its end may have been told already: nobody would take the slot away
            return False
        new = not self.core.has_slot(name, peer)
        outbound = connection.direction.outbound
        has = self.core.connected(name, peer, trio.current_time(), outbound=outbound)
        if new and has:
            self._say(Joined(name, peer, outbound))
        self.poke()
        return has

    # --- tasks

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """All that the dialer does by itself, until cancelled; called by `open_dialer`."""
        async with self.switch.watch() as events, trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_watchers)
            nursery.start_soon(self._mind_core)
            task_status.started()
            async for event in events:
                if isinstance(event, Connected):
                    for network in self._networks.values():
                        if network.handshake is None:
                            self.give_slot(network, event.connection)
                elif isinstance(event, Disconnected):
                    self._disconnected(event)
                await self._room()

    def _disconnected(self, event: Disconnected) -> None:
        peer = event.connection.peer
        if any(connection.is_open for connection in self.switch.connections(peer)):
            return  # slots are the peer's, not the connection's: of two to one peer the switch closes one
        self._opened.pop(peer, None)
        for name in self._networks:
            if self.core.disconnected(name, peer, trio.current_time()):
                self._say(Left(name, peer, printable(str(event.reason), 300)))
        self.poke()

    async def _mind_core(self) -> None:
        while True:
            self._changed = trio.Event()
            for effect in self.core.poll(trio.current_time()):
                if isinstance(effect, Drop):
                    if effect.had_slot:
                        self._say(Left(effect.network, effect.peer, effect.reason))
                    self._close_unused(effect.peer, effect.reason)
                elif isinstance(effect, Dial):
                    network = self._networks[effect.network]
                    network.nursery.start_soon(self._attempt, network, effect)
                else:
                    self._ask(effect)
            await self._room()
            wake = self.core.next_wake()
            with trio.move_on_at(inf if wake is None else wake):
                await self._changed.wait()

    def _ask(self, effect: Discover) -> None:
        network = self._networks[effect.network]
        network.missing = effect.missing
        if effect.missing:
            network.asked.set()
        else:
            network.round.cancel()

    # --- reaching one peer

    async def _attempt(self, network: Network, dial: Dial) -> None:
        """One peer for one network, to its slot or its failure."""
        made: list[Connection] = []

        async def connect() -> None:
            made.append(await self._connect(dial))

        async def greet() -> None:
            await self._greet(network, made[0])

        try:
            error = await run_guarded(connect)
            stage = Stage.PROTOCOL if error is None else stage_of(error)
            if error is None:
                error = await run_guarded(greet)
            if error is None or not self.serves(network):
                return
            reason = reason_of(error)
            logger.debug("not reached network=%s peer=%s stage=%s error=%s", network.name, dial.peer, stage, reason)
            failure = self.core.attempt_failed(network.name, dial.peer, stage, reason, trio.current_time())
            self._say(Failed(failure, error))
            self.poke()
        finally:
            if dial.peer in self._opened:
                self._close_unused(dial.peer, f"network {network.name} has no use for it")
        await self._room()

    async def _connect(self, dial: Dial) -> Connection:
        """What strangers say is judged as the peer store judges it, not tried as if our user had said it."""
        peer, now, store = dial.peer, trio.current_time(), self.switch.peers
        known = set(store.sources(peer, now).values())
        for source in dict.fromkeys(source for _, source in dial.addrs):
            told = [address for address, said_by in dial.addrs if said_by is source]
            if source is not Source.MANUAL and not (source is Source.OWN_CLAIM and source in known):
                store.add_addresses(peer, told, _TOLD_FOR, source, now)
        here = any(connection.is_open for connection in self.switch.connections(peer))
        manual = [address for address, source in dial.addrs if source is Source.MANUAL]
        connection = await self.switch.connect(peer, manual)
        if not here:
            self._opened[peer] = None
        return connection

    async def _greet(self, network: Network, connection: Connection) -> None:
        """The network's handshake, and its slot. A handshake that hangs refuses."""
        if network.handshake is not None:
            seconds = self._config.handshake
            with trio.move_on_after(seconds) as scope:
                await network.handshake(connection)
            if scope.cancelled_caught:
                raise StageTimeout(Stage.PROTOCOL, seconds)
        if not self.serves(network) or self.give_slot(network, connection):
            return
        if connection.is_open:
            raise AdmissionRefused(f"the peer is banned from network {network.name}")
        else:
            raise RemoteClosed(
                f"the connection ended before its slot was given: {connection.reason or 'it is closing'}"
            )

    def _close_unused(self, peer: PeerId, reason: str) -> None:
        if not self.core.users(peer):
            self._opened.pop(peer, None)
            self._nursery.start_soon(self.switch.disconnect, peer, CloseReason("dropped", reason))

    # --- discovery

    async def _search(self, network: Network, discover: Discovery) -> None:
        """Read sources of candidates for as long as some are missing, one after the other."""
        while True:
            await self._asked(network)
            network.found = 0
            with trio.CancelScope() as network.round:
                error = await run_guarded(self._drain, network, discover)
            if network.round.cancelled_caught:
                continue
            if not self.serves(network):
                return
            self._round_over(network)
            if error is not None:
                logger.warning("source of candidates failed network=%s error=%s", network.name, describe(error))
                self._say(SearchFailed(network.name, error))
                await self._room()

    async def _drain(self, network: Network, discover: Discovery) -> None:
        source = discover()
        try:
            async for candidate in source:
                network.found += network.take(candidate)
                if network.found >= network.missing:
                    self._round_over(network)
                    await self._asked(network)
                await trio.lowlevel.checkpoint()  # see `search`
        finally:
            await close_source(source)

    async def _asked(self, network: Network) -> None:
        await network.asked.wait()
        network.asked = trio.Event()

    def _round_over(self, network: Network) -> None:
        self.core.discovered(network.name, network.found, trio.current_time())
        network.found = 0
        self.poke()

    # --- telling

    def _say(self, event: DialerEvent) -> None:
        self._news.append(event)
        self._to_tell.set()

    async def _room(self) -> None:
        """Wait while watchers lag: whoever adds news does so before it adds more."""
        while len(self._news) > self._config.news:
            await self._told.wait()

    async def _tell_watchers(self) -> None:
        try:
            while True:
                await self._to_tell.wait()
                self._to_tell = trio.Event()
                while self._news:
                    await self._hub.emit(self._news[0])
                    self._news.popleft()
                    self._told.set()
                    self._told = trio.Event()
        finally:
            self._hub.close()

    async def stop(self) -> None:
        """Close what networks left last, within the switch's `timeouts.close`; called by `open_dialer`."""
        drops = [effect for effect in self.core.poll(trio.current_time()) if isinstance(effect, Drop)]
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for peer, reason in {drop.peer: drop.reason for drop in drops}.items():
                    nursery.start_soon(self.switch.disconnect, peer, CloseReason("dropped", reason))


async def close_source(source: AsyncIterator[Candidate]) -> None:
    """End a source that is read no further, if it is one that can be."""
    if isinstance(source, AsyncGenerator):
        await source.aclose()


def stage_of(error: Exception) -> Stage:
    """How far a dial came that ended with this."""
    if isinstance(error, DialFailed):
        furthest = error.furthest
        return Stage.RESOLVE if furthest is None else furthest.stage
    if isinstance(error, InvalidMultiaddr):
        return Stage.RESOLVE
    return Stage.CONNECT if isinstance(error, Refused) else Stage.ADMISSION  # what an admission step raised comes bare


def reason_of(error: Exception) -> str:
    """The error as one line, of a dial that of the address that came furthest."""
    furthest = error.furthest if isinstance(error, DialFailed) else None
    if furthest is None:
        return describe(error)
    return f"{furthest.address}: {describe(furthest.error)}" if furthest.address else describe(furthest.error)


@asynccontextmanager
async def open_dialer(switch: Switch, *, config: DialerConfig | None = None) -> AsyncIterator[DialerService]:
    """Run a dialer over a switch for the length of the block; networks are opened in it by `DialerService.network`.

    Connections stay when the dialer ends, but those that only its networks used. An exception of the block propagates.
    """
    with unwrapped():
        async with trio.open_nursery() as nursery:
            service = DialerService(switch, DialerConfig() if config is None else config, nursery)
            await nursery.start(service.run)
            try:
                yield service
            finally:
                await service.stop()
                nursery.cancel_scope.cancel()
