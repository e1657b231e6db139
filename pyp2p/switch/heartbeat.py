"""When to ask a peer for a sign of life, and when to give it up: pure."""

from __future__ import annotations

import enum


class Beat(enum.Enum):
    """What is to be done now."""

    NOTHING = "nothing"
    PING = "ping"
    LOST = "lost"


class Heartbeat:
    """One ping every `interval` seconds, the first one interval after `now`; lost when `timeout` passes unanswered.

    A late look is not made up for by further pings. An answer can be stuck behind much else on a slow link: while
    anything arrives, the peer is alive.
    """

    __slots__ = ("_due", "_heard", "_interval", "_last", "_timeout")

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._last = now
        self._due: float | None = None
        self._heard = 0

    def look(self, now: float, heard: int) -> Beat:
        """Say what is to be done at `now`, `heard` bytes having come so far; after PING the caller sends one."""
        if self._due is None and now - self._last >= self._interval:
            self._last, self._heard = now, heard
            self._due = now + self._timeout
            return Beat.PING
        if self._due is None or now < self._due:
            return Beat.NOTHING
        if heard == self._heard:
            return Beat.LOST
        self._due, self._heard = now + self._timeout, heard
        return Beat.NOTHING

    def answered(self) -> None:
        """The peer answered, or is known not to serve ping."""
        self._due = None
