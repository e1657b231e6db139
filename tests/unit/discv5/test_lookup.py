"""Lookups: whom they ask for what, how they end, that they find the closest, and what hostile answers cost."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.discv5.lookup import Lookup, LookupConfig
from pyp2p.discv5.node import log_distance
from tests.unit.discv5.support import LOCAL, FakeRecord, id_at

TARGET = bytes(32)


def lookup(*start, target=TARGET, **options) -> Lookup[FakeRecord]:
    options.setdefault("sweep", 0)
    config = {name: options.pop(name) for name in LookupConfig.__dataclass_fields__ if name in options}
    return Lookup(target, start, local_id=LOCAL, config=LookupConfig(**config), **options)


def near(distance: int, index: int = 0, seq: int = 1) -> FakeRecord:
    """A node at a distance from the target."""
    return FakeRecord(id_at(distance, index, TARGET), seq)


def asked(search) -> list[FakeRecord]:
    return [node for node, _ in search.next_queries()]


def test_without_a_start_it_is_done():
    assert lookup().done and lookup().next_queries() == [] and lookup().result() == []


def test_the_closest_are_asked_first_three_at_a_time():
    nodes = [near(distance) for distance in (256, 250, 255, 251)]
    search = lookup(*nodes)
    assert search.next_queries() == [
        (near(250), [250, 251, 249]),
        (near(251), [251, 252, 250]),
        (near(255), [255, 256, 254]),
    ]
    assert search.next_queries() == []
    search.answered(near(251).node_id, [])
    assert asked(search) == [near(256)]
    assert not search.done
    for distance in (250, 255, 256):
        assert not search.done
        search.answered(near(distance).node_id, [])
    assert search.done and search.result() == [near(250), near(251), near(255), near(256)]
    assert search.queries == 4


def test_it_ends_when_the_k_closest_have_answered():
    """Those further away that are being asked are not waited for, and what they say later is not taken."""
    search = lookup(near(256), near(250), k=2, parallelism=2)
    assert asked(search) == [near(250), near(256)]
    search.answered(near(250).node_id, [near(249), near(248)])
    for distance in (248, 249):
        assert not search.done and asked(search) == [near(distance)]
        search.answered(near(distance).node_id, [])
    assert search.done and search.result() == [near(248), near(249)]
    assert search.answered(near(256).node_id, [near(255)]) == [] and search.refused["unasked"] == 1
    assert search.result() == [near(248), near(249)] and search.next_queries() == []


def test_the_closest_are_asked_about_the_edge_in_the_end():
    nodes = [near(distance) for distance in (254, 252, 251, 250)]
    search = lookup(*nodes, k=3, parallelism=2, sweep=3)
    assert asked(search) == [near(250), near(251)]
    search.answered(near(250).node_id, [])
    assert asked(search) == [near(252)]
    search.answered(near(252).node_id, [])
    assert not search.done and search.next_queries() == []
    search.answered(near(251).node_id, [])
    assert search.next_queries() == [(near(250), [252, 251]), (near(251), [252])]
    search.failed(near(250).node_id)  # had answered before: it stays
    assert not search.done and search.next_queries() == []
    new = near(252, 5)
    assert search.answered(near(251).node_id, [new, near(251, 1)]) == [new]
    assert search.done and search.result() == [near(250), near(251), near(252)] and search.queries == 5


def test_what_the_edge_brings_is_asked_too_and_the_edge_only_once():
    search = lookup(near(256), near(250), k=2, sweep=1)
    for node in asked(search):
        search.answered(node.node_id, [])
    assert search.next_queries() == [(near(250), [256, 255])]
    search.answered(near(250).node_id, [near(255)])
    assert not search.done and search.next_queries() == [(near(255), [255, 256, 254])]
    search.answered(near(255).node_id, [])
    assert search.done and search.result() == [near(250), near(255)]


def test_who_knows_too_few_asks_for_the_furthest():
    search = lookup(near(250), near(252), near(256), sweep=16)
    for node in asked(search):
        search.answered(node.node_id, [])
    assert search.next_queries() == [(near(250), [256, 255]), (near(252), [256, 255])]
    for distance in (250, 252):
        search.failed(near(distance).node_id)
    assert search.done and len(search.result()) == 3


def test_who_was_pushed_out_is_not_asked_about_the_edge():
    search = lookup(near(250), near(255, 9), near(256), k=3, parallelism=1, sweep=2, max_candidates=3)
    for _ in range(3):
        search.answered(asked(search)[0].node_id, [])
    assert search.next_queries() == [(near(250), [256, 255])]
    search.answered(near(250).node_id, [near(255, 0), near(255, 1)])
    assert search.result() == [near(250), near(255, 0), near(255, 1)]
    assert asked(search) == [near(255, 0)]


def test_of_too_many_candidates_the_closest_stay():
    search = lookup(near(250), near(240), near(230), max_candidates=3)
    asker = asked(search)[0]
    close, far = (FakeRecord(id_at(229 + step, 0, asker.node_id)) for step in (0, 1))
    assert log_distance(TARGET, close.node_id) == 230 and close != near(230)
    search.answered(near(250).node_id, [near(251)])
    assert search.result() == [near(230), near(240), near(250)]
    search.answered(asker.node_id, [close, far])
    assert search.result() == sorted([near(230), near(240), close, far], key=lambda node: node.node_id)[:3]


def test_when_all_fail_it_is_done():
    search = lookup(near(256), near(250), sweep=3, attempts=1)
    for node in asked(search):
        search.failed(node.node_id)
    assert search.done and search.result() == [] and search.next_queries() == []


def test_who_failed_is_left_out_and_does_not_come_back():
    search = lookup(near(256), near(200), attempts=1)
    assert asked(search) == [near(200), near(256)]
    search.failed(near(200).node_id)
    assert search.answered(near(256).node_id, [near(200)]) == [near(200)]
    assert search.done and search.result() == [near(256)]


def test_with_attempts_left_a_node_is_asked_again():
    search = lookup(near(200), attempts=3)
    for _ in range(2):
        assert asked(search) == [near(200)]
        search.failed(near(200).node_id)
        assert not search.done and search.result() == [near(200)]
    assert asked(search) == [near(200)]
    search.failed(near(200).node_id)
    assert search.done and search.result() == [] and search.queries == 3
    search.failed(near(200).node_id)


def test_the_newest_record_of_a_node_is_used():
    search = lookup(near(256), near(200, seq=5), parallelism=1, k=16)
    assert asked(search) == [near(200, seq=5)]
    search.answered(near(200).node_id, [])
    assert asked(search) == [near(256)]
    search.answered(near(256).node_id, [near(200, seq=4), near(200, seq=6), near(200, seq=5)])
    assert search.result() == [near(200, seq=6), near(256)]
    assert set(search.found()) == {near(256), near(200, seq=6)}


def test_our_own_id_is_no_candidate():
    search = lookup(FakeRecord(LOCAL), near(256))
    assert asked(search) == [near(256)]
    distance = log_distance(near(256).node_id, LOCAL)
    search = lookup(near(256), target=id_at(distance, 1, near(256).node_id))
    search.next_queries()
    assert search.answered(near(256).node_id, [FakeRecord(LOCAL)]) == []
    assert search.refused == {"own_id": 1, "excess": 0} and search.result() == [near(256)]


def test_a_predicate_only_chooses_what_is_found():
    def even(record):
        return record.node_id[-1] % 2 == 0

    nodes = [near(256, index) for index in range(10)]
    plain, picky = lookup(*nodes), lookup(*nodes, predicate=even)
    assert plain.next_queries() == picky.next_queries() and plain.result() == picky.result()
    assert plain.found() == nodes and picky.found() == nodes[::2]


@pytest.mark.hostile
@pytest.mark.parametrize("distance", [0, 1, 100, 248, 252, 256])
def test_hostile_088_records_at_other_distances_are_dropped(distance):
    node = near(250)
    wrong = FakeRecord(id_at(distance, 0, node.node_id)) if distance else node
    right = FakeRecord(id_at(249, 0, node.node_id))
    search = lookup(node)
    search.next_queries()
    assert search.answered(node.node_id, [wrong, right, wrong]) == [right]
    assert search.refused["distance"] == 2
    assert wrong in search.result() if wrong == node else wrong not in search.result()


@pytest.mark.hostile
def test_hostile_088_who_was_not_asked_is_not_heard():
    search = lookup(near(256))
    assert search.answered(near(256).node_id, [near(200)]) == []
    search.failed(near(256).node_id)
    assert search.refused["unasked"] == 1 and search.result() == [near(256)] and not search.done


@pytest.mark.hostile
def test_hostile_088_ten_thousand_records_in_an_answer():
    node = near(250)
    search = lookup(node)
    search.next_queries()
    taken = search.answered(node.node_id, (FakeRecord(id_at(250, i, node.node_id)) for i in range(10_000)))
    assert len(taken) == 48 and search.refused["excess"] == 9952


@pytest.mark.hostile
@pytest.mark.parametrize(("attempts", "answers"), [(1, 1.0), (1, 0.5), (3, 0.3)])
def test_hostile_088_nodes_that_always_know_somebody_closer_end_with_the_budget(attempts, answers):
    """Each of them answers with new ids, closer than all before: what they can cost is fixed."""
    config = {"max_candidates": 64, "max_queries": 50, "max_found": 100, "attempts": attempts, "sweep": 3}
    search, rng, serial = lookup(near(256), **config), Random(5), 0
    while not search.done:
        queries = search.next_queries()
        assert queries and len(search._asking) <= 3
        for node, distances in queries:
            serial += 1
            if serial > 1 and rng.random() > answers:
                search.failed(node.node_id)
                continue
            told = [FakeRecord(id_at(d, rng.getrandbits(d - 1), node.node_id)) for d in distances for _ in range(16)]
            search.answered(node.node_id, told)
        assert len(search._order) == len(search._records) <= 64
        assert len(search._found) <= 100 and len(search._attempts) <= 50 and len(search._answered) <= 50
        assert search._order == sorted(search._order)
    assert search.queries == 50 and len(search.result()) == 16


class Network:
    """Simulated nodes, each knowing 16 of the others in every bucket, and telling of them in random order."""

    def __init__(self, size: int, rng: Random) -> None:
        self.rng = rng
        self.nodes = [FakeRecord(rng.randbytes(32)) for _ in range(size)]
        self.tables: dict[bytes, dict[int, list[FakeRecord]]] = {}
        for node in self.nodes:
            buckets: dict[int, list[FakeRecord]] = {}
            for other in rng.sample(self.nodes, size):
                distance = log_distance(node.node_id, other.node_id)
                if len(buckets.setdefault(distance, [])) < 16:
                    buckets[distance].append(other)
            self.tables[node.node_id] = buckets

    def answer(self, node: FakeRecord, distances: list[int]) -> list[FakeRecord]:
        buckets = self.tables[node.node_id]
        known = [buckets.get(distance, []) for distance in distances]
        return [each for bucket in known for each in self.rng.sample(bucket, len(bucket))][:16]

    def closest(self, target: bytes, among: list[FakeRecord] | None = None) -> list[FakeRecord]:
        goal = int.from_bytes(target, "big")
        found = self.nodes if among is None else among
        return sorted(found, key=lambda node: int.from_bytes(node.node_id, "big") ^ goal)[:16]

    def run(self, search: Lookup[FakeRecord], rng: Random, dead: frozenset[bytes] = frozenset()) -> None:
        under_way: list[tuple[FakeRecord, list[int]]] = []
        while not search.done:
            under_way += search.next_queries()
            assert 0 < len(under_way) <= 3
            node, distances = under_way.pop(rng.randrange(len(under_way)))
            if node.node_id in dead:
                search.failed(node.node_id)
            else:
                search.answered(node.node_id, self.answer(node, distances))


@pytest.fixture(scope="module")
def network():
    return Network(500, Random(11))


def test_lookups_among_500_find_the_16_closest(network):
    rng, exact, queries = Random(3), 0, []
    for _ in range(100):
        target = rng.randbytes(32)
        search = lookup(*rng.sample(network.nodes, 3), target=target, sweep=3)
        network.run(search, rng)
        exact += search.result() == network.closest(target)
        queries.append(search.queries)
        assert not search.refused["distance"]
    assert exact == 100
    assert max(queries) <= 40


def test_a_lookup_of_a_node_finds_it_first(network):
    rng = Random(4)
    for node in network.nodes[:20]:
        search = lookup(*rng.sample(network.nodes, 3), target=node.node_id, sweep=3)
        network.run(search, rng)
        assert search.result() == network.closest(node.node_id)
        assert search.result()[0] == node


def test_lookups_find_the_closest_that_live_when_a_third_is_dead(network):
    rng, found, there = Random(6), 0, 0
    for _ in range(50):
        dead = frozenset(node.node_id for node in network.nodes if rng.random() < 0.33)
        live = [node for node in network.nodes if node.node_id not in dead]
        target = rng.randbytes(32)
        search = lookup(*rng.sample(live, 3), target=target, sweep=3)
        network.run(search, rng, dead)
        assert not any(node.node_id in dead for node in search.result())
        found += len(set(search.result()) & set(network.closest(target, live)))
        there += 16
    assert found / there >= 0.99


@pytest.mark.hostile
def test_hostile_088_an_eclipse_set_that_names_only_itself_stays_bounded(network):
    """A hundred nodes around the target answer with one another only: the lookup ends, and honest nodes stay known."""
    rng, target = Random(8), bytes(range(32))
    evil = [FakeRecord(id_at(distance, index, target)) for distance in range(200, 220) for index in range(5)]
    ids = {node.node_id for node in evil}
    search = lookup(*rng.sample(network.nodes, 3), *evil[:2], target=target, sweep=3)
    while not search.done:
        for node, distances in search.next_queries():
            told = network.answer(node, distances) if node.node_id not in ids else []
            told += [each for each in evil if log_distance(node.node_id, each.node_id) in distances]
            search.answered(node.node_id, told)
    assert search.queries <= 128 and len(search._order) <= 256
    assert {node.node_id for node in search.result()} <= ids
    assert set(network.closest(target)) & set(search.found())


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "answer", "fail"]), st.integers(0, 7), st.lists(st.integers(0, 30))),
        max_size=80,
    ),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(0, 3),
)
def test_whatever_happens_a_lookup_keeps_its_rules(ops, k, parallelism, attempts, sweep):
    ids = [near(254 + index % 3, index) for index in range(31)]
    bounds = {"max_candidates": 12, "max_queries": 20, "max_found": 9, "attempts": attempts, "sweep": sweep}
    search = lookup(*ids[:4], k=k, parallelism=parallelism, **bounds)
    open_queries: dict[bytes, list[int]] = {}
    tries: dict[bytes, int] = {}
    finished = None
    for what, index, told in ops:
        known = list(open_queries)
        name = known[index % len(known)] if known else ids[index].node_id
        if what == "ask":
            for node, distances in search.next_queries():
                assert node.node_id not in open_queries and 1 <= len(distances) <= 3
                tries[node.node_id] = tries.get(node.node_id, 0) + 1
                open_queries[node.node_id] = distances
        elif what == "answer":
            taken = search.answered(name, [ids[each] for each in told])
            distances = open_queries.pop(name, [])
            assert all(log_distance(name, each.node_id) in distances for each in taken)
        else:
            search.failed(name)
            open_queries.pop(name, None)
        assert len(open_queries) <= parallelism and sum(tries.values()) == search.queries <= 20
        assert all(count <= attempts + (sweep > 0) for count in tries.values())
        assert len(search._order) == len(search._records) <= 12 and len(search.found()) <= 9
        assert search._order == sorted(search._order)
        result = search.result()
        assert len(result) <= k and len(set(result)) == len(result)
        if search.done and finished is None:
            finished = result
        assert finished is None or (search.done and result == finished and search.next_queries() == [])
    while not search.done:
        open_queries.update((node.node_id, distances) for node, distances in search.next_queries())
        assert open_queries or search.done  # there is always somebody to wait for
        if open_queries:
            search.failed(open_queries.popitem()[0])
