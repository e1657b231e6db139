"""Requests and answers of pure nodes, and what they make of records, addresses and lies."""

from ipaddress import ip_address

import pytest

from pyp2p.discv5 import rlp
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.messages import FindNode, Nodes, Ping, Pong, TalkRequest, TalkResponse
from pyp2p.discv5.node import Endpoint, log_distance
from pyp2p.discv5.types import Discv5Config, Form, NodeNews
from pyp2p.errors import LocalProtocolError, NoAnswer, NoEndpoint
from tests.unit.discv5.script import Peer, Script, Stranger, nothing_under_way, two


def friend() -> tuple[Script, Peer, Stranger]:
    """Alice, and a stranger who has a session with her and is live in her table."""
    script, alice, _ = two()
    mallory = Stranger(script, alice)
    for message in mallory.heard(mallory.shake(Ping(b"0", 1))):
        if isinstance(message, Ping):
            mallory.say(mallory.seal(Pong(message.request_id, 1, bytes((50, 0, 1, 1)), 9000)))
    return script, alice, mallory


def asked(script: Script, mallory: Stranger) -> list:
    """What Alice asks the stranger now."""
    script.flush()
    said, script.wire = script.wire, []
    return mallory.heard(said)


# ---- PING, PONG, FINDNODE


def test_request_ids_over_eight_bytes_are_not_answered() -> None:
    _, alice, mallory = friend()
    for size in (0, 1, 8):
        ((pong),) = mallory.heard(mallory.say(mallory.seal(Ping(b"\1" * size, 1))))
        assert isinstance(pong, Pong) and pong.request_id == b"\1" * size
    for code, rest in ((1, [b"\1"]), (3, [[]]), (5, [b"p", b""])):
        assert mallory.say(mallory.seal(bytes([code]) + rlp.encode([bytes(9), *rest]))) == []
    assert alice.count["request ids too long"] == 3


def test_find_node_of_distance_0_is_exactly_our_record() -> None:
    _, alice, mallory = friend()
    (answer,) = mallory.heard(mallory.say(mallory.seal(FindNode(b"1", [0]))))
    assert answer == Nodes(b"1", 1, [alice.record.raw])
    (answer,) = mallory.heard(mallory.say(mallory.seal(FindNode(b"1", [0, 0, 0]))))
    assert answer == Nodes(b"1", 1, [alice.record.raw])


def test_a_find_node_for_nothing_and_for_all() -> None:
    script, alice, mallory = friend()
    (answer,) = mallory.heard(mallory.say(mallory.seal(FindNode(b"1", []))))
    assert answer == Nodes(b"1", 1, [])
    for number in range(60):
        peer = Peer(f"n{number}", f"51.0.{number}.1")
        alice.node.add(peer.record, script.now)
        alice.node.table.alive(peer.id, script.now)
    answers = mallory.heard(mallory.say(mallory.seal(FindNode(b"1", list(range(257))))))
    records = [record for answer in answers for record in answer.records]
    assert {answer.total for answer in answers} == {len(answers)} and len(answers) <= 16
    assert len(records) == len(set(records)) == 16 and records[0] == alice.record.raw


def test_answers_nobody_asked_for_are_ignored() -> None:
    script, alice, mallory = friend()
    before = alice.node.table.counters()
    for answer in (
        Nodes(b"1", 1, [Peer("carol", "50.0.3.1").record.raw]),
        Pong(b"1", 9, bytes((1, 2, 3, 4)), 1),
        TalkResponse(b"1", b"x"),
    ):
        assert mallory.say(mallory.seal(answer)) == []
    assert alice.count["answers unasked"] == 3 + 0
    alice.node.ping(mallory.record, script.now)
    (ping,) = asked(script, mallory)
    for answer in (Nodes(ping.request_id, 1, []), TalkResponse(ping.request_id, b"")):  # of another kind
        assert mallory.say(mallory.seal(answer)) == []
    assert alice.count["answers unasked"] == 5
    assert alice.node.table.counters() == before


def test_only_who_was_asked_can_answer() -> None:
    script, alice, mallory = friend()
    request = alice.node.ping(mallory.record, script.now)
    (ping,) = asked(script, mallory)
    other = Stranger(script, alice, "other", ip="60.0.2.1")
    other.shake(Ping(b"1", 1))
    script.drop()
    other.say(other.seal(Pong(ping.request_id, 1, bytes((1, 2, 3, 4)), 1)))
    assert request not in alice.results
    mallory.say(mallory.seal(Pong(ping.request_id, 1, bytes((1, 2, 3, 4)), 1)))
    assert request in alice.results


