"""Validators: what each verdict does, and that one that crashes, hangs or is flooded harms nobody."""

import functools
import logging
from contextlib import asynccontextmanager

import pytest
import trio

from pyp2p.pubsub.params import GossipParams, ScoreParams, TopicScoreParams
from pyp2p.pubsub.signing import StrictSign
from pyp2p.pubsub.types import Verdict
from pyp2p.pubsub.wire import publish_fragment
from pyp2p.testing import Sim, simulated
from tests.pubsub.support import TOPIC, introduce, listeners, raw_peer, speaker, speakers
from tests.switch.support import until

SCORE = ScoreParams(topics={TOPIC: TopicScoreParams()})


@asynccontextmanager
async def line(sim: Sim, params: GossipParams | None = None):
    """The middle one validates; what the left one publishes reaches the right one through it alone."""
    async with (
        speakers(sim, 3, params=params, score=SCORE) as (middle, left, right),
        middle.pubsub.subscribe(TOPIC) as messages,
        right.pubsub.subscribe(TOPIC) as forwarded,
    ):
        await until(lambda: right.peer in middle.pubsub.mesh(TOPIC))
        await listeners(left, TOPIC, 1)
        yield middle, left, messages, forwarded


async def payloads(messages, seconds: float = 1.0) -> list[bytes]:
    """What came, until nothing more comes."""
    found = []
    with trio.move_on_after(seconds):
        async for message in messages:
            found.append(message.payload)
    return found


def says(verdict: Verdict, asynchronous: bool):
    if not asynchronous:
        return lambda message: verdict

    async def validator(message) -> Verdict:
        await trio.sleep(0.1)
        return verdict

    return validator


class Object:
    """A validator may be an object that is called."""

    async def __call__(self, message) -> Verdict:
        await trio.lowlevel.checkpoint()
        return Verdict.ACCEPT


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("verdict", list(Verdict), ids=lambda verdict: verdict.value)
@simulated(seeds=(1,))
async def test_each_verdict(sim: Sim, verdict: Verdict, asynchronous: bool) -> None:
    async with line(sim) as (middle, left, messages, forwarded):
        middle.pubsub.add_validator(TOPIC, says(verdict, asynchronous))
        await left.pubsub.publish(TOPIC, b"x")
        expected = [b"x"] if verdict is Verdict.ACCEPT else []
        assert await payloads(messages) == await payloads(forwarded) == expected
        parts = middle.pubsub.score(left.peer)
        assert (parts.p4 > 0) is (verdict is Verdict.REJECT)
        assert (parts.p2 > 0) is (verdict is Verdict.ACCEPT)
        word = {Verdict.ACCEPT: "accepted", Verdict.REJECT: "rejected", Verdict.IGNORE: "ignored"}[verdict]
        assert middle.pubsub.counters[word, TOPIC] == 1
        assert middle.pubsub.gauges()["validating bytes", ""] == 0


@pytest.mark.parametrize("which", ["object", "partial"])
@simulated(seeds=(1,))
async def test_what_is_asynchronous_in_another_way(sim: Sim, which: str) -> None:
    async with line(sim) as (middle, left, messages, _):
        middle.pubsub.add_validator(
            TOPIC, Object() if which == "object" else functools.partial(says(Verdict.ACCEPT, True))
        )
        await left.pubsub.publish(TOPIC, b"x")
        assert await payloads(messages) == [b"x"]


@simulated(seeds=(1,))
async def test_a_function_that_gives_something_to_await_is_asynchronous(sim: Sim) -> None:
    async with line(sim) as (middle, left, messages, _):
        judge = says(Verdict.ACCEPT, True)
        middle.pubsub.add_validator(
            TOPIC, lambda message: judge(message) if message.payload else None, concurrency=1, queue=0
        )
        await left.pubsub.publish(TOPIC, b"x")
        assert await payloads(messages) == [b"x"]
        await left.pubsub.publish(TOPIC, b"y")
        assert await payloads(messages) == [b"y"]
        assert middle.pubsub.gauges()["validating bytes", ""] == 0


@simulated(seeds=(1,))
async def test_a_single_message_may_be_larger_than_the_bound(sim: Sim) -> None:
    async with line(sim, GossipParams(pending_validation_bytes=1000)) as (middle, left, messages, _):
        middle.pubsub.add_validator(TOPIC, says(Verdict.ACCEPT, True))
        await left.pubsub.publish(TOPIC, bytes(24_000))
        assert await payloads(messages) == [bytes(24_000)]


