"""The peer manager: how many peers are wanted, who stays, who goes and why, and who is let in.

Rules: pure; `now` is monotonic seconds. Inputs note what happened, `poll` says what is to be done about it. Every table
is bounded. It dials nobody: whom to look for is told (`Want`, `Discover`, `Dial`); attempts and their backoff are the
dialer's, which also brings back static and trusted peers for ever.

- Places: `target` and a headroom for newcomers. Of these, inbound peers never get those of the outbound floor.
- Judgement: at -20 a peer is sent away, at -50 banned for 12 h, and its address with it above 5 banned peers there.
  Trusted peers are not judged; static ones are, but never have to leave for others.
- Subnets: one that is wanted and served by too few is asked for at once, then at every beat.
- Pruning, at every beat: above the target the least useful go; never one without which a wanted subnet would have
  nobody, nor an outbound one of the floor. Who came less than a minute ago neither has to go nor makes others go: a
  stream of newcomers takes the headroom, and nobody's place.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pyp2p.beacon.bans import Bans, IPAddress, network_of
from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.beacon.known import Faults, GoodPeers
from pyp2p.beacon.peer_types import (
    Ban,
    BanIp,
    ConnectedPeer,
    Dial,
    Disconnect,
    Discover,
    Effect,
    PeerConfig,
    Refusal,
    Subnet,
    SubnetKind,
    Unban,
    Want,
)
from pyp2p.beacon.scores import BAN_AT, DISCONNECT_AT, Score, Tolerance
from pyp2p.errors import printable
from pyp2p.io.handshake import Direction
from pyp2p.peer.id import PeerId

BAN_SECONDS = 12 * 3600.0
_SHOWN = 200  # characters of a reason, which may repeat what a peer said
_UNSAVED = 4096  # changed scores that nobody fetched
_SERVED = 1.0  # credit for a request that was answered in full
_WAIT = 20.0  # seconds before a good peer that left is tried again
_PACE = 10.0  # seconds between turns of such dials, within which those of the last turn connect or fail
_WAIT_LONGER: dict[int, float] = {  # after its goodbye with this code
    GoodbyeReason.TOO_MANY_PEERS: 600.0,
    GoodbyeReason.FAULT: 600.0,
    GoodbyeReason.BAD_SCORE: 3600.0,
}
_NEVER_AGAIN = (GoodbyeReason.IRRELEVANT_NETWORK, GoodbyeReason.UNABLE_TO_VERIFY, GoodbyeReason.BANNED)


@dataclass(slots=True)
class _Peer:
    direction: Direction
    ip: IPAddress | None
    since: float
    score: Score
    leaving: bool = False  # told to go; it counts for nothing any more
    seq: int | None = None  # of its metadata
    subnets: dict[SubnetKind, int] = field(default_factory=dict)  # bit n: on subnet n

    def serves(self, subnet: Subnet) -> bool:
        return bool(self.subnets.get(subnet.kind, 0) >> subnet.number & 1)


class PeerManager:
    """The peers of one network. `static` are those that the user wants kept; `trusted` are beyond judgement as well."""

    def __init__(
        self,
        config: PeerConfig,
        rng: random.Random,
        *,
        static: Iterable[PeerId] = (),
        trusted: Iterable[PeerId] = (),
    ) -> None:
        self._config = config
        self._trusted = frozenset(trusted)
        self._kept = frozenset(static) | self._trusted
        self._peers: dict[PeerId, _Peer] = {}
        self._coming: dict[PeerId, Direction] = {}  # in handshakes; as many as the switch has in admission
        self._good = GoodPeers(config.remembered_good, rng)
        self._faults = Faults(config.remembered_faults)
        self._bans = Bans(config.bans)
        self._wanted_subnets: dict[Subnet, float] = {}  # until when
        self._asked: dict[Subnet, None] = {}  # that discovery was asked for since the last beat
        self._want: Want | None = None  # as told last
        self._short = 0  # peers that are missing now
        self._effects: list[Effect] = []  # at most a few for each peer that is connected or remembered
        self._unsaved: dict[PeerId, None] = {}
        self._next_beat: float | None = None
        self._next_dials = -math.inf
        self._changed = True

    # --- who is let in

    def refusal(self, peer: PeerId, ip: IPAddress | None, direction: Direction, now: float) -> Refusal | None:
        """Why the peer may not connect now, with the code of the goodbye; None lets it in.

        Ask before dialling and when an id is proven. Banned ids and addresses and scores at or below -20 are refused
        for as long as they stand. Static peers need no free place, trusted ones are always let in. A peer that is
        connected already takes no second place. Those that are `coming` take one each.
        """
        return self._refusal(peer, ip, direction, now, [way for each, way in self._coming.items() if each != peer])

    def coming(self, peer: PeerId, direction: Direction) -> None:
        """The peer begins its handshakes: its place is kept, so that of many at once no more come than may stay."""
        if peer not in self._peers:
            self._coming[peer] = direction

    def gave_up(self, peer: PeerId) -> None:
        """Its handshakes failed; where they go well, `connected` or `disconnected` follow."""
        self._coming.pop(peer, None)

    def _refusal(
        self, peer: PeerId, ip: IPAddress | None, direction: Direction, now: float, coming: Sequence[Direction]
    ) -> Refusal | None:
        if peer in self._trusted:
            return None
        if self._bans.until(peer) > now:
            return Refusal(GoodbyeReason.BANNED, "the peer is banned")
        if self._bans.network_until(ip, now) is not None:
            return Refusal(GoodbyeReason.BANNED, f"too many banned peers came from {network_of(ip)}")
        if self.score(peer, now) <= DISCONNECT_AT:
            return Refusal(GoodbyeReason.BAD_SCORE, "the peer's score is too low")
        state = self._peers.get(peer)
        if state is not None and state.leaving:
            return Refusal(GoodbyeReason.TOO_MANY_PEERS, "the peer was told to go")
        if state is not None or peer in self._kept:
            return None
        return self._no_place(direction, coming)

    # --- what happened

    def connected(self, peer: PeerId, direction: Direction, ip: IPAddress | None, now: float) -> None:
        """The first connection to the peer is there; a further one changes nothing.

        One that may not stay (it was banned while it connected, or others were faster) is told to go by `poll`.
        """
        if peer in self._peers:
            return
        self.gave_up(peer)
        refusal = self._refusal(peer, ip, direction, now, ())  # who is on its way pushes nobody out
        self._peers[peer] = _Peer(direction, ip, now, self._faults.take(peer) or Score(at=now))
        self._good.forget(peer)
        self._changed = True
        if refusal is not None:
            self._send_away(peer, refusal.code, refusal.reason)

    def disconnected(self, peer: PeerId, now: float, goodbye: int | None = None) -> None:
        """The last connection to the peer ended, perhaps with a goodbye of the peer, whose code it is.

        One that was good to us is tried again when more are wanted: nothing is held against it, it stayed for a minute,
        and we dialled it or it was of use.
        """
        self.gave_up(peer)
        state = self._peers.pop(peer, None)
        if state is None:
            return
        self._changed = True
        state.score.gossip, gossip = 0.0, state.score.gossip  # gossip remembers what it holds against a peer by itself
        if self._bans.until(peer) > now:
            return
        behaviour = state.score.behaviour(now)
        self._faults.keep(peer, state.score, now)
        of_use = state.direction is Direction.OUTBOUND or behaviour + gossip > 0
        stayed = now - state.since >= self._config.grace
        if of_use and stayed and behaviour >= 0 and peer not in self._kept and goodbye not in _NEVER_AGAIN:
            self._good.add(peer, now, _WAIT if goodbye is None else _WAIT_LONGER.get(goodbye, _WAIT))

    def report(self, peer: PeerId, tolerance: Tolerance, reason: str, now: float) -> None:
        """The peer did something wrong; `reason` is for people, and escaped. It may have left meanwhile."""
        if peer in self._trusted or self._bans.until(peer) > now:
            return
        state = self._peers.get(peer)
        score = state.score if state is not None else self._faults.get(peer) or Score(at=now)
        score.fault(tolerance, now)
        if state is None:
            self._faults.keep(peer, score, now)
            self._good.forget(peer)
        self._note_unsaved(peer)
        self._judge(peer, score, printable(reason, _SHOWN), now)

    def ping_failed(self, peer: PeerId, now: float) -> None:
        """The peer did not answer a ping in time, or wrongly: five in a row, 15 s apart, end the connection."""
        self.report(peer, Tolerance.MID, "no answer to a ping", now)

    def served(self, peer: PeerId, now: float) -> None:
        """The peer answered a request in full: a little credit, which counts when somebody has to go."""
        state = self._peers.get(peer)
        if state is not None:
            state.score.credit(_SERVED, now)
            self._note_unsaved(peer)

    def gossip_score(self, peer: PeerId, score: float, now: float) -> None:
        """What gossip thinks of a connected peer now, as the router's score book gives it."""
        state = self._peers.get(peer)
        if state is None or peer in self._trusted:
            return
        state.score.gossips(score, self._config.gossip_graylist)
        self._judge(peer, state.score, "its score in gossip, beside faults", now)

    def metadata(
        self,
        peer: PeerId,
        *,
        seq: int,
        attnets: Iterable[int] = (),
        syncnets: Iterable[int] = (),
        columns: Iterable[int] = (),
    ) -> None:
        """What a connected peer says it serves: numbers of subnets of each kind. Raises `ValueError` for others.

        `seq` is that of its metadata: one that is not higher than the last is ignored. `columns` are the data column
        subnets that follow from its node id and custody group count.
        """
        state = self._peers.get(peer)
        if state is None or (state.seq is not None and seq <= state.seq):
            return
        said = {
            SubnetKind.ATTESTATION: attnets,
            SubnetKind.SYNC_COMMITTEE: syncnets,
            SubnetKind.DATA_COLUMN: columns,
        }
        state.subnets = {kind: _mask(kind, numbers) for kind, numbers in said.items()}
        state.seq = seq
        self._changed = True

    def want_subnet(self, subnet: Subnet, until: float) -> None:
        """Keep the subnet served until then (infinity: for good); an earlier wish is replaced, one in the past ends."""
        self._wanted_subnets[subnet] = until
        self._changed = True

    # --- what was kept from an earlier run

    def restore(self, peer: PeerId, score: float, good: bool, age: float, now: float) -> None:
        """The peer had this score `age` seconds ago (a wall clock that was set back makes it 0); `good`: dial it again.

        Call it before the network starts. What is no number counts as 0.
        """
        self._faults.keep(peer, Score(score, now - max(0.0, age)), now)
        if good and score >= 0 and peer not in self._kept:
            self._good.add(peer, now, 0.0)

    def restore_ban(self, peer: PeerId, ip: IPAddress | None, seconds: float, now: float) -> None:
        """The peer is banned for another `seconds`, 12 h at most whatever a clock said; `poll` tells of it."""
        if seconds > 0 and peer not in self._trusted:
            self._ban(peer, ip, now + min(seconds, BAN_SECONDS), "banned in an earlier run", now)

    def take_scores(self, now: float) -> dict[PeerId, float]:
        """The behaviour part of the scores that changed since the last call, to be kept over a restart."""
        changed = {peer: self._score_of(peer).behaviour(now) for peer in self._unsaved}
        self._unsaved.clear()
        return changed

    # --- what is to be done

    def poll(self, now: float) -> list[Effect]:
        """What is to be done now, in this order; call it after inputs, and at `next_wake`."""
        self._effects += [Unban(peer) for peer in self._bans.expire(now)]
        if self._next_beat is None or now >= self._next_beat:
            self._next_beat = now + self._config.beat  # beats that were missed are not made up for
            self._faults.expire(now)
            self._asked.clear()
            self._prune(now)
        self._look_for_more(now)
        self._changed = False
        effects, self._effects = self._effects, []
        return effects

    def next_wake(self) -> float:
        """When to call `poll`, if no input comes before; minus infinity: at once."""
        if self._changed or self._effects or self._next_beat is None:
            return -math.inf
        dials = max(self._good.next_due(), self._next_dials) if self._short else math.inf
        return min(self._next_beat, self._bans.next_end(), dials)

    # --- how things stand

    def score(self, peer: PeerId, now: float) -> float:
        """The score of a peer, -100..100: 100 for a trusted one, -100 for a banned one, 0 for one we do not know."""
        if peer in self._trusted:
            return 100.0
        if self._bans.until(peer) > now:
            return -100.0
        return self._score_of(peer).total(now)

    def is_kept(self, peer: PeerId) -> bool:
        """Whether the peer is static or trusted: it never has to leave for others."""
        return peer in self._kept

    def peers(self, now: float) -> list[ConnectedPeer]:
        """Who is connected, those who were told to go left out, in the order they came."""
        return [
            ConnectedPeer(
                peer,
                state.direction,
                state.ip,
                since=state.since,
                score=self.score(peer, now),
                kept=peer in self._kept,
                subnets=tuple(_subnets(state)),
            )
            for peer, state in self._staying()
        ]

    def served_by(self, subnet: Subnet) -> int:
        """How many connected peers say that they are on the subnet."""
        return sum(state.serves(subnet) for _, state in self._staying())

    def counters(self) -> dict[str, int]:
        """How many peers are connected, each way, banned and remembered."""
        total, outbound = self._counts()
        return {
            "connected": total,
            "outbound": outbound,
            "inbound": total - outbound,
            "banned": len(self._bans),
            "remembered_good": len(self._good),
            "remembered_faults": len(self._faults),
        }

    # --- parts

    def _no_place(self, direction: Direction, coming: Sequence[Direction]) -> Refusal | None:
        total, outbound = self._counts()
        total += len(coming)
        outbound += coming.count(Direction.OUTBOUND)
        if total >= self._config.most:
            return Refusal(GoodbyeReason.TOO_MANY_PEERS, f"{total} peers are connected")
        inbound = total - outbound
        if direction is Direction.INBOUND and inbound >= self._config.most_inbound:
            return Refusal(GoodbyeReason.TOO_MANY_PEERS, f"{inbound} inbound peers are connected")
        return None

    def _staying(self) -> Iterator[tuple[PeerId, _Peer]]:
        return ((peer, state) for peer, state in self._peers.items() if not state.leaving)

    def _counts(self) -> tuple[int, int]:
        """Peers in all, and outbound ones."""
        total = outbound = 0
        for _, state in self._staying():
            total += 1
            outbound += state.direction is Direction.OUTBOUND
        return total, outbound

    def _score_of(self, peer: PeerId) -> Score:
        state = self._peers.get(peer)
        return state.score if state is not None else self._faults.get(peer) or Score()

    def _note_unsaved(self, peer: PeerId) -> None:
        self._unsaved[peer] = None
        if len(self._unsaved) > _UNSAVED:
            del self._unsaved[next(iter(self._unsaved))]

    def _judge(self, peer: PeerId, score: Score, why: str, now: float) -> None:
        total = score.total(now)
        if total <= BAN_AT:
            state = self._peers.get(peer)
            self._ban(peer, None if state is None else state.ip, now + BAN_SECONDS, why, now)
        elif total <= DISCONNECT_AT:
            self._send_away(peer, GoodbyeReason.BAD_SCORE, why)

    def _ban(self, peer: PeerId, ip: IPAddress | None, until: float, why: str, now: float) -> None:
        gone = self._bans.add(peer, ip, until)
        self._effects.append(Ban(peer, ip, self._bans.until(peer), why))
        for other in gone:  # its ban may not have been told yet: told now, it would hit whoever came back since
            self._effects = [each for each in self._effects if not (isinstance(each, Ban) and each.peer == other)]
            self._effects.append(Unban(other))
        self._faults.take(peer)
        self._good.forget(peer)
        network, network_until = network_of(ip), self._bans.network_until(ip, now)
        if network is not None and network_until is not None:
            self._effects.append(BanIp(network, network_until))
        self._send_away(peer, GoodbyeReason.BANNED, why)

    def _send_away(self, peer: PeerId, code: GoodbyeReason, why: str) -> None:
        state = self._peers.get(peer)
        if state is not None and not state.leaving:
            state.leaving = self._changed = True
            self._effects.append(Disconnect(peer, code, why))

    def _look_for_more(self, now: float) -> None:
        config = self._config
        for subnet in [subnet for subnet, until in self._wanted_subnets.items() if until <= now]:
            del self._wanted_subnets[subnet]
        missing_at_all = 0
        for subnet in self._wanted_subnets:
            missing = max(0, config.subnet_peers - self.served_by(subnet))
            missing_at_all += missing
            if missing and subnet not in self._asked:
                self._asked[subnet] = None
                self._effects.append(Discover(subnet, missing))
        total, outbound = self._counts()
        want = Want(max(config.target, min(total + missing_at_all, config.most)), config.outbound_floor)
        if want != self._want:
            self._want = want
            self._effects.append(want)
        self._short = max(config.target - total, config.outbound_floor - outbound, 0)
        if self._short and now >= self._next_dials and (due := self._good.due(self._short, now)):
            self._next_dials = now + _PACE
            self._effects += [Dial(peer) for peer in due]

    def _prune(self, now: float) -> None:
        """Send the least useful away until the target is met, or nobody is left who may go."""
        _, outbound = self._counts()
        served = {subnet: self.served_by(subnet) for subnet, until in self._wanted_subnets.items() if until > now}
        settled = [(peer, state) for peer, state in self._staying() if now - state.since >= self._config.grace]
        surplus = len(settled) - self._config.target
        for peer, state in sorted(settled, key=lambda each: self._usefulness(each[0], each[1], served, now)):
            if surplus <= 0:
                break
            ours = state.direction is Direction.OUTBOUND
            serves = [subnet for subnet in served if state.serves(subnet)]
            last_of_one = any(served[subnet] <= 1 for subnet in serves)
            if peer in self._kept or last_of_one or (ours and outbound <= self._config.outbound_floor):
                continue
            for subnet in serves:
                served[subnet] -= 1
            surplus -= 1
            outbound -= ours
            self._send_away(peer, GoodbyeReason.TOO_MANY_PEERS, f"more than {self._config.target} peers")

    def _usefulness(
        self, peer: PeerId, state: _Peer, served: dict[Subnet, int], now: float
    ) -> tuple[int, float, int, float]:
        """What counts, in this order: subnets that few serve, the score, wanted subnets, how long it has been here."""
        serves = [subnet for subnet in served if state.serves(subnet)]
        rare = sum(served[subnet] <= self._config.subnet_peers for subnet in serves)
        return rare, round(self.score(peer, now), 1), len(serves), -state.since


def _mask(kind: SubnetKind, numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << Subnet(kind, number).number
    return mask


def _subnets(state: _Peer) -> Iterator[Subnet]:
    for kind, mask in state.subnets.items():
        yield from (Subnet(kind, number) for number in range(kind.value) if mask >> number & 1)
