"""A block of our own is told once, as ours."""

from contextlib import AsyncExitStack

import trio

from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.follow import Follower, Imported, open_follower
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.testing import Sim, simulated
from pyp2p.testing.run import EPOCH


@simulated()
async def test_a_block_of_our_own_is_told_once_although_gossip_delivers_it_to_us_too(sim: Sim) -> None:
    chain = dev_chain(int(EPOCH))

    async def node(name: str, stack: AsyncExitStack, **more: object) -> Follower:
        host = sim.net.host(name)
        config = BeaconConfig(chain, listen=((host.ips[0], 9000),), **more)  # type: ignore[arg-type]
        net = BeaconNetwork(config, platform=sim.platform(name), transports=[host.transport], bind=host.bind_udp)
        await stack.enter_async_context(net)
        return await stack.enter_async_context(open_follower(net))

    async with AsyncExitStack() as stack:
        maker = await node("maker", stack)
        other = await node("other", stack, bootnodes=(maker.net.enr,))
        told: list[tuple[str, bool]] = []
        seen: list[str] = []
        own = await stack.enter_async_context(maker.watch())
        theirs = await stack.enter_async_context(other.watch())
        nursery = await stack.enter_async_context(trio.open_nursery())

        async def note(of: Follower) -> None:
            async for event in own if of is maker else theirs:
                assert isinstance(event, Imported)
                if of is maker:
                    told.append((event.how, event.source is None))
                else:
                    seen.append(event.how)

        nursery.start_soon(note, maker)
        nursery.start_soon(note, other)
        await other.net.connect_to_network()
        await trio.sleep(3)
        slot = await maker.net.clock.next_slot()
        await maker.produce_one(slot)
        await trio.sleep(0.5)
        assert seen == ["gossip"]
        assert told == [("own", True)]
        nursery.cancel_scope.cancel()
