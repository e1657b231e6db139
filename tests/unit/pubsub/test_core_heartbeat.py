"""The heartbeat of the router: what it sends, that no peer can end it, and what it and a message cost."""

from dataclasses import replace

import pytest

from pyp2p.pubsub.params import GossipParams
from pyp2p.pubsub.types import Connect, Kind, Lane, Send
from tests.unit.pubsub.router_support import (
    QUIET,
    SCORE,
    TOPIC,
    WEIGHTLESS,
    RouterScript,
    joined,
    names,
    pid,
    with_params,
)

# Nobody is in the mesh: all are told by gossip.
NO_MESH = with_params(d=0, d_low=0, d_high=0, d_score=0, d_out=0)


def offered(r: RouterScript, *peers: str) -> dict[str, list[bytes]]:
    """The ids that each peer was told."""
    r.take()
    return {name: [each for part in r.sent(name, "ihave") for each in part[2]] for name in peers}


# --- gossip


def test_messages_are_offered_to_peers_outside_the_mesh_for_some_heartbeats():
    r = joined(peers=tuple(names("p", 6)))
    r.up("outside")
    r.up("explicit", direct=True)
    r.up("floodsub", kind=Kind.FLOODSUB)
    r.up("elsewhere", topics=("other",))
    r.says("p0", b"data")
    for beat in range(6):
        r.forget()
        r.beat()
        sends = [effect for effect in r.take() if isinstance(effect, Send)]
        assert all(send.lane is Lane.GOSSIP and send.topic == TOPIC for send in sends)
        assert r.who_got("ihave", TOPIC, [b"data"]) == (["outside"] if beat < QUIET.history_gossip else [])


def test_nothing_is_offered_when_there_is_nothing():
    r = joined(peers=("a",))
    r.up("outside")
    r.forget()
    r.beat(3)
    assert r.sent("outside", "ihave") == []


@pytest.mark.parametrize(("score", "told"), [(-50.0, True), (-50.1, False)])
def test_bad_peers_are_not_told(score, told):
    r = joined(NO_MESH)
    r.up("a")
    r.up("b", score=score)
    r.says("a", b"data")
    r.beat()
    assert bool(offered(r, "b")["b"]) == told


@pytest.mark.parametrize(("listeners", "told"), [(3, 3), (20, 6), (40, 10), (100, 25)])
def test_how_many_are_told(listeners, told):
    r = joined(NO_MESH)
    peers = names("p", listeners)
    r.up(*peers)
    r.says("p0", b"data")
    r.forget()
    r.beat()
    assert sum(map(bool, offered(r, *peers).values())) == told


def test_others_are_told_in_each_heartbeat():
    r = joined(NO_MESH)
    peers = names("p", 20)
    r.up(*peers)
    told = set()
    for number in range(30):
        r.says("p0", b"%d" % number)
        r.beat()
        told |= {name for name, ids in offered(r, *peers).items() if ids}
    assert told == set(peers)


def test_the_fanout_is_gossiped_for_as_well():
    r = RouterScript()
    r.up(*names("p", 10))
    fanout = r.publish(b"data")
    r.forget()
    r.beat()
    others = set(names("p", 10)) - set(fanout)
    assert {name for name, ids in offered(r, *names("p", 10)).items() if ids} == others


@pytest.mark.hostile
def test_hostile_064_no_more_is_offered_than_peers_heed_each_another_choice():
    r = joined(with_params(d=0, d_low=0, d_high=0, d_score=0, d_out=0, max_ihave_ids=100))
    r.up("a", "b", "c")
    r.says("a", *(b"%08d" % number for number in range(150)))
    r.forget()
    r.beat()
    found = offered(r, "a", "b", "c")
    assert all(len(set(ids)) == len(ids) == 100 for ids in found.values())
    assert len(set(map(frozenset, found.values()))) == 3


def test_the_same_offer_is_encoded_once():
    r = joined(NO_MESH)
    r.up(*names("p", 5))
    r.says("p0", b"data")
    r.forget()
    r.beat()
    assert [len(each.peers) for each in r.take() if isinstance(each, Send)] == [5]


# --- meshes


def test_grafts_and_prunes_are_sent():
    r = joined(peers=("a", "b"))
    r.scores["a"] = -1.0
    r.up("c")
    r.forget()
    r.beat()
    assert r.sent("a") == [("prune", TOPIC, 60, [])]
    assert r.sent("c") == [("graft", TOPIC)]
    assert r.sent("b") == [] and r.mesh() == ["b", "c"]


def test_who_is_pruned_for_its_score_gets_no_peers_who_is_one_too_many_does():
    r = joined(with_params(do_px=True))
    peers = names("p", 13)
    r.up(*peers, outbound=True)
    for name in peers:
        r.says(name, graft=[TOPIC])
    r.up("bad", score=0.0)
    r.router.mesh.topics[TOPIC][pid("bad")] = None
    r.scores["bad"] = -1.0
    r.forget()
    r.beat()
    assert r.sent("bad", "prune") == [("prune", TOPIC, 60, [])]
    pruned = [part for name in peers for part in r.sent(name, "prune")]
    assert len(pruned) == 7 and all(len(part[3]) == 12 for part in pruned)


