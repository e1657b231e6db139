"""`pyp2p addr explain`: what an address or a peer id says, part by part."""

from __future__ import annotations

import argparse

from pyp2p.cli import render
from pyp2p.cli.explain import (
    Explained,
    explain_address,
    explain_address_bytes,
    explain_peer,
    explain_peer_text,
    peer_of,
)
from pyp2p.cli.failure import OK, USAGE, UsageError
from pyp2p.cli.output import Output
from pyp2p.cli.target import parse_target
from pyp2p.errors import printable
from pyp2p.peer.multibase import hex_of

_MAX_TEXT = 4096
_BEFORE_CARET = 60  # characters of a long text that are shown on both sides of the place of a problem


def explain(options: argparse.Namespace, out: Output) -> int:
    """Run the command."""
    given = options.text.strip()
    if len(given) > _MAX_TEXT:
        raise UsageError(f"a text of {len(given)} characters: at most {_MAX_TEXT} are read")
    found = _explained(given)
    return show("address", given, found, out)


def _explained(given: str) -> Explained:
    if given.startswith("/"):
        return explain_address(given)
    peer = peer_of(given)
    if peer is not None:
        return explain_peer(peer)
    raw = hex_of(given)
    if raw is not None:
        return explain_address_bytes(raw)
    if ":" in given and "://" not in given:
        return explain_address(str(parse_target(given)))
    return explain_peer_text(given)


def show(event: str, given: str, found: Explained, out: Output) -> int:
    """Print what was explained; the exit code says whether all of it decoded."""
    parts = [part.as_json() for part in found.parts]
    if found.problem is not None:
        facts = {
            "stage": "usage",
            "reason": found.problem,
            "advice": "",
            "code": USAGE,
            "position": found.position,
            "attempts": [],
            "kind": found.kind,
            "parts": parts,
        }
        out.emit("error", facts, [*_part_lines(found, out), *_problem_lines(given, found, out)])
        return USAGE
    rows = [("kind", found.kind), *((name.replace("_", " "), value) for name, value in found.facts.items())]
    out.emit(
        event,
        {"kind": found.kind, **found.facts, "parts": parts},
        [*render.fields(rows, out.style), "", *_part_lines(found, out)],
    )
    return OK


def _part_lines(found: Explained, out: Output) -> list[str]:
    rows = [
        [str(part.position), part.name, _cut(part.value, 60), _cut(part.raw.hex(), 24), part.meaning]
        for part in found.parts
    ]
    return out.table(("at", "part", "value", "bytes", "meaning"), rows, (0,)) if rows else []


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 2] + ".."


def _problem_lines(given: str, found: Explained, out: Output) -> list[str]:
    """The reason, and a caret under the character it is about."""
    lines = [""] if found.parts else []
    at = found.position
    where = "" if at is None else f" (at position {at})"
    lines.append(f"{out.style.bad('not a ' + found.kind)}: {found.problem}{where}")
    if at is not None and given and given.isascii() and given.isprintable() and at <= len(given):
        start = max(at - _BEFORE_CARET, 0)
        shown = given[start : at + _BEFORE_CARET]
        lines += ["", f"  {printable(shown, 200)}", "  " + " " * (at - start) + out.style.bad("^")]
    return lines
