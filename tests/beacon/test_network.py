"""Whole beacon networks: entering and leaving, forks, what is told and counted, cancellation, kills, two at once."""

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pyp2p.beacon.config import Advertised, BeaconConfig
from pyp2p.beacon.containers import BeaconBlocksByRangeRequest, ENRForkID, GoodbyeReason
from pyp2p.beacon.events import ForkChanged, PeerConnected, PeerDisconnected
from pyp2p.beacon.follow import open_follower
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.scores import Tolerance
from pyp2p.beacon.stats import NodeStats
from pyp2p.discv5.enr import Enr
from pyp2p.errors import BackingOff, DataInUse, DialFailed, LocalProtocolError
from pyp2p.muxers.mplex import Mplex
from pyp2p.reqresp.core import request_bytes
from pyp2p.testing import Sim, run_sim, simulated
from tests.beacon.support import (
    SEEDS,
    beacon,
    chain,
    crowd,
    dial,
    duo,
    goodbyes,
    identity,
    knows,
    meet,
    of_kind,
    watched,
)
from tests.cancel.steps import CancelAt
from tests.switch.support import until

# --- finding each other


@simulated(SEEDS)
async def test_nodes_find_each_other_from_one_record(sim: Sim) -> None:
    of = chain()
    async with beacon(sim, "boot", of, discovery=True) as boot:
        options = {"discovery": True, "bootnodes": (boot.enr,)}
        async with (
            beacon(sim, "a", of, **options) as a,
            beacon(sim, "b", of, **options) as b,
            beacon(sim, "c", of, **options) as c,
        ):
            nets = [boot, a, b, c]
            await until(lambda: all(len(net.peers()) == 3 for net in nets))


@simulated(SEEDS)
async def test_nodes_of_another_chain_are_not_dialled(sim: Sim) -> None:
    async with beacon(sim, "boot", chain(), discovery=True) as boot, watched(boot) as told:
        async with beacon(sim, "a", chain(started=100), discovery=True, bootnodes=(boot.enr,)) as a:
            await trio.sleep(120)
            assert boot.discovery.gauges()
            assert not a.switch.connections()
            assert a.stats().dial_errors == {}
        assert told == []


@simulated(SEEDS)
async def test_a_record_says_which_chain_which_ports_and_which_subnets(sim: Sim) -> None:
    async with beacon(sim, "a", discovery=True, long_lived_subnets=True) as a:
        assert a.enr.peer_id == a.peer
        assert (a.enr.tcp, a.enr.udp) == (9000, 9000)
        assert ENRForkID.decode(a.enr.eth2).fork_digest == a.clock.period.digest
        assert (a.enr.cgc, a.enr.nfd) == (4, a.chain.at_epoch(100).digest)
        assert len(a.metadata.attnets) == 2
        said = int.from_bytes(a.enr.attnets, "little")
        assert {bit for bit in range(64) if said >> bit & 1} == a.metadata.attnets
        assert a.metadata.custody_group_count == 4


@simulated(SEEDS)
async def test_what_is_advertised_need_not_be_what_is_listened_on(sim: Sim) -> None:
    where = (Advertised("203.0.113.7", 30303, 30304),)
    async with beacon(sim, "a", discovery=True, advertise=where) as a:
        assert (str(a.enr.ip), a.enr.tcp, a.enr.udp) == ("203.0.113.7", 30303, 30304)


@simulated(SEEDS)
async def test_peers_that_speak_mplex_alone_are_peers(sim: Sim) -> None:
    async with duo(sim, muxers=[Mplex()]) as (a, b):
        assert knows(a, b)
        assert a.stats().connections[0].muxer == "/mplex/6.7.0"


# --- leaving


@simulated(SEEDS)
async def test_whoever_leaves_says_so_to_everybody(sim: Sim) -> None:
    of = chain()
    async with beacon(sim, "b", of) as b, beacon(sim, "c", of) as c:
        async with beacon(sim, "a", of) as a:
            await meet(a, b)
            await meet(c, a)
            left = a.peer
            with goodbyes(b) as at_b, goodbyes(c) as at_c:
                begun = trio.current_time()
                await a._life.__aexit__(None, None, None)
                assert trio.current_time() - begun < 3
                a._life = _Left()
                await until(lambda: not b.peers() and not c.peers())
        assert at_b == at_c == [(left, GoodbyeReason.CLIENT_SHUTDOWN)]


