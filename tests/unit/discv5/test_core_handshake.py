"""Handshakes and sessions of pure nodes: lost, crossing, repeated, and by strangers."""

import itertools

import pytest

from pyp2p.discv5.messages import FindNode, Nodes, Ping, Pong, TalkRequest
from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.packet import encode_whoareyou, make_whoareyou
from pyp2p.discv5.types import Discv5Config, NodeNews
from pyp2p.errors import NoAnswer, TooManyRequests
from tests.unit.discv5.script import Peer, Script, Stranger, calls_of, nothing_under_way, two


def test_a_handshake_step_by_step() -> None:
    script, alice, bob = two()
    request = alice.node.ping(bob.record, script.now)
    assert script.kinds() == ["random"]
    asked = script.deliver()
    assert script.kinds() == ["whoareyou"] and len(script.wire[0].data) == 63 <= len(asked.data)
    assert script.packet(script.wire[0]).enr_seq == 0
    script.deliver()
    assert script.kinds() == ["handshake"]
    assert script.packet(script.wire[0]).record == alice.record.raw
    assert bob.news == []
    script.deliver()
    assert script.kinds() == ["message", "message"]  # the check of Alice, and the answer
    assert bob.news == [(NodeNews.SESSION, alice.id)]
    script.run()
    pong = alice.results[request]
    assert isinstance(pong, Pong) and (pong.recipient_ip, pong.recipient_port) == (bytes((50, 0, 1, 1)), 9000)
    assert pong.enr_seq == 1
    assert (NodeNews.LIVE, bob.id) in alice.news and (NodeNews.LIVE, alice.id) in bob.news
    assert nothing_under_way(alice) and nothing_under_way(bob)

    request = alice.node.ping(bob.record, script.now)
    assert script.kinds() == ["message"]
    script.run()
    assert isinstance(alice.results[request], Pong)


def test_a_record_is_sent_only_to_who_has_an_older_one() -> None:
    script, alice, bob = two()
    script.meet(alice, bob)
    alice.node._sessions._sessions.clear()
    alice.node.ping(bob.record, script.now)
    script.deliver()
    assert script.packet(script.wire[0]).enr_seq == 1
    script.deliver()
    assert script.packet(script.wire[0]).record is None
    script.run()
    alice.node.own.change(attnets=bytes(8))
    alice.node._sessions._sessions.clear()
    alice.node.ping(bob.record, script.now)
    script.deliver()
    script.deliver()
    assert script.packet(script.wire[0]).record == alice.record.raw
    script.run()
    assert bob.node.table.get(alice.id).record == alice.record


@pytest.mark.parametrize("who", ["asker", "asked", "both"])
def test_a_session_lost_on_either_side_is_made_anew(who: str) -> None:
    script, alice, bob = two()
    script.meet(alice, bob)
    if who != "asked":
        alice.restart()
    if who != "asker":
        bob.restart()
    for asker, asked in ((alice, bob), (bob, alice)):
        request = asker.node.ping(asked.record, script.now)
        script.run()
        assert isinstance(asker.results[request], Pong)
    assert nothing_under_way(alice) and nothing_under_way(bob)


ORDERS = list(itertools.product((0, 1), repeat=7))


@pytest.mark.parametrize("known", [False, True])
def test_handshakes_that_cross_in_all_orders_of_delivery(known: bool) -> None:
    """Both ask at once; each order delivers the first or the last datagram on the wire, again and again."""
    for order in ORDERS:
        script, alice, bob = two()
        if known:
            script.meet(alice, bob)
            for peer in (alice, bob):
                peer.node._sessions._sessions.clear()
        first = alice.node.ping(bob.record, script.now)
        second = bob.node.ping(alice.record, script.now)
        script.flush()
        for turn in order:
            if script.wire:
                script.deliver(-turn)
        script.run()
        assert isinstance(alice.results.get(first), Pong), order
        assert isinstance(bob.results.get(second), Pong), order
        for asker, asked in ((alice, bob), (bob, alice)) * 2:  # and the session stands on both sides
            before = len(script.sent)
            request = asker.node.ping(asked.record, script.now)
            script.run()
            assert isinstance(asker.results[request], Pong)
            assert [script.kind(each) for each in script.sent[before:]] == ["message", "message"], order
        assert nothing_under_way(alice) and nothing_under_way(bob)