def nodes_of(script: Script, alice: Peer, mallory: Stranger, distances: list[int], *answers, end: bool = True):
    """What comes of a FINDNODE that these answer: (total, records) each."""
    request = alice.node.find_node(mallory.record, distances, script.now)
    (asking,) = asked(script, mallory)
    for total, records in answers:
        mallory.say(mallory.seal(Nodes(asking.request_id, total, [record.raw for record in records])))
    if end:
        script.pass_time(2.0, deliver=False)
        script.drop()
    return alice.results.get(request)


def at_distance(mallory: Stranger, distance: int, count: int) -> list[Enr]:
    found = []
    number = 0
    while len(found) < count:
        number += 1
        peer = Peer(f"near {number}", f"52.{number // 256}.{number % 256}.1")
        if log_distance(peer.id, mallory.id) == distance:
            found.append(peer.record)
    return found


def test_records_at_other_distances_than_asked_for_are_left_out() -> None:
    script, alice, mallory = friend()
    right, wrong = at_distance(mallory, 256, 2), at_distance(mallory, 255, 2)
    assert nodes_of(script, alice, mallory, [256], (1, [*wrong, *right])) == right
    assert alice.count["records not asked for"] == 2
    assert nodes_of(script, alice, mallory, [0], (1, [*wrong, mallory.record])) == [mallory.record]


def test_no_more_than_sixteen_records_are_taken() -> None:
    script, alice, mallory = friend()
    records = at_distance(mallory, 256, 24)
    parts = [(6, records[at : at + 4]) for at in range(0, 24, 4)]
    assert nodes_of(script, alice, mallory, [256], *parts) == records[:16]
    assert alice.count["records excess"] == 2  # packets


def test_an_answer_that_changes_its_total() -> None:
    script, alice, mallory = friend()
    records = at_distance(mallory, 256, 3)
    answer = nodes_of(script, alice, mallory, [256], (2, records[:1]), (1, records[1:2]), (2, records[2:]), end=False)
    assert answer == [records[0], records[2]]
    assert alice.count["answers inconsistent"] == 1


@pytest.mark.parametrize("total", [0, 17, 255, 10_000])
def test_a_total_out_of_bounds_is_no_answer(total: int) -> None:
    script, alice, mallory = friend()
    request = alice.node.find_node(mallory.record, [256], script.now)
    (asking,) = asked(script, mallory)
    mallory.say(mallory.seal(b"\x04" + rlp.encode([asking.request_id, rlp.encode_uint(total), []])))
    assert alice.count["bad messages"] == 1
    script.pass_time(3.0, deliver=False)
    assert isinstance(alice.results[request], NoAnswer)


def test_some_of_the_nodes_are_used_at_the_deadline() -> None:
    script, alice, mallory = friend()
    records = at_distance(mallory, 256, 2)
    assert nodes_of(script, alice, mallory, [256], (3, records[:1]), (3, records[1:])) == records
    assert nothing_under_way(alice)
    assert alice.node.table.get(mallory.id).live


def test_records_that_are_none_cost_themselves_only() -> None:
    script, alice, mallory = friend()
    (record,) = at_distance(mallory, 256, 1)
    forged = bytearray(record.raw)
    forged[10] ^= 1
    request = alice.node.find_node(mallory.record, [256], script.now)
    (asking,) = asked(script, mallory)
    mallory.say(mallory.seal(Nodes(asking.request_id, 1, [bytes(forged), b"\xc0", record.raw])))
    assert alice.results[request] == [record] and alice.count["records invalid"] == 2


# ---- TALKREQ


def test_a_protocol_that_is_not_served_has_the_empty_answer() -> None:
    script, alice, mallory = friend()
    (answer,) = mallory.heard(mallory.say(mallory.seal(TalkRequest(b"1", b"what", b"ever"))))
    assert answer == TalkResponse(b"1", b"")
    script.flush()
    assert alice.talks == []