class _Left:
    """The life of a network that was left by hand."""

    async def __aexit__(self, *exc: object) -> None:
        await trio.lowlevel.checkpoint()


@simulated(SEEDS)
async def test_a_cancelled_block_says_goodbye_as_well(sim: Sim) -> None:
    of = chain()
    async with beacon(sim, "b", of) as b:
        with goodbyes(b) as heard, trio.CancelScope() as ctrl_c:
            async with beacon(sim, "a", of) as a:
                await meet(a, b)
                ctrl_c.cancel()
                await trio.sleep_forever()
        await until(lambda: not b.peers())
        assert heard == [(a.peer, GoodbyeReason.CLIENT_SHUTDOWN)]


@simulated(SEEDS)
async def test_a_peer_that_does_not_read_holds_up_leaving_for_a_second(sim: Sim) -> None:
    of = chain()
    async with beacon(sim, "b", of) as b, beacon(sim, "a", of) as a:
        await meet(a, b)
        sim.net.cut("a", "b")
        begun = trio.current_time()
        await a._life.__aexit__(None, None, None)
        assert trio.current_time() - begun < 4
        a._life = _Left()


@simulated(SEEDS)
async def test_what_the_block_raises_comes_through_as_it_is(sim: Sim) -> None:
    with pytest.raises(ZeroDivisionError, match="mine"):
        async with beacon(sim, "a", discovery=True):
            raise ZeroDivisionError("mine")


