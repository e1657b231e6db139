"""Perf, `/perf/1.0.0`: upload, then download, of a given number of bytes (libp2p specs, perf).

Rules: the client names the download size (u64, big end first), sends its upload and ends its direction; the server
reads to the end and only then sends. Off by default: a few bytes make a server send 2**64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from pyp2p.errors import WireError

PERF_PROTOCOL = "/perf/1.0.0"
_BLOCK = bytes(256 * 1024)


@dataclass(frozen=True, slots=True)
class PerfResult:
    """Bytes moved each way and the seconds that took; the upload ends when the server has read all of it."""

    upload_bytes: int
    download_bytes: int
    upload_seconds: float
    download_seconds: float


async def serve_perf(stream: trio.abc.HalfCloseableStream) -> None:
    """Serve one run. Raises `WireError` when the stream ends before the download size is complete."""
    head = b""
    while len(head) < 8:
        chunk = await stream.receive_some()
        if not chunk:
            raise WireError("a perf request without a download size")
        head += chunk
    async for _ in stream:
        pass
    await _send(stream, int.from_bytes(head[:8], "big"), None)
    await stream.send_eof()


async def run_perf(
    stream: trio.abc.HalfCloseableStream,
    upload: int,
    download: int,
    progress: Callable[[int, int], None] | None = None,
) -> PerfResult:
    """Upload and download so many bytes over an open perf stream.

    `progress(uploaded, downloaded)` is called after each piece. Raises `WireError` when the server sends fewer or more
    bytes than asked for; stream errors are trio's.
    """
    started = trio.current_time()
    await stream.send_all(download.to_bytes(8, "big"))
    await _send(stream, upload, None if progress is None else lambda sent: progress(sent, 0))
    await stream.send_eof()
    received = 0
    uploaded: float | None = None
    async for chunk in stream:
        if uploaded is None:
            uploaded = trio.current_time()
        received += len(chunk)
        if received > download:
            raise WireError(f"the server sent more than the {download} bytes asked for")
        if progress is not None:
            progress(upload, received)
    if received != download:
        raise WireError(f"the server sent {received} of {download} bytes")
    ended = trio.current_time()
    uploaded = ended if uploaded is None else uploaded
    return PerfResult(upload, download, uploaded - started, ended - uploaded)


async def _send(stream: trio.abc.HalfCloseableStream, size: int, progress: Callable[[int], None] | None) -> None:
    sent = 0
    while sent < size:
        piece = min(len(_BLOCK), size - sent)
        await stream.send_all(_BLOCK if piece == len(_BLOCK) else _BLOCK[:piece])
        sent += piece
        if progress is not None:
            progress(sent)
