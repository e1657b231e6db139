"""The Noise transport channel: framing, bounds, and death at the first frame that does not authenticate."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from pyp2p.errors import LocalProtocolError, NoiseError
from pyp2p.peer.keys import Identity
from pyp2p.security.noise.channel import MAX_NONCE, MAX_PLAINTEXT, NoiseChannel
from tests.unit.security.noise_tools import entropy_of
from tests.vectors import load

BOB = Identity.generate(entropy=entropy_of("bob"))
KEYS = (bytes(range(32)), bytes(range(32, 64)))


def pair():
    return (
        NoiseChannel(BOB.peer, BOB.public_key, None, KEYS[0], KEYS[1]),
        NoiseChannel(BOB.peer, BOB.public_key, None, KEYS[1], KEYS[0]),
    )


def frames_of(sealed):
    sizes = []
    while sealed:
        size = int.from_bytes(sealed[:2], "big")
        sizes.append(size)
        assert len(sealed) >= 2 + size
        sealed = sealed[2 + size :]
    return sizes


@pytest.mark.parametrize("vector", load("noise_xx")["vectors"], ids=lambda v: v["origin"])
def test_noise_xx_vectors(vector):
    """Handshake by the library as we use it, then the transport messages through our own framing."""
    sides = []
    for name, start in (("init", "set_as_initiator"), ("resp", "set_as_responder")):
        side = NoiseConnection.from_name(vector["protocol_name"].encode())
        getattr(side, start)()
        side.set_prologue(bytes.fromhex(vector[f"{name}_prologue"]))
        side.set_keypair_from_private_bytes(Keypair.STATIC, bytes.fromhex(vector[f"{name}_static"]))
        side.set_keypair_from_private_bytes(Keypair.EPHEMERAL, bytes.fromhex(vector[f"{name}_ephemeral"]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            side.start_handshake()
        sides.append(side)
    for number, message in enumerate(vector["messages"][:3]):
        sent = sides[number % 2].write_message(bytes.fromhex(message["payload"]))
        assert sent.hex() == message["ciphertext"]
        assert sides[1 - number % 2].read_message(bytes(sent)).hex() == message["payload"]
    assert sides[0].get_handshake_hash().hex() == vector["handshake_hash"]
    channels = []
    for side in sides:
        protocol = side.noise_protocol
        keys = protocol.cipher_state_encrypt.k, protocol.cipher_state_decrypt.k
        channels.append(NoiseChannel(BOB.peer, BOB.public_key, None, *keys))
    for number, message in enumerate(vector["messages"][3:], 3):
        sealed = channels[number % 2].seal([bytes.fromhex(message["payload"])])
        assert sealed[2:].hex() == message["ciphertext"]
        assert channels[1 - number % 2].open(sealed)[0].hex() == message["payload"]


@pytest.mark.hostile
@pytest.mark.parametrize("size", [1, 65518, 65519, 65520, 65535, 65536, 131_038, 131_039, 200_000])
def test_hostile_017_no_frame_is_larger_than_its_length_can_say(size):
    ours, theirs = pair()
    sealed = ours.seal([b"x" * size])
    frames = frames_of(sealed)
    assert max(frames) <= 65535
    assert len(frames) == -(-size // MAX_PLAINTEXT)
    assert ours.send_nonce == len(frames)
    assert b"".join(theirs.open(sealed)) == b"x" * size


def test_chunks_are_joined_and_nothing_is_no_frame():
    ours, theirs = pair()
    assert theirs.open(ours.seal([b"a", bytearray(b"b"), memoryview(b"xc")[1:]])) == [b"abc"]
    assert theirs.open(ours.seal([memoryview(b"view")])) == [b"view"]
    assert ours.seal([]) == ours.seal([b""]) == ours.seal([b"", b""]) == b""
    assert ours.send_nonce == 2


def test_many_frames_in_one_read():
    ours, theirs = pair()
    sealed = b"".join(ours.seal([bytes([n])]) for n in range(100))
    assert theirs.open(sealed) == [bytes([n]) for n in range(100)]


def test_empty_frames_are_taken_and_left_out():
    _, theirs = pair()
    ours = pair()[0]
    empty = b"\x00\x10" + ours._encrypt(bytes(12), b"", None)
    ours.send_nonce = 1
    assert theirs.open(empty + ours.seal([b"after"])) == [b"after"]


def test_byte_by_byte():
    ours, theirs = pair()
    sealed = ours.seal([b"one"]) + ours.seal([b"two" * 1000]) + ours.seal([b"three"])
    got = [plain for n in range(len(sealed)) for plain in theirs.open(sealed[n : n + 1])]
    assert got == [b"one", b"two" * 1000, b"three"]
    assert theirs._tail is None


def test_nothing_read_changes_nothing():
    ours, theirs = pair()
    sealed = ours.seal([b"x"])
    for part in (b"", sealed[:1], b"", sealed[1:3], b""):
        assert theirs.open(part) == []
    assert theirs.open(sealed[3:]) == [b"x"]


def test_the_kept_tail_is_at_most_one_frame():
    ours, theirs = pair()
    sealed = ours.seal([b"x" * MAX_PLAINTEXT]) * 3
    theirs.open(sealed[: 65537 - 1])
    assert len(theirs._tail) == 65536
    assert theirs.open(sealed[65536:65540]) == [b"x" * MAX_PLAINTEXT]
    assert len(theirs._tail) == 3


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 90), max_size=40))
def test_any_split_gives_the_same_plaintexts(messages, sizes):
    ours, theirs = pair()
    sealed = b"".join(ours.seal([message]) for message in messages)
    got = []
    for size in sizes:
        got += theirs.open(sealed[:size])
        sealed = sealed[size:]
    got += theirs.open(sealed)
    assert got == [message for message in messages if message]


@given(
    st.lists(
        st.integers(0, 140_000) | st.sampled_from([MAX_PLAINTEXT - 1, MAX_PLAINTEXT, MAX_PLAINTEXT + 1]), max_size=5
    )
)
def test_chunks_of_any_size_come_out_joined_in_as_few_frames_as_can_be(sizes):
    ours, theirs = pair()
    chunks = [(b"%06d" % n * (size // 6 + 1))[:size] for n, size in enumerate(sizes)]
    sealed = ours.seal(chunks)
    assert len(frames_of(sealed)) == -(-sum(sizes) // MAX_PLAINTEXT)
    assert b"".join(theirs.open(sealed)) == b"".join(chunks)


def dies(channel, data):
    with pytest.raises(NoiseError):
        channel.open(data)
    nonce = channel.receive_nonce
    honest = pair()[0]
    honest.send_nonce = nonce
    with pytest.raises(NoiseError):
        channel.open(honest.seal([b"a good frame comes too late"]))
    with pytest.raises(NoiseError):
        channel.open(b"")
    with pytest.raises(NoiseError):
        channel.seal([b"nothing more is said"])
    assert channel.receive_nonce == nonce
    assert channel._tail is None


@pytest.mark.hostile
@pytest.mark.parametrize("size", [*range(16), 65535])
def test_hostile_011_frames_that_cannot_be(size):
    dies(pair()[1], size.to_bytes(2, "big") + bytes(size))
    theirs = pair()[1]
    if size < 16:
        dies(theirs, size.to_bytes(2, "big"))  # the length is enough
        theirs = pair()[1]
        assert theirs.open(b"\x00") == []
        dies(theirs, bytes([size]))


@pytest.mark.hostile
def test_hostile_012_replayed_frame():
    ours, theirs = pair()
    sealed = ours.seal([b"pay 1"])
    assert theirs.open(sealed) == [b"pay 1"]
    dies(theirs, sealed)


@pytest.mark.hostile
def test_hostile_012_reordered_frames():
    ours, theirs = pair()
    first, second = ours.seal([b"first"]), ours.seal([b"second"])
    dies(theirs, second + first)


@pytest.mark.hostile
def test_hostile_012_reflected_frame():
    ours, _ = pair()
    dies(ours, ours.seal([b"back to the sender"]))


@pytest.mark.hostile
def test_hostile_012_flipped_bits():
    sealed = pair()[0].seal([b"sixteen bytes ok"])
    for bit in range(16, len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        dies(pair()[1], bytes(changed))


@pytest.mark.hostile
def test_hostile_012_nothing_of_a_cut_frame_is_delivered():
    sealed = pair()[0].seal([b"cut"])
    for cut in range(len(sealed)):
        assert pair()[1].open(sealed[:cut]) == []


@pytest.mark.hostile
def test_hostile_012_frames_before_a_bad_one_in_the_same_read_are_not_delivered_later():
    ours, theirs = pair()
    dies(theirs, ours.seal([b"good"]) + b"\x00\x05")


@pytest.mark.hostile
def test_hostile_012_the_last_nonce_is_used_and_then_no_more_is_said():
    ours, theirs = pair()
    ours.send_nonce = theirs.receive_nonce = MAX_NONCE - 1
    assert MAX_NONCE == 2**64 - 1
    sealed = ours.seal([b"last"])
    assert theirs.open(sealed) == [b"last"]
    with pytest.raises(NoiseError):
        ours.seal([b"one too many"])
    beyond = ours._encrypt(bytes(4) + b"\xff" * 8, b"x", None)
    with pytest.raises(NoiseError):
        theirs.open(len(beyond).to_bytes(2, "big") + beyond)
    assert (ours.send_nonce, theirs.receive_nonce) == (MAX_NONCE, MAX_NONCE)


@pytest.mark.hostile
def test_hostile_012_a_batch_that_would_pass_the_last_nonce_is_refused_whole():
    ours, _ = pair()
    ours.send_nonce = MAX_NONCE - 1
    with pytest.raises(NoiseError):
        ours.seal([b"x" * (MAX_PLAINTEXT + 1)])


def test_nothing_is_sealed_after_close_but_the_rest_is_read():
    ours, theirs = pair()
    assert ours.close() == b""
    with pytest.raises(LocalProtocolError):
        ours.seal([b"x"])
    assert ours.open(theirs.seal([b"rest"])) == [b"rest"]
