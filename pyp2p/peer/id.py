"""Peer ids: the multihash of a public key, as bytes and in every text form (specs peer-ids).

Rules: a key whose protobuf takes at most 42 bytes is its own id (identity multihash), any other is hashed with SHA-256.
An id that holds a key must hold it in the one form we would emit. Text is bounded before it is decoded: base58 takes
quadratic time.
"""

from __future__ import annotations

import hashlib
from functools import total_ordering
from typing import Final

import base58

from pyp2p.errors import InvalidPeerId, printable
from pyp2p.peer import multibase
from pyp2p.peer.publickey import KeyType, PublicKey

MAX_TEXT: Final = 128  # the longest id in base16 as a CID takes 83 characters
_SHA256 = b"\x12\x20"
_CID = b"\x01\x72"  # CIDv1, codec libp2p-key
_INLINE = {  # the protobufs that fit in an id begin with type and length, and have exactly one total length
    bytes((0x00, 36, 0x08, KeyType.ED25519, 0x12, 32)): 38,
    bytes((0x00, 37, 0x08, KeyType.SECP256K1, 0x12, 33)): 39,
}
_MAX_INLINE = 42


@total_ordering
class PeerId:
    """Who a peer is. Immutable, hashable, ordered by its bytes. `PeerId(raw)` does not check: use the class methods."""

    __slots__ = ("_hash", "_text", "raw")

    raw: Final[bytes]

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._hash = hash(raw)
        self._text: str | None = None

    @classmethod
    def from_bytes(cls, raw: bytes) -> PeerId:
        """The id whose multihash is `raw`; raises `InvalidPeerId`."""
        raw = bytes(raw)
        if raw[:2] == _SHA256:
            if len(raw) != 34:
                raise InvalidPeerId(f"peer id with a SHA-256 digest of {len(raw) - 2} bytes instead of 32")
        elif _INLINE.get(raw[:6]) != len(raw):
            raise InvalidPeerId("peer id is neither a SHA-256 multihash nor a short public key in its one encoding")
        return cls(raw)

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """The id written as base58 (`12D3Koo..`, `Qm..`) or as a CIDv1 in base16, 32, 36, 58 or 64.

        Raises `InvalidPeerId`. Texts over 128 characters are refused unread.
        """
        if len(text) > MAX_TEXT:
            raise InvalidPeerId(f"not a peer id: {len(text)} characters, over the limit of {MAX_TEXT}")
        plain = text.startswith(("1", "Qm"))
        try:
            raw = multibase.decode_base58(text) if plain else multibase.decode(text)
        except ValueError:
            raise InvalidPeerId(f"not a peer id: '{printable(text)}'") from None
        if not plain:
            if not raw.startswith(_CID):
                raise InvalidPeerId(f"not the CID of a public key: '{printable(text)}'")
            raw = raw[len(_CID) :]
        return cls.from_bytes(raw)

    @classmethod
    def from_key(cls, key: PublicKey) -> PeerId:
        """The id of whoever holds the private half of `key`."""
        encoded = key.to_protobuf()
        if len(encoded) <= _MAX_INLINE:
            return cls(bytes((0, len(encoded))) + encoded)
        return cls(_SHA256 + hashlib.sha256(encoded).digest())

    def public_key(self) -> PublicKey | None:
        """The key inside the id; None when the id is a hash. Raises `InvalidKey` when it is no point of its curve."""
        return PublicKey.from_protobuf(self.raw[2:]) if self.raw[0] == 0 else None

    def to_cid(self) -> str:
        """The id as CIDv1 in base32 (`bafz..`)."""
        return "b" + multibase.encode_base32(_CID + self.raw)

    def short(self) -> str:
        """The end of the base58 form, enough to tell peers apart in a log."""
        return "*" + str(self)[-6:]

    def __str__(self) -> str:
        if self._text is None:
            self._text = base58.b58encode(self.raw).decode("ascii")
        return self._text

    def __repr__(self) -> str:
        return f"<PeerId {self.short()}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PeerId) and self.raw == other.raw

    def __lt__(self, other: PeerId) -> bool:
        return self.raw < other.raw

    def __hash__(self) -> int:
        return self._hash
