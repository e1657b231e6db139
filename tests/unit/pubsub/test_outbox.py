"""The queue of one peer: what goes first, what gives way, that nothing of ours is lost silently, that it is bounded."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.io.varint import encode
from pyp2p.pubsub import outbox as module
from pyp2p.pubsub.outbox import BATCH, COMBINED, Outbox
from pyp2p.pubsub.types import Lane
from pyp2p.pubsub.wire import fields, graft_fragment, ihave_fragments, publish_fragment, subscription_fragments
from tests.unit.pubsub.router_support import parts, raw

ENTRY = module._ENTRY


def outbox(max_bytes: int = 100_000, max_count: int = 100) -> Outbox:
    return Outbox(max_bytes, max_count, Counter())


def published(name: bytes, size: int = 0) -> bytes:
    return publish_fragment(raw(name.ljust(size, b".")))


def of_cost(cost: int) -> bytes:
    """A publish that takes just so many bytes of the queue."""
    for data in range(cost - ENTRY, 0, -1):
        fragment = published(b"", data)
        if len(fragment) == cost - ENTRY:
            return fragment
    raise AssertionError("no such size")


def control(name: str) -> bytes:
    return graft_fragment(name)


def rpcs(data: bytes) -> list[bytes]:
    """What was handed out, out of its frames."""
    found, at = [], 0
    while at < len(data):
        size = shift = 0
        while True:
            byte = data[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        assert at + size <= len(data)
        found.append(data[at : at + size])
        at += size
    return found


def said(data: bytes) -> list[str]:
    """The parts by name, in the order of the RPCs."""
    found = []
    for rpc in rpcs(data):
        each = parts(rpc)
        # In an RPC publishes stand where they are put, but are read before the control that they follow.
        found += [f"graft {part[1]}" for part in each if part[0] == "graft"]
        found += [part[1].rstrip(b".").decode() for part in each if part[0] == "message"]
    return found


def everything(box: Outbox) -> list[str]:
    found = []
    while (batch := box.take()) is not None:
        found += said(batch.data)
    return found


# --- order


def test_the_classes_go_out_in_their_order_each_first_come_first_served():
    box = outbox()
    for n in range(2):
        box.offer(Lane.GOSSIP, published(b"gossip%d" % n), "t", b"g%d" % n)
        box.offer(Lane.FORWARDED, published(b"forwarded%d" % n), "t", b"f%d" % n)
        box.own(published(b"own%d" % n), b"o%d" % n)
        box.control(control(f"{n}"))
    assert len(box) == 8
    batch = box.take()
    assert said(batch.data) == [
        *("graft 0", "graft 1", "own0", "own1", "forwarded0", "forwarded1", "gossip0", "gossip1")
    ]
    assert batch.own == [b"o0", b"o1"]
    assert box.take() is None
    assert len(box) == box.size == 0


def test_nothing_waits_in_an_empty_queue():
    assert outbox().take() is None


def test_subscriptions_and_gossip_without_a_message_are_sent_too():
    box = outbox()
    box.control(subscription_fragments([(True, "t")])[0])
    box.offer(Lane.GOSSIP, ihave_fragments("t", [b"id1"])[0], "t")
    box.offer(Lane.GOSSIP, ihave_fragments("t", [b"id2"])[0], "t")
    assert len(box) == 3
    found = [part for rpc in rpcs(box.take().data) for part in parts(rpc)]
    assert found[0] == ("subscribe", "t")
    assert [message_id for part in found[1:] for message_id in part[2]] == [b"id1", b"id2"]


# --- room


def test_gossip_gives_way_to_a_forwarded_message_and_is_counted():
    box = outbox(max_count=3)
    for n in range(3):
        box.offer(Lane.GOSSIP, published(b"gossip%d" % n), "t", b"g%d" % n)
    box.offer(Lane.FORWARDED, published(b"forwarded"), "u", b"f")
    assert box._counters == {("gossip dropped: queue full", "t"): 1}
    assert everything(box) == ["forwarded", "gossip1", "gossip2"]


def test_what_does_not_fit_is_dropped_and_counted_in_its_class():
    box = outbox(max_count=2)
    for n in range(4):
        box.offer(Lane.FORWARDED, published(b"forwarded%d" % n), "t", b"f%d" % n)
    box.offer(Lane.GOSSIP, published(b"gossip"), "u", b"g")
    assert box._counters == {("forwarded dropped: queue full", "t"): 2, ("gossip dropped: queue full", "u"): 1}
    assert everything(box) == ["forwarded0", "forwarded1"]


def test_gossip_does_not_give_way_to_gossip():
    box = outbox(max_count=2)
    for n in range(3):
        box.offer(Lane.GOSSIP, published(b"gossip%d" % n), "t", b"g%d" % n)
    assert box._counters == {("gossip dropped: queue full", "t"): 1}
    assert everything(box) == ["gossip0", "gossip1"]


@pytest.mark.parametrize("by", ["bytes", "count"])
def test_the_rest_gives_way_to_what_is_urgent_gossip_first_and_the_oldest_first(by):
    cost = len(published(b"x", 500)) + ENTRY
    box = outbox(max_bytes=4 * cost) if by == "bytes" else outbox(max_count=4)
    for n in range(2):
        box.offer(Lane.FORWARDED, published(b"forwarded%d" % n, 500), "t", b"f%d" % n)
        box.offer(Lane.GOSSIP, published(b"gossip%d" % n, 500), "t", b"g%d" % n)
    assert box.own(published(b"own0", 500), b"o0")
    assert box._counters == {("gossip dropped: queue full", "t"): 1}
    assert box.own(published(b"own1", 500), b"o1")
    assert box.own(published(b"own2", 500), b"o2")
    assert box._counters == {("gossip dropped: queue full", "t"): 2, ("forwarded dropped: queue full", "t"): 1}
    assert everything(box) == ["own0", "own1", "own2", "forwarded1"]
    assert box.size == 0


def test_control_makes_room_as_well():
    box = outbox(max_count=2)
    for n in range(2):
        box.offer(Lane.FORWARDED, published(b"forwarded%d" % n), "t", b"f%d" % n)
    assert box.control(control("c"))
    assert everything(box) == ["graft c", "forwarded1"]


@pytest.mark.parametrize("lane", [Lane.FORWARDED, Lane.GOSSIP])
def test_a_single_message_may_be_of_any_size(lane):
    box = outbox(max_bytes=1000)
    box.offer(lane, published(b"large", 5000), "t", b"x")
    assert everything(box) == ["large"] and not box._counters
    assert box.size == 0


def test_a_message_waits_once_in_its_class():
    box = outbox()
    for _ in range(3):
        box.offer(Lane.FORWARDED, published(b"x"), "t", b"x")
    box.offer(Lane.GOSSIP, published(b"x"), "t", b"x")
    assert len(box) == 2 and not box._counters
    assert everything(box) == ["x", "x"] and box.size == 0


# --- our own


@pytest.mark.hostile
@pytest.mark.parametrize("by", ["bytes", "count"])
def test_hostile_075_our_own_is_refused_when_there_is_no_room_and_never_dropped(by):
    cost = len(published(b"own", 500)) + ENTRY
    box = outbox(max_bytes=3 * cost) if by == "bytes" else outbox(max_count=3)
    assert [box.own(published(b"own%d" % n, 500), b"o%d" % n) for n in range(5)] == [True] * 3 + [False] * 2
    for n in range(2):
        box.offer(Lane.FORWARDED, published(b"forwarded%d" % n), "t", b"%d" % n)
    assert box._counters == {("forwarded dropped: queue full", "t"): 1}  # a single one may always wait
    assert everything(box) == ["own0", "own1", "own2", "forwarded0"]
    assert box.own(published(b"own3", 500), b"o3")


def test_the_bound_is_exact():
    box = outbox(max_bytes=2000)
    assert box.own(of_cost(1000), b"a")
    assert not box.own(of_cost(1001), b"b")
    assert box.own(of_cost(1000), b"c")
    assert box.size == 2000


def test_a_single_one_of_our_own_may_be_of_any_size():
    box = outbox(max_bytes=1000)
    box.offer(Lane.FORWARDED, published(b"forwarded"), "t", b"f")
    assert box.own(published(b"large", 5000), b"o")
    assert not box.own(published(b"small"), b"p")
    assert everything(box) == ["large", "forwarded"]


def test_our_own_that_waits_already_waits_once():
    box = outbox()
    assert box.own(published(b"x", 500), b"x")
    size = box.size
    assert box.own(published(b"x", 500), b"x")
    assert (len(box), box.size) == (1, size)
    assert everything(box) == ["x"] and box.size == 0


def test_our_own_can_be_taken_back():
    box = outbox()
    box.own(published(b"a", 100), b"a")
    box.own(published(b"b", 200), b"b")
    assert box.cancel(b"a")
    assert not box.cancel(b"a") and not box.cancel(b"never there")
    assert len(box) == 1 and box.size == len(published(b"b", 200)) + ENTRY
    assert everything(box) == ["b"]
    assert not box.cancel(b"b")  # too late
    assert box.size == 0


# --- control


@pytest.mark.hostile
def test_hostile_075_control_is_taken_up_to_twice_the_bound():
    cost = len(control("topic")) + ENTRY
    box = outbox(max_bytes=10 * cost, max_count=3)
    taken = [box.control(control("topic")) for _ in range(30)]
    assert taken == [True] * 20 + [False] * 10
    assert box.size == 20 * cost
    assert everything(box) == ["graft topic"] * 20
    assert box.size == 0 and box.control(control("topic"))


def test_control_leaves_no_room_for_our_own():
    cost = len(control("topic")) + ENTRY
    box = outbox(max_bytes=10 * cost)
    for _ in range(10):
        box.control(control("topic"))
    assert not box.own(published(b"own"), b"o")


# --- what the peer has


def test_what_the_peer_has_is_not_sent_but_for_our_own():
    box = outbox()
    for name in (b"a", b"b"):
        box.offer(Lane.FORWARDED, published(b"forwarded " + name), "t", name)
        box.offer(Lane.GOSSIP, published(b"gossip " + name), "u", name)
        box.own(published(b"own " + name), name)
    box.unwanted([b"a", b"a", b"unknown"])
    assert box._counters == {("forwarded dropped: unwanted", "t"): 1, ("gossip dropped: unwanted", "u"): 1}
    assert everything(box) == ["own a", "own b", "forwarded b", "gossip b"]
    assert box.size == 0


def test_a_message_can_come_again_after_it_was_unwanted():
    box = outbox()
    box.offer(Lane.FORWARDED, published(b"x"), "t", b"x")
    box.unwanted([b"x"])
    assert box.size == len(box) == 0
    box.offer(Lane.FORWARDED, published(b"x"), "t", b"x")
    assert everything(box) == ["x"]


# --- batches


@pytest.mark.parametrize("lane", ["control", "own", "forwarded", "gossip"])
def test_a_batch_is_64_kib_and_one_message_at_most(lane):
    box = outbox(max_bytes=10_000_000, max_count=10_000)
    size = 900 if lane == "control" else 10_000
    for n in range(200):
        if lane == "control":
            box.control(control(f"{n}".ljust(size, ".")))
        elif lane == "own":
            box.own(published(b"%d" % n, size), b"%d" % n)
        else:
            box.offer(Lane[lane.upper()], published(b"%d" % n, size), "t", b"%d" % n)
    found, sizes = [], []
    while (batch := box.take()) is not None:
        sizes.append(len(batch.data))
        found += [part.rstrip(".") for part in said(batch.data)]
    assert [part.removeprefix("graft ") for part in found] == [f"{n}" for n in range(200)]
    assert max(sizes) <= BATCH + size + 200
    assert min(sizes[:-1]) > BATCH - size
    assert box.size == 0


def test_what_is_urgent_overtakes_between_batches():
    box = outbox(max_bytes=10_000_000)
    for n in range(20):
        box.offer(Lane.FORWARDED, published(b"%d" % n, 10_000), "t", b"%d" % n)
    box.take()
    box.own(published(b"own"), b"o")
    box.control(control("t"))
    assert said(box.take().data)[:3] == ["graft t", "own", "7"]


@pytest.mark.parametrize("size", [10, 100, 5000, COMBINED - 100])
def test_rpcs_with_several_messages_are_16_kib_at_most(size):
    box = outbox(max_bytes=10_000_000, max_count=10_000)
    for n in range(30):
        box.control(control(f"{n}".ljust(300, ".")))
    for n in range(50):
        box.offer(Lane.FORWARDED, published(b"%d" % n, size), "t", b"%d" % n)
    found = []
    while (batch := box.take()) is not None:
        found += rpcs(batch.data)
    assert max(map(len, found)) <= COMBINED
    fewest = -(-sum(map(len, found)) // COMBINED)
    if size <= 100:
        assert len(found) <= fewest + 2  # they are combined


def test_a_message_that_is_larger_stands_by_itself():
    box = outbox(max_bytes=10_000_000)
    for name, size in ((b"a", 10), (b"large", COMBINED), (b"b", 10), (b"c", 10)):
        box.offer(Lane.FORWARDED, published(name, size), "t", name)
    found = [[part[1].rstrip(b".") for part in parts(rpc)] for rpc in rpcs(box.take().data)]
    assert found == [[b"a"], [b"large"], [b"b", b"c"]]


def test_a_message_fills_what_control_left_of_its_rpc():
    box = outbox()
    box.control(control("t"))
    box.own(published(b"own"), b"o")
    assert len(rpcs(box.take().data)) == 1
    box.control(control("t"))
    box.own(published(b"own", COMBINED - len(control("t")) - 20), b"o")
    assert len(rpcs(box.take().data)) == 1
    box.control(control("t"))
    box.own(published(b"own", COMBINED - 15), b"o")
    assert len(rpcs(box.take().data)) == 2


def test_frames_are_canonical():
    box = outbox()
    box.own(published(b"own", 300), b"o")
    data = box.take().data
    fragment = published(b"own", 300)
    assert data == encode(len(fragment)) + fragment


def test_no_rpc_has_two_control_messages_js_would_read_the_last_alone():
    box = outbox()
    box.control(subscription_fragments([(True, "t")])[0])
    for n in range(3):
        box.control(control(f"{n}"))
        box.offer(Lane.GOSSIP, ihave_fragments("t", [b"%d" % n])[0], "t")
        box.offer(Lane.GOSSIP, published(b"asked for %d" % n), "t", b"g%d" % n)
        box.offer(Lane.FORWARDED, published(b"forwarded %d" % n), "t", b"f%d" % n)
    found = rpcs(box.take().data)
    assert [sum(tag == 0x1A for tag, *_ in fields(rpc)) for rpc in found] == [1] * len(found) == [1, 1]
    assert parts(found[0])[-3:] == [("graft", "0"), ("graft", "1"), ("graft", "2")]
    assert parts(found[1]) == [("ihave", "t", [b"0"]), ("ihave", "t", [b"1"]), ("ihave", "t", [b"2"])]


# --- against a model

SIZES = st.sampled_from([0, 10, 300, 2000])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["own", "forwarded", "gossip"]), st.integers(0, 9), SIZES),
        st.tuples(st.sampled_from(["cancel", "unwanted"]), st.integers(0, 9), st.just(0)),
        st.tuples(st.sampled_from(["control", "take", "ihave"]), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([1000, 5000, 20_000]), st.sampled_from([2, 5, 50]))
def test_all_is_sent_refused_or_counted_and_the_accounts_come_back_to_nothing(steps, max_bytes, max_count):
    box = outbox(max_bytes, max_count)
    put: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    serial = 0

    def take() -> bool:
        batch = box.take()
        for rpc in rpcs(batch.data) if batch else ():
            for part in parts(rpc):
                kind = {"graft": "control", "ihave": "gossip"}.get(part[0])
                sent[kind or part[1].split(b" ")[0].decode()] += 1 if part[0] != "ihave" else len(part[2])
        return batch is not None

    for what, n, size in steps:
        before = len(box)
        if what == "control":
            serial += 1
            put["control"] += box.control(control(f"{serial}"))
        elif what == "own":
            waits = b"%d" % n in box._own
            taken = box.own(published(b"own %d " % n, size), b"%d" % n)
            put["own"] += taken and not waits
        elif what == "ihave":
            serial += 1
            box.offer(Lane.GOSSIP, ihave_fragments("t", [b"%d" % serial])[0], "t")
            put["gossip"] += 1
        elif what in ("forwarded", "gossip"):
            queue = box._forwarded if what == "forwarded" else box._gossip
            put[what] += b"%d" % n not in queue
            box.offer(Lane[what.upper()], published(b"%s %d " % (what.encode(), n), size), "t", b"%d" % n)
        elif what == "cancel":
            put["own"] -= box.cancel(b"%d" % n)
            assert len(box) <= before
        elif what == "unwanted":
            box.unwanted([b"%d" % n])
        else:
            take()
        waiting = [len(each) for each in (box._control, box._own.values())]
        urgent = sum(len(f) + ENTRY for f in box._control) + sum(len(f) + ENTRY for f in box._own.values())
        rest = sum(len(f) + ENTRY for queue in (box._forwarded, box._gossip) for f, _ in queue.values())
        assert box.size == urgent + rest
        assert len(box) == sum(waiting) + len(box._forwarded) + len(box._gossip)
        if len(box._forwarded) + len(box._gossip) > 1:
            assert box.size <= max_bytes and len(box) <= max_count
    while take():
        pass
    assert box.size == len(box) == 0
    dropped = Counter({lane: 0 for lane in ("forwarded", "gossip")})
    for (reason, topic), count in box._counters.items():
        assert topic == "t"
        dropped[reason.split(" ")[0]] += count
    assert set(dropped) == {"forwarded", "gossip"}  # nothing else is ever dropped
    assert put == sent + dropped


def test_what_waits_when_the_peer_goes_is_counted_but_for_our_own():
    box = outbox()
    box.control(control("t"))
    box.own(published(b"own"), b"o")
    box.offer(Lane.FORWARDED, published(b"forwarded"), "t", b"f")
    box.offer(Lane.GOSSIP, published(b"gossip"), "u", b"g")
    box.abandon()
    assert box._counters == {("forwarded dropped: peer gone", "t"): 1, ("gossip dropped: peer gone", "u"): 1}


def test_how_many_parts_a_batch_has_is_told():
    box = outbox()
    box.control(control("t"))
    box.own(published(b"own"), b"o")
    box.offer(Lane.GOSSIP, published(b"gossip"), "u", b"g")
    assert box.take().parts == 3


@pytest.mark.parametrize(("lane", "overflowed"), [(Lane.FORWARDED, True), (Lane.GOSSIP, False)])
def test_it_overflowed_when_forwarded_messages_found_no_room(lane, overflowed):
    box = outbox(max_count=1)
    box.offer(lane, published(b"first"), "t", b"1")
    assert not box.overflowed
    box.offer(lane, published(b"second"), "t", b"2")
    assert box.overflowed is overflowed


@pytest.mark.parametrize("lane", [Lane.FORWARDED, Lane.GOSSIP])
def test_a_single_large_one_waits_beside_what_is_urgent(lane):
    """A block that no queue holds must not be lost because a PRUNE waits, or comes."""
    box = outbox(max_bytes=2000)
    box.control(control("t"))
    box.offer(lane, published(b"large", 5000), "t", b"l")
    box.control(control("u"))
    assert box.own(published(b"own"), b"o")
    assert everything(box) == ["graft t", "graft u", "own", "large"]
    assert not box._counters
