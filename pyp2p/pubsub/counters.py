"""What one peer did in one topic, and what that is worth (P1 to P4).

Rules: pure. Only times and counters are kept; every value is computed from them for a moment that the caller names.
libp2p specs, gossipsub v1.1 "Topic Parameter Calculation and Decay".
"""

from __future__ import annotations

from dataclasses import dataclass

from pyp2p.pubsub.params import TopicScoreParams

ROUNDING = 1e-6  # a step or quantum that is short of whole by this much is whole: times are sums of floats


@dataclass(slots=True)
class TopicParts:
    """What a peer earned in one topic: the values before their weights, and the weighted sum."""

    p1: float = 0.0  # quanta in the mesh
    p2: float = 0.0  # first deliveries
    p3: float = 0.0  # squared deficit of deliveries in the mesh
    p3b: float = 0.0  # squared deficits at prunes
    p4: float = 0.0  # squared number of rejected messages
    score: float = 0.0


class Counters:
    """One peer in one topic. `params` None: not scored, only the membership is kept for when the topic gets some."""

    __slots__ = ("before", "deliveries", "failure", "first", "invalid", "params", "since")

    def __init__(self, params: TopicScoreParams | None) -> None:
        self.params = params
        self.since: float | None = None  # in the mesh since
        self.before = 0.0  # seconds there in earlier visits that ended before P3 was active; outside it decays
        self.first = 0.0
        self.deliveries = 0.0
        self.failure = 0.0
        self.invalid = 0.0

    @property
    def blank(self) -> bool:
        """Nothing is known: the counters need not be kept."""
        known = self.first or self.deliveries or self.failure or self.invalid or self.before
        return self.since is None and not known

    def active(self, now: float) -> bool:
        """The peer had its time in the mesh, also over several visits: else who comes and goes is never judged."""
        if self.params is None or self.since is None:
            return False
        return now - self.since + self.before > self.params.mesh_message_deliveries_activation

    def leave_mesh(self, now: float) -> None:
        """The visit is over; what lacks becomes P3b."""
        if self.since is not None:
            self.failure += self.deficit(now)
            self.before = 0.0 if self.active(now) or self.params is None else self.before + now - self.since
            self.since = None

    def deficit(self, now: float) -> float:
        """P3 at `now`: the square of what lacks, once the peer had its time in the mesh; only while it is there."""
        params = self.params
        if params is None or not self.active(now):
            return 0.0
        lacking = params.mesh_message_deliveries_threshold - self.deliveries
        return lacking * lacking if lacking > 0 else 0.0

    def quanta(self, now: float) -> float:
        """P1 at `now`: whole quanta in the mesh."""
        params = self.params
        if params is None or self.since is None or now <= self.since:
            return 0.0
        return min(float(int((now - self.since) / params.time_in_mesh_quantum + ROUNDING)), params.time_in_mesh_cap)

    def worth(self, now: float) -> float:
        """The weighted contribution of the topic to the score."""
        params = self.params
        if params is None:
            return 0.0
        value = self.first * params.first_message_deliveries_weight
        if self.since is not None:
            value += self.quanta(now) * params.time_in_mesh_weight
            value += self.deficit(now) * params.mesh_message_deliveries_weight
        if self.failure:
            value += self.failure * params.mesh_failure_penalty_weight
        if self.invalid:
            value += self.invalid * self.invalid * params.invalid_message_deliveries_weight
        return value * params.topic_weight

    def parts(self, now: float) -> TopicParts:
        """All of it, for people."""
        return TopicParts(
            p1=self.quanta(now),
            p2=self.first,
            p3=self.deficit(now),
            p3b=self.failure,
            p4=self.invalid * self.invalid,
            score=self.worth(now),
        )

    def decay(self, params: TopicScoreParams, steps: int, zero: float) -> None:
        """`steps` decays at once: a counter that falls below `zero` on the way ends at 0."""
        if self.first:
            value = self.first * params.first_message_deliveries_decay**steps
            self.first = value if value >= zero else 0.0
        if self.deliveries:
            value = self.deliveries * params.mesh_message_deliveries_decay**steps
            self.deliveries = value if value >= zero else 0.0
        if self.before and self.since is None:
            value = self.before * params.mesh_message_deliveries_decay**steps
            self.before = value if value >= zero else 0.0
        if self.failure:
            value = self.failure * params.mesh_failure_penalty_decay**steps
            self.failure = value if value >= zero else 0.0
        if self.invalid:
            value = self.invalid * params.invalid_message_deliveries_decay**steps
            self.invalid = value if value >= zero else 0.0

    def set_params(self, params: TopicScoreParams | None) -> None:
        """Count in this way from now on: counters over a lowered cap are cut, without parameters all are dropped."""
        self.params = params
        if params is None:
            self.first = self.deliveries = self.failure = self.invalid = self.before = 0.0
        else:
            self.first = min(self.first, params.first_message_deliveries_cap)
            self.deliveries = min(self.deliveries, params.mesh_message_deliveries_cap)
