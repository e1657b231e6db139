"""`pyp2p identify`: connect, show what the peer says about itself and how the connection came about."""

from __future__ import annotations

import argparse

from pyp2p.cli import render
from pyp2p.cli.failure import OK
from pyp2p.cli.output import Output
from pyp2p.cli.reach import Reached, fact_rows, facts, require_identify, trace_lines, with_connection


def run(options: argparse.Namespace, out: Output) -> int:
    """Run the command."""

    async def work(reached: Reached) -> int:
        require_identify(reached)
        sheet = facts(reached)
        lines = render.fields(fact_rows(sheet), out.style)
        if options.trace:
            lines += ["", *trace_lines(reached.connection.trace, out)]
        out.emit("identify", sheet, lines)
        return OK

    return with_connection(options, out, work)
