"""Perf both ways: 64 MB up and 64 MB down, over both muxers."""

import trio

from pyp2p.protocols.perf import PERF_PROTOCOL, run_perf
from tests.interop import matrix
from tests.interop.matrix import MEGABYTES_64
from tests.interop.peers import open_peer, run_peer
from tests.interop.support import PATIENCE, address, open_switch


@matrix.muxers()
async def test_we_run_perf(language: str, muxer: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--muxer", muxer) as peer, open_switch(muxer, listen=False) as switch:
            connection = await switch.connect(peer.address)
            async with await connection.open_stream(PERF_PROTOCOL) as stream:
                result = await run_perf(stream, MEGABYTES_64, MEGABYTES_64)
            assert (result.upload_bytes, result.download_bytes) == (MEGABYTES_64, MEGABYTES_64)
            assert connection.stats.bytes_out > MEGABYTES_64 < connection.stats.bytes_in


@matrix.muxers()
async def test_they_run_perf(language: str, muxer: str) -> None:
    size = str(MEGABYTES_64)
    with trio.fail_after(PATIENCE):
        async with open_switch(muxer, perf=True) as switch:
            flags = ["--upload", size, "--download", size, "--muxer", muxer]
            (seen,) = await run_peer(language, "perf", address(switch), *flags)
    assert (seen["upload_bytes"], seen["download_bytes"]) == (MEGABYTES_64, MEGABYTES_64)
    assert "error" not in seen


@matrix.muxers()
async def test_transfers_share_a_connection(language: str, muxer: str) -> None:
    """Neither direction nor stream waits for the other to end."""
    size = MEGABYTES_64 // 4
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--muxer", muxer) as peer, open_switch(muxer, listen=False) as switch:
            connection = await switch.connect(peer.address)

            async def move(upload: int, download: int) -> None:
                async with await connection.open_stream(PERF_PROTOCOL) as stream:
                    await run_perf(stream, upload, download)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(move, size, 0)
                nursery.start_soon(move, 0, size)
                nursery.start_soon(move, size, size)
