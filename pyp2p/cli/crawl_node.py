"""A node of a crawl: what became of it, as the line of JSON that tells of it, and read back from such a line.

Rules: pure. A line is text that anybody may have written: whatever in it is not of its form is refused, and its record
is verified like any other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pyp2p.cli import records
from pyp2p.cli.failure import clean
from pyp2p.discv5.enr import Enr, bits
from pyp2p.errors import InvalidEnr, printable
from pyp2p.peer.multibase import hex_of

_OTHER_LINES: Final = ("crawl", "skipped", "error")  # what a crawl says besides, with --json
_MOST: Final = 1e15  # of a number in a line: far above all that a crawl writes


class Status(StrEnum):
    """What became of a node."""

    ANSWERED = "answered"
    NO_ANSWER = "no_answer"
    NO_ENDPOINT = "no_endpoint"  # no UDP address, or of an IP version that we have no socket for
    UNBELIEVED = "unbelieved"  # an address that whoever told of it cannot know
    UNASKED = "unasked"  # the time was over


@dataclass(slots=True)
class Found:
    """One node: who told of it first (None: the user), and what came of it."""

    record: Enr
    told_by: bytes | None
    status: Status = Status.UNASKED
    seconds: float | None = None  # of the first question
    neighbours: int = 0
    error: str | None = None
    walked: bool = False  # it was asked until it told nothing new
    agent: str | None = None
    protocols: list[str] | None = None  # None: it was not identified
    identify_error: str | None = None
    told: bool = False  # it was written

    def as_json(self) -> dict[str, Any]:
        """The fields of `node`."""
        return {
            "status": self.status.value,
            "us": None if self.seconds is None else round(self.seconds * 1e6, 1),
            "neighbours": self.neighbours,
            "walked": self.walked,
            "told_by": None if self.told_by is None else self.told_by.hex(),
            "error": self.error,
            "agent": self.agent,
            "protocols": self.protocols,
            "identify_error": self.identify_error,
            **records.facts(self.record),
        }


@dataclass(frozen=True, slots=True)
class Filter:
    """Which nodes the user wants to see: those of a fork, and of any of these attestation subnets."""

    fork_digest: bytes | None = None
    subnets: Sequence[int] = ()

    @property
    def takes_all(self) -> bool:
        """Whether there is nothing that a node has to be."""
        return self.fork_digest is None and not self.subnets

    def takes(self, record: Enr) -> bool:
        """Whether the record says so; one that says nothing of it does not match."""
        if self.fork_digest is not None and (record.eth2 or b"")[:4] != self.fork_digest:
            return False
        return not self.subnets or not set(self.subnets).isdisjoint(bits(record.attnets or b"", 64))


def parse_line(line: bytes) -> Found | None:
    """The node that a line of a crawl tells of, None for its other lines; `ValueError` says what is wrong with it."""
    try:
        sheet = json.loads(line)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, numbers or nesting without end
        raise ValueError("it is no JSON") from None
    event = sheet.get("event") if isinstance(sheet, dict) else None
    if event in _OTHER_LINES:
        return None
    if event != "node":
        raise ValueError("it tells of no node")
    said = sheet.get("status")
    if said not in list(Status):
        raise ValueError("it has no 'status' of a crawl")
    us = _number(sheet, "us")
    return Found(
        _record(sheet),
        _told_by(sheet),
        Status(said),
        None if us is None else us / 1e6,
        int(_number(sheet, "neighbours") or 0),
        _text(sheet, "error"),
        sheet.get("walked") is not False and said == Status.ANSWERED,  # who left it out asked to the end
        _text(sheet, "agent"),
        _protocols(sheet),
        _text(sheet, "identify_error"),
    )


def _record(sheet: dict[str, Any]) -> Enr:
    try:
        return Enr.from_text(_text(sheet, "enr") or "")
    except InvalidEnr as error:
        raise ValueError(f"not a node record: {clean(str(error))}") from None


def _told_by(sheet: dict[str, Any]) -> bytes | None:
    said = _text(sheet, "told_by")
    teller = None if said is None else hex_of(said)
    if said is not None and (teller is None or len(teller) != 32):
        raise ValueError(f"'told_by' is no node id: '{printable(said, 80)}'")
    return teller


def _protocols(sheet: dict[str, Any]) -> list[str] | None:
    said = sheet.get("protocols")
    if said is not None and not (isinstance(said, list) and all(isinstance(each, str) for each in said)):
        raise ValueError("'protocols' is no list of names")
    return said


def _text(sheet: dict[str, Any], name: str) -> str | None:
    said = sheet.get(name)
    if said is not None and not isinstance(said, str):
        raise ValueError(f"'{name}' is no text")
    return said


def _number(sheet: dict[str, Any], name: str) -> float | None:
    said = sheet.get(name)
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said <= _MOST:
        raise ValueError(f"'{name}' is no number that a crawl writes")
    return said
