"""What a connection holds, owes and waits for, seen from a peer that writes each frame by hand."""

import pytest
import trio
import trio.testing

from pyp2p.errors import StageTimeout
from pyp2p.identify.service import IDENTIFY_PROTOCOL
from pyp2p.identify.wire import IdentifyInfo, encode
from pyp2p.multistream.wire import HEADER as MULTISTREAM
from pyp2p.multistream.wire import encode_line
from pyp2p.muxers.base import MuxerLimits
from pyp2p.muxers.mplex import Mplex
from pyp2p.muxers.yamux import Yamux
from pyp2p.switch.config import Limits, SwitchConfig, Timeouts
from pyp2p.switch.connection import Connection
from pyp2p.testing import LinkQuality, Sim, simulated
from tests.hostile.arena import Arena, Attacker, arena
from tests.hostile.test_muxers import ACK, DATA, FIN, GOAWAY, RST, SYN, WINDOW, frame
from tests.switch.support import ECHO, echoed, node, pair, until

PLAIN = SwitchConfig(identify=False)  # the first stream that is opened to the guest is stream 2


def proposal(protocol: str) -> bytes:
    """What opens a stream for `protocol`; the answer of one who speaks it is the same."""
    return MULTISTREAM + encode_line(protocol)


def said(stream: int, body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, len(body), body)


async def guest(scene: Arena) -> tuple[Attacker, Connection]:
    """A peer that answers nothing by itself, and the connection to it."""
    raw = await scene.attack()
    (connection,) = scene.victim.connections(raw.identity.peer)
    return raw, connection


# ---- the end of a stream ----


@pytest.mark.parametrize("agent", ["other/1.0", "pyp2p/0.1.0"])
@simulated(seeds=(1,))
async def test_the_end_of_a_stream_waits_for_the_answer_of_a_peer_of_another_kind(sim: Sim, agent: str) -> None:
    async with arena(sim) as scene:
        raw = await scene.attack()
        await raw.hear(said(2, proposal(IDENTIFY_PROTOCOL), SYN))
        me = b"".join(encode(IdentifyInfo(agent=agent, protocols=("/x",))))
        await raw.send(said(2, proposal(IDENTIFY_PROTOCOL) + me, ACK | FIN))
        (connection,) = scene.victim.connections(raw.identity.peer)
        await connection.identified.wait()
        async with await connection.open_stream("/x") as stream:  # lazily: it said that it speaks this
            await stream.send_all(b"question")
            await stream.send_eof()
        asked = said(4, proposal("/x") + b"question", SYN)
        end = frame(WINDOW, FIN, 4, 0)
        await raw.hear(asked)
        await trio.sleep(0.3)
        assert (end in await raw.hear(asked)) is agent.startswith("pyp2p/")
        await raw.send(said(4, proposal("/x"), ACK))
        await raw.hear(end, seconds=0.1)
        raw.stream.close()


@simulated(seeds=(1,))
async def test_the_end_of_a_stream_does_not_wait_long(sim: Sim) -> None:
    async with arena(sim, PLAIN) as scene:
        raw, connection = await guest(scene)
        async with await connection.open_stream("/x", lazy=True) as stream:
            await stream.send_all(b"question")
        started = trio.current_time()
        await raw.hear(frame(WINDOW, FIN, 2, 0))
        assert trio.current_time() - started < 2.5  # a second, and two looks at the clock
        raw.stream.close()


@simulated(seeds=(1,))
async def test_a_stream_that_only_the_peer_keeps_open_is_reset_in_time(sim: Sim) -> None:
    config = SwitchConfig(identify=False, timeouts=Timeouts(half_closed=5))
    async with arena(sim, config) as scene:
        raw, connection = await guest(scene)
        async with await connection.open_stream("/x", lazy=True) as stream:
            await stream.send_all(b"question")
        await raw.hear(frame(WINDOW, FIN, 2, 0))
        await trio.sleep(2)
        assert len(connection.streams) == 1
        await raw.hear(frame(WINDOW, RST, 2, 0), seconds=5)
        assert not connection.streams
        assert connection.is_open
        raw.stream.close()


# ---- what is held in memory ----


@pytest.mark.parametrize("muxer", [Yamux, Mplex])
@simulated(seeds=(1,))
async def test_what_nobody_read_is_paid_back_when_its_connection_ends(sim: Sim, muxer) -> None:
    async def deaf(stream) -> None:
        await trio.sleep_forever()

    async with pair(sim, {"muxers": [muxer()]}, {"muxers": [muxer()]}) as (a, b):
        b.mount("/deaf", deaf)
        memory = lambda: b._establisher.in_use()["memory"]  # noqa: E731
        stream = await a.open_stream(b.multiaddrs[0], "/deaf")
        await stream.send_all(bytes(100_000))
        await until(lambda: memory() >= 100_000)
        sim.net.reset("a", "b")
        await until(lambda: memory() == 0)


@simulated(seeds=(1,))
async def test_the_senders_buffer_is_its_own_again_when_sending_returns(sim: Sim) -> None:
    """Answers of two streams that one read woke share a frame, which is sealed after both senders have gone on."""

    async def reuses(stream) -> None:
        buffer = bytearray(4)
        async for chunk in stream:
            buffer[:] = chunk
            await stream.send_all(buffer)
            buffer.reverse()
            await stream.send_all(memoryview(buffer)[1:])
            buffer[:] = b"----"

    async with arena(sim, PLAIN) as scene:
        scene.victim.mount("/reuses", reuses)
        raw = await scene.attack()
        for stream in (1, 3):
            await raw.send(said(stream, proposal("/reuses"), SYN))
            await raw.hear(said(stream, proposal("/reuses"), ACK))  # the next answer has no negotiation before it
        await raw.send(said(1, b"left") + said(3, b"star"))
        for stream, word in ((1, b"left"), (3, b"star")):
            await raw.hear(said(stream, word))
            await raw.hear(said(stream, word[-2::-1]))
        raw.stream.close()


