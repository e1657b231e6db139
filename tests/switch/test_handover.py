"""Between a stream and its connection, a connection and its switch: when one of them ends at a bad moment."""

from contextlib import AsyncExitStack, suppress

import pytest
import trio
import trio.testing

from pyp2p.errors import DialFailed, MultistreamError, P2PError, StageTimeout
from pyp2p.identify.service import IDENTIFY_PROTOCOL
from pyp2p.io.handshake import Direction
from pyp2p.multistream.wire import HEADER as MULTISTREAM
from pyp2p.multistream.wire import NA, encode_line
from pyp2p.muxers.base import MuxerLimits
from pyp2p.muxers.mplex import Mplex
from pyp2p.muxers.mplex.wire import MESSAGE_INITIATOR, NEW_STREAM, RESET_INITIATOR, header
from pyp2p.muxers.yamux.wire import ACK, FIN, HEADER, RST, SYN, WINDOW_WORD
from pyp2p.peer.address import AddressKind
from pyp2p.protocols.ping import PING_PROTOCOL, ping
from pyp2p.switch.config import Limits, SwitchConfig
from pyp2p.switch.events import Connected, Disconnected, Refused
from pyp2p.switch.service import Service
from pyp2p.testing import LinkQuality, Sim, simulated
from tests.hostile.arena import arena
from tests.switch.support import ECHO, echoed, echoes, in_use, node, pair, until

# ---- a stream that ends in the read that began it ----


@pytest.mark.parametrize("body", [MULTISTREAM, MULTISTREAM + encode_line("/nobody/1")], ids=["header", "unknown"])
@pytest.mark.parametrize("muxer", ["/yamux/1.0.0", "/mplex/6.7.0"])
@simulated(seeds=(1,))
async def test_a_stream_reset_in_the_read_that_opened_it_costs_only_itself(sim: Sim, muxer: str, body: bytes) -> None:
    frames = {
        "/yamux/1.0.0": HEADER.pack(SYN, 1, len(body)) + body + HEADER.pack(WINDOW_WORD | RST, 1, 0),
        "/mplex/6.7.0": header(0, NEW_STREAM, 0)
        + header(0, MESSAGE_INITIATOR, len(body))
        + body
        + header(0, RESET_INITIATOR, 0),
    }
    async with arena(sim) as scene:
        attacker = await scene.attack(muxer)
        await attacker.send(frames[muxer])
        await trio.sleep(1)
        assert len(scene.victim.connections()) == 2  # the attacker's and the bystander's
        attacker.stream.close()


class Scripted:
    """A yamux peer behind a real connection whose answers the test writes: the link is cut, frames are fed by hand."""

    def __init__(self, connection) -> None:
        self._connection = connection

    def says(self, *frames: bytes) -> None:
        connection = self._connection
        connection._handle(connection.muxer.feed(b"".join(frames), trio.current_time()))


