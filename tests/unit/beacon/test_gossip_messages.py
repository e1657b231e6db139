"""Gossip by type: message ids as each fork wants them, which topics may be named, which forks' topics live."""

import hashlib

import pytest

from pyp2p.beacon.chain import FAR_FUTURE_EPOCH
from pyp2p.beacon.chainfile import load_chain
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.gossip import live_periods, message_ids, topic_filter
from pyp2p.beacon.topics import max_payload
from pyp2p.pubsub.snappy import Snappy
from pyp2p.pubsub.types import Message
from tests.vectors import load

VECTORS = load("eth2_gossip_message_id")
MAINNET = load_chain("mainnet")
IDS = message_ids(MAINNET)


@pytest.mark.parametrize("entry", VECTORS["cases"], ids=lambda entry: entry["name"])
def test_the_vectors_through_the_digests_of_mainnet(entry: dict) -> None:
    topic, data = entry["topic"], bytes.fromhex(entry["data"])
    payload = Snappy().inbound(topic, data)
    assert (payload is not None) == entry["valid_snappy"]
    message = Message(topic, data, b"", payload=b"unused" if payload is None else payload)
    assert IDS(message, payload is not None).hex() == entry["message_id"]
    assert topic.startswith(f"/eth2/{MAINNET.schedule[0].digest.hex()}/") == (entry["rule"] == "phase0")


def test_a_chain_that_begins_later_has_no_ids_of_phase0() -> None:
    chain = dev_chain(0, start="deneb")
    topic = f"/eth2/{chain.schedule[0].digest.hex()}/beacon_block/ssz_snappy"
    said = b"\x01\0\0\0" + len(topic).to_bytes(8, "little") + topic.encode() + b"x"
    assert message_ids(chain)(Message(topic, b"", b"", payload=b"x"), True) == hashlib.sha256(said).digest()[:20]


def test_topics_of_all_forks_of_the_chain_may_be_named_and_no_others() -> None:
    chain = dev_chain(0)
    allows = topic_filter(chain)
    for period in chain.schedule:
        assert allows(f"/eth2/{period.digest.hex()}/beacon_block/ssz_snappy")
        assert allows(f"/eth2/{period.digest.hex()}/beacon_attestation_63/ssz_snappy")
        assert not allows(f"/eth2/{period.digest.hex()}/beacon_attestation_64/ssz_snappy")
    assert not allows("/eth2/00000000/beacon_block/ssz_snappy")
    assert not allows("chat")


@pytest.mark.parametrize(
    ("epoch", "forks"),
    [
        (0, ["altair"]),
        (7, ["altair"]),
        (8, ["altair", "bellatrix"]),
        (10, ["altair", "bellatrix"]),
        (11, ["altair", "bellatrix"]),
        (12, ["bellatrix"]),
        (48, ["electra", "fulu"]),
        (58, ["fulu (9 blobs)", "fulu (12 blobs)"]),
        (1 << 40, ["fulu (12 blobs)"]),
        (FAR_FUTURE_EPOCH, ["fulu (12 blobs)"]),
    ],
)
def test_topics_live_from_two_epochs_before_their_fork_to_two_epochs_after(epoch: int, forks: list[str]) -> None:
    chain = dev_chain(0, epochs_per_fork=10)
    found = live_periods(chain, epoch)
    assert [each.title if "(" in forks[-1] else each.fork for each in found] == forks


def test_forks_that_follow_at_once_all_live_together() -> None:
    chain = dev_chain(0, epochs_per_fork=1)
    assert [each.epoch for each in live_periods(chain, 3)] == [1, 2, 3, 4, 5]


def test_snappy_is_bounded_by_what_the_topic_may_hold() -> None:
    topic = f"/eth2/{MAINNET.schedule[-1].digest.hex()}/voluntary_exit/ssz_snappy"
    snappy = Snappy(max_payload)
    assert snappy.inbound(topic, Snappy().outbound(topic, bytes(112))) == bytes(112)
    assert snappy.inbound(topic, Snappy().outbound(topic, bytes(113))) is None
