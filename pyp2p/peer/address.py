"""Addresses: the strict way in, what they are made of, and what a connection's address is worth (specs addressing).

Rules: every address from outside, text, bytes or an object that somebody built, passes `parse_multiaddr` once; from
then on it is a `multiaddr.Multiaddr` that can be trusted. Decoding is cached: the same few addresses come again.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from multiaddr import Multiaddr

from pyp2p.errors import InvalidMultiaddr, LocalProtocolError, printable
from pyp2p.peer.id import PeerId
from pyp2p.peer.multiaddr import IP4, MAX_TEXT, P2P, Component, decode_bytes, encode_component, encode_text, join_text

__all__ = [
    "AddressKind",
    "BookAddresses",
    "Component",
    "canonical",
    "components",
    "from_host_port",
    "host_port",
    "ip_of",
    "is_dialable",
    "is_loopback",
    "is_private",
    "is_public",
    "is_unspecified",
    "parse_multiaddr",
    "split_peer",
    "text",
    "with_peer",
]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_CACHED = 2048  # addresses; at the size limits of one address this is about 8 MiB
_PORTED = ("tcp", "udp", "memory")
_NAMES = ("dns", "dns4", "dns6", "dnsaddr")
_LOCAL_NAMES = ("localhost", "local", "internal", "home.arpa")


class _Checked(Multiaddr):
    """A checked address, which prints by our table: the library raises, in logs too, for protocols it does not know."""

    __slots__ = ()

    def __str__(self) -> str:
        return text(self)


@dataclass(frozen=True, slots=True)
class _Decoded:
    address: Multiaddr
    components: tuple[Component, ...]
    text: str


@lru_cache(maxsize=_CACHED)
def _decoded(raw: bytes) -> _Decoded:
    parts = decode_bytes(raw)
    return _Decoded(_Checked(raw), parts, join_text(parts))


@lru_cache(maxsize=_CACHED)
def _from_text(given: str) -> Multiaddr:
    return _decoded(encode_text(given)).address


def parse_multiaddr(value: str | bytes | Multiaddr) -> Multiaddr:
    """The address that `value` stands for, checked byte by byte; `/ipfs/` becomes `/p2p/`, ids and hashes canonical.

    Raises `InvalidMultiaddr` (with the position) when it is malformed, empty, over 2,048 characters, 1,024 bytes or 24
    components, or names a protocol that the table does not have.
    """
    if isinstance(value, str):
        if len(value) > MAX_TEXT:  # before anything looks at it
            raise InvalidMultiaddr(f"address of {len(value)} characters is over the limit of {MAX_TEXT}")
        return _from_text(value)
    raw = value.to_bytes() if isinstance(value, Multiaddr) else bytes(value)
    if not raw:
        raise InvalidMultiaddr("address is empty", 0)
    return _decoded(raw).address


def components(address: Multiaddr) -> tuple[Component, ...]:
    """The steps of the address in order; none for an empty one. Raises `InvalidMultiaddr` for one built unchecked."""
    return _decoded(address.to_bytes()).components


def text(address: Multiaddr) -> str:
    """The canonical text; `/` for an empty address. Raises `InvalidMultiaddr` for one that was built unchecked."""
    return _decoded(address.to_bytes()).text


def split_peer(address: Multiaddr) -> tuple[Multiaddr, PeerId | None]:
    """The address without its last step when that is `/p2p/ID`, and the id; else the address and None.

    `/p2p/ID` alone leaves an empty address.
    """
    parts = components(address)
    if not parts or parts[-1].code != P2P:
        return address, None
    raw = address.to_bytes()
    cut = len(raw) - len(encode_component(P2P, parts[-1].raw))
    return _decoded(raw[:cut]).address, PeerId(parts[-1].raw)


def with_peer(address: Multiaddr, peer: PeerId) -> Multiaddr:
    """The address with `/p2p/ID` at its end. Raises `LocalProtocolError` when it ends with another id."""
    _, named = split_peer(address)
    if named is None:
        return parse_multiaddr(address.to_bytes() + encode_component(P2P, peer.raw))
    if named != peer:
        raise LocalProtocolError(f"{text(address)} does not belong to {peer}")
    return address


@lru_cache(maxsize=1024)
def ip_of(address: Multiaddr) -> IPAddress | None:
    """The IP address that it begins with; IPv4 mapped into IPv6 is given as IPv4, so that limits count it once."""
    for part in components(address)[:2]:
        if part.name == "ip4":
            return ipaddress.IPv4Address(part.raw)
        if part.name == "ip6":
            ip = ipaddress.IPv6Address(part.raw)
            return ip.ipv4_mapped or ip
        if part.name != "ip6zone":
            break
    return None


def canonical(address: Multiaddr) -> Multiaddr:
    """The address with an IPv4 address that is mapped into IPv6 (`/ip6/::ffff:1.2.3.4`) written as `/ip4`."""
    parts = components(address)
    ip = ip_of(address)
    if not isinstance(ip, ipaddress.IPv4Address) or parts[0].name == "ip4":
        return address
    head = encode_component(IP4, ip.packed)
    tail = parts[2:] if parts[0].name == "ip6zone" else parts[1:]
    return parse_multiaddr(head + b"".join(encode_component(part.code, part.raw) for part in tail))


def host_port(address: Multiaddr) -> tuple[str, int] | None:
    """Host (IP with its zone, or name) and port of `/HOST/tcp/PORT...`; None for an address of another shape."""
    parts = components(address)
    zone = ""
    if parts and parts[0].name == "ip6zone":
        zone, parts = f"%{parts[0].value}", parts[1:]
    if len(parts) < 2 or parts[1].name != "tcp" or parts[0].name not in ("ip4", "ip6", *_NAMES[:3]):
        return None
    return parts[0].value + zone, int(parts[1].value)


def from_host_port(host: str, port: int, protocol: str = "tcp") -> Multiaddr:
    """`/ip4`, `/ip6` (with `/ip6zone` for `%zone`) or, for a name, `/dns`, then the protocol and port.

    Raises `InvalidMultiaddr`.
    """
    if "/" in host:  # it would add steps of its own
        raise InvalidMultiaddr(f"not a host: '{printable(host)}'")
    plain, _, zone = host.partition("%")
    try:
        ip = ipaddress.ip_address(plain)
    except ValueError:
        return parse_multiaddr(f"/dns/{host}/{protocol}/{port}")
    if zone and ip.version == 6:
        return parse_multiaddr(f"/ip6zone/{zone}/ip6/{ip}/{protocol}/{port}")
    return parse_multiaddr(f"/ip{ip.version}/{host}/{protocol}/{port}")


def is_unspecified(address: Multiaddr) -> bool:
    """True for 0.0.0.0 and ::, which can be listened on and never dialled."""
    ip = ip_of(address)
    return ip is not None and ip.is_unspecified


def is_dialable(address: Multiaddr) -> bool:
    """False when there is nothing to dial: no steps, an unspecified IP address, port 0."""
    parts = components(address)
    return bool(parts) and not is_unspecified(address) and not any(p.name in _PORTED and not any(p.raw) for p in parts)


def is_loopback(address: Multiaddr) -> bool:
    """True for addresses of this machine alone."""
    ip = ip_of(address)
    return ip is not None and ip.is_loopback


def is_private(address: Multiaddr) -> bool:
    """True for addresses that mean something only on the network at hand (RFC 1918, ULA, link-local, reserved)."""
    ip = ip_of(address)
    return ip is not None and not (ip.is_loopback or ip.is_unspecified or ip.is_global or ip.is_multicast)


def is_public(address: Multiaddr) -> bool:
    """True for addresses that anybody may reach: a global unicast IP or a DNS name that is not local."""
    ip = ip_of(address)
    if ip is not None:
        return ip.is_global and not ip.is_multicast
    parts = components(address)
    if not parts or parts[0].name not in _NAMES:
        return False
    name = "." + parts[0].value.rstrip(".").lower()
    return not name.endswith(tuple("." + local for local in _LOCAL_NAMES))


class AddressKind(enum.Enum):
    """Where the address of a connection comes from, hence what may be remembered of it."""

    OUTBOUND_DIRECT = "outbound-direct"
    INBOUND_DIRECT = "inbound-direct"
    OUTBOUND_PROXY = "outbound-proxy"
    INBOUND_PROXY = "inbound-proxy"
    ISOLATED = "isolated"

    def book_addresses(self, remote: Multiaddr | None, announced: Iterable[Multiaddr]) -> BookAddresses:
        """What may enter the address book after a connection of this kind with `remote` at its other end.

        Only an outbound-direct remote address enters itself; an announced unspecified IP or port is filled in from it.
        Of an inbound-direct connection the announced addresses enter, and its IP with the announced ports as
        alternates. Behind a proxy the remote address is the proxy's: only announced addresses enter. An isolated
        connection leaves nothing. Unspecified addresses never enter.
        """
        if self is AddressKind.ISOLATED:
            return BookAddresses((), (), ())
        claims = dict.fromkeys(announced)
        observed: tuple[Multiaddr, ...] = ()
        alternates: dict[Multiaddr, None] = {}
        if remote is not None and self is AddressKind.OUTBOUND_DIRECT:
            remote = split_peer(remote)[0]
            observed = (remote,) if is_dialable(remote) else ()
            claims = dict.fromkeys(_filled(claim, remote) for claim in claims)
            claims.pop(remote, None)
        elif remote is not None and self is AddressKind.INBOUND_DIRECT:
            alternates = dict.fromkeys(_moved(claim, remote) for claim in claims)
        kept = tuple(claim for claim in claims if is_dialable(claim))
        return BookAddresses(
            observed, kept, tuple(other for other in alternates if other not in claims and is_dialable(other))
        )


@dataclass(frozen=True, slots=True)
class BookAddresses:
    """`observed` by us, `claimed` by the peer, and `alternates`: where we saw it, with the ports that it claims."""

    observed: tuple[Multiaddr, ...]
    claimed: tuple[Multiaddr, ...]
    alternates: tuple[Multiaddr, ...]


def _endpoint(address: Multiaddr) -> tuple[Component, Component] | None:
    """IP and port of an address that begins `/ip4|ip6/../tcp|udp/..`."""
    parts = components(address)
    if len(parts) >= 2 and parts[0].name in ("ip4", "ip6") and parts[1].name in _PORTED:
        return parts[0], parts[1]
    return None


def _rebuilt(ip: Component, port: Component, address: Multiaddr) -> Multiaddr:
    rest = components(address)[2:]
    raw = b"".join(encode_component(part.code, part.raw) for part in (ip, port, *rest))
    return parse_multiaddr(raw)


def _filled(claim: Multiaddr, remote: Multiaddr) -> Multiaddr:
    """The claim with an unspecified IP or port taken from where we reached the peer, if both are of one shape."""
    ours, theirs = _endpoint(claim), _endpoint(remote)
    if ours is None or theirs is None:
        return claim
    (ip, port), (remote_ip, remote_port) = ours, theirs
    if any(port.raw) and any(ip.raw):
        return claim
    if not any(port.raw) and port.code == remote_port.code:
        port = remote_port
    return _rebuilt(ip if any(ip.raw) else remote_ip, port, claim)


def _moved(claim: Multiaddr, remote: Multiaddr) -> Multiaddr:
    """The claim with the IP of the connection."""
    ours, theirs = _endpoint(claim), _endpoint(remote)
    if ours is None or theirs is None:
        return claim
    return _rebuilt(theirs[0], ours[1], claim)
