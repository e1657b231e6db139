"""`gossip sub` and `gossip pub` between processes on loopback."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.support import SECONDS, Listening, command, events, listening, run

pytestmark = pytest.mark.slow

SUB = ("gossip", "sub")


def told(node: Listening) -> list[dict]:
    """What a subscriber printed until it ended by itself."""
    assert node.process.stdout is not None
    out = node.process.stdout.read()  # its standard input stays open meanwhile
    assert node.process.wait(SECONDS) == 0
    return events(out)


def test_lines_of_standard_input_arrive_in_order_and_both_end_with_totals() -> None:
    with listening("news", "--count", "3", how=SUB) as node:
        assert node.first["event"] == "node"
        assert node.first["topic"] == "news"
        done = run(
            "gossip", "pub", "news", "--peer", node.address, "--json", stdin=None, input="one\ntwo\r\nthr\u00e9e"
        )
        assert done.returncode == 0, done.stderr
        lines = told(node)
    ours = events(done.stdout)
    assert [line["event"] for line in ours] == ["node", "connected", *["published"] * 3, "totals"]
    assert all(line["taken"] == [node.peer_id] and not line["expired"] for line in ours[2:5])
    assert [bytes.fromhex(line["data"]).decode() for line in lines[:3]] == ["one", "two", "thr\u00e9e"]
    assert [line["id"] for line in lines[:3]] == [line["id"] for line in ours[2:5]]
    assert all(line["from"] == ours[0]["peer_id"] and line["topic"] == "news" for line in lines[:3])
    assert [line["size"] for line in lines[:3]] == [3, 3, 6]
    for totals in (lines[3], ours[5]):
        assert (totals["event"], totals["messages"], totals["bytes"], totals["missed"]) == ("totals", 3, 12, 0)


def test_random_messages_of_a_size_and_the_eth2_way() -> None:
    with listening("news", "--eth2", "--count", "4", how=SUB) as node:
        done = run("gossip", "pub", "news", "--peer", node.address, "--eth2", "--size", "3kB", "--count", "4",
                   "--rate", "1000", "--json")  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = told(node)
    messages = lines[:4]
    assert {line["size"] for line in messages} == {3_000}
    assert len({line["data"] for line in messages}) == 4
    assert all(len(line["id"]) == 40 for line in messages)  # the eth2 ids of 20 bytes
    assert all(line["from"] is None and line["received_from"] == events(done.stdout)[0]["peer_id"] for line in messages)


def test_who_does_not_read_what_a_subscriber_prints_holds_up_nobody_else() -> None:
    """The pipe to its reader is full; it forwards all the same, and its reader gets everything in the end."""
    count = 300
    with (
        listening("news", "--count", str(count), how=SUB) as middle,
        listening("news", "--count", str(count), "--peer", middle.address, how=SUB) as last,
    ):
        done = run("gossip", "pub", "news", "--peer", middle.address, "--size", "1kB", "--count", str(count), "--json")
        assert done.returncode == 0, done.stderr
        for node in (last, middle):
            lines = told(node)
            assert sum(line["event"] == "message" for line in lines) == count
            assert lines[-1]["missed"] == 0


@pytest.mark.parametrize(("count", "words"), [(1, ()), (3, ("--count", "3"))])
def test_standard_input_that_is_at_its_end_does_not_keep_data_from_being_published(
    count: int, words: tuple[str, ...]
) -> None:
    with listening("news", "--count", str(count), how=SUB) as node:
        done = run("gossip", "pub", "news", "--peer", node.address, "--data", "x", *words, stdin=None, input="")
        assert done.returncode == 0, done.stderr
        assert [line["event"] for line in told(node)] == [*["message"] * count, "totals"]


def test_one_message_leaves_standard_input_to_others() -> None:
    with listening("news", "--count", "1", how=SUB) as node:
        pub = " ".join(command("gossip", "pub", "news", "--peer", node.address, "--data", "x"))
        done = subprocess.run(f"{pub} >&2; cat", shell=True, input="rest", capture_output=True, text=True, check=False)
        told(node)
    assert done.stdout == "rest"


def test_the_end_of_standard_input_ends_an_unfinished_publisher() -> None:
    with (
        listening("news", how=SUB) as node,
        listening(
            "news", "--peer", node.address, "--size", "9", "--count", "99", "--rate", "0.1", how=("gossip", "pub")
        ) as publisher,
    ):
        lines = events(publisher.close_stdin())
        assert publisher.process.returncode == 0
        assert lines[-1]["event"] == "totals"
        assert lines[-1]["messages"] <= 1


@pytest.mark.parametrize(("theirs", "ours"), [((), ("--eth2",)), (("--eth2",), ())])
def test_messages_that_are_signed_in_another_way_are_told(theirs: tuple[str, ...], ours: tuple[str, ...]) -> None:
    with listening("news", *ours, how=SUB) as node:
        done = run("gossip", "pub", "news", "--peer", node.address, "--data", "x", *theirs)
        assert done.returncode == 0, done.stderr
        out, err = node.process.communicate(timeout=SECONDS)
    assert events(out)[-1]["refused"] == 1
    assert "refused: a wrong signature, or one side is --eth2 and the other is not" in err


def test_a_line_that_is_too_long_is_named_by_its_number() -> None:
    with listening("news", "--count", "1", how=SUB) as node:
        text = "one\n" + "x" * (5 << 20) + "\nthree\n"
        done = run("gossip", "pub", "news", "--peer", node.address, "--json", stdin=None, input=text)
        told(node)
    *_, totals, error = events(done.stdout)
    assert done.returncode == 15
    assert totals["messages"] == 1
    assert "line 2 of standard input" in error["reason"]
    assert "4194304" in error["reason"]


def test_the_same_eth2_message_is_told_not_sent_twice() -> None:
    with listening("news", "--eth2", how=SUB) as node:  # it stays: a publisher to whom nobody listens waits
        done = run("gossip", "pub", "news", "--peer", node.address, "--eth2", "--data", "x", "--count", "2", "--json")
        assert [line["event"] for line in events(node.close_stdin())] == ["message", "totals"]
    assert done.returncode == 0
    lines = events(done.stdout)
    assert [line["event"] for line in lines] == ["node", "connected", "published", "totals"]
    assert lines[-1]["refused"] == 1
    assert "published before" in done.stderr


def test_a_message_travels_over_a_node_between() -> None:
    with (
        listening("news", how=SUB) as middle,
        listening("news", "--count", "1", "--peer", middle.address, how=SUB) as last,
    ):
        done = run("gossip", "pub", "news", "--peer", middle.address, "--data", "hello", "--json")
        assert done.returncode == 0, done.stderr
        lines = told(last)
        assert [line["event"] for line in lines] == ["connected", "message", "totals"]
        assert middle.close_stdin()


def test_text_for_people_is_escaped() -> None:
    with listening("news", "--count", "1", how=SUB) as node:
        done = run("gossip", "pub", "news", "--peer", node.address, "--data", "evil\x1b[2J\u202e")
        assert "published  11 B to 1 peer\n" in done.stdout
        told(node)
    with subprocess.Popen(
        command("gossip", "sub", "news", "--port", "0", "--count", "1"), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        address = process.stdout.readline().split()[-1]
        run("gossip", "pub", "news", "--peer", address, "--data", "evil\x1b[2J\u202e")
        out = process.stdout.read()
    assert "evil\\x1b[2J\\u202e" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("pub", "", "--data", "x"), 2, "a topic of 0 bytes"),
        (("sub", "t" * 2000), 2, "a topic of 2000 bytes"),
        (("pub", "t", "--data", "x", "--size", "3"), 2, "exclude each other"),
        (("pub", "t", "--data", "x", "--timeout", "0.05"), 15, "nobody listened to t within 0.05 s"),
        (("pub", "t", "--data", "x", "--peer", "127.0.0.1:1"), 11, "connection refused"),
        (("sub", "t", "--peer", "nonsense"), 2, "TARGET"),
        (("sub", "t", "--count", "0"), 2, "whole number"),
        (("sub", "t", "--addr", "/ip4/127.0.0.1/tcp/1", "--port", "3"), 2, "exclude each other"),
    ],
)
def test_what_cannot_work_is_told(words: tuple[str, ...], code: int, said: str) -> None:
    done = run("gossip", *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_message_over_the_limit_names_it() -> None:
    with listening("news", how=SUB) as node:
        done = run("gossip", "pub", "news", "--peer", node.address, "--size", "5MiB")
    assert done.returncode == 2
    assert "4194304" in done.stderr


def test_one_peer_of_several_is_enough() -> None:
    with listening("news", "--count", "1", how=SUB) as node:
        done = run("gossip", "pub", "news", "--peer", "127.0.0.1:1", "--peer", node.address, "--data", "x")
        told(node)
    assert done.returncode == 0
    assert done.stderr.startswith("not reached: /ip4/127.0.0.1/tcp/1: ")


def test_a_peer_that_goes_and_comes_back_is_found_again(tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    with (
        listening("news", "--key", key, how=SUB) as peer,
        listening("news", "--count", "1", "--peer", peer.address, how=SUB) as node,
    ):
        assert node.process.stdout is not None
        lines = [json.loads(node.process.stdout.readline())]
        port = peer.address.split("/")[4]
        peer.close_stdin()
        with listening("news", "--key", key, "--port", port, how=SUB) as again:
            lines += [json.loads(node.process.stdout.readline()) for _ in range(2)]
            done = run("gossip", "pub", "news", "--peer", again.address, "--data", "x")
            assert done.returncode == 0, done.stderr
            assert [line["event"] for line in told(node)] == ["message", "totals"]
    assert [line["event"] for line in lines] == ["connected", "disconnected", "connected"]
    assert {line["peer_id"] for line in lines} == {peer.peer_id}


def test_a_publisher_waits_while_nobody_listens(tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    with (
        listening("news", "--key", key, "--count", "1", how=SUB) as first,
        listening("news", "--peer", first.address, how=("gossip", "pub")) as publisher,
    ):
        assert publisher.process.stdin is not None
        publisher.process.stdin.write("one\n")
        publisher.process.stdin.flush()
        told(first)
        publisher.process.stdin.write("two\n")
        publisher.process.stdin.flush()
        port = first.address.split("/")[4]
        with listening("news", "--key", key, "--count", "1", "--port", port, how=SUB) as second:
            lines = told(second)
            assert bytes.fromhex(lines[0]["data"]) == b"two"
            ours = events(publisher.close_stdin())
    assert ours[-1]["messages"] == 2
    assert publisher.process.returncode == 0


def test_of_several_peers_that_are_not_reached_each_is_told() -> None:
    done = run("gossip", "sub", "news", "--peer", "127.0.0.1:1", "--peer", "127.0.0.1:2", "--json")
    assert done.returncode == 11
    lines = events(done.stdout)
    assert [line["event"] for line in lines] == ["node", "not_reached", "totals", "error"]
    told_of = {line["target"] for line in lines if "target" in line} | {a["address"] for a in lines[-1]["attempts"]}
    assert told_of == {"/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"}


def test_an_interrupt_ends_with_totals() -> None:
    with listening("news", how=SUB) as node:
        node.process.send_signal(signal.SIGINT)
        out, err = node.process.communicate(timeout=SECONDS)
    assert node.process.returncode == 130
    assert events(out)[-1]["event"] == "totals"
    assert not err


def test_the_end_of_standard_input_ends_a_subscriber() -> None:
    with listening("news", how=SUB) as node:
        (totals,) = events(node.close_stdin())
    assert node.process.returncode == 0
    assert totals["messages"] == 0
