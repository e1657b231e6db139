"""What is measured of the node under test, and what the measurements must be.

Rules: measured is at calm moments, when all but one peer have left: then what connections, requests and tasks hold must
be exactly what it was at the start. What is remembered of peers that left has a bound each; memory and objects may grow
with the entries of those tables alone, and their growth is judged over all calm moments after the first few.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

import trio

from pyp2p.beacon.book import BookLimits
from pyp2p.beacon.follow import Follower
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.dialer.tables import DialerConfig

PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024

# What may have grown in the end: by the minute, and once. Before, so much is taken off for each entry remembered
# at a look.
KILOBYTES = (1.0, 512.0, 2048.0)  # an entry; resident: the allocator keeps pages
OBJECTS = (12.0, 60.0, 600.0)  # that the collector knows; one connection that stays is some hundreds
_OTHER_ENTRIES = {"seen": 0.0, "cached messages": 3.0}  # objects of theirs: a number, and a message


@dataclass(frozen=True)
class Figures:
    """One look at the node. `held` is zero, or as at the start, when nobody is there; `remembered` is bounded."""

    held: dict[str, int]
    remembered: dict[str, int]
    kilobytes: int  # resident
    objects: int
    at: float = 0.0  # seconds since the start

    @property
    def entries(self) -> int:
        return sum(self.remembered.values())

    def beside(self) -> tuple[float, float]:
        """Memory and objects without what is remembered."""
        objects = sum(count * _OTHER_ENTRIES.get(name, OBJECTS[0]) for name, count in self.remembered.items())
        return self.kilobytes - KILOBYTES[0] * self.entries, self.objects - objects


def tasks() -> int:
    """All that live in this run of trio."""
    count, waiting = 0, [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        count += 1
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return count


def held(net: BeaconNetwork) -> dict[str, int]:
    """What peers that are here make the node hold."""
    requests, pubsub, dialer = net.reqresp.gauges(), net.pubsub.gauges(), net.peering.network.gauges()
    found = {f"switch {name}": count for name, count in net.switch._establisher.in_use().items()}
    found |= {f"requests {name}": requests[name] for name in ("asking", "places", "serving")}
    for name in ("peers", "queued bytes", "validating bytes", "awaiting verdict"):
        found[f"gossip {name}"] = pubsub[name, ""]
    found |= {f"dialer {name}": dialer[name] for name in ("slots", "attempts")}
    found["manager connected"] = net.peering.manager.counters()["connected"]
    found["facts"] = sum(connection.is_open for connection in net._exchange._facts)
    found["leaving"] = len(net.peering.leaving)
    found["events untold"] = len(net._dialer._news)
    return found


def remembered(net: BeaconNetwork, follower: Follower) -> dict[str, int]:
    """Entries of the tables that outlive connections."""
    manager, dialer, book = net.peering.manager.counters(), net.peering.network.gauges(), net.peering._book
    return {
        "quotas": net.reqresp.gauges()["quotas"],
        "faults": manager["remembered_faults"],
        "good": manager["remembered_good"],
        "banned": manager["banned"],
        "candidates": dialer["candidates"],
        "backoffs": dialer["backoffs"],
        "dialer bans": dialer["bans"],
        "book": len(book._dialled) + len(book._strangers),
        "book bans": len(book._bans),
        "peer store": len(net.switch.peers),
        "gossip scores": len(net.pubsub._router.score),
        "seen": len(net.pubsub._router.seen),
        "cached messages": len(net.pubsub._router.cache),
        "blocks": len(follower.tree),
        "closed connections": sum(not connection.is_open for connection in net._exchange._facts),
        "nodes": 0 if net.discovery is None else len(net.discovery.nodes()),
    }


def bounds(net: BeaconNetwork) -> dict[str, int]:
    """The most that each may be."""
    config, dialer, book = net.config, DialerConfig(), BookLimits()
    return {
        "quotas": 2 * config.requests.buckets,
        "faults": config.peers.remembered_faults,
        "good": config.peers.remembered_good,
        "banned": config.peers.bans,
        "candidates": 2 * dialer.candidates + dialer.kept,
        "backoffs": dialer.backoffs,
        "dialer bans": dialer.bans,
        "book": book.dialled + book.strangers,
        "book bans": book.bans,
        "closed connections": 4,  # the last event of each loop over events
    }


def measure(net: BeaconNetwork, follower: Follower) -> Figures:
    """Look now; rubbish is collected first, and the deadlines that are over, of which trio may keep a thousand."""
    runner: Any = trio._core._run.GLOBAL_RUN_CONTEXT.runner
    runner.deadlines._prune()
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    holds = held(net) | {"tasks": tasks(), "descriptors": len(os.listdir("/proc/self/fd"))}
    return Figures(holds, remembered(net, follower), pages * PAGE_KB, len(gc.get_objects()))


def differences(start: dict[str, int], now: dict[str, int]) -> dict[str, Any]:
    """What is not as it was."""
    return {name: (start.get(name), now.get(name)) for name in start | now if start.get(name) != now.get(name)}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between any two points: a few that stand out change nothing (Theil and Sen)."""
    return median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x2 != x1)


def growth(calm: Sequence[Figures]) -> list[str]:
    """What is wrong with the calm moments of a run, the first third of which is warming up."""
    flat = calm[len(calm) // 3 :]
    if len(flat) < 4:
        return [f"only {len(flat)} calm moments after warming up: too few to judge"]
    minutes = (flat[-1].at - flat[0].at) / 60
    wrong = []
    for at, (what, (_, minute, once)) in enumerate((("KB resident", KILOBYTES), ("objects", OBJECTS))):
        points = [(each.at, each.beside()[at]) for each in flat]
        grown, allowed = slope(points) * minutes * 60, minute * minutes + once
        print(f"{what}: {grown:.0f} more in {minutes:.1f} minutes beside what is remembered, {allowed:.0f} may be")
        if grown > allowed:
            wrong.append(f"{grown:.0f} {what} more in {minutes:.1f} minutes, {allowed:.0f} may be")
    return wrong
