"""What becomes of a message of our own: who took it, and who did not in time."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.types import Message


@dataclass(slots=True)
class Published:
    """What became of our own message: the streams of `taken` have it; those of `expired` did not take it in time."""

    message: Message
    taken: list[PeerId]
    expired: list[PeerId]


@dataclass(slots=True)
class InFlight:
    """A message of ours that waits in queues."""

    left: dict[PeerId, None]
    deadline: float
    taken: list[PeerId] = field(default_factory=list)
    expired: list[PeerId] = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)

    def ends(self, peer: PeerId, into: list[PeerId]) -> None:
        """The peer took it, or cannot any more."""
        if peer in self.left:
            del self.left[peer]
            into.append(peer)
        if not self.left:
            self.done.set()
