"""Log lines of one form for all of libp2p, so that a tool such as fail2ban can act on them: who came, who misbehaves.

Rules: the words and their order are those of go-libp2p (core/canonicallog), since filters for its lines must fit ours;
logger `pyp2p.canonical`. pyp2p itself does nothing but write them.
"""

from __future__ import annotations

import logging
import random

from pyp2p.errors import RemoteError
from pyp2p.io.loglimit import LogLimiter
from pyp2p.peer.address import text
from pyp2p.switch.connection import Connection

logger = logging.getLogger("pyp2p.canonical")

_SAMPLE_RATE = 100  # one connection is normal, ten thousand from one address are not: a sample tells them apart
_SHOWN = 300  # characters of an error


class CanonicalLog:
    """Writes the lines of one switch; `rng` chooses which connections are told."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._limiter = LogLimiter(logger)

    def established(self, connection: Connection) -> None:
        """Log one in a hundred connections at INFO, as `CANONICAL_PEER_STATUS`."""
        # Drawn in any case: what is logged must not change which choices a seed leads to.
        if self._rng.randrange(_SAMPLE_RATE) == 0:
            logger.info(
                'CANONICAL_PEER_STATUS: peer=%s addr=%s sample_rate=%d connection_status="established" dir="%s"',
                connection.peer,
                text(connection.remote),
                _SAMPLE_RATE,
                connection.direction.value,
            )

    def misbehaving(self, connection: Connection, component: str, error: RemoteError, now: float) -> None:
        """Log at INFO, as `CANONICAL_MISBEHAVING_PEER`, that the peer broke a rule of `component`.

        Not at WARNING as go does: what a remote can cause is nothing to wake anybody for, and its rate is bounded.
        `err` is the error and `msg` its type, quoted as Go's %q does, except that all that is not ASCII is escaped too;
        `now` is in monotonic seconds.
        """
        self._limiter.log(
            now,
            "CANONICAL_MISBEHAVING_PEER: peer=%s addr=%s component=%s err=%s msg=%s",
            connection.peer,
            text(connection.remote),
            component,
            quoted(str(error)),
            quoted(type(error).__name__),
        )


def quoted(said: str) -> str:
    """Text of a remote in double quotes, so that it can neither end them nor the line; cut after 300 characters."""
    shown = said[:_SHOWN].replace("\\", "\\\\").replace('"', '\\"')
    escaped = "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in shown)
    return f'"{escaped}"' if len(said) <= _SHOWN else f'"{escaped}..."'
