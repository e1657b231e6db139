"""The sending half of a connection over a pipe that takes as much as the test reads, in virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.io.stream import PlainStream, RawStream
from pyp2p.switch.writer import Writer
from pyp2p.testing import Sim, run_sim, simulated
from pyp2p.transports.pipe import PipeStream, pipe_pair

LIMIT = 1000
ROOM = 100  # bytes that the pipe holds


class Line:
    """A writer on one end of a pipe; the test reads the other end."""

    def __init__(self, nursery: trio.Nursery, near: RawStream, far: PipeStream) -> None:
        self.near, self.far = near, far
        self.failures: list[Exception] = []
        self.nursery = nursery
        self.writer = Writer(near, LIMIT, self.failures.append)

    async def settle(self) -> None:
        """Let the writer's task do what it can without time passing."""
        for _ in range(20):
            await trio.lowlevel.checkpoint()

    async def read(self, count: int) -> bytes:
        """Take so many bytes from the pipe, in small bites, and let the writer go on."""
        got = b""
        while len(got) < count:
            got += await self.far.receive_some(min(count - len(got), ROOM))
        await self.settle()
        return got

    def tasks(self) -> int:
        return len(self.nursery.child_tasks)


class Holding(PlainStream):
    """Takes all that it is given, and holds back what the pipe has no room for: a WebSocket does it with a frame."""

    def __init__(self, pipe: PipeStream) -> None:
        super().__init__(pipe)
        self._pipe = pipe
        self._held = b""

    @property
    def unsent(self) -> bool:
        return bool(self._held)

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        self._push()
        if self._held:
            return 0
        self._held = bytes(data)[self._pipe.try_send(data) :]
        return len(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._pipe.wait_send_all_might_not_block()
        self._push()

    def _push(self) -> None:
        if self._held:
            self._held = self._held[self._pipe.try_send(self._held) :]


@asynccontextmanager
async def line(capacity: int = ROOM, *, plain: bool = False, attached: bool = True) -> AsyncIterator[Line]:
    """A line for the length of the block. `plain`: its stream can only send by waiting."""
    near, far = pipe_pair(capacity)
    async with trio.open_nursery() as nursery:
        made = Line(nursery, PlainStream(near) if plain else near, far)
        if attached:
            made.writer.attach(nursery)
        yield made
        nursery.cancel_scope.cancel()


def pattern(count: int) -> bytes:
    """Bytes that show it when some are missing, doubled or swapped."""
    return bytes(n * n % 251 for n in range(count))


# ---- at once, in part, later ----


@simulated(seeds=(1,))
async def test_what_the_socket_takes_is_sent_without_a_task(sim: Sim) -> None:
    async with line() as it:
        for data in (b"one", b"", b"two"):
            it.writer.send(data)
        assert it.tasks() == 0 and it.writer.idle and it.writer.size == 0
        assert it.writer.progress_at == 0.0  # no clock is asked on the fast path
        assert await it.far.receive_some() == b"onetwo"


@simulated()
async def test_what_does_not_fit_follows_in_order(sim: Sim) -> None:
    data = pattern(350)
    async with line() as it:
        it.writer.send(data[:250])
        assert (it.writer.size, it.writer.idle) == (150, False)
        it.writer.send(data[250:300])
        assert it.writer.size == 200
        got = await it.read(60)
        it.writer.send(data[300:])  # there is room now, but others were first
        got += await it.read(290)
        assert got == data
        assert it.writer.idle and it.writer.size == 0 and it.tasks() == 0


@simulated()
async def test_a_backlog_is_the_work_of_one_task_that_ends_with_it(sim: Sim) -> None:
    async with line() as it:
        for _ in range(2):
            for _ in range(5):
                it.writer.send(bytes(ROOM))
            assert it.tasks() == 1
            await it.read(5 * ROOM)
            assert it.tasks() == 0
            it.writer.send(b"direct")
            assert it.tasks() == 0
            assert await it.read(6) == b"direct"


@simulated()
async def test_a_backlog_from_before_the_tasks_may_start_is_sent_after(sim: Sim) -> None:
    data = pattern(300)
    async with line(attached=False) as it:
        it.writer.send(data[:200])
        it.writer.send(data[200:])
        await it.settle()
        assert (it.tasks(), it.writer.size) == (0, 200)
        it.writer.attach(it.nursery)
        assert await it.read(300) == data
        assert it.writer.idle


@simulated()
async def test_a_stream_that_can_only_send_by_waiting(sim: Sim) -> None:
    data = pattern(100_000)
    async with line(plain=True) as it:
        it.writer.send(data[:40])
        assert (it.writer.size, it.tasks()) == (40, 1)  # nothing goes at once
        it.writer.send(b"")
        it.writer.send(data[40:90_000])
        await it.settle()
        it.writer.send(data[90_000:])  # while the task is in the middle of a `send_all`
        assert await it.read(100_000) == data
        assert it.writer.idle and it.writer.size == 0
        assert it.failures == []


@simulated()
async def test_what_the_stream_holds_back_goes_before_what_is_sent_meanwhile(sim: Sim) -> None:
    data = pattern(400)
    near, far = pipe_pair(ROOM)
    async with trio.open_nursery() as nursery:
        it = Line(nursery, Holding(near), far)
        it.writer.attach(nursery)
        it.writer.send(data[:250])
        assert (it.writer.size, it.writer.idle) == (0, False)  # the stream has it all
        await it.settle()
        it.writer.send(data[250:])  # while the task waits for room
        assert it.writer.size == 150
        assert await it.read(400) == data
        assert it.writer.idle and it.tasks() == 0 and it.failures == []


async def _exchange(sim: Sim, steps: list[tuple[bool, int]], plain: bool) -> None:
    sent = got = b""
    async with line(plain=plain) as it:
        for sends, count in steps:
            if sends:
                data = pattern(len(sent) + count)[len(sent) :]
                sent += data
                it.writer.send(data)
            else:
                await it.settle()
                with trio.move_on_after(0.1):
                    got += await it.far.receive_some(max(count, 1))
            if not plain:
                assert it.writer.size + len(got) <= len(sent) <= it.writer.size + len(got) + ROOM
            assert it.writer.full == (it.writer.size >= LIMIT)
            assert it.writer.choked == (it.writer.size >= 2 * LIMIT)
        got += await it.read(len(sent) - len(got))
        assert got == sent
        assert it.writer.idle and it.writer.size == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 700)), max_size=30), st.booleans(), st.integers(1, 1000))
