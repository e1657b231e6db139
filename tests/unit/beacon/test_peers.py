"""The peer manager, rule by rule."""

import math
from ipaddress import ip_address
from itertools import pairwise

import pytest

from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.beacon.peer_types import (
    Ban,
    BanIp,
    Dial,
    Disconnect,
    Discover,
    PeerConfig,
    Refusal,
    Subnet,
    SubnetKind,
    Unban,
    Want,
)
from pyp2p.beacon.scores import Tolerance
from tests.unit.beacon.peers_support import IN, OUT, Script, attnet, ip, of, peer

HOURS = 3600.0
FATAL, LOW, MID, HIGH = Tolerance.FATAL, Tolerance.LOW, Tolerance.MID, Tolerance.HIGH


def code(refusal: Refusal | None) -> GoodbyeReason | None:
    return None if refusal is None else refusal.code


# --- places


def test_what_is_wanted_is_told_once() -> None:
    script = Script(target=10)
    assert of(Want, script.poll()) == [Want(10, 2)]
    script.join(*range(10))
    assert of(Want, script.poll()) == of(Want, script.poll(100.0)) == []


@pytest.mark.parametrize(
    ("target", "most", "floor", "inbound"), [(100, 110, 20, 90), (50, 55, 10, 45), (12, 14, 3, 11), (1, 2, 1, 1)]
)
def test_places_by_target(target: int, most: int, floor: int, inbound: int) -> None:
    config = PeerConfig(target=target)
    assert (config.most, config.outbound_floor, config.most_inbound) == (most, floor, inbound)


def test_inbound_peers_never_get_the_places_of_the_outbound_floor() -> None:
    script = Script(target=10)  # 11 places, 2 of them outbound
    manager = script.manager
    for at in range(9):
        assert manager.refusal(peer(at), ip(at), IN, script.now) is None
        script.join(at, direction=IN)
    assert code(manager.refusal(peer("late"), ip(9), IN, script.now)) is GoodbyeReason.TOO_MANY_PEERS
    assert manager.refusal(peer("ours"), ip(9), OUT, script.now) is None
    script.join("ours", "ours too")
    assert code(manager.refusal(peer("late"), ip(9), OUT, script.now)) is GoodbyeReason.TOO_MANY_PEERS


def test_static_and_trusted_peers_need_no_free_place() -> None:
    script = Script(target=1, static=[peer("static")], trusted=[peer("trusted")])
    script.join("a", "b")
    for name in ("static", "trusted"):
        assert script.manager.refusal(peer(name), ip(1), IN, script.now) is None
        assert script.manager.is_kept(peer(name))
    assert not script.manager.is_kept(peer("a"))


def test_one_who_is_too_late_is_told_to_go_and_takes_no_place() -> None:
    script = Script(target=1)
    script.join("a", "b", "late")
    assert script.here == [peer("a"), peer("b")]
    assert script.manager.counters()["connected"] == 2
    assert code(script.manager.refusal(peer("late"), ip(3), OUT, script.now)) is GoodbyeReason.TOO_MANY_PEERS
    assert script.sent_away() == {peer("late"): GoodbyeReason.TOO_MANY_PEERS}


def test_of_many_who_come_at_once_no_more_are_let_in_than_may_stay() -> None:
    script = Script(target=2, outbound=0.0)  # 3 places
    manager = script.manager
    script.join(0)
    for name in (1, 2):
        assert manager.refusal(peer(name), ip(name), IN, script.now) is None
        manager.coming(peer(name), IN)
    assert code(manager.refusal(peer(3), ip(3), IN, script.now)) is GoodbyeReason.TOO_MANY_PEERS
    assert manager.refusal(peer(2), ip(2), IN, script.now) is None  # its second connection
    manager.gave_up(peer(1))
    assert manager.refusal(peer(3), ip(3), IN, script.now) is None
    manager.coming(peer(3), IN)
    script.join(2, 3, direction=IN)
    assert of(Disconnect, script.poll()) == []
    manager.disconnected(peer(3), script.now)
    assert manager.refusal(peer(4), ip(4), IN, script.now) is None


def test_a_second_connection_to_a_peer_takes_no_second_place() -> None:
    script = Script(target=1)
    script.join("a", "b")
    assert script.manager.refusal(peer("a"), ip(1), IN, script.now) is None
    script.join("a", direction=IN)
    assert script.sent_away() == {} and script.manager.counters()["outbound"] == 2
    script.manager.disconnected(peer("a"), script.now)
    script.manager.disconnected(peer("a"), script.now)
    assert script.here == [peer("b")]


