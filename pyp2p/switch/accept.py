"""The accept loop of one listener: a slot first, then a task; accepting never waits for an upgrade."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from pyp2p.transports.base import Listener, RawConn

logger = logging.getLogger("pyp2p.accept")

_FIRST_PAUSE = 0.05  # after an error that may pass (EMFILE, ENFILE, ENOBUFS, ECONNABORTED), doubling
_LONGEST_PAUSE = 1.0


async def accept_loop(listener: Listener, accepted: Callable[[RawConn], None]) -> None:
    """Give every raw connection to `accepted` (which does not wait) until the listener is closed or we are cancelled.

    An `OSError` of accepting pauses the loop, it never ends it; one log line per pause that has doubled.
    """
    pause = 0.0
    while True:
        try:
            raw = await listener.accept()
        except trio.ClosedResourceError:
            return
        except OSError as error:
            longer = min(max(pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
            if longer > pause:
                logger.warning("accept paused addr=%s seconds=%s error=%s", listener.address, longer, error.strerror)
            pause = longer
            await trio.sleep(pause)
            continue
        pause = 0.0
        accepted(raw)
