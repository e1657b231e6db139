"""The two one-way streams of each peer: which connection carries ours, what ends it, when it is opened again."""

import itertools

import pytest
import trio

from pyp2p.pubsub.service import open_pubsub
from pyp2p.pubsub.wire import graft_fragment, publish_fragment
from pyp2p.switch.connection import Connection
from pyp2p.testing import LinkQuality, Sim, run_sim, simulated
from tests.cancel.steps import CancelAt
from tests.pubsub.support import (
    MESHSUB,
    TOPIC,
    Node,
    introduce,
    listener,
    listeners,
    raw_peer,
    speaker,
    speakers,
    subscription,
)
from tests.switch.support import node, until

HELLO = [(True, TOPIC)]


def outbound(node: Node, peer) -> list[Connection]:
    """The connections on which `node` has a pubsub stream of its own open to `peer`."""
    return [
        connection
        for connection in node.switch.connections(peer)
        for stream in connection.streams.values()
        if stream.protocol.startswith("/meshsub") and not stream.sub.inbound
    ]


async def connect_twice(sim: Sim, a: Node, b: Node) -> None:
    """Both dial at the same time: two connections, one in each direction."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.switch.connect, b.address)
        nursery.start_soon(b.switch.connect, a.address)
    assert len(a.switch.connections(b.peer)) == 2


@simulated(seeds=(1, 2))
async def test_two_connections_carry_one_stream_and_the_other_takes_over_with_a_hello(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.05)
    async with speaker(sim, "a") as a, raw_peer(sim) as raw, a.pubsub.subscribe(TOPIC):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.switch.connect, raw.switch.multiaddrs[0])
            nursery.start_soon(raw.switch.connect, a.address)
        assert len(a.switch.connections(raw.peer)) == 2
        await raw.open(a.peer)
        await raw.say(subscription("other"))
        await until(lambda: raw.peer in a.pubsub.peers("other"))
        await trio.sleep(2)
        assert raw.opened == 1
        assert raw.subscribed() == HELLO
        (first,) = outbound(a, raw.peer)
        assert len(a.switch.connections(raw.peer)) == 2
        second = next(each for each in a.switch.connections(raw.peer) if each is not first)
        await first.aclose()
        await until(lambda: raw.opened == 2)
        await until(lambda: raw.subscribed() == HELLO * 2)
        assert outbound(a, raw.peer) == [second]
        assert raw.peer in a.pubsub.peers()
        await second.aclose()
        await until(lambda: not a.pubsub.peers())
        assert not a.pubsub._links
        assert not a.pubsub._served


@simulated(seeds=(1, 2, 3))
async def test_nothing_is_lost_between_two_that_are_connected_twice(sim: Sim) -> None:
    """The states at both ends stay while one of the connections ends."""
    sim.net.quality = LinkQuality(latency=0.05)
    async with speaker(sim, "a") as a, speaker(sim, "b") as b, b.pubsub.subscribe(TOPIC) as messages:
        await connect_twice(sim, a, b)
        await listeners(a, TOPIC, 1)
        await trio.sleep(2)
        assert len(outbound(a, b.peer)) == len(outbound(b, a.peer)) == 1
        await a.pubsub.publish(TOPIC, b"1")
        assert (await messages.__anext__()).payload == b"1"
        await outbound(a, b.peer)[0].aclose()
        with trio.fail_after(5):
            assert (await a.pubsub.publish(TOPIC, b"2")).taken == [b.peer]
            assert (await messages.__anext__()).payload == b"2"
        assert a.pubsub.peers(TOPIC) == [b.peer]


@simulated(seeds=(1,))
async def test_a_stream_that_is_reset_is_opened_again_three_times_in_a_row(sim: Sim) -> None:
    """After 1, 5 and 20 seconds, each with a hello; then it is given up, and so is the peer."""
    times: list[float] = []

    async def refuse(stream) -> None:
        await stream.receive_some()
        times.append(trio.current_time())
        stream.reset()

    async with speaker(sim, "a") as a, raw_peer(sim, protocols=()) as raw, a.pubsub.subscribe(TOPIC):
        raw.switch.mount(MESHSUB, refuse)
        await introduce(raw, a, TOPIC)
        await until(lambda: a.pubsub.counters["stream given up", ""])
        assert [round(b - a) for a, b in itertools.pairwise(times)] == [1, 5, 20]
        assert not a.pubsub.peers()
        await trio.sleep(100)
        assert len(times) == 4
        assert a.pubsub.counters["stream given up", ""] == 1
        assert a.switch.connections(raw.peer)


@simulated(seeds=(1,))
async def test_after_a_steady_minute_it_is_opened_again_as_if_for_the_first_time(sim: Sim) -> None:
    async with speaker(sim, "a") as a, raw_peer(sim) as raw, a.pubsub.subscribe(TOPIC):
        await introduce(raw, a)
        for times in range(1, 7):
            await until(lambda times=times: raw.opened == times)
            await until(lambda times=times: raw.subscribed() == HELLO * times)
            await trio.sleep(61)
            raw.inbound[-1].reset()
        await until(lambda: raw.opened == 7)
        assert a.pubsub.peers() == [raw.peer]


@simulated(seeds=(1,))
async def test_a_new_stream_says_again_in_which_meshes_the_peer_is(sim: Sim) -> None:
    async with speaker(sim, "a") as a, raw_peer(sim) as raw, a.pubsub.subscribe(TOPIC):
        await introduce(raw, a, TOPIC)
        await until(lambda: any(rpc.graft for rpc in raw.heard))
        raw.heard.clear()
        raw.inbound[0].reset()
        await until(lambda: any(rpc.graft for rpc in raw.heard))
        assert raw.opened == 2
        assert raw.subscribed() == HELLO
        assert a.pubsub.mesh(TOPIC) == [raw.peer]


@simulated(seeds=(1,))
async def test_a_second_stream_of_a_peer_resets_the_first(sim: Sim) -> None:
    async with speaker(sim, "a") as a, raw_peer(sim) as raw:
        await introduce(raw, a, TOPIC)
        first = raw.out
        await raw.open(a.peer)
        await raw.say(subscription("other"))
        await until(lambda: raw.peer in a.pubsub.peers("other"))
        with pytest.raises(trio.BrokenResourceError):
            await first.receive_some()
        assert raw.peer in a.pubsub.peers(TOPIC)
        await raw.say(subscription("third"))
        await until(lambda: raw.peer in a.pubsub.peers("third"))


@simulated(seeds=(1,))
async def test_the_end_of_a_peers_stream_is_not_the_end_of_the_peer(sim: Sim) -> None:
    """And its stream is not ended from here while it is open: go takes that as the death of the peer."""
    async with speaker(sim, "a") as a, raw_peer(sim) as raw:
        await introduce(raw, a, TOPIC)
        with trio.move_on_after(5) as scope:
            await raw.out.receive_some()
        assert scope.cancelled_caught
        await raw.out.send_eof()
        await trio.sleep(1)
        assert a.pubsub.peers(TOPIC) == [raw.peer]
        assert (await a.pubsub.publish(TOPIC, b"x")).taken == [raw.peer]
        await until(lambda: len(raw.got()) == 1)
        await raw.open(a.peer)
        await raw.say(subscription("other"))
        await until(lambda: raw.peer in a.pubsub.peers("other"))


@simulated(seeds=(1,))
async def test_the_end_of_our_stream_by_the_peer_does_not_stop_us_writing(sim: Sim) -> None:
    async with speaker(sim, "a") as a, raw_peer(sim) as raw:
        await introduce(raw, a, TOPIC)
        await until(lambda: raw.inbound)
        await raw.inbound[0].send_eof()
        await trio.sleep(1)
        await a.pubsub.publish(TOPIC, b"x")
        await until(lambda: len(raw.got()) == 1)
        assert raw.opened == 1


@simulated(seeds=(1, 2))
async def test_a_peer_that_begins_with_pubsub_later_is_found(sim: Sim) -> None:
    async with speaker(sim, "a") as a, node(sim, "b") as b, a.pubsub.subscribe(TOPIC) as messages:
        await b.connect(a.address)
        await trio.sleep(1)
        assert not a.pubsub.peers()
        async with open_pubsub(b) as pubsub:
            await until(lambda: a.peer in pubsub.peers(TOPIC))
            assert a.pubsub.peers() == [b.peer]
            await pubsub.publish(TOPIC, b"x")
            assert (await messages.__anext__()).payload == b"x"
        await until(lambda: not outbound(a, b.peer))


@simulated(seeds=(1,))
async def test_both_begin_with_pubsub_after_they_met(sim: Sim) -> None:
    """The later one says so by identify; the earlier one has given up to open a stream by then."""
    async with node(sim, "a") as a, node(sim, "b") as b:
        await a.connect(b.multiaddrs[0])
        async with open_pubsub(a) as at_a, at_a.subscribe(TOPIC):
            await trio.sleep(5)
            async with open_pubsub(b) as at_b:
                await at_b.wait_for_peers(TOPIC)
                await until(lambda: at_b.peers() == [a.peer])
                assert (await at_b.publish(TOPIC, b"x")).taken == [a.peer]


@simulated(seeds=(1, 2))
async def test_pubsub_that_begins_when_peers_are_connected_already(sim: Sim) -> None:
    async with node(sim, "a") as a, node(sim, "b") as b:
        await b.connect(a.multiaddrs[0])
        async with open_pubsub(a) as at_a, open_pubsub(b) as at_b, at_a.subscribe(TOPIC) as messages:
            await until(lambda: at_b.peers(TOPIC) == [a.peer])
            await at_b.publish(TOPIC, b"x")
            assert (await messages.__anext__()).payload == b"x"
            assert at_a.peers() == [b.peer]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["/floodsub/1.0.0", "/meshsub/1.0.0"], "/meshsub/1.0.0"),
        (["/meshsub/1.1.0", "/meshsub/1.3.0", "/meshsub/1.2.0"], "/meshsub/1.3.0"),
        (["/floodsub/1.0.0"], "/floodsub/1.0.0"),
    ],
)
@simulated(seeds=(1,))
async def test_the_newest_protocol_of_both_is_spoken(sim: Sim, offered: list[str], chosen: str) -> None:
    async with speaker(sim, "a") as a, raw_peer(sim, protocols=offered) as raw, a.pubsub.subscribe(TOPIC):
        await introduce(raw, a, TOPIC, protocol=offered[0])
        await until(lambda: raw.inbound)
        assert raw.inbound[0].protocol == chosen
        await trio.sleep(3)
        assert (raw.peer in a.pubsub.mesh(TOPIC)) is (chosen != "/floodsub/1.0.0")
        await a.pubsub.publish(TOPIC, b"x")
        await until(lambda: len(raw.got()) == 1)


@simulated(seeds=(1,))
async def test_a_peer_that_speaks_and_does_not_listen_is_none(sim: Sim) -> None:
    """It opens a stream to us and serves none: what waits for it is let go."""
    async with speaker(sim, "a") as a, raw_peer(sim, protocols=()) as raw, a.pubsub.subscribe(TOPIC):
        await introduce(raw, a, TOPIC)
        await until(lambda: a.pubsub.counters["stream given up", ""])
        assert not a.pubsub.peers()
        with pytest.raises(trio.BrokenResourceError):
            await raw.out.receive_some()
        raw.switch.mount(MESHSUB, raw.listen)  # until it does
        await introduce(raw, a, TOPIC)
        assert a.pubsub.peers() == [raw.peer]
        assert a.switch.connections(raw.peer)


@simulated(seeds=(1,))
async def test_who_leaves_waits_until_peers_have_read_and_no_longer_than_a_second(sim: Sim) -> None:
    async with raw_peer(sim) as reading, raw_peer(sim, "deaf", deaf=True) as deaf:
        for raw, least, most in ((reading, 0, 0.1), (deaf, 1, 1.1)):
            async with node(sim, "a") as a:
                async with open_pubsub(a) as pubsub:
                    await introduce(raw, Node(a, pubsub), TOPIC)
                    await pubsub.publish(TOPIC, bytes(100_000))
                    began = trio.current_time()
                assert least <= trio.current_time() - began <= most


@simulated(seeds=(1,))
async def test_what_waits_for_a_peer_that_goes_is_counted(sim: Sim) -> None:
    async with speakers(sim, 2) as (a, b), a.pubsub.subscribe(TOPIC) as messages, raw_peer(sim, deaf=True) as deaf:
        await introduce(deaf, a, TOPIC)
        await until(lambda: deaf.peer in a.pubsub.mesh(TOPIC))
        await listeners(b, TOPIC, 1)
        for _ in range(10):
            await b.pubsub.publish(TOPIC, bytes(100_000))
            await messages.__anext__()
        await a.switch.disconnect(deaf.peer)
        await until(lambda: deaf.peer not in a.pubsub.peers())
        lost = a.pubsub.counters["lost with its stream", ""]
        assert lost
        assert a.pubsub.counters["forwarded dropped: peer gone", TOPIC] == 10 - 2 - lost  # two are in its window


@simulated(seeds=(1,))
async def test_what_was_said_before_the_end_is_heard(sim: Sim) -> None:
    async with listener(sim, "b") as b:
        async with speaker(sim, "a") as a:
            await a.switch.connect(b.address)
            await a.pubsub.wait_for_peers(TOPIC)
            for number in range(20):
                await a.pubsub.publish(TOPIC, bytes([number]) + bytes(100_000))
        await until(lambda: not b.pubsub.peers())
        assert [payload[0] for payload in b.payloads] == list(range(20))


@simulated(seeds=(1,))
async def test_a_cut_off_rpc_counts_against_the_peer(sim: Sim) -> None:
    async with speaker(sim, "a") as a, raw_peer(sim) as raw:
        await introduce(raw, a, TOPIC)
        await raw.out.send_all(b"\x05abc")
        await raw.out.send_eof()
        await until(lambda: a.pubsub.counters["malformed", ""] == 1)
        assert a.pubsub.peers() == [raw.peer]


@simulated(seeds=(1, 2))
async def test_closing_leaves_no_task_no_stream_and_nothing_mounted(sim: Sim) -> None:
    async with node(sim, "a") as a, speakers(sim, 2) as (b, c), raw_peer(sim) as raw:
        served = a._table.names()
        for other in (b.address, c.address, raw.switch.multiaddrs[0]):
            await a.connect(other)
        await trio.sleep(1)
        before = trio.lowlevel.current_statistics().tasks_living

        async def slow(message):
            await trio.sleep_forever()

        async with open_pubsub(a) as pubsub, pubsub.subscribe(TOPIC) as messages:
            pubsub.add_validator(TOPIC, slow)
            await listeners(b, TOPIC, 1)
            await until(lambda: len(pubsub.peers()) == 3)
            await b.pubsub.publish(TOPIC, b"x")
            await raw.open(a.peer)
            await raw.say(graft_fragment(TOPIC))
            await until(lambda: pubsub.gauges()["validating bytes", ""])
        assert [message async for message in messages] == []
        assert a._table.names() == served
        assert not [s for s in a._establisher.services if s.name == "pubsub"]
        await until(lambda: not any(c.streams for c in a.connections()))
        await until(lambda: trio.lowlevel.current_statistics().tasks_living <= before + 2)  # the others still try
        assert not pubsub._links
        assert not pubsub._served
        assert len(a.connections()) == 3
        async with open_pubsub(a) as pubsub, pubsub.subscribe(TOPIC) as messages:  # and again
            await until(lambda: len(pubsub.peers()) >= 2)
            await listeners(b, TOPIC, 1)
            await b.pubsub.publish(TOPIC, b"y")
            assert (await messages.__anext__()).payload == b"y"


@simulated(seeds=(1,))
async def test_what_comes_while_it_closes_harms_nobody(sim: Sim) -> None:
    """RPCs are on their way in every moment of the end; a crash would be logged as an error of the handler."""
    async with node(sim, "a") as a, raw_peer(sim) as raw:
        await raw.switch.connect(a.multiaddrs[0])
        for _ in range(5):
            async with open_pubsub(a) as pubsub, pubsub.subscribe(TOPIC), trio.open_nursery() as nursery:

                async def pour() -> None:
                    await raw.open(a.peer)
                    try:
                        while True:
                            await raw.say(subscription(TOPIC), publish_fragment(bytes(50)), graft_fragment(TOPIC))
                            await trio.sleep(0.001)
                    except trio.BrokenResourceError:
                        pass

                await until(lambda pubsub=pubsub: pubsub.peers())
                nursery.start_soon(pour)
                await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
        assert a.connections(raw.peer)


async def whole_life(sim: Sim, step: int) -> bool:
    """Pubsub begins, meets two peers, publishes, and is cancelled after `step` steps; True when it ended before."""
    async with node(sim, "a") as a, speaker(sim, "b") as b, b.pubsub.subscribe(TOPIC):
        await a.connect(b.address)
        before = a._table.names()
        with trio.CancelScope() as scope:
            instrument = CancelAt(scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                async with open_pubsub(a) as pubsub, pubsub.subscribe(TOPIC):
                    await pubsub.wait_for_peers(TOPIC)
                    await pubsub.publish(TOPIC, b"x")
            finally:
                trio.lowlevel.remove_instrument(instrument)
        assert a._table.names() == before
        assert not [s for s in a._establisher.services if s.name == "pubsub"]
        await until(lambda: not any(c.streams for c in a.connections()))
        await trio.sleep(1)  # sequence numbers begin with the time
        async with open_pubsub(a) as pubsub, b.pubsub.subscribe("again") as messages:
            await pubsub.wait_for_peers("again")
            await pubsub.publish("again", b"x")
            assert (await messages.__anext__()).payload == b"x"
    assert not sim.net.connections()
    return not scope.cancelled_caught


def test_cancelled_at_every_step_it_leaves_nothing_behind() -> None:
    for step in range(1, 400):
        if run_sim(whole_life, 1, step):
            assert step > 10
            return
    pytest.fail("too many steps")


@simulated(seeds=(1, 2, 3))
async def test_of_two_connections_the_one_that_both_sides_give_up_ends_and_nothing_is_lost(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.05)
    async with (
        speaker(sim, "a") as a,
        speaker(sim, "b") as b,
        a.pubsub.subscribe(TOPIC),
        b.pubsub.subscribe(TOPIC) as messages,
    ):
        await connect_twice(sim, a, b)
        await a.pubsub.wait_for_peers(TOPIC)
        sent = [b"%d" % number for number in range(60)]
        for payload in sent:
            await a.pubsub.publish(TOPIC, payload)
            await trio.sleep(0.1)
        assert len(a.switch.connections(b.peer)) == len(b.switch.connections(a.peer)) == 1
        assert [(await anext(messages)).payload for _ in sent] == sent
        assert a.pubsub.peers(TOPIC) == [b.peer]
        assert b.pubsub.peers(TOPIC) == [a.peer]
        assert not [what for what, _ in a.pubsub.counters if "lost" in what]
