"""Examples run as they stand and say what they promise; the pages on limits and failures say what is true."""

import ipaddress
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import pyp2p
from pyp2p.beacon.chainfile import load_chain
from pyp2p.beacon.methods import Methods
from pyp2p.cli.failure import STAGE_CODES, WRONG_PEER
from pyp2p.cli.options import BEHAVIOURS, DELAYED
from pyp2p.muxers.base import MuxerLimits
from pyp2p.reqresp.declare import describe_methods

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MAX_LINES = 70  # an example is read in one go

PEER = r"12D3KooW\w+"
EXPECTED = {
    "echo": r"""
        secured by /noise, multiplexed by /yamux/1\.0\.0
        one -> one
        two -> two
        three -> three
        connections: 1, round trips to connect: 3
    """,
    "chat": r"""
        bob hears: hello
        alice hears: hello to you
        bob hears: how are you\?
        alice hears: reading the specs
        bob hears: \\x1b\[31mred
        alice hears: what\?
        bob reset the stream: the message was announced too long
        the connection stays: 1
    """,
    "gossip": r"""
        taken by 1 peer, expired at 0
        right hears: 21 degrees
        from the left one: True, by way of the middle one: True
        right hears: 22 degrees
        rejected in the middle: 1
        no peer listens to topic nobody listens
    """,
    "gater": r"""
        a blocked peer:
        the dialer sees: failed at identify
        the server tells: gater\.secured, 1 time
        a blocked network:
        the dialer sees: failed at security_select
        the server tells: gater\.accept, 1 time
        more connections from one address than the limit:
        the dialer sees: connected
        the dialer sees: connected
        the dialer sees: failed at security_select
        the server tells: limit\.per_ip4, 1 time
        a dial to a blocked network:
        gater refused at dial: .*192\.0\.2\.1.*
        all that was refused:
        refused\.gater\.secured 1
        refused\.gater\.accept 1
        refused\.limit\.per_ip4 1
        refused\.gater\.dial 1
    """,
    "beacon": r"""
        joined by True
        first news by range
        first news by caught up
        first news by gossip
        its client is pyp2p and it earned credit: True
        blocks in the folder: True
    """,
    "events": r"""
        ListenAddrAdded: /ip4/127\.0\.0\.1/tcp
        Connected: inbound
        Identified: visitor/1, serves news: False
        Identified: visitor/1, serves news: True
        the news: nothing new
        Disconnected: by peer, eof
        ListenAddrRemoved: /ip4/127\.0\.0\.1/tcp
    """,
    "simulate": r"""
        connected after 0\.3\d+ s, echo 0\.1\d+ s, in the partition 8\.1\d+ s
        the same seed, the same run: True
        another seed, the same run: False
    """,
    "adopt": r"""
        adopted: outbound, outbound-proxy, /noise
        addresses remembered of the peer: 0
        echo: over a socket pair
        refused: \w+; descriptor closed: True
    """,
}


