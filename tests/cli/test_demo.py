"""The demonstration whole, broken off at bad moments, and with processes that do not do as they should."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyp2p.cli.demo import Plan, play
from pyp2p.cli.failure import INTERRUPTED
from pyp2p.cli.output import Output
from pyp2p.discv5.enr import Enr
from pyp2p.peer.keys import Identity
from pyp2p.peer.publickey import KeyType
from tests.cli.support import ENVIRONMENT, SECONDS, command, events

pytestmark = pytest.mark.slow

LONG = 110  # seconds; safety only


def test_the_demonstration_shows_all_that_is_expected_and_ends_well() -> None:
    done = subprocess.run(
        command("demo", "--json"), check=False, capture_output=True, text=True, env=ENVIRONMENT, timeout=LONG
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert not done.stderr
    lines = events(done.stdout)
    told: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        told.setdefault(line["event"], []).append(line)
    assert told["bootnode"][0]["tcp"] is None
    assert [line["node"] for line in sorted(told["node"], key=lambda line: line["node"])] == [1, 2, 3, 4, 5, 6]
    assert all(line["ok"] for line in told["check"])
    assert {tuple(line["nodes"]) for line in told["status"]} >= {(a, b) for a in range(1, 7) for b in range(a + 1, 7)}
    assert {min(line["node"], line["found"]) for line in told["found"]} >= {1, 2}
    (returned,), (lost,), (last,) = told["returned"], told["lost"], told["summary"]
    assert returned["same_id"]
    missed = returned["missed"]
    assert len(missed) >= 4
    assert missed[0] == lost["head"] + 1
    assert sum(line["count"] for line in told["caught_up"] if line["node"] == lost["node"]) >= len(missed)
    assert [line["slot"] for line in told["block"]] == sorted({line["slot"] for line in told["block"]})
    assert len(told["totals"]) == 6
    assert last["pairs"] == 15
    assert lines[-1] is last
    times = [line["seconds"] for line in lines]
    assert times == sorted(times)
    assert {node["client"] for node in last["nodes"]} == {f"pyp2p/0.1.0 node-{number}" for number in range(1, 7)}


# --- broken off


QUICK = "nodes=3, mesh=2, genesis_after=3.0, slot_duration_ms=500, first_blocks=1, lose=3, lose_after=2"
PROGRAM = f"""
import sys
from pyp2p.cli.demo import Plan, play
from pyp2p.cli.output import Output
sys.exit(play(Plan({QUICK}), Output(as_json=True, stdout=sys.stdout, stderr=sys.stderr, environ={{}})))
"""


@contextmanager
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demonstration, smaller, with its folder below `tmp_path`; none of its processes outlives the block."""
    environment = {**ENVIRONMENT, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        family: list[psutil.Process] = []
        try:
            yield process
        finally:
            family += _family(process)
            process.kill()
            process.communicate(timeout=SECONDS)
            for each in family:
                if each.is_running():
                    each.kill()


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def until(process: subprocess.Popen[str], event: str) -> list[psutil.Process]:
    """Read until it tells of something, and return all processes that it has then."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == event:
            return _family(process)
    raise AssertionError(f"no {event}")


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("bootnode", signal.SIGINT),
        ("node", signal.SIGTERM),
        ("found", signal.SIGINT),
        ("lost", signal.SIGINT),
        ("node", signal.SIGHUP),
    ],
)
def test_an_interrupt_ends_all_processes_and_leaves_no_folder(
    moment: str, number: signal.Signals, tmp_path: Path
) -> None:
    with running(tmp_path) as process:
        family = until(process, moment)
        assert family
        assert all(os.getsid(each.pid) == each.pid for each in family)  # Ctrl-C at a terminal does not reach them
        process.send_signal(number)
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == INTERRUPTED
        assert not errors
        assert not [each for each in family if each.is_running()]  # ended before it did
    assert not list(tmp_path.iterdir())


def test_when_the_demonstration_itself_is_killed_its_processes_end(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        family = until(process, "found")
        assert family
        process.kill()
        process.communicate(timeout=SECONDS)
        _, alive = psutil.wait_procs(family, timeout=SECONDS)
        assert not alive


AT_A_TERMINAL = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"


def test_ctrl_c_at_a_terminal_ends_the_live_view_and_all_processes(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    environment = {**ENVIRONMENT, "TMPDIR": str(tmp_path), "TERM": "xterm", "COLUMNS": "150", "LINES": "50"}
    with (
        os.fdopen(ours, "rb+", buffering=0) as terminal,
        subprocess.Popen(
            [sys.executable, "-c", AT_A_TERMINAL, *command("demo")],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
        ) as process,
    ):
        os.close(theirs)
        family: list[psutil.Process] = []
        try:
            said = b""
            while b"makes the blocks" not in said:
                said += terminal.read(65536)
            family = _family(process)
            terminal.write(b"\x03")
            while more := _read_to_end(terminal):
                said += more
            assert process.wait(SECONDS) == INTERRUPTED
            assert not [each for each in family if each.is_running()]
        finally:
            for each in [process, *family]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
    assert said.count(b"\x1b[?25l") == said.count(b"\x1b[?25h") == 1  # the cursor hides, and is back
    assert b"next: " in said
    assert not list(tmp_path.iterdir())


def _read_to_end(terminal: io.FileIO) -> bytes:
    try:
        return terminal.read(65536) or b""
    except OSError:  # the last one who had the terminal has gone
        return b""


def test_when_nobody_reads_it_any_more_it_ends(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        family = until(process, "node")
        assert process.stdout is not None
        process.stdout.close()
        process.wait(timeout=SECONDS)
        assert process.returncode == INTERRUPTED
        assert not [each for each in family if each.is_running()]
    assert not list(tmp_path.iterdir())


# --- processes that do not do as they should

LISTENS = """
    import json, sys, time
    def tell(event, **facts):
        print(json.dumps({"schema": 1, "event": event, "time": time.time(), **facts}), flush=True)
    def listens():
        if "discv5" in sys.argv:
            tell("listening", enr=RECORD)
        else:
            who = sys.argv[sys.argv.index("--agent") + 1]
            tell("listening", peer_id=who, enr=RECORD, addresses=[f"/ip4/127.0.0.1/tcp/9000/p2p/{who}"])
    bootnode = "discv5" in sys.argv
    """
IDENTITY = Identity.generate(KeyType.SECP256K1, entropy=random.Random(1).randbytes)
RECORD = Enr.sign(IDENTITY, 1, {"ip": IPv4Address("127.0.0.1"), "udp": 30303}).text
WITH_TCP = Enr.sign(IDENTITY, 1, {"ip": IPv4Address("127.0.0.1"), "tcp": 9000}).text


def played(tmp_path: Path, body: str, **plan: Any) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """Play with a program of these lines in place of `pyp2p`: exit code, the error, and all lines."""
    program = tmp_path / "program.py"
    program.write_text(f"RECORD = {RECORD!r}\n" + textwrap.dedent(LISTENS) + textwrap.dedent(body), "utf-8")
    stdout = io.StringIO()
    out = Output(as_json=True, stdout=stdout, stderr=None, environ={})
    code = play(Plan(nodes=2, lose=2, **plan), out, program=(sys.executable, str(program)))
    lines = events(stdout.getvalue())
    assert lines[-1]["event"] == "error"
    assert lines[-2]["event"] == "summary"
    return code, lines[-1], lines


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    stdout = io.StringIO()
    out = Output(as_json=True, stdout=stdout, stderr=None, environ={})
    assert play(Plan(), out, program=(str(tmp_path / "nothing"),)) == 1
    assert events(stdout.getvalue())[-1]["reason"] == "the bootnode could not be started: No such file or directory"


@pytest.mark.parametrize(
    ("body", "stage", "reason"),
    [
        ("print('hello \\x1b[2J')", "output", "the bootnode printed what is no JSON object: hello \\x1b[2J"),
        ("print('[1]')", "output", "the bootnode printed what is no JSON object: [1]"),
        ("print('[' * 100000)", "output", "the bootnode printed what is no JSON object: [[[["),
        ("tell('listening', enr='enr:-x')", "start", "the bootnode's record is none: "),
        ("tell('listening')", "start", "the bootnode's record is none: "),
        (
            "tell('error', reason='no \\x1bport'); sys.exit(2)",
            "nodes",
            "the bootnode ended by itself, exit code 2: no \\x1bport",
        ),
        ("sys.stdout.write('x' * (3 << 19)); sys.stdout.flush(); sys.stdin.read()", "output",
         "the bootnode printed a line of more than 1048576 bytes"),
        ("[tell('block') for _ in range(1001)]; sys.stdin.read()", "start",
         "the bootnode told 1001 things, and not where it listens"),
        ("listens(); bootnode or sys.exit(3)", "nodes", " ended by itself, exit code 3"),
        ("listens(); bootnode or tell('block', slot=1); sys.stdin.read()", "output", "told 'block' without 'root'"),
    ],
)  # fmt: skip
def test_what_a_process_does_wrong_is_said(tmp_path: Path, body: str, stage: str, reason: str) -> None:
    code, error, _ = played(tmp_path, body)
    assert code == 1
    assert error["stage"] == stage
    assert reason in error["reason"]


def test_the_last_words_of_a_process_are_shown(tmp_path: Path) -> None:
    _, error, _ = played(tmp_path, "print('first\\nno \\x1b[0m', file=sys.stderr, flush=True); sys.exit(1)")
    assert error["advice"] == "the bootnode said: first / no \\x1b[0m"


def test_what_does_not_happen_in_its_time_is_said(tmp_path: Path) -> None:
    code, error, lines = played(tmp_path, "listens(); sys.stdin.read()", seconds=2.0)
    assert code == 1
    assert error["reason"] == "not within 2 s: node 1 is not connected with node 2"
    checks = {line["what"]: line["ok"] for line in lines if line["event"] == "check"}
    assert list(checks.values()) == [True, False]


def test_a_bootnode_with_a_tcp_port_is_none_for_this(tmp_path: Path) -> None:
    _, error, _ = played(tmp_path, f"RECORD = {WITH_TCP!r}\nlistens(); sys.stdin.read()", seconds=0.5)
    assert error["reason"] == "not within 0.5 s: its record names TCP port 9000"


def test_a_process_that_never_listens_is_not_waited_for_for_ever_and_killed(tmp_path: Path) -> None:
    body = """
        import os, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(__file__ + '.pid', 'w') as file:
            file.write(str(os.getpid()))
        while True:
            time.sleep(1)
        """
    code, error, _ = played(tmp_path, body, seconds=1.0)
    assert (code, error["reason"]) == (1, "the bootnode did not listen within 1 s")
    assert not psutil.pid_exists(int((tmp_path / "program.py.pid").read_text()))


def test_options_from_the_environment_are_ours_and_not_those_of_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYP2P_PORT", "1")
    _, error, _ = played(tmp_path, "import os\ntell('error', reason=str('PYP2P_PORT' in os.environ)); sys.exit(2)")
    assert error["reason"].endswith("False")


def test_a_temporary_folder_that_cannot_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nothing"))
    code, error, _ = played(tmp_path, "listens(); sys.stdin.read()")
    assert (code, error["stage"]) == (1, "start")
    assert "no place for the data of nodes" in error["reason"]
