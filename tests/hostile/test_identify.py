"""Hostile cases 45 to 60 and 90 against a whole switch: what a peer says about itself, and pings."""

import pytest
import trio

from pyp2p.errors import DialFailed
from pyp2p.identify.pb.identify_pb2 import Identify
from pyp2p.identify.service import IDENTIFY_PROTOCOL, PUSH_PROTOCOL
from pyp2p.io.varint import encode, prefixed
from pyp2p.peer.keys import Identity
from pyp2p.peer.record import PeerRecord, seal
from pyp2p.protocols.ping import PING_PROTOCOL, ping
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.switch import open_switch
from pyp2p.testing import Sim, simulated
from tests.hostile.arena import arena

pytestmark = pytest.mark.hostile


def message(**fields) -> bytes:
    return prefixed(Identify(**fields).SerializeToString())


async def meet(scene, sim: Sim, answer, **checks):
    """The victim dials a node that answers identify by `answer(stream)`; returns the victim's connection."""
    host = sim.net.host("liar")
    async with open_switch(
        listen=[host.address()],
        transports=[host.transport],
        platform=sim.platform("liar"),
        config=SwitchConfig(identify=False),
    ) as liar:
        liar.mount(IDENTIFY_PROTOCOL, answer, before_admission=True)
        started = trio.current_time()
        connection = await scene.victim.connect(liar.multiaddrs[0])
        took = trio.current_time() - started
        await scene.check_bystander()
        stored = scene.victim.peers.addresses(liar.peer, trio.current_time())
        protocols = scene.victim.peers.protocols(liar.peer)
        return connection, took, stored, protocols


async def endless(stream) -> None:
    while True:
        await stream.send_all(message(protocols=[b"/x"]))
        await trio.sleep(0.01)


async def drip(stream) -> None:
    for byte in encode(8000) + bytes(8000):
        await stream.send_all(bytes([byte]))
        await trio.sleep(1)


async def silent(stream) -> None:
    await trio.sleep_forever()


def says(data: bytes):
    async def answer(stream) -> None:
        await stream.send_all(data)

    return answer


BAD = {
    "a GiB": says(encode(1 << 30)),
    "8193 bytes": says(encode(8193) + bytes(8193)),
    "no protobuf": says(prefixed(b"\xff" * 50)),
    "cut": says(encode(100) + bytes(20)),
    "eleven messages": says(message(protocols=[b"/x"]) * 11),
    "endless": endless,
    "drip": drip,
    "silence": silent,
    "the key of another peer": says(
        message(public_key=Identity.generate(entropy=lambda n: bytes(range(n))).public_key.to_protobuf())
    ),
}


@pytest.mark.parametrize("name", BAD, ids=str)
@simulated(seeds=(1,))
async def test_hostile_045_049_an_identify_that_breaks_the_rules_is_ignored_in_time(sim: Sim, name: str) -> None:
    async with arena(sim) as scene:
        connection, took, stored, protocols = await meet(scene, sim, BAD[name])
        assert connection.info is None
        patience = scene.victim.config.timeouts.identify if name in ("drip", "silence") else 0.5
        assert took < patience + 0.5
        assert protocols == ()
        assert stored == []


@simulated(seeds=(1,))
async def test_hostile_046_047_048_what_is_too_much_is_cut_and_text_is_bounded(sim: Sim) -> None:
    addresses = [b"\x04\x0a\x00\x00\x01\x06" + n.to_bytes(2, "big") for n in range(1, 400)]
    pieces = [
        message(listen_addrs=addresses[:300], agent_version=b"\x1b[2J\x07\r\xe2\x80\xae" + b"a" * 3000),
        message(protocols=[b"/p/%d" % n for n in range(600)]),
        message(protocols=[b"/q/%d" % n for n in range(600)] + [b"\xff\xfe", b"x" * 2000]),
    ]
    async with arena(sim) as scene:
        connection, _, stored, protocols = await meet(scene, sim, says(b"".join(pieces)))
        info = connection.info
        assert info is not None
        assert len(info.agent) == 256
        assert len(info.protocols) <= 1000
        assert len(info.addresses) <= 64
        assert len(stored) <= 65
        assert len(protocols) <= 1000


