"""Public keys: strict decoding and verification (specs peer-ids).

Rules: the protobuf has exactly its two fields, in order, minimally encoded; the key material has exactly the form we
would emit. Sizes are judged before a library sees the key, so a hostile key costs no more than its parsing.
"""

from __future__ import annotations

import enum
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from pyp2p.errors import InvalidKey, WireError
from pyp2p.io import varint
from pyp2p.peer import secp256k1

RSA_BITS: Final = range(2048, 8192 + 1)
# A public exponent as long as the modulus makes one verification 60 times as expensive.
RSA_EXPONENT_BITS: Final = 32
MAX_PUBLIC_BYTES: Final = 1100  # the SubjectPublicKeyInfo of RSA with 8192 bits takes 1,062 bytes
MAX_PRIVATE_BYTES: Final = 5120  # PKCS#1 of RSA with 8192 bits takes about 4,700 bytes
_SPKI_P256_BYTES = 91


class KeyType(enum.IntEnum):
    """The kinds of keys, with their numbers on the wire."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


def key_fields(buf: bytes, limit: int) -> tuple[KeyType, bytes]:
    """Type and data of a PublicKey or PrivateKey protobuf of the one form that is allowed; raises `InvalidKey`."""
    if len(buf) < 4 or buf[0] != 0x08 or buf[2] != 0x12:
        raise InvalidKey("key protobuf: not the fields Type and Data in this order")
    if buf[1] > KeyType.ECDSA:
        raise InvalidKey(f"key protobuf: key type {buf[1]} is not defined")
    try:
        head = varint.decode(buf, 3)
    except WireError as error:
        raise InvalidKey(f"key protobuf: {error}") from None
    if head is None or head[0] != len(buf) - head[1]:
        raise InvalidKey("key protobuf: the length of Data is not what is there")
    if head[0] > limit:
        raise InvalidKey(f"key protobuf: {head[0]} bytes of key are over the limit of {limit}")
    return KeyType(buf[1]), buf[head[1] :]


def key_protobuf(key_type: KeyType, data: bytes) -> bytes:
    """The one encoding of a PublicKey or PrivateKey message."""
    return bytes((0x08, key_type, 0x12)) + varint.prefixed(data)


def check_rsa(numbers: rsa.RSAPublicNumbers) -> None:
    """Raises `InvalidKey` unless modulus and exponent are of a size whose use is cheap and safe."""
    if numbers.n.bit_length() not in RSA_BITS:
        raise InvalidKey(f"RSA key of {numbers.n.bit_length()} bits; {RSA_BITS.start} to {RSA_BITS[-1]} are allowed")
    if numbers.e.bit_length() > RSA_EXPONENT_BITS:
        raise InvalidKey(f"RSA exponent of {numbers.e.bit_length()} bits; {RSA_EXPONENT_BITS} are allowed")


class PublicKey:
    """A public key that was checked when it was made; equal and hashable by type and bytes.

    `data` is what the protobuf holds: 32 bytes (Ed25519), a compressed point of 33 bytes (secp256k1), or DER
    SubjectPublicKeyInfo (RSA, ECDSA on P-256).
    """

    __slots__ = ("_key", "data", "type")

    type: KeyType
    data: bytes

    def __init__(self, key_type: KeyType, data: bytes) -> None:
        """Raises `InvalidKey` when `data` is not the canonical form of a key of this type within our bounds."""
        self.type = key_type
        self.data = data
        self._key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None = None
        if key_type is KeyType.ED25519:
            if len(data) != 32:
                raise InvalidKey(f"Ed25519 key of {len(data)} bytes instead of 32")
            self._key = ed25519.Ed25519PublicKey.from_public_bytes(data)
        elif key_type is KeyType.SECP256K1:
            if len(data) != secp256k1.PUBLIC_BYTES or not secp256k1.is_point(data):
                raise InvalidKey("secp256k1 key is no compressed point of the curve")
        elif key_type is KeyType.ECDSA:
            if len(data) != _SPKI_P256_BYTES:
                raise InvalidKey("ECDSA key is no SubjectPublicKeyInfo of P-256")
            self._key = _load_spki(key_type, data)
        else:
            if len(data) > MAX_PUBLIC_BYTES:
                raise InvalidKey(f"RSA key of {len(data)} bytes is over the limit of {MAX_PUBLIC_BYTES}")
            self._key = _load_spki(key_type, data)

    @classmethod
    def from_protobuf(cls, buf: bytes) -> PublicKey:
        """Decode the message; raises `InvalidKey` unless it is exactly what `to_protobuf` would give."""
        return cls(*key_fields(buf, MAX_PUBLIC_BYTES))

    def to_protobuf(self) -> bytes:
        """The encoding that peer ids are made of."""
        return key_protobuf(self.type, self.data)

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` over `message` was made with the private half.

        Ed25519 plain; secp256k1 DER with low s, ECDSA DER, RSA PKCS#1 v1.5, each over SHA-256.
        """
        key = self._key
        try:
            if key is None:
                return secp256k1.verify(self.data, signature, message)
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, message)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, message, ec.ECDSA(SHA256()))
            else:
                key.verify(signature, message, padding.PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PublicKey):
            return NotImplemented
        return self.type is other.type and self.data == other.data

    def __hash__(self) -> int:
        return hash((self.type, self.data))

    def __repr__(self) -> str:
        return f"<PublicKey {self.type.name} {self.data[-8:].hex()}>"


def _load_spki(key_type: KeyType, data: bytes) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    """An RSA key, or one on P-256, whose only encoding is `data`; raises `InvalidKey`."""
    try:
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidKey(f"{key_type.name} key is no SubjectPublicKeyInfo that is supported") from None
    found: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    if isinstance(key, rsa.RSAPublicKey) and key_type is KeyType.RSA:
        check_rsa(key.public_numbers())
        found = key
    elif (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) and key_type is KeyType.ECDSA
    ):
        found = key
    else:
        raise InvalidKey(f"{key_type.name} key holds a key of another kind")
    if found.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != data:
        raise InvalidKey(f"{key_type.name} key is not in its canonical form")
    return found
