"""pyp2p as a beacon node that is measured, with the sub-commands and flags of the js peer (tests/interop/js-eth2).

    python -m tests.bench.beacon listen [--blocks N --size BYTES] [--topic TOPIC] [--muxer yamux|mplex]
    python -m tests.bench.beacon bench_ping ADDR --count N --concurrency K
    python -m tests.bench.beacon bench_range ADDR --count N --size BYTES --runs N
    python -m tests.bench.beacon hold ADDR --count N [--rate PER_SECOND]

Whole `BeaconNetwork`s without discovery, quotas off. `hold` is the company of the node that is measured: so many peers
that stay, of which a few join a topic and publish on it in turn.
"""

import argparse
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

import trio

from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.containers import BeaconBlocksByRangeRequest
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.gossip import GossipMessage
from pyp2p.beacon.methods import ForkBytes
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.peer_types import PeerConfig
from pyp2p.pubsub.types import Verdict
from pyp2p.reqresp.declare import Limits
from pyp2p.switch.stream import Carrier
from tests.bench.peer import CONFIG, MUXERS, say, until_stdin_closes

# One fork for ever, begun at a time that stands still: its digest can be told to the js peer.
CHAIN = dev_chain(1_700_000_000, start="fulu", epochs_per_fork=10**9)
DIGEST = CHAIN.schedule[0].digest
KIND = "beacon_aggregate_and_proof"
TOPIC = f"/eth2/{DIGEST.hex()}/{KIND}/ssz_snappy"
MESSAGE = 500  # bytes of a message
JOINED = 8  # of those that `hold` holds, a whole mesh: the others only make the node have many peers


def accept(message: GossipMessage) -> Verdict:
    """What costs nothing."""
    return Verdict.ACCEPT


@asynccontextmanager
async def beacon(flags: argparse.Namespace, *, subnets: bool = False) -> AsyncIterator[BeaconNetwork]:
    """A node that takes as many inbound peers as come."""
    config = BeaconConfig(
        chain=CHAIN,
        discovery=False,
        long_lived_subnets=subnets,
        peers=PeerConfig(target=1_000, outbound=0.0),
        requests=Limits(quotas=False),
        switch=CONFIG,
    )
    async with BeaconNetwork(config, muxers=[MUXERS[flags.muxer]()]) as net:
        yield net


def make_block(slot: int, size: int) -> bytes:
    """What stands for a block: its slot in its place, and bytes that do not compress."""
    return (100).to_bytes(4, "little") + os.urandom(96) + slot.to_bytes(8, "little") + os.urandom(size - 108)


async def listen(flags: argparse.Namespace) -> None:
    """Serve the blocks, follow the topic."""
    blocks = [make_block(slot, flags.size) for slot in range(flags.blocks)]

    async def by_range(_: Carrier, asked: BeaconBlocksByRangeRequest) -> AsyncGenerator[ForkBytes, None]:
        for ssz in blocks[asked.start_slot : asked.start_slot + asked.count]:
            yield ForkBytes(DIGEST, ssz)

    async def follow() -> None:
        async with net.gossip.subscribe(KIND) as messages:
            async for _ in messages:
                pass

    async with beacon(flags, subnets=True) as net, trio.open_nursery() as nursery:
        net.serve(net.methods.beacon_blocks_by_range_v2, by_range)
        if flags.topic:
            net.gossip.validate(KIND, accept)
            nursery.start_soon(follow)
        print("LISTEN", net.switch.multiaddrs[0], flush=True)
        await until_stdin_closes()
        nursery.cancel_scope.cancel()


async def bench_ping(flags: argparse.Namespace) -> None:
    """So many pings, a stream each, from so many callers, on one connection."""
    async with beacon(flags) as net:
        connection = await net.switch.connect(flags.target)
        micros: list[float] = []
        left = iter(range(flags.count))

        async def work() -> None:
            for _ in left:
                asked = time.perf_counter()
                await net.reqresp.ask(connection, net.methods.ping, 0)
                micros.append((time.perf_counter() - asked) * 1e6)

        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(flags.concurrency):
                nursery.start_soon(work)
        secs = time.perf_counter() - began
    say(n=flags.count, concurrency=flags.concurrency, secs=secs, per_sec=flags.count / secs, median_us=median(micros))


async def bench_range(flags: argparse.Namespace) -> None:
    """The blocks of one range, so many times."""
    async with beacon(flags) as net:
        connection = await net.switch.connect(flags.target)
        method, asked = net.methods.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(0, flags.count)
        for _ in range(flags.runs):
            began = time.perf_counter()
            async with await net.request(connection.peer, method, asked) as answer:
                sizes = [len(chunk.ssz) async for chunk in answer]
            secs = time.perf_counter() - began
            if sizes != [flags.size] * flags.count:
                raise SystemExit(f"{len(sizes)} blocks of {sum(sizes)} bytes came")
            say(blocks=len(sizes), bytes=sum(sizes), secs=secs, MBps=sum(sizes) / secs / 1e6)


async def hold(flags: argparse.Namespace) -> None:
    """Be so many peers of a node until standard input closes, and publish."""
    heard = number = 0

    async def follow(net: BeaconNetwork) -> None:
        nonlocal heard
        net.gossip.validate(KIND, accept)
        async with net.gossip.subscribe(KIND) as messages:
            async for message in messages:
                heard += message.source is not None

    async def publish(joined: list[BeaconNetwork]) -> None:
        for net in joined:
            await net.pubsub.wait_for_peers(TOPIC, 1)
        nonlocal number
        due = trio.current_time()
        while True:
            body = number.to_bytes(8, "big") + os.urandom(MESSAGE - 8)
            await joined[number % len(joined)].gossip.publish(KIND, body)
            number += 1
            due += 1 / flags.rate
            await trio.sleep_until(due)

    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        nets = [await stack.enter_async_context(beacon(flags)) for _ in range(flags.count)]
        for net in nets:
            await net.switch.connect(flags.target)
        say(held=flags.count)
        began = trio.current_time()
        if flags.rate:
            for net in nets[:JOINED]:
                nursery.start_soon(follow, net)
            nursery.start_soon(publish, nets[:JOINED])
        await until_stdin_closes()
        lost = [each for each in nets if not each.switch.connections()]
        say(published=number, heard=heard, lost=len(lost), seconds=trio.current_time() - began)
        nursery.cancel_scope.cancel()


COMMANDS = {"listen": listen, "bench_ping": bench_ping, "bench_range": bench_range, "hold": hold}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.beacon")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("target", nargs="?", default="")
    parser.add_argument("--muxer", choices=MUXERS, default="yamux")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=0)
    parser.add_argument("--size", type=int, default=102_400)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--topic", default="")
    parser.add_argument("--digest", help="for the js peer, which has no chain of its own")
    parser.add_argument("--quiet", action="store_true", help="for the js peer: this one says nothing anyway")
    trio.run(COMMANDS[(flags := parser.parse_args()).command], flags)


if __name__ == "__main__":
    main()
