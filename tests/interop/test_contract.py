"""`pyp2p interop` under the contract of the public test suites: with itself and with each peer, by way of a real redis.

The peers know nothing of the contract: where one is the other side, the test speaks to redis for it, as its program in
the suites would.
"""

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
import yaml

from tests.interop import peers
from tests.interop.matrix import STACKS, Stack
from tests.interop.peers import open_peer, run_peer
from tests.interop.support import PATIENCE

# All stacks with go; the others show that nothing here is go's way only (the matrix has every stack with each of them).
# rust would not dial /wss: it checks certificates, and what listens here makes one that nobody vouches for.
PAIRS = [
    *(("go", stack) for stack in STACKS),
    *itertools.product(("rust", "js"), (STACKS[0], STACKS[-1])),
]
REDIS_ATTEMPTS = 5
KEY = "a5b50d5e"
LIST = f"{KEY}_listener_multiaddr"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A redis server; gives its port."""
    peers.require("redis-server")
    process, port = _start(tmp_path_factory.mktemp("redis"))
    with process:
        try:
            yield port
        finally:
            process.kill()
            process.communicate()


def _start(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """Redis cannot choose its port itself, and somebody else may take the one that we found: then another is tried."""
    said = ""
    for _ in range(REDIS_ATTEMPTS):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        flags = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        process = subprocess.Popen([*peers.command("redis-server"), *flags], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "Ready to accept connections" in line:
                return process, port
        process.communicate()
        if "Address already in use" not in said:
            break
    raise AssertionError(f"redis did not start:\n{said}")


@pytest.fixture
def store(server: int) -> Iterator[redis.Redis]:
    """A client of that server, which is empty."""
    with redis.Redis("127.0.0.1", server, protocol=2, decode_responses=True) as client:
        client.flushall()
        yield client


def _environment(store: redis.Redis, stack: Stack, **more: str) -> dict[str, str]:
    """What a suite sets for a part in a test of this stack."""
    port = store.connection_pool.connection_kwargs["port"]
    said = {"REDIS_ADDR": f"127.0.0.1:{port}", "TEST_KEY": KEY, "LISTENER_IP": "127.0.0.1", "DEBUG": "false"}
    if stack.transport == "quic":
        said["TRANSPORT"] = "quic-v1"
    else:
        said |= {"TRANSPORT": stack.transport, "SECURE_CHANNEL": stack.security, "MUXER": stack.muxer}
    return os.environ | said | more


async def _dial(store: redis.Redis, stack: Stack, **more: str) -> subprocess.CompletedProcess[bytes]:
    """Our dialer, run to its end."""
    return await trio.run_process(
        [sys.executable, "-m", "pyp2p", "interop"],
        env=_environment(store, stack, IS_DIALER="true", **more),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


@asynccontextmanager
async def _listening(store: redis.Redis, stack: Stack, **more: str) -> AsyncIterator[None]:
    """Our listener for the length of the block, ended as the suites do; it says nothing on standard output."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "pyp2p", "interop"],
        env=_environment(store, stack, IS_DIALER="false", **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        async with process.stdout, process.stderr:
            said = b""
            while not said.endswith(b"\n"):
                part = await process.stderr.receive_some()
                assert part, said.decode()
                said += part
            assert said.startswith(b"listening at "), said.decode()
            yield
            process.terminate()
            assert await process.wait() == 0
            assert await process.stdout.receive_some() == b""
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


def _check(done: subprocess.CompletedProcess[bytes]) -> None:
    """The dialer's answer is what the suites read."""
    assert done.returncode == 0, done.stderr.decode()
    said: dict[str, Any] = yaml.safe_load(done.stdout)
    assert list(said) == ["latency"]
    latency = said["latency"]
    assert list(latency) == ["handshake_plus_one_rtt", "ping_rtt", "unit"]
    assert 0 < latency["ping_rtt"] < latency["handshake_plus_one_rtt"] < PATIENCE * 1000
    assert latency["unit"] == "ms"


@pytest.mark.parametrize("stack", STACKS, ids=str)
async def test_with_ourselves(store: redis.Redis, stack: Stack) -> None:
    with trio.fail_after(PATIENCE):
        async with _listening(store, stack):
            _check(await _dial(store, stack))


def _until_asked(monitor: redis.client.Monitor, command: str) -> None:
    """Blocks until somebody asks redis for this."""
    while not monitor.next_command()["command"].startswith(command):
        pass


async def test_a_dialer_that_is_first_waits(store: redis.Redis) -> None:
    dialled = trio.Event()

    async def dial() -> None:
        _check(await _dial(store, STACKS[0]))
        dialled.set()

    with trio.fail_after(PATIENCE), store.monitor() as monitor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            await trio.to_thread.run_sync(_until_asked, monitor, f"BLPOP {LIST}", abandon_on_cancel=True)
            async with _listening(store, STACKS[0]):
                await dialled.wait()


async def test_what_an_earlier_run_left_is_replaced(store: redis.Redis) -> None:
    store.set(LIST, "by a listener that uses the key in another way")
    with trio.fail_after(PATIENCE):
        async with _listening(store, STACKS[0]):
            _check(await _dial(store, STACKS[0]))


async def test_on_every_interface_an_address_is_published_that_can_be_dialled(store: redis.Redis) -> None:
    with trio.fail_after(PATIENCE):
        async with _listening(store, STACKS[0], LISTENER_IP="0.0.0.0"):
            (address,) = store.lrange(LIST, 0, -1)
            assert not address.startswith("/ip4/0.0.0.0/")
            assert "/p2p/12D3KooW" in address
            _check(await _dial(store, STACKS[0]))


@pytest.mark.parametrize(("language", "stack"), PAIRS, indirect=["language"], ids=str)
async def test_we_dial(store: redis.Redis, language: str, stack: Stack) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, *stack.flags) as peer:
            store.rpush(LIST, peer.address)
            _check(await _dial(store, stack))


