"""Where hostile datagrams are tried: a node of discv5, a bystander that keeps asking it, and the oracle of every case.

The oracle: the bystander is answered all the time; nobody who has not proven himself was sent more than he sent; what
the victim holds is within its bounds, and its requests are over soon after; nothing is logged at WARNING or above.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import trio

from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.service import Discv5, open_discv5
from pyp2p.errors import DiscoveryError
from pyp2p.testing import Sim
from tests.discv5.support import PORT, identity, until
from tests.hostile.arena import FEW_LINES, Records
from tests.unit.discv5.script import Datagram, Stranger

VICTIM, BYSTANDER = ("50.0.1.1", PORT), ("50.0.2.1", PORT)
IPS = [f"60.{number // 256}.{number % 256}.1" for number in range(300)]  # of the attacker, each in a /24 of its own


class Tap:
    """The victim's socket, which counts bytes by endpoint."""

    def __init__(self, real) -> None:
        self.real = real
        self.local = real.local
        self.dropped = 0
        self.sent: Counter[tuple[str, int]] = Counter()
        self.received: Counter[tuple[str, int]] = Counter()

    def send_to(self, data: bytes, to: tuple[str, int]) -> bool:
        self.sent[to] += len(data)
        return self.real.send_to(data, to)

    async def receive_many(self):
        found = await self.real.receive_many()
        for data, sender in found:
            self.received[sender] += len(data)
        return found

    def close(self) -> None:
        self.real.close()


class Foe(Stranger):
    """One who speaks the protocol by hand from one of the attacker's addresses."""

    def __init__(self, scene: "Scene", name: str, ip: str, pairs: dict | None = None) -> None:
        record = scene.victim.record
        super().__init__(None, SimpleNamespace(id=record.node_id, record=record), name, ip, PORT, pairs)
        self.scene = scene
        self.socket = scene.attacker.bind_udp(ip, PORT)

    def say(self, data: bytes, sender: Endpoint | None = None) -> list[Datagram]:
        at = sender or self.endpoint
        self.scene.send(data, (at.ip, at.port))
        return []

    async def heard_until(self, seconds: float = 0.1) -> list[Datagram]:
        """What came to us within so many seconds."""
        await trio.sleep(seconds)
        found = [Datagram(data, Endpoint(*sender), self.endpoint) for data, sender in self.socket._queue]
        self.socket._queue.clear()
        return found

    async def challenge(self) -> bytes:
        """The WHOAREYOU for a packet of ours."""
        self.say(self.random())
        (challenge,) = [each.data for each in await self.heard_until() if len(each.data) == 63]
        return challenge

    async def meet(self, message) -> list:
        """A session; returns the messages that the victim sent then."""
        self.say(self.answer(await self.challenge(), message))
        return self.heard(await self.heard_until())


class Scene:
    """The victim with its bystander."""

    def __init__(self, sim: Sim, victim: Discv5, bystander: Discv5, tap: Tap) -> None:
        self.sim = sim
        self.victim = victim
        self.node = victim._node
        self.bystander = bystander
        self.tap = tap
        self.attacker = sim.net.host("attacker", *IPS)
        self.answered = 0
        self.failures: list[DiscoveryError] = []
        self.proven: set[tuple[str, int]] = {BYSTANDER}  # who may be sent more than he sent

    @property
    def count(self) -> Counter[str]:
        return self.victim.counters

    def send(self, data: bytes, sender: tuple[str, int]) -> None:
        """A datagram to the victim that says it is from there."""
        self.sim.net.carry_datagram(self.attacker, data, sender, VICTIM)

    async def flood(self, datagrams, per_second: int, burst: int = 0) -> None:
        """(data, sender) each, evenly over virtual time, so many at once."""
        burst = burst or max(per_second // 20, 1)
        for number, (data, sender) in enumerate(datagrams):
            self.send(data, sender)
            if number % burst == burst - 1:
                await trio.sleep(burst / per_second)
        await trio.sleep(0.2)

    async def keep_asking(self) -> None:
        while True:
            try:
                await self.bystander.ping(self.victim.record)
                self.answered += 1
            except DiscoveryError as error:
                self.failures.append(error)
            await trio.sleep(0.1)

    def check_bounds(self) -> None:
        config = self.node.config
        assert len(self.node._sessions) <= config.max_sessions
        assert len(self.node._handshakes) <= config.max_challenges
        assert len(self.node._calls) <= config.max_requests
        assert len(self.node._talks) <= config.max_talks
        assert len(self.node.counters) < 60
        for endpoint, sent in self.tap.sent.items():
            if endpoint not in self.proven:
                assert sent <= self.tap.received[endpoint], endpoint


@asynccontextmanager
async def scene(sim: Sim, patient: bool = False, **options) -> AsyncIterator[Scene]:
    """A victim and a bystander; on leaving, the whole oracle. `patient`: the bystander may miss a few answers."""
    records = Records()
    logger = logging.getLogger("pyp2p")
    logger.addHandler(records)
    host, other = sim.net.host("victim", VICTIM[0]), sim.net.host("bystander", BYSTANDER[0])
    tap = Tap(host.bind_udp(*VICTIM))
    try:
        async with (
            open_discv5(
                identity("victim"), listen=[VICTIM], platform=sim.platform("v"), bind=lambda *_: tap, **options
            ) as victim,
            open_discv5(
                identity("bystander"), listen=[BYSTANDER], platform=sim.platform("b"), bind=other.bind_udp
            ) as bystander,
            trio.open_nursery() as nursery,
        ):
            here = Scene(sim, victim, bystander, tap)
            nursery.start_soon(here.keep_asking)
            await until(lambda: here.answered)
            yield here
            here.check_bounds()
            before = here.answered
            await until(lambda: here.answered >= before + 3, 5)
            if not patient:
                assert not here.failures
            assert bystander.record in victim.nodes()
            await until(lambda: len(here.node._calls) == 0, 30)
            here.node._look_after(trio.current_time() + 10)
            assert len(here.node._handshakes) == 0 and not len(here.node._talks)
            nursery.cancel_scope.cancel()
    finally:
        logger.removeHandler(records)
    assert not [record for record in records.records if record.levelno >= logging.WARNING]
    assert len([record for record in records.records if record.levelno >= logging.INFO]) <= FEW_LINES
