"""Peers as they come and go: the peer manager's decisions carried out, and what peers say brought to it.

Rules: whoever connects is asked about first (bans, places), then greeted; the manager hears of a peer when it is in use
and when its last connection has ended. Dialling is the dialer's, which is told what is wanted and who is banned.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache

import trio

from pyp2p.beacon import labels
from pyp2p.beacon.book import MemoryBook
from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.beacon.events import PeerConnected, PeerDisconnected
from pyp2p.beacon.exchange import Exchange, PeerFacts, parting
from pyp2p.beacon.handshakes import NotWelcome
from pyp2p.beacon.peer_types import Ban, BanIp, Dial, Disconnect, Discover, Effect, Subnet, Unban, Want
from pyp2p.beacon.peers import PeerManager
from pyp2p.beacon.scores import Tolerance
from pyp2p.beacon.stats import PeerStats
from pyp2p.beacon.subnets import NUMBER_OF_CUSTODY_GROUPS, custody_columns, custody_groups, data_column_subnet
from pyp2p.dialer.service import Network
from pyp2p.discv5.enr import node_id
from pyp2p.errors import ProtocolViolation, printable
from pyp2p.peer.address import ip_of, text
from pyp2p.peer.id import PeerId
from pyp2p.peer.publickey import KeyType
from pyp2p.peer.store import Source
from pyp2p.pubsub.service import Pubsub
from pyp2p.switch.connection import Connection
from pyp2p.switch.facts import SHUTDOWN, CloseReason
from pyp2p.switch.gater import BlockList
from pyp2p.switch.switch import Switch

logger = logging.getLogger("pyp2p.beacon")

_GOSSIP_LOOK = 5.0  # seconds between two looks at what gossip thinks of the peers


class Peering:
    """The peers of one beacon network over one switch."""

    def __init__(
        self,
        switch: Switch,
        manager: PeerManager,
        *,
        exchange: Exchange,
        pubsub: Pubsub,
        book: MemoryBook,
        gate: BlockList,
        discover: Callable[[Discover], None],
        nursery: trio.Nursery,
    ) -> None:
        self._switch = switch
        self.manager = manager
        self._exchange = exchange
        self._pubsub = pubsub
        self._book = book
        self._gate = gate
        self._discover = discover
        self._nursery = nursery
        self.leaving: dict[PeerId, int] = {}  # whom we send away: what they are told
        self._changed = trio.Event()
        self._over = False  # whoever is still here is told when the switch closes

    # --- hooks of the switch

    async def admit(self, handshakes: Callable[[Connection], Awaitable[None]], connection: Connection) -> None:
        """Run all handshakes; the place that the first one found is given back when they fail."""
        well = False
        try:
            await handshakes(connection)
            well = True
        finally:
            if not well:
                self.manager.gave_up(connection.peer)

    async def find_place(self, connection: Connection) -> None:
        """The first handshake: may this peer be here at all? Raises `NotWelcome`."""
        refusal = self.manager.refusal(
            connection.peer, ip_of(connection.remote), connection.direction, trio.current_time()
        )
        if refusal is None:
            self.manager.coming(connection.peer, connection.direction)
        await trio.lowlevel.checkpoint()
        if refusal is not None:
            raise NotWelcome(refusal.reason, refusal.code)

    async def peer_connected(self, connection: Connection) -> None:
        """A peer is in use: mind it for as long as it is."""
        now = trio.current_time()
        self.manager.connected(connection.peer, connection.direction, ip_of(connection.remote), now)
        self.poke()
        self._note(connection)
        self.learn(connection.peer, self._exchange.facts(connection))
        await self._exchange.keep_fresh(connection)

    def _note(self, connection: Connection) -> None:
        """In the book: where it is and what it calls itself."""
        peers, now = self._switch.peers, trio.current_time()
        outbound = connection.direction.outbound
        claimed = peers.addresses(connection.peer, now)
        self._book.met(
            connection.peer,
            self._switch.platform.wall(),
            addresses=[connection.remote, *claimed] if outbound else claimed,
            agent=printable(_agent(connection) or "", 256),
            dialled=outbound,
        )

    def peer_disconnected(self, connection: Connection, reason: CloseReason) -> None:
        """A connection has ended."""
        if any(other.is_open for other in self._switch.connections(connection.peer)):
            return
        self.leaving.pop(connection.peer, None)
        goodbye = self._exchange.facts(connection).goodbye
        self.manager.disconnected(connection.peer, trio.current_time(), goodbye)
        self.poke()

    async def last_word(self, connection: Connection, reason: CloseReason) -> None:
        """Say why we leave."""
        if self._exchange.facts(connection).goodbye is not None:
            return  # it left first
        default = GoodbyeReason.CLIENT_SHUTDOWN if reason is SHUTDOWN else GoodbyeReason.FAULT
        await self._exchange.say_goodbye(connection, self.leaving.get(connection.peer, default))

    # --- how things stand

    def peers(self) -> list[PeerStats]:
        """Who is connected and not on its way out, the longest first."""
        first: dict[PeerId, Connection] = {}
        for connection in self._switch.connections():
            if connection.peer not in self.leaving:
                first.setdefault(connection.peer, connection)
        return [self._stats(connection) for connection in first.values()]

    def _stats(self, connection: Connection) -> PeerStats:
        peer, facts = connection.peer, self._exchange.facts(connection)
        status, said = facts.status, facts.metadata
        return PeerStats(
            peer=peer,
            agent=_agent(connection),
            outbound=connection.direction.outbound,
            transport=labels.transport(connection),
            score=self.manager.score(peer, trio.current_time()),
            gossip_score=self._pubsub.score(peer).total,
            trusted=self.manager.is_kept(peer),
            attnets=() if said is None else tuple(sorted(said.attnets)),
            syncnets=tuple(sorted(getattr(said, "syncnets", ()))),
            head_slot=None if status is None else status.head_slot,
            round_trip=facts.round_trip,
            status=status,
            metadata=said,
        )

    def introduction(self, connection: Connection) -> PeerConnected:
        """What watchers are told of a new peer."""
        return PeerConnected(
            connection.peer,
            _agent(connection),
            connection.direction.outbound,
            text(connection.remote),
            labels.transport(connection),
            self._exchange.facts(connection).status,
        )

    def parted(self, connection: Connection, reason: CloseReason) -> PeerDisconnected:
        """What watchers are told of a peer whose last connection has ended; `reason` is the switch's."""
        facts = self._exchange.facts(connection)
        if facts.goodbye is not None:
            return PeerDisconnected(connection.peer, parting(facts.goodbye), "peer", facts.goodbye)
        why = facts.sent_away or reason  # it may have closed first when we said goodbye
        return PeerDisconnected(connection.peer, printable(str(why), 300), why.by, None)

    # --- what peers say and do

    def left(self, peer: PeerId, code: int) -> None:
        """A peer said goodbye on one of its connections, which holds for all: none of them is for us to end."""
        for connection in self._switch.connections(peer):
            self._exchange.facts(connection).goodbye = code
        self.send_away(peer, GoodbyeReason.CLIENT_SHUTDOWN, parting(code))

    def learn(self, peer: PeerId, facts: PeerFacts) -> None:
        """A peer said something new of itself, on one of its connections."""
        for connection in self._switch.connections(peer):
            self._exchange.facts(connection).update(facts)
        said = facts.metadata
        if said is None:
            return
        columns = _columns(peer, getattr(said, "custody_group_count", 0))
        self.manager.metadata(
            peer,
            seq=said.seq_number,
            attnets=said.attnets,
            syncnets=getattr(said, "syncnets", ()),
            columns=columns,
        )
        self.poke()

    def violated(self, error: ProtocolViolation) -> None:
        """A peer broke a rule of requests and responses."""
        assert isinstance(error.peer, PeerId)
        self.report(error.peer, Tolerance.LOW, str(error))

    def served(self, peer: PeerId) -> None:
        """A peer answered a request in full."""
        self.manager.served(peer, trio.current_time())

    def want_subnet(self, subnet: Subnet, until: float) -> None:
        """Keep a subnet served until then (monotonic seconds)."""
        self.manager.want_subnet(subnet, until)
        self.poke()

    def ping_failed(self, peer: PeerId) -> None:
        """A peer did not answer a ping."""
        self.manager.ping_failed(peer, trio.current_time())
        self.poke()

    def report(self, peer: PeerId, tolerance: Tolerance, reason: str) -> None:
        """A peer did something wrong."""
        self.manager.report(peer, tolerance, reason, trio.current_time())
        self.poke()

    def send_away(self, peer: PeerId, code: int, reason: str) -> None:
        """Disconnect a peer soon, with a goodbye of this code unless it said one."""
        if not self._over and peer not in self.leaving and self._switch.connections(peer):
            self.leaving[peer] = code
            self._nursery.start_soon(self.disconnect, peer, code, reason)

    async def disconnect(self, peer: PeerId, code: int, reason: str) -> None:
        """As `send_away`, and wait until it is done; who is not connected is none to say goodbye to."""
        why, connections = CloseReason("goodbye", reason), self._switch.connections(peer)
        if connections:
            self.leaving.setdefault(peer, code)
        for connection in connections:
            self._exchange.facts(connection).sent_away = why
        try:
            await self._switch.disconnect(peer, why)
        finally:
            self.leaving.pop(peer, None)

    async def leave(self, peer: PeerId) -> None:
        """Say goodbye to a peer because we stop."""
        for connection in self._switch.connections(peer):
            facts = self._exchange.facts(connection)
            facts.sent_away = facts.sent_away or SHUTDOWN
        await self._switch.disconnect(peer, SHUTDOWN)

    # --- carrying out

    async def run(self, network: Network, task_status: trio.TaskStatus[None]) -> None:
        """Do what the manager says, when it says so, until cancelled; `network` is the dialer's."""
        self.network = network
        self._nursery.start_soon(self._look_at_gossip)
        task_status.started()
        try:
            while True:
                self._changed = trio.Event()
                effects = self.manager.poll(trio.current_time())
                # Goodbyes first: a ban ends connections too, and its place in the book is waited for.
                for effect in sorted(effects, key=lambda each: not isinstance(each, Disconnect)):
                    await self._carry_out(effect)
                with trio.move_on_at(self.manager.next_wake()):
                    await self._changed.wait()
        finally:
            self._over = True

    def remember(self) -> None:
        """What the book has of an earlier run; before anybody can connect."""
        now = trio.current_time()
        wall = self._switch.platform.wall()
        for peer, known in self._book.peers().items():
            self.manager.restore(peer, known.score, known.dialled, wall - known.scored, now)
        for peer, ip, seconds in self._book.bans(wall):
            self.manager.restore_ban(peer, ip, seconds, now)

    async def _look_at_gossip(self) -> None:
        while True:
            await trio.sleep(_GOSSIP_LOOK)
            now, wall = trio.current_time(), self._switch.platform.wall()
            for peer in self._pubsub.peers():
                self.manager.gossip_score(peer, self._pubsub.score(peer).total, now)
            for peer, score in self.manager.take_scores(now).items():
                self._book.scored(peer, score, wall)
            self.poke()

    async def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Disconnect(peer, code, reason):
                self.send_away(peer, code, reason)
            case Want(count, outbound):
                self.network.want(count, outbound=outbound)
            case Discover():
                self._discover(effect)
            case Dial(peer):
                self.network.candidate(peer, self._book.addresses(peer), Source.OBSERVED)
            case Ban(peer, ip, until, reason):
                logger.info("banned peer=%s reason=%s", peer, reason)
                self.network.ban(peer, until)
                await self._book.ban(peer, ip, self._switch.platform.wall() + until - trio.current_time())
            case Unban(peer):
                self.network.unban(peer)
                await self._book.unban(peer)
            case BanIp(network, until):
                self._gate.block_network(str(network), until)

    def poke(self) -> None:
        """Something changed: ask the manager."""
        self._changed.set()


@lru_cache(maxsize=1024)  # each ping tells what is known: the last groups of many take hundreds of hashes
def _columns(peer: PeerId, groups: int) -> frozenset[int]:
    """The data column subnets of a peer that claims so many custody groups; none for a claim that cannot be."""
    node = node_id_of(peer)
    if node is None or not 0 < groups <= NUMBER_OF_CUSTODY_GROUPS:
        return frozenset()
    return frozenset(map(data_column_subnet, custody_columns(custody_groups(node, groups))))


def node_id_of(peer: PeerId) -> bytes | None:
    """The id that discovery knows a peer by; None for a key that is not of its type."""
    key = peer.public_key()
    return node_id(key.data) if key is not None and key.type is KeyType.SECP256K1 else None


def _agent(connection: Connection) -> str | None:
    return None if connection.info is None else connection.info.agent
