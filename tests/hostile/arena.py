"""Where hostile peers are tried: a victim, a bystander that must not notice, and the oracle of every case.

The oracle: the bystander's echo works before, during and after; when the attack is over all counters of the victim,
the memory it pays for among them, stand where they stood before; nothing is logged at WARNING or above, only a few
lines at INFO, and nothing with a traceback above DEBUG.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio
from multiaddr import Multiaddr

from pyp2p.io.handshake import Direction, Pipelined, drive
from pyp2p.multistream.core import Dialer
from pyp2p.muxers.yamux import Yamux
from pyp2p.peer.address import parse_multiaddr, with_peer
from pyp2p.peer.keys import Identity
from pyp2p.quic.transport import Quic
from pyp2p.security.noise import Noise
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.switch import Switch, open_switch
from pyp2p.testing import Sim
from pyp2p.testing.simnet import SimHost
from pyp2p.trace import Trace
from pyp2p.transports.base import RawConn
from pyp2p.transports.ws import WsListener, _asked

ECHO = "/echo/1.0.0"
YAMUX = "/yamux/1.0.0"
FEW_LINES = 50  # at INFO or above, of thousands of refusals: a burst of the log's limiter, and one for each real peer


Way = Callable[[SimHost], tuple[Any, Multiaddr]]  # a transport of a host, and where that listens


def over_tcp(host: SimHost) -> tuple[Any, Multiaddr]:
    return host.transport, host.address()


def over_quic(host: SimHost) -> tuple[Any, Multiaddr]:
    """Simulated hosts have no wildcard addresses."""
    transport = Quic(bind=lambda ip, port: host.bind_udp(None if ip == "0.0.0.0" else ip, port))
    return transport, parse_multiaddr(f"/ip4/{host.ips[0]}/udp/4001/quic-v1")


class SimWs:
    """WebSocket over a simulated host's streams; the transport itself has those of the operating system."""

    name = "ws"

    def __init__(self, host: SimHost) -> None:
        self._inner = host.transport

    def handles(self, address: Multiaddr) -> bool:
        return self._inner.handles(address)

    async def dial(self, address: Multiaddr, trace: Trace | None = None) -> RawConn:
        raw = await self._inner.dial(address)
        try:
            return replace(raw, stream=await _asked(raw.stream, "victim:1", trace or Trace()))
        except BaseException:
            await raw.stream.aclose_now()
            raise

    async def listen(self, address: Multiaddr) -> WsListener:
        return WsListener(await self._inner.listen(address), "", None)


def over_ws(host: SimHost) -> tuple[Any, Multiaddr]:
    return SimWs(host), host.address()


