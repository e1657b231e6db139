"""`publish`: who took it, who did not in time, and what it raises; one slow peer holds up nobody else."""

import pytest
import trio

from pyp2p.errors import AlreadyPublished, LocalProtocolError, MessageTooLarge, NobodyListens
from pyp2p.io.varint import LengthPrefixed
from pyp2p.pubsub.ids import eth2_phase0_message_id
from pyp2p.pubsub.params import GossipParams
from pyp2p.pubsub.publication import Published
from pyp2p.pubsub.signing import StrictNoSign
from pyp2p.pubsub.wire import decode_message, decode_rpc
from pyp2p.switch.events import Disconnected
from pyp2p.testing import Sim, simulated
from tests.pubsub.support import MESHSUB, TOPIC, Node, RawPeer, introduce, listeners, raw_peer, speaker, speakers
from tests.switch.support import until

MIB = 1024 * 1024
BIG = 100_000
WINDOW = 256 * 1024  # what a stream takes although nobody reads it
NARROW = GossipParams(queue_bytes=2 * BIG, publish_timeout=5.0)
FILL = 5  # messages of `BIG` bytes that are more than window and queue hold


async def publish_at_once(node: Node, count: int, ends: list[tuple[float, Published]]) -> None:
    """Publish so many large messages at the same time; when each returned, and what."""

    async def one() -> None:
        outcome = await node.pubsub.publish(TOPIC, bytes(BIG))
        ends.append((trio.current_time(), outcome))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)


@simulated(seeds=(1, 2))
async def test_a_peer_that_does_not_read_holds_up_neither_the_others_nor_other_publishers(sim: Sim) -> None:
    """`publish` waits for it `publish_timeout` and no longer; then it is put out, once, and counted."""
    async with (
        speakers(sim, 3, params=NARROW) as (a, good, third),
        raw_peer(sim, deaf=True) as deaf,
        good.pubsub.subscribe(TOPIC) as messages,
        a.pubsub.subscribe(TOPIC),
        a.switch.watch() as events,
    ):
        await introduce(deaf, a, TOPIC)
        await listeners(a, TOPIC, 2)
        await listeners(third, TOPIC, 1)
        await until(lambda: good.peer in a.pubsub.mesh(TOPIC))
        ends: list[tuple[float, Published]] = []
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_at_once, a, FILL, ends)
            with trio.fail_after(0.1):  # the good peer has them at once
                for _ in range(FILL):
                    await messages.__anext__()
            with trio.fail_after(0.1):  # and so it is with what others publish, through the same node
                outcome = await third.pubsub.publish(TOPIC, b"of another")
                assert outcome.taken == [a.peer]
                assert (await messages.__anext__()).payload == b"of another"
            assert len(ends) == WINDOW // BIG
        assert all(good.peer in outcome.taken for _, outcome in ends)
        late = [(when, outcome) for when, outcome in ends if outcome.expired]
        assert len(late) == FILL - WINDOW // BIG
        for when, outcome in late:
            assert outcome.taken == [good.peer]
            assert outcome.expired == [deaf.peer]
            assert when - started == pytest.approx(5.0, abs=0.1)
        assert a.pubsub.counters["own expired", TOPIC] == len(late)
        await until(lambda: not a.switch.connections(deaf.peer))
        assert trio.current_time() - started < 10
        reason = [e.reason async for e in take_until_gone(events, deaf)][-1]
        assert (reason.code, reason.detail) == ("pubsub", "it took nothing for 5 s")
        assert a.pubsub.counters["disconnected", ""] == 1
        assert a.pubsub.gauges()["queued bytes", ""] == 0
        assert (await a.pubsub.publish(TOPIC, b"on")).taken == [good.peer]


async def take_until_gone(events, raw: RawPeer):
    async for event in events:
        if isinstance(event, Disconnected) and event.connection.peer == raw.peer:
            yield event
            return


