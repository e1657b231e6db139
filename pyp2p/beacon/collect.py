"""What a node can tell about itself, gathered from its connections and counters.

Rules: pure but for reading. Connections that are over are in the totals, open ones are added: none is counted twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pyp2p.beacon.gossip import Gossip
from pyp2p.beacon.stats import ConnectionStats, TopicStats
from pyp2p.peer.address import AddressKind, components, text
from pyp2p.pubsub.service import Pubsub
from pyp2p.reqresp.service import ReqResp
from pyp2p.switch.connection import Connection
from pyp2p.switch.events import Connected, Disconnected, SwitchEvent

_Labels = tuple[str, str, str, str, str, str]


class Totals:
    """What there was since the start. `opened` and `closed` are by direction, transport, security, muxer, whether the
    muxer was agreed early, and IP version.
    """

    def __init__(self) -> None:
        self.opened: Counter[_Labels] = Counter()
        self.closed: Counter[_Labels] = Counter()
        self.dial_errors: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()  # bytes and messages of connections that are over

    def note(self, event: SwitchEvent) -> None:
        """Count a connection that begins or ends."""
        if isinstance(event, Connected):
            self.opened[_labels(event.connection)] += 1
        elif isinstance(event, Disconnected):
            self.closed[_labels(event.connection)] += 1
            self.ended.update(_moved(event.connection))

    def moved(self, connections: Iterable[Connection]) -> Counter[str]:
        """Bytes and messages each way, of all connections that there ever were."""
        return sum(map(_moved, connections), self.ended.copy())


def _labels(connection: Connection) -> _Labels:
    parts = [part.name for part in components(connection.remote)]
    transport = next((name for name in ("quic-v1", "ws", "wss", "tcp", "memory") if name in parts), "other")
    version = {"ip4": "ip4", "ip6": "ip6"}.get(parts[0], "unknown")
    direction = "outbound" if connection.direction.outbound else "inbound"
    early = "true" if connection.early_muxer else "false"
    return direction, transport, connection.security, connection.muxer_protocol, early, version


def _moved(connection: Connection) -> Counter[str]:
    stats = connection.stats
    return Counter(
        bytes_in=stats.bytes_in,
        bytes_out=stats.bytes_out,
        messages_in=stats.messages_in,
        messages_out=stats.messages_out,
    )


def connection_stats(connection: Connection) -> ConnectionStats:
    """One connection."""
    key = connection.peer_key
    return ConnectionStats(
        peer=connection.peer,
        outbound=connection.direction.outbound,
        direct=connection.kind in (AddressKind.OUTBOUND_DIRECT, AddressKind.INBOUND_DIRECT),
        opened_at=connection.opened_at_wall,
        local=text(connection.local),
        remote=text(connection.remote),
        key=key.to_protobuf(),
        key_type=key.type.name.lower(),
        security=connection.security,
        muxer=connection.muxer_protocol,
        early_muxer=connection.early_muxer,
        **_moved(connection),
    )


def topic_stats(pubsub: Pubsub, gossip: Gossip) -> Iterable[TopicStats]:
    """The topics that are subscribed to."""
    for topic in pubsub.topics:
        messages, size = gossip.accepted.get(topic, (0, 0))
        yield TopicStats(topic, len(pubsub.peers(topic)), len(pubsub.mesh(topic)), messages, size)


def request_stats(reqresp: ReqResp) -> Counter[tuple[str, str, str]]:
    """Requests by (method, direction, result)."""
    found: Counter[tuple[str, str, str]] = Counter()
    for (what, protocol), count in reqresp.counters.items():
        found[protocol.split("/")[-3], "in" if what in _SERVING else "out", what] += count
    return found


_SERVING = ("served", "too many at once", "request too slow", "answer too slow", "crashed")
