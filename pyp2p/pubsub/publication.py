"""What becomes of our own messages: who took them, and who did not in time.

Rules: one timer for all, since each waits equally long. A peer that cannot take a message any more is told at once.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    """A message of ours that waits in the queues of the peers in `left`."""

    message: Message
    left: dict[PeerId, None]
    deadline: float
    taken: list[PeerId] = field(default_factory=list)
    expired: list[PeerId] = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)

    def ends(self, peer: PeerId, taken: bool) -> None:
        """The peer took it, or cannot any more."""
        if peer in self.left:
            del self.left[peer]
            (self.taken if taken else self.expired).append(peer)
        if not self.left:
            self.done.set()

    def outcome(self) -> Published:
        """What became of it; whoever is left has not taken it."""
        return Published(self.message, self.taken, [*self.expired, *self.left])


class InFlights:
    """All of them."""

    def __init__(self) -> None:
        self._all: dict[bytes, InFlight] = {}  # the first to expire first
        self._more = trio.Event()

    def begin(self, message: Message, peers: Iterable[PeerId], deadline: float) -> InFlight:
        """A message is about to be queued for `peers`."""
        made = self._all[message.id] = InFlight(message, dict.fromkeys(peers), deadline)
        if not made.left:
            made.done.set()
        self._more.set()
        return made

    def end(self, message: Message) -> None:
        """Nobody waits for it any more."""
        del self._all[message.id]

    def ends(self, peer: PeerId, ids: Iterable[bytes], taken: bool) -> None:
        """The peer took these messages, or its stream broke with them."""
        for message_id in ids:
            if (found := self._all.get(message_id)) is not None:
                found.ends(peer, taken)

    def hopeless(self, peer: PeerId, until: float) -> list[bytes]:
        """The peer takes nothing before `until`; returns the ids of what it cannot take in time."""
        found = [key for key, each in self._all.items() if peer in each.left and each.deadline <= until]
        self.ends(peer, found, False)
        return found

    async def expire(self) -> None:
        """Until cancelled: end what waits too long."""
        while True:
            self._more = trio.Event()
            oldest = next(iter(self._all.values()), None)
            if oldest is None:
                await self._more.wait()
                continue
            await trio.sleep_until(oldest.deadline)
            for found in self._all.values():
                if found.deadline > trio.current_time():
                    break
                found.done.set()
