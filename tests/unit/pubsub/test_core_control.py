"""Control of peers: gossip with its caps and promises, GRAFT and PRUNE with peer exchange, extensions."""

import random

import pytest

from pyp2p.pubsub.params import Thresholds
from pyp2p.pubsub.types import Connect, Kind, Lane, Prune, Rpc, Send, Verdict
from tests.unit.pubsub.router_support import (
    QUIET,
    TOPIC,
    RouterScript,
    joined,
    names,
    pid,
    raw,
    with_params,
)

PX = with_params(do_px=True)
GOSSIP = Thresholds().gossip
RECORD = b"a signed record"


def ids(count: int, start: int = 0) -> list[bytes]:
    return [b"%08d" % number for number in range(start, start + count)]


def asked(r: RouterScript, name: str) -> list[bytes]:
    """The ids that a peer was asked for."""
    return [message_id for part in r.sent(name, "iwant") for message_id in part[1]]


# --- IHAVE


def test_what_is_new_is_asked_for():
    r = joined(peers=("a", "b"))
    r.says("a", b"old")
    r.forget()
    r.says("b", ihave=[b"old", b"new", b"newer", b"new"])
    (send,) = r.take()
    assert isinstance(send, Send) and send.lane is Lane.CONTROL
    assert sorted(asked(r, "b")) == [b"new", b"newer"]
    assert r.sent("a") == []


def test_gossip_of_topics_that_we_do_not_listen_to_is_not_heeded():
    r = joined(peers=("a",))
    r.says("a", ihave=[b"new"], topic="other")
    assert r.take() == [] and r.faults("a") == 0


@pytest.mark.parametrize(("score", "heeded"), [(GOSSIP, True), (GOSSIP - 0.1, False)])
def test_gossip_of_bad_peers_is_not_heeded_nor_answered(score, heeded):
    r = joined(peers=("a", "b"))
    r.says("b", b"data")
    r.forget()
    r.scores["a"] = score
    r.says("a", ihave=[b"new"])
    assert asked(r, "a") == ([b"new"] if heeded else [])
    r.says("a", iwant=[b"data"])
    assert r.sent("a") == ([("message", b"data")] if heeded else [])
    assert r.count("gossip ignored", "") == (0 if heeded else 2)


@pytest.mark.hostile
def test_hostile_064_ihave_is_heeded_ten_times_in_a_heartbeat():
    r = joined(peers=("a", "b"))
    for number in range(15):
        r.says("a", ihave=[b"a%d" % number])
    r.says("b", ihave=[b"b"])
    assert asked(r, "a") == [b"a%d" % number for number in range(10)]
    assert asked(r, "b") == [b"b"] and r.count("too many ihave", "") == 5
    r.beat()
    r.says("a", ihave=[b"next"])
    assert asked(r, "a") == [b"next"]


@pytest.mark.hostile
def test_hostile_064_no_more_than_5000_ids_are_asked_for_in_a_heartbeat():
    r = joined(peers=("a",))
    r.says("a", ihave=ids(3000))
    r.says("a", ihave=ids(3000, 3000))
    r.says("a", ihave=ids(3000, 6000))
    found = asked(r, "a")
    assert len(found) == len(set(found)) == 5000
    assert set(ids(3000)) < set(found) < set(ids(6000))
    assert r.router.sizes()["open promises"] == 2
    r.beat()
    r.says("a", ihave=ids(3000, 6000))
    assert len(asked(r, "a")) == 3000


def test_what_is_asked_for_is_a_choice_at_random():
    r = joined(with_params(max_ihave_ids=10), ("a",))
    r.says("a", ihave=ids(1000))
    found = asked(r, "a")
    assert len(found) == 10 and sorted(found) != ids(10)


