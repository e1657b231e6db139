"""Requests and responses between switches: what callers and handlers see."""

import dataclasses
from math import inf

import pytest
import trio

from pyp2p.errors import (
    Decline,
    LocalProtocolError,
    NetworkFailure,
    NotSpoken,
    PeerDeclined,
    ProtocolViolation,
    RequestFailed,
    RequestNotSendable,
)
from pyp2p.identify.pb.identify_pb2 import Identify
from pyp2p.io.guard import run_guarded
from pyp2p.reqresp.declare import Deadlines, Limits
from pyp2p.reqresp.rate import Quota, Rate
from pyp2p.reqresp.service import open_reqresp
from pyp2p.switch.service import Service
from pyp2p.testing import Sim, simulated
from tests.reqresp.support import LIST, against, duo, numbers, request_of, speaker
from tests.switch.support import node, until
from tests.unit.reqresp.support import BY_RANGE, FORKS, METADATA, PING, PROTOBUF, item

ONE = dataclasses.replace(LIST, least=1)
FREE = Rate(1e6, 1e6)


def quick(seconds: float, method=LIST):
    return dataclasses.replace(method, deadlines=Deadlines(seconds, seconds))


def quota(peer: Rate, total: Rate = FREE, method=LIST):
    return dataclasses.replace(method, quota=Quota(peer, total))


async def collected(response) -> list:
    return [chunk async for chunk in response]


# --- answers


@simulated()
async def test_chunks_come_one_after_another_and_then_the_end(sim: Sim) -> None:
    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, numbers)
        response = await client.reqresp.request(server.peer, LIST, b"\x05")
        assert response.peer == server.peer
        assert await collected(response) == [bytes((n,)) * 3 for n in range(5)]
        assert await collected(response) == []
        assert await collected(await client.reqresp.request(server.peer, LIST, b"\x09")) == []
        assert client.count("asked") == server.count("served") == 2
        assert not client.violations and not server.violations


@simulated(seeds=(1,))
async def test_each_codec_is_served_and_asked_by_its_declaration(sim: Sim) -> None:
    async def pong(connection, request):
        yield request[::-1]

    async def blocks(connection, request):
        for number in range(request[1]):
            yield FORKS[number % 2], bytes(100 + number)

    async def metadata(connection, request):
        assert request is None
        yield bytes(17)

    async def echo(connection, request):
        yield request

    async with duo(sim) as (client, server):
        for method, handler in ((PING, pong), (BY_RANGE, blocks), (METADATA, metadata), (PROTOBUF, echo)):
            server.reqresp.serve(method, handler)
        assert await client.reqresp.ask(server.peer, PING, b"12345678") == b"87654321"
        assert await client.reqresp.ask(server.peer, METADATA, None) == bytes(17)
        assert await client.reqresp.ask(server.peer, PROTOBUF, Identify(agent_version=b"x")) == Identify(
            agent_version=b"x"
        )
        response = await client.reqresp.request(server.peer, BY_RANGE, (7, 128))
        assert await collected(response) == [(FORKS[n % 2], bytes(100 + n)) for n in range(128)]


@simulated(seeds=(1,))
async def test_a_slow_reader_slows_the_server_and_is_not_on_the_deadline(sim: Sim) -> None:
    made = 0

    async def many(connection, request):
        nonlocal made
        for number in range(2000):
            made = number + 1
            yield bytes(1024)

    method = dataclasses.replace(quick(5), most=lambda _: 2000, ceiling=2000)
    patient = dataclasses.replace(method, deadlines=Deadlines(5, 10_000))
    async with duo(sim) as (client, server):
        server.reqresp.serve(patient, many)
        response = await client.reqresp.request(server.peer, method, b"x")
        await trio.sleep(100)
        assert 0 < made < 1500, "the window is full, the handler waits"
        assert len(await collected(response)) == 2000


@pytest.mark.parametrize("how", ["forgotten", "its connection ends"])
@simulated(seeds=(1,))
async def test_an_answer_that_nobody_reads_gives_its_place_back(sim: Sim, how: str) -> None:
    async def endless(connection, request):
        while True:
            yield bytes(1024)

    method = dataclasses.replace(LIST, most=lambda _: 10**6, ceiling=10**6)
    async with duo(sim) as (client, server):
        server.reqresp.serve(method, endless)
        answers = [await client.reqresp.request(server.peer, method, b"x") for _ in range(2)]
        assert client.reqresp.gauges()["asking"] == 2
        if how == "forgotten":
            answers.clear()
        else:
            await client.switch.disconnect(server.peer)
        await trio.sleep(1)
        assert client.idle()


