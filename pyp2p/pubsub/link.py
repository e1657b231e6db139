"""One peer's streams: what waits for it, the stream that carries it, and what is known of it.

Rules: per peer, not per connection: with two connections one outbound stream, on the oldest; when that ends, the next
one takes over and says hello again. The bytes of a message are shared by all peers.
"""

from __future__ import annotations

from collections import deque

import trio

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.outbox import Batch, Outbox
from pyp2p.pubsub.types import Lane, Send
from pyp2p.switch.connection import Connection
from pyp2p.switch.stream import MuxedStream


class Link:
    """What the service keeps of one peer for as long as a connection or a stream of it is there."""

    def __init__(self, peer: PeerId, outbox: Outbox, now: float) -> None:
        self.peer = peer
        self.outbox = outbox
        self.holders = 0  # tasks that use it
        self.given_up = False  # it is being disconnected
        self.progress_at = now  # when its stream last took something
        self.overdue = False  # a message of ours expired since then
        self.carriers: list[Connection] = []  # that could carry the stream, the oldest first
        self.turn = trio.CapacityLimiter(1)  # of the connection that does
        self.known = trio.Event()  # to the router
        self.heard = trio.Event()  # that the peer speaks pubsub: by a stream of its own, or by identify
        self.protocol: str | None = None  # that the peer named on its last stream
        self.greeted = False  # a stream of ours was open before: the next one needs a hello of its own
        self.inbound: MuxedStream | None = None
        self._waiting: deque[tuple[bytes, bytes]] = deque()  # own messages that the queue has no room for yet
        self._wake = trio.Event()

    def offer(self, send: Send) -> bool:
        """Queue a piece; own messages wait when there is no room. False: the peer is beyond help."""
        taken = True
        if send.lane is Lane.CONTROL:
            taken = self.outbox.control(send.fragment)
        elif send.lane is Lane.OWN:
            message_id = send.message_id or b""
            if self._waiting or not self.outbox.own(send.fragment, message_id):
                self._waiting.append((send.fragment, message_id))
        else:
            self.outbox.offer(send.lane, send.fragment, send.topic, send.message_id)
        self._wake.set()
        return taken

    def expire(self, message_id: bytes) -> None:
        """Our own message was not taken in time."""
        self.overdue = True
        if not self.outbox.cancel(message_id):
            self._waiting = deque(entry for entry in self._waiting if entry[1] != message_id)

    def take(self) -> Batch | None:
        """What is to be written next; own messages that waited for room move up."""
        while self._waiting and self.outbox.own(*self._waiting[0]):
            self._waiting.popleft()
        return self.outbox.take()

    def progress(self, now: float) -> None:
        """The stream took something."""
        self.progress_at = now
        self.overdue = False

    async def wait(self) -> None:
        """Wait until something was queued since the last wait."""
        await self._wake.wait()
        self._wake = trio.Event()
