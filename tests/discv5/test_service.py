"""discv5 on simulated sockets: requests, handlers, news, and ends that leave nothing."""

import logging
from contextlib import aclosing

import pytest
import trio
import trio.testing

from pyp2p.discv5.candidates import random_nodes
from pyp2p.discv5.messages import Ping, Pong
from pyp2p.discv5.service import open_discv5
from pyp2p.discv5.types import Discv5Config, Form, NodeEvent, NodeNews, PacketTrace, RecordChanged
from pyp2p.errors import LocalProtocolError, NoAnswer, NoEndpoint, TooManyRequests
from pyp2p.testing import LeakCheck, Sim, run_sim, simulated
from tests.cancel.steps import CancelAt
from tests.discv5.support import PORT, identity, node, nodes, until


async def echo(_, request: bytes) -> bytes:
    return request


@simulated(seeds=(1, 2))
async def test_a_node_is_asked_and_answers(sim: Sim) -> None:
    async with nodes(sim, 2) as (a, b):
        b.serve(b"echo", echo)
        pong = await a.ping(b.record)
        assert isinstance(pong, Pong) and pong.recipient_ip == bytes((50, 0, 0, 1))
        assert await a.find_node(b.record, [0]) == [b.record]
        assert await a.talk(b.record, b"echo", b"hello") == b"hello"
        assert await a.talk(b.record, b"echo", bytes(1150)) == bytes(1150)
        assert await a.talk(b.record, b"other", b"hello") == b""
        assert await a.lookup(bytes(32)) == [b.record]
        assert await a.find_random() == [b.record]
        assert a.nodes() == [b.record] and a.gauges()["live"] == 1
        assert [(each.ip, each.port) for each in a.endpoints] == [("50.0.0.1", PORT)]


@simulated(seeds=(1,))
async def test_opened_and_closed_again_and_again_nothing_is_left(sim: Sim) -> None:
    host = sim.net.host("a")
    async with LeakCheck({"ports": lambda: len(host.udp)}):
        for _ in range(5):
            async with node(sim, "a") as a:
                assert len(host.udp) == 1 and a.record.seq
    with pytest.raises(RuntimeError, match="mine"):
        async with node(sim, "a"):
            raise RuntimeError("mine")
    assert not host.udp


@simulated(seeds=(1,))
async def test_what_cannot_be_opened_leaves_nothing(sim: Sim) -> None:
    host = sim.net.host("a", "50.0.0.1", "2a00::1")
    taken = host.bind_udp("2a00::1", PORT)
    async with LeakCheck({"ports": lambda: len(host.udp)}):
        for error, options in (
            (OSError, {}),
            (OSError, {"listen": [("50.0.0.1", 1), ("9.9.9.9", 1)]}),
            (ValueError, {"listen": [("50.0.0.1", 1), ("50.0.0.1", 2)]}),
            (ValueError, {"listen": []}),
            (ValueError, {"listen": [("50.0.0.1", 1)], "bootnodes": ["enr:rubbish"]}),
            (LocalProtocolError, {"listen": [("50.0.0.1", 1)], "pairs": {"attnets": bytes(400)}}),
            (LocalProtocolError, {"listen": [("50.0.0.1", 1)], "pairs": {"id": b"v5"}}),
        ):
            with pytest.raises(error):
                async with node(sim, "a", **options):
                    raise AssertionError
    taken.close()


@simulated(seeds=(1,))
async def test_both_families_on_one_node(sim: Sim) -> None:
    async with (
        node(sim, "both", "50.0.1.1", "2a00::1") as both,
        node(sim, "four", "50.0.2.1") as four,
        node(sim, "six", "2a00:0:0:1::1") as six,
    ):
        assert {both.record.ip.compressed, both.record.ip6.compressed} == {"50.0.1.1", "2a00::1"}
        assert len((await four.ping(both.record)).recipient_ip) == 4
        assert len((await six.ping(both.record)).recipient_ip) == 16
        assert len((await both.ping(four.record)).recipient_ip) == 4
        assert len((await both.ping(six.record)).recipient_ip) == 16
        with pytest.raises(NoEndpoint, match=six.record.node_id.hex()[:16]):
            await four.ping(six.record)
        with pytest.raises(NoEndpoint):
            await six.ping(four.record)


