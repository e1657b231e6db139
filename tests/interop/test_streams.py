"""Hundreds of echo streams open at once on one connection, both ways."""

import pytest
import trio

from pyp2p import Limits
from pyp2p.protocols.echo import ECHO_PROTOCOL
from tests.interop import matrix
from tests.interop.peers import open_peer, run_peer
from tests.interop.support import PATIENCE, address, mount_echo, open_switch, read_all


@matrix.muxers()
async def test_we_open_many_at_once(language: str, muxer: str) -> None:
    count = matrix.STREAMS[language, muxer]
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--muxer", muxer) as peer, open_switch(muxer, listen=False) as switch:
            connection = await switch.connect(peer.address)
            echoed = 0
            all_open = trio.Event()

            async def one(number: int) -> None:
                nonlocal echoed
                sent = number.to_bytes(4, "big") * 8
                async with await connection.open_stream(ECHO_PROTOCOL) as stream:
                    await stream.send_all(sent)
                    received = b""
                    while len(received) < len(sent):
                        received += await stream.receive_some()
                    assert received == sent
                    echoed += 1
                    if echoed == count:
                        all_open.set()
                    await all_open.wait()
                    await stream.send_all(sent[::-1])
                    await stream.send_eof()
                    assert await read_all(stream) == sent[::-1]

            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(one, number)
            assert echoed == count
            while any(stream.protocol == ECHO_PROTOCOL for stream in connection.streams.values()):
                await trio.lowlevel.checkpoint()
            assert connection.is_open


@matrix.muxers()
async def test_they_open_many_at_once(language: str, muxer: str) -> None:
    count = matrix.STREAMS[language, muxer]
    # go opens all of its mplex streams before it names their protocols; yamux's backlog of 256 keeps that in bounds.
    limits = Limits() if muxer == "yamux" else Limits(unnegotiated_streams=count)
    with trio.fail_after(PATIENCE):
        async with open_switch(muxer, limits=limits) as switch:
            mount_echo(switch)
            flags = ["--count", str(2 * count), "--concurrency", str(count), "--muxer", muxer]
            (seen,) = await run_peer(language, "streams", address(switch), *flags)
            assert seen["n"] == 2 * count
            assert switch.counters.get("refused.limit.streams_per_protocol_and_peer", 0) == 0


@matrix.muxers()
async def test_js_opens_streams_without_waiting_for_the_answer(js: str, muxer: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_switch(muxer) as switch:
            mount_echo(switch)
            flags = ["--count", "200", "--concurrency", "20", "--muxer", muxer, "--no-fully"]
            (seen,) = await run_peer(js, "streams", address(switch), *flags)
            assert seen["n"] == 200


@pytest.mark.parametrize("size", [1, 4096, 65_536, 1_000_000])
@matrix.muxers()
async def test_an_echo_of_any_size_comes_back_whole(language: str, muxer: str, size: int) -> None:
    """Sent and ended at once: no byte may be lost to an end that overtakes it."""
    sent = bytes(range(256)) * (size // 256 + 1)
    sent = sent[:size]
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--muxer", muxer) as peer, open_switch(muxer, listen=False) as switch:
            connection = await switch.connect(peer.address)
            for _ in range(5):
                stream = await connection.open_stream(ECHO_PROTOCOL)
                async with stream, trio.open_nursery() as nursery:
                    nursery.start_soon(_send_and_end, stream, sent)
                    assert await read_all(stream) == sent


async def _send_and_end(stream: trio.abc.HalfCloseableStream, data: bytes) -> None:
    await stream.send_all(data)
    await stream.send_eof()
