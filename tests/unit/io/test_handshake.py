"""`drive` and `Pipelined`: what moves, what is left over, what is said last, over trio's memory streams."""

from collections import deque
from collections.abc import Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import NoCommonProtocol, RemoteClosed, RemoteError, WireError
from pyp2p.io.handshake import Direction, Handshake, Pipelined, drive
from pyp2p.io.stream import PlainStream, RawStream
from pyp2p.trace import Stage, Trace


class Script:
    """A negotiation: `hello` is said first; each expected word is checked and answered with what stands beside it."""

    def __init__(self, hello: bytes, *exchange: tuple[bytes, bytes]) -> None:
        self._out = hello
        self._exchange = deque(exchange)
        self._in = b""
        self.fed: list[bytes] = []

    @property
    def done(self) -> bool:
        return not self._exchange

    @property
    def result(self) -> str:
        assert self.done
        return "agreed"

    @property
    def leftover(self) -> bytes:
        assert self.done
        return self._in

    def feed(self, data: bytes) -> None:
        assert type(data) is bytes
        self.fed.append(data)
        self._in += data
        while self._exchange:
            word, answer = self._exchange[0]
            if self._in[: len(word)] != word[: len(self._in)]:
                self._out += b"sorry"
                raise WireError("not what was expected")
            if len(self._in) < len(word):
                return
            self._in = self._in[len(word) :]
            self._out += answer
            self._exchange.popleft()

    def take_output(self) -> bytes:
        out, self._out = self._out, b""
        return out


