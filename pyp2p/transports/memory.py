"""Connections inside one process under `/memory/N`: the whole stack without a socket.

Rules: nothing is global. Nodes that shall reach each other share a `MemoryHub`; a port is taken in one hub only.
"""

from __future__ import annotations

import errno

import trio
from multiaddr import Multiaddr

from pyp2p.errors import ConnectFailed
from pyp2p.io.handshake import Direction
from pyp2p.peer.address import AddressKind, components, parse_multiaddr
from pyp2p.trace import Trace
from pyp2p.transports.base import RawConn
from pyp2p.transports.pipe import CAPACITY, AcceptQueue, pipe_pair

_FIRST_FREE = 1 << 32  # ports that are given out lie above those that people choose


class MemoryHub:
    """The ports of one in-memory world. Each direction of a connection holds at most `capacity` bytes."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.listeners: dict[int, MemoryListener] = {}
        self._next_port = _FIRST_FREE

    def fresh_port(self) -> int:
        """A port that nobody uses."""
        port = self._next_port
        self._next_port += 1
        return port


class MemoryListener:
    """A taken port."""

    def __init__(self, hub: MemoryHub, port: int) -> None:
        self._hub = hub
        self._port = port
        self._address = _address(port)
        self.queue = AcceptQueue()

    @property
    def address(self) -> Multiaddr:
        """The port as `/memory/N`."""
        return self._address

    async def accept(self) -> RawConn:
        """Wait for the next connection; see `Listener.accept`."""
        return await self.queue.accept()

    async def aclose(self) -> None:
        """Free the port; connections that nobody accepted are reset."""
        if not self.queue.closed:
            del self._hub.listeners[self._port]
        await self.queue.aclose()


class Memory:
    """The in-memory transport of one hub."""

    name = "memory"

    def __init__(self, hub: MemoryHub) -> None:
        self._hub = hub

    def handles(self, address: Multiaddr) -> bool:
        """True for `/memory/N` and nothing after it."""
        return [component.name for component in components(address)] == ["memory"]

    async def dial(self, address: Multiaddr, trace: Trace | None = None) -> RawConn:
        """Connect to a port of the hub; see `Transport.dial`."""
        await trio.lowlevel.checkpoint()
        listener = self._hub.listeners.get(_port(address))
        if listener is None:
            raise ConnectFailed("connection refused: nothing listens on that memory port")
        near, far = pipe_pair(self._hub.capacity)
        local = _address(self._hub.fresh_port())
        remote = listener.address
        if not listener.queue.offer(RawConn(far, remote, local, Direction.INBOUND, AddressKind.INBOUND_DIRECT)):
            raise ConnectFailed("connection refused: too many connections wait there")
        return RawConn(near, local, remote, Direction.OUTBOUND, AddressKind.OUTBOUND_DIRECT)

    async def listen(self, address: Multiaddr) -> MemoryListener:
        """Take a port of the hub (0: a fresh one); see `Transport.listen`."""
        await trio.lowlevel.checkpoint()
        port = _port(address) or self._hub.fresh_port()
        if port in self._hub.listeners:
            raise OSError(errno.EADDRINUSE, f"memory port {port} is in use")
        listener = MemoryListener(self._hub, port)
        self._hub.listeners[port] = listener
        return listener


def _port(address: Multiaddr) -> int:
    return int(components(address)[0].value)


def _address(port: int) -> Multiaddr:
    return parse_multiaddr(f"/memory/{port}")
