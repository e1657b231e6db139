"""The requests of the beacon chain as they are declared: the vectors whole, what may be asked, what may be answered."""

import hashlib
from dataclasses import replace

import pytest

from pyp2p.beacon.chain import FORKS
from pyp2p.beacon.chainfile import load_chain
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
    data_columns_by_root,
)
from pyp2p.beacon.devchain import dev_chain, make_block
from pyp2p.beacon.methods import QUOTAS, ForkBytes, Methods
from pyp2p.beacon.topics import MAX_PAYLOAD_SIZE
from pyp2p.errors import LocalProtocolError, RemoteError, WireError
from pyp2p.io.varint import encode as varint
from pyp2p.reqresp.codec import Bounds, Kind
from pyp2p.reqresp.core import Chunk, ErrorChunk, ResponseWriter, request_bytes
from pyp2p.reqresp.declare import describe_methods
from pyp2p.reqresp.frames import max_compressed_len
from tests.unit.beacon.test_blocks import Blob, Column, Header, SignedHeader
from tests.unit.reqresp.support import answered, asked
from tests.vectors import load

VECTORS = load("eth2_reqresp")
SNAPPY = load("snappy")
MAINNET = Methods(load_chain("mainnet"))
CHAIN = dev_chain(0, epochs_per_fork=1)  # eight slots to a fork: altair to fulu, then one of blobs
DEV = Methods(CHAIN)
STEPS = [1, 5, 65536]
ROOT = bytes(range(32))
BY_NAME = {f"{method.name}/{method.version}": method for method in MAINNET}
STATUS = StatusV1(b"abcd", ROOT, 5, ROOT, 9)


def block(slot: int, parent: bytes = ROOT) -> ForkBytes:
    return ForkBytes(CHAIN.at_slot(slot).digest, make_block(CHAIN, slot, parent).ssz)


def said(method, request, *chunks) -> list:
    """What a client makes of these chunks, which a server of the same declaration sends."""
    writer = ResponseWriter(method, len(chunks))
    return list(answered(method, request, b"".join(map(writer.chunk, chunks))))


# --- which there are


def test_these_methods_there_are() -> None:
    assert list(BY_NAME) == [
        *("status/1", "status/2", "goodbye/1", "ping/1", "metadata/1", "metadata/2", "metadata/3"),
        *("beacon_blocks_by_range/1", "beacon_blocks_by_range/2"),
        *("beacon_blocks_by_root/1", "beacon_blocks_by_root/2", "beacon_blocks_by_head/1"),
        *("blob_sidecars_by_range/1", "blob_sidecars_by_root/1"),
        *("data_column_sidecars_by_range/1", "data_column_sidecars_by_root/1"),
        *("light_client_bootstrap/1", "light_client_updates_by_range/1"),
        *("light_client_finality_update/1", "light_client_optimistic_update/1"),
    ]
    assert MAINNET.ping.protocol == "/eth2/beacon_chain/req/ping/1/ssz_snappy"
    assert {method.name for method in MAINNET} == QUOTAS.keys()
    first = {name for name, method in BY_NAME.items() if method.before_admission}
    assert first == {"status/1", "status/2", "goodbye/1", "ping/1", "metadata/1", "metadata/2", "metadata/3"}


def test_each_method_is_documented() -> None:
    table = describe_methods(MAINNET)
    assert table.count("\n") == 2 + len(BY_NAME)
    assert all(method.about for method in MAINNET)
    assert "| `/eth2/beacon_chain/req/status/1/ssz_snappy` | Status, 84" in table


# --- the vectors

REQUESTS = {
    "status_v1_request_uncompressed_chunk": "status/1",
    "status_v1_request_compressed_chunk": "status/1",
    "ping_request": "ping/1",
    "goodbye_request": "goodbye/1",
    "blocks_by_root_two": "beacon_blocks_by_root/2",
    "metadata_request": "metadata/2",
}
RANGE = BeaconBlocksByRangeRequest(0, 10)
RESPONSES = {
    "status_v1_response": ("status/1", STATUS),
    "ping_response": ("ping/1", 0),
    "no_chunks": ("beacon_blocks_by_range/2", RANGE),
    "invalid_request": ("ping/1", 0),
    "server_error_empty_message": ("ping/1", 0),
    "resource_unavailable": ("beacon_blocks_by_range/2", RANGE),
    "client_specific_139": ("ping/1", 0),
}
# Well framed, and nothing that a beacon node would ask for or answer: blocks of 100 bytes, no root at all.
NOT_FOR_US = {
    "blocks_by_root_empty": ("beacon_blocks_by_root/2", "no root is asked for"),
    "two_chunks_with_fork_context": ("beacon_blocks_by_range/2", "404"),
    "success_then_error": ("beacon_blocks_by_range/2", "404"),
}


