"""Pubsub on a switch: streams, tasks and queues around the pure `Router`.

Rules: this file and its neighbours `dialing`, `link`, `publication`, `subscription` and `validation` are all of pubsub
that awaits. The switch tells of peers (`Service.peer_connected`); each gets one outbound stream with one writer task,
and what comes on its inbound stream goes to the router, whose effects are carried out at once. No peer can end the
heartbeat.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from math import inf

import trio
from multiaddr import Multiaddr

from pyp2p.errors import LocalProtocolError, P2PError, PubsubError, WireError, describe, innermost, printable, unwrapped
from pyp2p.io.guard import call_guarded
from pyp2p.io.loglimit import LogLimiter
from pyp2p.io.varint import LengthPrefixed
from pyp2p.peer.address import ip_of
from pyp2p.peer.id import PeerId
from pyp2p.pubsub.core import Judge, Router
from pyp2p.pubsub.dialing import Dials, explicit_peer
from pyp2p.pubsub.filters import TopicFilter, every_topic
from pyp2p.pubsub.ids import MessageIdFunction, default_message_id
from pyp2p.pubsub.link import Link
from pyp2p.pubsub.outbox import Outbox
from pyp2p.pubsub.params import GossipParams, ScoreParams, Thresholds, TopicScoreParams
from pyp2p.pubsub.publication import InFlights, Published
from pyp2p.pubsub.score import ScoreBook, ScoreParts
from pyp2p.pubsub.signing import Policy, StrictNoSign, StrictSign
from pyp2p.pubsub.subscription import Subscription, Subscriptions
from pyp2p.pubsub.transform import DataTransform, Plain
from pyp2p.pubsub.types import PROTOCOLS, Connect, Deliver, Effect, Message, Send, Unwanted, Validate
from pyp2p.pubsub.validation import TopicValidator, Validator, Validators
from pyp2p.pubsub.wire import decode_rpc
from pyp2p.switch.connection import Connection
from pyp2p.switch.facts import CloseReason
from pyp2p.switch.limits import Budget
from pyp2p.switch.service import Service
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.switch import Switch

logger = logging.getLogger("pyp2p.pubsub")

_REOPEN = (1.0, 5.0, 20.0)  # seconds until a stream that broke is opened again on a connection that lives
_STEADY = 60.0  # seconds after which a stream that broke was a good one: the pauses begin anew
_FAREWELL = 1.0  # seconds that peers have to read the last of what we sent
_SLICE = 0.01  # seconds of one peer's RPCs until others have their turn
_TURNS = 8  # of other tasks while validators have more than they can do at once
_MESSAGES = 100  # of an RPC until the time is looked at: signed ones take some 70 us each
_BYTES = 64 * 1024  # the same: what is packed can become twenty times as large
_STREAM_ERRORS = (P2PError, trio.BrokenResourceError, trio.ClosedResourceError)

MakeRouter = Callable[[Judge, TopicFilter, Counter[tuple[str, str]]], Router]


class Pubsub:
    """Publish and subscribe over one switch; made by `open_pubsub`."""

    def __init__(self, switch: Switch, params: GossipParams, allows: TopicFilter, router: MakeRouter) -> None:
        self.counters: Counter[tuple[str, str]] = Counter()  # (what happened, topic or ""), for people and metrics
        self._switch = switch
        self._params = params
        self._allows = allows
        self._subscriptions = Subscriptions()
        self._links: dict[PeerId, Link] = {}
        self._publications = InFlights()
        self._dials = Dials(switch)
        self._leaves = False
        self._validators = Validators(self.counters, params.pending_validation_bytes)
        self._router = router(self._validators.judge, self._allowed, self.counters)
        self._nursery: trio.Nursery | None = None
        self._served: dict[Connection | MuxedStream, trio.CancelScope] = {}  # what runs in the nurseries of connections
        self._complaints = LogLimiter(logger)
        self._news = trio.lowlevel.ParkingLot()  # for those who wait until peers listen

    # --- what users call

    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, max_count: int = 4096, max_bytes: int = 64 * 1024 * 1024
    ) -> AsyncIterator[Subscription]:
        """Listen to `topic` for the length of the block: `async for message in messages`.

        Several subscriptions of one topic each get every message. A reader that falls `max_count` messages or
        `max_bytes` behind misses the newest: counted in `dropped` and in `counters`, while the mesh goes on. Raises
        `ValueError` for bounds below 1, `LocalProtocolError` for a topic that the filter does not allow or that is no
        topic (1 to 1,024 bytes of UTF-8).
        """
        self._check_runs()
        if not self._allowed(topic):
            raise LocalProtocolError(f"the topic filter does not allow {printable(topic)}")
        subscription = Subscription(topic, max_count, max_bytes)
        self._router.subscribe(topic, trio.current_time())
        self._carry_out()
        self._subscriptions.begin(subscription)
        try:
            yield subscription
        finally:
            if self._subscriptions.end(subscription):
                self._router.unsubscribe(topic, trio.current_time())
                self._carry_out()

    async def publish(self, topic: str, data: bytes | bytearray | memoryview) -> Published:
        """Send `data` to everybody who should have it; returns who took it and where it expired.

        A peer took it when its stream did. Waits for those whose queue is full, `params.publish_timeout` seconds for
        all together; a peer where it expired and that takes nothing at all for so long is disconnected and counted.
        Raises `NobodyListens` at once when no peer is eligible, `AlreadyPublished`, and `MessageTooLarge` before
        anything is queued. Cancelling leaves what is queued on its way, and withdraws it where it waits for room.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_runs()
        now = trio.current_time()
        made = self._router.publish(topic, data if isinstance(data, bytes) else bytes(memoryview(data)), now)
        message = made.message
        publication = self._publications.begin(message, made.peers, now + self._params.publish_timeout)
        try:
            self._carry_out()
            for peer in made.peers:
                if (link := self._links.get(peer)) is not None and link.opens_at > now:
                    self._takes_nothing(link, link.opens_at)
            await publication.done.wait()
        except trio.Cancelled:
            for peer in publication.left:
                if (link := self._links.get(peer)) is not None:
                    link.withdraw(message.id)
            raise
        finally:
            self._publications.end(message)
        for peer in publication.left:
            if (link := self._links.get(peer)) is not None:
                link.expire(message.id)
        outcome = publication.outcome()
        if outcome.expired:
            self.counters["own expired", topic] += len(outcome.expired)
        return outcome

    def add_validator(
        self, topic: str, validator: Validator, *, concurrency: int = 64, queue: int = 1024, timeout: float = 10.0
    ) -> None:
        """Ask `validator(message)` about every message of `topic` before it is delivered or forwarded.

        It returns a `Verdict`, or is a coroutine function that does; one that raises, runs for `timeout` seconds or has
        `queue` messages waiting already counts as `IGNORE`. One that is no coroutine function must take no time: what
        does belongs into a thread. Our own messages are not asked about. Raises `ValueError` for a second one and for
        bounds that make no sense.
        """
        self._check_runs()
        self._validators.add(topic, TopicValidator(validator, concurrency, queue, timeout))

    def remove_validator(self, topic: str) -> None:
        """Ask no longer. Raises `KeyError` when there is none."""
        self._validators.remove(topic)

    def set_topic_score(self, topic: str, params: TopicScoreParams | None) -> None:
        """Score peers in `topic` in this way from now on; None: no longer.

        Raises `ValueError` for a bad field, and when `open_pubsub` was given no `score`: then nothing is scored.
        """
        self._router.score.set_topic_params(topic, params)

    @property
    def topics(self) -> list[str]:
        """What we listen to."""
        return list(self._router.mesh.topics)

    def peers(self, topic: str | None = None) -> list[PeerId]:
        """Who speaks pubsub with us, or who of them listens to `topic`."""
        table = self._router.table
        return list(table.all() if topic is None else table.listening(topic))

    def mesh(self, topic: str) -> list[PeerId]:
        """Whom we exchange full messages of `topic` with."""
        return list(self._router.mesh.peers(topic))

    async def wait_for_peers(self, topic: str, count: int = 1) -> None:
        """Wait until `count` peers listen to `topic`, as far as they told us."""
        await trio.lowlevel.checkpoint()
        self._check_runs()
        while len(self._router.table.listening(topic)) < count:
            await self._news.park()
            self._check_runs()

    def score(self, peer: PeerId) -> ScoreParts:
        """The score of `peer` with its components; all zeros when it is not known or nothing is scored."""
        return self._router.score.components(peer)

    def gauges(self) -> dict[tuple[str, str], int]:
        """How things stand, by (what, topic or ""): peers, meshes, bytes of caches and queues."""
        found = {("peers", ""): len(self._router.table)}
        for topic in self._router.mesh.topics:
            found["topic peers", topic] = len(self._router.table.listening(topic))
            found["mesh peers", topic] = len(self.mesh(topic))
        found |= {(what, ""): size for what, size in self._router.sizes().items()}
        found["queued bytes", ""] = sum(link.size for link in self._links.values())
        found["validating bytes", ""] = self._validators.bytes
        return found

    # --- peers

    async def run_peer(self, connection: Connection) -> None:
        """Speak with the peer of `connection` for as long as both live; called by the switch."""
        if connection in self._served:
            return
        protocol = _advertised(connection)
        with self._serving(connection):
            while True:
                with self._held(connection.peer) as link:
                    while protocol is None:
                        await link.heard.wait()
                        link.heard = trio.Event()
                        protocol = _advertised(connection) or link.protocol
                    await self._serve(link, connection, protocol)
                    if not link.carriers:
                        self._lose(link)
                protocol = None  # it does not take our stream now; when it opens one of its own we try again

    def peer_updated(self, connection: Connection) -> None:
        """The peer may speak pubsub only now; called by the switch."""
        link = self._links.get(connection.peer)
        if link is not None and _advertised(connection) is not None:
            link.heard.set()

    @contextmanager
    def _serving(self, what: Connection | MuxedStream) -> Iterator[None]:
        """In a task of the switch, which outlives us: ended by `close`."""
        with trio.CancelScope() as scope:
            if self._nursery is None:
                scope.cancel()
            self._served[what] = scope
            try:
                yield
            finally:
                del self._served[what]
        if scope.cancelled_caught and isinstance(what, MuxedStream):
            what.reset()

    @contextmanager
    def _held(self, peer: PeerId) -> Iterator[Link]:
        """The link of a peer, kept while somebody holds it."""
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = Link(peer, self._outbox())
        link.holders += 1
        try:
            yield link
        finally:
            link.holders -= 1
            if not link.holders:  # what came before the end of the last connection has been read by now
                del self._links[peer]
                link.outbox.abandon()
                if link.known.is_set():
                    self._router.peer_down(peer, trio.current_time())
                    self._takes_nothing(link)

    def _outbox(self) -> Outbox:
        return Outbox(self._params.queue_bytes, self._params.queue_count, self.counters)

    async def _serve(self, link: Link, connection: Connection, protocol: str) -> None:
        """Be one of the connections that can carry the peer's stream, until that does not work any more."""
        link.carriers.append(connection)
        link.given_up = False
        self._tell_router(link, protocol)
        try:
            async with link.turn:
                await self._keep_stream(link, connection, protocol)
        finally:
            link.carriers.remove(connection)
            self._tell_router(link, protocol)

    def _lose(self, link: Link) -> None:
        """The peer takes no stream of ours: until it opens one of its own, no publication may wait for it."""
        link.known = trio.Event()
        link.heard = trio.Event()
        self._router.peer_down(link.peer, trio.current_time())
        self._takes_nothing(link)
        link.outbox.abandon()
        link.outbox = self._outbox()
        if link.inbound is not None:
            link.inbound.reset()

    def _tell_router(self, link: Link, protocol: str) -> None:
        """The connections to a peer have changed."""
        now = trio.current_time()
        outbound = any(connection.direction.outbound for connection in link.carriers)
        ips = [ip for ip in (ip_of(connection.remote) for connection in link.carriers) if ip is not None]
        if not link.carriers:
            self._takes_nothing(link)
        elif link.known.is_set():
            self._router.peer_moved(link.peer, outbound, ips, now)
        else:
            self._router.peer_up(link.peer, PROTOCOLS[protocol], outbound, ips, now)
            link.known.set()
        self._carry_out()

    def _takes_nothing(self, link: Link, until: float = inf) -> None:
        """No stream before `until`: what the peer cannot take in time has expired there."""
        for message_id in self._publications.hopeless(link.peer, until):
            link.expire(message_id)

    async def _keep_stream(self, link: Link, connection: Connection, protocol: str) -> None:
        """Have a stream to the peer; one that breaks is opened again, three times in a row at most."""
        pauses = iter(_REOPEN)
        while True:
            opened, leaves = trio.current_time(), False
            try:
                async with await connection.open_stream(protocol) as stream:
                    link.opened(stream)
                    if link.greeted:
                        self._router.hello(link.peer)
                        self._carry_out()
                    link.greeted = True
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._watch, stream, nursery.cancel_scope)
                        await self._write(link)
                        leaves, nursery.cancel_scope.deadline = True, trio.current_time() + _FAREWELL
                        await stream.send_eof()  # that the peer has read all, its own end says
            except* _STREAM_ERRORS as group:
                logger.debug("stream ended peer=%s error=%s", link.peer, describe(innermost(group)))
            finally:
                link.ended()
            if leaves:
                return
            if trio.current_time() - opened >= _STEADY:
                pauses = iter(_REOPEN)
            pause = next(pauses, None)
            if pause is None:
                self.counters["stream given up", ""] += 1
                return
            link.opens_at = trio.current_time() + pause
            self._takes_nothing(link, link.opens_at)
            await trio.sleep_until(link.opens_at)

    async def _watch(self, stream: MuxedStream, scope: trio.CancelScope) -> None:
        """Our outbound stream is one way: what comes on it is dropped, a reset ends it, a mere end does not."""
        try:
            async for _ in stream:
                pass
        except _STREAM_ERRORS:
            scope.cancel()

    async def _write(self, link: Link) -> None:
        """Until we leave, or another connection takes over, and nothing waits."""
        while True:
            batch = link.take()
            if batch is None:
                if self._leaves or link.moves:
                    return
                await link.wait()
                continue
            whole = False
            try:
                await link.write(batch.data)
                whole = True
            finally:
                if not whole:
                    self.counters["lost with its stream", ""] += batch.parts
                self._publications.ends(link.peer, batch.own, whole)

    async def handle(self, stream: MuxedStream) -> None:
        """Take the RPCs of a peer from its stream; mounted for every protocol of pubsub."""
        with self._serving(stream), self._held(stream.peer) as link:
            link.protocol = stream.protocol
            link.heard.set()
            with trio.move_on_after(self._switch.config.timeouts.identify):
                await link.known.wait()
            if not link.known.is_set():
                stream.reset()
                return
            self._router.stream_opened(link.peer)
            before, link.inbound = link.inbound, stream
            if before is not None:
                before.reset()  # a peer has one; two could be read in any order
            try:
                await self._read(link.peer, stream)
            except (PubsubError, WireError) as error:
                self._router.malformed(link.peer)
                self._complaints.log(trio.current_time(), "bad rpc peer=%s error=%s", link.peer, printable(str(error)))
                stream.reset()
            finally:
                if link.inbound is stream:
                    link.inbound = None

    async def _read(self, peer: PeerId, stream: MuxedStream) -> None:
        framer = LengthPrefixed(self._params.max_rpc_size)
        router = self._router
        async for chunk in stream:
            began = trio.current_time()
            for data in framer.feed(chunk):
                whole = decode_rpc(data)
                for rpc in whole.parts(_MESSAGES, _BYTES) if len(whole.publish) > 1 else (whole,):
                    now = trio.current_time()
                    error = call_guarded(partial(router.handle_rpc, peer, rpc, now))  # asks the application's functions
                    if error is not None:
                        self.counters["rpc failed", ""] += 1
                        self._complaints.log(now, "rpc failed peer=%s error=%s", peer, printable(repr(error), 300))
                    self._carry_out()
                    if rpc.subscriptions:
                        self._news.unpark_all()
                    if trio.current_time() - began >= _SLICE:
                        await trio.lowlevel.checkpoint()
                        began = trio.current_time()
                    for _ in range(_TURNS):
                        if not self._validators.crowded:
                            break
                        await trio.lowlevel.checkpoint()  # quick ones catch up; slow ones hold up nobody
        framer.finish()

    # --- effects

    def _carry_out(self) -> None:
        """Do what the router wants done; never waits."""
        for effect in self._router.take():
            if type(effect) is Send:
                for peer in effect.peers:
                    link = self._links.get(peer)
                    if link is not None and not link.offer(effect):
                        self._give_up(link, "it makes us answer and does not read")
            elif type(effect) is Deliver:
                if missed := self._subscriptions.deliver(effect.message):
                    self.counters["slow subscriber", effect.message.topic] += missed
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
                    link.outbox.unwanted(effect.ids)
            case Connect():
                self._dials.want(effect, self._nursery)

    async def _validate(self, message: Message) -> None:
        verdict = await self._validators.run(message)
        self._router.validated(message, verdict, trio.current_time())
        self._carry_out()

    def _allowed(self, topic: str) -> bool:
        """What the filter says; one that crashes says no."""
        said: list[bool] = []
        error = call_guarded(lambda: said.append(self._allows(topic)))
        if error is not None:
            self._complaints.log(trio.current_time(), "topic filter failed error=%s", printable(repr(error), 300))
        return bool(said and said[0])

    def _give_up(self, link: Link, why: str) -> None:
        """Disconnect a peer that does not read what it must."""
        if self._nursery is not None and not link.given_up:
            link.given_up = True
            self.counters["disconnected", ""] += 1
            self._nursery.start_soon(self._switch.disconnect, link.peer, CloseReason("pubsub", why))

    # --- own tasks

    def start(self, nursery: trio.Nursery, explicit: Iterable[PeerId]) -> None:
        """Begin, with the peers that are connected already; called by `open_pubsub`."""
        self._nursery = nursery
        self._router.direct.update(dict.fromkeys(explicit))
        nursery.start_soon(self._heartbeat)
        nursery.start_soon(self._publications.expire)
        for connection in self._switch.connections():
            if connection.info is not None:  # else the switch tells of it
                connection.start_service(self.run_peer)

    async def _heartbeat(self) -> None:
        """Until cancelled. Late beats are not made up for."""
        due = trio.current_time() + self._params.heartbeat_initial_delay
        while True:
            await trio.sleep_until(due)
            error = call_guarded(self._beat)
            if error is not None:
                logger.error("heartbeat failed error=%s", printable(repr(error), 300), exc_info=error)
            due += self._params.heartbeat_interval
            if due <= trio.current_time():
                due = trio.current_time() + self._params.heartbeat_interval

    def _beat(self) -> None:
        now = trio.current_time()
        patience = self._params.publish_timeout
        for link in self._links.values():
            if link.stuck(patience, now):
                self._give_up(link, f"it took nothing for {patience:g} s")
            if link.beat():
                self._router.slow(link.peer, now)
        self._router.heartbeat(now)
        self._carry_out()

    async def leave(self) -> None:
        """Let peers read what waits for them, for a bounded time whether cancelled or not: a connection that is closed
        takes along what its peer has not read yet.
        """
        self._leaves = True
        self._news.unpark_all()
        with trio.move_on_after(_FAREWELL, shield=True):
            async with trio.open_nursery() as nursery:
                for link in self._links.values():
                    nursery.start_soon(link.finish)

    def close(self) -> None:
        """End what runs in the nurseries of connections."""
        self._nursery = None
        for scope in self._served.values():
            scope.cancel()
        self._subscriptions.close()

    def _check_runs(self) -> None:
        if self._leaves:
            raise LocalProtocolError("this pubsub has ended: the block of open_pubsub was left")


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
    allows: TopicFilter = every_topic,
    explicit: Iterable[str | Multiaddr | PeerId] = (),
    application: Callable[[PeerId], float] | None = None,
) -> AsyncIterator[Pubsub]:
    """Run pubsub on `switch` for the length of the block.

    Defaults: gossipsub v1.3 down to floodsub, StrictSign with the switch's identity, ids from author and sequence
    number (gossip reaches other implementations only when all sides form ids in the same way), no scoring, every topic
    allowed. `explicit` peers get every message and are never grafted; addresses end in /p2p/ID. `application` is P5, a
    part of the score. Raises `ValueError` for settings that do not go together.
    """
    for name, function in (("message_id", message_id), ("allows", allows), ("application", application)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function, not {function!r}")
    chosen = GossipParams() if params is None else params
    signing = StrictSign(switch.identity) if policy is None else policy
    if isinstance(signing, StrictNoSign) and message_id is default_message_id:
        raise ValueError("message_id: author and sequence number make no id where nobody signs: name another function")
    friends = [explicit_peer(switch, each) for each in explicit]

    def said(peer: PeerId) -> float:
        value = [0.0]
        if application is not None and call_guarded(lambda: value.append(float(application(peer)))) is not None:
            pubsub.counters["application score failed", ""] += 1
        return value[-1]

    def router(judge: Judge, allowed: TopicFilter, counters: Counter[tuple[str, str]]) -> Router:
        return Router(
            switch.peer,
            chosen,
            thresholds=Thresholds() if thresholds is None else thresholds,
            score=ScoreBook(score, None if application is None else said),
            policy=signing,
            message_id=message_id,
            transform=Plain() if transform is None else transform,
            rng=switch.platform.rng,
            records=lambda peer: switch.peers.record(peer) or b"",
            first_seqno=int(switch.platform.wall() * 1e9),
            judge=judge,
            allows=allowed,
            counters=counters,
        )

    pubsub = Pubsub(switch, chosen, allows, router)
    service = Service("pubsub", peer_connected=pubsub.run_peer, peer_updated=pubsub.peer_updated)
    with unwrapped():
        async with trio.open_nursery() as nursery:
            try:
                switch.mount(list(PROTOCOLS), pubsub.handle, budget=Budget(per_peer=2), after_identify=True)
            except ValueError as error:
                raise ValueError(f"this switch has a pubsub already: {error}") from None
            switch.attach(service)
            pubsub.start(nursery, friends)
            try:
                yield pubsub
            finally:
                await pubsub.leave()
                switch.detach(service)
                switch.unmount(list(PROTOCOLS))
                pubsub.close()
                nursery.cancel_scope.cancel()


def _advertised(connection: Connection) -> str | None:
    """The newest protocol of pubsub that the peer says it speaks."""
    said = (connection.info.protocols if connection.info is not None else None) or ()
    return next((name for name in PROTOCOLS if name in said), None)
