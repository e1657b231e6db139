"""Runs that repeat: virtual time, seeded scheduling, seeded chance and key material from one number.

Rules: trio's scheduler is seeded through private names of trio, here and nowhere else; a test fails when trio changes
them. Each node draws from streams of its own, named after it, so that one more node does not move the others.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import random
import shlex
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

import trio
import trio.testing

from pyp2p.platform import Platform
from pyp2p.testing.simnet import SimNet

P = ParamSpec("P")
T = TypeVar("T")

EPOCH = 1_750_000_000.0  # the wall clock at the start of each simulation
SEED_VARIABLE = "PYP2P_SIM_SEED"  # runs simulated tests with this seed only
DEFAULT_SEEDS = (1, 2, 3)


class SeededEntropy:
    """A repeatable stream of key material: `entropy(n)` gives the next `n` bytes. For simulations only."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self._count = 0

    def __call__(self, count: int) -> bytes:
        """The next `count` bytes."""
        self._count += 1
        return hashlib.shake_256(b"%d:%s" % (self._count, self._seed)).digest(count)


def simulated_wall() -> float:
    """The simulated wall clock: `EPOCH` plus the virtual time that has passed."""
    return EPOCH + trio.current_time()


@dataclass(slots=True)
class Sim:
    """One simulated world: its seed, its network and what nodes in it use instead of the real platform."""

    seed: int
    net: SimNet
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed}:test")

    def platform(self, name: str) -> Platform:
        """The platform of the node called `name`; asking again starts its streams again."""
        return Platform(
            wall=simulated_wall,
            rng=random.Random(f"{self.seed}:{name}:rng"),
            entropy=SeededEntropy(f"{self.seed}:{name}:entropy"),
        )


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Make trio take the same decisions in each run that is started inside; what was before is put back at the end."""
    run: Any = trio._core._run
    chance: random.Random = run._r
    state, allowed = chance.getstate(), run._ALLOW_DETERMINISTIC_SCHEDULING
    chance.seed(seed)
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        yield
    finally:
        chance.setstate(state)
        run._ALLOW_DETERMINISTIC_SCHEDULING = allowed


def run_sim(scene: Callable[Concatenate[Sim, P], Awaitable[T]], seed: int, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `scene(sim, *args)` in a world of its own and return its result; the same seed gives the same run.

    Time is virtual and jumps whenever all tasks wait. Raises what `scene` raises, not wrapped in groups of one, with a
    note that says how to repeat the run. Nothing in it may wait for a thread or a socket.
    """

    async def main() -> T:
        async with SimNet(seed) as net:
            return await scene(Sim(seed, net), *args, **kwargs)

    with seeded_scheduler(seed):
        try:
            return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        except BaseExceptionGroup as group:  # the network's nursery groups whatever the scene raises
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            error.add_note(_how_to_repeat(seed))
            raise error from error.__cause__


def simulated(
    seeds: Sequence[int] = DEFAULT_SEEDS,
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Turn `async def test(sim, ...)` into a plain test function that runs it once per seed.

    The other parameters stay, so fixtures and parametrisation work. `PYP2P_SIM_SEED` names one seed to run instead.
    """

    def decorate(scene: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        def test(**kwargs: Any) -> None:
            chosen = os.environ.get(SEED_VARIABLE)
            for seed in seeds if chosen is None else (int(chosen),):
                run_sim(functools.partial(scene, **kwargs), seed)

        functools.update_wrapper(test, scene)
        del test.__wrapped__  # type: ignore[attr-defined]  # test runners look through it and would see a coroutine
        signature = inspect.signature(scene)
        test.__signature__ = signature.replace(  # type: ignore[attr-defined]  # where test runners look for fixtures
            parameters=list(signature.parameters.values())[1:], return_annotation=None
        )
        return test

    return decorate


def _how_to_repeat(seed: int) -> str:
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0].rpartition("::")[2].partition("[")[0]
    which = f" -k {shlex.quote(test)}" if test else ""
    return f"simulation with seed {seed}; to repeat it: scripts/sim --seed {seed}{which}"
