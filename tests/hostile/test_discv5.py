"""Datagrams of strangers at a running node: cases 88 and 89."""

from collections import Counter
from ipaddress import ip_address
from random import Random

import pytest
import trio

from pyp2p.discv5 import rlp
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.messages import FindNode, Nodes, Ping, Pong, TalkRequest, TalkResponse
from pyp2p.discv5.packet import encode_whoareyou, make_whoareyou
from pyp2p.peer import secp256k1
from pyp2p.testing import Sim, simulated
from tests.discv5.support import identity
from tests.fuzz.__main__ import mutated
from tests.hostile.discovery import BYSTANDER, IPS, PORT, Foe, Scene, scene
from tests.hostile.gossip import memory_below
from tests.unit.discv5.script import Stranger, two

pytestmark = pytest.mark.hostile

SIZES = (0, 1, 46, 62, 63, 64, 71, 500, 1280, 1281, 2048, 65_507)
PORTS = [(ip, port) for port in range(1024, 1124) for ip in IPS[:100]]  # ten thousand


class Checks:
    """Counts the signature checks while it is patched in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        check = secp256k1.verify_digest

        def counted(*args):
            self.count += 1
            return check(*args)

        monkeypatch.setattr("pyp2p.discv5.handshake.secp256k1.verify_digest", counted)


# ---- 88: datagrams that are no packets


@simulated(seeds=(1,))
async def test_88_random_datagrams_from_ten_thousand_ports(sim: Sim) -> None:
    rng = Random(1)
    async with scene(sim) as here:
        with memory_below(12_000_000):
            await here.flood(((rng.randbytes(SIZES[at % len(SIZES)]), who) for at, who in enumerate(PORTS)), 1500)
        assert here.count["bad packets"] >= 9000
        assert set(here.tap.sent) == {BYSTANDER}


@simulated(seeds=(1,))
async def test_88_packets_of_made_up_nodes_from_ten_thousand_ports(sim: Sim) -> None:
    async with scene(sim) as here:
        foe = Foe(here, "foe", IPS[-1])

        def packets():
            for who in PORTS:
                foe.id = foe.entropy(32)
                yield foe.random(), who

        with memory_below(12_000_000):
            await here.flood(packets(), 1500)
        assert here.count["challenges refused"] > 0
        assert sum(sent for who, sent in here.tap.sent.items() if who != BYSTANDER) == 63 * sum(
            who != BYSTANDER for who in here.tap.sent
        )


@simulated(seeds=(1,))
async def test_88_a_flood_above_all_rates_does_not_take_the_bystanders_place(sim: Sim) -> None:
    async with scene(sim) as here:
        packet = Foe(here, "foe", IPS[-1]).random()

        def packets():
            for at in range(60_000):
                yield packet, (IPS[at % 299], at % 60_000 + 1)

        await here.flood(packets(), 10_000, burst=10)
        assert here.count["challenges_total"] > 30_000


@simulated(seeds=(1,))
async def test_88_one_subnet_that_floods_is_refused_alone(sim: Sim) -> None:
    async with scene(sim) as here:
        foe = Foe(here, "foe", IPS[0])
        await here.flood(((foe.random(), (IPS[0], at % 5000 + 1)) for at in range(10_000)), 2000)
        assert here.count["challenges_subnet"] > 9000 and here.count["challenges_total"] == 0


# ---- WHOAREYOU and handshakes


@simulated(seeds=(1,))
async def test_88_floods_of_whoareyou(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(sim) as here:
        checks = Checks(monkeypatch)
        rng = Random(1)
        whole = []
        for _ in range(2000):
            packet = make_whoareyou(
                iv=rng.randbytes(16), nonce=rng.randbytes(12), id_nonce=rng.randbytes(16), enr_seq=rng.getrandbits(64)
            )
            data = encode_whoareyou(packet, dest_id=here.victim.record.node_id)
            whole += [data, data + b"x", data[:-1], data + bytes(1217), mutated(rng, [data])]
        await here.flood(((data, (IPS[at % 200], PORT)) for at, data in enumerate(whole)), 1500)
        assert here.count["whoareyou ignored"] >= 1900
        assert here.count["bad packets"] >= 5500
        assert set(here.tap.sent) == {BYSTANDER} and checks.count == 0


@simulated(seeds=(1,))
async def test_88_handshakes_with_bad_signatures(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(sim) as here:
        foes = [Foe(here, f"foe {at}", IPS[at]) for at in range(20)]
        packets = [(foe.answer(await foe.challenge(), Ping(b"1", 1), cheat=True), foe.socket.local) for foe in foes]
        checks = Checks(monkeypatch)
        before = len(here.node._sessions)
        for _ in range(10):
            for foe in foes:
                foe.say(foe.random())  # keeps a challenge out
            await here.flood(packets * 20, 4000)
        assert here.count["handshakes refused"] > 0 and here.count["handshakes_subnet"] > 0
        assert checks.count <= 200 + 100 * 10  # what the rates let through
        assert len(here.node._sessions) == before == 1


@simulated(seeds=(1,))
async def test_88_handshakes_nobody_asked_for_cost_no_signature_check(
    sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(sim) as here:
        foe = Foe(here, "foe", IPS[0])
        packet = foe.answer(await foe.challenge(), Ping(b"1", 1))
        checks = Checks(monkeypatch)
        await here.flood(((packet, (IPS[1 + at % 250], PORT)) for at in range(3000)), 1500)
        assert here.count["handshakes unasked"] == 3000 and checks.count == 0


@simulated(seeds=(1,))
async def test_88_sessions_of_many_made_up_nodes_are_bounded(sim: Sim) -> None:
    async with scene(sim) as here:
        for at in range(250):
            foe = Foe(here, f"foe {at}", IPS[at])
            here.proven.add(foe.socket.local)
            answers = await foe.meet(Ping(b"1", 1))
            assert any(isinstance(each, Pong) for each in answers)
            here.check_bounds()
        assert len(here.node._sessions) == 251
        assert here.victim.nodes() == [here.bystander.record]  # nobody else answered


# ---- floods under a session


async def friend(here: Scene, at: int = 0) -> Foe:
    """A foe with a session, live in the victim's table."""
    foe = Foe(here, f"friend {at}", IPS[at])
    here.proven.add(foe.socket.local)
    for message in await foe.meet(Ping(b"0", 1)):
        if isinstance(message, Ping):
            foe.say(foe.seal(Pong(message.request_id, 1, bytes((50, 0, 1, 1)), PORT)))
    await trio.sleep(0.1)
    assert foe.record in here.victim.nodes()
    return foe


