"""What peers are told when our protocols or addresses change: what, when, and how often."""

import pytest
import trio

from pyp2p.identify.service import IDENTIFY_PROTOCOL, PUSH_PROTOCOL
from pyp2p.identify.wire import IdentifyInfo, encode
from pyp2p.peer.address import parse_multiaddr
from pyp2p.protocols.echo import serve_echo
from pyp2p.switch.events import Identified
from pyp2p.switch.service import Service
from pyp2p.switch.switch import Switch
from pyp2p.testing import LinkQuality, Sim, simulated
from tests.switch.support import node, pair, until


async def _mount(switch: Switch, number: int) -> None:
    switch.mount(f"/new/{number}", serve_echo)


async def _listen(switch: Switch, number: int) -> None:
    await switch.listen(str(switch.addresses[0]).replace("4001", str(5000 + number)))


@pytest.mark.parametrize("change", [_mount, _listen])
@pytest.mark.parametrize("dialled", [True, False], ids=["dialled", "dialling"])
@simulated(seeds=(1,))
async def test_a_change_at_any_moment_of_getting_to_know_each_other_is_told(sim: Sim, change, dialled: bool) -> None:
    sim.net.quality = LinkQuality(latency=0.1)
    async with pair(sim) as (a, b):
        who, other = (b, a) if dialled else (a, b)
        done = trio.Event()

        async def dial() -> None:
            await a.connect(b.multiaddrs[0])
            done.set()

        changes = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            while not (done.is_set() and a.connections() and b.connections()) or changes < 40:
                await trio.sleep(0.05)
                await change(who, changes)
                changes += 1
        (seen,) = other.connections()
        mounted = {f"/new/{number}" for number in range(changes) if change is _mount}
        await until(lambda: seen.info is not None and mounted <= set(seen.info.protocols))
        await until(lambda: set(who.addresses) <= set(seen.info.addresses))


@simulated(seeds=(1,))
async def test_a_change_while_a_service_still_thinks_about_the_peer_is_told_once_it_is_in(sim: Sim) -> None:
    admitted = trio.Event()

    async def slow(connection) -> None:
        await admitted.wait()

    async with pair(sim) as (a, b):
        b.attach(Service("slow", admit=slow))
        connection = await a.connect(b.multiaddrs[0])
        b.mount("/new", serve_echo)
        await trio.sleep(1)
        assert "/new" not in connection.info.protocols
        admitted.set()
        await until(lambda: "/new" in connection.info.protocols)


@simulated(seeds=(1,))
async def test_changes_made_at_once_are_told_at_once_and_silence_is_kept_without_one(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        await trio.sleep(1)
        async with a.watch() as events:
            for number in range(10):
                await _mount(b, number)
            b.unmount("/new/0")
            told = []
            with trio.move_on_after(60):
                async for event in events:
                    told.append(event)
        assert [type(event) for event in told] == [Identified]
        assert told[0].info == connection.info
        assert {f"/new/{number}" for number in range(1, 10)} <= set(connection.info.protocols)
        assert "/new/0" not in connection.info.protocols


@simulated(seeds=(1,))
async def test_who_is_met_isolated_is_told_nothing(sim: Sim) -> None:
    pushed = []

    async def receives(stream) -> None:
        pushed.append(stream)

    async with pair(sim) as (a, b):
        b.unmount(PUSH_PROTOCOL)
        b.mount(PUSH_PROTOCOL, receives)
        await a.connect(b.multiaddrs[0], isolated=True)
        a.mount("/new", serve_echo)
        await trio.sleep(5)
        assert not pushed
        await a.connect(b.multiaddrs[0])
        a.mount("/newer", serve_echo)
        await until(lambda: pushed)


@simulated(seeds=(1,))
async def test_where_peers_on_four_networks_see_us_is_told_within_seconds(sim: Sim) -> None:
    outside = parse_multiaddr("/ip4/8.8.8.8/tcp/4001")

    async def sees_us_there(stream) -> None:
        await stream.send_all(b"".join(encode(IdentifyInfo(observed=outside))))

    async with pair(sim) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        for number in range(4):
            name = f"witness {number}"
            sim.net.host(name, f"9.{number}.0.1")
            async with node(sim, name) as witness:
                witness.unmount(IDENTIFY_PROTOCOL)
                witness.mount(IDENTIFY_PROTOCOL, sees_us_there, before_admission=True)
                await trio.sleep(10)
                assert outside not in connection.info.addresses
                await b.connect(witness.multiaddrs[0])
        with trio.fail_after(10):
            while outside not in connection.info.addresses:
                await trio.sleep(0.1)
