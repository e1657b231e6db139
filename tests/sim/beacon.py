"""Whole beacon networks in a simulated world: honest ones that follow a made-up chain in turns, and hostile ones.

All know one bootnode, which speaks UDP only. Each node has a public /24 of its own: discovery limits how many of one
it believes. Time is virtual; a block is made by one honest node after the other, one in each slot.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.events import NetworkEvent, PeerConnected, PeerDisconnected
from pyp2p.beacon.follow import Follower, open_follower
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.peer_types import PeerConfig
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.service import open_discv5
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.testing import LinkQuality, Sim
from tests.sim.discv5 import place

PORT = 9000
BOOT = "boot"


@contextmanager
def rare_collections() -> Iterator[None]:
    """The collector looks at all objects of a hundred nodes again and again: without this, half of the time is its."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@dataclass
class Node:
    """A network, its follower, and what it told, each with its time. `left` ends it."""

    name: str
    net: BeaconNetwork
    follower: Follower
    told: list[tuple[float, NetworkEvent]] = field(default_factory=list)
    taken: int = 0  # chunks that it had of others, where it counts
    sent_away: list[tuple[PeerId, int]] = field(default_factory=list)  # goodbyes that it heard, where somebody listens
    left: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)

    @property
    def peer(self) -> PeerId:
        return self.net.peer

    @property
    def peers(self) -> list[PeerId]:
        return [each.peer for each in self.net.peers()]

    def disconnects(self) -> list[PeerDisconnected]:
        return [event for _, event in self.told if isinstance(event, PeerDisconnected)]

    def stays(self, of: PeerId) -> list[float]:
        """How many seconds each stay of a peer took that is over."""
        came, stays = 0.0, []
        for when, event in self.told:
            if isinstance(event, PeerConnected) and event.peer == of:
                came = when
            elif isinstance(event, PeerDisconnected) and event.peer == of:
                stays.append(when - came)
        return stays


class World:
    """Nodes, their chain and the blocks that were made, by slot."""

    def __init__(self, sim: Sim, chain: Chain, boot: Enr, nursery: trio.Nursery) -> None:
        self.sim = sim
        self.chain = chain
        self.boot = boot
        self.nodes: list[Node] = []  # the honest ones that live
        self.blocks: dict[int, bytes] = {}  # slot to root
        self.late: list[tuple[int, str]] = []  # who lacked a block at the end of its slot
        self._nursery = nursery
        self._count = 0

    async def add(self, *, honest: bool = True, net: type[BeaconNetwork] = BeaconNetwork, **settings: Any) -> Node:
        """Start a node; it is the world's to stop."""
        node: Node = await self._nursery.start(self._live, net, settings)
        if honest:
            self.nodes.append(node)
        return node

    async def _live(self, kind: type[BeaconNetwork], settings: dict[str, Any], task_status: Any) -> None:
        self._count += 1
        name = f"n{self._count}"
        host = self.sim.net.host(name, place(self._count))
        chosen = {"target": 12, **settings}
        config = BeaconConfig(
            chain=self.chain,
            listen=((host.ips[0], PORT),),
            bootnodes=(self.boot,),
            peers=PeerConfig(target=chosen.pop("target")),
            **chosen,
        )
        platform = self.sim.platform(name)
        async with AsyncExitStack() as stack:
            net = kind(config, platform=platform, transports=[host.transport], bind=host.bind_udp)
            await stack.enter_async_context(net)
            follower = await stack.enter_async_context(open_follower(net))
            node = Node(name, net, follower)
            nursery = await stack.enter_async_context(trio.open_nursery())
            await nursery.start(self._note, node)
            task_status.started(node)
            await node.left.wait()
            nursery.cancel_scope.cancel()
        node.gone.set()

    async def _note(self, node: Node, task_status: Any) -> None:
        async with node.net.watch() as events:
            task_status.started()
            async for event in events:
                node.told.append((trio.current_time(), event))

    async def remove(self, nodes: Sequence[Node]) -> None:
        """They leave at once, with goodbyes."""
        for node in list(nodes):
            node.left.set()
            if node in self.nodes:
                self.nodes.remove(node)
        for node in nodes:
            await node.gone.wait()

    async def slots(self, count: int, makers: Sequence[Node] | None = None) -> None:
        """Let time pass; with `makers`, one of them makes the block of each slot and all have it before the next."""
        for _ in range(count):
            clock = self.nodes[0].net.clock
            slot = await clock.next_slot()
            if makers is None:
                continue
            block = await makers[slot % len(makers)].follower.produce_one(slot)
            assert block is not None, f"the maker of slot {slot} has a later head"
            self.blocks[slot] = block.root
            await trio.sleep(clock.seconds_until(slot + 1) - 0.01)
            self.late += [(slot, node.name) for node in self.nodes if block.root not in node.follower.tree]

    def missing(self) -> list[tuple[int, str]]:
        """Which blocks which nodes lack now."""
        return [
            (slot, node.name)
            for slot, root in self.blocks.items()
            for node in self.nodes
            if root not in node.follower.tree
        ]

    def heads(self) -> set[bytes]:
        return {node.follower.tree.head.root for node in self.nodes}

    def fewest(self) -> int:
        """Peers of whoever has the fewest."""
        return min(len(node.peers) for node in self.nodes)

    def worst_score(self) -> float:
        """The lowest score that an honest node gives another."""
        honest = {node.peer for node in self.nodes}
        given = [each.score for node in self.nodes for each in node.net.peers() if each.peer in honest]
        return min(given, default=0.0)


@asynccontextmanager
async def world(sim: Sim, chain: Chain, count: int, **settings: Any) -> AsyncIterator[World]:
    """A world with a bootnode and so many honest nodes; all leave at its end, at once."""
    sim.net.quality = LinkQuality(latency=0.05)
    host, platform = sim.net.host(BOOT, place(0)), sim.platform(BOOT)
    identity = Identity.generate(KeyType.SECP256K1, entropy=platform.entropy)
    with rare_collections():
        async with (
            open_discv5(identity, listen=((host.ips[0], PORT),), platform=platform, bind=host.bind_udp) as boot,
            trio.open_nursery() as nursery,
        ):
            made = World(sim, chain, boot.record, nursery)
            for _ in range(count):
                await made.add(**settings)
            yield made
            nursery.cancel_scope.cancel()
