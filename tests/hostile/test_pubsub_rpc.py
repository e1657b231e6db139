"""RPCs that are too much or no RPCs: cases 61 to 63, 76 and 77."""

import pytest
import trio

from pyp2p.io.varint import encode, prefixed
from pyp2p.pubsub.filters import only_topics
from pyp2p.pubsub.ids import eth2_phase0_message_id
from pyp2p.pubsub.params import Thresholds, eth2_params
from pyp2p.pubsub.signing import StrictNoSign
from pyp2p.pubsub.wire import idontwant_fragments, ihave_fragments
from pyp2p.testing import Sim, simulated
from tests.hostile.gossip import QUIET, Gossip, control, field, gossip, memory_below, publish
from tests.pubsub.support import TOPIC, subscription
from tests.switch.support import until

pytestmark = pytest.mark.hostile

MIB = 1024 * 1024


def topics_of(talk: Gossip) -> int:
    return len(talk.victim._router.table.get(talk.attacker.peer).topics)


@pytest.mark.parametrize(
    "rpc",
    [
        b"".join(subscription(f"{number}") for number in range(200_000)),
        b"".join(subscription(f"{number}") for number in range(501)),
        subscription("x" * MIB),
        subscription("x" * 1025),
        subscription(""),
        subscription(b"\xff\xfe"),
    ],
    ids=["200,000", "501", "a name of 1 MiB", "a name of 1,025 bytes", "no name", "no UTF-8"],
)
@simulated(seeds=(1,))
async def test_hostile_061_too_many_or_impossible_subscriptions_cost_the_stream(sim: Sim, rpc: bytes) -> None:
    async with gossip(sim) as talk:
        await talk.costs_the_stream(rpc)
        assert topics_of(talk) == 1


@simulated(seeds=(1,))
async def test_hostile_061_subscriptions_that_drip_are_remembered_up_to_a_bound(sim: Sim) -> None:
    async with gossip(sim, every=10) as talk:
        for start in range(0, 20_000, 500):
            await talk.say(b"".join(subscription(f"{number}") for number in range(start, start + 500)))
        await until(lambda: talk.counters["too many subscriptions", ""] == 20_000 - 999)
        assert topics_of(talk) == 1000
        await talk.say(b"".join(subscription(f"{number}", False) for number in range(500)))
        await until(lambda: topics_of(talk) == 500)
    assert len(talk.victim._router.table._topics) == 0


@simulated(seeds=(1,))
async def test_hostile_061_what_the_filter_does_not_allow_takes_no_place(sim: Sim) -> None:
    async with gossip(sim, allows=only_topics([TOPIC, QUIET])) as talk:
        for start in range(0, 5000, 500):
            await talk.say(b"".join(subscription(f"{number}") for number in range(start, start + 500)))
        await until(lambda: talk.counters["subscription filtered", ""] == 5000)
        assert topics_of(talk) == 1


@simulated(seeds=(1,))
async def test_hostile_061_churn_and_the_end_of_what_never_began_change_nothing(sim: Sim) -> None:
    async with gossip(sim) as talk:
        rpc = b"".join(subscription("x", on) for on in (True, False) * 250)
        unknown = b"".join(subscription(f"{number}", False) for number in range(500))
        for _ in range(20):
            await talk.say(rpc, unknown)
        await talk.taken()
        await until(lambda: topics_of(talk) == 1)
        assert talk.score.total == 0


@pytest.mark.parametrize(
    "prefix",
    [
        encode(eth2_params().max_rpc_size + 1),
        encode(2**31),
        encode(2**63),
        b"\xff" * 9 + b"\x01",
        b"\x80" * 11,
    ],
    ids=["one more", "2 GiB", "2**63", "2**64 - 1", "endless"],
)
@simulated(seeds=(1,))
async def test_hostile_062_a_frame_over_the_limit_ends_the_stream_before_it_is_read(sim: Sim, prefix: bytes) -> None:
    async with gossip(sim, params=eth2_params(), message_id=eth2_phase0_message_id, policy=StrictNoSign()) as talk:
        await talk.attacker.out.send_all(prefix)
        await talk.costs_the_stream()


@simulated(seeds=(1,))
async def test_hostile_062_a_claim_within_the_limit_reserves_nothing(sim: Sim) -> None:
    async with gossip(sim) as talk:
        with memory_below(2 * MIB):
            await talk.attacker.out.send_all(encode(4 * MIB) + b"\x12")
            await trio.sleep(5)
        assert talk.scene.victim.connections(talk.attacker.peer)


