"""The containers: the vectors whole, each against another implementation of SSZ, and every refusal by its field."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remerkleable.basic import uint64
from remerkleable.bitfields import Bitvector as RBitvector
from remerkleable.byte_arrays import ByteList as RByteList
from remerkleable.byte_arrays import Bytes4, Bytes32
from remerkleable.complex import Container as RContainer
from remerkleable.complex import List as RList

from pyp2p.beacon import containers as c
from pyp2p.beacon.ssz import Bitvector, ByteList, ByteVector, Container, SszList, Uint
from pyp2p.errors import LocalProtocolError, WireError
from tests.vectors import load

VECTORS = load("eth2_ssz")
MAX = (1 << 64) - 1
RANGE = c.BeaconBlocksByRangeRequest
COLUMNS = c.DataColumnSidecarsByRangeRequest
IDENTIFIER = c.DataColumnsByRootIdentifier


class RStatusV1(RContainer):
    fork_digest: Bytes4
    finalized_root: Bytes32
    finalized_epoch: uint64
    head_root: Bytes32
    head_slot: uint64


class RStatusV2(RStatusV1):
    earliest_available_slot: uint64


class RMetaDataV1(RContainer):
    seq_number: uint64
    attnets: RBitvector[64]


class RMetaDataV2(RMetaDataV1):
    syncnets: RBitvector[4]


class RMetaDataV3(RMetaDataV2):
    custody_group_count: uint64


class RENRForkID(RContainer):
    fork_digest: Bytes4
    next_fork_version: Bytes4
    next_fork_epoch: uint64


class RForkData(RContainer):
    current_version: Bytes4
    genesis_validators_root: Bytes32


class RCheckpoint(RContainer):
    epoch: uint64
    root: Bytes32


class RBeaconBlockHeader(RContainer):
    slot: uint64
    proposer_index: uint64
    parent_root: Bytes32
    state_root: Bytes32
    body_root: Bytes32


class RBlocksByRange(RContainer):
    start_slot: uint64
    count: uint64
    step: uint64


class RTwoNumbers(RContainer):
    first: uint64
    second: uint64


class RBlobIdentifier(RContainer):
    block_root: Bytes32
    index: uint64


class RColumnsByRange(RContainer):
    start_slot: uint64
    count: uint64
    columns: RList[uint64, 128]


class RColumnsByRoot(RContainer):
    block_root: Bytes32
    columns: RList[uint64, 128]


class RBlocksByHead(RContainer):
    beacon_root: Bytes32
    count: uint64


# Ours, and the same of remerkleable.
TYPES = {
    "Status v1": (c.StatusV1.ssz(), RStatusV1),
    "Status v2": (c.StatusV2.ssz(), RStatusV2),
    "MetaData v1": (c.MetaDataV1.ssz(), RMetaDataV1),
    "MetaData v2": (c.MetaDataV2.ssz(), RMetaDataV2),
    "MetaData v3": (c.MetaDataV3.ssz(), RMetaDataV3),
    "uint64": (c.PING, uint64),
    "ENRForkID": (c.ENRForkID.ssz(), RENRForkID),
    "ForkData": (c.ForkData.ssz(), RForkData),
    "Checkpoint": (c.Checkpoint.ssz(), RCheckpoint),
    "BeaconBlockHeader": (c.BeaconBlockHeader.ssz(), RBeaconBlockHeader),
    "BeaconBlocksByRange request": (RANGE.ssz(), RBlocksByRange),
    "BlobSidecarsByRange request": (c.BlobSidecarsByRangeRequest.ssz(), RTwoNumbers),
    "LightClientUpdatesByRange request": (c.LightClientUpdatesByRangeRequest.ssz(), RTwoNumbers),
    "DataColumnSidecarsByRange request": (COLUMNS.ssz(), RColumnsByRange),
    "BeaconBlocksByHead request": (c.BeaconBlocksByHeadRequest.ssz(), RBlocksByHead),
    "List[Root]": (c.block_roots(128), RList[Bytes32, 128]),
    "List[BlobIdentifier]": (c.blob_identifiers(768), RList[RBlobIdentifier, 768]),
    "List[DataColumnsByRootIdentifier]": (c.data_columns_by_root(128), RList[RColumnsByRoot, 128]),
    "ErrorMessage": (ByteList(256), RByteList[256]),
}


def value_of(kind, said):
    """What a vector's `fields` say, as a value of ours."""
    if isinstance(kind, Uint):
        return int(said)
    if isinstance(kind, ByteVector):
        return bytes.fromhex(said)
    if isinstance(kind, Bitvector):
        return frozenset(said)
    if isinstance(kind, SszList):
        return tuple(value_of(kind.element, each) for each in said)
    return kind.made(**{name: value_of(part, said[name]) for name, part in kind.layout})


