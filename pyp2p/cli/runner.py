"""Running a command under trio: signals, the live line, a reader that goes away.

Rules: SIGINT, SIGTERM and the hangup of the terminal (unless that is ignored, as under nohup) cancel the command, which
ends in an orderly way; a second SIGINT ends it at once. Commands give their exit code and raise nothing that is
expected (`CommandFailed` is shown inside).
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio

from pyp2p.cli.failure import INTERRUPTED
from pyp2p.cli.interrupts import raise_again
from pyp2p.cli.output import Output

_REDRAW = 0.2


def run(command: Callable[[], Awaitable[int]], out: Output, terminated: int = INTERRUPTED) -> int:
    """Run `command` and return its exit code; 130 when it was interrupted, `terminated` after SIGTERM and SIGHUP."""
    code = INTERRUPTED
    try:
        raise_again()
        code = trio.run(_main, command, out, terminated)
    except* KeyboardInterrupt:  # before the receiver was there, or the second one
        out.status(None)
    return code


async def _main(command: Callable[[], Awaitable[int]], out: Output, terminated: int) -> int:
    code = INTERRUPTED
    async with trio.open_nursery() as nursery:
        out.on_gone = nursery.cancel_scope.cancel

        async def watch(task_status: trio.TaskStatus[None]) -> None:
            nonlocal code
            ends = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                ends.append(signal.SIGHUP)
            with trio.open_signal_receiver(*ends) as signals:
                task_status.started()
                async for number in signals:
                    if number != signal.SIGINT:
                        code = terminated
                    break
            nursery.cancel_scope.cancel()

        await nursery.start(watch)
        if out.live:
            nursery.start_soon(_animate, out)
        code = await command()
        nursery.cancel_scope.cancel()
    out.status(None)
    return code


async def _animate(out: Output) -> None:
    while True:
        await trio.sleep(_REDRAW)
        out.redraw()
