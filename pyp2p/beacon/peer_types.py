"""What goes into the peer manager and comes out: its settings, subnets, effects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from pyp2p.beacon.bans import IPAddress
from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.io.handshake import Direction
from pyp2p.peer.id import PeerId
from pyp2p.switch.config import IPNetwork


class SubnetKind(Enum):
    """The kinds of subnets; the value is how many there are. eth2 p2p-interface."""

    ATTESTATION = 64
    SYNC_COMMITTEE = 4
    DATA_COLUMN = 128


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnet. Raises `ValueError` for a number that its kind does not have."""

    kind: SubnetKind
    number: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.kind.value:
            raise ValueError(f"{self.kind.name} subnets are 0 to {self.kind.value - 1}, not {self.number}")


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """How many peers, and the bounds of what is remembered. Raises `ValueError` for what makes no sense."""

    target: int = 100  # peers that we want
    headroom: float = 0.1  # of the target, on top: places for newcomers, who are compared with those who are here
    outbound: float = 0.2  # of the target: peers that we chose ourselves; eclipse by filling our inbound places
    subnet_peers: int = 2  # fewer peers of a wanted subnet, and more are looked for
    grace: float = 60.0  # seconds that a newcomer has to show its use
    beat: float = 30.0  # seconds between looks at who is of least use, and between searches for a subnet
    gossip_graylist: float = -16_000.0  # the gossip score that makes all of gossip's part (-19): the graylist threshold
    bans: int = 4096  # strangers with made-up identities get themselves banned
    remembered_good: int = 512  # to be dialled again
    remembered_faults: int = 2048  # strangers that come, misbehave and go

    def __post_init__(self) -> None:
        for name in ("target", "subnet_peers", "bans", "remembered_good", "remembered_faults"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("headroom", "outbound"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a part of the target, 0 to 1, not {getattr(self, name)}")
        for name, above in (("grace", self.grace >= 0), ("beat", self.beat > 0)):
            if not above or not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is a number of seconds, not {getattr(self, name)}")
        if not -math.inf < self.gossip_graylist < 0:
            raise ValueError(f"gossip_graylist is below 0, not {self.gossip_graylist}")

    @property
    def most(self) -> int:
        """Peers at once: the target and at least one place for a newcomer."""
        return self.target + max(1, math.ceil(self.target * self.headroom))

    @property
    def outbound_floor(self) -> int:
        """Outbound peers at least; their places are never given to inbound ones."""
        return math.ceil(self.target * self.outbound)

    @property
    def most_inbound(self) -> int:
        """Inbound peers at once."""
        return self.most - self.outbound_floor


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a peer is not let in, and the code of the goodbye that tells it."""

    code: GoodbyeReason
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectedPeer:
    """A connected peer as the manager knows it: `since` in monotonic seconds, `score` -100..100."""

    peer: PeerId
    direction: Direction
    ip: IPAddress | None
    since: float
    score: float
    kept: bool  # static or trusted
    subnets: tuple[Subnet, ...]


# --- effects; texts are escaped


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Say goodbye with this code and end all connections to the peer; `disconnected` is to follow."""

    peer: PeerId
    code: GoodbyeReason
    reason: str


@dataclass(frozen=True, slots=True)
class Ban:
    """Neither dial the peer nor let it in until then (monotonic seconds). Keep it over a restart, at once."""

    peer: PeerId
    ip: IPAddress | None
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class Unban:
    """The ban of this peer is over."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class BanIp:
    """Let nobody in from there until then (monotonic seconds); said again when it is extended. It ends by itself.

    No `Unban` ends it earlier: it runs until so few of the bans there are left that it would not begin, and where one
    of them gives way in a full table before that, who filled the table would be let in again.
    """

    network: IPNetwork
    until: float


@dataclass(frozen=True, slots=True)
class Want:
    """So many peers are wanted in all, or more until so many of them are `outbound`; said at first and on each change.

    It is the target, or more while there is a place for peers of a subnet that too few serve.
    """

    count: int
    outbound: int


@dataclass(frozen=True, slots=True)
class Discover:
    """Look for `count` peers of this subnet, and dial them before others; said again while they are missing."""

    subnet: Subnet
    count: int


@dataclass(frozen=True, slots=True)
class Dial:
    """Try a peer again that was good to us; its addresses are in the book."""

    peer: PeerId


Effect = Disconnect | Ban | Unban | BanIp | Want | Discover | Dial
