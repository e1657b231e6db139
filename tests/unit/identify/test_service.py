"""Identify over streams: asking, answering, pushing, over trio's memory streams and a store of its own."""

import random
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from multiaddr import Multiaddr

from pyp2p.errors import IdentifyError, WireError
from pyp2p.identify.core import OBSERVERS
from pyp2p.identify.service import PUSH_CONCURRENCY, PUSH_TIMEOUT, Identify
from pyp2p.identify.wire import IdentifyInfo, decode, encode
from pyp2p.io.varint import LengthPrefixed
from pyp2p.peer.address import AddressKind, parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.peer.record import DOMAIN, PAYLOAD_TYPE, Envelope, PeerRecord, open_record, seal
from pyp2p.peer.store import PeerStore

addr = parse_multiaddr
ANNE = Identity.generate(entropy=lambda count: bytes(range(count)))
BOB = Identity.generate(entropy=lambda count: bytes(range(1, count + 1)))
THERE = addr("/ip4/20.1.2.3/tcp/4001")
HOME = addr("/ip4/10.0.0.1/tcp/4001")
SEEN = addr("/ip4/9.9.9.9/tcp/4001")


@dataclass
class Line:
    """A connection, as far as identify knows one."""

    peer: PeerId = BOB.peer
    remote: Multiaddr = THERE
    kind: AddressKind = AddressKind.OUTBOUND_DIRECT
    info: IdentifyInfo | None = None


class Node:
    """Our side: an `Identify` with the lists that it is told."""

    def __init__(self) -> None:
        self.store = PeerStore()
        self.addresses = [HOME]
        self.wall = 1000.0
        self.identify = Identify(
            ANNE,
            self.store,
            agent="test/1",
            protocol_version="test/0",
            protocols=lambda: ["/a", "/b"],
            addresses=lambda: self.addresses,
            wall=lambda: self.wall,
        )

    async def hear(self, line: Line, *messages: IdentifyInfo) -> IdentifyInfo:
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(b"".join(piece for message in messages for piece in encode(message)))
        await far.send_eof()
        return await self.identify.ask(near, line)

    async def tell(self, line: Line) -> IdentifyInfo:
        near, far = trio.testing.memory_stream_pair()
        await self.identify.answer(near, line)
        framer, messages = LengthPrefixed(8192), []
        async for chunk in far:
            messages += framer.feed(chunk)
        framer.finish()
        return decode(messages)


@pytest.fixture
def node() -> Node:
    return Node()


async def test_the_answer_says_who_and_where_we_are_and_where_we_see_the_peer(node: Node) -> None:
    line = Line()
    said = await node.tell(line)
    assert (said.public_key, said.protocols, said.addresses) == (ANNE.public_key, ("/a", "/b"), (HOME,))
    assert (said.agent, said.protocol_version, said.observed) == ("test/1", "test/0", line.remote)
    assert said.record is not None
    record = open_record(said.record)
    assert (record.peer, record.addresses) == (ANNE.peer, (HOME,))


async def test_records_are_sealed_when_addresses_change_and_their_numbers_only_grow(node: Node) -> None:
    async def number() -> int:
        return open_record((await node.tell(Line())).record or b"").seq

    first = await number()
    assert await number() == first
    node.addresses = [HOME, SEEN]
    node.wall -= 500  # the clock was set back
    second = await number()
    assert second > first
    again = Node()  # the same key, half a second after the first start
    again.wall = 1000.5
    assert open_record((await again.tell(Line())).record or b"").seq > second


async def test_a_machine_with_many_addresses_tells_the_first_64(node: Node) -> None:
    node.addresses = [addr(f"/ip6/2600::{n:x}/tcp/4001") for n in range(1, 1000)]
    said = await node.tell(Line())
    assert said.addresses == tuple(node.addresses[:64])
    assert open_record(said.record or b"").addresses == said.addresses


async def test_what_a_peer_says_is_remembered_under_its_id(node: Node) -> None:
    info = await node.hear(Line(), IdentifyInfo(public_key=BOB.public_key, protocols=("/x",), agent="b/1"))
    assert (info.protocols, info.agent, info.addresses) == (("/x",), "b/1", ())
    assert node.store.protocols(BOB.peer) == ("/x",)
    assert node.store.agent(BOB.peer) == "b/1"
    assert node.store.addresses(BOB.peer, trio.current_time()) == [THERE]


async def test_a_signed_record_wins(node: Node) -> None:
    signed = addr("/ip4/30.0.0.1/tcp/1")
    record = seal(BOB, PeerRecord(BOB.peer, 7, (signed,)))
    await node.hear(Line(), IdentifyInfo(addresses=(addr("/ip4/30.0.0.2/tcp/2"),), record=record))
    assert node.store.addresses(BOB.peer, trio.current_time()) == [THERE, signed]


