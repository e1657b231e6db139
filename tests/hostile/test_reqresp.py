"""Requests and answers that are too much, too slow or none: cases 78, 80, 81, 83 and 84, over whole switches."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from pyp2p.errors import NetworkFailure, PeerDeclined, ProtocolViolation
from pyp2p.reqresp.core import INVALID_REQUEST, request_bytes
from pyp2p.reqresp.declare import Deadlines, Limits
from pyp2p.reqresp.frames import IDENTIFIER
from pyp2p.reqresp.rate import Quota, Rate
from pyp2p.reqresp.service import ReqResp, open_reqresp
from pyp2p.switch.stream import StreamReset
from pyp2p.switch.switch import Switch
from pyp2p.testing import Sim, simulated
from tests.hostile.arena import Arena, arena
from tests.reqresp.support import LIST, numbers, request_of, rest_of
from tests.switch.support import node, until
from tests.unit.reqresp.support import BY_RANGE, FORKS, METADATA, PING, item

pytestmark = pytest.mark.hostile

PINGED = request_bytes(PING, bytes(8))
MANY = dataclasses.replace(LIST, most=lambda _: 1000, ceiling=1000)


class Scene:
    """A victim with requests and responses, and an attacker's switch that is connected to it."""

    def __init__(self, place: Arena, attacker: Switch, reqresp: ReqResp, violations: list[ProtocolViolation]) -> None:
        self.place = place
        self.attacker = attacker
        self.reqresp = reqresp
        self.violations = violations

    async def open(self, method=LIST):
        return await self.attacker.open_stream(self.place.victim.peer, method.protocol)

    async def says(self, data: bytes, method=LIST) -> bytes:
        """What the victim answers to a request of these bytes."""
        async with await self.open(method) as stream:
            await stream.send_all(data)
            await stream.send_eof()
            return await rest_of(stream)

    def blamed(self) -> set:
        return {error.peer for error in self.violations}


@asynccontextmanager
async def scene(sim: Sim, **options) -> AsyncIterator[Scene]:
    violations: list[ProtocolViolation] = []
    async with arena(sim) as place, open_reqresp(place.victim, violated=violations.append, **options) as reqresp:
        async with node(sim, "attacker") as attacker:
            await attacker.connect(place.address)
            yield Scene(place, attacker, reqresp, violations)
            await place.check_bystander()
        with trio.move_on_after(60):
            while any(reqresp.gauges()[what] for what in ("asking", "places", "serving")):
                await trio.sleep(0.1)
        gauges = reqresp.gauges()
        assert not (gauges["asking"] or gauges["places"] or gauges["serving"]), gauges
        await until(lambda: len(place.victim.connections()) == 1)


async def pong(connection, request):
    yield bytes(8) if request is None else request


# --- the victim is asked


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("11 bytes of length", b"\x80" * 10 + b"\x01"),
        ("2**64 - 1", b"\xff" * 9 + b"\x01"),
        ("over the bound", b"\x09"),
        ("nothing for something", b"\x00" + IDENTIFIER),
        ("no request at all", b""),
        ("bytes after it", PINGED + b"\x00"),
        ("one byte short", PINGED[:-1]),
        ("padding", b"\x08" + IDENTIFIER + b"\xfe\x00\x00\x00" * 10_000),
        ("bad checksum", b"\x08" + IDENTIFIER + b"\x01\x0c\x00\x00" + bytes(12)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@simulated(seeds=(1,))
async def test_hostile_078_080_081_082_a_bad_request_is_told_so_and_scored(sim: Sim, name: str, data: bytes) -> None:
    async with scene(sim) as talk:
        talk.reqresp.serve(PING, pong)
        try:
            answer = await talk.says(data, PING)
        except trio.BrokenResourceError:  # the victim reads no more, and what it is still sent is answered so
            assert len(data) > 1000
        else:
            assert answer[:1] == bytes((INVALID_REQUEST,))
        assert [error.peer for error in talk.violations] == [talk.attacker.peer]
        assert await talk.says(PINGED, PING) == b"\x00" + PINGED
        assert not talk.reqresp.counters["crashed", PING.protocol]


@simulated(seeds=(1,))
async def test_hostile_078_nothing_is_read_behind_a_bad_length(sim: Sim) -> None:
    async with scene(sim) as talk:
        talk.reqresp.serve(PING, pong)
        stream = await talk.open(PING)
        await stream.send_all(b"\x55")  # and no end
        with trio.fail_after(1):
            assert (await stream.receive_some())[:1] == bytes((INVALID_REQUEST,))
        stream.reset()


@simulated(seeds=(1,))
async def test_hostile_080_a_third_request_at_once_is_reset_and_the_two_go_on(sim: Sim) -> None:
    async def slow(connection, request):
        await trio.sleep(5)
        yield request

    async with scene(sim) as talk:
        talk.reqresp.serve(LIST, slow)
        request = request_bytes(LIST, b"\x01")
        answers = []

        async def ask() -> None:
            answers.append(await talk.says(request))

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ask)
            await until(lambda: talk.reqresp.gauges()["serving"] == 2)
            for _ in range(5):
                with pytest.raises(StreamReset):
                    await talk.says(request)
            assert talk.reqresp.gauges()["serving"] == 2
        assert answers == [item(b"\x01")] * 2
        assert talk.reqresp.counters["too many at once", LIST.protocol] == len(talk.violations) == 5
        assert await talk.says(request) == item(b"\x01")


