"""One socket for many QUIC connections: who is answered, what strangers cost, and what is left when all have gone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from pyp2p.errors import LocalProtocolError
from pyp2p.platform import Platform
from pyp2p.quic.core import IDLE_SECONDS
from pyp2p.quic.endpoint import BACKLOG, RETRY_ABOVE, Endpoint, Wire
from pyp2p.quic.transport import Quic
from tests.fuzz.quic import packet
from tests.unit.quic.quic_tools import HERE, THERE, bare, settings
from tests.unit.security.noise_tools import entropy_of
from tests.unit.security.tls_tools import ALICE, BOB, certificate


class Net:
    """Sockets that hand datagrams to one another."""

    def __init__(self) -> None:
        self.at: dict[tuple[str, int], Socket] = {}


class Socket:
    dropped = 0
    trouble = ""

    def __init__(self, net: Net, place: tuple[str, int]) -> None:
        self.local = place
        self.net = net
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.closed = False
        self._send, self._receive = trio.open_memory_channel[tuple[bytes, tuple[str, int]]](10_000)
        net.at[place] = self

    def send_to(self, data: bytes, to: tuple[str, int]) -> bool:
        self.sent.append((data, to))
        if to in self.net.at:
            self.net.at[to].arrive(data, self.local)
        return True

    def send_many(self, datagrams: list[bytes], to: tuple[str, int]) -> None:
        for data in datagrams:
            self.send_to(data, to)

    def arrive(self, data: bytes, place: tuple[str, int]) -> None:
        if not self.closed:
            self._send.send_nowait((data, place))

    async def receive_many(self) -> list[tuple[bytes, tuple[str, int]]]:
        if self.closed:
            raise trio.ClosedResourceError
        return [await self._receive.receive()]

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._send.close()
            self._receive.close()


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Endpoint, Socket, Net]]:
    net = Net()
    socket = Socket(net, THERE)
    endpoint = Endpoint(socket, settings(BOB), listening=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(endpoint.run)
        yield endpoint, socket, net
        endpoint.stop_listening()
        nursery.cancel_scope.cancel()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


def initial(connection: QuicConnection | None = None) -> bytes:
    return (bare([certificate()]) if connection is None else connection).datagrams_to_send(0.0)[0][0]


async def ended(wire: Wire) -> None:
    """Read to the end."""
    while await wire.receive_some():
        pass


async def dialled(net: Net) -> tuple[Endpoint, Wire]:
    endpoint = Endpoint(Socket(net, HERE), settings(ALICE), listening=False)
    return endpoint, endpoint.dial(THERE)


async def up(endpoint: Endpoint, near: Wire) -> Wire:
    """The listener's end of a connection that was dialled, when both are proven."""
    far = await endpoint.accept()
    far.begin(None)
    await near.first_answer()
    near.begin(BOB.peer)
    await near.handshaken()
    await far.handshaken()
    return far


async def until_up(endpoint: Endpoint, near: Wire) -> Wire:
    """The same, when the handshake is confirmed too."""
    far = await up(endpoint, near)
    await trio.sleep(1)
    return far


