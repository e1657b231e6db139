"""Addresses, peer ids and keys taken apart: the parts that decode, and where and why the rest does not. Pure.

Positions count characters in a text and bytes in binary, from 0.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

import base58

from pyp2p.errors import InvalidKey, InvalidMultiaddr, InvalidPeerId, printable
from pyp2p.peer.address import components, is_loopback, is_private, is_unspecified, parse_multiaddr, text
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, KeyType, PublicKey

_PORTED = ("tcp", "udp", "sctp", "dccp")
_NAMES = {
    "dns": "a name to resolve, IPv4 or IPv6",
    "dns4": "a name to resolve to IPv4",
    "dns6": "a name to resolve to IPv6",
    "dnsaddr": "a name whose TXT records hold whole addresses",
    "p2p-circuit": "what follows is reached through the peer before",
    "quic-v1": "QUIC version 1 over UDP",
    "quic": "an obsolete draft of QUIC",
    "ws": "WebSocket",
    "wss": "WebSocket over TLS, in the old spelling",
    "tls": "TLS",
    "sni": "the server name for TLS",
    "noise": "Noise",
    "webtransport": "WebTransport",
    "webrtc-direct": "WebRTC without a signalling server",
    "certhash": "hash of the certificate to expect",
    "unix": "a socket in the file system, to the end of the text",
    "memory": "a number inside one process",
    "ip6zone": "the network interface of the IPv6 address that follows",
}
_KEY_TYPES = {
    KeyType.RSA: "RSA",
    KeyType.ED25519: "Ed25519",
    KeyType.SECP256K1: "secp256k1",
    KeyType.ECDSA: "ECDSA",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One part: where it begins, what it is called, its value as text, its bytes, what it means."""

    position: int
    name: str
    value: str
    raw: bytes = b""
    meaning: str = ""

    def as_json(self) -> dict[str, object]:
        """The fields of a part."""
        return {
            "position": self.position,
            "name": self.name,
            "value": self.value,
            "bytes": self.raw.hex(),
            "meaning": self.meaning,
        }


@dataclass(slots=True)
class Explained:
    """What was made of a text: its kind and parts, further facts, and the problem with its position, if any."""

    kind: str
    parts: list[Part] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    problem: str | None = None
    position: int | None = None


# --- peer ids


def explain_peer(peer: PeerId) -> Explained:
    """A peer id: its multihash, and the key inside or why there is none."""
    raw = peer.raw
    found = Explained("peer id", facts={"peer_id": str(peer), "cid": peer.to_cid()})
    if raw[0]:
        found.parts = [
            Part(0, "hash", "sha2-256", raw[:1], "multihash code 0x12"),
            Part(1, "length", str(raw[1]), raw[1:2]),
            Part(2, "digest", raw[2:].hex(), raw[2:], "sha256 peer id: the key cannot be recovered"),
        ]
        return found
    found.parts = [
        Part(0, "hash", "identity", raw[:1], "the id holds the public key itself"),
        Part(1, "length", str(raw[1]), raw[1:2]),
        *_key_parts(raw[2:], 2),
    ]
    try:
        peer.public_key()
    except InvalidKey as error:
        found.problem, found.position = str(error), 6
    return found


# --- addresses


def explain_address(given: str) -> Explained:
    """A multiaddr in text form."""
    try:
        address = parse_multiaddr(given)
    except InvalidMultiaddr as error:
        good, position = _good_prefix(given, error.position)
        return Explained("multiaddr", _address_parts(given, good), {}, _why(given, good, error), position)
    return Explained("multiaddr", _address_parts(given, text(address)), _address_facts(text(address)))


def explain_address_bytes(raw: bytes) -> Explained:
    """A multiaddr in its binary form."""
    try:
        address = parse_multiaddr(raw)
    except InvalidMultiaddr as error:
        return Explained("multiaddr", problem=str(error.reason), position=error.position)
    found = Explained("multiaddr", _address_parts(text(address), text(address)), _address_facts(text(address)))
    at = 0
    placed = []
    for part in found.parts:
        placed.append(Part(at, part.name, part.value, part.raw, part.meaning))
        at += len(parse_multiaddr(_step_text(part)).to_bytes())
    found.parts = placed
    return found


def _step_text(part: Part) -> str:
    return f"/{part.name}/{part.value}" if part.raw else f"/{part.name}"


def _address_facts(canonical: str) -> dict[str, object]:
    address = parse_multiaddr(canonical)
    return {"text": canonical, "bytes": address.to_bytes().hex()}


def _good_prefix(given: str, position: int | None) -> tuple[str, int | None]:
    """The longest beginning of `given` before `position` that is an address."""
    if position is None:
        return "", None
    cut = min(position, len(given))
    while cut > 0:
        cut = given.rfind("/", 0, cut)
        if cut <= 0:
            break
        try:
            return text(parse_multiaddr(given[:cut])), position
        except InvalidMultiaddr:
            continue
    return "", position


def _address_parts(given: str, canonical: str) -> list[Part]:
    if not canonical:
        return []
    parts = []
    at = 0
    for component in components(parse_multiaddr(canonical)):
        parts.append(
            Part(at, component.name, component.value, component.raw, _meaning(component.name, component.value))
        )
        at = given.find("/", at + 1)
        if component.raw:
            at = given.find("/", at + 1)
    return parts


