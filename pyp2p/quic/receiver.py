"""What came of one QUIC stream, put together: sparse and bounded, where the library's allocates whatever a gap spans.

RFC 9000, 2.2, 4.5 and 19.8.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicStreamFrame
from aioquic.quic.stream import FinalSizeError, QuicStream, QuicStreamReceiver

STREAM_WINDOW: Final = 512 * 1024
MAX_FRAGMENTS: Final = 1024  # gaps in a stream: a whole window of which each second datagram was lost has 200


class Receiver(QuicStreamReceiver):
    """Puts a stream together from pieces, each held as it came: no gap costs memory, and too many pieces end it.

    One without an id is of TLS, which may have `most` bytes in all.
    """

    def __init__(self, stream_id: int | None, most: int) -> None:
        super().__init__(stream_id=stream_id, readable=True)
        self.consumed = 0
        self.delivered = 0
        self._most = most
        self._offsets: list[int] = []  # where pieces begin, ascending
        self._pieces: dict[int, bytes | bytearray] = {}
        self._held = 0

    @property
    def missing(self) -> int:
        """Bytes that counted against the peer's credit and will never come: the stream was reset."""
        return int(self.highest_offset) - self.delivered

    def handle_frame(self, frame: QuicStreamFrame) -> StreamDataReceived | None:
        """As `take`."""
        return self.take(frame.offset, frame.data, frame.fin)

    def take(self, offset: int, data: bytes, fin: bool) -> StreamDataReceived | None:
        """Data that is in order now, or None. Raises `FinalSizeError`, `QuicConnectionError` over a bound."""
        self._check_size(offset + len(data), fin)
        if self.is_finished:
            return None
        data = self._in_order(offset, data)
        ended = self._buffer_start == self._final_size
        self.is_finished = ended
        if not data and not ended:
            return None
        self.delivered += len(data)
        return StreamDataReceived(data=data, end_stream=ended, stream_id=self._stream_id or 0)

    def _check_size(self, end: int, fin: bool) -> None:
        if self._stream_id is None and end > self._most:  # the library would hold a message of TLS of 16 MiB
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=QuicFrameType.CRYPTO,
                reason_phrase="too much is said of TLS",
            )
        if self._final_size is not None and (end > self._final_size or (fin and end != self._final_size)):
            raise FinalSizeError("data beyond the final size")
        if fin:
            if end < self.highest_offset:
                raise FinalSizeError("data beyond the final size")
            self._final_size = end
        self.highest_offset = max(self.highest_offset, end)

    def _in_order(self, offset: int, data: bytes) -> bytes:
        start = self._buffer_start
        if offset == start and not self._offsets:
            self._buffer_start = start + len(data)
            return data
        if offset > start:
            self._hold(offset, data)
            return b""
        parts: list[bytes | bytearray] = [data[start - offset :]]
        start += len(parts[0])
        while self._offsets and self._offsets[0] <= start:
            at = self._offsets.pop(0)
            piece = self._pieces.pop(at)
            self._held -= len(piece)
            parts.append(piece[start - at :])
            start += len(parts[-1])
        self._buffer_start = start
        return b"".join(parts)

    def _hold(self, offset: int, data: bytes) -> None:
        """Keep what is new of a piece from beyond a gap, each byte once; what follows a piece joins it."""
        while data:
            at = bisect_right(self._offsets, offset)
            joins = None
            if at:
                before = self._offsets[at - 1]
                known = before + len(self._pieces[before]) - offset
                if known > 0:
                    offset, data = offset + known, data[known:]
                    continue
                joins = before if known == 0 else None
            new = data[: self._offsets[at] - offset] if at < len(self._offsets) else data
            if joins is None:
                self._offsets.insert(at, offset)
                self._pieces[offset] = new
            else:
                piece = self._pieces[joins]
                self._pieces[joins] = piece = piece if isinstance(piece, bytearray) else bytearray(piece)
                piece += new
            self._held += len(new)
            offset, data = offset + len(new), data[len(new) :]
        if len(self._offsets) > MAX_FRAGMENTS or self._held > self._most:
            raise QuicConnectionError(
                error_code=QuicErrorCode.INTERNAL_ERROR,
                frame_type=QuicFrameType.STREAM_BASE,
                reason_phrase="too many pieces out of order",
            )

    def handle_reset(self, *, final_size: int, error_code: int = QuicErrorCode.NO_ERROR) -> StreamReset | None:
        """As the library's; what waits behind a gap is dropped."""
        event = super().handle_reset(final_size=final_size, error_code=error_code)
        self._offsets.clear()
        self._pieces.clear()
        self._held = 0
        return event


def receiver_of(stream: QuicStream) -> Receiver:
    """A stream's receiver: ours takes the place of the library's before anything comes."""
    receiver = stream.receiver
    if not isinstance(receiver, Receiver):
        receiver = stream.receiver = Receiver(stream.stream_id, STREAM_WINDOW)
    return receiver
