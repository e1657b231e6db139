"""The command line, as a program, against real peers: identify over both muxers, ping, perf, and listening for them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.interop import matrix, peers
from tests.interop.peers import open_peer, run_peer
from tests.interop.support import PATIENCE, SOON


def _pyp2p(*words: str) -> list[str]:
    return [sys.executable, "-m", "pyp2p", *words]


async def _run(*words: str, code: int = 0) -> dict[str, Any]:
    """The last line of JSON that a command prints."""
    done = await trio.run_process(_pyp2p(*words, "--json"), capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == code, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@matrix.muxers()
async def test_identify(language: str, muxer: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--muxer", muxer) as peer:
            forced = await _run("identify", peer.address, "--muxer", muxer)
            chosen = await _run("identify", peer.address)
    early = (language, "early muxer") not in matrix.CANNOT
    for seen in (forced, chosen):
        assert seen["event"] == "identify"
        assert seen["peer_id"] == peer.peer_id
        assert {"/ipfs/id/1.0.0", "/echo/1.0.0", "/perf/1.0.0"} <= set(seen["protocols"])
        assert seen["transport"] == "tcp"
        assert seen["security"] == matrix.SECURITY
        assert seen["muxer"] == matrix.MUXERS[muxer]().protocol
        assert seen["early_muxer"] is early
        assert seen["observed"].startswith("/ip4/127.0.0.1/tcp/")
        assert seen["trace"][0]["stage"] == "connect"
        assert 0 < seen["seconds"] < PATIENCE
    assert forced["round_trips"] == 3


async def test_identify_by_host_and_port(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language) as peer:
            _, _, host, _, port, *_ = peer.address.split("/")
            seen = await _run("identify", f"{host}:{port}")
            assert seen["peer_id"] == peer.peer_id


async def test_identify_for_people(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language) as peer:
            done = await trio.run_process(_pyp2p("identify", peer.address, "--trace"), capture_stdout=True)
    shown = done.stdout.decode()
    assert peer.peer_id in shown and "/noise" in shown and "/yamux/1.0.0" in shown


async def test_a_muxer_that_the_peer_lacks(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--muxer", "yamux") as peer:
            failed = await _run("identify", peer.address, "--muxer", "mplex", code=14)
    assert failed["stage"] == "muxer_select"
    assert failed["attempts"]


@pytest.mark.parametrize(("other", "unknown"), [(name, key) for name, key in matrix.CANNOT if key in matrix.KEYS])
async def test_a_peer_that_does_not_know_our_kind_of_key(other: str, unknown: str, tmp_path: Path) -> None:
    peers.require(other)
    with trio.fail_after(PATIENCE):
        await _run("key", "new", str(tmp_path / "key"), "--type", unknown)
        async with open_peer(other) as peer:
            early = (other, "early muxer") not in matrix.CANNOT
            failed = await _run("identify", peer.address, "--key", str(tmp_path / "key"), code=15 if early else 14)
    assert "kind of key" in failed["advice"]


async def test_ping_and_perf(language: str) -> None:
    size = 16 * 1024 * 1024
    with trio.fail_after(PATIENCE):
        async with open_peer(language) as peer:
            pinged = await _run("ping", peer.address, "--count", "5", "--interval", "0")
            moved = await _run("perf", peer.address, "--upload", str(size), "--download", str(size))
    assert (pinged["count"], pinged["lost"]) == (5, 0)
    assert 0 < pinged["median_us"] <= pinged["p99_us"]
    assert (moved["upload_bytes"], moved["download_bytes"]) == (size, size)


async def test_pings_over_quic_with_a_stream_each(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language, "--transport", "quic") as peer:
            pinged = await _run("ping", peer.address, "--count", "100", "--interval", "0")
    assert (pinged["count"], pinged["lost"]) == (100, 0)


@matrix.muxers()
async def test_listen(language: str, muxer: str) -> None:
    """A peer identifies, pings and measures `pyp2p listen`, which ends when its standard input does."""
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(_pyp2p("listen", "--perf", "--json"), stdin=-1, stdout=-1)
        try:
            assert process.stdin is not None and process.stdout is not None
            line = b""
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some()
            first = json.loads(line.splitlines()[0])
            target = first["addresses"][0]
            (seen,) = await run_peer(language, "identify", target, "--muxer", muxer)
            assert seen["peer_id"] == first["peer_id"]
            assert {"/echo/1.0.0", "/perf/1.0.0", "/ipfs/ping/1.0.0"} <= set(seen["protocols"])
            await run_peer(language, "ping", target, "--count", "5", "--muxer", muxer)
            await run_peer(language, "perf", target, "--upload", "1000000", "--download", "1000000", "--muxer", muxer)
            await process.stdin.aclose()
            with trio.fail_after(SOON):
                assert await process.wait() == 0
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                if process.stdin is not None and process.stdout is not None:
                    await process.stdin.aclose()
                    await process.stdout.aclose()


async def test_dial_notices_that_the_peer_died(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(language) as peer:
            process = await trio.lowlevel.open_process(
                _pyp2p("dial", peer.address, "--hold", "60", "--json"), stdout=-1
            )
            try:
                assert process.stdout is not None
                printed = b""
                while b'"identify"' not in printed and b'"peer_id"' not in printed:
                    printed += await process.stdout.receive_some()
                peer.kill()
                with trio.fail_after(SOON):
                    async for chunk in process.stdout:
                        printed += chunk
                    await process.wait()
            finally:
                with trio.CancelScope(shield=True):
                    if process.returncode is None:
                        process.kill()
                        await process.wait()
                    if process.stdout is not None:
                        await process.stdout.aclose()
    last = json.loads(printed.splitlines()[-1])
    assert last["ended_by"] in ("peer", "network")
    assert last["reason"]
    assert last["held_seconds"] < PATIENCE
