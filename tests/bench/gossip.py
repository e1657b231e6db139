"""The pubsub side of the bench peer: one counts what arrives, one publishes."""

import argparse
import json
import os
import time

import trio

from pyp2p.cli.eth2 import settings
from pyp2p.pubsub.ids import default_message_id
from pyp2p.pubsub.params import GossipParams
from pyp2p.pubsub.service import Pubsub, open_pubsub

WINDOW = 64  # messages under way: an application that publishes much does not wait for each


def options(sign: str) -> dict:
    """The keyword arguments of `open_pubsub`."""
    if sign == "eth2":
        return settings()
    return {"params": GossipParams(max_rpc_size=10 * 1024 * 1024), "message_id": default_message_id}


async def count_messages(pubsub: Pubsub, flags: argparse.Namespace) -> None:
    """Count `--count` messages and say how fast they came."""
    async with pubsub.subscribe(flags.topic, max_count=1_000_000, max_bytes=1 << 34) as messages:
        number = size = 0
        first = last = 0.0
        async for message in messages:
            last = time.perf_counter()
            first = first or last
            number += 1
            size += len(message.payload)
            if number == flags.count:
                break
    seconds = last - first
    print(json.dumps({"n": number, "bytes": size, "secs": seconds, "per_sec": (number - 1) / seconds}), flush=True)


async def publish_messages(pubsub: Pubsub, flags: argparse.Namespace) -> None:
    """Publish `--count` messages of `--size` bytes, `WINDOW` of them at a time."""
    await pubsub.wait_for_peers(flags.topic, flags.peers)
    body = os.urandom(flags.size)  # incompressible, or snappy makes this about nothing
    left = iter(range(flags.count))
    expired = 0

    async def work() -> None:
        nonlocal expired
        for number in left:
            done = await pubsub.publish(flags.topic, number.to_bytes(8, "big") + body[8:])
            expired += len(done.expired)

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(WINDOW):
            nursery.start_soon(work)
    seconds = time.perf_counter() - started
    print(json.dumps({"n": flags.count, "per_sec": flags.count / seconds, "expired": expired}), flush=True)


async def listen(node, flags: argparse.Namespace) -> None:
    """Listen and count."""
    async with open_pubsub(node, **options(flags.sign)) as pubsub:
        print("LISTEN", node.multiaddrs[0], flush=True)
        await count_messages(pubsub, flags)


async def publish(node, flags: argparse.Namespace) -> None:
    """Dial and publish; what is queued by then is on its way when this ends."""
    async with open_pubsub(node, **options(flags.sign)) as pubsub:
        for address in flags.target.split(","):
            await node.connect(address)
        await publish_messages(pubsub, flags)
        await trio.sleep(flags.linger)
