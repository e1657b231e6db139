"""What happened on the way to a connection: named stages, timed steps, bytes and waits.

Rule: one `Stage` enum serves traces, errors and JSON, so that a step is called the same everywhere.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Stage(enum.Enum):
    """The steps of a dial or an accepted connection, in the order in which they happen."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    SECURITY_SELECT = "security_select"
    HANDSHAKE = "handshake"
    MUXER_SELECT = "muxer_select"
    IDENTIFY = "identify"
    ADMISSION = "admission"
    PROTOCOL = "protocol"

    @property
    def order(self) -> int:
        """Position in the sequence: of several failed attempts the one with the highest order got furthest."""
        return _ORDER[self]


_ORDER = {stage: position for position, stage in enumerate(Stage)}

MAX_STEPS = 64  # a trace lives as long as its connection: a peer must not be able to make it grow
MAX_FLIGHTS = 16  # of one step


@dataclass(slots=True)
class Step:
    """One timed step: monotonic seconds, bytes on the wire each way, and how often we had to wait for the peer."""

    stage: Stage
    detail: str
    started: float
    ended: float | None = None
    bytes_out: int = 0
    bytes_in: int = 0
    waits: int = 0
    flights: list[tuple[float, int]] = field(default_factory=list)  # when, and bytes: out > 0, in < 0

    def sent(self, size: int, now: float, wait: bool = True) -> None:
        """So many bytes left; `wait`: we then have to wait for the peer."""
        self.bytes_out += size
        self.waits += wait
        self._flight(now, size)

    def received(self, size: int, now: float) -> None:
        """So many bytes came."""
        self.bytes_in += size
        self._flight(now, -size)

    def _flight(self, now: float, size: int) -> None:
        if len(self.flights) < MAX_FLIGHTS:
            self.flights.append((now, size))

    def as_json(self, origin: float) -> dict[str, object]:
        """The step as `{stage, detail, at_ms, ms, bytes_out, bytes_in, flights}`; `at_ms` counts from `origin`.

        `flights` are the writes and reads of a negotiation in their order, each `{ms, out}` or `{ms, in}`.
        """
        ended = self.started if self.ended is None else self.ended
        return {
            "stage": self.stage.value,
            "detail": self.detail,
            "at_ms": round((self.started - origin) * 1000, 3),
            "ms": round((ended - self.started) * 1000, 3),
            "bytes_out": self.bytes_out,
            "bytes_in": self.bytes_in,
            "flights": [
                {"ms": round((at - origin) * 1000, 3), "out" if size > 0 else "in": abs(size)}
                for at, size in self.flights
            ],
        }


@dataclass(slots=True)
class Trace:
    """The steps of one connection attempt, oldest first, at most `MAX_STEPS` of them."""

    steps: list[Step] = field(default_factory=list)

    current: Step = field(default_factory=lambda: Step(Stage.RESOLVE, "", 0.0))

    def begin(self, stage: Stage, detail: str, now: float) -> Step:
        """End the current step and start the next at `now` (monotonic seconds); one beyond the bound is not kept."""
        self.finish(now)
        self.current = Step(stage, detail, now)
        if len(self.steps) < MAX_STEPS:
            self.steps.append(self.current)
        return self.current

    def finish(self, now: float) -> None:
        """End the current step at `now`."""
        if self.current.ended is None:
            self.current.ended = now

    @property
    def stage(self) -> Stage:
        """The stage of the current step: where an attempt that fails now has failed."""
        return self.current.stage

    @property
    def round_trips(self) -> int:
        """Flights after which we had to wait for the peer so far, the TCP handshake included."""
        return sum(step.waits for step in self.steps)

    def as_json(self) -> list[dict[str, object]]:
        """All steps as JSON objects, times counted from the first step."""
        origin = self.steps[0].started if self.steps else 0.0
        return [step.as_json(origin) for step in self.steps]
