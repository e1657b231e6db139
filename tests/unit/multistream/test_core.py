"""multistream-select dialer and listener: whole, byte by byte, with trailing data, and against peers that cheat."""

import pytest

from pyp2p.errors import LocalProtocolError, MultistreamError, NoCommonProtocol
from pyp2p.multistream.core import MAX_PROPOSALS, Dialer, Listener
from pyp2p.multistream.wire import HEADER, MAX_LIST_BYTES, NA, encode_line, encode_list
from tests.vectors import load

VECTORS = load("multistream")
ECHO = "/echo/1.0.0"
PING = "/ipfs/ping/1.0.0"


def whole(data):
    return [data]


def byte_by_byte(data):
    return [data[n : n + 1] for n in range(len(data))]


SPLITS = pytest.mark.parametrize("split", [whole, byte_by_byte])


def feed(core, pieces):
    """Feed until done; returns what the core sent."""
    sent = b""
    for piece in pieces:
        core.feed(piece)
        sent += core.take_output()
        if core.done:
            break
    return sent


def feed_until(error, core, pieces):
    """Feed until `error`, which must come; returns what the core sent, its last words included."""
    sent = b""
    try:
        for piece in pieces:
            core.feed(piece)
            sent += core.take_output()
    except error:
        return sent + core.take_output()
    pytest.fail(f"no {error.__name__}")


def listener(*protocols):
    return Listener(set(protocols).__contains__, lambda: protocols)


def proposals(conversation):
    return [m for s in conversation["steps"] if s["from"] == "initiator" for m in s["messages"]][1:]


def flights(conversation, side):
    return [bytes.fromhex(s["bytes"]) for s in conversation["steps"] if s["from"] == side]


@SPLITS
@pytest.mark.parametrize("conversation", VECTORS["conversations"], ids=lambda c: c["name"])
def test_dialer_in_the_conversations_of_the_vectors(conversation, split):
    dialer = Dialer(proposals(conversation))
    sent = dialer.take_output()
    payloads = [bytes.fromhex(s.get("payload", "")) for s in conversation["steps"]]
    pieces = [piece for answer in flights(conversation, "responder") for piece in split(answer)]
    if conversation["result"] is None:
        sent += feed_until(NoCommonProtocol, dialer, pieces)
        with pytest.raises(NoCommonProtocol) as caught:
            dialer.feed(b"")
        assert caught.value.offered == tuple(proposals(conversation))
    else:
        sent += feed(dialer, pieces)
        assert dialer.result == conversation["result"]
        if split is whole:
            assert dialer.leftover == payloads[-1]
    assert sent + payloads[0] == b"".join(flights(conversation, "initiator"))


@SPLITS
@pytest.mark.parametrize("conversation", VECTORS["conversations"], ids=lambda c: c["name"])
def test_listener_in_the_conversations_of_the_vectors(conversation, split):
    core = listener(conversation["result"])
    sent = b""
    for flight in flights(conversation, "initiator"):
        sent += feed(core, split(flight))
    assert core.done == (conversation["result"] is not None)
    answers = b"".join(flights(conversation, "responder"))
    payload = bytes.fromhex(conversation["steps"][-1].get("payload", ""))
    assert sent + payload == answers
    if core.done:
        assert core.result == conversation["result"]
        if split is whole:
            assert core.leftover == payload


def test_header_and_first_proposal_are_one_piece_and_so_is_the_answer():
    dialer, core = Dialer([ECHO]), listener(ECHO)
    opening = dialer.take_output()
    assert opening == HEADER + encode_line(ECHO)
    assert dialer.take_output() == b""
    core.feed(opening)
    assert core.take_output() == opening
    assert core.take_output() == b""
    assert core.leftover == b""


def test_an_offer_is_done_only_when_answered():
    dialer = Dialer([ECHO])
    assert not dialer.done
    dialer.feed(HEADER + encode_line(ECHO) + b"data")
    assert dialer.done
    assert (dialer.result, dialer.leftover) == (ECHO, b"data")


