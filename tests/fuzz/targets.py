"""What is fuzzed: each target feeds hostile bytes to one core, which may raise `RemoteError`, or
`NoCommonProtocol` where it negotiates, and nothing else.

To add one, write a function of `bytes`, decorate it with `@target(...)` and give it seeds: valid inputs to start from.
The input's first byte says how large the pieces are in which the rest arrives.
"""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pyp2p.beacon.topics import GOSSIP_TYPES, Topic
from pyp2p.discv5 import rlp
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.keccak import keccak256
from pyp2p.discv5.packet import MAX_PLAINTEXT
from pyp2p.errors import NoCommonProtocol, RemoteError
from pyp2p.identify import core as identify_core
from pyp2p.identify import wire as identify_wire
from pyp2p.io.handshake import Direction, Handshake
from pyp2p.io.varint import LengthPrefixed
from pyp2p.multistream.core import Dialer, Listener
from pyp2p.muxers.base import Data, MemoryBudget, Muxer, MuxerFactory, MuxerLimits, Opened
from pyp2p.muxers.mplex.core import Mplex
from pyp2p.muxers.yamux.core import Yamux
from pyp2p.peer import secp256k1
from pyp2p.peer.address import parse_multiaddr, text
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.peer.publickey import PublicKey
from pyp2p.peer.record import DOMAIN, PAYLOAD_TYPE, Envelope, PeerRecord, open_record, seal
from pyp2p.platform import Platform
from pyp2p.pubsub.snappy import Snappy
from pyp2p.pubsub.wire import decode_rpc
from pyp2p.security.noise.channel import NoiseChannel
from pyp2p.security.noise.core import Noise
from pyp2p.security.noise.wire import decode_payload
from tests.fuzz import beacon, discovery, quic, secured, websocket
from tests.unit.security.noise_tools import Cheat, entropy_of, payload, transcript_cores
from tests.vectors import load

MAX_INPUT = 4_096


@dataclass(frozen=True)
class Target:
    """One fuzzed function and the valid inputs it starts from."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    noise: int = 200  # inputs without sense in the test of the corpus: few where each takes milliseconds

    def one(self, data: bytes) -> None:
        """Runs one input. Whatever this raises is a finding."""
        with contextlib.suppress(RemoteError, NoCommonProtocol):
            self.run(data)


TARGETS: dict[str, Target] = {}


def target(
    seeds: Iterable[bytes], *, whole: bool = False
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Registers a target; its seeds arrive whole and in small pieces, or `whole` alone: an input is a script then."""
    given = [seed[: MAX_INPUT - 1] for seed in seeds]

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        both = tuple(first + seed for seed in given for first in ((b"\0",) if whole else (b"\0", b"\x05")))
        TARGETS[run.__name__] = Target(run.__name__, run, both or (b"",), 20 if whole else 200)
        return run

    return register


def pieces(data: bytes) -> Iterator[bytes]:
    """The input after its first byte, whole when that is 0, else in pieces of that many bytes."""
    size = data[0] if data else 0
    rest = data[1:]
    if not size:
        yield rest
        return
    for start in range(0, len(rest), size):
        yield rest[start : start + size]


def feed_handshake(core: Handshake[object], data: bytes) -> None:
    """Feeds until the core is done; its result and leftover must be readable then."""
    for piece in pieces(data):
        core.feed(piece)
        core.take_output()
        if core.done:
            assert core.result is not None and isinstance(core.leftover, bytes)
            return


def feed_muxer(factory: MuxerFactory, direction: Direction, data: bytes) -> None:
    """A session whose user accepts, echoes and closes by a seeded choice; the memory must come back."""
    budget = MemoryBudget(1 << 20)
    session: Muxer = factory.session(direction, MuxerLimits(), budget, 0.0)
    choice = random.Random(len(data))
    try:
        if direction.outbound:
            session.send(session.open(0.0), b"hello")
        for now, piece in enumerate(pieces(data)):
            for event in session.feed(piece, float(now)):
                if isinstance(event, Opened):
                    session.accept(event.sub)
                    if choice.random() < 0.5:
                        session.fin(event.sub)
                elif isinstance(event, Data):
                    session.consumed(event.sub, len(event.data), float(now))
                    if choice.random() < 0.2:
                        session.reset(event.sub)
            session.take_output()
    finally:
        session.release_all()
        assert budget.used == 0, "memory was not given back"


