"""RPCs that no honest peer sends, against a whole node: hostile cases 61 to 66, 68, 69, 76, 77."""

import re
from pathlib import Path

import pytest
import trio

from pyp2p import GossipParams
from pyp2p.io.varint import encode, prefixed
from pyp2p.pubsub.types import Prune
from pyp2p.pubsub.wire import (
    frame,
    graft_fragment,
    idontwant_fragments,
    ihave_fragments,
    iwant_fragments,
    prune_fragment,
    publish_fragment,
    subscription_fragments,
)
from pyp2p.testing import Sim, simulated
from tests.hostile.gossip_arena import TOPIC, gossip_arena
from tests.switch.support import until

pytestmark = pytest.mark.hostile


def field(number: int, body: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + prefixed(body)


def message(text: bytes, topic: str = TOPIC, **more: bytes) -> bytes:
    """An unsigned message; `more` by field number, like f1=b"author"."""
    extra = b"".join(field(int(name[1:]), body) for name, body in more.items())
    return publish_fragment(field(2, text.ljust(20, b"_")) + field(4, topic.encode()) + extra)


def ids(count: int, start: int = 0) -> list[bytes]:
    return [n.to_bytes(20, "big") for n in range(start, start + count)]


def subscription(topic: bytes, on: bool = True) -> bytes:
    return field(1, (b"\x08\x01" if on else b"\x08\x00") + field(2, topic))


MALFORMED = {
    "501 subscriptions": subscription(b"t") * 501,
    "a topic of 1 MiB": subscription(bytes(1 << 20)),
    "a topic that is not UTF-8": subscription(b"\xff\xfe"),
    "no topic": subscription(b""),
    "100,000 empty messages": field(2, b"") * 100_000,
    "1,001 messages": field(2, field(4, b"t")) * 1001,
    "5,001 ids offered": field(3, field(1, field(1, b"news") + field(2, b"id") * 5001)),
    "5,001 ids asked for": field(3, field(2, field(1, b"id") * 5001)),
    "an empty id": field(3, field(2, field(1, b""))),
    "an id of 1 MiB": field(3, field(2, field(1, bytes(1 << 17)))),
    "10,000 grafts": field(3, field(3, field(1, b"t"))) * 10_000,
    "control of 1 MiB": field(3, field(5, field(1, bytes(1000))) * 1100),
    "a group": b"\x0b\x0c",
    "field 0": b"\x02\x00",
    "a field cut off": b"\x12\x7f",
    "a varint of eleven bytes": b"\x28" + b"\xff" * 11,
    "publish as a number": b"\x10\x01",
    "a MiB of unknown fields": b"\x78\x01" * (1 << 19),
    "nested 200 deep": field(3, b"\x3b" * 200),
}


@pytest.mark.parametrize("name", MALFORMED)
@simulated(seeds=(1,))
async def test_hostile_061_063_064_065_076_a_malformed_rpc_costs_its_stream_and_is_counted(sim: Sim, name) -> None:
    async with gossip_arena(sim) as arena:
        await arena.evil.listen()
        await arena.evil.say(MALFORMED[name])
        await arena.punished()
        await until(lambda: arena.evil.was_reset)
        assert arena.a.counters["malformed", ""] == 1
        await arena.check_bystander()
        await arena.evil.listen()  # the connection is still there
        await until(lambda: arena.evil.peer in arena.a.peers(TOPIC))


@simulated(seeds=(1,))
async def test_hostile_063_bursts_of_empty_messages_end_in_the_graylist(sim: Sim) -> None:
    async with gossip_arena(sim) as arena:
        for _ in range(12):
            await arena.evil.say(field(2, b"") * 100_000)
            await until(lambda: arena.evil.was_reset)
        assert arena.score.total < -200
        assert arena.a.counters["malformed", ""] == 12
        await arena.evil.say(message(b"hello"))
        await until(lambda: arena.a.counters["graylisted", ""] == 1)


@simulated(seeds=(1,))
async def test_hostile_061_a_drip_of_subscriptions_is_bounded_and_freed(sim: Sim) -> None:
    async with gossip_arena(sim) as arena:
        for start in range(0, 5000, 100):
            await arena.evil.say(*subscription_fragments([(True, f"made up {n}") for n in range(start, start + 100)]))
        await until(lambda: arena.a.counters["too many subscriptions", ""] == 4000)
        table = arena.a._router.table
        assert len(table.get(arena.evil.peer).topics) == 1000
        for _ in range(50):
            await arena.evil.say(*[subscription(b"churn", on) for on in (False, True) * 100])
            await arena.evil.say(*[subscription(b"never heard of", False)] * 100)
        await arena.check_bystander()
        await arena.evil.switch.disconnect(arena.scene.victim.peer)
        await until(lambda: arena.evil.peer not in arena.a.peers())
        assert list(table._topics) == [TOPIC]


@pytest.mark.parametrize("claim", [4 * 1024 * 1024 + 1, 2**31, 2**63, 2**64 - 1])
@simulated(seeds=(1,))
async def test_hostile_062_a_frame_over_the_limit_is_refused_by_its_length(sim: Sim, claim: int) -> None:
    async with gossip_arena(sim) as arena:
        await arena.evil.write(encode(claim) + b"\x00" * 100)
        await until(lambda: arena.evil.was_reset)
        await arena.punished()


@simulated(seeds=(1,))
async def test_hostile_064_offers_and_wishes_are_capped(sim: Sim) -> None:
    async with gossip_arena(sim) as arena:
        await arena.evil.listen()
        await until(lambda: arena.evil.heard)
        done = await arena.a.publish(TOPIC, b"asked for too often")
        for _ in range(10):
            await arena.evil.say(*iwant_fragments([done.message.id] * 100))
            await arena.evil.say(*iwant_fragments(ids(1000)))
        await trio.sleep(0.3)
        copies = [raw for rpc in arena.evil.heard for raw in rpc.publish if b"asked for too often" in raw]
        assert 0 < len(copies) <= 1 + 3
        for number in range(20):
            await arena.evil.say(*idontwant_fragments(ids(100, 100 * number)))
        await until(lambda: arena.a.counters["too many idontwant", ""] >= 10)
        await trio.sleep(1.05)  # into the middle between two heartbeats
        arena.evil.heard.clear()
        for number in range(100):
            await arena.evil.say(*ihave_fragments(TOPIC, ids(500, 500 * number)))
        await trio.sleep(0.3)
        asked = [rpc.iwant for rpc in arena.evil.heard if rpc.iwant]
        assert 0 < sum(map(len, asked)) <= 5000
        assert arena.a.counters["too many ihave", ""] == 90
        await arena.punished()  # it never sends what it offered


@simulated(seeds=(1,))
async def test_hostile_064_ids_of_a_wrong_length_are_no_ids(sim: Sim) -> None:
    async with gossip_arena(sim, params=GossipParams(message_id_bytes=20)) as arena:
        await arena.evil.listen()
        for size in (1, 19, 21, 1000):
            await arena.evil.say(*ihave_fragments(TOPIC, [bytes(size)]), *iwant_fragments([bytes(size)]))
            await arena.evil.say(*idontwant_fragments([bytes(size)]))
        await until(lambda: arena.a.counters["malformed", ""] >= 6)
        assert not [rpc for rpc in arena.evil.heard if rpc.iwant]


@simulated(seeds=(1,))
async def test_hostile_065_grafts_that_break_the_rules(sim: Sim) -> None:
    async with gossip_arena(sim) as arena:
        await arena.evil.say(graft_fragment("unknown topic"))
        await until(lambda: arena.a.counters["graft of unknown topic", ""] == 1)
        assert not [rpc for rpc in arena.evil.heard if rpc.prune or rpc.graft]
        await arena.evil.listen()
        await arena.evil.say(graft_fragment(TOPIC))
        await until(lambda: arena.evil.peer in arena.a.mesh(TOPIC))
        for _ in range(5):  # flapping: the backoff begins with our own prune
            await arena.evil.say(prune_fragment(Prune(TOPIC, [], 60)))
            await arena.evil.say(graft_fragment(TOPIC))
        await until(lambda: arena.a.counters["graylisted", ""])  # each costs twice: it comes so soon after the prune
        assert arena.a.counters["graft refused", TOPIC] >= 3
        assert arena.behaviour() >= 5
        assert arena.evil.peer not in arena.a.mesh(TOPIC)
        assert [rpc.prune[0].topic for rpc in arena.evil.heard if rpc.prune][:3] == [TOPIC] * 3
        await arena.check_bystander()
        await trio.sleep(55)
        assert arena.evil.peer not in arena.a.mesh(TOPIC)
        assert not [rpc for rpc in arena.evil.heard if rpc.graft]  # we do not graft inside the backoff either


@pytest.mark.parametrize("backoff", [2**64 - 1, 2**63, 0, None])
@simulated(seeds=(1,))
async def test_hostile_066_067_no_backoff_is_too_large_for_an_hour_of_heartbeats(sim: Sim, backoff) -> None:
    async with gossip_arena(sim) as arena:
        await arena.evil.listen()
        await until(lambda: arena.evil.peer in arena.a.mesh(TOPIC))
        pruned_at = trio.current_time()
        await arena.evil.say(prune_fragment(Prune(TOPIC, [], backoff)))
        await until(lambda: arena.evil.peer not in arena.a.mesh(TOPIC))
        longest = 3600 if backoff else 60
        until_then = arena.a._router.mesh.backoffs.until(TOPIC, arena.evil.peer)
        assert abs(until_then - pruned_at - longest) < 1
        arena.evil.heard.clear()
        await trio.sleep(longest - 5)
        assert not [rpc for rpc in arena.evil.heard if rpc.graft]
        await trio.sleep(10)
        assert [rpc for rpc in arena.evil.heard if rpc.graft]  # and then it is welcome again
        await arena.check_bystander()


@pytest.mark.parametrize("do_px", [False, True])
@simulated(seeds=(1,))
async def test_hostile_068_offered_peers_are_not_dialled_for_a_stranger(sim: Sim, do_px: bool) -> None:
    async with gossip_arena(sim, params=GossipParams(do_px=do_px)) as arena:
        await arena.evil.listen()
        offers = [(b"\x12\x20" + n.to_bytes(32, "big"), b"" if n % 2 else b"no record") for n in range(200)]
        offers.append((arena.scene.victim.peer.raw, b""))
        body = b"".join(field(2, field(1, peer) + field(2, record)) for peer, record in offers)
        await arena.evil.say(field(3, field(4, field(1, TOPIC.encode()) + body)))
        await trio.sleep(5)
        assert {connection.peer for connection in arena.scene.victim.connections()} == {
            arena.evil.peer,
            arena.scene.bystander.peer,
        }


@simulated(seeds=(1,))
async def test_hostile_069_what_an_unsigned_topic_must_not_carry(sim: Sim) -> None:
    async with gossip_arena(sim) as arena:
        await arena.evil.listen()
        carried = ({"f1": arena.evil.peer.raw}, {"f3": bytes(8)}, {"f5": bytes(64)}, {"f6": b"key"}, {"f1": b""})
        for number, more in enumerate(carried):
            await arena.evil.say(message(b"bad %d" % number, **more))
        await until(lambda: arena.a.counters["rejected", TOPIC] == len(carried))
        assert arena.score.topics[TOPIC].p4 >= len(carried)
        assert arena.score.total < 0


@simulated(seeds=(1,))
async def test_hostile_069_topics_that_are_not_ours_and_lists_of_topics(sim: Sim) -> None:
    async with gossip_arena(sim) as arena:
        await arena.evil.listen()
        await arena.evil.say(*[message(b"x", f"/eth2/{n:08x}/beacon_block/ssz_snappy") for n in range(900)])
        await until(lambda: arena.a.counters["not subscribed", ""] == 900)
        assert arena.score.total >= 0
        await arena.evil.say(publish_fragment(field(2, b"x") + field(4, b"t") * 50_000))
        await arena.punished()
        assert arena.a.counters["malformed", ""] == 1


@simulated(seeds=(1,))
async def test_hostile_073_copies_cost_nothing_and_nobody(sim: Sim) -> None:
    async with gossip_arena(sim) as arena:
        await arena.evil.listen()
        for _ in range(20):
            await arena.evil.say(*[message(b"again and again")] * 500)
        await until(lambda: arena.a.counters["duplicate", TOPIC] == 9_999)
        assert arena.a.counters["accepted", TOPIC] >= 1
        assert arena.score.total >= 0
        accepted = arena.a.counters["accepted", TOPIC]
        await trio.sleep(100)  # the cache of messages has forgotten it, the ids have not
        await arena.evil.say(message(b"again and again"))
        await until(lambda: arena.a.counters["duplicate", TOPIC] == 10_000)
        assert arena.a.counters["accepted", TOPIC] == accepted


@simulated(seeds=(1,))
async def test_hostile_076_unknown_fields_and_extensions_are_borne(sim: Sim) -> None:
    async with gossip_arena(sim) as arena:
        await arena.evil.say(*subscription_fragments([(True, TOPIC)]), field(3, field(6, b"\x50\x01")))
        await arena.evil.say(b"\x78\x01" * 60, message(b"hello", f9=b"new in 2030"))
        await until(lambda: arena.a.counters["accepted", TOPIC] >= 2)
        assert arena.behaviour() == 0
        await arena.evil.say(field(3, field(6, b"")))  # a second one is misbehaviour
        await until(lambda: arena.behaviour() == 1)


@simulated(seeds=(1,))
async def test_hostile_076_an_rpc_that_comes_byte_by_byte_or_ends_early(sim: Sim) -> None:
    async with gossip_arena(sim) as arena:
        for byte in frame(subscription(TOPIC.encode()) + message(b"slowly")):
            await arena.evil.write(bytes([byte]))
        await until(lambda: arena.a.counters["accepted", TOPIC] >= 2)
        assert arena.behaviour() == 0
        await arena.evil.write(frame(message(b"never whole"))[:-5])
        await arena.evil._stream.send_eof()
        await arena.punished()


def test_hostile_077_no_table_is_keyed_by_a_number_that_a_peer_chose() -> None:
    """Bytes and text are hashed with a secret; numbers are not, and can be made to collide."""
    sources = Path(__file__).parent.parent.parent / "pyp2p" / "pubsub"
    for file in sources.glob("*.py"):
        assert not re.search(r"from_bytes\((?!cls)", file.read_text().replace("PeerId.from_bytes(", "")), file.name
