"""Node records: the published ones, refusals by rule, signing, and what the entries say."""

import base64
import importlib.util
import sys
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyp2p.discv5 import enr as enr_module
from pyp2p.discv5 import keccak, rlp
from pyp2p.discv5.enr import MAX_BYTES, MAX_TEXT, Enr, bits, node_id
from pyp2p.discv5.node import Endpoint, endpoints
from pyp2p.errors import InvalidEnr, InvalidKey, LocalProtocolError
from pyp2p.peer import secp256k1
from pyp2p.peer.address import ip_of
from pyp2p.peer.address import text as address_text
from pyp2p.peer.keys import Identity, KeyType
from tests.vectors import load

VALID = {case["name"]: case for case in load("enr")["valid"]}
INVALID = {case["name"]: case for case in load("enr")["invalid"]}
BOOTNODES = load("enr_bootnodes_mainnet")["records"]
EXAMPLE = VALID["eip778_example"]
ME = Identity(KeyType.SECP256K1, bytes.fromhex(EXAMPLE["private_key"]))
OTHER = Identity(KeyType.SECP256K1, b"\7" * 32)

# A word of the rule that refuses each: without it, one refused for another reason than its own would go unnoticed.
RULES = {
    "over_300_bytes": "limit",
    "seq_leading_zero": "leading zero",
    "tcp_port_0_leading_zero": "leading zero",
    "tcp_port_30_leading_zero": "leading zero",
    "tcp_port_255_leading_zero": "leading zero",
    "text_padded": "base64url",
    "text_trailing_bits": "spare bits",
    "text_standard_alphabet": "base64url",
    "text_no_prefix": "begin",
    "text_empty": "empty",
    "signature_bit_flipped": "does not verify",
    "content_changed": "does not verify",
    "keys_unsorted": "sorted",
    "keys_duplicate": "twice",
    "key_without_value": "pairs",
    "id_missing": "no identity scheme",
    "id_unknown": "not v4",
    "public_key_missing": "no public key",
    "public_key_not_on_curve": "point of the curve",
    "signature_63_bytes": "64 bytes",
    "seq_over_64_bits": "64 bits",
    "not_a_list": "list",
    "trailing_bytes": "follow",
    "length_prefix_short": "runs over its end",
    "non_canonical_rlp": "leading zero",
}


@pytest.fixture(params=[secp256k1.Cryptography, secp256k1.Coincurve], ids=["cryptography", "coincurve"])
def _either_library(request, monkeypatch):
    if request.param is secp256k1.Coincurve and secp256k1.coincurve is None:
        pytest.skip("coincurve is not installed")
    for name in ("sign_digest", "verify_digest", "coordinates", "is_point", "public"):
        monkeypatch.setattr(secp256k1, name, getattr(request.param, name))
    enr_module._verified.cache_clear()


def text_of(raw: bytes) -> str:
    return "enr:" + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def forged(*items, signer: Identity = ME, signature: bytes | None = None) -> bytes:
    """Signed whatever it holds."""
    good = secp256k1.sign_digest(signer.scalar, keccak.keccak256(rlp.encode(items)))
    return rlp.encode([good if signature is None else signature, *items])


def about_me(*pairs) -> bytes:
    return forged(b"\1", b"id", b"v4", b"secp256k1", ME.public_key.data, *pairs)


def plain(item):
    return item.hex() if isinstance(item, bytes) else [plain(one) for one in item]


def said(record: Enr) -> dict:
    """The entries in the way the vectors write them."""
    out = {}
    for key, value in record.pairs.items():
        name = key.decode()
        if name in ("id",):
            out[name] = value.decode()
        elif name in ("ip", "ip6"):
            out[name] = str(getattr(record, name))
        elif name in ("tcp", "tcp6", "udp", "udp6", "quic", "quic6", "cgc"):
            out[name] = getattr(record, name)
        elif name == "eth2":
            raw = record.eth2
            assert raw == value
            out[name] = {
                "raw": raw.hex(),
                "fork_digest": raw[:4].hex(),
                "next_fork_version": raw[4:8].hex(),
                "next_fork_epoch": int.from_bytes(raw[8:], "little"),
            }
        elif name in ("attnets", "syncnets", "nfd"):
            out[name] = getattr(record, name).hex()
        else:
            out[name] = plain(value)
    return out


def wanted(pairs: dict) -> dict:
    return {
        key: value["rlp_list"] if isinstance(value, dict) and "rlp_list" in value else value
        for key, value in pairs.items()
    }


