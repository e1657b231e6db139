"""Requests and responses as machines: eth2's vectors whole, every split, and everything that is refused."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import LocalProtocolError, WireError
from pyp2p.identify.pb.identify_pb2 import Identify
from pyp2p.reqresp.core import (
    MAX_ERROR_TEXT,
    Chunk,
    ErrorChunk,
    RequestReader,
    ResponseReader,
    ResponseWriter,
    request_bytes,
)
from tests.unit.reqresp.support import (
    BY_RANGE,
    BY_ROOT,
    FORKS,
    GOODBYE,
    METADATA,
    METHODS,
    PING,
    PROTOBUF,
    STATUS,
    answered,
    asked,
    item,
    listing,
    plain,
)
from tests.vectors import load

VECTORS = load("eth2_reqresp")
LIST = listing()
STEPS = [1, 3, 65536]
REQUESTS = {
    "status_v1_request_uncompressed_chunk": STATUS,
    "status_v1_request_compressed_chunk": STATUS,
    "ping_request": PING,
    "goodbye_request": GOODBYE,
    "blocks_by_root_two": BY_ROOT,
    "blocks_by_root_empty": BY_ROOT,
    "metadata_request": METADATA,
}
RESPONSES = {
    "status_v1_response": (STATUS, bytes(84)),
    "ping_response": (PING, bytes(8)),
    "no_chunks": (BY_RANGE, (0, 10)),
    "invalid_request": (PING, bytes(8)),
    "server_error_empty_message": (PING, bytes(8)),
    "resource_unavailable": (BY_RANGE, (0, 10)),
    "client_specific_139": (PING, bytes(8)),
    "two_chunks_with_fork_context": (BY_RANGE, (0, 10)),
    "success_then_error": (BY_RANGE, (0, 10)),
}


def of_kind(kind: str, where: str):
    return [entry for entry in VECTORS[where] if entry["kind"] == kind]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("entry", of_kind("request", "valid"), ids=lambda entry: entry["name"])
def test_valid_requests_are_read_and_written(entry, step):
    method = REQUESTS[entry["name"]]
    value = None if entry["ssz"] is None else bytes.fromhex(entry["ssz"])
    assert asked(method, bytes.fromhex(entry["bytes"]), step) == value
    assert asked(method, request_bytes(method, method.encode_request(value)), step) == value


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("entry", of_kind("response", "valid"), ids=lambda entry: entry["name"])
def test_valid_responses_are_read_and_written(entry, step):
    method, request = RESPONSES[entry["name"]]
    data = bytes.fromhex(entry["bytes"])
    events = list(answered(method, request, data, step))
    assert len(events) == len(entry["chunks"])
    writer = ResponseWriter(method, 10)
    written = b""
    for event, chunk in zip(events, entry["chunks"], strict=True):
        payload = bytes.fromhex(chunk["ssz"])
        if chunk["result"]:
            assert event == ErrorChunk(chunk["result"], payload.decode())
            written += writer.error(chunk["result"], payload)
        else:
            value = payload if chunk["context"] is None else (bytes.fromhex(chunk["context"]), payload)
            assert event == Chunk(value)
            written += writer.chunk(value)
    assert list(answered(method, request, written, step)) == events


BORNE = "length_not_minimal"  # the vectors leave it open; senders should not, so readers may bear it


@pytest.mark.hostile
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "entry", [each for each in VECTORS["invalid"] if each["name"] != BORNE], ids=lambda e: e["name"]
)
def test_hostile_078_081_083_invalid_vectors_are_refused(entry, step):
    method, data = METHODS[entry["method"]], bytes.fromhex(entry["bytes"])
    request = (0, 10) if method is BY_RANGE else bytes(8)
    read = (
        (lambda: asked(method, data, step))
        if entry["kind"] == "request"
        else lambda: list(answered(method, request, data, step))
    )
    with pytest.raises(WireError):
        read()


def test_every_vector_was_used():
    assert {entry["name"] for entry in VECTORS["valid"]} == REQUESTS.keys() | RESPONSES.keys()
    assert {entry["kind"] for entry in VECTORS["invalid"]} == {"request", "response"}
    assert {entry["method"] for entry in VECTORS["invalid"]} <= METHODS.keys()


# --- requests


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("11 bytes", b"\x80" * 10),
        ("2**64 - 1", b"\xff" * 9 + b"\x01"),
        ("over 64 bits", b"\xff" * 9 + b"\x02"),
        ("over the bound", b"\x55"),
        ("under the bound", b"\x53"),
        ("0 for a type that is not empty", b"\x00"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_078_a_length_is_judged_before_anything_behind_it(name, data):
    with pytest.raises(WireError):
        RequestReader(STATUS).feed(data)


@pytest.mark.hostile
def test_hostile_078_a_length_that_is_longer_than_need_be_is_read_all_the_same():
    (entry,) = [each for each in VECTORS["invalid"] if each["name"] == BORNE]
    data = bytes.fromhex(entry["bytes"])
    assert data[:2] == b"\x88\x00"
    assert asked(METHODS[entry["method"]], data) == asked(METHODS[entry["method"]], b"\x08" + data[2:])


@pytest.mark.hostile
@pytest.mark.parametrize("request_", [(5, 0), (1, 2**64 - 1), (2**64 - 1, 1)], ids=str)
def test_hostile_079_a_request_that_its_type_refuses_is_no_request(request_):
    with pytest.raises(WireError):
        asked(BY_RANGE, request_bytes(BY_RANGE, BY_RANGE.encode_request(request_)))


@pytest.mark.hostile
@pytest.mark.parametrize("most", [-5, 0, 64, 65, 2**64])
def test_hostile_079_what_an_answer_may_cost_is_never_over_the_ceiling(most):
    method = dataclasses.replace(LIST, most=lambda _: most)
    assert method.chunks(b"x") == max(0, min(most, 64))


@pytest.mark.hostile
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("extra", [b"\x00", b"\xfe\x00\x00\x00", b"x" * 5000])
@pytest.mark.parametrize("method", [PING, METADATA, plain(PING)], ids=["snappy", "no content", "plain"])
def test_hostile_080_bytes_after_a_request_are_refused(method, extra, step):
    request = None if method is METADATA else bytes(8)
    data = request_bytes(method, method.encode_request(request)) + extra
    with pytest.raises(WireError):
        asked(method, data, step)


@given(st.binary(min_size=8, max_size=8), st.data())
def test_a_request_that_is_cut_anywhere_is_no_request(payload, data):
    whole = request_bytes(PING, payload)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(WireError):
        asked(PING, whole[:cut])


@pytest.mark.parametrize(("method", "request_"), [(PING, b"7 bytes"), (METADATA, b""), (STATUS, bytes(85))])
def test_a_request_out_of_its_bounds_is_not_made(method, request_):
    with pytest.raises(LocalProtocolError):
        method.encode_request(request_)


# --- responses


def chunks(count: int, size: int = 3) -> bytes:
    return b"".join(item(bytes((n,)) * size) for n in range(count))


@given(st.lists(st.binary(max_size=200), max_size=8), st.integers(1, 300))
def test_what_is_written_is_read_back_in_any_pieces(values, step):
    writer = ResponseWriter(LIST, 8)
    data = b"".join(map(writer.chunk, values))
    assert list(answered(LIST, b"\x08", data, step)) == [Chunk(value) for value in values]


@given(st.binary(max_size=120))
def test_any_bytes_give_chunks_or_an_error(data):
    try:
        events = list(answered(LIST, b"\x03", data))
    except WireError:
        return
    assert len(events) <= 4


def test_a_chunk_is_not_looked_at_before_it_is_asked_for():
    reader = ResponseReader(LIST, b"\x08")
    reader.feed(item(b"first") + item(b"", 4))
    assert reader.next() == Chunk(b"first")
    with pytest.raises(WireError):
        reader.next()


@pytest.mark.hostile
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("wanted", [0, 1, 3])
def test_hostile_083_more_chunks_than_asked_for_are_refused(wanted, step):
    events = answered(LIST, bytes((wanted,)), chunks(wanted + 1), step)
    for number in range(wanted):
        assert next(events) == Chunk(bytes((number,)) * 3)
    with pytest.raises(WireError):
        next(events)


@pytest.mark.hostile
@pytest.mark.parametrize("code", range(4, 128))
def test_hostile_083_reserved_results_are_refused_at_once(code):
    with pytest.raises(WireError):
        list(answered(LIST, b"\x03", bytes((code,))))


@pytest.mark.parametrize("code", [1, 2, 3, 128, 139, 255])
def test_an_error_chunk_ends_the_answer_whatever_stands_behind_it(code):
    data = chunks(1) + item(b"no", code) + b"\x05 anything"
    assert list(answered(LIST, b"\x03", data))[1:] == [ErrorChunk(code, "no")]


@pytest.mark.hostile
@pytest.mark.parametrize("rest", [item(b"late", 2), b"\xfe\x00\x00\x00", b"\x04", b"\x00"])
def test_hostile_081_bytes_after_the_last_chunk_are_refused_whatever_they_are(rest):
    with pytest.raises(WireError):
        list(answered(LIST, b"\x02", chunks(2) + rest))


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"\x1b[2J\x07", "\\x1b[2J\\x07"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"x" * 256, "x" * 256),
        ("\u202etxt".encode(), "\\u202etxt"),
    ],
    ids=["ESC", "no UTF-8", "as long as may be", "bidi"],
)
def test_hostile_083_error_texts_are_escaped(text, shown):
    assert list(answered(LIST, b"\x03", item(text, 2))) == [ErrorChunk(2, shown)]


@pytest.mark.hostile
@pytest.mark.parametrize("size", [257, 1 << 20, 2**64 - 1])
def test_hostile_083_an_error_text_over_256_bytes_is_refused_by_its_length(size):
    with pytest.raises(WireError):
        list(answered(LIST, b"\x03", item(b"x" * 257, 2)[:3] if size == 257 else b"\x02" + b"\xff" * 9 + b"\x01"))


@pytest.mark.hostile
def test_hostile_083_a_chunk_that_the_method_complains_about_is_refused():
    def ascending(request: bytes, chunk: bytes, before: bytes | None) -> str | None:
        return "it is not above the one before" if before is not None and chunk <= before else None

    method = dataclasses.replace(LIST, complaint=ascending)
    assert len(list(answered(method, b"\x03", chunks(3)))) == 3
    events = answered(method, b"\x03", item(b"b") + item(b"a"))
    assert next(events) == Chunk(b"b")
    with pytest.raises(WireError) as caught:
        next(events)
    assert str(caught.value) == "chunk 2: it is not above the one before"


@pytest.mark.hostile
def test_hostile_083_an_unknown_context_is_refused_before_the_length():
    reader = ResponseReader(BY_RANGE, (0, 3))
    reader.feed(b"\x00\xde\xad\xbe\xef")
    with pytest.raises(WireError):
        reader.next()


@pytest.mark.hostile
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("method", [LIST, listing(1)], ids=["one of several", "the last"])
def test_hostile_084_an_answer_that_is_cut_anywhere_is_refused(method, step):
    whole = item(b"payload") + item(b"error", 2)
    for cut in range(1, len(item(b"payload"))):
        with pytest.raises(WireError):
            list(answered(method, b"\x02", whole[:cut], step))


def test_an_answer_with_too_few_chunks_is_refused():
    with pytest.raises(WireError):
        list(answered(PING, bytes(8), b""))
    assert list(answered(GOODBYE, bytes(8), b"")) == []


def test_an_answer_is_full_when_all_came_and_waits_for_no_end():
    reader = ResponseReader(plain(PING), bytes(8))
    reader.feed(item(bytes(8))[:-1])
    assert reader.next() is None
    assert not reader.full
    reader.feed(b"\x00")
    assert reader.next() == Chunk(bytes(8))
    assert reader.full
    assert reader.next() is None


@pytest.mark.parametrize("value", [(FORKS[0], bytes(99)), (b"none", bytes(100)), (b"", bytes(100))])
def test_a_chunk_out_of_its_bounds_or_of_no_fork_is_not_written(value):
    writer = ResponseWriter(BY_RANGE, 1)
    with pytest.raises(LocalProtocolError):
        writer.chunk(value)
    writer.chunk((FORKS[0], bytes(100)))
    assert writer.full
    with pytest.raises(LocalProtocolError):
        writer.chunk((FORKS[0], bytes(100)))


@pytest.mark.parametrize("code", [-1, 0, 4, 127, 256])
def test_no_error_is_written_with_a_code_that_is_none(code):
    with pytest.raises(LocalProtocolError):
        ResponseWriter(LIST, 1).error(code, "text")


@given(st.one_of(st.text(max_size=400), st.binary(max_size=400)))
def test_an_error_text_is_cut_so_that_it_may_be_sent(text):
    (event,) = answered(LIST, b"\x03", ResponseWriter(LIST, 1).error(2, text))
    assert event.code == 2
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if raw.isascii() and raw.decode().isprintable() and b"\\" not in raw:
        assert event.text == raw[:MAX_ERROR_TEXT].decode()


# --- another codec


@pytest.mark.parametrize("step", STEPS)
def test_protobufs_behind_their_lengths_are_another_codec_of_the_same_machines(step):
    message = Identify(agent_version=b"somebody")
    wire = request_bytes(PROTOBUF, PROTOBUF.encode_request(message))
    assert wire == bytes((len(wire) - 1,)) + message.SerializeToString()
    assert asked(PROTOBUF, wire, step) == message
    writer = ResponseWriter(PROTOBUF, 1)
    answer = writer.chunk(message)
    assert answer == wire, "no result byte"
    assert list(answered(PROTOBUF, message, answer, step)) == [Chunk(message)]
    assert writer.error(1, "cannot be told") == b""


@pytest.mark.hostile
def test_hostile_083_without_result_bytes_more_chunks_are_refused_all_the_same():
    message = Identify()
    writer = ResponseWriter(PROTOBUF, 2)
    with pytest.raises(WireError):
        list(answered(PROTOBUF, message, writer.chunk(message) + writer.chunk(message)))


@pytest.mark.hostile
def test_hostile_076_a_payload_that_is_no_value_of_its_type_is_refused():
    with pytest.raises(WireError):
        asked(PROTOBUF, b"\x02\x0f\xff")
    with pytest.raises(WireError):
        list(answered(PROTOBUF, Identify(), b"\x02\x0f\xff"))
