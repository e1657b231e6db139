"""What we take for the chain, and whether a peer that takes something else for it is of any use to us.

Rules: pure. The application says what it knows; the fork digest follows from the clock. Consensus-specs,
phase0/p2p-interface.md, "Status".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.containers import StatusV1, StatusV2

ZERO_ROOT: Final = bytes(32)
LATE: Final = 1  # epochs after a fork in which a peer that has not noticed is kept
AHEAD: Final = 1  # slots that a peer's clock may be before ours

FinalizedRoot = Callable[[int], bytes | None]


@dataclass(frozen=True, slots=True)
class ChainStatus:
    """What the application knows of the chain; at genesis nothing is final and the roots are zero."""

    finalized_root: bytes = ZERO_ROOT
    finalized_epoch: int = 0
    head_root: bytes = ZERO_ROOT
    head_slot: int = 0
    earliest_available_slot: int = 0

    def __post_init__(self) -> None:
        """Raise `ValueError` that names the field that fits into no status."""
        for name in ("finalized_root", "head_root"):
            if len(getattr(self, name)) != 32:
                raise ValueError(f"status.{name} has 32 bytes, not {len(getattr(self, name))}")
        for name in ("finalized_epoch", "head_slot", "earliest_available_slot"):
            if not 0 <= getattr(self, name) < 1 << 64:
                raise ValueError(f"status.{name} is a number of 64 bits, not {getattr(self, name)}")

    def v1(self, digest: bytes) -> StatusV1:
        """As a message of phase0."""
        return self.v2(digest).v1()

    def v2(self, digest: bytes) -> StatusV2:
        """As a message of fulu."""
        return StatusV2(
            digest,
            self.finalized_root,
            self.finalized_epoch,
            self.head_root,
            self.head_slot,
            self.earliest_available_slot,
        )


def irrelevance(
    theirs: StatusV1, ours: ChainStatus, chain: Chain, slot: int, finalized_root: FinalizedRoot | None = None
) -> str | None:
    """Why a peer with this status is of no use in `slot`, None when it may be.

    `finalized_root(epoch)` tells the root that was final in an earlier epoch, None where it is not known.
    """
    epoch, soon = max(0, chain.epoch_of(slot)), max(0, chain.epoch_of(slot + AHEAD))
    digests = {chain.at_epoch(each).digest for each in (max(0, epoch - LATE), epoch, soon)}
    if theirs.fork_digest not in digests:
        return f"fork digest {theirs.fork_digest.hex()}, ours is {chain.at_epoch(epoch).digest.hex()}"
    if theirs.head_slot > max(slot, 0) + AHEAD:
        return f"its head is of slot {theirs.head_slot}, now is slot {slot}"
    if theirs.finalized_epoch > soon:
        return f"epoch {theirs.finalized_epoch} is final for it, now is epoch {epoch}"
    known: bytes | None = None
    if theirs.finalized_epoch == ours.finalized_epoch:
        known = ours.finalized_root
    elif theirs.finalized_epoch < ours.finalized_epoch and finalized_root is not None:
        known = finalized_root(theirs.finalized_epoch)
    if known is not None and ZERO_ROOT not in (known, theirs.finalized_root) and known != theirs.finalized_root:
        return (
            f"in epoch {theirs.finalized_epoch} {theirs.finalized_root.hex()[:16]} is final for it, "
            f"{known.hex()[:16]} for us"
        )
    return None
