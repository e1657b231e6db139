"""Hostile cases 18 to 32 against a whole switch: what a peer does with streams after an honest handshake."""

import math
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio

from pyp2p.muxers.base import MuxerLimits
from pyp2p.muxers.mplex import Mplex
from pyp2p.muxers.yamux import Yamux
from pyp2p.switch.config import Limits, SwitchConfig
from pyp2p.switch.connection import Connection
from pyp2p.switch.events import Disconnected
from pyp2p.switch.stream import StreamReset
from pyp2p.switch.switch import open_switch
from pyp2p.testing import LinkQuality, Sim, simulated
from tests.hostile.arena import ECHO, Way, arena, over_quic, over_tcp

pytestmark = pytest.mark.hostile

DATA, WINDOW, PING, GOAWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
MPLEX = "/mplex/6.7.0"
SELECT_ECHO = b"\x13/multistream/1.0.0\n\x0c/echo/1.0.0\n"


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"", version: int = 0) -> bytes:
    return struct.pack(">BBHII", version, kind, flags, stream, length) + body


def opened(stream: int, payload: bytes = b"") -> bytes:
    body = SELECT_ECHO + payload
    return frame(DATA, SYN, stream, len(body), body)


VIOLATIONS = {
    "018 data over the window with SYN": frame(DATA, SYN, 1, 262_145),
    "018 data over the window later": opened(1) + frame(DATA, 0, 1, 262_145),
    "019 window overflow": opened(1) + frame(WINDOW, 0, 1, 0xFFFFFFFF) * 2,
    "020 window overflow with SYN": frame(WINDOW, SYN, 1, 0xFFFFFFFF),
    "021 data of 4 GiB": opened(1) + frame(DATA, 0, 1, 0xFFFFFFFF),
    "025 version 1": frame(DATA, 0, 1, 0, version=1),
    "025 type 4": frame(4, 0, 1, 0),
    "025 data on stream 0": frame(DATA, 0, 0, 1, b"x"),
    "025 SYN with our parity": frame(WINDOW, SYN, 2, 0),
    "025 SYN twice": opened(1) + frame(WINDOW, SYN, 1, 0),
    "025 data after FIN": opened(1) + frame(DATA, FIN, 1, 0) + frame(DATA, 0, 1, 1, b"x"),
}


@pytest.mark.parametrize("name", VIOLATIONS, ids=str)
@simulated(seeds=(1,))
async def test_hostile_018_to_025_a_violation_ends_the_connection_with_goaway(sim: Sim, name: str) -> None:
    async with arena(sim) as scene, scene.victim.watch() as events:
        attacker = await scene.attack()
        await attacker.send(VIOLATIONS[name])
        with trio.fail_after(3):
            said = await attacker.receive_until_closed()
            async for event in events:
                if isinstance(event, Disconnected):
                    assert (event.reason.code, event.reason.by) == ("violation", "peer")
                    break
        assert frame(GOAWAY, 0, 0, 1) in said


TOLERATED = {
    "unknown flags": frame(WINDOW, 0x80, 1, 1),
    "ACK twice": frame(WINDOW, ACK, 1, 0) * 2,
    "FIN twice": frame(WINDOW, FIN, 1, 0) * 2,
    "RST twice and data after it": frame(WINDOW, RST, 1, 0) * 2 + frame(DATA, 0, 1, 3, b"abc"),
    "a stream that never was": frame(DATA, 0, 77, 3, b"abc"),
    "pong nobody asked for": frame(PING, ACK, 0, 7),
}


@pytest.mark.parametrize("name", TOLERATED, ids=str)
@simulated(seeds=(1,))
async def test_hostile_025_026_what_honest_peers_do_late_is_tolerated(sim: Sim, name: str) -> None:
    async with arena(sim) as scene:
        attacker = await scene.attack()
        await attacker.send(opened(1) + TOLERATED[name] + frame(PING, SYN, 0, 99))
        await _until_said(attacker, frame(PING, ACK, 0, 99))
        await attacker.stream.aclose()


async def _until_said(attacker, wanted: bytes) -> None:
    said = b""
    with trio.fail_after(2):
        while wanted not in said:
            said += b"".join(attacker.channel.open(await attacker.stream.receive_some()))


