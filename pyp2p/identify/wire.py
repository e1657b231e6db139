"""Identify messages: bytes <-> values, with sizes checked before the protobuf is decoded (libp2p specs, identify).

Rules: a message has at most 8 KiB, ten messages are merged, what is over a count is cut off. An address that does not
parse is left out, the rest stays. Text is kept as it came, bounded; whoever shows it escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from multiaddr import Multiaddr

from pyp2p.errors import IdentifyError, InvalidKey, InvalidMultiaddr
from pyp2p.identify.pb.identify_pb2 import Identify as IdentifyMessage
from pyp2p.io.varint import prefixed
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.publickey import PublicKey

MAX_MESSAGE = 8 * 1024  # go accepts 8 KiB, rust 4 KiB
MAX_MESSAGES = 10
MAX_OWN = 4 * 1024 - 1  # rust reads no more of ours
MAX_PROTOCOLS = 1000
MAX_PROTOCOL = 1024  # bytes of one name, as in multistream-select
MAX_ADDRESSES = 64
MAX_TEXT = 256  # characters of agent and protocol version


@dataclass(frozen=True, slots=True)
class IdentifyInfo:
    """What a peer said about itself. In a push, None means unchanged.

    `public_key` is parsed (None: absent or malformed), `observed` is where the peer sees us, `record` is the signed
    peer record as bytes, not yet verified. `protocols` and `addresses` keep the peer's order, without duplicates.
    """

    public_key: PublicKey | None = None
    addresses: tuple[Multiaddr, ...] | None = None
    protocols: tuple[str, ...] | None = None
    observed: Multiaddr | None = None
    protocol_version: str | None = None
    agent: str | None = None
    record: bytes | None = None


def decode(messages: Iterable[bytes]) -> IdentifyInfo:
    """Merge messages (without their length prefixes) into one value: later fields win, lists are joined.

    Raises `IdentifyError` for a malformed or oversized message and for more than `MAX_MESSAGES`.
    """
    merged = IdentifyMessage()
    for count, message in enumerate(messages, 1):
        if count > MAX_MESSAGES:
            raise IdentifyError(f"more than {MAX_MESSAGES} identify messages")
        if len(message) > MAX_MESSAGE:
            raise IdentifyError(f"an identify message of {len(message)} bytes")
        try:
            merged.MergeFromString(message)
        except DecodeError:
            raise IdentifyError("an identify message that is no protobuf") from None
    return IdentifyInfo(
        public_key=_key(merged),
        addresses=_addresses(merged.listen_addrs) if merged.listen_addrs else None,
        protocols=_protocols(merged.protocols) if merged.protocols else None,
        observed=_address(merged.observed_addr) if merged.HasField("observed_addr") else None,
        protocol_version=_text(merged.protocol_version) if merged.HasField("protocol_version") else None,
        agent=_text(merged.agent_version) if merged.HasField("agent_version") else None,
        record=merged.signed_peer_record if merged.HasField("signed_peer_record") else None,
    )


def encode(info: IdentifyInfo) -> list[bytes]:
    """Our own message, length-prefixed, in pieces under 4 KiB each: what does not fit goes to further pieces.

    rust reads the first piece only: who and where we are comes first, the protocols in the order of mounting.
    """
    first = IdentifyMessage()
    if info.public_key is not None:
        first.public_key = info.public_key.to_protobuf()
    if info.observed is not None:
        first.observed_addr = info.observed.to_bytes()
    if info.protocol_version is not None:
        first.protocol_version = info.protocol_version[:MAX_TEXT].encode()
    if info.agent is not None:
        first.agent_version = info.agent[:MAX_TEXT].encode()
    pieces = [first]
    for address in (info.addresses or ())[:MAX_ADDRESSES]:
        raw = address.to_bytes()
        _room(pieces, len(raw)).listen_addrs.append(raw)
    for protocol in (info.protocols or ())[:MAX_PROTOCOLS]:
        raw = protocol.encode()
        _room(pieces, len(raw)).protocols.append(raw)
    if info.record is not None and len(info.record) < MAX_OWN - 8:
        _room(pieces, len(info.record)).signed_peer_record = info.record
    return [prefixed(piece.SerializeToString()) for piece in pieces[:MAX_MESSAGES]]


def _room(pieces: list[IdentifyMessage], size: int) -> IdentifyMessage:
    if pieces[-1].ByteSize() + size + 8 > MAX_OWN:
        pieces.append(IdentifyMessage())
    return pieces[-1]


def _key(message: IdentifyMessage) -> PublicKey | None:
    try:
        return PublicKey.from_protobuf(message.public_key) if message.HasField("public_key") else None
    except InvalidKey:
        return None


def _address(raw: bytes) -> Multiaddr | None:
    try:
        return parse_multiaddr(raw)
    except InvalidMultiaddr:
        return None


def _addresses(raws: Sequence[bytes]) -> tuple[Multiaddr, ...]:
    parsed = (_address(raw) for raw in raws[:MAX_ADDRESSES])
    return tuple(dict.fromkeys(address for address in parsed if address is not None))


def _protocols(raws: Sequence[bytes]) -> tuple[str, ...]:
    kept = (_text(raw, MAX_PROTOCOL) for raw in raws[:MAX_PROTOCOLS] if 0 < len(raw) <= MAX_PROTOCOL)
    return tuple(dict.fromkeys(kept))


def _text(raw: bytes, limit: int = MAX_TEXT) -> str:
    return raw.decode("utf-8", "backslashreplace")[:limit]
