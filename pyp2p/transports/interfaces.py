"""Which addresses a wildcard listen address stands for.

Rule: the choice is a pure function of the interface list; only `interface_addresses` asks the operating system.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

import psutil
from multiaddr import Multiaddr

from pyp2p.peer.address import components, parse_multiaddr

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_ADDRESSES = 64  # a host with thousands of virtual interfaces must not fill our identify messages


def interface_addresses() -> list[IPAddress]:
    """The IP addresses of this machine's interfaces, in the system's order."""
    found: dict[IPAddress, None] = {}
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family in {socket.AF_INET, socket.AF_INET6}:
                found[ipaddress.ip_address(entry.address.partition("%")[0])] = None
    return list(found)


def expand_wildcard(address: Multiaddr, interfaces: Iterable[IPAddress] | None = None) -> list[Multiaddr]:
    """The real addresses behind `/ip4/0.0.0.0/...` or `/ip6/::/...`; any other address alone.

    `interfaces` are the machine's addresses (None: ask for them now). Loopback counts only when the machine has
    nothing else. Link-local IPv6 is left out: it means nothing without a zone, and a zone means nothing to others.
    """
    parts = components(address)
    if not parts or parts[0].name not in {"ip4", "ip6"} or not ipaddress.ip_address(parts[0].value).is_unspecified:
        return [address]
    version = 4 if parts[0].name == "ip4" else 6
    if interfaces is None:
        interfaces = interface_addresses()
    usable = [ip for ip in interfaces if ip.version == version and not ip.is_unspecified and not ip.is_multicast]
    if version == 6:
        usable = [ip for ip in usable if not ip.is_link_local]
    chosen = [ip for ip in usable if not ip.is_loopback] or usable
    rest = "".join(f"/{part.name}/{part.value}" if part.value else f"/{part.name}" for part in parts[1:])
    return [parse_multiaddr(f"/{parts[0].name}/{ip}{rest}") for ip in chosen[:MAX_ADDRESSES]]
