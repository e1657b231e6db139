"""Which peer is dialled for which network, and when: slots, targets, backoff and bans, without a socket.

Rules: pure. Everything is keyed by (network, peer): a peer may be good for one network and useless for another, over
one connection. The switch backs off from an address whose transport failed, the dialer from a peer of a network; bans
are others' decisions that it keeps. Who is pruned is not decided here. After any call but `poll`, `poll` is due.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from multiaddr import Multiaddr

from pyp2p.dialer.tables import Backoffs, Bans, Candidate, Candidates, DialerConfig, Failure
from pyp2p.peer.id import PeerId
from pyp2p.peer.store import Source
from pyp2p.trace import Stage


@dataclass(frozen=True, slots=True)
class Dial:
    """Reach the peer for this network, then tell `connected` or `attempt_failed`.

    `addrs` each with the source that named it: those of strangers must not be believed as those of our user.
    """

    network: str
    peer: PeerId
    addrs: tuple[tuple[Multiaddr, Source], ...]


@dataclass(frozen=True, slots=True)
class Discover:
    """So many candidates are missing: find some, tell each to `candidate`, then `discovered` how many were news.

    None missing: the network has whom it wants, the round that is under way is over, and is not told `discovered`.
    """

    network: str
    missing: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection to the peer unless `users` names another network: by our decision it lost its slot, or came
    while it is banned and never had one.
    """

    network: str
    peer: PeerId
    reason: str
    had_slot: bool = True


Effect = Dial | Discover | Drop


@dataclass(frozen=True, slots=True)
class Slot:
    """A peer's place in a network: who dialled, and since when (monotonic seconds)."""

    outbound: bool
    since: float


@dataclass(slots=True)
class _Network:
    candidates: Candidates
    backoffs: Backoffs
    bans: Bans
    pause: float
    target: int = 0
    floor: int = 0
    slots: dict[PeerId, Slot] = field(default_factory=dict)
    attempts: dict[PeerId, None] = field(default_factory=dict)
    searching: bool = False
    search_at: float = -math.inf

    def room(self) -> int:
        """How many more may be dialled: up to the target, and up to the floor of outbound slots whatever came in."""
        under_way = len(self.attempts)
        outbound = sum(slot.outbound for slot in self.slots.values())
        return max(self.target - len(self.slots) - under_way, self.floor - outbound - under_way, 0)

    def full(self) -> bool:
        """True when it has whom it wants, not counting who is being dialled: they may fail."""
        outbound = sum(slot.outbound for slot in self.slots.values())
        return len(self.slots) >= self.target and outbound >= self.floor

    def free_at(self, peer: PeerId) -> float:
        """When the peer may be dialled; infinity while it has a slot or is being dialled."""
        if peer in self.slots or peer in self.attempts:
            return math.inf
        return max(self.backoffs.until(peer), self.bans.until(peer))


