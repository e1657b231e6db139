"""A browser reaches us: js-libp2p in a page, in headless Chromium, over a WebSocket, both muxers and TLS below."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

import pyp2p
from pyp2p import Connected, Disconnected, MuxedStream, SwitchConfig, WebSocket
from pyp2p.identify.service import IDENTIFY_PROTOCOL, PUSH_PROTOCOL
from pyp2p.identify.wire import IdentifyInfo
from pyp2p.protocols.echo import ECHO_PROTOCOL
from pyp2p.protocols.ping import PING_PROTOCOL, ping
from pyp2p.pubsub.service import Pubsub, open_pubsub
from pyp2p.pubsub.types import PROTOCOLS
from pyp2p.switch.connection import Connection
from pyp2p.switch.switch import Switch
from pyp2p.transports.webcert import self_signed
from tests.interop.browser_support import Browser, Page, open_browser
from tests.interop.matrix import MUXERS, SECURITIES
from tests.interop.peers import require
from tests.interop.support import ENTROPY, PATIENCE, SOON, address, identity, next_event, read_all

EXCHANGE = "/exchange/1.0.0"
SIZE = 10 * 1024 * 1024
HALF = SIZE // 2
DATA = os.urandom(SIZE)
TOPIC = "browser"
SIZES = (1, 100, 1_000, 65_536, 65_537, 300_000, 10)  # of messages; the last is small: it would overtake none
GONE = ("eof", "reset")

ways = pytest.mark.parametrize(("end", "muxer"), [("/ws", "yamux"), ("/ws", "mplex"), ("/tls/ws", "yamux")])


@pytest.fixture(autouse=True)
def _browser() -> None:
    """The page, bundled, and a browser for it."""
    require("browser")
    require("chromium")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Exchange:
    """Both directions at once: `DATA` goes to the peer, and what comes is hashed."""

    times: int = 1  # that it goes
    received: int = 0
    sha256: str = ""
    outcome: list[BaseException] = field(default_factory=list)
    half: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    async def serve(self, stream: MuxedStream) -> None:
        """The handler."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream)
                hashed = hashlib.sha256()
                async for chunk in stream:
                    hashed.update(chunk)
                    self.received += len(chunk)
                    if self.received >= HALF:
                        self.half.set()
                self.sha256 = hashed.hexdigest()
        except* trio.BrokenResourceError as errors:
            self.outcome.extend(errors.exceptions)
        finally:
            self.ended.set()

    async def _send(self, stream: MuxedStream) -> None:
        for _ in range(self.times):
            await stream.send_all(DATA)
        await stream.send_eof()


@dataclass
class Node:
    """Our side."""

    switch: Switch
    pubsub: Pubsub
    exchange: Exchange

    async def dialled_by(self, page: Page, muxer: str) -> Connection:
        """Have the page dial us: its connection, when both have identified each other."""
        async with self.switch.watch() as events:
            peer = await page.ask("dial", address=address(self.switch), muxer=muxer, topic=TOPIC)
            connection: Connection = (await next_event(events, Connected)).connection
        await connection.identified.wait()
        assert str(connection.peer) == peer
        assert connection.muxer_protocol == MUXERS[muxer].protocol
        return connection


@asynccontextmanager
async def open_node(end: str = "/ws", muxer: str = "yamux") -> AsyncIterator[Node]:
    """A switch with pubsub that listens for browsers."""
    exchange = Exchange()
    async with (
        pyp2p.open_switch(
            identity(),
            listen=[f"/ip4/127.0.0.1/tcp/0{end}"],
            transports=[WebSocket(server=self_signed("localhost") if end == "/tls/ws" else None)],
            securities=[SECURITIES["noise"]()],
            muxers=[MUXERS[muxer]()],
        ) as switch,
        open_pubsub(switch) as pubsub,
    ):
        switch.mount(EXCHANGE, exchange.serve)
        yield Node(switch, pubsub, exchange)


@asynccontextmanager
async def open_pair(end: str, muxer: str) -> AsyncIterator[tuple[Node, Page, Connection]]:
    """Our node and a page that has dialled it; at the end the browser is closed, and nothing of it may be left here."""
    async with open_node(end, muxer) as node, node.switch.watch() as events:
        async with open_browser() as browser:
            connection = await node.dialled_by(browser.page, muxer)
            yield node, browser.page, connection
        gone = await next_event(events, Disconnected)
        assert gone.connection is connection
        assert gone.reason.code in GONE
        await connection.closed.wait()
        assert not any(node.switch._establisher.in_use().values())


def held(node: Node) -> dict[str, int]:
    """What our switch holds; not memory, which each ping of the bystander takes and gives back."""
    return {name: count for name, count in node.switch._establisher.in_use().items() if name != "memory"}


