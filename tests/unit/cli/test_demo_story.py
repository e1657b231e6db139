"""The demonstration's story from lines of its nodes: what is told, and what is still missing."""

from typing import Any

import pytest

from pyp2p.cli import demo_text, render
from pyp2p.cli.demo_story import BLOCK_TOPIC, Story, Told
from pyp2p.cli.render import Style

BEGAN = 1000.0
DIGEST = "6a95a1a9"
TOPIC = f"/eth2/{DIGEST}/beacon_block/ssz_snappy"


def peer(number: int) -> str:
    return f"16Uiu2HAm-{number}"


class Scene:
    """A story of three nodes, and their lines as they print them."""

    def __init__(self, count: int = 3) -> None:
        self.story = Story(count, BEGAN)
        self.told: list[Told] = []
        for number in self.story.nodes:
            self.listens(number)

    def listens(self, number: int, at: float = 1.0, who: str | None = None) -> list[Told]:
        line = {
            "event": "listening",
            "time": BEGAN + at,
            "peer_id": who or peer(number),
            "enr": "enr:-x",
            "addresses": [f"/ip4/127.0.0.1/tcp/{9000 + number}/p2p/{peer(number)}"],
        }
        return self._note(list(self.story.listening(number, line)))

    def says(self, number: int, event: str, at: float = 2.0, **facts: Any) -> list[Told]:
        line = {"event": event, "time": BEGAN + at, **facts}
        return self._note(list(self.story.heard(number, line)))

    def _note(self, told: list[Told]) -> list[Told]:
        self.told += told
        return told

    def connects(self, number: int, other: int, direction: str = "outbound", **status: Any) -> list[Told]:
        return self.says(
            number,
            "peer_connected",
            peer_id=peer(other),
            client=f"pyp2p node-{other}",
            status={"fork_digest": DIGEST, "head_slot": other, **status} if status != {"none": True} else None,
            direction=direction,
            address="/ip4/127.0.0.1/tcp/1",
            transport="tcp",
        )

    def parts(self, number: int, other: int) -> list[Told]:
        return self.says(number, "peer_disconnected", peer_id=peer(other), reason="eof", by="peer", goodbye=None)

    def meet(self, number: int, other: int) -> None:
        self.connects(number, other)
        self.connects(other, number, "inbound")

    def all_meet(self) -> None:
        for number in self.story.nodes:
            for other in range(number + 1, len(self.story.nodes) + 1):
                self.meet(number, other)

    def block(self, number: int, slot: int, at: float, how: str = "gossip") -> list[Told]:
        return self.says(number, "block", at, slot=slot, root="00", how="own" if number == 1 else how)

    def everywhere(self, slot: int, at: float, *, but: int = 0, how: str = "gossip") -> None:
        for number in self.story.nodes:
            if number != but:
                self.block(number, slot, at + number / 100, how)

    def lose(self, number: int) -> list[Told]:
        return self._note([*self.story.killed(number, BEGAN + 9), *self.story.silent(number)])


def names(told: list[Told]) -> list[str]:
    return [event for event, _ in told]


def test_a_node_is_told_with_its_id_and_its_place() -> None:
    scene = Scene()
    event, facts = scene.told[0]
    assert event == "node"
    assert (facts["node"], facts["peer_id"], facts["produces"], facts["seconds"]) == (1, peer(1), True, 1.0)
    assert [facts["produces"] for _, facts in scene.told] == [True, False, False]


def test_who_dials_found_and_who_is_dialled_was_found() -> None:
    scene = Scene()
    ((event, facts),) = scene.connects(2, 3)
    assert (event, facts["node"], facts["found"], facts["after"]) == ("found", 2, 3, 1.0)
    assert names(scene.connects(3, 2, "inbound")) == ["status"]
    assert list(scene.story.nodes[2].found) == [3]
    assert not scene.story.nodes[3].found
    assert scene.story.nodes[3].client == "pyp2p node-3"


def test_a_status_is_told_when_both_have_it_once_and_with_each_head() -> None:
    scene = Scene()
    scene.connects(3, 2)
    ((event, facts),) = scene.connects(2, 3, "inbound")
    assert event == "status"
    assert (facts["nodes"], facts["heads"], facts["dialled_by"], facts["again"]) == ([2, 3], [2, 3], 3, False)
    assert scene.connects(2, 3, "inbound") == []


def test_in_words_each_head_stands_beside_its_node() -> None:
    scene = Scene()
    scene.connects(3, 2)
    ((event, facts),) = scene.connects(2, 3, "inbound")
    (line,) = demo_text.lines(event, {**facts, "heads": [21, 0]}, Style(), plain)
    assert line.endswith(f"digest {DIGEST}, node 2 has head 21, node 3 has head 0")


