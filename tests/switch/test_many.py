"""A thousand QUIC connections at once between two UDP sockets of the operating system."""

import os
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from pyp2p import Budget
from pyp2p.protocols.echo import ECHO_PROTOCOL, serve_echo
from pyp2p.quic.transport import Quic
from pyp2p.switch.config import Limits, SwitchConfig, Timeouts
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.switch import open_switch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # 20 s of CPU, of a busy machine and under coverage

MANY = 1_000
AT_ONCE = 16  # handshakes: so few that nobody is asked to come again with a token
CONFIG = SwitchConfig(
    limits=Limits(connections=MANY, inbound=MANY, per_peer=MANY),
    timeouts=Timeouts(upgrade=60, protocol_select=60, dial_address=60, dial=60),  # of a busy machine
)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def each(work: Callable[[Iterator[int]], Awaitable[None]]) -> None:
    """Have some workers share the numbers of all connections."""
    numbers = iter(range(MANY))
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(work, numbers)


async def test_a_thousand_quic_connections_on_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    # Those that wait for the others do not ask each other for signs of life, which a busy machine has no time for.
    monkeypatch.setattr("pyp2p.quic.core.IDLE_SECONDS", 300.0)
    listening, dialling = Quic(), Quic()
    streams: dict[int, MuxedStream] = {}

    async def dial(numbers: Iterator[int]) -> None:
        for number in numbers:
            connection = await dialler.connect(server.multiaddrs[0], isolated=True)  # one of its own each time
            streams[number] = await connection.open_stream(ECHO_PROTOCOL)  # in use, so that it is not thinned out

    async def echo(numbers: Iterator[int]) -> None:
        for number in numbers:
            said = number.to_bytes(2, "big")
            await streams[number].send_all(said)
            assert await streams[number].receive_some() == said

    async def close(numbers: Iterator[int]) -> None:
        for number in numbers:
            await streams[number].connection.aclose()

    with trio.fail_after(380):
        async with (
            open_switch(transports=[listening], listen=["/ip4/127.0.0.1/udp/0/quic-v1"], config=CONFIG) as server,
            open_switch(transports=[dialling], config=CONFIG) as dialler,
        ):
            server.mount(ECHO_PROTOCOL, serve_echo, budget=Budget(per_peer=MANY))
            before = descriptors()
            await each(dial)
            (far,), (near,) = listening._listening, dialling._dialling.values()
            await each(echo)
            for switch, endpoint in ((server, far), (dialler, near)):
                assert switch.counters["connections"] == len(endpoint._all) == MANY
            assert descriptors() == before + 1  # the listener has its one, the dialler one too
            await each(close)
            while far._wires or near._wires:  # until the closing period of the last one is over
                await trio.lowlevel.checkpoint()
            for switch, endpoint in ((server, far), (dialler, near)):
                assert switch.counters["connections"] == 0
                assert not (endpoint._all or endpoint._half_open or endpoint._parting or endpoint._waiting)
            assert near.closed and not far.closed
            assert descriptors() == before
