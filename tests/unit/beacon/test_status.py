"""Whether a peer's status makes it of use: every rule at its edges."""

from dataclasses import replace

import pytest

from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.status import ChainStatus, irrelevance

CHAIN = dev_chain(0, epochs_per_fork=10)  # altair to epoch 10 (slot 80), then bellatrix
ROOT, OTHER, ZERO = b"\x11" * 32, b"\x22" * 32, bytes(32)
SLOT = 50  # epoch 6
OURS = ChainStatus(ROOT, 4, b"\x33" * 32, 49)


def why(slot: int = SLOT, ours: ChainStatus = OURS, root=None, digest: bytes | None = None, **said) -> str | None:
    theirs = ours.v1(CHAIN.at_slot(max(slot, 0)).digest if digest is None else digest)
    return irrelevance(replace(theirs, **said), ours, CHAIN, slot, root)


def test_who_says_what_we_say_is_of_use() -> None:
    assert why() is None


@pytest.mark.parametrize(
    ("slot", "known"),
    [
        (0, ["altair"]),
        (78, ["altair"]),
        (79, ["altair", "bellatrix"]),  # its clock may be a slot before ours
        (80, ["altair", "bellatrix"]),
        (87, ["altair", "bellatrix"]),  # the first epoch of bellatrix: whoever is late may stay
        (88, ["bellatrix"]),
        (-5, ["altair"]),
    ],
)
def test_the_digest_is_that_of_now_or_of_a_slot_ahead_or_of_an_epoch_behind(slot: int, known: list[str]) -> None:
    ours = ChainStatus()
    for period in CHAIN.schedule:
        said = why(slot, ours, digest=period.digest)
        assert (said is None) == (period.fork in known), (period.fork, said)
        assert said is None or said.startswith(f"fork digest {period.digest.hex()}, ours is ")


@pytest.mark.hostile
@pytest.mark.parametrize(("slot", "head", "fine"), [(50, 51, True), (50, 52, False), (50, 2**64 - 1, False)])
def test_hostile_085_a_head_may_be_a_slot_ahead(slot: int, head: int, fine: bool) -> None:
    assert why(slot, head_slot=head) == (None if fine else f"its head is of slot {head}, now is slot {slot}")


def test_before_genesis_there_is_only_the_first_block() -> None:
    assert why(-100, ChainStatus()) is None
    assert why(-100, ChainStatus(), head_slot=5) == "its head is of slot 5, now is slot -100"


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("slot", "epoch", "fine"), [(50, 6, True), (50, 7, False), (55, 7, True), (50, 2**64 - 1, False)]
)
def test_hostile_085_no_epoch_of_the_future_is_final(slot: int, epoch: int, fine: bool) -> None:
    said = why(slot, finalized_epoch=epoch, finalized_root=OTHER)
    assert said == (None if fine else f"epoch {epoch} is final for it, now is epoch 6")


def test_the_same_epoch_is_final_with_the_same_root() -> None:
    assert why(finalized_root=OTHER) == "in epoch 4 2222222222222222 is final for it, 1111111111111111 for us"


@pytest.mark.parametrize("ours", [ZERO, ROOT])
def test_a_root_of_zeros_says_nothing(ours: bytes) -> None:
    theirs = ROOT if ours == ZERO else ZERO
    assert why(ours=replace(OURS, finalized_root=ours), finalized_root=theirs) is None


@pytest.mark.parametrize(("known", "fine"), [(ROOT, False), (OTHER, True), (None, True), (ZERO, True)])
def test_an_earlier_epoch_is_compared_where_its_root_is_known(known: bytes | None, fine: bool) -> None:
    asked = []

    def root(epoch: int) -> bytes | None:
        asked.append(epoch)
        return known

    assert (why(root=root, finalized_epoch=3, finalized_root=OTHER) is None) == fine
    assert asked == [3]
    assert why(finalized_epoch=3, finalized_root=OTHER) is None


def test_a_later_epoch_than_ours_is_taken_on_trust() -> None:
    assert why(finalized_epoch=5, finalized_root=OTHER, root=lambda epoch: pytest.fail("not asked")) is None


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("finalized_root", bytes(31), "status.finalized_root has 32 bytes, not 31"),
        ("head_root", bytes(33), "status.head_root has 32 bytes, not 33"),
        ("finalized_epoch", -1, "status.finalized_epoch is a number of 64 bits, not -1"),
        ("head_slot", 1 << 64, "status.head_slot is a number of 64 bits"),
        ("earliest_available_slot", -2, "status.earliest_available_slot is a number of 64 bits, not -2"),
    ],
)
def test_what_fits_into_no_status_is_refused(field: str, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(OURS, **{field: value})


def test_both_versions_say_the_same() -> None:
    ours = replace(OURS, earliest_available_slot=17)
    old, new = ours.v1(b"abcd"), ours.v2(b"abcd")
    assert (len(old.encode()), len(new.encode())) == (84, 92)
    assert new.encode()[:84] == old.encode()
    assert new.earliest_available_slot == 17
