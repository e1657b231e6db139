"""Datagrams over UDP: many in one wake-up, sent without waiting.

Rules: nothing that the network says about a datagram ends a socket: what cannot be sent is dropped and counted, as the
network may do anyway. IPv6 sockets take IPv6 alone. Endpoints are the canonical text of an IP address and a port.
"""

from __future__ import annotations

import errno
import socket
from typing import Protocol

import trio

Endpoint = tuple[str, int]

_MOST = 64  # datagrams taken in one wake-up: other tasks have their turn then
_SIZE = 2048  # bytes of one that are read: more than any protocol here sends, so that too long ones are seen as such
_BUFFER = 1024 * 1024  # what the kernel keeps for us while we are busy


class DatagramSocket(Protocol):
    """A bound socket, real or simulated."""

    local: Endpoint
    dropped: int  # datagrams that could not be sent

    def send_to(self, data: bytes, to: Endpoint) -> bool:
        """Send now; False when that is not possible. Never waits, never raises."""

    async def receive_many(self) -> list[tuple[bytes, Endpoint]]:
        """Wait for datagrams; returns those that came, with their senders. Raises `ClosedResourceError` at the end."""

    def close(self) -> None:
        """Free the port. Idempotent."""


class UdpSocket:
    """A `DatagramSocket` of the operating system."""

    def __init__(self, sock: socket.socket) -> None:
        self.local: Endpoint = sock.getsockname()[:2]
        self.dropped = 0
        self._socket = sock
        self._closed = False

    def send_to(self, data: bytes, to: Endpoint) -> bool:
        """Send now; False, and counted, when the kernel does not take it."""
        try:
            self._socket.sendto(data, to)
        except (OSError, OverflowError, TypeError):  # the others: no address at all
            self.dropped += 1
            return False
        return True

    async def receive_many(self) -> list[tuple[bytes, Endpoint]]:
        """See `DatagramSocket.receive_many`."""
        while True:
            if self._closed:
                raise trio.ClosedResourceError("the socket was closed here")
            await trio.lowlevel.wait_readable(self._socket)
            found = self._drain()
            if found:
                return found

    def _drain(self) -> list[tuple[bytes, Endpoint]]:
        found: list[tuple[bytes, Endpoint]] = []
        for _ in range(_MOST):
            try:
                data, sender = self._socket.recvfrom(_SIZE)
            except BlockingIOError:
                break
            except OSError:  # an ICMP error about something that was sent before
                continue
            found.append((data, sender[:2]))
        return found

    def close(self) -> None:
        """Free the port; whoever receives gets `ClosedResourceError`. Outside of trio nobody can receive."""
        if not self._closed:
            self._closed = True
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def bind_udp(ip: str, port: int) -> UdpSocket:
    """A socket on a numeric address (port 0: any free one). Raises `OSError` when that is not to be had."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        sock.bind((ip, port))
    except BaseException:
        sock.close()
        raise
    return UdpSocket(sock)
