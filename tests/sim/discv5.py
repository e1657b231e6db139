"""Thousands of discv5 nodes in one process: no trio, no sockets, a heap of what arrives when.

Everything is drawn from one seed: keys, latencies, losses, the nodes' own choices. What travels are the datagrams
themselves, with the cryptography of the real thing; addresses are made up and public, so that all limits are on.
A hostile node is a `Host` with another `core`.
"""

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from pyp2p.discv5.core import Node
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.messages import FindNode, split_nodes
from pyp2p.discv5.node import Endpoint, log_distance
from pyp2p.discv5.sessions import Where
from pyp2p.discv5.types import Completed, Discv5Config, SendDatagram
from pyp2p.peer.keys import Identity, KeyType
from tests.sim.events import Events

K = 16
_HOLE = 120.0  # seconds that a NAT remembers an endpoint it sent to, as RFC 4787 asks


def place(network: int, host: int = 1) -> str:
    """A public address: each network is a /24 of its own."""
    return f"{50 + (network >> 16)}.{network >> 8 & 255}.{network & 255}.{host}"


def xor(one: bytes, other: bytes) -> int:
    """How far apart two ids are."""
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


@dataclass
class Found:
    """A lookup that is over: `recall` is its part of the true 16 closest live nodes, `honest` that of honest ones."""

    asker: "Host"
    target: bytes
    records: list[Enr]
    recall: float
    honest: float
    seconds: float


class Host:
    """A machine with one node. One behind `nat` hears only endpoints that it sent to within two minutes."""

    honest = True
    make: type[Node] = Node

    def __init__(self, world: "World", number: int, *, nat: bool = False, ip: str | None = None) -> None:
        self.world = world
        self.number = number
        self.nat = nat
        self.up = True
        self.sent = 0
        self.endpoint = Endpoint(ip or place(number), 9000)
        self.holes: dict[Endpoint, float] = {}
        self.rng = random.Random(world.rng.getrandbits(64))
        self.identity = self.draw_identity()
        self.record = Enr.sign(self.identity, 1, {"ip": ip_address(self.endpoint.ip), "udp": self.endpoint.port})
        self.awaited: dict[int, Callable[[object], object]] = {}  # requests, and whom to tell of the end
        self.wake: float | None = None
        self.boot()

    def draw_identity(self) -> Identity:
        """The key pair of the node."""
        return Identity.generate(KeyType.SECP256K1, entropy=self.rng.randbytes)

    def boot(self) -> None:
        """Begin with nothing but the key."""
        self.core = self.make(
            self.identity, self.record, rng=self.rng, entropy=self.rng.randbytes, config=self.world.config
        )

    @property
    def node_id(self) -> bytes:
        """The id of the node."""
        return self.record.node_id

    def start(self, friends: Iterable[Enr], now: float) -> None:
        """Take part, knowing these."""
        for friend in friends:
            self.core.add(friend, now)
        self.core.start(now)
        self.flush(now)

    def lets_in(self, sender: Endpoint, now: float) -> bool:
        """Whether a datagram from there gets through."""
        return not self.nat or self.holes.get(sender, -_HOLE) + _HOLE > now

    def lets(self, other: "Host", now: float) -> bool:
        """Whether a datagram of ours gets through to that host."""
        return other.lets_in(self.endpoint, now)

    def receive(self, data: bytes, sender: Endpoint, now: float) -> None:
        """A datagram arrived."""
        if self.up and self.lets_in(sender, now):
            self.core.datagram_received(data, sender, now)
            self.flush(now)

    def flush(self, now: float) -> None:
        """Carry out what the node wants done, and wake it when it wants to be."""
        for effect in self.core.take():
            if type(effect) is SendDatagram:
                if self.nat:
                    self.holes[effect.to] = now
                self.sent += 1
                self.world.send(self.endpoint, effect.to, effect.data)
            elif type(effect) is Completed and effect.request in self.awaited:
                self.awaited.pop(effect.request)(effect.result)
        when = self.core.next_timer()
        if when is not None and (self.wake is None or when < self.wake):
            self.wake = when
            self.world.at(when, self._timer, when)

    def _timer(self, when: float) -> None:
        if self.wake != when:
            return  # an earlier one took its place
        self.wake = None
        if self.up:
            self.core.handle_timer(when)
            self.flush(when)

    def in_table(self) -> list[Enr]:
        """All records in buckets."""
        return [node.record for bucket in self.core.table._buckets.values() for node in bucket.nodes.values()]

    def held(self) -> dict[int, int]:
        """How many nodes each bucket holds, by distance."""
        return {distance: len(bucket.nodes) for distance, bucket in self.core.table._buckets.items()}

    def state(self) -> Counter[str]:
        """The sizes of all that a node keeps."""
        core = self.core
        calls, rates = core._calls, core._rates
        return Counter(
            table=len(core.table),
            replacements=sum(len(bucket.replacements) for bucket in core.table._buckets.values()),
            sessions=len(core._sessions),
            challenges=len(core._handshakes),
            requests=len(calls),
            per_node=len(calls._per_node),
            nonces=len(calls._by_nonce),
            shaking=len(calls._shaking),
            waiting=len(calls._waiting),
            timers=len(calls._timers),
            talks=len(core._talks),
            walks=len(core._walks),
            votes=len(core.own.votes),
            subnets=len(rates),
            effects=len(core._out),
        )


