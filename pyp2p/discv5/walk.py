"""A lookup under way: its queries are sent, and their answers fed to it."""

from __future__ import annotations

from collections.abc import Callable

from pyp2p.discv5.calls import Done
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.lookup import Lookup
from pyp2p.errors import DiscoveryError

K = 16  # nodes that a lookup looks for
Query = Callable[[Enr, list[int], Done, float], None]
WalkDone = Callable[[Lookup[Enr], float], None]


class Walk:
    """Drives a `Lookup`; `query(node, distances, done, now)` asks, `told(records, teller, now)` hears of new nodes."""

    def __init__(
        self, lookup: Lookup[Enr], query: Query, told: Callable[[list[Enr], Enr, float], None], done: WalkDone
    ) -> None:
        self.stopped = False  # nobody waits for the result any more
        self._asking = False
        self._lookup = lookup
        self._query = query
        self._told = told
        self._done = done

    def go_on(self, now: float) -> None:
        """Send the next queries; tell when there are none to come."""
        if self._asking:  # a query was over at once; not from within it, as a hundred in a row would be too deep
            return
        self._asking = True
        while not self.stopped and (queries := self._lookup.next_queries()):
            for node, distances in queries:
                self._ask(node, distances, now)
        self._asking = False
        if self._lookup.done and not self.stopped:
            self.stopped = True
            self._done(self._lookup, now)

    def _ask(self, node: Enr, distances: list[int], now: float) -> None:
        def over(result: object, when: float) -> None:
            if isinstance(result, DiscoveryError):
                self._lookup.failed(node.node_id)
            elif isinstance(result, list):
                self._told(self._lookup.answered(node.node_id, result), node, when)
            self.go_on(when)

        self._query(node, distances, over, now)
