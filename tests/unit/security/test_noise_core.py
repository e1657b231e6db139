"""The Noise handshake core: byte-exact transcripts, both roles, early muxers, and peers that cheat."""

import gc
import weakref
from types import SimpleNamespace

import pytest

from pyp2p.errors import InvalidKey, LocalProtocolError, NoiseError, PeerIdMismatch, RemoteError
from pyp2p.io.handshake import Direction
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, PublicKey
from pyp2p.platform import Platform
from pyp2p.security.noise import Noise
from pyp2p.security.noise.wire import MAX_MUXERS, MAX_PAYLOAD
from tests.unit.security.noise_tools import (
    EARLY_MUXERS,
    PREFIX,
    YAMUX,
    Cheat,
    RecordedIdentity,
    entropy_of,
    field,
    frame,
    payload,
    pump,
    transcript_cores,
)
from tests.vectors import load

VECTORS = load("noise_libp2p")
FIRST = VECTORS["transcripts"][0]
TRANSCRIPTS = pytest.mark.parametrize("transcript", VECTORS["transcripts"], ids=lambda t: t["name"])
KEYS = load("peer_ids")["keys"]

ALICE = Identity.generate(entropy=entropy_of("alice"))
BOB = Identity.generate(entropy=entropy_of("bob"))
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def platform(seed):
    return Platform(entropy=entropy_of(seed))


def initiator(identity=ALICE, expect=None, muxers=(), seed=1):
    return Noise().handshake(identity, Direction.OUTBOUND, expect, muxers, platform(seed))


def responder(identity=BOB, expect=None, muxers=(), seed=2):
    return Noise().handshake(identity, Direction.INBOUND, expect, muxers, platform(seed))


def answer_of_cheat(core, make_payload):
    """The framed message 2 of a cheating responder; `make_payload` gets its static public key."""
    cheat = Cheat(initiator=False)
    cheat.read(core.take_output())
    return cheat.write(make_payload(cheat.static))


def last_word_of_cheat(core, make_payload):
    """The framed message 3 of a cheating initiator, messages 1 and 2 being done."""
    cheat = Cheat(initiator=True)
    core.feed(cheat.write())
    cheat.read(core.take_output())
    return cheat.write(make_payload(cheat.static))


def refuses(core, data, error=NoiseError):
    """`data` ends the handshake with `error`, and it stays ended."""
    with pytest.raises(error):
        core.feed(data)
    assert not core.done
    for _ in range(2):
        with pytest.raises(NoiseError):
            core.feed(b"\x00")


@TRANSCRIPTS
@pytest.mark.parametrize("piece", [1 << 20, 1], ids=["whole", "byte by byte"])
def test_transcripts_of_the_vectors(transcript, piece):
    first, second = transcript_cores(transcript)
    frames = [bytes.fromhex(f) for f in transcript["frames"]]
    assert pump(first, second, piece) == [frames[0] + frames[2], frames[1]]
    expected = None if transcript["expected_muxer"] == "FAIL" else transcript["expected_muxer"]
    for core, other in ((first, "responder"), (second, "initiator")):
        assert core.done
        assert core.leftover == b""
        assert str(core.result.peer) == transcript[other]["peer_id"]
        assert core.result.peer_key.to_protobuf().hex() == transcript[other]["identity_public_protobuf"]
        assert core.result.early_muxer == expected
    channels = {"initiator": first.result, "responder": second.result}
    for entry in transcript["transport"]:
        sender = entry["from"]
        other = channels["responder" if sender == "initiator" else "initiator"]
        plaintext = bytes.fromhex(entry["plaintext"]) if "plaintext" in entry else bytes(entry["plaintext_size"])
        if not plaintext:
            channels[sender].send_nonce += 1  # we send no empty frames, but read them
            assert other.open(bytes.fromhex(entry["frame"])) == []
            continue
        sealed = channels[sender].seal([plaintext])
        if "frame" in entry:
            assert sealed.hex() == entry["frame"]
        assert b"".join(other.open(sealed)) == plaintext


def test_the_dialer_is_done_with_its_last_message_unsent():
    dialer, listener = initiator(), responder()
    listener.feed(dialer.take_output())
    dialer.feed(listener.take_output())
    assert dialer.done
    sealed = dialer.result.seal([b"at once"])
    listener.feed(dialer.take_output() + sealed)
    assert listener.done
    assert listener.result.open(listener.leftover) == [b"at once"]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key["type"])
