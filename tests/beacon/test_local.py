"""The data folder: who we are and what we said last, over restarts, kills and rubbish."""

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pyp2p.beacon.local import MetadataSeq, load_metadata_seq, open_data
from pyp2p.errors import DataInUse, KeyFileError
from pyp2p.peer.keys import KeyType
from pyp2p.platform import Platform

NOW = 1_700_000_000
WORLD = Platform(wall=lambda: NOW + 0.5)


def test_the_identity_and_the_number_survive_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    with open_data(folder, platform=WORLD) as data:
        assert data.identity.public_key.type is KeyType.SECP256K1
        assert [data.metadata.of(each) for each in (b"a", b"a", b"b")] == [0, 0, 1]
        first = data.identity.peer
        assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    with open_data(folder, platform=WORLD) as data:
        assert data.identity.peer == first
        assert [data.metadata.of(each) for each in (b"b", b"c")] == [1, 2]
        assert (data.nodes.name, data.peers.name) == ("nodes.json", "peers.sqlite")
    assert sorted(os.listdir(folder)) == ["key", "local.json", "lock"]


def test_a_number_is_in_the_file_before_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "local.json"
    seq = MetadataSeq(path)
    synced: list[bool] = []
    fsync = os.fsync

    def told(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", told)
    for number, contents in enumerate((b"a", b"b", b"c")):
        assert seq.of(contents) == number == seq.seq
        assert json.loads(path.read_text())["metadata_seq"] == number
    assert synced == [False, True] * 3
    seq.of(b"c")
    assert len(synced) == 6


def test_without_a_file_it_is_kept_in_memory() -> None:
    seq = MetadataSeq()
    assert [seq.of(each) for each in (b"a", b"b", b"b")] == [0, 1, 1]
    with pytest.raises(ValueError, match="1025 bytes"):
        seq.of(bytes(1025))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "5",
        "{}",
        '{"version": 2, "metadata_seq": 1, "metadata": ""}',
        '{"version": 1, "metadata_seq": -1, "metadata": ""}',
        '{"version": 1, "metadata_seq": 1.5, "metadata": ""}',
        '{"version": 1, "metadata_seq": true, "metadata": ""}',
        '{"version": 1, "metadata_seq": 18446744073709551615, "metadata": ""}',
        '{"version": 1, "metadata_seq": 1, "metadata": "xyz"}',
        '{"version": 1, "metadata_seq": 1, "metadata": 5}',
        '{"version": 1, "metadata_seq": 1}',
        "[" * 60_000,
        " " * 70_000,
    ],
    ids=range(16),
)
def test_what_makes_no_sense_is_set_aside_and_the_number_begins_with_the_time(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "local.json"
    path.write_text(text)
    seq = load_metadata_seq(path, 0, NOW + 0.5)
    assert seq.of(b"a") == NOW and load_metadata_seq(path, 0, 0.0).of(b"b") == NOW + 1
    assert (tmp_path / "local.json.corrupt").read_text() == text
    assert ["set aside" in record.getMessage() for record in caplog.records] == [True]


def test_a_number_that_was_lost_begins_with_the_time(tmp_path: Path) -> None:
    with open_data(tmp_path, platform=WORLD) as data:
        assert data.metadata.of(b"a") == 0
    (tmp_path / "local.json").unlink()
    with open_data(tmp_path, platform=WORLD) as data:
        assert data.metadata.of(b"a") == NOW


def test_a_number_that_cannot_be_written_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "local.json"
    seq = MetadataSeq(path)
    seq.of(b"a")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert seq.of(b"b") == 1
    assert "No space left" in caplog.records[-1].getMessage()
    assert json.loads(path.read_text())["metadata_seq"] == 0 and os.listdir(tmp_path) == ["local.json"]
    assert seq.of(b"c") == 2 == json.loads(path.read_text())["metadata_seq"]


def test_a_key_that_is_none_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"rubbish")
    with pytest.raises(KeyFileError), open_data(tmp_path):
        pytest.fail("opened")
    assert (tmp_path / "key").read_bytes() == b"rubbish"


def test_a_second_user_is_told_who_is_the_first(tmp_path: Path) -> None:
    with open_data(tmp_path), pytest.raises(DataInUse) as caught, open_data(tmp_path):
        pytest.fail("opened twice")
    assert caught.value.pid == os.getpid() and str(tmp_path) in str(caught.value)
    with open_data(tmp_path):
        pass
    (tmp_path / "lock").write_bytes(b"rubbish")
    with open_data(tmp_path):
        (tmp_path / "lock").write_bytes(b"rubbish")
        with pytest.raises(DataInUse) as caught, open_data(tmp_path):
            pytest.fail("opened twice")
    assert caught.value.pid is None and "another process" in str(caught.value)


HOLDER = """
import sys
from pyp2p.beacon.local import open_data
with open_data(sys.argv[1]) as data:
    for number in range(1, 10**9):
        data.metadata.of(b"%d" % number)
        print(data.metadata.seq, flush=True)
"""


@pytest.mark.slow
def test_killed_the_folder_is_free_and_no_number_that_was_said_is_lost(tmp_path: Path) -> None:
    last = -1
    for rounds in (1, 7):
        with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(rounds):
                process.stdout.readline()
            with pytest.raises(DataInUse) as caught, open_data(tmp_path):
                pytest.fail("opened")
            assert caught.value.pid == process.pid
            process.send_signal(signal.SIGKILL)
            said = process.stdout.read().split(b"\n")[:-1]
        with open_data(tmp_path) as data:
            assert data.metadata.seq >= max([last, *map(int, said)])
            last = data.metadata.seq


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is no folder") as caught, open_data(tmp_path / "file"):
        pytest.fail("opened")
    assert caught.value.filename == str(tmp_path / "file")


@pytest.mark.parametrize("name", ["flock", "ftruncate", "pwrite"])
def test_a_lock_that_cannot_be_taken_is_told_with_its_place(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl if name == "flock" else os, name, full)
        with pytest.raises(OSError, match="No space left") as caught, open_data(tmp_path):
            pytest.fail("opened")
    assert caught.value.filename == str(tmp_path / "lock")
    with open_data(tmp_path), pytest.raises(OSError, match="in the block") as caught, open_data(tmp_path / "other"):
        raise OSError(28, "in the block")  # of whoever uses the folder: it is as it was
    assert caught.value.filename is None


def test_a_lock_that_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(OSError, match="not a regular file"), open_data(tmp_path):
        pytest.fail("opened")


def test_bytes_that_are_no_text_are_not_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "local.json"
    path.write_bytes(b'{"a": "\xff\x1b')
    load_metadata_seq(path, 0, NOW)
    assert caplog.records[-1].getMessage().endswith("error=ValueError: no UTF-8 at byte 7")
