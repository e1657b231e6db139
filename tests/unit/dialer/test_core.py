"""Slots, targets, backoff and bans of several networks, in made-up time."""

from math import inf, nan

import pytest

from pyp2p.dialer.core import Dial, Discover, Drop
from pyp2p.peer.id import PeerId
from pyp2p.peer.store import Source
from pyp2p.trace import Stage
from tests.unit.dialer.support import A, B, address, dialer, dialled, dials, fail, peer, tell

# ---- the target


def test_nobody_is_dialled_before_somebody_is_wanted() -> None:
    core = dialer()
    tell(core, 1, 2)
    assert core.poll(0) == []
    assert core.next_wake() is None


def test_as_many_are_dialled_as_are_wanted() -> None:
    core = dialer()
    tell(core, 1, 2, 3, 4, 5)
    core.want(A, 3)
    first = dialled(core, 0)
    assert len(first) == 3
    assert core.poll(1) == []
    core.connected(A, first[0], 1, outbound=True)
    assert core.poll(1) == []
    fail(core, int.from_bytes(first[1].raw[2:], "big"), 1)
    assert len(dialled(core, 1)) == 1
    assert list(core.slots(A)) == [first[0]]


def test_a_dial_carries_each_address_with_who_named_it() -> None:
    core = dialer()
    core.candidate(A, peer(1), [address(1)], Source.DISCOVERY, 0)
    core.candidate(A, peer(1), [address(2)], Source.MANUAL, 0)
    core.want(A, 1)
    assert core.poll(0) == [Dial(A, peer(1), ((address(2), Source.MANUAL), (address(1), Source.DISCOVERY)))]


def test_a_peer_that_dialled_us_counts() -> None:
    core = dialer()
    core.want(A, 2)
    core.connected(A, peer(1), 0, outbound=False)
    tell(core, 2, 3)
    assert len(dialled(core, 0)) == 1


@pytest.mark.hostile
def test_hostile_097_strangers_who_take_all_slots_do_not_end_our_dialling() -> None:
    core = dialer()
    core.want(A, 10, outbound=2)
    for number in range(100, 140):
        assert core.connected(A, peer(number), 0, outbound=False)
    tell(core, 1, 2, 3)
    first = dialled(core, 0)
    assert len(first) == 2
    for each in first:
        core.connected(A, each, 1, outbound=True)
    assert core.poll(1) == []
    core.want(A, 10)
    core.disconnected(A, first[0], 2)
    assert core.poll(100) == []


def test_lowering_takes_no_slot_away() -> None:
    core = dialer()
    core.connected(A, peer(1), 0, outbound=True)
    core.want(A, 0)
    assert core.poll(0) == []
    assert list(core.slots(A)) == [peer(1)]


@pytest.mark.parametrize(("n", "outbound"), [(-1, 0), (3, 4), (3, -1)])
def test_what_cannot_be_wanted_is_told(n: int, outbound: int) -> None:
    with pytest.raises(ValueError, match="alpha"):
        dialer().want(A, n, outbound=outbound)


# ---- backoff


def test_a_peer_that_failed_is_left_alone_for_twenty_seconds_and_dialled_by_itself_then() -> None:
    core = dialer(jitter=0)
    tell(core, 1)
    core.want(A, 1)
    core.poll(0)
    failure = fail(core, 1, 5)
    assert (failure.failures, failure.retry_at, failure.stage) == (1, 25, Stage.CONNECT)
    assert core.failure(A, peer(1)) == failure
    core.poll(5)  # asks for discovery
    core.discovered(A, 0, 5)
    core.want(A, 1)
    assert dialled(core, 24.9) == []
    core.discovered(A, 0, 24.9)
    core.poll(24.9)
    assert core.next_wake() == 25
    assert dialled(core, 25) == [peer(1)]


def test_backoff_doubles_up_to_its_bound_and_ends_in_forgetting() -> None:
    core = dialer(jitter=0, longest=100, patience=6)
    tell(core, 1)
    core.want(A, 1)
    now, waits = 0.0, []
    for _ in range(5):
        assert dialled(core, now) == [peer(1)]
        failure = fail(core, 1, now)
        assert failure.retry_at is not None
        waits.append(failure.retry_at - now)
        now = failure.retry_at
    assert waits == [20, 40, 80, 100, 100]
    assert dialled(core, now) == [peer(1)]
    assert fail(core, 1, now).retry_at is None
    assert core.gauges(A)["candidates"] == 0