def test_a_request_is_sent_three_times_at_most_each_a_new_packet() -> None:
    script, alice, bob = two()
    request = alice.node.ping(bob.record, script.now)
    script.flush()
    script.pass_time(2.9, deliver=False)
    assert [script.kind(each) for each in script.sent] == ["random"] * 3
    nonces = {script.packet(each).nonce for each in script.sent}
    assert len(nonces) == 3
    assert request not in alice.results
    script.pass_time(0.2, deliver=False)
    error = alice.results[request]
    assert isinstance(error, NoAnswer)
    assert bob.id.hex()[:16] in str(error) and "50.0.2.1" in str(error) and "3 packets" in str(error)
    assert nothing_under_way(alice)


def test_within_a_session_the_same_request_goes_out_under_new_nonces() -> None:
    script, alice, _ = two()
    mallory = Stranger(script, alice)
    mallory.shake(Ping(b"1", 1))
    script.run()
    script.pass_time(5, deliver=False)
    script.drop()
    request = alice.node.ping(mallory.record, script.now)
    script.pass_time(1.6, deliver=False)
    said = mallory.heard(script.wire)
    assert len(said) == 3 and len({message.request_id for message in said}) == 1
    assert len({script.wire[i].data[16:] for i in range(3)}) == 3
    assert isinstance(alice.results[request], NoAnswer)


def test_a_whoareyou_for_an_older_packet_or_from_elsewhere_is_ignored() -> None:
    script, alice, bob = two()
    request = alice.node.ping(bob.record, script.now)
    script.flush()
    old = script.packet(script.wire[0]).nonce
    script.drop()
    script.pass_time(1.0, deliver=False)
    assert script.kinds() == ["random"]
    new = script.packet(script.wire[0]).nonce
    script.drop()

    def challenge(nonce: bytes) -> bytes:
        packet = make_whoareyou(iv=bytes(16), nonce=nonce, id_nonce=bytes(16), enr_seq=0)
        return encode_whoareyou(packet, dest_id=alice.id)

    assert script.inject(challenge(old), bob.endpoint, alice) == []
    assert script.inject(challenge(bytes(12)), bob.endpoint, alice) == []
    assert script.inject(challenge(new), Endpoint.of("50.0.2.1", 9001), alice) == []
    assert script.inject(challenge(new), Endpoint.of("50.0.3.1", 9000), alice) == []
    assert alice.count["whoareyou ignored"] == 4
    assert len(script.inject(challenge(new), bob.endpoint, alice)) == 1
    assert request not in alice.results


def test_a_second_packet_while_a_challenge_is_out_gets_the_same_bytes() -> None:
    script, alice, _ = two()
    mallory = Stranger(script, alice)
    (first,) = mallory.say(mallory.random())
    (second,) = mallory.say(mallory.random())
    assert first.data == second.data
    script.now += alice.node.config.challenge_ttl
    (third,) = mallory.say(mallory.random())
    assert third.data != first.data
    mallory.say(mallory.answer(first.data, Ping(b"1", 1)))  # too late
    assert alice.count["handshakes refused"] == 1 and alice.count["sessions"] == 0
    assert mallory.heard(mallory.say(mallory.answer(third.data, Ping(b"2", 1))))


def test_as_initiator_a_second_whoareyou_is_accepted_and_a_third_is_not() -> None:
    script, alice, bob = two()
    request = alice.node.ping(bob.record, script.now)
    script.flush()
    nonce = script.packet(script.wire[0]).nonce
    said = []
    for number in range(4):
        packet = make_whoareyou(iv=bytes(16), nonce=nonce, id_nonce=bytes([number]) * 16, enr_seq=0)
        said += script.inject(encode_whoareyou(packet, dest_id=alice.id), bob.endpoint, alice)
    assert [script.kind(each) for each in said] == ["handshake"] * 2
    script.run()
    script.pass_time(1.5)
    assert isinstance(alice.results[request], Pong)


@pytest.mark.parametrize("elsewhere", [Endpoint.of("60.0.1.1", 9001), Endpoint.of("60.0.1.2", 9000)])
def test_a_session_is_of_one_endpoint(elsewhere: Endpoint) -> None:
    script, alice, _ = two()
    mallory = Stranger(script, alice)
    assert mallory.heard(mallory.shake(Ping(b"1", 1)))
    (challenge,) = mallory.say(mallory.seal(Ping(b"2", 1)), elsewhere)
    assert challenge.to == elsewhere and len(challenge.data) == 63
    assert [type(each) for each in mallory.heard(mallory.say(mallory.seal(Ping(b"3", 1))))] == [Pong]


def test_the_same_packet_again_is_not_answered_with_more() -> None:
    """A replay under the session reaches only who has the session."""
    script, alice, _ = two()
    mallory = Stranger(script, alice)
    mallory.shake(Ping(b"1", 1))
    packet = mallory.seal(Ping(b"2", 1))
    assert len(mallory.say(packet)) == 1
    said = mallory.say(packet)
    assert all(each.to == mallory.endpoint and len(each.data) <= len(packet) + 16 for each in said)


