"""Canonical log lines of running switches: who is told, and that an isolated connection is not."""

import dataclasses
import logging
import random

import pytest

from pyp2p.identify.service import IDENTIFY_PROTOCOL
from pyp2p.platform import Platform
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.stream import MuxedStream
from pyp2p.testing import Misbehaviour, Sim, simulated
from tests.switch.support import node, until


class Always(random.Random):
    """Chooses every connection."""

    def randrange(self, *_: int) -> int:
        return 0


def telling(sim: Sim, name: str) -> Platform:
    return dataclasses.replace(sim.platform(name), rng=Always())


def lines(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "pyp2p.canonical" and word in r.getMessage()]


@simulated(seeds=(1,))
async def test_both_sides_tell_an_established_connection(sim: Sim, caplog) -> None:
    caplog.set_level(logging.INFO, "pyp2p.canonical")
    async with node(sim, "b", platform=telling(sim, "b")) as b, node(sim, "a", platform=telling(sim, "a")) as a:
        connection = await a.connect(b.peer, b.addresses)
        address = connection.remote
        (accepted,) = [line for line in lines(caplog, "PEER_STATUS") if f"peer={a.peer} " in line]
        (dialled,) = [line for line in lines(caplog, "PEER_STATUS") if f"peer={b.peer} " in line]
    assert accepted.endswith(' sample_rate=100 connection_status="established" dir="inbound"')
    assert dialled.endswith(f' addr={address} sample_rate=100 connection_status="established" dir="outbound"')


@simulated(seeds=(1,))
async def test_an_isolated_connection_is_not_told_by_who_isolates_it(sim: Sim, caplog) -> None:
    caplog.set_level(logging.INFO, "pyp2p.canonical")
    async with node(sim, "b") as b, node(sim, "a", platform=telling(sim, "a")) as a:
        await a.connect(b.peer, b.addresses, isolated=True)
    assert lines(caplog, "PEER_STATUS") == []


@pytest.mark.hostile
@simulated(seeds=(1,))
async def test_a_peer_whose_frames_do_not_decrypt_is_told(sim: Sim, caplog) -> None:
    caplog.set_level(logging.INFO, "pyp2p.canonical")
    plan = Misbehaviour(corrupt_at=2_000)
    async with node(sim, "b") as b, node(sim, "a", plan=plan) as a:
        connection = await a.connect(b.peer, b.addresses)
        stream = await connection.open_stream("/echo/1.0.0")
        await stream.send_all(bytes(4_000))
        await until(lambda: lines(caplog, "MISBEHAVING"))
        (line,) = lines(caplog, "MISBEHAVING")
        assert f"peer={a.peer} addr=/ip4/" in line
        assert " component=security err=" in line
        await until(lambda: not connection.is_open)


@pytest.mark.hostile
@simulated(seeds=(1,))
async def test_a_peer_whose_identify_is_malformed_is_told(sim: Sim, caplog) -> None:
    caplog.set_level(logging.INFO, "pyp2p.canonical")

    async def garbage(stream: MuxedStream) -> None:
        await stream.send_all(b"\x05\xff\xff\xff\xff\xff")

    async with node(sim, "b", config=SwitchConfig(identify=False)) as b, node(sim, "a") as a:
        b.mount(IDENTIFY_PROTOCOL, garbage, before_admission=True)
        connection = await a.connect(b.peer, b.addresses)
        assert connection.is_open
        (line,) = lines(caplog, "MISBEHAVING")
        assert f"peer={b.peer} " in line
        assert " component=identify err=" in line
