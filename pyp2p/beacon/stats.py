"""What a node can tell about itself at a moment, as plain values: for people, metrics and logs.

Rules: pure, a snapshot; counters only grow for as long as the node runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyp2p.beacon.containers import MetaDataV1, StatusV1
from pyp2p.peer.id import PeerId


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """One connection. `opened_at` is wall time in seconds, `key` the public key of the peer in protobuf form.

    Bytes are those on the wire, messages the pieces of payload; `security` and `muxer` are protocol names.
    """

    peer: PeerId
    outbound: bool
    direct: bool  # not by way of a relay
    opened_at: float
    local: str
    remote: str
    key: bytes
    key_type: str
    security: str
    muxer: str
    early_muxer: bool
    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int


@dataclass(frozen=True, slots=True)
class PeerStats:
    """One peer: who it says it is, how good it has been, what it serves."""

    peer: PeerId
    agent: str | None
    outbound: bool
    transport: str  # of its first connection, a word of `labels.py`
    score: float
    gossip_score: float
    trusted: bool  # or static: never pruned
    attnets: tuple[int, ...] = ()
    syncnets: tuple[int, ...] = ()
    head_slot: int | None = None
    round_trip: float | None = None  # seconds of the last ping
    status: StatusV1 | None = None
    metadata: MetaDataV1 | None = None


@dataclass(frozen=True, slots=True)
class TopicStats:
    """One gossip topic: who listens, whom we mesh with, messages and bytes that were accepted since the start."""

    topic: str
    peers: int
    mesh: int
    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class NodeStats:
    """Everything. Counters are by (what, of which): see each field."""

    peer: PeerId
    enr: str
    addresses: tuple[str, ...]
    started_at: float  # wall time, seconds
    slot: int
    head_slot: int
    finalized_epoch: int
    fork_digest: bytes
    target_peers: int
    connections: tuple[ConnectionStats, ...]
    peers: tuple[PeerStats, ...]
    topics: tuple[TopicStats, ...]
    bytes_in: int  # of all connections, those that are over too
    bytes_out: int
    messages_in: int
    messages_out: int
    # By ("inbound" | "outbound", transport, security, muxer, "true" | "false" for an early muxer, IP version):
    # what `labels.connection` makes
    opened: Mapping[tuple[str, str, str, str, str, str], int] = field(default_factory=dict)
    closed: Mapping[tuple[str, str, str, str, str, str], int] = field(default_factory=dict)
    key_types: Mapping[tuple[str, str], int] = field(default_factory=dict)  # of `opened`, by (direction, kind of key)
    dial_errors: Mapping[str, int] = field(default_factory=dict)  # by stage
    # Attempts to reach one address, by (transport, error, IP version) as `labels.dial_error` makes them
    attempts_failed: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    gossip: Mapping[tuple[str, str], int] = field(default_factory=dict)  # counters by (what, topic or "")
    gossip_gauges: Mapping[tuple[str, str], int] = field(default_factory=dict)
    requests: Mapping[tuple[str, str, str], int] = field(default_factory=dict)  # by (method, "in" | "out", result)
    limits: Mapping[str, int] = field(default_factory=dict)  # use and refusals of the switch's limits
    discovery: Mapping[str, int] = field(default_factory=dict)  # counters
    discovery_gauges: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)  # what was lost, by where
