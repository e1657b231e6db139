"""`pyp2p node` between processes on loopback: what it tells, what it serves, how it ends."""

import configparser
import json
import signal
import socket
import stat
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.chainfile import chain_text
from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.devchain import dev_chain, make_block
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.discv5.enr import Enr
from pyp2p.errors import NobodyListens
from tests.cli.support import SECONDS, Listening, command, events, hostile, listening, run, silent

pytestmark = pytest.mark.slow

NODE = ("node",)
SOME_PEER = "16Uiu2HAmPGQNkG94F3JqsFSrmYmhHeafrHZnCMRDc5ixdF5fVrwU"


def chain_file(folder: Path, chain: Chain | None = None) -> str:
    """The file of a made-up chain that began just now, with quick slots."""
    file = folder / "chain.toml"
    file.write_text(chain_text(chain or dev_chain(int(time.time()), slot_duration_ms=500)))
    return str(file)


def until(node: Listening, event: str, wanted: Callable[[dict[str, Any]], bool] = lambda line: True) -> dict[str, Any]:
    """The next line of this kind."""
    assert node.process.stdout is not None
    for text in node.process.stdout:
        line: dict[str, Any] = json.loads(text)
        if line["event"] == event and wanted(line):
            return line
    raise AssertionError(f"it ended without {event}")


def test_a_network_from_one_record_follows_its_chain_and_who_leaves_says_goodbye(tmp_path: Path) -> None:
    chain = chain_file(tmp_path)
    data = str(tmp_path / "maker")
    with listening("--chain", chain, "--produce", "--data", data, how=NODE) as maker:
        assert maker.first["event"] == "listening"
        assert maker.first["enr"].startswith("enr:")
        assert maker.first["fork"] == "altair"
        made = until(maker, "block")
        assert (made["how"], made["from"]) == ("own", None)
        with listening("--chain", chain, "--bootnode", maker.first["enr"], how=NODE) as other:
            met = until(other, "peer_connected")
            assert (met["peer_id"], met["direction"]) == (maker.peer_id, "outbound")
            assert met["client"].startswith("pyp2p/")
            assert met["address"] in [each.split("/p2p/")[0] for each in maker.first["addresses"]]
            assert met["transport"] == met["address"].split("/")[-1 if "quic" in met["address"] else 3]
            assert met["status"]["fork_digest"] == maker.first["fork_digest"]
            assert met["status"]["head_slot"] >= made["slot"]
            caught_up = until(other, "caught_up")
            assert caught_up["from"] == maker.peer_id
            assert caught_up["count"] >= 1
            mesh = until(other, "mesh", lambda line: "beacon_block" in line["topic"])
            assert (mesh["peers"], mesh["mesh"]) == (1, 1)
            heard = until(other, "gossip")
            assert heard["topic"].endswith("/beacon_block/ssz_snappy")
            assert heard["size"] > 300
            block = until(other, "block", lambda line: line["slot"] >= heard["slot"])  # two tasks tell
            assert (block["how"], block["from"]) == ("gossip", maker.peer_id)
            assert until(maker, "peer_connected")["direction"] == "inbound"
            other.process.send_signal(signal.SIGINT)
            left = until(maker, "peer_disconnected")
            assert left["peer_id"] == other.peer_id
            assert left["goodbye"] == {"code": 1, "text": "client shutdown"}
            totals = events(other.process.communicate(timeout=SECONDS)[0])[-1]
            assert other.process.returncode == 130
            assert totals["event"] == "totals"
            assert totals["blocks"]["gossip"] >= 1
            assert totals["bytes_in"] > 0
            assert totals["missed"] == 0
        rest = events(maker.close_stdin())
        assert maker.process.returncode == 0
        assert rest[-1]["event"] == "totals"
    assert list(Path(data, "blocks").glob("*.ssz"))
    with listening("--chain", chain, "--data", data, how=NODE) as again:  # who it was, and what it had
        assert again.peer_id == maker.peer_id
        assert again.first["head_slot"] == rest[-1]["head_slot"]