@simulated(seeds=(1, 2, 3))
async def test_requests_at_once(sim: Sim) -> None:
    async with nodes(sim, 3) as (a, b, c):
        b.serve(b"echo", echo)
        done: list[bytes] = []

        async def talk(number: int) -> None:
            done.append(await a.talk(b.record, b"echo", bytes([number])))

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(talk, number)
                nursery.start_soon(a.ping, c.record)
        assert sorted(done) == [bytes([number]) for number in range(12)]


@simulated(seeds=(1,))
async def test_errors_say_which_node_and_why(sim: Sim) -> None:
    async with nodes(sim, 2, config=Discv5Config(max_requests_per_node=1)) as (a, b):
        await a.ping(b.record)
        sim.net.cut("n0", "n1")
        name = b.record.node_id.hex()[:16]
        with pytest.raises(NoAnswer, match=f"node {name} at 50.0.1.1 port {PORT} gave no answer to 3 packets"):
            await a.ping(b.record)
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                async def first() -> None:
                    with pytest.raises(NoAnswer):
                        await a.ping(b.record)

                nursery.start_soon(first)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(TooManyRequests, match=name):
                    await a.ping(b.record)
                scope.cancel()
        with pytest.raises(ValueError, match="32 bytes"):
            await a.lookup(b"x")
        with pytest.raises(ValueError, match="0 to 256"):
            await a.find_node(b.record, [257])
        with pytest.raises(LocalProtocolError, match="bytes"):
            await a.talk(b.record, b"p", bytes(2000))
        assert not a._waits


@simulated(seeds=(1,))
async def test_after_the_end_all_say_so(sim: Sim) -> None:
    told: list[str] = []
    async with nodes(sim, 1) as (b,), trio.open_nursery() as nursery:
        async with node(sim, "a", "50.0.9.1") as a:
            sim.net.cut("a", "n0")

            async def wait() -> None:
                with pytest.raises(LocalProtocolError, match="has ended"):
                    await a.ping(b.record)
                told.append("ping")

            async def look() -> None:
                with pytest.raises(LocalProtocolError, match="has ended"):
                    async for _ in random_nodes(a):
                        pass
                told.append("candidates")

            async def read() -> None:
                async with a.watch() as news:
                    async for _ in news:
                        pass
                told.append("watch")

            for work in (wait, look, read):
                nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
        await until(lambda: len(told) == 3, 6)
        for ask in (a.ping(b.record), a.lookup(bytes(32)), a.find_random(), a.talk(b.record, b"p", b"")):
            with pytest.raises(LocalProtocolError, match="has ended"):
                await ask
        with pytest.raises(LocalProtocolError, match="has ended"):
            async with a.watch():
                pass
        assert not a._waits and a.endpoints


# ---- handlers


@simulated(seeds=(1,))
async def test_handlers_that_raise_hang_or_return_rubbish(sim: Sim) -> None:
    async def raises(_, request: bytes) -> bytes:
        raise OSError("what a \x1b[31m day")

    async def group(_, request: bytes) -> bytes:
        raise ExceptionGroup("many", [ValueError(), KeyError()])

    async def hangs(_, request: bytes) -> bytes:
        await trio.sleep_forever()

    def returning(value):
        async def handler(_, request: bytes):
            return value

        return handler

    bad = {b"raises": raises, b"group": group, b"hangs": hangs}
    bad |= {b"r%d" % at: returning(value) for at, value in enumerate((None, "text", 5, [b"x"], bytes(2000), object()))}
    async with nodes(sim, 2) as (a, b):
        for name, handler in bad.items():
            b.serve(name, handler)
        b.serve(b"\xff\x00", echo)
        with pytest.raises(ValueError, match="served already"):
            b.serve(b"hangs", echo)
        for name in bad:
            with pytest.raises(NoAnswer):
                await a.talk(b.record, name, b"x")
        assert await a.talk(b.record, b"\xff\x00", b"x") == b"x"
        assert b.counters["talk handlers late"] == 3  # of three packets
        assert b.counters["talk handlers failed"] == 3 * (len(bad) - 1)
        assert a.counters["bad messages"] == 0
        await until(lambda: not b._node._talks, 2)


@simulated(seeds=(1,))
async def test_a_flood_of_slow_requests_is_bounded_and_over_soon(sim: Sim) -> None:
    running = peak = 0

    async def slow(_, request: bytes) -> bytes:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        try:
            await trio.sleep(0.3)  # virtual: this is the slow handler
        finally:
            running -= 1
        return b"late"

    async with nodes(sim, 2, config=Discv5Config(max_talks=4)) as (a, b):
        b.serve(b"slow", slow)
        answers: list[bytes] = []

        async def talk() -> None:
            answers.append(await a.talk(b.record, b"slow", b""))

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(talk)
        assert peak == 4 and answers == 12 * [b"late"]  # who was refused asked again: an empty answer would be final
        assert b.counters["talks refused"] >= 8
        await until(lambda: running == 0, 1)