@ways
async def test_identify_and_ping(end: str, muxer: str) -> None:
    with trio.fail_after(2 * PATIENCE):
        async with open_pair(end, muxer) as (node, page, connection):
            shown = await page.ask("shown")
            assert shown["peer id"] == str(node.switch.peer)
            assert shown["agent"] == SwitchConfig().agent
            assert shown["protocol version"] == SwitchConfig().protocol_version
            assert set(shown["protocols"].split()) == {
                IDENTIFY_PROTOCOL,
                PUSH_PROTOCOL,
                PING_PROTOCOL,
                EXCHANGE,
                *PROTOCOLS,
            }
            assert shown["addresses"].split() == [str(each) for each in node.switch.addresses]
            assert shown["observed"] == str(connection.remote)
            info = connection.info
            assert isinstance(info, IdentifyInfo)
            assert info.agent is not None
            assert info.agent.startswith("js-libp2p/") and "Chrome" in info.agent
            assert info.protocols is not None
            assert {PING_PROTOCOL, ECHO_PROTOCOL, "/meshsub/1.2.0"} <= set(info.protocols)

            times = await page.ask("ping", count=10)
            assert len(times) == 10 and min(times) > 0
            async with await connection.open_stream(PING_PROTOCOL) as stream:
                assert await ping(stream, ENTROPY) > 0


@ways
async def test_ten_megabytes_both_ways(end: str, muxer: str) -> None:
    """At once on a stream of the page's; there and back on one of ours."""
    with trio.fail_after(2 * PATIENCE):
        async with open_pair(end, muxer) as (node, page, connection):
            told = await page.ask("exchange", protocol=EXCHANGE, size=SIZE)
            await node.exchange.ended.wait()
            assert told["received"] == {"size": SIZE, "sha256": digest(DATA)}
            assert told["sent"] == {"size": node.exchange.received, "sha256": node.exchange.sha256}
            assert (node.exchange.received, node.exchange.outcome) == (SIZE, [])

            async with await connection.open_stream(ECHO_PROTOCOL) as stream, trio.open_nursery() as nursery:

                async def say() -> None:
                    await stream.send_all(DATA)
                    await stream.send_eof()

                nursery.start_soon(say)
                assert digest(await read_all(stream)) == digest(DATA)


@ways
async def test_gossip(end: str, muxer: str) -> None:
    """A second copy of a message would come before the last one."""
    with trio.fail_after(2 * PATIENCE):
        async with open_pair(end, muxer) as (node, page, connection), node.pubsub.subscribe(TOPIC) as messages:
            await node.pubsub.wait_for_peers(TOPIC)
            ours = [os.urandom(size) for size in SIZES]
            for data in ours:
                assert not (await node.pubsub.publish(TOPIC, data)).expired
            heard = await page.ask("messages", count=len(ours))
            author = str(node.switch.peer)
            assert heard == [{"size": len(data), "sha256": digest(data), "from": author} for data in ours]

            published = await page.ask("publish", topic=TOPIC, sizes=SIZES)
            theirs = []
            async for message in messages:
                if message.source is not None:
                    assert message.source == connection.peer == pyp2p.PeerId.from_bytes(message.author)
                    theirs.append({"size": len(message.payload), "sha256": digest(message.payload)})
                if len(theirs) == len(SIZES):
                    break
            assert theirs == published
            assert len(await page.ask("messages", count=len(ours))) == len(ours)


@pytest.mark.parametrize("way", ["left", "closed", "killed"])
async def test_a_page_that_goes_in_the_middle(way: str) -> None:
    """Our side ends with a clear error, holds nothing of it any more, and another connection answers throughout."""
    pings = 0
    answered = trio.lowlevel.ParkingLot()

    async def keep_pinging(stream: MuxedStream) -> None:
        nonlocal pings
        while True:
            with trio.fail_after(SOON):
                await ping(stream, ENTROPY)
            pings += 1
            answered.unpark_all()

    async def go(browser: Browser, nursery: trio.Nursery) -> None:
        if way == "left":
            nursery.start_soon(browser.page.ask, "leave")
        elif way == "closed":
            await browser.close()
        else:
            browser.kill()

    with trio.fail_after(2 * PATIENCE):
        async with (
            open_node() as node,
            pyp2p.open_switch(transports=[WebSocket()], securities=[SECURITIES["noise"]()]) as other,
            await other.open_stream(address(node.switch), PING_PROTOCOL) as stream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(keep_pinging, stream)
            await answered.park()
            (bystander,) = node.switch.connections()
            before = held(node)
            async with node.switch.watch() as events, open_browser() as browser:
                connection = await node.dialled_by(browser.page, "yamux")
                exchange = node.exchange
                exchange.times = 1_000  # both directions are in the middle
                nursery.start_soon(lambda: browser.page.ask("exchange", protocol=EXCHANGE, size=SIZE, stop=HALF))
                await exchange.half.wait()
                await go(browser, nursery)
                with trio.fail_after(SOON):
                    await exchange.ended.wait()
                    gone = await next_event(events, Disconnected)
                    await connection.closed.wait()
                assert gone.connection is connection
                assert gone.reason.code in GONE
                assert gone.reason.by in ("peer", "network")
                assert exchange.received == HALF
                assert len(exchange.outcome) == 2  # of who sent and of who read
                assert held(node) == before
            seen = pings
            while pings < seen + 10:
                await answered.park()
            assert node.switch.connections() == [bystander]
            nursery.cancel_scope.cancel()
