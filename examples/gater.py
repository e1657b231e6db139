"""Saying no: a block list, low limits, and where each refusal shows."""
# ruff: noqa: T201 - an example prints

from collections.abc import AsyncIterator

import trio

import pyp2p
from pyp2p.switch.events import Refused, SwitchEvent

LIMITS = pyp2p.Limits(
    per_ip4=2,
    exempt_networks=(),  # by default loopback is free of the limits per address: all who are here share 127.0.0.1
)


async def knock(client: pyp2p.Switch, server: pyp2p.Switch, events: AsyncIterator[SwitchEvent] | None = None) -> None:
    """Try to connect; show what the dialer can know of a refusal, and (with `events`) what the server tells of it."""
    try:
        await client.connect(server.multiaddrs[0], ignore_backoff=True)  # else a second try has to wait for seconds
        print("  the dialer sees: connected")
    except pyp2p.DialFailed as failure:
        print(f"  the dialer sees: failed at {failure.attempts[0].stage.value}")
    if events is not None:
        async for event in events:
            if isinstance(event, Refused):
                print(f"  the server tells: {event.code}, {event.count} time")
                return


async def main() -> None:
    """One server with rules, and clients that are stopped by one rule each, at different stages."""
    rules = pyp2p.BlockList(clock=trio.current_time)
    config = pyp2p.SwitchConfig(limits=LIMITS)
    async with (
        pyp2p.open_switch(listen=["/ip4/127.0.0.1/tcp/0"], config=config, gater=rules) as server,
        pyp2p.open_switch() as one,
        pyp2p.open_switch() as two,
        pyp2p.open_switch() as three,
        server.watch() as events,
    ):
        print("a blocked peer:")
        rules.block_peer(one.peer, until=trio.current_time() + 60)
        await knock(one, server, events)  # its id is proven last: by then the dialer thinks that it is connected
        rules.unblock_peer(one.peer)

        print("a blocked network:")
        rules.block_network("127.0.0.0/8")
        await knock(one, server, events)  # closed before one byte is read
        rules.unblock_network("127.0.0.0/8")

        print("more connections from one address than the limit:")
        await knock(one, server)
        await knock(two, server)
        await knock(three, server, events)

        print("a dial to a blocked network:")
        rules.block_network("192.0.2.0/24")
        try:
            await server.connect("/ip4/192.0.2.1/tcp/4001")
        except pyp2p.DialFailed as failure:
            print(f"  {failure.attempts[0].reason}")

        print("all that was refused:")
        for name, count in server.counters.items():
            if name.startswith("refused."):
                print(f"  {name} {count}")


trio.run(main)
