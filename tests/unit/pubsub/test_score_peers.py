"""The score: what outlives a connection, shared addresses, misbehaviour, the application, parameters of topics."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from math import inf, nan

import pytest

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.score import ScoreBook, ScoreParts
from tests.unit.pubsub.score_support import PARAMS, PEERS, SCORE, T0, TOPIC, A, B, D, Script

# --- what outlives a connection


def test_a_good_score_is_dropped():
    script = Script(mesh=False)
    script.deliver(A, 5)
    script.book.peer_down(A, script.now)
    assert script.book.score(A) == 0
    script.book.peer_up(A, [], script.now)
    assert script.book.components(A) == ScoreParts()


def test_a_bad_score_is_kept_as_it_is():
    script = Script(mesh=False)
    script.deliver(A, 2)
    script.book.behaviour(A, 3)
    script.book.invalid(A, TOPIC)
    script.book.peer_down(A, script.now)
    script.beat(50)
    assert script.book.score(A) == -0.5 - 90  # no decay, no first deliveries
    script.book.peer_up(A, [], script.now)
    assert script.book.score(A) == -0.5 - 90
    script.beat()
    assert script.book.score(A) == -0.125 - 22.5  # now it decays again


def test_going_away_in_the_mesh_with_a_deficit_is_p3b():
    script = Script(peers=(A, B))
    script.beat(6)
    script.deliver(A, 1)
    script.deliver(B, 6)
    assert script.book.score(A) < 0
    script.book.peer_down(A, script.now)
    assert script.topic(A) == (0, 0, 0, 16, 0)
    script.book.peer_up(A, [], script.now)
    assert script.topic(A) == (0, 0, 0, 16, 0)
    script.book.peer_down(B, script.now)
    assert script.book.components(B) == ScoreParts()


@pytest.mark.parametrize(("away", "kept"), [(99.0, True), (100.0, False), (1000.0, False)])
@pytest.mark.parametrize("by", ["heartbeat", "return"])
def test_retention_ends(away, kept, by):
    script = Script(mesh=False)
    script.book.behaviour(A)
    script.book.peer_down(A, script.now)
    assert len(script.book) == 3
    script.now += away
    if by == "heartbeat":
        script.book.decay(script.now)
        assert len(script.book) == (3 if kept else 2)
    else:
        script.book.peer_up(A, [], script.now)
    assert script.book.score(A) == (-10 if kept else 0)


def test_retention_off():
    script = Script(replace(SCORE, retain_score=0.0), mesh=False)
    script.book.behaviour(A)
    script.book.peer_down(A, script.now)
    assert len(script.book) == 2


def test_who_did_nothing_is_not_kept():
    script = Script()
    script.book.peer_down(A, script.now)
    script.book.peer_down(A, script.now)
    assert len(script.book) == 2


def test_a_score_of_zero_with_guilt_is_kept():
    script = Script(replace(SCORE, behaviour_penalty_threshold=5.0), mesh=False)
    script.book.behaviour(A, 5)
    script.book.peer_down(A, script.now)
    script.book.peer_up(A, [], script.now)
    script.book.behaviour(A)
    assert script.book.score(A) == -10


def test_fresh_ids_that_misbehave_once_do_not_grow_us():
    book = ScoreBook(replace(SCORE, max_retained=10))
    ids = [PeerId(b"\x12\x20" + number.to_bytes(32, "big")) for number in range(100)]
    for peer in ids:
        book.peer_up(peer, [ip_address("203.0.113.9")], T0)
        book.behaviour(peer)
        book.peer_down(peer, T0)
        assert len(book) <= 10
    assert [peer for peer in ids if book.score(peer)] == ids[-10:]


# --- addresses


def p6(book: ScoreBook, peer: PeerId) -> float:
    parts = book.components(peer)
    assert parts.total == parts.p6 * SCORE.ip_colocation_weight
    return parts.p6


@pytest.mark.parametrize(
    "address",
    [
        pytest.param(lambda number: "203.0.113.7", id="one IPv4"),
        pytest.param(lambda number: f"2001:db8:0:1::{number + 1:x}", id="one IPv6 /64"),
        pytest.param(lambda number: "203.0.113.7" if number % 2 else "::ffff:203.0.113.7", id="IPv4 in IPv6"),
    ],
)
def test_peers_on_one_address(address):
    book = ScoreBook(SCORE)
    for number, peer in enumerate(PEERS):
        book.peer_up(peer, [ip_address(address(number))], T0)
        expected = max(number + 1 - SCORE.ip_colocation_threshold, 0) ** 2
        assert [p6(book, each) for each in PEERS[: number + 1]] == [expected] * (number + 1)
    for peer in PEERS[:6]:  # bad scores are kept, and count on: fresh ids from the same place pay for the old ones
        book.peer_down(peer, T0)
    assert p6(book, PEERS[-1]) == 81
    book.decay(T0 + SCORE.retain_score)
    assert [p6(book, peer) for peer in PEERS] == [0] * 6 + [9] * 6


def test_peers_on_different_addresses():
    book = ScoreBook(SCORE)
    for number, peer in enumerate(PEERS):
        book.peer_up(peer, [ip_address(f"203.0.113.{number}"), ip_address(f"2001:db8:0:{number:x}::1")], T0)
    assert [p6(book, peer) for peer in PEERS] == [0] * len(PEERS)


def test_several_addresses_add_up_but_one_place_counts_once():
    book = ScoreBook(SCORE)
    v4, v6, neighbour = (ip_address(text) for text in ("203.0.113.7", "2001:db8::1", "2001:db8::2"))
    for peer in PEERS[:5]:
        book.peer_up(peer, [v4, v6, neighbour], T0)
    assert [p6(book, peer) for peer in PEERS[:5]] == [4 + 4] * 5


def test_a_peer_that_moves():
    book = ScoreBook(SCORE)
    here, there = ip_address("203.0.113.7"), ip_address("203.0.113.8")
    for peer in PEERS[:4]:
        book.peer_up(peer, [here], T0)
    assert p6(book, A) == 1
    book.peer_up(D, [here, there], T0)
    assert p6(book, A) == 1
    book.peer_up(D, [there], T0)
    assert [p6(book, peer) for peer in PEERS[:4]] == [0] * 4


def test_the_innocent_make_room_on_an_address():
    book = ScoreBook(SCORE)
    for peer in PEERS[:3]:
        book.peer_up(peer, [ip_address("203.0.113.7")], T0)
    book.peer_down(A, T0)
    for peer in PEERS[3:5]:
        book.peer_up(peer, [ip_address("203.0.113.7")], T0)
    assert p6(book, B) == 1


@pytest.mark.parametrize(
    ("network", "address", "free"),
    [
        ("203.0.113.0/24", "203.0.113.7", True),
        ("203.0.112.0/24", "203.0.113.7", False),
        ("203.0.113.0/24", "::ffff:203.0.113.7", True),
        ("2001:db8::/32", "2001:db8:1::1", True),
        ("2001:db8::/32", "203.0.113.7", False),
    ],
)
def test_whitelisted_networks(network, address, free):
    book = ScoreBook(replace(SCORE, ip_colocation_whitelist=(ip_network(network),)))
    for peer in PEERS:
        book.peer_up(peer, [ip_address(address)], T0)
    assert p6(book, A) == (0 if free else 81)


def test_loopback_is_whitelisted_by_default():
    book = ScoreBook(SCORE)
    for peer in PEERS:
        book.peer_up(peer, [ip_address("127.0.0.1"), ip_address("::1")], T0)
    assert p6(book, A) == 0


# --- misbehaviour, the application, caps, topics


@pytest.mark.parametrize(("count", "value"), [(1, 0), (3, 0), (4, 1), (6, 9)])
def test_misbehaviour_over_the_threshold(count, value):
    script = Script(replace(SCORE, behaviour_penalty_threshold=3.0), mesh=False)
    script.book.behaviour(A, count - 1)
    script.book.behaviour(A)
    assert script.book.components(A).p7 == value
    assert script.book.score(A) == -10 * value


def test_the_application_is_asked_each_time():
    opinion = {A: 3.0}
    book = ScoreBook(replace(SCORE, app_specific_weight=2.0), lambda peer: opinion[peer])
    book.peer_up(A, [], T0)
    assert book.score(A) == 6
    opinion[A] = -4.0
    assert book.score(A) == -8
    assert book.components(A).p5 == -4
    assert book.score(B) == 0  # not known: not asked


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_an_application_that_says_no_number(value):
    book = ScoreBook(SCORE, lambda peer: value)
    book.peer_up(A, [], T0)
    book.behaviour(A)
    assert book.score(A) == -10


def test_topic_cap_limits_merit_of_all_topics_and_nothing_else():
    params = replace(SCORE, topics={TOPIC: PARAMS, "other": PARAMS}, topic_score_cap=6.0)
    book = ScoreBook(params, lambda peer: 100.0)
    book.peer_up(A, [], T0)
    for number in range(10):
        for topic in (TOPIC, "other"):
            book.accepted(topic.encode() + bytes([number]), topic, A, T0)
    parts = book.components(A)
    assert sum(each.score for each in parts.topics.values()) == 10
    assert (parts.topic_score, parts.total) == (6, 106)
    for _ in range(20):
        book.invalid(A, TOPIC)
    assert book.components(A).topic_score == 5 + 5 - 200


def test_unknown_topic_contributes_nothing():
    script = Script(mesh=False)
    script.book.grafted(A, "unknown", T0)
    script.deliver(A, 5, "unknown")
    message_id = script.begin(A, "unknown")
    script.book.duplicate(message_id, "unknown", B, T0)
    script.book.rejected(message_id, "unknown", A, T0)
    script.book.invalid(A, "unknown")
    script.beat(60)
    assert script.book.components(A) == script.book.components(B) == ScoreParts()
    assert script.book.deliveries == 0
    script.book.pruned(A, "unknown", script.now)
    assert script.book.components(A) == ScoreParts()


def test_a_topic_that_gets_parameters_later():
    script = Script(mesh=False)
    script.book.grafted(A, "late", T0)
    script.beat(10)
    script.book.set_topic_params("late", PARAMS)
    assert script.topic(A, "late") == (10, 0, 25, 0, 0)  # the time in the mesh was not forgotten
    script.deliver(A, 5, "late")
    assert script.topic(A, "late") == (10, 5, 0, 0, 0)
    script.book.set_topic_params("late", None)
    assert script.book.components(A) == ScoreParts()
    script.deliver(A, 5, "late")
    assert script.book.score(A) == 0


def test_a_topic_that_is_no_longer_scored_starts_again():
    script = Script(peers=(A,))
    script.deliver(A, 5)
    script.book.invalid(A, TOPIC)
    for params in (None, PARAMS):
        script.book.set_topic_params(TOPIC, params)
        assert script.topic(A) == (0,) * 5
        assert script.book.score(A) == 0


def test_new_topic_parameters_count_at_once_and_cut_to_their_caps():
    script = Script(mesh=False)
    script.deliver(A, 10)
    assert script.book.score(A) == 5
    script.book.set_topic_params(TOPIC, replace(PARAMS, topic_weight=1.0, first_message_deliveries_cap=4.0))
    assert script.book.score(A) == 4
    script.book.set_topic_params(TOPIC, PARAMS)
    assert script.book.score(A) == 2


def test_bad_topic_parameters_change_nothing():
    script = Script(mesh=False)
    script.deliver(A)
    with pytest.raises(ValueError):
        script.book.set_topic_params(TOPIC, replace(PARAMS, first_message_deliveries_weight=-1.0))
    assert script.book.score(A) == 0.5


def test_the_given_parameters_are_not_changed():
    topics = {TOPIC: PARAMS}
    book = ScoreBook(replace(SCORE, topics=topics))
    book.set_topic_params("other", PARAMS)
    assert topics == {TOPIC: PARAMS}


def test_without_parameters_everything_is_zero_and_nothing_is_kept():
    script = Script(None)
    with pytest.raises(ValueError, match="nothing is scored here"):
        script.book.set_topic_params(TOPIC, PARAMS)
    message_id = script.deliver(A)
    script.book.duplicate(message_id, TOPIC, B, script.now)
    script.book.rejected(script.begin(B), TOPIC, B, script.now)
    script.book.ignored(script.begin(B), script.now)
    script.book.invalid(A, TOPIC)
    script.book.behaviour(A, 100)
    script.beat(10)
    script.book.pruned(A, TOPIC, script.now)
    assert script.book.score(A) == 0
    assert script.book.components(A) == ScoreParts()
    script.book.peer_down(A, script.now)
    assert (len(script.book), script.book.deliveries) == (0, 0)


def test_an_exact_zero_stays_one():
    """Deficits in several topics that are made up leave no rounding error below 0, which would cost the mesh."""
    topics = {
        f"t{number}": replace(PARAMS, topic_weight=weight, first_message_deliveries_weight=0.0, time_in_mesh_weight=0.0)
        for number, weight in enumerate((0.1, 0.2, 0.7))
    }
    script = Script(replace(SCORE, topics=topics))
    for topic in topics:
        script.book.grafted(A, topic, T0)
    script.beat(6)
    assert script.book.score(A) < 0
    for topic in topics:
        script.deliver(A, 5, topic)
        script.book.score(A)
    assert script.book.score(A) == 0
