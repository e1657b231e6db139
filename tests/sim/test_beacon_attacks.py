"""A fifth of the nodes is hostile, each kind alone: they are shed, and no honest node misses a block or a good name.

Where a defence can be taken away by itself, a smaller world shows what happens without it.
"""

import pytest
import trio

from pyp2p.beacon.config import ADMISSION
from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.peers import PeerManager
from pyp2p.reqresp.declare import Limits
from pyp2p.switch.config import Limits as SwitchLimits
from pyp2p.switch.config import SwitchConfig, Timeouts
from pyp2p.testing import Sim, simulated
from pyp2p.testing.run import EPOCH
from tests.beacon.support import hear
from tests.sim.beacon import Node, World, world
from tests.sim.beacon_attackers import (
    Habit,
    garbage,
    goodbye_spammer,
    quota_abuser,
    staller,
    status_liar,
    wrong_digest,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HONEST, HOSTILE = 12, 3
FEW = (4, 1)  # of each, where the defence is off


async def under_attack(
    sim: Sim, habit: Habit, slots: int, *, counts: tuple[int, int] = (HONEST, HOSTILE), **settings
) -> tuple[World, list[Node], list[float]]:
    """Blocks are made while they attack; also returns how long each stay of a hostile peer was, those under way too.

    Each hostile node's `sent_away` holds who said goodbye to it, and with which code.
    """
    chain = dev_chain(int(EPOCH), epochs_per_fork=100)
    honest_ones, hostile_ones = counts
    async with world(sim, chain, honest_ones, **{"target": 8, **settings}) as some, trio.open_nursery() as nursery:
        await some.slots(5)
        hostile = []
        for _ in range(hostile_ones):
            node = await some.add(honest=False, target=14, requests=Limits(quotas=False))
            node.sent_away = hear(node.net)
            nursery.start_soon(habit, node, list(some.nodes))
            hostile.append(node)
        await some.slots(slots, list(some.nodes))
        assert some.missing() == [] and some.late == []
        assert some.worst_score() >= 0
        now, stays = trio.current_time(), []
        for node in some.nodes:
            for bad in hostile:
                stays += node.stays(bad.peer)
                stays += [now - each.since for each in node.net.peering.manager.peers(now) if each.peer == bad.peer]
        nursery.cancel_scope.cancel()
    return some, hostile, stays


@pytest.mark.hostile
@pytest.mark.parametrize("habit", [wrong_digest, status_liar], ids=lambda habit: habit.__name__)
@simulated(seeds=(1,))
async def test_hostile_085_a_false_status_is_never_a_peer_for_more_than_a_second(sim: Sim, habit: Habit):
    # There is a place for everybody: else most liars would be refused for that.
    some, hostile, stays = await under_attack(sim, habit, 10, target=HONEST + HOSTILE)
    assert max(stays, default=0) <= 1.0
    for liar in hostile:  # it came to all, and was told by all why it cannot stay
        refused = {peer for peer, code in liar.sent_away if code == GoodbyeReason.IRRELEVANT_NETWORK}
        assert refused >= {node.peer for node in some.nodes}


@pytest.mark.parametrize("habit", [wrong_digest, status_liar], ids=lambda habit: habit.__name__)
@simulated(seeds=(1,))
async def test_a_false_status_that_nobody_looks_at_stays(sim: Sim, habit: Habit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pyp2p.beacon.network.irrelevance", lambda *facts: None)
    _, _, stays = await under_attack(sim, habit, 10, counts=FEW)
    assert max(stays) > 15.0


@pytest.mark.hostile
@simulated(seeds=(1,))
async def test_hostile_083_who_serves_garbage_is_gone_within_10_seconds(sim: Sim):
    _, _, stays = await under_attack(sim, garbage, 15)
    assert stays and max(stays) <= 10.0


@pytest.mark.hostile
@simulated(seeds=(1,))
async def test_hostile_084_who_never_answers_is_gone_within_130_seconds(sim: Sim):
    # A ping each 15 s that waits for 10: four cost 19.2 by then, since faults fade, so it takes a fifth at 125 s.
    _, _, stays = await under_attack(sim, staller, 70)
    assert stays and max(stays) <= 130.0


@simulated(seeds=(1,))
async def test_who_never_answers_stays_when_pings_cost_nothing(sim: Sim, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PeerManager, "ping_failed", lambda manager, peer, now: None)
    _, _, stays = await under_attack(sim, staller, 80, counts=FEW)
    assert max(stays) > 150.0


def allowed(stays: list[float]) -> float:
    """Chunks that the quota of blocks by range gives peers who stayed so long: 1,024 at once, as many again in 10 s."""
    return sum(1024 + 102.4 * seconds for seconds in stays)


@pytest.mark.hostile
@simulated(seeds=(1,))
async def test_hostile_080_who_asks_without_end_gets_no_more_than_the_quota(sim: Sim):
    _, hostile, stays = await under_attack(sim, quota_abuser, 25)
    assert 0 < sum(bad.taken for bad in hostile) <= allowed(stays)


@simulated(seeds=(1,))
async def test_without_quotas_it_would_get_more(sim: Sim):
    _, hostile, stays = await under_attack(sim, quota_abuser, 25, requests=Limits(quotas=False))
    assert sum(bad.taken for bad in hostile) > 1.5 * allowed(stays)


def visits(slots: int) -> float:
    """How often one peer comes in at most in so many slots: a status in three seconds, after five at once."""
    return 5 + (slots + 1) * 2.0 / 3


@pytest.mark.hostile
@simulated(seeds=(1,))
async def test_hostile_080_who_says_goodbye_all_the_time_disturbs_nobody_and_comes_in_slowly(sim: Sim):
    # How long it stays is its own affair.
    _, _, stays = await under_attack(sim, goodbye_spammer, 15)
    assert HONEST < len(stays) <= HONEST * HOSTILE * visits(15)


@simulated(seeds=(1,))
async def test_without_quotas_and_the_rate_of_an_address_it_would_come_in_all_the_time(sim: Sim):
    endless = SwitchConfig(limits=SwitchLimits(ip_burst=10_000, ip_rate=1000.0), timeouts=Timeouts(admission=ADMISSION))
    settings = {"requests": Limits(quotas=False), "switch": endless}
    _, _, stays = await under_attack(sim, goodbye_spammer, 15, counts=FEW, **settings)
    assert len(stays) > 2 * FEW[0] * FEW[1] * visits(15)
