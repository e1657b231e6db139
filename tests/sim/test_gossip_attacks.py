"""Attacks on gossip, each twice: with its defence, and without, to see the damage that the defence prevents.

In every defended run no honest node may think so ill of another honest one that gossip with it would end.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from pyp2p.pubsub.backoffs import Backoffs
from pyp2p.pubsub.params import ScoreParams
from tests.sim.gossip import TOPIC, Node, World
from tests.sim.gossip_attackers import (
    SCORE,
    SCORED,
    UNSCORED,
    Beggar,
    Flash,
    Flooder,
    Inventor,
    Promiser,
    Regrafter,
    Silent,
)

pytestmark = [pytest.mark.slow, pytest.mark.hostile]

DEGREE = 20
defended = pytest.mark.parametrize("defence", [True, False], ids=["defended", "undefended"])


def crowd(
    honest: int,
    hostile: int = 0,
    make: Callable[[World, int], Node] = Silent,
    *,
    score: ScoreParams | None = SCORE,
    seed: int = 1,
    first: bool = False,
    **params: object,
) -> tuple[World, list[Node], list[Node]]:
    """Honest nodes among each other, and attackers that each dial twenty of them (`first`: before the others do)."""
    world = World(seed, score=score, params=replace(SCORED, **params))
    good = [world.add() for _ in range(honest)]
    bad = [world.add(make) for _ in range(hostile)]

    def attack() -> None:
        for node in bad:
            for victim in world.rng.sample(good, min(DEGREE, len(good))):
                world.connect(node, victim)

    if first:
        attack()
    for node in good:
        for other in world.rng.sample(good, DEGREE // 2 + 1):
            world.connect(node, other)
    if not first:
        attack()
    return world, good, bad


def _settings(defence: bool) -> dict[str, object]:
    """Scoring and the quota of connections that we opened: what keeps places in the mesh for the honest."""
    return {"score": SCORE} if defence else {"score": UNSCORED, "d_out": 0}


def mesh(node: Node) -> list[Node]:
    return [node.world.by_peer[peer] for peer in node.router.mesh.peers(TOPIC)]


def lowest(nodes: Iterable[Node], of: Callable[[Node], bool]) -> float:
    """The lowest score that one of `nodes` gives to a neighbour of the kind."""
    return min(
        (
            node.router.score.score(node.world.nodes[number].peer)
            for node in nodes
            for number in node.links
            if of(node.world.nodes[number])
        ),
        default=0.0,
    )


def honest_think_well(good: list[Node]) -> bool:
    return lowest(good, lambda node: node.honest) >= good[0].world.thresholds.gossip


def hostile_share(good: list[Node]) -> float:
    """The part of all mesh places that attackers have."""
    places = [member for node in good for member in mesh(node)]
    return sum(not member.honest for member in places) / len(places)


def behaviour(node: Node, other: Node) -> float:
    return node.router.score.components(other.peer).p7


@defended
def test_graft_in_backoff(defence: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not defence:
        monkeypatch.setattr(Backoffs, "until", lambda self, topic, peer: None)
    world, good, bad = crowd(150, 5, Regrafter)
    world.run(1)
    inside = 0
    for _ in range(60):
        world.run(1)
        inside += sum(not member.honest for node in good for member in mesh(node))
    victims = [(world.nodes[number], node) for node in bad for number in node.links]
    if not defence:
        assert inside > 5 * len(victims)
        return
    assert inside == 0
    for victim, node in victims:
        assert behaviour(victim, node) > 0
        assert victim.router.score.score(node.peer) < 0
        until = victim.router.mesh.backoffs.until(TOPIC, node.peer)
        assert until is not None and until > 65  # attempts begin it anew, until the attacker is not listened to at all
    assert honest_think_well(good)


def test_an_honest_graft_one_heartbeat_after_the_backoff_is_welcome() -> None:
    world, good, _ = crowd(150)
    world.run(20)
    gone = good[:30]
    for node in gone:
        node.router.unsubscribe(TOPIC, world.now)
        node.flush(world.now)
    world.run(1)
    for node in gone:
        node.router.subscribe(TOPIC, world.now)
        node.flush(world.now)
    world.run(15)
    assert all(len(mesh(node)) >= SCORED.d_low for node in gone)
    assert all(behaviour(world.nodes[number], node) == 0 for node in good for number in node.links)


@defended
def test_ihave_flood(defence: bool) -> None:
    limits = {} if defence else {"max_ihave_messages": 10**6, "max_ihave_ids": 10**6}
    world, good, bad = crowd(15, 1, Flooder, score=UNSCORED, **limits)
    world.run(6)
    asked = [counts for node in bad for counts in node.asked.values()]
    assert asked
    if not defence:
        assert max(sum(counts) for counts in asked) > 2 * SCORED.max_ihave_ids
        return
    assert max(sum(counts) for counts in asked) <= 2 * SCORED.max_ihave_ids  # two heartbeats may fall in one second
    for victim in good:
        heeded = victim.router.counters["promised", TOPIC]
        assert heeded <= 2 * 7 * SCORED.max_ihave_messages
    world.publish_at_random(good, 1, 10)
    world.run(15)
    assert world.reached(good) == 1.0


@defended
def test_iwant_flood(defence: bool) -> None:
    limits = {} if defence else {"gossip_retransmission": 10**6}
    world, good, bad = crowd(60, 3, Beggar, **limits)
    world.run(5)
    world.publish_at_random(good, 1, 20)
    world.run(25)
    most = max(count for node in bad for count in node.copies.values())
    if not defence:
        assert most > 100
        return
    assert most <= SCORED.gossip_retransmission + 1  # and the push, where it is in the mesh
    assert world.reached(good) == 1.0
    assert honest_think_well(good)


@defended
def test_broken_promises(defence: bool) -> None:
    score = SCORE if defence else replace(SCORE, behaviour_penalty_weight=0.0)
    world, good, bad = crowd(150, 10, Promiser, score=score)
    world.run(20)
    victims = [(world.nodes[number], node) for node in bad for number in node.links]
    graylisted = [victim.router.score.score(node.peer) < world.thresholds.graylist for victim, node in victims]
    if not defence:
        assert not any(graylisted)
        assert all(victim.router.counters["promise broken", TOPIC] > 10 for victim, _ in victims)
        return
    assert all(graylisted)
    assert honest_think_well(good)


@defended
@pytest.mark.parametrize("where", ["one address", "many addresses"])
def test_sybils_that_send_invalid_messages(defence: bool, where: str) -> None:
    def make(world: World, number: int) -> Node:
        return Inventor(world, number, "10.99.0.1" if where == "one address" else None)

    world, good, bad = crowd(40, 160, make, score=SCORE if defence else UNSCORED)
    world.publish_at_random(good, 1, 120)
    world.run(60)
    before = sum(node.router.counters["rejected", TOPIC] for node in good)
    world.run(65)
    later = sum(node.router.counters["rejected", TOPIC] for node in good) - before
    sent = 65 * sum(len(node.links) for node in bad)
    if not defence:
        assert later > 0.9 * sent
        return
    assert later < 0.05 * sent  # who sent five is not listened to, until that fades
    assert hostile_share(good) == 0
    assert world.reached(good, within=5.0) >= 0.999
    assert honest_think_well(good)


@defended
@pytest.mark.parametrize("where", ["one address", "many addresses"])
def test_sybils_that_forward_nothing(defence: bool, where: str) -> None:
    def make(world: World, number: int) -> Node:
        return Silent(world, number, "10.99.0.1" if where == "one address" else None)

    world, good, bad = crowd(40, 160, make, first=True, **_settings(defence))
    world.publish_at_random(good, 1, 120)
    world.run(125)
    if not defence:
        assert hostile_share(good) > 0.9
        assert world.reached(good, within=1.0, since=60) < 0.5
        return
    if where == "one address":
        assert all(
            node.router.score.components(other.peer).p6 > 0
            for node in good
            for other in bad
            if sum(not world.nodes[number].honest for number in node.links) > SCORE.ip_colocation_threshold
            and other.number in node.links
        )
    assert hostile_share(good) < (0.05 if where == "one address" else 0.7)  # fresh ones take turns
    assert world.reached(good, within=1.0, since=60) >= 0.999
    assert honest_think_well(good)


@defended
def test_eclipse(defence: bool) -> None:
    """Most of the target's links are hostile, and were there first."""
    world, good, bad = crowd(150, **_settings(defence))
    world.run(10)
    target = world.add()
    bad = [world.add(Silent) for _ in range(12)]
    for node in bad:
        world.connect(node, target)
    world.run(1)
    assert len(mesh(target)) == 12
    for friend in world.rng.sample(good, 8):
        # Whom the target dialled itself has a place kept for it: the undefended one waits to be dialled.
        world.connect(*((target, friend) if defence else (friend, target)))
    world.publish_at_random(good, 1, 120)
    world.run(9)
    inside = [member for member in mesh(target) if not member.honest]  # the others made room for friends
    worst = dict.fromkeys((node.peer for node in inside), 0.0)
    for _ in range(23):
        world.run(5)
        worst = {peer: min(score, target.router.score.score(peer)) for peer, score in worst.items()}
    soon = world.reached([target], within=0.5, since=71)
    print(f"within 0.5 s: {soon:.4f}, {len(inside)} of 12 kept a place for 9 s")
    assert len(inside) > 3
    if not defence:
        assert all(not member.honest for member in mesh(target))
        assert soon < 0.6
        return
    found = mesh(target)
    assert sum(member.honest and target.router.table.get(member.peer).outbound for member in found) >= SCORED.d_out
    assert all(member.honest for member in found)
    assert all(score < 0 for score in worst.values())
    assert world.reached([target], since=71) == 1.0
    assert soon >= 0.999
    assert honest_think_well([*good, target])


