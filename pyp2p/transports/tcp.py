"""TCP over IPv4 and IPv6: `/ip4/A/tcp/N`, `/ip6/A/tcp/N` and `/ip6zone/Z/ip6/A/tcp/N`, nothing else.

Rules: names are resolved above this file, no function here asks a resolver. Streams work on a non-blocking socket
directly, so that `try_send` is one system call without an await, and a read is one await.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import suppress

import trio
from multiaddr import Multiaddr

from pyp2p.errors import ConnectFailed
from pyp2p.io.handshake import READ_SIZE, Direction
from pyp2p.io.stream import RawStream
from pyp2p.peer.address import AddressKind, components, parse_multiaddr
from pyp2p.trace import Trace
from pyp2p.transports.base import RawConn

BACKLOG = 1024  # connections that the kernel completes before we accept them; the kernel caps it further
RESERVED_FDS = 16  # a flood of connections must leave room for files, resolvers and our own dials
_DRAIN_READS = 16  # closing reads at most this often what the peer sent in vain: a flood must not keep us closing

_TEXTS = {
    errno.ECONNREFUSED: "connection refused: nothing listens there",
    errno.ETIMEDOUT: "timed out: no answer at all",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable: no route from this machine",
    errno.EADDRNOTAVAIL: "no local address or port to connect from",
    errno.ECONNRESET: "connection reset while connecting",
    errno.EACCES: "not permitted by this machine",
    errno.EPERM: "not permitted by this machine",
    errno.EMFILE: "too many open files in this process",
    errno.ENFILE: "too many open files on this machine",
    errno.EAFNOSUPPORT: "this machine does not speak that IP version",
    errno.ENODEV: "no such network interface",
    errno.ENXIO: "no such network interface",
    errno.EINVAL: "not an address that can be connected to",
}
_BROKEN_TEXT = "the connection is broken: "

SockAddr = tuple[str, int] | tuple[str, int, int, int]


class TcpStream(RawStream):
    """A connected socket with trio's half-closeable contract and `try_send`.

    One task may receive while another sends; a second one in either role gets `trio.BusyResourceError`.
    """

    __slots__ = ("_broken", "_closed", "_eof_sent", "_receiving", "_sending", "socket")

    def __init__(self, sock: socket.socket) -> None:
        """Takes over a connected socket and makes it non-blocking, without Nagle's delay, with keep-alive probes."""
        sock.setblocking(False)
        with suppress(OSError):  # some systems refuse options on a socket that the peer has already reset
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.socket = sock
        self._sending = False
        self._receiving = False
        self._eof_sent = False
        self._closed = False
        self._broken: str | None = None  # the first error: later system calls would report another, or a clean end

    def _lost(self, error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._closed:
            return trio.ClosedResourceError("this stream was closed")
        if self._broken is None:
            self._broken = error.strerror or type(error).__name__
        return trio.BrokenResourceError(_BROKEN_TEXT + self._broken)

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._broken is not None:
            raise trio.BrokenResourceError(_BROKEN_TEXT + self._broken)

    def _check_sendable(self) -> None:
        self._check()
        if self._eof_sent:
            raise trio.ClosedResourceError("the sending half was closed by send_eof")

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """One non-blocking send: how many bytes the kernel took; see `RawStream.try_send`."""
        self._check_sendable()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._lost(error) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`. When cancelled, some, all or none of it has been sent."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_sendable()
            waited = False
            total = len(data)
            sent = 0
            with memoryview(data) as view:
                while sent < total:
                    try:
                        sent += self.socket.send(view[sent:] if sent else view)
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self.socket)
                        waited = True
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()
        except OSError as error:
            raise self._lost(error) from error
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel has room, or the connection is broken."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check()
            await trio.lowlevel.wait_writable(self.socket)
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Close the sending half after what was sent; a second call does nothing."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        self._check()
        if self._eof_sent:
            return
        self._eof_sent = True
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._lost(error) from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one byte and at most `max_bytes` (by default 64 KiB), or `b""` at the end.

        Cancellation loses nothing. What waits in the kernel is taken at once; else this is one wait and one read.
        """
        if max_bytes is None:
            max_bytes = READ_SIZE
        elif max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check()
            waited = False
            while True:
                try:
                    data = self.socket.recv(max_bytes)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self.socket)
                    waited = True
                else:
                    break
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()  # the data must not be lost now
            return data
        except OSError as error:
            raise self._lost(error) from error
        finally:
            self._receiving = False

    def close(self) -> None:
        """Close at once, without an await; see `aclose`."""
        if self._closed:
            return
        self._closed = True
        with suppress(OSError):  # not connected any more
            self.socket.shutdown(socket.SHUT_WR)
        with suppress(OSError):  # nothing (more) to read, or broken
            for _ in range(_DRAIN_READS):
                if not self.socket.recv(READ_SIZE):
                    break
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()

    async def aclose_now(self) -> None:
        """Close; see `close`."""
        self.close()

    async def aclose(self) -> None:
        """Close. What was sent still goes out, in the background.

        A socket closed with unread input sends RST, and a RST can destroy our last bytes at the peer. So the sending
        half is closed first and a bounded amount of input is read and dropped, without waiting. Input that arrives
        later still causes the RST: who must be sure that the last bytes were seen calls `send_eof`, receives until
        `b""` under a deadline of its own, and then closes.
        """
        self.close()
        await trio.lowlevel.checkpoint()


class TcpListener:
    """A listening socket."""

    def __init__(self, sock: socket.socket, zone: str | None = None, reserved_fds: int = 0) -> None:
        """Takes over a bound, listening socket; `zone` names the interface of a link-local address."""
        self._socket = sock
        self._reserved_fds = reserved_fds
        self._zone = zone
        self._accepting = False
        self._address = _multiaddr(sock.getsockname(), zone)

    @property
    def address(self) -> Multiaddr:
        """The bound address with its real port; a wildcard stays a wildcard."""
        return self._address

    async def accept(self) -> RawConn:
        """Wait for the next connection; see `Listener.accept`."""
        if self._accepting:
            raise trio.BusyResourceError("another task is accepting on this listener")
        self._accepting = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError("this listener was closed")
            waited = False
            while True:
                try:
                    sock, remote = self._socket.accept()
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._socket)
                    waited = True
                else:
                    break
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()  # the connection must not be lost now
        finally:
            self._accepting = False
        self._keep_reserve(sock)
        return _raw_conn(sock, remote, Direction.INBOUND)

    def _keep_reserve(self, sock: socket.socket) -> None:
        """The system gives the lowest free descriptor: a high one means that few are left for files and dials."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit != resource.RLIM_INFINITY and sock.fileno() >= limit - self._reserved_fds:
            sock.close()
            raise OSError(errno.EMFILE, _TEXTS[errno.EMFILE])

    async def aclose(self) -> None:
        """Stop listening; connections that nobody accepted are reset."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()


class Tcp:
    """The TCP transport."""

    name = "tcp"

    def __init__(self, backlog: int = BACKLOG, reserved_fds: int = RESERVED_FDS) -> None:
        """`backlog` bounds the connections that wait for `accept` in the kernel.

        `reserved_fds` file descriptors are left free by accepting: `accept` raises `OSError` (EMFILE) instead.
        """
        self._backlog = backlog
        self._reserved_fds = reserved_fds

    def handles(self, address: Multiaddr) -> bool:
        """True for a numeric IP address (with a zone or without) and a TCP port, and nothing after it."""
        names = tuple(component.name for component in components(address))
        return names in {("ip4", "tcp"), ("ip6", "tcp"), ("ip6zone", "ip6", "tcp")}

    async def dial(self, address: Multiaddr, trace: Trace | None = None) -> RawConn:
        """Connect; see `Transport.dial`. Any deadline but the operating system's own is the caller's."""
        try:
            family, target, _ = _socket_address(address)
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise _connect_failed(error) from error
        try:
            sock.setblocking(False)
            code = sock.connect_ex(target)
            if code in {errno.EINPROGRESS, errno.EWOULDBLOCK}:
                await trio.lowlevel.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            else:
                await trio.lowlevel.checkpoint()
            if code == 0 and sock.getsockname() == sock.getpeername():
                # The kernel picked the target port as our own: we would talk to ourselves, nobody listens there.
                code = errno.ECONNREFUSED
            if code:
                raise OSError(code, os.strerror(code))
            return _raw_conn(sock, sock.getpeername(), Direction.OUTBOUND)
        except OSError as error:
            sock.close()
            raise _connect_failed(error) from error
        except BaseException:
            sock.close()
            raise

    async def listen(self, address: Multiaddr) -> TcpListener:
        """Bind and listen; see `Transport.listen`. An IPv6 socket takes no IPv4 connections."""
        family, target, zone = _socket_address(address)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if os.name == "posix":  # elsewhere this option lets two programs share a port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(target)
            sock.listen(self._backlog)
            listener = TcpListener(sock, zone, self._reserved_fds)
            await trio.lowlevel.checkpoint()
        except BaseException:
            sock.close()
            raise
        return listener


def _socket_address(address: Multiaddr) -> tuple[socket.AddressFamily, SockAddr, str | None]:
    """Family, socket address and zone; raises `OSError` when the zone is no interface of this machine."""
    values = {component.name: component.value for component in components(address)}
    port = int(values["tcp"])
    if "ip4" in values:
        return socket.AF_INET, (values["ip4"], port), None
    zone = values.get("ip6zone")
    if zone is None:
        return socket.AF_INET6, (values["ip6"], port, 0, 0), None
    scope = int(zone) if zone.isascii() and zone.isdigit() and len(zone) < 10 else socket.if_nametoindex(zone)
    return socket.AF_INET6, (values["ip6"], port, 0, scope), zone


def _multiaddr(name: SockAddr, zone: str | None) -> Multiaddr:
    host, port = name[0].partition("%")[0], name[1]
    if ":" not in host:
        return parse_multiaddr(f"/ip4/{host}/tcp/{port}")
    if len(name) == 4 and name[3]:
        if zone is None:
            with suppress(OSError):  # the interface has just gone
                zone = socket.if_indextoname(name[3])
        return parse_multiaddr(f"/ip6zone/{zone or name[3]}/ip6/{host}/tcp/{port}")
    return parse_multiaddr(f"/ip6/{host}/tcp/{port}")


def _raw_conn(sock: socket.socket, remote: SockAddr, direction: Direction) -> RawConn:
    """Wrap a connected socket; closes it when that fails."""
    try:
        kind = AddressKind.OUTBOUND_DIRECT if direction.outbound else AddressKind.INBOUND_DIRECT
        local_address = _multiaddr(sock.getsockname(), None)
        return RawConn(TcpStream(sock), local_address, _multiaddr(remote, None), direction, kind)
    except BaseException:
        sock.close()
        raise


def _connect_failed(error: OSError) -> ConnectFailed:
    text = _TEXTS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    return ConnectFailed(text)
