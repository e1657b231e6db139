"""Validators: what they say happens, and what they break harms nobody."""

import pytest
import trio
import trio.lowlevel

from pyp2p import GossipParams, ScoreParams, TopicScoreParams, Verdict
from pyp2p.pubsub.types import Message, Rpc
from pyp2p.testing import Sim, simulated
from tests.pubsub.support import TOPIC, duo, meet, member
from tests.switch.support import until

SCORED = {"score": ScoreParams(topics={TOPIC: TopicScoreParams()})}


def by_text(message: Message) -> Verdict:
    return Verdict(message.payload.split()[0].decode())


async def slowly_by_text(message: Message) -> Verdict:
    await trio.sleep(0.5)
    return by_text(message)


class Judge:
    """An object whose call is a coroutine."""

    async def __call__(self, message: Message) -> Verdict:
        await trio.lowlevel.checkpoint()
        return by_text(message)


@pytest.mark.parametrize("validator", [by_text, slowly_by_text, Judge()], ids=["at once", "slowly", "object"])
@simulated(seeds=(1, 2))
async def test_accepted_messages_travel_rejected_ones_cost_ignored_ones_do_not(sim: Sim, validator) -> None:
    async with member(sim, "a") as a, member(sim, "b", **SCORED) as b, member(sim, "c") as c:
        b.pubsub.add_validator(TOPIC, validator)
        await meet(a, b)
        await meet(c, b)
        await until(lambda: c.switch.peer in b.pubsub.mesh(TOPIC))  # who is grafted later is not told by gossip either
        for text in (b"ignore 1", b"accept 2", b"ignore 3"):
            await a.pubsub.publish(TOPIC, text)
        await until(lambda: b.pubsub.counters["ignored", TOPIC] == 2)
        assert b.pubsub.score(a.switch.peer).topics[TOPIC].p4 == 0
        assert b.pubsub.score(a.switch.peer).topics[TOPIC].p2 > 0
        await a.pubsub.publish(TOPIC, b"reject 4")
        await until(lambda: b.pubsub.counters["rejected", TOPIC] == 1)
        await until(lambda: c.payloads == [b"accept 2"])
        assert b.payloads == [b"accept 2"]
        assert b.pubsub.score(a.switch.peer).topics[TOPIC].p4 > 0
        assert b.pubsub.score(a.switch.peer).total < 0


@pytest.mark.hostile
@simulated(seeds=(1,))
async def test_hostile_074_a_validator_that_crashes_or_answers_nonsense_ignores(sim: Sim) -> None:
    def crashes(message: Message) -> Verdict:
        raise ZeroDivisionError("oops")

    async def crashes_later(message: Message) -> Verdict:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("oops")

    for validator in (crashes, crashes_later, lambda message: True, lambda message: None):
        async with duo(sim, b=SCORED) as (a, b):
            b.pubsub.add_validator(TOPIC, validator)
            await a.pubsub.publish(TOPIC, b"x")
            await until(lambda: b.pubsub.counters["ignored", TOPIC] == 1)
            assert b.pubsub.counters["validator failed", TOPIC] == 1
            assert b.pubsub.score(a.switch.peer).total >= 0
            b.pubsub.remove_validator(TOPIC)
            await a.pubsub.publish(TOPIC, b"y")
            await until(lambda: b.payloads == [b"y"])


@pytest.mark.hostile
@simulated(seeds=(1,))
async def test_hostile_074_a_validator_that_hangs_ignores_and_holds_up_no_other_topic(sim: Sim) -> None:
    async def hangs(message: Message) -> Verdict:
        await trio.sleep(60)
        return Verdict.ACCEPT

    async with duo(sim) as (a, b), b.pubsub.subscribe("stuck"):
        b.pubsub.add_validator("stuck", hangs, timeout=10.0)
        await a.pubsub.wait_for_peers("stuck")
        started = trio.current_time()
        await a.pubsub.publish("stuck", b"x")
        await a.pubsub.publish(TOPIC, b"hello")
        await until(lambda: b.payloads == [b"hello"])
        assert trio.current_time() - started < 1
        await until(lambda: b.pubsub.counters["validation timed out", "stuck"] == 1)
        assert 10 <= trio.current_time() - started < 11
        assert b.pubsub.counters["ignored", "stuck"] == 1


