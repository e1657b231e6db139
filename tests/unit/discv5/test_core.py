"""What simulations of whole networks found: each defect once more, alone and small."""

from random import Random

from pyp2p.discv5.lookup import Lookup
from pyp2p.discv5.node import log_distance
from pyp2p.discv5.table import RoutingTable
from tests.unit.discv5.support import LOCAL, FakeRecord, id_at, record, where


def told(routing: RoutingTable[FakeRecord], now: float, *found: FakeRecord) -> None:
    for each in found:
        routing.heard(each, where(each), now, source=where(each))


def test_buckets_that_come_into_use_late_have_their_first_refresh_soon():
    """A node whose first lookups were lost knew its bootnode alone for half an hour."""
    routing: RoutingTable[FakeRecord] = RoutingTable(LOCAL, Random(1))
    told(routing, 0.0, record(256))
    now = 0.0
    for _ in range(40):  # rounds through two buckets, until they are as slow as any
        assert routing.to_refresh(now)
        now = routing.next_refresh
    assert routing.next_refresh - routing._last_refresh > 1600
    now -= 1000.0
    assert routing.to_refresh(now) is None
    told(routing, now, record(254), record(252))
    turns = []
    while len(turns) < 4:
        assert routing.next_refresh <= now + 11
        now = max(now, routing.next_refresh)
        turns.append(log_distance(LOCAL, routing.to_refresh(now) or b""))
    assert turns == [254, 253, 252, 251]


def test_who_failed_a_query_of_a_lookup_has_another_turn_once_the_others_had_theirs():
    """One handshake of twenty fails where one packet of ten is lost: the lookup missed that node."""
    target = id_at(256)
    near = [FakeRecord(id_at(distance, 0, target)) for distance in range(1, 9)]
    search = Lookup(target, near, 4, 1, local_id=LOCAL)
    order = []
    for turn in range(6):
        for node, _ in search.next_queries():
            order.append(near.index(node))
            if turn in (0, 1):
                search.failed(node.node_id)
            else:
                search.answered(node.node_id, [])
    assert order == [0, 1, 2, 3, 0, 1]
    assert near[0] in search.result() and near[1] in search.result()


def test_who_failed_twice_is_left_out():
    target = id_at(256)
    near = [FakeRecord(id_at(distance, 0, target)) for distance in (1, 2)]
    search = Lookup(target, near, local_id=LOCAL)
    while not search.done:
        for node, _ in search.next_queries():
            if node is near[0]:
                search.failed(node.node_id)
            else:
                search.answered(node.node_id, [])
    assert search.result() == [near[1]] and search._attempts[near[0].node_id] == 2


def test_who_did_not_answer_the_last_time_is_not_given_out_until_it_does():
    """Where a tenth leaves each minute, a third of what nodes told each other had left."""
    routing: RoutingTable[FakeRecord] = RoutingTable(LOCAL, Random(1))
    told(routing, 0.0, record(250))
    name = record(250).node_id
    assert routing.alive(name, 0.0) and routing.at_distances([250]) == [record(250)]
    assert not routing.failed(name, 1.0)
    assert routing.at_distances([250]) == [] == routing.closest(name, 16)
    assert routing.alive(name, 2.0) and routing.at_distances([250]) == [record(250)]


def test_who_did_not_answer_is_checked_each_time_in_whatever_bucket_four_at_most():
    routing: RoutingTable[FakeRecord] = RoutingTable(LOCAL, Random(1))
    nodes = [record(distance) for distance in range(240, 257)]
    told(routing, 0.0, *nodes)
    routing.failed(nodes[0].node_id, 1.0)
    assert all(nodes[0] in [node.record for node in routing.to_check(20.0 * turn)] for turn in range(1, 10))
    for node in nodes:
        routing.failed(node.node_id, 300.0)
    checked = [{node.record for node in routing.to_check(400.0 + 20.0 * turn)} for turn in range(5)]
    assert all(4 <= len(some) <= 5 for some in checked) and set().union(*checked) == set(nodes)
    for node in nodes:
        routing.remove(node.node_id)
    assert not routing._suspects and not routing.to_check(1000.0)
