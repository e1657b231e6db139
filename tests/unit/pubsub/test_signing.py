"""Signing policies: vectors, what each asks for, that nothing but the author's signature over these bytes passes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import LocalProtocolError, PubsubError
from pyp2p.io.varint import prefixed
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.pubsub import signing
from pyp2p.pubsub.ids import default_message_id
from pyp2p.pubsub.pb.rpc_pb2 import Message as MessagePb
from pyp2p.pubsub.signing import StrictNoSign, StrictSign, signed_bytes
from pyp2p.pubsub.types import Message
from pyp2p.pubsub.wire import decode_message
from tests.vectors import load

VECTORS = load("gossipsub_rpc")
RNG = random.Random(1)
ALICE, BOB = Identity.generate(entropy=RNG.randbytes), Identity.generate(entropy=RNG.randbytes)
RSA = Identity.generate(KeyType.RSA, entropy=RNG.randbytes)
KINDS = [
    ALICE,
    Identity.generate(KeyType.SECP256K1, entropy=RNG.randbytes),
    Identity.generate(KeyType.ECDSA, entropy=RNG.randbytes),
    RSA,
]
ANYBODY = StrictSign(BOB)


def entry(number: int, body: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + prefixed(body)


def signed(identity: Identity, *, after: bytes = b"", key: bytes | None = None, **changed: bytes | None) -> Message:
    """A message signed as every implementation does: over its fields but signature and key. None leaves a field out."""
    parts = {"author": identity.peer.raw, "data": b"data", "seqno": bytes(7) + b"\x01", "topic": b"topic", **changed}
    body = b"".join(entry(n, part) for n, part in enumerate(parts.values(), 1) if part is not None)
    signature = identity.sign(b"libp2p-pubsub:" + body + after)
    return decode_message(body + entry(5, signature) + (b"" if key is None else entry(6, key)) + after)


def copied(message: Message, **changed: bytes) -> Message:
    """The message with some fields written over, by protobuf."""
    read = MessagePb.FromString(message.raw)
    for name, value in changed.items():
        setattr(read, name, value)
    return decode_message(read.SerializeToString())


# ---- vectors


@pytest.mark.parametrize("entry", VECTORS["strict_sign_messages"], ids=lambda entry: entry["name"])
def test_a_signed_message_of_the_vectors(entry: dict) -> None:
    message = decode_message(bytes.fromhex(entry["message"]))
    reason = ANYBODY.check(message)
    assert (reason is None) == entry["valid"]
    if entry["valid"]:
        assert signed_bytes(message.raw).hex() == entry["signed_bytes"]
        assert default_message_id(message).hex() == entry["default_message_id"]


@pytest.mark.parametrize("entry", VECTORS["strict_no_sign_messages"], ids=lambda entry: entry["name"])
def test_an_unsigned_message_of_the_vectors(entry: dict) -> None:
    reason = StrictNoSign().check(decode_message(bytes.fromhex(entry["message"])))
    assert (reason is None) == entry["valid"]


# ---- our own


@pytest.mark.parametrize("identity", KINDS, ids=lambda identity: identity.key_type.name)
def test_what_we_sign_holds_at_others(identity: Identity) -> None:
    message = StrictSign(identity).build("topic", b"data", 2**64 - 1)
    assert message == decode_message(message.raw)
    assert (message.topic, message.data, message.seqno) == ("topic", b"data", b"\xff" * 8)
    assert message.author == identity.peer.raw
    hashed = identity.key_type in (KeyType.RSA, KeyType.ECDSA)
    assert message.key == (identity.public_key.to_protobuf() if hashed else None)
    # A second time with what is kept of the first.
    assert [ANYBODY.check(message), ANYBODY.check(message)] == [None, None]


def test_what_we_sign_has_its_fields_in_order() -> None:
    raw = StrictSign(RSA).build("topic", b"data", 1).raw
    assert MessagePb.FromString(raw).SerializeToString(deterministic=True) == raw


def test_what_we_do_not_sign_has_data_and_topic_only() -> None:
    message = StrictNoSign().build("topic", b"data", 1)
    assert message.raw == entry(2, b"data") + entry(4, b"topic")
    assert message == decode_message(message.raw)
    assert StrictNoSign().check(message) is None


@pytest.mark.parametrize("policy", [StrictSign(ALICE), StrictNoSign()], ids=["sign", "no sign"])
@pytest.mark.parametrize("topic", ["", "t" * 1025, "\udcff"])
def test_a_topic_that_nobody_would_take_is_a_mistake_of_ours(policy: signing.Policy, topic: str) -> None:
    with pytest.raises(LocalProtocolError):
        policy.build(topic, b"", 1)


# ---- what is asked for


@given(st.binary(max_size=300), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_any_data_and_topic(data: bytes, topic: str) -> None:
    assert ANYBODY.check(decode_message(StrictSign(ALICE).build(topic, data, 7).raw)) is None


@pytest.mark.parametrize(
    "changed",
    [{"author": None}, {"author": b""}, {"seqno": None}, {"seqno": b""}, {"seqno": bytes(7)}, {"seqno": bytes(9)}],
    ids=str,
)
def test_author_and_sequence_number_must_be_there(changed: dict) -> None:
    assert ANYBODY.check(signed(ALICE, **changed)) is not None


def test_data_may_be_absent() -> None:
    assert ANYBODY.check(signed(ALICE, data=None)) is None


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), bytes(10_000)], ids=len)
@pytest.mark.parametrize("identity", KINDS, ids=lambda identity: identity.key_type.name)
def test_a_signature_that_is_none(identity: Identity, signature: bytes) -> None:
    message = StrictSign(identity).build("topic", b"data", 1)
    assert ANYBODY.check(copied(message, signature=signature)) is not None
    read = MessagePb.FromString(message.raw)
    read.ClearField("signature")
    assert ANYBODY.check(decode_message(read.SerializeToString())) is not None


@pytest.mark.parametrize(
    "changed",
    [{"author": BOB.peer.raw}, {"data": b"Data"}, {"seqno": bytes(8)}, {"topic": b"topiC"}],
    ids=lambda changed: next(iter(changed)),
)
@pytest.mark.parametrize("identity", KINDS, ids=lambda identity: identity.key_type.name)
def test_every_field_is_signed(identity: Identity, changed: dict) -> None:
    message = StrictSign(identity).build("topic", b"data", 1)
    assert ANYBODY.check(message) is None
    assert ANYBODY.check(copied(message, **changed)) is not None


def test_unknown_fields_are_signed_where_they_stand() -> None:
    extra = entry(15, b"extra")
    message = signed(ALICE, after=extra)
    assert ANYBODY.check(message) is None
    assert ANYBODY.check(decode_message(message.raw.removesuffix(extra))) is not None
    assert ANYBODY.check(decode_message(extra + message.raw.removesuffix(extra))) is not None
    plain = signed(ALICE)
    assert ANYBODY.check(decode_message(plain.raw + extra)) is not None


def test_signature_and_key_are_cut_wherever_they_stand() -> None:
    body = entry(4, b"t") + entry(1, b"a")
    tail = entry(15, b"x")
    for raw in (
        body + entry(5, b"s") + entry(6, b"k") + tail,
        entry(6, b"k") + body + tail + entry(5, b"s"),
        entry(4, b"t") + entry(5, b"s") + entry(1, b"a") + b"\xb2\x00\x01k" + tail,
        body + tail,
    ):
        assert signed_bytes(raw) == b"libp2p-pubsub:" + body + tail
    with pytest.raises(PubsubError):
        signed_bytes(body + b"\x2a\x05")


# ---- keys


def test_a_key_beside_an_id_that_holds_it() -> None:
    """js sends the key always; it is not part of what is signed."""
    assert ANYBODY.check(signed(ALICE, key=ALICE.public_key.to_protobuf())) is None
    assert ANYBODY.check(signed(ALICE, key=BOB.public_key.to_protobuf())) is not None
    assert ANYBODY.check(signed(BOB, key=BOB.public_key.to_protobuf(), author=ALICE.peer.raw)) is not None


def test_an_id_that_is_a_hash_needs_the_key_each_time() -> None:
    policy = StrictSign(BOB)
    with_key, without = signed(RSA, key=RSA.public_key.to_protobuf()), signed(RSA)
    for _ in range(2):
        assert policy.check(without) is not None
        assert policy.check(with_key) is None
        assert policy.check(signed(RSA, key=ALICE.public_key.to_protobuf())) is not None


@pytest.mark.parametrize("key", [b"", b"\xff", bytes(2000), ALICE.public_key.to_protobuf() + b"\x00"], ids=len)
@pytest.mark.parametrize("identity", [ALICE, RSA], ids=["in the id", "hashed"])
def test_a_key_that_is_none(identity: Identity, key: bytes) -> None:
    assert ANYBODY.check(signed(identity, key=key)) is not None


@pytest.mark.parametrize(
    "author", [b"x", bytes(34), b"\x12\x20" + bytes(31), b"\x00\x25\x08\x02\x12\x21\x02" + b"\xff" * 32], ids=len
)
def test_an_author_that_is_no_peer(author: bytes) -> None:
    assert ANYBODY.check(signed(ALICE, author=author)) is not None
    assert ANYBODY.check(signed(ALICE, author=author, key=ALICE.public_key.to_protobuf())) is not None


def test_keys_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "_KEPT_KEYS", 2)
    policy = StrictSign(BOB)
    for _ in range(2):
        for identity in KINDS:
            assert policy.check(StrictSign(identity).build("topic", b"", 1)) is None
            assert len(policy._keys) <= 2
    for n in range(100):
        policy.check(signed(ALICE, key=bytes((n,))))
        policy.check(signed(ALICE, author=b"\x12\x20" + n.to_bytes(32, "big")))
    assert len(policy._keys) <= 2


# ---- nobody signs


@pytest.mark.hostile
@pytest.mark.parametrize("value", [b"", b"x"], ids=["empty", "not empty"])
@pytest.mark.parametrize("number", [1, 3, 5, 6])
@pytest.mark.parametrize("tag", ["short", "long"])
def test_hostile_069_a_field_that_must_be_absent(number: int, value: bytes, tag: str) -> None:
    extra = entry(number, value)
    if tag == "long":
        extra = bytes((extra[0] | 0x80, 0x00)) + extra[1:]
    for raw in (entry(2, b"d") + entry(4, b"t") + extra, extra + entry(2, b"d") + entry(4, b"t")):
        assert StrictNoSign().check(decode_message(raw)) is not None


def test_unknown_fields_do_no_harm_where_nobody_signs() -> None:
    assert StrictNoSign().check(decode_message(entry(4, b"t") + entry(15, b"x"))) is None
