"""Whole switches over WebSockets: what only shows when a connection runs over one."""

import pytest
import trio

from pyp2p.protocols.ping import PING_PROTOCOL, PING_SIZE, ping
from pyp2p.switch.connection import Connection
from pyp2p.switch.switch import Switch, open_switch
from pyp2p.transports.ws import WebSocket, WsStream
from pyp2p.transports.wsframes import PING, frame
from tests.contract.stacks import secure_websocket


def below(switch: Switch) -> WsStream:
    """The stream under the only connection."""
    (connection,) = switch.connections()
    assert isinstance(connection._raw, WsStream)
    return connection._raw


async def ask(connection: Connection, payload: bytes) -> None:
    """Send a ping, by the connection's own writer: another task in its socket would be in its way."""
    stream = connection._raw
    assert isinstance(stream, WsStream) and stream._wake is not None
    stream._pong = frame(payload, b"mask", PING)
    stream._wake()
    await connection._writer.wait_idle()


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("transport", "where"),
    [(WebSocket, "/ip4/127.0.0.1/tcp/0/ws"), (secure_websocket, "/ip4/127.0.0.1/tcp/0/tls/ws")],
    ids=["ws", "wss"],
)
async def test_hostile_086_a_ping_is_answered_by_who_has_nothing_to_say_and_keeps_nobody_busy(transport, where) -> None:
    used = transport()
    async with (
        open_switch(listen=[where], transports=[used]) as listening,
        open_switch(transports=[used]) as dialling,
    ):
        connection = await dialling.connect(listening.multiaddrs[0])
        near, far = below(dialling), below(listening)
        answered = trio.Event()
        receive = near._inner.receive_some

        async def watched(limit: int | None = None) -> bytes:
            data = bytes(await receive(limit))
            if b"are you there? 19" in data:
                answered.set()
            return data

        near._inner.receive_some = watched  # type: ignore[method-assign]
        async with await connection.open_stream(PING_PROTOCOL) as stream:
            await ping(stream, bytes)  # the reader that waits now is a watched one
            for number in range(20):
                await ask(connection, b"are you there? %d" % number)
            with trio.fail_after(10):
                await answered.wait()
            await ping(stream, bytes)
        assert not far.unsent
        (there,) = listening.connections()
        assert there._writer.idle


async def test_who_speaks_while_the_answer_to_a_ping_waits_for_room_has_not_stalled() -> None:
    async with (
        open_switch(listen=["/ip4/127.0.0.1/tcp/0/ws"], transports=[WebSocket()]) as listening,
        open_switch(transports=[WebSocket()]) as dialling,
    ):
        connection = await dialling.connect(listening.multiaddrs[0])
        far = below(listening)
        (there,) = listening.connections()
        socket, waiting, room = far._inner, trio.Event(), trio.Event()
        send, wait = socket.try_send, socket.wait_send_all_might_not_block

        async def wait_for_room() -> None:
            waiting.set()
            await room.wait()
            await wait()

        with trio.fail_after(10):
            async with await there.open_stream(PING_PROTOCOL) as stream:
                await ping(stream, bytes)
                socket.try_send = lambda data: send(data) if room.is_set() else 0  # type: ignore[method-assign]
                socket.wait_send_all_might_not_block = wait_for_room  # type: ignore[method-assign]
                await ask(connection, b"are you there?")
                await waiting.wait()
                await stream.send_all(bytes(PING_SIZE))
                assert there._writer.size > 0
                there.tick(trio.current_time())
                assert there.is_open
                room.set()
                assert await stream.receive_some() == bytes(PING_SIZE)
