"""How much of us strangers may use, and where they say that we are.

Rules: pure, every table bounded, nothing is looked up by walking. Rates count by subnet (/24, /48) and for all
together: addresses of datagrams are forged at will, so the rate of all is what protects us, and that of a subnet
protects the others from it. What is refused takes nothing from either. What comes under a session, or answers us, is
never charged as a stranger's: who forges a friend's address must not silence the friend. discv5 theory "Node table" has
no figures: they are ours.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from pyp2p.discv5.bounds import above_zero, at_least
from pyp2p.discv5.node import Endpoint, IPAddress, Scope, canonical, refuse_endpoint, scope, site


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second, after a first `burst`."""

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        above_zero("per_second", self.per_second)
        at_least("burst", int(self.burst), 1)


@dataclass(frozen=True, slots=True)
class RateConfig:
    """The rates. A challenge costs what a datagram costs, a handshake a signature check (about a millisecond without
    coincurve), a request as much as an answer of sixteen records. Answers to what we asked are free.
    """

    challenges_per_subnet: Rate = field(default_factory=lambda: Rate(50, 200))
    challenges: Rate = field(default_factory=lambda: Rate(2000, 4000))
    handshakes_per_subnet: Rate = field(default_factory=lambda: Rate(5, 20))
    handshakes: Rate = field(default_factory=lambda: Rate(100, 200))
    requests_per_subnet: Rate = field(default_factory=lambda: Rate(50, 200))
    requests: Rate = field(default_factory=lambda: Rate(2000, 4000))
    max_subnets: int = 4096  # remembered; who is forgotten gets a new burst, of the rate of all
    exempt_loopback: bool = True  # of all rates: it is ourselves

    def __post_init__(self) -> None:
        at_least("max_subnets", self.max_subnets, 1)


class TokenBucket:
    """Tokens that come at a rate, up to its burst; full at first."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = now

    def ready(self, now: float) -> bool:
        """True when there is a token; a clock that goes back adds none."""
        self._tokens = min(self._rate.burst, self._tokens + max(now - self._at, 0.0) * self._rate.per_second)
        self._at = max(self._at, now)
        return self._tokens >= 1

    def take(self) -> None:
        """Take the token that is `ready`."""
        self._tokens -= 1


class RateLimit:
    """One kind of work, limited by subnet and for all; at most `max_subnets` are remembered, the last used stay."""

    def __init__(self, per_subnet: Rate, total: Rate, max_subnets: int, exempt_loopback: bool) -> None:
        self._per_subnet = per_subnet
        self._total_rate = total
        self._total: TokenBucket | None = None
        self._max_subnets = max_subnets
        self._exempt_loopback = exempt_loopback
        self._subnets: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._subnets)

    def refuse(self, address: IPAddress, now: float) -> str | None:
        """Count one piece of work for a canonical address: None when it may be done, else the rate that was reached.

        That is `subnet` or `total`.
        """
        if self._exempt_loopback and address.is_loopback:
            return None
        if self._total is None:
            self._total = TokenBucket(self._total_rate, now)
        place = site(address)
        mine = self._subnets.get(place)
        if mine is None:
            if not self._total.ready(now):
                return "total"  # and no place for it in the table
            mine = self._subnets[place] = TokenBucket(self._per_subnet, now)
            if len(self._subnets) > self._max_subnets:
                self._subnets.popitem(last=False)
        else:
            self._subnets.move_to_end(place)
        if not mine.ready(now):
            return "subnet"
        if not self._total.ready(now):
            return "total"
        self._total.take()
        mine.take()
        return None


class RateLimits:
    """The limits of challenges, handshakes and requests."""

    def __init__(self, config: RateConfig | None = None) -> None:
        config = config or RateConfig()
        rest = (config.max_subnets, config.exempt_loopback)
        self._challenges = RateLimit(config.challenges_per_subnet, config.challenges, *rest)
        self._handshakes = RateLimit(config.handshakes_per_subnet, config.handshakes, *rest)
        self._requests = RateLimit(config.requests_per_subnet, config.requests, *rest)

    def __len__(self) -> int:
        return len(self._challenges) + len(self._handshakes) + len(self._requests)

    def challenge(self, ip: str, now: float) -> str | None:
        """Before a WHOAREYOU is sent: None, or `challenges_subnet` or `challenges_total`: drop the packet."""
        refused = self._challenges.refuse(canonical(ip), now)
        return refused and f"challenges_{refused}"

    def handshake(self, ip: str, now: float) -> str | None:
        """Before a signature is checked: None, or `handshakes_subnet` or `handshakes_total`: drop the packet."""
        refused = self._handshakes.refuse(canonical(ip), now)
        return refused and f"handshakes_{refused}"

    def request(self, ip: str, now: float) -> str | None:
        """Before a request of one with a session is answered: None, or `requests_subnet` or `requests_total`."""
        refused = self._requests.refuse(canonical(ip), now)
        return refused and f"requests_{refused}"


@dataclass(frozen=True, slots=True)
class VoteConfig:
    """When we believe what others say of our address."""

    minimum: int = 5  # voters that agree, each in a subnet of its own
    window: float = 300.0  # seconds that a vote counts
    max_votes: int = 256  # of each family

    def __post_init__(self) -> None:
        at_least("minimum", self.minimum, 1)
        at_least("max_votes", self.max_votes, 1)
        above_zero("window", self.window)


class _Ballot:
    """The votes of one family, the oldest first."""

    __slots__ = ("tally", "votes")

    def __init__(self) -> None:
        self.votes: OrderedDict[bytes, tuple[Endpoint, float]] = OrderedDict()
        self.tally: dict[Endpoint, int] = {}

    def withdraw(self, voter: bytes) -> None:
        claimed, _ = self.votes.pop(voter)
        self.tally[claimed] -= 1
        if not self.tally[claimed]:
            del self.tally[claimed]


class Votes:
    """Our external endpoints, by what the PONGs of others say. discv5 wire "PONG Response"."""

    def __init__(self, config: VoteConfig | None = None) -> None:
        self._config = config or VoteConfig()
        self._ballots = {4: _Ballot(), 6: _Ballot()}

    def __len__(self) -> int:
        return sum(len(ballot.votes) for ballot in self._ballots.values())

    def vote(self, voter: Endpoint, claimed: Endpoint, now: float) -> Endpoint | None:
        """Count what `voter` says that we are; returns the endpoint when enough agree on it now, else None.

        The last vote of a subnet is its only one; on loopback each endpoint is a voter. An endpoint is elected by more
        than half of the family's votes, and by `minimum` at least. No vote is an endpoint of the other family, and
        none that `refuse_endpoint` would refuse in a record.
        """
        address, ours = canonical(voter.ip), canonical(claimed.ip)
        if address.version != ours.version or refuse_endpoint(claimed, scope(address)) is not None:
            return None
        claimed = Endpoint.of(ours, claimed.port)
        ballot = self._ballots[ours.version]
        name = site(address)
        if scope(address) is Scope.LOOPBACK:
            name = address.packed + voter.port.to_bytes(2, "big")
        if name in ballot.votes:
            ballot.withdraw(name)
        while ballot.votes:
            oldest, (_, at) = next(iter(ballot.votes.items()))
            if now - at < self._config.window and len(ballot.votes) < self._config.max_votes:
                break
            ballot.withdraw(oldest)
        ballot.votes[name] = (claimed, now)
        count = ballot.tally[claimed] = ballot.tally.get(claimed, 0) + 1
        if count < self._config.minimum or 2 * count <= len(ballot.votes):
            return None
        return claimed
