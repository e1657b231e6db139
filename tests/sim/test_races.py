"""What several switches do at the same time: both dial, all dial, one stops, one is cancelled at any moment."""

from contextlib import suppress

import pytest
import trio

from pyp2p.errors import DialFailed
from pyp2p.switch.config import Limits, SwitchConfig
from pyp2p.testing import LeakCheck, LinkQuality, Sim, simulated
from tests.sim.test_switch import SLOW, target
from tests.switch.support import ECHO, node


@simulated(seeds=range(1, 6))
async def test_hostile_096_both_dial_at_once_and_one_connection_stays(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.1, jitter=0.05)
    async with node(sim, "a") as a, node(sim, "b") as b:

        async def connect_and_use(one, name, other) -> None:
            connection = await one.connect(target(sim, name, other))
            async with await connection.open_stream(ECHO) as stream:  # opened in the race: must complete
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect_and_use, a, "b", b)
            nursery.start_soon(connect_and_use, b, "a", a)
        await trio.sleep(60)
        assert len(a.connections()) == len(b.connections()) == 1
        opener = min(a, b, key=lambda switch: switch.peer)
        assert opener.connections()[0].direction.outbound


@simulated()
async def test_hostile_096_a_hundred_callers_share_one_dial(sim: Sim) -> None:
    sim.net.quality = SLOW
    async with node(sim, "a") as a, node(sim, "b") as b:
        found = []

        async def connect() -> None:
            found.append(await a.connect(target(sim, "b", b)))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(connect)
        assert len(found) == 100
        assert all(connection is found[0] for connection in found)
        assert len(b.connections()) == 1


@simulated(seeds=(1,))
async def test_a_dial_that_is_cancelled_at_any_moment_leaves_nothing(sim: Sim) -> None:
    sim.net.quality = SLOW
    async with node(sim, "a") as a, node(sim, "b") as b:
        await trio.sleep(1)
        live = lambda: sum(not (c.near.closed and c.far.closed) for c in sim.net.connections())  # noqa: E731
        async with LeakCheck({"connections": live, "slots": lambda: _used(a) + _used(b)}):
            for hundredths in range(0, 70, 3):
                with trio.move_on_after(hundredths / 100):
                    await a.connect(target(sim, "b", b), ignore_backoff=True)
                await a.disconnect(b.peer)
                await trio.sleep(40)


def _used(switch) -> int:
    """Slots in use: connections and dials under way."""
    return sum(switch.counters[name] for name in ("connections", "pending_inbound", "pending_outbound"))


@simulated()
async def test_stopping_ends_in_time_with_a_peer_that_does_not_read(sim: Sim) -> None:
    sim.net.quality = SLOW
    async with node(sim, "slow", buffer=2000) as slow:

        async def hang(stream) -> None:
            await trio.sleep_forever()

        slow.mount("/hang", hang)
        async with trio.open_nursery() as nursery:
            async with node(sim, "a") as a:
                await a.connect(target(sim, "slow", slow))
                for _ in range(20):
                    stream = await a.open_stream(slow.peer, "/hang")
                    nursery.start_soon(_send_until_broken, stream)
                await trio.sleep(3)
                started = trio.current_time()
            assert trio.current_time() - started <= 2.001


async def _send_until_broken(stream) -> None:
    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
        await stream.send_all(bytes(1_000_000))


@simulated()
async def test_a_peer_that_is_gone_is_dialled_again_after_the_backoff(sim: Sim) -> None:
    sim.net.quality = SLOW
    async with node(sim, "a") as a:
        async with node(sim, "b") as b:
            address = target(sim, "b", b)
        with pytest.raises(DialFailed):
            await a.connect(address)
        async with node(sim, "b") as b:
            with pytest.raises(DialFailed):
                await a.connect(address)  # backs off
            await trio.sleep(7)
            await a.connect(address)


@simulated(seeds=(1,))
async def test_a_ring_of_switches_over_bad_links_and_a_partition(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.02, jitter=0.05, loss=0.05)
    names = [f"n{i}" for i in range(12)]
    async with LeakCheck(), trio.open_nursery() as nursery:
        switches: dict[str, object] = {}
        everybody = trio.Event()

        async def run(name: str) -> None:
            async with node(sim, name) as switch:
                switches[name] = switch
                if len(switches) == len(names):
                    everybody.set()
                await trio.sleep_forever()

        for name in names:
            nursery.start_soon(run, name)
        await everybody.wait()
        received = 0
        sim.net.partition(names[:4], names[4:8], names[8:])

        async def use(position: int) -> None:
            nonlocal received
            one, other = names[position], names[(position + 5) % len(names)]
            stream = await switches[one].open_stream(target(sim, other, switches[other]), ECHO)
            async with stream:
                await stream.send_all(bytes(5000))
                await stream.send_eof()
                while data := await stream.receive_some():
                    received += len(data)

        async with trio.open_nursery() as users:
            for position in range(len(names)):
                users.start_soon(use, position)
            await trio.sleep(3)
            assert received < 5000 * len(names)
            sim.net.heal()
        assert received == 5000 * len(names)
        nursery.cancel_scope.cancel()


@simulated(seeds=(1,))
async def test_hostile_096_one_peer_that_dials_fifty_times_gets_its_share(sim: Sim) -> None:
    limits = Limits(per_peer=8, per_ip4=100, ip_burst=100)
    free = SwitchConfig(limits=Limits(per_peer=100))
    async with node(sim, "b", config=SwitchConfig(limits=limits)) as b, node(sim, "a", config=free) as a:
        inside = []

        async def dial() -> None:
            with suppress(DialFailed, trio.BrokenResourceError):
                connection = await a.connect(target(sim, "b", b), isolated=True)
                async with await connection.open_stream(ECHO) as stream:
                    await stream.send_all(b"hello")
                    inside.append(await stream.receive_some())

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(dial)
        assert inside == [b"hello"] * 8
        assert b.counters["connections"] == 8
        assert b.counters["refused.limit.per_peer"] == 42
        async with node(sim, "c") as c:
            await c.connect(target(sim, "b", b))
