"""What the dialer remembers of peers, per network: where they are, how they failed, until when they are banned.

Rules: pure. Each table is bounded, since strangers invent peers: what discovery told gives way to what discovery tells,
never somebody whom we met or were told of by our user.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import islice

from multiaddr import Multiaddr

from pyp2p.peer.id import PeerId
from pyp2p.peer.store import Source
from pyp2p.trace import Stage

_HEARSAY = (Source.ALTERNATE, Source.DISCOVERY)  # others said so, or it was guessed
MAX_ADDRESSES = 64  # of one peer: one that invents addresses makes us dial them
_MAX_HEARSAY = 5  # of those: a record of others may name a victim again and again


@dataclass(frozen=True, slots=True)
class DialerConfig:
    """Times in seconds, and how much strangers can make us do. Raises `ValueError` that names what makes no sense."""

    backoff: float = 20.0  # that a peer is left alone after its first failure or the loss of its slot, at least
    factor: float = 2.0  # each further failure in a row
    longest: float = 300.0
    settled: float = 60.0  # a slot held for so long makes up for the failures before it
    jitter: float = 0.2  # at most so much longer: peers that failed together are not dialled together again
    attempts: int = 16  # at once, of all networks together: sockets, and the memory of handshakes
    rate: float = 10.0  # dials begun per second, of all networks together
    burst: int = 20
    patience: int = 8  # failures in a row after which a peer is forgotten, unless it is kept
    pause: float = 5.0  # between two rounds of discovery; doubled after each round that found nobody
    longest_pause: float = 120.0
    networks: int = 64
    candidates: int = 1000  # of a network, that discovery told of; as many again that were met or given
    kept: int = 256  # static and trusted peers of a network
    backoffs: int = 10_000  # of a network; the one that failed longest ago is forgotten first
    bans: int = 10_000  # of a network; the one that ends first is forgotten first
    handshake: float = 10.0  # for a network's handshake on a connection that stands
    news: int = 16  # events that a watcher may lag before it slows the dialer

    def __post_init__(self) -> None:
        """Raise `ValueError` that names the field."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            least = {"jitter": 0.0, "factor": 1.0, "longest": self.backoff, "longest_pause": self.pause}.get(entry.name)
            whole = entry.type == "int"
            if whole and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"dialer.{entry.name} must be a whole number of at least 1, not {value}")
            if not whole and not (math.isfinite(value) and (value > 0 if least is None else value >= least)):
                bound = "above 0" if least is None else f"at least {least:g}"
                raise ValueError(f"dialer.{entry.name} must be finite and {bound}, not {value}")


@dataclass(slots=True)
class Candidate:
    """Where a peer may be reached, each address with the most trusted source that named it."""

    addrs: dict[Multiaddr, Source] = field(default_factory=dict)
    urgent: bool = False  # dialled before others

    @property
    def hearsay(self) -> bool:
        """True when all that is known of the peer comes from strangers."""
        return all(source in _HEARSAY for source in self.addrs.values())

    def told(self, addrs: Iterable[Multiaddr], source: Source) -> bool:
        """Take what a source says; True when an address is new.

        Those of our user add up, those of any other source take the place of what it said last. In all at most 64,
        5 of them hearsay, the most trusted first.
        """
        before = self.addrs
        given = dict.fromkeys(islice(addrs, MAX_ADDRESSES), source)
        stay = {a: s for a, s in before.items() if (s < source if a in given else s != source or s is Source.MANUAL)}
        ranked = sorted((stay | {a: s for a, s in given.items() if a not in stay}).items(), key=lambda item: item[1])
        firm = [item for item in ranked if item[1] not in _HEARSAY]
        loose = [item for item in ranked if item[1] in _HEARSAY][:_MAX_HEARSAY]
        self.addrs = dict([*firm, *loose][:MAX_ADDRESSES])
        return not self.addrs.keys() <= before.keys()


