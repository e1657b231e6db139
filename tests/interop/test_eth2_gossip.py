"""Gossip of blocks between a beacon node of ours that follows a made-up chain and js-libp2p; and a peer of phase 0."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.devchain import make_block
from pyp2p.beacon.follow import CaughtUp, Imported
from pyp2p.pubsub.types import Message
from tests.interop.eth2 import (
    WAYS,
    Meeting,
    Node,
    Way,
    forked_chain,
    give_blocks,
    make_blocks,
    meeting,
    theirs,
    unforked_chain,
    until,
)
from tests.interop.peers import require
from tests.interop.support import next_event

NOW = 52  # the slot when a chain of these tests is made
OLD = ("status/1", "ping/1", "metadata/1", "goodbye/1", "beacon_blocks_by_range/1")


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    """How they meet; the peer is built."""
    require("js-eth2")
    way: Way = request.param
    return way


def block_topic(chain: Chain) -> str:
    return f"/eth2/{chain.at_slot(NOW).digest.hex()}/beacon_block/ssz_snappy"


async def meshed(met: Meeting, peer: Node, topic: str) -> None:
    """Wait until each has the other in its mesh."""
    await until(lambda: len(list(met.net.pubsub.mesh(topic))) == 1, "a mesh of ours")
    with trio.fail_after(30):
        while (await peer.ask("mesh", topic=topic))["mesh"] != 1:
            await trio.sleep(0.05)


def message_id(topic: str, payload: bytes) -> bytes:
    """As the altair spec has it, written down once more."""
    prefix = b"\1\0\0\0" + len(topic).to_bytes(8, "little") + topic.encode()
    return hashlib.sha256(prefix + payload).digest()[:20]


async def next_message(messages: AsyncIterator[Message]) -> Message:
    """The next one that somebody else published."""
    async for message in messages:
        if message.source is not None:
            return message
    raise AssertionError("the subscription ended")


async def exchange_blocks(met: Meeting, peer: Node, topic: str) -> None:
    """A block each way: the ids agree, the followers have both."""
    chain, follower = met.net.chain, met.follower
    await meshed(met, peer, topic)
    async with follower.watch() as news, met.net.pubsub.subscribe(topic) as messages:
        own = await follower.produce_one(met.net.clock.slot)
        assert own is not None
        told = await peer.event(event="message", topic=topic)
        assert told["sha256"] == hashlib.sha256(own.ssz).hexdigest() and told["size"] == len(own.ssz)
        assert told["id"] == message_id(topic, own.ssz).hex()
        assert told["received_from"] == str(met.net.peer)
        imported = await next_event(news, Imported)
        assert (imported.block, imported.how) == (own, "own")

        await met.net.clock.next_slot()
        block = make_block(chain, met.net.clock.slot, own.root)
        sent = await peer.ask("publish", topic=topic, data=block.ssz.hex())
        assert sent["recipients"] == 1
        with trio.fail_after(30):
            imported = await next_event(news, Imported)
            heard = await next_message(messages)
        assert (imported.block, imported.source, imported.how) == (block, met.peer, "gossip")
        assert heard.id == message_id(topic, block.ssz)
        assert follower.tree.head.root == block.root
    assert met.score >= 0


async def test_blocks_both_ways(way: Way) -> None:
    chain = forked_chain()
    topic = block_topic(chain)
    async with theirs(chain, way.theirs, "--topic", topic) as peer:
        blocks = make_blocks(chain, NOW - 2)
        async with meeting(chain, way, peer, blocks=blocks) as met:
            await exchange_blocks(met, peer, topic)


async def test_what_is_no_block_is_rejected_and_costs(way: Way) -> None:
    """The wrong bytes, the block of a fork on the topic of another, and what is no snappy."""
    chain = forked_chain()
    topic = block_topic(chain)
    async with theirs(chain, way.theirs, "--topic", topic) as peer:
        blocks = make_blocks(chain, NOW - 2)
        async with meeting(chain, way, peer, blocks=blocks) as met:
            await meshed(met, peer, topic)
            head = blocks[-1]
            good = make_block(chain, met.net.clock.slot, head.root)
            spoilt = bytearray(good.ssz)
            spoilt[-1] ^= 1
            old = make_block(chain, 47, blocks[45].root)
            for count, (data, raw) in enumerate(((bytes(spoilt), False), (old.ssz, False), (b"\xff" * 9, True)), 1):
                sent = await peer.ask("publish", topic=topic, data=data.hex(), raw=raw)
                assert sent["recipients"] == 1
                await until(lambda n=count: met.net.pubsub.counters["rejected", topic] == n, f"{count} rejected")
            assert met.follower.tree.head.root == head.root
            assert met.net.pubsub.score(met.peer).p4 > 0
            assert met.connection.is_open  # gossip alone ends nothing


async def test_a_block_whose_parent_is_missing_makes_us_fetch_the_rest_by_range(way: Way, tmp_path: Path) -> None:
    """All forks of the chain, in one go."""
    chain = forked_chain()
    topic = block_topic(chain)
    blocks = make_blocks(chain, NOW - 1)
    async with theirs(chain, way.theirs, "--topic", topic) as peer:
        await give_blocks(peer, blocks, tmp_path)
        async with meeting(chain, way, peer) as met, met.follower.watch() as news:
            await meshed(met, peer, topic)
            await peer.ask("publish", topic=topic, data=blocks[-1].ssz.hex())
            with trio.fail_after(30):
                caught = await next_event(news, CaughtUp)
            assert (caught.peer, caught.count, caught.first, caught.last) == (met.peer, NOW - 1, 1, NOW - 1)
            assert met.follower.tree.head.root == blocks[-1].root and met.score >= 0


@pytest.mark.parametrize("meshsub", ["1.0.0", "1.1.0"])
@pytest.mark.parametrize("we_dial", [True, False], ids=["to", "from"])
async def test_a_peer_of_phase0_that_speaks_mplex_alone(meshsub: str, we_dial: bool, tmp_path: Path) -> None:
    """It has no method that is younger than phase 0, and neither yamux nor a newer gossip."""
    require("js-eth2")
    chain = unforked_chain()
    topic = block_topic(chain)
    blocks = make_blocks(chain, NOW - 2)
    flags = ("--topic", topic, "--meshsub", meshsub, "--serve", ",".join(OLD))
    async with theirs(chain, "mplex", *flags) as peer:
        await give_blocks(peer, blocks, tmp_path)
        await peer.ask("set", status={"head_slot": NOW - 2, "head_root": blocks[-1].root.hex()})
        way = Way("both", "mplex", we_dial)
        async with meeting(chain, way, peer, status="status/1") as met:
            await until(lambda: met.follower.tree.head.root == blocks[-1].root, "all blocks, by range/1")
            (known,) = met.net.peers()
            assert known.status is not None and known.status.head_slot == NOW - 2
            await until(lambda: met.net.peers()[0].metadata is not None, "its metadata, by /1")
            assert (await peer.request("ping")).get("error") is None
            assert (await peer.request("metadata/1")).get("error") is None
            told = await peer.event(event="identified", peer=str(met.net.peer))
            assert f"/meshsub/{meshsub}" in told["protocols"]
            await exchange_blocks(met, peer, topic)
            answer = await peer.request("goodbye", args={"reason": 1})
            assert answer["chunks"] == 0
            await until(lambda: not met.net.switch.connections(), "gone")
