"""Who shares an address with whom (P6): sybils from few machines.

Rules: pure. One IPv4 address is a place, and one IPv6 /64, which any customer has whole. Bounded by the peers that the
caller keeps. libp2p specs, gossipsub v1.1, P6.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.params import IPNetwork


class Colocation:
    """The places of all peers; `exempt` networks are none."""

    def __init__(self, threshold: int, exempt: Sequence[IPNetwork]) -> None:
        self._threshold = threshold
        self._exempt = exempt
        self._places: dict[PeerId, tuple[bytes, ...]] = {}
        self._peers: dict[bytes, dict[PeerId, None]] = {}

    def value(self, peer: PeerId) -> float:
        """P6 of `peer`: the squared number of peers over the threshold, summed over its places."""
        value = 0.0
        for place in self._places.get(peer, ()):
            surplus = len(self._peers[place]) - self._threshold
            if surplus > 0:
                value += surplus * surplus
        return value

    def move(self, peer: PeerId, ips: Sequence[IPv4Address | IPv6Address]) -> list[PeerId]:
        """`peer` is at `ips` and nowhere else (none: it is gone); returns the others whose value may have changed."""
        before, after = self._places.pop(peer, ()), self._places_of(ips)
        if after:
            self._places[peer] = after
        others: dict[PeerId, None] = {}
        for place in before:
            if place not in after:
                there = self._peers[place]
                del there[peer]
                if len(there) >= self._threshold:
                    others.update(there)
                if not there:
                    del self._peers[place]
        for place in after:
            if place not in before:
                there = self._peers.setdefault(place, {})
                if len(there) >= self._threshold:
                    others.update(there)
                there[peer] = None
        others.pop(peer, None)
        return list(others)

    def _places_of(self, ips: Sequence[IPv4Address | IPv6Address]) -> tuple[bytes, ...]:
        places: dict[bytes, None] = {}
        for ip in ips:
            mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
            address = ip if mapped is None else mapped
            if not any(address in network for network in self._exempt):
                places[address.packed if isinstance(address, IPv4Address) else address.packed[:8]] = None
        return tuple(places)