def valid(names) -> list[dict]:
    return [entry for entry in VECTORS["valid"] if entry["name"] in names]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("entry", valid(REQUESTS), ids=lambda entry: entry["name"])
def test_a_request_of_the_vectors(entry: dict, step: int) -> None:
    method = BY_NAME[REQUESTS[entry["name"]]]
    value = asked(method, bytes.fromhex(entry["bytes"]), step)
    payload = method.encode_request(value)
    assert payload.hex() == (entry["ssz"] or "")
    assert asked(method, request_bytes(method, payload), step) == value


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("entry", valid(RESPONSES), ids=lambda entry: entry["name"])
def test_an_answer_of_the_vectors(entry: dict, step: int) -> None:
    name, request = RESPONSES[entry["name"]]
    method = BY_NAME[name]
    got = list(answered(method, request, bytes.fromhex(entry["bytes"]), step))
    assert len(got) == len(entry["chunks"])
    for event, chunk in zip(got, entry["chunks"], strict=True):
        if chunk["result"]:
            assert event == ErrorChunk(chunk["result"], bytes.fromhex(chunk["ssz"]).decode())
        else:
            assert method.response.encode(event.value).hex() == chunk["ssz"]


@pytest.mark.hostile
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "entry",
    [each for each in VECTORS["invalid"] if each["name"] != "length_not_minimal"],
    ids=lambda entry: entry["name"],
)
def test_hostile_078_081_083_what_the_vectors_forbid(entry: dict, step: int) -> None:
    method, data = BY_NAME[entry["method"]], bytes.fromhex(entry["bytes"])
    request = RANGE if method.name == "beacon_blocks_by_range" else 0
    with pytest.raises(WireError):
        asked(method, data, step) if entry["kind"] == "request" else list(answered(method, request, data, step))


@pytest.mark.hostile
@pytest.mark.parametrize("name", NOT_FOR_US)
def test_hostile_078_083_what_is_well_framed_and_no_block_or_request(name: str) -> None:
    (entry,) = valid([name])
    method, words = BY_NAME[NOT_FOR_US[name][0]], NOT_FOR_US[name][1]
    data = bytes.fromhex(entry["bytes"])
    with pytest.raises(WireError, match=words):
        asked(method, data) if entry["kind"] == "request" else list(answered(method, RANGE, data))


def test_every_vector_was_used() -> None:
    used = REQUESTS.keys() | RESPONSES.keys() | NOT_FOR_US.keys()
    assert {entry["name"] for entry in VECTORS["valid"]} == used
    facts = VECTORS["facts"]
    assert facts["MAX_PAYLOAD_SIZE"] == MAX_PAYLOAD_SIZE
    assert facts["max_compressed_len(MAX_PAYLOAD_SIZE)"] == max_compressed_len(MAX_PAYLOAD_SIZE)


def in_frames(where: str) -> list:
    """The vectors of frames that hold their bytes; the two long ones are tested with the framing itself."""
    return [pytest.param(entry, id=entry["name"]) for entry in SNAPPY[where] if entry.get("framed")]


