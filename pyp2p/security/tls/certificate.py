"""The certificates of libp2p TLS: who may speak is proven by an extension that the host key has signed.

Rules: pure, and used by TLS over streams and by QUIC alike. A certificate is judged whole, by its bytes and the date
that is passed in: no TLS library's word on it is taken. Everything that `cryptography` can raise on a peer's bytes is
translated here. libp2p specs, tls/tls.md, "Peer Authentication".
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from pyp2p.errors import TlsError
from pyp2p.peer.keys import Identity, PublicKey

MAX_CERTIFICATE: Final = 16 * 1024  # bytes; one that proves the largest RSA identity has 4 KiB
EXTENSION: Final = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
SIGNED_PREFIX: Final = b"libp2p-tls-handshake:"

# As in the specification's examples: no clock that is wrong makes ours expired.
_NOT_BEFORE: Final = datetime(1975, 1, 1, 13, tzinfo=UTC)
_NOT_AFTER: Final = datetime(4096, 1, 1, 13, tzinfo=UTC)
_HASHES: Final = (SHA256, SHA384, SHA512)
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_RSA_BITS: Final = range(2048, 8192 + 1)  # above, one check takes milliseconds
# Critical extensions that say nothing about what libp2p uses a certificate for; any other has to be understood.
_UNDERSTOOD: Final = (
    EXTENSION,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
)
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_SEQUENCE: Final = 0x30
_OCTET_STRING: Final = 0x04


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of ours and the key that it is about."""

    key: ec.EllipticCurvePrivateKey
    der: bytes


def make_certificate(identity: Identity) -> Certificate:
    """A self-signed certificate for a fresh key on P-256, with the proof that `identity` is behind it.

    The key and the signature's nonce are OpenSSL's: no seed repeats them.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "libp2p.io")])
    signature = identity.sign(SIGNED_PREFIX + _spki(key.public_key()))
    signed_key = _der(_SEQUENCE, _octets(identity.public_key.to_protobuf()) + _octets(signature))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.UnrecognizedExtension(EXTENSION, signed_key), critical=False)
        .sign(key, SHA256())
    )
    return Certificate(key, certificate.public_bytes(Encoding.DER))


def check_certificate(der: bytes, now: float) -> PublicKey:
    """The host key that a peer's certificate proves.

    `now` is wall time in seconds. Raises `TlsError` for one that is not what libp2p asks for: not self-signed, not
    valid now, without the extension, with a critical one that we do not know, with a key or signature of a kind that is
    not allowed, or whose extension the host key did not sign; `InvalidKey` for a host key that cannot be one.
    """
    if len(der) > MAX_CERTIFICATE:
        raise TlsError(f"a certificate of {len(der)} bytes, {MAX_CERTIFICATE} are allowed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oddities that a peer may send, and that do not matter here
        try:
            certificate = x509.load_der_x509_certificate(der)
            first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            key = certificate.public_key()
            signed_key = _extension(certificate)
        except _UNREADABLE as error:
            raise TlsError(f"the certificate cannot be read: {error}") from None
    today = datetime.fromtimestamp(now, UTC)
    if not first <= today <= last:
        raise TlsError(f"the certificate is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}, now is {today:%Y-%m-%d}")
    _check_self_signature(certificate, key)
    host_key, signature = _read_signed_key(signed_key)
    host = PublicKey.from_protobuf(host_key)
    if not host.verify(signature, SIGNED_PREFIX + _spki(key)):
        raise TlsError("the identity key did not sign the certificate's key")
    return host


def _extension(certificate: x509.Certificate) -> bytes:
    """The libp2p extension; a critical one that is none of ours ends it."""
    found: bytes | None = None
    for extension in certificate.extensions:
        if extension.oid == EXTENSION:
            found = extension.value.public_bytes()
        elif extension.critical and extension.oid not in _UNDERSTOOD:
            raise TlsError(f"the certificate has a critical extension that is not known: {extension.oid.dotted_string}")
    if found is None:
        raise TlsError("the certificate has no libp2p extension")
    return found


def _check_self_signature(certificate: x509.Certificate, key: CertificatePublicKeyTypes) -> None:
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, signed)
            return
        algorithm = certificate.signature_hash_algorithm
        if algorithm is None or not isinstance(algorithm, _HASHES):
            raise TlsError("the certificate is signed with a hash that is not allowed")
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
            key.verify(signature, signed, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
            how = certificate.signature_algorithm_parameters
            if how is None or isinstance(how, ec.ECDSA):
                raise TlsError("the certificate is signed in a way that its key cannot")
            key.verify(signature, signed, how, algorithm)
        else:
            raise TlsError("the certificate has a key of a kind or size that is not allowed")
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        raise TlsError("the certificate is not signed with its own key") from None


def _spki(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# --- SignedKey ::= SEQUENCE { publicKey OCTET STRING, signature OCTET STRING }


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _octets(content: bytes) -> bytes:
    return _der(_OCTET_STRING, content)


def _read_signed_key(raw: bytes) -> tuple[bytes, bytes]:
    inner, rest = _read_der(_SEQUENCE, raw)
    key, tail = _read_der(_OCTET_STRING, inner)
    signature, end = _read_der(_OCTET_STRING, tail)
    if rest or end:
        raise TlsError("the libp2p extension has bytes after its end")
    return key, signature


def _read_der(tag: int, raw: bytes) -> tuple[bytes, bytes]:
    """The content of the first element, which must be of this kind and in its shortest form, and what follows it."""
    if len(raw) < 2 or raw[0] != tag:
        raise TlsError("the libp2p extension is no SignedKey")
    size, start = raw[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(raw[2:start], "big")
    content = raw[start : start + size]
    if _der(tag, content) != raw[: start + size]:
        raise TlsError("the libp2p extension is no SignedKey")
    return content, raw[start + size :]
