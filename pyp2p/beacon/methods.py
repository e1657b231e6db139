"""The request/response protocols of the beacon chain, each declared once; and what they may cost.

Rules: pure. Blocks and sidecars travel as SSZ bytes with the fork that their context names; the few fields that tell
whether an answer fits its request (slots, roots of parents, column numbers) are read in place. Consensus-specs,
p2p-interface, phase0 to fulu.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pyp2p.beacon.blocks import blob_slot, block_slot, column_index, column_slot
from pyp2p.beacon.chain import FORKS, Chain
from pyp2p.beacon.containers import (
    GOODBYE,
    LIGHT_CLIENT_BOOTSTRAP_REQUEST,
    NUMBER_OF_COLUMNS,
    PING,
    BeaconBlocksByHeadRequest,
    BeaconBlocksByRangeRequest,
    BlobSidecarsByRangeRequest,
    DataColumnSidecarsByRangeRequest,
    LightClientUpdatesByRangeRequest,
    MetaDataV1,
    MetaDataV2,
    MetaDataV3,
    StatusV1,
    StatusV2,
    blob_identifiers,
    block_roots,
    check_by_root,
    data_columns_by_root,
)
from pyp2p.beacon.ssz import SszType
from pyp2p.beacon.topics import DIGEST_BYTES, GOSSIP_TYPES
from pyp2p.errors import LocalProtocolError, WireError
from pyp2p.reqresp.codec import Bounds, ByContext, Kind
from pyp2p.reqresp.declare import Deadlines, Method
from pyp2p.reqresp.frames import SnappyFrames
from pyp2p.reqresp.rate import Quota, Rate

T = TypeVar("T")

FAMILY: Final = "/eth2/beacon_chain/req"
SSZ_SNAPPY: Final = SnappyFrames("ssz_snappy")
_LIGHT: Final = 64 * 1024  # a light client bootstrap or update: a sync committee of 24,624 bytes and two headers


@dataclass(frozen=True, slots=True)
class ForkBytes:
    """A block, a sidecar, an update: the SSZ bytes of a value of the fork whose digest is `digest`."""

    digest: bytes
    ssz: bytes


Complaint = Callable[[Any, ForkBytes, ForkBytes | None], str | None]


@dataclass(frozen=True, slots=True)
class _Share:
    """So many chunks in so many seconds of one peer, and `peers` times that of all."""

    seconds: float
    chunks: float
    peers: int = 16

    def quota(self, ceiling: int) -> Quota:
        """The quota of a method whose answers have up to `ceiling` chunks: one that may be asked for is never held
        up by the rate alone.
        """
        rate, burst = self.chunks / self.seconds, max(self.chunks, float(ceiling))
        return Quota(Rate(rate, burst), Rate(self.peers * rate, self.peers * burst))


_EVERYBODY: Final = 1024  # peers: as many as may be connected

# What a peer may have of us, and what we ask of a peer. Clients ship such figures: a node that syncs gets its blocks,
# one that floods gets no more than these. What admission and every peer's pings need is cheap, and there for all:
# the waits that others make would fail handshakes and pings of peers that do nothing wrong.
QUOTAS: Final = {
    "status": _Share(15.0, 5, _EVERYBODY),
    "goodbye": _Share(10.0, 1, _EVERYBODY),
    "ping": _Share(10.0, 2, _EVERYBODY),
    "metadata": _Share(5.0, 2, _EVERYBODY),
    "beacon_blocks_by_range": _Share(10.0, 1024, 4),
    "beacon_blocks_by_root": _Share(10.0, 128, 8),
    "beacon_blocks_by_head": _Share(10.0, 128, 8),
    "blob_sidecars_by_range": _Share(10.0, 768, 4),
    "blob_sidecars_by_root": _Share(10.0, 128, 8),
    "data_column_sidecars_by_range": _Share(10.0, 16384, 4),
    "data_column_sidecars_by_root": _Share(10.0, 16384, 4),
    "light_client_bootstrap": _Share(10.0, 1),
    "light_client_updates_by_range": _Share(10.0, 128, 4),
    "light_client_finality_update": _Share(10.0, 1),
    "light_client_optimistic_update": _Share(10.0, 1),
}


def _kind(name: str, ssz: SszType[T], check: Callable[[T], None] | None = None) -> Kind[T]:
    def encode(value: T) -> bytes:
        ssz.check(value, name)
        if check is not None:
            try:
                check(value)
            except WireError as error:
                raise LocalProtocolError(str(error)) from None
        return ssz.encode(value)

    def decode(payload: bytes) -> T:
        value = ssz.decode(payload, name)
        if check is not None:
            check(value)
        return value

    return Kind(name, Bounds(ssz.least, ssz.most), encode, decode)


def _fork_bytes(name: str, digest: bytes, bounds: Bounds) -> Kind[ForkBytes]:
    return Kind(name, bounds, lambda value: value.ssz, lambda payload: ForkBytes(digest, payload))


def _method(name: str, version: int, request: Kind[Any] | None, response: Any, **more: Any) -> Method[Any, Any]:
    quota = QUOTAS[name].quota(more.get("ceiling", 1))
    return Method(FAMILY, name, version, SSZ_SNAPPY, request, response, quota=quota, **more)


class Methods:
    """The methods of one chain, by attribute; iterating gives all of them.

    Contexts are the fork digests of the chain. How much may be asked for is what the fork of `epoch()` allows; without
    it, what the fork that allows most does.
    """

    def __init__(self, chain: Chain, epoch: Callable[[], int] | None = None) -> None:
        self._chain = chain
        self._epoch = epoch
        limits = [period.limits for period in chain.schedule]
        blocks = max(each.max_request_blocks for each in limits)
        updates = max(each.max_request_light_client_updates for each in limits)
        quick = Deadlines(request=5.0, response=10.0)
        first = {"before_admission": True, "deadlines": quick}
        status, newer = _kind("Status", StatusV1.ssz()), _kind("Status", StatusV2.ssz())
        self.status_v1 = _method("status", 1, status, status, **first, about="what we take for the chain")
        self.status_v2 = _method("status", 2, newer, newer, **first, about="and from where on blocks can be had")
        goodbye, ping = _kind("Goodbye", GOODBYE), _kind("Ping", PING)
        self.goodbye = _method("goodbye", 1, goodbye, goodbye, least=0, **first, about="we are about to go")
        self.ping = _method("ping", 1, ping, ping, **first, about="are you there? our metadata has this number")
        answers = [_kind("MetaData", each.ssz()) for each in (MetaDataV1, MetaDataV2, MetaDataV3)]
        self.metadata_v1, self.metadata_v2, self.metadata_v3 = (
            _method("metadata", version, None, answer, **first, about="which subnets we serve")
            for version, answer in enumerate(answers, 1)
        )
        self._declare_blocks(blocks)
        self._declare_sidecars(blocks, max(each.max_request_blob_sidecars for each in limits))
        self._declare_light_client(updates)

    def __iter__(self) -> Iterator[Method[Any, Any]]:
        return (each for each in vars(self).values() if isinstance(each, Method))

    def _blocks_now(self) -> int:
        """How many blocks may be asked for at a time."""
        periods = self._chain.schedule if self._epoch is None else [self._chain.at_epoch(self._epoch())]
        return max(each.limits.max_request_blocks for each in periods)

    def _check_count(self, request: Any) -> None:
        request.check(self._blocks_now())

    def _check_roots(self, request: tuple[Any, ...]) -> None:
        check_by_root(request)
        if len(request) > self._blocks_now():
            raise WireError(f"request by root: {len(request)} blocks, {self._blocks_now()} may be asked for")

    def _by_fork(self, name: str, bounds: Bounds, since: str = "phase0") -> ByContext[ForkBytes]:
        """Chunks with a context; one of a fork that has no such thing is as unknown as one of no fork."""
        first = FORKS.index(since)
        kinds = {
            period.digest: _fork_bytes(name, period.digest, bounds)
            for period in self._chain.schedule
            if FORKS.index(period.fork) >= first
        }
        return ByContext(DIGEST_BYTES, lambda value: value.digest, kinds.get)

    def _declare_blocks(self, blocks: int) -> None:
        bounds = _bounds("beacon_block")
        old = _fork_bytes("SignedBeaconBlock", self._chain.schedule[0].digest, bounds)
        new = self._by_fork("SignedBeaconBlock", bounds)

        by_range: dict[str, Any] = {
            "request": _kind("BeaconBlocksByRange", BeaconBlocksByRangeRequest.ssz(), self._check_count),
            "least": 0,
            "most": lambda request: request.count,
            "ceiling": blocks,
            "complaint": self._in_range("block", block_slot, 1),
            "about": "the blocks of some slots",
        }
        self.beacon_blocks_by_range_v1 = _method("beacon_blocks_by_range", 1, response=old, **by_range)
        self.beacon_blocks_by_range_v2 = _method("beacon_blocks_by_range", 2, response=new, **by_range)
        by_root: dict[str, Any] = {
            "request": _kind("BeaconBlocksByRoot", block_roots(blocks), self._check_roots),
            "least": 0,
            "most": len,
            "ceiling": blocks,
            "complaint": self._of_its_fork("block", block_slot),
            "about": "blocks by their roots",
        }
        self.beacon_blocks_by_root_v1 = _method("beacon_blocks_by_root", 1, response=old, **by_root)
        self.beacon_blocks_by_root_v2 = _method("beacon_blocks_by_root", 2, response=new, **by_root)
        self.beacon_blocks_by_head_v1 = _method(
            "beacon_blocks_by_head",
            1,
            _kind("BeaconBlocksByHead", BeaconBlocksByHeadRequest.ssz(), self._check_count),
            new,
            least=0,
            most=lambda request: request.count,
            ceiling=blocks,
            complaint=self._descending(),
            about="a block and those before it, newest first",
        )

    def _declare_sidecars(self, blocks: int, blobs: int) -> None:
        per_block = max((each.limits.max_blobs_per_block for each in self._chain.schedule), default=0)
        blob = self._by_fork("BlobSidecar", _bounds("blob_sidecar"), "deneb")
        self.blob_sidecars_by_range_v1 = _method(
            "blob_sidecars_by_range",
            1,
            _kind("BlobSidecarsByRange", BlobSidecarsByRangeRequest.ssz(), self._check_count),
            blob,
            least=0,
            most=lambda request: request.count * per_block,
            ceiling=blobs,
            complaint=self._in_range("blob sidecar", blob_slot, per_block),
            about="the blob sidecars of some slots",
        )
        self.blob_sidecars_by_root_v1 = _method(
            "blob_sidecars_by_root",
            1,
            _kind("BlobSidecarsByRoot", blob_identifiers(blobs), check_by_root),
            blob,
            least=0,
            most=len,
            ceiling=blobs,
            complaint=self._of_its_fork("blob sidecar", blob_slot),
            about="blob sidecars by block root and index",
        )
        column = self._by_fork("DataColumnSidecar", _bounds("data_column_sidecar"), "fulu")
        fulu = [each.limits for each in self._chain.schedule if FORKS.index(each.fork) >= FORKS.index("fulu")]
        columns = max((each.max_request_blocks for each in fulu), default=blocks) * NUMBER_OF_COLUMNS
        self.data_column_sidecars_by_range_v1 = _method(
            "data_column_sidecars_by_range",
            1,
            _kind(
                "DataColumnSidecarsByRange",
                DataColumnSidecarsByRangeRequest.ssz(),
                self._check_count,
            ),
            column,
            least=0,
            most=lambda request: request.count * len(request.columns),
            ceiling=columns,
            complaint=self._asked_columns(),
            about="some columns of some slots",
        )
        self.data_column_sidecars_by_root_v1 = _method(
            "data_column_sidecars_by_root",
            1,
            _kind("DataColumnSidecarsByRoot", data_columns_by_root(blocks), self._check_roots),
            column,
            least=0,
            most=lambda request: sum(len(each.columns) for each in request),
            ceiling=columns,
            complaint=self._asked_columns_of_roots(),
            about="some columns of blocks by their roots",
        )

    def _declare_light_client(self, updates: int) -> None:
        def by_fork(name: str, most: int) -> ByContext[ForkBytes]:
            return self._by_fork(name, Bounds(1, most), "altair")

        root = _kind("LightClientBootstrap", LIGHT_CLIENT_BOOTSTRAP_REQUEST)
        self.light_client_bootstrap_v1 = _method(
            "light_client_bootstrap",
            1,
            root,
            by_fork("LightClientBootstrap", _LIGHT),
            about="where a light client begins",
        )
        self.light_client_updates_by_range_v1 = _method(
            "light_client_updates_by_range",
            1,
            _kind(
                "LightClientUpdatesByRange",
                LightClientUpdatesByRangeRequest.ssz(),
                lambda request: request.check(updates),
            ),
            by_fork("LightClientUpdate", _LIGHT),
            least=0,
            most=lambda request: request.count,
            ceiling=updates,
            about="the best update of some sync committee periods",
        )
        newest = {"about": "the newest one"}
        finality = by_fork("LightClientFinalityUpdate", GOSSIP_TYPES["light_client_finality_update"].most)
        self.light_client_finality_update_v1 = _method("light_client_finality_update", 1, None, finality, **newest)
        optimistic = by_fork("LightClientOptimisticUpdate", GOSSIP_TYPES["light_client_optimistic_update"].most)
        self.light_client_optimistic_update_v1 = _method(
            "light_client_optimistic_update", 1, None, optimistic, **newest
        )

    # --- what is wrong with an answer

    def _wrong_fork(self, what: str, chunk: ForkBytes, slot: int) -> str | None:
        if self._chain.at_slot(slot).digest == chunk.digest:
            return None
        return f"{what} of slot {slot} with the context {chunk.digest.hex()}, which is of another fork"

    def _of_its_fork(self, what: str, slot_of: Callable[[bytes], int]) -> Complaint:
        return lambda request, chunk, before: self._wrong_fork(what, chunk, slot_of(chunk.ssz))

    def _in_range(self, what: str, slot_of: Callable[[bytes], int], per_slot: int) -> Complaint:
        def complaint(request: Any, chunk: ForkBytes, before: ForkBytes | None) -> str | None:
            slot = slot_of(chunk.ssz)
            end = request.start_slot + request.count
            if not request.start_slot <= slot < end:
                return f"{what} of slot {slot}, asked for were {request.start_slot} to {end - 1}"
            last = -1 if before is None else slot_of(before.ssz)
            if slot < last or (slot == last and per_slot == 1):
                return f"{what} of slot {slot} after one of slot {last}"
            return self._wrong_fork(what, chunk, slot)

        return complaint

    def _descending(self) -> Complaint:
        def complaint(request: Any, chunk: ForkBytes, before: ForkBytes | None) -> str | None:
            slot = block_slot(chunk.ssz)
            if before is not None and slot >= block_slot(before.ssz):
                return f"block of slot {slot} after one of slot {block_slot(before.ssz)}, newest first was asked for"
            return self._wrong_fork("block", chunk, slot)

        return complaint

    def _asked_columns_of_roots(self) -> Complaint:
        of_its_fork = self._of_its_fork("data column sidecar", column_slot)

        def complaint(request: Any, chunk: ForkBytes, before: ForkBytes | None) -> str | None:
            index = column_index(chunk.ssz)
            if not any(index in each.columns for each in request):
                return f"column {index}, which was not asked for"
            return of_its_fork(request, chunk, before)

        return complaint

    def _asked_columns(self) -> Complaint:
        in_range = self._in_range("data column sidecar", column_slot, NUMBER_OF_COLUMNS)

        def complaint(
            request: DataColumnSidecarsByRangeRequest, chunk: ForkBytes, before: ForkBytes | None
        ) -> str | None:
            index = column_index(chunk.ssz)
            if index not in request.columns:
                return f"column {index}, which was not asked for"
            return in_range(request, chunk, before)

        return complaint


def _bounds(name: str) -> Bounds:
    return Bounds(GOSSIP_TYPES[name].least, GOSSIP_TYPES[name].most)
