"""Watching a switch: who comes, what they say they serve (also later, by a push), who goes and why."""
# ruff: noqa: T201 - an example prints

from collections.abc import AsyncIterator

import trio

import pyp2p
from pyp2p.switch.events import (
    Connected,
    Disconnected,
    Identified,
    ListenAddrAdded,
    ListenAddrRemoved,
    Refused,
    SwitchEvent,
)

NEWS_PROTOCOL = "/example/news/1.0.0"


async def serve_news(stream: pyp2p.MuxedStream) -> None:
    """Send one line and be done."""
    await stream.send_all(b"nothing new\n")


async def show_until(kind: type[SwitchEvent], events: AsyncIterator[SwitchEvent]) -> None:
    """Print events up to the next one of `kind`."""
    async for event in events:
        match event:
            case ListenAddrAdded(address) | ListenAddrRemoved(address):
                print(f"{type(event).__name__}: {str(address).rpartition('/')[0]}")  # the port differs each time
            case Connected(connection):
                print(f"Connected: {connection.direction.value}")
            case Identified(_, info):
                # None: the peer did not answer. It is connected all the same.
                protocols = () if info is None else info.protocols or ()
                print(f"Identified: {info and info.agent}, serves news: {NEWS_PROTOCOL in protocols}")
            case Disconnected(_, reason):
                print(f"Disconnected: by {reason.by}, {reason.code}")
            case Refused(code, detail):
                print(f"Refused: {code}, {detail}")
        if isinstance(event, kind):
            return


async def main() -> None:
    """One node is watched while another comes, starts to serve something, and leaves."""
    # Events wait in a bounded channel and none is lost, so whoever reads slowly holds up admission and farewell. A
    # program that also does other work gives `async for event in events` a task of its own.
    async with pyp2p.open_switch() as watched, watched.watch() as events:
        await watched.listen("/ip4/127.0.0.1/tcp/0")
        async with pyp2p.open_switch(config=pyp2p.SwitchConfig(agent="visitor/1")) as visitor:
            await visitor.connect(watched.multiaddrs[0])
            await show_until(Identified, events)
            visitor.mount(NEWS_PROTOCOL, serve_news)  # whoever is connected is told at once, by identify/push
            await show_until(Identified, events)
            # The visitor dialled, but streams go both ways.
            async with await watched.open_stream(visitor.peer, NEWS_PROTOCOL) as stream:
                print(f"the news: {(await stream.receive_some()).decode().strip()}")
        await show_until(Disconnected, events)
        await watched.stop_listening()
        await show_until(ListenAddrRemoved, events)


trio.run(main)
