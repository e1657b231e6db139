"""The live view of a node on a terminal: peers, topics, discovery, what happened last; drawn anew every second.

Rules: it is text of the output layer, tables included, in the terminal's other screen, so what was there before comes
back. As everything it never waits for the terminal: a frame that is not written yet is followed by no other. What does
not fit is left out, and it says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from pyp2p.beacon.stats import NodeStats, PeerStats, TopicStats
from pyp2p.beacon.topics import parse_topic
from pyp2p.cli import render
from pyp2p.cli.node_events import Feed
from pyp2p.cli.output import Output
from pyp2p.cli.stdout import emit
from pyp2p.errors import printable

_EVERY = 1.0  # seconds
_LEAST = 24  # lines of a terminal that does not say how many it has, or too few
_FIXED = 13  # lines for everything but the rows of both tables
# The other screen, without a cursor, and with lines that are cut where they are too long.
_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"
_PEERS: Final = ("peer", "client", "score", "gossip", "way", "over", "head", "ping", "subnets")
_TOPICS: Final = ("topic", "digest", "peers", "mesh", "messages", "per minute", "size/s")


@dataclass(slots=True)
class Rates:
    """Messages and bytes of topics per second, over the last `window` seconds."""

    window: float = 60.0
    _seen: list[tuple[float, dict[str, int], dict[str, int]]] = field(default_factory=list)

    def note(self, now: float, messages: dict[str, int], octets: dict[str, int]) -> None:
        """The counters at a moment."""
        self._seen.append((now, messages, octets))
        while self._seen[0][0] < now - self.window:
            del self._seen[0]

    def of(self, topic: str) -> tuple[float, float]:
        """Messages and bytes per second; zeros until two moments were noted."""
        (first, old, old_bytes), (last, new, new_bytes) = self._seen[0], self._seen[-1]
        seconds = last - first
        if seconds <= 0:
            return 0.0, 0.0
        moved = new.get(topic, 0) - old.get(topic, 0), new_bytes.get(topic, 0) - old_bytes.get(topic, 0)
        return moved[0] / seconds, moved[1] / seconds


async def show(read: Callable[[], NodeStats], feed: Feed, out: Output, chain: str) -> None:
    """Draw the view until cancelled; the terminal is given back by `leave`."""
    rates = Rates()
    await emit(out, "view", {}, [_ENTER])
    while True:
        now = trio.current_time()
        rates.note(now, dict(feed.gossip), dict(feed.gossip_bytes))
        height = shutil.get_terminal_size().lines
        await emit(out, "view", {}, [frame(view(read(), feed, rates, out, (chain, max(height, _LEAST))), height)])
        await trio.sleep(_EVERY)


def leave(out: Output) -> None:
    """Give the terminal back."""
    out.emit("view", {}, [_LEAVE])


def frame(lines: Sequence[str], height: int) -> str:
    """A screen of these lines, but for the last line: the end of what is printed would scroll it."""
    shown = list(lines)[: max(height - 1, 1)]
    return _HOME + f"{_REST_OF_LINE}\n".join(shown) + _REST_OF_LINE + _REST_OF_SCREEN


def view(stats: NodeStats, feed: Feed, rates: Rates, out: Output, of: tuple[str, int]) -> list[str]:
    """The lines of the view; `of` is the name of the chain and the number of lines that there are."""
    chain, height = of
    style = out.style
    news = [printable(line, render.MAX_CELL) for line in feed.recent]
    news += [style.bad(printable(line, render.MAX_CELL)) for line in feed.warnings]
    rows = max(height - _FIXED - len(news), 4)
    topics = sorted(stats.topics, key=lambda each: (-rates.of(each.topic)[0], each.topic))
    for_topics = min(len(topics), max(rows // 3, rows - len(stats.peers)))
    for_peers = min(len(stats.peers), rows - for_topics)
    peers = f"{len(stats.peers)} peers, {stats.target_peers} wanted"
    return [
        style.bold(f"pyp2p node  {stats.peer}"),
        f"{chain}, digest {stats.fork_digest.hex()}, slot {stats.slot}, head {stats.head_slot}",
        f"at {', '.join(stats.addresses)}",
        _moved(stats),
        "",
        style.bold(peers) + _more(for_peers, len(stats.peers), out),
        *out.table(_PEERS, [_peer(each) for each in stats.peers[:for_peers]], (2, 3, 6, 7)),
        "",
        style.bold(f"{len(topics)} topics") + _more(for_topics, len(topics), out),
        *out.table(_TOPICS, [_topic(each, feed, rates) for each in topics[:for_topics]], (2, 3, 4, 5, 6)),
        "",
        style.bold("discovery  ") + _discovery(stats),
        *news,
    ]


def _more(shown: int, there: int, out: Output) -> str:
    return out.style.dim(f", {there - shown} not shown") if shown < there else ""


def _moved(stats: NodeStats) -> str:
    ways = [each.outbound for each in stats.peers]
    return (
        f"{sum(ways)} outbound, {len(ways) - sum(ways)} inbound; {render.size(stats.bytes_in)} in, "
        f"{render.size(stats.bytes_out)} out; {sum(stats.dial_errors.values())} failed dials"
    )


def _peer(peer: PeerStats) -> list[str]:
    subnets = [*map(str, peer.attnets), *(f"s{each}" for each in peer.syncnets)]
    return [
        str(peer.peer)[-12:],
        (peer.agent or "-")[:40],
        f"{peer.score:.1f}",
        f"{peer.gossip_score:.1f}",
        "out" if peer.outbound else "in",
        peer.transport,
        "-" if peer.head_slot is None else str(peer.head_slot),
        "-" if peer.round_trip is None else render.duration(peer.round_trip),
        _short(subnets),
    ]


def _short(subnets: list[str]) -> str:
    return ",".join(subnets[:8]) + (f" and {len(subnets) - 8} more" if len(subnets) > 8 else "") or "-"


def _topic(topic: TopicStats, feed: Feed, rates: Rates) -> list[str]:
    messages, octets = rates.of(topic.topic)
    parsed = parse_topic(topic.topic)
    name, digest = topic.topic, ""
    if parsed is not None:
        number = "" if parsed.subnet is None else f"_{parsed.subnet}"
        name, digest = f"{parsed.type.name}{number}", parsed.digest.hex()
    count = max(topic.messages, feed.gossip[topic.topic])
    per_minute = f"{messages * 60:.1f}"
    return [name, digest, str(topic.peers), str(topic.mesh), str(count), per_minute, render.size(octets)]


def _discovery(stats: NodeStats) -> str:
    """How full the table of nodes is."""
    return ", ".join(f"{count} {what}" for what, count in sorted(stats.discovery_gauges.items())) or "off"
