"""From what a caller names to a connection: the one that is open, a dial that others wait for, or a dial of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import trio
from multiaddr import Multiaddr

from pyp2p.errors import Attempt, DialFailed, DialSelf, LimitExceeded, P2PError, Refused, StageTimeout, Stopping
from pyp2p.peer.address import parse_multiaddr, split_peer, text
from pyp2p.peer.id import PeerId
from pyp2p.peer.store import PeerBook, Source
from pyp2p.switch.connection import Connection
from pyp2p.switch.dialing import Shared
from pyp2p.switch.establish import Establisher
from pyp2p.switch.outbound import Outbound, Target
from pyp2p.switch.ranking import dialable_claim
from pyp2p.trace import Stage

_CONSIDERED = 100  # addresses of one peer that are looked at: a list of thousands must not hold up the loop
_PROVEN = (Source.MANUAL, Source.OBSERVED)  # the user gave it, or the peer was met there


class Connector:
    """Connects callers to peers. One object per switch."""

    def __init__(
        self,
        *,
        outbound: Outbound,
        establisher: Establisher,
        peer: PeerId,
        store: PeerBook,
        addresses: Callable[[], Sequence[Multiaddr]],
        max_dials: int,
        spawn: Callable[..., None],
    ) -> None:
        self._outbound = outbound
        self._establisher = establisher
        self._peer = peer
        self._store = store
        self._addresses = addresses
        self._max_dials = max_dials
        self._spawn = spawn
        self._dials: dict[object, tuple[Target, Shared[Connection]]] = {}
        self._stopping = False

    async def connect(
        self, named: PeerId | Multiaddr | str, addrs: Iterable[str | Multiaddr], isolated: bool, ignore_backoff: bool
    ) -> Connection:
        """See `Switch.connect`."""
        target = self._target(named, addrs, isolated, ignore_backoff)
        if target.peer == self._peer:
            raise DialSelf("the target is this node itself")
        key: object = object() if isolated else (target.peer or target.addresses)
        while not self._stopping:
            open_already = None if target.peer is None or isolated else self._establisher.best(target.peer)
            if open_already is not None:
                under_way = self._dials.get(key)
                if under_way is not None and under_way[1].given_up:
                    await under_way[1].ended()  # what it made is closed when it notices that nobody waits any more
                    continue
                await open_already.identified.wait()
                if self._establisher.usable(open_already):
                    return open_already
                continue  # it ended while we waited, or was given up
            begun, dial = self._join(key, target)
            try:
                connection = await dial.wait()
            except DialFailed:
                if begun.covers(target):
                    raise
                continue  # the caller who began that dial knew less than we do
            if connection is not None:
                return connection
        raise Stopping("the switch stops")

    def stop(self) -> None:
        """Give up all dials; whoever waits for one gets `Stopping`."""
        self._stopping = True
        for _, dial in list(self._dials.values()):
            dial.cancel()

    def _target(
        self, named: PeerId | Multiaddr | str, addrs: Iterable[str | Multiaddr], isolated: bool, ignore_backoff: bool
    ) -> Target:
        given: dict[Multiaddr, None] = {}
        peer: PeerId | None = None
        addrs = islice([addrs] if isinstance(addrs, (str, Multiaddr)) else addrs, _CONSIDERED)
        if isinstance(named, PeerId):
            peer = named
        elif isinstance(named, str) and not named.startswith("/"):
            peer = PeerId.parse(named)
        else:
            address, peer = split_peer(parse_multiaddr(named))
            given[address] = None
        for extra in addrs:
            address, whose = split_peer(parse_multiaddr(extra))
            if whose is not None and peer is not None and whose != peer:
                raise ValueError(f"address {text(address)} is of peer {whose}, not {peer}")
            given[address] = None
        told: dict[Multiaddr, None] = {}
        if peer is not None:
            own = self._addresses()
            for known, source in self._store.sources(peer, trio.current_time()).items():
                address = split_peer(known)[0]
                if address in given or len(given) + len(told) >= _CONSIDERED:
                    continue
                if source in _PROVEN:
                    given[address] = None
                elif dialable_claim(address, own):
                    told[address] = None
        return Target(peer, (*given, *told), isolated, ignore_backoff, frozenset(told))

    def _join(self, key: object, target: Target) -> tuple[Target, Shared[Connection]]:
        """The dial of `key` that is under way, or a new one."""
        found = self._dials.get(key)
        if found is not None and not found[1].given_up:
            return found
        if len(self._dials) >= self._max_dials:
            refusal = LimitExceeded("dial_peers", f"{len(self._dials)} peers are being dialled")
            self._establisher.refused(refusal, "dial", target.isolated)
            raise refusal
        dial = self._dials[key] = target, Shared[Connection]()
        self._spawn(self._run, key, *dial)
        return dial

    async def _run(self, key: object, target: Target, dial: Shared[Connection]) -> None:
        try:
            await dial.run(lambda: self._dial(target), (Exception,))
        finally:
            if self._dials.get(key) == (target, dial):  # not so when it was given up and somebody began anew
                del self._dials[key]

    async def _dial(self, target: Target) -> Connection:
        peering, ticket = await self._outbound.dial(target)
        over = await self._establisher.settle(peering, ticket)
        self._outbound.settled(target, peering.connection, over)
        if over is None:
            return peering.connection
        raise _failure(target, peering.connection, over)


def _failure(target: Target, connection: Connection, error: Exception) -> Exception:
    """What the callers are told of a connection that ended before it was theirs."""
    if not isinstance(error, (P2PError, OSError, trio.BrokenResourceError)):
        return error
    if not connection.verified:
        stage = Stage.MUXER_SELECT
    elif isinstance(error, (Refused, StageTimeout)):
        stage = Stage.ADMISSION
    else:
        stage = connection.trace.stage
    attempt = Attempt(text(connection.remote), stage, error, connection.trace)
    return DialFailed(target.peer or connection.peer, [attempt])
