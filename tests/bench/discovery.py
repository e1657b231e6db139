"""pyp2p as a discv5 bench peer, with the sub-commands, flags and lines of go-discv5 and js-discv5 (docs/interop.md).

python -m tests.bench.discovery listen
python -m tests.bench.discovery ping|talkreq|sessions ENR [--count N --concurrency C]
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import trio

from pyp2p.discv5.enr import Enr
from pyp2p.discv5.service import Discv5, open_discv5
from pyp2p.errors import DiscoveryError
from pyp2p.peer.keys import Identity, KeyType

TALK = 32  # bytes of a request and its answer


def fresh():
    """A node with a new key on any port, which knows nobody."""
    return open_discv5(Identity.generate(KeyType.SECP256K1, entropy=os.urandom))


async def listen(_: argparse.Namespace) -> None:
    async with fresh() as node:

        async def echo(_: Enr, request: bytes) -> bytes:
            return request

        node.serve(b"echo", echo)
        print("LISTEN", node.record.text, flush=True)
        await trio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)


async def rate(flags: argparse.Namespace, request: Callable[[int, int], Awaitable[None]]) -> None:
    """Call `request(caller, i)` `--count` times from `--concurrency` callers and say how long it took."""
    left = iter(range(flags.count))
    fails = 0

    async def call(caller: int) -> None:
        nonlocal fails
        for i in left:
            try:
                await request(caller, i)
            except DiscoveryError as error:
                fails += 1
                print(error, file=sys.stderr)

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for caller in range(flags.concurrency):
            nursery.start_soon(call, caller)
    seconds = time.perf_counter() - started
    done = flags.count - fails
    print(json.dumps({"n": done, "fails": fails, "secs": seconds, "per_sec": done / seconds}), flush=True)


async def requests(flags: argparse.Namespace) -> None:
    """Requests in sessions that stand, each caller's from a node of its own: the handshake is not counted."""
    there = Enr.from_text(flags.target)
    words = os.urandom(TALK)
    async with AsyncExitStack() as stack:
        nodes: list[Discv5] = [await stack.enter_async_context(fresh()) for _ in range(flags.concurrency)]
        for node in nodes:
            await node.ping(there)

        async def ping(caller: int, _: int) -> None:
            await nodes[caller].ping(there)

        async def talk(caller: int, _: int) -> None:
            if await nodes[caller].talk(there, b"echo", words) != words:
                raise SystemExit("the echo differs")

        await rate(flags, ping if flags.command == "ping" else talk)


async def sessions(flags: argparse.Namespace) -> None:
    """Handshakes: each ping comes from a node that nobody has seen, made before the clock starts."""
    there = Enr.from_text(flags.target)
    async with AsyncExitStack() as stack:
        nodes: list[Discv5] = [await stack.enter_async_context(fresh()) for _ in range(flags.count)]

        async def ping(_: int, i: int) -> None:
            await nodes[i].ping(there)

        await rate(flags, ping)


COMMANDS = {"listen": listen, "ping": requests, "talkreq": requests, "sessions": sessions}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.discovery")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("target", nargs="?", default="")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=1)
    flags = parser.parse_args()
    trio.run(COMMANDS[flags.command], flags)


if __name__ == "__main__":
    main()
