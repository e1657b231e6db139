"""Packets and the keys they are under: vectors byte for byte, both ways; each rule broken; hostile datagrams."""

import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.discv5 import packet as wire
from pyp2p.discv5.crypto import (
    SessionKeys,
    decrypt_message,
    derive_keys,
    encrypt_message,
    id_signature_digest,
    id_signature_input,
    session_cipher,
)
from pyp2p.discv5.packet import (
    HandshakePacket,
    OrdinaryPacket,
    Packet,
    WhoAreYou,
    decode_packet,
    encode_handshake,
    encode_ordinary,
    encode_random,
    encode_whoareyou,
    make_whoareyou,
)
from pyp2p.errors import LocalProtocolError, PacketError
from tests.vectors import load

VECTORS = load("discv5_wire")
PACKETS = {entry["name"]: entry for entry in VECTORS["packets"]}
REJECTS = {entry["name"]: bytes.fromhex(entry["packet"]) for entry in VECTORS["rejects"]}
A, B = (bytes.fromhex(VECTORS["keys"][name]["node_id"]) for name in ("node_a", "node_b"))
IV, NONCE, KEY = bytes(16), b"\xff" * 12, bytes(16)
CIPHER = session_cipher(KEY)
SIGNATURE, POINT = b"\x01" * 64, b"\x02" * 33


def taken(fields: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(fields[name]) for name in names]


def cipher_of(entry: dict[str, Any]) -> Any:
    return session_cipher(bytes.fromhex(entry["inputs"]["read_key"]))


# ---- vectors


@pytest.mark.parametrize("name", PACKETS)
def test_a_packet_of_the_vectors_is_read(name: str) -> None:
    entry = PACKETS[name]
    decoded = entry["decoded"]
    iv, header, ciphertext, nonce = taken(decoded, "masking_iv", "header_unmasked", "message_ciphertext", "nonce")
    raw = bytes.fromhex(entry["packet"])
    assert len(raw) == entry["packet_size"]
    packet = decode_packet(raw, B)
    assert packet.nonce == nonce
    if isinstance(packet, WhoAreYou):
        assert name == "whoareyou"
        (challenge_data,) = taken(entry["inputs"], "whoareyou_challenge_data")
        assert packet.challenge_data == challenge_data == iv + header
        assert packet == WhoAreYou(nonce, *taken(decoded, "id_nonce"), decoded["enr_seq"], challenge_data)
        return
    (src_id,) = taken(decoded, "src_id")
    assert src_id == A
    if isinstance(packet, OrdinaryPacket):
        assert name == "ping"
        assert packet == OrdinaryPacket(nonce, src_id, iv + header, ciphertext)
    else:
        record = decoded["record_rlp"]
        assert packet == HandshakePacket(
            nonce,
            src_id,
            *taken(decoded, "id_signature", "ephemeral_pubkey"),
            None if record is None else bytes.fromhex(record),
            iv + header,
            ciphertext,
        )
    plaintext = decrypt_message(cipher_of(entry), nonce, packet.ciphertext, packet.associated_data)
    assert plaintext is not None and plaintext.hex() == decoded["message_plaintext"]


def test_the_ping_of_the_vectors_is_written() -> None:
    entry = PACKETS["ping"]
    (plaintext,) = taken(entry["decoded"], "message_plaintext")
    made = encode_ordinary(dest_id=B, src_id=A, iv=IV, nonce=NONCE, cipher=cipher_of(entry), plaintext=plaintext)
    assert made.hex() == entry["packet"]


def test_the_whoareyou_of_the_vectors_is_written() -> None:
    entry = PACKETS["whoareyou"]
    inputs = entry["inputs"]
    nonce, id_nonce = taken(inputs, "whoareyou_request_nonce", "whoareyou_id_nonce")
    made = make_whoareyou(iv=IV, nonce=nonce, id_nonce=id_nonce, enr_seq=inputs["whoareyou_enr_seq"])
    assert made.challenge_data.hex() == inputs["whoareyou_challenge_data"]
    assert encode_whoareyou(made, dest_id=B).hex() == entry["packet"]


