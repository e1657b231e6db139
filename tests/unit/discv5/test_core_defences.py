"""Pure nodes under spoofed traffic, lies and haste: each rule that keeps one from harm, alone."""

from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from pyp2p.discv5.enr import Enr
from pyp2p.discv5.messages import FindNode, Nodes, Ping, Pong
from pyp2p.discv5.node import Endpoint, log_distance
from pyp2p.discv5.table import TableConfig
from pyp2p.discv5.types import Completed, Discv5Config, NodeEvent, NodeNews
from pyp2p.errors import NoAnswer
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.testing import SeededEntropy
from tests.unit.discv5.script import Datagram, Peer, Script, Stranger, nothing_under_way, two
from tests.unit.discv5.test_core_messages import asked, at_distance, friend


def ask(script: Script, asker: Peer, node: Enr) -> object:
    """The result of a PING, without a moment passing."""
    request = asker.node.ping(node, script.now)
    script.run()
    return asker.results.get(request)


# ---- spoofed traffic


def junk(mallory: Stranger) -> bytes:
    return mallory.entropy(100)


def made_up(mallory: Stranger) -> bytes:
    mallory.id = mallory.entropy(32)
    return mallory.random()


def as_the_friend(mallory: Stranger) -> bytes:
    mallory.id = next(peer.id for peer in mallory.script.peers.values() if peer is not mallory.victim)
    return mallory.random()


@pytest.mark.hostile
@pytest.mark.parametrize("spoofed", [junk, made_up, as_the_friend])
def test_hostile_088_packets_with_a_friends_address_do_not_silence_the_friend(
    spoofed: Callable[[Stranger], bytes],
) -> None:
    script, alice, bob = two()
    script.meet(alice, bob)
    mallory = Stranger(script, alice)
    for number in range(1000):
        mallory.say(spoofed(mallory), bob.endpoint)
        if number % 50 == 0:
            for asker, friend_ in ((alice, bob), (bob, alice)):
                assert isinstance(ask(script, asker, friend_.record), Pong), number
        script.now += 0.01
    assert alice.count["sessions"] + bob.count["sessions"] == 1  # the first one all the time


@pytest.mark.hostile
def test_hostile_088_a_flood_from_made_up_sources_does_not_stop_what_we_ask_of_a_new_node() -> None:
    script, alice, bob = two()
    mallory = Stranger(script, alice)
    packet = mallory.random()

    def flood(first: int, count: int) -> None:
        for number in range(first, first + count):
            alice.node.datagram_received(packet, Endpoint(f"60.{number // 250 % 250}.{number % 250}.1", 9), script.now)
        alice.node.take()

    flood(0, 4000)  # the first burst
    request = alice.node.ping(bob.record, script.now)
    script.flush()
    for step in range(20):
        flood(4000 + 40 * step, 40)
        if script.wire:
            script.deliver()
        script.now += 0.01
    assert isinstance(alice.results.get(request), Pong) and script.now < 1000.3
    assert alice.count["challenges_total"] > 300  # strangers wait
    flood(0, 40)
    assert mallory.say(mallory.random(), Endpoint("61.0.0.1", 9)) == []


# ---- who is who


@pytest.mark.hostile
def test_hostile_088_with_ones_own_record_nobody_proves_to_be_another() -> None:
    for known in (False, True):
        script, alice, bob = two()
        if known:
            script.meet(alice, bob)
        mallory = Stranger(script, alice)
        mallory.id = bob.id
        before = alice.count["sessions"]
        (challenge,) = mallory.say(mallory.random())
        assert mallory.say(mallory.answer(challenge.data, Ping(b"1", 1))) == []
        assert alice.count["handshakes refused"] == 1 and alice.count["sessions"] == before
        assert alice.node._sessions.get((bob.id, mallory.endpoint)) is None


@pytest.mark.hostile
def test_hostile_088_an_answer_comes_from_the_endpoint_that_was_asked() -> None:
    script, alice, mallory = friend()
    elsewhere = Stranger(script, alice, port=9001, pairs={"ip": ip_address("60.0.1.1"), "udp": 9000})
    assert elsewhere.record == mallory.record
    elsewhere.shake(Ping(b"1", 1))
    script.drop()
    request = alice.node.ping(mallory.record, script.now)
    (ping,) = asked(script, mallory)
    pong = Pong(ping.request_id, 1, bytes((1, 2, 3, 4)), 1)
    elsewhere.say(elsewhere.seal(pong))
    assert request not in alice.results and alice.count["answers unasked"] == 1
    mallory.say(mallory.seal(pong))
    assert alice.results[request] == pong


