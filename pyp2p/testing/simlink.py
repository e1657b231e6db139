"""Links of the simulated network: what takes how long, and what never arrives.

Rules: one scheduler carries everything in the order (time, sequence number). A stream's bytes are never changed or
swapped: a lost segment costs the time to send it again, and what a cut link swallows is gone with all that follows.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

_RETRANSMIT = 0.2  # seconds until a lost segment is sent again; doubled for each further loss
_MAX_DOUBLINGS = 8
RECENT = 1000  # trace lines that are kept to look at; the hash covers all


@dataclass(frozen=True, slots=True)
class LinkQuality:
    """One direction of a link.

    `latency` and `jitter` (at most that much more, drawn evenly) are seconds one way, `bandwidth` is bytes per second
    (None: no limit), `loss` the probability that a segment must be sent again, and that a datagram is gone.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float | None = None
    loss: float = 0.0

    def __post_init__(self) -> None:
        if min(self.latency, self.jitter) < 0 or not 0 <= self.loss < 1 or (self.bandwidth or 1) <= 0:
            raise ValueError(f"not a link: {self}")


class Schedule:
    """Callbacks at virtual times. Those of one time run in the order in which they were scheduled."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._wake = trio.lowlevel.ParkingLot()

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Call `callback`, which must not wait, at `when`."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, callback))
        if self._heap[0][1] == self._count:
            self._wake.unpark_all()

    async def run(self) -> None:
        """Run the schedule until cancelled."""
        while True:
            while self._heap and self._heap[0][0] <= trio.current_time():
                heapq.heappop(self._heap)[2]()
            with trio.move_on_at(self._heap[0][0] if self._heap else math.inf):
                await self._wake.park()


@dataclass(frozen=True, slots=True)
class TraceLine:
    """Something was sent: when (virtual seconds), by and to which host, how much, and the hash of the bytes."""

    time: float
    source: str
    target: str
    size: int
    digest: str


class TraceLog:
    """All that was sent, as one hash, and the newest lines of it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.recent: deque[TraceLine] = deque(maxlen=RECENT)

    def add(self, source: str, target: str, data: bytes) -> None:
        """Note that `data` is sent now."""
        line = TraceLine(trio.current_time(), source, target, len(data), hashlib.sha256(data).hexdigest()[:16])
        self.recent.append(line)
        self._hash.update(f"{line.time!r} {source} {target} {line.size} {line.digest}\n".encode())

    @property
    def digest(self) -> str:
        """The hash of all lines so far: equal for equal runs."""
        return self._hash.hexdigest()


class Flow:
    """One direction of one connection: keeps its order on the link and counts its flights.

    A flight begins when this side sends for the first time, or again after it has heard from the other side.
    """

    __slots__ = ("heard", "last_arrival", "link", "reverse", "severed", "swallowed")

    reverse: Flow

    def __init__(self, link: Link) -> None:
        self.link = link
        self.heard = True
        self.last_arrival = 0.0
        self.swallowed = False  # something was lost for good: nothing that follows can arrive
        self.severed = False  # the connection was reset: nothing arrives, not even what is on its way

    def send(self, size: int, deliver: Callable[[], None]) -> None:
        """Bring something that takes `size` bytes to the other side (0: an acknowledgement or the like)."""
        self.link.carry(self, size, deliver)

    def speaks(self) -> None:
        """Payload is sent: it belongs to the flight that is under way, or begins a new one."""
        if self.heard:
            self.heard = False
            self.link.flights += 1

    def arrived(self) -> None:
        """Payload has arrived: an answer to it is a new flight."""
        self.reverse.heard = True


def flow_pair(there: Link, back: Link) -> tuple[Flow, Flow]:
    """The two directions of a connection."""
    near, far = Flow(there), Flow(back)
    near.reverse, far.reverse = far, near
    return near, far


@dataclass(slots=True)
class Link:
    """One direction between two hosts, shared by all connections between them; counts what it carries."""

    source: str
    target: str
    quality: LinkQuality
    schedule: Schedule
    rng: random.Random
    flights: int = 0
    segments: int = 0
    bytes: int = 0
    resent: int = 0
    swallowed: int = 0
    cut: bool = False
    held: deque[tuple[Flow, int, Callable[[], None]]] | None = None  # bounded by the buffers of the streams
    _free_at: float = field(default=0.0, init=False)

    def carry(self, flow: Flow, size: int, deliver: Callable[[], None]) -> None:
        """Deliver after the time it takes; hold it during a partition; swallow it where the link is cut."""
        if flow.swallowed:
            return
        if self.cut:
            flow.swallowed = True
            self.swallowed += size
            return
        if self.held is not None:
            self.held.append((flow, size, deliver))
            return
        start = trio.current_time()
        if size:
            self.segments += 1
            self.bytes += size
            if self.quality.bandwidth is not None:
                start = self._free_at = max(start, self._free_at) + size / self.quality.bandwidth
        flow.last_arrival = max(start + self._delay(size), flow.last_arrival)

        def arrive() -> None:
            if not flow.severed:
                deliver()

        self.schedule.at(flow.last_arrival, arrive)

    def _delay(self, size: int) -> float:
        delay = self.quality.latency
        if self.quality.jitter:
            delay += self.rng.uniform(0, self.quality.jitter)
        if size and self.quality.loss:
            for doublings in range(_MAX_DOUBLINGS):
                if self.rng.random() >= self.quality.loss:
                    break
                self.resent += 1
                delay += _RETRANSMIT * 2**doublings
        return delay

    def carry_datagram(self, size: int, deliver: Callable[[], None]) -> None:
        """Deliver after the latency and jitter, in whatever order that gives, or lose it."""
        if self.cut or self.held is not None or (self.quality.loss and self.rng.random() < self.quality.loss):
            self.swallowed += size
            return
        self.segments += 1
        self.bytes += size
        start = trio.current_time()
        if self.quality.bandwidth is not None:
            start = self._free_at = max(start, self._free_at) + size / self.quality.bandwidth
        jitter = self.rng.uniform(0, self.quality.jitter) if self.quality.jitter else 0.0
        self.schedule.at(start + self.quality.latency + jitter, deliver)

    def hold(self) -> None:
        """Begin a partition: nothing passes, and what is sent waits for its end."""
        if self.held is None:
            self.held = deque()

    def release(self) -> None:
        """End a partition."""
        held, self.held = self.held, None
        for flow, size, deliver in held or ():
            self.carry(flow, size, deliver)