@simulated(SEEDS)
async def test_an_address_that_is_taken_is_an_error_and_nothing_stays(sim: Sim) -> None:
    async with beacon(sim, "a", discovery=True):
        before = trio.lowlevel.current_statistics().tasks_living
        with pytest.raises(OSError, match=r"10\.0\.0\.1"):
            async with beacon(sim, "a", discovery=True):
                pass
        await trio.sleep(1)
        assert trio.lowlevel.current_statistics().tasks_living == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"listen": ()}, "listen: one address at least"),
        ({"listen": (("127.0.0.1", 0), ("127.0.0.2", 0))}, "listen: one address of an IP version"),
        ({"custody_group_count": 129}, "custody_group_count is 0 to 128, not 129"),
        ({"dials": 0}, "dials must be at least 1, not 0"),
        ({"events": 0}, "events must be at least 1, not 0"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BeaconConfig(chain(), **settings)


# --- cancellation

STEPS = 9000


@pytest.mark.slow
@pytest.mark.hostile
def test_hostile_093_entered_and_cancelled_at_every_step_nothing_stays() -> None:
    """Two networks that connect, speak and are left: cancelled after each step that any of their tasks takes."""
    over = 0

    async def scene(sim: Sim, step: int) -> bool:
        before = trio.lowlevel.current_statistics().tasks_living
        with trio.CancelScope() as scope:
            instrument = CancelAt(scope, step)
            trio.lowlevel.add_instrument(instrument)
            async with duo(sim, discovery=True) as (a, _), open_follower(a) as one:
                await one.produce_one(await a.clock.next_slot())
        trio.lowlevel.remove_instrument(instrument)
        await trio.sleep(30)
        assert trio.lowlevel.current_statistics().tasks_living == before
        assert not sim.net.connections()
        return scope.cancelled_caught

    for step in range(1, STEPS, 7):
        over += not run_sim(scene, 1, step)
        if over > 2:
            break
    assert over, "the scene takes more steps than were tried"


# --- forks


@simulated(SEEDS)
async def test_a_fork_is_told_and_in_the_record_at_its_boundary(sim: Sim) -> None:
    of = chain(epochs_per_fork=2)
    async with beacon(sim, "a", of, discovery=True) as a, watched(a) as told:
        await trio.sleep(a.clock.seconds_until(of.first_slot(2)) - 0.5)
        assert ENRForkID.decode(a.enr.eth2).fork_digest == of.at_epoch(0).digest
        assert told == []
        seq = a.enr.seq
        await trio.sleep(1)
        assert ENRForkID.decode(a.enr.eth2).fork_digest == of.at_epoch(2).digest
        assert a.enr.nfd == of.at_epoch(4).digest
        assert a.enr.seq == seq + 1
        assert of_kind(ForkChanged, told) == [ForkChanged(2, "bellatrix", of.at_epoch(2).digest)]
        await trio.sleep(a.clock.seconds_until(of.first_slot(12)) + 1)
        assert [(each.epoch, each.fork) for each in of_kind(ForkChanged, told)][-2:] == [(10, "fulu"), (12, "fulu")]
        assert a.enr.nfd == bytes(4)


@simulated(SEEDS)
async def test_who_has_not_noticed_a_fork_may_stay_an_epoch_then_it_has_to_go(sim: Sim) -> None:
    of = chain(epochs_per_fork=2)
    stale = replace(of, forks=of.forks[:1], blob_schedule=())
    async with beacon(sim, "a", of) as a, beacon(sim, "late", stale) as late, beacon(sim, "good", of) as good:
        await meet(late, a)
        await meet(good, a)
        late._exchange._us.irrelevant = lambda theirs: None  # it keeps us whatever we say
        with goodbyes(late) as heard:
            await trio.sleep(a.clock.seconds_until(of.first_slot(3)) - 1)
            assert knows(a, late)
            assert not heard
            await trio.sleep(6)
            assert heard == [(a.peer, GoodbyeReason.IRRELEVANT_NETWORK)]
        assert not knows(a, late)
        assert knows(a, good)


@simulated(SEEDS)
async def test_blocks_go_on_through_every_fork(sim: Sim) -> None:
    of = chain(epochs_per_fork=1)
    async with (
        crowd(sim, 4, of) as nets,
        open_follower(nets[0]) as a,
        open_follower(nets[1]) as b,
        open_follower(nets[2]) as c,
        open_follower(nets[3]) as d,
    ):
        await trio.sleep(3)
        followers = [a, b, c, d]
        for _ in range(60):
            slot = await a.net.clock.next_slot()
            await followers[slot % 4].produce_one(slot)
            await trio.sleep(1)
            assert {one.tree.head.slot for one in followers} == {slot}
        assert a.net.clock.period.title == "fulu (12 blobs)"
        assert all(peer.score >= 0 for net in nets for peer in net.peers())


# --- what is told and counted


@simulated(SEEDS)
async def test_every_peer_that_comes_goes_once(sim: Sim) -> None:
    of = chain()
    async with beacon(sim, "a", of) as a, watched(a) as told:
        for number in range(10):
            async with beacon(sim, f"b{number}", of, agent=f"agent {number}") as b:
                await meet(b, a)
                if number % 2:
                    sim.net.reset("a", f"b{number}")
                    await trio.sleep(1)
        await trio.sleep(1)
        came, went = of_kind(PeerConnected, told), of_kind(PeerDisconnected, told)
        assert [each.agent for each in came if each.agent.startswith("agent")][:1] == ["agent 0"]
        assert sorted(str(each.peer) for each in came) == sorted(str(each.peer) for each in went)
        assert {each.by for each in went} <= {"peer", "network", "us"}
        assert next(each.goodbye for each in went) == GoodbyeReason.CLIENT_SHUTDOWN


@simulated(SEEDS)
async def test_a_watcher_that_does_not_read_loses_nothing(sim: Sim) -> None:
    of = chain()
    async with beacon(sim, "a", of, events=1) as a, a.watch() as events:
        for number in range(5):
            async with beacon(sim, f"b{number}", of) as b:
                with trio.move_on_after(3):
                    await dial(b, a)
        told = []
        with trio.move_on_after(60):
            async for event in events:
                told.append(event)
        came = [each.peer for each in of_kind(PeerConnected, told)]
        went = [each.peer for each in of_kind(PeerDisconnected, told)]
        assert came == went
        assert len(came) >= 1


@simulated(SEEDS)
async def test_the_last_events_are_told_before_the_watchers_end(sim: Sim) -> None:
    async with beacon(sim, "b") as b, trio.open_nursery() as nursery:
        told: list = []

        async def note(task_status: trio.TaskStatus[None]) -> None:
            async with a.watch() as events:
                task_status.started()
                async for event in events:
                    told.append(event)
            told.append("over")

        async with beacon(sim, "a") as a:
            await nursery.start(note)
            await meet(a, b)
        await until(lambda: "over" in told)
        assert [type(each).__name__ for each in told[:-1]] == ["PeerConnected", "PeerDisconnected"]


@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["quick", "slow"])
@simulated(SEEDS[:1])
async def test_watchers_hear_of_every_peer_of_the_start_and_of_the_end(sim: Sim, pause: float) -> None:
    """Peers that connect while the network still opens, and all that are there when it is left."""
    counts = {PeerConnected: 0, PeerDisconnected: 0}
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(beacon(sim, f"o{number}")) for number in range(10)]
        nursery = await stack.enter_async_context(trio.open_nursery())
        host = sim.net.host("a")
        a = BeaconNetwork(
            BeaconConfig(chain(), listen=((host.ips[0], 9000),), identity=identity("a"), events=1),
            platform=sim.platform("a"),
            transports=[host.transport],
            bind=host.bind_udp,
        )

        async def note(task_status: trio.TaskStatus[None]) -> None:
            async with a.watch() as events:
                task_status.started()
                async for event in events:
                    await trio.sleep(pause)
                    if type(event) in counts:
                        counts[type(event)] += 1

        async def knock(other: BeaconNetwork) -> None:
            while not other.peers():
                with suppress(DialFailed, BackingOff):
                    await other.switch.connect(identity("a").peer, [host.address(9000)], ignore_backoff=True)
                await trio.sleep(0.001)

        await nursery.start(note)
        for other in others:
            nursery.start_soon(knock, other)
        await trio.sleep(0.01)
        async with a:
            await until(lambda: len(a.peers()) == 10)
            await trio.sleep(1)
            stats = a.stats()
            assert sum(stats.opened.values()) - sum(stats.closed.values()) == 10
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert counts == {PeerConnected: 10, PeerDisconnected: 10}


