"""Published messages that are wrong, huge, repeated or fed to a bad validator: cases 69 to 75, and 77 for checksums."""

import hashlib
from contextlib import AsyncExitStack
from dataclasses import replace
from zlib import crc32

import cramjam
import pytest
import trio

from pyp2p.pubsub.ids import eth2_altair_message_id, eth2_phase0_message_id
from pyp2p.pubsub.params import GossipParams, ScoreParams, TopicScoreParams, eth2_params
from pyp2p.pubsub.signing import StrictNoSign
from pyp2p.pubsub.snappy import MAX_PAYLOAD, Snappy
from pyp2p.pubsub.types import Verdict
from pyp2p.testing import Sim, simulated
from tests.hostile.gossip import field, gossip, memory_below, publish
from tests.pubsub.support import TOPIC, raw_peer
from tests.switch.support import until

pytestmark = pytest.mark.hostile

MIB = 1024 * 1024
UNSIGNED = {"policy": StrictNoSign(), "message_id": eth2_phase0_message_id}
ETH2 = {
    "policy": StrictNoSign(),
    "message_id": eth2_altair_message_id,
    "transform": Snappy(),
    "params": eth2_params(),
}


def unsigned(data: bytes, topic: str = TOPIC) -> bytes:
    """An RPC with a message as nobody signs it."""
    return publish(field(2, data) + field(4, topic.encode()))


@pytest.mark.parametrize("number", [1, 3, 5, 6], ids=["from", "seqno", "signature", "key"])
@pytest.mark.parametrize("value", [b"", b"x" * 8], ids=["empty", "set"])
@simulated(seeds=(1,))
async def test_hostile_069_a_field_of_signed_messages_where_nobody_signs(sim: Sim, number: int, value: bytes) -> None:
    async with gossip(sim, **UNSIGNED) as talk:
        await talk.say(publish(field(number, value) + field(2, b"x") + field(4, TOPIC.encode())))
        await until(lambda: talk.counters["rejected", TOPIC] == 1)
        assert talk.score.p4 == 1
        await talk.say(unsigned(b"x"))  # the true one is not suppressed
        await until(lambda: talk.counters["accepted", TOPIC] == 1)


@pytest.mark.parametrize("topic", ["/eth2/ffffffff/beacon_block/ssz_snappy", "other"])
@simulated(seeds=(1,))
async def test_hostile_069_a_topic_that_is_not_ours_costs_nothing_but_the_look(sim: Sim, topic: str) -> None:
    async with gossip(sim, **UNSIGNED) as talk:
        for number in range(10):
            await talk.say(unsigned(b"%d" % number, topic) * 1000)
        await until(lambda: talk.counters["not subscribed", ""] == 10_000)
        assert talk.score.total == 0
        assert not any(key[1] == topic for key in talk.counters)


@simulated(seeds=(1,))
async def test_hostile_069_the_legacy_list_of_topics_ends_at_its_second_entry(sim: Sim) -> None:
    async with gossip(sim, **UNSIGNED) as talk:
        with memory_below(4 * MIB):
            await talk.say(publish(field(2, b"x") + field(4, TOPIC.encode()) * 50_000))
            await talk.taken()
        assert talk.counters["malformed", ""] == 1
        assert talk.score.p7 == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"\xff\xff\xff\xff\x0f",
        lambda: b"\xff\xff\xff\xff\x0f" + bytes(100_000),
        lambda: bytes(cramjam.snappy.compress_raw(bytes(64 * MIB))),
        lambda: bytes(cramjam.snappy.compress_raw(bytes(MAX_PAYLOAD + 1))),
    ],
    ids=["070: 4 GiB", "070: 4 GiB and some", "071: 64 MiB of zeros", "071: one byte more"],
)
@simulated(seeds=(1,))
async def test_hostile_070_071_what_would_become_too_large_is_never_unpacked(sim: Sim, make) -> None:
    data = make()
    async with gossip(sim, **ETH2) as talk:
        for rpc in (unsigned(data), unsigned(data)):
            with memory_below(8 * MIB + 8 * len(data)):  # copies on their way from the attacker
                await talk.say(rpc)
                await talk.taken()
        await until(lambda: talk.counters["rejected", TOPIC] == 1)
        assert talk.counters["duplicate", TOPIC] == 1
        assert talk.score.p4 == 4  # a copy of what is bad is bad too
        assert talk.counters["accepted", TOPIC] == 0


@pytest.mark.slow
@simulated(seeds=(1,))
async def test_hostile_071_what_was_unpacked_is_paid_for_wherever_it_waits(sim: Sim) -> None:
    """Messages within all limits that become twenty times as large: in the cache, in queues of readers."""
    params = replace(eth2_params(), mcache_bytes=24 * MIB)
    async with (
        gossip(sim, **(ETH2 | {"params": params})) as talk,
        talk.victim.subscribe(TOPIC, max_bytes=24 * MIB) as slow,
    ):
        with memory_below(128 * MIB):  # another reader, who never reads, may have 64 MiB
            for number in range(24):
                await talk.say(unsigned(bytes(cramjam.snappy.compress_raw(bytes([number]) * 8 * MIB))))
                await talk.taken()
                assert talk.victim.gauges()["message cache bytes", ""] <= 24 * MIB
        assert talk.counters["accepted", TOPIC] == 24
        assert slow.dropped == 22


