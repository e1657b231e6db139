"""Ping both ways, one stream for many pings and one after the other."""

import trio

from pyp2p.protocols.ping import PING_PROTOCOL, ping
from tests.interop import matrix
from tests.interop.peers import open_peer, run_peer
from tests.interop.support import ENTROPY, PATIENCE, address, open_switch


@matrix.muxers()
async def test_we_ping(language: str, muxer: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--muxer", muxer) as peer, open_switch(muxer, listen=False) as switch:
            connection = await switch.connect(peer.address)
            for _ in range(3):  # a stream that ended makes room for the next: rust keeps one per connection
                async with await connection.open_stream(PING_PROTOCOL) as stream:
                    times = [await ping(stream, ENTROPY) for _ in range(20)]
                assert all(0 < seconds < PATIENCE for seconds in times)


@matrix.muxers()
async def test_they_ping(language: str, muxer: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_switch(muxer) as switch:
            (seen,) = await run_peer(language, "ping", address(switch), "--count", "50", "--muxer", muxer)
    assert seen["n"] == 50
    assert seen["median_us"] > 0


async def test_js_pings_with_a_stream_each(js: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_switch() as switch:
            (seen,) = await run_peer(js, "ping", address(switch), "--count", "20", "--ping-mode", "service")
    assert seen["n"] == 20