def vector_value(kind, said):
    if isinstance(kind, ByteList):
        return said["text"].encode()
    if isinstance(kind, Uint | SszList):
        (said,) = said.values()
    return value_of(kind, said)


@pytest.mark.parametrize("case", VECTORS["encodings"], ids=lambda case: case["name"])
def test_vector_encodes_decodes_and_has_its_root(case):
    kind, _ = TYPES[case["type"]]
    value = vector_value(kind, case["fields"])
    kind.check(value, "value")
    raw = bytes.fromhex(case["ssz"])
    assert kind.encode(value) == raw
    assert kind.decode(raw) == value
    assert len(raw) == case["size"] and kind.least <= len(raw) <= kind.most
    assert kind.hash_tree_root(value).hex() == case["hash_tree_root"]


@pytest.mark.parametrize("case", VECTORS["invalid"], ids=lambda case: case["name"])
def test_vector_is_refused(case):
    kind, _ = TYPES[case["type"]]
    with pytest.raises(WireError):
        kind.decode(bytes.fromhex(case["ssz"]))


def values(kind):
    """Any value of a type."""
    if isinstance(kind, Uint):
        return st.integers(0, (1 << 8 * kind.most) - 1)
    if isinstance(kind, ByteVector):
        return st.binary(min_size=kind.most, max_size=kind.most)
    if isinstance(kind, ByteList):
        return st.binary(max_size=kind.most)
    if isinstance(kind, Bitvector):
        return st.frozensets(st.integers(0, kind.bits - 1))
    if isinstance(kind, SszList):
        return st.lists(values(kind.element), max_size=5).map(tuple)
    return st.builds(kind.made, *(values(part) for _, part in kind.layout))


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
def test_another_implementation_agrees(name, data):
    kind, theirs = TYPES[name]
    value = data.draw(values(kind))
    raw = kind.encode(value)
    read = theirs.decode_bytes(raw)
    assert read.encode_bytes() == raw
    assert bytes(read.hash_tree_root()) == kind.hash_tree_root(value)
    assert kind.decode(raw) == value


# Byte strings that nearly are what they should be: where offsets and lengths stand, small numbers are likely.
NEARLY = st.lists(st.sampled_from([0, 1, 4, 8, 12, 20, 36, 40, 44, 255]), max_size=120).map(bytes)


@pytest.mark.parametrize("name", TYPES)
@given(raw=NEARLY | st.binary(max_size=120))
def test_what_decodes_encodes_to_the_same_bytes(name, raw):
    kind, theirs = TYPES[name]
    try:
        value = kind.decode(raw)
    except WireError:
        return
    assert kind.encode(value) == raw
    assert theirs.decode_bytes(raw).encode_bytes() == raw


ROOT_BYTES = bytes(range(32))


def columns_by_root(*offsets: int, tail: bytes = b"") -> bytes:
    return b"".join(offset.to_bytes(4, "little") for offset in offsets) + tail


