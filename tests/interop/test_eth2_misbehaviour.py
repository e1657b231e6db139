"""What js-libp2p does wrong when told to, towards a beacon node of ours: our error, and what it costs the peer."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from pyp2p.beacon.containers import BeaconBlocksByRangeRequest, GoodbyeReason
from pyp2p.beacon.events import PeerDisconnected
from pyp2p.errors import DialFailed, NetworkFailure, NotSpoken, PeerDeclined, ProtocolViolation
from pyp2p.reqresp.declare import Deadlines, Method
from tests.interop.eth2 import (
    WAYS,
    Meeting,
    Way,
    address_of,
    forked_chain,
    give_blocks,
    make_blocks,
    meet,
    meeting,
    ours,
    theirs,
    until,
)
from tests.interop.peers import require
from tests.interop.support import next_event

LAST = 10
BLOCKS = "beacon_blocks_by_range"
SINGLE = ("ping", "status_v2", "metadata_v3")
RANGE = "beacon_blocks_by_range_v2"
LOW = pytest.approx(-10, abs=0.5)  # what a broken rule costs

# What a server does, which of our methods meet it, and how many chunks are good before.
VIOLATIONS: list[tuple[dict[str, Any], tuple[str, ...], int]] = [
    ({"kind": "wrong_context"}, (RANGE,), 0),
    ({"kind": "wrong_context", "context": "bellatrix"}, (RANGE,), 0),  # known, but not that of the block's slot
    ({"kind": "wrong_order"}, (RANGE,), 1),
    ({"kind": "garbage_chunk"}, (*SINGLE, RANGE), 0),
    ({"kind": "bad_crc"}, (*SINGLE, RANGE), 0),
    ({"kind": "oversize"}, (*SINGLE, RANGE), 0),
    ({"kind": "oversize", "length": str(2**64 - 1)}, ("ping", RANGE), 0),
    ({"kind": "truncate", "bytes": 9}, (*SINGLE, RANGE), 0),
    ({"kind": "truncate", "chunks": 1, "bytes": 3}, (RANGE,), 1),
    ({"kind": "raw", "hex": "00ffffffffffffffffffff7f"}, ("ping",), 0),  # a length of more than ten bytes
    ({"kind": "raw", "hex": "04"}, ("ping",), 0),  # a reserved result
    ({"kind": "raw", "hex": ""}, ("ping",), 0),  # an end where one chunk is due
]


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    """How they meet; the peer is built."""
    require("js-eth2")
    way: Way = request.param
    return way


async def ask(met: Meeting, name: str, *, seconds: float = 10.0, count: int = 3) -> int:
    """One request, read to its end: how many chunks came. Raises as reading does, with `good` chunks before."""
    methods = met.net.methods
    method: Method[Any, Any] = replace(getattr(methods, name), deadlines=Deadlines(response=seconds))
    request = {
        "ping": 1,
        "status_v2": met.net.status.v2(met.net.clock.period.digest),
        "metadata_v3": None,
        RANGE: BeaconBlocksByRangeRequest(6, count),  # 8 is the first slot of another fork
    }[name]
    good = 0
    try:
        async with await met.net.request(met.peer, method, request) as answer:
            async for _ in answer:
                good += 1
    except (NetworkFailure, ProtocolViolation, PeerDeclined) as error:
        error.add_note(str(good))
        raise
    return good


def good_before(error: BaseException) -> int:
    """How many chunks were good before it."""
    return int(error.__notes__[-1])


async def test_answers_that_break_a_rule_are_violations_and_cost(way: Way, tmp_path: Path) -> None:
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer:
        await give_blocks(peer, make_blocks(chain, LAST), tmp_path)
        for rule, names, good in VIOLATIONS:
            if rule.get("context") == "bellatrix":
                rule = {**rule, "context": chain.schedule[1].digest.hex()}
            for name in names:
                await peer.ask("misbehave", rules=[])
                async with meeting(chain, way, peer) as met:
                    await until(lambda met=met: met.net.peers()[0].metadata is not None, "metadata")
                    assert await ask(met, name) == (3 if name == RANGE else 1) and met.score >= 0
                    await peer.ask("misbehave", rules=[rule])
                    with pytest.raises(ProtocolViolation) as caught:
                        await ask(met, name)
                    assert good_before(caught.value) == good, (rule, name)
                    assert met.score == LOW, (rule, name)


async def test_chunks_beyond_those_asked_for_are_never_given(way: Way, tmp_path: Path) -> None:
    """A violation when they come before we have left: nobody waits for them."""
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer:
        await give_blocks(peer, make_blocks(chain, LAST), tmp_path)
        await peer.ask("misbehave", rules=[{"kind": "too_many_chunks", "extra": 3, "methods": [BLOCKS]}])
        async with meeting(chain, way, peer) as met:
            try:
                good, cost = await ask(met, RANGE), 0.0
            except ProtocolViolation as error:
                good, cost = good_before(error), -10.0
            assert good == 3 and min(met.score, 0.0) == pytest.approx(cost, abs=0.5)


async def test_three_violations_end_it_with_a_goodbye(way: Way, tmp_path: Path) -> None:
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer:
        await give_blocks(peer, make_blocks(chain, LAST), tmp_path)
        await peer.ask("misbehave", rules=[{"kind": "garbage_chunk", "methods": [BLOCKS]}])
        async with meeting(chain, way, peer) as met, met.net.watch() as events:
            await met.connection.identified.wait()
            for _ in range(3):  # two are 20 at the very same moment only: it fades
                with pytest.raises(ProtocolViolation):
                    await ask(met, RANGE)
            with trio.fail_after(30):
                left = await next_event(events, PeerDisconnected)
            assert (left.by, left.goodbye) == ("us", None)
            told = await peer.event(event="request", method="goodbye")
            assert told["value"]["reason"] == GoodbyeReason.BAD_SCORE


async def test_an_error_chunk_is_no_violation_and_its_text_is_escaped(way: Way, tmp_path: Path) -> None:
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer:
        await give_blocks(peer, make_blocks(chain, LAST), tmp_path)
        async with meeting(chain, way, peer) as met:
            for code, text, shown in (
                (1, "no", "no"),
                (2, "", ""),
                (3, "gone \x1b[31m", "gone \\x1b[31m"),
                (139, "x" * 256, "x" * 256),
            ):
                rule = {"kind": "error_chunk", "code": code, "text": text, "chunks": 1}
                await peer.ask("misbehave", rules=[{**rule, "methods": [BLOCKS]}])
                with pytest.raises(PeerDeclined) as caught:
                    await ask(met, RANGE)
                assert (caught.value.code, good_before(caught.value)) == (code, 1)
                assert caught.value.text == shown
            await peer.ask("misbehave", rules=[{"kind": "error_chunk", "text": "x" * 257, "methods": [BLOCKS]}])
            assert met.score >= 0
            with pytest.raises(ProtocolViolation):  # an error text has at most 256 bytes
                await ask(met, RANGE)
            assert met.score == LOW


async def test_stalls_and_resets_are_failures_of_the_network(way: Way, tmp_path: Path) -> None:
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer:
        await give_blocks(peer, make_blocks(chain, LAST), tmp_path)
        async with meeting(chain, way, peer) as met:
            for rule, good in (
                ({"kind": "stall"}, 0),
                ({"kind": "stall", "chunks": 1, "bytes": 7}, 1),
                ({"kind": "drip", "ms": 60_000}, 0),
            ):
                await peer.ask("misbehave", rules=[{**rule, "methods": [BLOCKS]}])
                with pytest.raises(NetworkFailure) as caught:
                    await ask(met, RANGE, seconds=1.0)
                assert good_before(caught.value) == good, rule
            await peer.ask("misbehave", rules=[{"kind": "reset", "chunks": 1, "methods": [BLOCKS]}])
            with pytest.raises(NetworkFailure):
                await ask(met, RANGE)
            await peer.ask("misbehave", rules=[])
            assert await ask(met, RANGE) == 3
            assert met.score >= 0


@pytest.mark.parametrize("kind", ["oversize", "garbage", "bad_crc", "truncate", "extra"])
async def test_a_request_that_is_none_is_declined_and_costs(way: Way, kind: str) -> None:
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer:
        for method in ("ping", BLOCKS):
            async with meeting(chain, way, peer) as met:
                answer = await peer.request(method, misbehave=kind)
                assert (answer["error"]["kind"], answer["error"]["code"]) == ("declined", 1), (method, answer)
                assert met.score == LOW
                assert (await peer.request("ping")).get("error") is None


async def test_requests_that_are_given_up_cost_nothing(way: Way) -> None:
    chain = forked_chain()
    async with theirs(chain, way.theirs, "--timeout-ms", "400") as peer, meeting(chain, way, peer) as met:
        for kind in ("reset", "stall", "no_close"):  # a request without its end is none yet
            assert (await peer.request("ping", misbehave=kind))["error"]["kind"] == "failed"
        assert met.score >= 0
        assert (await peer.request("ping")).get("error") is None


async def test_a_status_of_another_network_ends_in_goodbye_2(way: Way) -> None:
    chain = forked_chain()
    async with theirs(chain, way.theirs) as peer, ours(chain, way.ours) as follower:
        net = follower.net
        if way.we_dial:
            await peer.ask("misbehave", rules=["other_digest"])
            with pytest.raises(DialFailed):
                await meet(net, way, peer)
        else:
            await peer.ask("dial", address=address_of(net, way))
            await peer.request("status/2", misbehave="other_digest")
        told = await peer.event(event="request", method="goodbye")
        assert told["value"]["reason"] == GoodbyeReason.IRRELEVANT_NETWORK
        await peer.event(event="disconnected", peer=str(net.peer))
        assert net.peers() == []


@pytest.mark.parametrize("muxer", ["yamux", "mplex"])
async def test_who_says_no_status_is_told_goodbye(muxer: str) -> None:
    require("js-eth2")
    chain = forked_chain()
    async with theirs(chain, muxer) as peer, ours(chain) as follower:
        await peer.ask("dial", address=str(follower.net.switch.multiaddrs[0]))
        told = await peer.event(event="request", method="goodbye")  # after ten seconds
        assert told["value"]["reason"] == GoodbyeReason.FAULT


async def test_goodbye_at_once(way: Way) -> None:
    chain = forked_chain()
    rule = json.dumps({"kind": "goodbye_at_once", "reason": 129})
    async with theirs(chain, way.theirs, "--misbehave", rule) as peer, ours(chain, way.ours) as follower:
        net = follower.net
        if way.we_dial:
            with suppress(DialFailed), trio.fail_after(30):  # it may come a moment after the status
                await meet(net, way, peer)
        else:
            await peer.ask("dial", address=address_of(net, way))
            await peer.event(event="goodbye_sent")
        await peer.event(event="disconnected", peer=str(net.peer))
        await until(lambda: not net.switch.connections(), "nobody connected")
        assert net.peers() == []


async def test_a_method_that_the_peer_does_not_speak(way: Way) -> None:
    chain = forked_chain()
    async with (
        theirs(chain, way.theirs, "--serve", "status/1,ping/1,goodbye/1") as peer,
        meeting(chain, way, peer, status="status/1") as met,
    ):
        with pytest.raises(NotSpoken):
            await ask(met, RANGE)
        assert await ask(met, "ping") == 1 and met.score >= 0
