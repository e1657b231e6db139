"""WebSocket over TCP, with TLS below it or without: `/ws`, `/tls/ws`, `/tls/sni/HOST/ws`, `/wss` behind IP and TCP.

Rules: the framing is wsproto's, without I/O; what it makes is sent by whoever sends, what came is read by whoever
reads: no task and no queue per connection. A message is no unit here: binary frames carry one stream of bytes, and what
has arrived of a frame is passed on before the rest is there. TLS to a web server proves nothing about a peer; the
security protocol inside does. RFC 6455; libp2p specs, websockets. Needs the extra `ws`.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final

import trio
from multiaddr import Multiaddr
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from pyp2p.errors import ConnectFailed, printable
from pyp2p.io.handshake import READ_SIZE, Direction
from pyp2p.io.stream import PlainStream, RawStream
from pyp2p.peer.address import components, parse_multiaddr
from pyp2p.transports.base import Listener, RawConn
from pyp2p.transports.tcp import BACKLOG, RESERVED_FDS, Tcp

NORMAL_CLOSURE: Final = 1000  # RFC 6455, 7.4.1
UNSUPPORTED_DATA: Final = 1003
_CLEAN: Final = (NORMAL_CLOSURE, 1001, 1005)  # going away; without a code
_SECURE: Final = (("wss",), ("tls", "ws"), ("tls", "sni", "ws"))
_PLAIN: Final = (("ws",),)
_CLOSED_TEXT: Final = "the sending half was closed by send_eof"
_GONE_TEXT: Final = "the peer has closed the WebSocket"


class WsStream(RawStream):
    """The bytes inside the binary frames of one connection.

    A listener's end answers the HTTP request when it is first used. `send_eof` is the closing frame, after which the
    peer need not send any more. One task may receive while another sends; until the HTTP exchange is over, one in all.
    """

    __slots__ = ("_broken", "_closing", "_early", "_ended", "_inner", "_open", "_pong", "_sending", "_unsent", "_ws")

    def __init__(self, inner: RawStream, connection: WSConnection, is_open: bool) -> None:
        self._inner = inner
        self._ws = connection
        self._open = is_open
        self._early = b""  # payload that came with the listener's answer; a dialler has to wait for that
        self._unsent = memoryview(b"")  # the rest of a frame of which the socket took the beginning
        self._pong = b""
        self._sending = False
        self._closing = False
        self._ended = False
        self._broken = ""  # why nothing more can be read

    @property
    def unsent(self) -> bool:
        """True when a frame has left in part, or an answer to a ping not yet; see `RawStream.unsent`."""
        return bool(self._unsent or self._pong)

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """All of `data` in one frame, or nothing while an earlier one has not left; see `RawStream.try_send`."""
        if not self._open:
            return 0
        self._check_sendable()
        self._push()
        if self._unsent:
            return 0
        frame = self._frame(data)
        sent = self._inner.try_send(frame)
        if sent == 0:
            return 0  # as if it had not been made: no frame depends on those before
        self._unsent = memoryview(frame)[sent:]
        return len(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data` in one frame. When cancelled, the stream is good for closing only."""
        if not self._open:
            await self._exchange()
        self._check_sendable()
        await self._send(self._frame(data))

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket has room, and no frame is left half sent."""
        await self._inner.wait_send_all_might_not_block()
        self._push()
        while self._unsent:
            await self._inner.wait_send_all_might_not_block()
            self._push()

    async def send_eof(self) -> None:
        """Send the closing frame; a second call does nothing."""
        if not self._open:
            await self._exchange()
        if self._closing:
            await trio.lowlevel.checkpoint()
            return
        self._closing = True
        await self._send(self._say(CloseConnection(code=NORMAL_CLOSURE)))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one byte, or `b""` at the end: the closing frame, or the end of the connection without one.

        Raises `trio.BrokenResourceError` for what is no binary frame of a WebSocket.
        """
        if not self._open:
            await self._exchange()
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
                break
            self._ws.receive_data(bytes(raw))
            if data := self._payload():
                return data
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

    async def _exchange(self) -> None:
        """The listener's part: wait for the request, and answer it."""
        while not self._open:
            raw = await self._inner.receive_some(READ_SIZE)
            if not raw:
                raise trio.BrokenResourceError("the connection ended before the WebSocket request")
            try:
                self._ws.receive_data(bytes(raw))
                request = next(iter(self._ws.events()), None)
                if isinstance(request, Request):
                    answer = self._ws.send(AcceptConnection())
                    await self._inner.send_all(answer)
                    self._open = True
            except RemoteProtocolError as error:
                await self._refuse(error)

    async def _refuse(self, error: RemoteProtocolError) -> None:
        with suppress(LocalProtocolError):  # nothing can be answered to what is no HTTP
            if isinstance(error.event_hint, RejectConnection):
                await self._inner.send_all(self._ws.send(error.event_hint))
        raise trio.BrokenResourceError(f"no WebSocket request: {printable(str(error), 200)}")

    # --- frames

    def _check_sendable(self) -> None:
        if self._broken or self._ended:
            raise trio.BrokenResourceError(_GONE_TEXT)
        if self._closing:
            raise trio.ClosedResourceError(_CLOSED_TEXT)

    def _frame(self, data: bytes | bytearray | memoryview) -> bytes:
        return self._say(BytesMessage(data=data if isinstance(data, bytes) else bytes(data)))

    def _say(self, event: Event) -> bytes:
        try:
            return self._ws.send(event)
        except LocalProtocolError:  # the peer's closing frame came first
            raise trio.BrokenResourceError(_GONE_TEXT) from None

    def _push(self) -> None:
        """Send on what is left of a frame, then the answer to the last ping, as far as they fit."""
        if self._unsent:
            self._unsent = self._unsent[self._inner.try_send(self._unsent) :]
        if self._pong and not self._unsent and (sent := self._inner.try_send(self._pong)):
            self._unsent, self._pong = memoryview(self._pong)[sent:], b""

    async def _send(self, frame: bytes) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            rest, self._unsent = self._unsent, memoryview(b"")
            if rest:
                await self._inner.send_all(rest)
            await self._inner.send_all(frame)
        finally:
            self._sending = False

    def _say_last(self, code: int) -> None:
        if self._open and not self._closing and not self._sending:
            self._closing = True
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                self._push()
                if not self._unsent:
                    self._inner.try_send(self._say(CloseConnection(code=NORMAL_CLOSURE if code == 1005 else code)))

    def _payload(self) -> bytes:
        """What the frames hold that are there, up to one that ends it."""
        parts: list[bytes] = []
        for event in self._ws.events():
            if isinstance(event, BytesMessage):
                parts.append(bytes(event.data))
            elif isinstance(event, Ping):
                self._answer(event)
            elif isinstance(event, CloseConnection):  # the peer's, or what wsproto makes of a frame that is none
                if event.code in _CLEAN:
                    self._ended = True
                else:
                    self._broken = f"the WebSocket is closed with {event.code}: {_words(event)}"
                self._say_last(event.code)
                break
            elif isinstance(event, TextMessage):
                self._broken = "a text frame in a WebSocket of bytes"
                self._say_last(UNSUPPORTED_DATA)
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _answer(self, ping: Ping) -> None:
        """Only the last of several pings need be answered: a flood of them costs no memory (RFC 6455, 5.5.3)."""
        if self._closing:
            return
        self._pong = self._say(ping.response())
        if not self._sending:
            with suppress(trio.BusyResourceError):  # the writer waits for the socket and will send it on
                self._push()


