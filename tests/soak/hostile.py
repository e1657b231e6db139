"""The hostile peers of the soak, one function for each kind; each comes with a fresh identity.

Rules: a function plays its part once and ends, within about ten seconds. Whom the node has to shed looks for that in
the end: a connection that still stands is a failure of the node, and raised.
"""

from __future__ import annotations

import dataclasses
import math
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from multiaddr import Multiaddr

from pyp2p.beacon.config import BeaconConfig
from pyp2p.beacon.containers import BeaconBlocksByRangeRequest, MetaDataV1, MetaDataV2, MetaDataV3, StatusV2
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.methods import Methods
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.peer_types import PeerConfig
from pyp2p.errors import P2PError
from pyp2p.io.udp import bind_udp
from pyp2p.io.varint import encode
from pyp2p.multistream.wire import HEADER, encode_line
from pyp2p.peer.address import split_peer
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.pubsub.types import Verdict
from pyp2p.reqresp.core import SERVER_ERROR, SUCCESS, ResponseWriter, request_bytes
from pyp2p.reqresp.declare import Limits, Method
from pyp2p.reqresp.frames import IDENTIFIER
from pyp2p.reqresp.service import ReqResp, open_reqresp
from pyp2p.switch.connection import Connection
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.switch import Switch, open_switch
from pyp2p.testing.run import SeededEntropy
from pyp2p.trace import Trace
from pyp2p.transports.base import RawConn
from tests.soak.crowd import ATTESTATION, PAYLOAD, SUBNET, UNSOUND, Crowd, follow_attestations, require

Attack = Callable[[Crowd], Awaitable[None]]
ATTACKS: dict[str, Attack] = {}
UPGRADE = 4.0  # seconds that the node under test gives an upgrade
_SHED = 5.0  # seconds until the node must have closed the connection
_BROKEN = (P2PError, trio.BrokenResourceError, trio.ClosedResourceError)


def attack(run: Attack) -> Attack:
    ATTACKS[run.__name__] = run
    return run


class Guest:
    """A peer that can say what it likes: a switch, requests, and a status of its choice."""

    def __init__(self, crowd: Crowd, switch: Switch, reqresp: ReqResp, raws: list[RawConn]) -> None:
        self.crowd = crowd
        self.switch = switch
        self.reqresp = reqresp
        self.methods = Methods(crowd.victim.chain)
        self.connection: Connection
        self._raws = raws

    @property
    def slot(self) -> int:
        return max(self.crowd.victim.chain.slot_at(self.crowd.world.wall()), 0)

    def status(self, ahead: int = 0, **more: Any) -> StatusV2:
        chain = self.crowd.victim.chain
        said = StatusV2(chain.at_slot(self.slot).digest, bytes(32), 0, bytes(32), self.slot + ahead, 0)
        return dataclasses.replace(said, **more)

    async def join(self, ahead: int = 0, **more: Any) -> None:
        """Connect and be admitted, by an honest status unless another is given."""
        victim = self.crowd.victim
        self.connection = await self.switch.connect(victim.peer, victim.addresses)
        await self.say(ahead, **more)

    async def say(self, ahead: int = 0, **more: Any) -> None:
        with suppress(*_BROKEN):
            await self.reqresp.ask(self.connection, self.methods.status_v2, self.status(ahead, **more))

    async def send(self, method: Method[Any, Any], data: bytes, *, end: bool = True) -> None:
        """Any bytes as a request, and a second for the answer."""
        with suppress(*_BROKEN), trio.move_on_after(1):
            stream = await self.connection.open_stream(method.protocol)
            try:
                await stream.send_all(data)
                if end:
                    await stream.send_eof()
                async for _ in stream:
                    pass
            finally:
                stream.reset()

    async def answer_blocks(self, act: Callable[[MuxedStream], Awaitable[None]], seconds: int = 4) -> None:
        """Have the newest blocks, it says, and answer requests for them by `act(stream)`."""
        self.switch.mount(self.methods.beacon_blocks_by_range_v2.protocol, act)
        await self.join(1)
        for _ in range(seconds):
            await trio.sleep(1)
            if not self.connection.is_open:
                break
            await self.say(1)

    def reset(self) -> None:
        """End all connections the hard way: RST, not FIN."""
        for raw in self._raws:
            stream: Any = raw.stream
            if isinstance(getattr(stream, "socket", None), socket.socket) and not stream._closed:
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream._closed = True
                trio.lowlevel.notify_closing(stream.socket)
                stream.socket.close()
            elif isinstance(stream, trio.abc.AsyncResource) and not hasattr(stream, "socket"):
                stream.close()

    async def must_go(self) -> None:
        """The node has to close the connection."""
        with trio.move_on_after(_SHED):
            while self.connection.is_open:
                await trio.sleep(0.05)
        require(not self.connection.is_open, "it is still connected")


