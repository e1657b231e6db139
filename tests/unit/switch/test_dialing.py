"""Hedged dialling and dials that several callers share, in virtual time."""

import math
from dataclasses import dataclass, field

import pytest
import trio
from multiaddr import Multiaddr

from pyp2p.errors import ConnectFailed
from pyp2p.peer.address import parse_multiaddr
from pyp2p.switch.dialing import Shared, hedge
from pyp2p.testing import Sim, run_sim, simulated
from tests.cancel.steps import CancelAt

A, B, C, D = (parse_multiaddr(f"/ip4/192.0.2.{n}/tcp/4001") for n in (1, 2, 3, 4))
NAMES = {A: "a", B: "b", C: "c", D: "d"}
NEVER = math.inf


@dataclass
class Host:
    """What an attempt meets: the result that comes after so many seconds (None: a failure)."""

    seconds: float
    result: str | None = None
    stubborn: bool = False  # the result comes although the attempt was cancelled: it had won at that moment


@dataclass
class Scene:
    """Attempts that behave as told, and when each began and how it ended."""

    hosts: dict[Multiaddr, Host]
    began: list[tuple[float, str]] = field(default_factory=list)
    cancelled: list[tuple[float, str]] = field(default_factory=list)
    produced: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    running: int = 0

    async def attempt(self, address: Multiaddr) -> str | None:
        host, name = self.hosts[address], NAMES[address]
        self.began.append((trio.current_time(), name))
        self.running += 1
        try:
            with trio.CancelScope(shield=host.stubborn):
                await trio.sleep(host.seconds)
        except trio.Cancelled:
            self.cancelled.append((trio.current_time(), name))
            raise
        finally:
            self.running -= 1
        if host.result is not None:
            self.produced.append(host.result)
        return host.result

    async def dial(self, *plan: tuple[float, Multiaddr]) -> str | None:
        """`hedge`, and nothing runs on behind its back."""
        try:
            return await hedge(plan, self.attempt, self.discarded.append)
        finally:
            assert self.running == 0


# ---- when attempts begin ----


@simulated()
async def test_attempts_begin_in_order_at_the_planned_times(sim: Sim) -> None:
    scene = Scene({A: Host(9), B: Host(9), C: Host(9, "c"), D: Host(9)})
    assert await scene.dial((0, A), (0.25, B), (0.25, C), (2.0, D)) == "c"
    assert sorted(scene.began) == [(0, "a"), (0.25, "b"), (0.25, "c"), (2.0, "d")]
    assert trio.current_time() == 9.25


@simulated()
async def test_the_plan_counts_from_the_call(sim: Sim) -> None:
    await trio.sleep(100)
    scene = Scene({A: Host(1), B: Host(1, "b")})
    assert await scene.dial((0, A), (0.5, B)) == "b"
    assert scene.began == [(100, "a"), (100.5, "b")]


@simulated()
async def test_the_next_begins_at_once_when_all_before_it_have_failed(sim: Sim) -> None:
    scene = Scene({A: Host(0.125), B: Host(0.125), C: Host(0.25), D: Host(1, "d")})
    assert await scene.dial((0, A), (1, B), (1, C), (60, D)) == "d"
    # B begins early when A has failed, C when B has: each alone. D waits for the last of them.
    assert scene.began == [(0, "a"), (0.125, "b"), (0.25, "c"), (0.5, "d")]
    assert trio.current_time() == 1.5


@simulated()
async def test_one_that_still_runs_holds_the_next_to_its_time(sim: Sim) -> None:
    scene = Scene({A: Host(0.5), B: Host(0), C: Host(0, "c")})
    assert await scene.dial((0, A), (0, B), (0.25, C)) == "c"
    assert max(scene.began) == (0.25, "c")  # B failed at once, but A might have worked


@simulated()
async def test_a_first_address_need_not_wait_for_its_time(sim: Sim) -> None:
    scene = Scene({A: Host(1, "a")})
    assert await scene.dial((5, A)) == "a"
    assert scene.began == [(0, "a")]


