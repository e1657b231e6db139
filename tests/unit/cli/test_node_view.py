"""The live view of a node, as lines."""

import io
from dataclasses import replace
from typing import Any

from pyp2p.beacon.stats import NodeStats, PeerStats, TopicStats
from pyp2p.cli.node_events import Feed, warning
from pyp2p.cli.node_view import Rates, frame, view
from pyp2p.cli.output import Output
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.testing.run import SeededEntropy

ENTROPY = SeededEntropy("view")
OUT = Output(as_json=False, stdout=io.StringIO(), stderr=None, environ={})
BLOCKS = "/eth2/01020304/beacon_block/ssz_snappy"


def peer(**more: Any) -> PeerStats:
    facts = {"agent": "teku/v1", "outbound": True, "score": 12.34, "gossip_score": -1.0, "trusted": False}
    known = {**facts, "transport": "quic-v1", **more}
    return PeerStats(PeerId.from_key(Identity.generate(entropy=ENTROPY).public_key), **known)


def stats(peers: list[PeerStats], topics: list[TopicStats]) -> NodeStats:
    return NodeStats(
        peer=PeerId.from_key(Identity.generate(entropy=ENTROPY).public_key),
        enr="",
        addresses=("/ip4/127.0.0.1/tcp/9000",),
        started_at=0.0,
        slot=100,
        head_slot=99,
        finalized_epoch=0,
        fork_digest=bytes.fromhex("01020304"),
        target_peers=50,
        connections=(),
        peers=tuple(peers),
        topics=tuple(topics),
        bytes_in=2_000_000,
        bytes_out=1000,
        messages_in=1,
        messages_out=1,
        discovery_gauges={"nodes": 12, "live": 9},
    )


def rates(feed: Feed) -> Rates:
    found = Rates()
    found.note(0.0, dict(feed.gossip), dict(feed.gossip_bytes))
    return found


def lines(shown: NodeStats, feed: Feed | None = None, height: int = 40) -> list[str]:
    feed = Feed(OUT) if feed is None else feed
    return view(shown, feed, rates(feed), OUT, ("mainnet", height))


def test_peers_with_client_score_direction_and_subnets() -> None:
    first = peer(attnets=(3, 4), syncnets=(1,), head_slot=98, round_trip=0.0123)
    second = peer(agent=None, outbound=False, attnets=tuple(range(64)))
    text = "\n".join(lines(stats([first, second], [])))
    assert "2 peers, 50 wanted" in text
    assert "1 outbound, 1 inbound; 2 MB in, 1 kB out" in text
    row = next(line for line in text.splitlines() if str(first.peer)[-12:] in line)
    cells = [str(first.peer)[-12:], "teku/v1", "12.3", "-1.0", "out", "quic-v1", "98", "12.3", "ms", "3,4,s1"]
    assert row.split() == cells
    other = next(line for line in text.splitlines() if str(second.peer)[-12:] in line)
    assert other.endswith("0,1,2,3,4,5,6,7 and 56 more")
    assert "mainnet, digest 01020304, slot 100, head 99" in text
    assert "discovery  9 live, 12 nodes" in text


def test_topics_with_the_rate_of_the_last_minute() -> None:
    feed = Feed(OUT)
    found = Rates()
    for second in range(121):
        feed.gossip[BLOCKS] = 2 * second
        feed.gossip_bytes[BLOCKS] = 2000 * second
        found.note(float(second), dict(feed.gossip), dict(feed.gossip_bytes))
    shown = stats(
        [], [TopicStats("/eth2/01020304/voluntary_exit/ssz_snappy", 1, 0, 0, 0), TopicStats(BLOCKS, 5, 4, 0, 0)]
    )
    text = view(shown, feed, found, OUT, ("mainnet", 40))
    at = next(number for number, line in enumerate(text) if line.startswith("beacon_block"))
    assert text[at].split() == ["beacon_block", "01020304", "5", "4", "240", "120.0", "2", "kB"]
    assert text[at + 1].startswith("voluntary_exit")  # the busiest first
    assert found.of("nosuch") == (0.0, 0.0)
    assert Rates.of(rates(feed), BLOCKS) == (0.0, 0.0)  # a single moment says nothing


def test_what_does_not_fit_is_left_out_and_counted() -> None:
    topics = [TopicStats(f"/eth2/01020304/beacon_attestation_{n}/ssz_snappy", 1, 1, 0, 0) for n in range(60)]
    found = lines(stats([peer() for _ in range(100)], topics), height=30)
    assert len(found) <= 30
    text = "\n".join(found)
    assert "100 peers, 50 wanted, 88 not shown" in text
    assert "60 topics, 55 not shown" in text


def test_warnings_and_what_happened_last_stand_below_escaped() -> None:
    feed = Feed(OUT)
    feed.tell("block", {}, "block 7\x1b[2J")
    feed.tell(*warning("careful"))
    assert lines(stats([], []), feed)[-2:] == ["block 7\\x1b[2J", "warning       careful"]


def test_text_of_peers_cannot_draw_on_the_screen() -> None:
    text = "\n".join(lines(stats([peer(agent="\x1b[2J\nx" * 100)], [])))
    assert "\x1b" not in text
    assert "\nx" not in text


def test_a_frame_starts_at_the_top_and_never_scrolls() -> None:
    drawn = frame([f"line {number}" for number in range(100)], 10)
    assert drawn.startswith("\x1b[H")
    assert drawn.count("\n") == 8  # and the end of what is printed is the ninth
    assert "line 8" in drawn
    assert "line 9" not in drawn


def test_without_discovery_it_says_so() -> None:
    assert "discovery  off" in "\n".join(lines(replace(stats([], []), discovery_gauges={})))
