"""An application of the network, to use or to copy: follow a chain's head, and serve its blocks from a folder.

Blocks come by gossip; what is missing is asked for by range, from peers that say they have it; what is known is served.
Rules: a block is judged by its bytes, slot and parent only, so this is for chains whose blocks say nothing else
(`devchain.py`): where blocks hold more, a client verifies them in `judge` before it accepts any.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from pyp2p.beacon.blocktree import Block, BlockTree
from pyp2p.beacon.chain import Chain
from pyp2p.beacon.containers import BeaconBlocksByHeadRequest, BeaconBlocksByRangeRequest
from pyp2p.beacon.devchain import genesis_block, make_block, read_block
from pyp2p.beacon.folder import BlockFolder
from pyp2p.beacon.gossip import GossipMessage
from pyp2p.beacon.methods import ForkBytes
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.scores import Tolerance
from pyp2p.beacon.status import ChainStatus
from pyp2p.errors import NobodyListens, NotSpoken, RequestFailed, WireError, unwrapped
from pyp2p.io.hub import Hub
from pyp2p.peer.id import PeerId
from pyp2p.pubsub.types import Verdict
from pyp2p.reqresp.service import Response
from pyp2p.switch.stream import Carrier

logger = logging.getLogger("pyp2p.beacon")

_LATE = 32  # slots after which a block is no news for others; ATTESTATION_PROPAGATION_SLOT_RANGE
_EARLY = 0.5  # seconds; MAXIMUM_GOSSIP_CLOCK_DISPARITY
_BATCH = 64  # slots that are asked for at a time
_PATIENCE = 10.0  # seconds for a batch: who takes longer must not hold up what others would give
_LOOK = 1.0  # seconds between looks at who has more than we do


@dataclass(frozen=True, slots=True)
class Imported:
    """A block is ours: from whom (None: our own), and how it came: gossip, range, own, folder."""

    block: Block
    source: PeerId | None
    how: str


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A peer gave us the blocks that we lacked, `count` of them, of the slots `first` to `last`."""

    peer: PeerId
    count: int
    first: int
    last: int


News = Imported | CaughtUp


class Blocks:
    """The blocks of a chain that we have: a tree, and the folder that keeps them (None: memory only)."""

    def __init__(self, chain: Chain, folder: BlockFolder | None = None, most: int = 65_536) -> None:
        self.chain = chain
        self._most = most
        self._gone: deque[tuple[int, bytes]] = deque()  # what the tree dropped and the folder still has
        self.tree = self._tree(genesis_block(chain))
        self.folder = folder

    @property
    def status(self) -> ChainStatus:
        """What they make of us: set `BeaconNetwork.status` to it before the network is entered."""
        head, first = self.tree.head, self.tree.first_slot
        return ChainStatus(head_root=head.root, head_slot=head.slot, earliest_available_slot=first)

    def read(self) -> None:
        """Read the folder; what is no block, or built on none, is left out. Blocks for as long as that takes."""
        if self.folder is None:
            return
        late: BlockTree | None = None  # of a folder whose first blocks were dropped
        begins_late = self.folder.begins_late(self.chain.genesis_validators_root)
        for raw in self.folder.blocks():
            try:
                block = read_block(self.chain, raw)
                if block.parent_root in self.tree:
                    self.tree.add(block)
                elif late is not None and block.parent_root in late:
                    late.add(block)
                elif begins_late and (late is None or len(late) == 1):
                    late = self._tree(block)
            except (WireError, ValueError) as error:
                logger.warning("block of the folder left out error=%s", error)
        if late is not None and late.head.slot > self.tree.head.slot:
            self.tree = late
        self._drop()

    def keep(self, block: Block) -> None:
        """Put a block into the folder, and take out what the tree dropped meanwhile. Blocks as `read` does."""
        if self.folder is not None and block.root in self.tree:  # it may be dropped before its turn comes
            self.folder.add(block.slot, block.root, block.ssz)
            self._drop()

    def _tree(self, anchor: Block) -> BlockTree:
        return BlockTree(anchor, self._most, dropped=self._note)

    def _note(self, block: Block) -> None:
        if self.folder is not None:
            self._gone.append((block.slot, block.root))

    def _drop(self) -> None:
        gone = []
        with suppress(IndexError):  # one by one: the tree drops more meanwhile, and another thread may be here too
            while True:
                gone.append(self._gone.popleft())
        if self.folder is not None:
            self.folder.drop(gone, self.chain.genesis_validators_root)