@pytest.mark.usefixtures("_either_library")
@pytest.mark.parametrize(
    "case", [*VALID.values(), *BOOTNODES], ids=[*VALID, *(f"bootnode{n}" for n in range(len(BOOTNODES)))]
)
def test_valid(case):
    record = Enr.from_text(case["text"])
    assert record.raw.hex() == case["rlp"] and len(record.raw) == case["size"]
    assert record.text == str(record) == case["text"]
    assert record.seq == case["seq"]
    assert record.node_id.hex() == case["node_id"]
    assert record.public_key.hex() == case["public_key"]
    assert str(record.peer_id) == case["peer_id"]
    assert said(record) == wanted(case["pairs"])
    assert list(record.pairs) == sorted(record.pairs)
    assert rlp.decode(record.raw)[0].hex() == case["signature"]
    again = Enr.from_rlp(record.raw)
    assert again == record and hash(again) == hash(record)
    assert case["node_id"][:8] in repr(record)


def test_the_vectors_are_all_named():
    assert INVALID.keys() == RULES.keys()


@pytest.mark.hostile
@pytest.mark.usefixtures("_either_library")
@pytest.mark.parametrize("name", INVALID)
def test_hostile_088_invalid(name):
    with pytest.raises(InvalidEnr) as caught:
        Enr.from_text(INVALID[name]["text"])
    assert RULES[name] in str(caught.value)


@pytest.mark.usefixtures("_either_library")
def test_signing_gives_the_published_bytes():
    record = Enr.sign(ME, 1, {"udp": 30303, "ip": IPv4Address("127.0.0.1")})
    assert record.text == EXAMPLE["text"]
    every = VALID["beacon_node_all_entries"]
    assert Enr.sign(ME, 7, Enr.from_text(every["text"]).pairs).text == every["text"]


def test_records_are_compared_by_their_bytes():
    one, other = Enr.from_text(EXAMPLE["text"]), Enr.from_text(VALID["other_nonce_same_content"]["text"])
    assert one.pairs == other.pairs and one != other
    with pytest.raises(TypeError):
        one.pairs[b"ip"] = b""
    with pytest.raises(AttributeError):
        one.seq = 2


def test_the_node_id_of_a_key():
    wire = load("discv5_wire")["keys"]
    for node in wire.values():
        assert node_id(bytes.fromhex(node["public_key"])).hex() == node["node_id"]
    with pytest.raises(InvalidKey):
        node_id(b"\2" + b"\xff" * 32)


# Hostile records: signed by their owner, and still wrong.

SIGNED_AND_WRONG = {
    "nothing_but_signature": rlp.encode([bytes(64)]),
    "no_items": rlp.encode([]),
    "signature_is_a_list": rlp.encode([[bytes(64)], b"\1", b"id", b"v4", b"secp256k1", ME.public_key.data]),
    "seq_is_a_list": forged([], b"id", b"v4", b"secp256k1", ME.public_key.data),
    "key_is_a_list": about_me([b"t"], b""),
    "id_is_a_list": forged(b"\1", b"id", [b"v4"], b"secp256k1", ME.public_key.data),
    "id_v5_without_key": forged(b"\1", b"id", b"v5"),
    "public_key_is_a_list": forged(b"\1", b"id", b"v4", b"secp256k1", [ME.public_key.data]),
    "public_key_uncompressed": forged(
        b"\1", b"id", b"v4", b"secp256k1", b"\4" + secp256k1.coordinates(ME.public_key.data)
    ),
    "public_key_of_another": forged(b"\1", b"id", b"v4", b"secp256k1", OTHER.public_key.data),
    "ip_of_3_bytes": forged(b"\1", b"id", b"v4", b"ip", bytes(3), b"secp256k1", ME.public_key.data),
    "ip_of_16_bytes": forged(b"\1", b"id", b"v4", b"ip", bytes(16), b"secp256k1", ME.public_key.data),
    "ip6_of_4_bytes": forged(b"\1", b"id", b"v4", b"ip6", bytes(4), b"secp256k1", ME.public_key.data),
    "ip_is_a_list": forged(b"\1", b"id", b"v4", b"ip", [bytes(4)], b"secp256k1", ME.public_key.data),
    "udp_of_3_bytes": about_me(b"udp", b"\1\0\0"),
    "udp6_is_a_list": about_me(b"udp6", [b"\1"]),
    "tcp6_leading_zero": about_me(b"tcp6", b"\0\1"),
    "empty_key_twice": forged(b"\1", b"", b"", b"", b"", b"id", b"v4", b"secp256k1", ME.public_key.data),
    "301_bytes": about_me(b"z", bytes(178)),
    # As long as the string of 15 bytes that it replaces; refused before anybody looks at the signature.
    "deep": about_me(b"z", b"x" * 15).replace(b"\x8f" + b"x" * 15, bytes(range(0xCF, 0xBF, -1))),
}


