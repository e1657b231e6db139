"""What a node tells about itself, as Prometheus metrics: values are read from a snapshot when somebody asks.

Rules: names are the field's where it has some (ethereum/beacon-metrics; go-libp2p's `libp2p_swarm_*` with its labels;
`gossipsub_*` and `libp2p_peers_per_client` as several clients call them), ours begin with `pyp2p_`. How many series
there are is never in the hands of strangers: clients are of a known set, topics are those that we listen to, and each
family has a bound. Escaping is the library's.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pyp2p.beacon.stats import NodeStats, PeerStats

OTHER = "other"
MAX_SERIES = 1024  # of one family: who reads us pays for each of them, so whatever comes after is summed up as `other`
MAX_TOPICS = 1024  # that we ever listened to: 9 forks with all subnets
CLIENTS = frozenset(
    (
        *("lighthouse", "prysm", "teku", "nimbus", "lodestar", "grandine", "erigon", "caplin", "ethereumjs", "pyp2p"),
        *("go-libp2p", "rust-libp2p", "js-libp2p", "nim-libp2p", "jvm-libp2p", "py-libp2p", "kubo", "hermes"),
    )
)
_CLIENT_SHOWN = 32  # characters of an agent that are looked at
_REFUSED = "refused."  # how the switch's counters name a refusal
_SWARM = ("dir", "transport", "security", "muxer", "early_muxer", "ip_version")
_SUBNETS = (("attestation", 64), ("sync_committee", 4))

_Labels = tuple[str, ...]
L = TypeVar("L", bound=_Labels)


def node_registry(read: Callable[[], NodeStats]) -> CollectorRegistry:
    """A registry of one node, and of the process that it runs in (`process_*`); never the library's global one.

    `read` is called once for each collection, in the task that collects; what it raises, collecting raises.
    """
    registry = CollectorRegistry()
    registry.register(NodeCollector(read))
    ProcessCollector(registry=registry)
    return registry


def client_of(agent: str | None) -> str:
    """The client that an agent names: its first word before `/` in lower case if known, else `other`; `unknown` for
    a peer that did not tell.
    """
    if agent is None:
        return "unknown"
    name = agent[:_CLIENT_SHOWN].split("/", 1)[0].strip().lower()
    return name if name in CLIENTS else OTHER


class NodeCollector(Collector):
    """Turns snapshots into metric families. A family is there even while it has no series.

    Remembers the topics that we listened to, at most `MAX_TOPICS`: their counters stay when we leave them.
    """

    def __init__(self, read: Callable[[], NodeStats]) -> None:
        self._read = read
        self._topics: dict[str, None] = {}

    def collect(self) -> Iterator[Metric]:
        """All families of this moment."""
        stats = self._read()
        for topic in stats.topics:
            if len(self._topics) < MAX_TOPICS:
                self._topics[topic.topic] = None
        yield from _chain(stats)
        yield from _peers(stats)
        yield from _swarm(stats)
        yield from self._gossip(stats)
        yield from _services(stats)

    def _gossip(self, stats: NodeStats) -> Iterator[Metric]:
        peers: Counter[_Labels] = Counter()
        mesh: Counter[_Labels] = Counter()
        messages: Counter[_Labels] = Counter()
        octets: Counter[_Labels] = Counter()
        for topic in stats.topics:
            label = self._topic(topic.topic)
            peers[label] += topic.peers
            mesh[label] += topic.mesh
            messages[label] += topic.messages
            octets[label] += topic.bytes
        by_topic = ("topic",)
        yield _gauge("gossipsub_topic_peers_counts", "Peers that listen to each topic", by_topic, peers)
        yield _gauge("gossipsub_mesh_peer_counts", "Peers in the mesh of each topic", by_topic, mesh)
        yield _counter("gossipsub_accepted_messages_per_topic_total", "Messages that were accepted", by_topic, messages)
        yield _counter("pyp2p_gossip_accepted_bytes_total", "Bytes of messages that were accepted", by_topic, octets)
        events, state = self._of_topics(stats.gossip), self._of_topics(stats.gossip_gauges)
        yield _counter("pyp2p_gossip_events_total", "What happened in gossip, by name", ("event", "topic"), events)
        yield _gauge("pyp2p_gossip_state", "What gossip holds now, by name", ("name", "topic"), state)

    def _of_topics(self, counts: Mapping[tuple[str, str], int]) -> Counter[_Labels]:
        found: Counter[_Labels] = Counter()
        for (what, topic), count in counts.items():
            found[(what, *self._topic(topic))] += count
        return found

    def _topic(self, topic: str) -> _Labels:
        """Its label; what is counted for no topic keeps none."""
        return (topic if not topic or topic in self._topics else OTHER,)


def _chain(stats: NodeStats) -> Iterator[Metric]:
    yield _value("beacon_slot", "Slot that the clock says", stats.slot)
    yield _value("beacon_head_slot", "Slot of the head of the chain", stats.head_slot)
    yield _value("beacon_finalized_epoch", "Epoch that is finalized", stats.finalized_epoch)
    yield _value("pyp2p_start_time_seconds", "When the node started, in seconds since the epoch", stats.started_at)
    who = {(str(stats.peer), stats.fork_digest.hex()): 1}
    yield _gauge("pyp2p_node_info", "Our peer id and fork digest; always 1", ("peer", "fork_digest"), who)


def _peers(stats: NodeStats) -> Iterator[Metric]:
    peers = stats.peers
    clients = Counter((client_of(peer.agent),) for peer in peers)
    directions = {("inbound",): 0, ("outbound",): 0} | Counter((_direction(peer.outbound),) for peer in peers)
    subnets: dict[_Labels, int] = {(kind, str(n)): 0 for kind, count in _SUBNETS for n in range(count)}
    for peer in peers:
        for (kind, count), served in zip(_SUBNETS, (peer.attnets, peer.syncnets), strict=True):
            for subnet in set(served):
                if 0 <= subnet < count:
                    subnets[kind, str(subnet)] += 1
    yield _value("libp2p_peers", "Peers that are connected", len(peers))
    yield _value("pyp2p_peers_target", "Peers that we want", stats.target_peers)
    yield _value("pyp2p_peers_trusted", "Connected peers that are never pruned", sum(p.trusted for p in peers))
    yield _gauge("libp2p_peers_per_client", "Connected peers by client", ("Client",), clients)
    yield _gauge("pyp2p_peers_by_direction", "Connected peers by who dialled", ("direction",), directions)
    yield _gauge("pyp2p_subnet_peers", "Connected peers that serve a subnet", ("kind", "subnet"), subnets)
    yield _spread("pyp2p_peer_score", "Scores of the connected peers", [peer.score for peer in peers])
    yield _spread("pyp2p_peer_gossip_score", "Gossip scores of the connected peers", [p.gossip_score for p in peers])
    yield _spread("pyp2p_peer_round_trip_seconds", "Last round trips of the connected peers", _round_trips(peers))


def _swarm(stats: NodeStats) -> Iterator[Metric]:
    now = Counter((_direction(connection.outbound),) for connection in stats.connections)
    size = {("inbound",): stats.bytes_in, ("outbound",): stats.bytes_out}
    count = {("inbound",): stats.messages_in, ("outbound",): stats.messages_out}
    keys = ("dir", "key_type")
    errors = ("transport", "error", "ip_version")
    yield _counter("libp2p_swarm_connections_opened_total", "Connections opened", _SWARM, stats.opened)
    yield _counter("libp2p_swarm_connections_closed_total", "Connections closed", _SWARM, stats.closed)
    yield _counter("libp2p_swarm_key_types_total", "Connections opened, by kind of key", keys, stats.key_types)
    yield _counter("libp2p_swarm_dial_errors_total", "Dial attempts that failed", errors, stats.attempts_failed)
    yield _counter("pyp2p_dial_errors_total", "Dials that failed, by stage", ("stage",), _single(stats.dial_errors))
    yield _gauge("pyp2p_connections", "Open connections", ("dir",), {("inbound",): 0, ("outbound",): 0} | now)
    yield _counter("pyp2p_network_bytes_total", "Bytes on the wire", ("dir",), size)
    yield _counter("pyp2p_network_messages_total", "Pieces of payload", ("dir",), count)


def _services(stats: NodeStats) -> Iterator[Metric]:
    refused = {name.removeprefix(_REFUSED): n for name, n in stats.limits.items() if name.startswith(_REFUSED)}
    used = {name: n for name, n in stats.limits.items() if not name.startswith(_REFUSED)}
    asked: Counter[_Labels] = Counter()
    for (method, way, result), number in stats.requests.items():
        asked[method, {"in": "inbound", "out": "outbound"}.get(way, OTHER), result] += number
    by_result = ("method", "dir", "result")
    yield _counter("pyp2p_requests_total", "Requests that ended, by how", by_result, asked)
    yield _gauge("pyp2p_limit_in_use", "Use of what is limited", ("limit",), _single(used))
    yield _counter("pyp2p_refused_total", "What we declined, by reason", ("reason",), _single(refused))
    yield _counter("pyp2p_discovery_events_total", "What happened in discv5", ("event",), _single(stats.discovery))
    yield _gauge("pyp2p_discovery_state", "What discv5 holds now", ("name",), _single(stats.discovery_gauges))
    yield _counter("pyp2p_dropped_total", "What was lost, by where", ("where",), _single(stats.dropped))


def _direction(outbound: bool) -> str:
    return "outbound" if outbound else "inbound"


def _round_trips(peers: Iterable[PeerStats]) -> list[float]:
    return [peer.round_trip for peer in peers if peer.round_trip is not None]


def _single(counts: Mapping[str, int]) -> dict[_Labels, int]:
    return {(name,): count for name, count in counts.items()}


def _spread(name: str, help_text: str, values: Sequence[float]) -> Metric:
    """Minimum, median and maximum: a series for each peer would be in the hands of the peers."""
    found: dict[_Labels, float] = {}
    if values:
        found = {("min",): min(values), ("median",): statistics.median(values), ("max",): max(values)}
    return _gauge(name, help_text, ("position",), found)


def _value(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


def _gauge(name: str, help_text: str, labels: Sequence[str], samples: Mapping[L, float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for values, value in _bounded(samples):
        family.add_metric(values, value)
    return family


def _counter(name: str, help_text: str, labels: Sequence[str], samples: Mapping[L, float]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for values, value in _bounded(samples):
        family.add_metric(values, value)
    return family


def _bounded(samples: Mapping[L, float]) -> Iterable[tuple[_Labels, float]]:
    """The first samples as they are, all later ones as one: a counter's table only grows, so none changes sides."""
    kept: dict[_Labels, float] = {}
    for labels, value in samples.items():
        place = labels if len(kept) < MAX_SERIES - 1 else (OTHER,) * len(labels)
        kept[place] = kept.get(place, 0) + value
    return kept.items()