def run(name: str, *arguments: str) -> list[str]:
    """The lines that an example prints; stripped, because indentation is only for the eye."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.strip() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_says_what_it_promises(name: str) -> None:
    said, promised = run(name), [line.strip() for line in EXPECTED[name].strip().splitlines()]
    assert len(said) == len(promised), said
    for line, pattern in zip(said, promised, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


def test_the_crawler_visits_its_own_nodes_and_survives_those_that_are_not_there() -> None:
    lines = sorted(run("crawl"))  # they come as the answers come
    assert len(lines) == 4
    assert re.fullmatch(r"/ip4/127\.0\.0\.1/tcp/1  failed at connect: connection refused.*", lines.pop(0))
    found = [re.fullmatch(rf"/ip4/127\.0\.0\.1/tcp/\d+/p2p/({PEER})  ({PEER}) (.*)", line) for line in lines]
    assert all(match is not None and match[1] == match[2] for match in found), lines
    assert sorted(match[3] for match in found if match) == [
        "example-node/1 serves 3 protocols",
        "example-node/2 serves 3 protocols",
        "example-node/3 serves 2 protocols",
    ]


def test_the_crawler_takes_addresses_and_judges_them() -> None:
    assert sorted(run("crawl", "/ip4/127.0.0.1/tcp/1", "/nonsense")) == [
        "/ip4/127.0.0.1/tcp/1  failed at connect: connection refused: nothing listens there",
        "/nonsense  unknown protocol 'nonsense' (at position 1)",
    ]


def test_every_example_is_tested_and_short() -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    assert [path.stem for path in files] == sorted([*EXPECTED, "crawl"])
    for path in files:
        assert len(path.read_text().splitlines()) <= MAX_LINES, path.name


def masked(text: str) -> list[str]:
    """The lines of `text` without what differs in each run: ports, peer ids, times."""
    return [re.sub(r"12D3KooW\w+", "PEER", re.sub(r"tcp/\d{4,5}\b", "tcp/PORT", line)) for line in text.splitlines()]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def run_program(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(*headings: str) -> dict[str, str]:
    """The tables under these headings of docs/limits.md: the default of each field, as it is written."""
    page = (ROOT / "docs/limits.md").read_text()
    found: dict[str, str] = {}
    for heading in headings:
        section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        for name, default in re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE):
            assert name not in found, f"{name} is there twice"
            found[name] = default
    return found


def value(text: str) -> object:
    """What a default in the page stands for."""
    number = re.fullmatch(r"([\d.,]+)(?: (KiB|MiB|s|/s))?", text)
    if number is not None:
        return float(number[1].replace(",", "")) * {"KiB": 1 << 10, "MiB": 1 << 20}.get(number[2], 1)
    return () if text == "none" else tuple(ipaddress.ip_network(part) for part in text.split(", "))


@pytest.mark.parametrize(
    ("config", "headings"),
    [
        (pyp2p.Limits(), ("Limits: connections", "Limits: streams and memory", "Limits: dialling")),
        (MuxerLimits(), ("Muxer limits",)),
        (pyp2p.Timeouts(), ("Timeouts",)),
        (pyp2p.Backoff(), ("Backoff",)),
    ],
    ids=lambda value: type(value).__name__ if is_dataclass(value) else "",
)
def test_the_page_of_limits_has_every_field_with_its_default(config: object, headings: tuple[str, ...]) -> None:
    told = rows(*headings)
    real = {field.name: getattr(config, field.name) for field in fields(config)}
    assert sorted(told) == sorted(real)
    for name, default in real.items():
        if not is_dataclass(default):
            assert value(told[name]) == default, name


def test_the_page_of_limits_shows_the_methods_as_they_are_declared() -> None:
    assert describe_methods(Methods(load_chain("mainnet"))).strip() in (ROOT / "docs/limits.md").read_text()


def test_the_page_of_limits_names_no_refusal_that_does_not_exist() -> None:
    page = (ROOT / "docs/limits.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "pyp2p").glob("switch/*.py"))
    for name in sorted(set(re.findall(r"\blimit\.([a-z_0-9]+)`", page)) - {"x"}):
        assert f'"{name}"' in source, name


def test_the_programs_in_the_page_of_limits_run_and_say_what_is_shown() -> None:
    change, see = blocks("limits.md", "python")
    assert run_program(change) == ""
    (shown,) = blocks("limits.md", "text")
    said = masked(run_program(see))
    for line in masked(shown):
        assert line in said


# --- docs/debug-a-dial.md

COMMAND = [sys.executable, "-m", "pyp2p"]
PLAIN = {name: text for name, text in os.environ.items() if not name.startswith(("PYP2P_", "FORCE_COLOR"))}


def command(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command, what it says on standard error last."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=PLAIN | {"COLUMNS": "80"},
    )
    return done.returncode, done.stdout + done.stderr


@contextmanager
def listening(*arguments: str) -> Iterator[str]:
    """The address (without id) of a `pyp2p listen` that runs for the length of the block."""
    with subprocess.Popen(
        [*COMMAND, "listen", "--seed", "1", "--json", *arguments],
        stdin=subprocess.PIPE,  # its end ends the listener
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=PLAIN,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["addresses"][0].partition("/p2p/")[0]
        finally:
            process.stdin.close()
            process.stdout.read()


def steps(text: str) -> list[list[str]]:
    """The cells of a trace without times and ports, and without the bytes of identify: it depends on who asks first."""
    found = []
    for line in text.partition("step  ")[2].partition("\n\n")[0].splitlines()[1:]:
        cells = re.sub(r"(tcp|udp)/\d+", r"\1/PORT", re.sub(r" \d+\.\d\b", " T", line)).split()
        found.append(cells[:-2] if cells[0] == "identify" else cells)
    return found


def shown(start: str) -> str:
    """The text block of the page that begins so."""
    (block,) = [block for block in blocks("debug-a-dial.md", "text") if block.startswith(start)]
    return block.partition("\n")[2] if start.startswith("$") else block


def test_the_stages_in_the_page_are_those_of_a_dial_with_their_exit_codes() -> None:
    page = (ROOT / "docs/debug-a-dial.md").read_text()
    told = re.findall(r"^\| `(\w+)` \| [^|]* \| (\d+)(?:; (\d+) .*)? \|$", page, re.MULTILINE)
    assert [(name, int(code)) for name, code, _ in told] == [(s.value, STAGE_CODES[s]) for s in pyp2p.Stage]
    assert [int(other) for _, _, other in told if other] == [WRONG_PEER]


def test_the_refused_dial_in_the_page_is_real() -> None:
    code, said = command("identify", "/ip4/127.0.0.1/tcp/1")
    assert (code, said) == (11, shown("$ pyp2p identify /ip4/127.0.0.1/tcp/1\n"))


def test_the_trace_in_the_page_is_real() -> None:
    with listening() as address:
        code, said = command("identify", address, "--trace")
    assert code == 0
    real = steps(said)
    assert len(real) == 7 and real == steps(shown("step"))


def test_the_trace_of_quic_in_the_page_is_real() -> None:
    with listening("--transport", "quic") as address:
        code, said = command("identify", address, "--trace")
    assert code == 0
    page = shown("$ pyp2p identify /ip4/127.0.0.1/udp/4001/quic-v1 --trace\n")
    # Without the bytes: how many datagrams a handshake takes is a matter of when they come.
    real, told = ([cells[: cells.index("T")] for cells in steps(text)] for text in (said, page))
    assert len(real) == 4 and real == told


def test_the_failed_trace_in_the_page_is_real() -> None:
    with listening("--muxer", "mplex") as address:
        code, said = command("identify", address, "--muxer", "yamux", "--trace")
    assert code == 14
    page = shown("$ pyp2p identify 127.0.0.1:4006")
    real = steps(said)
    assert len(real) == 7 and real == steps(page)
    unwrapped = " ".join(said.partition("\n\n")[2].split())  # where lines break depends on the length of the port
    assert masked(unwrapped) == masked(" ".join(page.partition("\n\n")[2].split()))


def test_the_programs_about_failures_run_and_say_what_is_shown() -> None:
    attempts, force, misbehaving = blocks("debug-a-dial.md", "python")
    said, page = (re.sub(r"in [\d.]+ s", "in T s", text) for text in (run_program(attempts), shown("connect NoAddr")))
    assert said == page
    assert run_program(f"import pyp2p\n{force}") == ""
    assert run_program(misbehaving) == shown("handshake: a handshake message")


def test_the_json_in_the_page_is_real() -> None:
    code, said = command("identify", "/ip4/127.0.0.1/tcp/1", "--json")
    real, told = json.loads(said), json.loads(shown("$ pyp2p identify /ip4/127.0.0.1/tcp/1 --json"))
    for line in (real, told):
        for step in line["attempts"][0]["trace"]:
            step["ms"] = 0
    assert code == 11 and real == told


def test_the_page_names_what_listen_can_do_wrong_and_loggers_that_exist() -> None:
    page = (ROOT / "docs/debug-a-dial.md").read_text()
    delays = page.partition("`--delay` knows")[2].partition("\n")[0]
    assert set(DELAYED) <= set(re.findall(r"`(\w+)`", delays))
    assert all(re.search(rf"\b{behaviour}\b", page) for behaviour in BEHAVIOURS)
    source = "".join(path.read_text() for path in (ROOT / "pyp2p").rglob("*.py"))
    loggers = re.findall(r"^\| `(pyp2p\.\w+)` \|", page, re.MULTILINE)
    assert loggers and all(f'getLogger("{name}")' in source for name in loggers)
