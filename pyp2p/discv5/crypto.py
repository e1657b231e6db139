"""Session keys, proof of identity, encryption of messages (devp2p discv5-theory.md, Handshake Messages and Sessions).

Rules: no key, nonce or signature is made here: ECDH and ECDSA are `peer/secp256k1.py`, nonces come from the caller, who
never uses one twice with a key. Misuse is a `LocalProtocolError`; what does not authenticate is None.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pyp2p.errors import LocalProtocolError

ID_BYTES: Final = 32
KEY_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16  # what encryption adds to a message
POINT_BYTES: Final = 33  # a compressed point of secp256k1: ephemeral keys and the shared secret
_AGREEMENT = b"discovery v5 key agreement"
_IDENTITY = b"discovery v5 identity proof"


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The two keys of a session: the initiator, who sends the handshake packet, writes with its own, reads the other.

    They stay out of `repr`.
    """

    initiator_key: bytes = field(repr=False)
    recipient_key: bytes = field(repr=False)


def derive_keys(secret: bytes, challenge_data: bytes, initiator_id: bytes, recipient_id: bytes) -> SessionKeys:
    """The keys that an ECDH secret (a compressed point) gives for the WHOAREYOU with this challenge data.

    `recipient_id` is the node that sent the WHOAREYOU. Raises `LocalProtocolError` for a secret or id of another size.
    """
    require(secret, POINT_BYTES, "a shared secret")
    require(initiator_id, ID_BYTES, "a node id")
    require(recipient_id, ID_BYTES, "a node id")
    info = b"".join((_AGREEMENT, initiator_id, recipient_id))
    keys = HKDF(algorithm=SHA256(), length=2 * KEY_BYTES, salt=challenge_data, info=info).derive(secret)
    return SessionKeys(keys[:KEY_BYTES], keys[KEY_BYTES:])


def id_signature_input(challenge_data: bytes, ephemeral_key: bytes, recipient_id: bytes) -> bytes:
    """What the initiator signs: it holds its static key, now, towards this recipient and for this ephemeral key.

    Raises `LocalProtocolError` for an ephemeral key that has not 33 bytes, or an id that has not 32.
    """
    require(ephemeral_key, POINT_BYTES, "an ephemeral key")
    require(recipient_id, ID_BYTES, "a node id")
    return b"".join((_IDENTITY, challenge_data, ephemeral_key, recipient_id))


def id_signature_digest(challenge_data: bytes, ephemeral_key: bytes, recipient_id: bytes) -> bytes:
    """The SHA-256 of `id_signature_input`, for `sign_digest` and `verify_digest`."""
    return hashlib.sha256(id_signature_input(challenge_data, ephemeral_key, recipient_id)).digest()


def session_cipher(key: bytes) -> AESGCM:
    """The cipher of one session key; making it costs as much as two messages, so a session keeps it.

    Raises `LocalProtocolError` for a key that has not 16 bytes: AES would take one of 32 as AES-256.
    """
    require(key, KEY_BYTES, "a session key")
    return AESGCM(key)


def encrypt_message(cipher: AESGCM, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Ciphertext and tag of a message; the associated data is masking iv || header of its packet, unmasked.

    Raises `LocalProtocolError` for a nonce that has not 12 bytes: AES-GCM would take others.
    """
    require(nonce, NONCE_BYTES, "a nonce")
    return cipher.encrypt(nonce, plaintext, associated_data)


def decrypt_message(cipher: AESGCM, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes | None:
    """The plaintext, or None when it does not authenticate: nobody's fault, one side may have lost the session.

    Raises `LocalProtocolError` for a nonce that has not 12 bytes.
    """
    require(nonce, NONCE_BYTES, "a nonce")
    try:
        return cipher.decrypt(nonce, ciphertext, associated_data)
    except InvalidTag:
        return None


def require(value: bytes, size: int, what: str) -> None:
    """Raise `LocalProtocolError` unless the value, made by us, has exactly so many bytes."""
    if len(value) != size:
        raise LocalProtocolError(f"{what} of {len(value)} bytes instead of {size}")
