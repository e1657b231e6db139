"""A lookup under way: its queries are sent, and their answers fed to it.

Rule: what is found by way of those alone who came to us by themselves may be the result, but is not told to the table:
they choose whom to press, and would have us know nobody but their friends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pyp2p.discv5.calls import Done
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.lookup import Lookup
from pyp2p.errors import DiscoveryError

K = 16  # nodes that a lookup looks for
Query = Callable[[Enr, list[int], Done, float], None]
WalkDone = Callable[[Lookup[Enr], float], None]


class Walk:
    """Drives a `Lookup`; `query(node, distances, done, now)` asks, `told(records, teller, now)` hears of new nodes.

    `doubted` are the ids of those that came to us, `vouched` of those that did not.
    """

    def __init__(
        self,
        lookup: Lookup[Enr],
        query: Query,
        told: Callable[[list[Enr], Enr, float], None],
        done: WalkDone,
        *,
        doubted: Iterable[bytes],
        vouched: Iterable[bytes],
    ) -> None:
        self.stopped = False  # nobody waits for the result any more
        self._asking = False
        self._lookup = lookup
        self._query = query
        self._told = told
        self._done = done
        self._doubted = set(doubted)
        self._vouched = set(vouched)

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
                taken = self._lookup.answered(node.node_id, result)
                if self._believes(node, taken):
                    self._told(taken, node, when)
            self.go_on(when)

        self._query(node, distances, over, now)

    def _believes(self, teller: Enr, told: list[Enr]) -> bool:
        """Whether somebody stands for the teller who did not come to us, or for whom such a one stands."""
        names = {node.node_id for node in told}
        if teller.node_id in self._doubted:
            self._doubted |= names - self._vouched
            return False
        self._vouched |= names
        self._doubted -= names
        return True
