"""The data transform of eth2: snappy's block format (google/snappy format description; consensus-specs p2p-interface).

Rules: the length in the header is judged before anything is decompressed, against our bound and against what so many
bytes can become at most. Needs cramjam, which the extra `eth2` installs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pyp2p.errors import LocalProtocolError

try:
    import cramjam
except ImportError as error:
    raise ImportError("pyp2p.pubsub.snappy needs the package cramjam: install pyp2p[eth2]") from error

MAX_PAYLOAD: Final = 10 * 1024 * 1024  # MAX_PAYLOAD_SIZE of the consensus specs
_GROWTH = (64, 3)  # the longest copy: 64 bytes for 3


class Snappy:
    """Payloads are compressed. `max_size` bounds them, for all topics or as a function of the topic; compressed data is
    bounded by what that can take.
    """

    def __init__(self, max_size: int | Callable[[str], int] = MAX_PAYLOAD) -> None:
        self._max_size = max_size if callable(max_size) else lambda topic: max_size

    def outbound(self, topic: str, payload: bytes) -> bytes:
        """As `DataTransform.outbound`."""
        limit = self._max_size(topic)
        if len(payload) > limit:
            raise LocalProtocolError(f"a payload of {len(payload)} bytes is over the limit of {limit}")
        return bytes(cramjam.snappy.compress_raw(payload))

    def inbound(self, topic: str, data: bytes) -> bytes | None:
        """As `DataTransform.inbound`; a header longer than need be is taken."""
        limit = self._max_size(topic)
        if len(data) > 32 + limit + limit // 6:
            return None
        try:
            size = cramjam.snappy.decompress_raw_len(data)
            if size > limit or size * _GROWTH[1] > len(data) * _GROWTH[0]:
                return None
            return bytes(cramjam.snappy.decompress_raw(data))
        except cramjam.DecompressionError:
            return None
