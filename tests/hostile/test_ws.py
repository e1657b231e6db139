"""Hostile case 86 against a whole switch that listens for WebSockets."""

from contextlib import suppress

import pytest
import trio

from pyp2p.testing import Sim, simulated
from tests.hostile.arena import arena, over_ws

pytestmark = pytest.mark.hostile

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"  # RFC 6455, 1.3
BEGUN = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    + KEY
    + b"Sec-WebSocket-Version: 13\r\n"
)
REQUEST = BEGUN + b"\r\n"
REFUSED = {
    "a header line of 1 MiB": BEGUN + b"X: " + b"y" * (1 << 20),
    "no key": BEGUN.replace(KEY, b"") + b"\r\n",
    "no ASCII in a header": REQUEST.replace(b"Upgrade\r\n", b"\xb5\xff\r\n", 1),
    "no ASCII in the extensions": BEGUN + b"Sec-WebSocket-Extensions: \xb5\r\nSec-WebSocket-Protocol: \xb5\r\n\r\n",
    "no ASCII in the path": REQUEST.replace(b"GET /", b"GET /\xb5\xff"),
    "no ASCII in the version": REQUEST.replace(b": 13", b": \xb513"),
    "no ASCII in the host": REQUEST.replace(b"Host: a", b"Host: \xb5"),
    "a body": BEGUN.replace(b"GET", b"POST") + b"Content-Length: 1000000\r\n\r\n" + b"x" * 100_000,
}


FRAMES = {
    "a text frame": b"\x81\x83\0\0\0\0abc",
    "a compressed frame": b"\xc2\x83\0\0\0\0abc",
    "a frame of 2^63 bytes": b"\x82\xff\x80" + bytes(7) + b"\0\0\0\0",
    "a frame without a mask": b"\x82\x03abc",
    "the end": b"\x88\x82\0\0\0\0\x03\xe8",
    "no multistream": b"\x82\x83\0\0\0\0abc",
}
TOLERATED = {
    "ten thousand headers": BEGUN + b"X: y\r\n" * 10_000 + b"\r\n",  # in large segments: 60 KB are within the bound
    "a key twice": BEGUN + KEY + b"\r\n",
    "an empty key": BEGUN.replace(KEY, b"Sec-WebSocket-Key:\r\n") + b"\r\n",
    "no ASCII in the key": REQUEST.replace(b"dGhl", b"\xb5\xff\xfe\x80"),
    "HTTP/1.0": REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("name", [*FRAMES, *TOLERATED])
@simulated(seeds=(1,))
async def test_hostile_086_who_was_answered_and_goes_on_badly_is_closed_at_once(sim: Sim, name: str) -> None:
    """Oddities of a request that change nothing are let through."""
    async with arena(sim, way=over_ws) as scene:
        attacker = await scene.dial()
        await attacker.stream.send_all(TOLERATED.get(name, REQUEST))
        with trio.fail_after(1):
            assert (await attacker.stream.receive_some()).startswith(b"HTTP/1.1 101")
        await attacker.stream.send_all(FRAMES.get(name, FRAMES["no multistream"]))
        assert await attacker.closed_within(3) < 2


@pytest.mark.parametrize("name", REFUSED)
@simulated(seeds=(1,))
async def test_hostile_086_what_is_no_websocket_ends_its_connection_at_once(sim: Sim, name: str) -> None:
    async with arena(sim, way=over_ws) as scene, trio.open_nursery() as nursery:
        attacker = await scene.dial()

        async def say() -> None:
            with suppress(trio.BrokenResourceError):
                await attacker.stream.send_all(REFUSED[name])

        nursery.start_soon(say)
        assert await attacker.closed_within(3) < 2
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("said", [BEGUN, REQUEST + b"\x89\x80\0\0\0\0" * 30], ids=["headers", "pings"])
@simulated(seeds=(1,))
async def test_hostile_086_who_dribbles_has_one_deadline_for_all(sim: Sim, said: bytes) -> None:
    async with arena(sim, way=over_ws) as scene, trio.open_nursery() as nursery:
        attacker = await scene.dial()
        started = trio.current_time()

        async def drip() -> None:
            with suppress(trio.BrokenResourceError):
                for at in range(0, len(said), 3):
                    await attacker.stream.send_all(said[at : at + 3])
                    await trio.sleep(0.3)

        nursery.start_soon(drip)
        await attacker.receive_until_closed()
        assert 13 < trio.current_time() - started < 16
        nursery.cancel_scope.cancel()


@simulated(seeds=(1,))
async def test_hostile_086_a_message_that_never_ends_is_read_and_costs_a_deadline(sim: Sim) -> None:
    """It is a stream of bytes: what is inside has bounds of its own, here those of the upgrade."""
    async with arena(sim, way=over_ws) as scene:
        attacker = await scene.dial()
        await attacker.stream.send_all(REQUEST + b"\x02\x81\0\0\0\0\x13")
        with suppress(trio.BrokenResourceError):
            for _ in range(10_000):
                await attacker.stream.send_all(b"\x00\x80\0\0\0\0" * 10)
                await trio.sleep(0.01)
        assert await attacker.closed_within(3) < 3
        assert len(scene.victim.connections()) == 1
