"""The options of all commands as one table, each also settable by an environment variable `PYP2P_NAME`.

Rules: what the command line says wins over the environment, which wins over the default; both pass the same checks.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pyp2p.cli.failure import UsageError
from pyp2p.cli.render import parse_size
from pyp2p.errors import printable

BEHAVIOURS = ("echo", "sink", "hang", "reset")
DELAYED = ("connect", "security_select", "handshake", "muxer_select", "identify")
KEY_TYPES = ("ed25519", "secp256k1", "ecdsa", "rsa")
# Entries of a node record that hold a number, with the least and the most that it may be.
_NUMBERS = {**dict.fromkeys(("tcp", "tcp6", "udp", "udp6", "quic", "quic6"), (1, 65535)), "cgc": (0, 2**64 - 1)}
_YES = ("1", "true", "yes", "on")
_NO = ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Option:
    """One option; without `convert` it is a switch, or, with the default 0, counted. `many`: may be given again."""

    flag: str
    help: str
    convert: Callable[[str], Any] | None = None
    metavar: str = ""
    default: Any = None
    many: bool = False
    short: str = ""
    scope: str = ""  # command for which the name means something else than elsewhere: part of the variable

    @property
    def name(self) -> str:
        """The attribute that holds the value."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "_".join(("PYP2P", *filter(None, (self.scope,)), self.name.upper()))

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare it; absent ones leave no attribute."""
        flags = (self.short, self.flag) if self.short else (self.flag,)
        if self.convert is None:
            action = "count" if self.default == 0 and self.default is not False else "store_true"
            parser.add_argument(*flags, action=action, default=argparse.SUPPRESS, help=self.help)
        else:
            parser.add_argument(
                *flags,
                type=self.convert,
                metavar=self.metavar,
                action="append" if self.many else "store",
                default=argparse.SUPPRESS,
                help=self.help,
            )

    def fallback(self, environ: Mapping[str, str]) -> Any:
        """The value when the command line names none. Raises `UsageError`."""
        text = environ.get(self.variable)
        if text is None or (self.convert is not None and not text):
            return list(self.default or ()) if self.many else self.default
        try:
            if self.convert is None:
                return _switch(text) if self.default is False else int(text)
            return [self.convert(part) for part in text.split()] if self.many else self.convert(text)
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise UsageError(f"{self.variable}: {error}") from None


def resolve(options: Sequence[Option], given: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Fill in what the command line left out."""
    for option in options:
        if option.name not in given:
            setattr(given, option.name, option.fallback(environ))


def _switch(text: str) -> bool:
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise argparse.ArgumentTypeError(f"'{printable(text, 40)}' is neither yes nor no")


def choice(*names: str) -> Callable[[str], str]:
    """One of `names`."""

    def convert(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"'{printable(text, 40)}' is none of {', '.join(names)}")
        return text

    return convert


def number(low: float, high: float) -> Callable[[str], float]:
    """A finite decimal number within bounds."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"'{printable(text, 40)}' is no number from {low:g} to {high:g}")
        return value

    return convert


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number within bounds."""

    def convert(text: str) -> int:
        plain = len(text) <= 20 and text.isascii() and text.isdigit()
        if not plain or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"'{printable(text, 40)}' is no whole number from {low} to {high}")
        return int(text)

    return convert