# ---- waiting for acknowledgements ----

TWO = SwitchConfig(
    identify=False,
    limits=Limits(muxer=MuxerLimits(max_outbound_unacked=2)),
    timeouts=Timeouts(protocol_select=3),
)


async def _what_ends_the_wait(scene: Arena, act) -> tuple[object, float]:
    """Open two streams that nobody acknowledges, wait for a third, and `act`: what came of it, and when."""
    raw, connection = await guest(scene)
    for _ in range(2):
        await (await connection.open_stream("/x", lazy=True)).send_all(b"x")
    outcome: list[tuple[object, float]] = []

    async def third() -> None:
        try:
            came: object = await connection.open_stream("/x", lazy=True)
        except (trio.BrokenResourceError, StageTimeout) as error:
            came = error
        outcome.append((came, trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(third)
        await trio.testing.wait_all_tasks_blocked()
        assert not outcome
        started = trio.current_time()
        nursery.start_soon(act, raw, connection)
        await until(lambda: outcome)
    raw.stream.close()
    came, at = outcome[0]
    return came, at - started


async def _says_goaway(raw: Attacker, connection: Connection) -> None:
    await raw.send(frame(GOAWAY, 0, 0, 0))


async def _hangs_up(raw: Attacker, connection: Connection) -> None:
    raw.stream.close()


async def _closes(raw: Attacker, connection: Connection) -> None:
    await connection.aclose()


@pytest.mark.parametrize("act", [_says_goaway, _hangs_up, _closes])
@simulated(seeds=(1,))
async def test_who_waits_to_open_a_stream_is_told_at_once_that_none_will_be(sim: Sim, act) -> None:
    async with arena(sim, TWO) as scene:
        outcome, took = await _what_ends_the_wait(scene, act)
        assert isinstance(outcome, trio.BrokenResourceError)
        assert took < 0.1


@simulated(seeds=(1,))
async def test_one_acknowledgement_lets_one_stream_more_be_opened(sim: Sim) -> None:
    async def acknowledges(raw: Attacker, connection: Connection) -> None:
        await raw.send(frame(WINDOW, ACK, 2, 0))

    async with arena(sim, TWO) as scene:
        outcome, took = await _what_ends_the_wait(scene, acknowledges)
        assert not isinstance(outcome, Exception)
        assert took < 0.1


# ---- the goodbye ----


@pytest.mark.parametrize("answers", [True, False])
@simulated(seeds=(1,))
async def test_who_says_goodbye_listens_until_the_peer_has_ended_too_but_not_long(sim: Sim, answers: bool) -> None:
    """A socket that is closed over unread input destroys what the peer has not read yet: our last words."""
    config = SwitchConfig(identify=False, timeouts=Timeouts(drain=0.5))
    async with arena(sim, config) as scene:
        raw, connection = await guest(scene)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.aclose)
            said = await raw.hear(frame(GOAWAY, 0, 0, 0))
            assert said.endswith(frame(GOAWAY, 0, 0, 0))
            assert await raw.stream.receive_some() == b""
            await trio.sleep(0.2)
            await raw.send(frame(WINDOW, 0, 0x7FFF, 1))  # somebody still listens
            if answers:
                raw.stream.close()
        assert trio.current_time() - started == pytest.approx(0.2 if answers else 0.5)
        raw.stream.close()


# ---- two connections to one peer ----


@pytest.mark.parametrize("latency", [0.1, 0.45])
@simulated(seeds=(1,))
async def test_a_stream_opened_while_one_of_two_connections_is_given_up_completes(sim: Sim, latency: float) -> None:
    """Neither side knows when the other sees both, and looks away from the one that goes: what it opens arrives."""
    sim.net.quality = LinkQuality(latency=latency)
    for tenths in range(40):
        async with node(sim, f"a{tenths}") as a, node(sim, f"b{tenths}") as b:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.connect, b.multiaddrs[0])
                await trio.sleep(0.3 * (tenths % 3))
                nursery.start_soon(b.connect, a.multiaddrs[0])
            await trio.sleep(tenths / 10)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_opens_and_echoes, a, b)
                nursery.start_soon(_opens_and_echoes, b, a)
            await until(lambda a=a, b=b: len(a.connections()) == len(b.connections()) == 1)


@simulated(seeds=(1,))
async def test_who_was_given_the_connection_that_goes_may_still_open_a_stream_for_a_while(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.1)
    async with pair(sim) as (a, b):
        given: list[Connection] = []

        async def dial(one, other) -> None:
            given.append(await one.connect(other.multiaddrs[0]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, a, b)
            nursery.start_soon(dial, b, a)
        assert len(a.connections()) == 2
        await trio.sleep(1.5)
        for connection in given:
            await echoed(await connection.open_stream(ECHO))
        await until(lambda: len(a.connections()) == len(b.connections()) == 1)


async def _opens_and_echoes(one, other) -> None:
    await echoed(await one.open_stream(other.peer, ECHO))
