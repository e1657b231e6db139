"""What the router remembers: caches, backoffs and queues, their order and their bounds."""

from collections import Counter
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.io.varint import LengthPrefixed
from pyp2p.peer.id import PeerId
from pyp2p.pubsub.backoffs import Backoffs
from pyp2p.pubsub.caches import DontWant, MessageCache, Promises, Quota, RawIndex, SeenCache
from pyp2p.pubsub.outbox import BATCH, COMBINED, Outbox
from pyp2p.pubsub.types import Lane, Message
from pyp2p.pubsub.wire import (
    decode_rpc,
    fields,
    graft_fragment,
    idontwant_fragments,
    ihave_fragments,
    publish_fragment,
    subscription_fragments,
)

MIB = 1024 * 1024


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def message(number: int, size: int = 100, topic: str = "t") -> Message:
    data = number.to_bytes(8, "big") + bytes(size - 8)
    return Message(topic, data, data, id=number.to_bytes(20, "big"))


# ---- seen


def test_an_id_is_seen_for_its_time_and_not_much_longer() -> None:
    seen = SeenCache(ttl=64.0, max_bytes=MIB)
    assert seen.add(b"a", 0.0)
    assert not seen.add(b"a", 10.0)
    seen.add(b"b", 0.5)
    seen.expire(64.4)
    assert b"a" in seen
    assert b"b" in seen
    seen.expire(66.0)
    assert b"a" not in seen
    assert len(seen) == seen.size == 0
    assert seen.evicted == 0


def test_a_million_ids_take_no_more_than_the_bound_and_the_oldest_go() -> None:
    seen = SeenCache(ttl=768.0, max_bytes=MIB)
    for number in range(100_000):
        seen.add(number.to_bytes(20, "big"), number / 1000)
    assert seen.size <= MIB
    assert len(seen) > 4_000
    assert seen.evicted == 100_000 - len(seen)
    assert (99_999).to_bytes(20, "big") in seen
    assert (0).to_bytes(20, "big") not in seen


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 30)), max_size=60))
def test_seen_is_a_set_with_a_time_to_live(steps: list[tuple[int, float]]) -> None:
    seen, model, now = SeenCache(ttl=64.0, max_bytes=MIB), {}, 0.0
    for number, pause in steps:
        now += pause
        seen.expire(now)
        must = {n for n, at in model.items() if now - at < 64}
        may = {n for n, at in model.items() if now - at < 66}
        there = {n for n in model if bytes([n]) in seen}
        assert must <= there <= may
        if seen.add(bytes([number]), now):
            model[number] = now
        else:
            assert number in may
    seen.expire(now + 100)
    assert seen.size == 0


def test_large_copies_are_known_by_their_bytes_not_by_a_checksum() -> None:
    index = RawIndex(ttl=10.0, max_bytes=MIB)
    one = bytes(2000)
    forged = _with_checksum(crc32(one), 2000)
    assert crc32(forged) == crc32(one)
    assert forged != one
    index.add(one, b"id", 0.0)
    assert index.find(bytes(2000)) == b"id"
    assert index.find(forged) is None
    index.add(forged, b"other", 1.0)
    assert index.find(one) is None  # it gave way: it is looked at in full again
    index.expire(12.0)
    assert index.find(forged) is None
    assert index.size == 0
    for number in range(100):
        index.add(number.to_bytes(4, "big") + bytes(50_000), b"id", 20.0)
    assert index.size <= MIB


def _with_checksum(wanted: int, size: int) -> bytes:
    """Bytes with this crc32: the last four are chosen (the checksum is linear)."""
    head = b"\x01" + bytes(size - 5)
    base = crc32(head + bytes(4))
    rows = [(crc32(head + (1 << bit).to_bytes(4, "little")) ^ base, 1 << bit) for bit in range(32)]
    target, chosen = wanted ^ base, 0
    for bit in reversed(range(32)):
        pivot = next(row for row in rows if row[0] >> bit & 1)
        rows.remove(pivot)
        rows = [(row[0] ^ pivot[0], row[1] ^ pivot[1]) if row[0] >> bit & 1 else row for row in rows]
        if target >> bit & 1:
            target ^= pivot[0]
            chosen ^= pivot[1]
    return head + chosen.to_bytes(4, "little")