@pytest.mark.parametrize("method", [LIST, METADATA], ids=["with content", "without"])
@pytest.mark.parametrize("every", [1.0, 1e9], ids=["one byte a second", "never an end"])
@simulated(seeds=(1,))
async def test_hostile_080_a_request_that_does_not_end_is_reset_at_the_total_deadline(sim: Sim, every, method) -> None:
    async with scene(sim) as talk:
        talk.reqresp.serve(method, pong)
        stream = await talk.open(method)
        started = trio.current_time()

        async def drip() -> None:
            await stream.send_all(b"" if method is METADATA else b"\x40")
            while method is LIST:
                await trio.sleep(min(every, 20))
                await stream.send_all(b"x")
            await stream.receive_some()

        with trio.fail_after(30), pytest.raises(StreamReset):
            await drip()
        assert talk.reqresp.counters["request too slow", method.protocol] == 1
        assert 9.5 < trio.current_time() - started < 25
        assert talk.reqresp.gauges()["serving"] == 0
        assert not talk.violations, "slow is not wrong"


@simulated(seeds=(1,))
async def test_hostile_080_pings_without_end_are_delayed_and_none_is_refused(sim: Sim) -> None:
    method = dataclasses.replace(PING, quota=Quota(Rate(0.2, 2), Rate(100, 100)))
    async with scene(sim) as talk:
        talk.reqresp.serve(method, pong)
        started = trio.current_time()

        async def spam() -> None:
            for _ in range(20):
                assert await talk.says(PINGED, PING) == b"\x00" + PINGED

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spam)
            nursery.start_soon(spam)
        assert trio.current_time() - started == pytest.approx(38 * 5, abs=1)
        assert not talk.violations


@simulated(seeds=(1,))
async def test_hostile_080_the_quota_of_one_peer_costs_no_other_any_time(sim: Sim) -> None:
    method = dataclasses.replace(PING, quota=Quota(Rate(0.2, 2), Rate(100, 100)))
    async with scene(sim) as talk, trio.open_nursery() as nursery:
        talk.reqresp.serve(method, pong)
        for _ in range(2):
            nursery.start_soon(_spam_for_ever, talk)
        await trio.sleep(30)
        async with await talk.place.bystander.open_stream(talk.place.victim.peer, PING.protocol) as stream:
            with trio.fail_after(1):
                await stream.send_all(PINGED)
                await stream.send_eof()
                assert await rest_of(stream) == b"\x00" + PINGED
        nursery.cancel_scope.cancel()


async def _spam_for_ever(talk: Scene) -> None:
    while True:
        await talk.says(PINGED, PING)


