"""The router as a script: what it is told, what it sends, whom it keeps."""

import random
from dataclasses import replace

import pytest

from pyp2p.errors import AlreadyPublished, LocalProtocolError, MessageTooLarge, NobodyListens
from pyp2p.peer.keys import Identity
from pyp2p.pubsub.params import ScoreParams, TopicScoreParams
from pyp2p.pubsub.signing import StrictNoSign, StrictSign
from pyp2p.pubsub.types import Deliver, Kind, Lane, Prune, Send, Verdict
from tests.unit.pubsub.router_support import TOPIC, Connect, Script, Unwanted, Validate, peer

TEN = range(10)
SCORED = ScoreParams(topics={TOPIC: TopicScoreParams()})


def raw(payload: bytes, topic: str = TOPIC) -> bytes:
    return StrictNoSign().build(topic, payload, 0).raw


def subscribed(**options) -> Script:
    script = Script(**options)
    script.router.subscribe(TOPIC, 0.0)
    return script


# ---- subscriptions and meshes


def test_a_new_peer_is_told_all_topics_and_everybody_is_told_changes() -> None:
    script = subscribed()
    script.router.subscribe("u", 0.0)
    script.router.subscribe("u", 0.0)
    script.up("a")
    assert script.sent()["a"].subscriptions == [(True, TOPIC), (True, "u")]
    script.router.unsubscribe("u", 0.0)
    script.router.unsubscribe("u", 0.0)
    assert script.sent()["a"].subscriptions == [(False, "u")]
    with pytest.raises(LocalProtocolError):
        script.router.subscribe("", 0.0)
    assert list(script.router.mesh.topics) == [TOPIC]


def test_joining_grafts_and_leaving_prunes_with_the_short_backoff() -> None:
    script = Script()
    script.up(*TEN)
    script.sent()
    script.router.subscribe(TOPIC, 0.0)
    grafted = {name for name, rpc in script.sent().items() if rpc.graft}
    assert len(grafted) == 6
    assert set(script.mesh()) == grafted
    script.router.unsubscribe(TOPIC, 1.0)
    assert {name: rpc.prune for name, rpc in script.sent().items() if rpc.prune} == {
        name: [Prune(TOPIC, [], 10)] for name in grafted
    }
    script.router.subscribe(TOPIC, 2.0)
    assert not grafted & set(script.mesh())  # not whom we have just left


def test_a_thin_mesh_is_filled_and_a_thick_one_thinned_out() -> None:
    script = subscribed()
    script.up(*range(3))
    script.beats()
    assert len(script.mesh()) == 3
    script.up(*range(3, 30))
    script.beats()
    assert len(script.mesh()) == 6
    script.up(*range(100, 110), outbound=True)
    for number in range(100, 110):  # who we dialled may come though the mesh is full
        script.says(number, graft=[TOPIC])
    assert len(script.mesh()) == 16
    script.sent()
    script.beats()
    assert len(script.mesh()) == 6
    pruned = [rpc.prune for rpc in script.sent().values() if rpc.prune]
    assert [prune[0].backoff for prune in pruned] == [60] * 10


def test_the_best_stay_and_so_do_some_that_we_dialled() -> None:
    script = subscribed()
    script.up(*range(12))
    script.up("out 1", "out 2", "out 3", outbound=True)
    script.worth(50.0, 1, 2, 3, 4)
    for name in (*range(12), "out 1", "out 2", "out 3"):
        script.says(name, graft=[TOPIC])
    assert len(script.mesh()) == 15
    script.beats()
    assert {"1", "2", "3", "4"} <= set(script.mesh())
    assert len({"out 1", "out 2", "out 3"} & set(script.mesh())) == 2  # D_out
    assert len(script.mesh()) == 6


def test_a_mesh_without_any_that_we_dialled_gets_some() -> None:
    script = subscribed()
    script.up(*range(6))
    script.beats()
    assert len(script.mesh()) == 6
    script.up("out 1", "out 2", "out 3", outbound=True)
    script.beats()
    assert len(script.mesh()) == 8


def test_who_falls_below_zero_is_pruned_and_offered_nobody() -> None:
    script = subscribed(do_px=True)
    script.up(*range(8))
    script.beats()
    bad, good = script.mesh()[:2], script.mesh()[2:]
    script.worth(-1.0, *bad)
    script.sent()
    script.beats()
    said = script.sent()
    assert {name: said[name].prune for name in bad} == {name: [Prune(TOPIC, [], 60)] for name in bad}
    assert set(good) <= set(script.mesh())
    script.worth(0.0, *bad)
    script.beats(60)  # the backoff, which is 60, has not ended for us until a heartbeat after it
    assert not {name for name, rpc in script.sent().items() if rpc.graft and name in bad}


