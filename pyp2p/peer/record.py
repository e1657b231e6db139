"""Signed envelopes and peer records (libp2p RFC 0002, 0003, in the form that is deployed).

Rules: the signature is verified before the payload is parsed, and the key that signed must be that of the peer the
record is about. The RFC's own domain (`libp2p-routing-state`) is spoken by nobody and not accepted for records.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from multiaddr import Multiaddr

from pyp2p.errors import InvalidKey, InvalidMultiaddr, LocalProtocolError, RecordError
from pyp2p.io import varint
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, PublicKey
from pyp2p.peer.pb.envelope_pb2 import Envelope as EnvelopeMessage
from pyp2p.peer.pb.peer_record_pb2 import PeerRecord as PeerRecordMessage

DOMAIN: Final = "libp2p-peer-record"
PAYLOAD_TYPE: Final = b"\x03\x01"
# Bounds what decoding can cost: 1 MiB of empty addresses would take 60 MB. Identify carries at most this much.
MAX_ENVELOPE: Final = 8192
MAX_ADDRESSES: Final = 64  # addresses of one record that are read; the rest is ignored


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload whose signature was verified under the domain it was opened with."""

    public_key: PublicKey
    payload_type: bytes
    payload: bytes
    signature: bytes

    @classmethod
    def seal(cls, identity: Identity, domain: str, payload_type: bytes, payload: bytes) -> Envelope:
        """Sign `payload` as `identity`. Raises `LocalProtocolError` when the domain or the payload type is empty."""
        if not domain or not payload_type:
            raise LocalProtocolError("an envelope needs a domain and a payload type")
        signature = identity.sign(signed_bytes(domain, payload_type, payload))
        return cls(identity.public_key, payload_type, payload, signature)

    @classmethod
    def open(cls, data: bytes, domain: str) -> Envelope:
        """Decode and verify; raises `RecordError`. At most 8,192 bytes."""
        if len(data) > MAX_ENVELOPE:
            raise RecordError(f"envelope of {len(data)} bytes is over the limit of {MAX_ENVELOPE}")
        message = EnvelopeMessage()
        try:
            message.ParseFromString(data)
        except DecodeError:
            raise RecordError("envelope is no protobuf") from None
        try:
            key = PublicKey.from_protobuf(message.public_key)
        except InvalidKey as error:
            raise RecordError(f"envelope: {error}") from None
        if not key.verify(message.signature, signed_bytes(domain, message.payload_type, message.payload)):
            raise RecordError("envelope: the signature does not verify in this domain")
        return cls(key, message.payload_type, message.payload, message.signature)

    def encode(self) -> bytes:
        """The message."""
        return EnvelopeMessage(
            public_key=self.public_key.to_protobuf(),
            payload_type=self.payload_type,
            payload=self.payload,
            signature=self.signature,
        ).SerializeToString(deterministic=True)


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """The addresses of `peer` in its version `seq`: a number that only grows (64 bits), never read as time."""

    peer: PeerId
    seq: int
    addresses: tuple[Multiaddr, ...]


def signed_bytes(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """What the signature of an envelope covers: the three parts, each behind its length."""
    return b"".join(map(varint.prefixed, (domain.encode(), payload_type, payload)))


def seal(identity: Identity, record: PeerRecord) -> bytes:
    """The signed envelope of our own record.

    Raises `LocalProtocolError` when the record is about another peer, its number is not of 64 bits, or it is too large
    for anybody to accept; `InvalidMultiaddr` when an address was built unchecked and is wrong.
    """
    if not 0 <= record.seq < 1 << 64:
        raise LocalProtocolError(f"sequence number {record.seq} is not of 64 bits")
    if record.peer != identity.peer:
        raise LocalProtocolError(f"{identity.peer} cannot sign a record about {record.peer}")
    payload = PeerRecordMessage(
        peer_id=record.peer.raw,
        seq=record.seq,
        addresses=[
            PeerRecordMessage.AddressInfo(multiaddr=parse_multiaddr(address).to_bytes()) for address in record.addresses
        ],
    ).SerializeToString(deterministic=True)
    sealed = Envelope.seal(identity, DOMAIN, PAYLOAD_TYPE, payload).encode()
    if len(sealed) > MAX_ENVELOPE:
        raise LocalProtocolError(f"envelope of {len(sealed)} bytes is over the limit of {MAX_ENVELOPE}")
    return sealed


def open_record(data: bytes) -> PeerRecord:
    """Verify an envelope and read the peer record inside; raises `RecordError`, which names the rule that is broken.

    Addresses that are malformed, or from the 65th on, are left out; no addresses at all is a valid record.
    """
    envelope = Envelope.open(data, DOMAIN)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise RecordError("envelope: the payload is no peer record")
    message = PeerRecordMessage()
    try:
        message.ParseFromString(envelope.payload)
    except DecodeError:
        raise RecordError("peer record is no protobuf") from None
    signer = PeerId.from_key(envelope.public_key)
    if message.peer_id != signer.raw:
        raise RecordError(f"peer record about another peer than {signer}, who signed it")
    return PeerRecord(signer, message.seq, readable(info.multiaddr for info in message.addresses[:MAX_ADDRESSES]))


def readable(raw: Iterable[bytes]) -> tuple[Multiaddr, ...]:
    """The addresses that parse, in order, each once."""
    found: dict[Multiaddr, None] = {}
    for one in raw:
        try:
            found[parse_multiaddr(one)] = None
        except InvalidMultiaddr:
            continue
    return tuple(found)
