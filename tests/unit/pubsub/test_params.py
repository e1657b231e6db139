"""Parameters of gossipsub: defaults, the eth2 profile, and that a bad field is named."""

from dataclasses import FrozenInstanceError, fields, replace
from math import inf, nan

import pytest

from pyp2p.pubsub.params import (
    GossipParams,
    ScoreParams,
    Thresholds,
    TopicScoreParams,
    eth2_params,
    score_parameter_decay,
)

SPEC = {"d": 6, "d_low": 4, "d_high": 12, "d_lazy": 6, "d_out": 2, "history_length": 5, "history_gossip": 3}
ETH2 = {
    **{"d": 8, "d_low": 6, "d_high": 12, "d_lazy": 6, "heartbeat_interval": 0.7, "fanout_ttl": 60},
    **{"history_length": 6, "history_gossip": 3, "seen_ttl": 768, "max_rpc_size": 12_234_442},
}


def test_defaults_are_valid_and_those_of_the_spec():
    params = GossipParams()
    assert {name: getattr(params, name) for name in SPEC} == SPEC
    assert (params.heartbeat_interval, params.fanout_ttl, params.seen_ttl) == (1, 60, 120)
    assert (params.prune_backoff, params.unsubscribe_backoff, params.gossip_factor) == (60, 10, 0.25)
    Thresholds()
    ScoreParams(topics={"t": TopicScoreParams()})


def test_eth2_profile():
    params = eth2_params()
    assert {name: getattr(params, name) for name in ETH2} == ETH2
    assert params.max_message_size == 32 + 10_485_760 + 10_485_760 // 6
    assert params.max_message_size < params.max_rpc_size


@pytest.mark.parametrize("value", [GossipParams(), ScoreParams(), Thresholds(), TopicScoreParams()])
def test_frozen_and_without_dict(value):
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, 1)
    assert not hasattr(value, "__dict__")


GOSSIP_REFUSED = [
    ("d_low", {"d_low": 7}),
    ("d", {"d": 13}),
    ("d_score", {"d_score": 13}),
    ("d_out", {"d_out": 4}),
    ("d_out", {"d_out": 3, "d_low": 3}),
    ("d_out", {"d": 5, "d_low": 5, "d_out": 3}),
    ("d_lazy", {"d_lazy": -1}),
    ("d_low", {"d_low": -1, "d_out": 0}),
    ("heartbeat_interval", {"heartbeat_interval": 0.0}),
    ("heartbeat_interval", {"heartbeat_interval": nan}),
    ("heartbeat_initial_delay", {"heartbeat_initial_delay": -0.1}),
    ("fanout_ttl", {"fanout_ttl": 0.0}),
    ("fanout_ttl", {"fanout_ttl": inf}),
    ("seen_ttl", {"seen_ttl": 4.0}),
    ("seen_ttl", {"heartbeat_interval": 30.0}),
    ("history_length", {"history_length": 0, "history_gossip": 0}),
    ("history_gossip", {"history_gossip": 6}),
    ("gossip_factor", {"gossip_factor": 1.1}),
    ("gossip_factor", {"gossip_factor": -0.1}),
    ("prune_backoff", {"prune_backoff": 3601.0}),
    ("prune_backoff", {"prune_backoff": 0.0}),
    ("unsubscribe_backoff", {"unsubscribe_backoff": 3601.0}),
    ("graft_flood_threshold", {"graft_flood_threshold": -1.0}),
    ("opportunistic_graft_ticks", {"opportunistic_graft_ticks": 0}),
    ("opportunistic_graft_peers", {"opportunistic_graft_peers": -1}),
    ("direct_connect_ticks", {"direct_connect_ticks": 0}),
    ("gossip_retransmission", {"gossip_retransmission": -1}),
    ("max_ihave_ids", {"max_ihave_ids": -1}),
    ("max_ihave_messages", {"max_ihave_messages": -1}),
    ("iwant_followup", {"iwant_followup": 0.0}),
    ("idontwant_threshold", {"idontwant_threshold": -1}),
    ("max_idontwant_messages", {"max_idontwant_messages": -1}),
    ("idontwant_ttl", {"idontwant_ttl": 0}),
    ("max_topics_per_peer", {"max_topics_per_peer": 0}),
    ("max_rpc_size", {"max_rpc_size": 0}),
    ("max_message_size", {"max_message_size": 4 * 1024 * 1024 + 1}),
    ("max_message_size", {"max_message_size": 0}),
    ("seen_bytes", {"seen_bytes": 0}),
    ("mcache_bytes", {"mcache_bytes": 0}),
    ("pending_validation_bytes", {"pending_validation_bytes": 0}),
    ("publish_timeout", {"publish_timeout": -1.0}),
]
TOPIC_REFUSED = [
    *((name, value) for name in ("topic_weight", "time_in_mesh_weight") for value in (-0.1, nan, inf)),
    ("first_message_deliveries_weight", -1.0),
    ("mesh_message_deliveries_weight", 1.0),
    ("mesh_failure_penalty_weight", 0.5),
    ("invalid_message_deliveries_weight", 1.0),
    ("invalid_message_deliveries_weight", -inf),
    *(
        (name, value)
        for name in (
            *("first_message_deliveries_decay", "mesh_message_deliveries_decay"),
            *("mesh_failure_penalty_decay", "invalid_message_deliveries_decay"),
        )
        for value in (0.0, 1.0, -0.5, 1.5, nan)
    ),
    *((name, value) for name in ("time_in_mesh_quantum", "time_in_mesh_cap") for value in (0.0, -1.0)),
    ("first_message_deliveries_cap", 0.0),
    ("mesh_message_deliveries_cap", 0.0),
    ("mesh_message_deliveries_threshold", 0.0),
    ("mesh_message_deliveries_activation", -1.0),
    ("mesh_message_delivery_window", -0.001),
]
SCORE_REFUSED = [
    ("topic_score_cap", -1.0),
    ("app_specific_weight", -1.0),
    ("ip_colocation_weight", 1.0),
    ("ip_colocation_threshold", 0),
    ("behaviour_penalty_weight", 1.0),
    ("behaviour_penalty_threshold", -1.0),
    ("behaviour_penalty_decay", 1.0),
    ("behaviour_penalty_decay", 0.0),
    ("decay_interval", 0.0),
    ("decay_to_zero", 0.0),
    ("decay_to_zero", 1.0),
    ("retain_score", -1.0),
    ("retain_score", nan),
    ("seen_message_ttl", 0.0),
    ("max_retained", -1),
    ("max_deliveries", 0),
]
THRESHOLDS_REFUSED = [
    ("gossip", {"gossip": 0.0}),
    ("publish", {"publish": -49.0}),
    ("graylist", {"graylist": -100.0}),
    ("graylist", {"graylist": -inf}),
    ("accept_px", {"accept_px": -1.0}),
    ("opportunistic_graft", {"opportunistic_graft": -1.0}),
]


