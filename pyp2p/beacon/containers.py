"""What beacon nodes say to each other, as SSZ (consensus-specs, p2p-interface, phase0 to fulu).

Rules: names and order of fields are the specs'. A message with a single field is encoded as that field: Ping and
Goodbye are a `uint64`, requests by root are lists. Blocks and sidecars travel as bytes and are not known here.
`check` of a request says whether it asks for something that may be asked, after it was decoded and before any work.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final

from pyp2p.beacon.ssz import Bitvector, ByteVector, Container, SszList, Uint
from pyp2p.errors import WireError

FAR_FUTURE_EPOCH: Final = (1 << 64) - 1
ATTESTATION_SUBNET_COUNT: Final = 64
SYNC_COMMITTEE_SUBNET_COUNT: Final = 4
NUMBER_OF_COLUMNS: Final = 128
_UINT64_END: Final = 1 << 64

UINT64: Final = Uint(8)
ROOT: Final = ByteVector(32)
FORK_DIGEST: Final = ByteVector(4)
VERSION: Final = ByteVector(4)
ATTNETS: Final = Bitvector(ATTESTATION_SUBNET_COUNT)  # also the entry `attnets` of a node record
SYNCNETS: Final = Bitvector(SYNC_COMMITTEE_SUBNET_COUNT)  # also the entry `syncnets`
PING: Final = UINT64  # `MetaData.seq_number` of who says it
GOODBYE: Final = UINT64  # a `GoodbyeReason`, or a number that we know no name for
LIGHT_CLIENT_BOOTSTRAP_REQUEST: Final = ROOT

Uint64 = Annotated[int, UINT64]
Slot = Annotated[int, UINT64]
Epoch = Annotated[int, UINT64]
Root = Annotated[bytes, ROOT]
ForkDigest = Annotated[bytes, FORK_DIGEST]
Version = Annotated[bytes, VERSION]
Attnets = Annotated[frozenset[int], ATTNETS]
Syncnets = Annotated[frozenset[int], SYNCNETS]
Columns = Annotated[tuple[int, ...], SszList(UINT64, NUMBER_OF_COLUMNS)]


class GoodbyeReason(IntEnum):
    """Why a node leaves: 1 to 3 by the spec, the others by the custom of clients; 4 to 127 are reserved."""

    CLIENT_SHUTDOWN = 1
    IRRELEVANT_NETWORK = 2
    FAULT = 3
    UNABLE_TO_VERIFY = 128
    TOO_MANY_PEERS = 129
    BAD_SCORE = 250
    BANNED = 251


@dataclass(frozen=True, slots=True)
class StatusV1(Container):
    """What a node takes for the chain (phase0, 84 bytes)."""

    fork_digest: ForkDigest
    finalized_root: Root
    finalized_epoch: Epoch
    head_root: Root
    head_slot: Slot


@dataclass(frozen=True, slots=True)
class StatusV2(StatusV1):
    """`StatusV1` and the first slot from which blocks can be had (fulu, 92 bytes)."""

    earliest_available_slot: Slot

    def v1(self) -> StatusV1:
        """What a peer hears of it that speaks no fulu."""
        return StatusV1(self.fork_digest, self.finalized_root, self.finalized_epoch, self.head_root, self.head_slot)


@dataclass(frozen=True, slots=True)
class MetaDataV1(Container):
    """What a node is subscribed to (phase0, 16 bytes). `seq_number` begins at 0 and grows with each change."""

    seq_number: Uint64
    attnets: Attnets


@dataclass(frozen=True, slots=True)
class MetaDataV2(MetaDataV1):
    """`MetaDataV1` and the sync committee subnets (altair, 17 bytes)."""

    syncnets: Syncnets


@dataclass(frozen=True, slots=True)
class MetaDataV3(MetaDataV2):
    """`MetaDataV2` and how many custody groups the node keeps (fulu, 25 bytes). The number is the peer's claim."""

    custody_group_count: Uint64


@dataclass(frozen=True, slots=True)
class ENRForkID(Container):
    """The entry `eth2` of a node record (16 bytes)."""

    fork_digest: ForkDigest
    next_fork_version: Version
    next_fork_epoch: Epoch


@dataclass(frozen=True, slots=True)
class ForkData(Container):
    """What fork digests are the root of."""

    current_version: Version
    genesis_validators_root: Root


@dataclass(frozen=True, slots=True)
class Checkpoint(Container):
    """The block at the start of an epoch."""

    epoch: Epoch
    root: Root


@dataclass(frozen=True, slots=True)
class BeaconBlockHeader(Container):
    """A block without its body; its root is the block's."""

    slot: Slot
    proposer_index: Uint64
    parent_root: Root
    state_root: Root
    body_root: Root


