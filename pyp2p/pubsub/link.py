"""One peer's streams: what waits for it, the stream that carries it, the publications that wait with it.

Rules: per peer, not per connection: with two connections one outbound stream, on the oldest; when that ends, the next
one takes over and says hello again. The bytes of a message are shared by all peers.
"""

from __future__ import annotations

from collections import deque

import trio

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.outbox import Outbox
from pyp2p.pubsub.types import Lane
from pyp2p.switch.stream import MuxedStream


class Link:
    """What the service keeps of one peer."""

    def __init__(self, peer: PeerId, outbox: Outbox) -> None:
        self.peer = peer
        self.outbox = outbox
        self.carriers = 0  # connections that could carry the stream
        self.turn = trio.CapacityLimiter(1)  # of the connection that does
        self.ready = trio.Event()  # the router knows the peer
        self.inbound: MuxedStream | None = None
        self._waiting: deque[tuple[bytes, bytes]] = deque()  # own messages that the queue has no room for yet
        self._wake = trio.Event()

    def offer(self, lane: Lane, fragment: bytes, token: bytes | None, now: float) -> bool:
        """Queue a piece; our own messages wait when there is no room. False: it was dropped, or the queue is stuck."""
        if lane is Lane.OWN and (self._waiting or not self.outbox.offer(lane, fragment, now, token)):
            self._waiting.append((fragment, token or b""))
            return True
        taken = lane is Lane.OWN or self.outbox.offer(lane, fragment, now, token)
        if taken:
            self._wake.set()
        return taken

    def give_up(self, token: bytes) -> None:
        """Our own message has expired here."""
        if not self.outbox.cancel(token):
            self._waiting = deque(entry for entry in self._waiting if entry[1] != token)

    def refill(self, now: float) -> None:
        """Queue own messages that waited for room."""
        while self._waiting and self.outbox.offer(Lane.OWN, self._waiting[0][0], now, self._waiting[0][1]):
            self._waiting.popleft()

    async def wait(self) -> None:
        """Wait until something was queued since the last wait."""
        await self._wake.wait()
        self._wake = trio.Event()