@simulated(seeds=(1,))
async def test_a_peer_behind_a_cut_link_is_put_out_once(sim: Sim) -> None:
    """To close its connection takes longer than a heartbeat."""
    params = GossipParams(queue_bytes=2 * BIG, publish_timeout=2.0, heartbeat_interval=0.1)
    async with speaker(sim, "a", params=params) as a, raw_peer(sim) as raw:
        await introduce(raw, a, TOPIC)
        sim.net.cut("a", "raw")
        await publish_at_once(a, 2 * FILL, [])
        await until(lambda: not a.switch.connections(raw.peer))
        assert a.pubsub.counters["disconnected", ""] == 1


@simulated(seeds=(1,))
async def test_the_queue_of_a_peer_that_reads_on_late_loses_nothing_of_ours(sim: Sim) -> None:
    """It stops for less than the timeout: `publish` waits for it and it gets everything, in order."""
    async with speaker(sim, "a", params=NARROW) as a, raw_peer(sim, deaf=True) as slow:
        await introduce(slow, a, TOPIC)
        ends: list[tuple[float, Published]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_at_once, a, 2 * FILL, ends)
            await trio.sleep(3)
            size = 0
            while size < 2 * FILL * BIG:
                size += len(await slow.inbound[0].receive_some())
        assert all(outcome.taken == [slow.peer] for _, outcome in ends)
        assert len(ends) == 2 * FILL
        await trio.sleep(10)
        assert a.switch.connections(slow.peer)
        assert a.pubsub.counters["own expired", TOPIC] == a.pubsub.counters["disconnected", ""] == 0


async def read_messages(raw: RawPeer, count: int, seconds: float) -> list[bytes]:
    """The data of what a peer that was deaf so far now reads: `count` messages, or those of so many seconds."""
    found: list[bytes] = []
    framer = LengthPrefixed(MIB)
    with trio.move_on_after(seconds):
        while len(found) < count:
            for data in framer.feed(await raw.inbound[0].receive_some()):
                found += [decode_message(each).data for each in decode_rpc(data).publish]
    return found


@simulated(seeds=(1,))
async def test_what_has_expired_is_not_sent_any_more(sim: Sim) -> None:
    """The queue has room, so that nobody is put out; what was being written when it expired is written to its end."""
    async with speaker(sim, "a") as a, raw_peer(sim, deaf=True) as slow:
        await introduce(slow, a, TOPIC)
        ends: list[tuple[float, Published]] = []
        await publish_at_once(a, FILL, ends)
        assert sum(outcome.expired == [slow.peer] for _, outcome in ends) == FILL - WINDOW // BIG
        assert a.pubsub.gauges()["queued bytes", ""] == 0
        assert len(await read_messages(slow, FILL, 5)) == WINDOW // BIG + 1


@simulated(seeds=(1,))
async def test_a_small_message_does_not_overtake_a_large_one_that_waits_for_room(sim: Sim) -> None:
    async with speaker(sim, "a", params=NARROW) as a, raw_peer(sim, deaf=True) as slow:
        await introduce(slow, a, TOPIC)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_at_once, a, FILL, [])
            await trio.sleep(0.5)
            nursery.start_soon(a.pubsub.publish, TOPIC, b"small")
            await trio.sleep(0.5)
            found = await read_messages(slow, FILL + 1, 5)
        assert [len(each) for each in found] == [BIG] * FILL + [5]


@simulated(seeds=(1,))
async def test_who_took_it_is_told(sim: Sim) -> None:
    async with speakers(sim, 3) as (a, b, c), b.pubsub.subscribe(TOPIC) as at_b, c.pubsub.subscribe(TOPIC) as at_c:
        await listeners(a, TOPIC, 2)
        outcome = await a.pubsub.publish(TOPIC, b"hello")
        assert set(outcome.taken) == {b.peer, c.peer}
        assert outcome.expired == []
        assert (await at_b.__anext__()).payload == (await at_c.__anext__()).payload == b"hello"
        assert outcome.message.payload == b"hello"


