"""The score: bounds, and what holds whatever the peers do."""

import gc
from collections.abc import Sequence
from dataclasses import fields, replace
from ipaddress import ip_address
from math import isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.counters import Counters
from pyp2p.pubsub.deliveries import Delivery
from pyp2p.pubsub.score import ScoreBook, ScoreParts
from pyp2p.pubsub.standing import Standing
from tests.unit.pubsub.score_support import (
    PARAMS,
    PEERS,
    SCORE,
    T0,
    TOPIC,
    WINDOW,
    A,
    B,
    C,
    Script,
)

# --- bounds


def test_hostile_073_deliveries_are_bounded_in_number():
    script = Script(replace(SCORE, max_deliveries=10))
    pending = [script.begin(A) for _ in range(100)]
    assert script.book.deliveries == 10
    script.book.duplicate(pending[-1], TOPIC, B, script.now)
    for message_id in pending:
        script.book.accepted(message_id, TOPIC, A, script.now)
    assert script.book.deliveries == 10
    assert script.topic(A)[1] == 10  # the first ones earn also where the record was pushed out (here: up to the cap)
    assert script.near_first(B) == 1


def test_hostile_073_deliveries_are_bounded_in_age():
    script = Script()
    good, bad, open_ = script.deliver(A), script.begin(A), script.begin(B)
    script.book.rejected(bad, TOPIC, A, script.now)
    assert script.book.deliveries == 3
    script.book.decay(script.now + WINDOW * 2)
    assert script.book.deliveries == 2
    assert good not in (bad, open_)
    script.book.decay(script.now + SCORE.seen_message_ttl + 1)
    assert script.book.deliveries == 0


def test_a_message_that_is_begun_twice_keeps_its_verdict():
    script = Script()
    good = script.deliver(A)
    script.book.begin(good, TOPIC, B, script.now)
    script.book.accepted(good, TOPIC, B, script.now)
    assert script.topic(B)[1] == 0
    bad = script.begin(A)
    script.book.rejected(bad, TOPIC, A, script.now)
    script.book.begin(bad, TOPIC, B, script.now)
    script.book.duplicate(bad, TOPIC, C, script.now)
    assert script.topic(C)[4] == 1


def test_decayed_counters_are_dropped():
    script = Script(peers=(A,), mesh=False)
    script.deliver(A, 10)
    script.beat(9)
    assert TOPIC in script.book.components(A).topics
    script.beat()
    assert script.book.components(A) == ScoreParts()


def life(book: ScoreBook, ids: Sequence[PeerId], now: float) -> None:
    for number, peer in enumerate(ids):
        book.peer_up(peer, [ip_address(0x0B000000 + number)], now)
        book.grafted(peer, TOPIC, now)
        for count in range(5):
            message_id = number.to_bytes(8, "big") + bytes([count])
            book.begin(message_id, TOPIC, peer, now)
            book.duplicate(message_id, TOPIC, ids[0], now)
            verdict = book.rejected if count % 2 else book.accepted
            verdict(message_id, TOPIC, peer, now)
        book.behaviour(peer)
    for peer in ids:
        book.peer_down(peer, now)


def test_forgetting_returns_memory():
    def held() -> int:
        gc.collect()
        return sum(isinstance(each, Standing | Counters | Delivery) for each in gc.get_objects())

    ids = [PeerId(b"\x12\x20" + number.to_bytes(32, "big")) for number in range(200)]
    book, before = ScoreBook(SCORE), held()
    life(book, ids, T0)
    assert held() - before > 2 * len(ids)
    book.decay(T0 + 10_000)
    assert (len(book), book.deliveries) == (0, 0)
    assert held() == before


# --- what always holds

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("up", "down", "graft", "prune", "begin", "duplicate", "accepted", "rejected", "ignored"),
                *("invalid", "behaviour", "beat", "wait", "params"),
            ]
        ),
        st.integers(0, 3),  # whose
        st.integers(0, 2),  # topic
        st.integers(0, 4),  # message
    ),
    max_size=120,
)
TOPICS = [TOPIC, "other", "unscored"]


