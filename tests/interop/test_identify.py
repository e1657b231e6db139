"""Identify both ways: every field, over both muxers, with and without the early muxer list, from both ends."""

from pathlib import Path

import pytest
import trio

from pyp2p import Connection, Limits
from pyp2p.identify.service import IDENTIFY_PROTOCOL, PUSH_PROTOCOL
from pyp2p.peer.address import text
from pyp2p.peer.record import open_record
from pyp2p.protocols.ping import PING_PROTOCOL
from tests.interop import matrix
from tests.interop.peers import open_peer, run_peer
from tests.interop.support import PATIENCE, address, open_switch

AGENTS = {"go": "gopeer/", "rust": "rust-libp2p-peer/", "js": "js-libp2p/"}
VERSIONS = {"go": "", "rust": "/interop/1.0.0", "js": "ipfs/0.1.0"}
SERVED = {IDENTIFY_PROTOCOL, PING_PROTOCOL, "/echo/1.0.0", "/perf/1.0.0"}
EARLY = pytest.mark.parametrize("early", [True, False], ids=["early", "late"])


def test_the_matrix_and_the_peer_programs_say_the_same() -> None:
    assert list(matrix.contradictions()) == []


def _check(connection: Connection, language: str, muxer: str, early: bool) -> None:
    assert connection.identify_error is None
    assert connection.security == matrix.SECURITY
    assert connection.muxer_protocol == matrix.MUXERS[muxer]().protocol
    assert connection.early_muxer == (early and (language, "early muxer") not in matrix.CANNOT)
    info = connection.info
    assert info is not None
    assert info.public_key is not None
    assert info.public_key == connection.peer_key
    assert info.agent is not None and info.agent.startswith(AGENTS[language])
    assert info.protocol_version == VERSIONS[language]
    assert set(info.protocols or ()) >= SERVED


@EARLY
@matrix.muxers()
async def test_we_dial(language: str, muxer: str, early: bool) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            open_peer(language, "--muxer", muxer) as peer,
            open_switch(muxer, listen=False, early_muxer=early) as switch,
        ):
            connection = await switch.connect(peer.address)
            _check(connection, language, muxer, early)
            info = connection.info
            assert info is not None
            assert str(connection.peer) == peer.peer_id
            assert [f"{text(each)}/p2p/{peer.peer_id}" for each in info.addresses or ()] == [peer.address]
            assert info.observed is not None
            # js tells our id too.
            assert text(info.observed).removesuffix(f"/p2p/{switch.peer}") == text(connection.local)
            assert switch.peers.agent(connection.peer) == info.agent


@matrix.needs("signed record")
async def test_a_signed_record_is_the_peers(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language) as peer, open_switch(listen=False) as switch:
            info = (await switch.connect(peer.address)).info
            assert info is not None and info.record is not None
            record = open_record(info.record)
    assert str(record.peer) == peer.peer_id
    assert [f"{text(each)}/p2p/{peer.peer_id}" for each in record.addresses] == [peer.address]


@EARLY
@matrix.muxers()
async def test_they_dial(language: str, muxer: str, early: bool) -> None:
    with trio.fail_after(PATIENCE):
        async with open_switch(muxer, early_muxer=early) as switch:
            (seen,) = await run_peer(language, "identify", address(switch), "--muxer", muxer)
            protocol = matrix.MUXERS[muxer]().protocol
            assert seen["peer_id"] == str(switch.peer)
            assert seen["agent"] == switch.config.agent
            assert seen["protocol_version"] == "ipfs/0.1.0"
            assert sorted(seen["protocols"]) == [IDENTIFY_PROTOCOL, PUSH_PROTOCOL, PING_PROTOCOL]
            assert seen["addrs"] == [text(each) for each in switch.addresses]
            if language == "go":
                assert seen["conn"] == {
                    "muxer": protocol,
                    "security": matrix.SECURITY,
                    "transport": "tcp",
                    "early_muxer": early,
                }
            else:
                assert seen["observed"].startswith("/ip4/127.0.0.1/tcp/")
            if language == "js":
                assert (seen["muxer"], seen["security"], seen["signed_record"]) == (protocol, matrix.SECURITY, True)


@pytest.mark.parametrize("theirs", ["yamux", "mplex", "both"])
async def test_muxers_are_agreed_when_both_sides_have_a_choice(language: str, theirs: str) -> None:
    agreed = "/mplex/6.7.0" if theirs == "mplex" else "/yamux/1.0.0"
    with trio.fail_after(PATIENCE):
        for early in (True, False):
            async with (
                open_peer(language, "--muxer", theirs) as peer,
                open_switch(listen=False, early_muxer=early) as switch,
            ):
                connection = await switch.connect(peer.address)
                assert (connection.muxer_protocol, connection.info is not None) == (agreed, True)


async def test_an_address_without_an_id_learns_it(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language) as peer, open_switch(listen=False) as switch:
            connection = await switch.connect(peer.address.partition("/p2p/")[0])
            assert str(connection.peer) == peer.peer_id


async def test_a_peer_that_reads_one_small_message_learns_the_important_part(language: str) -> None:
    """rust reads the first message only, of at most 4096 bytes; go and js merge several.

    Not more than 128 protocols here: of a peer with more go remembers none.
    """
    names = [f"/one/of/the/many/protocols/of/a/very/busy/node/with/long/names/{number:03}" for number in range(120)]
    with trio.fail_after(PATIENCE):
        async with open_switch() as switch:

            async def never(_: object) -> None:
                raise AssertionError("nobody opens these")

            switch.mount(names, never)
            (seen,) = await run_peer(language, "identify", address(switch))
            assert seen["peer_id"] == str(switch.peer)
            assert seen["agent"] == switch.config.agent
            assert seen["addrs"] == [text(each) for each in switch.addresses]
            learnt = set(seen["protocols"])
            assert {IDENTIFY_PROTOCOL, PUSH_PROTOCOL, PING_PROTOCOL} <= learnt
            if language == "rust":
                assert 50 < len(learnt) < 120
            else:
                assert learnt >= set(names)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="cannot: this machine has no IPv6")
async def test_over_ipv6(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_switch(listen=False) as switch:
            await switch.listen("/ip6/::1/tcp/0")
            (seen,) = await run_peer(language, "identify", address(switch))
            assert seen["addrs"] == [text(each) for each in switch.addresses]


async def test_ten_handshakes_at_a_time(language: str) -> None:
    """Connections that come and go leave the limits as they were."""
    with trio.fail_after(PATIENCE):
        async with open_switch(limits=Limits(per_peer=64)) as switch:
            before = switch.counters
            (seen,) = await run_peer(language, "handshakes", address(switch), "--count", "60", "--concurrency", "10")
            assert seen["n"] == 60 and not seen.get("fails")
            while switch.connections():
                await trio.lowlevel.checkpoint()
            after = switch.counters
            # rust pings on each of its connections, but a peer gets two ping streams.
            after.pop("refused.limit.streams_per_protocol_and_peer", None)
            assert after == before
