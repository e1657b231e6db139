"""RLP, strictly: byte strings and lists of them, each with exactly one encoding (Ethereum yellow paper, appendix B).

Rules: every form that we would not emit is refused, trailing bytes too. Lists nest at most 16 deep, since each level
is a call. What is decoded takes up to 45 times its bytes in memory, so the caller bounds the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from pyp2p.errors import InvalidRlp, LocalProtocolError

Item: TypeAlias = bytes | tuple["Item", ...]  # what is decoded: lists come as tuples
Encodable: TypeAlias = bytes | Sequence["Encodable"]

MAX_DEPTH: Final = 16  # lists inside lists, the outermost one counted
_STRING = 0x80  # the first byte of a string is this plus its length, or plus 55 and the length of its length
_LIST = 0xC0  # likewise for lists
_SHORT = 55  # the longest payload whose length stands in the first byte
_LISTS = (list, tuple)
_FIRST = [bytes((value,)) for value in range(256)]  # made once: most heads are a byte


def encode(item: Encodable) -> bytes:
    """The encoding of bytes, or of a list or tuple; `LocalProtocolError` for all else, and more than 16 levels."""
    return _encode(item, 0)


def decode(data: bytes) -> Item:
    """The one item that `data` encodes, lists as tuples; raises `InvalidRlp` unless `encode` gives back `data`."""
    item, end = _decode(data, 0, len(data), 0)
    if end != len(data):
        raise InvalidRlp(f"bytes follow the item that ends at byte {end} of {len(data)}")
    return item


def encode_uint(value: int) -> bytes:
    """The bytes of an integer >= 0: big-endian without leading zeros, hence none for 0."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def decode_uint(item: Encodable, bits: int) -> int:
    """The integer of at most `bits` bits (whole bytes) that an item holds; raises `InvalidRlp`."""
    if not isinstance(item, bytes):
        raise InvalidRlp("a list stands where an integer belongs")
    if item[:1] == b"\0":
        raise InvalidRlp("an integer has a leading zero")
    if 8 * len(item) > bits:
        raise InvalidRlp(f"an integer of {len(item)} bytes is over {bits} bits")
    return int.from_bytes(item, "big")


def _encode(item: Encodable, depth: int) -> bytes:
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < _STRING else _head(_STRING, len(item)) + item
    if not isinstance(item, _LISTS):  # a text, above all: each item of it is a text again
        raise LocalProtocolError(f"RLP holds bytes, and lists of them, not {type(item).__name__}")
    if depth == MAX_DEPTH:
        raise LocalProtocolError(f"RLP lists nested more than {MAX_DEPTH} deep")
    payload = b"".join([_encode(one, depth + 1) for one in item])
    return _head(_LIST, len(payload)) + payload


def _head(kind: int, length: int) -> bytes:
    if length <= _SHORT:
        return _FIRST[kind + length]
    size = encode_uint(length)
    return bytes((kind + _SHORT + len(size),)) + size


def _decode(data: bytes, start: int, limit: int, depth: int) -> tuple[Item, int]:
    """The item that begins at `start` and must end by `limit`, and where it ends."""
    if start >= limit:
        raise InvalidRlp(f"an item is missing at byte {start}")
    first = data[start]
    if first < _STRING:
        return data[start : start + 1], start + 1
    kind = _LIST if first >= _LIST else _STRING
    begin, end = _payload(data, start, limit, first - kind)
    if kind == _STRING:
        if end - begin == 1 and data[begin] < _STRING:
            raise InvalidRlp(f"a single byte below 0x80 has a length at byte {start}")
        return data[begin:end], end
    if depth == MAX_DEPTH:
        raise InvalidRlp(f"lists are nested more than {MAX_DEPTH} deep at byte {start}")
    items: list[Item] = []
    while begin < end:
        item, begin = _decode(data, begin, end, depth + 1)
        items.append(item)
    return tuple(items), end


def _payload(data: bytes, start: int, limit: int, size: int) -> tuple[int, int]:
    """Where the payload of the item at `start` begins and ends; `size` is the first byte less its kind."""
    begin = start + 1
    if size > _SHORT:
        begin += size - _SHORT
        if begin > limit:
            raise InvalidRlp(f"a length is cut off at byte {start}")
        if data[start + 1] == 0:
            raise InvalidRlp(f"a length has a leading zero at byte {start}")
        size = int.from_bytes(data[start + 1 : begin], "big")
        if size <= _SHORT:
            raise InvalidRlp(f"a length of {size} is written in the long form at byte {start}")
    if size > limit - begin:
        raise InvalidRlp(f"an item of {size} bytes runs over its end at byte {start}")
    return begin, begin + size
