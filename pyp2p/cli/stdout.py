"""Standard output without blocking the loop, for commands that serve others while they print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from pyp2p.cli.output import Output


async def emit(out: Output, event: str, facts: Mapping[str, Any], lines: Sequence[str] = ()) -> None:
    """One result as by `Output.emit`; while nobody reads it, other tasks go on. Cancelled, it is written later."""
    out.offer(event, facts, lines)
    while (descriptor := out.push()) is not None:
        try:
            await trio.lowlevel.wait_writable(descriptor)
        except trio.BusyResourceError:  # another task waits, and writes this as well
            return
