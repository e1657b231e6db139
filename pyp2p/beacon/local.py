"""The data folder of a node: who it is, what it last said of itself, and that no other process uses it.

`key` is the identity, `local.json` the metadata's sequence number, `lock` the process; `nodes.json` is discv5's, which
keeps our record with its sequence number there (`discv5/state.py`), `peers.sqlite` the book's (`book.py`).

Rules: a number that begins again is ignored by everybody, so it is in the file, and synced, before anybody hears of it;
where it is lost, it begins with the time. What makes no sense is set aside with a warning, never fatal, but for a key:
a new one would be another node. All block for as long as a disk takes. No trio here.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyp2p.errors import DataInUse, printable
from pyp2p.io import files
from pyp2p.peer.keyfile import load_or_create_key
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.platform import Platform

logger = logging.getLogger("pyp2p.beacon")

_VERSION = 1
_MAX_BYTES = 64 * 1024
_MAX_SEQ = (1 << 64) - 2  # one more must be possible
_MAX_CONTENTS = 1024


class MetadataSeq:
    """The sequence number of our metadata: it starts at 0 and grows by one with each change (eth2 p2p-interface).

    Without a `path` it is kept in memory only, as in a simulation.
    """

    def __init__(self, path: Path | None = None, first: int = 0, contents: bytes | None = None) -> None:
        self._path = path
        self._seq = first
        self._contents = contents  # what was said with it, None when that number is still to be used

    @property
    def seq(self) -> int:
        """The number that was used last, or is used next when none was."""
        return self._seq

    def of(self, contents: bytes) -> int:
        """The number to say with this metadata (its encoding without the number): the last one if that was the same.

        A new number is in the file when this returns. One that cannot be written is used all the same, with a warning:
        a full disk must not make us lie about our subnets. Raises `ValueError` for more than 1024 bytes.
        """
        if len(contents) > _MAX_CONTENTS:
            raise ValueError(f"metadata of {len(contents)} bytes, at most {_MAX_CONTENTS} are kept")
        if contents != self._contents:
            if self._contents is not None:
                self._seq += 1
            self._contents = contents
            # Two fsyncs in the caller's thread, a few milliseconds on most disks: subnets change once in many slots.
            # A thread would make all who ask wait, or tell a number that a kill takes back.
            self._save()
        return self._seq

    def _save(self) -> None:
        if self._path is None or self._contents is None:
            return
        said = {"version": _VERSION, "metadata_seq": self._seq, "metadata": self._contents.hex()}
        try:
            files.replace(self._path, json.dumps(said, indent=1))
        except OSError as error:
            logger.warning("local state not saved file=%s error=%s", self._path, error)


def load_metadata_seq(path: Path, first: int, wall: float) -> MetadataSeq:
    """What the file holds; `first` without one. One that is corrupt is set aside, and the number begins with the time.

    `wall` is in seconds. Raises `OSError` for what cannot be read, or is no regular file.
    """
    try:
        text = files.read_text(path, _MAX_BYTES)
        if text is None:
            return MetadataSeq(path, first)
        said = json.loads(text)
        version, seq, contents = said["version"], said["metadata_seq"], bytes.fromhex(said["metadata"])
        if version != _VERSION:
            raise ValueError(f"version {printable(repr(version), 60)} instead of {_VERSION}")
        if type(seq) is not int or not 0 <= seq <= _MAX_SEQ:
            raise ValueError(f"metadata_seq {printable(repr(seq), 60)} is no number from 0 to {_MAX_SEQ}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        files.set_aside(path, error, logger)
        return MetadataSeq(path, _by_time(wall))
    return MetadataSeq(path, seq, contents)


@dataclass(frozen=True, slots=True)
class DataFolder:
    """An open data folder; `nodes` and `peers` are the files of others."""

    path: Path
    identity: Identity
    metadata: MetadataSeq

    @property
    def nodes(self) -> Path:
        """The state of discv5: `open_discv5(state=...)`."""
        return self.path / "nodes.json"

    @property
    def peers(self) -> Path:
        """The address book: `open_book`."""
        return self.path / "peers.sqlite"


@contextmanager
def open_data(
    path: Path | str, *, key_type: KeyType = KeyType.SECP256K1, platform: Platform | None = None
) -> Iterator[DataFolder]:
    """Use a data folder for the length of the block; it and the key are made when they are not there.

    Raises `DataInUse` while another process does so, `KeyFileError` for a key that cannot be read, `OSError` for a
    folder that cannot be used, with the name of what it was about.
    """
    world = Platform() if platform is None else platform
    path = Path(path)
    make_folder(path)
    with _locked(path):
        identity, made = load_or_create_key(path / "key", key_type, world.entropy)
        first = 0 if made else _by_time(world.wall())  # others may remember a higher number of this key
        yield DataFolder(path, identity, load_metadata_seq(path / "local.json", first, world.wall()))


def make_folder(path: Path) -> None:
    """Make a data folder, for its owner alone, when it is not there. Raises `OSError` for one that cannot be."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "is no folder", str(path)) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the folder: the system gives it back however the process ends; the file stays."""
    descriptor = os.open(files.resolved(path / "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            _lock(descriptor, path)
        except OSError as error:  # what fails on a descriptor names no file
            raise OSError(error.errno, error.strerror, str(path / "lock")) from None
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Lock the file, and write our process id into it. Raises `DataInUse`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).strip()
        raise DataInUse(str(path), int(holder) if holder.isdigit() else None) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _by_time(wall: float) -> int:
    return min(max(0, int(wall)), _MAX_SEQ)
