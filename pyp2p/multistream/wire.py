"""multistream-select 1.0 as bytes: uvarint length, text, newline.

Rules: pure. A length is refused before its body is buffered, text before it is used. At most 1024 bytes a message
(what go and js accept), so a length has one or two bytes and the two-byte form starts at 128.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from pyp2p.errors import LocalProtocolError, MultistreamError, printable
from pyp2p.io import varint

VERSION = "/multistream/1.0.0"
MAX_MESSAGE = 1024  # bytes with the newline: a peer must not make us buffer more before it has named a protocol
MAX_LIST_BYTES = 65536  # an answer to `ls`: it costs the asker three bytes, so it is no amplifier worth having
MAX_LIST_NAMES = 1000


@lru_cache(maxsize=1024)
def encode_line(text: str) -> bytes:
    """One message: length, text, newline. Raises `LocalProtocolError` for a text that no peer could accept."""
    body = text.encode("utf-8") if text.isprintable() else b""  # what UTF-8 cannot carry is not printable
    if not body or len(body) >= MAX_MESSAGE:
        raise LocalProtocolError(f"not a protocol id: {printable(text)!r}")
    return varint.encode(len(body) + 1) + body + b"\n"


HEADER = encode_line(VERSION)
NA = encode_line("na")


def check_header(buffer: bytes) -> int:
    """Where the first message ends: after the header; 0 while it is incomplete.

    Raises `MultistreamError` on the first byte that is not the header's: whoever speaks another protocol (HTTP, TLS)
    is turned away at once.
    """
    head = buffer[: len(HEADER)]
    if not HEADER.startswith(head):
        raise MultistreamError(f"expected {VERSION}, got {printable(head)}")
    return len(HEADER) if len(head) == len(HEADER) else 0


def decode_line(buffer: bytes, offset: int) -> tuple[str, int] | None:
    """The message at `offset` and where the next begins; None while it is incomplete.

    Raises `MultistreamError` for a length over 1024, zero or not minimal, a missing newline, and text that is not
    UTF-8 or has control characters (a newline inside, too).
    """
    available = len(buffer) - offset
    if available < 1:
        return None
    size = buffer[offset]
    start = offset + 1
    if size >= 0x80:
        if available < 2:
            return None
        high = buffer[start]
        if high == 0:
            raise MultistreamError("length is not minimal")
        size = size & 0x7F | high << 7
        if high >= 0x80 or size > MAX_MESSAGE:
            raise MultistreamError(f"message over {MAX_MESSAGE} bytes")
        start += 1
    if size == 0:
        raise MultistreamError("message without a newline")
    end = start + size
    if len(buffer) < end:
        return None
    return decode_text(buffer[start:end]), end


def decode_text(body: bytes) -> str:
    """The text of a whole message body. Raises `MultistreamError` as `decode_line` does."""
    if body[-1] != 0x0A:
        raise MultistreamError("message without a newline")
    try:
        text = body[:-1].decode("utf-8")
    except UnicodeDecodeError:
        raise MultistreamError("message is not UTF-8") from None
    if not text:
        raise MultistreamError("empty message")
    if not text.isprintable():
        raise MultistreamError(f"control characters in a message: {printable(text)}")
    return text


def encode_list(names: Iterable[str]) -> bytes:
    """The answer to `ls`: a message that holds one message per name, cut at 1000 names and 64 KiB."""
    lines: list[bytes] = []
    size = 1
    for name in names:
        line = encode_line(name)
        if len(lines) == MAX_LIST_NAMES or size + len(line) > MAX_LIST_BYTES:
            break
        lines.append(line)
        size += len(line)
    return varint.encode(size) + b"".join(lines) + b"\n"