def test_a_mesh_of_mediocre_peers_gets_better_ones_once_a_minute() -> None:
    script = subscribed()
    script.up(*range(6), outbound=True)
    script.beats()
    script.up("good 1", "good 2", "good 3")
    script.worth(5.0, "good 1", "good 2", "good 3")
    script.beats(58)
    assert len(script.mesh()) == 6
    script.beats()
    assert len([name for name in script.mesh() if name.startswith("good")]) == 2


GRAFTS = {
    "welcome": (lambda script: None, True),
    "in the mesh already": (lambda script: script.says("x", graft=[TOPIC]), True),
    "inside a backoff": (lambda script: script.says("x", prune=[Prune(TOPIC, [], 60)]), False),
    "badly scored": (lambda script: script.worth(-1.0, "x"), False),
    "an explicit peer": (lambda script: script.router.table.up(peer("x"), Kind.GOSSIP_1_2, False, True), False),
    "a full mesh": (lambda script: [script.says(n, graft=[TOPIC]) for n in range(12)], False),
}


@pytest.mark.parametrize("name", GRAFTS)
def test_a_graft_is_taken_or_answered_with_a_prune(name: str) -> None:
    before, taken = GRAFTS[name]
    script = subscribed()
    script.up("x", *range(12))
    before(script)
    script.sent()
    script.says("x", graft=[TOPIC])
    assert ("x" in script.mesh()) is taken
    answer = script.sent().get("x")
    assert (answer is not None and answer.prune == [Prune(TOPIC, [], 60)]) is not taken


def test_grafting_in_the_backoff_counts_and_so_soon_it_counts_twice() -> None:
    script = subscribed()
    script.up("x")
    script.says("x", prune=[Prune(TOPIC, [], 60)])
    standing = script.router.score._peers[peer("x")]
    script.now = 9.0
    script.says("x", graft=[TOPIC])
    assert standing.behaviour == 2
    assert script.router.mesh.backoffs.until(TOPIC, peer("x")) == 69.0
    script.now = 68.0
    script.says("x", graft=[TOPIC])
    assert standing.behaviour == 3
    script.now = 128.0  # the backoff that this began has ended
    script.says("x", graft=[TOPIC])
    assert standing.behaviour == 3


def test_we_wait_out_a_backoff_and_a_heartbeat_more() -> None:
    script = subscribed()
    script.up("x")
    script.beats()
    assert script.mesh() == ["x"]
    script.says("x", prune=[Prune(TOPIC, [], 10)])
    script.beats(10)
    assert script.mesh() == []
    script.beats()
    assert script.mesh() == ["x"]


def test_a_topic_that_we_only_publish_to_has_a_fan_out_for_a_minute() -> None:
    script = Script(flood_publish=False)
    script.up(*TEN, topics="u")
    first = set(script.publish(b"1", "u").peers)
    assert len(first) == 6
    assert set(script.publish(b"2", "u").peers) == first
    gone = sorted(first, key=lambda p: p.raw)[:2]
    script.points.update(dict.fromkeys(gone, -150.0))  # too bad to publish to
    script.beats()
    second = set(script.publish(b"3", "u").peers)
    assert len(second) == 6
    assert not set(gone) & second
    script.router.subscribe("u", script.now)
    assert set(script.router.mesh.peers("u")) <= second
    script.router.unsubscribe("u", script.now)
    script.publish(b"4", "u")
    script.beats(61)
    assert script.router.mesh.fanout == {}


# ---- our own messages


def test_who_gets_what_we_publish() -> None:
    script = subscribed(flood_publish=False)
    script.router.direct[peer("friend")] = None
    script.up(*TEN)
    script.up("friend")
    script.up("old", kind=Kind.FLOODSUB)
    script.up("elsewhere", topics="u")
    script.beats()
    script.sent()
    made = script.publish(b"hello")
    (send,) = [effect for effect in script.done() if type(effect) is Send]  # encoded once, whatever the fan-out
    assert (send.lane, send.message_id) == (Lane.OWN, made.message.id)
    assert set(send.peers) == set(made.peers) == {*map(peer, script.mesh()), peer("friend"), peer("old")}


def test_flood_publish_reaches_all_who_are_good_enough() -> None:
    script = subscribed()
    script.up(*TEN)
    script.worth(-99.0, 1)
    script.worth(-101.0, 2)
    script.beats()
    assert set(script.publish(b"x").peers) == {peer(n) for n in TEN if n != 2}


