"""The libp2p Noise handshake (`/noise`, XX over X25519, ChaChaPoly, SHA256) as a `Handshake` core.

Rules: pure; the Noise state machine is `noiseprotocol`'s, its keys come from the given entropy, and every exception
that it or `cryptography` can raise on remote input is translated in one place (`_step`). Frames are bounded by what
the awaited message may hold, on their length, before they are buffered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from noise.backends.default.keypairs import KeyPair25519
from noise.connection import NoiseConnection
from noise.exceptions import NoiseValueError

from pyp2p.errors import LocalProtocolError, NoiseError, PeerIdMismatch, RemoteError
from pyp2p.io.handshake import Direction
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, PublicKey
from pyp2p.platform import Platform
from pyp2p.security.noise.channel import NoiseChannel
from pyp2p.security.noise.wire import MAX_PAYLOAD, Payload, decode_payload, encode_payload

_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
_KEY = 32
_TAG = 16
_SIGNED_PREFIX = b"noise-libp2p-static-key:"

# (least, most) bytes of each message; message 1 is a bare key: its payload has no proof and would be public
_MESSAGE_1 = (_KEY, _KEY)
_MESSAGE_2 = (_KEY + _KEY + _TAG + _TAG, _KEY + _KEY + _TAG + _TAG + MAX_PAYLOAD)
_MESSAGE_3 = (_KEY + _TAG + _TAG, _KEY + _TAG + _TAG + MAX_PAYLOAD)


class StaticKey:
    """Our Noise key with the proof that it is ours; raises nothing for 32 bytes of entropy."""

    __slots__ = ("identity", "keypair", "signature")

    def __init__(self, identity: Identity, private: bytes) -> None:
        self.identity = identity
        self.keypair = KeyPair25519.from_private_bytes(private)
        self.signature = identity.sign(_SIGNED_PREFIX + self.keypair.public_bytes)


class Noise:
    """The security protocol `/noise`. Without muxers to offer it sends no muxer list and heeds none.

    An identity's static key is made and signed once, for all connections (as rust- and js-libp2p do): it travels
    encrypted, and making one costs 0.04 ms. Forward secrecy rests on the ephemeral keys, fresh for each handshake.
    """

    protocol = "/noise"

    def __init__(self) -> None:
        self._static: StaticKey | None = None

    def handshake(
        self,
        identity: Identity,
        direction: Direction,
        expect: PeerId | None,
        muxers: Sequence[str],
        platform: Platform,
    ) -> NoiseHandshake:
        """A fresh handshake; takes 32 bytes of entropy for its key, and 32 before that for a new static key."""
        static = self._static
        if static is None or static.identity is not identity:
            static = self._static = StaticKey(identity, platform.entropy(_KEY))
        return NoiseHandshake(static, direction, expect, muxers, platform.entropy(_KEY))


class NoiseHandshake:
    """One XX handshake with libp2p's payload: proves both identities, may agree on a muxer.

    An outbound one has message 1 in its output from the start and is done when it has produced message 3, which is
    then still to be sent. `muxers` are ours, best first; the first of the initiator's list that the responder has too
    is agreed, and no overlap, or a side without a list, leaves it to multistream-select. `result` is a
    `NoiseChannel`. Bounds: one handshake frame of at most 16 KiB and some.
    """

    __slots__ = ("_awaited", "_broken", "_buffer", "_connection", "_expect", "_muxers", "_out", "_outbound",
                 "_state", "_static", "done", "leftover", "result")  # fmt: skip

    result: NoiseChannel
    leftover: bytes

    def __init__(
        self,
        static: StaticKey,
        direction: Direction,
        expect: PeerId | None,
        muxers: Sequence[str],
        ephemeral: bytes,
    ) -> None:
        self._static = static
        self._expect = expect
        self._muxers = tuple(muxers)
        self._outbound = direction.outbound
        self._buffer = bytearray()
        self._out = b""
        self._broken = ""
        self.done = False
        self._start(ephemeral)

    def _start(self, ephemeral: bytes) -> None:
        connection = NoiseConnection.from_name(_NAME)
        protocol = connection.noise_protocol
        protocol.keypairs["s"] = self._static.keypair
        if self._outbound:
            connection.set_as_initiator()
        else:
            connection.set_as_responder()
        connection.start_handshake()
        # Set behind the check that warns of fixed ephemeral keys: this one is fresh, from our own source.
        protocol.handshake_state.e = KeyPair25519.from_private_bytes(ephemeral)
        self._connection = connection
        self._state = protocol.handshake_state  # the library drops its own reference when it splits
        if self._outbound:
            self._awaited = _MESSAGE_2
            self._write(b"")
        else:
            self._awaited = _MESSAGE_1

    def take_output(self) -> bytes:
        """The bytes to send now; each byte is returned once."""
        out = self._out
        self._out = b""
        return out

    def feed(self, data: bytes) -> None:
        """Take input.

        Raises `NoiseError` for a message that is out of bounds, does not authenticate or proves nothing, `InvalidKey`
        for an identity key that is none of ours to verify, `PeerIdMismatch` when somebody else answered, and
        `NoiseError` on each call after an error.
        """
        if self.done:
            raise LocalProtocolError("the handshake is over: its leftover belongs to the channel")
        if self._broken:
            raise NoiseError(self._broken)
        self._buffer += data
        try:
            while not self.done and (message := self._next_message()) is not None:
                self._receive(message)
        except RemoteError as error:
            self._broken = f"the handshake has failed: {error}"
            self._buffer = bytearray()
            self._clear()
            raise

    def _next_message(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size = buffer[0] << 8 | buffer[1]
        least, most = self._awaited
        if not least <= size <= most:
            raise NoiseError(f"a handshake message of {size} bytes, where {least} to {most} are possible")
        end = 2 + size
        if len(buffer) < end:
            return None
        message = bytes(buffer[2:end])
        del buffer[:end]
        return message

    def _receive(self, message: bytes) -> None:
        """Message 1 and 3 come to the responder, message 2 to the initiator."""
        raw = self._step(self._connection.read_message, message)
        if self._awaited is _MESSAGE_1:
            self._write(self._own_payload())
            self._awaited = _MESSAGE_3
            return
        key, peer, muxers = self._check(raw)
        if self._outbound:
            self._write(self._own_payload())
        self._finish(key, peer, muxers)

    def _write(self, payload: bytes) -> None:
        message = self._step(self._connection.write_message, payload)
        self._out += len(message).to_bytes(2, "big") + message

    def _own_payload(self) -> bytes:
        static = self._static
        return encode_payload(Payload(static.identity.public_key.to_protobuf(), static.signature, self._muxers))

    @staticmethod
    def _step(function: Callable[[bytes], bytearray], argument: bytes) -> bytes:
        """One step of the library. A low-order point shows as ValueError, on our own write too."""
        try:
            return bytes(function(argument))
        except InvalidTag:
            raise NoiseError("a handshake message does not authenticate") from None
        except (NoiseValueError, ValueError):
            raise NoiseError("a handshake message holds an unusable key") from None

    def _check(self, raw: bytes) -> tuple[PublicKey, PeerId, tuple[str, ...]]:
        """The peer's proof, its identity key signs its Noise key, and its list of muxers."""
        payload = decode_payload(raw)
        key = PublicKey.from_protobuf(payload.identity_key)
        if not key.verify(payload.identity_sig, _SIGNED_PREFIX + bytes(self._state.rs.public_bytes)):
            raise NoiseError("the identity key did not sign the Noise key")
        peer = PeerId.from_key(key)
        if self._expect is not None and peer != self._expect:
            raise PeerIdMismatch(self._expect, peer)
        return key, peer, payload.stream_muxers

    def _finish(self, key: PublicKey, peer: PeerId, theirs: tuple[str, ...]) -> None:
        first, second = (self._muxers, theirs) if self._outbound else (theirs, self._muxers)
        agreed = next((muxer for muxer in first if muxer in second), None)
        protocol = self._connection.noise_protocol
        send_key, receive_key = protocol.cipher_state_encrypt.k, protocol.cipher_state_decrypt.k
        self.result = NoiseChannel(peer, key, agreed, send_key, receive_key)
        self.leftover = bytes(self._buffer)
        self._buffer = bytearray()
        self.done = True
        self._clear()

    def _clear(self) -> None:
        """The library's objects refer to each other in circles, which would keep keys alive until some collection."""
        connection, state = self._connection, self._state
        connection._next_fn = None
        connection.noise_protocol = None
        state.noise_protocol = None
        state.symmetric_state.noise_protocol = None
        state.s = state.e = None
