"""Messages: decrypted plaintexts <-> values, and the distances in them (devp2p discv5-wire.md, Protocol Messages).

A message is type || RLP list, the request id first. Rules: RLP is canonical, a list has exactly the elements of its
type, and every bound is checked before a value is handed on. Records stay raw: who signed them, and whether their
distance was asked for, is for others to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pyp2p.discv5 import rlp
from pyp2p.discv5.packet import MAX_PLAINTEXT, MAX_RECORD
from pyp2p.errors import InvalidRlp, LocalProtocolError, MessageError, RequestIdTooLong

MAX_REQUEST_ID: Final = 8  # bytes
MAX_DISTANCE: Final = 256
MAX_DISTANCES: Final = MAX_DISTANCE + 1  # in a FINDNODE: each there is once; each costs the walk of a bucket
MAX_RECORDS: Final = 16  # in an answer of ours, and in one NODES of a peer: each costs a signature check
MAX_TOTAL: Final = 16  # NODES in one answer, when each brings one record: a request is open until all came
_SEQ_BITS, _PORT_BITS = 64, 16
_IP_BYTES = (4, 16)
_LIST, _SHORT = 0xC0, 55  # RLP: the first byte of a list; the longest payload whose length stands in the first byte
_MAX_HEAD = 3  # bytes before the payload of a list in one message


@dataclass(slots=True)
class Ping:
    """Are you there? `enr_seq` is the sequence number of the sender's record."""

    request_id: bytes
    enr_seq: int


@dataclass(slots=True)
class Pong:
    """The answer to PING, with the address that the PING came from (4 or 16 bytes, 0 to 65535)."""

    request_id: bytes
    enr_seq: int
    recipient_ip: bytes
    recipient_port: int


@dataclass(slots=True)
class FindNode:
    """Which nodes do you know at these log distances from you? 0 asks for the recipient's own record."""

    request_id: bytes
    distances: list[int]


@dataclass(slots=True)
class Nodes:
    """One of `total` messages that answer a FINDNODE; each record is the RLP list as it came, at most 300 bytes."""

    request_id: bytes
    total: int
    records: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class TalkRequest:
    """A request of an application protocol that is spoken over discovery."""

    request_id: bytes
    protocol: bytes
    request: bytes


@dataclass(slots=True)
class TalkResponse:
    """The answer to TALKREQ, empty when the protocol is not known."""

    request_id: bytes
    response: bytes


Message = Ping | Pong | FindNode | Nodes | TalkRequest | TalkResponse
NAMES: Final[Mapping[type[Message], str]] = {
    Ping: "PING",
    Pong: "PONG",
    FindNode: "FINDNODE",
    Nodes: "NODES",
    TalkRequest: "TALKREQ",
    TalkResponse: "TALKRESP",
}


# ---- reading


def decode_message(data: bytes) -> Message:
    """The message that a plaintext holds, of at most `MAX_PLAINTEXT` bytes.

    Raises `RequestIdTooLong` for a request id over 8 bytes and `MessageError` for whatever else breaks a rule, an
    unknown type too.
    """
    if not 0 < len(data) <= MAX_PLAINTEXT:
        raise MessageError(f"a message of {len(data)} bytes; 1 to {MAX_PLAINTEXT} are allowed")
    if data[0] not in _READERS:
        raise MessageError(f"message type {data[0]} is not defined")
    count, read = _READERS[data[0]]
    try:
        elements = rlp.decode(data[1:])
        if isinstance(elements, bytes):
            raise MessageError("a message that is no list")
        if len(elements) != count:
            raise MessageError(f"{len(elements)} elements in a message of type {data[0]} instead of {count}")
        request_id = _bytes(elements[0])
        if len(request_id) > MAX_REQUEST_ID:
            raise RequestIdTooLong(f"a request id of {len(request_id)} bytes; {MAX_REQUEST_ID} are allowed")
        return read(request_id, elements, data)
    except InvalidRlp as error:
        raise MessageError(f"a message that is not strict RLP: {error}") from None


# Each reader gets the request id, all elements, and the plaintext they came from.
_Elements = tuple[rlp.Item, ...]