async def echo(stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


class Records(logging.Handler):
    """Every log record, to be judged at the end."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Attacker:
    """A connection to the victim as bytes: raw, or behind an honest Noise handshake."""

    def __init__(self, raw, platform) -> None:
        self.stream = raw.stream
        self.platform = platform
        self.channel = None
        self.heard = b""  # all that the victim said after the handshake, in plaintext
        self.identity = Identity.generate(entropy=platform.entropy)

    async def handshake(self, muxer: str = YAMUX, expect=None) -> None:
        """Noise with early muxer negotiation; afterwards `send` and `receive` speak the muxer's language."""
        noise = Noise().handshake(self.identity, Direction.OUTBOUND, expect, [muxer], self.platform)
        core = Pipelined(Dialer(["/noise"]), noise, lambda: None)
        self.channel, leftover, unsent = await drive(core, self.stream, Trace())
        assert self.channel.early_muxer == muxer
        self.heard = b"".join(self.channel.open(leftover))
        await self.stream.send_all(unsent)

    async def send(self, plain: bytes) -> None:
        await self.stream.send_all(self.channel.seal([plain]))

    async def hear(self, wanted: bytes, seconds: float = 5) -> bytes:
        """All that the victim has said since the handshake, as soon as `wanted` is in it."""
        with trio.fail_after(seconds):
            while wanted not in self.heard:
                data = await self.stream.receive_some()
                assert data, f"closed before {wanted!r} was said"
                self.heard += b"".join(self.channel.open(data))
        return self.heard

    async def receive_until_closed(self, seconds: float = 60) -> bytes:
        """All that the victim sends until it closes (or resets) the connection, in plaintext after a handshake."""
        got = b""
        with trio.fail_after(seconds):
            while True:
                try:
                    data = await self.stream.receive_some()
                except trio.BrokenResourceError:
                    return got
                if not data:
                    return got
                got += data if self.channel is None else b"".join(self.channel.open(data))

    async def closed_within(self, seconds: float) -> float:
        """Virtual seconds until the victim closed."""
        started = trio.current_time()
        await self.receive_until_closed(seconds)
        return trio.current_time() - started


class Arena:
    """The victim with its bystander."""

    def __init__(self, sim: Sim, victim: Switch, bystander: Switch, stream) -> None:
        self.sim = sim
        self.victim = victim
        self.bystander = bystander
        self._stream = stream
        self._count = 0

    @property
    def address(self):
        return with_peer(self.victim.addresses[0], self.victim.peer)

    async def check_bystander(self) -> None:
        """An echo over a stream that was open all the time comes back at once (0.25 virtual seconds)."""
        self._count += 1
        message = b"still here %d" % self._count
        with trio.fail_after(0.25):
            await self._stream.send_all(message)
            got = b""
            while len(got) < len(message):
                got += await self._stream.receive_some()
        assert got == message

    async def dial(self, host: str = "attacker") -> Attacker:
        """A raw connection to the victim from a host of that name."""
        raw = await self.sim.net.host(host).transport.dial(self.sim.net.host("victim").address())
        return Attacker(raw, self.sim.platform(f"attacker {self._count}"))

    async def attack(self, muxer: str = YAMUX) -> Attacker:
        """A connection that has shaken hands honestly and is in use at the victim."""
        before = len(self.victim.connections())
        attacker = await self.dial()
        await attacker.handshake(muxer)
        with trio.fail_after(5):
            while len(self.victim.connections()) <= before:
                await trio.sleep(0.01)
        return attacker

    def counters(self) -> dict[str, int]:
        """What connections, streams and their memory hold at the victim now."""
        establisher = self.victim._establisher
        open_streams = sum(len(peering.connection.streams) for peering in establisher.running.values())
        return establisher.in_use() | {"open streams": open_streams}

    async def settled(self, before: dict[str, int], seconds: float = 90) -> None:
        """Wait, in virtual time, until the victim's counters are what they were."""
        with trio.move_on_after(seconds):
            while self.counters() != before:
                await trio.sleep(0.1)
        assert self.counters() == before


@asynccontextmanager
async def arena(
    sim: Sim,
    config: SwitchConfig | None = None,
    loud: bool = False,
    lines: int = FEW_LINES,
    way: Way = over_tcp,
    **options,
) -> AsyncIterator[Arena]:
    """A victim and a bystander; on leaving, the whole oracle. `loud`: warnings may be logged; `lines`: of all kinds."""
    records = Records()
    root = logging.getLogger("pyp2p")
    level = root.level
    root.addHandler(records)
    root.setLevel(logging.DEBUG)
    transport, where = way(sim.net.host("victim"))
    try:
        async with (
            open_switch(
                listen=[where],
                transports=[transport],
                platform=sim.platform("victim"),
                config=config,
                **options,
            ) as victim,
            open_switch(
                transports=[way(sim.net.host("bystander"))[0]], muxers=[Yamux()], platform=sim.platform("bystander")
            ) as bystander,
        ):
            victim.mount(ECHO, echo)
            await bystander.connect(with_peer(where, victim.peer))
            async with await bystander.open_stream(victim.peer, ECHO) as stream:
                scene = Arena(sim, victim, bystander, stream)
                await scene.check_bystander()
                before = scene.counters()
                yield scene
                await scene.check_bystander()
                await scene.settled(before)
                assert len(victim.connections()) == 1
    finally:
        root.removeHandler(records)
        root.setLevel(level)
    if not loud:
        bad = [r.getMessage() for r in records.records if r.levelno >= logging.WARNING]
        assert not bad, bad
    assert sum(r.levelno >= logging.INFO for r in records.records) <= lines
    assert not [r for r in records.records if r.exc_info and r.levelno > logging.DEBUG]
