"""Messages of peers: the order of the checks, who is to blame, who gets them next, who is spared."""

import random

import pytest

from pyp2p.errors import AlreadyPublished
from pyp2p.peer.keys import Identity
from pyp2p.pubsub import core
from pyp2p.pubsub.ids import default_message_id, eth2_altair_message_id
from pyp2p.pubsub.signing import StrictSign
from pyp2p.pubsub.types import Deliver, Kind, Lane, Message, Rpc, Send, Validate, Verdict
from pyp2p.pubsub.wire import publish_fragment
from tests.unit.pubsub.router_support import QUIET, SCORE, TOPIC, RouterScript, joined, names, pid, raw, with_params

RNG = random.Random(1)
ALICE, BOB = Identity.generate(entropy=RNG.randbytes), Identity.generate(entropy=RNG.randbytes)
LARGE = b"large message".ljust(5000, b".")
LARGE_ID = LARGE[:8]


def strict(peers: tuple[str, ...] = ("a", "b")) -> RouterScript:
    return joined(QUIET, peers, policy=StrictSign(ALICE), message_id=default_message_id)


def by_bob(data: bytes = b"data", number: int = 1) -> bytes:
    return StrictSign(BOB).build(TOPIC, data, number).raw


class Picky:
    """A data transform that takes nothing that begins with `!`, and counts."""

    def __init__(self) -> None:
        self.unpacked = 0

    def outbound(self, topic: str, payload: bytes) -> bytes:
        return payload

    def inbound(self, topic: str, data: bytes) -> bytes | None:
        self.unpacked += 1
        return None if data.startswith(b"!") else data


# --- the good ones


def test_a_message_is_delivered_and_forwarded_as_it_came():
    r = joined(peers=("a", "b", "c"))
    unknown_field = raw(b"data") + b"\x50\x01"
    r.rpc("a", Rpc(publish=[unknown_field]))
    send, deliver = r.take()
    assert isinstance(send, Send) and send.lane is Lane.FORWARDED
    assert send.fragment == publish_fragment(unknown_field)
    assert (send.topic, send.message_id) == (TOPIC, b"data")
    assert r.who_got("message", b"data") == ["b", "c"]
    assert isinstance(deliver, Deliver) and deliver.message.source == pid("a")
    assert r.delivered == [b"data"]
    assert r.count("accepted") == 1 and r.first("a") == 1


def test_who_else_gets_it():
    r = joined(peers=tuple(names("p", 6)))
    r.up("outside")
    r.up("explicit", direct=True)
    r.up("floodsub", kind=Kind.FLOODSUB)
    r.up("explicit elsewhere", direct=True, topics=("other",))
    r.forget()
    r.says("p0", b"data")
    assert r.who_got("message", b"data") == sorted([*names("p", 6)[1:], "explicit", "floodsub"])
    r.says("outside", b"more")
    assert r.who_got("message", b"more") == sorted([*names("p", 6), "explicit", "floodsub"])


def test_a_forwarded_message_is_encoded_once():
    r = joined(peers=tuple(names("p", 6)))
    r.says("p0", b"data")
    assert [len(each.peers) for each in r.take() if isinstance(each, Send)] == [5]


def test_it_goes_neither_to_its_source_nor_to_its_author():
    r = strict()
    author = BOB.peer
    r.router.peer_up(author, Kind.GOSSIP_1_2, False, (), r.now)
    r.router.handle_rpc(author, Rpc(subscriptions=[(True, TOPIC)], graft=[TOPIC]), r.now)
    r.forget()
    r.rpc("a", Rpc(publish=[by_bob()]))
    sends = [effect for effect in r.take() if isinstance(effect, Send)]
    assert [send.peers for send in sends] == [[pid("b")]]


def test_several_messages_in_one_rpc():
    r = joined(peers=("a",))
    r.says("a", b"1", b"2", b"1", b"3")
    r.take()
    assert r.delivered == [b"1", b"2", b"3"] and r.count("duplicate") == 1


def test_a_message_of_another_topic_is_dropped_and_counted():
    r = joined(peers=("a", "b"))
    r.says("a", b"data", topic="other")
    assert r.take() == [] and r.count("not subscribed", "") == 1
    assert r.faults("a") == r.invalid("a") == 0 and len(r.router.seen) == 0
    r.leave()
    r.forget()
    r.says("a", b"data")
    assert r.take() == [] and r.count("not subscribed", "") == 2


