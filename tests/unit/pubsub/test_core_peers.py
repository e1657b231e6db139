"""Peers and subscriptions: hello, announcements, what is remembered of whom, and who is not heard at all."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from pyp2p.pubsub.peers import PeerTable
from pyp2p.pubsub.types import Kind, Lane, Rpc
from pyp2p.pubsub.wire import decode_rpc
from tests.unit.pubsub.router_support import QUIET, SCORE, TOPIC, RouterScript, joined, names, pid, with_params

A, B, C = map(pid, "abc")


# --- the table


def test_the_table_knows_who_listens_to_what_in_the_order_of_arrival():
    table = PeerTable(max_topics=10)
    states = [table.up(peer, Kind.GOSSIP_1_1, False, False) for peer in (C, A, B)]
    for state in states:
        assert table.subscribe(state, "t")
    assert table.subscribe(states[1], "u")
    assert list(table.listening("t")) == [C, A, B] and list(table.listening("u")) == [A]
    assert list(table.listening("nothing")) == []
    assert list(table.all()) == [C, A, B] and len(table) == 3 and A in table
    table.unsubscribe(states[1], "t")
    table.unsubscribe(states[1], "t")
    assert list(table.listening("t")) == [C, B]
    assert table.down(C) is states[0] and table.down(C) is None and table.get(C) is None
    assert list(table.listening("t")) == [B] and C not in table


@pytest.mark.parametrize(
    ("kind", "direct", "gets_all"),
    [
        (Kind.FLOODSUB, False, True),
        (Kind.FLOODSUB, True, True),
        (Kind.GOSSIP_1_0, False, False),
        (Kind.GOSSIP_1_2, False, False),
        (Kind.GOSSIP_1_2, True, True),
    ],
)
def test_who_gets_all(kind, direct, gets_all):
    table = PeerTable(max_topics=10)
    table.subscribe(table.up(A, kind, False, direct), "t")
    assert list(table.getting_all("t")) == ([A] if gets_all else [])
    assert list(table.getting_all("u")) == []
    table.down(A)
    assert list(table.getting_all("t")) == []


def test_a_peer_that_comes_again_keeps_its_topics_and_takes_the_new_facts():
    table = PeerTable(max_topics=10)
    state = table.up(A, Kind.FLOODSUB, False, False)
    table.subscribe(state, "t")
    assert table.up(A, Kind.GOSSIP_1_2, True, False) is state
    assert list(table.listening("t")) == [A] and list(table.getting_all("t")) == []
    assert state.outbound and state.kind is Kind.GOSSIP_1_2
    table.up(A, Kind.GOSSIP_1_2, True, True)
    assert list(table.getting_all("t")) == [A] and len(table) == 1


@pytest.mark.hostile
def test_hostile_061_topics_are_capped_and_what_was_kept_is_freed():
    table = PeerTable(max_topics=3)
    state = table.up(A, Kind.GOSSIP_1_1, False, False)
    assert [table.subscribe(state, name) for name in names("t", 5)] == [True] * 3 + [False] * 2
    assert table.subscribe(state, "t0")  # again is no more
    table.unsubscribe(state, "t1")
    assert table.subscribe(state, "t4")
    table.subscribe(table.up(B, Kind.GOSSIP_1_1, False, False), "t3")
    assert list(table.listening("t3")) == [B]
    table.down(A)
    table.down(B)
    assert not table._topics and not table._getting_all and not table._peers


# --- hello


def test_a_peer_is_told_what_we_listen_to_when_it_comes():
    r = RouterScript()
    r.up("nobody listens yet")
    assert r.sent("nobody listens yet") == []
    for topic in ("u", "t", "v"):
        r.join(topic)
    r.leave("v")
    r.forget()
    r.up("a", topics=())
    assert r.sent("a") == [("subscribe", "u"), ("subscribe", "t")]
    r.router.hello(pid("a"))
    assert r.lanes("a") == [Lane.CONTROL] * 2


def test_a_hello_with_a_thousand_topics_fits_in_rpcs_that_everybody_takes():
    r = RouterScript()
    topics = [f"/eth2/{number:08x}/beacon_attestation/ssz_snappy" for number in range(1000)]
    for topic in topics:
        r.join(topic)
    r.forget()
    r.up("a", topics=())
    fragments = [effect.fragment for effect in r.take()]
    assert max(map(len, fragments)) <= 16_000
    assert [len(decode_rpc(fragment).subscriptions) for fragment in fragments] == [100] * 10
    assert r.sent("a") == [("subscribe", topic) for topic in topics]


def test_everybody_is_told_when_we_join_and_leave():
    r = RouterScript()
    r.up("listens", "as well")
    r.up("elsewhere", topics=("other",))
    r.up("floodsub", kind=Kind.FLOODSUB)
    everybody = sorted(["listens", "as well", "elsewhere", "floodsub"])
    r.join()
    assert r.who_got("subscribe", TOPIC) == everybody
    r.join()
    assert r.take() == []
    assert r.mesh() == ["as well", "listens"]
    r.leave()
    prune = ("prune", TOPIC, 10, [])
    assert r.sent("listens") == [("unsubscribe", TOPIC), prune]
    assert r.sent("elsewhere") == [("unsubscribe", TOPIC)]
    r.leave()
    assert r.take() == [] and r.mesh() == []


def test_joining_is_said_before_grafting():
    r = RouterScript()
    r.up("a")
    r.join()
    assert r.sent("a") == [("subscribe", TOPIC), ("graft", TOPIC)]


# --- what is remembered


@pytest.mark.hostile
def test_hostile_061_subscriptions_are_filtered_capped_and_freed():
    r = joined(with_params(max_topics_per_peer=3))
    r.filtered = ("forbidden", "worse")
    r.up("a", topics=())
    r.forget()
    r.rpc("a", Rpc(subscriptions=[(True, topic) for topic in ("forbidden", "1", "2", "worse", "3", "4", "5", "1")]))
    assert list(r.router.table.get(pid("a")).topics) == ["1", "2", "3"]
    assert r.count("subscription filtered", "") == 2 and r.count("too many subscriptions", "") == 2
    r.rpc("a", Rpc(subscriptions=[(False, "unknown"), (False, "forbidden"), (False, "4")]))
    for _ in range(100):
        r.rpc("a", Rpc(subscriptions=[(False, "1"), (True, "1")]))
    assert list(r.router.table.get(pid("a")).topics) == ["2", "3", "1"]
    assert r.take() == [] and r.faults("a") == 0
    r.down("a")
    assert not r.router.table._topics and len(r.router.table) == 0


def test_who_unsubscribes_leaves_mesh_and_fanout_without_a_prune():
    r = joined(peers=("a", "b"))
    r.up("c", topics=("other",))
    r.publish(b"data", "other")
    r.forget()
    r.rpc("a", Rpc(subscriptions=[(False, TOPIC)]))
    r.rpc("c", Rpc(subscriptions=[(False, "other")]))
    assert r.mesh() == ["b"] and r.fanout("other") == [] and r.take() == []
    assert r.backoff("a") == r.params.unsubscribe_backoff
    r.says("b", b"data")
    assert r.sent("a") == []


def test_who_was_in_the_mesh_without_having_subscribed_leaves_it_as_well():
    r = joined()
    r.up("a", topics=())
    r.says("a", graft=[TOPIC])
    assert r.mesh() == ["a"]
    r.rpc("a", Rpc(subscriptions=[(False, TOPIC)]))
    assert r.mesh() == []


def test_a_floodsub_peer_has_no_place_in_a_mesh_whatever_it_says():
    r = joined()
    r.up("a", kind=Kind.FLOODSUB)
    r.forget()
    r.says("a", graft=[TOPIC])
    assert r.mesh() == [] and r.sent("a") == [] and r.count("graft without gossipsub") == 1


def test_all_of_a_peer_goes_with_it():
    r = joined(peers=("a", "b"))
    r.says("a", idontwant=[b"1"], ihave=[b"2"])
    assert r.router.sizes()["open promises"] == 1
    r.down("a")
    r.down("a")
    assert r.mesh() == ["b"] and r.router.sizes()["open promises"] == 0
    assert not r.router._unwanted._peers
    assert pid("a") not in r.router.table and len(r.router.score) == 1
    r.forget()
    r.beat(5)
    r.says("b", b"data")
    assert r.sent("a") == []


def test_a_peer_that_moved_is_inbound_or_outbound_by_what_is_left():
    r = joined(peers=("a",), score=replace(SCORE, ip_colocation_threshold=1))
    r.router.peer_moved(pid("a"), True, (ip_address("10.0.0.1"),), r.now)
    assert r.router.table.get(pid("a")).outbound
    assert r.mesh() == ["a"] and r.take() == []
    r.up("b")
    r.router.peer_moved(pid("b"), False, (ip_address("10.0.0.1"),), r.now)
    assert r.router.score.components(pid("a")).p6 == 1  # they share an address now
    r.router.peer_moved(pid("b"), False, (ip_address("10.0.0.2"),), r.now)
    assert r.router.score.components(pid("a")).p6 == 0
    r.down("b")
    r.router.peer_moved(pid("stranger"), True, (), r.now)
    assert pid("stranger") not in r.router.table and len(r.router.score) == 1


# --- who is not heard


@pytest.mark.parametrize(("score", "heard"), [(-200.0, True), (-200.1, False)])
def test_the_graylisted_are_not_heard(score, heard):
    r = joined(peers=("a", "b"))
    r.scores["a"] = score
    r.says("a", b"data", subscriptions=[(True, "other")], graft=[TOPIC], idontwant=[b"x"])
    assert (r.sent("b") == [("message", b"data")]) == heard
    assert ("other" in r.router.table.get(pid("a")).topics) == heard
    assert (r.unwanted == [("a", [b"x"])]) == heard
    assert r.count("graylisted", "") == (not heard)


def test_explicit_peers_are_heard_whatever_their_score():
    r = joined(peers=("b",))
    r.up("friend", direct=True, score=-1000.0)
    r.forget()
    r.says("friend", b"data")
    assert r.sent("b") == [("message", b"data")]


def test_explicit_peers_are_never_in_the_mesh():
    r = RouterScript()
    r.up("friend", direct=True)
    r.join()
    r.beat(3)
    assert r.mesh() == []
    assert r.sent("friend") == [("subscribe", TOPIC)]
    r.says("friend", graft=[TOPIC])
    assert r.mesh() == [] and r.sent("friend") == [("prune", TOPIC, int(QUIET.prune_backoff), [])]