@pytest.mark.parametrize("count", [1001, 100_000])
@simulated(seeds=(1,))
async def test_hostile_063_empty_messages_are_counted_before_they_are_unpacked(sim: Sim, count: int) -> None:
    async with gossip(sim, every=10) as talk:
        for _ in range(12):
            with memory_below(3 * MIB):
                await talk.costs_the_stream(b"\x12\x00" * count)
        assert talk.victim._router.cache.size < 10_000  # of what friends said
        await until(lambda: talk.score.total < -200)  # graylisted
        before = talk.counters["graylisted", ""]
        await talk.say(talk.message(b"x"))
        await until(lambda: talk.counters["graylisted", ""] > before)
        assert talk.counters["accepted", TOPIC] == 0


@simulated(seeds=(1,))
async def test_hostile_063_only_valid_messages_are_kept_and_remembered(sim: Sim) -> None:
    lenient = Thresholds(gossip=-1e6, publish=-2e6, graylist=-3e6)
    async with gossip(sim, every=10, thresholds=lenient) as talk:
        await trio.sleep(1)
        router = talk.victim._router
        before = router.cache.size, router.seen.size
        forged = [bytearray(talk.message(b"x" * 500 + b"%d" % number)) for number in range(200)]
        for rpc in forged:
            rpc[60] ^= 1
        await talk.say(*map(bytes, forged))
        await until(lambda: talk.counters["rejected", TOPIC] == 200)
        assert (router.cache.size, router.seen.size) == before
        assert talk.score.p4 == 200**2


SIGNED = field(1, b"author") + field(2, b"data") + field(3, bytes(8)) + field(4, TOPIC.encode())


@pytest.mark.parametrize(
    ("rpc", "costs"),
    [
        (b"\x0b\x0c", True),
        (b"\x02\x00", True),
        (b"\x0a\x05abc", True),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", True),
        (b"\x08\x01", True),
        (control(b"\x0b" * 101 + b"\x0c" * 101), True),
        (control(b"\x1a\x03\x0a\x05x"), True),
        (control(field(3, field(1, b"\xff"))), True),
        (field(9, b"") * 65, True),
        (field(9, bytes(MIB)), False),
        (publish(b"\x0b\x0c" + SIGNED), False),
        (publish(SIGNED + field(4, TOPIC.encode())), False),
        (publish(field(2, b"x") + SIGNED), False),
        (publish(field(4, b"\xff")), False),
        (publish(b"\x07"), False),
        (publish(SIGNED[:-1]), False),
        (publish(field(9, b"") * 65 + SIGNED), False),
        (publish(field(1, 5) + field(4, TOPIC.encode())), False),
    ],
    ids=[
        *(
            "group",
            "field 0",
            "truncated",
            "varint",
            "wire type",
            "deep groups",
            "truncated control",
            "graft of no UTF-8",
        ),
        *("unknown fields", "one of 1 MiB", "message: group", "topic twice", "data twice", "no UTF-8", "wire type 7"),
        *("message: truncated", "message: unknown fields", "message: wire type"),
    ],
)
@simulated(seeds=(1,))
async def test_hostile_076_what_is_no_protobuf_is_told_from_what_is_not_known(
    sim: Sim, rpc: bytes, costs: bool
) -> None:
    """A bad RPC costs the stream, a bad message in a good one counts; what we only do not know does neither."""
    async with gossip(sim) as talk:
        if costs:
            await talk.costs_the_stream(rpc)
            return
        await talk.say(rpc)
        await talk.taken()
        harmless = rpc[:1] != b"\x12"
        assert talk.counters["malformed", ""] == (0 if harmless else 1)
        assert (talk.score.p7 > 0) is not harmless
        assert talk.counters["accepted", TOPIC] == 0


@simulated(seeds=(1,))
async def test_hostile_076_an_rpc_that_is_cut_off_counts(sim: Sim) -> None:
    async with gossip(sim) as talk:
        await talk.attacker.out.send_all(prefixed(talk.message(b"x"))[:-1])
        await talk.attacker.out.send_eof()
        await until(lambda: talk.counters["malformed", ""] == 1)
        assert talk.score.p7 > 0


@simulated(seeds=(1,))
async def test_hostile_077_ids_that_would_collide_as_numbers_are_keys_as_bytes(sim: Sim) -> None:
    """Python's hash of an int is its remainder by 2**61 - 1; tables keyed by such ids would be lists."""
    async with gossip(sim) as talk:
        ids = [(number * (2**61 - 1)).to_bytes(20, "big") for number in range(1, 5001)]
        await talk.say(*ihave_fragments(TOPIC, ids), *idontwant_fragments(ids[:1000]))
        await until(lambda: talk.counters["promised", TOPIC])
        router = talk.victim._router
        tables = [*router._promises._open, *router.seen._ids, *router.cache._kept, *router._pending]
        tables += [key for has in router._unwanted._peers.values() for beat in has.beats for key in beat]
        assert len(tables) >= 1000
        assert all(type(key) is bytes for key in tables)
