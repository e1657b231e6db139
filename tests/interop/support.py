"""Our side of the interop tests: a switch per test, a dialling program to kill, and a tap on the frames."""

from __future__ import annotations

import struct
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import trio

import pyp2p
from pyp2p import Budget, Identity, Platform, Switch, SwitchConfig
from pyp2p.protocols.echo import ECHO_PROTOCOL, serve_echo
from pyp2p.switch.events import SwitchEvent
from tests.interop.matrix import KEYS, MUXERS, SECURITIES, TRANSPORTS, Stack
from tests.interop.peers import command

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
PATIENCE = 30.0  # seconds: safety only, nothing here waits for time to pass
SOON = 5.0  # seconds within which a dead peer must be noticed
ENTROPY = Platform().entropy

HEADER = struct.Struct(">BBHII")  # of a yamux frame
DATA, WINDOW = 0, 1
FIN, RST = 4, 8
KINDS = ("DATA", "WINDOW", "PING", "GOAWAY")
FLAGS = {1: "SYN", 2: "ACK", FIN: "FIN", RST: "RST"}


def identity(key: str = "ed25519") -> Identity:
    """A fresh identity of a key type by its name on command lines."""
    return Identity.generate(KEYS[key], entropy=ENTROPY)


def open_switch(
    muxer: str = "both", *, key: str = "ed25519", listen: bool = True, **config: Any
) -> AbstractAsyncContextManager[Switch]:
    """A switch with Noise and one muxer or both (yamux first); `config` overrides fields of `SwitchConfig`."""
    return pyp2p.open_switch(
        identity(key),
        listen=[LOOPBACK] if listen else [],
        securities=[SECURITIES["noise"]()],
        muxers=[made() for name, made in MUXERS.items() if muxer in (name, "both")],
        config=replace(SwitchConfig(), **config),
    )


def open_stack(stack: Stack, *, listen: bool = False) -> AbstractAsyncContextManager[Switch]:
    """A switch with one stack and nothing else; it serves perf."""
    transport, where = TRANSPORTS[stack.transport]
    return pyp2p.open_switch(
        identity(),
        listen=[where] if listen else [],
        transports=[transport()],
        securities=[SECURITIES[stack.security]()],
        muxers=[MUXERS[stack.muxer]()],
        config=SwitchConfig(perf=True),
    )


def address(switch: Switch) -> str:
    """What a peer program dials."""
    return str(switch.multiaddrs[0])


def mount_echo(switch: Switch, streams: int = 1000) -> None:
    """Serve echo to a tester that opens many streams at once."""
    switch.mount(ECHO_PROTOCOL, serve_echo, budget=Budget(per_peer=streams))


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """All that comes until the end."""
    return b"".join([chunk async for chunk in stream])


async def next_event(events: AsyncIterator[SwitchEvent], kind: type[Any]) -> Any:
    """The next event of a kind; others are passed over."""
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"the switch stopped before it told a {kind.__name__}")


STAYING = {  # a peer that dials and stays until it is killed
    "go": ("hold", "--hold", "60s"),
    "rust": ("idle", "--count", "1", "--hold", "60"),
    "js": ("idle", "--count", "1", "--hold", "60"),
}


def staying(language: str, target: str, *flags: str) -> AbstractAsyncContextManager[trio.Process]:
    """A peer that dials `target` and keeps the connection for the length of the block."""
    command, *arguments = STAYING[language]
    return dialling(language, command, target, *arguments, *flags)


@asynccontextmanager
async def dialling(language: str, *arguments: str) -> AsyncIterator[trio.Process]:
    """A dialling sub-command as a process that the test may kill; it is killed at the end in any case."""
    process = await trio.lowlevel.open_process(
        [*command(language), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdin.aclose()


class Frames:
    """Cuts a stream of bytes into whole yamux frames: (type, flags, stream id, length, all bytes)."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now."""
        self._pending += data
        frames = []
        while len(self._pending) >= HEADER.size:
            _, kind, flags, stream, length = HEADER.unpack_from(self._pending)
            size = HEADER.size + (length if kind == DATA else 0)
            if len(self._pending) < size:
                break
            frames.append(Frame(kind, flags, stream, self._pending[HEADER.size : size], length))
            self._pending = self._pending[size:]
        return frames


@dataclass(frozen=True)
class Frame:
    """One yamux frame; `length` is the credit of a window update, the size of `body` in a data frame."""

    kind: int
    flags: int
    stream: int
    body: bytes
    length: int

    def __str__(self) -> str:
        name = KINDS[self.kind] if self.kind != DATA or self.body else "EMPTY"
        return "|".join([name, *(text for bit, text in FLAGS.items() if self.flags & bit)])

    def raw(self) -> bytes:
        """As on the wire."""
        return HEADER.pack(0, self.kind, self.flags, self.stream, self.length) + self.body


class TappedYamux:
    """Yamux whose sessions count the frames both ways by type and flags and may rewrite those that go out."""

    protocol = "/yamux/1.0.0"

    def __init__(self, rewrite: Callable[[list[Frame]], list[Frame]] = lambda frames: frames) -> None:
        self.received: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.rewrite = rewrite

    def session(self, *arguments: Any) -> Any:
        """A session that is tapped."""
        return _Tapped(self, MUXERS["yamux"]().session(*arguments))


class _Tapped:
    def __init__(self, tap: TappedYamux, inner: Any) -> None:
        self._tap = tap
        self._inner = inner
        self._received = Frames()
        self._sent = Frames()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def feed(self, data: bytes, now: float) -> Any:
        """Input, counted."""
        self._tap.received.update(map(str, self._received.feed(data)))
        return self._inner.feed(data, now)

    def take_output(self) -> list[bytes]:
        """Output, rewritten and counted; the core queues whole frames only."""
        frames = self._tap.rewrite(self._sent.feed(b"".join(self._inner.take_output())))
        self._tap.sent.update(map(str, frames))
        return [frame.raw() for frame in frames]


def data_with_fin(frames: list[Frame]) -> list[Frame]:
    """The end of a stream shares a frame with its last data."""
    out: list[Frame] = []
    for frame in frames:
        last = out[-1] if out else None
        if last and frame.flags & FIN and last.kind == DATA and last.body and last.stream == frame.stream:
            out[-1] = replace(last, flags=last.flags | frame.flags)
        else:
            out.append(frame)
    return out


def data_with_fin_then_reset(frames: list[Frame]) -> list[Frame]:
    """The same, and a reset right behind it."""
    out: list[Frame] = []
    for frame in data_with_fin(frames):
        out.append(frame)
        if str(frame) == "DATA|FIN":
            out.append(Frame(WINDOW, RST, frame.stream, b"", 0))
    return out


def data_then_reset(frames: list[Frame]) -> list[Frame]:
    """A reset instead of the end, right behind the last data."""
    return [Frame(WINDOW, RST, frame.stream, b"", 0) if frame.flags & FIN else frame for frame in frames]
