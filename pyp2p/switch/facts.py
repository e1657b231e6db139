"""Plain facts about a connection: why it ended, what it carried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CloseReason:
    """Why a connection ended: a `code` for programs, a `detail` for people, and who ended it (us, peer, network)."""

    code: str
    detail: str = ""
    by: str = "us"
    goaway_code: int = 0

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


NORMAL = CloseReason("closed")
SHUTDOWN = CloseReason("shutdown", "the switch stops")


@dataclass(slots=True)
class ConnectionStats:
    """Counters of one connection: bytes on the wire and messages (payload pieces) each way, streams ever opened.

    `heartbeats` counts answered ones.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    messages_in: int = 0
    messages_out: int = 0
    streams_in: int = 0
    streams_out: int = 0
    streams_refused: int = 0
    heartbeats: int = 0