# One identifier is 32 bytes of root, an offset of 36, and columns.
ONE = ROOT_BYTES + (36).to_bytes(4, "little") + (7).to_bytes(8, "little")


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("kind", "raw", "field"),
    [
        (COLUMNS.ssz(), bytes(16) + columns_by_root(19) + bytes(16), ".columns: offset 19"),  # overlaps what is before
        (COLUMNS.ssz(), bytes(16) + columns_by_root(28) + bytes(16), ".columns: offset 28"),  # leaves a gap
        (COLUMNS.ssz(), bytes(16) + columns_by_root(MAX >> 32) + bytes(16), ".columns: offset 4294967295"),
        (COLUMNS.ssz(), bytes(16) + columns_by_root(20) + bytes(9), ".columns: 9 bytes are no whole number"),
        (
            COLUMNS.ssz(),
            bytes(16) + columns_by_root(20) + bytes(8 * 129),
            "DataColumnSidecarsByRangeRequest: 1052 bytes",
        ),
        (c.data_columns_by_root(2), columns_by_root(0) + ONE, "first offset is 0"),
        (c.data_columns_by_root(2), columns_by_root(5) + ONE, "first offset is 5"),
        (c.data_columns_by_root(2), columns_by_root(400) + ONE, "first offset is 400"),
        (c.data_columns_by_root(2), b"\4\0\0", "first offset is 4, of 3 bytes"),
        (c.data_columns_by_root(2), columns_by_root(8, 4) + ONE, "[0]: goes from byte 8 to 4"),  # out of order
        (c.data_columns_by_root(2), columns_by_root(8, 8) + ONE, "[0]: 0 bytes"),  # twice the same: nothing in between
        (c.data_columns_by_root(2), columns_by_root(8, 900) + ONE, "[0]: goes from byte 8 to 900"),
        (c.data_columns_by_root(2), columns_by_root(12, 12, 12) + ONE, "3 elements, over the limit of 2"),
        (c.data_columns_by_root(2), columns_by_root(4) + ONE[:32] + b"\x25" + ONE[33:], "[0].columns: offset 37"),
    ],
)
def test_hostile_085_offsets_that_overlap_leave_gaps_or_go_back_are_refused(kind, raw, field):
    with pytest.raises(WireError) as caught:
        kind.decode(raw)
    assert field in str(caught.value)


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("asked", "limit", "field"),
    [
        (RANGE(0, 0), 128, "BeaconBlocksByRangeRequest.count: 0"),
        (RANGE(0, MAX), 128, "BeaconBlocksByRangeRequest.count: 18446744073709551615"),
        (RANGE(0, 129), 128, "BeaconBlocksByRangeRequest.count: 129"),
        (RANGE(0, 1, 0), 128, "BeaconBlocksByRangeRequest.step: 0"),
        (RANGE(0, 1, 2), 128, "BeaconBlocksByRangeRequest.step: 2"),
        (RANGE(MAX, 2), 128, "BeaconBlocksByRangeRequest.start_slot: 18446744073709551615"),
        (c.BlobSidecarsByRangeRequest(0, 0), 128, "BlobSidecarsByRangeRequest.count: 0"),
        (c.BlobSidecarsByRangeRequest(MAX - 3, 5), 128, "BlobSidecarsByRangeRequest.start_slot"),
        (COLUMNS(0, 129, (0,)), 128, "DataColumnSidecarsByRangeRequest.count: 129"),
        (COLUMNS(0, 1, ()), 128, "DataColumnSidecarsByRangeRequest.columns: none"),
        (COLUMNS(0, 1, (0, 128)), 128, "DataColumnSidecarsByRangeRequest.columns: 128"),
        (c.BeaconBlocksByHeadRequest(ROOT_BYTES, 0), 128, "BeaconBlocksByHeadRequest.count: 0"),
        (c.BeaconBlocksByHeadRequest(ROOT_BYTES, 129), 128, "BeaconBlocksByHeadRequest.count: 129"),
        (c.LightClientUpdatesByRangeRequest(0, 129), 128, "LightClientUpdatesByRangeRequest.count: 129"),
        (c.LightClientUpdatesByRangeRequest(MAX, 2), 128, "LightClientUpdatesByRangeRequest.start_period"),
    ],
    ids=str,
)
def test_hostile_079_ranges_of_nothing_too_much_or_past_the_end_are_refused(asked, limit, field):
    with pytest.raises(WireError) as caught:
        asked.check(limit)
    assert str(caught.value).startswith(field)


def test_ranges_up_to_the_limit_and_to_the_last_slot_may_be_asked_for():
    RANGE(0, 1024).check(1024)
    RANGE(MAX, 1).check(128)
    RANGE(MAX - 127, 128).check(128)
    c.BlobSidecarsByRangeRequest(5, 128).check(128)
    COLUMNS(MAX, 1, (127, 0, 0)).check(128)
    c.BeaconBlocksByHeadRequest(ROOT_BYTES, 128).check(128)
    c.LightClientUpdatesByRangeRequest(MAX, 1).check(128)


@pytest.mark.hostile
def test_hostile_079_requests_by_root_of_nothing_or_of_columns_that_are_not_there_are_refused():
    c.check_by_root((ROOT_BYTES,))
    c.check_by_root((c.BlobIdentifier(ROOT_BYTES, 0),))
    c.check_by_root((IDENTIFIER(ROOT_BYTES, (0, 127)),))
    for asked, field in (
        ((), "request by root"),
        ((IDENTIFIER(ROOT_BYTES, (1,)), IDENTIFIER(ROOT_BYTES, ())), "DataColumnsByRootIdentifier[1].columns: none"),
        ((IDENTIFIER(ROOT_BYTES, (128,)),), "DataColumnsByRootIdentifier[0].columns: 128"),
    ):
        with pytest.raises(WireError) as caught:
            c.check_by_root(asked)
        assert str(caught.value).startswith(field)


