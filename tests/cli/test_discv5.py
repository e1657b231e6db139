"""`discv5 ping`, `findnode`, `lookup`, `talk`, `listen` and `crawl` between processes on loopback."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyp2p.discv5.enr import Enr
from pyp2p.peer.keys import Identity, KeyType
from tests.cli.support import SECONDS, command, events, run, unwrapped
from tests.cli.support import listening as any_listening

pytestmark = pytest.mark.slow


class Node:
    """`discv5 listen --json` and what its first line said."""

    def __init__(self, process: Any, first: dict[str, Any]) -> None:
        self.process = process
        self.first = first
        self.enr: str = first["enr"]
        self.node_id: str = first["node_id"]

    def next(self, *names: str) -> dict[str, Any]:
        """The next event of one of these names."""
        while True:
            line = json.loads(self.process.stdout.readline())
            if line["event"] in names:
                return line

    def close_stdin(self) -> list[dict[str, Any]]:
        out, err = self.process.communicate(timeout=SECONDS)
        assert not err
        return events(out)


@contextmanager
def listening(*words: str, **more: Any) -> Iterator[Node]:
    how = ("discv5", "listen")
    with any_listening(*words, "--tcp", "1", how=how, **more) as started:
        yield Node(started.process, started.first)


@pytest.fixture
def dead() -> Iterator[str]:
    """The record of a node whose port nobody answers at."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        yield record_at(held.getsockname()[1])


def record_at(port: int, **pairs: Any) -> str:
    who = Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    return Enr.sign(who, 1, {"ip": bytes([127, 0, 0, 1]), "udp": port, **pairs}).text


def test_the_first_line_of_a_listener_says_who_and_where_it_is() -> None:
    with listening("--set", "eth2=6a95a1a967855d67ffffffffffffffff") as node:
        record = Enr.from_text(node.enr)
        assert node.first["event"] == "listening"
        assert node.first["node_id"] == record.node_id.hex()
        assert node.first["udp"] == record.udp
        assert node.first["listening"] == [f"127.0.0.1:{record.udp}"]
        assert node.first["eth2"]["fork_digest"] == "6a95a1a9"
        assert node.close_stdin() == []
    assert node.process.returncode == 0


def test_pings_are_answered_and_told_on_the_other_side() -> None:
    with listening() as node:
        done = run("discv5", "ping", node.enr, "--count", "3", "--interval", "0", "--json")
        assert done.returncode == 0, done.stderr
        *trips, totals = events(done.stdout)
        assert [trip["seq"] for trip in trips] == [1, 2, 3]
        assert all(trip["us"] > 0 and not trip["lost"] for trip in trips)
        assert {trip["enr_seq"] for trip in trips} == {node.first["seq"]}
        assert len({trip["observed"] for trip in trips}) == 1
        assert (totals["event"], totals["node_id"], totals["count"], totals["lost"]) == ("ping", node.node_id, 3, 0)
        session = node.next("session")
        assert session["endpoint"] == trips[0]["observed"]


def test_who_only_asks_is_in_no_table() -> None:
    with listening() as node:
        assert run("discv5", "ping", node.enr, "--count", "1").returncode == 0
        done = run("discv5", "findnode", node.enr, *(f"--distance={at}" for at in range(240, 257)), "--json")
        (totals,) = events(done.stdout)
        assert (done.returncode, totals["event"], totals["found"]) == (0, "findnode", 0)
        assert [line["event"] for line in node.close_stdin()] == ["session", "session"]


def test_findnode_asks_at_the_distances_and_zero_is_the_node_itself() -> None:
    with listening() as one, listening("--bootnode", one.enr) as other:
        assert one.next("live")["node_id"] == other.node_id
        between = (int(one.node_id, 16) ^ int(other.node_id, 16)).bit_length()
        done = run("discv5", "findnode", one.enr, "--distance", str(between), "--distance", "0", "--json")
        *nodes, totals = events(done.stdout)
        assert {(node["node_id"], node["distance"]) for node in nodes} == {(one.node_id, 0), (other.node_id, between)}
        assert totals["distances"] == [between, 0]


