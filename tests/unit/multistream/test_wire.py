"""multistream-select messages as bytes, against the vectors and at every bound."""

import pytest

from pyp2p.errors import LocalProtocolError, MultistreamError
from pyp2p.multistream import wire
from tests.vectors import load

VECTORS = load("multistream")


@pytest.mark.parametrize("case", VECTORS["messages"], ids=lambda case: case["message"][:40])
def test_messages_encode_and_decode_as_in_the_vectors(case):
    encoded = bytes.fromhex(case["encoded"])
    assert wire.encode_line(case["message"]) == encoded
    assert wire.decode_line(encoded, 0) == (case["message"], len(encoded))
    assert wire.decode_line(b"xy" + encoded + b"trailing", 2) == (case["message"], 2 + len(encoded))


@pytest.mark.parametrize("case", VECTORS["messages"], ids=lambda case: case["message"][:40])
def test_a_cut_message_is_incomplete(case):
    encoded = bytes.fromhex(case["encoded"])
    for size in range(len(encoded)):
        assert wire.decode_line(encoded[:size], 0) is None


@pytest.mark.parametrize("case", VECTORS["ls_response"], ids=lambda case: str(len(case["protocols"])))
def test_lists_encode_as_in_the_vectors(case):
    assert wire.encode_list(case["protocols"]) == bytes.fromhex(case["encoded"])


REFUSED = {
    "missing_newline", "no_newline_na", "zero_length", "length_not_minimal", "over_1024", "length_overflow",
    "huge_length", "embedded_nul",
}  # fmt: skip


@pytest.mark.parametrize("case", [c for c in VECTORS["invalid"] if c["name"] in REFUSED], ids=lambda case: case["name"])
def test_invalid_messages_of_the_vectors_are_refused(case):
    with pytest.raises(MultistreamError):
        wire.decode_line(bytes.fromhex(case["bytes"]), 0)


def test_the_length_alone_is_enough_to_refuse():
    for length in ("8108", "8010", "8080", "ff7f", "ffff", "8000"):
        with pytest.raises(MultistreamError):
            wire.decode_line(bytes.fromhex(length), 0)


@pytest.mark.parametrize(
    "body",
    [b"\n", b"/a", b"/a\n/b\n", b"/\xff\xfe\n", b"/\xc3\n", b"/a\x00b\n", b"/a\x1b[2J\n", "/a\u202eb\n".encode()],
    ids=["empty", "no newline", "newline inside", "not utf-8", "cut utf-8", "nul", "escape", "bidi"],
)
def test_texts_that_are_refused(body):
    with pytest.raises(MultistreamError):
        wire.decode_line(bytes([len(body)]) + body, 0)


def test_what_no_peer_would_accept_is_not_encoded():
    assert len(wire.encode_line("/" + "b" * 1022)) == 2 + wire.MAX_MESSAGE
    for text in ("", "/" + "b" * 1023, "/a\n", "/a\x00"):
        with pytest.raises(LocalProtocolError):
            wire.encode_line(text)


def test_a_list_is_bounded_in_names_and_bytes():
    many = wire.encode_list(f"/{n}" for n in range(100_000))
    assert many.count(b"\n") == wire.MAX_LIST_NAMES + 1
    large = wire.encode_list("/" + f"{n:04}" * 250 for n in range(1000))
    assert wire.MAX_LIST_BYTES - 1024 < len(large) <= wire.MAX_LIST_BYTES + 3