@pytest.mark.hostile
@pytest.mark.usefixtures("_either_library")
@pytest.mark.parametrize("raw", SIGNED_AND_WRONG.values(), ids=SIGNED_AND_WRONG)
def test_hostile_088_signed_and_still_wrong(raw):
    for parse, source in ((Enr.from_rlp, raw), (Enr.from_text, text_of(raw))):
        with pytest.raises(InvalidEnr):
            parse(source)


@pytest.mark.hostile
@pytest.mark.usefixtures("_either_library")
def test_hostile_088_a_high_s_makes_no_second_record():
    signature, *content = rlp.decode(bytes.fromhex(EXAMPLE["rlp"]))
    high = secp256k1.ORDER - int.from_bytes(signature[32:], "big")
    with pytest.raises(InvalidEnr):
        Enr.from_rlp(forged(*content, signature=signature[:32] + high.to_bytes(32, "big")))


@pytest.mark.hostile
@pytest.mark.parametrize("size", [MAX_TEXT - 4, MAX_TEXT - 3, 1 << 20])
def test_hostile_088_size_is_bounded_before_anything_is_read(size):
    with pytest.raises(InvalidEnr):
        Enr.from_text("enr:" + "A" * size)
    with pytest.raises(InvalidEnr):
        Enr.from_rlp(b"\xc0" * size)
    assert len(VALID["exactly_300_bytes"]["rlp"]) == 2 * MAX_BYTES
    assert len(VALID["exactly_300_bytes"]["text"]) == MAX_TEXT


@pytest.mark.hostile
@pytest.mark.parametrize(
    "raw",
    [
        about_me(b"\x1b[2J", b"", b"\x1b[2J", b""),
        about_me(b"\xff\n", b"", b"\x1b[2J", b""),
        forged(b"\1", b"id", b"\x1b[2J\n", b"secp256k1", ME.public_key.data),
    ],
)
def test_hostile_088_what_others_wrote_is_escaped(raw):
    for parse, source in ((Enr.from_rlp, raw), (Enr.from_text, "enr:\x1b[2J\n"), (Enr.from_text, "\x1b[2J\n")):
        with pytest.raises(InvalidEnr) as caught:
            parse(source)
        assert str(caught.value).isprintable() and str(caught.value).isascii()


@pytest.mark.parametrize(
    "text", ["", "enr", "ENR:-IS4", "enr:A", "enr: " + EXAMPLE["text"][4:], EXAMPLE["text"] + "\n", "enr:é"]
)
def test_texts_that_are_none(text):
    with pytest.raises(InvalidEnr):
        Enr.from_text(text)


@given(st.one_of(st.binary(max_size=320), st.binary(max_size=120).map(lambda raw: rlp.encode([bytes(64), raw]))))
def test_random_bytes_raise_nothing_else(raw):
    for parse, source in ((Enr.from_rlp, raw), (Enr.from_text, text_of(raw)), (Enr.from_text, raw.decode("latin-1"))):
        with pytest.raises(InvalidEnr):
            parse(source)


@given(st.lists(st.one_of(st.binary(max_size=40), st.lists(st.binary(max_size=5), max_size=3)), max_size=6))
def test_signed_content_raises_nothing_else(content):
    with pytest.raises(InvalidEnr):
        Enr.from_rlp(forged(*content))


@pytest.mark.parametrize("name", ["eip778_example", "list_value_eth_entry"])
def test_each_changed_byte_is_refused(name):
    good = bytes.fromhex(VALID[name]["rlp"])
    for at in range(len(good)):
        for change in (0x01, 0x80, 0xFF):
            with pytest.raises(InvalidEnr):
                Enr.from_rlp(good[:at] + bytes((good[at] ^ change,)) + good[at + 1 :])