def _meaning(name: str, value: str) -> str:
    if name in ("ip4", "ip6"):
        address = parse_multiaddr(f"/{name}/{value}")
        kind = f"IPv{name[2]} address"
        if is_unspecified(address):
            return f"{kind}, stands for all of a machine"
        if is_loopback(address):
            return f"{kind} of this machine alone"
        if is_private(address):
            return f"{kind} of a local network"
        return f"{kind}, public" if ipaddress.ip_address(value).is_global else kind
    if name in _PORTED:
        return f"{name.upper()} port" if value != "0" else f"{name.upper()}, any free port"
    if name == "p2p":
        peer = PeerId.parse(value)
        return "sha256 peer id: the key cannot be recovered" if peer.raw[0] else f"peer id, {_inline_kind(peer)} key"
    return _NAMES.get(name, "")


def _inline_kind(peer: PeerId) -> str:
    return _KEY_TYPES[KeyType(peer.raw[3])]


def _why(given: str, good: str, error: InvalidMultiaddr) -> str:
    """The reason, in more words where a value is wrong and tells more; `good` is the beginning that is right."""
    at = error.position
    if at is None or at >= len(given) or at <= len(good) + 1:
        return error.reason
    value = given[at:].partition("/")[0]
    name = given[:at].rstrip("/").rpartition("/")[2]
    if name in _PORTED and value.isascii() and value.isdigit():
        return f"port {printable(value, 40)} is outside 0..65535"
    if name in _PORTED:
        return f"port '{printable(value, 40)}' is no decimal number"
    if name in ("ip4", "ip6"):
        return f"'{printable(value, 60)}' is no IPv{name[2]} address{_octet(value) if name == 'ip4' else ''}"
    return error.reason


def _octet(value: str) -> str:
    octets = value.split(".")
    if len(octets) != 4:
        return f": it has {len(octets)} numbers instead of 4"
    for octet in octets:
        if not (octet.isascii() and octet.isdigit()):
            return f": '{printable(octet, 20)}' is no number"
        if len(octet) > 3 or int(octet) > 255:
            return f": {printable(octet, 20)} is outside 0..255"
        if len(octet) > 1 and octet[0] == "0":
            return f": {octet} has a leading zero"
    return ""


# --- keys


def explain_key(raw: bytes) -> Explained:
    """A PrivateKey or PublicKey protobuf, private first; what is secret is never shown."""
    parts, position = _private_safe_parts(raw)
    try:
        identity = Identity.from_protobuf(raw)
    except InvalidKey as private_error:
        try:
            public = PublicKey.from_protobuf(raw)
        except InvalidKey as public_error:
            both = str(private_error)
            if str(public_error) != both:
                both = f"as a private key: {both}; as a public key: {public_error}"
            return Explained("key", parts, {}, both, position)
        return _key_facts("public key", public, _key_parts(raw, 0))
    return _key_facts("private key", identity.public_key, parts)


def _key_facts(kind: str, public: PublicKey, parts: Sequence[Part]) -> Explained:
    peer = PeerId.from_key(public)
    return Explained(
        kind,
        list(parts),
        {
            "type": _KEY_TYPES[public.type],
            "peer_id": str(peer),
            "cid": peer.to_cid(),
            "public_key": public.to_protobuf().hex(),
        },
    )


def _private_safe_parts(raw: bytes) -> tuple[list[Part], int]:
    """The parts of a key protobuf without its data, and where the first problem is."""
    parts: list[Part] = []
    if raw[:1] != b"\x08":
        return parts, 0
    parts.append(Part(0, "field 1", "Type", raw[:1]))
    if len(raw) < 2 or raw[1] not in KeyType.__members__.values():
        return parts, 1
    parts.append(Part(1, "type", _KEY_TYPES[KeyType(raw[1])], raw[1:2]))
    if raw[2:3] != b"\x12":
        return parts, 2
    parts.append(Part(2, "field 2", "Data", raw[2:3]))
    at = 3
    while at < len(raw) and raw[at] & 0x80 and at < 5:
        at += 1
    length = sum((byte & 0x7F) << (7 * i) for i, byte in enumerate(raw[3 : at + 1]))
    if length != len(raw) - at - 1:
        return parts, 3
    parts.append(Part(3, "length", str(length), raw[3 : at + 1]))
    parts.append(Part(at + 1, "data", f"{length} bytes, not shown", b"", "secret when this is a private key"))
    return parts, at + 1


def _key_parts(raw: bytes, offset: int) -> list[Part]:
    """The parts of a public key that is known to be well formed."""
    safe, data_at = _private_safe_parts(raw)
    moved = [Part(part.position + offset, part.name, part.value, part.raw, part.meaning) for part in safe[:-1]]
    data = raw[data_at:]
    return [*moved, Part(data_at + offset, "key", data.hex(), data, "the public key")]


# --- whatever it is


def peer_of(given: str) -> PeerId | None:
    """The peer id that `given` is, if it is one."""
    try:
        return PeerId.parse(given)
    except InvalidPeerId:
        return None


def explain_peer_text(given: str) -> Explained:
    """A text that was meant to be a peer id and is none."""
    for at, character in enumerate(given):
        if not (character.isascii() and character.isprintable()):
            return Explained("peer id", problem="character that no peer id has", position=at)
    if not given.startswith(("1", "Qm")):
        problem = "it begins neither like base58 (12D3Koo.., Qm..) nor like the CID of a key (bafz.., k51.., f0172..)"
        return Explained("peer id", problem=problem, position=0)
    alphabet = base58.BITCOIN_ALPHABET.decode("ascii")
    for at, character in enumerate(given):
        if character not in alphabet:
            return Explained("peer id", problem=f"'{character}' is not in the base58 alphabet", position=at)
    return Explained("peer id", problem="its bytes are neither a SHA-256 multihash nor a short public key", position=0)
