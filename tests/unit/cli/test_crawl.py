"""The crawl without a network: whom it asks, how often, and what it believes."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from pyp2p.cli import crawl
from pyp2p.cli.crawl import Crawl, Found, Status
from pyp2p.discv5.enr import Enr
from pyp2p.errors import NoAnswer, NoEndpoint
from pyp2p.peer.keys import Identity, KeyType

OWN = b"\x00" * 32
Ask = Callable[[Enr, tuple[int, ...]], Awaitable[list[Enr]]]


def identity() -> Identity:
    return Identity.generate(KeyType.SECP256K1, entropy=os.urandom)


def record(ip: str = "8.8.8.8", *, seq: int = 1, who: Identity | None = None, **pairs: Any) -> Enr:
    address = bytes(int(part) for part in ip.split("."))
    return Enr.sign(who or identity(), seq, {"ip": address, "udp": 9000, **pairs})


def go(ask: Ask, *first: Enr, rate: float = 1000.0) -> tuple[Crawl, list[Found], float]:
    """Crawl from these nodes, in virtual time: all about it, what was told in order, and how long it took."""
    told: list[Found] = []

    async def main() -> tuple[Crawl, list[Found], float]:
        crawling = Crawl(ask, told.append)
        for node in first:
            crawling.add(node, None)
        began = trio.current_time()
        await crawling.run(rate, OWN)
        return crawling, told, trio.current_time() - began

    return trio.run(main, clock=MockClock(autojump_threshold=0))


def knows(names: dict[Enr, list[Enr]]) -> Ask:
    """Everybody answers the first question with all it knows."""

    async def ask(node: Enr, distances: tuple[int, ...]) -> list[Enr]:
        await trio.lowlevel.checkpoint()
        return names.get(node, []) if 256 in distances else []

    return ask


def test_everybody_is_asked_once_and_told_once() -> None:
    a, b, c = record(), record(), record()
    crawling, told, _ = go(knows({a: [a, b, c], b: [a, c], c: [a]}), a)
    assert {found.record for found in told} == {a, b, c}
    assert len(told) == 3
    assert all(found.status is Status.ANSWERED for found in told)
    assert [crawling.nodes[node.node_id].neighbours for node in (a, b, c)] == [2, 2, 1]
    assert crawling.nodes[b.node_id].told_by == a.node_id
    assert crawling.nodes[a.node_id].told_by is None
    assert crawling.questions == 3 * 6


def test_questions_keep_to_the_rate() -> None:
    nodes = [record() for _ in range(10)]
    crawling, _, seconds = go(knows({nodes[0]: nodes}), nodes[0], rate=2.0)
    assert crawling.questions == 60
    assert seconds == pytest.approx(59 / 2)


def test_what_a_stranger_tells_of_our_network_is_not_asked() -> None:
    asked = []
    private, loopback, odd = record("192.168.1.1"), record("127.0.0.1"), Enr.sign(identity(), 1, {})
    first = record()
    ask = knows({first: [private, loopback, odd]})

    async def noted(node: Enr, distances: tuple[int, ...]) -> list[Enr]:
        asked.append(node)
        return await ask(node, distances)

    crawling, told, _ = go(noted, first)
    assert set(asked) == {first}
    status = {found.record: found.status for found in told}
    assert (status[private], status[loopback], status[odd]) == (
        Status.UNBELIEVED,
        Status.UNBELIEVED,
        Status.NO_ENDPOINT,
    )
    assert len(crawling.nodes) == 4


def test_the_newest_record_is_told_and_our_own_is_left_out() -> None:
    who = identity()
    old, new, first = record(who=who), record(who=who, seq=5), record()

    async def ask(node: Enr, distances: tuple[int, ...]) -> list[Enr]:
        await trio.lowlevel.checkpoint()
        return [new] if 0 in distances else []

    crawling, told, _ = go(ask, old)
    assert [found.record.seq for found in told] == [5]
    assert told[0].neighbours == 0
    crawling.add(old, first)
    assert crawling.nodes[old.node_id].record.seq == 5


def test_nodes_that_fail_are_told_with_their_reason() -> None:
    gone, nowhere, late = record(), record(), record()

    async def ask(node: Enr, distances: tuple[int, ...]) -> list[Enr]:
        await trio.sleep(1)
        if node == gone:
            raise NoAnswer("gone")
        if node == nowhere:
            raise NoEndpoint("nowhere")
        if 256 not in distances:
            raise NoAnswer("late")
        return []

    _, told, _ = go(ask, gone, nowhere, late)
    status = {found.record: (found.status, found.error) for found in told}
    assert status[gone] == (Status.NO_ANSWER, "gone")
    assert status[nowhere] == (Status.NO_ENDPOINT, "nowhere")
    assert status[late] == (Status.ANSWERED, None)


def test_made_up_nodes_fill_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl, "_MAX_NODES", 3)
    first = record()
    crawling, told, _ = go(knows({first: [record() for _ in range(5)]}), first)
    assert len(crawling.nodes) == len(told) == 3
    assert crawling.full


def test_nobody_is_left_out_when_the_time_is_over() -> None:
    nodes = [record() for _ in range(3)]
    told: list[Found] = []

    async def ask(node: Enr, distances: tuple[int, ...]) -> list[Enr]:
        await trio.sleep(0.15 if 256 in distances else 1e6)
        return []

    async def main() -> None:
        crawling = Crawl(ask, told.append)
        for node in nodes:
            crawling.add(node, None)
        with trio.move_on_after(0.5):
            await crawling.run(5, OWN)
        assert told == []
        crawling.finish()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert sorted(found.status for found in told) == [Status.ANSWERED, Status.ANSWERED, Status.UNASKED]


def test_few_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl, "_ASKED_AT_ONCE", 2)
    at_once = most = 0

    async def ask(node: Enr, distances: tuple[int, ...]) -> list[Enr]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(1)
        at_once -= 1
        raise NoAnswer("gone")

    _, told, _ = go(ask, *(record() for _ in range(7)))
    assert (most, len(told)) == (2, 7)
