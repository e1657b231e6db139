"""What can be read of a node record that is wrong: for people who look for the mistake, and for nothing else.

Rules: pure, and nothing of it is believed: no object of it is made that others could take for a record. It is read up
to the first byte that makes no sense, also beyond the 300 bytes that a record may have; texts over 2,048 characters are
not read at all. Texts in it leave here escaped.
"""

from __future__ import annotations

import base64
import string
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

from pyp2p.discv5 import rlp
from pyp2p.discv5.enr import PREFIX, SEQ_BITS
from pyp2p.discv5.keccak import keccak256
from pyp2p.errors import InvalidRlp, LocalProtocolError, printable
from pyp2p.peer import secp256k1

_MAX_TEXT: Final = 2048
_DIGITS: Final = string.ascii_letters + string.digits + "-_"
_IPS: Final = {b"ip": 4, b"ip6": 16}
_NUMBERS: Final = (b"tcp", b"tcp6", b"udp", b"udp6", b"quic", b"quic6", b"cgc")
_WORDS: Final = (b"id",)
_MOST_SHOWN: Final = 50  # entries that are shown to people
_SHOWN: Final = 120  # characters of a value that are shown to people


def decoded(text: str) -> dict[str, Any] | None:
    """What the text holds of a record, None when that is nothing.

    `signature` is `verifies`, `does not verify`, or `not checked` when it, the key or what it signs is not there whole.
    """
    if len(text) > _MAX_TEXT or not text.startswith(PREFIX):
        return None
    rest = text[len(PREFIX) :].lstrip(_DIGITS)
    digits = text[len(PREFIX) : len(text) - len(rest)]
    whole_bytes = digits[:-1] if len(digits) % 4 == 1 else digits
    raw = base64.urlsafe_b64decode(whole_bytes + "=" * (-len(whole_bytes) % 4))
    items, stopped = _outer(raw)
    if not items:
        return None
    if rest.rstrip("="):
        stopped = f"character {len(text) - len(rest) + 1}, '{printable(rest[0])}', is not of base64url"
    return {
        "verified": False,
        "size": len(raw),
        "signature": "not checked" if stopped else _signature(items),
        "seq": None if len(items) < 2 else _number(items[1], SEQ_BITS),
        "entries": [_entry(key, value) for key, value in zip(items[2::2], [*items[3::2], None], strict=False)],
        "stopped": stopped,
    }


def lines(sheet: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    rows = [("seq", "-" if sheet["seq"] is None else str(sheet["seq"]))]
    for entry in sheet["entries"][:_MOST_SHOWN]:
        value = "-" if entry["value"] is None else f"0x{entry['value']}"
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
        rows.append((entry["key"], shown if entry["means"] is None else f"{entry['means']} ({shown})"))
    width = max(len(label) for label, _ in rows)
    head = f"Not verified, and not to be relied on ({sheet['size']} bytes, signature: {sheet['signature']}):"
    told = [head, *(f"  {label.ljust(width)}  {value}" for label, value in rows)]
    more = len(sheet["entries"]) - _MOST_SHOWN
    if more > 0:
        told.append(f"  ... and {more} more entries (--json shows all)")
    return told if sheet["stopped"] is None else [*told, f"  Not read further: {sheet['stopped']}."]


def _outer(raw: bytes) -> tuple[list[rlp.Item], str | None]:
    """The items of the list that `raw` begins with, as far as they are whole, and why there are no more."""
    if not raw or raw[0] < 0xC0:
        return [], None
    start, end = _extent(raw, 0)
    stopped = None
    if end > len(raw):
        stopped = f"the record is cut off: it says that it has {end} bytes"
    elif end < len(raw):
        stopped = f"{len(raw) - end} bytes follow the record"
    limit = min(end, len(raw))
    items: list[rlp.Item] = []
    while start < limit:
        _, last = _extent(raw, start)
        if last > limit:
            return items, stopped or f"an item runs over the end of the record at byte {start}"
        try:
            items.append(rlp.decode(raw[start:last]))
        except InvalidRlp as error:
            return items, f"the item at byte {start}: {error}"
        start = last
    return items, stopped


def _extent(raw: bytes, start: int) -> tuple[int, int]:
    """Where the payload of the item at `start` begins and ends, as its head says: perhaps far behind `raw`."""
    first = raw[start]
    if first < 0x80:
        return start, start + 1
    size = first - (0xC0 if first >= 0xC0 else 0x80)
    begin = start + 1
    if size > 55:  # the length of the length, beyond 55
        begin += size - 55
        size = int.from_bytes(raw[start + 1 : begin], "big")
    return begin, begin + size


def _signature(items: Sequence[rlp.Item]) -> str:
    pairs = dict(zip(items[2::2], items[3::2], strict=False))
    signature, public = items[0], pairs.get(b"secp256k1")
    if not isinstance(signature, bytes) or not isinstance(public, bytes) or len(items) % 2:
        return "not checked"
    if pairs.get(b"id") != b"v4":  # another scheme signs otherwise
        return "not checked"
    try:
        digest = keccak256(rlp.encode(items[1:]))
    except LocalProtocolError:  # nested one level too deep to be a record
        return "not checked"
    return "verifies" if secp256k1.verify_digest(public, signature, digest) else "does not verify"


def _entry(key: rlp.Item, value: rlp.Item | None) -> dict[str, str | None]:
    name = printable(key) if isinstance(key, bytes) else f"a list (0x{_hex(key)})"
    return {"key": name, "value": None if value is None else _hex(value), "means": _means(key, value)}


def _means(key: rlp.Item, value: rlp.Item | None) -> str | None:
    """The value as what its key says that it is; None where it is of another form, or just bytes."""
    if not isinstance(value, bytes):
        return None
    if key in _NUMBERS:
        number = _number(value, SEQ_BITS)
        return None if number is None else str(number)
    if isinstance(key, bytes) and len(value) == _IPS.get(key):
        return str(ip_address(value))
    return printable(value) if key in _WORDS else None


def _number(item: rlp.Item, bits: int) -> int | None:
    try:
        return rlp.decode_uint(item, bits)
    except InvalidRlp:
        return None


def _hex(item: rlp.Item) -> str:
    return (item if isinstance(item, bytes) else rlp.encode(item)).hex()
