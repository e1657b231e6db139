"""Datagrams over UDP: many in one wake-up, sent without waiting.

Rules: nothing that the network says about a datagram ends a socket: what cannot be sent is dropped and counted, as the
network may do anyway. IPv6 sockets take IPv6 alone. Endpoints are the canonical text of an IP address and a port.

Linux moves several datagrams of one size in one call, to send (UDP_SEGMENT) and to receive (UDP_GRO): see udp(7). Where
it does not, they go one by one. There a socket that is bound to all addresses also answers from the one that was asked
(IP_PKTINFO, ip(7)): whoever asks takes no answer from another.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, Protocol

import trio

Endpoint = tuple[str, int]
Ancillary = tuple[int, int, bytes]  # level, type and value: see sendmsg(2)

_MOST = 64  # datagrams taken in one wake-up: other tasks have their turn then
_SIZE = 2048  # bytes of one that are read: more than any protocol here sends, so that too long ones are seen as such
_BUFFER = 1024 * 1024  # what the kernel keeps for us while we are busy
_LINUX: Final = sys.platform == "linux"
_SOL_UDP: Final = 17  # udp(7); Python has no names for these
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_INT: Final = struct.Struct("=i")
_SHORT: Final = struct.Struct("=H")
_IP_PKTINFO: Final = 8
_ROOM: Final = socket.CMSG_SPACE(_INT.size) + socket.CMSG_SPACE(20)
_LINK_LOCAL: Final = b"\xfe\x80"
_ASKED: Final = 4096  # places, of which it is remembered which of our addresses they asked
_SEGMENTS: Final = 64  # datagrams in one call, of so many bytes together
_TOGETHER: Final = 65_507


class DatagramSocket(Protocol):
    """A bound socket, real or simulated."""

    local: Endpoint
    dropped: int  # datagrams that could not be sent
    trouble: str  # why the last one could not, where waiting would not help; else empty

    def send_to(self, data: bytes, to: Endpoint) -> bool:
        """Send now; False when that is not possible. Never waits, never raises."""

    def send_many(self, datagrams: Sequence[bytes], to: Endpoint) -> None:
        """Send several in their order, as `send_to` does each."""

    async def receive_many(self) -> list[tuple[bytes, Endpoint]]:
        """Wait for datagrams; returns those that came, with their senders. Raises `ClosedResourceError` at the end."""

    def close(self) -> None:
        """Free the port. Idempotent."""


class UdpSocket:
    """A `DatagramSocket` of the operating system."""

    def __init__(self, sock: socket.socket) -> None:
        self.local: Endpoint = sock.getsockname()[:2]
        self.dropped = 0
        self.trouble = ""
        self._socket = sock
        self._closed = False
        self._asked: dict[Endpoint, Ancillary] = {}
        self._segmented = _segments(sock)
        self._read = memoryview(bytearray(65_535))  # where several datagrams come at once

    def send_to(self, data: bytes, to: Endpoint) -> bool:
        """Send now; False, and counted, when the kernel does not take it."""
        try:
            if (source := self._asked.get(to)) is None:
                self._socket.sendto(data, to)
            else:
                self._socket.sendmsg([data], [source], 0, to)
        except (OSError, OverflowError, TypeError) as error:  # the last two: no address at all
            if self._asked.pop(to, None) is not None:  # it may be an address of ours that is no more
                return self.send_to(data, to)
            self.dropped += 1
            passes = isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOBUFS)
            self.trouble = "" if passes else getattr(error, "strerror", None) or str(error)
            return False
        self.trouble = ""
        return True

    def send_many(self, datagrams: Sequence[bytes], to: Endpoint) -> None:
        """See `DatagramSocket.send_many`."""
        for run in _runs(datagrams):
            if len(run) == 1 or not self._send_run(run, to):
                for data in run:
                    self.send_to(data, to)

    def _send_run(self, run: Sequence[bytes], to: Endpoint) -> bool:
        if not self._segmented:
            return False
        extra: list[Ancillary] = [(_SOL_UDP, _UDP_SEGMENT, _SHORT.pack(len(run[0])))]
        if (source := self._asked.get(to)) is not None:
            extra.append(source)
        try:
            self._socket.sendmsg(run, extra, 0, to)
        except OSError as error:
            # EIO: what sends them cannot do it. Anything else is of this run alone.
            self._segmented = error.errno != errno.EIO
            return False
        except (OverflowError, TypeError):
            return False
        self.trouble = ""
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
                length, extra, _, sender = self._socket.recvmsg_into([self._read], _ROOM)
            except BlockingIOError:
                break
            except OSError:  # an ICMP error about something that was sent before
                continue
            place = sender[:2]
            step = max(1, length)
            for level, kind, value in extra:
                if level == _SOL_UDP:
                    step = _INT.unpack(value)[0]
                else:
                    self._note_asked(place, level, kind, value)
            for at in range(0, max(1, length), step):
                found.append((bytes(self._read[at : min(at + min(step, _SIZE), length)]), place))
            if len(found) >= _MOST:
                break
        return found

    def _note_asked(self, place: Endpoint, level: int, kind: int, value: bytes) -> None:
        """To which of our addresses a datagram came; the interface matters where it is part of the address."""
        if kind == _IP_PKTINFO:
            source = (level, kind, bytes(4) + value[4:8] + bytes(4))
        else:
            source = (level, kind, value if value.startswith(_LINK_LOCAL) else value[:16] + bytes(4))
        if self._asked.get(place) != source:
            if len(self._asked) >= _ASKED:
                del self._asked[next(iter(self._asked))]
            self._asked[place] = source

    def close(self) -> None:
        """Free the port; whoever receives gets `ClosedResourceError`. Outside of trio nobody can receive."""
        if not self._closed:
            self._closed = True
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def _segments(sock: socket.socket) -> bool:
    """True where a call may take several datagrams: a system that knows nothing of it would join them to one."""
    if not _LINUX:
        return False
    try:
        sock.getsockopt(_SOL_UDP, _UDP_SEGMENT)
    except OSError:
        return False
    return True


def _runs(datagrams: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Pieces that one call may take: all of one size, but for the last one, which may be shorter; none is empty."""
    begin = 0
    while begin < len(datagrams):
        end = begin + 1
        size = len(datagrams[begin])
        most = min(_SEGMENTS, _TOGETHER // max(1, size))
        while end < min(len(datagrams), begin + most) and 0 < len(datagrams[end]) <= size <= _SIZE:
            end += 1
            if len(datagrams[end - 1]) < size:
                break
        yield datagrams[begin:end]
        begin = end


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
        if _LINUX:
            with suppress(OSError):  # before Linux 5.0
                sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
            if ip == "0.0.0.0":
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            elif ip == "::":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.bind((ip, port))
    except BaseException:
        sock.close()
        raise
    return UdpSocket(sock)