@simulated(seeds=(1,))
async def test_what_waits_for_a_validator_is_bounded_in_count_and_bytes(sim: Sim) -> None:
    release = trio.Event()
    running = most = 0

    async def waits(message: Message) -> Verdict:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1
        return Verdict.ACCEPT

    async with duo(sim, b={"params": GossipParams(pending_validation_bytes=20_000)}) as (a, b):
        b.pubsub.add_validator(TOPIC, waits, concurrency=3, queue=4, timeout=100)
        for number in range(10):
            await a.pubsub.publish(TOPIC, bytes([number]))
        await until(lambda: b.pubsub.counters["validation queue full", TOPIC] == 3)
        assert most == 3
        release.set()
        await until(lambda: len(b.heard) == 7)
        assert b.pubsub.gauges()["validating bytes", ""] == 0
        release = trio.Event()
        for number in range(3):
            await a.pubsub.publish(TOPIC, bytes([number]) + bytes(9_000))
        await until(lambda: b.pubsub.counters["validation queue full", TOPIC] == 4)
        release.set()
        await until(lambda: len(b.heard) == 9)


@simulated(seeds=(1,))
async def test_a_verdict_after_the_peer_is_gone_or_the_validator_removed(sim: Sim) -> None:
    async with member(sim, "b", **SCORED) as b:
        b.pubsub.add_validator(TOPIC, slowly_by_text)
        async with member(sim, "a") as a:
            await meet(a, b)
            await a.pubsub.publish(TOPIC, b"accept it")
            await a.pubsub.publish(TOPIC, b"reject it")
            await until(lambda: b.pubsub.gauges()["awaiting verdict", ""] == 2)
            b.pubsub.remove_validator(TOPIC)
            await a.switch.disconnect(b.switch.peer)
        await until(lambda: b.pubsub.gauges()["awaiting verdict", ""] == 0)
        assert b.payloads == [b"accept it"]
        assert b.pubsub.counters["rejected", TOPIC] == 1


@simulated(seeds=(1,))
async def test_senseless_validators_are_refused(sim: Sim) -> None:
    async with member(sim, "a") as a:
        a.pubsub.add_validator(TOPIC, by_text)
        with pytest.raises(ValueError, match="already"):
            a.pubsub.add_validator(TOPIC, by_text)
        for bad in ({"concurrency": 0}, {"queue": -1}, {"timeout": 0}, {"timeout": float("nan")}):
            with pytest.raises(ValueError, match=next(iter(bad))):
                a.pubsub.add_validator("other", by_text, **bad)
        with pytest.raises(KeyError):
            a.pubsub.remove_validator("other")


@simulated(seeds=(1,))
async def test_a_message_whose_id_was_forgotten_meanwhile_is_asked_about_again(sim: Sim) -> None:
    """The cache of seen ids is full of others by the time its copy comes: two verdicts, one of which counts."""
    params = GossipParams(seen_bytes=1, publish_timeout=1.0)
    async with duo(sim, b={"params": params}) as (a, b):
        b.pubsub.add_validator(TOPIC, slowly_by_text, timeout=100)
        done = await a.pubsub.publish(TOPIC, b"accept it")
        await until(lambda: b.pubsub.gauges()["awaiting verdict", ""] == 1)
        b.pubsub._router.seen._forget_slot()
        b.pubsub._router.handle_rpc(a.switch.peer, Rpc(publish=[done.message.raw]), trio.current_time())
        b.pubsub._carry_out()
        await until(lambda: b.payloads)
        await trio.sleep(2)
        assert b.payloads == [b"accept it"]
        assert b.pubsub.gauges()["validating bytes", ""] == b.pubsub.gauges()["awaiting verdict", ""] == 0