@pytest.mark.hostile
@pytest.mark.parametrize("size", [1, 19, 21, 1024])
def test_hostile_064_an_id_of_another_length_is_misbehaviour(size):
    r = joined(with_params(message_id_bytes=20), ("a",))
    r.says("a", ihave=[b"x" * size, b"y" * 20])
    assert asked(r, "a") == [b"y" * 20] and r.faults("a") == 1
    r.says("a", idontwant=[b"x" * size, b"z" * 20])
    r.take()
    assert r.unwanted == [("a", [b"z" * 20])] and r.faults("a") == 2
    assert r.count("malformed", "") == 2


def test_without_a_length_any_id_will_do():
    r = joined(peers=("a",))
    r.says("a", ihave=[b"x", b"x" * 1024])
    assert len(asked(r, "a")) == 2 and r.faults("a") == 0


# --- promises


@pytest.mark.hostile
def test_hostile_064_a_broken_promise_is_misbehaviour_once_for_each_request():
    r = joined(peers=("a", "b"))
    r.says("a", ihave=ids(100))
    r.says("a", ihave=ids(100, 100))
    assert r.count("promised") == 2
    r.beat(2)
    assert r.faults("a") == 0
    r.beat()
    assert r.faults("a") == 2 and r.count("promise broken") == 2
    r.beat(5)
    assert r.faults("a") == 2 and r.faults("b") == 0


@pytest.mark.parametrize("by", ["a", "b"])
@pytest.mark.parametrize("how", ["first", "rejected", "duplicate"])
def test_a_promise_is_kept_by_whoever_brings_the_message_even_a_bad_one(by, how):
    r = joined(QUIET, ("a", "b"))
    data = b"promised".ljust(20)
    r.says("a", ihave=[data[:8]])
    if how == "rejected":
        r.verdict = Verdict.REJECT
        r.says(by, data)
        assert r.invalid(by) == 1
    elif how == "duplicate":
        r.router.seen.add(data[:8], r.now)
        r.says(by, data)
    else:
        r.says(by, data)
    assert r.router.sizes()["open promises"] == 0
    r.beat(5)
    assert r.faults("a") == 0


@pytest.mark.hostile
@pytest.mark.parametrize("how", ["forged", "over the bound"])
def test_hostile_064_a_promise_is_not_kept_by_what_only_pretends_to_be_the_message(how):
    """Else junk under the promised id would do, from whoever promised or from another one."""
    r = joined(with_params(max_message_size=100), ("a", "b"))
    data = b"promised".ljust(200 if how == "over the bound" else 20)
    r.says("a", ihave=[data[:8]])
    r.rpc("b", Rpc(publish=[raw(data) + (b"\x0a\x00" if how == "forged" else b"")]))
    assert r.invalid("b") == 1
    r.beat(5)
    assert r.faults("a") == 1


def test_a_promise_in_a_topic_that_we_left_is_no_promise():
    r = joined(peers=("a",))
    r.says("a", ihave=[b"promised"])
    r.leave()
    r.says("a", b"promised")
    r.beat(5)
    assert r.faults("a") == 0 and r.router.sizes()["open promises"] == 0


@pytest.mark.hostile
def test_hostile_064_so_many_bytes_are_answered_in_a_heartbeat_as_the_queue_holds():
    r = joined(with_params(queue_bytes=10_000), ("a", "b", "c"))
    large = [b"%08d" % number + bytes(4_000) for number in range(5)]
    r.says("b", *large)
    r.forget()
    r.says("a", iwant=[data[:8] for data in large])
    assert len(r.sent("a", "message")) == 3  # the third one begins within the bound
    assert r.count("too much asked for") == 2
    r.says("c", iwant=[large[0][:8]])
    assert len(r.sent("c", "message")) == 1
    r.beat()
    r.says("a", iwant=[large[4][:8]])
    assert len(r.sent("a", "message")) == 1


def test_what_is_tracked_of_a_request_is_chosen_at_random():
    tracked = set()
    for seed in range(20):
        r = joined(peers=("a",), seed=seed)
        r.says("a", ihave=ids(5))
        tracked |= set(r.router._promises._open)
    assert len(tracked) > 2