def test_jitter_only_lengthens_and_comes_from_the_rng_given() -> None:
    def waits(seed: int) -> list[float]:
        core = dialer(seed=seed)
        tell(core, *range(10))
        return [fail(core, number, 0).retry_at or 0 for number in range(10)]

    assert waits(1) == waits(1) != waits(2)
    assert len(set(waits(1))) == 10
    assert all(20 <= wait <= 24 for wait in waits(1))


def test_who_comes_and_goes_at_once_waits_longer_each_time_and_who_stayed_does_not() -> None:
    core = dialer(jitter=0)
    tell(core, 1)
    core.want(A, 1)
    now = 0.0
    for wait in (20, 40, 80):
        assert dialled(core, now) == [peer(1)]
        core.connected(A, peer(1), now, outbound=True)
        assert core.disconnected(A, peer(1), now + 1)
        assert dialled(core, now + wait) == []
        now += 1 + wait
    assert dialled(core, now) == [peer(1)]
    core.connected(A, peer(1), now, outbound=True)
    core.disconnected(A, peer(1), now + 60)
    assert dialled(core, now + 60 + 20) == [peer(1)]


def test_a_failure_that_comes_late_is_no_failure_of_one_who_dialled_us_meanwhile() -> None:
    core = dialer()
    tell(core, 1)
    core.want(A, 1)
    core.poll(0)
    core.connected(A, peer(1), 1, outbound=False)
    assert fail(core, 1, 2).failures == 0
    assert list(core.slots(A)) == [peer(1)]
    assert core.gauges(A)["attempts"] == 0


def test_the_last_connection_of_somebody_without_a_slot_is_nothing() -> None:
    core = dialer()
    assert not core.disconnected(A, peer(1), 0)
    assert core.gauges(A)["backoffs"] == 0


# ---- bans


def test_a_ban_takes_the_slot_and_keeps_the_peer_out_until_it_ends() -> None:
    core = dialer()
    tell(core, 1)
    core.want(A, 1)
    core.poll(0)
    core.connected(A, peer(1), 0, outbound=True)
    core.ban(A, peer(1), 100)
    assert core.poll(1)[0] == Drop(A, peer(1), "banned")
    assert not core.slots(A)
    assert not core.disconnected(A, peer(1), 2)
    assert tell(core, 1, now=3) == [False]
    assert not core.connected(A, peer(1), 4, outbound=False)
    assert core.poll(4) == [Drop(A, peer(1), "banned", had_slot=False)]
    assert dialled(core, 99) == []
    assert core.next_wake() == 100
    assert dialled(core, 100) == [peer(1)]


def test_a_ban_is_extended_never_shortened_but_lifted() -> None:
    core = dialer()
    tell(core, 1)
    core.want(A, 1)
    core.ban(A, peer(1), 100)
    core.ban(A, peer(1), 50)
    assert dialled(core, 60) == []
    core.ban(A, peer(1), inf)
    assert dialled(core, 1e12) == []
    core.discovered(A, 0, 1e12)
    core.unban(A, peer(1))
    assert dialled(core, 1e12) == [peer(1)]
    with pytest.raises(ValueError, match="number of seconds"):
        core.ban(A, peer(1), nan)


def test_who_is_banned_while_being_dialled_gets_no_slot() -> None:
    core = dialer()
    tell(core, 1)
    core.want(A, 1)
    core.poll(0)
    core.ban(A, peer(1), 100)
    assert not core.connected(A, peer(1), 1, outbound=True)
    assert core.gauges(A)["attempts"] == 0


def test_of_too_many_bans_the_one_that_ends_first_goes() -> None:
    core = dialer(bans=2)
    tell(core, 1, 2, 3)
    for number, until in ((1, 300), (2, 100), (3, 200)):
        core.ban(A, peer(number), until)
    core.want(A, 3)
    assert dialled(core, 0) == [peer(2)]


def test_a_peer_that_is_dropped_is_left_alone_like_one_that_went() -> None:
    core = dialer(jitter=0)
    tell(core, 1)
    core.want(A, 1)
    core.poll(0)
    core.connected(A, peer(1), 0, outbound=True)
    core.drop(A, peer(1), "too many peers", 1)
    assert core.poll(1)[0] == Drop(A, peer(1), "too many peers")
    core.drop(A, peer(1), "again", 1)
    assert dialled(core, 20) == []
    assert dialled(core, 21) == [peer(1)]


# ---- kept peers


