"""Raw connection -> secure channel -> muxer: one symmetric function for both directions.

Rules: stages share flights (`io/handshake.py`). A dialer with a single security protocol sends the proposal and the
first handshake message together; with a single muxer it proposes it together with the last handshake message and goes
on at once, the answer being checked as a prefix of what arrives. So one security and one muxer on offer cost three
round trips from dial to identify, TCP included.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import trio

from pyp2p.errors import MultistreamError, NoCommonProtocol, SecurityError
from pyp2p.io.handshake import Handshake, Pipelined, R, drive
from pyp2p.multistream.core import Dialer, Listener
from pyp2p.muxers.base import MemoryBudget, Muxer, MuxerFactory, MuxerLimits
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.platform import Platform
from pyp2p.quic.base import MuxedConn
from pyp2p.security.base import SecureChannel, Security
from pyp2p.trace import Stage, Step, Trace
from pyp2p.transports.base import RawConn


@dataclass(frozen=True, slots=True)
class Stacks:
    """What we offer and use in every upgrade: securities and muxers, best first, our identity, our platform."""

    identity: Identity
    securities: Sequence[Security]
    muxers: Sequence[MuxerFactory]
    early_muxer: bool
    platform: Platform
    muxer_limits: MuxerLimits


@dataclass(slots=True)
class Upgraded:
    """What `upgrade` proved and negotiated.

    `early` is payload of the session that came too early, `unsent` are sealed bytes that go in front of our first
    output, `select` is the muxer proposal whose answer is still to come (None: agreed).
    """

    raw: RawConn
    channel: SecureChannel
    security: str
    muxer: Muxer
    muxer_protocol: str
    select: Dialer | None
    early: bytes
    unsent: bytes
    trace: Trace


class Sealed(Generic[R]):
    """A negotiation inside a secure channel, as a negotiation on the raw stream."""

    def __init__(self, channel: SecureChannel, inner: Handshake[R]) -> None:
        self._channel = channel
        self._inner = inner
        self._extra: list[bytes] = []

    @property
    def done(self) -> bool:
        """True when the inner negotiation is."""
        return self._inner.done

    @property
    def result(self) -> R:
        """The inner result."""
        return self._inner.result

    @property
    def leftover(self) -> bytes:
        """Plaintext that followed the negotiation."""
        return self._inner.leftover + b"".join(self._extra)

    def feed(self, data: bytes) -> None:
        """Open the frames and pass their plaintext on, until the inner negotiation is done."""
        for plain in self._channel.open(data):
            if self._inner.done:
                self._extra.append(plain)
            else:
                self._inner.feed(plain)

    def take_output(self) -> bytes:
        """The inner output, sealed."""
        output = self._inner.take_output()
        return bytes(self._channel.seal([output])) if output else b""


async def upgrade(
    raw: RawConn,
    stacks: Stacks,
    *,
    expect: PeerId | None,
    memory: MemoryBudget,
    trace: Trace,
    secured: Callable[[SecureChannel], Awaitable[None]],
) -> Upgraded:
    """Secure and mux `raw`; the caller holds the deadline and closes `raw` on failure.

    `expect` is the peer id that was dialled (None: learn it); `secured` is asked as soon as the peer is proven and may
    refuse by raising. Raises `RemoteError`, `NoCommonProtocol`, `Refused` or trio's stream errors; `trace.stage` tells
    where. Cancelling leaves `raw` good for closing only.
    """
    if isinstance(raw, MuxedConn):
        channel = await raw.session.secure(expect, trace)
        await secured(channel)
        session = raw.session
        trace.begin(Stage.MUXER_SELECT, f"{session.muxer_protocol} (early)", trio.current_time())
        muxer = session.muxer(stacks.muxer_limits)
        trace.finish(trio.current_time())
        return Upgraded(raw, channel, session.security, muxer, session.muxer_protocol, None, b"", b"", trace)
    channel, security, leftover, unsent = await _secure(raw, stacks, expect, trace)
    await secured(channel)
    factory, select, early, unsent = await _choose_muxer(raw, stacks, channel, trace, (leftover, unsent))
    now = trio.current_time()
    muxer = factory.session(raw.direction, stacks.muxer_limits, memory, now)
    trace.finish(now)
    return Upgraded(raw, channel, security, muxer, factory.protocol, select, early, unsent, trace)


async def _secure(
    raw: RawConn, stacks: Stacks, expect: PeerId | None, trace: Trace
) -> tuple[SecureChannel, str, bytes, bytes]:
    offers = {security.protocol: security for security in stacks.securities}
    names = list(offers)
    early = [muxer.protocol for muxer in stacks.muxers] if stacks.early_muxer else []
    identity, platform = stacks.identity, stacks.platform
    trace.begin(Stage.SECURITY_SELECT, ", ".join(names), trio.current_time())
    if raw.direction.outbound and len(names) == 1:
        name = names[0]

        select_step = trace.current

        def between() -> None:
            trace.begin(Stage.HANDSHAKE, name, trio.current_time())

        handshake = offers[name].handshake(identity, raw.direction, expect, early, platform)
        both = Pipelined(Dialer(names), handshake, between)
        unsent = b""
        try:
            channel, leftover, unsent = await drive(both, raw.stream, trace)
        finally:
            if trace.current is not select_step:
                _move(select_step, trace.current, both.then_out - len(unsent), both.then_in)
        return channel, name, leftover, unsent
    select: Handshake[str] = Dialer(names) if raw.direction.outbound else Listener(offers.__contains__, lambda: names)
    name, leftover, unsent = await drive(select, raw.stream, trace)
    trace.begin(Stage.HANDSHAKE, name, trio.current_time())
    handshake = offers[name].handshake(identity, raw.direction, expect, early, platform)
    channel, leftover, unsent = await drive(handshake, raw.stream, trace, leftover, unsent)
    return channel, name, leftover, unsent


async def _choose_muxer(
    raw: RawConn, stacks: Stacks, channel: SecureChannel, trace: Trace, carried: tuple[bytes, bytes]
) -> tuple[MuxerFactory, Dialer | None, bytes, bytes]:
    """`carried` is what the handshake left: input not yet opened, output not yet sent."""
    leftover, unsent = carried
    offers = {muxer.protocol: muxer for muxer in stacks.muxers}
    names = list(offers)
    now = trio.current_time()
    handshake = trace.current
    if channel.early_muxer is not None:
        handshake.bytes_out += len(unsent)
        trace.begin(Stage.MUXER_SELECT, f"{channel.early_muxer} (early)", now)
        if channel.early_muxer not in offers:
            raise SecurityError("the handshake agreed to a muxer that we did not offer")
        return offers[channel.early_muxer], None, b"".join(channel.open(leftover)), unsent
    trace.begin(Stage.MUXER_SELECT, ", ".join(names), now)
    if raw.direction.outbound and len(names) == 1:
        dialer = Dialer(names)
        proposal = channel.seal([dialer.take_output()])
        handshake.bytes_out += len(unsent)
        trace.current.bytes_out += len(proposal)
        return offers[names[0]], dialer, b"".join(channel.open(leftover)), unsent + proposal
    declined: list[str] = []

    def speaks(name: str) -> bool:
        if name not in offers:
            declined.append(name)
        return name in offers

    select: Handshake[str] = Dialer(names) if raw.direction.outbound else Listener(speaks, lambda: names)
    sealed: Handshake[str] = Sealed(channel, select)
    try:
        name, early, unsent = await drive(sealed, raw.stream, trace, leftover, unsent)
    except MultistreamError as error:
        if declined:  # an optimistic peer went on in the muxer that it had proposed: a disagreement, no violation
            raise NoCommonProtocol(declined, "the peer proposed it, we declined") from error
        raise
    trace.current.bytes_out += len(unsent)
    return offers[name], None, early, unsent


def _move(before: Step, after: Step, bytes_out: int, bytes_in: int) -> None:
    """Two steps shared flights, which `drive` counted for the first: each shows its own bytes."""
    before.bytes_out -= bytes_out
    before.bytes_in -= bytes_in
    after.bytes_out += bytes_out
    after.bytes_in += bytes_in