def test_what_cannot_be_published_leaves_nothing() -> None:
    script = subscribed(max_message_size=100)
    with pytest.raises(NobodyListens):
        script.publish(b"too early")
    script.up("a")
    with pytest.raises(MessageTooLarge):
        script.publish(bytes(101))
    script.done()
    assert len(script.router.seen) == len(script.router.cache) == 0
    assert script.publish(b"too early").peers == [peer("a")]
    with pytest.raises(AlreadyPublished):
        script.publish(b"too early")
    assert script.count("published") == script.count("published before") == script.count("nobody listens") == 1


# ---- messages of others


def test_a_message_is_delivered_and_forwarded_to_the_mesh_but_not_back() -> None:
    script = subscribed()
    script.up(*range(6))
    script.beats()
    script.sent()
    script.says(0, publish=[raw(b"news")])
    sends = [effect for effect in script.router._out if type(effect) is Send]
    assert [set(send.peers) for send in sends] == [{peer(n) for n in range(1, 6)}]
    assert script.delivered() == [b"news"]
    script.says(1, publish=[raw(b"news")])
    assert script.done() == []
    assert script.count("duplicate") == 1


@pytest.mark.hostile
def test_hostile_069_a_forged_copy_first_does_not_suppress_the_true_one() -> None:
    script = subscribed(signed=True, score=SCORED)
    author = Script(signed=True)
    author.up("a")
    true = author.publish(b"signed").message.raw
    forged = true.replace(b"signed", b"forged")
    script.up("bad", "good")
    script.says("bad", publish=[forged])
    assert script.delivered() == []
    assert script.count("rejected") == 1
    assert script.router.score.components(peer("bad")).topics[TOPIC].p4 == 1
    # The author is ourselves to this router (the same key): what comes back is dropped, and nobody is to blame.
    script.says("good", publish=[true])
    assert script.count("our own came back") == 1
    assert script.router.score.components(peer("good")).total == 0


def test_ids_count_as_seen_only_after_the_signature() -> None:
    other = StrictSign(Identity.generate(entropy=random.Random(2).randbytes))
    true = other.build(TOPIC, b"signed", 7).raw
    script = subscribed(signed=True)
    script.up("bad", "good")
    script.says("bad", publish=[true.replace(b"signed", b"forged")])
    script.says("good", publish=[true])
    assert script.delivered() == [b"signed"]


def test_verdicts_decide_what_happens_and_who_is_blamed() -> None:
    script = subscribed(score=SCORED)
    script.up("a", "b", "c")
    script.beats()
    script.verdicts = {b"bad": Verdict.REJECT, b"meh": Verdict.IGNORE, b"slow": None}
    for payload in (b"bad", b"meh"):
        script.says("a", publish=[raw(payload)])
    assert script.router.score.components(peer("a")).topics[TOPIC].p4 == 1
    script.says("b", publish=[raw(b"bad"), raw(b"meh")])  # a copy of what was rejected is blamed too
    assert script.router.score.components(peer("b")).topics[TOPIC].p4 == 1
    script.done()
    script.says("c", publish=[raw(b"slow")])
    (asked,) = script.of(Validate)
    script.router.validated(asked.message, Verdict.ACCEPT, script.now)
    script.router.validated(asked.message, Verdict.REJECT, script.now)
    assert script.delivered() == [b"slow"]
    assert script.count("rejected") == script.count("ignored") == 1


def test_a_graylisted_peer_is_not_heard_unless_it_is_explicit() -> None:
    script = subscribed()
    script.router.direct[peer("friend")] = None
    script.up("bad", "friend")
    script.worth(-201.0, "bad", "friend")
    script.beats()
    script.done()
    for name in ("bad", "friend"):
        script.says(name, publish=[raw(b"from " + name.encode())])
    assert script.delivered() == [b"from friend"]
    assert script.count("graylisted", "") == 1


def test_large_messages_are_announced_at_once_to_those_who_understand() -> None:
    script = subscribed()
    script.up("a", "b")
    script.up("c", kind=Kind.GOSSIP_1_1)
    script.beats()
    script.verdicts = {b"8" * 2000: None}
    script.done()
    script.says("a", publish=[raw(b"8" * 2000)])  # and not yet validated
    told = script.sent()
    assert {name for name, rpc in told.items() if rpc.idontwant} == {"b"}
    assert told["b"].idontwant == [b"8" * 8]
    script.says("a", publish=[raw(b"small")])
    assert not any(rpc.idontwant for rpc in script.sent().values())


