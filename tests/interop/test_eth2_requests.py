"""Requests and responses between a beacon node of ours and js-libp2p: every method both ways, blocks of all forks."""

from pathlib import Path
from typing import Any

import pytest
import trio

from pyp2p.beacon.containers import BeaconBlocksByRangeRequest, GoodbyeReason
from pyp2p.beacon.events import PeerDisconnected
from tests.interop.eth2 import (
    RANGE,
    ROOT,
    WAYS,
    Way,
    forked_chain,
    give_blocks,
    make_blocks,
    meeting,
    theirs,
)
from tests.interop.peers import require
from tests.interop.support import next_event

LAST = 50  # slot of the newest block: 48 is the first of the last fork
MOST = 128  # MAX_REQUEST_BLOCKS_DENEB: of the fork of now, whichever the blocks are of
CODES = [*GoodbyeReason, 4, 2**64 - 1]  # and one that is reserved, and the largest that there is


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    """How they meet; the peer is built."""
    require("js-eth2")
    way: Way = request.param
    return way


STATUS: dict[str, Any] = {"finalized_root": "aa" * 32, "finalized_epoch": 3, "head_root": "bb" * 32, "head_slot": 30}
METADATA: dict[str, Any] = {
    "seq_number": 9,
    "attnets": "0102000000000080",
    "syncnets": "05",
    "custody_group_count": 8,
}


async def test_what_we_ask(way: Way) -> None:
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer:
        await peer.ask("set", status={**STATUS, "earliest_available_slot": 7}, metadata=METADATA)
        async with meeting(chain, way, peer) as met:
            methods, ask = met.net.methods, met.net.reqresp.ask
            digest = met.net.clock.period.digest
            status = await ask(met.connection, methods.status_v2, met.net.status.v2(digest))
            assert status.earliest_available_slot == 7
            for said in (status, await ask(met.connection, methods.status_v1, met.net.status.v1(digest))):
                assert {name: getattr(said, name) for name in STATUS} == {
                    name: bytes.fromhex(value) if isinstance(value, str) else value for name, value in STATUS.items()
                }
                assert said.fork_digest == chain.at_slot(52).digest
            assert await ask(met.connection, methods.ping, 5) == 9
            asked = await peer.event(event="request", method="ping")
            assert asked["value"] == {"seq_number": 5}
            attnets, syncnets = frozenset({0, 9, 63}), frozenset({0, 2})
            first = await ask(met.connection, methods.metadata_v1, None)
            second = await ask(met.connection, methods.metadata_v2, None)
            third = await ask(met.connection, methods.metadata_v3, None)
            assert (first.seq_number, first.attnets) == (9, attnets)
            assert (second.seq_number, second.attnets, second.syncnets) == (9, attnets, syncnets)
            assert third.custody_group_count == 8 and third.syncnets == syncnets
            # What the node asked by itself is what it knows of the peer.
            (known,) = met.net.peers()
            assert known.status is not None and known.status.head_slot == 30 and known.score >= 0


async def test_what_they_ask(way: Way) -> None:
    chain = forked_chain()
    blocks = make_blocks(chain, LAST)
    async with theirs(chain, way.theirs) as peer, meeting(chain, way, peer, blocks=blocks) as met:
        metadata = met.net.metadata
        bits = sum(1 << each for each in metadata.attnets).to_bytes(8, "little").hex()
        plain = {"seq_number": metadata.seq_number, "attnets": bits}
        ours = met.net.status.v2(met.net.clock.period.digest)
        status = {
            "fork_digest": ours.fork_digest.hex(),
            "finalized_root": ours.finalized_root.hex(),
            "finalized_epoch": ours.finalized_epoch,
            "head_root": ours.head_root.hex(),
            "head_slot": ours.head_slot,
        }
        for method, value in {
            "status/1": status,
            "status/2": {**status, "earliest_available_slot": 0},
            "ping/1": {"seq_number": metadata.seq_number},
            "metadata/1": plain,
            "metadata/2": {**plain, "syncnets": "00"},
            "metadata/3": {**plain, "syncnets": "00", "custody_group_count": metadata.custody_group_count},
        }.items():
            answer = await peer.request(method)
            assert answer.get("error") is None and answer["value"] == value, method
        assert met.score >= 0


