"""`pyp2p discv5 crawl`: ask every node that can be found for its neighbours.

Rules: bounded in time, in questions per second, in nodes and in those asked at once. A node is asked once; an address
that whoever told of it cannot know (one of our own network, told by a stranger) is not asked at all. Each node is a
line of JSON as soon as all is known of it, those that were not asked at the end. Needs the extra `discv5`.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TextIO

import trio

from pyp2p.cli import records, render
from pyp2p.cli.discv5 import CONNECT_FAILED, bootnodes, identity, opened
from pyp2p.cli.failure import OK, TIMEOUT, CommandFailed, UsageError
from pyp2p.cli.output import Output, json_line
from pyp2p.cli.runner import run
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.node import endpoints, refuse_record
from pyp2p.discv5.service import Discv5
from pyp2p.discv5.table import TableConfig
from pyp2p.discv5.types import Discv5Config
from pyp2p.errors import DiscoveryError, NoEndpoint, printable
from pyp2p.trace import Stage

RATE: Final = 50.0  # questions per second
_MAX_NODES = 100_000  # a record takes 1.4 KiB; whoever makes up nodes could name any number
_ASKED_AT_ONCE = 200  # nodes; one that is gone takes seconds
# An answer holds sixteen nodes however many distances are asked for, and half of all nodes are at 256.
_QUESTIONS: Final = ((0, 256), (255,), (254,), (253,), (252, 251, 250), (249, 248, 247, 246, 245))
_NEVER = 1e6  # seconds: the table is not ours to mind
_UNKNOWN = "-"  # in the summary
_MOST_SHOWN = 20  # rows of a part of the summary


class Status(StrEnum):
    """What became of a node."""

    ANSWERED = "answered"
    NO_ANSWER = "no_answer"
    NO_ENDPOINT = "no_endpoint"  # no UDP address, or of an IP version that we have no socket for
    UNBELIEVED = "unbelieved"  # an address that whoever told of it cannot know
    UNASKED = "unasked"  # the time was over


@dataclass(slots=True)
class Found:
    """One node: who told of it first (None: the user), and what came of it."""

    record: Enr
    told_by: bytes | None
    status: Status = Status.UNASKED
    seconds: float | None = None  # of the first question
    neighbours: int = 0
    error: str | None = None
    told: bool = False  # it was written

    def as_json(self) -> dict[str, Any]:
        """The fields of `node`."""
        return {
            "status": self.status.value,
            "us": None if self.seconds is None else round(self.seconds * 1e6, 1),
            "neighbours": self.neighbours,
            "told_by": None if self.told_by is None else self.told_by.hex(),
            "error": self.error,
            **records.facts(self.record),
        }


@dataclass(slots=True)
class Crawl:
    """What is known so far; `ask` and `tell` are how to go on."""

    ask: Callable[[Enr, tuple[int, ...]], Awaitable[list[Enr]]]
    tell: Callable[[Found], None]
    nodes: dict[bytes, Found] = field(default_factory=dict)
    waiting: deque[Found] = field(default_factory=deque)
    questions: int = 0
    full: bool = False
    news: trio.Event = field(default_factory=trio.Event)  # somebody waits, or is done

    def add(self, record: Enr, teller: Enr | None) -> None:
        """Take a record that the user or another node named; the newest of a node is kept."""
        known = self.nodes.get(record.node_id)
        if known is not None:
            if record.seq > known.record.seq and known.status in (Status.UNASKED, Status.ANSWERED):
                known.record = record
            return
        if len(self.nodes) >= _MAX_NODES:
            self.full = True
            return
        found = self.nodes[record.node_id] = Found(record, None if teller is None else teller.node_id)
        if teller is not None and refuse_record(record, records.where(teller)) is not None:
            self._over(found, Status.UNBELIEVED)
        elif not endpoints(record):
            self._over(found, Status.NO_ENDPOINT)
        else:
            self.waiting.append(found)
            self.news.set()

    async def run(self, rate: float, own: bytes) -> None:
        """Until nobody is left to ask."""
        pace = _Pace(rate)
        under_way = 0

        async def one(found: Found) -> None:
            nonlocal under_way
            await self._question(found, pace, own)
            under_way -= 1
            self.news.set()

        async with trio.open_nursery() as nursery:
            while self.waiting or under_way:
                while self.waiting and under_way < _ASKED_AT_ONCE:
                    under_way += 1
                    nursery.start_soon(one, self.waiting.popleft())
                self.news = trio.Event()
                await self.news.wait()

    async def _question(self, found: Found, pace: _Pace, own: bytes) -> None:
        for number, distances in enumerate(_QUESTIONS, start=1):
            await pace.turn()
            began = trio.current_time()
            self.questions += 1
            try:
                answer = await self.ask(found.record, distances)
            except DiscoveryError as error:
                if found.status is not Status.ANSWERED:
                    found.error = str(error)
                    nowhere = isinstance(error, NoEndpoint)
                    found.status = Status.NO_ENDPOINT if nowhere else Status.NO_ANSWER
                break
            if number == 1:
                found.status = Status.ANSWERED
                found.seconds = trio.current_time() - began
            others = [record for record in answer if record.node_id not in (own, found.record.node_id)]
            found.neighbours += len(others)
            for record in answer:
                if record.node_id != own:
                    self.add(record, found.record)
        self._over(found, found.status)

    def _over(self, found: Found, status: Status) -> None:
        found.status = status
        found.told = True
        self.tell(found)

    def finish(self) -> None:
        """Tell of the nodes whose turn did not come, or is not over."""
        for found in self.nodes.values():
            if not found.told:
                self._over(found, found.status)


class _Pace:
    """Turns at a rate, for all who ask."""

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate
        self._next = trio.current_time()

    async def turn(self) -> None:
        at = max(self._next, trio.current_time())
        self._next = at + self._gap
        await trio.sleep_until(at)


def crawl(options: argparse.Namespace, out: Output) -> int:
    """`discv5 crawl`."""
    nodes = bootnodes(options)
    if not nodes:
        raise UsageError("nobody to ask: --bootnode is missing", "--bootnode ENR; it may be repeated.")
    for node in nodes:
        records.where(node)
    who = identity(options, out)
    table = TableConfig(check_min=_NEVER, check_max=_NEVER, refresh=_NEVER, first_refresh=_NEVER)
    config = Discv5Config(table=table, max_sessions=2 * _ASKED_AT_ONCE, max_known=2 * _ASKED_AT_ONCE)

    async def command(file: TextIO | None) -> int:
        try:
            async with opened(options, who, nodes, advertise=(), config=config) as service:
                return await _crawl(service, nodes, options, out, file)
        except CommandFailed as failure:
            out.fail(failure, "discv5 crawl")
            return failure.code

    if options.output is None:
        return run(lambda: command(None), out)
    with _opened_file(options.output) as file:
        return run(lambda: command(file), out)


@contextmanager
def _opened_file(name: str) -> Iterator[TextIO]:
    """The file of --output, which is written a line at a time: so that errors are seen at once."""
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) else "not a file name"
        raise UsageError(f"cannot write {printable(name, 200)}: {why}") from None
    file = os.fdopen(descriptor, "w", encoding="ascii", buffering=1)
    try:
        yield file
    finally:
        with suppress(OSError):  # said when the line was written
            file.close()


async def _crawl(
    service: Discv5, nodes: list[Enr], options: argparse.Namespace, out: Output, file: TextIO | None
) -> int:
    began = trio.current_time()
    told: Counter[Status] = Counter()
    unwritten: list[OSError] = []

    def tell(found: Found) -> None:
        told[found.status] += 1
        line = json_line("node", found.as_json())
        if file is None:
            out.write_line(line)
        elif not unwritten:
            try:
                print(line, file=file)
            except OSError as error:
                unwritten.append(error)
                scope.cancel()

    scope = trio.CancelScope(deadline=began + options.time)
    crawling = Crawl(service.find_node, tell)
    out.status(
        lambda: (
            f"{len(crawling.nodes)} nodes, {told[Status.ANSWERED]} answered, {told[Status.NO_ANSWER]} did not, "
            f"{len(crawling.waiting)} to ask, {trio.current_time() - began:.0f} s"
        )
    )
    with scope:
        try:
            for node in nodes:
                crawling.add(node, None)
            await crawling.run(options.rate or RATE, service.record.node_id)
        finally:
            crawling.finish()
            out.status(None)
            _tell_totals(crawling, trio.current_time() - began, options, out)
    if unwritten:
        raise UsageError(f"cannot write {printable(options.output, 200)}: {unwritten[0].strerror}")
    if not told[Status.ANSWERED]:
        names = "the bootnode" if len(nodes) == 1 else f"any of {len(nodes)} bootnodes"
        when, code = (f" within {options.time:g} s", TIMEOUT) if scope.cancelled_caught else ("", CONNECT_FAILED)
        raise CommandFailed(
            Stage.CONNECT.value, code, f"no answer from {names}{when}", "`pyp2p discv5 ping` tries one alone."
        )
    return OK


def _tell_totals(crawling: Crawl, seconds: float, options: argparse.Namespace, out: Output) -> None:
    """The last line: an object, or tables; on standard error when the nodes are on standard output."""
    found = list(crawling.nodes.values())
    statuses = Counter(each.status for each in found)
    answered = [each.record for each in found if each.status is Status.ANSWERED]
    clients = Counter((records.client(record) or _UNKNOWN).split(" ")[0] for record in answered)
    forks = Counter(records.fork_digest(record) or _UNKNOWN for record in answered)
    sheet = {
        "nodes": len(found),
        **{status.value: statuses[status] for status in Status},
        "clients": dict(clients.most_common()),
        "fork_digests": dict(forks.most_common()),
        "questions": crawling.questions,
        "seconds": round(seconds, 3),
        "full": crawling.full,
    }
    rows = [("nodes", len(found)), *((status.value.replace("_", " "), statuses[status]) for status in Status)]
    lines = render.fields([*rows, ("questions", crawling.questions), ("took", render.duration(seconds))], out.style)
    for head, counter in (("client", clients), ("fork digest", forks)):
        if counter:
            cells = [[name, str(count)] for name, count in counter.most_common(_MOST_SHOWN)]
            lines += ["", *out.table((f"{head} of who answered", "nodes"), cells, (1,))]
    if crawling.full:
        lines += ["", f"more than {_MAX_NODES} nodes were named: the others were left out"]
    if out.as_json or options.output is not None:
        out.emit("crawl", sheet, lines)
    else:
        out.error("\n".join(lines))
