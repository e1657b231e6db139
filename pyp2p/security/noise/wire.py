"""The payload of Noise messages 2 and 3: who we are, the proof, and extensions.

Rules: pure. The payload is bounded before protobuf sees it; what is taken from it is bounded again. Unknown fields
are ignored. libp2p noise, "libp2p Data in Handshake Messages" and "Noise Extensions".
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from pyp2p.errors import LocalProtocolError, NoiseError
from pyp2p.security.noise.pb.payload_pb2 import NoiseHandshakePayload

MAX_PAYLOAD = 16384  # the largest RSA identity proves itself in 2.2 KiB; the rest is room for extensions
MAX_MUXERS = 64  # a list is compared with ours one by one
MAX_MUXER = 1024  # the bound of a protocol id in multistream-select


@dataclass(slots=True)
class Payload:
    """A handshake payload: the identity's public key as protobuf, its signature, the sender's muxers, best first."""

    identity_key: bytes
    identity_sig: bytes
    stream_muxers: tuple[str, ...] = ()


def encode_payload(payload: Payload) -> bytes:
    """The payload as bytes, always the same for the same value; without muxers there are no extensions at all."""
    message = NoiseHandshakePayload(identity_key=payload.identity_key, identity_sig=payload.identity_sig)
    if payload.stream_muxers:
        message.extensions.stream_muxers.extend(muxer.encode("utf-8") for muxer in payload.stream_muxers)
    encoded = message.SerializeToString(deterministic=True)
    if len(encoded) > MAX_PAYLOAD or len(payload.stream_muxers) > MAX_MUXERS:
        raise LocalProtocolError(f"a handshake payload of {len(encoded)} bytes would be refused")
    return encoded


def decode_payload(raw: bytes) -> Payload:
    """The payload in `raw`. Raises `NoiseError` for what is malformed, over a bound, or lacks the key or its proof."""
    if len(raw) > MAX_PAYLOAD:
        raise NoiseError(f"a handshake payload of {len(raw)} bytes")
    try:
        message = NoiseHandshakePayload.FromString(raw)
    except DecodeError:
        raise NoiseError("the handshake payload is no protobuf") from None
    if not message.identity_key or not message.identity_sig:
        raise NoiseError("the handshake payload lacks the identity key or its signature")
    muxers = message.extensions.stream_muxers
    if len(muxers) > MAX_MUXERS:
        raise NoiseError(f"an early list of {len(muxers)} muxers")
    return Payload(message.identity_key, message.identity_sig, tuple(_muxer(muxer) for muxer in muxers))


def _muxer(raw: bytes) -> str:
    if len(raw) > MAX_MUXER:
        raise NoiseError(f"a muxer id of {len(raw)} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise NoiseError("a muxer id that is not UTF-8") from None
