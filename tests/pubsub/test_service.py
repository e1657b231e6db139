"""Pubsub on a switch: subscriptions, filters, explicit and offered peers, and a heartbeat that nothing ends."""

from array import array
from collections.abc import Iterable
from contextlib import asynccontextmanager

import pytest
import trio

from pyp2p.errors import LocalProtocolError
from pyp2p.io.varint import prefixed
from pyp2p.peer.record import PeerRecord, seal
from pyp2p.pubsub import service
from pyp2p.pubsub.filters import matching_topics, only_topics
from pyp2p.pubsub.ids import default_message_id
from pyp2p.pubsub.params import GossipParams, ScoreParams, Thresholds, TopicScoreParams
from pyp2p.pubsub.service import open_pubsub
from pyp2p.pubsub.signing import StrictNoSign, StrictSign
from pyp2p.pubsub.transform import Plain
from pyp2p.pubsub.types import Prune
from pyp2p.pubsub.wire import prune_fragment, publish_fragment
from pyp2p.switch.service import Service
from pyp2p.testing import Sim, simulated
from tests.pubsub.support import TOPIC, Node, introduce, listeners, raw_peer, speaker, speakers, subscription
from tests.switch.support import node, until


async def take(messages, count: int) -> list[bytes]:
    with trio.fail_after(5):
        return [(await messages.__anext__()).payload for _ in range(count)]


# ---- subscriptions


@simulated(seeds=(1, 2))
async def test_what_is_published_comes_once_to_all_who_listen_for_as_long_as_they_do(sim: Sim) -> None:
    async with speakers(sim, 3) as (a, b, c), a.pubsub.subscribe(TOPIC) as at_a:
        async with b.pubsub.subscribe(TOPIC) as at_b, c.pubsub.subscribe("other") as other:
            await listeners(a, TOPIC, 1)
            await listeners(b, TOPIC, 1)
            assert a.pubsub.topics == [TOPIC]
            await b.pubsub.publish(TOPIC, b"1")
            await a.pubsub.publish(TOPIC, b"2")
            assert sorted(await take(at_a, 2)) == [b"1", b"2"]  # its own too
            assert sorted(await take(at_b, 2)) == [b"1", b"2"]
            with trio.move_on_after(3) as scope:
                await other.__anext__()
            assert scope.cancelled_caught
        await listeners(a, TOPIC, 0)
        assert b.pubsub.topics == []
        assert [message.payload async for message in at_b] == []
        assert [message.payload async for message in other] == []
        assert a.pubsub.mesh(TOPIC) == []


@simulated(seeds=(1,))
async def test_several_subscriptions_of_one_topic_each_get_every_message(sim: Sim) -> None:
    async with speakers(sim, 2) as (a, b), a.pubsub.subscribe(TOPIC) as first:
        async with a.pubsub.subscribe(TOPIC) as second:
            await listeners(b, TOPIC, 1)
            await b.pubsub.publish(TOPIC, b"1")
            assert await take(first, 1) == await take(second, 1) == [b"1"]
        await trio.sleep(1)
        assert b.pubsub.peers(TOPIC) == [a.peer]  # the other one goes on
        await b.pubsub.publish(TOPIC, b"2")
        assert await take(first, 1) == [b"2"]
        assert [message.payload async for message in second] == []


@simulated(seeds=(1,))
async def test_what_is_queued_at_the_end_of_a_subscription_can_still_be_read(sim: Sim) -> None:
    async with speakers(sim, 2) as (a, b):
        async with a.pubsub.subscribe(TOPIC) as messages:
            await listeners(b, TOPIC, 1)
            await b.pubsub.publish(TOPIC, b"1")
            await trio.sleep(1)
        assert [message.payload async for message in messages] == [b"1"]


