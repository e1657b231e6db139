"""The address book: what is kept, within which bounds, and what its file survives.

Time is virtual wherever anything sleeps (`autojump_clock`; in the process that is killed a clock that runs a hundred
times too fast, and nobody waits for it).
"""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio
from multiaddr import Multiaddr
from trio.testing import MockClock

from pyp2p.beacon.book import BookLimits, FileBook, MemoryBook, open_book
from pyp2p.beacon.book_file import BookFile, Contents, Entry, open_file
from tests.unit.beacon.peers_support import peer

A, B, C = peer("a"), peer("b"), peer("c")
HOME = Multiaddr("/ip4/203.0.113.7/tcp/9000")
AWAY = Multiaddr("/ip6/2001:db8::7/udp/9001/quic-v1")
IP = ip_address("203.0.113.7")
W = 1_700_000_000.0


def contents(path: Path) -> Contents:
    """What a file holds, as another process would find it."""
    file, found = open_file(path, 10_000, 10_000)
    assert file is not None
    file.close()
    return found


# --- in memory


async def test_what_was_learnt_last_of_a_peer_counts() -> None:
    book = MemoryBook()
    book.met(A, W, addresses=[HOME, AWAY, HOME], agent="Lighthouse/v1", dialled=True)
    book.met(A, W + 5)
    book.scored(A, -7.5, W + 6)
    known = book.get(A)
    assert known is not None and (known.score, known.scored, known.seen) == (-7.5, W + 6, W + 5)
    assert (known.agent, known.dialled, book.addresses(A)) == ("Lighthouse/v1", True, [HOME, AWAY])
    book.met(A, W + 9, addresses=[AWAY], agent="Lighthouse/v2")
    assert book.addresses(A) == [AWAY] and book.get(A).agent == "Lighthouse/v2" and book.get(A).score == -7.5
    assert book.get(B) is None and book.addresses(B) == []


async def test_a_score_of_a_stranger_is_kept_when_it_is_bad() -> None:
    book = MemoryBook()
    for who, score in ((A, 3.0), (B, -3.0), (C, float("nan"))):
        book.scored(who, score, W)
    assert list(book.peers()) == [B]


async def test_bans_end_and_are_told_with_what_is_left() -> None:
    book = MemoryBook()
    await book.ban(A, IP, W + 100)
    await book.ban(B, None, W + 50)
    await book.ban(A, None, W + 10)  # never shortened
    assert list(book.bans(W)) == [(A, IP, 100.0), (B, None, 50.0)]
    assert [each[0] for each in book.bans(W + 60)] == [A]
    await book.unban(A)
    await book.unban(C)
    assert [each[0] for each in book.bans(W)] == [B]


async def test_a_book_without_a_file_uses_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object, **__: object) -> None:
        pytest.fail("a thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", refused)
    async with open_book(None) as book:
        book.met(A, W)
        await book.ban(A, None, W + 1)
        await book.unban(A)


@pytest.mark.parametrize("name", ["dialled", "strangers", "bans", "addresses", "address", "agent"])
def test_bounds_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        BookLimits(**{name: 0})


# --- over a restart


async def test_all_of_it_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite"
    async with open_book(path) as book:
        assert isinstance(book, FileBook) and book.peers() == {} and list(book.bans(W)) == []
        book.met(B, W, addresses=[AWAY], dialled=True)
        book.met(A, W + 1, addresses=[HOME], agent="Lodestar/\x1b[2J\ud800\x00", dialled=True)
        book.met(C, W + 2)
        book.scored(C, -12.5, W + 3)
        await book.ban(B, IP, W + 100)
        before = book.peers()
    async with open_book(path) as book:
        assert list(book.peers().items()) == list(before.items()) and list(before) == [C, B, A]
        assert list(book.bans(W)) == [(B, IP, 100.0)] and book.addresses(A) == [HOME]
        await book.unban(B)
    async with open_book(path) as book:
        assert list(book.peers()) == [C, B, A] and list(book.bans(W)) == []
    assert os.listdir(tmp_path) == ["peers.sqlite"]