def _hex_strings(value: object) -> Iterator[bytes]:
    """Every string of a vector file that is hex: good starting points, whatever they mean."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _hex_strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _hex_strings(item)
    elif isinstance(value, str) and 2 <= len(value) <= 2 * MAX_INPUT:
        try:
            yield bytes.fromhex(value)
        except ValueError:
            return


@target(_hex_strings(load("multistream")))
def multistream_dialer(data: bytes) -> None:
    feed_handshake(Dialer(["/noise", "/tls/1.0.0"]), data)


@target(_hex_strings(load("multistream")))
def multistream_listener(data: bytes) -> None:
    feed_handshake(Listener("/yamux/1.0.0".__eq__, lambda: ["/yamux/1.0.0"]), data)


@target(_hex_strings(load("yamux")))
def yamux_inbound(data: bytes) -> None:
    feed_muxer(Yamux(), Direction.INBOUND, data)


@target(_hex_strings(load("yamux")))
def yamux_outbound(data: bytes) -> None:
    feed_muxer(Yamux(), Direction.OUTBOUND, data)


@target(_hex_strings(load("mplex")))
def mplex_inbound(data: bytes) -> None:
    feed_muxer(Mplex(), Direction.INBOUND, data)


@target(_hex_strings(load("mplex")))
def mplex_outbound(data: bytes) -> None:
    feed_muxer(Mplex(), Direction.OUTBOUND, data)


@target(_hex_strings([load("varint"), load("identify")]))
def length_prefixed(data: bytes) -> None:
    framer = LengthPrefixed(1024)
    for piece in pieces(data):
        for message in framer.feed(piece):
            assert len(message) <= 1024
    framer.finish()


@target([*_hex_strings(load("peer_ids")["texts"]), *(text["text"].encode() for text in load("peer_ids")["texts"])])
def peer_id(data: bytes) -> None:
    """Both forms: what is an id is written in one way only."""
    for parsed in (_parsed(PeerId.from_bytes, data[1:]), _parsed(PeerId.parse, data[1:].decode("latin-1"))):
        if parsed is not None:
            assert PeerId.parse(str(parsed)) == PeerId.parse(parsed.to_cid()) == PeerId.from_bytes(parsed.raw) == parsed


def _parsed(parse: Callable[..., PeerId], source: bytes | str) -> PeerId | None:
    with contextlib.suppress(RemoteError):
        return parse(source)
    return None


ADDRESSES = load("multiaddr")["valid"]


@target([*_hex_strings(ADDRESSES), *(address["text"].encode() for address in ADDRESSES)])
def multiaddr(data: bytes) -> None:
    """Both forms: what is an address has one text and one encoding."""
    for source in (data[1:], data[1:].decode("latin-1")):
        with contextlib.suppress(RemoteError):
            address = parse_multiaddr(source)
            assert parse_multiaddr(text(address)).to_bytes() == address.to_bytes()
            assert parse_multiaddr(address.to_bytes()) == address


@target(_hex_strings(load("peer_ids")))
def public_key(data: bytes) -> None:
    key = PublicKey.from_protobuf(data[1:])
    assert key.to_protobuf() == data[1:]
    key.verify(bytes(64), b"message")


BOB = Identity.generate(entropy=entropy_of("bob"))


RECORDS = load("enr")["valid"] + load("enr")["invalid"]


@target(_hex_strings(RECORDS))
def rlp_item(data: bytes) -> None:
    """What decodes has one encoding."""
    assert rlp.encode(rlp.decode(data[1:])) == data[1:]


@target([*_hex_strings(RECORDS), *(record["text"].encode() for record in RECORDS)])
def node_record(data: bytes) -> None:
    """Both forms: what is a record has one text and one encoding, and its entries can be read."""
    for parse, source in ((Enr.from_rlp, data[1:]), (Enr.from_text, data[1:].decode("latin-1"))):
        with contextlib.suppress(RemoteError):
            record = parse(source)
            assert Enr.from_text(record.text) == record
            record.multiaddrs()


NODE_KEY = bytes.fromhex(RECORDS[0]["private_key"])


@target(bytes.fromhex(record["rlp"]) for record in load("enr")["valid"])
def node_record_content(data: bytes) -> None:
    """What a node signs itself: all that follows the signature is the input's."""
    items = rlp.decode(data[1:])
    if isinstance(items, tuple):
        signature = secp256k1.sign_digest(NODE_KEY, keccak256(rlp.encode(items[1:])))
        record = Enr.from_rlp(rlp.encode([signature, *items[1:]]))
        for name in ("ip", "ip6", "tcp6", "udp6", "quic6", "eth2", "attnets", "syncnets", "cgc", "nfd", "peer_id"):
            getattr(record, name)
        record.multiaddrs()


