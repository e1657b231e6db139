"""What each peer has earned: its counters in every topic and as a whole, and the score that they make.

Rules: pure. A score is asked for at every RPC and for every candidate of a heartbeat, so it is kept until something of
the peer changes. Decay is lazy: a heartbeat only counts steps, the counters of a peer follow when it is next touched or
asked about; time in the mesh moves on with these steps too, as in go. Peers that we do not know score 0, topics without
parameters contribute nothing. libp2p specs, gossipsub v1.1 "Peer Scoring".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from math import isfinite

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.colocation import Colocation
from pyp2p.pubsub.counters import ROUNDING, Counters, TopicParts
from pyp2p.pubsub.deliveries import Deliveries
from pyp2p.pubsub.params import ScoreParams, TopicScoreParams
from pyp2p.pubsub.standing import Standing
from pyp2p.pubsub.types import Verdict

IPAddress = IPv4Address | IPv6Address


@dataclass(slots=True)
class ScoreParts:
    """A score with all that went into it: p1 to p4 are sums over the topics, values are those before their weights."""

    topics: dict[str, TopicParts] = field(default_factory=dict)
    p1: float = 0.0
    p2: float = 0.0
    p3: float = 0.0
    p3b: float = 0.0
    p4: float = 0.0
    p5: float = 0.0  # what the application said
    p6: float = 0.0  # squared surplus of peers on the same address
    p7: float = 0.0  # squared misbehaviour over the threshold
    topic_score: float = 0.0  # the weighted sum of the topics, capped
    total: float = 0.0


class ScoreBook:
    """The scores of all peers. With `params` None every score is 0 and nothing is remembered.

    `application` gives P5: it is asked at every call of `score`, so it must be quick and must not raise; what is not a
    finite number counts as 0.
    """

    def __init__(self, params: ScoreParams | None, application: Callable[[PeerId], float] | None = None) -> None:
        self._params = ScoreParams() if params is None else params
        self._on = params is not None
        self._application = application
        self._topics = dict(self._params.topics) if self._on else {}
        self._deliveries = Deliveries(self._params.seen_message_ttl, self._params.max_deliveries)
        self._widen()
        self._peers: dict[PeerId, Standing] = {}
        self._gone: OrderedDict[PeerId, None] = OrderedDict()  # remembered, the first to be forgotten first
        self._colocation = Colocation(self._params.ip_colocation_threshold, self._params.ip_colocation_whitelist)
        self._step = 0
        self._stepped: float | None = None  # when the last step was due
        self._now = 0.0  # at the last step: what time in the mesh is measured to

    def __len__(self) -> int:
        """Peers that are connected or remembered."""
        return len(self._peers)

    @property
    def deliveries(self) -> int:
        """Messages whose copies are watched."""
        return len(self._deliveries)

    # --- peers

    def peer_up(self, peer: PeerId, ips: Sequence[IPAddress], now: float) -> None:
        """A peer is connected from `ips`; called again when they change. What is remembered of it counts again."""
        if not self._on:
            return
        self._begin_time(now)
        self._forget_gone(now)
        state = self._peers.get(peer)
        if state is None:
            state = self._peers[peer] = Standing(self._step)
        elif not state.connected:
            del self._gone[peer]
            state.connected = True
            state.step = self._step  # nothing decays while the peer is away
        self._place(peer, state, ips)

    def peer_down(self, peer: PeerId, now: float) -> None:
        """A peer is gone. A score of 0 or less is kept for `retain_score` seconds and does not decay meanwhile.

        A bad score must not be washed off by reconnecting. A good one is dropped, as go does: merit in store would pay
        for misbehaviour later, and identities could be groomed ahead.
        """
        state = self._peers.get(peer)
        if state is None or not state.connected:
            return
        score = self.score(peer)
        for topic in list(state.topics):
            state.topics[topic].first = 0.0
            self._leave_mesh(state, topic, now)
        if score > 0 or (score == 0 and not state.guilty()) or not self._params.retain_score:
            self._forget(peer, state)
            return
        state.connected = False
        state.expires = now + self._params.retain_score
        self._gone[peer] = None
        while len(self._gone) > self._params.max_retained:
            self._forget_oldest()

    def behaviour(self, peer: PeerId, count: int = 1) -> None:
        """P7: the peer broke the protocol `count` times; a broken promise is one time as well."""
        state = self._peers.get(peer)
        if state is not None:
            self._follow(state)
            state.behaviour += count
            state.fresh = -1

    # --- topics

    def set_topic_params(self, topic: str, params: TopicScoreParams | None) -> None:
        """Score `topic` in this way from now on; None: no longer. Counters over a lowered cap are cut.

        Raises `ValueError` that names the bad field and the topic, and when nothing is scored at all. Takes time in
        proportion to the peers.
        """
        if params is not None:
            params.check(topic)
        if not self._on:
            raise ValueError("nothing is scored here: no ScoreParams were given")
        for state in self._peers.values():
            if topic in state.topics:
                self._follow(state)
            counters = state.topics.get(topic)
            if counters is not None:
                counters.set_params(params)
                state.changed(topic, self._now)
        if params is None:
            self._topics.pop(topic, None)
        else:
            self._topics[topic] = params
        self._widen()

    def grafted(self, peer: PeerId, topic: str, now: float) -> None:
        """The peer is in our mesh of `topic` from now on. A second time changes nothing: it would put off P3."""
        state = self._peers.get(peer)
        if state is None or not state.connected:
            return
        self._follow(state)
        counters = state.topics.get(topic)
        if counters is None:
            counters = state.topics[topic] = Counters(self._topics.get(topic))
        if counters.since is None:
            counters.since = now
            state.changed(topic, self._now)

    def pruned(self, peer: PeerId, topic: str, now: float) -> None:
        """The peer is in our mesh of `topic` no longer; an active deficit becomes P3b."""
        state = self._peers.get(peer)
        counters = None if state is None else state.topics.get(topic)
        if state is not None and counters is not None and counters.since is not None:
            self._follow(state)
            self._leave_mesh(state, topic, now)

    # --- deliveries

    def begin(self, message_id: bytes, topic: str, peer: PeerId, now: float) -> None:
        """A message came for the first time, from `peer`; its validation begins."""
        if topic in self._topics:
            self._deliveries.begin(message_id, peer, now)

    def duplicate(self, message_id: bytes, topic: str, peer: PeerId, now: float) -> None:
        """A further copy. In validation it waits for the verdict, after a good one it may still be near-first (P3).

        After a bad verdict it is P4: who validates does not forward such a message.
        """
        record = self._deliveries.get(message_id)
        if record is None:
            return
        if record.verdict is Verdict.REJECT:
            self.invalid(peer, topic)
        elif record.add(peer) and record.verdict is Verdict.ACCEPT:
            params = self._topics.get(topic)
            if params is not None and now - record.at <= params.mesh_message_delivery_window:
                self._near_first(peer, topic)

    def accepted(self, message_id: bytes, topic: str, peer: PeerId, now: float) -> None:
        """The message is good: P2 for `peer`, who brought it first; P3 for it and all who brought it meanwhile.

        A second verdict on a message changes nothing.
        """
        if self._is_judged(message_id, topic):
            return
        state = self._peers.get(peer)
        if state is not None and state.connected:
            self._first(state, topic)
        record = self._deliveries.accept(message_id, now)
        if record is not None and record.copies is not None:
            for other in record.others():
                self._near_first(other, topic)

    def rejected(self, message_id: bytes, topic: str, peer: PeerId, now: float) -> None:
        """The message is bad: P4 for `peer` and for all who brought it meanwhile. A second verdict changes nothing."""
        if self._is_judged(message_id, topic):
            return
        self.invalid(peer, topic)
        for other in self._deliveries.reject(message_id, peer, now):
            self.invalid(other, topic)

    def ignored(self, message_id: bytes, now: float) -> None:
        """The message is neither good nor bad: nobody gets credit or blame, now or for later copies."""
        record = self._deliveries.get(message_id)
        if record is not None and record.verdict is None:
            self._deliveries.drop(message_id)

    def invalid(self, peer: PeerId, topic: str) -> None:
        """P4: the peer sent a message that is bad in itself, such as one with a wrong signature."""
        state = self._peers.get(peer)
        if state is not None:
            counters = self._counters(state, topic)
            if counters is not None:
                counters.invalid += 1
                state.changed(topic, self._now)

    # --- time

    def decay(self, now: float) -> None:
        """Call it every heartbeat: whole decay intervals that passed are counted, old records forgotten."""
        if not self._on:
            return
        due = self._begin_time(now)
        self._deliveries.expire(now)
        self._forget_gone(now)
        interval = self._params.decay_interval
        steps = int((now - due) / interval + ROUNDING)
        if steps > 0:
            self._stepped = due + steps * interval
            self._step += steps
            self._now = now

    # --- scores

    def score(self, peer: PeerId) -> float:
        """The score of `peer` now; 0 when we do not know it."""
        state = self._peers.get(peer)
        if state is None:
            return 0.0
        if state.fresh != self._step:
            self._follow(state)
            state.refresh(self._params)
        if self._application is None:
            return state.base
        return state.base + self._said(peer) * self._params.app_specific_weight

    def components(self, peer: PeerId) -> ScoreParts:
        """The score of `peer` now, with all that went into it; all zeros when we do not know it."""
        parts = ScoreParts()
        state = self._peers.get(peer)
        if state is None:
            return parts
        parts.total = self.score(peer)
        for topic, counters in state.topics.items():
            if counters.params is None:
                continue
            each = parts.topics[topic] = counters.parts(self._now)
            parts.p1 += each.p1
            parts.p2 += each.p2
            parts.p3 += each.p3
            parts.p3b += each.p3b
            parts.p4 += each.p4
        parts.topic_score = state.topic_score(self._params)
        parts.p5, parts.p6, parts.p7 = self._said(peer), state.colocation, state.misbehaviour(self._params)
        return parts

    def _said(self, peer: PeerId) -> float:
        if self._application is None:
            return 0.0
        value = self._application(peer)
        return value if isfinite(value) else 0.0

    # --- parts

    def _follow(self, state: Standing) -> None:
        if state.step != self._step:
            state.follow(self._step, self._now, self._params)

    def _counters(self, state: Standing, topic: str) -> Counters | None:
        """The counters of a peer in a topic that is scored, up to date."""
        self._follow(state)
        counters = state.topics.get(topic)
        if counters is None:
            params = self._topics.get(topic)
            if params is None:
                return None
            counters = state.topics[topic] = Counters(params)
        return None if counters.params is None else counters

    def _leave_mesh(self, state: Standing, topic: str, now: float) -> None:
        counters = state.topics[topic]
        counters.leave_mesh(now)
        state.changed(topic, self._now)

    def _first(self, state: Standing, topic: str) -> None:
        """P2, and P3 for members of the mesh."""
        counters = self._counters(state, topic)
        if counters is None or counters.params is None:
            return
        cap = counters.params.first_message_deliveries_cap
        if counters.first < cap:
            counters.first = min(counters.first + 1, cap)
            state.changed(topic, self._now)
        if counters.since is not None:
            self._deliver(state, counters, counters.params, topic)

    def _near_first(self, peer: PeerId, topic: str) -> None:
        """P3 for members of the mesh."""
        state = self._peers.get(peer)
        counters = None if state is None else state.topics.get(topic)
        if state is not None and counters is not None and counters.since is not None and counters.params is not None:
            self._follow(state)
            self._deliver(state, counters, counters.params, topic)

    def _deliver(self, state: Standing, counters: Counters, params: TopicScoreParams, topic: str) -> None:
        before = counters.deliveries
        counters.deliveries = min(before + 1, params.mesh_message_deliveries_cap)
        if before < params.mesh_message_deliveries_threshold:  # else no score changes: the usual case in a busy topic
            state.changed(topic, self._now)

    def _is_judged(self, message_id: bytes, topic: str) -> bool:
        if topic not in self._topics:
            return True
        record = self._deliveries.get(message_id)
        return record is not None and record.verdict is not None

    def _widen(self) -> None:
        windows = (params.mesh_message_delivery_window for params in self._topics.values())
        self._deliveries.window = max(windows, default=0.0)

    def _begin_time(self, now: float) -> float:
        """When the last decay was due; time begins with the first peer or heartbeat."""
        if self._stepped is None:
            self._stepped = self._now = now
        return self._stepped

    def _forget_gone(self, now: float) -> None:
        while self._gone and self._peers[next(iter(self._gone))].expires <= now:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        peer, _ = self._gone.popitem(last=False)
        self._forget(peer, self._peers[peer])

    def _forget(self, peer: PeerId, state: Standing) -> None:
        del self._peers[peer]
        self._place(peer, state, ())

    def _place(self, peer: PeerId, state: Standing, ips: Sequence[IPAddress]) -> None:
        """The peer is at `ips` and nowhere else: P6 of all who are or were there with it changes."""
        others = self._colocation.move(peer, ips)
        state.colocation = self._colocation.value(peer)
        state.fresh = -1
        for other in others:
            neighbour = self._peers[other]
            neighbour.colocation = self._colocation.value(other)
            neighbour.fresh = -1
