"""In which order, and how far apart, the addresses of a peer are tried: a pure function.

The idea is RFC 8305 (happy eyeballs) in the form in which libp2p implementations deploy it: all that is likely to work
is tried early, but the better way gets a head start so that the worse one is seldom used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from multiaddr import Multiaddr

from pyp2p.peer.address import components, ip_of, is_loopback, is_private, is_public, is_unspecified

NEXT_DELAY = 0.25  # between addresses of one kind, IPv6 and IPv4 in turn
TCP_AFTER_QUIC = 0.25  # TCP waits that long for QUIC, on public addresses
TCP_AFTER_QUIC_PRIVATE = 0.03  # a local network answers at once
RELAY_DELAY = 0.5  # a relayed address waits for the direct ones

_NAMES = ("dns", "dns4", "dns6", "dnsaddr")
_NEVER_TOLD = frozenset(("0", "1", "7", "9", "19", "22", "23", "25", "53", "110", "111", "143", "445", "465", "587"))


def rank(addresses: Iterable[Multiaddr]) -> list[tuple[float, Multiaddr]]:
    """Give each address its start in seconds after the dial began, ascending; duplicates are dropped.

    Rules, in order:
    1. Private and loopback addresses form one group, public ones another; both groups start at once.
    2. Within a group QUIC goes first, TCP follows after `TCP_AFTER_QUIC` (`_PRIVATE`); without QUIC, TCP starts at 0.
    3. Within a kind, IPv6 and IPv4 addresses alternate, IPv6 first, `NEXT_DELAY` apart.
    4. Addresses without IP (memory, unix) start at 0.
    5. Relayed addresses start `RELAY_DELAY` after the direct ones would, when there are any.
    """
    unique = list(dict.fromkeys(addresses))
    relayed = [address for address in unique if _is_relayed(address)]
    direct = [address for address in unique if not _is_relayed(address)]
    offset = RELAY_DELAY if direct else 0.0
    planned = _rank_direct(direct) + [(delay + offset, address) for delay, address in _rank_direct(relayed)]
    return sorted(planned, key=lambda entry: entry[0])  # stable: the given order breaks ties


def _rank_direct(addresses: list[Multiaddr]) -> list[tuple[float, Multiaddr]]:
    planned: list[tuple[float, Multiaddr]] = []
    for local in (True, False):
        group = [a for a in addresses if ip_of(a) is not None and (is_loopback(a) or is_private(a)) == local]
        quic = [address for address in group if _is_quic(address)]
        other = [address for address in group if not _is_quic(address)]
        head_start = (TCP_AFTER_QUIC_PRIVATE if local else TCP_AFTER_QUIC) if quic else 0.0
        planned += _stagger(quic, 0.0) + _stagger(other, head_start)
    return planned + [(0.0, address) for address in addresses if ip_of(address) is None]


def _stagger(addresses: list[Multiaddr], start: float) -> list[tuple[float, Multiaddr]]:
    six = [address for address in addresses if _is_ip6(address)]
    four = [address for address in addresses if not _is_ip6(address)]
    mixed: list[Multiaddr] = []
    for position in range(max(len(six), len(four))):
        mixed += six[position : position + 1] + four[position : position + 1]
    return [(start + NEXT_DELAY * position, address) for position, address in enumerate(mixed)]


def _is_ip6(address: Multiaddr) -> bool:
    ip = ip_of(address)
    return ip is not None and ip.version == 6


def _is_quic(address: Multiaddr) -> bool:
    return any(part.name in ("quic-v1", "quic") for part in components(address))


def _is_relayed(address: Multiaddr) -> bool:
    return any(part.name == "p2p-circuit" for part in components(address))


def dialable_claim(address: Multiaddr, own: Sequence[Multiaddr]) -> bool:
    """True when an address that others told us may be dialled without harm; `own` are our listen addresses.

    Never: unspecified, multicast or broadcast addresses, port 0, ports of well-known other services. Loopback only for
    a node that listens on loopback or not at all, link-local IPv4 (where clouds tell machines their secrets) only for
    one that listens there, private addresses and local names not for a node on a public address: strangers must not
    make us scan our own machine and network. What a name stands for is not known here.
    """
    parts = [part for part in components(address) if part.name != "ip6zone"]
    if any(part.name in ("tcp", "udp") and part.value in _NEVER_TOLD for part in parts[:2]):
        return False
    ip = ip_of(address)
    if ip is None:
        named = bool(parts) and parts[0].name in _NAMES
        return not named or is_public(address) or not any(is_public(mine) for mine in own)
    if is_unspecified(address) or ip.is_multicast or str(ip) == "255.255.255.255" or len(parts) < 2:
        return False
    if is_loopback(address):
        return not own or any(is_loopback(mine) for mine in own)
    if ip.version == 4 and ip.is_link_local:
        return any(their.is_link_local for mine in own if (their := ip_of(mine)) is not None)
    return not is_private(address) or not any(is_public(mine) for mine in own)
