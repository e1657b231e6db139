"""What a beacon network tells whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass

from pyp2p.beacon.containers import StatusV1
from pyp2p.peer.id import PeerId


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A peer passed all handshakes. `agent` is what it calls itself, remote text; `transport` a word of `labels.py`."""

    peer: PeerId
    agent: str | None
    outbound: bool
    address: str
    transport: str
    status: StatusV1 | None


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """A peer has gone, exactly one for each `PeerConnected`; `by` is who ended it: us, peer, network."""

    peer: PeerId
    reason: str
    by: str
    goodbye: int | None  # the code of its goodbye


@dataclass(frozen=True, slots=True)
class DialFailed:
    """A peer was not reached, or did not pass; `stage` is where it ended."""

    peer: PeerId
    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class ForkChanged:
    """Another fork, or other blob parameters, hold from this epoch on."""

    epoch: int
    fork: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class SubnetsChanged:
    """We are on other subnets, and say so under these numbers."""

    attnets: tuple[int, ...]
    syncnets: tuple[int, ...]
    metadata_seq: int


@dataclass(frozen=True, slots=True)
class Warned:
    """Something is not as it should be, and the network goes on; for people."""

    text: str


NetworkEvent = PeerConnected | PeerDisconnected | DialFailed | ForkChanged | SubnetsChanged | Warned