@target(discovery.datagrams())
def discv5_datagram(data: bytes) -> None:
    """To a node in the middle of everything, from all who speak to it."""
    discovery.one_datagram(data[1:])


@target(discovery.plaintexts())
def discv5_message(data: bytes) -> None:
    """Under a session."""
    if len(data) <= MAX_PLAINTEXT:
        discovery.one_message(data[1:])


@target(_hex_strings(load("signed_envelope")))
def envelope(data: bytes) -> None:
    open_record(data[1:])


@target(Envelope.open(seal(BOB, PeerRecord(BOB.peer, seq, ["/ip4/1.2.3.4/tcp/1"])), DOMAIN).payload for seq in (0, 1))
def peer_record(data: bytes) -> None:
    """What a peer signs itself."""
    opened = open_record(Envelope.seal(BOB, DOMAIN, PAYLOAD_TYPE, data[1:]).encode())
    assert opened.peer == BOB.peer


@target(bytes.fromhex(message["on_wire"]) for message in load("identify")["messages"])
def identify(data: bytes) -> None:
    framer = LengthPrefixed(identify_wire.MAX_MESSAGE)
    said = identify_wire.decode([message for piece in pieces(data) for message in framer.feed(piece)])
    info = identify_core.updated(None, said, BOB.peer)
    assert len(info.protocols or ()) <= identify_wire.MAX_PROTOCOLS
    assert len(info.addresses or ()) <= identify_wire.MAX_ADDRESSES
    assert len(info.agent or "") <= identify_wire.MAX_TEXT


NOISE = load("noise_libp2p")["transcripts"][0]
NOISE_FRAMES = [bytes.fromhex(frame) for frame in NOISE["frames"]]


@target([NOISE_FRAMES[1]])
def noise_initiator(data: bytes) -> None:
    feed_handshake(transcript_cores(NOISE)[0], data)


@target([NOISE_FRAMES[0] + NOISE_FRAMES[2]])
def noise_responder(data: bytes) -> None:
    feed_handshake(transcript_cores(NOISE)[1], data)


@target([*_hex_strings(load("noise_libp2p")), payload(BOB, Cheat(initiator=False).static, [b"/yamux/1.0.0"])])
def noise_payload(data: bytes) -> None:
    """What a peer that keeps to Noise says inside it."""
    core = Noise().handshake(BOB, Direction.OUTBOUND, None, ["/yamux/1.0.0"], Platform(entropy=entropy_of(1)))
    cheat = Cheat(initiator=False)
    cheat.read(core.take_output())
    core.feed(cheat.write(data[1:]))
    assert core.done
    assert decode_payload(data[1:]).identity_key == core.result.peer_key.to_protobuf()


def _channel(key: int) -> NoiseChannel:
    keys = bytes([key]) * 32, bytes([3 - key]) * 32
    return NoiseChannel(BOB.peer, BOB.public_key, None, *keys)