@pytest.mark.hostile
@pytest.mark.parametrize(("count", "limit"), [(1025, 1024), (129, 128)])
def test_hostile_079_more_roots_than_the_fork_allows_are_refused_by_their_size(count, limit):
    assert len(c.block_roots(limit).decode(bytes(32 * limit))) == limit
    with pytest.raises(WireError) as caught:
        c.block_roots(limit).decode(bytes(32 * count))
    assert str(32 * count) in str(caught.value)


@pytest.mark.parametrize(
    ("made", "values", "field"),
    [
        (c.StatusV1, (b"abc", ROOT_BYTES, 0, ROOT_BYTES, 0), "StatusV1.fork_digest"),
        (c.StatusV1, (b"abcd", "x" * 32, 0, ROOT_BYTES, 0), "StatusV1.finalized_root"),
        (c.StatusV1, (b"abcd", ROOT_BYTES, -1, ROOT_BYTES, 0), "StatusV1.finalized_epoch"),
        (c.StatusV2, (b"abcd", ROOT_BYTES, 0, ROOT_BYTES, 0, MAX + 1), "StatusV2.earliest_available_slot"),
        (c.MetaDataV1, (0, frozenset({64})), "MetaDataV1.attnets"),
        (c.MetaDataV1, (0, {1}), "MetaDataV1.attnets"),
        (c.MetaDataV2, (0, frozenset(), frozenset({4})), "MetaDataV2.syncnets"),
        (COLUMNS, (0, 1, [0]), "DataColumnSidecarsByRangeRequest.columns"),
        (COLUMNS, (0, 1, (0,) * 129), "DataColumnSidecarsByRangeRequest.columns"),
        (COLUMNS, (0, 1, (0, -1)), "DataColumnSidecarsByRangeRequest.columns[1]"),
    ],
)
def test_a_field_that_is_not_of_its_type_is_named_when_the_container_is_made(made, values, field):
    with pytest.raises(LocalProtocolError) as caught:
        made(*values)
    assert str(caught.value).startswith(field + " must be")


def test_lists_name_the_element_that_does_not_fit():
    with pytest.raises(LocalProtocolError, match=r"^roots\[1\] must be"):
        c.block_roots(2).check((ROOT_BYTES, b""), "roots")
    with pytest.raises(LocalProtocolError, match=r"^ids\[0\] must be a BlobIdentifier"):
        c.blob_identifiers(2).check((ROOT_BYTES,), "ids")
    with pytest.raises(LocalProtocolError, match=r"^text must be"):
        ByteList(256).check(b"a" * 257, "text")


@pytest.mark.parametrize(
    ("kind", "raw", "text"),
    [
        (c.StatusV1.ssz(), bytes(83), "StatusV1: 83 bytes instead of 84"),
        (c.PING, bytes(7), "uint64: 7 bytes instead of 8"),
        (c.MetaDataV2.ssz(), bytes(16) + b"\x10", "MetaDataV2.syncnets: bit 4 is set, the last one is 3"),
        (c.block_roots(2), bytes(33), "List[Bytes32, 2]: 33 bytes are no whole number of elements of 32"),
        (ByteList(256), bytes(257), "List[byte, 256]: 257 bytes instead of 0 to 256"),
    ],
)
def test_what_cannot_be_decoded_names_type_and_field(kind, raw, text):
    with pytest.raises(WireError) as caught:
        kind.decode(raw)
    assert str(caught.value) == text
    with pytest.raises(WireError) as caught:
        kind.decode(raw, "request")
    assert str(caught.value).startswith("request")


@pytest.mark.parametrize(
    ("made", "size"),
    [
        (c.StatusV1, 84),
        (c.StatusV2, 92),
        (c.MetaDataV1, 16),
        (c.MetaDataV2, 17),
        (c.MetaDataV3, 25),
        (c.ENRForkID, 16),
        (RANGE, 24),
        (c.BeaconBlockHeader, 112),
    ],
)
def test_sizes_are_those_of_the_specs(made, size):
    assert made.ssz().fixed and made.ssz().most == size


def test_frozen_and_without_dict():
    status = c.StatusV1(b"abcd", ROOT_BYTES, 0, ROOT_BYTES, 0)
    with pytest.raises(FrozenInstanceError):
        status.head_slot = 1
    assert not hasattr(status, "__dict__") and issubclass(c.StatusV1, Container)
    assert c.StatusV1.decode(status.encode()) == status
    assert status.hash_tree_root() == c.StatusV1.ssz().hash_tree_root(status)


def test_reasons_to_leave_have_the_numbers_in_use():
    assert [int(reason) for reason in c.GoodbyeReason] == [1, 2, 3, 128, 129, 250, 251]