def play(book: ScoreBook, events, after=lambda now: None) -> float:
    """Carry out `events` in any order, sense or none."""
    now = T0
    for what, whose, which, number in events:
        peer, topic, message_id = PEERS[whose], TOPICS[which], bytes([which, number])
        if what == "up":
            book.peer_up(peer, [ip_address("203.0.113.7"), ip_address(f"2001:db8::{number}")], now)
        elif what == "down":
            book.peer_down(peer, now)
        elif what == "graft":
            book.grafted(peer, topic, now)
        elif what == "prune":
            book.pruned(peer, topic, now)
        elif what in ("begin", "duplicate", "accepted", "rejected"):
            getattr(book, what)(message_id, topic, peer, now)
        elif what == "ignored":
            book.ignored(message_id, now)
        elif what == "invalid":
            book.invalid(peer, topic)
        elif what == "behaviour":
            book.behaviour(peer, number)
        elif what == "params":
            book.set_topic_params(topic, [None, PARAMS, replace(PARAMS, topic_weight=2.0)][number % 3])
        else:
            now += 1.0 if what == "beat" else number * 7.3
            book.decay(now)
        after(now)
    return now


def values(parts: ScoreParts) -> list[float]:
    own = [getattr(parts, each.name) for each in fields(parts) if each.name not in ("topics", "topic_score", "total")]
    return own + [getattr(each, name) for each in parts.topics.values() for name in ("p1", "p2", "p3", "p3b", "p4")]


BUSY = replace(SCORE, topics={TOPIC: PARAMS, "other": PARAMS}, max_deliveries=3, max_retained=2, topic_score_cap=4.0)


@given(EVENTS)
@settings(max_examples=150, deadline=None)
def test_values_are_never_negative_and_scores_finite(events):
    book = ScoreBook(BUSY, lambda peer: 0.5)

    def check(now: float) -> None:
        for peer in PEERS[:4]:
            parts = book.components(peer)
            assert isfinite(parts.total)
            assert min(values(parts)) >= (0 if parts.p5 >= 0 else parts.p5)
            assert parts.topic_score <= 4.0
        assert book.deliveries <= 2 * 3

    play(book, events, check)


@given(EVENTS)
@settings(max_examples=150, deadline=None)
def test_the_kept_score_is_the_computed_one(events):
    """Asking after every event, or only at the end, gives the same."""
    asked, silent = ScoreBook(BUSY), ScoreBook(BUSY)
    play(asked, events, lambda now: [asked.score(peer) for peer in PEERS[:4]])
    play(silent, events)
    for peer in PEERS[:4]:
        parts = silent.components(peer)
        weighted = (
            min(sum(each.score for each in parts.topics.values()), 4.0)
            + parts.p6 * SCORE.ip_colocation_weight
            + parts.p7 * SCORE.behaviour_penalty_weight
        )
        assert asked.score(peer) == pytest.approx(parts.total) == pytest.approx(weighted)
        assert values(asked.components(peer)) == pytest.approx(values(parts))


@given(EVENTS, st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_decay_only_shrinks_what_decays(events, beats):
    book = ScoreBook(BUSY)
    now = play(book, events)
    for _ in range(beats):
        before = {peer: book.components(peer) for peer in PEERS[:4]}
        now += 1.0
        book.decay(now)
        for peer, old in before.items():
            new = book.components(peer)
            for name in ("p2", "p3b", "p4", "p7"):
                assert getattr(new, name) <= getattr(old, name)


@given(EVENTS)
@settings(max_examples=100, deadline=None)
def test_when_all_are_gone_nothing_is_left(events):
    book = ScoreBook(BUSY)
    now = play(book, events)
    for peer in PEERS[:4]:
        book.peer_down(peer, now)
    book.decay(now + 10_000)
    assert (len(book), book.deliveries) == (0, 0)
    assert not book._colocation._peers and not book._colocation._places
    assert all(book.components(peer) == ScoreParts() for peer in PEERS[:4])
