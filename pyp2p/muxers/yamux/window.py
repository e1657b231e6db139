"""Receive credit: when it is returned, how a window grows, and who pays for it.

Rules: the peer holds `credit` bytes; credit comes back only for bytes that the application took, in steps of half a
window. A window doubles when the application took half of it within 4 round trips: then the window, not the
application, is what slows the peer. Growth takes at most half of any budget. A stream costs max(bytes unread, bytes
grown beyond the initial window), paid to the account of its connection.
"""

from __future__ import annotations

from pyp2p.muxers.bounds import MemoryAccount

ROUND_TRIPS = 4.0  # half a window taken in fewer round trips: the window is too small
MIN_RTT = 0.0025  # on a loopback the scheduler, not the wire, is the delay between credit and data
UNKNOWN_RTT = 0.0125  # until a ping came back: a whole window within 100 ms lets it grow


class ReceiveWindow:
    """The receive side of one stream: `credit` the peer still holds, bytes `unread`, bytes `owed` to the peer."""

    __slots__ = ("credit", "grown", "owed", "since", "size", "unread")

    def __init__(self, size: int, now: float) -> None:
        self.size = size
        self.credit = size
        self.unread = 0
        self.owed = 0  # taken by the application, not yet returned to the peer
        self.grown = 0  # paid for although perhaps empty
        self.since = now  # when credit was last returned

    def arrived(self, count: int, account: MemoryAccount) -> bool:
        """`count` bytes came (their credit is already deducted); False, and nothing noted, when they cannot be paid."""
        over = self.unread + count - self.grown
        if over > 0 and not account.charge(min(count, over)):
            return False
        self.unread += count
        return True

    def credit_due(self, count: int, now: float, rtt: float | None, limit: int, account: MemoryAccount) -> int:
        """Owe the peer `count` bytes more; returns the window update that is due, or 0 until half a window is owed.

        `rtt` in seconds, None when unknown. The window doubles, up to `limit`, when `account` can pay for it.
        """
        owed = self.owed = self.owed + count
        size = self.size
        if owed < size >> 1:
            return 0
        if size < limit and now - self.since < ROUND_TRIPS * (UNKNOWN_RTT if rtt is None else max(rtt, MIN_RTT)):
            owed += self._grow(min(size, limit - size), account)
        self.owed = 0
        self.since = now
        self.credit += owed
        return owed

    def _grow(self, growth: int, account: MemoryAccount) -> int:
        """Widen by `growth` if it can be paid; unread bytes over the old size are paid already."""
        cost = self.grown + growth - max(self.grown, self.unread)
        if cost > 0 and not account.charge_spare(cost):
            return 0
        self.grown += growth
        self.size += growth
        return growth

    def discard(self, account: MemoryAccount) -> None:
        """The stream is over and nobody reads the rest: stop paying."""
        cost = max(self.unread, self.grown)
        self.unread = self.grown = 0
        if cost:
            account.discharge(cost)
