"""What the muxer tests share: sessions with their budgets, frames by hand, events as plain tuples."""

import itertools
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pyp2p.io.handshake import Direction
from pyp2p.muxers.base import (
    Data,
    Eof,
    GoAway,
    MemoryBudget,
    MuxerLimits,
    MuxEvent,
    Opened,
    Pong,
    Reset,
    SubStream,
    Writable,
)
from pyp2p.muxers.mplex import Mplex, MplexSession
from pyp2p.muxers.yamux import Yamux, YamuxSession

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
WINDOW = 256 * 1024

_NAMES = {Opened: "opened", Writable: "writable", Eof: "eof", Reset: "reset"}


def frame(kind: int, flags: int, sid: int, length: int = 0, body: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, sid, length or len(body)) + body


def frames(output: bytes) -> list[tuple[int, int, int, int, bytes]]:
    """Yamux output taken apart: (type, flags, stream, length, body)."""
    found = []
    while output:
        version, kind, flags, sid, length = struct.unpack_from(">BBHII", output)
        assert version == 0
        end = 12 + (length if kind == DATA else 0)
        assert len(output) >= end
        found.append((kind, flags, sid, length, output[12:end]))
        output = output[end:]
    return found


@dataclass
class Rig:
    """A session, what pays for it, and the streams that the peer opened."""

    session: Any
    memory: MemoryBudget

    def feed(self, data: bytes, now: float = 0.0) -> list[MuxEvent]:
        return self.session.feed(data, now)

    def feed_each(self, data: Iterable[bytes], now: float = 0.0) -> list[MuxEvent]:
        return [event for piece in data for event in self.feed(piece, now)]

    def output(self) -> bytes:
        pending = self.session.pending
        out = b"".join(self.session.take_output())
        assert len(out) == pending
        assert self.session.pending == 0
        return out


def yamux(*, dialed: bool = False, memory: int = 1 << 26, limits: MuxerLimits | None = None) -> Rig:
    """By default the listener's side: the peer's ids are odd."""
    budget = MemoryBudget(memory)
    direction = Direction.OUTBOUND if dialed else Direction.INBOUND
    session: YamuxSession = Yamux().session(direction, limits or MuxerLimits(), budget, 0.0)
    return Rig(session, budget)


def mplex(*, dialed: bool = False, memory: int = 1 << 26, limits: MuxerLimits | None = None) -> Rig:
    budget = MemoryBudget(memory)
    direction = Direction.OUTBOUND if dialed else Direction.INBOUND
    session: MplexSession = Mplex().session(direction, limits or MuxerLimits(), budget, 0.0)
    return Rig(session, budget)


def plain(events: Iterable[MuxEvent]) -> list[tuple[Any, ...]]:
    """Events as tuples, adjacent data of one stream joined; streams are (id, inbound)."""
    result: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, GoAway):
            result.append(("goaway", event.code))
        elif isinstance(event, Pong):
            result.append(("pong", event.rtt))
        elif isinstance(event, Data):
            assert event.data
            assert type(event.data) is bytes
            if result and result[-1][0] == "data" and result[-1][1] is event.sub:
                result[-1] = ("data", event.sub, result[-1][2] + event.data)
            else:
                result.append(("data", event.sub, event.data))
        else:
            result.append((_NAMES[type(event)], event.sub))
    return [tuple((x.id, x.inbound) if isinstance(x, SubStream) else x for x in row) for row in result]


def steps(data: bytes, step: int) -> list[bytes]:
    """`data` in pieces of `step` bytes."""
    return [data[start : start + step] for start in range(0, len(data), step)]


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`data` cut at the given places (any integers)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def pump(one: Rig, other: Rig, now: float = 0.0) -> tuple[list[MuxEvent], list[MuxEvent]]:
    """Carry output between two sessions until both are silent; returns what each saw."""
    seen: tuple[list[MuxEvent], list[MuxEvent]] = ([], [])
    while one.session.pending or other.session.pending:
        seen[1].extend(other.feed(one.output(), now))
        seen[0].extend(one.feed(other.output(), now))
    return seen
