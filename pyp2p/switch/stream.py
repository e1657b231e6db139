"""`MuxedStream`: what protocol authors see. The full contract of trio's half-closeable stream, plus `reset`.

Rules: state lives in the muxer's record (`SubStream`); here are only the unread chunks and who waits. Everything
between two awaits is atomic, so there are no locks; two tasks that use one direction at once get `BusyResourceError`.
Negotiation bytes that wait for company (`_prefix`) go out with the first payload, at the latest when we wait for the
peer: that is what saves a flight and a frame per stream.
"""

from __future__ import annotations

import operator
from collections import deque
from typing import Protocol

import trio
from multiaddr import Multiaddr

from pyp2p.errors import MultistreamError, NoCommonProtocol, P2PError
from pyp2p.io.handshake import READ_SIZE, Direction, Handshake
from pyp2p.muxers.base import Buffer, Eof, Muxer, Reset, SubStream, Writable
from pyp2p.peer.address import AddressKind
from pyp2p.peer.id import PeerId

SEND_CHUNK = 4 * 65507  # most bytes that one stream queues at a time: fairness between streams that send in bulk
_SMALL = 1024  # chunks below are merged, so that a peer cannot make us keep one object per byte
_MERGED = 16 * 1024


class StreamReset(trio.BrokenResourceError):
    """The peer reset the stream; `code` is its error code (0 where the muxer has none)."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(f"stream reset by the peer (code {code})")
        self.code = code


class Carrier(Protocol):
    """What a stream needs of its connection, and what a protocol handler may ask about it."""

    peer: PeerId
    local: Multiaddr
    remote: Multiaddr
    direction: Direction
    kind: AddressKind
    muxer: Muxer

    @property
    def backlogged(self) -> bool:
        """True when senders have to wait for the socket."""
        ...

    @property
    def broken(self) -> trio.BrokenResourceError | None:
        """Why nothing can be sent or received any more; None while the connection lives."""
        ...

    def transmit(self, sub: SubStream, data: Buffer, *, more: bool = False) -> int:
        """Queue and, unless `more` follows at once, send if possible; returns how many bytes were taken."""
        ...

    def flush(self) -> None:
        """Send what the muxer has queued."""
        ...

    def wait_for_drain(self, stream: MuxedStream) -> None:
        """Have `stream.wake_writer` called once the backlog is down."""
        ...

    def credit(self, sub: SubStream, count: int) -> None:
        """The application took `count` bytes."""
        ...

    def selected(self, stream: MuxedStream) -> None:
        """An inbound stream has named its protocol."""
        ...

    def holds_fin(self, stream: MuxedStream) -> bool:
        """True when the end of an unanswered stream has to wait for the answer; `release_fin` is called in time."""
        ...

    def half_closed(self, stream: MuxedStream) -> None:
        """The application is done with a stream whose other end is still open."""
        ...

    def forget(self, stream: MuxedStream) -> None:
        """The stream is over in both directions."""
        ...


class MuxedStream(trio.abc.HalfCloseableStream):
    """One stream of a connection, for one protocol.

    `receive_some`, `send_all`, `send_eof` and `aclose` behave as trio specifies. Data that arrived before the peer's
    FIN or reset is always delivered first; then `receive_some` returns `b""` or raises `StreamReset`. When a protocol
    that was chosen lazily turns out to be unknown to the peer, reading and writing raise `NoCommonProtocol`.
    Cancelling any operation never harms the connection; a cancelled `send_all` may have sent part of its data.
    `aclose` ends our direction with FIN; what the peer sends later is answered with a reset, as TCP does.
    """

    __slots__ = (
        "__weakref__",
        "_chunks",
        "_closed",
        "_failure",
        "_fin_held",
        "_prefix",
        "_reader",
        "_reading",
        "_select",
        "_sub",
        "_writer",
        "_writing",
        "connection",
        "direction",
        "protocol",
    )

    def __init__(self, connection: Carrier, sub: SubStream, select: Handshake[str], prefix: bytes = b"") -> None:
        self.connection = connection
        self.direction = Direction.INBOUND if sub.inbound else Direction.OUTBOUND
        self.protocol = ""
        self._sub = sub
        self._select: Handshake[str] | None = select
        self._prefix = prefix
        self._chunks: deque[bytes | bytearray | memoryview] = deque()
        self._closed = False
        self._failure: P2PError | None = None
        self._fin_held = False
        self._reader: trio.lowlevel.Task | None = None
        self._writer: trio.lowlevel.Task | None = None
        self._reading = False
        self._writing = False
        sub.owner = self

    def __repr__(self) -> str:
        return f"<MuxedStream {self._sub.id} {self.direction.value} {self.protocol or '?'} {self.connection.peer}>"

    @property
    def peer(self) -> PeerId:
        """The proven id of the peer at the other end."""
        return self.connection.peer

    @property
    def id(self) -> int:
        """The muxer's number of the stream."""
        return self._sub.id

    @property
    def sub(self) -> SubStream:
        """The muxer's record of the stream, for reading."""
        return self._sub

    # --- sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, waiting for the peer's window and the socket as needed.

        Raises `ClosedResourceError` after `send_eof` or `aclose`, `StreamReset` or `BrokenResourceError` when the
        stream or connection is gone, `BusyResourceError` when another task is sending.
        """
        await self._send(data, last=False)

    async def send_last(self, data: bytes | bytearray | memoryview) -> None:
        """`send_all` and `send_eof` in one: the end leaves with the last of `data`, in one write where the window
        allows. Raises as `send_all`; when it is cancelled, the end has not been sent.
        """
        await self._send(data, last=True)

    async def _send(self, data: bytes | bytearray | memoryview, *, last: bool) -> None:
        if self._writing:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._check_sendable()
        self._writing = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._sub.used = True
            pending = memoryview(data).cast("B")
            if self._prefix:
                pending = self._with_prefix(pending)
            while pending:
                self._check_sendable()
                sent = 0
                if not self.connection.backlogged:
                    more = last and len(pending) <= SEND_CHUNK
                    sent = self.connection.transmit(self._sub, pending[:SEND_CHUNK], more=more)
                pending = pending[sent:]
                if pending and last:
                    self.connection.flush()  # the window took less than all: the end has to wait for the rest
                if sent == 0:
                    await self._park_writer()
            if last:
                self._check_sendable()
                self._send_fin()
                self.connection.flush()
                self._forget_if_over()
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._writing = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` could send at least one byte without waiting; errors as `send_all`."""
        if self._writing:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._check_sendable()
        self._writing = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            while self.connection.backlogged or not self.connection.muxer.writable(self._sub):
                await self._park_writer()
                self._check_sendable()
        finally:
            self._writing = False

    async def send_eof(self) -> None:
        """End our direction; the peer reads everything sent before and then the end. Idempotent."""
        if self._writing:
            raise trio.BusyResourceError("another task is sending on this stream")
        if (self._sub.fin_sent or self._fin_held) and not self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._check_sendable()
        await trio.lowlevel.checkpoint_if_cancelled()
        self._send_fin()
        self.connection.flush()
        self._forget_if_over()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _check_sendable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed here")
        if self._sub.fin_sent or self._fin_held:
            raise trio.ClosedResourceError("send_eof was called on this stream")
        self._check_alive()

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._sub.reset_code is not None:
            raise StreamReset(self._sub.reset_code)
        if (broken := self.connection.broken) is not None:
            raise trio.BrokenResourceError(*broken.args) from broken

    def _with_prefix(self, data: memoryview) -> memoryview:
        """`data` behind the negotiation that waited for it: in the same frame, unless that meant a large copy."""
        if len(data) > SEND_CHUNK:
            self._send_prefix()
            return data
        prefix, self._prefix = self._prefix, b""
        return memoryview(prefix + data)

    def _send_prefix(self) -> None:
        prefix, self._prefix = self._prefix, b""
        if prefix and self._sub.reset_code is None and self.connection.broken is None:
            self.connection.muxer.send(self._sub, prefix)

    def _send_fin(self) -> None:
        """End our direction, now or when the peer has answered our proposal: js-libp2p (3.3) misses an end that arrives
        before its handler runs, and then waits for ever."""
        self._send_prefix()
        if self._select is not None and not self._sub.inbound and self.connection.holds_fin(self):
            self._fin_held = True
        else:
            self.connection.muxer.fin(self._sub)

    def release_fin(self) -> None:
        """Queue the end that was held back long enough."""
        self._send_held_fin()
        self._forget_if_over()

    def _send_held_fin(self) -> None:
        held, self._fin_held = self._fin_held, False
        if held and self._sub.reset_code is None and self.connection.broken is None:
            self.connection.muxer.fin(self._sub)

    @property
    def owes_answer(self) -> bool:
        """True while negotiation bytes wait for company."""
        return bool(self._prefix)

    def flush_prefix(self) -> None:
        """Queue negotiation bytes that still wait for company."""
        if self._prefix and not self._sub.fin_sent:
            self._send_prefix()

    # --- receiving

    @property
    def at_end(self) -> bool:
        """True when all is read that the peer sent before it ended its direction: `receive_some` would return `b""`."""
        return self._sub.fin_received and not self._chunks and self._failure is None and not self._closed

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive at least one and at most `max_bytes` bytes; `b""` at the end.

        Raises `StreamReset` or `BrokenResourceError` once all data that came before is delivered,
        `ClosedResourceError` after `aclose`, `BusyResourceError` when another task is receiving.
        """
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        if self._reading:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._reading = True
        try:
            if self._readable():
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
                if self._prefix:
                    self.flush_prefix()
                    self.connection.flush()
                while not self._readable():
                    await self._park_reader()
        finally:
            self._reading = False
        return self._take(max_bytes)

    def _readable(self) -> bool:
        sub = self._sub
        return bool(
            self._chunks
            or self._closed
            or sub.fin_received
            or sub.reset_code is not None
            or self._failure is not None
            or self.connection.broken is not None
        )

    def _take(self, max_bytes: int | None) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed here")
        if not self._chunks:
            if self._failure is None and self._sub.fin_received:
                return b""
            self._check_alive()
        chunks = self._chunks
        chunk = chunks.popleft()
        if max_bytes is not None and len(chunk) > max_bytes:
            view = memoryview(chunk)
            chunks.appendleft(view[max_bytes:])
            chunk = view[:max_bytes]
        elif max_bytes is None and chunks and len(chunk) < READ_SIZE:
            chunk = self._join(chunk)
        data = chunk if type(chunk) is bytes else bytes(chunk)
        self._sub.used = True
        self.connection.credit(self._sub, len(data))
        return data

    def _join(self, first: bytes | bytearray | memoryview) -> bytes:
        """Several chunks as one: a reader that lags behind small frames takes fewer turns to catch up."""
        parts = [first]
        size = len(first)
        while self._chunks and size < READ_SIZE:
            part = self._chunks.popleft()
            size += len(part)
            parts.append(part)
        return b"".join(parts)

    async def wait_selected(self) -> None:
        """Wait until the peer has agreed to a protocol.

        Raises `NoCommonProtocol`, `MultistreamError` and the errors of a broken stream.
        """
        self.flush_prefix()
        self.connection.flush()
        while self._select is not None:
            self._check_alive()
            await self._park_reader()
        if self._failure is not None:
            raise self._failure  # and no other end: what came before a reset is still to be read

    # --- closing

    async def aclose(self) -> None:
        """Close the stream; unread data is discarded. Idempotent; always succeeds, even when cancelled."""
        if not self._closed:
            self._closed = True
            sub = self._sub
            if sub.reset_code is None and self.connection.broken is None:
                if not (sub.fin_sent or self._fin_held):
                    self._send_fin()
                if not sub.fin_received:
                    self.connection.half_closed(self)
                self.connection.flush()
            self._discard()
            self._wake_both()
            self._forget_if_over()
        await trio.lowlevel.checkpoint()

    def reset(self, code: int = 0) -> None:
        """End the stream in both directions at once and tell the peer `code`. Never waits; always safe."""
        self._closed = True
        self._prefix = b""
        self._discard()
        if self._sub.reset_code is None and self.connection.broken is None:
            self.connection.muxer.reset(self._sub, code)
            self.connection.flush()
        self._wake_both()
        self.connection.forget(self)

    def _discard(self) -> None:
        unread = sum(map(len, self._chunks))
        self._chunks.clear()
        if unread and self.connection.broken is None:
            self.connection.credit(self._sub, unread)

    def _forget_if_over(self) -> None:
        sub = self._sub
        if sub.reset_code is not None or (sub.fin_sent and sub.fin_received):
            self.connection.forget(self)

    # --- called by the connection, never awaiting

    def on_data(self, data: bytes) -> None:
        """Payload arrived."""
        if self._select is not None:
            data = self._on_select(data)
        if not data:
            return
        if self._closed:
            self.connection.muxer.reset(self._sub, 0)
            self.connection.forget(self)
            return
        chunks = self._chunks
        if chunks and len(data) < _SMALL:
            last = chunks[-1]
            if type(last) is bytearray and len(last) < _MERGED:
                last += data
            else:
                chunks.append(bytearray(data))
        else:
            chunks.append(data)
        self._wake_reader()

    def on_control(self, event: Writable | Eof | Reset) -> None:
        """Credit, the end of the peer's direction, or the end of the stream."""
        if type(event) is Writable:
            self.wake_writer()
        elif type(event) is Eof:
            self._on_eof()
        else:
            self.on_reset()

    def _on_eof(self) -> None:
        if self._select is not None and self._sub.inbound:
            self.reset()
            return
        if self._select is not None:
            self._select = None
            self._failure = MultistreamError("the peer ended the stream instead of answering the protocol proposal")
        self._wake_reader()
        if self._sub.fin_sent:
            self.connection.forget(self)

    def on_reset(self) -> None:
        """The stream was reset, or its connection is gone."""
        self._prefix = b""
        self._wake_both()
        self.connection.forget(self)

    def wake_writer(self) -> None:
        """Credit arrived or the backlog is down."""
        task, self._writer = self._writer, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _on_select(self, data: bytes) -> bytes:
        """Feed the negotiation; returns what is left for the application."""
        select = self._select
        if select is None:
            return data
        try:
            select.feed(data)
        except (MultistreamError, NoCommonProtocol) as error:
            self._failure = error
            self._select = None
            self._answer(select.take_output())
            self.connection.muxer.reset(self._sub, 0)
            self._wake_both()
            self.connection.forget(self)
            return b""
        output = select.take_output()
        if not select.done:
            self.connection.credit(self._sub, len(data))
            self._answer(output)
            return b""
        self._prefix += output
        self._select = None
        self.protocol = select.result
        rest = select.leftover
        self.connection.credit(self._sub, len(data) - len(rest))
        if self._sub.inbound:
            self.connection.selected(self)
        else:
            self._send_held_fin()  # we are not over by that: the peer's data and end may come with its answer
            self._wake_reader()
        return rest

    def _answer(self, output: bytes) -> None:
        """Queue words of the negotiation, unless our direction is over: its end may stand in the same read."""
        if output and self._sub.reset_code is None and not self._sub.fin_sent:
            self.connection.muxer.send(self._sub, output)

    # --- parking

    async def _park_reader(self) -> None:
        self._reader = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._reader = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _park_writer(self) -> None:
        if self.connection.backlogged:
            self.connection.wait_for_drain(self)
        self._writer = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake_reader(self) -> None:
        task, self._reader = self._reader, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _wake_both(self) -> None:
        self._wake_reader()
        self.wake_writer()
