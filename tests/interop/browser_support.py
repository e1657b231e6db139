"""A page in headless Chromium with a js-libp2p node in it, which does what the test asks for (`browser/page.mjs`).

Nothing drives the browser: the page comes from here, asks at `/next` what it is to do and says at `/done` what came of
it. It does several things at once when it is asked to.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import h11
import trio

from tests.interop.peers import LINE_LIMIT, START_SECONDS, STOP_SECONDS, PeerFailed, command

FLAGS = (
    "--headless",
    "--no-sandbox",  # root has none, and the page is ours
    "--disable-gpu",
    "--disable-dev-shm-usage",  # small in containers
    "--disable-background-networking",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--ignore-certificate-errors",  # of a listener on /tls/ws, which signs its own
)
TYPES = {".html": b"text/html", ".js": b"text/javascript"}
NOT_FOUND = (404, b"text/plain", b"")


class Page:
    """An open page; made by `open_browser`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._to_do, self._next = trio.open_memory_channel[bytes](math.inf)
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self.started = trio.Event()  # the page has asked what to do

    async def ask(self, operation: str, **given: Any) -> Any:
        """Have the page do something and return its result. Raises `PeerFailed` with what the page says went wrong."""
        number = next(self._numbers)
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._waiting[number] = send
        self._to_do.send_nowait(json.dumps({"number": number, "operation": operation, **given}).encode())
        answer = await receive.receive()
        if "error" in answer:
            raise PeerFailed(f"the page could not {operation}: {answer['error']}")
        return answer["result"]

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one request of the browser, which may go away at any time."""
        async with stream:
            with suppress(h11.RemoteProtocolError, trio.BrokenResourceError):
                await self._serve(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER)
        request, body = None, b""
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
                assert len(body) < LINE_LIMIT
            else:
                return  # a connection that was opened in advance
        assert request is not None
        status, kind, content = await self._answer(request.target.decode(), body)
        headers = [("Content-Type", kind), ("Content-Length", str(len(content))), ("Connection", "close")]
        parts = (h11.Response(status_code=status, headers=headers), h11.Data(data=content), h11.EndOfMessage())
        await stream.send_all(b"".join(http.send(part) or b"" for part in parts))

    async def _answer(self, target: str, body: bytes) -> tuple[int, bytes, bytes]:
        """Status, type and content."""
        if target == "/next":
            self.started.set()
            return 200, b"application/json", await self._next.receive()
        if target == "/done":
            answer = json.loads(body)
            self._waiting.pop(answer["number"]).send_nowait(answer)
            return 200, b"text/plain", b""
        file = self._folder / ("index.html" if target == "/" else target[1:])
        if file.parent != self._folder or not file.exists():
            return NOT_FOUND
        return 200, TYPES[file.suffix], file.read_bytes()


class Browser:
    """A running Chromium with one page; its processes are one group."""

    def __init__(self, process: trio.Process, page: Page) -> None:
        self.page = page
        self._process = process
        self._said = b""
        self._leaves = False
        self._watching = trio.CancelScope(shield=True)  # until `close`, which is called in any case
        self._gone = trio.Event()  # the last of its processes: all of them have standard error

    def errors(self) -> str:
        """The end of what it wrote to standard error."""
        return self._said.decode(errors="replace")

    def kill(self) -> None:
        """End all of it at once, as a crash would."""
        self._leaves = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """End it as a person would, after `STOP_SECONDS` by force. Raises `PeerFailed` when a process of it is left."""
        self._leaves = True
        with trio.CancelScope(shield=True):
            for end in (self._process.terminate, self.kill):
                if not self._gone.is_set():
                    end()
                    with trio.move_on_after(STOP_SECONDS):
                        await self._gone.wait()
            self._watching.cancel()
            await self._process.wait()
        if not self._gone.is_set():
            raise PeerFailed("a process of chromium does not end")

    async def watch(self) -> None:
        """Read what it complains of, until it is gone. Raises `PeerFailed` when nobody wanted that."""
        assert self._process.stderr is not None
        async with self._process.stderr as stderr:
            with self._watching:
                async for chunk in stderr:
                    self._said = (self._said + chunk)[-2_000:]
                self._gone.set()
        if not self._leaves:
            raise PeerFailed(f"chromium ended\n{self.errors()}")


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """A browser that shows the page, for the time of the block. Raises `PeerUnavailable`, `PeerFailed`.

    Ask for `browser` and `chromium` in a fixture first (`require`): getting them takes minutes.
    """
    page = Page(Path(command("browser")[0]))
    with tempfile.TemporaryDirectory(prefix="pyp2p-browser-") as home:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, page.serve, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            process = await trio.lowlevel.open_process(
                [*command("chromium"), *FLAGS, f"--user-data-dir={home}", f"http://127.0.0.1:{port}/"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=os.environ | {"HOME": home},
                start_new_session=True,
            )
            browser = Browser(process, page)
            nursery.start_soon(browser.watch)
            try:
                with trio.move_on_after(START_SECONDS):
                    await page.started.wait()
                if not page.started.is_set():
                    raise PeerFailed(f"chromium did not open the page within {START_SECONDS} s\n{browser.errors()}")
                yield browser
            finally:
                await browser.close()
            nursery.cancel_scope.cancel()