class Inline:
    """Work that would go to the thread is done in place and counted, so that virtual time is exact."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes = 0
        monkeypatch.setattr(trio.to_thread, "run_sync", self.run)

    async def run(self, work, *args: object, **_: object) -> object:
        await trio.lowlevel.checkpoint()
        self.writes += "write" in repr(work)
        return work(*args)


async def test_scores_are_written_every_five_seconds_and_bans_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    path, inline = tmp_path / "peers.sqlite", Inline(monkeypatch)
    async with open_book(path) as book:
        book.scored(A, -5.0, W)
        await trio.sleep(4.9)
        assert (inline.writes, contents(path).peers) == (0, {})
        await trio.sleep(0.2)
        assert (inline.writes, contents(path).peers[A].score) == (1, -5.0)
        await trio.sleep(60)
        assert inline.writes == 1  # nothing changed
        for _ in range(100):
            book.scored(A, -6.0, W)
        await book.ban(B, None, W + 1)
        assert (inline.writes, list(contents(path).bans)) == (2, [B])
        await book.ban(B, None, W + 1.5)
        assert inline.writes == 2  # the same ban, told again after a restart
    assert contents(path).peers[A].score == -6.0


async def test_the_file_is_touched_by_a_thread_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    write = BookFile.write

    def told(self: BookFile, *args: object, **options: object) -> None:
        threads.append(threading.current_thread())
        write(self, *args, **options)

    monkeypatch.setattr(BookFile, "write", told)
    async with open_book(tmp_path / "peers.sqlite") as book:
        await book.ban(A, None, W)
    assert threads and threading.main_thread() not in threads


async def test_what_changed_is_written_when_the_block_is_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite"
    with trio.CancelScope() as scope:
        async with open_book(path) as book:
            book.met(A, W)
            scope.cancel()
            await book.ban(B, None, W)
    assert list(contents(path).peers) == [A] and list(contents(path).bans) == [B]


KILLED = """
import sys
import trio
from trio.testing import MockClock
from pyp2p.beacon.book import open_book
from pyp2p.beacon.book_file import BookFile
from tests.unit.beacon.peers_support import peer

write, score = BookFile.write, 0

def told(self, peers, bans, **options):
    write(self, peers, bans, **options)
    for who, entry in peers:
        print("score", entry.score, flush=True)

BookFile.write = told

async def scores(book):
    global score
    while True:
        score -= 1
        book.scored(peer("a"), score, 0.0)
        await trio.sleep(1)

async def main():
    async with open_book(sys.argv[1]) as book, trio.open_nursery() as nursery:
        nursery.start_soon(scores, book)
        for number in range(10**9):
            await trio.sleep(3)
            await book.ban(peer(number), None, 1e12)
            print("ban", number, flush=True)

trio.run(main, clock=MockClock(rate=100))
"""


@pytest.mark.slow
def test_killed_it_loses_no_ban_and_no_score_that_was_written(tmp_path: Path) -> None:
    for lines in (1, 4, 9):
        path = tmp_path / f"{lines}.sqlite"
        with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(lines)]
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read().split(b"\n")[:-1]
        found = contents(path)
        told = [line.split() for line in said]
        assert {peer(int(value)) for what, value in told if what == b"ban"} <= found.bans.keys()
        written = [float(value) for what, value in told if what == b"score"]
        assert not written or found.peers[A].score <= min(written)


# --- files that are none


def whole(path: Path) -> bytes:
    """A file with some of everything."""
    file, _ = open_file(path, 1, 1)
    assert file is not None
    book = MemoryBook()
    for at in range(300):
        book.met(peer(at), W + at, addresses=[HOME, AWAY], agent="x" * 100, dialled=True)
    file.write(list(book.peers().items()), [])
    file.close()
    return path.read_bytes()


async def opened(path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Start with the file, use the book, and start again: the warning of the first start."""
    caplog.clear()
    async with open_book(path) as book:
        told = " / ".join(record.getMessage() for record in caplog.records)
        book.met(A, W)
        await book.ban(B, None, W + 5)
        assert list(book.bans(W)) == [(B, None, 5.0)]
    return told


