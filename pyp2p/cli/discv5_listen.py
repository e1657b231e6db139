"""`pyp2p discv5 listen`: a node that takes part in discovery and tells what happens.

Rule: it ends as `pyp2p listen` does: with a pipe on standard input, SIGINT or SIGTERM. Needs the extra `discv5`.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio

from pyp2p.cli import records, render
from pyp2p.cli.discv5 import bootnodes, identity, opened, usable
from pyp2p.cli.enr import entries
from pyp2p.cli.failure import OK, CommandFailed, UsageError
from pyp2p.cli.output import Output
from pyp2p.cli.runner import run
from pyp2p.cli.stdin import end_of_input
from pyp2p.cli.stdout import emit
from pyp2p.discv5.enr import Enr, Value
from pyp2p.discv5.types import NodeEvent, RecordChanged
from pyp2p.errors import printable

ECHO = b"echo"


def listen(options: argparse.Namespace, out: Output) -> int:
    """`discv5 listen`."""
    who = identity(options, out)
    nodes = bootnodes(options)
    if not options.addr:
        options.addr = ["127.0.0.1"]
    nodes = usable(nodes, who, options, out)
    pairs = _pairs(options)
    if options.state == "":
        raise UsageError("--state: the name of the file is empty")
    if options.state is not None and not Path(options.state).parent.is_dir():
        raise UsageError(f"--state {printable(options.state, 200)}: there is no such directory")
    settings: dict[str, Any] = {"bootnodes": nodes, "pairs": pairs, "state": options.state}
    if "ip" in pairs or "ip6" in pairs:
        settings["advertise"] = ()

    async def command() -> int:
        try:
            async with (
                opened(options, who, nodes, **settings) as service,
                service.watch() as news,
                trio.open_nursery() as nursery,
            ):
                service.serve(ECHO, _echo)
                places = [records.shown(endpoint) for endpoint in service.endpoints]
                said = records.facts(service.record)
                rows = [("record", service.record.text), *records.rows(said), ("listening", places)]
                sheet = {**said, "udp": service.endpoints[0].port, "listening": places}
                out.emit("listening", sheet, render.fields(rows, out.style))
                out.status(lambda: ", ".join(f"{count} {what}" for what, count in service.gauges().items()))
                nursery.start_soon(_report, news, out)
                await end_of_input()
                nursery.cancel_scope.cancel()
        except CommandFailed as failure:
            out.fail(failure, "discv5 listen")
            return failure.code
        return OK

    return run(command, out, terminated=OK)


def _pairs(options: argparse.Namespace) -> dict[str, Value]:
    """Entries for our record. Raises `UsageError` for an address that lacks its port, or the other way round."""
    found = {key.decode(): value for key, value in entries(options).items()}
    for ip, udp in (("ip", "udp"), ("ip6", "udp6")):
        if ip in found and options.port:
            found.setdefault(udp, options.port)
        if (ip in found) != (udp in found):
            raise UsageError(
                f"--{ip} and --{udp} go together: they are where others send to",
                f"Give both, or --{ip} and --port, or neither: then the record names the address of the socket.",
            )
    return found


async def _echo(node: Enr, request: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return request


async def _report(news: AsyncIterator[NodeEvent | RecordChanged], out: Output) -> None:
    """Print who is there and who is gone, and what becomes of our record."""
    async for event in news:
        if isinstance(event, RecordChanged):
            sheet = records.facts(event.record)
            await emit(out, "record", sheet, [f"record   number {event.record.seq}: {event.record.text}"])
        else:
            node, at = event.node, records.shown(event.endpoint)
            facts = {
                "node_id": node.node_id.hex(),
                "peer_id": str(node.peer_id),
                "endpoint": at,
                "enr": node.text,
            }
            await emit(out, event.news.value, facts, [f"{event.news.value:7}  {node.node_id.hex()[:16]} at {at}"])
