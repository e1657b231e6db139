"""Who is there: WHOAREYOUs of ours, answers to those of others, and the proof in a handshake packet.

Rules: pure. Nobody is answered with more bytes than it sent before it has proven who it is. A node is who it claims to
be when its record has that id and its key signed our challenge; only then is its message decrypted, and believed.
discv5 theory "Handshake".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from pyp2p.discv5.calls import REQUEST_ID_BYTES, Calls
from pyp2p.discv5.crypto import decrypt_message, derive_keys, id_signature_digest
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.limits import RateLimits
from pyp2p.discv5.messages import Ping, encode_message
from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.own import OwnRecord
from pyp2p.discv5.packet import (
    ID_NONCE_BYTES,
    IV_BYTES,
    MAX_HANDSHAKE_PLAINTEXT,
    HandshakePacket,
    WhoAreYou,
    encode_handshake,
    encode_whoareyou,
    make_whoareyou,
)
from pyp2p.discv5.sessions import RANDOM_NONCE_BYTES, Challenges, KeyPair, Sessions, Where
from pyp2p.discv5.types import Discv5Config, Form, SendDatagram
from pyp2p.errors import InvalidEnr, InvalidKey
from pyp2p.peer import secp256k1
from pyp2p.peer.keys import Identity, KeyType

_MAX_CHALLENGES: Final = 2  # WHOAREYOUs that are answered for each packet that a request may take


class Handshakes:
    """Makes the sessions; `record_of(where)` is the newest record of a node that we have, `send` takes datagrams."""

    def __init__(
        self,
        identity: Identity,
        own: OwnRecord,
        config: Discv5Config,
        *,
        sessions: Sessions,
        calls: Calls,
        rates: RateLimits,
        record_of: Callable[[Where], Enr | None],
        send: Callable[[SendDatagram], None],
        counters: Counter[str],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._scalar = identity.scalar
        self._own = own
        self._config = config
        self._sessions = sessions
        self._calls = calls
        self._rates = rates
        self._record_of = record_of
        self._send = send
        self._counters = counters
        self._entropy = entropy
        self._challenges = Challenges(config.max_challenges, config.challenge_ttl)

    def __len__(self) -> int:
        return len(self._challenges)

    def expire(self, now: float) -> None:
        """Forget the challenges whose time is over."""
        self._challenges.expire(now)

    def challenge(self, nonce: bytes, where: Where, now: float) -> None:
        """Ask who it is. Deployed nodes repeat a challenge byte for byte: so do we for as long as it counts."""
        refused = self._rates.challenge(where[1].ip, now)
        if refused is not None:
            self._counters[refused] += 1
            return
        challenge = self._challenges.get(where, now)
        if challenge is not None:
            self._send(SendDatagram(challenge.datagram, where[1], Form.WHOAREYOU))
            return
        if self._challenges.full(now):
            self._counters["challenges refused"] += 1
            return
        known = self._record_of(where)
        packet = make_whoareyou(
            iv=self._entropy(IV_BYTES),
            nonce=nonce,
            id_nonce=self._entropy(ID_NONCE_BYTES),
            enr_seq=known.seq if known else 0,
        )
        datagram = encode_whoareyou(packet, dest_id=where[0])
        self._challenges.add(where, packet, datagram, now)
        self._send(SendDatagram(datagram, where[1], Form.WHOAREYOU))

    def answer(self, packet: WhoAreYou, sender: Endpoint, now: float) -> None:
        """A node asks who we are: when it was sent a packet of this nonce, it hears, with our request in the answer."""
        call = self._calls.of_nonce(packet.nonce)
        # Counted for the whole request: who forgets each session at once would keep it, and us, busy for ever.
        most = 0 if call is None else _MAX_CHALLENGES * min(call.attempts, self._config.attempts)
        if call is None or call.where[1] != sender or call.challenges >= most:
            self._counters["whoareyou ignored"] += 1
            return
        call.challenges += 1
        node_id = call.node.node_id
        ephemeral = Identity.generate(KeyType.SECP256K1, entropy=self._entropy)
        public = ephemeral.public_key.data
        secret = secp256k1.ecdh(ephemeral.scalar, call.node.public_key)
        keys = derive_keys(secret, packet.challenge_data, self._own.record.node_id, node_id)
        pair = KeyPair.of(keys.initiator_key, keys.recipient_key)
        session = self._sessions.renew(call.where, pair, call.node, False, now)
        self._calls.shakes(call)
        nonce = session.nonce(self._entropy(RANDOM_NONCE_BYTES))
        record = self._own.record.raw if packet.enr_seq < self._own.record.seq else None
        message, plaintext = call.message, call.plaintext
        if len(plaintext) > MAX_HANDSHAKE_PLAINTEXT - len(record or b""):  # it follows when the session stands
            message = Ping(self._entropy(REQUEST_ID_BYTES), self._own.record.seq)
            plaintext = encode_message(message)
            if not call.abandoned:
                self._calls.waits(call)
        datagram = encode_handshake(
            dest_id=node_id,
            src_id=self._own.record.node_id,
            iv=self._entropy(IV_BYTES),
            nonce=nonce,
            signature=secp256k1.sign_digest(self._scalar, id_signature_digest(packet.challenge_data, public, node_id)),
            ephemeral_key=public,
            record=record,
            cipher=session.write,
            plaintext=plaintext,
        )
        self._send(SendDatagram(datagram, sender, Form.HANDSHAKE, message))
        self._calls.expect(call, nonce, now + self._config.handshake_timeout)

    def accept(self, packet: HandshakePacket, where: Where, now: float) -> tuple[Enr, bytes] | None:
        """The record of whoever answered our challenge, and its first message; None for one that proves nothing."""
        challenge = self._challenges.get(where, now)
        if challenge is None:
            self._counters["handshakes unasked"] += 1
            return None
        refused = self._rates.handshake(where[1].ip, now)
        if refused is not None:
            self._counters[refused] += 1
            return None
        node = self._proven_by(packet, challenge.packet, where)
        if node is None:
            self._counters["handshakes refused"] += 1
            return None
        try:
            secret = secp256k1.ecdh(self._scalar, packet.ephemeral_key)
        except InvalidKey:
            self._counters["handshakes refused"] += 1
            return None
        keys = derive_keys(secret, challenge.packet.challenge_data, where[0], self._own.record.node_id)
        pair = KeyPair.of(keys.recipient_key, keys.initiator_key)
        plaintext = decrypt_message(pair.read, packet.nonce, packet.ciphertext, packet.associated_data)
        if plaintext is None:
            self._counters["handshakes refused"] += 1
            return None
        self._challenges.done(where)
        self._sessions.renew(where, pair, node, True, now)
        self._counters["sessions"] += 1
        return node, plaintext

    def _proven_by(self, packet: HandshakePacket, challenge: WhoAreYou, where: Where) -> Enr | None:
        """The record of whoever signed the handshake, None when that is not the node it claims to be."""
        known = self._record_of(where)
        if packet.record is not None:
            try:
                sent = Enr.from_rlp(packet.record)
            except InvalidEnr:
                return None
            if sent.node_id != where[0]:
                return None
            if known is None or sent.seq > known.seq:
                known = sent
        if known is None:
            return None
        digest = id_signature_digest(challenge.challenge_data, packet.ephemeral_key, self._own.record.node_id)
        return known if secp256k1.verify_digest(known.public_key, packet.signature, digest) else None