def _bytes(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _served(text: str) -> tuple[str, str]:
    name, equals, behaviour = text.rpartition("=")
    if not equals or not name.startswith("/") or behaviour not in BEHAVIOURS:
        raise argparse.ArgumentTypeError(
            f"'{printable(text, 60)}' is no NAME=WHAT, with a name like /my/1.0.0 and one of {', '.join(BEHAVIOURS)}"
        )
    return name, behaviour


def _delay(text: str) -> tuple[str, float]:
    stage, _, seconds = text.partition("=")
    if stage not in DELAYED:
        names = ", ".join(DELAYED)
        raise argparse.ArgumentTypeError(f"'{printable(text, 60)}' is no STAGE=SECONDS with a stage of {names}")
    if seconds in ("forever", "inf"):
        return stage, math.inf
    return stage, number(0, 86_400)(seconds)


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{printable(text, 60)}' is no hex: two digits for each byte") from None


def _root(text: str) -> bytes:
    raw = _hex(text)
    if len(raw) != 32:
        raise argparse.ArgumentTypeError(f"'{printable(text, 80)}' is no block root: 32 bytes in hex")
    return raw


def _fork_digest(text: str) -> bytes:
    raw = _hex(text)
    if len(raw) != 4:
        raise argparse.ArgumentTypeError(f"'{printable(text, 60)}' is no fork digest: 4 bytes in hex, like 6a95a1a9")
    return raw


def _entry(text: str) -> tuple[str, bytes | int]:
    """An entry of a record: a decimal number where the key is known to hold one, else bytes in hex."""
    name, equals, value = text.partition("=")
    if not equals or not name or not name.isascii() or not name.isprintable():
        raise argparse.ArgumentTypeError(
            f"'{printable(text, 60)}' is no KEY=VALUE, like eth2=6a95a1a9.. (hex) or cgc=128 (decimal)"
        )
    if name not in _NUMBERS:
        return name, _hex(value)
    try:
        return name, whole(*_NUMBERS[name])(value)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{name} holds a number, written in decimal: {error}") from None


def _ip(version: int) -> Callable[[str], IPv4Address | IPv6Address]:
    """An IP address of one version."""

    def convert(text: str) -> IPv4Address | IPv6Address:
        try:
            return IPv4Address(text) if version == 4 else IPv6Address(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{printable(text, 60)}' is no IPv{version} address") from None

    return convert


def _place(text: str, least: int = 1) -> tuple[str, list[int]] | None:
    """IP address and ports of `1.2.3.4:9000:9001` or `[::1]:9000:9001`; None for what is none of these."""
    inner, bracket, rest = text.removeprefix("[").partition("]")
    ip, _, ports = text.partition(":") if not bracket else (inner, "", rest.removeprefix(":"))
    try:
        given = ip_address(ip)
        numbers = [whole(least, 65535)(port) for port in ports.split(":")]
    except (ValueError, argparse.ArgumentTypeError):
        return None
    return (str(given), numbers) if (given.version == 6) == bool(bracket) == text.startswith("[") else None


def _advertised(text: str) -> tuple[str, int, int, int | None]:
    """IP address, TCP and UDP port, and that of QUIC."""
    found = _place(text)
    if found is None or len(found[1]) > 3:
        raise argparse.ArgumentTypeError(
            f"'{printable(text, 60)}' is no IP:TCP, IP:TCP:UDP or IP:TCP:UDP:QUIC, like 1.2.3.4:9000 or "
            "[2001:db8::1]:9000:9000:9001"
        )
    ip = ip_address(found[0])
    if ip.is_unspecified:
        raise argparse.ArgumentTypeError(f"{ip} stands for every address of a machine: give the one that others reach")
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        raise argparse.ArgumentTypeError(f"{ip} is an IPv4 address written as IPv6: give {ip.ipv4_mapped}")
    ports = found[1]
    return found[0], ports[0], ports[min(1, len(ports) - 1)], ports[2] if len(ports) == 3 else None


def _host_port(text: str) -> tuple[str, int]:
    """IP address and port; 0 takes any free one."""
    found = _place(text, 0)
    if found is None or len(found[1]) > 1:
        raise argparse.ArgumentTypeError(f"'{printable(text, 60)}' is no IP:PORT, like 127.0.0.1:8008 or [::1]:8008")
    return found[0], found[1][0]


COMMON = (
    Option("--json", "print one JSON object a line", default=False),
    Option("--verbose", "log to standard error; twice for everything", default=0, short="-v"),
)
_KEY = Option("--key", "identity to use; made (0600) when the file is missing. Default: a fresh one", str, "FILE")
_MUXER = Option("--muxer", "use only this multiplexer: yamux or mplex", choice("yamux", "mplex"), "NAME")
_AGENT = Option("--agent", "agent version to announce", str, "TEXT")
STACK = (
    _MUXER,
    Option(
        "--security",
        "use only this security protocol: noise or tls (default: both)",
        choice("noise", "tls", "plaintext"),
        "NAME",
    ),
    Option(
        "--key-log",
        "append the secrets of TLS and QUIC connections to this file, as SSLKEYLOGFILE has them",
        str,
        "FILE",
    ),
    Option("--qlog", "write a log of each QUIC connection into this folder", str, "DIR"),
    Option(
        "--transport", "use only this transport: tcp, ws or quic (default: all)", choice("tcp", "ws", "quic"), "NAME"
    ),
    Option("--insecure", "do not judge the certificates of /wss servers: a peer proves itself inside", default=False),
    _KEY,
)
_COUNT = Option(
    "--count",
    "how many: pings (default 5), messages (default: no end, and one with --data or --size)",
    whole(1, 2**53),
    "N",
)
_TIMEOUT = Option(
    "--timeout",
    "total deadline, --hold not counted; gossip: to reach peers and listeners. Default: 30 to connect, none for what "
    "follows and for discv5",
    number(0.001, 1e6),
    "SECONDS",
)
_PORT = Option(
    "--port", "TCP (discv5: UDP) port to listen on, on 127.0.0.1 (default: any free one)", whole(0, 65535), "N"
)
_ASKING_PORT = replace(
    _PORT,
    help="UDP port to ask from: on loopback when all nodes that are named are there, else on every interface, unless "
    "--addr says otherwise (default: any free one)",
)
_ADDR = Option(
    "--addr",
    "where to listen: a multiaddr like /ip4/0.0.0.0/tcp/4001 (discv5: an IP address, beside --port); may be repeated",
    str,
    "ADDR",
    many=True,
)
_DATA = Option("--data", "text to send: published instead of the lines of standard input, or asked", str, "TEXT")
_RATE = Option(
    "--rate",
    "messages (crawl: questions and dials) per second at most; default: as fast as they are taken (crawl: 50)",
    number(0.001, 1e6),
    "N",
)
_TRACE = Option("--trace", "show each step of the connection (discv5: each packet) with its time", default=False)
DIAL = (_TIMEOUT, _TRACE)
PING = (
    _COUNT,
    Option("--interval", "pause between them (default 1)", number(0, 3600), "SECONDS", 1.0),
)
DISCV5_PING = (_TIMEOUT, _TRACE, *PING)
PERF = (
    Option("--upload", "bytes to send, like 64MB or 1GiB (default 64MB each way)", _bytes, "SIZE"),
    Option("--download", "bytes to receive", _bytes, "SIZE"),
)
HOLD = (Option("--hold", "how long to keep the connection (default 0)", number(0, 1e9), "SECONDS", 0.0),)
LISTEN = (
    _PORT,
    _ADDR,
    Option("--seed", "identity made from a number: known to all who know it, for tests", whole(0, 2**63), "N"),
    _AGENT,
    Option("--web-cert", "PEM file with the certificate and key for /wss addresses (default: a fresh, self-signed one)",
           str, "FILE"),
    Option("--perf", "serve /perf/1.0.0, which sends as much as it is asked for", default=False),
    Option(
        "--protocol", "also serve NAME by echo, sink, hang or reset; may be repeated", _served, "NAME=WHAT", many=True
    ),
    Option("--delay", "be late at STAGE (`forever`: never come); may be repeated", _delay, "STAGE=SECONDS", many=True),
)  # fmt: skip
GOSSIP = (
    Option("--peer", "node to connect to, as TARGET elsewhere; may be repeated", str, "ADDR", many=True),
    _PORT,
    _ADDR,
    Option("--eth2", "as a beacon node: unsigned, snappy, eth2 message ids and parameters", default=False),
    _TIMEOUT,
    _COUNT,
)
GOSSIP_PUB = (
    _DATA,
    Option("--size", "publish random bytes, so many in a message", _bytes, "SIZE"),
    _RATE,
)
KEY_NEW = (
    Option("--type", "ed25519 (default), secp256k1, ecdsa or rsa", choice(*KEY_TYPES), "TYPE", "ed25519"),
    Option("--force", "replace a file that is there", default=False),
)
ENTRIES = (
    Option("--ip", "entry of the record: IPv4 address", _ip(4), "ADDRESS"),
    Option("--ip6", "entry of the record: IPv6 address", _ip(6), "ADDRESS"),
    *(
        Option(f"--{name}{suffix}", f"entry of the record: {what}{of}", whole(1, 65535), "N")
        for name, what in (("udp", "UDP port of discovery"), ("tcp", "TCP port"), ("quic", "UDP port of QUIC"))
        for suffix, of in (("", ""), ("6", " over IPv6"))
    ),
    Option("--set", "any entry of the record: a decimal number for cgc and ports, like cgc=128, else bytes in hex, "
           "like attnets=00000000000000ff; may be repeated", _entry, "KEY=VALUE", many=True),
)  # fmt: skip
_SEQ = Option("--seq", "sequence number (default: 1)", whole(0, 2**64 - 1), "N")
ENR_MAKE = (
    replace(_KEY, help="secp256k1 identity that signs, must be given; made (0600) when the file is missing"),
    _SEQ,
    *ENTRIES,
)
ENR_UPDATE = (
    replace(_KEY, help="identity that signed the record, must be given"),
    replace(_SEQ, help="sequence number (default: one more than before)"),
    *ENTRIES,
    Option("--unset", "remove an entry of the record; may be repeated", str, "KEY", many=True),
)
_BOOTNODE = Option("--bootnode", "record (enr:...) of a node to begin with; may be repeated", str, "ENR", many=True)
DISCV5 = (_KEY, _ASKING_PORT, _ADDR)
DISCV5_FIND = (
    _TIMEOUT,
    _TRACE,
    Option("--distance", "log distance from the node, 0 to 256 (0: its own record); may be repeated (default: 256)",
           whole(0, 256), "D", many=True),
)  # fmt: skip
DISCV5_LOOKUP = (_TIMEOUT, _TRACE, _BOOTNODE)
DISCV5_TALK = (_TIMEOUT, _TRACE, _DATA, Option("--hex", "bytes to ask, in hex", _hex, "HEX"))
DISCV5_LISTEN = (
    _KEY,
    _PORT,
    _ADDR,
    _BOOTNODE,
    Option("--state", "file that keeps our record and the nodes that answered, from run to run", str, "FILE"),
    *ENTRIES,
)
DISCV5_CRAWL = (
    _BOOTNODE,
    Option("--time", "end after so long (default 60)", number(0.001, 1e6), "SECONDS", 60.0),
    _RATE,
    Option("--output", "write the nodes to this file, replaced when it is there (default: standard output)", str,
           "FILE"),
    Option("--resume", "go on from the nodes that an earlier crawl wrote: those that answered are kept and not asked "
           "again; may be the file of --output", str, "FILE"),
    Option("--identify", "also dial the nodes that answered, over TCP, and tell what they say they are", default=False),
    Option("--fork-digest", "write only nodes of this eth2 fork digest, like 6a95a1a9", _fork_digest, "HEX"),
    Option("--subnet", "write only nodes of this attestation subnet, 0 to 63; may be repeated: of any of them",
           whole(0, 63), "N", many=True),
)  # fmt: skip
_CHAIN = Option(
    "--chain",
    "mainnet, a file that describes a chain, or a made-up one: dev:SECONDS, which begins then (seconds since 1970), or "
    "dev, which begins now (default: mainnet)",
    str,
    "CHAIN",
    "mainnet",
)
NODE = (
    _CHAIN,
    _BOOTNODE,
    Option("--data", "folder that keeps key, numbers, nodes and peers from run to run (default: nothing is kept; in "
           "the environment PYP2P_NODE_DATA)", str, "DIR", scope="NODE"),
    replace(_PORT, help="TCP port to listen on, and UDP port of discovery (default: any free ones)"),
    Option("--quic-port", "UDP port of QUIC (default: the one after --port; needs the extra quic)", whole(0, 65535),
           "N"),
    Option("--no-quic", "listen and dial over TCP alone", default=False),
    replace(_ADDR, help="IP address to listen on; may be repeated, one of each version (default: loopback when all "
            "bootnodes are there, else every interface)"),
    Option("--advertise", "where others reach us, for our record: IP:TCP, IP:TCP:UDP (of discovery) or "
           "IP:TCP:UDP:QUIC, IPv6 as [IP]:TCP; may be repeated (default: what others see)", _advertised,
           "IP:TCP[:UDP[:QUIC]]", many=True),
    Option("--target-peers", "peers that are wanted (default: 100)", whole(1, 10_000), "N"),
    Option("--static-peer", "peer to be connected to for ever: a record, or a multiaddr with /p2p/ID; may be repeated",
           str, "PEER", many=True),
    Option("--trusted-peer", "as --static-peer, and not judged by what it does; may be repeated", str, "PEER",
           many=True),
    Option("--no-discovery", "use no UDP: only peers that are named, and those that come", default=False),
    Option("--metrics", "serve metrics for Prometheus there, like 127.0.0.1:8008", _host_port, "IP:PORT"),
    replace(_AGENT, help="agent version to announce, at most 256 characters"),
    _MUXER,
    Option("--produce", "make the block of each slot; on a made-up chain only", default=False),
    Option("--blocks", "folder of the blocks of a made-up chain (default: `blocks` in that of --data)", str, "DIR"),
)  # fmt: skip
REQ = (
    _TIMEOUT,
    _CHAIN,
    Option("--start", "first slot, of light client updates the first period (default: slots that end with the peer's "
           "head)", whole(0, 2**64 - 1), "N"),
    replace(_COUNT, help="how many slots, blocks or periods (default: 1)"),
    Option("--root", "block root; may be repeated (default: that of the peer's head)", _root, "HEX", many=True),
    Option("--index", "number of a blob or a data column; may be repeated (default: 0)", whole(0, 2**64 - 1), "N",
           many=True),
    Option("--code", "why we go (default: 1, shutting down)", whole(1, 2**64 - 1), "N"),
    Option("--output", "write what comes to files in this folder, as SSZ (in the environment PYP2P_REQ_OUTPUT)", str,
           "DIR", scope="REQ"),
)  # fmt: skip