def test_kept_peers_are_dialled_for_ever_and_beyond_the_target() -> None:
    core = dialer(patience=2, longest=60)
    core.keep(A, peer(1))
    tell(core, 1, source=Source.MANUAL)
    now = 0.0
    for _ in range(50):
        assert dialled(core, now) == [peer(1)]
        retry_at = fail(core, 1, now).retry_at
        assert retry_at is not None
        core.poll(now)
        assert core.next_wake() == retry_at
        now = retry_at
    core.connected(A, peer(1), now, outbound=True)
    core.disconnected(A, peer(1), now)
    assert dialled(core, now + 100) == [peer(1)]


def test_kept_peers_come_first_and_are_not_pushed_out() -> None:
    core = dialer(candidates=3)
    core.keep(A, peer(1))
    tell(core, 1)
    tell(core, *range(10, 20))
    core.want(A, 2)
    assert core.gauges(A)["candidates"] == 4
    first, second = dialled(core, 0)
    assert first == peer(1)
    assert second in {peer(17), peer(18), peer(19)}


def test_a_kept_peer_that_is_banned_waits_for_the_end_of_the_ban() -> None:
    core = dialer()
    core.keep(A, peer(1))
    core.ban(A, peer(1), 50)
    assert core.candidate(A, peer(1), [address(1)], Source.MANUAL, 0)
    assert dialled(core, 0) == []
    assert dials(core, 50) == [(A, peer(1))]


def test_kept_no_longer_is_one_like_others() -> None:
    core = dialer(patience=1)
    core.keep(A, peer(1))
    core.unkeep(A, peer(1))
    core.unkeep(A, peer(2))
    assert core.poll(0) == []
    core.want(A, 1)
    assert dialled(core, 0) == [peer(1)]
    assert fail(core, 1, 0).retry_at is None


def test_too_many_to_keep_are_refused() -> None:
    core = dialer(kept=2)
    for number in (1, 2, 1):
        core.keep(A, peer(number))
    with pytest.raises(ValueError, match=r"dialer\.kept"):
        core.keep(A, peer(3))


# ---- whom first


def test_urgent_ones_come_before_those_we_met_and_those_before_strangers() -> None:
    core = dialer()
    tell(core, *range(10, 30))
    tell(core, 2, source=Source.OWN_CLAIM)
    tell(core, 1, urgent=True)
    core.want(A, 3)
    order = dialled(core, 0)
    assert order[:2] == [peer(1), peer(2)]
    fail(core, 1, 0)
    core.discovered(A, 0, 0)
    tell(core, 3, source=Source.MANUAL)
    core.want(A, 3)
    assert dialled(core, 0) == [peer(3)]


def test_who_failed_less_comes_first_and_equals_come_at_random() -> None:
    def order(seed: int) -> list[PeerId]:
        core = dialer(seed=seed, jitter=0)
        tell(core, *range(6))
        core.want(A, 1)
        fail(core, 0, 0)
        found = []
        for now in range(100, 106):
            found += dialled(core, now)
            core.connected(A, found[-1], now, outbound=True)
            core.ban(A, found[-1], inf)
        return found

    assert order(1)[-1] == order(2)[-1] == peer(0)
    assert order(1) == order(1) != order(2)


# ---- several networks


def test_networks_do_not_share_slots_backoff_or_bans() -> None:
    core = dialer(A, B)
    for net in (A, B):
        tell(core, 1, 2, net=net)
        core.want(net, 2)
    core.ban(A, peer(2), inf)
    assert sorted(dials(core, 0)) == [(A, peer(1)), (B, peer(1)), (B, peer(2))]
    fail(core, 1, 0, net=A)
    core.connected(B, peer(1), 0, outbound=True)
    assert core.users(peer(1)) == [B]
    assert list(core.slots(B)) == [peer(1)]
    assert not core.slots(A)
    assert core.failure(B, peer(1)) is None


def test_a_network_with_many_candidates_does_not_starve_another() -> None:
    core = dialer(A, B, attempts=4)
    for net in (A, B):
        tell(core, *range(100), net=net)
        core.want(net, 100)
    begun = dials(core, 0)
    assert sorted(net for net, _ in begun) == [A, A, B, B]
    turns = set()
    for net, who in begun:  # one place at a time
        core.connected(net, who, 0, outbound=True)
        turns |= {one for one, _ in dials(core, 0)}
    assert turns == {A, B}