def test_an_answer_that_is_too_late_or_for_another_token_is_none() -> None:
    script, alice, mallory = friend()
    alice.node.protocols.add(b"p")
    assert mallory.say(mallory.seal(TalkRequest(b"1", b"p", b"x"))) == []
    assert mallory.say(mallory.seal(TalkRequest(b"2", b"p", b"x"))) == []
    first, second = alice.talks
    assert not alice.node.talk_respond(99, b"y", script.now)
    assert alice.node.talk_respond(first.token, b"y", script.now + 0.5)
    assert not alice.node.talk_respond(first.token, b"y", script.now + 0.5)  # once
    assert not alice.node.talk_respond(second.token, b"y", script.now + 0.51)
    script.flush()
    assert mallory.heard(script.wire) == [TalkResponse(b"1", b"y")]


def test_an_answer_that_fits_into_no_datagram_is_the_callers_mistake() -> None:
    script, alice, mallory = friend()
    alice.node.protocols.add(b"p")
    mallory.say(mallory.seal(TalkRequest(b"1", b"p", b"x")))
    with pytest.raises(LocalProtocolError, match="bytes"):
        alice.node.talk_respond(alice.talks[0].token, bytes(1300), script.now)
    with pytest.raises(LocalProtocolError, match="bytes"):
        alice.node.talk(mallory.record, b"p", bytes(1300), script.now)
    assert nothing_under_way(alice)


def test_handlers_are_bounded_and_free_again_in_time() -> None:
    script, alice, _ = two(Discv5Config(max_talks=3))
    mallory = Stranger(script, alice)
    alice.node.start(script.now)
    mallory.shake(Ping(b"0", 1))
    alice.node.protocols.add(b"p")
    for number in range(10):
        mallory.say(mallory.seal(TalkRequest(bytes([number]), b"p", b"x")))
    assert len(alice.talks) == 3
    script.pass_time(2.0, deliver=False)
    mallory.say(mallory.seal(TalkRequest(b"a", b"p", b"x")))
    assert len(alice.talks) == 4 and len(alice.node._talks) == 1


def test_one_node_does_not_take_the_handlers_of_all() -> None:
    script, alice, mallory = friend()
    alice.node.protocols.add(b"p")
    for number in range(100):
        mallory.say(mallory.seal(TalkRequest(bytes([number]), b"p", b"x")))
    assert len(alice.talks) == 16
    bob = next(peer for peer in script.peers.values() if peer is not alice)
    bob.node.talk(alice.record, b"p", b"y", script.now)
    script.run()
    assert alice.talks[-1].request == b"y"


# ---- records and addresses


def test_a_newer_record_is_asked_for_when_a_ping_or_a_pong_tells_of_it() -> None:
    for teller in ("ping", "pong"):
        script, alice, bob = two()
        script.meet(alice, bob)
        bob.node.own.change(attnets=b"\1" * 8)
        if teller == "ping":
            bob.node.ping(alice.record, script.now)
        else:
            alice.node.ping(bob.record, script.now)
        script.run()
        assert alice.node.table.get(bob.id).record == bob.record and bob.record.seq == 2
        assert nothing_under_way(alice)


def test_a_record_older_than_ours_is_never_taken() -> None:
    script, alice, mallory = friend()
    old = mallory.record
    new = old.update(mallory.identity, attnets=b"\1" * 8)
    for record in (new, old):
        mallory.say(mallory.seal(Ping(b"1", 7)))
        (asking,) = [each for each in mallory.heard(script.sent[-2:]) if isinstance(each, FindNode)]
        script.drop()
        mallory.say(mallory.seal(Nodes(asking.request_id, 1, [record.raw])))
        assert alice.node._record_of((mallory.id, mallory.endpoint)) == new
        assert alice.node.table.get(mallory.id).record == new
    script.pass_time(3)
    assert nothing_under_way(alice)


def test_a_record_that_goes_back_in_a_handshake_is_not_taken() -> None:
    script, alice, mallory = friend()
    new = mallory.record.update(mallory.identity, attnets=b"\1" * 8)
    for record in (new, mallory.record):
        (challenge,) = mallory.say(mallory.random())
        assert mallory.say(mallory.answer(challenge.data, Ping(b"1", 1), record=record.raw))
        script.drop()
        assert alice.node._record_of((mallory.id, mallory.endpoint)) == new


