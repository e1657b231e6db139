"""What a command offers: all transports, security protocols and multiplexers that are installed, or those it is told.

Rules: TCP and Noise are always there; WebSocket needs the extra `ws`, TLS `tls` and QUIC `quic`. A command that asks
for one that is missing is told what to install; one that does not goes on without.
"""

from __future__ import annotations

import argparse
import os
import ssl
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyp2p.cli.failure import UsageError
from pyp2p.errors import printable
from pyp2p.muxers.base import MuxerFactory
from pyp2p.muxers.mplex import Mplex
from pyp2p.muxers.yamux import Yamux
from pyp2p.security.base import Security
from pyp2p.security.noise import Noise
from pyp2p.security.plaintext import Plaintext
from pyp2p.switch.defaults import Quic, Tls, WebSocket
from pyp2p.transports.base import Transport
from pyp2p.transports.tcp import Tcp
from pyp2p.transports.webcert import self_signed

_MUXERS: dict[str, Callable[[], MuxerFactory]] = {"yamux": Yamux, "mplex": Mplex}


def stack(options: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `open_switch` for --transport, --security and --muxer."""
    spoken = securities(options)  # first: it refuses a log that would stay empty, before anybody makes its file
    return {"transports": transports(options), "securities": spoken, "muxers": muxers(options)}


def listen_addresses(options: argparse.Namespace) -> list[str]:
    """Those of --addr, or the one of --port on loopback."""
    if options.addr:
        return list(options.addr)
    where = {"ws": "tcp/{}/ws", "quic": "udp/{}/quic-v1"}.get(options.transport or "", "tcp/{}")
    return ["/ip4/127.0.0.1/" + where.format(options.port or 0)]


def muxers(options: argparse.Namespace) -> list[MuxerFactory]:
    """Those of --muxer, all without it."""
    return [_MUXERS[name]() for name in ([options.muxer] if options.muxer else _MUXERS)]


def transports(options: argparse.Namespace) -> list[Transport]:
    """Those of --transport, all without it. Raises `UsageError` for one that is not installed."""
    made: dict[str, Callable[[], Transport]] = {"tcp": Tcp}
    if WebSocket is not None:
        made["ws"] = lambda: WebSocket(server=_shown(options), client=_trusting() if options.insecure else None)
    if Quic is not None:
        made["quic"] = lambda: Quic(key_log=_key_log(options), qlog=_qlog(options))
    name = options.transport
    if name is None:
        return [make() for make in made.values()]
    if name not in made:
        what, library = {"ws": ("WebSocket", "wsproto or pycryptodome"), "quic": ("QUIC", "aioquic")}[name]
        raise UsageError(f"{what} needs an extra: {library} is not installed", f"Try `pip install pyp2p[{name}]`.")
    return [made[name]()]


def securities(options: argparse.Namespace) -> list[Security]:
    """Those of --security, all without it. Raises `UsageError` for one that is not installed, or a log for none."""
    name = options.security
    if options.key_log is not None and name not in (None, "tls") and options.transport != "quic":
        raise UsageError(f"--key-log: {name} has no secrets to log", "Try `--security tls`.")
    if Tls is None:
        if name == "tls" or options.key_log is not None:
            raise UsageError("TLS needs an extra: pyOpenSSL is not installed", "Try `pip install pyp2p[tls]`.")
        return [Plaintext() if name == "plaintext" else Noise()]
    if name == "plaintext":
        return [Plaintext()]
    tls = Tls(key_log=_key_log(options))
    return [tls] if name == "tls" else [Noise()] if name == "noise" else [Noise(), tls]


def _shown(options: argparse.Namespace) -> ssl.SSLContext | None:
    """The certificate for listeners on `/wss`: that of --web-cert, or a fresh one where such an address is given."""
    given: str | None = getattr(options, "web_cert", None)
    if given is None:
        addresses: list[str] = getattr(options, "addr", None) or []
        return self_signed("localhost") if any("/wss" in each or "/tls" in each for each in addresses) else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(given)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"--web-cert: {printable(given, 200)}: {printable(why, 200)}",
            "It has to hold a certificate and its private key, as PEM.",
        ) from None
    return context


def _trusting() -> ssl.SSLContext:
    """Judges no server: who a peer is, is proven inside."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _qlog(options: argparse.Namespace) -> str | None:
    """The folder of --qlog."""
    name: str | None = options.qlog
    if name is not None and not Path(name).is_dir():
        raise UsageError(f"--qlog: {printable(name, 200)} is no folder", "It has to be there.")
    if name is not None and not _takes_files(name):
        raise UsageError(f"--qlog: no file can be made in {printable(name, 200)}", "Choose a folder of your own.")
    return name


def _takes_files(folder: str) -> bool:
    """Told before anything is logged; by trying, since permissions alone do not say it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _key_log(options: argparse.Namespace) -> Callable[[bytes], None] | None:
    """What writes to the file of --key-log."""
    return None if options.key_log is None else _log_to(Path(options.key_log))


def _log_to(path: Path) -> Callable[[bytes], None]:
    """Appends lines to a file that is its owner's alone; it is made at once, so that a wrong place is told at once."""

    def log(line: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(line)

    try:
        log(b"")
    except OSError as error:
        raise UsageError(f"--key-log: {printable(str(path), 200)}: {error.strerror or error}") from None

    def told(line: bytes) -> None:
        with suppress(OSError):  # a disk that is full by now costs the line, not the connection
            log(line + b"\n")

    return told
