"""Pure nodes at the corners: cancelled handshakes, candidates that move, doubt, places that are given up."""

from dataclasses import replace
from ipaddress import ip_address
from random import Random

import pytest

from pyp2p.discv5.messages import FindNode, Nodes, Ping, Pong
from pyp2p.discv5.node import Endpoint, log_distance
from pyp2p.discv5.types import NodeNews
from pyp2p.errors import NoAnswer
from tests.unit.discv5.script import Stranger, calls_of, nothing_under_way, two
from tests.unit.discv5.test_core_messages import at_distance, friend
from tests.unit.discv5.test_table import SMALL, check_invariants, random_life
from tests.unit.discv5.test_walk import CAME, FOUND, A, Told, crowd, lookup, near
from tests.unit.discv5.test_walk import asked as asked_by


def test_a_cancelled_handshake_ends_with_the_last_that_waits_for_it() -> None:
    script, alice, bob = two()
    for _ in range(100):
        for request in [alice.node.ping(bob.record, script.now) for _ in range(16)]:
            alice.node.cancel(request)
        assert nothing_under_way(alice)
    script.drop()
    before = len(script.sent)
    script.pass_time(5)
    assert len(script.sent) == before and not alice.count["requests refused"]


def test_a_cancelled_request_that_is_too_large_for_its_handshake_waits_for_nobody() -> None:
    script, alice, bob = two()
    bob.node.protocols.add(b"p")
    request = alice.node.talk(bob.record, b"p", bytes(1100), script.now)
    script.deliver()
    script.deliver()
    assert script.kinds() == ["handshake"]
    alice.node.cancel(request)
    assert nothing_under_way(alice)
    script.pass_time(5)
    assert bob.talks == []


def test_a_cancelled_handshake_that_others_wait_for_sends_its_request_no_more() -> None:
    script, alice, bob = two()
    bob.node.protocols.add(b"p")
    first = alice.node.talk(bob.record, b"p", bytes(1100), script.now)
    script.deliver()
    script.deliver()
    other = alice.node.ping(bob.record, script.now)
    alice.node.cancel(first)
    script.pass_time(5)
    assert isinstance(alice.results[other], Pong) and bob.talks == [] and first not in alice.results
    assert nothing_under_way(alice)


def test_a_cancelled_handshake_that_nobody_answers_fails_for_those_that_wait() -> None:
    script, alice, bob = two()
    first, other = [alice.node.ping(bob.record, script.now) for _ in range(2)]
    alice.node.cancel(first)
    script.pass_time(4, deliver=False)
    assert isinstance(alice.results[other], NoAnswer) and first not in alice.results and nothing_under_way(alice)
    assert len(calls_of(alice)) == 0


@pytest.mark.hostile
def test_hostile_088_newer_records_do_not_lead_a_lookup_into_one_subnet() -> None:
    tellers = [near(256, index) for index in (1, 2)]
    search = lookup(*tellers)
    asked_by(search)
    apart = [near(200, index, f"70.0.{index}.1") for index in range(1, 17)]
    search.answered(tellers[0].node_id, apart)
    there = [replace(node, ip=ip_address(f"99.0.0.{index}"), seq=2) for index, node in enumerate(apart, 1)]
    search.answered(tellers[1].node_id, there)
    assert len([node for node in search.result() if str(node.ip).startswith("99.0.0.")]) == 4
    moved = search.result()[0]
    assert moved == there[0]
    search.answered(asked_by(search)[0].node_id, there)
    assert len([node for node in search.result() if str(node.ip).startswith("99.0.0.")]) == 5


@pytest.mark.hostile
def test_hostile_088_each_endpoint_of_a_record_counts_for_its_subnet() -> None:
    search = lookup(near(256))
    asked_by(search)
    both = [
        replace(near(200, index, f"70.0.{index}.1"), ip6=ip_address(f"2a00::{index}"), udp6=9000)
        for index in range(1, 17)
    ]
    search.answered(near(256).node_id, both)
    assert search.refused["subnet"] == 12
    assert search.answered(near(256).node_id, crowd(1)) == []


@pytest.mark.hostile
def test_hostile_088_who_came_to_us_casts_no_doubt_on_those_that_were_found() -> None:
    walk = Told(CAME, FOUND, doubted=(CAME,))
    walk.tells(CAME, FOUND)
    walk.tells(FOUND, A)
    assert walk.heard == [A]


@pytest.mark.hostile
def test_hostile_088_the_table_hears_a_found_node_though_others_named_it_first() -> None:
    script, alice, mallory = friend()
    names = (Stranger(script, alice, f"found {number}", "60.0.2.1") for number in range(99))
    found = next(each for each in names if log_distance(each.id, mallory.id) == 256)
    found.shake(Ping(b"1", 1))
    script.drop()
    alice.node.table.heard(found.record, found.endpoint, script.now, Endpoint("70.0.0.1", 9))
    (told,) = at_distance(found, 256, 1)
    alice.node.lookup(bytes([found.id[0] ^ 64]) + found.id[1:], script.now)  # as far from both
    script.flush()
    said, script.wire = script.wire, []
    for teller, named in ((mallory, found.record), (found, told)):
        for asking in teller.heard(said):
            if isinstance(asking, FindNode):
                teller.say(teller.seal(Nodes(asking.request_id, 1, [named.raw])))
    assert alice.node.table.get(told.node_id) is not None


@pytest.mark.parametrize("seed", range(6))
def test_who_gives_up_its_place_waits_at_its_place_in_the_order(seed: int) -> None:
    for _, routing in random_life(seed):
        check_invariants(routing, SMALL)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_cancelled_when_nothing_is_left_behind(seed: int) -> None:
    rng = Random(seed)
    script, alice, bob = two()
    under_way: list[int] = []
    for _ in range(80):
        script.flush()
        match rng.randrange(9):
            case 0 | 1:
                under_way.append(alice.node.talk(bob.record, b"p", bytes(rng.choice((0, 1100))), script.now))
            case 2 | 3 if under_way:
                alice.node.cancel(under_way.pop(rng.randrange(len(under_way))))
            case 4 if script.wire:
                script.wire.pop(rng.randrange(len(script.wire)))
            case 5:
                script.pass_time(rng.choice((0.1, 0.6, 1.1)), deliver=False)
            case 6 if rng.random() < 0.2:
                bob.restart()
            case _ if script.wire:
                script.deliver()
    for request in under_way:
        alice.node.cancel(request)
    assert {call.node.node_id for call in calls_of(alice)._calls.values() if call.chosen} == set()
    script.pass_time(30)
    assert nothing_under_way(alice) and nothing_under_way(bob)


def test_who_was_asked_at_another_endpoint_in_vain_keeps_its_place() -> None:
    script, alice, bob = two()
    script.meet(alice, bob)
    for _ in range(5):
        request = alice.node.ping(bob.record, script.now, Endpoint("50.0.99.1", 9))
        script.pass_time(5)
        assert isinstance(alice.results[request], NoAnswer)
    assert alice.node.table.closest(bob.id, 16) == [bob.record]
    assert (NodeNews.GONE, bob.id) not in alice.news