@pytest.mark.hostile
def test_hostile_064_a_promise_that_is_repeated_is_broken_in_its_time():
    r = joined(peers=("a",))
    for _ in range(3):
        r.says("a", ihave=[b"never"])
        r.beat()
    assert r.faults("a") == 1


# --- IWANT


@pytest.mark.hostile
def test_hostile_064_a_message_is_sent_three_times_to_a_peer_that_asks():
    r = joined(peers=("a", "b", "c"))
    r.says("c", b"data")
    r.forget()
    r.says("a", iwant=[b"data"] * 1000)
    r.says("a", iwant=[b"data"])
    r.says("b", iwant=[b"data"])
    assert r.sent("a") == [("message", b"data")] * 3
    assert r.sent("b") == [("message", b"data")]
    assert r.count("retransmissions refused") == 998


def test_an_answer_is_gossip_and_says_what_it_is_about():
    r = joined(peers=("a", "b"))
    r.says("b", b"data")
    r.forget()
    r.says("a", iwant=[b"data"])
    (send,) = r.take()
    assert isinstance(send, Send)
    assert (send.peers, send.lane, send.topic, send.message_id) == ([pid("a")], Lane.GOSSIP, TOPIC, b"data")


@pytest.mark.hostile
def test_hostile_064_what_was_never_here_is_not_answered():
    r = joined(peers=("a",))
    r.says("a", iwant=ids(5000))
    assert r.take() == [] and r.faults("a") == 0


def test_messages_can_be_asked_for_while_they_are_kept():
    r = joined(with_params(gossip_retransmission=100), ("a", "b"))
    r.says("b", b"data")
    for beat in range(8):
        r.forget()
        r.says("a", iwant=[b"data"])
        assert bool(r.sent("a")) == (beat < QUIET.history_length)
        r.beat()


# --- GRAFT


def test_a_graft_is_taken():
    r = joined()
    r.up("a")
    r.forget()
    r.says("a", graft=[TOPIC])
    r.says("a", graft=[TOPIC])
    assert r.mesh() == ["a"] and r.take() == []


@pytest.mark.hostile
def test_hostile_065_a_graft_of_an_unknown_topic_gets_no_answer():
    r = joined(peers=("a",))
    r.says("a", graft=names("unknown", 1000))
    assert r.take() == [] and list(r.router.mesh.topics) == [TOPIC]
    assert r.count("graft of unknown topic", "") == 1000
    assert r.faults("a") == 0 and len(r.router.mesh.backoffs) == 0


@pytest.mark.hostile
def test_hostile_065_ten_thousand_grafts_in_backoff():
    r = joined(peers=("a",))
    r.prunes("a")
    r.says("a", graft=[TOPIC] * 1000)
    assert r.mesh() == [] and r.faults("a") == 2000
    assert r.sent("a") == [("prune", TOPIC, 60, [])] * 1000


@pytest.mark.parametrize(("score", "direct"), [(-0.1, False), (0.0, True)])
def test_a_graft_that_is_refused_is_answered_by_a_prune(score, direct):
    r = joined(PX, tuple(names("p", 3)))
    r.up("a", score=score, direct=direct)
    r.forget()
    r.says("a", graft=[TOPIC])
    (part,) = r.sent("a")
    assert part[:3] == ("prune", TOPIC, 60)
    assert len(part[3]) == (3 if direct else 0)  # those below 0 get no peers
    assert r.count("graft refused") == 1 and "a" not in r.mesh()


# --- PRUNE and peer exchange


@pytest.mark.parametrize("backoff", [None, 0, 1, 30, 3600, 2**63, 2**64 - 1])
@pytest.mark.hostile
def test_hostile_066_any_backoff(backoff):
    r = joined(peers=("a", "b"))
    r.prunes("a", backoff)
    assert r.mesh() == ["b"] and r.take() == []
    assert r.backoff("a") == {None: 60, 0: 60, 1: 1, 30: 30}.get(backoff, 3600)


