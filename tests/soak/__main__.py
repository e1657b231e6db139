"""`python -m tests.soak SECONDS [PEERS]`: one node for so long among peers that come and go; 1 when something grew.

A line for each calm moment: what the node holds then, and what it remembers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import trio

from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.transports.tcp import Tcp
from tests.soak.crowd import Crowd, Victim
from tests.soak.figures import Figures, differences, growth
from tests.soak.hostile import chosen
from tests.soak.node import soak_chain

ROUND = 6.0  # seconds in which everybody comes and goes once
RATE = 50.0  # gossip messages a second, in all
PEERS = 20
_CALM = 20.0  # seconds until all must be as it was at the start
_OPENING = 6  # seconds of blocks before the first visit


class Loopback:
    """Real sockets of this machine."""

    def stack(self, name: str) -> dict[str, Any]:
        return {"transports": [Tcp()]}

    def listen(self, name: str) -> tuple[tuple[str, int], ...]:
        return (("127.0.0.1", 0),)

    def wall(self) -> float:
        return time.time()


class Node:
    """The process under test."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._rest = b""
        self.said: dict[str, Any] = {}

    async def line(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            data = await self._stdout.receive_some()
            if not data:
                raise EOFError("the node under test has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))

    async def measure(self) -> Figures:
        await self._stdin.send_all(b"?\n")
        self.said = await self.line()
        return Figures(*(self.said[name] for name in ("held", "remembered", "kilobytes", "objects", "at")))

    async def calm(self, crowd: Crowd, start: Figures | None) -> Figures:
        """Wait until it holds what it held at the start, or, without one, until nothing moves."""
        before = None if start is None else start.held
        with trio.move_on_after(_CALM):
            while True:
                await crowd.calm()
                await trio.sleep(0.3)
                now = await self.measure()
                if now.held == before:
                    return now
                if start is None:
                    before = now.held
        found = differences(before or {}, now.held)
        crowd.tally.failures.append(f"not as at the start, {_CALM:g} s after all had gone (then, now): {found}")
        return now


def judged(node: Node, crowd: Crowd, calm: list[Figures]) -> list[str]:
    """All that is wrong with a run."""
    said, tally = node.said, crowd.tally
    wrong = [*tally.failures[:20], *growth(calm)]
    if said["score"] < 0:
        wrong.append(f"an honest peer had the score {said['score']:.2f}")
    if said["accepted"] < 0.95 * tally.published:
        wrong.append(f"of {tally.published} messages {said['accepted']} were accepted")
    if said["head"] < crowd.maker.tree.head.slot - 2:
        wrong.append(f"its head is of slot {said['head']}, that of its neighbour of {crowd.maker.tree.head.slot}")
    wrong += [f"{name} over its bound of {most}" for name, most in said["over"].items()]
    wrong += [f"logged: {line}" for line in said["complaints"]]
    wrong += [f"{what}: {count} times" for what, count in said["crashed"].items()]
    return wrong


def show(number: int, figures: Figures, crowd: Crowd) -> None:
    tally = crowd.tally
    print(
        f"{figures.at:6.0f} s  round {number:3}  {figures.kilobytes:7} KB  {figures.objects:7} objects  "
        f"{figures.held['tasks']:4} tasks  {figures.held['descriptors']:3} descriptors  "
        f"{figures.entries:6} entries remembered  {tally.visits:5} visits  {sum(tally.hostile.values()):4} attacks",
        flush=True,
    )


async def soak(seconds: float, peers: int) -> int:
    genesis = int(time.time()) - 10
    command = [sys.executable, "-m", "tests.soak.node", str(genesis), str(peers)]
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "check": True}
        process: trio.Process = await nursery.start(partial(trio.run_process, command, **options))
        node = Node(process)
        said = await node.line()
        addresses = tuple(parse_multiaddr(each) for each in said["addresses"])
        victim = Victim(PeerId.parse(said["peer"]), addresses, ("127.0.0.1", said["udp"]), soak_chain(genesis))
        crowd = Crowd(Loopback(), victim, seed=int(time.time()))
        empty = await node.calm(crowd, None)
        async with AsyncExitStack() as inner:
            await crowd.gather(peers, inner)
            await trio.sleep(_OPENING)
            start = await node.calm(crowd, None)
            calm, number = [start], 0
            show(0, start, crowd)
            while calm[-1].at - start.at < seconds - 3 * ROUND and not crowd.tally.failures:
                await crowd.round(ROUND, RATE, chosen(number, peers))
                number += 1
                calm.append(await node.calm(crowd, start))
                show(number, calm[-1], crowd)
            await node.measure()
            wrong = judged(node, crowd, calm[1:])
        crowd.honest.clear()
        crowd.tally.failures.clear()
        await node.calm(crowd, empty)
        wrong += crowd.tally.failures
        await process.stdin.aclose()  # type: ignore[union-attr]
    print(
        f"{crowd.tally.visits} visits, {crowd.tally.requests} requests, {crowd.tally.blocks} blocks, "
        f"{crowd.tally.published} messages, attacks: {dict(crowd.tally.hostile)}"
    )
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


def main(arguments: list[str]) -> int:
    """Runs it and prints what came of it."""
    if not 1 <= len(arguments) <= 2 or not all(each.isdecimal() for each in arguments):
        print("usage: python -m tests.soak SECONDS [PEERS]", file=sys.stderr)
        return 2
    return trio.run(soak, float(arguments[0]), int(arguments[1]) if arguments[1:] else PEERS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
