"""Metrics of a node: the field's names and labels, what strangers cannot grow, and a dashboard that fits."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pyp2p.beacon.metrics import CLIENTS, MAX_SERIES, MAX_TOPICS, client_of, node_registry
from pyp2p.beacon.stats import NodeStats, TopicStats
from tests.unit.beacon.support import BLOCKS, node, peer

DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana-pyp2p.json"


class Page:
    """What a scrape of a node gives, read back by the library's parser."""

    def __init__(self, stats: NodeStats, registry: prometheus_client.CollectorRegistry | None = None) -> None:
        text = generate_latest(node_registry(lambda: stats) if registry is None else registry).decode()
        self.families = {family.name: family for family in parse_text(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a metric by its labels' values, in the order of their names."""
        return {tuple(s.labels[k] for k in sorted(s.labels)): s.value for s in self.samples if s.name == name}

    def one(self, name: str, /, **labels: str) -> float:
        (value,) = [s.value for s in self.samples if s.name == name and s.labels == labels]
        return value


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("libp2p_peers", {}, 2),
        ("beacon_slot", {}, 100),
        ("beacon_head_slot", {}, 99),
        ("beacon_finalized_epoch", {}, 2),
        ("libp2p_peers_per_client", {"Client": "lighthouse"}, 1),
        (
            "libp2p_swarm_connections_opened_total",
            {
                **{"dir": "inbound", "transport": "tcp", "security": "/noise", "muxer": "/yamux/1.0.0"},
                **{"early_muxer": "true", "ip_version": "ip4"},
            },
            7,
        ),
        (
            "libp2p_swarm_connections_closed_total",
            {
                **{"dir": "inbound", "transport": "tcp", "security": "/noise", "muxer": "/yamux/1.0.0"},
                **{"early_muxer": "true", "ip_version": "ip4"},
            },
            5,
        ),
        ("libp2p_swarm_key_types_total", {"dir": "inbound", "key_type": "Secp256k1"}, 7),
        (
            "libp2p_swarm_dial_errors_total",
            {"transport": "tcp", "error": "connection refused", "ip_version": "ip4"},
            4,
        ),
        ("gossipsub_topic_peers_counts", {"topic": BLOCKS}, 5),
        ("gossipsub_mesh_peer_counts", {"topic": BLOCKS}, 4),
        ("gossipsub_accepted_messages_per_topic_total", {"topic": BLOCKS}, 30),
    ],
)
def test_the_names_and_labels_are_the_fields(name: str, labels: dict[str, str], value: float) -> None:
    assert Page(node()).one(name, **labels) == value


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("pyp2p_peers_target", {}, 80),
        ("pyp2p_peers_trusted", {}, 1),
        ("pyp2p_peers_by_direction", {"direction": "inbound"}, 1),
        ("pyp2p_peers_by_direction", {"direction": "outbound"}, 1),
        ("pyp2p_subnet_peers", {"kind": "attestation", "subnet": "63"}, 1),
        ("pyp2p_subnet_peers", {"kind": "attestation", "subnet": "1"}, 0),
        ("pyp2p_subnet_peers", {"kind": "sync_committee", "subnet": "3"}, 0),
        ("pyp2p_peer_score", {"position": "min"}, -3),
        ("pyp2p_peer_score", {"position": "median"}, 1),
        ("pyp2p_peer_score", {"position": "max"}, 5),
        ("pyp2p_peer_round_trip_seconds", {"position": "median"}, 0.1),
        ("pyp2p_start_time_seconds", {}, 1_700_000_000.5),
        ("pyp2p_node_info", {"peer": str(node().peer), "fork_digest": "8c9f62fe"}, 1),
        ("pyp2p_dial_errors_total", {"stage": "connect"}, 3),
        ("pyp2p_connections", {"dir": "outbound"}, 1),
        ("pyp2p_network_bytes_total", {"dir": "inbound"}, 1000),
        ("pyp2p_network_bytes_total", {"dir": "outbound"}, 2000),
        ("pyp2p_network_messages_total", {"dir": "outbound"}, 20),
        ("pyp2p_gossip_accepted_bytes_total", {"topic": BLOCKS}, 3000),
        ("pyp2p_gossip_events_total", {"event": "forwarded dropped: queue full", "topic": BLOCKS}, 2),
        ("pyp2p_gossip_events_total", {"event": "malformed", "topic": ""}, 1),
        ("pyp2p_gossip_state", {"name": "mesh", "topic": BLOCKS}, 4),
        ("pyp2p_requests_total", {"method": "status/1", "dir": "inbound", "result": "success"}, 8),
        ("pyp2p_requests_total", {"method": "beacon_blocks_by_range/2", "dir": "outbound", "result": "timeout"}, 2),
        ("pyp2p_limit_in_use", {"limit": "connections"}, 2),
        ("pyp2p_refused_total", {"reason": "limit.inbound"}, 6),
        ("pyp2p_discovery_events_total", {"event": "malformed"}, 11),
        ("pyp2p_discovery_state", {"name": "nodes"}, 150),
        ("pyp2p_dropped_total", {"where": "events"}, 12),
    ],
)
def test_what_the_field_has_no_name_for_is_ours(name: str, labels: dict[str, str], value: float) -> None:
    assert Page(node()).one(name, **labels) == value


