"""What the Noise tests share: identities of the vectors, fixed entropy, a pump, and a peer that may cheat."""

import hashlib
import warnings
from types import SimpleNamespace

from noise.connection import Keypair, NoiseConnection

from pyp2p.io.handshake import Direction
from pyp2p.peer.keys import PublicKey
from pyp2p.platform import Platform
from pyp2p.security.noise.core import Noise

PREFIX = b"noise-libp2p-static-key:"
YAMUX, MPLEX = "/yamux/1.0.0", "/mplex/6.7.0"
# What the dialler offers, what the listener does, and what both take then.
EARLY_MUXERS: list[tuple[list[str], list[str], str | None]] = [
    ([YAMUX, MPLEX], [MPLEX, YAMUX], YAMUX),
    ([MPLEX, YAMUX], [YAMUX, MPLEX], MPLEX),
    (["/x", MPLEX], [YAMUX, MPLEX], MPLEX),
    ([YAMUX], [MPLEX], None),
    ([YAMUX], [], None),
    ([], [YAMUX], None),
    ([], [], None),
]


def entropy_of(seed):
    """The same bytes for the same seed; each call differs."""
    state = hashlib.shake_256(str(seed).encode())
    taken = 0

    def entropy(count):
        nonlocal taken
        taken += count
        return state.digest(taken)[-count:]

    return entropy


def recorded(*values):
    """Entropy that gives `values` in turn."""
    left = list(values)

    def entropy(count):
        value = left.pop(0)
        assert len(value) == count
        return value

    return entropy


class RecordedIdentity:
    """A side of a transcript of the vectors: its signature is the recorded one, whatever the key type."""

    def __init__(self, side):
        self.side = side
        self.public_key = PublicKey.from_protobuf(bytes.fromhex(side["identity_public_protobuf"]))

    def sign(self, message):
        assert message == PREFIX + bytes.fromhex(self.side["noise_static_public"])
        return bytes.fromhex(self.side["identity_sig"])

    def handshake(self, direction, expect=None):
        keys = (bytes.fromhex(self.side[name]) for name in ("noise_static_private", "noise_ephemeral_private"))
        return Noise().handshake(
            self, direction, expect, self.side["stream_muxers"] or (), Platform(entropy=recorded(*keys))
        )


def transcript_cores(transcript, **kwargs):
    return (
        RecordedIdentity(transcript["initiator"]).handshake(Direction.OUTBOUND, **kwargs),
        RecordedIdentity(transcript["responder"]).handshake(Direction.INBOUND, **kwargs),
    )


def pump(initiator, responder, piece=1 << 20):
    """Move bytes between two cores, in pieces, until neither has more to say; returns all bytes of each side."""
    sent = [b"", b""]
    while True:
        outputs = [initiator.take_output(), responder.take_output()]
        if not any(outputs):
            return sent
        for side, (output, other) in enumerate(zip(outputs, (responder, initiator), strict=True)):
            sent[side] += output
            for start in range(0, len(output), piece):
                other.feed(output[start : start + piece])


class Cheat:
    """A peer on the bare library, which says whatever the test wants. Message payloads are given by the test."""

    def __init__(self, initiator, static=b"\x01" * 32, ephemeral=b"\x02" * 32):
        connection = NoiseConnection.from_name(b"Noise_XX_25519_ChaChaPoly_SHA256")
        if initiator:
            connection.set_as_initiator()
        else:
            connection.set_as_responder()
        connection.set_keypair_from_private_bytes(Keypair.STATIC, static)
        connection.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            connection.start_handshake()
        self.connection = connection
        self.state = connection.noise_protocol.handshake_state

    @property
    def static(self):
        return self.state.s.public_bytes

    def write(self, payload=b""):
        return frame(self.connection.write_message(payload))

    def read(self, framed):
        return bytes(self.connection.read_message(framed[2:]))


def frame(message):
    return len(message).to_bytes(2, "big") + bytes(message)


def proof(identity, static):
    """An honest payload's fields: the identity's key and its signature over `static`."""
    return SimpleNamespace(key=identity.public_key.to_protobuf(), signature=identity.sign(PREFIX + static))


def uvarint(value):
    encoded = b""
    while value >= 0x80:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def field(number, value):
    """A length-delimited protobuf field."""
    return uvarint(number << 3 | 2) + uvarint(len(value)) + value


def payload(identity, static, muxers=()):
    """An honest payload, built by hand."""
    p = proof(identity, static)
    extensions = b"".join(field(2, muxer) for muxer in muxers)
    return field(1, p.key) + field(2, p.signature) + (field(4, extensions) if muxers else b"")
