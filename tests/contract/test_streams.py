"""Every stream of every stack keeps trio's contract and ours, and leaves nothing behind on its connection."""

import pytest
import trio

from pyp2p.muxers.base import MuxerLimits
from pyp2p.switch.stream import StreamReset
from pyp2p.testing.contract import check_stream
from tests.contract.stacks import PROTOCOL, STACKS, Ends, connected

pytestmark = pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.name)


async def settled(ends: Ends) -> None:
    """Wait until both ends have forgotten every stream and paid everything back; the test's timeout is the limit."""
    while True:
        await trio.testing.wait_all_tasks_blocked(0.001)
        left = [len(end.streams) for end in (ends.dialer, ends.listener)] + [memory.used for memory in ends.memory]
        if not any(left):
            return


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    parts = []
    while part := await stream.receive_some():
        parts.append(part)
    return b"".join(parts)


async def test_trios_contract(stack):
    async with connected(stack) as ends:
        await check_stream(ends.streams)


async def test_streams_of_the_listener_keep_it_too(stack):
    async with connected(stack) as ends:

        async def swapped():
            near, far = await ends.streams()
            return far, near

        await check_stream(swapped)


async def test_request_and_answer_by_half_close(stack):
    async with connected(stack) as ends:
        near, far = await ends.streams()
        async with near, far:
            await near.send_all(b"question")
            await near.send_eof()
            assert await read_all(far) == b"question"
            await far.send_all(b"answer")
            await far.send_eof()
            assert await read_all(near) == b"answer"
        await settled(ends)


async def test_an_answer_with_data_and_end_in_one_read_is_read_whole(stack):
    """Our own end waits for the answer to our proposal: when it leaves, data that came with the answer still counts."""
    async with connected(stack) as ends:
        near = await ends.dialer.open_stream(PROTOCOL, lazy=True)
        await near.send_eof()
        far = await ends.arrived.receive()
        far.flush_prefix()  # frames of their own in one write, as js-libp2p sends them
        for part in (b"one", b"two"):
            assert ends.listener.transmit(far.sub, part, more=True) == len(part)
        ends.listener.muxer.fin(far.sub)
        ends.listener.flush()
        assert await read_all(near) == b"onetwo"
        assert await read_all(far) == b""
        await near.aclose()
        await far.aclose()
        await settled(ends)


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
async def test_the_end_leaves_with_the_last_data(stack, size):
    """Also when the window or the socket takes only parts of it."""
    data = bytes(range(250)) * (size // 250) + bytes(size % 250)
    async with connected(stack) as ends:
        near, far = await ends.streams()
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(near.send_last, data)
            assert await read_all(far) == data
            assert far.at_end and not near.at_end
            await far.send_last(b"answer")
            assert await near.receive_some() == b"answer"
        with pytest.raises(trio.ClosedResourceError):
            await near.send_last(b"more")
        await settled(ends)


async def test_a_cancelled_send_last_has_not_ended_the_stream(stack):
    async with connected(stack) as ends:
        near, far = await ends.streams()
        async with far:
            with trio.CancelScope() as scope:
                scope.cancel()
                await near.send_last(b"x")
            assert scope.cancelled_caught
            await near.send_last(b"y")
            assert await read_all(far) == b"y"
            await near.aclose()
        await settled(ends)


async def test_bulk_both_ways_at_once(stack):
    data = bytes(range(256)) * (3 << 12)
    async with connected(stack) as ends:
        near, far = await ends.streams()
        got = {}

        async def send(stream):
            await stream.send_all(data)
            await stream.send_eof()

        async def receive(stream):
            got[stream] = await read_all(stream)

        async with near, far, trio.open_nursery() as nursery:
            for stream in (near, far):
                nursery.start_soon(send, stream)
                nursery.start_soon(receive, stream)
        assert got == {near: data, far: data}
        await settled(ends)


async def test_many_streams_at_once_keep_apart(stack):
    async with connected(stack) as ends:

        async def echo(stream):
            async with stream:
                await stream.send_all(await read_all(stream))

        async def ask(number):
            async with await ends.dialer.open_stream("/contract/1.0.0") as stream:
                await stream.send_all(b"%d" % number)
                await stream.send_eof()
                assert await read_all(stream) == b"%d" % number

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, number)
            for _ in range(100):
                nursery.start_soon(echo, await ends.arrived.receive())
        await settled(ends)


async def test_a_reset_comes_after_the_data_before_it(stack):
    async with connected(stack) as ends:
        near, far = await ends.streams()
        await near.send_all(b"last words")
        near.reset(7)
        assert await far.receive_some() == b"last words"
        with pytest.raises(StreamReset) as caught:
            await far.receive_some()
        assert caught.value.code == (0 if "mplex" in stack.name else 7)
        with pytest.raises(trio.BrokenResourceError):
            await far.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await near.receive_some()
        await far.aclose()
        await settled(ends)


@pytest.mark.parametrize("how", ["close", "reset", "reset by the peer", "end of the peer"])
async def test_unread_data_is_given_back_with_its_stream(stack, how):
    async with connected(stack) as ends:
        bystander = await ends.streams()
        near, far = await ends.streams()
        await near.send_all(bytes(100_000))
        if how == "reset by the peer":
            near.reset()
        elif how == "end of the peer":
            await near.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        if how == "reset":
            far.reset()
        else:
            await far.aclose()
        await near.aclose()
        for stream in bystander:
            await stream.aclose()
        await settled(ends)


async def test_cancelled_operations_leave_the_connection_usable(stack):
    async with connected(stack) as ends:
        near, far = await ends.streams()
        with trio.move_on_after(0.01):
            await near.receive_some()
        with trio.move_on_after(0.01):
            await near.send_all(bytes(64 << 20))
        near.reset()
        far.reset()
        near, far = await ends.streams()
        async with near, far:
            await near.send_all(b"still here")
            assert await far.receive_some() == b"still here"
        await settled(ends)


async def test_the_end_of_the_connection_is_seen_on_every_stream(stack):
    async with connected(stack) as ends:
        pairs = [await ends.streams() for _ in range(3)]
        await ends.dialer.aclose()
        for near, far in pairs:
            for stream in (near, far):
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
                await stream.aclose()


async def test_hostile_022_streams_wait_for_acknowledgements_instead_of_failing(stack):
    async with connected(stack) as ends:
        count = MuxerLimits().max_outbound_unacked + 50
        async with trio.open_nursery() as nursery:

            async def ask():
                async with await ends.dialer.open_stream("/contract/1.0.0") as stream:
                    await stream.send_all(b"x")
                    assert await stream.receive_some() == b"y"

            async def answer(stream):
                async with stream:
                    assert await stream.receive_some() == b"x"
                    await stream.send_all(b"y")

            for _ in range(count):
                nursery.start_soon(ask)
            for _ in range(count):
                nursery.start_soon(answer, await ends.arrived.receive())
        await settled(ends)
