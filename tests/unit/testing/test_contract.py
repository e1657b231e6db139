"""The checks themselves: they pass on what is right and fail on what is wrong."""

import socket

import pytest
import trio

from pyp2p.io.stream import PlainStream
from pyp2p.testing.contract import LeakCheck, check_raw_stream, check_stream
from pyp2p.transports.pipe import PipeStream, pipe_pair


class TakesTooMuch(PipeStream):
    def try_send(self, data):
        super().try_send(data)
        return len(data) + 1


async def test_a_good_stream_passes() -> None:
    async def pair():
        return pipe_pair()

    await check_stream(pair)
    await check_raw_stream(pair)


async def test_a_try_send_that_lies_is_found() -> None:
    async def pair():
        near, far = pipe_pair()
        return TakesTooMuch(near.incoming, near.outgoing), far

    with pytest.raises(AssertionError):
        await check_raw_stream(pair)


async def test_a_try_send_that_works_after_the_end_is_found() -> None:
    async def pair():
        near, far = pipe_pair()
        return PlainStream(near), far

    with pytest.raises(AssertionError):
        await check_raw_stream(pair)


async def test_leaks_are_found() -> None:
    async with LeakCheck():
        pass
    with pytest.raises(AssertionError) as caught:
        async with LeakCheck():
            kept = socket.socket()
    assert "1 sockets" in str(caught.value)
    kept.close()
    async with trio.open_nursery() as nursery:
        with pytest.raises(AssertionError) as caught:
            async with LeakCheck():
                nursery.start_soon(trio.sleep_forever)
        assert "1 tasks" in str(caught.value)
        nursery.cancel_scope.cancel()
    things: list[int] = []
    with pytest.raises(AssertionError) as caught:
        async with LeakCheck({"things": lambda: len(things)}):
            things.append(1)
    assert "1 things" in str(caught.value)


async def test_an_error_of_the_block_is_not_hidden() -> None:
    with pytest.raises(KeyError):
        async with LeakCheck({"things": lambda: 0}):
            raise KeyError
