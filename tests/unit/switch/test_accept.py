"""The accept loop against a listener that fails as systems do, in virtual time."""

import errno
import logging
import os

import pytest
import trio
from multiaddr import Multiaddr

from pyp2p.peer.address import parse_multiaddr
from pyp2p.switch.accept import accept_loop
from pyp2p.testing import Sim, simulated

EXHAUSTED = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
PASSING = [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT]


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Script:
    """A listener whose `accept` follows a list of errors, connections (any string) and waits (seconds), then closes."""

    address: Multiaddr = parse_multiaddr("/ip4/192.0.2.1/tcp/4001")

    def __init__(self, *steps: OSError | str | float) -> None:
        self.asked_at: list[float] = []
        self.accepted: list[str] = []
        self._steps = list(steps)

    async def accept(self) -> str:
        self.asked_at.append(trio.current_time())
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, OSError):
                raise step
            if isinstance(step, str):
                await trio.lowlevel.checkpoint()
                return step
            await trio.sleep(step)
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        await accept_loop(self, self.accepted.append)

    @property
    def pauses(self) -> list[float]:
        """Seconds between one call of `accept` and the next."""
        return [later - earlier for earlier, later in zip(self.asked_at, self.asked_at[1:], strict=False)]


@pytest.fixture
def paused(caplog: pytest.LogCaptureFixture):
    """The seconds that were announced as pauses so far."""
    caplog.set_level(logging.DEBUG, "pyp2p.accept")
    return lambda: [record.args[1] for record in caplog.records if record.levelno == logging.WARNING]


@simulated(seeds=(1,))
async def test_each_connection_is_handed_over_until_the_listener_is_closed(sim: Sim, paused) -> None:
    listener = Script("a", 3.0, "b", "c")
    await listener.run()
    assert listener.accepted == ["a", "b", "c"]
    assert listener.asked_at == [0, 0, 3, 3]
    assert paused() == []


@pytest.mark.parametrize("number", EXHAUSTED, ids=errno.errorcode.get)
@simulated(seeds=(1,))
async def test_hostile_092_exhaustion_pauses_longer_and_longer_and_ends(sim: Sim, number: int, paused) -> None:
    listener = Script(*[failure(number)] * 8, "a")
    await listener.run()
    assert listener.pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1, 1, 1, 0])
    assert listener.accepted == ["a"]
    assert paused() == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1])  # one line per pause that grew, not per pause


@simulated(seeds=(1,))
async def test_after_a_connection_the_pauses_begin_small_again(sim: Sim, paused) -> None:
    full = failure(errno.EMFILE)
    listener = Script(full, full, full, "a", full, full, "b")
    await listener.run()
    assert listener.pauses == pytest.approx([0.05, 0.1, 0.2, 0, 0.05, 0.1, 0])
    assert listener.accepted == ["a", "b"]
    assert paused() == pytest.approx([0.05, 0.1, 0.2, 0.05, 0.1])


@pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
@simulated(seeds=(1,))
async def test_hostile_092_an_error_of_one_connection_costs_no_time(sim: Sim, number: int, paused, caplog) -> None:
    listener = Script("a", failure(number), failure(number), "b", failure(number), "c")
    await listener.run()
    assert listener.accepted == ["a", "b", "c"]
    assert trio.current_time() == 0
    assert paused() == []
    assert [record.levelno for record in caplog.records] == [logging.DEBUG] * 3


@simulated(seeds=(1,))
async def test_an_aborted_connection_between_does_not_end_the_shortage(sim: Sim, paused) -> None:
    full, aborted = failure(errno.EMFILE), failure(errno.ECONNABORTED)
    listener = Script(full, full, aborted, full, "a")
    await listener.run()
    assert listener.pauses == pytest.approx([0.05, 0.1, 0, 0.2, 0])
    assert listener.accepted == ["a"]


@simulated(seeds=(1,))
async def test_a_listener_closed_during_a_pause_ends_the_loop_after_it(sim: Sim, paused) -> None:
    listener = Script(failure(errno.EMFILE))
    await listener.run()
    assert trio.current_time() == pytest.approx(0.05)
    assert listener.accepted == []


class Endless(Script):
    """A listener that fails the same way, without an await, as often as it is asked."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._error = failure(number)

    async def accept(self) -> str:
        self.asked_at.append(trio.current_time())
        raise self._error


@simulated(seeds=(1,))
async def test_a_storm_of_aborted_connections_lets_others_work_and_can_be_cancelled(sim: Sim) -> None:
    listener = Endless(errno.ECONNABORTED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        for _ in range(100):
            await trio.lowlevel.checkpoint()  # would never come back
        assert 50 <= len(listener.asked_at) <= 200
        nursery.cancel_scope.cancel()


@simulated(seeds=(1,))
async def test_a_pause_can_be_cancelled(sim: Sim) -> None:
    listener = Endless(errno.EMFILE)
    with trio.move_on_at(100.3) as scope:
        await listener.run()
    assert scope.cancelled_caught
    assert trio.current_time() == 100.3
    assert len(listener.asked_at) == 5 + 99  # five that grow to 1.55 s, then one a second


@simulated(seeds=(1,))
async def test_waiting_can_be_cancelled_and_hands_over_nothing(sim: Sim) -> None:
    listener = Script(1000.0, "a")
    with trio.move_on_after(1) as scope:
        await listener.run()
    assert scope.cancelled_caught
    assert listener.accepted == []


@simulated(seeds=(1,))
async def test_what_is_no_error_of_the_system_is_not_hidden(sim: Sim) -> None:
    class Broken(Script):
        async def accept(self) -> str:
            raise KeyError("a defect of a transport")

    with pytest.raises(KeyError):
        await Broken().run()


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL, errno.ECONNABORTED])
@simulated(seeds=(1,))
async def test_hostile_092_an_error_that_does_not_pass_is_no_busy_loop(sim: Sim, number: int) -> None:
    script = Script(*(failure(number) for _ in range(110)), "at last", failure(number), "again")
    await script.run()
    assert script.accepted == ["at last", "again"]
    assert sum(pause > 0 for pause in script.pauses) == 11
    assert trio.current_time() > 1