@simulated()
async def test_closing_early_resets_and_ends_the_handler(sim: Sim) -> None:
    ended = []

    async def endless(connection, request):
        try:
            while True:
                yield bytes(1024)
        finally:
            ended.append(True)

    method = dataclasses.replace(LIST, most=lambda _: 10**6, ceiling=10**6)
    async with duo(sim) as (client, server):
        server.reqresp.serve(method, endless)
        async with await client.reqresp.request(server.peer, method, b"x") as response:
            async for chunk in response:
                assert len(chunk) == 1024
                break
        assert client.idle()
        await until(lambda: ended)
        assert await collected(response) == []


@simulated()
async def test_cancelling_a_read_resets_and_gives_the_place_back(sim: Sim) -> None:
    async def silent(connection, request):
        await trio.sleep(20)
        yield b"late"

    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, silent)
        for _ in range(5):
            with trio.move_on_after(1):
                await collected(await client.reqresp.request(server.peer, LIST, b"\x01"))
            assert client.idle()


@simulated(seeds=(1,))
async def test_a_handler_is_cancelled_when_the_asker_that_went_asks_again(sim: Sim) -> None:
    running = 0

    async def silent(connection, request):
        nonlocal running
        running += 1
        try:
            await trio.sleep(15)
            yield b"late"
        finally:
            running -= 1

    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, silent)
        for _ in range(50):
            (await client.reqresp.request(server.peer, LIST, b"\x01")).close()
            await trio.sleep(0.1)
            assert running <= 2
        assert not server.violations


@simulated(seeds=(1,))
async def test_two_readers_of_one_response_are_a_bug_of_the_second(sim: Sim) -> None:
    async def slow(connection, request):
        await trio.sleep(1)
        yield b"x"

    async with duo(sim) as (client, server), trio.open_nursery() as nursery:
        server.reqresp.serve(LIST, slow)
        response = await client.reqresp.request(server.peer, LIST, b"\x01")
        nursery.start_soon(collected, response)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await response.__anext__()


# --- the four failures


@simulated(seeds=(1,))
async def test_a_handler_that_declines_is_an_error_chunk_after_what_it_gave(sim: Sim) -> None:
    async def declines(connection, request):
        yield b"one"
        raise Decline(139, "no \x1b[2J more " + "x" * 400)

    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, declines)
        response = await client.reqresp.request(server.peer, LIST, b"\x03")
        assert await response.__anext__() == b"one"
        with pytest.raises(PeerDeclined) as caught:
            await response.__anext__()
        assert caught.value.code == 139
        assert caught.value.text.startswith("no \\x1b[2J more xxx")
        assert len(caught.value.text) < 300
        assert (caught.value.peer, caught.value.protocol) == (server.peer, LIST.protocol)
        assert client.count("PeerDeclined") == 1
        assert not client.violations


@pytest.mark.parametrize("failure", ["raises", "too many", "too large", "too few"])
@simulated(seeds=(1,))
async def test_a_handler_that_fails_is_a_server_error_without_its_secrets(sim: Sim, failure: str) -> None:
    async def fails(connection, request):
        if failure == "raises":
            raise KeyError("/secret/path")
        if failure == "too large":
            yield bytes(9)
        if failure == "too many":
            yield bytes(8)
            yield bytes(8)

    async with duo(sim) as (client, server):
        server.reqresp.serve(PING, fails)
        if failure == "too many":
            assert await client.reqresp.ask(server.peer, PING, bytes(8)) == bytes(8)
            return
        with pytest.raises(PeerDeclined) as caught:
            await client.reqresp.ask(server.peer, PING, bytes(8))
        assert (caught.value.code, caught.value.text) == (2, "internal error")
        assert server.count("crashed", PING) == 1


