"""How values become bytes: types with their bounds, and the framing of payloads on the wire.

Rules: pure. A type (`Kind`) turns values into payloads and back and knows how long a payload may be; a framing turns
payloads into what stands behind their length. Both are part of a declaration, so the room knows no format of its own:
`Plain` is the payload as it is, `frames.SnappyFrames` (extra `eth2`) snappy's framing format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pyp2p.errors import WireError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many bytes a payload may have, both ends included."""

    least: int
    most: int

    def __post_init__(self) -> None:
        """Raise `ValueError` for bounds that nothing can keep."""
        if not 0 <= self.least <= self.most:
            raise ValueError(f"bounds must be 0 <= least <= most, not {self.least} to {self.most}")

    def __contains__(self, size: int) -> bool:
        return self.least <= size <= self.most

    def __str__(self) -> str:
        return f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"

    def check(self, size: int, what: str) -> None:
        """Raises `WireError` that names `what`, the size and the bounds."""
        if size not in self:
            raise WireError(f"{what} of {size} bytes, where {self} are allowed")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A type of payloads: its name, its bounds in bytes, and both directions.

    `decode` is given a payload within the bounds and raises `RemoteError` (say `WireError`) for one that is no value;
    whatever else it raises is a bug. `encode` raises `ValueError` for a value that cannot be sent.
    """

    name: str
    bounds: Bounds
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]


@dataclass(frozen=True, slots=True)
class ByContext(Generic[T]):
    """Types that differ by `size` context bytes before each chunk (eth2: the fork digest, 4).

    `of` gives the context of a value that is sent; `kind` the type that a context announces, None for an unknown one.
    """

    size: int
    of: Callable[[T], bytes]
    kind: Callable[[bytes], Kind[T] | None]

    def __post_init__(self) -> None:
        """Raise `ValueError` for a context of no bytes."""
        if self.size < 1:
            raise ValueError("a context has at least one byte: without one, declare the type itself")


class PayloadReader(Protocol):
    """Finds the end of one payload in a buffer that starts with it and grows between calls."""

    def scan(self, buffer: bytearray) -> int | None:
        """Where what belongs to the payload ends in `buffer`; None when more bytes are needed.

        Raises `WireError` as soon as the bytes cannot become the payload, before more are asked for than are allowed.
        """
        ...

    def payload(self, framed: bytearray | memoryview) -> bytes:
        """The payload of exactly the bytes up to the end that `scan` found. Raises `WireError`."""
        ...


class Framing(Protocol):
    """What stands behind the length of a payload; `name` is the last part of protocol ids, empty for none."""

    @property
    def name(self) -> str:
        """The last part of protocol ids, such as `ssz_snappy`; empty: no such part."""
        ...

    def pack(self, payload: bytes) -> bytes:
        """The bytes that stand behind the length of `payload`."""
        ...

    def reader(self, size: int) -> PayloadReader:
        """A reader of one payload of `size` bytes; the size has been judged."""
        ...


class Plain:
    """A payload as it is: uvarint length, then the bytes."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def pack(self, payload: bytes) -> bytes:
        """The payload itself."""
        return payload

    def reader(self, size: int) -> PayloadReader:
        """As `Framing.reader`."""
        return _PlainReader(size)


class _PlainReader:
    def __init__(self, size: int) -> None:
        self._size = size

    def scan(self, buffer: bytearray) -> int | None:
        return self._size if len(buffer) >= self._size else None

    def payload(self, framed: bytearray | memoryview) -> bytes:
        return bytes(framed)
