"""Signed envelopes and peer records."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from pyp2p.errors import InvalidMultiaddr, LocalProtocolError, RecordError
from pyp2p.io import varint
from pyp2p.peer.address import parse_multiaddr, text
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.peer.publickey import key_protobuf
from pyp2p.peer.record import DOMAIN, MAX_ENVELOPE, PAYLOAD_TYPE, Envelope, PeerRecord, open_record, seal, signed_bytes
from tests.vectors import load

RECORDS = {case["name"]: case for case in load("signed_envelope")["records"]}
SIGNED = [name for name, case in RECORDS.items() if "domain" in case]


def identity_of(case) -> Identity:
    private = bytes.fromhex(case["private_key"])
    if case["key_type"] == "secp256k1":
        return Identity(KeyType.SECP256K1, private)
    return Identity.generate(entropy=lambda n: private)


def someone(seed: int, key_type: KeyType = KeyType.ED25519) -> Identity:
    return Identity.generate(key_type, entropy=lambda n: hashlib.sha512(b"%d" % seed).digest()[:n])


ME, OTHER = someone(1), someone(2)
ADDRESS = parse_multiaddr("/ip4/192.0.2.1/tcp/9000")


def forged(payload: bytes, payload_type: bytes = PAYLOAD_TYPE, domain: str = DOMAIN, signer: Identity = ME) -> bytes:
    return Envelope.seal(signer, domain, payload_type, payload).encode()


@pytest.mark.parametrize("name", SIGNED)
def test_vectors_in_their_domain(name):
    case = RECORDS[name]
    raw = bytes.fromhex(case["envelope"])
    envelope = Envelope.open(raw, case["domain"])
    assert envelope.public_key.to_protobuf().hex() == case["public_key_protobuf"]
    assert envelope.payload_type.hex() == case["payload_type"]
    assert envelope.payload.hex() == case["payload"]
    assert envelope.signature.hex() == case["signature"]
    assert signed_bytes(case["domain"], envelope.payload_type, envelope.payload).hex() == case["signed_bytes"]
    assert envelope.encode() == raw
    again = Envelope.seal(identity_of(case), case["domain"], envelope.payload_type, envelope.payload)
    assert again == envelope


@pytest.mark.parametrize("name", SIGNED)
def test_only_the_deployed_domain_holds_records(name):
    case = RECORDS[name]
    raw = bytes.fromhex(case["envelope"])
    if case["domain"] != DOMAIN:
        with pytest.raises(RecordError):
            open_record(raw)
        return
    record = open_record(raw)
    assert str(record.peer) == case["peer_id"] and record.seq == int(case["seq"])
    assert [address.to_bytes().hex() for address in record.addresses] == case["addresses"]
    assert seal(identity_of(case), record) == raw


@pytest.mark.hostile
@pytest.mark.parametrize("name", [name for name, case in RECORDS.items() if not case["valid"]])
def test_hostile_051_refused(name):
    with pytest.raises(RecordError):
        open_record(bytes.fromhex(RECORDS[name]["envelope"]))


def test_a_bad_address_is_left_out():
    case = RECORDS["bad_multiaddr_skipped"]
    record = open_record(bytes.fromhex(case["envelope"]))
    assert record.seq == int(case["seq"]) and record.addresses == ()


@pytest.mark.parametrize("key_type", KeyType)
def test_round_trip_with_every_kind_of_key(key_type):
    me = someone(3, key_type)
    record = PeerRecord(me.peer, 7, (ADDRESS, parse_multiaddr("/dns/example.com/tcp/443/wss")))
    assert open_record(seal(me, record)) == record


@pytest.mark.hostile
@pytest.mark.parametrize("seq", [0, 1, (1 << 63), (1 << 64) - 1])
def test_hostile_053_sequence_numbers_of_64_bits_and_no_addresses(seq):
    record = PeerRecord(ME.peer, seq, ())
    assert open_record(seal(ME, record)) == record


@pytest.mark.parametrize("seq", [-1, 1 << 64])
def test_a_sequence_number_that_does_not_fit(seq):
    with pytest.raises(LocalProtocolError):
        seal(ME, PeerRecord(ME.peer, seq, ()))


def test_what_we_do_not_sign():
    with pytest.raises(LocalProtocolError):
        seal(ME, PeerRecord(OTHER.peer, 1, ()))
    with pytest.raises(InvalidMultiaddr):
        seal(ME, PeerRecord(ME.peer, 1, (Multiaddr(b"\x04\x01"),)))
    with pytest.raises(LocalProtocolError):
        seal(ME, PeerRecord(ME.peer, 1, (parse_multiaddr("/unix/" + "a" * 900),) * 10))
    with pytest.raises(LocalProtocolError):
        Envelope.seal(ME, "", PAYLOAD_TYPE, b"")
    with pytest.raises(LocalProtocolError):
        Envelope.seal(ME, DOMAIN, b"", b"")


def payload(peer: bytes, seq: int = 1, addresses: tuple[bytes, ...] = ()) -> bytes:
    out = b"\x0a" + varint.prefixed(peer) + b"\x10" + varint.encode(seq)
    for address in addresses:
        out += b"\x1a" + varint.prefixed(b"\x0a" + varint.prefixed(address))
    return out


@pytest.mark.hostile
@pytest.mark.parametrize(
    "envelope",
    {
        "about_another_peer": forged(payload(OTHER.peer.raw)),
        "about_nobody": forged(payload(b"")),
        "id_with_trailing": forged(payload(ME.peer.raw + b"\0")),
        "other_domain": forged(payload(ME.peer.raw), domain="libp2p-routing-state"),
        "other_type": forged(payload(ME.peer.raw), payload_type=b"\x03\x02"),
        "payload_no_protobuf": forged(b"\xff\xff\xff"),
        "no_protobuf": b"\xff\xff\xff",
        "empty": b"",
        "oversized": forged(payload(ME.peer.raw)) + b"\x7a" + varint.prefixed(bytes(MAX_ENVELOPE)),
    }.items(),
    ids=lambda item: item[0],
)
def test_hostile_051_signed_and_still_wrong(envelope):
    with pytest.raises(RecordError):
        open_record(envelope[1])


@pytest.mark.hostile
def test_hostile_051_another_key_beside_the_signature():
    good = forged(payload(ME.peer.raw))
    key = ME.public_key.to_protobuf()
    assert key in good
    with pytest.raises(RecordError):
        open_record(good.replace(key, OTHER.public_key.to_protobuf()))
    with pytest.raises(RecordError):
        open_record(good.replace(key, key_protobuf(KeyType.RSA, ME.public_key.data)))


def test_addresses_beyond_the_bound_and_doubles_are_left_out():
    many = tuple(b"\x04\xc0\x00\x02\x01\x06" + port.to_bytes(2, "big") for port in range(1, 101))
    record = open_record(forged(payload(ME.peer.raw, addresses=(many[0], *many))))
    assert [text(address) for address in record.addresses] == [f"/ip4/192.0.2.1/tcp/{port}" for port in range(1, 64)]


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_changed_byte_passes_for_another_record(at, change):
    good = RECORDS["ed25519_deployed"]["envelope"]
    raw = bytearray.fromhex(good)
    raw[at % len(raw)] ^= change
    try:
        record = open_record(bytes(raw))
    except RecordError:
        return
    assert record == open_record(bytes.fromhex(good))


@given(st.binary(max_size=100))
def test_opening_raises_nothing_else(raw):
    with pytest.raises(RecordError):
        open_record(raw)


@given(st.binary(max_size=100))
def test_signed_payloads_raise_nothing_else(raw):
    with pytest.raises(RecordError):
        open_record(forged(raw))
