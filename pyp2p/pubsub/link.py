"""One peer's streams: what waits for it, the stream that carries it, and what is known of it.

Rules: per peer, not per connection: with two connections one outbound stream, on the oldest; when that ends, or the
switch wants it to, the next one takes over and says hello again. The bytes of a message are shared by all peers.
"""

from __future__ import annotations

import trio

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.outbox import Batch, Outbox
from pyp2p.pubsub.types import Lane, Send
from pyp2p.switch.connection import Connection
from pyp2p.switch.stream import MuxedStream

_PIECE = 128 * 1024  # bytes whose taking counts as progress of a large message on a slow link
_SLOW_BEATS = 5  # in one or two a burst may not fit


class Link:
    """What the service keeps of one peer for as long as a connection or a stream of it is there."""

    def __init__(self, peer: PeerId, outbox: Outbox) -> None:
        self.peer = peer
        self.outbox = outbox
        self.holders = 0  # tasks that use it
        self.given_up = False  # it is being disconnected
        self.writing_since: float | None = None  # since when the stream has not taken the piece that is being written
        self.overdue = False  # a message of ours was given up on meanwhile
        self.stream: MuxedStream | None = None  # that carries ours, when one is open
        self._over = trio.Event()  # the stream
        self.opens_at = 0.0  # when the next one is tried
        self.slow_beats = 0  # heartbeats in a row in which forwarded messages found no room
        self.carriers: list[Connection] = []  # that could carry the stream, the oldest first
        self.turn = trio.CapacityLimiter(1)  # of the connection that does
        self.known = trio.Event()  # to the router
        self.heard = trio.Event()  # that the peer speaks pubsub: by a stream of its own, or by identify
        self.protocol: str | None = None  # that the peer named on its last stream
        self.greeted = False  # a stream of ours was open before: the next one needs a hello of its own
        self.inbound: MuxedStream | None = None
        self._waiting: dict[bytes, bytes] = {}  # own messages that the queue has no room for yet, by id
        self._wake = trio.Event()

    @property
    def moves(self) -> bool:
        """True when another connection should carry the stream, because its own is about to go."""
        carrier = None if self.stream is None else self.stream.connection
        here = next((connection for connection in self.carriers if connection is carrier), None)
        return here is not None and here.draining and not all(other.draining for other in self.carriers)

    def offer(self, send: Send) -> bool:
        """Queue a piece; own messages wait when there is no room. False: the peer is beyond help."""
        taken = True
        if send.lane is Lane.CONTROL:
            taken = self.outbox.control(send.fragment)
        elif send.lane is Lane.OWN:
            message_id = send.message_id or b""
            if self._waiting or not self.outbox.own(send.fragment, message_id):
                self._waiting[message_id] = send.fragment
        else:
            self.outbox.offer(send.lane, send.fragment, send.topic, send.message_id)
        self._wake.set()
        return taken

    @property
    def size(self) -> int:
        """Bytes that wait for the peer."""
        return self.outbox.size + sum(map(len, self._waiting.values()))

    def expire(self, message_id: bytes) -> None:
        """Our own message was not taken in time."""
        if not self.outbox.cancel(message_id):
            self.withdraw(message_id)
        self.overdue = True

    def withdraw(self, message_id: bytes) -> None:
        """Nobody waits for this message of our own any more: unless it is queued already, it is not sent."""
        self._waiting.pop(message_id, None)
        self.overdue = True

    def beat(self) -> bool:
        """A heartbeat: True when forwarded messages found no room in several in a row."""
        if self.moves:
            self._wake.set()
        self.slow_beats = self.slow_beats + 1 if self.outbox.overflowed else 0
        self.outbox.overflowed = False
        return self.slow_beats >= _SLOW_BEATS

    def take(self) -> Batch | None:
        """What is to be written next; own messages that waited for room move up."""
        while self._waiting:
            message_id, fragment = next(iter(self._waiting.items()))
            if not self.outbox.own(fragment, message_id):
                break
            del self._waiting[message_id]
        return self.outbox.take()

    def stuck(self, patience: float, now: float) -> bool:
        """A message of ours was given up on, and in `patience` seconds the open stream took nothing at all."""
        return self.overdue and self.writing_since is not None and now - self.writing_since >= patience

    def opened(self, stream: MuxedStream) -> None:
        """There is a stream that carries ours."""
        self.stream = stream
        self.overdue = False
        self._over = trio.Event()

    def ended(self) -> None:
        """There is none any more."""
        self.stream = self.writing_since = None
        self._over.set()

    async def finish(self) -> None:
        """Wake the writer, and wait until there is no stream."""
        self._wake.set()
        if self.stream is not None:
            await self._over.wait()

    async def write(self, data: bytes) -> None:
        """Give the stream all of it. Raises what `send_all` raises."""
        assert self.stream is not None
        for at in range(0, len(data), _PIECE):
            self.writing_since = trio.current_time()
            await self.stream.send_all(memoryview(data)[at : at + _PIECE])
            self.overdue = False
        self.writing_since = None

    async def wait(self) -> None:
        """Wait until something was queued since the last wait."""
        await self._wake.wait()
        self._wake = trio.Event()
