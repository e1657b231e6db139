"""The demonstration on a terminal, drawn by rich (the extra `cli`): what happens scrolls by above the nodes at work.

Rules: it changes where things stand, nothing that is said. Texts are escaped by those who make them, and never markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pyp2p.cli import demo_text
from pyp2p.cli.demo_story import Story
from pyp2p.cli.output import Output

_BLOCKS = 6  # newest ones that are shown


class LiveScreen:
    """A live view of a story."""

    def __init__(self, out: Output, story: Story, console: Console) -> None:
        self._out = out
        self._story = story
        self.live = Live(console=console, auto_refresh=False, transient=True, get_renderable=self._view)

    def show(self, lines: Sequence[str]) -> None:
        """Print lines above the view, and draw it again."""
        for line in lines:
            self.live.console.print(Text.from_ansi(line), soft_wrap=True)
        self.live.refresh()

    def _view(self) -> RenderableType:
        story, table = self._story, self._out.table
        both = Table.grid(padding=(0, 6, 0, 0))
        both.add_row(_text(demo_text.nodes_now(story, table)), _text(demo_text.blocks_now(story, _BLOCKS, table)))
        whole = Table.grid()
        whole.add_row(Rule(style="dim"))
        whole.add_row(both)
        whole.add_row(Text(f"next: {story.waiting}" if story.waiting else "", style="dim"))
        return whole


def _text(lines: Sequence[str]) -> Text:
    return Text.from_ansi("\n".join(lines))


@contextmanager
def open_screen(out: Output, story: Story) -> Iterator[LiveScreen]:
    """A view on standard output, for the length of the block; after it the terminal is as it was."""
    screen = LiveScreen(out, story, Console(file=sys.stdout, highlight=False))
    with screen.live:
        yield screen
