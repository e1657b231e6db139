"""Topics of the beacon chain: names both ways, which fork has which, subnets, and how long a message may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.beacon.chain import FORKS
from pyp2p.beacon.chainfile import load_chain
from pyp2p.beacon.topics import GOSSIP_TYPES, MAX_PAYLOAD_SIZE, Topic, gossip_type, max_payload, parse_topic
from pyp2p.errors import LocalProtocolError

DIGEST = bytes.fromhex("6a95a1a9")
BORN = {
    "phase0": [
        "beacon_block",
        "beacon_aggregate_and_proof",
        "beacon_attestation",
        "voluntary_exit",
        "proposer_slashing",
        "attester_slashing",
    ],
    "altair": [
        "sync_committee_contribution_and_proof",
        "sync_committee",
        "light_client_finality_update",
        "light_client_optimistic_update",
    ],
    "capella": ["bls_to_execution_change"],
    "deneb": ["blob_sidecar"],
    "fulu": ["data_column_sidecar"],
}


@pytest.mark.parametrize("name", GOSSIP_TYPES)
def test_names_are_read_as_they_are_written(name: str) -> None:
    kind = GOSSIP_TYPES[name]
    for subnet in (None,) if not kind.subnets else (0, 1, kind.subnets - 1):
        topic = Topic(DIGEST, kind, subnet)
        assert str(topic) == f"/eth2/6a95a1a9/{name}{'' if subnet is None else f'_{subnet}'}/ssz_snappy"
        assert parse_topic(str(topic)) == topic
        assert max_payload(str(topic)) == kind.most


@pytest.mark.parametrize(
    "text",
    [
        "",
        "beacon_block",
        "/eth2/6a95a1a9/beacon_block/ssz",
        "/eth2/6a95a1a9/beacon_block/ssz_snappy/",
        "/eth2/6a95a1a9/beacon_block/ssz_snappy\n",
        " /eth2/6a95a1a9/beacon_block/ssz_snappy",
        "/eth2/6A95A1A9/beacon_block/ssz_snappy",
        "/eth2/6a95a1/beacon_block/ssz_snappy",
        "/eth2/6a95a1a9aa/beacon_block/ssz_snappy",
        "/eth3/6a95a1a9/beacon_block/ssz_snappy",
        "/eth2/6a95a1a9/beacon_blocks/ssz_snappy",
        "/eth2/6a95a1a9/beacon_block_0/ssz_snappy",
        "/eth2/6a95a1a9/beacon_attestation/ssz_snappy",
        "/eth2/6a95a1a9/beacon_attestation_64/ssz_snappy",
        "/eth2/6a95a1a9/beacon_attestation_-1/ssz_snappy",
        "/eth2/6a95a1a9/beacon_attestation_01/ssz_snappy",
        "/eth2/6a95a1a9/beacon_attestation_1000/ssz_snappy",
        "/eth2/6a95a1a9/beacon_attestation_\u0661/ssz_snappy",
        "/eth2/6a95a1a9/sync_committee_4/ssz_snappy",
        "/eth2/6a95a1a9/data_column_sidecar_128/ssz_snappy",
    ],
)
@pytest.mark.hostile
def test_hostile_072_what_is_no_topic_is_none_and_nothing_of_it_is_unpacked(text: str) -> None:
    assert parse_topic(text) is None
    assert max_payload(text) == 0


@given(st.text(alphabet="/eth26a9_bcon0lkszpy", max_size=60))
def test_whatever_is_read_is_written_the_same(text: str) -> None:
    parsed = parse_topic(text)
    assert parsed is None or str(parsed) == text


@pytest.mark.parametrize("fork", FORKS)
def test_each_fork_has_the_topics_of_those_before_but_for_blobs_since_fulu(fork: str) -> None:
    lives = {name for name, kind in GOSSIP_TYPES.items() if kind.lives(fork)}
    rank = FORKS.index(fork)
    born = {name for since, names in BORN.items() if FORKS.index(since) <= rank for name in names}
    assert lives == born - ({"blob_sidecar"} if rank >= FORKS.index("fulu") else set())


def test_subnets_of_blobs_are_those_of_the_fork() -> None:
    periods = {period.fork: period for period in load_chain("mainnet").schedule}
    blob = GOSSIP_TYPES["blob_sidecar"]
    assert [blob.subnet_count(periods[fork]) for fork in ("deneb", "electra")] == [6, 9]
    counts = {name: kind.subnet_count(periods["electra"]) for name, kind in GOSSIP_TYPES.items() if kind.subnets}
    assert counts == {"beacon_attestation": 64, "sync_committee": 4, "blob_sidecar": 9, "data_column_sidecar": 128}
    assert gossip_type("beacon_block").subnet_count(periods["deneb"]) == 0


def test_a_type_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(
        LocalProtocolError, match=r"'beacon_blocks\\x1b' is no type of gossip: there are beacon_block, "
    ):
        gossip_type("beacon_blocks\x1b")


def test_no_message_may_be_longer_than_a_payload() -> None:
    for kind in GOSSIP_TYPES.values():
        assert 0 < kind.least <= kind.most <= MAX_PAYLOAD_SIZE
