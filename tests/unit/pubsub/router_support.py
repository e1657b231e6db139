"""A router with made-up peers, so that a test reads like a script; what it sends is decoded, not compared as bytes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import fields
from ipaddress import ip_address
from typing import Any

from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.pubsub.core import Publication, Router
from pyp2p.pubsub.params import GossipParams, ScoreParams, Thresholds
from pyp2p.pubsub.score import ScoreBook
from pyp2p.pubsub.signing import StrictNoSign, StrictSign
from pyp2p.pubsub.transform import Plain
from pyp2p.pubsub.types import Connect, Deliver, Effect, Kind, Message, Rpc, Send, Unwanted, Validate, Verdict
from pyp2p.pubsub.wire import decode_rpc

TOPIC = "t"


def peer(name: str | int) -> PeerId:
    return PeerId(b"\x12\x20" + str(name).encode().rjust(32, b"."))


def by_content(message: Message, valid: bool = True) -> bytes:
    return message.data[:8]


class Script:
    """One router, the time, and what it has done since it was last asked."""

    def __init__(self, *, signed: bool = False, score: ScoreParams | None = None, **params: Any) -> None:
        self.now = 0.0
        self.points: dict[PeerId, float] = {}  # P5: a test says what a peer is worth
        self.verdicts: dict[bytes, Verdict | None] = {}
        self.looks = 0  # scores asked for: what a step costs
        self.identity = Identity.generate(entropy=random.Random(1).randbytes)
        book = ScoreBook(ScoreParams() if score is None else score, self._points)
        options: dict[str, Any] = {"message_id": by_content, "policy": StrictNoSign()}
        if signed:
            options = {"message_id": lambda m, valid=True: (m.author or b"") + (m.seqno or b"")}
            options["policy"] = StrictSign(self.identity)
        self.router = Router(
            self.identity.peer,
            GossipParams(**params),
            thresholds=Thresholds(),
            score=book,
            transform=Plain(),
            rng=random.Random(1),
            judge=lambda message: self.verdicts.get(message.payload, Verdict.ACCEPT),
            allows=lambda topic: topic != "forbidden",
            records=lambda peer: b"record of " + peer.raw[-4:],
            first_seqno=1,
            counters=Counter(),
            **options,
        )
        self.effects: list[Effect] = []

    def _points(self, peer: PeerId) -> float:
        self.looks += 1
        return self.points.get(peer, 0.0)

    # --- what happens to it

    def up(self, *names: str | int, kind: Kind = Kind.GOSSIP_1_2, outbound: bool = False, topics: str = TOPIC) -> None:
        """Peers come and subscribe to topics of one letter."""
        for number, name in enumerate(names):
            address = ip_address((10 << 24) + hash(number) + len(self.router.table) * 256)
            self.router.peer_up(peer(name), kind, outbound, (address,), self.now)
            self.says(name, subscriptions=[(True, topic) for topic in topics])

    def says(self, name: str | int, **rpc: Any) -> None:
        """A peer sends an RPC."""
        self.router.handle_rpc(peer(name), Rpc(**rpc), self.now)

    def worth(self, points: float, *names: str | int) -> None:
        """The score of these peers from the next heartbeat on."""
        self.points.update({peer(name): points for name in names})

    def beats(self, count: int = 1) -> None:
        """Heartbeats, a second apart."""
        for _ in range(count):
            self.now += 1.0
            self.router.heartbeat(self.now)

    def publish(self, payload: bytes, topic: str = TOPIC) -> Publication:
        return self.router.publish(topic, payload, self.now)

    # --- what it did

    def done(self) -> list[Effect]:
        """All effects since the last time."""
        return self.router.take()

    def sent(self) -> dict[str, Rpc]:
        """What each peer was sent since the last time, as one value."""
        found: dict[str, Rpc] = {}
        for effect in self.done():
            if type(effect) is Send:
                said = decode_rpc(effect.fragment)
                for to in effect.peers:
                    into = found.setdefault(to.raw[2:].decode().strip("."), Rpc())
                    for each in fields(Rpc):
                        setattr(into, each.name, getattr(into, each.name) + getattr(said, each.name))
        return found

    def delivered(self) -> list[bytes]:
        return [effect.message.payload for effect in self.done() if type(effect) is Deliver]

    def of(self, kind: type) -> list[Any]:
        """Effects of a kind since the last time."""
        return [effect for effect in self.done() if type(effect) is kind]

    def mesh(self, topic: str = TOPIC) -> list[str]:
        return sorted(p.raw[2:].decode().strip(".") for p in self.router.mesh.peers(topic))

    def count(self, what: str, topic: str = TOPIC) -> int:
        return self.router.counters[what, topic]


__all__ = ["TOPIC", "Connect", "Script", "Unwanted", "Validate", "peer"]
