"""`pyp2p ping`: round trips over one stream, as the specification wants it; a new one after a ping was lost.

Over QUIC each ping has a stream of its own: there are peers that answer the first on a stream and no more.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from statistics import median

import trio

from pyp2p.cli import render
from pyp2p.cli.failure import OK, STAGE_CODES, CommandFailed
from pyp2p.cli.output import Output
from pyp2p.cli.reach import Reached, protocol_failure, trace_lines, with_connection
from pyp2p.errors import NoCommonProtocol, P2PError, StageTimeout, printable
from pyp2p.protocols.ping import PING_PROTOCOL, ping
from pyp2p.switch.stream import MuxedStream
from pyp2p.trace import Stage

PINGS = 5
LOST_AFTER = 10.0  # seconds
_STREAM_EACH = "/quic-v1"  # the muxer that comes with QUIC


@dataclass(slots=True)
class Tally:
    """Round trips in seconds, and how many pings were sent."""

    sent: int = 0
    times: list[float] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Pings without an answer."""
        return self.sent - len(self.times)

    def as_json(self) -> dict[str, object]:
        """The fields of the summary; null where no ping came back."""
        us = [value * 1e6 for value in self.times]
        return {
            "count": self.sent,
            "lost": self.lost,
            "min_us": round(min(us), 1) if us else None,
            "median_us": round(median(us), 1) if us else None,
            "p99_us": round(percentile(us, 99), 1) if us else None,
            "max_us": round(max(us), 1) if us else None,
        }

    def lines(self) -> list[str]:
        """The summary as text."""
        noun = "ping" if self.sent == 1 else "pings"
        if not self.times:
            return [f"{self.sent} {noun}, none came back"]
        low, high = render.duration(min(self.times)), render.duration(max(self.times))
        middle, late = render.duration(median(self.times)), render.duration(percentile(self.times, 99))
        return [f"{self.sent} {noun}, {self.lost} lost: median {middle}, p99 {late}, from {low} to {high}"]


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that `percent` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def run(options: argparse.Namespace, out: Output) -> int:
    """Run the command."""

    async def work(reached: Reached) -> int:
        peer, trace = str(reached.connection.peer), reached.connection.trace
        if not out.as_json:
            lines = [*trace_lines(trace, out), ""] if options.trace else []
            out.emit("connected", {}, [*lines, *render.fields([("peer id", peer)], out.style)])
        tally = Tally()
        try:
            await measure(reached, options.count or PINGS, options.interval, tally, out)
        finally:  # also when interrupted
            out.emit("ping", {"peer_id": peer, **tally.as_json(), "trace": trace.as_json()}, tally.lines())
        return OK

    return with_connection(options, out, work)


async def measure(reached: Reached, count: int, interval: float, tally: Tally, out: Output) -> None:
    """Send pings and print a line for each. Raises `CommandFailed` when none came back or the connection was lost."""
    pinger = Pinger(reached)
    width = len(str(count))
    try:
        for number in range(1, count + 1):
            if number > 1:
                await trio.sleep(interval)
                if trio.current_time() >= reached.deadline:
                    break
            tally.sent += 1
            seconds = await pinger.ping()
            if seconds is None:
                line = f"{number:{width}}  {out.style.bad('lost')}: {printable(str(pinger.why), 200)}"
                out.emit("round_trip", {"seq": number, "us": None, "lost": True}, [line])
                if not reached.connection.is_open:
                    break
            else:
                tally.times.append(seconds)
                line = f"{number:{width}}  {render.duration(seconds)}"
                out.emit("round_trip", {"seq": number, "us": round(seconds * 1e6, 1), "lost": False}, [line])
    finally:
        pinger.close()
    if not tally.times or (tally.lost and not reached.connection.is_open):
        raise ping_failure(pinger)


class Pinger:
    """Pings over one stream, after a loss over the next; over QUIC each over a stream of its own."""

    def __init__(self, reached: Reached) -> None:
        self.why: Exception | None = None
        self.reached = reached
        self._stream: MuxedStream | None = None

    async def ping(self) -> float | None:
        """Seconds of one round trip; None when it was lost, and `why`. Raises `CommandFailed` when nobody serves it."""
        reached = self.reached
        limit = max(min(LOST_AFTER, reached.deadline - trio.current_time()), 0)
        try:
            with trio.fail_after(limit):
                if self._stream is None:
                    self._stream = await reached.connection.open_stream(PING_PROTOCOL)
                seconds = await ping(self._stream, reached.switch.platform.entropy)
            if reached.connection.muxer_protocol == _STREAM_EACH:
                stream, self._stream = self._stream, None
                await stream.aclose()
            return seconds
        except NoCommonProtocol as error:
            raise protocol_failure(reached, error, "Tried to ping") from error
        except trio.TooSlowError:
            self.why = StageTimeout(Stage.PROTOCOL, limit)
        except (P2PError, trio.BrokenResourceError) as error:
            self.why = error
        self.close()
        return None

    def close(self) -> None:
        """Give up the stream, without a word."""
        if self._stream is not None:
            self._stream.reset()
            self._stream = None


def ping_failure(pinger: Pinger) -> CommandFailed:
    """That the last ping was lost, as the failure of the command."""
    reached = pinger.reached
    error = StageTimeout(Stage.PROTOCOL, LOST_AFTER) if pinger.why is None else pinger.why
    failure = protocol_failure(reached, error, "Pinged")
    if trio.current_time() < reached.deadline:
        failure.code = STAGE_CODES[Stage.PROTOCOL]
    return failure
