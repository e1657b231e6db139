"""A hundred whole switches, Noise and Yamux and all, over the simulated network."""

from contextlib import AsyncExitStack

import pytest
import trio

from pyp2p.testing import LinkQuality, Sim, simulated
from tests.pubsub.support import TOPIC, Listener, listener

pytestmark = pytest.mark.slow

SWITCHES = 100
DEGREE = 10
SECONDS = 30


@simulated(seeds=(1,))
async def test_a_hundred_switches_deliver_everything(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.05)
    rng = sim.platform("topology").rng
    async with AsyncExitStack() as stack:
        members: list[Listener] = [await stack.enter_async_context(listener(sim, f"node {n}")) for n in range(SWITCHES)]
        async with trio.open_nursery() as nursery:
            for one in members:
                for other in rng.sample(members, DEGREE // 2):
                    if other is not one:
                        nursery.start_soon(one.switch.connect, other.address)
        await trio.sleep(5)
        assert all(one.pubsub.mesh(TOPIC) for one in members)
        published = set()
        for number in range(SECONDS):
            payload = b"%d " % number + bytes(1000)
            await rng.choice(members).pubsub.publish(TOPIC, payload)
            published.add(payload)
            await trio.sleep(1)
        await trio.sleep(3)
        for one in members:
            assert set(one.payloads) == published
            assert len(one.payloads) == SECONDS
            assert not [what for what, _ in one.pubsub.counters if "queue full" in what or "reject" in what]
