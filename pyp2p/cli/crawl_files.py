"""The files of a crawl: the one that it takes up (--resume) and the one that it writes (--output), as lines of JSON.

Rules: lines are written one at a time, so that an error is seen at once. A file that is both is left as it is until the
crawl is over: the new one is written beside it, as NAME.part, and takes its place in one step, only when it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, TextIO

from pyp2p.cli.crawl_node import Found, parse_line
from pyp2p.cli.failure import UsageError
from pyp2p.errors import printable

_MAX_LINE: Final = 1 << 20  # bytes: a thousand protocols, escaped, take half of it
_MOST_NAMED: Final = 20  # wrong lines that are named: all of a large file may be


@dataclass(slots=True)
class Earlier:
    """What a file of an earlier crawl told: its nodes, the last line of each, and which lines are wrong, and why."""

    nodes: dict[bytes, Found] = field(default_factory=dict)
    wrong: list[tuple[int, str]] = field(default_factory=list)
    wrong_lines: int = 0
    full: bool = False  # there are more nodes than a crawl keeps


def read_nodes(name: str, most: int) -> Earlier:
    """The nodes of an earlier crawl, at most so many. Raises `UsageError` for a file that is none."""
    earlier = Earlier()
    try:
        with Path(name).open("rb") as file:
            for number, line in _lines(file):
                _read(number, line, earlier, most)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) else "not a file name"
        raise UsageError(f"--resume: cannot read {printable(name, 200)}: {why}") from None
    if earlier.wrong_lines and not earlier.nodes:
        number, why = earlier.wrong[0]
        raise UsageError(
            f"--resume: {printable(name, 200)} holds no node of a crawl: line {number}: {why}",
            "Give a file that `discv5 crawl --output` wrote.",
        )
    return earlier


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number, None in place of one that is too long."""
    number = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        if len(line) < _MAX_LINE or line.endswith(b"\n"):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_MAX_LINE)
        yield number, None


def _read(number: int, line: bytes | None, earlier: Earlier, most: int) -> None:
    if line is not None and not line.strip():
        return
    try:
        if line is None:
            raise ValueError(f"it has more than {_MAX_LINE} bytes")
        found = parse_line(line)
    except ValueError as error:
        earlier.wrong_lines += 1
        if len(earlier.wrong) < _MOST_NAMED:
            earlier.wrong.append((number, str(error)))
        return
    if found is None:
        return
    who = found.record.node_id
    if who in earlier.nodes or len(earlier.nodes) < most:
        earlier.nodes[who] = found
    else:
        earlier.full = True


class NodeFile:
    """The file of --output. `error` is why it could not be written; `whole` is for the crawl to set, at its end."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.whole = False

    def write(self, line: str) -> None:
        """One line, unless one before it could not be written."""
        if self.error is None:
            try:
                print(line, file=self._file)
            except OSError as error:
                self.error = error


@contextmanager
def written(name: str, resumed: str | None) -> Iterator[NodeFile]:
    """The file `name` for the length of the block, replaced at once or, if it is `resumed`, at the end when whole.

    Raises `UsageError` when it cannot be opened or put in place.
    """
    place = os.path.realpath(name) if is_same(name, resumed) else None  # the file behind a link: the link stays
    temporary = name if place is None else f"{place}.part"
    try:
        mode = 0o666 if place is None else os.stat(place).st_mode & 0o777
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) else "not a file name"
        raise UsageError(f"cannot write {printable(temporary, 200)}: {why}") from None
    nodes = NodeFile(file := os.fdopen(descriptor, "w", encoding="ascii", buffering=1))
    done = False
    try:
        yield nodes
        done = nodes.whole and nodes.error is None
    finally:
        with suppress(OSError):  # said when the line was written
            file.close()
        if place is not None and not done:
            with suppress(OSError):
                os.unlink(temporary)
    if place is not None and done:
        try:
            os.replace(temporary, place)
        except OSError as error:
            raise UsageError(
                f"cannot replace {printable(name, 200)}: {error.strerror}", f"The nodes are in {printable(temporary)}."
            ) from None


def is_same(name: str | None, other: str | None) -> bool:
    """Whether both names are of one file that is there."""
    if name is None or other is None:
        return False
    try:
        return os.path.samefile(name, other)
    except (OSError, ValueError):
        return False
