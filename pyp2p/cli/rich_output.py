"""Tables drawn by rich, for colour terminals where it is installed (the extra `cli`): cells fold when space is short.

Rules: it changes how a table looks, nothing that it says. Cells are escaped as everywhere and never read as markup.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyp2p.cli.output import Output
from pyp2p.cli.render import MAX_CELL
from pyp2p.errors import printable


class RichOutput(Output):
    """`Output` with rich tables."""

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
        """The lines of a table, in colour."""
        grid = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column, name in enumerate(head):
            style = "cyan" if column == 0 and column not in right else None
            grid.add_column(Text(name), justify="right" if column in right else "left", style=style, overflow="fold")
        for row in rows:
            grid.add_row(*[Text(printable(cell, MAX_CELL)) for cell in row])
        width = max(shutil.get_terminal_size().columns, 40)
        console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=width)
        with console.capture() as captured:
            console.print(grid)
        return [line.rstrip() for line in captured.get().splitlines()]
