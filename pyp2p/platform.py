"""Everything that differs between the world and a simulation, in one value that is passed in.

Monotonic time is trio's clock (`trio.current_time()`), which a simulation replaces by `trio.testing.MockClock`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Platform:
    """The wall clock (seconds since the epoch), the source of choices, and the source of key material.

    `rng` decides what need not be secret (jitter, choices); `entropy(n)` gives `n` bytes for keys and nonces.
    With a seeded `rng` and `entropy` the bytes that Noise puts on the wire are the same on each run.
    """

    wall: Callable[[], float] = time.time
    rng: random.Random = field(default_factory=random.Random)
    entropy: Callable[[int], bytes] = os.urandom