@given(st.sampled_from(sorted(VALID)), st.integers(0, MAX_BYTES - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(name, at, change):
    raw = bytearray.fromhex(VALID[name]["rlp"])
    raw[at % len(raw)] ^= change
    with pytest.raises(InvalidEnr):
        Enr.from_rlp(bytes(raw))


@given(st.integers(4, len(EXAMPLE["text"]) - 1), st.sampled_from("AZaz09-_"))
def test_any_changed_character_is_refused(at, character):
    text = EXAMPLE["text"]
    if text[at] == character:
        return
    with pytest.raises(InvalidEnr):
        Enr.from_text(text[:at] + character + text[at + 1 :])


def test_each_cut_is_refused():
    raw, text = bytes.fromhex(EXAMPLE["rlp"]), EXAMPLE["text"]
    for end in range(len(raw)):
        with pytest.raises(InvalidEnr):
            Enr.from_rlp(raw[:end])
    for end in range(len(text)):
        with pytest.raises(InvalidEnr):
            Enr.from_text(text[:end])


# Signing.

PORT = st.integers(1, 65535)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "ip": st.ip_addresses(v=4),
        "ip6": st.ip_addresses(v=6),
        **dict.fromkeys(("tcp", "tcp6", "udp", "udp6", "quic", "quic6"), PORT),
        "eth2": st.binary(min_size=16, max_size=16),
        "attnets": st.binary(min_size=8, max_size=8),
        "syncnets": st.binary(min_size=1, max_size=1),
        "cgc": st.integers(0, 2**64 - 1),
        "nfd": st.binary(min_size=4, max_size=4),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, secp256k1.ORDER - 1), st.integers(0, 2**64 - 2), ENTRIES, st.binary(max_size=9))
def test_what_is_signed_is_read_again(scalar, seq, entries, foreign):
    identity = Identity(KeyType.SECP256K1, scalar.to_bytes(32, "big"))
    record = Enr.sign(identity, seq, {**entries, "zz": [foreign, [foreign]]})
    enr_module._verified.cache_clear()
    again = Enr.from_text(record.text)
    assert again == record and again.seq == seq
    assert again.public_key == identity.public_key.data and again.peer_id == identity.peer
    for name, value in entries.items():
        assert getattr(again, name) == value
    assert all(
        getattr(again, name) is None for name in ("ip", "ip6", "udp", "eth2", "cgc", "nfd") if name not in entries
    )
    assert again.pairs[b"zz"] == (foreign, (foreign,))
    updated = again.update(identity, udp=9, ip=None)
    assert (updated.seq, updated.udp, updated.ip) == (seq + 1, 9, None)
    assert {**again.pairs, b"udp": b"\x09", b"ip": None} == {**updated.pairs, b"ip": None}


def test_an_update_keeps_what_it_does_not_name():
    record = Enr.from_rlp(about_me(b"udp", b"\x09", b"\xffunknown", [b"\0", []]))
    updated = record.update(ME, udp=None, tcp=9000)
    assert updated.seq == 2 and updated.udp is None and updated.tcp == 9000
    assert updated.pairs[b"\xffunknown"] == (b"\0", ())
    assert record.update(ME).pairs == record.pairs
    assert record.update(ME, missing=None).pairs == record.pairs


UNSIGNED = {
    "seq_negative": (-1, {}),
    "seq_over_64_bits": (1 << 64, {}),
    "port_0": (1, {"udp": 0}),
    "port_65536": (1, {"tcp": 65536}),
    "port_negative": (1, {"tcp": -1}),
    "ip_is_ip6": (1, {"ip": IPv6Address("::1")}),
    "ip6_is_ip": (1, {"ip6": IPv4Address("1.2.3.4")}),
    "eth2_short": (1, {"eth2": bytes(15)}),
    "attnets_list": (1, {"attnets": [bytes(8)]}),
    "syncnets_long": (1, {"syncnets": bytes(2)}),
    "nfd_empty": (1, {"nfd": b""}),
    "cgc_over_64_bits": (1, {"cgc": 1 << 64}),
    "cgc_leading_zero": (1, {"cgc": b"\0\4"}),
    "other_scheme": (1, {"id": b"v5"}),
    "other_key": (1, {"secp256k1": OTHER.public_key.data}),
    "key_not_ascii": (1, {"é": b""}),
    "text": (1, {"z": "text"}),
    "port_text": (1, {"udp": "99"}),
    "list_of_texts": (1, {"client": ["a", "b"]}),
    "dict": (1, {"z": {}}),
    "float": (1, {"z": 1.5}),
    "too_large": (1, {"z": bytes(300)}),
    "too_deep": (1, {"z": rlp.decode(bytes.fromhex("cfcecdcccbcac9c8c7c6c5c4c3c2c1c0"))}),
}


