"""Control messages that ask for too much or break the rules: cases 64 to 68."""

import pytest
import trio

from pyp2p.io.varint import encode
from pyp2p.peer.keys import Identity
from pyp2p.peer.record import PeerRecord, seal
from pyp2p.pubsub.ids import eth2_phase0_message_id
from pyp2p.pubsub.params import GossipParams, ScoreParams, Thresholds, TopicScoreParams
from pyp2p.pubsub.signing import StrictNoSign
from pyp2p.pubsub.types import Prune
from pyp2p.pubsub.wire import (
    graft_fragment,
    idontwant_fragments,
    iwant_fragments,
    prune_fragment,
)
from pyp2p.testing import Sim, simulated
from tests.hostile.gossip import Gossip, control, field, gossip
from tests.pubsub.support import TOPIC
from tests.switch.support import until

pytestmark = pytest.mark.hostile

GRAFT = graft_fragment(TOPIC)
LENIENT = Thresholds(gossip=-1e6, publish=-2e6, graylist=-3e6)  # so that each rule is seen alone


def ids(count: int, start: int = 0, size: int = 20) -> list[bytes]:
    return [number.to_bytes(size, "big") for number in range(start, start + count)]


def ihave(some: list[bytes]) -> bytes:
    """One IHAVE, however large."""
    return control(field(1, field(1, TOPIC.encode()) + b"".join(field(2, each) for each in some)))


def grafts_heard(talk: Gossip) -> int:
    return sum(rpc.graft.count(TOPIC) for rpc in talk.attacker.heard)


def prunes_heard(talk: Gossip) -> int:
    return sum(prune.topic == TOPIC for rpc in talk.attacker.heard for prune in rpc.prune)


async def in_mesh(talk: Gossip) -> None:
    await until(lambda: talk.attacker.peer in talk.victim.mesh(TOPIC))


# ---- 64


@pytest.mark.parametrize(
    "rpc",
    [
        ihave(ids(50_000, size=2)),
        ihave(ids(5001)),
        ihave([b""]),
        ihave([bytes(1024 * 1024)]),
        ihave([bytes(1025)]),
        control(field(2, b"".join(field(1, each) for each in ids(5001)))),
        control(field(5, b"".join(field(1, each) for each in ids(5001)))),
        control(field(1, b"") * 1001),
        control(field(5, b"") * 1001),
    ],
    ids=[
        *("IHAVE of 50,000", "IHAVE of 5,001", "an id of 0 bytes", "an id of 1 MiB", "an id of 1,025 bytes"),
        *("IWANT of 5,001", "IDONTWANT of 5,001", "1,001 IHAVE", "1,001 IDONTWANT"),
    ],
)
@simulated(seeds=(1,))
async def test_hostile_064_more_than_an_rpc_may_hold_costs_the_stream(sim: Sim, rpc: bytes) -> None:
    async with gossip(sim) as talk:
        await talk.costs_the_stream(rpc)
        assert not talk.victim.gauges()["open promises", ""]


@simulated(seeds=(1,))
async def test_hostile_064_of_many_ihave_a_few_are_heeded_and_broken_promises_count(sim: Sim) -> None:
    async with gossip(sim, thresholds=LENIENT) as talk:
        await trio.sleep_until(int(trio.current_time()) + 1.5)  # between two heartbeats
        await talk.say(*(ihave(ids(1000, 1000 * number)) for number in range(100)))
        await talk.taken()
        await until(lambda: sum(len(rpc.iwant) for rpc in talk.attacker.heard) >= 5000)
        assert talk.counters["too many ihave", ""] >= 80
        asked = [each for rpc in talk.attacker.heard for each in rpc.iwant]
        assert len(asked) == len(set(asked))
        assert len(asked) <= 2 * 5000  # of two heartbeats at most
        assert 5 <= talk.victim.gauges()["open promises", ""] <= 20
        await until(lambda: talk.counters["promise broken", TOPIC] >= 5)
        assert talk.score.p7 >= 20


