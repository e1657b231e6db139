"""Identities in files.

Rules: a key file holds the PrivateKey protobuf, as go- and rust-libp2p write it, readable by its owner alone; some
programs write it in hex or base64, which is read too. It is written under another name and put in place in one step; a
file that is there is not replaced unless asked for. No trio here. All block for as long as a disk takes.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from pathlib import Path

from pyp2p.errors import InvalidKey, KeyFileError, KeyFileExists, NoKeyInFile, printable
from pyp2p.io import files
from pyp2p.peer.keys import Entropy, Identity, KeyType
from pyp2p.peer.multibase import hex_of

MAX_FILE = 16 * 1024  # the longest key, RSA with 8192 bits in base64, takes 6,500 bytes


def load_or_create_key(path: Path, key_type: KeyType, entropy: Entropy) -> tuple[Identity, bool]:
    """The identity in the file, and whether it was made just now, of `key_type`. Raises `KeyFileError`."""
    if lexists(path):
        return load_key(path), False
    identity = Identity.generate(key_type, entropy=entropy)
    write_key(path, identity)
    return identity, True


def load_key(path: Path) -> Identity:
    """The identity in the file. Raises `KeyFileError`, `NoKeyInFile` when it was read."""
    raw = read_key_file(path)
    try:
        return Identity.from_protobuf(unwrapped(raw))
    except InvalidKey as error:
        raise NoKeyInFile(f"{_shown(path)} holds no private key: {error}") from None


def read_key_file(path: Path) -> bytes:
    """The bytes of a regular file, at most 16 KiB. Raises `KeyFileError`."""
    try:
        with files.resolved(path).open("rb") as file:  # a FIFO would be waited for, and nothing could end that
            raw = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise KeyFileError(f"cannot read {_shown(path)}: {_why(error)}") from None
    if len(raw) > MAX_FILE:
        raise KeyFileError(f"{_shown(path)} is no key file: it has more than {MAX_FILE} bytes")
    return raw


def write_key(path: Path, identity: Identity, *, replace: bool = False) -> None:
    """Put a key in place in one step, with mode 0600. Raises `KeyFileError`; `KeyFileExists` unless told to replace."""
    if not path.name:
        raise KeyFileError(f"'{printable(str(path), 60)}' is a directory, no name for a key file")
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
        raise already_there(path) from None
    except (OSError, ValueError) as error:
        raise KeyFileError(f"cannot write {_shown(path)}: {_why(error)}") from None


def already_there(path: Path) -> KeyFileExists:
    """The error for a file that is not to be replaced."""
    return KeyFileExists(f"{_shown(path)} is there already")


def lexists(path: Path | str) -> bool:
    """Whether there is anything of that name, if only a dangling link; False for what is no name."""
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def unwrapped(raw: bytes) -> bytes:
    """The protobuf in the bytes of a key file, which may be written in hex or base64."""
    if raw[:1] == b"\x08":
        return raw
    inner = key_in_text(raw.decode("ascii", "replace").strip())
    return raw if inner is None else inner


def key_in_text(text: str) -> bytes | None:
    """The key protobuf that `text` writes in hex or base64, if it does."""
    return hex_of(text) or _base64(text)


def _base64(text: str) -> bytes | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if raw[:1] == b"\x08" else None


def _shown(path: Path) -> str:
    return printable(str(path), 200)


def _why(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "not a file name"