def test_the_process_is_told_too() -> None:
    page = Page(node())
    for name in ("process_cpu_seconds_total", "process_max_fds", "process_open_fds", "process_resident_memory_bytes"):
        assert page.one(name) > 0


def test_a_node_without_peers_has_every_family_all_the_same() -> None:
    alone = node(
        **dict.fromkeys(("peers", "connections", "topics"), ()),
        **{name: {} for name in ("opened", "closed", "key_types", "dial_errors", "attempts_failed", "gossip")},
        **{name: {} for name in ("gossip_gauges", "requests", "limits", "discovery", "discovery_gauges", "dropped")},
    )
    assert Page(alone).families.keys() == Page(node()).families.keys()
    assert Page(alone).one("libp2p_peers") == 0
    assert Page(alone).of("pyp2p_peer_score") == {}


def test_no_family_and_no_series_comes_twice() -> None:
    collected = list(node_registry(node).collect())
    names = [family.name for family in collected]
    assert len(names) == len(set(names))
    series = [(s.name, tuple(sorted(s.labels.items()))) for family in collected for s in family.samples]
    assert len(series) == len(set(series))


def test_openmetrics_says_the_same_as_text() -> None:
    registry = node_registry(node)
    text = {(s.name, *sorted(s.labels.items())): s.value for s in Page(node(), registry).samples}
    families = parse_openmetrics(generate_openmetrics(registry).decode())
    found = {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}
    assert found.keys() == text.keys()


def test_values_are_read_when_somebody_asks() -> None:
    slots = iter((1, 2))
    registry = node_registry(lambda: node(slot=next(slots)))
    assert Page(node(), registry).one("beacon_slot") == 1
    assert Page(node(), registry).one("beacon_slot") == 2


def test_two_nodes_in_a_process_do_not_meet() -> None:
    one, other = node_registry(lambda: node(slot=1)), node_registry(lambda: node(slot=2))
    assert Page(node(), one).one("beacon_slot") == 1
    assert Page(node(), other).one("beacon_slot") == 2
    assert "beacon_slot" not in {family.name for family in prometheus_client.REGISTRY.collect()}


@pytest.mark.parametrize(
    ("agent", "client"),
    [
        ("Lighthouse/v7.1.0-cfb1f73/x86_64-linux", "lighthouse"),
        ("Prysm/v6.0.4/abc", "prysm"),
        ("teku/teku/v25.7.1/linux-x86_64", "teku"),
        ("nimbus", "nimbus"),
        ("lodestar/v1.33.0", "lodestar"),
        ("Grandine/1.1.4", "grandine"),
        ("erigon/caplin", "erigon"),
        ("pyp2p/0.1.0", "pyp2p"),
        ("Lighthouse2/v1", "other"),
        ("", "other"),
        (None, "unknown"),
    ],
)
def test_a_client_is_known_by_the_first_word_of_its_agent(agent: str | None, client: str) -> None:
    assert client_of(agent) == client


@pytest.mark.hostile
@given(st.one_of(st.none(), st.text(), st.sampled_from(sorted(CLIENTS)).map(lambda name: name + "/\n\x1b[2J")))
def test_no_agent_makes_a_label_of_its_own(agent: str | None) -> None:
    assert client_of(agent) in CLIENTS | {"other", "unknown"}


@pytest.mark.hostile
def test_a_thousand_agents_are_one_series() -> None:
    stranger = peer(1).peer
    peers = tuple(peer(1, f'agent{n}\n"evil" 1/{n}') for n in range(1_000))
    page = Page(node(peers=peers))
    assert page.of("libp2p_peers_per_client") == {("other",): 1_000}
    assert str(stranger) not in str(page.samples)