def test_without_a_state_a_peer_says_nothing():
    r = joined(peers=("a",))
    r.says("stranger", b"data", graft=[TOPIC])
    r.down("a")
    r.says("a", b"data")
    assert r.take() == [] and r.mesh() == []


# --- duplicates


def test_a_duplicate_goes_nowhere_and_blames_nobody():
    r = joined(peers=("a", "b", "c"))
    r.says("a", b"data")
    r.forget()
    for name in ("a", "b", "b"):
        r.says(name, b"data")
    assert r.take() == [] and r.count("duplicate") == 3
    assert r.invalid("a") == r.invalid("b") == r.faults("b") == 0
    assert (r.first("a"), r.first("b")) == (1, 0)


@pytest.mark.hostile
def test_hostile_073_a_replay_is_a_duplicate_for_as_long_as_ids_are_remembered():
    r = joined(peers=("a", "b"))
    r.says("a", b"data")
    for _ in range(int(QUIET.seen_ttl)):
        r.says("b", b"data")
        r.beat()
    r.take()
    assert r.delivered == [b"data"]
    r.beat(5)
    r.says("b", b"data")
    r.take()
    assert r.delivered == [b"data", b"data"]


@pytest.mark.parametrize("size", [10, 1023, 5000])
def test_a_large_duplicate_is_known_by_its_bytes(size):
    picky = Picky()
    r = joined(peers=("a", "b"), transform=picky)
    data = b"x" * (size - len(raw(b"x" * size)) + size)
    assert len(raw(data)) == size
    r.says("a", data)
    for _ in range(10):
        r.says("b", data)
    assert r.count("duplicate") == 10
    assert picky.unpacked == (11 if size < core._RAW_INDEX_FROM else 1)


def test_our_own_large_message_is_known_by_its_bytes():
    picky = Picky()
    r = joined(peers=("a",), transform=picky)
    r.publish(LARGE)
    r.says("a", LARGE)
    assert r.count("duplicate") == 1 and picky.unpacked == 0


@pytest.mark.hostile
@pytest.mark.parametrize("start", [b"", b"!"])
def test_hostile_073_a_message_whose_id_was_pushed_out_is_judged_anew(start):
    """Its bytes are still known: it must not pass without being unpacked."""
    r = joined(with_params(seen_bytes=1), ("a", "b"), transform=Picky())
    large = start + LARGE
    r.says("a", large)
    for number in range(3000):  # ids are forgotten by the thousand
        r.says("a", b"%08d" % number)
    assert large[:8] not in r.router.seen and r.router._raw.find(raw(large)) is not None
    r.forget()
    r.says("b", large)
    r.take()
    assert r.delivered == ([] if start else [large])
    assert r.count("rejected") == (2 if start else 0)


@pytest.mark.hostile
def test_hostile_073_a_message_whose_id_was_pushed_out_is_validated_once():
    r = joined(with_params(seen_bytes=1), ("a", "b"))
    r.verdict = None
    r.says("a", b"waits")
    r.verdict = Verdict.ACCEPT
    for number in range(3000):
        r.says("a", b"%08d" % number)
    assert b"waits" not in r.router.seen
    r.verdict = None
    r.says("b", b"waits")
    r.take()
    (message,) = r.validating
    assert r.count("duplicate") == 1
    r.router.validated(message, Verdict.REJECT, r.now)
    assert [r.invalid(name) for name in "ab"] == [1, 1]


# --- signatures


def test_a_signed_message_passes():
    r = strict()
    r.rpc("a", Rpc(publish=[by_bob()]))
    assert r.who_got("message", b"data") == ["b"]
    assert r.delivered == [b"data"]


@pytest.mark.hostile
def test_hostile_069_a_forged_copy_does_not_suppress_the_true_one():
    r = strict()
    true = by_bob()
    forged = by_bob(b"DATA").replace(b"DATA", b"EVIL")  # same author and number: the same id
    for _ in range(3):
        r.rpc("a", Rpc(publish=[forged]))
    assert r.take() == [] and r.count("rejected") == 3
    assert r.invalid("a") == 3 and len(r.router.seen) == 0
    r.rpc("b", Rpc(publish=[true]))
    r.take()
    assert r.delivered == [b"data"] and r.invalid("b") == 0
    r.rpc("a", Rpc(publish=[forged]))  # now it is known by its id: nobody verifies it again
    assert r.count("rejected") == 3 and r.count("duplicate") == 1


