"""The receive window and the memory account, as pure values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import MuxerError
from pyp2p.muxers.base import MemoryBudget
from pyp2p.muxers.bounds import MemoryAccount, RapidReset
from pyp2p.muxers.yamux.window import ReceiveWindow

KIB = 1024
SIZE = 256 * KIB


def account(limit: int = 1 << 30) -> MemoryAccount:
    return MemoryAccount(MemoryBudget(limit))


# rtt, seconds since the last credit, does it grow
GROWTH = [
    (None, 0.0, True),
    (None, 0.049, True),
    (None, 0.051, False),
    (0.1, 0.39, True),
    (0.1, 0.41, False),
    (1.0, 3.9, True),
    (0.00001, 0.009, True),  # on a loopback the round trip itself says little
    (0.00001, 0.011, False),
]


@pytest.mark.parametrize(("rtt", "seconds", "grows"), GROWTH)
def test_growth_follows_the_round_trip(rtt, seconds, grows):
    window, payer = ReceiveWindow(SIZE, 5.0), account()
    window.credit = 0
    due = window.credit_due(SIZE // 2, 5.0 + seconds, rtt, 1 << 24, payer)
    assert due == SIZE // 2 + (SIZE if grows else 0)
    assert window.credit == due
    assert payer.used == window.grown == (SIZE if grows else 0)
    assert window.since == 5.0 + seconds


def test_growth_stops_at_the_limit():
    window, payer = ReceiveWindow(SIZE, 0.0), account()
    sizes = []
    for _ in range(5):
        window.credit -= window.size // 2
        window.credit_due(window.size // 2, 0.0, None, 700 * KIB, payer)
        sizes.append(window.size // KIB)
    assert sizes == [512, 700, 700, 700, 700]
    assert window.credit == window.size


def test_growth_costs_only_what_unread_data_has_not_paid():
    window, payer = ReceiveWindow(SIZE, 0.0), account()
    window.credit = 0
    assert window.arrived(SIZE, payer)
    window.credit_due(SIZE // 2, 0.0, None, 1 << 24, payer)
    assert payer.used == SIZE
    assert window.grown == SIZE


def test_no_growth_without_money_but_the_credit_is_returned():
    window, payer = ReceiveWindow(SIZE, 0.0), account(SIZE - 1)
    assert window.credit_due(SIZE // 2, 0.0, None, 1 << 24, payer) == SIZE // 2
    assert (window.size, window.grown, payer.used) == (SIZE, 0, 0)


@pytest.mark.parametrize("scarce", ["own", "shared"])
def test_growth_leaves_half_of_every_budget_to_arriving_data(scarce):
    small, large = 4 * SIZE, 1 << 30
    shared = MemoryBudget(small if scarce == "shared" else large)
    payer = MemoryAccount(MemoryBudget(small if scarce == "own" else large, shared))
    windows = [ReceiveWindow(SIZE, 0.0) for _ in range(4)]
    for window in windows:
        window.credit_due(SIZE // 2, 0.0, None, 1 << 24, payer)
    assert [window.size // SIZE for window in windows] == [2, 2, 1, 1]
    assert all(window.arrived(SIZE, payer) for window in windows)


def test_what_cannot_be_paid_is_not_noted():
    window, payer = ReceiveWindow(SIZE, 0.0), account(1000)
    assert window.arrived(1000, payer)
    assert not window.arrived(1, payer)
    assert (window.unread, payer.used) == (1000, 1000)


@given(st.lists(st.integers(-40_000, 40_000), max_size=60), st.integers(0, 300_000))
def test_the_account_never_owes_more_than_it_reserved(steps, limit):
    budget = MemoryBudget(limit)
    payer = MemoryAccount(budget)
    used = 0
    for step in steps:
        if step > 0:
            fits = used + step <= limit
            assert payer.charge(step) == fits
            used += step if fits else 0
        else:
            back = min(-step, used)
            payer.discharge(back)
            used -= back
        assert payer.used == used <= payer.reserved == budget.used <= limit
        assert budget.used < used + 5 * 16 * KIB
        assert used or not budget.used
    payer.close()
    payer.close()
    assert budget.used == 0
    assert not payer.charge(1)
    payer.discharge(10)
    assert budget.used == 0


def test_rapid_reset_bucket():
    bucket = RapidReset(rate=2.0, burst=3, now=0.0)
    for _ in range(3):
        bucket.count(0.0)
    bucket.count(0.5)
    with pytest.raises(MuxerError):
        bucket.count(0.9)
    bucket = RapidReset(rate=2.0, burst=3, now=0.0)
    for _ in range(3):
        bucket.count(1000.0)
    with pytest.raises(MuxerError):
        bucket.count(1000.0)