@pytest.mark.parametrize("name", ["ping_handshake", "ping_handshake_with_enr"])
def test_a_handshake_of_the_vectors_is_written_and_read_with_keys_derived_here(name: str) -> None:
    entry = PACKETS[name]
    inputs, decoded = entry["inputs"], entry["decoded"]
    (challenge_data,) = taken(inputs, "whoareyou_challenge_data")
    (secret,) = taken(decoded, "shared_secret")
    keys = derive_keys(secret, challenge_data, A, B)
    assert keys == SessionKeys(*taken(decoded, "initiator_key", "recipient_key"))
    assert keys.initiator_key.hex() == inputs["read_key"]
    signature, ephemeral_key, plaintext = taken(decoded, "id_signature", "ephemeral_pubkey", "message_plaintext")
    made = encode_handshake(
        dest_id=B,
        src_id=A,
        iv=IV,
        nonce=NONCE,
        signature=signature,
        ephemeral_key=ephemeral_key,
        record=None if decoded["record_rlp"] is None else bytes.fromhex(decoded["record_rlp"]),
        cipher=session_cipher(keys.initiator_key),
        plaintext=plaintext,
    )
    assert made.hex() == entry["packet"]


def test_keys_of_the_vectors() -> None:
    given = VECTORS["primitives"]["key_derivation"]
    keys = derive_keys(*taken(given, "shared_secret", "challenge_data", "node_id_a", "node_id_b"))
    assert keys == SessionKeys(*taken(given, "initiator_key", "recipient_key"))
    assert given["initiator_key"] not in repr(keys) and "key" not in repr(keys)


def test_id_signature_of_the_vectors() -> None:
    given = VECTORS["primitives"]["id_nonce_signing"]
    fields = taken(given, "challenge_data", "ephemeral_pubkey", "node_id_b")
    assert id_signature_input(*fields) == b"discovery v5 identity proof" + b"".join(fields)
    assert id_signature_digest(*fields).hex() == given["id_signature_hash"]


def test_encryption_of_the_vectors() -> None:
    given = VECTORS["primitives"]["aes_gcm"]
    key, nonce, plaintext, associated_data, sealed = taken(
        given, "encryption_key", "nonce", "plaintext", "associated_data", "ciphertext_and_tag"
    )
    cipher = session_cipher(key)
    assert encrypt_message(cipher, nonce, plaintext, associated_data) == sealed
    assert decrypt_message(cipher, nonce, sealed, associated_data) == plaintext
    assert decrypt_message(cipher, nonce, sealed, associated_data + b"\x00") is None
    assert decrypt_message(session_cipher(bytes(16)), nonce, sealed, associated_data) is None
    for short in (b"", sealed[:15]):
        assert decrypt_message(cipher, nonce, short, associated_data) is None


@pytest.mark.parametrize("name", [name for name in REJECTS if name != "tag_flipped"])
def test_hostile_088_a_refusal_of_the_vectors(name: str) -> None:
    with pytest.raises(PacketError):
        decode_packet(REJECTS[name], B)


def test_a_flipped_tag_is_a_whole_packet_that_does_not_authenticate() -> None:
    packet = decode_packet(REJECTS["tag_flipped"], B)
    assert isinstance(packet, OrdinaryPacket) and packet.src_id == A
    cipher = cipher_of(PACKETS["ping"])
    assert decrypt_message(cipher, packet.nonce, packet.ciphertext, packet.associated_data) is None


# ---- rules, each broken by itself


def datagram(
    flag: int,
    authdata: bytes,
    message: bytes = bytes(16),
    protocol: bytes = b"discv5\x00\x01",
    size: int | None = None,
) -> bytes:
    """A packet for B, whatever its header says."""
    header = protocol + struct.pack(">B12sH", flag, NONCE, len(authdata) if size is None else size) + authdata
    return IV + wire._mask(B, IV, header) + message


def proof(sig_size: int = 64, key_size: int = 33, record: bytes = b"") -> bytes:
    return A + bytes((sig_size, key_size)) + SIGNATURE + POINT + record


@pytest.mark.parametrize(
    "raw",
    [
        datagram(0, A),
        datagram(0, A, b""),
        datagram(0, A, bytes(1209)),
        datagram(1, bytes(24), b""),
        datagram(2, proof()),
        datagram(2, proof(record=bytes(300))),
        datagram(2, proof(record=bytes(300)), bytes(810)),
    ],
    ids=len,
)
def test_what_keeps_the_rules_is_taken(raw: bytes) -> None:
    decode_packet(raw, B)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(46),
        bytes(63),
        bytes(1280),
        bytes(65_507),
        datagram(0, A, bytes(1210)),
        datagram(0, A, protocol=b"discv4\x00\x01"),
        datagram(0, A, protocol=b"discv5\x00\x00"),
        datagram(0, A, protocol=b"discv5\x01\x01"),
        datagram(3, A),
        datagram(255, A),
        datagram(0, A + b"\x00"),
        datagram(0, b""),
        datagram(0, A, size=0),
        datagram(0, A, size=65_535),
        datagram(0, A, b"", size=33),
        datagram(1, bytes(23), b"\x00"),
        datagram(1, bytes(25), b""),
        datagram(1, bytes(24), b"\x00"),
        datagram(1, bytes(24), bytes(1217)),
        datagram(1, bytes(1241), b""),
        datagram(2, proof(), bytes(15)),
        datagram(2, proof(), b""),
        datagram(2, A),
        datagram(2, proof(), size=130),
        datagram(2, proof(sig_size=63)),
        datagram(2, proof(sig_size=255)),
        datagram(2, proof(key_size=32)),
        datagram(2, proof(key_size=65)),
        datagram(2, proof(record=bytes(301))),
        datagram(2, proof(record=bytes(1000))),
        datagram(2, proof(), bytes(1000), size=900),
    ],
    ids=lambda raw: f"{len(raw)}-{raw[24:39].hex()}",
)
def test_hostile_088_a_broken_rule_is_refused(raw: bytes) -> None:
    with pytest.raises(PacketError):
        decode_packet(raw, B)


