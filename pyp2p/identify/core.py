"""What follows from an identify message: pure decisions on the peer store and on our own addresses.

Rules: a claim counts only for the peer that makes it. State is replaced, never appended. Where others see us is
believed only when enough of them, on distinct networks, say the same.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace

from multiaddr import Multiaddr

from pyp2p.errors import IdentifyError
from pyp2p.identify.wire import IdentifyInfo
from pyp2p.peer.address import canonical, components, ip_of, is_dialable, is_public
from pyp2p.peer.id import PeerId

OBSERVERS = 4  # distinct peers on distinct networks: one operator must not place us elsewhere
MAX_VOICES = 1024  # peers that are listened to, the last ones heard: ids cost nothing
MAX_CONFIRMED = 8  # addresses: those who have networks enough must not fill what we announce
VOTE_SECONDS = 40 * 60.0  # an observation counts that long, as in go-libp2p

Shape = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Voice:
    address: Multiaddr
    network: str
    at: float


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
        record=before.record if said.record is None else said.record,
    )


class ObservedAddresses:
    """Votes on where the world sees us. `now` is monotonic seconds everywhere.

    A peer has one voice per kind of address (IP version and transport): what it says next takes the place of what it
    said before, so that nobody can crowd out what others say.
    """

    def __init__(self) -> None:
        self._voices: OrderedDict[tuple[PeerId, Shape], _Voice] = OrderedDict()  # the longest unheard first
        self._tally: dict[Multiaddr, Counter[str]] = {}  # how many voices from which network

    def observe(self, address: Multiaddr, peer: PeerId, remote: Multiaddr, now: float) -> None:
        """`peer`, whom we reach at `remote`, sees us at `address`. Only bare public TCP and QUIC addresses count."""
        address = canonical(address)
        shape, network = shape_of(address), _network(remote)
        if shape is None or network is None or not is_public(address):
            return
        before = self._voices.pop((peer, shape), None)
        if before is not None:
            self._withdraw(before)
        self._voices[peer, shape] = _Voice(address, network, now)
        self._tally.setdefault(address, Counter())[network] += 1
        if len(self._voices) > MAX_VOICES:
            self._withdraw(self._voices.popitem(last=False)[1])

    def confirmed(self, now: float) -> list[Multiaddr]:
        """The addresses that peers on at least `OBSERVERS` networks saw lately, at most `MAX_CONFIRMED`, best first."""
        while self._voices:
            key, oldest = next(iter(self._voices.items()))
            if now - oldest.at <= VOTE_SECONDS:
                break
            del self._voices[key]
            self._withdraw(oldest)
        believed = [address for address, networks in self._tally.items() if len(networks) >= OBSERVERS]
        believed.sort(key=lambda address: -len(self._tally[address]))
        return believed[:MAX_CONFIRMED]

    def _withdraw(self, voice: _Voice) -> None:
        networks = self._tally[voice.address]
        networks[voice.network] -= 1
        if not networks[voice.network]:
            del networks[voice.network]
            if not networks:
                del self._tally[voice.address]


def shape_of(address: Multiaddr) -> Shape | None:
    """IP version and transport of `/ip4|ip6/../tcp/..` or `.../udp/../quic-v1`; None for what is no such address."""
    names = tuple(part.name for part in components(address))
    if names[1:] not in (("tcp",), ("udp", "quic-v1")) or ip_of(address) is None or not is_dialable(address):
        return None
    return names


def _network(remote: Multiaddr) -> str | None:
    """The network that a voter is on: /16 of IPv4, /32 of IPv6; None without an IP."""
    ip = ip_of(remote)
    if ip is None:
        return None
    return str(ipaddress.ip_network((ip, 16 if ip.version == 4 else 32), strict=False))
