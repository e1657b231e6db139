"""The crawl without a network: whom it asks, how often, and what it believes."""

import json
import os
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from pyp2p.cli import crawl_identify, crawl_walk
from pyp2p.cli.crawl_files import read_nodes
from pyp2p.cli.crawl_identify import Identifier, believed_target
from pyp2p.cli.crawl_node import Filter, Found, Status, parse_line
from pyp2p.cli.crawl_walk import Crawl, Pace, Walk
from pyp2p.cli.failure import CommandFailed, UsageError
from pyp2p.cli.output import json_line
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
        await crawling.run(Pace(rate), OWN)
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
    assert crawling.questions == 3 * 2


def test_questions_keep_to_the_rate() -> None:
    nodes = [record() for _ in range(10)]
    crawling, _, seconds = go(knows({nodes[0]: nodes}), nodes[0], rate=2.0)
    assert crawling.questions == 21  # two for each, and one more for whoever told of more than eight
    assert seconds == pytest.approx(20 / 2)


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
    monkeypatch.setattr(crawl_walk, "MAX_NODES", 3)
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
            await crawling.run(Pace(5), OWN)
        assert told == []
        crawling.finish()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert sorted(found.status for found in told) == [Status.ANSWERED, Status.ANSWERED, Status.UNASKED]


def test_few_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl_walk, "ASKED_AT_ONCE", 2)
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


def walked(table: dict[int, int]) -> tuple[Walk, list[tuple[int, ...]]]:
    """The walk of a node that knows so many nodes at these distances, and tells sixteen at once: its questions."""
    walk = Walk()
    questions = []
    while not walk.over:
        questions.append(asked := walk.distances)
        ids = [bytes([at % 256, number]) for at in asked for number in range(table.get(at, 0))]
        walk.answered(ids[:16])
    return walk, questions


def down(high: int, low: int) -> tuple[int, ...]:
    return tuple(range(high, low - 1, -1))


def test_an_empty_table_takes_two_questions() -> None:
    assert walked({})[1] == [(0, 256), down(255, 246)]


@pytest.mark.parametrize("at", [256, 255, 254, 250, 247, 246])
def test_the_only_neighbour_is_found_though_the_farthest_buckets_are_empty(at: int) -> None:
    walk, questions = walked({at: 1})
    assert walk.told == 1
    assert questions[-1] == (down(255, 246) if at == 256 else down(245, 236))


def test_a_large_table_is_walked_to_its_end() -> None:
    table = {256: 16, 255: 16, 254: 16, 253: 16, 252: 16, 251: 12, 250: 6, 249: 3, 248: 1}
    walk, questions = walked(table)
    assert walk.told == sum(table.values())
    assert questions == [(0, 256), (255,), (254,), (253,), (252,), (251,), (250,), down(249, 240), down(239, 230)]


def test_what_a_full_answer_hides_is_asked_for_one_by_one() -> None:
    table = {254: 16, 253: 16, 250: 2}
    walk, questions = walked(table)
    assert walk.told == sum(table.values())
    assert questions[:5] == [(0, 256), down(255, 246), (255,), down(254, 245), (254,)]


def test_a_walk_ends_at_the_nearest_distance() -> None:
    walk, questions = walked(dict.fromkeys(range(1, 257), 16))
    assert walk.told == 256 * 16
    assert questions == [(0, 256), *((at,) for at in range(255, 0, -1))]
    assert walked(dict.fromkeys(range(1, 257), 1))[1][-1] == down(5, 1)


@pytest.mark.parametrize("many", [0, 1, 8, 9, 16])
def test_no_question_is_larger_than_others_take(many: int) -> None:
    """sigp/discv5 gives no answer to one for more than ten distances."""
    assert max(map(len, walked(dict.fromkeys(range(1, 257), many))[1])) <= 10


def test_nothing_new_ends_a_walk_though_there_are_answers() -> None:
    walk = Walk()
    walk.answered([b"a"])
    walk.answered([b"a"])
    assert walk.over


def test_a_newer_record_with_an_address_that_its_teller_cannot_know_is_not_taken() -> None:
    who = identity()
    old, inside, moved = record(who=who), record("192.168.1.1", seq=9, who=who), record("9.9.9.9", seq=3, who=who)
    first = record()
    asked = []

    async def ask(node: Enr, distances: tuple[int, ...]) -> list[Enr]:
        asked.append(node)
        await trio.lowlevel.checkpoint()
        return [old, moved, inside] if node == first and 256 in distances else []

    go(ask, first)
    assert set(asked) == {first, moved}


def test_a_node_that_takes_its_address_out_of_its_record_is_walked_on() -> None:
    who, other = identity(), record()
    first, silent = record(who=who), Enr.sign(who, 2, {})
    crawling, told, _ = go(knows({first: [silent, other]}), first)
    assert {found.record for found in told} == {silent, other}
    assert crawling.nodes[first.node_id].walked


