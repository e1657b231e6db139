"""Lookups of pure nodes over a whole small network, and those that are cancelled, alone or lied to."""

from random import Random

import pytest

from pyp2p.discv5.enr import Enr
from pyp2p.discv5.lookup import LookupConfig
from pyp2p.discv5.messages import FindNode, Nodes, Ping, Pong
from pyp2p.discv5.node import log_distance
from pyp2p.discv5.types import Discv5Config
from pyp2p.peer.keys import Identity, KeyType
from tests.unit.discv5.script import Peer, Script, Stranger, nothing_under_way, two

SIZE = 60


@pytest.fixture(scope="module")
def network() -> Script:
    """Sixty nodes that were told of the first and left alone for a while."""
    peers = [Peer(f"peer {number}", f"50.{number}.1.1") for number in range(SIZE)]
    script = Script(*peers)
    for peer in peers:
        peer.node.start(script.now)
        peer.node.add(peers[0].record, script.now)
        peer.node.lookup(peer.id, script.now)
    script.pass_time(100)
    return script


def true_closest(script: Script, target: bytes, asker: Peer) -> list[Enr]:
    goal = int.from_bytes(target)
    others = [peer.record for peer in script.peers.values() if peer is not asker]
    return sorted(others, key=lambda record: int.from_bytes(record.node_id) ^ goal)[:16]


@pytest.mark.slow
def test_lookups_find_the_true_closest(network: Script) -> None:
    rng = Random(1)
    found = 0
    for _ in range(30):
        asker, target = rng.choice(list(network.peers.values())), rng.randbytes(32)
        request = asker.node.lookup(target, network.now)
        network.run()
        network.pass_time(3)
        true = true_closest(network, target, asker)
        answer = asker.results[request]
        assert [each for each in answer if each in true] == [each for each in true if each in answer]  # in order
        found += len({*answer} & {*true})
    assert found >= 0.99 * 16 * 30


@pytest.mark.slow
def test_a_lookup_with_a_predicate_gives_only_those(network: Script) -> None:
    asker = next(iter(network.peers.values()))
    request = asker.node.lookup(bytes(32), network.now, lambda record: record.node_id[0] % 2 == 0)
    network.pass_time(5)
    records = asker.results[request]
    assert records and all(record.node_id[0] % 2 == 0 for record in records)


@pytest.mark.slow
def test_a_cancelled_lookup_asks_nobody_further_and_is_never_completed(network: Script) -> None:
    asker = next(iter(network.peers.values()))
    request = asker.node.lookup(b"\x77" * 32, network.now)
    network.flush()
    assert 1 <= len(network.wire) <= 3
    asker.node.cancel(request)
    asker.node.cancel(request)
    before = len(network.sent)
    network.run()
    mine = [each for each in network.sent[before:] if each.sender == asker.endpoint]
    assert not any(network.kind(each) == "random" for each in mine)
    network.pass_time(5)
    assert request not in asker.results and not asker.node._walks


@pytest.mark.slow
def test_a_quiet_network_holds_nothing(network: Script) -> None:
    network.pass_time(60)
    for peer in network.peers.values():
        assert len(peer.node._calls) <= 3 and len(peer.node._calls._timers) < 50
        assert not peer.node._talks and not peer.node._walks


def test_a_lookup_of_a_node_that_knows_nobody_is_over_at_once() -> None:
    alice = Peer("alice", "50.0.1.1")
    script = Script(alice)
    request = alice.node.lookup(bytes(32), script.now)
    script.flush()
    assert alice.results[request] == [] and script.sent == []


def test_many_who_cannot_be_asked_end_a_lookup_without_depth() -> None:
    """Records without an address, as many as a lookup takes: each query is over before it is sent."""
    script, alice, _ = two(Discv5Config(lookup=LookupConfig(max_queries=1000)))
    start = []
    for number in range(256):
        identity = Identity.generate(KeyType.SECP256K1, entropy=Random(number).randbytes)
        record = Enr.sign(identity, 1, {})
        start.append(record)
    alice.node.table.closest = lambda *_, **__: start  # as if nodes had told us of them
    request = alice.node.lookup(bytes(32), script.now)
    script.flush()
    assert alice.results[request] == [] and not alice.node._walks


def test_a_lookup_when_nothing_more_can_be_asked_ends() -> None:
    script, alice, _ = two(Discv5Config(max_requests=1))
    peers = [Peer(f"n{number}", f"51.0.{number}.1") for number in range(40)]
    for peer in peers:
        alice.node.add(peer.record, script.now)
    request = alice.node.lookup(bytes(32), script.now)
    script.pass_time(20)
    assert request in alice.results and nothing_under_way(alice)


def test_a_liar_that_always_knows_somebody_closer_is_left_in_the_end() -> None:
    script, alice, _ = two()
    mallory = Stranger(script, alice)
    for message in mallory.heard(mallory.shake(Ping(b"0", 1))):
        if isinstance(message, Ping):
            mallory.say(mallory.seal(Pong(message.request_id, 1, bytes((50, 0, 1, 1)), 9000)))
    request = alice.node.lookup(bytes(32), script.now)
    made = 0
    queries = 0
    while request not in alice.results:
        script.flush()
        said, script.wire = script.wire, []
        for asking in mallory.heard(said):
            if isinstance(asking, FindNode):
                queries += 1
                records = []
                while len(records) < 3:
                    made += 1
                    record = Peer(f"made up {made}", f"52.{made // 256}.{made % 256}.1").record
                    if log_distance(record.node_id, mallory.id) in asking.distances:
                        records.append(record)
                mallory.say(mallory.seal(Nodes(asking.request_id, 1, [record.raw for record in records])))
        script.pass_time(0.5, deliver=False)
    assert queries <= 5
    assert len(script.sent) <= 128 * 3 * 2
    script.pass_time(10, deliver=False)
    assert len(alice.node._calls) == 0
