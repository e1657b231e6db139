"""Gossip topics of the beacon chain: their names, from which fork to which they live, what a message may measure.

Rules: pure. Consensus-specs, p2p-interface of phase0 to fulu; the bounds are those of the SSZ types, so a message that
is longer is never unpacked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pyp2p.beacon.chain import FORKS, ForkPeriod
from pyp2p.errors import LocalProtocolError, printable

MAX_PAYLOAD_SIZE: Final = 10 * 1024 * 1024
DIGEST_BYTES: Final = 4
_TOPIC = re.compile(r"/eth2/([0-9a-f]{8})/([a-z_]+?)(?:_([0-9]{1,3}))?/ssz_snappy")


@dataclass(frozen=True, slots=True)
class GossipType:
    """A kind of message: SSZ bytes from `least` to `most`, on one topic, or on one for each of `subnets` at most.

    `since` is the first fork that has it, `until` the one that ended it.
    """

    name: str
    least: int
    most: int
    since: str = "phase0"
    until: str | None = None
    subnets: int = 0

    def lives(self, fork: str) -> bool:
        """True when `fork` has topics of this type."""
        rank = FORKS.index(fork)
        return FORKS.index(self.since) <= rank and (self.until is None or rank < FORKS.index(self.until))

    def subnet_count(self, period: ForkPeriod) -> int:
        """How many subnets there are in a period of the chain; 0 for a type with a single topic."""
        return period.limits.blob_sidecar_subnet_count if self.name == "blob_sidecar" else self.subnets


# What a SignedBeaconBlock takes at least: an offset, a signature, and the fixed parts of a block and a phase0 body.
_BLOCK = 4 + 96 + 84 + 220
_COMMITTEE = 2048  # MAX_VALIDATORS_PER_COMMITTEE
_SLOT = _COMMITTEE * 64  # aggregation bits of electra: all committees of a slot
_ATTESTATION = 4 + 128 + 96  # offset, data, signature
_AGGREGATE = 4 + 96 + 8 + 4 + 96  # SignedAggregateAndProof without its attestation
_INDEXED = 4 + 128 + 96  # IndexedAttestation without its indices
_COLUMN = 8 + 3 * 4 + 208 + 4 * 32  # DataColumnSidecar without cells, commitments and proofs
_LIGHT_HEADER = 112 + 4 + 128 + 584 + 32  # LightClientHeader of deneb with the longest extra data

GOSSIP_TYPES: Final = {
    each.name: each
    for each in (
        GossipType("beacon_block", _BLOCK, MAX_PAYLOAD_SIZE),
        GossipType("beacon_aggregate_and_proof", _AGGREGATE + _ATTESTATION + 1, _AGGREGATE + 236 + _SLOT // 8 + 1),
        GossipType("beacon_attestation", _ATTESTATION + 1, _ATTESTATION + _COMMITTEE // 8 + 1, subnets=64),
        GossipType("voluntary_exit", 112, 112),
        GossipType("proposer_slashing", 416, 416),
        GossipType("attester_slashing", 2 * 4 + 2 * _INDEXED, 2 * 4 + 2 * (_INDEXED + 8 * _SLOT)),
        GossipType("sync_committee_contribution_and_proof", 360, 360, "altair"),
        GossipType("sync_committee", 144, 144, "altair", subnets=4),
        GossipType("light_client_finality_update", 1, 2 * _LIGHT_HEADER + 400, "altair"),
        GossipType("light_client_optimistic_update", 1, _LIGHT_HEADER + 172, "altair"),
        GossipType("bls_to_execution_change", 172, 172, "capella"),
        GossipType("blob_sidecar", 131928, 131928, "deneb", "fulu", subnets=64),  # chains differ in how many are used
        GossipType(
            "data_column_sidecar",
            _COLUMN,
            _COLUMN + 4096 * (2048 + 48 + 48),
            "fulu",
            subnets=128,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, taken apart."""

    digest: bytes
    type: GossipType
    subnet: int | None = None

    def __str__(self) -> str:
        number = "" if self.subnet is None else f"_{self.subnet}"
        return f"/eth2/{self.digest.hex()}/{self.type.name}{number}/ssz_snappy"


def gossip_type(name: str) -> GossipType:
    """The type of this name. Raises `LocalProtocolError`, which names those that there are."""
    try:
        return GOSSIP_TYPES[name]
    except KeyError:
        known = ", ".join(GOSSIP_TYPES)
        raise LocalProtocolError(f"'{printable(name, 80)}' is no type of gossip: there are {known}") from None


def parse_topic(text: str) -> Topic | None:
    """The parts of a topic's name; None for one that is no topic of the beacon chain, in any fork."""
    found = _TOPIC.fullmatch(text)
    if found is None:
        return None
    digest, name, number = found.groups()
    kind = GOSSIP_TYPES.get(name)
    if kind is None or (number is None) != (not kind.subnets) or (number is not None and str(int(number)) != number):
        return None
    if number is not None and int(number) >= kind.subnets:
        return None
    return Topic(bytes.fromhex(digest), kind, None if number is None else int(number))


def max_payload(topic: str) -> int:
    """The most bytes that a message of the topic may unpack to; 0 for one that is no topic of the beacon chain."""
    parsed = parse_topic(topic)
    return 0 if parsed is None else parsed.type.most
