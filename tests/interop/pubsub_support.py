"""Gossip nodes of the interop tests: ours and the peers' `mesh` command, which tell what happens in the same words.

Every node has a list of events as `peers.py` describes them (`message`, `peers`, `ihave`, `iwant`, `graft`, `prune`,
...) and publishes what the same lines stand for, so that a test need not know which node is whose.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import trio

from pyp2p.peer.id import PeerId
from pyp2p.pubsub import service
from pyp2p.pubsub.core import Publication, Router
from pyp2p.pubsub.ids import default_message_id, eth2_altair_message_id
from pyp2p.pubsub.params import GossipParams, ScoreParams, Thresholds
from pyp2p.pubsub.service import Pubsub, open_pubsub
from pyp2p.pubsub.signing import StrictNoSign, StrictSign
from pyp2p.pubsub.snappy import Snappy
from pyp2p.pubsub.transform import Plain
from pyp2p.pubsub.types import Effect, Lane, Rpc, Send
from pyp2p.pubsub.wire import decode_rpc
from pyp2p.switch.switch import Switch
from tests.interop.peers import Peer, open_peer
from tests.interop.support import PATIENCE, address, open_switch

TOPIC = "interop"
MEBIBYTE = 1024 * 1024
SIGNING = ("strict", "eth2")
BAD = ("rejected", "dropped", "failed")  # events that nobody may tell
OWN = "self originated message"  # as go calls one that comes back
BEAT = 0.2  # seconds, of every node

Event = dict[str, Any]


def signing() -> pytest.MarkDecorator:
    """Run the test signed with the id from||seqno and unsigned with the id of eth2."""
    return pytest.mark.parametrize("sign", SIGNING)


def payload(line: str) -> bytes:
    """What a line given to `publish` stands for: hex or `random:N:SEED`."""
    kind, *rest = line.split(":")
    if not rest:
        return bytes.fromhex(line)
    assert kind == "random"
    size, seed = map(int, rest)
    blocks = (
        hashlib.sha256(seed.to_bytes(8, "big") + block.to_bytes(8, "big")).digest() for block in range(-(-size // 32))
    )
    return b"".join(blocks)[:size]


def digest(line: str) -> str:
    """The hash of what a line stands for."""
    return hashlib.sha256(payload(line)).hexdigest()


class Node:
    """A node of a mesh and what it has told so far."""

    def __init__(self, name: str, peer: str, multiaddr: str) -> None:
        self.name = name
        self.peer = peer
        self.address = multiaddr
        self.events: list[Event] = []
        self._told = trio.lowlevel.ParkingLot()

    async def publish(self, *lines: str) -> None:
        """Publish what each line stands for."""
        raise NotImplementedError

    def tell(self, event: Event) -> None:
        """Something happened."""
        self.events.append(event)
        self._told.unpark_all()

    def all(self, kind: str, **facts: Any) -> list[Event]:
        """What was told of this kind and with these facts."""
        wanted = {"event": kind, **facts}.items()
        return [event for event in self.events if wanted <= event.items()]

    def hashes(self) -> Counter[str]:
        """How often each message came."""
        return Counter(event["sha256"] for event in self.all("message"))

    async def wait(self, until: Callable[[], bool], what: str) -> None:
        """Wait for events until something holds."""
        with trio.move_on_after(PATIENCE):
            while not until():
                await self._told.park()
            return
        lines = "\n".join(str(event) for event in self.events[-40:])
        raise AssertionError(f"{self.name} never came to: {what}\n{lines}")

    async def told(self, kind: str, count: int = 1, **facts: Any) -> list[Event]:
        """Wait until so many events of this kind and with these facts were told; returns them."""
        await self.wait(lambda: len(self.all(kind, **facts)) >= count, f"{count} x {kind} {facts}")
        return self.all(kind, **facts)

    async def got(self, lines: Iterable[str]) -> None:
        """Wait until all these messages have come."""
        wanted = {digest(line) for line in lines}
        await self.wait(lambda: wanted <= self.hashes().keys(), f"{len(wanted)} messages")

    async def joined(self, count: int, mesh: int) -> None:
        """Wait until `count` peers listen to the topic and at least `mesh` of them are in the mesh."""

        def reached() -> bool:
            last = self.all("peers")[-1:]
            return bool(last) and last[0]["count"] == count and last[0]["mesh"] >= mesh

        await self.wait(reached, f"{count} peers, {mesh} in the mesh")

    def check_well(self, returned_by: Iterable[str] = ()) -> None:
        """Nothing was rejected or lost here, but for messages of go's own that these peers brought back to it."""
        bad = [event for event in self.events if event["event"] in BAD]
        assert not [e for e in bad if e.get("reason") != OWN or e["peer"] not in returned_by], self.name