@simulated(seeds=(1,))
async def test_hostile_050_051_observed_addresses_and_foreign_records_change_nothing(sim: Sim) -> None:
    stranger = Identity.generate(entropy=sim.platform("stranger").entropy)
    record = seal(stranger, PeerRecord(stranger.peer, 1, ["/ip4/9.9.9.9/tcp/1"]))
    observed = bytes.fromhex("047f000001060000")
    async with arena(sim) as scene:
        before = scene.victim._announced()
        answer = says(message(signed_peer_record=record, observed_addr=observed, agent_version=b"x"))
        connection, _, stored, _ = await meet(scene, sim, answer)
        assert connection.info is not None
        assert scene.victim.peers.addresses(stranger.peer, trio.current_time()) == []
        assert "/ip4/9.9.9.9/tcp/1" not in map(str, stored)
        assert scene.victim._announced() == before


@simulated(seeds=(1,))
async def test_hostile_047_054_pushes_replace_and_are_bounded(sim: Sim) -> None:
    async with arena(sim) as scene:
        host = sim.net.host("pusher")
        async with open_switch(transports=[host.transport], platform=sim.platform("pusher")) as pusher:
            connection = await pusher.connect(scene.address)
            for n in range(50):
                port = (5000 + n).to_bytes(2, "big")
                async with await connection.open_stream(PUSH_PROTOCOL) as stream:
                    await stream.send_all(
                        message(protocols=[b"/now/%d" % n], listen_addrs=[b"\x04\x08\x08\x08\x08\x06" + port])
                    )
            with trio.fail_after(5):
                while scene.victim.peers.protocols(pusher.peer) != ("/now/49",):
                    await trio.sleep(0.01)
            addresses = [str(a) for a in scene.victim.peers.addresses(pusher.peer, trio.current_time())]
            assert [a for a in addresses if a.startswith("/ip4/8.8.8.8")] == ["/ip4/8.8.8.8/tcp/5049"]
            assert len(addresses) <= 64


@simulated(seeds=(1,))
async def test_hostile_060_a_poisoned_address_list_costs_25_attempts(sim: Sim) -> None:
    async with arena(sim) as scene:
        target = Identity.generate(entropy=sim.platform("nobody").entropy).peer
        dead = [f"/ip4/10.9.{n // 250}.{n % 250 + 1}/tcp/4001" for n in range(1000)]
        with pytest.raises(DialFailed) as caught:
            await scene.victim.connect(target, dead)
        assert len(caught.value.attempts) <= scene.victim.config.limits.dial_addresses


async def receive(stream, size: int) -> bytes:
    got = b""
    while len(got) < size:
        chunk = await stream.receive_some()
        assert chunk
        got += chunk
    return got


@simulated(seeds=(1,))
async def test_hostile_090_pings(sim: Sim) -> None:
    async with arena(sim) as scene:
        host = sim.net.host("pinger")
        platform = sim.platform("pinger")
        async with open_switch(transports=[host.transport], platform=platform) as pinger:
            connection = await pinger.connect(scene.address)
            streams = [await connection.open_stream(PING_PROTOCOL) for _ in range(2)]
            for stream in streams:
                assert await ping(stream, platform.entropy) >= 0
            third = await connection.open_stream(PING_PROTOCOL)
            with pytest.raises(trio.BrokenResourceError):
                await ping(third, platform.entropy)
            assert scene.victim.counters["refused.limit.streams_per_protocol_and_peer"] == 1
            await streams[0].send_all(bytes(33))  # one ping, and the first byte of a second that never comes
            with trio.fail_after(15), pytest.raises(trio.BrokenResourceError):
                await receive(streams[0], 33)
            await streams[1].send_all(bytes(10))
            await streams[1].send_eof()
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(15):
                await streams[1].receive_some()
