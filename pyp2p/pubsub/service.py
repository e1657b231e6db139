"""Pubsub on a switch: streams, tasks and queues around the pure `Router`.

Rules: this file and its neighbours `link` and `validation` are all of pubsub that awaits. The switch tells of peers
(`Service.peer_connected`); each gets one outbound stream with one writer task, and what comes on its inbound stream goes
to the router, whose effects are carried out at once. The heartbeat is guarded: no peer can end it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from pyp2p.errors import NobodyListens, P2PError, PubsubError, WireError, printable
from pyp2p.io.varint import LengthPrefixed
from pyp2p.peer.address import ip_of
from pyp2p.peer.id import PeerId
from pyp2p.pubsub.core import Router
from pyp2p.pubsub.ids import MessageIdFunction, default_message_id
from pyp2p.pubsub.link import Link
from pyp2p.pubsub.outbox import Outbox
from pyp2p.pubsub.params import GossipParams, ScoreParams, Thresholds
from pyp2p.pubsub.score import ScoreBook, ScoreParts
from pyp2p.pubsub.signing import Policy, StrictSign
from pyp2p.pubsub.transform import DataTransform, Plain
from pyp2p.pubsub.types import PROTOCOLS, Connect, Deliver, Effect, Message, Send, Unwanted, Validate
from pyp2p.pubsub.validation import TopicValidator, Validator, Validators
from pyp2p.pubsub.wire import decode_rpc
from pyp2p.switch.connection import Connection
from pyp2p.switch.facts import CloseReason
from pyp2p.switch.handlers import call_guarded
from pyp2p.switch.limits import Budget
from pyp2p.switch.service import Service
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.switch import Switch

logger = logging.getLogger("pyp2p.pubsub")

_REOPEN = (1.0, 5.0, 20.0)  # seconds until a stream that broke is opened again on a connection that lives
_CONNECTING = 8  # dials to offered peers at once
_SUBSCRIPTION = 4096  # messages that a slow reader of a subscription may lag


@dataclass(slots=True)
class Published:
    """What became of our own message: `taken` have it on the wire, at `expired` it waited in vain."""

    message: Message
    taken: list[PeerId]
    expired: list[PeerId]


@dataclass(slots=True)
class _Publication:
    left: dict[PeerId, None]
    taken: list[PeerId] = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)

    def took(self, peer: PeerId) -> None:
        if peer in self.left:
            del self.left[peer]
            self.taken.append(peer)
        if not self.left:
            self.done.set()


class Subscription:
    """Messages of one topic, as an async iterator; `dropped` counts those that a slow reader missed."""

    def __init__(self, topic: str, size: int) -> None:
        self.topic = topic
        self.dropped = 0
        self._send, self._receive = trio.open_memory_channel[Message](size)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self._receive.__aiter__()

    def put(self, message: Message) -> bool:
        """Queue a message; False when the reader is too slow."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self.dropped += 1
            return False
        return True

    def close(self) -> None:
        """End the iteration after what is queued."""
        self._send.close()


