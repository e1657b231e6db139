"""The arena with pubsub: victim and bystander exchange messages all the time while a raw peer says what it likes.

The oracle, beside that of the arena: every message of victim and bystander reaches the other within 0.25 virtual
seconds, before, during and after; whatever the attacker did, its connection may go on, and when it is gone nothing of
it is left in any table of pubsub but its score; each case says what becomes of that and of the attacker's stream.
"""

import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import trio

from pyp2p.io.varint import encode, prefixed
from pyp2p.pubsub.params import ScoreParams, TopicScoreParams
from pyp2p.pubsub.score import ScoreParts
from pyp2p.pubsub.service import Pubsub, open_pubsub
from pyp2p.pubsub.signing import StrictSign
from pyp2p.switch.config import SwitchConfig
from pyp2p.testing import Sim
from tests.hostile.arena import FEW_LINES, Arena, arena
from tests.pubsub.support import TOPIC, RawPeer, raw_peer, subscription
from tests.switch.support import until

QUIET = "between friends"  # the topic that victim and bystander use; TOPIC is that of the attack
SCORE = ScoreParams(topics={TOPIC: TopicScoreParams()}, behaviour_penalty_threshold=0)
MARK = "mark"  # told of by the attacker after all else: what came before has been read
GONE = ("queued bytes", "open promises", "awaiting verdict", "validating bytes")


class Gossip:
    """Victim, bystander and attacker with what they say."""

    def __init__(self, scene: Arena, victim: Pubsub, bystander: Pubsub, attacker: RawPeer) -> None:
        self.scene = scene
        self.sim = scene.sim
        self.victim = victim
        self.bystander = bystander
        self.attacker = attacker
        self._policy = StrictSign(attacker.switch.identity)
        self._seqno = 0
        self._count = 0

    @property
    def score(self) -> ScoreParts:
        """What the victim thinks of the attacker."""
        return self.victim.score(self.attacker.peer)

    @property
    def counters(self):
        return self.victim.counters

    def message(self, data: bytes, topic: str = TOPIC) -> bytes:
        """A message of the attacker, signed as it should be; the RPC that publishes it."""
        self._seqno += 1
        return publish(self._policy.build(topic, data, self._seqno).raw)

    async def begin(self) -> None:
        """Open a stream and subscribe to the topic of the attack, on a connection that may be new."""
        await self.attacker.switch.connect(self.scene.address)
        await self.attacker.open(self.scene.victim.peer)
        await self.attacker.say(subscription(TOPIC))
        await until(lambda: self.attacker.peer in self.victim.peers(TOPIC))

    async def say(self, *rpcs: bytes) -> None:
        await self.attacker.say(*rpcs)

    async def taken(self) -> None:
        """Wait until the victim has read all that was said: the stream lives."""
        await self.attacker.say(subscription(MARK))
        await until(lambda: self.attacker.peer in self.victim.peers(MARK))
        await self.attacker.say(subscription(MARK, False))
        await until(lambda: self.attacker.peer not in self.victim.peers(MARK))

    async def costs_the_stream(self, *rpcs: bytes) -> None:
        """What is said is malformed: the victim resets the stream, counts it, and the connection lives."""
        before = self.counters["malformed", ""], self.score.p7
        stream = self.attacker.out
        with suppress(trio.BrokenResourceError):
            await self.attacker.say(*rpcs)
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert self.counters["malformed", ""] == before[0] + 1
        assert self.score.p7 > before[1]
        assert self.scene.victim.connections(self.attacker.peer)
        await self.attacker.open(self.scene.victim.peer)

    async def check(self) -> None:
        """What friends say reaches friends, and nobody is held up."""
        self._count += 1
        number = self._count
        await self.scene.check_bystander()
        for one, other in ((self.victim, self.bystander), (self.bystander, self.victim)):
            payload = b"from the %s %d" % (b"victim" if one is self.victim else b"bystander", number)
            async with other.subscribe(QUIET) as messages:
                with trio.fail_after(0.25):
                    outcome = await one.publish(QUIET, payload)
                    assert not outcome.expired
                    async for message in messages:
                        if message.payload == payload:
                            break

    async def leave(self) -> None:
        """The attacker goes, and nothing of it stays."""
        await self.attacker.switch.disconnect(self.scene.victim.peer)
        victim, peer = self.victim, self.attacker.peer
        await until(lambda: peer not in victim.peers())
        router = victim._router
        assert list(victim._links) == [self.scene.bystander.peer]
        assert not any(peer in peers for peers in (*router.mesh.topics.values(), *router.mesh.fanout.values()))
        assert not any(peer in peers for peers in router.table._topics.values())
        assert peer not in router._unwanted._peers
        await until(lambda: not any(self.victim.gauges()[name, ""] for name in GONE))


@asynccontextmanager
async def gossip(
    sim: Sim,
    config: SwitchConfig | None = None,
    every: float = 1.0,
    lines: int = FEW_LINES,
    deaf: bool = False,
    bystander: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Gossip]:
    """The arena with pubsub, the attack about to begin; friends talk `every` so many virtual seconds."""
    options = {"score": SCORE} | options
    async with (
        arena(sim, config, lines=lines) as scene,
        open_pubsub(scene.victim, **options) as victim,
        open_pubsub(scene.bystander, **(options | (bystander or {}))) as friend,
        victim.subscribe(QUIET),
        friend.subscribe(QUIET),
        victim.subscribe(TOPIC),
        raw_peer(sim, "attacker", deaf=deaf) as raw,
    ):
        await victim.wait_for_peers(QUIET)
        await friend.wait_for_peers(QUIET)
        await until(lambda: victim.mesh(QUIET) and friend.mesh(QUIET))
        talk = Gossip(scene, victim, friend, raw)
        await talk.check()
        over = trio.Event()
        async with trio.open_nursery() as nursery:

            async def friends() -> None:
                while not over.is_set():
                    await talk.check()
                    with trio.move_on_after(every):
                        await over.wait()

            await talk.begin()
            nursery.start_soon(friends)
            yield talk
            over.set()
        await talk.leave()
        await talk.check()


def publish(raw: bytes) -> bytes:
    """An RPC with one message."""
    return b"\x12" + prefixed(raw)


def control(body: bytes) -> bytes:
    """An RPC with this control message."""
    return b"\x1a" + prefixed(body)


def field(number: int, value: bytes | int) -> bytes:
    """A protobuf field."""
    if isinstance(value, int):
        return encode(number << 3) + encode(value)
    return encode(number << 3 | 2) + prefixed(value)


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """What Python allocates in the block stays below `limit` bytes at any time."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert grown < limit
