"""ECDSA and Diffie-Hellman over secp256k1: the one file that knows which library does it.

coincurve is used when it is installed (the extra `fast`), `cryptography` otherwise; `BACKEND` names the choice. Both
give the same bytes: nonces are those of RFC 6979, s is always the low half. Signatures are taken apart here, so what
is accepted (low s; minimal DER over a message, 64 bytes over a digest) does not depend on the library either.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyp2p.errors import InvalidKey

try:
    import coincurve
except ImportError:
    coincurve = None  # type: ignore[assignment]  # mypy has no type for "a module or None"

FIELD: Final = 2**256 - 2**32 - 977  # the curve is y^2 = x^3 + 7 over the integers modulo this
ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
PRIVATE_BYTES: Final = 32
PUBLIC_BYTES: Final = 33  # the compressed point
DIGEST_BYTES: Final = 32
COMPACT_BYTES: Final = 64  # r and s of 32 bytes each
_MAX_SIGNATURE = 72  # SEQUENCE of two INTEGERs of at most 33 bytes
# Making the key object of a scalar costs twice what using it does. An attacker who makes us use many scalars gains that
# factor and no memory; a scalar that is used once stays in memory until this many others came.
_CACHED = 64
_CURVE = ec.SECP256K1()
_SIGN = ec.ECDSA(SHA256(), deterministic_signing=True)
_VERIFY = ec.ECDSA(SHA256())
_SIGN_DIGEST = ec.ECDSA(Prehashed(SHA256()), deterministic_signing=True)
_VERIFY_DIGEST = ec.ECDSA(Prehashed(SHA256()))


def _strict(signature: bytes) -> bool:
    """Whether it is minimal DER (`decode_dss_signature` takes no other) with 0 < r < n and 0 < s <= n/2."""
    if len(signature) > _MAX_SIGNATURE:
        return False
    try:
        r, s = decode_dss_signature(signature)
    except ValueError:
        return False
    return 0 < r < ORDER and 0 < s <= ORDER // 2


def _compact(der: bytes) -> bytes:
    """r || s of a signature of ours, s in its low half."""
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + min(s, ORDER - s).to_bytes(32, "big")


def _der(public: bytes, signature: bytes, digest: bytes) -> bytes | None:
    """The 64 bytes as DER; None unless all three are of their lengths, 0 < r < n and 0 < s <= n/2."""
    if (len(public), len(signature), len(digest)) != (PUBLIC_BYTES, COMPACT_BYTES, DIGEST_BYTES):
        return None
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    return encode_dss_signature(r, s) if 0 < r < ORDER and 0 < s <= ORDER // 2 else None


def _compressed(x: int, y: int) -> bytes:
    return bytes((2 + y % 2,)) + x.to_bytes(32, "big")


@lru_cache(maxsize=_CACHED)
def _private_key(scalar: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(scalar, _CURVE)


def _public_key(public: bytes) -> ec.EllipticCurvePublicKey:
    """Raises `ValueError` for what is no compressed point of the curve."""
    if len(public) != PUBLIC_BYTES:  # the library takes uncompressed points too
        raise ValueError
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, public)


def _no_point() -> InvalidKey:
    return InvalidKey("secp256k1 key is no compressed point of the curve")


class Cryptography:
    """The backend that is always there."""

    @staticmethod
    def public(private: bytes) -> bytes:
        """The compressed public point of a private scalar (32 bytes, in range)."""
        key = _private_key(int.from_bytes(private, "big"))
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
        key = _private_key(int.from_bytes(private, "big"))
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

    @staticmethod
    def sign_digest(private: bytes, digest: bytes) -> bytes:
        """r || s (64 bytes, low s) over a digest of 32 bytes; the same bytes each time."""
        return _compact(_private_key(int.from_bytes(private, "big")).sign(digest, _SIGN_DIGEST))

    @staticmethod
    def verify_digest(public: bytes, signature: bytes, digest: bytes) -> bool:
        """Whether r || s is right for a compressed point and a digest; False for high s and all that is malformed."""
        der = _der(public, signature, digest)
        if der is None:
            return False
        try:
            _public_key(public).verify(der, digest, _VERIFY_DIGEST)
        except (InvalidSignature, ValueError):
            return False
        return True

    @staticmethod
    def coordinates(public: bytes) -> bytes:
        """x || y (64 bytes) of a compressed point; raises `InvalidKey`."""
        try:
            numbers = _public_key(public).public_numbers()
        except ValueError:
            raise _no_point() from None
        return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")

    @staticmethod
    def ecdh(private: bytes, public: bytes) -> bytes:
        """The compressed point d * Q of a scalar d and a compressed point Q; raises `InvalidKey`.

        The library tells x(d * Q) only. With S = d * Q = (x, y), (d + 1) * Q = S + Q, and the law of addition binds
        x(S + Q) to y: (y_Q - y)^2 = (x(S + Q) + x + x_Q) * (x_Q - x)^2, where y^2 = x^3 + 7. No point has y_Q = 0.
        The exchanges are the library's; the plain integers take a time that depends on them.
        """
        try:
            theirs = _public_key(public)
        except ValueError:
            raise _no_point() from None
        scalar, point = int.from_bytes(private, "big"), theirs.public_numbers()
        if scalar == ORDER - 1:  # d + 1 gives the point at infinity; d * Q is -Q
            return _compressed(point.x, FIELD - point.y)
        x, sum_x = (int.from_bytes(_private_key(d).exchange(ec.ECDH(), theirs), "big") for d in (scalar, scalar + 1))
        slope = (sum_x + x + point.x) * (point.x - x) ** 2  # 0 for d = 1, where S = Q: then y is y_Q, as it must be
        y = (point.y**2 + x**3 + 7 - slope) * pow(2 * point.y, -1, FIELD) % FIELD
        return _compressed(x, y)


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

    @staticmethod
    def sign_digest(private: bytes, digest: bytes) -> bytes:
        """As `Cryptography.sign_digest`."""
        return coincurve.PrivateKey(private).sign_recoverable(digest, hasher=None)[:COMPACT_BYTES]

    @staticmethod
    def verify_digest(public: bytes, signature: bytes, digest: bytes) -> bool:
        """As `Cryptography.verify_digest`."""
        der = _der(public, signature, digest)
        if der is None:
            return False
        try:
            return coincurve.PublicKey(public).verify(der, digest, hasher=None)
        except ValueError:
            return False

    @staticmethod
    def coordinates(public: bytes) -> bytes:
        """As `Cryptography.coordinates`."""
        return _point(public).format(compressed=False)[1:]

    @staticmethod
    def ecdh(private: bytes, public: bytes) -> bytes:
        """As `Cryptography.ecdh`; the library's multiplication of a public point takes a time that depends on both."""
        return _point(public).multiply(private).format()


def _point(public: bytes) -> coincurve.PublicKey:
    """Raises `InvalidKey`; the library takes uncompressed points too."""
    if len(public) != PUBLIC_BYTES:
        raise _no_point()
    try:
        return coincurve.PublicKey(public)
    except ValueError:
        raise _no_point() from None


Backend = type[Cryptography] | type[Coincurve]
BACKEND: Final[Backend] = Cryptography if coincurve is None else Coincurve
public, is_point, sign, verify = BACKEND.public, BACKEND.is_point, BACKEND.sign, BACKEND.verify
sign_digest, verify_digest, coordinates, ecdh = (
    BACKEND.sign_digest,
    BACKEND.verify_digest,
    BACKEND.coordinates,
    BACKEND.ecdh,
)
