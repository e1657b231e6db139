"""Gossip of the beacon chain: types of messages in place of topics, across forks.

Rules: a reader names a type (and a subnet); which topics that means follows from the clock: those of the digests of two
epochs before to two epochs after now, so a fork is subscribed to ahead and left two epochs behind. What we publish goes
to the digest of now. The application judges each message before it is delivered or forwarded; where it does not,
nothing is. Consensus-specs, phase0/p2p-interface.md and fork transition sections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from pyp2p.beacon.chain import Chain, ForkPeriod
from pyp2p.beacon.scoring import topic_score
from pyp2p.beacon.topics import GossipType, Topic, gossip_type, parse_topic
from pyp2p.errors import LocalProtocolError
from pyp2p.peer.id import PeerId
from pyp2p.pubsub.ids import MessageIdFunction, eth2_altair_message_id, eth2_phase0_message_id
from pyp2p.pubsub.publication import Published
from pyp2p.pubsub.service import Pubsub
from pyp2p.pubsub.types import Message, Verdict

AHEAD, BEHIND = 2, 2  # epochs that topics of a fork are subscribed to before it begins, and after it ended


@dataclass(frozen=True, slots=True)
class GossipMessage:
    """A message of the beacon chain: SSZ bytes of `fork`, and who sent it to us (None: we)."""

    type: str
    subnet: int | None
    fork: str
    digest: bytes
    payload: bytes
    topic: str
    source: PeerId | None


GossipValidator = Callable[[GossipMessage], Verdict | Awaitable[Verdict]]
_Key = tuple[str, int | None]  # type and subnet


def live_periods(chain: Chain, epoch: int) -> list[ForkPeriod]:
    """Those whose topics are subscribed to in `epoch`, the oldest first."""
    first, last = max(0, epoch - BEHIND), epoch + AHEAD
    return [period for period in chain.schedule if period.epoch <= last and first < period.end]


class Gossip:
    """Validators, readers and publication by type; made by `BeaconNetwork`."""

    def __init__(self, pubsub: Pubsub, chain: Chain, epoch: Callable[[], int], nursery: trio.Nursery) -> None:
        self._pubsub = pubsub
        self._chain = chain
        self._epoch = epoch
        self._nursery = nursery
        self._validators: dict[str, GossipValidator] = {}
        self._followed: dict[_Key, list[trio.MemorySendChannel[GossipMessage]]] = {}
        self._reading: dict[Topic, trio.CancelScope] = {}
        self.on_change: Callable[[], None] = lambda: None  # called when another type or subnet is read
        self.accepted: dict[str, tuple[int, int]] = {}  # messages and bytes by topic, of those that we follow

    def validate(self, name: str, validator: GossipValidator) -> None:
        """Ask `validator(message)` about every message of a type, all subnets; it returns a `Verdict` or awaits one.

        Without one, messages of the type are ignored: neither delivered nor forwarded. Raises `LocalProtocolError` for
        a type that does not exist, `ValueError` for a second validator.
        """
        gossip_type(name)
        if not callable(validator):
            raise TypeError(f"a validator of {name} is a function of a message, not {validator!r}")
        if name in self._validators:
            raise ValueError(f"gossip {name} has a validator already")
        self._validators[name] = validator

    @asynccontextmanager
    async def subscribe(
        self, name: str, subnet: int | None = None, *, capacity: int = 64
    ) -> AsyncIterator[trio.MemoryReceiveChannel[GossipMessage]]:
        """Read what is accepted of a type for the length of the block: `async for message in messages`.

        One who does not read holds up the other readers of the same, and when some 4,096 messages wait, the newest are
        missed and counted (`dropped` in the statistics). Raises `LocalProtocolError` for a type that does not exist,
        or a subnet that it has not, or lacks.
        """
        kind = gossip_type(name)
        _check_subnet(kind, subnet, kind.subnets)
        send, receive = trio.open_memory_channel[GossipMessage](capacity)
        self._followed.setdefault((name, subnet), []).append(send)
        self._compare()
        self.on_change()
        try:
            async with send, receive:
                yield receive
        finally:
            readers = self._followed[name, subnet]
            readers.remove(send)
            if not readers:
                del self._followed[name, subnet]
                self._compare()
                self.on_change()

    async def publish(self, name: str, payload: bytes, subnet: int | None = None) -> Published:
        """Publish SSZ bytes on the topic of the current fork digest; see `Pubsub.publish` for who took it.

        Raises `LocalProtocolError` for a type that the fork of now has not, a wrong subnet or size.
        """
        kind, epoch = gossip_type(name), self._epoch()
        period = self._chain.at_epoch(epoch)
        if not kind.lives(period.fork):
            raise LocalProtocolError(f"{name} is not gossiped in {period.fork}")
        _check_subnet(kind, subnet, kind.subnet_count(period))
        if not kind.least <= len(payload) <= kind.most:
            raise LocalProtocolError(f"a {name} has {kind.least} to {kind.most} bytes, not {len(payload)}")
        return await self._pubsub.publish(str(Topic(period.digest, kind, subnet)), payload)

    def epoch_began(self) -> None:
        """Subscribe to what lives now and leave what does no longer."""
        self._compare()

    @property
    def followed(self) -> list[tuple[str, int | None]]:
        """The types and subnets that are read."""
        return list(self._followed)

    def _compare(self) -> None:
        periods = live_periods(self._chain, self._epoch())
        live = dict.fromkeys(topic for key in self._followed for topic in self._topics(key, periods))
        for topic, scope in self._reading.items():
            if topic not in live:
                scope.cancel()
        for topic in live:
            if topic not in self._reading:
                self._reading[topic] = scope = trio.CancelScope()
                self._nursery.start_soon(self._read, topic, scope)

    def _topics(self, key: _Key, periods: list[ForkPeriod]) -> Iterator[Topic]:
        name, subnet = key
        kind = gossip_type(name)
        for period in periods:
            if kind.lives(period.fork) and (subnet is None or subnet < kind.subnet_count(period)):
                yield Topic(period.digest, kind, subnet)

    async def _read(self, topic: Topic, scope: trio.CancelScope) -> None:
        name, period = str(topic), self._chain.by_digest(topic.digest)
        fork = "" if period is None else period.fork

        def told(message: Message) -> GossipMessage:
            kind, digest = topic.type.name, topic.digest
            return GossipMessage(kind, topic.subnet, fork, digest, message.payload, name, message.source)

        with scope:
            self._pubsub.set_topic_score(name, topic_score(topic))
            self._pubsub.add_validator(name, lambda message: self._judge(told(message), topic))
            try:
                async with self._pubsub.subscribe(name) as messages:
                    async for message in messages:
                        count, size = self.accepted.get(name, (0, 0))
                        self.accepted[name] = count + 1, size + len(message.payload)
                        for reader in list(self._followed.get((topic.type.name, topic.subnet), ())):
                            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it leaves just now
                                await reader.send(told(message))
            finally:
                self._pubsub.remove_validator(name)
        del self._reading[topic]
        self.accepted.pop(name, None)
        if scope.cancelled_caught:
            self._compare()  # somebody may have begun to follow it again while it ended

    def _judge(self, message: GossipMessage, topic: Topic) -> Verdict | Awaitable[Verdict]:
        validator = self._validators.get(message.type)
        if validator is None:
            return Verdict.IGNORE
        epoch = self._epoch()
        period = self._chain.by_digest(message.digest)
        if period is None or epoch < period.epoch:
            return Verdict.IGNORE  # the fork has not begun
        short = len(message.payload) < topic.type.least  # above `most` it was not unpacked
        verdict: Verdict | Awaitable[Verdict] = Verdict.REJECT if short else validator(message)
        if epoch < period.end:
            return verdict
        return _forgiving(verdict) if isinstance(verdict, Awaitable) else _forgiven(verdict)


def _forgiven(verdict: Verdict) -> Verdict:
    """Nobody is punished for what comes on the topics of a fork that has ended."""
    return Verdict.IGNORE if verdict is Verdict.REJECT else verdict


async def _forgiving(verdict: Awaitable[Verdict]) -> Verdict:
    return _forgiven(await verdict)


def _check_subnet(kind: GossipType, subnet: int | None, count: int) -> None:
    if (subnet is None) == bool(kind.subnets):
        wanted = f"needs a subnet from 0 to {count - 1}" if kind.subnets else "has no subnets"
        raise LocalProtocolError(f"{kind.name} {wanted}")
    if subnet is not None and (type(subnet) is not int or not 0 <= subnet < count):
        raise LocalProtocolError(f"{kind.name} has subnets from 0 to {count - 1}, not {subnet!r}")


def topic_filter(chain: Chain) -> Callable[[str], bool]:
    """Allow the topics of all types in all forks of the chain, those to come too: peers name them only once."""

    def allows(topic: str) -> bool:
        parsed = parse_topic(topic)
        return parsed is not None and chain.by_digest(parsed.digest) is not None

    return allows


def message_ids(chain: Chain) -> MessageIdFunction:
    """Message ids as each topic's fork wants them."""
    old = tuple(f"/eth2/{each.digest.hex()}/" for each in chain.schedule if each.fork == "phase0")

    def message_id(message: Message, valid: bool = True) -> bytes:
        form = eth2_phase0_message_id if message.topic.startswith(old) else eth2_altair_message_id
        return form(message, valid)

    return message_id
