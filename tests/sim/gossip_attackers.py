"""Attackers in the world of routers: nodes with an honest router inside, and other habits from some moment on.

Until then they behave well and earn P1 and P2. They keep to the heartbeat and to their own backoffs, never punish
anybody, accept everything, and graft everybody who lets them.
"""

from dataclasses import replace

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.core import Router
from pyp2p.pubsub.params import GossipParams, ScoreParams
from pyp2p.pubsub.types import Lane, Message, Prune, Send, Verdict
from pyp2p.pubsub.wire import graft_fragment, ihave_fragments, iwant_fragments, prune_fragment
from tests.sim.gossip import TOPIC, TOPIC_SCORE, Node, World

EVERYBODY = 10_000


class Attacker(Node):
    """Behaves well until `since`."""

    honest = False

    def __init__(self, world: World, number: int, *, since: float = 0.0, ip: str | None = None) -> None:
        self.since = since
        super().__init__(world, number, ip)

    def make_router(self, params: GossipParams, score: ScoreParams | None) -> Router:
        greedy = replace(params, d=EVERYBODY, d_low=EVERYBODY, d_high=EVERYBODY, flood_publish=True)
        return super().make_router(greedy, None)

    @property
    def attacking(self) -> bool:
        return self.world.now >= self.since

    def judge(self, message: Message) -> Verdict | None:
        return Verdict.ACCEPT

    def tell(self, fragment: bytes, times: int = 1) -> None:
        """Send an RPC to every honest node that it is connected to."""
        for number in self.links:
            victim = self.world.nodes[number]
            for _ in range(times if victim.honest else 0):
                self.world.send(self, victim, fragment, self.world.now)


class Silent(Attacker):
    """Holds its places in the meshes and sends no message and no gossip."""

    def may_send(self, effect: Send, peer: PeerId) -> bool:
        return not self.attacking or effect.lane is Lane.CONTROL


class Eclipser(Silent):
    """Grafts as soon as it is connected, before anybody else can."""

    def on_up(self, other: Node, outbound: bool, now: float) -> None:
        super().on_up(other, outbound, now)
        self.world.send(self, other, graft_fragment(TOPIC), now)


class Dropper(Silent):
    """Forwards one copy in ten."""

    def may_send(self, effect: Send, peer: PeerId) -> bool:
        return super().may_send(effect, peer) or (effect.lane is Lane.FORWARDED and self.rng.random() < 0.1)


class Junker(Silent):
    """Sends an invalid message to everybody it knows, every ten beats."""

    def may_send(self, effect: Send, peer: PeerId) -> bool:
        return effect.lane is Lane.OWN or super().may_send(effect, peer)

    def beat(self, now: float) -> None:
        super().beat(now)
        if self.attacking and self.beats % 10 == 0:
            self.world.publish(self, mark=b"!")


class Grafter(Silent):
    """Leaves all meshes, then grafts in every beat as if there were no backoff."""

    left = False

    def beat(self, now: float) -> None:
        if not self.attacking:
            super().beat(now)
        elif self.left:
            self.tell(graft_fragment(TOPIC))
        else:
            self.left = True
            self.tell(prune_fragment(Prune(TOPIC, [], int(self.world.params.prune_backoff))))


class Evader(Silent):
    """Leaves every mesh before P3 is active, for no longer than it has to, and grafts again."""

    def beat(self, now: float) -> None:
        super().beat(now)
        if self.attacking:
            visit = int(TOPIC_SCORE.mesh_message_deliveries_activation / self.world.params.heartbeat_interval)
            if self.beats % visit == 0:
                self.tell(prune_fragment(Prune(TOPIC, [], 1)))
            elif self.beats % visit == 2:
                self.tell(graft_fragment(TOPIC))


class Outsider(Attacker):
    """Listens to no topic: nobody pushes anything to it or tells it what there is."""

    def start(self, now: float) -> None:
        pass


class Offerer(Outsider):
    """Offers `ids` made-up messages in each of `rpcs` RPCs a beat, and has none of them."""

    rpcs, ids = 3, 1

    def beat(self, now: float) -> None:
        if self.attacking:
            for rpc in range(self.rpcs):
                first = (self.beats * self.rpcs + rpc) * self.ids
                made_up = [b"%d of %d" % (first + each, self.number) for each in range(self.ids)]
                self.tell(b"".join(ihave_fragments(TOPIC, made_up)))
        super().beat(now)


class Flooder(Offerer):
    """The same by the thousand."""

    rpcs, ids = 30, 520


class Asker(Outsider):
    """Asks for every message of the last two seconds, twenty times a beat."""

    def beat(self, now: float) -> None:
        if self.attacking:
            ids = [ident for ident, record in self.world.published.items() if now - record.at < 2]
            for fragment in iwant_fragments(ids):
                self.tell(fragment, times=20)
        super().beat(now)
