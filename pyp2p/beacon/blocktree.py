"""Blocks by what they are built on: which of them make the chain, and what is to be served of it.

Rules: pure. The head is the block with the most ancestors, of equals the one with the lower root: a rule for chains
without votes, the same at every node. The oldest blocks go when there are too many, or when they take too much memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol


class Block(Protocol):
    """What is known of a block: `ssz` is its whole."""

    @property
    def slot(self) -> int:
        """When it was made."""
        ...

    @property
    def root(self) -> bytes:
        """What its children name."""
        ...

    @property
    def parent_root(self) -> bytes:
        """What it is built on."""
        ...

    @property
    def ssz(self) -> bytes:
        """The `SignedBeaconBlock`."""
        ...


@dataclass(frozen=True, slots=True)
class _Placed:
    block: Block
    height: int


class BlockTree:
    """At most `most` blocks of `most_bytes` in all, but always the head; the first one stands for all before it.

    `dropped` is told of each block that goes.
    """

    def __init__(
        self,
        anchor: Block,
        most: int = 65_536,
        most_bytes: int = 512 * 1024 * 1024,
        dropped: Callable[[Block], None] | None = None,
    ) -> None:
        self._dropped = dropped
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = len(anchor.ssz)
        self._blocks: dict[bytes, _Placed] = {anchor.root: _Placed(anchor, 0)}
        self._head = self._blocks[anchor.root]
        self._by_slot: dict[int, Block] = {anchor.slot: anchor}  # the chain that ends in the head, in order

    def __contains__(self, root: bytes) -> bool:
        return root in self._blocks

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def head(self) -> Block:
        """The last block of the chain."""
        return self._head.block

    @property
    def first_slot(self) -> int:
        """The slot of the oldest block of the chain that is here."""
        return next(iter(self._by_slot))

    def get(self, root: bytes) -> Block | None:
        """A block by its root."""
        placed = self._blocks.get(root)
        return None if placed is None else placed.block

    def add(self, block: Block) -> bool:
        """Add a block whose parent is here; False for one that is here already. Raises `KeyError` without its parent,
        `ValueError` for a slot that is not after its parent's.
        """
        if block.root in self._blocks:
            return False
        parent = self._blocks[block.parent_root]
        if block.slot <= parent.block.slot:
            raise ValueError(f"a block of slot {block.slot} on one of slot {parent.block.slot}")
        placed = self._blocks[block.root] = _Placed(block, parent.height + 1)
        self._bytes += len(block.ssz)
        if (-placed.height, block.root) < (-self._head.height, self.head.root):
            self._move_head(placed)
        while len(self._blocks) > 1 and (len(self._blocks) > self._most or self._bytes > self._most_bytes):
            self._drop_oldest()
        return True

    def chain(self, start: int, count: int) -> Iterator[Block]:
        """The blocks of the chain in these slots, in order."""
        end = min(start + count, self.head.slot + 1)
        yield from (self._by_slot[slot] for slot in range(max(start, 0), end) if slot in self._by_slot)

    def back_from(self, root: bytes, count: int) -> Iterator[Block]:
        """A block and those that it is built on, `count` at most, newest first; none when it is not here."""
        for _ in range(count):
            placed = self._blocks.get(root)
            if placed is None:
                return
            yield placed.block
            root = placed.block.parent_root

    def _move_head(self, placed: _Placed) -> None:
        self._head = placed
        fresh: dict[int, Block] = {}
        step: _Placed | None = placed
        while step is not None and self._by_slot.get(step.block.slot) is not step.block:
            fresh[step.block.slot] = step.block
            step = self._blocks.get(step.block.parent_root)
        branch = -1 if step is None else step.block.slot
        for slot in list(takewhile(lambda slot: slot > branch, reversed(self._by_slot))):
            del self._by_slot[slot]
        self._by_slot.update(sorted(fresh.items()))

    def _drop_oldest(self) -> None:
        root = next(root for root, placed in self._blocks.items() if placed is not self._head)
        block = self._blocks.pop(root).block
        self._bytes -= len(block.ssz)
        if self._by_slot.get(block.slot) is block:
            del self._by_slot[block.slot]
        if self._dropped is not None:
            self._dropped(block)
