"""A dialer on a simulated switch: who comes, who is reached, and all that goes wrong on the way."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from math import inf

import pytest
import trio

from pyp2p.dialer.service import Failed, Joined, Left, SearchFailed, open_dialer
from pyp2p.discv5.candidates import Candidate, random_nodes, static_nodes, subnet_nodes
from pyp2p.discv5.service import open_discv5
from pyp2p.errors import AdmissionRefused, StageTimeout
from pyp2p.peer.address import parse_multiaddr, with_peer
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.peer.store import Source as Said
from pyp2p.switch.connection import Connection
from pyp2p.switch.service import Service
from pyp2p.switch.switch import Switch
from pyp2p.testing import LinkQuality, SeededEntropy, Sim, simulated
from pyp2p.trace import Stage
from tests.dialer.support import agree, dialing, found, hello, leaves, of_list, stranger
from tests.switch.support import node, until

# ---- inbound peers


@simulated()
async def test_without_a_handshake_who_dials_us_has_a_slot_from_the_first_moment(sim: Sim) -> None:
    async with leaves(sim, 2) as (early, late), node(sim, "hub") as hub, dialing(hub) as (dialer, heard):
        await early.connect(hub.peer, hub.addresses)
        await until(hub.connections)
        async with dialer.network("red") as red:
            assert not red.slots()[early.peer].outbound
            await late.connect(hub.peer, hub.addresses)
            await until(lambda: late.peer in red.slots())
            assert heard.of(Joined) == [Joined("red", early.peer, False), Joined("red", late.peer, False)]
            await late.disconnect(hub.peer)
            await until(lambda: heard.of(Left))
            assert heard.of(Left)[0].peer == late.peer


@simulated()
async def test_of_two_connections_to_a_peer_the_last_takes_the_slot_along(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.1)
    async with (
        leaves(sim, 1) as (leaf,),
        node(sim, "hub") as hub,
        dialing(hub) as (dialer, heard),
        dialer.network("red") as red,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leaf.connect, hub.peer, hub.addresses)
            nursery.start_soon(hub.connect, leaf.peer, leaf.addresses)
        first, second = hub.connections(leaf.peer)
        await first.aclose()
        await until(lambda: len(hub.connections(leaf.peer)) == 1)
        await trio.sleep(1)
        assert list(red.slots()) == [leaf.peer]
        await second.aclose()
        await until(lambda: heard.of(Left))
        assert [type(event) for event in heard] == [Joined, Left]


@simulated()
async def test_an_inbound_peer_has_a_slot_when_who_serves_the_handshake_says_so(sim: Sim) -> None:
    async with (
        leaves(sim, 1) as (leaf,),
        node(sim, "hub") as hub,
        dialing(hub) as (dialer, heard),
        dialer.network("red", handshake=hello("red")) as red,
    ):
        connection = await leaf.connect(hub.peer, hub.addresses)
        await until(hub.connections)
        (ours,) = hub.connections()
        await trio.sleep(1)
        assert not red.slots()
        assert red.passed(ours)
        assert red.passed(ours)
        await connection.aclose()
        await until(lambda: not red.slots())
        assert not red.passed(ours)
        await until(lambda: [type(event) for event in heard] == [Joined, Left])


@simulated()
async def test_a_banned_peer_is_closed_and_closed_again_when_it_comes_back(sim: Sim) -> None:
    async with (
        leaves(sim, 1) as (leaf,),
        node(sim, "hub") as hub,
        dialing(hub) as (dialer, heard),
        dialer.network("red") as red,
    ):
        red.take(found(sim, "l0", leaf))
        red.want(1)
        await until(red.slots)
        red.ban(leaf.peer, inf)
        await until(lambda: not hub.connections())
        await trio.sleep(100)
        assert not hub.connections()
        await leaf.connect(hub.peer, hub.addresses)
        await until(lambda: not hub.connections())
        assert [type(event) for event in heard] == [Joined, Left]
        red.unban(leaf.peer)
        await until(red.slots)


# ---- failures


@simulated()
async def test_every_failure_is_told_and_none_ends_anything(sim: Sim) -> None:
    async def refuse(connection: Connection) -> None:
        raise AdmissionRefused("not\x1b[2J you")

    async def crash(connection: Connection) -> None:
        if connection.peer == leaf[2].peer:
            raise ZeroDivisionError("a bug of the application")

    async def greet(connection: Connection) -> None:
        if connection.peer == leaf[3].peer:
            await trio.sleep_forever()
        if connection.peer == leaf[4].peer:
            raise ExceptionGroup("several", [KeyError(1)])

    async with leaves(sim, 6) as leaf, node(sim, "hub") as hub, dialing(hub) as (dialer, heard):
        leaf[1].attach(Service("no", admit=refuse))
        hub.attach(Service("bug", admit=crash))
        await leaf[0].stop_listening()
        async with dialer.network("red", handshake=greet) as red:
            for n, one in enumerate(leaf):
                red.take(found(sim, f"l{n}", one))
            red.candidate(hub.peer, ["/ip4/10.0.0.9/tcp/1"])
            red.candidate(stranger(1))
            red.want(10)
            await until(lambda: len(heard.of(Failed)) >= 6)
            assert list(red.slots()) == [leaf[5].peer]
            told = {event.failure.peer: event for event in heard.of(Failed)}
            assert {who: event.failure.stage for who, event in told.items() if who != leaf[1].peer} == {
                leaf[0].peer: Stage.CONNECT,
                leaf[2].peer: Stage.ADMISSION,
                leaf[3].peer: Stage.PROTOCOL,
                leaf[4].peer: Stage.PROTOCOL,
                stranger(1): Stage.RESOLVE,
            }
            assert isinstance(told[leaf[2].peer].error, ZeroDivisionError)
            assert isinstance(told[leaf[3].peer].error, StageTimeout)
            for who, event in told.items():
                assert red.failure(who) == event.failure
                assert event.failure.reason.isprintable() and event.failure.reason
            assert str(sim.net.host("l0").address()) in told[leaf[0].peer].failure.reason
            assert [c.peer for c in hub.connections()] == [leaf[5].peer]


@simulated()
async def test_a_connection_that_ends_during_the_handshake_leaves_no_slot_behind(sim: Sim) -> None:
    async def greet(connection: Connection) -> None:
        await connection.aclose()
        await trio.sleep(5)  # its end has been told when we are done

    async with (
        leaves(sim, 1) as (leaf,),
        node(sim, "hub") as hub,
        dialing(hub) as (dialer, heard),
        dialer.network("red", handshake=greet) as red,
    ):
        red.take(found(sim, "l0", leaf))
        red.want(1)
        await until(lambda: heard.of(Failed))
        assert not red.slots()
        assert not heard.of(Joined)


@simulated()
async def test_who_is_banned_during_the_handshake_is_a_failure(sim: Sim) -> None:
    async def greet(connection: Connection) -> None:
        red.ban(connection.peer, inf)

    async with (
        leaves(sim, 1) as (leaf,),
        node(sim, "hub") as hub,
        dialing(hub) as (dialer, heard),
        dialer.network("red", handshake=greet) as red,
    ):
        red.take(found(sim, "l0", leaf))
        red.want(1)
        await until(lambda: heard.of(Failed))
        await until(lambda: not hub.connections())
        assert "banned" in heard.of(Failed)[0].failure.reason
        assert not heard.of(Left)


@pytest.mark.hostile
@simulated()
async def test_hostile_098_an_address_that_a_stranger_names_is_not_dialled_on_our_own_machine(sim: Sim) -> None:
    async with (
        leaves(sim, 1) as (leaf,),
        node(sim, "hub") as hub,
        dialing(hub) as (dialer, heard),
        dialer.network("red") as red,
    ):
        red.candidate(leaf.peer, ["/ip4/127.0.0.1/tcp/22", "/ip4/169.254.169.254/tcp/80"])
        red.want(1)
        await until(lambda: heard.of(Failed))
        assert heard.of(Failed)[0].failure.stage is Stage.RESOLVE
        red.keep(stranger(2), ["/ip4/127.0.0.1/tcp/4001"])  # our user may
        await until(lambda: len(heard.of(Failed)) == 2)
        assert heard.of(Failed)[1].failure.stage is Stage.CONNECT


@simulated()
async def test_an_old_claim_does_not_take_the_place_of_what_the_peer_said_since(sim: Sim) -> None:
    async with (
        leaves(sim, 1) as (leaf,),
        node(sim, "hub") as hub,
        open_dialer(hub) as dialer,
        dialer.network("red") as red,
    ):
        hub.peers.add_addresses(leaf.peer, leaf.addresses, 3600, Said.OWN_CLAIM, trio.current_time())
        red.candidate(leaf.peer, ["/ip4/10.99.0.1/tcp/4001"], Said.OWN_CLAIM)
        red.want(1)
        await until(red.slots)


# ---- static peers


@simulated()
async def test_a_static_peer_is_reconnected_whatever_happens_to_it(sim: Sim) -> None:
    async with node(sim, "hub") as hub, dialing(hub) as (dialer, heard):
        identity = Identity.generate(entropy=SeededEntropy("static"))
        address = with_peer(sim.net.host("s").address(), identity.peer)
        static = [each async for each in static_nodes([address])]
        async with dialer.network("red", static=static) as red:
            await trio.sleep(3600)  # nobody is there, and nobody is wanted
            failures = len(heard.of(Failed))
            assert 10 <= failures <= 25
            async with node(sim, "s", identity=identity):
                with trio.fail_after(1000):
                    while not red.slots():
                        await trio.sleep(1)
                await trio.sleep(61)
                await hub.disconnect(identity.peer)
                await until(lambda: len(heard.of(Joined)) == 2)
            await until(lambda: not red.slots())
            async with node(sim, "s", identity=identity):
                with trio.fail_after(1000):
                    while not red.slots():
                        await trio.sleep(1)
            assert len(heard.of(Joined)) == 3


# ---- candidates


@simulated()
async def test_a_source_is_read_only_while_candidates_are_missing_and_ended_with_its_network(sim: Sim) -> None:
    given, ended = [], []

    async def endless() -> AsyncIterator[Candidate]:
        try:
            for n, leaf in enumerate(switches):
                given.append(n)
                yield found(sim, f"l{n}", leaf)
            while True:
                yield found(sim, "l0", switches[0])  # no news, and it never waits
        finally:
            ended.append(True)

    async with leaves(sim, 5) as switches, node(sim, "hub") as hub, dialing(hub) as (dialer, _):
        async with dialer.network("red", discover=endless) as red:
            await trio.sleep(10)
            assert given == []
            red.want(2)
            await until(lambda: len(red.slots()) == 2)
            await trio.sleep(100)
            assert given == [0, 1]
            red.want(4)
            await until(lambda: len(red.slots()) == 4)
            assert given == [0, 1, 2, 3]
            red.drop(switches[0].peer, "pruned")
            await until(lambda: switches[4].peer in red.slots())
        assert ended == [True]


@simulated()
async def test_a_source_is_left_when_all_who_are_wanted_came_by_themselves(sim: Sim) -> None:
    opened, ended = [], []

    async def silent() -> AsyncIterator[Candidate]:
        opened.append(trio.current_time())
        try:
            await trio.sleep_forever()
            yield found(sim, "l0", leaf)
        finally:
            ended.append(trio.current_time())

    async with (
        leaves(sim, 1) as (leaf,),
        node(sim, "hub") as hub,
        dialing(hub) as (dialer, heard),
        dialer.network("red", discover=silent) as red,
    ):
        red.want(1)
        await until(lambda: opened)
        await leaf.connect(hub.peer, hub.addresses)
        await until(lambda: ended)
        assert red.gauges()["slots"] == 1
        await leaf.disconnect(hub.peer)
        await until(lambda: len(opened) == 2)
        assert not heard.of(SearchFailed)


@simulated()
async def test_a_source_that_raises_is_told_of_and_opened_anew(sim: Sim) -> None:
    opened = []

    async def broken() -> AsyncIterator[Candidate]:
        opened.append(trio.current_time())
        if len(opened) < 4:
            raise OSError("no \x1b network")
        yield found(sim, "l0", leaf)

    async with (
        leaves(sim, 1) as (leaf,),
        node(sim, "hub") as hub,
        dialing(hub) as (dialer, heard),
        dialer.network("red", discover=broken) as red,
    ):
        red.want(1)
        await until(red.slots)
        assert [round(at - opened[0]) for at in opened] == [0, 5, 15, 35]
        assert [type(event.error) for event in heard.of(SearchFailed)] == [OSError] * 3


@simulated()
async def test_a_search_takes_so_many_urgent_ones_and_leaves_the_source(sim: Sim) -> None:
    async with leaves(sim, 4) as switches, node(sim, "hub") as hub, dialing(hub) as (dialer, _):
        everybody = [found(sim, f"l{n}", leaf) for n, leaf in enumerate(switches)]
        async with dialer.network("red") as red:
            for one in everybody[:3]:
                red.take(one)
            source = of_list(everybody[0], everybody[3], everybody[2])
            assert await red.search(source, 1) == 1
            with pytest.raises(StopAsyncIteration):
                await anext(source)
            red.want(1)
            await until(red.slots)
            assert set(red.slots()) <= {switches[0].peer, switches[3].peer}


@simulated()
async def test_what_is_no_candidate_is_told_to_who_gives_it(sim: Sim) -> None:
    async with node(sim, "hub") as hub, open_dialer(hub) as dialer, dialer.network("red") as red:
        with pytest.raises(ValueError, match="is of peer"):
            red.keep(stranger(1), [with_peer(parse_multiaddr("/ip4/10.0.0.1/tcp/1"), stranger(2))])
        with pytest.raises(ValueError, match="slash"):
            red.candidate(stranger(1), ["nonsense"])
        assert not red.candidate(hub.peer, ["/ip4/10.0.0.7/tcp/1"])
        with pytest.raises(ValueError, match="red is there already"):
            async with dialer.network("red"):
                pass
        assert not red.slots()


@simulated(seeds=(1,))
async def test_nodes_of_discovery_find_and_dial_one_another(sim: Sim) -> None:
    """The whole way: discv5, sources of candidates, dialer, switch."""
    identities = [Identity.generate(KeyType.SECP256K1, entropy=SeededEntropy(f"d{n}")) for n in range(8)]
    async with AsyncExitStack() as stack:
        nets, nodes, dialers = [], [], []
        for n, identity in enumerate(identities):
            host = sim.net.host(f"d{n}", f"50.1.{n}.1")
            platform = sim.platform(f"d{n}")
            switch: Switch = await stack.enter_async_context(node(sim, f"d{n}", identity=identity))
            discovery = await stack.enter_async_context(
                open_discv5(
                    identity,
                    bind=host.bind_udp,
                    listen=[(host.ips[0], 9000)],
                    platform=platform,
                    bootnodes=[nodes[0].record] if nodes else [],
                    pairs={"tcp": 4001, "attnets": (b"\x10" if n == 5 else b"\0") + bytes(7)},
                )
            )
            nodes.append(discovery)
            dialer = await stack.enter_async_context(open_dialer(switch))
            dialers.append(dialer)
            nets.append(
                await stack.enter_async_context(dialer.network("red", discover=partial(random_nodes, discovery)))
            )
        for net in nets:
            net.want(5)
        with trio.fail_after(300):
            while not all(len(net.slots()) >= 5 for net in nets):
                await trio.sleep(0.1)
        # On demand: who serves a subnet, for a network that asks for nobody else.
        narrow = await stack.enter_async_context(dialers[1].network("narrow", handshake=agree))
        with trio.fail_after(120):
            assert await narrow.search(subnet_nodes(nodes[1], attnets=[4]), 1) == 1
        narrow.want(1)
        await until(lambda: list(narrow.slots()) == [identities[5].peer])


# ---- watching


@simulated()
async def test_a_watcher_that_does_not_read_slows_the_dialer_and_loses_nothing(sim: Sim) -> None:
    async with (
        node(sim, "hub") as hub,
        open_dialer(hub) as dialer,
        dialer.watch() as events,
        dialer.network("red") as red,
    ):
        for number in range(200):
            red.candidate(stranger(number))
        red.want(200)
        await trio.sleep(1000)
        begun = sum(red.failure(stranger(number)) is not None for number in range(200))
        assert begun < 100
        told = {}
        with trio.fail_after(1000):
            async for event in events:
                told[event.failure.peer] = event.failure
                if len(told) == 200:
                    break
        # Nobody reads any more, and leaving does not wait for it.


@simulated()
async def test_a_watcher_that_closed_its_end_is_forgotten(sim: Sim) -> None:
    async with node(sim, "hub") as hub, dialing(hub) as (dialer, heard), dialer.watch() as events:
        await events.aclose()  # type: ignore[attr-defined]
        async with dialer.network("red") as red:
            red.candidate(stranger(1))
            red.want(1)
            await until(lambda: heard.of(Failed))


@simulated()
async def test_what_is_kept_no_longer_is_given_up(sim: Sim) -> None:
    async with node(sim, "hub") as hub, dialing(hub) as (dialer, heard), dialer.network("red") as red:
        red.keep(stranger(1))
        await until(lambda: heard.of(Failed))
        red.unkeep(stranger(1))
        await trio.sleep(1000)
        assert len(heard.of(Failed)) == 1


@simulated()
async def test_watching_ends_with_the_dialer(sim: Sim) -> None:
    async with node(sim, "hub") as hub, AsyncExitStack() as stack:
        async with open_dialer(hub) as dialer:
            events = await stack.enter_async_context(dialer.watch())
            async with dialer.watch():
                pass
        assert [event async for event in events] == []


@simulated()
async def test_an_exception_of_the_block_is_not_wrapped(sim: Sim) -> None:
    async with node(sim, "hub") as hub:
        with pytest.raises(ZeroDivisionError):
            async with open_dialer(hub) as dialer, dialer.network("red") as red:
                red.want(1 // 0)


@simulated()
async def test_the_same_seed_gives_the_same_order(sim: Sim) -> None:
    async def order(name: str) -> list[PeerId]:
        hub = stack_of[name]
        async with dialing(hub, attempts=1) as (dialer, heard), dialer.network("red") as red:
            for number in range(20):
                red.candidate(stranger(number))
            red.want(20)
            await until(lambda: len(heard.of(Failed)) >= 20)
            return [event.failure.peer for event in heard.of(Failed)][:20]

    async with (
        node(sim, "x", platform=sim.platform("same")) as x,
        node(sim, "y", platform=sim.platform("same")) as y,
        node(sim, "z", platform=sim.platform("other")) as z,
    ):
        stack_of = {"x": x, "y": y, "z": z}
        assert await order("x") == await order("y") != await order("z")
        assert isinstance(x.platform.rng, random.Random)
