"""What the router remembers of messages: seen ids, messages that can be asked for, promises, what peers have already.

Rules: pure, every table bounded in bytes or by what one peer may add in a heartbeat; the oldest goes first. Nothing is
looked up by walking: the cost per message does not depend on how much is remembered. libp2p specs, gossipsub v1.0
"Message cache", v1.1 "Spam protection", v1.2 "IDontWant".
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import chain
from zlib import crc32

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.types import Message

_SLOT_IDS = 1024  # ids that are forgotten together
_SLOTS = 64  # parts of the time to live: an id is kept that much longer at most
_ID_COST = 150  # bytes beside the id itself: the object, its places in a set and in a list
_MESSAGE_COST = 1000  # bytes beside the serialised message: the values taken from it and its places in tables


class SeenCache:
    """Ids that were seen in the last `ttl` seconds, in `max_bytes` at most."""

    def __init__(self, ttl: float, max_bytes: int) -> None:
        self.evicted = 0  # ids forgotten before their time
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._bytes = 0
        self._ids: set[bytes] = set()
        self._slots: deque[tuple[float, list[bytes]]] = deque()  # when the first of them came, ids in order

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def size(self) -> int:
        """About what the cache takes."""
        return self._bytes

    def add(self, message_id: bytes, now: float) -> bool:
        """Remember an id; False when it is remembered already."""
        if message_id in self._ids:
            return False
        self._ids.add(message_id)
        self._bytes += len(message_id) + _ID_COST
        slots = self._slots
        if not slots or len(slots[-1][1]) >= _SLOT_IDS or now - slots[-1][0] >= self._ttl / _SLOTS:
            slots.append((now, []))
        slots[-1][1].append(message_id)
        while self._bytes > self._max_bytes and len(slots) > 1:
            self.evicted += self._forget_slot()
        return True

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        kept = self._ttl * (1 + 1 / _SLOTS)  # counted from the first id of a slot: its last one gets the whole time
        while self._slots and now - self._slots[0][0] >= kept:
            self._forget_slot()

    def _forget_slot(self) -> int:
        ids = self._slots.popleft()[1]
        self._ids.difference_update(ids)
        self._bytes -= sum(map(len, ids)) + len(ids) * _ID_COST
        return len(ids)


class RawIndex:
    """The ids of large messages by their serialised bytes: a copy is known without unpacking and hashing it again.

    The bytes are compared in full: a checksum can be forged, and a message must not pass for another one.
    """

    def __init__(self, ttl: float, max_bytes: int) -> None:
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[tuple[int, int], tuple[bytes, bytes, float]] = OrderedDict()

    @property
    def size(self) -> int:
        """About what the index takes."""
        return self._bytes

    def find(self, raw: bytes) -> bytes | None:
        """The id of the message that is serialised as `raw`."""
        entry = self._entries.get((len(raw), crc32(raw)))
        return entry[1] if entry is not None and entry[0] == raw else None

    def add(self, raw: bytes, message_id: bytes, now: float) -> None:
        """Remember a message; one with the same length and checksum gives way."""
        key = len(raw), crc32(raw)
        if (before := self._entries.pop(key, None)) is not None:
            self._bytes -= len(before[0]) + _ID_COST
        self._entries[key] = raw, message_id, now
        self._bytes += len(raw) + _ID_COST
        while self._bytes > self._max_bytes and self._entries:
            self._forget_first()

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        while self._entries and now - next(iter(self._entries.values()))[2] >= self._ttl:
            self._forget_first()

    def _forget_first(self) -> None:
        _, (raw, _, _) = self._entries.popitem(last=False)
        self._bytes -= len(raw) + _ID_COST


class _Kept:
    """A message in the cache, and how often each peer got it on request."""

    __slots__ = ("cost", "message", "sent")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.cost = message.size + _MESSAGE_COST  # whatever a subscriber does to the message later
        self.sent: dict[PeerId, int] | None = None


class MessageCache:
    """Accepted messages of the last `history` heartbeats, for IWANT; those of the last `gossip` ones are offered."""

    def __init__(self, history: int, gossip: int, max_bytes: int) -> None:
        self.evicted = 0  # messages forgotten before their time
        self._gossip = gossip
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._windows: deque[dict[str, list[bytes]]] = deque([{} for _ in range(history)])  # the newest first

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """About what the cache takes."""
        return self._bytes

    def put(self, message: Message) -> None:
        """Keep a message; one that is kept already stays in its heartbeat."""
        if message.id in self._kept:
            return
        kept = self._kept[message.id] = _Kept(message)
        self._windows[0].setdefault(message.topic, []).append(message.id)
        self._bytes += kept.cost
        while self._bytes > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].cost
            self.evicted += 1

    def for_peer(self, message_id: bytes, peer: PeerId) -> tuple[Message, int] | None:
        """The message and how often `peer` asked for it, this time included; None when it is not kept."""
        kept = self._kept.get(message_id)
        if kept is None:
            return None
        if kept.sent is None:
            kept.sent = {}
        count = kept.sent[peer] = kept.sent.get(peer, 0) + 1
        return kept.message, count

    def gossip_ids(self, topic: str) -> list[bytes]:
        """The ids to offer, the newest heartbeat first."""
        recent = (self._windows[n].get(topic, ()) for n in range(self._gossip))
        return [message_id for message_id in chain.from_iterable(recent) if message_id in self._kept]

    def shift(self) -> None:
        """A heartbeat is over: forget the oldest one's messages."""
        for ids in self._windows.pop().values():
            for message_id in ids:
                kept = self._kept.pop(message_id, None)
                if kept is not None:
                    self._bytes -= kept.cost
        self._windows.appendleft({})