def test_a_session_comes_with_the_newest_record_that_we_have() -> None:
    _, alice, mallory = friend()
    newer = mallory.record.update(mallory.identity, attnets=b"\1" * 8)
    for record in (newer, mallory.record):
        (challenge,) = mallory.say(mallory.random())
        alice.node.datagram_received(
            mallory.answer(challenge.data, Ping(b"1", 1), record=record.raw), mallory.endpoint, mallory.script.now
        )
        told = [each.node for each in alice.node.take() if isinstance(each, NodeEvent)]
        assert told == [newer]


# ---- sessions that we began


def without_a_place() -> tuple[Script, Peer, Peer]:
    """Alice began a session with Bob, for whom her table has no place."""
    script, alice, bob = two(Discv5Config(table=TableConfig(per_table_subnet=1)))
    alice.node.add(Peer("neighbour", "50.0.2.9").record, script.now)
    assert isinstance(ask(script, alice, bob.record), Pong)
    assert alice.node.table.get(bob.id) is None
    return script, alice, bob


def test_who_has_no_place_in_the_table_is_known_by_the_session() -> None:
    script, alice, bob = without_a_place()
    alice.node.protocols.add(b"p")
    request = bob.node.talk(alice.record, b"p", b"hello", script.now)
    script.run()
    (call,) = alice.talks
    assert call.node == bob.record and call.request == b"hello"
    alice.node.talk_respond(call.token, b"yes", script.now)
    script.run()
    assert bob.results[request] == b"yes"


def test_the_newer_record_of_who_has_no_place_in_the_table_is_fetched() -> None:
    script, alice, bob = without_a_place()
    alice.node.protocols.add(b"p")
    bob.node.own.change(attnets=b"\1" * 8)
    ask(script, bob, alice.record)
    before = len(script.sent)
    ask(script, bob, alice.record)
    assert len(script.sent) == before + 2  # it is not asked for again
    bob.node.talk(alice.record, b"p", b"", script.now)
    script.run()
    assert alice.talks[0].node == bob.record and bob.record.seq == 2


# ---- keys


def test_a_recorded_packet_brings_back_no_keys() -> None:
    script, alice, mallory = friend()
    recorded = mallory.seal(Ping(b"old", 1))
    mallory.shake(Ping(b"1", 1))
    script.drop()
    script.now += 2.0
    (challenge,) = mallory.say(recorded)
    assert len(challenge.data) == 63
    alice.node.ping(mallory.record, script.now)
    assert [type(each) for each in asked(script, mallory)] == [Ping]  # under the new keys
    assert [type(each) for each in mallory.heard(mallory.say(mallory.seal(Ping(b"2", 1))))] == [Pong]


def test_nothing_is_sent_under_keys_that_the_node_has_not_used() -> None:
    script, alice, bob = two()
    first = alice.node.ping(bob.record, script.now)
    script.deliver()
    script.deliver()
    assert script.kinds() == ["handshake"]
    script.drop()
    second = alice.node.talk(bob.record, b"p", b"", script.now)
    script.flush()
    script.pass_time(5, deliver=False)
    assert {script.kind(each) for each in script.sent if each.to == bob.endpoint} == {"random", "handshake"}
    assert isinstance(alice.results[first], NoAnswer) and isinstance(alice.results[second], NoAnswer)


def test_who_waits_for_a_session_goes_on_with_whatever_comes_first_under_it() -> None:
    script, alice, bob = two()
    requests = [alice.node.ping(bob.record, script.now) for _ in range(3)]
    for _ in range(3):
        script.deliver()
    assert script.kinds() == ["message", "message"]  # the check of Alice, and the answer
    script.wire.pop()
    script.deliver()
    assert [kind for _, kind in alice.forms][-3:] == [Ping, Ping, Pong] and requests[0] not in alice.results
    script.run()
    assert all(isinstance(alice.results[each], Pong) for each in requests[1:])


