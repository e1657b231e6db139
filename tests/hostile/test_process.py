"""Hostile cases 91 to 102: handlers that crash, floods of connections, the stop, clocks, logs."""

import logging
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pyp2p.errors import DialFailed, InvalidMultiaddr, LimitExceeded, printable
from pyp2p.peer.address import parse_multiaddr
from pyp2p.switch.config import Limits, SwitchConfig
from pyp2p.switch.switch import open_switch
from pyp2p.testing import Sim, simulated
from tests.hostile.arena import ECHO, arena, echo

pytestmark = pytest.mark.hostile

CRASHES = {
    "KeyError": KeyError("x"),
    "AssertionError": AssertionError("x"),
    "RecursionError": RecursionError("x"),
    "MemoryError": MemoryError("x"),
    "ExceptionGroup": ExceptionGroup("x", [ValueError("y")]),
}


@pytest.mark.parametrize("name", CRASHES, ids=str)
@simulated(seeds=(1,))
async def test_hostile_091_a_handler_that_crashes_costs_its_stream(sim: Sim, name: str) -> None:
    async def crash(stream) -> None:
        await stream.receive_some()
        raise CRASHES[name]

    async with arena(sim, loud=True) as scene:
        scene.victim.mount("/crash", crash)
        async with open_switch(transports=[sim.net.host("x").transport], platform=sim.platform("x")) as other:
            connection = await other.connect(scene.address)
            stream = await connection.open_stream("/crash")
            await stream.send_all(b"now")
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            async with await connection.open_stream(ECHO) as again:  # the connection lives
                await again.send_all(b"hello")
                assert await again.receive_some() == b"hello"


@simulated(seeds=(1,))
async def test_hostile_091_the_listener_survives_any_failed_upgrade(sim: Sim) -> None:
    async with arena(sim, SwitchConfig(limits=Limits(per_ip4=100, ip_burst=100))) as scene:
        for n in range(50):
            attacker = await scene.dial()
            await attacker.stream.send_all(bytes([n]) * 40)
            await attacker.stream.aclose()
        late = await scene.attack()
        await late.stream.aclose()


@simulated(seeds=(1,))
async def test_hostile_094_a_stop_with_a_thousand_streams_and_a_peer_that_does_not_read(sim: Sim) -> None:
    victim_host, deaf_host = sim.net.host("victim"), sim.net.host("deaf", buffer=64 * 1024)
    generous = SwitchConfig(limits=Limits(streams_per_protocol_and_peer=2000, streams_per_connection=2000))

    async def pour(stream) -> None:
        while True:
            await stream.send_all(bytes(100_000))

    async with open_switch(transports=[deaf_host.transport], platform=sim.platform("deaf"), config=generous) as deaf:
        async with open_switch(
            listen=[victim_host.address()],
            transports=[victim_host.transport],
            platform=sim.platform("victim"),
            config=generous,
        ) as victim:
            victim.mount("/pour", pour)
            connection = await deaf.connect(victim.multiaddrs[0])
            for _ in range(999):
                stream = await connection.open_stream("/pour", lazy=True)
                await stream.send_all(b"x")
            sim.net.cut("deaf", "victim")
            await trio.sleep(0.5)
            started = trio.current_time()
        assert trio.current_time() - started <= victim.config.timeouts.close + 0.01


@simulated(seeds=(1,))
async def test_hostile_095_one_address_gets_so_many_connections_at_such_a_rate(sim: Sim) -> None:
    async with arena(sim) as scene:
        limits = scene.victim.config.limits
        async with AsyncExitStack() as stack:
            others = []
            for n in range(limits.per_ip4 + 4):
                other = await stack.enter_async_context(
                    open_switch(transports=[sim.net.host("sybils").transport], platform=sim.platform(f"sybil {n}"))
                )
                others.append(other)
            refused = 0
            for other in others:
                try:
                    await other.connect(scene.address)
                except DialFailed:
                    refused += 1
            assert refused == 4
            assert scene.victim.counters["refused.limit.per_ip4"] == 4
            honest = await stack.enter_async_context(
                open_switch(transports=[sim.net.host("honest").transport], platform=sim.platform("honest"))
            )
            await honest.connect(scene.address)
        await trio.sleep(1)
        for _ in range(limits.ip_burst + 5):
            attacker = await scene.dial("sybils")
            await attacker.stream.aclose()
            await trio.sleep(0.1)
        assert scene.victim.counters["refused.limit.ip_rate"] > 0


