"""The requests of beacon nodes, as `pyp2p req` makes them of its options, and what their answers say, as facts.

Rules: pure. What an option leaves out follows from the status of the peer: its head. An option that a method has no
use for is refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pyp2p.beacon.blocks import blob_index, blob_slot, block_parent, block_slot, column_index, column_slot
from pyp2p.beacon.chain import Chain
from pyp2p.beacon.containers import (
    BeaconBlocksByHeadRequest,
    BeaconBlocksByRangeRequest,
    BlobIdentifier,
    BlobSidecarsByRangeRequest,
    DataColumnsByRootIdentifier,
    DataColumnSidecarsByRangeRequest,
    GoodbyeReason,
    LightClientUpdatesByRangeRequest,
    MetaDataV1,
    MetaDataV2,
    MetaDataV3,
    StatusV1,
)
from pyp2p.beacon.exchange import goodbye_text
from pyp2p.beacon.methods import ForkBytes, Methods
from pyp2p.beacon.status import ChainStatus
from pyp2p.cli.failure import UsageError, clean
from pyp2p.cli.node_events import status_facts
from pyp2p.errors import WireError, printable
from pyp2p.reqresp.declare import Method

OPTIONS: Final = ("start", "count", "root", "index", "code")


@dataclass(frozen=True, slots=True)
class Ours:
    """What we say of ourselves."""

    status: ChainStatus
    digest: bytes  # of the fork of now


def _slots(options: argparse.Namespace, peer: StatusV1 | None) -> tuple[int, int]:
    """First slot and count: those that end with the peer's head when no first one is named."""
    count = options.count or 1
    head = 0 if peer is None else peer.head_slot
    return (max(0, head - count + 1) if options.start is None else options.start), count


def _root(options: argparse.Namespace, peer: StatusV1 | None) -> bytes:
    roots = _roots(options, peer)
    if len(roots) > 1:
        raise UsageError(f"--root: {len(roots)} are given, and the method asks for one")
    return roots[0]


def _roots(options: argparse.Namespace, peer: StatusV1 | None) -> tuple[bytes, ...]:
    """Those of --root, or that of the peer's head."""
    if options.root:
        return tuple(options.root)
    if peer is None:
        raise UsageError("--root is missing")
    return (peer.head_root,)


Make = Callable[[argparse.Namespace, StatusV1 | None], Any]
_SLOTS = ("start", "count")
# Which options each method has a use for, and how its request is made of them and of the peer's status.
_REQUESTS: Final[dict[str, tuple[tuple[str, ...], Make]]] = {
    "ping": ((), lambda given, peer: 0),
    "metadata": ((), lambda given, peer: None),
    "goodbye": (("code",), lambda given, peer: given.code or GoodbyeReason.CLIENT_SHUTDOWN),
    "beacon_blocks_by_range": (_SLOTS, lambda given, peer: BeaconBlocksByRangeRequest(*_slots(given, peer))),
    "beacon_blocks_by_root": (("root",), _roots),
    "beacon_blocks_by_head": (
        ("root", "count"),
        lambda given, peer: BeaconBlocksByHeadRequest(_root(given, peer), given.count or 1),
    ),
    "blob_sidecars_by_range": (_SLOTS, lambda given, peer: BlobSidecarsByRangeRequest(*_slots(given, peer))),
    "blob_sidecars_by_root": (
        ("root", "index"),
        lambda given, peer: tuple(
            BlobIdentifier(root, index) for root in _roots(given, peer) for index in given.index or (0,)
        ),
    ),
    "data_column_sidecars_by_range": (
        (*_SLOTS, "index"),
        lambda given, peer: DataColumnSidecarsByRangeRequest(*_slots(given, peer), tuple(given.index or (0,))),
    ),
    "data_column_sidecars_by_root": (
        ("root", "index"),
        lambda given, peer: tuple(
            DataColumnsByRootIdentifier(root, tuple(given.index or (0,))) for root in _roots(given, peer)
        ),
    ),
    "light_client_bootstrap": (("root",), _root),
    "light_client_updates_by_range": (
        _SLOTS,
        lambda given, peer: LightClientUpdatesByRangeRequest(given.start or 0, given.count or 1),
    ),
    "light_client_finality_update": ((), lambda given, peer: None),
    "light_client_optimistic_update": ((), lambda given, peer: None),
}
NAMES: Final = ("status", *_REQUESTS)