@simulated(seeds=(1,))
async def test_hostile_064_ids_of_another_length_are_no_ids_where_all_have_one(sim: Sim) -> None:
    params = GossipParams(message_id_bytes=20)
    unsigned = {"policy": StrictNoSign(), "message_id": eth2_phase0_message_id}
    async with gossip(sim, params=params, thresholds=LENIENT, **unsigned) as talk:
        for size in (19, 21):
            before = talk.score.p7
            await talk.say(ihave(ids(5, size=size)), *idontwant_fragments(ids(5, size=size)))
            await talk.taken()
            assert talk.score.p7 > before
        assert talk.counters["malformed", ""] == 4
        assert not any(rpc.iwant for rpc in talk.attacker.heard)
        assert talk.attacker.peer not in talk.victim._router._unwanted._peers or not any(
            talk.victim._router._unwanted._peers[talk.attacker.peer].beats
        )


@simulated(seeds=(1,))
async def test_hostile_064_one_message_is_sent_again_three_times_and_what_never_was_not_at_all(sim: Sim) -> None:
    async with gossip(sim) as talk:
        outcome = await talk.victim.publish(TOPIC, b"x" * 500)
        await until(lambda: len(talk.attacker.got()) == 1)
        wanted = iwant_fragments([outcome.message.id])[0]
        for _ in range(1000):
            await talk.say(wanted)
        await talk.say(*iwant_fragments(ids(5000, 10**9)))
        await talk.taken()
        await trio.sleep(0.5)
        assert len(talk.attacker.got()) <= 1 + 3
        assert talk.counters["retransmissions refused", TOPIC] >= 997


@simulated(seeds=(1,))
async def test_hostile_064_a_flood_of_idontwant_is_remembered_up_to_a_bound(sim: Sim) -> None:
    async with gossip(sim) as talk:
        for number in range(100):
            await talk.say(*idontwant_fragments(ids(100, 100 * number)))
        await talk.taken()
        has = talk.victim._router._unwanted._peers[talk.attacker.peer]
        assert sum(map(len, has.beats)) <= 3 * 1000
        assert talk.counters["too many idontwant", ""] > 0
        await trio.sleep(5)
        assert talk.attacker.peer not in talk.victim._router._unwanted._peers


# ---- 65


@simulated(seeds=(1,))
async def test_hostile_065_grafts_of_unknown_topics_are_not_answered(sim: Sim) -> None:
    async with gossip(sim) as talk:
        before = len(talk.victim._router.mesh.backoffs)
        for _ in range(10):
            await talk.say(control(b"".join(field(3, field(1, b"%d" % number)) for number in range(1000))))
        await talk.taken()
        assert talk.counters["graft of unknown topic", ""] == 10_000
        assert not any(rpc.prune for rpc in talk.attacker.heard)
        assert len(talk.victim._router.mesh.backoffs) == before


@simulated(seeds=(1,))
async def test_hostile_065_ten_thousand_grafts_in_one_rpc_cost_the_stream(sim: Sim) -> None:
    async with gossip(sim) as talk:
        await talk.costs_the_stream(control(b"".join(field(3, field(1, b"%d" % n)) for n in range(10_000))))


@simulated(seeds=(1,))
async def test_hostile_065_a_graft_in_backoff_is_pruned_and_punished_and_waits_anew(sim: Sim) -> None:
    async with gossip(sim) as talk:
        await in_mesh(talk)
        await talk.say(prune_fragment(Prune(TOPIC, [], 60)))
        await until(lambda: talk.attacker.peer not in talk.victim.mesh(TOPIC))
        await trio.sleep(20)
        await talk.say(GRAFT)
        await until(lambda: prunes_heard(talk) == 1)
        assert talk.score.p7 > 0
        assert talk.attacker.peer not in talk.victim.mesh(TOPIC)
        until_when = talk.victim._router.mesh.backoffs.until(TOPIC, talk.attacker.peer)
        assert until_when == pytest.approx(trio.current_time() + 60, abs=1)


@simulated(seeds=(1,))
async def test_hostile_065_grafting_and_pruning_in_turns_ends_below_zero_and_outside(sim: Sim) -> None:
    async with gossip(sim, thresholds=LENIENT) as talk:
        await in_mesh(talk)
        for _ in range(50):
            await talk.say(prune_fragment(Prune(TOPIC, [], 1)), GRAFT)
        await talk.taken()
        assert talk.attacker.peer not in talk.victim.mesh(TOPIC)
        assert talk.score.p7 >= 50**2
        assert talk.score.total < 0


