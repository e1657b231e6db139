"""Nodes with pubsub in a simulated world."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from pyp2p import Pubsub, Switch, open_pubsub
from pyp2p.pubsub.types import Message
from pyp2p.testing import Sim
from tests.switch.support import node, until

TOPIC = "news"


@dataclass
class Member:
    """A switch, its pubsub, and what it heard."""

    switch: Switch
    pubsub: Pubsub
    heard: list[Message]
    sim: Sim

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.heard]

    async def listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with self.pubsub.subscribe(TOPIC) as messages:
            task_status.started()
            async for message in messages:
                self.heard.append(message)


@asynccontextmanager
async def member(
    sim: Sim, name: str, *, listens: bool = True, switch: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Member]:
    """A node; `options` are for `open_pubsub`."""
    async with node(sim, name, **(switch or {})) as made, open_pubsub(made, **options) as pubsub:
        found = Member(made, pubsub, [], sim)
        async with trio.open_nursery() as nursery:
            if listens:
                await nursery.start(found.listen)
            yield found
            nursery.cancel_scope.cancel()


async def meet(dialer: Member, *others: Member) -> None:
    """Connect, and wait until each knows that the other listens."""
    for other in others:
        await dialer.switch.connect(other.switch.multiaddrs[0])
        await until(lambda other=other: knows(dialer, other) and knows(other, dialer))


def knows(one: Member, other: Member) -> bool:
    """`one` has been told what `other` listens to."""
    if other.pubsub.topics:
        return other.switch.peer in one.pubsub.peers(TOPIC)
    return other.switch.peer in one.pubsub.peers()


@asynccontextmanager
async def duo(sim: Sim, a: dict[str, Any] | None = None, b: dict[str, Any] | None = None):
    """Two nodes that know each other; a dialled."""
    async with member(sim, "b", **(b or {})) as second, member(sim, "a", **(a or {})) as first:
        await meet(first, second)
        yield first, second
