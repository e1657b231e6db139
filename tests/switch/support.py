"""Switches to watch: two over any stack of the list on the real clock, any number in a simulated world."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from multiaddr import Multiaddr

from pyp2p.muxers.yamux import Yamux
from pyp2p.peer.id import PeerId
from pyp2p.protocols.echo import serve_echo
from pyp2p.quic.base import Served
from pyp2p.security.noise import Noise
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.switch import Switch, open_switch
from pyp2p.testing import Misbehaviour, Sim, misbehave
from tests.contract.stacks import Stack

ECHO = "/echo/1.0.0"


@asynccontextmanager
async def duo(stack: Stack, a: dict[str, Any] | None = None, b: dict[str, Any] | None = None):
    """Two switches that listen and speak `stack`, each with options of its own; the deadline only ends a hang."""
    transport = stack.transport()
    apart = isinstance(transport, Served)  # one for each identity; else both share what lies between them
    options = {"listen": [stack.address]}

    def stacks() -> dict[str, Any]:
        transports = [stack.transport() if apart else transport]
        return {"transports": transports, "securities": [stack.security()], "muxers": [stack.muxer()]}

    with trio.fail_after(20):
        async with (
            open_switch(**{**options, **stacks(), **(b or {})}) as second,
            open_switch(**{**options, **stacks(), **(a or {})}) as first,
        ):
            for switch in (first, second):
                switch.mount(ECHO, serve_echo)
            yield first, second


@asynccontextmanager
async def node(
    sim: Sim, name: str, *, buffer: int = 256 * 1024, plan: Misbehaviour | None = None, **options: Any
) -> AsyncIterator[Switch]:
    """A switch on a simulated host of its own, with echo; `plan` makes its stack misbehave."""
    host = sim.net.host(name, buffer=buffer)
    stack: dict[str, Any] = {"transports": [host.transport]}
    if plan is not None:
        stack = misbehave(plan, **stack, securities=[Noise()], muxers=[Yamux()])
    async with open_switch(
        **{"listen": [host.address()], "platform": sim.platform(name), **stack, **options}
    ) as switch:
        switch.mount(ECHO, serve_echo)
        yield switch


@asynccontextmanager
async def pair(sim: Sim, a: dict[str, Any] | None = None, b: dict[str, Any] | None = None):
    """Two simulated nodes."""
    async with node(sim, "b", **(b or {})) as second, node(sim, "a", **(a or {})) as first:
        yield first, second


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds: in virtual time by its clock, else by letting everybody else work."""
    virtual = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
    with trio.fail_after(60 if virtual else 10):
        while not condition():
            if virtual:
                await trio.sleep(0.01)
            else:
                await trio.testing.wait_all_tasks_blocked(0.001)


async def echoed(stream: MuxedStream, data: bytes = b"hello") -> None:
    """Send and get back over an echo stream, and end it."""
    async with stream:
        await stream.send_all(data)
        got = b""
        while len(got) < len(data):
            chunk = await stream.receive_some()
            assert chunk
            got += chunk
        assert got == data


async def echoes(switch: Switch, target: PeerId | Multiaddr | str, addrs: list[Any] | tuple[()] = ()) -> None:
    """Connect if need be, and echo."""
    await echoed(await switch.open_stream(target, ECHO, addrs))


def in_use(switch: Switch) -> dict[str, int]:
    """What counts connections, without the refusals; all zero when nothing is left."""
    return {name: value for name, value in switch.counters.items() if not name.startswith("refused.")}
