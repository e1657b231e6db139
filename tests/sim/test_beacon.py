"""A hundred whole beacon networks: they find each other from one bootnode, and stay one network whatever happens.

Times are virtual; the whole file takes about two minutes of one core.
"""

import pytest
import trio

from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.events import ForkChanged
from pyp2p.beacon.peer_types import Subnet, SubnetKind
from pyp2p.peer.id import PeerId
from pyp2p.testing import Sim, simulated
from pyp2p.testing.run import EPOCH
from tests.sim.beacon import world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TARGET, HEADROOM = 12, 2
GENESIS = int(EPOCH)


@simulated(seeds=(1,))
async def test_a_hundred_find_each_other_and_a_fork_in_the_middle_splits_nothing(sim: Sim):
    chain = dev_chain(GENESIS, epochs_per_fork=2)  # bellatrix begins with slot 16
    async with world(sim, chain, 100, target=TARGET) as all_of_them:
        nodes = all_of_them.nodes
        await all_of_them.slots(5)
        assert all_of_them.fewest() >= 1
        await all_of_them.slots(10, nodes)
        peers = [len(node.peers) for node in nodes]
        assert min(peers) >= TARGET // 2 and sum(count >= TARGET for count in peers) >= 80  # after 30 s
        before = {node.name: (node.net.enr, node.net.stats().fork_digest, set(node.peers)) for node in nodes}
        await all_of_them.slots(10, nodes)
        assert len(all_of_them.blocks) == 20
        assert all_of_them.missing() == [] and all_of_them.late == []
        assert len(all_of_them.heads()) == 1
        for node in nodes:
            record, digest, peers_then = before[node.name]
            assert node.net.stats().fork_digest == chain.at_slot(16).digest != digest
            assert node.net.enr is not None and record is not None
            assert node.net.enr.eth2 != record.eth2 and node.net.enr.seq > record.seq
            assert len([event for _, event in node.told if isinstance(event, ForkChanged)]) == 1
            assert peers_then <= set(node.peers)  # nobody lost anybody
        await all_of_them.slots(15)
        assert all_of_them.fewest() >= TARGET - HEADROOM  # after 80 s
        assert all_of_them.worst_score() >= 0


@simulated(seeds=(1,))
async def test_a_partition_heals_and_both_halves_meet_on_one_head(sim: Sim):
    chain = dev_chain(GENESIS, epochs_per_fork=100)
    async with world(sim, chain, 24, target=TARGET) as whole:
        await whole.slots(5)
        await whole.slots(5, whole.nodes)
        assert whole.missing() == []
        one, other = whole.nodes[:12], whole.nodes[12:]
        sim.net.partition([node.name for node in one], [node.name for node in other])
        for _ in range(5):
            slot = await one[0].net.clock.next_slot()
            for half in (one, other)[: 1 if slot % 3 else 2]:
                await half[slot % len(half)].follower.produce_one(slot)
        await trio.sleep(1)
        assert len(whole.heads()) > 1
        sim.net.heal()
        await whole.slots(6, one)
        assert len(whole.heads()) == 1
        whole.late.clear()
        await whole.slots(5, whole.nodes)
        assert whole.late == [] and len(whole.heads()) == 1
        assert whole.worst_score() >= 0


@simulated(seeds=(1,))
async def test_a_subnet_whose_peers_all_leave_is_served_again_within_20_slots(sim: Sim):
    chain = dev_chain(GENESIS, epochs_per_fork=100)
    subnet, until = 7, 10_000
    async with world(sim, chain, 24, target=6, long_lived_subnets=False) as some:
        wanting = some.nodes[0]
        for node in some.nodes[12:]:
            node.net.subscribe_subnet(subnet, until)
        await some.slots(5)
        wanting.net.subscribe_subnet(subnet, until)

        def serving() -> set[PeerId]:
            wanted = Subnet(SubnetKind.ATTESTATION, subnet)
            return {
                each.peer for each in wanting.net.peering.manager.peers(trio.current_time()) if wanted in each.subnets
            }

        await some.slots(20)
        assert len(serving()) >= 2
        for _ in range(2):  # the second time, those who took their place
            on_it = serving()
            await some.remove([node for node in some.nodes[1:] if node.peer in on_it])
            await trio.sleep(1)
            assert not serving() & on_it
            await some.slots(20)
            assert serving()
