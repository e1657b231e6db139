"""Requests and responses on a switch: ours from the question to the last chunk, and those of peers up to `answer.py`.

Rules: one stream per request. Sizes, counts and order are judged by the machines of `core.py`; here are deadlines,
places, quotas and whose fault it was. The four failures of a request are types (`errors.RequestFailed`); only
`ProtocolViolation` may cost a score, and each is told to `violated` exactly once, whichever half saw it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import trio

from pyp2p.errors import (
    AnswerLate,
    LimitExceeded,
    LocalProtocolError,
    NetworkFailure,
    NoCommonProtocol,
    NotSpoken,
    P2PError,
    PeerDeclined,
    ProtocolViolation,
    RemoteError,
    RequestFailed,
    RequestNotSendable,
    describe,
    printable,
)
from pyp2p.io.guard import call_guarded
from pyp2p.io.loglimit import LogLimiter
from pyp2p.peer.id import PeerId
from pyp2p.reqresp.answer import Answer, Handler, gone
from pyp2p.reqresp.core import (
    Chunk,
    ErrorChunk,
    ResponseReader,
    request_bytes,
)
from pyp2p.reqresp.declare import Limits, Method
from pyp2p.reqresp.rate import Bucket, Buckets
from pyp2p.switch.connection import Connection
from pyp2p.switch.facts import CloseReason
from pyp2p.switch.limits import Budget
from pyp2p.switch.service import Service
from pyp2p.switch.stream import Carrier, MuxedStream
from pyp2p.switch.switch import Switch

logger = logging.getLogger("pyp2p.reqresp")

Rq = TypeVar("Rq")
Rs = TypeVar("Rs")

Violated = Callable[[ProtocolViolation], None]
Answered = Callable[[PeerId, str], None]

# Streams of a peer and protocol beyond those that are served: some that were reset while we still wait in their
# handlers, and those that are one too many, so that it is us who say so.
_SPARE = 6
_STREAM_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError)


class Response(Generic[Rs]):
    """The answer to one request: chunks, as they are asked for (`async for chunk in response`).

    Nothing is read ahead beyond the stream's window: a slow reader slows the peer, and its own time is not on the
    deadline. The end, an error and a cancelled read give back the place among the requests to the peer; whoever stops
    earlier closes it (`async with response:` or `close()`), which resets the stream. Reading raises `NetworkFailure`,
    `ProtocolViolation`, `PeerDeclined`; afterwards there is nothing more.
    """

    def __init__(self, asked: _Asked[Any, Rs], stream: MuxedStream, reader: ResponseReader[Any, Rs]) -> None:
        self.peer: PeerId = asked.peer
        self.protocol = asked.protocol
        self._asked = asked
        self._stream = stream
        self._reader = reader
        self._over = False
        self._reading = False

    @property
    def connection(self) -> Carrier:
        """What it comes on."""
        return self._stream.connection

    def __aiter__(self) -> Response[Rs]:
        return self

    async def __anext__(self) -> Rs:
        """The next chunk."""
        if self._over:
            await trio.lowlevel.checkpoint()
            raise StopAsyncIteration
        if self._reading:
            raise trio.BusyResourceError("another task is reading this response")
        self._reading = True
        try:
            with self._asked.failures:
                chunk = await self._next()
        except BaseException:
            self.close()
            raise
        finally:
            self._reading = False
        if chunk is not None:
            return chunk.value
        await self._end()
        raise StopAsyncIteration

    async def _next(self) -> Chunk[Rs] | None:
        event = self._reader.next()
        if event is not None:
            await trio.lowlevel.checkpoint()  # others have their turn while one answer pours in
        elif not self._reader.full:
            with self._asked.on_time():
                event = await self._receive()
        if isinstance(event, ErrorChunk):
            raise PeerDeclined(self.peer, self.protocol, event.code, event.text)
        return event

    async def _receive(self) -> Chunk[Rs] | ErrorChunk | None:
        reader = self._reader
        event: Chunk[Rs] | ErrorChunk | None = None
        while event is None and not reader.full:
            data = await self._stream.receive_some()
            if not data:
                reader.finish()
                return None
            reader.feed(data)
            event = reader.next()
        return event

    async def only(self) -> Rs:
        """The chunk of an answer that has exactly one: its end is not waited for. The caller holds deadline and
        failures: see `ReqResp.ask`.
        """
        try:
            event = await self._receive()
            if isinstance(event, ErrorChunk):
                raise PeerDeclined(self.peer, self.protocol, event.code, event.text)
            assert event is not None  # or the reader had complained: one is due
            self._reader.next()  # more than one may have come with it
        except BaseException:
            self.close()
            raise
        await self._end()
        return event.value

    async def _end(self) -> None:
        """All came: an end, not a reset."""
        self._over = True
        self._asked.done(self)
        if self._reader.count:
            self._asked.answered()
        await self._stream.aclose()

    def __del__(self) -> None:
        """Whoever forgets an answer before its end gives its place back."""
        self.close()

    def close(self) -> None:
        """Read no more: the stream is reset, the place given back. Never waits; idempotent."""
        if not self._over:
            self._over = True
            self._asked.done(self)
            self._stream.reset()

    def forgo(self) -> None:
        """Give the place back: its connection has ended, as whoever still reads is told."""
        self._asked.done(self)

    async def aclose(self) -> None:
        """As `close`."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Response[Rs]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _Asked(Generic[Rq, Rs]):
    """One request of ours: its place, its time, and what its failures are called."""

    def __init__(self, owner: ReqResp, peer: PeerId, method: Method[Rq, Rs]) -> None:
        self.peer = peer
        self.protocol = method.protocol
        self._owner = owner
        self.seconds = method.deadlines.response
        self.left = self.seconds
        self.failures = _Failures(self)
        self._place: trio.CapacityLimiter | None = None

    async def wait_for_place(self) -> None:
        """Be one of the requests that run; the deadline runs meanwhile."""
        owner, key = self._owner, (self.peer, self.protocol)
        place = owner.places.get(key)
        if place is None:
            place = owner.places[key] = trio.CapacityLimiter(owner.limits.concurrent)
        try:
            place.acquire_on_behalf_of_nowait(self)
        except trio.WouldBlock:
            if place.statistics().tasks_waiting >= owner.limits.waiting:
                raise self.not_sendable(f"{owner.limits.waiting} requests wait for their turn already") from None
            await place.acquire_on_behalf_of(self)
        self._place = place

    def leave(self) -> None:
        """Give the place back."""
        if self._place is not None:
            self._place.release_on_behalf_of(self)
            if not self._place.borrowed_tokens:
                self._owner.places.pop((self.peer, self.protocol), None)
            self._place = None

    def answered(self) -> None:
        """All came, and something."""
        self._owner.note_answer(self.peer, self.protocol)

    def done(self, response: Response[Rs]) -> None:
        """The response is over."""
        self.leave()
        self._owner.responses.discard(response)

    def not_sendable(self, reason: str) -> RequestNotSendable:
        """A failure before anything was sent."""
        return RequestNotSendable(self.peer, self.protocol, reason)

    def on_time(self) -> _OnTime:
        """Time inside the block is on the deadline. Raises `NetworkFailure` when it is over."""
        return _OnTime(self)

    def failure(self, error: BaseException) -> RequestFailed | None:
        """Which of the failures of a request that is; None for a cancellation and for bugs, which stay the same."""
        if isinstance(error, RequestFailed):
            return error
        for kinds, kind, reason in _FAILURES:
            if isinstance(error, kinds):
                return kind(self.peer, self.protocol, reason or str(error) or type(error).__name__)
        return None

    def note(self, error: RequestFailed) -> None:
        """Count it."""
        self._owner.note(error)


