"""A router with peers that are names, so that a test reads like a script: who came, what it said, what it was sent.

What is sent is read back from the wire form, so that tests do not depend on how it is cut into fragments. A peer's
score is what the test says it is: nothing else has weight, yet every merit and fault is counted and can be asked for.
"""

import random
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from math import sqrt
from typing import Any

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.core import Router
from pyp2p.pubsub.ids import MessageIdFunction
from pyp2p.pubsub.params import GossipParams, ScoreParams, Thresholds, TopicScoreParams
from pyp2p.pubsub.score import ScoreBook
from pyp2p.pubsub.signing import Policy, StrictNoSign
from pyp2p.pubsub.transform import DataTransform, Plain
from pyp2p.pubsub.types import (
    Connect,
    Deliver,
    Effect,
    Kind,
    Lane,
    Message,
    Prune,
    Rpc,
    Send,
    Unwanted,
    Validate,
    Verdict,
)
from pyp2p.pubsub.wire import decode_message, decode_rpc

TOPIC = "t"
T0 = 1000.0
ID = 8  # bytes of the data that are the id of a message

# Nothing weighs but what the application says (P5); P2, P4 and P7 are counted all the same.
WEIGHTLESS = TopicScoreParams(
    time_in_mesh_weight=0.0,
    first_message_deliveries_weight=0.0,
    first_message_deliveries_decay=0.999999,
    invalid_message_deliveries_weight=0.0,
    invalid_message_deliveries_decay=0.999999,
)
SCORE = ScoreParams(
    topics={TOPIC: WEIGHTLESS},
    behaviour_penalty_weight=0.0,
    behaviour_penalty_threshold=0.0,
    behaviour_penalty_decay=0.999999,
)
QUIET = GossipParams(flood_publish=False)


def pid(name: str) -> PeerId:
    """The peer with this name."""
    return PeerId(b"\x12\x20" + name.encode().ljust(32, b"\0"))


def name_of(peer: PeerId) -> str:
    return peer.raw[2:].rstrip(b"\0").decode(errors="replace")


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def raw(data: bytes, topic: str = TOPIC) -> bytes:
    """An unsigned message, serialised."""
    return StrictNoSign().build(topic, data, 0).raw


def content_id(message: Message, valid: bool = True) -> bytes:
    return message.data[:ID]


