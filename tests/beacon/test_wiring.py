"""What the parts of a beacon network tell each other: each test shows one wire at work, through whole networks."""

from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio

from pyp2p.beacon.book import MemoryBook
from pyp2p.beacon.events import DialFailed, PeerConnected, Warned
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.peer_types import PeerConfig, Subnet, SubnetKind
from pyp2p.beacon.scores import GOSSIP_LEAST, Tolerance
from pyp2p.beacon.topics import GOSSIP_TYPES, Topic
from pyp2p.errors import DialFailed as DialError
from pyp2p.errors import TooManyRequests
from pyp2p.pubsub.params import Thresholds
from pyp2p.pubsub.snappy import Snappy
from pyp2p.pubsub.types import Verdict
from pyp2p.testing import Sim, simulated
from tests.beacon.support import (
    SEEDS,
    beacon,
    chain,
    dial,
    duo,
    hear,
    identity,
    knows,
    meet,
    of_kind,
    watched,
)
from tests.switch.support import until

EXIT, ATTESTATION = "voluntary_exit", "beacon_attestation"


def topic(net: BeaconNetwork, name: str, subnet: int | None = None) -> str:
    return str(Topic(net.clock.period.digest, GOSSIP_TYPES[name], subnet))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> MemoryBook:
    """The book of every network: it outlives them, as the one in a data folder does, and has no threads."""
    book = MemoryBook()

    @asynccontextmanager
    async def open_book(path):
        yield book

    monkeypatch.setattr("pyp2p.beacon.network.open_book", open_book)
    return book


# --- gossip


@simulated(SEEDS)
async def test_what_gossip_thinks_of_a_peer_is_part_of_its_score_in_the_measure_of_the_graylist(sim: Sim) -> None:
    async with duo(sim) as (a, b), trio.open_nursery() as nursery:
        a.gossip.validate(EXIT, lambda message: Verdict.REJECT)

        async def read(net: BeaconNetwork) -> None:
            async with net.gossip.subscribe(EXIT):
                await trio.sleep_forever()

        for net in (a, b):
            nursery.start_soon(read, net)
        await until(lambda: a.peer in b.pubsub.peers(topic(b, EXIT)))
        await trio.sleep(2)
        for number in range(2):
            await b.gossip.publish(EXIT, bytes([number]) * 112)
        await trio.sleep(10)
        (of_b,) = a.peers()
        assert of_b.gossip_score < -50
        assert of_b.score == pytest.approx(of_b.gossip_score * GOSSIP_LEAST / Thresholds().graylist, rel=0.1)
        nursery.cancel_scope.cancel()


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_071_a_message_of_a_mebibyte_is_no_attestation_whoever_would_take_it(sim: Sim) -> None:
    async with duo(sim) as (a, b), trio.open_nursery() as nursery:
        judged = []

        def judge(message) -> Verdict:
            judged.append(message)
            return Verdict.ACCEPT

        a.gossip.validate(ATTESTATION, judge)

        async def read(net: BeaconNetwork) -> None:
            async with net.gossip.subscribe(ATTESTATION, 3):
                await trio.sleep_forever()

        for net in (a, b):
            nursery.start_soon(read, net)
        await until(lambda: a.peer in b.pubsub.peers(topic(b, ATTESTATION, 3)))
        await trio.sleep(2)
        b.pubsub._router._transform = Snappy()
        await b.pubsub.publish(topic(b, ATTESTATION, 3), bytes(300))
        await until(lambda: len(judged) == 1)
        assert a.peers()[0].gossip_score >= 0
        await b.pubsub.publish(topic(b, ATTESTATION, 3), sim.platform("noise").entropy(1 << 20))
        await trio.sleep(10)
        assert len(judged) == 1
        assert a.peers()[0].gossip_score < 0
        nursery.cancel_scope.cancel()


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_061_a_topic_that_the_chain_has_not_takes_no_place(sim: Sim) -> None:
    async with duo(sim) as (a, b), trio.open_nursery() as nursery:
        b.pubsub._allows = lambda name: True
        good = topic(b, EXIT)
        bad = ["nonsense", good.replace(b.clock.period.digest.hex(), "deadbeef")]

        async def read(name: str) -> None:
            async with b.pubsub.subscribe(name):
                await trio.sleep_forever()

        for name in (*bad, good):
            nursery.start_soon(read, name)
        await until(lambda: a.pubsub.peers(good) == [b.peer])
        await trio.sleep(5)
        assert [a.pubsub.peers(name) for name in bad] == [[], []]
        nursery.cancel_scope.cancel()


# --- bans


