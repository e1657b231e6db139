"""A running node against mistakes of its application, hanging disks, and ends at a bad moment."""

import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import trio

from pyp2p.discv5.enr import Enr
from pyp2p.discv5.messages import Pong
from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.service import Discv5, open_discv5
from pyp2p.discv5.state import State, load, save
from pyp2p.discv5.types import Discv5Config, PacketTrace, RecordChanged
from pyp2p.errors import LocalProtocolError, NoAnswer
from pyp2p.io.udp import bind_udp
from pyp2p.testing import Sim, simulated
from pyp2p.testing.run import EPOCH
from tests.discv5.support import PORT, identity, node, nodes, until


async def echo(_, request: bytes) -> bytes:
    return request


# ---- mistakes of the application

NO_ENDPOINTS = [
    ("50.0.1.1", 70_000),
    ("50.0.1.1", 0),
    ("50.0.1.1", -1),
    ("50.0.1.1", "x"),
    ("50.0.1.1", None),
    (None, PORT),
    ("localhost", PORT),
    ("", PORT),
    ([], PORT),
    ("50.0.1.1",),
    "50.0.1.1",
    5,
]


@simulated(seeds=(1,))
async def test_an_endpoint_that_is_none_raises_at_once(sim: Sim) -> None:
    packets: list[PacketTrace] = []
    async with nodes(sim, 2, trace=packets.append) as (a, b):
        packets.clear()
        for wrong in NO_ENDPOINTS:
            for ask in (a.ping(b.record, wrong), a.find_node(b.record, [0], wrong), a.talk(b.record, b"p", b"", wrong)):
                with pytest.raises(ValueError, match="an endpoint is an IP address and a port"):
                    await ask
        assert packets == [] and not a._waits
        for right in (("50.0.1.1", PORT), ["50.0.1.1", PORT], ("::ffff:50.0.1.1", PORT), Endpoint("50.0.1.1", PORT)):
            assert isinstance(await a.ping(b.record, right), Pong)
        assert len(a._node._sessions) == 1


async def test_a_socket_that_is_told_rubbish_raises_nothing() -> None:
    sock = bind_udp("127.0.0.1", 0)
    bad = [
        *(("127.0.0.1", port) for port in (70_000, -1, 1 << 70, "x", None)),
        *((None, 1), (5, 1), ("::1", 1), ("\0", 1), ("127.0.0.1",), None, "x"),
    ]
    try:
        assert [sock.send_to(b"x", to) for to in bad] == [False] * len(bad) and sock.dropped == len(bad)
        assert not sock.send_to(bytes(100_000), sock.local) and not sock.send_to("text", sock.local)
        assert sock.send_to(b"x", sock.local) and await sock.receive_many() == [(b"x", sock.local)]
    finally:
        sock.close()
    assert not sock.send_to(b"x", sock.local)


@simulated(seeds=(1,))
async def test_a_handler_of_text_or_of_nothing_is_a_type_error(sim: Sim) -> None:
    async with nodes(sim, 2) as (a, b):
        for protocol, handler in (("text", echo), (b"x", None), (b"x", "echo"), (None, echo), (bytearray(b"x"), echo)):
            with pytest.raises(TypeError, match="serve"):
                b.serve(protocol, handler)
        assert await a.talk(b.record, b"x", b"") == b""
        b.serve(b"x", echo)


@simulated(seeds=(1,))
async def test_after_the_end_nothing_is_served_and_no_record_changed(sim: Sim) -> None:
    async with node(sim, "a", "50.0.9.1") as a:
        record = a.record
    with pytest.raises(LocalProtocolError, match="has ended"):
        a.serve(b"x", echo)
    with pytest.raises(LocalProtocolError, match="has ended"):
        a.set_record(attnets=bytes(8))
    assert a.record == record and not a._node.protocols


# ---- handlers