def test_a_walk_that_is_cut_short_is_told_as_such() -> None:
    cut, whole = record(), record()

    async def ask(node: Enr, distances: tuple[int, ...]) -> list[Enr]:
        await trio.lowlevel.checkpoint()
        if node == cut and 256 not in distances:
            raise NoAnswer("gone")
        return []

    _, told, _ = go(ask, cut, whole)
    assert {found.record: found.walked for found in told} == {cut: False, whole: True}


# --- an earlier crawl


def resume(earlier: Iterable[Found], ask: Ask) -> tuple[Crawl, list[Found]]:
    told: list[Found] = []

    async def main() -> Crawl:
        crawling = Crawl(ask, told.append)
        for found in earlier:
            crawling.take_up(found)
        await crawling.run(Pace(1000.0), OWN)
        return crawling

    return trio.run(main, clock=MockClock(autojump_threshold=0)), told


def test_who_answered_is_kept_and_the_others_are_asked_again() -> None:
    done, cut, gone, unasked, inside = (record() for _ in range(5))
    earlier = [
        Found(done, None, Status.ANSWERED, 0.5, 3, walked=True),
        Found(cut, None, Status.ANSWERED, 0.5, 3),
        Found(gone, done.node_id, Status.NO_ANSWER, error="gone"),
        Found(unasked, done.node_id, Status.UNASKED),
        Found(inside, done.node_id, Status.UNBELIEVED),
    ]
    asked = []

    async def ask(node: Enr, distances: tuple[int, ...]) -> list[Enr]:
        await trio.lowlevel.checkpoint()
        asked.append(node)
        if node == cut:
            raise NoAnswer("not now")
        return []

    crawling, told = resume(earlier, ask)
    assert set(asked) == {cut, gone, unasked}
    assert crawling.kept == 2
    assert told[:2] == [earlier[0], earlier[4]]
    assert len(told) == 5
    status = {found.record: (found.status, found.error, found.neighbours) for found in told}
    assert status[gone] == status[unasked] == (Status.ANSWERED, None, 0)
    assert status[cut] == (Status.ANSWERED, None, 3)
    assert status[inside] == (Status.UNBELIEVED, None, 0)


def test_a_line_is_read_back_as_it_was_written() -> None:
    found = Found(
        record(attnets=b"\1" + bytes(7)), b"\7" * 32, Status.ANSWERED, 0.25, 9, None, True, "x\x1b/1", ["/a"], None
    )
    assert parse_line(json_line("node", found.as_json()).encode()) == found
    assert parse_line(b'{"event": "crawl", "nodes": 1}') is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": "dead"}, "'status'"),
        ({"status": None}, "'status'"),
        ({"status": []}, "'status'"),
        ({"event": "lookup"}, "no node"),
        ({"enr": "enr:-x\x1b"}, "not a node record"),
        ({"enr": None}, "not a node record"),
        ({"enr": 5}, "'enr'"),
        ({"us": -1}, "'us'"),
        ({"us": float("nan")}, "'us'"),
        ({"us": 10**400}, "'us'"),
        ({"us": True}, "'us'"),
        ({"neighbours": "9"}, "'neighbours'"),
        ({"told_by": "ff"}, "'told_by'"),
        ({"protocols": "/a"}, "'protocols'"),
        ({"protocols": [5]}, "'protocols'"),
        ({"agent": 5}, "'agent'"),
    ],
)
def test_a_line_that_is_wrong_is_refused(change: dict[str, object], why: str) -> None:
    sheet = json.loads(json_line("node", Found(record(), None, Status.ANSWERED).as_json()))
    with pytest.raises(ValueError) as caught:
        parse_line(json.dumps(sheet | change).encode())
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


