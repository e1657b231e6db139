"""The made-up chain: its schedule, and blocks that another implementation of SSZ takes for those of their fork."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remerkleable.basic import uint64, uint256
from remerkleable.bitfields import Bitvector
from remerkleable.byte_arrays import ByteList, Bytes32, ByteVector
from remerkleable.complex import Container, List

from pyp2p.beacon.chain import Fork
from pyp2p.beacon.chainfile import chain_text, load_chain, parse_chain
from pyp2p.beacon.containers import FAR_FUTURE_EPOCH, BeaconBlockHeader
from pyp2p.beacon.devchain import DEV_FORKS, dev_chain, genesis_block, make_block, read_block
from pyp2p.discv5.enr import Enr
from pyp2p.errors import LocalProtocolError, WireError
from tests.vectors import load

CHAIN = dev_chain(1000)
PARENT = bytes(range(32))


class Element(Container):
    """Stands for what is in lists: there is none of it."""

    root: Bytes32


class Eth1Data(Container):
    deposit_root: Bytes32
    deposit_count: uint64
    block_hash: Bytes32


class SyncAggregate(Container):
    sync_committee_bits: Bitvector[512]
    sync_committee_signature: ByteVector[96]


class ExecutionRequests(Container):
    deposits: List[Element, 8192]
    withdrawals: List[Element, 16]
    consolidations: List[Element, 2]


def container(name: str, fields: dict[str, Any]) -> type[Container]:
    return type(name, (Container,), {"__annotations__": fields})


def body_type(fork: str) -> type[Container]:
    """The body of a fork, written from the specs from the other side: all fields, told by whether the fork has them."""
    at = DEV_FORKS.index(fork)

    def since(name: str, fields: dict[str, Any]) -> dict[str, Any]:
        return fields if at >= DEV_FORKS.index(name) else {}

    electra = at >= DEV_FORKS.index("electra")
    payload = container(
        "ExecutionPayload",
        {
            "parent_hash": Bytes32,
            "fee_recipient": ByteVector[20],
            "state_root": Bytes32,
            "receipts_root": Bytes32,
            "logs_bloom": ByteVector[256],
            "prev_randao": Bytes32,
            "block_number": uint64,
            "gas_limit": uint64,
            "gas_used": uint64,
            "timestamp": uint64,
            "extra_data": ByteList[32],
            "base_fee_per_gas": uint256,
            "block_hash": Bytes32,
            "transactions": List[ByteList[1 << 30], 1 << 20],
            **since("capella", {"withdrawals": List[Element, 16]}),
            **since("deneb", {"blob_gas_used": uint64, "excess_blob_gas": uint64}),
        },
    )
    return container(
        "BeaconBlockBody",
        {
            "randao_reveal": ByteVector[96],
            "eth1_data": Eth1Data,
            "graffiti": Bytes32,
            "proposer_slashings": List[Element, 16],
            "attester_slashings": List[Element, 1 if electra else 2],
            "attestations": List[Element, 8 if electra else 128],
            "deposits": List[Element, 16],
            "voluntary_exits": List[Element, 16],
            "sync_aggregate": SyncAggregate,
            **since("bellatrix", {"execution_payload": payload}),
            **since("capella", {"bls_to_execution_changes": List[Element, 16]}),
            **since("deneb", {"blob_kzg_commitments": List[ByteVector[48], 4096]}),
            **since("electra", {"execution_requests": ExecutionRequests}),
        },
    )


@pytest.mark.parametrize("fork", DEV_FORKS)
def test_a_block_is_an_empty_signed_beacon_block_of_its_fork(fork):
    slot = CHAIN.first_slot(CHAIN.fork_epoch(fork)) + 3
    block = make_block(CHAIN, slot, PARENT)
    body = body_type(fork)
    message = container(
        "BeaconBlock",
        {
            "slot": uint64,
            "proposer_index": uint64,
            "parent_root": Bytes32,
            "state_root": Bytes32,
            "body": body,
        },
    )
    signed = container("SignedBeaconBlock", {"message": message, "signature": ByteVector[96]})
    expected = signed(message=message(slot=slot, parent_root=PARENT))
    assert block.fork == fork
    assert block.ssz == expected.encode_bytes()
    assert block.root == bytes(expected.message.hash_tree_root())
    assert signed.decode_bytes(block.ssz) == expected


def test_each_block_names_the_root_of_the_header_before_it():
    block = genesis_block(CHAIN)
    assert (block.slot, block.parent_root) == (0, CHAIN.genesis_validators_root)
    for slot in range(1, 8 * 30, 5):
        child = make_block(CHAIN, slot, block.root)
        assert child.parent_root == block.root and child.fork == CHAIN.at_slot(slot).fork
        block = child
    # Slot and parent are the first and the third field of the header, whose root is the block's.
    raw = genesis_block(CHAIN)
    body_root = bytes(body_type("altair")().hash_tree_root())
    assert BeaconBlockHeader(0, 0, CHAIN.genesis_validators_root, bytes(32), body_root).hash_tree_root() == raw.root


@given(slot=st.integers(0, FAR_FUTURE_EPOCH), parent=st.binary(min_size=32, max_size=32))
def test_what_is_read_is_what_was_made(slot, parent):
    block = make_block(CHAIN, slot, parent)
    assert read_block(CHAIN, block.ssz) == block


@given(data=st.data())
def test_a_block_with_any_byte_changed_is_another_one_or_none(data):
    block = make_block(CHAIN, data.draw(st.integers(0, 8 * 30)), PARENT)
    raw = bytearray(block.ssz)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        other = read_block(CHAIN, bytes(raw))
    except WireError:
        return
    assert (other.slot, other.parent_root) != (block.slot, block.parent_root) and other.root != block.root


BLOCK = make_block(CHAIN, 8 * 22, PARENT).ssz  # fulu


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "SignedBeaconBlock: 0 bytes"),
        (BLOCK[:183], "SignedBeaconBlock: 183 bytes"),
        (BLOCK[:-1], f"SignedBeaconBlock of fulu: {len(BLOCK) - 1} bytes instead of {len(BLOCK)}"),
        (BLOCK + b"\0", f"SignedBeaconBlock of fulu: {len(BLOCK) + 1} bytes instead of {len(BLOCK)}"),
        (b"\x65" + BLOCK[1:], "SignedBeaconBlock of fulu: byte 0"),  # the offset of the message
        (BLOCK[:4] + b"\1" + BLOCK[5:], "SignedBeaconBlock of fulu: byte 4"),  # the signature
        (BLOCK[:180] + b"\x55" + BLOCK[181:], "SignedBeaconBlock of fulu: byte 180"),  # the offset of the body
        (BLOCK[:-1] + b"\1", f"SignedBeaconBlock of fulu: byte {len(BLOCK) - 1}"),
        (BLOCK[:100] + bytes(8) + BLOCK[108:], "SignedBeaconBlock of altair:"),  # the size is of another fork
    ],
)
def test_hostile_085_bytes_that_are_no_block_of_their_slot_are_refused(raw, text):
    with pytest.raises(WireError) as caught:
        read_block(CHAIN, raw)
    assert str(caught.value).startswith(text)


@pytest.mark.hostile
def test_hostile_085_a_slot_of_a_fork_without_blocks_is_the_fault_of_who_names_it():
    gloas = replace(CHAIN, forks=(*CHAIN.forks, Fork("gloas", b"\x07\0\0\xde", 30)))
    assert read_block(gloas, BLOCK).ssz == BLOCK
    with pytest.raises(WireError, match="gloas"):
        read_block(gloas, BLOCK[:100] + (8 * 30).to_bytes(8, "little") + BLOCK[108:])


def test_forks_follow_each_other_and_blobs_come_last():
    assert [(each.title, each.epoch) for each in CHAIN.schedule] == [
        ("altair", 0),
        ("bellatrix", 4),
        ("capella", 8),
        ("deneb", 12),
        ("electra", 16),
        ("fulu (9 blobs)", 20),
        ("fulu (12 blobs)", 24),
    ]
    assert (CHAIN.slot_duration_ms, CHAIN.slots_per_epoch) == (2000, 8)
    assert CHAIN.epoch_at(1000 + 2 * 8 * 4) == 4


def test_a_chain_can_begin_in_a_later_fork():
    chain = dev_chain(1000, start="electra", epochs_per_fork=1, slot_duration_ms=4000)
    assert [(each.title, each.epoch) for each in chain.schedule] == [
        ("electra", 0),
        ("fulu (9 blobs)", 1),
        ("fulu (12 blobs)", 2),
    ]
    assert genesis_block(chain).fork == "electra" and chain.slot_start(1) == 1004


def test_no_run_takes_another_one_or_mainnet_for_its_own():
    digests = [
        {period.digest for period in chain.schedule} for chain in (CHAIN, dev_chain(1001), load_chain("mainnet"))
    ]
    assert sum(map(len, digests)) == len(set().union(*digests))


def test_a_run_can_be_told_to_others_in_a_file():
    record = Enr.from_text(load("enr_bootnodes_mainnet")["records"][0]["text"])
    chain = dev_chain(1_700_000_000, bootnodes=[record])
    assert chain.bootnodes == (record,)
    assert parse_chain(chain_text(chain)) == chain


@pytest.mark.parametrize("wrong", [{"start": "phase0"}, {"start": "gloas"}, {"epochs_per_fork": 0}])
def test_a_schedule_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        dev_chain(1000, **wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_block(CHAIN, 1, b""),
        lambda: make_block(CHAIN, FAR_FUTURE_EPOCH + 1, PARENT),
        lambda: make_block(CHAIN, -1, PARENT),
        lambda: make_block(load_chain("mainnet"), 0, PARENT),  # phase0
    ],
)
def test_a_block_that_cannot_be_is_a_mistake_of_ours(make):
    with pytest.raises(LocalProtocolError):
        make()
