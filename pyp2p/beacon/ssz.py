"""SSZ as far as the network needs it: encode, strict decode, hash_tree_root (consensus-specs, simple-serialize).

Rules: a value has one encoding, and any other byte string is a `WireError` that names the field. A size is judged by
the bounds of its type before anything is copied. Values of our own that do not fit are a `LocalProtocolError`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from typing import Any, Final, Generic, Self, TypeVar, cast, get_type_hints

from pyp2p.errors import LocalProtocolError, WireError

T = TypeVar("T")
C = TypeVar("C", bound="Container")

_CHUNK: Final = 32
_OFFSET: Final = 4
_DEEPEST: Final = 64  # no limit of a list is over 2**64


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _zero_hashes() -> tuple[bytes, ...]:
    found = [bytes(_CHUNK)]
    for _ in range(_DEEPEST):
        found.append(_sha256(found[-1] + found[-1]))
    return tuple(found)


_ZERO = _zero_hashes()


def merkleize(chunks: Sequence[bytes], limit: int) -> bytes:
    """The root of the tree of `limit` chunks of 32 bytes whose first ones are these and whose others are zero."""
    layer = list(chunks)
    for depth in range((max(limit, 1) - 1).bit_length()):
        if len(layer) % 2:
            layer.append(_ZERO[depth])
        layer = [_sha256(layer[at] + layer[at + 1]) for at in range(0, len(layer), 2)] or [_ZERO[depth + 1]]
    return layer[0] if layer else _ZERO[0]


def pack(data: bytes) -> list[bytes]:
    """`data` in chunks of 32 bytes, the last one filled up with zeros."""
    return [data[at : at + _CHUNK].ljust(_CHUNK, b"\0") for at in range(0, len(data), _CHUNK)]


def _mix_in_length(root: bytes, length: int) -> bytes:
    return _sha256(root + length.to_bytes(_CHUNK, "little"))


class SszType(ABC, Generic[T]):
    """One type of SSZ. Its encodings have `least` to `most` bytes; the two are equal where the size is fixed."""

    least: int
    most: int

    @property
    def fixed(self) -> bool:
        """Whether every value has the same size."""
        return self.least == self.most

    def decode(self, raw: bytes, where: str = "") -> T:
        """The value that `raw` is the encoding of, the whole of it; raises `WireError`, which begins with `where`."""
        if not self.least <= len(raw) <= self.most:
            bounds = f"{self.least}" if self.fixed else f"{self.least} to {self.most}"
            raise WireError(f"{where or self}: {len(raw)} bytes instead of {bounds}")
        return self._decode(raw, where or str(self))

    @property
    @abstractmethod
    def zero(self) -> T:
        """The value that the specs take where none is given: zeros, and nothing in lists."""

    @abstractmethod
    def check(self, value: T, where: str) -> None:
        """Raises `LocalProtocolError`, which begins with `where`, for what is no value of this type."""

    @abstractmethod
    def encode(self, value: T) -> bytes:
        """The encoding of a value that passes `check`."""

    @abstractmethod
    def hash_tree_root(self, value: T) -> bytes:
        """The root (32 bytes) of a value that passes `check`."""

    @abstractmethod
    def _decode(self, raw: bytes, where: str) -> T:
        """`decode` after the bounds were checked."""


def _refuse(where: str, value: object, rule: str) -> LocalProtocolError:
    return LocalProtocolError(f"{where} must be {rule}, not {value!r:.80}")


class Uint(SszType[int]):
    """An unsigned integer of `size` bytes, little end first."""

    def __init__(self, size: int) -> None:
        self.least = self.most = size

    def __str__(self) -> str:
        return f"uint{8 * self.most}"

    @property
    def zero(self) -> int:
        return 0

    def check(self, value: int, where: str) -> None:
        if not isinstance(value, int) or not 0 <= value < 1 << 8 * self.most:
            raise _refuse(where, value, f"a number of {8 * self.most} bits")

    def encode(self, value: int) -> bytes:
        return value.to_bytes(self.most, "little")

    def hash_tree_root(self, value: int) -> bytes:
        return self.encode(value).ljust(_CHUNK, b"\0")

    def _decode(self, raw: bytes, where: str) -> int:
        return int.from_bytes(raw, "little")


class ByteVector(SszType[bytes]):
    """Exactly `size` bytes."""

    def __init__(self, size: int) -> None:
        self.least = self.most = size

    def __str__(self) -> str:
        return f"Bytes{self.most}"

    @property
    def zero(self) -> bytes:
        return bytes(self.most)

    def check(self, value: bytes, where: str) -> None:
        if not isinstance(value, bytes) or len(value) != self.most:
            raise _refuse(where, value, f"{self.most} bytes")

    def encode(self, value: bytes) -> bytes:
        return value

    def hash_tree_root(self, value: bytes) -> bytes:
        chunks = pack(value)
        return merkleize(chunks, len(chunks))

    def _decode(self, raw: bytes, where: str) -> bytes:
        return bytes(raw)


class ByteList(SszType[bytes]):
    """At most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.least, self.most = 0, limit

    def __str__(self) -> str:
        return f"List[byte, {self.most}]"

    @property
    def zero(self) -> bytes:
        return b""

    def check(self, value: bytes, where: str) -> None:
        if not isinstance(value, bytes) or len(value) > self.most:
            raise _refuse(where, value, f"at most {self.most} bytes")

    def encode(self, value: bytes) -> bytes:
        return value

    def hash_tree_root(self, value: bytes) -> bytes:
        return _mix_in_length(merkleize(pack(value), -(-self.most // _CHUNK)), len(value))

    def _decode(self, raw: bytes, where: str) -> bytes:
        return bytes(raw)


class Bitvector(SszType[frozenset[int]]):
    """Which of `bits` bits are set, the lowest one first; those after them in the last byte are zero."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.least = self.most = -(-bits // 8)

    def __str__(self) -> str:
        return f"Bitvector[{self.bits}]"

    @property
    def zero(self) -> frozenset[int]:
        return frozenset()

    def check(self, value: frozenset[int], where: str) -> None:
        if not isinstance(value, frozenset) or not all(bit in range(self.bits) for bit in value):
            raise _refuse(where, value, f"a frozenset of numbers from 0 to {self.bits - 1}")

    def encode(self, value: frozenset[int]) -> bytes:
        return sum(1 << bit for bit in value).to_bytes(self.most, "little")

    def hash_tree_root(self, value: frozenset[int]) -> bytes:
        chunks = pack(self.encode(value))
        return merkleize(chunks, len(chunks))

    def _decode(self, raw: bytes, where: str) -> frozenset[int]:
        number = int.from_bytes(raw, "little")
        if number >> self.bits:
            raise WireError(f"{where}: bit {number.bit_length() - 1} is set, the last one is {self.bits - 1}")
        return frozenset(bit for bit in range(self.bits) if number >> bit & 1)


class SszList(SszType[tuple[T, ...]]):
    """At most `limit` values of one type."""

    def __init__(self, element: SszType[T], limit: int) -> None:
        self.element, self.limit = element, limit
        self.least = 0
        self.most = limit * (element.most if element.fixed else element.most + _OFFSET)

    def __str__(self) -> str:
        return f"List[{self.element}, {self.limit}]"

    @property
    def zero(self) -> tuple[T, ...]:
        return ()

    def check(self, value: tuple[T, ...], where: str) -> None:
        if not isinstance(value, tuple) or len(value) > self.limit:
            raise _refuse(where, value, f"a tuple of at most {self.limit} values")
        for at, each in enumerate(value):
            self.element.check(each, f"{where}[{at}]")

    def encode(self, value: tuple[T, ...]) -> bytes:
        return _serialize((self.element, each) for each in value)

    def hash_tree_root(self, value: tuple[T, ...]) -> bytes:
        if isinstance(self.element, Uint):  # numbers share chunks
            root = merkleize(pack(self.encode(value)), -(-self.limit * self.element.most // _CHUNK))
        else:
            root = merkleize([self.element.hash_tree_root(each) for each in value], self.limit)
        return _mix_in_length(root, len(value))

    def _decode(self, raw: bytes, where: str) -> tuple[T, ...]:
        if not raw:
            return ()
        if self.element.fixed:
            count, left = divmod(len(raw), self.element.most)
            if left:
                raise WireError(f"{where}: {len(raw)} bytes are no whole number of elements of {self.element.most}")
        else:
            count = self._count(raw, where)
        return tuple(_deserialize(raw, [(f"{where}[{at}]", self.element) for at in range(count)]))

    def _count(self, raw: bytes, where: str) -> int:
        """How many elements of variable size there are: as many as offsets before the first of them."""
        first = int.from_bytes(raw[:_OFFSET], "little")
        if first == 0 or first % _OFFSET or first > len(raw):
            raise WireError(f"{where}: the first offset is {first}, of {len(raw)} bytes")
        count = first // _OFFSET
        if count > self.limit:  # many that are empty take no more bytes than few that are full
            raise WireError(f"{where}: {count} elements, over the limit of {self.limit}")
        return count


class ContainerType(SszType[C]):
    """The fields of one container, in order."""

    def __init__(self, made: type[C]) -> None:
        self.made = made
        hints = get_type_hints(made, include_extras=True)
        self.layout: tuple[tuple[str, SszType[Any]], ...] = tuple(
            (each.name, _type_of(hints[each.name])) for each in fields(made)
        )
        self.least = sum(kind.least if kind.fixed else _OFFSET + kind.least for _, kind in self.layout)
        self.most = sum(kind.most if kind.fixed else _OFFSET + kind.most for _, kind in self.layout)

    def __str__(self) -> str:
        return self.made.__name__

    @property
    def zero(self) -> C:
        return self.made(*(kind.zero for _, kind in self.layout))

    def check(self, value: C, where: str) -> None:
        if not isinstance(value, self.made):
            raise _refuse(where, value, f"a {self}")

    def encode(self, value: C) -> bytes:
        return _serialize((kind, getattr(value, name)) for name, kind in self.layout)

    def hash_tree_root(self, value: C) -> bytes:
        roots = [kind.hash_tree_root(getattr(value, name)) for name, kind in self.layout]
        return merkleize(roots, len(roots))

    def _decode(self, raw: bytes, where: str) -> C:
        return self.made(*_deserialize(raw, [(f"{where}.{name}", kind) for name, kind in self.layout]))


@dataclass(frozen=True, slots=True)
class Container:
    """Base of the containers: frozen dataclasses whose annotations name the SSZ type of each field.

    Making one raises `LocalProtocolError`, which names the field, for a value that is not of its type.
    """

    def __post_init__(self) -> None:
        for name, kind in self.ssz().layout:
            kind.check(getattr(self, name), f"{type(self).__name__}.{name}")

    @classmethod
    def ssz(cls) -> ContainerType[Self]:
        """The type as a field or an element of another one."""
        made: Any = cls
        return _container_type(made)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """The container that `raw` is the encoding of; raises `WireError`, which names the field."""
        return cls.ssz().decode(raw)

    def encode(self) -> bytes:
        """The encoding."""
        return self.ssz().encode(self)

    def hash_tree_root(self) -> bytes:
        """The root, 32 bytes."""
        return self.ssz().hash_tree_root(self)


@cache  # one entry for each container that a program declares
def _container_type(made: type[Any]) -> ContainerType[Any]:
    return ContainerType(made)


def _type_of(hint: Any) -> SszType[Any]:
    """What an annotation says: a container, or `Annotated[..., the type]`."""
    if isinstance(hint, type) and issubclass(hint, Container):
        return hint.ssz()
    (kind,) = hint.__metadata__
    return cast("SszType[Any]", kind)


def _serialize(parts: Iterable[tuple[SszType[Any], Any]]) -> bytes:
    """The parts of fixed size and offsets, then what the offsets lead to."""
    encoded = [(kind.fixed, kind.encode(value)) for kind, value in parts]
    offset = sum(len(part) if fixed else _OFFSET for fixed, part in encoded)
    head, tail = bytearray(), bytearray()
    for fixed, part in encoded:
        if fixed:
            head += part
        else:
            head += (offset + len(tail)).to_bytes(_OFFSET, "little")
            tail += part
    return bytes(head + tail)


def _deserialize(raw: bytes, parts: Sequence[tuple[str, SszType[Any]]]) -> list[Any]:
    """The inverse of `_serialize`, for `raw` that is no shorter than the parts of fixed size and the offsets."""
    values: list[Any] = [None] * len(parts)
    starts: list[tuple[int, int]] = []
    at = 0
    for index, (name, kind) in enumerate(parts):
        if kind.fixed:
            values[index] = kind.decode(raw[at : at + kind.most], name)
            at += kind.most
        else:
            starts.append((index, int.from_bytes(raw[at : at + _OFFSET], "little")))
            at += _OFFSET
    # The first offset leads to the first byte after all of them, and none goes back: no byte is read twice or left out.
    starts.append((len(parts), len(raw)))
    for (index, start), (_, end) in pairwise(starts):
        name, kind = parts[index]
        if start != at:
            raise WireError(f"{name}: offset {start} instead of {at}")
        if not start <= end <= len(raw):
            raise WireError(f"{name}: goes from byte {start} to {end} of {len(raw)}")
        values[index] = kind.decode(raw[start:end], name)
        at = end
    return values
