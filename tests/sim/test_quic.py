"""QUIC over bad links in virtual time: what is lost arrives all the same, and connections share a link."""

import hashlib
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from pyp2p.errors import StageTimeout
from pyp2p.protocols.perf import PERF_PROTOCOL, run_perf
from pyp2p.quic.core import IDLE_SECONDS
from pyp2p.quic.transport import Quic
from pyp2p.switch.config import Limits, SwitchConfig
from pyp2p.switch.limits import Budget
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.switch import open_switch
from pyp2p.testing import LinkQuality, Sim, simulated

pytestmark = pytest.mark.slow

SIZE = 400_000
BULK = 1_000_000


@asynccontextmanager
async def node(sim: Sim, host, port: int, way: str = "quic"):
    """A switch on QUIC alone, or on TCP alone."""
    quic = way == "quic"
    async with open_switch(
        transports=[Quic(bind=host.bind_udp) if quic else host.transport],
        listen=[f"/ip4/{host.ips[0]}/udp/{port}/quic-v1" if quic else host.address(port)],
        platform=sim.platform(f"{host.name}{port}"),
        config=SwitchConfig(perf=True, limits=Limits(per_ip4=64, ip_burst=64)),
    ) as switch:
        yield switch


async def transfer(connection, up: int, down: int) -> None:
    async with await connection.open_stream(PERF_PROTOCOL) as stream:
        result = await run_perf(stream, up, down)
    assert (result.upload_bytes, result.download_bytes) == (up, down)


async def hold(stream: MuxedStream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.1])
@simulated(seeds=(1,))
async def test_all_arrives_over_a_link_that_loses_and_is_slow(sim: Sim, loss: float) -> None:
    sim.net.quality = LinkQuality(latency=0.1, jitter=0.02, loss=loss)
    async with node(sim, sim.net.host("a"), 9) as a, node(sim, sim.net.host("b"), 9) as b:
        with trio.fail_after(600):
            connection = await a.connect(b.multiaddrs[0])
            await transfer(connection, SIZE, SIZE)
        assert connection.reason is None


@pytest.mark.parametrize("jitter", [0.0, 0.002, 0.01])
@simulated(seeds=(1,))
async def test_a_link_is_filled_one_way_and_then_the_other_also_when_it_reorders(sim: Sim, jitter: float) -> None:
    sim.net.quality = LinkQuality(latency=0.02, jitter=jitter, bandwidth=1_000_000)
    async with node(sim, sim.net.host("a"), 9) as a, node(sim, sim.net.host("b"), 9) as b:
        connection = await a.connect(b.multiaddrs[0])
        started = trio.current_time()
        await transfer(connection, 0, 3_000_000)
        await transfer(connection, 3_000_000, 0)
        assert trio.current_time() - started < 7  # six seconds are what the link needs


@simulated(seeds=(1,))
async def test_one_connection_after_the_other(sim: Sim) -> None:
    near, far = sim.net.host("a"), sim.net.host("b")

    def bind(ip: str, port: int):
        return near.bind_udp(None if ip == "0.0.0.0" else ip, port)

    async with (
        node(sim, far, 9) as server,
        open_switch(transports=[Quic(bind=bind)], platform=sim.platform("a")) as dialler,
    ):
        for _ in range(5):
            connection = await dialler.connect(server.multiaddrs[0])
            assert connection.info is not None
            await connection.aclose()
            await trio.sleep(1)
        assert not near.udp  # who does not listen has a socket only while it is connected


@simulated(seeds=(1,))
async def test_a_connection_that_is_not_used_stays(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.1, loss=0.05)
    async with node(sim, sim.net.host("a"), 9) as a, node(sim, sim.net.host("b"), 9) as b:
        connection = await a.connect(b.multiaddrs[0])
        await trio.sleep(600)
        assert connection.is_open
        assert connection.stats.bytes_out < 20_000  # one small datagram in five seconds, and answers
        assert b.connections(a.peer)[0].is_open


@simulated(seeds=(1,))
async def test_who_waits_for_a_further_stream_is_told_so(sim: Sim) -> None:
    async with node(sim, sim.net.host("a"), 9) as a, node(sim, sim.net.host("b"), 9) as b:
        b.mount("/hold", hold, budget=Budget(per_peer=300))
        connection = await a.connect(b.multiaddrs[0])
        several = [await connection.open_stream("/hold") for _ in range(256)]
        started = trio.current_time()
        with pytest.raises(StageTimeout, match="the peer allows no further stream now"):
            await connection.open_stream("/hold")
        assert trio.current_time() - started == pytest.approx(10)
        several[0].reset()
        await transfer(connection, 1000, 1000)