@pytest.mark.parametrize(("seq", "entries"), UNSIGNED.values(), ids=UNSIGNED)
def test_what_we_do_not_sign(seq, entries):
    with pytest.raises(LocalProtocolError):
        Enr.sign(ME, seq, entries)


@pytest.mark.parametrize(("entry", "kind"), [("udp", "99"), ("client", ["a"]), ("z", {})], ids=repr)
def test_an_entry_of_a_wrong_type_is_named_with_its_type(entry, kind):
    wrong = "dict" if kind == {} else "str"
    for act in (lambda: Enr.sign(ME, 1, {entry: kind}), lambda: Enr.sign(ME, 1, {}).update(ME, **{entry: kind})):
        with pytest.raises(LocalProtocolError, match=f"entry '{entry}': .* not {wrong}"):
            act()


@pytest.mark.parametrize("name", ["id", "secp256k1"])
def test_what_says_whose_record_it_is_cannot_be_removed(name):
    with pytest.raises(LocalProtocolError, match=f"'{name}' .* cannot be removed"):
        Enr.sign(ME, 1, {}).update(ME, **{name: None})


def test_who_does_not_sign():
    ed25519 = Identity.generate(entropy=bytes)
    record = Enr.sign(ME, 1, {})
    with pytest.raises(LocalProtocolError):
        Enr.sign(ed25519, 1, {})
    for stranger in (ed25519, OTHER):
        with pytest.raises(LocalProtocolError):
            record.update(stranger, secp256k1=None)
    with pytest.raises(LocalProtocolError):
        record.update(ME, secp256k1=OTHER.public_key.data)
    with pytest.raises(LocalProtocolError):
        Enr.sign(ME, 2**64 - 1, {}).update(ME)


# What the entries say.

V4, V6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")


at = Endpoint.of


def test_ports_hold_for_ipv6_when_it_has_none_of_its_own():
    record = Enr.sign(ME, 1, {"ip": V4, "ip6": V6, "tcp": 1, "udp": 2, "quic": 3})
    assert record.udp_endpoint(4) == at(V4, 2) and record.udp_endpoint(6) == at(V6, 2)
    assert record.endpoint("tcp", 4) == at(V4, 1) and record.endpoint("tcp", 6) == at(V6, 1)
    assert record.endpoint("quic", 4) == at(V4, 3) and record.endpoint("quic", 6) is None
    own = record.update(ME, tcp6=11, udp6=12, quic6=13)
    assert [own.endpoint(name, 4) for name in ("tcp", "udp", "quic")] == [at(V4, 1), at(V4, 2), at(V4, 3)]
    assert [own.endpoint(name, 6) for name in ("tcp", "udp", "quic")] == [at(V6, 11), at(V6, 12), at(V6, 13)]
    only = Enr.sign(ME, 1, {"ip6": V6, "udp": 2})
    assert only.udp_endpoint(4) is None and only.udp_endpoint(6) == at(V6, 2)
    other = Enr.sign(ME, 1, {"ip": V4, "udp6": 2})
    assert other.udp_endpoint(4) is None and other.udp_endpoint(6) is None


def test_bits_are_counted_from_the_lowest_of_the_first_byte():
    assert bits(b"", 64) == bits(bytes(8), 64) == []
    assert bits(b"\x01\x80" + bytes(5) + b"\x80", 64) == [0, 15, 63]
    assert bits(b"\xf2", 4) == [1]


def test_port_0_counts_as_absent():
    record = Enr.from_rlp(
        forged(b"\1", b"id", b"v4", b"ip6", V6.packed, b"secp256k1", ME.public_key.data, b"udp", b"\1", b"udp6", b"")
    )
    assert record.udp6 is None and record.udp_endpoint(6) is None and record.udp == 1


def test_entries_of_the_eth2_layer_of_another_form_count_as_absent():
    me = ME.public_key.data
    record = Enr.from_rlp(
        forged(
            b"\1",
            b"attnets",
            b"",
            b"cgc",
            b"\0\4",
            b"eth2",
            [bytes(16)],
            b"id",
            b"v4",
            b"nfd",
            bytes(5),
            b"secp256k1",
            me,
            b"syncnets",
            b"",
        )
    )
    assert (record.attnets, record.cgc, record.eth2, record.nfd, record.syncnets) == (None,) * 5


