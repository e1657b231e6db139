"""Which exit code and words belong to which error at which stage."""

import pytest

from pyp2p.cli.failure import clean, dial_failure, exit_code, step_failure
from pyp2p.errors import (
    Attempt,
    BackingOff,
    CertificateRefused,
    ConnectFailed,
    DialFailed,
    DialSelf,
    LimitExceeded,
    MultistreamError,
    NoAddresses,
    NoCommonProtocol,
    NoiseError,
    PeerIdMismatch,
    RemoteClosed,
    ResolveError,
    StageTimeout,
    Stopping,
)
from pyp2p.trace import Stage, Trace

CASES = [
    (Stage.RESOLVE, ResolveError("no such name"), 10),
    (Stage.RESOLVE, NoAddresses("nothing"), 10),
    (Stage.CONNECT, ConnectFailed("connection refused"), 11),
    (Stage.CONNECT, CertificateRefused("self-signed certificate"), 11),
    (Stage.CONNECT, NoAddresses("no transport"), 11),
    (Stage.SECURITY_SELECT, MultistreamError("expected, got HTTP"), 12),
    (Stage.SECURITY_SELECT, NoCommonProtocol(["/noise"]), 12),
    (Stage.SECURITY_SELECT, RemoteClosed("closed"), 12),
    (Stage.HANDSHAKE, NoiseError("bad"), 12),
    (Stage.HANDSHAKE, OSError("broken"), 12),
    (Stage.HANDSHAKE, PeerIdMismatch("A", "B"), 13),
    (Stage.MUXER_SELECT, NoCommonProtocol(["/yamux/1.0.0"]), 14),
    (Stage.MUXER_SELECT, RemoteClosed("closed"), 14),
    (Stage.IDENTIFY, RemoteClosed("closed"), 15),
    (Stage.PROTOCOL, NoCommonProtocol(["/perf/1.0.0"]), 15),
    (Stage.ADMISSION, RemoteClosed("closed"), 15),
    *[(stage, StageTimeout(stage, 3.0), 16) for stage in Stage],
    (Stage.CONNECT, BackingOff("/a", 3.0, 9.0), 17),
    (Stage.CONNECT, LimitExceeded("pending_outbound", "too many"), 17),
    (Stage.HANDSHAKE, DialSelf("ourselves"), 17),
    (Stage.CONNECT, Stopping("stops"), 17),
]


@pytest.mark.parametrize(("stage", "error", "code"), CASES, ids=lambda value: getattr(value, "value", None))
def test_exit_codes_and_one_paragraph(stage: Stage, error: Exception, code: int) -> None:
    assert exit_code(stage, error) == code
    failure = step_failure(stage, error, "Tried /ip4/1.2.3.4/tcp/1")
    assert failure.code == code
    assert failure.stage == stage.value
    assert failure.reason.startswith("Tried /ip4/1.2.3.4/tcp/1: ")
    assert failure.advice.endswith(".")
    assert "\n" not in failure.reason


def test_the_attempt_that_got_furthest_decides() -> None:
    attempts = [
        Attempt("/ip4/1.1.1.1/tcp/1", Stage.HANDSHAKE, NoiseError("bad"), Trace()),
        Attempt("/ip4/2.2.2.2/tcp/1", Stage.CONNECT, ConnectFailed("connection refused"), Trace()),
    ]
    failure = dial_failure(DialFailed(None, attempts), "/dns/example.com/tcp/1")
    assert (failure.stage, failure.code) == ("handshake", 12)
    assert "2 addresses of /dns/example.com/tcp/1" in failure.reason
    assert "/ip4/1.1.1.1/tcp/1" in failure.reason
    shown = failure.as_json()["attempts"]
    assert [each["stage"] for each in shown] == ["handshake", "connect"]
    assert [set(each) for each in shown] == [{"address", "stage", "reason", "trace"}] * 2


@pytest.mark.parametrize("detail", ["TLS to example.com", "WebSocket at example.com:80"])
def test_who_accepts_a_connection_and_then_says_nothing_is_no_firewall(detail: str) -> None:
    trace, error = Trace(), StageTimeout(Stage.CONNECT, 3.0)
    trace.begin(Stage.CONNECT, "/ip4/1.1.1.1/tcp/1", 0.0)
    trace.begin(Stage.CONNECT, detail, 1.0)
    failure = dial_failure(DialFailed(None, [Attempt("/ip4/1.1.1.1/tcp/1", Stage.CONNECT, error, trace)]), "x")
    assert failure.code == 16
    assert f"the connection was opened, but {detail} did not come about; nothing came back within 3 s" in failure.reason
    assert "accepts connections and says nothing" in failure.advice


def test_nothing_tried_is_a_failure_to_resolve() -> None:
    assert dial_failure(DialFailed(None, []), "/ip4/1.2.3.4/tcp/1").code == 10


def test_refusals_before_any_attempt_are_ours() -> None:
    assert dial_failure(DialSelf("ourselves"), "/ip4/1.2.3.4/tcp/1").code == 17


def test_a_wrong_peer_names_both() -> None:
    failure = step_failure(Stage.HANDSHAKE, PeerIdMismatch("AAA", "BBB"), "Tried x")
    assert "AAA" in failure.reason
    assert "/p2p/BBB" in failure.advice
    assert failure.as_json()["expected"] == "AAA"
    assert failure.as_json()["got"] == "BBB"


def test_hostile_048_words_of_a_peer_in_an_error_are_escaped() -> None:
    failure = step_failure(Stage.SECURITY_SELECT, MultistreamError("\x1b[2J\x07\u202e"), "Tried x")
    assert all(" " <= character <= "~" for character in failure.reason)
    assert clean("a\x1b\\b") == "a\\x1b\\b"