def leaves(value: object) -> list[object]:
    """What a value is made of."""
    if dataclasses.is_dataclass(value):
        return [leaf for each in dataclasses.fields(value) for leaf in leaves(getattr(value, each.name))]
    if isinstance(value, Mapping):
        return [leaf for pair in value.items() for leaf in (*leaves(pair[0]), *leaves(pair[1]))]
    if isinstance(value, tuple | frozenset):
        return [leaf for each in value for leaf in leaves(each)]
    return [value]


@simulated(SEEDS)
async def test_statistics_are_plain_and_complete(sim: Sim) -> None:
    async with duo(sim, discovery=True) as (a, b), open_follower(a) as one, open_follower(b):
        a.status = replace(a.status, finalized_epoch=0)
        await trio.sleep(20)
        made = await one.produce_one(await a.clock.next_slot())
        await trio.sleep(1)
        said = b.stats()
        assert isinstance(said, NodeStats)
        plain = {type(leaf).__name__ for leaf in leaves(said)}
        assert plain <= {"str", "int", "float", "bytes", "bool", "NoneType", "PeerId"}
        assert (said.peer, said.enr, said.addresses) == (b.peer, b.enr.text, (f"/ip4/10.0.0.1/tcp/9000/p2p/{b.peer}",))
        assert (said.slot, said.head_slot, said.fork_digest) == (made.slot, made.slot, b.clock.period.digest)
        assert said.target_peers == 12
        (connection,) = said.connections
        assert (connection.peer, connection.outbound, connection.direct) == (a.peer, False, True)
        assert connection.key == a.switch.identity.public_key.to_protobuf()
        assert connection.opened_at > said.started_at
        assert (said.bytes_in, said.bytes_out) == (connection.bytes_in, connection.bytes_out)
        assert min(said.bytes_in, said.bytes_out, said.messages_in, said.messages_out) > 0
        assert sum(said.opened.values()) == 1
        assert said.closed == {}
        (topic,) = [each for each in said.topics if a.clock.period.digest.hex() in each.topic]
        assert (topic.peers, topic.mesh, topic.messages, topic.bytes) == (1, 1, 1, len(made.ssz))
        assert said.requests["status", "in", "served"] == 1
        assert said.requests["ping", "out", "asked"] >= 1
        assert said.discovery_gauges
        assert said.dropped == {}
        await a.disconnect(b.peer)
        await until(lambda: not b.switch.connections())
        later = b.stats()
        assert later.connections == later.peers == ()
        assert later.bytes_in >= said.bytes_in
        assert sum(later.closed.values()) == 1
        assert said.connections, "a snapshot stays as it was"


