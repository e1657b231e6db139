"""What the router costs per message, without transport: new messages and copies, by mesh, peers, topics and cache."""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from statistics import median

from pyp2p.cli.eth2 import settings
from pyp2p.peer.id import PeerId
from pyp2p.pubsub.core import Router
from pyp2p.pubsub.params import Thresholds
from pyp2p.pubsub.score import ScoreBook
from pyp2p.pubsub.types import Kind, Rpc, Verdict
from pyp2p.pubsub.wire import decode_rpc, publish_fragment

TOPIC = "/eth2/8c9f62fe/beacon_block/ssz_snappy"
ROUNDS = 5


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def router(mesh: int, peers: int, topics: int = 1) -> Router:
    """A router with so many peers, `mesh` of them in its mesh, each in `topics` topics."""
    given = settings()
    made = Router(
        peer(0),
        given["params"],
        thresholds=Thresholds(),
        score=ScoreBook(None),
        policy=given["policy"],
        message_id=given["message_id"],
        transform=given["transform"],
        rng=random.Random(1),
        judge=lambda message: Verdict.ACCEPT,
        allows=lambda topic: True,
        records=lambda peer: b"",
        first_seqno=1,
        counters=Counter(),
    )
    made.subscribe(TOPIC, 0.0)
    names = [TOPIC, *(f"{TOPIC}/{n}" for n in range(topics - 1))]
    for number in range(1, peers + 1):
        made.peer_up(peer(number), Kind.GOSSIP_1_1, True, (ip_address(number + (10 << 24)),), 0.0)
        made.handle_rpc(peer(number), Rpc(subscriptions=[(True, name) for name in names]), 0.0)
        if number <= mesh:
            made.handle_rpc(peer(number), Rpc(graft=[TOPIC]), 0.0)
    made.take()
    if len(list(made.mesh.peers(TOPIC))) != mesh:
        raise SystemExit("the mesh is not as large as asked for")
    return made


def rpcs(count: int, size: int) -> Iterator[bytes]:
    """RPCs with one incompressible message each."""
    given = settings()
    for _ in range(count):
        raw = given["policy"].build(TOPIC, given["transform"].outbound(TOPIC, os.urandom(size)), 0).raw
        yield publish_fragment(raw)


def microseconds(made: Router, sender: PeerId, messages: list[bytes]) -> float:
    """For one RPC, from its bytes to the effects."""
    started = time.perf_counter()
    for data in messages:
        made.handle_rpc(sender, decode_rpc(data), 0.0)
        made.take()
    return (time.perf_counter() - started) / len(messages) * 1e6


def new(mesh: int, peers: int = 50, topics: int = 1, cached: int = 100, size: int = 200) -> float:
    """A message that is new."""
    count = 2000 if size < 1000 else 200
    found = []
    for _ in range(ROUNDS):
        made = router(mesh, peers, topics)
        microseconds(made, peer(1), list(rpcs(cached, 200)))
        found.append(microseconds(made, peer(1), list(rpcs(count, size))))
    return median(found)


def copy(size: int) -> float:
    """A message that came before."""
    messages = list(rpcs(2000 if size < 1000 else 200, size))
    found = []
    for _ in range(ROUNDS):
        made = router(8, 50)
        microseconds(made, peer(1), messages)
        found.append(microseconds(made, peer(2), messages))
    return median(found)


def measure() -> dict[str, float]:
    """Microseconds per message, and how they grow."""
    base = new(8)
    return {
        "copy of 200 B us": copy(200),
        "copy of 32 KiB us": copy(32 * 1024),
        "new, mesh 1 us": new(1),
        "new, mesh 8 us": base,
        "new 32 KiB, mesh 8 us": new(8, size=32 * 1024),
        "x at 10,000 cached": new(8, cached=10_000) / base,
        "x at 500 peers": new(8, peers=500) / base,
        "x at 200 topics": new(8, topics=200) / base,
    }
