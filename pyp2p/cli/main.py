"""`pyp2p`: the parser, and the way to each command, which is imported only when it is used.

Rule: `pyp2p --help`, `key` and `addr` import no trio; so this is one of the two files that import inside functions.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import pyp2p
from pyp2p.cli import options as table
from pyp2p.cli.failure import INTERRUPTED, OK, CommandFailed, UsageError, clean
from pyp2p.cli.options import Option
from pyp2p.cli.output import Output, configure_logs, forget_stdout, prepare_streams

START = """\
pyp2p speaks libp2p: it connects to nodes and shows what happens.

  pyp2p demo                            a small network of beacon nodes on this machine, live
  pyp2p identify 127.0.0.1:4001         who is there? also /ip4/1.2.3.4/tcp/4001/p2p/12D3Koo..
  pyp2p ping 127.0.0.1:4001             how far is it?
  pyp2p perf 127.0.0.1:4001             how fast is it?
  pyp2p dial 127.0.0.1:4001 --hold 60   connect, stay, and tell what happens
  pyp2p listen --port 4001              be a node that others can try
  pyp2p interop                         take part in the public libp2p test suites
  pyp2p node --chain mainnet            be a beacon node's networking layer, without the beacon node
  pyp2p req status 127.0.0.1:9000       ask a beacon node: also metadata, beacon_blocks_by_range, ..
  pyp2p gossip sub TOPIC --peer ADDR    what is said about a topic? `gossip pub` says something
  pyp2p key new FILE                    make an identity; `pyp2p key show FILE` explains one
  pyp2p addr explain TEXT               what does this address or peer id say?
  pyp2p enr read ENR                    what does this node record say? `enr make` makes one
  pyp2p discv5 lookup --bootnode ENR    who is out there? also ping, findnode, talk, listen, crawl

`pyp2p COMMAND --help` tells the options of a command.
"""
ENVIRONMENT = """\
Every option can be set by an environment variable: --timeout by PYP2P_TIMEOUT (yes or no for switches, spaces between
repeated values). PYP2P_LOG=switch=debug,*=info chooses logs; NO_COLOR and FORCE_COLOR are heeded.

