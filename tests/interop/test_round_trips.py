"""Everything pipelined, tried against real peers: round trips from dial to identified, TCP's own included."""

import trio

from pyp2p import Stage
from tests.interop import matrix
from tests.interop.peers import open_peer
from tests.interop.support import PATIENCE, open_switch


async def _trips(address: str, muxer: str, early: bool) -> tuple[int, dict[Stage, int]]:
    async with open_switch(muxer, listen=False, early_muxer=early) as switch:
        connection = await switch.connect(address)
        assert connection.info is not None
        waits = {step.stage: step.waits for step in connection.trace.steps}
        return connection.trace.round_trips, waits


@matrix.muxers()
async def test_three_with_one_security_and_one_muxer(language: str, muxer: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--muxer", muxer) as peer:
            for early in (True, False):
                trips, waits = await _trips(peer.address, muxer, early)
                assert trips == 3
                assert waits.pop(Stage.CONNECT) == 1
                assert waits.pop(Stage.IDENTIFY) == 1
                assert sum(waits.values()) == 1


async def test_four_over_a_websocket(language: str) -> None:
    with trio.fail_after(PATIENCE):
        peer_of_websockets = open_peer(language, "--transport", "ws", "--muxer", "yamux")
        async with peer_of_websockets as peer, open_switch("yamux", listen=False) as switch:
            connection = await switch.connect(peer.address)
            tcp, http, *others = connection.trace.steps
            assert (tcp.stage, tcp.waits, http.stage, http.waits) == (Stage.CONNECT, 1, Stage.CONNECT, 1)
            assert http.detail.startswith("WebSocket at 127.0.0.1:")
            assert sum(step.waits for step in others) == 2
            assert connection.trace.round_trips == 4


async def test_four_with_two_muxers_and_no_early_list(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--muxer", "both") as peer:
            trips, waits = await _trips(peer.address, "both", early=False)
    assert trips == 4
    assert waits[Stage.MUXER_SELECT] == 1


@matrix.needs("early muxer")
async def test_three_with_two_muxers_and_the_early_list(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--muxer", "both") as peer:
            trips, _ = await _trips(peer.address, "both", early=True)
    assert trips == 3