@simulated(seeds=(1,))
async def test_the_end_of_pubsub_ends_a_waiting_reader(sim: Sim) -> None:
    async with node(sim, "a") as a, trio.open_nursery() as nursery:
        ended = trio.Event()

        async def read(messages) -> None:
            async for _ in messages:
                pass
            ended.set()

        async with open_pubsub(a) as pubsub:
            subscribed = pubsub.subscribe(TOPIC)
            nursery.start_soon(read, await subscribed.__aenter__())
            await trio.sleep(1)
            assert not ended.is_set()
        with trio.fail_after(1):
            await ended.wait()
        await subscribed.__aexit__(None, None, None)


@simulated(seeds=(1,))
async def test_a_pubsub_that_has_ended_says_so(sim: Sim) -> None:
    async with node(sim, "a") as a, trio.open_nursery() as nursery:
        told = trio.Event()

        async def wait() -> None:
            with pytest.raises(LocalProtocolError, match="this pubsub has ended"):
                await pubsub.wait_for_peers(TOPIC)
            told.set()

        async with open_pubsub(a) as pubsub:
            nursery.start_soon(wait)
            await trio.sleep(1)
        with trio.fail_after(1):
            await told.wait()
        with pytest.raises(LocalProtocolError, match="this pubsub has ended"):
            await pubsub.publish(TOPIC, b"x")
        with pytest.raises(LocalProtocolError, match="this pubsub has ended"):
            async with pubsub.subscribe(TOPIC):
                pass
        with pytest.raises(LocalProtocolError, match="this pubsub has ended"):
            pubsub.add_validator(TOPIC, print)


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [({"max_count": 3}, 3), ({"max_bytes": 9000}, 4), ({"max_bytes": 10}, 1)],
    ids=["count", "bytes", "one of any size"],
)
@simulated(seeds=(1,))
async def test_a_reader_that_lags_misses_the_newest_and_holds_up_nobody(sim: Sim, bounds: dict, kept: int) -> None:
    async with (
        speakers(sim, 2) as (a, b),
        a.pubsub.subscribe(TOPIC, **bounds) as slow,
        a.pubsub.subscribe(TOPIC) as quick,
    ):
        await listeners(b, TOPIC, 1)
        sent = [bytes([number]) * 900 for number in range(10)]
        for payload in sent:
            await b.pubsub.publish(TOPIC, payload)
        assert sorted(await take(quick, 10)) == sent
        assert slow.dropped == 10 - kept
        assert a.pubsub.counters["slow subscriber", TOPIC] == 10 - kept
        assert await take(slow, kept) == sent[:kept]
        await b.pubsub.publish(TOPIC, b"again")
        assert await take(slow, 1) == [b"again"]


@simulated(seeds=(1,))
async def test_waiting_for_peers(sim: Sim) -> None:
    async with speakers(sim, 3) as (a, b, c), trio.open_nursery() as nursery:
        done: list[int] = []

        async def wait(count: int) -> None:
            await a.pubsub.wait_for_peers(TOPIC, count)
            done.append(count)

        nursery.start_soon(wait, 2)
        nursery.start_soon(wait, 1)
        async with b.pubsub.subscribe(TOPIC):
            await until(lambda: done == [1])
            async with c.pubsub.subscribe(TOPIC):
                await until(lambda: done == [1, 2])
                await a.pubsub.wait_for_peers(TOPIC, 2)


@simulated(seeds=(1,))
async def test_gauges_and_score_say_how_things_stand(sim: Sim) -> None:
    score = ScoreParams(topics={TOPIC: TopicScoreParams()})
    async with speakers(sim, 2, score=score) as (a, b), a.pubsub.subscribe(TOPIC), b.pubsub.subscribe(TOPIC):
        await until(lambda: a.pubsub.mesh(TOPIC) == [b.peer])
        await b.pubsub.publish(TOPIC, b"x")
        await until(lambda: a.pubsub.counters["accepted", TOPIC] == 1)
        gauges = a.pubsub.gauges()
        assert (gauges["peers", ""], gauges["topic peers", TOPIC], gauges["mesh peers", TOPIC]) == (1, 1, 1)
        assert gauges["seen bytes", ""] > 0
        assert gauges["message cache bytes", ""] > 0
        assert a.pubsub.score(b.peer).topics[TOPIC].p2 == 1
        a.pubsub.set_topic_score(TOPIC, None)
        assert a.pubsub.score(b.peer).total == 0
        assert a.pubsub.score(a.peer).total == 0


