"""What happens in the demonstration, told from what its nodes print: who found whom, what came when, what is missing.

Rules: pure. Lines of the nodes' `--json` come in, facts to be shown come out; times are the walls' of one machine,
`seconds` are since the demonstration began. Nodes are numbered from 1, and node 1 makes the blocks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

Line = Mapping[str, Any]
Facts = dict[str, Any]
Told = tuple[str, Facts]

PRODUCER: Final = 1
BLOCK_TOPIC: Final = "beacon_block"
# What is read of the lines; a node tells more than that.
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "listening": ("time", "peer_id", "enr", "addresses"),
    "peer_connected": ("time", "peer_id", "client", "status", "direction", "address", "transport"),
    "peer_disconnected": ("time", "peer_id", "reason", "by", "goodbye"),
    "block": ("time", "slot", "root", "how"),
    "caught_up": ("time", "from", "count", "first", "last"),
    "mesh": ("time", "topic", "peers", "mesh"),
    "fork": ("time", "fork", "epoch", "fork_digest"),
    "gossip": ("time", "topic"),
    "warning": ("time", "text"),
    "totals": ("time",),
}


@dataclass(frozen=True, slots=True)
class Had:
    """A block came to a node: when, and how (gossip, range, own)."""

    time: float
    how: str


@dataclass(slots=True)
class NodeStory:
    """One node, over all its runs."""

    number: int
    peer_id: str = ""
    client: str | None = None  # as the others read it
    addresses: list[str] = field(default_factory=list)
    listening: float = 0.0  # wall time, of the last run
    runs: int = 0
    alive: bool = False
    peers: dict[str, Line] = field(default_factory=dict)  # who is connected: the line that said so last
    links: Counter[str] = field(default_factory=Counter)  # two nodes that dial each other at once have two connections
    # Whom it dialled, and how many seconds after it listened. All that it was given is the bootnode's record, which has
    # no TCP port: whomever it dials, it found through discovery.
    found: dict[int, float] = field(default_factory=dict)
    meshes: dict[str, int] = field(default_factory=dict)  # by whole topic
    blocks: dict[int, Had] = field(default_factory=dict)
    away_from: float = math.inf  # the first slot that it missed
    away_until: float = math.inf  # the first one again that it did not
    forks: dict[int, str] = field(default_factory=dict)  # by the epoch in which it changed to it
    totals: Line | None = None  # of the last run
    gossip: int = 0  # messages that the last run told of
    killed_gossip: int = 0  # those of the run that was killed, which has no totals

    @property
    def head(self) -> int:
        """The newest block that it told of; 0 before the first."""
        return max(self.blocks, default=0)

    def expects(self, slot: int) -> bool:
        """Is the block of this slot to come to it as to all others?"""
        return not self.away_from <= slot < self.away_until

    def degree(self, name: str) -> int | None:
        """How many peers it meshes with for a topic, of the fork with the most; None when it is not on it."""
        return max((mesh for topic, mesh in self.meshes.items() if short(topic) == name), default=None)


class Story:
    """The whole demonstration; `began` is the wall time of its start, `count` how many nodes there are."""

    def __init__(self, count: int, began: float) -> None:
        self.began = began
        self.nodes = {number: NodeStory(number) for number in range(1, count + 1)}
        self.waiting = ""  # for what, in words
        self.made: dict[int, float] = {}  # when the block of a slot was made
        self.everywhere: dict[int, float] = {}  # seconds until all had it
        self.lost: NodeStory | None = None
        self.noticed: dict[int, str] = {}  # who saw the lost node go, and what it was told
        self.caught_up: list[Facts] = []  # by the node that came back
        self._by_peer: dict[str, int] = {}
        self._same_id = True
        self._last_mesh: dict[str, dict[str, int]] | None = None
        self._greeted: set[tuple[int, int, int]] = set()  # pairs, and how often one of them was started

    # --- what the nodes say

    def listening(self, number: int, line: Line) -> Iterator[Told]:
        """The first line of a node, at its first start or a later one. Raises `ValueError` for one that is no such."""
        check("listening", line)
        node = self.nodes[number]
        returned = node.runs > 0
        known = node.peer_id
        node.runs += 1
        node.gossip = 0
        node.alive, node.listening = True, line["time"]
        node.peer_id, node.addresses = line["peer_id"], list(line["addresses"])
        self._by_peer[node.peer_id] = number
        facts = {
            **self._at(line),
            "node": number,
            "peer_id": node.peer_id,
            "enr": line["enr"],
            "addresses": node.addresses,
            "produces": number == PRODUCER,
        }
        if not returned:
            yield "node", facts
        else:
            node.away_until = max(self.made, default=0) + 1
            self._same_id = known == node.peer_id
            yield "returned", {**facts, "same_id": self._same_id, "missed": self.missed()}

    def heard(self, number: int, line: Line) -> Iterator[Told]:
        """A later line of a node that listens. Raises `ValueError` for one without its fields."""
        event = line.get("event")
        tell = {
            "peer_connected": self._connected,
            "peer_disconnected": self._disconnected,
            "block": self._block,
            "caught_up": self._caught_up,
            "mesh": self._mesh,
            "fork": self._fork,
            "gossip": self._gossip,
            "warning": self._warning,
            "totals": self._totals,
        }.get(event if isinstance(event, str) else "")
        if tell is not None:
            check(str(event), line)
            yield from tell(self.nodes[number], line)

    def _connected(self, node: NodeStory, line: Line) -> Iterator[Told]:
        other = self._by_peer.get(line["peer_id"])
        if other is None:
            raise ValueError(f"peer {line['peer_id']} is none of the demonstration")
        node.peers[line["peer_id"]] = line
        node.links[line["peer_id"]] += 1
        self.nodes[other].client = line["client"] or self.nodes[other].client
        if line["direction"] == "outbound" and node.runs == 1 and self.lost is None and other not in node.found:
            after = round(line["time"] - node.listening, 3)
            node.found[other] = after
            yield (
                "found",
                {
                    **self._at(line),
                    "node": node.number,
                    "found": other,
                    "address": line["address"],
                    "transport": line["transport"],
                    "after": after,
                },
            )
        yield from self._greetings(node, self.nodes[other], line)

    def _greetings(self, node: NodeStory, other: NodeStory, line: Line) -> Iterator[Told]:
        """Told once for two nodes when each knows the other's status; again after one of them came back."""
        theirs = other.peers.get(node.peer_id)
        pair = (min(node.number, other.number), max(node.number, other.number), node.runs + other.runs)
        if theirs is None or not line["status"] or not theirs["status"] or pair in self._greeted:
            return
        self._greeted.add(pair)  # at most one for each pair and start
        # Each line has the status of the peer that it tells of.
        first, second = (theirs, line) if node.number < other.number else (line, theirs)
        yield (
            "status",
            {
                **self._at(line),
                "nodes": list(pair[:2]),
                "fork_digest": line["status"].get("fork_digest"),
                "heads": [first["status"].get("head_slot"), second["status"].get("head_slot")],
                "dialled_by": node.number if line["direction"] == "outbound" else other.number,
                "transport": line["transport"],
                "again": node.runs + other.runs > 2,
            },
        )

    def _disconnected(self, node: NodeStory, line: Line) -> Iterator[Told]:
        node.links[line["peer_id"]] -= 1
        if node.links[line["peer_id"]] > 0:
            return
        node.peers.pop(line["peer_id"], None)
        lost = self.lost
        if lost is not None and line["peer_id"] == lost.peer_id and not lost.alive:
            self.noticed[node.number] = line["reason"]
            yield (
                "noticed",
                {
                    **self._at(line),
                    "node": node.number,
                    "lost": lost.number,
                    "reason": line["reason"],
                    "by": line["by"],
                },
            )

    def _block(self, node: NodeStory, line: Line) -> Iterator[Told]:
        slot = line["slot"]
        node.blocks.setdefault(slot, Had(line["time"], line["how"]))
        if line["how"] == "own":
            self.made[slot] = line["time"]
        yield from self._spread(slot)

    def _spread(self, slot: int) -> Iterator[Told]:
        """Told once for a block, when everybody has it who was there."""
        made = self.made.get(slot)
        receivers = [node for node in self.nodes.values() if node.expects(slot) and node.number != PRODUCER]
        if made is None or slot in self.everywhere or not all(slot in node.blocks for node in receivers):
            return
        seconds = max((node.blocks[slot].time - made for node in receivers), default=0.0)
        self.everywhere[slot] = seconds
        yield (
            "block",
            {
                "seconds": round(made + seconds - self.began, 3),
                "slot": slot,
                "nodes": len(receivers) + 1,
                "until_all": round(seconds, 4),
                "how": {str(node.number): node.blocks[slot].how for node in receivers},
            },
        )

    def _caught_up(self, node: NodeStory, line: Line) -> Iterator[Told]:
        facts = {
            **self._at(line),
            "node": node.number,
            "from": self._by_peer.get(line["from"]),
            **{name: line[name] for name in ("count", "first", "last")},
            "after": round(line["time"] - node.listening, 3),
        }
        if node is self.lost and node.runs > 1:
            self.caught_up.append(facts)
        yield "caught_up", facts

    def _mesh(self, node: NodeStory, line: Line) -> Iterator[Told]:
        node.meshes[line["topic"]] = line["mesh"]
        yield "mesh", {**self._at(line), "node": node.number, **{key: line[key] for key in ("topic", "peers", "mesh")}}

    def _fork(self, node: NodeStory, line: Line) -> Iterator[Told]:
        fork, epoch = line["fork"], line["epoch"]
        node.forks[epoch] = fork
        facts = {**self._at(line), "fork": fork, "epoch": epoch, "fork_digest": line["fork_digest"]}
        yield "fork", {**facts, "node": node.number}
        there = self._running()
        if all(each.forks.get(epoch) == fork for each in there):
            yield "changed", {**facts, "nodes": [each.number for each in there]}

    def _gossip(self, node: NodeStory, line: Line) -> Iterator[Told]:
        node.gossip += 1
        yield from ()

    def _warning(self, node: NodeStory, line: Line) -> Iterator[Told]:
        yield "warning", {**self._at(line), "node": node.number, "text": line["text"]}

    def _totals(self, node: NodeStory, line: Line) -> Iterator[Told]:
        node.totals = line
        said = {key: value for key, value in line.items() if key not in ("schema", "event", "time", "node")}
        yield "totals", {**self._at(line), "node": node.number, **said}

    def _at(self, line: Line) -> Facts:
        return {"seconds": round(line["time"] - self.began, 3)}

    # --- what is done to them

    def killed(self, number: int, time: float) -> Iterator[Told]:
        """A node was killed; what it said before may still come."""
        node = self.lost = self.nodes[number]
        node.alive = False
        yield "lost", {"seconds": round(time - self.began, 3), "node": number, "head": node.head}

    def silent(self, number: int) -> Iterator[Told]:
        """All that a killed node had said was heard: whatever block it did not tell of is one that it missed."""
        node = self.nodes[number]
        node.away_from = node.head + 1
        node.killed_gossip = node.gossip
        node.peers.clear()
        node.links.clear()
        node.meshes.clear()
        for slot in sorted(self.made.keys() - self.everywhere.keys()):
            yield from self._spread(slot)

    def ending(self) -> None:
        """All are about to be ended: meshes are to be told of as they are now."""
        self._last_mesh = self.meshes_now()

    def missed(self) -> list[int]:
        """The blocks that were made while a node was away."""
        lost = self.lost
        return [] if lost is None else sorted(slot for slot in self.made if not lost.expects(slot))

    # --- what has not happened yet: "" when it has

    def lacks_discovery(self) -> str:
        """Everybody found everybody, by dialling or by being dialled."""
        for node in self._running():
            others = [each.number for each in self._running() if each is not node and each.peer_id not in node.peers]
            if others:
                return f"node {node.number} is not connected with {_nodes(others)}"
        return ""

    def lacks_status(self) -> str:
        """Everybody has the status of all its peers, who are on the fork digest that it is on itself."""
        for node in self._running():
            for peer, line in node.peers.items():
                other = self.nodes[self._by_peer[peer]]
                if not line["status"]:
                    return f"node {node.number} has no status of node {other.number}"
                own = (other.peers.get(node.peer_id, {}).get("status") or {}).get("fork_digest")
                theirs = line["status"].get("fork_digest")
                if own is not None and own != theirs:
                    return f"node {node.number} is on fork digest {own}, node {other.number} on {theirs}"
        return ""

    def lacks_mesh(self, degree: int) -> str:
        """Everybody meshes with so many peers for blocks."""
        for node in self._running():
            has = node.degree(BLOCK_TOPIC) or 0
            if has < degree:
                return f"node {node.number} meshes with {has} peers for {BLOCK_TOPIC}, not {degree}"
        return ""

    def lacks_blocks(self, count: int, after: int = 0) -> str:
        """So many blocks of slots after that one came to everybody, each node got one of them by gossip at least."""
        slots = [slot for slot in self.everywhere if slot > after]
        if len(slots) < count:
            waiting = sorted(slot for slot in self.made if slot > after and slot not in self.everywhere)
            if not waiting:
                return f"{len(slots)} of {count} blocks came to all, and no other was made"
            without = [node.number for node in self._running() if waiting[0] not in node.blocks]
            return f"{len(slots)} of {count} blocks came to all; block {waiting[0]} did not come to {_nodes(without)}"
        for node in self._running():
            if node.number != PRODUCER and not any(
                node.blocks[slot].how == "gossip" for slot in slots if slot in node.blocks
            ):
                return f"node {node.number} got none of the blocks after {after} by gossip"
        return ""

    def lacks_slot(self, slot: int) -> str:
        """A block of this slot or a later one came to everybody who is there."""
        newest = max(self.everywhere, default=0)
        return "" if newest >= slot else f"the newest block that all have is {newest}, not yet {slot}"

    def lacks_notice(self) -> str:
        """Everybody saw the lost node go."""
        blind = [node.number for node in self._running() if node.number not in self.noticed]
        return f"{_nodes(blind)} did not notice that it is gone" if blind else ""

    def lacks_return(self) -> str:
        """The lost node is who it was, and met all others again."""
        lost = self.lost
        assert lost is not None
        return self.lacks_discovery() if self._same_id else f"node {lost.number} came back with another peer id"

    def lacks_fork(self, fork: str) -> str:
        """Everybody who was there changed to the fork."""
        late = [node.number for node in self._running() if fork not in node.forks.values() and node is not self.lost]
        return f"{_nodes(late)} did not change to {fork}" if late else ""

    def lacks_catching_up(self) -> str:
        """The node that came back fetched what it missed by range, from the first block on."""
        lost, missed = self.lost, self.missed()
        assert lost is not None
        if not missed:
            return "no block was made while it was away"
        without = [slot for slot in missed if slot not in lost.blocks]
        if without:
            return f"node {lost.number} lacks {_blocks(without)}"
        if lost.blocks[missed[0]].how != "range":
            return f"node {lost.number} got block {missed[0]} by {lost.blocks[missed[0]].how}, not by range"
        return "" if self.caught_up else f"node {lost.number} did not tell from whom it caught up"

    def lacks_totals(self) -> str:
        """Everybody told its totals at its end."""
        without = [node.number for node in self.nodes.values() if node.totals is None]
        return f"{_nodes(without)} ended without totals" if without else ""

    def _running(self) -> list[NodeStory]:
        return [node for node in self.nodes.values() if node.alive]

    # --- at the end

    def topics(self) -> list[str]:
        """The names of all topics that somebody is on, that of blocks first."""
        names = {short(topic) for node in self.nodes.values() for topic in node.meshes}
        return sorted(names, key=lambda name: (name != BLOCK_TOPIC, len(name), name))

    def _by_gossip(self, slot: int) -> bool:
        """Nobody had to ask for this block."""
        return all(
            node.blocks[slot].how == "gossip"
            for node in self.nodes.values()
            if node.number != PRODUCER and node.expects(slot)
        )

    def meshes_now(self) -> dict[str, dict[str, int]]:
        """How many peers each node meshes with, by topic and node."""
        return {
            name: {
                str(node.number): degree for node in self.nodes.values() if (degree := node.degree(name)) is not None
            }
            for name in self.topics()
        }

    def summary(self) -> Facts:
        """The figures of all."""
        spread = sorted(seconds for slot, seconds in self.everywhere.items() if self._by_gossip(slot))
        return {
            "nodes": [
                {
                    "node": node.number,
                    "peer_id": node.peer_id,
                    "client": node.client,
                    "found": sorted(node.found),
                    "starts": node.runs,
                    "blocks": {
                        how: sum(had.how == how for had in node.blocks.values()) for how in ("own", "gossip", "range")
                    },
                    "head": node.head,
                }
                for node in self.nodes.values()
            ],
            "mesh": self.meshes_now() if self._last_mesh is None else self._last_mesh,
            "pairs": len({pair[:2] for pair in self._greeted}),
            "blocks": len(self.made),
            "everywhere": len(self.everywhere),
            "until_all_median": round(median(spread), 4) if spread else None,
            "until_all_most": round(spread[-1], 4) if spread else None,
            "lost": None if self.lost is None else self.lost.number,
            "missed": self.missed(),
            "caught_up": self.caught_up,
        }


def check(event: str, line: Line) -> None:
    """Raise `ValueError`, which names the field, for a line of a node that lacks one."""
    if line.get("event") != event:
        raise ValueError(f"'{line.get('event')}' instead of '{event}'")
    for name in _FIELDS[event]:
        if name not in line:
            raise ValueError(f"'{event}' without '{name}'")


def short(topic: str) -> str:
    """`beacon_block` of `/eth2/6a95a1a9/beacon_block/ssz_snappy`; another topic as it is."""
    parts = topic.split("/")
    return parts[3] if len(parts) == 5 and parts[1] == "eth2" else topic


def _nodes(numbers: list[int]) -> str:
    return f"node{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _blocks(slots: list[int]) -> str:
    return f"block{'s' if len(slots) > 1 else ''} {', '.join(map(str, slots))}"