@pytest.mark.parametrize("piece", [1 << 20, 1], ids=["whole", "byte by byte"])
def test_all_key_types_in_both_roles(key, piece):
    identity = Identity.from_protobuf(bytes.fromhex(key["private_key_protobuf"]))
    peer = PeerId.parse(key["peer_id_base58"])
    dialer, listener = initiator(identity, BOB.peer), responder(BOB, peer)
    pump(dialer, listener, piece)
    assert (dialer.result.peer, listener.result.peer) == (BOB.peer, peer)
    dialer, listener = initiator(ALICE, peer), responder(identity, ALICE.peer)
    pump(dialer, listener, piece)
    assert (dialer.result.peer, listener.result.peer) == (peer, ALICE.peer)


def test_the_same_seed_gives_the_same_bytes():
    runs = [pump(initiator(muxers=[YAMUX]), responder(muxers=[YAMUX])) for _ in range(2)]
    assert runs[0] == runs[1]
    assert pump(initiator(seed=3), responder())[0] != runs[0][0]


def test_each_handshake_takes_fresh_keys_from_the_entropy():
    entropy = entropy_of(1)
    noise = Noise()
    first = noise.handshake(ALICE, Direction.OUTBOUND, None, (), Platform(entropy=entropy))
    second = noise.handshake(ALICE, Direction.OUTBOUND, None, (), Platform(entropy=entropy))
    assert first.take_output() != second.take_output()


def test_the_static_key_is_one_for_all_handshakes_of_an_identity():
    noise, entropy = Noise(), entropy_of(1)

    def shown(identity):
        dialer = noise.handshake(identity, Direction.OUTBOUND, None, (), Platform(entropy=entropy))
        cheat = Cheat(initiator=False)
        cheat.read(dialer.take_output())
        dialer.feed(cheat.write(payload(BOB, cheat.static)))
        cheat.read(dialer.take_output())
        return cheat.state.rs.public_bytes

    alice = shown(ALICE)
    assert shown(ALICE) == alice
    assert shown(BOB) != alice


@pytest.mark.parametrize(("ours", "theirs", "agreed"), EARLY_MUXERS)
def test_early_muxers(ours, theirs, agreed):
    dialer, listener = initiator(muxers=ours), responder(muxers=theirs)
    pump(dialer, listener)
    assert dialer.result.early_muxer == listener.result.early_muxer == agreed


@pytest.mark.parametrize("silent", [0, 1])
def test_who_offers_no_muxers_sends_no_list_and_heeds_none(silent):
    offers = [[YAMUX], [YAMUX]]
    offers[silent] = []
    dialer = Noise().handshake(ALICE, Direction.OUTBOUND, None, offers[0], platform(1))
    listener = Noise().handshake(BOB, Direction.INBOUND, None, offers[1], platform(2))
    sent = pump(dialer, listener)
    assert dialer.result.early_muxer is None
    assert listener.result.early_muxer is None
    assert len(sent[silent]) == len(pump(initiator(), responder())[silent])


@pytest.mark.hostile
def test_hostile_014_somebody_else_answers():
    dialer, listener = initiator(expect=ALICE.peer), responder(BOB)
    listener.feed(dialer.take_output())
    with pytest.raises(PeerIdMismatch) as caught:
        dialer.feed(listener.take_output())
    assert (caught.value.expected, caught.value.got) == (ALICE.peer, BOB.peer)
    assert not dialer.done
    assert dialer.take_output() == b""  # the impostor does not learn who we are


@pytest.mark.hostile
def test_hostile_014_somebody_else_dials_where_one_peer_is_expected():
    dialer, listener = initiator(), responder(expect=BOB.peer)
    listener.feed(dialer.take_output())
    dialer.feed(listener.take_output())
    refuses(listener, dialer.take_output(), PeerIdMismatch)


@pytest.mark.parametrize("case", VECTORS["payloads_invalid_for_responder_of_first_transcript"], ids=lambda c: c["name"])
def test_invalid_payloads_of_the_vectors(case):
    side = FIRST["responder"]
    static, ephemeral = (bytes.fromhex(side[name]) for name in ("noise_static_private", "noise_ephemeral_private"))
    core = RecordedIdentity(FIRST["initiator"]).handshake(Direction.OUTBOUND)
    cheat = Cheat(False, static, ephemeral)
    cheat.read(core.take_output())
    refuses(core, cheat.write(bytes.fromhex(case["payload"])), RemoteError)
    assert core.take_output() == b""


