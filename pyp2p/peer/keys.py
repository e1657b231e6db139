"""Key pairs: making, storing and using the private half (specs peer-ids). Public halves are in `publickey.py`.

Rules: signatures are deterministic, so a simulation sends the same bytes each time; entropy is given. The form of a
private key is strict like that of a public one: Ed25519 seed || public, secp256k1 the scalar, RSA PKCS#1, ECDSA SEC1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from pyp2p.errors import InvalidKey, LocalProtocolError
from pyp2p.peer import secp256k1
from pyp2p.peer.id import PeerId
from pyp2p.peer.publickey import MAX_PRIVATE_BYTES, KeyType, PublicKey, check_rsa, key_fields, key_protobuf

__all__ = ["Identity", "KeyType", "PublicKey"]

Entropy = Callable[[int], bytes]
Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_P256: Final = ec.SECP256R1()
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SIGN_P256: Final = ec.ECDSA(SHA256(), deterministic_signing=True)
_WIDE: Final = 48  # bytes of entropy for a scalar: the reduction leaves a bias of 2**-128
_RSA_GENERATED_BITS: Final = 2048


class Identity:
    """A key pair and the peer id that follows from it. `peer`, `public_key` and `key_type` are plain attributes."""

    __slots__ = ("_data", "_private", "peer", "public_key")

    def __init__(self, key_type: KeyType, data: bytes) -> None:
        """`data` as the PrivateKey protobuf holds it; raises `InvalidKey` when it is malformed or out of bounds."""
        self._private: Private | None = None
        if key_type is KeyType.ED25519:
            public = self._load_ed25519(data)
            data = data[:64]
        elif key_type is KeyType.SECP256K1:
            scalar = int.from_bytes(data, "big")
            if len(data) != secp256k1.PRIVATE_BYTES or not 0 < scalar < secp256k1.ORDER:
                raise InvalidKey("secp256k1 private key is no scalar of 32 bytes in range")
            public = secp256k1.public(data)
        else:
            public = self._load_der(key_type, data)
        self._data = data
        self.public_key = PublicKey(key_type, public)
        self.peer = PeerId.from_key(self.public_key)

    @classmethod
    def generate(cls, key_type: KeyType = KeyType.ED25519, *, entropy: Entropy) -> Identity:
        """A new key pair made of the bytes that `entropy` gives (`Platform.entropy`).

        RSA (2048 bits, e = 65537) is the exception: OpenSSL makes it from its own randomness, so it differs each time.
        """
        if key_type is KeyType.ED25519:
            seed = entropy(32)
            public = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key()
            return cls(key_type, seed + public.public_bytes(Encoding.Raw, PublicFormat.Raw))
        if key_type is KeyType.SECP256K1:
            return cls(key_type, _scalar(entropy, secp256k1.ORDER).to_bytes(32, "big"))
        if key_type is KeyType.ECDSA:
            return cls(key_type, _der(ec.derive_private_key(_scalar(entropy, _P256_ORDER), _P256)))
        return cls(key_type, _der(rsa.generate_private_key(65537, _RSA_GENERATED_BITS)))

    @classmethod
    def from_protobuf(cls, buf: bytes) -> Identity:
        """Decode a PrivateKey message (also Ed25519 in its old form of 96 bytes); raises `InvalidKey`."""
        return cls(*key_fields(buf, MAX_PRIVATE_BYTES))

    def to_protobuf(self) -> bytes:
        """The PrivateKey message. It is secret: whoever has it is this peer."""
        return key_protobuf(self.key_type, self._data)

    @property
    def key_type(self) -> KeyType:
        """The kind of the pair."""
        return self.public_key.type

    @property
    def scalar(self) -> bytes:
        """The private scalar (32 bytes) of a secp256k1 pair, which is secret; `LocalProtocolError` for other kinds."""
        if self.key_type is not KeyType.SECP256K1:
            raise LocalProtocolError(f"a pair of type {self.key_type.name} has no secp256k1 scalar")
        return self._data

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`; the same bytes for the same message."""
        key = self._private
        if key is None:
            return secp256k1.sign(self._data, message)
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key.sign(message)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key.sign(message, _SIGN_P256)
        return key.sign(message, padding.PKCS1v15(), SHA256())

    def __repr__(self) -> str:
        return f"<Identity {self.key_type.name} {self.peer.short()}>"

    def _load_ed25519(self, data: bytes) -> bytes:
        if len(data) not in (64, 96):
            raise InvalidKey(f"Ed25519 private key of {len(data)} bytes instead of 64")
        self._private = ed25519.Ed25519PrivateKey.from_private_bytes(data[:32])
        public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        if data[32:] not in (public, public + public):
            raise InvalidKey("Ed25519 private key whose public half is another key")
        return public

    def _load_der(self, key_type: KeyType, data: bytes) -> bytes:
        try:
            key = load_der_private_key(data, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise InvalidKey(f"{key_type.name} private key is no DER that is supported") from None
        if isinstance(key, rsa.RSAPrivateKey) and key_type is KeyType.RSA:
            check_rsa(key.public_key().public_numbers())
            self._private = key
        elif (
            isinstance(key, ec.EllipticCurvePrivateKey)
            and isinstance(key.curve, ec.SECP256R1)
            and key_type is KeyType.ECDSA
        ):
            self._private = key
        else:
            raise InvalidKey(f"{key_type.name} private key holds a key of another kind")
        if _der(self._private) != data:
            raise InvalidKey(f"{key_type.name} private key is not in its canonical form")
        return self._private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _scalar(entropy: Entropy, order: int) -> int:
    return 1 + int.from_bytes(entropy(_WIDE), "big") % (order - 1)


def _der(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
