"""Peers that misbehave on demand: slow at a chosen stage, silent, cut off, corrupting, or with another's key.

    plan = Misbehaviour(delays={Stage.HANDSHAKE: 5.0})
    stack = misbehave(plan, transports=[Tcp()], securities=[Noise()], muxers=[Yamux()])
    async with open_switch(**stack) as switch: ...

Rules: nothing outside this file knows of it. What waits is always the stream, since handshakes and muxers do no I/O: a
wrapped security or muxer tells the stream which its own task has last used that a stage begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TypedDict

import trio
from multiaddr import Multiaddr

from pyp2p.io.handshake import Direction, Handshake
from pyp2p.io.stream import RawStream
from pyp2p.muxers.base import MemoryBudget, Muxer, MuxerFactory, MuxerLimits
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.platform import Platform
from pyp2p.security.base import SecureChannel, Security
from pyp2p.trace import Stage, Trace
from pyp2p.transports.base import Listener, RawConn, Transport

STAGES = (Stage.CONNECT, Stage.SECURITY_SELECT, Stage.HANDSHAKE, Stage.MUXER_SELECT, Stage.IDENTIFY)


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """What goes wrong, on each connection alike. Byte counts are of what this side sends on the raw stream.

    `delays` are seconds before this side answers at a stage of `STAGES` (`math.inf`: never; at `CONNECT` it does not
    read either). What shares a flight waits together: an answer to `SECURITY_SELECT` with the first handshake message,
    for one. Byte number `corrupt_at` is inverted; after `close_after` bytes the connection is closed; after
    `silent_after` bytes nothing more goes out though sending seems to work. `identity` takes the place of the key that
    proves who this side is.
    """

    delays: Mapping[Stage, float] = field(default_factory=dict)
    corrupt_at: int | None = None
    close_after: int | None = None
    silent_after: int | None = None
    identity: Identity | None = None

    def __post_init__(self) -> None:
        for stage in self.delays:
            if stage not in STAGES:
                names = ", ".join(each.value for each in STAGES)
                raise ValueError(f"a connection cannot be delayed at {stage.value}, but at {names}")


class Stacks(TypedDict):
    """The keyword arguments of `open_switch` that make up a stack."""

    transports: Sequence[Transport]
    securities: Sequence[Security]
    muxers: Sequence[MuxerFactory]


def misbehave(
    plan: Misbehaviour,
    *,
    transports: Sequence[Transport],
    securities: Sequence[Security],
    muxers: Sequence[MuxerFactory],
) -> Stacks:
    """The same stack, misbehaving as planned."""
    return {
        "transports": [MisbehavingTransport(transport, plan) for transport in transports],
        "securities": [MisbehavingSecurity(security, plan) for security in securities],
        "muxers": [MisbehavingMuxer(muxer) for muxer in muxers],
    }


class MisbehavingStream(RawStream):
    """A raw stream that sends as planned."""

    def __init__(self, stream: RawStream, plan: Misbehaviour) -> None:
        self._stream = stream
        self._plan = plan
        self._sent = 0
        self._quiet_until = 0.0  # when sending goes on
        self._deaf_until = trio.current_time() + plan.delays.get(Stage.CONNECT, 0.0)
        self.stage(Stage.CONNECT)
        self.stage(Stage.SECURITY_SELECT)

    def stage(self, stage: Stage) -> None:
        """A stage begins: what is sent from now on waits as long as planned."""
        delay = self._plan.delays.get(stage)
        if delay:
            self._quiet_until = max(self._quiet_until, trio.current_time()) + delay

    @property
    def _left(self) -> int | None:
        """Bytes until the connection is closed."""
        return None if self._plan.close_after is None else max(self._plan.close_after - self._sent, 0)

    def _changed(self, data: bytes | bytearray | memoryview) -> bytes:
        """The next bytes as they go out."""
        position = -1 if self._plan.corrupt_at is None else self._plan.corrupt_at - self._sent
        if not 0 <= position < len(data):
            return bytes(data)
        changed = bytearray(data)
        changed[position] ^= 0xFF
        return bytes(changed)

    def _swallows(self) -> bool:
        return self._plan.silent_after is not None and self._sent >= self._plan.silent_after

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """As the stream underneath, but nothing while this side waits or is about to close."""
        _current.set(self)
        if trio.current_time() < self._quiet_until or self._left is not None:
            return 0
        if self._swallows():
            return len(data)
        if self._plan.silent_after is not None:
            data = data[: self._plan.silent_after - self._sent]
        sent = self._stream.try_send(self._changed(data))
        self._sent += sent
        return sent

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Wait as planned, then send what is left of the data by then."""
        _current.set(self)
        await self._wait(self._quiet_until)
        view = memoryview(data)
        if self._plan.silent_after is not None:
            view = view[: max(self._plan.silent_after - self._sent, 0)]
        left = self._left
        changed = self._changed(view)[:left]
        self._sent += len(changed)
        await self._stream.send_all(changed)
        if left is not None and len(changed) == left:
            await self._stream.aclose()
            raise trio.BrokenResourceError("closed on purpose")

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream underneath, after waiting as planned."""
        await self._wait(self._quiet_until)
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As the stream underneath, after waiting as planned."""
        await self._wait(self._quiet_until)
        if not self._swallows():
            await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As the stream underneath, once this side listens."""
        _current.set(self)
        await self._wait(self._deaf_until)
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        """As the stream underneath, at once."""
        await self._stream.aclose()

    async def _wait(self, until: float) -> None:
        if trio.current_time() < until:
            await trio.sleep_until(until)


_current: ContextVar[MisbehavingStream | None] = ContextVar("stream", default=None)  # what this task used last


def _begin(stage: Stage) -> None:
    stream = _current.get()
    if stream is not None:
        stream.stage(stage)


class MisbehavingTransport:
    """A transport whose connections misbehave."""

    def __init__(self, transport: Transport, plan: Misbehaviour) -> None:
        self.name = transport.name
        self._transport = transport
        self._plan = plan

    def handles(self, address: Multiaddr) -> bool:
        """As the transport underneath."""
        return self._transport.handles(address)

    async def dial(self, address: Multiaddr, trace: Trace | None = None) -> RawConn:
        """As the transport underneath."""
        return _wrapped(await self._transport.dial(address, trace), self._plan)

    async def listen(self, address: Multiaddr) -> Listener:
        """As the transport underneath."""
        return _MisbehavingListener(await self._transport.listen(address), self._plan)


class _MisbehavingListener:
    def __init__(self, listener: Listener, plan: Misbehaviour) -> None:
        self._listener = listener
        self._plan = plan

    @property
    def address(self) -> Multiaddr:
        return self._listener.address

    async def accept(self) -> RawConn:
        return _wrapped(await self._listener.accept(), self._plan)

    async def aclose(self) -> None:
        await self._listener.aclose()


def _wrapped(raw: RawConn, plan: Misbehaviour) -> RawConn:
    stream = MisbehavingStream(raw.stream, plan)
    _current.set(stream)
    return replace(raw, stream=stream)


class MisbehavingSecurity:
    """A security protocol that is slow, or proves another identity."""

    def __init__(self, security: Security, plan: Misbehaviour) -> None:
        self.protocol = security.protocol
        self._security = security
        self._plan = plan

    def handshake(
        self,
        identity: Identity,
        direction: Direction,
        expect: PeerId | None,
        muxers: Sequence[str],
        platform: Platform,
    ) -> Handshake[SecureChannel]:
        """As the security underneath, with the planned identity."""
        _begin(Stage.HANDSHAKE)
        used = identity if self._plan.identity is None else self._plan.identity
        return _WatchedHandshake(self._security.handshake(used, direction, expect, muxers, platform))


class _WatchedHandshake:
    """Tells the stream when the handshake is over: what is sent then belongs to the choice of a muxer."""

    def __init__(self, inner: Handshake[SecureChannel]) -> None:
        self._inner = inner

    @property
    def done(self) -> bool:
        return self._inner.done

    @property
    def result(self) -> SecureChannel:
        return self._inner.result

    @property
    def leftover(self) -> bytes:
        return self._inner.leftover

    def feed(self, data: bytes) -> None:
        before = self._inner.done
        self._inner.feed(data)
        if self._inner.done and not before:
            _begin(Stage.MUXER_SELECT)

    def take_output(self) -> bytes:
        return self._inner.take_output()


class MisbehavingMuxer:
    """A muxer that tells its stream that it begins."""

    def __init__(self, muxer: MuxerFactory) -> None:
        self.protocol = muxer.protocol
        self._muxer = muxer

    def session(self, direction: Direction, limits: MuxerLimits, memory: MemoryBudget, now: float) -> Muxer:
        """As the muxer underneath."""
        _begin(Stage.IDENTIFY)
        return self._muxer.session(direction, limits, memory, now)
