"""What is remembered of peers: addresses by source, backoff, bans; all bounded."""

import random
from dataclasses import fields
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.dialer.tables import Backoffs, Candidate, Candidates, DialerConfig
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.peer.store import Source

STRANGERS = (Source.ALTERNATE, Source.DISCOVERY)


def peer(number: int) -> PeerId:
    return PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big"))


def addresses(count: int, first: int = 0):
    return [parse_multiaddr(f"/ip4/50.0.0.1/tcp/{1000 + number}") for number in range(first, first + count)]


@pytest.mark.parametrize(
    ("source", "kept"),
    [(Source.MANUAL, 64), (Source.OBSERVED, 64), (Source.OWN_CLAIM, 64), (Source.ALTERNATE, 5), (Source.DISCOVERY, 5)],
)
def test_addresses_are_bounded_by_who_named_them(source: Source, kept: int) -> None:
    candidate = Candidate()
    assert candidate.told(iter(addresses(1000)), source)
    assert list(candidate.addrs) == addresses(kept)


def test_a_list_without_end_is_not_read_to_its_end() -> None:
    many = iter(addresses(1000))
    Candidate().told(many, Source.DISCOVERY)
    assert len(list(many)) == 1000 - 64


def test_strangers_cannot_push_out_what_a_peer_says_of_itself() -> None:
    candidate = Candidate()
    candidate.told(addresses(62), Source.OWN_CLAIM)
    candidate.told(addresses(5, 100), Source.DISCOVERY)
    assert list(candidate.addrs) == addresses(62) + addresses(2, 100)


def test_a_source_replaces_what_it_said_and_our_user_adds() -> None:
    candidate = Candidate()
    for source, first in ((Source.MANUAL, 0), (Source.MANUAL, 1), (Source.DISCOVERY, 10), (Source.DISCOVERY, 11)):
        candidate.told(addresses(1, first), source)
    assert candidate.addrs == dict(
        zip(addresses(2) + addresses(1, 11), [Source.MANUAL] * 2 + [Source.DISCOVERY], strict=True)
    )


def test_the_most_trusted_source_of_an_address_counts() -> None:
    candidate = Candidate()
    candidate.told(addresses(1), Source.DISCOVERY)
    assert candidate.hearsay
    assert not candidate.told(addresses(1), Source.MANUAL)
    assert not candidate.told(addresses(1), Source.DISCOVERY)
    assert candidate.addrs == {addresses(1)[0]: Source.MANUAL}
    assert not candidate.hearsay


@given(st.lists(st.tuples(st.sampled_from(Source), st.integers(0, 90), st.integers(0, 90))))
def test_whatever_is_told_addresses_stay_in_their_bounds(told: list[tuple[Source, int, int]]) -> None:
    candidate = Candidate()
    for source, first, count in told:
        before = set(candidate.addrs)
        assert candidate.told(addresses(count, first), source) == bool(set(candidate.addrs) - before)
        assert len(candidate.addrs) <= 64
        assert sum(said in STRANGERS for said in candidate.addrs.values()) <= 5
        assert list(candidate.addrs.values()) == sorted(candidate.addrs.values())


def test_candidates_of_each_standing_have_places_of_their_own() -> None:
    table = Candidates(3, 1)
    table.keep(peer(0))
    for number in range(1, 10):
        table.told(peer(number), addresses(1), Source.OWN_CLAIM, False)
    for number in range(10, 99):
        table.told(peer(number), addresses(1), Source.DISCOVERY, False)
    assert len(table) == 7
    assert [each for each, _ in table.others()] == [peer(n) for n in (7, 8, 9, 96, 97, 98)]
    table.told(peer(97), addresses(1), Source.MANUAL, False)
    assert peer(7) not in table
    assert peer(97) in table
    table.forget(peer(97))
    table.forget(peer(0))
    assert peer(97) not in table
    assert peer(0) in table


def test_a_peer_that_is_left_alone_for_long_begins_anew() -> None:
    backoffs = Backoffs(DialerConfig(jitter=0), random.Random(1))
    assert backoffs.failed(peer(1), 0) == (1, 20)
    assert backoffs.failed(peer(1), 40) == (2, 80)
    assert backoffs.failed(peer(1), 121) == (1, 141)
    assert backoffs.until(peer(2)) == -inf


def test_the_backoff_of_who_failed_longest_ago_is_forgotten_first() -> None:
    backoffs = Backoffs(DialerConfig(backoffs=2), random.Random(1))
    for number in (1, 2, 1, 3):
        backoffs.failed(peer(number), 0)
    assert [backoffs.failures(peer(number)) for number in (1, 2, 3)] == [2, 0, 1]
    assert len(backoffs) == 2


def test_backoff_stays_finite_however_long_a_peer_fails_and_however_steep_it_is() -> None:
    backoffs = Backoffs(DialerConfig(factor=1e300), random.Random(1))
    now = 0.0
    for _ in range(200):
        _, until = backoffs.failed(peer(1), now)
        assert 20 <= until - now <= 360
        now = until


@pytest.mark.parametrize("name", [entry.name for entry in fields(DialerConfig)])
@pytest.mark.parametrize("value", [-1, nan, inf])
def test_settings_that_make_no_sense_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"dialer\.{name} must be"):
        DialerConfig(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("factor", 0.5), ("longest", 19), ("longest_pause", 4), ("attempts", 1.5)])
def test_settings_that_contradict_others_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"dialer\.{name} must be"):
        DialerConfig(**{name: value})