@pytest.mark.parametrize(
    "data", [b"rubbish", b"x" * 10_000, b"SQLite format 3\x00", b"SQLite format 3\x00" + b"\xff" * 9000], ids=range(4)
)
async def test_what_is_no_database_is_set_aside(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "peers.sqlite"
    path.write_bytes(data)
    assert "set aside" in await opened(path, caplog)
    assert (tmp_path / "peers.sqlite.corrupt").read_bytes() == data
    assert list(contents(path).peers) == [A]


async def test_a_file_cut_anywhere_is_set_aside_or_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "peers.sqlite"
    data = whole(path)
    assert len(data) > 10 * 4096
    for size in (0, 1, 99, 100, 1000, 4095, 4096, 4097, 8192, 20_000, len(data) - 4096, len(data) - 1):
        path.write_bytes(data[:size])
        assert ("set aside" in await opened(path, caplog)) is (99 <= size < len(data) - 1)
        assert A in contents(path).peers


async def test_damage_inside_is_set_aside_or_costs_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "peers.sqlite"
    data = whole(path)
    for at in range(0, len(data), 1777):
        path.write_bytes(data[:at] + b"\xa5" * 64 + data[at + 64 :])
        await opened(path, caplog)
        assert A in contents(path).peers


async def test_a_journal_of_a_file_that_is_set_aside_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite"
    whole(path)
    os.truncate(path, 128 * 1024 * 1024 + 1)
    for suffix in ("-journal", "-wal", "-shm"):
        (tmp_path / f"peers.sqlite{suffix}").write_bytes(b"old")
    async with open_book(path) as book:
        book.met(A, W)
    assert list(contents(path).peers) == [A]
    asides = {f"peers.sqlite{suffix}.corrupt" for suffix in ("", "-journal", "-wal", "-shm")}
    assert set(os.listdir(tmp_path)) == {"peers.sqlite"} | asides


async def test_pages_in_the_wrong_order_are_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All rows can be read, and what is written later would go astray."""
    path = tmp_path / "peers.sqlite"
    data = whole(path)
    leaves = [at for at in range(4096, len(data), 4096) if data[at] == 0x0A and data[at + 3 : at + 5] > b"\x00\x01"]
    one, other = leaves[:2]
    pages = {one: data[other : other + 4096], other: data[one : one + 4096]}
    path.write_bytes(b"".join(pages.get(at, data[at : at + 4096]) for at in range(0, len(data), 4096)))
    assert "damaged" in await opened(path, caplog)


async def test_a_file_that_is_too_large_to_be_ours_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "peers.sqlite"
    whole(path)
    os.truncate(path, 128 * 1024 * 1024 + 1)
    assert "more than 134217728 bytes" in await opened(path, caplog)


def test_a_batch_that_fails_changes_nothing_and_stops_no_later_one(tmp_path: Path) -> None:
    file, _ = open_file(tmp_path / "peers.sqlite", 1, 1)
    assert file is not None
    with pytest.raises(UnicodeEncodeError):
        file.write([(A, Entry()), (B, Entry(agent="\ud800"))], [])
    file.write([(C, Entry())], [])
    file.close()
    assert list(contents(tmp_path / "peers.sqlite").peers) == [C]


async def test_what_finds_no_place_in_a_smaller_book_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite"
    async with open_book(path) as book:
        for at in range(20):
            book.met(peer(at), W + at, dialled=at < 5)
    async with open_book(path, limits=BookLimits(dialled=15, strangers=5)) as book:
        assert set(book.peers()) == {peer(at) for at in (*range(5), *range(15, 20))}
    assert len(contents(path).peers) == 10


def change(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "aside", "why"),
    [
        ("PRAGMA user_version = 2", ".version-2", "version 2 instead of 1"),
        ("PRAGMA application_id = 7", ".corrupt", "another program"),
        ("DROP TABLE bans", ".corrupt", "bans"),
        ("ALTER TABLE peers RENAME COLUMN agent TO client", ".corrupt", "agent"),
    ],
)
async def test_a_database_that_is_not_of_this_version_is_set_aside_whole(
    tmp_path: Path, statement: str, aside: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "peers.sqlite"
    whole(path)
    change(path, statement)
    data = path.read_bytes()
    assert why in await opened(path, caplog)
    assert path.with_name(path.name + aside).read_bytes() == data and list(contents(path).peers) == [A]


@pytest.mark.parametrize(
    "values",
    [
        "x'00', '[]', 0, 0, 0, '', 0",
        "'text', '[]', 0, 0, 0, '', 0",
        "5, '[]', 0, 0, 0, '', 0",
        "NULL_ID, '{}', 0, 0, 0, '', 0",
        "NULL_ID, '[5]', 0, 0, 0, '', 0",
        "NULL_ID, '[', 0, 0, 0, '', 0",
        "NULL_ID, 7, 0, 0, 0, '', 0",
        "NULL_ID, '[]', 'many', 0, 0, '', 0",
        "NULL_ID, '[]', 9e999, 0, 0, '', 0",
        "NULL_ID, '[]', 0, 0, 0, CAST(x'ff' AS TEXT), 0",
    ],
)
async def test_a_row_that_makes_no_sense_costs_that_row(
    tmp_path: Path, values: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "peers.sqlite"
    async with open_book(path) as book:
        book.met(A, W, addresses=[HOME])
    change(path, f"INSERT INTO peers VALUES ({values})".replace("NULL_ID", f"x'{B.raw.hex()}'"))
    change(path, "INSERT INTO bans VALUES (x'00', '', 5)", f"INSERT INTO bans VALUES (x'{C.raw.hex()}', '?', 5)")
    async with open_book(path) as book:
        assert list(book.peers()) == [A] and list(book.bans(0.0)) == [(C, None, 5.0)]
    assert [record.getMessage() for record in caplog.records] == ["rows of the address book left out count=1"] * 2


async def test_addresses_that_are_none_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite"
    async with open_book(path) as book:
        book.met(A, W, addresses=[HOME])
    texts = '["rubbish", "/ip4/0.0.0.0/tcp/1", "/ip4/203.0.113.7/tcp/9000", "\\u001b"]'
    change(path, f"UPDATE peers SET addresses = '{texts}'")
    async with open_book(path) as book:
        assert book.addresses(A) == [HOME]


# --- files that cannot be used


@contextmanager
def nobody() -> Iterator[None]:
    """Root may write anywhere: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that anybody may enter, whose parents too are open while the test runs."""
    folder = tmp_path_factory.mktemp("shelf")
    modes = {each: each.stat().st_mode for each in (folder, *folder.parents) if not each.stat().st_mode & 1}
    for each in modes:
        each.chmod(0o755)
    yield folder
    for each, mode in modes.items():
        each.chmod(mode)


async def test_a_file_that_may_only_be_read_is_read_and_warned_of_once(
    shelf: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    path = shelf / "peers.sqlite"
    data = whole(path)
    os.chmod(path, 0o444)
    os.chmod(shelf, 0o555)
    Inline(monkeypatch)
    with nobody():
        async with open_book(path) as book:
            assert len(book.peers()) == 300
            await book.ban(A, None, W + 5)
            book.met(A, W)
            await trio.sleep(30)
            assert list(book.bans(W)) == [(A, None, 5.0)]
    assert path.read_bytes() == data
    (line,) = [record.getMessage() for record in caplog.records]
    assert "cannot be written" in line and "readonly" in line


@pytest.mark.parametrize("place", ["folder", "fifo", "no/such/peers.sqlite", "nul\x00", "locked"])
async def test_with_a_file_that_cannot_be_used_the_book_is_in_memory(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyp2p.beacon.book_file._BUSY_SECONDS", 0.0)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    whole(tmp_path / "locked")
    with sqlite3.connect(tmp_path / "locked", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "in memory only" in await opened(tmp_path / place, caplog)
    other.close()
    assert len(contents(tmp_path / "locked").peers) == 300


async def test_a_new_file_in_a_folder_that_may_only_be_read(shelf: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.chmod(shelf, 0o555)
    with nobody():
        assert "in memory only" in await opened(shelf / "peers.sqlite", caplog)
    assert os.listdir(shelf) == []


async def test_on_a_full_disk_it_is_warned_of_once_and_made_up_for_when_there_is_space(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    path = tmp_path / "peers.sqlite"
    Inline(monkeypatch)
    connections: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def noted(*args: object, **options: object) -> sqlite3.Connection:
        connections.append(connect(*args, **options))
        return connections[-1]

    async with open_book(path) as book:
        book.met(A, W)
    monkeypatch.setattr(sqlite3, "connect", noted)
    async with open_book(path) as book:
        disk = connections[-1]
        disk.execute("PRAGMA max_page_count = 3")
        for at in range(200):
            book.met(peer(at), W, agent="x" * 200)
        await book.ban(B, None, W + 5)
        await trio.sleep(30)
        assert "full" in caplog.records[-1].getMessage() and len(caplog.records) == 1
        monkeypatch.setattr(sqlite3, "connect", connect)
        assert list(contents(path).peers) == [A]
        disk.execute("PRAGMA max_page_count = 1000")
        await trio.sleep(5)
        assert len(contents(path).peers) == 201 and list(contents(path).bans) == [B]
        assert "written again" in caplog.records[-1].getMessage() and len(caplog.records) == 2


async def test_a_corrupt_file_that_cannot_be_set_aside_is_left_and_the_book_is_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "peers.sqlite"
    path.write_bytes(b"rubbish")
    (tmp_path / "peers.sqlite.corrupt" / "in the way").mkdir(parents=True)
    assert "cannot be set aside" in await opened(path, caplog)
    assert path.read_bytes() == b"rubbish"


async def test_a_disk_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def hangs(work, *args: object, abandon_on_cancel: bool = False, **_: object) -> object:
        if "write" not in repr(work):
            return work(*args)
        assert abandon_on_cancel
        return await trio.sleep_forever()

    monkeypatch.setattr(trio.to_thread, "run_sync", hangs)
    async with open_book(tmp_path / "peers.sqlite") as book:
        book.met(A, W)
        started = trio.current_time()
        file = book._file
    assert trio.current_time() - started == 10
    assert "not written" in caplog.records[-1].getMessage()
    file.close()
