"""`pyp2p req`: one request to a node, its answer, and the four ways in which there is none."""

import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from pyp2p.beacon.blocks import block_slot
from pyp2p.beacon.chainfile import chain_text
from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.devchain import dev_chain, genesis_block, make_block, read_block
from pyp2p.beacon.folder import BlockFolder
from pyp2p.beacon.methods import ForkBytes
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.errors import Decline
from pyp2p.switch.stream import Carrier, MuxedStream
from tests.cli.support import Listening, events, hostile, listening, run, silent

pytestmark = pytest.mark.slow

CHAIN = dev_chain(int(time.time()) - 100, epochs_per_fork=1)
LAST = 47  # of the epoch in which fulu begins


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """A node that has some blocks, and makes no more of them."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "chain.toml").write_text(chain_text(CHAIN))
    blocks, parent = BlockFolder(folder / "blocks"), genesis_block(CHAIN).root
    for slot in range(1, LAST + 1):
        block = make_block(CHAIN, slot, parent)
        blocks.add(slot, block.root, block.ssz)
        parent = block.root
    words = ("--chain", str(folder / "chain.toml"), "--blocks", str(folder / "blocks"))
    with listening(*words, how=("node",)) as found:
        found.first["file"] = str(folder / "chain.toml")
        yield found


def req(node: Listening, method: str, *words: str, code: int = 0) -> list[dict[str, Any]]:
    done = run("req", method, node.address, "--chain", node.first["file"], "--json", *words)
    assert done.returncode == code, (done.stdout, done.stderr)
    return events(done.stdout)


def test_status_tells_what_the_node_takes_for_the_chain(node: Listening) -> None:
    chunk, answer = req(node, "status")
    assert (chunk["head_slot"], chunk["earliest_available_slot"]) == (LAST, 0)
    assert (chunk["fork_digest"], chunk["fork"]) == (node.first["fork_digest"], node.first["fork"])
    assert (answer["method"], answer["version"], answer["chunks"], answer["bytes"]) == ("status", 2, 1, 92)
    assert answer["peer_id"] == node.peer_id
    old, answer = req(node, "status/1")
    assert "earliest_available_slot" not in old
    assert answer["version"] == 1


def test_ping_metadata_and_goodbye(node: Listening) -> None:
    ping, answer = req(node, "ping")
    assert (ping["seq_number"], answer["bytes"]) == (0, 8)
    metadata, answer = req(node, "metadata")
    assert len(metadata["attnets"]) == 2
    assert metadata["custody_group_count"] == 4
    assert answer["version"] == 3
    (answer,) = req(node, "goodbye", "--code", "129")
    assert answer["chunks"] == 0


def test_blocks_by_range_end_with_the_head_and_are_written_as_they_came(node: Listening, tmp_path: Path) -> None:
    *chunks, answer = req(node, "beacon_blocks_by_range", "--count", "3", "--output", str(tmp_path / "out"))
    assert [chunk["slot"] for chunk in chunks] == [LAST - 2, LAST - 1, LAST]
    assert {chunk["fork"] for chunk in chunks} == {CHAIN.at_slot(LAST).fork}
    assert (answer["chunks"], answer["bytes"]) == (3, sum(chunk["size"] for chunk in chunks))
    raw = [Path(chunk["file"]).read_bytes() for chunk in chunks]
    assert [block_slot(each) for each in raw] == [LAST - 2, LAST - 1, LAST]
    assert [read_block(CHAIN, each).root.hex() for each in raw[:2]] == [chunk["parent_root"] for chunk in chunks[1:]]
    *chunks, _ = req(node, "beacon_blocks_by_range", "--start", "6", "--count", "4")
    assert [(chunk["slot"], chunk["fork"]) for chunk in chunks] == [
        *((6, "altair"), (7, "altair"), (8, "bellatrix"), (9, "bellatrix"))
    ]


def test_blocks_by_root_and_by_head(node: Listening) -> None:
    status, _ = req(node, "status")
    chunk, _ = req(node, "beacon_blocks_by_root")
    assert chunk["slot"] == LAST
    *chunks, _ = req(
        node,
        "beacon_blocks_by_root",
        "--root",
        status["head_root"],
        "--root",
        chunk["parent_root"],
        "--root",
        "ab" * 32,
    )
    assert [chunk["slot"] for chunk in chunks] == [LAST, LAST - 1]
    *chunks, _ = req(node, "beacon_blocks_by_head", "--root", chunks[1]["parent_root"], "--count", "2")
    assert [chunk["slot"] for chunk in chunks] == [LAST - 2, LAST - 3]


def test_people_get_fields_and_a_block_a_line(node: Listening) -> None:
    words = (node.first["enr"], "--chain", node.first["file"])
    done = run("req", "status", *words)
    assert f"head slot                {LAST}" in done.stdout
    assert "status/2: 1 chunk, 92 B in" in done.stdout
    done = run("req", "beacon_blocks_by_range", *words, "--count", "2")
    assert [line.split()[:3] for line in done.stdout.splitlines()[:2]] == [
        ["slot", str(LAST - 1), CHAIN.at_slot(LAST - 1).fork],
        ["slot", str(LAST), CHAIN.at_slot(LAST).fork],
    ]


def test_a_method_that_the_peer_does_not_speak_is_a_failure_of_the_network(node: Listening) -> None:
    (error,) = req(node, "light_client_finality_update", code=15)
    assert (error["failure"], error["stage"]) == ("network", "protocol")
    assert "the peer does not speak" in error["reason"]


def test_a_peer_of_another_chain_says_goodbye_and_both_digests_are_told(node: Listening) -> None:
    done = run("req", "beacon_blocks_by_range", node.address, "--chain", "dev:7", "--json")
    (error,) = events(done.stdout)
    assert (done.returncode, error["failure"]) == (15, "network")
    assert "it said goodbye: irrelevant network" in error["reason"]
    assert f"its fork digest is {node.first['fork_digest']}" in error["reason"]
    chunk, _ = events(run("req", "status", node.address, "--chain", "dev:7", "--json").stdout)
    assert (chunk["fork_digest"], chunk["fork"]) == (node.first["fork_digest"], None)


def test_a_peer_that_says_nothing_is_left_at_the_deadline() -> None:
    with hostile(silent) as port:
        done = run("req", "status", f"127.0.0.1:{port}", "--chain", "dev:7", "--timeout", "0.3", "--json")
        (error,) = events(done.stdout)
        assert (done.returncode, error["code"]) == (16, 16)
        assert error["stage"] == "security_select"
        assert "nothing came back within 0.3 s" in error["reason"]
        assert "accepts connections and says nothing" in error["advice"]


def test_who_speaks_nothing_of_beacon_nodes_is_none() -> None:
    with listening() as other:
        done = run("req", "status", other.address, "--chain", "dev:7", "--json")
        (error,) = events(done.stdout)
    assert (done.returncode, error["failure"]) == (15, "network")
    assert "this is no beacon node" in error["reason"]
    assert "/ipfs/id/1.0.0" in error["advice"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("status",), "TARGET"),
        (("nosuch", "127.0.0.1:1"), "'nosuch' is no method"),
        (("status/9", "127.0.0.1:1"), "'status/9' is no version of status"),
        (("ping", "127.0.0.1:1", "--start", "1"), "--start says nothing to ping"),
        (("beacon_blocks_by_root", "127.0.0.1:1", "--root", "abcd"), "is no block root"),
        (("status", "127.0.0.1:1", "--output", "", "--chain", "dev"), "--output: the name of the folder is empty"),
        (("status", "127.0.0.1:1", "--chain", "nosuch"), "no such chain"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anybody_is_asked(words: tuple[str, ...], why: str) -> None:
    done = run("req", *words)
    assert done.returncode == 2
    assert why in done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("beacon_blocks_by_range", "--count", "5000"), "--count: 5000, from 1 to 1024 may be asked for"),
        (("beacon_blocks_by_range", "--start", str(2**64 - 1), "--count", "2"), "--start: "),
        (("beacon_blocks_by_head", "--count", "99999"), "--count: 99999, from 1 to 1024 may be asked for"),
        (("light_client_updates_by_range", "--count", "129"), "--count: 129, from 1 to 128 may be asked for"),
        (("data_column_sidecars_by_range", "--index", "500"), "--index: 500, the last one is 127"),
        (("data_column_sidecars_by_root", "--index", "500"), "--index: 500, the last one is 127"),
        (("data_column_sidecars_by_range", *["--index", "1"] * 129), "--index: "),
        (("beacon_blocks_by_root", *["--root", "ab" * 32] * 1025), "--root: "),
    ],
    ids=range(8),
)
def test_what_nobody_may_ask_for_is_refused_here_by_the_name_of_the_option(words: tuple[str, ...], why: str) -> None:
    done = run("req", words[0], "127.0.0.1:1", "--chain", "dev:7", "--json", *words[1:])
    (error,) = events(done.stdout)
    assert (done.returncode, error["stage"]) == (2, "usage")
    assert error["reason"].startswith(why)
    assert len(error["reason"]) < 300


async def test_declining_breaking_the_protocol_and_silence_have_words_of_their_own() -> None:
    chain = dev_chain(int(time.time()) - 100)

    async def decline(connection: Carrier, request: object) -> AsyncGenerator[ForkBytes, None]:
        await trio.lowlevel.checkpoint()
        raise Decline(3, "not \x1b[2Jhere")
        yield  # a generator all the same

    async def garbage(stream: MuxedStream) -> None:
        await stream.send_all(b"\x00" + bytes(100))
        await stream.send_eof()

    async def silence(stream: MuxedStream) -> None:
        await trio.sleep_forever()

    async def ask(net: BeaconNetwork, *words: str) -> tuple[int, dict[str, Any]]:
        address = net.switch.multiaddrs[0]
        given = ("req", words[0], str(address), "--chain", f"dev:{chain.genesis_time}", "--json", *words[1:])
        done = await trio.to_thread.run_sync(lambda: run(*given))
        (error,) = events(done.stdout)
        return done.returncode, error

    async with BeaconNetwork(BeaconConfig(chain, discovery=False)) as net:
        methods = net.methods
        net.serve(methods.beacon_blocks_by_range_v2, decline)
        net.switch.mount(methods.beacon_blocks_by_root_v2.protocol, garbage)
        net.switch.mount(methods.beacon_blocks_by_head_v1.protocol, silence)
        code, error = await ask(net, "beacon_blocks_by_range")
        assert (code, error["failure"], error["result"]) == (15, "declined", 3)
        assert error["text"] == "not \\x1b[2Jhere"
        assert "resource unavailable" in error["advice"]
        code, error = await ask(net, "beacon_blocks_by_root")
        assert (code, error["failure"]) == (15, "violation")
        assert "the peer broke the protocol" in error["reason"]
        code, error = await ask(net, "beacon_blocks_by_head", "--timeout", "2")
        assert code == 16
        assert "beacon_blocks_by_head was not done within 2 s" in error["reason"]
