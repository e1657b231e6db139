"""Which security protocols a command offers: all that are installed, or the one of --security.

Rules: Noise first. TLS needs the extra `tls`; without it a command that does not ask for it goes on with Noise.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pyp2p.cli.failure import UsageError
from pyp2p.errors import printable
from pyp2p.security.base import Security
from pyp2p.security.noise import Noise
from pyp2p.security.plaintext import Plaintext

try:
    from pyp2p.security.tls import Tls
except ImportError:
    Tls = None  # type: ignore[assignment,misc]  # mypy has no type for "a class or None"


def securities(options: argparse.Namespace) -> list[Security]:
    """Those of --security, all without it. Raises `UsageError` for one that is not installed, or a log for none."""
    name = options.security
    if options.key_log is not None and name not in (None, "tls"):
        raise UsageError(f"--key-log: {name} has no secrets to log", "Try `--security tls`.")
    if Tls is None:
        if name == "tls" or options.key_log is not None:
            raise UsageError("TLS needs an extra: pyOpenSSL is not installed", "Try `pip install pyp2p[tls]`.")
        return [Plaintext() if name == "plaintext" else Noise()]
    if name == "plaintext":
        return [Plaintext()]
    tls = Tls(key_log=None if options.key_log is None else _log_to(Path(options.key_log)))
    return [tls] if name == "tls" else [Noise()] if name == "noise" else [Noise(), tls]


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
