"""Raw byte streams below the secure channel: trio's contract plus one await-free verb."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import trio


class RawStream(trio.abc.HalfCloseableStream):
    """A stream that can also send without waiting.

    `try_send` is what makes it safe to write from any task, even one that is being cancelled: it has no await.
    """

    @abstractmethod
    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """Send what fits now and return how many bytes that was (0: nothing); never waits.

        Must not be called while a `send_all` is under way. Raises `trio.BrokenResourceError` when the stream is
        broken and `trio.ClosedResourceError` when it is closed.
        """

    @property
    def unsent(self) -> bool:
        """True when some of what `try_send` took, or an answer of the stream's own, has not left.

        Each `wait_send_all_might_not_block` sends on what there is room for.
        """
        return False

    def notify(self, wake: Callable[[], None] | None) -> None:
        """Have `wake` called when something is `unsent` that nobody sent; None: no more. Most streams never call."""

    async def aclose_now(self) -> None:
        """Close at once; never waits. Streams that can close without an await do only that: no scope, no checkpoint."""
        await trio.aclose_forcefully(self)


class PlainStream(RawStream):
    """Any trio stream as a `RawStream`: `try_send` takes nothing, so all bytes go through the writer task."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """Always 0: a plain stream can only send by waiting."""
        return 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream underneath."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream underneath."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As the stream underneath; nothing where that has no half-close: what is inside has an end of its own."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As the stream underneath."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        """As the stream underneath."""
        await self._stream.aclose()
