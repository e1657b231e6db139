"""Status, ping, metadata and goodbye between whole networks: who is asked, what is kept fresh, who has to go."""

from contextlib import suppress
from dataclasses import replace

import pytest
import trio

from pyp2p.beacon.containers import GoodbyeReason, MetaDataV1, MetaDataV2, MetaDataV3, StatusV1, StatusV2
from pyp2p.beacon.events import DialFailed, PeerConnected, PeerDisconnected
from pyp2p.beacon.exchange import PING_INTERVAL, STATUS_INTERVAL, goodbye_text
from pyp2p.beacon.handshakes import Handshake
from pyp2p.errors import DialFailed as DialError
from pyp2p.errors import NotSpoken, RequestFailed
from pyp2p.reqresp.declare import Limits
from pyp2p.testing import Sim, simulated
from tests.beacon.support import SEEDS, beacon, chain, dial, duo, facts, goodbyes, knows, meet, of_kind, watched
from tests.switch.support import until

BAD = bytes(range(32))


@simulated(SEEDS)
async def test_each_side_has_the_status_of_the_other(sim: Sim) -> None:
    of = chain(started=100)
    async with beacon(sim, "b", of) as b, beacon(sim, "a", of) as a:
        a.status = replace(a.status, head_slot=7, head_root=BAD)
        b.status = replace(b.status, head_slot=9)
        await meet(a, b)
        assert facts(a, b).status == b.status.v1(a.clock.period.digest)
        assert facts(b, a).status == a.status.v1(a.clock.period.digest)
        assert [(each.head_slot, each.outbound) for each in a.peers()] == [(9, True)]
        assert [(each.head_slot, each.outbound) for each in b.peers()] == [(7, False)]


@simulated(SEEDS)
async def test_since_fulu_the_newer_status_and_metadata_are_asked_for_first(sim: Sim) -> None:
    async with duo(sim, chain(start="fulu")) as (a, b):
        await until(lambda: facts(a, b).metadata and facts(b, a).metadata)
        assert type(facts(a, b).status) is type(facts(b, a).status) is StatusV2
        assert type(facts(a, b).metadata) is type(facts(b, a).metadata) is MetaDataV3


@simulated(SEEDS)
async def test_before_fulu_the_older_ones_are(sim: Sim) -> None:
    async with duo(sim, chain(start="altair")) as (a, b):
        await until(lambda: facts(a, b).metadata and facts(b, a).metadata)
        assert type(facts(a, b).status) is type(facts(b, a).status) is StatusV1
        assert type(facts(a, b).metadata) is type(facts(b, a).metadata) is MetaDataV2


@pytest.mark.parametrize(("start", "spoken"), [("fulu", 1), ("altair", 2)])
@simulated(SEEDS)
async def test_a_peer_that_speaks_one_version_only_is_asked_in_that(sim: Sim, start: str, spoken: int) -> None:
    async with beacon(sim, "b", chain(start=start)) as b, beacon(sim, "a", chain(start=start)) as a:
        methods = b.methods
        gone = [methods.status_v2 if spoken == 1 else methods.status_v1, methods.metadata_v2, methods.metadata_v3]
        for method in gone:
            b.reqresp.withdraw(method)
        await meet(a, b)
        await until(lambda: facts(a, b).metadata)
        assert type(facts(a, b).status) is (StatusV1 if spoken == 1 else StatusV2)
        assert type(facts(a, b).metadata) is MetaDataV1
        with pytest.raises(NotSpoken):
            await a.reqresp.ask(b.peer, methods.metadata_v3, None)


@simulated(SEEDS)
async def test_a_peer_of_another_chain_is_told_so_by_who_dialled(sim: Sim) -> None:
    async with (
        beacon(sim, "b", chain(started=100)) as b,
        beacon(sim, "a", chain(started=1000)) as a,
        watched(a) as told,
    ):
        with goodbyes(a) as at_a, goodbyes(b) as at_b:
            network = a.peering.network
            network.candidate(b.peer, b.switch.addresses)
            await until(lambda: of_kind(DialFailed, told))
        theirs, ours = b.clock.period.digest.hex(), a.clock.period.digest.hex()
        (failed,) = of_kind(DialFailed, told)
        assert failed.stage == "admission"
        assert f"status: fork digest {theirs}, ours is {ours}" in failed.reason
        assert (b.peer, GoodbyeReason.IRRELEVANT_NETWORK) in at_a or (a.peer, GoodbyeReason.IRRELEVANT_NETWORK) in at_b
        assert not a.peers() and not b.peers() and not of_kind(PeerConnected, told)


