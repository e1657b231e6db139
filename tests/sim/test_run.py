"""Seeded runs: trio's private names, the note on failure, the decorator."""

import inspect
import random

import pytest
import trio

from pyp2p.testing.run import SEED_VARIABLE, Sim, run_sim, seeded_scheduler, simulated


def test_the_private_names_of_trio_that_seeding_uses_are_still_there() -> None:
    """When this fails, trio has changed: `seeded_scheduler` must be adapted, or seeds repeat nothing."""
    run = trio._core._run
    assert isinstance(run._r, random.Random)
    assert isinstance(run._ALLOW_DETERMINISTIC_SCHEDULING, bool)
    source = inspect.getsource(run)
    assert "if _ALLOW_DETERMINISTIC_SCHEDULING:" in source
    assert "_r.shuffle(batch)" in source or "_r.random() < 0.5" in source


def order_of_tasks() -> list[int]:
    """What trio's scheduler decides: the order in which 20 tasks take 20 turns."""
    order: list[int] = []

    async def turn(number: int) -> None:
        for _ in range(20):
            order.append(number)
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(turn, number)

    trio.run(main)
    return order


def test_seeding_decides_the_order_of_tasks() -> None:
    runs = []
    for seed in (1, 1, 2):
        with seeded_scheduler(seed):
            runs.append(order_of_tasks())
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("before", [True, False])
def test_seeding_is_undone(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trio._core._run
    monkeypatch.setattr(run, "_ALLOW_DETERMINISTIC_SCHEDULING", before)
    state = run._r.getstate()
    with seeded_scheduler(5):
        assert run._ALLOW_DETERMINISTIC_SCHEDULING is True
        assert run._r.getstate() != state
    assert run._ALLOW_DETERMINISTIC_SCHEDULING is before
    assert run._r.getstate() == state


def test_a_failure_says_how_to_repeat_it() -> None:
    async def fails(sim: Sim) -> None:
        await trio.sleep(10)
        raise KeyError("bad luck")

    with pytest.raises(KeyError) as caught:
        run_sim(fails, 42)
    assert caught.value.__notes__ == [
        "simulation with seed 42; to repeat it: scripts/sim --seed 42 -k test_a_failure_says_how_to_repeat_it"
    ]


def test_the_result_and_the_arguments_pass_through() -> None:
    async def adds(sim: Sim, one: int, *, two: int) -> tuple[int, int]:
        return sim.seed, one + two

    assert run_sim(adds, 3, 1, two=2) == (3, 3)


def test_the_decorator_runs_each_seed_or_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[tuple[int, int]] = []

    @simulated(seeds=(4, 5))
    async def scene(sim: Sim, number: int) -> None:
        seeds.append((sim.seed, number))

    monkeypatch.delenv(SEED_VARIABLE, raising=False)
    scene(number=1)
    monkeypatch.setenv(SEED_VARIABLE, "9")
    scene(number=2)
    assert seeds == [(4, 1), (5, 1), (9, 2)]
    assert not inspect.iscoroutinefunction(scene)
    assert list(inspect.signature(scene).parameters) == ["number"]
    assert scene.__name__ == "scene"
