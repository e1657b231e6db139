"""A node of discv5 in the middle of everything, always the same, and valid datagrams of all kinds for it.

It has a session with a friend, requests of all kinds to him under way, one to a node that it never met, and a challenge
out to a stranger. Who made the datagrams knows all keys, so that each of them would be taken.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyp2p.discv5.core import Node
from pyp2p.discv5.crypto import session_cipher
from pyp2p.discv5.messages import FindNode, Message, Nodes, Ping, Pong, TalkRequest, TalkResponse, encode_message
from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.packet import WhoAreYou, decode_packet, encode_whoareyou, make_whoareyou
from pyp2p.discv5.sessions import KeyPair
from pyp2p.discv5.types import Completed, SendDatagram, TalkCall
from pyp2p.testing import SeededEntropy
from tests.unit.discv5.script import Datagram, Peer, Stranger

NOW = 1000.0
VICTIM = Peer("fuzzed", "50.0.1.1")
MET = Peer("never met", "50.0.3.1")
TOLD = [Peer(f"told {number}", f"50.0.{number}.1").record for number in range(10, 16)]
KEYS = bytes(range(16)), bytes(range(16, 32))


@dataclass
class World:
    """The node, who speaks to it, and what it sent."""

    node: Node
    now: float = NOW
    sent: list[SendDatagram] = field(default_factory=list)
    completed: set[int] = field(default_factory=set)
    requests: list[int] = field(default_factory=list)

    # What a `Stranger` wants of its script.
    def inject(self, data: bytes, sender: Endpoint, to: object) -> list[Datagram]:
        before = len(self.sent)
        self.feed(data, sender)
        return [Datagram(each.data, VICTIM.endpoint, each.to) for each in self.sent[before:]]

    def feed(self, data: bytes, sender: Endpoint) -> None:
        """One datagram; TALKREQs are answered."""
        self.node.datagram_received(data, sender, self.now)
        self.carry_out()

    def carry_out(self) -> None:
        for effect in self.node.take():
            match effect:
                case SendDatagram():
                    assert 63 <= len(effect.data) <= 1280
                    self.sent.append(effect)
                case Completed(request):
                    assert request not in self.completed
                    self.completed.add(request)
                case TalkCall(token=token, request=request):
                    self.node.talk_respond(token, request[:1000], self.now)
                    for answer in self.node.take():
                        assert isinstance(answer, SendDatagram)
                        self.sent.append(answer)

    def pass_time(self, seconds: float) -> None:
        """Go from timer to timer for so long."""
        end = self.now + seconds
        while (when := self.node.next_timer()) is not None and when <= end:
            self.now = max(self.now, when)
            self.node.handle_timer(self.now)
            self.carry_out()
        self.now = end

    def check(self, most: int = 64) -> None:
        """Nothing is over its bounds; `most` requests are under way."""
        node, config = self.node, self.node.config
        assert len(node._sessions) <= config.max_sessions and len(node._handshakes) <= config.max_challenges
        assert len(node._talks) <= config.max_talks
        assert len(node._calls) <= most and len(node._calls._timers) <= 4 * most and len(node.counters) <= 60
        assert len(node._calls._by_nonce) <= 4 * most and not node._out


def world() -> tuple[World, Stranger, Stranger, list[bytes]]:
    """The world, the friend, the stranger and the WHOAREYOU for him, with what the node has asked so far in `sent`."""
    node = Node(VICTIM.identity, VICTIM.first, rng=random.Random(1), entropy=SeededEntropy("fuzzed node"))
    here = World(node)
    friend, stranger = Stranger(here, VICTIM, "friend"), Stranger(here, VICTIM, "stranger", ip="60.0.2.1")
    friend.write, friend.read = session_cipher(KEYS[0]), session_cipher(KEYS[1])
    node._sessions.renew((friend.id, friend.endpoint), KeyPair.of(KEYS[1], KEYS[0]), friend.record, True, NOW)
    node.table.heard(friend.record, friend.endpoint, NOW)
    node.table.alive(friend.id, NOW, friend.endpoint)
    for record in TOLD:
        node.add(record, NOW)
        node.table.alive(record.node_id, NOW)
    node.protocols.add(b"p")
    here.requests = [
        node.ping(friend.record, NOW),
        node.find_node(friend.record, [256, 255, 254], NOW),
        node.talk(friend.record, b"p", b"x", NOW),
        node.ping(MET.record, NOW),
        node.talk(MET.record, b"p", bytes(1100), NOW),
    ]
    here.carry_out()
    challenges = [each.data for each in stranger.say(stranger.random())]
    return here, friend, stranger, challenges


def senders(friend: Stranger, stranger: Stranger) -> list[Endpoint]:
    """From where each datagram is sent."""
    return [friend.endpoint, stranger.endpoint, MET.endpoint]


def messages() -> Iterator[Message]:
    """Messages of all kinds, with answers to what the node has asked."""
    here, friend, *_ = world()
    asked = friend.heard([Datagram(each.data, VICTIM.endpoint, each.to) for each in here.sent])
    raws = [record.raw for record in TOLD]
    for each in asked:
        name = each.request_id
        yield from (Pong(name, 1, bytes((50, 0, 1, 1)), 9000), Nodes(name, 2, raws[:3]), TalkResponse(name, b"yes"))
    yield from (Ping(b"1", 1), Ping(b"\1" * 8, 1 << 40), Pong(b"2", 9, bytes(16), 1), FindNode(b"3", [0, 256, 255]))
    yield from (FindNode(b"4", list(range(257))), Nodes(b"5", 1, raws[:2]), TalkRequest(b"6", b"p", b"x" * 50))
    yield from (TalkRequest(b"7", b"what", b""), TalkResponse(b"8", b""))


def plaintexts() -> list[bytes]:
    """Those as bytes."""
    return [encode_message(message) for message in messages()]


def datagrams() -> list[bytes]:
    """Whole datagrams, each of which the node takes."""
    found = []
    for message in messages():
        _, friend, *_ = world()
        found.append(friend.seal(message))
    for record in (None, b""):
        _, _, stranger, (challenge,) = world()
        found.append(stranger.answer(challenge, Ping(b"1", 1), record=record))
    _, _, stranger, (challenge,) = world()
    found += [stranger.answer(challenge, FindNode(b"1", [0]), cheat=True), stranger.random()]
    here, *_ = world()
    for each in here.sent:
        if each.to == MET.endpoint:
            nonce = decode_packet(each.data, MET.id).nonce
            packet = make_whoareyou(iv=bytes(16), nonce=nonce, id_nonce=bytes(16), enr_seq=0)
            assert isinstance(packet, WhoAreYou)
            found.append(encode_whoareyou(packet, dest_id=VICTIM.id))
    return found


def one_datagram(data: bytes) -> None:
    """A datagram from everybody; afterwards all requests come to their end and nothing is left."""
    here, friend, stranger, _ = world()
    for sender in senders(friend, stranger):
        here.feed(data, sender)
    here.pass_time(5.0)
    assert here.completed == set(here.requests) and len(here.node._calls) == 0
    here.check()


def one_message(plaintext: bytes) -> None:
    """A message of the friend."""
    here, friend, *_ = world()
    here.feed(friend.seal(plaintext), friend.endpoint)
    here.pass_time(5.0)
    assert here.completed == set(here.requests) and len(here.node._calls) == 0
    here.check()
