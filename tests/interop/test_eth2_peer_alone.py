"""The eth2 peer against itself: every method, the blocks, gossip and each way to misbehave, over both muxers.

Without this a failure against pyp2p could be the peer's own. Its lines are in tests/interop/js-eth2/README.md.
"""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.eth2 import Node, node
from tests.interop.peers import RECIPES, PeerFailed, require, run_peer

SHORT = ("--timeout-ms", "400")  # of a client whose server stalls
DIGEST, OTHER = "31681ad1", "0badc0de"
FORKS = "0:01010101,10:02020202"
RANGE, ROOT = "beacon_blocks_by_range/2", "beacon_blocks_by_root/2"
PROTOCOL = "/eth2/beacon_chain/req/{}/ssz_snappy"
SINGLE = ("status/1", "status/2", "ping/1", "metadata/1", "metadata/2", "metadata/3", "goodbye/1")
TOPIC = f"/eth2/{DIGEST}/beacon_block/ssz_snappy"


@pytest.fixture(params=["yamux", "mplex"])
def muxer(request: pytest.FixtureRequest) -> str:
    """Over one muxer alone; the peer is built."""
    require("js-eth2")
    return str(request.param)


@asynccontextmanager
async def pair(muxer: str, *flags: str, client: tuple[str, ...] = ()) -> AsyncIterator[tuple[Node, Node]]:
    """A client and the server (with the flags) that it has dialled."""
    async with node("--muxer", muxer, *flags) as server, node("--muxer", muxer, *client) as dialler:
        dialled = await dialler.ask("dial", address=server.peer.address)
        assert dialled["peer"] == server.peer.peer_id and muxer in dialled["muxer"]
        yield dialler, server


def test_what_is_copied_is_all_there_is() -> None:
    folder = Path(__file__).parent / "js-eth2"
    assert {path.name for path in folder.iterdir() if path.suffix in (".mjs", ".json")} == set(
        RECIPES["js-eth2"].sources
    )


async def test_methods_with_one_chunk_each_way(muxer: str) -> None:
    status = {
        "fork_digest": DIGEST,
        "finalized_root": "aa" * 32,
        "finalized_epoch": 7,
        "head_root": "bb" * 32,
        "head_slot": str(2**64 - 1),
    }
    metadata = {"seq_number": 9, "attnets": "0102030405060708"}
    async with pair(muxer) as (client, server):
        await server.ask(
            "set",
            status={**status, "earliest_available_slot": 5},
            metadata={**metadata, "syncnets": "0f", "custody_group_count": 128},
        )
        expected = {
            "status/1": status,
            "status/2": {**status, "earliest_available_slot": 5},
            "ping/1": {"seq_number": 9},
            "metadata/1": metadata,
            "metadata/2": {**metadata, "syncnets": "0f"},
            "metadata/3": {**metadata, "syncnets": "0f", "custody_group_count": 128},
            "goodbye/1": {"reason": 0},
        }
        for method, value in expected.items():
            answer = await client.request(method, args={"reason": 129} if "goodbye" in method else {})
            assert answer.get("error") is None and answer["value"] == value, method
        own = (await client.ask("set"))["status"]
        for method, value in {
            "status/1": {name: own[name] for name in status},
            "status/2": own,
            "ping/1": {"seq_number": 1},
            "metadata/1": {},
            "metadata/3": {},
            "goodbye/1": {"reason": 129},
        }.items():
            name, version = method.split("/")
            told = await server.event(event="request", method=name, version=int(version))
            assert told["value"] == value, method
        assert (await server.event(event="answered", method="ping"))["half_closed"]


async def test_the_wire_is_that_of_the_spec(muxer: str) -> None:
    """Bytes from the spec's examples, in a raw frame and in a compressed one, and an answer read byte by byte."""
    ssz = (
        "6a95a1a9000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f021d0400000000009f2e6d33a3717ee826353a404ba4618d"
        "1aeeb6879ad7936bce8ed5f46814924d9da0830000000000"
    )
    plain = "54ff060000734e61507059015800006fc2c919" + ssz
    packed = "54ff060000734e61507059005b00006fc2c91954f053" + ssz
    async with pair(muxer) as (client, server):
        for request in (plain, packed):
            answer = await client.ask("raw", protocol=PROTOCOL.format("status/1"), hex=request)
            assert answer["hex"].startswith("0054ff060000734e61507059") and answer["end"] == "end"
            value = (await server.event(event="request"))["value"]
            assert (value["fork_digest"], value["finalized_epoch"], value["head_slot"]) == ("6a95a1a9", 269570, 8626333)
        answer = await client.ask(
            "raw", protocol=PROTOCOL.format("ping/1"), hex="08ff060000734e61507059010c0000eab2043e0500000000000000"
        )
        assert (await server.event(event="request", method="ping"))["value"] == {"seq_number": 5}
        assert len(answer["hex"]) == 2 * (1 + 1 + 10 + 8 + 8)
        assert (await client.ask("raw", protocol=PROTOCOL.format("metadata/2"), hex=""))["hex"].startswith("0011")


