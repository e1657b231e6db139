"""The networking layer of a beacon node: switch, gossip, discovery, requests, dialer and peer manager, composed.

    async with BeaconNetwork(BeaconConfig(chain=load_chain("mainnet"))) as net:
        net.gossip.validate("beacon_block", judge)
        await net.connect_to_network()
        async with net.gossip.subscribe("beacon_block") as blocks:
            async for block in blocks:
                ...

Rules: this file wires and decides little by itself: what to do with peers is for `peers.py`, whom to dial for the
dialer, which topics live for `gossip.py`, what a status is worth for `status.py`. Consensus-specs, p2p-interface.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TypeVar

import trio

from pyp2p.beacon.book import open_book
from pyp2p.beacon.clock import SlotClock
from pyp2p.beacon.collect import Totals, node_stats
from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.containers import GoodbyeReason, MetaDataV3, StatusV1, StatusV2
from pyp2p.beacon.events import (
    DialFailed,
    NetworkEvent,
    Warned,
)
from pyp2p.beacon.exchange import Exchange, PeerFacts, goodbye_text
from pyp2p.beacon.gossip import Gossip, message_ids, topic_filter
from pyp2p.beacon.handshakes import Handshake, Handshakes
from pyp2p.beacon.joining import Joining, parse_bootstraps
from pyp2p.beacon.listening import chosen_transports, listen_addresses, record_ports
from pyp2p.beacon.local import DataFolder, MetadataSeq, open_data
from pyp2p.beacon.methods import Methods
from pyp2p.beacon.own import OwnSubnets
from pyp2p.beacon.parts import Part
from pyp2p.beacon.peer_types import Discover
from pyp2p.beacon.peering import Peering
from pyp2p.beacon.peers import PeerManager
from pyp2p.beacon.scores import DISCONNECT_AT, Tolerance
from pyp2p.beacon.scoring import score_params
from pyp2p.beacon.stats import NodeStats, PeerStats
from pyp2p.beacon.status import ChainStatus, FinalizedRoot, irrelevance
from pyp2p.beacon.topics import max_payload
from pyp2p.beacon.upkeep import Upkeep
from pyp2p.dialer.service import Failed, SearchFailed, open_dialer
from pyp2p.dialer.tables import DialerConfig
from pyp2p.discv5.candidates import Candidate, Known, named_peer
from pyp2p.discv5.enr import Enr, node_id
from pyp2p.discv5.service import Bind, Discv5, open_discv5
from pyp2p.errors import DiscoveryError, LocalProtocolError, ProtocolViolation, describe, printable, unwrapped
from pyp2p.io.hub import Hub
from pyp2p.io.udp import bind_udp
from pyp2p.muxers.base import MuxerFactory
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.platform import Platform
from pyp2p.pubsub.params import Thresholds, eth2_params
from pyp2p.pubsub.service import Pubsub, open_pubsub
from pyp2p.pubsub.signing import StrictNoSign
from pyp2p.pubsub.snappy import Snappy
from pyp2p.reqresp.answer import Handler
from pyp2p.reqresp.declare import Method
from pyp2p.reqresp.service import ReqResp, Response, open_reqresp
from pyp2p.switch.connection import Connection
from pyp2p.switch.events import Disconnected, Identified
from pyp2p.switch.gater import BlockList
from pyp2p.switch.service import Service
from pyp2p.switch.switch import Switch, open_switch
from pyp2p.transports.base import Transport

logger = logging.getLogger("pyp2p.beacon")

Rq = TypeVar("Rq")
Rs = TypeVar("Rs")

JOIN_SECONDS = 30.0
_NETWORK = "beacon"  # of the dialer
_TO_TELL = 256  # rare events that wait for watchers; more are counted
_LEAVE = 1.0  # seconds for goodbyes when the block is left
_SUBNET_SEARCH = 30.0  # seconds that discovery looks for one subnet


class BeaconNetwork:
    """The network of one chain, for the length of an `async with` block.

    Facts: `config`, `chain`, `methods` (the declared requests), and in the block `switch`, `pubsub`, `gossip`,
    `discovery` (None without), `reqresp`, `peer` (our id). `status` is what the application knows of the chain: it sets
    it. `finalized_root` may be set to a function that tells the final root of an earlier epoch.

    `platform`, `transports`, `muxers` and `bind` are for tests and simulations. Entering raises `OSError` for addresses
    that are not to be had, `DataInUse`, `KeyFileError`, `InvalidEnr` and `InvalidMultiaddr` for peers that are none.
    """

    switch = Part[Switch]()
    pubsub = Part[Pubsub]()
    gossip = Part[Gossip]()
    reqresp = Part[ReqResp]()
    peering = Part[Peering]()
    _nursery = Part[trio.Nursery]()
    _upkeep = Part[Upkeep]()
    _exchange = Part[Exchange]()

    def __init__(
        self,
        config: BeaconConfig,
        *,
        platform: Platform | None = None,
        transports: Sequence[Transport] | None = None,
        muxers: Sequence[MuxerFactory] | None = None,
        bind: Bind = bind_udp,
    ) -> None:
        self.config = config
        self.chain = config.chain
        self._status = ChainStatus()
        self.finalized_root: FinalizedRoot | None = None
        self._platform = Platform() if platform is None else platform
        self.clock = SlotClock(config.chain, self._platform.wall)
        self.methods = Methods(config.chain, lambda: self.clock.epoch)
        # What every peer answers is no merit.
        self._courtesies = frozenset(method.protocol for method in self.methods if method.before_admission)
        self._transports = transports
        self._muxers = muxers
        self._bind = bind
        self._hub: Hub[NetworkEvent] = Hub(config.events)
        self._handshakes = Handshakes(self._refuse, self._warn)
        self._totals = Totals()
        self._to_tell, self._told = trio.open_memory_channel[NetworkEvent](_TO_TELL)
        self._joining: list[Joining] = []
        self._all_told = trio.Event()  # of what the switch had to tell
        self.discovery: Discv5 | None = None
        self._life: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> BeaconNetwork:
        if self._life is not None:
            raise LocalProtocolError("a BeaconNetwork runs once: make another one")
        self._life = self._run()
        await self._life.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._life is not None
        return await self._life.__aexit__(kind, error, traceback)

    # --- who and where we are

    @property
    def status(self) -> ChainStatus:
        """What the application knows of the chain, which it sets. Raises `TypeError` for anything else."""
        return self._status

    @status.setter
    def status(self, status: ChainStatus) -> None:
        if not isinstance(status, ChainStatus):
            raise TypeError(f"status is a ChainStatus, not {status!r}")
        self._status = status

    @property
    def peer(self) -> PeerId:
        """Our peer id."""
        return self.switch.peer

    @property
    def enr(self) -> Enr | None:
        """Our node record; None without discovery."""
        return None if self.discovery is None else self.discovery.record

    # --- getting in touch

    async def connect_to_network(
        self, bootstrap: Iterable[Known] | None = None, *, seconds: float = JOIN_SECONDS
    ) -> PeerId:
        """Reach the first of some bootstrap nodes (records, or addresses that end with `/p2p`) and return which it was.

        None: those of the configuration and the chain. A node without a TCP port is reached when it answers in
        discovery; when all are such, the first peer that is found through them counts. Looking for more peers goes on
        by itself. Raises `JoinFailed` after `seconds`, with the last word on each; `ValueError`, `InvalidEnr` and
        `InvalidMultiaddr` for bootstrap nodes that are none. Cancelling stops trying.
        """
        given = [*self.config.bootnodes, *self.chain.bootnodes] if bootstrap is None else bootstrap
        joining = Joining(self.switch, self.discovery, parse_bootstraps(given, self.peer), self._nursery)
        self._joining.append(joining)
        try:
            return await joining.run(seconds)
        finally:
            self._joining.remove(joining)

    def add_handshake(self, step: Handshake) -> None:
        """Have every connection from now on pass a step of the application too; status comes first. See `Handshake`."""
        self._handshakes.add(step)

    async def disconnect(self, peer: PeerId, code: int = GoodbyeReason.CLIENT_SHUTDOWN) -> None:
        """Say goodbye to a peer and close its connections."""
        await self.peering.disconnect(peer, code, goodbye_text(code))

    def tell_status(self) -> None:
        """Exchange statuses with all peers soon, for when what we said as they came is no longer true by far."""
        self._exchange.ask_again()

    # --- peers

    def peers(self) -> list[PeerStats]:
        """Who is connected, the longest first."""
        return self.peering.peers()

    def report(self, peer: PeerId, tolerance: Tolerance, reason: str) -> None:
        """A peer did something wrong, the application says; `reason` is for people. The peer manager draws the
        consequences: see `Tolerance`. Raises `TypeError` for what is no peer id, or no `Tolerance`.
        """
        if not isinstance(peer, PeerId) or not isinstance(tolerance, Tolerance):
            raise TypeError(f"report({peer!r}, {tolerance!r}, ...): a PeerId and a Tolerance are needed")
        self.peering.report(peer, tolerance, reason)

    def subscribe_subnet(self, subnet: int, until: int) -> None:
        """Be on an attestation subnet until a slot: its gossip is followed and forwarded (as far as the application's
        validator accepts it), peers of it are looked for, our record and metadata say so.

        To read what comes, use `gossip.subscribe("beacon_attestation", subnet)`. Raises `LocalProtocolError` for a
        subnet that does not exist.
        """
        self._upkeep.want(subnet, until)

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[NetworkEvent]]:
        """Subscribe to events: `async with net.watch() as events: async for event in events`.

        A watcher that does not read slows the network down, in the end the coming and going of peers, and loses none
        of that; what happens by the clock waits for nobody: beyond 256 of it, the rest is lost and counted.
        """
        return self._hub.watch()

    def stats(self) -> NodeStats:
        """How things stand."""
        return node_stats(
            self.switch,
            pubsub=self.pubsub,
            gossip=self.gossip,
            reqresp=self.reqresp,
            discovery=self.discovery,
            clock=self.clock,
            status=self.status,
            totals=self._totals,
            peers=self.peers(),
            target_peers=self.config.peers.target,
        )

    # --- requests

    async def request(self, peer: PeerId, method: Method[Rq, Rs], request: Rq) -> Response[Rs]:
        """Ask a peer; see `ReqResp.request`. What it breaks is held against it."""
        return await self.reqresp.request(peer, method, request)

    def serve(self, method: Method[Rq, Rs], handler: Handler[Rq, Rs]) -> None:
        """Answer requests of peers; see `ReqResp.serve`."""
        self.reqresp.serve(method, handler)

    # --- composition

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        """All in a task of its own: a cancellation of the block reaches it when the goodbyes are said."""
        leave = trio.Event()
        with unwrapped():
            async with trio.open_nursery() as nursery:
                await nursery.start(self._live, leave)
                try:
                    yield
                finally:
                    leave.set()

    async def _live(self, leave: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as scope:
            async with self._composed():
                await trio.lowlevel.checkpoint_if_cancelled()  # a start that was given up
                scope.shield = True
                task_status.started()
                await leave.wait()
                await self._say_goodbyes()
                scope.shield = False

    @asynccontextmanager
    async def _composed(self) -> AsyncIterator[None]:
        config, world = self.config, self._platform
        static, trusted = _named(config.static_peers), _named(config.trusted_peers)
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            folder = None if config.data is None else stack.enter_context(open_data(config.data, platform=world))
            identity = config.identity or _identity(folder, world)
            transports = chosen_transports(config, self._transports)
            self._totals.started_at = world.wall()
            gate = BlockList(trio.current_time)
            watching = await enter(trio.open_nursery())
            stack.push_async_callback(self._tell_last)
            self.switch = await enter(
                open_switch(
                    identity,
                    config=replace(config.switch, agent=config.agent),
                    transports=transports,
                    muxers=self._muxers,
                    platform=world,
                    gater=gate,
                )
            )
            self.reqresp = await enter(
                open_reqresp(self.switch, limits=config.requests, violated=self._violated, answered=self._answered)
            )
            self._exchange = Exchange(self.reqresp, self.methods, self.chain, _Us(self))
            self.pubsub = await enter(
                open_pubsub(
                    self.switch,
                    params=eth2_params(),
                    score=score_params(),
                    policy=StrictNoSign(),
                    message_id=message_ids(self.chain),
                    transform=Snappy(max_payload),
                    allows=topic_filter(self.chain),
                )
            )
            await watching.start(self._watch_switch)
            self._dialer = await enter(open_dialer(self.switch, config=DialerConfig(attempts=config.dials)))
            self._nursery = await enter(trio.open_nursery())
            stack.callback(self._nursery.cancel_scope.cancel)
            self.gossip = Gossip(self.pubsub, self.chain, lambda: self.clock.epoch, self._nursery)
            book = await enter(open_book(None if folder is None else folder.peers))
            self.peering = Peering(
                self.switch,
                PeerManager(
                    replace(config.peers, gossip_graylist=Thresholds().graylist),
                    world.rng,
                    static=[each.peer for each in static],
                    trusted=[each.peer for each in trusted],
                ),
                exchange=self._exchange,
                pubsub=self.pubsub,
                book=book,
                gate=gate,
                discover=self._search_subnet,
                nursery=self._nursery,
            )
            self.peering.remember()
            self._upkeep = Upkeep(
                self.chain,
                self.clock,
                self.gossip,
                subnets=OwnSubnets(self.chain, node_id(identity.public_key.data), config.long_lived_subnets),
                seq=MetadataSeq() if folder is None else folder.metadata,
                groups=config.custody_group_count,
                wants=self.peering.want_subnet,
                say=self._say,
                ask_again=self._exchange.ask_again,
            )
            self._handshakes.add(Handshake("status", self._exchange.greet, 0, goodbye=GoodbyeReason.FAULT))
            self._handshakes.add(Handshake("place", self.peering.find_place, -1))
            self.switch.attach(
                Service(
                    _NETWORK,
                    admit=partial(self.peering.admit, self._handshakes.admit),
                    peer_connected=self.peering.peer_connected,
                    last_word=self.peering.last_word,
                    peer_disconnected=self.peering.peer_disconnected,
                )
            )
            for task in (self._watch_dialer, self._relay):
                await self._nursery.start(task)
            for address in listen_addresses(config, transports):
                await self.switch.listen(address)
            if config.discovery:
                self.discovery = self._upkeep.discovery = await enter(self._open_discovery(identity, folder))
            discover = None if self.discovery is None else partial(self._upkeep.nodes, self.discovery)
            network = await enter(self._dialer.network(_NETWORK, discover=discover))
            self._dialling = await enter(trio.open_nursery())  # of what uses the dialer's network: it ends before it
            stack.callback(self._dialling.cancel_scope.cancel)
            await self._dialling.start(self.peering.run, network)
            await self._nursery.start(self._upkeep.run, self._nursery)
            for each in (*static, *trusted):
                network.keep(each.peer, each.addrs)
            yield

    def _open_discovery(self, identity: Identity, folder: DataFolder | None) -> AbstractAsyncContextManager[Discv5]:
        config = self.config
        return open_discv5(
            identity,
            listen=config.listen,
            advertise=None if config.advertise is None else [(each.ip, each.udp) for each in config.advertise],
            bootnodes=[*config.bootnodes, *self.chain.bootnodes],
            pairs={**record_ports(config, self.switch.addresses), **self._upkeep.entries()},
            state=None if folder is None else folder.nodes,
            config=config.discv5,
            platform=self._platform,
            bind=self._bind,
        )

    async def _say_goodbyes(self) -> None:
        """Tell everybody, while there still is somebody to do it."""
        with trio.move_on_after(_LEAVE):
            async with trio.open_nursery() as nursery:
                for connection in self.switch.connections():
                    nursery.start_soon(self.peering.leave, connection.peer)

    async def _tell_last(self) -> None:
        """The switch has ended: watchers that read hear of every peer that went."""
        with trio.move_on_after(_LEAVE):
            await self._all_told.wait()
        self._hub.close()

    # --- what the parts ask of each other

    def _search_subnet(self, wanted: Discover) -> None:
        if self.discovery is not None:
            self._dialling.start_soon(self._find_subnet, self.discovery, wanted)

    async def _find_subnet(self, discovery: Discv5, wanted: Discover) -> None:
        subnet = wanted.subnet
        with trio.move_on_after(_SUBNET_SEARCH):
            try:
                await self.peering.network.search(self._upkeep.nodes_on(discovery, subnet), wanted.count)
            except DiscoveryError as error:
                await self._warn(f"no search for {subnet.kind.name.lower()} subnet {subnet.number}: {error}")

    async def _refuse(self, connection: Connection, code: int) -> None:
        await self._exchange.say_goodbye(connection, code)

    def said_goodbye(self, peer: PeerId, code: int) -> None:
        """A peer leaves; for the exchange."""
        if self.peering.manager.score(peer, trio.current_time()) > DISCONNECT_AT:  # else it is we who sent it away
            for joining in self._joining:
                joining.said_goodbye(peer, code)
        self.peering.left(peer, code)

    def _answered(self, peer: PeerId, protocol: str) -> None:
        if protocol not in self._courtesies:
            self.peering.served(peer)

    def _violated(self, error: ProtocolViolation) -> None:
        self.peering.violated(error)

    async def _warn(self, words: str) -> None:
        logger.warning("%s", printable(words, 300))
        await self._hub.emit(Warned(words))

    def _say(self, event: NetworkEvent) -> None:
        """Tell watchers soon: what happens by the clock must not wait for them."""
        try:
            self._to_tell.send_nowait(event)
        except trio.WouldBlock:
            self._totals.untold += 1

    async def _relay(self, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        async for event in self._told:
            await self._hub.emit(event)

    # --- tasks

    async def _watch_switch(self, task_status: trio.TaskStatus[None]) -> None:
        told: dict[PeerId, dict[Connection, None]] = {}  # the connections of peers that watchers were told of
        async with self.switch.watch() as events:
            task_status.started()
            async for event in events:
                self._totals.note(event)
                if isinstance(event, Identified) and event.connection.is_open:
                    peer = event.connection.peer
                    if peer not in told:
                        await self._hub.tell(self.peering.introduction(event.connection))
                    told.setdefault(peer, {})[event.connection] = None
                elif isinstance(event, Disconnected) and event.connection in told.get(event.connection.peer, ()):
                    peer = event.connection.peer
                    del told[peer][event.connection]
                    if not told[peer]:
                        del told[peer]
                        await self._hub.tell(self.peering.parted(event.connection, event.reason))
        self._all_told.set()

    async def _watch_dialer(self, task_status: trio.TaskStatus[None]) -> None:
        async with self._dialer.watch() as events:
            task_status.started()
            async for event in events:
                if isinstance(event, Failed):
                    failure = event.failure
                    self._totals.note_failure(failure.stage, event.error)
                    await self._hub.tell(DialFailed(failure.peer, failure.stage.value, failure.reason))
                elif isinstance(event, SearchFailed):
                    await self._hub.tell(Warned(f"discovery: {describe(event.error)}"))

    @property
    def metadata(self) -> MetaDataV3:
        """What we say we serve."""
        return self._upkeep.metadata


class _Us:
    """The node, as `Exchange` speaks for it."""

    def __init__(self, net: BeaconNetwork) -> None:
        self._net = net

    def slot(self) -> int:
        return self._net.clock.slot

    def status(self) -> StatusV2:
        return self._net.status.v2(self._net.clock.period.digest)

    def metadata(self) -> MetaDataV3:
        return self._net.metadata

    def irrelevant(self, theirs: StatusV1) -> str | None:
        net = self._net
        return irrelevance(theirs, net.status, net.chain, net.clock.slot, net.finalized_root)

    def told(self, peer: PeerId, facts: PeerFacts) -> None:
        self._net.peering.learn(peer, facts)

    def ping_failed(self, peer: PeerId) -> None:
        self._net.peering.ping_failed(peer)

    def unwanted(self, peer: PeerId, code: GoodbyeReason, reason: str) -> None:
        self._net.peering.send_away(peer, code, reason)

    def left(self, peer: PeerId, code: int) -> None:
        self._net.said_goodbye(peer, code)


def _identity(folder: DataFolder | None, world: Platform) -> Identity:
    if folder is not None:
        return folder.identity
    return Identity.generate(KeyType.SECP256K1, entropy=world.entropy)


def _named(given: Iterable[Known]) -> list[Candidate]:
    """Static peers. Raises `ValueError` for one that cannot be dialled."""
    found = [named_peer(each) for each in given]
    for each in found:
        if not each.addrs:
            raise ValueError(f"the record of {each.peer} names no address to dial")
    return found
