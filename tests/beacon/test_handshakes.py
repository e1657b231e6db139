"""Handshakes on new connections: their order, deadlines, what a failure means, and an application's own step."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.beacon.events import PeerConnected, Warned
from pyp2p.beacon.handshakes import Handshake, Handshakes, NotWelcome
from pyp2p.errors import AdmissionRefused, DialFailed
from pyp2p.testing import Sim, simulated
from tests.beacon.support import SEEDS, beacon, dial, goodbyes, knows, meet, of_kind, watched
from tests.switch.support import until


class Hall:
    """Handshakes by themselves: what was said, in order."""

    def __init__(self) -> None:
        self.goodbyes: list[int] = []
        self.warnings: list[str] = []
        self.ran: list[str] = []
        self.steps = Handshakes(self._goodbye, self._warn)

    async def _goodbye(self, connection, code: int) -> None:
        await trio.lowlevel.checkpoint()
        self.goodbyes.append(code)

    async def _warn(self, words: str) -> None:
        await trio.lowlevel.checkpoint()
        self.warnings.append(words)

    def add(self, name: str, order: int = 100, error: Exception | None = None, seconds: float = 0, **more) -> None:
        async def run(connection) -> None:
            self.ran.append(name)
            await trio.sleep(seconds)
            if error is not None:
                raise error

        self.steps.add(Handshake(name, run, order, **more))


class FakeConnection:
    peer = "somebody"


async def admit(hall: Hall) -> None:
    await hall.steps.admit(FakeConnection())  # type: ignore[arg-type]


async def test_they_run_in_order_whenever_they_were_added(autojump_clock) -> None:
    hall = Hall()
    for name, order in (("late", 5), ("first", -1), ("status", 0), ("as late", 5)):
        hall.add(name, order)
    await admit(hall)
    assert hall.ran == ["first", "status", "late", "as late"]
    assert not hall.goodbyes
    assert not hall.warnings


async def test_one_that_is_added_meanwhile_is_for_connections_from_then_on(autojump_clock) -> None:
    hall = Hall()

    async def brings_another(connection) -> None:
        await trio.lowlevel.checkpoint()
        hall.ran.append("first")
        if len(hall.ran) == 1:
            hall.add("before it", -5)
            hall.add("after it", 50)

    hall.steps.add(Handshake("first", brings_another, 1))
    await admit(hall)
    assert hall.ran == ["first"]
    await admit(hall)
    assert hall.ran == ["first", "before it", "first", "after it"]


async def test_a_name_is_taken_once() -> None:
    hall = Hall()
    hall.add("status")
    with pytest.raises(ValueError, match="status is there already"):
        hall.add("status")


async def test_one_that_fails_ends_it_with_its_code_and_its_words(autojump_clock) -> None:
    hall = Hall()
    hall.add("one", 1, AdmissionRefused("no entry"), goodbye=77)
    hall.add("two", 2)
    with pytest.raises(AdmissionRefused, match="one: no entry"):
        await admit(hall)
    assert (hall.ran, hall.goodbyes) == (["one"], [77])


async def test_a_reason_that_has_a_code_of_its_own_keeps_it(autojump_clock) -> None:
    hall = Hall()
    hall.add("place", 1, NotWelcome("it is full", 129), goodbye=3)
    with pytest.raises(AdmissionRefused, match="place: it is full"):
        await admit(hall)
    assert hall.goodbyes == [129]


async def test_a_crash_refuses_too(autojump_clock) -> None:
    hall = Hall()
    hall.add("broken", 1, ZeroDivisionError("oops"))
    with pytest.raises(AdmissionRefused, match="broken: ZeroDivisionError: oops"):
        await admit(hall)
    assert hall.goodbyes == [GoodbyeReason.FAULT]


async def test_each_has_a_deadline_of_its_own(autojump_clock) -> None:
    hall = Hall()
    hall.add("quick", 1, seconds=4.9, timeout=5)
    hall.add("slow", 2, seconds=5.1, timeout=5)
    begun = trio.current_time()
    with pytest.raises(AdmissionRefused, match="slow: no answer within 5 s"):
        await admit(hall)
    assert trio.current_time() - begun == pytest.approx(9.9)


async def test_an_optional_one_that_fails_is_reported_and_the_rest_goes_on(autojump_clock) -> None:
    hall = Hall()
    hall.add("extra", 1, RuntimeError("not today"), required=False)
    hall.add("late extra", 2, seconds=50, required=False)
    hall.add("needed", 3)
    await admit(hall)
    assert hall.ran == ["extra", "late extra", "needed"]
    assert hall.warnings == [
        "somebody: extra: RuntimeError: not today",
        "somebody: late extra: no answer within 10 s",
    ]
    assert not hall.goodbyes


@simulated(SEEDS)
async def test_an_applications_step_runs_on_both_sides_after_the_status(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a:
        seen = []
        for net in (a, b):

            async def look(connection, net=net) -> None:
                seen.append((connection.peer, net._exchange.facts(connection).status is not None))
                await trio.lowlevel.checkpoint()

            net.add_handshake(Handshake("app", look))
        await meet(a, b)
        assert sorted(seen, key=str) == sorted([(a.peer, True), (b.peer, True)], key=str)


@simulated(SEEDS)
async def test_a_peer_that_an_application_refuses_is_told_the_code_and_nobody_hears_of_it(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a, watched(b) as told:

        async def refuse(connection) -> None:
            await trio.lowlevel.checkpoint()
            raise AdmissionRefused("wrong colour \x1b[31m")

        b.add_handshake(Handshake("colour", refuse, goodbye=99))
        with goodbyes(a) as heard:
            with suppress(DialFailed):
                await dial(a, b)
            await until(lambda: heard and not a.switch.connections())
        assert heard == [(b.peer, 99)]
        assert not a.peers()
        assert not b.peers()
        assert not of_kind(PeerConnected, told)


@simulated(SEEDS)
async def test_an_optional_step_that_fails_is_an_event_and_the_peer_stays(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a, watched(a) as told:

        async def fail(connection) -> None:
            await trio.lowlevel.checkpoint()
            raise RuntimeError("not today")

        a.add_handshake(Handshake("extra", fail, required=False))
        await meet(a, b)
        assert knows(a, b)
        assert [each.text for each in of_kind(Warned, told)] == [f"{b.peer}: extra: RuntimeError: not today"]


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_085_warnings_nobody_reads_hold_up_who_causes_them_and_pile_up_nowhere(sim: Sim) -> None:
    async with beacon(sim, "b", events=1) as b:

        async def fail(connection) -> None:
            await trio.lowlevel.checkpoint()
            raise RuntimeError("again")

        b.add_handshake(Handshake("extra", fail, required=False))
        async with b.watch():
            tasks = trio.lowlevel.current_statistics().tasks_living
            for number in range(6):
                async with beacon(sim, f"c{number}") as client:
                    with trio.move_on_after(5):
                        with suppress(DialFailed):
                            await dial(client, b)
                await trio.sleep(60)
            assert trio.lowlevel.current_statistics().tasks_living <= tasks + 2
