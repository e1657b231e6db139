"""Certificates of libp2p: the vectors whole, what is made, and each thing that may be wrong with one."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import MD5, SHA1, SHA3_256, SHA256, SHA384
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import RemoteError, TlsError
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.security.tls.certificate import MAX_CERTIFICATE, check_certificate, make_certificate
from tests.unit.security.noise_tools import entropy_of
from tests.unit.security.tls_tools import ALICE, BOB, NOW, P256, certificate, der, signed_key, spki
from tests.vectors import load

VECTORS = load("tls_certificates")
RSA = rsa.generate_private_key(65537, 2048)


def named(valid):
    return [pytest.param(each, id=each["name"]) for each in VECTORS["certificates"] if each["valid"] is valid]


def test_facts() -> None:
    facts = VECTORS["facts"]
    assert datetime.fromisoformat(facts["evaluate_at"]).timestamp() == NOW
    made = x509.load_der_x509_certificate(make_certificate(ALICE).der)
    (extension,) = made.extensions
    assert (extension.oid.dotted_string, extension.critical) == (facts["extension_oid"], False)


@pytest.mark.parametrize("vector", named(True))
def test_valid_certificates_of_the_vectors(vector: dict) -> None:
    key = check_certificate(bytes.fromhex(vector["certificate_der"]), NOW)
    assert str(PeerId.from_key(key)) == vector["peer_id"]
    if "host_public_key_protobuf" in vector:
        assert key.to_protobuf().hex() == vector["host_public_key_protobuf"]


WHY = {
    "signature_mismatch": "the identity key did not sign",
    "unknown_extension_critical": r"a critical extension that is not known: 1\.3\.6\.1\.4\.1\.53594\.9\.9",
    "extension_missing": "has no libp2p extension",
    "expired": "valid from 2000-01-01 to 2001-01-01, now is 2026-01-01",
    "not_yet_valid": "valid from 4000-01-01 to 40",
    "not_self_signed": "not signed with its own key",
    "wrong_signature_prefix": "the identity key did not sign",
    "extension_garbage": "is no SignedKey",
    "extension_trailing_bytes": "has bytes after its end",
    "unknown_host_key_type": "key",
}


@pytest.mark.hostile
@pytest.mark.parametrize("vector", named(False))
def test_hostile_035_036_037_invalid_certificates_of_the_vectors(vector: dict) -> None:
    with pytest.raises(RemoteError, match=WHY[vector["name"]]):
        check_certificate(bytes.fromhex(vector["certificate_der"]), NOW)


@pytest.mark.parametrize("kind", KeyType)
def test_what_is_made_proves_its_identity(kind: KeyType) -> None:
    identity = Identity.generate(kind, entropy=entropy_of(1))
    made = make_certificate(identity)
    for now in (0x7FFFFFFF, NOW):
        assert check_certificate(made.der, now) == identity.public_key
    assert make_certificate(identity).der != made.der


@pytest.mark.parametrize(
    "raw",
    [
        certificate(),
        certificate(critical=True),
        certificate(more=[(x509.BasicConstraints(False, None), True)]),
        certificate(more=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), False)]),
        certificate(subject="somebody"),
        certificate(key=ec.generate_private_key(ec.SECP384R1()), algorithm=SHA384()),
        certificate(key=ec.generate_private_key(ec.SECP521R1())),
        certificate(key=ed25519.Ed25519PrivateKey.generate(), algorithm=None),
        certificate(key=RSA),
        certificate(key=RSA, rsa_padding=padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH)),
    ],
    ids=["plain", "critical", "basic constraints", "unknown", "subject", "p384", "p521", "ed25519", "rsa", "pss"],
)
def test_what_may_differ(raw: bytes) -> None:
    assert check_certificate(raw, NOW) == ALICE.public_key


def long(identity: Identity = ALICE) -> bytes:
    """A good proof with its lengths written in more bytes than they need."""
    good = signed_key(identity, P256)
    return bytes((0x30, 0x81, good[1])) + good[2:] if good[1] < 0x80 else b"\x30\x82\x00" + good[2:]


SIGNED = ALICE.sign(b"libp2p-tls-handshake:" + spki(P256))


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "cannot be read"),
        (b"\x30\x03\x02\x01\x05", "cannot be read"),
        (certificate()[:-1], "cannot be read"),
        (certificate() + b"\0", "cannot be read"),
        (b"\x30" * (MAX_CERTIFICATE + 1), f"of {MAX_CERTIFICATE + 1} bytes"),
        (certificate(extension=der(0x30, b"")), "no SignedKey"),
        (certificate(extension=b"\x30"), "no SignedKey"),
        (certificate(extension=b"\x30\x80"), "no SignedKey"),
        (certificate(extension=b"\x30\xff" + b"\xff" * 200), "no SignedKey"),
        (certificate(extension=long()), "no SignedKey"),
        (certificate(extension=der(0x30, der(4, b"") + der(4, b""))), "key"),
        (certificate(extension=der(0x30, der(4, b"x") + der(3, b"y"))), "no SignedKey"),
        (certificate(extension=der(0x30, der(4, b"x") + der(4, b"y") + der(4, b"z"))), "after its end"),
        (certificate(extension=signed_key(ALICE, ec.generate_private_key(ec.SECP256R1()))), "did not sign"),
        (
            certificate(
                extension=der(0x30, der(4, BOB.public_key.to_protobuf()) + der(4, ALICE.sign(b"x" + spki(P256))))
            ),
            "did not sign",
        ),
        (certificate(signer=ec.generate_private_key(ec.SECP256R1())), "not signed with its own key"),
        (certificate(signer=RSA), "not signed with its own key|in a way that its key cannot"),
        (certificate(key=RSA, signer=P256), "not signed with its own key|in a way that its key cannot"),
        (certificate(algorithm=SHA3_256()), "a hash that is not allowed"),
        (certificate(key=ec.generate_private_key(ec.SECP256K1())), "a kind or size that is not allowed"),
        (certificate(key=rsa.generate_private_key(65537, 1024)), "a kind or size that is not allowed"),
        (certificate(key=ed448.Ed448PrivateKey.generate(), algorithm=None), "not allowed"),
        (certificate(key=dsa.generate_private_key(1024)), "a kind or size that is not allowed"),
        (certificate(more=[(x509.NameConstraints([x509.DNSName("a")], None), True)]), "critical extension"),
        (certificate(last=datetime.fromtimestamp(NOW, UTC) - timedelta(seconds=1)), "now is 2026-01-01"),
        (certificate(first=datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=1)), "now is 2026-01-01"),
    ],
    ids=range(26),
)
def test_hostile_035_036_037_038_what_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(RemoteError, match=words):
        check_certificate(raw, NOW)


def signed_with(name: bytes, algorithm) -> bytes:
    """A certificate whose signature is right and of a kind that the library does not make any more."""
    raw = certificate(key=RSA)
    assert raw.count(SHA256_WITH_RSA) == 2
    raw = raw.replace(SHA256_WITH_RSA, SHA256_WITH_RSA[:-1] + name)
    body = x509.load_der_x509_certificate(raw).tbs_certificate_bytes
    signature = RSA.sign(body, padding.PKCS1v15(), algorithm)
    assert raw[-256:] != signature
    return raw[:-256] + signature


SHA256_WITH_RSA = bytes.fromhex("2a864886f70d01010b")


@pytest.mark.hostile
@pytest.mark.parametrize(("name", "algorithm"), [(b"\x04", MD5()), (b"\x05", SHA1())], ids=["md5", "sha1"])
def test_hostile_037_a_signature_over_a_weak_hash_is_refused(name: bytes, algorithm) -> None:
    with pytest.raises(TlsError, match="a hash that is not allowed"):
        check_certificate(signed_with(name, algorithm), NOW)


class Large:
    """An RSA key of 16,384 bits, of which only the public half is there."""

    def public_key(self):
        return rsa.RSAPublicNumbers(65537, (1 << 16383) + 1).public_key()


@pytest.mark.hostile
def test_hostile_038_a_key_of_16384_bits_is_refused_before_anything_is_checked_with_it() -> None:
    raw = certificate(key=Large(), signer=RSA)
    assert len(raw) < MAX_CERTIFICATE
    with pytest.raises(TlsError, match="a kind or size that is not allowed"):
        check_certificate(raw, NOW)


@pytest.mark.hostile
def test_hostile_035_an_empty_extension_is_no_proof() -> None:
    empty = [(x509.UnrecognizedExtension(x509.ObjectIdentifier(VECTORS["facts"]["extension_oid"]), b""), False)]
    with pytest.raises(TlsError, match="no SignedKey"):
        check_certificate(certificate(extension=b"", more=empty), NOW)


@pytest.mark.hostile
def test_hostile_038_thousands_of_extensions_are_read_or_refused() -> None:
    many = [(x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{n}"), b""), False) for n in range(2000)]
    raw = certificate(more=many)
    assert len(raw) > MAX_CERTIFICATE
    with pytest.raises(TlsError, match="bytes"):
        check_certificate(raw, NOW)
    assert check_certificate(certificate(more=many[:500]), NOW) == ALICE.public_key


@pytest.mark.hostile
def test_hostile_037_the_same_extension_twice_cannot_be_read() -> None:
    one = der(0x30, bytes.fromhex("060a2b0601040183a25a0101") + der(4, signed_key(ALICE, P256)))
    raw = certificate()
    assert raw.count(one) == 1
    doubled = raw.replace(one, one + one)  # lengths around it are wrong too: whichever is seen first ends it
    with pytest.raises(TlsError, match="cannot be read"):
        check_certificate(doubled, NOW)


@pytest.mark.hostile
@given(st.integers(0, len(certificate()) - 1), st.integers(1, 255))
def test_hostile_035_a_byte_that_was_changed_is_an_error_of_ours(where: int, change: int) -> None:
    raw = bytearray(certificate())
    where %= len(raw)
    raw[where] ^= change
    with pytest.raises(RemoteError):
        check_certificate(bytes(raw), NOW)
