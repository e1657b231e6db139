"""Hostile cases 14, 28, 33 and 40 to 44 over QUIC against a whole switch: strangers, raw frames, servers that lie."""

from contextlib import suppress

import pytest
import trio
from aioquic.quic.packet import QuicFrameType, encode_quic_retry, encode_quic_version_negotiation

from pyp2p.errors import DialFailed, PeerIdMismatch
from pyp2p.peer.address import with_peer
from pyp2p.peer.keys import Identity
from pyp2p.quic.core import MAX_TOKEN
from pyp2p.quic.endpoint import RETRY_ABOVE
from pyp2p.security.tls import Tls
from pyp2p.switch.config import Limits, SwitchConfig
from pyp2p.switch.events import Disconnected
from pyp2p.switch.switch import open_switch
from pyp2p.testing import LinkQuality, Sim, simulated
from tests.fuzz.quic import Liar, original_of, packet
from tests.hostile.arena import ECHO, arena, over_quic, over_tcp
from tests.hostile.quic import QuicAttacker, attacking
from tests.unit.quic.quic_tools import varint

pytestmark = pytest.mark.hostile

MANY = SwitchConfig(limits=Limits(per_ip4=1000, ip_burst=10_000))
SELECT = b"\x13/multistream/1.0.0\n\x0c/echo/1.0.0\n"
RESET, STOP, STREAM = QuicFrameType.RESET_STREAM, QuicFrameType.STOP_SENDING, QuicFrameType.STREAM_BASE | 2


def stream(number: int, data: bytes) -> bytes:
    return bytes((STREAM,)) + varint(number) + varint(len(data)) + data


# --- 14


@pytest.mark.parametrize("way", [over_tcp, over_quic], ids=["tls", "quic"])
@simulated(seeds=(1,))
async def test_hostile_014_somebody_else_answers(sim: Sim, way) -> None:
    async with arena(sim, way=way, securities=[Tls()]) as scene:
        other = Identity.generate(entropy=sim.platform("other").entropy).peer
        transport = way(sim.net.host("caller"))[0]
        async with open_switch(transports=[transport], securities=[Tls()], platform=sim.platform("caller")) as caller:
            with pytest.raises(DialFailed) as caught:
                await caller.connect(with_peer(scene.victim.addresses[0], other))
            error = caught.value.attempts[0].error
            assert isinstance(error, PeerIdMismatch)
            assert (error.expected, error.got) == (other, scene.victim.peer)
            assert caller.peers.addresses(other, trio.current_time()) == []
            assert not caller.connections()


# --- 33, 40


@simulated(seeds=(1,))
async def test_hostile_033_040_who_shows_no_certificate_opens_nothing(sim: Sim) -> None:
    async with arena(sim, way=over_quic) as scene, trio.open_nursery() as nursery:
        attacker = QuicAttacker(sim, scene, proven=False)
        attacker.core.send_stream_data(0, SELECT + b"let me in")
        nursery.start_soon(attacker.run)
        with trio.fail_after(5):
            await attacker.over.wait()
        assert attacker.ended is not None and attacker.ended.error_code == 0x100 + 116
        assert len(scene.victim.connections()) == 1
        await scene.check_bystander()
        nursery.cancel_scope.cancel()


# --- 28: streams whose handlers end while more comes


@simulated(seeds=(1,))
async def test_hostile_028_handlers_that_end_early_cost_the_others_no_window(sim: Sim) -> None:
    async def brief(stream) -> None:
        await stream.receive_some()

    sim.net.quality = LinkQuality(latency=0.01, bandwidth=12.5e6)
    async with arena(sim, way=over_quic) as scene:
        scene.victim.mount("/brief", brief)
        transport = over_quic(sim.net.host("other"))[0]
        async with open_switch(transports=[transport], platform=sim.platform("other")) as other:
            connection = await other.connect(scene.address)
            for _ in range(12):
                async with await connection.open_stream("/brief") as blocked:
                    with suppress(trio.BrokenResourceError):
                        await blocked.send_all(bytes(1 << 20))
            async with await connection.open_stream(ECHO) as talk:
                with trio.fail_after(5):
                    await talk.send_all(b"hello")
                    assert await talk.receive_some() == b"hello"
            (there,) = scene.victim.connections(other.peer)
            core = there._raw.core
            assert core._local_max_data.used > 100_000
            assert core._released == core._local_max_data.used


# --- 43: strangers


