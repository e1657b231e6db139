"""The sending half of a connection's socket: at once while the socket takes it, by a task while there is a backlog.

Rule: bytes leave in the order of `send`. A direct send happens only when nothing is queued and no task waits for room,
so it can never overtake, nor meet the task in the stream; it has no await, so it is safe in a task that is being
cancelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from pyp2p.io.stream import RawStream

_PIECE = 16 * 1024  # of what can only be sent by waiting: each piece counts as progress on a slow link


class Writer:
    """Sends sealed bytes over a raw stream, with a backlog that producers watch; `failed` is told when it breaks."""

    __slots__ = (
        "_backlog",
        "_drained",
        "_failed",
        "_limit",
        "_nursery",
        "_running",
        "_stream",
        "_waiters",
        "progress_at",
        "size",
    )

    def __init__(self, stream: RawStream, limit: int, failed: Callable[[Exception], None]) -> None:
        self.size = 0
        self.progress_at = 0.0
        self._stream = stream
        self._limit = limit
        self._failed = failed
        self._nursery: trio.Nursery | None = None
        self._backlog: deque[bytes | bytearray | memoryview] = deque()
        self._running = False
        self._waiters: list[Callable[[], None]] = []
        self._drained = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        """True when producers have to wait."""
        return self.size >= self._limit

    @property
    def choked(self) -> bool:
        """True when even the answers to what we read pile up. Payload stops at `full`, so two peers that both send in
        bulk never stop reading because of each other."""
        return self.size >= 2 * self._limit

    @property
    def idle(self) -> bool:
        """True when nothing is queued and no task is at work."""
        return not (self._backlog or self._running)

    def attach(self, nursery: trio.Nursery) -> None:
        """Start to work: tasks go to `nursery`."""
        self._nursery = nursery
        self._stream.notify(self._wake)
        self._wake()

    def send(self, data: bytes | bytearray) -> None:
        """Send what the socket takes now and queue the rest. Never waits and never raises: `failed` is told."""
        sent = 0
        if self.idle:
            try:
                sent = self._stream.try_send(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._failed(error)
                return
            if sent == len(data) and not self._stream.unsent:
                return
        if sent < len(data):
            if not self._backlog:  # the peer has its time from here, whatever the stream itself had held back
                self.progress_at = trio.current_time()
            self._backlog.append(memoryview(data)[sent:] if sent else data)
            self.size += len(data) - sent
        self._wake()

    def _wake(self) -> None:
        if (self._backlog or self._stream.unsent) and not self._running and self._nursery is not None:
            self._running = True
            self._nursery.start_soon(self._run)

    def notify(self, waiter: Callable[[], None]) -> None:
        """Have `waiter` called once the backlog is down to half, or gone."""
        self._waiters.append(waiter)

    async def wait_unchoked(self) -> None:
        """Wait until answers fit again, or the backlog was dropped."""
        while self.choked:
            await self._drained.park()

    async def wait_idle(self) -> None:
        """Wait until everything is sent, or dropped."""
        while not self.idle:
            await self._drained.park()

    def drop(self) -> None:
        """Forget the backlog: the connection is over. Everybody who waits is woken, nobody is told of failures."""
        self._nursery = None
        self._stream.notify(None)
        self._failed = _unheard
        self._backlog.clear()
        self.size = 0
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()
        self._drained.unpark_all()

    async def _run(self) -> None:
        try:
            while self._backlog or self._stream.unsent:
                await self._send_first()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._failed(error)
        finally:
            self._running = False
            self._drained.unpark_all()

    async def _send_first(self) -> None:
        await self._stream.wait_send_all_might_not_block()
        if not self._backlog:
            return  # dropped while we waited, or nothing but what the stream itself had held back
        if self._stream.unsent:
            self.progress_at = trio.current_time()  # some of it has left: a frame may take long on a slow link
            return
        piece = self._backlog[0]
        sent = self._stream.try_send(piece)
        if sent == 0:
            sent = min(len(piece), _PIECE)
            await self._stream.send_all(piece[:sent])
        if not self._backlog:
            return
        self.progress_at = trio.current_time()
        self.size -= sent
        if sent == len(piece):
            self._backlog.popleft()
        else:
            self._backlog[0] = memoryview(piece)[sent:]
        if self.size <= self._limit // 2:
            self._wake_waiters()


def _unheard(error: Exception) -> None:
    pass
