"""Peers as they come and go: places, scores, bans, subnets, static and trusted ones, through whole networks."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.containers import BeaconBlocksByRangeRequest, GoodbyeReason
from pyp2p.beacon.devchain import make_block
from pyp2p.beacon.events import DialFailed, PeerConnected, PeerDisconnected, SubnetsChanged
from pyp2p.beacon.methods import ForkBytes
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.peer_types import PeerConfig
from pyp2p.beacon.scores import Tolerance
from pyp2p.errors import DialFailed as DialError
from pyp2p.errors import LocalProtocolError
from pyp2p.peer.address import text
from pyp2p.testing import Sim, simulated
from tests.beacon.support import (
    SEEDS,
    beacon,
    chain,
    crowd,
    dial,
    duo,
    facts,
    goodbyes,
    hear,
    identity,
    knows,
    meet,
    of_kind,
    record,
    watched,
)
from tests.switch.support import until


def address(net: BeaconNetwork) -> str:
    return f"{text(net.switch.addresses[0])}/p2p/{net.peer}"


async def in_vain(one: BeaconNetwork, other: BeaconNetwork, heard: list) -> None:
    """The first dials, and is told to go."""
    with suppress(DialError):
        await dial(one, other)
    await until(lambda: heard and not one.switch.connections())


@simulated(SEEDS)
async def test_who_is_reported_too_often_is_told_and_sent_away(sim: Sim) -> None:
    async with duo(sim) as (a, b), watched(a) as told:
        heard = hear(b)
        a.report(b.peer, Tolerance.LOW, "a bad block")
        await trio.sleep(5)
        assert a.peers()[0].score == pytest.approx(-10, abs=0.1)
        a.report(b.peer, Tolerance.LOW, "another \x1b[31m bad block")
        a.report(b.peer, Tolerance.HIGH, "late")
        await until(lambda: not knows(a, b) and not knows(b, a))
        await until(lambda: of_kind(PeerDisconnected, told))
        assert heard == [(a.peer, GoodbyeReason.BAD_SCORE)]
        (gone,) = of_kind(PeerDisconnected, told)
        assert (gone.peer, gone.by) == (b.peer, "us")
        assert gone.reason.startswith("goodbye: ")
        assert gone.reason.isprintable()


@simulated(SEEDS)
async def test_who_is_banned_is_told_and_does_not_come_back(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        with goodbyes(b) as heard:
            a.report(b.peer, Tolerance.FATAL, "a forged proof")
            await until(lambda: not knows(a, b) and not knows(b, a))
            assert heard == [(a.peer, GoodbyeReason.BANNED)]
            heard.clear()
            await trio.sleep(600)
            await in_vain(b, a, heard)
            assert heard == [(a.peer, GoodbyeReason.BANNED)]
        assert not a.peers()


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_097_idle_peers_that_take_every_inbound_place_leave_the_outbound_ones(sim: Sim) -> None:
    of = chain()
    async with beacon(sim, "a", of, target=4) as a, beacon(sim, "good", of) as good:
        clients = [client(sim, f"idle{number}", of) for number in range(6)]
        async with trio.open_nursery() as nursery:
            for each in clients:
                await nursery.start(each, a)
            await trio.sleep(5)
            assert len(a.peers()) == 4  # target and headroom are 5, one place of them is for whom we dial
            assert not any(each.outbound for each in a.peers())
            await meet(a, good)
            assert len(a.peers()) == 5
            nursery.cancel_scope.cancel()


def client(sim: Sim, name: str, of):
    """A network that connects and stays, as a task."""

    async def run(to: BeaconNetwork, task_status: trio.TaskStatus[None]) -> None:
        async with beacon(sim, name, of) as net:
            with suppress(DialError):
                await dial(net, to)
            task_status.started()
            await trio.sleep_forever()

    return run


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_097_who_fails_its_handshake_takes_no_place(sim: Sim) -> None:
    of, other = chain(), chain(started=100)
    async with beacon(sim, "a", of, target=1) as a, beacon(sim, "good", of) as good:
        for number in range(4):
            async with beacon(sim, f"stranger{number}", other) as stranger:
                with suppress(DialError):
                    await dial(stranger, a)
                await until(lambda net=stranger: not net.switch.connections())
        await meet(good, a)


@simulated(SEEDS)
async def test_who_finds_no_place_is_told_there_are_too_many(sim: Sim) -> None:
    of = chain()
    async with (
        beacon(sim, "a", of, target=1) as a,
        beacon(sim, "first", of) as first,
        beacon(sim, "late", of) as late,
        watched(late) as told,
    ):
        heard = hear(late)
        await meet(first, a)
        late.peering.network.candidate(a.peer, a.switch.addresses)
        await until(lambda: heard)
        assert heard == [(a.peer, GoodbyeReason.TOO_MANY_PEERS)]
        assert heard[0][1] == 129
        await until(lambda: not late.switch.connections())
        assert [each.peer for each in a.peers()] == [first.peer]
        await trio.sleep(1)
        goodbye = [each.goodbye for each in of_kind(PeerDisconnected, told)]
        assert goodbye == [129] or of_kind(DialFailed, told)


@simulated(SEEDS)
async def test_a_trusted_peer_finds_a_place_is_not_judged_and_comes_back(sim: Sim) -> None:
    of = chain()
    friend = identity("friend")
    host = sim.net.host("friend")
    where = f"/ip4/{host.ips[0]}/tcp/9000/p2p/{friend.peer}"
    async with beacon(sim, "a", of, target=1, trusted_peers=(where,)) as a, beacon(sim, "other", of) as other:
        await meet(a, other)
        async with beacon(sim, "friend", of, identity=friend) as net:
            await until(lambda: knows(a, net))
            a.report(net.peer, Tolerance.FATAL, "nothing that counts")
            await trio.sleep(60)
            assert knows(a, net)
            assert [each.trusted for each in a.peers() if each.peer == net.peer] == [True]
            await net.disconnect(a.peer)
            await until(lambda: not knows(a, net))
            await trio.sleep(60)
            assert knows(a, net)


@simulated(SEEDS)
async def test_a_static_peer_is_dialled_for_ever_and_does_not_have_to_make_room(sim: Sim) -> None:
    of = chain()
    friend = identity("friend")
    host = sim.net.host("friend")
    where = f"/ip4/{host.ips[0]}/tcp/9000/p2p/{friend.peer}"
    async with beacon(sim, "a", of, target=1, static_peers=(where,), peers=PeerConfig(target=1, grace=1)) as a:
        await trio.sleep(900)
        async with beacon(sim, "friend", of, identity=friend) as net, beacon(sim, "o", of) as o:
            await trio.sleep(900)
            assert knows(a, net)
            await dial(a, o)
            await trio.sleep(120)
            assert [each.peer for each in a.peers()] == [friend.peer]


def test_a_static_peer_without_an_address_is_refused() -> None:
    async def enter() -> None:
        async with BeaconNetwork(BeaconConfig(chain(), static_peers=(record("nowhere"),))):
            pass

    with pytest.raises(ValueError, match="names no address to dial"):
        trio.run(enter)


@simulated(SEEDS)
async def test_a_disconnect_of_somebody_who_is_not_there_keeps_nobody(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a:
        await a.disconnect(b.peer, GoodbyeReason.FAULT)
        assert not a.peering.leaving
        await meet(a, b)
        with goodbyes(b) as heard:
            for _ in range(2):
                a.report(b.peer, Tolerance.LOW, "bad")
            a.report(b.peer, Tolerance.HIGH, "bad")
            await until(lambda: heard and not a.peering.leaving)
        assert heard == [(a.peer, GoodbyeReason.BAD_SCORE)]
        assert not a.peers()


@simulated(SEEDS)
async def test_a_subnet_is_in_metadata_record_and_gossip_until_its_slot(sim: Sim) -> None:
    async with duo(sim, discovery=True) as (a, b), watched(a) as told:
        seq, enr = a.metadata.seq_number, a.enr
        until_slot = a.clock.slot + 40
        a.subscribe_subnet(17, until_slot)
        a.subscribe_subnet(17, until_slot - 30)
        await trio.sleep(5)
        assert a.metadata.attnets == {17}
        assert a.metadata.seq_number == seq + 1
        assert a.enr.seq == enr.seq + 1
        assert a.enr.attnets == (1 << 17).to_bytes(8, "little")
        assert any("beacon_attestation_17/" in topic for topic in a.pubsub.topics)
        await until(lambda: any(b.pubsub.peers(topic) for topic in a.pubsub.topics))
        await trio.sleep(80)
        assert a.metadata.attnets == frozenset()
        assert a.metadata.seq_number == seq + 2
        assert a.enr.attnets == bytes(8)
        assert not any("attestation" in topic for topic in a.pubsub.topics)
        assert [(each.attnets, each.metadata_seq - seq) for each in of_kind(SubnetsChanged, told)] == [
            ((17,), 1),
            ((), 2),
        ]
        with pytest.raises(LocalProtocolError, match="attestation subnets are 0 to 63, not 64"):
            a.subscribe_subnet(64, until_slot)


@simulated(SEEDS)
async def test_peers_of_a_wanted_subnet_are_looked_for_and_new_ones_when_they_leave(sim: Sim) -> None:
    of = chain()
    async with beacon(sim, "boot", of, discovery=True, target=20) as boot:
        options = {"discovery": True, "bootnodes": (boot.enr,)}
        async with (
            beacon(sim, "s1", of, **options) as s1,
            beacon(sim, "s2", of, **options) as s2,
            beacon(sim, "a", of, **options, target=1) as a,
        ):
            for net in (s1, s2):
                net.subscribe_subnet(33, 10_000)
            await trio.sleep(60)
            a.subscribe_subnet(33, 10_000)
            await until(lambda: serving(a, 33))
            for peer in serving(a, 33):
                await a.disconnect(peer)
            await trio.sleep(90)
            assert serving(a, 33)


def serving(net: BeaconNetwork, subnet: int) -> list:
    return [each.peer for each in net.peers() if subnet in each.attnets]


@simulated(SEEDS)
async def test_two_connections_to_a_peer_are_one_peer_that_stays_when_one_ends(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a, watched(a) as told:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, a, b)
            nursery.start_soon(dial, b, a)
        await trio.sleep(120)
        assert [each.peer for each in a.peers()] == [b.peer]
        assert [each.peer for each in b.peers()] == [a.peer]
        gone = of_kind(PeerDisconnected, told)
        assert (len(of_kind(PeerConnected, told)), gone) == (1, [])


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_084_only_who_breaks_a_rule_pays_and_nobody_else(sim: Sim) -> None:
    async with crowd(sim, 3) as (a, bad, good):

        async def rubbish(stream) -> None:
            async for _ in stream:
                pass
            await stream.send_all(b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")

        await until(lambda: facts(a, bad).metadata and facts(a, good).metadata)
        bad.reqresp.withdraw(bad.methods.ping)
        bad.switch.mount(bad.methods.ping.protocol, rubbish)
        with goodbyes(bad) as heard:
            await trio.sleep(40)
        scores = {each.peer: each.score for each in a.peers()}
        assert scores == {good.peer: 0.0}
        assert heard == [(a.peer, GoodbyeReason.BAD_SCORE)]


async def test_what_was_learned_is_there_after_a_restart(tmp_path: Path) -> None:
    of = chain()
    loopback = {"chain": of, "discovery": False, "long_lived_subnets": False}
    with trio.fail_after(60):
        async with BeaconNetwork(BeaconConfig(**loopback)) as b:
            async with BeaconNetwork(BeaconConfig(**loopback, data=tmp_path)) as a:
                await meet(a, b)
                with goodbyes(b) as heard:
                    a.report(b.peer, Tolerance.FATAL, "a forged proof")
                    await until(lambda: not knows(a, b) and not knows(b, a))
                assert heard == [(a.peer, GoodbyeReason.BANNED)]
                first, seq = a.peer, a.metadata.seq_number
                a.subscribe_subnet(3, a.clock.slot + 1000)
                await until(lambda: a.metadata.attnets)
            async with BeaconNetwork(BeaconConfig(**loopback, data=tmp_path)) as a:
                assert a.peer == first
                assert a.metadata.seq_number == seq + 2
                await until(lambda: a.peering.manager.counters()["banned"] == 1)
                with suppress(DialError):
                    await dial(b, a)
                await until(lambda: not b.switch.connections())
                assert not a.peers()


@simulated(SEEDS)
async def test_statuses_are_compared_with_what_the_application_knows_now(sim: Sim) -> None:
    async with beacon(sim, "b", chain(started=101)) as b, beacon(sim, "a", chain(started=101)) as a:
        await meet(a, b)
        root = bytes(range(32))
        a.status = replace(a.status, finalized_epoch=4, finalized_root=root)
        b.status = replace(b.status, finalized_epoch=4, finalized_root=root[::-1])
        await trio.sleep(400)
        assert not knows(a, b)
        assert not knows(b, a)


@simulated(SEEDS[:1])
async def test_whoever_gives_blocks_earns_credit_and_whoever_only_greets_none(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a:

        async def answer(connection, request):
            for _ in range(request.start_slot):
                block = make_block(b.chain, request.start_slot, bytes(32)).ssz
                yield ForkBytes(b.chain.at_slot(request.start_slot).digest, block)

        b.serve(b.methods.beacon_blocks_by_range_v2, answer)
        await meet(a, b)
        await trio.sleep(60)
        assert a.peers()[0].score == 0
        for start, score in ((0, 0), (1, 1)):
            async with await a.request(
                b.peer, a.methods.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(start, 1)
            ) as chunks:
                assert len([chunk async for chunk in chunks]) == start
            assert a.peers()[0].score == score
