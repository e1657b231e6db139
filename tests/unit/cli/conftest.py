"""The command configures logging for its process; a test gives that back."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger("pyp2p")
    names = [name for name in logging.root.manager.loggerDict if name.startswith("pyp2p")]
    levels = {name: logging.getLogger(name).level for name in ["pyp2p", "pyp2p.noise", *names]}
    handlers, propagate = list(root.handlers), root.propagate
    yield
    root.handlers[:], root.propagate = handlers, propagate
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
