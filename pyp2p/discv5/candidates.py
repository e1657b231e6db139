"""Whom to dial: sources of candidates for a dialer.

Rules: each source is an async iterator that gives a node once, and again when its record is a newer one; nodes that
name nothing to dial are left out. Those of discovery never end, whatever is in a record that a stranger made: leave
them by `break`, or cancel.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import trio
from multiaddr import Multiaddr

from pyp2p.discv5.enr import Enr, bits
from pyp2p.discv5.service import Discv5
from pyp2p.errors import InvalidEnr, InvalidMultiaddr, printable
from pyp2p.peer.address import parse_multiaddr, split_peer, text
from pyp2p.peer.id import PeerId

_SEEN = 65536  # nodes that are remembered as given: strangers make up more
_ATTNETS, _SYNCNETS = 64, 4  # subnets that there are; eth2 p2p-interface
_PAUSE = 5.0  # seconds after a random lookup that found nobody new

Wanted = Callable[[Enr], bool]
Known = Enr | Multiaddr | str  # how a peer is named: a record, or an address that ends with /p2p


class Source(StrEnum):
    """Where a candidate comes from: how far it is to be believed, and whom to ask for more."""

    RANDOM = "discv5 random"
    SUBNET = "discv5 subnet"
    STATIC = "static"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer and where to dial it; `record` is None where a static address is all that is known."""

    peer: PeerId
    addrs: tuple[Multiaddr, ...]
    source: Source
    record: Enr | None = None


def random_nodes(discovery: Discv5, wanted: Wanted | None = None) -> AsyncIterator[Candidate]:
    """The live nodes that we know, then what one random lookup after the other finds; of them those that are `wanted`.

    What `wanted` raises is raised here.
    """
    return _search(discovery, wanted, Source.RANDOM)


def subnet_nodes(
    discovery: Discv5, *, attnets: Iterable[int] = (), syncnets: Iterable[int] = (), wanted: Wanted | None = None
) -> AsyncIterator[Candidate]:
    """As `random_nodes`, those only whose record names one of these attestation or sync committee subnets at least."""
    attestation, sync = frozenset(attnets), frozenset(syncnets)
    for name, chosen, most in (("attnets", attestation, _ATTNETS), ("syncnets", sync, _SYNCNETS)):
        if not chosen <= set(range(most)):
            raise ValueError(f"{name} are whole numbers from 0 to {most - 1}, not {sorted(chosen)}")

    def on_one(node: Enr) -> bool:
        there = not attestation.isdisjoint(bits(node.attnets or b"", _ATTNETS))
        there = there or not sync.isdisjoint(bits(node.syncnets or b"", _SYNCNETS))
        return there and (wanted is None or wanted(node))

    return _search(discovery, on_one, Source.SUBNET)


async def static_nodes(peers: Iterable[Known]) -> AsyncIterator[Candidate]:
    """Those of a list: records, or addresses that end with `/p2p`. Then it ends.

    Raises before the first one, and names the one that is wrong: `InvalidEnr` or `InvalidMultiaddr` for a text that is
    neither, `ValueError` for a record that names nothing to dial, `TypeError` for one of them in place of a list.
    """
    if isinstance(peers, str | Enr | Multiaddr):
        raise TypeError("static_nodes takes a list of records and addresses: [...] around the one")
    for candidate in [_static(peer) for peer in peers]:
        yield candidate
        await trio.lowlevel.checkpoint()


def _static(given: Known) -> Candidate:
    candidate = named_peer(given)
    if not candidate.addrs:
        raise ValueError(f"the record of {candidate.peer} names no address to dial")
    return candidate


def named_peer(given: Known) -> Candidate:
    """The peer that a user names, perhaps without an address to dial. Raises `InvalidEnr` and `InvalidMultiaddr`."""
    if isinstance(given, str):
        given = _read(given)
    if isinstance(given, Enr):
        return Candidate(given.peer_id, given.multiaddrs(), Source.STATIC, given)
    address, peer = split_peer(given)
    if peer is None:
        raise InvalidMultiaddr(f"{printable(text(given))} does not say which peer is there: /p2p/ID at its end")
    return Candidate(peer, (address,), Source.STATIC)


def _read(given: str) -> Enr | Multiaddr:
    try:
        return Enr.from_text(given) if given.startswith("enr:") else parse_multiaddr(given)
    except (InvalidEnr, InvalidMultiaddr) as error:
        raise type(error)(f"'{printable(given, 60)}': {error}") from None


async def _search(discovery: Discv5, wanted: Wanted | None, source: Source) -> AsyncIterator[Candidate]:
    seen: dict[bytes, int] = {}
    found = [node for node in discovery.nodes() if wanted is None or wanted(node)]
    asked = False
    while True:
        news = 0
        for record in found:
            if seen.get(record.node_id, -1) < record.seq and (addrs := record.multiaddrs()):
                seen[record.node_id] = record.seq
                if len(seen) > _SEEN:
                    del seen[next(iter(seen))]
                news += 1
                yield Candidate(record.peer_id, addrs, source, record)
        if asked and not news:
            await trio.sleep(_PAUSE)
        found = await discovery.find_random(wanted)
        asked = True
