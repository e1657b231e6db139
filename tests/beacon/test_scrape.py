"""The listener for Prometheus: what it answers, and that no client can hold it up."""

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import h11
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pyp2p.beacon.metrics import node_registry
from pyp2p.beacon.scrape import DEADLINE, MAX_CONNECTIONS, MAX_HEAD, MetricsPages, serve_metrics
from tests.unit.beacon.support import node

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Counting:
    """A collector that counts how often it is asked, and raises when it is told to."""

    def __init__(self, fails: bool = False) -> None:
        self.asked = 0
        self.fails = fails

    def collect(self) -> list[GaugeMetricFamily]:
        self.asked += 1
        if self.fails:
            raise RuntimeError("the application's\nown fault")
        return [GaugeMetricFamily("asked", "how often", value=self.asked)]


def counted(fails: bool = False) -> tuple[MetricsPages, Counting]:
    registry, collector = CollectorRegistry(), Counting(fails)
    registry.register(collector)
    return MetricsPages(registry), collector


def request(path: str = "/metrics", method: str = "GET", accept: str = "*/*") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode("latin-1")


class Answer:
    """A whole answer, which is all that came on its connection."""

    def __init__(self, raw: bytes, method: str = "GET") -> None:
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
        http.send(h11.EndOfMessage())
        http.receive_data(raw)
        http.receive_data(b"")
        response = http.next_event()
        assert isinstance(response, h11.Response)
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}
        self.body = b""
        while isinstance(event := http.next_event(), h11.Data):
            self.body += event.data
        assert isinstance(event, h11.EndOfMessage)
        assert isinstance(http.next_event(), h11.ConnectionClosed)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    found = b""
    async for data in stream:
        found += data
    return found