@pytest.mark.parametrize(("language", "stack"), PAIRS, indirect=["language"], ids=str)
async def test_they_dial(store: redis.Redis, language: str, stack: Stack) -> None:
    with trio.fail_after(PATIENCE):
        async with _listening(store, stack):
            (address,) = store.lrange(LIST, 0, -1)
            (seen,) = await run_peer(language, "ping", address, "--count", "1", *stack.flags)
            assert seen["n"] == 1
            assert seen["median_us"] > 0


@pytest.mark.parametrize(
    ("published", "code", "said"),
    [
        (None, 16, f"no listener published its address as {LIST}"),
        ("hello", 10, f"{LIST} in redis holds nothing to dial"),
        ("/ip4/0.0.0.0/tcp/1", 10, "cannot be dialled"),
        ("/ip4/127.0.0.1/tcp/1", 11, "connection refused"),
        ("/ip4/127.0.0.1/udp/1/quic-v1", 11, "quic-v1"),
    ],
)
async def test_a_dialer_that_fails_says_at_what(
    store: redis.Redis, published: str | None, code: int, said: str
) -> None:
    if published is not None:
        store.rpush(LIST, published)
    with trio.fail_after(PATIENCE):
        done = await _dial(store, STACKS[0], TEST_TIMEOUT_SECS="1" if published is None else "10")
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in " ".join(done.stderr.decode().split())


async def test_a_listener_without_the_dialers_security(store: redis.Redis) -> None:
    with trio.fail_after(PATIENCE):
        async with _listening(store, Stack("tcp", "tls", "yamux")):
            done = await _dial(store, Stack("tcp", "noise", "yamux"))
    assert (done.returncode, done.stdout) == (12, b"")
    assert b"failed at security_select" in done.stderr


async def test_a_key_that_holds_something_else(store: redis.Redis) -> None:
    store.set(LIST, "text")
    with trio.fail_after(PATIENCE):
        done = await _dial(store, STACKS[0])
    assert (done.returncode, done.stdout) == (10, b"")
    assert f"answered for {LIST}: WRONGTYPE" in " ".join(done.stderr.decode().split())


async def test_a_listener_that_nobody_ends(store: redis.Redis) -> None:
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [sys.executable, "-m", "pyp2p", "interop"],
            env=_environment(store, STACKS[0], IS_DIALER="false", TEST_TIMEOUT_SECS="1"),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (16, b"")
    assert b"nobody ended us within 1 s" in done.stderr.replace(b"\n  ", b" ")


async def test_logs_go_to_standard_error_alone(store: redis.Redis) -> None:
    with trio.fail_after(PATIENCE):
        async with _listening(store, STACKS[0]):
            done = await _dial(store, STACKS[0], DEBUG="true")
    _check(done)
    assert b"DEBUG" in done.stderr
