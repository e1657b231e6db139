"""Echo, `/echo/1.0.0`: everything comes back until the peer ends its direction. For tests and demonstrations."""

from __future__ import annotations

import trio

ECHO_PROTOCOL = "/echo/1.0.0"


async def serve_echo(stream: trio.abc.HalfCloseableStream) -> None:
    """Send back what comes, as it comes; back-pressure is that of the stream."""
    async for chunk in stream:
        await stream.send_all(chunk)
