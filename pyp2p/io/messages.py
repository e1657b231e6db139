"""Length-prefixed messages over any trio stream: the one place where framed protobufs meet `await`."""

from __future__ import annotations

from collections import deque

import trio

from pyp2p.errors import LocalProtocolError
from pyp2p.io.varint import LengthPrefixed, prefixed


class MessageStream:
    """Messages of at most `limit` bytes each way, each behind its uvarint length.

    One task may receive while another sends. A cancelled `receive` loses nothing; a cancelled `send` may leave half a
    message behind, after which the stream is good only for closing.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._framer = LengthPrefixed(limit)
        self._ready: deque[bytes] = deque()  # bounded: what one read of the stream completed

    async def receive(self) -> bytes | None:
        """The next message; None when the stream ended between messages.

        Raises `WireError` when a length is malformed or over the limit or the end cuts a message, and trio's stream
        errors.
        """
        if self._ready:
            await trio.lowlevel.checkpoint()
            return self._ready.popleft()
        while not self._ready:
            data = await self._stream.receive_some()
            if not data:
                self._framer.finish()
                return None
            self._ready.extend(self._framer.feed(data))
        return self._ready.popleft()

    async def send(self, *messages: bytes) -> None:
        """Send the messages in one write. Raises `LocalProtocolError` when one is over the limit."""
        for message in messages:
            if len(message) > self._limit:
                raise LocalProtocolError(f"message of {len(message)} bytes is over the limit of {self._limit}")
        await self._stream.send_all(b"".join(map(prefixed, messages)))
