"""The command as a program: run to its end, or started and talked to; and hand-made peers that misbehave."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 30  # safety only: nothing here waits for time to pass
HEADER = b"\x13/multistream/1.0.0\n"
NOISE = b"\x07/noise\n"

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYP2P_", "NO_COLOR"))}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pyp2p", *words]


def run(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """The command run to its end, without a terminal."""
    environment = {**ENVIRONMENT, "COLUMNS": "1000", **more.pop("env", {})}
    settings = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True} | more
    return subprocess.run(command(*words), check=False, env=environment, timeout=SECONDS, **settings)


def unwrapped(text: str) -> str:
    """What was said to people, in one line."""
    return " ".join(text.split())


def events(text: str) -> list[dict[str, Any]]:
    """The lines of JSON, each checked for what all of them have."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(line["schema"] == 1 and isinstance(line["event"], str) for line in found)
    return found


class Listening:
    """`pyp2p listen --json` and what its first line said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.first = json.loads(process.stdout.readline())
        self.peer_id: str = self.first["peer_id"]
        self.address: str = next(iter(self.first["addresses"]), "")

    def close_stdin(self) -> str:
        """End it as a parent does; returns the rest of its output."""
        out, _ = self.process.communicate(timeout=SECONDS)
        return out


@contextmanager
def listening(
    *words: str, stdin: Any = subprocess.PIPE, how: tuple[str, ...] = ("listen",), **more: Any
) -> Iterator[Listening]:
    """A listener for the length of the block; `how` names another command that begins with its addresses."""
    with subprocess.Popen(
        command(*how, "--json", *words),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **more},
    ) as process:
        try:
            yield Listening(process)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=SECONDS)


@contextmanager
def hostile(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server in a thread: `serve` gets each connection. Gives the port; connections are closed at the end."""
    server = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def loop() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            accepted.append(connection)
            try:
                serve(connection)
            except OSError:
                connection.close()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(SECONDS)
        for connection in accepted:
            connection.close()


def silent(connection: socket.socket) -> None:
    """Accept and say nothing."""


def says(*answer: bytes, then_close: bool = False) -> Callable[[socket.socket], None]:
    """Read something, answer it."""

    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"".join(answer))
        if then_close:
            connection.close()

    return serve