@simulated(seeds=(1,))
async def test_what_is_no_async_generator_is_a_handler_that_failed(sim: Sim) -> None:
    async def coroutine(connection, request):
        return [bytes(8)]

    def raises(connection, request):
        raise ValueError("secret")

    for handler in (coroutine, lambda connection, request: [bytes(8)], raises):
        async with duo(sim) as (client, server):
            server.reqresp.serve(PING, handler)
            with pytest.raises(PeerDeclined, match="internal error"):
                await client.reqresp.ask(server.peer, PING, bytes(8))
            assert server.count("crashed", PING) == 1


@simulated(seeds=(1,))
async def test_without_result_bytes_a_handler_that_declines_resets(sim: Sim) -> None:
    async def declines(connection, request):
        raise Decline(1)
        yield

    async with duo(sim) as (client, server):
        server.reqresp.serve(PROTOBUF, declines)
        with pytest.raises(NetworkFailure):
            await client.reqresp.ask(server.peer, PROTOBUF, Identify())


@simulated(seeds=(1,))
async def test_requests_that_cannot_be_sent_fail_before_anything_is(sim: Sim) -> None:
    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, numbers)
        for request in (b"", bytes(65)):
            with pytest.raises(RequestNotSendable):
                await client.reqresp.request(server.peer, LIST, request)
        with pytest.raises(RequestNotSendable):
            await client.reqresp.request(server.peer, METADATA, b"x")
        with pytest.raises(LocalProtocolError):
            await client.reqresp.ask(server.peer, LIST, b"\x02")
        assert not server.reqresp.counters
        assert not client.violations


@simulated(seeds=(1,))
async def test_no_connection_and_no_such_protocol_are_failures_of_nobody(sim: Sim) -> None:
    async with duo(sim) as (client, server):
        with pytest.raises(NotSpoken) as caught:
            await client.reqresp.ask(server.peer, PING, bytes(8))
        assert isinstance(caught.value, NetworkFailure)
        await client.switch.disconnect(server.peer)
        with pytest.raises(NetworkFailure) as lost:
            await client.reqresp.ask(server.peer, PING, bytes(8))
        assert not isinstance(lost.value, NotSpoken)
        assert not client.violations


@simulated()
async def test_a_connection_that_ends_in_between_is_a_network_failure(sim: Sim) -> None:
    async def silent(connection, request):
        yield b"one"
        await trio.sleep_forever()

    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, silent)
        response = await client.reqresp.request(server.peer, LIST, b"\x02")
        assert await response.__anext__() == b"one"
        await server.switch.disconnect(client.peer)
        with pytest.raises(NetworkFailure):
            await response.__anext__()
        assert await collected(response) == []


def test_all_failures_of_a_request_are_one_type_and_one_is_scored() -> None:
    assert {kind.__name__ for kind in RequestFailed.__subclasses__()} == {
        "NetworkFailure",
        "PeerDeclined",
        "ProtocolViolation",
        "RequestNotSendable",
    }


# --- places, deadlines, quotas


@simulated()
async def test_a_third_request_waits_here_until_one_is_over(sim: Sim) -> None:
    running = most = 0

    async def one_second(connection, request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        yield request

    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, one_second)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(18):
                nursery.start_soon(client.reqresp.ask, server.peer, ONE, b"\x01")
            await until(lambda: client.reqresp.gauges()["asking"] == 2)
            with pytest.raises(RequestNotSendable):
                await client.reqresp.ask(server.peer, ONE, b"\x01")
        assert most == 2
        assert 9 <= trio.current_time() - started < 12
        assert not server.violations


@simulated(seeds=(1,))
async def test_who_waits_for_a_place_is_on_the_deadline(sim: Sim) -> None:
    async def silent(connection, request):
        await trio.sleep(12)
        yield b"x"

    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, silent)
        busy = [await client.reqresp.request(server.peer, LIST, b"\x01") for _ in range(2)]
        started = trio.current_time()
        with pytest.raises(NetworkFailure):
            await client.reqresp.ask(server.peer, quick(3, ONE), b"\x01")
        assert trio.current_time() - started == pytest.approx(3, abs=0.1)
        for response in busy:
            response.close()


@simulated(seeds=(1,))
async def test_who_is_cancelled_while_waiting_leaves_no_place_behind(sim: Sim) -> None:
    async def silent(connection, request):
        await trio.sleep(5)
        yield b"x"

    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, silent)
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(client.reqresp.ask, server.peer, ONE, b"\x01")
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert client.idle()
        assert await client.reqresp.ask(server.peer, ONE, b"\x01") == b"x"