def test_it_listens_on_quic_beside_tcp_unless_that_is_off(tmp_path: Path) -> None:
    words = ("--chain", chain_file(tmp_path), "--no-discovery")
    with listening(*words, how=NODE) as node:
        tcp, quic = node.first["addresses"]
        assert "/tcp/" in tcp
        assert "/quic-v1/" in quic
        with listening(*words, "--static-peer", quic, how=NODE) as other:
            met = until(node, "peer_connected")
            assert (met["peer_id"], met["transport"], met["direction"]) == (other.peer_id, "quic-v1", "inbound")
            assert until(other, "peer_connected")["address"] == quic.split("/p2p/")[0]
    with listening("--chain", "dev", "--no-quic", how=NODE) as node:
        assert ["/tcp/" in each for each in node.first["addresses"]] == [True]
        assert Enr.from_text(node.first["enr"]).quic is None


def test_a_port_of_quic_that_is_taken_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        done = run("node", "--chain", "dev", "--no-discovery", "--quic-port", port)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1 port 0 (QUIC: {port}): Address already in use" in " ".join(done.stderr.split())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_a_hangup_end_it_in_an_orderly_way(number: signal.Signals) -> None:
    with listening("--chain", "dev", how=NODE) as node:
        node.process.send_signal(number)
        out, err = node.process.communicate(timeout=SECONDS)
        assert (node.process.returncode, err) == (0, "")
        assert events(out)[-1]["event"] == "totals"


def test_a_hangup_that_is_ignored_ends_nothing() -> None:
    interpreter, *words = command("node", "--json", "--chain", "dev")
    nohup = "import os, signal, sys; signal.signal(1, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [interpreter, "-c", nohup, interpreter, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        node = Listening(process)
        process.send_signal(signal.SIGHUP)
        assert events(node.close_stdin())[-1]["event"] == "totals"
        assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_dials_somebody_who_says_nothing_ends_it_at_once(number: signal.Signals) -> None:
    with hostile(silent) as port:
        peer = f"/ip4/127.0.0.1/tcp/{port}/p2p/{SOME_PEER}"
        with listening("--chain", "dev", "--static-peer", peer, how=NODE) as node:
            node.process.send_signal(number)
            out, err = node.process.communicate(timeout=SECONDS)
            assert (node.process.returncode, err) == (130 if number == signal.SIGINT else 0, "")
            assert events(out)[-1]["event"] == "totals"


