"""A chain as the network sees it: when it began, how long its slots are, and what holds in which epoch.

Rules: pure values, checked when they are made; a `ValueError` names the field and says why. Time is wall time in
seconds, and an argument. Forks come in the order of the specs, one after another; a fork or a blob-parameter fork
changes the digest, and with it the topics, the contexts and the node record (consensus-specs, p2p-interface, "The
gossip domain", "eth2 field"; fulu, "compute_fork_digest", EIP-7892).
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from pyp2p.beacon.containers import FAR_FUTURE_EPOCH, FORK_DIGEST, ENRForkID, ForkData
from pyp2p.discv5.enr import Enr
from pyp2p.errors import printable

FORKS: Final = ("phase0", "altair", "bellatrix", "capella", "deneb", "electra", "fulu", "gloas", "heze")
NO_DIGEST: Final = bytes(FORK_DIGEST.most)  # the entry `nfd` of a node record when no fork is planned
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_MAX_BLOB_FORKS: Final = 1024  # a chain that changed its blobs each day for years; each makes a period and a digest
_MAX_REQUEST: Final = 1 << 16  # a list of requested roots is memory that a peer makes us take
_TICKS_PER_MS: Final = 10


def _require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        shown = value.hex() if isinstance(value, bytes) else repr(value)
        raise ValueError(f"{name} must be {rule}, not {printable(shown)}")


def _whole(name: str, value: object) -> None:
    """A number as SSZ can hold it; True is none."""
    _require(name, value, type(value) is int and 0 <= value <= FAR_FUTURE_EPOCH, "a whole number of 64 bits")


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be asked for at a time, and how far back; the defaults are those of phase0.

    `max_request_*` bound what a request may name and an answer may hold. `min_epochs_for_*` are for who keeps blocks:
    those of so many epochs before now are to be served (MIN_EPOCHS_FOR_BLOCK_REQUESTS and the like); nothing here
    holds an application to it.
    """

    max_request_blocks: int = 1024
    max_request_blob_sidecars: int = 768
    max_request_light_client_updates: int = 128
    min_epochs_for_block_requests: int = 33024
    min_epochs_for_blob_sidecars_requests: int = 4096
    min_epochs_for_data_column_sidecars_requests: int = 4096
    blob_sidecar_subnet_count: int = 0  # topics blob_sidecar_{n}; data columns took their place in fulu
    max_blobs_per_block: int = 0  # where no blob-parameter fork says otherwise

    def __post_init__(self) -> None:
        for each in fields(self):
            _whole(each.name, getattr(self, each.name))
        for name in ("max_request_blocks", "max_request_blob_sidecars", "max_request_light_client_updates"):
            value = getattr(self, name)
            _require(name, value, 0 < value <= _MAX_REQUEST, f"from 1 to {_MAX_REQUEST}")


# What the specs change with a fork, beside what the fork before it had.
_CHANGES: Final = MappingProxyType(
    {
        "deneb": {"max_request_blocks": 128, "blob_sidecar_subnet_count": 6, "max_blobs_per_block": 6},
        "electra": {"max_request_blob_sidecars": 1152, "blob_sidecar_subnet_count": 9, "max_blobs_per_block": 9},
        "fulu": {"blob_sidecar_subnet_count": 0},
    }
)


