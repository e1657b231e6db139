"""`/plaintext/2.0.0`: no encryption and no proof, for tests and for reading captures only.

Rules: pure. Both sides send one Exchange {id 1, pubkey 2}; a peer can claim any key, so nothing is proven. libp2p
plaintext specification v2.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyp2p.errors import LocalProtocolError, PeerIdMismatch, RemoteError, SecurityError
from pyp2p.io import varint
from pyp2p.io.handshake import Direction
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, PublicKey
from pyp2p.platform import Platform
from pyp2p.security.base import Buffer

MAX_EXCHANGE = 4096  # the largest RSA key takes 1.1 KiB
_ID = 0x0A
_PUBKEY = 0x12


class Plaintext:
    """The security protocol `/plaintext/2.0.0`: anyone on the way can read, change and impersonate."""

    protocol = "/plaintext/2.0.0"

    def handshake(
        self,
        identity: Identity,
        direction: Direction,
        expect: PeerId | None,
        muxers: Sequence[str],
        platform: Platform,
    ) -> PlaintextHandshake:
        """A fresh exchange. Direction, muxers and platform play no part in it."""
        return PlaintextHandshake(identity, expect)


class PlaintextChannel:
    """Passes bytes through."""

    __slots__ = ("early_muxer", "peer", "peer_key")

    def __init__(self, peer: PeerId, peer_key: PublicKey) -> None:
        self.peer = peer
        self.peer_key = peer_key
        self.early_muxer: str | None = None

    def seal(self, chunks: Sequence[Buffer]) -> bytes:
        """The chunks, joined."""
        return b"".join(chunks)

    def open(self, data: bytes) -> list[bytes]:
        """The data as it came."""
        return [data] if data else []

    def close(self) -> bytes:
        """Nothing: the end of the connection is the end."""
        return b""


class PlaintextHandshake:
    """One exchange of claimed identities; `result` is a `PlaintextChannel`. Bounds: 4 KiB of unread input."""

    __slots__ = ("_broken", "_buffer", "_expect", "_out", "done", "leftover", "result")

    result: PlaintextChannel
    leftover: bytes

    def __init__(self, identity: Identity, expect: PeerId | None) -> None:
        key = identity.public_key.to_protobuf()
        exchange = b"".join(
            bytes((tag,)) + varint.encode(len(value)) + value
            for tag, value in ((_ID, identity.peer.raw), (_PUBKEY, key))
        )
        self._out = varint.encode(len(exchange)) + exchange
        self._expect = expect
        self._buffer = b""
        self._broken = ""
        self.done = False

    def take_output(self) -> bytes:
        """The bytes to send now; each byte is returned once."""
        out = self._out
        self._out = b""
        return out

    def feed(self, data: bytes) -> None:
        """Take input. Raises `SecurityError`, `WireError`, `InvalidKey` or `PeerIdMismatch`, then `SecurityError`."""
        if self.done:
            raise LocalProtocolError("the exchange is over: its leftover belongs to the channel")
        if self._broken:
            raise SecurityError(self._broken)
        self._buffer += data
        try:
            self._read()
        except RemoteError as error:
            self._broken = str(error)
            self._buffer = b""
            raise

    def _read(self) -> None:
        head = varint.decode(self._buffer)
        if head is None:
            return
        size, start = head
        if size > MAX_EXCHANGE:
            raise SecurityError(f"an exchange of {size} bytes")
        if len(self._buffer) < start + size:
            return
        fields = _fields(self._buffer[start : start + size])
        key = PublicKey.from_protobuf(fields.get(_PUBKEY, b""))
        peer = PeerId.from_key(key)
        if fields.get(_ID) != peer.raw:
            raise SecurityError("the exchange names another peer than its key")
        if self._expect is not None and peer != self._expect:
            raise PeerIdMismatch(self._expect, peer)
        self.result = PlaintextChannel(peer, key)
        self.leftover = self._buffer[start + size :]
        self._buffer = b""
        self.done = True


def _fields(exchange: bytes) -> dict[int, bytes]:
    """The two fields of an Exchange; anything else is refused, since nobody extends this protocol."""
    fields: dict[int, bytes] = {}
    offset = 0
    while offset < len(exchange):
        tag = exchange[offset]
        head = varint.decode(exchange, offset + 1)
        if tag not in (_ID, _PUBKEY) or tag in fields or head is None or head[0] > len(exchange) - head[1]:
            raise SecurityError("malformed exchange")
        size, start = head
        offset = start + size
        fields[tag] = exchange[start:offset]
    return fields
