"""Commands over each transport and security that they offer, the logs that they write, and what is missing named."""

import json
import os
import re
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cli.support import events, listening, run, unwrapped
from tests.unit.security.tls_tools import P256, certificate

pytestmark = pytest.mark.slow

STACKS = {
    "tls": (("--security", "tls"), "tcp", "/tls/1.0.0", "/yamux/1.0.0"),
    "ws": (("--transport", "ws"), "ws", "/noise", "/yamux/1.0.0"),
    "ws-tls-mplex": (
        ("--transport", "ws", "--security", "tls", "--muxer", "mplex"),
        *("ws", "/tls/1.0.0", "/mplex/6.7.0"),
    ),
    "quic": (("--transport", "quic"), "quic", "/tls/1.0.0", "/quic-v1"),
}


@pytest.mark.parametrize("name", STACKS)
def test_identify_over_each_stack(name: str) -> None:
    words, transport, security, muxer = STACKS[name]
    with listening(*words) as node:
        (found,) = events(run("identify", node.address, "--json", *words).stdout)
        assert (found["peer_id"], found["security"], found["muxer"]) == (node.peer_id, security, muxer)
        assert transport in found["transport"]
        assert found["round_trips"] == (4 if transport == "ws" else 3)
        done = run("ping", node.address, "--count", "2", "--interval", "0")  # all that is installed is offered
        assert done.returncode == 0, done.stderr


def test_the_steps_of_a_quic_connection_are_shown_with_their_bytes() -> None:
    with listening("--transport", "quic") as node:
        (found,) = events(run("identify", node.address, "--json", "--trace").stdout)
        connect, handshake, muxer, identify = found["trace"]
        assert [step["stage"] for step in found["trace"]] == ["connect", "handshake", "muxer_select", "identify"]
        assert (handshake["detail"], muxer["detail"]) == ("/tls/1.0.0 (ALPN libp2p)", "/quic-v1 (early)")
        assert min(connect["bytes_out"], connect["bytes_in"]) >= 1200  # a first datagram is never smaller
        assert min(handshake["bytes_out"], identify["bytes_out"], identify["bytes_in"]) > 0


@pytest.mark.parametrize(("name", "labels"), [("tls", 5), ("quic", 4)])
def test_secrets_and_events_are_logged_on_request(name: str, labels: int, tmp_path: Path) -> None:
    words = STACKS[name][0]
    secrets, folder = tmp_path / "keys", tmp_path / "qlog"
    folder.mkdir()
    with listening(*words) as node:
        done = run("identify", node.address, *words, "--key-log", str(secrets), "--qlog", str(folder))
        assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    lines = secrets.read_text().splitlines()
    assert len(lines) == labels
    assert all(len(line.split()) == 3 for line in lines)
    logs = list(folder.iterdir())
    assert len(logs) == (1 if name == "quic" else 0)
    for log in logs:
        (trace,) = json.loads(log.read_text())["traces"]
        assert {event["name"] for event in trace["events"]} >= {"transport:packet_sent", "transport:packet_received"}


@pytest.mark.parametrize("given", [False, True], ids=["self-signed", "given"])
def test_a_secure_websocket(given: bool, tmp_path: Path) -> None:
    words = ["--addr", "/ip4/127.0.0.1/tcp/0/wss"]
    if given:
        (tmp_path / "pem").write_bytes(pem())
        words += ["--web-cert", str(tmp_path / "pem")]
    with listening(*words) as node:
        refused = run("identify", node.address)
        assert refused.returncode == 11
        said = unwrapped(refused.stderr)
        assert re.search(r"TLS to 127.0.0.1 \(/ip4/127.0.0.1/tcp/\d+\): its certificate is refused: self-signed", said)
        assert "--insecure goes on without judging it" in said
        assert "--web-cert" in said
        (found,) = events(run("identify", node.address, "--insecure", "--json").stdout)
        assert found["peer_id"] == node.peer_id
        assert found["round_trips"] == 5
        tcp, tls, http, *_ = found["trace"]
        assert [step["stage"] for step in (tcp, tls, http)] == ["connect"] * 3
        assert (tls["detail"], http["detail"].split(":")[0]) == ("TLS to 127.0.0.1", "WebSocket at 127.0.0.1")
        assert all(step["bytes_out"] and step["bytes_in"] and step["flights"] for step in (tls, http))


def pem() -> bytes:
    made = x509.load_der_x509_certificate(certificate())
    return P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--key-log", "/nowhere/x"), "--key-log: /nowhere/x: No such file"),
        (("--transport", "quic", "--qlog", "/nowhere"), "--qlog: /nowhere is no folder"),
        pytest.param(
            ("--transport", "quic", "--qlog", "/proc"),
            "--qlog: no file can be made in /proc",
            marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc"),
        ),
        (("--transport", "http"), "tcp, ws"),
    ],
)
def test_what_makes_no_sense_is_named(words: tuple[str, ...], said: str) -> None:
    done = run("identify", "127.0.0.1:1", *words)
    assert done.returncode == 2
    assert said in unwrapped(done.stderr)


def test_no_file_is_made_for_secrets_that_nobody_has(tmp_path: Path) -> None:
    secrets = tmp_path / "keys"
    done = run("identify", "127.0.0.1:1", "--security", "noise", "--key-log", str(secrets))
    assert done.returncode == 2
    assert "--key-log: noise has no secrets to log" in unwrapped(done.stderr)
    assert not secrets.exists()


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("nonsense")
    for name, why in (("pem", "PEM"), ("missing", "No such file")):
        done = run("listen", "--addr", "/ip4/127.0.0.1/tcp/0/wss", "--web-cert", str(tmp_path / name))
        assert done.returncode == 2
        assert "--web-cert" in done.stderr and why in unwrapped(done.stderr)


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("pyp2p.security.tls", ("--security", "tls"), "tls"),
        ("pyp2p.transports.ws", ("--transport", "ws"), "ws"),
        ("pyp2p.quic.transport", ("--transport", "quic"), "quic"),
    ],
)
def test_without_its_extra_a_stack_is_named_and_the_others_work(
    module: str, words: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    """Our own module cannot be imported then; dnspython imports aioquic too, where it is installed."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", os.getcwd())])}
    done = run("identify", "127.0.0.1:1", *words, env=env)
    assert done.returncode == 2
    assert f"pip install pyp2p[{extra}]" in unwrapped(done.stderr)
    with listening() as node:
        assert run("identify", node.address, env=env).returncode == 0
