"""One UDP socket and the QUIC connections on it: datagrams to their connections, timers, and what has to be sent.

Rules: a connection is found by its id, whatever address a datagram comes from. Nothing of a new one is worked on before
the switch has a place for it: its first datagrams wait in its wire. While many are half open, who comes has to show
that it hears us (Retry). All that came in one wake-up is taken in first; then each connection that was touched sends
once. One heap has all timers. RFC 9000, 5.2, 6, 8.1 and 17.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

import trio
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from pyp2p.errors import describe, printable
from pyp2p.io.guard import call_guarded
from pyp2p.io.stream import RawStream
from pyp2p.io.udp import DatagramSocket
from pyp2p.io.udp import Endpoint as Place
from pyp2p.peer.id import PeerId
from pyp2p.quic.base import Counts
from pyp2p.quic.core import QuicCore, Settings, header_of, refusal
from pyp2p.quic.muxer import QuicMuxer
from pyp2p.quic.packets import CID_LENGTH

logger = logging.getLogger("pyp2p.quic")

BACKLOG: Final = 128  # new connections that wait for `accept`; further ones are not answered
RETRY_ABOVE: Final = 32  # connections in their handshake: more have to prove their address first
PARTING: Final = 1024  # connections that are over, whose end may have to be said again
_HELD: Final = 16  # datagrams of a connection that waits for its place
_TIMERS: Final = 16  # that are up, until the socket has its turn: what waits there may be what they miss
_SMALLEST: Final = 1200  # bytes of a datagram that may begin a connection (RFC 9000, 14.1)
_AMPLIFIED: Final = 3  # times what came may go to an address that has proven nothing (RFC 9000, 8.1)
_LATE: Final = 1e-6  # seconds: exactly at the time of a loss the library's sums of floats may fall short of it
_LONG, _TYPE, _INITIAL = 0x80, 0x30, 0x00

Opening = tuple[bytes, bytes | None]  # the ids that a peer chose, and was given by a Retry


@dataclass(slots=True)
class _Counts:
    """Until a connection has some of its own."""

    bytes_in: int = 0
    bytes_out: int = 0


class Wire(RawStream):
    """What a switch's connection reads and writes: that something came, and that something may be sent.

    The bytes themselves go between the core and the endpoint; a read returns one byte for each time that there is news.
    """

    def __init__(self, endpoint: Endpoint, place: Place, core: QuicCore | None, opening: Opening | None = None) -> None:
        self._endpoint = endpoint
        self.place = place
        self.core = core
        self.opening = opening
        self.muxer: QuicMuxer | None = None
        self.held: list[tuple[bytes, Place]] | None = []  # until `begin`
        self.cids: dict[bytes, None] = {}
        self.timers: list[float] = []  # that are set, the next one last
        self.counts: Counts = _Counts()
        self.closed = False
        self.end: list[tuple[bytes, Place]] = []  # the datagrams that said it, when it was ours to say
        self.late = 0  # datagrams that came after it
        self.parts_at = 0.0  # when no more are to be expected
        self._news = False
        self._flushing = False
        self._said_last = False
        self._left = False
        self.broken = ""  # the library failed, which it should not
        self._parked = trio.lowlevel.ParkingLot()

    # --- for the endpoint

    def tell(self) -> None:
        """There is news: whoever waits looks at the core."""
        self._news = True
        self._parked.unpark_all()

    def tell_if_new(self, core: QuicCore) -> None:
        """As `tell`, when whoever waits now has something to do."""
        if self.muxer is None or core.told or core.terminated is not None or self._flushing or self.muxer.ready:
            self.tell()

    # --- the handshake

    async def first_answer(self) -> None:
        """Wait for the first datagram of whoever was dialled."""
        while not self.held:
            self._check()
            await self._parked.park()

    def begin(self, expect: PeerId | None) -> None:
        """Look at what came from now on, and at what waits; the peer has to be `expect`, when that is given."""
        held, self.held = self.held, None
        if self.core is None:
            self.core = self._endpoint.answer(self)
        core = self.core
        core.expect = expect
        for data, place in held or ():
            self._endpoint.give(self, data, place, trio.current_time())
        self._endpoint.settle(self)

    async def handshaken(self) -> None:
        """Wait until both sides are proven. Raises the refusal, or `trio.BrokenResourceError`."""
        core = self._core
        while not core.done:
            if core.refusal is not None:
                raise core.refusal
            self._check()
            await self._parked.park()
        await trio.lowlevel.checkpoint()

    @property
    def _core(self) -> QuicCore:
        if self.core is None:
            raise trio.ClosedResourceError("the connection has not begun")
        return self.core

    def _over(self) -> bool:
        return self.core is not None and self.core.terminated is not None

    def _why(self) -> str:
        end = self._core.terminated
        if end is None:
            return "the connection is over"
        if end.error_code == QuicErrorCode.CONNECTION_REFUSED:
            return "the peer takes no connection now"
        if end.error_code == QuicErrorCode.INTERNAL_ERROR and end.reason_phrase == "Idle timeout":
            return "the peer has given no sign for too long"
        return f"{printable(end.reason_phrase) or 'closed'} (code {end.error_code:#x})"

    # --- trio's contract

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """Have the core send what it may; nothing of `data` is looked at."""
        self._check()
        self._endpoint.settle(self)
        return len(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As `try_send`."""
        await trio.lowlevel.checkpoint()
        self.try_send(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Nothing ever waits: streams have bounds of their own."""
        await trio.lowlevel.checkpoint()
        self._check()

    async def send_eof(self) -> None:
        """Wait until the peer has all that was sent on streams, then close the connection."""
        self._check()
        core = self._core
        self._flushing = True
        while core.unacknowledged and not self._over():
            await self._parked.park()
            self._check_open()
        await trio.lowlevel.checkpoint()
        core.shut()
        self._endpoint.settle(self)
        self._left = True  # there is no half-close: nothing more comes
        self.tell()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for news; `b""` when the connection has ended without an error."""
        while not self._news:
            self._check_open()
            await self._parked.park()
        await trio.lowlevel.checkpoint()
        self._check_open()
        if self.broken:
            raise trio.BrokenResourceError(self.broken)
        self._news = False
        if self._left:
            return b""
        end = self._core.terminated
        if end is None or not self._said_last:
            self._said_last = self._news = end is not None  # what came before the end is told first
            self.counts.bytes_in -= 1  # which the reader counts for the word itself
            return b"\0"
        if end.error_code == 0:
            return b""
        raise trio.BrokenResourceError(self._why())

    def _check_open(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("the connection was closed here")

    def _check(self) -> None:
        self._check_open()
        if self.broken:
            raise trio.BrokenResourceError(self.broken)
        if self._over():
            raise trio.BrokenResourceError(self._why())

    async def aclose(self) -> None:
        """Close at once; the peer is told."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def aclose_now(self) -> None:
        """As `aclose`, without a checkpoint."""
        self.close()

    def close(self) -> None:
        """Close and forget. Idempotent."""
        if self.closed:
            return
        if self.core is None:
            self._endpoint.refuse(self)
        elif not self._over() and not self.broken:
            self.core.shut()
            self._endpoint.settle(self)
        self.closed = True
        self._parked.unpark_all()
        self._endpoint.forget(self)


class Endpoint:
    """A socket with its connections; `run` is its task. One that does not listen is closed with its last connection."""

    def __init__(self, socket: DatagramSocket, settings: Settings, listening: bool) -> None:
        self.socket = socket
        self.settings = settings
        self.listening = listening
        self.closed = False
        self._wires: dict[bytes, Wire] = {}
        self._all: dict[Wire, None] = {}
        self._half_open: dict[Wire, None] = {}
        self._parting: dict[Wire, None] = {}
        self._waiting: deque[Wire] = deque()
        self._accepting = trio.lowlevel.ParkingLot()
        self._timers: list[tuple[float, int, Wire]] = []
        self._ids = itertools.count()
        self._sleeping_until = float("inf")
        self._earlier = trio.Event()
        self._retry = QuicRetryTokenHandler()
        self._scope = trio.CancelScope()

    # --- tasks

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive and keep time until closed."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_time)
                    task_status.started()
                    with suppress(trio.ClosedResourceError):  # closed while a datagram was on its way to us
                        while True:
                            self._take(await self.socket.receive_many())
                    nursery.cancel_scope.cancel()
        finally:
            for wire in list(self._all):  # when cancelled: whoever owns them could tell nobody any more
                wire.close()
            self.socket.close()

    async def _keep_time(self) -> None:
        while True:
            now = trio.current_time()
            for _ in range(_TIMERS):
                if not self._timers or self._timers[0][0] > now:
                    break
                wire = heapq.heappop(self._timers)[2]
                wire.timers.pop()
                if wire.core is not None:
                    self._time_is_up(wire, wire.core, now)
                elif wire.closed and wire.parts_at > now:
                    self._set_timer(wire, wire.parts_at)  # this one was set while the connection lived
                elif wire.closed:
                    self._part(wire)
            self._sleeping_until = self._timers[0][0] if self._timers else float("inf")
            self._earlier = trio.Event()
            with trio.move_on_at(self._sleeping_until):
                await self._earlier.wait()

    def _time_is_up(self, wire: Wire, core: QuicCore, now: float) -> None:
        due = core.get_timer()
        if due is None or due > now:  # the connection is over, or its timer has moved on since it was set
            self._set_timer(wire, due)
            return
        error = call_guarded(core.handle_timer, now + _LATE)
        if error is not None:
            self._crashed(wire, error)
        self.settle(wire)

    # --- datagrams

    def give(self, wire: Wire, data: bytes, place: Place, now: float) -> None:
        """Let a connection take in a datagram: what the library makes of it is this connection's matter alone."""
        if wire.core is not None:
            error = call_guarded(wire.core.receive_datagram, data, place, now)
            if error is not None:
                self._crashed(wire, error)

    def _crashed(self, wire: Wire, error: Exception) -> None:
        logger.error("QUIC failed place=%s error=%s", wire.place, describe(error), exc_info=error)
        wire.broken = f"QUIC failed: {describe(error)}"
        wire.tell()

    def _take(self, datagrams: list[tuple[bytes, Place]]) -> None:
        touched: dict[Wire, None] = {}
        now = trio.current_time()
        for data, place in datagrams:
            wire = self._whose(data, place)
            if wire is None:
                continue
            if wire.closed:
                self._say_again(wire, data)
                continue
            wire.counts.bytes_in += len(data)
            if wire.held is not None:
                if len(wire.held) < _HELD:
                    wire.held.append((data, place))
                wire.tell()
            else:
                self.give(wire, data, place, now)
                touched[wire] = None
        for wire in touched:
            self.settle(wire)

    def _whose(self, data: bytes, place: Place) -> Wire | None:
        if not data:
            return None
        if not data[0] & _LONG:
            return self._wires.get(data[1 : 1 + CID_LENGTH])
        if len(data) < 7:
            return None
        end = 6 + data[5]
        wire = self._wires.get(data[6:end])
        if wire is not None or not self.listening or len(data) < _SMALLEST or data[5] > 20:
            return wire
        version = int.from_bytes(data[1:5], "big")
        if version != QuicProtocolVersion.VERSION_1:
            if version:
                self._negotiate(data, end, place)
            return None
        return self._new(data, place) if data[0] & _TYPE == _INITIAL and data[5] >= CID_LENGTH else None

    def _negotiate(self, data: bytes, end: int, place: Place) -> None:
        source = data[end + 1 : end + 1 + data[end]]
        self.socket.send_to(
            encode_quic_version_negotiation(
                source_cid=data[6:end], destination_cid=source, supported_versions=[QuicProtocolVersion.VERSION_1]
            ),
            place,
        )

    def _new(self, data: bytes, place: Place) -> Wire | None:
        """A connection that somebody begins; None when it has to show first that it is there. RFC 9000, 8.1.3."""
        try:
            header = header_of(data)
        except ValueError:
            return None
        original, retry_cid = header.destination_cid, None
        with suppress(ValueError):  # no token, or none of ours: deployed diallers show one server's to another
            original = self._retry.validate_token(
                address=place, destination_cid=header.destination_cid, token=header.token, now=trio.current_time()
            )
            retry_cid = header.destination_cid
        if retry_cid is None and len(self._half_open) >= RETRY_ABOVE:
            self._ask_again(header.source_cid, header.destination_cid, place)
            return None
        if len(self._waiting) >= BACKLOG:
            return None
        wire = Wire(self, place, None, (original, retry_cid))
        self._all[wire] = self._half_open[wire] = None
        self.know(wire, header.destination_cid)
        self._waiting.append(wire)
        self._accepting.unpark()
        return wire

    def _ask_again(self, source: bytes, original: bytes, place: Place) -> None:
        cid = self.settings.entropy(CID_LENGTH)
        token = self._retry.create_token(
            address=place,
            original_destination_connection_id=original,
            retry_source_connection_id=cid,
            now=trio.current_time(),
        )
        retry = encode_quic_retry(
            version=QuicProtocolVersion.VERSION_1,
            source_cid=cid,
            destination_cid=source,
            original_destination_cid=original,
            retry_token=token,
        )
        self.socket.send_to(retry, place)

    # --- connections

    async def accept(self) -> Wire:
        """Wait for the next connection that somebody begins. Raises `trio.ClosedResourceError` when closed."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if not self.listening:
                raise trio.ClosedResourceError("this listener was closed")
            await self._accepting.park()
        return self._waiting.popleft()

    def dial(self, place: Place) -> Wire:
        """Begin a connection: the first datagram leaves."""
        core = QuicCore(self.settings, client=True)
        wire = Wire(self, place, core)
        self._all[wire] = None
        self.know(wire, core.host_cid)
        core.connect(place, trio.current_time())
        self.settle(wire)
        if self.socket.trouble:
            wire.broken = f"the system can send nothing there: {self.socket.trouble}"
        return wire

    def answer(self, wire: Wire) -> QuicCore:
        """Our end of a connection that somebody begins."""
        original, retry_cid = wire.opening or (b"", None)
        core = QuicCore(self.settings, client=False, original_cid=original, retry_cid=retry_cid)
        self.know(wire, core.host_cid)
        return core

    def refuse(self, wire: Wire) -> None:
        """Tell who began a connection that there is no place for it, unless many do."""
        if wire.held and len(self._half_open) < RETRY_ABOVE:
            data, place = wire.held[0]
            with suppress(ValueError):
                self.socket.send_to(refusal(data), place)

    def know(self, wire: Wire, cid: bytes) -> None:
        """Datagrams to `cid` are of this connection."""
        wire.cids[cid] = None
        self._wires[cid] = wire

    def settle(self, wire: Wire) -> None:
        """Send what a connection has to say, set its timer, and tell whoever reads it what is new."""
        core = wire.core
        if core is None or wire.closed or wire.broken:
            return
        error = call_guarded(self._settle, wire, core)
        if error is not None:
            self._crashed(wire, error)

    def _settle(self, wire: Wire, core: QuicCore) -> None:
        now = trio.current_time()
        core.look()  # before sending: then the library forgets streams that are over
        datagrams = core.datagrams_to_send(now)
        wire.counts.bytes_out += self._send(datagrams)
        if core.closing and datagrams:
            wire.end = datagrams
        self._set_timer(wire, core.get_timer())
        core.look()
        for ours, cid in core.take_cids():
            if ours:
                self.know(wire, cid)
            elif wire.cids.pop(cid, self) is None:
                self._wires.pop(cid, None)
        if core.done or core.terminated is not None:
            self._half_open.pop(wire, None)
        wire.tell_if_new(core)

    def _send(self, datagrams: list[tuple[bytes, Place]]) -> int:
        """Send all, and return how many bytes they are."""
        count = 0
        for place, several in itertools.groupby(datagrams, key=itemgetter(1)):
            run = [data for data, _ in several]
            count += sum(map(len, run))
            self.socket.send_many(run, place)
        return count

    def _set_timer(self, wire: Wire, at: float | None) -> None:
        if at is None or (wire.timers and wire.timers[-1] <= at):
            return  # it is looked at before that anyway
        wire.timers.append(at)
        heapq.heappush(self._timers, (at, next(self._ids), wire))
        if at < self._sleeping_until:
            self._earlier.set()

    def forget(self, wire: Wire) -> None:
        """The connection is over. Its ids stay a while, when the peer may not have heard that: RFC 9000, 10.2.1."""
        core = wire.core
        if core is not None:
            core.end_log()
            if wire.end:
                wire.parts_at = trio.current_time() + core.closing_seconds
                self._set_timer(wire, wire.parts_at)
                self._parting[wire] = None
        wire.core = wire.muxer = wire.held = None  # an entry among the timers may still know it for a while
        self._half_open.pop(wire, None)
        self._all.pop(wire, None)
        if not wire.end:
            self._part(wire)
        elif len(self._parting) > PARTING:
            self._part(next(iter(self._parting)))

    def _say_again(self, wire: Wire, data: bytes) -> None:
        """Tell a peer that goes on that the connection is over: ever less often, and no more than it sends."""
        wire.late += 1
        if wire.late & (wire.late - 1) == 0 and sum(len(each) for each, _ in wire.end) <= len(data) * _AMPLIFIED:
            self._send(wire.end)

    def _part(self, wire: Wire) -> None:
        """Nothing of a connection stays."""
        for cid in wire.cids:
            self._wires.pop(cid, None)
        wire.cids.clear()
        self._parting.pop(wire, None)
        self._end_if_over()

    def stop_listening(self) -> None:
        """Take no new connections; the socket is freed with the last one."""
        self.listening = False
        self._accepting.unpark_all()
        while self._waiting:
            self._waiting.popleft().close()
        self._end_if_over()

    def _end_if_over(self) -> None:
        if not self.listening and not self._all and not self._parting:
            self.closed = True
            self._scope.cancel()
            self.socket.close()
