"""What a peer of the beacon chain can send, taken whole: requests, answers, containers, statuses, blocks, topics.

The input's first byte says how large the pieces are, as in `targets.py`; where there is a choice of methods or types
the second byte makes it. Valid inputs come from the public vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cramjam

from pyp2p.beacon.chainfile import chain_text, load_chain, parse_chain
from pyp2p.beacon.containers import (
    GOODBYE,
    BeaconBlockHeader,
    BeaconBlocksByHeadRequest,
    BeaconBlocksByRangeRequest,
    BlobSidecarsByRangeRequest,
    Checkpoint,
    DataColumnSidecarsByRangeRequest,
    ENRForkID,
    ForkData,
    LightClientUpdatesByRangeRequest,
    MetaDataV1,
    MetaDataV2,
    MetaDataV3,
    StatusV1,
    StatusV2,
    blob_identifiers,
    block_roots,
    data_columns_by_root,
)
from pyp2p.beacon.devchain import DEV_FORKS, dev_chain, genesis_block, make_block, read_block
from pyp2p.beacon.gossip import topic_filter
from pyp2p.beacon.methods import ForkBytes, Methods
from pyp2p.beacon.status import ChainStatus, irrelevance
from pyp2p.beacon.topics import GOSSIP_TYPES, Topic, max_payload, parse_topic
from pyp2p.errors import RemoteError
from pyp2p.reqresp.codec import Kind
from pyp2p.reqresp.core import Chunk, ErrorChunk, RequestReader, ResponseReader, ResponseWriter, request_bytes
from pyp2p.reqresp.declare import Method
from pyp2p.reqresp.frames import FrameReader, SnappyFrames, max_compressed_len
from tests.vectors import load

CHAIN = dev_chain(1_750_000_000, epochs_per_fork=2)
METHODS: list[Method[Any, Any]] = list(Methods(CHAIN))
SLOTS = len(CHAIN.schedule) * 2 * CHAIN.slots_per_epoch
HEAD = 32  # bytes that stand before a payload: result, context, length

# A request of each name that asks for something, so that an answer has chunks.
ROOT = bytes(range(32))
ASKED: dict[str, Any] = {
    "status": StatusV1(CHAIN.schedule[0].digest, bytes(32), 0, ROOT, 1),
    "goodbye": 1,
    "ping": 7,
    "metadata": None,
    "beacon_blocks_by_range": BeaconBlocksByRangeRequest(0, SLOTS),
    "beacon_blocks_by_root": (ROOT, bytes(32)),
    "beacon_blocks_by_head": BeaconBlocksByHeadRequest(ROOT, 4),
    "blob_sidecars_by_range": BlobSidecarsByRangeRequest(0, SLOTS),
    "blob_sidecars_by_root": blob_identifiers(2).decode(bytes(80)),
    "data_column_sidecars_by_range": DataColumnSidecarsByRangeRequest(0, SLOTS, (0, 5)),
    "data_column_sidecars_by_root": data_columns_by_root(1).decode(b"\4\0\0\0" + ROOT + b"\x24\0\0\0" + bytes(8)),
    "light_client_bootstrap": ROOT,
    "light_client_updates_by_range": LightClientUpdatesByRangeRequest(0, 4),
    "light_client_finality_update": None,
    "light_client_optimistic_update": None,
}


def asked(method: Method[Any, Any]) -> Any:
    if method.name == "status" and method.version == 2:
        return StatusV2(CHAIN.schedule[-1].digest, bytes(32), 0, ROOT, 1, 0)
    return ASKED[method.name]


def chunks(method: Method[Any, Any]) -> list[Any]:
    """What a sound server may answer, as far as that can be made up."""
    answer = {"metadata": [MetaDataV1, MetaDataV2, MetaDataV3]}.get(method.name)
    if answer is not None:
        return [answer[method.version - 1].ssz().zero]
    if method.name in ("status", "goodbye", "ping"):
        return [asked(method)]
    if "blocks" in method.name:
        blocks, last = [], genesis_block(CHAIN)
        for slot in range(1, SLOTS, 2 * CHAIN.slots_per_epoch):
            last = make_block(CHAIN, slot, last.root)
            blocks.append(ForkBytes(CHAIN.at_slot(slot).digest, last.ssz))
        if isinstance(method.response, Kind):
            return blocks[:1]
        return blocks[::-1] if method.name.endswith("head") else blocks
    return [ForkBytes(CHAIN.schedule[-1].digest, bytes(700))]


def requests() -> Iterator[bytes]:
    for number, method in enumerate(METHODS):
        yield bytes((number,)) + request_bytes(method, method.encode_request(asked(method)))


def responses() -> Iterator[bytes]:
    for number, method in enumerate(METHODS):
        writer: ResponseWriter[Any, Any] = ResponseWriter(method, 1024)
        values = [each for each in chunks(method) if _fits(method, each)]
        for some in (values[:1], values[-1:], values):
            yield bytes((number,)) + b"".join(map(writer.chunk, some))
        yield bytes((number,)) + writer.error(3, "no such block \x1b[2J")


def _fits(method: Method[Any, Any], value: Any) -> bool:
    return not isinstance(value, ForkBytes) or "blocks" in method.name or "light" in method.name


def one_request(data: bytes, pieces: Iterator[bytes]) -> None:
    """To a server: what is taken is one encoding of what it means, and what is held is bounded by the declaration."""
    method = METHODS[(data[1] if len(data) > 1 else 0) % len(METHODS)]
    most = 0 if method.request is None else max_compressed_len(method.request.bounds.most) + HEAD
    reader: RequestReader[Any, Any] = RequestReader(method)
    for piece in pieces:
        reader.feed(piece)
        assert len(reader._buffer.data) <= most + len(piece)
    request = reader.finish()
    assert 0 <= method.chunks(request) <= method.ceiling
    if method.request is not None:
        assert method.request.decode(method.encode_request(request)) == request
    assert method.protocol.isprintable()


def one_response(data: bytes, pieces: Iterator[bytes]) -> None:
    """To a client that reads each chunk as soon as it can."""
    method = METHODS[(data[1] if len(data) > 1 else 0) % len(METHODS)]
    kinds = [method.response] if isinstance(method.response, Kind) else list(_kinds(method))
    most = max_compressed_len(max(kind.bounds.most for kind in kinds)) + HEAD
    reader: ResponseReader[Any, Any] = ResponseReader(method, asked(method))
    for piece in pieces:
        reader.feed(piece)
        while (event := reader.next()) is not None:
            if isinstance(event, ErrorChunk):
                assert event.text.isprintable() and len(event.text) < 2048
                return
            assert isinstance(event, Chunk)
        assert reader.count <= method.ceiling
        assert len(reader._buffer.data) <= most + len(piece)
    reader.finish()
    assert reader.count >= method.least


def _kinds(method: Method[Any, Any]) -> Iterator[Kind[Any]]:
    for period in CHAIN.schedule:
        kind = method.response.kind(period.digest)
        if kind is not None:
            yield kind


SSZ_TYPES: list[Any] = [
    *(
        each.ssz()
        for each in (
            *(StatusV1, StatusV2, MetaDataV1, MetaDataV2, MetaDataV3, ENRForkID, ForkData, Checkpoint),
            *(BeaconBlockHeader, BeaconBlocksByRangeRequest, BlobSidecarsByRangeRequest, BeaconBlocksByHeadRequest),
            *(DataColumnSidecarsByRangeRequest, LightClientUpdatesByRangeRequest),
        )
    ),
    GOODBYE,
    block_roots(128),
    blob_identifiers(128),
    data_columns_by_root(128),
]


def containers() -> Iterator[bytes]:
    """Each encoding of the vectors, as each type that it may be."""
    cases = load("eth2_ssz")
    for raw in sorted({bytes.fromhex(case["ssz"]) for case in (*cases["encodings"], *cases["invalid"])}):
        for number, kind in enumerate(SSZ_TYPES):
            if kind.least <= len(raw) <= kind.most:
                yield bytes((number,)) + raw


def one_container(data: bytes) -> None:
    """What decodes has one encoding and a root."""
    kind = SSZ_TYPES[(data[1] if len(data) > 1 else 0) % len(SSZ_TYPES)]
    value = kind.decode(data[2:], "fuzzed")
    kind.check(value, "fuzzed")
    assert kind.encode(value) == data[2:]
    assert len(kind.hash_tree_root(value)) == 32


def frames() -> Iterator[bytes]:
    """Behind the size that is declared, in three bytes."""
    cases = load("snappy")
    for case in (*cases["framed_valid"], *cases["framed_invalid"]):
        if case["framed"] is not None:  # of the large ones only hashes are there
            yield case.get("data_size", 100).to_bytes(3, "little") + bytes.fromhex(case["framed"])
    for size in (0, 1, 1000, 70_000):
        yield size.to_bytes(3, "little") + SnappyFrames().pack(b"ab" * (size // 2) + b"a" * (size % 2))


def one_stream_of_frames(data: bytes, pieces: Iterator[bytes]) -> None:
    """As much memory as was declared, and the content that the library finds by itself."""
    size = int.from_bytes(data[1:4], "little") % (1 << 18)
    reader = FrameReader(size, max_compressed_len(size))
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        end = reader.scan(buffer)
        if end is not None:
            payload = reader.payload(buffer[:end])
            assert len(payload) == size
            assert bytes(cramjam.snappy.decompress(bytes(buffer[:end]))) == payload
            return
        assert len(buffer) <= max_compressed_len(size) + len(piece)


MAINNET = chain_text(load_chain("mainnet"))


def chain_files() -> Iterator[bytes]:
    """Whole, and in parts: TOML of 4 KiB is little of one with bootnodes."""
    yield chain_text(CHAIN).encode()
    for start in range(0, len(MAINNET), 3000):
        yield MAINNET[start : start + 3500].encode()
    yield "\n".join(line for line in MAINNET.splitlines() if "enr:" not in line).encode()


def one_chain_file(text: str) -> None:
    """A chain, which is written and read as the same, or a `ValueError` that names the source."""
    try:
        chain = parse_chain(text, "fuzzed")
    except RemoteError as error:
        raise AssertionError("a file is no peer") from error
    except ValueError as error:
        if not str(error).startswith("fuzzed: "):
            raise
        return
    assert parse_chain(chain_text(chain)) == chain
    for period in chain.schedule:
        assert chain.by_digest(period.digest) is period
    list(Methods(chain))


def topics() -> Iterator[bytes]:
    for kind in GOSSIP_TYPES.values():
        for period in (CHAIN.schedule[0], CHAIN.schedule[-1]):
            yield str(Topic(period.digest, kind, 0 if kind.subnets else None)).encode()
            yield str(Topic(bytes(4), kind, 63 if kind.subnets else None)).encode()


ALLOWS = topic_filter(CHAIN)


def one_topic(name: str) -> None:
    """What is a topic has one name."""
    topic = parse_topic(name)
    assert (max_payload(name) > 0) == (topic is not None)
    assert not ALLOWS(name) or topic is not None
    if topic is not None:
        assert str(topic) == name
        assert max_payload(name) == topic.type.most


def statuses() -> Iterator[bytes]:
    """What we take for the chain, the slot of now, then the peer's status."""
    for slot in (0, 40, SLOTS):
        for period in CHAIN.schedule:
            for said in (StatusV1(period.digest, ROOT, 2, ROOT, slot), StatusV2(period.digest, ROOT, 9, ROOT, slot, 0)):
                yield slot.to_bytes(8, "little", signed=True) + b"\2" + said.encode()