def test_a_signature_is_verified_once():
    class Counting(StrictSign):
        checks = 0

        def check(self, message: Message) -> str | None:
            self.checks += 1
            return super().check(message)

    policy = Counting(ALICE)
    r = joined(QUIET, ("a", "b"), policy=policy, message_id=default_message_id)
    for name in ("a", "b", "a"):
        r.rpc(name, Rpc(publish=[by_bob()]))
    assert policy.checks == 1


def test_the_check_of_the_signature_comes_before_any_validator():
    r = strict()
    r.verdict = None
    r.rpc("a", Rpc(publish=[by_bob(b"DATA").replace(b"DATA", b"EVIL")]))
    assert r.take() == [] and r.validating == []


@pytest.mark.hostile
@pytest.mark.parametrize("field", [0x0A, 0x1A, 0x2A, 0x32])
def test_hostile_069_what_has_a_signer_though_nobody_signs_is_rejected(field):
    r = joined(peers=("a", "b"))
    r.rpc("a", Rpc(publish=[raw(b"data") + bytes((field, 0))]))
    assert r.take() == [] and r.invalid("a") == 1 and r.count("rejected") == 1
    r.says("b", b"data")
    r.take()
    assert r.delivered == [b"data"]


def test_a_message_that_claims_to_be_ours_is_judged_by_its_signature():
    r = strict()
    me = StrictSign(ALICE)
    r.router._my_id = ALICE.peer.raw
    r.rpc("a", Rpc(publish=[me.build(TOPIC, b"DATA", 1).raw.replace(b"DATA", b"EVIL")]))
    assert r.invalid("a") == 1
    r.rpc("a", Rpc(publish=[me.build(TOPIC, b"old one of ours", 1).raw]))  # js sends to the author too
    assert r.take() == [] and r.count("our own came back") == 1 and r.invalid("a") == 1


def test_an_old_one_of_ours_keeps_a_promise_and_is_verified_once():
    r = strict()
    r.router._my_id = ALICE.peer.raw
    old = StrictSign(ALICE).build(TOPIC, b"old one of ours", 1)
    old.id = default_message_id(old)
    r.says("a", ihave=[old.id])
    for _ in range(3):
        r.rpc("a", Rpc(publish=[old.raw]))
    assert r.count("our own came back") == 1 and r.count("duplicate") == 2
    r.beat(5)
    assert r.faults("a") == 0


# --- sizes and transforms


@pytest.mark.hostile
@pytest.mark.parametrize(("size", "passes"), [(100, True), (101, False)])
def test_hostile_071_a_message_over_the_bound_is_rejected_unvalidated(size, passes):
    r = joined(with_params(max_message_size=100), ("a", "b"))
    r.says("a", bytes(size))
    r.take()
    assert len(r.delivered) == passes and r.invalid("a") == (not passes)
    assert len(r.router.seen) == passes


@pytest.mark.hostile
def test_hostile_072_data_that_cannot_be_unpacked_is_rejected_and_remembered():
    r = joined(peers=("a", "b"), transform=Picky())
    r.says("a", b"!data")
    assert r.take() == [] and r.invalid("a") == 1 and r.count("rejected") == 1
    r.says("b", b"!data")
    assert r.invalid("b") == 1 and r.count("duplicate") == 1


@pytest.mark.hostile
def test_hostile_072_the_id_tells_valid_from_invalid():
    r = joined(peers=("a",), transform=Picky(), message_id=eth2_altair_message_id)
    for data in (b"!data", b"data"):
        r.says("a", data)
        message = Message(TOPIC, data, b"", payload=data)
        assert eth2_altair_message_id(message, not data.startswith(b"!")) in r.router.seen


# --- verdicts


def test_a_rejected_message_is_the_fault_of_all_who_brought_it():
    r = joined(peers=("a", "b", "c", "d"))
    r.verdict = None
    r.says("a", b"data")
    r.says("b", b"data")
    r.take()
    (message,) = r.validating
    r.router.validated(message, Verdict.REJECT, r.now)
    r.says("c", b"data")
    assert [r.invalid(name) for name in "abcd"] == [1, 1, 1, 0]
    assert r.take() == [] and r.delivered == [] and len(r.router.cache) == 0
    assert r.count("rejected") == 1 and r.first("a") == 0


