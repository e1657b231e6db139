"""Every parameter of gossipsub and of its peer scores, with its meaning and the name that the specs give it.

Rules: frozen values, checked when they are made; a `ValueError` names the field and says why. Times are seconds. A zero
weight switches its part of the score off. libp2p specs, gossipsub v1.0 "Parameters", v1.1 "Overview of New Parameters",
v1.2; consensus-specs, p2p-interface, "The gossip domain".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network
from math import isfinite
from typing import Any, ClassVar, Final, Protocol

from pyp2p.errors import printable

IPNetwork = IPv4Network | IPv6Network

_MIB: Final = 1024 * 1024
_LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


def _require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, not {value}")


class _Settings(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def _numbers(owner: _Settings, where: str = "") -> None:
    """Each number is of its kind. No NaN and no infinity: either makes every comparison with a score say no."""
    for each in fields(owner):
        value = getattr(owner, each.name)
        if each.type in ("int", "int | None"):
            whole = isinstance(value, int) or (value is None and each.type != "int")
            _require(each.name + where, repr(value), whole, "a whole number")
        elif each.type == "float":
            _require(each.name + where, repr(value), isinstance(value, int | float), "a number")
        if isinstance(value, float):
            _require(each.name + where, value, isfinite(value), "a finite number")


@dataclass(frozen=True, slots=True)
class GossipParams:
    """How the router behaves: the mesh, gossip, and how much of us others may use."""

    # The mesh, per topic.
    d: int = 6  # D: peers that a mesh is filled up to, or thinned out to
    d_low: int = 4  # D_low: below, the mesh is filled (spec 4, go 5)
    d_high: int = 12  # D_high: above, it is thinned out; then only who we dialled may still graft us
    d_lazy: int = 6  # D_lazy: peers outside the mesh that gossip goes to, at least
    d_score: int = 4  # D_score: the best by score stay when a mesh is thinned out: newcomers cannot push them out
    d_out: int = 2  # D_out: connections that we opened, kept in every mesh: an eclipse comes by inbound ones
    # Time.
    heartbeat_interval: float = 1.0  # HeartbeatInterval
    heartbeat_initial_delay: float = 0.1  # until the first one (go)
    fanout_ttl: float = 60.0  # FanoutTTL: how long after a publication we keep the peers of a topic we do not listen to
    seen_ttl: float = 120.0  # SeenTTL: how long an id is remembered: a replay within it is a duplicate
    history_length: int = 5  # mcache_len: heartbeats that a message can be asked for (IWANT)
    history_gossip: int = 3  # mcache_gossip: heartbeats that a message is offered for (IHAVE)
    gossip_factor: float = 0.25  # GossipFactor: share of the peers outside the mesh that gossip goes to: covert sybils
    prune_backoff: float = 60.0  # PruneBackoff: no new graft so long after a prune
    unsubscribe_backoff: float = 10.0  # UnsubscribeBackoff: the same after we left the topic
    max_backoff: float = 3600.0  # what a peer may ask for at most: one of 2**63 s would ban us from it for ever
    graft_flood_threshold: float = 10.0  # a GRAFT so soon after the prune is punished twice (GraftFloodThreshold, go)
    # Who gets what.
    flood_publish: bool = True  # FloodPublish: own messages go to everybody good enough: an eclipsed mesh is passed by
    opportunistic_graft_ticks: int = 60  # heartbeats from one opportunistic graft to the next
    opportunistic_graft_peers: int = 2  # peers grafted by it: good ones into a mesh of mediocre ones
    do_px: bool = False  # peer exchange at PRUNE: off, offered peers may be an eclipse
    prune_peers: int = 16  # peers offered or taken at a PRUNE: a list of 10,000
    direct_connect_ticks: int = 300  # heartbeats between attempts to reach explicit peers
    # What a peer may ask of us.
    gossip_retransmission: int = 3  # times that a peer gets the same message by IWANT: amplification
    max_ihave_ids: int = 5000  # ids asked of one peer per heartbeat, and told to it: IHAVE spam (MaxIHaveLength)
    max_ihave_messages: int = 10  # IHAVE messages heeded per heartbeat and peer (MaxIHaveMessages)
    iwant_followup: float = 3.0  # a promised message must come within: broken promises are punished (IWantFollowupTime)
    idontwant_threshold: int = 1024  # bytes from which IDONTWANT is sent: for less it costs more than it saves (v1.2)
    max_idontwant_messages: int = 1000  # ids taken by IDONTWANT per heartbeat and peer: a flood fills our memory
    message_id_bytes: int | None = None  # the length of every id; None: any. Others are no ids of ours
    idontwant_ttl: int = 3  # heartbeats that an IDONTWANT is remembered
    max_topics_per_peer: int = 1000  # subscriptions remembered of one peer: 200,000 made-up topics
    max_rpc_size: int = 4 * _MIB  # bytes of one RPC in either direction: a length prefix makes us allocate
    max_message_size: int | None = None  # bytes of the `data` of one message; None: what an RPC can hold
    # Memory. The oldest goes first.
    seen_bytes: int = 64 * _MIB  # ids remembered, about 170 bytes each: a million of unique junk
    mcache_bytes: int = 64 * _MIB  # messages kept for IWANT: large ones in every heartbeat
    queue_bytes: int = 8 * _MIB  # what waits for one peer; its forwarded messages and gossip are dropped for more
    queue_count: int = 4096  # the same in messages and pieces of control: small ones
    pending_validation_bytes: int = 16 * _MIB  # messages that await their validator: one that hangs
    # Our own messages.
    publish_timeout: float = 5.0  # how long `publish` waits for peers whose queue is full: a mesh peer stops reading

    def __post_init__(self) -> None:
        _numbers(self)
        for name in _COUNTS:
            _require(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        for name in _POSITIVE:
            _require(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        _require("d_low", self.d_low, self.d_low <= self.d, f"at most d ({self.d})")
        _require("d", self.d, self.d <= self.d_high, f"at most d_high ({self.d_high})")
        _require("d_score", self.d_score, self.d_score <= self.d_high, f"at most d_high ({self.d_high})")
        below = self.d_out < self.d_low or self.d_out == 0  # 0 means no quota; without a mesh d_low is 0 as well
        _require("d_out", self.d_out, below, f"below d_low ({self.d_low})")
        _require("d_out", self.d_out, 2 * self.d_out <= self.d, f"at most half of d ({self.d})")
        kept = self.history_length
        _require("history_gossip", self.history_gossip, self.history_gossip <= kept, f"at most history_length ({kept})")
        window = kept * self.heartbeat_interval  # what others can still get from our cache must not look new to us
        _require("seen_ttl", self.seen_ttl, self.seen_ttl >= window, f"at least history_length heartbeats ({window} s)")
        _require("gossip_factor", self.gossip_factor, 0 <= self.gossip_factor <= 1, "from 0 to 1")
        longest = self.max_backoff
        for name in ("prune_backoff", "unsubscribe_backoff"):
            _require(name, getattr(self, name), getattr(self, name) <= longest, f"at most max_backoff ({longest})")
        size, most = self.max_message_size, self.max_rpc_size
        if size is not None:
            _require("max_message_size", size, 0 < size <= most, f"above 0 and at most max_rpc_size ({most})")
        if self.message_id_bytes is not None:
            _require("message_id_bytes", self.message_id_bytes, self.message_id_bytes > 0, "above 0, or None")


_COUNTS: Final = (
    *("d", "d_low", "d_high", "d_lazy", "d_score", "d_out", "heartbeat_initial_delay", "history_gossip"),
    *("unsubscribe_backoff", "graft_flood_threshold", "opportunistic_graft_peers", "prune_peers"),
    *("gossip_retransmission", "max_ihave_ids", "max_ihave_messages", "idontwant_threshold", "max_idontwant_messages"),
)
_POSITIVE: Final = (
    *("heartbeat_interval", "fanout_ttl", "seen_ttl", "history_length", "prune_backoff", "max_backoff"),
    *("opportunistic_graft_ticks", "direct_connect_ticks", "iwant_followup", "idontwant_ttl", "max_topics_per_peer"),
    *(
        "max_rpc_size",
        "seen_bytes",
        "mcache_bytes",
        "pending_validation_bytes",
        "publish_timeout",
        "queue_bytes",
        "queue_count",
    ),
)


def eth2_params() -> GossipParams:
    """The parameters of the beacon chain's gossip domain (consensus-specs, p2p-interface)."""
    return GossipParams(
        d=8,
        d_low=6,
        d_high=12,
        d_lazy=6,
        heartbeat_interval=0.7,
        fanout_ttl=60.0,
        history_length=6,
        history_gossip=3,
        seen_ttl=768.0,  # SECONDS_PER_SLOT * SLOTS_PER_EPOCH * 2
        max_rpc_size=12_234_442,  # max_message_size()
        max_message_size=12_233_418,  # max_compressed_len(MAX_PAYLOAD_SIZE)
        message_id_bytes=20,
        queue_bytes=32 * _MIB,  # two of the largest messages at once
        pending_validation_bytes=64 * _MIB,
    )