@simulated(seeds=(1,))
async def test_88_floods_of_requests_under_a_session(sim: Sim) -> None:
    async def echo(_, request: bytes) -> bytes:
        return request

    async def hangs(_, request: bytes) -> bytes:
        await trio.sleep_forever()

    async with scene(sim) as here:
        here.victim.serve(b"echo", echo)
        here.victim.serve(b"hangs", hangs)
        foe = await friend(here)
        kinds = {
            "talk": TalkRequest(b"1", b"echo", bytes(1100)),
            "hang": TalkRequest(b"2", b"hangs", bytes(1100)),
            "find": FindNode(b"3", list(range(257))),
            "ping": Ping(b"4", 1 << 40),  # of a record that never comes
            "nodes": Nodes(b"5", 16, [foe.record.raw] * 4),
            "pong": Pong(b"6", 1 << 50, bytes(4), 0),
            "answer": TalkResponse(b"7", bytes(1100)),
        }
        with memory_below(12_000_000):
            for message in kinds.values():
                before = Counter(here.tap.sent), Counter(here.tap.received)
                await here.flood(((foe.seal(message), foe.socket.local) for _ in range(500)), 1000)
                sent = here.tap.sent[foe.socket.local] - before[0][foe.socket.local]
                received = here.tap.received[foe.socket.local] - before[1][foe.socket.local]
                assert sent <= 2 * received
        assert here.count["requests_subnet"] > 1200
        assert here.count["answers unasked"] > 0
        assert here.victim.record.seq == here.node.record.seq


@simulated(seeds=(1,))
async def test_88_messages_that_break_the_rules(sim: Sim) -> None:
    async with scene(sim) as here:
        foe = await friend(here)
        deep = b"\xc0"
        for _ in range(400):
            deep = rlp.encode([]) if len(deep) > 1000 else bytes([0xF7 + 2]) + len(deep).to_bytes(2) + deep
        records = rlp.encode([b"1", b"\x01", [[b"x"] * 2] * 17])
        bad = [
            b"",
            b"\x00",
            b"\x07\xc0",
            b"\xff" * 100,
            b"\x01\xc0",
            b"\x03" + rlp.encode([b"1", [b"\x01\x01"]]),  # distance 257
            b"\x03" + rlp.encode([b"1", [b""] * 600]),
            b"\x04" + rlp.encode([b"1", b"\xff", []]),
            b"\x04" + rlp.encode([b"1", b"\x27\x10", []]),
            b"\x04" + records,
            b"\x02" + rlp.encode([b"1", b"\x01", bytes(5), b"\x01"]),
            b"\x05" + rlp.encode([b"1", [b"p"], b""]),
            b"\x01" + b"\xc1" * 1000,  # 89: nested
            b"\x04" + b"\xf9\xff\xff" * 300,
            b"\x05" + bytes([0xBF]) + b"\xff" * 8,
            b"\x03" + deep[:1100],
        ]
        for plaintext in bad:
            before = Counter(here.tap.sent)
            foe.say(foe.seal(plaintext))
            await trio.sleep(0.05)
            assert here.tap.sent[foe.socket.local] - before[foe.socket.local] in (0, 71 + 16 + 12), plaintext
        assert here.count["bad messages"] == len(bad)
        foe.say(foe.seal(b"\x01" + rlp.encode([bytes(9), b"\x01"])))
        await trio.sleep(0.05)
        assert here.count["request ids too long"] == 1


