"""What a node keeps from one run to the next: its own record, and the nodes that answered last.

Rules: a small regular file of JSON, replaced as a whole; a symbolic link stays one. A file that makes no sense is set
aside and reported, never fatal: a record is made anew then, and its sequence number begins with the time, so that it is
newer than what was lost.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from pyp2p.discv5.enr import SEQ_BITS, Enr
from pyp2p.errors import InvalidEnr, printable
from pyp2p.io import files

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
    try:
        text = files.read_text(path, _MAX_BYTES)
        return State() if text is None else _parse(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        files.set_aside(path, error, logger)
        return State()


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
    record = None if state.record is None else state.record.text
    said = {"version": _VERSION, "record": record, "nodes": [node.text for node in state.nodes[:_MAX_NODES]]}
    files.replace(path, json.dumps(said, indent=1))
