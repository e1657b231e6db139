"""Signs of life both ways, and a peer that is frozen instead of dead: its kernel still answers for it."""

import signal

import pytest
import trio
import trio.testing

from pyp2p import Connection, Disconnected, Identified, Timeouts
from pyp2p.protocols.perf import PERF_PROTOCOL
from tests.interop import matrix
from tests.interop.peers import open_peer
from tests.interop.support import PATIENCE, address, next_event, open_switch, staying

PLENTY = bytes(1 << 20)  # four windows of a stream
OFTEN = Timeouts(heartbeat_interval=0.2, heartbeat_timeout=20)


@matrix.muxers()
async def test_peers_answer_our_heartbeat(language: str, muxer: str) -> None:
    """By yamux's own ping; over mplex, which has none, by a ping stream that is closed each time."""
    with trio.fail_after(PATIENCE):
        async with (
            open_peer(language, "--muxer", muxer) as peer,
            open_switch(muxer, listen=False, timeouts=OFTEN) as switch,
        ):
            connection = await switch.connect(peer.address)
            while connection.stats.heartbeats < 2:
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert connection.reason is None
            assert connection.rtt is not None and connection.rtt > 0


async def test_we_answer_theirs(go: str) -> None:
    """go gives a connection up after one unanswered yamux ping."""
    with trio.fail_after(PATIENCE):
        async with (
            open_switch("yamux") as switch,
            switch.watch() as events,
            staying(go, address(switch), "--keepalive-interval", "50ms"),
        ):
            connection = (await next_event(events, Identified)).connection
            before = connection.stats.bytes_in
            while connection.stats.bytes_in < before + 20 * 40:
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert connection.reason is None


async def _frozen(go: str, timeouts: Timeouts, streams: int) -> str:
    """The code that a connection ends with whose peer stops running while we send on so many streams."""
    failed = 0

    async def send(connection: Connection) -> None:
        nonlocal failed
        stream = await connection.open_stream(PERF_PROTOCOL)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(PLENTY)
        failed += 1
        await stream.aclose()

    async with (
        open_peer(go) as peer,
        open_switch(listen=False, timeouts=timeouts) as switch,
        switch.watch() as events,
    ):
        connection = await switch.connect(peer.address)
        peer.process.send_signal(signal.SIGSTOP)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(streams):
                    nursery.start_soon(send, connection)
                ended = await next_event(events, Disconnected)
        finally:
            peer.process.send_signal(signal.SIGCONT)
        assert ended.connection is connection
        assert ended.reason.by == "peer"
        assert failed == streams
        return str(ended.reason.code)


async def test_a_frozen_peer_is_noticed_by_its_heartbeat(go: str) -> None:
    with trio.fail_after(PATIENCE):
        timeouts = Timeouts(heartbeat_interval=0.5, heartbeat_timeout=1)
        assert await _frozen(go, timeouts, streams=1) == "heartbeat"


async def test_a_frozen_peer_is_noticed_by_what_it_does_not_read(go: str) -> None:
    """64 windows are more than the socket buffers of both sides hold."""
    with trio.fail_after(PATIENCE):
        assert await _frozen(go, Timeouts(write=1), streams=64) == "write_stalled"