def test_who_has_a_message_does_not_get_it() -> None:
    script = subscribed()
    script.up("a", "b", "c")
    script.beats()
    script.done()
    script.says("b", idontwant=[b"newsnews"])
    assert script.of(Unwanted) == [Unwanted(peer("b"), [b"newsnews"])]
    script.says("a", publish=[raw(b"newsnews")])
    assert [effect.peers for effect in script.done() if type(effect) is Send] == [[peer("c")]]
    script.says("c", idontwant=[b"our own!"])
    assert set(script.publish(b"our own!").peers) == {peer("a"), peer("b")}


# ---- gossip


def test_offers_go_to_those_outside_the_mesh_and_what_is_wanted_is_sent() -> None:
    script = subscribed(flood_publish=False)
    script.up(*range(20))
    script.beats()
    script.sent()
    script.publish(b"12345678")
    script.done()
    script.beats()
    offered = {name for name, rpc in script.sent().items() if rpc.ihave == [(TOPIC, [b"12345678"])]}
    assert len(offered) == 6
    assert not offered & set(script.mesh())
    outside = sorted(offered)[0]
    script.says(outside, iwant=[b"12345678"] * 5 + [b"unknown"])
    answer = [effect for effect in script.done() if type(effect) is Send]
    assert [(send.lane, send.peers) for send in answer] == [(Lane.GOSSIP, [peer(outside)])] * 3
    assert script.count("retransmissions refused") == 2
    script.beats(2)
    script.done()
    script.beats()
    assert not [name for name, rpc in script.sent().items() if rpc.ihave]


def test_a_quarter_of_many_is_told() -> None:
    script = subscribed(flood_publish=False)
    script.up(*range(86))
    script.beats()
    script.publish(b"12345678")
    script.done()
    script.beats()
    assert sum(bool(rpc.ihave) for rpc in script.sent().values()) == 20


def test_unseen_ids_are_asked_for_once_and_must_come() -> None:
    script = subscribed(score=SCORED)
    script.up("a", "b")
    script.publish(b"we have")
    script.done()
    script.says("a", ihave=[(TOPIC, [b"we have", b"new one!"]), ("other", [b"whatever"])])
    assert script.sent()["a"].iwant == [b"new one!"]
    script.now = 2.0
    script.says("b", publish=[raw(b"new one!")])  # whoever brings it keeps the promise
    script.beats(5)
    assert script.count("promise broken") == 0
    script.says("a", ihave=[(TOPIC, [b"made up!"])])
    script.beats(4)
    assert script.count("promise broken") == 1
    assert script.router.score._peers[peer("a")].behaviour > 0


def test_nothing_is_asked_of_or_told_to_the_badly_scored() -> None:
    script = subscribed(flood_publish=False)
    script.up(*range(10))
    script.beats()
    script.publish(b"12345678")
    outside = [n for n in range(10) if str(n) not in script.mesh()]
    script.worth(-60.0, *outside)
    script.done()
    script.beats()
    assert not [name for name, rpc in script.sent().items() if rpc.ihave]
    script.says(outside[0], ihave=[(TOPIC, [b"whatever"])], iwant=[b"12345678"])
    assert script.sent() == {}
    assert script.count("gossip ignored", "") == 2


# ---- peer exchange, explicit peers, extensions


def test_offered_peers_are_tried_only_for_a_trusted_peer_with_their_records() -> None:
    offers = [(peer("x").raw, b"record"), (peer("y").raw, b"")]
    for do_px, points, tried in ((True, 10.0, [peer("x").raw]), (True, 9.0, []), (False, 100.0, [])):
        script = subscribed(do_px=do_px)
        script.up("a")
        script.worth(points, "a")
        script.beats()
        script.done()
        own = (script.identity.peer.raw, b"record")
        script.says("a", prune=[Prune(TOPIC, [own, *offers], 60)])
        assert [effect.peer for effect in script.of(Connect)] == tried


def test_who_is_pruned_for_want_of_room_is_offered_others() -> None:
    script = subscribed(do_px=True)
    script.up(*range(30))
    script.worth(-1.0, 29)
    script.beats()
    for number in range(12):
        script.says(number, graft=[TOPIC])
    script.sent()
    refused = next(n for n in range(12, 28) if str(n) not in script.mesh())
    script.says(refused, graft=[TOPIC])
    (prune,) = script.sent()[str(refused)].prune
    assert len(prune.peers) == 16
    assert all(record == b"record of " + raw_id[-4:] for raw_id, record in prune.peers)
    assert peer(29).raw not in dict(prune.peers)
    assert peer(refused).raw not in dict(prune.peers)
    script.says(refused, graft=[TOPIC])  # inside the backoff that has just begun
    assert script.sent()[str(refused)].prune == [Prune(TOPIC, [], 60)]