def test_who_waits_for_a_session_goes_on_when_the_node_begins_it() -> None:
    script, alice, _ = two()
    mallory = Stranger(script, alice)
    for _ in range(3):
        alice.node.ping(mallory.record, script.now)
    script.drop()  # she asks for a session
    said = mallory.shake(Ping(b"1", 1))
    assert [type(each) for each in mallory.heard(said)].count(Ping) >= 2


# ---- NODES


def test_a_part_of_an_answer_that_comes_twice_counts_once() -> None:
    script, alice, mallory = friend()
    records = at_distance(mallory, 256, 4)
    request = alice.node.find_node(mallory.record, [256], script.now)
    (asking,) = asked(script, mallory)
    parts = [Nodes(asking.request_id, 2, [each.raw for each in some]) for some in (records[:2], records[2:])]
    for part in (parts[0], parts[0], parts[0]):
        mallory.say(mallory.seal(part))
    assert request not in alice.results and alice.count["answers repeated"] == 2
    mallory.say(mallory.seal(parts[1]))
    assert alice.results[request] == records


def test_half_of_an_answer_is_a_sign_of_life() -> None:
    script, alice, _ = two()
    mallory = Stranger(script, alice)
    alice.node.add(mallory.record, script.now)
    mallory.shake(Ping(b"1", 1))
    script.drop()
    assert not alice.node.table.get(mallory.id).live
    records = at_distance(mallory, 256, 1)
    request = alice.node.find_node(mallory.record, [256], script.now)
    (asking,) = asked(script, mallory)
    mallory.say(mallory.seal(Nodes(asking.request_id, 2, [records[0].raw])))
    assert not alice.node.table.get(mallory.id).live
    script.pass_time(0.6, deliver=False)
    assert alice.results[request] == records
    assert alice.node.table.get(mallory.id).live and (NodeNews.LIVE, mallory.id) in alice.news


# ---- newer records


@pytest.mark.hostile
def test_hostile_088_pings_of_a_record_that_never_comes_cause_two_questions_at_a_time() -> None:
    script, _, mallory = friend()
    said: list[Datagram] = []
    for number in range(50):
        said += mallory.say(mallory.seal(Ping(bytes([number]), 1 << 40)))
    questions = [each for each in mallory.heard(said) if isinstance(each, FindNode)]
    assert 1 <= len(questions) <= 2
    script.pass_time(1.9, deliver=False)
    asking = {each.request_id for each in asked(script, mallory) if isinstance(each, FindNode)}
    assert asking == {each.request_id for each in questions}


@pytest.mark.hostile
def test_hostile_088_asked_for_its_record_a_node_tells_of_no_other() -> None:
    _, alice, mallory = friend()
    other = Peer("other", "50.0.7.1").record
    (asking,) = [each for each in mallory.heard(mallory.say(mallory.seal(Ping(b"1", 9)))) if isinstance(each, FindNode)]
    mallory.say(mallory.seal(Nodes(asking.request_id, 1, [other.raw])))
    assert alice.node._record_of((mallory.id, mallory.endpoint)) == mallory.record
    assert alice.node.table.get(other.node_id) is None


# ---- checks


def test_handshakes_in_a_row_cause_one_check_and_none_of_who_is_live() -> None:
    script, alice, _ = two()
    mallory = Stranger(script, alice)
    checks = []
    for number in range(3):
        said = mallory.shake(Ping(bytes([number]), 1))
        checks += [each for each in mallory.heard(said) if isinstance(each, Ping)]
    assert len(checks) == 1
    mallory.say(mallory.seal(Pong(checks[0].request_id, 1, bytes((50, 0, 1, 1)), 9000)))
    assert alice.node.table.get(mallory.id).live
    script.pass_time(3, deliver=False)
    assert [type(each) for each in mallory.heard(mallory.shake(Ping(b"9", 1)))] == [Pong]


# ---- endpoints


def moved(peer: Peer, ip: str, seq: int) -> Enr:
    """A record of a peer that names another place."""
    return Enr.sign(peer.identity, seq, {"ip": ip_address(ip), "udp": 9000})


def sent_to(script: Script, alice: Peer, node: Enr) -> str:
    script.drop()
    alice.node.ping(node, script.now)
    script.flush()
    return script.wire[0].to.ip


