"""Our side of the interop tests: a switch per test, a dialling peer program that can be killed, and recorded frames."""

import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

import pyp2p
from pyp2p import Budget, Identity, Platform, Switch, SwitchConfig
from pyp2p.protocols.echo import ECHO_PROTOCOL, serve_echo
from pyp2p.switch.events import SwitchEvent
from tests.interop.matrix import KEYS, MUXERS
from tests.interop.peers import command

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
PATIENCE = 30.0  # seconds: safety only, nothing here waits for time to pass
SOON = 5.0  # seconds within which a dead peer must be noticed
ENTROPY = Platform().entropy


def identity(key: str = "ed25519") -> Identity:
    """A fresh identity of a key type by its name on command lines."""
    return Identity.generate(KEYS[key], entropy=ENTROPY)


def open_switch(
    muxer: str = "both", *, key: str = "ed25519", listen: bool = True, **config: Any
) -> AbstractAsyncContextManager[Switch]:
    """A switch with one muxer or both (yamux first); `config` overrides fields of `SwitchConfig`."""
    return pyp2p.open_switch(
        identity(key),
        listen=[LOOPBACK] if listen else [],
        muxers=[made() for name, made in MUXERS.items() if muxer in (name, "both")],
        config=replace(SwitchConfig(), **config),
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


class RecordedYamux:
    """Yamux that counts the frames of its sessions by type and flags, both ways."""

    protocol = "/yamux/1.0.0"

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    def session(self, *arguments: Any) -> Any:
        """A session that is recorded."""
        return _Recorded(MUXERS["yamux"]().session(*arguments), FrameCounter(self.received), FrameCounter(self.sent))


class FrameCounter:
    """Counts yamux frames in a stream of bytes, e.g. `DATA|SYN` with payload."""

    TYPES = ("DATA", "WINDOW", "PING", "GOAWAY")
    FLAGS = ((1, "SYN"), (2, "ACK"), (4, "FIN"), (8, "RST"))

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        self._pending = b""

    def feed(self, data: bytes) -> None:
        """Count the whole frames."""
        self._pending += data
        while len(self._pending) >= 12:
            kind, flags = self._pending[1], int.from_bytes(self._pending[2:4], "big")
            length = int.from_bytes(self._pending[8:12], "big")
            size = 12 + (length if kind == 0 else 0)
            if len(self._pending) < size:
                return
            name = self.TYPES[kind] if kind or length else "EMPTY"
            self.counts["|".join([name, *(text for bit, text in self.FLAGS if flags & bit)])] += 1
            self._pending = self._pending[size:]


class _Recorded:
    def __init__(self, inner: Any, received: FrameCounter, sent: FrameCounter) -> None:
        self._inner = inner
        self._received = received
        self._sent = sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def feed(self, data: bytes, now: float) -> Any:
        """Input, counted."""
        self._received.feed(data)
        return self._inner.feed(data, now)

    def take_output(self) -> Iterable[Any]:
        """Output, counted."""
        chunks = self._inner.take_output()
        self._sent.feed(b"".join(chunks))
        return chunks
