"""Gossip by type through whole networks: judged before it goes on, across forks, and at the pace of its readers."""

import pytest
import trio

from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.topics import GOSSIP_TYPES, Topic
from pyp2p.errors import LocalProtocolError, NobodyListens
from pyp2p.pubsub.types import Verdict
from pyp2p.testing import Sim, simulated
from tests.beacon.support import SEEDS, beacon, chain, crowd, duo, knows, meet
from tests.switch.support import until

EXIT = "voluntary_exit"
PAYLOAD = bytes(112)


def payload(number: int) -> bytes:
    return number.to_bytes(112, "little")


class Reader:
    """Reads a type in the background and keeps what comes."""

    def __init__(self, net: BeaconNetwork, name: str = EXIT, subnet: int | None = None) -> None:
        self.net, self.name, self.subnet = net, name, subnet
        self.got: list = []

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with self.net.gossip.subscribe(self.name, self.subnet) as messages:
            task_status.started()
            async for message in messages:
                self.got.append(message)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.got]


def accept(message) -> Verdict:
    return Verdict.ACCEPT


def topic(net: BeaconNetwork, name: str = EXIT, subnet: int | None = None, epoch: int | None = None) -> str:
    digest = net.clock.period.digest if epoch is None else net.chain.at_epoch(epoch).digest
    return str(Topic(digest, GOSSIP_TYPES[name], subnet))


async def heard_of(net: BeaconNetwork, *others: BeaconNetwork, name: str = EXIT, subnet: int | None = None) -> None:
    """Until a network knows that the others are in a topic, and is in their meshes."""
    await until(lambda: all(other.peer in net.pubsub.peers(topic(net, name, subnet)) for other in others))
    await trio.sleep(2)


@pytest.mark.parametrize("how", ["at once", "awaited"])
@pytest.mark.parametrize("verdict", [*Verdict, None], ids=lambda verdict: "none" if verdict is None else verdict.name)
@simulated(SEEDS[:1])
async def test_only_what_is_accepted_is_read_and_forwarded(sim: Sim, verdict: Verdict | None, how: str) -> None:
    of = chain()
    async with (
        beacon(sim, "a", of) as a,
        beacon(sim, "middle", of) as middle,
        beacon(sim, "c", of) as c,
        trio.open_nursery() as nursery,
    ):
        judged = []

        async def slowly(message) -> Verdict:
            await trio.sleep(0.1)
            return judge(message)

        def judge(message) -> Verdict:
            judged.append(message)
            return verdict

        if verdict is not None:
            middle.gossip.validate(EXIT, slowly if how == "awaited" else judge)
        c.gossip.validate(EXIT, accept)
        readers = [Reader(middle), Reader(c)]
        await meet(a, middle)
        await meet(middle, c)
        for reader in readers:
            await nursery.start(reader.run)
        await heard_of(a, middle)
        await heard_of(middle, c)
        await a.gossip.publish(EXIT, PAYLOAD)
        await trio.sleep(10)
        wanted = [PAYLOAD] if verdict is Verdict.ACCEPT else []
        assert [reader.payloads for reader in readers] == [wanted, wanted]
        if verdict is not None:
            (message,) = judged
            assert (message.type, message.subnet, message.fork, message.source) == (EXIT, None, "altair", a.peer)
            assert (message.digest, message.topic) == (a.clock.period.digest, topic(a))
        assert (middle.pubsub.score(a.peer).total < 0) == (verdict is Verdict.REJECT)
        nursery.cancel_scope.cancel()