@simulated(seeds=(1,))
async def test_what_a_validator_does_to_a_message_does_not_upset_the_accounts(sim: Sim) -> None:
    async def inflate(message) -> Verdict:
        message.payload = bytes(100_000)
        return Verdict.ACCEPT

    async with line(sim, GossipParams(mcache_bytes=50_000)) as (middle, left, messages, _):
        middle.pubsub.add_validator(TOPIC, inflate)
        for number in range(20):
            await left.pubsub.publish(TOPIC, bytes([number]))
            assert await payloads(messages) == [bytes(100_000)]
        await trio.sleep(10)
        gauges = middle.pubsub.gauges()
        assert gauges["message cache bytes", ""] == gauges["validating bytes", ""] == 0
        assert messages._bytes == 0


@simulated(seeds=(1,))
async def test_quick_ones_keep_up_with_an_rpc_of_many_messages(sim: Sim) -> None:
    """More come at once than may be asked about at a time or wait."""

    async def quick(message) -> Verdict:
        await trio.lowlevel.checkpoint()
        return Verdict.ACCEPT

    async with speaker(sim, "a") as a, raw_peer(sim) as raw, a.pubsub.subscribe(TOPIC) as messages:
        a.pubsub.add_validator(TOPIC, quick, concurrency=64, queue=200)
        await introduce(raw, a, TOPIC)
        policy = StrictSign(raw.switch.identity)
        await raw.say(b"".join(publish_fragment(policy.build(TOPIC, b"x", number).raw) for number in range(1000)))
        with trio.fail_after(1):
            for _ in range(1000):
                await messages.__anext__()
        assert a.pubsub.counters["validation queue full", TOPIC] == 0


def crash(message) -> Verdict:
    raise RuntimeError(f"about {message.payload!r}\n")


async def crash_later(message) -> Verdict:
    await trio.sleep(0.1)
    raise ExceptionGroup("several", [KeyError("x")])


async def wrong(message):
    await trio.lowlevel.checkpoint()
    return True


async def hang(message) -> Verdict:
    await trio.sleep_forever()


BAD = {
    "crash": (crash, "validator failed"),
    "crash later": (crash_later, "validator failed"),
    "no verdict": (lambda message: None, "validator failed"),
    "wrong": (wrong, "validator failed"),
    "hang": (hang, "validation timed out"),
}


@pytest.mark.parametrize("how", BAD)
@simulated(seeds=(1,))
async def test_one_that_fails_counts_as_ignore_and_harms_nobody(sim: Sim, how: str) -> None:
    validator, counter = BAD[how]
    async with line(sim) as (middle, left, messages, forwarded):
        middle.pubsub.add_validator(TOPIC, validator, timeout=10)
        await left.pubsub.publish(TOPIC, b"x")
        await until(lambda: middle.pubsub.counters[counter, TOPIC] == 1)
        await until(lambda: middle.pubsub.counters["ignored", TOPIC] == 1)
        assert middle.pubsub.gauges()["validating bytes", ""] == 0
        assert middle.pubsub.gauges()["awaiting verdict", ""] == 0
        parts = middle.pubsub.score(left.peer)
        assert parts.p4 == parts.p2 == 0
        middle.pubsub.remove_validator(TOPIC)
        await left.pubsub.publish(TOPIC, b"y")
        assert await payloads(messages) == await payloads(forwarded) == [b"y"]


@simulated(seeds=(1,))
async def test_a_crash_is_one_line_and_not_one_for_each_message(sim: Sim) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("pyp2p.pubsub")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        async with line(sim) as (middle, left, _, _):
            middle.pubsub.add_validator(TOPIC, crash)
            for number in range(200):
                await left.pubsub.publish(TOPIC, b"%d" % number)
            await until(lambda: middle.pubsub.counters["validator failed", TOPIC] == 200)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    failed = [record.getMessage() for record in records if "validator failed" in record.getMessage()]
    assert 0 < len(failed) < 50
    assert "\n" not in failed[0]


@simulated(seeds=(1,))
async def test_so_many_at_once_so_many_waiting_and_the_rest_is_ignored(sim: Sim) -> None:
    running = most = 0

    async def slow(message) -> Verdict:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return Verdict.ACCEPT

    async with line(sim) as (middle, left, messages, _):
        middle.pubsub.add_validator(TOPIC, slow, concurrency=3, queue=4)
        for number in range(20):
            await left.pubsub.publish(TOPIC, b"%d" % number)
        assert sorted(await payloads(messages, 10)) == [b"%d" % number for number in range(7)]
        assert most == 3
        assert middle.pubsub.counters["validation queue full", TOPIC] == 13
        assert middle.pubsub.counters["ignored", TOPIC] == 13
        await left.pubsub.publish(TOPIC, b"later")
        assert await payloads(messages, 2) == [b"later"]


