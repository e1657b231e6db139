"""Connections without a socket: streams with trio's contract over two bounded pipes, and a queue to accept them.

Rules: `Pipe` never waits and decides nothing about time; what happens between the ends of a pipe (nothing here, a
simulated link in `pyp2p.testing`) is in its four `carry_*` methods. `PipeStream` is the only part that awaits.
"""

from __future__ import annotations

from collections import deque

import trio

from pyp2p.io.handshake import READ_SIZE
from pyp2p.io.stream import RawStream
from pyp2p.transports.base import RawConn

CAPACITY = 64 * 1024  # bytes that one direction holds; a sender that nobody reads waits
BACKLOG = 128  # connections that wait for `accept`; further ones are refused


class Pipe:
    """One direction of a connection. The sender calls `push` and `end`, the receiver `take` and `abandon`.

    At most `capacity` bytes are under way or unread: `push` takes no more until the receiver has taken some.
    """

    __slots__ = ("_abandoned", "_buffer", "_ended", "_lost", "_refused", "_used", "capacity", "readers", "writers")

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise ValueError("a pipe holds at least one byte")
        self.capacity = capacity
        self.readers = trio.lowlevel.ParkingLot()
        self.writers = trio.lowlevel.ParkingLot()
        self._buffer = bytearray()  # arrived and unread
        self._used = 0  # taken from the sender and not yet given back to it
        self._ended = False  # the end has arrived
        self._abandoned = False  # the receiver has closed
        self._lost: str | None = None  # why the receiver gets no more
        self._refused: str | None = None  # why the sender may send no more

    @property
    def room(self) -> int:
        """How many bytes `push` would take."""
        return self.capacity - self._used

    @property
    def refused(self) -> bool:
        """True when the sender knows that nobody receives any more."""
        return self._refused is not None

    def push(self, data: bytes | bytearray | memoryview) -> int:
        """Take what fits; returns how much. Raises `trio.BrokenResourceError` when the receiver is gone."""
        if self._refused is not None:
            raise trio.BrokenResourceError(self._refused)
        count = min(len(data), self.room)
        if count:
            self._used += count
            self.carry_data(bytes(data[:count]))
        return count

    def end(self) -> None:
        """Nothing more is sent."""
        self.carry_end()

    def take(self, max_bytes: int) -> bytes | None:
        """What has arrived, `b""` at the end, None when the receiver must wait (on `readers`)."""
        if self._buffer:
            data = bytes(self._buffer[:max_bytes])
            del self._buffer[:max_bytes]
            self.carry_credit(len(data))
            return data
        if self._lost is not None:
            raise trio.BrokenResourceError(self._lost)
        return b"" if self._ended else None

    def abandon(self) -> None:
        """Nobody receives any more: what is unread is dropped."""
        self._abandoned = True
        self._buffer.clear()
        self.carry_refusal("the other side has closed")

    def carry_data(self, data: bytes) -> None:
        """Bring data to the receiver."""
        self.arrive(data)

    def carry_end(self) -> None:
        """Bring the end to the receiver."""
        self.arrive_end()

    def carry_credit(self, count: int) -> None:
        """Tell the sender that there is room again."""
        self.arrive_credit(count)

    def carry_refusal(self, reason: str) -> None:
        """Tell the sender that nobody receives."""
        self.refuse(reason)

    def arrive(self, data: bytes) -> None:
        """Data is there: wake the receiver."""
        if not self._abandoned:
            self._buffer += data
            self.readers.unpark_all()

    def arrive_end(self) -> None:
        """The end is there."""
        self._ended = True
        self.readers.unpark_all()

    def arrive_credit(self, count: int) -> None:
        """There is room again: wake the sender."""
        self._used -= count
        self.writers.unpark_all()

    def refuse(self, reason: str) -> None:
        """From now on sending fails."""
        if self._refused is None:
            self._refused = reason
        self.writers.unpark_all()

    def lose(self, reason: str) -> None:
        """From now on receiving fails, after what has already arrived."""
        if self._lost is None:
            self._lost = reason
        self.readers.unpark_all()