def test_a_prune_of_an_unknown_topic_is_counted():
    r = joined(peers=("a",))
    r.prunes("a", topic="other", peers=[(pid("x").raw, RECORD)])
    assert r.take() == [] and r.mesh() == ["a"] and len(r.router.mesh.backoffs) == 0
    assert r.count("prune of unknown topic", "") == 1


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("do_px", "score", "taken"), [(False, 1000.0, False), (True, 9.9, False), (True, 10.0, True), (True, 1000.0, True)]
)
def test_hostile_068_offered_peers_are_taken_from_the_trusted_only_and_when_asked_for(do_px, score, taken):
    r = joined(with_params(do_px=do_px), ("a",))
    r.scores["a"] = score
    r.prunes("a", peers=[(pid("x").raw, RECORD)])
    assert r.take() == ([Connect(pid("x").raw, RECORD)] if taken else [])


@pytest.mark.hostile
def test_hostile_068_unsigned_ones_and_ourselves_are_left_out_and_sixteen_are_enough():
    r = joined(PX, ("a",))
    r.scores["a"] = 1000.0
    offered = [(pid(name).raw, RECORD) for name in names("x", 10_000)]
    offered[0] = pid("x0").raw, b""
    offered[1] = pid("me").raw, RECORD
    r.prunes("a", peers=offered)
    r.take()
    assert r.connects == offered[2:16]


def test_a_prune_of_ours_offers_good_peers_with_their_records():
    r = joined(PX, tuple(names("p", 12)))
    for number in range(12):
        r.says(f"p{number}", graft=[TOPIC])
    r.up("bad", score=-1.0)
    r.up("explicit", direct=True)
    r.up("floodsub", kind=Kind.FLOODSUB)
    r.up("late")
    r.records["p3"] = RECORD
    r.forget()
    r.says("late", graft=[TOPIC])
    ((_, topic, backoff, offered),) = r.sent("late")
    assert (topic, backoff) == (TOPIC, 60)
    assert sorted(offered) == sorted((pid(name).raw, RECORD if name == "p3" else b"") for name in names("p", 12))


@pytest.mark.parametrize(("do_px", "prune_peers", "most"), [(True, 16, 16), (True, 3, 3), (False, 16, 0)])
def test_at_most_sixteen_are_offered_and_by_default_nobody(do_px, prune_peers, most):
    r = joined(with_params(do_px=do_px, prune_peers=prune_peers))
    r.up(*names("p", 40))
    for name in names("p", 13):
        r.forget()
        r.says(name, graft=[TOPIC])
    ((*_, offered),) = r.sent("p12")
    assert len(set(offered)) == len(offered) == most
    assert (pid("p12").raw, b"") not in offered


# --- order


def test_messages_of_an_rpc_come_before_its_gossip():
    r = joined(peers=("a", "b"))
    r.says("a", b"data", ihave=[b"data"])
    assert r.sent("a") == [] and r.delivered == [b"data"]
    r.beat(5)
    assert r.faults("a") == 0


def test_grafts_of_an_rpc_come_before_its_prunes():
    r = joined()
    r.up("a")
    r.forget()
    r.says("a", graft=[TOPIC], prune=[Prune(TOPIC)])
    assert r.mesh() == [] and r.faults("a") == 0 and r.backoff("a") == 60
    assert r.sent("a") == []


@pytest.mark.hostile
def test_hostile_065_flapping_gets_no_more_than_a_graft_for_each_backoff():
    r = joined(peers=("a",))
    grafts = 0
    for _ in range(60):
        if r.mesh():
            r.prunes("a", 1)
        r.beat()
        grafts += len(r.sent("a", "graft"))
    assert 0 < grafts <= 30


