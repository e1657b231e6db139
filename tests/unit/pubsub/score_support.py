"""The parameters of the score vectors, some peers, and a script of events to play to a score book."""

from collections.abc import Sequence
from dataclasses import replace

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.params import ScoreParams, TopicScoreParams
from pyp2p.pubsub.score import ScoreBook
from tests.vectors import load

VECTORS = load("gossipsub_score")
TOPIC = "topic"
PEERS = [PeerId(b"\x12\x20" + bytes([number]) * 32) for number in range(12)]
A, B, C, D = PEERS[:4]
T0 = 1000.0

_GIVEN = VECTORS["topic_params"]
PARAMS = TopicScoreParams(
    topic_weight=_GIVEN["TopicWeight"],
    time_in_mesh_weight=_GIVEN["TimeInMeshWeight"],
    time_in_mesh_quantum=_GIVEN["TimeInMeshQuantum"],
    time_in_mesh_cap=_GIVEN["TimeInMeshCap"],
    first_message_deliveries_weight=_GIVEN["FirstMessageDeliveriesWeight"],
    first_message_deliveries_decay=_GIVEN["FirstMessageDeliveriesDecay"],
    first_message_deliveries_cap=_GIVEN["FirstMessageDeliveriesCap"],
    mesh_message_deliveries_weight=_GIVEN["MeshMessageDeliveriesWeight"],
    mesh_message_deliveries_decay=_GIVEN["MeshMessageDeliveriesDecay"],
    mesh_message_deliveries_cap=_GIVEN["MeshMessageDeliveriesCap"],
    mesh_message_deliveries_threshold=_GIVEN["MeshMessageDeliveriesThreshold"],
    mesh_message_deliveries_activation=_GIVEN["MeshMessageDeliveriesActivation"],
    mesh_message_delivery_window=_GIVEN["MeshMessageDeliveryWindow"],
    mesh_failure_penalty_weight=_GIVEN["MeshFailurePenaltyWeight"],
    mesh_failure_penalty_decay=_GIVEN["MeshFailurePenaltyDecay"],
    invalid_message_deliveries_weight=_GIVEN["InvalidMessageDeliveriesWeight"],
    invalid_message_deliveries_decay=_GIVEN["InvalidMessageDeliveriesDecay"],
)
_GIVEN = VECTORS["global_params"]
SCORE = ScoreParams(
    topics={TOPIC: PARAMS},
    topic_score_cap=_GIVEN["TopicScoreCap"],
    app_specific_weight=_GIVEN["AppSpecificWeight"],
    ip_colocation_weight=_GIVEN["IPColocationFactorWeight"],
    ip_colocation_threshold=_GIVEN["IPColocationFactorThreshold"],
    behaviour_penalty_weight=_GIVEN["BehaviourPenaltyWeight"],
    behaviour_penalty_threshold=_GIVEN["BehaviourPenaltyThreshold"],
    behaviour_penalty_decay=_GIVEN["BehaviourPenaltyDecay"],
    decay_to_zero=_GIVEN["DecayToZero"],
    decay_interval=1.0,
    retain_score=100.0,
)
WINDOW, ACTIVATION = PARAMS.mesh_message_delivery_window, PARAMS.mesh_message_deliveries_activation


def with_topic(**changes: float) -> ScoreParams:
    return replace(SCORE, topics={TOPIC: replace(PARAMS, **changes)})


class Script:
    """A book with some peers and a clock, so that a test reads as a list of events."""

    def __init__(self, params: ScoreParams | None = SCORE, peers: Sequence[PeerId] = (A, B, C), mesh: bool = True):
        self.book = ScoreBook(params)
        self.now = T0
        self.ids = 0
        for peer in peers:
            self.book.peer_up(peer, [], self.now)
            if mesh:
                self.book.grafted(peer, TOPIC, self.now)

    def message(self) -> bytes:
        self.ids += 1
        return self.ids.to_bytes(20, "big")

    def begin(self, peer: PeerId, topic: str = TOPIC) -> bytes:
        message_id = self.message()
        self.book.begin(message_id, topic, peer, self.now)
        return message_id

    def deliver(self, peer: PeerId, count: int = 1, topic: str = TOPIC) -> bytes:
        """`peer` brings good messages first."""
        for _ in range(count):
            message_id = self.begin(peer, topic)
            self.book.accepted(message_id, topic, peer, self.now)
        return message_id

    def beat(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += 1.0
            self.book.decay(self.now)

    def topic(self, peer: PeerId, topic: str = TOPIC) -> tuple[float, float, float, float, float]:
        """P1 to P4 of a peer."""
        parts = self.book.components(peer).topics.get(topic)
        return (0.0,) * 5 if parts is None else (parts.p1, parts.p2, parts.p3, parts.p3b, parts.p4)

    def near_first(self, peer: PeerId) -> float:
        """The P3 counter of a peer: no value shows it before activation or over the threshold."""
        counters = self.book._peers[peer].topics.get(TOPIC)
        return 0.0 if counters is None else counters.deliveries
