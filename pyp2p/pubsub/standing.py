"""One peer as the score book knows it: its counters by topic and as a whole, and the score while nothing changes.

Rules: pure. The book says which decay step it is and what time in the mesh is measured to. The worth of the topics is
summed afresh whenever one changes, never adjusted by differences: an exact 0 must not become a little less than 0,
which would cost a place in the mesh.
"""

from __future__ import annotations

from pyp2p.pubsub.counters import Counters
from pyp2p.pubsub.params import ScoreParams


class Standing:
    """One peer, connected or remembered."""

    __slots__ = ("base", "behaviour", "colocation", "connected", "expires", "fresh", "step", "topics", "worth")

    def __init__(self, step: int) -> None:
        self.topics: dict[str, Counters] = {}
        self.worth: dict[str, float] = {}  # of each topic
        self.behaviour = 0.0
        self.colocation = 0.0  # P6
        self.connected = True
        self.expires = 0.0
        self.step = step  # the decay that the counters have seen
        self.base = 0.0  # the score without P5
        self.fresh = -1  # the step at which `base` was computed; -1: something changed since

    def follow(self, step: int, now: float, params: ScoreParams) -> None:
        """Let the counters see the decays that they have not seen. Nothing decays while the peer is away."""
        steps = step - self.step
        if not steps or not self.connected:
            return
        self.step = step
        zero, worth = params.decay_to_zero, self.worth
        blank: list[str] = []
        for topic, counters in self.topics.items():
            if counters.params is not None:
                counters.decay(counters.params, steps, zero)
                worth[topic] = counters.worth(now)
                if counters.blank:
                    blank.append(topic)
        for topic in blank:
            del self.topics[topic], worth[topic]
        if self.behaviour:
            value = self.behaviour * params.behaviour_penalty_decay**steps
            self.behaviour = value if value >= zero else 0.0

    def changed(self, topic: str, now: float) -> None:
        """The counters of `topic` changed; blank ones are dropped."""
        self.fresh = -1
        counters = self.topics[topic]
        if counters.blank:
            del self.topics[topic]
            self.worth.pop(topic, None)
        else:
            self.worth[topic] = counters.worth(now)

    def guilty(self) -> bool:
        """There is something that must not be washed off by reconnecting."""
        return self.behaviour > 0 or any(each.failure or each.invalid for each in self.topics.values())

    def topic_score(self, params: ScoreParams) -> float:
        """The weighted sum over the topics, capped."""
        value = sum(self.worth.values(), 0.0)
        cap = params.topic_score_cap
        return cap if 0 < cap < value else value

    def misbehaviour(self, params: ScoreParams) -> float:
        """P7: the square of what is over the threshold."""
        over = self.behaviour - params.behaviour_penalty_threshold
        return over * over if over > 0 else 0.0

    def refresh(self, params: ScoreParams) -> None:
        """Compute the score without P5; the counters are up to date."""
        base = self.topic_score(params)
        if self.colocation:
            base += self.colocation * params.ip_colocation_weight
        if self.behaviour:
            base += self.misbehaviour(params) * params.behaviour_penalty_weight
        self.base = base
        self.fresh = self.step
