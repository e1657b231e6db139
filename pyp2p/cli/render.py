"""Facts as aligned text: fields, tables, sizes, durations. Pure.

Rules: everything is ASCII, so that it looks the same in any locale; remote text comes in raw and leaves escaped. Colour
is added after the padding and only by `Style`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyp2p.errors import printable

MAX_LIST = 100  # values of one field that are shown: a peer may name a thousand protocols
MAX_CELL = 300  # characters of one remote value
_RESET = "\x1b[0m"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_SIZE = re.compile(r"(\d{1,20})(?:\.(\d{1,9}))?\s*(?:([kmgt])(i?))?b?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Style:
    """Colours, or none."""

    color: bool = False

    def dim(self, text: str) -> str:
        """For labels and what matters less."""
        return self._paint("2", text)

    def bold(self, text: str) -> str:
        """For headings."""
        return self._paint("1", text)

    def good(self, text: str) -> str:
        """For what went well."""
        return self._paint("32", text)

    def bad(self, text: str) -> str:
        """For what failed."""
        return self._paint("31", text)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}{_RESET}" if self.color and text else text


def fields(rows: Sequence[tuple[str, object]], style: Style) -> list[str]:
    """Lines `label  value`; a list is one value a line, None is left out. Values are remote text until escaped here."""
    width = max((len(label) for label, _ in rows), default=0)
    lines = []
    for label, value in rows:
        if value is None:
            continue
        values = [str(each) for each in value] if isinstance(value, (list, tuple)) else [str(value)]
        shown = [printable(each, MAX_CELL) or "-" for each in values[:MAX_LIST]]
        if len(values) > MAX_LIST:
            shown.append(f"... and {len(values) - MAX_LIST} more (--json shows all)")
        for position, each in enumerate(shown or ["-"]):
            head = style.dim(label.ljust(width)) if position == 0 else " " * width
            lines.append(f"{head}  {each}".rstrip())
    return lines


def table(head: Sequence[str], rows: Sequence[Sequence[str]], style: Style, right: Collection[int] = ()) -> list[str]:
    """An aligned table; the columns in `right` are aligned to the right. Cells are escaped here."""
    cells = [[printable(cell, MAX_CELL) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(head), *cells]) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(padded).rstrip()

    return [style.dim(line(head)), *(line(row) for row in cells)]


def trace_rows(steps: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The cells of a trace (`Trace.as_json()`), below `TRACE_HEAD`: steps, and the flights inside them."""
    rows = []
    for step in steps:
        sizes = [str(step["bytes_out"]), str(step["bytes_in"])]
        rows.append([step["stage"], step["detail"], f"{step['at_ms']:.1f}", f"{step['ms']:.1f}", *sizes])
        for flight in step["flights"]:
            out, came = flight.get("out"), flight.get("in")
            sizes = [str(out or ""), str(came or "")]
            rows.append(["", "- sent" if out else "- received", f"{flight['ms']:.1f}", "", *sizes])
    return rows


TRACE_HEAD = ("step", "detail", "at ms", "took ms", "sent", "received")
TRACE_RIGHT = (2, 3, 4, 5)


def duration(seconds: float) -> str:
    """`850 us`, `2.8 ms`, `1.25 s`."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"


def size(count: float) -> str:
    """`512 B`, `64 MB`, `1.07 GB` (powers of 1000)."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    digits = f"{count:.3g}" if count < 100 else f"{count:.0f}"
    return f"{digits} {_UNITS[unit]}"


def rate(count: int, seconds: float) -> str:
    """`491 MB/s`; `-` when nothing was moved."""
    return f"{size(count / seconds)}/s" if count and seconds > 0 else "-"


def parse_size(text: str) -> int:
    """Bytes of `64MB` (millions), `1GiB` (powers of 1024), `1.5k` or `4096`. Raises `ValueError`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"'{printable(text, 40)}' is no size like 64MB, 1GiB or 4096")
    whole, fraction, unit, binary = found.groups()
    factor: int = (1024 if binary else 1000) ** (" kmgt".index(unit.lower()) if unit else 0)
    count = int(whole) * factor
    if fraction:
        count += int(fraction) * factor // 10 ** len(fraction)
    if count >= 1 << 64:
        raise ValueError(f"{printable(text, 40)} does not fit in 64 bits")
    return count
