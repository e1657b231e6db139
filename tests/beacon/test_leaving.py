"""Networks that are left: what is under way ends with them, and nothing is reported as a failure."""

import logging
from contextlib import suppress

import pytest
import trio

from pyp2p.beacon.network import BeaconNetwork
from pyp2p.errors import DialFailed
from pyp2p.testing import Sim, simulated
from tests.beacon.support import beacon, chain, dial


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
