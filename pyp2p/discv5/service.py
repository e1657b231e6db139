"""discv5 on sockets: tasks around the pure `Node`.

Rules: this is all of discv5 that awaits. One task for each socket takes datagrams and one task minds the timer; effects
are carried out at once. What cannot be sent is dropped, as on the way.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import Any

import trio

from pyp2p.discv5.core import Node
from pyp2p.discv5.enr import Enr, Value
from pyp2p.discv5.messages import Pong
from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.state import State, load, save
from pyp2p.discv5.types import (
    Arrived,
    Completed,
    Discv5Config,
    Effect,
    NodeEvent,
    PacketTrace,
    RecordChanged,
    SendDatagram,
    TalkCall,
)
from pyp2p.errors import DiscoveryError, LocalProtocolError, printable, unwrapped
from pyp2p.io.guard import call_guarded, run_guarded
from pyp2p.io.loglimit import LogLimiter
from pyp2p.io.udp import DatagramSocket, bind_udp
from pyp2p.peer.keys import Identity
from pyp2p.platform import Platform

logger = logging.getLogger("pyp2p.discv5")

TalkHandler = Callable[[Enr, bytes], Awaitable[bytes]]
Tracer = Callable[[PacketTrace], object]
Bind = Callable[[str, int], DatagramSocket]

_ENDED = "this discv5 node has ended: the block of open_discv5 was left"
_SAVE_EVERY = 300.0  # seconds between savings of the table
_PATIENCE = 5.0  # seconds that a save may take: a disk that hangs must not silence us for good
_HELD = 1024  # datagrams that wait for it
_NEWS = 1024  # events that wait for a watcher; more are dropped, the oldest stay


class _Wait:
    """A request that somebody waits for."""

    __slots__ = ("done", "result")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: object = None


class _Choice:
    """A predicate of the application, called from within the core: what it raises is kept for the one who asked."""

    __slots__ = ("_predicate", "error")

    def __init__(self, predicate: Callable[[Enr], bool]) -> None:
        self._predicate = predicate
        self.error: Exception | None = None

    def takes(self, record: Enr) -> bool:
        """What it says of a record; no, once it has raised."""
        said: list[bool] = []
        if self.error is None:
            self.error = call_guarded(lambda: said.append(bool(self._predicate(record))))
        return said == [True]


class Discv5:
    """A running node; made by `open_discv5`."""

    def __init__(
        self,
        node: Node,
        sockets: list[DatagramSocket],
        *,
        path: Path | None,
        kept: list[Enr],
        tracer: Tracer | None,
    ) -> None:
        self._node = node
        self._node.traced = tracer is not None
        self._tracer = tracer
        self._sockets = {ip_address(sock.local[0]).version: sock for sock in sockets}
        self._path = path
        self._kept = kept
        self._handlers: dict[bytes, TalkHandler] = {}
        self._waits: dict[int, _Wait] = {}
        self._watchers: dict[trio.MemorySendChannel[NodeEvent | RecordChanged], None] = {}
        self._timer = trio.Event()
        self._wakes_at = inf
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()  # our record: it has to be saved
        self._saved = trio.Event()  # set while the record that others hear of is the one in the file
        self._saved.set()
        self._held: deque[SendDatagram | RecordChanged] = deque()  # what waits until our record is saved
        self._saver = trio.CapacityLimiter(1)  # not the threads of the application, which may all be taken
        self._answering = 0  # handlers that run
        self._complaints = LogLimiter(logger)

    @property
    def record(self) -> Enr:
        """Our own record, as it is now."""
        return self._node.record

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where we listen."""
        return [Endpoint.of(*sock.local) for sock in self._sockets.values()]

    @property
    def counters(self) -> Counter[str]:
        """What was dropped and why, and what else happened."""
        return self._node.counters

    def gauges(self) -> dict[str, int]:
        """How things stand: nodes, live ones, buckets, replacements."""
        return self._node.table.counters()

    def nodes(self) -> list[Enr]:
        """The live nodes of the table, the closest first."""
        return self._node.table.closest(self._node.node_id, 4096)

    # --- requests

    async def ping(self, node: Enr, endpoint: Endpoint | None = None) -> Pong:
        """Ask whether a node is there. Raises `DiscoveryError`, which says which node and why, as do all requests."""
        answer = await self._ask(self._node.ping, node, endpoint=_checked(endpoint))
        assert isinstance(answer, Pong)
        return answer

    async def find_node(self, node: Enr, distances: Iterable[int], endpoint: Endpoint | None = None) -> list[Enr]:
        """The nodes that it knows at these log distances from it; 0: its own record."""
        chosen = list(distances)
        if any(not isinstance(distance, int) or not 0 <= distance <= 256 for distance in chosen):
            raise ValueError(f"distances are whole numbers from 0 to 256, not {chosen}")
        return await self._ask_for_nodes(self._node.find_node, node, chosen, endpoint=_checked(endpoint))

    async def talk(self, node: Enr, protocol: bytes, request: bytes, endpoint: Endpoint | None = None) -> bytes:
        """The answer of an application protocol over TALKREQ, empty where it is not known."""
        answer = await self._ask(self._node.talk, node, protocol, request, endpoint=_checked(endpoint))
        assert isinstance(answer, bytes)
        return answer

    async def lookup(self, target: bytes) -> list[Enr]:
        """The sixteen nodes closest to a node id that can be found, closest first. Cancelling ends it."""
        if len(target) != 32:
            raise ValueError(f"a node id has 32 bytes, not {len(target)}")
        return await self._ask_for_nodes(self._node.lookup, target)

    async def find_random(self, predicate: Callable[[Enr], bool] | None = None) -> list[Enr]:
        """The nodes on the way to a random id: all closest, or those of `predicate` that were met.

        What the predicate raises is raised here, when the lookup is over.
        """
        if predicate is None:
            return await self._ask_for_nodes(self._node.lookup, self._node.random_id())
        choice = _Choice(predicate)
        found = await self._ask_for_nodes(self._node.lookup, self._node.random_id(), predicate=choice.takes)
        if choice.error is not None:
            raise choice.error
        return found

    async def _ask_for_nodes(self, ask: Callable[..., int], *arguments: object, **options: object) -> list[Enr]:
        answer = await self._ask(ask, *arguments, **options)
        assert isinstance(answer, list)
        return answer

    async def _ask(self, ask: Callable[..., int], *arguments: object, **options: object) -> object:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        request = ask(*arguments, now=trio.current_time(), **options)
        wait = self._waits[request] = _Wait()
        try:
            self._flush()
            await wait.done.wait()
        finally:
            del self._waits[request]
            self._node.cancel(request)
        if isinstance(wait.result, (DiscoveryError, LocalProtocolError)):
            raise wait.result
        return wait.result

    def _check_open(self) -> None:
        if self._nursery is None:
            raise LocalProtocolError(_ENDED)

    # --- what others ask, and news

    def serve(self, protocol: bytes, handler: TalkHandler) -> None:
        """Answer TALKREQs of a protocol: `await handler(node, request)`. Raises `ValueError` for a second handler.

        A handler that raises or takes longer than `talk_timeout` gives no answer. Raises `TypeError` for a protocol
        that is not of bytes.
        """
        self._check_open()
        if not isinstance(protocol, bytes) or not callable(handler):
            raise TypeError(f"serve({protocol!r}, {handler!r}): a protocol is of bytes, its handler an async function")
        if protocol in self._handlers:
            raise ValueError(f"protocol {printable(protocol)} is served already")
        self._handlers[protocol] = handler
        self._node.protocols.add(protocol)

    def set_record(self, **changes: Value | None) -> None:
        """Change entries of our record, or remove those given as None. Raises `LocalProtocolError` as `Enr.update`."""
        self._check_open()
        self._node.own.change(**changes)
        self._flush()

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[NodeEvent | RecordChanged]]:
        """News of nodes and of our own record, from now on. Who does not read misses the newest."""
        self._check_open()
        send, receive = trio.open_memory_channel[NodeEvent | RecordChanged](_NEWS)
        self._watchers[send] = None
        try:
            with send, receive:
                yield receive
        finally:
            self._watchers.pop(send, None)

    # --- effects

    def _flush(self) -> None:
        for effect in self._node.take():
            if type(effect) is not SendDatagram:
                self._carry_out(effect)
            elif self._saved.is_set():
                self._send(effect)
            else:
                self._hold(effect)
        when = self._node.next_timer()
        if when is not None and when < self._wakes_at:
            self._timer.set()

    def _send(self, effect: SendDatagram) -> None:
        sock = self._sockets.get(6 if ":" in effect.to.ip else 4)
        if sock is None or not sock.send_to(effect.data, (effect.to.ip, effect.to.port)):
            self.counters["datagrams not sent"] += 1
        elif self._tracer is not None:
            self._trace(True, effect.to, len(effect.data), effect)

    def _hold(self, effect: SendDatagram | RecordChanged) -> None:
        """Keep it until our record is saved: nobody may hear of a number that could come again."""
        if len(self._held) < _HELD or isinstance(effect, RecordChanged):
            self._held.append(effect)
        else:
            self.counters["datagrams not sent"] += 1

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Completed(request, result):
                if (wait := self._waits.get(request)) is not None:
                    wait.result = result
                    wait.done.set()
            case TalkCall():
                self._begin_answer(effect)
            case RecordChanged() if self._path is not None:
                if self._saved.is_set():
                    self._saved = trio.Event()
                self._hold(effect)
                self._changed.set()
            case NodeEvent() | RecordChanged():
                self._tell(effect)
            case Arrived():
                self._trace(False, effect.sender, effect.size, effect)

    def _tell(self, news: NodeEvent | RecordChanged) -> None:
        for watcher in self._watchers:
            try:
                watcher.send_nowait(news)
            except (trio.WouldBlock, trio.BrokenResourceError):  # it does not read, or closed its end
                self.counters["news missed"] += 1

    def _trace(self, sent: bool, endpoint: Endpoint, size: int, packet: SendDatagram | Arrived) -> None:
        if self._tracer is not None:
            now, message = trio.current_time(), packet.message
            told = PacketTrace(now, sent, endpoint, size, packet.form, None if message is None else type(message))
            if call_guarded(self._tracer, told) is not None:
                self.counters["tracers failed"] += 1

    def _release(self) -> None:
        """Our record is saved, or cannot be: others may hear of it."""
        self._saved.set()
        while self._held and self._saved.is_set():  # a tracer may change it again
            effect = self._held.popleft()
            if isinstance(effect, RecordChanged):
                self._tell(effect)
            else:
                self._send(effect)
        self._flush()

    def _begin_answer(self, call: TalkCall) -> None:
        if self._answering >= self._node.config.max_talks:  # some may not let themselves be cancelled
            self.counters["talks refused"] += 1
        elif self._nursery is not None:
            self._answering += 1
            self._nursery.start_soon(self._answer, call)

    async def _answer(self, call: TalkCall) -> None:
        with trio.move_on_after(self._node.config.talk_timeout) as scope:
            try:
                error = await run_guarded(self._respond, call)
            finally:
                self._answering -= 1
            if error is not None:
                self.counters["talk handlers failed"] += 1
                name, why = printable(call.protocol), printable(repr(error), 300)
                self._complaints.log(trio.current_time(), "talk handler failed protocol=%s error=%s", name, why)
        if scope.cancelled_caught:
            self.counters["talk handlers late"] += 1
        self._flush()

    async def _respond(self, call: TalkCall) -> None:
        response = await self._handlers[call.protocol](call.node, call.request)
        if not isinstance(response, bytes):
            raise TypeError(f"an answer is of bytes, not {type(response).__name__}")
        self._node.talk_respond(call.token, response, trio.current_time())

    # --- own tasks

    async def start(self, nursery: trio.Nursery, nodes: Iterable[Enr]) -> None:
        """Begin; called by `open_discv5`. Nobody hears of our record before it is saved."""
        now = trio.current_time()
        for node in (*nodes, *self._kept):
            self._node.add(node, now)
        if self._path is not None:
            await self._save(self._path)
        self._nursery = nursery
        self._node.start(trio.current_time())
        for sock in self._sockets.values():
            nursery.start_soon(self._receive, sock)
        nursery.start_soon(self._mind_timer)
        if self._path is not None:
            nursery.start_soon(self._keep, self._path)

    async def _receive(self, sock: DatagramSocket) -> None:
        with suppress(trio.ClosedResourceError):  # at our end
            while True:
                found = await sock.receive_many()
                if not self._saved.is_set():
                    await self._saved.wait()  # the kernel keeps, and in the end drops, what comes meanwhile
                now = trio.current_time()
                for data, (ip, port) in found:
                    self._node.datagram_received(data, Endpoint(ip, port), now)
                self._flush()

    async def _mind_timer(self) -> None:
        while True:
            when = self._node.next_timer()
            self._wakes_at = inf if when is None else when
            self._timer = trio.Event()
            with trio.move_on_at(self._wakes_at):
                await self._timer.wait()
            self._node.handle_timer(trio.current_time())
            self._flush()

    async def _keep(self, path: Path) -> None:
        while True:
            with trio.move_on_after(_SAVE_EVERY):
                await self._changed.wait()
            self._changed = trio.Event()
            await self._save(path)
            if not self._changed.is_set():
                self._release()

    async def _save(self, path: Path) -> None:
        state = State(self.record, self._worth_keeping())
        with trio.move_on_after(_PATIENCE) as scope:
            try:
                await trio.to_thread.run_sync(save, path, state, abandon_on_cancel=True, limiter=self._saver)
            except OSError as error:
                logger.warning("state not saved file=%s error=%s", path, error)
        if scope.cancelled_caught:
            logger.warning("state not saved file=%s error=not done in %s s", path, _PATIENCE)

    def _worth_keeping(self) -> list[Enr]:
        """The live nodes, and those of the last run that were not asked yet: a short run must not forget them."""
        live = {record.node_id: record for record in self.nodes()}
        known = self._node.table.get
        return [*live.values(), *(node for node in self._kept if node.node_id not in live and known(node.node_id))]

    def close(self) -> None:
        """Let go; called by `open_discv5`."""
        self._nursery = None
        for watcher in list(self._watchers):
            watcher.close()
        for wait in self._waits.values():  # of tasks that live on
            wait.result = LocalProtocolError(_ENDED)
            wait.done.set()
        for sock in self._sockets.values():
            sock.close()

    async def save_last(self) -> None:
        """Save, cancelled or not; called by `open_discv5` when no task of ours is left that could be at it."""
        if self._path is not None:
            with trio.CancelScope(shield=True):
                await self._save(self._path)


