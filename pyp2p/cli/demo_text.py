"""The demonstration for people: each thing that happens as a line, the state of all as tables. Pure.

Rules: every line begins with the seconds since the start. Text of nodes is escaped here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pyp2p.cli import render
from pyp2p.cli.demo_story import PRODUCER, NodeStory, Story
from pyp2p.cli.render import Style
from pyp2p.errors import printable

Facts = Mapping[str, Any]
Table = Callable[[Sequence[str], Sequence[Sequence[str]], Sequence[int]], list[str]]

_HEAD: Final = ("node", "peer id", "client", "state", "peers", "mesh", "head")
_HEAD_RIGHT: Final = (4, 5, 6)
_ID: Final = 16  # characters of a peer id where it stands in a line; all of one key type begin alike, so the last ones


def lines(event: str, facts: Facts, style: Style, table: Table) -> list[str]:
    """What to print for an event; nothing for what only summaries show."""
    if event == "meshes":
        return ["", *meshes(facts["mesh"], table), ""]
    words = _WORDS[event](facts) if event in _WORDS else ""
    if not words:
        return []
    head, _, rest = words.partition("  ")
    paint = {"lost": style.bad, "warning": style.bad, "ok": style.good, "caught up": style.good}.get(head, style.dim)
    when = style.dim(f"{facts['seconds']:6.2f} s")
    return [f"{when}  {paint(head.ljust(9))}  {rest}"]


def _node(facts: Facts) -> str:
    makes = ", makes the blocks" if facts["produces"] else ""
    return f"node {facts['node']}  {facts['peer_id']} at {', '.join(_places(facts))}{makes}"


def _returned(facts: Facts) -> str:
    who = "with the same peer id" if facts["same_id"] else f"as another, {facts['peer_id']}"
    missed = facts["missed"]
    return f"returned  node {facts['node']} runs again on its data folder, {who}; it missed {slots(missed)}"


def _status(facts: Facts) -> str:
    first, second = facts["nodes"]
    dialled = facts["dialled_by"]
    found = second if dialled == first else first
    way = " again" if facts["again"] else ", found through discovery,"
    met = f"node {dialled} dialled node {found}{way} over {printable(str(facts['transport']), 40)}"
    heads = [f"node {node} has head {head}" for node, head in zip(facts["nodes"], facts["heads"], strict=True)]
    return f"met  {met}; status both ways: fork digest {facts['fork_digest']}, {', '.join(heads)}"


def _block(facts: Facts) -> str:
    how = list(facts["how"].values())
    ways = ", ".join(f"{how.count(way)} by {way}" for way in dict.fromkeys(how))
    after = render.duration(facts["until_all"])
    return f"block {facts['slot']}  all {facts['nodes']} nodes had it after {after} ({ways})"


def _caught_up(facts: Facts) -> str:
    return (
        f"caught up  node {facts['node']} asked node {facts['from']} by range: {facts['count']} blocks of slots "
        f"{facts['first']} to {facts['last']}, {render.duration(facts['after'])} after it listened"
    )


_WORDS: Final[Mapping[str, Callable[[Facts], str]]] = {
    "bootnode": lambda facts: (
        f"bootnode  {facts['peer_id']}, UDP port {facts['udp']} and no TCP port: it only tells who is where"
    ),
    "chain": lambda facts: (
        f"chain  made up, {facts['slot_seconds']:g} s slots, {facts['fork']}; {facts['next_fork']} "
        f"from slot {facts['fork_slot']} on"
    ),
    "node": _node,
    "returned": _returned,
    "status": _status,
    "block": _block,
    "changed": lambda facts: (
        f"fork  all {len(facts['nodes'])} nodes changed to {facts['fork']} in epoch "
        f"{facts['epoch']}, fork digest {facts['fork_digest']}"
    ),
    "lost": lambda facts: f"lost  node {facts['node']} was killed (SIGKILL); the last block it had is {facts['head']}",
    "noticed": lambda facts: (
        f"noticed  node {facts['node']} lost node {facts['lost']}: {printable(str(facts['reason']), 100)}"
    ),
    "caught_up": _caught_up,
    "warning": lambda facts: f"warning  node {facts['node']}: {printable(str(facts['text']), 200)}",
    "check": lambda facts: f"{'ok' if facts['ok'] else 'waits'}  {facts['what']}",
}


def slots(numbers: Sequence[int]) -> str:
    """`blocks 3 to 5`, `block 3`, `blocks 3, 5, 9`."""
    if not numbers:
        return "no block"
    if len(numbers) == 1:
        return f"block {numbers[0]}"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"blocks {numbers[0]} to {numbers[-1]}"
    return f"blocks {', '.join(map(str, numbers))}"


def nodes_now(story: Story, table: Table) -> list[str]:
    """Every node as it is now."""
    return table(_HEAD, [_row(node) for node in story.nodes.values()], _HEAD_RIGHT)


def _row(node: NodeStory) -> list[str]:
    state = "runs" if node.alive else ("starts" if not node.runs else "gone")
    if node.alive and node.runs > 1:
        state = "runs again"
    makes = " *" if node.number == PRODUCER else ""
    degree = node.degree("beacon_block")
    return [
        f"{node.number}{makes}",
        "" if not node.peer_id else f"..{node.peer_id[-_ID:]}",
        node.client or "",
        state,
        str(len(node.peers)),
        "" if degree is None else str(degree),
        str(node.head),
    ]


def blocks_now(story: Story, most: int, table: Table) -> list[str]:
    """The newest blocks."""
    rows = []
    for slot in sorted(story.made)[-most:]:
        have = sum(slot in node.blocks for node in story.nodes.values())
        seconds = story.everywhere.get(slot)
        rows.append([str(slot), str(have), "" if seconds is None else render.duration(seconds)])
    return table(("block", "nodes", "until all had it"), rows, (0, 1, 2))


def meshes(mesh: Mapping[str, Mapping[str, int]], table: Table) -> list[str]:
    """How many peers each node meshes with, for every topic; `-`: nobody else is on it, or the node is not."""
    numbers = sorted({number for degrees in mesh.values() for number in degrees}, key=int)
    rows = [[name, *(str(degrees.get(number, "-")) for number in numbers)] for name, degrees in mesh.items()]
    return table(("mesh degree", *(f"node {number}" for number in numbers)), rows, range(1, len(numbers) + 1))


def summary(story: Story, table: Table, checks: Sequence[tuple[str, bool]], style: Style) -> list[str]:
    """What happened in all, and what of it was to happen."""
    said = story.summary()
    rows = [
        [
            str(node["node"]),
            story.nodes[node["node"]].peer_id,
            node["client"] or "-",
            ", ".join(map(str, node["found"])) or "-",
            *(str(node["blocks"][how]) for how in ("own", "gossip", "range")),
            str(node["head"]),
        ]
        for node in said["nodes"]
    ]
    shown = [
        "",
        style.bold("Summary"),
        *table(("node", "peer id", "client", "found", "own", "gossip", "range", "head"), rows, (4, 5, 6, 7)),
        "",
        *meshes(said["mesh"], table),
        "",
    ]
    totals: list[tuple[str, object]] = [
        ("blocks", f"{said['blocks']} made, {said['everywhere']} with every node that was there"),
        ("until all had one", _spread(said)),
        ("status exchanged", f"by {said['pairs']} pairs of nodes"),
        ("lost and back", _lost(said)),
        *moved(story),
    ]
    shown += [*render.fields(totals, style), ""]
    return shown + [f"{style.good('ok') if ok else style.bad('no')}  {words}" for words, ok in checks]


def _spread(said: Facts) -> str | None:
    if said["until_all_median"] is None:
        return None
    usual, most = render.duration(said["until_all_median"]), render.duration(said["until_all_most"])
    return f"{usual} (median), {most} at most, by gossip"


def _lost(said: Facts) -> str | None:
    if said["lost"] is None:
        return None
    fetched = [f"{each['count']} by range from node {each['from']}" for each in said["caught_up"]] or ["none by range"]
    return f"node {said['lost']} missed {slots(said['missed'])}, and fetched {', '.join(fetched)}"


def moved(story: Story) -> list[tuple[str, object]]:
    """The sums of the nodes' totals."""
    totals = [node.totals for node in story.nodes.values() if node.totals is not None]
    if not totals:
        return []

    def added(name: str) -> int:
        return sum(each.get(name, 0) for each in totals)

    killed = sum(node.killed_gossip for node in story.nodes.values())
    gossip = sum(sum(each.get("gossip", {}).values()) for each in totals) + killed
    without = "" if story.lost is None else f"; what node {story.lost.number} moved before it was killed is not in it"
    return [
        ("moved", f"{render.size(added('bytes_out'))} in {added('messages_out')} messages, over "
                  f"{added('connections')} ends of connections{without}"),
        ("gossip", f"{gossip} messages accepted"),
    ]  # fmt: skip


def _places(facts: Facts) -> list[str]:
    return [str(address).partition("/p2p/")[0] for address in facts["addresses"]]
