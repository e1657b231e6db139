"""TCP: the stream contract on loopback, addresses, errors in plain words, nothing lost by cancellation."""

import errno
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from pyp2p.errors import ConnectFailed
from pyp2p.io.handshake import Direction
from pyp2p.peer.address import AddressKind, parse_multiaddr
from pyp2p.transports.tcp import Tcp, TcpStream

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


def tcp_pair() -> tuple[TcpStream, TcpStream]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    return TcpStream(near), TcpStream(far)


async def make_pair() -> tuple[TcpStream, TcpStream]:
    return tcp_pair()


async def make_clogged_pair() -> tuple[TcpStream, TcpStream]:
    # A Unix pair: TCP's kernel buffers grow by themselves for a while after they were full.
    near, far = map(TcpStream, socket.socketpair())
    for stream in (near, far):
        for size in (65536, 1):  # a kernel that takes no block may still take a byte
            while stream.try_send(bytes(size)):
                pass
    return near, far


@asynccontextmanager
async def listening(address: str = LOOPBACK) -> AsyncIterator[tuple[Tcp, object]]:
    transport = Tcp()
    listener = await transport.listen(parse_multiaddr(address))
    try:
        yield transport, listener
    finally:
        await listener.aclose()


async def test_stream_contract() -> None:
    await trio.testing.check_half_closeable_stream(make_pair, None)


async def test_stream_contract_with_full_buffers() -> None:
    await trio.testing.check_half_closeable_stream(make_pair, make_clogged_pair)


@pytest.mark.parametrize("address", [LOOPBACK, "/ip6/::1/tcp/0"])
async def test_dial_and_accept_name_both_ends(address: str) -> None:
    async with listening(address) as (transport, listener):
        out = await transport.dial(listener.address)
        inn = await listener.accept()
        async with out.stream, inn.stream:
            assert str(listener.address).rpartition("/")[2] != "0"
            assert out.remote == inn.local == listener.address
            assert out.local == inn.remote
            assert (out.direction, inn.direction) == (Direction.OUTBOUND, Direction.INBOUND)
            assert (out.kind, inn.kind) == (AddressKind.OUTBOUND_DIRECT, AddressKind.INBOUND_DIRECT)
            for end in (out, inn):
                sock = end.stream.socket
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert out.stream.try_send(b"hello") == 5
            assert await inn.stream.receive_some() == b"hello"


HANDLES = [
    ("/ip4/1.2.3.4/tcp/1", True),
    ("/ip6/::1/tcp/1", True),
    ("/ip6zone/eth0/ip6/fe80::1/tcp/1", True),
    ("/ip4/1.2.3.4", False),
    ("/ip4/1.2.3.4/udp/1", False),
    ("/ip4/1.2.3.4/tcp/1/ws", False),
    ("/ip4/1.2.3.4/tcp/1/p2p-circuit", False),
    ("/dns4/example.com/tcp/1", False),
    ("/tcp/1", False),
    ("/ip6zone/eth0/ip4/1.2.3.4/tcp/1", False),
]


@pytest.mark.parametrize(("address", "expected"), HANDLES)
async def test_handles_exact_forms(address: str, expected: bool) -> None:
    assert Tcp().handles(parse_multiaddr(address)) is expected


async def test_zone_of_the_loopback_interface() -> None:
    name = socket.if_indextoname(1)
    async with listening(f"/ip6zone/{name}/ip6/::1/tcp/0") as (transport, listener):
        out = await transport.dial(listener.address)
        inn = await listener.accept()
        await out.stream.aclose()
        await inn.stream.aclose()


async def test_unknown_zone_is_a_failed_connect() -> None:
    with pytest.raises(ConnectFailed):
        await Tcp().dial(parse_multiaddr("/ip6zone/nosuchzone9/ip6/fe80::1/tcp/1"))


async def test_refused() -> None:
    async with listening() as (transport, listener):
        address = listener.address
    with pytest.raises(ConnectFailed) as caught:
        await transport.dial(address)
    assert caught.value.__cause__.errno == errno.ECONNREFUSED


async def test_a_connection_to_oneself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Loopback lets a socket connect to its own port; bind to the target first to make it certain.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plain = socket.socket.connect_ex

    def connect_ex(self, target):
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.bind(target)
        return plain(self, target)

    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    with pytest.raises(ConnectFailed):
        await Tcp().dial(parse_multiaddr(f"/ip4/127.0.0.1/tcp/{port}"))


