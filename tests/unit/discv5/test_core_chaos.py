"""Nodes that ask each other over a wire that loses, repeats, swaps and spoils, and that forget all now and then."""

import random

import pytest

from pyp2p.discv5.messages import Pong
from pyp2p.discv5.types import Discv5Config
from pyp2p.errors import DiscoveryError
from tests.unit.discv5.script import Datagram, Peer, Script, nothing_under_way


def chaos(seed: int, steps: int = 150) -> None:
    rng = random.Random(seed)
    config = Discv5Config(max_sessions=rng.choice((1, 2, 1000)), max_requests=rng.choice((5, 1024)))
    peers = [Peer(f"{seed} {number}", f"50.0.{number}.1", config=config) for number in range(3)]
    script = Script(*peers)
    asked: dict[Peer, set[int]] = {peer: set() for peer in peers}
    for peer in peers:
        peer.node.protocols.add(b"p")
    for _ in range(steps):
        peer, other = rng.sample(peers, 2)
        script.flush()
        match rng.randrange(12):
            case 0:
                asked[peer].add(peer.node.ping(other.record, script.now))
            case 1:
                asked[peer].add(peer.node.talk(other.record, b"p", bytes(rng.choice((0, 1000, 1150))), script.now))
            case 2:
                asked[peer].add(peer.node.find_node(other.record, [0, 256, 255], script.now))
            case 3:
                script.pass_time(rng.choice((0.01, 0.3, 0.8, 1.1)), deliver=False)
            case 4 if script.wire:
                script.wire.pop(rng.randrange(len(script.wire)))
            case 5 if script.wire:
                script.wire.append(rng.choice(script.wire))
            case 6 if script.wire:
                spoilt = rng.choice(script.wire)
                data = bytearray(spoilt.data)
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                script.wire.append(Datagram(bytes(data), spoilt.sender, spoilt.to))
            case 7 if rng.random() < 0.3:
                peer.restart()
                peer.node.protocols.add(b"p")
                asked[peer].clear()
            case 8 if peer.talks:
                call = peer.talks.pop(rng.randrange(len(peer.talks)))
                peer.node.talk_respond(call.token, b"yes", script.now)
            case _ if script.wire:
                script.deliver(rng.randrange(len(script.wire)))
        for each in peers:
            waiting, shaking = each.node._calls._waiting, each.node._calls._shaking
            assert set(waiting) <= set(shaking), "who waits has somebody to wait for"
    script.pass_time(60)
    for peer in peers:
        assert asked[peer] <= set(peer.results), "a request that never ends"
        assert nothing_under_way(peer)
    if config.max_sessions == 1000:
        for peer in peers:
            for other in peers:
                if peer is not other:
                    request = peer.node.ping(other.record, script.now)
                    script.pass_time(5)
                    assert isinstance(peer.results[request], Pong)
    assert all(
        isinstance(each, DiscoveryError | Pong | list | bytes) for peer in peers for each in peer.results.values()
    )


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_all_requests_come_to_an_end(first: int) -> None:
    for seed in range(first, first + 50):
        try:
            chaos(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