def test_who_was_bad_while_in_the_mesh_gets_no_peers_though_its_score_is_better_outside():
    silent = replace(
        WEIGHTLESS,
        mesh_message_deliveries_weight=-1.0,
        mesh_message_deliveries_activation=2.0,
        mesh_message_deliveries_threshold=2.0,
    )
    r = joined(with_params(do_px=True), ("a", "b"), score=replace(SCORE, topics={TOPIC: silent}))
    for number in range(4):
        r.says("b", b"%d" % number)
        r.beat()
    assert r.mesh() == ["b"] and r.router.score.score(pid("a")) == 0
    assert r.sent("a", "prune") == [("prune", TOPIC, 60, [])]


def test_faults_are_forgotten_by_and_by():
    r = joined(peers=("a",), score=replace(SCORE, behaviour_penalty_decay=0.5))
    for _ in range(8):
        r.router.malformed(pid("a"))
    faults = []
    for _ in range(4):
        faults.append(r.faults("a"))
        r.beat()
    assert faults == [8, 4, 2, 1]


# --- explicit peers


def test_explicit_peers_are_dialled_at_first_and_now_and_then():
    r = RouterScript(with_params(direct_connect_ticks=10))
    r.router.direct[pid("gone")] = None
    r.up("here", direct=True)
    dialled = []
    for beat in range(25):
        r.beat()
        r.take()
        if r.connects:
            dialled.append(beat)
            assert r.connects == [(pid("gone").raw, b"")]
            r.connects.clear()
    assert dialled == [0, 10, 20]


# --- time


def test_ids_and_bytes_are_forgotten():
    r = joined(peers=("a",))
    r.says("a", bytes(5000), b"small")
    assert r.router.sizes()["seen bytes"] > 0 and r.router.sizes()["raw index bytes"] > 0
    r.beat(int(QUIET.seen_ttl * (1 + 1 / 64)) + 2)
    assert set(r.router.sizes().values()) == {0}


@pytest.mark.hostile
def test_hostile_067_an_hour_after_the_longest_backoff():
    r = joined(GossipParams(), tuple(names("p", 8)))
    for name in names("p", 8):
        for backoff in (2**64 - 1, 2**63, 0, None):
            r.prunes(name, backoff)
    for _ in range(3600):
        r.beat()
        r.take()
        assert r.mesh() == []
    r.beat(2)
    assert len(r.mesh()) == 6  # the longest is an hour, and one heartbeat more
    assert len(r.router.mesh.backoffs) == 0


def test_a_late_heartbeat_is_not_made_up_for():
    r = joined(NO_MESH)
    r.up("a")
    r.says("a", b"data")
    r.wait(100)
    r.beat()
    assert offered(r, "a") == {"a": [b"data"]}


def test_the_same_seed_makes_the_same_choices():
    def run(seed: int) -> list:
        r = joined(QUIET, tuple(names("p", 40)), seed=seed)
        effects = []
        for number in range(20):
            r.says(f"p{number}", b"%d" % number)
            r.beat()
            effects += r.take()
        return effects

    assert run(1) == run(1) != run(2)


# --- what it costs, in questions asked


@pytest.mark.parametrize("what", ["new", "duplicate", "iwant", "beat"])
def test_the_cost_does_not_depend_on_how_much_is_kept(what):
    costs = []
    for kept in (10, 3000):
        r = joined(peers=tuple(names("p", 6)))
        r.up(*names("q", 6))
        r.says("p0", *(b"%08d" % number for number in range(kept)))
        r.forget()
        r.asked = 0
        looked = Looks(r)
        if what == "new":
            r.says("p0", b"new")
        elif what == "duplicate":
            r.says("p1", b"%08d" % 5)
        elif what == "iwant":
            r.says("q0", iwant=[b"%08d" % 5])
        else:
            r.beat()
        costs.append((r.asked, looked.count))
    assert costs[0] == costs[1]


@pytest.mark.parametrize("what", ["new", "duplicate"])
def test_the_cost_of_a_message_does_not_depend_on_other_peers_and_topics(what):
    costs = []
    for others in (10, 500):
        r = joined(peers=tuple(names("p", 6)))
        r.up(*names("q", others))
        r.up(*names("elsewhere", others), topics=tuple(names("topic", 3)))
        r.says("p0", b"old")
        r.forget()
        r.asked = 0
        looked = Looks(r)
        r.says("p0", b"new" if what == "new" else b"old")
        costs.append((r.asked, looked.count))
    assert costs[0] == costs[1] and costs[0][0] == 1


def test_the_cost_of_a_message_is_linear_in_those_who_get_it():
    sent = []
    for size in (1, 2, 4, 8):
        r = joined(with_params(d=8))
        r.up(*names("p", size))
        for name in names("p", size):
            r.says(name, graft=[TOPIC])
        r.up("source")
        r.asked = 0
        looked = Looks(r)
        r.says("source", b"data")
        sent.append(looked.count)
    assert [count - sent[0] for count in sent] == [0, 1, 3, 7]


class Looks:
    """Counts how often it is asked whether a peer wants a message: once for each that might get it."""

    def __init__(self, r: RouterScript) -> None:
        self.count = 0
        self._asked = r.router._unwanted.unwanted
        r.router._unwanted.unwanted = self

    def __call__(self, *question) -> bool:
        self.count += 1
        return self._asked(*question)


def test_effects_are_handed_out_once():
    r = joined(peers=("a",))
    r.router.direct[pid("gone")] = None
    r.beat()
    assert any(isinstance(effect, Connect) for effect in r.take())
    assert r.take() == []
