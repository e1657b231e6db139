"""Streams and peers: one outbound stream for each, whoever dialled and however often."""

from itertools import pairwise

import pytest
import trio

from pyp2p import GossipParams, NobodyListens, ScoreParams, TopicScoreParams
from pyp2p.io.varint import LengthPrefixed
from pyp2p.peer.record import PeerRecord, seal
from pyp2p.pubsub.types import PROTOCOLS, Connect, Kind, Rpc
from pyp2p.pubsub.wire import decode_rpc
from pyp2p.switch.service import Service
from pyp2p.testing import Sim, simulated
from tests.pubsub.support import TOPIC, duo, meet, member
from tests.switch.support import node, until

HELLO = b"\x0a\x0a\x08\x08\x01\x12\x04news"


async def sink(stream) -> None:
    async for _ in stream:
        pass


def gossip_streams(member) -> list:
    return [
        stream
        for connection in member.switch.connections()
        for stream in connection.streams.values()
        if stream.protocol in PROTOCOLS
    ]


@simulated(seeds=(1, 2))
async def test_two_one_way_streams_and_no_more(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        await trio.sleep(60)
        for one in (a, b):
            assert sorted(stream.direction.value for stream in gossip_streams(one)) == ["inbound", "outbound"]
            assert {stream.protocol for stream in gossip_streams(one)} == {"/meshsub/1.3.0"}


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@simulated(seeds=(1,))
async def test_the_newest_common_protocol_is_spoken(sim: Sim, protocol: str) -> None:
    spoken = list(PROTOCOLS)[list(PROTOCOLS).index(protocol) :]
    heard: list[str] = []
    async with node(sim, "b") as other, member(sim, "a") as a:

        async def note(stream) -> None:
            heard.append(stream.protocol)
            async for _ in stream:
                pass

        other.mount(spoken, note)
        await a.switch.connect(other.multiaddrs[0])
        await until(lambda: heard)
        assert heard == [protocol]
        state = a.pubsub._router.table.get(other.peer)
        assert state.kind is PROTOCOLS[protocol]
        assert state.kind.gossips is (state.kind is not Kind.FLOODSUB)


@simulated(seeds=(1, 2))
async def test_the_next_connection_takes_over_with_a_hello(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        again = await b.switch.connect(a.switch.multiaddrs[0])
        first = a.switch.connections(b.switch.peer)[0]
        raw = await a.switch._transports[0].dial(b.switch.addresses[0])  # a second connection beside the first
        second = await a.switch.adopt(raw.stream, kind=raw.kind, direction=first.direction)
        assert again.peer == a.switch.peer
        await trio.sleep(1)
        assert len(gossip_streams(a)) == 2
        assert len(a.pubsub.peers()) == 1
        await first.aclose()
        await until(lambda: len(gossip_streams(a)) == 2 and all(s.connection is second for s in gossip_streams(a)))
        assert a.pubsub.peers(TOPIC) == [b.switch.peer]
        await a.pubsub.publish(TOPIC, b"over the second")
        await b.pubsub.publish(TOPIC, b"and back")
        await until(lambda: b"over the second" in b.payloads and b"and back" in a.payloads)


@simulated(seeds=(1,))
async def test_a_stream_that_breaks_is_opened_again_three_times_in_a_row(sim: Sim) -> None:
    times: list[float] = []
    async with node(sim, "b") as other, member(sim, "a") as a:

        async def refuse(stream) -> None:
            times.append(trio.current_time())
            await stream.receive_some(1)
            stream.reset()

        other.mount("/meshsub/1.1.0", refuse)
        await a.switch.connect(other.multiaddrs[0])
        await until(lambda: a.pubsub.counters["stream given up", ""])
        gaps = [round(later - before) for before, later in pairwise(times)]
        assert gaps == [1, 5, 20]
        assert a.pubsub.peers() == []
        await trio.sleep(100)
        assert len(times) == 4
        # When it opens a stream of its own it is tried again.
        async with await other.open_stream(a.switch.peer, "/meshsub/1.1.0") as stream:
            await stream.send_all(HELLO)
            await until(lambda: len(times) > 4)


@simulated(seeds=(1,))
async def test_who_takes_no_stream_holds_up_no_publication(sim: Sim) -> None:
    """It speaks to us, and refuses to be spoken to."""
    async with node(sim, "b") as other, member(sim, "a") as a:

        async def refuse(stream) -> None:
            stream.reset()

        other.mount("/meshsub/1.1.0", refuse)
        connection = await other.connect(a.switch.multiaddrs[0])
        async with await connection.open_stream("/meshsub/1.1.0") as stream:
            await stream.send_all(HELLO)
            await a.pubsub.wait_for_peers(TOPIC)
            await until(lambda: a.pubsub.counters["stream given up", ""])
            assert a.pubsub.peers() == []
            await until(lambda: stream.sub.reset_code is not None)
            with pytest.raises(NobodyListens):
                await a.pubsub.publish(TOPIC, b"x")


@simulated(seeds=(1,))
async def test_a_new_stream_says_anew_what_we_listen_to_and_whom_we_keep(sim: Sim) -> None:
    said: list[Rpc] = []
    streams = []
    async with node(sim, "b") as other, member(sim, "a") as a:

        async def note(stream) -> None:
            streams.append(stream)
            framer = LengthPrefixed(1 << 20)
            async for chunk in stream:
                said.extend(map(decode_rpc, framer.feed(chunk)))

        other.mount("/meshsub/1.1.0", note)
        connection = await other.connect(a.switch.multiaddrs[0])
        async with await connection.open_stream("/meshsub/1.1.0") as stream:
            await stream.send_all(HELLO)
            await until(lambda: any(rpc.graft for rpc in said))
            said.clear()
            streams[0].reset()
            await until(lambda: len(streams) == 2 and any(rpc.graft for rpc in said))
            assert [topic for rpc in said for _, topic in rpc.subscriptions] == [TOPIC]
            assert a.pubsub.mesh(TOPIC) == [other.peer]


@simulated(seeds=(1,))
async def test_a_second_inbound_stream_resets_the_first(sim: Sim) -> None:
    async with node(sim, "b") as other, member(sim, "a") as a:
        connection = await other.connect(a.switch.multiaddrs[0])
        first = await connection.open_stream("/meshsub/1.1.0")
        await first.send_all(HELLO)
        other.mount("/meshsub/1.1.0", sink)
        await a.pubsub.wait_for_peers(TOPIC)
        async with await connection.open_stream("/meshsub/1.1.0") as second:
            await second.send_all(HELLO)
            await until(lambda: first.sub.reset_code is not None)
            assert a.pubsub.peers(TOPIC) == [other.peer]


@simulated(seeds=(1,))
async def test_explicit_peers_get_everything_and_are_dialled_again(sim: Sim) -> None:
    async with member(sim, "b") as b:
        params = GossipParams(direct_connect_ticks=5, flood_publish=False)
        async with member(sim, "a", params=params, explicit=[b.switch.multiaddrs[0]]) as a:
            await a.pubsub.wait_for_peers(TOPIC)
            await trio.sleep(3)
            assert a.pubsub.mesh(TOPIC) == []
            await a.pubsub.publish(TOPIC, b"1")
            await until(lambda: b.payloads == [b"1"])
            await a.switch.disconnect(b.switch.peer)
            await until(lambda: not a.pubsub.peers())
            await a.pubsub.wait_for_peers(TOPIC)


@simulated(seeds=(1, 2))
async def test_px_leads_to_a_peer_by_its_signed_record(sim: Sim) -> None:
    """b prunes a and offers c, whom a does not know."""
    trusting = {"params": GossipParams(do_px=True), "application": lambda peer: 100.0, "score": ScoreParams()}
    full = GossipParams(do_px=True, d=1, d_low=1, d_high=1, d_score=1, d_out=0)
    async with (
        member(sim, "a", **trusting) as a,
        member(sim, "b", params=full, score=ScoreParams()) as b,
        member(sim, "c") as c,
    ):
        await meet(c, b)
        await until(lambda: c.switch.peer in b.pubsub.mesh(TOPIC))
        await meet(a, b)
        await until(lambda: c.switch.peer in a.pubsub.peers(TOPIC))


@pytest.mark.hostile
@simulated(seeds=(1,))
async def test_hostile_068_dials_to_offered_peers_are_few_and_their_failures_harm_nobody(sim: Sim) -> None:
    async def refuse(connection) -> None:
        raise ZeroDivisionError("whatever an application raises")

    options = {"params": GossipParams(do_px=True), "application": lambda peer: 100.0, "score": ScoreParams()}
    async with duo(sim, a=options) as (a, b), member(sim, "c") as c:
        a.switch.attach(Service("strict", admit=refuse))
        record = seal(c.switch.identity, PeerRecord(c.switch.peer, 1, tuple(c.switch.addresses)))
        for _ in range(200):
            a.pubsub._router._out.append(Connect(c.switch.peer.raw, record))
        a.pubsub._carry_out()
        assert a.pubsub._dialling == 64
        await until(lambda: a.pubsub._dialling == 0)
        await a.pubsub.publish(TOPIC, b"still here")
        await until(lambda: b.payloads == [b"still here"])


@simulated(seeds=(1,))
async def test_a_crashing_score_of_the_application_ends_nothing(sim: Sim) -> None:
    def crashes(peer) -> float:
        raise ZeroDivisionError

    options = {"application": crashes, "score": ScoreParams(topics={TOPIC: TopicScoreParams()})}
    async with duo(sim, a=options) as (a, b):
        await trio.sleep(10)
        assert a.pubsub.counters["application score failed", ""] > 0
        await a.pubsub.publish(TOPIC, b"x")
        await until(lambda: b.payloads == [b"x"])
        assert a.pubsub.score(b.switch.peer).p5 == 0


@simulated(seeds=(1,))
async def test_figures_are_told_as_plain_values(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        await a.pubsub.publish(TOPIC, bytes(5000))
        await until(lambda: b.heard and b.pubsub.mesh(TOPIC))
        gauges = b.pubsub.gauges()
        assert gauges["peers", ""] == gauges["topic peers", TOPIC] == gauges["mesh peers", TOPIC] == 1
        assert gauges["seen bytes", ""] > 0
        assert gauges["message cache bytes", ""] > 5000
        assert all(type(value) is int for value in [*gauges.values(), *b.pubsub.counters.values()])
