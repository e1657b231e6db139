"""Every test here is an interop test; the peers are built in fixtures, outside the tests' own time limit."""

from pathlib import Path

import pytest

from tests.interop import matrix, peers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hooks see the whole run's items: only those below this folder get the mark."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("interop")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what `test_matrix.py` has tried: each stack with each peer, we dialling and they dialling."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            said = dict(getattr(report, "user_properties", ()))
            if "stack" in said:
                cells.setdefault((said["stack"], said["language"]), {})[said["who"]] = outcome
    if not cells:
        return
    terminalreporter.section("interop matrix: we dial, they dial", sep="-")
    terminalreporter.write_line(f"{'':20}" + "".join(f"{language:20}" for language in peers.LANGUAGES).rstrip())
    for stack in dict.fromkeys(stack for stack, _ in cells):
        found = [cells.get((stack, language), {}) for language in peers.LANGUAGES]
        words = (" ".join(each.get(who, "-") for who in ("we", "they")) for each in found)
        terminalreporter.write_line(f"{stack:20}" + "".join(f"{word:20}" for word in words).rstrip())


@pytest.fixture(autouse=True)
def _able(request: pytest.FixtureRequest) -> None:
    """What an implementation cannot do is skipped with that as the reason."""
    reason = matrix.cannot(request)
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(params=peers.LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    """Each peer implementation in turn, built."""
    peers.require(request.param)
    return str(request.param)


@pytest.fixture
def go() -> str:
    """For what only go-libp2p can do (push on demand, every key type in one run)."""
    peers.require("go")
    return "go"


@pytest.fixture
def rust() -> str:
    """For what only rust-libp2p does."""
    peers.require("rust")
    return "rust"


@pytest.fixture
def js() -> str:
    """For what only js-libp2p does."""
    peers.require("js")
    return "js"


@pytest.fixture(params=peers.DISCV5)
def discv5(request: pytest.FixtureRequest) -> str:
    """Each discv5 peer in turn, built."""
    peers.require(request.param)
    return str(request.param)


@pytest.fixture(params=peers.DISCV5)
def other_discv5(request: pytest.FixtureRequest) -> str:
    """The same once more, for pairs of them."""
    peers.require(request.param)
    return str(request.param)
