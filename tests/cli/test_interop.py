"""`pyp2p interop` as a program, where redis is not there or not what it should be; the rest is in tests/interop."""

import os
from pathlib import Path

import pytest

from tests.cli.support import hostile, run, says, silent, unwrapped

pytestmark = pytest.mark.slow

DIALER = {
    "TRANSPORT": "tcp",
    "SECURE_CHANNEL": "noise",
    "MUXER": "yamux",
    "IS_DIALER": "true",
    "REDIS_ADDR": "127.0.0.1:1",
    "TEST_KEY": "a5b50d5e",
}
LISTENER = DIALER | {"IS_DIALER": "false", "LISTENER_IP": "127.0.0.1"}
BOTH = pytest.mark.parametrize("part", [DIALER, LISTENER], ids=["dialer", "listener"])


def test_a_missing_variable_is_named() -> None:
    done = run("interop", env=LISTENER | {"TEST_KEY": ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert "pyp2p interop: TEST_KEY is not set" in unwrapped(done.stderr)


@BOTH
def test_a_redis_that_is_not_there_is_named(part: dict[str, str]) -> None:
    done = run("interop", env=part)
    assert (done.returncode, done.stdout) == (11, "")
    assert "failed at connect. Tried redis at 127.0.0.1:1" in unwrapped(done.stderr)
    assert "Connection refused" in done.stderr


@BOTH
def test_a_redis_that_hangs_up(part: dict[str, str]) -> None:
    with hostile(says(then_close=True)) as port:
        done = run("interop", env=part | {"REDIS_ADDR": f"127.0.0.1:{port}"})
    assert (done.returncode, done.stdout) == (11, "")
    assert "Connection closed by server" in done.stderr


@BOTH
def test_what_is_no_redis(part: dict[str, str]) -> None:
    with hostile(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        done = run("interop", env=part | {"REDIS_ADDR": f"127.0.0.1:{port}"})
    assert (done.returncode, done.stdout) == (11, "")
    assert f"Tried redis at 127.0.0.1:{port}" in done.stderr


@BOTH
def test_a_redis_that_says_nothing(part: dict[str, str]) -> None:
    with hostile(silent) as port:
        done = run("interop", env=part | {"REDIS_ADDR": f"127.0.0.1:{port}", "TEST_TIMEOUT_SECS": "1"})
    assert (done.returncode, done.stdout) == (16, "")
    assert f"Waited 1 s for redis at 127.0.0.1:{port}" in done.stderr


def test_an_address_that_is_not_of_this_machine() -> None:
    done = run("interop", env=LISTENER | {"LISTENER_IP": "203.0.113.1"})
    assert done.returncode == 2
    assert "pyp2p interop: LISTENER_IP: cannot listen on /ip4/203.0.113.1/tcp/0" in unwrapped(done.stderr)


def test_without_its_extra_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['redis'] = None\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", os.getcwd())])
    done = run("interop", env=DIALER | {"PYTHONPATH": path})
    assert done.returncode == 2
    assert "pip install pyp2p[interop]" in unwrapped(done.stderr)