@simulated(seeds=(1,))
async def test_nobody_listens(sim: Sim) -> None:
    async with speakers(sim, 2) as (a, b):
        with pytest.raises(NobodyListens):
            await a.pubsub.publish(TOPIC, b"x")
        assert a.pubsub.counters["nobody listens", TOPIC] == 1
        async with b.pubsub.subscribe(TOPIC):
            await listeners(a, TOPIC, 1)
            assert (await a.pubsub.publish(TOPIC, b"x")).taken == [b.peer]
        await listeners(a, TOPIC, 0)
        with pytest.raises(NobodyListens):
            await a.pubsub.publish(TOPIC, b"x")


@simulated(seeds=(1,))
async def test_the_same_content_twice_where_it_makes_the_id(sim: Sim) -> None:
    async with (
        speakers(sim, 2, policy=StrictNoSign(), message_id=eth2_phase0_message_id) as (a, b),
        b.pubsub.subscribe(TOPIC) as messages,
        a.pubsub.subscribe(TOPIC),
    ):
        await listeners(a, TOPIC, 1)
        await listeners(b, TOPIC, 1)
        await a.pubsub.publish(TOPIC, b"x")
        with pytest.raises(AlreadyPublished):
            await a.pubsub.publish(TOPIC, b"x")
        await a.pubsub.publish(TOPIC, b"y")
        assert [(await messages.__anext__()).payload for _ in range(2)] == [b"x", b"y"]
        with pytest.raises(AlreadyPublished):  # it came from elsewhere
            await b.pubsub.publish(TOPIC, b"x")


@simulated(seeds=(1,))
async def test_what_is_too_large_is_refused_before_anything_is_queued(sim: Sim) -> None:
    params = GossipParams(max_rpc_size=5000, max_message_size=3000)
    async with speakers(sim, 2, params=params) as (a, b), b.pubsub.subscribe(TOPIC) as messages:
        await listeners(a, TOPIC, 1)
        with pytest.raises(MessageTooLarge):
            await a.pubsub.publish(TOPIC, bytes(3001))
        with pytest.raises(MessageTooLarge):
            await a.pubsub.publish(TOPIC, bytes(5000))
        with pytest.raises(LocalProtocolError):
            await a.pubsub.publish("x" * 1025, b"")
        assert a.pubsub.gauges()["queued bytes", ""] == 0
        await a.pubsub.publish(TOPIC, bytes(3000))
        assert len((await messages.__anext__()).payload) == 3000


@simulated(seeds=(1,))
async def test_cancelling_publish_leaves_what_is_queued_on_its_way_and_nothing_behind(sim: Sim) -> None:
    async with speaker(sim, "a", params=NARROW) as a, raw_peer(sim, deaf=True) as slow:
        await introduce(slow, a, TOPIC)
        with trio.move_on_after(1) as scope:
            await publish_at_once(a, FILL, [])
        assert scope.cancelled_caught
        assert not a.pubsub._publications._all
        assert a.pubsub.gauges()["queued bytes", ""] < 3 * BIG
        size = 0
        with trio.move_on_after(1):
            while True:
                size += len(await slow.inbound[0].receive_some())
        assert 3 * BIG <= size < FILL * BIG  # what waited for room in the queue was withdrawn
        await trio.sleep(10)
        assert a.pubsub.counters["own expired", TOPIC] == a.pubsub.counters["disconnected", ""] == 0
        assert a.pubsub.gauges()["queued bytes", ""] == 0
        outcome = await a.pubsub.publish(TOPIC, b"on")
        assert outcome.taken == [slow.peer]


@simulated(seeds=(1,))
async def test_a_publish_that_is_cancelled_already_sends_nothing(sim: Sim) -> None:
    async with speakers(sim, 2) as (a, b), b.pubsub.subscribe(TOPIC):
        await listeners(a, TOPIC, 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await a.pubsub.publish(TOPIC, b"x")
        assert scope.cancelled_caught
        assert a.pubsub.counters["published", TOPIC] == 0


@simulated(seeds=(1, 2))
async def test_a_peer_that_goes_while_publish_waits_has_not_taken_it(sim: Sim) -> None:
    async with speaker(sim, "a", params=NARROW) as a, raw_peer(sim, deaf=True) as deaf:
        await introduce(deaf, a, TOPIC)
        ends: list[tuple[float, Published]] = []
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_at_once, a, FILL, ends)
            await trio.sleep(1)
            await a.switch.disconnect(deaf.peer)
        assert [outcome.expired for _, outcome in ends if not outcome.taken] == [[deaf.peer]] * 3
        assert trio.current_time() - started < 4
        assert not a.pubsub._links


