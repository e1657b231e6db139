"""Each command between two processes on loopback."""

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.support import ENVIRONMENT, SECONDS, Listening, command, events, listening, run

pytestmark = pytest.mark.slow

IDENTIFY_FIELDS = {
    *("peer_id", "agent", "protocol_version", "protocols", "addresses", "observed", "transport", "security"),
    *("muxer", "early_muxer", "round_trips", "seconds", "trace"),
}


@pytest.fixture(scope="module")
def node() -> Iterator[Listening]:
    with listening("--perf", "--seed", "7", "--agent", "evil\x1b[2J\u202e", "--protocol", "/hang/1=hang") as peer:
        yield peer


def one(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    (line,) = events(done.stdout)
    return line


def test_identify(node: Listening) -> None:
    found = one(run("identify", node.address, "--json"))
    assert found.keys() >= IDENTIFY_FIELDS
    assert found["event"] == "identify"
    assert found["peer_id"] == node.peer_id
    assert found["agent"] == "evil\x1b[2J\u202e"
    assert found["transport"] == "tcp"
    assert (found["security"], found["muxer"], found["early_muxer"]) == ("/noise", "/yamux/1.0.0", True)
    assert found["round_trips"] == 3
    assert {"/echo/1.0.0", "/hang/1", "/perf/1.0.0", "/ipfs/ping/1.0.0"} <= set(found["protocols"])
    assert [step["stage"] for step in found["trace"]] == [
        *("connect", "security_select", "handshake", "muxer_select", "identify")
    ]


def test_hostile_048_identify_as_text_escapes_what_the_peer_says(node: Listening) -> None:
    done = run("identify", node.address.partition("/p2p/")[0], "--trace", env={"FORCE_COLOR": "0"})
    assert done.returncode == 0
    assert node.peer_id in done.stdout
    assert "evil\\x1b[2J\\u202e" in done.stdout
    assert all(" " <= character <= "~" for character in done.stdout.replace("\n", ""))
    assert "security_select" in done.stdout


def test_the_target_may_be_host_and_port_and_the_muxer_forced(node: Listening) -> None:
    port = node.address.split("/")[4]
    found = one(run("identify", f"127.0.0.1:{port}", "--json", "--muxer", "mplex", "--transport", "tcp"))
    assert found["muxer"] == "/mplex/6.7.0"


def test_ping(node: Listening) -> None:
    done = run("ping", node.address, "--json", "--count", "3", "--interval", "0")
    assert done.returncode == 0
    *pings, summary = events(done.stdout)
    assert [(line["event"], line["seq"], line["lost"]) for line in pings] == [
        ("round_trip", number, False) for number in (1, 2, 3)
    ]
    assert summary["event"] == "ping"
    assert (summary["count"], summary["lost"]) == (3, 0)
    assert 0 < summary["median_us"] <= summary["p99_us"]


def test_perf(node: Listening) -> None:
    found = one(run("perf", node.address, "--json", "--upload", "1MB", "--download", "2MiB"))
    assert (found["upload_bytes"], found["download_bytes"]) == (1_000_000, 2 << 20)
    assert found["upload_seconds"] > 0
    assert found["download_seconds"] > 0


def test_dial_ends_at_once_or_is_held(node: Listening) -> None:
    found = one(run("dial", node.address, "--json"))
    assert found.keys() >= IDENTIFY_FIELDS | {"held_seconds", "ended_by", "reason"}
    assert found["ended_by"] == "us"
    first, *_, last = events(run("dial", node.address, "--json", "--hold", "0.2").stdout)
    assert (first["event"], last["event"]) == ("connected", "dial")
    assert last["held_seconds"] >= 0.2


def test_dial_tells_when_the_peer_ends_it() -> None:
    with listening() as peer:
        dialler = subprocess.Popen(
            command("dial", peer.address, "--json", "--hold", "60"), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        with dialler:
            assert dialler.stdout is not None
            assert json.loads(dialler.stdout.readline())["event"] == "connected"
            told = events(peer.close_stdin())
            last = events(dialler.stdout.read())[-1]
        assert dialler.returncode == 0
    assert (last["event"], last["ended_by"]) == ("dial", "peer")
    assert told[0]["event"] == "connected"
    assert peer.process.returncode == 0


def test_listen_says_first_who_and_where_and_the_seed_decides_who(node: Listening) -> None:
    assert (node.first["schema"], node.first["event"]) == (1, "listening")
    assert node.address.endswith(f"/p2p/{node.peer_id}")
    with listening("--seed", "7") as same, listening("--seed", "8") as other:
        assert same.peer_id == node.peer_id
        assert other.peer_id != node.peer_id


def test_listen_on_several_addresses() -> None:
    with listening("--addr", "/ip4/127.0.0.1/tcp/0", "--addr", "/ip4/127.0.0.2/tcp/0") as peer:
        assert len(peer.first["addresses"]) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_listen_without_a_pipe_ends_by_a_signal(number: signal.Signals, code: int) -> None:
    with listening(stdin=subprocess.DEVNULL) as peer:
        peer.process.send_signal(number)
        assert peer.process.wait(SECONDS) == code
        assert peer.process.stderr is not None
        assert not peer.process.stderr.read()


def test_an_interrupted_ping_shows_its_summary(node: Listening) -> None:
    pinging = subprocess.Popen(
        command("ping", node.address, "--json", "--interval", "60"), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    with pinging:
        assert pinging.stdout is not None
        assert json.loads(pinging.stdout.readline())["seq"] == 1
        pinging.send_signal(signal.SIGINT)
        (summary,) = events(pinging.stdout.read())
    assert pinging.returncode == 130
    assert (summary["event"], summary["count"]) == ("ping", 1)


def test_a_reader_that_goes_away_ends_it_quietly(node: Listening) -> None:
    pinging = subprocess.Popen(
        command("ping", node.address, "--count", "100000", "--interval", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    with pinging:
        assert pinging.stdout is not None
        assert pinging.stderr is not None
        pinging.stdout.readline()
        pinging.stdout.close()
        assert pinging.wait(SECONDS) == 130
        assert not pinging.stderr.read()


def test_closed_streams_and_a_plain_locale(node: Listening) -> None:
    closed = "exec {0} >&- 2>&- <&-"
    words = " ".join(f"'{word}'" for word in command("identify", node.address))
    assert subprocess.run(["sh", "-c", closed.format(words)], env=ENVIRONMENT, check=False).returncode == 0
    done = run("key", "show", "/nonexistent/ключ", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_slow_peer_is_waited_for_only_so_long() -> None:
    with listening("--delay", "security_select=0.3") as peer:
        assert run("identify", peer.address, "--timeout", "0.1").returncode == 16
        found = one(run("identify", peer.address, "--json"))
        assert found["seconds"] > 0.3


def test_behaviours() -> None:
    served = ["/a/1=sink", "/b/1=hang", "/c/1=reset", "/echo/1.0.0=sink"]
    with listening(*[word for name in served for word in ("--protocol", name)]) as peer:
        found = one(run("identify", peer.address, "--json"))
        assert {"/a/1", "/b/1", "/c/1", "/echo/1.0.0"} <= set(found["protocols"])


@pytest.mark.parametrize(
    "words",
    [
        ["--addr", "nonsense"],
        ["--addr", "/ip4/8.8.8.8/tcp/1"],
        ["--addr", "/ip4/127.0.0.1/udp/1/webrtc-direct"],
        ["--port", "1", "--addr", "/ip4/127.0.0.1/tcp/0"],
        ["--seed", "1", "--key", "x"],
        ["--protocol", "/ipfs/ping/1.0.0=hang"],
    ],
)
def test_listen_that_makes_no_sense(words: list[str]) -> None:
    done = run("listen", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("pyp2p listen: ")


def test_start_help_and_version() -> None:
    assert "pyp2p demo" in run().stdout
    version = run("--version").stdout
    assert all(word in version for word in ("pyp2p 0.", "Python 3.", "OpenSSL", "extra cli"))


@pytest.mark.parametrize("name", ["/", ".", ""])
def test_a_key_needs_the_name_of_a_file(name: str) -> None:
    done = run("key", "new", name, "--force")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_verbosity_below_nothing_is_nothing() -> None:
    done = run("key", "show", "/nonexistent", env={"PYP2P_VERBOSE": "-5"})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_an_empty_key_name_is_no_fresh_identity() -> None:
    done = run("listen", "--key", "")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
