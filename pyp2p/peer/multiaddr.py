"""The multiaddr formats, text and bytes, strictly (specs addressing, multiformats/multiaddr).

Rules: one table; text and bytes go through the same checks; everything is bounded before it is looked at and takes
linear time; every failure is an `InvalidMultiaddr` with its position. What is accepted is printable ASCII once it is
text. The multiaddr library is not asked: it accepts and encodes several things wrongly.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar
from urllib.parse import quote, unquote_to_bytes

from pyp2p.errors import InvalidMultiaddr, InvalidPeerId, WireError, printable
from pyp2p.io import varint
from pyp2p.peer import multibase
from pyp2p.peer.id import PeerId

# An address that is longer is an attack on memory and on logs: the longest honest ones (garlic64) take 700 characters.
MAX_TEXT = 2048
MAX_BYTES = 1024
MAX_COMPONENTS = 24

A = TypeVar("A")
B = TypeVar("B")

IP4 = 4
P2P = 421
_VARIABLE = -1
_NAME = re.compile(r"[A-Za-z0-9_*-]{1,63}(?:\.[A-Za-z0-9_*-]{1,63})*\.?", re.ASCII)
_MAX_NAME = 254
_ZONE = re.compile(r"[!-.0-~]{1,64}")
_PATH = re.compile(r"[ -~]*[ -.0-~]")
_ESCAPED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})+")
_PORTS = range(1, 0x10000)


class _BadValue(ValueError):
    """A value that is refused, in words of ours: those of libraries repeat their input."""


class Component(NamedTuple):
    """One step of an address. `/name/value` is its text; `value` is empty for a protocol without one."""

    name: str
    code: int
    value: str
    raw: bytes  # the value as bytes, without its length


@dataclass(frozen=True, slots=True)
class _Protocol:
    """How the value of one protocol is written; `size` in bytes, -1 when a length stands before it.

    `encode` and `decode` raise ValueError; `decode` is also the check.
    """

    code: int
    name: str
    size: int = 0
    encode: Callable[[str], bytes] = str.encode
    decode: Callable[[bytes], str] = bytes.decode
    path: bool = False  # takes the whole rest of the text


def _number(size: int) -> tuple[int, Callable[[str], bytes], Callable[[bytes], str]]:
    """A decimal number in `size` bytes, big end first."""

    def encode(text: str) -> bytes:
        if not text.isdecimal() or len(text) > 20:  # 20 digits hold 64 bits; int() refuses 4,301 with another error
            raise _BadValue("not a decimal number")
        value = int(text)
        if value >> (8 * size):
            raise _BadValue(f"number over {8 * size} bits")
        return value.to_bytes(size, "big")

    return size, encode, lambda raw: str(int.from_bytes(raw, "big"))


def _encode_ip4(text: str) -> bytes:
    return ipaddress.IPv4Address(text).packed


def _decode_ip4(raw: bytes) -> str:
    return str(ipaddress.IPv4Address(raw))


def _encode_ip6(text: str) -> bytes:
    if "%" in text:
        raise _BadValue("a zone goes into /ip6zone")
    return ipaddress.IPv6Address(text).packed


def _decode_ip6(raw: bytes) -> str:
    mapped = ipaddress.IPv6Address(raw).ipv4_mapped
    return f"::ffff:{mapped}" if mapped is not None else str(ipaddress.IPv6Address(raw))


def _decode_name(raw: bytes) -> str:
    name = raw.decode("ascii")
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise _BadValue("not a DNS name")
    return name


def _decode_zone(raw: bytes) -> str:
    zone = raw.decode("ascii")
    if not _ZONE.fullmatch(zone):
        raise _BadValue("not a zone")
    return zone


def _decode_path(raw: bytes) -> str:
    path = raw.decode("ascii")
    if not path.startswith("/") or not _PATH.fullmatch(path, 1):
        raise _BadValue("path is empty, relative, or ends in a slash")
    return path[1:]


def _encode_http_path(text: str) -> bytes:
    if not _ESCAPED.fullmatch(text):
        raise _BadValue("malformed %-escape")
    return unquote_to_bytes(text)


def _decode_http_path(raw: bytes) -> str:
    if not raw:
        raise _BadValue("empty path")
    return quote(raw.decode("utf-8"), safe="")


def _encode_peer(text: str) -> bytes:
    return PeerId.parse(text).raw


def _decode_peer(raw: bytes) -> str:
    return str(PeerId.from_bytes(raw))


def _onion(host_bytes: int, characters: int) -> tuple[int, Callable[[str], bytes], Callable[[bytes], str]]:
    """A base32 host and a port that is not 0."""

    def encode(text: str) -> bytes:
        host, _, port = text.partition(":")
        if len(host) != characters:
            raise _BadValue(f"host has not {characters} characters")
        return multibase.decode_base32(host) + _PORT[1](port)

    def decode(raw: bytes) -> str:
        port = int.from_bytes(raw[host_bytes:], "big")
        if port not in _PORTS:
            raise _BadValue("port is 0")
        return f"{multibase.encode_base32(raw[:host_bytes])}:{port}"

    return host_bytes + 2, encode, decode


def _encode_garlic64(text: str) -> bytes:
    return base64.b64decode(text, altchars=b"-~", validate=True)


def _decode_garlic64(raw: bytes) -> str:
    text = base64.b64encode(raw, altchars=b"-~").decode("ascii")
    if not 516 <= len(text) <= 616:
        raise _BadValue("not an I2P destination")
    return text


def _encode_garlic32(text: str) -> bytes:
    if len(text) < 55 and len(text) != 52:
        raise _BadValue("not an I2P host")
    return multibase.decode_base32(text)


def _decode_garlic32(raw: bytes) -> str:
    if len(raw) < 35 and len(raw) != 32:
        raise _BadValue("not an I2P host")
    return multibase.encode_base32(raw)


def _decode_certhash(raw: bytes) -> str:
    code = varint.decode(raw)
    length = None if code is None else varint.decode(raw, code[1])
    if length is None or len(raw) - length[1] != length[0] or not length[0]:
        raise _BadValue("not a multihash")
    return "u" + multibase.encode_base64url(raw)


_PORT = _number(2)
_NAMED = (_VARIABLE, str.encode, _decode_name)

_TABLE = (
    _Protocol(IP4, "ip4", 4, _encode_ip4, _decode_ip4),
    _Protocol(6, "tcp", *_PORT),
    _Protocol(33, "dccp", *_PORT),
    _Protocol(41, "ip6", 16, _encode_ip6, _decode_ip6),
    _Protocol(42, "ip6zone", _VARIABLE, str.encode, _decode_zone),
    _Protocol(43, "ipcidr", *_number(1)),
    _Protocol(53, "dns", *_NAMED),
    _Protocol(54, "dns4", *_NAMED),
    _Protocol(55, "dns6", *_NAMED),
    _Protocol(56, "dnsaddr", *_NAMED),
    _Protocol(132, "sctp", *_PORT),
    _Protocol(273, "udp", *_PORT),
    _Protocol(275, "p2p-webrtc-star"),
    _Protocol(276, "p2p-webrtc-direct"),
    _Protocol(277, "p2p-stardust"),
    _Protocol(280, "webrtc-direct"),
    _Protocol(281, "webrtc"),
    _Protocol(290, "p2p-circuit"),
    _Protocol(301, "udt"),
    _Protocol(302, "utp"),
    _Protocol(400, "unix", _VARIABLE, lambda text: b"/" + text.encode(), _decode_path, path=True),
    _Protocol(P2P, "p2p", _VARIABLE, _encode_peer, _decode_peer),
    _Protocol(443, "https"),
    _Protocol(444, "onion", *_onion(10, 16)),
    _Protocol(445, "onion3", *_onion(35, 56)),
    _Protocol(446, "garlic64", _VARIABLE, _encode_garlic64, _decode_garlic64),
    _Protocol(447, "garlic32", _VARIABLE, _encode_garlic32, _decode_garlic32),
    _Protocol(448, "tls"),
    _Protocol(449, "sni", *_NAMED),
    _Protocol(454, "noise"),
    _Protocol(460, "quic"),
    _Protocol(461, "quic-v1"),
    _Protocol(465, "webtransport"),
    _Protocol(466, "certhash", _VARIABLE, multibase.decode, _decode_certhash),
    _Protocol(477, "ws"),
    _Protocol(478, "wss"),
    _Protocol(479, "p2p-websocket-star"),
    _Protocol(480, "http"),
    _Protocol(481, "http-path", _VARIABLE, _encode_http_path, _decode_http_path),
    _Protocol(777, "memory", *_number(8)),
)
_BY_CODE = {protocol.code: protocol for protocol in _TABLE}
_BY_NAME = {protocol.name: protocol for protocol in _TABLE} | {"ipfs": _BY_CODE[P2P]}


def encode_component(code: int, raw: bytes) -> bytes:
    """One component as bytes; `raw` is not checked."""
    head = varint.encode(code)
    return head + (varint.prefixed(raw) if _BY_CODE[code].size == _VARIABLE else raw)


def encode_text(text: str) -> bytes:
    """The bytes of an address of at most `MAX_TEXT` characters, wholly checked; raises `InvalidMultiaddr`."""
    if not text.isascii() or not text.isprintable():
        at = next(i for i, character in enumerate(text) if not (character.isascii() and character.isprintable()))
        raise InvalidMultiaddr("character that no address has", at)
    trimmed = text.rstrip("/")
    if not trimmed:
        raise InvalidMultiaddr("address is empty", 0)
    if trimmed[0] != "/":
        raise InvalidMultiaddr("address does not begin with a slash", 0)
    out = bytearray()
    at = 0  # of the slash before the next word
    end = len(trimmed)
    count = 0
    while at < end:
        count += 1
        if count > MAX_COMPONENTS:
            raise InvalidMultiaddr(f"more than {MAX_COMPONENTS} components", at)
        name, start = _word(trimmed, at)
        protocol = _BY_NAME.get(name)
        if protocol is None:
            raise InvalidMultiaddr(f"unknown protocol '{printable(name, 32)}'", start)
        at = start + len(name)
        raw = b""
        if protocol.size:
            if at >= end:
                raise InvalidMultiaddr(f"/{name} needs a value", at)
            value, start = (trimmed[at + 1 :], at + 1) if protocol.path else _word(trimmed, at)
            raw = _guard(protocol, start, protocol.encode, value)
            _guard(protocol, start, protocol.decode, raw)
            at = start + len(value)
        out += encode_component(protocol.code, raw)
    return bytes(out)


def decode_bytes(raw: bytes) -> tuple[Component, ...]:
    """The components of an address in bytes; raises `InvalidMultiaddr`. Empty bytes have no components."""
    if len(raw) > MAX_BYTES:
        raise InvalidMultiaddr(f"address of {len(raw)} bytes is over the limit of {MAX_BYTES}")
    found: list[Component] = []
    at = 0
    while at < len(raw):
        if len(found) == MAX_COMPONENTS:
            raise InvalidMultiaddr(f"more than {MAX_COMPONENTS} components", at)
        if found and _BY_CODE[found[-1].code].path:
            raise InvalidMultiaddr(f"something after /{found[-1].name}, which takes the whole rest", at)
        code, body = _varint(raw, at)
        protocol = _BY_CODE.get(code)
        if protocol is None:
            raise InvalidMultiaddr(f"unknown protocol code {code}", at)
        size, body = _varint(raw, body) if protocol.size == _VARIABLE else (protocol.size, body)
        end = body + size
        if end > len(raw):
            raise InvalidMultiaddr(f"/{protocol.name} needs {size} bytes, {len(raw) - body} are there", body)
        value = raw[body:end]
        text = _guard(protocol, body, protocol.decode, value) if protocol.size else ""
        found.append(Component(protocol.name, code, text, value))
        at = end
    return tuple(found)


def join_text(components: tuple[Component, ...]) -> str:
    """The canonical text of an address."""
    return "".join(f"/{part.name}/{part.value}" if part.raw else f"/{part.name}" for part in components) or "/"


def _word(text: str, slash: int) -> tuple[str, int]:
    end = text.find("/", slash + 1)
    return (text[slash + 1 :] if end < 0 else text[slash + 1 : end]), slash + 1


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    try:
        found = varint.decode(raw, at)
    except WireError as error:
        raise InvalidMultiaddr(str(error), at) from None
    if found is None:
        raise InvalidMultiaddr("address ends inside a number", at)
    return found


def _guard(protocol: _Protocol, at: int, convert: Callable[[A], B], value: A) -> B:
    try:
        return convert(value)
    except (_BadValue, InvalidPeerId, WireError) as error:
        raise InvalidMultiaddr(f"/{protocol.name}: {error}", at) from None
    except ValueError:
        raise InvalidMultiaddr(f"/{protocol.name}: invalid value", at) from None
