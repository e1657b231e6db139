"""Ask many nodes who they are, a few at a time: `python examples/crawl.py [MULTIADDR ...]`.

Without addresses it starts three nodes on this machine and crawls those, and an address where nobody is.
"""
# ruff: noqa: T201 - an example prints

import sys
from contextlib import AsyncExitStack

import trio

import pyp2p
from pyp2p.errors import printable

CONCURRENCY = 8  # connections under way: descriptors here, and strangers may be slow to answer
PATIENCE = 10  # seconds for one node, from the first packet to its description
CONFIG = pyp2p.SwitchConfig(agent="example-crawler/1", heartbeat=False)


async def visit(crawler: pyp2p.Switch, address: str) -> str:
    """One line about the node at `address`; the connection is closed again."""
    connection = None
    try:
        with trio.fail_after(PATIENCE):
            connection = await crawler.connect(address)
    except pyp2p.DialFailed as failure:
        furthest = failure.furthest
        return "no address" if furthest is None else f"failed at {furthest.stage.value}: {furthest.reason}"
    except trio.TooSlowError:
        return f"no answer within {PATIENCE} s"
    except (pyp2p.P2PError, ValueError) as error:  # an address that is none, our own limits, ourselves
        return printable(str(error))
    finally:
        if connection is not None:
            await connection.aclose()
    info = connection.info
    if info is None:
        return f"{connection.peer} does not say what it is"
    # What a stranger calls itself may hold control characters: never print it as it is.
    return f"{connection.peer} {printable(info.agent or 'no agent')} serves {len(info.protocols or ())} protocols"


async def crawl(addresses: list[str]) -> None:
    """Visit all addresses and print a line as soon as each is known."""
    places = trio.CapacityLimiter(CONCURRENCY)

    async def one(address: str) -> None:
        async with places:
            print(f"{address}  {await visit(crawler, address)}")

    async with pyp2p.open_switch(config=CONFIG) as crawler, trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(one, address)


async def main() -> None:
    """Crawl what was named, or a small network of our own."""
    async with AsyncExitStack() as nodes:
        addresses = sys.argv[1:]
        if not addresses:
            for number in (1, 2, 3):
                config = pyp2p.SwitchConfig(agent=f"example-node/{number}", ping=number != 3)
                node = pyp2p.open_switch(listen=["/ip4/127.0.0.1/tcp/0"], config=config)
                addresses += [str(address) for address in (await nodes.enter_async_context(node)).multiaddrs]
            addresses.append("/ip4/127.0.0.1/tcp/1")
        await crawl(addresses)


trio.run(main)
