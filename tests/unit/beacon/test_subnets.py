"""Subnets and custody groups from node ids: the vectors whole, and how they go on from epoch to epoch."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.beacon.containers import ATTNETS, FAR_FUTURE_EPOCH, SYNCNETS
from pyp2p.beacon.subnets import (
    attestation_subnets,
    custody_columns,
    custody_groups,
    data_column_subnet,
    subnets_end,
)
from pyp2p.discv5.enr import Enr, bits
from pyp2p.errors import LocalProtocolError, WireError
from pyp2p.peer.keys import Identity, KeyType
from tests.vectors import load

VECTORS = load("eth2_subnets")
NODE_IDS = st.binary(min_size=32, max_size=32)
ONES = b"\xff" * 32


@pytest.mark.parametrize("case", VECTORS["attestation_subnets"], ids=lambda case: case["node_id_hex"][:8])
def test_vector_of_attestation_subnets(case):
    node_id = bytes.fromhex(case["node_id_hex"])
    assert int(case["node_id"]) == int.from_bytes(node_id, "big")
    assert attestation_subnets(node_id, case["epoch"]) == set(case["attestation_subnets"])


@pytest.mark.parametrize(
    "case", VECTORS["custody_groups"], ids=lambda case: f"{case['node_id_hex'][:8]}-{case['custody_group_count']}"
)
def test_vector_of_custody_groups(case):
    found = custody_groups(bytes.fromhex(case["node_id_hex"]), case["custody_group_count"])
    assert sorted(found) == case["custody_groups"]


@given(node_id=NODE_IDS, epoch=st.integers(0, FAR_FUTURE_EPOCH - 512))
def test_subnets_are_neighbours_and_stay_until_their_end(node_id, epoch):
    subnets = attestation_subnets(node_id, epoch)
    end = subnets_end(node_id, epoch)
    assert epoch < end <= epoch + 256
    first = next(each for each in sorted(subnets) if (each + 1) % 64 in subnets)
    assert subnets == {first, (first + 1) % 64}
    assert attestation_subnets(node_id, end - 1) == subnets
    assert subnets_end(node_id, end - 1) == end and subnets_end(node_id, end) == end + 256


def test_subnets_change_at_their_end_at_another_epoch_for_each_node():
    ends = {subnets_end(at.to_bytes(32, "big"), 1000) for at in range(256)}
    assert ends == set(range(1001, 1257))
    nodes = [hashlib.sha256(bytes((at,))).digest() for at in range(64)]
    moved = [attestation_subnets(each, 1000) != attestation_subnets(each, subnets_end(each, 1000)) for each in nodes]
    assert sum(moved) > 50


def test_the_last_epoch_has_subnets():
    assert len(attestation_subnets(ONES, FAR_FUTURE_EPOCH)) == 2


@given(node_id=NODE_IDS, count=st.integers(0, 128), more=st.integers(0, 128))
def test_groups_are_as_many_as_asked_and_more_hold_those_of_fewer(node_id, count, more):
    few, many = sorted((count, more))
    assert len(custody_groups(node_id, few)) == few
    assert custody_groups(node_id, few) <= custody_groups(node_id, many) <= set(range(128))


@pytest.mark.hostile
@pytest.mark.parametrize("count", [129, FAR_FUTURE_EPOCH, -1])
def test_hostile_085_a_claim_of_more_groups_than_there_are_costs_nothing(count):
    with pytest.raises(WireError) as caught:
        custody_groups(ONES, count)
    assert str(count) in str(caught.value)


def test_columns_and_their_subnets_are_those_of_the_groups():
    assert custody_columns(frozenset({0, 5, 127})) == {0, 5, 127}
    assert [data_column_subnet(column) for column in (0, 5, 127)] == [0, 5, 127]


@pytest.mark.parametrize(
    "call",
    [
        lambda: attestation_subnets(ONES[:31], 0),
        lambda: subnets_end(ONES + b"0", 0),
        lambda: custody_groups(b"", 4),
        lambda: attestation_subnets(ONES, -1),
        lambda: subnets_end(ONES, FAR_FUTURE_EPOCH + 1),
    ],
)
def test_no_node_id_or_no_epoch_is_a_mistake_of_ours(call):
    with pytest.raises(LocalProtocolError):
        call()


def test_subnets_go_into_a_record_and_come_out_of_it():
    subnets = attestation_subnets(ONES, 0)
    identity = Identity(KeyType.SECP256K1, b"\7" * 32)
    entries = {"attnets": ATTNETS.encode(subnets), "syncnets": SYNCNETS.encode(frozenset({0, 3})), "cgc": 4}
    record = Enr.sign(identity, 1, entries)
    assert set(bits(record.attnets, 64)) == subnets == ATTNETS.decode(record.attnets)
    assert SYNCNETS.decode(record.syncnets) == {0, 3}
    assert len(custody_groups(record.node_id, record.cgc)) == 4