def test_bytes_leave_in_order_and_are_counted(steps: list[tuple[bool, int]], plain: bool, seed: int) -> None:
    run_sim(_exchange, seed, steps, plain)


# ---- bounds ----


@simulated(seeds=(1,))
async def test_full_and_choked_count_what_waits_not_what_was_taken(sim: Sim) -> None:
    async with line() as it:
        states = []
        for size in (ROOM, LIMIT - 1, 1, LIMIT - 1, 1):
            it.writer.send(bytes(size))
            states.append((it.writer.full, it.writer.choked))
        assert states == [(False, False), (False, False), (True, False), (True, False), (True, True)]
        await it.read(1)
        assert (it.writer.size, it.writer.choked, it.writer.full) == (2 * LIMIT - 1, False, True)


@simulated()
async def test_who_waits_to_send_is_called_once_at_half_the_limit(sim: Sim) -> None:
    async with line() as it:
        called: list[tuple[str, int]] = []
        it.writer.send(bytes(ROOM + LIMIT))
        it.writer.notify(lambda: called.append(("a", it.writer.size)))
        it.writer.notify(lambda: called.append(("b", it.writer.size)))
        await it.read(LIMIT // 2 - 1)
        assert it.writer.size == LIMIT // 2 + 1
        assert called == []
        await it.read(1)
        assert called == [("a", LIMIT // 2), ("b", LIMIT // 2)]
        await it.read(ROOM + LIMIT // 2)
        assert len(called) == 2 and it.writer.idle


@simulated()
async def test_who_is_called_may_send_and_wait_again(sim: Sim) -> None:
    data = pattern(5 * LIMIT)
    position = LIMIT + ROOM
    async with line() as it:

        def more() -> None:
            nonlocal position
            it.writer.send(data[position : position + LIMIT])
            position += LIMIT
            if position < len(data):
                it.writer.notify(more)

        it.writer.send(data[:position])
        it.writer.notify(more)
        assert await it.read(len(data)) == data
        assert it.writer.size == 0


@simulated()
async def test_a_reader_of_many_questions_waits_until_answers_fit_again(sim: Sim) -> None:
    async with line() as it:
        with trio.CancelScope() as scope:
            scope.cancel()
            await it.writer.wait_unchoked()  # not choked: not even a checkpoint
        assert not scope.cancelled_caught
        waited = trio.Event()

        async def wait() -> None:
            await it.writer.wait_unchoked()
            waited.set()

        it.writer.send(bytes(ROOM + 2 * LIMIT))
        it.nursery.start_soon(wait)
        await it.read(LIMIT)
        assert not waited.is_set()
        await it.read(LIMIT // 2)
        assert waited.is_set() and it.writer.size == LIMIT // 2


@simulated()
async def test_waiting_for_idle_ends_with_the_last_byte(sim: Sim) -> None:
    async with line() as it:
        await it.writer.wait_idle()
        at: list[float] = []

        async def wait() -> None:
            await it.writer.wait_idle()
            at.append(trio.current_time())

        it.writer.send(bytes(3 * ROOM))
        it.nursery.start_soon(wait)
        for _ in range(2):
            assert at == []
            await trio.sleep(1)
            await it.read(ROOM)
        assert at == [2]


# ---- progress ----


@simulated()
async def test_progress_is_noted_when_a_backlog_begins_and_when_some_of_it_leaves(sim: Sim) -> None:
    async with line() as it:
        await trio.sleep(7)
        it.writer.send(bytes(ROOM))
        assert it.writer.progress_at == 0
        it.writer.send(bytes(ROOM))
        assert it.writer.progress_at == 7  # a peer that has never read is given its time from here
        await trio.sleep(3)
        it.writer.send(bytes(ROOM))
        await it.settle()
        assert it.writer.progress_at == 7  # that we say more is no progress of the peer
        await it.read(1)
        assert it.writer.progress_at == 10


@simulated()
async def test_what_is_queued_behind_something_held_back_has_its_time_from_then_on(sim: Sim) -> None:
    near, far = pipe_pair(ROOM)
    stream = Holding(near)
    async with trio.open_nursery() as nursery:
        it = Line(nursery, stream, far)
        stream.try_send(bytes(ROOM + 1))  # the answer to a WebSocket ping is such: no `send` of ours
        it.writer.attach(nursery)
        await trio.sleep(100)
        it.writer.send(b"x")  # while the task waits for room for the other
        assert (it.writer.size, it.writer.progress_at) == (1, 100)
        await trio.sleep(3)
        it.writer.send(b"y")
        assert (it.writer.size, it.writer.progress_at) == (2, 100)
        await it.read(ROOM + 3)
        assert it.writer.idle and it.tasks() == 0


@simulated()
async def test_a_slow_peer_makes_progress_on_a_stream_that_can_only_send_by_waiting(sim: Sim) -> None:
    async with line(capacity=1024, plain=True) as it:
        it.writer.send(bytes(64 * 1024))
        seen = set()
        while not it.writer.idle:
            await trio.sleep(1)
            await it.read(min(1024, it.writer.size))
            seen.add(it.writer.progress_at)
        assert len(seen) >= 4 and max(seen) - min(seen) > 30  # not only at the end of what was one `send`


@simulated()
async def test_a_slow_peer_makes_progress_on_what_the_stream_holds_back(sim: Sim) -> None:
    near, far = pipe_pair(1024)
    async with trio.open_nursery() as nursery:
        it = Line(nursery, Holding(near), far)
        it.writer.attach(nursery)
        it.writer.send(bytes(32 * 1024))  # one frame, of which the pipe takes a little at a time
        it.writer.send(b"x")
        seen = set()
        while not it.writer.idle:
            await trio.sleep(1)
            await it.far.receive_some(1024)
            await it.settle()
            seen.add(it.writer.progress_at if it.writer.size else None)
        assert len(seen) >= 30


# ---- the end ----


@pytest.mark.parametrize("plain", [False, True], ids=["at once", "by waiting"])
@simulated()
async def test_a_failure_is_told_not_raised(sim: Sim, plain: bool) -> None:
    async with line(plain=plain) as it:
        await it.far.aclose()
        it.writer.send(b"lost")
        await it.settle()
        assert [type(failure) for failure in it.failures] == [trio.BrokenResourceError]


@pytest.mark.parametrize("plain", [False, True], ids=["at once", "by waiting"])
@simulated()
async def test_a_stream_that_we_closed_is_a_failure_too(sim: Sim, plain: bool) -> None:
    async with line(plain=plain) as it:
        await it.near.aclose()
        it.writer.send(b"lost")
        await it.settle()
        assert [type(failure) for failure in it.failures] == [trio.ClosedResourceError]


@pytest.mark.parametrize("plain", [False, True], ids=["waits for room", "in the middle of send_all"])
@simulated()
async def test_a_failure_with_a_backlog_is_told_once_and_ends_the_task(sim: Sim, plain: bool) -> None:
    async with line(plain=plain) as it:
        woken = []
        it.writer.send(bytes(ROOM + LIMIT))
        it.writer.notify(lambda: woken.append(True))
        await it.settle()
        it.far.close()
        await it.settle()
        assert [type(failure) for failure in it.failures] == [trio.BrokenResourceError]
        assert it.tasks() == 0
        assert not it.writer.idle and it.writer.full and not woken  # nobody takes it for sent
        it.writer.drop()
        assert it.writer.idle and woken == [True]


@pytest.mark.parametrize("plain", [False, True], ids=["waits for room", "in the middle of send_all"])
@simulated()
async def test_dropping_frees_all_who_wait_and_tells_no_failure(sim: Sim, plain: bool) -> None:
    async with line(plain=plain) as it:
        freed: list[str] = []

        async def wait(name: str, waiting) -> None:
            await waiting()
            freed.append(name)

        it.writer.send(bytes(3 * LIMIT))
        it.writer.notify(lambda: freed.append("notified"))
        it.nursery.start_soon(wait, "unchoked", it.writer.wait_unchoked)
        it.nursery.start_soon(wait, "idle", it.writer.wait_idle)
        await it.settle()
        assert freed == []
        it.writer.drop()
        assert freed == ["notified"]
        assert (it.writer.size, it.writer.full, it.writer.choked) == (0, False, False)
        await it.settle()
        assert "unchoked" in freed and "idle" not in freed  # the task still holds the stream
        await it.near.aclose()
        await it.settle()
        assert sorted(freed) == ["idle", "notified", "unchoked"]
        assert it.failures == [] and it.tasks() == 0
        assert it.writer.size == 0


@pytest.mark.parametrize("plain", [False, True], ids=["waits for room", "in the middle of send_all"])
@simulated()
async def test_what_was_dropped_is_not_sent_when_there_is_room_again(sim: Sim, plain: bool) -> None:
    async with line(plain=plain) as it:
        it.writer.send(bytes(3 * LIMIT))
        it.writer.send(b"x" * LIMIT)
        await it.settle()
        it.writer.drop()
        await it.read(ROOM)
        while it.tasks():
            await it.read(1)
        await it.near.aclose()
        rest = b""
        while chunk := await it.far.receive_some():
            rest += chunk
        assert b"x" not in rest and it.writer.size == 0


@simulated()
async def test_a_task_that_is_cancelled_wakes_who_waits_for_the_end(sim: Sim) -> None:
    near, _far = pipe_pair(ROOM)
    writer = Writer(near, LIMIT, lambda error: pytest.fail("a cancellation is no failure"))
    idle = trio.Event()

    async def wait() -> None:
        await writer.wait_idle()
        idle.set()

    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            writer.attach(nursery)
            writer.send(bytes(2 * ROOM))
            outer.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not writer.idle  # unsent
        writer.drop()
        await idle.wait()


@simulated(seeds=(1,))
async def test_after_the_drop_no_task_is_begun(sim: Sim) -> None:
    async with line() as it:
        it.writer.drop()
        it.writer.send(bytes(2 * ROOM))
        assert it.tasks() == 0