@simulated(seeds=(1,))
async def test_hostile_043_strangers_from_everywhere_and_an_honest_one_among_them(sim: Sim) -> None:
    """A thousand here stand for ten thousand: the tables fill after a few dozen."""
    async with arena(sim, MANY, way=over_quic) as scene:
        strangers = [QuicAttacker(sim, scene, f"stranger {n}") for n in range(100)]
        first = [each.core.datagrams_to_send(trio.current_time())[0][0] for each in strangers]
        heard = told = 0
        for at in range(1000):
            stranger = strangers[at % 100]
            data = bytearray(first[at % 100])
            data[6:14] = at.to_bytes(8, "big")  # another connection, which nobody can decrypt
            stranger.socket.send_to(bytes(data), stranger.victim)
            heard += len(data)
            if at % 100 == 99:
                await trio.sleep(0.01)
                await scene.check_bystander()
        async with attacking(sim, scene, "honest"):  # it answers the Retry
            await scene.check_bystander()
        for stranger in strangers:
            with trio.move_on_after(0.01):
                told += sum(len(data) for data, _ in await stranger.socket.receive_many())
        assert 0 < told < 3 * heard
        assert scene.victim.counters["pending_inbound"] <= RETRY_ABOVE + 1
        for stranger in strangers:
            stranger.socket.close()


# --- 43, 44: frames of somebody who is let in

IDS = [b"\x18" + varint(n) + varint(n) + b"\x08" + n.to_bytes(8, "big") + n.to_bytes(16, "big") for n in range(8, 1008)]
TOLERATED = {
    "path challenges": [b"\x1a" + n.to_bytes(8, "big") for n in range(2000)],
    "resets and stops of one stream": [
        (bytes((RESET,)) + varint(0) + varint(7) + varint(1) + bytes((STOP,)) + varint(0) + varint(7)) * 20
    ]
    * 200,
    "pings": [b"\x01" * 1000] * 200,
    "padding": [bytes(1200)] * 200,
    "limits that are no limits": [b"\x10" + varint((1 << 62) - 1) + b"\x11" + varint(0) + varint((1 << 62) - 1)] * 200,
    "blocked": [b"\x14" + varint(9) + b"\x15" + varint(0) + varint(9) + b"\x16" + varint(9)] * 200,
}
VIOLATIONS = {
    "connection ids": (IDS, 9),
    "an ack of what was never sent": ([b"\x02" + varint(1 << 30) + varint(0) * 3], 10),
    "an unknown frame": ([varint(0x42)], 7),
    "its unidirectional stream": ([stream(2, b"x")], 4),
    "our unidirectional stream": ([stream(3, b"x")], 5),
    "beyond the window": ([bytes((STREAM | 4,)) + varint(0) + varint(1 << 20) + varint(1) + b"x"], 3),
    "a size that shrinks": ([stream(0, bytes(500)) + bytes((RESET,)) + varint(0) + varint(0) + varint(3)], 6),
    "a cut frame": ([bytes((STREAM,)) + varint(0) + varint(900) + b"x"], 7),
    "gaps": ([bytes((STREAM | 4,)) + varint(0) + varint(2 * n + 1) + varint(1) + b"x" for n in range(2000)], 1),
    "gaps in TLS": ([b"\x06" + varint(2 * n + 1) + varint(1) + b"x" for n in range(2000)], 1),
    "endless TLS": ([b"\x06" + varint(n * 1000) + varint(1000) + b"\x04\xff\xff\xff" * 250 for n in range(80)], 13),
}


async def _said(attacker: QuicAttacker, packets: list[bytes]) -> None:
    for at, plain in enumerate(packets):
        if attacker.over.is_set():
            break
        attacker.say(plain)
        if at % 50 == 49:
            await trio.sleep(0.01)
    await trio.sleep(0.1)


@pytest.mark.parametrize("name", TOLERATED)
@simulated(seeds=(1,))
async def test_hostile_043_044_floods_of_what_is_allowed_leave_the_connection_in_use(sim: Sim, name: str) -> None:
    async with arena(sim, way=over_quic) as scene, attacking(sim, scene) as attacker:
        attacker.core.send_stream_data(0, b"\x13")
        attacker.flush()
        await _said(attacker, TOLERATED[name])
        await scene.check_bystander()
        attacker.core.send_stream_data(4, SELECT + b"hello")
        attacker.flush()
        await trio.sleep(1)
        assert attacker.ended is None
        (connection,) = scene.victim.connections(attacker.identity.peer)
        assert connection.is_open and connection.stats.streams_in >= 1


@pytest.mark.parametrize("name", VIOLATIONS)
@simulated(seeds=(1,))
async def test_hostile_042_043_violations_end_the_connection_with_their_code(sim: Sim, name: str) -> None:
    packets, code = VIOLATIONS[name]
    async with arena(sim, way=over_quic) as scene, attacking(sim, scene) as attacker, scene.victim.watch() as events:
        await _said(attacker, packets)
        with trio.fail_after(5):
            async for event in events:
                if isinstance(event, Disconnected):
                    assert f"code {code:#x}" in event.reason.detail
                    break


