"""The mesh in the heartbeat: who is dropped, how it is filled and thinned out, those we dialled, better ones."""

import pytest

from pyp2p.pubsub.types import Kind
from tests.unit.pubsub.router_support import QUIET, TOPIC, RouterScript, joined, meshed, names, with_params

D, D_LOW, D_HIGH = QUIET.d, QUIET.d_low, QUIET.d_high
BACKOFF = QUIET.prune_backoff


def test_those_below_zero_are_dropped_and_left_alone():
    r = meshed(6)
    r.scores |= {"p0": -0.1, "p1": -100.0, "p2": 0.0}
    r.beat()
    assert r.mesh() == ["p2", "p3", "p4", "p5"]
    assert r.who_got("prune", TOPIC, 60, []) == ["p0", "p1"]
    assert r.backoff("p0") == BACKOFF


@pytest.mark.parametrize("size", range(0, D_HIGH + 1))
def test_a_mesh_below_d_low_is_filled_up_to_d(size):
    r = meshed(size, params=with_params(d_out=0))
    r.up(*names("more", 20))
    r.beat()
    assert len(r.mesh()) == (D if size < D_LOW else size)


def test_it_is_filled_with_those_who_can_be_grafted():
    r = joined()
    r.up("bad", score=-0.1)
    r.up("explicit", direct=True)
    r.up("floodsub", kind=Kind.FLOODSUB)
    r.up("elsewhere", topics=("other",))
    r.up("in backoff")
    r.prunes("in backoff")
    r.up("good", kind=Kind.GOSSIP_1_0)
    r.forget()
    r.beat()
    assert r.mesh() == ["good"] and r.who_got("graft", TOPIC) == ["good"]


def test_a_mesh_above_d_high_is_thinned_out_to_d_and_the_best_stay():
    r = meshed(20, outbound=20)
    for number in range(20):
        r.scores[f"p{number}"] = float(number)
    r.beat()
    assert len(r.mesh()) == D
    assert set(r.mesh()) >= {f"p{number}" for number in range(20 - QUIET.d_score, 20)}
    pruned = r.who_got("prune", TOPIC, 60, [])
    assert sorted(pruned + r.mesh()) == sorted(names("p", 20))
    assert all(r.backoff(name) == BACKOFF for name in pruned)


def test_the_rest_is_chosen_at_random():
    kept = set()
    for seed in range(30):
        r = meshed(20, outbound=20, seed=seed)
        for number in range(20):
            r.scores[f"p{number}"] = float(number)
        r.beat()
        kept |= set(r.mesh())
    assert len(kept) > 15


@pytest.mark.hostile
def test_hostile_075_who_came_first_has_no_place_for_it():
    kept = [set(thinned(seed).mesh()) for seed in range(30)]
    assert not set.intersection(*kept)


def thinned(seed: int) -> RouterScript:
    r = meshed(20, outbound=20, seed=seed)
    r.beat()
    return r


@pytest.mark.hostile
@pytest.mark.parametrize(("outbound", "kept"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_hostile_075_those_we_dialled_keep_their_places_however_good_the_others_are(outbound, kept):
    r = meshed(20, outbound=outbound)
    for number in range(outbound, 20):
        r.scores[f"p{number}"] = 100.0
    r.beat()
    dialled = set(names("p", outbound))
    assert len(r.mesh()) == D and len(dialled & set(r.mesh())) >= kept


def test_the_best_are_not_the_ones_that_give_way():
    for seed in range(20):
        r = meshed(20, outbound=5, seed=seed)
        for number in range(5, 20):
            r.scores[f"p{number}"] = float(number)
        r.beat()
        assert set(r.mesh()) >= {"p16", "p17", "p18", "p19"}
        assert len(set(r.mesh()) & set(names("p", 5))) == 2


@pytest.mark.hostile
@pytest.mark.parametrize("d_score", [5, 6, 12])
def test_hostile_075_the_quota_holds_when_all_places_are_for_the_best(d_score):
    r = meshed(20, outbound=2, params=with_params(d_score=d_score))
    for number in range(2, 20):
        r.scores[f"p{number}"] = float(number)
    r.beat()
    assert r.mesh() == sorted(["p0", "p1", "p16", "p17", "p18", "p19"])


@pytest.mark.parametrize(("dialled", "grafts"), [(0, 2), (1, 1), (2, 0), (3, 0)])
def test_a_mesh_that_lacks_those_we_dialled_gets_some(dialled, grafts):
    r = meshed(D, outbound=dialled)
    r.up(*names("inbound", 10))
    r.up(*names("outbound", 10), outbound=True)
    r.forget()
    r.beat()
    new = r.who_got("graft", TOPIC)
    assert len(new) == grafts and set(new) <= set(names("outbound", 10))
    assert len(r.mesh()) == D + grafts


def test_a_small_mesh_is_filled_first_and_then_gets_those_we_dialled():
    r = joined()
    r.up(*names("inbound", 50))
    r.up(*names("outbound", 3), outbound=True)
    r.beat()
    assert len(set(r.mesh()) & set(names("outbound", 3))) >= 2


@pytest.mark.parametrize(
    ("mesh_score", "better", "grafts"),
    [(0.5, 0.6, 2), (0.5, 0.5, 0), (0.5, 0.4, 0), (1.0, 5.0, 0), (0.999, 5.0, 2)],
)
def test_a_mediocre_mesh_gets_better_peers_now_and_then(mesh_score, better, grafts):
    r = meshed(D, outbound=2)
    r.scores |= dict.fromkeys(names("p", D), mesh_score)
    r.up(*names("better", 10), score=better)
    r.up("in backoff", score=9.0)
    r.prunes("in backoff", 3600)
    r.beat(QUIET.opportunistic_graft_ticks - 1)
    assert len(r.mesh()) == D
    r.beat()
    assert len(r.mesh()) == D + grafts
    r.beat(5)
    assert len(r.mesh()) == D + grafts and "in backoff" not in r.mesh()


def test_the_median_counts_not_the_best():
    r = meshed(5, outbound=2)
    r.scores |= {"p0": 0.1, "p1": 0.2, "p2": 0.3, "p3": 50.0, "p4": 60.0}
    r.up("better", score=0.4)
    r.up("no better", score=0.3)
    r.beat(QUIET.opportunistic_graft_ticks)
    assert "better" in r.mesh() and "no better" not in r.mesh()


@pytest.mark.parametrize("size", [0, 1])
def test_a_mesh_without_a_median_is_no_trouble(size):
    r = meshed(size)
    r.beat(2 * QUIET.opportunistic_graft_ticks)
    assert len(r.mesh()) == size


def test_each_topic_has_its_own_mesh():
    r = RouterScript()
    r.join("t")
    r.join("u")
    r.up("a", topics=("t",))
    r.up("b", topics=("t", "u"))
    r.prunes("b", topic="t")
    r.beat()
    assert r.mesh("t") == ["a"] and r.mesh("u") == ["b"]