@asynccontextmanager
async def open_discv5(
    identity: Identity,
    *,
    listen: Iterable[tuple[str, int]] = (("127.0.0.1", 0),),
    bootnodes: Iterable[Enr | str] = (),
    pairs: Mapping[str, Value] | None = None,
    advertise: Iterable[tuple[str, int]] | None = None,
    state: Path | str | None = None,
    config: Discv5Config | None = None,
    trace: Tracer | None = None,
    platform: Platform | None = None,
    bind: Bind = bind_udp,
) -> AsyncIterator[Discv5]:
    """Run a node of discv5 for the length of the block.

    `identity` is of type secp256k1. `listen` are addresses and UDP ports (0: any free one), one of each IP version at
    most; `advertise` are those that our record names for good, else it names those of `listen` but for wildcards, until
    enough others agree that we are elsewhere. `pairs` are further entries of the record. In the file `state` our record
    and the nodes that answered are kept across runs. `trace` is called with each packet that leaves or comes. Raises
    `OSError` for an address that is not to be had or a state that is no regular file, `InvalidEnr` for a bootnode that
    is none, `LocalProtocolError` for entries that make no record, `ValueError` and `TypeError` for other arguments.
    """
    if isinstance(bootnodes, str | Enr):
        raise TypeError("bootnodes takes a list of records: [...] around the one")
    friends = [node if isinstance(node, Enr) else Enr.from_text(node) for node in bootnodes]
    places, named = _places("listen", listen), None if advertise is None else _advertised(advertise)
    entries = _further(pairs or {}, named)
    world = Platform() if platform is None else platform
    path = None if state is None else Path(state)
    kept = State() if path is None else await trio.to_thread.run_sync(load, path, limiter=trio.CapacityLimiter(1))
    sockets: list[DatagramSocket] = []
    try:
        for ip, port in places:
            sockets.append(bind(ip, port))
        families = [ip_address(sock.local[0]).version for sock in sockets]
        if not families or len(set(families)) < len(families):
            raise ValueError("listen: one address of an IP version, and at least one in all")
        where = [sock.local for sock in sockets] if named is None else named
        record = _own_record(identity, kept.record, _entries(where, entries), world)
        node = Node(
            identity,
            record,
            rng=world.rng,
            entropy=world.entropy,
            families=families,
            config=config,
            fixed=named is not None,
        )
        service = Discv5(node, sockets, path=path, kept=kept.nodes, tracer=trace)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    with unwrapped():
        try:
            async with trio.open_nursery() as nursery:
                try:
                    await service.start(nursery, friends)
                    yield service
                finally:
                    nursery.cancel_scope.cancel()
                    service.close()
        finally:
            await service.save_last()


