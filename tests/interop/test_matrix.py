"""Every transport, security and muxer that we have, with every peer, in both directions: the table that is printed."""

from collections.abc import Callable

import pytest
import trio

import pyp2p
from pyp2p.protocols.echo import ECHO_PROTOCOL
from pyp2p.protocols.perf import PERF_PROTOCOL, run_perf
from pyp2p.protocols.ping import PING_PROTOCOL, ping
from tests.interop import matrix
from tests.interop.matrix import MUXERS, SECURITIES, Stack
from tests.interop.peers import open_peer, run_peer
from tests.interop.support import ENTROPY, PATIENCE, address, mount_echo, open_stack, read_all

MEGABYTE = 1 << 20
SAID = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def _cell(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """Say which cell of the table a test is."""
    params = request.node.callspec.params
    if "stack" in params:
        record_property("stack", str(params["stack"]))
        record_property("language", params["language"])
        record_property("who", "we" if "we_dial" in request.node.name else "they")


@matrix.stacks()
async def test_we_dial(language: str, stack: Stack) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, *stack.flags) as peer, open_stack(stack) as switch:
            connection = await switch.connect(peer.address)
            assert connection.security == SECURITIES[stack.security].protocol
            muxer = "/quic-v1" if stack.transport == "quic" else MUXERS[stack.muxer].protocol
            assert connection.muxer_protocol == muxer
            await connection.identified.wait()
            assert connection.info is not None
            assert ECHO_PROTOCOL in connection.info.protocols
            async with await connection.open_stream(PING_PROTOCOL) as stream:
                assert await ping(stream, ENTROPY) > 0
            async with await connection.open_stream(ECHO_PROTOCOL) as stream, trio.open_nursery() as nursery:

                async def say() -> None:
                    await stream.send_all(SAID)
                    await stream.send_eof()

                nursery.start_soon(say)
                assert await read_all(stream) == SAID
            async with await connection.open_stream(PERF_PROTOCOL) as stream:
                result = await run_perf(stream, MEGABYTE, MEGABYTE)
            assert (result.upload_bytes, result.download_bytes) == (MEGABYTE, MEGABYTE)


async def test_one_that_has_tls_only_is_reached_by_default(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--security", "tls") as peer, pyp2p.open_switch() as switch:
            connection = await switch.connect(peer.address)
            assert connection.security == SECURITIES["tls"].protocol


@matrix.stacks()
async def test_they_dial(language: str, stack: Stack) -> None:
    size = str(MEGABYTE)
    with trio.fail_after(2 * PATIENCE):
        async with open_stack(stack, listen=True) as switch:
            mount_echo(switch)
            (seen,) = await run_peer(language, "identify", address(switch), *stack.flags)
            assert seen["peer_id"] == str(switch.peer)
            flags = ["--upload", size, "--download", size, *stack.flags]
            (seen,) = await run_peer(language, "perf", address(switch), *flags)
            assert (seen["upload_bytes"], seen["download_bytes"]) == (MEGABYTE, MEGABYTE)
            (seen,) = await run_peer(language, "ping", address(switch), "--count", "5", *stack.flags)
            assert seen["n"] == 5