def score_parameter_decay(seconds: float, decay_interval: float = 1.0, decay_to_zero: float = 0.01) -> float:
    """The factor that takes a counter of 1 to `decay_to_zero` in `seconds`, applied every `decay_interval` seconds.

    Raises `ValueError` when there is none between 0 and 1.
    """
    _require("seconds", seconds, isfinite(seconds) and seconds > 0, "above 0")
    _require("decay_interval", decay_interval, 0 < decay_interval <= seconds, f"above 0 and at most {seconds}")
    _require("decay_to_zero", decay_to_zero, 0 < decay_to_zero < 1, "between 0 and 1")
    return float(decay_to_zero ** (decay_interval / seconds))


@dataclass(frozen=True, slots=True)
class TopicScoreParams:
    """How a peer is scored in one topic (P1 to P4). Checked together with its topic: by `ScoreParams` and `ScoreBook`.

    The defaults fit a topic of any rate: P3 and P3b, which need to know how much to expect, are off.
    """

    topic_weight: float = 1.0  # TopicWeight: how much the topic counts in the sum
    # P1, time in the mesh: a small bonus for staying.
    time_in_mesh_weight: float = 0.01  # TimeInMeshWeight, >= 0
    time_in_mesh_quantum: float = 1.0  # TimeInMeshQuantum: seconds for one point
    time_in_mesh_cap: float = 300.0  # TimeInMeshCap: points at most: a sybil that only waits earns no more
    # P2, first deliveries: who brings news early is worth keeping.
    first_message_deliveries_weight: float = 1.0  # FirstMessageDeliveriesWeight, >= 0
    first_message_deliveries_decay: float = 0.99  # FirstMessageDeliveriesDecay
    first_message_deliveries_cap: float = 20.0  # FirstMessageDeliveriesCap: messages counted at most: no stock of merit
    # P3, too few deliveries in the mesh: who takes a place there and forwards nothing (eclipse, covert flash).
    mesh_message_deliveries_weight: float = 0.0  # MeshMessageDeliveriesWeight, <= 0
    mesh_message_deliveries_decay: float = 0.97  # MeshMessageDeliveriesDecay
    mesh_message_deliveries_cap: float = 100.0  # MeshMessageDeliveriesCap: messages counted at most
    mesh_message_deliveries_threshold: float = 20.0  # MeshMessageDeliveriesThreshold: fewer are a deficit
    mesh_message_deliveries_activation: float = 30.0  # MeshMessageDeliveriesActivation: seconds in the mesh without P3
    mesh_message_delivery_window: float = 0.01  # MeshMessageDeliveryWindow: a copy so soon counts too; not our own echo
    # P3b, the deficit at the time of a prune: leaving the mesh does not clear it.
    mesh_failure_penalty_weight: float = 0.0  # MeshFailurePenaltyWeight, <= 0
    mesh_failure_penalty_decay: float = 0.97  # MeshFailurePenaltyDecay
    # P4, messages that were rejected.
    invalid_message_deliveries_weight: float = -10.0  # InvalidMessageDeliveriesWeight, <= 0
    invalid_message_deliveries_decay: float = 0.99  # InvalidMessageDeliveriesDecay

    def check(self, topic: str) -> None:
        """Raises `ValueError` that names the bad field and the topic."""
        where = f" of topic {printable(topic)}"
        _numbers(self, where)
        for name in ("topic_weight", "time_in_mesh_weight", "first_message_deliveries_weight"):
            _require(name + where, getattr(self, name), getattr(self, name) >= 0, "positive (a reward) or 0 (off)")
        for name in _PENALTIES:
            _require(name + where, getattr(self, name), getattr(self, name) <= 0, "negative (a penalty) or 0 (off)")
        for name in _DECAYS:
            _require(name + where, getattr(self, name), 0 < getattr(self, name) < 1, "between 0 and 1")
        for name in _ABOVE_ZERO:
            _require(name + where, getattr(self, name), getattr(self, name) > 0, "above 0")
        for name in ("mesh_message_deliveries_activation", "mesh_message_delivery_window"):
            _require(name + where, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        cap, threshold = self.mesh_message_deliveries_cap, self.mesh_message_deliveries_threshold
        if self.mesh_message_deliveries_weight or self.mesh_failure_penalty_weight:  # else nobody could ever reach it
            rule = f"at least mesh_message_deliveries_threshold ({threshold})"
            _require("mesh_message_deliveries_cap" + where, cap, cap >= threshold, rule)


_PENALTIES: Final = (
    "mesh_message_deliveries_weight",
    "mesh_failure_penalty_weight",
    "invalid_message_deliveries_weight",
)
_DECAYS: Final = (
    "first_message_deliveries_decay",
    "mesh_message_deliveries_decay",
    "mesh_failure_penalty_decay",
    "invalid_message_deliveries_decay",
)
_ABOVE_ZERO: Final = (
    *("time_in_mesh_quantum", "time_in_mesh_cap", "first_message_deliveries_cap"),
    *("mesh_message_deliveries_cap", "mesh_message_deliveries_threshold"),
)


@dataclass(frozen=True, slots=True)
class ScoreParams:
    """How peers are scored: the topics, and what counts for a peer as a whole (P5 to P7)."""

    topics: Mapping[str, TopicScoreParams] = field(default_factory=dict)  # any other topic contributes nothing
    topic_score_cap: float = 0.0  # TopicScoreCap: merit of all topics at most, 0 no cap: it must not outweigh misdeeds
    # P5, what the application says.
    app_specific_weight: float = 1.0  # AppSpecificWeight, >= 0
    # P6, peers that share an IPv4 address or an IPv6 /64: sybils from few machines.
    ip_colocation_weight: float = -10.0  # IPColocationFactorWeight, <= 0
    ip_colocation_threshold: int = 10  # IPColocationFactorThreshold: so many may share one (a NAT)
    ip_colocation_whitelist: tuple[IPNetwork, ...] = _LOOPBACK  # free of P6
    # P7, misbehaviour: a GRAFT in backoff, broken promises, malformed RPCs.
    behaviour_penalty_weight: float = -10.0  # BehaviourPenaltyWeight, <= 0
    behaviour_penalty_threshold: float = 2.0  # BehaviourPenaltyThreshold (go): accidents of timing are forgiven
    behaviour_penalty_decay: float = 0.98  # BehaviourPenaltyDecay
    # Forgetting.
    decay_interval: float = 1.0  # DecayInterval: seconds from one decay of all counters to the next
    decay_to_zero: float = 0.01  # DecayToZero: a counter below is 0
    retain_score: float = 3600.0  # RetainScore: seconds that a bad score outlives the connection: it is not washed off
    seen_message_ttl: float = 120.0  # SeenMsgTTL: seconds that copies of a rejected message are still blamed (go)
    # Memory. The oldest goes first.
    max_retained: int = 4096  # peers remembered after they went: fresh ids that misbehave once each
    max_deliveries: int = 65_536  # messages whose copies are watched: a flood of unique ones

    def __post_init__(self) -> None:
        _numbers(self)
        for topic, params in self.topics.items():
            params.check(topic)
        _require("topic_score_cap", self.topic_score_cap, self.topic_score_cap >= 0, "positive or 0 (no cap)")
        weight = self.app_specific_weight
        _require("app_specific_weight", weight, weight >= 0, "positive or 0 (off)")
        for name in ("ip_colocation_weight", "behaviour_penalty_weight"):
            _require(name, getattr(self, name), getattr(self, name) <= 0, "negative (a penalty) or 0 (off)")
        for network in self.ip_colocation_whitelist:
            valid = isinstance(network, IPv4Network | IPv6Network)
            _require("ip_colocation_whitelist", repr(network), valid, "a tuple of IPv4Network and IPv6Network")
        sharing = self.ip_colocation_threshold
        _require("ip_colocation_threshold", sharing, sharing >= 1, "at least 1")
        for name in ("behaviour_penalty_decay", "decay_to_zero"):
            _require(name, getattr(self, name), 0 < getattr(self, name) < 1, "between 0 and 1")
        for name in ("behaviour_penalty_threshold", "retain_score", "max_retained"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        for name in ("decay_interval", "seen_message_ttl", "max_deliveries"):
            _require(name, getattr(self, name), getattr(self, name) > 0, "above 0")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a peer may still do with a low score, and what it takes a high one for."""

    gossip: float = -50.0  # GossipThreshold: below, no gossip to or from the peer; < 0
    publish: float = -100.0  # PublishThreshold: below, it gets no messages of our own; <= gossip
    graylist: float = -200.0  # GraylistThreshold: below, whatever it says is ignored; < publish
    accept_px: float = 10.0  # AcceptPXThreshold: from here we take the peers it offers: only the trusted; >= 0
    opportunistic_graft: float = 1.0  # OpportunisticGraftThreshold: a mesh with a lower median gets better peers; >= 0

    def __post_init__(self) -> None:
        _numbers(self)
        _require("gossip", self.gossip, self.gossip < 0, "negative: new peers have 0")
        _require("publish", self.publish, self.publish <= self.gossip, f"at most gossip ({self.gossip})")
        _require("graylist", self.graylist, self.graylist < self.publish, f"below publish ({self.publish})")
        for name in ("accept_px", "opportunistic_graft"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