@simulated(seeds=(1,))
async def test_hostile_095_so_many_may_wait_for_their_upgrade(sim: Sim) -> None:
    config = SwitchConfig(limits=Limits(pending_inbound=10))
    async with arena(sim, config) as scene:
        attackers = [await scene.dial(f"a{n}") for n in range(30)]
        await trio.sleep(0.1)
        assert scene.victim.counters["pending_inbound"] == 10
        assert scene.victim.counters["refused.limit.pending_inbound"] == 20
        for attacker in attackers:
            await attacker.stream.aclose()


@simulated(seeds=(1,))
async def test_hostile_099_the_wall_clock_jumps_and_nobody_notices(sim: Sim) -> None:
    shift = [0.0]
    async with arena(sim) as scene:
        platform = sim.platform("jumpy")
        jumpy = replace(platform, wall=lambda: platform.wall() + shift[0])
        host = sim.net.host("jumpy")
        async with open_switch(listen=[host.address()], transports=[host.transport], platform=jumpy) as node:
            connection = await scene.victim.connect(node.multiaddrs[0])
            for jump in (-365 * 86_400.0, 365 * 86_400.0):
                shift[0] = jump
                node.mount(f"/jump/{jump}", echo)
                await trio.sleep(100)
                assert connection.reason is None
                await scene.check_bystander()


@simulated(seeds=(1,))
async def test_hostile_100_a_flood_of_garbage_is_a_trickle_of_log_lines(sim: Sim) -> None:
    lines: list[str] = []

    class Count(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.INFO and "upgrade failed" in record.getMessage():
                lines.append(record.getMessage())

    handler = Count()
    logger = logging.getLogger("pyp2p.switch")
    logger.addHandler(handler)
    try:
        config = SwitchConfig(limits=Limits(per_ip4=1000, ip_burst=100_000))
        async with arena(sim, config) as scene:
            for _ in range(500):
                attacker = await scene.dial()
                await attacker.stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                await attacker.stream.aclose()
            await trio.sleep(1)
            attacker = await scene.dial()
            await attacker.stream.send_all(b"\x1b[2J" * 10)
            await attacker.closed_within(2)
            await trio.sleep(0.1)
    finally:
        logger.removeHandler(handler)
    assert 0 < len(lines) < 60
    assert "suppressed" in "".join(lines)
    assert "stage=security_select" in lines[0]
    assert all(line.isprintable() for line in lines)


def test_hostile_092_descriptors_run_out_and_come_back() -> None:
    script = Path(__file__).with_name("descriptors.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "served again" in done.stdout


SMOKE = """
import trio, pyp2p
async def echo(stream):
    async for chunk in stream:
        await stream.send_all(chunk)
async def main():
    async with pyp2p.open_switch(listen=["/ip4/127.0.0.1/tcp/0"]) as a, pyp2p.open_switch() as b:
        a.mount("/echo/1.0.0", echo)
        connection = await b.connect(a.multiaddrs[0])
        async with await b.open_stream(connection.peer, "/echo/1.0.0") as stream:
            await stream.send_all(b"hello")
            print((await stream.receive_some()).decode(), connection.info.agent)
trio.run(main)
"""


@pytest.mark.parametrize("flags", [["-O"], ["-X", "dev", "-W", "error"]], ids=["-O", "-X dev"])
def test_hostile_102_the_same_without_asserts_and_with_every_warning(flags: list[str]) -> None:
    outputs = set()
    for seed in ("0", "random"):
        done = subprocess.run(
            [sys.executable, *flags, "-c", SMOKE],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert outputs.pop().startswith("hello pyp2p/")


def test_hostile_102_errors_with_a_mebibyte_of_remote_text_are_short() -> None:
    huge = "\x1b[2J" + "a" * (1 << 20)
    assert len(printable(huge)) < 300
    assert printable(huge).isprintable()
    with pytest.raises(InvalidMultiaddr) as caught:
        parse_multiaddr("/dns4/" + huge)
    assert len(repr(caught.value)) < 1000
    assert len(repr(LimitExceeded("x", printable(huge)))) < 1000
