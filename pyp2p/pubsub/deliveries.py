"""Who brought which message, for as long as somebody can earn or lose by it.

Rules: pure. A message is watched from its first copy on: during validation and after a bad verdict for at most
`max_age` seconds, after a good one for the delivery window only (later copies earn nothing). Both tables are bounded,
the oldest goes first. libp2p specs, gossipsub v1.1, P3 and P4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.types import Verdict


class Delivery:
    """One message. `verdict` None: it is being validated. `at`: when it was first seen; once accepted, when it was."""

    __slots__ = ("at", "copies", "first", "verdict")

    def __init__(self, first: PeerId, at: float) -> None:
        self.first = first
        self.at = at
        self.verdict: Verdict | None = None
        self.copies: dict[PeerId, None] | None = None  # everybody who brought it; most messages never need the dict

    def add(self, peer: PeerId) -> bool:
        """A copy came from `peer`; False when it brought the message before."""
        copies = self.copies
        if copies is None:
            copies = self.copies = {self.first: None}
        if peer in copies:
            return False
        copies[peer] = None
        return True

    def others(self) -> Iterator[PeerId]:
        """Who brought it besides the first."""
        return (peer for peer in self.copies or () if peer is not self.first)


class Deliveries:
    """All watched messages by id."""

    def __init__(self, max_age: float, max_count: int) -> None:
        self.window = 0.0  # seconds that accepted messages are kept: the widest delivery window of any topic
        self._max_age = max_age
        self._max_count = max_count  # of each table
        self._open: OrderedDict[bytes, Delivery] = OrderedDict()  # in validation or rejected, by `at`
        self._accepted: OrderedDict[bytes, Delivery] = OrderedDict()  # by `at`

    def __len__(self) -> int:
        return len(self._open) + len(self._accepted)

    def get(self, message_id: bytes) -> Delivery | None:
        """The record of a message that is watched."""
        return self._open.get(message_id) or self._accepted.get(message_id)

    def begin(self, message_id: bytes, first: PeerId, now: float) -> None:
        """`first` brought a new message. One that is watched already (the seen cache lost it) stays as it is."""
        if message_id not in self._open and message_id not in self._accepted:
            self._make_room(self._open, self._max_age, now)
            self._open[message_id] = Delivery(first, now)

    def accept(self, message_id: bytes, now: float) -> Delivery | None:
        """The message is good; returns its record, None when it was pushed out meanwhile."""
        record = self._open.pop(message_id, None)
        if record is not None:
            record.verdict = Verdict.ACCEPT
            record.at = now
            self._make_room(self._accepted, self.window, now)
            self._accepted[message_id] = record
        return record

    def reject(self, message_id: bytes, first: PeerId, now: float) -> list[PeerId]:
        """The message is bad; returns who brought it besides `first`."""
        self.begin(message_id, first, now)
        record = self._open[message_id]
        others = list(record.others())
        record.verdict = Verdict.REJECT
        record.copies = None
        return others

    def drop(self, message_id: bytes) -> None:
        """No verdict will come: copies are nobody's merit or fault."""
        self._open.pop(message_id, None)

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        self._forget_old(self._open, self._max_age, now)
        self._forget_old(self._accepted, self.window, now)

    def _make_room(self, table: OrderedDict[bytes, Delivery], age: float, now: float) -> None:
        self._forget_old(table, age, now)
        if len(table) >= self._max_count:
            table.popitem(last=False)

    def _forget_old(self, table: OrderedDict[bytes, Delivery], age: float, now: float) -> None:
        while table and now - next(iter(table.values())).at > age:
            table.popitem(last=False)
