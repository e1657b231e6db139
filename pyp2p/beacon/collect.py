"""What a node can tell about itself, gathered from its connections and counters.

Rules: pure but for reading. Connections that are over are in the totals, open ones are added: none is counted twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pyp2p.beacon import labels
from pyp2p.beacon.clock import SlotClock
from pyp2p.beacon.gossip import Gossip
from pyp2p.beacon.stats import ConnectionStats, NodeStats, PeerStats, TopicStats
from pyp2p.beacon.status import ChainStatus
from pyp2p.discv5.service import Discv5
from pyp2p.errors import DialFailed
from pyp2p.peer.address import AddressKind, text
from pyp2p.pubsub.service import Pubsub
from pyp2p.reqresp.service import ReqResp
from pyp2p.switch.connection import Connection
from pyp2p.switch.events import Connected, Disconnected, SwitchEvent
from pyp2p.switch.switch import Switch
from pyp2p.trace import Stage

# Counters of other rooms, and what they are to an operator.
_LOST_GOSSIP = {
    "lost with its stream": "gossip to peers",
    "own expired": "gossip to peers",
    "validation queue full": "gossip to validators",
    "slow subscriber": "gossip to readers",
}
_LOST_DISCOVERY = {"datagrams not sent": "datagrams", "news missed": "news of discovery"}
_SERVING = ("served", "too many at once", "request too slow", "answer too slow", "crashed")


class Totals:
    """What there was since the start, in the words of `labels.py`."""

    def __init__(self) -> None:
        self.opened: Counter[tuple[str, str, str, str, str, str]] = Counter()
        self.closed: Counter[tuple[str, str, str, str, str, str]] = Counter()
        self.key_types: Counter[tuple[str, str]] = Counter()
        self.dial_errors: Counter[str] = Counter()  # by stage
        self.attempts_failed: Counter[tuple[str, str, str]] = Counter()
        self.started_at = 0.0  # wall time
        self.untold = 0  # events that found no room
        self._ended: Counter[str] = Counter()  # bytes and messages of connections that are over

    def note(self, event: SwitchEvent) -> None:
        """Count a connection that begins or ends."""
        if isinstance(event, Connected):
            self.opened[labels.connection(event.connection)] += 1
            self.key_types[labels.key_type(event.connection)] += 1
        elif isinstance(event, Disconnected):
            self.closed[labels.connection(event.connection)] += 1
            self._ended.update(_moved(event.connection))

    def note_failure(self, stage: Stage, error: Exception) -> None:
        """Count a dial that failed, and each of its attempts in which something was sent."""
        self.dial_errors[stage.value] += 1
        for attempt in error.attempts if isinstance(error, DialFailed) else ():
            label = labels.dial_error(attempt)
            if label is not None:
                self.attempts_failed[label] += 1

    def moved(self, connections: Iterable[Connection]) -> Counter[str]:
        """Bytes and messages each way, of all connections that there ever were."""
        return sum(map(_moved, connections), self._ended.copy())


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
        found[method_name(protocol), "in" if what in _SERVING else "out", what] += count
    return found


def method_name(protocol: str) -> str:
    """What stands before the version in a protocol id, or the id where there is no version."""
    parts = protocol.split("/")
    at = next((at for at in range(len(parts) - 1, 0, -1) if parts[at].isdecimal()), 0)
    return parts[at - 1] if at > 1 else protocol


def drop_stats(gossip: Mapping[tuple[str, str], int], discovery: Mapping[str, int], events: int = 0) -> Counter[str]:
    """What was lost, by where: messages to peers, to validators, to readers, datagrams, news of discovery, events."""
    lost: Counter[str] = Counter({"events": events} if events else {})
    for (what, _), count in gossip.items():
        where = "gossip to peers" if " dropped: " in what else _LOST_GOSSIP.get(what)
        if where is not None:
            lost[where] += count
    for what, where in _LOST_DISCOVERY.items():
        if discovery.get(what):
            lost[where] += discovery[what]
    return lost


def node_stats(
    switch: Switch,
    *,
    pubsub: Pubsub,
    gossip: Gossip,
    reqresp: ReqResp,
    discovery: Discv5 | None,
    clock: SlotClock,
    status: ChainStatus,
    totals: Totals,
    peers: Iterable[PeerStats],
    target_peers: int,
) -> NodeStats:
    """Everything, as it is now."""
    connections = switch.connections()
    moved = totals.moved(connections)
    heard: Counter[str] = Counter() if discovery is None else discovery.counters
    return NodeStats(
        peer=switch.peer,
        enr="" if discovery is None else discovery.record.text,
        addresses=tuple(text(address) for address in switch.multiaddrs),
        started_at=totals.started_at,
        slot=clock.slot,
        head_slot=status.head_slot,
        finalized_epoch=status.finalized_epoch,
        fork_digest=clock.period.digest,
        target_peers=target_peers,
        connections=tuple(connection_stats(connection) for connection in connections),
        peers=tuple(peers),
        topics=tuple(topic_stats(pubsub, gossip)),
        opened=dict(totals.opened),
        closed=dict(totals.closed),
        key_types=dict(totals.key_types),
        dial_errors=dict(totals.dial_errors),
        attempts_failed=dict(totals.attempts_failed),
        gossip=dict(pubsub.counters),
        gossip_gauges=pubsub.gauges(),
        requests=request_stats(reqresp),
        limits=switch.counters,
        discovery=dict(heard),
        discovery_gauges={} if discovery is None else discovery.gauges(),
        dropped=drop_stats(pubsub.counters, heard, totals.untold),
        bytes_in=moved["bytes_in"],
        bytes_out=moved["bytes_out"],
        messages_in=moved["messages_in"],
        messages_out=moved["messages_out"],
    )
