"""Networks of discv5 nodes: tables fill from one bootnode, lookups find, who left is forgotten, no eclipse, no growth.

The suite runs sizes that take about two minutes in all. With `DISCV5_NODES=2000 DISCV5_DAY_NODES=50` in the environment
and `--timeout 0` it is a whole network, which takes half an hour and 6 GB (tables full, recall 0.998), and a whole day.
"""

import os
from dataclasses import replace

import pytest

from pyp2p.discv5 import core
from pyp2p.discv5.enr import node_id
from pyp2p.discv5.node import log_distance
from pyp2p.discv5.table import TableConfig
from pyp2p.discv5.types import Discv5Config
from pyp2p.peer.keys import Identity
from tests.sim.discv5 import HostileHost, World, place

pytestmark = pytest.mark.slow

NODES = int(os.environ.get("DISCV5_NODES", "60"))


def test_tables_fill_from_one_bootnode_and_lookups_find_the_closest():
    world = World(1, loss=0.1)
    world.grow(NODES, nat=0.1)
    world.run(600)
    part, short = world.fullness()
    found = world.look_up(200, world.living)
    seconds = sorted(each.seconds for each in found)
    world.report(
        "tables fill", full=part, short=short, recall=world.recall(found), median=seconds[100], slowest=seconds[-1]
    )
    assert len(found) == 200
    assert short == 0
    assert world.recall(found) >= 0.99


def test_with_a_tenth_leaving_each_minute_lookups_find_who_is_there():
    world = World(2, loss=0.02)
    world.grow(60, nat=0.1)
    world.run(90)
    world.churn(0.1, 240, nat=0.1)
    world.run(120)
    while_leaving = world.dead_in_tables()
    found = world.look_up(60, world.living)
    left = len(world.hosts) - len(world.living)
    world.run(900)
    world.report("churn", left=left, dead=while_leaving, later=world.dead_in_tables(), recall=world.recall(found))
    assert left >= 10 and len(found) >= 45
    assert world.recall(found) >= 0.95
    assert world.dead_in_tables() <= 0.02
    assert world.fullness()[0] >= 0.99


NO_SUBNET_LIMITS = Discv5Config(table=TableConfig(per_bucket_subnet=10**6, per_table_subnet=10**6))
ALL_WHO_COME = Discv5Config(table=TableConfig(max_incoming=16))
NO_LIMITS = Discv5Config(table=replace(NO_SUBNET_LIMITS.table, max_incoming=16))
FILLED = (256, 255)  # distances from the victim, at which the hostile could take all places


class Chosen(HostileHost):
    """Hostile with an id at one of the distances from the victim that matter: such keys are drawn in no time."""

    victim = bytes(32)

    def draw_identity(self) -> Identity:
        while True:
            drawn = super().draw_identity()
            distance = log_distance(self.victim, node_id(drawn.public_key.data))
            if distance == FILLED[self.number % len(FILLED)]:
                return drawn


def eclipse(seed: int, subnets: int, config: Discv5Config | None = None) -> tuple[float, float]:
    """32 hostile nodes of 107 press a newcomer: the honest part of its table, and of what its lookups find."""
    world = World(seed)
    world.grow(74, over=10)
    world.run(40)
    world.config = config
    victim = world.add()
    world.config = None
    kind = type("ChosenHost", (Chosen,), {"victim": victim.node_id})
    hostile = [world.add(kind, ip=place(40000 + index % subnets, 1 + index // subnets)) for index in range(32)]
    fellows = {host.node_id: host.record for host in hostile}
    for host in hostile:
        assert isinstance(host, HostileHost)
        host.start([world.hosts[0].record], world.now)
        host.conspire(fellows, victim, world.now)
    victim.start([world.hosts[0].record], world.now)
    world.run(90)
    table = [world.by_id[record.node_id].honest for record in victim.in_table()]
    found = world.look_up(30, [victim])
    in_table, in_lookups = sum(table) / len(table), sum(each.honest for each in found) / len(found)
    world.report(f"eclipse from {subnets} subnets", table=in_table, lookups=in_lookups, recall=world.recall(found))
    return in_table, in_lookups


def test_hostile_nodes_of_few_subnets_do_not_eclipse_a_newcomer():
    in_table, in_lookups = eclipse(3, subnets=3)
    assert in_table >= 0.6 and in_lookups >= 0.65


def test_hostile_nodes_of_few_subnets_would_without_the_limits():
    in_table, in_lookups = eclipse(3, subnets=3, config=NO_LIMITS)
    assert in_table <= 0.5 and in_lookups <= 0.6  # of all nodes 0.7 are honest


def test_hostile_nodes_each_of_a_subnet_of_its_own_do_not_eclipse_a_newcomer():
    in_table, in_lookups = eclipse(3, subnets=32)
    assert in_table >= 0.55 and in_lookups >= 0.65  # as many as there are


def test_hostile_nodes_each_of_a_subnet_of_its_own_would_if_all_who_come_had_a_place():
    in_table, in_lookups = eclipse(3, subnets=32, config=ALL_WHO_COME)
    assert in_table <= 0.5 and in_lookups <= 0.6


# A tenth of the checks and of the ticks, so that a day takes a quarter of a minute.
CALM = Discv5Config(table=TableConfig(check_min=50.0, check_max=150.0))
DAY_NODES = int(os.environ.get("DISCV5_DAY_NODES", "10"))
# What a node has under way, and what is over when nothing is.
IDLE = ("requests", "per_node", "nonces", "shaking", "waiting", "timers", "challenges", "talks", "walks", "effects")
KEPT = ("table", "replacements", "sessions", "votes", "subnets")


def test_a_day_leaves_nothing_behind(monkeypatch):
    calm = DAY_NODES < 50
    if calm:
        monkeypatch.setattr(core, "_TICK", 10.0)
    world = World(4, config=CALM if calm else None, loss=0.02)
    world.grow(DAY_NODES, nat=0.1)
    world.run(12 * 3600)
    early = [host.state() for host in world.hosts]
    world.run(12 * 3600)
    for host in world.hosts:
        host.core._next_tick = None  # no more of its own accord: what is under way comes to its end
    world.run(30)
    late = [host.state() for host in world.hosts]
    world.report("a day", **{name: max(state[name] for state in late) for name in KEPT})
    others = DAY_NODES - 1
    for name in KEPT:  # what may grow is as large after half a day
        half, whole = (sum(state[name] for state in states) for states in (early, late))
        assert whole <= 1.1 * half + others, name
    for after in late:
        assert {name: after[name] for name in IDLE} == dict.fromkeys(IDLE, 0)
        assert after["table"] + after["replacements"] <= others
        assert max(after["sessions"], after["votes"]) <= others
        assert after["subnets"] <= 3 * others
    assert all(host.record == host.core.record for host in world.hosts)