async def test_hostile_049_the_key_of_another_peer_leaves_no_trace(node: Node) -> None:
    with pytest.raises(IdentifyError):
        await node.hear(Line(), IdentifyInfo(public_key=ANNE.public_key, protocols=("/x",)))
    assert node.store.protocols(BOB.peer) == ()
    assert node.store.addresses(BOB.peer, trio.current_time()) == []


async def test_hostile_051_a_record_about_or_by_another_peer_is_ignored(node: Node) -> None:
    third = Identity.generate(entropy=lambda count: bytes(range(2, count + 2)))
    elsewhere = (addr("/ip4/30.0.0.1/tcp/1"),)
    about_bob = Envelope.open(seal(BOB, PeerRecord(BOB.peer, 1, elsewhere)), DOMAIN).payload
    for record in (
        seal(third, PeerRecord(third.peer, 1, elsewhere)),
        Envelope.seal(third, DOMAIN, PAYLOAD_TYPE, about_bob).encode(),
        Envelope.seal(BOB, "libp2p-routing-state", PAYLOAD_TYPE, about_bob).encode(),
        Envelope.seal(BOB, DOMAIN, b"\x03\x02", about_bob).encode(),
        b"garbage",
    ):
        info = await node.hear(Line(), IdentifyInfo(agent="b/1", record=record))
        assert info.agent == "b/1"
        assert node.store.addresses(third.peer, trio.current_time()) == []
        assert node.store.addresses(BOB.peer, trio.current_time()) == [THERE]


async def test_hostile_054_addresses_that_change_a_thousand_times_are_replaced(node: Node) -> None:
    for port in range(1, 1001):
        await node.hear(Line(), IdentifyInfo(addresses=(addr(f"/ip6/::ffff:30.0.0.1/tcp/{port}"),)))
    assert node.store.addresses(BOB.peer, trio.current_time()) == [THERE, addr("/ip4/30.0.0.1/tcp/1000")]


