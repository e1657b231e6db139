"""What is remembered of messages: for how long, in how many bytes, and that every byte is given back."""

from collections import OrderedDict
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.pubsub import caches
from pyp2p.pubsub.caches import DontWant, MessageCache, Promises, Quota, RawIndex, SeenCache
from pyp2p.pubsub.types import Message
from tests.unit.pubsub.router_support import pid

A, B, C = map(pid, "abc")
TTL = 64.0  # one second for each slot
SLOT_IDS, ID_COST, MESSAGE_COST = caches._SLOT_IDS, caches._ID_COST, caches._MESSAGE_COST


def number(n: int) -> bytes:
    return n.to_bytes(20, "big")


def message(message_id: bytes, topic: str = "t", size: int = 10) -> Message:
    return Message(topic, b"", bytes(size), id=message_id)


# --- seen ids


@pytest.mark.parametrize("offset", [0.0, 0.5, 0.99])
def test_an_id_is_remembered_for_its_whole_time_and_little_longer(offset):
    seen = SeenCache(TTL, 1 << 20)
    seen.add(b"first of the slot", 100.0)
    at = 100.0 + offset
    assert seen.add(b"x", at) and b"x" in seen
    seen.expire(at + TTL - 0.001)
    assert b"x" in seen
    assert not seen.add(b"x", at + TTL - 0.001)
    seen.expire(at + TTL * (1 + 1 / 64) + 0.001)
    assert b"x" not in seen and len(seen) == 0 and seen.size == 0
    assert seen.evicted == 0
    assert seen.add(b"x", at + 2 * TTL)


def test_a_copy_does_not_renew_an_id():
    seen = SeenCache(TTL, 1 << 20)
    seen.add(b"x", 0.0)
    assert not seen.add(b"x", TTL - 1)
    seen.expire(TTL + 2)
    assert b"x" not in seen


@pytest.mark.hostile
def test_hostile_073_unique_junk_pushes_out_the_oldest_and_is_counted():
    most = 4 * SLOT_IDS * (20 + ID_COST)
    seen = SeenCache(TTL, most)
    for n in range(20 * SLOT_IDS):
        seen.add(number(n), 0.0)
        assert seen.size <= most
    assert seen.evicted > 0 and seen.evicted + len(seen) == 20 * SLOT_IDS
    assert len(seen) > 2 * SLOT_IDS
    for n in range(20 * SLOT_IDS):
        assert (number(n) in seen) == (n >= seen.evicted)
    assert seen.size == len(seen) * (20 + ID_COST)


def test_a_slot_that_is_filled_alone_is_kept():
    seen = SeenCache(TTL, 1)
    seen.add(b"x", 0.0)
    assert b"x" in seen and seen.evicted == 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "expire"]), st.integers(0, 30), st.floats(0, 10)), max_size=80
)


@given(STEPS)
def test_seen_ids_against_a_model(steps):
    seen, model, now = SeenCache(TTL, 1 << 20), {}, 0.0
    for what, n, step in steps:
        now += step
        if what == "add":
            assert seen.add(number(n), now) == (number(n) not in model)
            model.setdefault(number(n), now)
        else:
            seen.expire(now)
            # Forgotten: nothing that is younger than its time; kept: nothing that is older by more than a slot.
            assert all(message_id in seen for message_id, at in model.items() if now - at < TTL)
            model = {message_id: at for message_id, at in model.items() if message_id in seen}
            assert all(now - at < TTL * (1 + 1 / 64) for at in model.values())
        assert len(seen) == len(model) and seen.size == len(model) * (20 + ID_COST)
    seen.expire(now + 10 * TTL)
    assert len(seen) == seen.size == 0 and not seen._slots


# --- serialised messages


