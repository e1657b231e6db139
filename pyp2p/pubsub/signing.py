"""Signing policies: what our messages carry, what theirs must carry (libp2p specs, pubsub, message signing).

Rules: the signature covers `libp2p-pubsub:` and the message as it came, less the fields signature and key; fields we do
not know stay in their place. Nothing is encoded again: a peer cannot make two texts share a signature.
"""

from __future__ import annotations

from typing import Final, Protocol

from pyp2p.errors import InvalidKey, InvalidPeerId
from pyp2p.io.varint import prefixed
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.peer.publickey import PublicKey
from pyp2p.pubsub.types import Message
from pyp2p.pubsub.wire import encode_topic, fields

_PREFIX: Final = b"libp2p-pubsub:"
_SEQNO_BYTES: Final = 8
_SIGNATURE, _KEY = 5, 6
_KEPT_KEYS = 256  # of authors, so that a key is not parsed for each message


class Policy(Protocol):
    """How messages are made and what is asked of those of others."""

    def build(self, topic: str, data: bytes, seqno: int) -> Message:
        """Our own message, serialised in `raw`; 0 <= `seqno` < 2**64. Raises `LocalProtocolError` for a bad topic."""
        ...

    def check(self, message: Message) -> str | None:
        """Why the message must be rejected; None when it is as it has to be."""
        ...


class StrictSign:
    """Every message is signed by its author."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._author = identity.peer.raw
        in_id = identity.peer.public_key() is not None
        self._key = None if in_id else identity.public_key.to_protobuf()
        self._keys: dict[tuple[bytes, bytes | None], PublicKey] = {}

    def build(self, topic: str, data: bytes, seqno: int) -> Message:
        """As `Policy.build`: all fields, the key only where the id is no more than its hash."""
        author, number, key = self._author, seqno.to_bytes(_SEQNO_BYTES, "big"), self._key
        signed = b"".join(
            (
                b"\x0a" + prefixed(author),
                b"\x12" + prefixed(data),
                b"\x1a" + prefixed(number),
                b"\x22" + prefixed(encode_topic(topic)),
            )
        )
        signature = self._identity.sign(_PREFIX + signed)
        raw = signed + b"\x2a" + prefixed(signature)
        if key is not None:
            raw += b"\x32" + prefixed(key)
        return Message(topic, data, raw, author, number, key, signature)

    def check(self, message: Message) -> str | None:
        """As `Policy.check`: author, sequence number and signature are there, and the signature is the author's."""
        if message.author is None:
            return "no author"
        if message.seqno is None or len(message.seqno) != _SEQNO_BYTES:
            return "no sequence number of 8 bytes"
        if message.signature is None:
            return "no signature"
        try:
            key = self._author_key(message.author, message.key)
        except (InvalidKey, InvalidPeerId):
            return "no key that is its author's"
        if key is None:
            return "no key that is its author's"
        return None if key.verify(message.signature, signed_bytes(message.raw)) else "wrong signature"

    def _author_key(self, author: bytes, given: bytes | None) -> PublicKey | None:
        """The key that `author` is the id of, taken from the id or as `given`; None when there is none or another."""
        key = self._keys.get((author, given))
        if key is None:
            peer = PeerId.from_bytes(author)
            key = peer.public_key() if given is None else PublicKey.from_protobuf(given)
            if key is None or PeerId.from_key(key) != peer:
                return None
            if len(self._keys) >= _KEPT_KEYS:
                del self._keys[next(iter(self._keys))]
            self._keys[author, given] = key
        return key


class StrictNoSign:
    """Nobody signs: a message has data and topic, and its id comes from them."""

    def build(self, topic: str, data: bytes, seqno: int) -> Message:
        """As `Policy.build`; `seqno` is not used."""
        return Message(topic, data, b"\x12" + prefixed(data) + b"\x22" + prefixed(encode_topic(topic)))

    def check(self, message: Message) -> str | None:
        """As `Policy.check`: the four fields are absent from the bytes, not just empty."""
        if message.author is not None:
            return "an author though nobody signs"
        if message.seqno is not None:
            return "a sequence number though nobody signs"
        if message.signature is not None:
            return "a signature though nobody signs"
        if message.key is not None:
            return "a key though nobody signs"
        return None


def signed_bytes(raw: bytes) -> bytes:
    """What a signature of this serialised message is made over. Raises `PubsubError` when it is malformed."""
    parts = [_PREFIX]
    done = 0
    for tag, begin, _, stop in fields(raw):
        if tag >> 3 in (_SIGNATURE, _KEY):
            parts.append(raw[done:begin])
            done = stop
    parts.append(raw[done:])
    return b"".join(parts)
