"""The routing table: who is there, by distance from us, who answers, and who would take a place that becomes free.

Rules: pure, every operation costs the same whatever the table holds (a bucket of it at most, and one look at which of
the 256 buckets are in use). A node is in one place: in its bucket or among the replacements of its bucket, and there
are replacements only where the bucket is full. Nobody is given out who did not answer at the very endpoint that its
record names: else records that name a victim would lead the network to it. Those that came to us by themselves fill
free places, and all but a few of them lose theirs to nodes that were found: whoever wants a table for himself chooses
ids and comes first. discv5 theory "Node table".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from operator import attrgetter
from random import Random
from typing import Generic, TypeVar

from pyp2p.discv5.bounds import above_zero, at_least
from pyp2p.discv5.node import (
    ID_BITS,
    Endpoint,
    Record,
    Refusal,
    Scope,
    canonical,
    counted,
    endpoints,
    log_distance,
    may_tell,
    refuse_endpoint,
    refuse_record,
    scope,
)

R = TypeVar("R", bound=Record)

_NODES = 16  # records that an answer to FINDNODE holds, as the specification recommends
_NEVER = float("-inf")
_SUSPECTS = 4  # of those that did not answer, checked at a time
_ROUNDS = 32  # of refreshes, until the pace is as slow as any


@dataclass(frozen=True, slots=True)
class TableConfig:
    """How large the table is, how diverse, and how often it looks after itself. Seconds."""

    bucket_size: int = 16
    replacements: int = 16  # per bucket: candidates are cheap to make
    max_incoming: int = 4  # of a bucket that keep a place, and as many that wait, of those that came to us
    per_bucket_subnet: int = 2  # nodes and replacements of one /24 or /64: an eclipse needs many networks
    per_table_subnet: int = 10
    max_failures: int = 3  # requests in a row; one is lost on any network
    check_min: float = 5.0
    check_max: float = 15.0
    refresh: float = 1800.0
    first_refresh: float = 10.0  # of the first round through the buckets: a new node fills its table in minutes

    def __post_init__(self) -> None:
        for name in ("bucket_size", "max_incoming", "per_bucket_subnet", "per_table_subnet", "max_failures"):
            at_least(name, getattr(self, name), 1)
        at_least("replacements", self.replacements, 0)
        for name in ("check_min", "refresh", "first_refresh"):
            above_zero(name, getattr(self, name))
        if self.check_max < self.check_min:
            raise ValueError(f"check_max ({self.check_max}) is below check_min ({self.check_min})")


class Heard(StrEnum):
    """What became of a record that was taken."""

    ADDED = "added"
    REPLACEMENT = "replacement"  # the bucket is full
    REFRESHED = "refreshed"
    UNCHANGED = "unchanged"  # told by another node, and no news


class Node(Generic[R]):
    """One node: `live` when it answered at `endpoint`, else only seen. The table alone changes it."""

    __slots__ = (
        *("advertised", "checked_at", "endpoint", "failures", "incoming", "live", "record", "scopes", "seen_at"),
        *("spoke", "subnet"),
    )

    def __init__(self, record: R, endpoint: Endpoint, now: float, spoke: bool, incoming: bool) -> None:
        self.record = record
        self.seen_at = now
        self.checked_at = _NEVER
        self.spoke = spoke  # to us, itself: anybody can make up a record
        self.incoming = incoming  # it came to us, and nobody else has told of it
        self.live = False
        self.failures = 0
        self.move(endpoint)

    def move(self, endpoint: Endpoint) -> None:
        """The node is at `endpoint` now, or has a new record."""
        self.endpoint = endpoint
        self.subnet = counted(endpoint)
        named = endpoints(self.record)
        self.advertised = endpoint in named
        self.scopes = [scope(canonical(each.ip)) for each in named]  # here once, as they take longer than all else

    @property
    def node_id(self) -> bytes:
        """The 32 bytes of its id."""
        return self.record.node_id

    @property
    def given_out(self) -> bool:
        """True when others may be told of it; who did not answer the last time is not, until it does."""
        return self.live and self.advertised and not self.failures

    def known_to(self, asker: Scope) -> bool:
        """True when one there may know of all its endpoints."""
        return all(may_tell(each, asker) for each in self.scopes)


class _Bucket(Generic[R]):
    """The nodes at one distance, least recently seen first, and the replacements, oldest first."""

    __slots__ = ("nodes", "replacements", "subnets")

    def __init__(self) -> None:
        self.nodes: dict[bytes, Node[R]] = {}
        self.replacements: dict[bytes, Node[R]] = {}
        self.subnets: Counter[bytes] = Counter()

    def get(self, node_id: bytes) -> Node[R] | None:
        return self.nodes.get(node_id) or self.replacements.get(node_id)

    def saw(self, node: Node[R], now: float) -> None:
        """Put the node to the end of where it stands."""
        place = self.nodes if node.node_id in self.nodes else self.replacements
        place[node.node_id] = place.pop(node.node_id)
        node.seen_at = now

    def successor(self, most: int) -> Node[R] | None:
        """The replacement to take in next: the newest that spoke to us, or the newest; of those that came, `most`."""
        newest_first = list(reversed(self.replacements.values()))
        if len(self.came()) >= most:
            newest_first = [node for node in newest_first if not node.incoming] or newest_first
        return next((node for node in newest_first if node.spoke), newest_first[0] if newest_first else None)

    def came(self) -> list[Node[R]]:
        """Those in a place that came to us, the least recently seen first."""
        return [node for node in self.nodes.values() if node.incoming]

    def promote(self, chosen: Node[R]) -> None:
        """Take in a replacement, at its place in the order.

        Nobody has checked it while it waited: it is unverified, and the next to be checked.
        """
        del self.replacements[chosen.node_id]
        chosen.live = False
        chosen.checked_at = _NEVER
        ordered = sorted((*self.nodes.values(), chosen), key=attrgetter("seen_at"))
        self.nodes = {node.node_id: node for node in ordered}


class RoutingTable(Generic[R]):
    """256 buckets around `local_id`; `next_check` and `next_refresh` tell when there is something to do."""

    def __init__(self, local_id: bytes, rng: Random, config: TableConfig | None = None) -> None:
        self.next_check = _NEVER
        self.next_refresh = _NEVER
        self._local_id = local_id
        self._local = int.from_bytes(local_id, "big")
        self._rng = rng
        self._config = config or TableConfig()
        self._buckets: dict[int, _Bucket[R]] = {}  # by distance, those that hold a node
        self._contended: dict[int, None] = {}  # distances of those with replacements, next to be checked first
        self._suspects: dict[bytes, None] = {}  # did not answer the last time; next to be checked first
        self._subnets: Counter[bytes] = Counter()
        self._refreshed = [_NEVER] * (ID_BITS + 1)
        self._last_refresh = _NEVER
        self._round = 0  # through all buckets, each slower than the one before
        self._round_began = _NEVER
        self._nodes = 0
        self._live = 0

    def __len__(self) -> int:
        return self._nodes

    @property
    def live(self) -> int:
        """How many of the nodes in buckets answered."""
        return self._live

    def get(self, node_id: bytes) -> Node[R] | None:
        """The node, also when it is a replacement."""
        bucket = self._buckets.get(log_distance(self._local_id, node_id))
        return bucket.get(node_id) if bucket else None

    def heard(
        self, record: R, endpoint: Endpoint, now: float, source: Endpoint | None = None, incoming: bool = False
    ) -> Heard | Refusal:
        """Take a node that spoke to us from `endpoint` in a session, or, with `source`, one that `source` told us of.

        One is `incoming` that spoke to us before we did to it, until a node of another subnet tells of it.

        A newer record replaces the one we have, an older one never does; at another endpoint the node is unverified
        again. What others tell is worth less: it counts only when it is newer, is no sign of life, moves a node only
        when its record names the endpoint that we know no longer, and pushes out no replacement that spoke to us.
        A refusal leaves all as it was.
        """
        if record.node_id == self._local_id:
            return Refusal.OWN_ID
        distance = log_distance(self._local_id, record.node_id)
        bucket = self._buckets.get(distance)
        node = bucket.get(record.node_id) if bucket else None
        if node is not None and record.seq <= node.record.seq:
            if source is not None:
                _confirm(node, source)
                return Heard.UNCHANGED
            if bucket is not None and endpoint == node.endpoint:  # by far the most frequent: all was judged before
                node.spoke = True
                bucket.saw(node, now)
                return Heard.REFRESHED
            record = node.record
        teller = source or endpoint
        refusal = refuse_endpoint(endpoint, scope(canonical(teller.ip))) or refuse_record(record, teller)
        if refusal is not None:
            return refusal
        if bucket is None or node is None:
            return self._add(distance, Node(record, endpoint, now, source is None, incoming))
        if source is not None:
            _confirm(node, source)
        return self._renew(bucket, node, record, endpoint, None if source else now)

    def alive(self, node_id: bytes, now: float, endpoint: Endpoint | None = None) -> bool:
        """The node answered in time; False when we do not know it, or not at the `endpoint` that answered."""
        bucket = self._buckets.get(log_distance(self._local_id, node_id))
        node = bucket.get(node_id) if bucket else None
        if bucket is None or node is None or endpoint not in (None, node.endpoint):
            return False
        node.spoke = True
        node.failures = 0
        self._suspects.pop(node_id, None)
        bucket.saw(node, now)
        self._take_place(bucket, node)
        self._set_live(bucket, node, True)
        return True

    def failed(self, node_id: bytes, now: float) -> bool:
        """A request to the node failed; True when it was one too many, and the node is gone."""
        node = self.get(node_id)
        if node is None:
            return False
        node.checked_at = now
        node.failures += 1
        self._suspects.setdefault(node_id)
        return node.failures >= self._config.max_failures and self.remove(node_id)

    def remove(self, node_id: bytes) -> bool:
        """Forget a node; the newest replacement takes its place. False when there is no such node."""
        distance = log_distance(self._local_id, node_id)
        bucket = self._buckets.get(distance)
        node = bucket.get(node_id) if bucket else None
        if bucket is None or node is None:
            return False
        self._count(bucket, node.subnet, -1)
        self._suspects.pop(node_id, None)
        if node_id in bucket.replacements:
            del bucket.replacements[node_id]
        else:
            del bucket.nodes[node_id]
            self._nodes -= 1
            self._live -= node.live
            if (next_one := bucket.successor(self._config.max_incoming)) is not None:
                self._promote(bucket, next_one)
        if not bucket.replacements:
            self._contended.pop(distance, None)
        if not bucket.nodes:
            del self._buckets[distance]
        return True

    def came(self, node_id: bytes) -> bool:
        """True when a node came to us, and nobody else has told of it."""
        node = self.get(node_id)
        return node is not None and node.incoming

    def closest(self, target: bytes, n: int, *, seen_too: bool = False, found_only: bool = False) -> list[R]:
        """The records of the `n` nodes closest to `target`, closest first; with `seen_too` of unverified ones too.

        With `found_only` of those that did not come to us, or of which others told, and that have not failed of late.

        The distances of a bucket's nodes from the target are one range, and those of two buckets never overlap, so
        the buckets are taken in order until there are enough.
        """
        goal = int.from_bytes(target, "big")
        apart = self._local ^ goal
        # Where we and the target differ, nodes that differ from us are closer than we are, the more so the higher the
        # bit; where we do not, they are further away.
        order = sorted(self._buckets, key=lambda distance: -distance if apart >> (distance - 1) & 1 else distance)
        found: list[R] = []
        for distance in order:
            if len(found) >= n:
                break
            nodes = self._buckets[distance].nodes.values()
            if found_only:
                records = [node.record for node in nodes if not node.incoming and not node.failures]
            else:
                records = [node.record for node in nodes if node.given_out or seen_too]
            found += sorted(records, key=lambda record: int.from_bytes(record.node_id, "big") ^ goal)
        return found[:n]

    def at_distances(self, distances: Sequence[int], limit: int = _NODES, asker: Endpoint | None = None) -> list[R]:
        """The answer to FINDNODE but for distance 0: records by distance as asked, each bucket in random order.

        At most `limit`, and never more than 16. What is private is told only to an `asker` that may know of it.
        """
        limit = min(limit, _NODES)
        asking = Scope.LOOPBACK if asker is None else scope(canonical(asker.ip))
        found: list[R] = []
        for distance in dict.fromkeys(distances):
            if len(found) >= limit:
                break
            if (bucket := self._buckets.get(distance)) is None:
                continue
            nodes = [node for node in bucket.nodes.values() if node.given_out and node.known_to(asking)]
            self._rng.shuffle(nodes)
            found += [node.record for node in nodes]
        return found[:limit]

    def to_check(self, now: float) -> list[Node[R]]:
        """The nodes to PING now, six at most, every 5 to 15 s: else nothing.

        One is of a random bucket: the one whose turn was longest ago. One is the least recently seen of a full bucket
        with replacements, in turns. The others did not answer the last time, so that who is gone leaves soon: where a
        tenth leaves each minute, tables were a third full of them.
        """
        if now < self.next_check:
            return []
        self.next_check = now + self._rng.uniform(self._config.check_min, self._config.check_max)
        if not self._buckets:
            return []
        bucket = self._buckets[self._rng.choice(list(self._buckets))]
        chosen = [min(bucket.nodes.values(), key=attrgetter("checked_at"))]
        if self._contended:
            distance = next(iter(self._contended))
            self._contended[distance] = self._contended.pop(distance)
            oldest = next(iter(self._buckets[distance].nodes.values()))
            if oldest is not chosen[0]:
                chosen.append(oldest)
        for node_id in list(islice(self._suspects, _SUSPECTS)):
            self._suspects[node_id] = self._suspects.pop(node_id)
            suspect = self.get(node_id)
            if suspect is not None and suspect not in chosen:
                chosen.append(suspect)
        for node in chosen:
            node.checked_at = now
        return chosen

    def to_refresh(self, now: float) -> bytes | None:
        """A random id to look up, in the bucket whose refresh was longest ago; None most of the time.

        It comes every 10 seconds until all buckets had their first, those that come into use later included. From round
        to round it comes half as often, down to every half hour: who was told of few, as the network is young or
        packets were lost, asks again soon. Of the buckets nearer than the nearest node only one takes part: no lookup
        finds anybody in the others.
        """
        if now < self.next_refresh:
            return None
        nearest = max(min(self._buckets, default=ID_BITS + 1) - 1, 1)
        distances = range(ID_BITS, nearest - 1, -1)
        distance = min(distances, key=self._refreshed.__getitem__)
        self._refreshed[distance] = self._last_refresh = now
        oldest = min(map(self._refreshed.__getitem__, distances))
        pace = self._config.first_refresh
        if oldest > _NEVER:
            if oldest > self._round_began:
                self._round += 1
                self._round_began = now
            pace = min(pace * 2.0 ** min(self._round, _ROUNDS), self._config.refresh)
        self.next_refresh = now + self._rng.uniform(0.9, 1.1) * pace
        offset = 1 << (distance - 1) | self._rng.getrandbits(distance - 1)
        return (self._local ^ offset).to_bytes(ID_BITS // 8, "big")

    def refreshed(self, target: bytes, now: float) -> None:
        """A lookup of `target` ended: its bucket need not be refreshed soon."""
        self._refreshed[log_distance(self._local_id, target)] = now

    def counters(self) -> dict[str, int]:
        """What is in the table now, by name."""
        return {
            "nodes": self._nodes,
            "live": self._live,
            "replacements": sum(len(self._buckets[distance].replacements) for distance in self._contended),
            "buckets": len(self._buckets),
        }

    def _add(self, distance: int, node: Node[R]) -> Heard | Refusal:
        bucket = self._buckets.get(distance) or _Bucket[R]()
        if (refusal := self._crowded(bucket, node.subnet)) is not None:
            return refusal
        if len(bucket.nodes) >= self._config.bucket_size:
            return self._line_up(distance, bucket, node)
        if not bucket.nodes and _NEVER in self._refreshed[max(distance - 1, 1) : distance + 1]:
            self.next_refresh = min(self.next_refresh, self._last_refresh + self._config.first_refresh)
        self._buckets[distance] = bucket
        bucket.nodes[node.node_id] = node
        self._count(bucket, node.subnet, 1)
        self._nodes += 1
        return Heard.ADDED

    def _line_up(self, distance: int, bucket: _Bucket[R], node: Node[R]) -> Heard | Refusal:
        """Put a node to the end of the replacements, in place of one where there are too many."""
        incoming = [each for each in bucket.replacements.values() if each.incoming]
        oldest = None
        if node.incoming and len(incoming) >= self._config.max_incoming:
            oldest = incoming[0]
        elif len(bucket.replacements) >= self._config.replacements:
            oldest = next((each for each in bucket.replacements.values() if not each.spoke), None)
            if oldest is None and node.spoke:
                oldest = next(iter(bucket.replacements.values()), None)
            if oldest is None:
                return Refusal.BUCKET_FULL
        if oldest is not None:
            del bucket.replacements[oldest.node_id]
            self._suspects.pop(oldest.node_id, None)
            self._count(bucket, oldest.subnet, -1)
        bucket.replacements[node.node_id] = node
        self._count(bucket, node.subnet, 1)
        self._contended.setdefault(distance)
        return Heard.REPLACEMENT

    def _take_place(self, bucket: _Bucket[R], node: Node[R]) -> None:
        """A replacement that answered takes the place of one that came to us, where too many of those have one."""
        came = bucket.came()
        if node.incoming or node.node_id in bucket.nodes or len(came) <= self._config.max_incoming:
            return
        given_up = came[-1]
        del bucket.nodes[given_up.node_id]
        self._count(bucket, given_up.subnet, -1)
        self._nodes -= 1
        self._live -= given_up.live
        self._promote(bucket, node)
        self._line_up(log_distance(self._local_id, node.node_id), bucket, given_up)
        ordered = sorted(bucket.replacements.values(), key=attrgetter("seen_at"))
        bucket.replacements = {each.node_id: each for each in ordered}

    def _promote(self, bucket: _Bucket[R], node: Node[R]) -> None:
        bucket.promote(node)
        self._nodes += 1
        if not bucket.replacements:
            self._contended.pop(log_distance(self._local_id, node.node_id), None)

    def _renew(
        self, bucket: _Bucket[R], node: Node[R], record: R, endpoint: Endpoint, now: float | None
    ) -> Heard | Refusal:
        """Take over what is new of a node that we know; `now` when it spoke itself."""
        if now is None and node.endpoint in endpoints(record):
            endpoint = node.endpoint  # the other family of its two
        before, after = node.subnet, counted(endpoint)
        if after != before and (refusal := self._crowded(bucket, after)) is not None:
            return refusal
        self._count(bucket, before, -1)
        self._count(bucket, after, 1)
        if endpoint != node.endpoint:
            self._set_live(bucket, node, False)
            node.failures = 0
            self._suspects.pop(node.node_id, None)
            node.checked_at = _NEVER
        node.record = record
        node.move(endpoint)
        if now is not None:
            node.spoke = True
            bucket.saw(node, now)
        return Heard.REFRESHED

    def _crowded(self, bucket: _Bucket[R], place: bytes | None) -> Refusal | None:
        if place is None:
            return None
        if bucket.subnets[place] >= self._config.per_bucket_subnet:
            return Refusal.BUCKET_SUBNET
        return Refusal.TABLE_SUBNET if self._subnets[place] >= self._config.per_table_subnet else None

    def _count(self, bucket: _Bucket[R], place: bytes | None, step: int) -> None:
        if place is None:
            return
        for counter in (bucket.subnets, self._subnets):
            counter[place] += step
            if not counter[place]:
                del counter[place]

    def _set_live(self, bucket: _Bucket[R], node: Node[R], live: bool) -> None:
        if node.node_id in bucket.nodes:
            self._live += live - node.live
        node.live = live


def _confirm(node: Node[R], teller: Endpoint) -> None:
    """Somebody else told of the node: one of another subnet, as ports and addresses of one's own cost nothing."""
    if node.incoming and teller != node.endpoint and (counted(teller) or teller) != node.subnet:
        node.incoming = False
