"""The options of all commands: command line, environment, defaults, and what is refused."""

import argparse
import math
from dataclasses import replace

import pytest

from pyp2p.cli import options as table
from pyp2p.cli.failure import UsageError
from pyp2p.cli.main import COMMANDS, build_parser
from pyp2p.cli.options import resolve


def parse(*words: str, environ: dict[str, str] | None = None) -> argparse.Namespace:
    given = build_parser().parse_args(words)
    resolve(given.command.options, given, environ or {})
    return given


def test_defaults() -> None:
    given = parse("ping", "x:1")
    assert (given.count, given.interval, given.timeout, given.json, given.trace, given.verbose) == (
        None,
        1.0,
        None,
        False,
        False,
        0,
    )
    listening = parse("listen")
    assert (listening.addr, listening.protocol, listening.delay, listening.perf) == ([], [], [], False)


def test_the_environment_fills_in_and_the_command_line_wins() -> None:
    environ = {"PYP2P_COUNT": "7", "PYP2P_INTERVAL": "0.5", "PYP2P_JSON": "yes", "PYP2P_VERBOSE": "2", "PYP2P_KEY": ""}
    given = parse("ping", "x:1", "--count", "3", environ=environ)
    assert (given.count, given.interval, given.json, given.verbose, given.key) == (3, 0.5, True, 2, None)


def test_repeated_options_in_the_environment() -> None:
    environ = {"PYP2P_ADDR": "/ip4/1.2.3.4/tcp/1 /ip6/::1/tcp/2", "PYP2P_PROTOCOL": "/a=echo /b=hang"}
    given = parse("listen", environ=environ)
    assert given.addr == ["/ip4/1.2.3.4/tcp/1", "/ip6/::1/tcp/2"]
    assert given.protocol == [("/a", "echo"), ("/b", "hang")]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PYP2P_COUNT", "zero"),
        ("PYP2P_COUNT", "0"),
        ("PYP2P_JSON", "maybe"),
        ("PYP2P_VERBOSE", "very"),
        ("PYP2P_TIMEOUT", "nan"),
        ("PYP2P_TIMEOUT", "-1"),
        ("PYP2P_MUXER", "spdy"),
    ],
)
def test_the_environment_is_checked_and_named(variable: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse("ping", "x:1", environ={variable: value})
    assert variable in caught.value.reason


def test_every_option_has_a_variable_of_its_own_meaning() -> None:
    meanings: dict[str, table.Option] = {}
    for command in COMMANDS:
        for option in command.options:
            assert option.variable.startswith("PYP2P_")
            first = meanings.setdefault(option.variable, option)
            assert replace(option, help=first.help) == first  # in words of its command, perhaps


def test_delays_and_behaviours() -> None:
    given = parse("listen", "--delay", "handshake=2.5", "--delay", "identify=forever", "--protocol", "/x/1=reset")
    assert given.delay == [("handshake", 2.5), ("identify", math.inf)]
    assert given.protocol == [("/x/1", "reset")]


@pytest.mark.parametrize(
    "words",
    [
        ["nosuch"],
        ["key"],
        ["addr"],
        ["identify"],
        ["identify", "a", "b"],
        ["identify", "x", "--time", "1"],
        ["identify", "x", "--timeout"],
        ["identify", "x", "--timeout", "0"],
        ["identify", "x", "--timeout", "inf"],
        ["ping", "x", "--count", "1.5"],
        ["ping", "x", "--count", "9" * 5000],
        ["perf", "x", "--upload", "lots"],
        ["listen", "--port", "65536"],
        ["listen", "--delay", "lunch=1"],
        ["listen", "--delay", "identify=-1"],
        ["listen", "--delay", "identify"],
        ["listen", "--protocol", "echo"],
        ["listen", "--protocol", "/x=sing"],
        ["identify", "x", "\x1b[2J" * 10_000],
    ],
)
def test_what_makes_no_sense_is_refused_in_printable_words(words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*words)
    assert len(caught.value.reason) < 2000
    assert all(" " <= character <= "~" for character in caught.value.reason)


@pytest.mark.parametrize(
    ("words", "there", "absent"),
    [
        (("enr", "make"), "must be given; made (0600) when the file is missing", "Default: a fresh one"),
        (("enr", "make"), "(default: 1)", "one more"),
        (("enr", "update"), "--key FILE identity that signed the record", "made (0600)"),
        (("enr", "update"), "(default: one more than before)", "fresh"),
        *(
            (("discv5", word), "else on every interface", "on 127.0.0.1")
            for word in ("ping", "findnode", "lookup", "talk", "crawl")
        ),
        (("discv5", "listen"), "on 127.0.0.1", "every interface"),
        (("discv5", "listen"), "Default: a fresh one", "must be given"),
    ],
)
def test_help_is_true_of_the_command(
    words: tuple[str, ...], there: str, absent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([*words, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert there in said and absent not in said
