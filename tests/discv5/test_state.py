"""What a node keeps from one run to the next, on real sockets and a real file."""

import itertools
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from pyp2p.discv5 import state as state_module
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.messages import Pong
from pyp2p.discv5.service import open_discv5
from pyp2p.discv5.state import State, load, save
from pyp2p.errors import NoAnswer
from pyp2p.platform import Platform
from tests.discv5.support import identity

PATIENCE = 20.0  # seconds: safety only


async def until(condition) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.02)


async def meet(one, other) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            try:
                assert isinstance(await one.ping(other.record), Pong)
                return
            except NoAnswer:
                continue


def kept(path: Path) -> State:
    said = json.loads(path.read_text())
    return State(Enr.from_text(said["record"]), [Enr.from_text(text) for text in said["nodes"]])


async def test_the_record_and_the_nodes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    async with open_discv5(identity("b")) as b:
        async with open_discv5(identity("a"), state=path) as a:
            record, port = a.record, a.endpoints[0].port
            assert kept(path).record == record  # before anybody heard of it
            await meet(a, b)
        assert kept(path) == State(record, [b.record])
        same = [("127.0.0.1", port)]
        async with open_discv5(identity("a"), state=path, listen=same) as a:
            assert a.record == record
            a.set_record(attnets=bytes(8))
            changed = a.record
            await until(lambda: kept(path).record == changed)
            assert kept(path).nodes == [b.record]  # not asked yet, perhaps
        async with open_discv5(identity("a"), state=path, listen=same) as a:
            assert a.record.seq == changed.seq + 1  # without the entry again
    assert os.listdir(tmp_path) == ["nodes.json"]


async def test_nobody_hears_of_a_record_that_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, go_on, saved = tmp_path / "nodes.json", threading.Event(), []

    def slow(where: Path, state: State) -> None:
        saved.append(state.record)
        if len(saved) == 2:
            go_on.wait(PATIENCE)
        save(where, state)

    monkeypatch.setattr("pyp2p.discv5.service.save", slow)
    packets = []
    async with open_discv5(identity("b")) as b, open_discv5(identity("a"), state=path, trace=packets.append) as a:
        await meet(a, b)
        assert (await b.ping(a.record)).enr_seq == a.record.seq
        first = a.record
        a.set_record(attnets=bytes(8))
        await until(lambda: len(saved) == 2)
        packets.clear()
        with pytest.raises(NoAnswer):
            await b.ping(first)
        assert packets == [] and kept(path).record == first
        go_on.set()
        await until(lambda: kept(path).record == a.record)
        assert (await b.ping(first)).enr_seq == first.seq + 1


async def test_a_record_that_cannot_be_saved_silences_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nodes.json"

    def full(where: Path, state: State) -> None:
        raise OSError(28, "No space left on device")

    async with open_discv5(identity("b")) as b, open_discv5(identity("a"), state=path) as a:
        monkeypatch.setattr("pyp2p.discv5.service.save", full)
        a.set_record(attnets=bytes(8))
        await meet(b, a)
        a.set_record(attnets=b"1" * 8)
        await meet(b, a)


