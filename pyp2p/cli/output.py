"""Where results, errors, progress and logs go.

Rules: with `--json` each result is one object a line on standard output, errors too; otherwise readable text, errors on
standard error. A live line only on a terminal, logs only on standard error. Text of others arrives here escaped
(render.py, json). A reader that goes away ends the command quietly.
"""

from __future__ import annotations

import io
import json
import logging
import os
import select
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from pyp2p.cli import render
from pyp2p.cli.failure import CommandFailed, UsageError
from pyp2p.cli.render import Style
from pyp2p.errors import printable

SCHEMA = 1
_MAX_WIDTH = 100
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Output:
    """One command's way to talk. `gone` is True once nobody reads standard output any more."""

    def __init__(
        self, *, as_json: bool, stdout: TextIO | None, stderr: TextIO | None, environ: Mapping[str, str]
    ) -> None:
        self.as_json = as_json
        self.gone = False
        self.failed = False  # the result could not be written
        self.on_gone: Callable[[], None] = lambda: None
        self._out = stdout
        self._rest = memoryview(b"")  # of what was offered
        self._err = stderr
        self.style = Style(not as_json and _wants_color(stdout, environ))
        self._error_style = Style(not as_json and _wants_color(stderr, environ))
        self.live = not as_json and _is_terminal(stderr) and environ.get("TERM") != "dumb"
        # That the whole of standard output may be drawn on, by commands that have a view of their own.
        self.screen = not as_json and _is_terminal(stdout) and environ.get("TERM") != "dumb"
        self._status: Callable[[], str] | None = None
        self._drawn = False

    # --- results

    def emit(self, event: str, facts: Mapping[str, Any], lines: Sequence[str] = ()) -> None:
        """One result: an object in JSON, otherwise `lines`. Waits for a reader that is slow: see `stdout.emit`."""
        if self.as_json:
            self._write(json_line(event, facts))
        elif lines:
            self._write("\n".join(lines))

    def write_line(self, line: str) -> None:
        """A result that is a line of JSON without `--json` as well, from `json_line`."""
        self._write(line)

    def offer(self, event: str, facts: Mapping[str, Any], lines: Sequence[str] = ()) -> None:
        """One result as by `emit`, which `push` writes."""
        out = self._out
        if out is None or _descriptor(out) is None:
            self.emit(event, facts, lines)
        elif self.as_json or lines:
            said = json_line(event, facts) if self.as_json else "\n".join(lines)
            encoded = f"{said}\n".encode(out.encoding, out.errors or "strict")
            self._rest = memoryview(bytes(self._rest) + encoded)

    def push(self) -> int | None:
        """Write what was offered for as long as that takes no wait: None when all is written, else what to wait for."""
        out = self._out
        while self._rest and not self.gone and out is not None:
            self._erase()
            descriptor = out.fileno()
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            if not poll.poll(0):
                return descriptor
            with self._told_of_its_end():
                self._rest = self._rest[os.write(descriptor, self._rest[: select.PIPE_BUF]) :]
        return None

    def fail(self, failure: CommandFailed, command: str = "") -> None:
        """Show why the command failed."""
        self.status(None)
        if self.as_json:
            self._write(json_line("error", failure.as_json()))
            return
        head = "pyp2p" if not command else f"pyp2p {command}"
        style = self._error_style
        if isinstance(failure, UsageError):
            first = f"{head}: {failure.reason}"
        else:
            first = f"{head}: failed at {failure.stage}. {failure.reason}"
        lines = _wrap(f"{first.rstrip('.')}. {failure.advice}".rstrip())
        lines[0] = style.bad(lines[0][: len(head) + 1]) + lines[0][len(head) + 1 :]
        others = failure.attempts if len(failure.attempts) > 1 else []
        lines += [f"  {attempt.address}: at {attempt.stage.value}: {attempt.reason}" for attempt in others]
        self.error("\n".join(lines))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
        """The lines of a table."""
        return render.table(head, rows, self.style, right)

    def trace(self, steps: Sequence[Mapping[str, object]]) -> list[str]:
        """The lines of a step table, none without steps."""
        return self.table(render.TRACE_HEAD, render.trace_rows(steps), render.TRACE_RIGHT) if steps else []

    def error(self, text: str) -> None:
        """Text for people on standard error."""
        if self._err is not None:
            try:
                print(text, file=self._err, flush=True)
            except OSError:
                self._err = None

    def _write(self, text: str) -> None:
        self._erase()
        if self.gone or self._out is None:
            return
        with self._told_of_its_end():
            while self._rest:  # a wait for the reader was cancelled
                self._rest = self._rest[os.write(self._out.fileno(), self._rest) :]
            print(text, file=self._out, flush=True)

    @contextmanager
    def _told_of_its_end(self) -> Iterator[None]:
        """Writing fails once: nothing is written after that, and the command is told."""
        try:
            yield
        except BrokenPipeError:
            self.gone = True
            self.on_gone()
        except OSError as error:  # a full disk, for one: nobody gets the result
            self.gone = self.failed = True
            self.error(f"pyp2p: cannot write to standard output: {error.strerror}")
            self.on_gone()

    # --- the live line

    def status(self, text: Callable[[], str] | None) -> None:
        """What goes on now, asked for at each `redraw`; None ends it."""
        self._status = text
        if text is None:
            self._erase()
        else:
            self.redraw()

    def redraw(self) -> None:
        """Draw the live line again."""
        if self.live and self._status is not None and self._err is not None:
            width = shutil.get_terminal_size().columns - 1
            self._err.write("\r\x1b[K" + self._error_style.dim(self._status()[:width]))
            self._err.flush()
            self._drawn = True

    def _erase(self) -> None:
        if self._drawn and self._err is not None:
            self._drawn = False
            self._err.write("\r\x1b[K")
            self._err.flush()


