"""Node records: the signed facts by which a node is found (EIP-778, identity scheme v4; eth2 p2p-interface, ENR).

Rules: a record is refused whole when its form, its signature or an entry that says where the node is breaks a rule; an
entry of the eth2 layer of another form than the spec's counts as absent. Cheap checks come first, the signature last.
High s is refused, which EIP-778 leaves open: nobody but its signer can give a record a second form.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Final, Literal

from multiaddr import Multiaddr

from pyp2p.discv5 import rlp
from pyp2p.discv5.keccak import keccak256
from pyp2p.discv5.node import Endpoint, IPAddress, canonical
from pyp2p.errors import InvalidEnr, InvalidKey, InvalidRlp, LocalProtocolError, printable
from pyp2p.peer import secp256k1
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.peer.multibase import encode_base64url
from pyp2p.peer.publickey import KeyType, PublicKey

MAX_BYTES: Final = 300  # of the RLP (EIP-778)
PREFIX: Final = "enr:"
MAX_TEXT: Final = len(PREFIX) + MAX_BYTES * 4 // 3
SEQ_BITS: Final = 64
SIGNED_BY: Final = (b"id", b"secp256k1")  # the entries that no record is without
_SCHEME = b"v4"
# The entries whose form is known: byte strings by their size, integers by their bits.
_SIZES: Final = {b"ip": 4, b"ip6": 16, b"eth2": 16, b"attnets": 8, b"syncnets": 1, b"nfd": 4}
_PORTS: Final = dict.fromkeys((b"tcp", b"tcp6", b"udp", b"udp6", b"quic", b"quic6"), 16)
_UINTS: Final = {**_PORTS, b"cgc": 64}
_WHERE: Final = (b"ip", b"ip6", *_PORTS)  # those that a record is refused for
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
# Records come again and again, in NODES and in handshakes; only those that verified are kept. One takes 1.4 KiB, one
# made to be costly 7 KiB: 28 MiB at worst, twice that with `node.endpoints`, which remembers as many.
_CACHED = 4096

Version = Literal[4, 6]
Protocol = Literal["tcp", "udp", "quic"]
Value = IPAddress | int | rlp.Encodable
_DIALLED: Final[tuple[tuple[Version, Protocol, str], ...]] = (
    (4, "tcp", "/ip{}/{}/tcp/{}"),
    (4, "quic", "/ip{}/{}/udp/{}/quic-v1"),
    (6, "tcp", "/ip{}/{}/tcp/{}"),
    (6, "quic", "/ip{}/{}/udp/{}/quic-v1"),
)


def node_id(public: bytes) -> bytes:
    """The node id (32 bytes) of a compressed point: Keccak-256 of x || y; raises `InvalidKey`."""
    return keccak256(secp256k1.coordinates(public))


@dataclass(frozen=True, slots=True, repr=False)
class Enr:
    """A record whose signature was verified; equal and hashable by its bytes.

    `Enr(...)` itself does not check: use `from_text`, `from_rlp`, `sign`. `pairs` holds the entries in order, lists as
    tuples.
    """

    raw: bytes
    seq: int = field(compare=False)
    node_id: bytes = field(compare=False)
    public_key: bytes = field(compare=False)
    pairs: Mapping[bytes, rlp.Item] = field(compare=False)

    @classmethod
    def from_text(cls, text: str) -> Enr:
        """The record written as `enr:` and base64url without padding; raises `InvalidEnr`, which names the rule broken.

        Texts over 404 characters are refused unread.
        """
        if len(text) > MAX_TEXT:
            raise InvalidEnr(f"record of {len(text)} characters is over the limit of {MAX_TEXT} ({MAX_BYTES} bytes)")
        if not text.startswith(PREFIX):
            raise InvalidEnr(f"record does not begin with '{PREFIX}': '{printable(text)}'")
        digits = text[len(PREFIX) :]
        if not digits:
            raise InvalidEnr("record is empty")
        if not _BASE64URL.fullmatch(digits):
            raise InvalidEnr(f"record is no base64url without padding: '{printable(text)}'")
        if len(digits) % 4 == 1:
            raise InvalidEnr("record ends within a byte: base64url of no whole number of bytes")
        raw = base64.urlsafe_b64decode(digits + "=" * (-len(digits) % 4))
        if encode_base64url(raw) != digits:
            raise InvalidEnr("record has spare bits that are not zero in its last base64url character")
        return cls.from_rlp(raw)

    @classmethod
    def from_rlp(cls, raw: bytes) -> Enr:
        """The record that `raw` encodes; raises `InvalidEnr`, which names the rule broken.

        Over 300 bytes are refused unread. The last 4,096 records that verified are remembered.
        """
        if len(raw) > MAX_BYTES:
            raise InvalidEnr(f"record of {len(raw)} bytes is over the limit of {MAX_BYTES}")
        return _verified(bytes(raw))

    @classmethod
    def sign(cls, identity: Identity, seq: int, pairs: Mapping[str, Value] | Mapping[bytes, Value]) -> Enr:
        """The record with these entries, signed by a secp256k1 pair; `id` and `secp256k1` are filled in.

        Addresses and integers (ports, `cgc`) are encoded, bytes and lists taken as they are. Raises
        `LocalProtocolError` for a pair of another type, `secp256k1` or `id` of somebody else, a sequence number over 64
        bits, an entry that is not of its form or holds something else (a text), or more than 300 bytes.
        """
        private = identity.scalar
        if not 0 <= seq < 1 << SEQ_BITS:
            raise LocalProtocolError(f"sequence number {seq} is not of {SEQ_BITS} bits")
        entries = {(name := _name(key)): _item(name, value) for key, value in pairs.items()}
        for key, own in zip(SIGNED_BY, (_SCHEME, identity.public_key.data), strict=True):
            if entries.setdefault(key, own) != own:
                raise LocalProtocolError(f"the entry '{key.decode()}' is not that of the pair which signs")
        for key, value in entries.items():
            rule = "port 0" if key in _PORTS and value == b"" else _broken_rule(key, value)
            if rule is not None:
                raise LocalProtocolError(f"the entry '{printable(key)}': {rule}")
        content: list[rlp.Encodable] = [rlp.encode_uint(seq)]
        for key in sorted(entries):
            content += (key, entries[key])
        signature = secp256k1.sign_digest(private, keccak256(rlp.encode(content)))
        raw = rlp.encode([signature, *content])
        if len(raw) > MAX_BYTES:
            raise LocalProtocolError(f"record of {len(raw)} bytes is over the limit of {MAX_BYTES}")
        return _verified(raw)

    def update(self, identity: Identity, **changes: Value | None) -> Enr:
        """The record with `seq` + 1 and these entries set, or removed where None is given; others stay byte for byte.

        Raises `LocalProtocolError` as `sign` does, also when `identity` is not the pair that signed this record, and
        for `id` or `secp256k1` given as None.
        """
        if identity.public_key.data != self.public_key:
            raise LocalProtocolError(f"{identity.peer} cannot sign the record of {self.peer_id}")
        entries: dict[bytes, Value] = dict(self.pairs)
        for name, value in changes.items():
            if value is None:
                if _name(name) in SIGNED_BY:
                    raise LocalProtocolError(f"the entry '{name}' says whose record it is: it cannot be removed")
                entries.pop(_name(name), None)
            else:
                entries[_name(name)] = value
        return Enr.sign(identity, self.seq + 1, entries)

    @property
    def text(self) -> str:
        """The record as `enr:` and base64url."""
        return PREFIX + encode_base64url(self.raw)

    @property
    def peer_id(self) -> PeerId:
        """The libp2p peer id of the same key."""
        return PeerId.from_key(PublicKey(KeyType.SECP256K1, self.public_key))

    @property
    def ip(self) -> IPv4Address | None:
        """The IPv4 address."""
        raw = self._fixed(b"ip")
        return None if raw is None else IPv4Address(raw)

    @property
    def ip6(self) -> IPv6Address | None:
        """The IPv6 address."""
        raw = self._fixed(b"ip6")
        return None if raw is None else IPv6Address(raw)

    @property
    def tcp(self) -> int | None:
        """The TCP port; this and every port: 1 to 65535, 0 counts as absent."""
        return self._port(b"tcp")

    @property
    def tcp6(self) -> int | None:
        """The TCP port for IPv6 as the entry says; `endpoint` knows what holds without it."""
        return self._port(b"tcp6")

    @property
    def udp(self) -> int | None:
        """The UDP port of discovery."""
        return self._port(b"udp")

    @property
    def udp6(self) -> int | None:
        """The UDP port of discovery for IPv6 as the entry says; `endpoint` knows what holds without it."""
        return self._port(b"udp6")

    @property
    def quic(self) -> int | None:
        """The UDP port of libp2p over QUIC."""
        return self._port(b"quic")

    @property
    def quic6(self) -> int | None:
        """The UDP port of libp2p over QUIC for IPv6."""
        return self._port(b"quic6")

    @property
    def eth2(self) -> bytes | None:
        """The SSZ of ENRForkID: fork digest (4), next fork version (4), next fork epoch (8)."""
        return self._fixed(b"eth2")

    @property
    def attnets(self) -> bytes | None:
        """The bits of 64 attestation subnets."""
        return self._fixed(b"attnets")

    @property
    def syncnets(self) -> bytes | None:
        """The bits of 4 sync committee subnets, in one byte."""
        return self._fixed(b"syncnets")

    @property
    def cgc(self) -> int | None:
        """The custody group count, of 64 bits: whether there are so many groups is for the caller to ask."""
        return self._uint(b"cgc")

    @property
    def nfd(self) -> bytes | None:
        """The digest of the next fork (4 bytes), zeros when none is planned."""
        return self._fixed(b"nfd")

    def endpoint(self, protocol: Protocol, version: Version) -> Endpoint | None:
        """Where the node listens over this IP version; `tcp` and `udp` hold for IPv6 too without `tcp6` and `udp6`."""
        ip = self.ip if version == 4 else self.ip6
        key = protocol.encode()
        if version == 6 and (protocol == "quic" or key + b"6" in self.pairs):
            key += b"6"
        port = self._port(key)
        return None if ip is None or port is None else Endpoint.of(ip, port)

    def udp_endpoint(self, version: Version) -> Endpoint | None:
        """Where the node takes part in discovery over this IP version."""
        return self.endpoint("udp", version)

    def multiaddrs(self) -> tuple[Multiaddr, ...]:
        """Where to dial the node by TCP and QUIC, IPv4 first, without `/p2p`: what `connect(peer_id, ...)` takes.

        Unspecified and multicast addresses are left out; one of IPv4 that is mapped into `ip6` is given as IPv4, once.
        """
        found: dict[Multiaddr, None] = {}
        for version, protocol, form in _DIALLED:
            at = self.endpoint(protocol, version)
            if at is None:
                continue
            ip = canonical(at.ip)
            if not ip.is_unspecified and not ip.is_multicast:
                found[parse_multiaddr(form.format(ip.version, *at))] = None
        return tuple(found)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Enr {self.node_id[:4].hex()} seq {self.seq}>"

    def _fixed(self, key: bytes) -> bytes | None:
        value = self.pairs.get(key)
        return value if isinstance(value, bytes) and len(value) == _SIZES[key] else None

    def _uint(self, key: bytes) -> int | None:
        value = self.pairs.get(key)
        if value is None or _broken_rule(key, value) is not None:
            return None
        return rlp.decode_uint(value, _UINTS[key])

    def _port(self, key: bytes) -> int | None:
        return self._uint(key) or None


def bits(raw: bytes, count: int) -> list[int]:
    """Which of `count` bits are set in an SSZ bitvector (`attnets`: 64, `syncnets`: 4), from the lowest one."""
    value = int.from_bytes(raw, "little")
    return [bit for bit in range(count) if value >> bit & 1]


@lru_cache(maxsize=_CACHED)
def _verified(raw: bytes) -> Enr:
    try:
        item = rlp.decode(raw)
        if not isinstance(item, tuple) or len(item) < 2 or len(item) % 2:
            raise InvalidEnr("record is no RLP list of signature, sequence number and pairs of key and value")
        signature, seq = item[0], rlp.decode_uint(item[1], SEQ_BITS)
    except InvalidRlp as error:
        raise InvalidEnr(f"record: {error}") from None
    if not isinstance(signature, bytes) or len(signature) != secp256k1.COMPACT_BYTES:
        raise InvalidEnr(f"record has no signature of {secp256k1.COMPACT_BYTES} bytes")
    pairs = _pairs(item[2:])
    public = pairs.get(b"secp256k1")
    if not isinstance(public, bytes):
        raise InvalidEnr("record has no public key (entry 'secp256k1')")
    try:
        who = node_id(public)
    except InvalidKey as error:
        raise InvalidEnr(f"record: {error}") from None
    if not secp256k1.verify_digest(public, signature, keccak256(rlp.encode(item[1:]))):
        raise InvalidEnr("record signature does not verify")
    return Enr(raw, seq, who, public, MappingProxyType(pairs))


def _pairs(items: tuple[rlp.Item, ...]) -> dict[bytes, rlp.Item]:
    """The entries, their keys in order and those that say who and where the node is of their form."""
    pairs: dict[bytes, rlp.Item] = {}
    last = None
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, bytes):
            raise InvalidEnr("record has a list in place of a key")
        if last is not None and key <= last:
            kind = "appears twice" if key == last else f"follows '{printable(last)}': keys are sorted"
            raise InvalidEnr(f"record key '{printable(key)}' {kind}")
        rule = _broken_rule(key, value) if key in _WHERE else None
        if rule is not None:
            raise InvalidEnr(f"record entry '{printable(key)}': {rule}")
        pairs[key] = value
        last = key
    scheme = pairs.get(b"id")
    if scheme is None:
        raise InvalidEnr("record has no identity scheme (entry 'id')")
    if scheme != _SCHEME:
        named = f"'{printable(scheme)}'" if isinstance(scheme, bytes) else "a list"
        raise InvalidEnr(f"record has the identity scheme {named}, which is not v4")
    return pairs


def _broken_rule(key: bytes, value: rlp.Encodable) -> str | None:
    """What is wrong with the value of an entry whose form is known; None for one that is right or of unknown form."""
    if key in _SIZES and not (isinstance(value, bytes) and len(value) == _SIZES[key]):
        return f"not a byte string of {_SIZES[key]} bytes"
    if key in _UINTS:
        try:
            rlp.decode_uint(value, _UINTS[key])
        except InvalidRlp as error:
            return str(error)
    return None


def _name(key: str | bytes) -> bytes:
    if isinstance(key, bytes):
        return key
    if not key.isascii():
        raise LocalProtocolError(f"the key '{printable(key)}' is not ASCII")
    return key.encode("ascii")


def _item(key: bytes, value: Value) -> rlp.Encodable:
    if isinstance(value, IPv4Address | IPv6Address):
        return value.packed
    if isinstance(value, int):
        if value < 0:
            raise LocalProtocolError(f"the entry '{printable(key)}' cannot hold the negative integer {value}")
        return rlp.encode_uint(value)
    try:
        rlp.encode(value)
    except LocalProtocolError as error:
        raise LocalProtocolError(f"the entry '{printable(key)}': {error}") from None
    return value
