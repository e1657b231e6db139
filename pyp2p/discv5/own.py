"""Our own record: what we say of ourselves, and what others' PONGs make of it.

Rules: pure. Each change has a higher sequence number, as everybody ignores a lower one, and is told before anything is
sent that was made with it. discv5 wire "PONG Response".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pyp2p.discv5.enr import Enr, Value
from pyp2p.discv5.limits import VoteConfig, Votes
from pyp2p.discv5.node import Endpoint, canonical, endpoints
from pyp2p.errors import LocalProtocolError
from pyp2p.peer.keys import Identity


class OwnRecord:
    """The record, and who signs it. `changed(record)` is told of each new one; a `fixed` one no vote changes."""

    def __init__(
        self,
        identity: Identity,
        record: Enr,
        *,
        votes: VoteConfig,
        fixed: bool,
        changed: Callable[[Enr], None],
        counters: Counter[str],
    ) -> None:
        self.record = record
        self.votes = Votes(votes)
        self._identity = identity
        self._fixed = fixed
        self._changed = changed
        self._counters = counters

    def replace(self, record: Enr) -> None:
        """It is this one from now on. Raises `LocalProtocolError` for one of another node, or an older one."""
        if record.node_id != self.record.node_id or record.seq < self.record.seq:
            raise LocalProtocolError("a record of another node, or older than the one we have")
        self.record = record
        self._changed(record)

    def change(self, **changes: Value | None) -> None:
        """With these entries, or without those given as None. Raises `LocalProtocolError` as `Enr.update`."""
        self.replace(self.record.update(self._identity, **changes))

    def seen_at(self, claimed: Endpoint, voter: Endpoint, now: float) -> None:
        """`voter` sees us at `claimed`: when enough others agree, the record says so."""
        if self._fixed:
            return
        elected = self.votes.vote(voter, claimed, now)
        if elected is None or elected in endpoints(self.record):
            return
        ip = canonical(elected.ip)
        suffix = "" if ip.version == 4 else "6"
        try:
            self.change(**{f"ip{suffix}": ip, f"udp{suffix}": elected.port})
        except LocalProtocolError:  # it would be over 300 bytes
            self._counters["record not changed"] += 1
