"""Running nodes of discv5 on simulated hosts."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from pyp2p.discv5.service import Discv5, open_discv5
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.testing import SeededEntropy, Sim

PORT = 9000


def identity(name: str) -> Identity:
    return Identity.generate(KeyType.SECP256K1, entropy=SeededEntropy(name))


@asynccontextmanager
async def node(sim: Sim, name: str, *ips: str, **options: Any) -> AsyncIterator[Discv5]:
    """A node on the host of that name, with one socket for each of its addresses."""
    host = sim.net.host(name, *ips)
    settings: dict[str, Any] = {"listen": [(ip, PORT) for ip in host.ips], "platform": sim.platform(name)}
    async with open_discv5(identity(name), bind=host.bind_udp, **settings | options) as running:
        yield running


@asynccontextmanager
async def nodes(sim: Sim, count: int, **options: Any) -> AsyncIterator[list[Discv5]]:
    """Nodes with public addresses that know the first of them."""
    async with AsyncExitStack() as stack:
        running: list[Discv5] = []
        for number in range(count):
            known = {"bootnodes": [running[0].record]} if running else {}
            running.append(
                await stack.enter_async_context(node(sim, f"n{number}", f"50.0.{number}.1", **known, **options))
            )
        yield running


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait in virtual time: for the simulated tests alone, where a sleep takes none."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.05)
