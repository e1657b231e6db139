"""Who may have how many connections and streams: pure counting, `now` given, every refusal named.

Rules: a ticket is taken before any work for a connection is done and given back exactly once; afterwards all counters
stand where they stood before. Tables are indexed by what is limited (address, prefix, peer): no scans. What is kept
of addresses without connections is a token bucket each, and those are bounded.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeVar

from pyp2p.errors import LimitExceeded, LocalProtocolError, Refused
from pyp2p.peer.id import PeerId
from pyp2p.switch.config import IPNetwork, Limits

T = TypeVar("T", bound=Hashable)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_BUCKETS = 8192  # addresses whose rate is remembered: a flood from many addresses must not grow us
_MAX_CODES = 256  # kinds of refusals that are counted apart


class Ticket:
    """A place for one connection: pending until `bind`, then established, free after `release`."""

    __slots__ = ("_limits", "inbound", "keys", "peer", "pending", "released")

    def __init__(self, limits: ConnectionLimits, inbound: bool, keys: list[tuple[str, str]]) -> None:
        self._limits = limits
        self.inbound = inbound
        self.keys = keys
        self.pending = True
        self.peer: PeerId | None = None
        self.released = False

    def bind(self, peer: PeerId) -> None:
        """The connection is upgraded and is `peer`'s. Raises `LimitExceeded`; release the ticket then."""
        self._limits.bind(self, peer)

    def release(self) -> None:
        """Give the place back. Idempotent."""
        if not self.released:
            self.released = True
            self._limits.free(self)


class ConnectionLimits:
    """Counts connections against `Limits`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bounds = {"per_ip4": limits.per_ip4, "per_ip6_56": limits.per_ip6_56, "per_ip6_48": limits.per_ip6_48}
        self._pending = {True: 0, False: 0}
        self._inbound = 0
        self._total = 0
        self._used: Counter[tuple[str, str]] = Counter()
        self._peers: Counter[PeerId] = Counter()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._refused: Counter[str] = Counter()

    def try_inbound(self, remote: IPAddress | None, now: float) -> Ticket:
        """A place for an accepted connection from `remote` (None: no IP address). Raises `LimitExceeded`."""
        limits = self._limits
        address = _canonical(remote)
        extra = limits.allow_connections if _within(address, limits.allow_networks) else 0
        if self._pending[True] >= limits.pending_inbound + extra:
            raise LimitExceeded("pending_inbound", f"{self._pending[True]} inbound connections wait for their upgrade")
        self._check_total(extra)
        if self._inbound >= limits.inbound + extra:
            raise LimitExceeded("inbound", f"{self._inbound} inbound connections are open")
        keys = [] if address is None or extra or _within(address, limits.exempt_networks) else _keys(address)
        for key in keys:
            if self._used[key] >= self._bounds[key[0]]:
                raise LimitExceeded(key[0], f"{self._used[key]} connections from {key[1]} are open")
        if keys:
            self._take_token(keys[0][1], now)
        self._used.update(keys)
        self._pending[True] += 1
        self._inbound += 1
        self._total += 1
        return Ticket(self, True, keys)

    def try_outbound(self) -> Ticket:
        """A place for a connection that we open. Raises `LimitExceeded`."""
        if self._pending[False] >= self._limits.pending_outbound:
            raise LimitExceeded("pending_outbound", f"{self._pending[False]} dial attempts are under way")
        self._check_total(0)
        self._pending[False] += 1
        self._total += 1
        return Ticket(self, False, [])

    def _check_total(self, extra: int) -> None:
        if self._total >= self._limits.connections + extra:
            raise LimitExceeded("connections", f"{self._total} connections are open")

    def _take_token(self, prefix: str, now: float) -> None:
        limits = self._limits
        tokens, at = self._buckets.pop(prefix, (float(limits.ip_burst), now))
        tokens = min(float(limits.ip_burst), tokens + (now - at) * limits.ip_rate)
        self._buckets[prefix] = (max(tokens - 1, 0.0) if tokens >= 1 else tokens, now)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise LimitExceeded("ip_rate", f"connections from {prefix} come too fast")

    def bind(self, ticket: Ticket, peer: PeerId) -> None:
        """See `Ticket.bind`."""
        if ticket.released or not ticket.pending:
            raise LocalProtocolError("a ticket is bound once, before its release")
        if self._peers[peer] >= self._limits.per_peer:
            raise LimitExceeded("per_peer", f"{self._peers[peer]} connections to {peer} are open")
        ticket.peer = peer
        ticket.pending = False
        self._peers[peer] += 1
        self._pending[ticket.inbound] -= 1

    def free(self, ticket: Ticket) -> None:
        """See `Ticket.release`."""
        self._total -= 1
        if ticket.inbound:
            self._inbound -= 1
        if ticket.pending:
            self._pending[ticket.inbound] -= 1
        for key in ticket.keys:
            _subtract(self._used, key)
        if ticket.peer is not None:
            _subtract(self._peers, ticket.peer)

    def count_refusal(self, refusal: Refused, count: int = 1) -> None:
        """Count a refusal under its code."""
        if refusal.code in self._refused or len(self._refused) < _MAX_CODES:
            self._refused[refusal.code] += count

    def counters(self) -> dict[str, int]:
        """What is in use now, and `refused.<code>` since the start, by name."""
        use = {
            "connections": self._total,
            "inbound": self._inbound,
            "pending_inbound": self._pending[True],
            "pending_outbound": self._pending[False],
            "addresses": len(self._used),
            "peers": len(self._peers),
        }
        return use | {f"refused.{code}": count for code, count in self._refused.items()}


@dataclass(frozen=True, slots=True)
class Budget:
    """How many streams of one protocol may be served at once: for one peer, and for all together."""

    per_peer: int = 128
    total: int = 4096


class StreamBudgets:
    """Counts the streams that are being served. `acquire` and `release` come in pairs."""

    def __init__(self) -> None:
        self._per_peer: Counter[tuple[PeerId, str]] = Counter()
        self._total: Counter[str] = Counter()

    def acquire(self, peer: PeerId, protocol: str, budget: Budget) -> None:
        """Count one more stream. Raises `LimitExceeded` (`streams_per_protocol_and_peer`, `streams_per_protocol`)."""
        if self._per_peer[peer, protocol] >= budget.per_peer:
            raise LimitExceeded("streams_per_protocol_and_peer", f"{budget.per_peer} streams of {protocol} are open")
        if self._total[protocol] >= budget.total:
            raise LimitExceeded("streams_per_protocol", f"{budget.total} streams of {protocol} are open in all")
        self._per_peer[peer, protocol] += 1
        self._total[protocol] += 1

    def release(self, peer: PeerId, protocol: str) -> None:
        """Undo one `acquire`."""
        _subtract(self._per_peer, (peer, protocol))
        _subtract(self._total, protocol)

    @property
    def in_use(self) -> int:
        """How many streams are being served."""
        return sum(self._total.values())


def _subtract(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _canonical(address: IPAddress | None) -> IPAddress | None:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _within(address: IPAddress | None, networks: tuple[IPNetwork, ...]) -> bool:
    return address is not None and any(address.version == net.version and address in net for net in networks)


def _keys(address: IPAddress) -> list[tuple[str, str]]:
    """What a connection from `address` counts for; the first is also what its rate counts for."""
    if address.version == 4:
        return [("per_ip4", str(address))]
    return [
        (name, str(ipaddress.ip_network((address, length), strict=False)))
        for name, length in (("per_ip6_56", 56), ("per_ip6_48", 48))
    ]
