"""Where a node listens, and which ports its record names for that.

Rules: pure but for one line of log. TCP and discovery share a number, QUIC has the next one unless it is given one, as
other clients have it (discovery has taken the number for UDP). Consensus-specs, phase0/p2p-interface.md, "Transport"
and "ENR structure".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from multiaddr import Multiaddr

from pyp2p.beacon.config import BeaconConfig
from pyp2p.discv5.enr import Value
from pyp2p.peer.address import components, parse_multiaddr
from pyp2p.switch.defaults import Quic, default_transports
from pyp2p.transports.base import Transport

logger = logging.getLogger("pyp2p.beacon")


def chosen_transports(config: BeaconConfig, given: Sequence[Transport] | None) -> list[Transport]:
    """Those given, else all that are installed; without QUIC when it is off. That it is missing is logged."""
    if given is None and config.quic and Quic is None:
        logger.warning("QUIC is not installed: TCP alone is listened on and dialled (pip install pyp2p[quic])")
    found = default_transports() if given is None else given
    return [each for each in found if config.quic or each.name != "quic"]


def listen_addresses(config: BeaconConfig, transports: Iterable[Transport]) -> list[Multiaddr]:
    """TCP, and QUIC where one of the transports can, on each address of `config.listen`."""
    found = []
    for ip, port in config.listen:
        where = f"/ip{6 if ':' in ip else 4}/{ip}"
        quic = parse_multiaddr(f"{where}/udp/{config.quic_beside(port)}/quic-v1")
        found.append(parse_multiaddr(f"{where}/tcp/{port}"))
        found += [quic for each in transports if each.handles(quic)][:1]
    return found


def record_ports(config: BeaconConfig, addresses: Iterable[Multiaddr]) -> dict[str, Value]:
    """The entries of our record for TCP and QUIC: the ports of `addresses`, which are bound, or those advertised.

    A QUIC port is named only while QUIC is listened on, with the same version of IP.
    """
    bound: dict[str, Value] = {}
    for address in addresses:
        ip, at, *more = components(address)
        bound.setdefault(_entry("quic" if more else at.name, ip.name == "ip6"), int(at.value))
    if config.advertise is None:
        return bound
    named: dict[str, Value] = {}
    for each in config.advertise:
        six = ":" in each.ip
        quic = _entry("quic", six)
        named[_entry("tcp", six)] = each.tcp
        if quic in bound:
            named[quic] = bound[quic] if each.quic is None else each.quic
    return named


def _entry(protocol: str, six: bool) -> str:
    return protocol + ("6" if six else "")
