"""Connections inside the process: the stream contract, ports, bounds."""

import errno

import pytest
import trio
import trio.testing

from pyp2p.errors import ConnectFailed
from pyp2p.io.handshake import Direction
from pyp2p.peer.address import AddressKind, parse_multiaddr
from pyp2p.transports.memory import Memory, MemoryHub
from pyp2p.transports.pipe import BACKLOG, Pipe, PipeStream, pipe_pair


async def make_pair() -> tuple[PipeStream, PipeStream]:
    return pipe_pair()


async def make_clogged_pair() -> tuple[PipeStream, PipeStream]:
    near, far = pipe_pair()
    for stream in (near, far):
        while stream.try_send(bytes(1000)):
            pass
    return near, far


async def test_stream_contract() -> None:
    await trio.testing.check_half_closeable_stream(make_pair, make_clogged_pair)


async def test_dial_and_accept_name_both_ends() -> None:
    memory = Memory(MemoryHub())
    listener = await memory.listen(parse_multiaddr("/memory/5"))
    out = await memory.dial(listener.address)
    inn = await listener.accept()
    assert str(listener.address) == "/memory/5"
    assert out.remote == inn.local == listener.address
    assert out.local == inn.remote
    assert (out.direction, inn.direction) == (Direction.OUTBOUND, Direction.INBOUND)
    assert (out.kind, inn.kind) == (AddressKind.OUTBOUND_DIRECT, AddressKind.INBOUND_DIRECT)
    await out.stream.send_all(b"hello")
    assert await inn.stream.receive_some() == b"hello"
    await listener.aclose()
    await listener.aclose()


async def test_ports_are_free_again_and_belong_to_one_hub() -> None:
    one, other = Memory(MemoryHub()), Memory(MemoryHub())
    port = parse_multiaddr("/memory/5")
    first = await one.listen(port)
    second = await other.listen(port)
    with pytest.raises(OSError) as caught:
        await one.listen(port)
    assert caught.value.errno == errno.EADDRINUSE
    await first.aclose()
    with pytest.raises(ConnectFailed):
        await one.dial(port)
    with pytest.raises(trio.ClosedResourceError):
        await first.accept()
    third = await one.listen(port)
    await third.aclose()
    await second.aclose()


async def test_port_zero_is_a_fresh_one() -> None:
    memory = Memory(MemoryHub())
    first = await memory.listen(parse_multiaddr("/memory/0"))
    second = await memory.listen(parse_multiaddr("/memory/0"))
    assert first.address != second.address
    await first.aclose()
    await second.aclose()


@pytest.mark.parametrize(
    ("address", "expected"), [("/memory/1", True), ("/memory/1/ws", False), ("/ip4/1.2.3.4/tcp/1", False)]
)
async def test_handles(address: str, expected: bool) -> None:
    assert Memory(MemoryHub()).handles(parse_multiaddr(address)) is expected


async def test_a_backlog_that_nobody_accepts_is_bounded_and_reset_at_the_end() -> None:
    memory = Memory(MemoryHub())
    listener = await memory.listen(parse_multiaddr("/memory/5"))
    conns = [await memory.dial(listener.address) for _ in range(BACKLOG)]
    with pytest.raises(ConnectFailed):
        await memory.dial(listener.address)
    await listener.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await conns[0].stream.send_all(b"x")


async def test_cancelled_accept_loses_no_connection() -> None:
    memory = Memory(MemoryHub())
    listener = await memory.listen(parse_multiaddr("/memory/5"))
    await memory.dial(listener.address)
    with trio.CancelScope() as scope:
        scope.cancel()
        await listener.accept()
    assert scope.cancelled_caught
    await listener.accept()
    await listener.aclose()


async def test_a_sender_that_nobody_reads_waits() -> None:
    near, far = pipe_pair(capacity=10)
    assert near.try_send(b"0123456789abc") == 10
    assert near.try_send(b"abc") == 0
    assert await far.receive_some(4) == b"0123"
    assert near.try_send(b"abcdefg") == 4
    assert await far.receive_some() == b"456789abcd"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, bytes(100))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            near.try_send(b"x")
        received = 0
        while received < 100:
            received += len(await far.receive_some())


async def test_data_before_the_loss_is_still_read() -> None:
    near, far = pipe_pair()
    near.try_send(b"last words")
    far.incoming.lose("reset")
    assert await far.receive_some() == b"last words"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()


async def test_an_empty_pipe_is_refused() -> None:
    with pytest.raises(ValueError):
        Pipe(0)