def test_where_a_node_answered_counts_more_than_its_record_and_less_than_a_newer_one() -> None:
    script, alice, bob = two()
    stale = moved(bob, "50.0.8.1", 1)
    newer = moved(bob, "50.0.9.1", 2)
    alice.node.table.heard(stale, bob.endpoint, script.now)
    assert sent_to(script, alice, stale) == "50.0.8.1"  # nobody answered where it spoke from
    alice.node.table.alive(bob.id, script.now)
    script.pass_time(4, deliver=False)
    alice.node.table.alive(bob.id, script.now)
    assert sent_to(script, alice, stale) == "50.0.2.1"
    assert sent_to(script, alice, newer) == "50.0.9.1"


def test_an_answer_from_elsewhere_verifies_no_node_of_the_table() -> None:
    script, alice, bob = two()
    stale = moved(bob, "50.0.8.1", 1)
    alice.node.add(stale, script.now)
    request = alice.node.ping(stale, script.now, bob.endpoint)
    script.run()
    assert isinstance(alice.results[request], Pong)
    assert not alice.node.table.get(bob.id).live and (NodeNews.LIVE, bob.id) not in alice.news


@pytest.mark.hostile
def test_hostile_088_who_is_far_away_is_not_told_of_our_neighbours() -> None:
    script, alice, _ = two()
    inside = Peer("inside", "10.0.0.5").record
    neighbour = Stranger(script, alice, "neighbour", ip="10.0.0.6")
    stranger = Stranger(script, alice)
    alice.node.add(inside, script.now)
    assert alice.node.table.alive(inside.node_id, script.now)
    request = FindNode(b"1", [log_distance(alice.id, inside.node_id)])
    told = []
    for asker in (neighbour, stranger):
        asker.shake(Ping(b"1", 1))
        answers = asker.heard(asker.say(asker.seal(request)))
        told.append([record for answer in answers if isinstance(answer, Nodes) for record in answer.records])
    assert inside.raw in told[0] and told[1] == []


# ---- cancelled requests


def test_a_cancelled_request_sends_nothing_more_and_frees_its_place() -> None:
    script, alice, bob = two(Discv5Config(max_requests_per_node=1))
    for _ in range(100):
        request = alice.node.ping(bob.record, script.now)
        alice.node.cancel(request)
        assert nothing_under_way(alice)
    script.drop()
    before = len(script.sent)
    assert alice.node.next_timer() is None
    script.pass_time(5)
    assert len(script.sent) == before and not alice.results and not alice.count["requests refused"]
    assert isinstance(ask(script, alice, bob.record), Pong)


def test_a_cancelled_request_under_a_session_ignores_what_comes_of_it() -> None:
    script, alice, mallory = friend()
    request = alice.node.ping(mallory.record, script.now)
    (ping,) = asked(script, mallory)
    alice.node.cancel(request)
    assert nothing_under_way(alice)
    mallory.say(mallory.seal(Pong(ping.request_id, 1, bytes(4), 1)))
    script.pass_time(3, deliver=False)
    assert request not in alice.results and alice.count["answers unasked"] == 1
    assert alice.node.table.get(mallory.id).failures == 0


def test_many_pings_that_are_cancelled_leave_room_for_the_next() -> None:
    script, alice, bob = two()
    del script.peers[bob.endpoint]
    for _ in range(10):
        requests = [alice.node.ping(bob.record, script.now) for _ in range(10)]
        for request in reversed(requests):
            alice.node.cancel(request)
        assert nothing_under_way(alice)
    last = [alice.node.ping(bob.record, script.now) for _ in range(16)]
    script.pass_time(4)
    assert all(isinstance(alice.results[each], NoAnswer) for each in last) and nothing_under_way(alice)


def test_a_cancelled_handshake_goes_on_for_those_that_wait_for_it() -> None:
    script, alice, bob = two()
    first = alice.node.ping(bob.record, script.now)
    others = [alice.node.ping(bob.record, script.now) for _ in range(2)]
    script.drop()
    alice.node.cancel(first)
    alice.node.cancel(others[0])
    script.pass_time(1.1)
    assert isinstance(alice.results[others[1]], Pong) and others[0] not in alice.results
    assert nothing_under_way(alice)


