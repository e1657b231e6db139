"""Streams that have so many seconds for something, looked at from time to time: pure."""

from __future__ import annotations

from pyp2p.muxers.base import SubStream


class Deadlines:
    """Streams with a deadline each, all of the same patience, so that the first to enter is the first to expire."""

    __slots__ = ("_due", "_patience")

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._due: dict[SubStream, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def add(self, sub: SubStream, now: float) -> None:
        """Give `sub` `patience` seconds from `now`."""
        self._due.pop(sub, None)
        self._due[sub] = now + self._patience

    def drop(self, sub: SubStream) -> None:
        """Wait for `sub` no longer. Idempotent."""
        self._due.pop(sub, None)

    def expired(self, now: float) -> list[SubStream]:
        """Take out those whose time is up; everybody's at `now` = infinity."""
        over = []
        for sub, due in self._due.items():
            if due > now:
                break
            over.append(sub)
        for sub in over:
            del self._due[sub]
        return over
