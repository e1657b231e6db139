"""The simulated network itself: the stream contract over links, times, faults, and the same run from the same seed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from pyp2p.errors import ConnectFailed
from pyp2p.io.stream import RawStream
from pyp2p.testing.contract import check_raw_stream
from pyp2p.testing.run import EPOCH, Sim, run_sim, simulated
from pyp2p.testing.simnet import LinkQuality

SLOW = LinkQuality(latency=0.1)


async def pair(sim: Sim, quality: LinkQuality = SLOW, buffer: int = 256 * 1024) -> tuple[RawStream, RawStream]:
    sim.net.quality = quality
    a, b = sim.net.host("a"), sim.net.host("b", buffer=buffer)
    listener = await b.transport.listen(b.address(0))
    out = await a.transport.dial(listener.address)
    inn = await listener.accept()
    assert out.remote == inn.local == listener.address
    assert out.local == inn.remote
    await listener.aclose()
    return out.stream, inn.stream


async def read_all(stream: RawStream) -> bytes:
    data = b""
    while chunk := await stream.receive_some():
        data += chunk
    return data


@pytest.mark.parametrize(
    "quality",
    [LinkQuality(), SLOW, LinkQuality(latency=0.02, jitter=0.05, bandwidth=1e6, loss=0.05)],
    ids=["perfect", "slow", "bad"],
)
@simulated(seeds=(1,))
async def test_stream_contract(sim: Sim, quality: LinkQuality) -> None:
    async def make_pair():
        return await pair(sim, quality)

    async def make_clogged_pair():
        near, far = await pair(sim, quality)
        for stream in (near, far):
            while stream.try_send(bytes(65536)):
                pass
        return near, far

    await check_raw_stream(make_pair, make_clogged_pair)


@simulated()
async def test_times(sim: Sim) -> None:
    near, far = await pair(sim)
    assert trio.current_time() == pytest.approx(0.3)  # connected after 0.2, and the listener hears of it 0.1 later
    await near.send_all(b"x")
    assert await far.receive_some() == b"x"
    assert trio.current_time() == pytest.approx(0.4)
    link = sim.net.link("a", "b")
    assert (link.flights, sim.net.link("b", "a").flights) == (2, 1)
    await near.send_all(b"y")  # nothing was heard in between: the same flight
    await far.send_all(b"z")
    await near.receive_some()
    await near.send_all(b"w")
    assert (link.flights, sim.net.link("b", "a").flights) == (3, 2)


@simulated()
async def test_bandwidth_is_shared(sim: Sim) -> None:
    quality = LinkQuality(bandwidth=100_000)
    near, far = await pair(sim, quality)
    near2, far2 = await pair(sim, quality)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for stream in (near, near2):
            nursery.start_soon(stream.send_all, bytes(100_000))
        for stream in (far, far2):

            async def read(stream: RawStream = stream) -> None:
                left = 100_000
                while left:
                    left -= len(await stream.receive_some())

            nursery.start_soon(read)
    assert trio.current_time() - started == pytest.approx(2.0, rel=0.01)


@simulated()
async def test_loss_costs_time_and_no_byte(sim: Sim) -> None:
    near, far = await pair(sim, LinkQuality(latency=0.01, loss=0.5))
    data = sim.platform("data").entropy(500_000)

    async def send() -> None:
        await near.send_all(data)
        await near.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await read_all(far) == data
    assert sim.net.link("a", "b").resent > 5


@simulated()
async def test_a_slow_reader_holds_its_sender_and_nobody_else(sim: Sim) -> None:
    near, far = await pair(sim, buffer=1000)
    other, other_far = await pair(sim)
    with trio.move_on_after(60) as scope:
        await near.send_all(bytes(5000))
    assert scope.cancelled_caught
    assert near.try_send(b"x") == 0
    await other.send_all(b"hello")
    assert await other_far.receive_some() == b"hello"
    assert len(await far.receive_some()) == 1000
    await trio.sleep(0.2)
    assert near.try_send(bytes(5000)) == 1000


@simulated()
async def test_a_cut_link_is_half_open(sim: Sim) -> None:
    near, far = await pair(sim)
    near.try_send(b"on its way")
    sim.net.cut("a", "b")
    assert near.try_send(b"swallowed") == 9
    assert await far.receive_some() == b"on its way"
    with trio.move_on_after(3600) as scope:
        await far.receive_some()
    assert scope.cancelled_caught  # no error, no end
    with trio.move_on_after(3600) as scope:
        await sim.net.host("a").transport.dial(sim.net.host("b").address())
    assert scope.cancelled_caught
    sim.net.mend("a", "b")
    near.try_send(b"still lost")  # what follows a gap never arrives
    with trio.move_on_after(3600) as scope:
        await far.receive_some()
    assert scope.cancelled_caught
    near2, far2 = await pair(sim)
    near2.try_send(b"new")
    assert await far2.receive_some() == b"new"


@simulated()
async def test_a_partition_delays(sim: Sim) -> None:
    near, far = await pair(sim)
    sim.net.partition(["a"], ["b"])
    near.try_send(b"late")
    with trio.move_on_after(100) as scope:
        await far.receive_some()
    assert scope.cancelled_caught
    sim.net.heal()
    assert await far.receive_some() == b"late"


@simulated()
async def test_a_reset_is_seen_on_both_sides(sim: Sim) -> None:
    near, far = await pair(sim)
    near.try_send(b"lost with it")
    sim.net.reset("b", "a")
    for stream in (near, far):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            stream.try_send(b"x")


@simulated()
async def test_refused_and_unreachable(sim: Sim) -> None:
    a, b = sim.net.host("a"), sim.net.host("b", "10.9.9.9", "fd00::9")
    assert str(b.address(7)) == "/ip4/10.9.9.9/tcp/7"
    for address in (b.address(7), b.address(7, "fd00::9"), "/ip4/192.0.2.1/tcp/7"):
        with pytest.raises(ConnectFailed):
            await a.transport.dial(sim_address(address))
    with pytest.raises(OSError):
        await a.transport.listen(b.address(7))


@simulated()
async def test_cancelled_dial_leaves_nothing(sim: Sim) -> None:
    sim.net.quality = SLOW
    a, b = sim.net.host("a"), sim.net.host("b")
    listener = await b.transport.listen(b.address())
    for after in (0.0, 0.05, 0.15, 0.2):
        with trio.move_on_after(after) as scope:
            await a.transport.dial(listener.address)
        assert scope.cancelled_caught
    await trio.sleep(1)
    for connection in sim.net.connections():
        assert connection.near.closed
    with trio.move_on_after(1):
        raw = await listener.accept()
        assert await raw.stream.receive_some() == b""
        await raw.stream.aclose()
    await listener.aclose()
    assert sim.net.connections() == []


def sim_address(address):
    from pyp2p.peer.address import parse_multiaddr

    return parse_multiaddr(address)


# ---- the same seed, the same run ----


async def busy(sim: Sim) -> str:
    """Many tasks, chance everywhere; returns the hash of what was sent."""
    sim.net.quality = LinkQuality(latency=0.01, jitter=0.05, bandwidth=1e6, loss=0.02)
    hosts = [sim.net.host(f"h{i}") for i in range(6)]

    async def serve(host) -> None:
        listener = await host.transport.listen(host.address())
        async with trio.open_nursery() as nursery:
            while True:
                raw = await listener.accept()
                nursery.start_soon(echo, raw.stream)

    async def echo(stream) -> None:
        async with stream:
            while data := await stream.receive_some(1000):
                await stream.send_all(data)

    async def talk(name: str) -> None:
        platform = sim.platform(name)
        host = platform.rng.choice(hosts)
        raw = await host.transport.dial(platform.rng.choice([h for h in hosts if h is not host]).address())
        async with raw.stream:
            for _ in range(5):
                message = platform.entropy(platform.rng.randrange(1, 3000))
                await raw.stream.send_all(message)
                received = 0
                while received < len(message):
                    received += len(await raw.stream.receive_some())

    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(serve, host)
        async with trio.open_nursery() as talkers:
            for number in range(20):
                talkers.start_soon(talk, f"talker {number}")
        nursery.cancel_scope.cancel()
    return f"{sim.net.trace.digest} {trio.current_time()!r}"


def test_same_seed_same_trace_and_another_seed_another() -> None:
    assert run_sim(busy, 1) == run_sim(busy, 1)
    assert run_sim(busy, 1) != run_sim(busy, 2)


def test_two_processes_with_other_hash_seeds_give_the_same_trace() -> None:
    script = "from tests.sim.test_simnet import busy, run_sim; print(run_sim(busy, 7))"
    root = Path(__file__).parents[2]
    outputs = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, env=environment, cwd=root, capture_output=True, text=True, check=True, timeout=60
        )
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].strip() == run_sim(busy, 7)


@simulated()
async def test_the_platform_is_seeded_and_its_wall_clock_moves(sim: Sim) -> None:
    one, again, other = sim.platform("a"), sim.platform("a"), sim.platform("b")
    assert one.entropy(32) == again.entropy(32) != other.entropy(32)
    assert one.entropy(32) != one.entropy(32)
    assert one.rng.random() == again.rng.random() != other.rng.random()
    assert one.wall() == EPOCH
    await trio.sleep(100)
    assert one.wall() == EPOCH + 100


@simulated(seeds=(1,))
async def test_connections_that_are_over_are_forgotten(sim: Sim) -> None:
    a, b = sim.net.host("a"), sim.net.host("b")
    listener = await b.transport.listen(b.address())
    for _ in range(500):
        out = await a.transport.dial(listener.address)
        inn = await listener.accept()
        await out.stream.aclose()
        await inn.stream.aclose()
        assert len(sim.net._connections) <= 100
    await listener.aclose()
