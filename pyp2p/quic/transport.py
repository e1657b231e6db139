"""QUIC as a transport: `/ip4/A/udp/N/quic-v1` and `/ip6/A/udp/N/quic-v1`, for dialling and listening.

Rules: who listens dials from the same socket, so that peers and routers see one port; who does not has one socket of
its own for each IP version. Sockets belong to `serve`, which runs as long as the switch does.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import trio
from multiaddr import Multiaddr

from pyp2p.errors import ConnectFailed, LocalProtocolError
from pyp2p.io.handshake import Direction
from pyp2p.io.udp import DatagramSocket, bind_udp
from pyp2p.io.udp import Endpoint as Place
from pyp2p.muxers.base import Muxer, MuxerLimits
from pyp2p.peer.address import AddressKind, components, parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.peer.publickey import PublicKey
from pyp2p.platform import Platform
from pyp2p.quic.base import Counts, MuxedConn
from pyp2p.quic.core import ALPN, DATAGRAM, KeyLog, QuicCore, Settings
from pyp2p.quic.endpoint import Endpoint, Wire
from pyp2p.quic.muxer import QuicMuxer
from pyp2p.security.base import SecureChannel
from pyp2p.security.tls.certificate import make_certificate
from pyp2p.trace import Stage, Trace

SECURITY: Final = "/tls/1.0.0"
MUXER: Final = "/quic-v1"
_END: Final = "/quic-v1"

Bind = Callable[[str, int], DatagramSocket]


class QuicChannel:
    """The proof of a peer; what it seals and opens stands in the core, so nothing passes through here."""

    early_muxer: str | None = MUXER  # which comes with the handshake

    def __init__(self, core: QuicCore, key: PublicKey) -> None:
        self._core = core
        self.peer_key = key
        self.peer = PeerId.from_key(key)

    def seal(self, chunks: Any) -> bytes:
        """Nothing: the core seals what it sends."""
        return b""

    def open(self, data: bytes) -> list[bytes]:
        """The word that there is news."""
        return [data]

    def close(self) -> bytes:
        """Nothing: the end is said by the stream's `send_eof` and `aclose`, when all has arrived."""
        return b""


class QuicSession:
    """See `Session`."""

    security = SECURITY
    muxer_protocol = MUXER

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def secure(self, expect: PeerId | None, trace: Trace) -> SecureChannel:
        """See `Session.secure`."""
        wire, connect = self._wire, trace.current
        if wire.core is not None:  # we dialled: the first datagrams each way were of that step
            connect.bytes_in, connect.bytes_out = wire.counts.bytes_in, wire.counts.bytes_out
        step = trace.begin(Stage.HANDSHAKE, f"{SECURITY} (ALPN {ALPN})", trio.current_time())
        step.waits += 1
        wire.begin(expect)
        try:
            await wire.handshaken()
        finally:
            step.bytes_in = wire.counts.bytes_in - connect.bytes_in
            step.bytes_out = wire.counts.bytes_out - connect.bytes_out
        core = wire.core
        assert core is not None and core.peer_key is not None
        return QuicChannel(core, core.peer_key)

    def muxer(self, limits: MuxerLimits) -> Muxer:
        """See `Session.muxer`."""
        core = self._wire.core
        assert core is not None
        self._wire.muxer = muxer = QuicMuxer(core, limits, trio.current_time())
        return muxer

    def count(self, counts: Counts) -> None:
        """See `Session.count`."""
        counts.bytes_in += self._wire.counts.bytes_in
        counts.bytes_out += self._wire.counts.bytes_out
        self._wire.counts = counts


