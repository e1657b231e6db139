"""`pyp2p discv5 crawl --identify`: dial the nodes that answered, and note what they say they are.

Rules: few at once, each within ten seconds, in turn with the questions of the crawl. A record is the word of its node:
an address in it that one at its UDP address cannot know (of our own network, say) is not dialled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import trio

from pyp2p.cli.crawl_node import Filter, Found
from pyp2p.cli.crawl_walk import Pace
from pyp2p.cli.failure import CommandFailed
from pyp2p.cli.reach import Reached, connect_to, require_identify
from pyp2p.cli.target import Target
from pyp2p.discv5.enr import Enr, Version
from pyp2p.discv5.node import Endpoint, canonical, endpoints, refuse_endpoint, scope
from pyp2p.peer.address import parse_multiaddr
from pyp2p.switch.switch import Switch

SECONDS: Final = 10.0  # for one node
_AT_ONCE = 32  # two addresses each: what the switch lets us dial at once
_VERSIONS: Final[tuple[Version, ...]] = (4, 6)
OVER: Final = "the time was over"


@dataclass(slots=True)
class Identifier:
    """Identifies the nodes that the filter takes, over one switch."""

    switch: Switch
    pace: Pace
    filter: Filter
    _slots: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(_AT_ONCE))

    async def identify(self, found: Found) -> None:
        """Note agent and protocols of a node, or why they are not known; nothing for one without a TCP address."""
        if not self.filter.takes(found.record) or not _tcp(found.record):
            return
        target = believed_target(found.record)
        if target is None:
            found.identify_error = "not dialled: whoever is at its UDP address cannot know its TCP address"
            return
        found.identify_error = OVER  # unless there is time
        async with self._slots:
            await self.pace.turn()
            try:
                await self._ask(target, found)
            except CommandFailed as failure:
                found.identify_error = failure.reason

    async def _ask(self, target: Target, found: Found) -> None:
        began = trio.current_time()
        try:
            connection = await connect_to(self.switch, target, SECONDS)
            require_identify(Reached(self.switch, connection, began, trio.current_time() - began, began + SECONDS))
            info = connection.info
            if info is not None:
                found.agent, found.protocols, found.identify_error = info.agent, list(info.protocols or ()), None
        finally:
            await self.switch.disconnect(found.record.peer_id)


def _tcp(record: Enr) -> list[Endpoint]:
    """Where the record says that the node listens for TCP."""
    places = [record.endpoint("tcp", version) for version in _VERSIONS]
    return [Endpoint(str(place.ip), place.port) for place in places if place is not None]


def believed_target(record: Enr) -> Target | None:
    """The TCP addresses of a record that each of its UDP addresses may tell of; None when there are none."""
    scopes = [scope(canonical(place.ip)) for place in endpoints(record)]
    addresses = [
        parse_multiaddr(f"/ip{6 if ':' in place.ip else 4}/{place.ip}/tcp/{place.port}")
        for place in _tcp(record)
        if scopes and all(refuse_endpoint(place, teller) is None for teller in scopes)
    ]
    return Target(addresses[0], record.peer_id, tuple(addresses[1:])) if addresses else None
