"""Where Prometheus fetches the metrics of a node: `GET /metrics` over HTTP, and nothing else.

Rules: one answer per connection. A head has at most `MAX_HEAD` bytes, a connection `DEADLINE` seconds in all, and of
more than `MAX_CONNECTIONS` the oldest makes room: who is slow on purpose keeps nobody else from reading. A page is made
at most once a second for each format, since making one is what costs the node. HTTP is parsed by h11.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Sequence

import h11
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from pyp2p.errors import describe
from pyp2p.io.guard import call_guarded, run_guarded
from pyp2p.io.loglimit import LogLimiter

logger = logging.getLogger("pyp2p.metrics")

MAX_HEAD = 8 * 1024  # bytes of a request before its end must have come
MAX_CONNECTIONS = 8
DEADLINE = 10.0  # seconds from accepting to the end
PAGE_AGE = 1.0  # seconds that a page is given again
_DRAIN = 1.0  # seconds, and bytes, that we still read after our answer: closing on unread input would destroy it
_DRAINED = 64 * 1024
_BACKLOG = 16
# The formats of our library: version and escaping come from the request, and are kept only where they are real ones.
_FORMAT = re.compile(
    r"(text/plain|application/openmetrics-text); version=(0\.0\.4|1\.0\.0); charset=utf-8"
    r"(; escaping=(allow-utf-8|underscores|dots|values))?"
)
_REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 405: b"Method Not Allowed", 500: b"Internal Error"}


async def serve_metrics(
    host: str,
    port: int,
    registry: CollectorRegistry,
    *,
    task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests for the metrics of `registry` on every address of `host`, until cancelled.

    `await nursery.start(serve_metrics, host, port, registry)` returns the addresses as (host, port); port 0 chooses
    one. Raises `ValueError` for a port that is none, `OSError` that names host and port when we cannot listen there.
    What a client does never ends it.
    """
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"metrics: {port} is no port")
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
    except OSError as error:
        why = "the port is taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise OSError(error.errno, f"metrics: cannot listen on {host} port {port}: {why}") from error
    pages = MetricsPages(registry)
    task_status.started([listener.socket.getsockname()[:2] for listener in listeners])
    await trio.serve_listeners(pages.serve, listeners)


class MetricsPages:
    """Answers requests on streams, for `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._open: dict[trio.CancelScope, None] = {}  # oldest first
        self._pages: dict[str, tuple[float, bytes]] = {}  # by format: when made, and the page; as many as `_FORMAT`
        self._failures = LogLimiter(logger)

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Answer the one request of a connection and close it. Raises nothing, whatever the client does."""
        if len(self._open) >= MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        with trio.move_on_after(DEADLINE) as scope:
            self._open[scope] = None
            try:
                error = await run_guarded(self._answer, stream)
                if error is not None and not isinstance(error, (trio.BrokenResourceError, trio.ClosedResourceError)):
                    self._failed(error)
            finally:
                self._open.pop(scope, None)
                await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.abc.HalfCloseableStream) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        try:
            request = await _read_head(stream, http)
        except h11.RemoteProtocolError:
            await _send(stream, http, 400)
        else:
            if request is None:
                return
            await self._reply(stream, http, request)
        await stream.send_eof()
        with trio.move_on_after(_DRAIN):
            left = _DRAINED
            while left > 0 and (data := await stream.receive_some(left)):
                left -= len(data)

    async def _reply(self, stream: trio.abc.HalfCloseableStream, http: h11.Connection, request: h11.Request) -> None:
        if request.target.split(b"?")[0] != b"/metrics":
            await _send(stream, http, 404)
        elif request.method not in (b"GET", b"HEAD"):
            await _send(stream, http, 405, headers=[(b"Allow", b"GET, HEAD")])
        else:
            accept = b", ".join(value for name, value in request.headers if name == b"accept").decode("latin-1")
            made: list[tuple[str, bytes]] = []
            error = call_guarded(lambda: made.append(self._page(accept)))
            if error is None:
                content_type, page = made[0]
                headers = [(b"Content-Type", content_type.encode("ascii"))]
                await _send(stream, http, 200, headers=headers, body=page, shown=request.method == b"GET")
            else:  # what reads the node's values is the application's
                self._failed(error)
                await _send(stream, http, 500)

    def _page(self, accept: str) -> tuple[str, bytes]:
        """The format that a client is given, and the page in it."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the library compares versions such as 1.x with numbers
            encode, content_type = choose_encoder("")
        if _FORMAT.fullmatch(content_type) is None:
            encode, content_type = choose_encoder("")
        now = trio.current_time()
        kept = self._pages.get(content_type)
        if kept is None or now - kept[0] >= PAGE_AGE:
            kept = self._pages[content_type] = now, encode(self._registry)
        return content_type, kept[1]

    def _failed(self, error: Exception) -> None:
        self._failures.log(trio.current_time(), "metrics failed error=%s", describe(error), level=logging.ERROR)


async def _read_head(stream: trio.abc.HalfCloseableStream, http: h11.Connection) -> h11.Request | None:
    """The request; None when the client ended without one. Raises `h11.RemoteProtocolError`."""
    room = MAX_HEAD
    while (event := http.next_event()) is h11.NEED_DATA:
        if not room:
            raise h11.RemoteProtocolError(f"the head of the request is over {MAX_HEAD} bytes")
        data = bytes(await stream.receive_some(room))
        room -= len(data)
        http.receive_data(data)
    return event if isinstance(event, h11.Request) else None


async def _send(
    stream: trio.abc.HalfCloseableStream,
    http: h11.Connection,
    status: int,
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    shown: bool = True,
) -> None:
    """Send an answer whole; one whose body is not `shown` (to HEAD) still tells its length."""
    head = h11.Response(
        status_code=status,
        reason=_REASONS[status],
        headers=[*headers, (b"Content-Length", str(len(body)).encode("ascii")), (b"Connection", b"close")],
    )
    parts = [http.send(event) for event in (head, h11.Data(data=body if shown else b""), h11.EndOfMessage())]
    await stream.send_all(b"".join(part for part in parts if part))