# --- judgement


def test_at_minus_20_a_peer_is_sent_away_once_and_stays_out_until_it_fades() -> None:
    script = Script()
    (a,) = script.join("a")
    script.manager.report(a, LOW, "chunk of 0 bytes", script.now)
    assert script.sent_away() == {}
    script.manager.report(a, LOW, "chunk of\x1b[2J 0 bytes" + "x" * 500, script.now)
    script.manager.report(a, HIGH, "again", script.now)
    (gone,) = of(Disconnect, script.poll())
    assert gone.code is GoodbyeReason.BAD_SCORE
    assert gone.reason.startswith("chunk of\\x1b[2J 0") and len(gone.reason) < 300
    assert code(script.manager.refusal(a, ip(1), IN, script.now)) is GoodbyeReason.BAD_SCORE
    assert script.manager.refusal(a, ip(1), IN, script.now + 60) is None


def test_going_and_coming_back_washes_nothing_off() -> None:
    script = Script()
    (a,) = script.join("a")
    script.manager.report(a, LOW, "one", script.now)
    script.manager.disconnected(a, script.now)
    script.join("a")
    script.manager.report(a, LOW, "two", script.now)
    assert script.sent_away() == {a: GoodbyeReason.BAD_SCORE}


def test_at_minus_50_a_peer_is_banned_for_12_hours() -> None:
    script = Script()
    (a,) = script.join("a")
    script.manager.report(a, FATAL, "forged", script.now)
    until = script.now + 12 * HOURS
    effects = script.poll()
    assert of(Ban, effects) == [Ban(a, ip(1), until, "forged")]
    assert of(Disconnect, effects) == [Disconnect(a, GoodbyeReason.BANNED, "forged")]
    assert script.manager.score(a, script.now) == -100
    assert code(script.manager.refusal(a, None, OUT, until - 1)) is GoodbyeReason.BANNED
    script.manager.report(a, FATAL, "more", script.now)
    assert script.poll() == []
    script.now = until
    assert script.manager.refusal(a, None, OUT, until) is None
    assert of(Unban, script.poll()) == [Unban(a)]
    assert script.manager.score(a, script.now) == 0 and script.manager.counters()["banned"] == 0


def test_faults_that_add_up_ban_also_one_who_is_away() -> None:
    script = Script()
    (a,) = script.join("a")
    script.manager.disconnected(a, script.now)
    for _ in range(5):
        script.manager.report(a, LOW, "its gossip was bad", script.now)
    assert [ban.peer for ban in of(Ban, script.poll())] == [a]
    assert script.manager.counters()["remembered_faults"] == 0


def test_gossip_alone_disconnects_nobody() -> None:
    script = Script()
    (a,) = script.join("a")
    script.manager.gossip_score(a, -math.inf, script.now)
    assert script.sent_away() == {} and script.manager.score(a, script.now) == -19
    script.manager.report(a, HIGH, "late", script.now)
    assert script.sent_away() == {a: GoodbyeReason.BAD_SCORE}


def test_gossip_is_judged_when_it_is_what_comes_last() -> None:
    script = Script()
    (a,) = script.join("a")
    script.manager.report(a, LOW, "one", script.now)
    script.manager.gossip_score(a, -16_000.0, script.now)
    assert script.sent_away() == {a: GoodbyeReason.BAD_SCORE}


def test_four_pings_without_an_answer_are_too_many() -> None:
    script = Script()
    (a,) = script.join("a")
    for _ in range(3):
        script.manager.ping_failed(a, script.now)
        assert script.sent_away() == {}
    script.manager.ping_failed(a, script.now)
    assert script.sent_away() == {a: GoodbyeReason.BAD_SCORE}


def test_trusted_peers_are_not_judged_and_static_ones_are() -> None:
    trusted, static = peer("trusted"), peer("static")
    script = Script(static=[static], trusted=[trusted])
    script.join("trusted", "static", at="203.0.113.1")
    for each in (trusted, static):
        script.manager.gossip_score(each, -1e9, script.now)
        script.manager.report(each, FATAL, "forged", script.now)
    script.manager.restore_ban(trusted, None, HOURS, script.now)
    assert script.sent_away() == {static: GoodbyeReason.BANNED}
    assert script.manager.score(trusted, script.now) == 100


