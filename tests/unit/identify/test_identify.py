"""Identify messages and what follows from them: vectors, bounds, replacing, votes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import IdentifyError, WireError
from pyp2p.identify.core import MAX_CONFIRMED, MAX_VOICES, OBSERVERS, VOTE_SECONDS, ObservedAddresses, updated
from pyp2p.identify.pb.identify_pb2 import Identify as Message
from pyp2p.identify.wire import MAX_OWN, IdentifyInfo, decode, encode
from pyp2p.io.varint import LengthPrefixed
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.peer.record import open_record
from tests.vectors import load

VECTORS = load("identify")
ANNE = Identity.generate(entropy=lambda count: bytes(range(count)))


def unframed(wire: bytes) -> list[bytes]:
    framer = LengthPrefixed(8192)
    messages = framer.feed(wire)
    framer.finish()
    return messages


SINGLE = [vector for vector in VECTORS["messages"] if "fields" in vector]
CHUNKED = [vector for vector in VECTORS["messages"] if "messages" in vector]


@pytest.mark.parametrize("vector", CHUNKED, ids=lambda vector: vector["name"])
def test_messages_in_pieces_are_merged(vector: dict) -> None:
    pieces = [bytes.fromhex(piece) for piece in vector["messages"]]
    assert unframed(bytes.fromhex(vector["on_wire"])) == pieces
    info = decode(pieces)
    assert info.public_key is not None
    assert info.agent == "a/1"
    assert info.record is not None
    assert open_record(info.record).peer == PeerId.from_key(info.public_key)


@pytest.mark.parametrize("vector", SINGLE, ids=lambda vector: vector["name"])
def test_messages_of_the_vectors(vector: dict) -> None:
    info = decode(unframed(bytes.fromhex(vector["on_wire"])))
    fields = vector["fields"]
    if "protocols" in fields:
        assert list(info.protocols or ()) == fields["protocols"]
    if "listenAddrs" in fields:
        assert [address.to_bytes().hex() for address in info.addresses or ()] == fields["listenAddrs"]
    assert info.agent == fields.get("agentVersion")
    assert info.protocol_version == fields.get("protocolVersion")
    if "publicKey" in fields:
        assert info.public_key is not None
        assert info.public_key.to_protobuf().hex() == fields["publicKey"]
    if "observedAddr" in fields:
        assert info.observed is not None
        assert info.observed.to_bytes().hex() == fields["observedAddr"]
    assert (info.record.hex() if info.record else None) == fields.get("signedPeerRecord")
    assert decode(unframed(b"".join(encode(info)))) == info


REFUSALS = {vector["name"]: vector for vector in VECTORS["invalid"]}


def test_the_key_of_another_peer_makes_the_message_void() -> None:
    message = bytes.fromhex(REFUSALS["public_key_of_other_peer"]["message"])
    with pytest.raises(IdentifyError):
        updated(None, decode([message]), ANNE.peer)


def test_a_bad_address_is_skipped() -> None:
    info = decode([bytes.fromhex(REFUSALS["invalid_listen_addr"]["message"])])
    assert info.addresses is not None
    assert len(info.addresses) == 1


@pytest.mark.parametrize("name", ["length_over_limit", "truncated"])
def test_framing_that_is_wrong(name: str) -> None:
    with pytest.raises(WireError):
        unframed(bytes.fromhex(REFUSALS[name]["on_wire"]))


def test_hostile_046_counts_and_lengths_are_cut() -> None:
    protocols = [b"/p/%d" % n for n in range(2000)] + [b"", b"x" * 1025]
    parts = [Message(protocols=protocols[at : at + 600]).SerializeToString() for at in range(0, len(protocols), 600)]
    info = decode(parts)
    assert info.protocols == tuple(f"/p/{n}" for n in range(1000))
    text = decode([Message(agent_version=b"\xff\x1b" + b"a" * 5000).SerializeToString()]).agent
    assert text is not None
    assert len(text) == 256
    assert text.startswith("\\xff")
    addresses = [parse_multiaddr(f"/ip4/10.0.{n // 250}.{n % 250}/tcp/1").to_bytes() for n in range(300)]
    assert len(decode([Message(listen_addrs=addresses).SerializeToString()]).addresses or ()) == 64


def test_hostile_045_messages_are_bounded_in_size_and_number() -> None:
    with pytest.raises(IdentifyError):
        decode([bytes(8193)])
    with pytest.raises(IdentifyError):
        decode([b""] * 11)
    with pytest.raises(IdentifyError):
        decode([b"\xff\xff\xff"])


def test_our_answer_comes_in_pieces_that_everybody_reads() -> None:
    info = IdentifyInfo(
        public_key=ANNE.public_key,
        protocols=tuple(f"/a/rather/long/protocol/name/{n}" for n in range(400)),
        addresses=tuple(parse_multiaddr(f"/ip4/10.0.0.{n}/tcp/1") for n in range(60)),
        agent="x" * 1000,
        record=bytes(3000),
    )
    pieces = encode(info)
    assert all(len(piece) <= MAX_OWN + 3 for piece in pieces)
    merged = decode(unframed(b"".join(pieces)))
    assert merged.protocols == info.protocols
    assert merged.addresses == info.addresses
    assert merged.record == info.record
    assert merged.agent == "x" * 256


def test_hostile_047_a_push_replaces_what_it_names_and_keeps_the_rest() -> None:
    first = IdentifyInfo(protocols=("/a", "/b"), agent="one", addresses=(parse_multiaddr("/memory/1"),))
    info = updated(None, first, ANNE.peer)
    info = updated(info, IdentifyInfo(protocols=("/c",)), ANNE.peer)
    assert (info.protocols, info.agent, info.addresses) == (("/c",), "one", first.addresses)
    info = updated(info, IdentifyInfo(agent="two", public_key=ANNE.public_key), ANNE.peer)
    assert (info.protocols, info.agent) == (("/c",), "two")
    info = updated(updated(info, IdentifyInfo(record=b"r"), ANNE.peer), IdentifyInfo(agent="three"), ANNE.peer)
    assert (info.record, info.agent) == (b"r", "three")


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_our_error(data: bytes) -> None:
    try:
        info = decode([data])
    except IdentifyError:
        return
    assert decode(unframed(b"".join(encode(info)))).protocols == info.protocols


SEEN = parse_multiaddr("/ip4/9.9.9.9/tcp/4001")


def voter(n: int) -> tuple[PeerId, object]:
    return PeerId(b"\x12\x20" + bytes([n]) * 32), parse_multiaddr(f"/ip4/{20 + n}.1.2.3/tcp/1")


def test_hostile_050_four_peers_on_four_networks_are_believed_and_not_for_ever() -> None:
    votes = ObservedAddresses()
    for n in range(OBSERVERS):
        assert votes.confirmed(0.0) == []
        votes.observe(SEEN, *voter(n), 0.0)
    assert votes.confirmed(1.0) == [SEEN]
    assert votes.confirmed(VOTE_SECONDS + 1) == []


def test_hostile_050_one_network_or_one_peer_is_one_vote() -> None:
    votes = ObservedAddresses()
    for n in range(50):
        votes.observe(SEEN, PeerId(b"\x12\x20" + bytes([n]) * 32), parse_multiaddr(f"/ip4/20.1.{n}.3/tcp/1"), 0.0)
        votes.observe(SEEN, PeerId(b"\x12\x20" + bytes(32)), parse_multiaddr(f"/ip4/{50 + n}.1.2.3/tcp/1"), 0.0)
    assert votes.confirmed(1.0) == []


@pytest.mark.parametrize(
    "claim",
    [
        "/ip4/127.0.0.1/tcp/1",
        "/ip6/::ffff:10.0.0.1/tcp/1",
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/9.9.9.9/tcp/0",
        "/ip4/224.0.0.1/tcp/1",
        "/dns4/a.b/tcp/1",
        "/ip4/9.9.9.9/tcp/1/p2p-circuit",
        "/ip4/9.9.9.9/tcp/1/dns4/" + ".".join(["a" * 60] * 4),
        "/ip4/9.9.9.9/udp/1",
        "/ip4/9.9.9.9",
    ],
)
def test_hostile_050_what_is_no_public_address_is_not_voted_on(claim: str) -> None:
    votes = ObservedAddresses()
    for n in range(OBSERVERS):
        votes.observe(parse_multiaddr(claim), *voter(n), 0.0)
    assert votes.confirmed(1.0) == []


def test_votes_are_bounded() -> None:
    votes = ObservedAddresses()
    for n in range(3 * MAX_VOICES):
        peer = PeerId(b"\x12\x20" + n.to_bytes(2, "big") * 16)
        votes.observe(parse_multiaddr(f"/ip4/9.{n // 250}.{n % 250}.9/tcp/1"), peer, voter(n % 100)[1], 0.0)
    assert len(votes._voices) == len(votes._tally) == MAX_VOICES
    votes.confirmed(VOTE_SECONDS + 1)
    assert len(votes._voices) == len(votes._tally) == 0


def test_hostile_050_one_peer_does_not_crowd_out_what_others_say() -> None:
    votes = ObservedAddresses()
    for n in range(OBSERVERS - 1):
        votes.observe(SEEN, *voter(n), 0.0)
    for port in range(1, 5000):
        votes.observe(parse_multiaddr(f"/ip4/9.9.9.8/tcp/{port}"), *voter(99), 0.0)
    votes.observe(SEEN, *voter(OBSERVERS), 0.0)
    assert votes.confirmed(1.0) == [SEEN]
    assert len(votes._tally) == 2


def test_hostile_050_a_peer_that_sees_us_elsewhere_takes_its_vote_back_for_that_kind_of_address_only() -> None:
    votes = ObservedAddresses()
    six = parse_multiaddr("/ip6/2600::9/tcp/4001")
    for n in range(OBSERVERS):
        votes.observe(SEEN, *voter(n), 0.0)
        votes.observe(six, *voter(n), 0.0)
    votes.observe(parse_multiaddr("/ip4/9.9.9.9/tcp/5"), *voter(0), 0.0)
    assert votes.confirmed(1.0) == [six]


def test_hostile_050_few_addresses_are_believed_and_the_best_first() -> None:
    votes = ObservedAddresses()
    many = [parse_multiaddr(f"/ip4/9.9.9.9/tcp/{port}") for port in range(1, 20)]
    for at, address in enumerate([*many, SEEN]):
        for n in range(OBSERVERS + (address is SEEN)):
            peer = PeerId(b"\x12\x20" + bytes([at, n]) * 16)
            votes.observe(address, peer, parse_multiaddr(f"/ip4/{20 + n}.1.2.3/tcp/1"), 0.0)
    assert votes.confirmed(1.0) == [SEEN, *many[: MAX_CONFIRMED - 1]]
