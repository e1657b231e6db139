"""Methods to test with: eth2's in miniature (payloads stay bytes), and one of length-prefixed protobufs."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from google.protobuf.message import DecodeError

from pyp2p.errors import WireError
from pyp2p.identify.pb.identify_pb2 import Identify
from pyp2p.io.varint import encode
from pyp2p.reqresp.codec import Bounds, ByContext, Kind, Plain
from pyp2p.reqresp.core import Chunk, ErrorChunk, RequestReader, ResponseReader
from pyp2p.reqresp.declare import Method
from pyp2p.reqresp.frames import SnappyFrames

MAX_PAYLOAD = 10 * 1024 * 1024
SNAPPY = SnappyFrames()
FAMILY = "/eth2/beacon_chain/req"
FORKS = (bytes.fromhex("bba4da96"), bytes.fromhex("6a95a1a9"))


def raw(name: str, least: int, most: int) -> Kind[bytes]:
    return Kind(name, Bounds(least, most), bytes, bytes)


STATUS = Method(FAMILY, "status", 1, SNAPPY, raw("Status", 84, 84), raw("Status", 84, 84))
PING = Method(FAMILY, "ping", 1, SNAPPY, raw("Ping", 8, 8), raw("Ping", 8, 8))
GOODBYE = Method(FAMILY, "goodbye", 1, SNAPPY, raw("Goodbye", 8, 8), raw("Goodbye", 8, 8), least=0)
METADATA: Method[None, bytes] = Method(FAMILY, "metadata", 2, SNAPPY, None, raw("MetaData", 17, 17))


def roots(payload: bytes) -> int:
    return len(payload) // 32


def _of_fork(fork: bytes) -> Kind[tuple[bytes, bytes]]:
    """Values are (fork, payload): the fork travels as the context."""

    def decode(payload: bytes) -> tuple[bytes, bytes]:
        return fork, payload

    return Kind("SignedBeaconBlock", Bounds(100, MAX_PAYLOAD), lambda value: value[1], decode)


_KINDS = {fork: _of_fork(fork) for fork in FORKS}
BLOCKS = ByContext(4, lambda value: value[0], _KINDS.get)
BY_ROOT = Method(FAMILY, "beacon_blocks_by_root", 2, SNAPPY, raw("Roots", 0, 32 * 128), BLOCKS, least=0, most=roots)


def _range(payload: bytes) -> tuple[int, int]:
    start, count = (int.from_bytes(payload[at : at + 8], "little") for at in (0, 8))
    if not count or start + count >= 1 << 64:
        raise WireError(f"a range of {count} from {start}")
    return start, count


BY_RANGE = Method(
    FAMILY,
    "beacon_blocks_by_range",
    2,
    SNAPPY,
    Kind("Range", Bounds(24, 24), lambda asked: b"".join(n.to_bytes(8, "little") for n in (*asked, 1)), _range),
    BLOCKS,
    least=0,
    most=lambda asked: asked[1],
    ceiling=128,
)


def _identify(payload: bytes) -> Identify:
    try:
        return Identify.FromString(payload)
    except DecodeError as error:
        raise WireError(f"no protobuf: {error}") from None


# The second codec: protobufs behind their lengths, without result bytes, as most protocols of libp2p have it.
MESSAGE = Kind("Identify", Bounds(0, 4096), lambda message: message.SerializeToString(), _identify)
PROTOBUF: Method[Identify, Identify] = Method("/test", "proto", 1, Plain(), MESSAGE, MESSAGE, results=False)

METHODS = {f"{m.name}/{m.version}": m for m in (STATUS, PING, GOODBYE, METADATA, BY_ROOT, BY_RANGE)}


def listing(ceiling: int = 64) -> Method[bytes, bytes]:
    """Payloads of up to 1 KiB, uncompressed, with results: as many chunks as the first byte of the request says."""
    return Method(
        "/test", "list", 1, Plain(), raw("Ask", 1, 64), raw("Item", 0, 1024), 0, lambda asked: asked[0], ceiling
    )


def plain(method: Method) -> Method:
    """The same without compression, so that a test can write its bytes by hand."""
    return replace(method, framing=Plain())


def item(payload: bytes, result: int = 0) -> bytes:
    """A chunk without context, uncompressed."""
    return bytes((result,)) + encode(len(payload)) + payload


def pieces(data: bytes, size: int) -> Iterable[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def asked(method: Method, data: bytes, size: int = 65536):
    """What a server makes of a request that comes in pieces of `size`."""
    reader = RequestReader(method)
    for piece in pieces(data, size):
        reader.feed(piece)
    return reader.finish()


def answered(method: Method, request, data: bytes, size: int = 65536) -> Iterator[Chunk | ErrorChunk]:
    """What a client makes of an answer that comes in pieces of `size`."""
    reader = ResponseReader(method, request)
    for piece in pieces(data, size):
        reader.feed(piece)
        while (event := reader.next()) is not None:
            yield event
            if isinstance(event, ErrorChunk):
                return
    reader.finish()
