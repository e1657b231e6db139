"""Dialling a peer: resolve, filter, rank, try; what failed, where and why.

Rules: callers that want the same peer share one dial. Deciding (filter, rank) is pure and elsewhere; here is the order
of steps and the bookkeeping of attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import trio
from multiaddr import Multiaddr

from pyp2p.errors import (
    Attempt,
    BackingOff,
    ConnectFailed,
    DialFailed,
    DialSelf,
    LimitExceeded,
    NoAddresses,
    NotAllowed,
    P2PError,
    Refused,
    ResolveError,
    StageTimeout,
)
from pyp2p.peer.address import AddressKind, split_peer, text
from pyp2p.peer.id import PeerId
from pyp2p.switch.backoff import DialBackoff
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.dialing import hedge
from pyp2p.switch.establish import Establisher, Peering
from pyp2p.switch.gater import ConnectionGater
from pyp2p.switch.limits import ConnectionLimits, Ticket
from pyp2p.switch.ranking import rank
from pyp2p.trace import Stage, Step, Trace
from pyp2p.transports.base import Transport
from pyp2p.transports.dns import Resolver, needs_resolving, resolve_all


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
        is_own: Callable[[Multiaddr], bool],
        is_harmless: Callable[[Multiaddr], bool],
    ) -> None:
        self._config = config
        self._transports = transports
        self._resolver = resolver
        self._limits = limits
        self._gater = gater
        self._backoff = backoff
        self._establisher = establisher
        self._is_own = is_own
        self._is_harmless = is_harmless

    async def dial(self, target: Target) -> tuple[Peering, Ticket]:
        """Dial until one address leads to an upgraded connection, within `timeouts.dial`.

        Raises `DialFailed` with an `Attempt` for each address. Cancelling closes everything half open.
        """
        attempts: list[Attempt] = []
        seconds = self._config.timeouts.dial
        won: tuple[Peering, Ticket] | None = None
        with trio.move_on_after(seconds) as scope:
            won = await self._dial(target, attempts)
        if won is not None:
            return won
        if scope.cancelled_caught and not attempts:
            trace = Trace()
            attempts.append(Attempt("", Stage.RESOLVE, StageTimeout(Stage.RESOLVE, seconds), trace))
        raise DialFailed(target.peer, attempts)

    async def _dial(self, target: Target, attempts: list[Attempt]) -> tuple[Peering, Ticket] | None:
        resolved = await self._resolve(target, attempts)
        usable = [address for address in resolved if self._may_dial(target, address, attempts)]
        if not resolved and not attempts:
            attempts.append(Attempt("", Stage.RESOLVE, NoAddresses("no address is known for the peer"), Trace()))
        plan = rank(usable)[: self._config.limits.dial_addresses]

        async def attempt(address: Multiaddr) -> tuple[Peering, Ticket] | None:
            return await self._attempt(target, address, resolved[address], attempts)

        if len(plan) == 1:
            return await attempt(plan[0][1])
        return await hedge(plan, attempt, self._discard)

    def _discard(self, late: tuple[Peering, Ticket]) -> None:
        peering, ticket = late
        ticket.release()
        self._establisher.close_soon(peering.connection)

    async def _resolve(self, target: Target, attempts: list[Attempt]) -> dict[Multiaddr, Step | None]:
        """The addresses behind the target's, each with the step that resolved it (None: it was no name)."""
        resolved: dict[Multiaddr, Step | None] = {}
        for address in target.addresses:
            if not needs_resolving(address):
                resolved[address] = None
                continue
            trace = Trace()
            trace.begin(Stage.RESOLVE, text(address), trio.current_time())
            seconds = self._config.timeouts.resolve
            try:
                with trio.fail_after(seconds):
                    for found in await resolve_all(address, self._resolver, target.peer):
                        trace.finish(trio.current_time())
                        if address in target.told and not self._is_harmless(found):
                            raise ResolveError("the name leads where strangers must not send us")
                        resolved.setdefault(split_peer(found)[0], trace.current)
            except trio.TooSlowError:
                attempts.append(Attempt(text(address), Stage.RESOLVE, StageTimeout(Stage.RESOLVE, seconds), trace))
            except ResolveError as error:
                attempts.append(Attempt(text(address), Stage.RESOLVE, error, trace))
        return resolved

    def _may_dial(self, target: Target, address: Multiaddr, attempts: list[Attempt]) -> bool:
        error: P2PError | None = None
        if self._transport(address) is None:
            error = NoAddresses("no transport handles this address")
        elif self._is_own(address):
            error = DialSelf("this is an address of ours")
        elif (reason := self._gater.allow_dial(target.peer, address)) is not None:
            error = NotAllowed("dial", reason)
        elif not target.ignore_backoff:
            try:
                self._backoff.check(text(address), trio.current_time())
            except BackingOff as refusal:
                error = refusal
        if error is None:
            return True
        self._note_refusal(target, text(address), error)
        attempts.append(Attempt(text(address), Stage.CONNECT, error, Trace()))
        return False

    def _note_refusal(self, target: Target, address: str, error: Exception) -> None:
        if isinstance(error, Refused):
            self._establisher.refused(error, address, target.isolated)

    def _transport(self, address: Multiaddr) -> Transport | None:
        return next((transport for transport in self._transports if transport.handles(address)), None)

    async def _attempt(
        self, target: Target, address: Multiaddr, resolve: Step | None, attempts: list[Attempt]
    ) -> tuple[Peering, Ticket] | None:
        trace = Trace() if resolve is None else Trace([resolve], resolve)
        name = text(address)
        began = False
        try:
            ticket = self._limits.try_outbound()
            try:
                began = True
                peering = await self._connect(target, address, ticket, trace)
            except BaseException:
                ticket.release()
                raise
        except (P2PError, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            trace.finish(trio.current_time())
            attempts.append(Attempt(name, trace.stage if began else Stage.CONNECT, error, trace))
            self._note_refusal(target, name, error)
            if not (target.isolated or isinstance(error, (LimitExceeded, NotAllowed))):  # our no is no fault of its
                self._backoff.failed(name, trio.current_time())
            return None
        except trio.Cancelled:
            attempts.append(Attempt(name, trace.stage, StageTimeout(trace.stage, self._config.timeouts.dial), trace))
            raise
        self._backoff.succeeded(name)
        return peering, ticket

    async def _connect(self, target: Target, address: Multiaddr, ticket: Ticket, trace: Trace) -> Peering:
        transport = self._transport(address)
        if transport is None:
            raise NoAddresses("no transport handles this address")
        step = trace.begin(Stage.CONNECT, text(address), trio.current_time())
        step.waits += 1
        seconds = self._config.timeouts.dial_address
        try:
            with trio.fail_after(seconds):
                raw = await transport.dial(address)
        except trio.TooSlowError:
            raise StageTimeout(Stage.CONNECT, seconds) from None
        except OSError as error:
            raise ConnectFailed(str(error)) from error
        if target.isolated:
            raw = replace(raw, kind=AddressKind.ISOLATED)
        return await self._establisher.upgrade(raw, ticket, target.peer, trace)