@simulated(seeds=(1,))
async def test_hostile_065_who_makes_us_answer_and_does_not_read_is_put_out_once(sim: Sim) -> None:
    """Control is never dropped: the answers fill the window and twice the queue, and no more."""
    topic = "long " * 200
    rpc = control(field(3, field(1, topic.encode())) * 100)
    params = GossipParams(queue_bytes=200_000)
    async with (
        gossip(sim, deaf=True, params=params, thresholds=LENIENT, score=None) as talk,
        talk.victim.subscribe(topic),
    ):
        await talk.say(prune_fragment(Prune(topic, [], 3600)))
        most = 0
        try:
            for _ in range(100):
                await talk.say(rpc)
                most = max(most, talk.victim.gauges()["queued bytes", ""])
        except trio.BrokenResourceError:
            pass
        await until(lambda: not talk.scene.victim.connections(talk.attacker.peer))
        assert 200_000 < most <= 400_000 + 1000  # and what the bystander is about to get
        assert talk.counters["disconnected", ""] == 1


@simulated(seeds=(1,))
async def test_hostile_065_a_graft_with_a_negative_score_is_pruned(sim: Sim) -> None:
    score = ScoreParams(topics={TOPIC: TopicScoreParams()}, behaviour_penalty_threshold=0)
    async with gossip(sim, score=score) as talk:
        await talk.say(*[control(field(6, b"")) for _ in range(3)])  # extensions more than once
        await until(lambda: talk.score.total < 0)
        await until(lambda: talk.attacker.peer not in talk.victim.mesh(TOPIC))
        before = prunes_heard(talk)
        await talk.say(GRAFT)
        await until(lambda: prunes_heard(talk) > before)
        assert talk.attacker.peer not in talk.victim.mesh(TOPIC)


@simulated(seeds=(1,))
async def test_hostile_065_we_graft_nobody_inside_a_backoff_that_it_set(sim: Sim) -> None:
    async with gossip(sim, every=5) as talk:
        await until(lambda: grafts_heard(talk) == 1)
        await talk.say(prune_fragment(Prune(TOPIC, [], 100)))
        pruned = trio.current_time()
        await trio.sleep_until(pruned + 100)
        assert grafts_heard(talk) == 1
        await until(lambda: grafts_heard(talk) == 2)
        assert 100 < trio.current_time() - pruned < 103


# ---- 66, 67


@pytest.mark.parametrize(
    ("backoff", "seconds"),
    [(2**64 - 1, 3600), (2**63, 3600), (2**63 - 1, 3600), (3601, 3600), (0, 60), (None, 60), (1, 1)],
)
@simulated(seeds=(1,))
async def test_hostile_066_a_backoff_is_clamped_before_anybody_calculates(
    sim: Sim, backoff: int | None, seconds: int
) -> None:
    async with gossip(sim) as talk:
        await in_mesh(talk)
        body = field(1, TOPIC.encode()) + (b"" if backoff is None else b"\x18" + encode(backoff))
        await talk.say(control(field(4, body)))
        await until(lambda: talk.attacker.peer not in talk.victim.mesh(TOPIC))
        until_when = talk.victim._router.mesh.backoffs.until(TOPIC, talk.attacker.peer)
        assert until_when == pytest.approx(trio.current_time() + seconds, abs=0.1)


@simulated(seeds=(1,))
async def test_hostile_066_a_backoff_of_65_bits_is_no_number(sim: Sim) -> None:
    async with gossip(sim) as talk:
        bad = b"\x18" + b"\xff" * 10 + b"\x01"
        await talk.costs_the_stream(control(field(4, field(1, TOPIC.encode()) + bad)))


