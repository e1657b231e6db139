"""The file of the address book: one SQLite database, read whole at the start, written in batches.

Rules: blocks; used by one thread at a time. What is no database of ours, or one of a newer version, is set aside with
its journal and begun anew; a file that is ours and cannot be used now (no access, locked, no space) is left alone. A
row that makes no sense costs that row. Every batch is one transaction, there for good when `write` returns.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from pyp2p.errors import printable
from pyp2p.io import files
from pyp2p.peer.id import PeerId

T = TypeVar("T")

logger = logging.getLogger("pyp2p.beacon")

VERSION = 1
_APPLICATION = 0x70327042  # "p2pB"
_MAX_BYTES = 128 * 1024 * 1024  # 7,000 peers with all they may have take 20 MiB
_BUSY_SECONDS = 2.0
_UNUSABLE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE peers (
    peer BLOB PRIMARY KEY, addresses TEXT NOT NULL, score REAL NOT NULL, scored REAL NOT NULL, seen REAL NOT NULL,
    agent TEXT NOT NULL, dialled INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE bans (peer BLOB PRIMARY KEY, ip TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A peer in the book; times are seconds of the wall clock."""

    addresses: tuple[str, ...] = ()  # where it may be reached, the most trusted first
    score: float = 0.0  # what it did, -100..10, as it was at `scored`
    scored: float = 0.0
    seen: float = 0.0
    agent: str = ""
    dialled: bool = False  # we reached it: one of its addresses is true


@dataclass(frozen=True, slots=True)
class BanEntry:
    """A ban: until when (wall clock), and where the peer came from, "" when unknown."""

    ip: str
    until: float


@dataclass(frozen=True, slots=True)
class Contents:
    """All that the file holds: peers by when they were seen, bans by when they end."""

    peers: dict[PeerId, Entry]
    bans: dict[PeerId, BanEntry]


class _Unusable(Exception):
    """This is no database of ours, or none that we can read."""

    def __init__(self, reason: str, suffix: str = ".corrupt") -> None:
        super().__init__(reason)
        self.suffix = suffix


