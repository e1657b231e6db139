"""What a security protocol gives the switch: a handshake core whose result seals and opens bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pyp2p.io.handshake import Direction, Handshake
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, PublicKey
from pyp2p.platform import Platform

Buffer = bytes | bytearray | memoryview


class SecureChannel(Protocol):
    """An encrypted channel with a proven peer, without I/O."""

    @property
    def peer(self) -> PeerId:
        """The proven peer id."""
        ...

    @property
    def peer_key(self) -> PublicKey:
        """The key that proved it."""
        ...

    @property
    def early_muxer(self) -> str | None:
        """The muxer agreed inside the handshake, or None: negotiate it."""
        ...

    def seal(self, chunks: Sequence[Buffer]) -> bytes | bytearray:
        """Encrypt the chunks, joined, into as few frames as possible, ready for one write."""
        ...

    def open(self, data: bytes) -> list[bytes]:
        """Decrypt every complete frame of what came so far; keeps an incomplete tail.

        Raises `SecurityError`; afterwards the channel is dead and says so again on each call.
        """
        ...

    def close(self) -> bytes:
        """The last bytes that announce the end to the peer (Noise: none), after which nothing is sealed."""
        ...


class Security(Protocol):
    """A security protocol that can be offered in multistream-select."""

    protocol: str

    def handshake(
        self,
        identity: Identity,
        direction: Direction,
        expect: PeerId | None,
        muxers: Sequence[str],
        platform: Platform,
    ) -> Handshake[SecureChannel]:
        """A fresh handshake. `expect` is the peer id that was dialled (None: learn it); `muxers` are ours, best first,
        for early negotiation (empty: do not take part); `platform` gives key material and the date."""
        ...
