"""What is fuzzed: each target feeds hostile bytes to one core, which may raise `RemoteError`, or
`NoCommonProtocol` where it negotiates, and nothing else.

To add one, write a function of `bytes`, decorate it with `@target(...)` and give it seeds: valid inputs to start from.
The input's first byte says how large the pieces are in which the rest arrives.
"""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pyp2p.errors import NoCommonProtocol, RemoteError
from pyp2p.io.handshake import Direction, Handshake
from pyp2p.multistream.core import Dialer, Listener
from pyp2p.muxers.base import Data, MemoryBudget, Muxer, MuxerFactory, MuxerLimits, Opened
from pyp2p.muxers.yamux.core import Yamux
from tests.vectors import load

MAX_INPUT = 4_096


@dataclass(frozen=True)
class Target:
    """One fuzzed function and the valid inputs it starts from."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]

    def one(self, data: bytes) -> None:
        """Runs one input. Whatever this raises is a finding."""
        with contextlib.suppress(RemoteError, NoCommonProtocol):
            self.run(data)


TARGETS: dict[str, Target] = {}


def target(seeds: Iterable[bytes]) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Registers a target; its seeds arrive whole and in small pieces."""
    given = [seed[: MAX_INPUT - 1] for seed in seeds]

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        both = tuple(first + seed for seed in given for first in (b"\0", b"\x05"))
        TARGETS[run.__name__] = Target(run.__name__, run, both or (b"",))
        return run

    return register


def pieces(data: bytes) -> Iterator[bytes]:
    """The input after its first byte, whole when that is 0, else in pieces of that many bytes."""
    size = data[0] if data else 0
    rest = data[1:]
    if not size:
        yield rest
        return
    for start in range(0, len(rest), size):
        yield rest[start : start + size]


def feed_handshake(core: Handshake[object], data: bytes) -> None:
    """Feeds until the core is done; its result and leftover must be readable then."""
    for piece in pieces(data):
        core.feed(piece)
        core.take_output()
        if core.done:
            assert core.result is not None and isinstance(core.leftover, bytes)
            return


def feed_muxer(factory: MuxerFactory, direction: Direction, data: bytes) -> None:
    """A session whose user accepts, echoes and closes by a seeded choice; the memory must come back."""
    budget = MemoryBudget(1 << 20)
    session: Muxer = factory.session(direction, MuxerLimits(), budget, 0.0)
    choice = random.Random(len(data))
    try:
        if direction.outbound:
            session.send(session.open(0.0), b"hello")
        for now, piece in enumerate(pieces(data)):
            for event in session.feed(piece, float(now)):
                if isinstance(event, Opened):
                    session.accept(event.sub)
                    if choice.random() < 0.5:
                        session.fin(event.sub)
                elif isinstance(event, Data):
                    session.consumed(event.sub, len(event.data), float(now))
                    if choice.random() < 0.2:
                        session.reset(event.sub)
            session.take_output()
    finally:
        session.release_all()
        assert budget.used == 0, "memory was not given back"


def _hex_strings(value: object) -> Iterator[bytes]:
    """Every string of a vector file that is hex: good starting points, whatever they mean."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _hex_strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _hex_strings(item)
    elif isinstance(value, str) and 2 <= len(value) <= 2 * MAX_INPUT:
        try:
            yield bytes.fromhex(value)
        except ValueError:
            return


@target(_hex_strings(load("multistream")))
def multistream_dialer(data: bytes) -> None:
    feed_handshake(Dialer(["/noise", "/tls/1.0.0"]), data)


@target(_hex_strings(load("multistream")))
def multistream_listener(data: bytes) -> None:
    feed_handshake(Listener("/yamux/1.0.0".__eq__, lambda: ["/yamux/1.0.0"]), data)


@target(_hex_strings(load("yamux")))
def yamux_inbound(data: bytes) -> None:
    feed_muxer(Yamux(), Direction.INBOUND, data)


@target(_hex_strings(load("yamux")))
def yamux_outbound(data: bytes) -> None:
    feed_muxer(Yamux(), Direction.OUTBOUND, data)
