"""Every private name of aioquic that we touch is there: its version is pinned, and this says what a new one changed."""

import ast
import importlib.metadata
import inspect
import re
from pathlib import Path

import pytest
from aioquic import tls
from aioquic.quic import connection, stream
from aioquic.quic.connection import QuicConnection
from aioquic.quic.stream import QuicStreamReceiver, QuicStreamSender

from pyp2p.quic import core

ROOT = Path(__file__).parents[3]
OVERRIDDEN = {
    QuicConnection: ("_initialize", "_write_connection_limits", "_write_stream_limits", "_get_or_create_stream"),
    QuicStreamReceiver: ("handle_frame",),
    tls.Context: ("_set_peer_certificate", "_server_handle_certificate"),
}


def test_the_version_is_pinned_exactly() -> None:
    (pinned,) = re.findall(r"^    aioquic==(\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert importlib.metadata.version("aioquic") == pinned


@pytest.mark.parametrize("owner", OVERRIDDEN, ids=lambda owner: owner.__name__)
def test_what_we_override_is_there_and_used(owner: type) -> None:
    source = inspect.getsource(connection) + inspect.getsource(stream) + inspect.getsource(tls)
    for name in OVERRIDDEN[owner]:
        assert callable(getattr(owner, name))
        assert len(re.findall(rf"\b{name}\(", source)) >= 2, f"{name} is not called any more"


def test_every_private_attribute_that_we_read_or_set_is_one_of_the_librarys() -> None:
    tree = ast.parse(Path(core.__file__).read_text())
    ours = {
        target.attr
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    }
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
    library = "".join(map(inspect.getsource, (connection, stream, tls)))
    for name in used - defined:
        known = re.search(rf"\bself\.{name}\b|\bdef {name}\b", library)
        assert known or name in ours, f"{name} is nobody's"
    for name in ("_buffer", "_buffer_fin", "_reset_error_code"):
        assert hasattr(QuicStreamSender(0, True), name)


def test_only_one_file_touches_what_is_private() -> None:
    for path in (ROOT / "pyp2p" / "quic").glob("*.py"):
        if path.name == "core.py":
            continue
        tree = ast.parse(path.read_text())
        foreign = {
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        }
        assert not foreign, path.name
