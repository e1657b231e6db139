"""One QUIC connection without I/O: aioquic's state machine, with the holes closed that a peer could use.

Rules: everything private of aioquic is touched in this file alone, and `tests/unit/quic/test_private.py` fails when one
of these names is gone: the version is pinned. What differs from the library: certificates of libp2p on both sides,
asked for before the first datagram is read and judged before anything is told; credit for what the application took,
where the library doubles its windows on receipt; sparse and bounded reassembly; no unidirectional streams, no sessions
taken up again, version 1 alone. RFC 9000 and 9001; libp2p specs, quic.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TextIO, cast

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # a C type that the module's stubs do not name
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    TRANSPORT_CLOSE_FRAME_CAPACITY,
    QuicConnection,
    QuicConnectionError,
)
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import QuicEvent, StreamDataReceived
from aioquic.quic.logger import QuicFileLogger, QuicLoggerTrace
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    QuicStreamFrame,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import FinalSizeError, QuicStream, QuicStreamReceiver
from cryptography import x509

from pyp2p.errors import InvalidKey, PeerIdMismatch, SecurityError, TlsError
from pyp2p.peer.id import PeerId
from pyp2p.peer.publickey import PublicKey
from pyp2p.security.tls.certificate import Certificate, check_certificate

logger = logging.getLogger("pyp2p.quic")

KeyLog = Callable[[bytes], None]

ALPN: Final = "libp2p"
CID_LENGTH: Final = 8
IDLE_SECONDS: Final = 30.0
STREAM_WINDOW: Final = 512 * 1024
CONNECTION_WINDOW: Final = 1536 * 1024
SEND_BUFFER: Final = 1024 * 1024  # bytes of a stream that are sent and not acknowledged, or not sent
DATAGRAM: Final = 1350  # bytes; what nearly every path carries. Nothing here finds out about more
MAX_FRAGMENTS: Final = 1024  # pieces of a stream that came out of order: a whole window of honest ones has 440
MAX_CRYPTO: Final = 64 * 1024  # bytes of a handshake out of order; a certificate has at most 16 KiB
QLOG_EVENTS: Final = 50_000  # of a connection, the last ones
_CERTIFICATE_REQUIRED: Final = 116  # RFC 8446, 6.2, which the library has no name for


@dataclass(frozen=True, slots=True)
class Settings:
    """What all connections of a node share.

    `key_log` gets a line in the format of SSLKEYLOGFILE for each secret; `qlog` is a folder that gets a file for each
    connection that ended.
    """

    certificate: Certificate
    wall: Callable[[], float]
    entropy: Callable[[int], bytes]
    datagram: int = DATAGRAM
    streams: int = 256  # that a peer may have open
    key_log: KeyLog | None = None
    qlog: str | None = None

    def configuration(self, client: bool) -> QuicConfiguration:
        """As the library wants it."""
        return QuicConfiguration(
            alpn_protocols=[ALPN],
            is_client=client,
            certificate=x509.load_der_x509_certificate(self.certificate.der),
            private_key=self.certificate.key,
            connection_id_length=CID_LENGTH,
            congestion_control_algorithm="cubic",
            idle_timeout=IDLE_SECONDS,
            max_data=CONNECTION_WINDOW,
            max_stream_data=STREAM_WINDOW,
            max_datagram_size=self.datagram,
            supported_versions=[QuicProtocolVersion.VERSION_1],
            verify_mode=0,  # ssl.CERT_NONE: the library knows nothing of libp2p's certificates: `_judge` does
            secrets_log_file=None if self.key_log is None else cast(TextIO, _Lines(self.key_log)),
            quic_logger=None if self.qlog is None else _Qlog(self.qlog),
        )


def header_of(data: bytes) -> QuicHeader:
    """The part of a datagram that nothing protects. Raises `ValueError`. RFC 8999, 5."""
    return pull_quic_header(Buffer(data=data), host_cid_length=CID_LENGTH)


def refusal(first: bytes) -> bytes:
    """The answer to a first datagram that says we take no connection now: one packet, and no key exchange.

    Raises `ValueError` for what begins no connection. RFC 9000, 5.2.2 and 20.1.
    """
    header = header_of(first)
    keys = CryptoPair()
    keys.setup_initial(cid=header.destination_cid, is_client=False, version=QuicProtocolVersion.VERSION_1)
    builder = QuicPacketBuilder(
        host_cid=header.destination_cid,
        is_client=False,
        max_datagram_size=DATAGRAM,
        peer_cid=header.source_cid,
        version=QuicProtocolVersion.VERSION_1,
    )
    builder.start_packet(QuicPacketType.INITIAL, keys)
    frame = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=TRANSPORT_CLOSE_FRAME_CAPACITY)
    for value in (QuicErrorCode.CONNECTION_REFUSED, QuicFrameType.PADDING, 0):
        frame.push_uint_var(value)
    ((datagram,), _) = builder.flush()
    return datagram


class _Lines:
    """What the library takes for a file of secrets."""

    def __init__(self, told: KeyLog) -> None:
        self._told = told

    def write(self, text: str) -> None:
        """One line at a time."""
        self._told(text.rstrip("\n").encode())

    def flush(self) -> None:
        """Nothing is held back."""


class _Qlog(QuicFileLogger):
    """The library's log of a connection, which would grow as long as that lives, with the last events only."""

    def start_trace(self, is_client: bool, odcid: bytes) -> QuicLoggerTrace:
        """One for a connection."""
        trace = super().start_trace(is_client, odcid)
        trace._events = deque(maxlen=QLOG_EVENTS)
        return trace


