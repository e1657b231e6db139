"""What a lookup sends to, whom it asks first, and whose word the table hears."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from pyp2p.discv5.lookup import Lookup
from pyp2p.discv5.node import lookup_distances
from pyp2p.discv5.walk import Walk
from tests.unit.discv5.support import LOCAL, FakeRecord, id_at

TARGET = bytes(32)
ALL = lookup_distances(256, 256)


def near(distance: int, index: int = 0, ip: str | None = None) -> FakeRecord:
    """A node at a distance from the target."""
    made = FakeRecord(id_at(distance, index, TARGET))
    return made if ip is None else made.at(ip)


def crowd(count: int, ip: str = "99.0.0.1", first: int = 1) -> list[FakeRecord]:
    """Nodes of one subnet, close to the target."""
    return [near(200, index, str(ip_address(ip) + index)) for index in range(first, first + count)]


def lookup(*start: FakeRecord, **options) -> Lookup[FakeRecord]:
    search = Lookup(TARGET, start, local_id=LOCAL, **options)
    search._ask_on_the_way = lambda node_id: search._ask(node_id, ALL)  # whom nodes tell of is not the matter here
    return search


def asked(search: Lookup[FakeRecord]) -> list[FakeRecord]:
    return [node for node, _ in search.next_queries()]


# ---- subnets


@pytest.mark.hostile
def test_hostile_088_four_of_a_subnet_are_asked_until_one_answers() -> None:
    search, some = lookup(near(256)), crowd(16)
    assert asked(search) == [near(256)]
    search.answered(near(256).node_id, some)
    assert search.result() == [*some[:4], near(256)] and search.refused["subnet"] == 12
    first, second, _ = asked(search)
    search.answered(first.node_id, some)  # an address that answers is no victim's: the next has its place
    assert search.result() == [*some[:5], near(256)]
    for _ in range(2):
        while second not in (queries := asked(search)) and queries:
            for each in queries:
                search.answered(each.node_id, [])
        search.failed(second.node_id)
    assert second not in search.result()


@pytest.mark.hostile
def test_hostile_088_who_failed_frees_no_place_of_its_subnet() -> None:
    teller, other = near(256), near(255)
    search, some = lookup(teller, other, parallelism=2), crowd(8)
    asked(search)
    search.answered(teller.node_id, some[:4])
    while waiting := asked(search):
        for each in waiting:
            search.failed(each.node_id)
    assert search.result() == [other, teller]
    assert search.answered(other.node_id, some[4:]) == some[4:]
    assert search.result() == [other, teller] and search.refused["subnet"] == 4


def test_each_subnet_has_places_of_its_own_and_loopback_any_number() -> None:
    search = lookup(near(256))
    asked(search)
    told = [*crowd(5, "99.0.0.1"), *crowd(5, "99.0.1.1", 10), *crowd(9, "127.0.0.1", 20)]
    search.answered(near(256).node_id, told)
    assert search.refused["subnet"] == 2 and len(search._records) == 1 + 4 + 4 + 9


def test_who_we_know_is_asked_whatever_its_subnet() -> None:
    search = lookup(*crowd(9))
    assert len(search.result()) == 9 and not search.refused["subnet"]


# ---- first


def test_found_nodes_are_asked_before_those_that_are_closer() -> None:
    far, closer = [near(256, index) for index in (1, 2)], [near(100, index) for index in range(20)]
    search = lookup(*closer, *far, first=[node.node_id for node in far])
    assert asked(search) == [*far, closer[0]]


def test_a_lookup_is_not_over_while_a_found_node_is_being_asked() -> None:
    far, closer = near(256, 1), [near(100, index) for index in range(16)]
    search = lookup(*closer, far, first=[far.node_id])
    assert asked(search)[0] == far
    for _ in range(40):
        for node_id in list(search._asking):
            if node_id != far.node_id:
                search.answered(node_id, [])
        asked(search)
    assert not search.done
    search.answered(far.node_id, [near(50)])
    assert near(50) in search.result() and not search.done


# ---- doubt


class Told:
    """A walk whose queries are answered by hand."""

    def __init__(self, *start: FakeRecord, doubted: tuple[FakeRecord, ...]) -> None:
        self.asking: dict[FakeRecord, object] = {}
        self.heard: list[FakeRecord] = []
        self.result: list[FakeRecord] | None = None
        self.search = lookup(*start, parallelism=10)
        self.walk = Walk(
            self.search,
            lambda node, distances, done, now: self.asking.update({node: done}),
            lambda records, teller, now: self.heard.extend(records),
            lambda search, now: setattr(self, "result", search.result()),
            doubted=[node.node_id for node in doubted],
            vouched=[node.node_id for node in start if node not in doubted],
        )
        self.walk.go_on(0.0)

    def tells(self, teller: FakeRecord, *records: FakeRecord) -> None:
        self.asking.pop(teller)(list(records), 0.0)

    def end(self) -> list[FakeRecord]:
        while self.asking:
            self.tells(next(iter(self.asking)))
        return self.result


CAME, FOUND = near(256, 1), near(256, 2)
A, B, C = near(255, 1), near(255, 2), near(255, 3)


@pytest.mark.hostile
def test_hostile_088_what_who_came_to_us_tells_is_found_and_the_table_does_not_hear_it() -> None:
    walk = Told(CAME, FOUND, doubted=(CAME,))
    walk.tells(CAME, A)
    walk.tells(A, B)
    walk.tells(B, C)
    assert walk.heard == []
    assert {A, B, C} <= set(walk.end()) and walk.heard == []


def test_who_is_named_by_a_found_node_too_is_believed_from_then_on() -> None:
    walk = Told(CAME, FOUND, doubted=(CAME,))
    walk.tells(CAME, A)
    walk.tells(FOUND, A, B)
    assert walk.heard == [A, B]
    walk.tells(A, C)
    assert walk.heard == [A, B, C]


def test_who_was_named_by_a_found_node_stays_believed_whoever_names_it_later() -> None:
    walk = Told(CAME, FOUND, doubted=(CAME,))
    walk.tells(FOUND, A)
    walk.tells(CAME, A)
    walk.tells(A, B)
    assert walk.heard == [A, B]


def test_who_came_to_us_is_believed_when_a_found_node_names_it() -> None:
    walk = Told(CAME, FOUND, doubted=(CAME,))
    walk.tells(FOUND, CAME)
    walk.tells(CAME, A)
    assert walk.heard == [CAME, A]


def test_where_nobody_is_doubted_all_is_told() -> None:
    walk = Told(CAME, doubted=())
    walk.tells(CAME, A)
    walk.tells(A, replace(B, seq=2))
    assert walk.heard == [A, replace(B, seq=2)]
