"""Several networks of one dialer over one switch, and what is left of a network at its end."""

from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio

from pyp2p.dialer.service import Failed, Left, open_dialer
from pyp2p.discv5.candidates import Candidate
from pyp2p.errors import AdmissionRefused, LocalProtocolError
from pyp2p.switch.connection import Connection
from pyp2p.testing import Sim, simulated
from pyp2p.trace import Stage
from tests.dialer.support import agree, dialing, found, hello, leaves, of_list, serve, stranger
from tests.switch.support import node, until


@simulated()
async def test_two_networks_over_one_switch(sim: Sim) -> None:
    async with leaves(sim, 3) as (both, red_only, blue_only), node(sim, "hub") as hub:
        for switch, names in ((both, ("red", "blue")), (red_only, ("red",)), (blue_only, ("blue",))):
            for name in names:
                serve(switch, name)
        everybody = [found(sim, f"l{n}", leaf) for n, leaf in enumerate((both, red_only, blue_only))]
        async with (
            dialing(hub) as (dialer, heard),
            dialer.network("red", handshake=hello("red"), discover=partial(of_list, *everybody)) as red,
            dialer.network("blue", handshake=hello("blue"), discover=partial(of_list, *everybody)) as blue,
        ):
            red.want(3)
            blue.want(3)
            await until(lambda: len(red.slots()) == len(blue.slots()) == 2 and len(heard.of(Failed)) >= 2)
            assert set(red.slots()) == {both.peer, red_only.peer}
            assert set(blue.slots()) == {both.peer, blue_only.peer}
            # Refused by one network, the connection stays for the other.
            assert all(len(hub.connections(leaf.peer)) == 1 for leaf in (both, red_only, blue_only))
            refusals = {(e.failure.network, e.failure.peer, e.failure.stage) for e in heard.of(Failed)}
            assert refusals == {("blue", red_only.peer, Stage.PROTOCOL), ("red", blue_only.peer, Stage.PROTOCOL)}
            # A network that lets a peer go closes only what no other network uses.
            red.drop(both.peer, "no longer needed")
            red.drop(red_only.peer, "no longer needed")
            await until(lambda: not hub.connections(red_only.peer))
            assert hub.connections(both.peer)
            assert set(blue.slots()) == {both.peer, blue_only.peer}
            assert {(e.network, e.peer, e.reason) for e in heard.of(Left)} == {
                ("red", both.peer, "no longer needed"),
                ("red", red_only.peer, "no longer needed"),
            }
            # The pair is left alone, not the peer: it gets its slots back.
            await until(lambda: len(red.slots()) == 2)
            # A connection that ends takes the slots of all networks.
            await both.disconnect(hub.peer)
            await until(lambda: both.peer not in red.slots() and both.peer not in blue.slots())
            await until(lambda: both.peer in red.slots() and both.peer in blue.slots())


@simulated()
async def test_who_is_refused_by_all_networks_is_let_go(sim: Sim) -> None:
    async with (
        leaves(sim, 1) as (leaf,),
        node(sim, "hub") as hub,
        dialing(hub) as (dialer, heard),
        dialer.network("red", handshake=hello("red")) as red,
        dialer.network("blue", handshake=hello("blue")) as blue,
    ):
        for network in (red, blue):
            network.take(found(sim, "l0", leaf))
            network.want(1)
        await until(lambda: len(heard.of(Failed)) == 2)
        await until(lambda: not hub.connections())


@simulated()
async def test_a_connection_that_others_made_is_not_closed_for_a_refusal(sim: Sim) -> None:
    async with leaves(sim, 1) as (leaf,), node(sim, "hub") as hub, dialing(hub) as (dialer, heard):
        connection = await hub.connect(leaf.peer, [sim.net.host("l0").address()])
        async with dialer.network("red", handshake=hello("red")) as red:
            red.candidate(leaf.peer)
            red.want(1)
            await until(lambda: heard.of(Failed))
            await trio.sleep(10)
        await trio.sleep(10)
        assert connection.is_open


@simulated()
async def test_leaving_a_network_ends_its_slots_and_its_dials_and_no_others(sim: Sim) -> None:
    async with leaves(sim, 2) as (one, two), node(sim, "hub") as hub, dialing(hub) as (dialer, heard):
        for leaf in (one, two):
            serve(leaf, "red")
            serve(leaf, "blue")
        async with dialer.network("red", handshake=hello("red")) as red:
            red.take(found(sim, "l0", one))
            red.want(1)
            async with dialer.network("blue", handshake=hello("blue")) as blue:
                for n, leaf in enumerate((one, two)):
                    blue.take(found(sim, f"l{n}", leaf))
                blue.candidate(stranger(1), ["/ip4/50.9.9.9/tcp/1"])  # silence: it is under way when we leave
                blue.want(3)
                await until(lambda: len(blue.slots()) == 2 and red.slots())
            await until(lambda: not hub.connections(two.peer))
            assert {(e.network, e.peer) for e in heard.of(Left)} == {("blue", one.peer), ("blue", two.peer)}
            assert list(red.slots()) == [one.peer]
            for call in (lambda: blue.want(1), blue.slots, lambda: blue.passed(hub.connections()[0])):
                with pytest.raises(LocalProtocolError, match="blue"):
                    call()
            async with dialer.network("blue") as again:
                assert list(again.slots()) == [one.peer]  # no handshake: who is connected has a slot


@simulated()
async def test_what_ends_only_after_its_network_was_left_harms_nobody(sim: Sim) -> None:
    begun = []

    async def stubborn(connection: Connection) -> None:
        begun.append(connection)
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        if connection.peer == one.peer:
            raise AdmissionRefused("too late")

    async def stubborn_source() -> AsyncIterator[Candidate]:
        begun.append(None)
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        raise OSError("too late")
        yield found(sim, "l0", one)

    async def opened_meanwhile() -> None:
        """As soon as the name is free, while attempts for the network that had it still run."""
        while True:
            try:
                async with dialer.network("red", handshake=agree) as again:
                    await trio.sleep(10)
                    assert not again.slots()
                    return
            except ValueError:
                await trio.sleep(0.1)

    async with (
        leaves(sim, 2) as (one, two),
        node(sim, "hub") as hub,
        dialing(hub) as (dialer, heard),
        trio.open_nursery() as nursery,
    ):
        async with dialer.network("red", handshake=stubborn, discover=stubborn_source) as red:
            for n, leaf in enumerate((one, two)):
                red.take(found(sim, f"l{n}", leaf))
            red.want(3)
            await until(lambda: len(begun) == 3)
            nursery.start_soon(opened_meanwhile)
        await until(lambda: not hub.connections())
        assert heard == []


@simulated()
async def test_a_watcher_that_does_not_read_keeps_no_connection_open_at_the_end(sim: Sim) -> None:
    async with leaves(sim, 1) as (leaf,), node(sim, "hub") as hub:
        async with open_dialer(hub) as dialer, dialer.watch(), dialer.network("red") as red:
            red.take(found(sim, "l0", leaf))
            red.want(200)
            await until(red.slots)
            for number in range(199):
                red.candidate(stranger(number))
            await trio.sleep(100)
        assert not hub.connections()


@simulated()
async def test_what_the_last_network_used_is_closed_when_the_dialer_ends(sim: Sim) -> None:
    async with leaves(sim, 1) as (leaf,), node(sim, "hub") as hub:
        async with open_dialer(hub) as dialer, dialer.network("red") as red:
            red.take(found(sim, "l0", leaf))
            red.want(1)
            await until(red.slots)
        assert not hub.connections()
