"""The accept loop of one listener: a slot first, then a task; accepting never waits for an upgrade."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

import trio

from pyp2p.errors import InvalidMultiaddr
from pyp2p.transports.base import Listener, RawConn

logger = logging.getLogger("pyp2p.accept")

_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_FIRST_PAUSE = 0.05  # when the system has run out of something; doubles while that lasts
_LONGEST_PAUSE = 1.0
_IN_A_ROW = 100  # failures without a connection between them: whatever they are, they do not pass by themselves


async def accept_loop(listener: Listener, accepted: Callable[[RawConn], None]) -> None:
    """Give every raw connection to `accepted` (which does not wait) until the listener is closed or we are cancelled.

    An error of accepting never ends the loop: one of a single connection (ECONNABORTED, an interface whose name cannot
    stand in an address) is passed over, exhaustion (EMFILE) and a hundred failures in a row pause it. One log line per
    pause that has doubled.
    """
    pause = 0.0
    failures = 0
    while True:
        try:
            raw = await listener.accept()
        except trio.ClosedResourceError:
            return
        except (OSError, InvalidMultiaddr) as error:
            failures += 1
            passing = not isinstance(error, OSError) or error.errno not in _EXHAUSTED
            if passing and failures < _IN_A_ROW:
                logger.debug("accept failed addr=%s error=%s", listener.address, error)
                await trio.lowlevel.checkpoint()
                continue
            longer = min(max(pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
            if longer > pause:
                logger.warning("accept paused addr=%s seconds=%s error=%s", listener.address, longer, error)
            pause = longer
            await trio.sleep(pause)
            continue
        pause = 0.0
        failures = 0
        accepted(raw)