@pytest.mark.parametrize("case", VECTORS["payloads_valid_for_responder_of_first_transcript"], ids=lambda c: c["name"])
def test_valid_payloads_of_the_vectors(case):
    side = FIRST["responder"]
    static, ephemeral = (bytes.fromhex(side[name]) for name in ("noise_static_private", "noise_ephemeral_private"))
    core = RecordedIdentity(FIRST["initiator"]).handshake(Direction.OUTBOUND)
    cheat = Cheat(False, static, ephemeral)
    cheat.read(core.take_output())
    core.feed(cheat.write(bytes.fromhex(case["payload"])))
    assert core.done
    assert str(core.result.peer) == side["peer_id"]


CHEATS = {
    "by another key": lambda s: field(1, BOB.public_key.to_protobuf()) + field(2, ALICE.sign(PREFIX + s)),
    "empty": lambda s: field(1, BOB.public_key.to_protobuf()) + field(2, b""),
    "without prefix": lambda s: field(1, BOB.public_key.to_protobuf()) + field(2, BOB.sign(s)),
    "other prefix": lambda s: (
        field(1, BOB.public_key.to_protobuf()) + field(2, BOB.sign(b"noise-libp2p-static_key:" + s))
    ),
    "over another static key": lambda s: payload(BOB, bytes(32)),
    "zeros": lambda s: field(1, BOB.public_key.to_protobuf()) + field(2, bytes(64)),
    "no key": lambda s: field(2, BOB.sign(PREFIX + s)),
    "no payload": lambda s: b"",
    "junk": lambda s: b"\xff" * 100,
    "proof in unknown fields": lambda s: field(5, BOB.public_key.to_protobuf()) + field(6, BOB.sign(PREFIX + s)),
}


@pytest.mark.hostile
@pytest.mark.parametrize("make_payload", CHEATS.values(), ids=CHEATS.keys())
def test_hostile_013_signatures_that_prove_nothing(make_payload):
    core = initiator()
    refuses(core, answer_of_cheat(core, make_payload))
    assert core.take_output() == b""
    core = responder()
    refuses(core, last_word_of_cheat(core, make_payload))


@pytest.mark.hostile
def test_hostile_013_our_own_proof_reflected():
    """The peer shows us our own key and signature: both are valid, but not for its Noise key."""
    listener = responder(BOB)
    cheat = Cheat(initiator=True)
    listener.feed(cheat.write())
    ours = cheat.read(listener.take_output())
    refuses(listener, cheat.write(ours))


BAD_KEYS = [c for c in load("peer_ids")["invalid_key_protobufs"] if "private" not in c["name"]]
EXTRA_KEYS = {
    "ed25519_33_bytes": field(2, bytes(33)).join((b"\x08\x01", b"")),
    "ed25519_64_bytes": field(2, bytes(64)).join((b"\x08\x01", b"")),
    "secp256k1_32_bytes": field(2, bytes(32)).join((b"\x08\x02", b"")),
    "two_data_fields": ALICE.public_key.to_protobuf() + field(2, BOB.public_key.data),
    "trailing": ALICE.public_key.to_protobuf() + b"\x00",
}
HOSTILE_KEYS = {c["name"]: bytes.fromhex(c["protobuf"]) for c in BAD_KEYS} | EXTRA_KEYS


@pytest.mark.hostile
@pytest.mark.parametrize("raw", HOSTILE_KEYS.values(), ids=HOSTILE_KEYS.keys())
def test_hostile_015_identity_keys_out_of_bounds_are_refused_before_verifying(raw, monkeypatch):
    monkeypatch.setattr(PublicKey, "verify", lambda *_: pytest.fail("verified with a bad key"))
    core = initiator()
    refuses(core, answer_of_cheat(core, lambda _: field(1, raw) + field(2, bytes(64))), InvalidKey)
    core = responder()
    refuses(core, last_word_of_cheat(core, lambda _: field(1, raw) + field(2, bytes(64))), InvalidKey)


@pytest.mark.hostile
@pytest.mark.parametrize("point", LOW_ORDER)
def test_hostile_016_low_order_points(point):
    low = bytes.fromhex(point)
    refuses(responder(), frame(low))  # e in message 1: shows when we write message 2
    core = initiator()
    cheat = Cheat(initiator=False)
    cheat.read(core.take_output())
    cheat.state.e = SimpleNamespace(public_bytes=low, private=cheat.state.e.private)
    refuses(core, cheat.write(payload(BOB, cheat.static)))  # e in message 2
    core = initiator()
    cheat = Cheat(initiator=False)
    cheat.read(core.take_output())
    cheat.state.s = SimpleNamespace(public_bytes=low, private=cheat.state.s.private)
    refuses(core, cheat.write(payload(BOB, low)))  # s in message 2
    core = responder()
    cheat = Cheat(initiator=True)
    core.feed(cheat.write())
    cheat.read(core.take_output())
    cheat.state.s = SimpleNamespace(public_bytes=low, private=cheat.state.s.private)
    refuses(core, cheat.write(payload(BOB, low)))  # s in message 3


