"""Blocks in a folder: what is whole, in order, and what a bad disk or a bad neighbour costs."""

import os
from pathlib import Path

import pytest

from pyp2p.beacon.folder import BlockFolder

ROOTS = [bytes([number]) * 32 for number in range(5)]


def test_blocks_come_back_the_lowest_slot_first(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path / "not" / "there")
    for slot in (2**63, 7, 10**12, 8):
        folder.add(slot, ROOTS[0], b"block %d" % slot)
    folder.add(7, ROOTS[1], b"another of 7")
    assert list(BlockFolder(folder.path).blocks()) == [
        b"block 7",
        b"another of 7",
        b"block 8",
        b"block 1000000000000",
        b"block 9223372036854775808",
    ]
    assert "000000000007-" + "00" * 32 + ".ssz" in os.listdir(folder.path)


def test_a_block_that_comes_again_is_there_once(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    folder.add(7, ROOTS[0], b"one")
    folder.add(7, ROOTS[0], b"one")
    assert list(folder.blocks()) == [b"one"]
    assert len(os.listdir(tmp_path)) == 1


def test_what_has_no_blocks_name_is_left_out(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    folder.add(7, ROOTS[0], b"one")
    for name in ("notes.txt", "000000000007-abcd.ssz", "000000000008-" + "00" * 32 + ".new", ".ssz"):
        (tmp_path / name).write_bytes(b"rubbish")
    assert list(folder.blocks()) == [b"one"]


def test_what_is_taken_out_is_gone_and_the_folder_remembers_of_which_chain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = BlockFolder(tmp_path)
    for slot in (7, 8):
        folder.add(slot, ROOTS[slot - 7], b"block %d" % slot)
    assert not folder.begins_late(ROOTS[3])
    folder.drop([(7, ROOTS[0]), (7, ROOTS[4])], ROOTS[3])
    assert list(folder.blocks()) == [b"block 8"]
    assert folder.begins_late(ROOTS[3]) and not folder.begins_late(ROOTS[4])
    (tmp_path / ("000000000009-" + "00" * 32 + ".ssz")).mkdir()
    folder.drop([(9, ROOTS[0]), (8, ROOTS[1])], ROOTS[3])
    assert list(folder.blocks()) == []
    assert "block not taken out" in caplog.text


@pytest.mark.hostile
def test_hostile_098_what_is_too_long_is_not_read_into_memory(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    with (tmp_path / ("000000000001-" + "00" * 32 + ".ssz")).open("wb") as file:
        file.truncate(10 * 1024 * 1024 + 1)
    folder.add(7, ROOTS[0], b"one")
    assert list(folder.blocks()) == [b"one"]


@pytest.mark.hostile
def test_hostile_098_a_disk_that_is_full_costs_the_block_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = BlockFolder(tmp_path)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        folder.add(7, ROOTS[0], b"one")
    assert "block not kept" in caplog.text
    assert "No space left" in caplog.text
    folder.add(8, ROOTS[0], b"two")
    assert list(folder.blocks()) == [b"two"]


def test_what_cannot_be_read_is_warned_of_and_the_rest_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = BlockFolder(tmp_path)
    (tmp_path / ("000000000001-" + "00" * 32 + ".ssz")).mkdir()
    folder.add(7, ROOTS[0], b"one")
    assert list(folder.blocks()) == [b"one"]
    assert "block not read" in caplog.text


def test_a_folder_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        BlockFolder(tmp_path / "file" / "folder")


def test_a_pipe_with_the_name_of_a_block_is_left_out(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    folder.add(1, bytes(32), b"one")
    os.mkfifo(tmp_path / ("000000000002-" + "00" * 32 + ".ssz"))
    assert list(folder.blocks()) == [b"one"]
