"""Quotas: how many chunks of a protocol a peer, and all together, get per second.

Rules: pure, `now` given, every table bounded. Nothing is refused: who wants more than there is goes into debt and is
told how long to wait (consensus-specs p2p-interface: a responder withholds chunks, and must neither answer an error nor
close because of a rate). Whoever gives up the wait gives its tokens back, so the debt of a bucket is never more than
what waits.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """So many tokens a second, after a first `burst`."""

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        """Raise `ValueError` for a rate by which nothing ever comes."""
        if not (0 < self.per_second < math.inf and 1 <= self.burst < math.inf):
            raise ValueError(f"a rate needs per_second > 0 and burst >= 1, not {self.per_second} and {self.burst}")


@dataclass(frozen=True, slots=True)
class Quota:
    """The rate of one peer and the rate of all together, of one protocol; a token is a chunk."""

    peer: Rate
    total: Rate


class Bucket:
    """Tokens that come at a rate up to its burst; full at first, below zero while takers wait."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = now

    def reserve(self, count: int, now: float) -> float:
        """Take `count` tokens and return the seconds to wait for them; more than a burst counts as a burst.

        A clock that goes back adds nothing.
        """
        self._tokens = min(self._rate.burst, self._tokens + max(now - self._at, 0.0) * self._rate.per_second)
        self._at = max(self._at, now)
        self._tokens -= min(count, self._rate.burst)
        return max(-self._tokens, 0.0) / self._rate.per_second

    def refund(self, count: int) -> None:
        """Give back what `reserve(count)` took."""
        self._tokens = min(self._rate.burst, self._tokens + min(count, self._rate.burst))


class Buckets:
    """Buckets by key, made when first asked for; at most `most`, of which those used last stay.

    One that is forgotten starts full: with `most` above the keys that are in use at once (peers by protocols) only who
    has been away is forgotten.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def get(self, key: Hashable, rate: Rate, now: float) -> Bucket:
        """The bucket of `key`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(rate, now)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket
