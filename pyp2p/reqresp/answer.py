"""One request of a peer and our answer: reading it, running the handler, sending its chunks, and how all that ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from math import inf
from typing import Any, Generic, Protocol, TypeVar

import trio

from pyp2p.errors import Decline, LocalProtocolError, ProtocolViolation, RemoteError, RequestFailed, printable
from pyp2p.io.guard import call_guarded, run_guarded
from pyp2p.peer.id import PeerId
from pyp2p.reqresp.core import INVALID_REQUEST, SERVER_ERROR, RequestReader, ResponseWriter
from pyp2p.reqresp.declare import Limits, Method
from pyp2p.switch.stream import Carrier, MuxedStream

Rq = TypeVar("Rq")
Rs = TypeVar("Rs")

Handler = Callable[[Carrier, Rq], AsyncGenerator[Rs, None]]


class Server(Protocol):
    """Who answers, as an answer needs it: `ReqResp`."""

    limits: Limits
    counters: Counter[tuple[str, str]]

    async def pay(self, peer: PeerId, method: Method[Any, Any]) -> None:
        """Wait until the quotas let one more chunk go."""
        ...

    def leave(self, stream: MuxedStream, protocol: str) -> None:
        """The place of the request is free."""
        ...

    def note(self, error: RequestFailed) -> None:
        """Count a failure."""
        ...

    def crashed(self, what: str, protocol: str, error: Exception) -> None:
        """An application's code raised."""
        ...


class Answer(Generic[Rq, Rs]):
    """One request of a peer, and our answer."""

    def __init__(self, owner: Server, stream: MuxedStream, method: Method[Rq, Rs]) -> None:
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
        if gone(stream):
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
                if self._stream.at_end:
                    break
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

        begun: list[AsyncGenerator[Rs, None]] = []
        error = call_guarded(lambda: begun.append(_generator(handler(stream.connection, request))))
        if error is not None:
            await self._failed(error)
            return
        async with aclosing(begun[0]) as chunks:
            while not writer.full:
                error = await run_guarded(step)
                if error is not None:
                    await self._failed(error)
                    return
                if not made:
                    return
                if writer.count > 1:  # the first is paid already
                    await self._pay()
                if writer.count == most:
                    await stream.send_last(made.pop())  # in one write: the asker is woken once
                else:
                    await stream.send_all(made.pop())
            owner.leave(stream, method.protocol)  # who has the last chunk may ask again, whatever the handler tidies up

    async def _pay(self) -> None:
        """The wait for the quota is not on the deadline: a rate must not end an answer."""
        if self._method.quota is None or not self._owner.limits.quotas:
            return
        left = self.scope.deadline - trio.current_time()
        self.scope.deadline = inf
        await self._owner.pay(self._stream.peer, self._method)
        self.scope.deadline = trio.current_time() + left

    async def _failed(self, error: Exception) -> None:
        """End the answer with what the handler raised: its refusal, or a server error without its secrets."""
        if not isinstance(error, Decline):
            self._owner.crashed("handler", self._method.protocol, error)
            error = Decline(SERVER_ERROR, "internal error")
        await self._decline(error)

    async def _decline(self, why: Decline) -> None:
        data = ResponseWriter(self._method, 0).error(why.code, why.text)
        if data:
            await self._stream.send_all(data)
        else:
            self._stream.reset()


def _generator(answer: object) -> AsyncGenerator[Any, None]:
    """What a handler returned, when it is what it should be."""
    if isinstance(answer, AsyncGenerator):
        return answer
    if isinstance(answer, Coroutine):
        answer.close()
    raise LocalProtocolError(f"a handler is an async generator function, this one returned {printable(repr(answer))}")


def gone(stream: MuxedStream) -> bool:
    """True when nobody waits for the answer any more."""
    return stream.sub.reset_code is not None or stream.connection.broken is not None
