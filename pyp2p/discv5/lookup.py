"""One lookup: who is closest to a target, found by asking those that are closest so far.

Rules: pure, no clock: who sends the queries tells when one has failed. Whatever nodes answer, the lookup knows at most
`max_candidates` nodes, asks at most `max_queries` times, and takes no record at a distance that was not asked for.
Records are verified and judged by `node.refuse_record` before they get here. discv5 theory "Lookup".
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pyp2p.discv5.bounds import at_least
from pyp2p.discv5.node import ID_BITS, Record, counted, endpoints, log_distance, lookup_distances

R = TypeVar("R", bound=Record)

_MAX_ANSWER = 48  # records of one answer: three full buckets


@dataclass(frozen=True, slots=True)
class LookupConfig:
    """The bounds of one lookup, against nodes that always know of somebody closer."""

    max_candidates: int = 256
    max_queries: int = 128
    max_found: int = 256
    attempts: int = 2  # queries to a node until it counts as failed: a handshake on a bad line loses one of twenty
    sweep: int = 3  # of the closest are asked about the edge in the end; without, one lookup of twenty misses a node
    per_subnet: int = 4  # that have not answered yet: an answer is cheap, and each record in it is sent to

    def __post_init__(self) -> None:
        for name in ("max_candidates", "max_queries", "max_found", "attempts", "per_subnet"):
            at_least(name, getattr(self, name), 1)
        at_least("sweep", self.sweep, 0)


class Lookup(Generic[R]):
    """Converges on the `k` nodes closest to `target`, with at most `parallelism` queries under way.

    `first` are ids of some that it starts with, who are asked before those that are closer. `predicate` only decides
    whose records `found` collects; the way is the same without. `refused` counts the records that were dropped:
    `distance` (not asked for), `excess` (more than three buckets hold), `own_id`, `subnet` (too many of one have not
    answered), `unasked` (an answer of a node with no query under way).

    An answer holds 16 records, and who is close to the target is not asked for those that are far from it: so once the
    k closest have answered, the closest of them are asked again, for the distance at which the last of the k is.
    """

    def __init__(
        self,
        target: bytes,
        start: Iterable[R],
        k: int = 16,
        parallelism: int = 3,
        *,
        local_id: bytes,
        first: Iterable[bytes] = (),
        predicate: Callable[[R], bool] | None = None,
        config: LookupConfig | None = None,
    ) -> None:
        self.target = target
        self.refused: Counter[str] = Counter()
        self.queries = 0
        self._goal = int.from_bytes(target, "big")
        self._k = k
        self._parallelism = parallelism
        self._local_id = local_id
        self._predicate = predicate
        self._config = config or LookupConfig()
        self._order: list[tuple[int, bytes]] = []  # distance and id of all in `_records`, closest first
        self._records: dict[bytes, R] = {}  # candidates, less those that failed
        self._asking: dict[bytes, list[int]] = {}  # the queries under way: what was asked for
        self._places: dict[bytes, set[bytes]] = {}  # subnets of those that were told of and have not answered
        self._crowds: Counter[bytes] = Counter()  # of the same; who failed stays in it
        self._attempts: Counter[bytes] = Counter()  # queries by node: outlives a candidate, so none is asked again
        self._answered: set[bytes] = set()
        self._found: dict[bytes, R] = {}
        self._first = list(first)
        self._leading: set[bytes] = set()  # of those, with a query under way
        self._sweep: list[tuple[bytes, list[int]]] | None = None  # queries about the edge, once it is known
        self._sweeping: set[bytes] = set()  # those under way
        self._done = False
        for record in start:
            self._take(record, given=True)
        self._settle()

    @property
    def done(self) -> bool:
        """True once the k closest known have answered, or nobody is left to ask; it stays true."""
        return self._done

    def next_queries(self) -> list[tuple[R, list[int]]]:
        """The queries to send now: whom to ask, for which distances. Each is ended by `answered` or `failed`."""
        queries: list[tuple[R, list[int]]] = []
        if self._done:
            return queries
        while self._first and self._free:
            node_id = self._first.pop(0)
            if node_id in self._records:
                self._attempts[node_id] += 1
                self._leading.add(node_id)
                queries.append(self._ask_on_the_way(node_id))
        while self._sweep and self._free:
            node_id, distances = self._sweep.pop(0)
            if node_id in self._records:
                self._sweeping.add(node_id)
                queries.append(self._ask(node_id, distances))
        closest = [node_id for _, node_id in self._order[: self._k]]
        for tried in range(self._config.attempts):  # who failed holds nobody up: it has its next turn after the others
            for node_id in closest:
                if not self._free:
                    return queries
                waits = node_id not in self._asking and node_id not in self._answered
                if waits and self._attempts[node_id] == tried:
                    self._attempts[node_id] += 1
                    queries.append(self._ask_on_the_way(node_id))
        self._settle()  # who was to be swept may be gone, and nobody left to ask
        return queries

    def answered(self, node_id: bytes, records: Iterable[R]) -> list[R]:
        """Take the answer of a node, complete or not; returns the records that were taken, for the table to hear of."""
        records = list(records)
        distances = self._asking.pop(node_id, None)
        if distances is None or self._done:
            self.refused["unasked"] += len(records)
            return []
        self._answered.add(node_id)
        self._leave_crowd(node_id)
        self._sweeping.discard(node_id)
        self._leading.discard(node_id)
        self.refused["excess"] += max(len(records) - _MAX_ANSWER, 0)
        taken = []
        for record in records[:_MAX_ANSWER]:
            if log_distance(node_id, record.node_id) not in distances:
                self.refused["distance"] += 1
            elif record.node_id == self._local_id:
                self.refused["own_id"] += 1
            else:
                taken.append(record)
                self._take(record)
        self._settle()
        return taken

    def failed(self, node_id: bytes) -> None:
        """A query got no answer: the node is asked again, or, when that was its last attempt, left out."""
        if self._asking.pop(node_id, None) is None or self._done:
            return
        self._leading.discard(node_id)
        if node_id in self._sweeping:
            self._sweeping.remove(node_id)  # it has answered before
        elif self._attempts[node_id] >= self._config.attempts:
            self._forget(node_id)
        self._settle()

    def result(self) -> list[R]:
        """The records of the k closest known, closest first, less those that failed all attempts."""
        return [self._records[node_id] for _, node_id in self._order[: self._k]]

    def found(self) -> list[R]:
        """The records that the predicate chose (all without one) in the order in which they came, up to `max_found`."""
        return list(self._found.values())

    def _take(self, record: R, given: bool = False) -> None:
        node_id = record.node_id
        if node_id == self._local_id:
            return
        self._collect(record)
        known = self._records.get(node_id)
        if known is not None:
            if record.seq > known.seq and (_places(record) == _places(known) or self._join_crowd(record)):
                self._records[node_id] = record
            return
        if self._attempts[node_id] and node_id not in self._asking:
            return  # it failed, or was pushed out and is far away
        if len(self._order) >= self._config.max_candidates:
            if self._distance(node_id) >= self._order[-1][0]:
                return
            furthest = self._order.pop()[1]
            del self._records[furthest]
            self._leave_crowd(furthest)
        if not given and not self._join_crowd(record):
            return
        insort(self._order, (self._distance(node_id), node_id))
        self._records[node_id] = record

    def _join_crowd(self, record: R) -> bool:
        """False when too many of its subnet have not answered yet: a record makes us send to whoever is named in it."""
        places, before = _places(record), self._places.get(record.node_id, set())
        if any(self._crowds[place] >= self._config.per_subnet for place in places - before):
            self.refused["subnet"] += 1
            return False
        self._leave_crowd(record.node_id)
        self._crowds.update(places)
        self._places[record.node_id] = places
        return True

    def _leave_crowd(self, node_id: bytes) -> None:
        self._crowds.subtract(self._places.pop(node_id, ()))

    def _collect(self, record: R) -> None:
        known = self._found.get(record.node_id)
        room = known.seq < record.seq if known else len(self._found) < self._config.max_found
        if room and (self._predicate is None or self._predicate(record)):
            self._found[record.node_id] = record

    def _forget(self, node_id: bytes) -> None:
        if self._records.pop(node_id, None) is not None:
            del self._order[bisect_left(self._order, (self._distance(node_id), node_id))]

    @property
    def _free(self) -> bool:
        return len(self._asking) < self._parallelism and self.queries < self._config.max_queries

    def _ask_on_the_way(self, node_id: bytes) -> tuple[R, list[int]]:
        return self._ask(node_id, lookup_distances(log_distance(self.target, node_id)))

    def _ask(self, node_id: bytes, distances: list[int]) -> tuple[R, list[int]]:
        self.queries += 1
        self._asking[node_id] = distances
        return self._records[node_id], distances

    def _settle(self) -> None:
        complete = all(node_id in self._answered for _, node_id in self._order[: self._k])
        if complete and self._sweep is None:
            self._sweep = self._about_the_edge()
        spent = self.queries >= self._config.max_queries and not self._asking
        under_way = self._first or self._leading or self._sweep or self._sweeping
        self._done = spent or (complete and not under_way)

    def _about_the_edge(self) -> list[tuple[bytes, list[int]]]:
        """The last queries: seen from nodes closer than it, the edge and the target are at the same distance."""
        closest = self._order[: self._k]
        edge = closest[-1][0].bit_length() if len(closest) >= self._k else ID_BITS
        sweep = []
        for distance, node_id in closest[: self._config.sweep]:
            distances = [each for each in (edge, edge - 1) if each > distance.bit_length()]
            if distances:
                sweep.append((node_id, distances))
        return sweep

    def _distance(self, node_id: bytes) -> int:
        return int.from_bytes(node_id, "big") ^ self._goal


def _places(record: Record) -> set[bytes]:
    """The subnets of all endpoints of a record: which one is sent to, depends on the IP versions that we have."""
    return {place for each in endpoints(record) if (place := counted(each)) is not None}