class Theirs(Node):
    """A peer program that runs `mesh`."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer.language, peer.peer_id, peer.address)
        self._peer = peer

    async def publish(self, *lines: str) -> None:
        for line in lines:
            await self._peer.write_line(line)

    async def read(self) -> None:
        """Take what it prints, until cancelled."""
        while True:
            line = await self._peer.line()
            if line.startswith("{"):
                self.tell(json.loads(line))


class Ours(Node):
    """A node of this project, in this process."""

    pubsub: Pubsub

    def __init__(self, switch: Switch) -> None:
        super().__init__("pyp2p", str(switch.peer), address(switch))
        self.switch = switch

    async def publish(self, *lines: str) -> None:
        for line in lines:
            made = await self.pubsub.publish(TOPIC, payload(line))
            assert not made.expired
            self.tell({"event": "published", "sha256": digest(line)})

    async def read(self, messages: AsyncIterator[Any]) -> None:
        """Take what the topic brings, until cancelled."""
        async for message in messages:
            if message.source is not None:
                author = None if message.author is None else str(PeerId.from_bytes(message.author))
                self.tell(
                    {
                        "event": "message",
                        "topic": message.topic,
                        "from": author,
                        "received_from": str(message.source),
                        "size": len(message.payload),
                        "sha256": hashlib.sha256(message.payload).hexdigest(),
                    }
                )

    def check_well(self, returned_by: Iterable[str] = ()) -> None:
        super().check_well(returned_by)
        bad = ("malformed", "reject", "ignored", "queue full", "expired", "disconnected", "given up", "broken", "slow")
        assert not {what: n for what, n in self.pubsub.counters.items() if any(word in what[0] for word in bad)}


class TappedRouter(Router):
    """Tells what goes through it; with `push` off it sends in full only what was asked for by IWANT."""

    def __init__(self, tell: Callable[[Event], None], push: bool, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._tell = tell
        self._push = push
        self._last_told = (-1, -1)

    def publish(self, topic: str, payload: bytes, now: float) -> Publication:
        made = super().publish(topic, payload, now)
        return made if self._push else Publication(made.message, [])

    def handle_rpc(self, peer: PeerId, rpc: Rpc, now: float) -> None:
        self._tell_control("in", peer, rpc)
        super().handle_rpc(peer, rpc, now)

    def take(self) -> list[Effect]:
        effects = super().take()
        if not self._push:
            pushes = (Lane.OWN, Lane.FORWARDED)
            effects = [each for each in effects if not (isinstance(each, Send) and each.lane in pushes)]
        for effect in effects:
            if isinstance(effect, Send) and effect.message_id is None:
                for peer in effect.peers:
                    self._tell_control("out", peer, decode_rpc(effect.fragment))
        now = (len(self.table.listening(TOPIC)), len(list(self.mesh.peers(TOPIC))))
        if now != self._last_told:
            self._last_told = now
            self._tell({"event": "peers", "topic": TOPIC, "count": now[0], "mesh": now[1]})
        return effects

    def _tell_control(self, direction: str, peer: PeerId, rpc: Rpc) -> None:
        facts = {"dir": direction, "peer": str(peer)}
        ihave = sum(len(ids) for _, ids in rpc.ihave)
        for kind, count in (("ihave", ihave), ("iwant", len(rpc.iwant)), ("idontwant", len(rpc.idontwant))):
            if count:
                self._tell({"event": kind, "count": count, **facts})
        for topic in rpc.graft:
            self._tell({"event": "graft", "topic": topic, **facts})
        for prune in rpc.prune:
            self._tell({"event": "prune", "topic": prune.topic, **facts})


def _nobody_in_the_mesh() -> dict[str, Any]:
    """As the peers' `--no-push`: below 0 nobody is grafted, above the thresholds everybody gets gossip."""
    return {
        "score": ScoreParams(),
        "thresholds": Thresholds(gossip=-1000.0, publish=-1000.0, graylist=-2000.0),
        "application": lambda peer: -1.0,
    }


@asynccontextmanager
async def open_ours(sign: str = "strict", *, push: bool = True, others: Iterable[str] = ()) -> AsyncIterator[Ours]:
    """A node of ours that listens to the topic, and to others that nobody reads."""
    signed = sign == "strict"
    async with AsyncExitStack() as stack:
        switch = await stack.enter_async_context(open_switch())
        node = Ours(switch)
        opened = open_pubsub(
            switch,
            params=GossipParams(heartbeat_interval=BEAT),
            policy=StrictSign(switch.identity) if signed else StrictNoSign(),
            message_id=default_message_id if signed else eth2_altair_message_id,
            transform=Plain() if signed else Snappy(),
            **({} if push else _nobody_in_the_mesh()),
        )
        with patch.object(service, "Router", partial(TappedRouter, node.tell, push)):
            node.pubsub = await stack.enter_async_context(opened)
        for topic in others:
            await stack.enter_async_context(node.pubsub.subscribe(topic))
        messages = await stack.enter_async_context(node.pubsub.subscribe(TOPIC))
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(node.read, messages)
        yield node
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_theirs(language: str, sign: str = "strict", *flags: str, topic: str = TOPIC) -> AsyncIterator[Theirs]:
    """A peer program that listens to the topic; `--connect ADDR` among the flags makes it dial."""
    beat = str(int(BEAT * 1000))
    known = ["--topic", topic, "--sign", sign, "--max-size", str(10 * MEBIBYTE), "--heartbeat-ms", beat]
    async with open_peer(language, *known, *flags, subcommand="mesh") as peer, trio.open_nursery() as nursery:
        node = Theirs(peer)
        nursery.start_soon(node.read)
        yield node
        nursery.cancel_scope.cancel()
