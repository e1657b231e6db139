"""An interrupt while a command loads: it ends the process at once.

Python's own handler raises wherever it is: in what loads modules that is shown as a traceback, or lost altogether.
"""

from __future__ import annotations

import os
import signal

from pyp2p.cli.failure import INTERRUPTED


def leave_at_once() -> None:
    """From now on SIGINT ends the process with 130, unless somebody has said before what it does."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def raise_again() -> None:
    """From now on SIGINT raises `KeyboardInterrupt` again, where `leave_at_once` had changed that."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(*_: object) -> None:
    os._exit(INTERRUPTED)