def test_a_single_offer_that_is_declined_has_no_common_protocol():
    dialer = Dialer([ECHO])
    with pytest.raises(NoCommonProtocol):
        dialer.feed(HEADER + NA)


@pytest.mark.parametrize("answer", ["/other", "ls", "/multistream/1.0.0", "/echo/1.0.00", "/echo/1.0."])
def test_an_answer_that_was_not_proposed_is_a_violation(answer):
    for pieces in (whole, byte_by_byte):
        dialer = Dialer([ECHO, PING])
        with pytest.raises(MultistreamError):
            feed(dialer, pieces(HEADER + encode_line(answer)))
        with pytest.raises(MultistreamError):
            dialer.feed(HEADER + encode_line(ECHO))
        assert not dialer.done


def test_a_nested_list_is_no_answer():
    dialer = Dialer([ECHO])
    with pytest.raises(MultistreamError):
        dialer.feed(HEADER + encode_list([ECHO]))


def test_the_second_offer_that_comes_alone_is_agreed():
    dialer = Dialer([ECHO, PING])
    dialer.take_output()
    dialer.feed(HEADER + NA)
    assert dialer.take_output() == encode_line(PING)
    dialer.feed(encode_line(PING) + b"x")
    assert (dialer.result, dialer.leftover) == (PING, b"x")


@pytest.mark.parametrize("case", VECTORS["invalid"], ids=lambda case: case["name"])
@SPLITS
def test_invalid_openings_of_the_vectors(case, split):
    """As the first bytes of a peer: refused, or not yet decided where the vector is a mere beginning."""
    data = bytes.fromhex(case["bytes"])
    for core in (Dialer([ECHO]), listener(ECHO)):
        if case["name"] == "truncated" or (case["name"] == "answer_is_other_protocol" and isinstance(core, Listener)):
            feed(core, split(data))
            assert not core.done
        else:
            with pytest.raises(MultistreamError):
                feed(core, split(data))
            with pytest.raises(MultistreamError):
                core.feed(b"")


@pytest.mark.hostile
@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03",
        b"SSH-2.0-x\r\n",
        b"\x00" * 63,
        b"\x13/multi-",
    ],
    ids=["http", "tls", "ssh", "zeros", "nearly"],
)
def test_hostile_010_another_protocol_is_refused_on_its_first_segment(opening):
    for core in (Dialer([ECHO]), listener(ECHO)):
        with pytest.raises(MultistreamError):
            core.feed(opening)


@pytest.mark.hostile
@pytest.mark.parametrize(
    "length", ["ffffffffffffffffff7f", "ff" * 11, "9300", "8000"], ids=["10 bytes", "11 bytes", "not minimal", "zero"]
)
@pytest.mark.parametrize("split", [whole, byte_by_byte])
def test_hostile_003_bad_lengths(length, split):
    for opening in (b"", HEADER):
        for core in (Dialer([ECHO]), listener(ECHO)):
            with pytest.raises(MultistreamError):
                feed(core, split(opening + bytes.fromhex(length)))


@pytest.mark.hostile
@pytest.mark.parametrize("length", ["ffffffff0f", "808040", "8108", "808001"], ids=["4 GiB", "1 MiB", "1025", "16384"])
def test_hostile_004_lengths_over_the_bound_are_refused_before_the_body(length):
    for core in (Dialer([ECHO]), listener(ECHO)):
        with pytest.raises(MultistreamError):
            feed(core, byte_by_byte(HEADER + bytes.fromhex(length)))
    core = listener(ECHO)
    core.feed(HEADER + bytes.fromhex("8008") + b"/" * 1023)
    assert len(core._buffer) == 2 + 1023  # the largest message that may be waited for


@pytest.mark.hostile
@pytest.mark.parametrize(
    "message",
    [b"\x06/noise", b"\x08/no\nise\n", b"\x01\n", b"\x05/\xff\xfe\xfd\n", b"\x07/noise "],
    ids=["no newline", "newline inside", "empty", "not utf-8", "space"],
)
@SPLITS
def test_hostile_005_malformed_messages(message, split):
    for core in (Dialer(["/noise"]), Listener(lambda _: True)):
        with pytest.raises(MultistreamError):
            feed(core, split(HEADER + message))
    for core in (Dialer(["/noise"]), Listener(lambda _: True)):
        with pytest.raises(MultistreamError):
            feed(core, split(encode_line("/multistream/9.9.9")))