def _checked(endpoint: Endpoint | tuple[str, int] | None) -> Endpoint | None:
    """An endpoint of the application, in its one spelling. Raises `ValueError`."""
    if endpoint is None:
        return None
    try:
        ip, port = endpoint
        if not isinstance(port, int) or not 0 < port < 65536:
            raise ValueError
        return Endpoint.of(ip, port)
    except (TypeError, ValueError):
        raise ValueError(f"an endpoint is an IP address and a port from 1 to 65535, not {endpoint!r}") from None


def _places(name: str, given: Iterable[Any]) -> list[tuple[str, int]]:
    """The addresses and ports of an argument. Raises `ValueError`, which shows the form."""
    places = list(given)
    for place in places:
        match place:
            case [str(), int(port)] if 0 <= port <= 65535:
                pass
            case [str(), int(port)]:
                raise ValueError(f"{name}: port {port} is not from 0 to 65535")
            case _:
                form = "[('127.0.0.1', 9000)]"
                raise ValueError(f"{name}: a list of addresses and ports, like {form}, not {printable(repr(given))}")
    return [(ip, port) for ip, port in places]


def _advertised(given: Iterable[Any]) -> list[tuple[str, int]]:
    """The addresses that our record is to name, one of an IP version. Raises `ValueError`."""
    places = _places("advertise", given)
    versions = [ip_address(ip).version for ip, _ in places]
    if len(set(versions)) < len(versions):
        raise ValueError(f"advertise: a record names one address of an IP version, not {printable(repr(places))}")
    return places


