"""Limits of connections and streams: every refusal named, every counter back where it was."""

import ipaddress
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import LimitExceeded, LocalProtocolError
from pyp2p.muxers.base import MuxerLimits
from pyp2p.peer.id import PeerId
from pyp2p.switch.config import Backoff, Limits, Timeouts
from pyp2p.switch.limits import Budget, ConnectionLimits, StreamBudgets

IP = ipaddress.ip_address
ANNE, BOB = PeerId(b"\x12\x20" + b"a" * 32), PeerId(b"\x12\x20" + b"b" * 32)


def refused(call, *args) -> str:
    with pytest.raises(LimitExceeded) as caught:
        call(*args)
    assert caught.value.code == f"limit.{caught.value.limit}"
    return caught.value.limit


@pytest.mark.parametrize(
    ("limits", "address", "free"),
    [
        ({"connections": 3, "inbound": 3, "per_peer": 3}, None, 3),
        ({"inbound": 2}, None, 2),
        ({"pending_inbound": 4}, None, 4),
        ({"per_ip4": 2}, "192.0.2.1", 2),
        ({"per_ip4": 2}, "::ffff:192.0.2.1", 2),
        ({"per_ip6_56": 2}, "2001:db8::1", 2),
        ({"per_ip6_48": 2, "per_ip6_56": 5}, "2001:db8::1", 2),
        ({"ip_burst": 5, "per_ip4": 100}, "192.0.2.1", 5),
    ],
    ids=["connections", "inbound", "pending_inbound", "per_ip4", "mapped", "per_ip6_56", "per_ip6_48", "ip_rate"],
)
def test_each_inbound_limit_refuses_the_next_and_gives_its_place_back(limits: dict, address, free: int) -> None:
    table = ConnectionLimits(Limits(**limits))
    before = table.counters()
    remote = None if address is None else IP(address)
    tickets = [table.try_inbound(remote, 0.0) for _ in range(free)]
    name = refused(table.try_inbound, remote, 0.0)
    assert name == ("ip_rate" if "ip_burst" in limits else next(iter(limits)))
    for ticket in tickets:
        ticket.release()
        ticket.release()  # idempotent
    assert table.counters() == before
    if name != "ip_rate":
        table.try_inbound(remote, 1000.0).release()


def test_outbound_limits() -> None:
    table = ConnectionLimits(Limits(pending_outbound=2, connections=3, inbound=1, per_peer=1))
    first, second = table.try_outbound(), table.try_outbound()
    assert refused(table.try_outbound) == "pending_outbound"
    first.bind(ANNE)
    second.bind(BOB)
    third = table.try_outbound()
    assert refused(third.bind, ANNE) == "per_peer"
    assert refused(table.try_outbound) == "connections"
    for ticket in (first, second, third):
        ticket.release()
    assert set(table.counters().values()) == {0}


def test_a_rate_recovers_with_time_and_counts_a_prefix_of_ipv6() -> None:
    table = ConnectionLimits(Limits(ip_burst=2, ip_rate=0.5, per_ip6_56=100, per_ip6_48=100))
    near, far = IP("2001:db8:0:1::1"), IP("2001:db8:0:1:ffff::2")
    table.try_inbound(near, 0.0)
    table.try_inbound(far, 0.0)
    assert refused(table.try_inbound, near, 1.0) == "ip_rate"
    table.try_inbound(near, 3.1)
    table.try_inbound(IP("2001:db8:5::1"), 3.1)  # another /56


def test_loopback_is_exempt_and_allowed_networks_get_in_when_all_is_full() -> None:
    table = ConnectionLimits(
        Limits(
            connections=4,
            inbound=2,
            per_ip4=1,
            ip_burst=1,
            per_peer=4,
            allow_networks=(ipaddress.ip_network("203.0.113.0/24"),),
            allow_connections=1,
        )
    )
    for _ in range(2):
        table.try_inbound(IP("127.0.0.1"), 0.0)
    assert refused(table.try_inbound, IP("127.0.0.1"), 0.0) == "inbound"
    table.try_inbound(IP("203.0.113.7"), 0.0)
    assert refused(table.try_inbound, IP("203.0.113.7"), 0.0) == "inbound"


