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
