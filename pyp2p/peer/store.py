"""The peer store: who is known, where they are and what they speak, in memory and bounded.

Rules: what a peer claims is kept only under that peer's own id; a certified (signed) record beats every unsigned claim;
`now` is an argument (monotonic seconds); everything that strangers can fill has a bound, and filling it does not push
out peers that we have met. A store that outlives the process offers the same `PeerBook`.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from multiaddr import Multiaddr

from pyp2p.errors import RecordError
from pyp2p.peer.address import AddressKind, canonical, is_dialable, parse_multiaddr, split_peer
from pyp2p.peer.id import PeerId
from pyp2p.peer.record import open_record


class Source(enum.IntEnum):
    """Where an address comes from; the lower, the more it is trusted, and the earlier it is handed out."""

    MANUAL = 0  # the user or the application gave it
    OBSERVED = 1  # we dialled it and the peer proved its id there
    CERTIFIED = 2  # in a record that the peer signed
    OWN_CLAIM = 3  # the peer said so in identify
    ALTERNATE = 4  # the IP of an inbound connection with a port that the peer claims
    DISCOVERY = 5  # somebody else said so


_REPLACED = (Source.CERTIFIED, Source.OWN_CLAIM)  # a new statement takes the place of the last one
_UNSIGNED = (Source.OWN_CLAIM, Source.ALTERNATE, Source.DISCOVERY)  # worth nothing beside a record


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Bounds of the store, and how long things are kept (seconds)."""

    own_claims: int = 64  # addresses per peer in all; a peer that invents addresses makes us dial them
    discovered: int = 5  # per peer from others, who may want us to flood a victim
    observed: int = 8  # per peer, also alternates: a peer that moves leaves old places behind
    kept: int = 20  # per peer after it left
    left_peers: int = 5_000  # peers that were connected once: least recently used out first
    strangers: int = 5_000  # peers never connected: a million fresh keys must not push out those we met
    bytes: int = 16 * 1024 * 1024  # of each of the two tables: the counts above, times the largest of everything
    protocols: int = 1_000  # per peer; dropped when it leaves
    agent: int = 256  # characters
    kept_ttl: float = 3600.0  # after the peer left
    record_ttl: float = 3600.0  # a certified record of a peer that is not connected


class PeerBook(Protocol):
    """What the switch and identify need of a store; `PeerStore` documents each."""

    def add_addresses(
        self, peer: PeerId, addresses: Iterable[str | bytes | Multiaddr], ttl: float, source: Source, now: float
    ) -> int: ...
    def learn(
        self, peer: PeerId, kind: AddressKind, remote: Multiaddr | None, announced: Iterable[Multiaddr], now: float
    ) -> None: ...
    def consume_record(self, envelope: bytes, now: float, peer: PeerId | None = None) -> bool: ...
    def record(self, peer: PeerId) -> bytes | None: ...
    def addresses(self, peer: PeerId, now: float) -> list[Multiaddr]: ...
    def sources(self, peer: PeerId, now: float) -> dict[Multiaddr, Source]: ...
    def peers(self, now: float) -> list[PeerId]: ...
    def connected(self, peer: PeerId) -> None: ...
    def disconnected(self, peer: PeerId, now: float) -> None: ...
    def set_protocols(self, peer: PeerId, protocols: Iterable[str]) -> None: ...
    def protocols(self, peer: PeerId) -> tuple[str, ...]: ...
    def set_agent(self, peer: PeerId, agent: str) -> None: ...
    def agent(self, peer: PeerId) -> str: ...
    def forget(self, peer: PeerId) -> None: ...


@dataclass(slots=True)
class _Known:
    source: Source
    expires: float


@dataclass(slots=True)
class _Peer:
    addresses: dict[Multiaddr, _Known] = field(default_factory=dict)
    record: bytes | None = None
    seq: int = -1
    protocols: tuple[str, ...] = ()
    agent: str = ""
    tags: dict[str, int] = field(default_factory=dict)
    protections: dict[str, None] = field(default_factory=dict)
    here: bool = False
    met: bool = False
    weight: int = 0
    table: _Table | None = None

    def weigh(self) -> int:
        """About how many bytes it takes."""
        addresses = sum(len(address.to_bytes()) + 300 for address in self.addresses)
        protocols = sum(len(name) + 60 for name in self.protocols)
        return 500 + addresses + protocols + len(self.record or b"") + len(self.agent)

    @property
    def empty(self) -> bool:
        """True when nothing would be lost with it."""
        return not (self.addresses or self.record or self.protocols or self.agent or self.tags)