class Wire(RawStream):
    """The near end of a memory stream that notes each write, and takes last words without waiting."""

    def __init__(self, inbound: bytes = b"", sip: int | None = None, ended: bool = False) -> None:
        self._in = inbound
        self._sip = sip
        self._ended = ended
        self.writes: list[bytes] = []
        self.last_words = b""
        self.asked: list[int | None] = []

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.writes.append(bytes(data))

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        self.last_words += bytes(data)
        return len(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked.append(max_bytes)
        if not self._in and not self._ended:
            await trio.sleep_forever()
        size = len(self._in) if self._sip is None else self._sip
        chunk, self._in = self._in[:size], self._in[size:]
        return chunk

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def begun() -> Trace:
    trace = Trace()
    trace.begin(Stage.HANDSHAKE, "", trio.current_time())
    return trace


def test_directions() -> None:
    assert Direction.OUTBOUND.outbound
    assert not Direction.INBOUND.outbound


# ---- drive ----


@pytest.mark.parametrize("sip", [None, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("trailing", [b"", b"tail"])
async def test_a_negotiation_is_driven_to_its_end(sip: int | None, trailing: bytes) -> None:
    wire, trace = Wire(b"onetwo" + trailing, sip), begun()
    result, leftover, unsent = await drive(Script(b"hello", (b"one", b"1"), (b"two", b"2")), wire, trace)
    assert result == "agreed"
    assert leftover == (trailing if sip is None else b"")  # nothing is read beyond what is needed
    assert unsent == (b"12" if sip is None else b"2")
    assert wire.writes == ([b"hello"] if sip is None else [b"hello", b"1"])
    assert trace.current.bytes_in == len(b"onetwo") + len(leftover)


async def test_what_an_earlier_stage_left_is_taken_first_and_sent_in_front() -> None:
    wire, trace = Wire(b"o"), begun()
    core = Script(b"hello", (b"two", b"2"))
    result, leftover, unsent = await drive(core, wire, trace, inbox=b"tw", outbox=b"before ")
    assert (result, leftover, unsent) == ("agreed", b"", b"2")
    assert core.fed == [b"tw", b"o"]
    assert wire.writes == [b"before hello"]
    assert trace.current.flights[0][1] == -2


async def test_an_inbox_that_holds_everything_needs_no_stream() -> None:
    wire = Wire()
    result = await drive(Script(b"hello", (b"one", b"1")), wire, begun(), inbox=b"one and more", outbox=b"before ")
    assert result == ("agreed", b" and more", b"before hello1")
    assert wire.writes == []
    assert wire.asked == []


async def test_nothing_to_negotiate_sends_nothing() -> None:
    wire, trace = Wire(), begun()
    assert await drive(Script(b"bye"), wire, trace, outbox=b"x") == ("agreed", b"", b"xbye")
    assert wire.writes == []
    assert trace.current.waits == 0


async def test_each_wait_for_the_peer_is_one() -> None:
    wire, trace = Wire(b"ab", sip=1), begun()
    await drive(Script(b"hello", (b"a", b"1"), (b"b", b"")), wire, trace)
    assert trace.current.waits == 2
    assert [size for _, size in trace.current.flights] == [5, -1, 1, -1]
    assert (trace.current.bytes_out, trace.current.bytes_in) == (6, 2)


async def test_waiting_for_the_rest_of_a_message_is_no_further_round_trip() -> None:
    wire, trace = Wire(b"abc", sip=1), begun()
    await drive(Script(b"hello", (b"abc", b"")), wire, trace)
    assert trace.current.waits == 1


async def test_the_end_of_the_stream_says_at_which_stage_it_came() -> None:
    with pytest.raises(RemoteClosed, match="handshake"):
        await drive(Script(b"hello", (b"one", b"")), Wire(b"on", ended=True), begun())


async def test_last_words_are_tried_before_the_error() -> None:
    wire = Wire(b"bad")
    with pytest.raises(WireError):
        await drive(Script(b"hello", (b"one", b"")), wire, begun())
    assert (wire.writes, wire.last_words) == ([b"hello"], b"sorry")


async def test_last_words_about_the_inbox_follow_what_was_unsent() -> None:
    wire = Wire()
    with pytest.raises(WireError):
        await drive(Script(b"hello", (b"one", b"")), wire, begun(), inbox=b"bad", outbox=b"before ")
    assert (wire.writes, wire.last_words) == ([], b"before hellosorry")


async def test_a_plain_stream_takes_no_last_words_and_the_error_comes_all_the_same() -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(b"bad")
    with pytest.raises(RemoteError):
        await drive(Script(b"", (b"one", b"")), PlainStream(near), begun())


async def test_two_ends_meet_over_memory_streams() -> None:
    near, far = trio.testing.memory_stream_pair()
    results = []

    async def run(core: Handshake[str], stream: trio.StapledStream) -> None:
        results.append(await drive(core, PlainStream(stream), begun()))

    async with trio.open_nursery() as both:
        both.start_soon(run, Script(b"ping", (b"pong", b"")), near)
        both.start_soon(run, Script(b"", (b"ping", b"pong"), (b"", b"")), far)
        await trio.testing.wait_all_tasks_blocked()
        # The listener is done with "pong" unsent: that is for its next stage, which here is us.
        assert results == [("agreed", b"", b"pong")]
        await far.send_all(results[0][2])
    assert results[1] == ("agreed", b"", b"")


async def test_a_peer_that_is_silent_costs_what_the_caller_gives_it(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(trio.TooSlowError), trio.fail_after(15):
        await drive(Script(b"hello", (b"one", b"")), Wire(), begun())
    assert trio.current_time() == pytest.approx(15)


# ---- pipelined ----


class Disagreeing(Script):
    def feed(self, data: bytes) -> None:
        raise NoCommonProtocol(["/noise"])


def both(on_between: Callable[[], None] = lambda: None) -> tuple[Script, Script, Pipelined[str]]:
    first, then = Script(b"select ", (b"ok", b"")), Script(b"hello", (b"one", b"1"), (b"two", b"2"))
    return first, then, Pipelined(first, then, on_between)


def test_both_speak_in_one_flight() -> None:
    _, _, core = both()
    assert core.take_output() == b"select hello"
    assert core.take_output() == b""
    assert not core.done


@given(st.integers(0, 8), st.integers(0, 8), st.sampled_from([b"", b"tail"]))
def test_the_answer_may_be_cut_anywhere(one: int, two: int, trailing: bytes) -> None:
    calls: list[str] = []
    first, then, core = both(lambda: calls.append("between"))
    core.take_output()
    wire = b"okonetwo" + trailing
    start, end = sorted((one, two))
    for piece in (wire[:start], wire[start:end], wire[end:]):
        if piece and not core.done:
            core.feed(piece)
        elif piece:
            assert piece == trailing
            trailing = b""
    assert core.done
    assert core.result == "agreed"
    assert core.leftover == trailing
    assert core.take_output() == b"12"
    assert calls == ["between"]
    assert b"".join(first.fed).startswith(b"ok")
    assert b"" not in then.fed


def test_between_comes_after_the_first_and_before_the_second() -> None:
    order: list[str] = []
    _, then, core = both(lambda: order.append(f"between, {len(then.fed)} fed"))
    core.feed(b"o")
    assert order == []
    core.feed(b"kone")
    assert order == ["between, 0 fed"]
    assert then.fed == [b"one"]


def test_a_refusal_of_the_first_reaches_the_caller_and_the_second_hears_nothing() -> None:
    then = Script(b"hello", (b"one", b""))
    core: Pipelined[str] = Pipelined(Disagreeing(b"select ", (b"ok", b"")), then, lambda: None)
    with pytest.raises(NoCommonProtocol):
        core.feed(b"na")
    assert then.fed == []


def test_a_first_that_is_done_already_is_passed_by() -> None:
    calls: list[str] = []
    core = Pipelined(Script(b"said "), Script(b"hello", (b"one", b"")), lambda: calls.append("between"))
    assert core.take_output() == b"said hello"
    core.feed(b"one!")
    assert (core.done, core.leftover, calls) == (True, b"!", [])


async def test_a_pipelined_dial_is_one_round_trip() -> None:
    first, then = Script(b"select ", (b"ok", b"")), Script(b"hello", (b"one", b"1"))
    wire, trace = Wire(b"okone"), begun()
    result = await drive(Pipelined(first, then, lambda: None), wire, trace)
    assert result == ("agreed", b"", b"1")
    assert wire.writes == [b"select hello"]
    assert trace.round_trips == 1