async def evict(a: BeaconNetwork, b: BeaconNetwork) -> None:
    """The first bans the second for what it did."""
    a.report(b.peer, Tolerance.FATAL, "a forged proof")
    await until(lambda: not knows(a, b) and not knows(b, a) and not b.switch.connections())


@simulated(SEEDS)
async def test_who_is_banned_is_not_dialled_whoever_tells_of_it(sim: Sim) -> None:
    async with duo(sim) as (a, b), watched(a) as told:
        heard = hear(b)
        await evict(a, b)
        heard.clear()
        a.peering.network.candidate(b.peer, b.switch.addresses, urgent=True)
        await trio.sleep(120)
        assert heard == []
        assert of_kind(DialFailed, told) == []


@simulated(SEEDS)
async def test_whose_ban_gives_way_to_another_is_dialled_and_free_after_a_restart_too(
    sim: Sim, kept: MemoryBook
) -> None:
    of, me = chain(), identity("me")
    async with beacon(sim, "b", of) as b, beacon(sim, "c", of) as c:
        async with beacon(sim, "a", of, identity=me, peers=PeerConfig(target=12, bans=1)) as a:
            for bad in (b, c):
                await meet(a, bad)
                await evict(a, bad)
            a.peering.network.candidate(b.peer, b.switch.addresses, urgent=True)
            await until(lambda: knows(a, b))
            assert [peer for peer, _, _ in kept.bans(a._platform.wall())] == [c.peer]
        async with beacon(sim, "a", of, identity=me) as a:
            await meet(a, b)
            with suppress(DialError):
                await dial(c, a)
            await until(lambda: not c.switch.connections())
            assert not knows(a, c)


@pytest.mark.hostile
@simulated(SEEDS[:1])
async def test_hostile_095_from_an_address_of_six_banned_peers_nobody_gets_a_word_in(sim: Sim) -> None:
    of = chain()
    host = sim.net.host("evil")
    async with beacon(sim, "a", of) as a, AsyncExitStack() as stack:

        async def evil(number: int) -> BeaconNetwork:
            options = {"identity": identity(f"evil{number}"), "listen": ((host.ips[0], 9000 + number),)}
            return await stack.enter_async_context(beacon(sim, "evil", of, **options))

        for number in range(6):
            net = await evil(number)
            await meet(net, a)
            await evict(a, net)
        late = await evil(6)
        heard = hear(late)
        with pytest.raises(DialError):
            await dial(late, a)
        with pytest.raises(DialError, match=r"is blocked by"):
            await dial(a, late)
        await trio.sleep(5)
        assert heard == []  # it was never spoken with
        async with beacon(sim, "good", of) as good:
            await meet(good, a)


# --- dials


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_097_strangers_that_fill_our_places_do_not_end_our_own_dials(sim: Sim) -> None:
    of = chain()
    async with beacon(sim, "a", of, target=2) as a, AsyncExitStack() as stack:
        for number in range(2):
            await meet(await stack.enter_async_context(beacon(sim, f"idle{number}", of)), a)
        good = await stack.enter_async_context(beacon(sim, "good", of))
        assert len(a.peers()) == 2  # as many as wanted
        a.peering.network.candidate(good.peer, good.switch.addresses)
        await until(lambda: knows(a, good))
        assert [each.peer for each in a.peers() if each.outbound] == [good.peer]


@simulated(SEEDS)
async def test_a_peer_that_was_good_is_dialled_after_a_restart(sim: Sim, kept: MemoryBook) -> None:
    of, me = chain(), identity("me")
    async with beacon(sim, "b", of) as b:
        async with beacon(sim, "a", of, identity=me) as a:
            await meet(a, b)
        await until(lambda: not b.peers())
        async with beacon(sim, "a", of, identity=me) as a:
            await until(lambda: knows(a, b))
            assert a.peers()[0].outbound


@simulated(SEEDS)
async def test_a_peer_that_was_good_and_left_is_dialled_until_it_is_back(sim: Sim) -> None:
    of, friend = chain(), identity("friend")
    async with beacon(sim, "a", of) as a:
        async with beacon(sim, "b", of, identity=friend) as b:
            await meet(a, b)
            await trio.sleep(70)  # who stays for a minute was good
        await until(lambda: not a.peers())
        await trio.sleep(10)
        async with beacon(sim, "b", of, identity=friend) as b:
            with trio.fail_after(200):
                while not knows(a, b):
                    await trio.sleep(1)


