"""The table: senders that are none, and whom it checks."""

import pytest

from pyp2p.discv5.node import Endpoint, Refusal
from pyp2p.discv5.table import Heard, RoutingTable
from tests.unit.discv5.support import FakeRecord, record, where
from tests.unit.discv5.test_table import add, full, order, places, random_life, table


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("sender", "refusal"),
    [
        (Endpoint("50.0.9.1", 0), Refusal.PORT_ZERO),
        (Endpoint("224.0.0.5", 9000), Refusal.MULTICAST),
        (Endpoint("0.0.0.0", 9000), Refusal.UNSPECIFIED),
        (Endpoint("240.0.0.1", 9000), Refusal.RESERVED),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_hostile_088_nobody_speaks_from_an_endpoint_that_is_none(
    sender: Endpoint, refusal: Refusal, known: bool
) -> None:
    routing, node = table(), record(250)
    if known:
        add(routing, node)
    assert routing.heard(node, sender, 1.0) is refusal
    assert [each.endpoint for _, each in places(routing)] == ([where(node)] if known else [])


def suspects_are_those_that_failed(routing: RoutingTable[FakeRecord]) -> bool:
    return {node.node_id for _, node in places(routing) if node.failures} == set(routing._suspects)


@pytest.mark.parametrize("seed", range(4))
def test_suspects_are_in_the_table_and_have_failed_whatever_happens(seed: int) -> None:
    for step, routing in random_life(seed):
        chosen = routing.to_check(20.0 * step)
        assert len({each.node_id for each in chosen}) == len(chosen)
        assert suspects_are_those_that_failed(routing)


def test_a_replacement_that_failed_while_it_waited_is_the_next_to_be_checked() -> None:
    routing = table()
    some = full(routing, extra=1)
    for step, each in enumerate(some[:-1]):
        routing.get(each.node_id).checked_at = float(step)
    routing.failed(some[-1].node_id, 100.0)
    routing.remove(some[0].node_id)
    assert some[-1] in order(routing, 250)
    assert routing.to_check(200.0)[0].record == some[-1]


def test_no_node_is_checked_twice_at_a_time() -> None:
    """One whose turn it is, that is the least recently seen of a full bucket, and did not answer the last time."""
    routing = table()
    some = full(routing, extra=1)
    for each in some:
        routing.failed(each.node_id, 1.0)
    for turn in range(1, 60):
        chosen = [each.node_id for each in routing.to_check(20.0 * turn)]
        assert len(set(chosen)) == len(chosen) >= 4
    assert routing.heard(some[0], where(some[0]), 1e6) is Heard.REFRESHED
