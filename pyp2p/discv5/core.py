"""A node of discv5 without I/O: datagrams, requests, timers and `now` in, effects out.

Rules: pure. Nobody is answered with more bytes than it sent before it has proven who it is. What comes in is dropped
and counted when it breaks a rule, and never raises. A datagram is never sent again; a request is, as a new packet.
devp2p, discv5-theory.md and discv5-wire.md, version 5.1.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from pyp2p.discv5.calls import IV_BYTES, Call, Calls, Done, short
from pyp2p.discv5.crypto import derive_keys, id_signature_digest
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.limits import RateLimits
from pyp2p.discv5.lookup import Lookup
from pyp2p.discv5.messages import (
    FindNode,
    Message,
    Nodes,
    Ping,
    Pong,
    TalkRequest,
    TalkResponse,
    decode_message,
    encode_message,
    split_nodes,
)
from pyp2p.discv5.node import Endpoint, Refusal, canonical, endpoints, log_distance, refuse_record
from pyp2p.discv5.own import OwnRecord
from pyp2p.discv5.packet import (
    MAX_HANDSHAKE_PLAINTEXT,
    HandshakePacket,
    OrdinaryPacket,
    WhoAreYou,
    decode_packet,
    encode_handshake,
    encode_whoareyou,
    make_whoareyou,
)
from pyp2p.discv5.sessions import RANDOM_NONCE_BYTES, Challenges, KeyPair, Session, Sessions, Where
from pyp2p.discv5.table import Heard, RoutingTable
from pyp2p.discv5.talks import Talks
from pyp2p.discv5.types import (
    Arrived,
    Completed,
    Discv5Config,
    Effect,
    Form,
    NodeEvent,
    NodeNews,
    RecordChanged,
    SendDatagram,
    TalkCall,
)
from pyp2p.discv5.walk import K, Walk, WalkDone
from pyp2p.errors import (
    InvalidEnr,
    InvalidKey,
    MessageError,
    NoEndpoint,
    PacketError,
    RequestIdTooLong,
)
from pyp2p.peer import secp256k1
from pyp2p.peer.keys import Identity, KeyType

_REQUEST_ID = 8  # bytes of ours
_ID_NONCE = 16
_TICK = 1.0  # seconds between looks at the table
_MAX_CHALLENGES = 2  # WHOAREYOUs that are answered for each packet that a request may take
_MAX_FRIENDS = 64  # that we begin anew with when nobody is left
_FORMS: Final = {OrdinaryPacket: Form.ORDINARY, WhoAreYou: Form.WHOAREYOU, HandshakePacket: Form.HANDSHAKE}


class Node:
    """One node: the record is the one to begin with; `families` are the IP versions that it can send to.

    A `fixed` record is not changed by what others say of our address. With `traced` set, each packet that comes is told
    as `Arrived`.
    """

    def __init__(
        self,
        identity: Identity,
        record: Enr,
        *,
        rng: random.Random,
        entropy: Callable[[int], bytes],
        families: Iterable[int] = (4, 6),
        config: Discv5Config | None = None,
        fixed: bool = False,
    ) -> None:
        self.config = Discv5Config() if config is None else config
        self.node_id = record.node_id
        self.counters: Counter[str] = Counter()
        self.protocols: set[bytes] = set()  # of TALKREQ, that are served
        self.traced = False
        self.table: RoutingTable[Enr] = RoutingTable(self.node_id, rng, self.config.table)
        self._scalar = identity.scalar
        self._entropy = entropy
        self._rng = rng
        self._families = frozenset(families)
        self._rates = RateLimits(self.config.rates)
        self.own = OwnRecord(
            identity,
            record,
            votes=self.config.votes,
            fixed=fixed,
            changed=lambda new: self._out.append(RecordChanged(new)),
            counters=self.counters,
        )
        self._sessions = Sessions(self.config.max_sessions)
        self._challenges = Challenges(self.config.max_challenges, self.config.challenge_ttl)
        self._known: OrderedDict[bytes, Enr] = OrderedDict()
        self._calls = Calls(
            self.node_id,
            self._sessions,
            self.config,
            entropy=entropy,
            transmit=lambda data, to, message: self._out.append(SendDatagram(data, to, Form.ORDINARY, message)),
            failed=self._on_failure,
            counters=self.counters,
        )
        self._talks = Talks(self.config)
        self._friends: dict[bytes, Enr] = {}
        self._arrived: Arrived | None = None  # the packet that is looked at, when they are traced
        self._requests = 0
        self._walks: dict[int, Walk] = {}
        self._next_tick: float | None = None
        self._out: list[Effect] = []

    @property
    def record(self) -> Enr:
        """Our own record."""
        return self.own.record

    def take(self) -> list[Effect]:
        """What is to be done now, in order; each effect is returned once."""
        out = self._out
        self._out = []
        return out

    # --- what the application asks for

    def ping(self, node: Enr, now: float, endpoint: Endpoint | None = None) -> int:
        """Ask whether a node is there; completed with its `Pong`."""
        return self._public(node, Ping(self._request_id(), self.record.seq), now, endpoint)

    def find_node(self, node: Enr, distances: list[int], now: float, endpoint: Endpoint | None = None) -> int:
        """Ask for the nodes that it knows at these log distances from it; completed with a list of records."""
        return self._public(node, FindNode(self._request_id(), list(distances)), now, endpoint)

    def talk(self, node: Enr, protocol: bytes, request: bytes, now: float, endpoint: Endpoint | None = None) -> int:
        """Ask an application protocol of a node; completed with the bytes of the answer, none where it is not known."""
        return self._public(node, TalkRequest(self._request_id(), protocol, request), now, endpoint)

    def lookup(self, target: bytes, now: float, predicate: Callable[[Enr], bool] | None = None) -> int:
        """Walk to the nodes closest to `target`; completed with the closest sixteen, or with those of a predicate."""
        request = self._next_request()

        def done(lookup: Lookup[Enr], when: float) -> None:
            self._walks.pop(request, None)
            self.table.refreshed(target, when)
            self._out.append(Completed(request, lookup.result() if predicate is None else lookup.found()))

        walk = self._walks[request] = self._walk(target, predicate, done)
        walk.go_on(now)
        return request

    def cancel(self, request: int) -> None:
        """Nobody waits for a lookup any more: no further query is sent for it."""
        walk = self._walks.pop(request, None)
        if walk is not None:
            walk.stopped = True

    def add(self, node: Enr, now: float) -> Heard | Refusal | None:
        """Take a record that we were given (a bootnode, one of the last run); None where it names no endpoint.

        The first 64 are taken again when the table is empty: whoever was offline for long has lost all others.
        """
        endpoint = self._endpoint(node)
        if endpoint is None:
            return None
        if len(self._friends) < _MAX_FRIENDS or node.node_id in self._friends:
            self._friends[node.node_id] = node
        return self.table.heard(node, endpoint, now, source=endpoint)

    def random_id(self) -> bytes:
        """A node id that nobody has."""
        return self._rng.randbytes(32)

    def talk_respond(self, token: int, response: bytes, now: float) -> bool:
        """Answer a TALKREQ; False when that is too late."""
        found = self._talks.end(token, now)
        if found is None:
            return False
        where, request_id = found
        return self._respond(where, TalkResponse(request_id, response))

    # --- timers

    def next_timer(self) -> float | None:
        """When `handle_timer` is to be called."""
        when, tick = self._calls.next_timer(), self._next_tick
        return when if tick is None or (when is not None and when < tick) else tick

    def start(self, now: float) -> None:
        """Look after the table from now on."""
        self._next_tick = now

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._calls.expire(now)
        if self._next_tick is not None and self._next_tick <= now:
            self._next_tick = now + _TICK
            self._look_after(now)

    def _look_after(self, now: float) -> None:
        self._challenges.expire(now)
        self._talks.expire(now)
        if not len(self.table):
            for friend in list(self._friends.values()):
                self.add(friend, now)
        for node in self.table.to_check(now):
            self._check(node.record, node.endpoint, now)
        target = self.table.to_refresh(now)
        if target is not None:
            self._walk(target, None, lambda lookup, when: None).go_on(now)

    def _check(self, node: Enr, endpoint: Endpoint, now: float) -> None:
        """Is it there? What comes of it, `_answered` and `_failed` tell the table."""
        self._begin(node, endpoint, Ping(self._request_id(), self.record.seq), lambda result, when: None, now)

    # --- requests

    def _public(self, node: Enr, message: Message, now: float, endpoint: Endpoint | None) -> int:
        request = self._next_request()
        self._begin(node, endpoint, message, lambda result, when: self._out.append(Completed(request, result)), now)
        return request

    def _next_request(self) -> int:
        self._requests += 1
        return self._requests

    def _request_id(self) -> bytes:
        return self._entropy(_REQUEST_ID)

    def _endpoint(self, node: Enr) -> Endpoint | None:
        known = self.table.get(node.node_id)
        if known is not None and known.live and known.record.seq >= node.seq:
            return known.endpoint
        return next((each for each in endpoints(node) if canonical(each.ip).version in self._families), None)

    def _begin(self, node: Enr, endpoint: Endpoint | None, message: Message, done: Done, now: float) -> None:
        """Send a request; `done` gets the result or the error, at once when nothing can be sent.

        What is no message is the mistake of whoever asks: raises as `encode_message`.
        """
        plaintext = encode_message(message)
        endpoint = endpoint or self._endpoint(node)
        if endpoint is None:
            done(NoEndpoint(f"node {short(node.node_id)} names no UDP address that we can send to"), now)
        else:
            self._calls.begin(Call(node, (node.node_id, endpoint), message, plaintext, done), now)

    def _answered(self, call: Call, result: object, now: float) -> None:
        """The node answered in time: if nobody else has its place, the table has it."""
        node_id, endpoint = call.where
        before = self.table.get(node_id)
        was_live = before is not None and before.live
        if before is None and endpoint in endpoints(call.node):
            self.table.heard(call.node, endpoint, now)
        if self.table.alive(node_id, now, endpoint) and not was_live:
            self._out.append(NodeEvent(NodeNews.LIVE, call.node, endpoint))
        self._calls.answered(call, result, now)

    def _on_failure(self, call: Call, now: float) -> None:
        if self.table.failed(call.where[0], now):
            self._out.append(NodeEvent(NodeNews.GONE, call.node, call.where[1]))

    # --- datagrams

    def datagram_received(self, data: bytes, sender: Endpoint, now: float) -> None:
        """Take one datagram. Whatever it is, this raises nothing."""
        refused = self._rates.datagram(sender.ip, now, self._sessions.at(sender))
        if refused is not None:
            self.counters[refused] += 1
            return
        try:
            packet = decode_packet(data, self.node_id)
        except PacketError:
            self.counters["bad packets"] += 1
            return
        if self.traced:
            self._arrived = Arrived(sender, len(data), _FORMS[type(packet)])
            self._out.append(self._arrived)
        if isinstance(packet, OrdinaryPacket):
            self._on_ordinary(packet, (packet.src_id, sender), now)
        elif isinstance(packet, WhoAreYou):
            self._on_whoareyou(packet, sender, now)
        else:
            self._on_handshake(packet, (packet.src_id, sender), now)

    def _on_ordinary(self, packet: OrdinaryPacket, where: Where, now: float) -> None:
        session = self._sessions.get(where)
        if session is not None:
            proven = session.proven
            plaintext = session.open(packet.nonce, packet.ciphertext, packet.associated_data)
            if plaintext is not None:
                if not proven:
                    self._calls.proven(where, now)
                self._on_plaintext(where, plaintext, now)
                return
        self._challenge(packet.nonce, where, now)

    def _challenge(self, nonce: bytes, where: Where, now: float) -> None:
        """Ask who it is. Deployed nodes repeat a challenge byte for byte: so do we for as long as it counts."""
        challenge = self._challenges.get(where, now)
        if challenge is not None:
            self._out.append(SendDatagram(challenge.datagram, where[1], Form.WHOAREYOU))
            return
        if self._challenges.full(now):
            self.counters["challenges refused"] += 1
            return
        known = self._record_of(where[0])
        packet = make_whoareyou(
            iv=self._entropy(IV_BYTES),
            nonce=nonce,
            id_nonce=self._entropy(_ID_NONCE),
            enr_seq=known.seq if known else 0,
        )
        datagram = encode_whoareyou(packet, dest_id=where[0])
        self._challenges.add(where, packet, datagram, now)
        self._out.append(SendDatagram(datagram, where[1], Form.WHOAREYOU))

    def _on_whoareyou(self, packet: WhoAreYou, sender: Endpoint, now: float) -> None:
        call = self._calls.of_nonce(packet.nonce)
        # Counted for the whole request: who forgets each session at once would keep it, and us, busy for ever.
        most = 0 if call is None else _MAX_CHALLENGES * min(call.attempts, self.config.attempts)
        if call is None or call.where[1] != sender or call.challenges >= most:
            self.counters["whoareyou ignored"] += 1
            return
        call.challenges += 1
        node_id = call.node.node_id
        ephemeral = Identity.generate(KeyType.SECP256K1, entropy=self._entropy)
        public = ephemeral.public_key.data
        secret = secp256k1.ecdh(ephemeral.scalar, call.node.public_key)
        keys = derive_keys(secret, packet.challenge_data, self.node_id, node_id)
        session = self._sessions.renew(call.where, KeyPair.of(keys.initiator_key, keys.recipient_key), proven=False)
        self._calls.shakes(call)
        nonce = session.nonce(self._entropy(RANDOM_NONCE_BYTES))
        record = self.record.raw if packet.enr_seq < self.record.seq else None
        message, plaintext = call.message, call.plaintext
        if len(plaintext) > MAX_HANDSHAKE_PLAINTEXT - len(record or b""):  # it follows when the session stands
            message = Ping(self._request_id(), self.record.seq)
            plaintext = encode_message(message)
            self._calls.waits(call)
        datagram = encode_handshake(
            dest_id=node_id,
            src_id=self.node_id,
            iv=self._entropy(IV_BYTES),
            nonce=nonce,
            signature=secp256k1.sign_digest(self._scalar, id_signature_digest(packet.challenge_data, public, node_id)),
            ephemeral_key=public,
            record=record,
            cipher=session.write,
            plaintext=plaintext,
        )
        self._out.append(SendDatagram(datagram, sender, Form.HANDSHAKE, message))
        self._calls.expect(call, nonce, now + self.config.handshake_timeout)

    def _on_handshake(self, packet: HandshakePacket, where: Where, now: float) -> None:
        challenge = self._challenges.get(where, now)
        if challenge is None:
            self.counters["handshakes unasked"] += 1
            return
        refused = self._rates.handshake(where[1].ip, now)
        if refused is not None:
            self.counters[refused] += 1
            return
        node = self._proven_by(packet, challenge.packet, where[0])
        if node is None:
            self.counters["handshakes refused"] += 1
            return
        try:
            secret = secp256k1.ecdh(self._scalar, packet.ephemeral_key)
        except InvalidKey:
            self.counters["handshakes refused"] += 1
            return
        keys = derive_keys(secret, challenge.packet.challenge_data, where[0], self.node_id)
        fresh = Session()
        pair = KeyPair.of(keys.recipient_key, keys.initiator_key)
        fresh.renew(pair, proven=True)
        plaintext = fresh.open(packet.nonce, packet.ciphertext, packet.associated_data)
        if plaintext is None:
            self.counters["handshakes refused"] += 1
            return
        self._challenges.done(where)
        self._sessions.renew(where, pair, proven=True)
        self.counters["sessions"] += 1
        self._remember(node)
        self._out.append(NodeEvent(NodeNews.SESSION, node, where[1]))
        self._heard(node, where[1], now)
        self._calls.proven(where, now)
        self._on_plaintext(where, plaintext, now)

    def _proven_by(self, packet: HandshakePacket, challenge: WhoAreYou, node_id: bytes) -> Enr | None:
        """The record of whoever signed the handshake, None when that is not the node it claims to be."""
        known = self._record_of(node_id)
        if packet.record is not None:
            try:
                sent = Enr.from_rlp(packet.record)
            except InvalidEnr:
                return None
            if sent.node_id != node_id:
                return None
            if known is None or sent.seq > known.seq:
                known = sent
        if known is None:
            return None
        digest = id_signature_digest(challenge.challenge_data, packet.ephemeral_key, self.node_id)
        return known if secp256k1.verify_digest(known.public_key, packet.signature, digest) else None

    def _record_of(self, node_id: bytes) -> Enr | None:
        """The newest record that we have; the table does not take each one."""
        node, known = self.table.get(node_id), self._known.get(node_id)
        if node is None or (known is not None and known.seq > node.record.seq):
            return known
        return node.record

    def _remember(self, node: Enr) -> None:
        newest = self._record_of(node.node_id)
        self._known[node.node_id] = node if newest is None or node.seq > newest.seq else newest
        self._known.move_to_end(node.node_id)
        if len(self._known) > self.config.max_known:
            self._known.popitem(last=False)

    def _heard(self, node: Enr, sender: Endpoint, now: float) -> None:
        """A node spoke to us in a session: it has a place in the table, if there is one, once it answers us as well."""
        said = endpoints(node)
        if (refusal := refuse_record(node, sender)) is not None:  # its check would go into our own network
            self.counters[f"record refused: {refusal}"] += 1
            return
        endpoint = sender if sender in said else self._endpoint(node)
        if endpoint is None:
            return
        heard = self.table.heard(node, endpoint, now, incoming=True)
        if isinstance(heard, Refusal):
            self.counters[f"record refused: {heard}"] += 1
            return
        found = self.table.get(node.node_id)
        if found is not None and not found.live and not self._calls.to(node.node_id):
            self._check(found.record, found.endpoint, now)

    # --- messages

    def _respond(self, where: Where, message: Message) -> bool:
        session = self._sessions.get(where)
        if session is None:
            return False
        self._calls.send(where, session, message, encode_message(message))
        return True

    def _on_plaintext(self, where: Where, plaintext: bytes, now: float) -> None:
        try:
            message = decode_message(plaintext)
        except RequestIdTooLong:
            self.counters["request ids too long"] += 1
            return
        except MessageError:
            self.counters["bad messages"] += 1
            return
        if self._arrived is not None:
            self._arrived.message = message
        match message:
            case Ping():
                self._on_ping(where, message, now)
            case FindNode():
                self._on_find_node(where, message)
            case TalkRequest():
                self._on_talk(where, message, now)
            case _:
                self._on_answer(where, message, now)

    def _on_ping(self, where: Where, ping: Ping, now: float) -> None:
        ip = canonical(where[1].ip).packed
        self._respond(where, Pong(ping.request_id, self.record.seq, ip, where[1].port))
        self._newer(where, ping.enr_seq, now)

    def _newer(self, where: Where, seq: int, now: float) -> None:
        """A node says that its record is newer than the one we have: ask for it."""
        known = self._record_of(where[0])
        if known is None or seq <= known.seq or self._calls.to(where[0]) > 1:
            return

        def done(result: object, when: float) -> None:
            for record in result if isinstance(result, list) else ():
                if record.node_id == where[0]:
                    self._remember(record)
                    self._heard(record, where[1], when)

        self._begin(known, where[1], FindNode(self._request_id(), [0]), done, now)

    def _on_find_node(self, where: Where, request: FindNode) -> None:
        distances = list(dict.fromkeys(request.distances))
        records = [self.record] if 0 in distances else []
        others = [distance for distance in distances if distance]
        if others:
            records += self.table.at_distances(others, K - len(records), where[1])
        for part in split_nodes(request.request_id, [record.raw for record in records]):
            self._respond(where, part)

    def _on_talk(self, where: Where, request: TalkRequest, now: float) -> None:
        node = self._record_of(where[0])
        if node is None or request.protocol not in self.protocols:
            self._respond(where, TalkResponse(request.request_id, b""))
            return
        token = self._next_request()
        if self._talks.begin(token, where, request.request_id, now):
            self._out.append(TalkCall(token, node, where[1], request.protocol, request.request))
        else:  # an empty answer would say that the protocol is not served; it asks again
            self.counters["talks refused"] += 1

    def _on_answer(self, where: Where, answer: Message, now: float) -> None:
        call = self._calls.get(where[0], answer.request_id)
        if call is None or call.where != where:
            self.counters["answers unasked"] += 1
            return
        match call.message, answer:
            case Ping(), Pong():
                self._answered(call, answer, now)
                seen_at = Endpoint.of(answer.recipient_ip, answer.recipient_port)
                self.own.seen_at(seen_at, where[1], now)
                self._newer(where, answer.enr_seq, now)
            case FindNode(), Nodes():
                self._on_nodes(call, call.message.distances, answer, now)
            case TalkRequest(), TalkResponse():
                self._answered(call, answer.response, now)
            case _:
                self.counters["answers unasked"] += 1

    def _on_nodes(self, call: Call, distances: list[int], nodes: Nodes, now: float) -> None:
        if call.total and nodes.total != call.total:
            self.counters["answers inconsistent"] += 1
            return
        call.total = nodes.total
        call.answers += 1
        for raw in nodes.records:
            if len(call.records) >= K:
                self.counters["records excess"] += 1
                break
            try:
                record = Enr.from_rlp(raw)
            except InvalidEnr:
                self.counters["records invalid"] += 1
                continue
            if log_distance(call.node.node_id, record.node_id) not in distances:
                self.counters["records not asked for"] += 1
                continue
            call.records.append(record)
        if call.answers >= call.total:
            self._answered(call, call.records, now)

    # --- lookups

    def _walk(self, target: bytes, predicate: Callable[[Enr], bool] | None, done: WalkDone) -> Walk:
        start = self.table.closest(target, K, seen_too=True)
        lookup = Lookup(target, start, local_id=self.node_id, predicate=predicate, config=self.config.lookup, k=K)
        return Walk(lookup, self._query, self._told, done)

    def _query(self, node: Enr, distances: list[int], done: Done, now: float) -> None:
        source = self._endpoint(node)

        def judged(result: object, when: float) -> None:
            if isinstance(result, list) and source is not None:  # what is refused is not asked either
                result = [record for record in result if self._believed(record, source)]
            done(result, when)

        self._begin(node, source, FindNode(self._request_id(), distances), judged, now)

    def _believed(self, record: Enr, source: Endpoint) -> bool:
        refusal = refuse_record(record, source)
        if refusal is not None:
            self.counters[f"record refused: {refusal}"] += 1
        return refusal is None

    def _told(self, records: list[Enr], teller: Enr, now: float) -> None:
        """A node told us of others."""
        source = self._endpoint(teller)
        for record in records:
            endpoint = self._endpoint(record)
            if endpoint is not None and source is not None:
                self.table.heard(record, endpoint, now, source=source)
