"""The discv5 peers agree with each other: without this a failure against pyp2p could be theirs."""

import secrets
from typing import Any

import pytest
import trio

from tests.interop.peers import Peer, PeerFailed, open_peer, run_peer

PATIENCE = 20.0  # seconds: safety only


async def only(peer: str, *arguments: str) -> dict[str, Any]:
    """The one line of a dialling sub-command, of which every request was answered."""
    (line,) = await run_peer(peer, *arguments)
    assert not line["fails"]
    return line


async def know(peer: Peer, count: int) -> list[dict[str, Any]]:
    """Waits until so many live nodes are in the peer's table, and no others."""
    with trio.fail_after(PATIENCE):
        while True:
            nodes: list[dict[str, Any]] = (await peer.ask("nodes"))["answer"]
            if len(nodes) == count and all(node["live"] for node in nodes):
                return nodes
            await trio.sleep(0.05)


async def answer(peer: Peer, question: str) -> Any:
    """What a listener is told by the node that it asks; it asks again: a second is short on a busy machine."""
    with trio.fail_after(PATIENCE):
        while True:
            line = await peer.ask(question)
            if "answer" in line:
                return line["answer"]


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_every_request_is_answered(discv5: str, other_discv5: str, ip: str) -> None:
    async with open_peer(discv5, "--ip", ip, "--eth2", "0102", "--attnets", "ff") as peer:
        to = (peer.address, "--ip", ip)
        self = (await peer.ask("self"))["answer"]
        assert (self["enr"], self["ip"]) == (peer.address, ip)
        ping = await only(other_discv5, "ping", *to, "--count", "40", "--concurrency", "4")
        assert (ping["n"], ping["concurrency"]) == (40, 4)
        assert (ping["answer"]["ip"], ping["answer"]["seq"]) == (ip, self["seq"])
        record = (await only(other_discv5, "enr", *to))["answer"]
        assert record == {key: self[key] for key in ("id", "enr", "seq")}
        assert (await only(other_discv5, "findnode", *to, "--distances", "0"))["answer"] == [record]
        await only(other_discv5, "talkreq", *to, "--size", "1000", "--count", "10")
        assert (await only(other_discv5, "talkreq", *to, "--protocol", "nothing"))["answer"] == ""
        assert (await only(other_discv5, "sessions", *to, "--count", "10", "--concurrency", "2"))["n"] == 10


async def test_a_lookup_finds_a_node_through_another(discv5: str, other_discv5: str) -> None:
    async with open_peer(discv5, "--fill", "8") as peer:
        nodes = await know(peer, 8)
        target = nodes[0]["id"]
        found = (await only(other_discv5, "lookup", peer.address, "--target", target))["answer"]
        ids = [node["id"] for node in found]
        assert target in ids
        if other_discv5 != "js-discv5":  # which sorts what it found by no order
            assert ids == sorted(ids, key=lambda node: int(node, 16) ^ int(target, 16))
        assert set(ids) <= {node["id"] for node in [*nodes, (await peer.ask("self"))["answer"]]}


async def test_listeners_ask_each_other(discv5: str, other_discv5: str) -> None:
    async with open_peer(discv5) as peer, open_peer(other_discv5, "--bootnodes", peer.address) as other:
        assert (await know(peer, 1))[0]["enr"] == other.address
        assert await answer(peer, f"talkreq {other.address} echo 0badcafe") == "0badcafe"
        assert (await answer(other, f"enr {peer.address}"))["enr"] == peer.address
        pong = await answer(other, f"ping {peer.address}")
        assert pong["port"] == (await other.ask("self"))["answer"]["port"]
        assert "error" in await peer.ask("ping enr:nothing")


async def test_a_peer_that_comes_back_has_lost_its_sessions(discv5: str, other_discv5: str) -> None:
    key = secrets.token_hex(32)
    async with open_peer(other_discv5) as asker:
        async with open_peer(discv5, "--key", key) as peer:
            before = (await peer.ask("self"))["answer"]
            await answer(asker, f"ping {peer.address}")
        async with open_peer(discv5, "--key", key, "--port", str(before["port"])) as peer:
            assert (await peer.ask("self"))["answer"]["id"] == before["id"]
            await answer(asker, f"ping {before['enr']}")


async def test_a_listener_ends_with_its_standard_input(discv5: str) -> None:
    async with open_peer(discv5) as peer:
        assert peer.process.stdin is not None
        await peer.process.stdin.aclose()
        with trio.fail_after(PATIENCE):
            assert await peer.process.wait() == 0
    with pytest.raises(PeerFailed):
        await run_peer(discv5, "ping", peer.address)
