"""Message ids: what makes two messages the same (libp2p specs, pubsub; consensus-specs, p2p-interface).

Rules: pure functions of the message and of whether its data was valid. Gossip reaches another implementation only when
both sides form ids in the same way; defaults differ between them, so both sides should be told.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

from pyp2p.pubsub.types import Message

ETH2_ID_BYTES: Final = 20
_VALID = b"\x01\x00\x00\x00"
_INVALID = b"\x00\x00\x00\x00"


class MessageIdFunction(Protocol):
    """The id of a message: not empty, at most 1,024 bytes, the same at every node. Raises nothing."""

    def __call__(self, message: Message, valid: bool = True) -> bytes:
        """`valid` is whether the data transform took `message.data`; only then `message.payload` is its result."""
        ...


def default_message_id(message: Message, valid: bool = True) -> bytes:
    """Author and sequence number; of no use where nobody signs. `valid` makes no difference."""
    return (message.author or b"") + (message.seqno or b"")


def eth2_phase0_message_id(message: Message, valid: bool = True) -> bytes:
    """20 bytes of the hash of the payload, or of the data where that is no valid snappy."""
    start = _VALID + message.payload if valid else _INVALID + message.data
    return hashlib.sha256(start).digest()[:ETH2_ID_BYTES]


def eth2_altair_message_id(message: Message, valid: bool = True) -> bytes:
    """As `eth2_phase0_message_id`, over the topic too: for the topics of altair and every later fork."""
    topic = message.topic.encode()
    domain, content = (_VALID, message.payload) if valid else (_INVALID, message.data)
    hashed = hashlib.sha256(domain + len(topic).to_bytes(8, "little") + topic)
    hashed.update(content)
    return hashed.digest()[:ETH2_ID_BYTES]
