"""Which protocols we serve, and the one boundary where a crash of the application's code is caught.

Rule: with `io/guard.py` this file holds the only `except Exception` of the package, one for each way in which others'
code is called: a handler that raises costs its stream, a connection task its connection, a matcher its answer. Nobody
else notices more than one log line.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import trio

from pyp2p.errors import P2PError, describe, innermost, printable
from pyp2p.multistream.wire import encode_line
from pyp2p.switch.connection import Connection
from pyp2p.switch.facts import CloseReason
from pyp2p.switch.limits import Budget
from pyp2p.switch.stream import MuxedStream

logger = logging.getLogger("pyp2p.handlers")

Handler = Callable[[MuxedStream], Awaitable[None]]
Matcher = Callable[[str], bool]

# What a handler may let through when the network or the peer fails it: no line above DEBUG.
_NETWORK = (P2PError, OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
HANDLER_FAILED = 1  # the reset code that tells the peer of a crash here; go-libp2p has no registered meaning for it


@dataclass(frozen=True, slots=True)
class Mounted:
    """One served protocol and how it is served; see `Switch.mount`."""

    protocol: str
    handler: Handler
    match: Matcher | None
    budget: Budget
    before_admission: bool
    after_identify: bool


class ProtocolTable:
    """The protocols that are served now, by exact name and by matcher."""

    def __init__(self) -> None:
        self._mounted: dict[str, Mounted] = {}
        self._matchers: list[Mounted] = []

    def mount(self, entry: Mounted) -> None:
        """Serve a protocol. Raises `ValueError` when it is served already."""
        if entry.protocol in self._mounted:
            raise ValueError(f"protocol {entry.protocol} is already mounted")
        self._mounted[entry.protocol] = entry
        if entry.match is not None:
            self._matchers.append(entry)

    def unmount(self, protocol: str) -> None:
        """Serve it no longer; streams that are open go on. Raises `KeyError` when it is not mounted."""
        entry = self._mounted.pop(protocol)
        if entry in self._matchers:
            self._matchers.remove(entry)

    def names(self) -> list[str]:
        """The protocols to advertise, in the order of mounting."""
        return list(self._mounted)

    def lookup(self, protocol: str) -> Mounted | None:
        """Who serves `protocol`; exact names go before matchers."""
        entry = self._mounted.get(protocol)
        if entry is not None:
            return entry
        for entry in self._matchers:
            if entry.match is not None and _says_yes(entry.match, protocol):
                return entry
        return None

    def mounted(self, protocol: str) -> bool:
        """True when `protocol` is mounted by this very name."""
        return protocol in self._mounted

    def serves(self, protocol: str) -> bool:
        """True when somebody serves `protocol`."""
        return self.lookup(protocol) is not None


def _says_yes(match: Matcher, protocol: str) -> bool:
    """A matcher that crashes over a name from outside says no."""
    try:
        return match(protocol)
    except Exception as error:  # of the application's matcher: it says no, and the stream of nobody else ends
        logger.debug("matcher failed protocol=%s error=%r", printable(protocol), error)
        return False


def protocol_names(protocols: str | Iterable[str]) -> list[str]:
    """One name or several as a list. Raises `ValueError` for none, and for one that multistream-select cannot carry."""
    names = [protocols] if isinstance(protocols, str) else list(protocols)
    if not names:
        raise ValueError("a protocol needs a name")
    for name in names:
        if name in ("na", "ls"):
            raise ValueError(f"{name} is a word of multistream-select, no protocol")
        encode_line(name)
    return names


async def run_handler(stream: MuxedStream, handler: Handler) -> None:
    """Run `handler`; afterwards the stream is closed, or reset when it raised."""
    try:
        await handler(stream)
    except Exception as error:  # of the application's handler: it costs its stream, not the connection
        stream.reset(HANDLER_FAILED)
        expected = isinstance(error, _NETWORK)
        logger.log(
            logging.DEBUG if expected else logging.ERROR,
            "handler failed peer=%s protocol=%s error=%s",
            stream.peer,
            printable(stream.protocol),
            describe(error),
        )
        logger.debug("handler traceback", exc_info=error)
    else:
        await stream.aclose()


async def run_connection(connection: Connection, started: Callable[[], None]) -> None:
    """Run `connection` until it ends; an exception that is not of the network's making closes it and is logged."""
    try:
        await connection.run(started)
    except Exception as raised:  # a bug of ours or of a service: it costs this connection, not the switch
        error = innermost(raised)
        connection.reason = CloseReason("crashed", f"{type(error).__name__}: {error}")
        connection.error = error if isinstance(error, Exception) else raised
        logger.error(
            "connection failed peer=%s id=%s error=%s",
            connection.peer,
            connection.id,
            describe(error),
        )
        logger.debug("connection traceback", exc_info=error)