@simulated(seeds=(1,))
async def test_a_peer_whose_stream_was_given_up_takes_nothing_and_holds_up_nobody(sim: Sim) -> None:
    """It resets each stream of ours and keeps its own: `publish` does not wait for what cannot be."""

    async def refuse(stream) -> None:
        stream.reset()

    async with speaker(sim, "a") as a, raw_peer(sim, protocols=()) as raw:
        raw.switch.mount("/meshsub/1.1.0", refuse)
        await introduce(raw, a, TOPIC)
        await until(lambda: a.pubsub.counters["stream given up", ""] == 1)
        assert raw.peer not in a.pubsub.peers()
        with trio.fail_after(0.1), pytest.raises(NobodyListens):
            await a.pubsub.publish(TOPIC, b"x")
        await a.switch.disconnect(raw.peer)  # connected anew it is one again
        await until(lambda: not raw.switch.connections())
        raw.switch.unmount("/meshsub/1.1.0")
        raw.switch.mount("/meshsub/1.1.0", raw.listen)
        await introduce(raw, a, TOPIC)
        assert (await a.pubsub.publish(TOPIC, b"x")).taken == [raw.peer]


@simulated(seeds=(1,))
async def test_a_stream_that_breaks_ends_the_wait_and_nobody_is_put_out(sim: Sim) -> None:
    """What was in it has expired at once; so does what cannot be sent in time, until a new one is opened."""

    async def refuse(stream) -> None:
        await stream.receive_some()
        stream.reset()

    async with speaker(sim, "a") as a, raw_peer(sim, protocols=()) as raw:
        raw.switch.mount(MESHSUB, refuse)
        await introduce(raw, a, TOPIC)
        for pause in (1, 5):  # until a stream that broke is opened again
            with trio.fail_after(1):
                assert (await a.pubsub.publish(TOPIC, bytes(BIG * 5))).expired == [raw.peer]
            if pause == 1:
                await trio.sleep(1.5)
        with trio.fail_after(0.1):
            assert (await a.pubsub.publish(TOPIC, b"in the pause")).expired == [raw.peer]
        raw.switch.unmount(MESHSUB)
        raw.switch.mount(MESHSUB, raw.listen)
        await until(lambda: raw.opened == 1)
        assert (await a.pubsub.publish(TOPIC, b"afterwards")).taken == [raw.peer]
        assert a.pubsub.counters["disconnected", ""] == 0
        assert a.pubsub.gauges()["queued bytes", ""] == 0


@simulated(seeds=(1,))
async def test_who_never_reads_is_put_out_although_every_publish_is_cancelled(sim: Sim) -> None:
    async with speaker(sim, "a", params=NARROW) as a, raw_peer(sim, deaf=True) as deaf:
        await introduce(deaf, a, TOPIC)
        for _ in range(8):
            with trio.move_on_after(1):
                await a.pubsub.publish(TOPIC, bytes(BIG))
        await until(lambda: not a.switch.connections(deaf.peer))
        assert a.pubsub.counters["disconnected", ""] == 1


@simulated(seeds=(1,))
async def test_who_had_nothing_to_take_for_long_is_not_put_out_for_one_publish_that_is_cancelled(sim: Sim) -> None:
    async with speaker(sim, "a") as a, raw_peer(sim) as raw:
        await introduce(raw, a, TOPIC)
        await trio.sleep(60)
        with trio.move_on_after(0.001):
            await a.pubsub.publish(TOPIC, bytes(BIG * 10))
        await trio.sleep(10)
        assert a.switch.connections(raw.peer)
        assert (await a.pubsub.publish(TOPIC, b"x")).taken == [raw.peer]
