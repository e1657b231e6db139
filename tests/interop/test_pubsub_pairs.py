"""Pubsub with one node of go, rust or js: each publishes, each delivers, whoever dialled; small messages and 1 MiB."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack

import pytest

from tests.interop.pubsub_support import MEBIBYTE, Node, Ours, Theirs, digest, open_ours, open_theirs, signing

SMALL = 10  # messages each way


async def open_pair(stack: AsyncExitStack, language: str, sign: str, we_dial: bool) -> tuple[Ours, Theirs]:
    """Two nodes in each other's mesh."""
    ours = await stack.enter_async_context(open_ours(sign))
    flags = () if we_dial else ("--connect", ours.address)
    theirs = await stack.enter_async_context(open_theirs(language, sign, *flags))
    if we_dial:
        await ours.switch.connect(theirs.address)
    for node in (ours, theirs):
        await node.joined(1, 1)
    return ours, theirs


def lines(seed: int) -> list[str]:
    """Small messages, a large one among them."""
    small = [f"random:{size}:{seed + size}" for size in range(1, 1 + SMALL * 100, 100)]
    return [*small[:-1], f"random:{MEBIBYTE}:{seed}", small[-1]]


def check(author: Node, reader: Node, sign: str, published: list[str]) -> None:
    """Every message of `author` is at `reader` once, as it was, and from the right peer."""
    came = reader.all("message")
    assert sorted(event["sha256"] for event in came) == sorted(map(digest, published))
    sizes = {digest(line): int(line.split(":")[1]) for line in published}
    for event in came:
        assert event["size"] == sizes[event["sha256"]]
        assert event["from"] == (author.peer if sign == "strict" else None)
        assert event["received_from"] == author.peer


@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "they dial"])
@signing()
async def test_a_pair(language: str, sign: str, we_dial: bool) -> None:
    async with AsyncExitStack() as stack:
        ours, theirs = await open_pair(stack, language, sign, we_dial)
        from_us, from_them = lines(1_000_000), lines(2_000_000)
        await ours.publish(*from_us)
        await theirs.publish(*from_them)
        await theirs.got(from_us)
        await ours.got(from_them)
        last = ["random:50:3000001"], ["random:50:3000002"]  # a second copy of any would come before these
        await ours.publish(*last[0])
        await theirs.publish(*last[1])
        await theirs.got(last[0])
        await ours.got(last[1])
        check(ours, theirs, sign, from_us + last[0])
        check(theirs, ours, sign, from_them + last[1])
        for node in (ours, theirs):
            node.check_well()


async def test_what_was_published_just_before_the_end_arrives(language: str) -> None:
    """A connection that is closed takes along what its peer has not read yet."""
    async with open_theirs(language) as theirs:
        published = [f"random:{MEBIBYTE}:{seed}" for seed in range(8)]
        for line in published:
            async with open_ours() as ours:
                await ours.switch.connect(theirs.address)
                await ours.joined(1, 0)
                await ours.publish(line)
            await theirs.got([line])
        assert theirs.hashes() == Counter(map(digest, published))
