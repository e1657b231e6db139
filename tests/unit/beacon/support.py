"""A node's snapshot for tests of what is made of it."""

import random
from typing import Any

from pyp2p.beacon.stats import ConnectionStats, NodeStats, PeerStats, TopicStats
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity

BLOCKS = "/eth2/8c9f62fe/beacon_block/ssz_snappy"
SWARM = ("inbound", "tcp", "/noise", "/yamux/1.0.0", "true", "ip4")


def peer_id(number: int) -> PeerId:
    return Identity.generate(entropy=random.Random(number).randbytes).peer


def peer(number: int, agent: str | None = "Lighthouse/v7.1.0-abc/x86_64-linux", **facts: Any) -> PeerStats:
    given: dict[str, Any] = {"outbound": number % 2 == 0, "score": 0.0, "gossip_score": 0.0, "trusted": False}
    return PeerStats(peer_id(number), agent, **(given | {"transport": "tcp"} | facts))


def connection(number: int, **facts: Any) -> ConnectionStats:
    given: dict[str, Any] = {
        **{"outbound": False, "direct": True, "opened_at": 1_700_000_000.0, "local": "/ip4/10.0.0.1/tcp/9000"},
        **{"remote": "/ip4/10.0.0.2/tcp/4001", "key": b"", "key_type": "Secp256k1", "security": "/noise"},
        **{"muxer": "/yamux/1.0.0", "early_muxer": True, "bytes_in": 1, "bytes_out": 2, "messages_in": 3},
        "messages_out": 4,
    }
    return ConnectionStats(peer=peer_id(number), **(given | facts))


def node(**facts: Any) -> NodeStats:
    """A node with something in every field; `facts` take the place of these."""
    given: dict[str, Any] = {
        "peer": peer_id(0),
        "enr": "enr:-",
        "addresses": ("/ip4/10.0.0.1/tcp/9000",),
        "started_at": 1_700_000_000.5,
        "slot": 100,
        "head_slot": 99,
        "finalized_epoch": 2,
        "fork_digest": bytes.fromhex("8c9f62fe"),
        "target_peers": 80,
        "connections": (connection(1), connection(2, outbound=True)),
        "peers": (peer(1, score=-3.0, attnets=(0, 63), round_trip=0.1), peer(2, "teku/v25", score=5.0, trusted=True)),
        "topics": (TopicStats(BLOCKS, peers=5, mesh=4, messages=30, bytes=3000),),
        "bytes_in": 1000,
        "bytes_out": 2000,
        "messages_in": 10,
        "messages_out": 20,
        "opened": {SWARM: 7},
        "closed": {SWARM: 5},
        "key_types": {("inbound", "Secp256k1"): 7},
        "dial_errors": {"connect": 3},
        "attempts_failed": {("tcp", "connection refused", "ip4"): 4},
        "gossip": {("accepted", BLOCKS): 30, ("malformed", ""): 1, ("forwarded dropped: queue full", BLOCKS): 2},
        "gossip_gauges": {("peers", ""): 9, ("mesh", BLOCKS): 4},
        "requests": {("status/1", "in", "success"): 8, ("beacon_blocks_by_range/2", "out", "timeout"): 2},
        "limits": {"connections": 2, "refused.limit.inbound": 6, "refused.gater.accept": 1},
        "discovery": {"malformed": 11},
        "discovery_gauges": {"nodes": 150},
        "dropped": {"events": 12},
    }
    return NodeStats(**(given | facts))
