"""A few pure nodes, a clock moved by hand, and a wire whose datagrams are delivered, lost or swapped one by one."""

from __future__ import annotations

import random
from dataclasses import dataclass
from ipaddress import ip_address

from pyp2p.discv5.calls import Calls
from pyp2p.discv5.core import Node
from pyp2p.discv5.crypto import derive_keys, id_signature_digest, session_cipher
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.messages import Message, decode_message, encode_message
from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.packet import (
    OrdinaryPacket,
    Packet,
    WhoAreYou,
    decode_packet,
    encode_handshake,
    encode_ordinary,
    encode_random,
)
from pyp2p.discv5.types import (
    Arrived,
    Completed,
    Discv5Config,
    Form,
    NodeEvent,
    NodeNews,
    RecordChanged,
    SendDatagram,
    TalkCall,
)
from pyp2p.errors import DiscoveryError
from pyp2p.peer import secp256k1
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.testing import SeededEntropy


@dataclass(frozen=True)
class Datagram:
    """On its way."""

    data: bytes
    sender: Endpoint
    to: Endpoint


class Peer:
    """A node of ours and all that it said it had done."""

    def __init__(
        self,
        name: str,
        ip: str,
        port: int = 9000,
        config: Discv5Config | None = None,
        record: bool = True,
        fixed: bool = False,
        **pairs,
    ) -> None:
        self.fixed = fixed
        self.name = name
        self.identity = Identity.generate(KeyType.SECP256K1, entropy=SeededEntropy(name))
        self.endpoint = Endpoint.of(ip, port)
        self.config = config
        six = "6" if ip_address(ip).version == 6 else ""
        named = {"ip" + six: ip_address(ip), "udp" + six: port} if record else {}
        self.first = Enr.sign(self.identity, 1, named | pairs)
        self.starts = 0
        self.restart()

    def restart(self) -> None:
        """Forget all but the key and the record."""
        self.starts += 1
        name = f"{self.name} {self.starts}"
        self.node = Node(
            self.identity,
            self.first,
            rng=random.Random(name),
            entropy=SeededEntropy(name),
            config=self.config,
            fixed=self.fixed,
        )
        self.arrived: list[Arrived] = []
        self.forms: list[tuple[Form, type[Message] | None]] = []  # of what was sent
        self.results: dict[int, object] = {}
        self.talks: list[TalkCall] = []
        self.news: list[tuple[NodeNews, bytes]] = []
        self.records: list[Enr] = []

    @property
    def record(self) -> Enr:
        return self.node.record

    @property
    def id(self) -> bytes:
        return self.node.node_id

    @property
    def count(self):
        return self.node.counters


class Script:
    """The nodes, the clock and the wire."""

    def __init__(self, *peers: Peer) -> None:
        self.now = 1000.0
        self.peers = {peer.endpoint: peer for peer in peers}
        self.wire: list[Datagram] = []
        self.sent: list[Datagram] = []  # all of them, ever

    def flush(self, *some: Peer) -> None:
        """Take the effects of all nodes, or of some."""
        for peer in some or self.peers.values():
            endpoint = peer.endpoint
            for effect in peer.node.take():
                match effect:
                    case SendDatagram(data, to, form, message):
                        peer.forms.append((form, None if message is None else type(message)))
                        self.wire.append(Datagram(data, endpoint, to))
                        self.sent.append(self.wire[-1])
                    case Completed(request, result):
                        assert request not in peer.results, "completed twice"
                        peer.results[request] = result
                    case Arrived():
                        peer.arrived.append(effect)
                    case TalkCall():
                        peer.talks.append(effect)
                    case NodeEvent(news, node, _):
                        peer.news.append((news, node.node_id))
                    case RecordChanged(record):
                        peer.records.append(record)

    def inject(self, data: bytes, sender: Endpoint, to: Peer) -> list[Datagram]:
        """A datagram of anybody; returns what it made the node send, which is not delivered."""
        self.flush()
        before = len(self.wire)
        to.node.datagram_received(data, sender, self.now)
        self.flush()
        said, self.wire = self.wire[before:], self.wire[:before]
        return said

    def deliver(self, index: int = 0) -> Datagram:
        """One datagram arrives."""
        self.flush()
        return self._deliver(index)

    def _deliver(self, index: int) -> Datagram:
        datagram = self.wire.pop(index)
        peer = self.peers.get(datagram.to)
        if peer is not None:
            peer.node.datagram_received(datagram.data, datagram.sender, self.now)
            self.flush(peer)
        return datagram

    def drop(self) -> None:
        """All that is on its way is lost."""
        self.flush()
        self.wire.clear()

    def run(self) -> None:
        """Deliver until the wire is empty."""
        self.flush()
        while self.wire:
            self._deliver(0)

    def timers(self) -> None:
        """What is due at all nodes."""
        for peer in self.peers.values():
            when = peer.node.next_timer()
            if when is not None and when <= self.now:
                peer.node.handle_timer(self.now)
                self.flush(peer)

    def pass_time(self, seconds: float, deliver: bool = True) -> None:
        """Go on for so long, from timer to timer."""
        end = self.now + seconds
        while True:
            if deliver:
                self.run()
            times = [when for peer in self.peers.values() if (when := peer.node.next_timer()) is not None]
            when = min(times, default=end)
            if when > end:
                break
            self.now = max(self.now, when)
            self.timers()
            if not times:
                break
        self.now = end

    def kinds(self) -> list[str]:
        """What is on the wire: `random`, `message`, `whoareyou` or `handshake`."""
        self.flush()
        return [self.kind(datagram) for datagram in self.wire]

    def packet(self, datagram: Datagram) -> Packet:
        return decode_packet(datagram.data, self.peers[datagram.to].id)

    def kind(self, datagram: Datagram) -> str:
        packet = self.packet(datagram)
        if isinstance(packet, OrdinaryPacket):
            return "random" if len(packet.ciphertext) == 20 else "message"
        return "whoareyou" if isinstance(packet, WhoAreYou) else "handshake"

    def meet(self, a: Peer, b: Peer) -> None:
        """A session between the two, both live in each other's table."""
        request = a.node.ping(b.record, self.now)
        self.run()
        assert not isinstance(a.results[request], DiscoveryError)


