"""The one list of stacks on which every behaviour test runs, and two connected ends of a stack without a switch."""

import itertools
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from pyp2p.errors import LimitExceeded
from pyp2p.multistream.core import Listener
from pyp2p.muxers.base import MemoryBudget, MuxerFactory
from pyp2p.muxers.mplex import Mplex
from pyp2p.muxers.yamux import Yamux
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.platform import Platform
from pyp2p.quic.base import Served
from pyp2p.quic.transport import Quic
from pyp2p.security.base import Security
from pyp2p.security.noise import Noise
from pyp2p.security.plaintext import Plaintext
from pyp2p.security.tls import Tls
from pyp2p.switch.config import Limits, Timeouts
from pyp2p.switch.connection import Connection
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.upgrade import Stacks, upgrade
from pyp2p.trace import Trace
from pyp2p.transports.base import RawConn, Transport
from pyp2p.transports.memory import Memory, MemoryHub
from pyp2p.transports.tcp import Tcp
from pyp2p.transports.webcert import self_signed
from pyp2p.transports.ws import WebSocket

PROTOCOL = "/contract/1.0.0"


@dataclass(frozen=True)
class Stack:
    """One way to reach a peer: a transport with an address to listen on, a security, a muxer."""

    name: str
    transport: Callable[[], Transport]
    address: str
    security: Callable[[], Security]
    muxer: Callable[[], MuxerFactory]


def secure_websocket() -> WebSocket:
    """One whose listener shows a certificate that its dialler does not judge."""
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return WebSocket(server=self_signed("localhost"), client=client)


TRANSPORTS = {
    "memory": (lambda: Memory(MemoryHub()), "/memory/0"),
    "tcp": (Tcp, "/ip4/127.0.0.1/tcp/0"),
    "tcp6": (Tcp, "/ip6/::1/tcp/0"),
    "ws": (WebSocket, "/ip4/127.0.0.1/tcp/0/ws"),
    "wss": (secure_websocket, "/ip6/::1/tcp/0/tls/ws"),
}
SECURITIES: dict[str, Callable[[], Security]] = {"noise": Noise, "tls": Tls, "plaintext": Plaintext}
MUXERS: dict[str, Callable[[], MuxerFactory]] = {"yamux": Yamux, "mplex": Mplex}

STACKS = [
    Stack("-".join(names), *TRANSPORTS[names[0]], SECURITIES[names[1]], MUXERS[names[2]])
    for names in itertools.product(TRANSPORTS, SECURITIES, MUXERS)
] + [Stack("quic", Quic, "/ip4/127.0.0.1/udp/0/quic-v1", Tls, Yamux)]  # which has both in itself


class Ends:
    """Two connections that are the ends of one, and what pays for them."""

    def __init__(self) -> None:
        self.memory = (MemoryBudget(1 << 26), MemoryBudget(1 << 26))
        self.refused: list[LimitExceeded] = []
        self.dialer: Connection
        self.listener: Connection
        self.arrived: trio.MemoryReceiveChannel[MuxedStream]

    async def streams(self) -> tuple[MuxedStream, MuxedStream]:
        """A new stream: the opener's end and the answerer's."""
        opened = await self.dialer.open_stream(PROTOCOL)
        return opened, await self.arrived.receive()


@asynccontextmanager
async def connected(stack: Stack, seed: int = 0) -> AsyncIterator[Ends]:
    """Dial over `stack` and upgrade both ends; at the end both are closed and owe nothing."""
    ends = Ends()
    entropy = random.Random(seed).randbytes
    arrive, ends.arrived = trio.open_memory_channel[MuxedStream](1024)
    transport = stack.transport()
    identities = [Identity.generate(entropy=entropy) for _ in range(2)]
    made: dict[bool, Any] = {}

    async def make(raw: RawConn, side: int, expect: PeerId | None, nursery: trio.Nursery) -> None:
        stacks = Stacks(
            identity=identities[side],
            securities=[stack.security()],
            muxers=[stack.muxer()],
            early_muxer=False,
            platform=Platform(entropy=entropy),
            muxer_limits=Limits().muxer,
        )

        async def anyone(channel: object) -> None:
            await trio.lowlevel.checkpoint()

        upgraded = await upgrade(raw, stacks, expect=expect, memory=ends.memory[side], trace=Trace(), secured=anyone)
        connection = Connection(
            side,
            upgraded,
            limits=Limits(),
            timeouts=Timeouts(),
            opened_at_wall=0.0,
            listener=lambda: Listener(PROTOCOL.__eq__, lambda: [PROTOCOL]),
            on_stream=arrive.send_nowait,
            on_refused=ends.refused.append,
        )
        started = trio.Event()
        nursery.start_soon(connection.run, started.set)
        await started.wait()
        made[raw.direction.outbound] = connection

    # The deadline only turns a hang into an error.
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            answering = transport
            if isinstance(transport, Served):  # whose two ends differ in who they are
                answering = stack.transport()
                for each, identity in zip((transport, answering), identities, strict=True):
                    await nursery.start(each.serve, identity, Platform(entropy=entropy))
            listening = await answering.listen(parse_multiaddr(stack.address))

            async def dial() -> None:
                await make(await transport.dial(listening.address), 0, identities[1].peer, nursery)

            async def answer() -> None:
                await make(await listening.accept(), 1, None, nursery)

            async with trio.open_nursery() as upgrading:
                upgrading.start_soon(dial)
                upgrading.start_soon(answer)
            ends.dialer, ends.listener = made[True], made[False]
            try:
                yield ends
            finally:
                await ends.dialer.aclose()
                await ends.listener.aclose()
                await listening.aclose()
                nursery.cancel_scope.cancel()
    assert [budget.used for budget in ends.memory] == [0, 0]
