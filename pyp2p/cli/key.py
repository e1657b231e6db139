"""`pyp2p key new` and `pyp2p key show`: identities in files, whose form `peer/keyfile.py` knows."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyp2p.cli import addr, render
from pyp2p.cli.explain import explain_key, explain_peer, explain_peer_text, peer_of
from pyp2p.cli.failure import OK, UsageError
from pyp2p.cli.output import Output
from pyp2p.errors import KeyFileError, KeyFileExists, NoKeyInFile, printable
from pyp2p.peer.keyfile import (
    MAX_FILE,
    already_there,
    key_in_text,
    lexists,
    load_key,
    load_or_create_key,
    read_key_file,
    unwrapped,
    write_key,
)
from pyp2p.peer.keys import Identity, KeyType


def new(options: argparse.Namespace, out: Output) -> int:
    """`key new FILE`."""
    path = Path(options.file)
    with _told(path):
        if not options.force and os.path.lexists(path):  # before RSA takes its time
            raise already_there(path)
        identity = Identity.generate(KeyType[options.type.upper()], entropy=os.urandom)
        write_key(path, identity, replace=options.force)
    facts = {"file": str(path), "type": options.type, "peer_id": str(identity.peer)}
    rows = [("peer id", str(identity.peer)), ("type", options.type), ("file", f"{path} (only you can read it)")]
    out.emit("key", facts, render.fields(rows, out.style))
    return OK


def show(options: argparse.Namespace, out: Output) -> int:
    """`key show FILE|TEXT`."""
    given = options.text
    peer = peer_of(given) if not lexists(given) else None
    if peer is not None:
        return addr.show("key", given, explain_peer(peer), out)
    raw = _from_text(given) if not lexists(given) else None
    if raw is None:
        if given.startswith(("1", "Qm")) and "." not in given and not lexists(given):
            return addr.show("key", given, explain_peer_text(given), out)
        with _told(Path(given)):
            raw = read_key_file(Path(given))
    return addr.show("key", "", explain_key(unwrapped(raw)), out)


def load_or_create(name: str, out: Output, key_type: KeyType = KeyType.ED25519) -> Identity:
    """The identity in the key file `name`; a missing one is made, of `key_type`, and said so. Raises `UsageError`."""
    path = Path(name)
    with _told(path):
        identity, made = load_or_create_key(path, key_type, os.urandom)
    if made:
        out.error(f"made a new key in {path}: {identity.peer}")
    return identity


def load(path: Path) -> Identity:
    """The identity in a key file. Raises `UsageError`."""
    with _told(path):
        return load_key(path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of key files as the command tells them, with advice."""
    try:
        yield
    except KeyFileExists as error:
        raise UsageError(str(error), "Whoever loses a key loses the peer id: --force replaces it.") from None
    except NoKeyInFile as error:
        raise UsageError(str(error), f"See `pyp2p key show {printable(str(path), 200)}`") from None
    except KeyFileError as error:
        raise UsageError(str(error)) from None


def _from_text(given: str) -> bytes | None:
    """A key given in place of a file."""
    if len(given) > MAX_FILE:
        raise UsageError(f"a text of {len(given)} characters is no key")
    return key_in_text(given)
