"""Mplex frames as numbers and bytes (libp2p specs, mplex/README.md).

Rules: no state here. A frame is uvarint(stream id << 3 | flag), uvarint(length), then so many bytes.
"""

from __future__ import annotations

from pyp2p.errors import MuxerError, WireError
from pyp2p.io import varint

PROTOCOL = "/mplex/6.7.0"

NEW_STREAM = 0
MESSAGE_RECEIVER = 1  # even flags are the initiator's: message 2, close 4, reset 6
MESSAGE_INITIATOR = 2
CLOSE_RECEIVER = 3
CLOSE_INITIATOR = 4
RESET_RECEIVER = 5
RESET_INITIATOR = 6

MAX_STREAM_ID = (1 << 60) - 1
MAX_HEADER = 18  # two varints of at most 9 bytes
MAX_BODY = 65519 - MAX_HEADER  # one frame of ours fits one noise message


def read_header(data: bytes, pos: int) -> tuple[int, int, int] | None:
    """(first varint, length, where the body begins) of the frame at `pos`; None when `data` ends inside the header."""
    try:
        if pos < len(data) and data[pos] < 0x80:
            head, pos = data[pos], pos + 1
        else:
            first = varint.decode(data, pos)
            if first is None:
                return None
            head, pos = first
        if pos < len(data) and data[pos] < 0x80:
            return head, data[pos], pos + 1
        second = varint.decode(data, pos)
    except WireError as error:
        raise MuxerError(f"bad frame header: {error}") from error
    return None if second is None else (head, *second)


def header(stream_id: int, flag: int, length: int) -> bytes:
    """The header of one frame."""
    return varint.encode(stream_id << 3 | flag) + varint.encode(length)
