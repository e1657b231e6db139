"""A raw peer over QUIC: a connection of the bare library with a socket of its own, which also sends any frames."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted
from cryptography import x509

from pyp2p.peer.address import components
from pyp2p.peer.keys import Identity
from pyp2p.testing import Sim
from tests.fuzz.quic import packet
from tests.hostile.arena import Arena
from tests.unit.security.tls_tools import ALICE, P256, certificate


class QuicAttacker:
    """A dialling end; `ended` holds why the victim ended it."""

    def __init__(self, sim: Sim, scene: Arena, host: str = "attacker", *, proven: bool = True, **more) -> None:
        self.sim = sim
        self.identity: Identity = ALICE
        address, port = components(scene.victim.addresses[0])[:2]
        self.victim = (address.value, int(port.value))
        self.socket = sim.net.host(host).bind_udp()
        configuration = QuicConfiguration(alpn_protocols=["libp2p"], is_client=True, verify_mode=0, **more)
        if proven:
            configuration.certificate = x509.load_der_x509_certificate(certificate(ALICE))
            configuration.private_key = P256
        self.core = QuicConnection(configuration=configuration)
        self.core.connect(self.victim, trio.current_time())
        self.done = trio.Event()
        self.over = trio.Event()
        self.ended: ConnectionTerminated | None = None
        self.answers = True  # to what the victim says

    async def run(self) -> None:
        """Send, hear, keep time."""
        while True:
            self.flush()
            timer = self.core.get_timer()
            datagrams: list[tuple[bytes, tuple[str, int]]] = []
            with trio.move_on_at(float("inf") if timer is None else timer):
                datagrams = await self.socket.receive_many()
            if not self.answers:
                continue
            now = trio.current_time()
            for data, place in datagrams:
                self.core.receive_datagram(data, place, now)
            if not datagrams and self.core.get_timer() is not None:
                self.core.handle_timer(now + 1e-6)
            while (event := self.core.next_event()) is not None:
                if isinstance(event, HandshakeCompleted):
                    self.done.set()
                if isinstance(event, ConnectionTerminated):
                    self.ended = event
                    self.over.set()

    def flush(self) -> None:
        for data, _ in self.core.datagrams_to_send(trio.current_time()):
            self.socket.send_to(data, self.victim)

    def say(self, *plain: bytes) -> None:
        """Packets of frames of any kind."""
        for frames in plain:
            self.socket.send_to(packet(self.core, frames), self.victim)


@asynccontextmanager
async def attacking(sim: Sim, scene: Arena, host: str = "attacker", **more) -> AsyncIterator[QuicAttacker]:
    """One that has shaken hands and is in use at the victim."""
    before = len(scene.victim.connections())
    attacker = QuicAttacker(sim, scene, host, **more)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attacker.run)
        with trio.fail_after(10):
            await attacker.done.wait()
            while len(scene.victim.connections()) <= before:
                await trio.sleep(0.01)
        yield attacker
        attacker.core.close()
        attacker.flush()
        nursery.cancel_scope.cancel()
    attacker.socket.close()
