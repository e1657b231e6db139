"""The few fields that are read from blocks and sidecars, at the places that the specs' own types give them."""

import pytest
from remerkleable.basic import uint64
from remerkleable.byte_arrays import ByteVector
from remerkleable.complex import Container, List, Vector

from pyp2p.beacon.blocks import blob_index, blob_slot, block_parent, block_slot, column_index, column_slot
from pyp2p.beacon.devchain import DEV_FORKS, dev_chain, make_block
from pyp2p.errors import WireError

Root = ByteVector[32]
PARENT = bytes(range(32))


class Header(Container):
    slot: uint64
    proposer_index: uint64
    parent_root: Root
    state_root: Root
    body_root: Root


class SignedHeader(Container):
    message: Header
    signature: ByteVector[96]


class Blob(Container):
    index: uint64
    blob: ByteVector[131072]
    kzg_commitment: ByteVector[48]
    kzg_proof: ByteVector[48]
    signed_block_header: SignedHeader
    kzg_commitment_inclusion_proof: Vector[Root, 17]


class Column(Container):
    index: uint64
    column: List[ByteVector[2048], 4096]
    kzg_commitments: List[ByteVector[48], 4096]
    kzg_proofs: List[ByteVector[48], 4096]
    signed_block_header: SignedHeader
    kzg_commitments_inclusion_proof: Vector[Root, 4]


SIGNED = SignedHeader(message=Header(slot=2**63 + 77, proposer_index=9))
BLOB = Blob(index=5, signed_block_header=SIGNED).encode_bytes()
COLUMN = Column(index=127, column=[bytes(2048)] * 3, signed_block_header=SIGNED).encode_bytes()


@pytest.mark.parametrize("fork", DEV_FORKS)
def test_a_block_of_any_fork(fork: str) -> None:
    chain = dev_chain(0, epochs_per_fork=1)
    slot = 8 * DEV_FORKS.index(fork) + 3
    block = make_block(chain, slot, PARENT).ssz
    assert (block_slot(block), block_parent(block)) == (slot, PARENT)


def test_sidecars() -> None:
    assert (blob_index(BLOB), blob_slot(BLOB)) == (5, 2**63 + 77)
    assert (column_index(COLUMN), column_slot(COLUMN)) == (127, 2**63 + 77)


@pytest.mark.hostile
def test_hostile_085_bytes_that_are_too_short_or_point_elsewhere_are_none() -> None:
    block = make_block(dev_chain(0), 3, PARENT).ssz
    for read in (block_slot, block_parent):
        for size in (0, 3, 4, 99, 183):
            with pytest.raises(WireError, match=f"of {size} bytes, it has 184 at least"):
                read(block[:size])
        assert read(block[:184]) == read(block)
        for offset in (0, 99, 101, 2**32 - 1):
            with pytest.raises(WireError, match=f"message is at {offset}, it stands at 100"):
                read(offset.to_bytes(4, "little") + block[4:])
    for read, whole, needed in (
        (blob_slot, BLOB, 131184),
        (blob_index, BLOB, 8),
        (column_slot, COLUMN, 28),
        (column_index, COLUMN, 8),
    ):
        assert read(whole[:needed]) == read(whole)
        with pytest.raises(WireError, match=f"{needed - 1} bytes, too few"):
            read(whole[: needed - 1])
