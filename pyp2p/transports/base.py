"""What a transport gives the switch: raw connections with a fact sheet, and listeners that accept them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from multiaddr import Multiaddr

from pyp2p.io.handshake import Direction
from pyp2p.io.stream import RawStream
from pyp2p.peer.address import AddressKind
from pyp2p.trace import Trace


@dataclass(frozen=True, slots=True)
class RawConn:
    """A fact sheet of a raw connection, not a wrapper: use `.stream` directly.

    `local` and `remote` are the addresses of the two ends (without `/p2p`); `kind` says how far `remote` may be
    believed.
    """

    stream: RawStream
    local: Multiaddr
    remote: Multiaddr
    direction: Direction
    kind: AddressKind


class Listener(Protocol):
    """A bound address that accepts raw connections until it is closed."""

    @property
    def address(self) -> Multiaddr:
        """The bound address with its real port (a wildcard stays a wildcard here)."""
        ...

    async def accept(self) -> RawConn:
        """Wait for the next connection. Cancellation loses none.

        Raises `trio.ClosedResourceError` when closed, `OSError` for a failure that may pass (EMFILE, ECONNABORTED).
        """
        ...

    async def aclose(self) -> None:
        """Stop accepting and free the address."""
        ...


class Transport(Protocol):
    """A way to open and accept raw connections."""

    name: str

    def handles(self, address: Multiaddr) -> bool:
        """True when `dial` and `listen` understand this address (its form; nothing is tried). No `/p2p` part."""
        ...

    async def dial(self, address: Multiaddr, trace: Trace | None = None) -> RawConn:
        """Open a connection. Raises `ConnectFailed`; cancellation closes what was half open.

        The first round trip is the caller's step of `trace`; for what takes more the transport begins others there.
        """
        ...

    async def listen(self, address: Multiaddr) -> Listener:
        """Bind. Raises `OSError` when the address cannot be bound."""
        ...
