"""Requests and responses on a switch: the only file of the room that awaits.

Rules: one stream per request. Sizes, counts and order are judged by the machines of `core.py`; here are deadlines,
places, quotas and whose fault it was. The four failures of a request are types (`errors.RequestFailed`); only
`ProtocolViolation` may cost a score, and each is told to `violated` exactly once, whichever half saw it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from math import inf
from types import TracebackType
from typing import Any, Generic, TypeVar

import trio

from pyp2p.errors import (
    Decline,
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
from pyp2p.io.guard import call_guarded, run_guarded
from pyp2p.io.loglimit import LogLimiter
from pyp2p.peer.id import PeerId
from pyp2p.reqresp.core import (
    INVALID_REQUEST,
    SERVER_ERROR,
    Chunk,
    ErrorChunk,
    RequestReader,
    ResponseReader,
    ResponseWriter,
    request_bytes,
)
from pyp2p.reqresp.declare import Limits, Method
from pyp2p.reqresp.rate import Bucket, Buckets
from pyp2p.switch.connection import Connection
from pyp2p.switch.limits import Budget
from pyp2p.switch.stream import Carrier, MuxedStream
from pyp2p.switch.switch import Switch

logger = logging.getLogger("pyp2p.reqresp")

Rq = TypeVar("Rq")
Rs = TypeVar("Rs")

Handler = Callable[[Carrier, Rq], AsyncGenerator[Rs, None]]
Violated = Callable[[ProtocolViolation], None]

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
            with self._asked.failures():
                with self._asked.on_time():
                    event = await self._next()
                if isinstance(event, ErrorChunk):
                    raise PeerDeclined(self.peer, self.protocol, event.code, event.text)
        except BaseException:
            self.close()
            raise
        finally:
            self._reading = False
        if event is not None:
            return event.value
        await self._end()
        raise StopAsyncIteration

    async def _next(self) -> Chunk[Rs] | ErrorChunk | None:
        reader = self._reader
        event = reader.next()
        if event is not None:
            await trio.lowlevel.checkpoint()  # others have their turn while one answer pours in
        while event is None and not reader.full:
            data = await self._stream.receive_some()
            if not data:
                reader.finish()
                return None
            reader.feed(data)
            event = reader.next()
        return event

    async def _only(self) -> Rs:
        """The chunk of an answer that has exactly one: its end is not waited for. Raises as reading does."""
        chunk = await self.__anext__()
        try:
            with self._asked.failures():
                self._reader.next()  # more than one may have come with it
        except BaseException:
            self.close()
            raise
        await self._end()
        return chunk

    async def _end(self) -> None:
        """All came: an end, not a reset."""
        self._over = True
        self._asked.done(self)
        await self._stream.aclose()

    def close(self) -> None:
        """Read no more: the stream is reset, the place given back. Never waits; idempotent."""
        if not self._over:
            self._over = True
            self._asked.done(self)
            self._stream.reset()

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
        self._left = self._seconds = method.deadlines.response
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

    def done(self, response: Response[Rs]) -> None:
        """The response is over."""
        self.leave()
        self._owner.responses.pop(response, None)

    def not_sendable(self, reason: str) -> RequestNotSendable:
        """A failure before anything was sent."""
        return RequestNotSendable(self.peer, self.protocol, reason)

    @contextmanager
    def on_time(self) -> Generator[None, None, None]:
        """Time inside the block is on the deadline. Raises `TooSlowError` when it is over."""
        started = trio.current_time()
        try:
            with trio.fail_at(started + self._left):
                yield
        finally:
            self._left = max(self._left - (trio.current_time() - started), 0.0)

    @contextmanager
    def failures(self) -> Generator[None, None, None]:
        """Whatever the block raises becomes one of the four failures of a request, counted; bugs stay what they are."""
        try:
            yield
        except trio.TooSlowError:
            raise self._failed(NetworkFailure, f"no whole answer within {self._seconds:g} s") from None
        except RequestFailed as error:
            raise self._noted(error) from error.__cause__
        except NoCommonProtocol as error:
            raise self._failed(NotSpoken, "the peer does not speak it") from error
        except RemoteError as error:
            raise self._failed(ProtocolViolation, str(error)) from error
        except LimitExceeded as error:
            raise self._failed(RequestNotSendable, str(error)) from error
        except (P2PError, *_STREAM_ERRORS) as error:
            raise self._failed(NetworkFailure, str(error) or type(error).__name__) from error

    def _failed(self, kind: type[RequestFailed], reason: str) -> RequestFailed:
        return self._noted(kind(self.peer, self.protocol, reason))

    def _noted(self, error: RequestFailed) -> RequestFailed:
        self._owner.note(error)
        return error


class ReqResp:
    """Requests and responses over one switch; made by `open_reqresp`.

    `counters`: what happened, by (what, protocol).
    """

    def __init__(self, switch: Switch, limits: Limits, violated: Violated | None) -> None:
        self.limits = limits
        self.counters: Counter[tuple[str, str]] = Counter()
        self.places: dict[tuple[PeerId, str], trio.CapacityLimiter] = {}  # of requests of ours that run or wait
        self.responses: dict[Response[Any], None] = {}  # that are being read
        self._switch = switch
        self._violated = violated
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
        with asked.failures():
            data = self._packed(asked, method, request)
            connection = self._connection(asked, target)
            try:
                with asked.on_time():
                    await asked.wait_for_place()
                    await self._keep_quota(peer, method, method.chunks(request))
                    stream = await self._send(connection, method.protocol, data)
            except BaseException:
                asked.leave()
                raise
        self.counters["asked", method.protocol] += 1
        response = Response(asked, stream, ResponseReader(method, request))
        self.responses[response] = None
        if self._ended:  # while we waited
            response.close()
            self._check_runs()
        return response

    async def ask(self, target: PeerId | Connection, method: Method[Rq, Rs], request: Rq) -> Rs:
        """`request` where the answer is exactly one chunk: returns it. Raises as `request` and as reading.

        Raises `LocalProtocolError` when the method allows none, or more for this request: those are read in a loop.
        """
        if method.least != 1 or method.chunks(request) != 1:
            raise LocalProtocolError(f"the answer of {method.protocol} to this request is not always one chunk")
        response = await self.request(target, method, request)
        return await response._only()

    def gauges(self) -> dict[str, int]:
        """How things stand: requests of ours that run, those being answered, quotas remembered."""
        return {
            "asking": len(self.responses),
            "places": len(self.places),
            "serving": sum(map(len, self._serving.values())),
            "quotas": len(self._asked) + len(self._served),
        }

    # --- our requests

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
            if data:
                await stream.send_all(data)
            await stream.send_eof()
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
        for other in [other for other in running if _gone(other)]:
            running.pop(other).cancel()  # whoever gave up a request may make another
        if len(running) >= self.limits.concurrent:
            stream.reset()
            self.counters["too many at once", protocol] += 1
            self.note(ProtocolViolation(stream.peer, protocol, f"more than {self.limits.concurrent} requests at once"))
            return
        answer = _Answer(self, stream, method)
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


class _Answer(Generic[Rq, Rs]):
    """One request of a peer, and our answer."""

    def __init__(self, owner: ReqResp, stream: MuxedStream, method: Method[Rq, Rs]) -> None:
        self.scope = trio.CancelScope()
        self.late = "request too slow"  # what it is when the deadline passes
        self._owner = owner
        self._stream = stream
        self._method = method
        self._wrong = ""  # with the request

    async def give(self, handler: Handler[Rq, Rs]) -> None:
        """Read the request, run the handler, send its chunks; in `scope`, whose deadline is of what is being done."""
        owner, stream, method = self._owner, self._stream, self._method
        self.scope.deadline = trio.current_time() + method.deadlines.request
        asked = await self._read()
        self.late = "answer too slow"
        self.scope.deadline = trio.current_time() + method.deadlines.response
        await self._pay()
        if _gone(stream):
            return
        if asked is None:
            await self._decline(Decline(INVALID_REQUEST, self._wrong))
        else:
            owner.counters["served", method.protocol] += 1
            await self._send(asked[0], handler)

    async def _read(self) -> tuple[Rq] | None:
        """The request; None when it is none, and `_wrong` says why: nothing more is read then."""
        reader = RequestReader(self._method)
        try:
            while data := await self._stream.receive_some():
                reader.feed(data)
            return (reader.finish(),)
        except RemoteError as error:
            self._wrong = str(error)
            self._owner.note(ProtocolViolation(self._stream.peer, self._method.protocol, f"bad request: {error}"))
            return None

    async def _send(self, request: Rq, handler: Handler[Rq, Rs]) -> None:
        owner, stream, method = self._owner, self._stream, self._method
        most = method.chunks(request)
        writer: ResponseWriter[Rq, Rs] = ResponseWriter(method, most)
        made: list[bytes] = []

        async def step() -> None:
            """What is the handler's to raise: making a chunk, and one that the method does not allow."""
            async for value in chunks:
                made.append(writer.chunk(value))
                return
            if writer.count < method.least:
                raise LocalProtocolError(f"the handler gave {writer.count} chunks, at least {method.least} are due")

        async with aclosing(handler(stream.connection, request)) as chunks:
            while not writer.full:
                error = await run_guarded(step)
                if error is not None:
                    if not isinstance(error, Decline):
                        owner.crashed("handler", method.protocol, error)
                        error = Decline(SERVER_ERROR, "internal error")
                    await self._decline(error)
                    return
                if not made:
                    return
                if writer.count > 1:  # the first is paid already
                    await self._pay()
                await stream.send_all(made.pop())
            owner.leave(stream, method.protocol)  # who has the last chunk may ask again, whatever the handler tidies up

    async def _pay(self) -> None:
        """The wait for the quota is not on the deadline: a rate must not end an answer."""
        if self._method.quota is None:
            return
        left = self.scope.deadline - trio.current_time()
        self.scope.deadline = inf
        await self._owner.pay(self._stream.peer, self._method)
        self.scope.deadline = trio.current_time() + left

    async def _decline(self, why: Decline) -> None:
        data = ResponseWriter(self._method, 0).error(why.code, why.text)
        if data:
            await self._stream.send_all(data)
        else:
            self._stream.reset()


def _gone(stream: MuxedStream) -> bool:
    """True when nobody waits for the answer any more."""
    return stream.sub.reset_code is not None or stream.connection.broken is not None


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
    switch: Switch, *, limits: Limits | None = None, violated: Violated | None = None
) -> AsyncIterator[ReqResp]:
    """Requests and responses on `switch` for the length of the block; leaving it resets what is under way.

    `violated(error)` is told of each `ProtocolViolation`, those in requests of others included: `error.peer` did it.
    What it raises is logged.
    """
    reqresp = ReqResp(switch, Limits() if limits is None else limits, violated)
    try:
        yield reqresp
    finally:
        reqresp.close()
