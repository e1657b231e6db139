"""Two negotiations back to back, without a stream: what each says is fed to the other in pieces of chosen sizes.

Rules: no I/O, no trio. A pair that talks for ever is an error, not a hang.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pyp2p.io.handshake import Handshake

A = TypeVar("A")
B = TypeVar("B")

MAX_TURNS = 100  # flights after which two negotiations that do not end are called stuck


class Stuck(AssertionError):
    """Both sides wait for the other, or they talk without end."""


@dataclass(slots=True)
class Pumped(Generic[A, B]):
    """The results, the flights of each side as they went over the wire, and what each had not used."""

    first: A
    second: B
    first_flights: list[bytes]
    second_flights: list[bytes]
    first_leftover: bytes
    second_leftover: bytes


def pump(first: Handshake[A], second: Handshake[B], sizes: Sequence[int] = ()) -> Pumped[A, B]:
    """Run both negotiations to their ends; `first` speaks first.

    `sizes` are the lengths of the pieces that are fed, used in turn for each flight (none: whole flights). Output of a
    side that is done still reaches the other, and is part of its `leftover` when that one is done too. Raises what the
    cores raise, and `Stuck`.
    """
    flights: tuple[list[bytes], list[bytes]] = ([], [])
    cores: tuple[Handshake[A], Handshake[B]] = (first, second)
    over = [b"", b""]
    for turn in range(MAX_TURNS):
        side = turn % 2
        said = cores[side].take_output()
        if said:
            flights[side].append(said)
            over[1 - side] += _feed(cores[1 - side], said, sizes)
        elif turn and not (first.done and second.done):
            waiting = cores[1 - side].take_output()  # the other side may have more to say before this one answers
            if not waiting:
                raise Stuck(f"both wait: first done {first.done}, second done {second.done}")
            flights[1 - side].append(waiting)
            over[side] += _feed(cores[side], waiting, sizes)
        elif first.done and second.done:
            break
    else:
        raise Stuck(f"still talking after {MAX_TURNS} flights")
    leftovers = first.leftover + over[0], second.leftover + over[1]
    return Pumped(first.result, second.result, *flights, *leftovers)


def pieces(data: bytes, sizes: Sequence[int] = ()) -> Iterator[bytes]:
    """`data` cut into pieces of these sizes, in turn, the last one as long as what is left."""
    if not sizes:
        yield data
        return
    offset = 0
    for size in itertools.cycle(sizes):
        if offset >= len(data):
            return
        yield data[offset : offset + size]
        offset += size


def _feed(core: Handshake[object], data: bytes, sizes: Sequence[int]) -> bytes:
    """Feed until the core is done; returns what it was not given."""
    offset = 0
    for piece in pieces(data, sizes):
        if core.done:
            return data[offset:]
        core.feed(piece)
        offset += len(piece)
    return b""
