"""`pyp2p demo`: a small network of beacon nodes on this machine, which loses a node and gets it back.

Each node is a process of its own (`pyp2p node`); what they print is put together (`demo_story.py`), shown, and compared
with what is to happen: the exit code is 0 only when all of it did. Times never run backwards: lines are held for a
moment, and come in the order in which things happened. Needs the extras `discv5` and `eth2`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Protocol

import trio

import pyp2p
from pyp2p.beacon.chain import Chain
from pyp2p.beacon.chainfile import chain_text
from pyp2p.beacon.devchain import dev_chain
from pyp2p.cli import demo_text
from pyp2p.cli.demo_nodes import FAILED, PYP2P, Child, Children, open_children
from pyp2p.cli.demo_story import PRODUCER, Line, Story, Told
from pyp2p.cli.failure import OK, CommandFailed, clean
from pyp2p.cli.output import Output
from pyp2p.cli.runner import run as run_trio
from pyp2p.cli.stdout import emit
from pyp2p.discv5.enr import Enr
from pyp2p.errors import InvalidEnr, printable, unwrapped

_HOLD: Final = 0.3  # seconds in which the pipe of another node brings what happened before
_SHOW_EVERY: Final = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen. Slots are counted from genesis, which is `genesis_after` seconds after the bootnode listens.

    With these the lost node is away when the fork comes, so it fetches blocks of two forks. `seconds` is how long each
    step may take on a machine that has much else to do: several times what it takes on an idle one.
    """

    nodes: int = 6
    slot_duration_ms: int = 1000
    genesis_after: float = 7.0
    start: str = "electra"
    next_fork: str = "fulu"
    epochs_per_fork: int = 2
    mesh: int = 3  # peers for blocks, at least
    first_blocks: int = 4  # that all have before one is lost
    lose: int = 4  # which node
    lose_after: int = 12  # slot
    back_after: int = 18  # slot
    blocks_without: int = 4
    last_blocks: int = 4  # that all have again
    seconds: float = 40.0


class Screen(Protocol):
    """Where the lines go when they are not simply printed: a live view."""

    def show(self, lines: Sequence[str]) -> None:
        """Print lines above the view, and draw it again."""


Live = Callable[[Output, Story], AbstractContextManager[Screen]]


def run(options: argparse.Namespace, out: Output, live: Live | None = None) -> int:
    """Run the command; `live` makes a view for a terminal."""
    return play(Plan(), out, live=live, verbose=bool(options.verbose))


def play(
    plan: Plan, out: Output, *, live: Live | None = None, verbose: bool = False, program: Sequence[str] = PYP2P
) -> int:
    """Let it happen, and return the exit code; `program` takes the words of `pyp2p`."""

    async def command() -> int:
        story = Story(plan.nodes, time.time())
        with nullcontext() if live is None else live(out, story) as screen:
            demo = _Demo(plan, story, out, screen)
            failure = await demo.run(program, out.error if verbose else None)
        await demo.sum_up()
        if failure is None:
            return OK
        out.fail(failure, "demo")
        return failure.code

    return run_trio(command, out)