# ---- records and lies


LOCAL = [("127.0.0.1", 22), ("10.1.2.3", 22), ("192.168.1.1", 53)]
PLACES = [*LOCAL, ("224.0.0.251", 5353), ("0.0.0.0", 1), ("240.0.0.1", 9)]


@simulated(seeds=(1,))
async def test_88_records_that_name_places_of_ours_lead_nobody_there(sim: Sim) -> None:
    async with scene(sim) as here:
        liars = []
        for at, (ip, port) in enumerate(PLACES):
            liar = Foe(here, f"liar {at}", IPS[at], {"ip": ip_address(ip), "udp": port})
            here.proven.add(liar.socket.local)
            await liar.meet(Ping(b"1", 1))
            liars.append(liar)
        zero = Enr.sign(identity("zero"), 1, {"ip": ip_address("50.1.1.1")})
        foe = await friend(here, at=100)
        told = [liar.record.raw for liar in liars] + [zero.raw]
        found: list = []

        async def look() -> None:
            for at in range(3):
                found.extend(await here.victim.lookup(liars[at].id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            for _ in range(40):
                for asking in foe.heard(await foe.heard_until()):
                    if isinstance(asking, FindNode):
                        foe.say(foe.seal(Nodes(asking.request_id, 2, told[:4])))
                        foe.say(foe.seal(Nodes(asking.request_id, 2, told[4:])))
        assert not [who for who in here.tap.sent if who in PLACES]
        assert {each.node_id for each in found} <= {foe.id, here.bystander.record.node_id, zero.node_id}
        assert not {liar.id for liar in liars} & {each.node_id for each in here.victim.nodes()}
        refused = {name for name in here.count if name.startswith("record refused")}
        assert refused >= {"record refused: private", "record refused: multicast", "record refused: unspecified"}


@simulated(seeds=(1,))
async def test_88_a_spoofed_bystander_keeps_its_session(sim: Sim) -> None:
    """Packets that say they are of the bystander, at its very endpoint."""
    async with scene(sim) as here:
        foe = Foe(here, "foe", IPS[0])
        foe.id = here.bystander.record.node_id
        await here.flood(((foe.random(), BYSTANDER) for _ in range(200)), 20)
        assert here.bystander.counters["whoareyou ignored"] > 0


@simulated(seeds=(1,))
async def test_88_a_recorded_session_played_again_changes_nothing(sim: Sim) -> None:
    async with scene(sim) as here:
        foe = Foe(here, "foe", IPS[0])
        here.proven.add(foe.socket.local)
        first = foe.random()
        foe.say(first)
        (challenge,) = await foe.heard_until()
        handshake = foe.answer(challenge.data, Ping(b"1", 1))
        record = [first, handshake, foe.seal(Ping(b"2", 1)), foe.seal(FindNode(b"3", [0]))]
        await here.flood(((data, foe.socket.local) for data in record), 20)
        sessions = len(here.node._sessions)
        await here.flood(((data, ip) for data in record * 5 for ip in ((IPS[5], 1), (IPS[6], 2))), 100)
        assert len(here.node._sessions) == sessions
        assert here.count["sessions"] <= 2


# ---- how far mutated datagrams get


def test_88_at_most_one_mutated_datagram_of_a_hundred_reaches_a_signature_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script, alice, bob = two()
    script.meet(alice, bob)
    rng = Random(1)
    foes = [Stranger(script, alice, f"foe {at}", f"60.0.{at}.1") for at in range(40)]
    friends = foes[:10]
    for foe in friends:
        foe.shake(Ping(b"0", 1))
    valid = [foe.seal(message) for foe in friends for message in (Ping(b"1", 1), FindNode(b"2", [256]))]
    valid += [foe.random() for foe in foes]
    valid += [each.data for each in script.sent if each.to == alice.endpoint]
    challenges = [foe.say(foe.random())[0] for foe in foes[10:]]
    valid += [foe.answer(each.data, Ping(b"1", 1)) for foe, each in zip(foes[10:], challenges, strict=True)]
    checks = Checks(monkeypatch)
    fed = 8000
    for at in range(fed):
        script.now += 0.001
        alice.node.datagram_received(mutated(rng, valid), foes[at % 40].endpoint, script.now)
        alice.node.take()
        if not at % 100:  # the challenges are out all the time
            for foe in foes[10:]:
                alice.node.datagram_received(foe.random(), foe.endpoint, script.now)
    assert checks.count <= fed / 100
