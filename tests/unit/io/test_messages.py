"""Length-prefixed messages over a trio stream."""

import pytest
import trio
import trio.testing

from pyp2p.errors import LocalProtocolError, WireError
from pyp2p.io.messages import MessageStream


def pair(limit=64):
    ours, theirs = trio.testing.memory_stream_pair()
    return MessageStream(ours, limit), theirs


async def test_messages_out():
    messages, theirs = pair()
    await messages.send(b"", b"one", b"x" * 64)
    await messages.send(b"two")
    assert await theirs.receive_some() == b"\x00\x03one\x40" + b"x" * 64 + b"\x03two"


async def test_a_message_over_the_limit_is_not_sent():
    messages, theirs = pair()
    with pytest.raises(LocalProtocolError):
        await messages.send(b"fits", b"x" * 65)
    await messages.send(b"next")
    assert await theirs.receive_some() == b"\x04next"


async def test_messages_in_whole_then_end():
    messages, theirs = pair()
    await theirs.send_all(b"\x00\x03one\x03two")
    await theirs.send_eof()
    assert [await messages.receive() for _ in range(4)] == [b"", b"one", b"two", None]
    assert await messages.receive() is None


async def test_messages_in_byte_by_byte():
    messages, theirs = pair()
    got: list[bytes | None] = []

    async def read():
        while (message := await messages.receive()) is not None:
            got.append(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for byte in b"\x03one\x03two":
            await theirs.send_all(bytes((byte,)))
            await trio.testing.wait_all_tasks_blocked()
        await theirs.send_eof()
    assert got == [b"one", b"two"]


async def test_a_message_that_the_end_cuts():
    messages, theirs = pair()
    await theirs.send_all(b"\x03one\x03tw")
    await theirs.send_eof()
    assert await messages.receive() == b"one"
    with pytest.raises(WireError):
        await messages.receive()


async def test_a_length_over_the_limit_comes_after_the_messages_before_it():
    messages, theirs = pair()
    await theirs.send_all(b"\x03one\x41")
    assert await messages.receive() == b"one"
    await theirs.send_all(b"x")
    with pytest.raises(WireError):
        await messages.receive()


async def test_a_cancelled_receive_loses_nothing(autojump_clock):
    messages, theirs = pair()
    await theirs.send_all(b"\x03on")
    with trio.move_on_after(1) as scope:
        await messages.receive()
    assert scope.cancelled_caught
    await theirs.send_all(b"e\x03two")
    with trio.CancelScope() as early:
        early.cancel()
        await messages.receive()
    assert await messages.receive() == b"one"
    with trio.CancelScope() as late:
        late.cancel()
        await messages.receive()  # one that is ready is not lost either
    assert late.cancelled_caught
    assert await messages.receive() == b"two"
