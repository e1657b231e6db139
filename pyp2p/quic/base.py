"""What a switch knows of a transport that secures and muxes its connections itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import trio

from pyp2p.muxers.base import Muxer, MuxerLimits
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.platform import Platform
from pyp2p.security.base import SecureChannel
from pyp2p.trace import Trace
from pyp2p.transports.base import RawConn


class Counts(Protocol):
    """Bytes on the network, each way."""

    bytes_in: int
    bytes_out: int


class Session(Protocol):
    """The peer's proof and the streams, which come with the connection."""

    security: str
    muxer_protocol: str

    async def secure(self, expect: PeerId | None, trace: Trace) -> SecureChannel:
        """Go through the handshake; nothing of the peer is looked at before. `expect` is who was dialled.

        Raises `SecurityError` and trio's stream errors. Cancelling leaves the connection good for closing only.
        """
        ...

    def muxer(self, limits: MuxerLimits) -> Muxer:
        """The streams of the secured connection; what the application leaves unread is within its window."""
        ...

    def count(self, counts: Counts) -> None:
        """Add there what goes over the network, from the first datagram on."""
        ...


@runtime_checkable
class Served(Protocol):
    """A transport with sockets of its own, for all of its connections."""

    async def serve(self, identity: Identity, platform: Platform, task_status: trio.TaskStatus[None]) -> None:
        """Own them until cancelled; started before anything is dialled or listened on."""
        ...


@dataclass(frozen=True, slots=True)
class MuxedConn(RawConn):
    """A raw connection whose stream moves what its own `session` has to say: no security or muxer is negotiated."""

    session: Session
