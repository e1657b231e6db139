"""Rates by subnet and for all, and votes on our address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.discv5.limits import Rate, RateConfig, RateLimit, RateLimits, VoteConfig, Votes
from pyp2p.discv5.lookup import LookupConfig
from pyp2p.discv5.node import Endpoint, canonical
from pyp2p.discv5.table import TableConfig
from pyp2p.discv5.types import Discv5Config
from tests.unit.discv5.support import public

FREE = Rate(1e9, 1e9)


def rate_limit(per_subnet=FREE, total=FREE, max_subnets=100, exempt=True) -> RateLimit:
    return RateLimit(per_subnet, total, max_subnets, exempt)


def refuse(limit, ip, now=0.0):
    return limit.refuse(canonical(ip), now)


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("same", "other"),
    [
        (["8.8.8.1", "8.8.8.2", "::ffff:8.8.8.3"], "8.8.9.1"),
        (["2a00::1", "2a00::2", "2a00:0:0:ffff::"], "2a00:0:1::"),
        (["127.0.0.1", "127.0.0.2", "127.0.0.3"], "127.0.1.1"),
    ],
)
def test_hostile_088_a_subnet_has_one_bucket(same, other):
    limit = rate_limit(Rate(1, 3), exempt=False)
    assert [refuse(limit, ip) for ip in same] == [None] * 3
    assert [refuse(limit, ip) for ip in same] == ["subnet"] * 3
    assert refuse(limit, other) is None
    assert refuse(limit, same[0], 0.9) == "subnet"
    assert refuse(limit, same[1], 1.0) is None
    assert refuse(limit, same[2], 1.0) == "subnet"
    assert [refuse(limit, same[0], 100.0) for _ in range(4)] == [None] * 3 + ["subnet"]


@pytest.mark.hostile
def test_hostile_088_ten_thousand_sources_share_the_rate_of_all_and_a_bounded_table():
    limit = rate_limit(Rate(1, 5), Rate(100, 200), max_subnets=50)
    done = sum(refuse(limit, public(index)) is None for index in range(10_000))
    assert done == 200 and len(limit) == 50
    assert refuse(limit, public(60_000), 0.001) == "total"
    assert sum(refuse(limit, public(index), 1.0) is None for index in range(10_000)) == 100


def test_what_is_refused_takes_nothing():
    limit = rate_limit(Rate(1, 1), Rate(1, 2))
    assert refuse(limit, "8.8.8.8") is None
    assert [refuse(limit, "8.8.8.8") for _ in range(10)] == ["subnet"] * 10
    assert refuse(limit, "9.9.9.9") is None  # the second of all
    assert [refuse(limit, "7.7.7.7") for _ in range(10)] == ["total"] * 10 and len(limit) == 2
    assert refuse(limit, "7.7.7.7", 1.0) is None


def test_the_subnet_that_was_used_last_is_remembered():
    limit = rate_limit(Rate(1, 1), max_subnets=2)
    assert [refuse(limit, ip) for ip in ("1.1.1.1", "2.2.2.2", "1.1.1.1")] == [None, None, "subnet"]
    assert refuse(limit, "3.3.3.3") is None
    assert refuse(limit, "1.1.1.1") == "subnet" and refuse(limit, "2.2.2.2") is None


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_exempt_by_config(ip):
    free, bound = rate_limit(Rate(1, 1), Rate(1, 1)), rate_limit(Rate(1, 1), Rate(1, 1), exempt=False)
    assert [refuse(free, ip) for _ in range(3)] == [None] * 3 and len(free) == 0
    assert [refuse(bound, ip) for _ in range(3)] == [None, "subnet", "subnet"]


def test_challenges_handshakes_and_requests_are_counted_apart():
    limits = RateLimits(RateConfig(Rate(1, 2), Rate(1, 3), Rate(1, 1), Rate(1, 2), Rate(1, 3), Rate(1, 4)))
    assert [limits.challenge("8.8.8.8", 0.0) for _ in range(3)] == [None, None, "challenges_subnet"]
    assert [limits.challenge("9.9.9.9", 0.0) for _ in range(2)] == [None, "challenges_total"]
    assert [limits.handshake("8.8.8.8", 0.0) for _ in range(2)] == [None, "handshakes_subnet"]
    assert [limits.handshake(ip, 0.0) for ip in ("9.9.9.9", "7.7.7.7")] == [None, "handshakes_total"]
    assert [limits.request("8.8.8.8", 0.0) for _ in range(4)] == [None, None, None, "requests_subnet"]
    assert [limits.request(ip, 0.0) for ip in ("9.9.9.9", "7.7.7.7")] == [None, "requests_total"]
    assert len(limits) == 6
    free = RateLimits()
    assert free.challenge("8.8.8.8", 0.0) is free.handshake("8.8.8.8", 0.0) is free.request("8.8.8.8", 0.0) is None


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Rate, {"per_second": 0, "burst": 1}),
        (Rate, {"per_second": 1, "burst": 0.5}),
        (RateConfig, {"max_subnets": 0}),
        (VoteConfig, {"minimum": 0}),
        (VoteConfig, {"window": 0}),
        (VoteConfig, {"max_votes": 0}),
        (TableConfig, {"bucket_size": 0}),
        (TableConfig, {"max_incoming": 0}),
        (TableConfig, {"replacements": -1}),
        (TableConfig, {"check_min": 0}),
        (TableConfig, {"check_max": 1}),
        (TableConfig, {"refresh": 0}),
        (LookupConfig, {"per_subnet": 0}),
        (LookupConfig, {"sweep": -1}),
        (Discv5Config, {"max_talks": -1}),
        (Discv5Config, {"attempts": 0}),
        (Discv5Config, {"challenge_ttl": 0}),
    ],
)
def test_settings_that_make_no_sense_are_told(kind, wrong):
    with pytest.raises(ValueError, match=r"must be|is below") as error:
        kind(**wrong)
    assert any(name in str(error.value) for name in wrong)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), max_size=100),
    st.integers(1, 4),
    st.integers(1, 8),
)
def test_rates_are_those_of_token_buckets(events, burst, total):
    limit, now = rate_limit(Rate(0.5, burst), Rate(1, total), max_subnets=10), 0.0
    tokens, all_tokens = dict.fromkeys(range(6), float(burst)), float(total)
    for place, wait in events:
        now += wait
        tokens = {each: min(float(burst), count + wait * 0.5) for each, count in tokens.items()}
        all_tokens = min(float(total), all_tokens + wait)
        outcome = refuse(limit, public(place), now)
        assert outcome == (None if tokens[place] >= 1 <= all_tokens else "subnet" if tokens[place] < 1 else "total")
        if outcome is None:
            tokens[place] -= 1
            all_tokens -= 1


def test_a_clock_that_goes_back_adds_nothing():
    limit = rate_limit(Rate(1, 1))
    assert refuse(limit, "8.8.8.8", 100.0) is None
    assert refuse(limit, "8.8.8.8", 50.0) == "subnet" == refuse(limit, "8.8.8.8", 100.5)
    assert refuse(limit, "8.8.8.8", 101.0) is None


# --- votes

US, THEM, SIX = Endpoint("5.5.5.5", 9000), Endpoint("6.6.6.6", 9000), Endpoint("2a00::5", 9000)


def voter(index: int, host: int = 1) -> Endpoint:
    return Endpoint(public(index, host), 9000)


def votes(minimum: int = 3, window: float = 100.0, max_votes: int = 50) -> Votes:
    return Votes(VoteConfig(minimum, window, max_votes))


def test_a_majority_with_enough_voters_elects():
    table = votes()
    assert [table.vote(voter(index), US, 0.0) for index in range(5)] == [None, None, US, US, US]


def test_half_is_no_majority():
    table = votes()
    for index in range(3):
        table.vote(voter(100 + index), Endpoint("5.5.5.5", 1000 + index), 0.0)  # a NAT: another port for everybody
    assert [table.vote(voter(index), US, 0.0) for index in range(4)] == [None, None, None, US]


def test_a_new_majority_elects_again():
    table = votes()
    for index in range(5):
        table.vote(voter(index), US, 0.0)
    assert [table.vote(voter(index), THEM, 1.0) for index in range(5)] == [None, None, THEM, THEM, THEM]


@pytest.mark.hostile
def test_hostile_088_a_subnet_has_one_vote_its_last():
    table = votes()
    assert [table.vote(voter(1, host), US, 0.0) for host in range(1, 200)] == [None] * 199 and len(table) == 1
    table.vote(voter(2), US, 0.0)
    table.vote(voter(1, 7), THEM, 0.0)
    assert table.vote(voter(3), US, 0.0) is None
    assert table.vote(voter(1, 9), US, 0.0) == US
    six = [Endpoint(f"2a00:0:1:{index}::1", 1) for index in range(1, 9)]
    assert [table.vote(each, SIX, 0.0) for each in six] == [None] * 8 and len(table) == 4


def test_votes_count_within_the_window():
    table = votes()
    table.vote(voter(1), US, 0.0)
    table.vote(voter(2), US, 50.0)
    assert table.vote(voter(3), US, 100.0) is None and len(table) == 2
    assert table.vote(voter(4), US, 149.9) == US


def test_families_are_elected_apart():
    table = votes(2)
    table.vote(voter(1), US, 0.0)
    assert table.vote(Endpoint("2a00:0:1::1", 1), SIX, 0.0) is None
    assert table.vote(Endpoint("2a00:0:2::1", 1), SIX, 0.0) == SIX
    assert table.vote(voter(2), Endpoint("::ffff:5.5.5.5", 9000), 0.0) == US


def test_on_loopback_each_endpoint_votes():
    table, here = votes(), Endpoint("127.0.0.1", 9000)
    outcome = [table.vote(Endpoint("127.0.0.1", port), here, 0.0) for port in (1, 1, 2, 2, 3)]
    assert outcome == [None] * 4 + [here]


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("by", "claimed"),
    [
        ("8.8.8.8", Endpoint("10.0.0.1", 9000)),
        ("8.8.8.8", Endpoint("127.0.0.1", 9000)),
        ("8.8.8.8", Endpoint("224.0.0.1", 9000)),
        ("8.8.8.8", Endpoint("0.0.0.0", 9000)),
        ("8.8.8.8", Endpoint("5.5.5.5", 0)),
        ("8.8.8.8", SIX),
        ("2a00::1", US),
        ("10.0.0.1", Endpoint("127.0.0.1", 9000)),
    ],
)
def test_hostile_088_votes_for_what_cannot_be_are_not_counted(by, claimed):
    table = votes(1)
    assert table.vote(Endpoint(by, 1), claimed, 0.0) is None and len(table) == 0


@pytest.mark.hostile
def test_hostile_088_votes_are_bounded_and_the_oldest_goes():
    table = votes(max_votes=5)
    for index in range(1000):
        table.vote(voter(index), Endpoint(public(index, 9), 9000), 0.0)
    assert len(table) == 5 and len(table._ballots[4].tally) == 5
    outcome = [table.vote(voter(2000 + index), US, 0.0) for index in range(5)]
    assert outcome == [None, None, US, US, US]


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2), st.integers(0, 30)), max_size=80))
def test_votes_are_the_last_of_each_voter(events):
    table, now, last = votes(2, 40.0, 6), 0.0, {}
    for who, what, wait in events:
        now += wait
        claimed = Endpoint(public(100 + what), 9)
        last.pop(who, None)
        last = {each: vote for each, vote in last.items() if now - vote[1] < 40}
        if len(last) == 6:
            last.pop(next(iter(last)))
        last[who] = (claimed, now)
        count = sum(vote[0] == claimed for vote in last.values())
        won = count >= 2 and 2 * count > len(last)
        assert table.vote(voter(who), claimed, now) == (claimed if won else None)
        assert len(table) == len(last)
        assert sum(table._ballots[4].tally.values()) == len(last)
