"""The house rules that a program can check, read from the syntax trees of all files (docs/architecture.md says why).

Everything is pure unless it is named here: a new file that awaits, or reads a clock, is a decision and a line below.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 600

# Imports go down only, and never to another room of the same level.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("trace", "platform"),
    ("errors",),
    ("io",),
    ("peer",),
    ("multistream", "transports", "security", "muxers"),
    ("identify", "protocols", "quic"),
    ("switch",),
    ("pubsub", "discv5", "reqresp"),
    ("dialer",),
    ("beacon",),
    ("testing",),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Below, and still not to be known.
STRANGERS = {"discv5": ("switch", "multistream", "transports", "security", "muxers", "identify", "protocols")}
SURFACE = "__init__"  # pyp2p/__init__.py gathers what is public from everywhere, lazily
MAY_USE_SURFACE = ("cli", "testing", "__main__")

# Files that await. Everything else is synchronous.
AWAITING = {
    "beacon/book.py",
    "beacon/clock.py",
    "beacon/exchange.py",
    "beacon/follow.py",
    "beacon/gossip.py",
    "beacon/handshakes.py",
    "beacon/joining.py",
    "beacon/network.py",
    "beacon/peering.py",
    "beacon/upkeep.py",
    "beacon/scrape.py",
    "io/guard.py",
    "io/handshake.py",
    "io/hub.py",
    "io/messages.py",
    "io/stream.py",
    "io/udp.py",
    "transports/base.py",
    "transports/dns.py",
    "transports/memory.py",
    "transports/pipe.py",
    "transports/tcp.py",
    "transports/ws.py",
    "identify/service.py",
    "protocols/echo.py",
    "protocols/perf.py",
    "protocols/ping.py",
    "dialer/service.py",
    "discv5/candidates.py",
    "discv5/service.py",
    "pubsub/dialing.py",
    "pubsub/link.py",
    "pubsub/publication.py",
    "pubsub/service.py",
    "pubsub/subscription.py",
    "pubsub/validation.py",
    "quic/base.py",
    "quic/endpoint.py",
    "quic/transport.py",
    "reqresp/answer.py",
    "reqresp/service.py",
    "switch/accept.py",
    "switch/connecting.py",
    "switch/connection.py",
    "switch/dialing.py",
    "switch/establish.py",
    "switch/events.py",
    "switch/handlers.py",
    "switch/outbound.py",
    "switch/stream.py",
    "switch/switch.py",
    "switch/upgrade.py",
    "switch/writer.py",
}
AWAITING_ROOMS = ("cli", "testing")
# Files that await nothing and yet touch the world, with the reason.
WORLDLY = {
    "beacon/folder.py": "is a folder of files",
    "beacon/chainfile.py": "reads files",
    "discv5/state.py": "is a file",
    "beacon/book_file.py": "is a file",
    "beacon/local.py": "is a folder",
    "io/files.py": "is a few files",
    "peer/keyfile.py": "is a file",
    "platform.py": "is the world: the default clock, choices and entropy",
    "transports/webcert.py": "makes certificates of today, which Python's TLS reads from files",
    "transports/interfaces.py": "asks the system for its interface addresses",
}
LAZY_IMPORTS = {"__init__.py", "cli/main.py"}  # the surface (PEP 562) and --help, which import no trio
CATCHES_EXCEPTION = {"io/guard.py", "switch/handlers.py"}  # where an application's code ends

BANNED_IN_PURE = {
    *("asyncio", "outcome", "trio"),
    *("multiprocessing", "os", "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading"),
    *("secrets", "time"),
    "logging.handlers",
}
CLOCKS = {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")}


class Source:
    """One file of the package: its path below pyp2p/, its room, its tree."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text, self.tree = path, text, ast.parse(text)
        self.room = path.split("/", maxsplit=1)[0].removesuffix(".py")

    @property
    def pure(self) -> bool:
        return self.path not in AWAITING | WORLDLY.keys() and self.room not in AWAITING_ROOMS

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of each import; `from a.b import c` gives `a.b.c`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (
                    (node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names
                )


Complaints = Iterator[tuple[int, str]]


def imports_go_down(source: Source) -> Complaints:
    for line, name in source.imports():
        if name.startswith("."):
            yield line, "relative import"
        if name.split(".")[0] != "pyp2p" or source.room == SURFACE:
            continue
        parts = name.split(".")
        target = parts[1] if len(parts) > 1 and parts[1] in LEVEL else SURFACE
        if target == SURFACE:
            if source.room not in MAY_USE_SURFACE:
                yield line, f"imports the public surface ({name})"
        elif source.room not in LEVEL:
            yield line, f"room {source.room} has no level"
        elif target in STRANGERS.get(source.room, ()):
            yield line, f"{source.room} must not know {target}"
        elif target != source.room and LEVEL[target] >= LEVEL[source.room]:
            yield line, f"{source.room} imports {target}, which is not below it"


def pure_files_touch_nothing(source: Source) -> Complaints:
    if not source.pure:
        return
    for line, name in source.imports():
        if any(name == banned or name.startswith(banned + ".") for banned in BANNED_IN_PURE):
            yield line, f"pure file imports {name}"
        if name.startswith("random.") and name != "random.Random":
            yield line, f"pure file imports {name}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner, attribute = node.value.id, node.attr
            if (owner == "random" and attribute != "Random") or (owner, attribute) in CLOCKS:
                yield node.lineno, f"pure file uses {owner}.{attribute}"


def awaiting_files_are_named(source: Source) -> Complaints:
    if not source.pure:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield node.lineno, "awaits, and is not in AWAITING"
            return


def imports_are_at_the_top(source: Source) -> Complaints:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.alias):
            name = {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name"}[type(node)]
            if getattr(node, name) == "TYPE_CHECKING":
                yield node.lineno, "TYPE_CHECKING"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and source.path not in LAZY_IMPORTS:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    yield inner.lineno, f"import inside {node.name}"


def exceptions_are_named(source: Source) -> Complaints:
    """`except BaseException` that ends in a bare `raise` is clean-up, not catching."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler) or source.path in CATCHES_EXCEPTION:
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = {item.id for item in caught if isinstance(item, ast.Name)}
        last = node.body[-1]
        if names == {"BaseException"} and isinstance(last, ast.Raise) and last.exc is None:
            continue
        if node.type is None or names & {"Exception", "BaseException"}:
            yield node.lineno, "catches every exception"


def no_shortcuts(source: Source) -> Complaints:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
            yield node.lineno, "hasattr: our types say what they have"
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "trio.Lock":
            yield node.lineno, "trio.Lock: a section without await is its own lock"


def files_are_short(source: Source) -> Complaints:
    lines = source.text.count("\n")
    if lines > MAX_LINES:
        yield lines, f"more than {MAX_LINES} lines"


def files_state_their_rules(source: Source) -> Complaints:
    if source.text.strip() and not ast.get_docstring(source.tree):
        yield 1, "no docstring at the top"


RULES: tuple[Callable[[Source], Complaints], ...] = (
    imports_go_down,
    pure_files_touch_nothing,
    awaiting_files_are_named,
    imports_are_at_the_top,
    exceptions_are_named,
    no_shortcuts,
    files_are_short,
    files_state_their_rules,
)


def package() -> list[Source]:
    found = sorted((ROOT / "pyp2p").rglob("*.py"))
    return [
        Source(path.relative_to(ROOT / "pyp2p").as_posix(), path.read_text(encoding="utf-8"))
        for path in found
        if not path.name.endswith("_pb2.py")
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule: Callable[[Source], Complaints]) -> None:
    broken = [f"pyp2p/{source.path}:{line}: {why}" for source in package() for line, why in rule(source)]
    assert not broken, "\n".join(broken)


def test_the_lists_name_only_what_is_there() -> None:
    sources = {source.path: source for source in package()}
    idle = [
        path
        for path in sorted(AWAITING)
        if path not in sources
        or not any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(sources[path].tree))
    ]
    assert not idle, f"in AWAITING, but not there or without a coroutine: {idle}"
    assert LAZY_IMPORTS | CATCHES_EXCEPTION | WORLDLY.keys() <= sources.keys()


def test_unit_tests_of_cores_need_no_trio() -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests" / "unit").rglob("test_*.py"))
        if path.stem in ("test_core", "test_wire", "test_props")
        for line, name in Source(path.name, path.read_text(encoding="utf-8")).imports()
        if name.split(".")[0] == "trio"
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "path", "text", "complaints"),
    [
        (imports_go_down, "io/varint.py", "from pyp2p.errors import RemoteError", 0),
        (imports_go_down, "io/varint.py", "from pyp2p.peer.id import PeerId", 1),
        (imports_go_down, "muxers/yamux/core.py", "from pyp2p.muxers.base import Muxer", 0),
        (imports_go_down, "muxers/yamux/core.py", "from pyp2p.security.base import Security", 1),
        (imports_go_down, "muxers/yamux/core.py", "from pyp2p import security", 1),
        (imports_go_down, "muxers/yamux/core.py", "from ..security import base", 1),
        (imports_go_down, "switch/switch.py", "import pyp2p", 1),
        (imports_go_down, "cli/demo.py", "import pyp2p\nimport pyp2p.switch.switch", 0),
        (imports_go_down, "newroom/core.py", "from pyp2p.errors import RemoteError", 1),
        (imports_go_down, "dialer/core.py", "from pyp2p.pubsub.core import Router\nfrom pyp2p.switch import switch", 0),
        (imports_go_down, "discv5/service.py", "from pyp2p.peer.id import PeerId", 0),
        (imports_go_down, "discv5/service.py", "from pyp2p.switch.switch import Switch", 1),
        (imports_go_down, "discv5/packet.py", "from pyp2p.pubsub.core import Router", 1),
        (imports_go_down, "testing/simnet.py", "from pyp2p.cli.main import main", 1),
        (pure_files_touch_nothing, "peer/keys.py", "import random\ndef f(rng: random.Random): ...", 0),
        (pure_files_touch_nothing, "peer/keys.py", "import random\nrandom.random()", 1),
        (pure_files_touch_nothing, "peer/keys.py", "from random import choice", 1),
        (pure_files_touch_nothing, "peer/keys.py", "from os import urandom", 1),
        (pure_files_touch_nothing, "switch/limits.py", "import trio.abc", 1),
        (pure_files_touch_nothing, "switch/limits.py", "import logging.handlers", 1),
        (pure_files_touch_nothing, "switch/limits.py", "from datetime import datetime\ndatetime.now()", 1),
        (pure_files_touch_nothing, "switch/switch.py", "import trio", 0),
        (awaiting_files_are_named, "switch/limits.py", "async def f(): ...", 1),
        (awaiting_files_are_named, "switch/switch.py", "async def f(): ...", 0),
        (awaiting_files_are_named, "testing/simnet.py", "async def f(): ...", 0),
        (imports_are_at_the_top, "switch/switch.py", "from typing import TYPE_CHECKING", 1),
        (imports_are_at_the_top, "switch/switch.py", "import typing\nif typing.TYPE_CHECKING: ...", 1),
        (imports_are_at_the_top, "switch/switch.py", "def f():\n    import time", 1),
        (imports_are_at_the_top, "cli/main.py", "def f():\n    import time", 0),
        (exceptions_are_named, "switch/switch.py", "try: ...\nexcept Exception: ...", 1),
        (exceptions_are_named, "switch/switch.py", "try: ...\nexcept (OSError, Exception): ...", 1),
        (exceptions_are_named, "switch/switch.py", "try: ...\nexcept: ...", 1),
        (exceptions_are_named, "switch/switch.py", "try: ...\nexcept BaseException:\n    f()\n    raise", 0),
        (exceptions_are_named, "switch/handlers.py", "try: ...\nexcept Exception: ...", 0),
        (no_shortcuts, "switch/switch.py", "hasattr(x, 'y')", 1),
        (no_shortcuts, "switch/switch.py", "import trio\ntrio.Lock()", 1),
        (files_are_short, "switch/switch.py", "x = 1\n" * (MAX_LINES + 1), 1),
        (files_state_their_rules, "switch/switch.py", "x = 1", 1),
        (files_state_their_rules, "switch/switch.py", "", 0),
    ],
)
def test_rule_sees(rule: Callable[[Source], Complaints], path: str, text: str, complaints: int) -> None:
    assert len(list(rule(Source(path, text)))) == complaints