async def _flood(attacker, pieces) -> None:
    """Send as long as the victim takes it; do not read."""
    with suppress(trio.BrokenResourceError):
        for piece in pieces:
            await attacker.send(piece)


@simulated(seeds=(1,))
async def test_hostile_022_a_flood_of_streams_by_a_peer_that_does_not_read(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.attack()
        batches = [
            b"".join(frame(WINDOW, SYN, 2 * n + 1, 0) for n in range(s, s + 500)) for s in range(0, 100_000, 500)
        ]
        with trio.move_on_after(40):
            await _flood(attacker, batches)
        most = max((len(c.streams) for c in scene.victim.connections()), default=0)
        assert most <= scene.victim.config.limits.muxer.max_unaccepted + 1
        await attacker.stream.aclose()


@simulated(seeds=(1,))
async def test_hostile_023_rapid_reset_ends_the_connection(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.attack()
        pair = b"".join(frame(WINDOW, SYN, 2 * n + 1, 0) + frame(WINDOW, RST, 2 * n + 1, 0) for n in range(20_000))
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_flood, attacker, [pair[at : at + 48_000] for at in range(0, len(pair), 48_000)])
                await attacker.receive_until_closed()


@simulated(seeds=(1,))
async def test_hostile_024_streams_that_never_name_a_protocol_are_reset_in_time(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.attack()
        half = b"\x13/multistream/1.0.0\n\x0c/ech"
        await attacker.send(b"".join(frame(DATA, SYN, 2 * n + 1, len(half), half) for n in range(200)))
        await trio.sleep(0.5)
        connection = next(c for c in scene.victim.connections() if len(c.streams) > 100)
        assert len(connection.streams) <= scene.victim.config.limits.unnegotiated_streams + 1
        await scene.check_bystander()
        await trio.sleep(scene.victim.config.timeouts.protocol_select + 1.5)
        assert not [s for s in connection.streams.values() if s.direction.value == "inbound"]
        await attacker.stream.aclose()


@simulated(seeds=(1,))
async def test_hostile_026_a_flood_of_pings_without_reading(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.attack()
        pings = b"".join(frame(PING, SYN, 0, n) for n in range(20_000))
        with trio.fail_after(60):
            await _flood(attacker, [pings[at : at + 60_000] for at in range(0, len(pings), 60_000)])
            await attacker.receive_until_closed()


@simulated(seeds=(1,))
async def test_hostile_027_a_peer_that_makes_us_write_and_does_not_read(sim: Sim) -> None:
    async with arena(sim) as scene, scene.victim.watch() as events:
        attacker = await scene.attack()
        body = bytes(16_000)
        for n in range(100):
            await attacker.send(opened(2 * n + 1) + frame(WINDOW, 0, 2 * n + 1, 1 << 24))
        started = trio.current_time()

        async def feed() -> None:
            rounds = [frame(DATA, 0, 2 * n + 1, len(body), body) for _ in range(10) for n in range(100)]
            await _flood(attacker, rounds)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            with trio.fail_after(40):
                async for event in events:
                    if isinstance(event, Disconnected):
                        assert event.reason.code == "write_stalled"
                        break
            nursery.cancel_scope.cancel()
        assert trio.current_time() - started < 2 * scene.victim.config.timeouts.write
        await attacker.stream.aclose()


ROUNDS = 20  # echoes per stream in one measurement
INTERVAL = 0.1  # seconds between them


async def _steady(groups: dict[str, list]) -> dict[str, list[float]]:
    """Seconds until each echo was back, per group of streams; all streams talk on, in turn and at fixed times.

    An echo counts from when it was due, not from when the one before let it go: a stall counts for all it held up.
    """
    took: dict[str, list[float]] = {name: [] for name in groups}
    start = trio.current_time()

    async def talk(name: str, stream, phase: float) -> None:
        for n in range(ROUNDS):
            due = start + (n + phase) * INTERVAL
            await trio.sleep_until(due)
            await stream.send_all(b"hello")
            got = b""
            while len(got) < 5:
                got += await stream.receive_some()
            assert got == b"hello"
            took[name].append(trio.current_time() - due)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for name, streams in groups.items():
                for n, stream in enumerate(streams):
                    nursery.start_soon(talk, name, stream, n / len(streams))
    return took


def _p99(took: list[float]) -> float:
    return sorted(took)[math.ceil(0.99 * len(took)) - 1]


@asynccontextmanager
async def _deaf_scene(
    sim: Sim, muxer, way: Way = over_tcp, wakes: trio.Event | None = None
) -> AsyncIterator[tuple[Connection, dict[str, list]]]:
    """A connection over 100 Mbit/s and 20 ms to a victim with a handler that never reads, or not before it `wakes`,
    and the streams that echo: 50 on the same connection, 10 of the bystander."""

    sleeping = trio.Event() if wakes is None else wakes

    async def deaf(stream) -> None:
        await sleeping.wait()
        async for _ in stream:
            pass

    sim.net.quality = LinkQuality(latency=0.01, bandwidth=12.5e6)
    host = sim.net.host("other")
    async with arena(sim, way=way, muxers=[Yamux(), Mplex()]) as scene, AsyncExitStack() as stack:
        scene.victim.mount("/deaf", deaf)
        other = await stack.enter_async_context(
            open_switch(transports=[way(host)[0]], muxers=[muxer], platform=sim.platform("other"))
        )
        connection = await other.connect(scene.address)
        (beside,) = scene.bystander.connections()
        groups = {}
        for name, carrier, count in (("same connection", connection, 50), ("bystander", beside, 10)):
            groups[name] = [await stack.enter_async_context(await carrier.open_stream(ECHO)) for _ in range(count)]
        yield connection, groups


async def _slows_nobody(connection: Connection, groups: dict[str, list], stuck: int) -> None:
    baseline = await _steady(groups)
    blocked = [await connection.open_stream("/deaf") for _ in range(stuck)]
    with trio.CancelScope() as push:
        async with trio.open_nursery() as nursery:
            for stream in blocked:
                nursery.start_soon(stream.send_all, bytes(64 << 20))
            took = await _steady(groups)
            push.cancel()
    assert push.cancelled_caught  # it was sending all the time
    for name in groups:
        assert _p99(took[name]) < 2 * _p99(baseline[name]), name


@pytest.mark.slow
@simulated(seeds=(1,))
async def test_hostile_028_yamux_a_handler_that_never_reads_slows_nobody(sim: Sim) -> None:
    async with _deaf_scene(sim, Yamux()) as (connection, groups):
        await _slows_nobody(connection, groups, 1)


@pytest.mark.slow
@simulated(seeds=(1,))
async def test_hostile_028_quic_two_handlers_that_never_read_slow_nobody(sim: Sim) -> None:
    async with _deaf_scene(sim, Yamux(), over_quic) as (connection, groups):
        await _slows_nobody(connection, groups, 2)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["read", "closed", "reset"])
@simulated(seeds=(1,))
async def test_hostile_028_quic_streams_that_fill_the_connections_window_hold_up_that_alone(sim: Sim, end: str) -> None:
    """QUIC has a window for the whole connection: once that is full of what nobody reads, nothing more comes on any
    stream of it, until one of them is read, ends or is reset."""
    wakes = trio.Event()
    async with _deaf_scene(sim, Yamux(), over_quic, wakes) as (connection, groups):
        baseline = await _steady({"bystander": groups["bystander"]})
        (asked,) = groups["same connection"][:1]
        blocked = [await connection.open_stream("/deaf") for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for stream in blocked:
                nursery.start_soon(_flooded, stream)
            await trio.sleep(5)
            took = await _steady({"bystander": groups["bystander"]})
            assert _p99(took["bystander"]) < 2 * _p99(baseline["bystander"])
            await asked.send_all(b"hello")
            with trio.move_on_after(100) as wait:
                await asked.receive_some()
            assert wait.cancelled_caught
            assert connection.is_open  # its heartbeat is no stream's
            if end == "read":
                wakes.set()
            elif end == "closed":
                for stream in blocked:
                    await stream.aclose()  # what was sent before is taken and thrown away
                wakes.set()
            else:
                for stream in blocked:
                    stream.reset()  # what came before that is still to be read
                wakes.set()
            with trio.fail_after(5):
                assert await asked.receive_some() == b"hello"
            nursery.cancel_scope.cancel()
        after = await _steady(groups)
        assert _p99(after["same connection"]) < 0.5


async def _flooded(stream) -> None:
    with suppress(trio.ClosedResourceError, trio.BrokenResourceError, trio.BusyResourceError):
        await stream.send_all(bytes(2 << 20))


@pytest.mark.slow
@simulated(seeds=(1,))
async def test_hostile_028_mplex_a_stream_that_nobody_reads_is_reset_and_others_go_on(sim: Sim) -> None:
    async with _deaf_scene(sim, Mplex()) as (connection, groups):
        baseline = await _steady(groups)
        blocked = await connection.open_stream("/deaf")
        ended: list[float] = []

        async def push() -> None:
            with pytest.raises(StreamReset):
                await blocked.send_all(bytes(64 << 20))
            ended.append(trio.current_time())

        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            took = await _steady(groups)
        # Mplex cannot hold back one stream alone: its connection waits, for as long as such a stream may live.
        stall = MuxerLimits().stall_seconds + 1.5  # a tick a second, and what was on its way
        assert ended[0] - started < stall
        assert max(took["same connection"]) < stall
        assert _p99(took["bystander"]) < 2 * _p99(baseline["bystander"])
        after = await _steady(groups)
        for name in groups:
            assert _p99(after[name]) < 2 * _p99(baseline[name]), name


@simulated(seeds=(1,))
async def test_hostile_029_mplex_streams_without_end(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.attack(MPLEX)

        def varint(n: int) -> bytes:
            out = b""
            while n > 127:
                out += bytes([n & 127 | 128])
                n >>= 7
            return out + bytes([n])

        await attacker.send(b"".join(varint(n << 3) + b"\0" for n in range(300)))
        await trio.sleep(0.1)
        streams = [s for c in scene.victim.connections() for s in c.streams.values() if s.direction.value == "inbound"]
        assert len(streams) == scene.victim.config.limits.unnegotiated_streams + 1  # and the bystander's echo
        flood = b"".join(varint(n << 3) + b"\0" for n in range(50_000))
        await _flood(attacker, [flood[at : at + 60_000] for at in range(0, len(flood), 60_000)])
        await trio.sleep(1)
        most = max((len(c.streams) for c in scene.victim.connections()), default=0)
        assert most <= scene.victim.config.limits.unnegotiated_streams + 1
        await attacker.stream.aclose()


@pytest.mark.parametrize(
    "body",
    [b"\x07\x00", b"\x02\x81\x80\x40", b"\xff" * 12, b"\x00\x81\x08"],
    ids=["flag 7", "1 MiB + 1", "varint", "name"],
)
@simulated(seeds=(1,))
async def test_hostile_030_mplex_violations_end_the_connection(sim: Sim, body: bytes) -> None:
    async with arena(sim) as scene:
        attacker = await scene.attack(MPLEX)
        await attacker.send(body)
        await attacker.closed_within(2)


@simulated(seeds=(1,))
async def test_hostile_032_streams_of_one_protocol_are_bounded_per_peer(sim: Sim) -> None:
    async def slow(stream) -> None:
        await trio.sleep_forever()

    config = SwitchConfig(limits=Limits(streams_per_protocol_and_peer=64))
    async with arena(sim, config) as scene:
        scene.victim.mount("/slow", slow)
        attacker = await scene.attack()
        select = b"\x13/multistream/1.0.0\n\x06/slow\n"
        for start in range(0, 200, 50):
            await attacker.send(
                b"".join(frame(DATA, SYN, 2 * n + 1, len(select), select) for n in range(start, start + 50))
            )
            await trio.sleep(0.1)
        assert scene.victim._establisher._budgets.in_use == 64 + 1  # and the bystander's echo
        assert scene.victim.counters["refused.limit.streams_per_protocol_and_peer"] == 200 - 64
        await attacker.stream.aclose()