def two(config: Discv5Config | None = None) -> tuple[Script, Peer, Peer]:
    """Alice and Bob, who never met."""
    alice, bob = Peer("alice", "50.0.1.1", config=config), Peer("bob", "50.0.2.1", config=config)
    return Script(alice, bob), alice, bob


class Stranger:
    """Somebody who speaks the protocol by hand, and says whatever the test wants."""

    def __init__(
        self,
        script: Script,
        victim: Peer,
        name: str = "mallory",
        ip: str = "60.0.1.1",
        port: int = 9000,
        pairs: dict | None = None,
    ) -> None:
        self.script = script
        self.victim = victim
        self.entropy = SeededEntropy(name)
        self.identity = Identity.generate(KeyType.SECP256K1, entropy=self.entropy)
        self.endpoint = Endpoint.of(ip, port)
        self.record = Enr.sign(self.identity, 1, pairs or {"ip": ip_address(ip), "udp": port})
        self.id = self.record.node_id
        self.write = self.read = None

    def say(self, data: bytes, sender: Endpoint | None = None) -> list[Datagram]:
        return self.script.inject(data, sender or self.endpoint, self.victim)

    def random(self, nonce: bytes | None = None) -> bytes:
        """A packet that asks for a session."""
        return encode_random(
            dest_id=self.victim.id,
            src_id=self.id,
            iv=self.entropy(16),
            nonce=nonce or self.entropy(12),
            content=self.entropy(20),
        )

    def answer(self, challenge: bytes, message: Message, cheat: bool = False, record: bytes | None = None) -> bytes:
        """The handshake for a WHOAREYOU; with `cheat` the signature is of nothing."""
        packet = decode_packet(challenge, self.id)
        assert isinstance(packet, WhoAreYou)
        ephemeral = Identity.generate(KeyType.SECP256K1, entropy=self.entropy)
        public = ephemeral.public_key.data
        secret = secp256k1.ecdh(ephemeral.scalar, self.victim.record.public_key)
        keys = derive_keys(secret, packet.challenge_data, self.id, self.victim.id)
        self.write, self.read = session_cipher(keys.initiator_key), session_cipher(keys.recipient_key)
        digest = bytes(32) if cheat else id_signature_digest(packet.challenge_data, public, self.victim.id)
        return encode_handshake(
            dest_id=self.victim.id,
            src_id=self.id,
            iv=self.entropy(16),
            nonce=self.entropy(12),
            signature=secp256k1.sign_digest(self.identity.scalar, digest),
            ephemeral_key=public,
            record=self.record.raw if record is None else record,
            cipher=self.write,
            plaintext=encode_message(message),
        )

    def shake(self, message: Message) -> list[Datagram]:
        """A session by a whole handshake; returns what the victim said then."""
        (challenge,) = self.say(self.random())
        return self.say(self.answer(challenge.data, message))

    def seal(self, message: Message | bytes) -> bytes:
        """A packet under the session."""
        plaintext = message if isinstance(message, bytes) else encode_message(message)
        return encode_ordinary(
            dest_id=self.victim.id,
            src_id=self.id,
            iv=self.entropy(16),
            nonce=self.entropy(12),
            cipher=self.write,
            plaintext=plaintext,
        )

    def open(self, datagram: Datagram) -> Message:
        """What the victim said under the session."""
        packet = decode_packet(datagram.data, self.id)
        assert isinstance(packet, OrdinaryPacket)
        return decode_message(self.read.decrypt(packet.nonce, packet.ciphertext, packet.associated_data))

    def heard(self, datagrams: list[Datagram]) -> list[Message]:
        """Those of the datagrams that are for us and under the session."""
        found = []
        for datagram in datagrams:
            if datagram.to == self.endpoint and isinstance(decode_packet(datagram.data, self.id), OrdinaryPacket):
                found.append(self.open(datagram))
        return found


def calls_of(peer: Peer) -> Calls:
    return peer.node._calls


def nothing_under_way(peer: Peer) -> bool:
    """No request, no timer, nobody waiting: what `Calls` holds when all is over."""
    calls = calls_of(peer)
    calls.next_timer()
    held = (calls._calls, calls._per_node, calls._by_nonce, calls._shaking, calls._waiting, calls._timers)
    return not any(held)
