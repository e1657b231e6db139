"""What table, lookups and limits know of a node: its record, where it is, how far away, and who may tell of it.

Rules: pure. An endpoint is compared as text, so it is made by `Endpoint.of`, which leaves one spelling. Addresses are
counted by subnet: /24 for IPv4, /64 for IPv6, which any customer has whole. EIP-778, discv5 theory "Node table".
"""

from __future__ import annotations

from enum import Enum, StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, Protocol

IPAddress = IPv4Address | IPv6Address

ID_BITS = 256
_CACHED = 4096  # addresses and records: to parse or judge one takes as long as the rest of a datagram


class Record(Protocol):
    """What we need of a node record whose signature was verified."""

    @property
    def node_id(self) -> bytes: ...
    @property
    def seq(self) -> int: ...
    @property
    def raw(self) -> bytes: ...
    @property
    def ip(self) -> IPv4Address | None: ...
    @property
    def ip6(self) -> IPv6Address | None: ...
    @property
    def udp(self) -> int | None: ...
    @property
    def udp6(self) -> int | None: ...
    def __hash__(self) -> int: ...


class Refusal(StrEnum):
    """Why a record was not taken; the value is its counter."""

    OWN_ID = "own_id"
    PORT_ZERO = "port_zero"
    UNSPECIFIED = "unspecified"
    MULTICAST = "multicast"
    RESERVED = "reserved"
    PRIVATE = "private"  # told by somebody who cannot know what is there
    BUCKET_SUBNET = "bucket_subnet"
    TABLE_SUBNET = "table_subnet"
    BUCKET_FULL = "bucket_full"


class Scope(Enum):
    """From where an address can be reached."""

    NOWHERE = "nowhere"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    GLOBAL = "global"


class Endpoint(NamedTuple):
    """An address and a UDP port, in the spelling of `of`. A tuple, as each datagram is looked up by it many times."""

    ip: str
    port: int

    @classmethod
    def of(cls, ip: str | bytes | IPAddress, port: int) -> Endpoint:
        """The endpoint in its one spelling, IPv4-mapped addresses as IPv4; `ValueError` when `ip` is no address."""
        return cls(_spelled(ip), port)


@lru_cache(maxsize=_CACHED)
def canonical(ip: str | bytes | IPAddress) -> IPAddress:
    """The address, as text, object or its 4 or 16 bytes, an IPv4-mapped one as IPv4; `ValueError` when `ip` is none."""
    address = ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=_CACHED)
def _spelled(ip: str | bytes | IPAddress) -> str:
    return str(canonical(ip))


def subnet(address: IPAddress) -> bytes:
    """The /24 or /64 of a canonical address: three or eight bytes."""
    return address.packed[: 3 if address.version == 4 else 8]


def counted(endpoint: Endpoint) -> bytes | None:
    """The subnet that a node counts for; None on loopback, where a whole test network may live."""
    address = canonical(endpoint.ip)
    return None if address.is_loopback else subnet(address)


def site(address: IPAddress) -> bytes:
    """Whoever has one address of it may send from all: the /24, or the /48, which is what many customers get."""
    return address.packed[: 3 if address.version == 4 else 6]


@lru_cache(maxsize=_CACHED)
def scope(address: IPAddress) -> Scope:
    """From where a canonical address can be reached: what is neither global nor loopback counts as private."""
    if isinstance(address, IPv6Address):
        if address.is_site_local:
            return Scope.PRIVATE
        inside = address.sixtofour or (address.teredo and address.teredo[1])
        if inside:  # sent on to that
            return scope(inside)
    if address.is_loopback:
        return Scope.LOOPBACK
    if address.is_unspecified or address.is_multicast or address.is_reserved:
        return Scope.NOWHERE
    return Scope.GLOBAL if address.is_global else Scope.PRIVATE


def log_distance(a: bytes, b: bytes) -> int:
    """The bit length of a xor b: 0 for the same id, 256 at most. discv5 theory "Node table"."""
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_length()


def lookup_distances(distance: int, count: int = 3) -> list[int]:
    """What to ask a node at this log distance from a target: d, then d + 1, d - 1, d + 2, ..., at most `count` of them.

    Only d itself may be 0: no other distance asks for the node's own record. discv5 theory "Lookup".
    """
    distances = [distance]
    for step in range(1, ID_BITS + 1):
        if len(distances) >= count:
            break
        distances += [each for each in (distance + step, distance - step) if 0 < each <= ID_BITS]
    return distances[:count]


@lru_cache(maxsize=_CACHED)
def endpoints(record: Record) -> tuple[Endpoint, ...]:
    """Where the record says that the node is, IPv4 first; without `udp6`, `udp` is the port of both. EIP-778."""
    found = []
    if record.ip is not None and record.udp is not None:
        found.append(Endpoint.of(record.ip, record.udp))
    port6 = record.udp if record.udp6 is None else record.udp6
    if record.ip6 is not None and port6 is not None:
        found.append(Endpoint.of(record.ip6, port6))
    return tuple(found)


def may_tell(told: Scope, teller: Scope) -> bool:
    """Whether one at `teller` can know of an address in `told`: else strangers make us send into our own network."""
    if told is Scope.LOOPBACK:
        return teller is Scope.LOOPBACK
    return told is Scope.GLOBAL or (told is Scope.PRIVATE and teller in (Scope.LOOPBACK, Scope.PRIVATE))


def refuse_endpoint(endpoint: Endpoint, teller: Scope) -> Refusal | None:
    """Why an endpoint is not believed when one at `teller` names it, None when it is."""
    address = canonical(endpoint.ip)
    if endpoint.port == 0:
        return Refusal.PORT_ZERO
    if address.is_unspecified:
        return Refusal.UNSPECIFIED
    if address.is_multicast:
        return Refusal.MULTICAST
    told = scope(address)
    if told is Scope.NOWHERE:
        return Refusal.RESERVED
    return None if may_tell(told, teller) else Refusal.PRIVATE


def refuse_record(record: Record, source: Endpoint) -> Refusal | None:
    """Why a record is not believed that came from `source`, None when it is: each endpoint in it has to be good."""
    teller = scope(canonical(source.ip))
    for endpoint in endpoints(record):
        if (refusal := refuse_endpoint(endpoint, teller)) is not None:
            return refusal
    return None
