"""Nodes with other habits, and a crowd of honest ones that is scored."""

from __future__ import annotations

from dataclasses import replace

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.params import ScoreParams, TopicScoreParams
from pyp2p.pubsub.types import Lane, Prune, Send
from pyp2p.pubsub.wire import graft_fragment, ihave_fragments, iwant_fragments, prune_fragment, publish_fragment
from tests.sim.gossip import PARAMS, TOPIC, Node, World, decode

# Every copy counts in the simulations: IDONTWANT would leave honest links without deliveries to judge by.
SCORED = replace(PARAMS, idontwant_threshold=1 << 20)

# For one message a second: an honest link of a mesh brings 0.4 or more of them first or nearly so.
TOPIC_SCORE = TopicScoreParams(
    first_message_deliveries_decay=0.9,
    first_message_deliveries_cap=5.0,
    mesh_message_deliveries_weight=-1.0,
    mesh_message_deliveries_decay=0.9,
    mesh_message_deliveries_cap=20.0,
    mesh_message_deliveries_threshold=1.5,
    mesh_message_deliveries_activation=10.0,
    mesh_message_delivery_window=2.0,
    mesh_failure_penalty_weight=-1.0,
    mesh_failure_penalty_decay=0.97,
)
SCORE = ScoreParams(topics={TOPIC: replace(TOPIC_SCORE, mesh_message_deliveries_weight=-8.0)})
UNSCORED = None


class Hostile(Node):
    """An attacker: not counted among those who must be reached. Its own router scores nobody."""

    honest = False

    def make_router(self):
        score, self.world.score = self.world.score, None
        try:
            return super().make_router()
        finally:
            self.world.score = score

    def says(self, peer: Node, *fragments: bytes) -> None:
        """Send hand-made pieces of an RPC."""
        self.world.send(self, peer, b"".join(fragments), self.world.now)


class Silent(Hostile):
    """Grafts whoever it meets, at once, and forwards nothing from `since` on; until then it is a good node."""

    since = 0.0

    def on_up(self, other: Node, outbound: bool, now: float) -> None:
        super().on_up(other, outbound, now)
        self.router.mesh.topics[TOPIC][other.peer] = None  # as if it had agreed: what is forwarded goes there too
        self.world.at(now, lambda: self.says(other, graft_fragment(TOPIC)))

    def may_send(self, effect: Send, peer: PeerId) -> bool:
        return self.world.now < self.since or effect.lane is Lane.CONTROL


class Flash(Silent):
    """Behaves for a minute: then all of its kind fall silent at once."""

    since = 60.0


class Inventor(Silent):
    """Sends invalid messages instead of forwarding good ones."""

    def beat(self, now: float) -> None:
        super().beat(now)
        ident = b"!" * 8 + self.number.to_bytes(4, "big") + int(now * 10).to_bytes(4, "big")
        raw = b"\x12\x11" + ident + b"!" + b"\x22\x03sim"
        for number in self.links:
            self.says(self.world.nodes[number], publish_fragment(raw))


class Regrafter(Hostile):
    """Prunes, and grafts again in every heartbeat of the backoff that this starts."""

    def on_up(self, other: Node, outbound: bool, now: float) -> None:
        super().on_up(other, outbound, now)
        self.world.at(now, lambda: self.says(other, prune_fragment(Prune(TOPIC, [], 60))))

    def beat(self, now: float) -> None:
        for number in self.links:
            self.says(self.world.nodes[number], graft_fragment(TOPIC))


class Promiser(Hostile):
    """Offers what it does not have; `asked` counts the ids asked for in each heartbeat, per victim."""

    offers = 5  # IHAVE messages in a heartbeat
    ids = 20  # in each

    def __init__(self, world: World, number: int, ip: str | None = None) -> None:
        super().__init__(world, number, ip)
        self.asked: dict[tuple[int, int], list[int]] = {}

    def on_rpc(self, sender: Node, data: bytes, now: float) -> None:
        ids = decode(data).iwant
        if ids:
            self.asked.setdefault((int(now), sender.number), []).append(len(ids))

    def beat(self, now: float) -> None:
        for number in self.links:
            for offer in range(self.offers):
                start = self.number.to_bytes(4, "big") + int(now).to_bytes(4, "big")
                made_up = [start + (offer * self.ids + n).to_bytes(8, "big") for n in range(self.ids)]
                self.says(self.world.nodes[number], *ihave_fragments(TOPIC, made_up))


class Flooder(Promiser):
    """A hundred IHAVE of two hundred ids in each heartbeat."""

    offers = 100
    ids = 200


class Beggar(Hostile):
    """Asks every neighbour for the newest message, fifty times; `copies` counts what it gets of each from each."""

    def __init__(self, world: World, number: int, ip: str | None = None) -> None:
        super().__init__(world, number, ip)
        self.copies: dict[tuple[int, bytes], int] = {}

    def on_rpc(self, sender: Node, data: bytes, now: float) -> None:
        for raw in decode(data).publish:
            key = sender.number, raw[:24]
            self.copies[key] = self.copies.get(key, 0) + 1

    def beat(self, now: float) -> None:
        if self.world.published:
            newest = next(reversed(self.world.published))
            for number in self.links:
                for _ in range(50):
                    self.says(self.world.nodes[number], *iwant_fragments([newest]))