def test_a_lookup_finds_a_node_over_another(dead: str) -> None:
    with listening() as one, listening("--bootnode", one.enr) as other:
        assert one.next("live")["node_id"] == other.node_id
        for target in (other.node_id, f"0x{other.node_id}", other.enr):
            done = run("discv5", "lookup", target, "--bootnode", one.enr, "--json")
            assert done.returncode == 0, done.stderr
            *nodes, totals = events(done.stdout)
            assert [node["node_id"] for node in nodes] == [other.node_id, one.node_id]
            assert nodes[0]["distance"] == 0
            assert (totals["event"], totals["target"], totals["found"]) == ("lookup", other.node_id, 2)
        done = run("discv5", "lookup", other.node_id, "--bootnode", dead, "--bootnode", one.enr)
        assert done.returncode == 0
        assert other.enr in done.stdout
        assert done.stdout.splitlines()[-1].startswith("2 nodes near ")
        done = run("discv5", "lookup", "--bootnode", one.enr, "--json")  # of a random id: who is found is chance
        *nodes, totals = events(done.stdout)
        assert one.node_id in {node["node_id"] for node in nodes}
        assert len(totals["target"]) == 64


def test_talk_reaches_the_echo_and_an_unknown_protocol_is_told() -> None:
    with listening() as node:
        done = run("discv5", "talk", node.enr, "echo", "--data", "evil\x1b[2J", "--json")
        (told,) = events(done.stdout)
        assert (told["event"], bytes.fromhex(told["data"]), told["size"]) == ("talk", b"evil\x1b[2J", 8)
        done = run("discv5", "talk", node.enr, "echo", "--hex", "0xff1b")
        assert done.stdout.startswith("\\xff\\x1b\n")
        done = run("discv5", "talk", node.enr, "nosuch", "--data", "x")
        assert done.returncode == 15
        assert "does not serve nosuch" in unwrapped(done.stderr)
        done = run("discv5", "talk", node.enr, "echo", "--data", "")
        assert done.returncode == 15
        assert "answered with nothing: it does not serve echo, or has nothing to say" in unwrapped(done.stderr)
        done = run("discv5", "talk", node.enr, "echo", "--data", "x" * 3000)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_a_trace_shows_each_packet(dead: str) -> None:
    with listening() as node:
        done = run("discv5", "talk", node.enr, "echo", "--data", "hi", "--trace", "--json")
        *packets, answer = events(done.stdout)
        assert answer["event"] == "talk" and {each["event"] for each in packets} == {"packet"}
        told = [(each["way"], each["form"], each["message"]) for each in packets]
        assert told[:3] == [
            ("sent", "ordinary", None),
            ("received", "whoareyou", None),
            ("sent", "handshake", "TALKREQ"),
        ]
        assert ("received", "ordinary", "TALKRESP") in told[3:]
        assert packets[1]["size"] == 63 and packets[0]["at_ms"] == 0.0
        assert {each["endpoint"] for each in packets} == set(node.first["listening"])
        shown = run("discv5", "ping", node.enr, "--count", "1", "--trace")
        assert "whoareyou    63 B" in shown.stdout and shown.stdout.index("PONG") < shown.stdout.index("1 ping")
    done = run("discv5", "ping", dead, "--count", "1", "--trace")
    assert done.returncode == 11 and done.stdout.count("random content") == 3


def test_nobody_answers(dead: str) -> None:
    """Side by side, since each takes the time of all attempts."""
    commands = {
        ("ping", dead, "--count", "1"): (11, "gave no answer to 3 packets"),
        ("findnode", dead): (11, "gave no answer to 3 packets"),
        ("talk", dead, "echo", "--data", "x"): (11, "gave no answer to 3 packets"),
        ("lookup", "--bootnode", dead): (11, "none of 1 bootnodes answered"),
        ("crawl", "--bootnode", dead): (11, "no answer from the bootnode"),
        ("ping", dead, "--timeout", "0.01"): (16, "not done within 0.01 s"),
        ("crawl", "--bootnode", dead, "--time", "0.01"): (16, "no answer from the bootnode within 0.01 s"),
    }
    with ExitStack() as stack:
        started = {
            words: stack.enter_context(any_process(*words))
            for words in commands  # all of them before the first is waited for
        }
        for words, (code, said) in commands.items():
            out, err = started[words].communicate(timeout=SECONDS)
            error = events(out)[-1]
            assert (started[words].returncode, error["code"], err) == (code, code, "")
            assert said in error["reason"]


