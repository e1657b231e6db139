"""WebSocket over TCP, with TLS below it or without: `/ws`, `/tls/ws`, `/tls/sni/HOST/ws`, `/wss` behind IP and TCP.

Rules: `wsopening.py` asks and answers by HTTP, `wsframes.py` makes and cuts frames, both without I/O; what they make is
sent by whoever sends, what came is read by whoever reads: no task and no queue per connection. A message is no unit
here: binary frames carry one stream of bytes. TLS to a web server proves nothing about a peer; the security protocol
inside does. RFC 6455; libp2p specs, websockets. Needs the extra `ws`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from multiaddr import Multiaddr

from pyp2p.errors import CertificateRefused, ConnectFailed, RemoteClosed, WebSocketError, printable
from pyp2p.io.handshake import READ_SIZE, Direction, drive
from pyp2p.io.stream import PlainStream, RawStream
from pyp2p.peer.address import components, parse_multiaddr, text
from pyp2p.trace import Stage, Step, Trace
from pyp2p.transports.base import Listener, RawConn
from pyp2p.transports.tcp import BACKLOG, RESERVED_FDS, Tcp
from pyp2p.transports.wsframes import (
    GOING_AWAY,
    NO_STATUS,
    NORMAL_CLOSURE,
    PONG,
    Closed,
    Data,
    FrameReader,
    Ping,
    closing,
    frame,
)
from pyp2p.transports.wsopening import Opening

_FRAME: Final = 160 * 1024  # bytes of one frame, a buffer: what a bulk sender seals at once, some 128 KiB, fits
_CLEAN: Final = (NORMAL_CLOSURE, GOING_AWAY, NO_STATUS)
_SECURE: Final = (("wss",), ("tls", "ws"), ("tls", "sni", "ws"))
_PLAIN: Final = (("ws",),)
_CLOSED_TEXT: Final = "the sending half was closed by send_eof"
_GONE_TEXT: Final = "the peer has closed the WebSocket"


class WsStream(RawStream):
    """The bytes inside the binary frames of one connection, whose `opening` a dialler has gone through before.

    A listener's end answers the HTTP request when it is first used. `send_eof` is the closing frame, after which the
    peer need not send any more. One task may receive while another sends; until the HTTP exchange is over, one in all.
    """

    __slots__ = ("_broken", "_closing", "_early", "_ended", "_inner", "_masks", "_opening", "_pong", "_reader",
                 "_sending", "_unsent", "_waits", "_wake")  # fmt: skip

    def __init__(self, inner: RawStream, opening: Opening) -> None:
        self._inner = inner
        self._waits = isinstance(inner, PlainStream)  # takes nothing at once: no frame is made in vain
        self._masks = opening.dialler
        self._reader = FrameReader(masked=not opening.dialler)
        self._unsent = memoryview(b"")  # the rest of a frame of which the socket took the beginning
        self._pong: bytes | bytearray = b""
        self._sending = False
        self._closing = False
        self._ended = False
        self._broken = ""  # why nothing more can be read
        self._early = b""  # payload that came with the exchange
        self._wake: Callable[[], None] | None = None
        self._opening: Opening | None = opening
        if opening.done:
            self._opened(opening)

    @property
    def unsent(self) -> bool:
        """True when a frame has left in part, or an answer to a ping not yet; see `RawStream.unsent`."""
        return bool(self._unsent or self._pong)

    def notify(self, wake: Callable[[], None] | None) -> None:
        """Have `wake` called for the answer to a ping that does not leave at once."""
        self._wake = wake

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """What the socket has room for, in frames of up to 160 KiB, of which the last is then taken whole.

        Nothing while an earlier frame has not left; see `RawStream.try_send`.
        """
        if self._opening is not None or self._waits:
            return 0
        self._check_sendable()
        self._push()
        size, taken = len(data), 0
        while taken < size and not self._unsent:
            piece = data if size <= _FRAME else memoryview(data)[taken : taken + _FRAME]
            made = self._frame(piece)
            sent = self._inner.try_send(made)
            if sent == 0:
                break  # as if it had not been made: no frame depends on those before
            taken += len(piece)
            if sent < len(made):
                self._unsent = memoryview(made)[sent:]
        return taken

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data` in one frame. When cancelled, the stream is good for closing only."""
        if self._opening is not None:
            await self._exchange(self._opening)
        self._check_sendable()
        await self._send(self._frame(data))

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket has room; send on a frame that is left half sent, then the answer to a ping."""
        await self._inner.wait_send_all_might_not_block()
        if self._waits and self._pong:
            await self._send(b"")
        self._push()

    async def send_eof(self) -> None:
        """Send the closing frame; a second call does nothing."""
        if self._opening is not None:
            await self._exchange(self._opening)
        if self._closing:
            await trio.lowlevel.checkpoint()
            return
        if self._broken or self._ended:
            raise trio.BrokenResourceError(_GONE_TEXT)
        self._closing = True
        await self._send(closing(NORMAL_CLOSURE, self._key()))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one byte, or `b""` at the end: the closing frame, or the end of the connection without one.

        Raises `trio.BrokenResourceError` for what is no binary frame of a WebSocket.
        """
        if self._opening is not None:
            await self._exchange(self._opening)
        limit = READ_SIZE if max_bytes is None else max_bytes
        if self._early:
            await trio.lowlevel.checkpoint()
            data, self._early = self._early[:limit], self._early[limit:]
            return data
        while not self._ended:
            if self._broken:
                raise trio.BrokenResourceError(self._broken)
            raw = await self._inner.receive_some(limit)
            if not raw:
                self._ended = True
            elif data := self._payload(bytes(raw)):
                return data
        await trio.lowlevel.checkpoint()
        return b""

    async def aclose(self) -> None:
        """Close, after the closing frame as far as it fits; see the stream underneath."""
        self._say_last(NORMAL_CLOSURE)
        await self._inner.aclose()

    async def aclose_now(self) -> None:
        """Close at once, as the stream underneath."""
        self._say_last(NORMAL_CLOSURE)
        await self._inner.aclose_now()

    # --- the HTTP exchange

    async def _exchange(self, opening: Opening) -> None:
        """The listener's part: wait for the request, and answer it."""
        while not opening.done:
            raw = await self._inner.receive_some(READ_SIZE)
            if not raw:
                raise trio.BrokenResourceError("the connection ended before the WebSocket request")
            try:
                opening.feed(bytes(raw))
            except WebSocketError as error:
                await self._inner.send_all(opening.take_output())
                raise trio.BrokenResourceError(str(error)) from error
        await self._inner.send_all(opening.take_output())
        self._opened(opening)

    def _opened(self, opening: Opening) -> None:
        self._opening = None
        self._early = self._payload(opening.leftover)

    # --- frames

    def _check_sendable(self) -> None:
        if self._broken or self._ended:
            raise trio.BrokenResourceError(_GONE_TEXT)
        if self._closing:
            raise trio.ClosedResourceError(_CLOSED_TEXT)

    def _key(self) -> bytes:
        return os.urandom(4) if self._masks else b""

    def _frame(self, data: bytes | bytearray | memoryview) -> bytes | bytearray:
        return frame(data, self._key())

    def _push(self) -> None:
        """Send on what is left of a frame, then the answer to the last ping, as far as they fit."""
        if self._waits:
            return
        if self._unsent:
            self._unsent = self._unsent[self._inner.try_send(self._unsent) :]
        if self._pong and not self._unsent and (sent := self._inner.try_send(self._pong)):
            self._unsent, self._pong = memoryview(self._pong)[sent:], b""

    async def _send(self, made: bytes | bytearray) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            rest, self._unsent = self._unsent, memoryview(b"")
            pong, self._pong = self._pong, b""
            for each in (rest, pong, made):
                if each:
                    await self._inner.send_all(each)
        finally:
            self._sending = False

    def _say_last(self, code: int) -> None:
        if self._opening is None and not self._closing and not self._sending:
            self._closing = True
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                self._push()
                if not self._unsent:
                    self._inner.try_send(closing(code, self._key()))

    def _payload(self, raw: bytes) -> bytes:
        """What the frames hold that are there, up to one that ends it."""
        parts: list[Data] = []
        for each in self._reader.feed(raw):
            if isinstance(each, Ping):
                self._answer(each)
            elif isinstance(each, Closed):
                if each.code in _CLEAN:
                    self._ended = True
                else:
                    why = printable(each.reason, 200) or "no reason given"
                    self._broken = f"the WebSocket is closed with {each.code}: {why}"
                self._say_last(each.code)
            else:
                parts.append(each)
        return parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)

    def _answer(self, ping: Ping) -> None:
        """Only the last of several pings need be answered: a flood of them costs no memory (RFC 6455, 5.5.3)."""
        if self._closing:
            return
        self._pong = frame(ping.payload, self._key(), PONG)
        if not self._sending:
            with suppress(trio.BusyResourceError):  # the writer waits for the socket and will send it on
                self._push()
        if self._pong and self._wake is not None:
            self._wake()