exit codes: 0 ok, 1 something in the demo did not happen, 2 usage, 10 resolve, 11 connect, 12 security, 13 wrong peer
id, 14 muxer, 15 protocol, 16 timeout, 17 refused by our own limits, 130 interrupted
"""
TARGET = "multiaddr (/p2p/ID may be left out), /dnsaddr/NAME, HOST:PORT, or a node record (enr:...)"

Run = Callable[[argparse.Namespace, Output], int]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(clean(message[:400]), f"See `{self.prog} --help`.")


@dataclass(frozen=True)
class Command:
    """One command: its words, its options, what runs it."""

    words: tuple[str, ...]
    help: str
    run: Run
    options: Sequence[Option] = ()
    arguments: Sequence[tuple[str, str]] = ()
    optional: bool = False  # the last argument may be left out


def _identify(options: argparse.Namespace, out: Output) -> int:
    from pyp2p.cli import identify

    _read_records(options)
    return identify.run(options, out)


def _ping(options: argparse.Namespace, out: Output) -> int:
    from pyp2p.cli import ping

    _read_records(options)
    return ping.run(options, out)


def _dial(options: argparse.Namespace, out: Output) -> int:
    from pyp2p.cli import dial

    _read_records(options)
    return dial.run(options, out)


def _perf(options: argparse.Namespace, out: Output) -> int:
    from pyp2p.cli import perf

    _read_records(options)
    return perf.run(options, out)


def _listen(options: argparse.Namespace, out: Output) -> int:
    from pyp2p.cli import listen

    if not options.delay:
        return listen.run(options, out)
    from pyp2p.cli import delays

    return listen.run(options, out, delays.slowed(options.delay))


def _interop(options: argparse.Namespace, out: Output) -> int:
    try:
        from pyp2p.cli import interop
    except ImportError as error:
        why = clean(str(error))
        raise UsageError(f"interop needs an extra: {why}", "Try `pip install pyp2p[interop]`.") from None
    return interop.run(options, out)


def _demo(options: argparse.Namespace, out: Output) -> int:
    with _extra_beacon():
        from pyp2p.cli import demo
    if not (out.live and sys.stdout.isatty()):
        return demo.run(options, out)
    try:
        from pyp2p.cli import demo_live
    except ImportError:  # the extra is not installed
        return demo.run(options, out)
    return demo.run(options, out, demo_live.open_screen)


def _gossip_sub(options: argparse.Namespace, out: Output) -> int:
    from pyp2p.cli import gossip

    _read_records(options)
    return gossip.subscribe(options, out, _gossip_settings(options))


def _gossip_pub(options: argparse.Namespace, out: Output) -> int:
    from pyp2p.cli import gossip

    _read_records(options)
    return gossip.publish(options, out, _gossip_settings(options))


def _gossip_settings(options: argparse.Namespace) -> dict[str, Any]:
    if not options.eth2:
        return {}
    try:
        from pyp2p.cli import eth2
    except ImportError as error:
        raise UsageError(f"--eth2: {error}") from None
    return eth2.settings()


def _key_new(options: argparse.Namespace, out: Output) -> int:
    from pyp2p.cli import key

    return key.new(options, out)


def _key_show(options: argparse.Namespace, out: Output) -> int:
    from pyp2p.cli import key

    return key.show(options, out)


def _addr_explain(options: argparse.Namespace, out: Output) -> int:
    from pyp2p.cli import addr

    return addr.explain(options, out)


def _read_records(options: argparse.Namespace) -> None:
    """Put targets in place of the node records among those that `options` names: only they need the extra."""
    given = [options.target] if "target" in options else options.peer
    if not any(text.strip().startswith("enr:") for text in given):
        return
    with _extra_discv5():
        from pyp2p.cli import records
    found = [records.target(text) if text.strip().startswith("enr:") else text for text in given]
    if "target" in options:
        options.target = found[0]
    else:
        options.peer = found


@contextmanager
def _extra_discv5() -> Iterator[None]:
    """Say what to install when an import of the block fails."""
    try:
        yield
    except ImportError as error:
        why = clean(str(error))
        raise UsageError(f"node records and discv5 need an extra: {why}", "Try `pip install pyp2p[discv5]`.") from None


@contextmanager
def _extra_beacon() -> Iterator[None]:
    """As `_extra_discv5`, for what beacon nodes speak."""
    try:
        yield
    except ImportError as error:
        why = clean(str(error))
        raise UsageError(f"beacon nodes need extras: {why}", "Try `pip install pyp2p[discv5,eth2,quic]`.") from None


def _enr_read(options: argparse.Namespace, out: Output) -> int:
    with _extra_discv5():
        from pyp2p.cli import enr
    return enr.read(options, out)


def _enr_make(options: argparse.Namespace, out: Output) -> int:
    with _extra_discv5():
        from pyp2p.cli import enr
    return enr.make(options, out)


def _enr_update(options: argparse.Namespace, out: Output) -> int:
    with _extra_discv5():
        from pyp2p.cli import enr
    return enr.update(options, out)


def _discv5_ping(options: argparse.Namespace, out: Output) -> int:
    with _extra_discv5():
        from pyp2p.cli import discv5
    return discv5.ping(options, out)


def _discv5_findnode(options: argparse.Namespace, out: Output) -> int:
    with _extra_discv5():
        from pyp2p.cli import discv5
    return discv5.findnode(options, out)


def _discv5_lookup(options: argparse.Namespace, out: Output) -> int:
    with _extra_discv5():
        from pyp2p.cli import discv5
    return discv5.lookup(options, out)


def _discv5_talk(options: argparse.Namespace, out: Output) -> int:
    with _extra_discv5():
        from pyp2p.cli import discv5
    return discv5.talk(options, out)


def _discv5_listen(options: argparse.Namespace, out: Output) -> int:
    with _extra_discv5():
        from pyp2p.cli import discv5_listen
    return discv5_listen.listen(options, out)


def _discv5_crawl(options: argparse.Namespace, out: Output) -> int:
    with _extra_discv5():
        from pyp2p.cli import crawl
    return crawl.crawl(options, out)


def _node(options: argparse.Namespace, out: Output) -> int:
    with _extra_beacon():
        from pyp2p.cli import node
    if options.metrics is None:
        return node.run(options, out)
    try:
        from pyp2p.cli import node_metrics
    except ImportError as error:
        why = clean(str(error))
        raise UsageError(f"--metrics needs an extra: {why}", "Try `pip install pyp2p[metrics]`.") from None
    return node.run(options, out, node_metrics.serve)


def _req(options: argparse.Namespace, out: Output) -> int:
    _read_records(options)
    with _extra_beacon():
        from pyp2p.cli import req
    return req.run(options, out)


_REACH = (*table.COMMON, *table.STACK, *table.DIAL)
_TARGET = (("target", TARGET),)
_FILE = (("file", "key file"),)
_TOPIC = (("topic", "name of the topic"),)
_RECORD = ("node", "record of the node (enr:...)")
_DISCV5 = (*table.COMMON, *table.DISCV5)
COMMANDS = (
    Command(("identify",), "connect to a node and show what it is", _identify, _REACH, _TARGET),
    Command(("ping",), "measure round trips to a node", _ping, (*_REACH, *table.PING), _TARGET),
    Command(("dial",), "connect to a node and tell what happens on the connection", _dial,
            (*_REACH, *table.HOLD), _TARGET),
    Command(("perf",), "measure the transfer rate to a node", _perf, (*_REACH, *table.PERF), _TARGET),
    Command(("listen",), "be a node, until standard input (a pipe) closes or an interrupt", _listen,
            (*table.COMMON, *table.STACK, *table.LISTEN)),
    Command(("interop",), "dial or listen as the environment says, in a test of the public libp2p test suites: see "
            "docs/interop.md", _interop, table.COMMON),
    Command(("node",), "be a node of a beacon chain: follow and serve a made-up one, show the gossip of any other, "
            "which is not verified and so not forwarded", _node, (*table.COMMON, *table.NODE)),
    Command(("req",), "ask a beacon node one request, and print the answer", _req,
            (*table.COMMON, *table.STACK, *table.REQ),
            (("method", "status, ping, metadata, goodbye, beacon_blocks_by_range, ..., or of one version: status/1"),
             *_TARGET)),
    Command(("demo",), "a bootnode and 6 beacon nodes on this machine: they find each other, pass on blocks, lose a "
            "node and get it back (some 40 s)", _demo, table.COMMON),
    Command(("gossip", "sub"), "print the messages of a topic, until a pipe on standard input ends", _gossip_sub,
            (*table.COMMON, *table.STACK, *table.GOSSIP), _TOPIC),
    Command(("gossip", "pub"), "publish the lines of standard input, or --data, to a topic", _gossip_pub,
            (*table.COMMON, *table.STACK, *table.GOSSIP, *table.GOSSIP_PUB), _TOPIC),
    Command(("key", "new"), "make an identity", _key_new, (*table.COMMON, *table.KEY_NEW), _FILE),
    Command(("key", "show"), "explain a key file or a peer id", _key_show, table.COMMON,
            (("text", "key file, peer id, or a key in hex or base64"),)),
    Command(("addr", "explain"), "explain an address or a peer id", _addr_explain, table.COMMON,
            (("text", "multiaddr (text or hex), HOST:PORT, or peer id"),)),
    Command(("enr", "read"), "check node records and tell everything in them", _enr_read, table.COMMON,
            (("text", "record (enr:...), a file with one in each line, or - for standard input"),)),
    Command(("enr", "make"), "make a record and sign it with --key", _enr_make, (*table.COMMON, *table.ENR_MAKE)),
    Command(("enr", "update"), "change a record of --key", _enr_update, (*table.COMMON, *table.ENR_UPDATE), (_RECORD,)),
    Command(("discv5", "ping"), "measure round trips to a node", _discv5_ping, (*_DISCV5, *table.DISCV5_PING),
            (_RECORD,)),
    Command(("discv5", "findnode"), "ask a node which nodes it knows", _discv5_findnode,
            (*_DISCV5, *table.DISCV5_FIND), (_RECORD,)),
    Command(("discv5", "lookup"), "find the nodes closest to a node id, or to a random one", _discv5_lookup,
            (*_DISCV5, *table.DISCV5_LOOKUP), (("near", "node id in hex, or a record"),), optional=True),
    Command(("discv5", "talk"), "ask an application protocol of a node (TALKREQ)", _discv5_talk,
            (*_DISCV5, *table.DISCV5_TALK), (_RECORD, ("protocol", "name of the protocol"))),
    Command(("discv5", "listen"), "be a node, until standard input (a pipe) closes or an interrupt", _discv5_listen,
            (*table.COMMON, *table.DISCV5_LISTEN)),
    Command(("discv5", "crawl"), "ask every node that can be found for its neighbours", _discv5_crawl,
            (*_DISCV5, *table.DISCV5_CRAWL)),
)  # fmt: skip
_GROUPS = {
    "gossip": "publish and listen to topics (gossipsub)",
    "key": "make and explain identities",
    "addr": "explain addresses",
    "enr": "read and make node records",
    "discv5": "find nodes (node discovery v5.1)",
}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="pyp2p",
        description="Talk to libp2p nodes from the command line.",
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="versions of pyp2p and of what it runs on")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    groups = {}
    for command in COMMANDS:
        *group, word = command.words
        into = commands
        if group:
            if group[0] not in groups:
                sub = commands.add_parser(group[0], help=_GROUPS[group[0]], allow_abbrev=False)
                groups[group[0]] = sub.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
            into = groups[group[0]]
        one = into.add_parser(word, help=command.help, description=command.help[0].upper() + command.help[1:] + ".",
                              epilog="Every option can be set by PYP2P_NAME in the environment.",
                              allow_abbrev=False)  # fmt: skip
        for name, text in command.arguments:
            may_miss = command.optional and name == command.arguments[-1][0]
            one.add_argument(name, metavar=name.upper(), help=text, nargs="?" if may_miss else None)
        for option in command.options:
            option.add_to(one)
        one.set_defaults(command=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name) and return the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    prepare_streams()
    out = Output(as_json="--json" in arguments, stdout=sys.stdout, stderr=sys.stderr, environ=os.environ)
    name = ""
    try:
        options = build_parser().parse_args(arguments)
        command: Command | None = getattr(options, "command", None)
        if options.version or command is None:
            out.emit(
                "version" if options.version else "start", {}, _versions() if options.version else [START.rstrip()]
            )
            code = OK
        else:
            name = " ".join(command.words)
            table.resolve(command.options, options, os.environ)
            configure_logs(options.verbose, os.environ.get("PYP2P_LOG", ""))
            out = _output(options.json, os.environ)
            code = command.run(options, out)
    except CommandFailed as failure:
        out.fail(failure, name)
        code = failure.code
    except KeyboardInterrupt:
        out.status(None)
        code = INTERRUPTED
    if out.gone:
        forget_stdout()
        return (1 if out.failed else INTERRUPTED) if code in (OK, INTERRUPTED) else code
    return code


def _output(as_json: bool, environ: Mapping[str, str]) -> Output:
    plain = Output(as_json=as_json, stdout=sys.stdout, stderr=sys.stderr, environ=environ)
    if not plain.style.color:
        return plain
    try:
        from pyp2p.cli.rich_output import RichOutput
    except ImportError:  # the extra is not installed
        return plain
    return RichOutput(as_json=as_json, stdout=sys.stdout, stderr=sys.stderr, environ=environ)


def _versions() -> list[str]:
    """pyp2p, Python, OpenSSL, and which extras are there."""
    import ssl
    from importlib import metadata
    from importlib.util import find_spec

    from cryptography.hazmat.backends.openssl import backend

    lines = [
        f"pyp2p {pyp2p.__version__}",
        f"Python {platform.python_version()} ({platform.system()} {platform.machine()})",
        f"OpenSSL {backend.openssl_version_text().removeprefix('OpenSSL ')} for keys and ciphers; "
        f"Python's own is {ssl.OPENSSL_VERSION.removeprefix('OpenSSL ')}",
    ]
    modules = {"rich": "cli", "coincurve": "fast", "cramjam": "eth2", "Crypto": "discv5"}
    for module, extra in modules.items():
        package = "pycryptodome" if module == "Crypto" else module
        there = find_spec(module) is not None
        lines.append(f"extra {extra}: {f'{package} {metadata.version(package)}' if there else 'not installed'}")
    return lines