class Sip(trio.abc.ReceiveStream):
    """A stream that gives one byte at a time."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(1))

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (b"", IdentifyError),
        (b"\x05abc", WireError),
        (b"\xff\xff\xff\xff\x07", WireError),
        (b"\x81\x40" + bytes(8193), WireError),
        (b"\x00" * 11, IdentifyError),
        (b"\x02\xff\xff", IdentifyError),
    ],
    ids=["nothing", "cut", "a huge length", "8193 bytes", "eleven messages", "no protobuf"],
)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "byte by byte"])
async def test_hostile_045_an_answer_that_breaks_the_rules(node: Node, wire: bytes, error: type, whole: bool) -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(wire)
    await far.send_eof()
    stream = near if whole else trio.StapledStream(near.send_stream, Sip(near.receive_stream))
    with pytest.raises(error):
        await node.identify.ask(stream, Line())
    assert node.store.protocols(BOB.peer) == ()


async def test_hostile_045_the_end_is_not_awaited_when_there_is_too_much(node: Node) -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(b"\x00" * 11)  # and no end
    with pytest.raises(IdentifyError):
        await node.identify.ask(near, Line())


async def test_an_isolated_connection_leaves_nothing(node: Node) -> None:
    info = await node.hear(
        Line(kind=AddressKind.ISOLATED), IdentifyInfo(protocols=("/x",), agent="b/1", addresses=(HOME,))
    )
    assert info.agent == "b/1"
    assert node.store.protocols(BOB.peer) == ()
    assert node.store.agent(BOB.peer) == ""
    assert node.store.addresses(BOB.peer, trio.current_time()) == []


# ---- where we are seen ----


async def observed_by_all(node: Node, seen: str, kind: AddressKind = AddressKind.OUTBOUND_DIRECT) -> list[Multiaddr]:
    for n in range(OBSERVERS):
        line = Line(PeerId(b"\x12\x20" + bytes([n]) * 32), addr(f"/ip4/{20 + n}.1.2.3/tcp/1"), kind)
        await node.hear(line, IdentifyInfo(observed=addr(seen)))
    return node.identify.observed.confirmed(trio.current_time())


@pytest.mark.parametrize("seen", ["/ip4/9.9.9.9/tcp/4001", f"/ip4/9.9.9.9/tcp/4001/p2p/{ANNE.peer}"])
async def test_hostile_050_four_observers_are_believed(node: Node, seen: str) -> None:
    assert await observed_by_all(node, seen) == [SEEN]


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        ("/ip4/9.9.9.9/tcp/4001", AddressKind.OUTBOUND_PROXY),
        ("/ip4/9.9.9.9/tcp/4001", AddressKind.INBOUND_PROXY),
        ("/ip4/9.9.9.9/tcp/4001", AddressKind.ISOLATED),
        ("/ip4/9.9.9.9/udp/4001/quic-v1", AddressKind.OUTBOUND_DIRECT),
        ("/ip6/2600::9/tcp/4001", AddressKind.OUTBOUND_DIRECT),
        ("/ip4/10.0.0.7/tcp/4001", AddressKind.OUTBOUND_DIRECT),
        (f"/ip4/9.9.9.9/tcp/4001/p2p/{BOB.peer}", AddressKind.OUTBOUND_DIRECT),
    ],
    ids=["our proxy's", "their proxy's", "isolated", "no QUIC here", "no IPv6 here", "private", "another's"],
)
async def test_hostile_050_what_cannot_be_ours_is_not_believed(node: Node, seen: str, kind: AddressKind) -> None:
    assert await observed_by_all(node, seen, kind) == []


async def test_a_node_that_does_not_listen_is_nowhere(node: Node) -> None:
    node.addresses = []
    assert await observed_by_all(node, "/ip4/9.9.9.9/tcp/4001") == []


# ---- pushes ----


class Pusher:
    """One push that the test completes when it likes."""

    def __init__(self, node: Node, line: Line, nursery: trio.Nursery, order: int = 1) -> None:
        self._near, self._far = trio.testing.memory_stream_pair()
        self._node, self._line, self._order = node, line, order
        self.error: Exception | None = None
        self.done = trio.Event()
        nursery.start_soon(self._take)

    async def _take(self) -> None:
        try:
            self._line.info = await self._node.identify.take_push(self._near, self._line, self._order)
        except (trio.TooSlowError, WireError, IdentifyError) as error:
            self.error = error
        self.done.set()

    async def say(self, info: IdentifyInfo) -> None:
        await self._far.send_all(b"".join(encode(info)))

    async def end(self) -> None:
        await self._far.send_eof()
        await self.done.wait()


async def test_hostile_047_pushes_that_overlap_do_not_undo_each_other(node: Node, nursery: trio.Nursery) -> None:
    line = Line(info=IdentifyInfo(protocols=("/old",), agent="old", addresses=()))
    slow = Pusher(node, line, nursery)
    await slow.say(IdentifyInfo(protocols=("/new",)))
    await trio.testing.wait_all_tasks_blocked()
    fast = Pusher(node, line, nursery)
    await fast.say(IdentifyInfo(agent="new"))
    nursery.start_soon(fast.end)
    await trio.testing.wait_all_tasks_blocked()
    await slow.end()
    await fast.done.wait()
    assert line.info is not None
    assert (line.info.protocols, line.info.agent) == (("/new",), "new")
    assert node.store.protocols(BOB.peer) == ("/new",)


async def test_hostile_047_pushes_that_come_together_count_in_the_order_of_their_streams(node: Node) -> None:
    line = Line(info=IdentifyInfo())
    orders = list(range(1, 60, 2))
    random.Random(1).shuffle(orders)
    async with trio.open_nursery() as nursery:
        for order in orders:
            push = Pusher(node, line, nursery, order)
            await push.say(IdentifyInfo(agent=str(order)))
            nursery.start_soon(push.end)
    assert node.store.agent(BOB.peer) == "59"


async def test_hostile_047_a_peer_with_many_silent_pushes_does_not_hold_up_others(node: Node, autojump_clock) -> None:
    async with trio.open_nursery() as nursery:
        greedy = Line()
        for _ in range(2 * PUSH_CONCURRENCY):
            Pusher(node, greedy, nursery)
        await trio.testing.wait_all_tasks_blocked()
        other = Line(ANNE.peer, info=IdentifyInfo())
        push = Pusher(node, other, nursery)
        await push.say(IdentifyInfo(agent="here"))
        await push.end()
        assert trio.current_time() == 0
        assert node.store.agent(ANNE.peer) == "here"
        nursery.cancel_scope.cancel()
    assert node.identify._lines == {}


async def test_hostile_047_pushes_of_many_peers_are_read_32_at_once(node: Node, autojump_clock) -> None:
    async with trio.open_nursery() as nursery:
        lines = [Line(PeerId(b"\x12\x20" + bytes([n]) * 32)) for n in range(PUSH_CONCURRENCY + 1)]
        pushes = [Pusher(node, line, nursery) for line in lines[:-1]]
        await trio.testing.wait_all_tasks_blocked()
        last = Pusher(node, lines[-1], nursery)
        await last.say(IdentifyInfo(agent="last"))
        started = trio.current_time()
        await last.end()
        assert trio.current_time() - started == pytest.approx(PUSH_TIMEOUT)
        assert all(isinstance(push.error, trio.TooSlowError) for push in pushes)
        assert last.error is None
        assert node.store.agent(lines[-1].peer) == "last"
    assert node.identify._lines == {}


async def test_hostile_047_a_push_that_says_nothing_changes_nothing(node: Node, nursery: trio.Nursery) -> None:
    line = Line(info=IdentifyInfo(protocols=("/old",)))
    push = Pusher(node, line, nursery)
    await push.end()
    assert isinstance(push.error, IdentifyError)
    assert line.info == IdentifyInfo(protocols=("/old",))