@pytest.mark.parametrize("moment", ["argparse", "trio", "pyp2p.beacon.network", "pyp2p.cli.node_view"])
@pytest.mark.parametrize("installed", [False, True])
def test_a_signal_while_it_starts_ends_it_without_a_traceback(moment: str, installed: bool) -> None:
    """Python tells which module it loads: the signal comes at some moments of the start, also of what is installed."""
    interpreter, *words = command("node", "--chain", "dev", "--json")
    if installed:
        settings = configparser.ConfigParser()
        settings.read(Path(__file__).parents[2] / "setup.cfg")
        script = settings["options.entry_points"]["console_scripts"].strip()
        module, _, function = script.removeprefix("pyp2p = ").partition(":")
        words[:2] = ["-c", f"import sys; from {module} import {function}; sys.exit({function}())"]
    with subprocess.Popen(
        [interpreter, "-v", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"import '{moment}'"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert "Traceback" not in err
    # CPython ends by the signal where it met an `exec` of text, as dataclasses do: for a shell that is 130 too.
    assert process.returncode in (130, -signal.SIGINT)


def test_a_peer_that_is_not_reached_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    peer = f"/ip4/127.0.0.1/tcp/{port}/p2p/{SOME_PEER}"
    with listening("--chain", "dev", "--no-discovery", "--static-peer", peer, how=NODE) as node:
        assert node.first["enr"] is None
        failed = until(node, "dial_failed")
        assert (failed["peer_id"], failed["stage"]) == (SOME_PEER, "connect")


def test_two_nodes_with_one_folder_are_one_too_many(tmp_path: Path) -> None:
    with listening("--chain", "dev", "--data", str(tmp_path), how=NODE) as node:
        done = run("node", "--chain", "dev", "--data", str(tmp_path), "--json")
        (error,) = events(done.stdout)
        assert (done.returncode, error["stage"]) == (17, "data")
        assert f"in use by process {node.process.pid}" in error["reason"]


def test_a_data_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    with listening("--chain", "dev", "--data", str(tmp_path / "data"), how=NODE):
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--addr", "192.0.2.1"), "cannot listen on 192.0.2.1 port 0"),
        (("--metrics", "192.0.2.1:8008"), "--metrics: cannot listen on 192.0.2.1 port 8008"),
        (("--data", "/dev/null/x"), "/dev/null/x: Not a directory"),
        (("--blocks", "/dev/null/x"), "/dev/null/x: Not a directory"),
        (("--data", "/etc/passwd"), "/etc/passwd: is no folder"),
        (("--data", "RUBBISH"), "/rubbish/key holds no private key: "),
        (("--data", "RUBBISH"), "Put the key back that was there"),
    ],
)
def test_what_cannot_be_is_named_and_ends_it(words: tuple[str, ...], why: str, tmp_path: Path) -> None:
    folder = tmp_path / "rubbish"
    folder.mkdir()
    (folder / "key").write_bytes(b"rubbish")
    done = run("node", "--chain", "dev", *(str(folder) if word == "RUBBISH" else word for word in words))
    assert (done.returncode, done.stdout) == (2, "")
    assert why in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_metrics_are_served_where_it_says() -> None:
    with listening("--chain", "dev", "--metrics", "127.0.0.1:0", how=NODE) as node:
        with urllib.request.urlopen(node.first["metrics"], timeout=SECONDS) as answer:
            page = answer.read().decode()
        assert "libp2p_peers 0.0" in page
        assert f'peer="{node.peer_id}"' in page


def test_people_get_plain_lines_without_a_terminal() -> None:
    done = run("node", "--chain", "dev:1700000000", stdin=None, input="")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("peer id    16Uiu2")
    assert ["/tcp/" in lines[2], "/quic-v1/" in lines[3]] == [True, True]
    assert lines[4].startswith("chain      dev:1700000000, fulu (12 blobs), digest")
    assert lines[-1].startswith("totals  ")
    assert (done.returncode, done.stderr) == (0, "")


async def test_of_a_chain_that_is_not_made_up_gossip_is_shown_and_never_forwarded(tmp_path: Path) -> None:
    """One publishes, the node in the middle shows the block, and who knows that node only hears nothing."""
    chain = replace(dev_chain(int(time.time()) - 600), name="other", genesis_validators_root=bytes(32))
    file = chain_file(tmp_path, chain)
    with listening("--chain", file, "--no-discovery", how=NODE) as node:
        config = BeaconConfig(chain, discovery=False, static_peers=(node.address,))
        async with BeaconNetwork(config) as publisher, BeaconNetwork(config) as hearer:
            with trio.fail_after(SECONDS):
                await publisher.connect_to_network([node.address])
                await hearer.connect_to_network([node.address])
                async with hearer.gossip.subscribe("beacon_block"):
                    slot = publisher.clock.slot
                    block = make_block(chain, slot, bytes(32)).ssz
                    while True:
                        try:
                            await publisher.gossip.publish("beacon_block", block)
                            break
                        except NobodyListens:
                            await trio.sleep(0.05)
                    shown = await trio.to_thread.run_sync(until, node, "gossip")
                    # A request of theirs takes the way that a forwarded block would have taken before it.
                    await node_answers(hearer)
                    assert not hearer.pubsub.counters["received", shown["topic"]]
        assert (shown["slot"], shown["size"], shown["from"]) == (slot, len(block), str(publisher.peer))


async def node_answers(net: BeaconNetwork) -> None:
    (peer,) = net.peers()
    await net.reqresp.ask(peer.peer, net.methods.ping, 0)