REASONS = {
    "head of the future": ({"head_slot": 60}, "its head is of slot 60, now is slot 50"),
    "epoch of the future": ({"finalized_epoch": 8}, "epoch 8 is final for it, now is epoch 6"),
    "another root of our epoch": (
        {"finalized_epoch": 4, "finalized_root": BAD},
        "in epoch 4 0001020304050607 is final for it, 1111111111111111 for us",
    ),
    "another root of an earlier epoch": (
        {"finalized_epoch": 3, "finalized_root": BAD},
        "in epoch 3 0001020304050607 is final for it, 3333333333333333 for us",
    ),
}


@pytest.mark.hostile
@pytest.mark.parametrize("inbound", [False, True], ids=["dialled by us", "dialled by it"])
@pytest.mark.parametrize("reason", REASONS)
@simulated(SEEDS[:1])
async def test_hostile_085_a_status_that_cannot_be_is_no_way_in(sim: Sim, reason: str, inbound: bool) -> None:
    lie, words = REASONS[reason]
    of = chain(started=101)
    async with beacon(sim, "liar", of) as liar, beacon(sim, "a", of) as a, watched(a) as told, watched(liar) as its:
        a.status = replace(a.status, finalized_epoch=4, finalized_root=b"\x11" * 32)
        a.finalized_root = lambda epoch: b"\x33" * 32 if epoch == 3 else None
        liar.status = replace(liar.status, **lie)
        one, other = (liar, a) if inbound else (a, liar)
        with goodbyes(liar) as heard:
            one.peering.network.candidate(other.peer, other.switch.addresses)
            await until(lambda: heard and not a.switch.connections() and not liar.switch.connections())
        assert heard == [(a.peer, GoodbyeReason.IRRELEVANT_NETWORK)]
        assert not of_kind(PeerConnected, told)
        if not inbound:
            await until(lambda: of_kind(DialFailed, told))
            assert words in of_kind(DialFailed, told)[0].reason
        assert not a.peers()
        assert [each.goodbye for each in of_kind(PeerDisconnected, its)] in ([], [GoodbyeReason.IRRELEVANT_NETWORK])


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_085_who_lies_once_it_is_in_is_sent_away(sim: Sim) -> None:
    async with duo(sim, chain(started=101)) as (liar, a), watched(a) as told:
        lie = liar.status.v1(a.clock.period.digest)
        with goodbyes(liar) as heard:
            await liar.reqresp.ask(a.peer, liar.methods.status_v1, replace(lie, head_slot=10_000))
            await until(lambda: not a.peers() and not liar.peers())
        assert heard == [(a.peer, GoodbyeReason.IRRELEVANT_NETWORK)]
        await until(lambda: of_kind(PeerDisconnected, told))
        (gone,) = of_kind(PeerDisconnected, told)
        assert (gone.by, gone.goodbye) == ("us", None)
        assert "its head is of slot 10000" in gone.reason


async def dial_into_handshakes(dialler, a):
    """Their connection, while a handshake of `a` that takes 5 seconds of virtual time is at work."""
    at_work = trio.Event()

    async def slow(connection) -> None:
        at_work.set()
        await trio.sleep(5)

    a.add_handshake(Handshake("slow", slow))
    connection = await dial(dialler, a)
    await at_work.wait()
    return connection


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_085_who_lies_while_later_handshakes_run_does_not_stay(sim: Sim) -> None:
    of = chain(started=101)
    async with beacon(sim, "a", of) as a, beacon(sim, "liar", of) as liar, watched(a) as told:
        connection = await dial_into_handshakes(liar, a)
        lie = replace(liar.status.v1(a.clock.period.digest), head_slot=10_000)
        with goodbyes(liar) as heard:
            await liar.reqresp.ask(connection, liar.methods.status_v1, lie)
            await until(lambda: heard and not a.switch.connections())
        assert heard == [(a.peer, GoodbyeReason.IRRELEVANT_NETWORK)]
        assert "its head is of slot 10000" in of_kind(PeerDisconnected, told)[0].reason


