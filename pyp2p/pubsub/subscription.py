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
        for name, bound in (("max_count", max_count), ("max_bytes", max_bytes)):
            if not isinstance(bound, int) or bound < 1:
                raise ValueError(f"{name} of a subscription must be a whole number above 0, not {bound!r}")
        self.topic = topic
        self.dropped = 0
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._bytes = 0
        self._turn_ends = 0.0
        self._queue: deque[tuple[Message, int]] = deque()  # with what each takes
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
        message, size = self._queue.popleft()
        self._bytes -= size
        return message

    def __len__(self) -> int:
        """Messages that wait to be read."""
        return len(self._queue)

    def put(self, message: Message) -> bool:
        """Queue a message; False when the reader is too far behind. A single one may be of any size."""
        size = message.size
        if len(self._queue) >= self._max_count or (self._bytes and self._bytes + size > self._max_bytes):
            self.dropped += 1
            return False
        self._queue.append((message, size))
        self._bytes += size
        if self._readers:
            self._readers.unpark()
        return True

    def close(self) -> None:
        """End the iteration after what is queued."""
        self._closed = True
        self._readers.unpark_all()


class Subscriptions:
    """All subscriptions by topic."""

    def __init__(self) -> None:
        self._by_topic: dict[str, list[Subscription]] = {}

    def begin(self, subscription: Subscription) -> None:
        """It gets the messages of its topic from now on."""
        self._by_topic.setdefault(subscription.topic, []).append(subscription)

    def end(self, subscription: Subscription) -> bool:
        """It gets no more; True when it was the last one of its topic."""
        subscription.close()
        others = self._by_topic[subscription.topic]
        others.remove(subscription)
        if not others:
            del self._by_topic[subscription.topic]
        return not others

    def deliver(self, message: Message) -> int:
        """Give a message to all who listen; returns how many are too far behind to get it."""
        return sum(not each.put(message) for each in self._by_topic.get(message.topic, ()))

    def close(self) -> None:
        """End all."""
        for subscriptions in self._by_topic.values():
            for subscription in subscriptions:
                subscription.close()
