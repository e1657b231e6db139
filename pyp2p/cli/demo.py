"""`pyp2p demo`: two nodes in this process, one dials the other over real TCP, and all of it is shown."""

from __future__ import annotations

import argparse
import math

import trio

from pyp2p.cli import render
from pyp2p.cli.failure import OK, CommandFailed, dial_failure
from pyp2p.cli.output import Output
from pyp2p.cli.perf import as_json, result_lines, transfer
from pyp2p.cli.ping import Tally, measure
from pyp2p.cli.reach import Reached, fact_rows, facts, require_identify, trace_lines
from pyp2p.cli.runner import run as run_trio
from pyp2p.errors import P2PError
from pyp2p.peer.address import text
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.switch import Switch, open_switch

PINGS = 5
TRANSFER = 64_000_000


def run(options: argparse.Namespace, out: Output) -> int:
    """Run the command."""

    async def command() -> int:
        config = SwitchConfig(perf=True)
        async with open_switch(listen=["/ip4/127.0.0.1/tcp/0"], config=config) as server, open_switch() as client:
            try:
                return await _show(server, client, out)
            except CommandFailed as failure:
                out.fail(failure, "demo")
                return failure.code

    return run_trio(command, out)


async def _show(server: Switch, client: Switch, out: Output) -> int:
    address = server.multiaddrs[0]
    dialable = [text(each) for each in server.multiaddrs]
    out.emit(
        "listening",
        {"peer_id": str(server.peer), "addresses": dialable},
        [
            _title("A node listens.", out),
            *render.fields([("peer id", str(server.peer)), ("listening", dialable)], out.style),
        ],
    )
    started = trio.current_time()
    try:
        connection = await client.connect(address)
    except (P2PError, OSError, trio.BrokenResourceError) as error:
        raise dial_failure(error, text(address)) from error
    reached = Reached(client, connection, started, trio.current_time() - started, math.inf)
    require_identify(reached)
    sheet = facts(reached)
    out.emit(
        "identify",
        sheet,
        [
            "",
            _title("Another node dials it; these are the steps.", out),
            *trace_lines(connection.trace, out),
            "",
            _title("They know each other now; this is what the first said.", out),
            *render.fields(fact_rows(sheet), out.style),
            "",
            _title(f"{PINGS} pings.", out),
        ],
    )
    tally = Tally()
    await measure(reached, PINGS, 0.0, tally, out)
    out.emit("ping", {"peer_id": str(connection.peer), **tally.as_json()}, tally.lines())
    result = await transfer(reached, TRANSFER, TRANSFER, out)
    title = f"{render.size(TRANSFER)} each way; both nodes share this process."
    lines = ["", _title(title, out), *result_lines(result, out)]
    out.emit("perf", {"peer_id": str(connection.peer), **as_json(result)}, lines)
    hint = "Next: `pyp2p listen` in one terminal, `pyp2p identify` with its address in another."
    out.emit("done", {"seconds": round(trio.current_time() - started, 3)}, ["", out.style.dim(hint)])
    return OK


def _title(words: str, out: Output) -> str:
    return out.style.bold(words)
