"""How gossip peers are scored on the beacon chain: what each type of message is worth, and what a bad one costs.

Rules: pure. Weights follow how much the chain needs a type, so that subnets together weigh as much as one topic; a
rejected message costs the same on all of them: one is an accident that takes merit away, two stop gossip, three or more
end it. P3 (too few deliveries) stays off: how many messages to expect depends on the size of a network.
"""

from __future__ import annotations

from typing import Final

from pyp2p.beacon.topics import Topic
from pyp2p.pubsub.params import ScoreParams, TopicScoreParams, score_parameter_decay

_WEIGHTS: Final = {
    "beacon_block": 0.5,
    "beacon_aggregate_and_proof": 0.5,
    "beacon_attestation": 1.0,
    "blob_sidecar": 0.5,
    "data_column_sidecar": 0.5,
    "sync_committee": 0.2,
    "sync_committee_contribution_and_proof": 0.2,
}
_RARE: Final = 0.05  # exits, slashings, changes, light clients
_INVALID: Final = -25.0  # one rejected message, before squares: two are -100
_REMEMBERED: Final = 32 * 12 * 50.0  # seconds until a rejected message is forgotten: 50 epochs of mainnet
_RECENT: Final = 32 * 12.0  # seconds that news which a peer brought first counts for it


def topic_score(topic: Topic) -> TopicScoreParams:
    """The parameters of one topic."""
    weight = _WEIGHTS.get(topic.type.name, _RARE) / max(topic.type.subnets, 1)
    return TopicScoreParams(
        topic_weight=weight,
        first_message_deliveries_decay=score_parameter_decay(_RECENT),
        invalid_message_deliveries_weight=_INVALID / weight,
        invalid_message_deliveries_decay=score_parameter_decay(_REMEMBERED),
    )


def score_params() -> ScoreParams:
    """The parameters of a peer as a whole; topics are added as they are followed."""
    return ScoreParams(topic_score_cap=30.0, behaviour_penalty_decay=score_parameter_decay(_RECENT))