def vote(script: Script, alice: Peer, count: int, ip: str, port: int, found: bool = True) -> Stranger:
    """So many nodes, each in a subnet of its own, see alice there; others told of them, or they came by themselves."""
    for number in range(count):
        mallory = Stranger(script, alice, name=str(number), ip=f"60.0.{number}.1")
        said = mallory.shake(Ping(b"0", 1))
        if found:
            alice.node.table.heard(mallory.record, mallory.endpoint, script.now, Endpoint("70.0.0.1", 9))
        for message in mallory.heard(said):
            if isinstance(message, Ping):
                mallory.say(mallory.seal(Pong(message.request_id, 1, ip_address(ip).packed, port)))
    return mallory


def test_our_address_by_votes_bumps_and_signs_the_record() -> None:
    alice = Peer("alice", "50.0.1.1", record=False)
    script = Script(alice)
    vote(script, alice, 4, "77.1.2.3", 4444)
    assert alice.records == []
    mallory = vote(script, alice, 5, "77.1.2.3", 4444)
    (changed,) = alice.records
    assert changed == alice.record and changed.seq == 2
    assert (changed.ip, changed.udp) == (ip_address("77.1.2.3"), 4444)
    assert Enr.from_rlp(changed.raw) == changed
    assert mallory.heard(mallory.say(mallory.seal(FindNode(b"1", [0])))) == [Nodes(b"1", 1, [changed.raw])]
    vote(script, alice, 5, "77.1.2.3", 4444)  # it says so already
    assert alice.records == [changed]
    alice.node.own.change(ip=None, udp=None)
    alice.node.own.seen_at(Endpoint("77.1.2.3", 4444), mallory.endpoint, script.now)
    assert (alice.record.ip, alice.record.udp, alice.record.seq) == (changed.ip, 4444, 4)


@pytest.mark.hostile
def test_hostile_088_who_came_to_us_does_not_vote() -> None:
    alice = Peer("alice", "50.0.1.1")
    script = Script(alice)
    vote(script, alice, 30, "77.1.2.3", 4444, found=False)
    assert alice.records == [] and len(alice.node.own.votes) == 0


@pytest.mark.parametrize("claim", ["127.0.0.1:5", "10.0.0.1:5", "224.0.0.1:5", "0.0.0.0:5", "77.1.2.3:0"])
def test_no_votes_make_a_record_of_a_useless_address(claim: str) -> None:
    ip, port = claim.split(":")
    alice = Peer("alice", "50.0.1.1")
    vote(Script(alice), alice, 12, ip, int(port))
    assert alice.records == [] and alice.record.seq == 1


def test_an_address_that_makes_the_record_too_large_is_left_out() -> None:
    alice = Peer("alice", "50.0.1.1", record=False, attnets=bytes(8), filler=bytes(152))
    assert 300 - 14 < len(alice.record.raw) <= 300
    vote(Script(alice), alice, 6, "77.1.2.3", 4444)
    assert alice.records == [] and alice.count["record not changed"] == 2


def test_our_record_never_goes_back() -> None:
    alice = Peer("alice", "50.0.1.1")
    alice.node.own.change(attnets=bytes(8))
    with pytest.raises(LocalProtocolError, match="older"):
        alice.node.own.replace(alice.first)
    with pytest.raises(LocalProtocolError, match="another node"):
        alice.node.own.replace(Peer("bob", "50.0.2.1").record)


def test_a_node_without_an_address_cannot_be_asked() -> None:
    script, alice, _ = two()
    nobody = Peer("nobody", "50.0.9.1", record=False)
    request = alice.node.ping(nobody.record, script.now)
    script.flush()
    assert isinstance(alice.results[request], NoEndpoint) and nobody.id.hex()[:16] in str(alice.results[request])
    assert alice.node.add(nobody.record, script.now) is None


# ---- the table


def test_who_pings_us_is_checked_and_given_out_within_a_minute() -> None:
    script, alice, bob = two()
    carol = Peer("carol", "50.0.3.1")
    script.peers[carol.endpoint] = carol
    for peer in script.peers.values():
        peer.node.start(script.now)
    bob.node.ping(alice.record, script.now)
    script.pass_time(60)
    request = carol.node.find_node(alice.record, [log_distance(alice.id, bob.id)], script.now)
    script.run()
    assert bob.record in carol.results[request]
    assert (NodeNews.LIVE, bob.id) in alice.news


