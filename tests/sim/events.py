"""A clock that is a heap of what happens when: no trio, no sleeping."""

import heapq
from collections.abc import Callable


class Events:
    """What is due at the same time happens in the order in which it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._asked = 0

    def at(self, when: float, what: Callable[..., None], *args: object) -> None:
        """Call `what` then."""
        self._asked += 1
        heapq.heappush(self._heap, (when, self._asked, what, args))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, what, args = heapq.heappop(heap)
            what(*args)
        self.now = end
