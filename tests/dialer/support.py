"""Dialers on simulated switches, and what they tell."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from pyp2p.dialer.service import DialerEvent, DialerService, open_dialer
from pyp2p.dialer.tables import DialerConfig
from pyp2p.discv5.candidates import Candidate, Source
from pyp2p.errors import AdmissionRefused
from pyp2p.io.messages import MessageStream
from pyp2p.peer.id import PeerId
from pyp2p.switch.connection import Connection
from pyp2p.switch.switch import Switch
from pyp2p.testing import Sim
from tests.switch.support import node


class Heard(list[DialerEvent]):
    """All that a dialer told."""

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self if type(event) is kind]


@asynccontextmanager
async def dialing(switch: Switch, **config: Any) -> AsyncIterator[tuple[DialerService, Heard]]:
    """A dialer and all that it tells."""
    heard = Heard()

    async def listen(dialer: DialerService, task_status: trio.TaskStatus[None]) -> None:
        async with dialer.watch() as events:
            task_status.started()
            async for event in events:
                heard.append(event)

    async with trio.open_nursery() as nursery, open_dialer(switch, config=DialerConfig(**config)) as dialer:
        await nursery.start(listen, dialer)
        yield dialer, heard


def found(sim: Sim, name: str, switch: Switch, source: Source = Source.RANDOM) -> Candidate:
    """A node as discovery tells of it."""
    return Candidate(switch.peer, (sim.net.host(name).address(),), source)


@asynccontextmanager
async def leaves(sim: Sim, count: int, **options: Any) -> AsyncIterator[list[Switch]]:
    """Switches on hosts l0, l1, ..."""
    if not count:
        yield []
        return
    async with leaves(sim, count - 1, **options) as others, node(sim, f"l{count - 1}", **options) as one:
        yield [*others, one]


def hello(network: str) -> Any:
    """The handshake of a network, from the side that dials."""

    async def greet(connection: Connection) -> None:
        async with await connection.open_stream(f"/{network}/hello/1") as stream:
            messages = MessageStream(stream, 100)
            await messages.send(b"hello")
            if await messages.receive() != b"yes":
                raise AdmissionRefused(f"not of network {network}")

    return greet


def serve(switch: Switch, network: str, answer: bytes = b"yes") -> None:
    """Answer the handshake of a network."""

    async def handle(stream: Any) -> None:
        messages = MessageStream(stream, 100)
        await messages.receive()
        await messages.send(answer)

    switch.mount(f"/{network}/hello/1", handle)


def stranger(number: int) -> PeerId:
    return PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big"))


async def of_list(*candidates: Candidate) -> AsyncIterator[Candidate]:
    for candidate in candidates:
        yield candidate


async def agree(connection: Connection) -> None:
    """A handshake that everybody passes."""