def named(raised: pytest.ExceptionInfo[ValueError]) -> list[str]:
    """The words of the error: the field is the first."""
    return str(raised.value).split()


@pytest.mark.parametrize(("field", "changes"), GOSSIP_REFUSED)
def test_bad_gossip_field_is_named(field, changes):
    with pytest.raises(ValueError) as raised:
        GossipParams(**changes)
    assert named(raised)[0] == field


@pytest.mark.parametrize(("field", "value"), TOPIC_REFUSED)
def test_bad_topic_field_is_named_with_its_topic(field, value):
    with pytest.raises(ValueError) as raised:
        ScoreParams(topics={"fine": TopicScoreParams(), "beacon_block": TopicScoreParams(**{field: value})})
    assert named(raised)[:4] == [field, "of", "topic", "beacon_block"]


@pytest.mark.parametrize("weight", ["mesh_message_deliveries_weight", "mesh_failure_penalty_weight"])
def test_cap_of_deliveries_below_the_threshold(weight):
    bad = TopicScoreParams(mesh_message_deliveries_cap=5.0, mesh_message_deliveries_threshold=6.0)
    bad.check("off: nobody loses by it")
    with pytest.raises(ValueError) as raised:
        replace(bad, **{weight: -1.0}).check("t")
    assert named(raised)[0] == "mesh_message_deliveries_cap"


@pytest.mark.parametrize(("field", "value"), SCORE_REFUSED)
def test_bad_score_field_is_named(field, value):
    with pytest.raises(ValueError) as raised:
        ScoreParams(**{field: value})
    assert named(raised)[0] == field


@pytest.mark.parametrize(("field", "changes"), THRESHOLDS_REFUSED)
def test_bad_threshold_is_named(field, changes):
    with pytest.raises(ValueError) as raised:
        Thresholds(**changes)
    assert named(raised)[0] == field


def test_every_weight_may_be_off():
    off = {each.name: 0.0 for each in fields(TopicScoreParams) if each.name.endswith("_weight")}
    assert len(off) == 6
    topics = {"t": TopicScoreParams(**off)}
    ScoreParams(topics=topics, app_specific_weight=0.0, ip_colocation_weight=0.0, behaviour_penalty_weight=0.0)


def test_limits_that_still_hold():
    GossipParams(d=4, d_low=4, d_high=4, d_score=4, d_out=2)
    GossipParams(d=0, d_low=0, d_high=0, d_score=0, d_out=0, d_lazy=0)  # gossip alone, or nothing
    GossipParams(history_length=3, history_gossip=3, seen_ttl=3.0, max_message_size=4 * 1024 * 1024)
    Thresholds(gossip=-1.0, publish=-1.0, graylist=-1.5, accept_px=0.0, opportunistic_graft=0.0)


@pytest.mark.parametrize(("seconds", "interval", "zero"), [(100.0, 1.0, 0.01), (3600.0, 12.0, 0.01), (12.0, 12.0, 0.1)])
def test_decay_factor_reaches_zero_in_time(seconds, interval, zero):
    factor = score_parameter_decay(seconds, interval, zero)
    assert 0 < factor < 1
    assert factor ** (seconds / interval) == pytest.approx(zero)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("seconds", (0.0, 1.0, 0.01)),
        ("seconds", (nan, 1.0, 0.01)),
        ("decay_interval", (10.0, 11.0, 0.01)),
        ("decay_interval", (10.0, 0.0, 0.01)),
        ("decay_to_zero", (10.0, 1.0, 0.0)),
        ("decay_to_zero", (10.0, 1.0, 1.0)),
    ],
)
def test_decay_factor_that_does_not_exist(field, arguments):
    with pytest.raises(ValueError) as raised:
        score_parameter_decay(*arguments)
    assert named(raised)[0] == field
