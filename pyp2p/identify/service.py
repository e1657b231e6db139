"""Identify over streams: asking, answering, pushing (`/ipfs/id/1.0.0`, `/ipfs/id/push/1.0.0`).

This room lies below the switch: what it needs to know of a connection and of us is passed in.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import trio
from multiaddr import Multiaddr

from pyp2p.errors import IdentifyError, RecordError
from pyp2p.identify.core import ObservedAddresses, shape_of, updated
from pyp2p.identify.wire import MAX_ADDRESSES, MAX_MESSAGE, MAX_MESSAGES, IdentifyInfo, decode, encode
from pyp2p.io.varint import LengthPrefixed
from pyp2p.peer.address import AddressKind, canonical, is_public, split_peer
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.peer.record import PeerRecord, seal
from pyp2p.peer.store import PeerBook

IDENTIFY_PROTOCOL = "/ipfs/id/1.0.0"
PUSH_PROTOCOL = "/ipfs/id/push/1.0.0"
PUSH_CONCURRENCY = 32  # pushes read at once (one of each peer), and sent at once: a flood costs bounded memory
PUSH_TIMEOUT = 5.0
_DIRECT = (AddressKind.OUTBOUND_DIRECT, AddressKind.INBOUND_DIRECT)  # behind a proxy peers see the proxy


class Link(Protocol):
    """What identify needs to know of a connection."""

    peer: PeerId
    remote: Multiaddr
    kind: AddressKind


class KnownLink(Link, Protocol):
    """A connection with what its peer has said so far."""

    info: IdentifyInfo | None


class Identify:
    """Tells peers who we are and learns who they are. One object per switch; `now` is monotonic seconds."""

    def __init__(
        self,
        identity: Identity,
        store: PeerBook,
        *,
        agent: str,
        protocol_version: str,
        protocols: Callable[[], Sequence[str]],
        addresses: Callable[[], Sequence[Multiaddr]],
        wall: Callable[[], float],
    ) -> None:
        self.observed = ObservedAddresses()
        self._identity = identity
        self._store = store
        self._agent = agent
        self._protocol_version = protocol_version
        self._protocols = protocols
        self._addresses = addresses
        self._wall = wall
        self._seq = 0
        self._record: tuple[tuple[Multiaddr, ...], bytes] | None = None
        self._reading = trio.CapacityLimiter(PUSH_CONCURRENCY)
        self._lines: dict[PeerId, _Line] = {}  # of peers whose pushes are being read

    async def ask(self, stream: trio.abc.HalfCloseableStream, link: Link) -> IdentifyInfo:
        """Read the peer's description from a fresh identify stream and remember it.

        The deadline and the stream's end are the caller's. Raises `IdentifyError`, `WireError`, stream errors.
        """
        said = decode(await _read(stream))
        return self._learn(said, updated(None, said, link.peer), link)

    async def answer(self, stream: trio.abc.HalfCloseableStream, link: Link) -> None:
        """Send our description, with where we see the peer, and end the stream."""
        await stream.send_all(b"".join(encode(self._describe(link))))
        await stream.send_eof()

    async def take_push(self, stream: trio.abc.HalfCloseableStream, link: KnownLink, order: int) -> IdentifyInfo:
        """Read what changed at the peer, apply it to `link.info` as it is then, remember and return the result.

        Pushes of one peer are read one after another, those that came together by their `order` (the stream's id), each
        within `PUSH_TIMEOUT` seconds: none undoes a later one and nobody takes the places of others. Raises as `ask`,
        and `TooSlowError`.
        """
        line = self._lines.setdefault(link.peer, _Line())
        try:
            async with line.turn(order), self._reading:
                with trio.fail_after(PUSH_TIMEOUT):
                    said = decode(await _read(stream))
                return self._learn(said, updated(link.info, said, link.peer), link)
        finally:
            if line.empty and self._lines.get(link.peer) is line:
                del self._lines[link.peer]

    def _learn(self, said: IdentifyInfo, info: IdentifyInfo, link: Link) -> IdentifyInfo:
        if link.kind is AddressKind.ISOLATED:
            return info
        now = trio.current_time()
        store = self._store
        store.learn(link.peer, link.kind, link.remote, info.addresses or (), now)
        store.set_protocols(link.peer, info.protocols or ())
        store.set_agent(link.peer, info.agent or "")
        if said.record is not None:
            with suppress(RecordError):  # what it said unsigned is its own claim all the same
                store.consume_record(said.record, now, link.peer)
        if said.observed is not None and link.kind in _DIRECT:
            observed, named = split_peer(said.observed)  # js-libp2p puts our id behind it
            if named in (None, self._identity.peer) and self._is_listened_on(observed):
                self.observed.observe(observed, link.peer, link.remote, now)
        return info

    def _is_listened_on(self, observed: Multiaddr) -> bool:
        """Whether an address of that kind can be one of ours; of a kind that we do not serve it helps nobody."""
        if not is_public(observed):
            return False  # the common case at home, without asking for our addresses
        shape = shape_of(canonical(observed))
        return any(shape_of(address) == shape for address in self._addresses())

    def _describe(self, link: Link) -> IdentifyInfo:
        addresses = tuple(self._addresses())[:MAX_ADDRESSES]
        return IdentifyInfo(
            public_key=self._identity.public_key,
            addresses=addresses,
            protocols=tuple(self._protocols()),
            observed=link.remote,
            protocol_version=self._protocol_version,
            agent=self._agent,
            record=self._own_record(addresses),
        )

    def _own_record(self, addresses: tuple[Multiaddr, ...]) -> bytes:
        if self._record is None or self._record[0] != addresses:
            # Milliseconds: after a quick restart still higher than what we said before.
            self._seq = max(self._seq + 1, int(self._wall() * 1000))
            self._record = addresses, seal(self._identity, PeerRecord(self._identity.peer, self._seq, addresses))
        return self._record[1]


class _Line:
    """Tasks that take turns, the lowest `order` first."""

    def __init__(self) -> None:
        self._standing: list[int] = []
        self._busy = False
        self._moved = trio.lowlevel.ParkingLot()

    @property
    def empty(self) -> bool:
        """True when nobody stands in it."""
        return not self._standing

    @asynccontextmanager
    async def turn(self, order: int) -> AsyncIterator[None]:
        """Wait for the turn and keep it for the length of the block."""
        insort(self._standing, order)
        mine = False
        try:
            await trio.lowlevel.checkpoint()  # the tasks that were started together all stand in line after this
            while self._busy or self._standing[0] != order:
                await self._moved.park()
            mine = self._busy = True
            yield
        finally:
            if mine:
                self._busy = False
            self._standing.remove(order)
            self._moved.unpark_all()


async def _read(stream: trio.abc.HalfCloseableStream) -> list[bytes]:
    framer = LengthPrefixed(MAX_MESSAGE)
    messages: list[bytes] = []
    async for chunk in stream:
        messages += framer.feed(chunk)
        if len(messages) > MAX_MESSAGES:
            raise IdentifyError(f"more than {MAX_MESSAGES} identify messages")
    framer.finish()
    if not messages:
        raise IdentifyError("the stream ended without an identify message")
    return messages