async def load_blocks(chain: Chain, folder: Path) -> Blocks:
    """What a folder has of a chain, made when it is not there. Raises `OSError` for one that cannot be."""
    blocks = await trio.to_thread.run_sync(lambda: Blocks(chain, BlockFolder(folder)))
    await trio.to_thread.run_sync(blocks.read)
    return blocks


class Follower:
    """Follows and serves one chain; made by `open_follower`. `tree` holds the blocks."""

    def __init__(self, net: BeaconNetwork, blocks: Blocks) -> None:
        self.net = net
        self.chain: Chain = net.chain
        self.tree = blocks.tree
        self._blocks = blocks
        self._hub: Hub[News] = Hub(64)
        self._wanted: dict[PeerId, int] = {}  # who has blocks that we lack, and up to which slot
        self._more = trio.Event()
        self._rng = net.switch.platform.rng

    @property
    def status(self) -> ChainStatus:
        """What we have of the chain."""
        return self._blocks.status

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[News]]:
        """What happens to the chain, from now on."""
        return self._hub.watch()

    # --- blocks come

    def judge(self, message: GossipMessage) -> Verdict:
        """The validator of `beacon_block`: accept what is of now and connects; fetch what is missing before it."""
        try:
            block = read_block(self.chain, message.payload)
        except WireError as error:
            logger.info("bad block peer=%s error=%s", message.source, error)
            return Verdict.REJECT
        clock = self.net.clock
        if self.chain.at_slot(block.slot).digest != message.digest:
            return Verdict.REJECT  # published on the topic of another fork
        if clock.seconds_until(block.slot) > _EARLY or block.slot < clock.slot - _LATE:
            return Verdict.IGNORE
        if block.root in self.tree:
            return Verdict.IGNORE
        if block.parent_root not in self.tree:
            if message.source is not None:
                self._want(message.source, block.slot)
            return Verdict.IGNORE
        return Verdict.ACCEPT if self._import(block) else Verdict.REJECT

    async def follow(self, task_status: trio.TaskStatus[None]) -> None:
        """Take what was accepted."""
        self.net.gossip.validate("beacon_block", self.judge)
        async with self.net.gossip.subscribe("beacon_block") as messages:
            task_status.started()
            async for message in messages:
                if message.source is not None:  # what we published was told when it was made
                    block = read_block(self.chain, message.payload)
                    await self._tell(block, message.source, "gossip")

    async def produce(self) -> None:
        """Make the block of every slot, for ever, and publish it."""
        while True:
            await self.produce_one(await self.net.clock.next_slot())

    async def produce_one(self, slot: int) -> Block | None:
        """Make the block of a slot on our head and publish it; None when the head is not older."""
        if slot <= self.tree.head.slot:
            return None
        block = make_block(self.chain, slot, self.tree.head.root)
        self._import(block)
        await self._tell(block, None, "own")
        try:
            await self.net.gossip.publish("beacon_block", block.ssz)
        except NobodyListens:
            logger.info("nobody listens slot=%d", slot)
        return block

    def _import(self, block: Block) -> bool:
        try:
            self.tree.add(block)
        except ValueError as error:
            logger.info("bad block error=%s", error)
            return False
        self.net.status = self.status
        return True

    async def _tell(self, block: Block, source: PeerId | None, how: str) -> None:
        if self._blocks.folder is not None:
            await trio.to_thread.run_sync(self._blocks.keep, block)
        await self._hub.tell(Imported(block, source, how))

    # --- catching up

    def _want(self, peer: PeerId, slot: int) -> None:
        self._wanted[peer] = max(slot, self._wanted.get(peer, 0))
        self._more.set()

    async def catch_up(self) -> None:
        """Fetch what peers have and we lack, from one peer at a time, for ever."""
        while True:
            with trio.move_on_after(_LOOK):
                await self._more.wait()
            self._more = trio.Event()
            head = self.tree.head.slot
            said = {each.peer: each.head_slot or 0 for each in self.net.peers()}
            ahead = {peer: slot for peer, slot in said.items() if slot > head}
            wanted, self._wanted = {**ahead, **self._wanted}, {}
            peers = list(wanted)
            self._rng.shuffle(peers)
            for peer in peers:
                try:
                    await self._fetch(peer, wanted[peer])
                except RequestFailed as error:
                    logger.info("blocks not fetched peer=%s error=%s", peer, error)

    async def _fetch(self, peer: PeerId, until: int) -> None:
        """The blocks of a peer up to a slot, from our head on, or from further back when they are of another branch."""
        start, step = min(self.tree.head.slot + 1, until), 8
        oldest = start  # of the slots that were asked for
        slots: list[int] = []
        while start <= until:
            connected = True
            with trio.move_on_after(_PATIENCE) as scope:
                connected = await self._fetch_some(peer, start, min(_BATCH, until - start + 1), slots)
            if scope.cancelled_caught:
                logger.info("blocks come too slowly peer=%s", peer)
                break
            if connected:
                start += _BATCH
            elif oldest <= self.tree.first_slot + 1:
                self.net.report(peer, Tolerance.MID, "its blocks are built on none that we know")
                return
            else:
                start = oldest = max(self.tree.first_slot + 1, oldest - step)
                step *= 2
        if slots:
            self.net.tell_status()
            await self._hub.tell(CaughtUp(peer, len(slots), slots[0], slots[-1]))

    async def _fetch_some(self, peer: PeerId, start: int, count: int, slots: list[int]) -> bool:
        """Import the blocks of some slots; False when they are built on one that we do not have."""
        async with await self._ask_range(peer, BeaconBlocksByRangeRequest(start, count)) as chunks:
            async for chunk in chunks:
                try:
                    block = read_block(self.chain, chunk.ssz)
                except WireError as error:
                    self.net.report(peer, Tolerance.LOW, f"a bad block: {error}")
                    return True
                if block.root in self.tree:
                    continue
                if block.parent_root not in self.tree:
                    return False
                if not self._import(block):
                    self.net.report(peer, Tolerance.LOW, f"block {block.slot} is not after its parent")
                    return True
                slots.append(block.slot)
                await self._tell(block, peer, "range")
        return True

    async def _ask_range(self, peer: PeerId, request: BeaconBlocksByRangeRequest) -> Response[ForkBytes]:
        methods = self.net.methods
        try:
            return await self.net.request(peer, methods.beacon_blocks_by_range_v2, request)
        except NotSpoken:
            return await self.net.request(peer, methods.beacon_blocks_by_range_v1, request)

    # --- serving

    def serve(self) -> None:
        """Answer requests for blocks."""
        methods = self.net.methods
        self.net.serve(methods.beacon_blocks_by_range_v2, self._by_range)
        self.net.serve(methods.beacon_blocks_by_root_v2, self._by_root)
        self.net.serve(methods.beacon_blocks_by_head_v1, self._by_head)

    async def _by_range(
        self, connection: Carrier, request: BeaconBlocksByRangeRequest
    ) -> AsyncGenerator[ForkBytes, None]:
        for block in list(self.tree.chain(request.start_slot, request.count)):
            yield self._chunk(block)

    async def _by_root(self, connection: Carrier, request: tuple[bytes, ...]) -> AsyncGenerator[ForkBytes, None]:
        for root in request:
            block = self.tree.get(root)
            if block is not None:
                yield self._chunk(block)

    async def _by_head(
        self, connection: Carrier, request: BeaconBlocksByHeadRequest
    ) -> AsyncGenerator[ForkBytes, None]:
        for block in list(self.tree.back_from(request.beacon_root, request.count)):
            yield self._chunk(block)

    def _chunk(self, block: Block) -> ForkBytes:
        return ForkBytes(self.chain.at_slot(block.slot).digest, block.ssz)

    # --- life

    def close(self) -> None:
        """Tell nobody any more."""
        self._hub.close()


@asynccontextmanager
async def open_follower(net: BeaconNetwork, blocks: Blocks | None = None) -> AsyncIterator[Follower]:
    """Follow the chain of a running network for the length of the block, from `blocks` on.

    What `load_blocks` read of a folder is kept there; None: begin with nothing, in memory.
    """
    follower = Follower(net, Blocks(net.chain) if blocks is None else blocks)
    net.status = follower.status
    follower.serve()
    with unwrapped():
        async with trio.open_nursery() as nursery:
            await nursery.start(follower.follow)
            nursery.start_soon(follower.catch_up)
            try:
                yield follower
            finally:
                nursery.cancel_scope.cancel()
                follower.close()