class Candidates:
    """The candidates of one network: kept ones for ever, of the others as many of each standing as may be."""

    def __init__(self, most: int, most_kept: int) -> None:
        self.kept: dict[PeerId, Candidate] = {}
        self._firm: OrderedDict[PeerId, Candidate] = OrderedDict()
        self._hearsay: OrderedDict[PeerId, Candidate] = OrderedDict()
        self._most = most
        self._most_kept = most_kept

    def __len__(self) -> int:
        return len(self.kept) + len(self._firm) + len(self._hearsay)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self.kept or peer in self._firm or peer in self._hearsay

    def others(self) -> Iterator[tuple[PeerId, Candidate]]:
        """Those that are not kept."""
        yield from self._firm.items()
        yield from self._hearsay.items()

    def told(self, peer: PeerId, addrs: Iterable[Multiaddr], source: Source, urgent: bool) -> bool:
        """Take what a source says of a peer; True when the peer or an address is new."""
        unknown = peer not in self
        candidate = self.kept.get(peer) or self._take(peer)
        news = candidate.told(addrs, source)
        candidate.urgent |= urgent
        if peer not in self.kept:
            self._put(peer, candidate)
        return unknown or news

    def keep(self, peer: PeerId) -> None:
        """Never forget the peer. Raises `ValueError` when too many are kept."""
        if peer not in self.kept:
            if len(self.kept) >= self._most_kept:
                raise ValueError(f"more than {self._most_kept} peers to keep (dialer.kept): {peer} is one too many")
            self.kept[peer] = self._take(peer)

    def unkeep(self, peer: PeerId) -> None:
        """The peer is one like others."""
        candidate = self.kept.pop(peer, None)
        if candidate is not None:
            self._put(peer, candidate)

    def forget(self, peer: PeerId) -> None:
        """Forget a peer that is not kept."""
        self._take(peer)

    def get(self, peer: PeerId) -> Candidate | None:
        """What is known of the peer."""
        return self.kept.get(peer) or self._firm.get(peer) or self._hearsay.get(peer)

    def _take(self, peer: PeerId) -> Candidate:
        return self._firm.pop(peer, None) or self._hearsay.pop(peer, None) or Candidate()

    def _put(self, peer: PeerId, candidate: Candidate) -> None:
        table = self._hearsay if candidate.hearsay else self._firm
        table[peer] = candidate
        if len(table) > self._most:
            table.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """A peer that was not reached, or lost its slot before it had one: how far it came and why it ended.

    `failures` counts those in a row; `retry_at` in monotonic seconds, None when the peer is forgotten.
    """

    network: str
    peer: PeerId
    stage: Stage
    reason: str
    failures: int
    retry_at: float | None


@dataclass(slots=True)
class _Wait:
    failures: int = 0
    step: float = 0.0
    seconds: float = 0.0  # the step and its jitter
    until: float = -math.inf
    failure: Failure | None = None


class Backoffs:
    """Who is left alone and until when; the n-th failure in a row for `backoff * factor ** (n - 1)` seconds."""

    def __init__(self, config: DialerConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._waits: OrderedDict[PeerId, _Wait] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waits)

    def until(self, peer: PeerId) -> float:
        """When the peer may be dialled again, minus infinity when nothing speaks against it."""
        wait = self._waits.get(peer)
        return -math.inf if wait is None else wait.until

    def failures(self, peer: PeerId) -> int:
        """How often in a row it failed."""
        wait = self._waits.get(peer)
        return 0 if wait is None else wait.failures

    def failure(self, peer: PeerId) -> Failure | None:
        """The last one."""
        wait = self._waits.get(peer)
        return None if wait is None else wait.failure

    def failed(self, peer: PeerId, now: float, *, held: float = 0.0) -> tuple[int, float]:
        """Note a failure: how many in a row it makes, and until when the peer is left alone.

        One that `held` its slot for `config.settled`, or that was left alone for as long again, begins anew: who comes
        and goes at once waits longer each time. What was longer is not shortened.
        """
        config = self._config
        wait = self._waits.pop(peer, None) or _Wait()
        if held >= config.settled or now > wait.until + wait.seconds:
            wait.failures = 0
        wait.step = min(config.longest, wait.step * config.factor) if wait.failures else config.backoff
        wait.seconds = wait.step * (1 + config.jitter * self._rng.random())
        wait.failures += 1
        wait.until = max(wait.until, now + wait.seconds)
        self._waits[peer] = wait
        if len(self._waits) > config.backoffs:
            self._waits.popitem(last=False)
        return wait.failures, wait.until

    def note(self, failure: Failure) -> None:
        """Keep what is told of the last failure, as long as its backoff is kept."""
        wait = self._waits.get(failure.peer)
        if wait is not None:
            wait.failure = failure


class Bans:
    """Who must not be dialled and until when; a ban is extended, never shortened."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._until: dict[PeerId, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, peer: PeerId, until: float) -> None:
        """Ban until then (monotonic seconds; infinity: for good). Raises `ValueError` for no number."""
        if math.isnan(until):
            raise ValueError(f"the ban of {peer} must end at a number of seconds, not {until}")
        self._until[peer] = max(until, self._until.get(peer, until))
        if len(self._until) > self._most:
            del self._until[min(self._until, key=self._until.__getitem__)]

    def lift(self, peer: PeerId) -> None:
        """End it now."""
        self._until.pop(peer, None)

    def until(self, peer: PeerId) -> float:
        """When it ends, minus infinity when there is none."""
        return self._until.get(peer, -math.inf)
