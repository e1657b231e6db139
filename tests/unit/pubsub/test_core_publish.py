"""Our own messages: who gets them, what is refused and leaves nothing behind, that they are encoded once."""

import random

import pytest

from pyp2p.errors import AlreadyPublished, LocalProtocolError, MessageTooLarge, NobodyListens
from pyp2p.peer.keys import Identity
from pyp2p.pubsub.ids import default_message_id
from pyp2p.pubsub.params import GossipParams, Thresholds
from pyp2p.pubsub.signing import StrictSign
from pyp2p.pubsub.types import Deliver, Kind, Lane, Send
from pyp2p.pubsub.wire import decode_message, decode_rpc
from tests.unit.pubsub.router_support import QUIET, TOPIC, RouterScript, joined, names, with_params

FLOOD = GossipParams()
TWENTY = tuple(names("p", 20))


class Backwards:
    """A data transform that can be seen."""

    def outbound(self, topic: str, payload: bytes) -> bytes:
        return payload[::-1]

    def inbound(self, topic: str, data: bytes) -> bytes | None:
        return data[::-1]


# --- who gets them


def test_flood_publish_goes_to_everybody_good_enough():
    r = joined(FLOOD, TWENTY)
    r.up("elsewhere", topics=("other",))
    r.up("just good enough", score=-100.0)
    r.up("bad", score=-100.1)
    r.up("bad but explicit", score=-150.0, direct=True)
    r.up("floodsub", kind=Kind.FLOODSUB)
    r.up("bad floodsub", kind=Kind.FLOODSUB, score=-100.1)
    r.forget()
    expected = sorted([*TWENTY, "just good enough", "bad but explicit", "floodsub"])
    assert sorted(r.publish(b"data")) == expected
    assert r.who_got("message", b"data") == expected


def test_without_it_only_the_mesh_and_who_gets_all():
    r = joined(QUIET, TWENTY)
    r.up("bad but explicit", score=-150.0, direct=True)
    r.up("floodsub", kind=Kind.FLOODSUB)
    r.up("bad floodsub", kind=Kind.FLOODSUB, score=-100.1)
    assert len(r.mesh()) == QUIET.d
    assert sorted(r.publish(b"data")) == sorted([*r.mesh(), "bad but explicit", "floodsub"])


def test_a_small_mesh_has_others_added_for_once():
    r = joined(QUIET)
    r.up(*TWENTY)
    r.up("bad", score=-100.1)
    r.says("p0", graft=[TOPIC])
    first = r.publish(b"1")
    assert len(first) == QUIET.d and "p0" in first and r.mesh() == ["p0"]
    everybody = set(first)
    for n in range(50):
        everybody |= set(r.publish(b"again %d" % n))
    assert everybody == set(TWENTY)


def test_a_topic_that_we_do_not_listen_to_has_its_fanout():
    r = RouterScript()
    r.up(*TWENTY)
    r.up("bad", score=-100.1)
    first = r.publish(b"1")
    assert len(first) == QUIET.d and r.fanout() == sorted(first)
    assert r.publish(b"2") == first
    r.down(first[0])
    r.forget()
    assert r.publish(b"3") == first[1:]
    assert r.who_got("message", b"3") == sorted(first[1:])
    assert r.delivered == []


def test_it_is_delivered_to_ourselves_when_we_listen():
    r = joined(peers=("a",))
    r.publish(b"data")
    r.take()
    assert r.delivered == [b"data"]


def test_the_transform_is_applied_to_what_is_sent_only():
    r = RouterScript(transform=Backwards())
    r.up("a")
    r.join()
    r.publish(b"data")
    assert r.sent("a", "message") == [("message", b"atad")]
    assert r.delivered == [b"data"]


@pytest.mark.parametrize("count", [1, 20])
def test_a_message_is_encoded_once_whatever_the_fanout(count):
    r = joined(FLOOD, TWENTY[:count])
    message = r.router.publish(TOPIC, b"data", r.now).message
    deliver, send = r.take()
    assert isinstance(deliver, Deliver) and deliver.message is message
    assert isinstance(send, Send) and send.lane is Lane.OWN and len(send.peers) == count
    assert send.topic == TOPIC and send.message_id == message.id == b"data"
    assert decode_rpc(send.fragment).publish == [message.raw]


@pytest.mark.parametrize("params", [FLOOD, QUIET])
def test_who_said_that_it_has_the_message_is_spared(params):
    r = joined(params, ("a", "b"))
    r.says("a", idontwant=[b"data"])
    assert r.publish(b"data") == ["b"]
    assert r.who_got("message", b"data") == ["b"]


