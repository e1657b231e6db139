"""IDONTWANT: when it is said and to whom, what it spares a peer, for how long, and that it is capped."""

import pytest

from pyp2p.pubsub.types import Kind, Lane, Validate
from tests.unit.pubsub.router_support import QUIET, TOPIC, RouterScript, joined, raw, with_params

LARGE = b"large message".ljust(5000, b".")


def test_large_messages_are_told_at_once_to_who_understands_it():
    r = RouterScript()
    for name, kind in (("old", Kind.GOSSIP_1_1), ("new", Kind.GOSSIP_1_2), ("newer", Kind.GOSSIP_1_3)):
        r.up(name, kind=kind)
    r.up("source")
    r.join()
    r.up("outside")
    r.up("explicit", direct=True)
    r.up("floodsub", kind=Kind.FLOODSUB)
    r.forget()
    r.verdict = None  # the validator was not even asked
    r.says("source", LARGE)
    assert isinstance(r.router._out[-1], Validate) and r.router._out[0].lane is Lane.CONTROL
    assert r.who_got("idontwant", [LARGE[:8]]) == ["new", "newer"]
    r.says("old", LARGE)
    assert r.take() == []  # once


@pytest.mark.parametrize(("size", "told"), [(999, False), (1000, True)])
def test_small_messages_are_not_worth_it(size, told):
    r = joined(with_params(idontwant_threshold=1000), ("a", "b"))
    data = b"x" * (2 * size - len(raw(b"x" * size)))
    assert len(raw(data)) == size
    r.says("a", data)
    assert r.sent("b", "idontwant") == ([("idontwant", [data[:8]])] if told else [])


def test_what_a_peer_has_is_not_forwarded_to_it():
    r = joined(peers=("a", "b", "c"))
    r.says("b", idontwant=[b"data"])
    r.says("a", b"data")
    assert r.who_got("message", b"data") == ["c"]
    r.says("a", b"more")
    assert r.who_got("message", b"more") == ["b", "c"]


def test_nor_is_it_sent_when_asked_for():
    r = joined(peers=("a", "b"))
    r.says("a", b"data")
    r.says("b", idontwant=[b"data"])
    r.forget()
    r.says("b", iwant=[b"data"])
    assert r.sent("b") == []


def test_copies_that_wait_are_taken_back():
    r = joined(peers=("a", "b"))
    r.says("b", idontwant=[b"1", b"2"])
    r.take()
    assert r.unwanted == [("b", [b"1", b"2"])]


@pytest.mark.hostile
def test_hostile_064_idontwant_is_capped_in_each_heartbeat():
    r = joined(with_params(max_idontwant_messages=3), ("a", "b"))
    ids = [b"%08d" % number for number in range(5)]
    r.says("b", idontwant=ids)
    r.says("b", idontwant=ids)
    r.take()
    assert r.unwanted == [("b", ids[:3])] and r.count("too many idontwant", "") == 2
    r.says("a", *ids)
    assert r.sent("b") == [("message", ids[3]), ("message", ids[4])]
    assert r.faults("b") == 0
    r.beat()
    r.says("b", idontwant=ids)
    r.take()
    assert len(r.unwanted) == 2


@pytest.mark.parametrize("how", ["heartbeats", "it goes"])
def test_what_a_peer_has_is_forgotten_after_some_heartbeats_and_when_it_goes(how):
    r = joined(peers=("a", "b"))
    r.says("b", idontwant=[b"data"])
    if how == "heartbeats":
        r.beat(QUIET.idontwant_ttl)
    else:
        r.down("b")
        r.up("b")
        r.says("b", graft=[TOPIC])
    r.forget()
    r.says("a", b"data")
    assert r.sent("b") == [("message", b"data")]
