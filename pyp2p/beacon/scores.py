"""What one peer has earned: a number from -100 to 100, made of what it did and of what gossip thinks of it.

Rules: pure. What it did fades with a half-life, computed when somebody asks. Good deeds buy nothing: a fault takes all
credit away, and only time lifts a score that is below 0. Gossip's part stops above the disconnect threshold, so gossip
alone disconnects nobody.
"""

from __future__ import annotations

from enum import Enum
from math import isnan

SCORE_LIMIT = 100.0
HALF_LIFE = 600.0  # seconds
DISCONNECT_AT = -20.0
BAN_AT = -50.0
GOSSIP_LEAST = DISCONNECT_AT + 1  # gossip judges by windows of seconds: a slow hour of ours must not empty our table
GOSSIP_MOST = 90.0
CREDIT_MOST = SCORE_LIMIT - GOSSIP_MOST
_NOTHING = 0.01  # below this, what a peer did is forgotten


class Tolerance(Enum):
    """How bad a fault is; the value is what it costs. Faults that come at once add up: 2 low, 4 mid, 20 high ones
    disconnect, 5, 10 and 50 ban.
    """

    FATAL = 2 * SCORE_LIMIT  # never an accident, such as a forged proof: banned whatever its score was
    LOW = 10.0  # a rule was broken, such as a malformed chunk
    MID = 5.0  # may be an accident that should not repeat, such as a ping without an answer
    HIGH = 1.0  # happens to honest peers, such as a block that is late


class Score:
    """The score of one peer. Times are monotonic seconds; one that goes back counts as no time."""

    __slots__ = ("_at", "_behaviour", "gossip")

    def __init__(self, behaviour: float = 0.0, at: float = 0.0) -> None:
        self._behaviour = _within(behaviour, -SCORE_LIMIT, CREDIT_MOST)
        self._at = at
        self.gossip = 0.0

    def behaviour(self, now: float) -> float:
        """What it did: -100..10, half of it gone after 600 s; exactly 0 when next to nothing is left."""
        faded: float = self._behaviour * 0.5 ** (max(0.0, now - self._at) / HALF_LIFE)
        return faded if abs(faded) >= _NOTHING else 0.0

    def total(self, now: float) -> float:
        """The score, -100..100: gossip lifts only who has no fault that stands."""
        behaviour = self.behaviour(now)
        gossip = self.gossip if behaviour >= 0 else min(self.gossip, 0.0)
        return _within(behaviour + gossip, -SCORE_LIMIT, SCORE_LIMIT)

    def fault(self, tolerance: Tolerance, now: float) -> None:
        """Take off what the fault costs, and whatever credit there was."""
        self._set(min(self.behaviour(now), 0.0) - tolerance.value, now)

    def credit(self, amount: float, now: float) -> None:
        """Add up to 10 in all; nothing for a peer with a fault that stands."""
        behaviour = self.behaviour(now)
        if behaviour >= 0:
            self._set(behaviour + amount, now)

    def gossips(self, score: float, graylist: float) -> None:
        """The gossip score is `score` now: `graylist` (negative) and below make -19, above 0 it counts up to 90.

        What is no number counts as 0.
        """
        part = score * GOSSIP_LEAST / graylist if score < 0 else score
        self.gossip = 0.0 if isnan(part) else _within(part, GOSSIP_LEAST, GOSSIP_MOST)

    def _set(self, behaviour: float, now: float) -> None:
        self._behaviour = _within(behaviour, -SCORE_LIMIT, CREDIT_MOST)
        self._at = max(now, self._at)


def _within(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)
