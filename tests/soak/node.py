"""The node under test, in a process of its own: `python -m tests.soak.node GENESIS_TIME PEERS`.

It says who it is in a line of JSON, then answers each line that it is sent by one of figures, until its input ends.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
import time
from collections import Counter

import trio

from pyp2p.beacon.config import ADMISSION, BeaconConfig
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.follow import open_follower
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.peer_types import PeerConfig
from pyp2p.switch.config import SwitchConfig, Timeouts
from tests.soak.crowd import HONEST, follow_attestations
from tests.soak.figures import bounds, measure
from tests.soak.hostile import UPGRADE


def soak_chain(genesis_time: int):
    """No fork soon: each has tasks of its own."""
    return dev_chain(genesis_time, start="electra", epochs_per_fork=1 << 30)


def soak_config(genesis_time: int, peers: int, **more) -> BeaconConfig:
    """Places for all, deadlines that a round can wait for, and who stays for a second is somebody to come back to."""
    return BeaconConfig(
        soak_chain(genesis_time),
        long_lived_subnets=False,
        agent="victim",
        peers=PeerConfig(target=2 * peers, grace=1.0),
        switch=SwitchConfig(timeouts=Timeouts(admission=ADMISSION, upgrade=UPGRADE, protocol_select=UPGRADE)),
        **more,
    )


class Complaints(logging.Handler):
    """Warnings and worse: no peer may cause one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Scores:
    """The worst score that an honest peer was seen with."""

    def __init__(self, net: BeaconNetwork) -> None:
        self._net = net
        self.worst = math.inf

    def look(self) -> None:
        for each in self._net.peers():
            if (each.agent or "").startswith(HONEST):
                self.worst = min(self.worst, each.score, each.gossip_score)

    async def watch(self) -> None:
        while True:
            self.look()
            await trio.sleep(0.5)


def accepted(net: BeaconNetwork) -> int:
    return sum(count for topic, (count, _) in net.gossip.accepted.items() if "beacon_attestation" in topic)


async def serve(genesis_time: int, peers: int) -> None:
    complaints = Complaints()
    logging.getLogger("pyp2p").addHandler(complaints)
    lines = trio.wrap_file(sys.stdin)
    started = time.monotonic()
    async with (
        BeaconNetwork(soak_config(genesis_time, peers)) as net,
        open_follower(net) as follower,
        trio.open_nursery() as nursery,
    ):
        scores = Scores(net)
        await nursery.start(follow_attestations, net)
        nursery.start_soon(scores.watch)
        assert net.enr is not None
        said = {"peer": str(net.peer), "addresses": [str(each) for each in net.switch.multiaddrs], "udp": net.enr.udp}
        print(json.dumps(said), flush=True)
        async for _ in lines:
            figures = dataclasses.replace(measure(net, follower), at=time.monotonic() - started)
            over = {name: most for name, most in bounds(net).items() if figures.remembered[name] > most}
            answer = dataclasses.asdict(figures) | {
                "over": over,
                "score": min(scores.worst, 1000.0),
                "accepted": accepted(net),
                "head": follower.tree.head.slot,
                "complaints": complaints.lines[:20],
                "crashed": Counter(
                    {str(what): count for what, count in net.reqresp.counters.items() if what[0] == "crashed"}
                ),
            }
            print(json.dumps(answer), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]), int(sys.argv[2]))