class Dialer:
    """Decides for several networks over one switch. `rng` gives jitter and choices."""

    def __init__(self, config: DialerConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._networks: dict[str, _Network] = {}
        self._drops: list[Drop] = []
        self._gap = 1 / config.rate
        self._owed = -math.inf  # when the dials begun so far are paid for by the rate
        self._turn = 0  # which network is served first
        self._wake = math.inf

    def __contains__(self, net: str) -> bool:
        return net in self._networks

    # --- networks

    def add_network(self, net: str) -> None:
        """Begin with a network that wants nobody yet. Raises `ValueError` for a second one of the name, and for more
        than `config.networks`.
        """
        if net in self._networks:
            raise ValueError(f"network {net} is there already")
        if len(self._networks) >= self._config.networks:
            raise ValueError(f"more than {self._config.networks} networks (dialer.networks): {net} is one too many")
        config = self._config
        self._networks[net] = _Network(
            Candidates(config.candidates, config.kept), Backoffs(config, self._rng), Bans(config.bans), config.pause
        )

    def remove_network(self, net: str) -> None:
        """Forget a network; whoever has a slot in it is dropped. Raises `KeyError`, as all do, for one not there."""
        for peer in self._networks.pop(net).slots:
            self._drops.append(Drop(net, peer, f"network {net} was left"))
        self._due()

    def want(self, net: str, n: int, *, outbound: int = 0) -> None:
        """Dial until the network has `n` slots, or fewer of them than `outbound` were dialled by us.

        The second number defends against strangers who take all slots by dialling us. Lowering takes no slot away:
        who has to go is for the peer manager to `drop`. Kept peers are dialled whatever is wanted. Raises `ValueError`.
        """
        if not 0 <= outbound <= n:
            raise ValueError(f"network {net} cannot want {n} peers and {outbound} outbound: 0 <= outbound <= n")
        network = self._networks[net]
        network.target, network.floor = n, outbound
        self._due()

    # --- whom to dial

    def candidate(
        self, net: str, peer: PeerId, addrs: Iterable[Multiaddr], source: Source, now: float, *, urgent: bool = False
    ) -> bool:
        """A peer that may be dialled at `addrs` (none: at those of the peer store); True when that is news.

        Addresses of our user add up, those of another source take the place of what it said last: at most 64, of what
        strangers say 5. CERTIFIED counts as the peer's own claim: the record that proves it belongs in the peer store.
        Whoever is banned or has a slot is no news. `urgent` is dialled before others, once.
        """
        network = self._networks[net]
        source = Source.OWN_CLAIM if source is Source.CERTIFIED else source
        if network.bans.until(peer) > now and peer not in network.candidates.kept:
            return False
        news = network.candidates.told(peer, addrs, source, urgent)
        self._due()
        return news and peer not in network.slots

    def keep(self, net: str, peer: PeerId) -> None:
        """A static or trusted peer: dialled for ever, with backoff, beyond the target too, and never forgotten.

        Raises `ValueError` when `config.kept` are.
        """
        self._networks[net].candidates.keep(peer)
        self._due()

    def unkeep(self, net: str, peer: PeerId) -> None:
        """Undo `keep`; a slot stays."""
        self._networks[net].candidates.unkeep(peer)
        self._due()

    def discovered(self, net: str, found: int, now: float) -> None:
        """A round of discovery is over and brought so many: the next one waits for 5 s, twice as long each time that
        it brought nobody, at most 120 s.
        """
        network = self._networks[net]
        network.searching = False
        network.pause = self._config.pause if found else network.pause
        network.search_at = now + network.pause
        network.pause = min(self._config.longest_pause, 2 * network.pause)
        self._due()

    # --- what became of them

    def connected(self, net: str, peer: PeerId, now: float, *, outbound: bool) -> bool:
        """The network may use a connection to the peer, whose handshake it passed: a slot is taken.

        False for a peer that is banned: it gets none, and is dropped. An inbound peer gets one whatever the target is.
        """
        network = self._networks[net]
        network.attempts.pop(peer, None)
        self._due()
        if network.bans.until(peer) > now:
            self._drops.append(Drop(net, peer, "banned", had_slot=False))
            return False
        if peer not in network.slots:
            network.slots[peer] = Slot(outbound, now)
        known = network.candidates.get(peer)
        if known is not None:
            known.urgent = False
        return True

    def attempt_failed(self, net: str, peer: PeerId, stage: Stage, reason: str, now: float) -> Failure:
        """A `Dial` led nowhere; `reason` is one line, escaped by who knows what in it is remote.

        The pair is left alone for 20 s, longer each time; after `config.patience` failures in a row a peer that is not
        kept is forgotten. One that took a slot meanwhile, by dialling us, keeps it.
        """
        network = self._networks[net]
        network.attempts.pop(peer, None)
        self._due()
        if peer in network.slots:
            return Failure(net, peer, stage, reason, network.backoffs.failures(peer), None)
        failures, until = self._left_alone(network, peer, now)
        retry_at = until if peer in network.candidates else None
        failure = Failure(net, peer, stage, reason, failures, retry_at)
        network.backoffs.note(failure)
        return failure

    def disconnected(self, net: str, peer: PeerId, now: float) -> bool:
        """The last connection to the peer ended; True when it had a slot. The pair is left alone as after a failure."""
        network = self._networks[net]
        slot = network.slots.pop(peer, None)
        self._due()
        if slot is None:
            return False
        self._left_alone(network, peer, now, now - slot.since)
        return True

    def _left_alone(self, network: _Network, peer: PeerId, now: float, held: float = 0.0) -> tuple[int, float]:
        failures, until = network.backoffs.failed(peer, now, held=held)
        known = network.candidates.get(peer)
        if known is not None:
            known.urgent = False
        if failures >= self._config.patience and peer not in network.candidates.kept:
            network.candidates.forget(peer)
        return failures, max(until, network.bans.until(peer))

    # --- decisions of others

    def drop(self, net: str, peer: PeerId, reason: str, now: float) -> None:
        """Take the peer's slot away, if it has one; it is left alone as if it had gone by itself."""
        if self.disconnected(net, peer, now):
            self._drops.append(Drop(net, peer, reason))

    def ban(self, net: str, peer: PeerId, until: float) -> None:
        """Have nothing to do with the peer until then (monotonic seconds), kept or not; its slot is lost.

        A ban is extended, never shortened, but by `unban`. Raises `ValueError` for a time that is no number.
        """
        network = self._networks[net]
        network.bans.add(peer, until)
        if network.slots.pop(peer, None) is not None:
            self._drops.append(Drop(net, peer, "banned"))
        self._due()

    def unban(self, net: str, peer: PeerId) -> None:
        """End a ban; a backoff stays."""
        self._networks[net].bans.lift(peer)
        self._due()

    # --- what to do

    def poll(self, now: float) -> list[Effect]:
        """What is to be done now, drops first. A peer in a `Dial` counts as being dialled from here on.

        Networks take turns, so that none starves another. Kept peers come first, then urgent ones, then those that we
        met before those that strangers told of, then those that failed least, at random.
        """
        effects: list[Effect] = [*self._drops]
        self._drops = []
        self._wake = math.inf
        queues = [self._chosen(net, network, now, effects) for net, network in self._networks.items()]
        self._turn = (self._turn + 1) % max(len(queues), 1)
        queues = [queue for queue in queues[self._turn :] + queues[: self._turn] if queue]
        under_way = sum(len(network.attempts) for network in self._networks.values())
        while queues and under_way < self._config.attempts:
            if now < (free := self._free_at()):
                self._wake = min(self._wake, free)
                break
            net, peer = queues[0].pop()
            effects.append(self._begin(net, peer, now))
            under_way += 1
            queues = [queue for queue in (*queues[1:], queues[0]) if queue]
        return effects

    def next_wake(self) -> float | None:
        """When `poll` is due (monotonic seconds; minus infinity: now), None when only another call can change that."""
        return None if self._wake == math.inf else self._wake

    def _due(self) -> None:
        self._wake = -math.inf

    def _free_at(self) -> float:
        return self._owed - (self._config.burst - 1) * self._gap

    def _begin(self, net: str, peer: PeerId, now: float) -> Dial:
        network = self._networks[net]
        network.attempts[peer] = None
        self._owed = max(self._owed, now) + self._gap
        known = network.candidates.get(peer)
        return Dial(net, peer, () if known is None else tuple(known.addrs.items()))

    def _chosen(self, net: str, network: _Network, now: float, effects: list[Effect]) -> list[tuple[str, PeerId]]:
        """Whom to dial for a network, the first last; asks for discovery when they are too few."""
        if network.searching and network.full():
            network.searching = False
            network.search_at = now + self._config.pause
            effects.append(Discover(net, 0))
        first = [peer for peer in network.candidates.kept if self._is_free(network, peer, now)]
        room = network.room() - len(first)
        if room <= 0:
            return [(net, peer) for peer in reversed(first)]
        ready = [(peer, each) for peer, each in network.candidates.others() if self._is_free(network, peer, now)]
        ready.sort(key=lambda item: self._rank(network, *item))
        if len(ready) < room and not network.searching:
            if network.search_at <= now:
                network.searching = True
                effects.append(Discover(net, room - len(ready)))
            else:
                self._wake = min(self._wake, network.search_at)
        return [(net, peer) for peer in reversed([*first, *(peer for peer, _ in ready[:room])])]

    def _is_free(self, network: _Network, peer: PeerId, now: float) -> bool:
        free_at = network.free_at(peer)
        if free_at > now:
            self._wake = min(self._wake, free_at)
        return free_at <= now

    def _rank(self, network: _Network, peer: PeerId, candidate: Candidate) -> tuple[bool, bool, int, float]:
        failures = network.backoffs.failures(peer)
        return not candidate.urgent, candidate.hearsay, failures, self._rng.random()

    # --- how things stand

    def users(self, peer: PeerId) -> list[str]:
        """The networks that use a connection to the peer: it has a slot there, or is being dialled."""
        return [net for net, network in self._networks.items() if peer in network.slots or peer in network.attempts]

    def has_slot(self, net: str, peer: PeerId) -> bool:
        """Whether the peer has a slot in the network."""
        return peer in self._networks[net].slots

    def slots(self, net: str) -> dict[PeerId, Slot]:
        """The peers that have a slot, the oldest first."""
        return dict(self._networks[net].slots)

    def failure(self, net: str, peer: PeerId) -> Failure | None:
        """The last failed attempt with a peer, None when there was none, or it is too long ago to be remembered."""
        return self._networks[net].backoffs.failure(peer)

    def gauges(self, net: str) -> dict[str, int]:
        """How things stand in a network: counts by name."""
        network = self._networks[net]
        return {
            "target": network.target,
            "slots": len(network.slots),
            "outbound": sum(slot.outbound for slot in network.slots.values()),
            "attempts": len(network.attempts),
            "candidates": len(network.candidates),
            "kept": len(network.candidates.kept),
            "backoffs": len(network.backoffs),
            "bans": len(network.bans),
        }
