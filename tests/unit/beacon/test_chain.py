"""A chain: what holds when, digests by the vectors, what records announce, and slots from wall time."""

from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyp2p.beacon.chain import (
    FORKS,
    NO_DIGEST,
    BlobParameters,
    Chain,
    Fork,
    Limits,
    compute_fork_digest,
)
from pyp2p.beacon.chainfile import load_chain
from pyp2p.beacon.containers import FAR_FUTURE_EPOCH
from tests.vectors import load

VECTORS = load("eth2_fork_digest")
MAINNET = load_chain("mainnet")
GENESIS = bytes(range(32))
BLOBS = tuple(BlobParameters(e["epoch"], e["max_blobs_per_block"]) for e in VECTORS["spec_cases"]["blob_schedule"])


def fork(name: str, epoch: int) -> Fork:
    return Fork(name, bytes((FORKS.index(name), 0, 0, 9)), epoch)


# Altair at the start, a fork each two epochs to fulu at 10, more blobs from 12 and from 20 on.
SMALL = Chain(
    name="small",
    genesis_time=1000,
    genesis_validators_root=GENESIS,
    forks=tuple(fork(name, 2 * at) for at, name in enumerate(FORKS[1:7])),
    blob_schedule=(BlobParameters(12, 12), BlobParameters(20, 20)),
    slot_duration_ms=2000,
    slots_per_epoch=8,
)


@pytest.mark.parametrize("case", VECTORS["mainnet"]["digests"], ids=lambda case: case["fork"])
def test_vector_of_mainnet_is_what_the_shipped_chain_says(case):
    period = MAINNET.at_epoch(case["from_epoch"])
    assert (period.fork, period.epoch) == (case["fork"].split()[0], case["from_epoch"])
    assert (period.version.hex(), period.digest.hex()) == (case["fork_version"], case["fork_digest"])
    assert MAINNET.by_digest(bytes.fromhex(case["fork_digest"])) is period


def test_the_shipped_chain_has_the_genesis_and_the_schedule_of_the_vectors():
    said = VECTORS["mainnet"]
    assert MAINNET.genesis_validators_root.hex() == said["genesis_validators_root"]
    assert MAINNET.genesis_time == said["genesis_time"]
    assert MAINNET.fork_epoch("fulu") == said["fulu_fork_epoch"]
    assert [(each.epoch, each.max_blobs_per_block) for each in MAINNET.blob_schedule] == [
        (each["epoch"], each["max_blobs_per_block"]) for each in said["blob_schedule"]
    ]
    before = MAINNET.at_epoch(said["fulu_fork_epoch"]).blobs
    assert (before.epoch, before.max_blobs_per_block) == tuple(said["before_any_schedule_entry"].values())
    assert [len(MAINNET.schedule), len(said["digests"])] == [9, 9]


def test_bootnodes_ship_and_announce_a_digest_of_before_genesis():
    assert [each.text for each in MAINNET.bootnodes] == [
        each["text"] for each in load("enr_bootnodes_mainnet")["records"]
    ]
    early = VECTORS["mainnet"]["bootnode_before_genesis"]
    root = bytes.fromhex(early["genesis_validators_root"])
    assert compute_fork_digest(bytes(4), root).hex() == early["fork_digest"]
    assert sum(each.eth2 is not None and each.eth2[:4].hex() == early["fork_digest"] for each in MAINNET.bootnodes) == 3


@pytest.mark.parametrize("case", VECTORS["spec_cases"]["cases"], ids=str)
def test_vector_of_the_spec(case):
    root = bytes.fromhex(case["genesis_validators_root"])
    chain = Chain(
        name="spec",
        genesis_time=0,
        genesis_validators_root=root,
        forks=(Fork("fulu", bytes.fromhex(case["fork_version"]), VECTORS["spec_cases"]["fulu_fork_epoch"]),),
        blob_schedule=BLOBS,
    )
    assert chain.at_epoch(case["epoch"]).digest.hex() == case["fork_digest"]


def test_a_period_ends_where_the_next_one_begins():
    assert [(each.title, each.epoch, each.end) for each in SMALL.schedule] == [
        ("altair", 0, 2),
        ("bellatrix", 2, 4),
        ("capella", 4, 6),
        ("deneb", 6, 8),
        ("electra", 8, 10),
        ("fulu (9 blobs)", 10, 12),
        ("fulu (12 blobs)", 12, 20),
        ("fulu (20 blobs)", 20, FAR_FUTURE_EPOCH),
    ]
    for period in SMALL.schedule:
        last = min(period.end - 1, FAR_FUTURE_EPOCH)
        assert SMALL.at_epoch(period.epoch) is SMALL.at_epoch(last) is period
        assert SMALL.at_slot(8 * period.epoch) is SMALL.at_slot(8 * last + 7) is period
    assert SMALL.at_epoch(FAR_FUTURE_EPOCH).title == "fulu (20 blobs)"


