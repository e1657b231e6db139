"""A mesh of all implementations, two nodes of each: everything arrives everywhere, once."""

from contextlib import AsyncExitStack

import pytest
import trio

from tests.interop import peers
from tests.interop.gossip_support import SIGNS, Member, options, ours, theirs

MESSAGES = 20  # of each node
SIZES = (40, 300, 2_000, 20_000)
QUIET = 5.0  # seconds after the last delivery in which nothing may come a second time
PATIENCE = 50.0


async def _heard(node: Member, others: list[Member]) -> None:
    wanted = {sha256 for other in others if other is not node for sha256 in other.said}
    await node.until(lambda: wanted <= node.heard.keys())


@pytest.mark.parametrize("sign", SIGNS)
async def test_every_message_arrives_once_at_every_other_node(sign: str) -> None:
    for language in peers.LANGUAGES:
        peers.require(language)
    nodes: list[Member] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            for name in ("pyp2p 1", "pyp2p 2"):
                nodes.append(await stack.enter_async_context(ours(nursery, name, **options(sign))))
            await nodes[1].switch.connect(nodes[0].address)
            for language in [*peers.LANGUAGES, *peers.LANGUAGES]:
                flags = ["--sign", sign]
                for earlier in nodes:
                    flags += ["--connect", earlier.address]
                nodes.append(await stack.enter_async_context(theirs(nursery, language, *flags)))
            for node in nodes:
                await node.until(lambda node=node: node.crowd()[0] == len(nodes) - 1 and node.crowd()[1] >= 4)

            for number in range(MESSAGES):
                for place, node in enumerate(nodes):
                    await node.publish(SIZES[number % len(SIZES)], 1000 * place + number)
                for node in nodes:  # rust drops what waits for more than a second
                    await _heard(node, nodes)

            with trio.move_on_after(QUIET):
                await trio.sleep_forever()
            for node in nodes:
                everything = {sha256: 1 for other in nodes if other is not node for sha256 in other.said}
                assert node.heard == everything, node.name
            assert sum(len(node.said) for node in nodes) == len(nodes) * MESSAGES
            for node in nodes[:2]:
                lost = {key: n for key, n in node.pubsub.counters.items() if "dropped" in key[0] or "reject" in key[0]}
                assert not {key for key in lost if "unwanted" not in key[0]}
            nursery.cancel_scope.cancel()
