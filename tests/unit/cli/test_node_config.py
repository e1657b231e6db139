"""What the options of `pyp2p node` come to, and which of them make no sense."""

import argparse
import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from pyp2p.beacon.chainfile import chain_text, load_chain
from pyp2p.beacon.config import Advertised
from pyp2p.beacon.devchain import dev_chain
from pyp2p.cli import options as table
from pyp2p.cli.failure import UsageError
from pyp2p.cli.main import build_parser
from pyp2p.cli.node_config import chain_name, chain_of, is_made_up, node_config
from pyp2p.discv5.enr import Enr
from pyp2p.peer.keys import Identity, KeyType


def record(ip: str, **ports: int) -> Enr:
    return Enr.sign(Identity.generate(KeyType.SECP256K1, entropy=os.urandom), 1, {"ip": ip_address(ip), **ports})


NODE = record("127.0.0.1", udp=9000, tcp=9000)
FAR = record("192.0.2.1", udp=9000, tcp=9000)
UDP_ONLY = record("127.0.0.1", udp=9000)


def parse(*words: str, environ: dict[str, str] | None = None) -> argparse.Namespace:
    options = build_parser().parse_args(["node", *words])
    table.resolve(options.command.options, options, environ or {})
    return options


def config(*words: str, environ: dict[str, str] | None = None):  # type: ignore[no-untyped-def]
    return node_config(parse(*words, environ=environ), wall=lambda: 1_700_000_000.7)


def test_without_options_it_is_a_node_of_mainnet_that_keeps_nothing() -> None:
    made = config()
    assert made.beacon.chain == load_chain("mainnet")
    assert not made.made_up
    assert made.blocks is made.beacon.data is None
    assert ("0.0.0.0", 0) in made.beacon.listen  # its bootnodes are out there
    assert made.beacon.discovery


def test_a_made_up_chain_begins_when_it_is_said_or_now() -> None:
    assert config("--chain", "dev:1700000123").beacon.chain == dev_chain(1_700_000_123)
    assert config("--chain", "dev").beacon.chain == dev_chain(1_700_000_000)
    assert chain_name(dev_chain(7)) == "dev:7"
    assert chain_name(load_chain("mainnet")) == "mainnet"


def test_the_file_of_a_made_up_chain_is_one_too_whatever_its_times(tmp_path: Path) -> None:
    file = tmp_path / "quick.toml"
    quick = dev_chain(1_700_000_000, slot_duration_ms=500, epochs_per_fork=1)
    file.write_text(chain_text(quick))
    made = config("--chain", str(file), "--produce", "--data", str(tmp_path / "node"))
    assert made.beacon.chain == quick
    assert made.made_up
    assert made.blocks == tmp_path / "node" / "blocks"
    assert chain_name(quick) == "dev"  # and no second of genesis, which would be another chain
    assert not is_made_up(load_chain("mainnet"))


def test_every_option_arrives() -> None:
    made = config(
        *("--chain", "dev:1", "--bootnode", NODE.text, "--port", "9100", "--blocks", "b", "--target-peers", "7"),
        *("--static-peer", FAR.text, "--trusted-peer", f"/ip4/127.0.0.1/tcp/1/p2p/{NODE.peer_id}"),
        *("--advertise", "1.2.3.4:9000", "--advertise", "[2001:db8::1]:9000:9001:9002", "--agent", "me/1"),
    )
    beacon = made.beacon
    assert beacon.bootnodes == (NODE,)
    assert beacon.listen == (("127.0.0.1", 9100),)  # all that is named in the network is there
    assert beacon.peers.target == 7
    assert beacon.static_peers == (FAR.text,)
    assert beacon.trusted_peers == (f"/ip4/127.0.0.1/tcp/1/p2p/{NODE.peer_id}",)
    assert beacon.advertise == (Advertised("1.2.3.4", 9000, 9000), Advertised("2001:db8::1", 9000, 9001, 9002))
    assert (beacon.quic, beacon.quic_beside(9100)) == (True, 9101)
    assert beacon.agent == "me/1"
    assert made.blocks == Path("b")


def test_the_port_of_quic_is_the_next_one_or_the_one_that_is_given_and_it_can_be_off() -> None:
    for words, port in (
        ((), 0),
        (("--port", "9000"), 9001),
        (("--port", "9000", "--quic-port", "0"), 0),
        (("--port", "9000", "--quic-port", "13000"), 13000),
        (("--port", "65535", "--quic-port", "1"), 1),
        (("--port", "9000", "--quic-port", "9000", "--no-discovery"), 9000),
    ):
        beacon = config("--chain", "dev", *words).beacon
        assert (beacon.quic, beacon.quic_beside(beacon.listen[0][1])) == (True, port)
    assert not config("--chain", "dev", "--no-quic", "--port", "65535").beacon.quic