@simulated(seeds=(1,))
async def test_hostile_044_a_hundred_streams_reset_at_once_again_and_again_end_the_connection(sim: Sim) -> None:
    """Fifty times a hundred stand for ten thousand: the bucket has a thousand, and 256 a second."""
    async with arena(sim, way=over_quic) as scene, attacking(sim, scene) as attacker, scene.victim.watch() as events:
        core = attacker.core
        for _ in range(50):
            for _ in range(100):
                number = core.get_next_available_stream_id()
                core.send_stream_data(number, b"\x13")
                core.reset_stream(number, 0)
            attacker.flush()
            await trio.sleep(0.05)
            if attacker.over.is_set():
                break
        with trio.fail_after(5):
            async for event in events:
                if isinstance(event, Disconnected):
                    assert (event.reason.code, event.reason.by) == ("violation", "peer")
                    break


@simulated(seeds=(1,))
async def test_hostile_044_who_moves_to_many_places_is_followed_and_costs_nobody_anything(sim: Sim) -> None:
    async with arena(sim, way=over_quic) as scene, attacking(sim, scene) as attacker:
        places = [sim.net.host(f"place {n}").bind_udp() for n in range(30)]
        for place in places:
            place.send_to(packet(attacker.core, b"\x01"), attacker.victim)
            await trio.sleep(0.02)
            await scene.check_bystander()
        for place in places:
            place.close()


# --- 43: servers that lie to a dialler

KINDS = ["large token", "token and rubbish", "versions", "our version without end", "rubbish", "retries without end"]


@pytest.mark.parametrize("kind", KINDS)
@simulated(seeds=(1,))
async def test_hostile_043_a_server_that_lies_costs_the_dial_alone(sim: Sim, kind: str) -> None:
    async with arena(sim, way=over_quic) as scene, trio.open_nursery() as nursery:
        socket = sim.net.host("server").bind_udp(None, 4001)

        async def lie() -> None:
            liar: Liar | None = None
            while True:
                for data, place in await socket.receive_many():
                    theirs, ours = original_of(data), data[15 : 15 + data[14]]
                    answers = [bytes(1300)]
                    if "token" in kind or "retries" in kind:
                        token = b"t" * (MAX_TOKEN if "retries" in kind else 1400)
                        answers = [
                            encode_quic_retry(
                                version=1,
                                source_cid=bytes((number,)) * 8,
                                destination_cid=ours,
                                original_destination_cid=theirs,
                                retry_token=token,
                            )
                            for number in range(1, 20)
                        ]
                    if "version" in kind:
                        spoken = [9] if kind == "versions" else [1, 9]
                        versions = encode_quic_version_negotiation(
                            source_cid=theirs, destination_cid=ours, supported_versions=spoken
                        )
                        answers = [versions] * 20
                    if "rubbish" in kind:
                        liar = liar or Liar(False, 9, None, data)
                        liar.receive_datagram(data, place, trio.current_time())
                        keys = liar._cryptos_initial[1]
                        head = b"\xc1\0\0\0\1\x08" + ours + b"\x08" + liar.host_cid + b"\0\x40\x40" + b"\0\1"
                        answers.append(keys.encrypt_packet(head, varint(0x42).ljust(46, b"\0"), 1))
                    for answer in answers:
                        socket.send_to(answer, place)

        nursery.start_soon(lie)
        somebody = Identity.generate(entropy=sim.platform("server").entropy).peer
        address = with_peer(over_quic(sim.net.host("server"))[1], somebody)
        with pytest.raises(DialFailed):
            await scene.victim.connect(address)
        await scene.check_bystander()
        nursery.cancel_scope.cancel()


# --- 94


@pytest.mark.parametrize("when", ["in the handshake", "with 200 streams"])
@simulated(seeds=(1,))
async def test_hostile_094_a_stop_while_the_peer_says_nothing_more(sim: Sim, when: str) -> None:
    async def pour(stream) -> None:
        while True:
            await stream.send_all(bytes(100_000))

    sim.net.quality = LinkQuality(latency=0.02)
    generous = SwitchConfig(limits=Limits(streams_per_protocol_and_peer=500))
    transport, where = over_quic(sim.net.host("victim"))
    async with open_switch(
        transports=[over_quic(sim.net.host("deaf"))[0]], platform=sim.platform("deaf"), config=generous
    ) as deaf:
        async with (
            open_switch(
                listen=[where], transports=[transport], platform=sim.platform("victim"), config=generous
            ) as victim,
            trio.open_nursery() as nursery,
        ):
            victim.mount("/pour", pour)
            if when == "in the handshake":
                nursery.start_soon(_failing, deaf, victim.multiaddrs[0])
                while not victim.counters["pending_inbound"]:
                    await trio.sleep(0.001)
            else:
                connection = await deaf.connect(victim.multiaddrs[0])
                for _ in range(200):
                    opened = await connection.open_stream("/pour", lazy=True)
                    await opened.send_all(b"x")
            sim.net.cut("deaf", "victim")
            await trio.sleep(0.5)
            started = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - started <= victim.config.timeouts.close + 0.01


async def _failing(switch, address) -> None:
    with suppress(DialFailed):
        await switch.connect(address)
