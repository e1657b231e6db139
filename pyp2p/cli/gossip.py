"""`pyp2p gossip sub` and `pyp2p gossip pub`: a node that listens to a topic, or publishes to it.

Rules: every peer that is named is tried; one that is reached is enough. Messages are told one by one, rates on the live
line, totals at the end, also after an interrupt.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from pyp2p.cli import render, stdin
from pyp2p.cli.failure import OK, CommandFailed, UsageError, clean
from pyp2p.cli.listen import listen_on
from pyp2p.cli.output import Output
from pyp2p.cli.reach import CONNECT_SECONDS, check_no_conflict, connect_to, identity
from pyp2p.cli.runner import run
from pyp2p.cli.stack import listen_addresses, stack
from pyp2p.cli.stdout import emit
from pyp2p.cli.target import Target, parse_target
from pyp2p.errors import AlreadyPublished, LocalProtocolError, MessageTooLarge, NobodyListens, printable, unwrapped
from pyp2p.peer.address import text
from pyp2p.peer.id import PeerId
from pyp2p.pubsub.publication import Published
from pyp2p.pubsub.service import Pubsub, open_pubsub
from pyp2p.pubsub.types import Message
from pyp2p.pubsub.wire import encode_topic
from pyp2p.switch.connection import Connection
from pyp2p.switch.events import Disconnected
from pyp2p.switch.switch import Switch, open_switch
from pyp2p.trace import Stage

_SHOWN = 120  # characters of a message that are shown to people
_PROTOCOL_FAILED = 15
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds until a peer that has gone is tried again
_BEHIND = 65_536  # messages that wait for whoever reads standard output; more are missed

Work = Callable[[Pubsub, list[Target], Switch], Awaitable[int]]


@dataclass(slots=True)
class _Totals:
    """What was moved so far."""

    began: float = field(default_factory=trio.current_time)
    messages: int = 0
    payload: int = 0
    missed: int = 0  # by us as a slow reader, or by peers whose queue was full
    refused: int = 0  # by us: of others, for a wrong signature and the like; of our own, because its id was published

    @property
    def seconds(self) -> float:
        return trio.current_time() - self.began

    def count(self, payload: bytes) -> None:
        self.messages += 1
        self.payload += len(payload)

    def line(self) -> str:
        seconds = max(self.seconds, 1e-9)
        return (
            f"{self.messages} messages, {render.size(self.payload)} in {render.duration(seconds)}: "
            f"{self.messages / seconds:.1f} messages/s, {render.rate(self.payload, seconds)}"
        )

    def tell(self, out: Output) -> None:
        """The last line."""
        out.status(None)
        seconds = max(self.seconds, 1e-9)
        sheet = {
            "messages": self.messages,
            "bytes": self.payload,
            "missed": self.missed,
            "refused": self.refused,
            "seconds": round(seconds, 6),
            "messages_per_second": round(self.messages / seconds, 3),
            "bytes_per_second": round(self.payload / seconds, 3),
        }
        lost = [f"{count} {how}" for how, count in (("missed", self.missed), ("refused", self.refused)) if count]
        out.emit("totals", sheet, [", ".join([self.line(), *lost])])


def subscribe(options: argparse.Namespace, out: Output, settings: dict[str, Any]) -> int:
    """`gossip sub TOPIC`; `settings` are for `open_pubsub`."""

    async def work(pubsub: Pubsub, peers: list[Target], switch: Switch) -> int:
        totals = _Totals()
        async with pubsub.subscribe(options.topic, max_count=_BEHIND) as messages, trio.open_nursery() as nursery:
            try:
                nursery.start_soon(_until_input_ends, nursery.cancel_scope)
                await _connect_all(switch, peers, options, out, nursery)
                out.status(lambda: f"{totals.line()}, {len(pubsub.peers(options.topic))} peers")
                async for message in messages:
                    totals.count(message.payload)
                    await _tell_message(message, out)
                    if totals.messages == options.count:
                        break
                nursery.cancel_scope.cancel()
            finally:
                totals.missed = messages.dropped + len(messages)
                totals.refused = pubsub.counters["rejected", options.topic]
                totals.tell(out)
                if totals.refused:
                    out.error("refused: a wrong signature, or one side is --eth2 and the other is not")
        return OK

    return _run(options, out, settings, work)


def publish(options: argparse.Namespace, out: Output, settings: dict[str, Any]) -> int:
    """`gossip pub TOPIC`; `settings` are for `open_pubsub`."""
    check_no_conflict(options, "data", "size")
    # Looked at before anybody is told anything: who closes it after our first line wants us to end.
    watches_input = (options.count or 1) > 1 and not _from_stdin(options) and not stdin.is_over()

    async def work(pubsub: Pubsub, peers: list[Target], switch: Switch) -> int:
        totals = _Totals()
        async with trio.open_nursery() as nursery:
            try:
                if watches_input:
                    nursery.start_soon(_until_input_ends, nursery.cancel_scope)
                await _connect_all(switch, peers, options, out, nursery)
                await _wait_for_listeners(pubsub, options, out)
                totals.began = trio.current_time()
                out.status(totals.line)
                await _publish_all(pubsub, options, totals, out)
                nursery.cancel_scope.cancel()
            finally:
                totals.tell(out)
        return OK

    return _run(options, out, settings, work)


def _run(options: argparse.Namespace, out: Output, settings: dict[str, Any], work: Work) -> int:
    """Open the node, tell where it listens, run `work`."""
    check_no_conflict(options, "port", "addr")
    try:
        encode_topic(options.topic)
    except LocalProtocolError as error:
        raise UsageError(clean(str(error))) from None
    peers = [parse_target(given) for given in options.peer]
    who = identity(options, out)
    addresses, spoken = listen_addresses(options), stack(options)

    async def command() -> int:
        async with open_switch(who, **spoken) as switch, open_pubsub(switch, **settings) as pubsub:
            try:
                for address in addresses:
                    await listen_on(switch, address)
                dialable = [text(address) for address in switch.multiaddrs]
                sheet = {"peer_id": str(switch.peer), "addresses": dialable, "topic": options.topic}
                rows: list[tuple[str, object]] = [("peer id", str(switch.peer)), ("listening", dialable)]
                out.emit("node", sheet, render.fields(rows, out.style))
                with unwrapped():
                    return await work(pubsub, peers, switch)
            except LocalProtocolError as error:
                failure: CommandFailed = UsageError(clean(str(error)))
            except CommandFailed as error:
                failure = error
            out.fail(failure, " ".join(options.command.words))
            return failure.code

    return run(command, out)


async def _until_input_ends(scope: trio.CancelScope) -> None:
    await stdin.end_of_input()
    scope.cancel()


async def _connect_all(
    switch: Switch, peers: list[Target], options: argparse.Namespace, out: Output, nursery: trio.Nursery
) -> None:
    """Try all peers side by side, and in `nursery` again and again those that are not reached or go.

    Raises `CommandFailed` of one when none is reached.
    """
    failures: list[tuple[Target, CommandFailed]] = []
    reached: list[tuple[Target, Connection]] = []

    async def connect(target: Target) -> None:
        try:
            connection = await connect_to(switch, target, options.timeout or CONNECT_SECONDS)
        except CommandFailed as failure:
            failures.append((target, failure))
        else:
            reached.append((target, connection))
            await _tell_connected(connection, out)

    out.status(lambda: f"connecting to {len(peers)} peers")
    async with trio.open_nursery() as attempts:
        for target in peers:
            attempts.start_soon(connect, target)
    out.status(None)
    last = failures.pop()[1] if peers and len(failures) == len(peers) else None
    for target, failure in failures:
        if out.as_json:
            out.emit("not_reached", {"target": str(target), **failure.as_json()})
        else:
            out.error(f"not reached: {target}: {failure.reason}")
    if last is not None:
        raise last
    for target, connection in reached:
        nursery.start_soon(_stay_connected, switch, target, connection, out)
    for target, _ in failures:
        nursery.start_soon(_stay_connected, switch, target, None, out)


async def _stay_connected(switch: Switch, target: Target, connection: Connection | None, out: Output) -> None:
    """Until cancelled: try again, less and less often, when the peer has gone."""
    pause = _FIRST_PAUSE
    while True:
        if connection is not None:
            pause = _FIRST_PAUSE
            await _end_of(connection, switch)
            why = printable(str(connection.reason), 300)
            sheet = {"peer_id": str(connection.peer), "reason": why}
            await emit(out, "disconnected", sheet, [f"disconnected  {connection.peer}: {why}"])
            connection = None
        await trio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            connection = await connect_to(switch, target, CONNECT_SECONDS)
        except CommandFailed:
            continue
        await _tell_connected(connection, out)


async def _end_of(connection: Connection, switch: Switch) -> None:
    async with switch.watch() as events:
        if connection.reason is None:
            async for event in events:
                if isinstance(event, Disconnected) and event.connection is connection:
                    return


async def _tell_connected(connection: Connection, out: Output) -> None:
    sheet = {"peer_id": str(connection.peer), "remote": text(connection.remote)}
    await emit(out, "connected", sheet, [f"connected  {connection.peer} at {text(connection.remote)}"])


async def _wait_for_listeners(pubsub: Pubsub, options: argparse.Namespace, out: Output) -> None:
    """Raises `CommandFailed` when nobody comes in time."""
    out.status(lambda: f"waiting for somebody who listens to {printable(options.topic, 60)}")
    seconds = options.timeout or CONNECT_SECONDS
    with trio.move_on_after(seconds) as scope:
        await pubsub.wait_for_peers(options.topic)
    if scope.cancelled_caught:
        raise CommandFailed(
            Stage.PROTOCOL.value,
            _PROTOCOL_FAILED,
            f"nobody listened to {printable(options.topic, 100)} within {seconds:g} s",
            "`pyp2p gossip sub TOPIC --peer ADDR` listens; give --peer a node that is in the topic.",
        )


def _from_stdin(options: argparse.Namespace) -> bool:
    return options.data is None and options.size is None


async def _payloads(options: argparse.Namespace) -> AsyncIterator[bytes]:
    """What to publish, each when it is time."""
    began = trio.current_time()
    number = 0
    if _from_stdin(options):
        async for line in stdin.lines():
            if options.rate:
                await trio.sleep_until(began + number / options.rate)
            yield line
            number += 1
            if number == options.count:
                return
        return
    for number in range(options.count or 1):
        if options.rate:
            await trio.sleep_until(began + number / options.rate)
        yield os.fsencode(options.data) if options.data is not None else os.urandom(options.size)


async def _publish_all(pubsub: Pubsub, options: argparse.Namespace, totals: _Totals, out: Output) -> None:
    number = 0
    async for payload in _payloads(options):
        number += 1
        try:
            done = await _publish(pubsub, options, payload, totals, out)
        except MessageTooLarge as error:
            if not _from_stdin(options):
                raise UsageError(clean(str(error))) from None
            reason = f"line {number} of standard input: {clean(str(error))}"
            raise CommandFailed(
                Stage.PROTOCOL.value, _PROTOCOL_FAILED, reason, "Neither it nor what follows was published."
            ) from None
        except AlreadyPublished:
            totals.refused += 1
            out.error("published before, with the same id: not sent again")
            continue
        totals.count(payload)
        totals.missed += len(done.expired)
        await _tell_published(done, out)


async def _publish(
    pubsub: Pubsub, options: argparse.Namespace, payload: bytes, totals: _Totals, out: Output
) -> Published:
    """Publish when somebody listens."""
    while True:
        try:
            return await pubsub.publish(options.topic, payload)
        except NobodyListens:
            await _wait_for_listeners(pubsub, options, out)
            out.status(totals.line)


async def _tell_message(message: Message, out: Output) -> None:
    author = None if message.author is None else _peer(message.author)
    sheet: dict[str, object] = {
        "topic": message.topic,
        "from": None if author is None else str(author),
        "received_from": None if message.source is None else str(message.source),
        "id": message.id.hex(),
        "size": len(message.payload),
        "data": message.payload.hex(),
    }
    try:
        shown = message.payload.decode("utf-8")
    except UnicodeDecodeError:
        shown = message.payload[: 2 * _SHOWN].decode("latin-1")
    shown = printable(shown, _SHOWN)
    whom = out.style.dim(str(author or f"by way of {message.source}"))
    await emit(out, "message", sheet, [f"{whom}  {render.size(len(message.payload))}  {shown}"])


async def _tell_published(done: Published, out: Output) -> None:
    sheet = {
        "topic": done.message.topic,
        "id": done.message.id.hex(),
        "size": len(done.message.payload),
        "taken": [str(peer) for peer in done.taken],
        "expired": [str(peer) for peer in done.expired],
    }
    whom = "1 peer" if len(done.taken) == 1 else f"{len(done.taken)} peers"
    late = f", expired at {len(done.expired)}" if done.expired else ""
    await emit(out, "published", sheet, [f"published  {render.size(len(done.message.payload))} to {whom}{late}"])


def _peer(author: bytes) -> PeerId | str:
    """The author, who in an unsigned message may be anything."""
    try:
        return PeerId.from_bytes(author)
    except ValueError:
        return author.hex()
