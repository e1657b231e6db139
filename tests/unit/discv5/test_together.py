"""Tables and lookups of a whole network, with neither sockets nor clocks: nodes that know one of them find others."""

from collections import Counter
from random import Random

import pytest

from pyp2p.discv5.lookup import Lookup
from pyp2p.discv5.node import Refusal, log_distance
from pyp2p.discv5.table import RoutingTable
from tests.unit.discv5.support import FakeRecord, public, where

SIZE = 60


class Peer:
    """A node that answers at once, and believes the others as it should."""

    def __init__(self, network: "Net", record: FakeRecord) -> None:
        self.network = network
        self.record = record
        self.table: RoutingTable[FakeRecord] = RoutingTable(record.node_id, network.rng)
        self.refused: Counter[Refusal] = Counter()

    def ask(self, node: FakeRecord, distances: list[int], now: float) -> list[FakeRecord] | None:
        peer = self.network.peers.get(node.node_id)
        if peer is None:
            self.table.failed(node.node_id, now)
            return None
        peer.table.heard(self.record, where(self.record), now)
        peer.ping(self.record, now)
        self.table.heard(node, where(node), now)
        self.table.alive(node.node_id, now)
        return peer.table.at_distances(distances, asker=where(self.record))

    def ping(self, node: FakeRecord, now: float) -> None:
        if node.node_id in self.network.peers:
            self.table.alive(node.node_id, now)
        else:
            self.table.failed(node.node_id, now)

    def look_up(self, target: bytes, now: float) -> list[FakeRecord]:
        start = self.table.closest(target, 16, seen_too=True) or [self.network.boot]
        search = Lookup(target, start, local_id=self.record.node_id)
        while not search.done:
            for node, distances in search.next_queries():
                answer = self.ask(node, distances, now)
                if answer is None:
                    search.failed(node.node_id)
                    continue
                for told in search.answered(node.node_id, answer):
                    outcome = self.table.heard(told, where(told), now, where(node))
                    if isinstance(outcome, Refusal):
                        self.refused[outcome] += 1
        self.table.refreshed(target, now)
        return search.result()


class Net:
    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        records = [FakeRecord(self.rng.randbytes(32)).at(public(index)) for index in range(SIZE)]
        self.boot = records[0]
        self.peers = {record.node_id: Peer(self, record) for record in records}

    def run(self, seconds: float, start: float) -> None:
        """Every node checks and refreshes as its table says."""
        now = start
        while now < start + seconds:
            now += 5.0
            for peer in list(self.peers.values()):
                for node in peer.table.to_check(now):
                    peer.ping(node.record, now)
                target = peer.table.to_refresh(now)
                if target is not None:
                    peer.look_up(target, now)

    def recall(self, lookups: int, now: float) -> float:
        found = 0
        peers = list(self.peers.values())
        for _ in range(lookups):
            peer, target = self.rng.choice(peers), self.rng.randbytes(32)
            goal = int.from_bytes(target, "big")
            others = [each.record for each in peers if each is not peer]
            true = sorted(others, key=lambda record: int.from_bytes(record.node_id, "big") ^ goal)[:16]
            found += len({each.node_id for each in peer.look_up(target, now)} & {each.node_id for each in true})
        return found / (16 * lookups)


@pytest.mark.slow
def test_nodes_that_know_one_find_each_other_and_forget_who_left():
    net = Net(2)
    for peer in list(net.peers.values()):
        peer.look_up(peer.record.node_id, 0.0)
    net.run(300.0, 0.0)
    assert net.recall(50, 300.0) >= 0.99
    for name, peer in net.peers.items():
        distances = Counter(log_distance(name, other) for other in net.peers if other != name)
        held = {distance: len(bucket.nodes) for distance, bucket in peer.table._buckets.items()}
        assert held == {distance: min(16, count) for distance, count in distances.items()}
        assert set(peer.refused) <= {Refusal.BUCKET_FULL}

    leaving = [name for name in net.peers if net.rng.random() < 0.3 and name != net.boot.node_id]
    for name in leaving:
        del net.peers[name]
    net.run(2700.0, 300.0)
    gone = set(leaving)
    tables = [peer.table.closest(peer.record.node_id, 4096) for peer in net.peers.values()]
    known = [record.node_id in gone for records in tables for record in records]
    assert min(map(len, tables)) > 20 and sum(known) <= 0.03 * len(known)
    assert net.recall(50, 3000.0) >= 0.99


def test_a_seed_repeats_a_network():
    def story(seed: int) -> list[FakeRecord]:
        net = Net(seed)
        for peer in list(net.peers.values())[:20]:
            peer.look_up(peer.record.node_id, 0.0)
        return net.peers[net.boot.node_id].look_up(bytes(32), 1.0)

    assert story(5) == story(5) != story(6)