@pytest.mark.hostile
@pytest.mark.parametrize("size", [0, 1, 31, 33, 48, 32 + 65503])
def test_hostile_017_message_1_is_a_bare_key(size):
    core = responder()
    refuses(core, size.to_bytes(2, "big"))  # on the length: nothing is buffered
    assert core.take_output() == b""


@pytest.mark.hostile
@pytest.mark.parametrize("size", [0, 15, 32, 95, 97 + MAX_PAYLOAD, 65535])
def test_hostile_017_message_2_is_bounded_on_its_length(size):
    refuses(initiator(), size.to_bytes(2, "big"))


@pytest.mark.hostile
@pytest.mark.parametrize("size", [0, 15, 63, 65 + MAX_PAYLOAD, 65535])
def test_hostile_017_message_3_is_bounded_on_its_length(size):
    core = responder()
    core.feed(Cheat(initiator=True).write())
    refuses(core, size.to_bytes(2, "big"))
    assert core.take_output()  # message 2 was ours to send


@pytest.mark.hostile
def test_hostile_017_the_largest_junk_payload_is_refused():
    for junk in (b"\xff" * MAX_PAYLOAD, b"\x0b" * MAX_PAYLOAD, field(4, b"\x12\x00" * 8000)):
        core = initiator()
        refuses(core, answer_of_cheat(core, lambda s, junk=junk: junk))


@pytest.mark.hostile
@pytest.mark.parametrize("muxers", [[b"/m"] * (MAX_MUXERS + 1), [b""] * 7000, [b"/" + b"m" * 1024], [b"/\xff"]])
def test_hostile_017_early_lists_are_bounded(muxers):
    core = initiator(muxers=[YAMUX])
    refuses(core, answer_of_cheat(core, lambda s: payload(BOB, s, muxers)))
    core = responder(muxers=[YAMUX])
    refuses(core, last_word_of_cheat(core, lambda s: payload(BOB, s, muxers)))


@pytest.mark.hostile
def test_hostile_017_the_longest_early_list_and_unknown_extensions_are_read():
    def generous(static):
        unknown = field(4, b"".join(field(1, bytes(34)) for _ in range(5)) + field(1100, b"x") + field(2, b"/last"))
        return payload(BOB, static, [b"/m%d" % n for n in range(MAX_MUXERS - 1)]) + unknown + field(100, bytes(1000))

    core = initiator(muxers=["/last"])
    core.feed(answer_of_cheat(core, generous))
    assert core.result.early_muxer == "/last"


@pytest.mark.hostile
def test_hostile_011_handshake_messages_of_zeros():
    for core in (initiator(), responder()):
        size = 32 if core.take_output() == b"" else 300
        refuses(core, frame(bytes(size)))
    core = responder()
    core.feed(Cheat(initiator=True).write())
    refuses(core, frame(bytes(200)))


@pytest.mark.parametrize("number", [1, 2])
def test_every_changed_byte_of_a_message_is_refused(number):
    frames = [bytes.fromhex(f) for f in FIRST["frames"]]
    for position in range(2, len(frames[number])):
        changed = bytearray(frames[number])
        changed[position] ^= 0x40
        first, second = transcript_cores(FIRST)
        if number == 1:
            refuses(first, bytes(changed))
        else:
            second.feed(frames[0])
            refuses(second, bytes(changed))


def test_a_cut_handshake_is_not_done():
    frames = [bytes.fromhex(f) for f in FIRST["frames"]]
    for cut in range(len(frames[1])):
        first, _ = transcript_cores(FIRST)
        first.feed(frames[1][:cut])
        assert not first.done


def test_misuse():
    dialer, listener = initiator(), responder()
    pump(dialer, listener)
    for core in (dialer, listener):
        with pytest.raises(LocalProtocolError):
            core.feed(b"")
    with pytest.raises(LocalProtocolError):
        pump(initiator(muxers=["/m"] * (MAX_MUXERS + 1)), responder())


@pytest.mark.parametrize("fails", [False, True])
def test_keys_do_not_wait_for_the_collector(fails):
    """The library's objects are a circle: it is cut when the handshake ends, well or not."""
    gc.collect()
    gc.disable()
    try:
        core = initiator()
        protocol = weakref.ref(core._connection.noise_protocol)
        state = weakref.ref(core._state)
        if fails:
            refuses(core, b"\x00\x00")
        else:
            pump(core, responder())
            assert core.done
        assert protocol() is None
        del core
        assert state() is None
    finally:
        gc.enable()