@pytest.mark.parametrize("words", [["--quic-port", "1"], ["--advertise", "1.2.3.4:1:2:3"]])
def test_who_wants_quic_is_told_what_it_needs(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyp2p.cli.node_config.Quic", None)
    with pytest.raises(UsageError, match=f"{words[0]}.*: QUIC needs an extra: aioquic is not installed"):
        config("--chain", "dev", *words)


def test_the_environment_has_a_folder_of_its_own_for_nodes() -> None:
    environ = {"PYP2P_NODE_DATA": "here", "PYP2P_DATA": "a text to publish", "PYP2P_CHAIN": "dev:5"}
    made = config(environ=environ)
    assert made.beacon.data == Path("here")
    assert made.beacon.chain == dev_chain(5)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--chain", "dev:soon"], "--chain dev:soon"),
        (["--chain", "dev:"], "--chain dev:"),
        (["--chain", "dev:99999999999999"], "no number of seconds"),
        (["--chain", "nosuch"], "no such chain (mainnet)"),
        (["--chain", ""], "--chain: the name is empty"),
        (["--produce"], "--produce: the blocks of mainnet are not made up"),
        (["--blocks", "x"], "--blocks: the blocks of mainnet are not made up"),
        (["--data", ""], "--data: the name of the folder is empty"),
        (["--chain", "dev", "--addr", "host"], "--addr host: not an IP address"),
        (["--chain", "dev", "--bootnode", "enr:x"], "--bootnode: not a node record"),
        (["--chain", "dev", "--static-peer", "/ip4/1.2.3.4/tcp/1"], "--static-peer"),
        (["--chain", "dev", "--trusted-peer", "enr:x"], "--trusted-peer"),
        (["--chain", "dev", "--static-peer", UDP_ONLY.text], "names no address to dial"),
        (["--chain", "dev", "--no-discovery", "--advertise", "1.2.3.4:5"], "--advertise"),
        (["--chain", "dev", "--agent", "\udc80"], "--agent"),
        (["--chain", "dev", "--agent", "x" * 257], "--agent: 'xxxx"),
        (["--chain", "dev", "--agent", "me\x1b[2J"], "printable characters"),
        (["--chain", "dev", "--no-quic", "--quic-port", "9001"], "--quic-port 9001 is for QUIC, and --no-quic"),
        (["--chain", "dev", "--no-quic", "--advertise", "1.2.3.4:1:2:3"], "--advertise: port 3 is for QUIC, and --no-"),
        (["--chain", "dev", "--port", "9000", "--quic-port", "9000"], "--quic-port 9000: discovery has this UDP port"),
        (["--chain", "dev", "--port", "65535"], "--port 65535: no port for QUIC comes after it"),
        (["--chain", "dev", "--advertise", "0.0.0.0:5"], "0.0.0.0 stands for every address"),
        (["--chain", "dev", "--advertise", "[::]:5"], ":: stands for every address"),
        (["--chain", "dev", "--advertise", "[::ffff:1.2.3.4]:5"], "written as IPv6: give 1.2.3.4"),
        (
            ["--chain", "dev", "--advertise", "1.2.3.4:5", "--advertise", "5.6.7.8:9"],
            "--advertise: a record names one address of an IP version, and 1.2.3.4, 5.6.7.8 are given",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_name_of_the_option(words: list[str], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        config(*words)
    assert why in caught.value.reason
    assert caught.value.reason.isprintable()
    assert "discv5" not in caught.value.advice  # which is another command


@pytest.mark.parametrize(
    "words",
    [
        ["--advertise", "1.2.3.4"],
        ["--advertise", "1.2.3.4:0"],
        ["--advertise", "1.2.3.4:1:2:3:4"],
        ["--quic-port", "65536"],
        ["--advertise", "::1:9000"],
        ["--advertise", "[1.2.3.4]:9000"],
        ["--advertise", "[::1]"],
        ["--advertise", "host:9000"],
        ["--metrics", "8008"],
        ["--metrics", "localhost:8008"],
        ["--metrics", "127.0.0.1:1:2"],
        ["--metrics", "127.0.0.1:65536"],
        ["--target-peers", "0"],
        ["--muxer", "spdy"],
    ],
)
def test_what_is_of_a_wrong_form_is_refused_by_the_parser(words: list[str]) -> None:
    with pytest.raises(UsageError, match=words[0]):
        parse(*words)


def test_a_file_that_describes_no_chain_is_named(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text('name = "x"\ngenesis_time = "soon"\n')
    with pytest.raises(UsageError, match=r"wrong\.toml: genesis_time: must be a whole number"):
        chain_of(str(file))


def test_metrics_are_where_it_is_said_also_on_any_free_port() -> None:
    assert parse("--metrics", "127.0.0.1:0").metrics == ("127.0.0.1", 0)
    assert parse("--metrics", "[::1]:8008").metrics == ("::1", 8008)
