"""A client's whole networking: three nodes of a made-up chain, one makes blocks, one comes late and catches up.

Nothing here is only for show: a client of a real chain does the same with its own judgement of blocks.
"""
# ruff: noqa: T201 - an example prints

import tempfile
import time
from pathlib import Path

import trio

from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.follow import load_blocks, open_follower
from pyp2p.beacon.network import BeaconNetwork


async def main() -> None:
    """Start, follow, come late."""
    chain = dev_chain(int(time.time()) - 10, slot_duration_ms=1000)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            BeaconNetwork(BeaconConfig(chain)) as maker_net,
            open_follower(maker_net) as maker,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(maker.produce)
            await trio.sleep(2.5)  # its first blocks, which nobody hears of
            bootnodes = (maker_net.enr,)

            config = BeaconConfig(chain, data=Path(folder) / "node", bootnodes=bootnodes)
            blocks = await load_blocks(chain, Path(folder) / "blocks")
            net = BeaconNetwork(config)
            net.status = blocks.status  # before anybody asks
            async with net, open_follower(net, blocks) as follower:
                async with follower.watch() as news:
                    print("joined by", await net.connect_to_network() == maker_net.peer)
                    seen: set[str] = set()
                    async for event in news:
                        how = getattr(event, "how", "caught up")
                        if how not in seen:
                            seen.add(how)
                            print("first news by", how)
                        if seen >= {"range", "caught up", "gossip"}:
                            break
                peer = net.peers()[0]
                print("its client is", (peer.agent or "").partition("/")[0], "and it earned credit:", peer.score > 0)
                print("blocks in the folder:", len(list((Path(folder) / "blocks").iterdir())) == len(follower.tree) - 1)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