@simulated(seeds=(1,))
async def test_a_peer_that_declines_and_resets_in_one_read_costs_only_the_stream(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        sim.net.cut("a", "b")
        failed = []

        async def opener() -> None:
            with pytest.raises((P2PError, trio.BrokenResourceError)) as caught:
                await connection.open_stream(["/x/1", "/x/2"])
            failed.append(caught.type)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(opener)
            await trio.testing.wait_all_tasks_blocked()
            sub = [sub for sub in connection.streams if not sub.inbound][-1]
            body = MULTISTREAM + NA
            reset = HEADER.pack(WINDOW_WORD | RST, sub.id, 0)
            Scripted(connection).says(HEADER.pack(ACK, sub.id, len(body)) + body, reset)
        assert failed
        assert connection.is_open


@simulated(seeds=(1,))
async def test_a_stream_that_ends_without_an_answer_is_no_clean_end(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        sim.net.cut("a", "b")
        stream = await connection.open_stream("/x", lazy=True)
        await stream.send_all(b"question")
        Scripted(connection).says(HEADER.pack(WINDOW_WORD | FIN | ACK, stream.id, 0))
        with pytest.raises(MultistreamError, match="instead of answering"):
            await stream.receive_some()
        assert connection.is_open


# ---- who closes what he stands on ----


@simulated(seeds=(1,))
async def test_a_handler_may_close_its_own_connection(sim: Sim) -> None:
    took = []
    async with pair(sim) as (a, b):

        async def leave(stream) -> None:
            started = trio.current_time()
            try:
                await b.disconnect(stream.peer, "enough")
            finally:
                took.append(trio.current_time() - started)

        b.mount("/leave", leave)
        await a.connect(b.multiaddrs[0])
        async with await a.open_stream(b.peer, "/leave") as stream:
            await stream.send_all(b"x")
            await until(lambda: not any(in_use(b).values()))
        assert took[0] < 0.1


@simulated(seeds=(1,))
async def test_a_service_may_close_the_connection_it_is_told_of(sim: Sim) -> None:
    async with pair(sim) as (a, b):

        async def not_you(connection) -> None:
            await connection.aclose()

        b.attach(Service("picky", peer_connected=not_you))
        await a.connect(b.multiaddrs[0])
        started = trio.current_time()
        await until(lambda: not any(in_use(b).values()))
        assert trio.current_time() - started < 0.1


@simulated(seeds=(1,))
async def test_services_have_no_last_word_on_an_isolated_connection(sim: Sim) -> None:
    said = []

    async def word(connection, reason) -> None:
        said.append(connection)

    async with node(sim, "b") as b:
        async with node(sim, "a") as a:
            a.attach(Service("talker", last_word=word))
            await a.connect(b.multiaddrs[0], isolated=True)
            await a.connect(b.multiaddrs[0])
        assert [connection.kind for connection in said] == [AddressKind.OUTBOUND_DIRECT]


@simulated(seeds=(1,))
async def test_the_end_of_a_stream_is_sent_before_the_goodbye(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.05)
    ended = []
    async with node(sim, "b", config=SwitchConfig(agent="other/1")) as b:

        async def sink(stream) -> None:
            async for _ in stream:
                pass
            ended.append("end")

        b.mount("/sink", sink)
        async with node(sim, "a") as a, await a.open_stream(b.multiaddrs[0], "/sink") as stream:
            await stream.send_all(b"hello")  # the end is held back until b has answered: b is not of our kind
        await trio.sleep(3)
    assert ended == ["end"]


# ---- events and sockets ----


@simulated(seeds=(1,))
async def test_a_stuck_subscriber_keeps_no_socket_open(sim: Sim) -> None:
    async with node(sim, "b", config=SwitchConfig(limits=Limits(event_queue=1))) as b, b.watch():
        for number in range(5):
            async with node(sim, f"guest {number}") as guest:
                with trio.move_on_after(3):
                    await guest.connect(b.multiaddrs[0])
        await trio.sleep(60)
        assert all(connection.over for connection in sim.net.connections())


@simulated(seeds=(1, 2, 3))
async def test_at_a_stop_nobody_is_connected_who_is_not_disconnected(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.02)
    for moment in range(1, 40):
        seen = []
        async with node(sim, f"a{moment}") as a, trio.open_nursery() as nursery, node(sim, f"b{moment}") as b:

            async def collect(switch, seen, task_status=trio.TASK_STATUS_IGNORED) -> None:
                async with switch.watch() as events:
                    task_status.started()
                    seen += [type(event) async for event in events]

            async def dial(one, other) -> None:
                with suppress(DialFailed):
                    await one.connect(other.multiaddrs[0])

            await nursery.start(collect, b, seen)
            nursery.start_soon(dial, a, b)
            await trio.sleep(moment * 0.005)
        assert seen.count(Connected) == seen.count(Disconnected), moment


@simulated(seeds=(1,))
async def test_a_stop_waits_until_a_slow_subscriber_has_heard_of_every_end(sim: Sim) -> None:
    heard = []

    async def collect(switch, task_status=trio.TASK_STATUS_IGNORED) -> None:
        async with switch.watch() as events:
            task_status.started()
            async for event in events:
                heard.append(type(event))
                await trio.sleep(0.05)

    async with AsyncExitStack() as stack:
        guests = [await stack.enter_async_context(node(sim, f"guest {number}")) for number in range(10)]
        nursery = await stack.enter_async_context(trio.open_nursery())
        async with node(sim, "b", listen=[], config=SwitchConfig(limits=Limits(event_queue=1))) as b:
            await nursery.start(collect, b)
            for guest in guests:
                await b.connect(guest.multiaddrs[0])
            await until(lambda: heard.count(Connected) == 10)
    assert heard.count(Disconnected) == 10


# ---- limits ----


@simulated(seeds=(1,))
async def test_streams_that_wait_for_an_acknowledgement_go_on_when_others_are_reset_here(sim: Sim) -> None:
    few = SwitchConfig(limits=Limits(muxer=MuxerLimits(max_outbound_unacked=2)))
    async with pair(sim, {"config": few}) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        sim.net.cut("a", "b")
        first = [await connection.open_stream("/x", lazy=True) for _ in range(2)]
        opened = []

        async def third() -> None:
            opened.append(await connection.open_stream("/x", lazy=True))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(third)
            await trio.sleep(1)
            assert not opened
            first[0].reset()
        assert opened


@simulated(seeds=(1,))
async def test_the_wait_for_an_acknowledgement_has_the_deadline_of_the_selection(sim: Sim) -> None:
    few = SwitchConfig(limits=Limits(muxer=MuxerLimits(max_outbound_unacked=2)), heartbeat=False)
    async with pair(sim, {"config": few}) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        sim.net.cut("a", "b")
        for _ in range(2):
            await connection.open_stream("/x", lazy=True)
        started = trio.current_time()
        with pytest.raises(StageTimeout, match="2 streams wait for the peer's acknowledgement"):
            await connection.open_stream("/y", lazy=True)
        assert trio.current_time() - started == pytest.approx(10)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(streams_per_connection=4, unnegotiated_streams=4), "limit.streams_per_connection"),
        (Limits(muxer=MuxerLimits(max_inbound_streams=4)), "limit.muxer"),
    ],
    ids=["connection", "muxer"],
)
@simulated(seeds=(1,))
async def test_a_refused_stream_is_counted_and_told(sim: Sim, limits: Limits, code: str) -> None:
    async with pair(sim, b={"config": SwitchConfig(limits=limits)}) as (a, b), b.watch() as events:
        connection = await a.connect(b.multiaddrs[0])
        for _ in range(8):
            stream = await connection.open_stream(ECHO)
            await stream.send_all(b"x")
        await until(lambda: b.counters.get(f"refused.{code}", 0) == 4)
        async for event in events:
            if isinstance(event, Refused) and event.code == code:
                break