class RouterScript:
    """A router, its clock, and everything that it wanted done, sorted by whom it concerns."""

    def __init__(
        self,
        params: GossipParams = QUIET,
        *,
        score: ScoreParams = SCORE,
        thresholds: Thresholds | None = None,
        policy: Policy | None = None,
        message_id: MessageIdFunction = content_id,
        transform: DataTransform | None = None,
        seed: int = 1,
    ) -> None:
        self.params = params
        self.now = T0
        self.scores: dict[str, float] = {}  # P5 of each peer, 0 for the others
        self.asked = 0  # how often a score was asked for
        self.verdict: Verdict | None = Verdict.ACCEPT  # of every message; None: `Validate` asks for it
        self.filtered: tuple[str, ...] = ()  # topics that no peer need tell us of
        self.records: dict[str, bytes] = {}
        self.delivered: list[bytes] = []
        self.validating: list[Message] = []
        self.connects: list[tuple[bytes, bytes]] = []
        self.unwanted: list[tuple[str, list[bytes]]] = []
        self._sent: dict[str, list[tuple[Lane, tuple[Any, ...]]]] = {}
        self.router = Router(
            pid("me"),
            params,
            thresholds=thresholds or Thresholds(),
            score=ScoreBook(score, self._application),
            policy=policy or StrictNoSign(),
            message_id=message_id,
            transform=transform or Plain(),
            rng=random.Random(seed),
            judge=lambda message: self.verdict,
            allows=lambda topic: topic not in self.filtered,
            records=lambda peer: self.records.get(name_of(peer), b""),
            first_seqno=7,
            counters=Counter(),
        )

    def _application(self, peer: PeerId) -> float:
        self.asked += 1
        return self.scores.get(name_of(peer), 0.0)

    # --- what happens

    def up(
        self,
        *peers: str,
        kind: Kind = Kind.GOSSIP_1_2,
        outbound: bool = False,
        topics: tuple[str, ...] = (TOPIC,),
        score: float = 0.0,
        direct: bool = False,
    ) -> None:
        """These peers connect and say what they listen to."""
        for name in peers:
            if direct:
                self.router.direct[pid(name)] = None
            self.scores[name] = score
            self.router.peer_up(pid(name), kind, outbound, (ip_address("127.0.0.1"),), self.now)
            if topics:
                self.rpc(name, Rpc(subscriptions=[(True, topic) for topic in topics]))

    def down(self, name: str) -> None:
        self.router.peer_down(pid(name), self.now)

    def rpc(self, name: str, rpc: Rpc) -> None:
        self.router.handle_rpc(pid(name), rpc, self.now)

    def says(self, name: str, *data: bytes, topic: str = TOPIC, **control: Any) -> None:
        """A peer sends messages of `topic` and control; `ihave=[ids]` is about `topic` as well."""
        offers = [(topic, control.pop("ihave"))] if "ihave" in control else []
        self.rpc(name, Rpc(publish=[raw(each, topic) for each in data], ihave=offers, **control))

    def prunes(self, name: str, backoff: int | None = None, topic: str = TOPIC, peers: Any = ()) -> None:
        self.rpc(name, Rpc(prune=[Prune(topic, list(peers), backoff)]))

    def publish(self, data: bytes, topic: str = TOPIC) -> list[str]:
        """Publish; returns whom it is for."""
        return [name_of(peer) for peer in self.router.publish(topic, data, self.now).peers]

    def join(self, topic: str = TOPIC) -> None:
        self.router.subscribe(topic, self.now)

    def leave(self, topic: str = TOPIC) -> None:
        self.router.unsubscribe(topic, self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def beat(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += self.params.heartbeat_interval
            self.router.heartbeat(self.now)

    # --- what came of it

    def take(self) -> list[Effect]:
        """The effects as they are; they are sorted as well."""
        effects = self.router.take()
        for effect in effects:
            match effect:
                case Send(peers, lane, fragment):
                    for peer in peers:
                        self._sent.setdefault(name_of(peer), []).extend((lane, part) for part in parts(fragment))
                case Deliver(message):
                    self.delivered.append(message.payload)
                case Validate(message):
                    self.validating.append(message)
                case Connect(peer, record):
                    self.connects.append((peer, record))
                case Unwanted(peer, ids):
                    self.unwanted.append((name_of(peer), ids))
        return effects

    def sent(self, name: str, *kinds: str) -> list[tuple[Any, ...]]:
        """What the peer was sent since the last time, of these kinds only if any are named; the rest is forgotten."""
        self.take()
        return [part for _, part in self._sent.pop(name, []) if not kinds or part[0] in kinds]

    def lanes(self, name: str) -> list[Lane]:
        """The same by its classes."""
        self.take()
        return [lane for lane, _ in self._sent.pop(name, [])]

    def who_got(self, *part: Any) -> list[str]:
        """Who was sent exactly this since the last time; the rest is forgotten."""
        self.take()
        found = [name for name, log in self._sent.items() if any(each == part for _, each in log)]
        self._sent.clear()
        return sorted(found)

    def forget(self) -> None:
        """Begin afresh: what was sent so far is of no interest."""
        self.take()
        self._sent.clear()
        for log in (self.delivered, self.validating, self.connects, self.unwanted):
            log.clear()

    def mesh(self, topic: str = TOPIC) -> list[str]:
        return sorted(name_of(peer) for peer in self.router.mesh.peers(topic))

    def fanout(self, topic: str = TOPIC) -> list[str]:
        return sorted(name_of(peer) for peer in self.router.mesh.fanout.get(topic, ()))

    def backoff(self, name: str, topic: str = TOPIC) -> float | None:
        """The seconds that are left of a backoff."""
        until = self.router.mesh.backoffs.until(topic, pid(name))
        return None if until is None else until - self.now

    def faults(self, name: str) -> int:
        """How often the peer broke the protocol (P7)."""
        return round(sqrt(self.router.score.components(pid(name)).p7))

    def invalid(self, name: str) -> int:
        """How many bad messages it brought (P4)."""
        return round(sqrt(self.router.score.components(pid(name)).p4))

    def first(self, name: str) -> int:
        """How many good ones it brought first (P2)."""
        return round(self.router.score.components(pid(name)).p2)

    def count(self, what: str, topic: str = TOPIC) -> int:
        return self.router.counters[what, topic]


def parts(fragment: bytes) -> list[tuple[Any, ...]]:
    """What stands in a piece of an RPC, one tuple for each part."""
    rpc = decode_rpc(fragment)
    found: list[tuple[Any, ...]] = [("subscribe" if on else "unsubscribe", topic) for on, topic in rpc.subscriptions]
    for each in rpc.publish:
        found.append(("message", decode_message(each).data))
    found += [("ihave", topic, ids) for topic, ids in rpc.ihave]
    if rpc.iwant:
        found.append(("iwant", rpc.iwant))
    found += [("graft", topic) for topic in rpc.graft]
    found += [("prune", prune.topic, prune.backoff, prune.peers) for prune in rpc.prune]
    if rpc.idontwant:
        found.append(("idontwant", rpc.idontwant))
    return found


def joined(params: GossipParams = QUIET, peers: tuple[str, ...] = (), **more: Any) -> RouterScript:
    """A router that listens to the topic, with these peers in its mesh and nothing left to send."""
    script = RouterScript(params, **more)
    script.up(*peers)
    script.join()
    script.forget()
    return script


def meshed(count: int, outbound: int = 0, params: GossipParams = QUIET, seed: int = 1) -> RouterScript:
    """A mesh of so many peers, `p0` and on, of which we dialled the first `outbound`."""
    r = joined(params, seed=seed)
    peers = names("p", count)
    r.up(*peers[:outbound], outbound=True)
    r.up(*peers[outbound:])
    for name in peers:
        r.router.mesh._add(TOPIC, pid(name), r.now)
    r.forget()
    return r


def with_params(**changes: Any) -> GossipParams:
    return replace(QUIET, **changes)
