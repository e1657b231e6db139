"""The few fields of blocks and sidecars that the networking layer needs, read where they stand in the SSZ bytes.

Rules: pure; everything else stays bytes. The places are those of consensus-specs, phase0 to fulu: a fork may add to the
body of a block, which lies behind. Raises `WireError` for bytes that are too short, or begin with a wrong offset.
"""

from __future__ import annotations

from typing import Final

from pyp2p.errors import WireError

ROOT_BYTES: Final = 32
_MESSAGE: Final = 100  # where the block begins in a SignedBeaconBlock: after its offset and the signature
_PARENT: Final = _MESSAGE + 16  # after slot and proposer_index
_BLOCK_END: Final = _MESSAGE + 84  # slot, proposer_index, parent_root, state_root, offset of the body
_BLOB_HEADER: Final = 8 + 131072 + 48 + 48  # index, blob, commitment, proof: then signed_block_header
_COLUMN_HEADER: Final = 8 + 3 * 4  # index, three offsets: then signed_block_header


def block_slot(block: bytes) -> int:
    """The slot of a SignedBeaconBlock."""
    _check_block(block)
    return _uint64(block, _MESSAGE)


def block_parent(block: bytes) -> bytes:
    """The root of the block before a SignedBeaconBlock."""
    _check_block(block)
    return block[_PARENT : _PARENT + ROOT_BYTES]


def blob_slot(sidecar: bytes) -> int:
    """The slot of the block that a BlobSidecar belongs to."""
    return _uint64(sidecar, _BLOB_HEADER)


def blob_index(sidecar: bytes) -> int:
    """Which blob of its block a BlobSidecar holds."""
    return _uint64(sidecar, 0)


def column_slot(sidecar: bytes) -> int:
    """The slot of the block that a DataColumnSidecar belongs to."""
    return _uint64(sidecar, _COLUMN_HEADER)


def column_index(sidecar: bytes) -> int:
    """Which column of its block a DataColumnSidecar holds."""
    return _uint64(sidecar, 0)


def _check_block(block: bytes) -> None:
    if len(block) < _BLOCK_END:
        raise WireError(f"a SignedBeaconBlock of {len(block)} bytes, it has {_BLOCK_END} at least")
    offset = int.from_bytes(block[:4], "little")
    if offset != _MESSAGE:
        raise WireError(f"a SignedBeaconBlock whose message is at {offset}, it stands at {_MESSAGE}")


def _uint64(raw: bytes, at: int) -> int:
    if len(raw) < at + 8:
        raise WireError(f"{len(raw)} bytes, too few for the field at {at}")
    return int.from_bytes(raw[at : at + 8], "little")