# ---- filters


@simulated(seeds=(1,))
async def test_what_the_filter_does_not_allow_is_not_subscribed_to_and_not_remembered_of_peers(sim: Sim) -> None:
    async with speaker(sim, "a", allows=only_topics(["yes"])) as a, raw_peer(sim) as raw:
        with pytest.raises(LocalProtocolError):
            async with a.pubsub.subscribe("no"):
                pass
        await introduce(raw, a)
        await raw.say(*(subscription(f"no {number}") for number in range(50)), subscription("yes"))
        await listeners(a, "yes", 1)
        assert a.pubsub.counters["subscription filtered", ""] == 50
        assert list(a.pubsub._router.table.get(raw.peer).topics) == ["yes"]


@simulated(seeds=(1,))
async def test_a_pattern_allows_what_it_matches_whole(sim: Sim) -> None:
    async with speaker(sim, "a", allows=matching_topics("/eth2/[0-9a-f]{8}/.*")) as a:
        async with a.pubsub.subscribe("/eth2/00000000/x"):
            pass
        for topic in ("x/eth2/00000000/x", "/eth2/0000000/x"):
            with pytest.raises(LocalProtocolError):
                async with a.pubsub.subscribe(topic):
                    pass


def test_a_pattern_that_is_none_is_told() -> None:
    with pytest.raises(ValueError, match="no regular expression: missing \\)"):
        matching_topics("/eth2/(")


@pytest.mark.parametrize("crash", ["message_id", "transform"])
@simulated(seeds=(1,))
async def test_a_function_that_crashes_costs_the_message_and_nobody_is_to_blame(sim: Sim, crash: str) -> None:
    class Transform(Plain):
        def inbound(self, topic: str, data: bytes) -> bytes | None:
            return fails(data) if crash == "transform" else data

    def message_id(message, valid: bool = True) -> bytes:
        return fails(message.data) if crash == "message_id" else message.data

    def fails(data: bytes) -> bytes:
        if data == b"bad":
            raise KeyError(data)
        return data

    options = {"policy": StrictNoSign(), "message_id": message_id, "transform": Transform(), "score": ScoreParams()}
    async with speaker(sim, "a", **options) as a, raw_peer(sim) as raw, a.pubsub.subscribe(TOPIC) as messages:
        await introduce(raw, a, TOPIC)
        for data in (b"bad", b"good"):
            await raw.say(publish_fragment(StrictNoSign().build(TOPIC, data, 0).raw))
        assert await take(messages, 1) == [b"good"]
        assert a.pubsub.counters["rpc failed", ""] == 1
        assert a.pubsub.score(raw.peer).total == 0


@simulated(seeds=(1,))
async def test_what_cannot_be_meant_is_named(sim: Sim) -> None:
    async with speaker(sim, "a") as a:
        for bounds in ({"max_count": 0}, {"max_count": "5"}, {"max_bytes": None}):
            (name,) = bounds
            with pytest.raises(ValueError, match=name):
                async with a.pubsub.subscribe(TOPIC, **bounds):
                    pass
        assert a.pubsub.topics == []
        with pytest.raises(TypeError, match="topic must be text, not bytes"):
            await a.pubsub.publish(b"t", b"x")
        with pytest.raises(TypeError, match="bytes-like"):
            await a.pubsub.publish(TOPIC, "x")
        with pytest.raises(TypeError, match="a validator must be a function"):
            a.pubsub.add_validator(TOPIC, "x")
        with pytest.raises(ValueError, match="nothing is scored"):
            a.pubsub.set_topic_score(TOPIC, TopicScoreParams())
    async with node(sim, "b") as b:
        for name in ("message_id", "allows", "application"):
            with pytest.raises(TypeError, match=name):
                async with open_pubsub(b, **{name: 5}):
                    pass