def test_digests_and_periods_lead_to_each_other():
    for period in SMALL.schedule:
        assert SMALL.by_digest(period.digest) is period
    assert len({period.digest for period in SMALL.schedule}) == len(SMALL.schedule)
    assert SMALL.by_digest(bytes.fromhex("deadbeef")) is None and SMALL.by_digest(b"") is None
    assert MAINNET.by_digest(SMALL.schedule[0].digest) is None


def test_a_record_announces_the_next_fork_of_either_kind_but_only_the_version_of_regular_ones():
    said = {epoch: SMALL.enr_fork_id(epoch) for epoch in (0, 1, 9, 10, 12, 19, 20)}
    digests = [period.digest for period in SMALL.schedule]
    versions = [period.version for period in SMALL.schedule]
    assert said[0] == said[1]
    assert (said[0].fork_digest, said[0].next_fork_version, said[0].next_fork_epoch) == (digests[0], versions[1], 2)
    assert (said[9].next_fork_version, said[9].next_fork_epoch) == (versions[5], 10)
    # Within fulu the version is fulu's, the epoch that of the blob-parameter fork.
    assert (said[10].fork_digest, said[10].next_fork_version, said[10].next_fork_epoch) == (digests[5], versions[5], 12)
    assert said[12] == said[19] and said[12].next_fork_epoch == 20
    assert said[20].next_fork_version == versions[5] and said[20].next_fork_epoch == FAR_FUTURE_EPOCH
    assert [SMALL.next_fork_digest(epoch) for epoch in (0, 9, 10, 12, 19)] == [digests[at] for at in (1, 5, 6, 7, 7)]
    assert SMALL.next_fork_digest(20) == NO_DIGEST == bytes(4)
    assert SMALL.next_after(20) is None and SMALL.next_after(19).digest == digests[7]


def test_vector_of_a_record_of_mainnet():
    raw = {case["name"]: case["ssz"] for case in load("eth2_ssz")["encodings"] if case["type"] == "ENRForkID"}
    deneb = MAINNET.fork_epoch("deneb")
    assert MAINNET.enr_fork_id(deneb).encode().hex() == raw["enr_fork_id_deneb_to_electra"]
    genesis_only = replace(MAINNET, forks=MAINNET.forks[:1], blob_schedule=())
    assert genesis_only.enr_fork_id(0).encode().hex() == raw["enr_fork_id_none_planned"]


def test_a_blob_parameter_fork_at_a_regular_one_is_one_fork():
    both = replace(SMALL, blob_schedule=(BlobParameters(10, 12),))
    assert [each.epoch for each in both.schedule] == [0, 2, 4, 6, 8, 10]
    assert both.at_epoch(10).blobs == BlobParameters(10, 12)
    assert both.enr_fork_id(8).next_fork_version == both.at_epoch(10).version


def test_blob_parameters_from_before_fulu_hold_from_fulu_on():
    early = replace(SMALL, blob_schedule=(BlobParameters(6, 6), BlobParameters(8, 9)))
    assert [each.epoch for each in early.schedule] == [0, 2, 4, 6, 8, 10]
    assert early.at_epoch(8).blobs is None and early.at_epoch(10).blobs == BlobParameters(8, 9)
    # Which is what holds without them: the parameters of electra.
    assert early.at_epoch(10).digest == SMALL.at_epoch(10).digest


def test_several_forks_at_one_epoch_are_the_last_of_them():
    start = replace(SMALL, forks=tuple(replace(each, epoch=0) for each in SMALL.forks), blob_schedule=())
    assert [(each.fork, each.epoch) for each in start.schedule] == [("fulu", 0)]
    assert start.at_epoch(0).limits.max_request_blocks == 128


def test_a_fork_that_is_not_planned_is_in_no_schedule():
    gloas = replace(SMALL, forks=(*SMALL.forks, fork("gloas", FAR_FUTURE_EPOCH)))
    assert gloas.schedule == SMALL.schedule
    assert gloas.fork_epoch("gloas") == gloas.fork_epoch("heze") == FAR_FUTURE_EPOCH
    assert gloas.fork_epoch("phase0") == gloas.fork_epoch("altair") == 0
    never = replace(SMALL, blob_schedule=(BlobParameters(FAR_FUTURE_EPOCH, 99),))
    assert never.at_epoch(FAR_FUTURE_EPOCH).blobs.max_blobs_per_block == 9


def test_limits_change_with_the_forks_as_the_specs_say():
    def of(period):
        return (
            period.limits.max_request_blocks,
            period.limits.max_request_blob_sidecars,
            period.limits.blob_sidecar_subnet_count,
            period.limits.max_blobs_per_block,
        )

    assert [of(each) for each in SMALL.schedule] == [
        (1024, 768, 0, 0),
        (1024, 768, 0, 0),
        (1024, 768, 0, 0),
        (128, 768, 6, 6),
        (128, 1152, 9, 9),
        (128, 1152, 0, 9),
        (128, 1152, 0, 12),
        (128, 1152, 0, 20),
    ]


def test_how_far_back_is_to_be_served_is_as_the_specs_say_in_every_fork():
    said = {
        (
            period.limits.min_epochs_for_block_requests,
            period.limits.min_epochs_for_blob_sidecars_requests,
            period.limits.min_epochs_for_data_column_sidecars_requests,
        )
        for period in SMALL.schedule
    }
    assert said == {(33024, 4096, 4096)}


