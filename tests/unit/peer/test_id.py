"""Peer ids in every form."""

import base64
import contextlib

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import InvalidKey, InvalidPeerId
from pyp2p.peer import multibase
from pyp2p.peer.id import PeerId
from pyp2p.peer.publickey import PublicKey
from tests.vectors import load

VECTORS = load("peer_ids")
ED = bytes.fromhex(VECTORS["keys"][0]["peer_id_bytes"])
RAWS = st.one_of(
    st.binary(min_size=32, max_size=32).map(lambda digest: b"\x12\x20" + digest),
    st.binary(min_size=32, max_size=32).map(lambda key: b"\x00\x24\x08\x01\x12\x20" + key),
    st.binary(min_size=33, max_size=33).map(lambda key: b"\x00\x25\x08\x02\x12\x21" + key),
)
BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
HEX32 = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789ABCDEFGHIJKLMNOPQRSTUV")


def base36(data: bytes) -> str:
    value, digits = int.from_bytes(data, "big"), ""
    while value:
        value, digit = divmod(value, 36)
        digits = BASE36[digit] + digits
    return "0" * (len(data) - len(data.lstrip(b"\0"))) + digits


FORMS = {
    "base16": lambda raw: "f" + raw.hex(),
    "base16_upper": lambda raw: "F" + raw.hex().upper(),
    "base32": lambda raw: "b" + base64.b32encode(raw).decode().rstrip("=").lower(),
    "base32_upper": lambda raw: "B" + base64.b32encode(raw).decode().rstrip("="),
    "base32_padded": lambda raw: "c" + base64.b32encode(raw).decode().lower(),
    "base32_hex": lambda raw: "v" + base64.b32encode(raw).rstrip(b"=").translate(HEX32).decode().lower(),
    "base32_hex_upper": lambda raw: "V" + base64.b32encode(raw).rstrip(b"=").translate(HEX32).decode(),
    "base36": lambda raw: "k" + base36(raw),
    "base36_upper": lambda raw: "K" + base36(raw).upper(),
    "base58": lambda raw: "z" + base58.b58encode(raw).decode(),
    "base64": lambda raw: "m" + base64.b64encode(raw).decode().rstrip("="),
    "base64_padded": lambda raw: "M" + base64.b64encode(raw).decode(),
    "base64_url": lambda raw: "u" + base64.urlsafe_b64encode(raw).decode().rstrip("="),
    "base64_url_padded": lambda raw: "U" + base64.urlsafe_b64encode(raw).decode(),
}


@pytest.mark.parametrize("case", VECTORS["texts"], ids=lambda case: case["text"])
def test_texts(case):
    peer = PeerId.parse(case["text"])
    assert peer.raw.hex() == case["peer_id_bytes"]
    assert str(peer) == case["base58"]
    assert peer.to_cid() == case["cid_base32"]
    assert PeerId.from_bytes(peer.raw) == peer


@pytest.mark.parametrize("case", VECTORS["invalid_texts"], ids=lambda case: case["text"] or "empty")
def test_invalid_texts(case):
    with pytest.raises(InvalidPeerId):
        PeerId.parse(case["text"])


@pytest.mark.parametrize("form", FORMS)
@given(raw=RAWS)
def test_every_multibase_form(form, raw):
    text = FORMS[form](b"\x01\x72" + raw)
    assert PeerId.parse(text).raw == raw


@given(RAWS)
def test_round_trip(raw):
    peer = PeerId.from_bytes(raw)
    assert PeerId.parse(str(peer)) == peer == PeerId.parse(peer.to_cid())


@given(RAWS, RAWS)
def test_a_value_ordered_by_its_bytes(one, two):
    a, b = PeerId.from_bytes(one), PeerId.from_bytes(bytearray(two))
    assert (a == b) == (one == two) and (a < b) == (one < two) and (a >= b) == (one >= two)
    assert a == PeerId(one) and hash(a) == hash(PeerId(one))
    assert a != one


def test_short_forms_for_logs():
    peer = PeerId.from_bytes(ED)
    assert peer.short() == "*o7R3pq"
    assert repr(peer) == "<PeerId *o7R3pq>"