@simulated(seeds=(1,))
async def test_bytes_of_any_shape_can_be_published(sim: Sim) -> None:
    async with speakers(sim, 2) as (a, b), a.pubsub.subscribe(TOPIC) as messages:
        await listeners(b, TOPIC, 1)
        for data in (b"ab", bytearray(b"ab"), memoryview(array("H", [0x6261]))):
            await b.pubsub.publish(TOPIC, data)
        assert await take(messages, 3) == [b"ab"] * 3


@simulated(seeds=(1,))
async def test_a_filter_that_crashes_says_no(sim: Sim) -> None:
    def crash(topic: str) -> bool:
        if topic == "bad":
            raise KeyError(topic)
        return True

    async with speaker(sim, "a", allows=crash) as a, raw_peer(sim) as raw:
        await introduce(raw, a)
        await raw.say(subscription("bad"), subscription("good"))
        await listeners(a, "good", 1)
        assert a.pubsub.peers("bad") == []
        assert len(raw.inbound) == 1
        with pytest.raises(LocalProtocolError):
            async with a.pubsub.subscribe("bad"):
                pass


# ---- explicit and offered peers


@simulated(seeds=(1,))
async def test_an_explicit_peer_is_connected_gets_everything_and_is_reconnected(sim: Sim) -> None:
    params = GossipParams(direct_connect_ticks=10)
    async with (
        speaker(sim, "b", params=params) as b,
        b.pubsub.subscribe(TOPIC) as messages,
        speaker(sim, "a", params=params, explicit=[b.address]) as a,
        a.pubsub.subscribe(TOPIC),
    ):
        await listeners(a, TOPIC, 1)
        await trio.sleep(5)
        assert a.pubsub.mesh(TOPIC) == []  # never grafted
        await a.pubsub.publish(TOPIC, b"1")
        assert await take(messages, 1) == [b"1"]
        await a.switch.disconnect(b.peer)
        await until(lambda: a.pubsub.peers() == [])
        started = trio.current_time()
        await listeners(a, TOPIC, 1)
        assert trio.current_time() - started <= 11
        await a.pubsub.publish(TOPIC, b"2")
        assert await take(messages, 1) == [b"2"]


@simulated(seeds=(1,))
async def test_an_explicit_peer_that_cannot_be_reached_or_is_refused_harms_nobody(sim: Sim) -> None:
    async def refuse(connection) -> None:
        raise ZeroDivisionError("a step of the application that crashes")

    async with node(sim, "b") as b, node(sim, "a") as a:
        dead = f"{sim.net.host('dead').address()}/p2p/12D3KooWQwaZ4weBqGZhkHZsxAtdCTKHokwHrJv1w5gHtQJeVR6h"
        a.attach(Service("strict", admit=refuse))
        params = GossipParams(direct_connect_ticks=1)
        async with open_pubsub(a, params=params, explicit=[dead, b.multiaddrs[0], b.peer]) as pubsub:
            await trio.sleep(120)
            assert pubsub.peers() == []
            assert a._establisher.in_use()["connections"] == 0


@asynccontextmanager
async def offering(sim: Sim, params: GossipParams):
    """A node that takes offers, one that may be offered, a raw peer that knows the first."""
    async with (
        speaker(sim, "a", params=params, thresholds=Thresholds(accept_px=0)) as a,
        speaker(sim, "c") as c,
        raw_peer(sim) as raw,
        a.pubsub.subscribe(TOPIC),
    ):
        await introduce(raw, a, TOPIC)
        yield a, c, raw


@simulated(seeds=(1,))
async def test_a_peer_that_is_offered_with_its_signed_record_is_dialled(sim: Sim) -> None:
    async with offering(sim, GossipParams(do_px=True)) as (a, c, raw):
        record = seal(c.switch.identity, PeerRecord(c.peer, 1, tuple(c.switch.addresses)))
        await raw.say(prune_fragment(Prune(TOPIC, [(c.peer.raw, record)], 60)))
        await until(lambda: a.switch.connections(c.peer))


