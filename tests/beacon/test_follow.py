"""The follower of a made-up chain: blocks by gossip, what is missing by range, what is known served, liars shed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.containers import BeaconBlocksByHeadRequest, BeaconBlocksByRangeRequest
from pyp2p.beacon.devchain import genesis_block, make_block
from pyp2p.beacon.folder import BlockFolder
from pyp2p.beacon.follow import Blocks, CaughtUp, Follower, Imported, load_blocks, open_follower
from pyp2p.beacon.methods import ForkBytes
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.topics import GOSSIP_TYPES, Topic
from pyp2p.testing import Sim, simulated
from tests.beacon.support import SEEDS, beacon, chain, knows, meet, of_kind
from tests.switch.support import until


@asynccontextmanager
async def follower(sim: Sim, name: str, of, **options) -> AsyncIterator[Follower]:
    async with beacon(sim, name, of, **options) as net, open_follower(net) as one:
        yield one


def grow(one: Follower, *slots: int) -> list:
    """Blocks on the head, as if they had come in time."""
    made = []
    for slot in slots:
        block = make_block(one.chain, slot, one.tree.head.root)
        assert one._import(block)
        made.append(block)
    return made


async def chunks(net: BeaconNetwork, other: BeaconNetwork, method, request) -> list[bytes]:
    async with await net.request(other.peer, method, request) as answer:
        return [chunk.ssz async for chunk in answer]


@asynccontextmanager
async def news(one: Follower) -> AsyncIterator[list]:
    told: list = []
    async with one.watch() as events, trio.open_nursery() as nursery:

        async def note() -> None:
            async for event in events:
                told.append(event)

        nursery.start_soon(note)
        yield told
        nursery.cancel_scope.cancel()


@simulated(SEEDS)
async def test_a_block_that_one_makes_is_everybodys(sim: Sim) -> None:
    of = chain()
    async with follower(sim, "a", of) as a, follower(sim, "b", of) as b, follower(sim, "c", of) as c:
        await meet(a.net, b.net)
        await meet(b.net, c.net)
        await trio.sleep(3)
        async with news(c) as told:
            made = await a.produce_one(await a.net.clock.next_slot())
            await trio.sleep(1)
            assert [one.tree.head for one in (b, c)] == [made, made]
            (imported,) = of_kind(Imported, told)
            assert (imported.block, imported.source, imported.how) == (made, b.net.peer, "gossip")
        assert c.net.status.head_slot == made.slot
        assert c.net.status.head_root == made.root
        assert await a.produce_one(made.slot) is None


@simulated(SEEDS)
async def test_a_block_that_nobody_hears_is_ours_all_the_same(sim: Sim) -> None:
    async with follower(sim, "a", chain()) as a, news(a) as told:
        made = await a.produce_one(await a.net.clock.next_slot())
        await trio.sleep(0.1)
        assert a.tree.head == made
        assert [each.how for each in of_kind(Imported, told)] == ["own"]


@simulated(SEEDS)
async def test_whoever_comes_late_fetches_what_there_was_by_range(sim: Sim) -> None:
    of = chain(started=600, epochs_per_fork=10)
    async with follower(sim, "a", of) as a, follower(sim, "late", of) as late, news(late) as told:
        made = grow(a, *range(1, 100), *range(150, 300, 3))
        await meet(late.net, a.net)
        await until(lambda: late.tree.head == made[-1])
        await trio.sleep(1)
        (caught,) = of_kind(CaughtUp, told)
        assert (caught.peer, caught.count, caught.first, caught.last) == (a.net.peer, len(made), 1, 297)
        assert [each.how for each in of_kind(Imported, told)] == ["range"] * len(made)


@simulated(SEEDS)
async def test_a_gap_that_gossip_shows_is_filled(sim: Sim) -> None:
    of = chain()
    async with follower(sim, "a", of) as a, follower(sim, "b", of) as b:
        await meet(a.net, b.net)
        await trio.sleep(7)
        grow(a, 1, 2)
        made = await a.produce_one(await a.net.clock.next_slot())
        await until(lambda: b.tree.head == made)
        assert b.net.peers()[0].score >= 0


@simulated(SEEDS)
async def test_a_longer_branch_is_followed_from_where_it_began(sim: Sim) -> None:
    of = chain(started=600)
    async with follower(sim, "a", of) as a, follower(sim, "b", of) as b:
        for one in (a, b):
            grow(one, *range(1, 40))
        grow(b, *range(40, 60, 2))
        made = grow(a, *range(41, 101, 2))
        await meet(b.net, a.net)
        await until(lambda: b.tree.head == made[-1])
        assert b.net.peers()[0].score > 0


@simulated(SEEDS)
async def test_blocks_are_served_by_range_root_and_head(sim: Sim) -> None:
    of = chain(started=600, start="fulu")
    async with follower(sim, "a", of) as a, beacon(sim, "b", of) as b:
        made = grow(a, 1, 2, 5, 6)
        await meet(b, a.net)
        methods, at = b.methods, a.net
        by_range = await chunks(b, at, methods.beacon_blocks_by_range_v2, BeaconBlocksByRangeRequest(2, 4))
        assert by_range == [block.ssz for block in made[1:3]]
        roots = (made[3].root, bytes(32), made[0].root)
        by_root = await chunks(b, at, methods.beacon_blocks_by_root_v2, roots)
        assert by_root == [made[3].ssz, made[0].ssz]
        by_head = await chunks(b, at, methods.beacon_blocks_by_head_v1, BeaconBlocksByHeadRequest(made[2].root, 2))
        assert by_head == [made[2].ssz, made[1].ssz]
        nothing = await chunks(b, at, methods.beacon_blocks_by_head_v1, BeaconBlocksByHeadRequest(bytes(32), 2))
        assert nothing == []


@pytest.mark.parametrize(
    ("which", "verdict"),
    [
        ("garbage", "rejected"),
        ("one byte more", "rejected"),
        ("of another fork", "rejected"),
        ("of the future", "ignored"),
        ("of long ago", "ignored"),
        ("known", "ignored"),
        ("on nothing", "ignored"),
        ("of now", "accepted"),
    ],
)
@simulated(SEEDS[:1])
async def test_what_is_made_of_a_block(sim: Sim, which: str, verdict: str) -> None:
    of = chain(started=31, epochs_per_fork=2 if which == "of another fork" else 100)
    async with follower(sim, "a", of) as a, beacon(sim, "b", of) as b:
        (known,) = grow(a, 3)
        await meet(b, a.net)
        if which == "of another fork":
            await trio.sleep(b.clock.seconds_until(of.first_slot(2)) + 0.1)
        elif which == "of long ago":
            await trio.sleep(80)
        slots = {"of another fork": 12, "of the future": b.clock.slot + 1, "of long ago": 4}
        parent = bytes(32) if which == "on nothing" else known.root
        ssz = known.ssz if which == "known" else make_block(of, slots.get(which, b.clock.slot), parent).ssz
        if which == "garbage":
            ssz = ssz[:4] + b"\xff" * (len(ssz) - 4)
        elif which == "one byte more":
            ssz += b"\0"
        topic = str(Topic(b.clock.period.digest, GOSSIP_TYPES["beacon_block"]))
        await until(lambda: b.pubsub.peers(topic))
        await b.pubsub.publish(topic, ssz)
        await trio.sleep(1)
        counted = {what for what in ("accepted", "ignored", "rejected") if a.net.pubsub.counters[what, topic]}
        assert counted == {verdict}
        assert (len(a.tree) == 3) == (verdict == "accepted")


# --- liars


@asynccontextmanager
async def against(sim: Sim, answer) -> AsyncIterator[tuple[Follower, BeaconNetwork]]:
    """A follower whose only peer says it has a head of slot 250, and answers requests by range as `answer` says."""
    of = chain(started=600)
    async with follower(sim, "a", of) as a, beacon(sim, "liar", of) as liar:
        liar.status = replace(liar.status, head_slot=250)
        liar.reqresp.serve(liar.methods.beacon_blocks_by_range_v2, answer)
        await meet(a.net, liar)
        yield a, liar


def in_the_air(of, slot: int) -> ForkBytes:
    return ForkBytes(of.at_slot(slot).digest, make_block(of, slot, b"\x55" * 32).ssz)


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_083_blocks_on_none_that_we_know_cost_and_end(sim: Sim) -> None:
    of = chain(started=600)

    async def answer(connection, request):
        yield in_the_air(of, request.start_slot)

    async with against(sim, answer) as (a, liar):
        await until(lambda: not knows(a.net, liar))
        assert a.tree.head.slot == 0


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_083_gaps_before_blocks_in_the_air_do_not_keep_us_asking_one_peer_for_ever(sim: Sim) -> None:
    of = chain(started=600)

    async def answer(connection, request):
        if request.start_slot > 60:
            yield in_the_air(of, request.start_slot)

    async with against(sim, answer) as (a, liar), follower(sim, "honest", of) as honest:
        made = grow(honest, *range(1, 200))
        await meet(a.net, honest.net)
        await until(lambda: a.tree.head == made[-1])
        await trio.sleep(60)
        assert not knows(a.net, liar)
        assert a.net.peers()[0].score >= 0


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_083_blocks_that_are_none_of_the_chain_cost(sim: Sim) -> None:
    of = chain(started=600)

    async def answer(connection, request):
        block = make_block(of, request.start_slot, b"\x55" * 32).ssz
        yield ForkBytes(of.at_slot(request.start_slot).digest, block[:-1] + b"\x01")

    async with against(sim, answer) as (a, liar):
        await until(lambda: not knows(a.net, liar))
        assert a.tree.head.slot == 0


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_083_blocks_that_are_not_after_their_parent_cost(sim: Sim) -> None:
    of = chain(started=600)
    parents: list = []

    async def answer(connection, request):
        if not parents:  # an honest one first, for the others to be built on
            if request.start_slot + request.count > 240:
                parents.append(make_block(of, 240, genesis_block(of).root))
                yield ForkBytes(of.at_slot(240).digest, parents[0].ssz)
        elif request.start_slot == 241:
            yield in_the_air(of, 241)
        else:
            slot = request.start_slot
            yield ForkBytes(of.at_slot(slot).digest, make_block(of, slot, parents[0].root).ssz)

    async with against(sim, answer) as (a, liar):
        await until(lambda: not knows(a.net, liar))
        assert a.tree.head == parents[0]


@simulated(SEEDS)
async def test_whoever_speaks_the_old_version_only_is_asked_in_that(sim: Sim) -> None:
    of = chain(started=600)
    async with follower(sim, "a", of) as a, follower(sim, "old", of) as old:
        made = grow(old, *range(1, 100))
        old.net.reqresp.withdraw(old.net.methods.beacon_blocks_by_range_v2)

        async def by_range(connection, request):
            for block in old.tree.chain(request.start_slot, request.count):
                yield ForkBytes(of.schedule[0].digest, block.ssz)

        old.net.serve(old.net.methods.beacon_blocks_by_range_v1, by_range)
        await meet(a.net, old.net)
        await until(lambda: a.tree.head == made[-1])


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_084_a_peer_that_answers_nothing_holds_nobody_up_for_long(sim: Sim) -> None:
    of = chain(started=600)

    async def answer(connection, request):
        await trio.sleep_forever()
        yield

    async with against(sim, answer) as (a, _), follower(sim, "honest", of) as honest:
        began = trio.current_time()
        made = grow(honest, *range(1, 200))
        await meet(a.net, honest.net)
        await until(lambda: a.tree.head == made[-1])
        assert trio.current_time() - began < 15  # of the request's own deadline of 30
        assert a.net.peers()[-1].score >= 0


# --- the folder


async def test_blocks_of_the_folder_are_there_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = BeaconConfig(chain(started=600), discovery=False)
    with trio.fail_after(30):
        async with BeaconNetwork(config) as net, open_follower(net, await load_blocks(net.chain, tmp_path)) as one:
            made = await one.produce_one(one.net.clock.slot)
        (tmp_path / ("000000000001-" + "00" * 32 + ".ssz")).write_bytes(b"rubbish")
        blocks = await load_blocks(config.chain, tmp_path)
        assert blocks.status.head_slot == made.slot
        async with BeaconNetwork(config) as net, open_follower(net, blocks) as one:
            assert one.tree.head == made
            assert net.status.head_slot == made.slot
    assert "block of the folder left out" in caplog.text


def test_the_folder_drops_what_the_tree_dropped_and_what_is_left_is_read_again(tmp_path: Path) -> None:
    ours = chain(started=600)
    blocks, parent = Blocks(ours, BlockFolder(tmp_path), most=4), genesis_block(ours).root
    for slot in range(1, 11):
        block = make_block(ours, slot, parent)
        parent = block.root
        blocks.tree.add(block)
        blocks.keep(block)
    assert len(list(blocks.folder.blocks())) == 4
    blocks.keep(make_block(ours, 1, genesis_block(ours).root))  # its turn comes late
    assert len(list(blocks.folder.blocks())) == 4
    for most in (65_536, 2):
        again = Blocks(ours, BlockFolder(tmp_path), most)
        again.read()
        assert (again.tree.head, again.tree.first_slot) == (block, 7 if most > 2 else 9)
        assert again.status.earliest_available_slot == again.tree.first_slot
    assert len(list(blocks.folder.blocks())) == 2


def test_a_folder_that_lacks_first_blocks_which_nobody_dropped_is_fetched_anew(tmp_path: Path) -> None:
    ours, folder = chain(started=600), BlockFolder(tmp_path)
    parent = make_block(ours, 1, genesis_block(ours).root).root
    block = make_block(ours, 2, parent)
    folder.add(block.slot, block.root, block.ssz)
    blocks = Blocks(ours, folder)
    blocks.read()
    assert (blocks.tree.head.slot, len(blocks.tree)) == (0, 1)
