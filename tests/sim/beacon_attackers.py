"""Hostile nodes in a world of whole beacon networks: honest ones inside, with one bad habit each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from pyp2p.beacon.containers import BeaconBlocksByRangeRequest, GoodbyeReason, StatusV1, StatusV2
from pyp2p.beacon.methods import ForkBytes
from pyp2p.beacon.status import ChainStatus
from pyp2p.errors import DialFailed, RequestFailed
from tests.sim.beacon import Node

Habit = Callable[[Node, list[Node]], Awaitable[None]]


@dataclass(frozen=True)
class Lie(ChainStatus):
    """A status of another chain, or far ahead of time."""

    ahead: int = 0
    digest: bytes | None = None

    def v1(self, digest: bytes) -> StatusV1:
        status = self.v2(digest)
        return StatusV1(
            status.fork_digest, status.finalized_root, status.finalized_epoch, status.head_root, status.head_slot
        )

    def v2(self, digest: bytes) -> StatusV2:
        said = self.digest or digest
        return StatusV2(said, self.finalized_root, self.finalized_epoch, self.head_root, self.head_slot + self.ahead, 0)


async def knock(node: Node, honest: list[Node]) -> None:
    """Come to everybody once, whether or not discovery brought them together already."""
    for victim in honest:
        with suppress(DialFailed):
            await node.net.switch.connect(victim.peer, victim.net.switch.addresses)


async def wrong_digest(node: Node, honest: list[Node]) -> None:
    """Its record is of our chain, its status is not."""
    node.net.status = Lie(digest=b"evil")
    await knock(node, honest)


async def status_liar(node: Node, honest: list[Node]) -> None:
    """It claims blocks of slots to come."""
    node.net.status = Lie(ahead=1000)
    await knock(node, honest)


async def garbage(node: Node, honest: list[Node]) -> None:
    """It says in each slot that it is a block ahead, so that it is asked again, and what it serves is no block."""

    async def junk(connection: Any, request: BeaconBlocksByRangeRequest) -> AsyncGenerator[ForkBytes, None]:
        yield ForkBytes(node.net.clock.period.digest, b"\xff" * 500)

    node.net.reqresp.withdraw(node.net.methods.beacon_blocks_by_range_v2)
    node.net.serve(node.net.methods.beacon_blocks_by_range_v2, junk)
    while True:
        slot = await node.net.clock.next_slot()
        node.net.status = Lie(head_slot=slot + 1)
        said = node.net.status.v1(node.net.clock.period.digest)
        for victim in node.peers:
            with suppress(RequestFailed):
                await node.net.reqresp.ask(victim, node.net.methods.status_v1, said)


async def staller(node: Node, honest: list[Node]) -> None:
    """It takes pings and requests for blocks, and never answers."""

    async def never(connection: Any, request: Any) -> AsyncGenerator[Any, None]:
        await trio.sleep_forever()
        yield None

    methods = node.net.methods
    for method in (methods.ping, methods.beacon_blocks_by_range_v2):
        node.net.reqresp.withdraw(method)
        node.net.serve(method, never)


async def quota_abuser(node: Node, honest: list[Node]) -> None:
    """It asks for the whole chain again and again, two requests at a time; `taken` counts its chunks."""
    request = BeaconBlocksByRangeRequest(1, 64)

    async def ask(victim: Node) -> None:
        while True:
            try:
                async with await node.net.request(
                    victim.peer, node.net.methods.beacon_blocks_by_range_v2, request
                ) as answer:
                    async for _ in answer:
                        node.taken += 1
            except RequestFailed:
                await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        for victim in honest:
            for _ in range(2):
                nursery.start_soon(ask, victim)


async def goodbye_spammer(node: Node, honest: list[Node]) -> None:
    """It connects to everybody, says goodbye at once, waits for no answer, and comes again."""

    async def pester(victim: Node) -> None:
        while True:
            try:
                connection = await node.net.switch.connect(victim.peer, victim.net.switch.addresses)
            except DialFailed:
                await trio.sleep(0.5)
                continue
            with suppress(RequestFailed), trio.move_on_after(0.1):
                async with await node.net.reqresp.request(
                    connection, node.net.methods.goodbye, GoodbyeReason.CLIENT_SHUTDOWN
                ) as answer:
                    async for _ in answer:
                        pass
            await connection.aclose()
            await trio.sleep(0.2)

    async with trio.open_nursery() as nursery:
        for victim in honest:
            nursery.start_soon(pester, victim)