class Promises:
    """Who offered what we asked for: the message must come within `followup` seconds, from whomever."""

    def __init__(self, followup: float) -> None:
        self._followup = followup
        self._open: dict[bytes, dict[PeerId, float]] = {}  # by id and peer: when it is broken
        self._due: deque[tuple[float, bytes, PeerId, str]] = deque()

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def promise(self, peer: PeerId, message_id: bytes, topic: str, now: float) -> None:
        """We asked `peer` for this one. A promise that is open keeps its deadline."""
        peers = self._open.setdefault(message_id, {})
        if peer not in peers:
            peers[peer] = now + self._followup
            self._due.append((peers[peer], message_id, peer, topic))

    def fulfilled(self, message_id: bytes) -> None:
        """The message came, whoever brought it."""
        if self._open:
            self._open.pop(message_id, None)

    def forget(self, topic: str) -> None:
        """Its messages are not looked at any more."""
        for _, message_id, _, of in self._due:
            if of == topic:
                self._open.pop(message_id, None)

    def peer_down(self, peer: PeerId) -> None:
        """The peer cannot keep its promises any more."""
        for message_id, peers in list(self._open.items()):
            peers.pop(peer, None)
            if not peers:
                del self._open[message_id]

    def broken(self, now: float) -> list[tuple[PeerId, str]]:
        """Whose promise was broken since the last call, and in which topic."""
        found: list[tuple[PeerId, str]] = []
        while self._due and self._due[0][0] <= now:
            due, message_id, peer, topic = self._due.popleft()
            peers = self._open.get(message_id)
            if peers is None or peers.get(peer) != due:
                continue
            del peers[peer]
            if not peers:
                del self._open[message_id]
            found.append((peer, topic))
        return found


class _Has:
    """What one peer has: the ids of the last heartbeats, the newest first."""

    __slots__ = ("beats", "taken")

    def __init__(self, ttl: int) -> None:
        self.beats: deque[dict[bytes, None]] = deque([{}], ttl)
        self.taken = 0


class DontWant:
    """Messages that peers have already (IDONTWANT), for `ttl` heartbeats, at most `max_ids` from a peer in each."""

    def __init__(self, ttl: int, max_ids: int) -> None:
        self._ttl = ttl
        self._max_ids = max_ids
        self._peers: dict[PeerId, _Has] = {}

    def add(self, peer: PeerId, ids: Sequence[bytes]) -> int:
        """`peer` has these; returns how many of them, from the first on, are taken note of."""
        has = self._peers.get(peer)
        if has is None:
            has = self._peers[peer] = _Has(self._ttl)
        taken = min(len(ids), self._max_ids - has.taken)
        has.taken += taken
        has.beats[0].update(dict.fromkeys(ids[:taken]))
        return taken

    def unwanted(self, peer: PeerId, message_id: bytes) -> bool:
        """True when `peer` said that it has the message."""
        has = self._peers.get(peer)
        return has is not None and any(message_id in ids for ids in has.beats)

    def beat(self) -> None:
        """A heartbeat is over."""
        for peer, has in list(self._peers.items()):
            has.taken = 0
            has.beats.appendleft({})
            if not any(has.beats):
                del self._peers[peer]

    def peer_down(self, peer: PeerId) -> None:
        """The peer is gone."""
        self._peers.pop(peer, None)


class Quota:
    """How much of something a peer may still have in this heartbeat."""

    def __init__(self) -> None:
        self._used: dict[tuple[PeerId, str], int] = {}

    def take(self, peer: PeerId, what: str, count: int, limit: int) -> int:
        """Take up to `count` of what is left of `limit`; returns how many that are."""
        used = self._used.get((peer, what), 0)
        taken = max(min(count, limit - used), 0)
        self._used[peer, what] = used + taken
        return taken

    def beat(self) -> None:
        """A heartbeat is over."""
        self._used.clear()