@pytest.mark.parametrize("case", VECTORS["keys"], ids=lambda case: case["type"])
def test_the_key_inside(case):
    key = PublicKey.from_protobuf(bytes.fromhex(case["public_key_protobuf"]))
    inside = PeerId.from_key(key).public_key()
    assert inside == (key if case["hashing"] == "identity" else None)


def test_a_key_inside_that_is_no_point():
    with pytest.raises(InvalidKey):
        PeerId.from_bytes(b"\x00\x25\x08\x02\x12\x21\x02" + b"\xff" * 32).public_key()


@pytest.mark.hostile
@pytest.mark.parametrize(
    "text",
    [
        *("1" * 100_000, "z" * 100_000, "Qm" + "1" * 127, "k" + "0" * 128, "b" + "a" * 10_000_000),
        *(" " + str(PeerId(ED)), str(PeerId(ED)) + " ", str(PeerId(ED)) + "\n", "12D3Koo\u00e9", "Qm\U0001f600"),
        *("k-1", "k1_000", "f01 72", "f0172\u0661", "mAXI=", "b=", "vz", "c", "x123", "\0", "1", "z", "zI"),
    ],
    ids=range(23),
)
def test_hostile_055_texts(text):
    with pytest.raises(InvalidPeerId) as caught:
        PeerId.parse(text)
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


@pytest.mark.hostile
@pytest.mark.parametrize("start", ["1", "Qm", "z", "12D3Koo"])
def test_hostile_055_long_texts_never_reach_the_library(start, monkeypatch):
    asked: list[int] = []
    decode = base58.b58decode
    monkeypatch.setattr(base58, "b58decode", lambda text: asked.append(len(text)) or decode(text))
    for length in (128, 129, 1_000, 100_000):
        with pytest.raises(InvalidPeerId):
            PeerId.parse(start + "1" * (length - len(start)))
    assert all(length <= 128 for length in asked) and len(asked) == 1
    for base in "zk":
        with pytest.raises(ValueError):
            multibase.decode(base + "1" * 129)
    assert len(asked) == 1


@pytest.mark.hostile
@pytest.mark.parametrize(
    "raw",
    {
        "identity_43": b"\x00\x2b" + b"\x08\x01\x12\x27" + bytes(39),
        "identity_of_noise": b"\x00\x24" + bytes(36),
        "identity_empty": b"\x00\x00",
        "fields_swapped": b"\x00\x24\x12\x20" + ED[6:] + b"\x08\x01",
        "key_length_wrong": ED[:5] + b"\x1f" + ED[6:],
        "cut": ED[:-1],
        "trailing": ED + b"\0",
        "sha256_31": b"\x12\x1f" + bytes(31),
        "sha256_says_32_has_31": b"\x12\x20" + bytes(31),
        "sha256_33": b"\x12\x20" + bytes(33),
        "sha512": b"\x13\x40" + bytes(64),
        "sha1": b"\x11\x14" + bytes(20),
        "rsa_inline": b"\x00\x24\x08\x00\x12\x20" + bytes(32),
        "empty": b"",
        "one": b"\x12",
    }.items(),
    ids=lambda item: item[0],
)
def test_hostile_056_bytes(raw):
    _, data = raw
    with pytest.raises(InvalidPeerId):
        PeerId.from_bytes(data)
    for codec in (b"\x01\x72", b"\x01\x70", b"\x02\x72", b""):
        with pytest.raises(InvalidPeerId):
            PeerId.parse("f" + (codec + data).hex())


@given(st.text(max_size=140))
def test_parse_raises_nothing_else(text):
    try:
        peer = PeerId.parse(text)
    except InvalidPeerId:
        return
    assert PeerId.from_bytes(peer.raw) == peer


@given(st.sampled_from("fFbBcCvVkKzmMuU01Qx"), st.text("0123456789abcdefghijklmnopqrstuvwxyzABCXYZ=+/-_ ", max_size=90))
def test_multibase_raises_nothing_but_value_errors(base, digits):
    with contextlib.suppress(ValueError):
        multibase.decode(base + digits)
