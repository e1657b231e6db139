"""Hostile cases 1 to 17 where a connection is being made: deadlines, garbage, broken handshakes."""

from contextlib import suppress

import pytest
import trio

from pyp2p.errors import DialFailed, PeerIdMismatch
from pyp2p.peer.address import with_peer
from pyp2p.peer.keys import Identity
from pyp2p.switch.config import Limits, SwitchConfig
from pyp2p.testing import Sim, simulated
from tests.hostile.arena import arena

pytestmark = pytest.mark.hostile

HEADER = b"\x13/multistream/1.0.0\n"


@simulated(seeds=(1,))
async def test_hostile_001_a_peer_that_says_nothing_costs_a_deadline(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.dial()
        await trio.sleep(0.1)
        assert scene.victim.counters["pending_inbound"] == 1
        assert await attacker.closed_within(16) > 13
        await scene.check_bystander()


@simulated(seeds=(1,))
async def test_hostile_002_the_deadline_is_total(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.dial()
        started = trio.current_time()

        async def drip() -> None:
            for byte in HEADER * 3:
                try:
                    await attacker.stream.send_all(bytes([byte]))
                except trio.BrokenResourceError:
                    return
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            await attacker.receive_until_closed()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - started < 16


GARBAGE = {
    "003 ten byte varint": b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    "003 endless varint": b"\x80" * 11,
    "003 not minimal": b"\x93\x00" + HEADER[1:],
    "004 a MiB": b"\x80\x80\x40",
    "004 1025": b"\x81\x08",
    "004 16384": b"\x80\x80\x01",
    "005 no newline": b"\x13/multistream/1.0.0x",
    "005 empty message": b"\x01\n",
    "005 not UTF-8": HEADER + b"\x05\xff\xfe\xfd/\n",
    "005 other version": b"\x13/multistream/9.9.9\n",
    "010 HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "010 TLS": bytes.fromhex("16030100c8010000c40303") + bytes(190),
    "010 SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "010 discv5": bytes(range(63)),
    "011 empty noise frame": HEADER + b"\x07/noise\n" + b"\x00\x00",
    "011 zeros": HEADER + b"\x07/noise\n" + b"\xff\xff" + bytes(65535),
    "016 low order point": HEADER + b"\x07/noise\n" + b"\x00\x20" + bytes(32),
    "017 large message 1": HEADER + b"\x07/noise\n" + b"\xff\xff" + b"\x09" * 65535,
}


@pytest.mark.parametrize("name", GARBAGE, ids=str)
@simulated(seeds=(1,))
async def test_hostile_003_to_017_garbage_ends_its_connection_at_once(sim: Sim, name: str) -> None:
    async with arena(sim) as scene:
        attacker = await scene.dial()
        await attacker.stream.send_all(GARBAGE[name])
        assert await attacker.closed_within(1) < 0.5


@simulated(seeds=(1,))
async def test_hostile_006_ten_thousand_proposals_get_few_answers(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.dial()
        proposals = b"".join(b"%c/x/%05d\n" % (9, n) for n in range(10_000))
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with suppress(trio.BrokenResourceError):
                    await attacker.stream.send_all(HEADER + proposals)

            nursery.start_soon(send)
            answers = await attacker.receive_until_closed(1)
        assert answers.count(b"\x03na\n") <= 64
        assert len(answers) < 1000


@simulated(seeds=(1,))
async def test_hostile_007_a_list_is_bounded(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.dial()
        await attacker.stream.send_all(HEADER + b"\x03ls\n" * 200)
        assert len(await attacker.receive_until_closed(20)) < 64 * 1024


@simulated(seeds=(1,))
async def test_hostile_009_a_connection_cut_at_every_byte_is_a_clean_failure(sim: Sim) -> None:
    async with arena(sim, SwitchConfig(limits=Limits(per_ip4=1000, ip_burst=10_000))) as scene:
        before = scene.counters()
        for cut in range(0, 260, 3):
            attacker = await scene.dial()
            raw = attacker.stream
            sent = 0
            real_send = raw.send_all

            async def send_all(data: bytes, real=real_send, cut: int = cut) -> None:
                nonlocal sent
                left = cut - sent
                sent += len(data)
                await real(bytes(data)[: max(left, 0)])
                if left < len(data):
                    raise trio.BrokenResourceError("cut here")

            attacker.stream = _Cut(raw, send_all)
            with suppress(trio.BrokenResourceError):
                await attacker.handshake()
            await raw.aclose()
        await scene.settled(before)


class _Cut:
    """A stream whose sending ends after so many bytes."""

    def __init__(self, raw, send_all) -> None:
        self.send_all = send_all
        self.receive_some = raw.receive_some
        self.try_send = raw.try_send


@pytest.mark.parametrize("how", ["flip", "replay", "truncate", "empty", "short"])
@simulated(seeds=(1,))
async def test_hostile_011_012_a_frame_that_does_not_authenticate_ends_the_connection(sim: Sim, how: str) -> None:
    async with arena(sim) as scene:
        attacker = await scene.attack()
        frame = attacker.channel.seal([b"\x00" * 12])
        if how == "flip":
            frame = frame[:-1] + bytes([frame[-1] ^ 1])
        elif how == "replay":
            ping = attacker.channel.seal([bytes.fromhex("000200010000000000000007")])
            frame = ping + ping
        elif how == "empty":
            frame = b"\x00\x00"
        elif how == "short":
            frame = b"\x00\x0f" + bytes(15)
        if how == "truncate":
            await attacker.stream.send_all(frame[:-3])
            await attacker.stream.send_eof()
        else:
            await attacker.stream.send_all(frame)
        with trio.fail_after(3):
            while True:
                try:
                    if not await attacker.stream.receive_some():
                        break
                except trio.BrokenResourceError:
                    break


@simulated(seeds=(1,))
async def test_hostile_014_somebody_else_answers(sim: Sim) -> None:
    async with arena(sim) as scene:
        other = Identity.generate(entropy=sim.platform("other").entropy).peer
        address = with_peer(sim.net.host("victim").address(), other)
        with pytest.raises(DialFailed) as caught:
            await scene.bystander.connect(address)
        error = caught.value.attempts[0].error
        assert isinstance(error, PeerIdMismatch)
        assert (error.expected, error.got) == (other, scene.victim.peer)
        assert scene.bystander.peers.addresses(other, trio.current_time()) == []


@simulated(seeds=(1,))
async def test_hostile_017_a_handshake_in_segments_of_one_byte_succeeds(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.dial()
        raw = attacker.stream

        async def drip(data: bytes) -> None:
            for at in range(len(data)):
                await raw.send_all(bytes(data)[at : at + 1])

        attacker.stream = _Cut(raw, drip)
        await attacker.handshake()
        attacker.stream = raw
        with trio.fail_after(5):
            while len(scene.victim.connections()) < 2:
                await trio.sleep(0.01)
        await raw.aclose()


@simulated(seeds=(1,))
async def test_hostile_024_a_dialler_that_hangs_in_the_handshake_holds_one_place(sim: Sim) -> None:
    async with arena(sim) as scene:
        attacker = await scene.dial()
        await attacker.stream.send_all(HEADER + b"\x07/noise\n")
        assert await attacker.closed_within(16) > 10