def _ping(request_id: bytes, elements: _Elements, _: bytes) -> Ping:
    return Ping(request_id, rlp.decode_uint(elements[1], _SEQ_BITS))


def _pong(request_id: bytes, elements: _Elements, _: bytes) -> Pong:
    enr_seq, ip, port = rlp.decode_uint(elements[1], _SEQ_BITS), _bytes(elements[2]), elements[3]
    if len(ip) not in _IP_BYTES:
        raise MessageError(f"an IP address of {len(ip)} bytes; 4 or 16 are allowed")
    return Pong(request_id, enr_seq, ip, rlp.decode_uint(port, _PORT_BITS))


def _find_node(request_id: bytes, elements: _Elements, _: bytes) -> FindNode:
    items = _list(elements[1])
    if len(items) > MAX_DISTANCES:
        raise MessageError(f"{len(items)} distances; {MAX_DISTANCES} are allowed")
    distances = [rlp.decode_uint(item, 16) for item in items]
    if distances and max(distances) > MAX_DISTANCE:
        raise MessageError(f"distance {max(distances)} is over {MAX_DISTANCE}")
    return FindNode(request_id, distances)


def _nodes(request_id: bytes, elements: _Elements, data: bytes) -> Nodes:
    total, items = rlp.decode_uint(elements[1], _SEQ_BITS), _list(elements[2])
    if not 0 < total <= MAX_TOTAL:
        raise MessageError(f"an answer of {total} messages; 1 to {MAX_TOTAL} are allowed")
    if len(items) > MAX_RECORDS:
        raise MessageError(f"{len(items)} records; {MAX_RECORDS} are allowed")
    if not all(isinstance(item, tuple) for item in items):
        raise MessageError("a record that is no list")
    records = list(_last_lists(data, len(elements)))
    if any(len(record) > MAX_RECORD for record in records):
        raise MessageError(f"a record of more than {MAX_RECORD} bytes")
    return Nodes(request_id, total, records)


def _talk_request(request_id: bytes, elements: _Elements, _: bytes) -> TalkRequest:
    return TalkRequest(request_id, _bytes(elements[1]), _bytes(elements[2]))


def _talk_response(request_id: bytes, elements: _Elements, _: bytes) -> TalkResponse:
    return TalkResponse(request_id, _bytes(elements[1]))


_READERS: dict[int, tuple[int, Callable[[bytes, _Elements, bytes], Message]]] = {
    1: (2, _ping),
    2: (4, _pong),
    3: (2, _find_node),
    4: (3, _nodes),
    5: (3, _talk_request),
    6: (2, _talk_response),
}


def _bytes(item: rlp.Item) -> bytes:
    if not isinstance(item, bytes):
        raise MessageError("a list where bytes belong")
    return item


def _list(item: rlp.Item) -> _Elements:
    if isinstance(item, bytes):
        raise MessageError("bytes where a list belongs")
    return item


def _last_lists(data: bytes, count: int) -> Iterator[bytes]:
    """The items of the last of `count` elements, each as it is encoded; `data` was decoded strictly before.

    Cutting them out takes a tenth of the time that encoding them again would.
    """
    at, _ = _payload(data, 1)
    for _ in range(count - 1):
        _, at = _payload(data, at)
    at, end = _payload(data, at)
    while at < end:
        _, after = _payload(data, at)
        yield data[at:after]
        at = after


def _payload(data: bytes, at: int) -> tuple[int, int]:
    """Where the payload of the item at `at` begins and ends."""
    first = data[at]
    if first < 0x80:
        return at, at + 1
    begin, size = at + 1, first & 0x3F
    if size > _SHORT:
        begin += size - _SHORT
        size = int.from_bytes(data[at + 1 : begin])
    return begin, begin + size


# ---- writing


