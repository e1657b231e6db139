"""What follows from an identify message: pure decisions on the peer store and on our own addresses.

Rules: a claim counts only for the peer that makes it. State is replaced, never appended. Where others see us is
believed only when enough of them, on distinct networks, say the same.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import replace

from multiaddr import Multiaddr

from pyp2p.errors import IdentifyError
from pyp2p.identify.wire import IdentifyInfo
from pyp2p.peer.address import canonical, components, ip_of, is_public
from pyp2p.peer.id import PeerId

OBSERVERS = 4  # distinct peers on distinct networks: one operator must not place us elsewhere
MAX_CANDIDATES = 64  # addresses that are being voted on
MAX_VOTERS = 32  # remembered per candidate
VOTE_SECONDS = 40 * 60.0  # an observation counts that long, as in go-libp2p


def updated(before: IdentifyInfo | None, said: IdentifyInfo, peer: PeerId) -> IdentifyInfo:
    """The peer's description after it said `said`: fields that are there replace, absent ones stay.

    Raises `IdentifyError` when the key in it is not that of `peer`: nothing of such a message counts.
    """
    if said.public_key is not None and PeerId.from_key(said.public_key) != peer:
        raise IdentifyError("the identify message holds the key of another peer")
    if before is None:
        return replace(said, addresses=said.addresses or (), protocols=said.protocols or ())
    return IdentifyInfo(
        public_key=said.public_key or before.public_key,
        addresses=before.addresses if said.addresses is None else said.addresses,
        protocols=before.protocols if said.protocols is None else said.protocols,
        observed=before.observed if said.observed is None else said.observed,
        protocol_version=before.protocol_version if said.protocol_version is None else said.protocol_version,
        agent=before.agent if said.agent is None else said.agent,
        record=said.record,
    )


class ObservedAddresses:
    """Votes on where the world sees us. `now` is monotonic seconds everywhere."""

    def __init__(self) -> None:
        self._votes: OrderedDict[Multiaddr, OrderedDict[str, tuple[PeerId, float]]] = OrderedDict()

    def observe(self, address: Multiaddr, peer: PeerId, remote: Multiaddr, now: float) -> None:
        """`peer`, whom we reach at `remote`, sees us at `address`. Only public IP addresses with a port count."""
        address = canonical(address)
        network = _network(remote)
        if network is None or ip_of(address) is None or not is_public(address) or not _has_port(address):
            return
        votes = self._votes.setdefault(address, OrderedDict())
        self._votes.move_to_end(address)
        for other in [key for key, (voter, _) in votes.items() if voter == peer]:
            del votes[other]
        votes[network] = (peer, now)
        if len(votes) > MAX_VOTERS:
            votes.popitem(last=False)
        if len(self._votes) > MAX_CANDIDATES:
            self._votes.popitem(last=False)

    def confirmed(self, now: float) -> list[Multiaddr]:
        """The addresses that at least `OBSERVERS` peers on distinct networks saw lately, the newest last."""
        for votes in self._votes.values():
            for network in [key for key, (_, at) in votes.items() if now - at > VOTE_SECONDS]:
                del votes[network]
        return [address for address, votes in self._votes.items() if len(votes) >= OBSERVERS]


def _network(remote: Multiaddr) -> str | None:
    """The network that a voter is on: /16 of IPv4, /32 of IPv6; None without an IP."""
    ip = ip_of(remote)
    if ip is None:
        return None
    return str(ipaddress.ip_network((ip, 16 if ip.version == 4 else 32), strict=False))


def _has_port(address: Multiaddr) -> bool:
    parts = components(address)
    return len(parts) >= 2 and parts[1].name in ("tcp", "udp") and parts[1].value != "0"
