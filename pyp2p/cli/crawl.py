"""`pyp2p discv5 crawl`: ask every node that can be found for its neighbours, and tell what was found.

Rules: bounded in time, and as crawl_walk.py says. Each node is a line of JSON, those of an earlier crawl that are not
asked again first. What the user filters away is asked all the same: it may know those that are looked for. Needs the
extra `discv5`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import trio

from pyp2p.cli import records, render
from pyp2p.cli.crawl_files import Earlier, NodeFile, is_same, read_nodes, written
from pyp2p.cli.crawl_identify import SECONDS, Identifier
from pyp2p.cli.crawl_node import Filter, Found, Status
from pyp2p.cli.crawl_walk import ASKED_AT_ONCE, MAX_NODES, Crawl, Pace
from pyp2p.cli.discv5 import CONNECT_FAILED, bootnodes, identity, opened
from pyp2p.cli.failure import OK, TIMEOUT, CommandFailed, UsageError
from pyp2p.cli.output import Output, json_line
from pyp2p.cli.reach import bounded
from pyp2p.cli.runner import run
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.node import endpoints
from pyp2p.discv5.table import TableConfig
from pyp2p.discv5.types import Discv5Config
from pyp2p.errors import printable
from pyp2p.peer.keys import Identity
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.switch import open_switch
from pyp2p.trace import Stage

RATE: Final = 50.0  # questions per second
_NEVER = 1e6  # seconds: the table is not ours to mind
_UNKNOWN = "-"  # in the summary
_MOST_SHOWN = 20  # rows of a part of the summary


@dataclass(slots=True)
class Job:
    """What the user wants, and where the nodes go: to the file, or to standard output."""

    options: argparse.Namespace
    out: Output
    who: Identity
    bootnodes: list[Enr]
    earlier: Earlier
    filter: Filter
    file: NodeFile | None = None
    told: Counter[Status] = field(default_factory=Counter)
    matching: int = 0
    failed: trio.CancelScope = field(default_factory=trio.CancelScope)  # the file cannot be written

    def tell(self, found: Found) -> None:
        """Write a node, if it is one that the user wants."""
        self.told[found.status] += 1
        if not self.filter.takes(found.record):
            return
        self.matching += 1
        line = json_line("node", found.as_json())
        if self.file is None:
            self.out.write_line(line)
            return
        self.file.write(line)
        if self.file.error is not None:
            self.failed.cancel()


def crawl(options: argparse.Namespace, out: Output) -> int:
    """`discv5 crawl`."""
    nodes = bootnodes(options)
    wanted = Filter(options.fork_digest, options.subnet)
    if not wanted.takes_all and is_same(options.output, options.resume):
        raise UsageError(
            "--output is the file of --resume: the nodes that do not match would be lost from it",
            "Give another file, or leave --fork-digest and --subnet out.",
        )
    earlier = Earlier() if options.resume is None else read_nodes(options.resume, MAX_NODES)
    if not nodes and not earlier.nodes:
        none = "" if options.resume is None else f", and {printable(options.resume, 200)} holds no node"
        raise UsageError(f"nobody to ask: --bootnode is missing{none}", "--bootnode ENR; it may be repeated.")
    for node in nodes:
        records.where(node)
    _tell_wrong_lines(earlier, options, out)
    job = Job(options, out, identity(options, out), nodes, earlier, wanted)
    if options.output is None:
        return run(lambda: _command(job), out)
    with written(options.output, options.resume) as job.file:
        return run(lambda: _command(job), out)


def _tell_wrong_lines(earlier: Earlier, options: argparse.Namespace, out: Output) -> None:
    """Name the lines of --resume that tell nothing; the crawl goes on without them."""
    name = printable(options.resume or "", 200)
    for number, why in earlier.wrong:
        if out.as_json:
            out.emit("skipped", {"file": name, "line": number, "reason": why})
        else:
            out.error(f"{name}, line {number} is left out: {why}")
    more = earlier.wrong_lines - len(earlier.wrong)
    if more:
        reason = f"{more} more lines are wrong"
        if out.as_json:
            out.emit("skipped", {"file": name, "line": None, "reason": reason})
        else:
            out.error(f"{name}: {reason}")


async def _command(job: Job) -> int:
    options = job.options
    table = TableConfig(check_min=_NEVER, check_max=_NEVER, refresh=_NEVER, first_refresh=_NEVER)
    config = Discv5Config(table=table, max_sessions=2 * ASKED_AT_ONCE)
    known = [found.record for found in job.earlier.nodes.values() if endpoints(found.record)]
    try:
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(
                opened(options, job.who, [*job.bootnodes, *known], advertise=(), config=config)
            )
            pace = Pace(options.rate or RATE)
            crawling = Crawl(service.find_node, job.tell)
            if options.identify:
                switch = await stack.enter_async_context(open_switch(job.who, config=bounded(SECONDS, SwitchConfig())))
                crawling.identify = Identifier(switch, pace, job.filter).identify
            await _crawl(crawling, pace, service.record.node_id, job)
    except CommandFailed as failure:
        job.out.fail(failure, "discv5 crawl")
        return failure.code
    return OK


async def _crawl(crawling: Crawl, pace: Pace, own: bytes, job: Job) -> None:
    """Crawl until nobody is left or the time is over. Raises `CommandFailed` when nobody answered."""
    out, options, told = job.out, job.options, job.told
    began = trio.current_time()
    job.failed.deadline = began + options.time
    out.status(
        lambda: (
            f"{len(crawling.nodes)} nodes, {told[Status.ANSWERED]} answered, {told[Status.NO_ANSWER]} did not, "
            f"{len(crawling.waiting)} to ask, {trio.current_time() - began:.0f} s"
        )
    )
    with job.failed:
        try:
            _begin(crawling, job)
            await crawling.run(pace, own)
        finally:
            crawling.finish()
            if job.file is not None:
                job.file.whole = True
            out.status(None)
            _tell_totals(crawling, trio.current_time() - began, job)
    if job.file is not None and job.file.error is not None:
        raise UsageError(f"cannot write {printable(options.output, 200)}: {job.file.error.strerror}")
    if not told[Status.ANSWERED]:
        raise _no_answer(job)


def _begin(crawling: Crawl, job: Job) -> None:
    """Take the nodes of the user and of the earlier crawl; of one that did not answer then, what the user says."""
    earlier = dict(job.earlier.nodes)
    crawling.full = job.earlier.full
    for node in job.bootnodes:
        known = earlier.get(node.node_id)
        if known is None or known.status is not Status.ANSWERED:
            earlier.pop(node.node_id, None)
            crawling.add(node, None)
    for found in earlier.values():
        crawling.take_up(found)


def _no_answer(job: Job) -> CommandFailed:
    count = len(job.bootnodes)
    named = "the bootnode" if count == 1 else f"any of {count} bootnodes"
    names = "anybody" if job.earlier.nodes else named
    over = job.failed.cancelled_caught
    when, code = (f" within {job.options.time:g} s", TIMEOUT) if over else ("", CONNECT_FAILED)
    return CommandFailed(
        Stage.CONNECT.value, code, f"no answer from {names}{when}", "`pyp2p discv5 ping` tries one alone."
    )


def _tell_totals(crawling: Crawl, seconds: float, job: Job) -> None:
    """The last line: an object, or tables; on standard error when the nodes are on standard output."""
    out, options = job.out, job.options
    found = list(crawling.nodes.values())
    statuses = Counter(each.status for each in found)
    answered = [each.record for each in found if each.status is Status.ANSWERED]
    identified = [each.agent for each in found if each.protocols is not None]
    clients = Counter((records.client(record) or _UNKNOWN).split(" ")[0] for record in answered)
    forks = Counter(records.fork_digest(record) or _UNKNOWN for record in answered)
    agents = Counter((agent or _UNKNOWN).split("/")[0] for agent in identified)
    sheet = {
        "nodes": len(found),
        **{status.value: statuses[status] for status in Status},
        "matching": job.matching,
        "kept": crawling.kept,
        "clients": dict(clients.most_common()),
        "fork_digests": dict(forks.most_common()),
        "identified": len(identified),
        "agents": dict(agents.most_common()),
        "questions": crawling.questions,
        "seconds": round(seconds, 3),
        "full": crawling.full,
    }
    rows: list[tuple[str, object]] = [
        ("nodes", len(found)),
        *((status.value.replace("_", " "), statuses[status]) for status in Status),
        ("matching", None if job.filter.takes_all else job.matching),
        ("kept", crawling.kept if options.resume is not None else None),
        ("identified", len(identified) if options.identify else None),
        ("questions", crawling.questions),
        ("took", render.duration(seconds)),
    ]
    lines = render.fields(rows, out.style)
    parts = ("client of who answered", clients), ("fork digest of who answered", forks), ("agent", agents)
    for head, counter in parts:
        if counter:
            cells = [[name, str(count)] for name, count in counter.most_common(_MOST_SHOWN)]
            lines += ["", *out.table((head, "nodes"), cells, (1,))]
    if crawling.full:
        lines += ["", f"more than {MAX_NODES} nodes were named: the others were left out"]
    if out.as_json or options.output is not None:
        out.emit("crawl", sheet, lines)
    else:
        out.error("\n".join(lines))
