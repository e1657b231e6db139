"""TALKREQs that an application is answering: how many at a time, and until when.

Rules: pure, bounded. Each costs a task; one node must not take the place of all. discv5 wire "TALKREQ Request".
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

from pyp2p.discv5.sessions import Where
from pyp2p.discv5.types import Discv5Config


class _Talk(NamedTuple):
    where: Where
    request_id: bytes
    deadline: float


class Talks:
    """Those under way, by the token that the application answers with."""

    def __init__(self, config: Discv5Config) -> None:
        self._config = config
        self._talks: OrderedDict[int, _Talk] = OrderedDict()  # the first to expire first
        self._per_node: Counter[Where] = Counter()

    def __len__(self) -> int:
        return len(self._talks)

    def begin(self, token: int, where: Where, request_id: bytes, now: float) -> bool:
        """Count a request; False when there are too many, in all or of this node."""
        self.expire(now)
        if len(self._talks) >= self._config.max_talks or self._per_node[where] >= self._config.max_talks_per_node:
            return False
        self._talks[token] = _Talk(where, request_id, now + self._config.talk_timeout)
        self._per_node[where] += 1
        return True

    def end(self, token: int, now: float) -> tuple[Where, bytes] | None:
        """Who asked, and with which request id; None when that is too late."""
        talk = self._talks.pop(token, None)
        if talk is None:
            return None
        self._forget(talk)
        return None if now > talk.deadline else (talk.where, talk.request_id)

    def expire(self, now: float) -> None:
        """Forget those that are too late."""
        while self._talks and next(iter(self._talks.values())).deadline < now:
            _, talk = self._talks.popitem(last=False)
            self._forget(talk)

    def _forget(self, talk: _Talk) -> None:
        self._per_node[talk.where] -= 1
        if not self._per_node[talk.where]:
            del self._per_node[talk.where]