# ---- messages


def test_messages_are_kept_for_five_heartbeats_and_offered_for_three() -> None:
    cache = MessageCache(history=5, gossip=3, max_bytes=MIB)
    cache.put(message(0))
    for beat in range(5):
        assert (cache.gossip_ids("t") == [message(0).id]) is (beat < 3)
        assert cache.for_peer(message(0).id, peer(1)) == (message(0), beat + 1)
        cache.shift()
    assert cache.for_peer(message(0).id, peer(1)) is None
    assert cache.size == len(cache) == 0


def test_requests_are_counted_by_message_and_peer() -> None:
    cache = MessageCache(5, 3, MIB)
    cache.put(message(0))
    cache.put(message(1))
    counts = [cache.for_peer(message(n).id, peer(p))[1] for n, p in ((0, 1), (0, 1), (0, 2), (1, 1))]
    assert counts == [1, 2, 1, 1]


@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 30), st.integers(8, 60_000))), max_size=80))
def test_the_message_cache_stays_within_its_bytes(steps) -> None:
    cache = MessageCache(3, 2, 200_000)
    for step in steps:
        if step is None:
            cache.shift()
        else:
            cache.put(message(*step))
            assert cache.size <= 200_000 or not len(cache)
            assert all(cache.for_peer(each, peer(0)) for each in cache.gossip_ids("t"))
    for _ in range(3):
        cache.shift()
    assert cache.size == len(cache) == 0
    assert cache.gossip_ids("t") == []


# ---- promises, IDONTWANT, quota, backoffs


def test_a_promise_is_kept_by_whoever_brings_the_message() -> None:
    promises = Promises(3.0)
    promises.promise(peer(1), b"a", "t", 0.0)
    promises.promise(peer(1), b"a", "t", 2.0)  # the first deadline holds
    promises.promise(peer(2), b"b", "u", 1.0)
    promises.promise(peer(3), b"c", "t", 1.0)
    assert promises.broken(2.9) == []
    promises.fulfilled(b"b")
    promises.peer_down(peer(3))
    assert promises.broken(3.0) == [(peer(1), "t")]
    assert promises.broken(100.0) == []
    assert len(promises) == 0


def test_a_promise_made_again_has_its_own_deadline() -> None:
    promises = Promises(3.0)
    promises.promise(peer(1), b"a", "t", 0.0)
    promises.peer_down(peer(1))
    promises.promise(peer(1), b"a", "t", 2.0)
    assert promises.broken(4.0) == []
    assert promises.broken(5.0) == [(peer(1), "t")]


def test_idontwant_is_capped_per_heartbeat_and_forgotten_after_three() -> None:
    unwanted = DontWant(3, 5)
    assert unwanted.add(peer(1), [bytes([n]) for n in range(4)]) == 4
    assert unwanted.add(peer(1), [bytes([n]) for n in range(4, 9)]) == 1
    assert [unwanted.unwanted(peer(1), bytes([n])) for n in range(6)] == [True] * 5 + [False]
    assert not unwanted.unwanted(peer(2), b"\x00")
    for beat in range(3):
        unwanted.beat()
        assert unwanted.unwanted(peer(1), b"\x00") is (beat < 2)
    assert unwanted.add(peer(1), [b"x"]) == 1
    unwanted.peer_down(peer(1))
    assert not unwanted.unwanted(peer(1), b"x")


def test_a_quota_begins_anew_with_each_heartbeat() -> None:
    quota = Quota()
    assert [quota.take(peer(1), "ids", 4, 10) for _ in range(4)] == [4, 4, 2, 0]
    assert quota.take(peer(1), "messages", 1, 10) == quota.take(peer(2), "ids", 1, 10) == 1
    quota.beat()
    assert quota.take(peer(1), "ids", 20, 10) == 10


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("asked", "seconds"), [(None, 60), (0, 60), (5, 5), (90, 90), (2**63, 3600), (2**64 - 1, 3600)]
)
def test_hostile_066_backoffs_are_clamped(asked: int | None, seconds: float) -> None:
    backoffs = Backoffs(60.0, 3600.0)
    backoffs.add("t", peer(1), asked, 100.0)
    assert backoffs.until("t", peer(1)) == 100.0 + seconds
    assert backoffs.until("u", peer(1)) is backoffs.until("t", peer(2)) is None


