"""Who is banned until when, and the addresses that too many of them came from.

Rules: pure; monotonic seconds. At most `most` peers are banned at once, the first to end gives way: whoever is to push
one out needs as many identities, and addresses in proportion, since those of banned peers stop being let in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from pyp2p.peer.id import PeerId
from pyp2p.switch.config import LOOPBACK, IPNetwork

IPAddress = IPv4Address | IPv6Address

PEERS_OF_A_BANNED_IP = 5  # an address is banned above this many banned peers
_IPV6_PREFIX = 64  # what one host is given: in it, addresses cost nothing


@dataclass(frozen=True, slots=True)
class Banned:
    """A ban: until when (monotonic seconds), and where the peer came from (None: unknown, or loopback)."""

    until: float
    network: IPNetwork | None


class Bans:
    """The table of bans."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._peers: dict[PeerId, Banned] = {}
        self._networks: dict[IPNetwork, dict[PeerId, float]] = {}
        self._first = math.inf  # no ban ends before this

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, peer: PeerId, ip: IPAddress | None, until: float) -> list[PeerId]:
        """Ban a peer, or extend its ban, which is never shortened. Returns whose ban had to give way."""
        before = self._peers.get(peer)
        network = network_of(ip)
        if before is not None:
            until, network = max(until, before.until), network or before.network
            self.lift(peer)
        gone = []
        if len(self._peers) >= self._most:
            gone = [min(self._peers, key=lambda each: self._peers[each].until)]
            self.lift(gone[0])
        self._peers[peer] = Banned(until, network)
        self._first = min(self._first, until)
        if network is not None:
            self._networks.setdefault(network, {})[peer] = until
        return gone

    def lift(self, peer: PeerId) -> None:
        """End a ban now; nothing happens without one."""
        banned = self._peers.pop(peer, None)
        if banned is not None and banned.network is not None:
            there = self._networks[banned.network]
            del there[peer]
            if not there:
                del self._networks[banned.network]

    def until(self, peer: PeerId) -> float:
        """When the ban of a peer ends or ended; minus infinity without one."""
        banned = self._peers.get(peer)
        return -math.inf if banned is None else banned.until

    def network_until(self, ip: IPAddress | None, now: float) -> float | None:
        """Until when the address is banned: until at most five of the banned peers there are left; None when it is not.

        An IPv6 address stands for its /64. Loopback is never banned: there, peers are processes of one machine.
        """
        network = network_of(ip)
        there = () if network is None else self._networks.get(network, {}).values()
        standing = sorted((until for until in there if until > now), reverse=True)
        return standing[PEERS_OF_A_BANNED_IP] if len(standing) > PEERS_OF_A_BANNED_IP else None

    def expire(self, now: float) -> list[PeerId]:
        """Forget the bans that are over, and return whose they were."""
        if now < self._first:
            return []
        over = [peer for peer, banned in self._peers.items() if banned.until <= now]
        for peer in over:
            self.lift(peer)
        self._first = min((banned.until for banned in self._peers.values()), default=math.inf)
        return over

    def next_end(self) -> float:
        """When to call `expire`; infinity without a ban."""
        return self._first


def network_of(ip: IPAddress | None) -> IPNetwork | None:
    """What a ban of this address covers: itself, or its /64; None for none and for loopback."""
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    if ip is None or any(ip.version == net.version and ip in net for net in LOOPBACK):
        return None
    return ip_network((ip, _IPV6_PREFIX if ip.version == 6 else 32), strict=False)
