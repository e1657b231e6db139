"""`pyp2p key new` and `pyp2p key show`: identities in files.

Rules: a key file holds the PrivateKey protobuf, as go- and rust-libp2p write it, readable by its owner alone. It is
written under another name and put in place in one step; a file that is there is not replaced unless asked for.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import os
import secrets
from pathlib import Path

from pyp2p.cli import addr, render
from pyp2p.cli.explain import explain_key, explain_peer, explain_peer_text, hex_of, peer_of
from pyp2p.cli.failure import OK, UsageError
from pyp2p.cli.output import Output
from pyp2p.errors import InvalidKey, printable
from pyp2p.peer.keys import Identity, KeyType

MAX_FILE = 16 * 1024  # the longest key, RSA with 8192 bits in base64, takes 6,500 bytes


def new(options: argparse.Namespace, out: Output) -> int:
    """`key new FILE`."""
    path = Path(options.file)
    if not options.force and os.path.lexists(path):  # before RSA takes its time
        raise _exists(path)
    identity = Identity.generate(KeyType[options.type.upper()], entropy=os.urandom)
    write_key(path, identity, replace=options.force)
    facts = {"file": str(path), "type": options.type, "peer_id": str(identity.peer)}
    rows = [("peer id", str(identity.peer)), ("type", options.type), ("file", f"{path} (only you can read it)")]
    out.emit("key", facts, render.fields(rows, out.style))
    return OK


def show(options: argparse.Namespace, out: Output) -> int:
    """`key show FILE|TEXT`."""
    given = options.text
    peer = peer_of(given) if not _is_file(given) else None
    if peer is not None:
        return addr.show("key", given, explain_peer(peer), out)
    raw = _from_text(given) if not _is_file(given) else None
    if raw is None:
        if given.startswith(("1", "Qm")) and "." not in given and not _is_file(given):
            return addr.show("key", given, explain_peer_text(given), out)
        raw = read_file(Path(given))
    return addr.show("key", "", explain_key(_unwrapped(raw)), out)


def load_or_create(name: str, out: Output, key_type: KeyType = KeyType.ED25519) -> Identity:
    """The identity in the key file `name`; a missing one is made, of `key_type`, and said so. Raises `UsageError`."""
    path = Path(name)
    if os.path.lexists(path):
        return load(path)
    identity = Identity.generate(key_type, entropy=os.urandom)
    write_key(path, identity, replace=False)
    out.error(f"made a new key in {path}: {identity.peer}")
    return identity


def load(path: Path) -> Identity:
    """The identity in a key file. Raises `UsageError`."""
    raw = read_file(path)
    try:
        return Identity.from_protobuf(_unwrapped(raw))
    except InvalidKey as error:
        raise UsageError(
            f"{_shown(path)} holds no private key: {error}", f"See `pyp2p key show {_shown(path)}`"
        ) from None


def read_file(path: Path) -> bytes:
    """The bytes of a key file, bounded. Raises `UsageError`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UsageError(f"cannot read {_shown(path)}: {_why(error)}") from None
    if len(raw) > MAX_FILE:
        raise UsageError(f"{_shown(path)} is no key file: it has more than {MAX_FILE} bytes")
    return raw


def write_key(path: Path, identity: Identity, *, replace: bool) -> None:
    """Put a key in place in one step, with mode 0600. Raises `UsageError` when it is there and not to be replaced."""
    if not path.name:
        raise UsageError(f"'{printable(str(path), 60)}' is a directory, no name for a key file")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(identity.to_protobuf())
                file.flush()
                os.fsync(file.fileno())
            if replace:
                draft.replace(path)
            else:
                os.link(draft, path)  # fails when the name is taken, even if only since a moment ago
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        raise _exists(path) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {_shown(path)}: {_why(error)}") from None


def _exists(path: Path) -> UsageError:
    return UsageError(f"{_shown(path)} is there already", "Whoever loses a key loses the peer id: --force replaces it.")


def _is_file(given: str) -> bool:
    try:
        return os.path.lexists(given)
    except ValueError:
        return False


def _from_text(given: str) -> bytes | None:
    """A key given in place of a file."""
    if len(given) > MAX_FILE:
        raise UsageError(f"a text of {len(given)} characters is no key")
    found = hex_of(given)
    return found if found is not None else _base64(given)


def _unwrapped(raw: bytes) -> bytes:
    """The protobuf of a key file, which some programs write in hex or base64."""
    if raw[:1] == b"\x08":
        return raw
    text = raw.decode("ascii", "replace").strip()
    inner = hex_of(text) or _base64(text)
    return raw if inner is None else inner


def _base64(text: str) -> bytes | None:
    """The key protobuf that `text` writes in base64, if it does."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if raw[:1] == b"\x08" else None


def _shown(path: Path) -> str:
    return printable(str(path), 200)


def _why(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "not a file name"