@simulated(seeds=(1,))
async def test_hostile_072_what_is_no_snappy_has_an_id_of_its_own_domain(sim: Sim) -> None:
    async with gossip(sim, **ETH2) as talk:
        bad = b"\x05no snappy"
        await talk.say(unsigned(bad))
        await until(lambda: talk.counters["rejected", TOPIC] == 1)
        name = TOPIC.encode()
        start = b"\x00\x00\x00\x00" + len(name).to_bytes(8, "little") + name
        assert hashlib.sha256(start + bad).digest()[:20] in talk.victim._router.seen
        assert talk.score.p4 == 1
        # What these bytes would be, had they been the payload of another message, is not suppressed.
        await talk.say(unsigned(bytes(cramjam.snappy.compress_raw(bad))))
        await until(lambda: talk.counters["accepted", TOPIC] == 1)


@simulated(seeds=(1,))
async def test_hostile_072_one_payload_in_several_encodings_is_one_message(sim: Sim) -> None:
    payload = b"a" * 40
    packed = bytes(cramjam.snappy.compress_raw(payload))
    literal = bytes([40, 39 << 2]) + payload
    longer = bytes([40 | 0x80, 0]) + packed[1:]
    assert len({packed, literal, longer}) == 3
    async with gossip(sim, **ETH2) as talk, talk.victim.subscribe(TOPIC) as messages:
        await talk.say(unsigned(longer), unsigned(literal), unsigned(packed))
        await until(lambda: talk.counters["duplicate", TOPIC] == 2)
        name = TOPIC.encode()
        start = b"\x01\x00\x00\x00" + len(name).to_bytes(8, "little") + name
        message = await messages.__anext__()
        assert message.payload == payload
        assert message.id == hashlib.sha256(start + payload).digest()[:20]
        assert talk.counters["accepted", TOPIC] == 1
        assert talk.score.p4 == 0


@pytest.mark.slow
@simulated(seeds=(1,))
async def test_hostile_073_one_message_from_a_hundred_peers_is_one_message_and_nobodys_fault(sim: Sim) -> None:
    async with gossip(sim, every=10, lines=300, **UNSIGNED) as talk, AsyncExitStack() as stack:
        peers = [talk.attacker]
        for number in range(99):
            peers.append(await stack.enter_async_context(raw_peer(sim, f"x{number}")))
            await peers[-1].switch.connect(talk.scene.address)
            await peers[-1].open(talk.scene.victim.peer)
        for peer in peers:
            await peer.say(unsigned(b"x" * 2000), unsigned(b"x" * 20))
        await until(lambda: talk.counters["duplicate", TOPIC] == 2 * (len(peers) - 1))
        assert talk.counters["accepted", TOPIC] == 2
        assert all(talk.victim.score(peer.peer).total >= 0 for peer in peers)


@simulated(seeds=(1,))
async def test_hostile_073_a_replay_after_550_heartbeats_is_a_copy_still(sim: Sim) -> None:
    async with gossip(sim, every=60, **ETH2) as talk:
        rpc = unsigned(bytes(cramjam.snappy.compress_raw(b"x")))
        await talk.say(rpc)
        await until(lambda: talk.counters["accepted", TOPIC] == 1)
        for beats in (10, 540):
            await trio.sleep(beats * 0.7)
            await talk.say(rpc)
            await talk.taken()
        assert talk.counters["duplicate", TOPIC] == 2
        assert talk.counters["accepted", TOPIC] == 1
        assert talk.score.total >= 0


@simulated(seeds=(1,))
async def test_hostile_073_junk_pushes_ids_out_and_takes_no_more_room(sim: Sim) -> None:
    params = GossipParams(seen_bytes=400_000, mcache_bytes=400_000)
    async with gossip(sim, every=10, params=params, **UNSIGNED) as talk:
        sizes = []
        for start in range(0, 10_000, 500):
            await talk.say(b"".join(unsigned(b"%d" % number) for number in range(start, start + 500)))
            await talk.taken()
            gauges = talk.victim.gauges()
            sizes.append((gauges["seen bytes", ""], gauges["message cache bytes", ""]))
        assert talk.counters["accepted", TOPIC] == 10_000
        assert max(seen for seen, _ in sizes) < 1.5 * 400_000
        assert max(cached for _, cached in sizes) <= 400_000
        assert gauges["seen evicted", ""] > 5000


async def hang(message) -> Verdict:
    await trio.sleep(60)
    return Verdict.REJECT


def crash(message) -> Verdict:
    raise KeyError(message.payload)


