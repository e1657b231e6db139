"""Records without keys, and ids at a given distance."""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyp2p.discv5.node import Endpoint

LOCAL = bytes(range(100, 132))


@dataclass(frozen=True)
class FakeRecord:
    node_id: bytes
    seq: int = 1
    ip: IPv4Address | None = None
    udp: int | None = None
    ip6: IPv6Address | None = None
    udp6: int | None = None

    @property
    def raw(self) -> bytes:
        return self.node_id + self.seq.to_bytes(8, "big")

    def at(self, ip: str | None, port: int | None = 9000, seq: int | None = None) -> "FakeRecord":
        """The same node elsewhere."""
        address = None if ip is None else ip_address(ip)
        six = isinstance(address, IPv6Address)
        moved = replace(self, ip=None if six else address, udp=None if six else port, ip6=None, udp6=None)
        if six:
            moved = replace(moved, ip6=address, udp6=port)
        return moved if seq is None else replace(moved, seq=seq)


def id_at(distance: int, index: int = 0, local: bytes = LOCAL) -> bytes:
    """One of the ids at a distance: another for each index, as far as there are."""
    assert 0 < distance <= 256 and 0 <= index < 1 << (distance - 1)
    return (int.from_bytes(local, "big") ^ (1 << (distance - 1) | index)).to_bytes(32, "big")


def public(index: int, host: int = 1) -> str:
    """An address that is public: each index has a /24 of its own."""
    return f"{50 + index // 65536}.{index // 256 % 256}.{index % 256}.{host}"


def record(distance: int, index: int = 0, ip: str | None = None, port: int | None = 9000, seq: int = 1) -> FakeRecord:
    """A node at a distance, in a /24 of its own unless told where."""
    place = public(distance * 64 + index) if ip is None else ip
    return FakeRecord(id_at(distance, index), seq).at(place, port)


def where(found: FakeRecord) -> Endpoint:
    """The endpoint that the record names."""
    address, port = (found.ip, found.udp) if found.ip is not None else (found.ip6, found.udp6)
    return Endpoint.of(address, port)
