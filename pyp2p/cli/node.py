"""`pyp2p node`: a node of a beacon chain, for as long as it runs.

Rules: a made-up chain is followed and served (`follow.py`). The blocks of any other are for a client with the rules of
consensus to judge: what is gossiped there is shown, with the verdict "ignore", so nothing unverified is forwarded. It
ends as `pyp2p listen` does: with a pipe on standard input, SIGINT or SIGTERM, and says goodbye to its peers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from pyp2p.beacon.follow import Blocks, Follower, load_blocks, open_follower
from pyp2p.beacon.gossip import GossipMessage
from pyp2p.beacon.local import make_folder
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.stats import NodeStats
from pyp2p.cli import render
from pyp2p.cli.failure import LIMITS, OK, CommandFailed, UsageError, clean
from pyp2p.cli.node_config import NodeConfig, chain_name, node_config
from pyp2p.cli.node_events import Feed, tell_chain, tell_gossip, tell_meshes, tell_network, warning
from pyp2p.cli.node_view import leave, show
from pyp2p.cli.output import Output
from pyp2p.cli.runner import run as run_trio
from pyp2p.cli.stack import muxers
from pyp2p.cli.stdin import end_of_input
from pyp2p.errors import DataInUse, JoinFailed, KeyFileError, NoKeyInFile, unwrapped
from pyp2p.peer.address import text
from pyp2p.pubsub.types import Verdict
from pyp2p.switch.defaults import Quic

_REJOIN = 30.0  # seconds until the bootstrap nodes are tried again
# What is shown of a chain that we do not verify: types of few messages.
_SHOWN: Final = (
    "beacon_block",
    "voluntary_exit",
    "proposer_slashing",
    "attester_slashing",
    "bls_to_execution_change",
    "light_client_finality_update",
    "light_client_optimistic_update",
)

ServeMetrics = Callable[[BeaconNetwork, str, int, trio.Nursery], Awaitable[str]]


def run(options: argparse.Namespace, out: Output, serve_metrics: ServeMetrics | None = None) -> int:
    """Run the command; `serve_metrics` is for --metrics."""
    config = node_config(options)

    async def command() -> int:
        try:
            await _Node(options, config, out, serve_metrics).run()
        except CommandFailed as failure:
            out.fail(failure, "node")
            return failure.code
        return OK

    return run_trio(command, out, terminated=OK)


class _Node:
    """One run of the command."""

    def __init__(
        self, options: argparse.Namespace, config: NodeConfig, out: Output, serve_metrics: ServeMetrics | None
    ) -> None:
        self._options = options
        self._config = config
        self._out = out
        self._serve_metrics = serve_metrics
        self._viewed = out.screen and not options.verbose  # logs and a view would spoil each other
        self._feed = Feed(out, lines=not self._viewed)
        self._told = False  # that we listen
        self._stats: NodeStats | None = None

    async def run(self) -> None:
        """Until standard input ends, or cancelled; the peers are told. Raises `CommandFailed` when it cannot start."""
        began = time.monotonic()
        net = BeaconNetwork(self._config.beacon, muxers=muxers(self._options))
        use = trio.CancelScope()
        try:
            with unwrapped():
                async with trio.open_nursery() as outer:
                    outer.start_soon(self._until_cancelled, use)
                    # What cancels us must not end those who still tell how peers went.
                    with trio.CancelScope(shield=True):
                        await self._run(net, use)
                    outer.cancel_scope.cancel()
        finally:
            if self._stats is not None and self._viewed:
                leave(self._out)
            self._feed.end(self._stats, time.monotonic() - began)

    async def _until_cancelled(self, use: trio.CancelScope) -> None:
        try:
            await trio.sleep_forever()
        finally:
            use.cancel()

    async def _run(self, net: BeaconNetwork, use: trio.CancelScope) -> None:
        async with net.watch() as news, trio.open_nursery() as nursery:
            nursery.start_soon(self._feed.write)
            nursery.start_soon(tell_network, news, self._feed)
            async with self._started(net) as follower:
                with use:
                    await self._live(net, follower)
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _started(self, net: BeaconNetwork) -> AsyncIterator[Follower | None]:
        """The network and what follows its chain. Raises `UsageError` for what the user gave and cannot be."""
        running = False
        try:
            blocks = await self._blocks(net)  # before anybody asks what we have
            async with net, AsyncExitStack() as stack:
                follower = None
                if blocks is not None:
                    follower = await stack.enter_async_context(open_follower(net, blocks))
                running = True
                try:
                    yield follower
                finally:
                    self._stats = net.stats() if self._told else None
        except (OSError, ValueError, DataInUse, KeyFileError) as error:
            if running:
                raise
            raise self._cannot_start(error) from None

    async def _blocks(self, net: BeaconNetwork) -> Blocks | None:
        if not self._config.made_up:
            return None
        folder, data = self._config.blocks, self._config.beacon.data
        if data is not None:  # what is wrong with it is told of it, and not of the folder of blocks in it
            await trio.to_thread.run_sync(make_folder, data)
        blocks = Blocks(net.chain) if folder is None else await load_blocks(net.chain, folder)
        net.status = blocks.status
        return blocks

    def _cannot_start(self, error: Exception) -> CommandFailed:
        if isinstance(error, DataInUse):
            return CommandFailed("data", LIMITS, clean(str(error)), "Give each node a --data of its own.")
        if isinstance(error, NoKeyInFile):
            return UsageError(
                clean(str(error)),
                "Put the key back that was there; without the file a new one is made, and the node is another one.",
            )
        if not isinstance(error, OSError):
            return UsageError(clean(str(error)))
        if error.filename:
            return UsageError(clean(f"{error.filename}: {error.strerror or error}"), "See --data and --blocks.")
        beacon = self._config.beacon
        quic = beacon.quic and Quic is not None
        places = ", ".join(
            f"{ip} port {port}" + (f" (QUIC: {beacon.quic_beside(port)})" if quic else "") for ip, port in beacon.listen
        )
        return UsageError(
            f"cannot listen on {places}: {error.strerror or error}",
            "Another process may have the port, or the address is not of this machine; --port 0 takes any free port, "
            "--quic-port 0 any for QUIC.",
        )

    async def _live(self, net: BeaconNetwork, follower: Follower | None) -> None:
        async with AsyncExitStack() as stack:
            chain_news = None
            if follower is None:
                await self._show_gossip(net, stack)
            else:
                chain_news = await stack.enter_async_context(follower.watch())
            nursery = await stack.enter_async_context(trio.open_nursery())
            if chain_news is not None:
                nursery.start_soon(tell_chain, chain_news, self._feed)
                await nursery.start(self._tell_accepted, net)
            self._tell_listening(net, await self._metrics(net, nursery))
            self._told = True
            nursery.start_soon(tell_meshes, net, self._feed)
            nursery.start_soon(join, net, self._feed)
            if self._viewed:
                nursery.start_soon(show, net.stats, self._feed, self._out, chain_name(net.chain))
            if follower is not None and self._options.produce:
                nursery.start_soon(follower.produce)
            await end_of_input()
            nursery.cancel_scope.cancel()

    async def _metrics(self, net: BeaconNetwork, nursery: trio.Nursery) -> str | None:
        if self._options.metrics is None or self._serve_metrics is None:
            return None
        host, port = self._options.metrics
        try:
            with unwrapped():
                return await self._serve_metrics(net, host, port, nursery)
        except OSError as error:
            raise UsageError(f"--{clean(error.strerror or str(error))}") from None

    def _tell_listening(self, net: BeaconNetwork, metrics: str | None) -> None:
        places = [text(address) for address in net.switch.multiaddrs]
        chain, period = net.chain, net.clock.period
        facts = {
            "peer_id": str(net.peer),
            "enr": None if net.enr is None else net.enr.text,
            "addresses": places,
            "chain": chain_name(chain),
            "fork": period.fork,
            "fork_digest": period.digest.hex(),
            "slot": net.clock.slot,
            "head_slot": net.status.head_slot,
            "metrics": metrics,
        }
        rows: list[tuple[str, object]] = [
            ("peer id", facts["peer_id"]),
            ("record", facts["enr"]),
            ("listening", places),
            ("chain", f"{chain_name(chain)}, {period.title}, digest {period.digest.hex()}, slot {net.clock.slot}"),
            ("metrics", metrics),
        ]
        self._feed.tell("listening", facts, "\n".join(render.fields(rows, self._out.style)))

    # --- tasks

    async def _tell_accepted(self, net: BeaconNetwork, task_status: trio.TaskStatus[None]) -> None:
        async with net.gossip.subscribe("beacon_block") as messages:
            task_status.started()
            async for message in messages:
                if message.source is not None:
                    tell_gossip(message, self._feed)

    async def _show_gossip(self, net: BeaconNetwork, stack: AsyncExitStack) -> None:
        """Be in the topics that are shown: nothing is delivered there, the validators tell."""
        for name in _SHOWN:
            net.gossip.validate(name, self._show)
            await stack.enter_async_context(net.gossip.subscribe(name))

    def _show(self, message: GossipMessage) -> Verdict:
        tell_gossip(message, self._feed)
        return Verdict.IGNORE


async def join(net: BeaconNetwork, feed: Feed) -> None:
    """Get into the network by its bootstrap nodes, if there are any; while none is reached, warn and try again."""
    if not net.config.bootnodes and not net.chain.bootnodes:
        return
    while True:
        try:
            peer = await net.connect_to_network()
        except JoinFailed as error:
            count = len(error.bootstraps)
            words = (
                f"none of {count} bootstrap nodes was reached, trying again"
                if count != 1
                else ("the bootstrap node was not reached, trying again")
            )
            feed.tell(*warning(words, map(str, error.bootstraps)))
            await trio.sleep(_REJOIN)
        else:
            feed.tell("joined", {"peer_id": str(peer)}, f"joined        by way of {peer}")
            return
