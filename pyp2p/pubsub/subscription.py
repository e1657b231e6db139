"""What a subscriber of a topic reads from: a queue that is bounded in messages and bytes."""

from __future__ import annotations

from collections import deque

import trio

from pyp2p.pubsub.types import Message

# Seconds until other tasks have their turn. A turn for each message would cost as much as the message; and hundreds
# come in one turn of a peer, which a reader must be able to take in one turn of its own.
_SLICE = 0.01


class Subscription:
    """Messages of one topic, as an async iterator; `dropped` counts those that a slow reader missed.

    Messages that wait already are given out without a checkpoint for 10 ms at a time; cancellation is heeded.
    """

    def __init__(self, topic: str, max_count: int, max_bytes: int) -> None:
        self.topic = topic
        self.dropped = 0
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._bytes = 0
        self._turn_ends = 0.0
        self._queue: deque[Message] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._closed = False

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        await trio.lowlevel.checkpoint_if_cancelled()
        if trio.current_time() >= self._turn_ends:
            await trio.lowlevel.cancel_shielded_checkpoint()
            self._turn_ends = trio.current_time() + _SLICE
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            await self._readers.park()
            self._turn_ends = trio.current_time() + _SLICE
        message = self._queue.popleft()
        self._bytes -= message.size
        return message

    def put(self, message: Message) -> bool:
        """Queue a message; False when the reader is too far behind. A single one may be of any size."""
        size = message.size
        if len(self._queue) >= self._max_count or (self._bytes and self._bytes + size > self._max_bytes):
            self.dropped += 1
            return False
        self._queue.append(message)
        self._bytes += size
        if self._readers:
            self._readers.unpark()
        return True

    def close(self) -> None:
        """End the iteration after what is queued."""
        self._closed = True
        self._readers.unpark_all()