@pytest.mark.parametrize(
    ("entries", "addresses"),
    [
        ({}, []),
        ({"ip": V4}, []),
        ({"tcp": 1, "quic": 2}, []),
        ({"ip": V4, "udp": 3}, []),
        ({"ip": V4, "tcp": 1, "udp": 3}, ["/ip4/192.0.2.1/tcp/1"]),
        ({"ip": V4, "quic": 2}, ["/ip4/192.0.2.1/udp/2/quic-v1"]),
        (
            {"ip": V4, "ip6": V6, "tcp": 1, "quic": 2, "quic6": 5},
            [
                "/ip4/192.0.2.1/tcp/1",
                "/ip4/192.0.2.1/udp/2/quic-v1",
                "/ip6/2001:db8::1/tcp/1",
                "/ip6/2001:db8::1/udp/5/quic-v1",
            ],
        ),
        ({"ip": IPv4Address(0), "ip6": IPv6Address(0), "tcp": 1, "quic": 2}, []),
        ({"ip": IPv4Address("224.0.0.1"), "ip6": IPv6Address("ff02::1"), "tcp": 1, "quic": 2, "quic6": 2}, []),
        ({"ip6": IPv6Address("::ffff:224.0.0.1"), "tcp": 1}, []),
        ({"ip6": IPv6Address("::ffff:0.0.0.0"), "tcp": 1}, []),
        (
            {"ip6": IPv6Address("::ffff:9.9.9.9"), "tcp6": 1, "quic6": 2},
            ["/ip4/9.9.9.9/tcp/1", "/ip4/9.9.9.9/udp/2/quic-v1"],
        ),
        (
            {"ip": IPv4Address("9.9.9.9"), "ip6": IPv6Address("::ffff:9.9.9.9"), "tcp": 1, "quic6": 2},
            ["/ip4/9.9.9.9/tcp/1", "/ip4/9.9.9.9/udp/2/quic-v1"],
        ),
    ],
)
def test_multiaddrs(entries, addresses):
    assert [address_text(address) for address in Enr.sign(ME, 1, entries).multiaddrs()] == addresses


UINT = st.binary(max_size=9).map(lambda raw: raw.lstrip(b"\0"))
IP6 = st.one_of(
    st.ip_addresses(v=6).map(lambda ip: ip.packed),
    st.binary(min_size=4, max_size=4).map(lambda raw: bytes(10) + b"\xff\xff" + raw),
    st.binary(max_size=2).map(lambda raw: raw.rjust(16, b"\0")),
)
IP = st.one_of(st.ip_addresses(v=4).map(lambda ip: ip.packed), st.sampled_from([bytes(4), b"\xff" * 4, b"\xe0\0\0\1"]))
PORT_ENTRY = st.integers(0, 65535).map(rlp.encode_uint)
OTHERS = st.one_of(st.binary(max_size=16), st.lists(st.binary(max_size=3), max_size=3))
SIGNED_ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        b"ip": IP,
        b"ip6": IP6,
        **dict.fromkeys((b"tcp", b"tcp6", b"udp", b"udp6", b"quic", b"quic6"), PORT_ENTRY),
        **dict.fromkeys((b"eth2", b"attnets", b"syncnets", b"nfd", b"client"), OTHERS),
        b"cgc": st.one_of(UINT, OTHERS),
    },
)
ACCESSORS = [name for name, each in vars(Enr).items() if isinstance(each, property)]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(SIGNED_ENTRIES)
def test_whatever_a_verified_record_says_it_can_be_asked(entries):
    entries |= {b"id": b"v4", b"secp256k1": ME.public_key.data}
    record = Enr.from_rlp(forged(b"\1", *(part for key in sorted(entries) for part in (key, entries[key]))))
    assert {"ip6", "peer_id", "cgc"} < set(ACCESSORS)
    for name in ACCESSORS:
        getattr(record, name)
    for version in (4, 6):
        for protocol in ("tcp", "udp", "quic"):
            record.endpoint(protocol, version)
    found = record.multiaddrs()
    assert len(set(found)) == len(found)
    for address in found:
        ip = ip_of(address)
        assert ip in (record.ip, record.ip6, record.ip6 and record.ip6.ipv4_mapped)
        assert not ip.is_unspecified and not ip.is_multicast
    endpoints(record)


def test_verified_records_are_remembered(monkeypatch):
    enr_module._verified.cache_clear()
    record = Enr.from_text(EXAMPLE["text"])
    monkeypatch.setattr(secp256k1, "verify_digest", None)
    assert Enr.from_rlp(record.raw) is record


def test_without_pycryptodome_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "Crypto.Hash", None)
    spec = importlib.util.spec_from_file_location("fresh_keccak", keccak.__file__)
    with pytest.raises(ImportError, match=r"pyp2p\[discv5\]"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
