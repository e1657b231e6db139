"""Backoffs: what a peer may ask for, that they only grow, that they are bounded, and when they end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.pubsub.backoffs import Backoffs
from tests.unit.pubsub.router_support import names, pid

DEFAULT, LONGEST = 60.0, 3600.0
A, B, C = map(pid, "abc")


def backoffs(max_count: int = 100) -> Backoffs:
    return Backoffs(DEFAULT, LONGEST, max_count)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (None, DEFAULT),
        (0, DEFAULT),
        (1, 1.0),
        (59, 59.0),
        (10.5, 10.5),
        (3600, LONGEST),
        (3601, LONGEST),
        (2**63, LONGEST),
        (2**64 - 1, LONGEST),
    ],
)
@pytest.mark.hostile
def test_hostile_066_what_is_asked_for_is_clamped(asked, kept):
    table = backoffs()
    table.add("t", A, asked, 100.0)
    assert table.until("t", A) == 100.0 + kept
    assert isinstance(table.until("t", A), float)


def test_a_backoff_is_of_one_peer_in_one_topic():
    table = backoffs()
    table.add("t", A, 10, 0.0)
    assert table.active("t", A)
    assert not table.active("t", B) and not table.active("u", A)
    assert table.until("t", B) is None and table.until("u", A) is None
    assert len(table) == 1


def test_a_backoff_is_never_shortened():
    table = backoffs()
    table.add("t", A, 100, 0.0)
    table.add("t", A, 1, 0.0)
    table.add("t", A, None, 10.0)
    assert table.until("t", A) == 100.0


def test_a_backoff_is_extended():
    table = backoffs()
    table.add("t", A, 10, 0.0)
    table.add("t", A, 20, 5.0)
    assert table.until("t", A) == 25.0
    table.expire(10.0)
    assert table.active("t", A)
    table.expire(24.9)
    assert table.active("t", A)
    table.expire(25.0)
    assert not table.active("t", A) and len(table) == 0


def test_expire_takes_away_what_has_ended_and_nothing_else():
    table = backoffs()
    for seconds, peer in ((30, A), (10, B), (20, C)):
        table.add("t", peer, seconds, 0.0)
    table.expire(9.9)
    assert len(table) == 3
    table.expire(20.0)
    assert table.active("t", A) and not table.active("t", B) and not table.active("t", C)
    table.expire(1e9)
    assert len(table) == 0
    table.add("t", B, 10, 2e9)  # and begins anew
    assert table.until("t", B) == 2e9 + 10


def test_extending_a_thousand_times_takes_one_place():
    table = backoffs()
    for step in range(1000):
        table.add("t", A, None, float(step))
    assert len(table) == 1 and len(table._due) == 1
    table.expire(999.0 + DEFAULT)
    assert len(table) == 0 and not table._due


@pytest.mark.hostile
def test_hostile_066_fresh_ids_find_no_more_than_the_bound_and_the_first_to_end_gives_way():
    table = backoffs(max_count=3)
    for seconds, peer in ((30, A), (10, B), (20, C)):
        table.add("t", peer, seconds, 0.0)
    table.add("t", pid("d"), 5, 1.0)
    assert len(table) == 3 and len(table._due) == 3
    assert table.active("t", A) and not table.active("t", B) and table.active("t", C) and table.active("t", pid("d"))
    for name in names("x", 50):
        table.add("t", pid(name), 40, 1.0)
    assert len(table) == 3 and len(table._due) == 3


@pytest.mark.hostile
def test_hostile_066_an_extended_backoff_is_not_pushed_out_as_if_it_ended_first():
    table = backoffs(max_count=2)
    table.add("t", A, 1, 0.0)
    table.add("t", B, 20, 0.0)
    table.add("t", A, LONGEST, 0.0)
    table.add("t", C, 30, 0.0)
    assert table.active("t", A) and not table.active("t", B) and table.active("t", C)


EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.sampled_from("abcd"),
            st.sampled_from([None, 0, 1, 5, 30, 100, 2**64 - 1]),
            st.floats(0, 50),
        ),
        st.tuples(st.just("expire"), st.just(""), st.none(), st.floats(0, 100)),
    ),
    max_size=40,
)


@given(EVENTS)
def test_it_is_a_table_of_the_latest_ends(events):
    table, model, now = backoffs(), {}, 0.0
    for what, name, seconds, step in events:
        now += step
        if what == "add":
            table.add("t", pid(name), seconds, now)
            until = now + (min(seconds, LONGEST) if seconds else DEFAULT)
            model[name] = max(model.get(name, until), until)
        else:
            table.expire(now)
            model = {each: until for each, until in model.items() if until > now}
        assert {each: table.until("t", pid(each)) for each in "abcd" if table.active("t", pid(each))} == model
        assert len(table) == len(table._due) == len(model)


@pytest.mark.hostile
def test_hostile_066_long_ones_leave_half_of_the_places_to_those_of_the_default_length():
    """Else who comes with fresh ids and asks for an hour each makes us forget every backoff that we set ourselves."""
    backoffs = Backoffs(60.0, 3600.0, max_count=100)
    for name in names("hostile", 200):
        backoffs.add("t", pid(name), 3600, 1000.0)
    assert sum(until == 4600 for until in backoffs._until.values()) == 50
    backoffs.expire(1060.0)
    assert len(backoffs) == 50
    backoffs.add("t", pid("victim"), None, 1060.0)
    for name in names("more", 49):
        backoffs.add("t", pid(name), 3600, 1061.0)
    assert backoffs.active("t", pid("victim"))