def test_an_ignored_message_goes_nowhere_and_blames_nobody():
    r = joined(peers=("a", "b"))
    r.verdict = Verdict.IGNORE
    r.says("a", b"data")
    r.says("b", b"data")
    assert r.take() == [] and len(r.router.cache) == 0
    assert [r.invalid(name) for name in "ab"] == [0, 0] and r.first("a") == 0
    assert r.count("ignored") == 1 and r.count("duplicate") == 1
    assert r.router.score.deliveries == 0  # nobody watches for more


def test_a_message_waits_for_its_verdict():
    r = joined(peers=("a", "b", "c"))
    r.verdict = None
    r.says("a", b"data")
    (effect,) = r.take()
    assert isinstance(effect, Validate)
    assert r.router.sizes()["awaiting verdict"] == 1
    r.says("b", b"data")
    assert r.take() == [] and len(r.router.cache) == 0
    r.router.validated(effect.message, Verdict.ACCEPT, r.now)
    assert r.who_got("message", b"data") == ["b", "c"] and r.delivered == [b"data"]
    assert r.router.sizes()["awaiting verdict"] == 0 and len(r.router.cache) == 1


@pytest.mark.hostile
def test_hostile_074_a_second_verdict_counts_for_nothing():
    r = joined(peers=("a", "b"))
    r.verdict = None
    r.says("a", b"data")
    r.take()
    (message,) = r.validating
    r.router.validated(message, Verdict.ACCEPT, r.now)
    r.forget()
    for verdict in Verdict:
        r.router.validated(message, verdict, r.now)
    assert r.take() == [] and r.invalid("a") == 0 and r.first("a") == 1


@pytest.mark.hostile
def test_hostile_074_a_verdict_after_its_source_is_gone_or_we_left():
    r = joined(peers=("a", "b"))
    r.verdict = None
    r.says("a", b"1", b"2")
    r.take()
    first, second = r.validating
    r.down("a")
    r.router.validated(first, Verdict.ACCEPT, r.now)
    assert r.who_got("message", b"1") == ["b"] and r.delivered == [b"1"]
    r.leave()
    r.forget()
    r.router.validated(second, Verdict.ACCEPT, r.now)
    assert r.take() == []


def test_a_rejected_message_cannot_be_published_or_asked_for():
    r = joined(peers=("a", "b"))
    r.verdict = Verdict.REJECT
    r.says("a", b"data")
    r.says("b", iwant=[b"data"])
    assert r.take() == []
    with pytest.raises(AlreadyPublished):
        r.publish(b"data")


@pytest.mark.parametrize("why", ["signature", "data"])
def test_copies_of_bad_messages_are_not_told_to_be_unwanted(why):
    if why == "signature":
        r = strict()
        r.rpc("a", Rpc(publish=[by_bob(b"DATA" * 1000).replace(b"DATA", b"EVIL")]))
    else:
        r = joined(peers=("a", "b"), transform=Picky())
        r.says("a", b"!" + LARGE)
    assert r.sent("b") == [] and r.invalid("a") == 1


# --- malformed ones


@pytest.mark.hostile
@pytest.mark.parametrize(
    "bad",
    [b"\xff", b"", b"\x12\x04data", raw(b"data") + raw(b"data"), b"\x22\x01\xff", b"\x22\x7f", b"\x0b\x0c"],
    ids=["cut", "empty", "no topic", "twice", "no UTF-8", "cut field", "group"],
)
def test_hostile_076_a_malformed_message_is_misbehaviour_and_the_rest_is_heard(bad):
    r = joined(peers=("a", "b"))
    r.rpc("a", Rpc(publish=[bad, raw(b"data")]))
    r.take()
    assert r.faults("a") == 1 and r.count("malformed", "") == 1
    assert r.delivered == [b"data"]


@pytest.mark.hostile
def test_hostile_076_a_malformed_rpc_is_misbehaviour():
    r = joined(peers=("a",))
    r.router.malformed(pid("a"))
    r.router.malformed(pid("stranger"))
    assert r.faults("a") == 1 and r.count("malformed", "") == 2 and r.take() == []


def test_nobody_scores_by_a_message_of_a_topic_without_parameters():
    r = joined(peers=("a",), score=SCORE)
    r.join("other")
    r.says("a", b"data", topic="other")
    assert r.router.score.components(pid("a")).topics.keys() <= {TOPIC}
    r.take()
    assert r.delivered == [b"data"]