def encode_message(message: Message) -> bytes:
    """The plaintext of a message. Raises `LocalProtocolError` for one that `decode_message` would refuse.

    What stands inside a record is not looked at: it is one that was verified.
    """
    if len(message.request_id) > MAX_REQUEST_ID:
        raise LocalProtocolError(f"a request id of {len(message.request_id)} bytes; {MAX_REQUEST_ID} are allowed")
    request_id = message.request_id
    match message:
        case Ping(enr_seq=enr_seq):
            data = b"\x01" + rlp.encode([request_id, _uint(enr_seq, _SEQ_BITS)])
        case Pong(enr_seq=enr_seq, recipient_ip=ip, recipient_port=port):
            if len(ip) not in _IP_BYTES:
                raise LocalProtocolError(f"an IP address of {len(ip)} bytes; 4 or 16 are allowed")
            data = b"\x02" + rlp.encode([request_id, _uint(enr_seq, _SEQ_BITS), ip, _uint(port, _PORT_BITS)])
        case FindNode():
            data = b"\x03" + rlp.encode([request_id, _distances(message)])
        case Nodes():
            data = b"\x04" + _encode_nodes(message)
        case TalkRequest(protocol=protocol, request=request):
            data = b"\x05" + rlp.encode([request_id, protocol, request])
        case TalkResponse(response=response):
            data = b"\x06" + rlp.encode([request_id, response])
    if len(data) > MAX_PLAINTEXT:
        raise LocalProtocolError(f"a message of {len(data)} bytes; {MAX_PLAINTEXT} are allowed")
    return data


def split_nodes(request_id: bytes, records: Sequence[bytes]) -> list[Nodes]:
    """The answer to a FINDNODE, in order and in as few messages as that takes; one without records when there are none.

    Each fits in a datagram of 1280 bytes. Raises `LocalProtocolError` for more than 16 records, or one over 300 bytes.
    """
    if len(records) > MAX_RECORDS:
        raise LocalProtocolError(f"{len(records)} records in an answer; {MAX_RECORDS} are allowed")
    # Type, both heads and a total of one byte stand beside the records.
    room = MAX_PLAINTEXT - 1 - 2 * _MAX_HEAD - 1 - len(rlp.encode(request_id))
    parts: list[list[bytes]] = [[]]
    left = room
    for record in records:
        _check_record(record)
        if len(record) > left:
            parts.append([])
            left = room
        parts[-1].append(record)
        left -= len(record)
    return [Nodes(request_id, len(parts), part) for part in parts]


def _uint(value: int, bits: int) -> bytes:
    if not 0 <= value < 1 << bits:
        raise LocalProtocolError(f"{value} is no unsigned integer of {bits} bits")
    return rlp.encode_uint(value)


def _distances(message: FindNode) -> list[bytes]:
    if len(message.distances) > MAX_DISTANCES:
        raise LocalProtocolError(f"{len(message.distances)} distances; {MAX_DISTANCES} are allowed")
    for distance in message.distances:
        _check_distance(distance)
    return [rlp.encode_uint(distance) for distance in message.distances]


def _encode_nodes(message: Nodes) -> bytes:
    if not 0 < message.total <= MAX_TOTAL:
        raise LocalProtocolError(f"an answer of {message.total} messages; 1 to {MAX_TOTAL} are allowed")
    if len(message.records) > MAX_RECORDS:
        raise LocalProtocolError(f"{len(message.records)} records; {MAX_RECORDS} are allowed")
    for record in message.records:
        _check_record(record)
    head = rlp.encode(message.request_id) + rlp.encode(rlp.encode_uint(message.total))
    return _encoded_list(head + _encoded_list(b"".join(message.records)))


def _encoded_list(payload: bytes) -> bytes:
    """The list of items that are encoded already."""
    size = len(payload)
    if size <= _SHORT:
        return bytes((_LIST + size,)) + payload
    length = rlp.encode_uint(size)
    return bytes((_LIST + _SHORT + len(length),)) + length + payload


def _check_record(record: bytes) -> None:
    if len(record) > MAX_RECORD:
        raise LocalProtocolError(f"a record of {len(record)} bytes; {MAX_RECORD} are allowed")
    if record[:1] < bytes((_LIST,)) or _payload(record, 0)[1] != len(record):
        raise LocalProtocolError("a record that is no RLP list")


def _check_distance(distance: int) -> None:
    if not 0 <= distance <= MAX_DISTANCE:
        raise LocalProtocolError(f"{distance} is no log distance; 0 to {MAX_DISTANCE} are")
