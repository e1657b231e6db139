"""Which peers we keep a full-message link with, per topic: graft, prune, backoff, fan-out, gossip targets.

Rules: pure; decides and returns, sends nothing. Candidates are drawn with the given randomness from tables in the order
of arrival. We never graft inside a backoff that the other side set (jvm-libp2p #472), and wait one heartbeat longer.
libp2p specs, gossipsub v1.0 "Mesh maintenance" and v1.1.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.backoffs import Backoffs
from pyp2p.pubsub.params import GossipParams, Thresholds
from pyp2p.pubsub.peers import PeerState, PeerTable
from pyp2p.pubsub.score import ScoreBook


@dataclass(slots=True)
class Changes:
    """What one heartbeat decided: whom to graft, whom to prune from which topics and whether to offer peers instead."""

    grafts: dict[PeerId, list[str]] = field(default_factory=dict)
    prunes: dict[PeerId, list[str]] = field(default_factory=dict)
    no_px: dict[PeerId, None] = field(default_factory=dict)  # pruned for their score: they get no peers

    def graft(self, peer: PeerId, topic: str) -> None:
        self.grafts.setdefault(peer, []).append(topic)

    def prune(self, peer: PeerId, topic: str) -> None:
        self.prunes.setdefault(peer, []).append(topic)


class Mesh:
    """The meshes of the topics that we listen to and the fan-out of those that we only publish to."""

    def __init__(
        self,
        params: GossipParams,
        thresholds: Thresholds,
        table: PeerTable,
        score: ScoreBook,
        rng: random.Random,
    ) -> None:
        self.topics: dict[str, dict[PeerId, None]] = {}
        self.fanout: dict[str, dict[PeerId, None]] = {}
        self.backoffs = Backoffs(params.prune_backoff, params.max_backoff)
        self._published: dict[str, float] = {}
        self._params = params
        self._thresholds = thresholds
        self._table = table
        self._score = score
        self._rng = rng
        self._beats = 0

    def peers(self, topic: str) -> Iterable[PeerId]:
        """The mesh of `topic`; nobody when we do not listen to it."""
        return self.topics.get(topic, ())

    # --- our own subscriptions

    def join(self, topic: str, now: float) -> list[PeerId]:
        """We listen to `topic` from now on; returns whom to graft. The fan-out of the topic comes first."""
        self.topics[topic] = {}
        known = self.fanout.pop(topic, {})
        self._published.pop(topic, None)
        first = [peer for peer in known if self._may_graft(self._table.get(peer), topic)]
        chosen = first[: self._params.d]
        if len(chosen) < self._params.d:
            others = self._candidates(topic, lambda state: state.peer not in chosen)
            chosen += self._draw(others, self._params.d - len(chosen))
        for peer in chosen:
            self._add(topic, peer, now)
        return chosen

    def leave(self, topic: str, now: float) -> list[PeerId]:
        """We listen no longer; returns whom to prune, with the short backoff of leaving."""
        pruned = list(self.topics.pop(topic, {}))
        for peer in pruned:
            self._score.pruned(peer, topic, now)
            self.backoffs.add(topic, peer, self._params.unsubscribe_backoff, now)
        return pruned

    # --- what peers say

    def grafted(self, state: PeerState, topic: str, now: float) -> bool:
        """The peer wants to be in our mesh of `topic`; False: it must be pruned. An unknown topic is the caller's."""
        mesh = self.topics[topic]
        peer = state.peer
        if peer in mesh:
            return True
        if state.direct:
            return False  # an explicit peer gets everything anyway
        until = self.backoffs.until(topic, peer)
        if until is not None and now < until:
            self._score.behaviour(peer)
            started = until - self._params.prune_backoff
            if now < started + self._params.graft_flood_threshold:
                self._score.behaviour(peer)
            self.backoffs.add(topic, peer, None, now)
            return False
        if self._score.score(peer) < 0:
            self.backoffs.add(topic, peer, None, now)
            return False
        if len(mesh) >= self._params.d_high and not state.outbound:
            self.backoffs.add(topic, peer, None, now)
            return False
        self._add(topic, peer, now)
        return True

    def pruned(self, peer: PeerId, topic: str, backoff: int | None, now: float) -> None:
        """The peer took us out of its mesh of `topic`: we leave it alone for `backoff` seconds (None: the default)."""
        mesh = self.topics.get(topic)
        if mesh is not None and peer in mesh:
            del mesh[peer]
            self._score.pruned(peer, topic, now)
        self.backoffs.add(topic, peer, backoff, now)

    def unsubscribed(self, peer: PeerId, topic: str, now: float) -> None:
        """The peer listens to `topic` no longer; out of the mesh, it cannot be back at once as if it were new."""
        if peer in self.peers(topic):
            self._remove(peer, topic, now)
            self.backoffs.add(topic, peer, self._params.unsubscribe_backoff, now)
        fanout = self.fanout.get(topic)
        if fanout is not None:
            fanout.pop(peer, None)

    def dropped(self, peer: PeerId, now: float) -> Changes:
        """We take the peer out of all meshes."""
        changes = Changes()
        for topic, mesh in self.topics.items():
            if peer in mesh:
                self._prune(topic, peer, changes, now)
        return changes

    def down(self, peer: PeerId) -> None:
        """The peer is gone; its score was told by the router."""
        for mesh in self.topics.values():
            mesh.pop(peer, None)
        for fanout in self.fanout.values():
            fanout.pop(peer, None)

    # --- publishing

    def for_publish(self, topic: str, now: float) -> list[PeerId]:
        """Whom our own message goes to: the mesh, or the fan-out of a topic that we do not listen to.

        A mesh of fewer than D has others added for this once: it is empty while all of a few peers are in backoff.
        """
        if topic in self.topics:
            mesh = list(self.topics[topic])
            if len(mesh) < self._params.d:
                members = self.topics[topic]
                found = self._listening(topic, lambda state: state.peer not in members and self._may_publish(state))
                mesh += self._draw(found, self._params.d - len(mesh))
            return mesh
        fanout = self.fanout.get(topic)
        if not fanout:
            found = self._listening(topic, self._may_publish)
            if not found:
                return []
            fanout = self.fanout[topic] = dict.fromkeys(self._draw(found, self._params.d))
        self._published[topic] = now
        return list(fanout)

    # --- heartbeat

    def beat(self, now: float) -> Changes:
        """Maintain every mesh and fan-out."""
        self._beats += 1
        changes = Changes()
        self.backoffs.expire(now - self._params.heartbeat_interval)  # a heartbeat longer than we were asked to wait
        for topic, mesh in self.topics.items():
            self._drop_bad(topic, mesh, changes, now)
            if len(mesh) < self._params.d_low:
                self._fill(topic, mesh, self._params.d, changes, now)
            if len(mesh) > self._params.d_high:
                self._thin(topic, mesh, changes, now)
            if len(mesh) >= self._params.d_low:
                self._ensure_outbound(topic, mesh, changes, now)
            if self._beats % self._params.opportunistic_graft_ticks == 0:
                self._opportunistic(topic, mesh, changes, now)
        self._maintain_fanout(now)
        return changes

    def _drop_bad(self, topic: str, mesh: dict[PeerId, None], changes: Changes, now: float) -> None:
        for peer in [peer for peer in mesh if self._score.score(peer) < 0]:
            self._prune(topic, peer, changes, now)
            changes.no_px[peer] = None

    def _fill(self, topic: str, mesh: dict[PeerId, None], size: int, changes: Changes, now: float) -> None:
        for peer in self._draw(self._candidates(topic, _anybody), size - len(mesh)):
            self._graft(topic, peer, changes, now)

    def _thin(self, topic: str, mesh: dict[PeerId, None], changes: Changes, now: float) -> None:
        """Keep the best by score, fill up at random, with a quota of connections that we opened: sybils come to us."""
        params = self._params
        peers = list(mesh)
        self._rng.shuffle(peers)
        peers.sort(key=self._score.score, reverse=True)
        best, rest = peers[: min(params.d_score, params.d)], peers[min(params.d_score, params.d) :]
        self._rng.shuffle(rest)
        keep = best + rest[: params.d - len(best)]
        lacking = params.d_out - sum(self._is_outbound(peer) for peer in keep)
        if lacking > 0:
            spare = [peer for peer in rest[params.d - len(best) :] if self._is_outbound(peer)][:lacking]
            give_way = [peer for peer in reversed(keep) if not self._is_outbound(peer)][: len(spare)]
            keep = [peer for peer in keep if peer not in give_way] + spare[: len(give_way)]
        kept = dict.fromkeys(keep)
        for peer in peers:
            if peer not in kept:
                self._prune(topic, peer, changes, now)

    def _ensure_outbound(self, topic: str, mesh: dict[PeerId, None], changes: Changes, now: float) -> None:
        lacking = self._params.d_out - sum(self._is_outbound(peer) for peer in mesh)
        if lacking > 0:
            found = self._candidates(topic, lambda state: state.outbound)
            for peer in self._draw(found, lacking):
                self._graft(topic, peer, changes, now)

    def _opportunistic(self, topic: str, mesh: dict[PeerId, None], changes: Changes, now: float) -> None:
        """A mesh of mediocre peers does not get better by itself: graft some above its median."""
        if len(mesh) < 2:
            return
        middle = median(self._score.score(peer) for peer in mesh)
        if middle < self._thresholds.opportunistic_graft:
            found = self._candidates(topic, lambda state: self._score.score(state.peer) > middle)
            for peer in self._draw(found, self._params.opportunistic_graft_peers):
                self._graft(topic, peer, changes, now)

    def _maintain_fanout(self, now: float) -> None:
        good = self._thresholds.publish
        for topic, last in list(self._published.items()):
            if now - last > self._params.fanout_ttl:
                del self._published[topic]
                self.fanout.pop(topic, None)
                continue
            fanout = self.fanout[topic]
            for peer in [peer for peer in fanout if self._score.score(peer) < good]:
                del fanout[peer]
            if len(fanout) < self._params.d:
                found = [peer for peer in self._listening(topic, self._may_publish) if peer not in fanout]
                fanout.update(dict.fromkeys(self._draw(found, self._params.d - len(fanout))))

    # --- gossip

    def gossip_targets(self, topic: str, members: Mapping[PeerId, None]) -> list[PeerId]:
        """Whom to tell what we have: some who listen, are good enough, and do not get it in full anyway."""
        params = self._params
        good = self._thresholds.gossip
        found = self._listening(
            topic, lambda state: state.peer not in members and self._score.score(state.peer) >= good
        )
        return self._draw(found, max(params.d_lazy, int(params.gossip_factor * len(found))))

    def instead_of(self, peer: PeerId, topic: str) -> list[PeerId]:
        """Peers that a pruned one may try: others of the topic, none with a negative score."""
        found = self._listening(topic, lambda state: state.peer != peer and self._score.score(state.peer) >= 0)
        return self._draw(found, self._params.prune_peers)

    # --- parts

    def _candidates(self, topic: str, also: Callable[[PeerState], bool]) -> list[PeerId]:
        """Who could be grafted now."""
        return [
            peer
            for peer, state in self._table.listening(topic).items()
            if self._may_graft(state, topic) and also(state)
        ]

    def _may_graft(self, state: PeerState | None, topic: str) -> bool:
        return (
            state is not None
            and topic in state.topics
            and state.kind.gossips
            and not state.direct
            and state.peer not in self.topics[topic]
            and not self.backoffs.active(topic, state.peer)
            and self._score.score(state.peer) >= 0
        )

    def _listening(self, topic: str, also: Callable[[PeerState], bool]) -> list[PeerId]:
        """Gossip peers of the topic that are not explicit ones."""
        return [
            peer
            for peer, state in self._table.listening(topic).items()
            if state.kind.gossips and not state.direct and also(state)
        ]

    def _may_publish(self, state: PeerState) -> bool:
        return self._score.score(state.peer) >= self._thresholds.publish

    def _draw(self, peers: list[PeerId], count: int) -> list[PeerId]:
        return peers if count >= len(peers) else self._rng.sample(peers, max(count, 0))

    def _is_outbound(self, peer: PeerId) -> bool:
        state = self._table.get(peer)
        return state is not None and state.outbound

    def _graft(self, topic: str, peer: PeerId, changes: Changes, now: float) -> None:
        self._add(topic, peer, now)
        changes.graft(peer, topic)

    def _prune(self, topic: str, peer: PeerId, changes: Changes, now: float) -> None:
        self._remove(peer, topic, now)
        self.backoffs.add(topic, peer, None, now)
        changes.prune(peer, topic)

    def _add(self, topic: str, peer: PeerId, now: float) -> None:
        self.topics[topic][peer] = None
        self._score.grafted(peer, topic, now)

    def _remove(self, peer: PeerId, topic: str, now: float) -> None:
        mesh = self.topics.get(topic)
        if mesh is not None and peer in mesh:
            del mesh[peer]
            self._score.pruned(peer, topic, now)


def _anybody(state: PeerState) -> bool:
    return True
