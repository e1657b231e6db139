"""A chain that nobody stakes on: short slots, every fork from altair to fulu, and blocks that say nothing.

Rules: a block is a real `SignedBeaconBlock` of its fork, with an empty body and zeros for a signature; slot and parent
determine all of its bytes, so whoever reads one knows its root without knowing any body. For tests, demonstrations and
examples: nothing here says that a block is valid on a chain with validators (consensus-specs, beacon-chain,
"Containers", altair to fulu).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Final

from pyp2p.beacon.chain import FORKS, BlobParameters, Chain, Fork
from pyp2p.beacon.containers import ROOT, UINT64, BeaconBlockHeader, Root, Uint64
from pyp2p.beacon.ssz import Bitvector, ByteList, ByteVector, Container, SszList, Uint
from pyp2p.discv5.enr import Enr
from pyp2p.errors import LocalProtocolError, WireError

DEV_FORKS: Final = FORKS[FORKS.index("altair") : FORKS.index("fulu") + 1]
_VERSION_TAIL: Final = b"\x00\x00\xde"  # no public chain has it
_MAX_BLOBS: Final = 12  # of the blob-parameter fork; electra has 9
_SIGNATURE: Final = ByteVector(96)
_MESSAGE_AT: Final = 4 + _SIGNATURE.most
_BODY_AT: Final = UINT64.most * 2 + ROOT.most * 2 + 4  # in the message
_HEAD: Final = _MESSAGE_AT + _BODY_AT
_PARENT: Final = slice(_MESSAGE_AT + UINT64.most * 2, _MESSAGE_AT + UINT64.most * 2 + ROOT.most)

# The root of an empty list depends on its limit alone, whatever its elements are.
_None2 = Annotated[tuple[bytes, ...], SszList(ROOT, 2)]
_None8 = Annotated[tuple[bytes, ...], SszList(ROOT, 8)]
_None16 = Annotated[tuple[bytes, ...], SszList(ROOT, 16)]
_None128 = Annotated[tuple[bytes, ...], SszList(ROOT, 128)]
_None4096 = Annotated[tuple[bytes, ...], SszList(ROOT, 4096)]
_None8192 = Annotated[tuple[bytes, ...], SszList(ROOT, 8192)]
_NoTransactions = Annotated[tuple[bytes, ...], SszList(ROOT, 1 << 20)]
_NoSlashingElectra = Annotated[tuple[bytes, ...], SszList(ROOT, 1)]


@dataclass(frozen=True, slots=True)
class _Eth1Data(Container):
    deposit_root: Root
    deposit_count: Uint64
    block_hash: Root


@dataclass(frozen=True, slots=True)
class _SyncAggregate(Container):
    sync_committee_bits: Annotated[frozenset[int], Bitvector(512)]
    sync_committee_signature: Annotated[bytes, _SIGNATURE]


@dataclass(frozen=True, slots=True)
class _Payload(Container):
    parent_hash: Root
    fee_recipient: Annotated[bytes, ByteVector(20)]
    state_root: Root
    receipts_root: Root
    logs_bloom: Annotated[bytes, ByteVector(256)]
    prev_randao: Root
    block_number: Uint64
    gas_limit: Uint64
    gas_used: Uint64
    timestamp: Uint64
    extra_data: Annotated[bytes, ByteList(32)]
    base_fee_per_gas: Annotated[int, Uint(32)]
    block_hash: Root
    transactions: _NoTransactions


@dataclass(frozen=True, slots=True)
class _PayloadCapella(_Payload):
    withdrawals: _None16


@dataclass(frozen=True, slots=True)
class _PayloadDeneb(_PayloadCapella):
    blob_gas_used: Uint64
    excess_blob_gas: Uint64


@dataclass(frozen=True, slots=True)
class _ExecutionRequests(Container):
    deposits: _None8192
    withdrawals: _None16
    consolidations: _None2


@dataclass(frozen=True, slots=True)
class _Altair(Container):
    randao_reveal: Annotated[bytes, _SIGNATURE]
    eth1_data: _Eth1Data
    graffiti: Root
    proposer_slashings: _None16
    attester_slashings: _None2
    attestations: _None128
    deposits: _None16
    voluntary_exits: _None16
    sync_aggregate: _SyncAggregate


# A field that a later fork gives another type keeps its place.
@dataclass(frozen=True, slots=True)
class _Bellatrix(_Altair):
    execution_payload: _Payload


@dataclass(frozen=True, slots=True)
class _Capella(_Bellatrix):
    execution_payload: _PayloadCapella
    bls_to_execution_changes: _None16


@dataclass(frozen=True, slots=True)
class _Deneb(_Capella):
    execution_payload: _PayloadDeneb
    blob_kzg_commitments: _None4096


@dataclass(frozen=True, slots=True)
class _Electra(_Deneb):
    attester_slashings: _NoSlashingElectra
    attestations: _None8
    execution_requests: _ExecutionRequests


_BODIES: Final[dict[str, type[Container]]] = {
    "altair": _Altair,
    "bellatrix": _Bellatrix,
    "capella": _Capella,
    "deneb": _Deneb,
    "electra": _Electra,
    "fulu": _Electra,
}


@dataclass(frozen=True, slots=True)
class DevBlock:
    """A block: what its bytes say, the fork whose `SignedBeaconBlock` they are, and the root that children name."""

    slot: int
    parent_root: bytes
    root: bytes
    fork: str
    ssz: bytes


def dev_chain(
    genesis_time: int,
    *,
    start: str = "altair",
    epochs_per_fork: int = 4,
    slot_duration_ms: int = 2000,
    bootnodes: Iterable[Enr] = (),
) -> Chain:
    """A made-up chain that begins at `genesis_time` in the fork `start`, with 8 slots to an epoch.

    Every fork up to fulu and then one of blob parameters follow, `epochs_per_fork` after one another. Chains that begin
    at different seconds have different digests: nodes of an earlier run are of another network. Raises `ValueError`.
    """
    if start not in DEV_FORKS or epochs_per_fork < 1:
        raise ValueError(f"start must be one of {', '.join(DEV_FORKS)}, epochs_per_fork at least 1")
    first = DEV_FORKS.index(start)
    forks = tuple(
        Fork(name, bytes((FORKS.index(name),)) + _VERSION_TAIL, max(0, at - first) * epochs_per_fork)
        for at, name in enumerate(DEV_FORKS)
    )
    return Chain(
        name="dev",
        genesis_time=genesis_time,
        genesis_validators_root=hashlib.sha256(b"pyp2p dev chain" + UINT64.encode(genesis_time)).digest(),
        forks=forks,
        blob_schedule=(BlobParameters(forks[-1].epoch + epochs_per_fork, _MAX_BLOBS),),
        slot_duration_ms=slot_duration_ms,
        slots_per_epoch=8,
        bootnodes=tuple(bootnodes),
    )


def make_block(chain: Chain, slot: int, parent_root: bytes) -> DevBlock:
    """The block of a slot on a parent. Raises `LocalProtocolError` for what is no slot or root, and for other forks."""
    fork = chain.at_slot(slot).fork
    body, body_root = _body(fork)
    header = BeaconBlockHeader(slot, 0, parent_root, ROOT.zero, body_root)
    message = header.encode()[: -ROOT.most] + _BODY_AT.to_bytes(4, "little") + body
    ssz = _MESSAGE_AT.to_bytes(4, "little") + _SIGNATURE.zero + message
    return DevBlock(slot, parent_root, header.hash_tree_root(), fork, ssz)


def genesis_block(chain: Chain) -> DevBlock:
    """The block that the first one names as its parent: slot 0, and in place of a parent what no other chain has, so
    that blocks of one chain are built on none of another.
    """
    return make_block(chain, 0, chain.genesis_validators_root)


def read_block(chain: Chain, raw: bytes) -> DevBlock:
    """The block that these bytes are. Raises `WireError` unless they are what `make_block` makes of their slot."""
    if len(raw) < _HEAD:
        raise WireError(f"SignedBeaconBlock: {len(raw)} bytes, at least {_HEAD} are needed")
    slot = UINT64.decode(raw[_MESSAGE_AT : _MESSAGE_AT + UINT64.most], "SignedBeaconBlock.message.slot")
    fork = chain.at_slot(slot).fork
    if fork not in DEV_FORKS:  # a file may plan one: the peer that names its slots is told, and nothing of ours fails
        raise WireError(f"SignedBeaconBlock.message.slot: {slot} is of {fork}, whose blocks are not known")
    block = make_block(chain, slot, raw[_PARENT])
    if len(raw) != len(block.ssz):
        raise WireError(f"SignedBeaconBlock of {block.fork}: {len(raw)} bytes instead of {len(block.ssz)}")
    if raw != block.ssz:
        at = next(at for at, (said, meant) in enumerate(zip(raw, block.ssz, strict=True)) if said != meant)
        raise WireError(f"SignedBeaconBlock of {block.fork}: byte {at} is not that of an empty, unsigned block")
    return block


@cache  # one entry for each fork
def _body(fork: str) -> tuple[bytes, bytes]:
    """The empty body of a fork and its root."""
    if fork not in _BODIES:
        raise LocalProtocolError(f"blocks without content are known for {', '.join(DEV_FORKS)}, not for {fork}")
    empty = _BODIES[fork].ssz().zero
    return empty.encode(), empty.hash_tree_root()
