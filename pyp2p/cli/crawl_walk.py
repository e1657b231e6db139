"""Whom a crawl asks, and for which distances: the walk down one node's table, and the crawl over all nodes.

Rules: bounded in questions per second, in nodes and in those asked at once. A node is walked once; an address that
whoever told of it cannot know (one of our own network, told by a stranger) is not asked at all. Each node is told as
soon as all is known of it, those that were not asked at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from pyp2p.cli import records
from pyp2p.cli.crawl_node import Found, Status
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.node import endpoints, refuse_record
from pyp2p.errors import DiscoveryError, NoEndpoint

MAX_NODES = 100_000  # a record takes 1.4 KiB; whoever makes up nodes could name any number
ASKED_AT_ONCE = 200  # nodes; one that is gone takes seconds
_FARTHEST: Final = 256
_FULL: Final = 16  # records that an answer holds at most, however many distances are asked for
_WIDE: Final = 10  # distances in one question: sigp/discv5 (Lighthouse) answers none with more
_FEW: Final = _FULL // 2


class Walk:
    """Which distances to ask one node for, from 256 down, until a wide question brings nothing new.

    One distance at a time while answers are full: half of all nodes are at 256, half of the others at 255, and so on,
    so as many as there are at a distance are expected at all below it together. Hence after an answer of no more than
    eight the next question is a wide one, for ten distances. One that is answered in full may hide some: these ten are
    then asked for one by one. So an empty 256 is never the end, and a node that is missed is ten halvings nearer than
    the last one that was told.
    """

    def __init__(self) -> None:
        self._next = _FARTHEST
        self._wide = False
        self._told: set[bytes] = set()
        self.over = False

    @property
    def told(self) -> int:
        """How many nodes were told."""
        return len(self._told)

    @property
    def distances(self) -> tuple[int, ...]:
        """The next question. The first one also asks for the node's own record, at 0."""
        if self._next == _FARTHEST and not self._wide:
            return (0, _FARTHEST)
        last = max(self._next - _WIDE + 1, 1) if self._wide else self._next
        return tuple(range(self._next, last - 1, -1))

    def answered(self, nodes: Sequence[bytes]) -> None:
        """The ids in the answer to it, without the node's own."""
        before = len(self._told)
        self._told.update(nodes)
        if self._wide and len(nodes) >= _FULL:
            self._wide = False
            return
        nothing_new = len(self._told) == before
        self.over = self._wide and nothing_new
        self._next = self.distances[-1] - 1
        self._wide = self._wide or nothing_new or len(nodes) <= _FEW
        self.over = self.over or self._next < 1


class Pace:
    """Turns at a rate, for all who ask."""

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate
        self._next = trio.current_time()

    async def turn(self) -> None:
        """Wait for the next one."""
        at = max(self._next, trio.current_time())
        self._next = at + self._gap
        await trio.sleep_until(at)


@dataclass(slots=True)
class Crawl:
    """What is known so far; `ask`, `tell` and `identify` (for those that answered) are how to go on."""

    ask: Callable[[Enr, tuple[int, ...]], Awaitable[list[Enr]]]
    tell: Callable[[Found], None]
    identify: Callable[[Found], Awaitable[None]] | None = None
    nodes: dict[bytes, Found] = field(default_factory=dict)
    waiting: deque[Found] = field(default_factory=deque)
    questions: int = 0
    kept: int = 0  # nodes of an earlier crawl that nothing more is asked of
    full: bool = False
    news: trio.Event = field(default_factory=trio.Event)  # somebody waits, or is done

    def take_up(self, found: Found) -> None:
        """Take a node of an earlier crawl: asked again unless it answered and told all, or was not believed."""
        self.nodes[found.record.node_id] = found
        answered = found.status is Status.ANSWERED
        identified = self.identify is None or found.protocols is not None
        if found.status is Status.UNBELIEVED or (answered and found.walked and identified):
            self.kept += 1
            self._over(found, found.status)
            return
        if not answered:
            found.status, found.error, found.seconds = Status.UNASKED, None, None
        if not identified:
            found.identify_error = None
        self._wait(found)

    def add(self, record: Enr, teller: Enr | None) -> None:
        """Take a record that the user or another node named; the newest of a node is kept."""
        known = self.nodes.get(record.node_id)
        believed = teller is None or refuse_record(record, records.where(teller)) is None
        if known is not None:
            if record.seq > known.record.seq and believed and not known.told:
                known.record = record
            return
        if len(self.nodes) >= MAX_NODES:
            self.full = True
            return
        found = self.nodes[record.node_id] = Found(record, None if teller is None else teller.node_id)
        if believed:
            self._wait(found)
        else:
            self._over(found, Status.UNBELIEVED)

    def _wait(self, found: Found) -> None:
        if endpoints(found.record):
            self.waiting.append(found)
            self.news.set()
        else:
            self._over(found, Status.NO_ENDPOINT)

    async def run(self, pace: Pace, own: bytes) -> None:
        """Until nobody is left to ask."""
        under_way = 0

        async def one(found: Found) -> None:
            nonlocal under_way
            if not found.walked:
                await self._walk(found, pace, own)
            if self.identify is not None and found.status is Status.ANSWERED and found.protocols is None:
                await self.identify(found)
            self._over(found, found.status)
            under_way -= 1
            self.news.set()

        async with trio.open_nursery() as nursery:
            while self.waiting or under_way:
                while self.waiting and under_way < ASKED_AT_ONCE:
                    under_way += 1
                    nursery.start_soon(one, self.waiting.popleft())
                self.news = trio.Event()
                await self.news.wait()

    async def _walk(self, found: Found, pace: Pace, own: bytes) -> None:
        walk = Walk()
        first = True
        asked = found.record  # a newer one may come meanwhile, and name no address
        while not walk.over:
            await pace.turn()
            began = trio.current_time()
            self.questions += 1
            try:
                answer = await self.ask(asked, walk.distances)
            except DiscoveryError as error:
                if found.status is not Status.ANSWERED:
                    found.error = str(error)
                    nowhere = isinstance(error, NoEndpoint)
                    found.status = Status.NO_ENDPOINT if nowhere else Status.NO_ANSWER
                return
            if first:
                first = False
                found.status = Status.ANSWERED
                found.seconds = trio.current_time() - began
            walk.answered([record.node_id for record in answer if record.node_id not in (own, asked.node_id)])
            found.neighbours = max(found.neighbours, walk.told)
            for record in answer:
                if record.node_id != own:
                    self.add(record, asked)
        found.walked = True

    def _over(self, found: Found, status: Status) -> None:
        found.status = status
        found.told = True
        self.tell(found)

    def finish(self) -> None:
        """Tell of the nodes whose turn did not come, or is not over."""
        for found in self.nodes.values():
            if not found.told:
                self._over(found, found.status)
