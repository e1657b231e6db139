"""Bounds that every muxer keeps in the same way: memory paid in steps, and a bucket against rapid resets.

Rules: no I/O and no clock; what a session holds, its owner gets back by `close`.
"""

from __future__ import annotations

from pyp2p.errors import MuxerError
from pyp2p.muxers.base import MemoryBudget

# Codes that ride in a RST (yamux only); the numbers are those that go-libp2p gives its streams.
CODE_RESOURCE_LIMIT = 0x1002
CODE_SHUTDOWN = 0x1007

_STEP = 16 * 1024  # the account reserves in steps, so that most frames cost no call up to the switch's budget


class MemoryAccount:
    """What one session owes to a `MemoryBudget`, reserved in steps; nothing stays reserved while `used` is 0."""

    __slots__ = ("_budget", "_closed", "reserved", "used")

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._closed = False
        self.used = 0
        self.reserved = 0

    def charge(self, count: int) -> bool:
        """Pay for `count` bytes more, all or nothing."""
        used = self.used + count
        lacking = used - self.reserved
        if lacking > 0:
            if self._closed:
                return False
            if lacking < _STEP and self._budget.reserve(_STEP):
                self.reserved += _STEP
            elif self._budget.reserve(lacking):
                self.reserved += lacking
            else:
                return False
        self.used = used
        return True

    def charge_spare(self, count: int) -> bool:
        """Pay for a luxury: only while it leaves half of every budget free, so that it cannot starve arriving data."""
        budget: MemoryBudget | None = self._budget
        while budget is not None:
            if budget.used + count > budget.limit >> 1:
                return False
            budget = budget.parent
        return self.charge(count)

    def discharge(self, count: int) -> None:
        """Take back the payment for `count` bytes."""
        if self._closed:
            return
        used = self.used = self.used - count
        spare = self.reserved - used
        if not used:
            keep = 0
        elif spare >= 4 * _STEP:
            keep = _STEP
        else:
            return
        self._budget.release(spare - keep)
        self.reserved = used + keep

    def close(self) -> None:
        """Give everything back; later charges fail and later discharges do nothing."""
        self._budget.release(self.reserved)
        self._closed = True
        self.used = self.reserved = 0


class RapidReset:
    """A token bucket of streams that the peer opened and reset before anyone used them."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = self._burst
        self._at = now

    def count(self, now: float) -> None:
        """Count one more; raises `MuxerError` when they came faster than the rate after the burst."""
        self._tokens = min(self._tokens + (now - self._at) * self._rate, self._burst) - 1
        self._at = now
        if self._tokens < 0:
            raise MuxerError("streams are opened and reset too fast")