def methods_named(given: str, methods: Methods) -> list[Method[Any, Any]]:
    """The versions of a method, the newest first; `NAME/VERSION` is that one only. Raises `UsageError`."""
    name, slash, version = given.partition("/")
    if name not in NAMES:
        raise UsageError(f"'{printable(given, 80)}' is no method", f"There are {', '.join(NAMES)}.")
    found = sorted((each for each in methods if each.name == name), key=lambda each: -each.version)
    if slash:
        versions = ", ".join(f"{name}/{each.version}" for each in found)
        found = [each for each in found if str(each.version) == version]
        if not found:
            raise UsageError(f"'{printable(given, 80)}' is no version of {name}", f"There are {versions}.")
    return found


def check_options(method: str, options: argparse.Namespace) -> None:
    """Raise `UsageError` for an option that `method` has no use for."""
    used = _REQUESTS[method][0] if method != "status" else ()
    for name in OPTIONS:
        if name not in used and getattr(options, name) not in (None, []):
            raise UsageError(f"--{name} says nothing to {method}")


def request_of(method: Method[Any, Any], options: argparse.Namespace, ours: Ours, peer: StatusV1 | None) -> Any:
    """What to send; `peer` is the status of the peer, as far as it was asked for. Raises `UsageError`."""
    if method.name == "status":
        return ours.status.v1(ours.digest) if method.version == 1 else ours.status.v2(ours.digest)
    try:
        return _made(method, options, peer)
    except (WireError, ValueError) as error:
        field, _, what = str(error).partition(": ")  # of the request, which is not what the user knows it by
        flag = _to_blame(method, options, peer)
        raise UsageError(clean(str(error) if flag is None else f"{flag}: {printable(what or field, 200)}")) from None


def check_request(method: Method[Any, Any], options: argparse.Namespace) -> None:
    """Raise `UsageError` for a request that nobody may ask for, whatever the status of the peer will be."""
    zero = bytes(32)
    request_of(method, options, Ours(ChainStatus(), bytes(4)), StatusV1(bytes(4), zero, 0, zero, 0))


def _made(method: Method[Any, Any], options: argparse.Namespace, peer: StatusV1 | None) -> Any:
    """A request that a peer would take. Raises `WireError` and `ValueError`."""
    made = _REQUESTS[method.name][1](options, peer)
    if method.request is not None:
        method.request.decode(method.encode_request(made))
    return made


def _to_blame(method: Method[Any, Any], options: argparse.Namespace, peer: StatusV1 | None) -> str | None:
    """The option without which the request could be made."""
    for name in _REQUESTS[method.name][0]:
        without = argparse.Namespace(**{**vars(options), name: None})
        try:
            _made(method, without, peer)
        except (WireError, ValueError):
            continue
        return f"--{name}"
    return None


# --- answers


def answer_facts(method: Method[Any, Any], value: Any, chain: Chain) -> dict[str, Any]:
    """What a chunk of an answer says: the fields of a value, or place and size of what travels as bytes."""
    match value:
        case StatusV1():
            return {**status_facts(value), "fork": _fork(chain, value.fork_digest)}
        case MetaDataV1():
            return _metadata_facts(value)
        case ForkBytes():
            return {
                "fork": _fork(chain, value.digest),
                "fork_digest": value.digest.hex(),
                **dict(_place(method.name, value.ssz)),
                "size": len(value.ssz),
            }
    if method.name == "goodbye":
        return {"code": value, "text": goodbye_text(value)}
    return {"seq_number": value}


def _metadata_facts(value: MetaDataV1) -> dict[str, Any]:
    facts: dict[str, Any] = {"seq_number": value.seq_number, "attnets": sorted(value.attnets)}
    if isinstance(value, MetaDataV2):
        facts["syncnets"] = sorted(value.syncnets)
    if isinstance(value, MetaDataV3):
        facts["custody_group_count"] = value.custody_group_count
    return facts


def _fork(chain: Chain, digest: bytes) -> str | None:
    period = chain.by_digest(digest)
    return None if period is None else period.fork


def _place(method: str, ssz: bytes) -> Iterator[tuple[str, Any]]:
    """Where in the chain it belongs."""
    if method.startswith("beacon_blocks"):
        yield from (("slot", block_slot(ssz)), ("parent_root", block_parent(ssz).hex()))
    elif method.startswith("blob_sidecars"):
        yield from (("slot", blob_slot(ssz)), ("index", blob_index(ssz)))
    elif method.startswith("data_column_sidecars"):
        yield from (("slot", column_slot(ssz)), ("index", column_index(ssz)))


def file_name(number: int, facts: dict[str, Any]) -> str:
    """A name for the file of chunk `number` that no other chunk of the answer has."""
    parts = [f"{number:05}", *([f"{facts['slot']:012}"] if "slot" in facts else [])]
    parts += [f"{facts['index']:03}"] if "index" in facts else []
    return "-".join([*parts, facts["fork"] or facts["fork_digest"]]) + ".ssz"
