"""The pump and the negotiations that it must not get wrong: real ones, and ones that never end."""

import pytest

from pyp2p.errors import MultistreamError
from pyp2p.multistream.core import Dialer, Listener
from pyp2p.testing.pump import Stuck, pieces, pump

NAMES = ["/a/1", "/b/1"]


@pytest.mark.parametrize("sizes", [(), (1,), (3, 1, 7), (1000,)])
def test_both_sides_of_a_negotiation(sizes: tuple[int, ...]) -> None:
    done = pump(Dialer(["/x/1", "/b/1"]), Listener(NAMES.__contains__, lambda: NAMES), sizes)
    assert (done.first, done.second) == ("/b/1", "/b/1")
    assert (done.first_leftover, done.second_leftover) == (b"", b"")
    assert len(done.first_flights) == 2
    assert b"/x/1" in done.first_flights[0]
    assert b"na" in b"".join(done.second_flights)


class Speaker:
    """Says its lines one by one, one per answer; done when it has heard `hears` bytes."""

    def __init__(self, lines: list[bytes], hears: int, greets: bool = False) -> None:
        self.lines = lines
        self.hears = hears
        self.heard = b""
        self.turns = int(greets)

    @property
    def done(self) -> bool:
        return len(self.heard) >= self.hears

    @property
    def result(self) -> bytes:
        return self.heard[: self.hears]

    @property
    def leftover(self) -> bytes:
        return self.heard[self.hears :]

    def feed(self, data: bytes) -> None:
        self.heard += data
        self.turns += 1

    def take_output(self) -> bytes:
        if self.turns and self.lines:
            self.turns -= 1
            return self.lines.pop(0)
        return b""


@pytest.mark.parametrize("sizes", [(), (1,), (2,)])
def test_output_after_the_end_is_left_over(sizes: tuple[int, ...]) -> None:
    done = pump(Speaker([b"hello", b"early data"], 3, greets=True), Speaker([b"abc"], 5), sizes)
    assert (done.first, done.second) == (b"abc", b"hello")
    assert done.second_leftover == b"early data"
    assert done.first_flights == [b"hello", b"early data"]


def test_two_who_wait_are_stuck() -> None:
    with pytest.raises(Stuck):
        pump(Speaker([], 1), Speaker([b"never asked"], 1))


def test_two_who_talk_for_ever_are_stuck() -> None:
    with pytest.raises(Stuck):
        pump(Speaker([b"x"] * 1000, 1000, greets=True), Speaker([b"y"] * 1000, 1000))


def test_errors_of_a_core_pass_through() -> None:
    with pytest.raises(MultistreamError):
        pump(Speaker([b"\xff" * 20], 100, greets=True), Listener(NAMES.__contains__, lambda: NAMES))


def test_pieces() -> None:
    assert list(pieces(b"abcdef", (1, 2))) == [b"a", b"bc", b"d", b"ef"]
    assert list(pieces(b"abc")) == [b"abc"]