@simulated(seeds=(1,))
async def test_hostile_080_requests_that_are_reset_at_once_hold_nothing(sim: Sim) -> None:
    running = most = 0

    async def slow(connection, request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await trio.sleep(20)
            yield request
        finally:
            running -= 1

    method = dataclasses.replace(LIST, quota=Quota(Rate(100, 100), Rate(1000, 1000)))
    async with scene(sim) as talk:
        talk.reqresp.serve(method, slow)
        data = request_bytes(LIST, b"\x01")
        for number in range(2000):
            stream = await talk.open()
            await stream.send_all(data)
            await stream.send_eof()
            if number % 3:
                await trio.sleep(0.01)
            stream.reset()
            assert talk.reqresp.gauges()["serving"] <= 2
        assert most <= 2
        assert not talk.violations, "who gave up its requests has none at once"


@simulated(seeds=(1,))
async def test_hostile_080_who_asks_for_much_and_reads_nothing_loses_the_stream(sim: Sim) -> None:
    made = 0

    async def much(connection, request):
        nonlocal made
        for _ in range(1000):
            made += 1
            yield bytes(1024)

    async with scene(sim) as talk:
        talk.reqresp.serve(MANY, much)
        stream = await talk.open(MANY)
        await stream.send_all(request_bytes(MANY, b"x"))
        await stream.send_eof()
        started = trio.current_time()
        await until(lambda: talk.reqresp.counters["answer too slow", MANY.protocol])
        assert 29 < trio.current_time() - started < 32
        assert made < 1000
        stream.reset()


# --- the victim asks


@asynccontextmanager
async def asking(sim: Sim, act, method=LIST, **options) -> AsyncIterator[Scene]:
    """The victim asks an attacker that answers by `act(stream)`."""
    async with scene(sim, **options) as talk:
        talk.attacker.mount(method.protocol, act)
        await trio.sleep(1)  # the victim is told
        yield talk


def saying(*parts: bytes, pause: float = 0, end: bool = True):
    async def act(stream) -> None:
        await request_of(stream)
        for part in parts:
            await stream.send_all(part)
            await trio.sleep(pause)
        if not end:
            stream.reset()

    return act


async def read(talk: Scene, method, request) -> list:
    response = await talk.reqresp.request(talk.attacker.peer, method, request)
    return [chunk async for chunk in response]


BLOCK = b"\x00" + FORKS[0]


@pytest.mark.parametrize(
    ("name", "method", "answer"),
    [
        ("no answer", PING, b""),
        ("n - 1 bytes and the end", PING, (b"\x00" + PINGED)[:-1]),
        ("a frame after the payload", PING, b"\x00" + PINGED + b"\xfe\x00\x00\x00"),
        ("padding", PING, b"\x00\x08" + IDENTIFIER + b"\xfe\x00\x00\x00" * 10_000),
        ("two for one", PING, (b"\x00" + PINGED) * 2),
        ("a reserved result", PING, b"\x04"),
        ("an error text of 1 MiB", PING, b"\x02\x80\x80\x40"),
        ("an unknown context", BY_RANGE, b"\x00\xde\xad\xbe\xef"),
        ("over 10 MiB", BY_RANGE, BLOCK + b"\x81\x80\x80\x05"),
        (
            "10 MiB in few bytes",
            BY_RANGE,
            BLOCK + b"\x80\x80\x80\x05" + IDENTIFIER + b"\x00\x09\x00\x00" + bytes(4) + b"\x80\x80\x04" + bytes(2),
        ),
        ("a cut context", BY_RANGE, b"\x00\x6a"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@simulated(seeds=(1,))
async def test_hostile_081_083_a_bad_answer_is_a_violation_of_that_peer(sim: Sim, name, method, answer) -> None:
    async with asking(sim, saying(answer), method) as talk:
        with pytest.raises(ProtocolViolation) as caught:
            await read(talk, method, (1, 1) if method is BY_RANGE else bytes(8))
        assert caught.value.peer == talk.attacker.peer
        assert talk.violations == [caught.value]


@simulated(seeds=(1,))
async def test_hostile_083_two_chunks_for_the_one_that_was_asked_for_are_a_violation(sim: Sim) -> None:
    async with asking(sim, saying((b"\x00" + PINGED) * 2), PING) as talk:
        with pytest.raises(ProtocolViolation):
            await talk.reqresp.ask(talk.attacker.peer, PING, bytes(8))
        assert talk.blamed() == {talk.attacker.peer}


@simulated(seeds=(1,))
async def test_hostile_083_chunks_before_too_many_of_them_are_given(sim: Sim) -> None:
    async with asking(sim, saying(*(item(b"%d" % n) for n in range(5)))) as talk:
        response = await talk.reqresp.request(talk.attacker.peer, LIST, b"\x03")
        got = []
        try:
            async for chunk in response:
                got.append(chunk)
        except ProtocolViolation:
            assert talk.blamed() == {talk.attacker.peer}
        assert got == [b"0", b"1", b"2"]


@pytest.mark.parametrize("text", [b"\x1b[2J\r\n", b"\xff\xfe", b"x" * 256], ids=["ESC", "no UTF-8", "256 bytes"])
@simulated(seeds=(1,))
async def test_hostile_083_an_error_text_is_shown_escaped_and_is_no_violation(sim: Sim, text: bytes) -> None:
    async with asking(sim, saying(item(text, 139))) as talk:
        with pytest.raises(PeerDeclined) as caught:
            await read(talk, LIST, b"\x03")
        assert caught.value.text.isprintable() and caught.value.text.isascii()
        assert str(caught.value).isprintable()
        assert not talk.violations


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("nothing ever", saying(pause=1e3)),
        ("one chunk per 9.9 s", saying(*[item(b"x")] * 60, pause=9.9)),
        ("one byte a second", saying(*[b"\x00", b"\x40", *[b"x"] * 63], pause=1.0)),
        ("after our deadline", saying(b"", item(b"x"), pause=31)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@simulated(seeds=(1,))
async def test_hostile_084_an_answer_that_takes_too_long_ends_at_the_total_deadline(sim: Sim, name, act) -> None:
    async def slow(stream) -> None:
        if name == "nothing ever":
            await trio.sleep(100)
        await act(stream)

    async with asking(sim, slow) as talk:
        started = trio.current_time()
        with pytest.raises(NetworkFailure) as caught:
            await read(talk, LIST, b"\x3c")
        assert trio.current_time() - started == pytest.approx(LIST.deadlines.response, abs=0.5)
        assert caught.value.peer == talk.attacker.peer
        assert not talk.violations
        await trio.sleep(40)  # what comes late goes nowhere


@simulated(seeds=(1,))
async def test_hostile_084_a_reset_inside_a_chunk_is_a_network_failure(sim: Sim) -> None:
    async with asking(sim, saying(item(b"one") + item(b"two")[:3], pause=1, end=False)) as talk:
        response = await talk.reqresp.request(talk.attacker.peer, LIST, b"\x03")
        assert await response.__anext__() == b"one"
        with pytest.raises(NetworkFailure):
            await response.__anext__()
        assert not talk.violations


@simulated(seeds=(1,))
async def test_hostile_084_only_who_broke_the_rule_is_blamed(sim: Sim) -> None:
    async with asking(sim, saying(b"\x05")) as talk, open_reqresp(talk.place.bystander) as honest:
        honest.serve(LIST, numbers)
        await trio.sleep(1)
        for _ in range(5):
            with pytest.raises(ProtocolViolation):
                await read(talk, LIST, b"\x02")
            response = await talk.reqresp.request(talk.place.bystander.peer, LIST, b"\x02")
            assert len([chunk async for chunk in response]) == 2
        assert talk.blamed() == {talk.attacker.peer}


@simulated(seeds=(1,))
async def test_hostile_084_a_peer_that_never_answers_does_not_collect_our_requests(sim: Sim) -> None:
    async def silent(stream) -> None:
        await trio.sleep(1000)

    method = dataclasses.replace(LIST, deadlines=Deadlines(5, 5))
    async with asking(sim, silent, limits=Limits(waiting=3)) as talk:
        failures = []

        async def ask() -> None:
            try:
                await read(talk, method, b"\x01")
            except (NetworkFailure, ProtocolViolation) as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert len(failures) == 5
        assert not talk.violations
        assert talk.reqresp.gauges()["places"] == 0
