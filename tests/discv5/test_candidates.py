"""Whom to dial: from lookups, by subnet, from a list."""

from ipaddress import ip_address as parse_ip

import pytest
import trio

from pyp2p.discv5.candidates import Candidate, Source, random_nodes, static_nodes, subnet_nodes
from pyp2p.discv5.enr import Enr
from pyp2p.errors import InvalidEnr, InvalidMultiaddr
from pyp2p.peer.address import parse_multiaddr
from pyp2p.testing import Sim, simulated
from tests.discv5.support import identity, node, nodes, until

TCP = {"tcp": 4001}


@simulated(seeds=(1,))
async def test_random_nodes_come_once_until_they_are_newer(sim: Sim) -> None:
    async with nodes(sim, 6, pairs=TCP) as running:
        a = running[1]
        source = random_nodes(a)
        with trio.fail_after(60):
            found = [await anext(source) for _ in range(5)]
        others = [each.record for each in running if each is not a]
        assert {each.peer for each in found} == {each.peer_id for each in others}
        one = next(each for each in found if each.record == running[3].record)
        there = (parse_multiaddr("/ip4/50.0.3.1/tcp/4001"),)
        assert one == Candidate(running[3].record.peer_id, there, Source.RANDOM, running[3].record)
        running[3].set_record(attnets=bytes(8))
        with trio.fail_after(120):
            assert (await anext(source)).record == running[3].record
        await source.aclose()
        assert not a._waits and not a._node._walks


@simulated(seeds=(1,))
async def test_who_is_known_already_comes_before_any_lookup(sim: Sim) -> None:
    async with nodes(sim, 2, pairs=TCP) as (first, a):
        await until(a.nodes)
        sim.net.cut("n0", "n1")
        before = trio.current_time()
        source = random_nodes(a)
        assert (await anext(source)).record == first.record
        assert trio.current_time() == before
        await source.aclose()


@simulated(seeds=(1,))
async def test_who_names_nothing_to_dial_is_left_out(sim: Sim) -> None:
    async with nodes(sim, 3, pairs=TCP) as running, node(sim, "x", "50.0.9.1", bootnodes=[running[0].record]) as mute:
        await until(lambda: mute.record in running[1].nodes())
        source = random_nodes(running[1])
        with trio.fail_after(60):
            found = {(await anext(source)).peer for _ in range(2)}
        assert found == {running[0].record.peer_id, running[2].record.peer_id}
        with trio.move_on_after(60) as scope:
            await anext(source)
        assert scope.cancelled_caught


@simulated(seeds=(1,))
async def test_a_strange_record_does_not_end_a_source(sim: Sim) -> None:
    async with nodes(sim, 4, pairs=TCP) as running:
        strange = running[2]
        strange.set_record(ip6=parse_ip("::ffff:50.0.9.9"), tcp6=5)
        source = random_nodes(running[1])
        with trio.fail_after(120):
            found = {}
            while len(found) < 3 or found[strange.record.peer_id].record != strange.record:
                candidate = await anext(source)
                found[candidate.peer] = candidate
        await source.aclose()
        assert parse_multiaddr("/ip4/50.0.9.9/tcp/5") in found[strange.record.peer_id].addrs


@simulated(seeds=(1,))
async def test_an_ipv4_address_in_ipv6_is_dialled_as_what_it_is(sim: Sim) -> None:
    strange = {"ip6": parse_ip("::ffff:50.0.9.9"), "tcp6": 5}
    (found,) = [each async for each in static_nodes([Enr.sign(identity("x"), 1, strange)])]
    assert found.addrs == (parse_multiaddr("/ip4/50.0.9.9/tcp/5"),)


@simulated(seeds=(1,))
async def test_one_in_place_of_a_list_is_told(sim: Sim) -> None:
    record = Enr.sign(identity("x"), 1, {})
    for one in (record, record.text, parse_multiaddr("/ip4/50.0.0.2/tcp/9")):
        with pytest.raises(TypeError, match="a list of records and addresses"):
            await anext(static_nodes(one))  # type: ignore[arg-type]


