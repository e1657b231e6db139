"""A thousand routers in one process: no trio, no sockets, a heap of what arrives when.

Everything is drawn from one seed: links, latencies, publishers, the routers' own choices. What travels is the wire
form, joined per peer and decoded by the receiver as on a real stream. An attacker is a `Node` with other habits.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.core import Router
from pyp2p.pubsub.params import GossipParams, ScoreParams, Thresholds, TopicScoreParams
from pyp2p.pubsub.score import ScoreBook
from pyp2p.pubsub.signing import StrictNoSign
from pyp2p.pubsub.transform import Plain
from pyp2p.pubsub.types import Deliver, Kind, Message, Send, Verdict
from pyp2p.pubsub.wire import decode_rpc
from tests.sim.events import Events

TOPIC = "sim"
PARAMS = GossipParams(flood_publish=False)

# Fits one message a second. An honest mesh peer brings 8 of 10, which with a decay of 0.9 is its level too. One in 300
# brings fewer than 2, because it hears of everything from us: it may lose its place, but the deficit of 2, squared,
# with what is left of P3b after a backoff, stays above the gossip threshold. P1 and P2 together are worth 3.7 at most:
# merit does not carry a silent peer for long. Two invalid messages are enough for the graylist.
TOPIC_SCORE = TopicScoreParams(
    first_message_deliveries_weight=0.5,
    first_message_deliveries_decay=0.95,
    first_message_deliveries_cap=5.0,
    mesh_message_deliveries_weight=-10.0,
    mesh_message_deliveries_decay=0.9,
    mesh_message_deliveries_cap=4.0,
    mesh_message_deliveries_threshold=2.0,
    mesh_message_deliveries_activation=8.0,
    mesh_message_delivery_window=1.0,
    mesh_failure_penalty_weight=-10.0,
    mesh_failure_penalty_decay=0.95,
    invalid_message_deliveries_weight=-60.0,
)
SCORE = ScoreParams(topics={TOPIC: TOPIC_SCORE})

decode = lru_cache(maxsize=8192)(decode_rpc)


def content_id(message: Message, valid: bool = True) -> bytes:
    """Ids from the content: the payload begins with its number."""
    return message.data[:16]


@dataclass(slots=True)
class Link:
    """One way from node to node."""

    latency: float
    up: bool = True


@dataclass
class Published:
    """One message: when it was published by whom, and when it reached each node."""

    at: float
    by: int
    arrived: dict[int, float] = field(default_factory=dict)
    hops: dict[int, int] = field(default_factory=dict)


class Node:
    """An honest node."""

    honest = True

    def __init__(self, world: "World", number: int, ip: str | None = None) -> None:
        self.world = world
        self.number = number
        self.peer = PeerId(b"\x12\x20" + number.to_bytes(32, "big"))
        self.ip = ip_address(ip or f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
        self.links: dict[int, Link] = {}
        self.rng = random.Random(world.rng.random())
        self.beats = 0
        self.router = self.make_router(world.params, world.score)

    def make_router(self, params: GossipParams, score: ScoreParams | None) -> Router:
        return Router(
            self.peer,
            params,
            thresholds=self.world.thresholds,
            score=ScoreBook(score),
            policy=StrictNoSign(),
            message_id=content_id,
            transform=Plain(),
            rng=self.rng,
            judge=self.judge,
            allows=lambda topic: True,
            records=lambda peer: b"",
            first_seqno=1,
            counters=Counter(),
        )

    def judge(self, message: Message) -> Verdict | None:
        return Verdict.REJECT if message.payload[16:17] == b"!" else Verdict.ACCEPT

    def start(self, now: float) -> None:
        self.router.subscribe(TOPIC, now)

    def on_up(self, other: "Node", outbound: bool, now: float) -> None:
        self.router.peer_up(other.peer, Kind.GOSSIP_1_2, outbound, (other.ip,), now)

    def on_down(self, other: "Node", now: float) -> None:
        self.router.peer_down(other.peer, now)

    def on_rpc(self, sender: "Node", data: bytes, now: float) -> None:
        self.router.handle_rpc(sender.peer, decode(data), now)

    def beat(self, now: float) -> None:
        self.beats += 1
        self.router.heartbeat(now)

    def lowest(self) -> float:
        """The worst score that this node gives to an honest one that it is connected to."""
        nodes, score = self.world.nodes, self.router.score.score
        return min((score(nodes[number].peer) for number in self.links if nodes[number].honest), default=0.0)

    def mesh(self) -> list["Node"]:
        return [self.world.by_peer[peer] for peer in self.router.mesh.peers(TOPIC)]

    def publish(self, payload: bytes, now: float) -> None:
        self.router.publish(TOPIC, payload, now)

    def flush(self, now: float) -> None:
        """Carry out what the router wants done."""
        effects = self.router.take()
        if not effects:
            return
        out: dict[PeerId, list[bytes]] = {}
        for effect in effects:
            if type(effect) is Send:
                for peer in effect.peers:
                    if self.may_send(effect, peer):
                        out.setdefault(peer, []).append(effect.fragment)
            elif type(effect) is Deliver:
                self.world.delivered(self, effect.message, now)
        for peer, fragments in out.items():
            self.world.send(self, self.world.by_peer[peer], b"".join(fragments), now)

    def may_send(self, effect: Send, peer: PeerId) -> bool:
        return True


class World(Events):
    """Nodes, links, and a heap of events."""

    def __init__(
        self,
        seed: int,
        *,
        params: GossipParams = PARAMS,
        thresholds: Thresholds | None = None,
        score: ScoreParams | None = None,
        latency: tuple[float, float] = (0.02, 0.15),
    ) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.params = params
        self.thresholds = Thresholds() if thresholds is None else thresholds
        self.score = score
        self.latency = latency
        self.nodes: list[Node] = []
        self.by_peer: dict[PeerId, Node] = {}
        self.published: dict[bytes, Published] = {}
        self.rpcs = 0
        self.bytes = 0
        self.lowest = 0.0  # the worst score that an honest node ever gave to an honest one

    # --- building

    def add(self, make: Callable[["World", int], Node] = Node) -> Node:
        node = make(self, len(self.nodes))
        self.nodes.append(node)
        self.by_peer[node.peer] = node
        node.start(self.now)
        node.flush(self.now)
        self.at(self.now + self.rng.random() * self.params.heartbeat_interval, self._beat, node)
        return node

    def connect(self, one: Node, other: Node, latency: float | None = None) -> None:
        """`one` dials `other`."""
        if other.number in one.links or one is other:
            return
        low, high = self.latency
        seconds = self.rng.uniform(low, high) if latency is None else latency
        one.links[other.number] = Link(seconds)
        other.links[one.number] = Link(seconds)
        one.on_up(other, True, self.now)
        other.on_up(one, False, self.now)
        one.flush(self.now)
        other.flush(self.now)

    def disconnect(self, one: Node, other: Node) -> None:
        """The connection ends on both sides; what is under way is lost."""
        for near, far in ((one, other), (other, one)):
            link = near.links.pop(far.number, None)
            if link is not None:
                link.up = False
                near.on_down(far, self.now)
        one.flush(self.now)
        other.flush(self.now)

    def wire(self, nodes: Iterable[Node], degree: int) -> None:
        """Connect at random until everybody has about `degree` links, half of them dialled."""
        found = list(nodes)
        for node in found:
            for other in self.rng.sample(found, min(degree // 2, len(found) - 1) + 1):
                if len(node.links) < degree or len(other.links) < degree:
                    self.connect(node, other)

    # --- running

    def every_beat(self, what: Callable[[], None]) -> None:
        """Call `what` now and once every heartbeat interval from now on."""
        what()
        self.at(self.now + self.params.heartbeat_interval, self.every_beat, what)

    def _beat(self, node: Node) -> None:
        node.beat(self.now)
        node.flush(self.now)
        if node.honest and self.score is not None:
            self.lowest = min(self.lowest, node.lowest())
        self.at(self.now + self.params.heartbeat_interval, self._beat, node)

    def send(self, sender: Node, receiver: Node, data: bytes, now: float) -> None:
        link = sender.links.get(receiver.number)
        if link is None:
            return
        self.rpcs += 1
        self.bytes += len(data)
        self.at(now + link.latency, self._arrive, link, sender, receiver, data)

    def _arrive(self, link: Link, sender: Node, receiver: Node, data: bytes) -> None:
        if link.up:
            receiver.on_rpc(sender, data, self.now)
            receiver.flush(self.now)

    # --- messages

    def publish(self, node: Node, size: int = 1024, mark: bytes = b" ") -> bytes:
        """Let `node` publish a message of `size` bytes; returns its id."""
        number = len(self.published)
        ident = number.to_bytes(16, "big")
        self.published[ident] = Published(self.now, node.number)
        node.publish(ident + mark + bytes(size - 17), self.now)
        node.flush(self.now)
        return ident

    def publish_at_random(self, nodes: list[Node], rate: float, seconds: float, size: int = 1024) -> None:
        """`rate` messages a second from random nodes, evenly spread."""
        for number in range(int(rate * seconds)):
            self.at(self.now + number / rate, self._publish_one, nodes, size)

    def _publish_one(self, nodes: list[Node], size: int) -> None:
        self.publish(self.rng.choice(nodes), size)

    def delivered(self, node: Node, message: Message, now: float) -> None:
        record = self.published[message.id]
        if node.number in record.arrived:
            raise AssertionError(f"message {message.id.hex()} was delivered twice to node {node.number}")
        record.arrived[node.number] = now
        sender = None if message.source is None else self.by_peer[message.source].number
        record.hops[node.number] = 0 if sender is None else record.hops.get(sender, 0) + 1

    def reached(self, nodes: list[Node], within: float | None = None, since: float = 0.0) -> float:
        """The part of honest messages since `since` that arrived at `nodes`, within so many seconds."""
        wanted = arrived = 0
        for record in self.published.values():
            if record.at < since or not self.nodes[record.by].honest:
                continue
            for node in nodes:
                wanted += 1
                when = record.arrived.get(node.number)
                arrived += when is not None and (within is None or when - record.at <= within)
        return arrived / wanted if wanted else 1.0

    def duplicates(self, nodes: list[Node]) -> float:
        """How many copies a node got beside the first, per message and node."""
        copies = sum(node.router.counters["duplicate", TOPIC] for node in nodes)
        return copies / max(len(self.published) * len(nodes), 1)

    def hops(self) -> tuple[float, int]:
        """Mean and most hops of what arrived."""
        found = [hops for record in self.published.values() for hops in record.hops.values() if hops]
        return sum(found) / max(len(found), 1), max(found, default=0)

    def digest(self) -> str:
        """What was delivered to whom, when: the same for every run of the same world."""
        lines = [(record.at, record.by, *record.arrived.items()) for record in self.published.values()]
        return hashlib.sha256(repr((lines, self.rpcs, self.bytes)).encode()).hexdigest()

    def report(self, name: str, nodes: list[Node], **figures: float) -> None:
        """Print what was measured, for `pytest -s`."""
        mean, most = self.hops()
        figures |= {"delivered": self.reached(nodes), "hops": mean, "most hops": most}
        figures |= {"duplicates": self.duplicates(nodes), "lowest honest score": self.lowest}
        print(f"\n{name}: " + ", ".join(f"{figure} {value:.5g}" for figure, value in figures.items()))
