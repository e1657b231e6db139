"""The peers agree with each other: without this a failure against pyp2p could be theirs."""

import pytest

from tests.interop.peers import PeerFailed, open_peer, require, run_peer


@pytest.mark.parametrize("muxer", ["yamux", "mplex"])
@pytest.mark.parametrize("dialer", ["go", "rust", "js"])
async def test_peers_identify_each_other(dialer: str, language: str, muxer: str) -> None:
    require(dialer)
    async with open_peer(language, "--muxer", muxer) as peer:
        (seen,) = await run_peer(dialer, "identify", peer.address, "--muxer", muxer)
    assert seen["peer_id"] == peer.peer_id
    assert {"/perf/1.0.0", "/echo/1.0.0"} <= set(seen["protocols"])


async def test_a_peer_that_cannot_start_says_why(language: str) -> None:
    with pytest.raises(PeerFailed) as raised:
        async with open_peer(language, "--muxer", "nothing"):
            pass
    assert "nothing" in str(raised.value)


async def test_a_killed_peer_is_gone_at_once(language: str) -> None:
    async with open_peer(language) as peer:
        peer.kill()
        assert await peer.process.wait() < 0
        with pytest.raises(PeerFailed):
            await run_peer(language, "identify", peer.address)