@simulated(seeds=(1,))
async def test_what_is_remembered_as_given_is_bounded(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyp2p.discv5.candidates._SEEN", 2)
    async with nodes(sim, 6, pairs=TCP) as running:
        source = random_nodes(running[1])
        with trio.fail_after(60):
            found = [await anext(source) for _ in range(12)]
        assert len({each.peer for each in found}) == 5
        assert len(source.ag_frame.f_locals["seen"]) == 2
        await source.aclose()


@simulated(seeds=(1,))
async def test_subnet_nodes_are_those_of_one_of_the_subnets(sim: Sim) -> None:
    async with nodes(sim, 5, pairs=TCP) as running:
        running[2].set_record(attnets=b"\x08" + bytes(7))
        running[3].set_record(attnets=bytes(7) + b"\x80", syncnets=b"\x02")
        running[4].set_record(syncnets=b"\x04")
        a = running[1]

        async def first(count: int, source_of: object) -> set[Enr | None]:
            with trio.fail_after(300):
                found = [await anext(source_of) for _ in range(count)]  # type: ignore[call-overload]
            assert {each.source for each in found} == {Source.SUBNET}
            await source_of.aclose()  # type: ignore[attr-defined]
            return {each.record for each in found}

        assert await first(1, subnet_nodes(a, attnets=[3, 5])) == {running[2].record}
        assert await first(2, subnet_nodes(a, attnets=[3, 63])) == {running[2].record, running[3].record}
        assert await first(2, subnet_nodes(a, attnets=[3], syncnets=[2])) == {running[2].record, running[4].record}
        narrow = subnet_nodes(a, syncnets=[1, 2], wanted=lambda record: record.attnets is None)
        assert await first(1, narrow) == {running[4].record}
        for wrong in ({"attnets": [64]}, {"attnets": [-1]}, {"syncnets": [4]}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                subnet_nodes(a, **wrong)


@simulated(seeds=(1,))
async def test_what_a_predicate_raises_is_raised_to_who_reads(sim: Sim) -> None:
    async with nodes(sim, 3) as running:
        with pytest.raises(ZeroDivisionError):
            await anext(random_nodes(running[1], lambda record: bool(1 // 0)))


@simulated(seeds=(1,))
async def test_a_list_of_records_and_addresses(sim: Sim) -> None:
    record = Enr.sign(identity("x"), 1, {"ip": parse_ip("50.0.0.1"), "tcp": 9})
    peer = identity("y").peer
    given = [record, record.text, f"/ip4/50.0.0.2/tcp/9/p2p/{peer}", parse_multiaddr(f"/ip4/50.0.0.2/tcp/9/p2p/{peer}")]
    found = [each async for each in static_nodes(given)]
    by_record = Candidate(record.peer_id, (parse_multiaddr("/ip4/50.0.0.1/tcp/9"),), Source.STATIC, record)
    by_address = Candidate(peer, (parse_multiaddr("/ip4/50.0.0.2/tcp/9"),), Source.STATIC)
    assert found == [by_record, by_record, by_address, by_address]


@simulated(seeds=(1,))
async def test_a_list_with_something_wrong_gives_nobody(sim: Sim) -> None:
    mute = Enr.sign(identity("x"), 1, {})
    good = f"/ip4/50.0.0.2/tcp/9/p2p/{identity('y').peer}"
    for wrong, error, why in (
        ("enr:-x", InvalidEnr, "record"),
        ("/ip4/50.0.0.2/tcp/9", InvalidMultiaddr, "/p2p/"),
        ("nonsense", InvalidMultiaddr, "nonsense"),
        (mute, ValueError, "names no address"),
    ):
        with pytest.raises(error, match=why):
            await anext(static_nodes([good, wrong]))
