"""Pubsub of more than two: a mixed mesh, recovery by gossip alone, IDONTWANT, protocols and many subscriptions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from unittest.mock import patch

import pytest
import trio

from pyp2p.pubsub import service
from pyp2p.pubsub.types import PROTOCOLS
from tests.interop import matrix
from tests.interop.pubsub_support import Node, Ours, Theirs, digest, open_ours, open_theirs, signing

MIXED = ("pyp2p", "go", "rust", "js") * 2
MESSAGES = 20  # of each node
NEWEST = {"go": "/meshsub/1.3.0", "rust": "/meshsub/1.3.0", "js": "/meshsub/1.2.0"}
QUIET = 5.0  # seconds after the last message in which none may come a second time


async def open_node(stack: AsyncExitStack, name: str, sign: str, targets: list[Node]) -> Node:
    """A node of an implementation, which dials the others."""
    if name != "pyp2p":
        flags = [part for target in targets for part in ("--connect", target.address)]
        return await stack.enter_async_context(open_theirs(name, sign, *flags))
    node = await stack.enter_async_context(open_ours(sign))
    for target in targets:
        await node.switch.connect(target.address)
    return node


def everybody(nodes: list[Node]) -> list[Node]:
    """Whom the next node dials so that each is connected to each."""
    return nodes


def ring(nodes: list[Node]) -> list[Node]:
    """Whom the next node dials so that each has two neighbours: what comes from afar went through all."""
    return nodes[-1:] if len(nodes) < len(MIXED) - 1 else [nodes[0], nodes[-1]]


@pytest.mark.parametrize(("sign", "shape", "neighbours", "mesh"), [("strict", everybody, 7, 4), ("eth2", ring, 2, 2)])
async def test_a_mixed_mesh(
    sign: str, shape: Callable[[list[Node]], list[Node]], neighbours: int, mesh: int, go: str, rust: str, js: str
) -> None:
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for name in MIXED:
            nodes.append(await open_node(stack, name, sign, shape(nodes)))
        for node in nodes:
            await node.joined(neighbours, mesh)
        lines = {
            node.peer: [f"random:{10 + 200 * i}:{at * 1_000 + i}" for i in range(MESSAGES)]
            for at, node in enumerate(nodes)
        }
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(node.publish, *lines[node.peer])
        others = {node: [line for peer in lines if peer != node.peer for line in lines[peer]] for node in nodes}
        for node in nodes:
            await node.got(others[node])
        with trio.move_on_after(QUIET):
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(again, node)
        js_peers = [node.peer for node in nodes if node.name == "js"]  # js forwards a message to its author too
        for node in nodes:
            assert node.hashes() == Counter(map(digest, others[node])), node.name
            authors = {digest(line): peer for peer in lines for line in lines[peer]}
            for event in node.all("message"):
                assert event["from"] == (authors[event["sha256"]] if sign == "strict" else None)
            node.check_well(returned_by=js_peers)


async def again(node: Node) -> None:
    """Fails as soon as a message comes to `node` for the second time."""
    await node.told("message", (len(MIXED) - 1) * MESSAGES + 1)
    raise AssertionError(f"{node.name}: {node.events[-1]}")


@signing()
async def test_they_recover_by_gossip_alone(language: str, sign: str) -> None:
    """We push nothing: our messages reach them because we offer them and they ask."""
    async with open_ours(sign, push=False) as ours, open_theirs(language, sign, "--connect", ours.address) as theirs:
        await recover(ours, theirs)


@signing()
async def test_we_recover_by_gossip_alone(language: str, sign: str) -> None:
    """They push nothing."""
    async with open_ours(sign) as ours, open_theirs(language, sign, "--no-push", "--connect", ours.address) as theirs:
        await recover(theirs, ours)


async def recover(author: Node, reader: Node) -> None:
    """What `author` publishes comes by IHAVE, IWANT and its answer, and in no other way."""
    for node in (author, reader):
        await node.joined(1, 0)
    lines = [f"random:{size}:{size}" for size in (10, 500, 40_000)]
    await author.publish(*lines)
    await reader.got(lines)
    assert reader.hashes() == Counter(map(digest, lines))
    for node, other, ihave, iwant in ((author, reader, "out", "in"), (reader, author, "in", "out")):
        for kind, direction in (("ihave", ihave), ("iwant", iwant)):
            told = await node.told(kind, dir=direction, peer=other.peer)
            assert sum(event["count"] for event in told) >= len(lines)
        node.check_well()
    assert not author.all("peers", mesh=1)


@signing()
async def test_idontwant_both_ways(language: str, sign: str) -> None:
    """A line: us - peer - us - us. Who gets a large message tells its other neighbour (never the source) at once."""
    async with AsyncExitStack() as stack:
        first, behind, last = [await stack.enter_async_context(open_ours(sign)) for _ in range(3)]
        theirs = await stack.enter_async_context(open_theirs(language, sign))
        await first.switch.connect(theirs.address)
        await behind.switch.connect(theirs.address)
        await last.switch.connect(behind.address)
        for node, neighbours in ((first, 1), (theirs, 2), (behind, 2), (last, 1)):
            await node.joined(neighbours, neighbours)
        large, other, small = "random:2500:1", "random:2500:2", "random:200:3"
        await first.publish(large)
        assert [event["count"] for event in await behind.told("idontwant", dir="in", peer=theirs.peer)] == [1]
        await theirs.told("idontwant", dir="out", peer=behind.peer)
        await last.publish(other)
        assert [event["count"] for event in await theirs.told("idontwant", dir="in", peer=behind.peer)] == [1]
        await first.told("idontwant", dir="in", peer=theirs.peer)
        await theirs.publish(small)
        for node, lines in ((first, (other, small)), (theirs, (large, other)), (behind, (large, other, small))):
            await node.got(lines)
            assert node.hashes() == Counter(map(digest, lines))
            node.check_well()
        assert len(theirs.all("idontwant", dir="in")) == 1  # nobody said it of the small one


async def test_the_newest_protocol_of_both_is_spoken(language: str) -> None:
    async with open_ours() as ours, open_theirs(language) as theirs:
        connection = await ours.switch.connect(theirs.address)
        await exchange(ours, theirs, mesh=1)
        assert connection.info is not None
        newest = next(name for name in PROTOCOLS if name in (connection.info.protocols or ()))
        assert newest == NEWEST[language]
        assert spoken(ours) == [newest, newest]


@pytest.mark.parametrize("protocol", [f"/meshsub/1.{minor}.0" for minor in (2, 1, 0)])
async def test_an_older_protocol_is_spoken(language: str, protocol: str) -> None:
    """We serve and offer no other."""
    await speak(language, protocol, mesh=1)


@matrix.needs("floodsub")
async def test_floodsub_is_spoken(language: str) -> None:
    await speak(language, "/floodsub/1.0.0", mesh=0)


async def speak(language: str, protocol: str, mesh: int) -> None:
    """A pair where we know only this protocol."""
    with patch.object(service, "PROTOCOLS", {protocol: PROTOCOLS[protocol]}):
        async with open_ours() as ours, open_theirs(language, "strict", "--connect", ours.address) as theirs:
            await exchange(ours, theirs, mesh)
            assert spoken(ours) == [protocol, protocol]


def spoken(ours: Ours) -> list[str]:
    """The protocols of the streams of pubsub that are open."""
    (connection,) = ours.switch.connections()
    names = [stream.protocol for stream in connection.streams.values()]
    return [name for name in names if name in PROTOCOLS]


async def exchange(ours: Ours, theirs: Theirs, mesh: int) -> None:
    """Large and small messages, both ways."""
    for node in (ours, theirs):
        await node.joined(1, mesh)
    lines = ["random:100:1", "random:5000:2"], ["random:100:3", "random:5000:4"]
    await ours.publish(*lines[0])
    await theirs.publish(*lines[1])
    for node, expected in ((theirs, lines[0]), (ours, lines[1])):
        await node.got(expected)
        assert node.hashes() == Counter(map(digest, expected))
        node.check_well()


async def test_of_a_thousand_subscriptions_rust_takes_the_first_hundred(rust: str) -> None:
    """They go out in several RPCs: rust, as it comes, refuses one with more than a hundred, or after the hundredth."""
    names = [f"/eth2/6a95a1a9/beacon_attestation_{number}/ssz_snappy" for number in range(1_000)]
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(open_ours(others=names))
        for at in (0, 99):
            theirs = await stack.enter_async_context(open_theirs(rust, topic=names[at]))
            await ours.switch.connect(theirs.address)
            await theirs.joined(1, 1)
            payload = f"subscription {at}".encode()
            await ours.pubsub.wait_for_peers(names[at])
            await ours.pubsub.publish(names[at], payload)
            await theirs.told("message", sha256=hashlib.sha256(payload).hexdigest(), topic=names[at])
            assert len(theirs.all("message")) == 1
            theirs.check_well()
        ours.check_well()