@simulated(seeds=(1,))
async def test_handlers_that_cannot_be_cancelled_are_bounded_in_all(sim: Sim) -> None:
    running = peak = 0

    async def shielded(_, request: bytes) -> bytes:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        with trio.CancelScope(shield=True):
            await trio.sleep(20)
        running -= 1
        return b"late"

    async with nodes(sim, 2, config=Discv5Config(max_talks=4)) as (a, b):
        b.serve(b"shielded", shielded)
        b.serve(b"echo", echo)

        async def talk() -> None:
            with pytest.raises(NoAnswer):
                await a.talk(b.record, b"shielded", b"")

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(talk)
        assert peak == running == 4 and b.counters["talks refused"] > 8
        with pytest.raises(NoAnswer):
            await a.talk(b.record, b"echo", b"x")
        assert isinstance(await a.ping(b.record), Pong)
        await trio.sleep(20)
        assert running == 0 and await a.talk(b.record, b"echo", b"x") == b"x"


# ---- cancelled


@simulated(seeds=(1,))
async def test_a_hundred_pings_that_are_given_up_leave_room_for_the_next(sim: Sim) -> None:
    async with nodes(sim, 2) as (a, b):
        sim.net.cut("n0", "n1")
        for _ in range(100):
            with trio.move_on_after(0.01) as scope:
                await a.ping(b.record)
            assert scope.cancelled_caught and len(a._node._calls) == 0
        with pytest.raises(NoAnswer):
            await a.ping(b.record)


@simulated(seeds=(1,))
async def test_a_ping_in_a_cancelled_scope_sends_nothing(sim: Sim) -> None:
    packets: list[PacketTrace] = []
    async with nodes(sim, 1) as (b,), node(sim, "a", "50.0.9.1", trace=packets.append) as a:
        with trio.CancelScope() as scope:
            scope.cancel()
            await a.ping(b.record)
        assert scope.cancelled_caught and packets == [] and len(a._node._calls) == 0


# ---- our record


class Wild:
    """A socket on a wildcard."""

    def __init__(self, real, ip: str) -> None:
        self.real = real
        self.local = (ip, real.local[1])
        self.dropped = 0
        self.send_to = real.send_to
        self.receive_many = real.receive_many
        self.close = real.close


@pytest.mark.parametrize(("real", "wildcard"), [("50.0.9.1", "0.0.0.0"), ("2a00::9", "::")])
@simulated(seeds=(1,))
async def test_behind_a_wildcard_the_record_names_no_address(sim: Sim, real: str, wildcard: str) -> None:
    host = sim.net.host("a", real)
    async with open_discv5(
        identity("a"),
        listen=[(wildcard, PORT)],
        platform=sim.platform("a"),
        bind=lambda _, port: Wild(host.bind_udp(real, port), wildcard),
    ) as a:
        said = a.record
        assert {said.ip, said.ip6, said.udp, said.udp6} == {None}
        assert a.endpoints == [Endpoint(wildcard, PORT)]


@simulated(seeds=(1,))
async def test_what_is_advertised_stays_whatever_others_see(sim: Sim) -> None:
    async with (
        nodes(sim, 7) as others,
        node(sim, "a", "50.0.99.1", advertise=[("77.1.2.3", 4444)], bootnodes=[each.record for each in others]) as a,
        node(sim, "b", "50.0.98.1", listen=[("50.0.98.1", PORT)], bootnodes=[each.record for each in others]) as b,
    ):
        b.set_record(ip=None, udp=None)
        first = a.record
        for each in others:
            for asker in (a, b):
                await asker.ping(each.record)
        assert (str(b.record.ip), b.record.udp) == ("50.0.98.1", PORT)  # so many votes are enough
        assert a.record == first and (str(first.ip), first.udp) == ("77.1.2.3", 4444)


@simulated(seeds=(1,))
async def test_another_key_in_the_file_begins_its_numbers_with_the_clock(
    sim: Sim, tmp_path: Path, disk: "Disk"
) -> None:
    path = tmp_path / "nodes.json"
    save(path, State(Enr.sign(identity("other"), 1 << 60, {}), []))
    disk.hangs = False
    async with node(sim, "a", "50.0.9.1", state=path) as a:
        assert int(EPOCH * 1000) <= a.record.seq <= int((EPOCH + 60) * 1000)