def test_explicit_peers_are_looked_for_and_never_grafted() -> None:
    script = subscribed(direct_connect_ticks=5)
    script.router.direct[peer("friend")] = None
    script.beats()
    assert script.of(Connect) == [Connect(peer("friend").raw, b"")]
    script.up("friend")
    script.beats(20)
    assert script.of(Connect) == []
    assert script.mesh() == []


def test_extensions_are_borne_once() -> None:
    script = subscribed(score=SCORED)
    script.up("a")
    script.says("a", extensions=1)
    assert script.count("extensions twice", "") == 0
    script.says("a", extensions=1)
    assert script.count("extensions twice", "") == 1
    script.router.peer_down(peer("a"), 0.0)
    script.up("a")
    script.says("a", extensions=1)
    assert script.count("extensions twice", "") == 1


# ---- what it costs


def test_a_peer_that_is_gone_leaves_nothing_but_its_score_and_backoff() -> None:
    script = subscribed(score=SCORED)
    script.up("a", "b")
    script.beats()
    script.says("a", idontwant=[b"12345678"], ihave=[(TOPIC, [b"new one!"])], extensions=1)
    script.router.peer_down(peer("a"), script.now)
    script.router.peer_down(peer("a"), script.now)
    router = script.router
    assert script.mesh() == ["b"]
    assert peer("a") not in router.table
    assert peer("a") not in router._unwanted._peers
    assert len(router._promises) == 0
    assert router._extended == {}
    script.done()
    script.says("a", publish=[raw(b"from beyond")])
    assert script.done() == []


def test_a_message_does_not_cost_a_look_at_all_who_listen() -> None:
    looks = []
    for count in (20, 400):
        script = subscribed()
        script.up(*range(count))
        script.beats()
        before = script.looks
        script.says(0, publish=[raw(b"news")])
        looks.append(script.looks - before)
    assert looks[0] == looks[1] <= 2


def test_a_heartbeat_survives_an_hour_with_the_longest_backoff() -> None:
    script = subscribed()
    script.up("a", "b")
    script.beats()
    script.says("a", prune=[Prune(TOPIC, [], 2**64 - 1)])
    script.beats(3600)
    assert script.mesh() == ["b"]
    script.beats(2)
    assert script.mesh() == ["a", "b"]


def test_late_heartbeats_are_not_made_up_for() -> None:
    script = subscribed(score=replace(SCORED, retain_score=10.0))
    script.up("a")
    script.beats()
    script.now += 3600
    script.beats()
    assert script.mesh() == ["a"]
    assert [type(effect) for effect in script.done() if type(effect) is Deliver] == []


def test_an_own_message_goes_to_others_too_while_the_mesh_is_small() -> None:
    script = subscribed(flood_publish=False)
    script.up(*range(10))
    for number in range(10):
        script.says(number, prune=[Prune(TOPIC, [], 60)])  # nobody may be grafted
    script.beats()
    assert script.mesh() == []
    assert len(script.publish(b"hello").peers) == 6


def test_a_large_message_whose_id_was_pushed_out_is_unpacked_anew() -> None:
    script = subscribed(seen_bytes=1)
    script.up("a", "b")
    large = b"8" * 2000
    script.says("a", publish=[raw(large)])
    script.router.seen._forget_slot()
    script.done()
    script.says("b", publish=[raw(large)])
    assert script.delivered() == [large]


def test_a_copy_of_what_awaits_its_verdict_is_a_copy_even_when_its_id_was_pushed_out() -> None:
    script = subscribed(seen_bytes=1)
    script.up("a", "b")
    script.verdicts = {b"slow": None}
    script.says("a", publish=[raw(b"slow")])
    script.router.seen._forget_slot()
    script.says("b", publish=[raw(b"slow")])
    assert script.count("duplicate") == 1
    assert len(script.of(Validate)) == 1


def test_publishing_to_nobody_remembers_no_fan_out() -> None:
    script = Script(flood_publish=False)
    with pytest.raises(NobodyListens):
        script.publish(b"x", "u")
    assert script.router.mesh.fanout == {}
    assert script.router.mesh._published == {}
