"""UDP in the simulated network: datagrams that are late, lost, and swapped by jitter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio

from pyp2p.io.udp import Endpoint

_QUEUE = 1024  # datagrams that wait unread at a socket; more are lost, as at a real one


class SimUdpSocket:
    """A `DatagramSocket` of a simulated host: `carry(data, to)` brings a datagram away, `release()` frees the port."""

    def __init__(self, local: Endpoint, carry: Callable[[bytes, Endpoint], None], release: Callable[[], None]) -> None:
        self.local = local
        self.dropped = 0
        self.trouble = ""
        self._carry = carry
        self._release = release
        self._queue: deque[tuple[bytes, Endpoint]] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._closed = False

    def send_to(self, data: bytes, to: Endpoint) -> bool:
        """Send now; True also when it is going to be lost on its way."""
        if self._closed:
            self.dropped += 1
            return False
        self._carry(data, to)
        return True

    def send_many(self, datagrams: Sequence[bytes], to: Endpoint) -> None:
        """As `send_to` for each."""
        for data in datagrams:
            self.send_to(data, to)

    def arrive(self, data: bytes, sender: Endpoint) -> None:
        """A datagram is there; lost when too many wait."""
        if len(self._queue) < _QUEUE:
            self._queue.append((data, sender))
            self._readers.unpark()

    async def receive_many(self) -> list[tuple[bytes, Endpoint]]:
        """See `DatagramSocket.receive_many`."""
        await trio.lowlevel.checkpoint()
        while not self._queue:
            if self._closed:
                raise trio.ClosedResourceError("the socket was closed here")
            await self._readers.park()
        found = list(self._queue)
        self._queue.clear()
        return found

    def close(self) -> None:
        """Free the port."""
        if not self._closed:
            self._closed = True
            self._release()
            self._readers.unpark_all()
