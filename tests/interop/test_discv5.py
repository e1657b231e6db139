"""discv5 with geth and @chainsafe/discv5, whoever asks."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from typing import Any

import pytest
import trio

from pyp2p.discv5.enr import Enr
from pyp2p.discv5.service import Discv5, open_discv5
from pyp2p.errors import NoAnswer
from pyp2p.peer.keys import Identity, KeyType
from tests.interop.peers import Peer, open_peer, run_peer
from tests.interop.test_discv5_peers import know

PATIENCE = 20.0  # seconds: safety only


def identity() -> Identity:
    return Identity.generate(KeyType.SECP256K1, entropy=os.urandom)


@asynccontextmanager
async def ours(ip: str = "127.0.0.1", who: Identity | None = None, port: int = 0, **more: Any) -> AsyncIterator[Discv5]:
    """A node of ours that serves TALKREQ `echo`."""
    async with open_discv5(who or identity(), listen=[(ip, port)], **more) as node:

        async def echo(_: Enr, request: bytes) -> bytes:
            return request

        node.serve(b"echo", echo)
        yield node


def record(peer: Peer) -> Enr:
    return Enr.from_text(peer.address)


async def until(condition) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.02)


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_we_ask_them(discv5: str, ip: str) -> None:
    async with open_peer(discv5, "--ip", ip, "--eth2", "0102", "--attnets", "ff") as peer, ours(ip) as node:
        pong = await node.ping(record(peer))
        assert (ip_address(pong.recipient_ip), pong.recipient_port) == (ip_address(ip), node.endpoints[0].port)
        assert pong.enr_seq == record(peer).seq
        assert await node.find_node(record(peer), [0]) == [record(peer)]
        assert await node.talk(record(peer), b"echo", b"\x0b\xad") == b"\x0b\xad"
        assert await node.talk(record(peer), b"echo", bytes(1000)) == bytes(1000)
        assert await node.talk(record(peer), b"nothing", b"x") == b""
        for _ in range(50):
            await node.ping(record(peer))
        assert node.counters == {}


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_they_ask_us(discv5: str, ip: str) -> None:
    async with ours(ip) as node:
        to = (node.record.text, "--ip", ip)
        for what in (
            ("ping", "--count", "40", "--concurrency", "4"),
            ("sessions", "--count", "20", "--concurrency", "2"),
            ("talkreq", "--size", "1000", "--count", "10"),
            ("findnode", "--distances", "0,254,255,256"),
        ):
            (line,) = await run_peer(discv5, what[0], *to, *what[1:])
            assert not line["fails"], line
        (line,) = await run_peer(discv5, "findnode", *to, "--distances", "0")
        assert [each["enr"] for each in line["answer"]] == [node.record.text]
        (line,) = await run_peer(discv5, "talkreq", *to, "--protocol", "nothing")
        assert line["answer"] == ""
        assert node.counters["bad packets"] == node.counters["bad messages"] == 0
        assert node.counters["handshakes refused"] == 0


async def test_a_session_that_they_lost_is_made_again(discv5: str) -> None:
    key = secrets.token_hex(32)
    async with ours() as node:
        async with open_peer(discv5, "--key", key) as peer:
            await node.ping(record(peer))
            port = record(peer).udp
        async with open_peer(discv5, "--key", key, "--port", str(port)) as peer:
            for _ in range(3):
                await node.ping(record(peer))


async def test_a_session_that_we_lost_is_made_again(discv5: str) -> None:
    who, port = identity(), 0
    async with open_peer(discv5) as peer:
        for _ in range(3):
            async with ours(who=who, port=port) as node:
                port = node.endpoints[0].port
                assert "answer" in await peer.ask(f"ping {node.record.text}")
                assert (await peer.ask(f"talkreq {node.record.text} echo 0bad"))["answer"] == "0bad"
                await node.ping(record(peer))


async def test_who_is_gone_is_told(discv5: str) -> None:
    async with open_peer(discv5) as peer, ours() as node:
        await node.ping(record(peer))
        peer.kill()
        await peer.process.wait()
        with pytest.raises(NoAnswer, match=r"gave no answer to 3 packets"):
            await node.ping(record(peer))


async def test_we_find_nodes_through_them(discv5: str) -> None:
    async with open_peer(discv5, "--fill", "12") as peer:
        nodes = await know(peer, 12)
        async with ours(bootnodes=[peer.address]) as node:
            target = bytes.fromhex(nodes[5]["id"])
            found = await node.lookup(target)
            assert found[0].node_id == target
            assert [each.node_id for each in found] == sorted(
                (each.node_id for each in found), key=lambda each: int.from_bytes(each) ^ int.from_bytes(target)
            )
            known = {each["id"] for each in nodes} | {record(peer).node_id.hex()}
            assert {each.node_id.hex() for each in found} <= known
            assert len(found) > 3
            await until(lambda: node.gauges()["live"] > 3)


async def test_they_find_nodes_through_us(discv5: str) -> None:
    async with ours() as boot, open_peer(discv5, "--bootnodes", boot.record.text) as other:
        await until(lambda: record(other).node_id in {node.node_id for node in boot.nodes()})
        async with open_peer(discv5, "--bootnodes", boot.record.text) as peer:
            with trio.fail_after(PATIENCE):
                # js's lookup never ends when its table is empty at the start.
                while not any(node["live"] for node in (await peer.ask("nodes"))["answer"]):
                    await trio.sleep(0.02)
                while True:
                    answer = (await peer.ask(f"lookup {record(other).node_id.hex()}"))["answer"]
                    if other.address in (each["enr"] for each in answer):  # js gives them in no order
                        break
                    await trio.sleep(0.1)


async def test_a_mixed_network_finds_everybody(discv5: str, other_discv5: str) -> None:
    """We are in the middle; each is found from us, and they find each other."""
    async with ours() as boot:
        flags = ("--bootnodes", boot.record.text)
        async with (
            open_peer(discv5, *flags) as one,
            open_peer(other_discv5, *flags) as two,
            ours(bootnodes=[boot.record]) as node,
        ):
            await until(lambda: {record(one), record(two)} <= set(boot.nodes()))
            for each in (record(one), record(two)):
                assert (await node.lookup(each.node_id))[0] == each
            assert await node.talk(record(one), b"echo", b"x") == await node.talk(record(two), b"echo", b"x") == b"x"


async def test_the_command_walks_a_network_of_theirs(discv5: str) -> None:
    """The bootnode is theirs too, and the walk ends with all of them, the closest first."""
    async with AsyncExitStack() as stack:
        boot = await stack.enter_async_context(open_peer(discv5))
        flags = ("--bootnodes", boot.address)
        peers = [boot, *[await stack.enter_async_context(open_peer(discv5, *flags)) for _ in range(5)]]
        everybody = {record(peer).node_id.hex() for peer in peers}
        command = [sys.executable, "-m", "pyp2p", "discv5", "lookup", "--bootnode", boot.address, "--json"]
        found: set[str] = set()
        with trio.fail_after(6 * PATIENCE):
            for peer in peers[1:]:
                while record(peer).node_id.hex() not in [each["id"] for each in (await boot.ask("nodes"))["answer"]]:
                    await peer.ask(f"ping {boot.address}")  # its first packet may have come to nothing
            # A node of theirs looks around when it starts, and then not for half an hour: who was not there yet is
            # known to the bootnode alone, and found when a random target makes us ask for its distance.
            while found < everybody:
                done = await trio.run_process(command, capture_stdout=True)
                *nodes, totals = [json.loads(line) for line in done.stdout.splitlines()]
                found |= {node["node_id"] for node in nodes}
                distances = [int(node["node_id"], 16) ^ int(totals["target"], 16) for node in nodes]
                assert distances == sorted(distances)
                assert totals["event"] == "lookup" and totals["found"] == len(nodes)
        assert found == everybody
