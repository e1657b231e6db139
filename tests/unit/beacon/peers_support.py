"""A peer manager under a script: made-up peers, a clock that is a number, effects by kind."""

from __future__ import annotations

import hashlib
import random
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.beacon.peer_types import Disconnect, Effect, PeerConfig, Subnet, SubnetKind
from pyp2p.beacon.peers import PeerManager
from pyp2p.io.handshake import Direction
from pyp2p.peer.id import PeerId

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
E = TypeVar("E")


def peer(name: object) -> PeerId:
    return PeerId(b"\x12\x20" + hashlib.sha256(str(name).encode()).digest())


def ip(number: int) -> IPv4Address | IPv6Address:
    return ip_address(f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}")


def attnet(number: int) -> Subnet:
    return Subnet(SubnetKind.ATTESTATION, number)


def of(kind: type[E], effects: list[Effect]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


class Script:
    """The manager, the time, and all effects so far."""

    def __init__(self, *, static=(), trusted=(), **settings) -> None:
        self.manager = PeerManager(PeerConfig(**settings), random.Random(1), static=static, trusted=trusted)
        self.now = 1000.0
        self.effects: list[Effect] = []
        self.count = 0

    def join(self, *names: object, direction: Direction = OUT, at: str | None = None) -> list[PeerId]:
        """They connect, each from an address of its own unless `at` says from where."""
        peers = [peer(name) for name in names]
        for each in peers:
            self.count += 1
            self.manager.connected(each, direction, ip_address(at) if at else ip(self.count), self.now)
        return peers

    def poll(self, seconds: float = 0.0) -> list[Effect]:
        """Time passes, then the effects of one poll; who has to leave is gone."""
        self.now += seconds
        effects = self.manager.poll(self.now)
        self.effects += effects
        for gone in of(Disconnect, effects):
            self.manager.disconnected(gone.peer, self.now)
        return effects

    def sent_away(self, seconds: float = 0.0) -> dict[PeerId, GoodbyeReason]:
        return {each.peer: each.code for each in of(Disconnect, self.poll(seconds))}

    @property
    def here(self) -> list[PeerId]:
        return [each.peer for each in self.manager.peers(self.now)]