def test_who_does_not_answer_is_not_given_out_and_who_is_gone_is_forgotten() -> None:
    script, alice, bob = two()
    alice.node.start(script.now)
    mute = Stranger(script, alice)
    mute.shake(Ping(b"1", 1))
    script.meet(alice, bob)
    assert alice.node.table.closest(bob.id, 16) == [bob.record]
    del script.peers[bob.endpoint]
    script.pass_time(200, deliver=False)
    assert (NodeNews.GONE, bob.id) in alice.news
    assert len(alice.node.table) == 0


PLACES = ["127.0.0.1", "10.0.0.9", "192.168.1.1", "169.254.1.1", "100.64.0.1", "224.0.0.1", "0.0.0.0"]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_sent_where_a_strangers_record_points_into_our_network(place: str) -> None:
    """A record in a handshake, and records in answers to lookups."""
    script, alice, mallory = friend()
    other = Stranger(script, alice, "other", ip="60.0.2.1", pairs={"ip": ip_address(place), "udp": 22})
    other.shake(Ping(b"1", 1))
    named = Endpoint.of(place, 22)
    assert not [each for each in script.sent if each.to == named]
    assert alice.node.table.get(other.id) is None

    request = alice.node.lookup(other.id, script.now)
    for _ in range(4):
        for asking in asked(script, mallory):
            if isinstance(asking, FindNode):
                mallory.say(mallory.seal(Nodes(asking.request_id, 1, [other.record.raw])))
        script.pass_time(1.0, deliver=False)
    assert not [each for each in script.sent if each.to == named]
    assert alice.results[request] == [mallory.record]
    assert alice.node.table.get(other.id) is None


def test_a_private_teller_may_tell_of_its_own_network() -> None:
    alice, bob, carol = (Peer(name, f"10.0.0.{at}") for at, name in enumerate(("alice", "bob", "carol"), 1))
    script = Script(alice, bob, carol)
    script.meet(bob, carol)
    script.meet(alice, bob)
    request = alice.node.lookup(carol.id, script.now)
    script.pass_time(10)
    assert carol.record in alice.results[request]


def test_who_names_no_endpoint_takes_no_place_though_it_answers() -> None:
    script, alice, _ = two()
    nobody = Peer("nobody", "50.0.9.1", record=False)
    script.peers[nobody.endpoint] = nobody
    request = alice.node.ping(nobody.record, script.now, nobody.endpoint)
    script.run()
    assert isinstance(alice.results[request], Pong)
    assert alice.node.table.get(nobody.id) is None


def test_whoever_was_left_alone_begins_anew_with_those_it_was_given() -> None:
    script, alice, bob = two()
    alice.node.start(script.now)
    alice.node.add(bob.record, script.now)
    script.pass_time(30)
    del script.peers[bob.endpoint]  # offline
    script.pass_time(300, deliver=False)
    assert (NodeNews.GONE, bob.id) in alice.news
    script.peers[bob.endpoint] = bob
    alice.news.clear()
    script.pass_time(60)
    assert (NodeNews.LIVE, bob.id) in alice.news


def test_of_those_we_were_given_sixty_four_are_kept_for_that() -> None:
    script, alice, _ = two()
    for number in range(80):
        alice.node.add(Peer(str(number), f"60.0.{number}.1").record, script.now)
    assert len(alice.node._friends) == 64


def test_a_record_that_is_fixed_follows_no_votes() -> None:
    alice = Peer("alice", "50.0.1.1", fixed=True)
    vote(Script(alice), alice, 12, "77.1.2.3", 4444)
    assert alice.records == [] and alice.record == alice.first


def test_packets_are_traced_on_demand() -> None:
    script, alice, bob = two()
    alice.node.traced = True
    request = alice.node.ping(bob.record, script.now)
    script.run()
    assert isinstance(alice.results[request], Pong)
    told = [(each.form, each.message and type(each.message), each.size) for each in alice.arrived]
    assert told == [(Form.WHOAREYOU, None, 63), *((Form.ORDINARY, kind, size) for _, kind, size in told[1:])]
    assert {kind for _, kind, _ in told[1:]} == {Pong, Ping}  # it checks us as well
    sent = [(form, kind) for form, kind in alice.forms]
    assert sent[:2] == [(Form.ORDINARY, None), (Form.HANDSHAKE, Ping)]
    script.inject(bytes(16) + bytes(100), bob.endpoint, alice)  # no packet at all
    assert len(alice.arrived) == len(told)
    assert bob.arrived == []