@simulated(SEEDS)
async def test_a_status_told_while_later_handshakes_run_is_the_one_that_counts(sim: Sim) -> None:
    of = chain(started=101)
    async with beacon(sim, "a", of) as a, beacon(sim, "b", of) as b:
        connection = await dial_into_handshakes(b, a)
        await b.reqresp.ask(connection, b.methods.status_v1, replace(b.status.v1(a.clock.period.digest), head_slot=17))
        await until(a.peers)
        assert a.peers()[0].head_slot == 17


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_085_whoever_lies_when_it_is_asked_again_is_sent_away(sim: Sim) -> None:
    async with duo(sim, chain(started=101)) as (a, liar):

        async def lies(connection, theirs):
            yield replace(liar.status.v1(a.clock.period.digest), head_slot=10_000)

        for method in (liar.methods.status_v1, liar.methods.status_v2):
            liar.reqresp.withdraw(method)
        liar.reqresp.serve(liar.methods.status_v1, lies)
        with goodbyes(liar) as heard:
            await trio.sleep(STATUS_INTERVAL - 10)
            assert knows(a, liar)
            await trio.sleep(20)
            assert not knows(a, liar)
        assert heard == [(a.peer, GoodbyeReason.IRRELEVANT_NETWORK)]


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_085_whoever_was_dialled_is_judged_by_each_status_that_it_sends(sim: Sim) -> None:
    async with duo(sim, chain(started=101)) as (a, liar):
        lie = liar.status.v1(a.clock.period.digest)
        with goodbyes(liar) as heard:
            await liar.reqresp.ask(a.peer, liar.methods.status_v1, replace(lie, fork_digest=b"evil"))
            await until(lambda: heard and not a.peers())
        assert heard == [(a.peer, GoodbyeReason.IRRELEVANT_NETWORK)]


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_085_who_dials_and_never_asks_for_the_status_is_out_after_ten_seconds(sim: Sim) -> None:
    async with beacon(sim, "a") as a, beacon(sim, "mute") as mute:

        async def greets_nobody(connection) -> None:
            await trio.sleep(30)

        greet_by(mute, greets_nobody)
        with goodbyes(mute) as heard, trio.move_on_after(25):
            begun = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial_in_vain, mute, a)
                await until(lambda: heard)
                assert 10 <= trio.current_time() - begun < 11
                nursery.cancel_scope.cancel()
        assert heard == [(a.peer, GoodbyeReason.FAULT)]
        assert not a.peers()


def greet_by(net, run) -> None:
    """Have another handshake in place of the status."""
    steps = net._handshakes._steps
    steps[:] = [replace(step, run=run) if step.name == "status" else step for step in steps]


async def dial_in_vain(one, other) -> None:
    with suppress(DialError):
        await dial(one, other)