def one_status(data: bytes) -> None:
    """Any status at any time, before genesis too: of use, or one line that says why not."""
    slot = min(max(int.from_bytes(data[1:9], "little", signed=True), -(1 << 40)), 1 << 40)  # a clock says no more
    kind = StatusV1 if len(data) == 10 + StatusV1.ssz().most else StatusV2
    theirs = kind.ssz().decode(data[10:], "Status")
    ours = ChainStatus(finalized_root=ROOT, finalized_epoch=data[9], head_root=ROOT, head_slot=max(slot, 0))
    for final in (None, lambda epoch: bytes((epoch % 256,)) * 32 if epoch % 2 else None):
        why = irrelevance(theirs, ours, CHAIN, slot, final)
        assert why is None or (why.isprintable() and len(why) < 300)
        if why is None:
            assert CHAIN.by_digest(theirs.fork_digest) is not None
            assert theirs.head_slot <= max(slot, 0) + 1


def blocks() -> Iterator[bytes]:
    for number in range(len(DEV_FORKS)):
        yield make_block(CHAIN, number * 2 * CHAIN.slots_per_epoch, ROOT).ssz


def one_block(data: bytes) -> None:
    """What is a block is the one that its slot and parent make."""
    block = read_block(CHAIN, data[1:])
    assert make_block(CHAIN, block.slot, block.parent_root) == block
    assert block.ssz == data[1:]
    assert GOSSIP_TYPES["beacon_block"].least <= len(block.ssz)


def gossip_payloads() -> Iterator[bytes]:
    """As they travel: a byte for the topic, and snappy's block format."""
    for number in range(len(GOSSIP_TYPES)):
        yield bytes((number,)) + bytes(cramjam.snappy.compress_raw(bytes(300)))
    for case in (*load("snappy")["block_valid"], *load("snappy")["block_invalid"]):
        yield b"\0" + bytes.fromhex(case["compressed"])