def test_a_record_left_out_is_none() -> None:
    packet = decode_packet(datagram(2, proof()), B)
    assert isinstance(packet, HandshakePacket) and packet.record is None


def test_hostile_088_an_answer_is_no_larger_than_what_asks_for_it() -> None:
    challenge = encode_whoareyou(make_whoareyou(iv=IV, nonce=NONCE, id_nonce=bytes(16), enr_seq=0), dest_id=A)
    assert len(challenge) == wire.MIN_PACKET < len(datagram(0, A, b""))


def ordinary(**changed: Any) -> bytes:
    return encode_ordinary(
        **{"dest_id": B, "src_id": A, "iv": IV, "nonce": NONCE, "cipher": CIPHER, "plaintext": b"\x01"} | changed
    )


def handshake(**changed: Any) -> bytes:
    own = {"signature": SIGNATURE, "ephemeral_key": POINT, "record": None, "cipher": CIPHER, "plaintext": b"\x01"}
    return encode_handshake(**{"dest_id": B, "src_id": A, "iv": IV, "nonce": NONCE} | own | changed)


def random_content(**changed: Any) -> bytes:
    return encode_random(**{"dest_id": B, "src_id": A, "iv": IV, "nonce": NONCE, "content": bytes(16)} | changed)


def whoareyou(dest_id: bytes = B, **changed: Any) -> bytes:
    made = make_whoareyou(**{"iv": IV, "nonce": NONCE, "id_nonce": bytes(16), "enr_seq": 0} | changed)
    return encode_whoareyou(made, dest_id=dest_id)


@pytest.mark.parametrize(
    ("encode", "changed"),
    [
        *((encode, {"dest_id": bytes(31)}) for encode in (ordinary, handshake, random_content, whoareyou)),
        *((encode, {"iv": bytes(15)}) for encode in (ordinary, handshake, random_content, whoareyou)),
        *((encode, {"nonce": bytes(16)}) for encode in (ordinary, handshake, random_content, whoareyou)),
        *((encode, {"src_id": bytes(33)}) for encode in (ordinary, handshake, random_content)),
        (ordinary, {"plaintext": bytes(wire.MAX_PLAINTEXT + 1)}),
        (handshake, {"signature": bytes(65)}),
        (handshake, {"ephemeral_key": bytes(65)}),
        (handshake, {"record": bytes(301)}),
        (handshake, {"plaintext": bytes(wire.MAX_PLAINTEXT)}),
        (random_content, {"content": bytes(15)}),
        (random_content, {"content": bytes(1210)}),
        (whoareyou, {"id_nonce": bytes(12)}),
        (whoareyou, {"enr_seq": 1 << 64}),
        (whoareyou, {"enr_seq": -1}),
    ],
)
def test_we_write_nothing_that_breaks_a_rule(encode: Any, changed: dict[str, Any]) -> None:
    encode()
    with pytest.raises(LocalProtocolError):
        encode(**changed)


def test_keys_nonces_and_points_have_one_size() -> None:
    for wrong in (
        lambda: session_cipher(bytes(32)),
        lambda: encrypt_message(CIPHER, bytes(16), b"", b""),
        lambda: decrypt_message(CIPHER, bytes(16), bytes(16), b""),
        lambda: derive_keys(bytes(32), b"", A, B),
        lambda: derive_keys(POINT, b"", A[1:], B),
        lambda: derive_keys(POINT, b"", A, B[1:]),
        lambda: id_signature_digest(b"", bytes(65), B),
        lambda: id_signature_digest(b"", POINT, B[1:]),
    ):
        with pytest.raises(LocalProtocolError):
            wrong()


# ---- whatever comes