class BookFile:
    """An open file; made by `open_file`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def write(
        self,
        peers: Sequence[tuple[PeerId, Entry | None]],
        bans: Sequence[tuple[PeerId, BanEntry | None]],
        *,
        anew: bool = False,
    ) -> None:
        """Put these in place of what was there of them, None: remove them; `anew`: instead of all that was there.

        Raises `sqlite3.Error`; nothing is changed then.
        """
        run = self._connection
        run.execute("BEGIN IMMEDIATE")
        try:
            if anew:
                run.execute("DELETE FROM peers")
                run.execute("DELETE FROM bans")
            run.executemany("DELETE FROM peers WHERE peer = ?", _gone(peers))
            run.executemany(
                "INSERT OR REPLACE INTO peers VALUES (?, ?, ?, ?, ?, ?, ?)",
                [_row(peer, entry) for peer, entry in peers if entry is not None],
            )
            run.executemany("DELETE FROM bans WHERE peer = ?", _gone(bans))
            run.executemany(
                "INSERT OR REPLACE INTO bans VALUES (?, ?, ?)",
                [(peer.raw, ban.ip, ban.until) for peer, ban in bans if ban is not None],
            )
            run.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled it back already
                run.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def open_file(path: Path, most_peers: int, most_bans: int) -> tuple[BookFile | None, Contents]:
    """The file, made when it is not there, and what it holds: `most_peers` seen last, `most_bans` that end last.

    Never raises: where nothing can be kept, the file is None, and a warning says why.
    """
    try:
        path = files.resolved(path)
        for _ in range(2):
            try:
                return _open(path, most_peers, most_bans)
            except _Unusable as error:
                if not _set_aside(path, error):
                    break
    except (OSError, ValueError, sqlite3.Error) as error:  # ValueError: a NUL in the name
        logger.warning("the address book is kept in memory only file=%s error=%s", path, printable(repr(error), 300))
    return None, Contents({}, {})


def _open(path: Path, most_peers: int, most_bans: int) -> tuple[BookFile, Contents]:
    if path.exists() and path.stat().st_size > _MAX_BYTES:
        raise _Unusable(f"more than {_MAX_BYTES} bytes")
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = bytes  # a text that is no UTF-8 costs its row, not the file
        _check_schema(connection)
        return BookFile(connection), Contents(_read_peers(connection, most_peers), _read_bans(connection, most_bans))
    except sqlite3.Error as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNUSABLE:
            raise _Unusable(str(error)) from None
        raise
    except BaseException:
        connection.close()
        raise


def _check_schema(connection: sqlite3.Connection) -> None:
    """Raise `_Unusable` for what is not ours; an empty file becomes ours."""
    application, version, tables = (
        connection.execute(query).fetchone()[0]
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
    )
    if (application, version, tables) == (0, 0, 0):
        connection.executescript(_SCHEMA)
    elif application != _APPLICATION:
        raise _Unusable("a database of another program")
    elif version != VERSION:
        raise _Unusable(f"version {version} instead of {VERSION}", suffix=f".version-{version}")
    elif connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != b"ok":
        raise _Unusable("damaged")


def _set_aside(path: Path, error: _Unusable) -> bool:
    for journal in ("-journal", "-wal", "-shm"):  # beside a new file they would be taken for its own
        beside = path.with_name(path.name + journal)
        if beside.exists() and not files.set_aside(beside, error, logger, error.suffix):
            return False
    return files.set_aside(path, error, logger, error.suffix)


def _read_peers(connection: sqlite3.Connection, most: int) -> dict[PeerId, Entry]:
    columns = "peer, addresses, score, scored, seen, agent, dialled"
    rows = connection.execute(f"SELECT {columns} FROM peers ORDER BY seen DESC LIMIT ?", (most,)).fetchall()
    return _each(reversed(rows), _peer)


def _read_bans(connection: sqlite3.Connection, most: int) -> dict[PeerId, BanEntry]:
    rows = connection.execute("SELECT peer, ip, until FROM bans ORDER BY until DESC LIMIT ?", (most,)).fetchall()
    return _each(reversed(rows), _ban)


def _each(rows: Iterable[Sequence[Any]], parse: Callable[[Sequence[Any]], T]) -> dict[PeerId, T]:
    """What `parse` makes of each row, by the peer in its first column; those that make no sense are counted."""
    found: dict[PeerId, T] = {}
    left_out = 0
    for row in rows:
        try:
            found[PeerId.from_bytes(row[0])] = parse(row[1:])
        except (ValueError, TypeError, AttributeError, RecursionError):
            left_out += 1
    if left_out:
        logger.warning("rows of the address book left out count=%d", left_out)
    return found


def _peer(row: Sequence[Any]) -> Entry:
    addresses = json.loads(row[0].decode("utf-8"))
    if not isinstance(addresses, list) or not all(isinstance(each, str) for each in addresses):
        raise ValueError("addresses are a list of texts")
    score, scored, seen = map(_number, row[1:4])
    return Entry(tuple(addresses), score, scored, seen, row[4].decode("utf-8"), bool(row[5]))


def _ban(row: Sequence[Any]) -> BanEntry:
    return BanEntry(row[0].decode("utf-8"), _number(row[1]))


def _number(value: Any) -> float:
    number = float(value)
    if not isfinite(number):
        raise ValueError("no finite number")
    return number


def _gone(changes: Iterable[tuple[PeerId, object]]) -> list[tuple[bytes]]:
    return [(peer.raw,) for peer, value in changes if value is None]


def _row(peer: PeerId, entry: Entry) -> tuple[bytes, str, float, float, float, str, bool]:
    addresses = json.dumps(entry.addresses)
    return peer.raw, addresses, entry.score, entry.scored, entry.seen, entry.agent, entry.dialled
