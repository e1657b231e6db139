"""Who may connect at all: four questions at the four stages of a connection, each answered with None or a reason."""

from __future__ import annotations

import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Protocol

from multiaddr import Multiaddr

from pyp2p.io.handshake import Direction
from pyp2p.peer.address import ip_of
from pyp2p.peer.id import PeerId
from pyp2p.switch.config import IPNetwork
from pyp2p.switch.connection import Connection


class ConnectionGater(Protocol):
    """Asked synchronously, in this order; a text refuses the connection and is its reason, None lets it pass."""

    def allow_dial(self, peer: PeerId | None, address: Multiaddr) -> str | None:
        """Before an address is dialled; `peer` is None when its id is to be learnt."""
        ...

    def allow_accept(self, remote: Multiaddr) -> str | None:
        """Before anything is read from an accepted connection."""
        ...

    def allow_secured(self, direction: Direction, peer: PeerId, remote: Multiaddr) -> str | None:
        """When the peer's id is proven."""
        ...

    def allow_upgraded(self, connection: Connection) -> str | None:
        """When the connection is ready, before anybody hears of it."""
        ...


class AllowAll:
    """Lets everybody pass."""

    def allow_dial(self, peer: PeerId | None, address: Multiaddr) -> str | None:
        """Pass."""
        return None

    def allow_accept(self, remote: Multiaddr) -> str | None:
        """Pass."""
        return None

    def allow_secured(self, direction: Direction, peer: PeerId, remote: Multiaddr) -> str | None:
        """Pass."""
        return None

    def allow_upgraded(self, connection: Connection) -> str | None:
        """Pass."""
        return None


class BlockList(AllowAll):
    """Refuses peers and IP ranges, each until a time, and lets everybody else pass.

    `clock` gives the time that the `until` values are in (seconds). At most `limit` entries of each kind: the oldest
    goes first.
    """

    def __init__(self, clock: Callable[[], float], limit: int = 10_000) -> None:
        self._clock = clock
        self._limit = limit
        self._peers: OrderedDict[PeerId, float] = OrderedDict()
        self._networks: OrderedDict[IPNetwork, float] = OrderedDict()
        self._lengths: Counter[tuple[int, int]] = Counter()  # IP versions and prefix lengths among them

    def block_peer(self, peer: PeerId, until: float = math.inf) -> None:
        """Refuse `peer`; an earlier block is extended, never shortened."""
        self._peers[peer] = max(until, self._peers.pop(peer, until))
        if len(self._peers) > self._limit:
            self._peers.popitem(last=False)

    def block_network(self, network: str, until: float = math.inf) -> None:
        """Refuse an IP address or range (`192.0.2.0/24`). Raises `ValueError` when it is none."""
        parsed = _canonical(network)
        until = max(until, self._forget_network(parsed, until))
        self._networks[parsed] = until
        self._lengths[parsed.version, parsed.prefixlen] += 1
        if len(self._networks) > self._limit:
            self._forget_network(next(iter(self._networks)), until)

    def unblock_peer(self, peer: PeerId) -> None:
        """Let `peer` pass again."""
        self._peers.pop(peer, None)

    def unblock_network(self, network: str) -> None:
        """Let an address or range pass again. Raises `ValueError` when it is none."""
        self._forget_network(_canonical(network), 0.0)

    def allow_dial(self, peer: PeerId | None, address: Multiaddr) -> str | None:
        """Refuse what is blocked by id or address."""
        return self._blocked_peer(peer) or self._blocked_address(address)

    def allow_accept(self, remote: Multiaddr) -> str | None:
        """Refuse what is blocked by address."""
        return self._blocked_address(remote)

    def allow_secured(self, direction: Direction, peer: PeerId, remote: Multiaddr) -> str | None:
        """Refuse what is blocked by id."""
        return self._blocked_peer(peer)

    def _blocked_peer(self, peer: PeerId | None) -> str | None:
        until = None if peer is None else self._peers.get(peer)
        if peer is None or until is None:
            return None
        if until <= self._clock():
            del self._peers[peer]
            return None
        return f"peer {peer} is blocked"

    def _forget_network(self, network: IPNetwork, default: float) -> float:
        """Until when it was blocked, `default` when it was not."""
        until = self._networks.pop(network, None)
        if until is None:
            return default
        key = network.version, network.prefixlen
        self._lengths[key] -= 1
        if not self._lengths[key]:
            del self._lengths[key]
        return until

    def _blocked_address(self, address: Multiaddr) -> str | None:
        ip = ip_of(address)
        if ip is None:
            return None
        for version, length in list(self._lengths):
            if version != ip.version:
                continue
            network = ipaddress.ip_network((ip, length), strict=False)
            until = self._networks.get(network)
            if until is None:
                continue
            if until > self._clock():
                return f"address {ip} is blocked by {network}"
            self._forget_network(network, 0.0)
        return None


def _canonical(text: str) -> IPNetwork:
    """The range; one of IPv4 addresses that are mapped into IPv6 as what it is, because addresses are compared so."""
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network