class _Refused(tls.Alert):
    """An alert whose number is given: the library has none for some."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(words)
        self.description = number  # type: ignore[assignment]  # typed as the library's enum, which lacks it


class QuicCore(QuicConnection):
    """A connection; `peer_key` is known once the handshake is over, and `refusal` says why it was not."""

    def __init__(
        self,
        settings: Settings,
        *,
        client: bool,
        original_cid: bytes | None = None,
        retry_cid: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=settings.configuration(client),
            original_destination_connection_id=original_cid,
            retry_source_connection_id=retry_cid,
        )
        self.expect: PeerId | None = None
        self.peer_key: PublicKey | None = None
        self.refusal: SecurityError | InvalidKey | None = None
        self.terminated: events.ConnectionTerminated | None = None
        self.done = False  # the handshake
        self.last_code = 0  # that the end carries
        self.told: list[QuicEvent] = []  # what happened on streams, until `take_events`
        self._cids: list[tuple[bool, bytes]] = []
        self._settings = settings
        # The library names its own adapter here; any other writes as well.
        self._logger = self._loss._logger = _Quiet(logger, {})  # type: ignore[assignment]
        self._released = 0  # of all that was received: what nobody will read any more
        self._local_max_streams_bidi.value = settings.streams
        self._local_max_streams_uni.value = 0

    # --- what the endpoint and the muxer ask

    def look(self) -> None:
        """Sort what has happened: what is of streams goes to `told`, the rest to `done`, `terminated` and the ids."""
        while (event := self.next_event()) is not None:
            if isinstance(event, events.ConnectionIdIssued):
                self._cids.append((True, event.connection_id))
            elif isinstance(event, events.ConnectionIdRetired):
                self._cids.append((False, event.connection_id))
            elif isinstance(event, events.HandshakeCompleted):
                self._completed(event.alpn_protocol)
            elif isinstance(event, events.ConnectionTerminated):
                self.terminated = event
            else:
                if isinstance(event, events.StreamReset):
                    self._released += self._receiver(self._streams[event.stream_id]).missing
                self.told.append(event)
        if self.refusal is not None:
            self.told.clear()

    def take_events(self) -> list[QuicEvent]:
        """What happened on streams up to the last `look`."""
        told, self.told = self.told, []
        return told

    def take_cids(self) -> list[tuple[bool, bytes]]:
        """Ids of ours that came (True) and went since the last call."""
        found, self._cids = self._cids, []
        return found

    @property
    def client(self) -> bool:
        """True when we dialled."""
        return bool(self._is_client)

    @property
    def can_open(self) -> bool:
        """True while the peer lets us open a further stream."""
        return self._local_next_stream_id_bidi // 4 < self._remote_max_streams_bidi

    def open_stream(self) -> int:
        """Take the next stream; nothing is sent."""
        number: int = self.get_next_available_stream_id()
        self._get_or_create_stream_for_send(number)
        return number

    def room(self, stream_id: int) -> int:
        """How many bytes `send_stream_data` may be given now."""
        stream = self._streams.get(stream_id)
        return SEND_BUFFER - len(stream.sender._buffer) if stream is not None else 0

    def stopped(self, stream_id: int) -> int | None:
        """The code with which the peer reads a stream no more, 0 for one that is over; None while it reads."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.sender._reset_error_code

    @property
    def unacknowledged(self) -> bool:
        """True while the peer has not said that all of our streams' data and ends have come."""
        return any(
            not stream.sender.is_finished and (stream.sender._buffer or stream.sender._buffer_fin is not None)
            for stream in self._streams.values()
        )

    def consumed(self, stream_id: int, count: int) -> bool:
        """The application took so many bytes; True when the peer should be told of its new credit."""
        stream = self._streams.get(stream_id)
        self._released += count
        due = self._connection_credit() - self._local_max_data.sent > CONNECTION_WINDOW // 2
        if stream is not None and not stream.receiver.is_finished:
            receiver = self._receiver(stream)
            receiver.consumed += count
            grant = receiver.consumed + STREAM_WINDOW
            if grant - stream.max_stream_data_local_sent > STREAM_WINDOW // 2:
                stream.max_stream_data_local = grant
                due = True
        return due

    def dropped(self, count: int) -> None:
        """So many bytes that came will never be read: their stream is over."""
        self._released += count

    def stop_reading(self, stream_id: int, code: int) -> None:
        """Tell the peer that nobody reads the stream any more."""
        if stream_id in self._streams:
            self.stop_stream(stream_id, code)

    def shut(self) -> None:
        """Close with `last_code`; it leaves with the next datagrams."""
        self.close(error_code=self.last_code)

    def end_log(self) -> None:
        """Write the log of the connection, where one was asked for; blocks for as long as the disk takes."""
        if self._quic_logger is not None and self._configuration.quic_logger is not None:
            with suppress(OSError):
                self._configuration.quic_logger.end_trace(self._quic_logger)
            self._quic_logger = None

    # --- the handshake

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        context = self.tls
        context._request_client_certificate = not self._is_client
        # The library leaves no other place to judge certificates as libp2p does; test_private.py sees it move.
        context._set_peer_certificate = self._judge  # type: ignore[method-assign]
        if not self._is_client:
            handle = context._server_handle_certificate

            def handle_certificate(buffer: Any) -> None:
                handle(buffer)
                if self.peer_key is None:
                    raise self._refuses(TlsError("the peer showed no certificate"), _CERTIFICATE_REQUIRED)

            # As above: an empty certificate is not judged at all.
            context._server_handle_certificate = handle_certificate  # type: ignore[method-assign,assignment]
        for stream in self._crypto_streams.values():
            stream.receiver = Receiver(None, MAX_CRYPTO)

    def _judge(self, certificate: tls.Certificate) -> None:
        """In place of the library's: raise unless the one certificate proves the peer that is expected."""
        chain = [der for der, _ in certificate.certificates]
        try:
            if len(chain) != 1:
                raise TlsError("the peer showed more than one certificate")
            key = check_certificate(chain[0], self._settings.wall())
            peer = PeerId.from_key(key)
            if self.expect is not None and peer != self.expect:
                raise PeerIdMismatch(self.expect, peer)
        except (SecurityError, InvalidKey) as error:
            raise self._refuses(error, tls.AlertDescription.bad_certificate) from None
        self.tls._peer_certificate = x509.load_der_x509_certificate(chain[0])
        self.peer_key = key

    def _refuses(self, error: SecurityError | InvalidKey, alert: int) -> _Refused:
        self.refusal = error
        return _Refused(alert, str(error))

    def _completed(self, alpn: str | None) -> None:
        if self.peer_key is None or alpn != ALPN:
            self.refusal = TlsError("the peer agreed to nothing in ALPN" if alpn != ALPN else "the peer proved nothing")
            self.close(error_code=QuicErrorCode.PROTOCOL_VIOLATION, reason_phrase=str(self.refusal))
            return
        self.done = True

    # --- credit

    def _connection_credit(self) -> int:
        return self._released + CONNECTION_WINDOW

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        data = self._local_max_data
        if self._connection_credit() - data.sent > CONNECTION_WINDOW // 2:
            data.value = self._connection_credit()
        streams = self._local_max_streams_bidi
        due = [data] if data.value != data.sent else []
        if streams.sent - streams.used < streams.value - streams.sent:
            due.append(streams)
        for limit in due:
            buffer = builder.start_frame(
                limit.frame_type,
                capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            buffer.push_uint_var(limit.value)
            limit.sent = limit.value
            if self._quic_logger is not None and builder.quic_logger_frames is not None:
                builder.quic_logger_frames.append(
                    self._quic_logger.encode_connection_limit_frame(limit.frame_type, limit.value)
                )

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        if stream.max_stream_data_local_sent == stream.max_stream_data_local or stream.receiver.is_finished:
            return
        buffer = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buffer.push_uint_var(stream.stream_id or 0)
        buffer.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local
        if self._quic_logger is not None and builder.quic_logger_frames is not None:
            builder.quic_logger_frames.append(
                self._quic_logger.encode_max_stream_data_frame(stream.max_stream_data_local, stream.stream_id or 0)
            )

    # --- reassembly

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream(frame_type, stream_id)
        self._receiver(stream)
        return stream

    def _receiver(self, stream: QuicStream) -> Receiver:
        """Ours, in place of the library's, before anything came."""
        receiver = stream.receiver
        if not isinstance(receiver, Receiver):
            receiver = stream.receiver = Receiver(stream.stream_id, STREAM_WINDOW)
        return receiver


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """What the library would warn of is what peers do: nobody else's log grows by it."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """At most as a detail."""
        super().log(min(level, logging.DEBUG), msg, *args, **kwargs)


class Receiver(QuicStreamReceiver):
    """Puts a stream together from pieces, each held as it came: no gap costs memory, and too many pieces end it."""

    def __init__(self, stream_id: int | None, most: int) -> None:
        super().__init__(stream_id=stream_id, readable=True)
        self.consumed = 0
        self.delivered = 0
        self._most = most
        self._offsets: list[int] = []  # where pieces begin, ascending
        self._pieces: dict[int, bytes] = {}
        self._held = 0

    @property
    def missing(self) -> int:
        """Bytes that counted against the peer's credit and will never come: the stream was reset."""
        return int(self.highest_offset) - self.delivered

    def handle_frame(self, frame: QuicStreamFrame) -> StreamDataReceived | None:
        """Data that is in order now, or None. Raises `FinalSizeError`, `QuicConnectionError` over a bound."""
        end = frame.offset + len(frame.data)
        self._check_size(end, frame.fin)
        if self.is_finished:
            return None
        data = self._in_order(frame.offset, frame.data)
        ended = self._buffer_start == self._final_size
        self.is_finished = ended
        if not data and not ended:
            return None
        self.delivered += len(data)
        return StreamDataReceived(data=data, end_stream=ended, stream_id=self._stream_id or 0)

    def _check_size(self, end: int, fin: bool) -> None:
        if self._final_size is not None and (end > self._final_size or (fin and end != self._final_size)):
            raise FinalSizeError("data beyond the final size")
        if fin:
            if end < self.highest_offset:
                raise FinalSizeError("data beyond the final size")
            self._final_size = end
        self.highest_offset = max(self.highest_offset, end)

    def _in_order(self, offset: int, data: bytes) -> bytes:
        start = self._buffer_start
        if offset > start:
            self._hold(offset, data)
            return b""
        parts = [data[start - offset :]]
        start += len(parts[0])
        while self._offsets and self._offsets[0] <= start:
            at = self._offsets.pop(0)
            piece = self._pieces.pop(at)
            self._held -= len(piece)
            parts.append(piece[start - at :])
            start += len(parts[-1])
        self._buffer_start = start
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _hold(self, offset: int, data: bytes) -> None:
        """Keep a piece from beyond a gap; the longer one of two that begin at the same place."""
        known = self._pieces.get(offset)
        if not data or (known is not None and len(known) >= len(data)):
            return
        if known is None:
            self._offsets.insert(bisect_left(self._offsets, offset), offset)
        self._pieces[offset] = data
        self._held += len(data) - len(known or b"")
        if len(self._offsets) > MAX_FRAGMENTS or self._held > 2 * self._most:
            raise QuicConnectionError(
                error_code=QuicErrorCode.INTERNAL_ERROR,
                frame_type=QuicFrameType.STREAM_BASE,
                reason_phrase="too many pieces out of order",
            )
