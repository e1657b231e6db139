"""The score: the formula vectors, and who gets the credit and the blame in scripts of events."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.score import ScoreBook, ScoreParts
from tests.unit.pubsub.score_support import (
    ACTIVATION,
    PARAMS,
    PEERS,
    SCORE,
    T0,
    TOPIC,
    VECTORS,
    WINDOW,
    A,
    B,
    C,
    D,
    Script,
    with_topic,
)

# --- the formulas


def build(case) -> tuple[ScoreBook, PeerId]:
    """A book in which the counters of `A` are what the case says, reached by events alone."""
    counters = case["counters"]
    topic = counters.get("topic", {})
    params = replace(SCORE, topic_score_cap=case.get("topic_score_cap", 0.0))
    book = ScoreBook(params, lambda peer: counters.get("app", 0.0) if peer == A else 0.0)
    address = [ip_address("203.0.113.7")]
    for peer in PEERS[: max(counters.get("peers_on_ip", 1), 1)]:
        book.peer_up(peer, address, 0.0)
    book.decay(T0)  # the last step: time in the mesh is measured to here
    ids = iter(range(10_000))

    def deliver(first: PeerId, also: PeerId | None, count: float) -> None:
        for _ in range(int(count)):
            message_id = next(ids).to_bytes(20, "big")
            book.begin(message_id, TOPIC, first, T0)
            if also is not None:
                book.duplicate(message_id, TOPIC, also, T0)
            book.accepted(message_id, TOPIC, first, T0)

    deliver(A, None, topic.get("first_deliveries", 0))  # outside the mesh: not P3
    failure = topic.get("mesh_failure", 0.0)
    enough = PARAMS.mesh_message_deliveries_threshold - failure**0.5  # to be pruned with just that deficit
    other = PEERS[11]
    book.peer_up(other, [], T0)
    book.grafted(A, TOPIC, T0 - 60 if failure else T0)
    deliver(other, A, enough if failure else topic.get("mesh_deliveries", 0))
    book.pruned(A, TOPIC, T0)
    if topic and topic.get("in_mesh", True):
        book.grafted(A, TOPIC, T0 - topic.get("mesh_seconds", 0.0))
    for _ in range(int(topic.get("invalid", 0))):
        book.invalid(A, TOPIC)
    if counters.get("behaviour"):
        book.behaviour(A, int(counters["behaviour"]))
    return book, A


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vectors(case):
    book, peer = build(case)
    parts = book.components(peer)
    assert {name: getattr(parts, name) for name in case["values"]} == pytest.approx(case["values"])
    assert parts.total == pytest.approx(case["score"])
    assert book.score(peer) == parts.total
    if parts.topics:
        only = parts.topics[TOPIC]
        assert (only.p1, only.p2, only.p3, only.p3b, only.p4) == (parts.p1, parts.p2, parts.p3, parts.p3b, parts.p4)


def decaying() -> ScoreBook:
    """A book in which the counters of `A` are 10: first and mesh deliveries, invalid messages, misbehaviour."""
    assert VECTORS["decay"]["decay_to_zero"] == SCORE.decay_to_zero
    assert VECTORS["decay"]["start"] == 10.0
    script = Script(
        with_topic(mesh_message_deliveries_threshold=10.0, mesh_message_deliveries_activation=0.0), mesh=False
    )
    script.deliver(A, 10)
    script.book.grafted(A, TOPIC, T0 - 10)
    for _ in range(10):
        message_id = script.begin(B)
        script.book.duplicate(message_id, TOPIC, A, T0)
        script.book.accepted(message_id, TOPIC, B, T0)
        script.book.invalid(A, TOPIC)
        script.book.behaviour(A)
    return script.book


def test_decay_series():
    factor = VECTORS["decay"]["factor"]
    assert {PARAMS.first_message_deliveries_decay, PARAMS.mesh_message_deliveries_decay} == {factor}
    assert {PARAMS.invalid_message_deliveries_decay, SCORE.behaviour_penalty_decay} == {factor}
    book = decaying()
    for step, value in enumerate(VECTORS["decay"]["values"]):
        if step:
            book.decay(T0 + step)
        parts = book.components(A)
        assert parts.p2 == value
        assert parts.p3 == (10.0 - value) ** 2
        assert parts.p4 == value**2
        assert parts.p7 == value**2


def test_decay_series_of_the_sticky_penalty():
    script = Script(with_topic(mesh_message_deliveries_threshold=10**0.5), peers=(A,))
    script.beat(6)
    script.book.pruned(A, TOPIC, script.now)
    for value in VECTORS["decay"]["values"]:
        assert script.book.components(A).p3b == pytest.approx(value)
        script.beat()


def test_missed_heartbeats_decay_as_much_as_kept_ones():
    kept, late = decaying(), decaying()
    for step in range(1, 8):
        kept.decay(T0 + step)
        kept.score(A)
    late.decay(T0 + 7)
    assert late.components(A) == kept.components(A)


def test_decay_waits_for_its_interval_and_keeps_its_phase():
    script = Script(replace(SCORE, decay_interval=1.0), mesh=False)
    script.book.behaviour(A, 64)
    seen = []
    for beat in range(1, 11):  # heartbeats of 0.7 s
        script.book.decay(T0 + beat * 0.7)
        seen.append(script.book.components(A).p7 ** 0.5)
    assert seen == [64, 32, 16, 16, 8, 4, 4, 2, 1, 0.5]


# --- who gets the credit


def test_first_delivery_is_p2_and_p3():
    script = Script()
    script.deliver(A, 3)
    assert script.topic(A)[1] == 3
    assert script.near_first(A) == 3
    assert script.topic(B) == (0,) * 5


def test_first_delivery_outside_the_mesh_is_p2_alone():
    script = Script(mesh=False)
    script.deliver(A)
    assert script.topic(A)[1] == 1
    script.book.grafted(A, TOPIC, script.now)
    assert script.near_first(A) == 0


def test_duplicates_during_validation_are_p3_when_the_verdict_is_good():
    script = Script(peers=(A, B, C, D))
    script.book.pruned(D, TOPIC, script.now)
    message_id = script.begin(A)
    script.now += 30.0  # however long it takes
    for peer in (B, B, C, D, A):
        script.book.duplicate(message_id, TOPIC, peer, script.now)
    assert [script.near_first(peer) for peer in (A, B, C)] == [0, 0, 0]
    script.book.accepted(message_id, TOPIC, A, script.now)
    assert [script.near_first(peer) for peer in (A, B, C, D)] == [1, 1, 1, 0]  # once each, mesh only
    assert [script.topic(peer)[1] for peer in (A, B, C, D)] == [1, 0, 0, 0]


@pytest.mark.parametrize(("after", "counts"), [(0.0, 1), (WINDOW, 1), (WINDOW * 1.01, 0), (10.0, 0)])
def test_delivery_window(after, counts):
    script = Script()
    script.now = 0.0  # no rounding
    message_id = script.deliver(A)
    script.book.duplicate(message_id, TOPIC, B, after)
    assert script.near_first(B) == counts
    script.book.duplicate(message_id, TOPIC, B, after)  # a second copy counts no second time
    assert script.near_first(B) == counts
    assert script.topic(B)[1] == 0
    script.book.duplicate(message_id, TOPIC, A, after)
    assert script.near_first(A) == 1


def test_delivery_window_begins_with_the_verdict():
    script = Script()
    message_id = script.begin(A)
    script.now += 5.0
    script.book.accepted(message_id, TOPIC, A, script.now)
    script.book.duplicate(message_id, TOPIC, B, script.now + WINDOW / 2)
    assert script.near_first(B) == 1


def test_messages_in_between_do_not_end_the_window():
    script = Script()
    message_id = script.deliver(A)
    script.now += WINDOW / 2
    script.deliver(C)
    script.book.duplicate(message_id, TOPIC, B, script.now)
    assert script.near_first(B) == 1


def test_each_topic_has_its_own_window():
    params = replace(SCORE, topics={TOPIC: PARAMS, "wide": replace(PARAMS, mesh_message_delivery_window=2.0)})
    script = Script(params)
    for peer in (A, B):
        script.book.grafted(peer, "wide", T0)
    narrow, wide = script.deliver(A), script.deliver(A, topic="wide")
    script.book.duplicate(narrow, TOPIC, B, T0 + 1.0)
    script.book.duplicate(wide, "wide", B, T0 + 1.0)
    assert script.near_first(B) == 0
    assert script.book._peers[B].topics["wide"].deliveries == 1


def test_duplicate_of_a_message_that_nobody_began():
    script = Script()
    script.book.duplicate(b"unknown", TOPIC, A, script.now)
    assert script.topic(A) == (0,) * 5


def test_caps_hold_when_a_counter_is_raised():
    script = Script()
    script.deliver(A, 40)
    assert (script.topic(A)[1], script.near_first(A)) == (10, 10)


def test_a_second_verdict_changes_nothing():
    script = Script()
    good = script.deliver(A)
    script.book.accepted(good, TOPIC, A, script.now)
    script.book.rejected(good, TOPIC, A, script.now)
    bad = script.begin(B)
    script.book.rejected(bad, TOPIC, B, script.now)
    script.book.rejected(bad, TOPIC, B, script.now)
    script.book.accepted(bad, TOPIC, B, script.now)
    script.book.ignored(bad, script.now)
    script.book.duplicate(bad, TOPIC, C, script.now)
    assert script.topic(A) == (0, 1, 0, 0, 0)
    assert script.topic(B) == (0, 0, 0, 0, 1)
    assert script.topic(C) == (0, 0, 0, 0, 1)


def test_ignored_is_nobodys_merit_or_fault():
    script = Script()
    message_id = script.begin(A)
    script.book.duplicate(message_id, TOPIC, B, script.now)
    script.book.ignored(message_id, script.now)
    script.book.duplicate(message_id, TOPIC, C, script.now)
    assert [script.topic(peer) for peer in (A, B, C)] == [(0,) * 5] * 3
    assert [script.near_first(peer) for peer in (A, B, C)] == [0, 0, 0]
    assert script.book.deliveries == 0


# --- who gets the blame


def test_rejected_blames_all_who_brought_it():
    script = Script(peers=(A, B, C, D))
    message_id = script.begin(A)
    for peer in (B, B, A):
        script.book.duplicate(message_id, TOPIC, peer, script.now)
    script.book.rejected(message_id, TOPIC, A, script.now)
    assert [script.topic(peer)[4] for peer in (A, B, C)] == [1, 1, 0]
    script.book.duplicate(message_id, TOPIC, C, script.now + 60)  # still known to be bad
    script.book.duplicate(message_id, TOPIC, C, script.now + 61)  # and again
    assert script.topic(C)[4] == 4
    assert script.topic(D)[4] == 0
    assert [script.near_first(peer) for peer in (A, B, C)] == [0, 0, 0]


def test_rejected_is_forgotten_after_its_time():
    script = Script()
    message_id = script.begin(A)
    script.book.rejected(message_id, TOPIC, A, script.now)
    script.now += SCORE.seen_message_ttl + 1
    script.book.decay(script.now)
    script.book.duplicate(message_id, TOPIC, B, script.now)
    assert script.topic(B)[4] == 0


def test_the_blame_reaches_who_left_meanwhile():
    script = Script(mesh=False)
    script.book.behaviour(B)
    message_id = script.begin(A)
    script.book.duplicate(message_id, TOPIC, B, script.now)
    script.book.peer_down(B, script.now)
    script.book.rejected(message_id, TOPIC, A, script.now)
    assert script.topic(B)[4] == 1


def test_no_credit_for_who_left_meanwhile():
    script = Script(mesh=False)
    script.book.behaviour(A)
    message_id = script.begin(A)
    script.book.peer_down(A, script.now)
    script.book.accepted(message_id, TOPIC, A, script.now)
    assert script.topic(A)[1] == 0


def test_invalid_grows_by_the_square():
    script = Script(mesh=False)
    for count in range(1, 5):
        script.book.invalid(A, TOPIC)
        assert script.topic(A) == (0, 0, 0, 0, count**2)
        assert script.book.score(A) == -0.5 * count**2


# --- time in the mesh and deficits


def test_time_in_mesh_counts_from_the_graft_in_whole_quanta():
    script = Script(with_topic(time_in_mesh_quantum=2.0, time_in_mesh_cap=3.0), peers=(A,))
    seen = []
    for _ in range(9):
        script.beat()
        seen.append(script.topic(A)[0])
    assert seen == [0, 1, 1, 2, 2, 3, 3, 3, 3]
    script.book.pruned(A, TOPIC, script.now)
    assert script.topic(A)[0] == 0
    script.book.grafted(A, TOPIC, script.now)
    script.beat(2)
    assert script.topic(A)[0] == 1


def test_deficit_counts_after_activation():
    script = Script(peers=(A,))
    script.beat(5)
    assert script.topic(A)[2] == 0  # exactly at activation: not yet
    script.beat()
    assert script.topic(A)[2] == 25
    script.deliver(A, 2)
    assert script.topic(A)[2] == 9
    assert script.book.score(A) == pytest.approx(0.5 * (6 * 0.01 + 2 - 9))
    script.deliver(A, 3)
    assert script.topic(A)[2] == 0


@pytest.mark.hostile
def test_hostile_065_who_leaves_just_before_activation_is_judged_on_its_next_visit():
    script = Script(peers=(A,))
    for _ in range(3):
        script.beat(int(ACTIVATION) - 1)
        script.book.pruned(A, TOPIC, script.now)
        assert script.topic(A)[2] == script.topic(A)[3] == 0
        script.beat(1)
        script.book.grafted(A, TOPIC, script.now)
        script.beat(int(ACTIVATION) - 1)
        assert script.topic(A)[2] > 0
        script.book.pruned(A, TOPIC, script.now)
        assert script.topic(A)[3] > 0  # it has paid: its next visit is the first again
        script.beat(1000)
        script.book.grafted(A, TOPIC, script.now)


def test_time_in_the_mesh_before_activation_is_forgotten_like_deliveries():
    script = Script(peers=(A,))
    script.beat(int(ACTIVATION) - 1)
    script.book.pruned(A, TOPIC, script.now)
    script.beat(1000)
    script.book.grafted(A, TOPIC, script.now)
    script.beat(int(ACTIVATION) - 1)
    assert script.topic(A)[2] == 0


def test_a_second_graft_does_not_put_off_activation():
    script = Script(peers=(A,))
    script.beat(4)
    script.book.grafted(A, TOPIC, script.now)
    script.beat(2)
    assert script.topic(A)[2] == 25


def test_prune_with_a_deficit_is_sticky():
    script = Script(peers=(A, B))
    script.beat(6)
    script.deliver(A, 2)
    script.deliver(B, 5)
    for peer in (A, B):
        script.book.pruned(peer, TOPIC, script.now)
    assert script.topic(A) == (0, 2, 0, 9, 0)
    assert script.topic(B) == (0, 5, 0, 0, 0)
    script.beat()
    assert script.topic(A)[3] == 4.5
    script.book.pruned(A, TOPIC, script.now)  # not in the mesh: nothing is added
    assert script.topic(A)[3] == 4.5
    script.book.grafted(A, TOPIC, script.now)
    script.beat()
    script.book.pruned(A, TOPIC, script.now)  # before activation: nothing is added
    assert script.topic(A)[3] == 2.25


def test_prune_takes_the_exact_time_in_the_mesh():
    script = Script(peers=(A, B))
    script.book.pruned(A, TOPIC, T0 + ACTIVATION)
    script.book.pruned(B, TOPIC, T0 + ACTIVATION + 0.001)  # no decay step told the book so
    assert script.topic(A)[3] == 0
    assert script.topic(B)[3] == 25


def test_prune_of_who_was_forgotten_or_never_known():
    script = Script(peers=(A,), mesh=False)
    script.deliver(A)
    for _ in range(20):
        script.now += 1
        script.book.decay(script.now)  # the counters are not asked for until now: they are gone
    script.book.pruned(A, TOPIC, script.now)
    script.book.pruned(B, TOPIC, script.now)
    script.book.grafted(B, TOPIC, script.now)
    assert script.book.components(B) == ScoreParts()
