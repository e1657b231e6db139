"""Dials that the router asks for: to peers that others offered with their records, and to explicit ones.

Rules: few at once and few that wait, whatever is offered; what fails harms nobody.
"""

from __future__ import annotations

import logging
from math import inf

import trio
from multiaddr import Multiaddr

from pyp2p.errors import describe, printable
from pyp2p.io.guard import run_guarded
from pyp2p.peer.address import parse_multiaddr, split_peer
from pyp2p.peer.id import PeerId
from pyp2p.peer.store import Source
from pyp2p.pubsub.types import Connect
from pyp2p.switch.switch import Switch

logger = logging.getLogger("pyp2p.pubsub")

_AT_ONCE = 8
_MOST = 64  # that are dialled or wait for it; more are left alone


class Dials:
    """The dials of one pubsub."""

    def __init__(self, switch: Switch) -> None:
        self.pending = 0  # peers that are dialled or wait for it
        self._switch = switch
        self._turns = trio.CapacityLimiter(_AT_ONCE)

    def want(self, wanted: Connect, nursery: trio.Nursery) -> None:
        """Try a peer, unless too many are tried already."""
        if self.pending < _MOST:
            self.pending += 1
            nursery.start_soon(self._connect, wanted)

    async def _connect(self, wanted: Connect) -> None:
        async with self._turns:
            try:
                error = await run_guarded(self._reach, wanted)  # an admission step may raise what it likes
            finally:
                self.pending -= 1
        if error is not None:
            logger.debug("peer not reached error=%s", describe(error))

    async def _reach(self, wanted: Connect) -> None:
        """A record must be the peer's own."""
        peer = PeerId.from_bytes(wanted.peer)
        if wanted.record:
            self._switch.peers.consume_record(wanted.record, trio.current_time(), peer)
        await self._switch.connect(peer)


def explicit_peer(switch: Switch, named: str | Multiaddr | PeerId) -> PeerId:
    """The id of an explicit peer; its address goes to the store. Raises `ValueError` for one without an id."""
    if isinstance(named, PeerId):
        return named
    address, peer = split_peer(parse_multiaddr(named))
    if peer is None:
        raise ValueError(f"explicit: {printable(str(named))} does not end in /p2p/ID")
    switch.peers.add_addresses(peer, [address], inf, Source.MANUAL, trio.current_time())
    return peer
