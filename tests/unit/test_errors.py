"""The error tree: what remote text becomes, which fields errors carry, and who is to blame."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p import errors
from pyp2p.errors import (
    AdmissionRefused,
    Attempt,
    BackingOff,
    DialFailed,
    InvalidMultiaddr,
    LimitExceeded,
    LocalProtocolError,
    MuxerError,
    NoCommonProtocol,
    NotAllowed,
    P2PError,
    PeerIdMismatch,
    Refused,
    RemoteError,
    SecurityError,
    StageTimeout,
    describe,
    printable,
)
from pyp2p.trace import Stage, Trace

CASES = [
    ("plain text", "plain text"),
    (b"bytes", "bytes"),
    ("", ""),
    ("\x1b[2J\x07", "\\x1b[2J\\x07"),
    ("a\r\nb", "a\\r\\nb"),
    ("\u202etxt.exe", "\\u202etxt.exe"),
    ("caf\xe9", "caf\\xe9"),
    ("\ud800", "\\ud800"),
    (b"\xff\xfe", r"\xff\xfe"),
    ("\x00", "\\x00"),
    ("back\\slash", "back\\\\slash"),
]


@pytest.mark.parametrize(("given", "shown"), CASES, ids=repr)
def test_hostile_048_remote_text_is_escaped(given: str | bytes, shown: str) -> None:
    assert printable(given) == shown


def test_hostile_048_remote_text_is_cut() -> None:
    assert printable("a" * 128) == "a" * 128
    assert printable("a" * 129) == "a" * 128 + "..."
    assert printable(b"abcdef", 3) == "abc..."
    assert printable("abc", 3) == "abc"


@given(st.one_of(st.text(), st.binary(), st.text(alphabet=st.characters(categories=["Cs", "Cc", "Cf"]))))
def test_hostile_048_whatever_comes_is_one_bounded_line_of_ascii(remote: str | bytes) -> None:
    shown = printable(remote, 20)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 20 * len("\\U0010ffff") + 3


TREE = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_every_error_has_one_place_in_the_tree(cls: type[Exception]) -> None:
    if cls is LocalProtocolError:
        assert issubclass(cls, ValueError)
        assert not issubclass(cls, P2PError)
    else:
        assert issubclass(cls, P2PError)
    blamed = [family for family in (RemoteError, Refused, NoCommonProtocol) if issubclass(cls, family)]
    assert len(blamed) <= 1


REFUSALS = [
    (LimitExceeded("per_ip4", "8 connections are open"), "limit.per_ip4"),
    (NotAllowed("accept", "blocked"), "gater.accept"),
    (BackingOff("/ip4/1.2.3.4/tcp/1", 2.5, 12.5), "backoff"),
    (errors.DialSelf("the target is this node"), "dial_self"),
    (AdmissionRefused("no guests"), "admission"),
    (errors.Stopping("the switch stops"), "stopping"),
    (Refused("no"), "refused"),
]


@pytest.mark.parametrize(("error", "code"), REFUSALS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_refusal_names_its_counter(error: Refused, code: str) -> None:
    assert error.code == code


def test_each_kind_of_refusal_has_a_counter_of_its_own() -> None:
    assert len({code for _, code in REFUSALS}) == len(REFUSALS)


def test_errors_carry_what_callers_need() -> None:
    mismatch = PeerIdMismatch("A", "B")
    assert isinstance(mismatch, SecurityError)
    assert (mismatch.expected, mismatch.got) == ("A", "B")
    assert "A" in str(mismatch)
    assert "B" in str(mismatch)
    assert MuxerError("x").goaway_code == 1
    assert MuxerError("x", 2).goaway_code == 2
    limit = LimitExceeded("inbound", "7 connections are open")
    assert limit.limit == "inbound"
    assert str(limit) == "7 connections are open (limit inbound)"
    backing = BackingOff("/memory/1", 2.46, 12.5)
    assert backing.until == 12.5
    assert "2.5 s" in str(backing)
    late = StageTimeout(Stage.HANDSHAKE, 15.0)
    assert (late.stage, late.seconds) == (Stage.HANDSHAKE, 15.0)
    assert "handshake" in str(late)
    assert AdmissionRefused("no guests").reason == "no guests"


def test_an_invalid_address_says_where() -> None:
    error = InvalidMultiaddr("unknown protocol", 7)
    assert (error.reason, error.position) == ("unknown protocol", 7)
    assert str(error) == "unknown protocol (at position 7)"
    assert str(InvalidMultiaddr("empty")) == "empty"
    assert isinstance(error, ValueError)  # what `parse` functions raise everywhere


def test_an_honest_disagreement_names_what_was_offered_bounded_and_escaped() -> None:
    offered = [f"/p/{n}" for n in range(20)]
    error = NoCommonProtocol(offered, "3 refused")
    assert error.offered == tuple(offered)
    assert str(error) == f"the peer speaks none of: {', '.join(offered[:8])} (3 refused)"
    assert "\\x1b" in str(NoCommonProtocol(["/\x1b[2J"]))


def attempt(address: str, stage: Stage, error: BaseException) -> Attempt:
    return Attempt(address, stage, error, Trace())


def test_a_failed_dial_lists_every_address() -> None:
    failed = DialFailed(
        "12D3",
        [
            attempt("/ip4/1.2.3.4/tcp/1", Stage.CONNECT, OSError("refused")),
            attempt("/ip4/1.2.3.5/tcp/1", Stage.HANDSHAKE, ConnectionResetError()),
        ],
    )
    assert str(failed).splitlines() == [
        "could not connect to 12D3",
        "  /ip4/1.2.3.4/tcp/1: at connect: refused",
        "  /ip4/1.2.3.5/tcp/1: at handshake: ConnectionResetError",
    ]
    assert str(DialFailed(None, failed.attempts[:1])).startswith("could not connect to peer\n")


def test_the_furthest_attempt_is_the_newest_of_those_that_came_as_far() -> None:
    early = attempt("a", Stage.CONNECT, OSError())
    first = attempt("b", Stage.HANDSHAKE, OSError())
    second = attempt("c", Stage.HANDSHAKE, OSError())
    assert DialFailed(None, [first, second, early]).furthest is second
    assert DialFailed(None, [early]).furthest is early
    assert DialFailed(None, []).furthest is None


def test_a_failed_dial_keeps_its_own_list() -> None:
    attempts = [attempt("a", Stage.CONNECT, OSError())]
    failed = DialFailed(None, attempts)
    attempts.clear()
    assert len(failed.attempts) == 1


def test_an_error_in_a_log_line_is_escaped_once() -> None:
    assert describe(RemoteError(printable("GET /\n"))) == "RemoteError: GET /\\n"
    assert describe(KeyError("\x1b[2J\n")) == "KeyError: '\\x1b[2J\\n'"
    assert describe(ValueError("é\x1b" + "x" * 1000)) == "ValueError: \\xe9\\x1b" + "x" * 286 + "..."