async def test_a_run_too_short_to_ask_forgets_nobody(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    async with open_discv5(identity("gone")) as gone:
        pass
    save(path, State(gone.record, [gone.record]))
    for _ in range(3):
        async with open_discv5(identity("a"), state=path):
            pass
        assert kept(path).nodes == [gone.record]


async def test_another_key_begins_anew_and_the_first_is_newer_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    clock = itertools.count(1_000_000)
    seqs: dict[str, int] = {}
    for name in ("a", "b", "a"):
        async with open_discv5(identity(name), state=path, platform=Platform(wall=lambda: float(next(clock)))) as node:
            assert node.record.public_key == identity(name).public_key.data
            assert node.record.seq > seqs.get(name, 0)
            seqs[name] = node.record.seq


RUBBISH = [
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"null",
    b"5",
    b"[]",
    b'"text"',
    b"{}",
    b'{"version": 2}',
    b'{"version": 1}',
    b'{"version": 1, "record": null, "nodes": []}',
    b'{"version": 1, "record": 5, "nodes": []}',
    b'{"version": 1, "record": "enr:x", "nodes": []}',
    b'{"version": 1, "record": "enr:x", "nodes": {}}',
    b'{"version": 1, "record": "enr:x", "nodes": [5]}',
    b'{"version": 1, "record": "enr:x", "nodes": null}',
    b'{"version": 1, "record": ["enr:x"], "nodes": ["enr:x", null, {}]}',
    b"[" * 200_000,
    b'{"version": ' + b"9" * 5000 + b"}",
    b" " * (5 * 1024 * 1024),
]


@pytest.mark.parametrize("data", RUBBISH, ids=range(len(RUBBISH)))
def test_a_corrupt_file_is_set_aside(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "nodes.json"
    path.write_bytes(data)
    assert load(path) == State()
    assert not path.exists() and (tmp_path / "nodes.json.corrupt").read_bytes() == data
    line = caplog.records[-1].getMessage()
    assert "set aside" in line and len(line) < 600


def test_one_bad_line_costs_that_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "nodes.json"
    record = Enr.sign(identity("a"), 1, {})
    nodes = [5, record.text, "enr:x", None, ["enr:x"], {}, record.text[:-3], "x" * 10_000]
    path.write_text(json.dumps({"version": 1, "record": record.text, "nodes": nodes}))
    assert load(path) == State(record, [record])
    assert path.exists() and len(caplog.records) == len(nodes) - 1


def test_every_half_of_a_file_is_set_aside_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    record = Enr.sign(identity("a"), 1, {})
    save(path, State(record, [record] * 2))
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert load(path) == State()
    path.write_bytes(whole)
    assert load(path) == State(record, [record] * 2)


async def test_a_corrupt_file_that_cannot_be_set_aside_is_not_fatal(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    path.write_text("rubbish")
    (tmp_path / "nodes.json.corrupt" / "in the way").mkdir(parents=True)
    async with open_discv5(identity("a"), state=path) as a:
        record = a.record
    assert kept(path).record == record


async def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"nodes.json.new.{os.getpid()}").mkdir()  # also for root
    async with open_discv5(identity("a"), state=tmp_path / "nodes.json") as a, open_discv5(identity("b")) as b:
        await meet(a, b)
    assert any("not saved" in record.getMessage() for record in caplog.records)
    assert not (tmp_path / "nodes.json").exists()


def test_what_is_left_of_a_save_that_was_killed_is_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nodes.json"
    record = Enr.sign(identity("a"), 1, {})
    save(path, State(record, []))

    fresh = tmp_path / f"nodes.json.new.{os.getpid()}"
    fresh.write_bytes(b"half")
    assert load(path) == State(record, [])
    save(path, State(record, [record]))
    assert load(path) == State(record, [record]) and not fresh.exists()


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nodes.json"
    record = Enr.sign(identity("a"), 1, {})
    save(path, State(record, []))

    def refused(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refused)
            with pytest.raises(OSError, match="No space left"):
                save(path, State(record, [record] * 50))
    assert os.listdir(tmp_path) == ["nodes.json"] and load(path) == State(record, [])


def test_the_directory_is_synced_once_the_file_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nodes.json"
    synced: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def told(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", told)
    save(path, State(Enr.sign(identity("a"), 1, {}), []))
    assert synced == [(False, False), (True, True)]


def test_what_is_no_regular_file_is_neither_opened_nor_replaced(tmp_path: Path) -> None:
    """A device is none either, but what goes wrong here must not go wrong with one."""
    place, fifo, link = tmp_path / "socket", tmp_path / "fifo", tmp_path / "link"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place))
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for path in (place, tmp_path, fifo, link):
        for act in (save, lambda path, _: load(path)):
            with pytest.raises(OSError, match="not a regular file") as caught:
                act(path, State())
            assert caught.value.filename == str(path)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link", "socket"]
    assert link.is_symlink() and stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no file here that has more bytes than its size")
def test_no_more_is_read_than_a_state_may_have(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state_module, "_MAX_BYTES", 100)
    assert load(Path("/proc/self/status")) == State()
    assert "more than 100 bytes" in caplog.records[-1].getMessage()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    there, path = tmp_path / "there", tmp_path / "nodes.json"
    there.mkdir()
    path.symlink_to(there / "state")
    record = Enr.sign(identity("a"), 1, {})
    assert load(path) == State()
    save(path, State(record, []))
    assert path.is_symlink() and load(there / "state") == load(path) == State(record, [])
    (there / "state").write_text("rubbish")
    assert load(path) == State()
    assert path.is_symlink() and os.listdir(there) == ["state.corrupt"]
    save(path, State(record, []))
    assert path.is_symlink() and load(there / "state") == State(record, [])


async def test_a_record_that_none_can_follow_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "nodes.json"
    save(path, State(Enr.sign(identity("a"), 2**64 - 1, {}), []))
    async with open_discv5(identity("a"), state=path) as a:
        assert a.record.seq < 2**64 - 1
    assert (tmp_path / "nodes.json.corrupt").exists()
    assert any("last sequence number" in record.getMessage() for record in caplog.records)


async def test_the_file_is_read_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def told(path: Path) -> State:
        threads.append(threading.current_thread())
        return load(path)

    monkeypatch.setattr("pyp2p.discv5.service.load", told)
    async with open_discv5(identity("a"), state=tmp_path / "nodes.json"):
        pass
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


KILLED = """
import sys
from pathlib import Path
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.state import State, save
from tests.discv5.support import identity
record = Enr.sign(identity("a"), 1, {})
seq = 1
print("ready", flush=True)
while True:
    seq += 1
    save(Path(sys.argv[1]), State(Enr.sign(identity("a"), seq, {}), [record] * 300))
    print(seq, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_file_is_whole_and_has_the_last_record(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    for saves in (1, 3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            said = [process.stdout.readline() for _ in range(saves + 1)]
        finally:
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
            process.stdout.close()
            process.wait()
        lines = [line for line in [*said, *rest.splitlines()] if line.strip()]
        found = load(path)
        assert found.record is not None and len(found.nodes) == 300
        assert found.record.seq >= int(lines[-1])  # what was said to be saved is


async def test_only_one_thread_writes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block is left while a save is under way: it ends first, then the last one is made."""
    path = tmp_path / "nodes.json"
    at_once: list[int] = []
    running = 0
    started, go_on = threading.Event(), threading.Event()
    guard = threading.Lock()

    def slow(where: Path, state: State) -> None:
        nonlocal running
        with guard:
            running += 1
            at_once.append(running)
        if len(at_once) == 2:
            started.set()
            go_on.wait(PATIENCE)
        save(where, state)
        with guard:
            running -= 1

    monkeypatch.setattr("pyp2p.discv5.service.save", slow)
    async with trio.open_nursery() as nursery, open_discv5(identity("a"), state=path) as a:
        a.set_record(attnets=bytes(8))
        record = a.record
        await until(started.is_set)

        async def later() -> None:
            await trio.testing.wait_all_tasks_blocked()  # a second save would have begun its thread
            go_on.set()

        nursery.start_soon(later)
    assert set(at_once) == {1} and len(at_once) == 3
    assert kept(path).record == record
    assert os.listdir(tmp_path) == ["nodes.json"]
