"""Failures at each stage, by hand-made peers: exit code, stage and words. In this process: `main` is what runs."""

import json
import os
import socket
from typing import Any

import pytest

from pyp2p.cli.main import main
from pyp2p.peer.keys import Identity
from tests.cli.support import HEADER, NOISE, hostile, listening, says, silent


def try_identify(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["identify", "--json", *words])
    (line,) = capsys.readouterr().out.splitlines()
    error = json.loads(line)
    assert error["event"] == "error"
    assert error["code"] == code
    assert error["reason"]
    assert error["advice"]
    return code, error


ANSWERS = [
    ("http", says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), 12, "security_select"),
    ("tls-alert", says(b"\x15\x03\x01\x00\x02\x02\x46"), 12, "security_select"),
    ("ssh", says(b"SSH-2.0-x\r\n"), 12, "security_select"),
    ("closes", says(then_close=True), 12, "security_select"),
    ("declines", says(HEADER, b"\x03na\n"), 12, "security_select"),
    ("escapes", says(HEADER, b"\x06\x1b[2J\x07\n"), 12, "security_select"),
    ("closes-in-handshake", says(HEADER, NOISE, then_close=True), 12, "handshake"),
    ("bad-handshake", says(HEADER, NOISE, b"\x00\x60" + bytes(0x60)), 12, "handshake"),
    ("silent", silent, 16, "security_select"),
    ("silent-in-handshake", says(HEADER, NOISE), 16, "handshake"),
]


@pytest.mark.parametrize(("serve", "code", "stage"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
def test_what_a_peer_may_answer(capsys: pytest.CaptureFixture[str], serve: Any, code: int, stage: str) -> None:
    with hostile(serve) as port:
        got, error = try_identify(capsys, f"127.0.0.1:{port}", "--timeout", "0.3")
    assert (got, error["stage"]) == (code, stage)
    (attempt,) = error["attempts"]
    assert attempt["address"] == f"/ip4/127.0.0.1/tcp/{port}"
    assert attempt["stage"] == stage
    assert attempt["trace"][0]["stage"] == "connect"
    assert all({"stage", "detail", "ms", "bytes_out", "bytes_in"} <= step.keys() for step in attempt["trace"])


def test_a_closed_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, error = try_identify(capsys, f"127.0.0.1:{port}")
    assert (code, error["stage"]) == (11, "connect")


def test_an_address_that_no_transport_handles(capsys: pytest.CaptureFixture[str]) -> None:
    assert try_identify(capsys, "/ip4/127.0.0.1/udp/1/webrtc-direct")[0] == 11


def test_a_name_that_nobody_has(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = try_identify(capsys, "/dns4/name.invalid/tcp/1", "--timeout", "5")
    assert error["stage"] == "resolve"
    assert code in (10, 16)  # 16 where the resolver of the machine hangs


@pytest.mark.slow
def test_peers_that_hang_late_and_wrong_ids(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    other = Identity.generate(entropy=os.urandom).peer
    with listening("--delay", "identify=forever") as peer:
        bare = peer.address.partition("/p2p/")[0]
        code, error = try_identify(capsys, f"{bare}/p2p/{other}")
        assert (code, error["stage"]) == (13, "handshake")
        assert (error["expected"], error["got"]) == (str(other), peer.peer_id)
        code, error = try_identify(capsys, bare, "--timeout", "1")
        assert (code, error["stage"]) == (16, "identify")
        assert [step["stage"] for step in error["attempts"][0]["trace"]][-1] == "identify"


@pytest.mark.slow
def test_our_own_key_at_the_other_end_is_our_own_refusal(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    key = str(tmp_path / "key")
    with listening("--key", key) as peer:
        assert try_identify(capsys, peer.address, "--key", key)[0] == 17
        assert try_identify(capsys, peer.address.partition("/p2p/")[0], "--key", key)[0] == 17


@pytest.mark.slow
def test_no_common_muxer_and_no_common_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    with listening("--muxer", "mplex") as peer:
        code, error = try_identify(capsys, peer.address, "--muxer", "yamux")
        assert (code, error["stage"]) == (14, "muxer_select")
        assert main(["perf", "--json", peer.address]) == 15
        error = json.loads(capsys.readouterr().out)
        assert error["stage"] == "protocol"
        assert "--perf" in error["advice"]


def test_usage_errors_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["identify", "--json", "nonsense"]) == 2
    assert json.loads(capsys.readouterr().out)["stage"] == "usage"
    assert main(["ping", "--json", "x:1", "--count", "none"]) == 2
    assert json.loads(capsys.readouterr().out)["stage"] == "usage"


def test_text_is_one_paragraph_and_the_trace_comes_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with hostile(says(b"\x1b]0;owned\x07" * 9)) as port:
        assert main(["identify", f"127.0.0.1:{port}", "--trace"]) == 12
    shown = capsys.readouterr()
    assert shown.err.startswith("pyp2p identify: failed at security_select. Tried ")
    assert "connect" in shown.out
    assert "\x1b" not in shown.out + shown.err
