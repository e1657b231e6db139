"""Two simulated nodes with requests and responses, and a peer whose bytes a test writes by hand."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from pyp2p.errors import ProtocolViolation
from pyp2p.reqresp.declare import Method
from pyp2p.reqresp.service import ReqResp, open_reqresp
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.switch import Switch
from pyp2p.testing import Sim
from tests.switch.support import node
from tests.unit.reqresp.support import listing

LIST = listing()


class Node:
    """A switch with requests and responses, and the violations that it saw."""

    def __init__(self, switch: Switch, reqresp: ReqResp, violations: list[ProtocolViolation]) -> None:
        self.switch = switch
        self.reqresp = reqresp
        self.violations = violations

    @property
    def peer(self):
        return self.switch.peer

    def count(self, what: str, method: Method = LIST) -> int:
        return self.reqresp.counters[what, method.protocol]

    def idle(self) -> bool:
        gauges = self.reqresp.gauges()
        return not (gauges["asking"] or gauges["places"] or gauges["serving"])


@asynccontextmanager
async def speaker(sim: Sim, name: str, switch: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Node]:
    """A node of that name; `options` are those of `open_reqresp`."""
    violations: list[ProtocolViolation] = []
    async with (
        node(sim, name, **(switch or {})) as running,
        open_reqresp(running, **{"violated": violations.append, **options}) as reqresp,
    ):
        yield Node(running, reqresp, violations)
        assert not reqresp.limits.buckets < reqresp.gauges()["quotas"]


@asynccontextmanager
async def duo(sim: Sim, client: dict | None = None, server: dict | None = None) -> AsyncIterator[tuple[Node, Node]]:
    """A client connected to a server; both stand idle at the end."""
    async with speaker(sim, "server", **(server or {})) as second, speaker(sim, "client", **(client or {})) as first:
        await first.switch.connect(second.switch.multiaddrs[0])
        yield first, second
        with trio.move_on_after(60):
            while not (first.idle() and second.idle()):
                await trio.sleep(0.1)
        assert first.idle(), first.reqresp.gauges()
        assert second.idle(), second.reqresp.gauges()


async def numbers(connection, request: bytes):
    """As many chunks as the request says, none for 9."""
    for number in range(request[0] if request != b"\x09" else 0):
        yield bytes((number,)) * 3


@asynccontextmanager
async def against(
    sim: Sim, act: Callable[[MuxedStream], Awaitable[None]], method: Method = LIST, **options: Any
) -> AsyncIterator[tuple[Node, Switch]]:
    """A client connected to a switch that answers requests by `act(stream)`."""
    async with node(sim, "raw") as raw, speaker(sim, "client", **options) as client:
        raw.mount(method.protocol, act)
        await client.switch.connect(raw.multiaddrs[0])
        yield client, raw
        assert client.idle(), client.reqresp.gauges()


async def request_of(stream: MuxedStream) -> bytes:
    """All bytes of a request."""
    return b"".join([data async for data in stream])


async def rest_of(stream: MuxedStream) -> bytes:
    """All bytes of an answer, up to its end."""
    return await request_of(stream)