def test_a_peer_that_connects_while_it_is_being_banned_is_sent_away() -> None:
    script = Script()
    script.manager.restore_ban(peer("a"), None, HOURS, script.now)
    script.join("a")
    assert script.sent_away() == {peer("a"): GoodbyeReason.BANNED}


# --- addresses


def ban_from(script: Script, count: int, place: str, first: int = 0) -> list[BanIp]:
    for name in range(first, first + count):
        (each,) = script.join(f"{place} {name}", at=place, direction=IN)
        script.manager.report(each, FATAL, "forged", script.now)
    return of(BanIp, script.poll())


def test_an_address_is_banned_above_five_banned_peers_until_five_are_left() -> None:
    script = Script()
    place = "203.0.113.9"
    assert ban_from(script, 5, place) == []
    assert script.manager.refusal(peer("b"), ip_address(place), IN, script.now) is None
    first_end = script.now + 12 * HOURS
    script.now += 100
    (banned,) = ban_from(script, 1, place, 5)
    assert (str(banned.network), banned.until) == ("203.0.113.9/32", first_end)
    assert code(script.manager.refusal(peer("b"), ip_address(place), IN, script.now)) is GoodbyeReason.BANNED
    assert code(script.manager.refusal(peer("b"), ip_address("::ffff:" + place), IN, script.now))
    assert script.manager.refusal(peer("b"), ip_address("203.0.113.8"), IN, script.now) is None
    assert script.manager.refusal(peer("b"), ip_address(place), IN, first_end) is None


def test_an_ipv6_address_stands_for_its_64() -> None:
    script = Script()
    banned = [ban for at in range(6) for ban in ban_from(script, 1, f"2001:db8::{at}")]
    assert [str(ban.network) for ban in banned] == ["2001:db8::/64"]
    assert script.manager.refusal(peer("b"), ip_address("2001:db8::ffff"), IN, script.now)
    assert script.manager.refusal(peer("b"), ip_address("2001:db8:0:1::1"), IN, script.now) is None