@dataclass(frozen=True, slots=True)
class Fork:
    """A regular fork: its name, its version (4 bytes), its first epoch, and the limits that it changes by name.

    One at `FAR_FUTURE_EPOCH` is not planned.
    """

    name: str
    version: bytes
    epoch: int
    limits: MappingProxyType[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        _require("fork", self.name, self.name in FORKS, f"one of {', '.join(FORKS)}")
        sized = isinstance(self.version, bytes) and len(self.version) == 4
        _require(f"version of {self.name}", self.version, sized, "4 bytes")
        _whole(f"epoch of {self.name}", self.epoch)
        known = {each.name for each in fields(Limits)}
        for name in self.limits:
            _require(f"limit of {self.name}", name, name in known, f"one of {', '.join(sorted(known))}")
        try:
            Limits(**self.limits)
        except ValueError as error:
            raise ValueError(f"limits of {self.name}: {error}") from None


@dataclass(frozen=True, slots=True)
class BlobParameters:
    """From `epoch` on a block has at most `max_blobs_per_block` blobs (EIP-7892)."""

    epoch: int
    max_blobs_per_block: int

    def __post_init__(self) -> None:
        _whole("epoch of a blob-parameter fork", self.epoch)
        _whole(f"max_blobs_per_block from epoch {self.epoch} on", self.max_blobs_per_block)


@dataclass(frozen=True, slots=True)
class ForkPeriod:
    """The epochs from `epoch` to before `end` (`FAR_FUTURE_EPOCH`: no end is planned), which have one digest.

    `blobs` is None before fulu. What begins with a blob-parameter fork has the name and version of the fork it is in.
    """

    fork: str
    version: bytes
    epoch: int
    end: int
    digest: bytes
    blobs: BlobParameters | None
    limits: Limits

    @property
    def title(self) -> str:
        """For people: the fork, and where its blob parameters are of an own fork the number of blobs."""
        return self.fork if self.blobs is None else f"{self.fork} ({self.blobs.max_blobs_per_block} blobs)"


def compute_fork_digest(version: bytes, genesis_validators_root: bytes, blobs: BlobParameters | None = None) -> bytes:
    """The digest (4 bytes) under a fork version, from fulu on also of the blob parameters that hold.

    A root of zeros gives what bootnodes announce that know of no genesis.
    """
    root = ForkData(version, genesis_validators_root).hash_tree_root()
    if blobs is not None:
        said = blobs.epoch.to_bytes(8, "little") + blobs.max_blobs_per_block.to_bytes(8, "little")
        mask = hashlib.sha256(said).digest()
        root = bytes(a ^ b for a, b in zip(root, mask, strict=True))
    return root[: FORK_DIGEST.most]


@dataclass(frozen=True)
class Chain:
    """One chain. The first fork begins at epoch 0; what was planned when, `schedule` tells.

    `genesis_time` is in whole seconds since 1970, `slot_duration_ms` in milliseconds. `blob_schedule` holds the
    blob-parameter forks in order. `bootnodes` are the records that discovery starts from.
    """

    name: str
    genesis_time: int
    genesis_validators_root: bytes
    forks: tuple[Fork, ...]
    blob_schedule: tuple[BlobParameters, ...] = ()
    slot_duration_ms: int = 12_000
    slots_per_epoch: int = 32
    bootnodes: tuple[Enr, ...] = ()

    def __post_init__(self) -> None:
        _require("name", self.name, bool(_NAME.fullmatch(self.name)), "1 to 64 of a-z, 0-9 and -")
        _whole("genesis_time", self.genesis_time)
        sized = isinstance(self.genesis_validators_root, bytes) and len(self.genesis_validators_root) == 32
        _require("genesis_validators_root", self.genesis_validators_root, sized, "32 bytes")
        for name in ("slot_duration_ms", "slots_per_epoch"):
            _whole(name, getattr(self, name))
            _require(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        self._check_forks()
        self._check_blob_schedule()
        if len(self._by_digest) < len(self.schedule):
            again = next(each for each in self.schedule if self._by_digest[each.digest] is not each)
            raise ValueError(f"forks: {again.title} at epoch {again.epoch} has the fork digest of a later one")

    def _check_forks(self) -> None:
        if not self.forks or self.forks[0].epoch != 0:
            raise ValueError("forks: the first one must begin at epoch 0")
        for before, after in pairwise(self.forks):
            if FORKS.index(after.name) != FORKS.index(before.name) + 1:
                raise ValueError(f"forks: {after.name} cannot follow {before.name}; the order is {', '.join(FORKS)}")
            if after.epoch < before.epoch:
                raise ValueError(
                    f"forks: {after.name} at epoch {after.epoch} is before {before.name} at {before.epoch}"
                )

    def _check_blob_schedule(self) -> None:
        if len(self.blob_schedule) > _MAX_BLOB_FORKS:
            raise ValueError(f"blob_schedule: {len(self.blob_schedule)} entries, over the limit of {_MAX_BLOB_FORKS}")
        for before, after in pairwise(self.blob_schedule):
            if after.epoch <= before.epoch:
                raise ValueError(f"blob_schedule: epoch {after.epoch} follows {before.epoch}; each must be later")

    @cached_property
    def schedule(self) -> tuple[ForkPeriod, ...]:
        """All that was and is planned, in order: each period has its own digest, and ends where the next one begins."""
        starts = sorted({0, *self._changes()})
        ends = (*starts[1:], FAR_FUTURE_EPOCH)
        return tuple(self._period(epoch, end) for epoch, end in zip(starts, ends, strict=True))

    def _changes(self) -> Iterator[int]:
        fulu = self.fork_epoch("fulu")
        yield from (fork.epoch for fork in self.forks if fork.epoch != FAR_FUTURE_EPOCH)
        # An entry from before fulu holds from fulu on: it changes nothing by itself.
        yield from (each.epoch for each in self.blob_schedule if fulu <= each.epoch != FAR_FUTURE_EPOCH)

    def _period(self, epoch: int, end: int) -> ForkPeriod:
        limits, held = Limits(), self.forks[0]
        own = {fork.name: fork for fork in self.forks}
        for name in FORKS:
            if self.fork_epoch(name) > epoch:
                break
            held = own.get(name, held)
            limits = replace(limits, **{**_CHANGES.get(name, {}), **(own[name].limits if name in own else {})})
        blobs = None
        if self.fork_epoch("fulu") <= epoch:
            blobs = BlobParameters(self.fork_epoch("electra"), limits.max_blobs_per_block)
            blobs = next((each for each in reversed(self.blob_schedule) if each.epoch <= epoch), blobs)
            limits = replace(limits, max_blobs_per_block=blobs.max_blobs_per_block)
        digest = compute_fork_digest(held.version, self.genesis_validators_root, blobs)
        return ForkPeriod(held.name, held.version, epoch, end, digest, blobs, limits)

    @cached_property
    def _by_digest(self) -> dict[bytes, ForkPeriod]:
        return {period.digest: period for period in self.schedule}

    def fork_epoch(self, name: str) -> int:
        """The first epoch of a fork; 0 for one from before the chain's first, `FAR_FUTURE_EPOCH` when not planned."""
        if FORKS.index(name) < FORKS.index(self.forks[0].name):
            return 0
        return next((fork.epoch for fork in self.forks if fork.name == name), FAR_FUTURE_EPOCH)

    def at_epoch(self, epoch: int) -> ForkPeriod:
        """What holds in an epoch (0 <= epoch < 2**64)."""
        return self.schedule[bisect_right(self.schedule, epoch, key=lambda period: period.epoch) - 1]

    def at_slot(self, slot: int) -> ForkPeriod:
        """What holds in a slot: its digest is the context of a chunk with a block of that slot."""
        return self.at_epoch(self.epoch_of(slot))

    def next_after(self, epoch: int) -> ForkPeriod | None:
        """The next period that begins after an epoch; None when nothing more is planned."""
        end = self.at_epoch(epoch).end
        return None if end == FAR_FUTURE_EPOCH else self.at_epoch(end)

    def by_digest(self, digest: bytes) -> ForkPeriod | None:
        """Whose digest these context bytes are; None for those of another chain, or of a fork that we do not know."""
        return self._by_digest.get(digest)

    def enr_fork_id(self, epoch: int) -> ENRForkID:
        """The entry `eth2` of our record: without a planned fork, the current version and `FAR_FUTURE_EPOCH`.

        The next epoch is that of a blob-parameter fork too, the next version that of regular forks only (fulu).
        """
        now, coming = self.at_epoch(epoch), self.next_after(epoch)
        if coming is None:
            return ENRForkID(now.digest, now.version, FAR_FUTURE_EPOCH)
        return ENRForkID(now.digest, coming.version, coming.epoch)

    def next_fork_digest(self, epoch: int) -> bytes:
        """The entry `nfd` of our record: `NO_DIGEST` without a planned fork. Chains that plan fulu have it (fulu)."""
        coming = self.next_after(epoch)
        return NO_DIGEST if coming is None else coming.digest

    def slot_at(self, wall: float) -> int:
        """The slot at this wall time; below 0 before genesis, -1 being the last one before it."""
        # `slot_start` must lead back here, and a float of wall time has no exact milliseconds: tenths are near enough.
        return round((wall - self.genesis_time) * 1000 * _TICKS_PER_MS) // (self.slot_duration_ms * _TICKS_PER_MS)

    def slot_start(self, slot: int) -> float:
        """The wall time at which a slot begins."""
        return self.genesis_time + slot * self.slot_duration_ms / 1000

    def epoch_of(self, slot: int) -> int:
        """The epoch of a slot."""
        return slot // self.slots_per_epoch

    def epoch_at(self, wall: float) -> int:
        """The epoch at this wall time; 0 before genesis, since that is what is announced then."""
        return max(0, self.epoch_of(self.slot_at(wall)))

    def first_slot(self, epoch: int) -> int:
        """The slot that an epoch begins with."""
        return epoch * self.slots_per_epoch
