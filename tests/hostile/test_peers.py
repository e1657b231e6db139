"""Strangers at the peer manager and the address book: cases 97 to 99."""

import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from multiaddr import Multiaddr

from pyp2p.beacon.book import BookLimits, MemoryBook, open_book
from pyp2p.beacon.book_file import BookFile
from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.beacon.peer_types import Ban, BanIp, Dial, Disconnect, PeerConfig, Unban
from pyp2p.beacon.scores import Tolerance
from tests.hostile.gossip import memory_below
from tests.unit.beacon.peers_support import IN, OUT, Script, attnet, ip, of, peer

pytestmark = pytest.mark.hostile

W = 1_700_000_000.0


def knock(script: Script, name: object, at: int) -> bool:
    """A stranger connects if it is let in."""
    if script.manager.refusal(peer(name), ip(at), IN, script.now):
        return False
    script.manager.connected(peer(name), IN, ip(at), script.now)
    return True


# --- 97: eclipse


def test_hostile_097_idle_peers_that_take_every_inbound_place_leave_the_outbound_ones() -> None:
    script = Script(target=50)
    for at in range(10_000):
        knock(script, f"foe {at}", at)
    assert script.manager.counters() | {"inbound": 45, "outbound": 0} == script.manager.counters()
    for at in range(10):
        assert script.manager.refusal(peer(at), ip(at), OUT, script.now) is None
        script.join(at)
    script.poll(60.0)
    assert [name for name in range(10) if peer(name) not in script.here] == []


@pytest.mark.parametrize("minutes", [120])
def test_hostile_097_a_stream_of_idle_newcomers_takes_no_place_of_those_that_are_of_use(minutes: int) -> None:
    script = Script(target=50, static=[peer("static")], trusted=[peer("trusted")])
    script.join("static", "trusted", *range(10))
    script.join(*range(10, 40), direction=IN)
    script.now += 60
    for at in range(minutes * 2):
        for name in range(40):
            script.manager.served(peer(name), script.now)
        for foe in range(100):
            knock(script, f"foe {at} {foe}", foe)
        script.poll(30.0)
    assert {peer(name) for name in ("static", "trusted", *range(40))} <= set(script.here)
    assert script.manager.counters()["connected"] <= PeerConfig(target=50).most


def test_hostile_097_idle_peers_make_room_for_honest_ones_that_come_later() -> None:
    script = Script(target=50)
    for at in range(10_000):
        knock(script, f"foe {at}", at)
    script.join(*(f"ours {at}" for at in range(10)))
    script.now += 60
    came = 0
    for beat in range(100):
        for at in range(came, 40):  # they try until they are let in
            if not knock(script, at, at):
                break
            came += 1
        for at in range(came):
            script.manager.served(peer(at), script.now)
        if beat % 2:
            knock(script, f"another foe {beat}", beat)
        script.poll(30.0)
    assert came >= 35
    assert sum(peer(at) in script.here for at in range(40)) >= 35


def test_hostile_097_liars_about_subnets_hold_no_more_places_than_there_are_subnets() -> None:
    script = Script(target=50, outbound=0.0)
    wanted = [attnet(at) for at in range(4)]
    for subnet in wanted:
        script.manager.want_subnet(subnet, float("inf"))
    foes = [f"foe {at}" for at in range(10)]
    script.join(*foes, direction=IN)
    for foe in foes:
        script.manager.metadata(peer(foe), seq=1, attnets=range(64))
        script.manager.report(peer(foe), Tolerance.MID, "garbage", script.now)
    script.join(*range(45), direction=IN)
    for at in range(45):
        script.manager.served(peer(at), script.now)
    script.poll(60.0)
    assert sum(peer(foe) in script.here for foe in foes) == 5  # as many as there was room for


# --- 98: tables


def test_hostile_098_made_up_peers_that_misbehave_fill_no_table() -> None:
    script = Script(target=10, bans=500, remembered_faults=300, remembered_good=50)
    good = script.join("good")[0]
    script.poll(120.0)
    script.manager.disconnected(good, script.now)
    effects = 0
    with memory_below(4_000_000):
        for at in range(5_000):
            foe = peer(at)
            script.manager.connected(foe, IN, ip(at), script.now)
            script.manager.report(foe, (Tolerance.FATAL, Tolerance.HIGH)[at % 2], "garbage", script.now)
            script.manager.ping_failed(peer(f"away {at}"), script.now)
            effects += len(script.manager.poll(script.now))
            script.manager.disconnected(foe, script.now)
            script.now += 1
    counters = script.manager.counters()
    assert (counters["banned"], counters["remembered_faults"], counters["connected"]) == (500, 300, 0)
    assert effects < 30_000
    assert len(script.manager.take_scores(script.now)) <= 4096


def test_hostile_098_a_ban_that_gives_way_is_told() -> None:
    script = Script(bans=3)
    for at in range(5):
        script.manager.restore_ban(peer(at), ip(at), 100.0 + at, script.now)
    effects = script.poll()
    assert [ban.peer for ban in of(Ban, effects)] == [peer(at) for at in range(2, 5)]  # those that stand
    assert [each.peer for each in of(Unban, effects)] == [peer(0), peer(1)]
    assert script.manager.refusal(peer(0), None, IN, script.now) is None


def test_hostile_098_good_peers_that_are_remembered_are_bounded_and_the_first_to_leave_goes_first() -> None:
    script = Script(target=200, remembered_good=5)
    peers = script.join(*range(10))
    script.now += 60
    for each in peers:
        script.manager.disconnected(each, script.now)
        script.now += 1
    assert [dial.peer for dial in of(Dial, script.poll(60.0))] == peers[:4:-1]


