"""What beacon nodes ask of each other whatever they are for: status, ping, metadata, goodbye; both sides.

Rules: these are served before admission, since admission waits for them: who dialled asks for the status, who was
dialled waits to be asked. Afterwards pings and statuses are kept fresh for as long as the connection lives, and a ping
with a new number brings new metadata. Consensus-specs, p2p-interface, "Req/Resp domain".
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import trio

from pyp2p.beacon.chain import FORKS, Chain
from pyp2p.beacon.containers import (
    GoodbyeReason,
    MetaDataV1,
    MetaDataV2,
    MetaDataV3,
    StatusV1,
    StatusV2,
)
from pyp2p.beacon.handshakes import NotWelcome
from pyp2p.beacon.methods import Methods
from pyp2p.errors import AdmissionRefused, NotSpoken, RequestFailed, RequestNotSendable
from pyp2p.peer.id import PeerId
from pyp2p.reqresp.declare import Method
from pyp2p.reqresp.service import ReqResp
from pyp2p.switch.connection import Connection
from pyp2p.switch.facts import CloseReason
from pyp2p.switch.stream import Carrier

logger = logging.getLogger("pyp2p.beacon")

PING_INTERVAL = 15.0  # seconds; clients ping every 15 to 20
STATUS_INTERVAL = 300.0  # seconds: what a peer has moves on
_GOODBYE_SECONDS = 0.5  # for a goodbye to be read, before the connection is closed


class Us(Protocol):
    """What the node says of itself, and wants to hear."""

    def slot(self) -> int:
        """The slot of now."""
        ...

    def status(self) -> StatusV2:
        """What we take for the chain."""
        ...

    def metadata(self) -> MetaDataV3:
        """What we are subscribed to."""
        ...

    def irrelevant(self, theirs: StatusV1) -> str | None:
        """Why a peer with this status is of no use."""
        ...

    def told(self, peer: PeerId, facts: PeerFacts) -> None:
        """A peer that is admitted said something new."""
        ...

    def ping_failed(self, peer: PeerId) -> None:
        """A ping was not answered."""
        ...

    def unwanted(self, peer: PeerId, code: GoodbyeReason, reason: str) -> None:
        """The peer turned out to be of no use: it should go."""
        ...

    def left(self, peer: PeerId, code: int) -> None:
        """The peer said goodbye, perhaps before it was admitted."""
        ...


@dataclass(slots=True)
class PeerFacts:
    """What a peer said of itself on one connection. `goodbye` is the code of its goodbye, `round_trip` in seconds."""

    status: StatusV1 | None = None
    metadata: MetaDataV1 | None = None
    round_trip: float | None = None
    goodbye: int | None = None
    sent_away: CloseReason | None = None  # why we told it to go
    asked: trio.Event = field(default_factory=trio.Event)  # for our status
    newer: trio.Event = field(default_factory=trio.Event)  # metadata than we have: a ping said so
    again: trio.Event = field(default_factory=trio.Event)  # its status is to be asked for now

    def update(self, newer: PeerFacts) -> None:
        """Take over what the peer said on another connection."""
        self.status = newer.status or self.status
        self.metadata = newer.metadata or self.metadata
        self.round_trip = self.round_trip if newer.round_trip is None else newer.round_trip


class Exchange:
    """Status, ping, metadata and goodbye over one switch; `facts` of each connection while it lives."""

    def __init__(self, reqresp: ReqResp, methods: Methods, chain: Chain, us: Us) -> None:
        self._reqresp = reqresp
        self._methods = methods
        self._chain = chain
        self._us = us
        self._facts: WeakKeyDictionary[Carrier, PeerFacts] = WeakKeyDictionary()
        for method, handler in (
            (methods.status_v1, self._status),
            (methods.status_v2, self._status),
            (methods.ping, self._ping),
            (methods.metadata_v1, self._metadata_v1),
            (methods.metadata_v2, self._metadata_v2),
            (methods.metadata_v3, self._metadata_v3),
            (methods.goodbye, self._goodbye),
        ):
            reqresp.serve(method, handler)

    def facts(self, connection: Carrier) -> PeerFacts:
        """What the peer said on this connection so far."""
        found = self._facts.get(connection)
        if found is None:
            found = self._facts[connection] = PeerFacts()
        return found

    # --- what we ask

    async def greet(self, connection: Connection) -> None:
        """The first handshake: learn the peer's status and judge it. Raises `NotWelcome` for an irrelevant peer.

        Raises `RequestFailed` when it does not answer, `AdmissionRefused` when it says goodbye. An inbound peer is
        waited for; the caller holds the deadline.
        """
        facts = self.facts(connection)
        if connection.direction.outbound:
            facts.status = await self._ask_status(connection)
            facts.asked.set()  # what it says from now on is news
        else:
            await facts.asked.wait()
        if facts.status is not None:  # which says more than that it left, as whoever judges first does
            self._check(facts.status)
        if facts.goodbye is not None:
            raise AdmissionRefused(parting(facts.goodbye))

    async def keep_fresh(self, connection: Connection) -> None:
        """Ask for metadata, then ping and ask for the status now and then, for as long as the connection lives."""
        facts = self.facts(connection)
        if facts.goodbye is not None:  # while later handshakes went on
            self._us.unwanted(connection.peer, GoodbyeReason.CLIENT_SHUTDOWN, parting(facts.goodbye))
        elif facts.status is not None:
            self._judge(connection, facts.status)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_metadata, connection)
            nursery.start_soon(self._keep_status, connection)
            await self._keep_pinging(connection)

    def ask_again(self) -> None:
        """Learn everybody's status anew: the chain has changed."""
        for facts in self._facts.values():
            facts.again.set()

    async def say_goodbye(self, connection: Connection, code: int) -> None:
        """Tell the peer why we leave; a peer that does not listen is not waited for."""
        with trio.move_on_after(_GOODBYE_SECONDS):
            try:
                async with await self._reqresp.request(connection, self._methods.goodbye, code) as answer:
                    async for _ in answer:
                        pass
            except RequestFailed as error:
                logger.debug("goodbye not heard peer=%s error=%s", connection.peer, error)

    async def _ask_status(self, connection: Connection) -> StatusV1:
        ours = self._us.status()
        tries: list[tuple[Method[Any, Any], StatusV1]] = [(self._methods.status_v1, ours.v1())]
        tries.insert(0 if self._since("fulu") else 1, (self._methods.status_v2, ours))
        status: StatusV1 = await self._first_spoken(connection, tries)
        return status

    async def _ask_metadata(self, connection: Connection) -> MetaDataV1:
        methods = self._methods
        newest_first = [methods.metadata_v3, methods.metadata_v2, methods.metadata_v1]
        skipped = 0 if self._since("fulu") else 1 if self._since("altair") else 2
        order = newest_first[skipped:] + newest_first[:skipped]
        metadata: MetaDataV1 = await self._first_spoken(connection, [(method, None) for method in order])
        return metadata

    async def _first_spoken(self, connection: Connection, tries: list[tuple[Method[Any, Any], Any]]) -> Any:
        """The answer to the first of these that the peer speaks."""
        for method, request in tries[:-1]:
            try:
                return await self._reqresp.ask(connection, method, request)
            except NotSpoken:
                continue
        method, request = tries[-1]
        return await self._reqresp.ask(connection, method, request)

    def _since(self, fork: str) -> bool:
        epoch = max(0, self._chain.epoch_of(self._us.slot()))
        return FORKS.index(self._chain.at_epoch(epoch).fork) >= FORKS.index(fork)

    async def _keep_pinging(self, connection: Connection) -> None:
        facts = self.facts(connection)
        while True:
            await trio.sleep(PING_INTERVAL)
            before = trio.current_time()
            try:
                seq = await self._reqresp.ask(connection, self._methods.ping, self._us.metadata().seq_number)
            except RequestNotSendable:
                continue  # our own doing
            except RequestFailed:
                if not connection.is_open:
                    return
                self._us.ping_failed(connection.peer)
                continue
            facts.round_trip = trio.current_time() - before
            self._heard_seq(facts, seq)
            self._us.told(connection.peer, facts)

    async def _keep_metadata(self, connection: Connection) -> None:
        facts = self.facts(connection)
        while True:
            facts.newer = trio.Event()
            try:
                facts.metadata = await self._ask_metadata(connection)
            except RequestFailed as error:
                logger.debug("no metadata peer=%s error=%s", connection.peer, error)
            else:
                self._us.told(connection.peer, facts)
            await facts.newer.wait()

    async def _keep_status(self, connection: Connection) -> None:
        facts = self.facts(connection)
        while True:
            with trio.move_on_after(STATUS_INTERVAL):
                await facts.again.wait()
            facts.again = trio.Event()
            try:
                facts.status = await self._ask_status(connection)
            except RequestFailed as error:
                logger.debug("no status peer=%s error=%s", connection.peer, error)
            else:
                self._judge(connection, facts.status)

    # --- what we are asked

    async def _status(self, connection: Carrier, theirs: StatusV1) -> AsyncGenerator[StatusV1, None]:
        facts = self.facts(connection)
        facts.status = theirs
        ours = self._us.status()
        try:
            yield ours if isinstance(theirs, StatusV2) else ours.v1()
        finally:  # once it has our answer, whatever becomes of it
            if facts.asked.is_set():
                self._judge(connection, theirs)
            facts.asked.set()

    async def _ping(self, connection: Carrier, seq: int) -> AsyncGenerator[int, None]:
        self._heard_seq(self.facts(connection), seq)
        yield self._us.metadata().seq_number

    async def _metadata_v1(self, connection: Carrier, request: None) -> AsyncGenerator[MetaDataV1, None]:
        ours = self._us.metadata()
        yield MetaDataV1(ours.seq_number, ours.attnets)

    async def _metadata_v2(self, connection: Carrier, request: None) -> AsyncGenerator[MetaDataV2, None]:
        ours = self._us.metadata()
        yield MetaDataV2(ours.seq_number, ours.attnets, ours.syncnets)

    async def _metadata_v3(self, connection: Carrier, request: None) -> AsyncGenerator[MetaDataV3, None]:
        yield self._us.metadata()

    async def _goodbye(self, connection: Carrier, code: int) -> AsyncGenerator[int, None]:
        facts = self.facts(connection)
        facts.goodbye = code
        facts.asked.set()  # it will not ask any more
        self._us.left(connection.peer, code)
        no_answer: tuple[int, ...] = ()  # one is allowed, and of no use to who leaves
        for each in no_answer:
            yield each

    # --- judgement

    def _heard_seq(self, facts: PeerFacts, seq: int) -> None:
        if facts.metadata is None or seq > facts.metadata.seq_number:
            facts.newer.set()

    def _check(self, theirs: StatusV1) -> None:
        why = self._us.irrelevant(theirs)
        if why is not None:
            raise NotWelcome(why, GoodbyeReason.IRRELEVANT_NETWORK)

    def _judge(self, connection: Carrier, theirs: StatusV1) -> None:
        """A status of a peer that was admitted."""
        why = self._us.irrelevant(theirs)
        if why is None:
            self._us.told(connection.peer, self.facts(connection))
        else:
            self._us.unwanted(connection.peer, GoodbyeReason.IRRELEVANT_NETWORK, why)


def parting(code: int) -> str:
    """What a peer's goodbye is as a reason, for people."""
    return f"it said goodbye: {goodbye_text(code)}"


def goodbye_text(code: int) -> str:
    """A code for people."""
    try:
        return GoodbyeReason(code).name.lower().replace("_", " ")
    except ValueError:
        return f"code {code}"