# --- requests and quotas


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_078_079_bad_requests_are_answered_with_invalid_request_and_cost(sim: Sim) -> None:
    async with duo(sim) as (bad, a), open_follower(a):
        method = a.methods.beacon_blocks_by_range_v2
        for request, score in (
            (BeaconBlocksByRangeRequest(5, 0).encode(), -10),
            (BeaconBlocksByRangeRequest(2**64 - 1, 9).encode(), -20),
            (b"short", None),
        ):
            stream = await bad.switch.open_stream(a.peer, method.protocol)
            await stream.send_all(request_bytes(method, request))
            await stream.send_eof()
            assert (await stream.receive_some(1)) == b"\x01"
            stream.reset()
            if score is not None:
                assert a.peers()[0].score == pytest.approx(score, abs=0.2)
        await until(lambda: not a.peers())


@simulated(SEEDS)
async def test_a_quota_delays_what_is_too_much_and_refuses_nothing(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        a.reqresp.limits = replace(a.reqresp.limits, quotas=False)
        begun = trio.current_time()
        answered = [await a.reqresp.ask(b.peer, a.methods.ping, 0) for _ in range(4)]
        assert answered == [b.metadata.seq_number] * 4
        assert 9 < trio.current_time() - begun < 12  # two at once, then one in five seconds
        assert a.peers()[0].score == b.peers()[0].score == 0


# --- folders, kills, two at once


async def test_two_networks_in_one_process_know_nothing_of_each_other(tmp_path: Path) -> None:
    of, other = chain(), chain(started=100)
    loopback = {"discovery": True, "long_lived_subnets": False}
    with trio.fail_after(60):
        async with (
            BeaconNetwork(BeaconConfig(of, data=tmp_path / "1", **loopback)) as one,
            BeaconNetwork(BeaconConfig(other, data=tmp_path / "2", **loopback)) as two,
            BeaconNetwork(BeaconConfig(of, bootnodes=(one.enr,), **loopback)) as friend,
            BeaconNetwork(BeaconConfig(other, bootnodes=(two.enr,), **loopback)) as stranger,
        ):
            assert await friend.connect_to_network() == one.peer
            assert await stranger.connect_to_network() == two.peer
            await until(lambda: knows(one, friend) and knows(two, stranger))
            assert len({net.peer for net in (one, two, friend, stranger)}) == 4
            assert not knows(one, stranger)
            assert not knows(two, friend)
            with pytest.raises(DataInUse, match=f"in use by process {os.getpid()}"):
                async with BeaconNetwork(BeaconConfig(of, data=tmp_path / "1", **loopback)):
                    pass


@pytest.mark.hostile
async def test_hostile_098_a_folder_of_rubbish_stops_no_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("peers.sqlite", "local.json", "nodes.json"):
        (tmp_path / name).write_bytes(b"rubbish" * 1000)
    config = BeaconConfig(chain(), data=tmp_path, long_lived_subnets=False)
    with trio.fail_after(60):
        async with BeaconNetwork(config) as net, BeaconNetwork(replace(config, data=None)) as other:
            await meet(other, net)
            assert net.metadata.seq_number > 1_700_000_000, "others may remember a higher number"
            first = net.peer
        async with BeaconNetwork(config) as net:
            assert net.peer == first
    aside = " ".join(record.getMessage() for record in caplog.records if "set aside" in record.getMessage())
    assert all(name in aside for name in ("peers.sqlite", "local.json", "nodes.json"))


NODE = """
import sys, trio
from pathlib import Path
from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.scores import Tolerance
from pyp2p.discv5.enr import Enr

async def main():
    of = dev_chain(1_750_000_000, epochs_per_fork=100)
    config = BeaconConfig(of, data=Path(sys.argv[1]), long_lived_subnets=False)
    async with BeaconNetwork(config) as net:
        net.subscribe_subnet(9, net.clock.slot + 10_000)
        async with net.watch() as events:
            print(net.enr.text, flush=True)
            async for event in events:
                if type(event).__name__ == "PeerConnected":
                    net.report(event.peer, Tolerance.FATAL, "a forged proof")
                if type(event).__name__ == "PeerDisconnected":
                    print(net.metadata.seq_number, net.enr.seq, flush=True)

trio.run(main)
"""


async def test_a_network_that_is_killed_keeps_who_it_is_its_numbers_and_its_bans(tmp_path: Path) -> None:
    script = tmp_path / "node.py"
    script.write_text(NODE)
    loopback = {"discovery": False, "long_lived_subnets": False}
    banned = identity("banned")
    seen = []
    with trio.fail_after(90):
        for _ in range(2):
            process = _started(script, tmp_path / "data")
            try:
                record = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
                async with BeaconNetwork(BeaconConfig(chain(), identity=banned, **loopback)) as net:
                    enr = (await _joined(net, record.strip())).strip()
                    if not seen:
                        said = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
                    await until(lambda: not net.switch.connections() and not net.peers())
                    await until(lambda: _bans(tmp_path / "data" / "peers.sqlite"))  # at once, and yet a moment later
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
                process.stdout.close()
            seen.append((enr, said))
    first, second = (Enr.from_text(record) for record, _ in seen)
    assert first.peer_id == second.peer_id
    assert second.seq > first.seq
    async with BeaconNetwork(BeaconConfig(chain(), data=tmp_path / "data", **loopback)) as net:
        assert net.peering.manager.counters()["banned"] == 1
        assert net.peering.manager.score(banned.peer, trio.current_time()) == -100
        net.subscribe_subnet(9, net.clock.slot + 10_000)
        await until(lambda: net.metadata.attnets)
        assert net.metadata.seq_number > int(seen[0][1].split()[0])


def _bans(book: Path) -> int:
    """How many bans are in the file of another process."""
    with closing(sqlite3.connect(f"file:{book}?mode=ro", uri=True)) as file:
        return file.execute("SELECT count(*) FROM bans").fetchone()[0]


def _started(script: Path, data: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, script, data], stdout=subprocess.PIPE, text=True, env=os.environ)


