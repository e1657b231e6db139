"""What a service above the switch (pubsub, request/response, a handshake) may hook into."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pyp2p.switch.connection import Connection
from pyp2p.switch.facts import CloseReason


@dataclass(frozen=True, slots=True)
class Service:
    """Callables of one service, each optional; `name` appears in logs.

    - `admit(connection)`: an ordered admission step, in both directions, all steps under one deadline. Raises
      `AdmissionRefused(reason)` to refuse; any other exception closes the connection and reaches `connect()`.
    - `peer_connected(connection)`: runs in the connection's nursery once it is admitted and identified; cancelled
      with it.
    - `peer_updated(connection)`: called when the peer says anew what it speaks and where it is (identify/push).
    - `last_word(connection, reason)`: a bounded time to say goodbye before we disconnect.
    - `peer_disconnected(connection, reason)`: called exactly once for each connection that was admitted.
    """

    name: str
    admit: Callable[[Connection], Awaitable[None]] | None = None
    peer_connected: Callable[[Connection], Awaitable[None]] | None = None
    peer_updated: Callable[[Connection], None] | None = None
    last_word: Callable[[Connection, CloseReason], Awaitable[None]] | None = None
    peer_disconnected: Callable[[Connection, CloseReason], None] | None = None