def test_nobody_may_want_it_and_that_is_no_error():
    r = joined(FLOOD, ("a",))
    r.says("a", idontwant=[b"data"])
    r.forget()
    assert r.publish(b"data") == []
    assert [type(effect) for effect in r.take()] == [Deliver]


def test_a_signed_message_has_our_next_number_and_its_author():
    identity = Identity.generate(entropy=random.Random(1).randbytes)
    r = RouterScript(FLOOD, policy=StrictSign(identity), message_id=default_message_id)
    r.up("a")
    for number in (7, 8):
        message = r.router.publish(TOPIC, b"data", r.now).message
        again = decode_message(message.raw)
        assert again.seqno == number.to_bytes(8, "big") and again.author == identity.peer.raw
        assert message.id == identity.peer.raw + number.to_bytes(8, "big")
        assert StrictSign(identity).check(again) is None


# --- what is refused


def state(r: RouterScript):
    """All that a publication may change."""
    seen, cache, mesh = r.router.seen, r.router.cache, r.router.mesh
    return len(seen), len(cache), dict(mesh.fanout), dict(mesh._published), r.router._seqno, r.router._raw.size


@pytest.mark.parametrize(
    ("params", "size", "most"),
    [
        (with_params(max_message_size=1000), 1000, True),
        (with_params(max_message_size=1000), 1001, False),
        (with_params(max_rpc_size=1000), 991, True),  # with the topic and four tags and lengths
        (with_params(max_rpc_size=1000), 992, False),
        (with_params(max_rpc_size=2000, max_message_size=500), 501, False),
    ],
)
@pytest.mark.parametrize("subscribed", [True, False])
def test_a_message_that_is_too_large_leaves_nothing_behind(params, size, most, subscribed):
    r = RouterScript(params)
    r.up("a")
    if subscribed:
        r.join()
    r.take()
    before = state(r)
    if most:
        assert r.publish(bytes(size)) == ["a"]
        return
    with pytest.raises(MessageTooLarge) as caught:
        r.publish(bytes(size))
    assert caught.value.topic == TOPIC and caught.value.limit in (1000, 500)
    assert caught.value.size > caught.value.limit
    assert state(r) == before and r.take() == []


@pytest.mark.parametrize("params", [FLOOD, QUIET])
@pytest.mark.parametrize("subscribed", [True, False])
def test_when_nobody_listens_nothing_is_left_behind(params, subscribed):
    r = RouterScript(params)
    r.up("elsewhere", topics=("other",))
    r.up("bad", score=-100.1)
    if subscribed:
        r.join()
    r.take()
    before = state(r)
    with pytest.raises(NobodyListens):
        r.publish(b"data")
    assert state(r) == before and r.take() == []
    assert r.count("nobody listens") == 1 and r.count("published") == 0
    r.scores["bad"] = 0.0
    assert r.publish(b"data") == ["bad"]  # and it can be published later


def test_the_same_content_is_published_once():
    r = joined(FLOOD, ("a",))
    r.publish(b"data")
    r.take()
    with pytest.raises(AlreadyPublished):
        r.publish(b"data")
    assert r.take() == [] and len(r.router.cache) == 1
    assert (r.count("published before"), r.count("published")) == (1, 1)


def test_what_we_heard_from_others_is_not_published_again():
    r = joined(FLOOD, ("a", "b"))
    r.says("a", b"data")
    r.forget()
    with pytest.raises(AlreadyPublished):
        r.publish(b"data")
    assert r.take() == []


def test_a_topic_that_peers_would_refuse_is_our_mistake():
    r = joined(FLOOD, ("a",))
    before = state(r)
    for topic in ("", "t" * 1025, "\ud800"):
        with pytest.raises(LocalProtocolError):
            r.publish(b"data", topic)
        with pytest.raises(LocalProtocolError):
            r.join(topic)
    assert state(r) == before and list(r.router.mesh.topics) == [TOPIC]


def test_our_own_message_that_comes_back_is_a_duplicate():
    r = joined(FLOOD, ("a",))
    r.publish(b"data")
    r.forget()
    r.says("a", b"data")
    assert r.count("duplicate") == 1 and r.take() == []
    assert r.invalid("a") == 0


def test_our_own_message_can_be_asked_for():
    r = RouterScript(FLOOD, thresholds=Thresholds())
    r.up("a")
    r.publish(b"data")
    r.forget()
    r.says("a", iwant=[b"data"])
    assert r.sent("a") == [("message", b"data")]
