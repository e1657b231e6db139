"""Message ids: the vectors, and that all that should matter does."""

import hashlib

import pytest

from pyp2p.pubsub.ids import default_message_id, eth2_altair_message_id, eth2_phase0_message_id
from pyp2p.pubsub.snappy import Snappy
from pyp2p.pubsub.types import Message
from tests.vectors import load

VECTORS = load("eth2_gossip_message_id")
FUNCTIONS = {"altair": eth2_altair_message_id, "phase0": eth2_phase0_message_id}
SNAPPY = Snappy()


@pytest.mark.hostile
@pytest.mark.parametrize("entry", VECTORS["cases"], ids=lambda entry: entry["name"])
def test_hostile_072_an_id_of_the_vectors(entry: dict) -> None:
    topic, data = entry["topic"], bytes.fromhex(entry["data"])
    payload = SNAPPY.inbound(topic, data)
    assert (payload is not None) == entry["valid_snappy"]
    message = Message(topic, data, b"", payload=b"unused" if payload is None else payload)
    got = FUNCTIONS[entry["rule"]](message, payload is not None)
    assert got.hex() == entry["message_id"] == hashlib.sha256(bytes.fromhex(entry["hashed"])).hexdigest()[:40]


@pytest.mark.hostile
def test_hostile_072_the_length_of_snappy_may_be_longer_than_need_be() -> None:
    topic = "/eth2/6a95a1a9/beacon_block/ssz_snappy"
    ids = []
    for data in (b"\x0b", b"\x8b\x00", b"\x8b\x80\x80\x80\x00"):
        data += b"\x28hello world"
        payload = SNAPPY.inbound(topic, data)
        assert payload == b"hello world"
        ids.append(eth2_altair_message_id(Message(topic, data, b"", payload=payload)))
    assert {message_id.hex() for message_id in ids} == {"7ad59c6bf17655331a974d9c08b5ffd06e61b651"}


def test_ours_are_valid_where_nothing_is_said() -> None:
    message = Message("t", b"data", b"", payload=b"payload")
    for function in FUNCTIONS.values():
        assert function(message) == function(message, True) != function(message, False)
        assert len(function(message)) == 20


def test_altair_hashes_bytes_of_the_topic_and_phase0_no_topic() -> None:
    one, other = Message("é", b"", b"", payload=b"p"), Message("t", b"", b"", payload=b"p")
    hashed = bytes.fromhex("01000000") + (2).to_bytes(8, "little") + "é".encode() + b"p"
    assert eth2_altair_message_id(one) == hashlib.sha256(hashed).digest()[:20] != eth2_altair_message_id(other)
    assert eth2_phase0_message_id(one) == eth2_phase0_message_id(other)


def test_the_default_is_author_and_sequence_number() -> None:
    message = Message("t", b"d", b"r", author=b"author", seqno=b"8 bytes!")
    assert default_message_id(message) == default_message_id(message, False) == b"author8 bytes!"
    assert default_message_id(Message("t", b"d", b"r")) == b""