@simulated(seeds=(1,))
async def test_chunks_beyond_the_quota_are_delayed_and_none_is_lost(sim: Sim) -> None:
    served = quota(Rate(1, 4))
    async with duo(sim) as (client, server):
        server.reqresp.serve(dataclasses.replace(served, deadlines=Deadlines(1, 1)), numbers)
        started = trio.current_time()
        assert len(await collected(await client.reqresp.request(server.peer, LIST, b"\x0a"))) == 10
        assert trio.current_time() - started == pytest.approx(6, abs=0.5)
        assert await collected(await client.reqresp.request(server.peer, LIST, b"\x09")) == []
        assert trio.current_time() - started == pytest.approx(7, abs=0.5), "an empty answer is not free"


@simulated(seeds=(1,))
async def test_the_quota_of_all_delays_those_who_are_within_their_own(sim: Sim) -> None:
    method = quota(FREE, Rate(1, 2))
    async with duo(sim) as (client, server), speaker(sim, "second") as second:
        await second.switch.connect(server.switch.multiaddrs[0])
        server.reqresp.serve(method, numbers)
        started = trio.current_time()

        async def ask(node) -> None:
            assert len(await collected(await node.reqresp.request(server.peer, LIST, b"\x03"))) == 3

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, client)
            nursery.start_soon(ask, second)
        assert trio.current_time() - started == pytest.approx(4, abs=0.5)


@simulated(seeds=(1,))
async def test_who_goes_while_chunks_are_delayed_gives_back_what_it_took_from_all(sim: Sim) -> None:
    method = quota(FREE, Rate(1, 2))
    async with duo(sim) as (client, server), speaker(sim, "second") as second:
        await second.switch.connect(server.switch.multiaddrs[0])
        server.reqresp.serve(method, numbers)
        for _ in range(100):
            (await client.reqresp.request(server.peer, LIST, b"\x03")).close()
            await trio.lowlevel.checkpoint()
        started = trio.current_time()
        assert len(await collected(await second.reqresp.request(server.peer, LIST, b"\x02"))) == 2
        assert trio.current_time() - started < 6


@simulated(seeds=(1,))
async def test_no_work_is_done_for_who_went_while_it_was_delayed(sim: Sim) -> None:
    worked = 0

    async def works(connection, request):
        nonlocal worked
        worked += 1
        yield request

    async with duo(sim) as (client, server):
        server.reqresp.serve(quota(Rate(0.2, 1)), works)
        await client.reqresp.ask(server.peer, ONE, b"\x01")
        response = await client.reqresp.request(server.peer, ONE, b"\x01")
        await trio.sleep(1)
        response.close()
        await trio.sleep(20)
        assert worked == 1


@simulated(seeds=(1,))
async def test_who_has_the_last_chunk_may_ask_again_while_the_handler_tidies_up(sim: Sim) -> None:
    async def tidies(connection, request):
        try:
            yield request
        finally:
            await trio.sleep(5)

    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, tidies)
        for _ in range(5):
            assert await client.reqresp.ask(server.peer, ONE, b"\x01") == b"\x01"
        assert not server.violations


@simulated(seeds=(1,))
async def test_our_own_requests_keep_the_quota_towards_others(sim: Sim) -> None:
    ours = dataclasses.replace(quota(Rate(1, 4)), deadlines=Deadlines(10, 20))
    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, numbers)
        started = trio.current_time()
        for _ in range(3):
            assert len(await collected(await client.reqresp.request(server.peer, ours, b"\x04"))) == 4
        assert trio.current_time() - started == pytest.approx(8, abs=0.5)
        with pytest.raises(NetworkFailure):
            await client.reqresp.request(server.peer, dataclasses.replace(ours, deadlines=Deadlines(1, 1)), b"\x04")
        await trio.sleep(4)
        started = trio.current_time()
        await collected(await client.reqresp.request(server.peer, ours, b"\x04"))
        assert trio.current_time() - started < 0.5, "what was given up was given back"


