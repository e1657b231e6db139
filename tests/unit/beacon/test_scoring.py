"""What gossip is worth: bad messages cost the same on every topic, good ones never make up for many."""

import pytest

from pyp2p.beacon.scoring import score_params, topic_score
from pyp2p.beacon.topics import GOSSIP_TYPES, Topic
from pyp2p.pubsub.params import Thresholds

TOPICS = {name: Topic(b"abcd", kind, 0 if kind.subnets else None) for name, kind in GOSSIP_TYPES.items()}


@pytest.mark.parametrize("name", TOPICS)
def test_one_rejected_message_is_an_accident_two_stop_gossip_three_end_it(name: str) -> None:
    params, limits = topic_score(TOPICS[name]), Thresholds()
    one, two, three = (params.topic_weight * params.invalid_message_deliveries_weight * n * n for n in (1, 2, 3))
    assert one == pytest.approx(-25)
    assert one > limits.gossip
    assert two <= limits.gossip
    assert three <= limits.graylist


@pytest.mark.parametrize("name", TOPICS)
def test_all_subnets_together_weigh_as_much_as_one_topic(name: str) -> None:
    kind = GOSSIP_TYPES[name]
    assert 0.04 < topic_score(TOPICS[name]).topic_weight * max(kind.subnets, 1) <= 1.0


def test_too_few_messages_cost_nothing() -> None:
    for topic in TOPICS.values():
        assert topic_score(topic).mesh_message_deliveries_weight == 0


def test_good_deeds_are_capped_below_what_two_bad_messages_cost() -> None:
    assert 0 < score_params().topic_score_cap < 100