@simulated(SEEDS)
async def test_a_type_has_one_validator_and_one_that_exists(sim: Sim) -> None:
    async with beacon(sim, "a") as a:
        a.gossip.validate(EXIT, accept)
        with pytest.raises(ValueError, match="gossip voluntary_exit has a validator already"):
            a.gossip.validate(EXIT, accept)
        with pytest.raises(LocalProtocolError, match="is no type of gossip"):
            a.gossip.validate("voluntary_exits", accept)
        for name, subnet, words in (
            ("beacon_attestation", None, "needs a subnet from 0 to 63"),
            ("beacon_attestation", 64, "has subnets from 0 to 63, not 64"),
            ("beacon_block", 0, "has no subnets"),
        ):
            with pytest.raises(LocalProtocolError, match=words):
                async with a.gossip.subscribe(name, subnet):
                    pass
        assert not a.gossip.followed
        for name, size, subnet, words in (
            ("bls_to_execution_change", 172, None, "is not gossiped in altair"),
            (EXIT, 111, None, "has 112 to 112 bytes, not 111"),
            ("sync_committee", 144, 4, "has subnets from 0 to 3, not 4"),
            ("nothing", 1, None, "is no type of gossip"),
        ):
            with pytest.raises(LocalProtocolError, match=words):
                await a.gossip.publish(name, bytes(size), subnet)
        with pytest.raises(NobodyListens):
            await a.gossip.publish(EXIT, PAYLOAD)


@simulated(SEEDS)
async def test_a_validator_that_crashes_or_answers_nonsense_ignores(sim: Sim) -> None:
    async with crowd(sim, 3) as (a, broken, odd), trio.open_nursery() as nursery:

        def crash(message) -> Verdict:
            raise ZeroDivisionError

        broken.gossip.validate(EXIT, crash)
        odd.gossip.validate(EXIT, lambda message: "fine")
        readers = [Reader(broken), Reader(odd)]
        for reader in readers:
            await nursery.start(reader.run)
        await heard_of(a, broken, odd)
        await a.gossip.publish(EXIT, PAYLOAD)
        await trio.sleep(5)
        assert [reader.got for reader in readers] == [[], []]
        assert broken.pubsub.score(a.peer).total >= 0
        assert broken.pubsub.counters["validator failed", topic(a)] == 1
        nursery.cancel_scope.cancel()


@simulated(SEEDS)
async def test_subnets_are_apart_and_judged_by_one_validator(sim: Sim) -> None:
    async with duo(sim) as (a, b), trio.open_nursery() as nursery:
        seen = []

        def judge(message) -> Verdict:
            seen.append(message.subnet)
            return Verdict.ACCEPT

        b.gossip.validate("sync_committee", judge)
        readers = [Reader(b, "sync_committee", subnet) for subnet in (0, 3)]
        for reader in readers:
            await nursery.start(reader.run)
            await heard_of(a, b, name="sync_committee", subnet=reader.subnet)
        await a.gossip.publish("sync_committee", bytes(144), 3)
        await trio.sleep(3)
        assert [len(reader.got) for reader in readers] == [0, 1]
        assert seen == [3]
        nursery.cancel_scope.cancel()


