"""Yamux frames as numbers and bytes (libp2p specs, yamux/README.md).

Rules: no state here. A header is 12 bytes, big endian: version u8, type u8, flags u16, stream id u32, length u32. The
first three are read as one 32-bit word, because the commonest frame, plain data, is the word 0.
"""

from __future__ import annotations

import struct

PROTOCOL = "/yamux/1.0.0"

HEADER = struct.Struct(">III")
HEADER_SIZE = 12

DATA = 0
WINDOW_UPDATE = 1
PING = 2
GO_AWAY = 3

SYN = 1
ACK = 2
FIN = 4
RST = 8

WINDOW_WORD = WINDOW_UPDATE << 16
PING_WORD = PING << 16
GO_AWAY_WORD = GO_AWAY << 16

INITIAL_WINDOW = 256 * 1024  # fixed by the spec, in both directions of every stream
MAX_U32 = 0xFFFF_FFFF
MAX_BODY = 65519 - HEADER_SIZE  # one frame of ours fits one noise message
