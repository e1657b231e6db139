"""Where lines go: JSON and text, colour, the live line, readers that go away."""

import io
import json
import logging
import os
import re
from typing import TextIO

import pytest

from pyp2p.cli.failure import CommandFailed, UsageError
from pyp2p.cli.output import Output, configure_logs, json_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def output(
    *, as_json: bool = False, out: TextIO | None = None, err: io.StringIO | None = None, **environ: str
) -> Output:
    return Output(as_json=as_json, stdout=out, stderr=err, environ=environ)


def test_json_results_and_errors_go_to_standard_output_with_schema_and_event() -> None:
    out, err = io.StringIO(), io.StringIO()
    talk = output(as_json=True, out=out, err=err)
    talk.emit("identify", {"agent": "x"}, ["never"])
    talk.fail(CommandFailed("connect", 11, "refused", "try again"))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines[0] == {"schema": 1, "event": "identify", "agent": "x"}
    assert lines[1]["event"] == "error"
    assert {"stage", "reason", "attempts"} <= lines[1].keys()
    assert not err.getvalue()


def pipe() -> tuple[int, io.TextIOWrapper]:
    reading, writing = os.pipe()
    return reading, os.fdopen(writing, "w", encoding="utf-8", newline="\n")


def test_what_is_offered_is_written_as_far_as_somebody_reads_and_the_rest_before_anything_else() -> None:
    reading, out = pipe()
    talk = output(out=out)
    with out, os.fdopen(reading, encoding="utf-8") as reader:
        talk.offer("message", {}, ["small"])
        assert talk.push() is None
        assert reader.readline() == "small\n"
        talk.offer("message", {}, ["x" * 200_000])
        assert talk.push() == out.fileno()  # a pipe holds 64 KiB
        found = os.read(reading, 200_000)
        while talk.push() is not None:
            found += os.read(reading, 200_000)
        found += os.read(reading, 200_000)
        assert found == b"x" * 200_000 + b"\n"
        talk.offer("message", {}, ["\u00e9"])
        talk.emit("totals", {}, ["end"])
        assert [reader.readline(), reader.readline()] == ["\u00e9\n", "end\n"]


def test_what_is_offered_to_nobody_ends_quietly() -> None:
    reading, out = pipe()
    talk = output(out=out)
    os.close(reading)
    with out:
        talk.offer("message", {}, ["x"])
        assert talk.push() is None
    assert talk.gone
    assert not talk.failed


def test_what_is_offered_to_what_is_no_file_is_written_at_once() -> None:
    out = io.StringIO()
    talk = output(out=out, as_json=True)
    talk.offer("message", {"size": 1})
    assert talk.push() is None
    assert json.loads(out.getvalue())["size"] == 1


def test_errors_in_text_go_to_standard_error() -> None:
    out, err = io.StringIO(), io.StringIO()
    talk = output(out=out, err=err)
    talk.fail(UsageError("this makes no sense", "Do that"), "ping")
    talk.emit("ping", {}, ["a", "b"])
    assert err.getvalue() == "pyp2p ping: this makes no sense. Do that\n"
    assert out.getvalue() == "a\nb\n"


@pytest.mark.parametrize(
    ("environ", "terminal", "colour"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colour(environ: dict[str, str], terminal: bool, colour: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    assert output(out=stream, err=io.StringIO(), **environ).style.color == colour
    assert not output(as_json=True, out=stream, err=io.StringIO(), **environ).style.color


def test_the_live_line_is_drawn_on_terminals_only_and_erased_before_results() -> None:
    terminal, plain = Terminal(), io.StringIO()
    for err in (terminal, plain):
        talk = output(out=io.StringIO(), err=err, NO_COLOR="1")
        talk.status(lambda: "working")
        talk.redraw()
        talk.emit("done", {}, ["x"])
        talk.status(None)
    assert terminal.getvalue() == "\r\x1b[Kworking\r\x1b[Kworking\r\x1b[K"
    assert not plain.getvalue()


def test_a_reader_that_went_away_ends_the_command_quietly() -> None:
    called = []
    err = io.StringIO()
    talk = output(out=Gone(), err=err)
    talk.on_gone = lambda: called.append(True)
    talk.emit("x", {}, ["1"])
    talk.emit("x", {}, ["2"])
    assert talk.gone
    assert called == [True]
    assert not err.getvalue()


def test_closed_streams_are_no_problem() -> None:
    talk = output()
    talk.emit("x", {}, ["1"])
    talk.fail(UsageError("no"))
    talk.status(lambda: "x")


@pytest.mark.parametrize("text", ["\x1b[2J\x07\r\x00", "\u202ertl", "\ud800 lone", "\x7f\x9b", "ünïcödé"])
def test_hostile_048_json_is_printable_ascii_and_says_the_same(text: str) -> None:
    line = json_line("identify", {"agent": text})
    assert all(" " <= character <= "~" for character in line)
    assert json.loads(line)["agent"] == text


def test_logs_by_verbosity_and_rules() -> None:
    root = logging.getLogger("pyp2p")
    there = list(root.handlers)
    configure_logs(0, "")
    assert root.level == logging.WARNING
    configure_logs(1, "noise=debug,*=error, pyp2p.switch=INFO")
    assert root.level == logging.ERROR
    assert logging.getLogger("pyp2p.noise").level == logging.DEBUG
    assert logging.getLogger("pyp2p.switch").level == logging.INFO
    configure_logs(5, "debug")
    assert root.level == logging.DEBUG
    assert len([handler for handler in root.handlers if handler not in there]) == 1
    with pytest.raises(UsageError):
        configure_logs(0, "noise=loud")


def test_tables_of_rich_say_the_same_in_colour() -> None:
    rows = [["connect", "[red]/ip4/1.2.3.4[/red]\x1b[2J", "12.5"], ["", "x", "1"]]
    rich = pytest.importorskip("pyp2p.cli.rich_output")
    painted = rich.RichOutput(as_json=False, stdout=Terminal(), stderr=None, environ={})
    plain = [line.split() for line in output().table(("step", "detail", "ms"), rows, (2,))]
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in painted.table(("step", "detail", "ms"), rows, (2,))]
    assert [line.split() for line in lines] == plain
