"""The js eth2 peer (its lines are in tests/interop/js-eth2/README.md), and a beacon node of ours that meets it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.devchain import DevBlock, dev_chain, genesis_block, make_block
from pyp2p.beacon.follow import Follower, open_follower
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.peer.id import PeerId
from pyp2p.reqresp.declare import Limits
from pyp2p.switch.connection import Connection
from tests.interop.matrix import MUXERS
from tests.interop.peers import Peer, open_peer

PATIENCE = 30.0  # seconds: safety only
SLOTS_PER_EPOCH = 8
SLOT_SECONDS = 2
RANGE, ROOT = "beacon_blocks_by_range/2", "beacon_blocks_by_root/2"


@dataclass
class Node:
    """A listening peer that is asked and told of by JSON lines."""

    peer: Peer
    events: list[dict[str, Any]] = field(default_factory=list)  # that no test has looked at yet
    _asked: int = 0

    async def ask(self, cmd: str, **command: Any) -> dict[str, Any]:
        """What a command gives; it has to succeed."""
        answer = await self.try_to(cmd, **command)
        assert answer["event"] == "done", answer
        return answer

    async def try_to(self, cmd: str, **command: Any) -> dict[str, Any]:
        """The event that answers a command; what happens before is kept."""
        self._asked += 1
        number = self._asked
        await self.peer.write_line(json.dumps({"cmd": cmd, "id": number, **command}))
        return await self.event(id=number)

    async def request(self, method: str, **command: Any) -> dict[str, Any]:
        """What a request gives, also when it failed."""
        return await self.ask("request", method=method, **command)

    async def event(self, **wanted: Any) -> dict[str, Any]:
        """The first event with these values, among those that were kept and those to come."""

        def fits(event: dict[str, Any]) -> bool:
            return all(event.get(name) == value for name, value in wanted.items())

        with trio.fail_after(PATIENCE):
            while True:
                for event in filter(fits, self.events):
                    self.events.remove(event)
                    return event
                self.events.append(json.loads(await self.peer.line()))


@asynccontextmanager
async def node(*flags: str) -> AsyncIterator[Node]:
    """A peer that listens."""
    async with open_peer("js-eth2", *flags) as peer:
        yield Node(peer)


@dataclass(frozen=True)
class Way:
    """How the two meet: which muxers each of them offers (`quic`: it speaks that alone), and who dials."""

    ours: str
    theirs: str
    we_dial: bool

    def __str__(self) -> str:
        return f"{self.ours}-{'to' if self.we_dial else 'from'}-{self.theirs}"

    @property
    def muxer(self) -> str:
        """What they agree on."""
        return self.theirs if self.ours == "both" else self.ours


WAYS = [
    Way(ours, theirs, we_dial)
    for ours, theirs in (("both", "yamux"), ("both", "mplex"), ("mplex", "both"))
    for we_dial in (True, False)
] + [Way("both", "quic", we_dial) for we_dial in (True, False)]


def forked_chain() -> Chain:
    """A chain that has been through all its forks, an epoch in each, and stays in the last one from now on."""
    return dev_chain(int(time.time()) - 52 * SLOT_SECONDS, epochs_per_fork=1)


def unforked_chain() -> Chain:
    """A chain that is, and stays, in its first fork."""
    return dev_chain(int(time.time()) - 52 * SLOT_SECONDS, epochs_per_fork=1_000)


def make_blocks(chain: Chain, last: int) -> list[DevBlock]:
    """The blocks of the slots from 1 to `last`."""
    blocks = [genesis_block(chain)]
    for slot in range(1, last + 1):
        blocks.append(make_block(chain, slot, blocks[-1].root))
    return blocks[1:]


def flags_of(chain: Chain, slot: int = 52) -> list[str]:
    """What the peer has to know of a chain: its digest now, and those of blocks."""
    forks = ",".join(f"{period.epoch * SLOTS_PER_EPOCH}:{period.digest.hex()}" for period in chain.schedule)
    return ["--digest", chain.at_slot(slot).digest.hex(), "--forks", forks, "--heartbeat-ms", "100"]


@asynccontextmanager
async def theirs(chain: Chain, muxer: str, *flags: str) -> AsyncIterator[Node]:
    """The peer on a chain."""
    stack = ("--transport", "quic") if muxer == "quic" else ("--muxer", muxer)
    async with node(*stack, *flags_of(chain), *flags) as peer:
        yield peer


async def give_blocks(peer: Node, blocks: list[DevBlock], folder: Path) -> None:
    """Have the peer serve these."""
    files = []
    for block in blocks:
        path = folder / f"{block.slot}.ssz"
        path.write_bytes(block.ssz)
        files.append({"path": str(path), "root": block.root.hex()})
    await peer.ask("blocks", files=files)


@dataclass
class Meeting:
    """A node of ours that is connected to the peer."""

    net: BeaconNetwork
    follower: Follower
    connection: Connection

    @property
    def peer(self) -> PeerId:
        """The other one."""
        return self.connection.peer

    @property
    def score(self) -> float:
        """What we think of it."""
        return self.net.peering.manager.score(self.peer, trio.current_time())


@asynccontextmanager
async def ours(chain: Chain, muxers: str = "both", *, blocks: list[DevBlock] | None = None) -> AsyncIterator[Follower]:
    """A node of ours that follows the chain and has some of its blocks."""
    made = [make() for name, make in MUXERS.items() if muxers in (name, "both")]
    # Nobody may wait for a quota here: one ping in five seconds is no test.
    config = BeaconConfig(chain=chain, discovery=False, requests=Limits(quotas=False), long_lived_subnets=False)
    async with BeaconNetwork(config, muxers=made) as net, open_follower(net) as follower:
        for block in blocks or ():
            follower.tree.add(block)
        yield follower


@asynccontextmanager
async def meeting(
    chain: Chain, way: Way, peer: Node, *, blocks: list[DevBlock] | None = None, status: str = "status/2"
) -> AsyncIterator[Meeting]:
    """A fresh node of ours (nobody has a score there) and the peer, connected and admitted."""
    async with ours(chain, way.ours, blocks=blocks) as follower:
        net = follower.net
        connection = await meet(net, way, peer, status)
        assert way.muxer in connection.muxer_protocol
        yield Meeting(net, follower, connection)


async def meet(net: BeaconNetwork, way: Way, peer: Node, status: str = "status/2") -> Connection:
    """Connect: whoever dials says its status first."""
    if way.we_dial:
        return await net.switch.connect(peer.peer.address)
    await peer.ask("dial", address=address_of(net, way))
    answer = await peer.request(status, peer=str(net.peer))
    assert answer.get("error") is None, answer
    await until(lambda: any(each.admitted for each in net.switch.connections()), "admitted")
    return net.switch.connections()[0]


def address_of(net: BeaconNetwork, way: Way) -> str:
    """Where the peer is to dial us."""
    tcp, quic = map(str, net.switch.multiaddrs)
    return quic if way.theirs == "quic" else tcp


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that is done in this program."""
    with trio.move_on_after(PATIENCE):
        while not holds():
            await trio.sleep(0.01)
        return
    raise AssertionError(f"it never came to: {what}")
