"""The processes of the demonstration: started, read line by line, killed, ended; none outlives it.

Rules: each has a pipe as its standard input, whose end ends it, so that none is left over even when the demonstration
is killed; and a session of its own, so that Ctrl-C at the terminal reaches the demonstration alone, which ends all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import trio

from pyp2p.cli.failure import CommandFailed
from pyp2p.errors import printable

FAILED: Final = 1  # exit code: something did not happen
PYP2P: Final = (sys.executable, "-m", "pyp2p")
_CHUNK: Final = 65536
_MAX_LINE: Final = 1 << 20  # bytes; a node prints far less in one
_MAX_EARLY: Final = 1000  # lines before the one that says where it listens
_LAST_WORDS: Final = 5  # lines of standard error that are kept
_PATIENCE: Final = 3.0  # seconds for goodbyes, before a process is killed

Line = dict[str, Any]


class Child:
    """One process that prints lines of JSON; made by `Children.start`."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self._process = process
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._early: deque[Line] = deque()
        self._rest = b""

    async def listening(self, seconds: float) -> Line:
        """The line that says where it listens; those before it come from `line` as well. Raises `CommandFailed` when
        there is none within `seconds`, or the process ended.
        """
        early = deque[Line]()
        with trio.move_on_after(seconds):
            while True:
                line = await self.line()
                if line is None or line.get("event") == "error":
                    raise await self.ended_by_itself(line)
                if line.get("event") == "listening":
                    self._early = early
                    return line
                early.append(line)
                if len(early) > _MAX_EARLY:
                    raise CommandFailed(
                        "start", FAILED, f"{self.name} told {len(early)} things, and not where it listens"
                    )
        raise CommandFailed("start", FAILED, f"{self.name} did not listen within {seconds:g} s", self.last_words())

    async def line(self) -> Line | None:
        """Its next line; None at the end of its output. Raises `CommandFailed` for one that is no JSON object.

        For one reader at a time. Cancelled, it has lost nothing.
        """
        if self._early:
            await trio.lowlevel.checkpoint()
            return self._early.popleft()
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            if len(self._rest) > _MAX_LINE:
                raise CommandFailed("output", FAILED, f"{self.name} printed a line of more than {_MAX_LINE} bytes")
            chunk = await self._process.stdout.receive_some(_CHUNK)
            if not chunk:
                return None  # a line without an end is that of a process that was killed
            self._rest += chunk
        raw, _, self._rest = self._rest.partition(b"\n")
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            words = printable(raw.decode("utf-8", "replace"), 200)
            raise CommandFailed("output", FAILED, f"{self.name} printed what is no JSON object: {words}")
        return found

    async def ended_by_itself(self, line: Line | None = None) -> CommandFailed:
        """What to say when it ended and nobody had asked for that; `line` is an error that it printed before."""
        await self.end()
        with trio.move_on_after(_PATIENCE):
            await self._process.wait()
        told = "" if line is None else f": {printable(str(line.get('reason')), 300)}"
        return CommandFailed(
            "nodes", FAILED, f"{self.name} ended by itself, exit code {self._process.returncode}{told}",
            self.last_words(),
        )  # fmt: skip

    def last_words(self) -> str:
        """The end of what it printed on standard error."""
        return f"{self.name} said: {' / '.join(self._last_words)}" if self._last_words else ""

    def kill(self) -> None:
        """SIGKILL: no goodbye, nothing written."""
        self._process.kill()

    async def end(self) -> None:
        """Ask it to end, by the end of its standard input."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()

    async def wait(self) -> int:
        """Wait for its end, and return its exit code: below 0 is a signal."""
        return await self._process.wait()

    async def ended(self) -> None:
        """Have it end, whatever it does: asked first, killed after 3 s."""
        await self.end()
        self._process.terminate()  # while it starts, it does not look at its standard input yet
        with trio.move_on_after(_PATIENCE):
            await self._process.wait()
        self.kill()
        await self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            await pipe.aclose()

    async def read_errors(self, tell: Callable[[str], None] | None) -> None:
        """Keep the end of what it prints on standard error, and `tell` each line."""
        assert self._process.stderr is not None
        rest = b""
        with suppress(trio.ClosedResourceError):
            async for chunk in self._process.stderr:
                *lines, rest = (rest + chunk)[-_CHUNK:].split(b"\n")
                for raw in lines:
                    words = printable(raw.decode("utf-8", "replace"), 300)
                    self._last_words.append(words)
                    if tell is not None:
                        tell(f"{self.name}: {words}")


class Children:
    """All processes of one demonstration; made by `open_children`. `tell` gets what they print on standard error."""

    def __init__(self, nursery: trio.Nursery, program: Sequence[str], tell: Callable[[str], None] | None) -> None:
        self._nursery = nursery
        self._program = program
        self._tell = tell
        self._all: list[Child] = []

    async def start(self, name: str, words: Sequence[str]) -> Child:
        """Start a command of the program. Raises `CommandFailed` when the system does not allow it."""
        # Options of ours that come from the environment are no options of theirs.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYP2P_")}
        try:
            process = await trio.lowlevel.open_process(
                [*self._program, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env=environment,
            )
        except OSError as error:
            raise CommandFailed("start", FAILED, f"{name} could not be started: {error.strerror or error}") from None
        child = Child(name, process)
        self._all.append(child)
        self._nursery.start_soon(child.read_errors, self._tell)
        return child

    async def end_all(self) -> None:
        """Have all of them end, at once; done when the last one has."""
        async with trio.open_nursery() as nursery:
            for child in self._all:
                nursery.start_soon(child.ended)


@asynccontextmanager
async def open_children(
    program: Sequence[str] = PYP2P, tell: Callable[[str], None] | None = None
) -> AsyncIterator[Children]:
    """The place for processes of `program`; when the block is left, cancelled or not, none is there any more."""
    async with trio.open_nursery() as nursery:
        children = Children(nursery, program, tell)
        try:
            yield children
        finally:
            with trio.CancelScope(shield=True):
                await children.end_all()
            nursery.cancel_scope.cancel()
