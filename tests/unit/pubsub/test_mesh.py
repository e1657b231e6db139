"""The mesh: who is grafted and pruned when, backoffs, fan-out, whom gossip goes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.pubsub.types import Kind, Rpc
from tests.unit.pubsub.router_support import (
    QUIET,
    TOPIC,
    RouterScript,
    joined,
    meshed,
    names,
    pid,
    with_params,
)

D, D_LOW, D_HIGH = QUIET.d, QUIET.d_low, QUIET.d_high
BACKOFF = QUIET.prune_backoff


def grafted(r: RouterScript, *peers: str) -> list[str]:
    """These graft us; returns who is in the mesh."""
    for name in peers:
        r.says(name, graft=[TOPIC])
    return r.mesh()


# --- joining and leaving


def test_joining_grafts_d_of_those_who_can_be():
    r = RouterScript()
    r.up(*names("good", 20))
    r.up("bad", score=-0.1)
    r.up("explicit", direct=True)
    r.up("floodsub", kind=Kind.FLOODSUB)
    r.up("elsewhere", topics=("other",))
    r.take()
    r.join()
    assert len(r.mesh()) == D and set(r.mesh()) < set(names("good", 20))
    assert r.who_got("graft", TOPIC) == r.mesh()


def test_joining_takes_the_fanout_first():
    r = RouterScript()
    r.up(*names("p", 30))
    fanout = r.publish(b"data")
    r.join()
    assert r.mesh() == sorted(fanout) and r.fanout() == []
    assert r.router.mesh.fanout == {} and r.router.mesh._published == {}


def test_of_the_fanout_only_those_who_can_be_grafted_and_others_fill_up():
    r = RouterScript()
    r.up(*names("p", 30))
    fanout = r.publish(b"data")
    r.scores[fanout[0]] = -1.0
    r.down(fanout[1])
    r.rpc(fanout[2], Rpc(subscriptions=[(False, TOPIC)]))
    r.join()
    assert len(r.mesh()) == D and set(fanout[3:]) < set(r.mesh())
    assert not set(fanout[:3]) & set(r.mesh())


def test_leaving_prunes_all_with_the_short_backoff():
    r = joined(peers=("a", "b"))
    r.leave()
    assert r.mesh() == [] and r.backoff("a") == r.backoff("b") == QUIET.unsubscribe_backoff
    assert r.who_got("prune", TOPIC, 10, []) == ["a", "b"]
    r.join()
    assert r.mesh() == [] and r.who_got("graft", TOPIC) == []
    r.beat(10)
    assert r.mesh() == []
    r.beat()
    assert r.mesh() == ["a", "b"]


# --- being grafted


def test_a_graft_in_backoff_is_punished_once_and_extends_it():
    r = joined(peers=("a",))
    r.prunes("a")
    r.wait(QUIET.graft_flood_threshold)
    assert grafted(r, "a") == [] and r.faults("a") == 1
    assert r.backoff("a") == BACKOFF
    assert r.sent("a") == [("prune", TOPIC, 60, [])]


@pytest.mark.hostile
@pytest.mark.parametrize(("after", "punished"), [(0.0, 2), (9.9, 2), (10.0, 1), (59.9, 1), (60.0, 0), (61.0, 0)])
def test_hostile_065_a_graft_soon_after_a_prune_is_punished_twice(after, punished):
    r = joined(peers=("a",))
    r.scores["a"] = -1.0
    r.beat()
    assert r.mesh() == [] and r.backoff("a") == BACKOFF
    r.scores["a"] = 0.0
    r.wait(after)
    assert grafted(r, "a") == ([] if punished else ["a"])
    assert r.faults("a") == punished


@pytest.mark.hostile
def test_hostile_065_who_grafts_again_and_again_stays_out():
    r = joined(peers=("a",))
    r.prunes("a")
    for _ in range(20):
        r.wait(30)
        assert grafted(r, "a") == []
    assert r.faults("a") == 20 and r.backoff("a") == BACKOFF
    r.wait(BACKOFF)
    assert grafted(r, "a") == ["a"]


@pytest.mark.hostile
def test_hostile_065_coming_back_does_not_end_a_backoff():
    r = joined(peers=("a",))
    r.prunes("a")
    r.down("a")
    r.up("a")
    assert grafted(r, "a") == [] and r.faults("a") > 0
    r.beat(10)
    assert r.mesh() == []


@pytest.mark.hostile
def test_hostile_065_a_bad_peer_is_refused_and_left_alone():
    r = joined()
    r.up("a", score=-0.1)
    assert grafted(r, "a") == [] and r.backoff("a") == BACKOFF and r.faults("a") == 0
    r.scores["a"] = 1.0
    r.beat(5)
    assert r.mesh() == []


@pytest.mark.hostile
@pytest.mark.parametrize(("count", "outbound", "taken"), [(11, False, True), (12, False, False), (12, True, True)])
def test_hostile_075_a_full_mesh_takes_only_those_we_dialled(count, outbound, taken):
    r = meshed(count)
    r.up("late", outbound=outbound)
    assert ("late" in grafted(r, "late")) == taken
    assert r.backoff("late") == (None if taken else BACKOFF)


def test_a_graft_of_a_member_changes_nothing():
    r = meshed(D_HIGH)
    r.router.mesh.backoffs.add(TOPIC, pid("p0"), None, r.now)
    r.scores["p0"] = -1.0
    assert len(grafted(r, "p0")) == D_HIGH and r.faults("p0") == 0 and r.take() == []


# --- being pruned


@pytest.mark.parametrize(("asked", "left"), [(None, BACKOFF), (5, 5.0), (3600, 3600.0)])
def test_a_prune_takes_the_peer_out_for_as_long_as_it_says(asked, left):
    r = joined(peers=("a", "b"))
    r.prunes("a", asked)
    assert r.mesh() == ["b"] and r.backoff("a") == left
    r.beat(int(left))
    assert r.mesh() == ["b"]
    r.beat()
    assert r.mesh() == ["a", "b"]


def test_a_prune_of_one_outside_the_mesh_counts_too():
    r = joined()
    r.up("a")
    r.prunes("a", 20)
    r.beat(20)
    assert r.mesh() == []


@pytest.mark.parametrize("seconds", [1, 5, 60])
def test_we_never_graft_inside_a_backoff_nor_before_one_heartbeat_after_it(seconds):
    r = joined(peers=("a",))
    r.prunes("a", seconds)
    ends = r.now + seconds
    r.forget()
    while not r.mesh():
        assert r.now <= ends
        assert r.sent("a") == []
        r.beat()
    assert r.now == ends + 1


def test_their_long_backoff_is_not_shortened_by_ours():
    r = joined(peers=("a",))
    r.prunes("a", 600)
    r.leave()
    r.join()
    assert r.backoff("a") == 600
    r.beat(600)
    assert r.mesh() == []


# --- what the score is told


@pytest.mark.parametrize("way", ["they prune", "we leave", "heartbeat", "they unsubscribe", "nothing happens"])
def test_the_score_knows_how_long_a_peer_is_in_the_mesh(way):
    r = joined()
    r.up("a")
    assert grafted(r, "a") == ["a"]
    r.beat(5)
    assert r.router.score.components(pid("a")).p1 == 5
    if way == "they prune":
        r.prunes("a")
    elif way == "we leave":
        r.leave()
    elif way == "heartbeat":
        r.scores["a"] = -1.0
    elif way == "they unsubscribe":
        r.rpc("a", Rpc(subscriptions=[(False, TOPIC)]))
    r.beat()
    assert r.router.score.components(pid("a")).p1 == (6 if way == "nothing happens" else 0)


def test_who_is_grafted_by_us_is_told_too():
    r = RouterScript()
    r.up("a")
    r.join()
    r.up("b")
    r.beat()  # b
    assert r.mesh() == ["a", "b"]
    r.beat(3)
    assert [r.router.score.components(pid(name)).p1 for name in ("a", "b")] == [4, 3]


# --- fan-out


def test_the_fanout_ends_some_time_after_the_last_publication():
    r = RouterScript()
    r.up("a")
    r.publish(b"1")
    r.beat(40)
    r.publish(b"2")
    r.beat(int(QUIET.fanout_ttl))
    assert r.fanout() == ["a"]
    r.beat()
    assert r.router.mesh.fanout == {} and r.router.mesh._published == {}


def test_the_fanout_is_refilled_and_loses_the_bad():
    r = RouterScript()
    r.up(*names("p", D))
    r.publish(b"1")
    r.scores |= {"p0": -100.1, "p1": -100.0}
    r.down("p2")
    r.up(*names("q", 2))
    r.up("bad", score=-100.1)
    r.up("floodsub", kind=Kind.FLOODSUB)
    r.up("explicit", direct=True)
    r.beat()
    assert r.fanout() == ["p1", "p3", "p4", "p5", "q0", "q1"]


def test_a_fanout_that_everybody_left_is_drawn_anew():
    r = RouterScript()
    r.up("a")
    r.publish(b"1")
    r.down("a")
    r.up("b")
    assert r.publish(b"2") == ["b"]


# --- gossip


@pytest.mark.parametrize(
    ("listeners", "factor", "d_lazy", "told"),
    [(4, 0.25, 6, 4), (20, 0.25, 6, 6), (40, 0.25, 6, 10), (40, 0.0, 6, 6), (40, 1.0, 6, 40), (40, 0.25, 0, 10)],
)
def test_gossip_goes_to_a_share_of_those_outside_and_to_some_at_least(listeners, factor, d_lazy, told):
    r = meshed(6, params=with_params(gossip_factor=factor, d_lazy=d_lazy))
    r.up(*names("q", listeners))
    r.up("bad", score=-50.1)
    r.up("floodsub", kind=Kind.FLOODSUB)
    r.up("explicit", direct=True)
    targets = r.router.mesh.gossip_targets(TOPIC, r.router.mesh.topics[TOPIC])
    assert len(set(targets)) == len(targets) == told
    assert set(targets) <= {pid(name) for name in names("q", listeners)}


# --- whatever happens

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["graft", "prune", "beat", "down", "up", "score", "publish", "leave", "join"]),
        st.integers(0, 24),
        st.sampled_from([-150.0, -1.0, 0.0, 2.0]),
    ),
    max_size=120,
)


@given(MOVES)
def test_no_mesh_has_who_should_not_be_there(moves):
    r = joined()
    inside: set[str] = set()
    for what, number, score in moves:
        name = f"p{number}"
        if what == "graft":
            r.says(name, graft=[TOPIC])
        elif what == "prune":
            r.prunes(name, number)
        elif what == "down":
            r.down(name)
        elif what == "up":
            r.up(name, outbound=number % 4 == 0, score=score, kind=Kind.FLOODSUB if number == 1 else Kind.GOSSIP_1_2)
        elif what == "score":
            r.scores[name] = score
        elif what == "leave":
            r.leave()
        elif what == "join":
            r.join()
        elif what == "publish" and len(r.router.table):
            r.router.mesh.for_publish("other", r.now)
        else:
            waiting = {name for name in names("p", 25) if (r.backoff(name) or -9.0) > 0}
            r.beat()
            assert not waiting & (set(r.mesh()) - inside)
            assert len(r.mesh()) <= D_HIGH + 2
            assert all(r.scores[name] >= 0 for name in r.mesh())
            if TOPIC in r.router.mesh.topics and len(r.mesh()) < D_LOW:
                assert not r.router.mesh._candidates(TOPIC, lambda state: True)
        assert set(r.mesh()) <= {f"p{n}" for n in range(25) if pid(f"p{n}") in r.router.table}
        inside = set(r.mesh())