@contextmanager
def any_process(*words: str) -> Iterator[Any]:
    with subprocess.Popen(
        command("discv5", *words, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_crawl_finds_everybody(tmp_path: Path, dead: str) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(listening("--set", "eth2=6a95a1a967855d67ffffffffffffffff"))
        others = [stack.enter_context(listening("--bootnode", first.enr)) for _ in range(4)]
        met = {first.next("live")["node_id"] for _ in others}
        assert met == {node.node_id for node in others}
        path = tmp_path / "nodes"
        done = run("discv5", "crawl", "--bootnode", first.enr, "--bootnode", dead, "--output", str(path), "--json")
        assert done.returncode == 0, done.stderr
        (totals,) = events(done.stdout)
        nodes = {node["node_id"]: node for node in events(path.read_text())}
        assert {one for one, node in nodes.items() if node["status"] == "answered"} == {first.node_id, *met}
        assert nodes[first.node_id]["told_by"] is None
        assert {nodes[one]["told_by"] for one in met} <= {first.node_id, *met}
        assert nodes[first.node_id]["neighbours"] >= 1
        assert (totals["event"], totals["nodes"], totals["answered"], totals["no_answer"]) == ("crawl", 6, 5, 1)
        assert totals["fork_digests"] == {"-": 4, "6a95a1a9": 1}
        assert totals["clients"] == {"-": 5}
        assert all(Enr.from_text(node["enr"]).node_id.hex() == one for one, node in nodes.items())
        assert {node["walked"] for node in nodes.values() if node["status"] == "answered"} == {True}
        assert (totals["matching"], totals["kept"], totals["identified"], totals["agents"]) == (6, 0, 0, {})


def test_a_crawl_keeps_to_its_time_and_rate_and_tells_of_those_not_asked() -> None:
    """At this rate the second question comes long after the end."""
    with listening() as node:
        done = run("discv5", "crawl", "--bootnode", node.enr, "--time", "1", "--rate", "0.001", "--json")
        *nodes, totals = events(done.stdout)
        assert done.returncode == 0, done.stderr
        assert [each["status"] for each in nodes] == ["answered"]
        assert (totals["questions"], totals["answered"]) == (1, 1)


def test_a_crawl_for_people_keeps_standard_output_for_the_nodes() -> None:
    with listening() as node:
        done = run("discv5", "crawl", "--bootnode", node.enr, "--time", "20")
        assert done.returncode == 0
        (line,) = events(done.stdout)
        assert line["node_id"] == node.node_id
        assert "answered     1\n" in done.stderr
        assert "fork digest of who answered  nodes" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file here that is always full")
def test_a_disk_that_is_full_ends_a_crawl() -> None:
    with listening() as node:
        done = run("discv5", "crawl", "--bootnode", node.enr, "--output", "/dev/full")
    assert done.returncode == 2
    assert "cannot write /dev/full: No space left on device" in unwrapped(done.stderr)
    assert "Traceback" not in done.stderr


def test_on_every_interface_a_record_names_no_address() -> None:
    with listening("--addr", "0.0.0.0", "--addr", "::") as node:
        assert node.first["ip"] is None
        assert [place.rsplit(":", 1)[0] for place in node.first["listening"]] == ["0.0.0.0", "[::]"]
        assert node.first["udp"] == int(node.first["listening"][0].split(":")[1])


def test_a_listener_has_its_record_and_its_nodes_back(tmp_path: Path) -> None:
    words = ("--key", str(tmp_path / "key"), "--state", str(tmp_path / "state"))
    with listening() as other:
        with listening(*words, "--bootnode", other.enr) as node:
            assert node.next("live")["node_id"] == other.node_id
            before = node.first
            port = str(before["udp"])
            node.process.send_signal(signal.SIGTERM)
            node.process.communicate(timeout=SECONDS)
            assert node.process.returncode == 0
        with listening(*words, "--port", port) as node:
            assert node.first["enr"] == before["enr"]
            assert node.next("live")["node_id"] == other.node_id


def test_an_interrupt_ends_them() -> None:
    with listening() as node:
        node.process.send_signal(signal.SIGINT)
        out, err = node.process.communicate(timeout=SECONDS)
        assert (node.process.returncode, out, err) == (130, "", "")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as quiet:
        quiet.bind(("127.0.0.1", 0))
        quiet.settimeout(SECONDS)
        with any_process("crawl", "--bootnode", record_at(quiet.getsockname()[1])) as crawl:
            quiet.recv(2000)  # it asks
            crawl.send_signal(signal.SIGINT)
            out, err = crawl.communicate(timeout=SECONDS)
    node_line, totals = events(out)
    assert (crawl.returncode, err) == (130, "")
    assert (node_line["status"], totals["unasked"]) == ("unasked", 1)


def test_an_address_of_our_own_goes_with_its_port() -> None:
    with listening("--ip", "192.0.2.1", "--udp", "9000") as node:
        record = Enr.from_text(node.enr)
        assert (str(record.ip), record.udp) == ("192.0.2.1", 9000)
        assert node.first["udp"] == int(node.first["listening"][0].split(":")[1])
    done = run("discv5", "listen", "--ip", "192.0.2.1")
    assert done.returncode == 2
    assert "--ip and --udp go together" in unwrapped(done.stderr)


@pytest.mark.parametrize("what", ["identify", "ping", "dial", "perf"])
def test_a_record_is_a_target(what: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    who = Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    key.write_bytes(who.to_protobuf())
    more = {"ping": ("--count", "1"), "perf": ("--upload", "1kB")}.get(what, ())
    with any_listening("--key", str(key), "--perf") as node:
        port = int(node.address.split("/")[4])
        loopback = {"ip": bytes([127, 0, 0, 1]), "tcp": port, "quic": 1}
        record = Enr.sign(who, 1, loopback).text
        done = run(what, record, *more, "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        assert events(done.stdout)[-1]["peer_id"] == str(who.peer)
        elsewhere = Enr.sign(who, 1, {**loopback, "ip6": b"\0" * 15 + b"\1", "tcp6": 1}).text
        assert run(what, elsewhere, *more).returncode == 0
        done = run(what, record_at(1, tcp=port), *more, "--json")
        assert done.returncode == 13
    done = run(what, record_at(1), *more)
    assert done.returncode == 2
    assert "no TCP or QUIC port" in unwrapped(done.stderr)


def test_a_peer_of_gossip_may_be_a_record() -> None:
    done = run("gossip", "pub", "t", "--data", "x", "--peer", record_at(1, tcp=1))
    assert done.returncode == 11
    assert "connection refused" in unwrapped(done.stderr)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ping", "enr:-nonsense"), "not a node record"),
        (("ping", "127.0.0.1:9000"), "does not begin with 'enr:'"),
        (("ping", "NOWHERE"), "no address with a UDP port"),
        (("lookup",), "--bootnode is missing"),
        (("crawl",), "--bootnode is missing"),
        (("crawl", "--bootnode", "NOWHERE"), "no address with a UDP port"),
        (("crawl", "--bootnode", "SOMEWHERE", "--output", "/nonexistent/x"), "No such file"),
        (("crawl", "--bootnode", "SOMEWHERE", "--rate", "0"), "number"),
        (("crawl", "--resume", "/nonexistent/x"), "--resume: cannot read /nonexistent/x: No such file"),
        (("crawl", "--resume", "/dev/null"), "nobody to ask: --bootnode is missing, and /dev/null holds no node"),
        (("crawl", "--bootnode", "SOMEWHERE", "--resume", "."), "Is a directory"),
        (("crawl", "--bootnode", "SOMEWHERE", "--fork-digest", "6a95a1"), "4 bytes in hex"),
        (("crawl", "--bootnode", "SOMEWHERE", "--subnet", "64"), "from 0 to 63"),
        (("lookup", "abc", "--bootnode", "SOMEWHERE"), "neither a node id"),
        (("findnode", "SOMEWHERE", "--distance", "257"), "from 0 to 256"),
        (("talk", "SOMEWHERE", "echo"), "nothing to ask"),
        (("talk", "SOMEWHERE", "echo", "--data", "x", "--hex", "00"), "exclude each other"),
        (("talk", "SOMEWHERE", "echo", "--hex", "0"), "hex"),
        (("listen", "--addr", "/ip4/127.0.0.1/tcp/1"), "not an IP address"),
        (
            ("listen", "--addr", "127.0.0.1", "--addr", "127.0.0.2"),
            "--addr 127.0.0.2: one address of an IP version, and another of IPv4 is given",
        ),
        (("listen", "--addr", "::ffff:127.0.0.1"), "--addr ::ffff:127.0.0.1: an IPv4 address written as IPv6"),
        (("listen", "--addr", "192.0.2.77"), "cannot listen on 192.0.2.77:0"),
        (("listen", "--state", "."), "--state .: a directory, not a regular file. Give a file of this node's own"),
        (("listen", "--state", "FIFO"), "FIFO: not a regular file"),
        (("listen", "--state", ""), "--state: the name of the file is empty"),
        (("listen", "--state", "/nonexistent/state"), "no such directory"),
        (("listen", "--set", "eth2=00"), "16 bytes"),
        (("listen", "--bootnode", "x"), "not a node record"),
        (("listen", "--bootnode", "NOWHERE"), "no address with a UDP port"),
        (("listen", "--bootnode", "V6"), "names no address to use: it is at [::1]:1, and we have no socket of IPv6"),
        (("listen", "--bootnode", "OWN", "--key", "KEY"), "is that of --key, our own"),
        (("lookup", "--bootnode", "V6", "--addr", "127.0.0.1"), "names no address to use: it is at [::1]:1"),
        (("lookup", "--bootnode", "OWN", "--key", "KEY"), "is that of --key, our own"),
        (("lookup", "--bootnode", "OWN", "--key", "KEY", "--bootnode", "V6", "--addr", "127.0.0.1"), "our own; --boot"),
        (("ping", "SOMEWHERE", "--addr", "::1"), "no UDP address that we can send to"),
    ],
)
def test_what_cannot_work_is_told(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    who = Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    other = Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    (tmp_path / "key").write_bytes(who.to_protobuf())
    os.mkfifo(tmp_path / "FIFO")
    stands_for = {
        "NOWHERE": Enr.sign(who, 1, {}).text,
        "SOMEWHERE": record_at(1),
        "V6": Enr.sign(other, 1, {"ip6": b"\0" * 15 + b"\1", "udp6": 1}).text,
        "OWN": Enr.sign(who, 1, {"ip": bytes([127, 0, 0, 1]), "udp": 1}).text,
        "KEY": str(tmp_path / "key"),
        "FIFO": str(tmp_path / "FIFO"),
    }
    done = run("discv5", *(stands_for.get(word, word) for word in words))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in unwrapped(done.stderr)
    assert "Traceback" not in done.stderr
    assert "NAT" not in done.stderr and ("--state" not in words or "--port" not in done.stderr)


def test_bootnodes_that_cannot_be_asked_are_left_out_and_told(tmp_path: Path) -> None:
    """So that all nodes of a network may be given the same list."""
    who = Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    (tmp_path / "key").write_bytes(who.to_protobuf())
    own = Enr.sign(who, 1, {"ip": bytes([127, 0, 0, 1]), "udp": 1}).text
    with listening() as node:
        words = ("lookup", "--bootnode", own, "--bootnode", node.enr, "--key", str(tmp_path / "key"), "--json")
        done = run("discv5", *words)
        assert done.returncode == 0
        assert [line["node_id"] for line in events(done.stdout)[:-1]] == [node.node_id]
        assert "our own; left out" in unwrapped(done.stderr)
