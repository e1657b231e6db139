"""Identify both ways: every field, over both muxers, with and without the early muxer list, from both ends."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from pyp2p import Connection, DialFailed, Identified, Limits, NoCommonProtocol, Stage
from pyp2p.identify.service import IDENTIFY_PROTOCOL, PUSH_PROTOCOL
from pyp2p.peer.address import text
from pyp2p.peer.record import open_record
from pyp2p.protocols.ping import PING_PROTOCOL
from tests.interop import matrix, peers
from tests.interop.peers import PeerFailed, open_peer, run_peer
from tests.interop.support import PATIENCE, address, next_event, open_switch, staying

AGENTS = {"go": "gopeer/", "rust": "rust-libp2p-peer/", "js": "js-libp2p/"}
VERSIONS = {"go": "", "rust": "/interop/1.0.0", "js": "ipfs/0.1.0"}
SERVED = {IDENTIFY_PROTOCOL, PING_PROTOCOL, "/echo/1.0.0", "/perf/1.0.0"}
SERVED_DIALLING = {"go": SERVED, "rust": SERVED, "js": {IDENTIFY_PROTOCOL, PING_PROTOCOL}}
EARLY = pytest.mark.parametrize("early", [True, False], ids=["early", "late"])


def test_the_matrix_and_the_peer_programs_say_the_same() -> None:
    assert list(matrix.contradictions()) == []


def _check(
    connection: Connection, language: str, muxer: str, early: bool, served: Iterable[str] = frozenset(SERVED)
) -> None:
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
    assert set(info.protocols or ()) >= set(served)


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


@EARLY
@pytest.mark.parametrize("theirs", ["yamux", "mplex", "both"])
async def test_we_identify_who_dials(language: str, theirs: str, early: bool) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            open_switch(early_muxer=early) as switch,
            switch.watch() as events,
            staying(language, address(switch), "--muxer", theirs),
        ):
            told = await next_event(events, Identified)
            connection = told.connection
            assert not connection.direction.outbound
            agreed = "mplex" if theirs == "mplex" else "yamux"
            _check(connection, language, agreed, early, SERVED_DIALLING[language])
            assert told.info is connection.info
            # None of them listens: the address that they dialled from is not one to dial.
            assert switch.peers.addresses(connection.peer, trio.current_time()) == []


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


@pytest.mark.parametrize("version", ["lazy", "v1"])
@matrix.muxers()
async def test_rust_negotiates_eagerly_and_lazily(rust: str, muxer: str, version: str) -> None:
    flags = ["--muxer", muxer, "--upgrade", version]
    with trio.fail_after(PATIENCE):
        async with open_peer(rust, *flags) as peer, open_switch() as switch:
            _check(await switch.connect(peer.address), rust, muxer, False)
            (seen,) = await run_peer(rust, "identify", address(switch), *flags)
            assert seen["peer_id"] == str(switch.peer)


@pytest.mark.parametrize("other", ["go", "js"])
async def test_a_peer_that_offers_tls_first(other: str) -> None:
    peers.require(other)
    with trio.fail_after(PATIENCE):
        async with open_peer(other, "--security", "both") as peer, open_switch() as switch:
            _check(await switch.connect(peer.address), other, "yamux", True)
            (seen,) = await run_peer(other, "identify", address(switch), "--security", "both")
            assert seen["peer_id"] == str(switch.peer)


async def test_a_peer_without_our_security_is_a_clear_failure(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--security", "tls") as peer, open_switch() as switch:
            with pytest.raises(DialFailed) as raised:
                await switch.connect(peer.address)
            (attempt,) = raised.value.attempts
            assert attempt.stage is Stage.SECURITY_SELECT
            assert isinstance(attempt.error, NoCommonProtocol)
            with pytest.raises(PeerFailed):
                await run_peer(language, "identify", address(switch), "--security", "tls")


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