class _Demo:
    """One performance."""

    def __init__(self, plan: Plan, story: Story, out: Output, screen: Screen | None) -> None:
        self._plan = plan
        self._story = story
        self._out = out
        self._screen = screen
        self._checks: list[tuple[str, bool]] = []
        self._changed = trio.Event()
        self._held: list[tuple[float, int, str, dict[str, Any]]] = []  # a heap of what is to be shown, by its time
        self._order = count()
        self._shown_at = 0.0  # seconds: the newest time that was shown
        self._known_until = math.inf  # seconds: until when all is told already, while nodes start
        self._nodes: dict[int, Child] = {}  # the newest process of each
        self._over: dict[Child, trio.Event] = {}  # all that it printed was read
        self._dismissed: list[Child] = []  # whose end is our doing
        self._failure: CommandFailed | None = None
        self._scope = trio.CancelScope()

    async def run(self, program: Sequence[str], tell: Callable[[str], None] | None) -> CommandFailed | None:
        """From the first process to the end of the last; returns what did not happen."""
        try:
            with TemporaryDirectory(prefix="pyp2p-demo-") as folder, unwrapped():
                async with open_children(program, tell) as children:
                    with self._scope:
                        await self._guarded(self._perform, children, Path(folder))
                    await self._show_until(math.inf)
        except OSError as error:
            return CommandFailed("start", FAILED, clean(f"no place for the data of nodes: {error}"))
        return self._failure

    async def _guarded(self, step: Callable[..., Awaitable[object]], *args: object) -> None:
        """A step, whose failure is noted, the first of all, and ends the rest."""
        try:
            with unwrapped():
                await step(*args)
        except CommandFailed as failure:
            self._failure = self._failure or failure
            self._scope.cancel()

    async def _perform(self, children: Children, folder: Path) -> None:
        async with trio.open_nursery() as showing:
            showing.start_soon(self._keep_showing)
            async with trio.open_nursery() as nursery:
                await self._scenes(children, folder, nursery)
            showing.cancel_scope.cancel()

    async def _scenes(self, children: Children, folder: Path, nursery: trio.Nursery) -> None:
        plan, story = self._plan, self._story
        bootnode = await self._start_bootnode(children)
        chain = self._make_chain(folder)
        self._show([("chain", self._chain_facts(chain))])

        def words(number: int) -> list[str]:
            produce = ["--produce"] if number == PRODUCER else []
            client = f"pyp2p/{pyp2p.__version__} node-{number}"
            data = str(folder / f"node-{number}")
            return [
                *("node", "--json", "--chain", str(folder / "chain.toml"), "--bootnode", bootnode.text),
                *("--data", data, "--agent", client, "--addr", "127.0.0.1", *produce),
            ]

        self._known_until = self._seconds()  # each is heard further when all of them listen
        async with trio.open_nursery() as starting:
            for number in story.nodes:
                starting.start_soon(self._guarded, self._launch, children, number, words(number))
        for number in story.nodes:
            nursery.start_soon(self._guarded, self._read, number)
        self._known_until = math.inf
        await self._expect("all nodes found each other, from the bootnode's record alone", story.lacks_discovery)
        await self._expect("all exchanged status, each two on one fork digest", story.lacks_status)
        await self._expect(f"all mesh for blocks, with {plan.mesh} peers at least", lambda: story.lacks_mesh(plan.mesh))
        self._show([("meshes", {**self._now(), "mesh": story.meshes_now()})])
        await self._expect(f"{plan.first_blocks} blocks came to all", lambda: story.lacks_blocks(plan.first_blocks))
        await self._expect("", lambda: story.lacks_slot(plan.lose_after))
        await self._lose(plan.lose)
        await self._expect("all others noticed that a node is lost", story.lacks_notice)
        lost_at = max(story.made)
        await self._expect(
            f"{plan.blocks_without} blocks came to all others", lambda: story.lacks_blocks(plan.blocks_without, lost_at)
        )
        await self._expect("", lambda: story.lacks_slot(plan.back_after))
        await self._launch(children, plan.lose, [*words(plan.lose), *self._ports(plan.lose)])
        nursery.start_soon(self._guarded, self._read, plan.lose)
        await self._expect("the lost node is back as who it was, and met all others again", story.lacks_return)
        await self._expect("the lost node fetched by range what it had missed", story.lacks_catching_up)
        back_at = max(story.made)
        await self._expect(
            f"{plan.last_blocks} more blocks came to all", lambda: story.lacks_blocks(plan.last_blocks, back_at)
        )
        await self._expect(f"all who were there changed to {plan.next_fork}", lambda: story.lacks_fork(plan.next_fork))
        await self._end()

    # --- steps

    async def _start_bootnode(self, children: Children) -> Enr:
        child = await children.start("the bootnode", ["discv5", "listen", "--json"])
        line = await child.listening(self._plan.seconds)
        try:
            record = Enr.from_text(str(line.get("enr")))
        except InvalidEnr as error:
            raise CommandFailed("start", FAILED, clean(f"the bootnode's record is none: {error}")) from None
        facts = {
            **self._now(),
            "peer_id": str(record.peer_id),
            "node_id": record.node_id.hex(),
            "enr": record.text,
            "udp": record.udp,
            "tcp": record.tcp,
        }
        self._show([("bootnode", facts)])
        await self._expect(
            "the bootnode has no TCP port",
            lambda: "" if record.tcp is None else f"its record names TCP port {record.tcp}",
        )
        return record

    def _make_chain(self, folder: Path) -> Chain:
        plan = self._plan
        chain = dev_chain(
            round(time.time() + plan.genesis_after),
            start=plan.start,
            epochs_per_fork=plan.epochs_per_fork,
            slot_duration_ms=plan.slot_duration_ms,
        )
        (folder / "chain.toml").write_text(chain_text(chain), "utf-8")
        return chain

    def _chain_facts(self, chain: Chain) -> dict[str, Any]:
        plan = self._plan
        return {
            **self._now(),
            "genesis_time": chain.genesis_time,
            "slot_seconds": plan.slot_duration_ms / 1000,
            "fork": plan.start,
            "next_fork": plan.next_fork,
            "fork_slot": plan.epochs_per_fork * chain.slots_per_epoch,
        }

    async def _launch(self, children: Children, number: int, words: Sequence[str]) -> None:
        """Start a node, wait until it listens, and tell of it; its further lines are for `_read`."""
        child = await children.start(f"node {number}", words)
        line = await child.listening(self._plan.seconds)
        self._nodes[number] = child
        self._tell(child, self._story.listening, number, line)

    def _ports(self, number: int) -> list[str]:
        """Where a node listened before: others look for it there."""
        found = {}
        for address in self._story.nodes[number].addresses:
            protocol, port = address.split("/")[3:5]
            found[protocol] = port
        quic = ["--quic-port", found["udp"]] if "udp" in found else []
        return ["--port", found["tcp"], *quic]

    async def _read(self, number: int) -> None:
        """Take what a node tells, until its output ends."""
        child = self._nodes[number]
        over = self._over[child] = trio.Event()
        while (line := await child.line()) is not None:
            self._tell(child, self._story.heard, number, line)
        over.set()
        if child not in self._dismissed:
            raise await child.ended_by_itself()

    async def _lose(self, number: int) -> None:
        """Kill a node, and hear what it said before."""
        child = self._nodes[number]
        self._dismissed.append(child)
        child.kill()
        self._show(self._story.killed(number, time.time()))
        await child.wait()
        await self._over[child].wait()
        self._show(self._story.silent(number))

    async def _end(self) -> None:
        """Have all nodes end as they should: with goodbyes and their totals."""
        self._story.ending()
        for child in self._nodes.values():
            self._dismissed.append(child)
            await child.end()
        await self._expect("all ended with their totals", self._story.lacks_totals)
        for child in self._nodes.values():
            await self._over[child].wait()
            code = await child.wait()
            if code != OK:
                raise CommandFailed("end", FAILED, f"{child.name} ended with exit code {code}", child.last_words())

    # --- telling

    async def _expect(self, what: str, lacks: Callable[[], str]) -> None:
        """Wait until nothing is lacking, then say so; `what` is empty where that is no news. Raises `CommandFailed`."""
        self._story.waiting = what or self._story.waiting
        with trio.move_on_after(self._plan.seconds):
            while lacks():
                self._changed = trio.Event()
                await self._changed.wait()
        missing = lacks()
        if what:
            self._checks.append((what, not missing))
            self._show([("check", {**self._now(), "what": what, "ok": not missing})])
        if missing:
            raise CommandFailed("demo", FAILED, f"not within {self._plan.seconds:g} s: {missing}")

    def _tell(self, child: Child, tell: Callable[[int, Line], Iterable[Told]], number: int, line: Line) -> None:
        try:
            told = list(tell(number, line))
        except ValueError as error:
            raise CommandFailed("output", FAILED, f"{child.name} told {printable(str(error), 200)}") from None
        self._changed.set()
        self._show(told)

    def _show(self, told: Iterable[Told]) -> None:
        """Show what was told, soon: what happened before it at another node may still come."""
        for event, facts in told:
            heappush(self._held, (facts["seconds"], next(self._order), event, facts))

    async def _keep_showing(self) -> None:
        while True:
            await trio.sleep(_SHOW_EVERY)
            await self._show_until(min(self._known_until, self._seconds() - _HOLD))

    async def _show_until(self, seconds: float) -> None:
        """Show what happened until then, in order; what comes later still has the time of what was shown last."""
        while self._held and self._held[0][0] <= seconds:
            at, _, event, facts = heappop(self._held)
            self._shown_at = max(self._shown_at, at)
            facts = {**facts, "seconds": self._shown_at}
            lines = demo_text.lines(event, facts, self._out.style, self._out.table)
            if self._screen is not None:
                self._screen.show(lines)
            else:
                await emit(self._out, event, facts, lines)

    def _now(self) -> dict[str, Any]:
        return {"seconds": round(self._seconds(), 3)}

    def _seconds(self) -> float:
        return time.time() - self._story.began

    async def sum_up(self) -> None:
        """The end: what there was in all."""
        checks = [{"what": what, "ok": ok} for what, ok in self._checks]
        facts = {**self._now(), **self._story.summary(), "checks": checks}
        lines = demo_text.summary(self._story, self._out.table, self._checks, self._out.style)
        await emit(self._out, "summary", facts, lines)
