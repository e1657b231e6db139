"""Honest routers by the hundred: everything arrives, with links that are cut, links that are slow, and without push."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.types import Lane, Send
from tests.sim.gossip import PARAMS, TOPIC, Node, World

pytestmark = pytest.mark.slow

DEGREE = 20
BEAT = PARAMS.heartbeat_interval


def honest(world: World, count: int, make: type[Node] = Node) -> list[Node]:
    """So many routers, connected at random, a few heartbeats later."""
    nodes = [world.add(make) for _ in range(count)]
    world.wire(nodes, DEGREE)
    world.run(5 * BEAT)
    return nodes


def digest(seed: int) -> str:
    """All deliveries of a run, with their times."""
    world = World(seed)
    nodes = honest(world, 60)
    world.publish_at_random(nodes, 2, 10)
    world.run(15)
    hashed = hashlib.sha256()
    for ident, record in world.published.items():
        hashed.update(ident + repr((record.at, record.by, sorted(record.arrived.items()))).encode())
    return hashed.hexdigest()


def test_a_thousand_routers_deliver_everything() -> None:
    world = World(1)
    nodes = honest(world, 1000)
    world.publish_at_random(nodes, 1, 60)
    world.run(60 + 5)
    print(f"duplicates {world.duplicates(nodes):.2f} per message and node, {world.hops():.2f} hops")
    assert len(world.published) == 60
    assert world.reached(nodes) == 1.0
    assert world.reached(nodes, within=5 * BEAT) == 1.0
    assert 3 < world.hops() < 7  # log(1000) to the base of a mesh of 6 to 8 is 3.3 to 3.9
    assert 3 < world.duplicates(nodes) < PARAMS.d_high
    assert all(PARAMS.d_low <= len(list(node.router.mesh.peers(TOPIC))) <= PARAMS.d_high for node in nodes)


def test_cut_and_slow_links_lose_next_to_nothing() -> None:
    world = World(2)
    nodes = honest(world, 300)
    for node in nodes:
        for number, link in node.links.items():
            if world.rng.random() < 0.1:
                link.latency = world.nodes[number].links[node.number].latency = 1.0

    def cut() -> None:
        """One link in two hundred goes, both ways; each end dials somebody else."""
        for _ in range(len(nodes) * DEGREE // 2 // 200):
            one = world.rng.choice(nodes)
            other = world.nodes[world.rng.choice(list(one.links))]
            world.disconnect(one, other)
            for end in (one, other):
                world.connect(end, world.rng.choice(nodes))
        world.at(world.now + 1, cut)

    cut()
    world.publish_at_random(nodes, 1, 60)
    world.run(60 + 5 * BEAT)
    part = world.reached(nodes, within=5 * BEAT)
    print(f"{part:.5f} within 5 heartbeats, duplicates {world.duplicates(nodes):.2f}, {world.hops():.2f} hops")
    assert part >= 0.999


class Tight(Node):
    """Pushes nothing: what it has goes to those who ask."""

    def may_send(self, effect: Send, peer: PeerId) -> bool:
        return effect.lane not in (Lane.OWN, Lane.FORWARDED) or peer.raw[-1] % 4 != 0  # of four peers one gets no push


def test_what_is_not_pushed_is_asked_for() -> None:
    world = World(3)
    nodes = honest(world, 100, Tight)
    world.publish_at_random(nodes, 1, 20)
    world.run(20 + 10 * BEAT)
    starved = [node for node in nodes if node.peer.raw[-1] % 4 == 0]
    asked = sum(node.router.counters["promised", TOPIC] for node in starved)
    assert asked > 0.8 * 20 * len(starved)
    assert sum(node.router.counters["promise broken", TOPIC] for node in nodes) == 0
    assert world.reached(nodes) == 1.0


def test_a_seed_decides_everything() -> None:
    assert digest(7) == digest(7)
    assert digest(7) != digest(8)


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_a_seed_decides_everything_in_another_process_too(hash_seed: str) -> None:
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", "from tests.sim.test_gossip import digest; print(digest(7))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
    )
    assert done.stdout.strip() == digest(7)
