"""Every bound and deadline of the switch, with its reason, as frozen dataclasses with sane defaults."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field, fields

from pyp2p.muxers.base import MuxerLimits

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# Where zero would be no limit that anybody means but a node that cannot work.
_NEEDED = (
    *("connections", "per_peer", "ip_burst", "streams_per_connection", "write_backlog", "event_queue"),
    *("dial_addresses", "dial_peers", "entries", "factor"),
)

LOOPBACK: tuple[IPNetwork, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of us others may use. A refusal is a `LimitExceeded` that names the field, and moves its counter."""

    connections: int = 1024  # all connections: file descriptors and memory
    inbound: int = 768  # of them opened by others, so that we can always still dial
    pending_inbound: int = 64  # not yet upgraded: the cheap half of a connection flood
    pending_outbound: int = 64  # dial attempts under way
    per_peer: int = 8  # one peer must not fill the table
    per_ip4: int = 8  # inbound connections from one IPv4 address: sybils
    per_ip6_56: int = 8  # one IPv6 customer has a /56
    per_ip6_48: int = 64  # one IPv6 site has a /48
    ip_rate: float = 0.2  # new inbound connections per second and address (prefix /56)
    ip_burst: int = 16
    exempt_networks: tuple[IPNetwork, ...] = LOOPBACK  # free of the per-IP limits and rates, as go-libp2p does
    allow_networks: tuple[IPNetwork, ...] = ()  # always get in, up to `allow_connections` more: eclipse defence
    allow_connections: int = 64
    streams_per_connection: int = 1024  # open at once, both directions: memory
    streams_per_protocol_and_peer: int = 128  # inbound, when `mount` names no other
    unnegotiated_streams: int = 256  # inbound streams of a connection that have named no protocol yet
    parked_streams: int = 64  # early streams of a connection that wait for its admission
    memory: int = 512 * 1024 * 1024  # unread data and grown windows of all connections
    memory_per_connection: int = 64 * 1024 * 1024
    write_backlog: int = 512 * 1024  # bytes queued to one connection before senders wait
    dial_addresses: int = 25  # addresses tried for one peer: poisoned address books
    dial_peers: int = 128  # peers being dialled at once
    event_queue: int = 16  # events a slow subscriber may lag before it slows the emitter
    listeners: int = 64
    muxer: MuxerLimits = field(default_factory=MuxerLimits)

    def __post_init__(self) -> None:
        """Raise `ValueError` that names the field of a limit that can never be reached, or that lets nobody in."""
        _check_numbers("limits", self)
        _check_numbers("limits.muxer", self.muxer)
        for small, large in (
            ("inbound", "connections"),
            ("per_peer", "connections"),
            ("memory_per_connection", "memory"),
            ("unnegotiated_streams", "streams_per_connection"),
        ):
            if getattr(self, small) > getattr(self, large):
                raise ValueError(f"limits.{small} must not exceed limits.{large}")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Total deadlines in seconds, never per read."""

    upgrade: float = 15.0  # security and muxer of one connection
    protocol_select: float = 10.0  # a stream until it has named a protocol
    identify: float = 5.0
    admission: float = 10.0  # all admission steps together
    write: float = 10.0  # no progress in sending although bytes wait
    close: float = 2.0  # last words and flush of one connection; the whole stop
    last_word: float = 1.0  # of `close`: what services may use for their goodbye, and handlers to end
    drain: float = 0.5  # of `close`: waiting for the peer's end, so that our last bytes are not destroyed
    half_closed: float = 60.0  # a stream that only the peer keeps open
    dial_address: float = 10.0
    dial: float = 30.0  # a dial of one peer with all its addresses
    resolve: float = 5.0
    heartbeat_interval: float = 30.0  # the first is sent one interval after the start
    heartbeat_timeout: float = 20.0
    idle_duplicate: float = 30.0  # a second connection to the same peer is closed when idle that long

    def __post_init__(self) -> None:
        """Raise `ValueError` that names a deadline that is negative or no number; infinity waits for ever."""
        _check_numbers("timeouts", self)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waiting after a failed dial of one address: base * factor ** (failures - 1), at most `cap`, times 1 ± jitter."""

    base: float = 5.0
    factor: float = 2.0
    cap: float = 300.0
    jitter: float = 0.2
    entries: int = 10_000  # addresses remembered: a list of dead addresses must not grow us

    def __post_init__(self) -> None:
        """Raise `ValueError` that names the field that makes no sense."""
        _check_numbers("backoff", self)
        if not (self.jitter < 1 and math.isfinite(self.cap)):
            raise ValueError("backoff.jitter must be below 1 and backoff.cap finite")


@dataclass(frozen=True, slots=True)
class SwitchConfig:
    """Everything about a switch that is not an object of its own."""

    agent: str = "pyp2p/0.1.0"
    protocol_version: str = "ipfs/0.1.0"
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    backoff: Backoff = field(default_factory=Backoff)
    identify: bool = True  # ask every new peer who it is
    ping: bool = True  # serve /ipfs/ping/1.0.0
    heartbeat: bool = True
    early_muxer: bool = True  # offer our muxers inside the security handshake
    perf: bool = False  # serve /perf/1.0.0: off by default, it is an amplifier

    def __post_init__(self) -> None:
        """Raise `ValueError` for what identify could not say."""
        for name, value in (("agent", self.agent), ("protocol_version", self.protocol_version)):
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError(f"{name} holds characters that UTF-8 cannot carry") from None


def _check_numbers(name: str, config: Limits | Timeouts | Backoff | MuxerLimits) -> None:
    for entry in fields(config):
        value = getattr(config, entry.name)
        least = 1 if entry.name in _NEEDED else 0
        if isinstance(value, (int, float)) and not value >= least:
            raise ValueError(f"{name}.{entry.name} must be at least {least}")