@simulated(seeds=(1,))
async def test_what_waits_is_bounded_in_bytes_over_all_topics(sim: Sim) -> None:
    params = GossipParams(pending_validation_bytes=200_000)
    async with line(sim, params) as (middle, left, messages, _):
        async with middle.pubsub.subscribe("other") as others:
            await listeners(left, "other", 1)
            for topic in (TOPIC, "other"):
                middle.pubsub.add_validator(topic, says(Verdict.ACCEPT, True))
            for _ in range(3):
                for topic in (TOPIC, "other"):
                    await left.pubsub.publish(topic, bytes(24_000))
            assert middle.pubsub.gauges()["validating bytes", ""] <= 200_000
            assert len(await payloads(messages)) + len(await payloads(others)) == 4
        assert middle.pubsub.gauges()["validating bytes", ""] == 0


@simulated(seeds=(1,))
async def test_one_that_is_removed_finishes_what_it_began(sim: Sim) -> None:
    async with line(sim) as (middle, left, messages, _):
        middle.pubsub.add_validator(TOPIC, says(Verdict.ACCEPT, True))
        await left.pubsub.publish(TOPIC, b"x")
        await until(lambda: middle.pubsub.gauges()["validating bytes", ""])
        middle.pubsub.remove_validator(TOPIC)
        middle.pubsub.add_validator(TOPIC, says(Verdict.REJECT, False))
        assert await payloads(messages) == [b"x"]
        await left.pubsub.publish(TOPIC, b"y")
        assert await payloads(messages) == []
        assert middle.pubsub.gauges()["validating bytes", ""] == 0


@simulated(seeds=(1,))
async def test_a_verdict_after_the_sender_is_gone_still_counts(sim: Sim) -> None:
    async with line(sim) as (middle, left, messages, forwarded):
        middle.pubsub.add_validator(TOPIC, says(Verdict.ACCEPT, True))
        await left.pubsub.publish(TOPIC, b"x")
        await until(lambda: middle.pubsub.gauges()["validating bytes", ""])
        await left.switch.disconnect(middle.peer)
        assert await payloads(messages) == await payloads(forwarded) == [b"x"]


@simulated(seeds=(1,))
async def test_a_verdict_after_we_left_the_topic_harms_nobody(sim: Sim) -> None:
    async with speakers(sim, 2) as (a, b):
        a.pubsub.add_validator(TOPIC, says(Verdict.ACCEPT, True))
        async with a.pubsub.subscribe(TOPIC):
            await listeners(b, TOPIC, 1)
            await b.pubsub.publish(TOPIC, b"x")
            await until(lambda: a.pubsub.gauges()["validating bytes", ""])
        await until(lambda: a.pubsub.counters["accepted", TOPIC])
        assert a.pubsub.gauges()["validating bytes", ""] == 0


@simulated(seeds=(1,))
async def test_a_copy_of_what_is_being_validated_is_a_copy_even_when_its_id_is_forgotten(sim: Sim) -> None:
    """The time to live of the id is over, or the ids of others pushed it out, while the validator still thinks."""

    async def slow(message) -> Verdict:
        await trio.sleep(30)
        return Verdict.ACCEPT

    params = GossipParams(seen_ttl=6)
    async with line(sim, params) as (middle, left, messages, _):
        middle.pubsub.add_validator(TOPIC, slow, timeout=60)
        made = await left.pubsub.publish(TOPIC, b"x")
        await trio.sleep(10)
        assert made.message.id not in middle.pubsub._router.seen
        left.pubsub._links[middle.peer].outbox.own(b"\x12" + bytes([len(made.message.raw)]) + made.message.raw, b"")
        left.pubsub._links[middle.peer]._wake.set()
        await until(lambda: middle.pubsub.counters["duplicate", TOPIC])
        assert await payloads(messages, 40) == [b"x"]
        assert middle.pubsub.gauges()["validating bytes", ""] == 0


@simulated(seeds=(1,))
async def test_what_makes_no_sense_is_a_value_error(sim: Sim) -> None:
    async with speakers(sim, 1) as (a,):
        a.pubsub.add_validator(TOPIC, crash)
        with pytest.raises(ValueError, match="has a validator already"):
            a.pubsub.add_validator(TOPIC, crash)
        for options in ({"concurrency": 0}, {"queue": -1}, {"timeout": 0}, {"timeout": float("nan")}):
            with pytest.raises(ValueError, match=next(iter(options))):
                a.pubsub.add_validator("other", crash, **options)
        with pytest.raises(KeyError):
            a.pubsub.remove_validator("other")