@simulated(seeds=(1,))
async def test_quotas_can_be_off_for_measurements(sim: Sim) -> None:
    off = {"limits": Limits(quotas=False)}
    method = quota(Rate(0.001, 1), Rate(0.001, 1))
    async with duo(sim, off, off) as (client, server):
        server.reqresp.serve(method, numbers)
        for _ in range(10):
            assert len(await collected(await client.reqresp.request(server.peer, method, b"\x05"))) == 5


# --- admission and the end


@simulated(seeds=(1,))
async def test_an_admission_step_may_ask_over_the_connection_that_it_judges(sim: Sim) -> None:
    said = []
    early = dataclasses.replace(PING, before_admission=True)

    async def pong(connection, request):
        yield request

    async with speaker(sim, "server") as server, speaker(sim, "client") as client:
        server.reqresp.serve(early, pong)

        async def admit(connection) -> None:
            if connection.direction.outbound:
                said.append(await client.reqresp.ask(connection, early, b"12345678"))
            else:
                await until(lambda: server.count("served", early))

        for each in (client, server):
            each.switch.attach(Service("status", admit=admit))
        await client.switch.connect(server.switch.multiaddrs[0])
        assert said == [b"12345678"]


@simulated()
async def test_leaving_the_block_ends_what_is_under_way_both_ways(sim: Sim) -> None:
    ended = []

    async def silent(connection, request):
        yield b"one"
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    outcomes = []

    async def reads(response) -> None:
        async def work() -> None:
            await collected(response)

        outcomes.append(await run_guarded(work))

    async with node(sim, "server") as second, node(sim, "client") as first:
        async with trio.open_nursery() as nursery:
            async with open_reqresp(first) as asks, open_reqresp(second) as serves:
                serves.serve(LIST, silent)
                asks.serve(LIST, silent)
                connection = await first.connect(second.multiaddrs[0])
                response = await asks.request(connection, LIST, b"\x02")
                nursery.start_soon(reads, response)
                await until(lambda: serves.gauges()["serving"])
                await trio.sleep(0.5)
            with pytest.raises(LocalProtocolError):
                await asks.request(connection, LIST, b"\x02")
            with pytest.raises(LocalProtocolError):
                serves.serve(LIST, silent)
            assert asks.gauges()["asking"] == asks.gauges()["places"] == 0
        assert isinstance(outcomes[0], NetworkFailure)
        await until(lambda: ended)
        async with open_reqresp(second) as again:
            again.serve(LIST, numbers)


@simulated(seeds=(1,))
async def test_a_request_that_was_parked_until_the_end_is_reset(sim: Sim) -> None:
    asked = []

    async def notes(connection, request):
        asked.append(request)
        yield request

    async def admit(connection) -> None:
        await trio.sleep(3)

    async with speaker(sim, "client") as client, node(sim, "server") as second:
        second.attach(Service("slow", admit=admit))
        async with open_reqresp(second) as serves:
            serves.serve(LIST, notes)
            connection = await client.switch.connect(second.multiaddrs[0])
            response = await client.reqresp.request(connection, LIST, b"\x01")
            await trio.sleep(1)
        with pytest.raises(NetworkFailure):
            await collected(response)
        assert not asked


@simulated(seeds=(1,))
async def test_a_protocol_is_served_once_and_can_be_withdrawn(sim: Sim) -> None:
    async with duo(sim) as (client, server):
        server.reqresp.serve(LIST, numbers)
        with pytest.raises(ValueError):
            server.reqresp.serve(LIST, numbers)
        server.reqresp.withdraw(LIST)
        with pytest.raises(KeyError):
            server.reqresp.withdraw(LIST)
        await trio.sleep(1)
        with pytest.raises(NotSpoken):
            await client.reqresp.request(server.peer, LIST, b"\x01")


@simulated(seeds=(1,))
async def test_a_judge_of_violations_that_crashes_changes_nothing(sim: Sim) -> None:
    def judge(error) -> None:
        raise RuntimeError("judge")

    async def garbage(stream) -> None:
        await request_of(stream)
        await stream.send_all(item(b"", 4))

    async with against(sim, garbage, violated=judge) as (client, raw):
        with pytest.raises(ProtocolViolation):
            await collected(await client.reqresp.request(raw.peer, LIST, b"\x01"))
        assert client.count("crashed") == 1


def test_deadlines_are_never_infinite() -> None:
    with pytest.raises(ValueError):
        quick(inf)