# ---- news, predicates


@simulated(seeds=(1,))
async def test_news_come_to_all_who_watch(sim: Sim) -> None:
    async with nodes(sim, 1) as (a,), a.watch() as first, a.watch() as second:
        async with node(sim, "b", "50.0.9.1") as b:
            await b.ping(a.record)
            await until(a.nodes)
            a.set_record(attnets=bytes(8))
            record = b.record
        for news in (first, second):
            kinds = []
            while RecordChanged(a.record) not in kinds:
                kinds.append(await news.__anext__())
            told = [(each.news, each.node) for each in kinds if isinstance(each, NodeEvent)]
            assert (NodeNews.SESSION, record) in told and (NodeNews.LIVE, record) in told


@simulated(seeds=(1,))
async def test_a_reader_that_never_reads_or_has_closed_disturbs_nobody(sim: Sim) -> None:
    async with nodes(sim, 2) as (a, b), a.watch() as silent, a.watch() as closed, a.watch() as reading:
        await closed.aclose()
        for number in range(1500):
            a.set_record(attnets=number.to_bytes(8, "big"))
            while await reading.__anext__() != RecordChanged(a.record):
                pass
        assert a.counters["news missed"] >= 1500 + (1500 - 1024)
        assert isinstance(await a.ping(b.record), Pong)
        while not isinstance(oldest := await silent.__anext__(), RecordChanged):
            pass
        assert oldest.record.seq == a.record.seq - 1499  # the oldest stay


@simulated(seeds=(1,))
async def test_a_predicate_chooses_and_one_that_raises_raises_at_its_caller(sim: Sim) -> None:
    async with nodes(sim, 6) as running:
        a = running[1]
        await a.lookup(bytes(32))
        wanted = running[4].record.node_id
        assert [each.node_id for each in await a.find_random(lambda each: each.node_id == wanted)] == [wanted]
        with pytest.raises(ZeroDivisionError):
            await a.find_random(lambda each: 1 / 0)
        assert isinstance(await a.ping(running[2].record), Pong)


@simulated(seeds=(1,))
async def test_each_packet_is_traced(sim: Sim) -> None:
    packets: list[PacketTrace] = []
    async with nodes(sim, 1) as (b,), node(sim, "a", "50.0.9.1", trace=packets.append) as a:
        await a.ping(b.record)
        told = [(each.sent, each.form, each.message) for each in packets]
        assert told[:3] == [
            (True, Form.ORDINARY, None),
            (False, Form.WHOAREYOU, None),
            (True, Form.HANDSHAKE, Ping),
        ]
        assert (False, Form.ORDINARY, Pong) in told[3:]  # before or after it checks us
        assert {each.endpoint for each in packets} == {b.endpoints[0]}
        assert [each.at for each in packets] == sorted(each.at for each in packets)
        assert packets[1].size == 63 and packets[0].size < packets[2].size


@simulated(seeds=(1,))
async def test_a_tracer_that_raises_costs_its_own_news(sim: Sim) -> None:
    async with nodes(sim, 1) as (b,), node(sim, "a", "50.0.9.1", trace=lambda packet: 1 / 0) as a:
        assert isinstance(await a.ping(b.record), Pong)
        assert a.counters["tracers failed"] >= 4


# ---- what goes wrong below


class Deaf:
    """A socket that takes nothing, then something."""

    def __init__(self, real) -> None:
        self.real = real
        self.local = real.local
        self.dropped = 0
        self.refuse = True

    def send_to(self, data: bytes, to) -> bool:
        if self.refuse:
            self.dropped += 1
            return False
        return self.real.send_to(data, to)

    async def receive_many(self):
        return await self.real.receive_many()

    def close(self) -> None:
        self.real.close()


