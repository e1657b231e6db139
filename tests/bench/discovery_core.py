"""What the core of discv5 costs per request, without sockets: from datagram to answer, by the size of the table."""

import os
import random
import time
from collections.abc import Callable
from ipaddress import ip_address
from statistics import median

from pyp2p.discv5.core import Node
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.node import Endpoint, log_distance
from pyp2p.discv5.types import Effect, SendDatagram, TalkCall
from pyp2p.peer.keys import Identity, KeyType

ROUNDS = 7
REQUESTS = 500
FEW, FULL = 10, 4_000
_HERE, _THERE = Endpoint("127.0.0.1", 9001), Endpoint("127.0.0.1", 9002)


def signed(at: Endpoint) -> tuple[Identity, Enr]:
    """A new key and its record."""
    identity = Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    return identity, Enr.sign(identity, 1, {"ip": ip_address(at.ip), "udp": at.port})


def node(at: Endpoint) -> Node:
    """A node with a new key."""
    return Node(*signed(at), rng=random.Random(1), entropy=os.urandom)


def fill(made: Node, count: int) -> None:
    """Live nodes in the table: ten at distance 256, which are asked for, sixteen at each below. None shares a subnet.

    Keys at the distances below cannot be had, so their records are made up.
    """
    places = (Endpoint(str(ip_address((50 << 24) + (number << 8) + 1)), 9000) for number in range(count))
    local = int.from_bytes(made.node_id)
    while len(made.table) < FEW:
        place = next(places)
        _, record = signed(place)
        while log_distance(record.node_id, made.node_id) < 256:
            _, record = signed(place)
        keep(made, record, place)
    for number, place in enumerate(places):
        node_id = (local ^ (1 << (254 - number // 16) | number % 16)).to_bytes(32)
        keep(made, Enr(node_id, 1, node_id, b"", {b"ip": ip_address(place.ip).packed, b"udp": b"\x23\x28"}), place)
    if made.table.live != count:
        raise SystemExit(f"{made.table.live} nodes in the table instead of {count}")


def keep(made: Node, record: Enr, place: Endpoint) -> None:
    made.table.heard(record, place, 0.0)
    made.table.alive(record.node_id, 0.0)


class Couple:
    """An asker and a listener with a table of so many nodes; what one sends, the other gets."""

    def __init__(self, nodes: int) -> None:
        self.asker, self.listener = node(_HERE), node(_THERE)
        while log_distance(self.asker.node_id, self.listener.node_id) == 256:  # one more in the answer of some
            self.asker = node(_HERE)
        fill(self.listener, nodes)
        self.listener.protocols.add(b"echo")
        self.ping()

    def ping(self) -> None:
        self._run(lambda now: self.asker.ping(self.listener.record, now))

    def talk(self) -> None:
        self._run(lambda now: self.asker.talk(self.listener.record, b"echo", bytes(32), now))

    def find_node(self) -> None:
        self._run(lambda now: self.asker.find_node(self.listener.record, [256], now))

    def _run(self, ask: Callable[[float], int]) -> None:
        ask(0.0)
        while self._move(self.asker, self.listener, _HERE) | self._move(self.listener, self.asker, _THERE):
            pass

    def _move(self, sender: Node, receiver: Node, origin: Endpoint) -> bool:
        effects: list[Effect] = sender.take()
        for effect in effects:
            if isinstance(effect, SendDatagram):
                receiver.datagram_received(effect.data, Endpoint(origin.ip, origin.port), 0.0)
            elif isinstance(effect, TalkCall):
                sender.talk_respond(effect.token, effect.request, 0.0)
        return bool(effects)


def microseconds(work: Callable[[], None]) -> float:
    """For one request, both ends."""
    started = time.perf_counter()
    for _ in range(REQUESTS):
        work()
    return (time.perf_counter() - started) / REQUESTS * 1e6


def measure() -> dict[str, float]:
    """Microseconds per request for both ends, and how they grow with the table; the two tables in turns."""
    few, full = Couple(FEW), Couple(FULL)
    found = {}
    for name in ("ping", "talk", "find_node"):
        times = [(microseconds(getattr(few, name)), microseconds(getattr(full, name))) for _ in range(ROUNDS)]
        found[f"{name} us"] = median(one for one, _ in times)
        found[f"{name} x at {FULL}"] = median(other / one for one, other in times)
    return found
