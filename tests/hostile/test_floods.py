"""Floods of small frames against a whole switch: what is refused, what is counted, what ends the connection."""

import pytest
import trio
import trio.testing

from pyp2p.multistream.wire import HEADER as MULTISTREAM
from pyp2p.multistream.wire import encode_line
from pyp2p.muxers.base import MuxerLimits
from pyp2p.muxers.yamux.wire import ACK, HEADER, PING_WORD, RST, SYN, WINDOW_WORD
from pyp2p.switch.config import Limits, SwitchConfig
from pyp2p.switch.events import Refused
from pyp2p.testing import Sim, simulated
from tests.hostile.arena import arena

pytestmark = pytest.mark.hostile


@simulated(seeds=(1,))
async def test_hostile_022_a_burst_of_opens_is_refused_stream_by_stream(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.attack()
        body = MULTISTREAM + encode_line("/echo/1.0.0") + b"hi"
        await attacker.send(b"".join(HEADER.pack(SYN, 1 + 2 * n, len(body)) + body for n in range(900)))
        await trio.sleep(2)
        assert len(scene.victim.connections()) == 2
        assert scene.victim.counters["refused.limit.muxer"] > 0
        attacker.stream.close()


@pytest.mark.parametrize("frame", ["open", "ping"])
@simulated(seeds=(1,))
async def test_hostile_022_026_who_floods_and_does_not_read_is_read_no_further(sim: Sim, frame: str) -> None:
    """The answers pile up to a bound; then nothing is read, TCP pushes back, and the write deadline ends it."""
    sim.net.host("attacker", buffer=4096)
    async with arena(sim) as scene:
        attacker = await scene.attack()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for number in range(200_000):
                word = (WINDOW_WORD | SYN, 1 + 2 * number, 0) if frame == "open" else (PING_WORD | SYN, 0, number)
                try:
                    await attacker.send(HEADER.pack(*word))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                sent += 1

        (connection,) = scene.victim.connections(attacker.identity.peer)
        with trio.move_on_after(60):
            await flood()
        assert sent < 200_000
        await trio.sleep(1)
        assert len(scene.victim.connections()) == 1
        assert connection.reason is not None
        assert connection.reason.code == "write_stalled"
        # No frame is shorter than its answer, and those are choked at twice the backlog.
        assert connection.stats.bytes_in < 3 * scene.victim.config.limits.write_backlog
        attacker.stream.close()


MANY = b"".join(HEADER.pack(SYN, 1 + 2 * n, 1) + MULTISTREAM[:1] for n in range(200))


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(muxer=MuxerLimits(max_unaccepted=50)), "muxer"),
        (Limits(muxer=MuxerLimits(max_inbound_streams=50)), "muxer"),
        (Limits(unnegotiated_streams=50), "unnegotiated_streams"),
    ],
    ids=["unaccepted", "inbound", "unnegotiated"],
)
@simulated(seeds=(1,))
async def test_hostile_022_each_stream_that_is_too_many_is_refused_and_counted(sim: Sim, limits, code: str) -> None:
    async with arena(sim, SwitchConfig(limits=limits, identify=False)) as scene, scene.victim.watch() as events:
        attacker = await scene.attack()
        (connection,) = scene.victim.connections(attacker.identity.peer)
        await attacker.send(MANY)
        await trio.sleep(2)  # the muxer's own refusals are told once a second
        assert len(connection.streams) == 50
        assert scene.victim.counters[f"refused.limit.{code}"] == 150
        told = 0
        async for event in events:
            if isinstance(event, Refused):
                assert event.code == f"limit.{code}"
                told += event.count
            if told == 150:
                break
        attacker.stream.close()


