"""Identify push both ways: ours when protocols come and go at run time, theirs (go) on demand."""

import json
from typing import Any

import trio

from pyp2p import Identified
from pyp2p.identify.service import IDENTIFY_PROTOCOL, PUSH_PROTOCOL
from pyp2p.protocols.ping import PING_PROTOCOL, ping
from tests.interop import matrix
from tests.interop.peers import command, open_peer
from tests.interop.support import ENTROPY, PATIENCE, address, next_event, open_switch

NEW = "/new/1.0.0"
GONE = "/gone/1.0.0"


async def _serve(_: object) -> None:
    raise AssertionError("nobody opens these")


@matrix.muxers()
async def test_go_sees_what_we_mount_and_unmount(go: str, muxer: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_switch(muxer) as switch, switch.watch() as events, trio.open_nursery() as nursery:
            switch.mount(GONE, _serve)
            arguments = ["hold", address(switch), "--hold", "1500ms", "--muxer", muxer]
            printed: list[dict[str, Any]] = []

            async def hold() -> None:
                done = await trio.run_process([*command(go), *arguments], stdin=b"", capture_stdout=True)
                printed.append(json.loads(done.stdout))

            nursery.start_soon(hold)
            await next_event(events, Identified)
            switch.mount(NEW, _serve)
            switch.unmount(GONE)
    (seen,) = printed
    assert seen["alive"] is True
    assert seen["protocols_before"] == 4
    assert sorted(seen["protocols_after"]) == [IDENTIFY_PROTOCOL, PUSH_PROTOCOL, PING_PROTOCOL, NEW]


@matrix.needs("take push")
async def test_a_listening_peer_reads_our_push(language: str) -> None:
    """rust says on standard error what it received; go has no way to tell it, but answers on the same connection."""
    flags = ["--verbose"] if language == "rust" else []
    with trio.fail_after(PATIENCE):
        async with open_peer(language, *flags) as peer, open_switch(listen=False) as switch:
            connection = await switch.connect(peer.address)
            assert connection.info is not None and PUSH_PROTOCOL in (connection.info.protocols or ())
            switch.mount(NEW, _serve)
            async with await connection.open_stream(PING_PROTOCOL) as stream:
                await ping(stream, ENTROPY)
                while language == "rust" and NEW not in peer.errors():
                    await ping(stream, ENTROPY)
            assert connection.is_open


@matrix.muxers()
@matrix.needs("push")
async def test_we_learn_what_a_peer_pushes(language: str, muxer: str) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            open_peer(language, "--push-after", "700ms", "--muxer", muxer) as peer,
            open_switch(muxer, listen=False) as switch,
            switch.watch() as events,
        ):
            connection = await switch.connect(peer.address)
            before = await next_event(events, Identified)
            assert "/pushed/1.0.0" not in before.info.protocols
            after = await next_event(events, Identified)
            assert after.connection is connection
            assert set(after.info.protocols) == {*before.info.protocols, "/pushed/1.0.0"}
            assert (after.info.agent, after.info.public_key) == (before.info.agent, before.info.public_key)
            assert connection.info is after.info
            assert "/pushed/1.0.0" in switch.peers.protocols(connection.peer)


async def test_a_peer_without_push_is_left_alone(js: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(js) as peer, open_switch(listen=False) as switch:
            connection = await switch.connect(peer.address)
            opened = connection.stats.streams_out
            switch.mount(NEW, _serve)
            async with await connection.open_stream(PING_PROTOCOL) as stream:
                await ping(stream, ENTROPY)
            assert connection.stats.streams_out == opened + 1
