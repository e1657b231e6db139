"""Negotiations as values: every negotiation is a `Handshake` core, and `drive` is the one loop that moves its bytes.

Rules: a core does no I/O; `drive` never reads past what the core asks for, and hands on what is left in either
direction. That is what lets stages share flights: a core may be done with output still unsent (the next stage
prepends it), and bytes that came too early are the next stage's inbox.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

import trio

from pyp2p.errors import P2PError, RemoteClosed
from pyp2p.io.stream import RawStream
from pyp2p.trace import Trace

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

READ_SIZE = 65536  # one read of a socket; between two processes 64 KiB beat 16, 128 and 256 KiB


class Direction(enum.Enum):
    """Who opened the connection or stream, seen from here."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"

    @property
    def outbound(self) -> bool:
        """True when we opened it."""
        return self is Direction.OUTBOUND


class Handshake(Protocol[R_co]):
    """A negotiation without I/O: bytes in by `feed`, bytes out by `take_output`, until `done`.

    `result` and `leftover` (input that belongs to the next layer) are readable only when `done`.
    """

    @property
    def done(self) -> bool:
        """True when no further input is needed. Output may still be waiting."""
        ...

    @property
    def result(self) -> R_co:
        """What was negotiated."""
        ...

    @property
    def leftover(self) -> bytes:
        """Input after the end of the negotiation."""
        ...

    def feed(self, data: bytes) -> None:
        """Take input. Raises `RemoteError` when the peer breaks a rule, `NoCommonProtocol` on honest disagreement."""
        ...

    def take_output(self) -> bytes:
        """The bytes to send now; each byte is returned once."""
        ...


class Pipelined(Generic[R]):
    """Two negotiations in one flight: `first` has spoken and only waits for an answer, `then` speaks at once.

    Used by a dialer with a single offer: the answer to `first` is checked as a prefix of what arrives for `then`.
    `between` is called once, when the first is done. `then_out` and `then_in` count the bytes of the second.
    """

    def __init__(self, first: Handshake[object], then: Handshake[R], between: Callable[[], None]) -> None:
        self._first = first
        self._then = then
        self._between = between
        self._first_open = not first.done
        self.then_out = 0
        self.then_in = 0

    @property
    def done(self) -> bool:
        """True when both are done."""
        return self._first.done and self._then.done

    @property
    def result(self) -> R:
        """The result of the second negotiation."""
        return self._then.result

    @property
    def leftover(self) -> bytes:
        """What the second negotiation left."""
        return self._then.leftover

    def feed(self, data: bytes) -> None:
        """Feed the first until it is done, the rest to the second."""
        if self._first_open:
            self._first.feed(data)
            if not self._first.done:
                return
            self._first_open = False
            self._between()
            data = self._first.leftover
            if not data:
                return
        self.then_in += len(data)
        self._then.feed(data)

    def take_output(self) -> bytes:
        """The output of the first, then of the second."""
        first, then = self._first.take_output(), self._then.take_output()
        self.then_out += len(then)
        return first + then


async def drive(
    core: Handshake[R], stream: RawStream, trace: Trace, inbox: bytes = b"", outbox: bytes = b""
) -> tuple[R, bytes, bytes]:
    """Run `core` over `stream` until it is done; returns (result, leftover, unsent).

    `inbox` is input that an earlier stage left, `outbox` output that it did not send. `unsent` is output that
    nobody has to wait for: the next stage sends it in front of its own. Bytes and waits are added to the current
    step of `trace`. Raises what the core raises, after the core's last words (a refusal) went out as far as they
    fit, `RemoteClosed` at end of stream, and trio's stream errors. Cancellation leaves the stream unusable for
    anything but close.
    """
    out = outbox
    if inbox:
        trace.current.received(len(inbox), trio.current_time())
        _feed(core, stream, inbox, out)
    out += core.take_output()
    while not core.done:
        if out:
            await stream.send_all(out)
            trace.current.sent(len(out), trio.current_time())
            out = b""
        data = await stream.receive_some(READ_SIZE)
        if not data:
            raise RemoteClosed(f"the peer closed the connection during {trace.stage.value}")
        trace.current.received(len(data), trio.current_time())
        _feed(core, stream, bytes(data), b"")
        out = core.take_output()
    return core.result, core.leftover, out


def _feed(core: Handshake[R], stream: RawStream, data: bytes, outbox: bytes) -> None:
    try:
        core.feed(data)
    except P2PError:
        last_words = outbox + core.take_output()
        if last_words:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # what the peer broke matters more
                stream.try_send(last_words)
        raise
