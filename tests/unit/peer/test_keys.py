"""Keys: vectors, strictness, both secp256k1 libraries."""

import hashlib
import importlib.util
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.discv5 import rlp
from pyp2p.discv5.keccak import keccak256
from pyp2p.errors import InvalidKey, LocalProtocolError
from pyp2p.io import varint
from pyp2p.peer import secp256k1
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.peer.publickey import KeyType, PublicKey, key_protobuf
from tests.vectors import load

VECTORS = load("peer_ids")
KEYS = {case["type"]: case for case in VECTORS["keys"]}


def entropy(seed: int = 0):
    counter = iter(range(1 << 20))
    return lambda n: b"".join(hashlib.sha256(b"%d %d" % (seed, next(counter))).digest() for _ in range(-(-n // 32)))[:n]


@pytest.mark.parametrize("case", KEYS.values(), ids=KEYS)
def test_vectors(case):
    private, public = bytes.fromhex(case["private_key_protobuf"]), bytes.fromhex(case["public_key_protobuf"])
    identity = Identity.from_protobuf(private)
    assert identity.to_protobuf() == private
    assert identity.key_type is KeyType(case["key_type"])
    key = PublicKey.from_protobuf(public)
    assert identity.public_key == key
    assert hash(identity.public_key) == hash(key)
    assert key.to_protobuf() == public
    assert key.data.hex() == case["public_data"]
    assert str(identity.peer) == case["peer_id_base58"]
    assert identity.peer.raw.hex() == case["peer_id_bytes"]
    message = bytes.fromhex(case["signature"]["message"])
    assert key.verify(bytes.fromhex(case["signature"]["signature"]), message)


def test_the_old_form_of_ed25519():
    case = KEYS["ed25519"]
    identity = Identity.from_protobuf(bytes.fromhex(case["private_key_protobuf_legacy_96"]))
    assert identity.to_protobuf().hex() == case["private_key_protobuf"]


@pytest.mark.parametrize("case", VECTORS["invalid_key_protobufs"], ids=lambda case: case["name"])
def test_invalid_protobufs(case):
    decode = Identity.from_protobuf if case.get("is_private") else PublicKey.from_protobuf
    with pytest.raises(InvalidKey):
        decode(bytes.fromhex(case["protobuf"]))


@pytest.mark.parametrize("key_type", KeyType)
def test_generated_keys_sign(key_type):
    identity = Identity.generate(key_type, entropy=entropy())
    signature = identity.sign(b"message")
    assert identity.sign(b"message") == signature
    assert identity.public_key.verify(signature, b"message")
    assert not identity.public_key.verify(signature, b"massage")
    assert not identity.public_key.verify(b"", b"message")
    assert not identity.public_key.verify(signature[:-1], b"message")
    flipped = bytes((signature[0], *signature[1:-1], signature[-1] ^ 1))
    assert not identity.public_key.verify(flipped, b"message")
    again = Identity.from_protobuf(identity.to_protobuf())
    assert again.peer == identity.peer and again.sign(b"message") == signature
    assert PeerId.from_key(identity.public_key) == identity.peer
    assert key_type.name in repr(identity) and key_type.name in repr(identity.public_key)
    assert identity.to_protobuf().hex() not in repr(identity)


@pytest.mark.parametrize("key_type", [KeyType.ED25519, KeyType.SECP256K1, KeyType.ECDSA])
def test_keys_come_from_the_given_entropy(key_type):
    def make(seed):
        return Identity.generate(key_type, entropy=entropy(seed)).to_protobuf()

    assert make(1) == make(1) != make(2)


def test_public_keys_compare_by_type_and_bytes():
    one = Identity.generate(entropy=entropy(1)).public_key
    assert one == PublicKey.from_protobuf(one.to_protobuf())
    assert one != Identity.generate(entropy=entropy(2)).public_key
    assert one != one.to_protobuf()


# Private keys.


def sec1(curve: ec.EllipticCurve) -> bytes:
    return ec.derive_private_key(7, curve).private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def pkcs8() -> bytes:
    return ec.derive_private_key(7, ec.SECP256R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def rsa_private(bits: int) -> bytes:
    key = rsa.generate_private_key(65537, bits)
    return key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())


ORDER = secp256k1.ORDER.to_bytes(32, "big")
SEED_AND_PUBLIC = bytes.fromhex(KEYS["ed25519"]["private_data"])


@pytest.mark.parametrize(
    ("key_type", "data"),
    [
        (KeyType.ED25519, b""),
        (KeyType.ED25519, SEED_AND_PUBLIC[:32]),
        (KeyType.ED25519, SEED_AND_PUBLIC[:63]),
        (KeyType.ED25519, SEED_AND_PUBLIC[:32] + bytes(32)),
        (KeyType.ED25519, SEED_AND_PUBLIC + b"\0"),
        (KeyType.SECP256K1, bytes(32)),
        (KeyType.SECP256K1, ORDER),
        (KeyType.SECP256K1, b"\x01" * 31),
        (KeyType.SECP256K1, b"\x01" * 33),
        (KeyType.ECDSA, b""),
        (KeyType.ECDSA, b"\x30\x03\x02\x01\x01"),
        (KeyType.ECDSA, sec1(ec.SECP384R1())),
        (KeyType.ECDSA, sec1(ec.SECP256R1()) + b"\0"),
        (KeyType.ECDSA, pkcs8()),
        (KeyType.RSA, sec1(ec.SECP256R1())),
        (KeyType.RSA, b"\x30\x80"),
        (KeyType.RSA, rsa_private(1024)),
        (KeyType.RSA, bytes(6000)),
    ],
)
def test_bad_private_keys(key_type, data):
    with pytest.raises(InvalidKey):
        Identity.from_protobuf(key_protobuf(key_type, data))


def test_a_private_key_of_the_other_kind_is_refused():
    rsa_data = bytes.fromhex(KEYS["rsa"]["private_data"])
    with pytest.raises(InvalidKey):
        Identity.from_protobuf(key_protobuf(KeyType.ECDSA, rsa_data))
    with pytest.raises(InvalidKey):
        Identity.from_protobuf(key_protobuf(KeyType.RSA, bytes.fromhex(KEYS["ecdsa"]["private_data"])))


# Public keys that a hostile peer shows.


def spki(n: int, e: int) -> bytes:
    numbers = rsa.RSAPublicNumbers(e, n)
    return numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def modulus(bits: int) -> int:
    return (1 << (bits - 1)) | int.from_bytes(hashlib.sha256(b"n").digest(), "big") | 1


def ec_spki(curve: ec.EllipticCurve) -> bytes:
    return ec.derive_private_key(7, curve).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def compressed_spki() -> bytes:
    """A key on P-256 in a valid form that nobody emits."""
    point = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    compressed = point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    return b"\x30\x39" + algorithm + b"\x03\x22\x00" + compressed


ED = bytes.fromhex(KEYS["ed25519"]["public_data"])
SECP = bytes.fromhex(KEYS["secp256k1"]["public_data"])
P256 = bytes.fromhex(KEYS["ecdsa"]["public_data"])
RSA = bytes.fromhex(KEYS["rsa"]["public_data"])


def rsa_without_null() -> bytes:
    """The algorithm without its NULL: readable, and not what anybody emits."""
    inner = b"\x30\x0b" + RSA[6:17] + RSA[19:]
    return b"\x30\x82" + len(inner).to_bytes(2, "big") + inner


X25519 = x25519.X25519PrivateKey.from_private_bytes(bytes(32)).public_key()

HOSTILE = {
    "rsa_16384": key_protobuf(KeyType.RSA, spki(modulus(16384), 65537)),
    "rsa_8193": key_protobuf(KeyType.RSA, spki(modulus(8193), 65537)),
    "rsa_2047": key_protobuf(KeyType.RSA, spki(modulus(2047), 65537)),
    "rsa_1024": key_protobuf(KeyType.RSA, spki(modulus(1024), 65537)),
    "rsa_exponent_2048_bits": key_protobuf(KeyType.RSA, spki(modulus(2048), modulus(2048) - 2)),
    "rsa_exponent_33_bits": key_protobuf(KeyType.RSA, spki(modulus(2048), (1 << 32) | 1)),
    "rsa_trailing": key_protobuf(KeyType.RSA, RSA + b"\0"),
    "rsa_without_null": key_protobuf(KeyType.RSA, rsa_without_null()),
    "rsa_empty": key_protobuf(KeyType.RSA, b""),
    "rsa_is_ec": key_protobuf(KeyType.RSA, P256),
    "rsa_is_x25519": key_protobuf(KeyType.RSA, X25519.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
    "rsa_over_the_size": key_protobuf(KeyType.RSA, bytes(1 << 20)),
    "key_type_9": b"\x08\x09\x12" + varint.prefixed(ED),
    "key_type_of_two_bytes": b"\x08\x81\x00\x12" + varint.prefixed(ED),
    "secp256k1_32": key_protobuf(KeyType.SECP256K1, SECP[1:]),
    "secp256k1_not_on_curve": key_protobuf(KeyType.SECP256K1, b"\x02" + b"\xff" * 32),
    "secp256k1_hybrid_prefix": key_protobuf(KeyType.SECP256K1, b"\x06" + SECP[1:]),
    "secp256k1_zero": key_protobuf(KeyType.SECP256K1, bytes(33)),
    "ed25519_31": key_protobuf(KeyType.ED25519, ED[:31]),
    "ed25519_33": key_protobuf(KeyType.ED25519, ED + b"\0"),
    "ed25519_64": key_protobuf(KeyType.ED25519, ED + ED),
    "ecdsa_p384": key_protobuf(KeyType.ECDSA, ec_spki(ec.SECP384R1())),
    "ecdsa_secp256k1": key_protobuf(KeyType.ECDSA, ec_spki(ec.SECP256K1())),
    "ecdsa_compressed": key_protobuf(KeyType.ECDSA, compressed_spki()),
    "ecdsa_not_on_curve": key_protobuf(KeyType.ECDSA, P256[:-1] + bytes((P256[-1] ^ 1,))),
    "ecdsa_garbage": key_protobuf(KeyType.ECDSA, bytes(91)),
    "trailing_bytes": key_protobuf(KeyType.ED25519, ED) + b"\0",
    "two_data_fields": key_protobuf(KeyType.ED25519, ED) + b"\x12" + varint.prefixed(ED),
    "two_type_fields": b"\x08\x01" + key_protobuf(KeyType.ED25519, ED),
    "length_not_minimal": b"\x08\x01\x12\xa0\x00" + ED,
    "length_endless": b"\x08\x01\x12" + b"\xff" * 32,
    "empty": b"",
    "only_type": b"\x08\x01",
    "no_length": b"\x08\x01\x12",
    "open_length": b"\x08\x01\x12\x80",
}


@pytest.mark.hostile
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_015_keys_are_refused_before_anything_is_verified(name):
    with pytest.raises(InvalidKey):
        PublicKey.from_protobuf(HOSTILE[name])


def test_bounds_hold_without_a_protobuf_too():
    with pytest.raises(InvalidKey):
        PublicKey(KeyType.RSA, bytes(1 << 20))


@pytest.mark.parametrize(("bits", "exponent"), [(2048, 3), (2048, (1 << 32) - 1), (8192, 65537)])
def test_rsa_at_the_edge_of_its_bounds(bits, exponent):
    key = PublicKey(KeyType.RSA, spki(modulus(bits), exponent))
    assert not key.verify(bytes(bits // 8), b"")


@given(st.binary(max_size=200))
def test_decoding_raises_nothing_else(raw):
    for decode in (PublicKey.from_protobuf, Identity.from_protobuf):
        try:
            key = decode(raw)
        except InvalidKey:
            continue
        assert key.to_protobuf() == raw or isinstance(key, Identity)


@given(st.sampled_from(sorted(KEYS)), st.integers(0, 599), st.integers(0, 255))
def test_one_changed_byte_gives_another_key_or_none(name, at, byte):
    raw = bytearray.fromhex(KEYS[name]["public_key_protobuf"])
    raw[at % len(raw)] = byte
    try:
        key = PublicKey.from_protobuf(bytes(raw))
    except InvalidKey:
        return
    assert key.to_protobuf() == raw


# secp256k1: both libraries, the same bytes, the same verdicts.

BACKENDS = [secp256k1.Cryptography]
if secp256k1.coincurve is not None:
    BACKENDS.append(secp256k1.Coincurve)
SCALARS = st.integers(1, secp256k1.ORDER - 1).map(lambda scalar: scalar.to_bytes(32, "big"))


@given(SCALARS, st.binary(max_size=100))
def test_the_libraries_agree(private, message):
    results = [(backend.public(private), backend.sign(private, message)) for backend in BACKENDS]
    assert all(result == results[0] for result in results)
    public, signature = results[0]
    _, s = decode_dss_signature(signature)
    assert s <= secp256k1.ORDER // 2
    for backend in BACKENDS:
        assert backend.is_point(public)
        assert backend.verify(public, signature, message)
        assert not backend.verify(public, signature, message + b"!")


def bad_signatures(good: bytes) -> dict[str, bytes]:
    r, s = decode_dss_signature(good)
    return {
        "high_s": encode_dss_signature(r, secp256k1.ORDER - s),
        "r_zero": encode_dss_signature(0, s),
        "s_zero": encode_dss_signature(r, 0),
        "r_over": encode_dss_signature(r + secp256k1.ORDER, s),
        "trailing": good + b"\0",
        "empty": b"",
        "raw": r.to_bytes(32, "big") + s.to_bytes(32, "big"),
        "padded_length": b"\x30\x81" + good[1:],
        "padded_integer": b"\x30" + bytes((good[1] + 1, 2, good[3] + 1, 0)) + good[4:],
        "negative_integer": good[:4] + bytes((good[4] | 0x80,)) + good[5:],
        "endless_length": b"\x30\x80" + good[2:] + b"\0\0",
        "more_inside": bytes((0x30, good[1] + 3)) + good[2:] + b"\x02\x01\x01",
        "huge": encode_dss_signature(1 << 4000, s),
    }


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.__name__)
def test_signatures_have_one_form(backend):
    private = b"\x01" * 32
    public, good = backend.public(private), backend.sign(private, b"m")
    assert backend.verify(public, good, b"m")
    for name, bad in bad_signatures(good).items():
        assert not backend.verify(public, bad, b"m"), name
    assert not backend.is_point(b"\x02" + b"\xff" * 32)


# secp256k1 over digests, and Diffie-Hellman: what discv5 is made of.

PRIMITIVES = load("discv5_wire")["primitives"]
EACH_BACKEND = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.__name__)
EDGES = [1, 2, 3, secp256k1.ORDER // 2, secp256k1.ORDER - 3, secp256k1.ORDER - 2, secp256k1.ORDER - 1]


def scalar_bytes(scalar: int) -> bytes:
    return scalar.to_bytes(32, "big")


def negative(public: bytes) -> bytes:
    return bytes((public[0] ^ 1,)) + public[1:]


@EACH_BACKEND
def test_published_shared_points(backend):
    for case, private, public in (
        ("ecdh", "secret_key", "public_key"),
        ("key_derivation", "ephemeral_key", "dest_pubkey"),
    ):
        case = PRIMITIVES[case]
        assert backend.ecdh(bytes.fromhex(case[private]), bytes.fromhex(case[public])).hex() == case["shared_secret"]


@EACH_BACKEND
def test_the_published_id_signature(backend):
    case = PRIMITIVES["id_nonce_signing"]
    private, digest = bytes.fromhex(case["static_key"]), bytes.fromhex(case["id_signature_hash"])
    public = bytes.fromhex(case["static_pubkey"])
    ephemeral, recipient = bytes.fromhex(case["ephemeral_pubkey"]), bytes.fromhex(case["node_id_b"])
    said = b"discovery v5 identity proof" + bytes.fromhex(case["challenge_data"]) + ephemeral + recipient
    assert hashlib.sha256(said).digest() == digest
    assert backend.public(private) == public
    assert backend.sign_digest(private, digest).hex() == case["id_signature"]
    assert backend.verify_digest(public, bytes.fromhex(case["id_signature"]), digest)


@EACH_BACKEND
def test_published_record_signatures(backend):
    for case in load("enr")["valid"]:
        items = rlp.decode(bytes.fromhex(case["rlp"]))
        digest = keccak256(rlp.encode(items[1:]))
        assert backend.verify_digest(bytes.fromhex(case["public_key"]), bytes.fromhex(case["signature"]), digest)
        if "private_key" in case:
            assert backend.sign_digest(bytes.fromhex(case["private_key"]), digest).hex() == case["signature"]


@given(SCALARS, SCALARS, st.binary(min_size=32, max_size=32))
def test_the_libraries_agree_on_digests_and_points(mine, theirs, digest):
    public, other = BACKENDS[0].public(mine), BACKENDS[0].public(theirs)
    results = [
        (backend.sign_digest(mine, digest), backend.ecdh(mine, other), backend.coordinates(public))
        for backend in BACKENDS
    ]
    assert all(result == results[0] for result in results)
    signature, shared, coordinates = results[0]
    assert int.from_bytes(signature[32:], "big") <= secp256k1.ORDER // 2
    assert public == bytes((2 + coordinates[63] % 2,)) + coordinates[:32]
    flipped = bytes((digest[0] ^ 1,)) + digest[1:]
    for backend in BACKENDS:
        assert backend.verify_digest(public, signature, digest)
        assert not backend.verify_digest(public, signature, flipped)
        assert backend.ecdh(theirs, public) == shared


@EACH_BACKEND
@pytest.mark.parametrize(
    "digest", [bytes(32), b"\xff" * 32, secp256k1.ORDER.to_bytes(32, "big")], ids=["0", "max", "n"]
)
def test_digests_at_the_edges(backend, digest):
    signature = backend.sign_digest(b"\2" * 32, digest)
    assert signature == BACKENDS[-1].sign_digest(b"\2" * 32, digest)
    assert backend.verify_digest(backend.public(b"\2" * 32), signature, digest)


@EACH_BACKEND
@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33)], ids=len)
def test_only_digests_of_32_bytes_are_signed(backend, digest):
    with pytest.raises(ValueError):
        backend.sign_digest(b"\2" * 32, digest)


@EACH_BACKEND
@pytest.mark.parametrize("other", EDGES, ids=hex)
@pytest.mark.parametrize("scalar", EDGES, ids=hex)
def test_shared_points_at_the_edges(backend, scalar, other):
    """d = 1 gives Q (where x is that of Q), d = n - 1 gives -Q (where d + 1 is no scalar), others as multiplied."""
    shared = backend.ecdh(scalar_bytes(scalar), backend.public(scalar_bytes(other)))
    assert shared == backend.public(scalar_bytes(scalar * other % secp256k1.ORDER))


@EACH_BACKEND
@given(SCALARS)
def test_one_and_minus_one_times_a_point(backend, other):
    public = backend.public(other)
    assert backend.ecdh(scalar_bytes(1), public) == public
    assert backend.ecdh(scalar_bytes(secp256k1.ORDER - 1), public) == negative(public)


def no_points() -> dict[str, bytes]:
    public = secp256k1.public(b"\2" * 32)
    plain = secp256k1.coordinates(public)
    return {
        "empty": b"",
        "infinity": b"\0",
        "zeros": bytes(33),
        "x_over_the_field": b"\2" + b"\xff" * 32,
        "x_not_on_the_curve": b"\2" + scalar_bytes(5),
        "another_prefix": b"\4" + public[1:],
        "uncompressed": b"\4" + plain,
        "hybrid": bytes((6 + plain[63] % 2,)) + plain,
        "x_and_y": plain,
        "short": public[:-1],
        "long": public + b"\0",
    }


@pytest.mark.hostile
@EACH_BACKEND
@pytest.mark.parametrize("public", no_points().values(), ids=no_points())
def test_hostile_088_what_is_no_compressed_point(backend, public):
    for use in (backend.coordinates, lambda point: backend.ecdh(b"\3" * 32, point)):
        with pytest.raises(InvalidKey):
            use(public)
    digest = bytes(32)
    assert not backend.verify_digest(public, backend.sign_digest(b"\2" * 32, digest), digest)


@pytest.mark.hostile
@EACH_BACKEND
def test_hostile_088_signatures_over_digests_have_one_form(backend):
    private, digest = b"\2" * 32, hashlib.sha256(b"m").digest()
    public, good = backend.public(private), backend.sign_digest(private, digest)
    r, s = (int.from_bytes(half, "big") for half in (good[:32], good[32:]))
    bad = {
        "high_s": good[:32] + scalar_bytes(secp256k1.ORDER - s),
        "r_zero": bytes(32) + good[32:],
        "s_zero": good[:32] + bytes(32),
        "r_is_n": scalar_bytes(secp256k1.ORDER) + good[32:],
        "s_is_n": good[:32] + scalar_bytes(secp256k1.ORDER),
        "all_ones": b"\xff" * 64,
        "swapped": good[32:] + good[:32],
        "with_recovery": good + b"\0",
        "short": good[:-1],
        "empty": b"",
        "der": encode_dss_signature(r, s),
    }
    assert backend.verify_digest(public, good, digest)
    for name, signature in bad.items():
        assert not backend.verify_digest(public, signature, digest), name
    for wrong in (b"", digest[:-1], digest + b"\0"):
        assert not backend.verify_digest(public, good, wrong)


@pytest.mark.hostile
@EACH_BACKEND
@given(st.binary(max_size=70), st.binary(max_size=70), st.binary(max_size=40))
def test_hostile_088_verification_raises_nothing(backend, public, signature, digest):
    assert not backend.verify_digest(public, signature, digest)
    assert not backend.verify_digest(secp256k1.public(b"\2" * 32), signature, digest)


def test_the_scalar_of_a_pair():
    private = b"\2" * 32
    assert Identity(KeyType.SECP256K1, private).scalar == private
    for other in (KeyType.ED25519, KeyType.ECDSA):
        with pytest.raises(LocalProtocolError):
            Identity.generate(other, entropy=entropy()).scalar  # noqa: B018


@pytest.mark.parametrize("there", [True, False], ids=["coincurve", "without"])
def test_the_library_is_chosen_once(there, monkeypatch):
    if there:
        pytest.importorskip("coincurve")
    else:
        monkeypatch.setitem(sys.modules, "coincurve", None)
    spec = importlib.util.spec_from_file_location("fresh_secp256k1", secp256k1.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.BACKEND.__name__ == ("Coincurve" if there else "Cryptography")
    private = b"\x02" * 32
    assert fresh.verify(fresh.public(private), fresh.sign(private, b"m"), b"m")
    assert fresh.verify_digest(fresh.public(private), fresh.sign_digest(private, bytes(32)), bytes(32))
    assert fresh.ecdh(private, fresh.public(private)) == secp256k1.ecdh(private, secp256k1.public(private))
    assert fresh.coordinates(fresh.public(private)) == secp256k1.coordinates(secp256k1.public(private))