def test_a_backoff_is_extended_never_shortened_and_ends() -> None:
    backoffs = Backoffs(60.0, 3600.0)
    backoffs.add("t", peer(1), 50, 0.0)
    backoffs.add("t", peer(1), 10, 1.0)
    assert backoffs.until("t", peer(1)) == 50.0
    for now in range(100):
        backoffs.add("t", peer(1), None, float(now))
    assert backoffs.until("t", peer(1)) == 159.0
    assert len(backoffs._due) == 1
    backoffs.expire(158.9)
    assert backoffs.active("t", peer(1))
    backoffs.expire(159.0)
    assert not backoffs.active("t", peer(1))
    assert len(backoffs) == len(backoffs._due) == 0


def test_the_number_of_backoffs_is_bounded() -> None:
    backoffs = Backoffs(60.0, 3600.0, max_count=100)
    for number in range(1000):
        backoffs.add("t", peer(number), 60 + number, 0.0)
    assert len(backoffs) == len(backoffs._due) == 100
    assert backoffs.active("t", peer(999))


def test_a_backoff_that_was_extended_does_not_give_way_as_if_it_ended_first() -> None:
    backoffs = Backoffs(60.0, 3600.0, max_count=2)
    backoffs.add("t", peer(1), 10, 0.0)
    backoffs.add("t", peer(2), 20, 0.0)
    backoffs.add("t", peer(1), 100, 1.0)
    backoffs.add("t", peer(3), 50, 2.0)
    assert [backoffs.until("t", peer(n)) for n in (1, 2, 3)] == [101.0, None, 52.0]


# ---- the queue of a peer


def parts(outbox: Outbox) -> list[str]:
    """What the next batch says, in order."""
    batch = outbox.take()
    if batch is None:
        return []
    found, data = [], batch.data
    while data:
        size = shift = at = 0
        while True:
            size |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 0x80:
                break
        rpc, data = decode_rpc(data[at : at + size]), data[at + size :]
        assert size <= COMBINED or len(rpc.publish) == 1
        found += ["subscribe" for _ in rpc.subscriptions] + ["graft" for _ in rpc.graft]
        found += ["idontwant" for _ in rpc.idontwant] + [raw[:1].decode() for raw in rpc.publish]
    return found


def publish(name: str, size: int = 100) -> bytes:
    return publish_fragment(name.encode() + bytes(size))


def test_the_urgent_goes_first() -> None:
    outbox = Outbox(MIB, 100, Counter())
    outbox.offer(Lane.GOSSIP, publish("g"), "t", b"g")
    outbox.offer(Lane.FORWARDED, publish("f"), "t", b"f")
    assert outbox.own(publish("o"), b"o")
    assert outbox.control(graft_fragment("t"))
    assert outbox.control(subscription_fragments([(True, "t")])[0])
    assert parts(outbox) == ["graft", "subscribe", "o", "f", "g"]
    assert parts(outbox) == []
    assert outbox.size == len(outbox) == 0


def test_gossip_and_then_forwarded_messages_give_way_and_are_counted() -> None:
    counters: Counter[tuple[str, str]] = Counter()
    outbox = Outbox(10_000, 100, counters)
    for number in range(5):
        outbox.offer(Lane.GOSSIP, publish("g", 1000), "t", b"g%d" % number)
    for number in range(9):
        outbox.offer(Lane.FORWARDED, publish("f", 1000), "u", b"f%d" % number)
    assert counters == {("gossip dropped: queue full", "t"): 5, ("forwarded dropped: queue full", "u"): 1}
    assert outbox.own(publish("o", 5000), b"o")
    assert counters["forwarded dropped: queue full", "u"] == 6
    assert outbox.size <= 10_000
    assert parts(outbox) == ["o", "f", "f", "f"]


