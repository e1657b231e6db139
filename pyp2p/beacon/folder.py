"""Blocks in a folder, one file each, named by slot and root: `000000000042-d3adb33f....ssz`.

Rules: a file is written beside its name and renamed, so what has a block's name is whole; whoever reads it judges it
all the same. No trio here: these block for as long as a disk takes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
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
        name = self.path / f"{slot:012d}-{root.hex()}.ssz"
        fresh = name.with_suffix(".new")
        try:
            fresh.write_bytes(ssz)
            fresh.replace(name)
        except OSError as error:
            logger.warning("block not kept file=%s error=%s", name, error)

    def blocks(self) -> Iterator[bytes]:
        """All blocks, the lowest slot first; what has no block's name is left out, what cannot be read warned of."""
        names = [each for each in self.path.iterdir() if _NAME.fullmatch(each.name)]
        for name in sorted(names, key=lambda each: (int(each.name.partition("-")[0]), each.name)):
            try:
                if name.stat().st_size <= _MOST_BYTES:
                    yield name.read_bytes()
            except OSError as error:
                logger.warning("block not read file=%s error=%s", name, error)
