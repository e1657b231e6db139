"""Messages and distances: vectors both ways, each bound, answers in several packets, hostile plaintexts."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.discv5 import rlp
from pyp2p.discv5.crypto import session_cipher
from pyp2p.discv5.messages import (
    FindNode,
    Message,
    Nodes,
    Ping,
    Pong,
    TalkRequest,
    TalkResponse,
    decode_message,
    encode_message,
    split_nodes,
)
from pyp2p.discv5.packet import MAX_PACKET, MAX_PLAINTEXT, encode_ordinary
from pyp2p.errors import LocalProtocolError, MessageError, RequestIdTooLong
from tests.vectors import load

VECTORS = load("discv5_messages")
VALID = [(entry, bytes.fromhex(entry["encoded"])) for entry in VECTORS["valid"]]
INVALID = {entry["name"]: bytes.fromhex(entry["encoded"]) for entry in VECTORS["invalid"]}
ID = bytes(8)
MAX_SEQ = (1 << 64) - 1
NO_LIST = (57, 258)  # sizes that no RLP list has: there the head grows


def expected(entry: dict[str, Any]) -> Message:
    def raw(name: str) -> bytes:
        return bytes.fromhex(entry[name])

    request_id = raw("request_id")
    match entry["kind"]:
        case "PING":
            return Ping(request_id, entry["enr_seq"])
        case "PONG":
            return Pong(request_id, entry["enr_seq"], raw("recipient_ip"), entry["recipient_port"])
        case "FINDNODE":
            return FindNode(request_id, entry["distances"])
        case "NODES":
            return Nodes(request_id, entry["total"], [bytes.fromhex(record) for record in entry["records"]])
        case "TALKREQ":
            return TalkRequest(request_id, raw("protocol"), raw("request"))
        case "TALKRESP":
            return TalkResponse(request_id, raw("response"))
    raise AssertionError(entry["kind"])


def record(size: int) -> bytes:
    """An RLP list of so many bytes."""
    for payload in range(size, -1, -1):
        made = rlp.encode([bytes(1)] * payload)
        if len(made) == size:
            return made
    raise AssertionError(size)


# ---- vectors


@pytest.mark.parametrize(
    ("entry", "encoded"), VALID, ids=lambda value: value["kind"] if isinstance(value, dict) else ""
)
def test_a_message_of_the_vectors_both_ways(entry: dict[str, Any], encoded: bytes) -> None:
    message = expected(entry)
    assert encoded[0] == entry["type"]
    assert decode_message(encoded) == message
    assert encode_message(message) == encoded


@pytest.mark.parametrize("name", INVALID)
def test_hostile_088_a_refusal_of_the_vectors(name: str) -> None:
    with pytest.raises(MessageError) as caught:
        decode_message(INVALID[name])
    assert isinstance(caught.value, RequestIdTooLong) == ("request_id_9_bytes" in name)


# ---- bounds


def message(kind: int, *elements: Any) -> bytes:
    return bytes((kind,)) + rlp.encode(elements)


def nodes(*records: Any, total: bytes = b"\x01") -> bytes:
    return message(4, ID, total, list(records))


@pytest.mark.parametrize(
    "data",
    [
        message(1, b"", b""),
        message(2, ID, b"", bytes(4), b""),
        message(3, ID, [b"\x01"] * 257),
        nodes(total=b"\x10"),
        nodes(*[[]] * 16),
        nodes(rlp.decode(record(300))),
        nodes([[b"", [b"a", []]], b"b" * 60], [], [b""]),
        message(6, ID, bytes(1177)),
    ],
    ids=lambda data: data[:20].hex(),
)
def test_at_a_bound_it_is_taken_and_written_again(data: bytes) -> None:
    assert encode_message(decode_message(data)) == data


@pytest.mark.parametrize(
    "data",
    [
        b"\x01",
        b"\x01\x80",
        b"\x00" + bytes(1180),
        message(7, ID, b"\x01"),
        message(255, ID, b"\x01"),
        message(1),
        message(1, [], b"\x01"),
        message(1, ID, []),
        message(1, ID, b"\x00"),
        message(2, ID, b"\x01", b"", b"\x01"),
        message(2, ID, b"\x01", bytes(3), b"\x01"),
        message(2, ID, b"\x01", bytes(17), b"\x01"),
        message(2, ID, b"\x01", [bytes(4)], b"\x01"),
        message(2, ID, b"\x01", bytes(4), b"\x00\x01"),
        message(2, ID, b"\x01", bytes(4), []),
        message(3, ID, b""),
        message(3, ID, [[]]),
        message(3, ID, [b"\x00"]),
        message(3, ID, [b"\xff\xff"]),
        message(3, ID, [b"\x01\x00\x00"]),
        message(3, ID, [b"\x01"] * 258),
        message(3, ID, [b"\x01"] * 10_000),
        message(4, ID, b"\x01", b""),
        nodes(total=b""),
        nodes(total=b"\x11"),
        nodes(total=b"\xff"),
        nodes(total=b"\xff" * 8),
        nodes(total=b"\xff" * 9),
        nodes(b""),
        nodes([], b"x" * 70),
        nodes(*[[]] * 17),
        nodes(*[[]] * 1100),
        nodes(*[[]] * 10_000),
        nodes(rlp.decode(record(301))),
        message(5, ID, b"a"),
        message(5, ID, [], b""),
        message(5, ID, b"", []),
        message(6, ID, []),
        message(6, ID, bytes(1178)),
        message(6, ID, bytes(65_000)),
        b"\x04" + b"\xc1" * 1000,
        b"\x03" + b"\xff" * 1000,
        b"\x04" + b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
    ids=lambda data: f"{len(data)}-{data[:24].hex()}",
)
def test_hostile_088_over_a_bound_or_of_another_form_it_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode_message(data)


def test_a_request_id_over_8_bytes_is_an_error_of_its_own() -> None:
    for kind, rest in ((1, [b""]), (3, [b"no list"]), (6, [b""])):
        with pytest.raises(RequestIdTooLong):
            decode_message(message(kind, bytes(9), *rest))


@pytest.mark.parametrize(
    "wrong",
    [
        Ping(bytes(9), 1),
        Ping(ID, -1),
        Ping(ID, MAX_SEQ + 1),
        Pong(ID, MAX_SEQ + 1, bytes(4), 1),
        Pong(ID, 1, bytes(5), 1),
        Pong(ID, 1, bytes(4), 65_536),
        Pong(ID, 1, bytes(4), -1),
        FindNode(ID, [257]),
        FindNode(ID, [-1]),
        FindNode(ID, [1] * 258),
        Nodes(ID, 0),
        Nodes(ID, 17),
        Nodes(ID, 1, [b"\xc0"] * 17),
        Nodes(ID, 1, [b""]),
        Nodes(ID, 1, [b"\x80"]),
        Nodes(ID, 1, [b"\xc0\xc0"]),
        Nodes(ID, 1, [b"\xc2\xc0"]),
        Nodes(ID, 1, [b"\xf8"]),
        Nodes(ID, 1, [record(301)]),
        Nodes(ID, 1, [record(300)] * 4),
        TalkRequest(ID, b"", bytes(1177)),
        TalkResponse(ID, bytes(1178)),
    ],
    ids=lambda wrong: repr(wrong)[:60],
)
def test_we_write_nothing_that_would_be_refused(wrong: Message) -> None:
    with pytest.raises(LocalProtocolError):
        encode_message(wrong)


# ---- answers in several packets


def test_no_records_are_one_answer() -> None:
    assert split_nodes(ID, []) == [Nodes(ID, 1)]


@pytest.mark.parametrize(
    ("records", "parts"),
    [
        ([record(300)], [1]),
        ([record(300)] * 3, [3]),
        ([record(300)] * 4, [3, 1]),
        ([record(300)] * 16, [3, 3, 3, 3, 3, 1]),
        ([record(125)] * 16, [9, 7]),
        ([record(294)] * 4, [4]),
        ([record(294)] * 3 + [record(295)], [3, 1]),
    ],
    ids=str,
)
def test_an_answer_takes_as_few_packets_as_it_can(records: list[bytes], parts: list[int]) -> None:
    made = split_nodes(ID, records)
    assert [len(part.records) for part in made] == parts


def test_an_answer_that_is_full_to_the_last_byte() -> None:
    (full,) = split_nodes(ID, [record(294)] * 3 + [record(293)] + [record(1)])
    assert len(encode_message(full)) == MAX_PLAINTEXT
    assert len(split_nodes(ID, [*full.records, record(1)])) == 2


@given(st.binary(max_size=8), st.lists(st.integers(1, 300).filter(lambda size: size not in NO_LIST), max_size=16))
def test_answers_fit_in_a_datagram_and_lose_nothing(request_id: bytes, sizes: list[int]) -> None:
    records = [record(size) for size in sizes]
    made = split_nodes(request_id, records)
    assert [one for part in made for one in part.records] == records
    assert {(part.request_id, part.total) for part in made} == {(request_id, len(made))}
    assert len(made) == 1 or all(part.records for part in made)
    cipher = session_cipher(bytes(16))
    for part in made:
        plaintext = encode_message(part)
        assert decode_message(plaintext) == part
        packet = encode_ordinary(
            dest_id=bytes(32), src_id=bytes(32), iv=bytes(16), nonce=bytes(12), cipher=cipher, plaintext=plaintext
        )
        assert len(packet) <= MAX_PACKET


def test_an_answer_of_too_much_is_our_own_fault() -> None:
    for records in ([record(100)] * 17, [record(301)], [b"no list"]):
        with pytest.raises(LocalProtocolError):
            split_nodes(ID, records)


# ---- whatever comes

ids = st.binary(max_size=8)
seqs = st.integers(0, MAX_SEQ)
items = st.recursive(st.binary(max_size=40), lambda inner: st.lists(inner, max_size=6), max_leaves=20)
raw_records = st.lists(items, max_size=5).map(rlp.encode).filter(lambda raw: len(raw) <= 300)
messages = st.one_of(
    st.builds(Ping, ids, seqs),
    st.builds(
        Pong,
        ids,
        seqs,
        st.sampled_from([4, 16]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
        st.integers(0, 65_535),
    ),
    st.builds(FindNode, ids, st.lists(st.integers(0, 256), max_size=257)),
    st.builds(Nodes, ids, st.integers(1, 16), st.lists(raw_records, max_size=3)),
    st.builds(TalkRequest, ids, st.binary(max_size=100), st.binary(max_size=1000)),
    st.builds(TalkResponse, ids, st.binary(max_size=1100)),
)


@given(messages)
def test_a_message_comes_back(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


def check(data: bytes) -> None:
    """Refused as declared, or read; and what is read has this one encoding."""
    with suppress(MessageError):
        assert encode_message(decode_message(data)) == data


@given(st.binary(max_size=1300))
def test_hostile_088_random_bytes(data: bytes) -> None:
    check(data)


@given(st.integers(0, 11), st.binary(max_size=100))
def test_hostile_088_random_bytes_after_the_type(kind: int, rest: bytes) -> None:
    check(bytes((kind,)) + rest)


@given(st.integers(0, 7), st.lists(items, max_size=5))
def test_hostile_088_any_rlp_after_the_type(kind: int, elements: Any) -> None:
    check(message(kind, *elements))


@given(messages, st.integers(0, 1200), st.binary(min_size=1, max_size=3), st.integers(0, 2))
def test_hostile_088_mutated_messages(message: Message, at: int, by: bytes, how: int) -> None:
    data = encode_message(message)
    at %= len(data)
    check((data[:at] + by + data[at + len(by) :], data[:at] + by + data[at:], data[:at])[how])
