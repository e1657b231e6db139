"""Slots as they come: by the wall clock, waited for by the monotonic one."""

from __future__ import annotations

from collections.abc import Callable

import trio

from pyp2p.beacon.chain import Chain, ForkPeriod

_LONGEST = 60.0  # seconds of one wait: the wall clock may be set meanwhile


class SlotClock:
    """Where in time a chain is. `wall` gives seconds since 1970."""

    def __init__(self, chain: Chain, wall: Callable[[], float]) -> None:
        self._chain = chain
        self._wall = wall

    @property
    def slot(self) -> int:
        """The slot of now; below 0 before genesis."""
        return self._chain.slot_at(self._wall())

    @property
    def epoch(self) -> int:
        """The epoch of now; 0 before genesis."""
        return self._chain.epoch_at(self._wall())

    @property
    def period(self) -> ForkPeriod:
        """The fork and digest of now."""
        return self._chain.at_epoch(self.epoch)

    def seconds_until(self, slot: int) -> float:
        """From now to the start of a slot; below 0 for one that has begun."""
        return self._chain.slot_start(slot) - self._wall()

    @property
    def seconds_to_next(self) -> float:
        """To the start of the next slot, but at most a minute: the wall clock may be set meanwhile."""
        return min(max(self.seconds_until(self.slot + 1), 0.0), _LONGEST)

    async def next_slot(self) -> int:
        """Wait for the start of the next slot, and return it; whoever is late misses some."""
        coming = self.slot + 1
        await trio.lowlevel.checkpoint()
        while self.slot < coming:  # noqa: ASYNC110  nobody tells that the clock was set
            await trio.sleep(self.seconds_to_next)
        return max(self.slot, coming)
