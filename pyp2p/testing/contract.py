"""Checks that any stream, and any piece of work, can be held against.

Rules: the stream contract is trio's own and so is its checker; what a piece of work leaves behind is counted, not
guessed.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType

import trio
import trio.testing

from pyp2p.io.stream import RawStream

StreamMaker = Callable[[], Awaitable[tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]]]
RawStreamMaker = Callable[[], Awaitable[tuple[RawStream, RawStream]]]

_FDS = Path("/proc/self/fd")


async def check_stream(make_pair: StreamMaker, make_clogged_pair: StreamMaker | None = None) -> None:
    """Hold a stream against trio's half-closeable contract. Raises `AssertionError` where it differs. Trio's
    checker consists of assert statements: under `python -O` it cannot work.

    `make_clogged_pair` gives a pair of which neither side can send until the other has received (None: not checked).
    """
    await trio.testing.check_half_closeable_stream(make_pair, make_clogged_pair)


async def check_raw_stream(make_pair: RawStreamMaker, make_clogged_pair: RawStreamMaker | None = None) -> None:
    """Hold a raw stream against the same contract and that of `try_send`."""

    async def plain() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
        return await make_pair()

    async def clogged() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
        return await make_clogged_pair() if make_clogged_pair is not None else await make_pair()

    await check_stream(plain, clogged if make_clogged_pair is not None else None)
    near, far = await make_pair()
    async with near, far:
        sent = near.try_send(b"abc")
        await near.send_eof()
        received = b""
        while chunk := await far.receive_some():
            received += chunk
        _expect(sent <= 3 and received == b"abc"[:sent], "try_send: other bytes arrived than it took")
        _expect_closed(near, "after send_eof")
        await near.aclose()
        _expect_closed(near, "after aclose")
    if make_clogged_pair is not None:
        near, far = await make_clogged_pair()
        async with near, far:
            _expect(near.try_send(b"abc") == 0, "try_send: took bytes although there is no room")


def _expect_closed(stream: RawStream, when: str) -> None:
    try:
        stream.try_send(b"x")
    except trio.ClosedResourceError:
        return
    raise AssertionError(f"try_send {when} must raise ClosedResourceError")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


class LeakCheck:
    """`async with LeakCheck():` fails when the block leaves tasks, sockets or whatever `counters` count behind.

    Each counter is called before and after. Tasks that are just ending get time to do so.
    """

    def __init__(self, counters: Mapping[str, Callable[[], int]] | None = None) -> None:
        self._counters = {"tasks": _tasks, "sockets": _sockets, **(counters or {})}
        self._before: dict[str, int] = {}

    async def __aenter__(self) -> LeakCheck:
        self._before = {name: count() for name, count in self._counters.items()}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            return
        await trio.testing.wait_all_tasks_blocked()
        if leaked := self._leaked():
            gc.collect()
            leaked = self._leaked()
        if leaked:
            raise AssertionError(f"left behind: {', '.join(leaked)}")

    def _leaked(self) -> list[str]:
        now = {name: count() for name, count in self._counters.items()}
        return [f"{now[name] - was} {name}" for name, was in self._before.items() if now[name] > was]


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def _sockets() -> int:
    """Open sockets of this process; 0 where there is no /proc."""
    count = 0
    if _FDS.is_dir():
        for fd in os.listdir(_FDS):
            try:
                count += os.readlink(_FDS / fd).startswith("socket:")
            except FileNotFoundError:  # the descriptor of the listing itself
                continue
    return count
