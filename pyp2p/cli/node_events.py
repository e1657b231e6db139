"""What a node tells: each event as one line of JSON, or as one for people, in the order in which things happened.

Rules: nothing here waits for whoever reads standard output. Lines wait for it in a queue of `BEHIND`; when that is
full, further ones are missed, and counted in the totals. What peers say is escaped.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

import trio

from pyp2p.beacon.blocks import block_slot
from pyp2p.beacon.collect import topic_stats
from pyp2p.beacon.containers import StatusV1, StatusV2
from pyp2p.beacon.events import (
    DialFailed,
    ForkChanged,
    NetworkEvent,
    PeerConnected,
    PeerDisconnected,
    SubnetsChanged,
    Warned,
)
from pyp2p.beacon.exchange import goodbye_text
from pyp2p.beacon.follow import CaughtUp, Imported, News
from pyp2p.beacon.gossip import GossipMessage
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.stats import NodeStats
from pyp2p.cli import render
from pyp2p.cli.output import Output
from pyp2p.cli.stdout import emit
from pyp2p.errors import WireError, printable

BEHIND: Final = 4096  # lines
RECENT: Final = 6  # lines that a live view shows
WARNINGS: Final = 3
_MANY: Final = ("listening", "gossip", "mesh")  # a live view shows them in another way
_AGENT = 200  # characters of what a peer calls itself
_TEXT = 1000  # characters of a reason or a warning


class Feed:
    """The queue between what happens and standard output; without `lines` nothing is printed but the totals.

    `recent` and `warnings` are the last lines for people, `gossip` and `gossip_bytes` count by topic, `blocks` by how
    they came.
    """

    def __init__(self, out: Output, wall: Callable[[], float] = time.time, *, lines: bool = True) -> None:
        self.missed = 0
        self.recent: deque[str] = deque(maxlen=RECENT)
        self.warnings: deque[str] = deque(maxlen=WARNINGS)
        self.gossip: Counter[str] = Counter()
        self.gossip_bytes: Counter[str] = Counter()
        self.blocks: Counter[str] = Counter()
        self._out = out
        self._wall = wall
        self._lines = lines
        self._send, self._receive = trio.open_memory_channel[tuple[str, dict[str, Any], str]](BEHIND)

    def tell(self, event: str, facts: dict[str, Any], line: str) -> None:
        """Something happened. Never waits."""
        if event == "warning":
            self.warnings.append(line.partition("\n")[0])
        elif event not in _MANY:
            self.recent.append(line)
        if not self._lines:
            return
        try:
            self._send.send_nowait((event, {"time": round(self._wall(), 6), **facts}, line))
        except trio.WouldBlock:
            self.missed += 1

    async def write(self) -> None:
        """Print what is told, until cancelled."""
        async for event, facts, line in self._receive:
            await emit(self._out, event, facts, [line])

    def end(self, stats: NodeStats | None, seconds: float) -> None:
        """Print what still waits, and the totals."""
        while True:
            try:
                event, facts, line = self._receive.receive_nowait()
            except trio.WouldBlock:
                break
            self._out.emit(event, facts, [line])
        if stats is not None:
            sheet = {"time": round(self._wall(), 6), **_totals(stats, self, seconds)}
            self._out.emit("totals", sheet, [_totals_line(sheet)])


def _totals(stats: NodeStats, feed: Feed, seconds: float) -> dict[str, Any]:
    requests: dict[str, dict[str, int]] = {"in": {}, "out": {}}
    for (method, way, result), count in sorted(stats.requests.items()):
        requests[way][f"{method}: {result}"] = count
    return {
        "seconds": round(seconds, 3),
        "peers": len(stats.peers),
        "connections": sum(stats.opened.values()),
        "dial_errors": dict(stats.dial_errors),
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "messages_in": stats.messages_in,
        "messages_out": stats.messages_out,
        "gossip": dict(feed.gossip),
        "blocks": dict(feed.blocks),
        "head_slot": stats.head_slot,
        "slot": stats.slot,
        "requests": requests,
        "missed": feed.missed,
    }


def _totals_line(sheet: dict[str, Any]) -> str:
    blocks = ", ".join(f"{count} by {how}" for how, count in sheet["blocks"].items())
    missed = f", {sheet['missed']} lines missed" if sheet["missed"] else ""
    return (
        f"totals  {render.duration(sheet['seconds'])}, {sheet['connections']} connections, "
        f"{render.size(sheet['bytes_in'])} in, {render.size(sheet['bytes_out'])} out, "
        f"{sum(sheet['gossip'].values())} gossip messages" + (f", blocks: {blocks}" if blocks else "") + missed
    )


# --- the network


async def tell_network(news: AsyncIterator[NetworkEvent], feed: Feed) -> None:
    """Tell what a network tells, until it has ended."""
    async for event in news:
        feed.tell(*network_event(event))


def network_event(event: NetworkEvent) -> tuple[str, dict[str, Any], str]:
    """Name, facts and line of an event."""
    facts: dict[str, Any]
    match event:
        case PeerConnected():
            return _connected(event)
        case PeerDisconnected(peer, reason, by, goodbye):
            said = None if goodbye is None else {"code": goodbye, "text": goodbye_text(goodbye)}
            facts = {"peer_id": str(peer), "reason": printable(reason, _TEXT), "by": by, "goodbye": said}
            return "peer_disconnected", facts, f"disconnected  {peer} by {by}: {facts['reason']}"
        case DialFailed(peer, stage, reason):
            facts = {"peer_id": str(peer), "stage": stage, "reason": printable(reason, _TEXT)}
            return "dial_failed", facts, f"dial failed   {peer} at {stage}: {facts['reason']}"
        case ForkChanged(epoch, fork, digest):
            facts = {"epoch": epoch, "fork": fork, "fork_digest": digest.hex()}
            return "fork", facts, f"fork          {fork} from epoch {epoch} on, digest {digest.hex()}"
        case SubnetsChanged(attnets, syncnets, seq):
            facts = {"attnets": list(attnets), "syncnets": list(syncnets), "metadata_seq": seq}
            names, sync = (", ".join(map(str, each)) or "none" for each in (attnets, syncnets))
            line = f"subnets       attestations of {names}, sync committees of {sync}; metadata number {seq}"
            return "subnets", facts, line
        case Warned(text):
            return warning(text)


def warning(text: str, details: Iterable[str] = ()) -> tuple[str, dict[str, Any], str]:
    """As `network_event`, for words of warning; each detail has a line of its own."""
    said, more = printable(text, _TEXT), [printable(each, _TEXT) for each in details]
    facts = {"text": said, **({"details": more} if more else {})}
    return "warning", facts, "\n".join([f"warning       {said}", *(f"              {each}" for each in more)])


def _connected(event: PeerConnected) -> tuple[str, dict[str, Any], str]:
    client = None if event.agent is None else printable(event.agent, _AGENT)
    facts = {
        "peer_id": str(event.peer),
        "client": client,
        "direction": "outbound" if event.outbound else "inbound",
        "address": printable(event.address, _AGENT),
        "transport": event.transport,
        "status": None if event.status is None else status_facts(event.status),
    }
    head = "" if event.status is None else f", head at slot {event.status.head_slot}"
    who = f"connected     {event.peer} {client or 'without a name'}"
    return "peer_connected", facts, f"{who}, {facts['direction']} at {facts['address']}{head}"


def status_facts(status: StatusV1) -> dict[str, Any]:
    """The fields of a status; bytes in hex."""
    facts: dict[str, Any] = {
        "fork_digest": status.fork_digest.hex(),
        "finalized_root": status.finalized_root.hex(),
        "finalized_epoch": status.finalized_epoch,
        "head_root": status.head_root.hex(),
        "head_slot": status.head_slot,
    }
    if isinstance(status, StatusV2):
        facts["earliest_available_slot"] = status.earliest_available_slot
    return facts


# --- the chain


async def tell_chain(news: AsyncIterator[News], feed: Feed) -> None:
    """Tell what becomes of a chain that is followed, until that has ended."""
    async for event in news:
        match event:
            case Imported(block, source, how):
                feed.blocks[how] += 1
                facts = {"slot": block.slot, "root": block.root.hex(), "how": how, "from": _who(source)}
                line = f"block         slot {block.slot}, {block.root.hex()[:16]}, {_HOW.get(how, how)}"
                feed.tell("block", facts, line + ("" if source is None else f" from {source}"))
            case CaughtUp(peer, count, first, last):
                facts = {"from": str(peer), "count": count, "first": first, "last": last}
                line = f"caught up     {count} blocks of slots {first} to {last} from {peer}"
                feed.tell("caught_up", facts, line)


_HOW: Final = {"gossip": "by gossip", "range": "by range", "own": "our own"}


def tell_gossip(message: GossipMessage, feed: Feed) -> None:
    """Tell of one message."""
    size, slot = len(message.payload), _slot(message)
    feed.gossip[message.topic] += 1
    feed.gossip_bytes[message.topic] += size
    facts = {
        "topic": message.topic,
        "type": message.type,
        "fork": message.fork,
        "size": size,
        "slot": slot,
        "from": _who(message.source),
    }
    of = "" if slot is None else f" of slot {slot}"
    feed.tell("gossip", facts, f"gossip        {message.type}{of}, {render.size(size)} from {message.source or 'us'}")


def _slot(message: GossipMessage) -> int | None:
    if message.type != "beacon_block":
        return None
    try:
        return block_slot(message.payload)
    except WireError:
        return None


def _who(peer: object) -> str | None:
    return None if peer is None else str(peer)


async def tell_meshes(net: BeaconNetwork, feed: Feed) -> None:
    """Once a slot, tell of each topic whose listeners or mesh have changed in number; for ever."""
    told: dict[str, tuple[int, int]] = {}
    while True:
        now = {each.topic: (each.peers, each.mesh) for each in topic_stats(net.pubsub, net.gossip)}
        for topic in {**told, **now}:
            peers, mesh = now.get(topic, (0, 0))
            if told.get(topic, (0, 0)) != (peers, mesh):
                line = f"mesh          {topic}: {mesh} of {peers} peers"
                feed.tell("mesh", {"topic": topic, "peers": peers, "mesh": mesh}, line)
        told = now
        await net.clock.next_slot()