# ---- saving


class Disk:
    """What saves go through, in virtual time: one at a time, and none while it hangs."""

    def __init__(self) -> None:
        self.hangs = False
        self.go_on = trio.Event()
        self.saves = 0

    async def run_sync(self, work: Callable, *args, limiter=None, **options):
        async with limiter or nullcontext():
            if work is save:
                self.saves += 1
                if self.hangs:
                    await self.go_on.wait()
            await trio.lowlevel.checkpoint()
            return work(*args)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """In place of trio's threads."""
    found = Disk()
    monkeypatch.setattr(trio.to_thread, "run_sync", found.run_sync)
    return found


async def _changes(a: Discv5, disk: Disk) -> None:
    """Our record changes while the disk hangs."""
    disk.hangs = True
    before = disk.saves
    a.set_record(attnets=b"\1" * 8)
    await until(lambda: disk.saves > before)


@simulated(seeds=(1,))
async def test_while_a_save_hangs_our_requests_end_in_time(sim: Sim, tmp_path: Path, disk: Disk) -> None:
    packets: list[PacketTrace] = []
    async with nodes(sim, 1) as (b,), node(sim, "a", "50.0.9.1", state=tmp_path / "a", trace=packets.append) as a:
        await a.ping(b.record)
        await _changes(a, disk)
        packets.clear()
        began = trio.current_time()
        with pytest.raises(NoAnswer):
            await a.ping(b.record)
        assert trio.current_time() - began < 2 and packets == []  # all is held
        disk.go_on.set()
        await until(lambda: packets)
        disk.hangs = False
        assert (await b.ping(a.record)).enr_seq == a.record.seq


@simulated(seeds=(1,))
async def test_watchers_hear_of_a_record_only_when_it_is_saved(sim: Sim, tmp_path: Path, disk: Disk) -> None:
    path, told = tmp_path / "a", []
    async with node(sim, "a", "50.0.9.1", state=path) as a, trio.open_nursery() as nursery, a.watch() as news:

        async def read() -> None:
            async for each in news:
                told.append((each, load(path).record))

        nursery.start_soon(read)
        await _changes(a, disk)
        await trio.sleep(4)
        assert told == []
        disk.go_on.set()
        await until(lambda: told)
        assert told == [(RecordChanged(a.record), a.record)]
        nursery.cancel_scope.cancel()


@simulated(seeds=(1,))
async def test_a_tracer_may_change_the_record_while_what_waited_is_sent(sim: Sim, tmp_path: Path, disk: Disk) -> None:
    path, sent = tmp_path / "a", []

    def change_once(packet: PacketTrace) -> None:
        if packet.sent and disk.hangs and disk.go_on.is_set():
            sent.append(load(path).record)
            if len(sent) == 1:
                disk.go_on = trio.Event()  # it hangs again
                a.set_record(attnets=b"\2" * 8)

    async with nodes(sim, 1) as (b,), node(sim, "a", "50.0.9.1", state=path, trace=change_once) as a:
        await a.ping(b.record)
        await _changes(a, disk)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(a.ping, b.record)
            await trio.sleep(0.1)
            disk.go_on.set()
            await until(lambda: disk.saves >= 3)
            assert len(sent) == 1 and len(a._held) >= 3  # the first, and the others wait for the second change
            disk.go_on.set()
        assert {record.seq for record in sent[1:]} == {a.record.seq}


@simulated(seeds=(1,))
async def test_what_waits_for_a_save_is_bounded(sim: Sim, tmp_path: Path, disk: Disk) -> None:
    config = Discv5Config(max_requests=4000, max_requests_per_node=4000)
    async with nodes(sim, 1) as (b,), node(sim, "a", "50.0.9.1", state=tmp_path / "a", config=config) as a:
        await a.ping(b.record)
        await _changes(a, disk)

        async def ping() -> None:
            with pytest.raises(NoAnswer):
                await a.ping(b.record)

        with trio.move_on_after(3):
            async with trio.open_nursery() as nursery:
                for _ in range(1500):
                    nursery.start_soon(ping)
        assert len(a._held) == 1024 and a.counters["datagrams not sent"] >= 1500 * 3 - 1024
        a.set_record(attnets=b"\2" * 8)
        assert a._held[-1] == RecordChanged(a.record)  # never left out
        disk.go_on.set()
        await until(lambda: not a._held)