# What may be raised while a request is under way, and which failure of it that is; the first that fits.
_FAILURES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[RequestFailed], str], ...] = (
    (NoCommonProtocol, NotSpoken, "the peer does not speak it"),
    (RemoteError, ProtocolViolation, ""),
    (LimitExceeded, RequestNotSendable, ""),
    ((P2PError, *_STREAM_ERRORS), NetworkFailure, ""),
)


class _Failures:
    """Whatever its block raises becomes one of the four failures of a request, counted. A class, and used again: made
    by `contextmanager` it was an eighth of the time of a ping.
    """

    __slots__ = ("_asked",)

    def __init__(self, asked: _Asked[Any, Any]) -> None:
        self._asked = asked

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        failure = self._asked.failure(error)
        if failure is not None:
            self._asked.note(failure)
            if failure is not error:
                raise failure from error


class _OnTime:
    """The time in its block is taken off what a request has left."""

    __slots__ = ("_asked", "_scope", "_started")

    def __init__(self, asked: _Asked[Any, Any]) -> None:
        self._asked = asked

    def __enter__(self) -> None:
        self._started = trio.current_time()
        self._scope = trio.CancelScope(deadline=self._started + self._asked.left)
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asked = self._asked
        self._scope.__exit__(kind, error, traceback)
        asked.left = max(asked.left - (trio.current_time() - self._started), 0.0)
        if self._scope.cancelled_caught:
            reason = f"no whole answer within {asked.seconds:g} s"
            raise AnswerLate(asked.peer, asked.protocol, reason) from None


