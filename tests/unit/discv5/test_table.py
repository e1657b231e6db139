"""The routing table: places, order, verification, replacements, diversity, what is given out and when it is checked."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.discv5.node import Endpoint, Refusal, log_distance
from pyp2p.discv5.table import Heard, RoutingTable, TableConfig
from tests.unit.discv5.support import LOCAL, FakeRecord, id_at, public, record, where

OTHER = Endpoint("9.9.9.9", 9)  # who tells of others


def table(**options: float) -> RoutingTable[FakeRecord]:
    return RoutingTable(LOCAL, Random(1), TableConfig(**options))


def add(routing, *records, now=0.0, live=True):
    for each in records:
        assert routing.heard(each, where(each), now) in (Heard.ADDED, Heard.REPLACEMENT)
        if live:
            assert routing.alive(each.node_id, now)


def order(routing, distance):
    bucket = routing._buckets.get(distance)
    return [node.record for node in bucket.nodes.values()] if bucket else []


def waiting(routing, distance):
    bucket = routing._buckets.get(distance)
    return [node.record for node in bucket.replacements.values()][::-1] if bucket else []


def full(routing, distance=250, extra=0, live=True):
    records = [record(distance, index) for index in range(16 + extra)]
    add(routing, *records, live=live)
    return records


# --- places


def came(routing, *records, now=0.0):
    return [routing.heard(each, where(each), now, incoming=True) for each in records]


def told_and_answers(routing, *records, now=1.0):
    for each in records:
        routing.heard(each, where(each), now, OTHER)
        routing.alive(each.node_id, now)


@pytest.mark.hostile
def test_hostile_088_four_of_a_bucket_keep_their_place_who_came_to_us():
    routing, pressing = table(), [record(250, index) for index in range(24)]
    assert came(routing, *pressing) == 16 * [Heard.ADDED] + 8 * [Heard.REPLACEMENT]
    assert order(routing, 250) == pressing[:16] and waiting(routing, 250) == pressing[:19:-1]
    others = [record(250, index) for index in range(30, 42)]
    made_up = record(250, 50)
    routing.heard(made_up, where(made_up), 1.0, OTHER)
    assert len(order(routing, 250)) == 16 and made_up in waiting(routing, 250)  # it has to answer
    told_and_answers(routing, *others)
    assert set(order(routing, 250)) == {*pressing[:4], *others} and routing.live == 12
    assert len(waiting(routing, 250)) == 5 and made_up in waiting(routing, 250)
    told_and_answers(routing, record(250, 60))
    assert set(order(routing, 250)) == {*pressing[:4], *others}
    routing.remove(others[0].node_id)
    assert record(250, 60) in order(routing, 250)  # none of those that pressed
    routing.remove(pressing[0].node_id)
    assert sum(each in pressing for each in order(routing, 250)) == 4


def test_who_came_to_us_keeps_its_place_when_another_subnet_tells_of_it():
    routing, some = table(), [record(250, index) for index in range(16)]
    came(routing, *some)
    neighbour = Endpoint(str(some[0].ip)[:-1] + "9", 9)
    for teller in (where(some[0]), Endpoint(str(some[0].ip), 1), neighbour):
        assert routing.heard(some[0], where(some[0]), 1.0, teller) is Heard.UNCHANGED
        assert routing.came(some[0].node_id)
    newer = replace(some[1], seq=2)
    assert routing.heard(newer, where(newer), 1.0, where(newer)) is Heard.REFRESHED and routing.came(newer.node_id)
    assert routing.heard(some[0], where(some[0]), 2.0, OTHER) is Heard.UNCHANGED
    newer = replace(some[1], seq=3)
    assert routing.heard(newer, where(newer), 3.0, OTHER) is Heard.REFRESHED
    assert not routing.came(some[0].node_id) and not routing.came(newer.node_id)
    told_and_answers(routing, *[record(250, index) for index in range(30, 50)])
    left = order(routing, 250)
    assert some[0] in left and newer in left and sum(routing.came(each.node_id) for each in left) == 4


def test_on_loopback_any_other_endpoint_can_tell_of_who_came_to_us():
    routing, node = table(), record(250, 1, ip="127.0.0.1")
    came(routing, node)
    routing.heard(node, where(node), 1.0, where(node))
    assert routing.came(node.node_id)
    routing.heard(node, where(node), 1.0, Endpoint("127.0.0.1", 9))
    assert not routing.came(node.node_id)


def test_who_came_to_us_of_too_many_is_among_the_last_four():
    routing, some = table(), [record(250, index) for index in range(30)]
    came(routing, *some)
    assert waiting(routing, 250) == some[:25:-1]
    for gone in some[:4]:
        routing.remove(gone.node_id)
    assert set(order(routing, 250)) == {*some[4:16], *some[26:]} and waiting(routing, 250) == []


def test_a_lookup_begins_with_those_that_were_found():
    routing, some, found = table(), [record(250, index) for index in range(5)], record(249)
    came(routing, *some)
    assert routing.closest(LOCAL, 3, found_only=True) == []
    routing.heard(found, where(found), 1.0, OTHER)
    assert routing.closest(LOCAL, 3, found_only=True) == [found]
    routing.failed(found.node_id, 1.0)
    assert routing.closest(LOCAL, 3, found_only=True) == []


def test_a_node_is_added_seen_and_becomes_live():
    routing, node = table(), record(250)
    assert routing.heard(node, where(node), 1.0) is Heard.ADDED
    assert (len(routing), routing.live) == (1, 0)
    assert routing.closest(LOCAL, 16) == [] and routing.at_distances([250]) == []
    assert routing.closest(LOCAL, 16, seen_too=True) == [node]
    assert routing.alive(node.node_id, 2.0)
    assert (len(routing), routing.live) == (1, 1)
    assert routing.closest(LOCAL, 16) == routing.at_distances([250]) == [node]
    assert routing.get(node.node_id).seen_at == 2.0


def test_our_own_id_is_refused():
    routing = table()
    assert routing.heard(FakeRecord(LOCAL).at("8.8.8.8"), Endpoint("8.8.8.8", 9000), 0.0) is Refusal.OWN_ID
    assert len(routing) == 0 and not routing.alive(LOCAL, 0.0) and not routing.failed(LOCAL, 0.0)


def test_a_bucket_is_in_the_order_of_last_seen():
    routing = table()
    a, b, c = (record(250, index) for index in range(3))
    add(routing, a, b, c, live=False)
    assert order(routing, 250) == [a, b, c]
    assert routing.heard(a, where(a), 1.0) is Heard.REFRESHED
    assert order(routing, 250) == [b, c, a]
    routing.alive(b.node_id, 2.0)
    assert order(routing, 250) == [c, a, b]
    assert routing.heard(c, where(c), 3.0, OTHER) is Heard.UNCHANGED  # hearsay is no sign of life
    routing.failed(c.node_id, 3.0)
    assert order(routing, 250) == [c, a, b]


@pytest.mark.parametrize(("seq", "kept"), [(4, 5), (5, 5), (6, 6)])
@pytest.mark.parametrize("source", [None, OTHER])
def test_only_a_newer_record_replaces_the_one_we_have(seq, kept, source):
    routing, node = table(), record(250, seq=5)
    add(routing, node)
    assert routing.heard(replace(node, seq=seq), where(node), 1.0, source) in (Heard.REFRESHED, Heard.UNCHANGED)
    assert routing.get(node.node_id).record.seq == kept
    assert routing.live == 1


def test_at_another_endpoint_a_node_is_unverified():
    routing, node = table(), record(250)
    moved = node.at("77.1.1.1", seq=2)
    add(routing, node)
    assert routing.heard(moved, where(moved), 1.0) is Heard.REFRESHED
    assert routing.live == 0 and routing.closest(LOCAL, 1) == []
    assert not routing.alive(node.node_id, 2.0, where(node))  # a late answer from where it was
    assert routing.live == 0
    assert routing.alive(node.node_id, 2.0, where(moved))
    assert routing.closest(LOCAL, 1) == [moved]


def test_who_answers_elsewhere_than_its_record_says_is_kept_and_not_given_out():
    routing, node = table(), record(250)
    routing.heard(node, Endpoint("66.1.1.1", 9000), 0.0)
    routing.alive(node.node_id, 0.0)
    assert routing.live == 1 and routing.closest(LOCAL, 1) == routing.at_distances([250]) == []


@pytest.mark.parametrize(("address", "port"), [(None, None), (None, 9000), ("8.8.8.8", None), ("2a00::1", None)])
def test_who_names_no_endpoint_is_kept_and_not_given_out(address, port):
    routing, node = table(), FakeRecord(id_at(250)).at(address, port)
    routing.heard(node, Endpoint("8.8.8.8", 9000), 0.0)
    routing.alive(node.node_id, 0.0)
    assert routing.live == 1 and routing.closest(LOCAL, 1) == routing.at_distances([250]) == []


def test_either_family_of_a_record_can_be_the_one_that_is_verified():
    routing = table()
    both = replace(record(250), ip6=ip_address("2a00::1"), udp6=9001)
    routing.heard(both, Endpoint("2a00::1", 9001), 0.0)
    routing.alive(both.node_id, 0.0)
    assert routing.closest(LOCAL, 1) == [both]


@pytest.mark.hostile
def test_hostile_088_what_others_tell_moves_no_node_whose_record_still_names_its_endpoint():
    routing = table()
    both = replace(record(250), ip6=ip_address("2a00::1"), udp6=9001)
    add(routing, both)
    older = both.at("66.1.1.1", seq=0)
    assert routing.heard(older, where(older), 1.0, OTHER) is Heard.UNCHANGED
    assert routing.heard(replace(both, seq=2), Endpoint("2a00::1", 9001), 1.0, OTHER) is Heard.REFRESHED
    assert routing.get(both.node_id).endpoint == where(both) and routing.live == 1
    gone = both.at("66.1.1.1", seq=3)
    assert routing.heard(gone, where(gone), 1.0, OTHER) is Heard.REFRESHED
    assert routing.get(both.node_id).endpoint == where(gone) and routing.live == 0


# --- failures and replacements


def test_three_failures_in_a_row_evict_and_fewer_do_not():
    routing, node = table(), record(250)
    add(routing, node)
    assert not routing.failed(node.node_id, 1.0) and not routing.failed(node.node_id, 1.0)
    routing.alive(node.node_id, 2.0)
    assert not routing.failed(node.node_id, 3.0) and not routing.failed(node.node_id, 3.0)
    assert routing.live == 1
    assert routing.failed(node.node_id, 4.0)
    assert len(routing) == routing.live == 0 and routing.get(node.node_id) is None
    assert not routing.failed(node.node_id, 5.0) and not routing.remove(node.node_id)
    assert not routing._buckets and not routing._subnets


def test_the_newest_replacement_takes_the_place():
    routing = table()
    records = full(routing, extra=3)
    assert order(routing, 250) == records[:16] and waiting(routing, 250) == records[:15:-1]
    for _ in range(3):
        routing.failed(records[4].node_id, 1.0)
    assert order(routing, 250) == [*records[:4], *records[5:16], records[18]]
    assert waiting(routing, 250) == [records[17], records[16]]
    assert (len(routing), routing.live) == (16, 15)


def test_a_replacement_that_takes_a_place_is_unverified_and_the_next_to_be_checked():
    routing = table()
    records = full(routing, extra=1)
    for turn in range(16):
        routing.to_check(turn * 100.0)
    assert routing.get(records[16].node_id).live
    routing.remove(records[3].node_id)
    assert not routing.get(records[16].node_id).live and records[16] not in routing.closest(LOCAL, 100)
    assert [node.record for node in routing.to_check(5000.0)] == [records[16]]
    routing.alive(records[16].node_id, 5000.0)
    assert records[16] in routing.closest(LOCAL, 100) and routing.live == 16


def test_a_replacement_takes_its_place_in_the_order():
    routing = table()
    records = full(routing, extra=1)
    for index in range(8):
        routing.alive(records[index].node_id, 5.0)
    routing.remove(records[0].node_id)
    assert order(routing, 250) == [*records[8:16], records[16], *records[1:8]]


def test_a_replacement_that_is_heard_again_is_the_newest():
    routing = table()
    records = full(routing, extra=3, live=False)
    assert routing.heard(records[16], where(records[16]), 1.0) is Heard.REFRESHED
    assert waiting(routing, 250) == [records[16], records[18], records[17]]
    for _ in range(3):
        routing.failed(records[18].node_id, 1.0)
    assert waiting(routing, 250) == [records[16], records[17]] and len(routing) == 16


def test_replacements_are_bounded_and_the_oldest_goes():
    routing = table(replacements=3)
    records = full(routing, extra=5)
    assert waiting(routing, 250) == [records[20], records[19], records[18]]
    assert routing.get(records[16].node_id) is None and len(routing._subnets) == 19


def test_there_may_be_no_replacements_at_all():
    routing = table(replacements=0)
    full(routing)
    extra = record(250, 20)
    assert routing.heard(extra, where(extra), 0.0) is Refusal.BUCKET_FULL and waiting(routing, 250) == []


@pytest.mark.hostile
def test_hostile_088_what_others_tell_pushes_out_no_replacement_that_spoke_to_us():
    routing = table(replacements=2)
    full(routing)
    told, spoke, more, also = (record(250, 20 + index) for index in range(4))
    assert routing.heard(told, where(told), 1.0, OTHER) is Heard.REPLACEMENT
    assert routing.heard(spoke, where(spoke), 2.0) is Heard.REPLACEMENT
    assert routing.heard(more, where(more), 3.0, OTHER) is Heard.REPLACEMENT
    assert waiting(routing, 250) == [more, spoke]
    routing.remove(id_at(250, 0))
    assert spoke in order(routing, 250)  # and not what was only told, though newer
    assert routing.heard(told, where(told), 4.0) is Heard.REPLACEMENT
    assert routing.heard(also, where(also), 5.0) is Heard.REPLACEMENT  # spoke: what was told gives way
    assert waiting(routing, 250) == [also, told]
    assert routing.heard(more, where(more), 6.0, OTHER) is Refusal.BUCKET_FULL
    assert waiting(routing, 250) == [also, told]


@pytest.mark.hostile
@pytest.mark.parametrize("how", ["same", "newer", "answer", "not at all"])
def test_hostile_088_who_was_told_of_and_speaks_later_is_no_hearsay(how):
    routing = table(replacements=1)
    full(routing)
    told, more = record(250, 20), record(250, 21)
    assert routing.heard(told, where(told), 1.0, OTHER) is Heard.REPLACEMENT
    if how == "answer":
        assert routing.alive(told.node_id, 2.0)
    elif how != "not at all":
        assert routing.heard(replace(told, seq=1 + (how == "newer")), where(told), 2.0) is Heard.REFRESHED
    expected = Heard.REPLACEMENT if how == "not at all" else Refusal.BUCKET_FULL
    assert routing.heard(more, where(more), 3.0, OTHER) is expected


def test_failures_at_another_endpoint_do_not_count():
    routing, node = table(), record(250)
    moved = node.at("77.1.1.1", seq=2)
    add(routing, node, record(250, 1))
    for _ in range(2):
        routing.failed(node.node_id, 1.0)
    routing.heard(moved, where(moved), 2.0)
    assert not routing.failed(node.node_id, 3.0) and not routing.failed(node.node_id, 3.0)
    assert routing.failed(node.node_id, 3.0)


# --- diversity


@pytest.mark.hostile
@pytest.mark.parametrize("address", ["8.8.8.{}", "2a00:1:2:3::{}"])
def test_hostile_088_two_of_a_subnet_in_a_bucket(address):
    routing = table()
    nodes = [record(250, index, address.format(index + 1)) for index in range(3)]
    add(routing, *nodes[:2])
    assert routing.heard(nodes[2], where(nodes[2]), 0.0) is Refusal.BUCKET_SUBNET
    routing.remove(nodes[0].node_id)
    assert routing.heard(nodes[2], where(nodes[2]), 0.0) is Heard.ADDED


@pytest.mark.hostile
@pytest.mark.parametrize("address", ["8.8.8.{}", "2a00:1:2:3::{}"])
def test_hostile_088_ten_of_a_subnet_in_the_table(address):
    routing = table()
    nodes = [record(250 - index // 2, index, address.format(index + 1)) for index in range(11)]
    add(routing, *nodes[:10])
    assert routing.heard(nodes[10], where(nodes[10]), 0.0) is Refusal.TABLE_SUBNET
    other = nodes[10].at("8.8.9.1")
    assert routing.heard(other, where(other), 0.0) is Heard.ADDED
    back = nodes[10].at("8.8.8.200" if "." in address else "2a00:1:2:3::ff", seq=2)
    assert routing.heard(back, where(back), 0.0) is Refusal.TABLE_SUBNET
    assert routing.get(other.node_id).record == other  # as it was
    routing.remove(nodes[0].node_id)
    assert routing.heard(back, where(back), 0.0) is Heard.REFRESHED


@pytest.mark.hostile
def test_hostile_088_replacements_count_too():
    routing = table()
    full(routing)
    nodes = [record(250, 20 + index, f"8.8.8.{index + 1}") for index in range(3)]
    add(routing, *nodes[:2])
    assert routing.heard(nodes[2], where(nodes[2]), 0.0) is Refusal.BUCKET_SUBNET


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_loopback_is_exempt(address):
    routing = table()
    nodes = [record(250 - index % 8, index, address, 9000 + index) for index in range(128)]
    add(routing, *nodes)
    assert len(routing) == 128 and not routing._subnets


def test_a_node_may_move_within_its_subnet():
    routing = table()
    nodes = [record(250, index, f"8.8.8.{index + 1}") for index in range(2)]
    add(routing, *nodes)
    moved = nodes[0].at("8.8.8.77", seq=2)
    assert routing.heard(moved, where(moved), 0.0) is Heard.REFRESHED
    routing.remove(moved.node_id)
    assert set(routing._subnets.values()) == {1}


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("address", "port", "source", "refusal"),
    [
        ("10.0.0.1", 9000, OTHER, Refusal.PRIVATE),
        ("127.0.0.1", 9000, OTHER, Refusal.PRIVATE),
        ("224.0.0.1", 9000, OTHER, Refusal.MULTICAST),
        ("0.0.0.0", 9000, OTHER, Refusal.UNSPECIFIED),
        ("8.8.8.8", 0, OTHER, Refusal.PORT_ZERO),
        ("10.0.0.1", 9000, Endpoint("10.0.0.2", 1), Heard.ADDED),
        ("10.0.0.1", 9000, Endpoint("127.0.0.1", 1), Heard.ADDED),
        ("8.8.8.8", 9000, OTHER, Heard.ADDED),
    ],
)
def test_hostile_088_bad_addresses_are_refused(address, port, source, refusal):
    routing, node = table(), record(250, 0, address, port)
    assert routing.heard(node, where(node), 0.0, source) is refusal
    assert len(routing) == (refusal is Heard.ADDED)
    assert routing.heard(node, source, 0.0) in (refusal, Heard.REFRESHED)  # itself, from where it told


# --- giving out


def test_at_distances_gives_each_bucket_as_asked_and_sixteen_at_most():
    routing = table()
    far, near = full(routing, 256), [record(255, index) for index in range(5)]
    add(routing, *near)
    assert set(routing.at_distances([255])) == set(near)
    answer = routing.at_distances([255, 256, 254])
    assert len(answer) == 16 and set(answer[:5]) == set(near) and set(answer[5:]) < set(far)
    assert set(routing.at_distances([256, 255])) == set(far)
    assert len(routing.at_distances([256], limit=3)) == 3
    assert len(routing.at_distances([256, 255], limit=1000)) == 16
    assert routing.at_distances([0, 1, 257, 2**64, -1]) == [] == routing.at_distances([])
    assert routing.at_distances([255] * 10_000) != routing.at_distances([255])  # the order is random
    assert sorted(routing.at_distances([255] * 10_000), key=hash) == sorted(near, key=hash)


def test_what_is_private_is_told_to_neighbours_only():
    routing = table()
    here, lan, world = (record(250, i, ip) for i, ip in enumerate(["127.0.0.1", "10.0.0.1", "8.8.8.8"]))
    add(routing, here, lan, world)
    for asker, told in [
        (None, {here, lan, world}),
        ("127.0.0.1", {here, lan, world}),
        ("10.0.0.7", {lan, world}),
        ("9.9.9.9", {world}),
    ]:
        assert set(routing.at_distances([250], asker=asker and Endpoint(asker, 1))) == told


@given(st.randoms(use_true_random=False), st.integers(0, 40), st.integers(0, 256))
def test_closest_is_what_sorting_all_nodes_gives(rng, n, apart):
    routing = RoutingTable(LOCAL, rng)
    nodes = [record(rng.randint(230, 256), index) for index in range(80)]
    for each in nodes:
        routing.heard(each, where(each), 0.0)
        if rng.random() < 0.8:
            routing.alive(each.node_id, 0.0)
    target = id_at(apart, rng.getrandbits(apart - 1) if apart > 1 else 0) if apart else LOCAL

    def distance(each):
        return int.from_bytes(each.node_id, "big") ^ int.from_bytes(target, "big")

    known = [node for node in map(routing.get, {each.node_id for each in nodes}) if node]
    known = [node for node in known if node.node_id in routing._buckets[log_distance(LOCAL, node.node_id)].nodes]
    assert routing.closest(target, n, seen_too=True) == sorted((node.record for node in known), key=distance)[:n]
    assert routing.closest(target, n) == sorted((node.record for node in known if node.live), key=distance)[:n]


# --- checks and refreshes


def test_one_node_is_checked_every_5_to_15_seconds_each_in_its_turn():
    routing = table()
    nodes = [record(250, index) for index in range(8)]
    add(routing, *nodes)
    now, times, turns = 0.0, [], []
    for _ in range(24):
        turns += [node.record for node in routing.to_check(now)]
        times.append(routing.next_check - now)
        assert routing.to_check(now) == [] == routing.to_check(routing.next_check - 0.001)
        now = routing.next_check
    assert turns == nodes * 3
    assert all(5 <= wait <= 15 for wait in times) and len(set(times)) == 24


def test_who_has_failed_is_checked_beside_the_others_until_it_answers_or_is_gone():
    routing = table()
    nodes = [record(250, index) for index in range(4)]
    add(routing, *nodes)

    def turn(now):
        return [node.record for node in routing.to_check(now)]

    assert turn(0.0) == nodes[:1]
    routing.failed(nodes[0].node_id, 0.5)
    assert turn(100.0) == [nodes[1], nodes[0]]
    routing.alive(nodes[0].node_id, 100.0)
    assert turn(200.0) == nodes[2:3]
    routing.failed(nodes[2].node_id, 201.0)
    routing.failed(nodes[3].node_id, 202.0)
    assert turn(300.0) == [nodes[1], nodes[2], nodes[3]]
    routing.remove(nodes[2].node_id)
    assert turn(400.0) == [nodes[0], nodes[3]]


def test_checks_go_to_all_buckets():
    routing = table()
    nodes = [record(distance) for distance in range(240, 257)]
    add(routing, *nodes)
    checked, now = set(), 0.0
    for _ in range(200):
        checked.update(node.record for node in routing.to_check(now))
        now = routing.next_check
    assert checked == set(nodes)


def test_the_least_recently_seen_of_a_full_bucket_with_replacements_is_checked_beside():
    routing = table()
    records = full(routing)
    routing.alive(records[0].node_id, 1.0)
    assert [node.record for node in routing.to_check(1.0)] == [records[1]]  # no replacements yet
    routing.alive(records[1].node_id, 1.0)
    add(routing, record(250, 30), now=2.0)
    assert [node.record for node in routing.to_check(100.0)] == [records[2]]  # it is both
    assert [node.record for node in routing.to_check(200.0)] == [records[3], records[2]]
    routing.alive(records[2].node_id, 200.0)
    assert [node.record for node in routing.to_check(300.0)] == [records[4], records[3]]


def test_full_buckets_with_replacements_take_turns():
    routing = table()
    distances = (250, 252, 254)
    for distance in distances:
        full(routing, distance, extra=1)
    heads = [routing.to_check(100.0 * turn)[-1].record for turn in range(1, 7)]
    assert [log_distance(LOCAL, each.node_id) for each in heads] == list(distances) * 2
    for distance in distances:
        routing.remove(id_at(distance, 3))
    assert len(routing.to_check(1000.0)) == 1 and not routing._contended


def test_an_empty_table_checks_nobody_and_waits():
    routing = table()
    assert routing.to_check(0.0) == [] and 5 <= routing.next_check <= 15


def test_buckets_are_refreshed_in_turn_at_first_soon_and_half_as_often_each_round():
    routing = table()
    add(routing, *(record(distance) for distance in (256, 255, 254)))
    routing.refreshed(id_at(255), 0.0)
    now, turns, pauses = 1.0, [], []
    for _ in range(40):
        target = routing.to_refresh(now)
        turns.append(log_distance(LOCAL, target))
        assert routing.to_refresh(now) is None is routing.to_refresh(routing.next_refresh - 0.001)
        pauses.append(routing.next_refresh - now)
        now = routing.next_refresh
    assert turns == [256, 254, 253, *[255, 256, 254, 253] * 10][:40]
    usual = [10] * 2 + [10 * 2 ** (1 + index // 4) for index in range(38)]
    for pause, expected in zip(pauses, usual, strict=True):
        assert 0.9 * min(expected, 1800) <= pause <= 1.1 * min(expected, 1800)
    assert {log_distance(LOCAL, table().to_refresh(0.0))} == {256}


def test_a_bucket_for_which_there_is_one_id_can_be_refreshed():
    routing = table()
    add(routing, record(2), record(1))
    for distance in range(2, 257):
        routing.refreshed(id_at(distance), 1.0)
    assert routing.to_refresh(2.0) == id_at(1)


# --- saving


# --- a model

SMALL = TableConfig(bucket_size=3, replacements=2, max_incoming=1, per_bucket_subnet=2, per_table_subnet=6)


def random_life(seed: int) -> Iterator[tuple[int, RoutingTable[FakeRecord]]]:
    """A small table after each of many random things that can happen to it, and how many those were."""
    rng = Random(seed)
    routing: RoutingTable[FakeRecord] = RoutingTable(LOCAL, rng, SMALL)
    for step in range(1500):
        node = record(254 + rng.randrange(3), rng.randrange(12), public(rng.randrange(9)), seq=rng.randrange(1, 4))
        match rng.randrange(8):
            case 0 | 1:
                routing.heard(node, where(node), step, incoming=rng.random() < 0.5)
            case 2:
                routing.heard(node, where(node), step, OTHER)
            case 3:
                routing.alive(node.node_id, step)
            case 4 | 5 | 6:
                routing.failed(node.node_id, step)
            case _ if rng.random() < 0.3:
                routing.remove(node.node_id)
        yield step, routing


OPS = st.lists(
    st.tuples(
        st.sampled_from(["heard", "heard", "heard", "told", "came", "alive", "failed", "failed", "remove", "check"]),
        st.integers(0, 39),  # which node
        st.integers(1, 3),  # seq
        st.integers(0, 7),  # which subnet
    ),
    max_size=250,
)


def places(routing):
    return [
        (distance, node)
        for distance, bucket in routing._buckets.items()
        for place in (bucket.nodes, bucket.replacements)
        for node in place.values()
    ]


def check_invariants(routing, config):
    found = places(routing)
    assert len({node.node_id for _, node in found}) == len(found)  # in one place only
    assert all(distance == log_distance(LOCAL, node.node_id) for distance, node in found)
    in_table: dict[bytes, int] = {}
    for distance, bucket in routing._buckets.items():
        assert 0 < len(bucket.nodes) <= config.bucket_size and len(bucket.replacements) <= config.replacements
        assert not bucket.replacements or len(bucket.nodes) == config.bucket_size
        assert sum(node.incoming for node in bucket.replacements.values()) <= config.max_incoming
        assert (distance in routing._contended) == bool(bucket.replacements)
        for place in (bucket.nodes, bucket.replacements):
            assert all(key == node.node_id for key, node in place.items())
            if place is bucket.nodes or not any(not node.spoke for node in place.values()):
                seen = [node.seen_at for node in place.values()]
                assert seen == sorted(seen)
        here: dict[bytes, int] = {}
        for node in (*bucket.nodes.values(), *bucket.replacements.values()):
            here[node.subnet] = here.get(node.subnet, 0) + 1
            in_table[node.subnet] = in_table.get(node.subnet, 0) + 1
            assert node.failures < config.max_failures
        assert here == dict(bucket.subnets) and all(count <= config.per_bucket_subnet for count in here.values())
    assert in_table == dict(routing._subnets) and all(n <= config.per_table_subnet for n in in_table.values())
    nodes = [node for bucket in routing._buckets.values() for node in bucket.nodes.values()]
    assert len(routing) == len(nodes) and routing.live == sum(node.live for node in nodes)
    counters = routing.counters()
    assert counters["nodes"] + counters["replacements"] == len(found)
    assert set(routing._contended) <= set(routing._buckets)


@given(OPS, st.randoms(use_true_random=False))
def test_whatever_happens_the_table_keeps_its_rules(ops, rng):
    config = TableConfig(bucket_size=4, replacements=2, max_incoming=1, per_bucket_subnet=2, per_table_subnet=5)
    routing, live, newest = RoutingTable(LOCAL, rng, config), {}, {}
    for step, (what, index, seq, place) in enumerate(ops):
        now = float(step)
        node = record(255 + index % 2, index, public(place, index + 1), seq=seq)
        name = node.node_id
        before = routing.get(name)
        endpoint, was = (before.endpoint, before.record.seq) if before else (None, 0)
        spare = {each for bucket in routing._buckets.values() for each in bucket.replacements}
        if what in ("heard", "told", "came"):
            source = OTHER if what == "told" else None
            outcome = routing.heard(node, where(node), now, source, incoming=what == "came")
            after = routing.get(name)
            if isinstance(outcome, Refusal):
                assert (after and (after.endpoint, after.record.seq)) == (before and (endpoint, was))
            else:
                newest[name] = max(seq, was) if before else seq
                if after.endpoint != endpoint:
                    live[name] = False
        elif what == "alive":
            assert routing.alive(name, now) == (before is not None)
            live[name] = before is not None
        elif what == "failed":
            routing.failed(name, now)
        elif what == "remove":
            assert routing.remove(name) == (before is not None)
        else:
            assert len(routing.to_check(now * 15)) <= 6
        for each in spare:
            if any(each in bucket.nodes for bucket in routing._buckets.values()):
                live[each] = False
        for _, each in places(routing):
            assert each.live == live[each.node_id] and each.record.seq == newest[each.node_id]
        for gone in [each for each in live if routing.get(each) is None]:
            live.pop(gone)
        check_invariants(routing, config)


@pytest.mark.hostile
def test_hostile_088_a_flood_of_made_up_records_leaves_a_bounded_table():
    routing, rng = table(), Random(7)
    for index in range(5_000):
        told = FakeRecord(rng.randbytes(32)).at(public(rng.randrange(60_000), rng.randrange(1, 255)))
        routing.heard(told, where(told), index / 1000, OTHER)
    check_invariants(routing, TableConfig())
    assert len(places(routing)) <= 20 * 32 and routing.live == 0 and routing.at_distances([256, 255, 254]) == []
