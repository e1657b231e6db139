"""Hostile case 101: the soak's judge by tables, and a short soak in virtual time; `scripts/soak` is the long one."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import trio

from pyp2p.beacon.follow import open_follower
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.testing import LinkQuality, Sim, simulated
from pyp2p.testing.run import EPOCH, simulated_wall
from tests.soak.crowd import Crowd, Victim, follow_attestations
from tests.soak.figures import Figures, bounds, differences, growth, held, remembered, slope
from tests.soak.hostile import ATTACKS, chosen
from tests.soak.node import Scores, accepted, soak_chain, soak_config


def looks(count: int = 20, *, kilobytes=lambda n: 0.0, objects=lambda n: 0.0, entries=lambda n: 0) -> list[Figures]:
    """A calm moment every 6 s."""
    rng = random.Random(1)
    return [
        Figures(
            {}, {"book": entries(n)}, 70_000 + int(kilobytes(n)), 70_000 + int(objects(n)) + rng.randrange(300), n * 6
        )
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("run", "wrong"),
    [
        (looks(), 0),
        (looks(objects=lambda n: 10_000 * (n == 15)), 0),
        (looks(objects=lambda n: 20_000 * (n > 3)), 0),
        (looks(objects=lambda n: 200 * n), 1),
        (looks(600, objects=lambda n: 10 * n), 1),
        (looks(kilobytes=lambda n: 600 * n), 1),
        (looks(600, kilobytes=lambda n: 60 * n), 1),
        (looks(objects=lambda n: 200 * n, kilobytes=lambda n: 20 * n, entries=lambda n: 20 * n), 0),
        (looks(4), 1),
    ],
    ids=["flat", "one peak", "warm", "objects", "an hour of few", "memory", "an hour of little", "tables", "too short"],
)
def test_growth_is_seen_and_noise_is_not(run: list[Figures], wrong: int) -> None:
    assert len(growth(run)) == wrong


def test_the_slope_is_that_of_most_points() -> None:
    assert slope([(0, 0), (1, 2), (2, 100), (3, 6), (4, 8)]) == 2


def test_every_kind_of_attack_has_its_turn() -> None:
    names = [name for number in range(len(ATTACKS)) for name, _ in chosen(number, 20)]
    assert len(names) == 2 * len(ATTACKS)
    assert set(names) == set(ATTACKS)


class Simulated:
    """Hosts of the simulated network."""

    def __init__(self, sim: Sim) -> None:
        self._sim = sim

    def stack(self, name: str) -> dict[str, Any]:
        host = self._sim.net.host(name)
        return {"transports": [host.transport], "platform": self._sim.platform(name), "bind": host.bind_udp}

    def listen(self, name: str) -> tuple[tuple[str, int], ...]:
        return ((self._sim.net.host(name).ips[0], 9000),)

    def wall(self) -> float:
        return simulated_wall()


@pytest.mark.hostile
@pytest.mark.slow
@simulated(seeds=(1,))
async def test_hostile_101_everybody_comes_and_goes_and_nothing_stays(sim: Sim) -> None:
    """Each kind of attack once, among honest peers: these are served, and afterwards the node holds what it held."""
    sim.net.quality = LinkQuality(latency=0.02)
    world = Simulated(sim)
    genesis = int(EPOCH) - 2
    config = replace(soak_config(genesis, 20), listen=world.listen("victim"))
    async with (
        BeaconNetwork(config, **world.stack("victim")) as net,
        open_follower(net) as follower,
        trio.open_nursery() as nursery,
    ):
        scores = Scores(net)
        await nursery.start(follow_attestations, net)
        nursery.start_soon(scores.watch)
        assert net.enr is not None and net.enr.udp is not None
        victim = Victim(net.peer, tuple(net.switch.multiaddrs), (config.listen[0][0], net.enr.udp), soak_chain(genesis))
        crowd = Crowd(world, victim, seed=1)
        async with AsyncExitStack() as stack:
            await crowd.gather(4, stack)
            await trio.sleep(6)
            start = held(net)
            for number in range(len(ATTACKS) // 4 + 1):
                await crowd.round(6.0, 10.0, chosen(number, 40))
                with trio.move_on_after(20):
                    while held(net) != start:
                        await crowd.calm()
                        await trio.sleep(0.1)
                assert not differences(start, held(net))
                assert not crowd.tally.failures
            assert set(crowd.tally.hostile) == set(ATTACKS)
            assert scores.worst >= 0
            assert accepted(net) >= 0.95 * crowd.tally.published > 0
            assert follower.tree.head.slot >= crowd.maker.tree.head.slot - 1
            most = bounds(net)
            assert all(remembered(net, follower)[name] <= most[name] for name in most)
            assert not [what for what in net.reqresp.counters if what[0] == "crashed"]
        nursery.cancel_scope.cancel()