def _words(event: CloseConnection) -> str:
    return printable(event.reason or "", 200) or "no reason given"


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
        inside = WsStream(stream, WSConnection(ConnectionType.SERVER), is_open=False)
        local, remote = _with_end(raw.local, self._end), _with_end(raw.remote, self._end)
        return RawConn(inside, local, remote, raw.direction, raw.kind)

    async def aclose(self) -> None:
        """Stop listening."""
        await self._inner.aclose()


class WebSocket:
    """The WebSocket transport.

    `server` is the TLS context whose certificate listeners on `/tls/ws` and `/wss` show (`webcert.self_signed` makes
    one); without it there are none. `client` judges the certificates of servers; by default as the system does. A
    name that DNS stood for is still asked for in TLS and HTTP.
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

    async def dial(self, address: Multiaddr) -> RawConn:
        """Connect, secure, and ask for a WebSocket; see `Transport.dial`."""
        tcp, end, sni = _required(address)
        raw = await self._tcp.dial(tcp)
        try:
            stream = raw.stream if end == "/ws" else await self._secured(raw.stream, sni or _host(tcp))
            inside = await _asked(stream, _authority(tcp, sni))
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

    async def _secured(self, stream: RawStream, name: str) -> RawStream:
        context = self._client
        if context is None:
            context = self._client = ssl.create_default_context()
        secured = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            why = getattr(cause, "verify_message", None) or getattr(cause, "reason", None) or cause or error
            raise ConnectFailed(f"TLS to {printable(name)}: {printable(str(why), 200)}") from error
        return _Tls(secured)


class _Tls(PlainStream):
    """trio's TLS as a raw stream."""

    def __init__(self, stream: trio.SSLStream[RawStream]) -> None:
        super().__init__(stream)
        self._below = stream.transport_stream

    async def aclose_now(self) -> None:
        """Without the closing alert, which would have to be waited for."""
        await self._below.aclose_now()


async def _asked(stream: RawStream, authority: str) -> WsStream:
    """The dialler's part of the HTTP exchange."""
    connection = WSConnection(ConnectionType.CLIENT)
    try:
        await stream.send_all(connection.send(Request(host=authority, target="/")))
        while True:
            raw = await stream.receive_some(READ_SIZE)
            if not raw:
                raise ConnectFailed("the server closed the connection in place of an answer to the WebSocket request")
            connection.receive_data(bytes(raw))
            for event in connection.events():
                if isinstance(event, RejectConnection):
                    raise ConnectFailed(f"the server answered the WebSocket request with HTTP {event.status_code}")
                if isinstance(event, AcceptConnection):
                    inside = WsStream(stream, connection, is_open=True)
                    inside._early = inside._payload()
                    return inside
    except (RemoteProtocolError, trio.BrokenResourceError) as error:
        raise ConnectFailed(f"no WebSocket answers there: {printable(str(error), 200)}") from error


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
