"""`key` and `addr` as commands: files, their modes, what is never overwritten, what is shown."""

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from pyp2p.cli.main import main
from pyp2p.peer.keyfile import MAX_FILE
from pyp2p.peer.keys import Identity
from tests.cli.support import run

ID = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


def show(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object]]:
    capsys.readouterr()
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("key_type", ["ed25519", "secp256k1", "ecdsa", "rsa"])
def test_a_new_key_is_private_and_reads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path, key_type: str) -> None:
    path = tmp_path / "key"
    code, made = show(capsys, "key", "new", str(path), "--type", key_type)
    assert code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(Identity.from_protobuf(path.read_bytes()).peer) == made["peer_id"]
    code, shown = show(capsys, "key", "show", str(path))
    assert code == 0
    assert (shown["kind"], shown["peer_id"]) == ("private key", made["peer_id"])
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_a_key_is_not_overwritten_unless_forced(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"precious")
    assert show(capsys, "key", "new", str(path))[0] == 2
    assert path.read_bytes() == b"precious"
    assert show(capsys, "key", "new", str(path), "--force")[0] == 0
    assert path.read_bytes() != b"precious"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_dangling_link_is_not_followed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.symlink_to(tmp_path / "elsewhere")
    assert show(capsys, "key", "new", str(path))[0] == 2
    assert not (tmp_path / "elsewhere").exists()


def test_a_pipe_in_place_of_a_key_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key")
    for words in (("node", "--chain", "dev", "--data", str(tmp_path)), ("key", "show", str(tmp_path / "key"))):
        done = run(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"cannot read {tmp_path}/key: not a regular file" in " ".join(done.stderr.split())


def test_a_place_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "key", tmp_path / ("x" * 300), Path("nul\x00")):
        assert show(capsys, "key", "new", str(path))[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_keys_in_other_clothes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    identity = Identity.generate(entropy=os.urandom)
    raw = identity.to_protobuf()
    clothes = {"hex": raw.hex().encode(), "base64": base64.b64encode(raw) + b"\n"}
    for name, content in clothes.items():
        (tmp_path / name).write_bytes(content)
        code, shown = show(capsys, "key", "show", str(tmp_path / name))
        assert (code, shown["peer_id"]) == (0, str(identity.peer))
    public = identity.public_key.to_protobuf()
    for text in (public.hex(), base64.b64encode(public).decode(), str(identity.peer), identity.peer.to_cid()):
        code, shown = show(capsys, "key", "show", text)
        assert (code, shown["peer_id"]) == (0, str(identity.peer))


@pytest.mark.parametrize("content", [b"", b"\x08\x01\x12\x40" + bytes(64), b"text\n", b"\x08" * (MAX_FILE + 1)])
def test_files_that_hold_no_key(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    code, error = show(capsys, "key", "show", str(path))
    assert (code, error["event"], error["stage"]) == (2, "error", "usage")
    assert show(capsys, "identify", "127.0.0.1:1", "--key", str(path))[0] == 2
    assert path.read_bytes() == content


def test_a_missing_key_of_a_node_is_made_and_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert show(capsys, "identify", "127.0.0.1:1", "--key", str(path))[0] == 11
    made = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert show(capsys, "identify", "127.0.0.1:1", "--key", str(path))[0] == 11
    assert path.read_bytes() == made


def test_addr_explain(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = show(capsys, "addr", "explain", f"/ip4/127.0.0.1/tcp/4001/p2p/{ID}")
    assert code == 0
    assert [part["name"] for part in found["parts"]] == ["ip4", "tcp", "p2p"]
    for text in (ID, "localhost:4001", "[::1]:4001", "0x047f000001060fa1"):
        assert show(capsys, "addr", "explain", text)[0] == 0


def test_addr_explain_that_does_not_decode(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = show(capsys, "addr", "explain", "/ip4/127.0.0.1/tcp/65536")
    assert code == 2
    assert (error["event"], error["stage"], error["position"], error["attempts"]) == ("error", "usage", 19, [])
    assert (error["code"], error["advice"]) == (2, "")
    assert error["reason"] == "port 65536 is outside 0..65535"
    assert [part["name"] for part in error["parts"]] == ["ip4"]
    for text in ("", "hello", ID[:-1] + "0", "04ff", "x" * 10_000, "\x1b[2J", "/\ud800"):
        assert show(capsys, "addr", "explain", text)[0] == 2


def test_the_place_of_a_problem_is_pointed_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["addr", "explain", "/ip4/127.0.0.1/tcp/65536"]) == 2
    text, caret = capsys.readouterr().out.splitlines()[-2:]
    assert text[caret.index("^") :] == "65536"
