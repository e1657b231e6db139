"""What waits for one peer, in classes: control before own messages before forwarded ones before gossip.

Rules: pure, bounded in bytes and count. Only forwarded messages and gossip are ever dropped, for what is more urgent or
because the peer has them, and each drop is counted. Our own messages are refused when there is no room, so that
`publish` can wait. Control is always taken, up to a bound that only a peer reaches which makes us answer and does not
read.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pyp2p.io.varint import encode
from pyp2p.pubsub.types import Lane
from pyp2p.pubsub.wire import pack

BATCH: Final = 64 * 1024  # bytes handed out at a time: what is more urgent waits for no more than that
COMBINED: Final = 16 * 1024  # bytes of one RPC that holds several messages: no peer refuses those
_ENTRY: Final = 200  # bytes that an entry takes beside its fragment, which all peers share


@dataclass(slots=True)
class Batch:
    """Framed RPCs for one write, how many parts stand in them, and the ids of our own messages among these."""

    data: bytes
    parts: int
    own: list[bytes]


class Outbox:
    """The queue of one peer."""

    def __init__(self, max_bytes: int, max_count: int, counters: Counter[tuple[str, str]]) -> None:
        self._max_bytes = max_bytes
        self._max_count = max_count
        self._counters = counters  # (what happened, topic)
        self._control: deque[bytes] = deque()
        self._own: OrderedDict[bytes, bytes] = OrderedDict()
        self._forwarded: OrderedDict[bytes | int, tuple[bytes, str]] = OrderedDict()
        self._gossip: OrderedDict[bytes | int, tuple[bytes, str]] = OrderedDict()
        self.overflowed = False  # a forwarded message was dropped for want of room; whoever looks sets it back
        self._urgent = 0  # bytes of control and own messages
        self._rest = 0
        self._serial = 0

    def __len__(self) -> int:
        return len(self._control) + len(self._own) + len(self._forwarded) + len(self._gossip)

    @property
    def size(self) -> int:
        """What is queued, with the entries."""
        return self._urgent + self._rest

    # --- putting in

    def control(self, fragment: bytes) -> bool:
        """Queue control or subscriptions. False: twice the bound waits already, the peer is beyond help."""
        cost = len(fragment) + _ENTRY
        if self._urgent + cost > 2 * self._max_bytes:
            return False
        self._make_room(cost)
        self._control.append(fragment)
        self._urgent += cost
        return True

    def own(self, fragment: bytes, message_id: bytes) -> bool:
        """Queue a message of our own, once; False when there is no room. A single one may be of any size."""
        if message_id in self._own:
            return True
        cost = len(fragment) + _ENTRY
        crowded = len(self._control) + len(self._own) >= self._max_count
        if self._urgent and (crowded or self._urgent + cost > self._max_bytes):
            return False
        self._make_room(cost)
        self._own[message_id] = fragment
        self._urgent += cost
        return True

    def offer(self, lane: Lane, fragment: bytes, topic: str, message_id: bytes | None = None) -> None:
        """Queue what may be dropped, or drop it at once; a single one may be of any size. What waits in its class
        already waits once.

        What has no id is an IHAVE.
        """
        queue = self._forwarded if lane is Lane.FORWARDED else self._gossip
        self._serial += 1
        key = self._serial if message_id is None else message_id
        if key in queue:
            return
        cost = len(fragment) + _ENTRY
        while lane is Lane.FORWARDED and self._gossip and not self._fits(cost):
            self._drop_first(self._gossip, Lane.GOSSIP)
        if self._rest and not self._fits(cost):
            self._overflow(lane, topic)
            return
        queue[key] = fragment, topic
        self._rest += cost

    # --- taking out

    def take(self) -> Batch | None:
        """The next RPCs, the most urgent first; None when nothing waits."""
        size = 0
        waiting = len(self)
        control: list[bytes] = []
        while self._control and size < BATCH:
            fragment = self._control.popleft()
            control.append(fragment)
            size += len(fragment)
            self._urgent -= len(fragment) + _ENTRY
        rpcs = [[rpc] for rpc in pack(control)]
        own: list[bytes] = []
        messages: list[bytes] = []
        offers: list[bytes] = []
        while self._own and size < BATCH:
            message_id, fragment = self._own.popitem(last=False)
            own.append(message_id)
            messages.append(fragment)
            size += len(fragment)
            self._urgent -= len(fragment) + _ENTRY
        for queue in (self._forwarded, self._gossip):
            while queue and size < BATCH:
                key, (fragment, _) = queue.popitem(last=False)
                (offers if isinstance(key, int) else messages).append(fragment)
                size += len(fragment)
                self._rest -= len(fragment) + _ENTRY
        if not size:
            return None
        return Batch(_framed(rpcs, messages, pack(offers)), waiting - len(self), own)

    def cancel(self, message_id: bytes) -> bool:
        """Take back a message of our own; False when it does not wait here."""
        fragment = self._own.pop(message_id, None)
        if fragment is None:
            return False
        self._urgent -= len(fragment) + _ENTRY
        return True

    def unwanted(self, ids: Iterable[bytes]) -> None:
        """The peer has these messages: what waits of them, and is not our own, need not be sent."""
        for lane, queue in ((Lane.FORWARDED, self._forwarded), (Lane.GOSSIP, self._gossip)):
            if queue:
                for message_id in ids:
                    found = queue.pop(message_id, None)
                    if found is not None:
                        self._rest -= len(found[0]) + _ENTRY
                        self._count(lane, "unwanted", found[1])

    def abandon(self) -> None:
        """The peer is gone: what may be dropped is counted; what is our own, the publisher is told."""
        for lane, queue in ((Lane.FORWARDED, self._forwarded), (Lane.GOSSIP, self._gossip)):
            for _, topic in queue.values():
                self._count(lane, "peer gone", topic)

    # --- parts

    def _fits(self, cost: int) -> bool:
        return self.size + cost <= self._max_bytes and len(self) < self._max_count

    def _make_room(self, cost: int) -> None:
        """For what is urgent the rest gives way, gossip first and the oldest first, but for a single one."""
        for lane, queue in ((Lane.GOSSIP, self._gossip), (Lane.FORWARDED, self._forwarded)):
            while queue and len(self._gossip) + len(self._forwarded) > 1 and not self._fits(cost):
                self._drop_first(queue, lane)

    def _drop_first(self, queue: OrderedDict[bytes | int, tuple[bytes, str]], lane: Lane) -> None:
        _, (fragment, topic) = queue.popitem(last=False)
        self._rest -= len(fragment) + _ENTRY
        self._overflow(lane, topic)

    def _overflow(self, lane: Lane, topic: str) -> None:
        self.overflowed |= lane is Lane.FORWARDED
        self._count(lane, "queue full", topic)

    def _count(self, lane: Lane, reason: str, topic: str) -> None:
        self._counters[f"{lane.name.lower()} dropped: {reason}", topic] += 1


def _framed(rpcs: list[list[bytes]], messages: list[bytes], offers: list[bytes]) -> bytes:
    """RPCs in their frames, the messages spread over the last of them and more; js reads only one control in each."""
    room = COMBINED - len(rpcs[-1][0]) if rpcs else 0
    for fragment in messages:
        if len(fragment) > room:
            rpcs.append([])
            room = COMBINED
        rpcs[-1].append(fragment)
        room -= len(fragment)
    rpcs += [[offer] for offer in offers]
    pieces: list[bytes] = []
    for parts in rpcs:
        pieces.append(encode(sum(map(len, parts))))
        pieces += parts
    return b"".join(pieces)