@simulated(seeds=(1,))
async def test_a_disk_that_hangs_for_good_silences_nobody(
    sim: Sim, tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes(sim, 1) as (b,), node(sim, "a", "50.0.9.1", state=tmp_path / "a") as a, a.watch() as news:
        await a.ping(b.record)
        began = trio.current_time()
        await _changes(a, disk)
        try:
            with caplog.at_level(logging.WARNING, "pyp2p.discv5"), trio.fail_after(60):
                while not isinstance(changed := await news.__anext__(), RecordChanged):
                    pass
        finally:
            disk.hangs = False
        assert 4.9 < trio.current_time() - began < 6 and changed.record == a.record
        assert ["not done in 5.0 s" in each.getMessage() for each in caplog.records] == [True]
        assert (await b.ping(a.record)).enr_seq == a.record.seq


@simulated(seeds=(1,))
async def test_the_last_save_is_made_though_all_around_is_cancelled(sim: Sim, tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "a"
    async with nodes(sim, 1) as (b,):
        with trio.CancelScope() as scope:
            async with node(sim, "a", "50.0.9.1", state=path) as a:
                await a.ping(b.record)
                assert load(path).nodes == []
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught and load(path) == State(a.record, [b.record])


PATIENCE = 20.0  # seconds: safety only


async def test_threads_of_the_application_take_nothing_from_a_save(tmp_path: Path) -> None:
    path, go_on = tmp_path / "nodes.json", threading.Event()
    limiter = trio.to_thread.current_default_thread_limiter()
    async with trio.open_nursery() as nursery, open_discv5(identity("a"), state=path) as a:
        limiter.total_tokens = 1
        nursery.start_soon(trio.to_thread.run_sync, go_on.wait, PATIENCE)
        try:
            with trio.fail_after(PATIENCE):
                while limiter.available_tokens:
                    await trio.lowlevel.checkpoint()
                a.set_record(attnets=bytes(8))
                while load(path).record != a.record:
                    await trio.sleep(0.02)
        finally:
            go_on.set()


# ---- the end


@simulated(seeds=(1,))
async def test_a_request_that_comes_with_the_end_does_no_harm(sim: Sim) -> None:
    """A TALKREQ is there, and the block is left before its task is awake."""
    sent: list[bytes] = []
    host = sim.net.host("a", "50.0.9.1")
    async with nodes(sim, 1) as (b,):
        async with node(sim, "a", "50.0.9.1") as a:
            a.serve(b"echo", echo)
            assert await b.talk(a.record, b"echo", b"x") == b"x"
            (sock,) = b._sockets.values()
            sock.send_to = lambda data, to: sent.append(data) or True
            with trio.move_on_after(0.1):
                await b.talk(a.record, b"echo", b"y")
            before = a.counters.copy()
            for data in sent[:1]:
                host.udp["50.0.9.1", PORT].arrive(data, ("50.0.0.1", PORT))
        assert sent and len(a._node._talks) == 1 and a.counters["datagrams not sent"] == before["datagrams not sent"]
        assert a._answering == 0


async def test_threads_of_the_application_take_nothing_from_the_opening(tmp_path: Path) -> None:
    path, go_on = tmp_path / "nodes.json", threading.Event()
    save(path, State(Enr.sign(identity("a"), 7, {}), []))
    limiter = trio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, go_on.wait, PATIENCE)
        try:
            while limiter.available_tokens:
                await trio.lowlevel.checkpoint()
            async with open_discv5(identity("a"), state=path) as a:
                assert a.record.seq == 8 and not go_on.is_set()
                assert limiter.borrowed_tokens == 1
        finally:
            go_on.set()