def _further(pairs: Mapping[str, Value], advertised: list[tuple[str, int]] | None) -> Mapping[str, Value]:
    """Entries beside those that say where we are. Raises `ValueError` for one of these, unless nothing else says it."""
    where = [name for name in ("ip", "udp", "ip6", "udp6") if name in pairs]
    if where and advertised != []:
        raise ValueError(
            f"pairs: '{where[0]}' says where we are, as `advertise` does: advertise=[(IP, PORT)], or advertise=() to "
            "have nothing but `pairs` say it"
        )
    return pairs


def _entries(where: Iterable[tuple[str, int]], pairs: Mapping[str, Value]) -> dict[str, Value]:
    """The entries of our record; a wildcard is no address that anybody could send to."""
    entries = dict(pairs)
    for text, port in where:
        ip = ip_address(text)
        if not ip.is_unspecified:
            suffix = "" if ip.version == 4 else "6"
            entries |= {"ip" + suffix: ip, "udp" + suffix: port}
    return entries


def _own_record(identity: Identity, kept: Enr | None, entries: dict[str, Value], world: Platform) -> Enr:
    """The record that says this: the one of the last run when it says the same, else a newer one."""
    if kept is None or kept.public_key != identity.public_key.data:
        return Enr.sign(identity, int(world.wall() * 1000), entries)
    same = Enr.sign(identity, kept.seq, entries)
    return kept if same.pairs == kept.pairs else Enr.sign(identity, kept.seq + 1, entries)