class _Table:
    """Peers of one standing, least recently used first; without bounds when `limit` is None."""

    __slots__ = ("bytes", "limit", "max_bytes", "peers")

    def __init__(self, limit: int | None = None, max_bytes: int = 0) -> None:
        self.limit = limit
        self.max_bytes = max_bytes
        self.peers: OrderedDict[PeerId, _Peer] = OrderedDict()
        self.bytes = 0

    def put(self, peer: PeerId, state: _Peer) -> None:
        state.table = self
        state.weight = state.weigh()
        self.peers[peer] = state
        self.bytes += state.weight
        if self.limit is not None:
            while len(self.peers) > self.limit or self.bytes > self.max_bytes:
                self.bytes -= self.peers.popitem(last=False)[1].weight

    def take(self, peer: PeerId) -> _Peer | None:
        state = self.peers.pop(peer, None)
        if state is not None:
            self.bytes -= state.weight
        return state


class PeerStore:
    """The peer store in memory.

    Peers that are connected or protected are never pushed out: their number is bounded by the connection limits and by
    the caller. Times are monotonic seconds.
    """

    def __init__(self, limits: StoreLimits = StoreLimits()) -> None:
        self._limits = limits
        self._connected = _Table()
        self._protected = _Table()
        self._left = _Table(limits.left_peers, limits.bytes)
        self._strangers = _Table(limits.strangers, limits.bytes)
        self._tables = (self._connected, self._protected, self._left, self._strangers)

    def add_addresses(
        self, peer: PeerId, addresses: Iterable[str | bytes | Multiaddr], ttl: float, source: Source, now: float
    ) -> int:
        """Remember where `peer` may be reached, for `ttl` seconds; returns how many addresses were new.

        Own claims and certified addresses replace the earlier ones of the same source, other sources add. Unsigned
        ones are ignored beside a living record, as is what names another peer at its end or cannot be dialled. A less
        trusted source never changes what a more trusted one said. Raises `InvalidMultiaddr`.
        """
        state = self._find(peer) or _Peer()
        self._expire(state, now)
        if source in _UNSIGNED and any(known.source is Source.CERTIFIED for known in state.addresses.values()):
            return 0
        wanted: dict[Multiaddr, None] = {}
        for given in addresses:
            address, named = split_peer(canonical(parse_multiaddr(given)))
            if named in (None, peer) and is_dialable(address):
                wanted[address] = None
        if source in _REPLACED:
            self._drop(state, source)
        added = 0
        for address in list(wanted)[: self._limits.own_claims]:
            known = state.addresses.get(address)
            if known is None:
                state.addresses[address] = _Known(source, now + ttl)
                added += 1
            elif source <= known.source:
                known.source, known.expires = source, max(known.expires, now + ttl)
        self._bound(state)
        if state.addresses or state.table is not None:
            self._place(peer, state)
        return added

    def learn(
        self, peer: PeerId, kind: AddressKind, remote: Multiaddr | None, announced: Iterable[Multiaddr], now: float
    ) -> None:
        """Remember what a connection of this kind may leave behind (see `AddressKind.book_addresses`)."""
        found = kind.book_addresses(remote, announced)
        ttl = self._limits.kept_ttl
        if found.observed:
            self.add_addresses(peer, found.observed, ttl, Source.OBSERVED, now)
        if kind is not AddressKind.ISOLATED:
            self.add_addresses(peer, found.claimed, ttl, Source.OWN_CLAIM, now)
            self.add_addresses(peer, found.alternates, ttl, Source.ALTERNATE, now)

    def consume_record(self, envelope: bytes, now: float, peer: PeerId | None = None) -> bool:
        """Take a signed record; True when it was new. Raises `RecordError` when it does not verify.

        `peer` says whom it must be about (raises `RecordError` if not). Without it only records about peers that are
        in the store count: anybody can sign for a million fresh keys. A sequence number that is not higher than the
        last one is ignored.
        """
        if peer is not None and (known := self._find(peer)) is not None and known.record == envelope:
            return False  # verified before, and it says nothing new
        record = open_record(envelope)
        if peer is not None and record.peer != peer:
            raise RecordError(f"a record about {record.peer}, where one about {peer} was expected")
        state = self._find(record.peer)
        if state is None:
            if peer is None:
                return False
            state = _Peer()
        if record.seq <= state.seq:
            return False
        for source in _UNSIGNED:
            self._drop(state, source)
        state.record, state.seq = bytes(envelope), record.seq
        self._place(record.peer, state)
        self.add_addresses(record.peer, record.addresses, self._limits.record_ttl, Source.CERTIFIED, now)
        return True

    def record(self, peer: PeerId) -> bytes | None:
        """The last signed record, to pass on; None without one."""
        state = self._find(peer)
        return None if state is None else state.record

    def addresses(self, peer: PeerId, now: float) -> list[Multiaddr]:
        """Where to try, without `/p2p` at the end: the most trusted source first, then in the order they came."""
        return list(self.sources(peer, now))

    def sources(self, peer: PeerId, now: float) -> dict[Multiaddr, Source]:
        """`addresses`, each with the most trusted source that it comes from."""
        state = self._find(peer)
        if state is None:
            return {}
        self._expire(state, now)
        self._place(peer, state)
        found = {address: known.source for address, known in state.addresses.items()}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def peers(self, now: float) -> list[PeerId]:
        """Everybody who is connected or has an address."""
        found = list(self._connected.peers)
        for table in self._tables[1:]:
            for peer, state in list(table.peers.items()):
                self._expire(state, now)
                if state.addresses:
                    found.append(peer)
                elif state.empty and table is self._strangers:
                    table.take(peer)
        return found

    def connected(self, peer: PeerId) -> None:
        """There is a connection to the peer (once more is harmless): nothing of it expires or is pushed out now."""
        state = self._find(peer) or _Peer()
        state.here = state.met = True
        self._place(peer, state)

    def disconnected(self, peer: PeerId, now: float) -> None:
        """The last connection ended: the best 20 addresses stay for an hour, the protocols are dropped."""
        state = self._connected.peers.get(peer)
        if state is None:
            return
        state.here = False
        state.protocols = ()
        best = sorted(state.addresses.items(), key=lambda item: item[1].source)[: self._limits.kept]
        state.addresses = dict(best)
        for known in state.addresses.values():
            known.expires = max(known.expires, now + self._limits.kept_ttl)
        self._place(peer, state)

    def set_protocols(self, peer: PeerId, protocols: Iterable[str]) -> None:
        """Replace what the peer speaks; the first 1,000."""
        state = self._find(peer) or _Peer()
        state.protocols = tuple(dict.fromkeys(protocols))[: self._limits.protocols]
        self._place(peer, state)

    def protocols(self, peer: PeerId) -> tuple[str, ...]:
        """What the peer speaks; nothing when it left or did not say yet."""
        state = self._find(peer)
        return () if state is None else state.protocols

    def set_agent(self, peer: PeerId, agent: str) -> None:
        """Remember the software that a peer says to run, cut to 256 characters: its own text, to be escaped."""
        state = self._find(peer) or _Peer()
        state.agent = agent[: self._limits.agent]
        self._place(peer, state)

    def agent(self, peer: PeerId) -> str:
        """The software that the peer says to run; empty when unknown."""
        state = self._find(peer)
        return "" if state is None else state.agent

    def tag(self, peer: PeerId, name: str, value: int) -> None:
        """Say what a peer is worth for one purpose (replaces the value of the same name; 0 removes it)."""
        state = self._find(peer) or _Peer()
        state.tags.pop(name, None)
        if value:
            state.tags[name] = value
        self._place(peer, state)

    def value(self, peer: PeerId) -> int:
        """The sum of its tags, for whoever has to choose between peers."""
        state = self._find(peer)
        return 0 if state is None else sum(state.tags.values())

    def protect(self, peer: PeerId, why: str) -> None:
        """Keep the peer in the store until each reason is taken back."""
        state = self._find(peer) or _Peer()
        state.protections[why] = None
        self._place(peer, state)

    def unprotect(self, peer: PeerId, why: str) -> bool:
        """Take one reason back; True when the peer is still protected by another."""
        state = self._find(peer)
        if state is None:
            return False
        state.protections.pop(why, None)
        self._place(peer, state)
        return bool(state.protections)

    def is_protected(self, peer: PeerId) -> bool:
        """Whether any reason stands."""
        state = self._find(peer)
        return state is not None and bool(state.protections)

    def forget(self, peer: PeerId) -> None:
        """Remove what is known of a peer; of one that is connected, what was learnt so far."""
        for table in self._tables:
            state = table.take(peer)
            if state is not None and state.here:
                self._place(peer, _Peer(here=True, met=True))

    def __len__(self) -> int:
        return sum(len(table.peers) for table in self._tables)

    def _find(self, peer: PeerId) -> _Peer | None:
        for table in self._tables:
            state = table.peers.get(peer)
            if state is not None:
                return state
        return None

    def _place(self, peer: PeerId, state: _Peer) -> None:
        """Into the table that its standing asks for, as the one used last."""
        if state.table is not None:
            state.table.take(peer)
        if state.here:
            self._connected.put(peer, state)
        elif state.protections:
            self._protected.put(peer, state)
        elif state.met:
            self._left.put(peer, state)
        else:
            self._strangers.put(peer, state)

    @staticmethod
    def _expire(state: _Peer, now: float) -> None:
        if not state.here:
            for address in [address for address, known in state.addresses.items() if known.expires <= now]:
                del state.addresses[address]

    @staticmethod
    def _drop(state: _Peer, source: Source) -> None:
        for address in [address for address, known in state.addresses.items() if known.source is source]:
            del state.addresses[address]

    def _bound(self, state: _Peer) -> None:
        """The oldest of a source over its bound go, then the least trusted until the whole is in its bound."""
        limits = self._limits
        counts = {
            Source.OBSERVED: limits.observed,
            Source.ALTERNATE: limits.observed,
            Source.DISCOVERY: limits.discovered,
        }
        for source, most in counts.items():
            own = [address for address, known in state.addresses.items() if known.source is source]
            for address in own[: max(0, len(own) - most)]:
                del state.addresses[address]
        if len(state.addresses) > limits.own_claims:
            best = sorted(state.addresses.items(), key=lambda item: item[1].source)[: limits.own_claims]
            state.addresses = dict(best)