async def test_blocks_by_range_and_by_root(muxer: str, tmp_path: Path) -> None:
    ssz = (100).to_bytes(4, "little") + bytes(96) + (40).to_bytes(8, "little") + bytes(1000)
    path = tmp_path / "block.ssz"
    path.write_bytes(ssz)
    async with pair(muxer, "--forks", FORKS, client=("--forks", FORKS)) as (client, server):
        files = [{"path": str(path)}]
        blocks = (await server.ask("blocks", count=20, size=70_000, seed=3, files=files))["blocks"]
        assert [block["slot"] for block in blocks] == [*range(20), 40]
        assert blocks[-1]["root"] == hashlib.sha256(ssz).hexdigest() and blocks[-1]["size"] == len(ssz)
        answer = await client.request(RANGE, args={"start_slot": 8, "count": 4})
        assert [block["slot"] for block in answer["values"]] == [8, 9, 10, 11]
        assert [block["context"] for block in answer["values"]] == ["01010101"] * 2 + ["02020202"] * 2
        assert [block["root"] for block in answer["values"]] == [block["root"] for block in blocks[8:12]]
        assert (await client.request(RANGE, args={"start_slot": 21, "count": 19}))["values"] == []
        assert (await client.request(RANGE, args={"start_slot": 15, "count": 1024}))["chunks"] == 6
        wanted = [blocks[-1]["root"], "00" * 32, blocks[2]["root"]]
        answer = await client.request(ROOT, args={"roots": wanted})
        assert [block["slot"] for block in answer["values"]] == [40, 2]
        answer = await client.request(ROOT, args={"roots": []})
        assert answer["values"] == [] and answer.get("error") is None
        none = await client.request(RANGE, args={"start_slot": 0, "count": 0})
        assert none["error"]["kind"] == "declined" and none["error"]["code"] == 1


async def test_gossip_with_the_ids_of_eth2(muxer: str) -> None:
    data = b"a block" * 100
    phase0 = "/eth2/b5303f2a/voluntary_exit/ssz_snappy"
    flags = ("--phase0-digest", "b5303f2a", "--topic", TOPIC, "--topic", phase0, "--heartbeat-ms", "100")
    async with pair(muxer, *flags, client=flags) as (client, server):
        for topic in (TOPIC, phase0):
            for one in (client, server):
                await one.event(event="graft", topic=topic)
        for sender, receiver, text in ((client, server, data), (server, client, data[::-1])):
            for topic in (TOPIC, phase0):
                sent = await sender.ask("publish", topic=topic, data=text.hex())
                assert sent["recipients"] == 1
                message = await receiver.event(event="message", topic=topic)
                assert message["sha256"] == hashlib.sha256(text).hexdigest() == sent["sha256"]
                assert (message["size"], message["received_from"]) == (len(text), sender.peer.peer_id)
                prefix = b"" if topic == phase0 else len(topic).to_bytes(8, "little") + topic.encode()
                assert message["id"] == hashlib.sha256(b"\1\0\0\0" + prefix + text).digest()[:20].hex()
        # What is no snappy is sent as it is, and refused: the next message is the first that comes.
        assert (await client.ask("publish", topic=TOPIC, data="ff" * 9, raw=True))["recipients"] == 1
        await client.ask("publish", topic=TOPIC, data="0123")
        assert (await server.event(event="message"))["size"] == 2
        assert (await client.ask("mesh", topic=TOPIC))["mesh"] == 1
        await server.ask("unsubscribe", topic=TOPIC)
        assert (await client.event(event="prune", topic=TOPIC))["dir"] == "in"


VIOLATIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"kind": "wrong_context"}, (RANGE,)),
    ({"kind": "wrong_context", "context": "02020202"}, (RANGE,)),  # known, but not that of the block's slot
    ({"kind": "too_many_chunks"}, (*SINGLE, RANGE)),
    ({"kind": "too_many_chunks", "extra": 3}, (RANGE,)),
    ({"kind": "garbage_chunk"}, (*SINGLE, RANGE)),
    ({"kind": "bad_crc"}, (*SINGLE, RANGE)),
    ({"kind": "oversize"}, (*SINGLE, RANGE)),
    ({"kind": "oversize", "length": str(2**64 - 1)}, ("ping/1",)),
    ({"kind": "truncate", "bytes": 9}, (*SINGLE, RANGE)),
    ({"kind": "truncate", "chunks": 1, "bytes": 3}, (RANGE,)),
    ({"kind": "raw", "hex": "00ffffffffffffffffffff7f"}, ("ping/1",)),  # a length of more than ten bytes
]