class _Recorded:
    """A transport that keeps what it dialled."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.raws: list[RawConn] = []

    def handles(self, address: Multiaddr) -> bool:
        return bool(self._transport.handles(address))

    async def dial(self, address: Multiaddr, trace: Trace | None = None) -> RawConn:
        raw: RawConn = await self._transport.dial(address, trace)
        self.raws.append(raw)
        return raw

    async def listen(self, address: Multiaddr) -> Any:
        return await self._transport.listen(address)


@asynccontextmanager
async def guest(crowd: Crowd) -> AsyncIterator[Guest]:
    """A fresh one, which serves what every peer has to."""
    stack = crowd.world.stack(f"guest{crowd.rng.getrandbits(32)}")
    transport = _Recorded(stack["transports"][0])
    identity = Identity.generate(KeyType.SECP256K1, entropy=SeededEntropy(str(crowd.rng.getrandbits(64))))
    more = {"platform": stack["platform"]} if "platform" in stack else {}
    async with (
        open_switch(identity, transports=[transport], **more) as switch,
        open_reqresp(switch, limits=Limits(quotas=False)) as reqresp,
    ):
        made = Guest(crowd, switch, reqresp, transport.raws)
        for method in made.methods:
            if method.name in ("status", "ping", "metadata", "goodbye"):
                reqresp.serve(method, _polite(made, method))
        yield made


def _polite(made: Guest, method: Method[Any, Any]) -> Any:
    async def handle(connection: Any, request: Any) -> AsyncIterator[Any]:
        if method.name == "status":
            said = made.status()
            yield said if method.version == 2 else type(request)(*(getattr(said, name) for name in _FIELDS))
        elif method.name == "metadata":
            yield (MetaDataV1, MetaDataV2, MetaDataV3)[method.version - 1].ssz().zero
        elif method.name == "ping":
            yield 0

    return handle


_FIELDS = ("fork_digest", "finalized_root", "finalized_epoch", "head_root", "head_slot")


async def _dial_raw(crowd: Crowd) -> RawConn:
    transport = crowd.world.stack(f"raw{crowd.rng.getrandbits(32)}")["transports"][0]
    address, _ = split_peer(crowd.victim.addresses[0])
    raw: RawConn = await transport.dial(address)
    return raw


async def _ends_within(raw: RawConn, seconds: float) -> None:
    """The node has to close a connection."""
    with trio.move_on_after(seconds) as scope, suppress(trio.BrokenResourceError):
        while await raw.stream.receive_some():
            pass
    await raw.stream.aclose()
    require(not scope.cancelled_caught, "it is still connected")


# --- another chain, and lies about this one


@attack
async def wrong_digest(crowd: Crowd) -> None:
    """A whole node of another chain."""
    name = f"stray{crowd.rng.getrandbits(32)}"
    chain = dev_chain(crowd.victim.chain.genesis_time - 1000)
    config = BeaconConfig(chain, listen=crowd.world.listen(name), discovery=False, peers=PeerConfig(target=1))
    async with BeaconNetwork(config, **crowd.world.stack(name)) as net:
        with suppress(P2PError):
            await net.switch.connect(crowd.victim.peer, crowd.victim.addresses)
        with trio.move_on_after(_SHED):
            while net.switch.connections(crowd.victim.peer):
                await trio.sleep(0.05)
        require(not net.switch.connections(crowd.victim.peer), "it is still connected")


@attack
async def status_liar(crowd: Crowd) -> None:
    """A head in the future, then a final epoch in the future; the first on arrival, the second later."""
    async with guest(crowd) as liar:
        await liar.join(head_slot=liar.slot + 1000)
        await liar.must_go()
    async with guest(crowd) as liar:
        await liar.join()
        await trio.sleep(0.5)
        await liar.say(finalized_epoch=10_000)
        await liar.must_go()


@attack
async def goodbye_spam(crowd: Crowd) -> None:
    async with guest(crowd) as rude:
        await rude.join()
        goodbye = request_bytes(rude.methods.goodbye, (3).to_bytes(8, "little"))
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(rude.send, rude.methods.goodbye, goodbye)
        await rude.must_go()


# --- bad requests


@attack
async def garbage_requests(crowd: Crowd) -> None:
    async with guest(crowd) as vandal:
        await vandal.join()
        noise = crowd.rng.randbytes(300)
        for method in (vandal.methods.beacon_blocks_by_range_v2, vandal.methods.beacon_blocks_by_root_v2):
            for data in (b"\xff" * 11, encode(1 << 40), b"\x18" + IDENTIFIER + noise, noise, b""):
                if vandal.connection.is_open:
                    await vandal.send(method, data)
        await vandal.must_go()


@attack
async def third_requests(crowd: Crowd) -> None:
    """Two that never end, and more beside them."""
    async with guest(crowd) as greedy:
        await greedy.join()
        method = greedy.methods.beacon_blocks_by_range_v2
        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(_one_more, greedy, method, number)
        await greedy.must_go()


async def _one_more(greedy: Guest, method: Method[Any, Any], number: int) -> None:
    await trio.sleep(number * 0.1)
    if greedy.connection.is_open:
        await greedy.send(method, b"\x18", end=False)


@attack
async def stalled_reader(crowd: Crowd) -> None:
    """Asks for all blocks there are and reads none of them; leaves by itself."""
    async with guest(crowd) as lazy:
        await lazy.join()
        method = lazy.methods.beacon_blocks_by_range_v2
        request = method.encode_request(BeaconBlocksByRangeRequest(1, 128))
        with suppress(*_BROKEN):
            for _ in range(2):
                stream = await lazy.connection.open_stream(method.protocol)
                await stream.send_all(request_bytes(method, request))
                await stream.send_eof()
            await trio.sleep(3)


@attack
async def reset_while_served(crowd: Crowd) -> None:
    """RST in the middle of an answer."""
    async with guest(crowd) as rough:
        await rough.join()
        method = rough.methods.beacon_blocks_by_range_v2
        request = method.encode_request(BeaconBlocksByRangeRequest(1, 64))
        with suppress(*_BROKEN):
            stream = await rough.connection.open_stream(method.protocol)
            await stream.send_all(request_bytes(method, request))
            await stream.send_eof()
            await stream.receive_some(10)
        rough.reset()


# --- bad answers


@attack
async def garbage_chunks(crowd: Crowd) -> None:
    async with guest(crowd) as vandal:

        async def act(stream: MuxedStream) -> None:
            await stream.send_all(bytes((SUCCESS,)) + crowd.rng.randbytes(200))

        await vandal.answer_blocks(act, 6)


@attack
async def oversized_chunks(crowd: Crowd) -> None:
    async with guest(crowd) as fat:
        digest = crowd.victim.chain.at_slot(fat.slot).digest

        async def act(stream: MuxedStream) -> None:
            await stream.send_all(bytes((SUCCESS,)) + digest + encode(1 << 40) + IDENTIFIER + bytes(100_000))

        await fat.answer_blocks(act, 6)


@attack
async def stalled_answers(crowd: Crowd) -> None:
    async with guest(crowd) as slow:

        async def act(stream: MuxedStream) -> None:
            await stream.send_all(bytes((SUCCESS,)))
            await trio.sleep(4)

        await slow.answer_blocks(act)


@attack
async def error_flood(crowd: Crowd) -> None:
    async with guest(crowd) as sorry:
        writer: ResponseWriter[Any, Any] = ResponseWriter(sorry.methods.beacon_blocks_by_range_v2, 0)

        async def act(stream: MuxedStream) -> None:
            for _ in range(1000):
                await stream.send_all(writer.error(SERVER_ERROR, "\x1b[2J" * 60))

        await sorry.answer_blocks(act)


@attack
async def reset_while_answering(crowd: Crowd) -> None:
    async with guest(crowd) as rough:

        async def act(stream: MuxedStream) -> None:
            await stream.send_all(bytes((SUCCESS,)))
            rough.reset()

        with suppress(*_BROKEN):
            await rough.answer_blocks(act)


# --- gossip


@attack
async def bad_gossip(crowd: Crowd) -> None:
    """A whole node whose messages are all to be rejected."""
    name = f"liar{crowd.rng.getrandbits(32)}"
    config = BeaconConfig(
        crowd.victim.chain,
        listen=crowd.world.listen(name),
        discovery=False,
        long_lived_subnets=False,
        peers=PeerConfig(target=1),
    )
    async with BeaconNetwork(config, **crowd.world.stack(name)) as net, trio.open_nursery() as nursery:
        await nursery.start(follow_attestations, net)
        net.gossip._validators[ATTESTATION] = lambda message: Verdict.ACCEPT
        await net.switch.connect(crowd.victim.peer, crowd.victim.addresses)
        await trio.sleep(1)
        for _ in range(20):
            with suppress(*_BROKEN):
                await net.gossip.publish(ATTESTATION, UNSOUND + crowd.rng.randbytes(PAYLOAD), SUBNET)
            await trio.sleep(0.05)
        await net.disconnect(crowd.victim.peer)
        nursery.cancel_scope.cancel()


# --- bytes


@attack
async def half_open(crowd: Crowd) -> None:
    """Connections that begin and do not go on."""
    async with trio.open_nursery() as nursery:
        for data in (b"", HEADER, HEADER + encode_line("/noise") + b"\x00\x20" + bytes(9)):
            raw = await _dial_raw(crowd)
            if data:
                await raw.stream.send_all(data)
            nursery.start_soon(_ends_within, raw, UPGRADE + 2)


@attack
async def random_tcp(crowd: Crowd) -> None:
    for size in (1, 100, 5000):
        raw = await _dial_raw(crowd)
        with suppress(trio.BrokenResourceError):
            await raw.stream.send_all(crowd.rng.randbytes(size))
        await _ends_within(raw, UPGRADE + 2)


@attack
async def random_udp(crowd: Crowd) -> None:
    name = f"noise{crowd.rng.getrandbits(32)}"
    ((ip, _),) = crowd.world.listen(name)
    with _closing(crowd.world.stack(name).get("bind", bind_udp)(ip, 0)) as udp:
        for _ in range(20):
            for _ in range(20):
                udp.send_to(crowd.rng.randbytes(crowd.rng.randrange(1400)), crowd.victim.udp)
            await trio.sleep(0.1)


class _closing:
    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __enter__(self) -> Any:
        return self.thing

    def __exit__(self, *_: object) -> None:
        self.thing.close()


def chosen(number: int, peers: int) -> list[tuple[str, Attack]]:
    """The attacks of a round: a tenth of the peers, each kind in its turn."""
    names = list(ATTACKS)
    count = math.ceil(peers / 10)
    return [(name, ATTACKS[name]) for name in (names[(number * count + at) % len(names)] for at in range(count))]
