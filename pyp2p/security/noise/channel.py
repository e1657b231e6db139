"""The Noise transport phase: length-prefixed ChaCha20-Poly1305 frames, both ways, without I/O.

Rules: pure. The keys come from the finished handshake and meet `cryptography` directly: no library layer and no await
per frame. A frame that does not authenticate kills the channel for good: no resync, no nonce is used twice. Noise
specification 5.1 and 12.2, libp2p noise "Wire format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pyp2p.errors import LocalProtocolError, NoiseError
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import PublicKey
from pyp2p.security.base import Buffer

TAG = 16
MAX_FRAME = 65535  # the length field is a u16
MAX_PLAINTEXT = MAX_FRAME - TAG
MAX_NONCE = 2**64 - 1  # never used as a nonce; so many messages may be sent (Noise 5.1)

_nonce = struct.Struct("<4xQ").pack


class NoiseChannel:
    """Seals and opens transport frames for a proven `peer`.

    `early_muxer` is what both sides agreed on inside the handshake, or None. Bounds: an incomplete frame of at most
    64 KiB + 2 bytes is kept. The counters `send_nonce` and `receive_nonce` are public for tests.
    """

    __slots__ = ("_broken", "_closed", "_decrypt", "_encrypt", "_encrypt_into", "_tail", "early_muxer", "peer",
                 "peer_key", "receive_nonce", "send_nonce")  # fmt: skip

    def __init__(
        self, peer: PeerId, peer_key: PublicKey, early_muxer: str | None, send_key: bytes, receive_key: bytes
    ) -> None:
        self.peer = peer
        self.peer_key = peer_key
        self.early_muxer = early_muxer
        self.send_nonce = 0
        self.receive_nonce = 0
        sender = ChaCha20Poly1305(send_key)
        self._encrypt = sender.encrypt
        self._encrypt_into = sender.encrypt_into
        self._decrypt = ChaCha20Poly1305(receive_key).decrypt
        self._tail: bytearray | None = None
        self._broken = ""
        self._closed = False

    def seal(self, chunks: Sequence[Buffer]) -> bytes | bytearray:
        """Encrypt the chunks, joined, into as few frames as possible, ready for one write; nothing for no bytes.

        Raises `NoiseError` when the channel is dead or its nonces are used up, `LocalProtocolError` after `close`.
        """
        if self._broken or self._closed:
            self._refuse_sealing()
        size = sum(map(len, chunks))
        nonce = self.send_nonce
        if size <= MAX_PLAINTEXT:
            if not size:
                return b""
            if nonce >= MAX_NONCE:
                raise self._dies("the nonces for sending are used up")
            self.send_nonce = nonce + 1
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            return (size + TAG).to_bytes(2, "big") + self._encrypt(_nonce(nonce), data, None)
        frames = -(-size // MAX_PLAINTEXT)
        if nonce + frames > MAX_NONCE:
            raise self._dies("the nonces for sending are used up")
        self.send_nonce = nonce + frames
        # One buffer for all: pieces that are joined afterwards cost a copy and, what is worse, three times the memory,
        # which glibc then hands back to the kernel and faults in again for each call.
        sealed = bytearray(size + frames * (2 + TAG))
        start = 0
        with memoryview(sealed) as view:
            for plain in _cut(chunks):
                end = start + 2 + len(plain) + TAG
                view[start : start + 2] = (len(plain) + TAG).to_bytes(2, "big")
                self._encrypt_into(_nonce(nonce), plain, None, view[start + 2 : end])
                nonce += 1
                start = end
        return sealed

    def open(self, data: bytes) -> list[bytes]:
        """Decrypt every complete frame of what came so far, in order, empty ones left out; keeps an incomplete tail.

        Raises `NoiseError` for a frame that is too short or does not authenticate, and again on each later call; what
        stood before it in the same `data` is not delivered.
        """
        if self._broken:
            raise NoiseError(self._broken)
        plaintexts: list[bytes] = []
        size = len(data)
        offset = 0
        with memoryview(data) as view:
            if self._tail is not None:
                offset = self._complete(self._tail, view, plaintexts)
            while offset + 2 <= size:
                length = data[offset] << 8 | data[offset + 1]
                end = offset + 2 + length
                if end > size:
                    break
                self._open_frame(view[offset + 2 : end], plaintexts)
                offset = end
            if offset < size:
                self._keep(view[offset:])
        return plaintexts

    def close(self) -> bytes:
        """End the sending side: nothing is sealed afterwards. Noise has no closing message."""
        self._closed = True
        return b""

    def _open_frame(self, frame: memoryview, plaintexts: list[bytes]) -> None:
        nonce = self.receive_nonce
        if nonce >= MAX_NONCE:
            raise self._dies("the nonces for receiving are used up")
        try:  # a frame too short for a tag fails in the same way
            plaintext = self._decrypt(_nonce(nonce), frame, None)
        except InvalidTag:
            raise self._dies(f"frame {nonce} does not authenticate") from None
        self.receive_nonce = nonce + 1
        if plaintext:
            plaintexts.append(plaintext)

    def _keep(self, rest: memoryview) -> None:
        """Keep the start of an incomplete frame; a length that cannot be right is refused before its body comes."""
        if len(rest) >= 2 and rest[0] == 0 and rest[1] < TAG:
            raise self._dies(f"a frame of {rest[1]} bytes is too short")
        self._tail = bytearray(rest)

    def _complete(self, tail: bytearray, view: memoryview, plaintexts: list[bytes]) -> int:
        """Add to the kept frame what belongs to it, and open it once it is whole; returns how much was taken."""
        taken = 0
        if len(tail) < 2:
            taken = 2 - len(tail)
            tail += view[:taken]
            if len(tail) < 2:
                return taken
            if tail[0] == 0 and tail[1] < TAG:
                raise self._dies(f"a frame of {tail[1]} bytes is too short")
        missing = 2 + (tail[0] << 8 | tail[1]) - len(tail)
        part = view[taken : taken + missing]
        tail += part
        if len(part) == missing:
            self._tail = None
            with memoryview(tail) as whole:
                self._open_frame(whole[2:], plaintexts)
        return taken + len(part)

    def _dies(self, reason: str) -> NoiseError:
        self._broken = reason
        self._tail = None
        return NoiseError(reason)

    def _refuse_sealing(self) -> None:
        if self._broken:
            raise NoiseError(self._broken)
        raise LocalProtocolError("the channel is closed for sending")


def _cut(chunks: Sequence[Buffer]) -> Iterator[Buffer]:
    """The chunks, joined and cut into frames; what lies in one chunk is not copied."""
    parts: list[Buffer] = []
    room = MAX_PLAINTEXT
    for chunk in chunks:
        rest = memoryview(chunk)
        while len(rest) >= room:
            parts.append(rest[:room])
            rest = rest[room:]
            yield parts[0] if len(parts) == 1 else b"".join(parts)
            parts, room = [], MAX_PLAINTEXT
        if rest:
            parts.append(rest)
            room -= len(rest)
    if parts:
        yield b"".join(parts)