async def test_what_a_client_takes_for_a_violation(muxer: str) -> None:
    flags = ("--forks", FORKS, "--blocks", "8", "--size", "2000")
    async with pair(muxer, *flags, client=flags) as (client, server):
        for rule, methods in VIOLATIONS:
            for method in methods:
                args = {"start_slot": 0, "count": 3} if method == RANGE else {}
                await server.ask("misbehave", rules=[])
                assert (await client.request(method, args=args)).get("error") is None, method
                await server.ask("misbehave", rules=[rule])
                answer = await client.request(method, args=args)
                assert answer["error"]["kind"] == "violation", (rule, method)
                good = (3 if method == RANGE else 1) if rule["kind"] == "too_many_chunks" else rule.get("chunks", 0)
                assert answer["chunks"] == good, (rule, method)
                told = await server.event(event="request", misbehaviour=rule["kind"])
                assert told["method"] == method.split("/")[0]


async def test_an_error_chunk_with_a_code_and_a_text(muxer: str) -> None:
    async with pair(muxer, "--blocks", "3") as (client, server):
        for code, text in ((1, "no"), (2, ""), (3, "gone \x1b[31m"), (139, "x" * 256), (255, "é")):
            await server.ask("misbehave", rules=[{"kind": "error_chunk", "code": code, "text": text}])
            answer = await client.request("ping")
            assert answer["error"] == {"kind": "declined", "code": code, "text": text}
        await server.ask("misbehave", rules=[{"kind": "error_chunk", "chunks": 2, "hex": "00ff"}])
        answer = await client.request(RANGE, args={"count": 3})
        assert (answer["chunks"], answer["error"]["code"]) == (2, 2)
        await server.ask("misbehave", rules=[{"kind": "error_chunk", "text": "x" * 257}])
        assert (await client.request("ping"))["error"]["kind"] == "violation"


@pytest.mark.parametrize(
    "rule", [{"kind": "stall"}, {"kind": "stall", "chunks": 1, "bytes": 7}, {"kind": "drip", "ms": 60_000}]
)
async def test_a_server_that_stalls_runs_into_our_deadline(muxer: str, rule: dict[str, Any]) -> None:
    async with pair(muxer, "--blocks", "3", client=SHORT) as (client, server):
        await server.ask("misbehave", rules=[rule])
        answer = await client.request(RANGE, args={"count": 3})
        assert answer["error"] == {"kind": "failed", "text": "no whole answer in time"}
        assert answer["chunks"] == rule.get("chunks", 0)


async def test_a_server_that_resets_or_is_slow_or_lies_about_its_order(muxer: str) -> None:
    async with pair(muxer, "--blocks", "3") as (client, server):
        await server.ask("misbehave", rules=[{"kind": "reset", "chunks": 1}])
        assert (await client.request(RANGE, args={"count": 3}))["error"]["kind"] == "failed"
        await server.ask("misbehave", rules=[{"kind": "drip", "ms": 1}])
        assert (await client.request(RANGE, args={"count": 3}))["chunks"] == 3
        await server.ask("misbehave", rules=[{"kind": "wrong_order"}])
        answer = await client.request(RANGE, args={"count": 3})
        assert [block["slot"] for block in answer["values"]] == [2, 1, 0]
        await server.ask("misbehave", rules=[{"kind": "raw", "hex": "", "methods": ["ping"]}, "wrong_order"])
        assert (await client.request("ping"))["chunks"] == 0


async def test_a_status_with_another_fork_digest(muxer: str) -> None:
    async with pair(muxer, "--misbehave", "other_digest") as (client, server):
        for method in ("status/1", "status/2"):
            assert (await client.request(method))["value"]["fork_digest"] == OTHER
            answer = await client.request(method, misbehave={"kind": "other_digest", "digest": "07070707"})
            assert answer.get("error") is None
            assert (await server.event(event="request"))["value"]["fork_digest"] == DIGEST
            assert (await server.event(event="request"))["value"]["fork_digest"] == "07070707"
        assert (await client.request("ping"))["value"] == {"seq_number": 1}


async def test_goodbye_at_once(muxer: str) -> None:
    rule = json.dumps({"kind": "goodbye_at_once", "reason": 128})
    async with pair(muxer, "--misbehave", rule) as (client, server):
        assert (await client.event(event="request", method="goodbye"))["value"] == {"reason": 128}
        await client.event(event="disconnected", peer=server.peer.peer_id)
        assert (await client.try_to("request", method="ping"))["event"] == "error"
    async with node("--muxer", muxer) as server, node("--muxer", muxer, "--misbehave", rule) as client:
        await client.ask("dial", address=server.peer.address)
        assert (await server.event(event="request", method="goodbye"))["value"] == {"reason": 128}


