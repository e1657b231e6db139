"""A peer that dies in the middle of a transfer: a clear error on our side within seconds, and nothing left behind."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from pyp2p import Connected, Disconnected, MuxedStream
from pyp2p.protocols.perf import PERF_PROTOCOL, run_perf, serve_perf
from pyp2p.protocols.ping import PING_PROTOCOL
from tests.interop import matrix
from tests.interop.peers import open_peer
from tests.interop.support import PATIENCE, SOON, address, dialling, next_event, open_switch

LARGE = 256 * 1024 * 1024  # not much more: the js peer queues all that it will send before it goes on
UNDER_WAY = 4 * 1024 * 1024  # bytes after which the transfer has certainly begun
GONE = ("eof", "reset", "goaway")


def _watching(kill: Callable[[], None]) -> Callable[[int, int], None]:
    def progress(uploaded: int, downloaded: int) -> None:
        if uploaded + downloaded > UNDER_WAY:
            kill()

    return progress


@pytest.mark.parametrize("direction", ["up", "down"])
@matrix.muxers()
async def test_while_we_use_it(language: str, muxer: str, direction: str) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            open_peer(language, "--muxer", muxer) as peer,
            open_switch(muxer, listen=False) as switch,
            switch.watch() as events,
        ):
            connection = await switch.connect(peer.address)
            upload, download = (LARGE, 0) if direction == "up" else (0, LARGE)
            stream = await connection.open_stream(PERF_PROTOCOL)
            with pytest.raises(trio.BrokenResourceError) as raised:
                await run_perf(stream, upload, download, _watching(peer.kill))
            await stream.aclose()
            assert "connection" in str(raised.value)
            with trio.fail_after(SOON):
                ended = await next_event(events, Disconnected)
                await connection.closed.wait()
            assert ended.connection is connection
            assert (ended.reason.code in GONE, ended.reason.by in ("peer", "network")) == (True, True)
            assert not switch.connections()
            with pytest.raises(trio.BrokenResourceError):
                await connection.open_stream(PING_PROTOCOL)


@pytest.mark.parametrize("direction", ["up", "down"])
@matrix.muxers()
async def test_while_it_uses_us(language: str, muxer: str, direction: str) -> None:
    outcome: list[BaseException] = []
    ended = trio.Event()

    def watched(handler: Callable[[MuxedStream], Awaitable[None]]) -> Callable[[MuxedStream], Awaitable[None]]:
        async def handle(stream: MuxedStream) -> None:
            try:
                await handler(stream)
            except trio.BrokenResourceError as error:
                outcome.append(error)
                raise
            finally:
                ended.set()

        return handle

    flags = ["--upload" if direction == "up" else "--download", str(LARGE), "--muxer", muxer]
    with trio.fail_after(PATIENCE):
        async with open_switch(muxer) as switch, switch.watch() as events:
            switch.mount(PERF_PROTOCOL, watched(serve_perf))
            async with dialling(language, "perf", address(switch), *flags) as process:
                connection = (await next_event(events, Connected)).connection
                while connection.stats.bytes_in + connection.stats.bytes_out < UNDER_WAY:
                    await trio.lowlevel.checkpoint()
                process.kill()
                with trio.fail_after(SOON):
                    await ended.wait()
                    gone = await next_event(events, Disconnected)
            assert len(outcome) == 1
            assert gone.reason.code in GONE
            assert gone.reason.by in ("peer", "network")
            assert not switch.connections()


async def test_a_dead_peer_does_not_touch_another(language: str) -> None:
    """The bystander's transfer ends as if nothing had happened."""
    size = 32 * 1024 * 1024
    with trio.fail_after(PATIENCE):
        async with open_peer(language) as dying, open_peer(language) as living, open_switch(listen=False) as switch:
            bystander = await switch.open_stream(living.address, PERF_PROTOCOL)
            victim = await switch.open_stream(dying.address, PERF_PROTOCOL)

            async def suffer() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await run_perf(victim, LARGE, 0, _watching(dying.kill))
                await victim.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(suffer)
                result = await run_perf(bystander, size, size)
            await bystander.aclose()
            assert result.download_bytes == size
            assert [str(connection.peer) for connection in switch.connections()] == [living.peer_id]
