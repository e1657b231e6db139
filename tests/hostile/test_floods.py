"""Floods of small frames against a whole switch: what is refused, what is counted, what ends the connection."""

import pytest
import trio
import trio.testing

from pyp2p.multistream.wire import HEADER as MULTISTREAM
from pyp2p.multistream.wire import encode_line
from pyp2p.muxers.yamux.wire import HEADER, PING_WORD, RST, SYN, WINDOW_WORD
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

        with trio.move_on_after(60):
            await flood()
        assert sent < 200_000
        await trio.sleep(1)
        assert len(scene.victim.connections()) == 1
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
