"""Pubsub cancelled at every scheduler step: what is left must work, and nothing is left of what was begun."""

import pytest
import trio

from pyp2p.testing import Sim, run_sim
from tests.cancel.steps import CancelAt
from tests.pubsub.support import TOPIC, Listener, listener
from tests.switch.support import in_use, until

pytestmark = [pytest.mark.hostile, pytest.mark.slow]

STEPS = 260  # more than any of the operations takes


async def meet(a: Listener, b: Listener) -> None:
    """Connect, and wait until each knows that the other listens."""
    await a.switch.connect(b.address)
    await until(lambda: a.peer in b.pubsub.peers(TOPIC) and b.peer in a.pubsub.peers(TOPIC))


async def publish(a: Listener, b: Listener) -> None:
    for number in range(5):
        await a.pubsub.publish(TOPIC, bytes([number]) + bytes(100_000))


async def subscribe(a: Listener, b: Listener) -> None:
    async with a.pubsub.subscribe("other") as messages:
        await b.pubsub.wait_for_peers("other")
        await b.pubsub.publish("other", b"x")
        await anext(messages)


async def leave_and_come_back(a: Listener, b: Listener) -> None:
    await a.switch.disconnect(b.peer)
    await meet(a, b)


async def _cancelled_at(sim: Sim, step: int, operation) -> bool:
    """Cancel the operation at a step; returns whether that came before its end."""
    async with listener(sim, "b") as b, listener(sim, "a") as a:
        await meet(a, b)
        await until(lambda: a.pubsub.mesh(TOPIC) and b.pubsub.mesh(TOPIC))
        before = in_use(b.switch)
        with trio.CancelScope() as scope:
            instrument = CancelAt(scope, step)
            trio.lowlevel.add_instrument(instrument)
            await operation(a, b)
        trio.lowlevel.remove_instrument(instrument)
        await meet(a, b)
        await until(lambda: in_use(b.switch) == before)
        await until(lambda: a.pubsub.topics == b.pubsub.topics == [TOPIC] and not a.pubsub.peers("other"))
        assert not a.pubsub._publications._all
        await a.pubsub.publish(TOPIC, b"all is well")
        await b.pubsub.publish(TOPIC, b"here too")
        await until(lambda: b"all is well" in b.payloads and b"here too" in a.payloads)
        assert len(set(b.payloads)) == len(b.payloads)
        return scope.cancelled_caught


@pytest.mark.parametrize("operation", [publish, subscribe, leave_and_come_back])
def test_cancelled_at_every_step(operation) -> None:
    steps = iter(range(1, STEPS, 3))
    assert run_sim(_cancelled_at, 1, next(steps), operation)
    for step in steps:
        if not run_sim(_cancelled_at, 1, step, operation):
            return
    raise AssertionError(f"the operation takes more than {STEPS} steps")
