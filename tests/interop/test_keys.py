"""Identities: ours of every type against each peer, theirs of every type they have, with both sides' proofs checked."""

import pytest
import trio

from pyp2p import DialFailed, Identified, Stage
from tests.interop import matrix, peers
from tests.interop.peers import PeerFailed, open_peer, run_peer
from tests.interop.support import PATIENCE, SOON, address, next_event, open_switch, staying


@matrix.keys()
async def test_our_key_when_we_dial(language: str, key: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language) as peer, open_switch(key=key, listen=False) as switch:
            connection = await switch.connect(peer.address)
            assert connection.identify_error is None
            assert connection.info is not None


@matrix.keys()
async def test_our_key_when_they_dial(language: str, key: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_switch(key=key) as switch:
            (seen,) = await run_peer(language, "identify", address(switch))
            assert seen["peer_id"] == str(switch.peer)


@matrix.keys()
async def test_their_key_when_we_dial(language: str, key: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--key", key) as peer, open_switch(listen=False) as switch:
            connection = await switch.connect(peer.address)
            assert connection.peer_key.type is matrix.KEYS[key]
            assert str(connection.peer) == peer.peer_id
            assert connection.info is not None
            assert connection.info.public_key == connection.peer_key


@matrix.keys()
async def test_their_key_when_they_dial(language: str, key: str) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            open_switch() as switch,
            switch.watch() as events,
            staying(language, address(switch), "--key", key),
        ):
            connection = (await next_event(events, Identified)).connection
            assert connection.peer_key.type is matrix.KEYS[key]
            assert connection.info is not None
            assert connection.info.public_key == connection.peer_key


REFUSED = [(language, key) for language, key in matrix.CANNOT if key in matrix.KEYS]


@pytest.mark.parametrize(("other", "unknown"), REFUSED)
async def test_a_peer_without_our_key_type_is_a_clear_failure(other: str, unknown: str) -> None:
    """It learns our key in the last message of the handshake and can only hang up: we learn that one step later."""
    peers.require(other)
    with trio.fail_after(PATIENCE):
        async with open_peer(other) as peer, open_switch(key=unknown, listen=False) as switch:
            with trio.fail_after(SOON), pytest.raises(DialFailed) as raised:
                await switch.connect(peer.address)
            early = (other, "early muxer") not in matrix.CANNOT
            assert raised.value.attempts[0].stage is (Stage.IDENTIFY if early else Stage.MUXER_SELECT)
            assert not switch.connections()
        async with open_switch(key=unknown) as switch:
            with pytest.raises(PeerFailed):
                await run_peer(other, "identify", address(switch))


async def test_a_wrong_peer_id_is_named(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language) as peer, open_switch(listen=False) as switch, open_switch() as other:
            wrong = peer.address.replace(peer.peer_id, str(other.peer))
            with pytest.raises(DialFailed) as raised:
                await switch.connect(wrong)
            (attempt,) = raised.value.attempts
            assert attempt.stage is Stage.HANDSHAKE
            assert peer.peer_id in str(attempt.error) and str(other.peer) in str(attempt.error)
            assert not switch.connections()


async def test_a_peer_that_expects_another_id_refuses_us(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_switch() as switch, open_switch() as other:
            wrong = address(switch).replace(str(switch.peer), str(other.peer))
            with pytest.raises(PeerFailed):
                await run_peer(language, "identify", wrong)
