"""Standard input without blocking the loop: its end, and its lines.

Rule: the end of a terminal, a file or /dev/null says nothing about a parent process; only that of a pipe or a socket
ends a command that waits for it.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import AsyncIterator

import trio

from pyp2p.cli.failure import UsageError

MAX_LINE = 16 * 1024 * 1024
_STDIN = 0
_READS = 16  # of what somebody wrote before the end


async def end_of_input() -> None:
    """Wait for the end of standard input when it is a pipe or a socket, else for ever."""
    if not _is_connection():
        await trio.sleep_forever()
    while await _read():
        pass


def is_over() -> bool:
    """True when standard input is a pipe or a socket that has ended already."""
    if not _is_connection():
        return False
    poll = select.poll()
    poll.register(_STDIN, select.POLLIN)
    for _ in range(_READS):
        if not poll.poll(0):
            return False
        if not os.read(_STDIN, 65536):
            return True
    return False


async def lines() -> AsyncIterator[bytes]:
    """The lines of standard input without their ends, until it closes; the last one need not have an end.

    Raises `UsageError` for a line of more than 16 MiB.
    """
    rest = b""
    while chunk := await _read():
        *whole, tail = chunk.split(b"\n")
        for line in whole:
            yield (rest + line).removesuffix(b"\r")
            rest = b""
        rest += tail
        if len(rest) > MAX_LINE:
            raise UsageError(f"a line of more than {MAX_LINE} bytes on standard input")
    if rest:
        yield rest


def _is_connection() -> bool:
    try:
        mode = os.fstat(_STDIN).st_mode
    except OSError:  # closed from the start
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


async def _read() -> bytes:
    """What came, b"" at the end."""
    try:
        await trio.lowlevel.wait_readable(_STDIN)
    except OSError:  # a file: there is nothing to wait for
        await trio.lowlevel.checkpoint()
    try:
        return os.read(_STDIN, 65536)
    except OSError:
        return b""
