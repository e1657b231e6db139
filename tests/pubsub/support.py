"""Nodes with pubsub in a simulated world, and a raw peer whose RPCs a test writes byte by byte."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from pyp2p.io.varint import LengthPrefixed, prefixed
from pyp2p.peer.address import with_peer
from pyp2p.pubsub.service import Pubsub, open_pubsub
from pyp2p.pubsub.types import Rpc
from pyp2p.pubsub.wire import decode_rpc
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.switch import Switch, open_switch
from pyp2p.testing import Sim
from tests.switch.support import node, until

MESHSUB = "/meshsub/1.1.0"
TOPIC = "t"


class Node:
    """A switch, and pubsub on it."""

    def __init__(self, switch: Switch, pubsub: Pubsub) -> None:
        self.switch = switch
        self.pubsub = pubsub

    @property
    def peer(self):
        return self.switch.peer

    @property
    def address(self):
        return self.switch.multiaddrs[0]


@asynccontextmanager
async def speaker(
    sim: Sim, name: str, switch: dict[str, Any] | None = None, buffer: int = 256 * 1024, **options: Any
) -> AsyncIterator[Node]:
    """A node of that name with pubsub; `options` are those of `open_pubsub`."""
    async with node(sim, name, buffer=buffer, **(switch or {})) as running, open_pubsub(running, **options) as pubsub:
        yield Node(running, pubsub)


class Listener(Node):
    """A node and the payloads that came in `TOPIC`."""

    def __init__(self, switch: Switch, pubsub: Pubsub) -> None:
        super().__init__(switch, pubsub)
        self.payloads: list[bytes] = []

    async def listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with self.pubsub.subscribe(TOPIC) as messages:
            task_status.started()
            async for message in messages:
                self.payloads.append(message.payload)


@asynccontextmanager
async def listener(sim: Sim, name: str, **options: Any) -> AsyncIterator[Listener]:
    """A node of that name that listens all the time."""
    async with speaker(sim, name, **options) as made, trio.open_nursery() as nursery:
        node = Listener(made.switch, made.pubsub)
        await nursery.start(node.listen)
        yield node
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def speakers(sim: Sim, count: int, **options: Any) -> AsyncIterator[list[Node]]:
    """Nodes of which the first is connected to all others."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(speaker(sim, f"n{number}", **options)) for number in range(count)]
        for other in nodes[1:]:
            await other.switch.connect(nodes[0].address)
        await until(lambda: len(nodes[0].pubsub.peers()) == count - 1)
        yield nodes


async def listeners(node: Node, topic: str, count: int) -> None:
    """Wait until `node` knows of so many who listen."""
    await until(lambda: len(node.pubsub.peers(topic)) == count)


class RawPeer:
    """A switch that speaks pubsub as a test wants: `heard` are the RPCs that came, `say` writes one of raw bytes."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self.heard: list[Rpc] = []
        self.opened = 0  # inbound streams
        self.inbound: list[MuxedStream] = []
        self.out: MuxedStream | None = None
        self.deaf = False  # it never reads: the window of the stream fills up

    @property
    def peer(self):
        return self.switch.peer

    async def listen(self, stream: MuxedStream) -> None:
        """The handler of the peer's inbound stream."""
        self.opened += 1
        self.inbound.append(stream)
        if self.deaf:
            await trio.sleep_forever()
        framer = LengthPrefixed(64 * 1024 * 1024)
        async for chunk in stream:
            self.heard += [decode_rpc(data) for data in framer.feed(chunk)]

    async def open(self, peer, protocol: str = MESHSUB) -> None:
        """Open the stream that RPCs are said on."""
        self.out = await self.switch.open_stream(peer, protocol)

    async def say(self, *rpcs: bytes) -> None:
        """Write serialised RPCs."""
        await self.out.send_all(b"".join(map(prefixed, rpcs)))

    def got(self) -> list[bytes]:
        """All published messages that came, serialised."""
        return [raw for rpc in self.heard for raw in rpc.publish]

    def subscribed(self) -> list[tuple[bool, str]]:
        return [change for rpc in self.heard for change in rpc.subscriptions]


@asynccontextmanager
async def raw_peer(
    sim: Sim, name: str = "raw", protocols: Iterable[str] = (MESHSUB,), deaf: bool = False, buffer: int = 256 * 1024
) -> AsyncIterator[RawPeer]:
    """A raw peer, connected to nobody yet; of no kind that is known to agree on which of two connections stays."""
    host, config = sim.net.host(name, buffer=buffer), SwitchConfig(agent="raw")
    async with open_switch(
        listen=[host.address()], transports=[host.transport], platform=sim.platform(name), config=config
    ) as switch:
        raw = RawPeer(switch)
        raw.deaf = deaf
        if protocols:
            switch.mount(list(protocols), raw.listen)
        yield raw


async def introduce(raw: RawPeer, node: Node, *topics: str, protocol: str = MESHSUB) -> None:
    """Connect, open the stream and subscribe to `topics`."""
    await raw.switch.connect(node.address)
    await raw.open(node.peer, protocol)
    await raw.say(*(subscription(topic) for topic in topics))
    await until(lambda: all(raw.peer in node.pubsub.peers(topic) for topic in topics))


def subscription(topic: str | bytes, on: bool = True) -> bytes:
    """An RPC that says that the sender listens to `topic`, or does no longer."""
    raw = topic.encode() if isinstance(topic, str) else topic
    return b"\x0a" + prefixed((b"\x08\x01" if on else b"\x08\x00") + b"\x12" + prefixed(raw))


def address_of(switch: Switch, sim: Sim, name: str):
    return with_peer(sim.net.host(name).address(), switch.peer)