def test_leaving_a_network_drops_its_peers_alone() -> None:
    core = dialer(A, B)
    core.connected(A, peer(1), 0, outbound=True)
    core.connected(B, peer(1), 0, outbound=True)
    core.remove_network(A)
    (drop,) = core.poll(0)
    assert (drop.network, drop.peer, core.users(peer(1))) == (A, peer(1), [B])
    assert A not in core
    with pytest.raises(KeyError):
        core.want(A, 1)


def test_a_second_network_of_a_name_and_too_many_are_refused() -> None:
    core = dialer(A, networks=2)
    with pytest.raises(ValueError, match="alpha is there already"):
        core.add_network(A)
    core.add_network(B)
    with pytest.raises(ValueError, match=r"dialer\.networks"):
        core.add_network("gamma")


# ---- how fast


def test_dials_under_way_are_bounded_for_all_networks_together() -> None:
    core = dialer(A, B, attempts=3)
    for net in (A, B):
        tell(core, 1, 2, 3, net=net)
        core.want(net, 3)
    begun = dials(core, 0)
    assert len(begun) == 3
    net, who = begun[0]
    core.connected(net, who, 0, outbound=True)
    assert len(dials(core, 0)) == 1


def test_dials_are_begun_at_a_bounded_rate_after_a_burst() -> None:
    core = dialer(attempts=100, rate=4, burst=5)
    tell(core, *range(100))
    core.want(A, 100)
    assert len(dialled(core, 0)) == 5
    counts = []
    for _ in range(8):
        wake = core.next_wake()
        assert wake is not None
        counts.append((wake, len(dialled(core, wake))))
    assert counts == [(0.25 * n, 1) for n in range(1, 9)]


# ---- discovery


def test_discovery_is_asked_for_when_candidates_are_missing_one_round_at_a_time() -> None:
    core = dialer()
    tell(core, 1)
    core.want(A, 5)
    assert core.poll(0) == [Discover(A, 4), Dial(A, peer(1), ((address(1), Source.DISCOVERY),))]
    tell(core, 2)
    assert dialled(core, 1) == [peer(2)]
    core.discovered(A, 1, 1)
    assert core.poll(2) == []
    assert core.next_wake() == 6
    assert core.poll(6) == [Discover(A, 3)]


def test_rounds_that_find_nobody_are_begun_at_longer_and_longer_intervals() -> None:
    core = dialer()
    core.want(A, 1)
    now, pauses = 0.0, []
    for found in (0, 0, 0, 0, 0, 0, 0, 2, 0):
        assert core.poll(now) == [Discover(A, 1)]
        core.discovered(A, found, now)
        core.poll(now)
        wake = core.next_wake()
        assert wake is not None
        pauses.append(wake - now)
        now = wake
    assert pauses == [5, 10, 20, 40, 80, 120, 120, 5, 10]


def test_a_round_ends_when_the_network_has_whom_it_wants() -> None:
    core = dialer()
    core.want(A, 2)
    assert core.poll(0) == [Discover(A, 2)]
    core.connected(A, peer(1), 1, outbound=False)
    assert core.poll(1) == []
    core.connected(A, peer(2), 1, outbound=False)
    assert core.poll(1) == [Discover(A, 0)]
    core.want(A, 3)
    assert core.poll(2) == []
    assert core.next_wake() == 6
    assert core.poll(6) == [Discover(A, 1)]


def test_enough_is_enough() -> None:
    core = dialer()
    tell(core, 1, 2)
    core.want(A, 2)
    assert not any(isinstance(effect, Discover) for effect in core.poll(0))


@pytest.mark.hostile
def test_hostile_098_made_up_peers_do_not_push_out_those_we_met() -> None:
    core = dialer(candidates=100, backoffs=50)
    tell(core, 1, source=Source.OBSERVED)
    for number in range(1000, 3000):
        tell(core, number)
        fail(core, number, 0)
    gauges = core.gauges(A)
    assert (gauges["candidates"], gauges["backoffs"]) == (101, 50)
    core.want(A, 1)
    assert dialled(core, 0) == [peer(1)]


def test_whether_a_candidate_is_news() -> None:
    core = dialer()
    assert tell(core, 1) == [True]
    assert tell(core, 1) == [False]
    assert core.candidate(A, peer(1), [address(2)], Source.DISCOVERY, 0)
    core.connected(A, peer(1), 0, outbound=True)
    assert not core.candidate(A, peer(1), [address(3)], Source.DISCOVERY, 0)