@simulated(seeds=(1,))
async def test_hostile_074_a_validator_that_hangs_keeps_a_bounded_queue_and_blames_nobody(sim: Sim) -> None:
    async with gossip(sim) as talk:
        talk.victim.add_validator(TOPIC, hang, concurrency=10, queue=20, timeout=10)
        await talk.say(*(talk.message(b"%d" % number) for number in range(100)))
        await until(lambda: talk.counters["validation queue full", TOPIC] == 70)
        assert talk.victim.gauges()["awaiting verdict", ""] == 30
        await trio.sleep(31)
        assert talk.counters["validation timed out", TOPIC] == 30
        assert talk.counters["ignored", TOPIC] == 100
        assert talk.score.p4 == 0


@simulated(seeds=(1,))
async def test_hostile_074_a_verdict_after_the_peer_has_gone(sim: Sim) -> None:
    async with gossip(sim) as talk:
        talk.victim.add_validator(TOPIC, hang, timeout=100)
        await talk.say(*(talk.message(b"%d" % number) for number in range(10)))
        await until(lambda: talk.victim.gauges()["awaiting verdict", ""] == 10)
        await talk.attacker.switch.disconnect(talk.scene.victim.peer)
        await until(lambda: talk.attacker.peer not in talk.victim.peers())
        await trio.sleep(60)
        await until(lambda: talk.counters["rejected", TOPIC] == 10)
        await talk.begin()
        assert talk.score.p4 == 0  # it was forgotten as one of whom nothing bad was known


@simulated(seeds=(1,))
async def test_hostile_074_a_validator_that_raises(sim: Sim) -> None:
    async with gossip(sim) as talk:
        talk.victim.add_validator(TOPIC, crash)
        await talk.say(*(talk.message(b"%d" % number) for number in range(200)))
        await until(lambda: talk.counters["ignored", TOPIC] == 200)
        assert talk.score.p4 == 0
        talk.victim.remove_validator(TOPIC)
        await talk.say(talk.message(b"good"))
        await until(lambda: talk.counters["accepted", TOPIC] == 1)


@simulated(seeds=(1,))
async def test_hostile_075_a_member_of_the_mesh_that_forwards_nothing_loses_its_place(sim: Sim) -> None:
    strict = TopicScoreParams(
        mesh_message_deliveries_weight=-1.0, mesh_message_deliveries_activation=5.0, mesh_failure_penalty_weight=-1.0
    )
    score = ScoreParams(topics={TOPIC: strict})
    async with gossip(sim, score=score) as talk:
        await until(lambda: talk.attacker.peer in talk.victim.mesh(TOPIC))
        await until(lambda: talk.attacker.peer not in talk.victim.mesh(TOPIC))
        assert talk.score.total < 0
        assert talk.score.p3b > 0
        assert any(prune.topic == TOPIC for rpc in talk.attacker.heard for prune in rpc.prune)


@simulated(seeds=(1,))
async def test_hostile_075_the_queue_of_a_peer_that_does_not_read_is_bounded_and_gossip_goes_first(sim: Sim) -> None:
    params = GossipParams(queue_bytes=MIB, flood_publish=False)
    async with (
        gossip(sim, deaf=True, params=params, every=0.5) as talk,
        talk.victim.subscribe(TOPIC) as messages,
    ):
        await until(lambda: talk.attacker.peer in talk.victim.mesh(TOPIC))
        most = 0
        for _ in range(40):
            await talk.bystander.publish(TOPIC, bytes(100_000))
            assert len((await messages.__anext__()).payload) == 100_000
            await trio.sleep(0.1)
            most = max(most, talk.victim.gauges()["queued bytes", ""])
        assert 500_000 < most <= MIB
        assert talk.counters["forwarded dropped: queue full", TOPIC] >= 25
        assert talk.counters["disconnected", ""] == 0  # what may be dropped is


@simulated(seeds=(1,))
async def test_hostile_077_a_forged_checksum_makes_no_copy(sim: Sim) -> None:
    """Large copies are found by length and CRC-32: the bytes themselves decide."""
    async with gossip(sim, **UNSIGNED) as talk:
        topic = field(4, TOPIC.encode())
        true = topic + field(2, b"true" + bytes(2000))
        start = topic + field(2, b"evil" + bytes(2000))[:-4]
        evil = start + same_checksum(start, crc32(true))
        assert (len(evil), crc32(evil)) == (len(true), crc32(true))
        for _ in range(3):
            await talk.say(publish(true), publish(evil))
        await until(lambda: talk.counters["duplicate", TOPIC] == 4)
        assert talk.counters["accepted", TOPIC] == 2


def same_checksum(start: bytes, checksum: int) -> bytes:
    """Four bytes after which `start` has this CRC-32: it is linear, so 32 equations of 32 bits."""
    base = crc32(start + bytes(4))
    rows = [(crc32(start + (1 << bit).to_bytes(4, "little")) ^ base, 1 << bit) for bit in range(32)]
    wanted, found = checksum ^ base, 0
    for bit in range(32):
        pivot = next((row for row in rows if row[0] >> bit & 1), None)
        if pivot is None:
            continue
        rows = [(r ^ pivot[0], w ^ pivot[1]) if r >> bit & 1 else (r, w) for r, w in rows if (r, w) != pivot]
        if wanted >> bit & 1:
            wanted ^= pivot[0]
            found ^= pivot[1]
    assert wanted == 0
    return found.to_bytes(4, "little")
