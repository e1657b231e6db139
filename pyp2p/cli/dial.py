"""`pyp2p dial`: connect, identify, stay for a while, and tell what happens on the connection."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from dataclasses import replace

import trio

from pyp2p.cli import render
from pyp2p.cli.failure import OK
from pyp2p.cli.output import Output
from pyp2p.cli.reach import Reached, fact_rows, facts, require_identify, trace_lines, with_connection
from pyp2p.errors import printable
from pyp2p.switch.config import SwitchConfig, Timeouts
from pyp2p.switch.connection import Connection
from pyp2p.switch.events import Identified, SwitchEvent
from pyp2p.switch.facts import CloseReason, ConnectionStats

HEARTBEAT = 5.0  # seconds: whoever watches a connection wants to see that it lives
_LOOK = 0.1  # seconds between two looks at the counters


def run(options: argparse.Namespace, out: Output) -> int:
    """Run the command."""
    config = SwitchConfig(timeouts=replace(Timeouts(), heartbeat_interval=HEARTBEAT))

    async def work(reached: Reached) -> int:
        require_identify(reached)
        connection = reached.connection
        lines = render.fields(fact_rows(facts(reached)), out.style)
        if options.trace:
            lines += ["", *trace_lines(connection.trace, out)]
        if options.hold or not out.as_json:  # in JSON a connection that is not held is one line
            out.emit("connected", facts(reached), lines)
        held_from = trio.current_time()
        try:
            if options.hold:
                async with reached.switch.watch() as events:
                    with trio.move_on_after(options.hold):
                        await _report(connection, events, held_from, out)
        except trio.Cancelled:
            _tell_end(reached, trio.current_time() - held_from, out)
            raise
        held = trio.current_time() - held_from
        await connection.aclose()
        _tell_end(reached, held, out)
        return OK

    return with_connection(options, out, work, config)


def _tell_end(reached: Reached, held: float, out: Output) -> None:
    reason = reached.connection.reason or CloseReason("closed", "interrupted")
    why = printable(str(reason), 300)
    sheet = {**facts(reached), "held_seconds": round(held, 3), "ended_by": reason.by, "reason": why}
    who = {"us": "by us", "peer": "by the peer"}.get(reason.by, "by the network")
    out.emit("dial", sheet, [f"ended after {render.duration(held)} {who}: {why}"])


async def _report(connection: Connection, events: AsyncIterator[SwitchEvent], since: float, out: Output) -> None:
    """Print what happens until the connection ends."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_report_pushes, connection, events, since, out)
        nursery.start_soon(_report_counters, connection, since, out)
        await connection.closed.wait()
        nursery.cancel_scope.cancel()


async def _report_pushes(connection: Connection, events: AsyncIterator[SwitchEvent], since: float, out: Output) -> None:
    async for event in events:
        if isinstance(event, Identified) and event.connection is connection and event.info is not None:
            protocols = list(event.info.protocols or ())
            told = f"push: {len(protocols)} protocols, {len(event.info.addresses or ())} addresses"
            _tell("push", {"protocols": protocols, "agent": event.info.agent}, told, since, out)


async def _report_counters(connection: Connection, since: float, out: Output) -> None:
    seen: ConnectionStats = replace(connection.stats)
    while True:
        await trio.sleep(_LOOK)
        now = connection.stats
        opened = now.streams_in - seen.streams_in
        if opened:
            noun = "a stream" if opened == 1 else f"{opened} streams"
            _tell("streams", {"opened": opened}, f"the peer opened {noun}", since, out)
        if now.heartbeats > seen.heartbeats and connection.rtt is not None:
            took = render.duration(connection.rtt)
            _tell("heartbeat", {"us": round(connection.rtt * 1e6, 1)}, f"heartbeat answered in {took}", since, out)
        seen = replace(now)


def _tell(event: str, sheet: dict[str, object], line: str, since: float, out: Output) -> None:
    at = trio.current_time() - since
    stamp = out.style.dim(f"{at:8.1f} s")
    out.emit(event, {"at_seconds": round(at, 3), **sheet}, [f"{stamp}  {line}"])
