"""How `pyp2p node` gets into its network, in virtual time."""

import io
import json
from typing import Any

import trio

from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.cli.node import join
from pyp2p.cli.node_events import Feed
from pyp2p.cli.output import Output
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.testing import SeededEntropy, Sim, simulated
from pyp2p.testing.run import EPOCH

CHAIN = dev_chain(int(EPOCH))
BOOTNODE = Identity.generate(KeyType.SECP256K1, entropy=SeededEntropy("bootnode"))


def network(sim: Sim, name: str, **more: Any) -> BeaconNetwork:
    host = sim.net.host(name)
    config = BeaconConfig(CHAIN, listen=((host.ips[0], 9000),), **more)
    return BeaconNetwork(config, platform=sim.platform(name), transports=[host.transport], bind=host.bind_udp)


@simulated()
async def test_a_bootnode_that_is_not_there_is_warned_of_and_tried_until_it_is(sim: Sim) -> None:
    out = io.StringIO()
    feed = Feed(Output(as_json=True, stdout=out, stderr=None, environ={}), lambda: 0.0)
    async with network(sim, "boot", identity=BOOTNODE) as boot:
        record = boot.enr
    assert record is not None
    async with network(sim, "node", bootnodes=(record,)) as net, trio.open_nursery() as nursery:
        nursery.start_soon(join, net, feed)
        await trio.sleep(100)
        async with network(sim, "boot", identity=BOOTNODE):
            await trio.sleep(120)
        nursery.cancel_scope.cancel()
    feed.end(None, 0.0)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in told] == ["warning", "warning", "joined"]
    assert told[0]["text"] == "the bootstrap node was not reached, trying again"
    (detail,) = told[0]["details"]
    assert detail.startswith(str(record.peer_id))
    assert feed.warnings[0] == "warning       the bootstrap node was not reached, trying again"
    assert told[2]["peer_id"] == str(record.peer_id)


@simulated()
async def test_without_bootnodes_there_is_nobody_to_reach(sim: Sim) -> None:
    out = io.StringIO()
    feed = Feed(Output(as_json=True, stdout=out, stderr=None, environ={}))
    async with network(sim, "node") as net:
        await join(net, feed)
    assert not feed.recent