async def test_blocks_of_all_forks_that_we_ask_for(way: Way, tmp_path: Path) -> None:
    chain = forked_chain()
    blocks = make_blocks(chain, LAST)
    wanted = [blocks[at] for at in (48, 3, 20)]
    async with theirs(chain, way.theirs) as peer:
        await give_blocks(peer, blocks, tmp_path)
        async with meeting(chain, way, peer) as met:
            methods = met.net.methods
            for start, count in ((0, MOST), (7, 2), (LAST, 9), (LAST + 1, 5)):
                request = BeaconBlocksByRangeRequest(start, count)
                async with await met.net.request(met.peer, methods.beacon_blocks_by_range_v2, request) as answer:
                    got = [chunk async for chunk in answer]
                assert [chunk.ssz for chunk in got] == [b.ssz for b in blocks if start <= b.slot < start + count]
                assert [chunk.digest for chunk in got] == [
                    chain.at_slot(b.slot).digest for b in blocks if start <= b.slot < start + count
                ]
            roots = (*(block.root for block in wanted), bytes(32))
            async with await met.net.request(met.peer, methods.beacon_blocks_by_root_v2, roots) as answer:
                assert [chunk.ssz async for chunk in answer] == [block.ssz for block in wanted]
            assert met.score >= 0


async def test_blocks_of_all_forks_that_they_ask_for(way: Way) -> None:
    chain = forked_chain()
    blocks = make_blocks(chain, LAST)
    async with theirs(chain, way.theirs) as peer, meeting(chain, way, peer, blocks=blocks) as met:
        answer = await peer.request(RANGE, args={"start_slot": 0, "count": MOST})
        assert answer.get("error") is None
        assert [block["slot"] for block in answer["values"]] == list(range(LAST + 1))  # genesis is a block too
        contexts = {block["context"] for block in answer["values"]}
        assert contexts == {period.digest.hex() for period in chain.schedule}
        wanted = [blocks[at] for at in (48, 3, 20)]
        answer = await peer.request(ROOT, args={"roots": [b"\1".hex() * 32, *(block.root.hex() for block in wanted)]})
        assert [block["slot"] for block in answer["values"]] == [block.slot for block in wanted]
        none = await peer.request(RANGE, args={"start_slot": 60, "count": 3})
        assert none["values"] == [] and none.get("error") is None
        assert met.score >= 0
        more = await peer.request(RANGE, args={"start_slot": 0, "count": MOST + 1})
        assert (more["error"]["kind"], more["error"]["code"]) == ("declined", 1)


async def test_their_goodbye_with_each_code(way: Way) -> None:
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer:
        for code in CODES:
            async with meeting(chain, way, peer) as met, met.net.watch() as events:
                await met.connection.identified.wait()
                with trio.fail_after(30):
                    answer = await peer.request("goodbye/1", args={"reason": str(int(code))})
                    assert answer["chunks"] == 0, code
                    left = await next_event(events, PeerDisconnected)
                assert left.goodbye == code


async def test_our_goodbye_with_each_code(way: Way) -> None:
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer:
        for code in CODES:
            async with meeting(chain, way, peer) as met:
                await met.net.disconnect(met.peer, code)
                told = await peer.event(event="request", method="goodbye")
                assert int(told["value"]["reason"]) == code
                await peer.event(event="disconnected", peer=str(met.net.peer))


async def test_a_third_request_at_once_is_refused_and_costs(way: Way) -> None:
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer, meeting(chain, way, peer) as met:
        answer = await peer.request("ping", count=3)
        errors = [result.get("error") for result in answer["results"]]
        assert sorted(error is None for error in errors) == [False, True, True]
        assert next(error for error in errors if error)["kind"] == "failed"  # a reset
        assert met.score == pytest.approx(-10, abs=0.5)
        assert (await peer.request("ping")).get("error") is None


async def test_we_never_have_three_at_once(way: Way, tmp_path: Path) -> None:
    """Five are asked for together: the others wait here."""
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer:
        await give_blocks(peer, make_blocks(chain, LAST), tmp_path)
        await peer.ask("misbehave", rules=[{"kind": "drip", "ms": 5}])
        async with meeting(chain, way, peer) as met:

            async def ask() -> None:
                request = BeaconBlocksByRangeRequest(1, 5)
                async with await met.net.request(
                    met.peer, met.net.methods.beacon_blocks_by_range_v2, request
                ) as answer:
                    assert [chunk async for chunk in answer]

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(ask)
        seen = [await peer.event(event="answered", method="beacon_blocks_by_range") for _ in range(5)]
        assert max(each["concurrent"] for each in seen) <= 3  # the second's end may be told after the third began
