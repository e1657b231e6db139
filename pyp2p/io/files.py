"""Small files that are kept over restarts: read whole and bounded, replaced in one step, set aside when corrupt.

Rules: regular files only; a symbolic link stays one, and leads to what is replaced. What a replacement left half done
when the process was killed is no harm. All block for as long as a disk takes. No trio here.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from pyp2p.errors import describe


def resolved(path: Path) -> Path:
    """The file that `path` leads to, there or not. Raises `OSError` for a device, a FIFO, a directory and the like."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "a directory, not a regular file", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
    return Path(os.path.realpath(path))


def read_text(path: Path, limit: int) -> str | None:
    """What the file holds, None when there is none.

    Raises `ValueError` for more than `limit` bytes and for what is no UTF-8, `OSError` for what cannot be read.
    """
    try:
        with open(resolved(path), "rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError:
        return None
    if len(raw) > limit:
        raise ValueError(f"more than {limit} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:  # whose text would show the bytes
        raise ValueError(f"no UTF-8 at byte {error.start}") from None


def replace(path: Path, text: str) -> None:
    """Replace the file as a whole; it is there for good when this returns. Raises `OSError`; the old one stays then."""
    path = resolved(path)
    fresh = path.with_name(f"{path.name}.new.{os.getpid()}")
    try:
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise
    with suppress(OSError):  # some file systems have no such thing, and the file is whole all the same
        _sync_directory(path.parent)


def set_aside(path: Path, error: Exception, logger: logging.Logger, suffix: str = ".corrupt") -> bool:
    """Rename the file to `NAME.corrupt`, in place of an earlier one, and warn; False when it had to stay."""
    path = resolved(path)
    aside = path.with_name(path.name + suffix)
    why = describe(error)
    try:
        os.replace(path, aside)
    except OSError as refused:
        logger.warning("unusable, and cannot be set aside file=%s error=%s refused=%s", path, why, refused)
        return False
    logger.warning("set aside file=%s error=%s", aside, why)
    return True


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
