"""What a node keeps from one run to the next: its own record, and the nodes that answered last.

Rules: a small regular file of JSON, replaced as a whole; a symbolic link stays one. A file that makes no sense is set
aside and reported, never fatal: a record is made anew then, and its sequence number begins with the time, so that it is
newer than what was lost.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pyp2p.discv5.enr import SEQ_BITS, Enr
from pyp2p.errors import InvalidEnr, printable

logger = logging.getLogger("pyp2p.discv5")

_VERSION = 1
_MAX_BYTES = 4 * 1024 * 1024
_MAX_NODES = 4096


@dataclass(slots=True)
class State:
    """Our own record, None at first, and those of others."""

    record: Enr | None = None
    nodes: list[Enr] = field(default_factory=list)


def load(path: Path) -> State:
    """What the file holds; nothing when there is none. One that is corrupt is renamed to `NAME.corrupt`.

    Raises `OSError` for what cannot be read, or is no regular file, which is not opened at all. Blocks for as long as
    4,096 signatures take.
    """
    path = _resolved(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return State()
    try:
        if len(raw) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        return _parse(raw.decode("utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _set_aside(path, error)
        return State()


def _resolved(path: Path) -> Path:
    """The file that `path` leads to, there or not. Raises `OSError` for a device, a FIFO, a directory and the like."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "a directory, not a regular file", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
    return Path(os.path.realpath(path))


def _set_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(path.name + ".corrupt")
    why = printable(repr(error), 300)
    try:
        os.replace(path, aside)
    except OSError as refused:
        logger.warning("state is corrupt and stays file=%s error=%s refused=%s", path, why, refused)
    else:
        logger.warning("state set aside file=%s error=%s", aside, why)


def _parse(text: str) -> State:
    said = json.loads(text)
    if said["version"] != _VERSION:
        raise ValueError(f"version {printable(repr(said['version']), 60)} instead of {_VERSION}")
    nodes: list[Enr] = []
    for each in said["nodes"][:_MAX_NODES]:
        try:
            nodes.append(Enr.from_text(str(each)))
        except InvalidEnr as error:  # one bad line costs that line
            logger.warning("record left out error=%s", printable(str(error), 300))
    record = Enr.from_text(said["record"])
    if record.seq == (1 << SEQ_BITS) - 1:  # none can be newer
        raise ValueError(f"our record has the last sequence number that there is, {record.seq}")
    return State(record, nodes)


def save(path: Path, state: State) -> None:
    """Replace the file as a whole; it is there for good when this returns. Raises `OSError`."""
    path = _resolved(path)
    record = None if state.record is None else state.record.text
    said = {"version": _VERSION, "record": record, "nodes": [node.text for node in state.nodes[:_MAX_NODES]]}
    fresh = path.with_name(f"{path.name}.new.{os.getpid()}")
    try:
        with open(fresh, "w", encoding="utf-8") as file:
            json.dump(said, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise
    with suppress(OSError):  # some file systems have no such thing, and the file is whole all the same
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