@pytest.mark.hostile
def test_hostile_065_who_unsubscribes_and_comes_back_at_once_is_not_new_in_the_mesh():
    """Else nobody would ever be in it for long enough to be judged by what it delivers."""
    r = joined(peers=("a",))
    for faults in (1, 3):
        r.rpc("a", Rpc(subscriptions=[(False, TOPIC), (True, TOPIC)], graft=[TOPIC]))
        assert r.mesh() == [] and r.faults("a") == faults
        r.beat(4)


def test_who_is_slow_for_long_loses_its_places_and_no_score():
    r = joined(peers=("a", "b"))
    r.router.slow(pid("a"), r.now)
    assert r.mesh() == ["b"] and r.sent("a") == [("prune", TOPIC, 60, [])]
    assert r.count("slow peer pruned") == 1 and r.faults("a") == 0 and r.backoff("a") == 60
    r.router.slow(pid("a"), r.now)
    assert r.sent("a") == []


# --- extensions


@pytest.mark.hostile
def test_hostile_065_extensions_once_are_tolerated_twice_are_misbehaviour():
    r = joined(peers=("a", "b"))
    for name in "ab":
        r.router.stream_opened(pid(name))
    r.says("a", extensions=1)
    assert r.faults("a") == 0 and r.take() == []
    r.says("a", extensions=1)
    assert r.faults("a") == 1
    r.says("b", extensions=2)
    assert r.faults("b") == 1 and r.count("extensions twice or late", "") == 2
    r.says("a")
    assert r.faults("a") == 1
    for name in "ab":
        r.router.stream_opened(pid(name))
        r.says(name, extensions=1)
        assert r.faults(name) == 1


@pytest.mark.hostile
def test_hostile_065_extensions_come_in_the_first_rpc_of_a_stream():
    r = joined()
    r.up("a", topics=())
    r.rpc("a", Rpc(subscriptions=[(True, TOPIC)], extensions=1))
    assert r.faults("a") == 0
    r.router.stream_opened(pid("a"))
    r.says("a")
    r.says("a", extensions=1)
    assert r.faults("a") == 1


# --- whatever a peer says


@pytest.mark.hostile
def test_hostile_067_whatever_is_said_raises_nothing_and_the_heartbeat_goes_on():
    rng = random.Random(5)
    r = RouterScript(with_params(do_px=True, message_id_bytes=8, max_message_size=2000))
    r.join()
    peers = names("p", 30)
    kinds = list(Kind)
    topics = [TOPIC, "other", "t" * 1024, "\0", "é"]
    for step in range(600):
        name = rng.choice(peers)
        choice = rng.random()
        if choice < 0.1:
            r.up(name, kind=rng.choice(kinds), outbound=rng.random() < 0.5, direct=rng.random() < 0.05)
        elif choice < 0.13:
            r.down(name)
        elif choice < 0.2:
            r.scores[name] = rng.choice([-1000.0, -150.0, -60.0, -1.0, 0.0, 1.0, 50.0])
        elif choice < 0.25:
            rng.choice([r.join, r.join, r.leave])(rng.choice(topics))
        elif choice < 0.35:
            r.beat()
        else:
            topic = rng.choice(topics)
            r.verdict = None
            r.rpc(
                name,
                Rpc(
                    subscriptions=[(rng.random() < 0.8, topic)],
                    publish=[rng.choice([raw(rng.randbytes(rng.choice([0, 9, 1500, 3000])), topic), rng.randbytes(9)])],
                    ihave=[(topic, [rng.randbytes(8), rng.randbytes(3)])],
                    iwant=[rng.randbytes(8)],
                    graft=[topic],
                    prune=[Prune(topic, [(rng.randbytes(3), rng.randbytes(2))], rng.choice([None, 0, 2**64 - 1]))],
                    idontwant=[rng.randbytes(8)],
                    extensions=rng.choice([0, 0, 1, 5]),
                ),
            )
        if step % 10 == 0:
            r.take()
    r.beat(10)
    r.take()