@dataclass(frozen=True, slots=True)
class BeaconBlocksByRangeRequest(Container):
    """Blocks of the slots from `start_slot` on, `count` of them (versions 1 and 2, 24 bytes). `step` is always 1."""

    start_slot: Slot
    count: Uint64
    step: Uint64 = 1

    def check(self, max_request_blocks: int) -> None:
        """Raises `WireError` for no slots, slots over 64 bits, more than `max_request_blocks`, or another step."""
        _check_range(self, self.start_slot, self.count, max_request_blocks)
        if self.step != 1:
            raise WireError(f"BeaconBlocksByRangeRequest.step: {self.step}, only 1 may be asked for")


@dataclass(frozen=True, slots=True)
class BlobSidecarsByRangeRequest(Container):
    """Blob sidecars of the slots from `start_slot` on, `count` of them (deneb)."""

    start_slot: Slot
    count: Uint64

    def check(self, max_request_blocks: int) -> None:
        """Raises `WireError` for no slots, slots over 64 bits, or more than `max_request_blocks`."""
        _check_range(self, self.start_slot, self.count, max_request_blocks)


@dataclass(frozen=True, slots=True)
class BlobIdentifier(Container):
    """One blob sidecar of a block."""

    block_root: Root
    index: Uint64


@dataclass(frozen=True, slots=True)
class DataColumnSidecarsByRangeRequest(Container):
    """Some columns of the slots from `start_slot` on, `count` of them (fulu)."""

    start_slot: Slot
    count: Uint64
    columns: Columns

    def check(self, max_request_blocks: int) -> None:
        """As `BlobSidecarsByRangeRequest.check`; also for no column, or one that does not exist."""
        _check_range(self, self.start_slot, self.count, max_request_blocks)
        _check_columns("DataColumnSidecarsByRangeRequest.columns", self.columns)


@dataclass(frozen=True, slots=True)
class DataColumnsByRootIdentifier(Container):
    """Some columns of a block."""

    block_root: Root
    columns: Columns


@dataclass(frozen=True, slots=True)
class BeaconBlocksByHeadRequest(Container):
    """A block and those before it, `count` in all, newest first (fulu)."""

    beacon_root: Root
    count: Uint64

    def check(self, max_request_blocks: int) -> None:
        """Raises `WireError` for no block or more than `max_request_blocks`."""
        _check_count("BeaconBlocksByHeadRequest.count", self.count, max_request_blocks)


@dataclass(frozen=True, slots=True)
class LightClientUpdatesByRangeRequest(Container):
    """Updates of the sync committee periods from `start_period` on, `count` of them (altair)."""

    start_period: Uint64
    count: Uint64

    def check(self, max_request_updates: int) -> None:
        """Raises `WireError` for no period, periods over 64 bits, or more than `max_request_updates`."""
        _check_count("LightClientUpdatesByRangeRequest.count", self.count, max_request_updates)
        _check_end("LightClientUpdatesByRangeRequest.start_period", self.start_period, self.count)


def block_roots(max_request_blocks: int) -> SszList[bytes]:
    """The request of beacon_blocks_by_root: at most so many roots."""
    return SszList(ROOT, max_request_blocks)


def blob_identifiers(max_request_blob_sidecars: int) -> SszList[BlobIdentifier]:
    """The request of blob_sidecars_by_root: at most so many sidecars."""
    return SszList(BlobIdentifier.ssz(), max_request_blob_sidecars)


def data_columns_by_root(max_request_blocks: int) -> SszList[DataColumnsByRootIdentifier]:
    """The request of data_column_sidecars_by_root: at most so many blocks."""
    return SszList(DataColumnsByRootIdentifier.ssz(), max_request_blocks)


def check_by_root(asked: tuple[bytes | BlobIdentifier | DataColumnsByRootIdentifier, ...]) -> None:
    """Raises `WireError` for a request by root that names no block, no column, or a column that does not exist."""
    if not asked:
        raise WireError("request by root: no root is asked for")
    for at, each in enumerate(asked):
        if isinstance(each, DataColumnsByRootIdentifier):
            _check_columns(f"DataColumnsByRootIdentifier[{at}].columns", each.columns)


def _check_count(where: str, count: int, most: int) -> None:
    if not 0 < count <= most:
        raise WireError(f"{where}: {count}, from 1 to {most} may be asked for")


def _check_end(where: str, start: int, count: int) -> None:
    if start + count > _UINT64_END:
        raise WireError(f"{where}: {start} and {count} more go over 64 bits")


def _check_range(asked: Container, start: int, count: int, most: int) -> None:
    name = type(asked).__name__
    _check_count(f"{name}.count", count, most)
    _check_end(f"{name}.start_slot", start, count)


def _check_columns(where: str, columns: tuple[int, ...]) -> None:
    if not columns:
        raise WireError(f"{where}: none is asked for")
    if max(columns) >= NUMBER_OF_COLUMNS:
        raise WireError(f"{where}: {max(columns)}, the last one is {NUMBER_OF_COLUMNS - 1}")
