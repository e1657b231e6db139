"""Events for any number of subscribers, over bounded channels that slow the emitter and lose nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

E = TypeVar("E")


class Hub(Generic[E]):
    """Fans events out, to each subscriber through a channel of `capacity` events."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._channels: list[trio.MemorySendChannel[E]] = []
        self._closed = False

    @property
    def watched(self) -> bool:
        """True while somebody is subscribed."""
        return bool(self._channels)

    async def tell(self, event: E) -> None:
        """Give `event` to every subscriber before anything else happens to the teller: shielded from cancellation.

        Does not even yield when there is no subscriber.
        """
        if self._channels:
            with trio.CancelScope(shield=True):
                await self.emit(event)

    async def emit(self, event: E) -> None:
        """Give `event` to every subscriber, waiting for those that are full; one that has gone is skipped."""
        for channel in list(self._channels):
            try:
                await channel.send(event)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._remove(channel)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[E]]:
        """Subscribe; the iterator ends when the hub is closed."""
        send, receive = trio.open_memory_channel[E](self._capacity)
        self._channels.append(send)
        if self._closed:
            self._remove(send)
        try:
            async with receive:
                yield receive
        finally:
            self._remove(send)

    def close(self) -> None:
        """End all subscriptions after what they still hold; emitters that wait are released. New ones end at once."""
        self._closed = True
        for channel in list(self._channels):
            self._remove(channel)

    def _remove(self, channel: trio.MemorySendChannel[E]) -> None:
        channel.close()
        if channel in self._channels:
            self._channels.remove(channel)