class QuicListener:
    """One bound UDP port."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._address = _multiaddr(endpoint.socket.local)

    @property
    def address(self) -> Multiaddr:
        """The bound address with its real port."""
        return self._address

    async def accept(self) -> MuxedConn:
        """Wait for the next connection that somebody begins; nothing of it is worked on before `secure`."""
        wire = await self._endpoint.accept()
        return _conn(wire, self._endpoint, Direction.INBOUND)

    async def aclose(self) -> None:
        """Take no new connections; those that are there stay, and the port with them."""
        self._endpoint.stop_listening()
        await trio.lowlevel.checkpoint()


class Quic:
    """The QUIC transport of one identity. Needs the extra `quic`.

    `datagram` bounds what is sent in one datagram (at least 1,200 bytes); nothing here finds out what a path carries.
    `key_log` gets a line in the format of SSLKEYLOGFILE for each secret, `qlog` is a folder that gets a file for each
    connection. `serve` has to run.
    """

    name = "quic"

    def __init__(
        self,
        *,
        bind: Bind = bind_udp,
        datagram: int = DATAGRAM,
        key_log: KeyLog | None = None,
        qlog: str | None = None,
    ) -> None:
        self._bind = bind
        self._datagram = datagram
        self._key_log = key_log
        self._qlog = qlog
        self._settings: Settings | None = None
        self._nursery: trio.Nursery | None = None
        self._listening: list[Endpoint] = []
        self._dialling: dict[int, Endpoint] = {}

    async def serve(self, identity: Identity, platform: Platform, task_status: trio.TaskStatus[None]) -> None:
        """Own the sockets until cancelled; started before anything is dialled or listened on.

        Raises `LocalProtocolError` for a second switch: each has an identity of its own.
        """
        if self._settings is not None:
            raise LocalProtocolError("a Quic transport belongs to one switch: make another one")
        self._settings = Settings(
            make_certificate(identity),
            platform.wall,
            platform.entropy,
            datagram=self._datagram,
            key_log=self._key_log,
            qlog=self._qlog,
        )
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def handles(self, address: Multiaddr) -> bool:
        """True for a numeric IP address, a UDP port and `/quic-v1`, and nothing after it."""
        names = tuple(part.name for part in components(address))
        return names in (("ip4", "udp", "quic-v1"), ("ip6", "udp", "quic-v1"))

    async def dial(self, address: Multiaddr, trace: Trace | None = None) -> MuxedConn:
        """Send the first datagram and wait for an answer; nothing of it is looked at before `secure`."""
        place = _place(address)
        try:
            endpoint = self._endpoint_for(place[0])
        except OSError as error:
            raise ConnectFailed(error.strerror or str(error)) from error
        wire = endpoint.dial(place)
        try:
            await wire.first_answer()
        except trio.BrokenResourceError as error:
            wire.close()
            raise ConnectFailed(str(error)) from error
        except BaseException:
            wire.close()
            raise
        return _conn(wire, endpoint, Direction.OUTBOUND, address)

    async def listen(self, address: Multiaddr) -> QuicListener:
        """Bind. Raises `OSError`."""
        endpoint, nursery = self._made(*_place(address), listening=True)
        self._listening = [*(each for each in self._listening if not each.closed), endpoint]
        await nursery.start(endpoint.run)
        return QuicListener(endpoint)

    def _endpoint_for(self, ip: str) -> Endpoint:
        version = 6 if ":" in ip else 4
        for endpoint in self._listening:
            local = endpoint.socket.local[0]
            if endpoint.listening and (6 if ":" in local else 4) == version and _reaches(local, ip):
                return endpoint
        found = self._dialling.get(version)
        if found is None or found.closed:
            found, nursery = self._made("::" if version == 6 else "0.0.0.0", 0, listening=False)
            self._dialling[version] = found
            nursery.start_soon(found.run)
        return found

    def _made(self, ip: str, port: int, *, listening: bool) -> tuple[Endpoint, trio.Nursery]:
        if self._settings is None or self._nursery is None:
            raise OSError("QUIC is not being served: Quic.serve has to run")
        return Endpoint(self._bind(ip, port), self._settings, listening), self._nursery


def _reaches(local: str, remote: str) -> bool:
    """False for a socket on loopback and an address that is not, which it cannot send to, and the other way round."""
    if local in ("0.0.0.0", "::"):
        return True
    return _is_loopback(local) == _is_loopback(remote)


def _is_loopback(ip: str) -> bool:
    return ip == "::1" or ip.startswith("127.")


def _place(address: Multiaddr) -> Place:
    host, port = components(address)[:2]
    return host.value, int(port.value)


def _multiaddr(place: Place) -> Multiaddr:
    ip = place[0].partition("%")[0]
    return parse_multiaddr(f"/{'ip6' if ':' in ip else 'ip4'}/{ip}/udp/{place[1]}{_END}")


def _conn(wire: Wire, endpoint: Endpoint, direction: Direction, remote: Multiaddr | None = None) -> MuxedConn:
    kind = AddressKind.OUTBOUND_DIRECT if direction.outbound else AddressKind.INBOUND_DIRECT
    local = _multiaddr((_source(endpoint.socket.local[0], wire.place), endpoint.socket.local[1]))
    return MuxedConn(wire, local, remote or _multiaddr(wire.place), direction, kind, QuicSession(wire))


def _source(bound: str, place: Place) -> str:
    """Which of our addresses is used towards a place, where the socket is bound to all of them."""
    if bound not in ("0.0.0.0", "::"):
        return bound
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(place)  # sends nothing
        return str(probe.getsockname()[0])
    return bound
