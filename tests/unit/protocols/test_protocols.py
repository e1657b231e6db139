"""Ping, perf and echo over trio's memory streams: both roles, and peers that break the rules."""

import os

import pytest
import trio
import trio.testing

from pyp2p.errors import WireError
from pyp2p.protocols.echo import serve_echo
from pyp2p.protocols.perf import run_perf, serve_perf
from pyp2p.protocols.ping import ping, serve_ping


@pytest.fixture
def pair() -> tuple:
    return trio.testing.memory_stream_pair()


async def test_ping_comes_back_until_the_end(pair, nursery) -> None:
    near, far = pair
    done = trio.Event()

    async def serve() -> None:
        await serve_ping(far)
        done.set()

    nursery.start_soon(serve)
    for _ in range(5):
        assert await ping(near, os.urandom) >= 0
    await near.send_eof()
    await done.wait()


@pytest.mark.parametrize("answer", [bytes(32), b"", b"x" * 31])
async def test_hostile_090_a_ping_that_is_answered_wrongly(pair, answer: bytes) -> None:
    near, far = pair
    await far.send_all(answer)
    await far.send_eof()
    with pytest.raises(WireError):
        await ping(near, lambda count: b"\x01" * count)


async def test_hostile_090_half_a_ping_ends_with_an_error(pair) -> None:
    near, far = pair
    await near.send_all(bytes(32 + 5))
    await near.send_eof()
    with pytest.raises(WireError):
        await serve_ping(far)


async def test_hostile_090_the_rest_of_a_ping_has_a_deadline(pair, autojump_clock) -> None:
    near, far = pair
    await near.send_all(bytes(5))
    with pytest.raises(trio.TooSlowError):
        await serve_ping(far)
    assert trio.current_time() == pytest.approx(10)


async def received(stream, size: int) -> bytes:
    got = b""
    while len(got) < size:
        chunk = await stream.receive_some(size - len(got))
        assert chunk
        got += chunk
    return got


@pytest.mark.parametrize("sizes", [[32], [64], [33, 31], [1] * 64, [31, 33, 32], [95, 1], [16, 80, 32]], ids=str)
async def test_hostile_090_pings_come_back_whatever_their_segments(pair, nursery, sizes: list[int]) -> None:
    near, far = pair
    nursery.start_soon(serve_ping, far)
    message = bytes(range(sum(sizes)))
    at = 0
    for size in sizes:
        await near.send_all(message[at : at + size])
        await trio.testing.wait_all_tasks_blocked()
        at += size
    assert await received(near, len(message)) == message


async def test_hostile_090_a_whole_ping_is_answered_before_the_next_is_complete(pair, nursery) -> None:
    near, far = pair
    nursery.start_soon(serve_ping, far)
    await near.send_all(b"a" * 32 + b"b")
    assert await received(near, 32) == b"a" * 32


async def test_hostile_090_pings_that_never_align_are_not_collected(nursery) -> None:
    there, back = trio.testing.memory_stream_one_way_pair()
    out, echoes = trio.testing.memory_stream_one_way_pair()
    nursery.start_soon(serve_ping, trio.StapledStream(out, back))
    echoed = 0
    await there.send_all(b"x")
    for _ in range(50):
        await there.send_all(bytes(32 * 100))
        await trio.testing.wait_all_tasks_blocked()
        echoed += len(await echoes.receive_some())
    assert echoed == 50 * 3200


async def test_hostile_090_an_echo_that_is_not_taken_has_a_deadline(autojump_clock) -> None:
    there, back = trio.testing.memory_stream_one_way_pair()
    out, _ = trio.testing.lockstep_stream_one_way_pair()
    await there.send_all(bytes(32))
    with pytest.raises(trio.TooSlowError):
        await serve_ping(trio.StapledStream(out, back))
    assert trio.current_time() == pytest.approx(10)


async def test_echo(pair, nursery) -> None:
    near, far = pair
    nursery.start_soon(serve_echo, far)
    for message in (b"a", b"b" * 1000):
        await near.send_all(message)
        got = b""
        while len(got) < len(message):
            got += await near.receive_some()
        assert got == message
    await near.send_eof()


@pytest.mark.parametrize(("upload", "download"), [(0, 0), (1, 0), (0, 1), (700_000, 300_001)])
async def test_perf(pair, nursery, upload: int, download: int) -> None:
    near, far = pair
    seen: list[tuple[int, int]] = []
    nursery.start_soon(serve_perf, far)
    result = await run_perf(near, upload, download, lambda up, down: seen.append((up, down)))
    assert (result.upload_bytes, result.download_bytes) == (upload, download)
    assert result.upload_seconds >= 0
    assert result.download_seconds >= 0
    assert (seen[-1] if seen else (0, 0)) == (upload, download)


@pytest.mark.parametrize("sent", [9, 11])
async def test_perf_with_a_server_that_cannot_count(pair, sent: int) -> None:
    near, far = pair
    await far.send_all(bytes(sent))
    await far.send_eof()
    with pytest.raises(WireError):
        await run_perf(near, 0, 10)


async def test_perf_without_a_download_size(pair) -> None:
    near, far = pair
    await near.send_all(bytes(7))
    await near.send_eof()
    with pytest.raises(WireError):
        await serve_perf(far)
