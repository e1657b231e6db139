"""Addresses, peer ids and keys taken apart, and the place where they go wrong."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.cli.explain import (
    explain_address,
    explain_address_bytes,
    explain_key,
    explain_peer,
    explain_peer_text,
)
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.peer.multibase import hex_of
from tests.vectors import load

ID = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
HASHED = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"


def test_an_address_is_its_parts_with_their_places() -> None:
    text = f"/ip4/127.0.0.1/tcp/4001/p2p/{ID}"
    found = explain_address(text)
    assert found.problem is None
    assert [(part.position, part.name, part.value) for part in found.parts] == [
        (0, "ip4", "127.0.0.1"),
        (14, "tcp", "4001"),
        (23, "p2p", ID),
    ]
    assert all(text[part.position] == "/" for part in found.parts)
    assert "this machine alone" in found.parts[0].meaning
    assert found.facts["text"] == text


@pytest.mark.parametrize(
    ("text", "parts", "position", "words"),
    [
        ("/ip4/127.0.0.1/tcp/65536", ["ip4"], 19, "port 65536 is outside 0..65535"),
        ("/ip4/127.0.0.1/udp/99999999999999999999999", ["ip4"], 19, "is outside 0..65535"),
        ("/ip4/127.0.0.1/tcp/http", ["ip4"], 19, "'http' is no decimal number"),
        ("/ip4/1.2.3.300/tcp/1", [], 5, "300 is outside 0..255"),
        ("/ip4/1.2.3/tcp/1", [], 5, "3 numbers instead of 4"),
        ("/ip4/1.2.3.04", [], 5, "leading zero"),
        ("/ip4/1.2.3.x", [], 5, "'x' is no number"),
        ("/ip6/::g/tcp/1", [], 5, "no IPv6 address"),
        ("/dns4/foo.com/tcp/443/foo", ["dns4", "tcp"], 22, "unknown protocol 'foo'"),
        ("/dns/tcp/foo", ["dns"], 9, "unknown protocol 'foo'"),
        ("/ip4/1.2.3.4/tcp", ["ip4"], 16, "needs a value"),
        ("/ip4/1.2.3.4/p2p/nonsense", ["ip4"], 17, "peer id"),
        ("/ip4/1.2.3.4/\x1b[2J", ["ip4"], 13, "character"),
    ],
)
def test_a_bad_address_says_where_and_why_and_keeps_its_good_beginning(
    text: str, parts: list[str], position: int, words: str
) -> None:
    found = explain_address(text)
    assert (found.position, [part.name for part in found.parts]) == (position, parts)
    assert found.problem is not None
    assert words in found.problem
    assert found.problem.isascii()
    assert found.problem.isprintable()


@given(st.text(max_size=60))
def test_any_text_is_explained_without_a_crash(text: str) -> None:
    for found in (explain_address("/" + text), explain_peer_text(text)):
        assert found.problem is None or found.problem.isprintable()
        assert found.position is None or 0 <= found.position <= len(text) + 1


@given(st.binary(max_size=60))
def test_any_bytes_are_explained_without_a_crash(raw: bytes) -> None:
    for found in (explain_address_bytes(raw), explain_key(raw)):
        assert found.position is None or 0 <= found.position <= len(raw)


def test_binary_addresses_have_byte_positions() -> None:
    found = explain_address_bytes(bytes.fromhex("047f000001060fa1"))
    assert [(part.position, part.name) for part in found.parts] == [(0, "ip4"), (5, "tcp")]
    assert explain_address_bytes(bytes.fromhex("047f0000")).position == 1


def test_every_valid_address_of_the_vectors_is_explained() -> None:
    for case in load("multiaddr")["valid"]:
        found = explain_address(case["text"])
        assert found.problem is None
        assert found.facts["bytes"] == case["bytes"]


def test_a_hashed_peer_id_says_that_the_key_is_gone() -> None:
    found = explain_peer(PeerId.parse(HASHED))
    assert found.parts[-1].meaning == "sha256 peer id: the key cannot be recovered"


def test_an_inline_peer_id_shows_its_key() -> None:
    peer = PeerId.parse(ID)
    found = explain_peer(peer)
    assert found.parts[-1].raw == peer.raw[6:]
    assert [part.position for part in found.parts] == [0, 1, 2, 3, 4, 5, 6]


def test_a_bad_character_in_a_peer_id_has_its_place() -> None:
    found = explain_peer_text(ID[:-3] + "0SA")
    assert (found.position, found.problem) == (49, "'0' is not in the base58 alphabet")


@pytest.mark.parametrize("key_type", [KeyType.ED25519, KeyType.SECP256K1, KeyType.ECDSA])
def test_keys_show_their_parts_and_never_their_secret(key_type: KeyType) -> None:
    identity = Identity.generate(key_type, entropy=os.urandom)
    raw = identity.to_protobuf()
    found = explain_key(raw)
    assert found.kind == "private key"
    assert found.facts["peer_id"] == str(identity.peer)
    shown = repr(found) + "".join(part.raw.hex() for part in found.parts)
    assert raw[4:36].hex() not in shown
    public = explain_key(identity.public_key.to_protobuf())
    assert public.kind == "public key"
    assert public.facts["peer_id"] == str(identity.peer)


@pytest.mark.parametrize(
    ("raw", "position", "parts"),
    [(b"", 0, 0), (b"\x09", 0, 0), (b"\x08\x07", 1, 1), (b"\x08\x01\x13", 2, 2), (b"\x08\x01\x12\x05abc", 3, 3)],
)
def test_a_bad_key_says_where(raw: bytes, position: int, parts: int) -> None:
    found = explain_key(raw)
    assert (found.position, len(found.parts)) == (position, parts)
    assert found.problem


@pytest.mark.parametrize(
    ("text", "raw"),
    [("0x00ff", b"\x00\xff"), ("00FF", b"\x00\xff"), ("0", None), ("", None), ("0x", None), ("٣٣", None)],
)
def test_hex(text: str, raw: bytes | None) -> None:
    assert hex_of(text) == raw
