"""Under which words connections and failed attempts are counted: those of go-libp2p, so that its dashboards fit.

Rules: pure; each word is of a small fixed set, whatever an address or an error says. go-libp2p p2p/metricshelper and
p2p/net/swarm/swarm_metrics.go.
"""

from __future__ import annotations

from multiaddr import Multiaddr

from pyp2p.errors import (
    Attempt,
    InvalidMultiaddr,
    NoAddresses,
    NotTried,
    Refused,
    ResolveError,
    StageTimeout,
    innermost,
)
from pyp2p.peer.address import components, parse_multiaddr
from pyp2p.peer.publickey import KeyType
from pyp2p.switch.connection import Connection

_TRANSPORTS = ("p2p-circuit", "webrtc", "webrtc-direct", "webtransport", "quic", "quic-v1", "wss", "ws", "tcp")
_BY_ITS_NAME = {"ws": "websocket", "wss": "websocket", "other": "unknown"}  # for connections go asks the transport
_IP_VERSIONS = {"ip4": "ip4", "dns4": "ip4", "ip6": "ip6", "dns6": "ip6"}
_KEYS = {KeyType.RSA: "RSA", KeyType.ED25519: "Ed25519", KeyType.SECP256K1: "Secp256k1", KeyType.ECDSA: "ECDSA"}
_NOTHING_SENT = (Refused, NoAddresses, NotTried, ResolveError)


def connection(of: Connection) -> tuple[str, str, str, str, str, str]:
    """Direction, transport, security, muxer, "true" or "false" for an early muxer, IP version of our end."""
    return (
        of.direction.value,
        transport(of),
        of.security,
        of.muxer_protocol,
        "true" if of.early_muxer else "false",
        _ip_version(of.local),
    )


def transport(of: Connection) -> str:
    """`tcp`, `quic-v1`, `websocket`, ... or `unknown`."""
    named = _transport(of.local)
    return _BY_ITS_NAME.get(named, named)


def key_type(of: Connection) -> tuple[str, str]:
    """Direction, and kind of the peer's key."""
    return of.direction.value, _KEYS[of.peer_key.type]


def dial_error(attempt: Attempt) -> tuple[str, str, str] | None:
    """Transport, error, IP version of a failed attempt; None for one in which nothing was sent: go does not count it.

    The error is `deadline` (ours passed), `timeout` (the system's), `connection refused`, or `other`.
    """
    if isinstance(attempt.error, _NOTHING_SENT):
        return None
    try:
        address = parse_multiaddr(attempt.address)
    except InvalidMultiaddr:  # an adopted stream has none
        return "other", _kind(attempt.error), "unknown"
    return _transport(address), _kind(attempt.error), _ip_version(address)


def _kind(error: BaseException) -> str:
    cause = innermost(error.__cause__ or error)
    if isinstance(error, StageTimeout):
        return "deadline"
    if isinstance(cause, TimeoutError):
        return "timeout"
    return "connection refused" if isinstance(cause, ConnectionRefusedError) else "other"


def _transport(address: Multiaddr) -> str:
    """The last component that names one: what a relay or a websocket runs over does not count."""
    names = [part.name for part in components(address) if part.name in _TRANSPORTS]
    return names[-1] if names else "other"


def _ip_version(address: Multiaddr) -> str:
    found = [_IP_VERSIONS[part.name] for part in components(address) if part.name in _IP_VERSIONS]
    return found[-1] if found else "unknown"