async def _joined(net: BeaconNetwork, record: str) -> str:
    await net.connect_to_network([record])
    return record


def test_what_is_there_in_the_block_only_says_so_before() -> None:
    net = BeaconNetwork(BeaconConfig(chain()))
    for use in (net.peers, net.stats, lambda: net.gossip, lambda: net.peer, lambda: net.subscribe_subnet(1, 5)):
        with pytest.raises(LocalProtocolError, match="is there once the network runs"):
            use()
    with pytest.raises(TypeError, match="a ChainStatus, not None"):
        net.status = None


@simulated(SEEDS[:1])
async def test_arguments_that_are_none_are_refused_at_the_call_and_end_nothing(sim: Sim) -> None:
    async with beacon(sim, "a") as a:
        for subnet in (1.5, True, "x", None, -1, 64):
            with pytest.raises(LocalProtocolError, match="attestation subnets are 0 to 63"):
                a.subscribe_subnet(subnet, 100)
            with pytest.raises(LocalProtocolError, match="subnet"):
                async with a.gossip.subscribe("beacon_attestation", subnet):
                    pass
        for until in (None, -1, 1.5, 2**70, True):
            with pytest.raises(LocalProtocolError, match="a slot is"):
                a.subscribe_subnet(1, until)
        with pytest.raises(TypeError, match="function of a message"):
            a.gossip.validate("beacon_block", None)
        for peer, tolerance in ((None, Tolerance.LOW), (a.peer, "LOW")):
            with pytest.raises(TypeError, match="a PeerId and a Tolerance"):
                a.report(peer, tolerance, "bad")
        await trio.sleep(60)
        assert a.peers() == []
