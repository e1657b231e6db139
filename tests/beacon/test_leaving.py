"""Networks that are left: what is under way ends with them, and nothing is reported as a failure."""

import logging
from contextlib import suppress

import pytest
import trio

from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.beacon.events import PeerDisconnected
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.errors import DialFailed
from pyp2p.switch.facts import NORMAL
from pyp2p.testing import Sim, simulated
from tests.beacon.support import beacon, chain, dial, duo, knows
from tests.switch.support import until


@simulated(seeds=(1,))
async def test_goodbyes_that_come_while_a_network_ends_are_no_failures(sim: Sim, caplog: pytest.LogCaptureFixture):
    of = chain()

    async def visit(number: int, host: BeaconNetwork) -> None:
        async with beacon(sim, f"guest {number}", of) as guest:
            await trio.sleep(0.02 * number)
            with trio.move_on_after(3), suppress(DialFailed):
                await dial(guest, host)

    with caplog.at_level(logging.INFO, "pyp2p"):
        async with trio.open_nursery() as nursery, beacon(sim, "host", of) as host:
            for number in range(40):
                nursery.start_soon(visit, number, host)
            await trio.sleep(0.5)
    assert [record.getMessage() for record in caplog.records if "handler failed" in record.getMessage()] == []


async def parted(net: BeaconNetwork, into: list[PeerDisconnected], task_status: trio.TaskStatus[None]) -> None:
    """Who goes, and why, as its watchers are told."""
    async with net.watch() as events:
        task_status.started()
        async for event in events:
            if isinstance(event, PeerDisconnected):
                into.append(event)


@simulated(seeds=(1, 2))
async def test_a_goodbye_on_one_of_two_connections_is_the_peers_on_both(sim: Sim) -> None:
    of, went, own = chain(), list[PeerDisconnected](), list[PeerDisconnected]()
    async with beacon(sim, "a", of) as a, beacon(sim, "b", of) as b, trio.open_nursery() as nursery:
        await nursery.start(parted, a, went)
        await nursery.start(parted, b, own)
        async with trio.open_nursery() as dialling:
            dialling.start_soon(dial, a, b)
            dialling.start_soon(dial, b, a)
        await until(lambda: knows(a, b) and knows(b, a) and len(a.switch.connections(b.peer)) == 2)
        await b.disconnect(a.peer, GoodbyeReason.TOO_MANY_PEERS)
        await until(lambda: went and own)
        nursery.cancel_scope.cancel()
    assert went == [PeerDisconnected(b.peer, "it said goodbye: too many peers", "peer", GoodbyeReason.TOO_MANY_PEERS)]
    assert own == [PeerDisconnected(a.peer, "goodbye: too many peers", "us", None)]


@pytest.mark.parametrize("hangs_up", [False, True])
@simulated(seeds=(1, 2))
async def test_who_stops_left_its_peers_and_they_are_told_so(sim: Sim, hangs_up: bool) -> None:
    """Also when the peer is the first to close the connection."""
    went, own = list[PeerDisconnected](), list[PeerDisconnected]()
    async with trio.open_nursery() as nursery, duo(sim) as (first, second):  # which is left in this order
        await nursery.start(parted, first, own)
        await nursery.start(parted, second, went)
        if hangs_up:
            (connection,) = second.switch.connections()
            second.said_goodbye = lambda peer, code: connection.fail(NORMAL)  # type: ignore[method-assign]
    assert own == [PeerDisconnected(second.peer, "shutdown: the switch stops", "us", None)]
    assert went == [
        PeerDisconnected(first.peer, "it said goodbye: client shutdown", "peer", GoodbyeReason.CLIENT_SHUTDOWN)
    ]