@simulated(SEEDS)
async def test_the_last_reader_that_leaves_leaves_the_topic(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        async with b.gossip.subscribe(EXIT), b.gossip.subscribe(EXIT):
            await heard_of(a, b)
        await until(lambda: not a.pubsub.peers(topic(a)))
        async with b.gossip.subscribe(EXIT):
            pass
        async with b.gossip.subscribe(EXIT):  # again while it still ends
            await trio.sleep(0.1)  # no epoch begins meanwhile, which would look at what is read too
            assert topic(b) in b.pubsub.topics
            await heard_of(a, b)
        assert not b.gossip.followed
        await until(lambda: not b.pubsub.topics)


@simulated(SEEDS)
async def test_a_reader_that_is_slow_gets_everything_in_order(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        b.gossip.validate(EXIT, accept)
        async with b.gossip.subscribe(EXIT, capacity=1) as slow, b.gossip.subscribe(EXIT, capacity=500) as quick:
            await heard_of(a, b)
            for number in range(200):
                await a.gossip.publish(EXIT, payload(number))
            await trio.sleep(30)
            got = []
            with trio.move_on_after(10):
                async for message in slow:
                    got.append(message.payload)
            assert got == [payload(number) for number in range(200)]
            assert quick.statistics().current_buffer_used == 200
            assert b.stats().dropped == {}


@pytest.mark.hostile
@simulated(SEEDS[:1])
async def test_hostile_098_a_reader_that_never_reads_costs_its_own_news_and_they_are_counted(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        b.gossip.validate(EXIT, accept)
        async with b.gossip.subscribe(EXIT, capacity=1):
            await heard_of(a, b)
            for number in range(4500):
                await a.gossip.publish(EXIT, payload(number))
                if number % 100 == 0:
                    await trio.sleep(1)
            await trio.sleep(5)
            assert 300 < b.stats().dropped["gossip to readers"] < 500
            assert knows(a, b)


# --- forks: 16 slots of altair (epochs 0 and 1, ..), then bellatrix and so on, 4 epochs each of 16 s


@simulated(SEEDS)
async def test_a_fork_is_subscribed_to_two_epochs_ahead_and_left_two_epochs_after(sim: Sim) -> None:
    of = chain(epochs_per_fork=6)
    async with beacon(sim, "a", of) as a, a.gossip.subscribe(EXIT):
        await trio.sleep(0.1)
        seen = {}
        for epoch in range(15):
            await trio.sleep(max(0, a.clock.seconds_until(of.first_slot(epoch)) + 0.5))
            seen[epoch] = [of.by_digest(bytes.fromhex(each.split("/")[2])).fork for each in sorted_topics(a)]
        altair, bellatrix, capella = "altair", "bellatrix", "capella"
        assert [epoch for epoch, forks in seen.items() if altair in forks] == [0, 1, 2, 3, 4, 5, 6, 7]
        assert [epoch for epoch, forks in seen.items() if bellatrix in forks] == [*range(4, 14)]
        assert [epoch for epoch, forks in seen.items() if capella in forks] == [10, 11, 12, 13, 14]


def sorted_topics(net: BeaconNetwork) -> list[str]:
    return sorted(net.pubsub.topics)


@simulated(SEEDS)
async def test_messages_go_to_the_topic_of_now_and_not_a_slot_before_the_fork(sim: Sim) -> None:
    of = chain(epochs_per_fork=3)
    async with duo(sim, of) as (a, b), trio.open_nursery() as nursery:
        b.gossip.validate(EXIT, accept)
        reader = Reader(b)
        await nursery.start(reader.run)
        await heard_of(a, b)
        await trio.sleep(a.clock.seconds_until(of.first_slot(3)) - 1.0)
        await a.gossip.publish(EXIT, payload(1))
        await trio.sleep(1.1)
        await a.gossip.publish(EXIT, payload(2))
        await trio.sleep(1)
        assert [(each.fork, each.payload) for each in reader.got] == [
            ("altair", payload(1)),
            ("bellatrix", payload(2)),
        ]
        nursery.cancel_scope.cancel()


@simulated(SEEDS)
async def test_what_comes_before_its_fork_begins_is_ignored(sim: Sim) -> None:
    of = chain(epochs_per_fork=3)
    async with duo(sim, of) as (a, b), trio.open_nursery() as nursery:
        judged = []
        b.gossip.validate(EXIT, lambda message: judged.append(message) or Verdict.REJECT)
        reader = Reader(b)
        await nursery.start(reader.run)
        early = topic(a, epoch=3)
        await trio.sleep(a.clock.seconds_until(of.first_slot(2)))
        await until(lambda: b.peer in a.pubsub.peers(early))
        await a.pubsub.publish(early, PAYLOAD)
        await trio.sleep(3)
        assert not judged
        assert not reader.got
        assert b.pubsub.counters["ignored", early] == 1
        assert b.pubsub.score(a.peer).total >= 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["at once", "awaited", "too short"])
@simulated(SEEDS[:1])
async def test_nobody_is_punished_for_what_comes_on_topics_of_a_fork_that_has_ended(sim: Sim, how: str) -> None:
    of = chain(epochs_per_fork=3)
    async with duo(sim, of) as (a, b), trio.open_nursery() as nursery:
        judged = []

        def judge(message) -> Verdict:
            judged.append(message)
            return Verdict.REJECT

        async def slowly(message) -> Verdict:
            await trio.sleep(0.1)
            return judge(message)

        b.gossip.validate(EXIT, slowly if how == "awaited" else judge)
        await nursery.start(Reader(b).run)
        old = topic(a, epoch=0)
        await until(lambda: b.peer in a.pubsub.peers(old))
        said = payload(1)[:-1] if how == "too short" else payload(1)
        await trio.sleep(a.clock.seconds_until(of.first_slot(3)) + 1)
        await a.pubsub.publish(old, said)
        await trio.sleep(3)
        assert len(judged) == (0 if how == "too short" else 1)
        assert b.pubsub.counters["ignored", old] == 1
        assert b.pubsub.score(a.peer).total >= 0
        nursery.cancel_scope.cancel()


@pytest.mark.hostile
@simulated(SEEDS)
async def test_hostile_085_messages_that_are_too_short_are_rejected_before_anybody_looks(sim: Sim) -> None:
    async with duo(sim) as (a, b), trio.open_nursery() as nursery:
        b.gossip.validate(EXIT, lambda message: pytest.fail("it was asked"))
        await nursery.start(Reader(b).run)
        await heard_of(a, b)
        await a.pubsub.publish(topic(a), bytes(111))
        await trio.sleep(3)
        assert b.pubsub.counters["rejected", topic(a)] == 1
        assert b.pubsub.score(a.peer).total < 0
        nursery.cancel_scope.cancel()


@simulated(SEEDS)
async def test_a_type_that_a_fork_brings_or_ends_is_followed_while_it_lives(sim: Sim) -> None:
    of = chain(start="deneb", epochs_per_fork=3)  # deneb, electra, fulu
    async with (
        beacon(sim, "a", of) as a,
        a.gossip.subscribe("blob_sidecar", 7),
        a.gossip.subscribe("data_column_sidecar", 9),
    ):
        await trio.sleep(0.1)
        assert not a.pubsub.topics  # deneb has six blob subnets, and no columns
        await trio.sleep(a.clock.seconds_until(of.first_slot(1)) + 0.5)
        assert sorted_topics(a) == [topic(a, "blob_sidecar", 7, epoch=3)]
        await trio.sleep(a.clock.seconds_until(of.first_slot(4)) + 0.5)
        assert sorted_topics(a) == sorted(
            [topic(a, "blob_sidecar", 7, epoch=3), topic(a, "data_column_sidecar", 9, epoch=6)]
        )
        await trio.sleep(a.clock.seconds_until(of.first_slot(8)) + 0.5)
        assert sorted_topics(a) == sorted(
            [topic(a, "data_column_sidecar", 9, epoch=6), topic(a, "data_column_sidecar", 9, epoch=9)]
        )


@simulated(SEEDS)
async def test_accepted_messages_are_counted_for_each_topic(sim: Sim) -> None:
    async with duo(sim) as (a, b):
        b.gossip.validate(EXIT, accept)
        async with b.gossip.subscribe(EXIT):
            await heard_of(a, b)
            for number in range(3):
                await a.gossip.publish(EXIT, payload(number))
            await trio.sleep(3)
            (said,) = b.stats().topics
            assert (said.topic, said.messages, said.bytes, said.peers, said.mesh) == (topic(b), 3, 336, 0, 0)
        await until(lambda: not b.pubsub.topics)
        await trio.sleep(0.1)
        assert b.gossip.accepted == {}, "what is not read any more is forgotten"
