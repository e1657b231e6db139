"""A network inside one process: hosts with made-up addresses, and links between them that can be slow or broken.

    async def scene(sim: Sim) -> None:
        sim.net.quality = LinkQuality(latency=0.1)          # for links that do not exist yet
        a, b = sim.net.host("a"), sim.net.host("b")
        listener = await b.transport.listen(b.address(4001))
        raw = await a.transport.dial(b.address(4001))       # one round trip later
        sim.net.cut("a", "b")                               # half open: bytes vanish, nobody is told

Rules: everything is decided by one `random.Random` and carried by one scheduler task, so a seed gives the same run each
time. Buffers are bounded: a sender that nobody reads waits, as with TCP. A host's transport takes `/ip4|ip6/A/tcp/N`.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import random
from collections.abc import AsyncIterator, Container, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType

import trio
from multiaddr import Multiaddr

from pyp2p.errors import ConnectFailed
from pyp2p.io.handshake import Direction
from pyp2p.io.udp import Endpoint
from pyp2p.peer.address import AddressKind, components, parse_multiaddr
from pyp2p.testing.simlink import Flow, Link, LinkQuality, Schedule, TraceLog, flow_pair
from pyp2p.testing.simudp import SimUdpSocket
from pyp2p.trace import Trace
from pyp2p.transports.base import RawConn
from pyp2p.transports.pipe import AcceptQueue, Pipe, PipeStream

BUFFER = 256 * 1024  # bytes on their way to a host or unread there, per connection, before the sender waits
PERFECT = LinkQuality()
_SEGMENT = 16 * 1024  # what is lost and sent again as a whole, and what connections take turns with
_FIRST_EPHEMERAL = 49152
_PRUNE_FROM = 100  # connections that are kept before those that are over are sorted out

_Endpoint = tuple[str, int]  # IP address as canonical text, port


class SimPipe(Pipe):
    """A pipe whose two ends are a link apart."""

    __slots__ = ("_flow", "_trace")

    def __init__(self, capacity: int, flow: Flow, trace: TraceLog) -> None:
        super().__init__(capacity)
        self._flow = flow
        self._trace = trace

    def carry_data(self, data: bytes) -> None:
        """Over the link, segment by segment."""
        flow = self._flow
        self._trace.add(flow.link.source, flow.link.target, data)
        flow.speaks()
        for offset in range(0, len(data), _SEGMENT):
            segment = data[offset : offset + _SEGMENT]
            flow.send(len(segment), partial(self._arrive, segment))

    def _arrive(self, segment: bytes) -> None:
        self._flow.arrived()
        self.arrive(segment)

    def carry_end(self) -> None:
        """Over the link, behind the data."""
        self._flow.send(0, self.arrive_end)

    def carry_credit(self, count: int) -> None:
        """Back over the link."""
        self._flow.reverse.send(0, partial(self.arrive_credit, count))

    def carry_refusal(self, reason: str) -> None:
        """Back over the link."""
        self._flow.reverse.send(0, partial(self.refuse, reason))


class SimConnection:
    """Both ends of a simulated connection."""

    def __init__(self, near: SimHost, far: SimHost, flows: tuple[Flow, Flow], trace: TraceLog) -> None:
        self.hosts = (near.name, far.name)
        self._flows = flows
        there = SimPipe(far.buffer, flows[0], trace)
        back = SimPipe(near.buffer, flows[1], trace)
        self.near = PipeStream(back, there)
        self.far = PipeStream(there, back)

    @property
    def over(self) -> bool:
        """True when both ends are closed."""
        return self.near.closed and self.far.closed

    def reset(self, reason: str) -> None:
        """Break both ends at once; what is on its way is lost."""
        for flow in self._flows:
            flow.severed = True
        for stream in (self.near, self.far):
            stream.incoming.lose(reason)
            stream.outgoing.refuse(reason)


class SimListener:
    """A port of a simulated host."""

    def __init__(self, host: SimHost, endpoint: _Endpoint, address: Multiaddr) -> None:
        self.address = address
        self.queue = AcceptQueue()
        self._host = host
        self._endpoint = endpoint

    async def accept(self) -> RawConn:
        """Wait for the next connection; see `Listener.accept`."""
        return await self.queue.accept()

    async def aclose(self) -> None:
        """Free the port."""
        if not self.queue.closed:
            del self._host.listeners[self._endpoint]
        await self.queue.aclose()


class SimTransport:
    """The `Transport` of one simulated host."""

    name = "sim"

    def __init__(self, host: SimHost) -> None:
        self._host = host

    def handles(self, address: Multiaddr) -> bool:
        """True for a numeric IP address and a TCP port."""
        return [part.name for part in components(address)] in (["ip4", "tcp"], ["ip6", "tcp"])

    async def dial(self, address: Multiaddr, trace: Trace | None = None) -> RawConn:
        """Connect, which takes one round trip; see `Transport.dial`. Where a link is cut there is no answer ever."""
        await trio.lowlevel.checkpoint()
        return await self._host.net.connect(self._host, address)

    async def listen(self, address: Multiaddr) -> SimListener:
        """Take a port of this host (0: a free one); see `Transport.listen`."""
        await trio.lowlevel.checkpoint()
        host = self._host
        endpoint = host.free_endpoint(*_endpoint(address), host.listeners)
        listener = SimListener(host, endpoint, _multiaddr(*endpoint))
        host.listeners[endpoint] = listener
        return listener


class SimHost:
    """A machine in the simulated network: a name, IP addresses, ports and a transport."""

    def __init__(self, net: SimNet, name: str, ips: tuple[str, ...], buffer: int) -> None:
        self.net = net
        self.name = name
        self.ips = ips
        self.buffer = buffer
        self.listeners: dict[_Endpoint, SimListener] = {}
        self.udp: dict[Endpoint, SimUdpSocket] = {}
        self.transport = SimTransport(self)
        self._ports = itertools.count(_FIRST_EPHEMERAL)

    def address(self, port: int = 4001, ip: str | None = None) -> Multiaddr:
        """An address of this host (the first) with a TCP port."""
        return _multiaddr(self.ips[0] if ip is None else ip, port)

    def free_port(self) -> int:
        """A port that was not given out before."""
        return next(self._ports)

    def bind_udp(self, ip: str | None = None, port: int = 0) -> SimUdpSocket:
        """A UDP socket on an address of this host (the first) and a port (0: a free one).

        Where a link is cut or held, nothing arrives. Raises `OSError` as a real one does.
        """
        local = self.free_endpoint(self.ips[0] if ip is None else ip, port, self.udp)

        def carry(data: bytes, to: Endpoint) -> None:
            self.net.carry_datagram(self, data, local, to)

        def release() -> None:
            del self.udp[local]

        self.udp[local] = SimUdpSocket(local, carry, release)
        return self.udp[local]

    def free_endpoint(self, ip: str, port: int, taken: Container[_Endpoint]) -> _Endpoint:
        """An endpoint of this host that is not `taken`; raises `OSError` where there is none."""
        if ip not in self.ips:
            raise OSError(errno.EADDRNOTAVAIL, f"{ip} is no address of host {self.name}")
        endpoint = (ip, port or self.free_port())
        if endpoint in taken:
            raise OSError(errno.EADDRINUSE, f"{ip} port {port} is in use on host {self.name}")
        return endpoint


class SimNet:
    """Hosts and links. `async with SimNet(seed) as net:` runs it; `run_sim` does that for you.

    `quality` is that of links that are used for the first time from now on.
    """

    def __init__(self, seed: int, quality: LinkQuality = PERFECT) -> None:
        self.quality = quality
        self.trace = TraceLog()
        self.hosts: dict[str, SimHost] = {}
        self._rng = random.Random(f"{seed}:net")
        self._schedule = Schedule()
        self._by_ip: dict[str, SimHost] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._connections: list[SimConnection] = []
        self._prune_at = _PRUNE_FROM
        self._running: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> SimNet:
        self._running = self._run()
        await self._running.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        running, self._running = self._running, None
        return None if running is None else await running.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._schedule.run)
            yield
            nursery.cancel_scope.cancel()

    def host(self, name: str, *ips: str, buffer: int = BUFFER) -> SimHost:
        """The host called `name`, made when it is new (without `ips` it gets the next of 10.0.0.0/8).

        `buffer` bounds what is unread per connection: a small one makes a slow reader felt soon.
        """
        known = self.hosts.get(name)
        if known is not None:
            return known
        number = len(self.hosts) + 1
        texts = tuple(str(ipaddress.ip_address(ip)) for ip in ips) or (str(ipaddress.IPv4Address(0x0A000000 + number)),)
        for ip in texts:
            if ip in self._by_ip:
                raise ValueError(f"{ip} belongs to host {self._by_ip[ip].name}")
        host = self.hosts[name] = SimHost(self, name, texts, buffer)
        self._by_ip.update(dict.fromkeys(texts, host))
        return host

    def link(self, source: str, target: str) -> Link:
        """The link from one host to another (the way back is a link of its own)."""
        key = (source, target)
        if key not in self._links:
            self._links[key] = Link(source, target, self.quality, self._schedule, self._rng)
        return self._links[key]

    def set_quality(self, one: str, other: str, quality: LinkQuality) -> None:
        """Set both directions, from now on."""
        for link in self._both(one, other):
            link.quality = quality

    def cut(self, one: str, other: str) -> None:
        """Swallow everything between two hosts without telling them. Connections of this time stay dead for ever."""
        for link in self._both(one, other):
            link.cut = True

    def mend(self, one: str, other: str) -> None:
        """Undo `cut` for new connections."""
        for link in self._both(one, other):
            link.cut = False

    def partition(self, *groups: Iterable[str]) -> None:
        """Let nothing pass between groups of hosts until `heal`; it is kept, as TCP sends it again."""
        sides = [list(group) for group in groups]
        for position, side in enumerate(sides):
            for others in sides[position + 1 :]:
                for one, other in itertools.product(side, others):
                    for link in self._both(one, other):
                        link.hold()

    def heal(self) -> None:
        """End all partitions."""
        for link in list(self._links.values()):
            link.release()

    def reset(self, one: str, other: str) -> None:
        """Break all connections between two hosts: both sides see an error at once."""
        for connection in self._connections:
            if sorted(connection.hosts) == sorted((one, other)):
                connection.reset("connection reset by the network")

    def connections(self) -> list[SimConnection]:
        """Connections that are not closed at both ends."""
        self._connections = [connection for connection in self._connections if not connection.over]
        return list(self._connections)

    def _both(self, one: str, other: str) -> tuple[Link, Link]:
        return self.link(one, other), self.link(other, one)

    async def connect(self, near: SimHost, address: Multiaddr) -> RawConn:
        """Open a connection from `near`: used by its transport."""
        endpoint = _endpoint(address)
        far = self._by_ip.get(endpoint[0])
        if far is None:
            raise ConnectFailed("host unreachable")
        call = _Call(self, near, far, endpoint)
        try:
            return await call.wait()
        except BaseException:
            call.abandon()
            raise

    def carry_datagram(self, source: SimHost, data: bytes, sender: Endpoint, to: Endpoint) -> None:
        """Bring a datagram to the host that has the address, if there is one, somebody receives, and it is not lost."""
        target = self._by_ip.get(to[0])
        if target is None:
            return

        def deliver() -> None:
            if (receiver := target.udp.get(to)) is not None:
                receiver.arrive(data, sender)

        self.trace.add(source.name, target.name, data)
        self.link(source.name, target.name).carry_datagram(len(data), deliver)

    def opened(self, connection: SimConnection) -> None:
        """Keep a new connection, and those that are over only until their number has doubled."""
        if len(self._connections) >= self._prune_at:
            self._prune_at = max(2 * len(self.connections()), _PRUNE_FROM)
        self._connections.append(connection)


class _Call:
    """The three packets that open a connection."""

    def __init__(self, net: SimNet, near: SimHost, far: SimHost, endpoint: _Endpoint) -> None:
        self._net = net
        self._near = near
        self._far = far
        self._endpoint = endpoint
        self._flows = flow_pair(net.link(near.name, far.name), net.link(far.name, near.name))
        self._answered = trio.Event()
        self._abandoned = False
        self._failure = ""
        self._conn: RawConn | None = None

    async def wait(self) -> RawConn:
        """Send the first packet and wait for the answer."""
        self._flows[0].speaks()
        self._flows[0].send(1, self._asked)
        await self._answered.wait()
        if self._conn is None:
            raise ConnectFailed(self._failure)
        return self._conn

    def abandon(self) -> None:
        """The dialer has given up."""
        self._abandoned = True
        if self._conn is not None and isinstance(self._conn.stream, PipeStream):
            self._conn.stream.close()

    def _asked(self) -> None:
        there, back = self._flows
        there.arrived()
        back.speaks()
        listener = self._far.listeners.get(self._endpoint)
        if listener is None:
            back.send(1, partial(self._refused, "connection refused: nothing listens there"))
        elif listener.queue.full:
            back.send(1, partial(self._refused, "connection refused: too many connections wait there"))
        else:
            back.send(1, partial(self._granted, listener))

    def _refused(self, reason: str) -> None:
        self._failure = reason
        self._answered.set()

    def _granted(self, listener: SimListener) -> None:
        if self._abandoned:
            return
        self._flows[1].arrived()
        connection = SimConnection(self._near, self._far, self._flows, self._net.trace)
        self._net.opened(connection)
        ip = next((ip for ip in self._near.ips if (":" in ip) == (":" in self._endpoint[0])), self._near.ips[0])
        local, remote = _multiaddr(ip, self._near.free_port()), listener.address
        self._conn = RawConn(connection.near, local, remote, Direction.OUTBOUND, AddressKind.OUTBOUND_DIRECT)
        inbound = RawConn(connection.far, remote, local, Direction.INBOUND, AddressKind.INBOUND_DIRECT)
        self._flows[0].send(0, partial(self._established, connection, listener, inbound))
        self._answered.set()

    def _established(self, connection: SimConnection, listener: SimListener, inbound: RawConn) -> None:
        if not listener.queue.offer(inbound):
            connection.reset("connection reset: nobody listens any more")
            connection.far.close()  # nobody has that end


def _endpoint(address: Multiaddr) -> _Endpoint:
    ip, tcp = components(address)
    return str(ipaddress.ip_address(ip.value)), int(tcp.value)


def _multiaddr(ip: str, port: int) -> Multiaddr:
    return parse_multiaddr(f"/{'ip6' if ':' in ip else 'ip4'}/{ip}/tcp/{port}")
