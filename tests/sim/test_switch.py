"""Whole switches in the simulated network: how many round trips, and what they do when the network breaks."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from pyp2p.errors import DialFailed, PeerIdMismatch, StageTimeout
from pyp2p.muxers.mplex import Mplex
from pyp2p.muxers.yamux import Yamux
from pyp2p.peer.address import with_peer
from pyp2p.peer.keys import Identity
from pyp2p.switch.config import SwitchConfig, Timeouts
from pyp2p.switch.events import Disconnected
from pyp2p.switch.switch import Switch
from pyp2p.testing import LinkQuality, Misbehaviour, Sim, run_sim, simulated
from pyp2p.trace import Stage
from tests.switch.support import ECHO, node

SLOW = LinkQuality(latency=0.1)


def target(sim: Sim, name: str, switch: Switch):
    return with_peer(sim.net.host(name).address(), switch.peer)


# ---- round trips ----

BOTH = (Yamux, Mplex)
ROUND_TRIPS = [
    ("one muxer, early", [Yamux], SwitchConfig(), 3),
    ("one muxer, not early", [Yamux], SwitchConfig(early_muxer=False), 3),
    ("mplex alone", [Mplex], SwitchConfig(), 3),
    ("two muxers, early", BOTH, SwitchConfig(), 3),
    ("two muxers, not early", BOTH, SwitchConfig(early_muxer=False), 4),
]


@pytest.mark.parametrize(
    ("muxers", "config", "expected"), [row[1:] for row in ROUND_TRIPS], ids=[row[0] for row in ROUND_TRIPS]
)
@simulated()
async def test_round_trips_from_dial_to_identified(sim: Sim, muxers, config: SwitchConfig, expected: int) -> None:
    sim.net.quality = SLOW
    offer = {"muxers": [muxer() for muxer in muxers], "config": config}
    async with node(sim, "a", **offer) as a, node(sim, "b", **offer) as b:
        started = trio.current_time()
        connection = await a.connect(target(sim, "b", b))
        assert connection.identified.is_set()
        assert connection.info is not None
        assert trio.current_time() - started == pytest.approx(0.2 * expected)
        assert connection.trace.round_trips == expected
        assert sim.net.link("a", "b").flights <= expected + 1  # one more: our answer to the listener's identify


# ---- the same seed, the same bytes ----


async def conversation(sim: Sim) -> str:
    """Three switches, Noise and all, over bad links; returns the hash of every byte sent."""
    sim.net.quality = LinkQuality(latency=0.02, jitter=0.03, bandwidth=1e6, loss=0.02)
    async with node(sim, "a") as a, node(sim, "b") as b, node(sim, "c") as c:

        async def talk(switch: Switch, name: str, other: Switch) -> None:
            await switch.connect(target(sim, name, other))
            for size in (10, 1000, 100_000):
                message = sim.platform(f"{name}{size}").entropy(size)
                stream = await switch.open_stream(other.peer, ECHO)
                async with stream, trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send_all, message)
                    received = b""
                    while len(received) < size:
                        received += await stream.receive_some()
                    assert received == message

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, a, "b", b)
            nursery.start_soon(talk, b, "c", c)
            nursery.start_soon(talk, c, "a", a)
    return f"{sim.net.trace.digest} {trio.current_time()!r}"


def test_same_seed_same_bytes_on_the_wire() -> None:
    assert run_sim(conversation, 1) == run_sim(conversation, 1)
    assert run_sim(conversation, 1) != run_sim(conversation, 2)


def test_two_processes_with_other_hash_seeds_put_the_same_bytes_on_the_wire() -> None:
    script = "from tests.sim.test_switch import conversation, run_sim; print(run_sim(conversation, 5))"
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
    assert outputs[0].strip() == run_sim(conversation, 5)


# ---- a network that breaks ----


async def disconnected(events) -> Disconnected:
    async for event in events:
        if isinstance(event, Disconnected):
            return event
    raise AssertionError("the events ended")


@pytest.mark.parametrize("muxer", [Yamux, Mplex])
@simulated()
async def test_a_half_open_connection_is_found_by_the_heartbeat(sim: Sim, muxer) -> None:
    sim.net.quality = SLOW
    timeouts = Timeouts()
    async with node(sim, "a", muxers=[muxer()]) as a, node(sim, "b", muxers=[muxer()]) as b:
        await a.connect(target(sim, "b", b))
        await trio.sleep(1)
        async with a.watch() as at_a, b.watch() as at_b:
            started = trio.current_time()
            sim.net.cut("a", "b")
            await disconnected(at_a)
            await disconnected(at_b)
            waited = trio.current_time() - started
        assert timeouts.heartbeat_timeout < waited <= timeouts.heartbeat_interval + timeouts.heartbeat_timeout + 5
        assert a.connections() == b.connections() == []
        sim.net.mend("a", "b")
        await a.connect(target(sim, "b", b), ignore_backoff=True)


@simulated()
async def test_a_short_partition_only_delays(sim: Sim) -> None:
    sim.net.quality = SLOW
    async with node(sim, "a") as a, node(sim, "b") as b:
        connection = await a.connect(target(sim, "b", b))
        async with await connection.open_stream(ECHO) as stream:
            sim.net.partition(["a"], ["b"])
            await stream.send_all(b"hello")
            with trio.move_on_after(8) as scope:
                await stream.receive_some()
            assert scope.cancelled_caught
            sim.net.heal()
            assert await stream.receive_some() == b"hello"
        assert a.connections() == [connection]


@simulated()
async def test_a_reset_breaks_streams_with_a_clear_error(sim: Sim) -> None:
    sim.net.quality = SLOW
    async with node(sim, "a") as a, node(sim, "b") as b:
        connection = await a.connect(target(sim, "b", b))
        stream = await connection.open_stream(ECHO)
        async with a.watch() as events:
            sim.net.reset("a", "b")
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            await disconnected(events)
        await stream.aclose()
        again = await a.connect(target(sim, "b", b))
        assert again is not connection


@simulated()
async def test_a_peer_that_reads_nothing_disturbs_nobody_else(sim: Sim) -> None:
    sim.net.quality = SLOW
    async with node(sim, "a") as a, node(sim, "b") as b, node(sim, "slow", buffer=2000) as slow:

        async def hang(stream) -> None:
            await trio.sleep_forever()

        slow.mount("/hang", hang)
        await a.connect(target(sim, "slow", slow))
        await a.connect(target(sim, "b", b))
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                stuck = await a.open_stream(slow.peer, "/hang")
                nursery.start_soon(stuck.send_all, bytes(1_000_000))
            await trio.sleep(5)
            stream = await a.open_stream(b.peer, ECHO)
            for _ in range(5):
                started = trio.current_time()
                await stream.send_all(bytes(1000))
                received = 0
                while received < 1000:
                    received += len(await stream.receive_some())
                assert trio.current_time() - started == pytest.approx(0.2)
            await stream.aclose()
            nursery.cancel_scope.cancel()


@simulated()
async def test_bad_links_cost_time_and_nothing_else(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.05, jitter=0.1, bandwidth=1e6, loss=0.1)
    async with node(sim, "a") as a, node(sim, "b") as b:
        connection = await a.connect(target(sim, "b", b))
        data = sim.platform("data").entropy(1_000_000)
        async with await connection.open_stream(ECHO) as stream, trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(data)
                await stream.send_eof()

            nursery.start_soon(send)
            received = bytearray()
            while chunk := await stream.receive_some():
                received += chunk
            assert received == data
        assert sim.net.link("a", "b").resent > 0


# ---- a peer that misbehaves ----

HANGS = [Stage.SECURITY_SELECT, Stage.HANDSHAKE, Stage.MUXER_SELECT]


@pytest.mark.parametrize("stage", HANGS)
@simulated(seeds=(1,))
async def test_a_peer_that_hangs_at_a_stage_costs_a_deadline(sim: Sim, stage: Stage) -> None:
    sim.net.quality = SLOW
    muxers = [Yamux(), Mplex()]
    config = SwitchConfig(early_muxer=False)
    patient = SwitchConfig(early_muxer=False, timeouts=Timeouts(upgrade=1000, write=1000))
    plan = Misbehaviour(delays={stage: math.inf})
    async with (
        node(sim, "a", config=config, muxers=muxers) as a,
        node(sim, "b", plan=plan, config=patient, muxers=muxers) as b,
    ):
        started = trio.current_time()
        with pytest.raises(DialFailed) as caught:
            await a.connect(target(sim, "b", b))
        [attempt] = caught.value.attempts
        assert isinstance(attempt.error, StageTimeout)
        assert trio.current_time() - started <= config.timeouts.upgrade + config.timeouts.dial_address
        assert a.connections() == []


@simulated(seeds=(1,))
async def test_a_peer_with_another_key_is_refused(sim: Sim) -> None:
    other = Identity.generate(entropy=sim.platform("other").entropy)
    async with node(sim, "a") as a, node(sim, "b", plan=Misbehaviour(identity=other)) as b:
        with pytest.raises(DialFailed) as caught:
            await a.connect(target(sim, "b", b))
        [attempt] = caught.value.attempts
        assert isinstance(attempt.error, PeerIdMismatch)
        assert attempt.error.got == other.peer


@pytest.mark.parametrize("early", [True, False])
@simulated(seeds=(1,))
async def test_each_step_shows_its_own_bytes_though_they_share_flights(sim: Sim, early: bool) -> None:
    config = SwitchConfig(early_muxer=early)
    options = {"muxers": [Yamux()], "config": config}
    async with node(sim, "a", **options) as a, node(sim, "b", **options) as b:
        connection = await a.connect(target(sim, "b", b))
        steps = {step.stage: step for step in connection.trace.steps}
        negotiated = len("\x13/multistream/1.0.0\n\x07/noise\n")
        assert (steps[Stage.SECURITY_SELECT].bytes_out, steps[Stage.SECURITY_SELECT].bytes_in) == (negotiated,) * 2
        assert steps[Stage.HANDSHAKE].bytes_out > 34 + 66
        assert steps[Stage.HANDSHAKE].bytes_in > 98
        proposal = len("\x13/multistream/1.0.0\n\x0d/yamux/1.0.0\n") + 18
        assert steps[Stage.MUXER_SELECT].bytes_out == (0 if early else proposal)
        syn = 1  # which counts as a byte on the link
        assert sum(step.bytes_out for step in connection.trace.steps) == sim.net.link("a", "b").bytes - syn
