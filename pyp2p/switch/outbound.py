"""Dialling a peer: resolve, filter, rank, try; what failed, where and why.

Rules: callers that want the same peer share one dial. Deciding (filter, rank) is pure and elsewhere; here is the order
of steps and the bookkeeping of attempts.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import trio
from multiaddr import Multiaddr

from pyp2p.errors import (
    AdmissionRefused,
    Attempt,
    BackingOff,
    ConnectFailed,
    DialFailed,
    DialSelf,
    LimitExceeded,
    NoAddresses,
    NoCommonProtocol,
    NotAllowed,
    NotTried,
    P2PError,
    PeerIdMismatch,
    Refused,
    ResolveError,
    StageTimeout,
    Stopping,
    describe,
)
from pyp2p.peer.address import AddressKind, split_peer, text
from pyp2p.peer.id import PeerId
from pyp2p.security.base import Security
from pyp2p.switch.backoff import DialBackoff
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.connection import Connection
from pyp2p.switch.dialing import hedge
from pyp2p.switch.establish import Establisher, Peering
from pyp2p.switch.gater import ConnectionGater
from pyp2p.switch.limits import ConnectionLimits, Ticket
from pyp2p.switch.ranking import dialable_claim, rank
from pyp2p.trace import Stage, Step, Trace
from pyp2p.transports.base import RawConn, Transport
from pyp2p.transports.dns import Resolver, needs_resolving, resolve_all

logger = logging.getLogger("pyp2p.switch")

_Try = Callable[[Multiaddr], Awaitable[tuple[Peering, Ticket] | None]]


@dataclass(frozen=True, slots=True)
class Target:
    """What to dial: the peer (None: learn the id) and its addresses, unresolved, without their `/p2p` part.

    `told` are those among them that only others named: where their names lead is judged as their addresses are.
    """

    peer: PeerId | None
    addresses: tuple[Multiaddr, ...]
    isolated: bool = False
    ignore_backoff: bool = False
    told: frozenset[Multiaddr] = frozenset()

    def covers(self, other: Target) -> bool:
        """True when a dial of this one tries all that a dial of `other` would."""
        return set(other.addresses) <= set(self.addresses) and self.ignore_backoff >= other.ignore_backoff


@dataclass(slots=True)
class _Run:
    """One dial: what came of its addresses so far."""

    target: Target
    own: frozenset[Multiaddr]
    attempts: list[Attempt] = field(default_factory=list)
    planned: dict[Multiaddr, None] = field(default_factory=dict)
    begun: set[Multiaddr] = field(default_factory=set)

    def failed(self, address: str, stage: Stage, error: Exception, trace: Trace | None = None) -> None:
        self.attempts.append(Attempt(address, stage, error, Trace() if trace is None else trace))


class Outbound:
    """Dials targets. One object per switch."""

    def __init__(
        self,
        *,
        config: SwitchConfig,
        transports: Sequence[Transport],
        resolver: Resolver,
        limits: ConnectionLimits,
        gater: ConnectionGater,
        backoff: DialBackoff,
        establisher: Establisher,
        securities: Sequence[Security],
        addresses: Callable[[], Sequence[Multiaddr]],
    ) -> None:
        self._config = config
        self._transports = transports
        self._resolver = resolver
        self._limits = limits
        self._gater = gater
        self._backoff = backoff
        self._establisher = establisher
        self._addresses = addresses
        self._offers = [offer for offer in (securities[:1], securities[1:]) if offer]

    async def dial(self, target: Target) -> tuple[Peering, Ticket]:
        """Dial until one address leads to an upgraded connection, within `timeouts.dial`.

        Names are resolved side by side while known addresses are tried already. Raises `DialFailed` with an `Attempt`
        for each address, those whose turn did not come too. Cancelling closes everything half open.
        """
        run = _Run(target, frozenset(self._addresses()))
        seconds = self._config.timeouts.dial
        won: tuple[Peering, Ticket] | None = None
        with trio.move_on_after(seconds):
            won = await self._dial(run)
        if won is not None:
            return won
        for address in run.planned:
            if address not in run.begun:
                run.failed(text(address), Stage.RESOLVE, NotTried(f"not tried: the dial ended after {seconds:g} s"))
        raise DialFailed(target.peer, run.attempts)

    async def _dial(self, run: _Run) -> tuple[Peering, Ticket] | None:
        addresses = run.target.addresses
        if not addresses:
            run.failed("", Stage.RESOLVE, NoAddresses("no address is known for the peer"))
            return None
        names = [address for address in addresses if needs_resolving(address)][: self._config.limits.dial_addresses]
        known: dict[Multiaddr, Step | None] = {a: None for a in addresses if not needs_resolving(a)}
        plan = [(0.0, name) for name in names] + self._plan(run, known)

        async def attempt(address: Multiaddr) -> tuple[Peering, Ticket] | None:
            return await (self._attempt(run, address, None) if address in known else self._by_name(run, address))

        return await self._race(plan, attempt)

    async def _race(self, plan: list[tuple[float, Multiaddr]], attempt: _Try) -> tuple[Peering, Ticket] | None:
        if len(plan) == 1:
            return await attempt(plan[0][1])
        return await hedge(plan, attempt, self._discard)

    def _plan(self, run: _Run, found: Iterable[Multiaddr]) -> list[tuple[float, Multiaddr]]:
        """Which of the addresses found to try and when; all names together do not lead to more than the limit."""
        usable = [address for address in found if address not in run.planned and self._may_dial(run, address)]
        plan = rank(usable)[: max(self._config.limits.dial_addresses - len(run.planned), 0)]
        run.planned.update(dict.fromkeys(address for _, address in plan))
        return plan

    def _discard(self, late: tuple[Peering, Ticket]) -> None:
        peering, ticket = late
        ticket.release()
        self._establisher.close_soon(peering.connection)

    async def _by_name(self, run: _Run, name: Multiaddr) -> tuple[Peering, Ticket] | None:
        """Resolve a name and try what it stands for."""
        trace = Trace()
        step = trace.begin(Stage.RESOLVE, text(name), trio.current_time())
        seconds = self._config.timeouts.resolve
        try:
            with trio.fail_after(seconds):
                found = [split_peer(a)[0] for a in await resolve_all(name, self._resolver, run.target.peer)]
            own = list(run.own)
            if name in run.target.told and not all(dialable_claim(address, own) for address in found):
                raise ResolveError("the name leads where strangers must not send us")
        except trio.TooSlowError:
            run.failed(text(name), Stage.RESOLVE, StageTimeout(Stage.RESOLVE, seconds), trace)
            return None
        except ResolveError as error:
            run.failed(text(name), Stage.RESOLVE, error, trace)
            return None
        finally:
            trace.finish(trio.current_time())

        async def attempt(address: Multiaddr) -> tuple[Peering, Ticket] | None:
            return await self._attempt(run, address, step)

        return await self._race(self._plan(run, found), attempt)

    def _may_dial(self, run: _Run, address: Multiaddr) -> bool:
        target, name = run.target, text(address)
        error: P2PError | None = None
        if self._transport(address) is None:
            error = NoAddresses("no transport handles this address")
        elif address in run.own:
            error = DialSelf("this is an address of ours")
        elif (reason := self._gater.allow_dial(target.peer, address)) is not None:
            error = NotAllowed("dial", reason)
        elif not target.ignore_backoff:
            try:
                for key in (name, _backoff_key(name, target.peer)):
                    self._backoff.check(key, trio.current_time())
            except BackingOff as refusal:
                error = refusal
        if error is None:
            return True
        self._note_refusal(target, name, error)
        run.failed(name, Stage.CONNECT, error)
        return False

    def _note_refusal(self, target: Target, address: str, error: Exception) -> None:
        if isinstance(error, Refused):
            self._establisher.refused(error, address, target.isolated)

    def _transport(self, address: Multiaddr) -> Transport | None:
        return next((transport for transport in self._transports if transport.handles(address)), None)

    async def _attempt(self, run: _Run, address: Multiaddr, resolve: Step | None) -> tuple[Peering, Ticket] | None:
        target, name = run.target, text(address)
        trace = Trace() if resolve is None else Trace([resolve], resolve)
        run.begun.add(address)
        try:
            peering, ticket = await self._connect(target, address, trace)
        except (P2PError, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            trace.finish(trio.current_time())
            run.failed(name, trace.stage, error, trace)
            logger.debug("attempt failed addr=%s stage=%s error=%s", name, trace.stage.value, describe(error))
            self._note_refusal(target, name, error)
            self._back_off(target, name, error)
            return None
        except trio.Cancelled:
            trace.finish(trio.current_time())
            run.failed(name, trace.stage, StageTimeout(trace.stage, self._config.timeouts.dial), trace)
            raise
        logger.debug("upgraded addr=%s peer=%s", name, peering.connection.peer)
        return peering, ticket

    def settled(self, target: Target, connection: Connection, error: Exception | None) -> None:
        """What became of the connection that `dial` made: one that the peer ends before it is in use is a failure."""
        name = text(connection.remote)
        if error is None:
            self._backoff.succeeded(name)
        elif connection.reason is not None and connection.reason.by != "us":
            self._back_off(target, name, error)

    def _back_off(self, target: Target, name: str, error: Exception) -> None:
        if not (target.isolated or isinstance(error, (LimitExceeded, NotAllowed, AdmissionRefused, Stopping))):
            mismatch = isinstance(error, PeerIdMismatch)  # our own no, above, is no fault of the address
            self._backoff.failed(_backoff_key(name, target.peer) if mismatch else name, trio.current_time())

    async def _connect(self, target: Target, address: Multiaddr, trace: Trace) -> tuple[Peering, Ticket]:
        """Offer our first security alone, which takes a round trip less; who declines it is dialled for the rest."""
        *others, last = self._offers
        for offer in others:
            try:
                return await self._connect_with(offer, target, address, trace)
            except NoCommonProtocol:
                if trace.stage is not Stage.SECURITY_SELECT:
                    raise
        try:
            return await self._connect_with(last, target, address, trace)
        except NoCommonProtocol as error:
            if trace.stage is not Stage.SECURITY_SELECT:
                raise
            raise NoCommonProtocol([security.protocol for offer in self._offers for security in offer]) from error

    async def _connect_with(
        self, offer: Sequence[Security], target: Target, address: Multiaddr, trace: Trace
    ) -> tuple[Peering, Ticket]:
        trace.begin(Stage.CONNECT, text(address), trio.current_time())
        ticket = self._limits.try_outbound()
        try:
            raw = await self._open(target, address, trace)
            return await self._establisher.upgrade(raw, ticket, target.peer, trace, offer), ticket
        except BaseException:
            ticket.release()
            raise

    async def _open(self, target: Target, address: Multiaddr, trace: Trace) -> RawConn:
        transport = self._transport(address)
        if transport is None:
            raise NoAddresses("no transport handles this address")
        logger.debug("dialling addr=%s", text(address))
        trace.current.waits += 1
        seconds = self._config.timeouts.dial_address
        try:
            with trio.fail_after(seconds):
                raw = await transport.dial(address, trace)
        except trio.TooSlowError:
            raise StageTimeout(Stage.CONNECT, seconds) from None
        except OSError as error:
            raise ConnectFailed(str(error)) from error
        if target.isolated:
            return replace(raw, kind=AddressKind.ISOLATED)
        return raw


def _backoff_key(address: str, peer: PeerId | None) -> str:
    """For an address that is not this peer's, whoever said so: the one who is there must stay reachable."""
    return f"{address}/p2p/{peer}"
