"""Honest routers by the hundred: everything arrives, over bad links too, by gossip alone, and the same in every run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.types import Lane, Send
from tests.sim.gossip import PARAMS, SCORE, TOPIC, Node, World

pytestmark = pytest.mark.slow

BEAT = PARAMS.heartbeat_interval


def honest_world(seed: int, count: int, degree: int = 20, **options: object) -> World:
    """A world in which every mesh stands."""
    world = World(seed, **options)  # type: ignore[arg-type]
    for _ in range(count):
        world.add()
    world.wire(world.nodes, degree)
    world.run(5)
    return world


def test_a_thousand_routers_deliver_everything():
    world = honest_world(1, 1000)
    world.publish_at_random(world.nodes, rate=1, seconds=55)
    world.run(60)
    world.report("1,000 routers", world.nodes)
    assert len(world.published) == 55
    assert world.reached(world.nodes, within=5 * BEAT) == 1
    mean, most = world.hops()
    assert 3 < mean < 6 and most <= 12
    assert PARAMS.d_low - 2 < world.duplicates(world.nodes) < PARAMS.d_high - 1


def test_messages_arrive_over_links_that_are_slow_or_cut():
    world = honest_world(2, 200, score=SCORE)
    rng = world.rng
    for node in world.nodes:
        for number, link in node.links.items():
            if number > node.number and rng.random() < 0.1:
                link.latency = world.nodes[number].links[node.number].latency = 1.0
    cuts = 0

    def cut_some() -> None:
        nonlocal cuts
        for node in rng.sample(world.nodes, 20):  # about one link in a hundred, each second
            other = world.nodes[rng.choice(list(node.links))]
            world.disconnect(node, other)
            cuts += 1
            for lonely in (node, other):
                fresh = rng.choice(world.nodes)
                world.at(world.now + rng.uniform(0.5, 2), world.connect, lonely, fresh)

    world.every_beat(cut_some)
    world.publish_at_random(world.nodes, rate=1, seconds=55)
    world.run(60)
    in_time = world.reached(world.nodes, within=5 * BEAT)
    world.report("cut and slow links", world.nodes, in_time=in_time, cuts=cuts)
    assert cuts > 1000
    assert in_time >= 0.999
    assert world.lowest > world.thresholds.gossip


class Withholder(Node):
    """Pushes nothing to the deaf ones; tells them what it has, and answers them."""

    def may_send(self, effect: Send, peer: PeerId) -> bool:
        deaf = self.world.by_peer[peer].number < 20
        return not (deaf and effect.lane in (Lane.OWN, Lane.FORWARDED))


def test_who_is_pushed_nothing_gets_everything_by_asking():
    world = World(3)
    for _ in range(100):
        world.add(Withholder)
    world.wire(world.nodes, 20)
    world.run(5)
    deaf, others = world.nodes[:20], world.nodes[20:]
    world.publish_at_random(others, rate=1, seconds=55)
    world.run(60)
    promised = min(sum(n for (what, _), n in node.router.counters.items() if what == "promised") for node in deaf)
    broken = sum(n for node in deaf for (what, _), n in node.router.counters.items() if what == "promise broken")
    world.report("by IHAVE and IWANT alone", world.nodes, promised=promised, broken=broken)
    assert world.reached(deaf, within=5 * BEAT) == 1
    assert world.reached(others) == 1
    assert promised >= 55 / 3 and not broken


def test_an_own_message_goes_out_while_the_mesh_is_small():
    world = honest_world(6, 8)
    node, *others = world.nodes
    for other in others:
        node.router.mesh.pruned(other.peer, TOPIC, None, world.now)
    assert not node.mesh()
    publication = node.router.publish(TOPIC, bytes(100), world.now)
    assert len(publication.peers) == PARAMS.d == len(set(publication.peers))


SAME = """
from tests.sim.test_gossip import honest_world
for seed in (4, 5):
    world = honest_world(seed, 60)
    world.publish_at_random(world.nodes, rate=2, seconds=20)
    world.run(25)
    print(world.digest(), world.reached(world.nodes))
"""


def test_the_same_seed_gives_the_same_run_in_every_process():
    told = []
    for hash_seed in "12":
        done = subprocess.run(
            [sys.executable, "-c", SAME],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        told.append(done.stdout.split())
    assert told[0] == told[1]
    assert told[0][0] != told[0][2] and told[0][1] == "1.0"