@simulated(seeds=(1,))
async def test_hostile_022_what_was_refused_right_before_the_end_is_counted_too(sim: Sim) -> None:
    limits = Limits(muxer=MuxerLimits(max_unaccepted=50))
    async with arena(sim, SwitchConfig(limits=limits, identify=False)) as scene:
        attacker = await scene.attack()
        await attacker.send(MANY)
        attacker.stream.close()
        await trio.sleep(0.1)
        assert len(scene.victim.connections()) == 1
        assert scene.victim.counters["refused.limit.muxer"] == 150


@simulated(seeds=(1,))
async def test_hostile_027_data_that_cannot_be_paid_for_costs_its_stream_and_is_counted(sim: Sim) -> None:
    async def deaf(stream) -> None:
        await trio.sleep_forever()

    config = SwitchConfig(identify=False, limits=Limits(memory_per_connection=64 * 1024))
    async with arena(sim, config) as scene:
        scene.victim.mount("/deaf", deaf)
        attacker = await scene.attack()
        body = MULTISTREAM + encode_line("/deaf")
        await attacker.send(HEADER.pack(SYN, 1, len(body)) + body + HEADER.pack(SYN, 3, len(body)) + body)
        for _ in range(10):
            await attacker.send(HEADER.pack(0, 1, 10_000) + bytes(10_000))
        await trio.sleep(2)
        (connection,) = scene.victim.connections(attacker.identity.peer)
        assert [stream.id for stream in connection.streams.values()] == [3]
        assert scene.victim.counters["refused.limit.memory"] == 1
        attacker.stream.close()


@pytest.mark.parametrize("count", [32, 33])
@simulated(seeds=(1,))
async def test_hostile_026_only_so_many_pings_are_answered_at_once(sim: Sim, count: int) -> None:
    async with arena(sim, SwitchConfig(identify=False)) as scene:
        attacker = await scene.attack()
        (connection,) = scene.victim.connections(attacker.identity.peer)
        await attacker.send(b"".join(HEADER.pack(PING_WORD | SYN, 0, n) for n in range(count)))
        if count == scene.victim.config.limits.muxer.max_queued_pongs:
            await attacker.hear(b"".join(HEADER.pack(PING_WORD | ACK, 0, n) for n in range(count)))
            assert connection.is_open
        else:
            await attacker.closed_within(2)
            assert connection.reason is not None
            assert (connection.reason.code, connection.reason.by) == ("violation", "peer")
        attacker.stream.close()


@simulated(seeds=(1,))
async def test_hostile_023_streams_that_were_used_may_be_reset_as_often_as_one_likes(sim: Sim) -> None:
    limits = Limits(muxer=MuxerLimits(open_rate=1, open_burst=5))
    async with arena(sim, SwitchConfig(identify=False, limits=limits)) as scene:
        attacker = await scene.attack()
        for number in range(1, 101, 2):
            body = MULTISTREAM + encode_line("/echo/1.0.0") + b"hi"
            await attacker.send(HEADER.pack(SYN, number, len(body)) + body)
            await attacker.hear(HEADER.pack(ACK, number, len(body)) + body)
            await attacker.send(HEADER.pack(WINDOW_WORD | RST, number, 0))
        await trio.sleep(1)
        assert len(scene.victim.connections()) == 2
        attacker.stream.close()


@pytest.mark.parametrize("body", [MULTISTREAM[:1], MULTISTREAM, MULTISTREAM + encode_line("/echo/1.0.0")], ids=len)
@simulated(seeds=(1,))
async def test_hostile_023_negotiation_is_no_use_of_a_stream(sim: Sim, body: bytes) -> None:
    async with arena(sim) as scene:
        attacker = await scene.attack()
        try:
            for number in range(5000):
                await attacker.send(HEADER.pack(SYN, 1 + 2 * number, len(body)) + body)
                await trio.testing.wait_all_tasks_blocked()
                await attacker.send(HEADER.pack(WINDOW_WORD | RST, 1 + 2 * number, 0))
                await trio.testing.wait_all_tasks_blocked()
        except trio.BrokenResourceError:
            pass
        assert len(scene.victim.connections()) == 1
        attacker.stream.close()