@target([_channel(1).seal([b"x" * size]) for size in (1, 1000)] + [b"\0\x10" * 20])
def noise_channel(data: bytes) -> None:
    """Frames of somebody who has the keys, cut and changed."""
    channel = _channel(2)
    for piece in pieces(data):
        for plaintext in channel.open(piece):
            assert plaintext


@target(beacon.requests())
def eth2_request(data: bytes) -> None:
    """Any bytes as a request of any method."""
    beacon.one_request(data, pieces(data[:1] + data[2:]))


@target(beacon.responses())
def eth2_response(data: bytes) -> None:
    """Any bytes as the answer to a request of any method."""
    beacon.one_response(data, pieces(data[:1] + data[2:]))


@target(beacon.containers())
def ssz_container(data: bytes) -> None:
    beacon.one_container(data)


@target(beacon.frames())
def snappy_frames(data: bytes) -> None:
    beacon.one_stream_of_frames(data, pieces(data[:1] + data[4:]))


@target(beacon.chain_files())
def chain_file(data: bytes) -> None:
    beacon.one_chain_file(data[1:].decode("utf-8", "replace"))


@target(beacon.topics())
def eth2_topic(data: bytes) -> None:
    beacon.one_topic(data[1:].decode("utf-8", "replace"))


@target(beacon.statuses())
def eth2_status(data: bytes) -> None:
    beacon.one_status(data)


@target(beacon.blocks())
def dev_block(data: bytes) -> None:
    beacon.one_block(data)


TYPES = list(GOSSIP_TYPES.values())


@target(beacon.gossip_payloads())
def eth2_gossip_payload(data: bytes) -> None:
    """On the topic of each type: unpacked to no more than its messages may measure, or not at all."""
    kind = TYPES[(data[1] if len(data) > 1 else 0) % len(TYPES)]
    topic = str(Topic(bytes(4), kind, 0 if kind.subnets else None))
    payload = Snappy(beacon.max_payload).inbound(topic, data[2:])
    assert payload is None or len(payload) <= kind.most


@target(_hex_strings(load("gossipsub_rpc")))
def gossip_rpc(data: bytes) -> None:
    decode_rpc(data[1:])


@target([*secured.VECTORS, secured.OWN])
def tls_certificate(data: bytes) -> None:
    secured.one_certificate(data[1:])


@target(secured.extensions())
def tls_extension(data: bytes) -> None:
    """What a peer proves itself with, in a certificate that it made and signed."""
    secured.one_extension(data[1:])


@target(secured.to_be_signed())
def tls_certificate_content(data: bytes) -> None:
    """All of a certificate but its signature, which is right."""
    secured.one_signed(data[1:])


@target(secured.meetings(), whole=True)
def tls_session(data: bytes) -> None:
    """Changes to what OpenSSL says, in the handshake and after it."""
    secured.one_meeting(data[1:])


@target(websocket.requests())
def websocket_listener(data: bytes) -> None:
    websocket.one_opening(None, pieces(data))


@target(websocket.answers())
def websocket_dialer(data: bytes) -> None:
    websocket.one_opening("a:1", pieces(data))


@target(websocket.frames())
def websocket_frames(data: bytes) -> None:
    websocket.one_stream_of_frames(bool(data[1:2] and data[1] & 1), pieces(data[:1] + data[2:]))


@target(quic.datagrams(), whole=True)
def quic_datagrams(data: bytes) -> None:
    """To a socket that listens and dials."""
    quic.one_endpoint(data[1:])


@target(quic.handshakes(), whole=True)
def quic_handshake(data: bytes) -> None:
    """Changes to TLS messages, frames or datagrams of an honest handshake."""
    quic.one_handshake(data[1:])


@target(quic.parameters(), whole=True)
def quic_parameters(data: bytes) -> None:
    """Transport parameters of somebody who is honest otherwise, and what is sent under them."""
    quic.one_set_of_parameters(data[1:])


@target(quic.frames(), whole=True)
def quic_frames(data: bytes) -> None:
    """Any frames in packets that decrypt, to a connection in use."""
    quic.one_conversation(data[1:])