def offers(sim: Sim, c: Node, raw) -> Iterable[tuple[bytes, bytes]]:
    """What must not be dialled: no record, another's record, garbage, ids that are none."""
    mine = seal(c.switch.identity, PeerRecord(c.peer, 1, tuple(c.switch.addresses)))
    theirs = seal(raw.switch.identity, PeerRecord(raw.peer, 1, tuple(c.switch.addresses)))
    return [(c.peer.raw, b""), (c.peer.raw, theirs), (c.peer.raw, mine[:-1]), (b"\x00", mine), (b"", mine)]


@pytest.mark.parametrize("switched", [True, False], ids=["px", "no px"])
@simulated(seeds=(1,))
async def test_an_offer_that_proves_nothing_and_one_that_we_do_not_want_are_ignored(sim: Sim, switched: bool) -> None:
    async with offering(sim, GossipParams(do_px=switched)) as (a, c, raw):
        offered = list(offers(sim, c, raw))
        if not switched:
            offered.append((c.peer.raw, seal(c.switch.identity, PeerRecord(c.peer, 1, tuple(c.switch.addresses)))))
        await raw.say(prune_fragment(Prune(TOPIC, offered, 60)), subscription("done"))
        await listeners(a, "done", 1)
        await trio.sleep(20)
        assert len(a.switch.connections()) == 1


@simulated(seeds=(1,))
async def test_who_is_pruned_for_want_of_room_is_offered_others_and_finds_them(sim: Sim) -> None:
    params = GossipParams(d=1, d_low=1, d_high=1, d_score=1, d_out=0, do_px=True)
    async with (
        speakers(sim, 3, params=params, thresholds=Thresholds(accept_px=0)) as (hub, a, b),
        hub.pubsub.subscribe(TOPIC),
        a.pubsub.subscribe(TOPIC),
        b.pubsub.subscribe(TOPIC),
    ):
        await until(lambda: a.switch.connections(b.peer))
        await until(lambda: b.peer in a.pubsub.peers(TOPIC))


# ---- the heartbeat


@simulated(seeds=(1,))
async def test_an_application_score_that_crashes_counts_as_0_and_ends_no_heartbeat(sim: Sim) -> None:
    calls = 0

    def crash(peer) -> float:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise RuntimeError("no idea")
        return float("nan")

    async with (
        speaker(sim, "a", score=ScoreParams(), application=crash) as a,
        speaker(sim, "b") as b,
        a.pubsub.subscribe(TOPIC) as messages,
        b.pubsub.subscribe(TOPIC),
    ):
        await b.switch.connect(a.address)
        await until(lambda: b.peer in a.pubsub.mesh(TOPIC))
        before = calls
        await trio.sleep(10)
        assert calls > before + 5
        assert a.pubsub.score(b.peer).total == 0
        await b.pubsub.publish(TOPIC, b"x")
        assert await take(messages, 1) == [b"x"]
        assert a.pubsub.counters["application score failed", ""] > 0


@simulated(seeds=(1,))
async def test_whatever_fails_in_a_heartbeat_the_next_one_comes(sim: Sim) -> None:
    async with speakers(sim, 2) as (a, b), a.pubsub.subscribe(TOPIC):
        await listeners(b, TOPIC, 1)
        beat, failed = a.pubsub._router.heartbeat, 0

        def crash(now: float) -> None:
            nonlocal failed
            failed += 1
            raise ValueError("a bug")

        a.pubsub._router.heartbeat = crash
        await until(lambda: failed == 3)
        a.pubsub._router.heartbeat = beat
        async with b.pubsub.subscribe(TOPIC):
            await until(lambda: a.pubsub.mesh(TOPIC) == [b.peer])


@simulated(seeds=(1,))
async def test_a_late_heartbeat_is_followed_by_the_next_one_an_interval_later(sim: Sim) -> None:
    async with speaker(sim, "a") as a:
        beats: list[float] = []
        a.pubsub._router.heartbeat = beats.append
        await until(lambda: len(beats) == 2)
        trio.lowlevel.current_clock().jump(3.5)
        await until(lambda: len(beats) == 5)
        late = beats[2]
        assert late == pytest.approx(beats[1] + 3.5, abs=0.01)
        assert beats[3:] == pytest.approx([late + 1, late + 2])