@simulated(seeds=(1,))
async def test_a_heartbeat_that_the_peer_has_no_room_for_is_a_sign_of_life(sim: Sim) -> None:
    async with pair(sim, {"muxers": [Mplex()]}, {"muxers": [Mplex()]}) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        taken = [await connection.open_stream(PING_PROTOCOL) for _ in range(2)]
        for stream in taken:
            await ping(stream, bytes)
        await trio.sleep(120)  # the two places that a peer has are taken, and silent
        assert connection.reason is None


@simulated(seeds=(1,))
async def test_a_slow_stream_opened_elsewhere_lives_while_it_makes_progress(sim: Sim) -> None:
    sim.net.quality = LinkQuality(bandwidth=16_000)
    near, far = sim.net.host("x", buffer=4096), sim.net.host("y", buffer=4096)
    async with pair(sim) as (a, b):
        listener = await far.transport.listen(far.address(5000))
        dialled = await near.transport.dial(far.address(5000))
        accepted = await listener.accept()
        got = []

        async def sink(stream) -> None:
            got.append(sum([len(chunk) async for chunk in stream]))

        b.mount("/sink", sink)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(adopt, b, Plain(accepted.stream), Direction.INBOUND)
            connection = await adopt(a, Plain(dialled.stream), Direction.OUTBOUND)
        async with await connection.open_stream("/sink") as stream:
            await stream.send_all(bytes(1_000_000))
        with trio.fail_after(120):
            while not got:
                await trio.sleep(1)
        assert got == [1_000_000]
        assert connection.reason is None
        await listener.aclose()


async def adopt(switch, stream, direction: Direction):
    return await switch.adopt(stream, kind=AddressKind.OUTBOUND_PROXY, direction=direction)


class Plain(trio.abc.HalfCloseableStream):
    """A stream that can send only by waiting, as one that comes from elsewhere."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream

    async def send_all(self, data) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive_some(self, max_bytes=None) -> bytes:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


# ---- what is pushed ----


@pytest.mark.parametrize("admission", [0.0, 3.0], ids=["at once", "after a slow admission"])
@simulated(seeds=(1,))
async def test_a_change_while_two_nodes_get_to_know_each_other_is_pushed(sim: Sim, admission: float) -> None:
    sim.net.quality = LinkQuality(latency=0.1)

    async def slow(connection) -> None:
        await trio.sleep(admission)

    async def serve(stream) -> None:
        await stream.aclose()

    async with pair(sim) as (a, b):
        b.attach(Service("slow", admit=slow))
        found = []

        async def dial() -> None:
            found.append(await a.connect(b.multiaddrs[0]))

        mounted = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            while not found:
                await trio.sleep(0.02)
                mounted.append(f"/new/{len(mounted)}")
                b.mount(mounted[-1], serve)
        await until(lambda: set(mounted) <= set(found[0].info.protocols))
        assert IDENTIFY_PROTOCOL in found[0].info.protocols


@simulated(seeds=(1,))
async def test_a_matcher_that_crashes_says_no(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        b.mount("/m/1", echoes, match=lambda name: int(name.split("/")[2]) > 1)
        connection = await a.connect(b.multiaddrs[0])
        with pytest.raises(P2PError):
            await connection.open_stream(["/m/x", "/m/y"])
        await echoed(await connection.open_stream(ECHO))