def test_a_handshake_is_good_once() -> None:
    script, alice, _ = two()
    mallory = Stranger(script, alice)
    (challenge,) = mallory.say(mallory.random())
    packet = mallory.answer(challenge.data, Ping(b"1", 1))
    assert mallory.say(packet)
    assert mallory.say(packet) == []
    assert alice.count["handshakes unasked"] == 1 and alice.count["sessions"] == 1


def test_handshakes_that_prove_nothing_are_refused() -> None:
    script, alice, _ = two()
    other = Peer("carol", "50.0.3.1").first
    for number, cheat in enumerate(({"cheat": True}, {"record": other.raw}, {"record": b"\xc0"}, {"record": b""})):
        mallory = Stranger(script, alice, name=f"m{number}", ip=f"60.0.{number}.1")
        (challenge,) = mallory.say(mallory.random())
        assert mallory.say(mallory.answer(challenge.data, Ping(b"1", 1), **cheat)) == []
        assert alice.count["handshakes refused"] == number + 1
        assert mallory.say(mallory.answer(challenge.data, Ping(b"1", 1)))  # the challenge is out still
    assert alice.count["sessions"] == 4


def test_requests_wait_for_the_handshake_and_go_on_when_it_stands() -> None:
    script, alice, bob = two()
    requests = [alice.node.ping(bob.record, script.now) for _ in range(5)]
    assert script.kinds() == ["random"]
    script.run()
    assert all(isinstance(alice.results[request], Pong) for request in requests)
    assert nothing_under_way(alice)


def test_requests_that_wait_fail_with_the_handshake() -> None:
    script, alice, bob = two()
    requests = [alice.node.ping(bob.record, script.now) for _ in range(5)]
    script.pass_time(3.5, deliver=False)
    assert len(script.sent) == 3
    assert all(isinstance(alice.results[request], NoAnswer) for request in requests)
    assert nothing_under_way(alice)


def test_requests_are_bounded_by_node_and_in_all() -> None:
    script, alice, bob = two(Discv5Config(max_requests=5, max_requests_per_node=3))
    carol = Peer("carol", "50.0.3.1")
    first = [alice.node.ping(bob.record, script.now) for _ in range(4)]
    second = [alice.node.ping(carol.record, script.now) for _ in range(4)]
    script.flush()
    refused = [request for request, result in alice.results.items() if isinstance(result, TooManyRequests)]
    assert refused == [first[3], *second[2:]]
    assert bob.id.hex()[:16] in str(alice.results[first[3]])
    assert alice.count["requests refused"] == 3
    script.run()
    assert all(isinstance(alice.results[request], Pong) for request in first[:3])
    script.pass_time(4)
    assert nothing_under_way(alice)


def test_a_retry_meets_a_challenge_of_its_own() -> None:
    """The first WHOAREYOU is lost, and the second packet is a little faster than the first one."""
    script, alice, bob = two()
    request = alice.node.ping(bob.record, script.now)
    script.now += 0.08
    script.deliver()
    script.drop()
    script.pass_time(0.93, deliver=False)
    assert script.kinds() == ["random"]
    script.run()
    assert isinstance(alice.results[request], Pong)


# ---- a request too large for the handshake


def test_what_is_too_large_for_the_handshake_follows_it() -> None:
    script, alice, bob = two()
    bob.node.protocols.add(b"p")
    request = alice.node.talk(bob.record, b"p", bytes(1100), script.now)
    script.run()
    (call,) = bob.talks
    assert call.request == bytes(1100)
    assert bob.node.talk_respond(call.token, b"yes", script.now)
    script.run()
    assert alice.results[request] == b"yes"
    assert nothing_under_way(alice)


def test_a_large_request_whose_handshakes_are_not_answered_fails_once() -> None:
    script, alice, bob = two()
    request = alice.node.talk(bob.record, b"p", bytes(1100), script.now)
    other = alice.node.ping(bob.record, script.now)
    for _ in range(3):
        script.deliver()  # random
        script.deliver()  # WHOAREYOU
        script.drop()  # the handshake
        script.pass_time(1.0, deliver=False)
    script.pass_time(2.0, deliver=False)
    assert isinstance(alice.results[request], NoAnswer) and isinstance(alice.results[other], NoAnswer)
    assert nothing_under_way(alice)


def test_a_large_request_is_sent_once_when_a_later_handshake_succeeds() -> None:
    script, alice, bob = two()
    bob.node.protocols.add(b"p")
    alice.node.talk(bob.record, b"p", bytes(1100), script.now)
    for _ in range(2):
        script.deliver()
        script.deliver()
        script.drop()
        script.pass_time(1.0, deliver=False)
    script.run()
    assert len(bob.talks) == 1


