"""Packets: datagrams <-> values, the header judged before any key is touched (devp2p discv5-wire.md, Packet Encoding).

A packet is masking iv || masked header || message, the header is "discv5" || version || flag || nonce || authdata size
|| authdata. Masking hides the format from middleboxes, it protects nothing: all of it is hostile until the message
authenticates. Sizes are exact: what a flag does not demand is refused. Encoders take bytes by name only, as all look
alike, and raise `LocalProtocolError` for any of the wrong size.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from pyp2p.discv5.crypto import ID_BYTES, NONCE_BYTES, POINT_BYTES, TAG_BYTES, encrypt_message, require
from pyp2p.errors import LocalProtocolError, PacketError

MIN_PACKET: Final = 63  # a WHOAREYOU, the shortest there is
MAX_PACKET: Final = 1280  # the least that any IPv6 path carries whole
MAX_RECORD: Final = 300  # bytes of a node record (EIP-778)
ID_NONCE_BYTES: Final = 16
SIGNATURE_BYTES: Final = 64  # r || s
IV_BYTES: Final = 16
_PROTOCOL = b"discv5"
_VERSION = b"\x00\x01"
_STATIC = struct.Struct(">6s2sB12sH")  # protocol id, version, flag, nonce, size of the authdata
_ORDINARY, _WHOAREYOU, _HANDSHAKE = 0, 1, 2
_CHALLENGE = struct.Struct(">16sQ")  # id-nonce, sequence number of the record that the challenger has
_PROOF = struct.Struct(">32sBB64s33s")  # source, size of signature, size of key, id-signature, ephemeral key
_MAX_HEADER = _STATIC.size + _PROOF.size + MAX_RECORD
_U64 = 1 << 64
# Bytes of plaintext that an ordinary packet has room for.
MAX_PLAINTEXT: Final = MAX_PACKET - IV_BYTES - _STATIC.size - ID_BYTES - TAG_BYTES
# ... and a handshake packet, less the record, if there is one.
MAX_HANDSHAKE_PLAINTEXT: Final = MAX_PACKET - IV_BYTES - _STATIC.size - _PROOF.size - TAG_BYTES


@dataclass(slots=True)
class OrdinaryPacket:
    """A message under an existing session, or random content that asks for one.

    `associated_data` is iv || header, unmasked: the tag of the message covers it.
    """

    nonce: bytes
    src_id: bytes
    associated_data: bytes
    ciphertext: bytes


@dataclass(slots=True)
class WhoAreYou:
    """The challenge to a packet that could not be decrypted: `nonce` is that packet's.

    `challenge_data` (iv || header, unmasked) goes into keys and signature of the handshake. `enr_seq` is 0 when the
    challenger has no record of ours.
    """

    nonce: bytes
    id_nonce: bytes
    enr_seq: int
    challenge_data: bytes


@dataclass(slots=True)
class HandshakePacket:
    """The answer to a WHOAREYOU, with a message under the new keys; nothing in it is verified yet.

    `record` is the raw record, None where the sender left it out.
    """

    nonce: bytes
    src_id: bytes
    signature: bytes
    ephemeral_key: bytes
    record: bytes | None
    associated_data: bytes
    ciphertext: bytes


Packet = OrdinaryPacket | WhoAreYou | HandshakePacket


# ---- masking


@functools.lru_cache(maxsize=2048)
def _keystream(key: bytes) -> CipherContext:
    """AES-128-CTR under part of a node id, which is public; to give a context another iv costs a sixth of a new one.

    The bound: our own id is used for every datagram that comes and stays, 2048 others are about all peers of a node.
    """
    return Cipher(AES(key), CTR(bytes(IV_BYTES))).encryptor()


def _mask(node_id: bytes, iv: bytes, data: bytes) -> bytes:
    """Mask or unmask: the same in CTR mode."""
    context = _keystream(node_id[:16])
    context.reset_nonce(iv)
    return context.update(data)


# ---- reading


def decode_packet(datagram: bytes, local_id: bytes) -> Packet:
    """The packet that a datagram to the node `local_id` holds, its message still encrypted. Constant memory.

    Raises `PacketError` for whatever breaks the packet format: such a datagram is dropped, never answered.
    """
    size = len(datagram)
    if not MIN_PACKET <= size <= MAX_PACKET:
        raise PacketError(f"a datagram of {size} bytes; {MIN_PACKET} to {MAX_PACKET} are allowed")
    # Where the header ends is known only from the header: one pass over the longest one that is allowed.
    plain = _mask(local_id, datagram[:IV_BYTES], datagram[IV_BYTES : IV_BYTES + _MAX_HEADER])
    protocol, version, flag, nonce, authdata_size = _STATIC.unpack_from(plain)
    if protocol != _PROTOCOL:
        raise PacketError("the protocol id is not discv5, or the packet is masked for another node")
    if version != _VERSION:
        raise PacketError(f"version {int.from_bytes(version)} of the protocol instead of 1")
    end = _STATIC.size + authdata_size
    if IV_BYTES + end > size:
        raise PacketError("the authdata runs past the end of the datagram")
    if flag == _ORDINARY:
        return _ordinary(datagram, nonce, plain, end)
    if flag == _WHOAREYOU:
        return _whoareyou(datagram, nonce, plain, end)
    if flag == _HANDSHAKE:
        return _handshake(datagram, nonce, plain, end)
    raise PacketError(f"flag {flag} is not defined")


def _ordinary(datagram: bytes, nonce: bytes, plain: bytes, end: int) -> OrdinaryPacket:
    if end != _STATIC.size + ID_BYTES:
        raise PacketError(f"{end - _STATIC.size} bytes of authdata in an ordinary packet instead of {ID_BYTES}")
    # How much random content asks for a session is not laid down: less than a tag is no error here.
    associated_data = datagram[:IV_BYTES] + plain[:end]
    return OrdinaryPacket(nonce, plain[_STATIC.size : end], associated_data, datagram[IV_BYTES + end :])


def _whoareyou(datagram: bytes, nonce: bytes, plain: bytes, end: int) -> WhoAreYou:
    if end != _STATIC.size + _CHALLENGE.size:
        raise PacketError(f"{end - _STATIC.size} bytes of authdata in a WHOAREYOU instead of {_CHALLENGE.size}")
    if len(datagram) != MIN_PACKET:
        raise PacketError("a WHOAREYOU with a message")
    id_nonce, enr_seq = _CHALLENGE.unpack_from(plain, _STATIC.size)
    return WhoAreYou(nonce, id_nonce, enr_seq, datagram[:IV_BYTES] + plain)


def _handshake(datagram: bytes, nonce: bytes, plain: bytes, end: int) -> HandshakePacket:
    # What cannot authenticate is refused here, before it costs us a signature check and an ECDH.
    if len(datagram) - IV_BYTES - end < TAG_BYTES:
        raise PacketError("the message of a handshake is shorter than its tag")
    record_at = _STATIC.size + _PROOF.size
    if end < record_at:
        raise PacketError(f"{end - _STATIC.size} bytes of authdata in a handshake; {_PROOF.size} is the least")
    if end > _MAX_HEADER:
        raise PacketError(f"a record of {end - record_at} bytes in a handshake; {MAX_RECORD} are allowed")
    src_id, sig_size, key_size, signature, ephemeral_key = _PROOF.unpack_from(plain, _STATIC.size)
    if sig_size != SIGNATURE_BYTES:
        raise PacketError(f"an id-signature of {sig_size} bytes instead of {SIGNATURE_BYTES}")
    if key_size != POINT_BYTES:
        raise PacketError(f"an ephemeral key of {key_size} bytes instead of {POINT_BYTES}")
    record = plain[record_at:end] or None
    associated_data = datagram[:IV_BYTES] + plain[:end]
    return HandshakePacket(nonce, src_id, signature, ephemeral_key, record, associated_data, datagram[IV_BYTES + end :])


# ---- writing


def encode_ordinary(
    *, dest_id: bytes, src_id: bytes, iv: bytes, nonce: bytes, cipher: AESGCM, plaintext: bytes
) -> bytes:
    """A message under an existing session. Raises `LocalProtocolError` for one over `MAX_PLAINTEXT` bytes."""
    require(src_id, ID_BYTES, "a node id")
    header = _header(_ORDINARY, nonce, src_id)
    return _packet(dest_id, iv, header, encrypt_message(cipher, nonce, plaintext, iv + header))


def encode_random(*, dest_id: bytes, src_id: bytes, iv: bytes, nonce: bytes, content: bytes) -> bytes:
    """An ordinary packet without a session: random content in place of a message, so that a WHOAREYOU comes back.

    Raises `LocalProtocolError` for content shorter than a tag: it could not pass for a message.
    """
    require(src_id, ID_BYTES, "a node id")
    if len(content) < TAG_BYTES:
        raise LocalProtocolError(f"random content of {len(content)} bytes; {TAG_BYTES} is the least")
    return _packet(dest_id, iv, _header(_ORDINARY, nonce, src_id), content)


def make_whoareyou(*, iv: bytes, nonce: bytes, id_nonce: bytes, enr_seq: int) -> WhoAreYou:
    """The challenge to the packet with this nonce; `iv` is chosen now, as it is part of the challenge data.

    Raises `LocalProtocolError` for a sequence number of more than 64 bits.
    """
    require(iv, IV_BYTES, "a masking iv")
    require(id_nonce, ID_NONCE_BYTES, "an id-nonce")
    if not 0 <= enr_seq < _U64:
        raise LocalProtocolError(f"sequence number {enr_seq} has more than 64 bits")
    header = _header(_WHOAREYOU, nonce, _CHALLENGE.pack(id_nonce, enr_seq))
    return WhoAreYou(nonce, id_nonce, enr_seq, iv + header)


def encode_whoareyou(challenge: WhoAreYou, *, dest_id: bytes) -> bytes:
    """The datagram of a challenge: always the same bytes."""
    return _packet(dest_id, challenge.challenge_data[:IV_BYTES], challenge.challenge_data[IV_BYTES:], b"")


def encode_handshake(
    *,
    dest_id: bytes,
    src_id: bytes,
    iv: bytes,
    nonce: bytes,
    signature: bytes,
    ephemeral_key: bytes,
    record: bytes | None,
    cipher: AESGCM,
    plaintext: bytes,
) -> bytes:
    """The answer to a WHOAREYOU, with a message under the new key; `record` where the challenger's is older.

    Raises `LocalProtocolError` for a record over 300 bytes, or a plaintext that makes it more than 1280 bytes.
    """
    require(src_id, ID_BYTES, "a node id")
    require(signature, SIGNATURE_BYTES, "an id-signature")
    require(ephemeral_key, POINT_BYTES, "an ephemeral key")
    record = record or b""
    if len(record) > MAX_RECORD:
        raise LocalProtocolError(f"a record of {len(record)} bytes; {MAX_RECORD} are allowed")
    proof = _PROOF.pack(src_id, SIGNATURE_BYTES, POINT_BYTES, signature, ephemeral_key)
    header = _header(_HANDSHAKE, nonce, proof + record)
    return _packet(dest_id, iv, header, encrypt_message(cipher, nonce, plaintext, iv + header))


def _header(flag: int, nonce: bytes, authdata: bytes) -> bytes:
    require(nonce, NONCE_BYTES, "a nonce")
    return _STATIC.pack(_PROTOCOL, _VERSION, flag, nonce, len(authdata)) + authdata


def _packet(dest_id: bytes, iv: bytes, header: bytes, message: bytes) -> bytes:
    require(dest_id, ID_BYTES, "a node id")
    require(iv, IV_BYTES, "a masking iv")
    size = IV_BYTES + len(header) + len(message)
    if size > MAX_PACKET:
        raise LocalProtocolError(f"a packet of {size} bytes; {MAX_PACKET} are allowed")
    return b"".join((iv, _mask(dest_id, iv, header), message))
