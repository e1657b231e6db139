"""Session keys by node and endpoint, and the challenges that are out.

Rules: pure and bounded; of the sessions the least recently used goes first, of challenges there are no more than so
many. A session belongs to an endpoint: from another one the same node has to prove itself again. When two handshakes
cross, each side may end with the other's keys as the newest: for a moment both pairs are kept, and written with is what
was read with last. Longer would let a recorded packet bring back keys that the node has forgotten. discv5 theory
"Sessions", "Handshake".
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pyp2p.discv5.crypto import NONCE_BYTES, decrypt_message, session_cipher
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.packet import WhoAreYou

Where = tuple[bytes, Endpoint]  # node id, and where it speaks from

_COUNTER = 4  # bytes of a nonce; the others are random
RANDOM_NONCE_BYTES = NONCE_BYTES - _COUNTER
_CROSSING = 2  # key pairs that are kept
_CROSSED = 2.0  # seconds after which one is left: no handshake takes longer


@dataclass(slots=True)
class KeyPair:
    """What we write and what we read with."""

    write: AESGCM
    read: AESGCM

    @classmethod
    def of(cls, write: bytes, read: bytes) -> KeyPair:
        """Made of two keys of 16 bytes."""
        return cls(session_cipher(write), session_cipher(read))


class Session:
    """Keys with one node at one endpoint. `proven`: something of the node opened with those that we write with.

    `record` is the newest of the node that we have.
    """

    __slots__ = ("_count", "_crossed_until", "_pairs", "proven", "record")

    def __init__(self, record: Enr) -> None:
        self.record = record
        self.proven = False
        self._crossed_until = 0.0
        self._pairs: list[KeyPair] = []  # the newest first
        self._count = 0

    def renew(self, pair: KeyPair, proven: bool, now: float) -> None:
        """A handshake gave new keys; those before are kept for a moment to read with."""
        self._crossed_until = now + _CROSSED
        self._pairs = [pair, *self._pairs[: _CROSSING - 1]]
        self.proven = proven

    @property
    def write(self) -> AESGCM:
        """The cipher for what we send."""
        return self._pairs[0].write

    def nonce(self, random: bytes) -> bytes:
        """A nonce that was not used before; `random` are `RANDOM_NONCE_BYTES`."""
        self._count = (self._count + 1) & 0xFFFFFFFF
        return self._count.to_bytes(_COUNTER, "big") + random

    def open(self, nonce: bytes, ciphertext: bytes, associated_data: bytes, now: float) -> bytes | None:
        """The plaintext, None when no key opens it."""
        if len(self._pairs) > 1 and now >= self._crossed_until:
            del self._pairs[1:]
        for pair in self._pairs:
            plaintext = decrypt_message(pair.read, nonce, ciphertext, associated_data)
            if plaintext is not None:
                if pair is not self._pairs[0]:
                    self._pairs.reverse()
                self.proven = True
                return plaintext
        return None


class Sessions:
    """The sessions of a node, `most` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sessions: OrderedDict[Where, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, where: Where) -> Session | None:
        """The session with this node at this endpoint, which is used now."""
        session = self._sessions.get(where)
        if session is not None:
            self._sessions.move_to_end(where)
        return session

    def renew(self, where: Where, pair: KeyPair, record: Enr, proven: bool, now: float) -> Session:
        """New keys for a session, which is made when there is none."""
        session = self._sessions.get(where)
        if session is None:
            session = self._sessions[where] = Session(record)
            if len(self._sessions) > self._most:
                self._sessions.popitem(last=False)
        else:
            self._sessions.move_to_end(where)
        if record.seq > session.record.seq:
            session.record = record
        session.renew(pair, proven, now)
        return session


@dataclass(slots=True)
class Challenge:
    """A WHOAREYOU of ours: the same bytes are sent again for whatever else cannot be read meanwhile."""

    packet: WhoAreYou
    datagram: bytes
    expires: float


class Challenges:
    """The challenges that are out, `most` of them for `ttl` seconds each."""

    def __init__(self, most: int, ttl: float) -> None:
        self._most = most
        self._ttl = ttl
        self._challenges: OrderedDict[Where, Challenge] = OrderedDict()  # the first to expire first

    def __len__(self) -> int:
        return len(self._challenges)

    def get(self, where: Where, now: float) -> Challenge | None:
        """The challenge to this node at this endpoint, if it still counts."""
        self.expire(now)
        return self._challenges.get(where)

    def full(self, now: float) -> bool:
        """True when no further one may be made: a flood from made-up nodes must not push out an honest one's."""
        self.expire(now)
        return len(self._challenges) >= self._most

    def add(self, where: Where, packet: WhoAreYou, datagram: bytes, now: float) -> None:
        """A challenge is about to be sent."""
        self._challenges[where] = Challenge(packet, datagram, now + self._ttl)

    def done(self, where: Where) -> None:
        """It was answered."""
        self._challenges.pop(where, None)

    def expire(self, now: float) -> None:
        """Forget those whose time is over."""
        while self._challenges and next(iter(self._challenges.values())).expires <= now:
            self._challenges.popitem(last=False)