@simulated(seeds=(1,))
async def test_what_a_socket_refuses_is_counted_and_tried_again(sim: Sim) -> None:
    host = sim.net.host("deaf", "50.0.9.1")
    sockets = []

    def bind(ip: str, port: int) -> Deaf:
        sockets.append(Deaf(host.bind_udp(ip, port)))
        return sockets[0]

    async with (
        nodes(sim, 1) as (b,),
        open_discv5(identity("deaf"), listen=[("50.0.9.1", PORT)], platform=sim.platform("deaf"), bind=bind) as a,
    ):
        with pytest.raises(NoAnswer):
            await a.ping(b.record)
        assert a.counters["datagrams not sent"] == 3
        sockets[0].refuse = False
        assert isinstance(await a.ping(b.record), Pong)


async def test_errors_of_the_network_end_no_real_socket() -> None:
    """Asking a closed port makes the kernel report refusals; the next node is answered all the same."""
    async with open_discv5(identity("gone")) as gone:
        record = gone.record
    quick = Discv5Config(request_timeout=0.05, handshake_timeout=0.05, challenge_ttl=0.04)
    async with open_discv5(identity("a"), config=quick) as a, open_discv5(identity("b")) as b:
        with pytest.raises(NoAnswer):
            await a.ping(record)
        patient = 0
        while True:  # the machine may be slow
            try:
                assert isinstance(await a.ping(b.record), Pong)
            except NoAnswer:
                patient += 1
                assert patient < 50
            else:
                break


# ---- cancelled


async def _ping(a, b, c) -> None:
    await a.ping(b.record)


async def _talk(a, b, c) -> None:
    await a.talk(b.record, b"echo", bytes(1100))


async def _lookup(a, b, c) -> None:
    await a.lookup(bytes(32))


async def _many(a, b, c) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(a.ping, b.record)
            nursery.start_soon(a.find_node, c.record, [256, 255])


async def _watch(a, b, c) -> None:
    async with a.watch() as news:
        await a.ping(b.record)
        await news.__anext__()


async def _candidates(a, b, c) -> None:
    async with aclosing(random_nodes(a)) as source:
        await anext(source)


async def _cancelled_at(sim: Sim, step: int, operation) -> bool:
    async with nodes(sim, 3, pairs={"tcp": 4001}) as (a, b, c):
        b.serve(b"echo", echo)
        with trio.CancelScope() as scope:
            instrument = CancelAt(scope, step)
            trio.lowlevel.add_instrument(instrument)
            await operation(a, b, c)
        trio.lowlevel.remove_instrument(instrument)
        assert not a._waits and not a._watchers
        assert await a.talk(b.record, b"echo", b"all is well") == b"all is well"
        assert isinstance(await c.ping(a.record), Pong)
        await until(lambda: not a._node._walks and len(a._node._calls) == 0)
        return scope.cancelled_caught


@pytest.mark.parametrize("operation", [_ping, _talk, _lookup, _many, _watch, _candidates])
def test_cancelled_at_every_step(operation) -> None:
    assert run_sim(_cancelled_at, 1, 1, operation)
    for step in range(2, 200):
        if not run_sim(_cancelled_at, 1, step, operation):
            return
    raise AssertionError("the operation takes more than 200 steps")


async def _opened_at(sim: Sim, step: int) -> bool:
    host = sim.net.host("a", "50.0.9.1")
    async with LeakCheck({"ports": lambda: len(host.udp)}), nodes(sim, 1) as (b,):
        with trio.CancelScope() as scope:
            instrument = CancelAt(scope, step)
            trio.lowlevel.add_instrument(instrument)
            async with node(sim, "a", "50.0.9.1", bootnodes=[b.record]) as a:
                await a.ping(b.record)
        trio.lowlevel.remove_instrument(instrument)
        assert not host.udp
    return scope.cancelled_caught


def test_opening_and_closing_cancelled_at_every_step() -> None:
    for step in range(1, 200):
        if not run_sim(_opened_at, 1, step):
            return
    raise AssertionError("it takes more than 200 steps")


@simulated(seeds=(1,))
async def test_what_handlers_do_wrong_is_logged_in_short_lines(sim: Sim, caplog: pytest.LogCaptureFixture) -> None:
    async def raises(_, request: bytes) -> bytes:
        raise ValueError("\x1b[31m" + "x" * 10_000)

    async with nodes(sim, 2) as (a, b):
        b.serve(b"raises", raises)
        with caplog.at_level(logging.INFO, "pyp2p"):
            for _ in range(3):
                with pytest.raises(NoAnswer):
                    await a.talk(b.record, b"raises", b"")
        lines = [record.getMessage() for record in caplog.records]
        assert 0 < len(lines) <= 9 and all("\x1b" not in line and len(line) < 600 for line in lines)
