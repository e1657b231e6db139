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

    A late look is not made up for by further pings.
    """

    __slots__ = ("_due", "_interval", "_last", "_timeout")

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._last = now
        self._due: float | None = None

    def look(self, now: float) -> Beat:
        """Say what is to be done at `now`; after PING the caller sends one."""
        if self._due is not None:
            return Beat.LOST if now >= self._due else Beat.NOTHING
        if now - self._last < self._interval:
            return Beat.NOTHING
        self._last = now
        self._due = now + self._timeout
        return Beat.PING

    def answered(self) -> None:
        """The peer answered, or is known not to serve ping."""
        self._due = None