# ---- who wins ----


@simulated()
async def test_the_first_success_cancels_the_others_and_those_to_come(sim: Sim) -> None:
    scene = Scene({A: Host(NEVER, "a"), B: Host(1, "b"), C: Host(NEVER, "c"), D: Host(0, "d")})
    assert await scene.dial((0, A), (0.25, B), (0.5, C), (30, D)) == "b"
    assert [name for _, name in scene.began] == ["a", "b", "c"]
    assert sorted(scene.cancelled) == [(1.25, "a"), (1.25, "c")]
    assert scene.discarded == []
    assert trio.current_time() == 1.25


@simulated()
async def test_a_success_before_the_next_begins_is_all_there_is(sim: Sim) -> None:
    scene = Scene({A: Host(0.125, "a"), B: Host(0, "b")})
    assert await scene.dial((0, A), (0.25, B)) == "a"
    assert scene.began == [(0, "a")]
    assert trio.current_time() == 0.125


@simulated()
async def test_a_second_success_is_discarded(sim: Sim) -> None:
    scene = Scene({A: Host(2, "a", stubborn=True), B: Host(1, "b"), C: Host(3, "c", stubborn=True)})
    assert await scene.dial((0, A), (0, B), (0, C)) == "b"
    assert scene.discarded == ["a", "c"]
    assert trio.current_time() == 3  # nothing that was begun is left behind


@simulated()
async def test_two_successes_at_once_are_one_winner_and_one_discarded(sim: Sim) -> None:
    scene = Scene({A: Host(1, "a"), B: Host(1, "b")})
    winner = await scene.dial((0, A), (0, B))
    assert sorted([winner, *scene.discarded]) == sorted(scene.produced)


@simulated()
async def test_none_is_the_answer_when_all_fail_after_the_last_of_them(sim: Sim) -> None:
    scene = Scene({A: Host(3), B: Host(0), C: Host(1)})
    assert await scene.dial((0, A), (0.25, B), (0.5, C)) is None
    assert trio.current_time() == 3
    assert (scene.cancelled, scene.discarded) == ([], [])


@simulated()
async def test_a_result_is_what_is_not_none(sim: Sim) -> None:
    scene = Scene({A: Host(0, ""), B: Host(0, "b")})
    assert await scene.dial((0, A), (1, B)) == ""


@simulated(seeds=(1,))
async def test_an_empty_plan_fails_at_once(sim: Sim) -> None:
    assert await Scene({}).dial() is None
    assert trio.current_time() == 0


# ---- errors and cancellation ----


@simulated()
async def test_an_attempt_that_raises_ends_all_and_leaves_no_winner(sim: Sim) -> None:
    scene = Scene({A: Host(NEVER), B: Host(5, "b", stubborn=True), C: Host(NEVER)})

    async def attempt(address: Multiaddr) -> str | None:
        if address == C:
            raise OSError("a defect of the transport")
        return await scene.attempt(address)

    with pytest.RaisesGroup(OSError):
        await hedge([(0, A), (0, B), (1, C), (9, D)], attempt, scene.discarded.append)
    assert scene.running == 0
    assert scene.cancelled == [(1, "a")]
    assert scene.discarded == ["b"]  # it came when the error was on its way: nobody will take it
    assert trio.current_time() == 5


@simulated()
async def test_cancelled_while_waiting_for_the_next_time(sim: Sim) -> None:
    scene = Scene({A: Host(NEVER), B: Host(0, "b")})
    with trio.move_on_after(2) as scope:
        await scene.dial((0, A), (10, B))
    assert scope.cancelled_caught
    assert (scene.began, scene.cancelled) == ([(0, "a")], [(2, "a")])


@simulated()
async def test_a_result_that_comes_after_the_cancellation_is_discarded(sim: Sim) -> None:
    scene = Scene({A: Host(3, "a", stubborn=True), B: Host(4, "b", stubborn=True)})
    with trio.move_on_after(1) as scope:
        await scene.dial((0, A), (0, B))
    assert scope.cancelled_caught
    assert sorted(scene.discarded) == ["a", "b"]