def test_our_own_are_refused_when_there_is_no_room_but_a_single_one_is_not() -> None:
    outbox = Outbox(10_000, 3, Counter())
    assert outbox.own(publish("o", 50_000), b"1")
    assert not outbox.own(publish("o", 10), b"2")
    assert outbox.cancel(b"1")
    assert not outbox.cancel(b"1")
    assert all(outbox.own(publish("o", 10), bytes([n])) for n in range(3))
    assert not outbox.own(publish("o", 10), b"one too many")
    batch = outbox.take()
    assert batch is not None
    assert batch.own == [bytes([n]) for n in range(3)]


@pytest.mark.hostile
def test_hostile_075_control_is_taken_up_to_twice_the_bound() -> None:
    outbox = Outbox(10_000, 100, Counter())
    taken = 0
    while outbox.control(graft_fragment("t" * 100)):
        taken += 1
    assert 10_000 < outbox.size <= 20_000
    said = []
    while more := parts(outbox):
        said += more
    assert said == ["graft"] * taken


def test_what_the_peer_has_is_not_sent() -> None:
    counters: Counter[tuple[str, str]] = Counter()
    outbox = Outbox(MIB, 100, counters)
    for name in "abc":
        outbox.offer(Lane.FORWARDED, publish(name), "t", name.encode())
        outbox.offer(Lane.FORWARDED, publish(name), "t", name.encode())  # it waits already
    outbox.own(publish("d"), b"d")
    outbox.unwanted([b"b", b"d", b"nothing"])
    assert parts(outbox) == ["d", "a", "c"]
    assert counters == {("forwarded dropped: unwanted", "t"): 1}


def test_batches_and_rpcs_are_small_so_that_what_is_urgent_waits_little() -> None:
    outbox = Outbox(MIB * 10, 10_000, Counter())
    for number in range(1000):
        outbox.own(publish("o", 200), number.to_bytes(2, "big"))
    batch = outbox.take()
    assert batch is not None
    assert BATCH <= len(batch.data) < BATCH + 1000
    outbox.control(graft_fragment("t"))
    assert parts(outbox)[0] == "graft"


def test_no_rpc_holds_two_control_messages() -> None:
    """js reads the last one alone."""
    outbox = Outbox(MIB, 100, Counter())
    for number in range(3):
        outbox.offer(Lane.GOSSIP, ihave_fragments(f"t{number}", [b"id"])[0], "t")
        outbox.control(graft_fragment(f"t{number}"))
        outbox.offer(Lane.FORWARDED, publish("m"), "t", bytes([number]))
    batch = outbox.take()
    assert batch is not None
    rpcs = LengthPrefixed(MIB).feed(batch.data)
    assert all(sum(tag == 0x1A for tag, *_ in fields(rpc)) <= 1 for rpc in rpcs)
    said = [decode_rpc(rpc) for rpc in rpcs]
    assert sum(len(rpc.graft) for rpc in said) == sum(len(rpc.ihave) for rpc in said) == 3
    assert sum(len(rpc.publish) for rpc in said) == 3


STEPS = st.lists(
    st.tuples(st.sampled_from(["control", "own", "forwarded", "gossip", "take", "cancel", "unwanted"]),
              st.integers(0, 9), st.integers(0, 3000)), max_size=60)  # fmt: skip


@given(STEPS, st.integers(1000, 20_000), st.integers(1, 12))
def test_whatever_is_done_to_a_queue_its_accounts_are_right(steps, max_bytes: int, max_count: int) -> None:
    outbox = Outbox(max_bytes, max_count, Counter())
    for what, number, size in steps:
        ident = bytes([number])
        if what == "control":
            outbox.control(idontwant_fragments([ident * 20])[0])
        elif what == "own":
            if ident not in outbox._own:  # ids are published once
                outbox.own(publish("o", size), ident)
        elif what in ("forwarded", "gossip"):
            plain = what == "gossip" and not number
            fragment = ihave_fragments("t", [ident])[0] if plain else publish("x", size)
            outbox.offer(Lane[what.upper()], fragment, "t", None if plain else ident)
        elif what == "take":
            parts(outbox)
        elif what == "cancel":
            outbox.cancel(ident)
        else:
            outbox.unwanted([ident])
        assert outbox.size <= max(2 * max_bytes, 3500) + 3500
    while outbox.take():
        pass
    assert outbox.size == len(outbox) == 0
