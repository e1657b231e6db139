"""Our requests, from the first packet to the end: what is sent again, what waits for a session, what has timed out.

Rules: pure. A request is sent again as a new packet, with the same request id; a WHOAREYOU for an older one is ignored.
One request at a time asks a node for a session; the others to that node wait for it, or fail with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush

from pyp2p.discv5.crypto import NONCE_BYTES
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.messages import Message
from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.packet import IV_BYTES, encode_ordinary, encode_random
from pyp2p.discv5.sessions import RANDOM_NONCE_BYTES, Session, Sessions, Where
from pyp2p.discv5.types import Discv5Config
from pyp2p.errors import NoAnswer, TooManyRequests

REQUEST_ID_BYTES = 8  # of ours
_RANDOM_CONTENT = 20  # bytes in place of a message, when there is no session yet
Done = Callable[[object, float], None]  # the result or a `DiscoveryError`, and when
Transmit = Callable[[bytes, Endpoint, Message | None], None]  # the message in the packet, if there is one


class Call:
    """One request."""

    __slots__ = (
        *("abandoned", "answers", "attempts", "challenges", "chosen", "done", "message", "node", "nonces"),
        *("plaintext", "raws", "records", "serial", "total", "where"),
    )

    def __init__(self, node: Enr, where: Where, message: Message, plaintext: bytes, done: Done) -> None:
        self.node = node
        self.where = where
        self.message = message
        self.plaintext = plaintext  # the message, encoded
        self.done = done
        self.chosen = False  # by the application: the table takes the node when it answers
        self.abandoned = False  # nobody waits for it, but others do for its handshake
        self.attempts = 0
        self.challenges = 0
        self.nonces: list[bytes] = []  # of the packets that it was sent in, this attempt
        self.serial = 0  # of the timer that counts
        self.records: list[Enr] = []  # NODES that came so far
        self.raws: set[bytes] = set()  # what was in them
        self.answers = 0
        self.total = 0


class Calls:
    """All requests under way.

    `failed(call, now)` is told of those that nobody answered, before they are done; `answered(call, result, now)` of
    those answered in part when their time is over, and calls `answered` here.
    """

    def __init__(
        self,
        node_id: bytes,
        sessions: Sessions,
        config: Discv5Config,
        *,
        entropy: Callable[[int], bytes],
        transmit: Transmit,
        answered: Callable[[Call, object, float], None],
        failed: Callable[[Call, float], None],
        counters: Counter[str],
    ) -> None:
        self._node_id = node_id
        self._sessions = sessions
        self._config = config
        self._entropy = entropy
        self._transmit_to = transmit
        self._answered_to = answered
        self._failed_to = failed
        self._counters = counters
        self._calls: dict[tuple[bytes, bytes], Call] = {}  # by node and request id
        self._per_node: Counter[bytes] = Counter()
        self._by_nonce: dict[bytes, Call] = {}
        self._shaking: dict[Where, Call] = {}  # whose packet the session is to come of
        self._waiting: dict[Where, dict[Call, None]] = {}  # for that session, in order, each once
        self._timers: list[tuple[float, int, Call]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._calls)

    def get(self, node_id: bytes, request_id: bytes) -> Call | None:
        """The request to a node with this id."""
        return self._calls.get((node_id, request_id))

    def of_nonce(self, nonce: bytes) -> Call | None:
        """The request that was sent in the packet with this nonce, if that is its last attempt."""
        return self._by_nonce.get(nonce)

    def to(self, node_id: bytes) -> int:
        """How many are under way to a node."""
        return self._per_node[node_id]

    # --- sending

    def begin(self, call: Call, now: float) -> bool:
        """Send a request; it is done at once, with an error, when too many are under way: False."""
        node_id = call.where[0]
        most = self._config.max_requests_per_node
        if len(self._calls) >= self._config.max_requests or self._per_node[node_id] >= most:
            self._counters["requests refused"] += 1
            call.done(TooManyRequests(f"too many requests are under way to ask node {short(node_id)} as well"), now)
            return False
        self._calls[node_id, call.message.request_id] = call
        self._per_node[node_id] += 1
        self._transmit(call, now)
        return True

    def _transmit(self, call: Call, now: float) -> None:
        """Send the packet of an attempt: under the session, or random content that asks for one, or wait for that."""
        where = call.where
        session = self._sessions.get(where)
        self._forget_nonces(call)
        if session is not None and session.proven:
            call.attempts += 1
            nonce = self.send(where, session, call.message, call.plaintext)
            self.expect(call, nonce, now + self._config.request_timeout)
        elif self._shaking.get(where, call) is call:
            call.attempts += 1
            self._shaking[where] = call
            nonce = self._entropy(NONCE_BYTES)
            datagram = encode_random(
                dest_id=where[0],
                src_id=self._node_id,
                iv=self._entropy(IV_BYTES),
                nonce=nonce,
                content=self._entropy(_RANDOM_CONTENT),
            )
            self._transmit_to(datagram, where[1], None)
            self.expect(call, nonce, now + self._config.handshake_timeout)
        else:
            self.waits(call)

    def send(self, where: Where, session: Session, message: Message, plaintext: bytes) -> bytes:
        """Send a message, encoded as `plaintext`, under a session; returns the nonce of its packet."""
        random = self._entropy(IV_BYTES + RANDOM_NONCE_BYTES)  # at once: each time is a system call
        nonce = session.nonce(random[IV_BYTES:])
        datagram = encode_ordinary(
            dest_id=where[0],
            src_id=self._node_id,
            iv=random[:IV_BYTES],
            nonce=nonce,
            cipher=session.write,
            plaintext=plaintext,
        )
        self._transmit_to(datagram, where[1], message)
        return nonce

    def expect(self, call: Call, nonce: bytes, deadline: float) -> None:
        """The request was sent in the packet with this nonce: until the deadline an answer counts."""
        call.nonces.append(nonce)
        self._by_nonce[nonce] = call
        self._serial += 1
        call.serial = self._serial
        heappush(self._timers, (deadline, self._serial, call))

    def shakes(self, call: Call) -> None:
        """The handshake for this request is sent: the others to the node wait for it."""
        self._shaking[call.where] = call

    def waits(self, call: Call) -> None:
        """It is sent when the session stands, once however often it was told to wait."""
        self._waiting.setdefault(call.where, {})[call] = None

    def proven(self, where: Where, now: float) -> None:
        """The session with a node stands: those that waited for it go on."""
        shaker = self._shaking.pop(where, None)
        if shaker is not None and shaker.abandoned and shaker.serial:
            self._end(shaker)
        for call in self._waiting.pop(where, ()):
            self._transmit(call, now)

    # --- ends

    def answered(self, call: Call, result: object, now: float) -> None:
        """The node answered in time."""
        self._end(call)
        if self._shaking.get(call.where) is call:
            self.proven(call.where, now)
        call.done(result, now)

    def cancel(self, call: Call) -> None:
        """Nobody waits for it; one whose handshake others wait for goes on for them, and ends with the last of them."""
        shaker, waiting = self._shaking.get(call.where), self._waiting.get(call.where, {})
        if shaker is call:
            waiting.pop(call, None)  # too large for its handshake
            if waiting:
                call.abandoned, call.done = True, _nobody
                return
            self._waiting.pop(call.where, None)
            del self._shaking[call.where]
        self._end(call)
        if shaker is not None and shaker.abandoned and call.where not in self._waiting:
            del self._shaking[call.where]
            self._end(shaker)

    def next_timer(self) -> float | None:
        """When the next one times out."""
        while self._timers and self._timers[0][1] != self._timers[0][2].serial:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def expire(self, now: float) -> None:
        """Send again, or give up, what has timed out."""
        while self._timers and self._timers[0][0] <= now:
            _, serial, call = heappop(self._timers)
            if serial == call.serial:
                self._timed_out(call, now)

    def _timed_out(self, call: Call, now: float) -> None:
        if call.answers:  # some of the NODES: better than none
            self._answered_to(call, call.records, now)
        elif call.attempts < self._config.attempts:
            self._counters["attempts repeated"] += 1
            self._transmit(call, now)
        else:
            self._failed(call, now)

    def _failed(self, call: Call, now: float) -> None:
        """No answer to any attempt; those that wait for the session of this one fail with it."""
        self._end(call)
        self._counters["requests failed"] += 1
        others: dict[Call, None] = {}
        if self._shaking.get(call.where) is call:
            del self._shaking[call.where]
            others = self._waiting.pop(call.where, others)
        for other in others:
            self._end(other)
        self._failed_to(call, now)
        node_id, endpoint = call.where
        where = f"node {short(node_id)} at {endpoint.ip} port {endpoint.port}"
        for each in (call, *others):
            each.done(NoAnswer(f"{where} gave no answer to {call.attempts} packets"), now)

    def _forget_nonces(self, call: Call) -> None:
        for nonce in call.nonces:
            self._by_nonce.pop(nonce, None)
        call.nonces.clear()

    def _end(self, call: Call) -> None:
        self._forget_nonces(call)
        call.serial = 0
        node_id, _ = call.where
        if (waiting := self._waiting.get(call.where)) is not None:  # one that is over is not sent any more
            waiting.pop(call, None)
            if not waiting:
                del self._waiting[call.where]
        del self._calls[node_id, call.message.request_id]
        self._per_node[node_id] -= 1
        if not self._per_node[node_id]:
            del self._per_node[node_id]


def _nobody(result: object, now: float) -> None:
    """Who waited for the result does no more."""


def short(node_id: bytes) -> str:
    """A node id for people."""
    return node_id.hex()[:16]