def test_the_messages_of_the_run_that_was_killed_count() -> None:
    scene = Scene()
    for number, count in ((1, 2), (3, 5)):
        for _ in range(count):
            assert scene.says(number, "gossip", topic=TOPIC) == []
    scene.lose(3)
    scene.listens(3, 20.0)
    scene.says(3, "gossip", topic=TOPIC)
    scene.says(1, "totals", gossip={TOPIC: 2}, bytes_out=1, messages_out=1, connections=1)
    scene.says(3, "totals", gossip={TOPIC: 1}, bytes_out=1, messages_out=1, connections=1)
    moved, gossip = demo_text.moved(scene.story)
    assert gossip == ("gossip", "8 messages accepted")
    assert str(moved[1]).endswith("; what node 3 moved before it was killed is not in it")


def test_discovery_lacks_whoever_is_not_connected() -> None:
    scene = Scene()
    scene.meet(1, 2)
    assert scene.story.lacks_discovery() == "node 1 is not connected with node 3"
    scene.meet(1, 3)
    assert scene.story.lacks_discovery() == "node 2 is not connected with node 3"
    scene.meet(2, 3)
    assert scene.story.lacks_discovery() == ""


def test_of_two_connections_to_one_peer_the_end_of_one_is_no_parting() -> None:
    scene = Scene()
    scene.all_meet()
    scene.connects(1, 2, "inbound")
    scene.parts(1, 2)
    assert scene.story.lacks_discovery() == ""
    scene.parts(1, 2)
    assert scene.story.lacks_discovery() == "node 1 is not connected with node 2"


def test_status_lacks_one_that_was_not_given_and_another_fork_digest() -> None:
    scene = Scene()
    scene.connects(1, 2, none=True)
    assert scene.story.lacks_status() == "node 1 has no status of node 2"
    scene = Scene()
    scene.connects(1, 2)
    assert scene.story.lacks_status() == ""
    scene.connects(2, 1, "inbound", fork_digest="00000000")
    assert scene.story.lacks_status() == f"node 1 is on fork digest 00000000, node 2 on {DIGEST}"


def test_mesh_lacks_whoever_has_too_few_peers_for_blocks() -> None:
    scene = Scene()
    for number, degree in ((1, 2), (2, 2), (3, 1)):
        scene.says(number, "mesh", topic=TOPIC, peers=2, mesh=degree)
    assert scene.story.lacks_mesh(2) == "node 3 meshes with 1 peers for beacon_block, not 2"
    scene.says(3, "mesh", topic=TOPIC, peers=2, mesh=2)
    assert scene.story.lacks_mesh(2) == ""


def test_a_topic_of_two_forks_counts_with_the_fuller_mesh() -> None:
    scene = Scene()
    scene.says(1, "mesh", topic=TOPIC, peers=2, mesh=0)
    scene.says(1, "mesh", topic=TOPIC.replace(DIGEST, "00000000"), peers=2, mesh=2)
    scene.says(2, "mesh", topic="/eth2/x/beacon_attestation_3/ssz_snappy", peers=1, mesh=1)
    scene.says(2, "mesh", topic="/news", peers=1, mesh=1)
    assert scene.story.meshes_now() == {BLOCK_TOPIC: {"1": 2}, "/news": {"2": 1}, "beacon_attestation_3": {"2": 1}}


def test_a_block_is_told_when_the_last_has_it_with_the_time_that_took() -> None:
    scene = Scene()
    assert scene.block(2, 1, 5.02) == []  # heard before its maker's line
    assert scene.block(1, 1, 5.0) == []
    ((event, facts),) = scene.block(3, 1, 5.1)
    assert (event, facts["slot"], facts["nodes"], facts["until_all"]) == ("block", 1, 3, 0.1)
    assert facts["how"] == {"2": "gossip", "3": "gossip"}
    assert scene.block(3, 1, 6.0) == []


def test_blocks_lack_a_number_or_a_node_or_any_that_came_by_gossip() -> None:
    scene = Scene()
    assert scene.story.lacks_blocks(1) == "0 of 1 blocks came to all, and no other was made"
    scene.block(1, 1, 5.0)
    scene.block(2, 1, 5.0)
    assert scene.story.lacks_blocks(1) == "0 of 1 blocks came to all; block 1 did not come to node 3"
    scene.block(3, 1, 5.0, "range")
    assert scene.story.lacks_blocks(1) == "node 3 got none of the blocks after 0 by gossip"
    scene.everywhere(2, 6)
    assert scene.story.lacks_blocks(1) == ""
    assert scene.story.lacks_blocks(1, 2) == "0 of 1 blocks came to all, and no other was made"
    assert scene.story.lacks_slot(3) == "the newest block that all have is 2, not yet 3"
    assert scene.story.lacks_slot(2) == ""


