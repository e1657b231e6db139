"""Whole beacon networks in virtual time: nodes on simulated hosts, goodbyes and events as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from ipaddress import ip_address
from typing import Any, TypeVar

import trio
import trio.testing

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.peer_types import PeerConfig
from pyp2p.discv5.enr import Enr
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.switch.connection import Connection
from pyp2p.testing import LinkQuality, SeededEntropy, Sim
from pyp2p.testing.run import EPOCH
from tests.switch.support import until

SEEDS = (1, 2)
E = TypeVar("E")


def chain(*, started: float = 0.0, start: str = "altair", epochs_per_fork: int = 100, **more: Any) -> Chain:
    """A made-up chain whose slot 0 was `started` seconds before the simulation; no fork soon unless asked for."""
    return dev_chain(int(EPOCH - started), start=start, epochs_per_fork=epochs_per_fork, **more)


def identity(name: str) -> Identity:
    return Identity.generate(KeyType.SECP256K1, entropy=SeededEntropy(name))


@asynccontextmanager
async def beacon(
    sim: Sim, name: str, of: Chain | None = None, *, muxers: Any = None, target: int = 12, **options: Any
) -> AsyncIterator[BeaconNetwork]:
    """A network on a host of its own, without discovery unless asked for."""
    sim.net.quality = LinkQuality(latency=0.05)
    host = sim.net.host(name)
    settings = {
        "chain": of or chain(),
        "listen": ((host.ips[0], 9000),),
        "peers": PeerConfig(target=target),
        "discovery": False,
        "long_lived_subnets": False,
        **options,
    }
    async with BeaconNetwork(
        BeaconConfig(**settings),
        platform=sim.platform(name),
        transports=[host.transport],
        muxers=muxers,
        bind=host.bind_udp,
    ) as net:
        yield net


@asynccontextmanager
async def duo(sim: Sim, of: Chain | None = None, **options: Any) -> AsyncIterator[tuple[BeaconNetwork, BeaconNetwork]]:
    """Two connected networks; the first dialled the second."""
    of = of or chain()
    async with beacon(sim, "b", of, **options) as second, beacon(sim, "a", of, **options) as first:
        await meet(first, second)
        yield first, second


@asynccontextmanager
async def crowd(sim: Sim, count: int, of: Chain | None = None, **options: Any) -> AsyncIterator[list[BeaconNetwork]]:
    """So many networks, each connected to the first."""
    of = of or chain()
    async with AsyncExitStack() as stack:
        nets = [await stack.enter_async_context(beacon(sim, f"n{n}", of, **options)) for n in range(count)]
        for net in nets[1:]:
            await meet(net, nets[0])
        yield nets


async def meet(one: BeaconNetwork, other: BeaconNetwork) -> None:
    """The first dials the second; both have the other as a peer then."""
    await dial(one, other)
    await until(lambda: knows(one, other) and knows(other, one))


async def dial(one: BeaconNetwork, other: BeaconNetwork) -> Connection:
    return await one.switch.connect(other.peer, other.switch.addresses)


def knows(one: BeaconNetwork, other: BeaconNetwork | PeerId) -> bool:
    whom = other if isinstance(other, PeerId) else other.peer
    return whom in [each.peer for each in one.peers()]


def facts(one: BeaconNetwork, other: BeaconNetwork):
    """What the first has heard of the second."""
    return one._exchange.facts(one.switch.connections(other.peer)[0])


def hear(net: BeaconNetwork) -> list[tuple[PeerId, int]]:
    """Who says goodbye to a network from now on, and with which code."""
    heard: list[tuple[PeerId, int]] = []
    said_goodbye = net.said_goodbye

    def note(peer: PeerId, code: int) -> None:
        heard.append((peer, code))
        said_goodbye(peer, code)

    net.said_goodbye = note  # type: ignore[method-assign]
    return heard


@contextmanager
def goodbyes(net: BeaconNetwork) -> Iterator[list[tuple[PeerId, int]]]:
    """As `hear`, for the length of the block."""
    yield hear(net)
    del net.said_goodbye


@asynccontextmanager
async def watched(net: BeaconNetwork) -> AsyncIterator[list[Any]]:
    """The events of a network, as they come."""
    told: list[Any] = []
    async with net.watch() as events, trio.open_nursery() as nursery:

        async def note() -> None:
            async for event in events:
                told.append(event)

        nursery.start_soon(note)
        yield told
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


def of_kind(kind: type[E], told: list[Any]) -> list[E]:
    return [event for event in told if isinstance(event, kind)]


def record(name: str, *, tcp: int | None = None, udp: int | None = 9000, ip: str = "198.51.100.77", **more: Any) -> Enr:
    """A record of `name`, by default of an address where nobody is."""
    pairs = {"ip": ip_address(ip), "tcp": tcp, "udp": udp, **more}
    return Enr.sign(identity(name), 1, {key: value for key, value in pairs.items() if value is not None})