class WsListener:
    """A TCP listener whose connections speak WebSocket."""

    def __init__(self, inner: Listener, end: str, context: ssl.SSLContext | None) -> None:
        self._inner = inner
        self._end = end
        self._context = context

    @property
    def address(self) -> Multiaddr:
        """The bound address with its real port."""
        return _with_end(self._inner.address, self._end)

    async def accept(self) -> RawConn:
        """Wait for the next connection; TLS and the HTTP exchange are left to its reader. See `Listener.accept`."""
        raw = await self._inner.accept()
        stream = raw.stream
        if self._context is not None:
            stream = _Tls(trio.SSLStream(stream, self._context, server_side=True, https_compatible=True))
        inside = WsStream(stream, Opening(None))
        local, remote = _with_end(raw.local, self._end), _with_end(raw.remote, self._end)
        return RawConn(inside, local, remote, raw.direction, raw.kind)

    async def aclose(self) -> None:
        """Stop listening."""
        await self._inner.aclose()


class WebSocket:
    """The WebSocket transport.

    `server` is the TLS context whose certificate listeners on `/tls/ws` and `/wss` show (`webcert.self_signed` makes
    one); without it there are none. `client` judges the certificates of servers; by default as the system does. With
    TLS, a name that DNS stood for is still asked for, there and in HTTP; without, HTTP is asked for the IP address.
    """

    name = "ws"

    def __init__(
        self,
        *,
        server: ssl.SSLContext | None = None,
        client: ssl.SSLContext | None = None,
        backlog: int = BACKLOG,
        reserved_fds: int = RESERVED_FDS,
    ) -> None:
        self._tcp = Tcp(backlog, reserved_fds)
        self._server = server
        self._client = client

    def handles(self, address: Multiaddr) -> bool:
        """True for an address of TCP and one of the four ends."""
        split = _split(address)
        return split is not None and self._tcp.handles(split[0])

    async def dial(self, address: Multiaddr, trace: Trace | None = None) -> RawConn:
        """Connect, secure, and ask for a WebSocket, the last two as steps of their own; see `Transport.dial`."""
        tcp, end, sni = _required(address)
        trace = Trace() if trace is None else trace
        raw = await self._tcp.dial(tcp)
        try:
            stream = raw.stream if end == "/ws" else await self._secured(raw.stream, tcp, sni, trace)
            inside = await _asked(stream, _authority(tcp, sni), trace)
        except BaseException:
            await raw.stream.aclose_now()
            raise
        return RawConn(inside, _with_end(raw.local, end), address, Direction.OUTBOUND, raw.kind)

    async def listen(self, address: Multiaddr) -> WsListener:
        """Bind and listen. Raises `OSError`, also for TLS without a certificate to show."""
        tcp, end, _ = _required(address)
        if end != "/ws" and self._server is None:
            raise OSError(f"{end} needs a certificate: WebSocket(server=...)")
        context = None if end == "/ws" else self._server
        return WsListener(await self._tcp.listen(tcp), end, context)

    async def _secured(self, stream: RawStream, tcp: Multiaddr, sni: str | None, trace: Trace) -> RawStream:
        context = self._client
        if context is None:
            context = self._client = ssl.create_default_context()
        name = sni or _host(tcp)
        watched = _Watched(stream, trace.begin(Stage.CONNECT, f"TLS to {name}", trio.current_time()))
        secured = trio.SSLStream[RawStream](watched, context, server_hostname=name, https_compatible=True)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            raise _no_tls(f"TLS to {name} ({text(tcp)})", error.__cause__ or error) from error
        watched.step = None
        return _Tls(secured)