class Pubsub:
    """Publish and subscribe over one switch; made by `open_pubsub`."""

    def __init__(self, switch: Switch, router: Callable[..., Router], params: GossipParams) -> None:
        self._switch = switch
        self._params = params
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._links: dict[PeerId, Link] = {}
        self._publications: dict[bytes, _Publication] = {}
        self._connecting = trio.CapacityLimiter(_CONNECTING)
        counters: Counter[tuple[str, str]] = Counter()
        self._validators = Validators(counters)
        self.router = router(judge=self._validators.judge, counters=counters)
        self._nursery: trio.Nursery | None = None

    # --- what users call

    @asynccontextmanager
    async def subscribe(self, topic: str, *, queue: int = _SUBSCRIPTION) -> AsyncIterator[Subscription]:
        """Listen to `topic` for the length of the block: `async for message in messages`.

        Several subscriptions of one topic each get every message. A reader that lags `queue` messages behind misses
        the newest: counted in `dropped` and in the metrics, while the mesh goes on.
        """
        subscription = Subscription(topic, queue)
        self._subscriptions.setdefault(topic, []).append(subscription)
        self.router.subscribe(topic, trio.current_time())
        self._carry_out()
        try:
            yield subscription
        finally:
            subscription.close()
            others = self._subscriptions[topic]
            others.remove(subscription)
            if not others:
                del self._subscriptions[topic]
                self.router.unsubscribe(topic, trio.current_time())
                self._carry_out()

    async def publish(self, topic: str, data: bytes) -> Published:
        """Send `data` to everybody who listens to `topic`; returns who took it and where it expired.

        A peer took it when its stream did. Waits for those whose queue is full, `params.publish_timeout` seconds for
        all together. Raises `NobodyListens` at once when no peer is eligible, `MessageTooLarge` before anything is
        queued. Cancelling leaves what is queued on its way.
        """
        await trio.lowlevel.checkpoint()
        made = self.router.publish(topic, data, trio.current_time())
        message = made.message
        publication = _Publication(dict.fromkeys(peer for peer in made.peers if peer in self._links))
        if not publication.left:
            self._carry_out()
            raise NobodyListens(topic)
        self._publications[message.id] = publication
        try:
            self._carry_out()
            with trio.move_on_after(self._params.publish_timeout):
                await publication.done.wait()
        finally:
            del self._publications[message.id]
        expired = list(publication.left)
        for peer in expired:
            self.router.counters["expired", topic] += 1
            if (link := self._links.get(peer)) is not None:
                link.give_up(message.id)
        return Published(message, publication.taken, expired)

    def add_validator(
        self, topic: str, validator: Validator, *, concurrency: int = 64, queue: int = 1024, timeout: float = 10.0
    ) -> None:
        """Ask `validator(message)` about every message of `topic` before it is delivered or forwarded.

        It returns a `Verdict`, or is a coroutine function that does; one that raises, hangs for `timeout` seconds or
        finds `queue` messages waiting counts as `IGNORE`. Raises `ValueError` for a second one.
        """
        self._validators.add(topic, TopicValidator(validator, concurrency, queue, timeout))

    def remove_validator(self, topic: str) -> None:
        """Ask no longer. Raises `KeyError` when there is none."""
        self._validators.remove(topic)

    def peers(self, topic: str | None = None) -> list[PeerId]:
        """Who speaks pubsub with us, or who of them listens to `topic`."""
        table = self.router.table
        return list(table.all() if topic is None else table.listening(topic))

    def mesh(self, topic: str) -> list[PeerId]:
        """Whom we exchange full messages of `topic` with."""
        return list(self.router.mesh.peers(topic))

    def score(self, peer: PeerId) -> ScoreParts:
        """The score of `peer` with its components."""
        return self.router.score.components(peer)

    @property
    def counters(self) -> Counter[tuple[str, str]]:
        """What happened so far, by (what, topic): for people and metrics."""
        return self.router.counters

    # --- peers

    async def run_peer(self, connection: Connection) -> None:
        """Speak with the peer of `connection` for as long as it lives; called by the switch."""
        said = (connection.info.protocols if connection.info is not None else None) or ()
        protocol = next((name for name in PROTOCOLS if name in said), None)
        if protocol is None:
            return
        link = self._link(connection.peer)
        link.carriers += 1
        try:
            if link.carriers == 1:
                ip = ip_of(connection.remote)
                self.router.peer_up(
                    link.peer,
                    PROTOCOLS[protocol],
                    connection.direction.outbound,
                    () if ip is None else (ip,),
                    trio.current_time(),
                )
                link.ready.set()
                self._carry_out()
            for pause in (0.0, *_REOPEN):
                await trio.sleep(pause)
                async with link.turn:
                    await self._speak(link, connection, protocol, again=link.carriers > 1 or pause > 0)
        finally:
            link.carriers -= 1
            if not link.carriers:
                self._links.pop(link.peer, None)
                self.router.peer_down(link.peer, trio.current_time())
                for publication in list(self._publications.values()):
                    publication.left.pop(link.peer, None)
                    publication.took(link.peer)

    def _link(self, peer: PeerId) -> Link:
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = Link(peer, Outbox(self._params.max_rpc_size * 2, 4096))
        return link

    async def _speak(self, link: Link, connection: Connection, protocol: str, again: bool) -> None:
        """Carry the peer's queue on a stream of this connection until one of them ends."""
        try:
            stream = await connection.open_stream(protocol)
            async with stream:
                if again:
                    self.router.hello(link.peer)
                    self._carry_out()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch_end, stream, nursery.cancel_scope)
                    await self._write(link, stream)
        except (P2PError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            logger.debug("stream ended peer=%s error=%s", link.peer, printable(str(error)))
        except BaseExceptionGroup as group:
            rest = group.split((P2PError, trio.BrokenResourceError, trio.ClosedResourceError))[1]
            if rest is not None:
                raise rest from None

    async def _watch_end(self, stream: MuxedStream, scope: trio.CancelScope) -> None:
        """Our outbound stream is one way: what comes on it is dropped, its end ends it."""
        async for _ in stream:
            pass
        scope.cancel()

    async def _write(self, link: Link, stream: MuxedStream) -> None:
        while True:
            link.refill(trio.current_time())
            batch = link.outbox.take(trio.current_time())
            if batch is None:
                await link.wait()
                continue
            await stream.send_all(batch.data)
            for token in batch.tokens:
                publication = self._publications.get(token)
                if publication is not None:
                    publication.took(link.peer)

    async def handle(self, stream: MuxedStream) -> None:
        """Take the RPCs of a peer from its stream; mounted for every protocol of pubsub."""
        link = self._link(stream.peer)
        with trio.move_on_after(self._switch.config.timeouts.identify):
            await link.ready.wait()
        if not link.ready.is_set():
            stream.reset()
            return
        before, link.inbound = link.inbound, stream
        if before is not None:
            before.reset()
        framer = LengthPrefixed(self._params.max_rpc_size)
        router, peer = self.router, link.peer
        try:
            async for chunk in stream:
                for data in framer.feed(chunk):
                    router.handle_rpc(peer, decode_rpc(data), trio.current_time())
                    self._carry_out()
        except (PubsubError, WireError) as error:
            logger.debug("bad rpc peer=%s error=%s", peer, printable(str(error)))
            router.malformed(peer)
            stream.reset()
        finally:
            if link.inbound is stream:
                link.inbound = None

    # --- effects

    def _carry_out(self) -> None:
        """Do what the router wants done; never waits."""
        now = trio.current_time()
        for effect in self.router.take():
            if type(effect) is Send:
                for peer in effect.peers:
                    link = self._links.get(peer)
                    if link is not None and not link.offer(effect.lane, effect.fragment, effect.token, now):
                        self.router.counters["queue full", effect.lane.name.lower()] += 1
            elif type(effect) is Deliver:
                for subscription in self._subscriptions.get(effect.message.topic, ()):
                    if not subscription.put(effect.message):
                        self.router.counters["slow subscriber", effect.message.topic] += 1
            else:
                self._carry_out_rare(effect)

    def _carry_out_rare(self, effect: Effect) -> None:
        if self._nursery is None:
            return
        match effect:
            case Validate():
                self._nursery.start_soon(self._validate, effect.message)
            case Unwanted():
                link = self._links.get(effect.peer)
                if link is not None:
                    link.outbox.drop(effect.ids)
            case Connect():
                self._nursery.start_soon(self._connect, effect)

    async def _validate(self, message: Message) -> None:
        verdict = await self._validators.run(message)
        self.router.validated(message, verdict, trio.current_time())
        self._carry_out()

    async def _connect(self, wanted: Connect) -> None:
        """Try a peer that was offered to us; its record must be its own."""
        async with self._connecting:
            try:
                peer = PeerId(wanted.peer)
                if wanted.record:
                    self._switch.peers.consume_record(wanted.record, trio.current_time(), peer)
                with trio.move_on_after(self._switch.config.timeouts.dial):
                    await self._switch.connect(peer)
            except (P2PError, ValueError) as error:
                logger.debug("offered peer not reached error=%s", printable(str(error)))

    # --- own tasks

    async def run(self, nursery: trio.Nursery) -> None:
        """The heartbeat, until cancelled; called by `open_pubsub`."""
        self._nursery = nursery
        await trio.sleep(self._params.heartbeat_initial_delay)
        due = trio.current_time()
        while True:
            error = call_guarded(self._beat)
            if error is not None:
                logger.error("heartbeat failed error=%s", printable(repr(error), 300))
            due = max(due + self._params.heartbeat_interval, trio.current_time())
            await trio.sleep_until(due)

    def _beat(self) -> None:
        now = trio.current_time()
        self.router.heartbeat(now)
        self._carry_out()
        for link in list(self._links.values()):
            stuck = link.outbox.full_since
            if stuck is not None and now - stuck >= self._params.publish_timeout:
                self.router.counters["disconnected", "queue stayed full"] += 1
                reason = CloseReason("pubsub", "its queue stayed full")
                if self._nursery is not None:
                    self._nursery.start_soon(self._switch.disconnect, link.peer, reason)


@asynccontextmanager
async def open_pubsub(
    switch: Switch,
    *,
    params: GossipParams | None = None,
    score: ScoreParams | None = None,
    thresholds: Thresholds | None = None,
    policy: Policy | None = None,
    message_id: MessageIdFunction = default_message_id,
    transform: DataTransform | None = None,
    allows: Callable[[str], bool] = lambda topic: True,
    application: Callable[[PeerId], float] = lambda peer: 0.0,
) -> AsyncIterator[Pubsub]:
    """Run pubsub on `switch` for the length of the block; open it before peers connect.

    Defaults: gossipsub v1.3 down to floodsub, StrictSign with the switch's identity, ids from author and sequence number
    (gossip reaches other implementations only when all sides form ids in the same way), no scoring, every topic allowed.
    """
    platform = switch.platform
    chosen = GossipParams() if params is None else params

    def router(**options: object) -> Router:
        return Router(
            switch.peer,
            chosen,
            thresholds=Thresholds() if thresholds is None else thresholds,
            score=ScoreBook(score, application),
            policy=StrictSign(switch.identity) if policy is None else policy,
            message_id=message_id,
            transform=Plain() if transform is None else transform,
            rng=platform.rng,
            allows=allows,
            records=lambda peer: switch.peers.record(peer) or b"",
            first_seqno=int(platform.wall() * 1e9),
            **options,  # type: ignore[arg-type]
        )

    pubsub = Pubsub(switch, router, chosen)
    service = Service("pubsub", peer_connected=pubsub.run_peer)
    async with trio.open_nursery() as nursery:
        switch.mount(list(PROTOCOLS), pubsub.handle, budget=Budget(per_peer=2), after_identify=True)
        switch.attach(service)
        nursery.start_soon(pubsub.run, nursery)
        try:
            yield pubsub
        finally:
            switch.detach(service)
            switch.unmount(list(PROTOCOLS))
            nursery.cancel_scope.cancel()