@pytest.mark.hostile
@SPLITS
def test_hostile_006_proposals_without_end(split):
    core = listener(ECHO)
    asked = []
    core._match = asked.append
    flood = HEADER + b"".join(encode_line(f"/unknown/{n}") for n in range(10_000))
    sent = feed_until(MultistreamError, core, split(flood))
    assert sent == HEADER + NA * MAX_PROPOSALS
    assert len(asked) == MAX_PROPOSALS
    with pytest.raises(MultistreamError):
        core.feed(encode_line(ECHO))
    assert core.take_output() == b""


@pytest.mark.hostile
def test_hostile_006_the_last_allowed_proposal_is_still_heard():
    core = listener(ECHO)
    core.feed(HEADER + encode_line("/unknown") * (MAX_PROPOSALS - 1) + encode_line(ECHO))
    assert core.result == ECHO


@pytest.mark.hostile
def test_hostile_007_lists_are_bounded_and_given_twice():
    names = ["/" + "x" * 1000 + str(n) for n in range(1000)]
    core = Listener(set(names).__contains__, lambda: names)
    core.feed(HEADER + encode_line("ls") * 10)
    sent = core.take_output()
    assert len(sent) < 2 * MAX_LIST_BYTES + 100
    assert sent.startswith(HEADER + encode_list(names))
    assert sent.endswith(NA * 8)
    with pytest.raises(MultistreamError):
        core.feed(encode_line("ls") * 100)


def test_a_list_nests_the_names():
    core = listener(ECHO, PING)
    core.feed(HEADER + encode_line("ls"))
    assert core.take_output() == HEADER + encode_list([ECHO, PING])
    core.feed(encode_line(PING))
    assert core.result == PING


def test_a_listener_without_names_lists_nothing():
    core = Listener({ECHO}.__contains__)
    core.feed(HEADER + encode_line("ls"))
    assert core.take_output() == HEADER + encode_list([])


@pytest.mark.hostile
@SPLITS
def test_hostile_007_na_without_end_does_not_hold_the_dialer(split):
    dialer = Dialer([ECHO, ECHO, PING])
    sent = dialer.take_output()
    sent += feed_until(NoCommonProtocol, dialer, split(HEADER + NA * 1000))
    assert sent == HEADER + encode_line(ECHO) * 2 + encode_line(PING)
    for _ in range(3):
        with pytest.raises(NoCommonProtocol):
            dialer.feed(HEADER + NA)


@pytest.mark.parametrize("word", ["na", "ls"])
def test_the_words_of_the_protocol_are_never_agreed_on(word):
    for split in (whole, byte_by_byte):
        core = Listener(lambda _: True)
        feed(core, split(HEADER + encode_line(word)))
        assert not core.done


def test_long_ids_are_agreed_on():
    name = "/eth2/" + "x" * 900
    dialer, core = Dialer([name]), listener(name)
    core.feed(dialer.take_output() + b"more")
    assert (core.result, core.leftover) == (name, b"more")
    dialer.feed(core.take_output())
    assert dialer.result == name


def test_non_ascii_ids_are_agreed_on():
    core = listener("/å/1")
    core.feed(HEADER + encode_line("/å/1"))
    assert core.result == "/å/1"


def test_misuse():
    for offers in ([], ECHO):
        with pytest.raises(LocalProtocolError):
            Dialer(offers)
    with pytest.raises(LocalProtocolError):
        Dialer(["/a\n"])
    dialer, core = Dialer([ECHO]), listener(ECHO)
    core.feed(dialer.take_output())
    dialer.feed(core.take_output())
    for finished in (dialer, core):
        with pytest.raises(LocalProtocolError):
            finished.feed(b"x")