@defended
def test_cold_boot_among_twice_as_many_attackers(defence: bool) -> None:
    world, good, _ = crowd(60, 120, first=True, **_settings(defence))
    world.publish_at_random(good, 1, 120)
    world.run(125)
    late = world.reached(good, within=1.0, since=20)
    print(f"within 1 s from the 20th heartbeat on: {late:.4f}, hostile part of the meshes {hostile_share(good):.3f}")
    if not defence:
        assert hostile_share(good) > 0.9
        assert late < 0.5
        return
    assert world.reached(good, within=5.0, since=20) >= 0.99
    assert late >= 0.99
    assert honest_think_well(good)


@defended
def test_covert_flash(defence: bool) -> None:
    """They earn their places, and fall silent together after a minute."""
    world, good, _ = crowd(50, 100, Flash, first=True, **_settings(defence))
    world.publish_at_random(good, 1, 120)
    world.run(59)
    assert hostile_share(good) > 0.4
    scores = [node.router.score.score(world.nodes[n].peer) for node in good for n in node.links if n >= len(good)]
    assert sum(score >= 0 for score in scores) > 0.95 * len(scores)
    world.run(66)
    again = 60 + SCORE.topics[TOPIC].mesh_message_deliveries_activation + 10
    late = world.reached(good, within=1.0, since=again)
    print(f"within 1 s: {late:.4f}, hostile part of the meshes {hostile_share(good):.3f}")
    if not defence:
        assert hostile_share(good) > 0.9
        assert late < 0.5
        return
    assert late >= 0.99
    assert world.reached(good, within=5.0) >= 0.99
    assert hostile_share(good) < 0.5
    assert honest_think_well(good)