@pytest.mark.parametrize("kind", ["oversize", "garbage", "bad_crc", "truncate"])
async def test_a_server_refuses_a_request_that_is_none(muxer: str, kind: str) -> None:
    async with pair(muxer) as (client, server):
        for method in ("status/2", "ping/1", "goodbye/1", RANGE, ROOT):
            args = {"roots": ["00" * 32] * 3} if method == ROOT else {}
            answer = await client.request(method, misbehave={"kind": kind}, args=args)
            assert answer["error"]["kind"] == "declined" and answer["error"]["code"] == 1, method
            told = await server.event(event="invalid_request")
            assert told["error"] == answer["error"]["text"] and told["method"] == method.split("/")[0]
        assert (await client.request("ping"))["value"] == {"seq_number": 1}


async def test_requests_that_do_not_end_as_they_should(muxer: str) -> None:
    async with pair(muxer, client=SHORT) as (client, server):
        await client.request("ping", misbehave="extra")
        assert (await server.event(event="answered"))["chunks"] == 1
        answer = await client.request("ping", misbehave="no_close")
        assert answer["value"] == {"seq_number": 1}
        await server.event(event="answered")
        for kind in ("stall", "no_read"):
            assert (await client.request("ping", misbehave=kind))["error"]["text"] == "no whole answer in time"
        await server.event(event="request_failed")
        assert (await client.request("ping", misbehave="reset"))["error"]["kind"] == "failed"
        await server.event(event="request_failed")
        answer = await client.request("ping", misbehave={"kind": "raw", "hex": "07"})
        assert answer["error"]["code"] == 1


async def test_a_third_request_at_once(muxer: str) -> None:
    async with pair(muxer) as (client, server):
        for method in ("ping/1", "status/2", RANGE):
            answer = await client.request(method, count=3)
            assert [result.get("error") for result in answer["results"]] == [None] * 3
            seen = [await server.event(event="request", method=method.split("/")[0]) for _ in range(3)]
            assert [event["concurrent"] for event in seen] == [1, 2, 3]


async def test_a_peer_that_serves_few_methods(muxer: str) -> None:
    async with pair(muxer, "--serve", "status/1,ping/1") as (client, server):
        assert (await client.request("status/1")).get("error") is None
        assert (await client.request("status/2"))["error"]["kind"] == "failed"
        told = await client.event(event="identified", peer=server.peer.peer_id)
        assert [name for name in told["protocols"] if "/req/" in name] == [
            PROTOCOL.format("ping/1"),
            PROTOCOL.format("status/1"),
        ]


async def test_benchmarks_as_commands_and_as_programs(muxer: str) -> None:
    flags = ("--muxer", muxer, "--quiet", "--blocks", "16", "--size", "10000")
    async with node(*flags) as server, node("--muxer", muxer) as client:
        await client.ask("dial", address=server.peer.address)
        for concurrency in (1, 2):
            line = await client.ask("bench_ping", count=20, concurrency=concurrency)
            assert (line["n"], line["concurrency"]) == (20, concurrency) and line["per_sec"] > 0
        line = await client.ask("bench_range", count=16, size=10_000)
        assert (line["blocks"], line["bytes"]) == (16, 160_000) and line["MBps"] > 0
        assert (await client.try_to("bench_range", count=17, size=10_000))["event"] == "error"
        to = (server.peer.address, "--muxer", muxer, "--quiet")
        (line,) = await run_peer("js-eth2", "bench_ping", *to, "--count", "20", "--concurrency", "2")
        assert (line["op"], line["n"]) == ("bench_ping", 20)
        lines = await run_peer("js-eth2", "bench_range", *to, "--count", "16", "--size", "10000", "--runs", "2")
        assert [line["bytes"] for line in lines] == [160_000] * 2
        with pytest.raises(PeerFailed):
            await run_peer("js-eth2", "bench_range", *to, "--count", "3")


async def test_what_it_cannot_do_it_says(muxer: str) -> None:
    async with pair(muxer) as (client, server):
        for cmd, command in {
            "nothing": {},
            "request": {"method": "nothing"},
            "misbehave": {"rules": ["nothing"]},
            "blocks": {"count": 1, "size": 1},
            "raw": {"protocol": "/nothing", "hex": ""},
            "dial": {"address": "/nothing"},
        }.items():
            assert (await client.try_to(cmd, **command))["event"] == "error", cmd
        assert (await client.try_to("request", method="ping", misbehave="nothing"))["event"] == "error"
        await client.ask("hangup")
        assert (await client.ask("peers"))["peers"] == []
        await server.event(event="disconnected")
    with pytest.raises(PeerFailed):
        async with node("--misbehave", "nothing"):
            pass