class _Watched(PlainStream):
    """A raw stream that adds what goes over it to a step, as long as it has one."""

    def __init__(self, stream: RawStream, step: Step) -> None:
        super().__init__(stream)
        self.step: Step | None = step
        self._asked = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream underneath."""
        await self._stream.send_all(data)
        if self.step is not None:
            self.step.sent(len(data), trio.current_time(), wait=False)
            self._asked = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As the stream underneath."""
        data = bytes(await self._stream.receive_some(max_bytes))
        if self.step is not None:
            self.step.received(len(data), trio.current_time())
            self.step.waits += self._asked
            self._asked = False
        return data


class _Tls(PlainStream):
    """trio's TLS as a raw stream."""

    def __init__(self, stream: trio.SSLStream[RawStream]) -> None:
        super().__init__(stream)
        self._below = stream.transport_stream

    async def aclose_now(self) -> None:
        """Without the closing alert, which would have to be waited for."""
        await self._below.aclose_now()


def _no_tls(where: str, cause: BaseException) -> ConnectFailed:
    """What OpenSSL said."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return CertificateRefused(
            f"{where}: its certificate is refused: {printable(cause.verify_message.rstrip('.'), 200)}"
        )
    reason = getattr(cause, "reason", None) or str(cause)
    if reason == "WRONG_VERSION_NUMBER":  # OpenSSL's name for a first byte that begins no record
        reason = f"what answers speaks no TLS ({reason})"
    return ConnectFailed(f"{where}: {printable(reason, 200)}")


async def _asked(stream: RawStream, authority: str, trace: Trace) -> WsStream:
    """The dialler's part of the HTTP exchange."""
    opening = Opening(authority)
    trace.begin(Stage.CONNECT, f"WebSocket at {authority}", trio.current_time())
    try:
        await drive(opening, stream, trace)
    except RemoteClosed:
        why = "the server closed the connection in place of an answer to the WebSocket request"
        raise ConnectFailed(why) from None
    except (WebSocketError, trio.BrokenResourceError) as error:
        raise ConnectFailed(str(error)) from error
    return WsStream(stream, opening)


