"""What every test gets: hypothesis profiles, and a check that the test left no socket open and no switch in debt."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pyp2p.switch.establish import Establisher

# Helper modules' asserts are checked under -O too (test modules' are anyway).
pytest.register_assert_rewrite(
    *(f"tests.{room}" for room in ("unit", "contract", "sim", "cancel", "hostile", "interop"))
)

# `ci` draws the same examples in every run; `thorough` is for an evening. A slow machine is no finding: no deadline.
hypothesis.settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None, max_examples=100)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=5_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# Who starts the tests in the background of a script, or under nohup, hands down signals that are ignored: the programs
# that tests start and interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_FDS = Path("/proc/self/fd")


def _open_sockets() -> set[str]:
    """The inodes of this process's sockets; empty where there is no /proc."""
    if not _FDS.is_dir():
        return set()
    found = set()
    for fd in os.listdir(_FDS):
        try:
            target = os.readlink(_FDS / fd)
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture(autouse=True)
def _no_socket_left() -> Iterator[None]:
    before = _open_sockets()
    yield
    leaked = _open_sockets() - before
    if leaked:
        gc.collect()  # a closed-over frame of a failed test may still hold one; a true leak stays
        leaked = _open_sockets() - before
    assert not leaked, f"{len(leaked)} sockets still open after the test"


@pytest.fixture(autouse=True)
def _no_switch_in_debt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every switch of the test has given back its connections, tasks, streams, slots and memory when it is over."""
    made: list[Establisher] = []
    make = Establisher.__init__

    def noted(self: Establisher, **options: object) -> None:
        make(self, **options)
        made.append(self)

    monkeypatch.setattr(Establisher, "__init__", noted)
    yield
    for establisher in made:
        owed = {name: count for name, count in establisher.in_use().items() if count}
        assert not owed, f"a switch still holds {owed} after the test"
