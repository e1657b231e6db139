"""The arena with pubsub: victim and bystander exchange messages, an attacker speaks RPCs by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from pyp2p import Pubsub, ScoreParams, StrictNoSign, TopicScoreParams, open_pubsub
from pyp2p.io.varint import LengthPrefixed
from pyp2p.pubsub.subscription import Subscription
from pyp2p.pubsub.types import Message, Rpc
from pyp2p.pubsub.wire import decode_rpc, frame, subscription_fragments
from pyp2p.switch.switch import Switch
from pyp2p.testing import Sim
from tests.hostile.arena import Arena, arena
from tests.switch.support import node, until

TOPIC = "news"
SCORE = ScoreParams(topics={TOPIC: TopicScoreParams()})
PROTOCOL = "/meshsub/1.2.0"


def by_content(message: Message, valid: bool = True) -> bytes:
    """Ids for unsigned messages: their first twenty bytes."""
    return message.data[:20].ljust(20, b".")


UNSIGNED = {"policy": StrictNoSign(), "message_id": by_content}


class Evil:
    """A switch whose RPCs are made by hand; `heard` is what the victim said."""

    def __init__(self, switch: Switch, victim: Switch) -> None:
        self.switch = switch
        self.peer = switch.peer
        self.heard: list[Rpc] = []
        self._victim = victim
        self._stream = None
        switch.mount(PROTOCOL, self._read)

    async def _read(self, stream) -> None:
        framer = LengthPrefixed(1 << 24)
        async for chunk in stream:
            self.heard += map(decode_rpc, framer.feed(chunk))

    async def write(self, data: bytes) -> None:
        """Bytes on a stream to the victim, a fresh one when the last was reset."""
        if self._stream is None or self._stream.sub.reset_code is not None:
            target = self._victim.multiaddrs[0]
            self._stream = await self.switch.open_stream(target, PROTOCOL)
        await self._stream.send_all(data)

    async def say(self, *fragments: bytes) -> None:
        """One RPC."""
        await self.write(frame(b"".join(fragments)))

    async def listen(self) -> None:
        """Subscribe, as honest peers do."""
        await self.say(*subscription_fragments([(True, TOPIC)]))

    @property
    def was_reset(self) -> bool:
        return self._stream is not None and self._stream.sub.reset_code is not None


class GossipArena:
    """Victim `a`, bystander `b`, attacker `evil`."""

    def __init__(self, scene: Arena, a: Pubsub, b: Pubsub, inboxes: tuple[Subscription, Subscription], evil: Evil):
        self.scene = scene
        self.a = a
        self.b = b
        self.evil = evil
        self._inboxes = inboxes
        self._count = 0

    async def check_bystander(self) -> None:
        """Messages go both ways, and an echo comes back at once."""
        await self.scene.check_bystander()
        for speaker, inbox in ((self.b, self._inboxes[0]), (self.a, self._inboxes[1])):
            self._count += 1
            payload = b"bystander %d %s" % (self._count, speaker._switch.peer.raw[-4:])
            with trio.fail_after(2):
                await speaker.publish(TOPIC, payload)
                while (await anext(inbox)).payload != payload:
                    pass

    @property
    def score(self):
        """What the victim thinks of the attacker."""
        return self.a.score(self.evil.peer)

    async def punished(self) -> None:
        """The attacker's misbehaviour has been counted."""
        await until(lambda: self.behaviour() > 0)

    def behaviour(self) -> float:
        standing = self.a._router.score._peers.get(self.evil.peer)
        return 0.0 if standing is None else standing.behaviour


@asynccontextmanager
async def gossip_arena(sim: Sim, **options: Any) -> AsyncIterator[GossipArena]:
    """The oracle of `arena`, and pubsub between victim and bystander until the end."""
    unsigned = {**UNSIGNED, **options}
    ours = {"score": SCORE, **unsigned}
    theirs = {key: unsigned[key] for key in ("policy", "message_id", "transform") if key in unsigned}
    async with (
        arena(sim) as scene,
        open_pubsub(scene.victim, **ours) as a,
        open_pubsub(scene.bystander, **theirs) as b,
        a.subscribe(TOPIC) as one,
        b.subscribe(TOPIC) as two,
    ):
        await a.wait_for_peers(TOPIC)
        await b.wait_for_peers(TOPIC)
        async with node(sim, "evil") as switch:
            found = GossipArena(scene, a, b, (one, two), Evil(switch, scene.victim))
            await found.check_bystander()
            yield found
            await found.check_bystander()
        await until(lambda: a.peers() == [scene.bystander.peer])
        assert a.gauges()["queued bytes", ""] == 0