def test_the_table_of_rates_is_bounded() -> None:
    table = ConnectionLimits(Limits(connections=10, inbound=10))
    for n in range(20_000):
        table.try_inbound(ipaddress.IPv4Address((11 << 24) + n), 0.0).release()
    assert len(table._buckets) <= 8192


@pytest.mark.parametrize(
    "wrong",
    [
        {"connections": 0},
        {"inbound": 5000},
        {"per_peer": 5000},
        {"memory_per_connection": 1 << 40},
        {"event_queue": 0},
        {"dial_peers": 0},
        {"dial_addresses": -1},
        {"parked_streams": -1},
        {"ip_rate": -0.1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_limits_that_make_no_sense_are_told_at_the_start(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)


def test_a_ticket_is_bound_once_and_not_after_its_release() -> None:
    table = ConnectionLimits(Limits())
    bound, released = table.try_outbound(), table.try_outbound()
    bound.bind(ANNE)
    released.release()
    for ticket in (bound, released):
        with pytest.raises(LocalProtocolError):
            ticket.bind(BOB)
    bound.release()
    assert set(table.counters().values()) == {0}


def test_refusals_are_counted_by_name() -> None:
    table = ConnectionLimits(Limits())
    for name in ("inbound", "inbound", "per_peer"):
        table.count_refusal(LimitExceeded(name, "x"))
    assert table.counters()["refused.limit.inbound"] == 2
    assert table.counters()["refused.limit.per_peer"] == 1


@given(st.lists(st.tuples(st.sampled_from("iobr"), st.integers(0, 9)), max_size=60))
def test_whatever_happens_the_counters_are_those_of_the_open_tickets(moves) -> None:
    table = ConnectionLimits(Limits(per_ip4=3, per_peer=2, pending_inbound=5, pending_outbound=5, ip_burst=1000))
    held = []
    for move, n in moves:
        try:
            if move == "i":
                held.append(table.try_inbound(IP(f"192.0.2.{n}"), 0.0))
            elif move == "o":
                held.append(table.try_outbound())
            elif held and move == "b" and held[n % len(held)].pending:
                held[n % len(held)].bind((ANNE, BOB)[n % 2])
            elif held and move == "r":
                held.pop(n % len(held)).release()
        except LimitExceeded:
            pass
        counters = table.counters()
        assert counters["connections"] == len(held)
        assert counters["inbound"] == sum(ticket.inbound for ticket in held)
        assert counters["pending_inbound"] == sum(ticket.inbound and ticket.pending for ticket in held)
        assert counters["peers"] == len({ticket.peer for ticket in held} - {None})
    for ticket in held:
        ticket.release()
    assert set(table.counters().values()) <= {0}


def test_stream_budgets() -> None:
    budgets = StreamBudgets()
    budget = Budget(per_peer=2, total=3)
    for peer in (ANNE, ANNE, BOB):
        budgets.acquire(peer, "/x", budget)
    assert refused(budgets.acquire, ANNE, "/x", budget) == "streams_per_protocol_and_peer"
    assert refused(budgets.acquire, BOB, "/x", budget) == "streams_per_protocol"
    budgets.acquire(BOB, "/y", budget)
    for peer, name in ((ANNE, "/x"), (ANNE, "/x"), (BOB, "/x"), (BOB, "/y")):
        budgets.release(peer, name)
    assert budgets.in_use == 0


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Timeouts(upgrade=-1), "timeouts.upgrade"),
        (lambda: Timeouts(dial=math.nan), "timeouts.dial"),
        (lambda: Backoff(entries=0), "backoff.entries"),
        (lambda: Backoff(factor=0.5), "backoff.factor"),
        (lambda: Backoff(jitter=1), "backoff.jitter"),
        (lambda: Backoff(cap=math.inf), "backoff.cap"),
        (lambda: Limits(muxer=MuxerLimits(max_inbound_streams=-5)), "limits.muxer.max_inbound_streams"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers_that_make_no_sense_are_told_at_once(make, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        make()
