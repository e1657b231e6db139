"""Quotas delay and do not refuse; what is given up is given back; nothing grows."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.reqresp.rate import Bucket, Buckets, Rate

TWO_IN_TEN = Rate(0.2, 2)


def test_a_burst_is_free_and_then_each_waits_for_its_own_token():
    bucket = Bucket(TWO_IN_TEN, 100.0)
    assert [bucket.reserve(1, 100.0) for _ in range(4)] == pytest.approx([0, 0, 5, 10])
    assert bucket.reserve(1, 104.0) == pytest.approx(11)


def test_tokens_come_back_up_to_the_burst():
    bucket = Bucket(TWO_IN_TEN, 0.0)
    bucket.reserve(2, 0.0)
    assert [bucket.reserve(1, 1e9) for _ in range(3)] == pytest.approx([0, 0, 5])


def test_what_costs_more_than_a_burst_costs_a_burst():
    bucket = Bucket(TWO_IN_TEN, 0.0)
    assert bucket.reserve(2**64, 0.0) == 0
    assert bucket.reserve(2**64, 0.0) == pytest.approx(10)


def test_who_gives_up_the_wait_gives_its_tokens_back():
    bucket = Bucket(TWO_IN_TEN, 0.0)
    bucket.reserve(2, 0.0)
    for _ in range(1000):
        assert bucket.reserve(1, 0.0) == pytest.approx(5)
        bucket.refund(1)
    bucket.refund(2**64)
    assert [bucket.reserve(1, 0.0) for _ in range(3)] == pytest.approx([0, 0, 5])


def test_a_clock_that_goes_back_adds_nothing():
    bucket = Bucket(TWO_IN_TEN, 100.0)
    bucket.reserve(2, 100.0)
    assert bucket.reserve(1, 0.0) == pytest.approx(5)
    assert bucket.reserve(1, 100.0) == pytest.approx(10)


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 10)), max_size=50))
def test_never_more_than_the_burst_and_the_rate_allow(takings):
    rate = Rate(3, 5)
    bucket, now, given_out = Bucket(rate, 0.0), 0.0, 0
    last = 0.0
    for count, later in takings:
        now += later
        at = now + bucket.reserve(count, now)
        given_out += count
        assert given_out <= rate.burst + rate.per_second * at + 1e-6
        assert at >= last - 1e-6, "who came first goes first"
        last = at


@pytest.mark.hostile
def test_hostile_080_buckets_are_bounded_and_those_in_use_stay():
    buckets = Buckets(10)
    mine = buckets.get("mine", TWO_IN_TEN, 0.0)
    for number in range(10_000):
        buckets.get(number, TWO_IN_TEN, 0.0)
        assert buckets.get("mine", TWO_IN_TEN, 0.0) is mine
        assert len(buckets) <= 10


@pytest.mark.parametrize(
    ("per_second", "burst"), [(0, 1), (-1, 1), (math.inf, 1), (math.nan, 1), (1, 0.5), (1, math.inf)]
)
def test_a_rate_by_which_nothing_comes_is_refused(per_second, burst):
    with pytest.raises(ValueError):
        Rate(per_second, burst)