async def test_a_connection_from_the_first_datagram_to_the_last(autojump_clock) -> None:
    async with listening() as (endpoint, socket, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await endpoint.accept()
        assert not socket.sent  # nothing was worked on yet
        far.begin(ALICE.peer)
        await near.first_answer()
        near.begin(BOB.peer)
        await near.handshaken()
        await far.handshaken()
        assert far.core.peer_key == ALICE.public_key
        assert not endpoint._half_open
        await near.send_eof()
        near.close()
        while await far.receive_some():
            pass
        far.close()
        assert not endpoint._wires and not endpoint._all and not dialler._all
        assert not dialler.socket.closed  # the end may have to be said again
        await trio.sleep(5)
        assert dialler.socket.closed  # the last one has gone
        assert not socket.closed


@pytest.mark.slow
async def test_a_thousand_connections_on_one_socket(autojump_clock) -> None:
    async with listening() as (endpoint, _, net), trio.open_nursery() as nursery:
        dialler = Endpoint(Socket(net, HERE), settings(ALICE), listening=False)
        nursery.start_soon(dialler.run)
        near, far = [], []
        for _ in range(1_000):
            near.append(dialler.dial(THERE))
            far.append(await endpoint.accept())
            far[-1].begin(None)
            await near[-1].first_answer()
            near[-1].begin(BOB.peer)
            await near[-1].handshaken()
            await far[-1].handshaken()
        assert len(endpoint._all) == len(dialler._all) == 1_000
        for number, wire in enumerate(near):
            wire.core.send_stream_data(wire.core.open_stream(), number.to_bytes(2, "big"), end_stream=True)
            wire.try_send(b"")
        await trio.sleep(1)
        told = [[event.data for event in wire.core.take_events() if hasattr(event, "end_stream")] for wire in far]
        assert told == [[number.to_bytes(2, "big")] for number in range(1_000)]
        for wire in near:
            wire.close()
        await trio.sleep(1)
        assert all(wire.core.terminated is not None for wire in far)
        for wire in far:
            wire.close()
        assert not endpoint._wires
        await settled()
        assert dialler.socket.closed


@pytest.mark.hostile
async def test_hostile_043_strangers_that_never_answer_are_few_and_get_little(autojump_clock) -> None:
    async with listening() as (endpoint, socket, _):
        took = 0
        for number in range(1_000):
            data = initial()
            took += len(data)
            socket.arrive(data, (f"10.1.{number // 250}.{number % 250}", 9))
            if number % 50 == 0:
                await settled()
        await settled()
        assert len(endpoint._half_open) == RETRY_ABOVE
        assert len(endpoint._waiting) <= BACKLOG
        for wire in list(endpoint._waiting):
            wire.begin(None)
        await settled()
        assert sum(len(data) for data, _ in socket.sent) <= 3 * took
        await trio.sleep(120)  # they are given up
        for wire in list(endpoint._all):
            wire.close()
        assert not endpoint._wires and not endpoint._half_open


async def test_while_many_are_half_open_who_shows_that_it_hears_us_is_let_in(autojump_clock) -> None:
    async with listening() as (endpoint, socket, net), trio.open_nursery() as nursery:
        for number in range(RETRY_ABOVE):
            socket.arrive(initial(), ("10.1.0.1", number + 1))
        await settled()
        for _ in range(RETRY_ABOVE):
            await endpoint.accept()
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        await settled()
        assert socket.sent[-1][0][0] & 0xF0 == 0xF0  # a Retry, nothing else
        near.begin(BOB.peer)
        far = await endpoint.accept()
        far.begin(None)
        with trio.fail_after(5):
            await near.handshaken()
            await far.handshaken()
        near.close()
        far.close()


@pytest.mark.hostile
async def test_hostile_043_a_token_of_somebody_else_is_none(autojump_clock) -> None:
    async with listening() as (endpoint, socket, _):
        for number in range(RETRY_ABOVE):
            socket.arrive(initial(), ("10.1.0.1", number + 1))
        await settled()
        honest = bare([certificate()])
        socket.arrive(initial(honest), HERE)
        await settled()
        honest.receive_datagram(socket.sent[-1][0], THERE, 0.0)
        second = honest.datagrams_to_send(0.0)[0][0]
        before = len(endpoint._all)
        for place in (("10.9.9.9", 1), (HERE[0], HERE[1] + 1)):
            socket.arrive(second, place)
        socket.arrive(second[:60] + bytes([second[60] ^ 1]) + second[61:], HERE)
        await trio.sleep(31)
        socket.arrive(second, HERE)  # too late
        await settled()
        assert len(endpoint._all) == before


@pytest.mark.hostile
async def test_hostile_043_a_token_that_is_used_again_begins_one_connection_at_a_time(autojump_clock) -> None:
    async with listening() as (endpoint, socket, _):
        for number in range(RETRY_ABOVE):
            socket.arrive(initial(), ("10.1.0.1", number + 1))
        await settled()
        honest = bare([certificate()])
        socket.arrive(initial(honest), HERE)
        await settled()
        honest.receive_datagram(socket.sent[-1][0], THERE, 0.0)
        second = honest.datagrams_to_send(0.0)[0][0]
        for _ in range(3):
            for _ in range(50):
                socket.arrive(second, HERE)
            await settled()
            wires = [wire for wire in endpoint._all if wire.place == HERE]
            assert len(wires) == 1
            assert wires[0].held is not None and len(wires[0].held) <= 16
            wires[0].close()
            endpoint._waiting.remove(wires[0])


@pytest.mark.hostile
async def test_hostile_044_what_comes_after_the_end_is_answered_a_few_times_and_then_by_nobody(autojump_clock) -> None:
    async with listening() as (endpoint, socket, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await up(endpoint, near)
        late = [packet(near.core, b"\x01") for _ in range(50)]
        socket.arrive(late[0], HERE)
        await settled()
        assert far.core.terminated is None  # it is one that is taken
        far.close()
        await settled()
        before = len(socket.sent)
        for data in late * 20:
            socket.arrive(data, HERE)
        await settled()
        assert len(socket.sent) - before == 10  # to the 1st, 2nd, 4th, ... 512th
        assert not endpoint._all and not endpoint._half_open
        await trio.sleep(5)
        before = len(socket.sent)
        for data in late:
            socket.arrive(data, HERE)
        await settled()
        assert len(socket.sent) == before and not endpoint._wires
        near.close()


@pytest.mark.hostile
async def test_hostile_044_a_connection_on_which_nothing_happens_ends_and_leaves_nothing(autojump_clock) -> None:
    async with listening() as (endpoint, _, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await up(endpoint, near)
        await trio.sleep(1)
        del net.at[HERE]  # the dialler has vanished
        started = trio.current_time()
        with pytest.raises(trio.BrokenResourceError, match="no sign"):
            await ended(far)
        assert trio.current_time() - started <= IDLE_SECONDS + 1
        far.close()
        assert not endpoint._wires and not endpoint._all
        near.close()


@pytest.mark.hostile
async def test_hostile_048_the_last_words_of_a_peer_are_shown_escaped(autojump_clock) -> None:
    async with listening() as (endpoint, _, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await up(endpoint, near)
        await trio.sleep(1)  # until both know that the handshake is over: before, no words are sent
        far.core.close(error_code=7, reason_phrase="\x1b[2J\u202e" + "x" * 180)
        far.try_send(b"")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await ended(near)
        assert str(caught.value).isprintable()
        assert str(caught.value).startswith("\\x1b[2J")
        assert len(str(caught.value)) < 200
        near.close()
        far.close()


@pytest.mark.hostile
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\xc0",
        b"\xc0\x00\x00\x00\x01\xff",
        b"\x40" + bytes(40),
        initial()[:1199],
        b"\xc0\x00\x00\x00\x01\x04" + bytes(1300),
        b"\xc0\x00\x00\x00\x01\x15" + bytes(1300),
        b"\xe0\x00\x00\x00\x01\x08" + bytes(1300),
        b"\xc0\x00\x00\x00\x01\x08" + b"\xff" * 1300,
        bytes(2000),
        b"\x40" + entropy_of(3)(1499),
    ],
    ids=range(12),
)
async def test_hostile_043_what_begins_no_connection_is_not_answered(data: bytes, autojump_clock) -> None:
    async with listening() as (endpoint, socket, _):
        socket.arrive(data, HERE)
        await settled()
        assert not socket.sent
        assert not endpoint._all


@pytest.mark.hostile
async def test_hostile_043_another_version_is_told_ours_and_no_more_than_it_said(autojump_clock) -> None:
    async with listening() as (endpoint, socket, _):
        configuration = QuicConfiguration(is_client=True, verify_mode=0, supported_versions=[0x6B3343CF])
        newer = QuicConnection(configuration=configuration)
        newer.connect(THERE, 0.0)
        socket.arrive(initial(newer), HERE)
        socket.arrive(initial(newer)[:1000] if newer.datagrams_to_send(0.0) else b"\xc0", HERE)
        await settled()
        ((data, place),) = socket.sent
        assert place == HERE
        assert data[1:5] == bytes(4)
        assert data.endswith(b"\x00\x00\x00\x01")
        assert not endpoint._all
        socket.arrive(data, HERE)  # a loop of such answers ends at once
        await settled()
        assert len(socket.sent) == 1


@pytest.mark.hostile
async def test_hostile_043_datagrams_of_one_that_waits_for_its_place_are_bounded(autojump_clock) -> None:
    async with listening() as (endpoint, socket, _):
        first = initial()
        for _ in range(200):
            socket.arrive(first, HERE)
        await settled()
        (wire,) = endpoint._all
        assert len(wire.held) <= 16
        wire.close()
        assert not endpoint._wires


async def test_a_timer_that_was_set_before_the_end_finds_a_connection_that_is_over(autojump_clock, caplog) -> None:
    async with listening() as (endpoint, _, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await up(endpoint, near)
        far.close()
        await trio.sleep(3 * IDLE_SECONDS)  # whoever has the other end is slow to close it
        assert near.core.terminated is not None and not near.broken
        near.close()
    assert not caplog.records


@pytest.mark.parametrize("where", ["receive_datagram", "datagrams_to_send", "look", "handle_timer"])
async def test_a_connection_on_which_the_library_fails_is_the_only_one_that_ends(where, autojump_clock, caplog) -> None:
    async with listening() as (endpoint, _, net), trio.open_nursery() as nursery:
        pairs = []
        for port in (1, 2):
            dialler = Endpoint(Socket(net, (HERE[0], port)), settings(ALICE), listening=False)
            nursery.start_soon(dialler.run)
            near = dialler.dial(THERE)
            far = await up(endpoint, near)
            pairs.append((near, far))

        def fail(*_: object) -> None:
            raise ZeroDivisionError("oops")

        (sick, victim), (well, other) = pairs
        setattr(victim.core, where, fail)
        for wire in (sick, well):
            wire.core.send_stream_data(wire.core.open_stream(), b"hello")
            wire.try_send(b"")
        await trio.sleep(40 if where == "handle_timer" else 1)
        with pytest.raises(trio.BrokenResourceError, match="ZeroDivisionError: oops"):
            await ended(victim)
        victim.close()
        assert not victim.cids and victim not in endpoint._all
        assert [event.data for event in other.core.take_events() if hasattr(event, "end_stream")] == [b"hello"]
        assert "QUIC failed" in caplog.text
        for wire in (sick, well, other):
            wire.close()


async def test_a_connection_has_few_timers_however_much_happens(autojump_clock) -> None:
    async with listening() as (endpoint, _, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await up(endpoint, near)
        number = near.core.open_stream()
        for _ in range(500):
            near.core.send_stream_data(number, b"x")
            near.try_send(b"")
            await trio.sleep(0.01)
        assert len(dialler._timers) < 10 and len(endpoint._timers) < 10
        near.close()
        far.close()


async def test_who_is_refused_a_place_is_told_and_costs_nothing_more(autojump_clock) -> None:
    async with listening() as (endpoint, socket, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        (await endpoint.accept()).close()
        assert not endpoint._wires and not endpoint._half_open
        ((refused, _),) = socket.sent
        assert len(refused) < 100
        await near.first_answer()
        near.begin(None)
        with pytest.raises(trio.BrokenResourceError, match="takes no connection now"):
            await near.handshaken()
        near.close()


async def test_a_handshake_that_ends_nowhere_ends(autojump_clock) -> None:
    net = Net()
    endpoint, wire = await dialled(net)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(endpoint.run)
        with pytest.raises(trio.BrokenResourceError, match="no sign"):
            await wire.first_answer()
        assert len(endpoint.socket.sent) > 3  # it was tried again
        wire.close()
    assert endpoint.socket.closed


async def test_a_transport_belongs_to_one_switch() -> None:
    transport = Quic()
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.serve, ALICE, Platform())
        with pytest.raises(LocalProtocolError, match="belongs to one switch"):
            await nursery.start(transport.serve, BOB, Platform())
        nursery.cancel_scope.cancel()


# --- the end that a peer did not hear


async def test_who_goes_on_after_the_end_is_told_again_ever_less_often(autojump_clock) -> None:
    async with listening() as (endpoint, socket, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await until_up(endpoint, near)
        place = net.at.pop(HERE)  # nothing arrives there any more
        far.close()
        net.at[HERE] = place
        assert endpoint._wires
        said = len(socket.sent)
        for _ in range(40):
            endpoint._take([(packet(near.core, b"\x01"), HERE)])
        assert len(socket.sent) - said == 6  # to the 1st, 2nd, 4th, 8th, 16th and 32nd
        await settled()
        assert near.core is not None and near.core.terminated is not None
        await trio.sleep(5)
        assert not endpoint._wires and not endpoint._parting
        near.close()


async def test_a_dialling_socket_stays_until_the_end_has_been_said_long_enough(autojump_clock) -> None:
    async with listening() as (endpoint, _, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await until_up(endpoint, near)
        silent = net.at.pop(THERE)
        near.close()
        net.at[THERE] = silent
        await settled()
        assert not dialler.closed
        far.core.send_ping(1)
        far.try_send(b"")
        await settled()
        assert far.core.terminated is not None
        await trio.sleep(5)
        assert dialler.closed and dialler.socket.closed
        far.close()


async def test_connections_that_are_over_are_remembered_in_bounded_number(autojump_clock, monkeypatch) -> None:
    monkeypatch.setattr("pyp2p.quic.endpoint.PARTING", 3)
    async with listening() as (endpoint, _, net), trio.open_nursery() as nursery:
        dialler = Endpoint(Socket(net, HERE), settings(ALICE), listening=False)
        nursery.start_soon(dialler.run)
        stay = dialler.dial(THERE)
        await until_up(endpoint, stay)
        for _ in range(6):
            far = await until_up(endpoint, dialler.dial(THERE))
            far.close()
            assert len(endpoint._parting) <= 3
        for _ in range(6):
            (await until_up(endpoint, dialler.dial(THERE))).close()
        await trio.sleep(5)
        assert not endpoint._parting
        nursery.cancel_scope.cancel()


async def test_an_end_that_is_larger_than_what_came_is_not_said_again(autojump_clock) -> None:
    async with listening() as (endpoint, socket, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await until_up(endpoint, near)
        far.close()
        said = len(socket.sent)
        for cid in far.cids:
            endpoint._take([(b"\x40" + cid, ("10.9.9.9", 1))])
        assert len(socket.sent) == said
        near.close()
        nursery.cancel_scope.cancel()


async def test_a_datagram_that_is_there_when_the_socket_closes_harms_nothing(autojump_clock) -> None:
    async with listening() as (endpoint, _, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await until_up(endpoint, near)
        said = dialler._say_again

        def say_again(wire: Wire, data: bytes) -> None:  # and between this and the next datagram its time is up
            said(wire, data)
            dialler._part(wire)

        dialler._say_again = say_again
        silent = net.at.pop(THERE)
        near.close()
        net.at[THERE] = silent
        far.core.send_ping(1)
        far.try_send(b"")
        await settled()
        assert dialler.closed
        far.close()


async def test_the_end_is_said_for_three_probe_timeouts_whatever_timers_stood_before(autojump_clock) -> None:
    async with listening() as (endpoint, socket, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await until_up(endpoint, near)
        net.at.pop(HERE)
        far.core.send_stream_data(far.core.open_stream(), bytes(2_000))  # nobody acknowledges it: a timer is near
        far.try_send(b"")
        earliest = far.core.get_timer() - trio.current_time()
        meant = far.core.closing_seconds
        assert earliest < meant / 2
        far.close()
        await trio.sleep(meant * 0.9)
        said = len(socket.sent)
        endpoint._take([(packet(near.core, b"\x01"), HERE)])
        assert len(socket.sent) == said + 1
        await trio.sleep(meant * 0.2)
        assert not endpoint._wires
        near.close()


async def test_the_end_is_said_again_where_the_peer_is_now(autojump_clock) -> None:
    async with listening() as (endpoint, socket, net), trio.open_nursery() as nursery:
        dialler, near = await dialled(net)
        nursery.start_soon(dialler.run)
        far = await until_up(endpoint, near)
        elsewhere = ("10.0.0.9", 9)
        endpoint._take([(packet(near.core, b"\x01"), elsewhere)])
        assert far.core._network_paths[0].addr == elsewhere
        far.close()
        assert socket.sent[-1][1] == elsewhere
        endpoint._take([(packet(near.core, b"\x01"), elsewhere)])
        assert [place for _, place in socket.sent[-2:]] == [elsewhere] * 2
        near.close()


@pytest.mark.parametrize("token", [b"x", b"a token that another server gave" * 3])
async def test_a_token_of_another_server_is_as_good_as_none(token: bytes, autojump_clock) -> None:
    """Dialers keep such by a name that libp2p does not have, and show them to whoever they dial."""
    async with listening() as (endpoint, socket, _):
        socket.arrive(initial(bare([certificate()], token=token)), HERE)
        await settled()
        assert len(endpoint._all) == 1 and not socket.sent
        for number in range(RETRY_ABOVE):
            socket.arrive(initial(), ("10.1.0.1", number + 1))
        await settled()
        full = len(endpoint._all)
        honest = bare([certificate()], token=token)
        socket.arrive(initial(honest), HERE)
        await settled()
        assert len(endpoint._all) == full
        honest.receive_datagram(socket.sent[-1][0], THERE, 0.0)  # a Retry
        socket.arrive(honest.datagrams_to_send(0.0)[0][0], HERE)
        await settled()
        assert len(endpoint._all) == full + 1


async def test_a_dial_that_the_system_refuses_ends_at_once(autojump_clock) -> None:
    net = Net()
    socket = Socket(net, HERE)
    socket.trouble = "Network is unreachable"
    dialler = Endpoint(socket, settings(ALICE), listening=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialler.run)
        wire = dialler.dial(THERE)
        with pytest.raises(trio.BrokenResourceError, match="nothing there: Network is unreachable"):
            await wire.first_answer()
        wire.close()
    assert dialler.closed and trio.current_time() == 0
