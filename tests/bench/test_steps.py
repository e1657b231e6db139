"""Task steps of trio per unit of work, both ends in one process: a speed that is the same on every machine."""

import gc
import os
from collections import Counter
from collections.abc import AsyncGenerator

import pytest
import trio
import trio.testing

from pyp2p.discv5.enr import Enr
from pyp2p.discv5.service import open_discv5
from pyp2p.muxers.base import Buffer
from pyp2p.muxers.yamux import Yamux
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.protocols.echo import ECHO_PROTOCOL, serve_echo
from pyp2p.protocols.perf import PERF_PROTOCOL, run_perf
from pyp2p.reqresp.codec import Bounds, Kind, Plain
from pyp2p.reqresp.declare import Method
from pyp2p.reqresp.service import open_reqresp
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.connection import Connection
from pyp2p.switch.stream import Carrier
from pyp2p.switch.switch import open_switch

BULK = 64 * 1024 * 1024
ECHOES = 1000
CONNECTIONS = 20
BYTES = Kind("bytes", Bounds(0, 64), bytes, bytes)


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks while it is installed."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1

    def __enter__(self) -> "Steps":
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)


async def test_bulk_takes_at_most_8_steps_per_64_kib() -> None:
    config = SwitchConfig(perf=True)
    async with (
        open_switch(listen=["/ip4/127.0.0.1/tcp/0"], config=config, muxers=[Yamux()]) as server,
        open_switch(muxers=[Yamux()]) as client,
    ):
        connection = await client.connect(server.multiaddrs[0])
        for upload, download in ((BULK, 0), (0, BULK)):
            async with await connection.open_stream(PERF_PROTOCOL) as warm_up:  # the windows grow
                await run_perf(warm_up, upload // 4, download // 4)
            async with await connection.open_stream(PERF_PROTOCOL) as stream:
                with Steps() as steps:
                    await run_perf(stream, upload, download)
            assert steps.count / (BULK / 65536) <= 8


async def test_an_echo_of_32_bytes_takes_at_most_14_steps() -> None:
    async with (
        open_switch(listen=["/ip4/127.0.0.1/tcp/0"]) as server,
        open_switch() as client,
    ):
        server.mount(ECHO_PROTOCOL, serve_echo)
        async with await client.open_stream(server.multiaddrs[0], ECHO_PROTOCOL) as stream:
            await stream.send_all(bytes(32))
            await stream.receive_some()
            with Steps() as steps:
                for _ in range(ECHOES):
                    await stream.send_all(bytes(32))
                    await stream.receive_some()
    assert steps.count / ECHOES <= 14


async def test_to_connect_identify_and_close_takes_at_most_60_steps_and_leaves_no_garbage() -> None:
    async with (
        open_switch(listen=["/ip4/127.0.0.1/tcp/0"]) as server,
        open_switch() as client,
    ):

        async def come_and_go() -> None:
            connection = await client.connect(server.multiaddrs[0])
            assert connection.info is not None
            await connection.aclose()
            await trio.testing.wait_all_tasks_blocked()

        await come_and_go()
        gc.collect()
        gc.disable()
        try:
            with Steps() as steps:
                for _ in range(CONNECTIONS):
                    await come_and_go()
            left = gc.collect()
        finally:
            gc.enable()
    assert steps.count / CONNECTIONS <= 60
    # Circles of references would keep each connection until everything is collected: a tenth of the time.
    assert left < CONNECTIONS


async def test_a_request_of_discv5_takes_at_most_4_steps_and_leaves_no_garbage() -> None:
    one, two = (Identity.generate(KeyType.SECP256K1, entropy=os.urandom) for _ in range(2))
    async with open_discv5(one) as asker, open_discv5(two) as listener:

        async def echo(_: Enr, request: bytes) -> bytes:
            return request

        listener.serve(b"echo", echo)
        there = listener.record
        await asker.talk(there, b"echo", b"warm up")
        gc.collect()
        gc.disable()
        try:
            with Steps() as pings:
                for _ in range(ECHOES):
                    await asker.ping(there)
            with Steps() as talks:
                for _ in range(ECHOES):
                    await asker.talk(there, b"echo", bytes(32))
            left = gc.collect()
        finally:
            gc.enable()
    assert pings.count / ECHOES <= 3.1  # the reader of each socket and who asks; the timer is rare
    assert talks.count / ECHOES <= 4.1  # and the handler
    assert left < ECHOES / 10


async def test_a_request_takes_at_most_14_steps_and_a_write_each_way() -> None:
    method: Method[bytes, bytes] = Method("/steps", "one", 1, Plain(), BYTES, BYTES)
    async with (
        open_switch(listen=["/ip4/127.0.0.1/tcp/0"]) as server,
        open_switch() as client,
        open_reqresp(server) as answers,
        open_reqresp(client) as asks,
    ):

        async def answer(_: Carrier, request: bytes) -> AsyncGenerator[bytes, None]:
            yield request

        answers.serve(method, answer)
        connection = await client.connect(server.multiaddrs[0])
        await connection.identified.wait()
        there = next(iter(server.connections()))
        await asks.ask(connection, method, b"warm up")
        writes = Counter[Connection]()
        for each in (connection, there):
            count_writes(each, writes)
        with Steps() as steps:
            for _ in range(ECHOES):
                assert await asks.ask(connection, method, b"8 bytes!") == b"8 bytes!"
    assert steps.count / ECHOES <= 14
    assert [writes[each] / ECHOES for each in (connection, there)] == pytest.approx([1, 1], abs=0.02)  # and a heartbeat


def count_writes(connection: Connection, writes: Counter[Connection]) -> None:
    """Count what the connection gives to its socket."""
    send = connection._raw.try_send

    def counted(data: Buffer) -> int:
        writes[connection] += 1
        return send(data)

    connection._raw.try_send = counted  # type: ignore[method-assign]
