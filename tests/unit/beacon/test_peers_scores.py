"""The score of one peer: what faults cost, how they fade, what gossip and good deeds are worth."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.beacon.scores import BAN_AT, DISCONNECT_AT, Score, Tolerance

GRAYLIST = -16_000.0


@pytest.mark.parametrize(
    ("tolerance", "to_disconnect", "to_ban"),
    [(Tolerance.FATAL, 1, 1), (Tolerance.LOW, 2, 5), (Tolerance.MID, 4, 10), (Tolerance.HIGH, 20, 50)],
)
def test_how_many_faults_at_once_are_too_many(tolerance: Tolerance, to_disconnect: int, to_ban: int) -> None:
    score = Score()
    totals = []
    for _ in range(to_ban):
        score.fault(tolerance, 0.0)
        totals.append(score.total(0.0))
    assert next(at for at, total in enumerate(totals, 1) if total <= DISCONNECT_AT) == to_disconnect
    assert next(at for at, total in enumerate(totals, 1) if total <= BAN_AT) == to_ban


@pytest.mark.parametrize(
    ("seconds", "left"), [(0, -40), (600, -20), (1200, -10), (6000, -40 / 1024), (12_000, 0), (-50, -40)]
)
def test_half_of_it_is_gone_after_ten_minutes(seconds: float, left: float) -> None:
    assert Score(-40.0, 100.0).behaviour(100.0 + seconds) == pytest.approx(left)


def test_faults_that_are_apart_fade_apart() -> None:
    score = Score()
    score.fault(Tolerance.LOW, 0.0)
    score.fault(Tolerance.LOW, 600.0)
    assert score.behaviour(600.0) == -15 and score.behaviour(1200.0) == -7.5
    score.fault(Tolerance.MID, 0.0)  # the clock went back: nothing fades, nothing grows
    assert score.behaviour(0.0) == score.behaviour(600.0) == -20


@pytest.mark.parametrize(
    ("gossip", "part"),
    [
        (0.0, 0.0),
        (-8_000.0, -9.5),
        (-16_000.0, -19.0),
        (-1e300, -19.0),
        (-math.inf, -19.0),
        (40.0, 40.0),
        (1e300, 90.0),
        (math.inf, 90.0),
        (math.nan, 0.0),
    ],
)
def test_gossip_counts_in_bounds(gossip: float, part: float) -> None:
    score = Score()
    score.gossips(gossip, GRAYLIST)
    assert score.total(0.0) == part > DISCONNECT_AT


def test_a_fault_beside_the_worst_of_gossip_is_enough() -> None:
    score = Score()
    score.gossips(-math.inf, GRAYLIST)
    score.fault(Tolerance.HIGH, 0.0)
    assert score.total(0.0) == DISCONNECT_AT


def test_good_deeds_buy_nothing() -> None:
    score = Score()
    for _ in range(100):
        score.credit(1.0, 0.0)
    assert score.total(0.0) == 10
    score.gossips(90.0, GRAYLIST)
    assert score.total(0.0) == 100
    score.fault(Tolerance.LOW, 0.0)
    assert score.total(0.0) == -10
    score.credit(5.0, 0.0)
    assert score.total(0.0) == -10
    score.fault(Tolerance.LOW, 0.0)
    assert score.total(0.0) == DISCONNECT_AT


@given(
    st.lists(
        st.tuples(st.sampled_from([*Tolerance, "credit", "gossip"]), st.floats(allow_nan=True), st.floats(-1e9, 1e9)),
        max_size=30,
    )
)
def test_whatever_happens_the_score_is_in_its_bounds(steps) -> None:
    score = Score()
    for what, value, now in steps:
        if what == "credit":
            score.credit(1.0, now)
        elif what == "gossip":
            score.gossips(value, GRAYLIST)
        else:
            score.fault(what, now)
        assert -100 <= score.total(now) <= 100
        assert -100 <= score.behaviour(now) <= 10
