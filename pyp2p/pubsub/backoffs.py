"""When a peer may be grafted again, per topic.

Rules: pure. What a peer asks for is clamped before anybody calculates with it. A backoff is never shortened, and it
outlives the connection: coming back does not help. At most `max_count` are kept, the first to end gives way; half of
the places are for backoffs of the default length at most.
libp2p specs, gossipsub v1.1 "Prune backoff and peer exchange".
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace

from pyp2p.peer.id import PeerId

_MAX_COUNT = 65_536  # peers that come with fresh ids, are pruned, and leave


class Backoffs:
    """All backoffs; `default` seconds where a peer named none, `longest` at most."""

    def __init__(self, default: float, longest: float, max_count: int = _MAX_COUNT) -> None:
        self._default = default
        self._longest = longest
        self._max_count = max_count
        self._until: dict[tuple[str, PeerId], float] = {}
        self._due: list[tuple[float, int, str, PeerId]] = []  # one for each, by when it ended when that was put down
        self._serial = 0  # peers cannot be compared

    def __len__(self) -> int:
        return len(self._until)

    def add(self, topic: str, peer: PeerId, seconds: float | None, now: float) -> None:
        """Leave the peer alone for `seconds`; None or 0: for the default."""
        crowded = (
            len(self._until) >= self._max_count // 2
        )  # long ones must not fill the table: what is added goes first
        until = now + (min(seconds, self._default if crowded else self._longest) if seconds else self._default)
        before = self._until.get((topic, peer))
        if before is None:
            if len(self._until) >= self._max_count:
                self._settle()
                self._forget_first()
            self._serial += 1
            heappush(self._due, (until, self._serial, topic, peer))
            self._until[topic, peer] = until
        elif until > before:
            self._until[topic, peer] = until

    def until(self, topic: str, peer: PeerId) -> float | None:
        """When the backoff ends, None when there is none."""
        return self._until.get((topic, peer))

    def active(self, topic: str, peer: PeerId) -> bool:
        """True while we must not graft the peer: until `expire` has taken the backoff away."""
        return (topic, peer) in self._until

    def expire(self, now: float) -> None:
        """Forget what ended before `now`."""
        while self._due and self._due[0][0] <= now:
            self._settle()
            if self._due[0][0] <= now:
                self._forget_first()

    def _settle(self) -> None:
        """Put those that were extended meanwhile where they belong, until the first one is."""
        while (until := self._until[self._due[0][2:]]) > self._due[0][0]:
            heapreplace(self._due, (until, *self._due[0][1:]))

    def _forget_first(self) -> None:
        del self._until[heappop(self._due)[2:]]
