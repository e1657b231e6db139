"""Requests that `pyp2p req` makes of its options and of the peer's status, and facts of answers."""

import argparse
from typing import Any

import pytest

from pyp2p.beacon.containers import (
    BeaconBlocksByHeadRequest,
    BeaconBlocksByRangeRequest,
    BlobIdentifier,
    BlobSidecarsByRangeRequest,
    DataColumnsByRootIdentifier,
    DataColumnSidecarsByRangeRequest,
    LightClientUpdatesByRangeRequest,
    MetaDataV2,
    StatusV1,
    StatusV2,
)
from pyp2p.beacon.devchain import dev_chain, make_block
from pyp2p.beacon.methods import ForkBytes, Methods
from pyp2p.beacon.status import ChainStatus
from pyp2p.cli.failure import UsageError
from pyp2p.cli.req_methods import NAMES, Ours, answer_facts, check_options, file_name, methods_named, request_of

CHAIN = dev_chain(1_700_000_000)
METHODS = Methods(CHAIN)
HEAD, ROOT = b"\x01" * 32, b"\x02" * 32
PEER = StatusV1(bytes(4), bytes(32), 0, HEAD, 50)
OURS = Ours(ChainStatus(), b"\x09" * 4)
NOTHING: dict[str, Any] = {"start": None, "count": None, "root": [], "index": [], "code": None}


def made(method: str, peer: StatusV1 | None = PEER, **given: Any) -> Any:
    options = argparse.Namespace(**NOTHING | given)
    check_options(method.partition("/")[0], options)
    return request_of(methods_named(method, METHODS)[0], options, OURS, peer)


def test_every_method_of_the_chain_has_a_name_here() -> None:
    assert {each.name for each in METHODS} == set(NAMES)
    for name in NAMES:
        assert [each.name for each in methods_named(name, METHODS)] == [name] * len(methods_named(name, METHODS))


def test_the_newest_version_comes_first_and_one_may_be_named() -> None:
    assert [each.version for each in methods_named("metadata", METHODS)] == [3, 2, 1]
    assert [each.version for each in methods_named("metadata/2", METHODS)] == [2]


def test_what_is_left_out_follows_from_the_head_of_the_peer() -> None:
    assert made("beacon_blocks_by_range", count=8) == BeaconBlocksByRangeRequest(43, 8)
    assert made("beacon_blocks_by_range", count=80) == BeaconBlocksByRangeRequest(0, 80)
    assert made("beacon_blocks_by_range", start=7) == BeaconBlocksByRangeRequest(7, 1)
    assert made("beacon_blocks_by_root") == (HEAD,)
    assert made("beacon_blocks_by_head") == BeaconBlocksByHeadRequest(HEAD, 1)
    assert made("blob_sidecars_by_range", count=2) == BlobSidecarsByRangeRequest(49, 2)


def test_requests_are_made_of_what_is_given() -> None:
    assert made("blob_sidecars_by_root", root=[ROOT], index=[0, 3]) == (
        BlobIdentifier(ROOT, 0),
        BlobIdentifier(ROOT, 3),
    )
    assert made("data_column_sidecars_by_root", root=[ROOT], index=[1, 2]) == (
        DataColumnsByRootIdentifier(ROOT, (1, 2)),
    )
    columns = DataColumnSidecarsByRangeRequest(5, 2, (127,))
    assert made("data_column_sidecars_by_range", start=5, count=2, index=[127]) == columns
    assert made("light_client_bootstrap", root=[ROOT]) == ROOT
    assert made("light_client_updates_by_range", start=3, count=4) == LightClientUpdatesByRangeRequest(3, 4)
    assert made("light_client_finality_update") is None
    assert made("ping") == 0
    assert made("goodbye") == 1
    assert made("goodbye", code=129) == 129
    assert isinstance(made("status"), StatusV2)
    assert type(made("status/1")) is StatusV1
    assert made("status").fork_digest == b"\x09" * 4


@pytest.mark.parametrize(
    ("method", "given", "why"),
    [
        ("metadata", {"start": 1}, "--start says nothing to metadata"),
        ("status", {"root": [ROOT]}, "--root says nothing to status"),
        ("beacon_blocks_by_range", {"index": [1]}, "--index says nothing"),
        ("beacon_blocks_by_head", {"root": [ROOT, HEAD]}, "--root: 2 are given"),
        ("beacon_blocks_by_range", {"count": 100_000}, "--count: 100000, from 1 to "),
        ("data_column_sidecars_by_range", {"index": [128]}, "--index: 128, the last one is 127"),
        ("beacon_blocks_by_range", {"start": 2**64 - 1, "count": 2}, "--start: "),
    ],
)
def test_what_makes_no_sense_is_refused(method: str, given: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(method, **given)
    assert why in caught.value.reason


def test_without_a_status_of_the_peer_a_root_must_be_named() -> None:
    with pytest.raises(UsageError, match="--root is missing"):
        made("beacon_blocks_by_root", peer=None)


def method(name: str) -> Any:
    return methods_named(name, METHODS)[0]


def test_chunks_of_bytes_are_told_by_their_place_fork_and_size() -> None:
    block = make_block(CHAIN, 9, ROOT)
    period = CHAIN.at_slot(9)
    facts = answer_facts(method("beacon_blocks_by_range"), ForkBytes(period.digest, block.ssz), CHAIN)
    assert facts == {
        "fork": period.fork,
        "fork_digest": period.digest.hex(),
        "slot": 9,
        "parent_root": ROOT.hex(),
        "size": len(block.ssz),
    }
    assert file_name(3, facts) == f"00003-000000000009-{period.fork}.ssz"
    blob = (5).to_bytes(8, "little") + bytes(131072 + 96) + (77).to_bytes(8, "little") + bytes(300)
    facts = answer_facts(method("blob_sidecars_by_root"), ForkBytes(b"nope", blob), CHAIN)
    assert (facts["slot"], facts["index"], facts["fork"]) == (77, 5, None)
    assert file_name(1, facts) == "00001-000000000077-005-6e6f7065.ssz"
    column = (127).to_bytes(8, "little") + bytes(12) + (78).to_bytes(8, "little") + bytes(300)
    facts = answer_facts(method("data_column_sidecars_by_root"), ForkBytes(period.digest, column), CHAIN)
    assert (facts["slot"], facts["index"]) == (78, 127)
    facts = answer_facts(method("light_client_bootstrap"), ForkBytes(period.digest, b"x"), CHAIN)
    assert file_name(1, facts) == f"00001-{period.fork}.ssz"


def test_values_are_told_by_their_fields() -> None:
    metadata = MetaDataV2(4, frozenset((9, 3)), frozenset((1,)))
    assert answer_facts(method("metadata"), metadata, CHAIN) == {"seq_number": 4, "attnets": [3, 9], "syncnets": [1]}
    assert answer_facts(method("ping"), 8, CHAIN) == {"seq_number": 8}
    assert answer_facts(method("goodbye"), 129, CHAIN) == {"code": 129, "text": "too many peers"}
    status = StatusV2(CHAIN.schedule[0].digest, bytes(32), 1, HEAD, 50, 2)
    facts = answer_facts(method("status"), status, CHAIN)
    assert (facts["fork"], facts["head_slot"], facts["earliest_available_slot"]) == ("altair", 50, 2)