async def test_ip6_wildcard_leaves_ip4_to_others() -> None:
    async with listening("/ip6/::/tcp/0") as (transport, listener):
        port = str(listener.address).rpartition("/")[2]
        other = await transport.listen(parse_multiaddr(f"/ip4/0.0.0.0/tcp/{port}"))
        await other.aclose()


async def test_address_in_use() -> None:
    async with listening() as (transport, listener):
        with pytest.raises(OSError) as caught:
            await transport.listen(listener.address)
        assert caught.value.errno == errno.EADDRINUSE


async def test_cancelled_accept_loses_no_connection() -> None:
    async with listening() as (transport, listener):
        with trio.CancelScope() as scope:
            scope.cancel()
            await listener.accept()
        assert scope.cancelled_caught
        out = await transport.dial(listener.address)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await listener.accept()
        assert scope.cancelled_caught
        inn = await listener.accept()
        await out.stream.aclose()
        await inn.stream.aclose()


async def test_cancelled_dial_closes_its_socket() -> None:
    async with listening() as (transport, listener):
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.dial(listener.address)
        assert scope.cancelled_caught  # the fixture that counts sockets sees the rest


async def test_closing_the_listener_wakes_accept() -> None:
    async with listening() as (_, listener), trio.open_nursery() as nursery:

        async def accept() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()

        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_no_file_descriptor_left() -> None:
    async with listening() as (transport, listener):
        waiting = socket.socket()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting.setblocking(False)
        waiting.connect_ex(listener._socket.getsockname())
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(ConnectFailed) as failed:
                await transport.dial(listener.address)
            with pytest.raises(OSError) as caught:
                await listener.accept()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert failed.value.__cause__.errno == errno.EMFILE
        assert caught.value.errno == errno.EMFILE
        inn = await listener.accept()  # and the connection is still there
        await inn.stream.aclose()
        waiting.close()


async def test_close_with_unread_input_keeps_our_last_bytes() -> None:
    near, far = tcp_pair()
    await far.send_all(bytes(200_000))  # never read by us
    await near.send_all(b"last words")
    await near.aclose()
    received = b""
    while chunk := await far.receive_some():
        received += chunk
    assert received == b"last words"
    await far.aclose()


async def test_reset_is_broken_on_every_verb_and_stays_so() -> None:
    near, far = tcp_pair()
    far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    far.socket.close()
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            near.try_send(b"x")
    await near.aclose()
    with pytest.raises(trio.ClosedResourceError):
        near.try_send(b"x")


async def test_try_send_takes_what_fits_and_nothing_more() -> None:
    near, far = tcp_pair()
    data = os.urandom(1 << 20)
    sent = 0
    while (taken := near.try_send(data)) > 0:
        sent += taken
    assert sent > 0
    assert near.try_send(b"x") == 0
    received = 0
    while received < sent:
        received += len(await far.receive_some())
    assert received == sent
    await near.send_eof()
    with pytest.raises(trio.ClosedResourceError):
        near.try_send(b"x")
    await near.aclose()
    await far.aclose()


async def test_try_send_during_send_all_is_a_bug_that_is_told() -> None:
    near, far = await make_clogged_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, bytes(1 << 20))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            near.try_send(b"x")
        nursery.cancel_scope.cancel()
    await near.aclose()
    await far.aclose()


async def test_receive_takes_one_wait_per_read() -> None:
    """A read that had to wait is one task step, not two: the reader of each connection lives on this."""
    near, far = tcp_pair()
    steps = 0

    class Count(trio.abc.Instrument):
        def before_task_step(self, task) -> None:
            nonlocal steps
            steps += task is reader

    async def read() -> None:
        nonlocal reader
        reader = trio.lowlevel.current_task()
        for _ in range(10):
            await near.receive_some()

    reader = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        trio.lowlevel.add_instrument(count := Count())
        for _ in range(10):
            await trio.testing.wait_all_tasks_blocked()
            assert far.try_send(b"x") == 1
            await trio.testing.wait_all_tasks_blocked()
    trio.lowlevel.remove_instrument(count)
    assert steps <= 11
    await near.aclose()
    await far.aclose()
