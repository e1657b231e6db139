"""The way into a network: the bootstrap nodes, all at once, until one of them is reached.

Rules: most public bootnodes have no TCP or QUIC port: such a one is reached when discovery has its answer, and where
all are such, when the first peer that was found through them is connected. One that connected counts whatever it did
next: many say goodbye at once. When nobody is reached in time, the error tells of each how far it came.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import trio
from multiaddr import Multiaddr

from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.dialer.service import reason_of, stage_of
from pyp2p.discv5.candidates import Known, named_peer
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.service import Discv5
from pyp2p.errors import BackingOff, DialFailed, DiscoveryError, JoinFailed, NotTried, P2PError
from pyp2p.peer.id import PeerId
from pyp2p.switch.events import Connected
from pyp2p.switch.switch import Switch

logger = logging.getLogger("pyp2p.beacon")

_NOBODY = "no bootstrap node is named, and the chain has none"
_AGAIN = 5.0  # seconds until a bootstrap node that was not reached is tried again


@dataclass(slots=True)
class Bootstrap:
    """One bootstrap node: `answered` in discovery (None: it was not asked there), where its dial ended and why."""

    peer: PeerId
    record: Enr | None
    addrs: tuple[Multiaddr, ...]
    answered: bool | None = None
    stage: str = ""
    reason: str = ""

    @property
    def dialable(self) -> bool:
        """True when it names an address to dial."""
        return bool(self.addrs)

    def __str__(self) -> str:
        said = {None: "not asked in discovery", True: "answered in discovery", False: "no answer in discovery"}
        dialled = (
            "no address to dial" if not self.addrs else f"{self.stage or 'dial'}: {self.reason or 'not over in time'}"
        )
        return f"{self.peer}: {said[self.answered]}; {dialled}"


class Joining:
    """One attempt to get into a network; `run` once.

    The dials belong to `nursery`: they go on when the caller has its answer, until they are through or the time is up,
    so that no connection is given up that is just being made.
    """

    def __init__(
        self, switch: Switch, discovery: Discv5 | None, bootstraps: Sequence[Bootstrap], nursery: trio.Nursery
    ) -> None:
        self._switch = switch
        self._discovery = discovery
        self._bootstraps = {each.peer: each for each in bootstraps}
        self._anybody = not any(each.dialable for each in bootstraps)
        self._nursery = nursery
        self._reached: PeerId | None = None
        self._success = trio.Event()

    async def run(self, seconds: float) -> PeerId:
        """Return at the first success, with the peer that it was. Raises `JoinFailed` after `seconds`."""
        scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._nursery.start_soon(self._try_all, scope)
        try:
            with trio.move_on_after(seconds):
                await self._success.wait()
        finally:
            if self._reached is None:
                scope.cancel()
        if self._reached is None:
            raise JoinFailed(list(self._bootstraps.values()), seconds)
        return self._reached

    async def _try_all(self, scope: trio.CancelScope) -> None:
        with scope:
            async with self._switch.watch() as events, trio.open_nursery() as nursery:
                for bootstrap in self._bootstraps.values():
                    if self._discovery is not None and bootstrap.record is not None:
                        nursery.start_soon(self._ask, self._discovery, bootstrap, bootstrap.record)
                    if bootstrap.dialable:
                        nursery.start_soon(self._dial, bootstrap)
                for connection in self._switch.connections():
                    self._met(connection.peer)
                async for event in events:
                    if isinstance(event, Connected):
                        self._met(event.connection.peer)

    def said_goodbye(self, peer: PeerId, code: int) -> None:
        """A peer leaves, perhaps before it was admitted: it is there all the same, unless it is of another network."""
        if peer in self._bootstraps and code != GoodbyeReason.IRRELEVANT_NETWORK:
            self._succeed(peer)

    def _met(self, peer: PeerId) -> None:
        if self._anybody or peer in self._bootstraps:
            self._succeed(peer)

    def _succeed(self, peer: PeerId) -> None:
        if self._reached is None:
            self._reached = peer
            self._success.set()

    async def _ask(self, discovery: Discv5, bootstrap: Bootstrap, record: Enr) -> None:
        while True:
            try:
                await discovery.ping(record)
            except DiscoveryError as error:
                bootstrap.answered = False
                logger.info("bootstrap node not reached peer=%s error=%s", bootstrap.peer, error)
            else:
                bootstrap.answered = True
                if not bootstrap.dialable and not self._anybody:
                    self._succeed(bootstrap.peer)
                return
            await trio.sleep(_AGAIN)

    async def _dial(self, bootstrap: Bootstrap) -> None:
        while True:
            try:
                await self._switch.connect(bootstrap.peer, bootstrap.addrs)
            except (P2PError, OSError, trio.BrokenResourceError) as error:
                tried = _tried(error)
                if tried is not None:
                    bootstrap.stage, bootstrap.reason = stage_of(tried).value, reason_of(tried)
            else:
                return
            await trio.sleep(_AGAIN)


def _tried(error: Exception) -> Exception | None:
    """What is wrong with what was tried; None when nothing was, because it failed lately: that was told then."""
    if isinstance(error, DialFailed):
        attempts = [each for each in error.attempts if not isinstance(each.error, (BackingOff, NotTried))]
        return DialFailed(error.peer, attempts) if attempts or not error.attempts else None
    return None if isinstance(error, BackingOff) else error


def parse_bootstraps(given: Iterable[Known], us: PeerId) -> list[Bootstrap]:
    """What is named, each peer once and not we ourselves.

    Raises `ValueError` when nobody is left, `TypeError` for one in place of a list and for what is no text,
    `InvalidEnr` or `InvalidMultiaddr` for what is neither a record nor an address that ends with `/p2p`.
    """
    if isinstance(given, str | Enr | Multiaddr):
        raise TypeError("bootstrap nodes are a list of records and addresses: [...] around the one")
    found: dict[PeerId, Bootstrap] = {}
    ourselves = False
    for each in given:
        if not isinstance(each, str | Enr | Multiaddr):
            raise TypeError(f"a bootstrap node is a record or an address, not {each!r}")
        named = named_peer(each)
        if named.peer == us:
            ourselves = True
            continue
        known = found.setdefault(named.peer, Bootstrap(named.peer, None, ()))
        known.record = named.record or known.record
        known.addrs = tuple(dict.fromkeys((*known.addrs, *named.addrs)))
    if not found:
        raise ValueError("the only bootstrap node is this node itself" if ourselves else _NOBODY)
    return list(found.values())
