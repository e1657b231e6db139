"""Identify over streams: asking, answering, pushing (`/ipfs/id/1.0.0`, `/ipfs/id/push/1.0.0`).

This room lies below the switch: what it needs to know of a connection and of us is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import trio
from multiaddr import Multiaddr

from pyp2p.errors import IdentifyError, RecordError
from pyp2p.identify.core import ObservedAddresses, updated
from pyp2p.identify.wire import MAX_MESSAGE, MAX_MESSAGES, IdentifyInfo, decode, encode
from pyp2p.io.varint import LengthPrefixed
from pyp2p.peer.address import AddressKind
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.peer.record import PeerRecord, seal
from pyp2p.peer.store import PeerBook

IDENTIFY_PROTOCOL = "/ipfs/id/1.0.0"
PUSH_PROTOCOL = "/ipfs/id/push/1.0.0"
PUSH_CONCURRENCY = 32  # pushes read at once, and sent at once: a flood of them costs bounded memory
PUSH_TIMEOUT = 5.0


class Link(Protocol):
    """What identify needs to know of a connection."""

    peer: PeerId
    remote: Multiaddr
    kind: AddressKind


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

    async def ask(self, stream: trio.abc.HalfCloseableStream, link: Link) -> IdentifyInfo:
        """Read the peer's description from a fresh identify stream and remember it.

        The deadline and the stream's end are the caller's. Raises `IdentifyError`, `WireError`, stream errors.
        """
        return self._learn(await _read(stream), None, link)

    async def answer(self, stream: trio.abc.HalfCloseableStream, link: Link) -> None:
        """Send our description, with where we see the peer, and end the stream."""
        await stream.send_all(b"".join(encode(self._describe(link))))
        await stream.send_eof()

    async def take_push(
        self, stream: trio.abc.HalfCloseableStream, link: Link, before: IdentifyInfo | None
    ) -> IdentifyInfo:
        """Read what changed at the peer since `before` and remember the result.

        At most `PUSH_CONCURRENCY` are read at once, each within `PUSH_TIMEOUT`. Raises as `ask`, and `TooSlowError`.
        """
        async with self._reading:
            with trio.fail_after(PUSH_TIMEOUT):
                return self._learn(await _read(stream), before, link)

    def _learn(self, messages: list[bytes], before: IdentifyInfo | None, link: Link) -> IdentifyInfo:
        info = updated(before, decode(messages), link.peer)
        if link.kind is AddressKind.ISOLATED:
            return info
        now = trio.current_time()
        store = self._store
        store.learn(link.peer, link.kind, link.remote, info.addresses or (), now)
        store.set_protocols(link.peer, info.protocols or ())
        store.set_agent(link.peer, info.agent or "")
        if info.record is not None:
            with suppress(RecordError):  # what it said unsigned is its own claim all the same
                store.consume_record(info.record, now, link.peer)
        if info.observed is not None:
            self.observed.observe(info.observed, link.peer, link.remote, now)
        return info

    def _describe(self, link: Link) -> IdentifyInfo:
        addresses = tuple(self._addresses())
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
            self._seq = max(self._seq + 1, int(self._wall()))
            self._record = addresses, seal(self._identity, PeerRecord(self._identity.peer, self._seq, addresses))
        return self._record[1]


async def _read(stream: trio.abc.HalfCloseableStream) -> list[bytes]:
    framer = LengthPrefixed(MAX_MESSAGE)
    messages: list[bytes] = []
    async for chunk in stream:
        messages += framer.feed(chunk)
        if len(messages) > MAX_MESSAGES:
            raise IdentifyError(f"more than {MAX_MESSAGES} identify messages")
    framer.finish()
    return messages