class Conspirator(Node):
    """Answers FINDNODE with its fellows only, as many as the distances allow."""

    fellows: dict[bytes, Enr]

    def _on_find_node(self, where: Where, request: FindNode) -> None:
        records = [self.record] if 0 in request.distances else []
        wanted = set(request.distances)
        asker = where[0]
        told = [each for name, each in self.fellows.items() if log_distance(self.node_id, name) in wanted]
        told.sort(key=lambda each: xor(each.node_id, asker))
        records += [each for each in told if each.node_id != asker]
        for part in split_nodes(request.request_id, [each.raw for each in records[:K]]):
            self._respond(where, part)


class HostileHost(Host):
    """One of a conspiracy: it pings its victim again and again, so as to be seen, and tells of its fellows only."""

    honest = False
    make = Conspirator

    def conspire(self, fellows: dict[bytes, Enr], victim: Host, now: float) -> None:
        """Take part from now on."""
        assert isinstance(self.core, Conspirator)
        self.core.fellows = fellows
        self._press(victim)

    def _press(self, victim: Host) -> None:
        self.core.ping(victim.record, self.world.now)
        self.flush(self.world.now)
        self.world.at(self.world.now + self.rng.uniform(20, 40), self._press, victim)


class World(Events):
    """Hosts, the network between them, and a heap of events."""

    def __init__(
        self,
        seed: int,
        *,
        config: Discv5Config | None = None,
        latency: tuple[float, float] = (0.02, 0.15),
        loss: float = 0.0,
    ) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.config = config
        self.latency = latency
        self.loss = loss
        self.hosts: list[Host] = []
        self.by_id: dict[bytes, Host] = {}
        self.datagrams = 0
        self.bytes = 0
        self._at: dict[Endpoint, Host] = {}
        self._digest = hashlib.sha256()

    # --- building

    def add(self, make: Callable[..., Host] = Host, **options: object) -> Host:
        """A new host, not started."""
        host = make(self, len(self.hosts), **options)
        self.hosts.append(host)
        self.by_id[host.node_id] = host
        self._at[host.endpoint] = host
        return host

    def grow(self, count: int, nat: float = 0.0, over: float = 30.0) -> None:
        """So many more hosts that know the first one only, which begin within `over` seconds; a part behind NAT."""
        if not self.hosts:
            self.add().start([], self.now)
            count -= 1
        first = self.hosts[0]
        for _ in range(count):
            host = self.add(nat=self.rng.random() < nat)
            self.at(self.now + self.rng.random() * over, self._begin, host, first)

    def _begin(self, host: Host, first: Host) -> None:
        host.start([first.record], self.now)

    def stop(self, host: Host) -> None:
        """A host falls silent for ever."""
        host.up = False
        host.awaited.clear()
        self._at.pop(host.endpoint, None)

    @property
    def living(self) -> list[Host]:
        """Those that take part."""
        return [host for host in self.hosts if host.up]

    @property
    def public(self) -> list[Host]:
        """Those that anybody can reach."""
        return [host for host in self.hosts if host.up and not host.nat]

    # --- running

    def send(self, sender: Endpoint, to: Endpoint, data: bytes) -> None:
        """Put a datagram on the wire."""
        self.datagrams += 1
        self.bytes += len(data)
        low, high = self.latency
        if self.rng.random() >= self.loss:
            self.at(self.now + low + (high - low) * self.rng.random(), self._arrive, sender, to, data)

    def _arrive(self, sender: Endpoint, to: Endpoint, data: bytes) -> None:
        host = self._at.get(to)
        if host is not None:
            self._digest.update(data)
            host.receive(data, sender, self.now)

    # --- looking

    def look_up(self, count: int, hosts: list[Host], spread: float = 60.0) -> list["Found"]:
        """Let random hosts look for random ids within `spread` seconds; those that leave meanwhile find nothing."""
        found: list[Found] = []

        def ask(host: Host) -> None:
            if host.up:
                target, began = self.rng.randbytes(32), self.now
                request = host.core.lookup(target, self.now)
                host.awaited[request] = lambda result: found.append(self._judge(host, target, began, result))
                host.flush(self.now)

        for number in range(count):
            self.at(self.now + spread * number / count, ask, self.rng.choice(hosts))
        self.run(spread)
        for _ in range(120):  # lookups wait for whoever does not answer
            if not any(host.awaited for host in self.living):
                return found
            self.run(1.0)
        raise AssertionError("a lookup of three minutes")

    def _judge(self, asker: Host, target: bytes, began: float, result: object) -> "Found":
        """How good it is: measured against who is there the moment it ends.

        One behind NAT counts where the lookup returned it and the asker can reach it: nobody could ask for more.
        """
        assert isinstance(result, list)
        names = {record.node_id for record in result}
        told = [self.by_id[name] for name in names]
        reached = [host.node_id for host in told if host.up and host.nat and asker.lets(host, self.now)]
        others = {*(host.node_id for host in self.public), *reached} - {asker.node_id}
        goal = int.from_bytes(target, "big")
        true = heapq.nsmallest(K, others, key=lambda name: int.from_bytes(name, "big") ^ goal)
        honest = sum(host.honest for host in told) / max(len(told), 1)
        return Found(asker, target, result, len(names.intersection(true)) / len(true), honest, self.now - began)

    def fullness(self) -> tuple[float, int]:
        """The part of places that are taken, of those that reachable nodes could take, and the buckets that miss one.

        A bucket of a table should hold 16 nodes, or all that there are and can be reached.
        """
        names = [int.from_bytes(host.node_id, "big") for host in self.public]
        wanted = got = short = 0
        for host in self.living:
            own = int.from_bytes(host.node_id, "big")
            there = Counter((own ^ name).bit_length() for name in names)
            del there[0]
            held = host.held()
            for distance, count in there.items():
                most = min(K, count)
                wanted += most
                got += min(most, held.get(distance, 0))
                short += held.get(distance, 0) < most
        return got / wanted, short

    def dead_in_tables(self) -> float:
        """Which part of all places in tables is taken by those that left."""
        records = [record for host in self.living for record in host.in_table()]
        return sum(not self.by_id[record.node_id].up for record in records) / max(len(records), 1)

    def counters(self) -> Counter[str]:
        """All counters of all nodes together."""
        return sum((host.core.counters for host in self.hosts), Counter[str]())

    def digest(self) -> str:
        """What travelled: the same for every run of the same world."""
        return self._digest.hexdigest()

    @staticmethod
    def recall(found: list[Found]) -> float:
        """The mean of lookups."""
        return sum(each.recall for each in found) / len(found)

    def churn(self, part: float, seconds: float, nat: float = 0.0, step: float = 5.0) -> None:
        """Such a part of all, but never the first, leaves each minute and as many come, until so much time is over."""
        for number in range(int(seconds / step)):
            self.at(self.now + number * step, self._replace_some, part * step / 60, step, nat)

    def _replace_some(self, part: float, over: float, nat: float) -> None:
        leaving = [host for host in self.living[1:] if self.rng.random() < part]
        for host in leaving:
            self.stop(host)
        self.grow(len(leaving), nat, over)

    def report(self, name: str, **figures: float) -> None:
        """Print what was measured, for `pytest -s`."""
        figures |= {"nodes": len(self.hosts), "datagrams a node": self.datagrams / len(self.hosts)}
        figures |= {"KB a node": self.bytes / len(self.hosts) / 1000, "virtual s": self.now}
        print(f"\n{name}: " + ", ".join(f"{figure} {value:.5g}" for figure, value in figures.items()))
