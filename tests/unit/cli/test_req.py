"""`pyp2p req` and a peer that lets us go before it is asked."""

from argparse import Namespace
from types import SimpleNamespace

import pytest

from pyp2p.beacon.containers import StatusV1
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.methods import Methods
from pyp2p.cli.failure import CommandFailed
from pyp2p.cli.req import _Request
from pyp2p.cli.req_methods import methods_named
from pyp2p.errors import AdmissionRefused

CHAIN = dev_chain(1_700_000_000)


class Connection:
    """Of which nothing is asked."""


async def test_a_goodbye_in_answer_to_our_status_is_told_with_both_digests() -> None:
    out = SimpleNamespace(status=lambda text: None)
    request = _Request(SimpleNamespace(serve=lambda *_: None), CHAIN, Namespace(), out)
    connection = Connection()
    facts = request._exchange.facts(connection)

    async def greet(_: object) -> None:
        facts.status, facts.goodbye = StatusV1(b"\x01\x02\x03\x04", bytes(32), 0, bytes(32), 0), 2
        raise AdmissionRefused("it said goodbye: irrelevant network")

    request._exchange.greet = greet
    with pytest.raises(CommandFailed) as caught:
        await request.run(connection, methods_named("beacon_blocks_by_range", Methods(CHAIN)))
    reason = caught.value.reason
    assert reason.startswith(
        "beacon_blocks_by_range was not asked; it said goodbye: irrelevant network; its fork digest is 01020304"
    )
    assert caught.value.facts == {"failure": "network"}
    assert "Give --chain" in caught.value.advice