@pytest.mark.hostile
def test_subnets_that_there_are_not_count_nowhere() -> None:
    page = Page(node(peers=(peer(1, attnets=(64, 2**63, -1, 5, 5), syncnets=(4,)),)))
    assert len(page.of("pyp2p_subnet_peers")) == 68
    assert sum(page.of("pyp2p_subnet_peers").values()) == 1


@pytest.mark.hostile
def test_topics_of_others_are_one_series() -> None:
    counts = {("not subscribed", f"/made/up/{n}"): 1 for n in range(5_000)}
    events = Page(node(gossip=counts)).of("pyp2p_gossip_events_total")
    assert events == {("not subscribed", "other"): 5_000}


def test_a_topic_that_we_left_keeps_its_counters() -> None:
    moments = [node(), node(topics=())]
    registry = node_registry(lambda: moments.pop(0))
    for _ in range(2):
        page = Page(node(), registry)
        assert page.one("pyp2p_gossip_events_total", event="accepted", topic=BLOCKS) == 30


@pytest.mark.hostile
def test_a_family_has_a_bound_and_loses_nothing_behind_it() -> None:
    results = {("ping/1", "in", f"code {n}"): 1 for n in range(MAX_SERIES + 500)}
    requests = Page(node(requests=results)).of("pyp2p_requests_total")
    assert len(requests) == MAX_SERIES
    assert sum(requests.values()) == MAX_SERIES + 500
    assert requests["other", "other", "other"] == 501


def test_a_counter_never_falls_when_its_family_reaches_the_bound() -> None:
    before: dict[tuple[str, ...], float] = {}
    for size in (MAX_SERIES - 1, MAX_SERIES, MAX_SERIES + 1):
        now = Page(node(dropped={f"place {n}": 1 for n in range(size)})).of("pyp2p_dropped_total")
        assert all(now[labels] >= value for labels, value in before.items())
        before = now


@pytest.mark.hostile
def test_more_topics_than_there_are_names_for_are_summed_up() -> None:
    topics = tuple(TopicStats(f"/t/{n}", peers=1, mesh=0, messages=1, bytes=1) for n in range(MAX_TOPICS + 9))
    last = {("accepted", topics[-1].topic): 5}
    page = Page(node(topics=topics, gossip=last))
    assert len(page.of("gossipsub_topic_peers_counts")) <= MAX_SERIES
    assert sum(page.of("gossipsub_topic_peers_counts").values()) == MAX_TOPICS + 9
    assert page.of("pyp2p_gossip_events_total") == {("accepted", "other"): 5}


@pytest.mark.hostile
@given(st.text(st.characters(codec="utf-8")))
def test_a_label_cannot_break_out_of_its_line(text: str) -> None:
    page = Page(node(dropped={text: 1}))
    assert page.of("pyp2p_dropped_total") == {(text,): 1}


# --- the dashboard

WORDS = {"sum", "max", "min", "rate", "increase", "by", "topk", "time", "clamp_min"}


def expressions(board: Any) -> Iterator[str]:
    """Every query of the dashboard."""
    if isinstance(board, dict):
        for key, value in board.items():
            if key == "expr" or (key == "query" and isinstance(value, str) and "(" in value):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(board, list):
        for each in board:
            yield from expressions(each)


def test_the_dashboard_asks_only_for_what_is_exported() -> None:
    labels: dict[str, set[str]] = {}
    for sample in Page(node()).samples:
        labels.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    asked = list(expressions(json.loads(DASHBOARD.read_text(encoding="utf-8"))))
    assert len(asked) > 20
    for expression in asked:
        chooses = re.fullmatch(r"label_values\((.*), (\w+)\)", expression)
        bare = re.sub(r'"[^"]*"|\$\w+', "", expression if chooses is None else chooses[1])
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", bare)) | ({chooses[2]} if chooses else set())
        for group in re.findall(r"by\s*\(([^)]*)\)", bare):
            used |= {name.strip() for name in group.split(",")}
        outside = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by\s*\([^)]*\)", "", bare)
        names = set(re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*", outside)) - WORDS
        assert names, expression
        assert names <= labels.keys(), expression
        assert used <= set.union(*(labels[name] for name in names)), expression


def test_the_dashboard_can_be_imported_and_asks_for_its_source() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert board["id"] is None
    assert [v["name"] for v in board["templating"]["list"] if v["type"] == "datasource"] == ["datasource"]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert all(panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for panel in panels)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = {(x, y) for p in board["panels"] for x, y in cells(p["gridPos"])}
    assert len(places) == sum(p["gridPos"]["w"] * p["gridPos"]["h"] for p in board["panels"])
    assert all(0 <= x < 24 for x, _ in places)


def cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    """The fields of the grid that a panel covers."""
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y