@pytest.mark.parametrize("entry", in_frames("framed_valid"))
def test_frames_of_the_vectors_carry_a_request_of_their_size_and_no_other(entry: dict) -> None:
    most = max_compressed_len(entry["data_size"])  # also where frames are legal, and bloated
    for size, fine in ((entry["data_size"], len(entry["framed"]) // 2 <= most), (entry["data_size"] + 1, False)):
        method = replace(MAINNET.ping, request=Kind("Said", Bounds(size, size), bytes, bytes))
        data = varint(size) + bytes.fromhex(entry["framed"])
        if fine:
            assert hashlib.sha256(asked(method, data)).hexdigest() == entry["data_sha256"]
        else:
            with pytest.raises(WireError):
                asked(method, data)


@pytest.mark.hostile
@pytest.mark.parametrize("entry", in_frames("framed_invalid"))
def test_hostile_082_bad_frames_of_the_vectors_are_no_request(entry: dict) -> None:
    with pytest.raises(WireError):
        asked(MAINNET.ping, varint(8) + bytes.fromhex(entry["framed"]))


# --- what may be asked


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("method", "request_", "words"),
    [
        (DEV.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(5, 0), r"count: 0, from 1 to \d+"),
        (DEV.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(5, 1 << 63), "count: "),
        (DEV.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(5, (1 << 64) - 1), "count: "),
        (DEV.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest((1 << 64) - 1, 2), "go over 64 bits"),
        (DEV.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(5, 5, 0), "step: 0, only 1"),
        (DEV.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(5, 5, 2), "step: 2, only 1"),
        (DEV.beacon_blocks_by_root_v2, (), "no root"),
        (DEV.beacon_blocks_by_head_v1, BeaconBlocksByHeadRequest(ROOT, 0), "count: 0"),
        (DEV.blob_sidecars_by_range_v1, BlobSidecarsByRangeRequest(5, 0), "count: 0"),
        (DEV.blob_sidecars_by_range_v1, BlobSidecarsByRangeRequest((1 << 64) - 1, 9), "go over 64 bits"),
        (DEV.blob_sidecars_by_root_v1, (), "no root"),
        (DEV.data_column_sidecars_by_range_v1, DataColumnSidecarsByRangeRequest(5, 0, (1,)), "count: 0"),
        (DEV.data_column_sidecars_by_range_v1, DataColumnSidecarsByRangeRequest(5, 5, ()), "none is asked for"),
        (DEV.data_column_sidecars_by_range_v1, DataColumnSidecarsByRangeRequest(5, 5, (128,)), "128, the last one"),
        (DEV.data_column_sidecars_by_root_v1, (), "no root"),
        (DEV.data_column_sidecars_by_root_v1, (DataColumnsByRootIdentifier(ROOT, ()),), "none is asked for"),
        (DEV.light_client_updates_by_range_v1, LightClientUpdatesByRangeRequest(5, 0), "count: 0"),
        (DEV.light_client_updates_by_range_v1, LightClientUpdatesByRangeRequest(5, 129), "count: 129"),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_hostile_079_who_asks_for_nothing_or_too_much_asks_wrongly(method, request_, words: str) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        method.encode_request(request_)  # ours: nothing is sent
    raw = unchecked(method, request_)
    with pytest.raises(WireError, match=words):
        asked(method, request_bytes(method, raw))


def unchecked(method, request_) -> bytes:
    """The request as SSZ, whether or not it may be asked."""
    if not isinstance(request_, tuple):
        return request_.encode()
    if method.name == "data_column_sidecars_by_root":
        return data_columns_by_root(1024).encode(request_)
    return b"".join(each if isinstance(each, bytes) else each.encode() for each in request_)


@pytest.mark.hostile
@pytest.mark.parametrize("size", [32 * 1025, 31, 33, 32 * 128 + 1])
def test_hostile_079_roots_are_whole_and_no_more_than_may_be_asked_for(size: int) -> None:
    method = DEV.beacon_blocks_by_root_v2
    with pytest.raises(WireError):
        asked(method, request_bytes(method, bytes(size)))


@pytest.mark.parametrize(
    ("method", "request_", "most"),
    [
        (DEV.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(5, 64), 64),
        (DEV.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(5, 1 << 63), 1024),
        (DEV.beacon_blocks_by_root_v2, (ROOT,) * 3, 3),
        (DEV.beacon_blocks_by_head_v1, BeaconBlocksByHeadRequest(ROOT, 7), 7),
        (DEV.blob_sidecars_by_range_v1, BlobSidecarsByRangeRequest(5, 4), 48),
        (DEV.blob_sidecars_by_range_v1, BlobSidecarsByRangeRequest(5, (1 << 64) - 1), 1152),
        (DEV.blob_sidecars_by_root_v1, (BlobIdentifier(ROOT, 3),), 1),
        (DEV.data_column_sidecars_by_range_v1, DataColumnSidecarsByRangeRequest(5, 4, (1, 2, 3)), 12),
        (DEV.data_column_sidecars_by_root_v1, (DataColumnsByRootIdentifier(ROOT, (1, 2)),) * 2, 4),
        (DEV.light_client_updates_by_range_v1, LightClientUpdatesByRangeRequest(5, 3), 3),
        (DEV.ping, 5, 1),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_what_an_answer_may_hold_follows_from_the_request_and_has_a_ceiling(method, request_, most: int) -> None:
    assert method.chunks(request_) == most


def test_what_is_no_message_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="Ping"):
        DEV.ping.encode_request(1 << 64)
    with pytest.raises(LocalProtocolError, match="Status"):
        DEV.status_v1.encode_request(StatusV1(b"abc", ROOT, 5, ROOT, 9))
    with pytest.raises(LocalProtocolError, match="no content"):
        DEV.metadata_v2.encode_request(MetaDataV2(0, frozenset(), frozenset()))


# --- what may be answered


def test_blocks_of_a_range_in_order_with_gaps_across_a_fork() -> None:
    method, request = DEV.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(6, 5)
    blocks = [block(6), block(7), block(10)]
    assert [event.value for event in said(method, request, *blocks)] == blocks


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([block(5)], "block of slot 5, asked for were 6 to 10"),
        ([block(11)], "block of slot 11, asked for were 6 to 10"),
        ([block(7), block(6)], "block of slot 6 after one of slot 7"),
        ([block(7), block(7, b"!" * 32)], "block of slot 7 after one of slot 7"),
        ([ForkBytes(CHAIN.at_slot(16).digest, block(7).ssz)], "block of slot 7 with the context .*another fork"),
        ([ForkBytes(CHAIN.at_slot(7).digest, bytes(500))], "message is at 0, it stands at 100"),
    ],
    ids=range(6),
)
def test_hostile_083_blocks_that_were_not_asked_for(chunks: list[ForkBytes], words: str) -> None:
    with pytest.raises(RemoteError, match=words):
        said(DEV.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(6, 5), *chunks)


@pytest.mark.hostile
def test_hostile_083_more_chunks_than_were_asked_for() -> None:
    writer = ResponseWriter(DEV.beacon_blocks_by_range_v2, 3)
    data = b"".join(writer.chunk(block(slot)) for slot in (6, 7, 8))
    with pytest.raises(RemoteError):
        list(answered(DEV.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(6, 2), data))


def test_blocks_by_root_in_any_order_each_of_its_fork() -> None:
    method, request = DEV.beacon_blocks_by_root_v2, (ROOT, ROOT, ROOT)
    blocks = [block(9), block(3), block(3)]
    assert [event.value for event in said(method, request, *blocks)] == blocks
    with pytest.raises(RemoteError, match="which is of another fork"):
        said(method, request, ForkBytes(CHAIN.at_slot(9).digest, block(3).ssz))


def test_blocks_by_head_come_newest_first() -> None:
    method, request = DEV.beacon_blocks_by_head_v1, BeaconBlocksByHeadRequest(ROOT, 3)
    assert len(said(method, request, block(9), block(8), block(3))) == 3
    for wrong in ([block(8), block(9)], [block(8), block(8)]):
        with pytest.raises(RemoteError, match="newest first was asked for"):
            said(method, request, *wrong)


def test_the_old_versions_have_no_context_and_blocks_of_the_first_fork() -> None:
    method, request = DEV.beacon_blocks_by_range_v1, BeaconBlocksByRangeRequest(0, 20)
    assert said(method, request, block(3)) == [Chunk(block(3))]
    with pytest.raises(RemoteError, match="which is of another fork"):
        said(method, request, block(9))


def sidecar(kind, slot: int, index: int = 0) -> ForkBytes:
    whole = kind(index=index, signed_block_header=SignedHeader(message=Header(slot=slot)))
    if kind is Column:
        whole.column.append(bytes(2048))
    return ForkBytes(CHAIN.at_slot(slot).digest, whole.encode_bytes())


DENEB, FULU = 24, 40


def test_blobs_of_a_range_several_to_a_block() -> None:
    method, request = DEV.blob_sidecars_by_range_v1, BlobSidecarsByRangeRequest(DENEB, 4)
    blobs = [sidecar(Blob, DENEB, 0), sidecar(Blob, DENEB, 1), sidecar(Blob, DENEB + 2)]
    assert [event.value for event in said(method, request, *blobs)] == blobs
    for wrong, words in (
        ([blobs[2], blobs[0]], f"of slot {DENEB} after one of slot {DENEB + 2}"),
        ([sidecar(Blob, DENEB + 4)], "asked for were 24 to 27"),
    ):
        with pytest.raises(RemoteError, match=words):
            said(method, request, *wrong)


@pytest.mark.parametrize(
    ("method", "first"),
    [
        (DEV.beacon_blocks_by_root_v2, "altair"),
        (DEV.blob_sidecars_by_range_v1, "deneb"),
        (DEV.blob_sidecars_by_root_v1, "deneb"),
        (DEV.data_column_sidecars_by_range_v1, "fulu"),
        (DEV.data_column_sidecars_by_root_v1, "fulu"),
        (DEV.light_client_bootstrap_v1, "altair"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_contexts_are_those_of_the_forks_that_have_such_a_thing(method, first: str) -> None:
    known = [period.fork for period in CHAIN.schedule if method.response.kind(period.digest) is not None]
    assert known == [period.fork for period in CHAIN.schedule if FORKS.index(period.fork) >= FORKS.index(first)]


def test_a_light_client_has_no_data_of_before_altair() -> None:
    chain = load_chain("mainnet")
    response = MAINNET.light_client_bootstrap_v1.response
    assert response.kind(chain.at_epoch(0).digest) is None
    assert response.kind(chain.at_epoch(chain.fork_epoch("altair")).digest) is not None


@pytest.mark.hostile
def test_hostile_083_a_context_of_a_fork_that_has_no_such_thing_is_none() -> None:
    data = b"\0" + CHAIN.at_slot(3).digest + b"rest"
    for method, request in (
        (DEV.blob_sidecars_by_range_v1, BlobSidecarsByRangeRequest(0, 4)),
        (DEV.data_column_sidecars_by_root_v1, (DataColumnsByRootIdentifier(ROOT, (127,)),)),
    ):
        with pytest.raises(WireError, match="context"):
            list(answered(method, request, data))


@pytest.mark.hostile
def test_hostile_083_blobs_by_root_are_each_of_their_fork() -> None:
    method, request = DEV.blob_sidecars_by_root_v1, (BlobIdentifier(ROOT, 3),)
    blob = sidecar(Blob, DENEB, 3)
    assert [event.value for event in said(method, request, blob)] == [blob]
    with pytest.raises(RemoteError, match="which is of another fork"):
        said(method, request, ForkBytes(CHAIN.at_slot(FULU).digest, blob.ssz))


def test_columns_that_were_asked_for_and_no_others() -> None:
    method, request = DEV.data_column_sidecars_by_range_v1, DataColumnSidecarsByRangeRequest(FULU, 4, (3, 5))
    columns = [sidecar(Column, FULU, 3), sidecar(Column, FULU, 5), sidecar(Column, FULU + 1, 3)]
    assert [event.value for event in said(method, request, *columns)] == columns
    with pytest.raises(RemoteError, match="column 4, which was not asked for"):
        said(method, request, sidecar(Column, FULU, 4))
    with pytest.raises(RemoteError, match="asked for were 40 to 43"):
        said(method, request, sidecar(Column, FULU + 4, 3))


@pytest.mark.hostile
def test_hostile_083_a_column_by_root_that_was_not_asked_for() -> None:
    method, request = DEV.data_column_sidecars_by_root_v1, (DataColumnsByRootIdentifier(ROOT, (3, 5)),)
    assert said(method, request, sidecar(Column, FULU, 5))
    with pytest.raises(RemoteError, match="column 4, which was not asked for"):
        said(method, request, sidecar(Column, FULU, 4))


# --- what it may cost


def test_quotas_let_a_syncing_peer_have_its_blocks_and_a_flooder_no_more() -> None:
    quota = DEV.beacon_blocks_by_range_v2.quota
    assert (quota.peer.burst, quota.peer.per_second) == (1024, pytest.approx(102.4))
    for method in DEV:
        assert method.quota.total.burst > method.quota.peer.burst, method.name
        assert method.quota.total.per_second > method.quota.peer.per_second, method.name
    status, ping = DEV.status_v2.quota.peer, DEV.ping.quota.peer
    assert (status.burst, status.per_second) == (5, pytest.approx(1 / 3))  # 5 in 15 s, as lighthouse has it
    assert (ping.burst, ping.per_second) == (2, pytest.approx(1 / 5))
    assert DEV.goodbye.quota.peer.burst == DEV.light_client_bootstrap_v1.quota.peer.burst == 1


@pytest.mark.parametrize("methods", [DEV, MAINNET], ids=["dev", "mainnet"])
def test_no_request_that_may_be_made_is_held_up_by_its_quota_alone(methods: Methods) -> None:
    for method in methods:
        if "_by_" in method.name:
            assert method.quota.peer.burst >= method.ceiling, method.protocol
    assert MAINNET.data_column_sidecars_by_range_v1.ceiling == 128 * 128
    assert MAINNET.data_column_sidecars_by_root_v1.ceiling == 128 * 128


def test_how_much_may_be_asked_for_follows_the_fork_of_now() -> None:
    chain, epoch = load_chain("mainnet"), [0]
    methods = Methods(chain, lambda: epoch[0])
    many = BeaconBlocksByRangeRequest(0, 129).encode()
    roots = bytes(32 * 129)
    by_range, by_root = methods.beacon_blocks_by_range_v2.request, methods.beacon_blocks_by_root_v2.request
    assert by_range.decode(many).count == len(by_root.decode(roots)) == 129
    epoch[0] = chain.fork_epoch("deneb")
    with pytest.raises(WireError, match="from 1 to 128"):
        by_range.decode(many)
    with pytest.raises(WireError, match="129 blocks, 128 may be asked for"):
        by_root.decode(roots)