@pytest.mark.slow
@simulated(seeds=(1,))
async def test_hostile_067_an_hour_after_the_largest_backoff_the_heart_still_beats(sim: Sim) -> None:
    quiet = {"params": GossipParams(heartbeat_interval=10, history_length=6, history_gossip=3)}
    async with gossip(sim, every=60, bystander=quiet) as talk:
        await until(lambda: grafts_heard(talk) == 1)
        await talk.say(prune_fragment(Prune(TOPIC, [], 2**64 - 1)))
        await until(lambda: talk.attacker.peer not in talk.victim.mesh(TOPIC))
        began, beats = trio.current_time(), talk.victim._router._beats
        await trio.sleep(3600)
        assert talk.victim._router._beats - beats == pytest.approx(3600, abs=2)
        assert grafts_heard(talk) == 1
        await until(lambda: grafts_heard(talk) == 2)
        assert trio.current_time() - began < 3605


# ---- 68


def px(peers: list[tuple[bytes, bytes]]) -> bytes:
    """A PRUNE that offers peers, of any number."""
    body = b"".join(field(2, field(1, peer) + (field(2, record) if record else b"")) for peer, record in peers)
    return control(field(4, field(1, TOPIC.encode()) + body + b"\x18\x3c"))


def made_up(sim: Sim, count: int) -> list[tuple[bytes, bytes]]:
    """Peers with records as they should be, at addresses where nobody answers."""
    entropy = sim.platform("made up").entropy
    found = []
    for number in range(count):
        identity = Identity.generate(entropy=entropy)
        address = sim.net.host("nobody").address(5000 + number)
        found.append((identity.peer.raw, seal(identity, PeerRecord(identity.peer, 1, (address,)))))
    return found


@pytest.mark.parametrize(
    ("options", "dials"),
    [
        ({}, 0),
        ({"params": GossipParams(do_px=True)}, 0),
        ({"params": GossipParams(do_px=True), "thresholds": Thresholds(accept_px=0)}, 16),
        ({"params": GossipParams(do_px=True, prune_peers=5), "thresholds": Thresholds(accept_px=0)}, 5),
    ],
    ids=["off by default", "on, and the peer has not earned it", "on, and of 100 the first 16", "of 100 the first 5"],
)
@simulated(seeds=(1,))
async def test_hostile_068_offered_peers_are_dialled_up_to_a_bound_if_at_all(
    sim: Sim, options: dict, dials: int
) -> None:
    async with gossip(sim, **options) as talk:
        offered = made_up(sim, 100)
        dialled: list[bytes] = []
        connect = talk.victim._switch.connect

        async def note(peer, *rest):
            dialled.append(peer.raw)
            return await connect(peer, *rest)

        talk.victim._switch.connect = note
        await talk.say(px(offered))
        await talk.taken()
        await trio.sleep(5)
        assert sorted(dialled) == sorted(peer for peer, _ in offered[:dials])


@simulated(seeds=(1,))
async def test_hostile_068_offers_that_keep_coming_make_a_bounded_number_of_dials(sim: Sim) -> None:
    params = GossipParams(do_px=True)
    async with gossip(sim, params=params, thresholds=Thresholds(accept_px=0)) as talk:
        dialling = 0

        async def hang(peer, *rest):
            nonlocal dialling
            dialling += 1
            await trio.sleep_forever()

        talk.victim._switch.connect = hang
        offered = made_up(sim, 160)
        for start in range(0, 160, 16):
            await talk.say(px(offered[start : start + 16]))
        await talk.taken()
        await trio.sleep(1)
        assert dialling == 8
        assert talk.victim._dials.pending == 64


@simulated(seeds=(1,))
async def test_hostile_068_ten_thousand_offers_cost_the_stream(sim: Sim) -> None:
    async with gossip(sim) as talk:
        await talk.costs_the_stream(px([(b"%038d" % number, b"") for number in range(10_000)]))


@simulated(seeds=(1,))
async def test_hostile_068_what_proves_nothing_is_not_dialled(sim: Sim) -> None:
    params = GossipParams(do_px=True)
    async with gossip(sim, params=params, thresholds=Thresholds(accept_px=0)) as talk:
        (one, record), (other, _) = made_up(sim, 2)
        mine = talk.scene.victim.peer.raw
        before = len(talk.scene.victim.peers.peers(trio.current_time()))
        await talk.say(px([(one, b""), (other, record), (mine, record), (one, record[:-1]), (b"\xff" * 100, record)]))
        await talk.taken()
        await trio.sleep(5)
        assert len(talk.scene.victim.peers.peers(trio.current_time())) == before
        assert len(talk.scene.victim.connections()) == 2
