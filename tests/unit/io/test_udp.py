"""UDP sockets: many datagrams at once, nothing that the network says ends one; real and simulated ones alike."""

import pytest
import trio

from pyp2p.io.udp import bind_udp
from pyp2p.testing import LinkQuality, Sim, simulated


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_datagrams_arrive_with_their_sender(ip: str) -> None:
    a, b = bind_udp(ip, 0), bind_udp(ip, 0)
    for number in range(100):
        assert a.send_to(b"%d" % number, b.local)
    found = []
    with trio.fail_after(10):
        while len(found) < 100:
            some = await b.receive_many()
            assert len(some) <= 64
            found += some
    assert [int(data) for data, _ in found] == list(range(100))
    assert {sender for _, sender in found} == {a.local}
    assert a.local[0] == ip
    a.close()
    b.close()


async def test_a_datagram_that_is_too_long_is_cut_where_that_is_seen() -> None:
    a, b = bind_udp("127.0.0.1", 0), bind_udp("127.0.0.1", 0)
    a.send_to(bytes(5000), b.local)
    with trio.fail_after(10):
        ((data, _),) = await b.receive_many()
    assert len(data) == 2048
    a.close()
    b.close()


async def test_what_cannot_be_sent_is_counted_and_harms_nothing() -> None:
    a, gone = bind_udp("127.0.0.1", 0), bind_udp("127.0.0.1", 0)
    gone.close()
    assert not a.send_to(b"x", ("::1", 1))
    assert not a.send_to(bytes(70_000), ("127.0.0.1", 1))
    assert a.dropped == 2
    a.send_to(b"nobody is there", gone.local)
    assert a.send_to(b"to myself", a.local)
    with trio.fail_after(10):
        assert await a.receive_many() == [(b"to myself", a.local)]
    a.close()
    a.close()
    assert not a.send_to(b"x", ("127.0.0.1", 1))


async def test_closing_ends_a_wait() -> None:
    sock = bind_udp("127.0.0.1", 0)

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await sock.receive_many()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        sock.close()
    with pytest.raises(trio.ClosedResourceError):
        await sock.receive_many()


async def test_an_address_that_is_not_to_be_had_is_an_os_error() -> None:
    first = bind_udp("127.0.0.1", 0)
    for ip, port in (("127.0.0.1", first.local[1]), ("192.0.2.1", 0)):
        with pytest.raises(OSError):
            bind_udp(ip, port)
    first.close()


@simulated(seeds=(1,))
async def test_simulated_datagrams_take_time_and_are_lost(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.1, jitter=0.05, loss=0.3)
    a, b = sim.net.host("a").bind_udp(), sim.net.host("b").bind_udp(port=9000)
    for number in range(1000):
        assert a.send_to(b"%d" % number, b.local)
    found = []
    with trio.move_on_after(1):
        while True:
            found += await b.receive_many()
            assert 0.1 <= trio.current_time() <= 0.15
    numbers = [int(data) for data, sender in found if sender == a.local]
    assert 600 < len(numbers) < 800
    assert numbers != sorted(numbers)
    sim.net.cut("a", "b")
    b.send_to(b"x", a.local)
    a.send_to(b"to nobody", ("10.9.9.9", 1))
    with trio.move_on_after(1):
        raise AssertionError(await a.receive_many())


@simulated(seeds=(1,))
async def test_a_simulated_socket_holds_so_many_and_can_be_closed(sim: Sim) -> None:
    host = sim.net.host("a")
    a, b = host.bind_udp(), host.bind_udp(port=9000)
    with pytest.raises(OSError, match="in use"):
        host.bind_udp(port=9000)
    with pytest.raises(OSError, match="no address"):
        host.bind_udp("1.2.3.4")
    for _ in range(2000):
        a.send_to(b"x", b.local)
    await trio.sleep(1)
    assert len(await b.receive_many()) == 1024
    b.close()
    b.close()
    a.send_to(b"x", b.local)
    assert not b.send_to(b"x", a.local)
    assert b.dropped == 1
    with pytest.raises(trio.ClosedResourceError):
        await b.receive_many()
    host.bind_udp(port=9000).close()


def test_a_socket_is_made_and_closed_outside_of_trio_too() -> None:
    """A command looks which addresses are to be had before it starts."""
    sock = bind_udp("127.0.0.1", 0)
    sock.close()
    bind_udp(*sock.local).close()  # the port is free again