def forged(original: bytes) -> bytes:
    """Other bytes of the same length with the same checksum: crc32 is linear, four bytes correct any difference."""
    changed = bytearray(original)
    changed[0] ^= 0xFF
    plain = crc32(bytes(len(original)))

    def effect(position: int, bit: int) -> int:
        single = bytearray(len(original))
        single[position] ^= 1 << bit
        return crc32(bytes(single)) ^ plain

    wanted = crc32(bytes(changed)) ^ crc32(original)
    basis: dict[int, tuple[int, list[tuple[int, int]]]] = {}
    for position in range(len(original) - 4, len(original)):
        for bit in range(8):
            value, used = effect(position, bit), [(position, bit)]
            while value and value.bit_length() in basis:
                other, theirs = basis[value.bit_length()]
                value ^= other
                used = used + theirs
            if value:
                basis[value.bit_length()] = value, used
    while wanted:
        value, used = basis[wanted.bit_length()]
        wanted ^= value
        for position, bit in used:
            changed[position] ^= 1 << bit
    return bytes(changed)


@pytest.mark.hostile
def test_hostile_073_a_forged_checksum_is_no_match():
    index = RawIndex(TTL, 1 << 20)
    original = bytes(range(256)) * 8
    copy = forged(original)
    assert copy != original and len(copy) == len(original) and crc32(copy) == crc32(original)
    index.add(original, b"id", 0.0)
    assert index.find(bytes(original)) == b"id"
    assert index.find(copy) is None
    index.add(copy, b"other", 0.0)  # the place is taken over, the bytes are accounted for once
    assert index.find(copy) == b"other" and index.find(original) is None
    assert index.size == len(copy) + ID_COST


def test_the_index_is_bounded_in_bytes_the_oldest_goes_first():
    index = RawIndex(TTL, 3 * (1000 + ID_COST))
    raws = [bytes([n]) * 1000 for n in range(5)]
    for n, raw in enumerate(raws):
        index.add(raw, number(n), 0.0)
    assert [index.find(raw) for raw in raws] == [None, None, number(2), number(3), number(4)]
    assert index.size == 3 * (1000 + ID_COST)
    index.add(bytes(5000), b"too large for it", 0.0)
    assert index.size == 0 and index.find(bytes(5000)) is None


def test_the_index_forgets_with_time():
    index = RawIndex(TTL, 1 << 20)
    index.add(b"a" * 1000, b"1", 0.0)
    index.add(b"b" * 1000, b"2", 10.0)
    index.add(b"a" * 1000, b"1", 20.0)  # again: counted once, from now on
    index.expire(TTL + 9.9)
    assert index.find(b"a" * 1000) == b"1" and index.find(b"b" * 1000) == b"2"
    index.expire(TTL + 10)
    assert index.find(b"a" * 1000) == b"1" and index.find(b"b" * 1000) is None
    index.expire(TTL + 20)
    assert index.size == 0 and index.find(b"a" * 1000) is None


# --- messages for IWANT


def test_messages_are_offered_for_a_while_and_kept_a_little_longer():
    cache = MessageCache(history=5, gossip=3, max_bytes=1 << 20)
    cache.put(message(b"x"))
    for beats in range(7):
        assert (b"x" in cache.gossip_ids("t")) == (beats < 3)
        assert (cache.for_peer(b"x", A) is not None) == (beats < 5)
        cache.shift()
    assert len(cache) == cache.size == 0 and cache.evicted == 0


def test_the_newest_are_offered_first_each_topic_by_itself():
    cache = MessageCache(history=5, gossip=3, max_bytes=1 << 20)
    for beat in range(4):
        cache.put(message(b"t%d" % beat))
        cache.put(message(b"u%d" % beat, "u"))
        if beat < 3:
            cache.shift()
    assert cache.gossip_ids("t") == [b"t3", b"t2", b"t1"]
    assert cache.gossip_ids("u") == [b"u3", b"u2", b"u1"]
    assert cache.gossip_ids("nothing here") == []


def test_a_message_that_is_kept_stays_in_its_heartbeat():
    cache = MessageCache(history=2, gossip=1, max_bytes=1 << 20)
    cache.put(message(b"x"))
    cache.shift()
    cache.put(message(b"x", size=999))
    assert cache.gossip_ids("t") == [] and cache.size == 20 + MESSAGE_COST
    cache.shift()
    assert len(cache) == cache.size == 0