def json_line(event: str, facts: Mapping[str, Any]) -> str:
    """One line of JSON, ASCII without control characters, the delete character included."""
    line = json.dumps({"schema": SCHEMA, "event": event, **facts}, ensure_ascii=True, allow_nan=False)
    return line.replace("\x7f", "\\u007f")


def prepare_streams() -> None:
    """Characters that the locale cannot show are escaped instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def forget_stdout() -> None:
    """Point standard output at nothing, so that its last flush at exit does not complain."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    except (OSError, ValueError, AttributeError):
        return


class _LogHandler(logging.StreamHandler[TextIO]):
    """Ours, so that it is there once."""


def configure_logs(verbose: int, rules: str) -> None:
    """Logs of `pyp2p.*` on standard error: `verbose` 0 warnings, 1 info, 2 debug; `rules` like `switch=debug,*=info`.

    Raises `UsageError` for rules that make no sense.
    """
    root = logging.getLogger("pyp2p")
    if not any(isinstance(handler, _LogHandler) for handler in root.handlers):
        handler = _LogHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
        root.addHandler(handler)
        root.propagate = False
    root.setLevel([logging.WARNING, logging.INFO, logging.DEBUG][max(0, min(verbose, 2))])
    for rule in filter(None, (part.strip() for part in rules.split(","))):
        name, equals, level = rule.rpartition("=")
        if level.lower() not in _LEVELS:
            names = ", ".join(_LEVELS)
            raise UsageError(f"PYP2P_LOG: '{printable(rule, 60)}' is no NAME=LEVEL with a level of {names}")
        everything = not equals or name in ("*", "pyp2p")
        logger = root if everything else logging.getLogger(name if name.startswith("pyp2p.") else f"pyp2p.{name}")
        logger.setLevel(_LEVELS[level.lower()])


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # not of the system, or closed
        return None


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _wants_color(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR") not in (None, "", "0"):
        return True
    return _is_terminal(stream) and environ.get("TERM") != "dumb"


def _wrap(text: str) -> list[str]:
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH)
    return textwrap.wrap(text, max(width, 40), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
