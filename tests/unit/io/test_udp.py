"""UDP sockets: many datagrams at once, nothing that the network says ends one; real and simulated ones alike."""

import errno
import socket
import sys

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


async def test_several_datagrams_go_in_their_order_whatever_their_sizes() -> None:
    a, b = bind_udp("127.0.0.1", 0), bind_udp("127.0.0.1", 0)
    sizes = [1400] * 150 + [1500] * 60 + [900, 1, 1, 0, 1500, 1400, 1400, 3, 2048, 2048, 5]
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]
    a.send_many(sent, b.local)
    found: list[bytes] = []
    with trio.fail_after(10):
        while len(found) < len(sent):
            found += [data for data, sender in await b.receive_many() if sender == a.local]
    assert found == sent
    assert (a.dropped, b.dropped) == (0, 0)
    a.close()
    b.close()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.EAGAIN, errno.EMSGSIZE])
async def test_where_the_system_does_not_take_several_they_go_one_by_one(number: int, monkeypatch) -> None:
    a, b = bind_udp("127.0.0.1", 0), bind_udp("127.0.0.1", 0)
    tried = []

    class Refusing:
        def __init__(self, real: socket.socket) -> None:
            self._real = real

        def sendmsg(self, *_: object) -> int:
            tried.append(1)
            raise OSError(number, "no")

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    monkeypatch.setattr(a, "_socket", Refusing(a._socket))
    monkeypatch.setattr(a, "_segmented", True)
    for _ in range(2):
        a.send_many([b"1", b"2", b"3"], b.local)
    found: list[bytes] = []
    with trio.fail_after(10):
        while len(found) < 6:
            found += [data for data, _ in await b.receive_many()]
    assert found == [b"1", b"2", b"3"] * 2
    assert len(tried) == (1 if number == errno.EIO else 2)  # what is of one way alone is tried again
    a.close()
    b.close()


async def test_several_that_cannot_be_sent_are_counted_each() -> None:
    a = bind_udp("127.0.0.1", 0)
    a.send_many([b"1", b"2"], ("::1", 1))
    a.close()
    a.send_many([b"3", b"4", b"5"], ("127.0.0.1", 1))
    assert a.dropped == 5


@pytest.mark.skipif(sys.platform != "linux", reason="IP_PKTINFO is Linux's")
@pytest.mark.parametrize("several", [False, True])
async def test_a_socket_on_all_addresses_answers_from_the_one_that_was_asked(several: bool) -> None:
    everywhere, asker = bind_udp("0.0.0.0", 0), bind_udp("127.0.0.1", 0)
    for host in ("127.0.0.2", "127.0.0.3", "127.0.0.1"):
        asked = (host, everywhere.local[1])
        asker.send_to(b"?", asked)
        with trio.fail_after(10):
            ((_, place),) = await everywhere.receive_many()
            assert place == asker.local
            if several:
                everywhere.send_many([b"!" * 100] * 3, place)
            else:
                everywhere.send_to(b"!", place)
            assert {sender for _, sender in await asker.receive_many()} == {asked}
    everywhere.close()
    asker.close()


async def test_a_socket_on_all_ipv6_addresses_answers_too_and_forgets_an_address_that_is_no_more() -> None:
    everywhere, asker = bind_udp("::", 0), bind_udp("::1", 0)
    asker.send_to(b"?", ("::1", everywhere.local[1]))
    with trio.fail_after(10):
        ((_, place),) = await everywhere.receive_many()
        level, kind, _ = everywhere._asked.get(place, (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, b""))
        gone = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + bytes(4)
        for send in (everywhere.send_to, lambda data, to: everywhere.send_many([data, data], to)):
            everywhere._asked[place] = (level, kind, gone)
            send(b"!", place)
            assert {sender for _, sender in await asker.receive_many()} == {("::1", everywhere.local[1])}
    assert everywhere.dropped == 0
    everywhere.close()
    asker.close()


async def test_the_places_that_asked_are_remembered_in_bounded_number(monkeypatch) -> None:
    monkeypatch.setattr("pyp2p.io.udp._ASKED", 3)
    everywhere = bind_udp("0.0.0.0", 0)
    for _ in range(5):
        asker = bind_udp("127.0.0.1", 0)
        asker.send_to(b"?", ("127.0.0.1", everywhere.local[1]))
        with trio.fail_after(10):
            await everywhere.receive_many()
        asker.close()
    assert len(everywhere._asked) <= 3
    everywhere.close()


def test_why_nothing_can_be_sent_is_said_until_something_is() -> None:
    sock = bind_udp("127.0.0.1", 0)
    assert not sock.send_to(b"x", ("127.0.0.1", 0))
    assert "nvalid argument" in sock.trouble
    assert sock.send_to(b"x", sock.local)
    assert not sock.trouble
    sock.close()