@pytest.mark.hostile
def test_hostile_063_large_messages_push_out_the_oldest_and_are_counted():
    cost = 2 * 5000 + MESSAGE_COST
    cache = MessageCache(history=5, gossip=3, max_bytes=3 * cost)
    for n in range(5):
        cache.put(message(number(n), size=5000))
        assert cache.size <= 3 * cost
    assert cache.evicted == 2 and len(cache) == 3
    assert cache.for_peer(number(1), A) is None and cache.for_peer(number(2), A) is not None
    assert cache.gossip_ids("t") == [number(2), number(3), number(4)]  # what is gone is not offered
    for _ in range(5):
        cache.shift()
    assert cache.size == 0 and cache.evicted == 2


def test_it_counts_for_each_peer_how_often_it_asked():
    cache = MessageCache(history=5, gossip=3, max_bytes=1 << 20)
    kept = message(b"x")
    cache.put(kept)
    assert [cache.for_peer(b"x", A) for _ in range(3)] == [(kept, 1), (kept, 2), (kept, 3)]
    assert cache.for_peer(b"x", B) == (kept, 1)
    cache.shift()
    assert cache.for_peer(b"x", A) == (kept, 4)
    assert cache.for_peer(b"y", A) is None


CACHE_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 200), st.sampled_from(["t", "u"]), st.integers(0, 3000)),
        st.tuples(st.just("shift"), st.just(0), st.just(""), st.just(0)),
        st.tuples(st.just("ask"), st.integers(0, 200), st.sampled_from(["a", "b"]), st.just(0)),
    ),
    max_size=60,
)


@given(CACHE_STEPS)
def test_the_message_cache_against_a_model(steps):
    history, gossip, most = 4, 2, 20_000
    cache = MessageCache(history, gossip, most)
    model: OrderedDict[bytes, list] = OrderedDict()  # id: topic, age, cost, asked
    evicted = 0
    used: set[int] = set()
    for what, n, text, size in steps:
        if what == "put":
            if n not in used:  # the router puts nothing twice
                used.add(n)
                cache.put(message(number(n), text, size))
                model[number(n)] = [text, 0, 2 * size + MESSAGE_COST, {}]
                while sum(each[2] for each in model.values()) > most:
                    model.popitem(last=False)
                    evicted += 1
        elif what == "shift":
            cache.shift()
            for each in model.values():
                each[1] += 1
            model = OrderedDict((key, each) for key, each in model.items() if each[1] < history)
        else:
            found = cache.for_peer(number(n), pid(text))
            assert (found is None) == (number(n) not in model)
            if found is not None:
                asked = model[number(n)][3]
                asked[text] = asked.get(text, 0) + 1
                assert (found[0].id, found[1]) == (number(n), asked[text])
        assert cache.size == sum(each[2] for each in model.values()) <= most
        assert len(cache) == len(model) and cache.evicted == evicted
        for topic in ("t", "u"):
            offered = {key: each[1] for key, each in model.items() if each[0] == topic and each[1] < gossip}
            assert cache.gossip_ids(topic) == sorted(offered, key=lambda key: offered[key])
    for _ in range(history):
        cache.shift()
    assert len(cache) == cache.size == 0


# --- promises


def promises() -> Promises:
    return Promises(followup=3.0)


def test_a_promise_is_kept_by_whoever_brings_the_message():
    table = promises()
    table.promise(A, b"x", "t", 0.0)
    table.promise(B, b"x", "t", 1.0)
    assert len(table) == 2
    table.fulfilled(b"x")
    assert len(table) == 0 and table.broken(100.0) == []


