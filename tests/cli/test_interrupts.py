"""Ctrl-C while a command loads."""

import subprocess
import sys

import pytest

START = """
import os, signal, sys, weakref
from pyp2p.cli.interrupts import leave_at_once, raise_again
class Thing: pass
"""
# As importlib has it for each module: what is raised in such a call is printed and lost.
LOADING = "thing = Thing(); watched = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT)); del thing\n"


def python(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", START + text], capture_output=True, text=True, timeout=60, check=False)


def test_an_interrupt_ends_what_loads_wherever_it_meets_it() -> None:
    done = python(
        "signal.signal(signal.SIGINT, signal.default_int_handler)\nleave_at_once()\n" + LOADING + "print('on')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_it_raises_again_when_the_command_runs() -> None:
    text = "signal.signal(signal.SIGINT, signal.default_int_handler)\nleave_at_once()\nraise_again()\n"
    done = python(text + "try: os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt: print('raised')")
    assert (done.returncode, done.stdout) == (0, "raised\n")


@pytest.mark.parametrize("ours", ["signal.SIG_IGN", "print"])
def test_who_has_said_what_an_interrupt_does_is_heeded(ours: str) -> None:
    text = f"signal.signal(signal.SIGINT, {ours})\nleave_at_once()\nassert signal.getsignal(signal.SIGINT) is {ours}\n"
    assert python(text + f"raise_again()\nassert signal.getsignal(signal.SIGINT) is {ours}").returncode == 0