def test_wrong_lines_are_named_by_number_and_the_last_line_of_a_node_counts(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    node = record()
    good = json_line("node", Found(node, None, Status.NO_ANSWER).as_json())
    later = json_line("node", Found(node, None, Status.ANSWERED, 0.1).as_json())
    long = " " * (1 << 20) + "{}"
    path.write_bytes("\n".join(["", good, "nonsense", long, "[" * 10_000, later, "[]"]).encode() + b"\n\xff")
    earlier = read_nodes(str(path), 10)
    assert [number for number, _ in earlier.wrong] == [3, 4, 5, 7, 8]
    assert [(found.status, found.walked) for found in earlier.nodes.values()] == [(Status.ANSWERED, False)]
    path.write_text(good + "\n" + "x\n" * 1000)
    earlier = read_nodes(str(path), 10)
    assert (len(earlier.wrong), earlier.wrong_lines) == (20, 1000)
    path.write_text("\n".join(json_line("node", Found(record(), None).as_json()) for _ in range(3)))
    earlier = read_nodes(str(path), 2)
    assert (len(earlier.nodes), earlier.full) == (2, True)


@pytest.mark.parametrize("name", ["missing", ".", "\0", "notes"])
def test_a_file_that_is_none_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes").write_text("buy milk\n")
    with pytest.raises(UsageError) as caught:
        read_nodes(str(tmp_path / name), 10)
    assert caught.value.reason.startswith("--resume: ")
    assert caught.value.code == 2


# --- filters, and whom to dial


def test_a_filter_takes_a_fork_and_any_of_some_subnets() -> None:
    fork = bytes.fromhex("6a95a1a9") + bytes(12)
    both, plain = record(eth2=fork, attnets=bytes([0b10, *bytes(6), 0x80])), record()
    assert Filter().takes_all and Filter().takes(plain)
    assert Filter(fork[:4]).takes(both) and not Filter(fork[:4]).takes(plain)
    assert not Filter(b"\0" * 4).takes(plain) and not Filter(b"\0" * 4).takes(both)
    taken = [subnet for subnet in range(64) if Filter(subnets=[subnet]).takes(both)]
    assert taken == [1, 63]
    assert Filter(fork[:4], [5, 63]).takes(both) and not Filter(fork[:4], [5]).takes(both)
    assert not Filter(subnets=[1]).takes(plain)


@pytest.mark.parametrize(
    ("pairs", "dialled"),
    [
        ({"tcp": 5}, ["/ip4/8.8.8.8/tcp/5"]),
        ({}, []),
        ({"tcp": 5, "ip6": IPv6Address("2620:fe::9")}, ["/ip4/8.8.8.8/tcp/5", "/ip6/2620:fe::9/tcp/5"]),
        ({"tcp6": 5, "ip6": IPv6Address("::1")}, []),
        ({"tcp": 5, "ip6": IPv6Address("::ffff:127.0.0.1"), "tcp6": 6}, ["/ip4/8.8.8.8/tcp/5"]),
    ],
)
def test_only_what_the_node_can_know_is_dialled(pairs: dict[str, Any], dialled: list[str]) -> None:
    target = believed_target(record(**pairs))
    found = [] if target is None else [target.address, *target.others]
    assert [str(address) for address in found] == dialled


def test_an_address_beside_that_of_discovery_is_judged_too() -> None:
    """Whoever told of the record was asked about its UDP address only."""
    six = {"ip6": IPv6Address("2620:fe::9"), "udp6": 9000, "tcp6": 4001}
    target = believed_target(Enr.sign(identity(), 1, {**six, "ip": bytes([127, 0, 0, 1]), "tcp": 22}))
    assert target is not None
    assert (str(target.address), target.others) == ("/ip6/2620:fe::9/tcp/4001", ())
    assert believed_target(Enr.sign(identity(), 1, {"ip": bytes([8, 8, 8, 8]), "tcp": 22})) is None


class NoSwitch:
    """Counts who is let go."""

    def __init__(self) -> None:
        self.gone: list[object] = []

    async def disconnect(self, peer: object) -> None:
        await trio.lowlevel.checkpoint()
        self.gone.append(peer)


def test_few_are_dialled_at_once_in_turn_and_within_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = most = 0
    switch: Any = NoSwitch()
    nodes = [Found(record(tcp=5), None, Status.ANSWERED) for _ in range(6)]
    others = [Found(record(), None, Status.ANSWERED), Found(record("127.0.0.1", tcp=5, attnets=b"\1" + bytes(7)), None)]

    async def connect_to(used: object, target: object, seconds: float) -> None:
        nonlocal at_once, most
        assert (used, seconds) == (switch, 10.0)
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(1)
        at_once -= 1
        raise CommandFailed("connect", 11, "refused")

    async def main() -> float:
        identifier = Identifier(switch, Pace(0.5), Filter())
        elsewhere = Identifier(switch, Pace(0.5), Filter(subnets=[5]))
        began = trio.current_time()
        with trio.move_on_after(9):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(elsewhere.identify, others[1])
                for found in [*nodes, others[0]]:
                    nursery.start_soon(identifier.identify, found)
        return trio.current_time() - began

    monkeypatch.setattr(crawl_identify, "_AT_ONCE", 2)
    monkeypatch.setattr(crawl_identify, "connect_to", connect_to)
    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == 9
    assert most == 1  # a turn comes every two seconds
    assert sorted(found.identify_error or "" for found in nodes) == ["refused"] * 4 + ["the time was over"] * 2
    assert [found.identify_error for found in others] == [None, None]
    assert len(switch.gone) == 4


def test_slow_nodes_are_dialled_side_by_side_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = most = 0
    switch: Any = NoSwitch()

    async def connect_to(used: object, target: object, seconds: float) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(seconds)
        at_once -= 1
        raise CommandFailed("connect", 16, "late")

    async def main() -> None:
        identifier = Identifier(switch, Pace(1000), Filter())
        async with trio.open_nursery() as nursery:
            for _ in range(7):
                nursery.start_soon(identifier.identify, Found(record(tcp=5), None, Status.ANSWERED))

    monkeypatch.setattr(crawl_identify, "_AT_ONCE", 3)
    monkeypatch.setattr(crawl_identify, "connect_to", connect_to)
    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert (most, len(switch.gone)) == (3, 7)
