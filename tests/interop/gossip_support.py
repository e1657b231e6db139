"""Nodes of a gossipsub mesh: ours and the peers' `mesh` commands, told and asked in the same way."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from pyp2p import GossipParams, Pubsub, Switch, open_pubsub
from pyp2p.cli.eth2 import settings
from tests.interop.peers import Peer, open_peer
from tests.interop.support import address, open_switch

TOPIC = "interop"
SIGNS = ("strict", "eth2")


def options(sign: str, **params: Any) -> dict[str, Any]:
    """The keyword arguments of `open_pubsub` for `--sign`; ids are said on all sides, their defaults differ."""
    if sign == "eth2":
        return settings()
    return {"params": GossipParams(max_rpc_size=10 * 1024 * 1024, **params)}


class Member:
    """A node of the mesh: `heard` counts deliveries by hash and author, `said` are the hashes of its own."""

    def __init__(self, name: str, peer_id: str, address: str) -> None:
        self.name = name
        self.peer_id = peer_id
        self.address = address
        self.heard: Counter[str] = Counter()
        self.authors: dict[str, str | None] = {}
        self.said: list[str] = []
        self.news = trio.lowlevel.ParkingLot()

    def hears(self, sha256: str, author: str | None) -> None:
        self.heard[sha256] += 1
        self.authors[sha256] = author
        self.news.unpark_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds, which what this node tells makes true."""
        while not condition():
            await self.news.park()

    async def publish(self, size: int, seed: int) -> None:
        """Publish incompressible bytes."""
        raise NotImplementedError

    def crowd(self) -> tuple[int, int]:
        """How many listen to the topic, and how many are in the mesh."""
        raise NotImplementedError


class Ours(Member):
    """A switch with pubsub in this process."""

    def __init__(self, name: str, switch: Switch, pubsub: Pubsub) -> None:
        super().__init__(name, str(switch.peer), address(switch))
        self.switch = switch
        self.pubsub = pubsub

    async def listen(self, task_status: trio.TaskStatus[None]) -> None:
        async with self.pubsub.subscribe(TOPIC) as messages:
            task_status.started()
            async for message in messages:
                if message.source is not None:
                    self.hears(hashlib.sha256(message.payload).hexdigest(), None)

    async def publish(self, size: int, seed: int) -> None:
        blocks = (hashlib.sha256(f"{seed} {n}".encode()).digest() for n in range(size // 32 + 1))
        data = b"".join(blocks)[:size]
        self.said.append(hashlib.sha256(data).hexdigest())
        done = await self.pubsub.publish(TOPIC, data)
        assert not done.expired

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # our mesh changes without telling
            with trio.move_on_after(0.05):
                await self.news.park()

    def crowd(self) -> tuple[int, int]:
        return len(self.pubsub.peers(TOPIC)), len(self.pubsub.mesh(TOPIC))


class Theirs(Member):
    """A peer program; `events` is all that it told besides messages, by kind."""

    def __init__(self, peer: Peer, name: str) -> None:
        super().__init__(name, peer.peer_id, peer.address)
        self.peer = peer
        self.events: list[dict[str, Any]] = []
        self._crowd = (0, 0)

    async def listen(self) -> None:
        while True:
            line = await self.peer.line()
            if not line.startswith("{"):
                continue
            event = json.loads(line)
            if event["event"] == "message":
                self.hears(event["sha256"], event["from"])
            else:
                if event["event"] == "peers":
                    self._crowd = event["count"], event["mesh"]
                elif event["event"] == "published":
                    self.said.append(event["sha256"])
                self.events.append(event)
                self.news.unpark_all()

    async def publish(self, size: int, seed: int) -> None:
        before = len(self.said)
        await self.peer.write_line(f"random:{size}:{seed}")
        await self.until(lambda: len(self.said) > before)

    def crowd(self) -> tuple[int, int]:
        return self._crowd

    def told(self, kind: str, direction: str | None = None) -> list[dict[str, Any]]:
        """The events of a kind."""
        return [e for e in self.events if e["event"] == kind and direction in (None, e.get("dir"))]


@asynccontextmanager
async def ours(nursery: trio.Nursery, name: str = "pyp2p", **settings: Any) -> AsyncIterator[Ours]:
    """A node of ours that listens to the topic."""
    async with open_switch() as switch, open_pubsub(switch, **settings) as pubsub:
        node = Ours(name, switch, pubsub)
        await nursery.start(node.listen)
        yield node


@asynccontextmanager
async def theirs(nursery: trio.Nursery, language: str, *flags: str, name: str = "") -> AsyncIterator[Theirs]:
    """A node of another implementation that listens to the topic."""
    more = ("--topic", TOPIC, "--max-size", str(10 * 1024 * 1024), *flags)
    async with open_peer(language, *more, subcommand="mesh") as peer:
        node = Theirs(peer, name or language)
        nursery.start_soon(node.listen)
        yield node