def test_who_asks_for_one_handshake_after_the_other_gets_few() -> None:
    """A node that lets each handshake succeed and then has forgotten it: the request ends nevertheless."""
    script, alice, _ = two()
    mallory = Peer("mallory", "60.0.1.1")
    script.peers[mallory.endpoint] = mallory
    request = alice.node.talk(mallory.record, b"p", bytes(1100), script.now)
    shaken = 0
    for _ in range(200):
        script.flush()
        if not script.wire:
            if request in alice.results:
                break
            script.pass_time(0.25, deliver=False)
            continue
        datagram = script.wire[0]
        if datagram.to == mallory.endpoint and script.kind(datagram) == "message":
            mallory.node._sessions._sessions.clear()
        shaken += datagram.to == mallory.endpoint and script.kind(datagram) == "handshake"
        script.now += 0.01
        script.deliver()
    assert isinstance(alice.results.get(request), NoAnswer)
    assert shaken <= 6


def test_a_waiting_request_that_is_over_is_not_sent() -> None:
    """Two requests of a standing session are both challenged: whoever ends first leaves nothing behind."""
    script, alice, bob = two()
    script.meet(alice, bob)
    script.pass_time(2)
    bob.restart()
    requests = [alice.node.talk(bob.record, b"p", bytes(1100), script.now) for _ in range(3)]
    for _ in range(12):
        for _ in range(len(script.kinds())):
            if script.kind(script.wire[0]) == "handshake":
                script.wire.pop(0)
            else:
                script.deliver()
        script.pass_time(0.5, deliver=False)
    assert all(isinstance(alice.results[request], NoAnswer) for request in requests)
    assert nothing_under_way(alice)


# ---- to the unproven, never more than they sent


def test_nobody_unproven_gets_more_than_it_sent() -> None:
    script, alice, bob = two()
    script.meet(alice, bob)
    mallory = Stranger(script, alice)
    (challenge,) = mallory.say(mallory.random())
    mallory.write = calls_of(alice)._sessions.get((bob.id, bob.endpoint)).write  # some key
    kinds = {
        "random": mallory.random(),
        "ping": mallory.seal(Ping(b"1", 1)),
        "find node": mallory.seal(FindNode(b"1", [0, 256, 255, 254])),
        "talk": mallory.seal(TalkRequest(b"1", b"p", b"")),
        "nodes": mallory.seal(Nodes(b"1", 1, [])),
        "bad handshake": mallory.answer(challenge.data, Ping(b"1", 1), cheat=True),
        "whoareyou": challenge.data,
        "empty": b"",
        "noise": bytes(range(63)),
        "long": bytes(2048),
    }
    for fresh in (Endpoint.of("60.0.1.1", 9000), Endpoint.of("60.0.9.1", 1), Endpoint.of("2a00::1", 5)):
        for name, data in kinds.items():
            said = script.inject(data, fresh, alice)
            assert sum(len(each.data) for each in said) <= len(data), name
            assert all(each.to == fresh for each in said)


def test_challenges_are_bounded_and_their_time_ends() -> None:
    script, alice, _ = two(Discv5Config(max_challenges=10))
    for number in range(20):
        mallory = Stranger(script, alice, name=str(number), ip=f"60.0.{number}.1")
        assert len(mallory.say(mallory.random())) == (number < 10)
    assert alice.count["challenges refused"] == 10
    script.now += 1.1
    assert len(mallory.say(mallory.random())) == 1


def test_sessions_are_bounded_the_least_used_goes() -> None:
    script, alice, _ = two(Discv5Config(max_sessions=3))
    strangers = [Stranger(script, alice, name=str(number), ip=f"60.0.{number}.1") for number in range(4)]
    for stranger in strangers[:3]:
        stranger.shake(Ping(b"1", 1))
    assert strangers[0].heard(strangers[0].say(strangers[0].seal(Ping(b"2", 1))))
    strangers[3].shake(Ping(b"1", 1))
    assert len(alice.node._sessions) == 3
    answered = [bool(each.heard(each.say(each.seal(Ping(b"3", 1))))) for each in strangers]
    assert answered == [True, False, True, True]
    held = {where[1] for where in alice.node._sessions._sessions}
    assert held == {each.endpoint for each in strangers if each is not strangers[1]}


def test_a_node_that_asks_itself_comes_to_an_end() -> None:
    alice = Peer("alice", "50.0.1.1")
    script = Script(alice)
    request = alice.node.ping(alice.record, script.now)
    script.pass_time(5)
    assert request in alice.results and nothing_under_way(alice)
