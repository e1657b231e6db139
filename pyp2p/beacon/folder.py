"""Blocks in a folder, one file each, named by slot and root: `000000000042-d3adb33f....ssz`.

Rules: a file is written beside its name and renamed, so what has a block's name is whole; whoever reads it judges it
all the same. A file without bytes, `dropped-` and a chain's root, says that its first blocks were taken out. No trio
here: these block for as long as a disk takes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

logger = logging.getLogger("pyp2p.beacon")

_NAME = re.compile(r"([0-9]{12,20})-([0-9a-f]{64})\.ssz")
_MOST_BYTES = 10 * 1024 * 1024  # MAX_PAYLOAD_SIZE


class BlockFolder:
    """A folder of blocks, made when it is not there. Raises `OSError` for one that cannot be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def add(self, slot: int, root: bytes, ssz: bytes) -> None:
        """Keep a block; one that cannot be written is warned of, and asked of peers again after a restart."""
        name = self._file(slot, root)
        fresh = name.with_suffix(".new")
        try:
            fresh.write_bytes(ssz)
            fresh.replace(name)
        except OSError as error:
            logger.warning("block not kept file=%s error=%s", name, error)

    def drop(self, blocks: Iterable[tuple[int, bytes]], chain: bytes) -> None:
        """Take out blocks, by slot and root, of this chain; one that cannot be is warned of, and stays.

        `chain` is its `genesis_validators_root`.
        """
        for slot, root in blocks:
            name = self._file(slot, root)
            try:
                self._mark(chain).touch()  # before: without it, nobody would believe what is left
                name.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("block not taken out file=%s error=%s", name, error)

    def begins_late(self, chain: bytes) -> bool:
        """True when the first blocks of the chain may have been taken out."""
        return self._mark(chain).exists()

    def _file(self, slot: int, root: bytes) -> Path:
        return self.path / f"{slot:012d}-{root.hex()}.ssz"

    def _mark(self, chain: bytes) -> Path:
        return self.path / f"dropped-{chain.hex()}"

    def blocks(self) -> Iterator[bytes]:
        """All blocks, the lowest slot first; what has no block's name is left out, what cannot be read warned of."""
        names = [each for each in self.path.iterdir() if _NAME.fullmatch(each.name)]
        for name in sorted(names, key=lambda each: (int(each.name.partition("-")[0]), each.name)):
            try:
                if not name.is_file():  # a pipe would never end
                    raise OSError("no regular file")
                if name.stat().st_size <= _MOST_BYTES:
                    yield name.read_bytes()
            except OSError as error:
                logger.warning("block not read file=%s error=%s", name, error)