async def _cancelled_at(sim: Sim, step: int, hosts: dict[Multiaddr, Host], plan) -> tuple[bool, bool]:
    """Cancel a dial at a step; returns whether that came before its end, and whether a result was discarded."""
    scene, taken = Scene(hosts), []
    with trio.CancelScope() as scope:
        instrument = CancelAt(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            result = await scene.dial(*plan)
            if result is not None:
                taken.append(result)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    assert sorted(taken + scene.discarded) == sorted(scene.produced)  # each result has exactly one owner
    assert not (scope.cancelled_caught and taken)
    return instrument.left <= 0, bool(scene.discarded)


RACES = {
    "one": ({A: Host(1, "a")}, [(0, A)]),
    "one that is there at once": ({A: Host(0, "a")}, [(0, A)]),
    "a race": ({A: Host(1, "a"), B: Host(0.5, "b"), C: Host(0.5, "c")}, [(0, A), (0.5, B), (0.5, C)]),
    "late results": (
        {A: Host(2, "a", True), B: Host(1, "b"), C: Host(3, "c", True)},
        [(0, A), (0.25, B), (0.5, C)],
    ),
    "after a failure": ({A: Host(0.25), B: Host(1, "b", True), C: Host(1, "c", True)}, [(0, A), (5, B), (5, C)]),
}


@pytest.mark.parametrize("name", RACES, ids=str)
@pytest.mark.parametrize("seed", range(1, 5))
def test_cancelled_at_any_step_each_result_is_returned_or_discarded(name: str, seed: int) -> None:
    hit = discarded = 0
    for step in range(1, 200):
        before_end, late = run_sim(_cancelled_at, seed, step, *RACES[name])
        if not before_end:
            break
        hit, discarded = hit + 1, discarded + late
    else:
        pytest.fail("a dial of a few attempts takes fewer steps")
    assert hit >= 3
    assert discarded or name.startswith("one")  # the sweep meets the moments it is about


# ---- callers that share a dial ----


class Work:
    """Something slow with a result; notes how often it ran and whether it was cancelled."""

    def __init__(self, seconds: float = 1.0, error: BaseException | None = None) -> None:
        self.seconds, self.error = seconds, error
        self.runs = 0
        self.cancelled_at: float | None = None

    async def __call__(self) -> str:
        self.runs += 1
        try:
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.cancelled_at = trio.current_time()
            raise
        if self.error is not None:
            raise self.error
        return "connection"


class Callers:
    """Callers of one `Shared`: each with its patience, and what it got at which time."""

    def __init__(self, nursery: trio.Nursery, shared: Shared[str]) -> None:
        self.got: dict[str, tuple[float, object]] = {}
        self._nursery = nursery
        self._shared = shared

    def call(self, name: str, patience: float = NEVER) -> None:
        self._nursery.start_soon(self._call, name, patience)

    async def _call(self, name: str, patience: float) -> None:
        outcome: object = "gave up"
        with trio.move_on_after(patience):
            try:
                outcome = await self._shared.wait()
            except ConnectFailed as error:
                outcome = error
        self.got[name] = trio.current_time(), outcome


@simulated()
async def test_all_callers_get_the_one_result(sim: Sim) -> None:
    shared, work = Shared[str](), Work()
    async with trio.open_nursery() as nursery:
        callers = Callers(nursery, shared)
        callers.call("first")
        nursery.start_soon(shared.run, work, ())
        await trio.sleep(0.5)
        callers.call("second")
        assert not shared.given_up
    assert callers.got == {"first": (1, "connection"), "second": (1, "connection")}
    assert work.runs == 1


@simulated()
async def test_all_callers_get_the_one_error_and_the_runner_none(sim: Sim) -> None:
    shared, work = Shared[str](), Work(error=ConnectFailed("refused"))
    async with trio.open_nursery() as nursery:
        callers = Callers(nursery, shared)
        callers.call("first")
        callers.call("second")
        nursery.start_soon(shared.run, work, (ConnectFailed, OSError))
    assert callers.got == {"first": (1, work.error), "second": (1, work.error)}


@simulated()
async def test_an_error_that_is_no_failure_reaches_the_runner_and_frees_the_callers(sim: Sim) -> None:
    shared, work = Shared[str](), Work(error=KeyError("a defect"))
    async with trio.open_nursery() as nursery:
        callers = Callers(nursery, shared)
        callers.call("first")
        with pytest.raises(KeyError):
            await shared.run(work, (ConnectFailed,))
    assert callers.got == {"first": (1, None)}


@simulated()
async def test_the_work_ends_when_the_last_caller_gives_up_not_before(sim: Sim) -> None:
    shared, work = Shared[str](), Work(seconds=10)
    async with trio.open_nursery() as nursery:
        callers = Callers(nursery, shared)
        callers.call("first", patience=1)
        callers.call("second", patience=3)
        nursery.start_soon(shared.run, work, ())
        await trio.sleep(2)
        assert callers.got == {"first": (1, "gave up")}
        assert not shared.given_up and work.cancelled_at is None
    assert callers.got["second"] == (3, "gave up")
    assert shared.given_up and work.cancelled_at == 3


@simulated()
async def test_one_that_stays_gets_the_result_though_others_gave_up(sim: Sim) -> None:
    shared, work = Shared[str](), Work()
    async with trio.open_nursery() as nursery:
        callers = Callers(nursery, shared)
        callers.call("stays")
        callers.call("goes", patience=0.5)
        nursery.start_soon(shared.run, work, ())
    assert callers.got == {"goes": (0.5, "gave up"), "stays": (1, "connection")}


@simulated()
async def test_who_joins_after_all_gave_up_waits_for_nothing(sim: Sim) -> None:
    shared = Shared[str]()
    cleaned_up = trio.Event()

    async def work() -> str:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            cleaned_up.set()
        raise AssertionError

    async with trio.open_nursery() as nursery:
        callers = Callers(nursery, shared)
        callers.call("first", patience=1)
        nursery.start_soon(shared.run, work, ())
        await trio.sleep(2)
        assert shared.given_up and not cleaned_up.is_set()  # a new caller can tell, and begin anew
        callers.call("late")
    assert callers.got["late"] == (6, None)


@simulated()
async def test_work_that_was_given_up_before_it_began_is_not_done(sim: Sim) -> None:
    shared, work = Shared[str](), Work()
    with trio.move_on_after(0):
        await shared.wait()
    assert shared.given_up
    await shared.run(work, ())
    assert trio.current_time() == 0
    assert await shared.wait() is None


@simulated()
async def test_cancel_gives_up_for_all_callers(sim: Sim) -> None:
    shared, work = Shared[str](), Work(seconds=10)
    async with trio.open_nursery() as nursery:
        callers = Callers(nursery, shared)
        callers.call("first")
        callers.call("second")
        nursery.start_soon(shared.run, work, ())
        await trio.sleep(1)
        shared.cancel()
        assert shared.given_up
    assert callers.got == {"first": (1, None), "second": (1, None)}
    assert work.cancelled_at == 1


@simulated()
async def test_a_runner_that_is_cancelled_frees_the_callers(sim: Sim) -> None:
    shared, work = Shared[str](), Work(seconds=10)
    async with trio.open_nursery() as nursery:
        callers = Callers(nursery, shared)
        callers.call("first")
        with trio.move_on_after(1) as scope:
            await shared.run(work, (Exception,))
        assert scope.cancelled_caught
    assert callers.got == {"first": (1, None)}


@simulated(seeds=(1,))
async def test_a_result_that_is_there_is_given_at_once(sim: Sim) -> None:
    shared = Shared[str]()
    await shared.run(Work(), ())
    assert await shared.wait() == "connection"
    assert trio.current_time() == 1
