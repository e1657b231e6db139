"""What a subscriber of a topic reads from: a queue that is bounded in messages and bytes."""

from __future__ import annotations

import trio

from pyp2p.pubsub.types import Message


class Subscription:
    """Messages of one topic, as an async iterator; `dropped` counts those that a slow reader missed."""

    def __init__(self, topic: str, max_count: int, max_bytes: int) -> None:
        self.topic = topic
        self.dropped = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._send, self._receive = trio.open_memory_channel[Message](max_count)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        try:
            message = await self._receive.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise StopAsyncIteration from None
        self._bytes -= len(message.raw)
        return message

    def put(self, message: Message) -> bool:
        """Queue a message; False when the reader is too far behind. A single one may be of any size."""
        size = len(message.raw)
        if not self._bytes or self._bytes + size <= self._max_bytes:
            try:
                self._send.send_nowait(message)
            except trio.WouldBlock:
                pass
            else:
                self._bytes += size
                return True
        self.dropped += 1
        return False

    def close(self) -> None:
        """End the iteration after what is queued."""
        self._send.close()