def test_a_loss_is_noticed_by_each_of_the_others() -> None:
    scene = Scene()
    scene.all_meet()
    list(scene.story.killed(3, BEGAN + 9))
    assert names(scene.parts(1, 3)) == ["noticed"]  # before all that it had said is heard
    list(scene.story.silent(3))
    assert scene.story.lacks_notice() == "node 2 did not notice that it is gone"
    scene.parts(2, 3)
    assert scene.story.lacks_notice() == ""


def test_after_a_loss_blocks_are_everywhere_without_the_lost_node() -> None:
    scene = Scene()
    scene.everywhere(1, 5)
    scene.block(1, 2, 6)
    scene.block(2, 2, 6)
    assert names(scene.lose(3)) == ["lost", "block"]
    scene.everywhere(3, 7, but=3)
    assert scene.story.lacks_slot(3) == ""
    assert scene.story.missed() == [2, 3]


def back_again(how: str = "range") -> Scene:
    """Node 3 was away for blocks 2 to 4, is back, and gets them; then block 5 comes to all."""
    scene = Scene()
    scene.all_meet()
    scene.everywhere(1, 5)
    scene.lose(3)
    for slot in (2, 3, 4):
        scene.everywhere(slot, 5 + slot, but=3)
    ((event, facts),) = scene.listens(3, 11)
    assert (event, facts["same_id"], facts["missed"]) == ("returned", True, [2, 3, 4])
    for slot in (2, 3, 4):
        scene.block(3, slot, 12, how)
    scene.everywhere(5, 12)
    return scene


def test_who_comes_back_lacks_the_blocks_it_missed_until_it_fetched_them_by_range() -> None:
    scene = back_again()
    assert scene.story.lacks_catching_up() == "node 3 did not tell from whom it caught up"
    ((event, facts),) = scene.says(3, "caught_up", 12, **{"from": peer(2), "count": 3, "first": 2, "last": 4})
    assert (event, facts["node"], facts["from"], facts["after"]) == ("caught_up", 3, 2, 1.0)
    assert scene.story.lacks_catching_up() == ""
    assert scene.story.lacks_blocks(1, 4) == ""
    summary = scene.story.summary()
    assert (summary["missed"], summary["caught_up"][0]["count"]) == ([2, 3, 4], 3)
    assert summary["nodes"][2]["blocks"] == {"own": 0, "gossip": 2, "range": 3}
    assert summary["nodes"][2]["starts"] == 2


def test_catching_up_is_not_by_gossip_nor_in_part_nor_of_nothing() -> None:
    assert back_again("gossip").story.lacks_catching_up() == "node 3 got block 2 by gossip, not by range"
    scene = Scene()
    scene.everywhere(1, 5)
    scene.lose(3)
    assert scene.story.lacks_catching_up() == "no block was made while it was away"
    scene.everywhere(2, 6, but=3)
    scene.everywhere(3, 7, but=3)
    scene.listens(3, 8)
    scene.block(3, 2, 9, "range")
    assert scene.story.lacks_catching_up() == "node 3 lacks block 3"


def test_who_comes_back_is_who_it_was_and_meets_all_again() -> None:
    scene = Scene()
    scene.all_meet()
    scene.lose(3)
    scene.parts(1, 3)
    scene.parts(2, 3)
    scene.listens(3, 11)
    scene.connects(3, 1)
    ((_, facts),) = scene.connects(1, 3, "inbound")
    assert facts["again"]
    assert scene.story.lacks_return() == "node 2 is not connected with node 3"
    assert 3 not in scene.story.nodes[3].found  # the first run alone counts as discovery from nothing
    scene.meet(3, 2)
    assert scene.story.lacks_return() == ""
    scene = Scene()
    scene.lose(3)
    scene.listens(3, 11, who="16Uiu2HAm-other")
    assert scene.story.lacks_return() == "node 3 came back with another peer id"


def test_a_fork_is_told_when_all_who_are_there_changed() -> None:
    scene = Scene()
    scene.lose(3)
    fork = {"fork": "fulu", "epoch": 2, "fork_digest": "18d5fcdd"}
    assert names(scene.says(1, "fork", **fork)) == ["fork"]
    assert scene.story.lacks_fork("fulu") == "node 2 did not change to fulu"
    assert names(scene.says(2, "fork", **fork)) == ["fork", "changed"]
    assert scene.story.lacks_fork("fulu") == ""


def test_the_end_lacks_totals_and_keeps_the_meshes_of_before() -> None:
    scene = Scene()
    scene.says(1, "mesh", topic=TOPIC, peers=2, mesh=2)
    scene.story.ending()
    scene.says(1, "mesh", topic=TOPIC, peers=0, mesh=0)
    scene.says(1, "totals", bytes_out=10)
    assert scene.story.lacks_totals() == "nodes 2, 3 ended without totals"
    for number in (2, 3):
        scene.says(number, "totals", bytes_out=10)
    assert scene.story.lacks_totals() == ""
    assert scene.story.summary()["mesh"] == {BLOCK_TOPIC: {"1": 2}}


