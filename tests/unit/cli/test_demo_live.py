"""The live view of the demonstration: lines above, all nodes below, the terminal as it was afterwards."""

import io

import pytest
from rich.console import Console

from pyp2p.cli.demo_live import LiveScreen, open_screen
from pyp2p.cli.demo_story import Story
from pyp2p.cli.output import Output

OUT = Output(as_json=False, stdout=None, stderr=None, environ={})


def test_lines_scroll_by_above_the_nodes_and_markup_is_none() -> None:
    written = io.StringIO()
    story = Story(2, 0.0)
    screen = LiveScreen(OUT, story, Console(file=written, force_terminal=True, width=120, color_system=None))
    with screen.live:
        story.waiting = "both found [bold]each other"
        screen.show(["  1.00 s  node 1  [red]here", "  1.10 s  node 2  there"])
        shown = written.getvalue()
    line, view = shown.index("node 1  [red]here"), shown.rindex("next: both found [bold]each other")
    assert line < shown.index("node 2  there") < view
    assert "starts" in shown
    assert "until all had it" in shown


def test_before_the_first_expectation_nothing_is_next() -> None:
    written = io.StringIO()
    screen = LiveScreen(OUT, Story(1, 0.0), Console(file=written, force_terminal=True, width=120, color_system=None))
    with screen.live:
        screen.show([])
    assert "next" not in written.getvalue()


def test_the_view_is_gone_afterwards(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with open_screen(OUT, Story(1, 0.0)) as screen:
        screen.show(["a line"])
    said = capsys.readouterr().out
    assert said.index("\x1b[?25l") < said.index("a line") < said.index("\x1b[?25h")  # the cursor hides, and is back