ids = st.binary(min_size=32, max_size=32)
ivs = st.binary(min_size=16, max_size=16)
nonces = st.binary(min_size=12, max_size=12)
WHOLE = [bytes.fromhex(entry["packet"]) for entry in PACKETS.values()]


def check(packet: Packet) -> None:
    """What every decoded packet keeps, so that later steps need not look."""
    assert len(packet.nonce) == 12
    if isinstance(packet, WhoAreYou):
        assert len(packet.id_nonce) == 16 and len(packet.challenge_data) == 63
        return
    assert len(packet.src_id) == 32
    assert decrypt_message(CIPHER, packet.nonce, packet.ciphertext, packet.associated_data) is None
    if isinstance(packet, HandshakePacket):
        assert len(packet.signature) == 64 and len(packet.ephemeral_key) == 33
        assert packet.record is None or 0 < len(packet.record) <= 300


@given(st.binary(max_size=1400), ids)
def test_hostile_088_random_bytes_are_refused(raw: bytes, local_id: bytes) -> None:
    with pytest.raises(PacketError):
        decode_packet(raw, local_id)


@given(
    st.integers(0, 4),
    st.one_of(st.binary(max_size=500), st.builds(proof, record=st.binary(max_size=320))),
    st.binary(max_size=100),
    st.one_of(st.none(), st.integers(0, 65_535)),
)
def test_hostile_088_whatever_the_header_says(flag: int, authdata: bytes, message: bytes, size: int | None) -> None:
    with suppress(PacketError):
        check(decode_packet(datagram(flag, authdata, message, size=size), B))


@given(st.sampled_from(WHOLE), st.integers(0, 400), st.binary(min_size=1, max_size=4), st.integers(0, 3))
def test_hostile_088_mutated_packets(raw: bytes, at: int, by: bytes, how: int) -> None:
    at %= len(raw)
    match how:
        case 0:
            mutated = raw[:at] + by + raw[at + len(by) :]
        case 1:
            mutated = raw[:at] + by + raw[at:]
        case 2:
            mutated = raw[:at]
        case _:
            mutated = raw + by * 100
    if mutated == raw or mutated == WHOLE[0]:
        return
    with suppress(PacketError):
        check(decode_packet(mutated, B))


@given(ids, ids, ivs, nonces, st.binary(min_size=16, max_size=16), st.binary(max_size=wire.MAX_PLAINTEXT))
def test_an_ordinary_packet_comes_back(
    dest: bytes, src: bytes, iv: bytes, nonce: bytes, key: bytes, plaintext: bytes
) -> None:
    cipher = session_cipher(key)
    raw = encode_ordinary(dest_id=dest, src_id=src, iv=iv, nonce=nonce, cipher=cipher, plaintext=plaintext)
    packet = decode_packet(raw, dest)
    assert isinstance(packet, OrdinaryPacket) and (packet.nonce, packet.src_id) == (nonce, src)
    assert decrypt_message(cipher, nonce, packet.ciphertext, packet.associated_data) == plaintext


@given(ids, ids, ivs, nonces, st.binary(min_size=16, max_size=1209))
def test_random_content_comes_back(dest: bytes, src: bytes, iv: bytes, nonce: bytes, content: bytes) -> None:
    packet = decode_packet(encode_random(dest_id=dest, src_id=src, iv=iv, nonce=nonce, content=content), dest)
    assert isinstance(packet, OrdinaryPacket)
    assert (packet.nonce, packet.src_id, packet.ciphertext) == (nonce, src, content)


@given(ids, ivs, nonces, ivs, st.integers(0, (1 << 64) - 1))
def test_a_challenge_comes_back(dest: bytes, iv: bytes, nonce: bytes, id_nonce: bytes, enr_seq: int) -> None:
    challenge = make_whoareyou(iv=iv, nonce=nonce, id_nonce=id_nonce, enr_seq=enr_seq)
    assert decode_packet(encode_whoareyou(challenge, dest_id=dest), dest) == challenge


@given(ids, ids, ivs, nonces, st.binary(max_size=300), st.binary(max_size=700))
def test_a_handshake_comes_back(
    dest: bytes, src: bytes, iv: bytes, nonce: bytes, record: bytes, plaintext: bytes
) -> None:
    raw = handshake(dest_id=dest, src_id=src, iv=iv, nonce=nonce, record=record, plaintext=plaintext)
    packet = decode_packet(raw, dest)
    assert isinstance(packet, HandshakePacket)
    assert (packet.nonce, packet.src_id, packet.record) == (nonce, src, record or None)
    assert (packet.signature, packet.ephemeral_key) == (SIGNATURE, POINT)
    assert decrypt_message(CIPHER, nonce, packet.ciphertext, packet.associated_data) == plaintext
