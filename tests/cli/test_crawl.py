"""`discv5 crawl` between processes on loopback: how far it asks, what it goes on from, whom it dials, what it tells."""

import json
import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pyp2p.discv5.enr import Enr, node_id
from pyp2p.discv5.node import log_distance
from pyp2p.peer.keys import Identity, KeyType
from tests.cli.support import SECONDS, events, hostile, run, silent
from tests.cli.support import listening as any_listening
from tests.cli.test_discv5 import any_process, listening, record_at, unwrapped

pytestmark = pytest.mark.slow

FORK = "6a95a1a967855d67ffffffffffffffff"


def new_identity() -> Identity:
    return Identity.generate(KeyType.SECP256K1, entropy=os.urandom)


def key_file(path: Path, who: Identity | None = None) -> str:
    path.write_bytes((who or new_identity()).to_protobuf())
    return str(path)


def nodes_in(path: Path) -> dict[str, dict[str, Any]]:
    """The nodes of a file, each of which is in it once."""
    lines = events(path.read_text())
    found = {line["node_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def crawl(*words: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines of a crawl that ends well, and its summary."""
    done = run("discv5", "crawl", *words, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    *lines, totals = events(done.stdout)
    assert totals["event"] == "crawl"
    return lines, totals


def test_the_only_neighbour_is_found_though_the_farthest_buckets_are_empty(tmp_path: Path) -> None:
    one, other = new_identity(), new_identity()
    while not 246 <= log_distance(node_id(one.public_key.data), node_id(other.public_key.data)) <= 252:
        other = new_identity()
    with (
        listening("--key", key_file(tmp_path / "one", one)) as first,
        listening("--key", key_file(tmp_path / "other", other), "--bootnode", first.enr) as second,
    ):
        assert first.next("live")["node_id"] == second.node_id
        assert second.next("live")["node_id"] == first.node_id
        nodes, totals = crawl("--bootnode", first.enr)
        assert {(node["node_id"], node["walked"]) for node in nodes} == {(first.node_id, True), (second.node_id, True)}
        assert totals["questions"] == 6  # for 256, for the ten below it, for ten more; of each


def test_a_crawl_goes_on_from_its_file(tmp_path: Path) -> None:
    """One that answered is gone the second time, one that did not is back."""
    path, words = tmp_path / "nodes", ("--key", key_file(tmp_path / "key"))
    with listening(*words) as away:
        port = str(away.first["udp"])
    with listening() as first:
        crawl("--bootnode", first.enr, "--bootnode", away.enr, "--output", str(path))
    before = nodes_in(path)
    assert {one: node["status"] for one, node in before.items()} == {
        first.node_id: "answered",
        away.node_id: "no_answer",
    }
    with listening(*words, "--port", port):
        _, totals = crawl("--resume", str(path), "--output", str(path))
    after = nodes_in(path)
    assert after[first.node_id] == before[first.node_id]
    assert (after[away.node_id]["status"], after[away.node_id]["error"]) == ("answered", None)
    assert (totals["nodes"], totals["answered"], totals["kept"], totals["questions"]) == (2, 2, 1, 2)
    nodes, totals = crawl("--resume", str(path))
    assert {node["node_id"]: node for node in nodes} == after
    assert (totals["kept"], totals["questions"]) == (2, 0)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["key", "nodes"]


def test_lines_that_are_wrong_are_named(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    with listening() as first:
        crawl("--bootnode", first.enr, "--output", str(path))
        path.write_text("\x1b[2J\n" + path.read_text() + '{"event": "crawl", "nodes": 1}\n{"event": "node"}\n')
        done = run("discv5", "crawl", "--resume", str(path))
        assert done.returncode == 0
        assert [node["node_id"] for node in events(done.stdout)] == [first.node_id]
        assert f"{path}, line 1 is left out: it is no JSON" in done.stderr
        assert f"{path}, line 4 is left out: it has no 'status' of a crawl" in done.stderr
        assert "kept         1\n" in done.stderr
        lines, _ = crawl("--resume", str(path))
        assert [(line["event"], line["line"]) for line in lines if line["event"] != "node"] == [
            ("skipped", 1),
            ("skipped", 4),
        ]
    path.write_text("nothing\n")
    done = run("discv5", "crawl", "--resume", str(path), "--output", str(path), "--bootnode", first.enr)
    assert done.returncode == 2
    assert "holds no node of a crawl: line 1" in unwrapped(done.stderr)
    assert path.read_text() == "nothing\n"


def quiet_crawl(stack: ExitStack, path: Path) -> Any:
    """A crawl that goes on from a file into itself, and waits for a node that says nothing."""
    quiet = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    quiet.bind(("127.0.0.1", 0))
    quiet.settimeout(SECONDS)
    bootnode = record_at(quiet.getsockname()[1])
    words = ("--resume", str(path), "--output", str(path), "--bootnode", bootnode)
    process = stack.enter_context(any_process("crawl", *words))
    quiet.recv(2000)  # it asks
    return process


def test_an_interrupt_loses_no_node_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    with listening() as first:
        crawl("--bootnode", first.enr, "--output", str(path))
    path.chmod(0o640)
    before = path.read_text()
    (known,) = nodes_in(path).values()
    with ExitStack() as stack:
        process = quiet_crawl(stack, path)
        assert path.read_text() == before
        process.kill()
        process.communicate(timeout=SECONDS)
    assert path.read_text() == before
    with ExitStack() as stack:
        process = quiet_crawl(stack, path)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 130
    after = nodes_in(path)
    assert after.pop(known["node_id"]) == known
    assert [node["status"] for node in after.values()] == ["unasked"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_crawl_that_cannot_begin_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    with listening() as first:
        crawl("--bootnode", first.enr, "--output", str(path))
    before = path.read_text()
    words = ("--resume", str(path), "--output", str(path))
    for more, said in (
        (("--addr", "192.0.2.77"), "cannot listen on 192.0.2.77:0"),
        (("--subnet", "5"), "the nodes that do not match would be lost"),
        (("--fork-digest", FORK[:8]), "the nodes that do not match would be lost"),
    ):
        done = run("discv5", "crawl", *words, *more)
        assert done.returncode == 2
        assert said in unwrapped(done.stderr)
        assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_only_the_nodes_that_match_are_written_and_all_are_asked(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(listening())
        fork = stack.enter_context(listening("--bootnode", first.enr, "--set", f"eth2={FORK}"))
        more = ("--set", "attnets=0100000000000080")
        both = stack.enter_context(listening("--bootnode", first.enr, "--set", f"eth2={FORK}", *more))
        assert {first.next("live")["node_id"] for _ in range(2)} == {fork.node_id, both.node_id}
        for words, matching in (
            (("--fork-digest", f"0x{FORK[:8]}"), {fork.node_id, both.node_id}),
            (("--subnet", "5", "--subnet", "63"), {both.node_id}),
            (("--subnet", "1"), set()),
            (("--subnet", "0", "--fork-digest", "01020304"), set()),
        ):
            nodes, totals = crawl("--bootnode", first.enr, *words)
            assert {node["node_id"] for node in nodes} == matching
            assert (totals["nodes"], totals["answered"], totals["matching"]) == (3, 3, len(matching))
            assert totals["fork_digests"] == {"6a95a1a9": 2, "-": 1}
        done = run("discv5", "crawl", "--bootnode", first.enr, "--subnet", "0")
        assert "matching     1\n" in done.stderr


def test_nodes_that_answered_are_identified(tmp_path: Path) -> None:
    key, path = key_file(tmp_path / "key"), tmp_path / "nodes"
    with ExitStack() as stack:
        switch = stack.enter_context(any_listening("--key", key, "--agent", "evil\x1b/1.0"))
        tcp = switch.address.split("/")[4]
        how = {"how": ("discv5", "listen")}
        first = stack.enter_context(any_listening("--key", key, "--tcp", tcp, **how)).first
        boot = ("--bootnode", first["enr"])
        with socket.create_server(("127.0.0.1", 0)) as held:
            nobody = str(held.getsockname()[1])
        gone = stack.enter_context(any_listening(*boot, "--tcp", nobody, **how)).first
        other = stack.enter_context(any_listening(*boot, "--tcp", tcp, **how)).first  # somebody else is there
        none = stack.enter_context(any_listening(*boot, **how)).first
        enrs = [word for node in (first, gone, other, none) for word in ("--bootnode", node["enr"])]
        _, totals = crawl(*enrs, "--identify", "--output", str(path))
        assert (totals["answered"], totals["identified"], totals["agents"]) == (4, 1, {"evil\x1b": 1})
        nodes = nodes_in(path)
        known = nodes[first["node_id"]]
        assert (known["agent"], known["identify_error"]) == ("evil\x1b/1.0", None)
        assert "/ipfs/ping/1.0.0" in known["protocols"]
        for node, said in ((gone, "connection refused"), (other, "somebody else answered")):
            line = nodes[node["node_id"]]
            assert (line["status"], line["agent"], line["protocols"]) == ("answered", None, None)
            assert said in line["identify_error"]
        line = nodes[none["node_id"]]
        assert (line["agent"], line["protocols"], line["identify_error"]) == (None, None, None)
        switch.process.kill()
        switch.process.wait(SECONDS)
        _, totals = crawl("--resume", str(path), "--identify", "--output", str(path))
        assert (totals["questions"], totals["kept"], totals["identified"]) == (0, 1, 1)
        assert nodes_in(path)[first["node_id"]] == known
        assert "connection refused" in nodes_in(path)[other["node_id"]]["identify_error"]
        done = run("discv5", "crawl", "--resume", str(path))
        assert "identified" not in done.stderr
        assert "evil\\x1b" in done.stderr and "\x1b" not in done.stderr


def test_a_node_that_hangs_is_identified_no_longer_than_the_crawl_lasts() -> None:
    with hostile(silent) as port, any_listening("--tcp", str(port), how=("discv5", "listen")) as node:
        nodes, totals = crawl("--bootnode", node.first["enr"], "--identify", "--time", "1")
    assert [(line["status"], line["identify_error"]) for line in nodes] == [("answered", "the time was over")]
    assert totals["identified"] == 0


def test_nodes_that_do_not_match_are_not_dialled() -> None:
    """Its port is held by somebody who would notice."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = str(held.getsockname()[1])
        with any_listening("--tcp", port, how=("discv5", "listen")) as node:
            _, totals = crawl("--bootnode", node.first["enr"], "--identify", "--subnet", "5")
        assert (totals["answered"], totals["matching"]) == (1, 0)
        held.setblocking(False)
        with pytest.raises(BlockingIOError):
            held.accept()


def test_a_file_of_the_user_may_name_a_record_that_has_changed(tmp_path: Path) -> None:
    """The bootnode of the command line counts for more than what an earlier crawl knew of a node without an answer."""
    path, key = tmp_path / "nodes", tmp_path / "key"
    who = new_identity()
    key_file(key, who)
    line = {"schema": 1, "event": "node", "status": "no_endpoint", "enr": Enr.sign(who, 1, {}).text}
    path.write_text(json.dumps(line) + "\n")
    with listening("--key", str(key)) as node:
        nodes, _ = crawl("--resume", str(path), "--bootnode", node.enr)
    assert [(found["status"], found["enr"]) for found in nodes] == [("answered", node.enr)]