@simulated(SEEDS)
async def test_pings_go_both_ways_and_tell_the_round_trip(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        assert facts(a, b).round_trip is None
        await trio.sleep(PING_INTERVAL + 1)
        assert 0.1 <= facts(a, b).round_trip < 0.4
        assert 0.1 <= a.peers()[0].round_trip < 0.4
        assert facts(b, a).round_trip is not None


@simulated(SEEDS)
async def test_a_ping_with_a_higher_number_brings_the_new_metadata(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        await until(lambda: facts(b, a).metadata)
        first = facts(b, a).metadata
        assert first.attnets == frozenset()
        a.subscribe_subnet(5, a.clock.slot + 1000)
        a.subscribe_subnet(63, a.clock.slot + 1000)
        await trio.sleep(2 * PING_INTERVAL)
        again = facts(b, a).metadata
        assert (again.seq_number, again.attnets) == (first.seq_number + 1, frozenset({5, 63}))
        assert b.peers()[0].attnets == (5, 63)


@simulated(SEEDS)
async def test_an_answer_to_a_ping_with_a_higher_number_brings_the_new_metadata_too(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        a.reqresp.withdraw(a.methods.ping)  # so that nothing is heard of the other's own pings
        await until(lambda: facts(a, b).metadata)
        b.subscribe_subnet(5, b.clock.slot + 1000)
        await trio.sleep(PING_INTERVAL + 2)
        assert a.peers()[0].attnets == (5,)
        number = facts(a, b).metadata.seq_number
        assert await a.reqresp.ask(b.peer, a.methods.ping, 0) == number > 0


@simulated(SEEDS)
async def test_what_a_peer_has_is_asked_for_now_and_then(sim: Sim) -> None:
    async with duo(sim, chain(started=10)) as (a, b):
        b.status = replace(b.status, head_slot=3)
        await trio.sleep(STATUS_INTERVAL / 2)
        assert a.peers()[0].head_slot == 0
        await trio.sleep(STATUS_INTERVAL / 2 + 1)
        assert a.peers()[0].head_slot == 3


@simulated(SEEDS)
async def test_five_pings_in_a_row_without_an_answer_are_enough(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        b.reqresp.withdraw(b.methods.ping)
        with goodbyes(b) as heard:
            await trio.sleep(4 * PING_INTERVAL + 5)
            assert knows(a, b)
            await trio.sleep(PING_INTERVAL)
            assert not knows(a, b)
        assert heard == [(a.peer, GoodbyeReason.BAD_SCORE)]


@simulated(SEEDS)
async def test_a_ping_that_we_cannot_send_is_not_held_against_the_peer(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        a.reqresp.limits = replace(a.reqresp.limits, waiting=0)
        async with trio.open_nursery() as nursery:
            for _ in range(2):  # both places are taken by requests that the other side never answers
                hold = await a.reqresp.request(b.peer, a.methods.ping, 0)
                nursery.start_soon(hang_on, hold)
            await trio.sleep(6 * PING_INTERVAL)
            assert knows(a, b)
            assert a.peers()[0].score == 0
            nursery.cancel_scope.cancel()


async def hang_on(response) -> None:
    try:
        await trio.sleep_forever()
    finally:
        response.close()


@simulated(SEEDS)
async def test_metadata_that_cannot_be_had_costs_nothing(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a:
        for method in (b.methods.metadata_v1, b.methods.metadata_v2, b.methods.metadata_v3):
            b.reqresp.withdraw(method)
        await meet(a, b)
        await trio.sleep(3 * PING_INTERVAL)
        assert facts(a, b).metadata is None
        assert knows(a, b)
        assert a.peers()[0].score == 0


@simulated(SEEDS)
async def test_whoever_says_goodbye_is_not_answered_with_one(sim: Sim) -> None:
    async with duo(sim) as (a, b), watched(b) as told:
        with goodbyes(a) as at_a, goodbyes(b) as at_b:
            await a.disconnect(b.peer, GoodbyeReason.FAULT)
            await until(lambda: not b.peers())
        assert (at_a, at_b) == ([], [(a.peer, GoodbyeReason.FAULT)])
        await until(lambda: of_kind(PeerDisconnected, told))
        assert [each.goodbye for each in of_kind(PeerDisconnected, told)] == [GoodbyeReason.FAULT]


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_085_who_does_not_listen_to_a_goodbye_is_not_waited_for(sim: Sim) -> None:
    async with duo(sim) as (a, deaf):

        async def never(connection, code):
            await trio.sleep_forever()
            yield code

        deaf.reqresp.withdraw(deaf.methods.goodbye)
        deaf.reqresp.serve(deaf.methods.goodbye, never)
        begun = trio.current_time()
        await a.disconnect(deaf.peer, GoodbyeReason.FAULT)
        assert trio.current_time() - begun < 1
        assert not a.switch.connections()


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_085_who_says_goodbye_in_place_of_its_status_is_out_at_once(sim: Sim) -> None:
    async with beacon(sim, "a") as a, beacon(sim, "rude") as rude, watched(a) as told:

        async def leaves(connection) -> None:
            async with await rude.reqresp.request(connection, rude.methods.goodbye, 1):
                await trio.sleep(30)

        greet_by(rude, leaves)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial_in_vain, rude, a)
            await until(sim.net.connections)
            await until(lambda: not sim.net.connections())
            assert trio.current_time() - begun < 3
            nursery.cancel_scope.cancel()
        await trio.sleep(1)
        assert told == [], "nobody was told of it"


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_085_who_says_goodbye_and_stays_is_disconnected(sim: Sim) -> None:
    async with duo(sim) as (rude, a):
        response = await rude.reqresp.request(a.peer, rude.methods.goodbye, 129)
        await until(lambda: not a.switch.connections() and not a.peers())
        response.close()


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_085_who_says_goodbye_while_later_handshakes_run_does_not_stay(sim: Sim) -> None:
    async with beacon(sim, "a") as a, beacon(sim, "rude") as rude:
        at_work = trio.Event()

        async def slow(connection) -> None:
            at_work.set()
            await trio.sleep(5)

        a.add_handshake(Handshake("slow", slow))
        connection = await dial(rude, a)
        await at_work.wait()
        async with await rude.reqresp.request(connection, rude.methods.goodbye, 1):
            await trio.sleep(10)
        assert not a.peers()
        assert not a.switch.connections()


async def answered_in_ten_seconds(sim: Sim, **options) -> int:
    """How many of fifty pings at once are."""
    async with duo(sim, **options) as (flooder, a):
        flooder.reqresp.limits = replace(flooder.reqresp.limits, quotas=False, concurrent=100)
        answered = 0

        async def ping() -> None:
            nonlocal answered
            with suppress(RequestFailed):
                await flooder.reqresp.ask(a.peer, flooder.methods.ping, 0)
                answered += 1

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ping)
        return answered


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_080_a_flood_of_pings_is_slowed_to_the_quota(sim: Sim) -> None:
    assert await answered_in_ten_seconds(sim) <= 2 + 2 + 1  # the burst, and what ten seconds bring


@simulated(SEEDS)
async def test_without_the_quota_and_the_bound_of_those_at_once_all_of_the_flood_is_answered(sim: Sim) -> None:
    assert await answered_in_ten_seconds(sim, requests=Limits(quotas=False, concurrent=100)) == 50


def test_goodbyes_in_words() -> None:
    assert [goodbye_text(code) for code in (1, 129, 77)] == ["client shutdown", "too many peers", "code 77"]