class ReqResp:
    """Requests and responses over one switch; made by `open_reqresp`.

    `counters`: what happened, by (what, protocol).
    """

    def __init__(self, switch: Switch, limits: Limits, violated: Violated | None, answered: Answered | None) -> None:
        self.limits = limits
        self.counters: Counter[tuple[str, str]] = Counter()
        self.places: dict[tuple[PeerId, str], trio.CapacityLimiter] = {}  # of requests of ours that run or wait
        self.responses: WeakSet[Response[Any]] = WeakSet()  # that are being read
        self._switch = switch
        self._violated = violated
        self._answered = answered
        self._asked = Buckets(limits.buckets)
        self._served = Buckets(limits.buckets)
        self._totals: dict[str, Bucket] = {}  # by protocol that we serve
        self._methods: dict[str, Method[Any, Any]] = {}
        self._serving: dict[tuple[PeerId, str], dict[MuxedStream, trio.CancelScope]] = {}
        self._complaints = LogLimiter(logger)
        self._ended = False

    # --- what users call

    def serve(self, method: Method[Rq, Rs], handler: Handler[Rq, Rs]) -> None:
        """Answer requests of `method`: `handler(connection, request)` is an async generator of the chunks.

        It may raise `Decline(code, text)` to end the answer with an error chunk; whatever else it raises, and chunks
        that the method does not allow, are logged and become a server error (2). It is closed when the asker goes. At
        most `limits.concurrent` run for a peer. Raises `ValueError` when the protocol is served already.
        """
        self._check_runs()

        async def handle(stream: MuxedStream) -> None:
            await self._handle(stream, method, handler)

        budget = Budget(per_peer=self.limits.concurrent + _SPARE)
        self._switch.mount(method.protocol, handle, budget=budget, before_admission=method.before_admission)
        self._methods[method.protocol] = method

    def withdraw(self, method: Method[Rq, Rs]) -> None:
        """Serve it no longer; answers under way go on. Raises `KeyError` when it is not served."""
        del self._methods[method.protocol]
        self._totals.pop(method.protocol, None)
        self._switch.unmount(method.protocol)

    async def request(self, target: PeerId | Connection, method: Method[Rq, Rs], request: Rq) -> Response[Rs]:
        """Send a request over an open connection; returns its answer to be read, once all of the request is sent.

        A connection may be one that is not admitted yet. When `limits.concurrent` requests of the method to the peer
        run, it waits for its turn (`limits.waiting` at most), and for the quota, which is kept towards others too.
        `deadlines.response` bounds all that time and the reading. Raises `RequestNotSendable` before anything is sent
        (out of bounds, too many wait), `NetworkFailure` (`NotSpoken`), `ProtocolViolation`. Cancelling resets.
        """
        self._check_runs()
        peer = target if isinstance(target, PeerId) else target.peer
        asked: _Asked[Rq, Rs] = _Asked(self, peer, method)
        with asked.failures, asked.on_time():
            return await self._begin(asked, target, method, request)

    async def ask(self, target: PeerId | Connection, method: Method[Rq, Rs], request: Rq) -> Rs:
        """`request` where the answer is exactly one chunk: returns it. Raises as `request` and as reading.

        Raises `LocalProtocolError` when the method allows none, or more for this request: those are read in a loop.
        """
        if method.least != 1 or method.chunks(request) != 1:
            raise LocalProtocolError(f"the answer of {method.protocol} to this request is not always one chunk")
        self._check_runs()
        asked: _Asked[Rq, Rs] = _Asked(self, target if isinstance(target, PeerId) else target.peer, method)
        with asked.failures, asked.on_time():  # once for all of it: a deadline costs as much as a frame
            response = await self._begin(asked, target, method, request)
            return await response.only()

    def gauges(self) -> dict[str, int]:
        """How things stand: requests of ours that run, those being answered, quotas remembered."""
        return {
            "asking": len(self.responses),
            "places": len(self.places),
            "serving": sum(map(len, self._serving.values())),
            "quotas": len(self._asked) + len(self._served),
        }

    # --- our requests

    async def _begin(
        self, asked: _Asked[Rq, Rs], target: PeerId | Connection, method: Method[Rq, Rs], request: Rq
    ) -> Response[Rs]:
        data = self._packed(asked, method, request)
        connection = self._connection(asked, target)
        try:
            await asked.wait_for_place()
            await self._keep_quota(asked.peer, method, method.chunks(request))
            stream = await self._send(connection, method.protocol, data)
        except BaseException:
            asked.leave()
            raise
        self.counters["asked", method.protocol] += 1
        response = Response(asked, stream, ResponseReader(method, request))
        self.responses.add(response)
        if self._ended:  # while we waited
            response.close()
            self._check_runs()
        return response

    def _packed(self, asked: _Asked[Rq, Rs], method: Method[Rq, Rs], request: Rq) -> bytes:
        try:
            return request_bytes(method, method.encode_request(request))
        except ValueError as error:
            raise asked.not_sendable(str(error)) from error

    def _connection(self, asked: _Asked[Rq, Rs], target: PeerId | Connection) -> Connection:
        if not isinstance(target, PeerId):
            return target
        usable = [connection for connection in self._switch.connections(target) if connection.is_open]
        if not usable:
            raise NetworkFailure(target, asked.protocol, "no connection to the peer is open")
        return next((connection for connection in usable if not connection.draining), usable[0])

    async def _keep_quota(self, peer: PeerId, method: Method[Rq, Rs], chunks: int) -> None:
        """Ask no faster than we would let others; whole, since some count what is asked and not what is sent."""
        if method.quota is not None and self.limits.quotas:
            now = trio.current_time()
            bucket = self._asked.get((peer, method.protocol), method.quota.peer, now)
            await _wait_for(bucket, max(chunks, 1), now)

    async def _send(self, connection: Connection, protocol: str, data: bytes) -> MuxedStream:
        stream = await connection.open_stream(protocol)
        try:
            await stream.send_last(data)
        except BaseException:
            stream.reset()
            raise
        return stream

    # --- requests of others

    async def _handle(self, stream: MuxedStream, method: Method[Rq, Rs], handler: Handler[Rq, Rs]) -> None:
        """Called by the switch for each inbound stream; closes or resets it afterwards."""
        if self._ended:  # it was parked until now
            stream.reset()
            return
        protocol = method.protocol
        key = (stream.peer, protocol)
        running = self._serving.get(key, {})
        for other in [other for other in running if gone(other)]:
            running.pop(other).cancel()  # whoever gave up a request may make another
        if len(running) >= self.limits.concurrent:
            stream.reset()
            self.counters["too many at once", protocol] += 1
            self.note(ProtocolViolation(stream.peer, protocol, f"more than {self.limits.concurrent} requests at once"))
            return
        answer = Answer(self, stream, method)
        with answer.scope as scope:
            self._serving.setdefault(key, {})[stream] = scope
            try:
                await answer.give(handler)
            finally:
                self.leave(stream, protocol)
        if scope.cancelled_caught:
            stream.reset()
            if trio.current_time() >= scope.deadline:
                self.counters[answer.late, protocol] += 1

    def leave(self, stream: MuxedStream, protocol: str) -> None:
        """A request is answered, as far as its peer can tell: its place is free. Idempotent."""
        running = self._serving.get((stream.peer, protocol))
        if running is not None:
            running.pop(stream, None)
            if not running:
                del self._serving[stream.peer, protocol]

    async def pay(self, peer: PeerId, method: Method[Rq, Rs]) -> None:
        """Wait until the quotas of the peer and of all let one more chunk go."""
        if method.quota is None or not self.limits.quotas:
            return
        now = trio.current_time()
        await _wait_for(self._served.get((peer, method.protocol), method.quota.peer, now), 1, now)
        now = trio.current_time()
        total = self._totals.get(method.protocol)
        if total is None:
            total = self._totals[method.protocol] = Bucket(method.quota.total, now)
        await _wait_for(total, 1, now)

    def note_answer(self, peer: PeerId, protocol: str) -> None:
        """A request of ours got a whole answer with something in it."""
        if self._answered is not None and (crash := call_guarded(self._answered, peer, protocol)) is not None:
            self.crashed("the judge of answers", protocol, crash)

    def note(self, error: RequestFailed) -> None:
        """Count a failure; a violation is told to who keeps the scores."""
        self.counters[type(error).__name__, error.protocol] += 1
        if isinstance(error, ProtocolViolation) and self._violated is not None:
            crash = call_guarded(self._violated, error)
            if crash is not None:
                self.crashed("the judge of violations", error.protocol, crash)

    def crashed(self, what: str, protocol: str, error: Exception) -> None:
        """An application's code raised: one line, and not one for each request of a flood."""
        self.counters["crashed", protocol] += 1
        self._complaints.log(
            trio.current_time(),
            "%s failed protocol=%s error=%s",
            what,
            printable(protocol),
            describe(error),
            level=logging.ERROR,
        )
        logger.debug("traceback of %s", what, exc_info=error)

    # --- the end

    def connection_ended(self, connection: Connection, reason: CloseReason) -> None:
        """Answers that came on it come no more: their places are free. Called by the switch."""
        for response in [each for each in self.responses if each.connection is connection]:
            response.forgo()

    def close(self) -> None:
        """End all that is under way."""
        self._ended = True
        for method in list(self._methods.values()):
            self.withdraw(method)
        for running in self._serving.values():
            for scope in running.values():
                scope.cancel()
        for response in list(self.responses):
            response.close()

    def _check_runs(self) -> None:
        if self._ended:
            raise LocalProtocolError("requests have ended: the block of open_reqresp was left")


async def _wait_for(bucket: Bucket, count: int, now: float) -> None:
    """Wait until `count` tokens are there; whoever gives up gives them back."""
    seconds = bucket.reserve(count, now)
    if seconds > 0:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            bucket.refund(count)
            raise


@asynccontextmanager
async def open_reqresp(
    switch: Switch,
    *,
    limits: Limits | None = None,
    violated: Violated | None = None,
    answered: Answered | None = None,
) -> AsyncIterator[ReqResp]:
    """Requests and responses on `switch` for the length of the block; leaving it resets what is under way.

    `violated(error)` is told of each `ProtocolViolation`, those in requests of others included: `error.peer` did it.
    `answered(peer, protocol)` is told of each request of ours that was answered in full, with a chunk at least. What
    they raise is logged.
    """
    reqresp = ReqResp(switch, Limits() if limits is None else limits, violated, answered)
    service = Service("reqresp", peer_disconnected=reqresp.connection_ended)
    switch.attach(service)
    try:
        yield reqresp
    finally:
        switch.detach(service)
        reqresp.close()
