"""A node of discv5 without I/O: datagrams, requests, timers and `now` in, effects out.

Rules: pure. Nobody is answered with more bytes than it sent before it has proven who it is. What comes in is dropped
and counted when it breaks a rule, and never raises. A datagram is never sent again; a request is, as a new packet.
devp2p, discv5-theory.md and discv5-wire.md, version 5.1.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from pyp2p.discv5.calls import REQUEST_ID_BYTES, Call, Calls, Done, short
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.handshake import Handshakes
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
    HandshakePacket,
    OrdinaryPacket,
    WhoAreYou,
    decode_packet,
)
from pyp2p.discv5.sessions import Sessions, Where
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
    MessageError,
    NoEndpoint,
    PacketError,
    RequestIdTooLong,
)
from pyp2p.peer.keys import Identity

_TICK = 1.0  # seconds between looks at the table
_FOUND = 3  # nodes that a lookup begins with which did not come to us, whoever else is closer
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
        self._calls = Calls(
            self.node_id,
            self._sessions,
            self.config,
            entropy=entropy,
            transmit=lambda data, to, message: self._out.append(SendDatagram(data, to, Form.ORDINARY, message)),
            answered=self._answered,
            failed=self._on_failure,
            counters=self.counters,
        )
        self._handshakes = Handshakes(
            identity,
            self.own,
            self.config,
            sessions=self._sessions,
            calls=self._calls,
            rates=self._rates,
            record_of=self._record_of,
            send=lambda datagram: self._out.append(datagram),  # noqa: PLW0108 - the list is another after each `take`
            counters=self.counters,
            entropy=entropy,
        )
        self._talks = Talks(self.config)
        self._friends: dict[bytes, Enr] = {}
        self._arrived: Arrived | None = None  # the packet that is looked at, when they are traced
        self._requests = 0
        self._walks: dict[int, Walk] = {}
        self._chosen: dict[int, Call] = {}  # requests of the application
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
        """Nobody waits for a request any more: nothing further is sent for it, and its place is free."""
        walk = self._walks.pop(request, None)
        if walk is not None:
            walk.stopped = True
        call = self._chosen.pop(request, None)
        if call is not None:
            self._calls.cancel(call)

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
        self._handshakes.expire(now)
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

        def done(result: object, when: float) -> None:
            self._chosen.pop(request, None)
            self._out.append(Completed(request, result))

        call = self._begin(node, endpoint, message, done, now)
        if call is not None:
            call.chosen = True
            self._chosen[request] = call
        return request

    def _next_request(self) -> int:
        self._requests += 1
        return self._requests

    def _request_id(self) -> bytes:
        return self._entropy(REQUEST_ID_BYTES)

    def _endpoint(self, node: Enr) -> Endpoint | None:
        known = self.table.get(node.node_id)
        if known is not None and known.live and known.record.seq >= node.seq:
            return known.endpoint
        return next((each for each in endpoints(node) if canonical(each.ip).version in self._families), None)

    def _begin(self, node: Enr, endpoint: Endpoint | None, message: Message, done: Done, now: float) -> Call | None:
        """Send a request; `done` gets the result or the error, at once when nothing can be sent.

        What is no message is the mistake of whoever asks: raises as `encode_message`.
        """
        plaintext = encode_message(message)
        endpoint = endpoint or self._endpoint(node)
        if endpoint is None:
            done(NoEndpoint(f"node {short(node.node_id)} names no UDP address that we can send to"), now)
            return None
        call = Call(node, (node.node_id, endpoint), message, plaintext, done)
        return call if self._calls.begin(call, now) else None

    def _answered(self, call: Call, result: object, now: float) -> None:
        """The node answered in time: if nobody else has its place, the table has it."""
        node_id, endpoint = call.where
        before = self.table.get(node_id)
        was_live = before is not None and before.live
        if before is None and call.chosen and endpoint in endpoints(call.node):
            self.table.heard(call.node, endpoint, now)
        if self.table.alive(node_id, now, endpoint) and not was_live:
            self._out.append(NodeEvent(NodeNews.LIVE, call.node, endpoint))
        self._calls.answered(call, result, now)

    def _found(self, where: Where) -> bool:
        """True for a node of the table that did not come to us by itself."""
        node = self.table.get(where[0])
        return node is not None and not node.incoming and node.endpoint == where[1]

    def _on_failure(self, call: Call, now: float) -> None:
        node_id, endpoint = call.where
        known = self.table.get(node_id)
        if known is None or known.endpoint != endpoint:
            return  # it was asked elsewhere, where it may well not be
        if self.table.failed(node_id, now):
            self._out.append(NodeEvent(NodeNews.GONE, call.node, endpoint))

    # --- datagrams

    def datagram_received(self, data: bytes, sender: Endpoint, now: float) -> None:
        """Take one datagram. Whatever it is, this raises nothing."""
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
            self._handshakes.answer(packet, sender, now)
        else:
            self._on_handshake(packet, (packet.src_id, sender), now)

    def _on_ordinary(self, packet: OrdinaryPacket, where: Where, now: float) -> None:
        session = self._sessions.get(where)
        if session is not None:
            proven = session.proven
            plaintext = session.open(packet.nonce, packet.ciphertext, packet.associated_data, now)
            if plaintext is not None:
                if not proven:
                    self._calls.proven(where, now)
                self._on_plaintext(where, plaintext, now)
                return
        self._handshakes.challenge(packet.nonce, where, now)

    def _on_handshake(self, packet: HandshakePacket, where: Where, now: float) -> None:
        proof = self._handshakes.accept(packet, where, now)
        if proof is None:
            return
        node, plaintext = proof
        self._out.append(NodeEvent(NodeNews.SESSION, node, where[1]))
        self._heard(node, where[1], now)
        self._calls.proven(where, now)
        self._on_plaintext(where, plaintext, now)

    def _record_of(self, where: Where) -> Enr | None:
        """The newest record that we have; the table does not take each one."""
        session, node = self._sessions.get(where), self.table.get(where[0])
        if session is None:
            return None if node is None else node.record
        return session.record if node is None or node.record.seq <= session.record.seq else node.record

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
        if isinstance(message, (Ping, FindNode, TalkRequest)):
            refused = self._rates.request(where[1].ip, now)
            if refused is not None:
                self.counters[refused] += 1
                return
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
        known = self._record_of(where)
        if known is None or seq <= known.seq or self._calls.to(where[0]) > 1:
            return

        def done(result: object, when: float) -> None:
            for record in result if isinstance(result, list) else ():
                if record.node_id == where[0]:
                    session = self._sessions.get(where)
                    if session is not None and record.seq > session.record.seq:
                        session.record = record
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
        node = self._record_of(where)
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
                if self._found(where):  # who came to us would come again and again, to vote
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
        if nodes.records and call.raws.issuperset(nodes.records):  # a datagram may come twice
            self.counters["answers repeated"] += 1
            return
        call.total = nodes.total
        call.answers += 1
        call.raws.update(nodes.records)
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
        found = self.table.closest(target, _FOUND, found_only=True)
        start = dict.fromkeys((*self.table.closest(target, K, seen_too=True), *found))
        # A bootnode knows at first nobody but those who came to it.
        doubted = [node.node_id for node in start if self.table.came(node.node_id)] if found else []
        lookup = Lookup(
            target,
            start,
            k=K,
            local_id=self.node_id,
            first=[node.node_id for node in found] if doubted else (),
            predicate=predicate,
            config=self.config.lookup,
        )

        def ended(lookup: Lookup[Enr], when: float) -> None:
            for rule, count in lookup.refused.items():
                self.counters[f"records refused in lookups: {rule}"] += count
            done(lookup, when)

        return Walk(lookup, self._query, self._told, ended, doubted=doubted, vouched=[node.node_id for node in found])

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
