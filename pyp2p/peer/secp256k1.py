"""ECDSA over secp256k1 with SHA-256: the one file that knows which library does it.

coincurve is used when it is installed (the extra `fast`), `cryptography` otherwise; `BACKEND` names the choice. Both
give the same bytes: nonces are those of RFC 6979, s is always the low half. Signatures are taken apart here, so what
is accepted (minimal DER, low s) does not depend on the library either.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

try:
    import coincurve
except ImportError:
    coincurve = None  # type: ignore[assignment]  # mypy has no type for "a module or None"

ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
PRIVATE_BYTES: Final = 32
PUBLIC_BYTES: Final = 33  # the compressed point
_MAX_SIGNATURE = 72  # SEQUENCE of two INTEGERs of at most 33 bytes
_CURVE = ec.SECP256K1()
_SIGN = ec.ECDSA(SHA256(), deterministic_signing=True)
_VERIFY = ec.ECDSA(SHA256())


def _strict(signature: bytes) -> bool:
    """Whether it is minimal DER (`decode_dss_signature` takes no other) with 0 < r < n and 0 < s <= n/2."""
    if len(signature) > _MAX_SIGNATURE:
        return False
    try:
        r, s = decode_dss_signature(signature)
    except ValueError:
        return False
    return 0 < r < ORDER and 0 < s <= ORDER // 2


class Cryptography:
    """The backend that is always there."""

    @staticmethod
    def public(private: bytes) -> bytes:
        """The compressed public point of a private scalar (32 bytes, in range)."""
        key = ec.derive_private_key(int.from_bytes(private, "big"), _CURVE)
        return key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    @staticmethod
    def is_point(public: bytes) -> bool:
        """Whether 33 bytes are a compressed point of the curve."""
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, public)
        except ValueError:
            return False
        return True

    @staticmethod
    def sign(private: bytes, message: bytes) -> bytes:
        """A DER signature with low s; the same bytes each time."""
        key = ec.derive_private_key(int.from_bytes(private, "big"), _CURVE)
        r, s = decode_dss_signature(key.sign(message, _SIGN))
        return encode_dss_signature(r, min(s, ORDER - s))

    @staticmethod
    def verify(public: bytes, signature: bytes, message: bytes) -> bool:
        """Whether a signature of the strict form is right for a point of the curve."""
        if not _strict(signature):
            return False
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, public).verify(signature, message, _VERIFY)
        except InvalidSignature:
            return False
        return True


class Coincurve:
    """libsecp256k1, about five times as fast."""

    @staticmethod
    def public(private: bytes) -> bytes:
        """As `Cryptography.public`."""
        return coincurve.PrivateKey(private).public_key.format()

    @staticmethod
    def is_point(public: bytes) -> bool:
        """As `Cryptography.is_point`."""
        try:
            coincurve.PublicKey(public)
        except ValueError:
            return False
        return True

    @staticmethod
    def sign(private: bytes, message: bytes) -> bytes:
        """As `Cryptography.sign`."""
        return coincurve.PrivateKey(private).sign(message)

    @staticmethod
    def verify(public: bytes, signature: bytes, message: bytes) -> bool:
        """As `Cryptography.verify`."""
        return _strict(signature) and coincurve.PublicKey(public).verify(signature, message)


Backend = type[Cryptography] | type[Coincurve]
BACKEND: Final[Backend] = Cryptography if coincurve is None else Coincurve
public, is_point, sign, verify = BACKEND.public, BACKEND.is_point, BACKEND.sign, BACKEND.verify
