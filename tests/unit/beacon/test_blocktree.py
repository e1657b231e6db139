"""Blocks by what they are built on, held against a model that looks at everything each time."""

import hashlib
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.beacon.blocktree import BlockTree


@dataclass(frozen=True)
class Made:
    slot: int
    root: bytes
    parent_root: bytes
    ssz: bytes = b""


def made(slot: int, parent: Made | None = None, name: str = "") -> Made:
    said = f"{slot}{name}".encode() + (b"" if parent is None else parent.root)
    return Made(slot, hashlib.sha256(said).digest(), bytes(32) if parent is None else parent.root)


GENESIS = made(0)


def line(parent: Made, *slots: int, name: str = "") -> list[Made]:
    blocks = []
    for slot in slots:
        parent = made(slot, parent, name)
        blocks.append(parent)
    return blocks


def test_a_line_of_blocks_is_the_chain() -> None:
    tree = BlockTree(GENESIS)
    blocks = line(GENESIS, 1, 2, 5, 9)
    assert [tree.add(block) for block in blocks] == [True] * 4
    assert (tree.head, tree.first_slot, len(tree)) == (blocks[-1], 0, 5)
    assert list(tree.chain(2, 4)) == blocks[1:3]
    assert list(tree.chain(0, 2**64)) == [GENESIS, *blocks]
    assert list(tree.chain(-5, 6)) == [GENESIS]
    assert list(tree.chain(10, 5)) == []
    assert list(tree.back_from(blocks[2].root, 3)) == [blocks[2], blocks[1], blocks[0]]
    assert list(tree.back_from(blocks[0].root, 100)) == [blocks[0], GENESIS]
    assert list(tree.back_from(b"?" * 32, 5)) == []
    assert tree.get(blocks[0].root) is blocks[0]
    assert tree.get(b"?" * 32) is None


def test_what_is_here_is_no_news_and_what_hangs_in_the_air_is_refused() -> None:
    tree = BlockTree(GENESIS)
    first, second = line(GENESIS, 3, 4)
    with pytest.raises(KeyError):
        tree.add(second)
    assert tree.add(first)
    assert not tree.add(first)
    with pytest.raises(ValueError, match="a block of slot 3 on one of slot 3"):
        tree.add(made(3, first, "same slot"))
    assert len(tree) == 2


def test_the_longer_branch_wins_and_takes_its_slots_along() -> None:
    tree = BlockTree(GENESIS)
    (stem,) = line(GENESIS, 1)
    short, long = line(stem, 2, 7, name="s"), line(stem, 3, 4, 5, name="l")
    for block in (stem, *short, *long):
        tree.add(block)
    assert tree.head == long[-1]
    assert list(tree.chain(0, 100)) == [GENESIS, stem, *long]
    more = line(short[-1], 8, 9, name="s")
    for block in more:
        tree.add(block)
    assert list(tree.chain(0, 100)) == [GENESIS, stem, *short, *more]


def test_of_equals_the_lower_root_wins_whichever_came_first() -> None:
    twins = sorted((made(1, GENESIS, "a"), made(1, GENESIS, "b")), key=lambda block: block.root)
    for order in (twins, twins[::-1]):
        tree = BlockTree(GENESIS)
        for block in order:
            tree.add(block)
        assert tree.head == twins[0]
        assert list(tree.chain(1, 1)) == [twins[0]]


@pytest.mark.hostile
def test_hostile_098_the_oldest_go_when_there_are_too_many() -> None:
    tree = BlockTree(GENESIS, most=4)
    blocks = line(GENESIS, *range(1, 10))
    for block in blocks:
        tree.add(block)
    assert len(tree) == 4
    assert tree.first_slot == 6
    assert list(tree.chain(0, 100)) == blocks[5:]
    assert list(tree.back_from(blocks[-1].root, 100)) == blocks[:4:-1]
    assert GENESIS.root not in tree


@pytest.mark.hostile
def test_hostile_098_a_flood_of_branches_never_pushes_out_the_head() -> None:
    tree = BlockTree(GENESIS, most=3)
    (head, top) = line(GENESIS, 1, 2)
    tree.add(head)
    tree.add(top)
    for number in range(10):
        tree.add(made(3 + number, head, f"branch {number}")) if head.root in tree else None
    assert top.root in tree
    assert tree.head == top
    assert len(tree) <= 3


@pytest.mark.hostile
def test_hostile_098_the_oldest_go_when_they_take_too_much_memory() -> None:
    tree = BlockTree(GENESIS, most_bytes=1000)
    blocks = [replace(block, ssz=bytes(300)) for block in line(GENESIS, *range(1, 6))]
    for block in blocks:
        tree.add(block)
    assert list(tree.chain(0, 100)) == blocks[2:]
    (large,) = line(blocks[-1], 9)
    tree.add(replace(large, ssz=bytes(900)))
    assert [block.slot for block in tree.chain(0, 100)] == [9]
    (larger,) = line(large, 10)
    tree.add(replace(larger, ssz=bytes(5000)))
    assert (tree.head.slot, len(tree), tree.first_slot) == (10, 1, 10)
    (small,) = line(larger, 11)
    tree.add(small)
    assert (tree.head, len(tree)) == (small, 1)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3)), max_size=40), st.randoms(use_true_random=False))
def test_any_tree_is_as_the_model_says(shape: list[tuple[int, int]], rng) -> None:
    tree = BlockTree(GENESIS)
    blocks, height = [GENESIS], {GENESIS.root: 0}
    for number, (at, step) in enumerate(shape):
        parent = blocks[at % len(blocks)]
        block = made(parent.slot + step, parent, str(number))
        blocks.append(block)
        height[block.root] = height[parent.root] + 1
        tree.add(block)
        head = min(blocks, key=lambda each: (-height[each.root], each.root))
        assert tree.head == head
        chain = [head]
        while chain[-1].slot:
            chain.append(next(each for each in blocks if each.root == chain[-1].parent_root))
        assert list(tree.chain(0, 1000)) == chain[::-1]
        assert list(tree.back_from(head.root, 1000)) == chain
