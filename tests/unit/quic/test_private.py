"""Every private name of aioquic that we touch is there: its version is pinned, and this says what a new one changed."""

import ast
import importlib.metadata
import inspect
import re
from pathlib import Path

import pytest
from aioquic import tls
from aioquic.quic import connection, crypto, packet_builder, recovery, stream
from aioquic.quic.congestion import base, cubic
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketRecovery
from aioquic.quic.stream import QuicStreamReceiver, QuicStreamSender

ROOT = Path(__file__).parents[3]
QUIC = ROOT / "pyp2p" / "quic"
PRIVATE = ("core.py", "packets.py", "receiver.py", "recovery.py")  # the files that may know the library's inside
LIBRARY = (base, connection, crypto, cubic, packet_builder, recovery, stream, tls)
OVERRIDDEN = {
    QuicConnection: (
        "_initialize",
        "_write_connection_limits",
        "_write_stream_limits",
        "_get_or_create_stream",
        "_write_application",
        "_receive_retry_packet",
        "_parse_transport_parameters",
        "close",
    ),
    QuicPacketPacer: ("update_rate", "next_send_time"),
    base.QuicRttMonitor: ("is_rtt_increasing",),
    QuicPacketRecovery: ("on_ack_received", "_detect_loss"),
    QuicStreamReceiver: ("handle_frame",),
    tls.Context: ("_set_peer_certificate", "_server_handle_certificate"),
}


def test_the_version_is_pinned_exactly() -> None:
    (pinned,) = re.findall(r"^    aioquic==(\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert importlib.metadata.version("aioquic") == pinned


@pytest.mark.parametrize("owner", OVERRIDDEN, ids=lambda owner: owner.__name__)
def test_what_we_override_is_there_and_used(owner: type) -> None:
    source = "".join(map(inspect.getsource, LIBRARY))
    for name in OVERRIDDEN[owner]:
        assert callable(getattr(owner, name))
        assert len(re.findall(rf"\b{name}\(", source)) >= 2, f"{name} is not called any more"


@pytest.mark.parametrize("name", PRIVATE)
def test_every_private_attribute_that_we_read_or_set_is_one_of_the_librarys(name: str) -> None:
    tree = ast.parse((QUIC / name).read_text())
    ours = {
        target.attr
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    }
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
    library = "".join(map(inspect.getsource, LIBRARY))
    for attribute in used - defined:
        known = re.search(rf"\bself\.{attribute}\b|\bdef {attribute}\b", library)
        assert known or attribute in ours, f"{attribute} is nobody's"


def test_what_our_short_ways_keep_up_is_there() -> None:
    sender = QuicStreamSender(0, True)
    for name in ("_buffer", "_buffer_fin", "_buffer_start", "_pending", "_reset_error_code", "on_data_delivery"):
        assert hasattr(sender, name), name
    builder = QuicPacketBuilder(host_cid=b"", peer_cid=b"", version=1, is_client=True, max_datagram_size=1200)
    for name in (
        "_datagrams",
        "_packets",
        "_packet_number",
        "_flight_bytes",
        "_total_bytes",
        "_datagram_init",
        "_packet",
    ):
        assert hasattr(builder, name), name
    pacer = QuicPacketPacer(max_datagram_size=1200)
    for name in ("packet_time", "bucket_max", "bucket_time"):
        assert hasattr(pacer, name), name


def test_no_other_file_touches_what_is_private() -> None:
    for path in QUIC.glob("*.py"):
        if path.name in PRIVATE:
            continue
        tree = ast.parse(path.read_text())
        foreign = {
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.endswith("__")  # which is the language's own
            and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        }
        assert not foreign, path.name
