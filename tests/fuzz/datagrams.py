"""`scripts/fuzz datagrams COUNT [SEED]`: so many random and mutated datagrams through one node of discv5 that lives on.

A part of them are messages under a session, so that they are read at all. It ends with 1 when more than one of a
hundred reached a signature check or memory grew after the first tenth, and with a traceback when the node raised.
"""

from __future__ import annotations

import random
import resource
from collections.abc import Callable

from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.packet import MAX_PLAINTEXT, _keystream
from pyp2p.peer import secp256k1
from tests.fuzz import discovery
from tests.fuzz.__main__ import mutated

BATCH = 10_000
_GROWTH = 8_000  # KB of the process: what the allocator keeps; 10 million that left a byte each would be more


def flood(batches: int, seed: int, measure: Callable[[], int]) -> tuple[int, int, list[int]]:
    """Feed `batches` of `BATCH`; returns how many datagrams, how many signature checks, and `measure()` of each batch.

    There is always something under way, each session comes back, and a minute passes after each batch.
    """
    checks = fed = 0
    check = secp256k1.verify_digest

    def counted(public: bytes, signature: bytes, digest: bytes) -> bool:
        nonlocal checks
        checks += 1
        return check(public, signature, digest)

    rng = random.Random(seed)
    corpus, inside = discovery.datagrams(), discovery.plaintexts()
    here, friend, stranger, _ = discovery.world()
    here.node.start(here.now)
    places = [*discovery.senders(friend, stranger), *(Endpoint(f"61.0.{at}.1", 9000) for at in range(60))]
    measured = []
    secp256k1.verify_digest = counted
    try:
        for _ in range(batches):
            at = 0
            while at < BATCH:
                if not at % 50:
                    here.node.ping(friend.record, here.now)
                    here.node.lookup(rng.randbytes(32), here.now)
                    stranger.say(stranger.random())
                    here.completed.clear()
                data = mutated(rng, corpus) if at % 8 else rng.randbytes(rng.choice((46, 63, 64, 200, 1280, 1281)))
                here.feed(data, places[at % len(places)])
                at += 1
                if at % 5 < 2:
                    here.feed(friend.seal(mutated(rng, inside)[:MAX_PLAINTEXT]), friend.endpoint)
                    at += 1
                here.sent.clear()
                here.pass_time(0.002)
                if not at % 500:
                    here.check(most=400)
            fed += at
            here.pass_time(60)
            here.sent.clear()
            here.check()
            _keystream.cache_clear()  # bounded, but it takes long to fill
            measured.append(measure())
    finally:
        secp256k1.verify_digest = check
    return fed, checks, measured


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(arguments: list[str]) -> int:
    """Runs the flood and prints a line."""
    count, seed = int(arguments[0]), int(arguments[1]) if arguments[1:] else random.randrange(1 << 32)
    print(f"discv5: {count} datagrams, seed {seed}", flush=True)
    fed, checks, kilobytes = flood(max(count // BATCH, 10), seed, _resident)
    growth = kilobytes[-1] - kilobytes[len(kilobytes) // 10]
    print(
        f"discv5: {fed} datagrams, {checks} signature checks, {kilobytes[-1]} KB, {growth} KB more than after a tenth"
    )
    return int(checks > fed / 100 or growth > _GROWTH)
