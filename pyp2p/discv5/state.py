"""What a node keeps from one run to the next: its own record, and the nodes that answered last.

Rules: a small file of JSON, replaced as a whole. One that cannot be read is set aside and reported, never fatal: a
record is made anew then, and its sequence number begins with the time, so that it is newer than what was lost.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from pyp2p.discv5.enr import Enr
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
    """What the file holds; nothing when there is none. One that is corrupt is renamed to `NAME.corrupt`."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        return _parse(path.read_text("utf-8"))
    except FileNotFoundError:
        return State()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _set_aside(path, error)
        return State()


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
    return State(Enr.from_text(said["record"]), nodes)


def save(path: Path, state: State) -> None:
    """Replace the file as a whole. Raises `OSError`."""
    record = None if state.record is None else state.record.text
    said = {"version": _VERSION, "record": record, "nodes": [node.text for node in state.nodes[:_MAX_NODES]]}
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "w", encoding="utf-8") as file:
        json.dump(said, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