async def ask(pages: MetricsPages, raw: bytes, *, chunk: int = 1 << 20, method: str = "GET") -> Answer:
    """Send `raw` in pieces and read all that comes back, as a client that closes after the answer."""
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pages.serve, server)
        for at in range(0, len(raw), chunk):
            await client.send_all(raw[at : at + chunk])
        found = await read_all(client)
        await client.aclose()
    return Answer(found, method)


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, int]]:
    """A listener on loopback, and its address."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(serve_metrics, "127.0.0.1", 0, node_registry(node))
            yield address
            nursery.cancel_scope.cancel()


async def test_prometheus_gets_the_metrics_of_a_node_over_tcp() -> None:
    async with listening() as (host, port), await trio.open_tcp_stream(host, port) as client:
        await client.send_all(request(accept=PROMETHEUS))
        answer = Answer(await read_all(client))
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    found = {
        sample.name: sample.value for family in parse_openmetrics(answer.body.decode()) for sample in family.samples
    }
    assert found["libp2p_peers"] == 2


async def test_who_asks_for_nothing_special_gets_text() -> None:
    answer = await ask(MetricsPages(node_registry(node)), request())
    assert (answer.status, answer.headers["content-type"]) == (200, TEXT)
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["connection"] == "close"
    assert "libp2p_peers" in {family.name for family in parse_text(answer.body.decode())}


@pytest.mark.parametrize("chunk", [1, 7])
async def test_a_request_may_come_in_pieces(chunk: int) -> None:
    pages, _ = counted()
    assert (await ask(pages, request(), chunk=chunk)).status == 200


async def test_a_client_of_http_1_0_and_a_query_are_served_too() -> None:
    pages, _ = counted()
    assert (await ask(pages, b"GET /metrics?name=x HTTP/1.0\r\n\r\n")).status == 200


async def test_head_gives_the_head_alone() -> None:
    pages, _ = counted()
    whole = await ask(pages, request())
    head = await ask(pages, request(method="HEAD"), method="HEAD")
    assert (head.status, head.headers, head.body) == (200, whole.headers, b"")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/..", "/debug/pprof", "http://localhost/metrics", "*"])
async def test_there_is_nothing_else(path: str) -> None:
    pages, collector = counted()
    assert (await ask(pages, request(path))).status == 404
    assert collector.asked == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
async def test_other_methods_are_told_which_there_are(method: str) -> None:
    pages, collector = counted()
    answer = await ask(pages, request(method=method))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert collector.asked == 0


async def test_a_second_request_on_a_connection_is_not_answered() -> None:
    pages, collector = counted()
    assert (await ask(pages, request() + request())).status == 200
    assert collector.asked == 1


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as raised:
            await serve_metrics("127.0.0.1", port, CollectorRegistry())
    assert raised.value.errno == errno.EADDRINUSE
    assert f"metrics: cannot listen on 127.0.0.1 port {port}: the port is taken" in str(raised.value)


@pytest.mark.parametrize("port", [-1, 65536])
async def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ValueError):
        await serve_metrics("127.0.0.1", port, CollectorRegistry())


async def test_a_reader_of_values_that_fails_costs_the_answer_and_is_logged(caplog) -> None:
    pages, collector = counted(fails=True)
    answer = await ask(pages, request())
    assert (answer.status, answer.body) == (500, b"")
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (
        "ERROR",
        r"metrics failed error=RuntimeError: the application's\nown fault",
    )
    collector.fails = False
    assert (await ask(pages, request())).status == 200


# --- hostile clients


@pytest.mark.hostile
@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\n \x00: b\r\n\r\n",
        b"\r\n" * 40 + b"x\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_a_bad_one(raw: bytes) -> None:
    pages, collector = counted()
    assert (await ask(pages, raw)).status == 400
    assert collector.asked == 0


@pytest.mark.hostile
@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 400), (60_000, 400)])
async def test_a_head_has_a_bound_and_who_breaks_it_is_told(over: int, status: int) -> None:
    start, end = b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: ", b"\r\n\r\n"
    pages, _ = counted()
    raw = start + b"x" * (MAX_HEAD + over - len(start) - len(end)) + end
    assert (await ask(pages, raw)).status == status


@pytest.mark.hostile
@pytest.mark.parametrize("version", ["1.x", "x", "", "99", "2.0.0", "9" * 5000, "1.0.0\x7f", "1.0.0;escaping=evil"])
@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
async def test_a_version_that_there_is_not_gets_a_page_and_no_place_in_memory(kind: str, version: str) -> None:
    pages, _ = counted()
    raw = request(accept=f"{kind}; version={version}")
    assert (await ask(pages, raw)).status == 200
    for n in range(50):
        await ask(pages, request(accept=f"{kind}; version=1.0.{n}"))
    assert len(pages._pages) <= 4


@pytest.mark.hostile
async def test_many_scrapes_make_one_page_a_second(autojump_clock) -> None:
    pages, collector = counted()
    for _ in range(20):
        await ask(pages, request())
    assert collector.asked == 1
    await trio.sleep(1)
    assert b"asked 2.0" in (await ask(pages, request())).body


@pytest.mark.hostile
@pytest.mark.parametrize("sent", [b"", b"GET /metrics HT", request()])
async def test_who_sends_or_reads_nothing_more_is_gone_in_ten_seconds(autojump_clock, sent: bytes) -> None:
    pages, _ = counted()
    client, server = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pages.serve, server)
        if sent:
            await client.send_all(sent)
        await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() <= DEADLINE
    assert not pages._open
    await client.aclose()


@pytest.mark.hostile
async def test_a_byte_a_second_does_not_stretch_the_ten_seconds(autojump_clock) -> None:
    pages, _ = counted()
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pages.serve, server)
        await trio.testing.wait_all_tasks_blocked()
        with suppress(trio.BrokenResourceError):
            for byte in request():
                await client.send_all(bytes([byte]))
                await trio.sleep(1)
    assert trio.current_time() <= DEADLINE + 1
    await client.aclose()


@pytest.mark.hostile
async def test_who_holds_all_places_keeps_nobody_from_reading(autojump_clock) -> None:
    pages, _ = counted()
    idle = [trio.testing.memory_stream_pair() for _ in range(MAX_CONNECTIONS)]
    async with trio.open_nursery() as nursery:
        for _, server in idle:
            nursery.start_soon(pages.serve, server)
            await trio.testing.wait_all_tasks_blocked()
        assert (await ask(pages, request())).status == 200
        assert trio.current_time() == 0
        assert await idle[0][0].receive_some() == b""  # the oldest made room
        assert trio.current_time() == 0
        assert len(pages._open) == MAX_CONNECTIONS - 1
    for client, _ in idle:
        await client.aclose()


@pytest.mark.hostile
async def test_a_thousand_clients_at_once_hold_eight_places(autojump_clock) -> None:
    pages, _ = counted()
    clients = []
    most = 0
    async with trio.open_nursery() as nursery:
        for _ in range(1_000):
            client, server = trio.testing.memory_stream_pair()
            clients.append(client)
            nursery.start_soon(pages.serve, server)
        for _ in range(5):
            await trio.testing.wait_all_tasks_blocked()
            most = max(most, len(pages._open))
        nursery.cancel_scope.cancel()
    assert most == MAX_CONNECTIONS
    for client in clients:
        await client.aclose()


@pytest.mark.hostile
async def test_clients_that_vanish_do_not_end_the_listener() -> None:
    async with listening() as (host, port):
        for sent in (b"", b"GET", request(), b"\x00" * 20_000):
            client = await trio.open_tcp_stream(host, port)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            if sent:
                await client.send_all(sent)
            await client.aclose()
        async with await trio.open_tcp_stream(host, port) as client:
            await client.send_all(request())
            assert Answer(await read_all(client)).status == 200


@pytest.mark.hostile
@pytest.mark.parametrize("start", [request(), b"x" * MAX_HEAD])
async def test_what_comes_after_a_request_is_read_so_that_it_cannot_destroy_the_answer(start: bytes) -> None:
    pages, _ = counted()
    client, server = trio.testing.lockstep_stream_pair()  # a sender waits until all was read, or fails
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pages.serve, server)
            nursery.start_soon(client.send_all, start + b"y" * 20_000)
            answer = Answer(await read_all(client))
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()
    assert answer.status == (400 if start.startswith(b"x") else 200)


@pytest.mark.hostile
@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_no_bytes_make_it_raise(pieces: list[bytes]) -> None:
    async def main() -> None:
        pages, _ = counted()
        client, server = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pages.serve, server)
            for piece in pieces:
                await client.send_all(piece)
            await client.send_eof()
            found = await read_all(client)
        await client.aclose()
        assert found == b"" or found.startswith(b"HTTP/1.1 ")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
