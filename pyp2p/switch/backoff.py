"""Addresses that failed lately are left alone for a while: pure, `now` and randomness given."""

from __future__ import annotations

import random
from collections import OrderedDict

from pyp2p.errors import BackingOff
from pyp2p.switch.config import Backoff


class DialBackoff:
    """Remembers failed addresses (their texts), at most `config.entries`, least recently failed out first.

    The n-th failure in a row keeps an address for `base * factor ** (n - 1)` seconds, at most `cap`, spread by
    `jitter`. An address that has been free for as long again starts anew.
    """

    def __init__(self, config: Backoff, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._failures: OrderedDict[str, tuple[int, float, float]] = OrderedDict()

    def check(self, address: str, now: float) -> None:
        """Raise `BackingOff` while `address` is to be left alone."""
        found = self._failures.get(address)
        if found is not None and now < found[1]:
            raise BackingOff(address, found[1] - now, found[1])

    def failed(self, address: str, now: float) -> float:
        """Note a failure; returns until when (monotonic seconds) the address is left alone."""
        config = self._config
        count, until, wait = self._failures.pop(address, (0, now, 0.0))
        if now > until + wait:
            count = 0
        wait = config.cap
        if count < 64:  # beyond, the power is over any cap
            wait = min(config.cap, config.base * config.factor**count)
        wait *= 1 + config.jitter * (2 * self._rng.random() - 1)
        self._failures[address] = (count + 1, now + wait, wait)
        if len(self._failures) > config.entries:
            self._failures.popitem(last=False)
        return now + wait

    def succeeded(self, address: str) -> None:
        """The address works: forget its failures."""
        self._failures.pop(address, None)