@simulated(seeds=(1,))
async def test_a_peer_that_is_gone_without_a_word_is_noticed_soon(sim: Sim) -> None:
    async with node(sim, sim.net.host("a"), 9) as a, node(sim, sim.net.host("b"), 9) as b:
        connection = await a.connect(b.multiaddrs[0])
        await trio.sleep(60)
        sim.net.cut("a", "b")
        with trio.fail_after(IDLE_SECONDS * 1.5 + 1):  # a last sign may have come just before we asked for the next
            while connection.is_open:
                await trio.sleep(0.1)
        assert connection.reason is not None
        assert "no sign" in str(connection.reason)


@simulated(seeds=(1,))
async def test_ten_connections_share_a_link(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.02, bandwidth=500_000)
    near, far = sim.net.host("a"), sim.net.host("b")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(node(sim, far, 9))
        nodes = [await stack.enter_async_context(node(sim, near, 10 + number)) for number in range(10)]
        connections = [await each.connect(server.multiaddrs[0]) for each in nodes]
        with trio.move_on_after(30):
            async with trio.open_nursery() as nursery:
                for connection in connections:
                    nursery.start_soon(transfer, connection, 50_000_000, 0)
        sent = [connection.stats.bytes_out for connection in connections]
        assert jain(sent) > 0.8
        assert sum(sent) > 30 * 500_000 * 0.5
        for connection in connections:
            await connection.aclose()


def jain(shares: list[int]) -> float:
    """Jain's index of fairness: 1 is even, k/n is what k of n get when they share evenly and the rest gets nothing."""
    return sum(shares) ** 2 / (len(shares) * sum(each**2 for each in shares))


@pytest.mark.parametrize("way", ["quic", "tcp"])
@simulated(seeds=(1,))
async def test_ten_bulk_transfers_complete_and_share_a_link_that_loses_and_is_slow(sim: Sim, way: str) -> None:
    # Ten nodes behind one link: what one QUIC connection reaches with 2 % loss and 200 ms is about a tenth of it.
    sim.net.quality = LinkQuality(latency=0.1, bandwidth=500_000, loss=0.02)
    near, far = sim.net.host("a"), sim.net.host("b")
    heard = [0] * 10
    shares: list[int] = []

    async def hear(stream) -> None:
        number, digest = (await stream.receive_some(1))[0], hashlib.sha256()
        async for chunk in stream:
            heard[number] += len(chunk)
            digest.update(chunk)
        if not shares:
            shares.extend(heard)
        await stream.send_last(digest.digest())

    async def say(switch, number: int) -> None:
        data = sim.platform(f"data{number}").entropy(BULK)
        connection = await switch.connect(server.multiaddrs[0])
        async with await connection.open_stream("/hear/1") as stream:
            await stream.send_all(bytes([number]))
            await stream.send_all(data)
            await stream.send_eof()
            assert b"".join([chunk async for chunk in stream]) == hashlib.sha256(data).digest()
        assert connection.is_open

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(node(sim, far, 9, way))
        server.mount("/hear/1", hear)
        nodes = [await stack.enter_async_context(node(sim, near, 10 + number, way)) for number in range(10)]
        with trio.fail_after(60):  # 20 s without loss
            async with trio.open_nursery() as nursery:
                for number, switch in enumerate(nodes):
                    nursery.start_soon(say, switch, number)
        assert heard == [BULK] * 10
        # When the first is done: 0.89 to 0.96 over QUIC with the seeds 1 to 6, 0.99 and more over TCP. Two that get
        # nothing beside eight that share evenly are 0.8.
        assert jain(shares) > 0.85
        link = sim.net.link("a", "b")
        assert (link.swallowed if way == "quic" else link.resent) > 10


@simulated(seeds=(1,))
async def test_what_was_sent_before_the_end_arrives_over_a_bad_link(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.05, loss=0.05)
    async with node(sim, sim.net.host("a"), 9) as a, node(sim, sim.net.host("b"), 9) as b:
        heard = []

        async def hear(stream) -> None:
            heard.append(b"".join([chunk async for chunk in stream]))

        b.mount("/hear/1", hear)
        connection = await a.connect(b.multiaddrs[0])
        async with await connection.open_stream("/hear/1") as stream:
            await stream.send_all(bytes(20_000))
            await stream.send_eof()
        await connection.aclose()
        with trio.fail_after(60):
            while not heard:
                await trio.sleep(0.1)
        assert heard == [bytes(20_000)]
