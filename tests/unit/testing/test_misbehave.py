"""Each kind of misbehaviour happens when and where it was asked for, and the plain plan changes nothing."""

import math

import pytest
import trio
import trio.testing

from pyp2p.errors import PeerIdMismatch
from pyp2p.io.handshake import Direction, drive
from pyp2p.muxers.base import MemoryBudget, MuxerLimits
from pyp2p.muxers.yamux import Yamux
from pyp2p.peer.keys import Identity
from pyp2p.platform import Platform
from pyp2p.security.noise import Noise
from pyp2p.testing.contract import check_raw_stream
from pyp2p.testing.misbehave import MisbehavingStream, Misbehaviour, misbehave
from pyp2p.testing.run import SeededEntropy
from pyp2p.trace import Stage, Trace
from pyp2p.transports.memory import Memory, MemoryHub
from pyp2p.transports.pipe import pipe_pair


def entropy(name: str) -> SeededEntropy:
    return SeededEntropy(name)


async def test_the_plain_plan_keeps_the_contract() -> None:
    async def pair():
        near, far = pipe_pair()
        return MisbehavingStream(near, Misbehaviour()), MisbehavingStream(far, Misbehaviour())

    async def clogged():
        near, far = await pair()
        for stream in (near, far):
            while stream.try_send(bytes(1000)):
                pass
        return near, far

    await check_raw_stream(pair, clogged)


@pytest.mark.parametrize("first", [0, 1, 3, 8])
async def test_corrupt_byte(first: int) -> None:
    near, far = pipe_pair()
    stream = MisbehavingStream(near, Misbehaviour(corrupt_at=3))
    data = bytes(range(8))
    stream.try_send(data[:first])
    await stream.send_all(data[first:])
    await stream.aclose()
    received = b""
    while chunk := await far.receive_some():
        received += chunk
    assert received == bytes([0, 1, 2, 3 ^ 0xFF, 4, 5, 6, 7])


async def test_close_after() -> None:
    near, far = pipe_pair()
    stream = MisbehavingStream(near, Misbehaviour(close_after=5))
    assert stream.try_send(b"abc") == 0
    await stream.send_all(b"abc")
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"defgh")
    assert await far.receive_some() == b"abcde"
    assert await far.receive_some() == b""


async def test_silent_after() -> None:
    near, far = pipe_pair()
    stream = MisbehavingStream(near, Misbehaviour(silent_after=5))
    assert stream.try_send(b"abc") == 3
    await stream.send_all(b"defgh")
    assert stream.try_send(b"abc") == 3
    await stream.send_eof()
    assert await far.receive_some() == b"abcde"
    with trio.move_on_after(0) as scope:
        await far.receive_some()
    assert scope.cancelled_caught


async def handshake(plan: Misbehaviour) -> float:
    """A Noise handshake whose listener misbehaves, its first muxed byte included; returns the virtual seconds."""
    stack = misbehave(plan, transports=[Memory(MemoryHub())], securities=[Noise()], muxers=[Yamux()])
    [transport], [security], [muxer] = stack["transports"], stack["securities"], stack["muxers"]
    listener = await transport.listen(_address())
    one = Identity.generate(entropy=entropy("one"))
    two = Identity.generate(entropy=entropy("two"))
    started = trio.current_time()

    async def serve() -> None:
        raw = await listener.accept()
        raw_data = await raw.stream.receive_some(1)  # as the choice of a security does before any handshake
        core = security.handshake(two, Direction.INBOUND, None, [], Platform(entropy=entropy("b")))
        await drive(core, raw.stream, Trace(), raw_data)
        muxer.session(Direction.INBOUND, MuxerLimits(), MemoryBudget(1 << 20), 0.0)
        await raw.stream.send_all(b"!")
        await raw.stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        inner = Memory(transport._transport._hub)
        raw = await inner.dial(listener.address)
        core = Noise().handshake(one, Direction.OUTBOUND, two.peer, [], Platform(entropy=entropy("a")))
        try:
            trace = Trace()
            _, leftover, unsent = await drive(core, raw.stream, trace)
            await raw.stream.send_all(unsent)
            assert leftover + await raw.stream.receive_some() == b"!"
        finally:
            nursery.cancel_scope.cancel()
            raw.stream.close()
    await listener.aclose()
    return trio.current_time() - started


def _address():
    from pyp2p.peer.address import parse_multiaddr

    return parse_multiaddr("/memory/1")


@pytest.mark.parametrize(
    "stage", [Stage.CONNECT, Stage.SECURITY_SELECT, Stage.HANDSHAKE, Stage.MUXER_SELECT, Stage.IDENTIFY]
)
async def test_delays(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    assert await handshake(Misbehaviour()) == 0
    assert await handshake(Misbehaviour(delays={stage: 3.0})) == pytest.approx(3.0)
    with pytest.raises(trio.TooSlowError), trio.fail_after(1000):
        await handshake(Misbehaviour(delays={stage: math.inf}))


async def test_wrong_key() -> None:
    wrong = Identity.generate(entropy=entropy("wrong"))
    with pytest.RaisesGroup(PeerIdMismatch, flatten_subgroups=True):
        await handshake(Misbehaviour(identity=wrong))


@pytest.mark.parametrize("stage", [Stage.RESOLVE, Stage.ADMISSION, Stage.PROTOCOL])
def test_stages_that_are_not_of_a_connection_are_refused(stage: Stage) -> None:
    with pytest.raises(ValueError):
        Misbehaviour(delays={stage: 1.0})