@simulated(seeds=(1,))
async def test_who_never_takes_what_we_forward_loses_its_place_in_the_mesh(sim: Sim) -> None:
    params = GossipParams(queue_bytes=100_000, flood_publish=False)
    async with (
        speakers(sim, 2, params=params) as (a, b),
        a.pubsub.subscribe(TOPIC),
        raw_peer(sim, deaf=True) as deaf,
    ):
        await introduce(deaf, a, TOPIC)
        await until(lambda: deaf.peer in a.pubsub.mesh(TOPIC))
        await listeners(b, TOPIC, 1)
        for _ in range(4):
            await b.pubsub.publish(TOPIC, bytes(100_000))
        await trio.sleep(2)
        assert deaf.peer in a.pubsub.mesh(TOPIC)  # a burst may not fit
        for _ in range(10):
            await b.pubsub.publish(TOPIC, bytes(100_000))
            await trio.sleep(1)
        assert deaf.peer not in a.pubsub.mesh(TOPIC)
        assert a.pubsub.counters["slow peer pruned", TOPIC] == 1
        assert a.switch.connections(deaf.peer)


@simulated(seeds=(1,))
async def test_others_have_their_turn_within_an_rpc_of_many_messages(sim: Sim, monkeypatch) -> None:
    monkeypatch.setattr(service, "_SLICE", 0.0)  # the virtual clock stands still
    async with speaker(sim, "a") as a, raw_peer(sim) as raw, a.pubsub.subscribe(TOPIC, max_count=1000) as messages:
        await introduce(raw, a, TOPIC)
        began = [0]
        handle = a.pubsub._router.handle_rpc

        def counted(peer, rpc, now) -> None:
            began.append(len(rpc.publish))
            handle(peer, rpc, now)

        a.pubsub._router.handle_rpc = counted
        texts = [b"%d" % number for number in range(1000)]
        policy = StrictSign(raw.switch.identity)
        await raw.say(b"".join(publish_fragment(policy.build(TOPIC, text, int(text)).raw) for text in texts))
        assert (await messages.__anext__()).payload == b"0"
        assert sum(began) <= 200  # the reader was not made to wait for all
        assert await take(messages, 999) == texts[1:]


# ---- settings


@simulated(seeds=(1,))
async def test_settings_that_do_not_go_together_are_value_errors(sim: Sim) -> None:
    async with node(sim, "a") as a:
        for options in (
            {"policy": StrictNoSign()},
            {"policy": StrictNoSign(), "message_id": default_message_id},
            {"explicit": ["/ip4/1.2.3.4/tcp/1"]},
        ):
            with pytest.raises(ValueError, match=r"message_id|explicit"):
                async with open_pubsub(a, **options):
                    pass
        async with open_pubsub(a):
            with pytest.raises(ValueError, match="this switch has a pubsub already"):
                async with open_pubsub(a):
                    pass
        assert not [service for service in a._establisher.services if service.name == "pubsub"]


@simulated(seeds=(1,))
async def test_what_the_block_raises_is_not_wrapped(sim: Sim) -> None:
    async with node(sim, "a") as a:
        with pytest.raises(KeyError):
            async with open_pubsub(a) as pubsub, pubsub.subscribe(TOPIC):
                raise KeyError("mine")


@simulated(seeds=(1,))
async def test_a_message_of_a_topic_that_we_left_is_counted_and_nobody_is_to_blame(sim: Sim) -> None:
    async with speaker(sim, "a", score=ScoreParams()) as a, raw_peer(sim) as raw:
        await introduce(raw, a, TOPIC)
        await raw.say(publish_fragment(b"\x22" + prefixed(b"left")))
        await until(lambda: a.pubsub.counters["not subscribed", ""] == 1)
        assert a.pubsub.score(raw.peer).total == 0
