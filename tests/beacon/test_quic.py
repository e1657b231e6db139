"""Whole beacon networks over QUIC, in virtual time on simulated datagrams; and real sockets of both IP versions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.config import Advertised, BeaconConfig
from pyp2p.beacon.events import PeerConnected
from pyp2p.beacon.follow import Imported, open_follower
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.peer_types import PeerConfig
from pyp2p.discv5.enr import Enr
from pyp2p.errors import DialFailed, PeerIdMismatch
from pyp2p.quic.transport import Quic
from pyp2p.testing import LinkQuality, Sim, simulated
from tests.beacon.support import chain, identity, knows, of_kind, watched
from tests.switch.support import until

SEEDS = (1, 2)


@asynccontextmanager
async def node(sim: Sim, name: str, of: Chain, *, port: int = 9000, **options: Any) -> AsyncIterator[BeaconNetwork]:
    """A network that has both transports, with discovery."""
    sim.net.quality = LinkQuality(latency=0.02)
    host = sim.net.host(name)
    config = BeaconConfig(
        of, **{"listen": ((host.ips[0], port),), "long_lived_subnets": False, "peers": PeerConfig(target=12), **options}
    )
    transports = [host.transport, Quic(bind=host.bind_udp)]
    async with BeaconNetwork(config, platform=sim.platform(name), transports=transports, bind=host.bind_udp) as net:
        yield net


def way(one: BeaconNetwork, other: BeaconNetwork) -> list[str]:
    """Over what the first has the second as its peer."""
    return [each.transport for each in one.peers() if each.peer == other.peer]


@simulated(SEEDS)
async def test_two_that_meet_through_discovery_meet_over_quic(sim: Sim) -> None:
    of = chain()
    async with node(sim, "boot", of) as boot, watched(boot) as at_boot:
        more = {"bootnodes": (boot.enr,)}
        async with node(sim, "a", of, **more) as a, watched(a) as at_a:
            assert (boot.enr.tcp, boot.enr.udp, boot.enr.quic, boot.enr.quic6) == (9000, 9000, 9001, None)
            await until(lambda: knows(boot, a) and knows(a, boot))
            assert way(a, boot) == way(boot, a) == ["quic-v1"]
            assert [(each.transport, each.outbound) for each in of_kind(PeerConnected, at_a)] == [("quic-v1", True)]
            assert [each.transport for each in of_kind(PeerConnected, at_boot)] == ["quic-v1"]
            assert {each[1] for each in a.stats().opened} == {"quic-v1"}
            (peer,) = a.peers()
            assert peer.status is not None
            assert peer.status.fork_digest == of.at_epoch(0).digest
            assert await a.reqresp.ask(boot.peer, a.methods.ping, 0) is not None
            await until(lambda: a.peers()[0].metadata is not None)


@simulated(SEEDS)
async def test_blocks_come_by_gossip_and_by_range_over_quic(sim: Sim) -> None:
    of = chain(started=20)
    async with node(sim, "maker", of) as maker, open_follower(maker) as made:
        slot = await maker.clock.next_slot()
        for _ in range(3):
            assert await made.produce_one(slot) is not None
            slot = await maker.clock.next_slot()
        async with node(sim, "late", of, bootnodes=(maker.enr,)) as late, open_follower(late) as follower:
            await until(lambda: follower.tree.head.root == made.tree.head.root)  # it asked for them
            assert way(late, maker) == ["quic-v1"]
            topic = next(each for each in late.pubsub.topics if "beacon_block" in each)
            await until(lambda: maker.peer in late.pubsub.mesh(topic))
            async with follower.watch() as news:
                block = await made.produce_one(await maker.clock.next_slot())
                imported = await anext(news)
            assert isinstance(imported, Imported)
            assert (imported.block, imported.source, imported.how) == (block, maker.peer, "gossip")
            assert {each[1] for each in late.stats().opened} == {"quic-v1"}


@pytest.mark.parametrize("without", ["dialler", "dialled"])
@simulated(SEEDS)
async def test_with_one_that_has_no_quic_they_meet_over_tcp(sim: Sim, without: str) -> None:
    of = chain()
    async with node(sim, "boot", of, quic=without != "dialled") as boot:
        assert (boot.enr.quic is None) == (without == "dialled")
        async with node(sim, "a", of, bootnodes=(boot.enr,), quic=without != "dialler") as a:
            await until(lambda: knows(boot, a) and knows(a, boot))
            assert way(a, boot) == way(boot, a) == ["tcp"]
            assert [str(each).split("/")[3] for each in (boot if without == "dialled" else a).switch.addresses] == [
                "tcp"
            ]


@simulated(SEEDS)
async def test_a_dead_quic_port_holds_up_nobody(sim: Sim) -> None:
    of, ip = chain(), sim.net.host("b").ips[0]
    async with node(sim, "b", of, advertise=(Advertised(ip, 9000, 9000, 7777),)) as b, node(sim, "a", of) as a:
        assert b.enr.quic == 7777  # where datagrams vanish
        began = trio.current_time()
        connection = await a.switch.connect(b.peer, b.enr.multiaddrs())
        assert trio.current_time() - began < 1
        assert str(connection.remote) == f"/ip4/{ip}/tcp/9000"


@pytest.mark.parametrize("ports", [("quic",), ("quic", "tcp")], ids=str)
@simulated(SEEDS)
async def test_hostile_014_a_record_whose_quic_port_is_somebody_elses(sim: Sim, ports: tuple[str, ...]) -> None:
    of = chain()
    somebody = {"port": 9100, "identity": identity("other")}
    async with node(sim, "b", of) as b, node(sim, "b", of, **somebody) as other, node(sim, "a", of) as a:
        assert b.enr.ip == other.enr.ip
        places = {"ip": b.enr.ip, "udp": 9000, "quic": other.enr.quic, "tcp": b.enr.tcp}
        lie = Enr.sign(b.switch.identity, 99, {key: places[key] for key in ("ip", "udp", *ports)})
        if "tcp" in ports:
            assert (await a.switch.connect(lie.peer_id, lie.multiaddrs())).peer == b.peer
            assert way(a, b) == ["tcp"]
        else:
            with pytest.raises(DialFailed) as caught:
                await a.switch.connect(lie.peer_id, lie.multiaddrs())
            (attempt,) = caught.value.attempts
            assert isinstance(attempt.error, PeerIdMismatch)
            assert str(other.peer) in str(attempt.error)
            assert not a.switch.connections()
        assert not a.switch.connections(other.peer)


async def test_both_ip_versions_are_listened_on_and_a_restart_says_the_same(tmp_path: Path) -> None:
    of = chain()

    async def said(**fields: Any) -> tuple[Enr, list[str]]:
        config = BeaconConfig(of, data=tmp_path, long_lived_subnets=False, **fields)
        async with BeaconNetwork(config) as net:
            assert net.enr is not None
            return net.enr, [str(each) for each in net.switch.addresses]

    with trio.fail_after(60):
        first, places = await said(listen=(("127.0.0.1", 0), ("::1", 0)))
        assert places == [
            *(f"/ip4/127.0.0.1/tcp/{first.tcp}", f"/ip4/127.0.0.1/udp/{first.quic}/quic-v1"),
            *(f"/ip6/::1/tcp/{first.tcp6}", f"/ip6/::1/udp/{first.quic6}/quic-v1"),
        ]
        assert [str(each) for each in first.multiaddrs()] == places
        fixed = {"listen": (("127.0.0.1", first.tcp),), "quic_port": first.quic}
        second, _ = await said(**fixed)
        assert (second.quic, second.quic6, second.seq) == (first.quic, None, first.seq + 1)
        again, _ = await said(**fixed)
        assert again == second
        off, places = await said(listen=fixed["listen"], quic=False)
        assert (off.quic, off.seq, places) == (None, second.seq + 1, [f"/ip4/127.0.0.1/tcp/{first.tcp}"])


async def test_dialled_over_ipv6_alone_it_is_quic_too() -> None:
    of = chain()
    listen = (("::1", 0),)
    with trio.fail_after(60):
        async with (
            BeaconNetwork(BeaconConfig(of, listen=listen, discovery=False, identity=identity("six"))) as b,
            BeaconNetwork(BeaconConfig(of, listen=listen, discovery=False)) as a,
        ):
            over_quic = [each for each in b.switch.addresses if "quic-v1" in str(each)]
            connection = await a.switch.connect(b.peer, over_quic)
            assert str(connection.remote) == str(over_quic[0])
            assert way(a, b) == ["quic-v1"]
