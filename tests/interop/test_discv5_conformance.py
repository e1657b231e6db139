"""The conformance suite of go-ethereum (`devp2p discv5 test`) against a node of ours."""

from __future__ import annotations

import re
import subprocess

import pytest
import trio

from tests.interop import peers
from tests.interop.test_discv5 import ours

TESTS = {
    "Ping",
    "PingLargeRequestID",
    "PingMultiIP",
    "HandshakeResend",
    "TalkRequest",
    "FindnodeWrongIP",
    "FindnodeHandshake",
    "FindnodeZeroDistance",
    "FindnodeResults",
    "UnsolicitedNodes",
}
SECONDS = 150  # safety only: its longest test waits for a minute at most


@pytest.fixture
def devp2p() -> list[str]:
    """The command, built."""
    peers.require("go-devp2p")
    return peers.command("go-devp2p")


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 30)
async def test_the_suite_of_go_ethereum(devp2p: list[str]) -> None:
    async with ours() as node:
        with trio.fail_after(SECONDS):
            done = await trio.run_process(
                [*devp2p, "discv5", "test", "--tap", node.record.text],
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
            )
    said = done.stdout.decode()
    passed = set(re.findall(r"^ok \d+ (\S+)", said, re.MULTILINE))
    assert done.returncode == 0 and "not ok" not in said, said[-5000:]
    assert passed >= TESTS, said[-5000:]