def test_lines_of_no_interest_are_passed_over() -> None:
    scene = Scene()
    assert scene.says(1, "gossip", topic=TOPIC) == []
    assert list(scene.story.heard(1, {})) == []
    assert list(scene.story.heard(1, {"event": ["block"]})) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"event": "block", "time": 1.0, "slot": 1, "root": ""}, "'block' without 'how'"),
        ({"event": "totals"}, "'totals' without 'time'"),
        (
            {"event": "peer_connected", "time": 1.0, "peer_id": "stranger", "client": None, "status": None,
             "direction": "inbound", "address": "", "transport": "tcp"},
            "peer stranger is none of the demonstration",
        ),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_understood_says_why(line: dict[str, Any], why: str) -> None:
    scene = Scene()
    with pytest.raises(ValueError, match=why):
        list(scene.story.heard(1, line))


def test_the_first_line_of_a_node_says_where_it_listens() -> None:
    with pytest.raises(ValueError, match="'block' instead of 'listening'"):
        list(Story(1, BEGAN).listening(1, {"event": "block"}))


# --- for people


def plain(head: Any, rows: Any, right: Any) -> list[str]:
    return render.table(head, rows, Style(), right)


def shown(told: list[Told]) -> str:
    return "\n".join(line for each in told for line in demo_text.lines(*each, Style(), plain))


def test_every_step_has_its_line() -> None:
    scene = back_again()
    scene.says(3, "caught_up", 12, **{"from": peer(2), "count": 3, "first": 2, "last": 4})
    scene.says(2, "warning", text="no \x1b[31mway")
    text = shown(scene.told)
    for words in (
        "node 1     16Uiu2HAm-1 at /ip4/127.0.0.1/tcp/9001, makes the blocks",
        "met        node 1 dialled node 2, found through discovery, over tcp; status both ways: fork digest 6a95a1a9, ",
        "block 1    all 3 nodes had it after 20.0 ms (2 by gossip)",
        "lost       node 3 was killed (SIGKILL); the last block it had is 1",
        "block 2    all 2 nodes had it after 10.0 ms (1 by gossip)",
        "returned   node 3 runs again on its data folder, with the same peer id; it missed blocks 2 to 4",
        "caught up  node 3 asked node 2 by range: 3 blocks of slots 2 to 4, 1.00 s after it listened",
        "warning    node 2: no \\x1b[31mway",
    ):
        assert words in text, words


def test_the_state_of_all_nodes_as_tables() -> None:
    scene = back_again()
    scene.says(1, "mesh", topic=TOPIC, peers=2, mesh=2)
    rows = demo_text.nodes_now(scene.story, plain)
    assert rows[1].split()[:2] == ["1", "*"]
    assert rows[1].split()[-3:] == ["2", "2", "5"]
    assert "runs again" in rows[3]
    scene.block(1, 6, 14)
    blocks = demo_text.blocks_now(scene.story, 2, plain)
    assert [row.split() for row in blocks[1:]] == [["5", "3", "20.0", "ms"], ["6", "1"]]


def test_the_summary_says_everything_and_which_expectation_failed() -> None:
    scene = back_again()
    scene.says(3, "caught_up", 12, **{"from": peer(2), "count": 3, "first": 2, "last": 4})
    scene.says(1, "mesh", topic=TOPIC, peers=2, mesh=2)
    scene.says(1, "totals", bytes_out=2_000, messages_out=5, connections=2, gossip={"a": 3, "b": 4})
    text = "\n".join(demo_text.summary(scene.story, plain, [("it began", True), ("it ended", False)], Style()))
    for words in (
        "beacon_block       2",
        "5 made, 5 with every node that was there",
        "10.0 ms (median), 20.0 ms at most, by gossip",
        "by 3 pairs of nodes",
        "node 3 missed blocks 2 to 4, and fetched 3 by range from node 2",
        "2 kB in 5 messages, over 2 ends of connections",
        "7 messages accepted",
        "ok  it began\nno  it ended",
    ):
        assert words in text, words


def test_the_summary_of_nothing_is_short() -> None:
    text = "\n".join(demo_text.summary(Story(2, BEGAN), plain, [], Style()))
    assert "0 made" in text
    assert "lost" not in text


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([], "no block"), ([3], "block 3"), ([3, 4, 5], "blocks 3 to 5"), ([3, 5, 9], "blocks 3, 5, 9")],
)
def test_slots_in_words(numbers: list[int], words: str) -> None:
    assert demo_text.slots(numbers) == words