def test_limits_of_a_chain_hold_from_their_fork_on():
    few = MappingProxyType({"max_request_blocks": 16, "min_epochs_for_block_requests": 2})
    forks = (SMALL.forks[0], replace(SMALL.forks[1], limits=few), *SMALL.forks[2:])
    chain = replace(SMALL, forks=forks)
    assert chain.at_epoch(0).limits == Limits()
    assert chain.at_epoch(2).limits == chain.at_epoch(4).limits == replace(Limits(), **few)
    assert (chain.at_epoch(6).limits.max_request_blocks, chain.at_epoch(6).limits.min_epochs_for_block_requests) == (
        128,
        2,
    )


def test_slots_and_epochs_of_wall_time():
    walls = (998.0, 999.999, 1000.0, 1001.999, 1002.0, 1016.0, 1015.999)
    assert [SMALL.slot_at(wall) for wall in walls] == [-1, -1, 0, 0, 1, 8, 7]
    assert [SMALL.epoch_at(wall) for wall in walls] == [0, 0, 0, 0, 0, 1, 0]
    assert (SMALL.slot_start(0), SMALL.slot_start(9), SMALL.slot_start(-1)) == (1000.0, 1018.0, 998.0)
    assert (SMALL.epoch_of(7), SMALL.epoch_of(8), SMALL.first_slot(3)) == (0, 1, 24)
    # Midnight after mainnet's genesis at noon and 23 seconds.
    assert MAINNET.slot_at(1606824023) == 0 and MAINNET.slot_at(1606867200) == (12 * 3600 - 23) // 12


@example(slot=1_068_748_588, duration=8126, genesis=0)  # so late that microseconds are no longer exact
@given(
    slot=st.integers(0, 1 << 32),
    duration=st.integers(1, 60_000),
    genesis=st.integers(0, 1 << 31),
)
def test_a_slot_begins_in_itself_and_not_before(slot, duration, genesis):
    chain = replace(SMALL, genesis_time=genesis, slot_duration_ms=duration)
    start = chain.slot_start(slot)
    assert chain.slot_at(start) == slot
    assert chain.slot_at(start - 0.0005) == slot - 1


REFUSED = [
    ("name", {"name": ""}),
    ("name", {"name": "Main net"}),
    ("genesis_time", {"genesis_time": -1}),
    ("genesis_time", {"genesis_time": 1.5}),
    ("genesis_validators_root", {"genesis_validators_root": bytes(31)}),
    ("slot_duration_ms", {"slot_duration_ms": 0}),
    ("slots_per_epoch", {"slots_per_epoch": 0}),
    ("slots_per_epoch", {"slots_per_epoch": True}),
    ("forks: the first one", {"forks": ()}),
    ("forks: the first one", {"forks": SMALL.forks[1:]}),
    ("forks: capella cannot follow altair", {"forks": (SMALL.forks[0], SMALL.forks[2])}),
    ("forks: altair cannot follow altair", {"forks": (SMALL.forks[0], SMALL.forks[0])}),
    ("forks: capella at epoch 1 is before bellatrix at 2", {"forks": (*SMALL.forks[:2], fork("capella", 1))}),
    ("blob_schedule: epoch 12 follows 12", {"blob_schedule": (BlobParameters(12, 1), BlobParameters(12, 2))}),
    ("blob_schedule: 1025 entries", {"blob_schedule": tuple(BlobParameters(at, 1) for at in range(1025))}),
    (
        "forks: altair at epoch 0 has the fork digest of a later one",
        {"forks": (SMALL.forks[0], replace(SMALL.forks[1], version=SMALL.forks[0].version))},
    ),
]


@pytest.mark.parametrize(("text", "changes"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_chain_that_cannot_be_is_refused_by_its_field(text, changes):
    with pytest.raises(ValueError) as caught:
        replace(SMALL, **changes)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("text", "make"),
    [
        ("fork must be one of phase0", lambda: Fork("constantinople", bytes(4), 0)),
        ("version of altair must be 4 bytes", lambda: Fork("altair", bytes(3), 0)),
        ("epoch of altair", lambda: Fork("altair", bytes(4), FAR_FUTURE_EPOCH + 1)),
        ("limit of altair", lambda: Fork("altair", bytes(4), 0, MappingProxyType({"blocks": 1}))),
        ("limits of altair: max_req", lambda: Fork("altair", bytes(4), 0, MappingProxyType({"max_request_blocks": 0}))),
        ("epoch of a blob-parameter fork", lambda: BlobParameters(-1, 9)),
        ("max_blobs_per_block from epoch 3 on", lambda: BlobParameters(3, -9)),
        ("max_request_blocks", lambda: Limits(max_request_blocks=(1 << 16) + 1)),
        ("blob_sidecar_subnet_count", lambda: Limits(blob_sidecar_subnet_count=-1)),
    ],
)
def test_parts_of_a_chain_are_refused_by_their_field(text, make):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(text)