class PipeStream(RawStream):
    """The stream that receives from one pipe and sends into another; trio's half-closeable contract and `try_send`."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self._sending = False
        self._receiving = False
        self._eof_sent = False
        self.closed = False

    def _check_sendable(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._eof_sent:
            raise trio.ClosedResourceError("the sending half was closed by send_eof")

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """What fits into the pipe now; see `RawStream.try_send`."""
        self._check_sendable()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        return self.outgoing.push(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`. When cancelled, some, all or none of it has been sent."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_sendable()
            with memoryview(data) as view:
                sent = self.outgoing.push(view)
                if sent == len(view):
                    await trio.lowlevel.cancel_shielded_checkpoint()
                while sent < len(view):
                    await self.outgoing.writers.park()
                    self._check_sendable()
                    sent += self.outgoing.push(view[sent:])
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room, or the other side is gone."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if self.closed:
                    raise trio.ClosedResourceError("this stream was closed")
                if self._eof_sent or self.outgoing.refused or self.outgoing.room:
                    return
                await self.outgoing.writers.park()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Close the sending half after what was sent; a second call does nothing."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise trio.ClosedResourceError("this stream was closed")
        if not self._eof_sent:
            self._eof_sent = True
            self.outgoing.end()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one byte and at most `max_bytes`, or `b""` at the end. Cancellation loses nothing."""
        limit = READ_SIZE if max_bytes is None else max_bytes
        if not isinstance(limit, int):
            raise TypeError("max_bytes must be an integer")
        if limit < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self.closed:
                raise trio.ClosedResourceError("this stream was closed")
            data = self.incoming.take(limit)
            if data is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()  # the data must not be lost now
            while data is None:
                await self.incoming.readers.park()
                if self.closed:
                    raise trio.ClosedResourceError("this stream was closed")
                data = self.incoming.take(limit)
            return data
        finally:
            self._receiving = False

    def close(self) -> None:
        """Close at once, without an await: what was sent still arrives, what was not read is dropped."""
        if self.closed:
            return
        self.closed = True
        if not self._eof_sent:
            self.outgoing.end()
        self.incoming.abandon()
        self.incoming.readers.unpark_all()
        self.outgoing.writers.unpark_all()

    async def aclose_now(self) -> None:
        """Close; see `close`."""
        self.close()

    async def aclose(self) -> None:
        """Close; see `close`."""
        self.close()
        await trio.lowlevel.checkpoint()


def pipe_pair(capacity: int = CAPACITY) -> tuple[PipeStream, PipeStream]:
    """Two connected streams in this process, each direction bounded by `capacity` bytes."""
    there, back = Pipe(capacity), Pipe(capacity)
    return PipeStream(back, there), PipeStream(there, back)


class AcceptQueue:
    """Inbound connections of one listener that wait for `accept`, at most `BACKLOG` of them."""

    def __init__(self) -> None:
        self._waiting: deque[RawConn] = deque()
        self._parked = trio.lowlevel.ParkingLot()
        self.closed = False

    @property
    def full(self) -> bool:
        """True when a further connection must be refused."""
        return self.closed or len(self._waiting) >= BACKLOG

    def offer(self, conn: RawConn) -> bool:
        """Queue a connection; False when it is refused."""
        if self.full:
            return False
        self._waiting.append(conn)
        self._parked.unpark()
        return True

    async def accept(self) -> RawConn:
        """Wait for the next connection; see `Listener.accept`."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self.closed:
                raise trio.ClosedResourceError("this listener was closed")
            await self._parked.park()
        return self._waiting.popleft()

    async def aclose(self) -> None:
        """Refuse what comes and close what nobody accepted."""
        self.closed = True
        self._parked.unpark_all()
        while self._waiting:
            await trio.aclose_forcefully(self._waiting.popleft().stream)
        await trio.lowlevel.checkpoint()