@pytest.mark.parametrize("place", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_never_banned(place: str) -> None:
    script = Script()
    assert ban_from(script, 20, place) == []
    assert script.manager.refusal(peer("b"), ip_address(place), IN, script.now) is None


def test_who_is_there_already_is_judged_by_its_own_deeds() -> None:
    script = Script()
    (a,) = script.join("a", at="203.0.113.9")
    ban_from(script, 6, "203.0.113.9")
    assert script.here == [a]


# --- pruning


def settled(target: int = 5, **settings) -> Script:
    """`target` outbound peers named by their numbers, here for some minutes."""
    script = Script(target=target, headroom=1.0, outbound=0.2, **settings)
    script.join(*range(target))
    script.poll(200.0)
    return script


def test_newcomers_have_a_minute_and_then_the_least_useful_goes() -> None:
    script = settled()
    (late,) = script.join("late")
    for at in range(5):
        script.manager.served(peer(at), script.now)
    assert script.sent_away(30.0) == {}
    assert script.sent_away(30.0) == {late: GoodbyeReason.TOO_MANY_PEERS}


def test_a_newcomer_that_is_of_use_takes_the_place_of_one_that_is_not() -> None:
    script = settled()
    (late,) = script.join("late")
    script.now += 60
    for each in (late, *map(peer, (0, 1, 3, 4))):
        script.manager.gossip_score(each, 5.0, script.now)
    assert script.sent_away() == {peer(2): GoodbyeReason.TOO_MANY_PEERS}


@pytest.mark.parametrize(
    ("what", "stays"),
    [
        ("the better score", lambda script, a: script.manager.gossip_score(a, 3.0, script.now)),
        ("a request served", lambda script, a: script.manager.served(a, script.now)),
        ("a wanted subnet", lambda script, a: script.manager.metadata(a, seq=1, attnets=[7])),
    ],
)
def test_what_makes_a_peer_useful(what: str, stays) -> None:
    script = Script(target=1, headroom=1.0)
    a, b = script.join("a", "b")
    script.manager.want_subnet(attnet(7), math.inf)
    script.poll()
    stays(script, b)
    assert script.sent_away(60.0) == {a: GoodbyeReason.TOO_MANY_PEERS}, what


def test_of_equals_who_came_last_goes() -> None:
    script = Script(target=1, headroom=1.0)
    script.join("a")
    script.now += 1
    script.join("b")
    assert script.sent_away(60.0) == {peer("b"): GoodbyeReason.TOO_MANY_PEERS}


def test_static_and_trusted_peers_are_never_pruned() -> None:
    script = Script(target=2, headroom=1.0, static=[peer("s")], trusted=[peer("t")])
    useful = script.join("s", "t", "a", "b")[2:]
    for each in useful:
        script.manager.served(each, script.now)
    assert list(script.sent_away(60.0)) == useful
    assert script.here == [peer("s"), peer("t")]


def test_the_last_of_a_wanted_subnet_is_never_pruned_whatever_else_it_is() -> None:
    script = Script(target=1, headroom=1.0, outbound=0.0)
    a, b = script.join("a", "b")
    for each in (a, b):
        script.manager.metadata(each, seq=1, attnets=[1, 2] if each == b else [2])
    script.manager.want_subnet(attnet(1), script.now + 300)
    script.manager.want_subnet(attnet(2), script.now + 300)
    script.manager.report(b, MID, "slow", script.now)
    assert script.sent_away(60.0) == {a: GoodbyeReason.TOO_MANY_PEERS}


def test_the_last_of_a_wanted_subnet_stays_when_nobody_else_may_go() -> None:
    kept = [peer("s"), peer("t")]
    for serving in (["a"], ["a", "b"]):
        script = Script(target=2, headroom=1.0, outbound=0.0, static=kept)
        script.join("s", "t", *serving)
        for name in serving:
            script.manager.metadata(peer(name), seq=1, attnets=[1])
        script.manager.want_subnet(attnet(1), script.now + 100)
        script.poll(60.0)
        assert len(script.here) == 3
        assert len(script.sent_away(60.0)) == 1  # wanted no more


def test_two_that_serve_the_same_subnet_are_not_both_pruned() -> None:
    script = Script(target=2, headroom=1.0, outbound=0.0)
    names = ["a", "b", "c", "d"]
    for name in names:
        script.join(name)
    for name in ("c", "d"):
        script.manager.metadata(peer(name), seq=1, attnets=[1])
        script.manager.report(peer(name), MID, "slow", script.now)
    script.manager.want_subnet(attnet(1), math.inf)
    script.poll(60.0)
    assert len(script.here) == 2 and script.manager.served_by(attnet(1)) >= 1


def test_pruning_leaves_the_outbound_floor() -> None:
    script = Script(target=5, headroom=1.0, outbound=0.4)
    script.join("x", "y", "z")
    script.join(*range(5), direction=IN)
    for at in range(5):
        script.manager.served(peer(at), script.now)
    assert len(script.sent_away(60.0)) == 3
    assert script.manager.counters() | {"outbound": 2, "inbound": 3} == script.manager.counters()


# --- subnets


def test_a_wanted_subnet_that_too_few_serve_is_asked_for_at_once_and_at_every_beat() -> None:
    script = Script(target=2)
    a, b = script.join("a", "b")
    script.poll()
    script.manager.want_subnet(attnet(3), script.now + 100)
    assert script.manager.next_wake() == -math.inf
    assert script.poll() == [Discover(attnet(3), 2), Want(3, 1)]
    script.manager.metadata(a, seq=5, attnets=[3])
    assert of(Discover, script.poll(10.0)) == []
    assert of(Discover, script.poll(20.0)) == [Discover(attnet(3), 1)]
    script.manager.metadata(b, seq=5, attnets=[3])
    assert of(Want, script.poll()) == [Want(2, 1)]
    assert of(Discover, script.poll(30.0)) == []
    script.manager.disconnected(a, script.now)
    assert of(Discover, script.poll()) == [Discover(attnet(3), 1)]
    assert of(Discover, script.poll(40.0)) == []  # not wanted any more


def test_each_kind_of_subnet() -> None:
    script = Script()
    (a,) = script.join("a")
    script.manager.metadata(a, seq=0, attnets=[63], syncnets=[3], columns=[127])
    found = (attnet(63), Subnet(SubnetKind.SYNC_COMMITTEE, 3), Subnet(SubnetKind.DATA_COLUMN, 127))
    assert [script.manager.served_by(subnet) for subnet in found] == [1, 1, 1]
    assert script.manager.peers(script.now)[0].subnets == found
    for kind in SubnetKind:
        for number in (-1, kind.value):
            with pytest.raises(ValueError, match=str(number)):
                Subnet(kind, number)
    with pytest.raises(ValueError, match="64"):
        script.manager.metadata(a, seq=1, attnets=[64])


def test_metadata_with_an_older_number_is_ignored() -> None:
    script = Script()
    (a,) = script.join("a")
    script.manager.metadata(a, seq=4, attnets=[1])
    for seq in (4, 3, 0):
        script.manager.metadata(a, seq=seq, attnets=[2])
    assert (script.manager.served_by(attnet(1)), script.manager.served_by(attnet(2))) == (1, 0)
    script.manager.metadata(peer("gone"), seq=1, attnets=[1])
    assert script.manager.served_by(attnet(1)) == 1


# --- again


def test_a_good_peer_is_dialled_again_when_more_are_wanted_later_each_time_and_then_forgotten() -> None:
    script = settled()
    script.manager.disconnected(peer(2), script.now)
    turns = []
    while script.now < 60 * HOURS and script.manager.counters()["remembered_good"]:
        if Dial(peer(2)) in script.poll():
            turns.append(script.now)
        script.now = max(script.now + 1, min(script.manager.next_wake(), script.now + 30))
    waits = [later - sooner for sooner, later in pairwise(turns)]
    assert len(turns) == 10 and 15 <= turns[0] - 1200 <= 25
    assert all(20 * 2**n * 0.8 - 1 <= wait <= 20 * 2**n * 1.2 + 31 for n, wait in enumerate(waits[:7], 1))
    assert all(wait <= 3600 * 1.2 + 31 for wait in waits)


def test_nobody_is_dialled_while_the_target_is_met() -> None:
    script = settled()
    script.manager.disconnected(peer(2), script.now)
    script.join("another")
    assert of(Dial, script.poll(600.0)) == []


def test_as_many_are_dialled_at_a_time_as_are_missing() -> None:
    script = Script(target=10)
    for name in range(30):
        script.manager.restore(peer(name), 0.0, True, 5.0, script.now)
    script.join(*range(100, 107))
    assert len(of(Dial, script.poll())) == 3
    assert of(Dial, script.poll()) == [] and script.manager.next_wake() == script.now + 10
    assert len(of(Dial, script.poll(10.0))) == 3


@pytest.mark.parametrize(
    ("story", "again"),
    [
        (lambda script, a: script.manager.disconnected(a, script.now), True),
        (lambda script, a: script.manager.disconnected(a, script.now, 1), True),
        (lambda script, a: script.manager.disconnected(a, script.now, 2**64 - 1), True),
        (lambda script, a: script.manager.disconnected(a, script.now, 129), True),
        (lambda script, a: script.manager.disconnected(a, script.now, 2), False),
        (lambda script, a: script.manager.disconnected(a, script.now, 251), False),
        (lambda script, a: script.manager.report(a, FATAL, "forged", script.now), False),
        (lambda script, a: script.manager.report(a, HIGH, "late", script.now), False),
        (lambda script, a: script.manager.served(a, script.now - 1e6), True),
    ],
)
def test_who_is_tried_again(story, again: bool) -> None:
    script = Script(target=2)
    (a,) = script.join("a")
    script.poll(60.0)
    story(script, a)
    script.poll()
    script.manager.disconnected(a, script.now)
    assert bool(of(Dial, script.poll(900.0))) is again


def test_who_stayed_for_less_than_a_minute_or_was_idle_and_inbound_is_not_tried_again() -> None:
    script = Script(target=9)
    short, idle, useful = *script.join("short"), *script.join("idle", direction=IN), *script.join("u", direction=IN)
    script.manager.disconnected(short, script.now + 59)
    script.now += 100
    script.manager.served(useful, script.now)
    for each in (idle, useful):
        script.manager.disconnected(each, script.now)
    assert of(Dial, script.poll(100.0)) == [Dial(useful)]


def test_after_too_many_peers_it_is_left_alone_for_longer() -> None:
    script = settled()
    script.manager.disconnected(peer(1), script.now, GoodbyeReason.TOO_MANY_PEERS)
    assert of(Dial, script.poll(400.0)) == []
    assert of(Dial, script.poll(400.0)) == [Dial(peer(1))]


# --- over a restart


def test_scores_are_handed_out_when_they_changed() -> None:
    script = Script()
    a, b, c = script.join("a", "b", "c")
    script.manager.report(a, LOW, "one", script.now)
    script.manager.served(b, script.now)
    script.manager.gossip_score(c, -100.0, script.now)
    assert script.manager.take_scores(script.now) == {a: -10.0, b: 1.0}
    assert script.manager.take_scores(script.now) == {}
    script.manager.report(a, LOW, "two", script.now)
    script.manager.disconnected(a, script.now)
    assert script.manager.take_scores(script.now + 600) == {a: -10.0}


@pytest.mark.parametrize(
    ("score", "age", "now"),
    [(-40.0, 0.0, -40.0), (-40.0, 600.0, -20.0), (-40.0, -1e9, -40.0), (-40.0, 1e9, 0.0), (math.nan, 0.0, 0.0)],
)
def test_a_score_is_restored_as_old_as_it_is(score: float, age: float, now: float) -> None:
    script = Script()
    script.manager.restore(peer("a"), score, True, age, script.now)
    assert script.manager.score(peer("a"), script.now) == pytest.approx(now)
    assert script.manager.score(peer("a"), script.now + 600) == pytest.approx(now / 2)
    script.poll(24 * HOURS)
    assert script.manager.counters()["remembered_faults"] == 0


def test_good_peers_of_the_last_run_are_dialled_and_bad_ones_not() -> None:
    script = Script()
    script.manager.restore(peer("good"), 3.0, True, 5.0, script.now)
    script.manager.restore(peer("bad"), -3.0, True, 5.0, script.now)
    script.manager.restore(peer("idle"), 0.0, False, 5.0, script.now)
    assert of(Dial, script.poll()) == [Dial(peer("good"))]


@pytest.mark.parametrize(("seconds", "lasts"), [(100.0, 100.0), (1e9, 12 * HOURS), (0.0, 0.0), (-5.0, 0.0)])
def test_a_ban_is_restored_for_12_hours_at_most(seconds: float, lasts: float) -> None:
    script = Script()
    script.manager.restore_ban(peer("a"), ip(1), seconds, script.now)
    assert [ban.until - script.now for ban in of(Ban, script.poll())] == ([lasts] if lasts else [])
    assert bool(script.manager.refusal(peer("a"), None, IN, script.now)) is bool(lasts)


def test_a_ban_is_extended_and_never_shortened() -> None:
    script = Script()
    for seconds in (100.0, 50.0, 200.0):
        script.manager.restore_ban(peer("a"), ip(1), seconds, script.now)
    assert [ban.until - script.now for ban in of(Ban, script.poll())] == [100.0, 100.0, 200.0]
    assert of(Unban, script.poll(199.0)) == [] and of(Unban, script.poll(1.0)) == [Unban(peer("a"))]


def test_restored_bans_count_for_their_address() -> None:
    script = Script()
    for at in range(6):
        script.manager.restore_ban(peer(at), ip_address("203.0.113.9"), 600.0 + at, script.now)
    assert [ban.until - script.now for ban in of(BanIp, script.poll())] == [600.0]


# --- time


def test_it_sleeps_until_something_is_due() -> None:
    script = Script(target=1)
    script.poll()
    assert script.manager.next_wake() == script.now + 30
    script.manager.restore_ban(peer("a"), None, 12.0, script.now)
    assert script.manager.next_wake() == -math.inf
    script.poll()
    assert script.manager.next_wake() == script.now + 12
    assert script.poll(12.0) == [Unban(peer("a"))]
    script.join("b")
    assert script.manager.next_wake() == -math.inf


def test_missed_beats_are_one_beat() -> None:
    script = Script()
    script.manager.want_subnet(attnet(1), math.inf)
    script.poll()
    assert len(of(Discover, script.poll(3000.0))) == 1
    assert script.manager.next_wake() == script.now + 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": 0},
        {"headroom": -0.1},
        {"outbound": 1.1},
        {"subnet_peers": 0},
        {"grace": -1.0},
        {"beat": 0.0},
        {"beat": math.inf},
        {"gossip_graylist": 0.0},
        {"bans": 0},
        {"headroom": math.nan},
        {"grace": math.nan},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PeerConfig(**wrong)
