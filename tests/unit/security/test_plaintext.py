"""`/plaintext/2.0.0`, both sides, and what it refuses."""

import pytest

from pyp2p.errors import LocalProtocolError, PeerIdMismatch, RemoteError
from pyp2p.io.handshake import Direction
from pyp2p.peer.keys import Identity
from pyp2p.platform import Platform
from pyp2p.security.plaintext import Plaintext
from tests.unit.security.noise_tools import entropy_of, field, pump

ALICE = Identity.generate(entropy=entropy_of("alice"))
BOB = Identity.generate(entropy=entropy_of("bob"))


def handshake(identity, expect=None):
    return Plaintext().handshake(
        identity, Direction.OUTBOUND, expect, ["/yamux/1.0.0"], Platform(entropy=entropy_of(1))
    )


@pytest.mark.parametrize("piece", [1 << 20, 1], ids=["whole", "byte by byte"])
def test_both_sides_learn_each_other(piece):
    one, other = handshake(ALICE, BOB.peer), handshake(BOB)
    pump(one, other, piece)
    assert (one.result.peer, other.result.peer) == (BOB.peer, ALICE.peer)
    assert one.result.peer_key.to_protobuf() == BOB.public_key.to_protobuf()
    assert one.result.early_muxer is None
    sealed = one.result.seal([b"a", memoryview(b"b")])
    assert other.result.open(sealed) == [b"ab"]
    assert one.result.close() == b""


def test_data_right_behind_the_exchange_is_left_over():
    core = handshake(ALICE)
    core.feed(b"")
    core.feed(handshake(BOB).take_output() + b"more")
    assert core.leftover == b"more"
    with pytest.raises(LocalProtocolError):
        core.feed(b"x")


def test_another_peer_is_a_mismatch():
    with pytest.raises(PeerIdMismatch):
        handshake(ALICE, ALICE.peer).feed(handshake(BOB).take_output())


def exchange(*fields):
    body = b"".join(fields)
    return bytes([len(body)]) + body


BOBS_KEY = field(2, BOB.public_key.to_protobuf())


@pytest.mark.parametrize(
    "data",
    [
        exchange(field(1, ALICE.peer.raw), BOBS_KEY),
        exchange(BOBS_KEY),
        exchange(field(1, BOB.peer.raw)),
        exchange(field(1, BOB.peer.raw), BOBS_KEY, b"\x1a\x00"),
        exchange(field(1, BOB.peer.raw), field(1, BOB.peer.raw), BOBS_KEY),
        exchange(field(1, BOB.peer.raw), BOBS_KEY[:-1]),
        exchange(field(1, BOB.peer.raw), b"\x12"),
        b"\x81\x20",  # 4097
        b"\xff" * 10,
        b"\x00",
    ],
    ids=["other id", "no id", "no key", "unknown field", "twice", "cut field", "no length", "size", "varint", "empty"],
)
def test_refused_exchanges(data):
    core = handshake(ALICE)
    with pytest.raises(RemoteError):
        core.feed(data)
    with pytest.raises(RemoteError):
        core.feed(b"")
