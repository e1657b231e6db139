"""`pyp2p perf`: how fast bytes go to a peer that serves `/perf/1.0.0`, and back."""

from __future__ import annotations

import argparse
from typing import Any

import trio

from pyp2p.cli import render
from pyp2p.cli.failure import OK, UsageError
from pyp2p.cli.output import Output
from pyp2p.cli.reach import Reached, protocol_failure, trace_lines, with_connection
from pyp2p.errors import NoCommonProtocol, P2PError, StageTimeout
from pyp2p.protocols.perf import PERF_PROTOCOL, PerfResult, run_perf
from pyp2p.trace import Stage

DEFAULT_BYTES = 64_000_000
STALLED_AFTER = 30.0  # seconds without a byte
_SELDOM = 0.1  # seconds between two moves of the deadline, each of which costs a little


def run(options: argparse.Namespace, out: Output) -> int:
    """Run the command."""
    upload, download = options.upload, options.download
    if upload is None and download is None:
        upload = download = DEFAULT_BYTES
    upload, download = upload or 0, download or 0
    if not upload and not download:
        raise UsageError("nothing to transfer", "Give --upload or --download a size.")

    async def work(reached: Reached) -> int:
        trace = reached.connection.trace
        result = await transfer(reached, upload, download, out)
        facts: dict[str, Any] = {"peer_id": str(reached.connection.peer), **as_json(result), "trace": trace.as_json()}
        lines = [*trace_lines(trace, out), ""] if options.trace else []
        out.emit("perf", facts, [*lines, *result_lines(result, out)])
        return OK

    return with_connection(options, out, work)


async def transfer(reached: Reached, upload: int, download: int, out: Output) -> PerfResult:
    """One run with a live line. Raises `CommandFailed`."""
    moved = (0, 0)
    moved_at = 0.0
    doing = "Tried to transfer"

    def line() -> str:
        return progress_line(moved, (upload, download), trio.current_time() - started)

    def seen(up: int, down: int) -> None:
        nonlocal moved, moved_at
        moved = (up, down)
        now = trio.current_time()
        if now - moved_at > _SELDOM:
            moved_at = now
            scope.deadline = min(now + STALLED_AFTER, reached.deadline)

    try:
        with trio.CancelScope(deadline=min(trio.current_time() + STALLED_AFTER, reached.deadline)) as scope:
            stream = await reached.connection.open_stream(PERF_PROTOCOL)
            started = trio.current_time()
            out.status(line)
            try:
                result = await run_perf(stream, upload, download, seen)
            finally:
                out.status(None)
                await trio.aclose_forcefully(stream)
            return result
    except NoCommonProtocol as error:
        failure = protocol_failure(reached, error, doing)
        failure.advice = "Its operator has to allow it: `pyp2p listen --perf` does."
        raise failure from error
    except (P2PError, trio.BrokenResourceError) as error:
        raise protocol_failure(reached, error, f"{doing}, and moved {_moved(moved)},") from error
    total = reached.deadline <= trio.current_time()
    late = StageTimeout(Stage.PROTOCOL, reached.deadline - reached.started if total else STALLED_AFTER)
    raise protocol_failure(reached, late, f"{doing}, and moved {_moved(moved)},")


def _moved(moved: tuple[int, int]) -> str:
    return f"{render.size(moved[0])} up and {render.size(moved[1])} down"


def progress_line(moved: tuple[int, int], wanted: tuple[int, int], seconds: float) -> str:
    """What the live line says."""
    done, total = sum(moved), sum(wanted)
    way = "up" if moved[0] < wanted[0] else "down"
    filled = 24 * done // max(total, 1)
    bar = "#" * filled + "." * (24 - filled)
    return f"[{bar}] {way}  {render.size(done)} of {render.size(total)}  {render.rate(done, seconds)}"


def as_json(result: PerfResult) -> dict[str, object]:
    """The fields of `perf`."""
    return {
        "upload_bytes": result.upload_bytes,
        "download_bytes": result.download_bytes,
        "upload_seconds": round(result.upload_seconds, 6),
        "download_seconds": round(result.download_seconds, 6),
    }


def result_lines(result: PerfResult, out: Output) -> list[str]:
    """The table of both ways; a way on which nothing was asked for is left out."""
    ways = (
        ("upload", result.upload_bytes, result.upload_seconds),
        ("download", result.download_bytes, result.download_seconds),
    )
    rows = [
        [way, render.size(count), render.duration(seconds), render.rate(count, seconds)]
        for way, count, seconds in ways
        if count
    ]
    return out.table(("", "bytes", "time", "rate"), rows, (1, 2, 3))
