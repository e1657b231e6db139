"""Publishing and subscribing: what arrives, what is told, who is held up and who is not."""

import pytest
import trio

from pyp2p import GossipParams, LocalProtocolError, MessageTooLarge, NobodyListens, StrictNoSign, open_pubsub
from pyp2p.errors import AlreadyPublished
from pyp2p.pubsub.filters import matching_topics, only_topics
from pyp2p.pubsub.types import PROTOCOLS
from pyp2p.switch.switch import open_switch
from pyp2p.testing import Sim, simulated
from tests.cancel.steps import CancelAt
from tests.pubsub.support import TOPIC, duo, knows, meet, member
from tests.switch.support import in_use, node, until

MIB = 1024 * 1024


def by_content(message, valid=True) -> bytes:
    return message.data[:8]


@simulated(seeds=(1, 2))
async def test_a_message_arrives_with_all_that_is_known_of_it(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        done = await a.pubsub.publish(TOPIC, b"hello")
        assert (done.taken, done.expired) == ([b.switch.peer], [])
        await until(lambda: b.heard)
        (message,) = b.heard
        assert (message.topic, message.payload, message.source) == (TOPIC, b"hello", a.switch.peer)
        assert message.author == a.switch.peer.raw
        assert message.id == done.message.id
        assert a.payloads == [b"hello"]  # we listen too
        assert b.pubsub.counters["accepted", TOPIC] == a.pubsub.counters["published", TOPIC] == 1


@simulated(seeds=(1,))
async def test_every_subscription_gets_every_message_until_it_ends(sim: Sim) -> None:
    async with duo(sim) as (a, b), b.pubsub.subscribe(TOPIC) as second:
        async with b.pubsub.subscribe(TOPIC) as third:
            await a.pubsub.publish(TOPIC, b"1")
            assert (await anext(second)).payload == (await anext(third)).payload == b"1"
        await a.pubsub.publish(TOPIC, b"2")
        assert (await anext(second)).payload == b"2"
        with pytest.raises(StopAsyncIteration):
            await anext(third)
        await until(lambda: b.payloads == [b"1", b"2"])


@simulated(seeds=(1,))
async def test_the_end_of_the_last_subscription_is_told(sim: Sim) -> None:
    async with duo(sim, b={"listens": False}) as (a, b):
        async with b.pubsub.subscribe(TOPIC):
            await a.pubsub.wait_for_peers(TOPIC)
            await until(lambda: a.pubsub.mesh(TOPIC) == [b.switch.peer])
        await until(lambda: not a.pubsub.peers(TOPIC))
        assert not a.pubsub.mesh(TOPIC)
        assert a.pubsub.peers() == [b.switch.peer]
        with pytest.raises(NobodyListens):
            await a.pubsub.publish(TOPIC, b"hello?")


@simulated(seeds=(1,))
async def test_a_slow_reader_misses_the_newest_and_is_told_how_many(sim: Sim) -> None:
    async with duo(sim, b={"listens": False}) as (a, b):
        subscribe = b.pubsub.subscribe
        async with subscribe(TOPIC, max_count=2) as few, subscribe(TOPIC, max_bytes=1000) as small:
            await a.pubsub.wait_for_peers(TOPIC)
            for size in (900, 900, 10):
                await a.pubsub.publish(TOPIC, bytes(size))
            await until(lambda: b.pubsub.counters["accepted", TOPIC] == 3)
            assert (few.dropped, small.dropped) == (1, 2)
            assert b.pubsub.counters["slow subscriber", TOPIC] == 3
            assert len((await anext(small)).payload) == 900
            await a.pubsub.publish(TOPIC, bytes(11))
            assert len((await anext(small)).payload) == 11  # there is room again


@simulated(seeds=(1,))
async def test_what_cannot_be_published_is_told_and_leaves_nothing(sim: Sim) -> None:
    async with duo(sim, a={"params": GossipParams(max_message_size=100)}) as (a, b):
        with pytest.raises(NobodyListens, match="nowhere"):
            await a.pubsub.publish("nowhere", b"x")
        with pytest.raises(MessageTooLarge) as caught:
            await a.pubsub.publish(TOPIC, bytes(101))
        assert (caught.value.size, caught.value.limit) == (101, 100)
        for topic in ("", "t" * 1025, "\ud800"):
            with pytest.raises(LocalProtocolError):
                await a.pubsub.publish(topic, b"x")
            with pytest.raises(LocalProtocolError):
                async with a.pubsub.subscribe(topic):
                    raise AssertionError("no such topic")
        assert a.pubsub.topics == [TOPIC]
        await a.pubsub.publish(TOPIC, bytes(100))
        await until(lambda: b.heard)


@simulated(seeds=(1,))
async def test_an_rpc_over_the_limit_is_refused_before_it_is_queued(sim: Sim) -> None:
    async with duo(sim, a={"params": GossipParams(max_rpc_size=MIB)}) as (a, b):
        with pytest.raises(MessageTooLarge):
            await a.pubsub.publish(TOPIC, bytes(MIB))
        await a.pubsub.publish(TOPIC, bytes(MIB - 300))
        await until(lambda: b.heard)


@simulated(seeds=(1,))
async def test_the_same_content_is_not_published_twice(sim: Sim) -> None:
    unsigned = {"policy": StrictNoSign(), "message_id": by_content}
    async with duo(sim, unsigned, unsigned) as (a, b):
        await a.pubsub.publish(TOPIC, b"the same")
        with pytest.raises(AlreadyPublished):
            await a.pubsub.publish(TOPIC, b"the same")
        with pytest.raises(NobodyListens):
            await a.pubsub.publish("nowhere", b"whatever")
        with pytest.raises(NobodyListens):  # what reached nobody may be tried again
            await a.pubsub.publish("nowhere", b"whatever")
        await until(lambda: b.payloads == [b"the same"])


async def test_settings_that_do_not_go_together_are_refused() -> None:
    async with open_switch() as switch:
        with pytest.raises(ValueError, match="message_id"):
            async with open_pubsub(switch, policy=StrictNoSign()):
                raise AssertionError("ids would be empty")
        with pytest.raises(ValueError, match="explicit"):
            async with open_pubsub(switch, explicit=["/ip4/127.0.0.1/tcp/1"]):
                raise AssertionError("nobody is named")
        assert not set(PROTOCOLS) & set(switch.peers.protocols(switch.peer))
        async with open_pubsub(switch):
            pass


@simulated(seeds=(1, 2, 3))
async def test_hostile_075_one_who_does_not_read_holds_up_neither_us_for_long_nor_the_others(sim: Sim) -> None:
    """The slow one's stream and queue fill up; what waits for it expires, and it is disconnected and counted."""
    params = GossipParams(queue_bytes=MIB, publish_timeout=5.0, flood_publish=True)
    async with member(sim, "a", params=params) as a, member(sim, "b") as b, member(sim, "c") as c:
        async with node(sim, "deaf") as deaf:

            async def ignore(stream) -> None:
                await trio.sleep_forever()

            deaf.mount(["/meshsub/1.1.0"], ignore)
            connection = await deaf.connect(a.switch.multiaddrs[0])
            await meet(a, b, c)
            async with await connection.open_stream("/meshsub/1.1.0") as stream:
                await stream.send_all(b"\x0a\x0a\x08\x08\x01\x12\x04news")  # it listens, it says
                await a.pubsub.wait_for_peers(TOPIC, 3)
                expired = 0
                started = trio.current_time()
                times = []
                for number in range(40):
                    before = trio.current_time()
                    done = await a.pubsub.publish(TOPIC, number.to_bytes(4, "big") + bytes(MIB // 2))
                    assert {b.switch.peer, c.switch.peer} <= set(done.taken)
                    times.append(trio.current_time() - before)
                    expired += len(done.expired)
                    if deaf.peer not in a.pubsub.peers():
                        break
                assert expired >= 1
                assert max(times) <= 5.0 + 0.1
                await until(lambda: not deaf.connections())
                assert trio.current_time() - started < 30
        assert a.pubsub.counters["disconnected", ""] == 1
        assert a.pubsub.counters["own expired", TOPIC] == expired
        assert len(b.heard) == len(c.heard) == number + 1
        done = await a.pubsub.publish(TOPIC, b"all is well")
        assert done.expired == []


@simulated(seeds=(1,))
async def test_hostile_075_forwarded_messages_give_way_and_are_counted(sim: Sim) -> None:
    """b forwards to a deaf one: b's memory is bounded, nobody else notices."""
    params = GossipParams(queue_bytes=MIB)
    async with member(sim, "a") as a, member(sim, "b", params=params) as b, node(sim, "deaf") as deaf:

        async def ignore(stream) -> None:
            await trio.sleep_forever()

        deaf.mount(["/meshsub/1.1.0"], ignore)
        connection = await deaf.connect(b.switch.multiaddrs[0])
        async with await connection.open_stream("/meshsub/1.1.0") as stream:
            await stream.send_all(b"\x0a\x0a\x08\x08\x01\x12\x04news\x1a\x08\x1a\x06\x0a\x04news")  # and grafts
            await meet(a, b)
            await until(lambda: deaf.peer in b.pubsub.mesh(TOPIC))
            for number in range(40):
                await a.pubsub.publish(TOPIC, number.to_bytes(4, "big") + bytes(MIB // 4))
            await until(lambda: len(b.heard) == 40)
            assert b.pubsub.counters["forwarded dropped: queue full", TOPIC] > 0
            assert b.pubsub.gauges()["queued bytes", ""] <= MIB + 300_000


@simulated(seeds=(1,))
async def test_a_peer_that_goes_while_we_publish_counts_as_expired(sim: Sim) -> None:
    async with member(sim, "a", params=GossipParams(queue_bytes=1000)) as a, node(sim, "deaf") as deaf:

        async def ignore(stream) -> None:
            await trio.sleep_forever()

        deaf.mount(["/meshsub/1.1.0"], ignore)
        connection = await deaf.connect(a.switch.multiaddrs[0])
        async with await connection.open_stream("/meshsub/1.1.0") as stream:
            await stream.send_all(b"\x0a\x0a\x08\x08\x01\x12\x04news")
            await a.pubsub.wait_for_peers(TOPIC)
            results = []

            async def publish() -> None:
                results.append(await a.pubsub.publish(TOPIC, bytes(3 * MIB)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish)
                await trio.sleep(1)
                began = trio.current_time()
                await a.switch.disconnect(deaf.peer)
            assert trio.current_time() - began < 3
            assert [result.expired for result in results] == [[deaf.peer]]
            assert a.pubsub.peers() == []


@simulated(seeds=(1,))
async def test_cancelling_a_publication_leaves_it_on_its_way(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        for step in range(1, 6):
            with trio.CancelScope() as scope:
                trio.lowlevel.add_instrument(instrument := CancelAt(scope, step))
                await a.pubsub.publish(TOPIC, bytes([step]))
            trio.lowlevel.remove_instrument(instrument)
        await a.pubsub.publish(TOPIC, b"last")
        await until(lambda: b.payloads and b.payloads[-1] == b"last")
        assert not a.pubsub._publications
        assert len(set(b.payloads)) == len(b.payloads)


@simulated(seeds=(1,))
async def test_filters_hold_for_peers_and_for_us(sim: Sim) -> None:
    def crashes(topic: str) -> bool:
        raise ZeroDivisionError

    for allows in (only_topics([TOPIC]), matching_topics("ne.s")):
        async with duo(sim, a={"allows": allows}) as (a, b), b.pubsub.subscribe("other"):
            await until(lambda: a.pubsub.counters["subscription filtered", ""] == 1)
            assert a.pubsub.peers("other") == []
            with pytest.raises(LocalProtocolError, match="other"):
                async with a.pubsub.subscribe("other"):
                    raise AssertionError
    async with member(sim, "a", listens=False, allows=crashes) as a, member(sim, "b") as b:
        await a.switch.connect(b.switch.multiaddrs[0])
        await until(lambda: a.pubsub.counters["subscription filtered", ""] == 1)
    with pytest.raises(ValueError, match="regular expression"):
        matching_topics("(")


@simulated(seeds=(1, 2))
async def test_closing_leaves_nothing(sim: Sim) -> None:
    async with node(sim, "b") as other, open_pubsub(other) as theirs, node(sim, "a") as switch:
        async with open_pubsub(switch) as pubsub:
            await switch.connect(other.multiaddrs[0])
            async with theirs.subscribe(TOPIC):
                await pubsub.wait_for_peers(TOPIC)
        await until(lambda: not pubsub._links and not pubsub._served)
        assert not set(PROTOCOLS) & set(switch._table.names())
        await until(lambda: not theirs.peers())
        (connection,) = switch.connections()
        assert not [stream for stream in connection.streams.values() if "sub" in stream.protocol]
        async with open_pubsub(switch) as again, again.subscribe(TOPIC):  # on the connection that is there
            await theirs.wait_for_peers(TOPIC)
    assert not any(in_use(other).values())


@simulated(seeds=(1,))
async def test_who_begins_later_is_found(sim: Sim) -> None:
    """Neither had pubsub when they met."""
    async with node(sim, "b") as second, node(sim, "a") as first:
        await first.connect(second.multiaddrs[0])
        async with open_pubsub(first) as one, one.subscribe(TOPIC):
            await trio.sleep(5)
            async with open_pubsub(second) as two:
                await two.wait_for_peers(TOPIC)
                await until(lambda: two.peers() == [first.peer])
                assert (await two.publish(TOPIC, b"x")).taken == [first.peer]


@simulated(seeds=(1,))
async def test_what_was_said_before_the_end_is_heard(sim: Sim) -> None:
    async with member(sim, "b") as b:
        async with member(sim, "a") as a:
            await meet(a, b)
            for number in range(20):
                await a.pubsub.publish(TOPIC, bytes([number]) + bytes(100_000))
        await until(lambda: not b.pubsub.peers())
        assert [payload[0] for payload in b.payloads] == list(range(20))
        assert not knows(b, a)