@simulated(SEEDS[:1])
async def test_what_is_held_against_a_peer_fades_while_we_are_away(sim: Sim, kept: MemoryBook) -> None:
    of, me = chain(), identity("me")
    async with beacon(sim, "b", of) as b:
        async with beacon(sim, "a", of, identity=me) as a:
            await meet(a, b)
            a.report(b.peer, Tolerance.LOW, "a bad block")
            await trio.sleep(10)
            assert a.peers()[0].score == pytest.approx(-10, abs=0.2)
        await trio.sleep(600)
        async with beacon(sim, "a", of, identity=me) as a:
            await meet(b, a)
            assert a.peers()[0].score == pytest.approx(-5, abs=0.2)


@pytest.mark.parametrize("dials", [1, 3])
@simulated(SEEDS)
async def test_no_more_attempts_are_under_way_than_the_configuration_says(sim: Sim, dials: int) -> None:
    async with beacon(sim, "a", dials=dials) as a:
        for number in range(5):
            host = sim.net.host(f"dead{number}")
            sim.net.cut("a", host.name)
            a.peering.network.candidate(identity(host.name).peer, [f"/ip4/{host.ips[0]}/tcp/9000"])
        most = 0
        for _ in range(30):
            await trio.sleep(0.1)
            most = max(most, a.peering.network.gauges()["attempts"])
        assert most == dials


# --- discovery


@simulated(SEEDS)
async def test_discovery_begins_with_the_bootnodes_of_the_chain(sim: Sim) -> None:
    of = chain()
    async with (
        beacon(sim, "boot", of, discovery=True) as boot,
        beacon(sim, "a", replace(of, bootnodes=(boot.enr,)), discovery=True) as a,
    ):
        await until(lambda: knows(a, boot))  # nobody told it to connect


@simulated(SEEDS)
async def test_who_is_on_the_subnet_of_another_chain_is_not_dialled_for_it(sim: Sim) -> None:
    of, other = chain(), chain(started=100)
    async with beacon(sim, "boot", of, discovery=True, target=20) as boot:
        options = {"discovery": True, "bootnodes": (boot.enr,)}
        async with (
            beacon(sim, "stranger", other, **options) as stranger,
            beacon(sim, "ours", of, **options) as ours,
            beacon(sim, "a", of, **options) as a,
            watched(a) as told,
        ):
            for net in (stranger, ours):
                net.subscribe_subnet(33, 10_000)
            await trio.sleep(60)
            a.subscribe_subnet(33, 10_000)
            await trio.sleep(60)
            assert stranger.enr in a.discovery.nodes()
            assert ours.peer in [each.peer for each in a.peers()]
            assert of_kind(DialFailed, told) == []
            assert stranger.peer not in [each.peer for each in of_kind(PeerConnected, told)]


@simulated(SEEDS)
async def test_a_subnet_that_cannot_be_searched_for_is_told_of(sim: Sim) -> None:
    async with beacon(sim, "a", discovery=True) as a, watched(a) as told:

        async def full(wanted=None):
            await trio.lowlevel.checkpoint()
            raise TooManyRequests("1,024 requests wait")

        a.discovery.find_random = full
        a.subscribe_subnet(33, 10_000)
        await trio.sleep(5)
        words = [each.text for each in of_kind(Warned, told) if "subnet" in each.text]
        assert words == ["no search for attestation subnet 33: 1,024 requests wait"]


@simulated(SEEDS)
async def test_a_subnet_is_wanted_and_said_from_the_moment_it_is_asked_for(
    sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(BeaconNetwork, "_search_subnet", lambda net, wanted: asked.append(wanted.subnet))
    async with beacon(sim, "a") as a:
        await trio.sleep(6.5)  # nothing else makes anybody look at the peers until 10
        await until(lambda: 1 < a.clock.seconds_to_next < 1.9)
        a.subscribe_subnet(17, 10_000)
        await trio.sleep(0.1)
        assert asked == [Subnet(SubnetKind.ATTESTATION, 17)]
        assert a.metadata.attnets == {17}


@simulated(SEEDS[:1])
async def test_a_fault_fades_over_restarts_whether_or_not_its_peer_is_met(sim: Sim, kept: MemoryBook) -> None:
    of, me, scores = chain(), identity("me"), []
    async with beacon(sim, "b", of) as b:
        async with beacon(sim, "a", of, identity=me) as a:
            await meet(a, b)
            a.report(b.peer, Tolerance.LOW, "a bad block")
            await trio.sleep(10)
        for _ in range(3):
            await trio.sleep(600)
            async with beacon(sim, "a", of, identity=me) as a:
                await meet(b, a)
                await trio.sleep(10)
                scores.append(a.peers()[0].score)
    assert scores == pytest.approx([-4.9, -2.4, -1.2], abs=0.15)
