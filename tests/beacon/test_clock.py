"""Slots by the wall clock: where in time a chain is, and waiting for the next slot when clocks jump."""

import pytest
import trio

from pyp2p.beacon.clock import SlotClock
from pyp2p.beacon.devchain import dev_chain

GENESIS = 1000


class Wall:
    """A wall clock that somebody sets."""

    def __init__(self, start: float) -> None:
        self.offset = start - trio.current_time()

    def __call__(self) -> float:
        return self.offset + trio.current_time()


def clock_at(seconds: float) -> tuple[SlotClock, Wall]:
    wall = Wall(GENESIS + seconds)
    return SlotClock(dev_chain(GENESIS, epochs_per_fork=1), wall), wall  # 2 s slots, 8 to an epoch


@pytest.mark.parametrize(
    ("seconds", "slot", "epoch", "fork"),
    [
        (-100, -50, 0, "altair"),
        (-0.5, -1, 0, "altair"),
        (0, 0, 0, "altair"),
        (1.9, 0, 0, "altair"),
        (15.9, 7, 0, "altair"),
        (16, 8, 1, "bellatrix"),
        (1e9, 500_000_000, 62_500_000, "fulu"),
    ],
)
async def test_where_in_time_the_chain_is(autojump_clock, seconds: float, slot: int, epoch: int, fork: str) -> None:
    clock, _ = clock_at(seconds)
    assert (clock.slot, clock.epoch, clock.period.fork) == (slot, epoch, fork)


async def test_seconds_until_a_slot(autojump_clock) -> None:
    clock, _ = clock_at(3)
    assert [clock.seconds_until(slot) for slot in (0, 1, 2, 100)] == pytest.approx([-3, -1, 1, 197])


async def test_slots_come_one_after_the_other_at_their_start(autojump_clock) -> None:
    clock, wall = clock_at(-3)
    seen = []
    for _ in range(5):
        slot = await clock.next_slot()
        seen.append((slot, round(wall() - GENESIS, 3)))
    assert seen == [(-1, -2), (0, 0), (1, 2), (2, 4), (3, 6)]


async def test_whoever_is_late_misses_some(autojump_clock) -> None:
    clock, _ = clock_at(0.5)
    assert await clock.next_slot() == 1
    await trio.sleep(7)
    assert await clock.next_slot() == 5


async def test_a_long_wait_notices_that_the_clock_was_set(autojump_clock) -> None:
    clock, wall = clock_at(-86_400)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def set_clock() -> None:
            await trio.sleep(30)
            wall.offset += 86_400 - 31

        nursery.start_soon(set_clock)
        for _ in range(100):
            if await clock.next_slot() >= 0:
                break
    assert trio.current_time() - begun < 120


async def test_a_clock_that_goes_back_never_gives_a_slot_that_has_not_come(autojump_clock) -> None:
    clock, wall = clock_at(10.5)
    wall.offset -= 6
    slot = await clock.next_slot()
    assert slot == 3
    assert wall() >= GENESIS + 6