def test_a_promise_is_broken_once_and_after_its_time():
    table = promises()
    table.promise(A, b"x", "t", 0.0)
    table.promise(B, b"y", "u", 1.0)
    assert table.broken(2.9) == []
    assert table.broken(3.0) == [(A, "t")]
    assert table.broken(3.9) == []
    assert table.broken(50.0) == [(B, "u")]
    assert len(table) == 0 and table.broken(100.0) == []


@pytest.mark.hostile
def test_hostile_064_to_promise_again_does_not_put_it_off():
    table = promises()
    for step in range(10):
        table.promise(A, b"x", "t", step * 0.3)
    assert len(table) == 1
    assert table.broken(3.0) == [(A, "t")]
    assert table.broken(100.0) == []


def test_a_new_promise_of_the_same_message_has_its_own_time():
    table = promises()
    table.promise(A, b"x", "t", 0.0)
    table.fulfilled(b"x")
    table.promise(A, b"x", "t", 2.0)
    assert table.broken(4.9) == []
    assert table.broken(5.0) == [(A, "t")]


def test_two_promises_of_one_message_are_two():
    table = promises()
    table.promise(A, b"x", "t", 0.0)
    table.promise(B, b"x", "t", 1.0)
    assert table.broken(3.0) == [(A, "t")]
    assert len(table) == 1
    assert table.broken(4.0) == [(B, "t")]


def test_who_is_gone_breaks_no_promise():
    table = promises()
    table.promise(A, b"x", "t", 0.0)
    table.promise(B, b"x", "t", 0.0)
    table.promise(A, b"y", "t", 0.0)
    table.peer_down(A)
    assert len(table) == 1 and list(table._open) == [b"x"]
    assert table.broken(10.0) == [(B, "t")]
    assert not table._open


# --- what peers have


def test_what_a_peer_has_is_remembered_for_some_heartbeats():
    table = DontWant(ttl=3, max_ids=100)
    assert table.add(A, [b"x"]) == 1
    for _ in range(2):
        table.beat()
        assert table.unwanted(A, b"x")
    assert not table.unwanted(B, b"x") and not table.unwanted(A, b"y")
    table.beat()
    assert not table.unwanted(A, b"x")
    assert not table._peers


@pytest.mark.hostile
def test_hostile_064_no_more_than_the_cap_in_a_heartbeat():
    table = DontWant(ttl=3, max_ids=5)
    ids = [number(n) for n in range(12)]
    assert table.add(A, ids[:3]) == 3
    assert table.add(A, ids[3:9]) == 2
    assert table.add(A, ids[9:]) == 0
    assert [table.unwanted(A, each) for each in ids] == [True] * 5 + [False] * 7
    assert table.add(B, ids) == 5  # each peer by itself
    table.beat()
    assert table.add(A, ids[5:]) == 5
    for _ in range(50):
        table.beat()
        table.add(A, ids)
    assert sum(map(len, table._peers[A].beats)) <= 3 * 5


def test_the_same_id_again_uses_up_the_cap():
    table = DontWant(ttl=3, max_ids=5)
    assert table.add(A, [b"x"] * 4) == 4
    assert table.add(A, [b"x", b"y"]) == 1
    assert not table.unwanted(A, b"y")


def test_what_a_peer_had_goes_with_it():
    table = DontWant(ttl=3, max_ids=5)
    table.add(A, [b"x"])
    table.peer_down(A)
    table.peer_down(B)
    assert not table.unwanted(A, b"x") and not table._peers


# --- quotas


def test_a_quota_is_of_one_peer_and_one_thing_and_lasts_a_heartbeat():
    quota = Quota()
    assert quota.take(A, "ihave", 3, 5) == 3
    assert quota.take(A, "ihave", 3, 5) == 2
    assert quota.take(A, "ihave", 1, 5) == 0
    assert quota.take(A, "ihave", 1, 3) == 0  # a limit that fell meanwhile
    assert quota.take(A, "iwant", 9, 5) == 5
    assert quota.take(B, "ihave", 1, 5) == 1
    quota.beat()
    assert quota.take(A, "ihave", 9, 5) == 5
