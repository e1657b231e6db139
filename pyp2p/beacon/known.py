"""Good peers that left, to be dialled again when more are wanted, and the faults of those that are away.

Rules: pure; monotonic seconds. Two tables, each bounded, so that strangers who come to misbehave do not push out those
who were good to us, nor the other way round. Static and trusted peers are in neither: the dialer never gives them up.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass

from pyp2p.beacon.scores import Score
from pyp2p.peer.id import PeerId

_BASE = 20.0  # seconds until a good peer that left is tried
_LONGEST = 3600.0
_JITTER = 0.2
_TRIES = 10  # about two hours and a half; it has gone, or moved


@dataclass(slots=True)
class _Known:
    next_try: float
    tries: int = 0


class GoodPeers:
    """Whom to dial again; at most `most`, who left first goes first."""

    def __init__(self, most: int, rng: random.Random) -> None:
        self._most = most
        self._rng = rng
        self._peers: OrderedDict[PeerId, _Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, peer: PeerId, now: float, wait: float = _BASE) -> None:
        """Try it again, in `wait` seconds at the earliest (spread by a fifth)."""
        self._peers.pop(peer, None)
        self._peers[peer] = _Known(now + self._spread(wait))
        if len(self._peers) > self._most:
            self._peers.popitem(last=False)

    def forget(self, peer: PeerId) -> None:
        """It is back, or not good any more."""
        self._peers.pop(peer, None)

    def due(self, count: int, now: float) -> list[PeerId]:
        """Up to `count` to be tried now, who left last first; each waits twice as long as before for its next turn.

        After ten turns it is forgotten.
        """
        chosen: list[PeerId] = []
        for peer in reversed(self._peers):
            if len(chosen) >= count:
                break
            if self._peers[peer].next_try <= now:
                chosen.append(peer)
        for peer in chosen:
            known = self._peers[peer]
            known.tries += 1
            known.next_try = now + self._spread(min(_BASE * 2**known.tries, _LONGEST))
            if known.tries >= _TRIES:
                del self._peers[peer]
        return chosen

    def next_due(self) -> float:
        """When somebody may be tried; infinity without anybody."""
        return min((known.next_try for known in self._peers.values()), default=float("inf"))

    def _spread(self, seconds: float) -> float:
        return seconds * (1 + _JITTER * (2 * self._rng.random() - 1))


class Faults:
    """Scores below 0 of peers that are away: going and coming back washes nothing off. At most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._scores: OrderedDict[PeerId, Score] = OrderedDict()

    def __len__(self) -> int:
        return len(self._scores)

    def keep(self, peer: PeerId, score: Score, now: float) -> None:
        """Remember it if there is anything to hold against the peer."""
        self._scores.pop(peer, None)
        if score.behaviour(now) < 0:
            self._scores[peer] = score
            if len(self._scores) > self._most:
                self._scores.popitem(last=False)

    def get(self, peer: PeerId) -> Score | None:
        """The score of a peer that is away, None when nothing is held against it."""
        return self._scores.get(peer)

    def take(self, peer: PeerId) -> Score | None:
        """As `get`, and it is not away any more."""
        return self._scores.pop(peer, None)

    def expire(self, now: float) -> None:
        """Forget what has faded away."""
        for peer in [peer for peer, score in self._scores.items() if not score.behaviour(now)]:
            del self._scores[peer]