def test_hostile_098_a_million_addresses_and_peers_find_the_books_bounds() -> None:
    book = MemoryBook(BookLimits(dialled=50, strangers=30, addresses=20))
    for at in range(20):
        book.met(peer(f"true {at}"), W, addresses=[Multiaddr("/ip4/203.0.113.7/tcp/9000")], dialled=True)
    many = [Multiaddr(f"/ip4/198.51.100.{at & 255}/tcp/{1024 + at}") for at in range(5_000)]
    long = Multiaddr("/dns4/" + ".".join(["a" * 60] * 4) + "/tcp/1/tls/sni/" + "b" * 60 + "/ws")
    claims, agent = [long, *many], "x" * 1_000_000
    with memory_below(200_000):
        book.met(peer("liar"), W, addresses=claims, agent=agent)
        for at in range(50_000):
            book.met(peer("stranger"), W + at, agent="y")
            book.scored(peer(at % 1000), -1.0, W + at)
    assert Counter(each.dialled for each in book.peers().values()) == {True: 20, False: 30}
    book.met(peer("liar"), W, addresses=claims, agent=agent)
    known = book.get(peer("liar"))
    assert known is not None and (len(known.addresses), len(known.agent)) == (20, 256)
    assert book.addresses(peer("liar"))[0] == many[0]
    for at in range(200):
        book.met(peer(at), W, dialled=True)
    assert sum(each.dialled for each in book.peers().values()) == 50


async def test_hostile_098_bans_in_the_book_are_bounded_and_the_first_to_end_goes_first() -> None:
    book = MemoryBook(BookLimits(bans=3))
    for at in (5, 1, 4, 2, 3):
        await book.ban(peer(at), None, W + at)
    assert sorted(left for _, _, left in book.bans(W)) == [3.0, 4.0, 5.0]


async def test_hostile_098_what_changed_while_the_disk_is_full_is_bounded_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def full(_: BookFile, peers: list[object], bans: list[object], **__: object) -> None:
        tried.append(len(peers) + len(bans))
        raise sqlite3.OperationalError("database or disk is full")

    path = tmp_path / "peers.sqlite"
    limits = BookLimits(dialled=10, strangers=10, bans=10)
    async with open_book(path, limits=limits) as book:
        for at in range(20):
            book.met(peer(f"old {at}"), W, dialled=bool(at % 2))
        await book.ban(peer("old"), None, W)
        with monkeypatch.context() as patch, memory_below(1_000_000):
            patch.setattr(BookFile, "write", full)
            for at in range(20_000):
                book.met(peer(at), W + at, dialled=bool(at % 2))
            for at in range(100):
                await book.ban(peer(at), None, W + at)
        assert max(tried) <= 10 + 10 + 2 * 10
    assert sqlite3.connect(path).execute("SELECT count(*) FROM bans").fetchone() == (10,)
    async with open_book(path, limits=limits) as book:
        assert Counter(each.dialled for each in book.peers().values()) == {True: 10, False: 10}
        assert set(book.peers()) == {peer(at) for at in range(19_980, 20_000)}
        assert {who for who, _, _ in book.bans(W)} == {peer(at) for at in range(90, 100)}


async def test_hostile_098_bans_that_cannot_be_written_are_bounded_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def full(_: BookFile, peers: list[object], bans: list[object], **__: object) -> None:
        tried.append(len(bans))
        raise sqlite3.OperationalError("database or disk is full")

    path = tmp_path / "peers.sqlite"
    async with open_book(path, limits=BookLimits(bans=10)) as book:
        await book.ban(peer("old"), None, W)
        with monkeypatch.context() as patch:
            patch.setattr(BookFile, "write", full)
            for at in range(100):
                await book.ban(peer(at), None, W + at)
        assert len(tried) >= 100 and max(tried) <= 20
    async with open_book(path) as book:
        assert {who for who, _, _ in book.bans(0.0)} == {peer(at) for at in range(90, 100)}


# --- 99: time


def test_hostile_099_a_wall_clock_that_jumps_bans_and_frees_nobody_for_longer_than_12_hours() -> None:
    script = Script()
    for at, seconds in enumerate((3e7, -3e7)):  # a year in each direction, as the book's times would give
        script.manager.restore_ban(peer(at), ip(at), seconds, script.now)
        script.manager.restore(peer(f"score {at}"), -40.0, False, seconds, script.now)
    assert [ban.until - script.now for ban in of(Ban, script.poll())] == [12 * 3600.0]
    assert [script.manager.score(peer(f"score {at}"), script.now) for at in range(2)] == [0.0, -40.0]


def test_hostile_099_time_that_goes_back_or_stands_still_changes_nothing() -> None:
    script = Script(target=5)
    rng = random.Random(1)
    script.join(*range(5))
    for _ in range(1000):
        script.now += rng.choice((-40.0, -1.0, 0.0, 1.0, 40.0))
        script.manager.ping_failed(peer(9), script.now - rng.random() * 1e6)
        assert of(Disconnect, script.poll()) == []
    assert len(script.here) == 5


def test_hostile_099_after_a_stall_there_is_one_beat() -> None:
    script = Script(target=5)
    script.join(*range(5))
    script.poll()
    assert script.poll(86_400.0) == [] and script.manager.next_wake() == script.now + 30


# --- addresses


def test_hostile_098_a_host_with_a_thousand_identities_is_out_after_six() -> None:
    script = Script(target=100)
    let_in = 0
    for at in range(1000):
        if knock(script, at, 7):
            let_in += 1
            script.manager.report(peer(at), Tolerance.FATAL, "forged", script.now)
            script.poll()
    assert let_in == 6 and len(of(BanIp, script.effects)) == 1
    assert {each.code for each in of(Disconnect, script.effects)} == {GoodbyeReason.BANNED}