def test_a_cancelled_lookup_is_forgotten_at_once() -> None:
    script, alice, bob = two()
    alice.node.add(bob.record, script.now)
    request = alice.node.lookup(bytes(32), script.now)
    assert alice.node._walks
    alice.node.cancel(request)
    assert not alice.node._walks
    script.pass_time(10)
    assert not [each for each in alice.node.take() if isinstance(each, Completed)] and request not in alice.results


# ---- lookups


def records_in(place: str, mallory: Stranger, distances: list[int], count: int) -> list[Enr]:
    """Records at these distances from a node, that name so many endpoints of one place."""
    found: list[Enr] = []
    for identity in identities():
        if len(found) == count:
            break
        record = Enr.sign(identity, 1, {"ip": ip_address(place) + len(found), "udp": 9000})
        if log_distance(record.node_id, mallory.id) in distances:
            found.append(record)
    return found


def identities() -> Iterator[Identity]:
    entropy = SeededEntropy("records")
    while True:
        yield Identity.generate(KeyType.SECP256K1, entropy=entropy)


@pytest.mark.hostile
@pytest.mark.parametrize(("here", "place", "most"), [("60.0", "99.0.0.1", 4), ("127.0", "127.0.9.1", 16)])
def test_hostile_088_an_answer_makes_us_send_to_few_of_a_subnet(here: str, place: str, most: int) -> None:
    alice = Peer("alice", "127.0.0.1" if here == "127.0" else "50.0.1.1")
    script = Script(alice)
    mallory = Stranger(script, alice, ip=f"{here}.1.1")
    for message in mallory.heard(mallory.shake(Ping(b"0", 1))):
        if isinstance(message, Ping):
            mallory.say(mallory.seal(Pong(message.request_id, 1, bytes((50, 0, 1, 1)), 9000)))
    alice.node.lookup(bytes([mallory.id[0] ^ 128]) + mallory.id[1:], script.now)
    (asking,) = asked(script, mallory)
    records = [each.raw for each in records_in(place, mallory, asking.distances, 16)]
    for at in range(0, 16, 4):
        mallory.say(mallory.seal(Nodes(asking.request_id, 4, records[at : at + 4])))
    script.pass_time(60, deliver=False)
    victims = {each.to for each in script.sent} - {mallory.endpoint}
    assert len(victims) == most and all(each.ip.startswith(place[:6]) for each in victims)


def test_a_lookup_counts_as_the_refresh_of_its_bucket() -> None:
    script, alice, bob = two()
    alice.node.add(bob.record, script.now)
    alice.node.lookup(bytes([alice.id[0] ^ 128]) + alice.id[1:], script.now)
    script.pass_time(5)
    assert log_distance(alice.id, alice.node.table.to_refresh(script.now)) == 255


def test_a_lookup_asks_those_that_were_found_before_those_that_came_to_us() -> None:
    script, alice, _ = two()
    pressing = [Stranger(script, alice, str(number), f"60.0.{number}.1") for number in range(6)]
    for each in pressing:
        each.shake(Ping(b"1", 1))
    found = Peer("found", "50.0.6.1")
    alice.node.add(found.record, script.now)
    script.drop()
    for target in (bytes(32), b"\xff" * 32):
        alice.node.lookup(target, script.now)
        script.flush()
        assert script.wire[0].to == found.endpoint
        script.pass_time(60, deliver=False)
        script.drop()
        alice.node.table.alive(found.id, script.now)


@pytest.mark.parametrize("found", [False, True])
def test_what_those_who_came_to_us_tell_is_believed_only_by_who_knows_nobody_else(found: bool) -> None:
    script, alice, mallory = friend()
    if found:
        alice.node.add(Peer("found", "50.0.6.1").record, script.now)
    (told,) = at_distance(mallory, 256, 1)
    request = alice.node.lookup(told.node_id, script.now)
    script.flush()
    for _ in range(20):
        for asking in asked(script, mallory):
            if isinstance(asking, FindNode):
                mallory.say(mallory.seal(Nodes(asking.request_id, 1, [told.raw])))
        script.pass_time(1.0, deliver=False)
    assert request in alice.results
    assert (alice.node.table.get(told.node_id) is None) == found