# --- addresses


def _split(address: Multiaddr) -> tuple[Multiaddr, str, str | None] | None:
    """The address of TCP, the end behind it as `/wss`, `/tls/ws` or `/ws`, and the name for TLS; None for others."""
    parts = components(address)
    at = next((at for at, part in enumerate(parts, 1) if part.name == "tcp"), len(parts))
    names = tuple(part.name for part in parts[at:])
    if names not in (*_SECURE, *_PLAIN):
        return None
    tcp = parse_multiaddr("".join(f"/{part.name}/{part.value}" for part in parts[:at]))
    sni = parts[at + 1].value if "sni" in names else None
    return tcp, "/" + "/".join(name for name in names if name != "sni"), sni


def _required(address: Multiaddr) -> tuple[Multiaddr, str, str | None]:
    split = _split(address)
    if split is None:
        raise ValueError(f"not an address of a WebSocket: {address}")
    return split


def _with_end(tcp: Multiaddr, end: str) -> Multiaddr:
    return parse_multiaddr(f"{tcp}{end}")


def _host(tcp: Multiaddr) -> str:
    return next(part.value for part in components(tcp) if part.name in ("ip4", "ip6"))


def _authority(tcp: Multiaddr, sni: str | None) -> str:
    host, port = sni or _host(tcp), components(tcp)[-1].value
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
