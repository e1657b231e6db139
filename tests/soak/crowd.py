"""The peers around the node under test: honest ones that come, ask, gossip and go, and the rounds they do it in.

Rules: every honest visit has to succeed in the time that it is given; what fails is kept, with the name of the visitor.
The same crowd runs over real sockets and in a simulation: where it lives is a `World`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio
from multiaddr import Multiaddr

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.containers import BeaconBlocksByRangeRequest
from pyp2p.beacon.devchain import read_block
from pyp2p.beacon.follow import Follower, open_follower
from pyp2p.beacon.gossip import GossipMessage
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.peer_types import PeerConfig
from pyp2p.errors import NobodyListens, P2PError, describe
from pyp2p.peer.id import PeerId
from pyp2p.pubsub.types import Verdict

ATTESTATION = "beacon_attestation"
SUBNET = 0
SOUND, UNSOUND = b"sound", b"unsound"  # how the payload of a message begins
HONEST = "honest"  # the agent of honest peers
PAYLOAD = 300  # bytes
VISIT = 20.0  # seconds that an honest visit may take at most, beside what it stays


class World(Protocol):
    """Where peers live."""

    def stack(self, name: str) -> dict[str, Any]:
        """The arguments of a `BeaconNetwork` called so, beside its configuration."""

    def listen(self, name: str) -> tuple[tuple[str, int], ...]:
        """Where it listens."""

    def wall(self) -> float:
        """The time of day."""


@dataclass(frozen=True)
class Victim:
    """The node under test, as its peers know it."""

    peer: PeerId
    addresses: tuple[Multiaddr, ...]
    udp: tuple[str, int]
    chain: Chain


@dataclass
class Tally:
    """What happened. `failures` are those of honest peers, and of hostile ones that the node did not shed."""

    visits: int = 0
    requests: int = 0
    published: int = 0
    blocks: int = 0
    hostile: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def require(holds: object, what: str) -> None:
    """An assertion that stands under `python -O` too."""
    if not holds:
        raise AssertionError(what)


def judge(message: GossipMessage) -> Verdict:
    return Verdict.ACCEPT if message.payload.startswith(SOUND) else Verdict.REJECT


async def follow_attestations(net: BeaconNetwork, task_status: trio.TaskStatus[None]) -> None:
    """Be in the mesh of the subnet."""
    net.gossip.validate(ATTESTATION, judge)
    async with net.gossip.subscribe(ATTESTATION, SUBNET) as messages:
        task_status.started()
        async for _ in messages:
            pass


class Honest:
    """An honest peer: a whole network that comes to the victim, is served, and goes."""

    def __init__(self, net: BeaconNetwork, crowd: Crowd) -> None:
        self.net = net
        self.here = False
        self._crowd = crowd
        self._victim = crowd.victim
        self._tally = crowd.tally

    async def connect(self) -> None:
        await self.net.switch.connect(self._victim.peer, self._victim.addresses)

    async def ask(self) -> None:
        """Three requests, whose answers are checked."""
        net, methods, victim = self.net, self.net.methods, self._victim.peer
        await net.reqresp.ask(victim, methods.ping, 0)
        await net.reqresp.ask(victim, methods.metadata_v2, None)
        self._tally.requests += 2
        await self.ask_blocks(16)

    async def ask_blocks(self, count: int) -> None:
        """The newest blocks: those of all slots that are over."""
        net, methods = self.net, self.net.methods
        start = max(net.clock.slot - count, 1)
        request = BeaconBlocksByRangeRequest(start, max(net.clock.slot - start, 1))
        made = [block.slot for block in self._crowd.maker.tree.chain(start, request.count)]
        slots = []
        async with await net.request(self._victim.peer, methods.beacon_blocks_by_range_v2, request) as chunks:
            async for chunk in chunks:
                slots.append(read_block(net.chain, chunk.ssz).slot)
        self._tally.requests += 1
        self._tally.blocks += len(slots)
        require(slots == made, f"blocks of the slots {slots} instead of {made}")

    async def leave(self) -> None:
        self.here = False
        await self.net.disconnect(self._victim.peer)

    async def visit(self, stays: float) -> None:
        """Come, ask, stay, go."""
        with trio.fail_after(VISIT + stays):
            await self.connect()
            self.here = True
            await self.ask()
            await trio.sleep(stays)
            self.here = False
            await trio.sleep(0.3)  # for what was published last
            await self.leave()
        self._tally.visits += 1


class Crowd:
    """All peers of one run."""

    def __init__(self, world: World, victim: Victim, seed: int) -> None:
        self.world = world
        self.victim = victim
        self.tally = Tally()
        self.rng = random.Random(seed)
        self.honest: list[Honest] = []
        self._bystander: Honest
        self.maker: Follower  # of the chain

    async def gather(self, count: int, stack: AsyncExitStack) -> None:
        """Start the bystander, which stays and makes the blocks, and so many who come and go."""
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        for number in range(count + 1):
            name = f"{HONEST}{number}"
            config = BeaconConfig(
                self.victim.chain,
                listen=self.world.listen(name),
                discovery=False,
                long_lived_subnets=False,
                agent=name,
                peers=PeerConfig(target=1),
            )
            net = await stack.enter_async_context(BeaconNetwork(config, **self.world.stack(name)))
            await nursery.start(follow_attestations, net)
            self.honest.append(Honest(net, self))
        self._bystander = self.honest.pop(0)
        self.maker = await stack.enter_async_context(open_follower(self._bystander.net))
        await self._bystander.connect()
        nursery.start_soon(self.maker.produce)
        nursery.start_soon(self._guarded, "the bystander", self._stand_by)

    async def _stand_by(self) -> None:
        """Be served all the time."""
        while True:
            await trio.sleep(1.0)
            await self._bystander.ask_blocks(8)
            connections = self._bystander.net.switch.connections(self.victim.peer)
            require(connections, "the victim closed its connection")

    async def _guarded(self, name: str, run: Callable[..., Any], *args: Any) -> None:
        try:
            await run(*args)
        except (P2PError, AssertionError, trio.TooSlowError, trio.BrokenResourceError) as error:
            self.tally.failures.append(f"{name}: {describe(error)}")

    async def round(self, seconds: float, rate: float, attacks: list[tuple[str, Callable[..., Any]]]) -> None:
        """Everybody comes once within `seconds`, stays a while and goes; `rate` messages a second meanwhile."""
        async with trio.open_nursery() as publishing:
            publishing.start_soon(self._publish, rate)
            async with trio.open_nursery() as nursery:
                for number, each in enumerate(self.honest):
                    nursery.start_soon(self._come, f"{HONEST}{number + 1}", each, seconds)
                for name, attack in attacks:
                    nursery.start_soon(self._attack, name, attack, self.rng.uniform(0, seconds / 3))
            publishing.cancel_scope.cancel()

    async def _come(self, name: str, who: Honest, seconds: float) -> None:
        await trio.sleep(self.rng.uniform(0, seconds / 2))
        await self._guarded(name, who.visit, self.rng.uniform(seconds / 4, seconds / 2))

    async def _attack(self, name: str, attack: Callable[..., Any], delay: float) -> None:
        await trio.sleep(delay)
        await self._guarded(f"hostile {name}", attack, self)
        self.tally.hostile[name] += 1

    async def _publish(self, rate: float) -> None:
        """So many messages a second in all, by those who are here."""
        due = trio.current_time()
        while True:
            due += 1 / rate
            await trio.sleep_until(due)
            here = [each for each in self.honest if each.here]
            if here:
                payload = SOUND + self.rng.randbytes(PAYLOAD - len(SOUND))
                try:
                    await self.rng.choice(here).net.gossip.publish(ATTESTATION, payload, SUBNET)
                except NobodyListens:  # it has just come
                    continue
                self.tally.published += 1

    async def calm(self) -> None:
        """Whoever was dialled by the victim meanwhile goes too."""
        for each in self.honest:
            if each.net.switch.connections(self.victim.peer):
                await each.leave()
