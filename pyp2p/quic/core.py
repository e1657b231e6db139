"""One QUIC connection without I/O: aioquic's state machine, with the holes closed that a peer could use.

Rules: everything private of aioquic is touched here, in `packets.py`, `receiver.py` and `recovery.py` alone, and
`tests/unit/quic/test_private.py` fails when one of these names is gone: the version is pinned. What differs from the
library: certificates of libp2p on both sides, asked for before the first datagram is read and judged before anything is
told; credit for what the application took, where the library doubles its windows on receipt; sparse and bounded
reassembly; no unidirectional streams, no sessions taken up again, version 1 alone. RFC 9000 and 9001; libp2p specs,
quic.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TextIO, cast

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    END_STATES,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    TRANSPORT_CLOSE_FRAME_CAPACITY,
    QuicConnectionState,
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
    pull_quic_header,
    pull_quic_transport_parameters,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from cryptography import x509

from pyp2p.errors import InvalidKey, PeerIdMismatch, SecurityError, TlsError
from pyp2p.peer.id import PeerId
from pyp2p.peer.publickey import PublicKey
from pyp2p.quic.packets import CID_LENGTH, Packets
from pyp2p.quic.receiver import STREAM_WINDOW, Receiver, receiver_of
from pyp2p.security.tls.certificate import Certificate, check_certificate

logger = logging.getLogger("pyp2p.quic")

KeyLog = Callable[[bytes], None]

ALPN: Final = "libp2p"
IDLE_SECONDS: Final = 10.0  # without a sign of the peer, as rust-libp2p: nobody else says that a machine is gone
CONNECTION_WINDOW: Final = 1536 * 1024
SEND_BUFFER: Final = 1024 * 1024  # bytes of a stream that are sent and not acknowledged, or not sent
DATAGRAM: Final = 1350  # bytes; what nearly every path carries. Nothing here finds out about more
MAX_CRYPTO: Final = 64 * 1024  # bytes of TLS at each level of keys; a certificate has at most 16 KiB
MAX_TOKEN: Final = 512  # bytes of a Retry: our next datagram has to hold it beside all else
MAX_REASON: Final = 200  # characters of why we close, for the same reason
QLOG_EVENTS: Final = 50_000  # of a connection, the last ones
_GROUPS: Final = (tls.Group.X25519, tls.Group.SECP256R1)  # a key is made for each that is offered: two will do
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


class QuicCore(Packets):
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
        self.last_code, self.last_word = 0, ""  # that the end carries
        self.told: list[QuicEvent] = []  # what happened on streams, until `take_events`
        self._cids: list[tuple[bool, bytes]] = []
        self._settings = settings
        # Typed as the library's own adapter; any other writes as well.
        self._logger = self._loss._logger = _Quiet(logger, {})  # type: ignore[assignment]  # an adapter of ours
        self._released = 0  # of all that was received: what nobody will read any more
        self._local_max_streams_bidi.value = settings.streams
        self._local_max_streams_uni.value = 0

    # --- what the endpoint and the muxer ask

    def look(self) -> None:
        """Sort what has happened: what is of streams goes to `told`, the rest to `done`, `terminated` and the ids."""
        while (event := self.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                self._tell_data(event)
            elif isinstance(event, events.ConnectionIdIssued):
                self._cids.append((True, event.connection_id))
            elif isinstance(event, events.ConnectionIdRetired):
                self._cids.append((False, event.connection_id))
            elif isinstance(event, events.HandshakeCompleted):
                self._completed(event.alpn_protocol)
            elif isinstance(event, events.ConnectionTerminated):
                self.terminated = event
            else:
                if isinstance(event, events.StreamReset):
                    self._released += receiver_of(self._streams[event.stream_id]).missing
                self.told.append(event)
        if self.terminated is None and self._state in END_STATES:
            self.terminated = self._close_event  # the library tells it when late datagrams can be no more
        if self.refusal is not None:
            self.told.clear()

    def _tell_data(self, event: StreamDataReceived) -> None:
        """One event for what came in several datagrams and is all of one stream."""
        first, parts = event, [event.data]
        while self._events and not event.end_stream:
            following = self._events[0]
            if not isinstance(following, StreamDataReceived) or following.stream_id != event.stream_id:
                break
            event = following
            parts.append(event.data)
            self._events.popleft()
        if event is not first:
            event = StreamDataReceived(b"".join(parts), event.end_stream, event.stream_id)
        self.told.append(event)

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
        receiver_of(self._get_or_create_stream_for_send(number))
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
        due = self.dropped(count)
        if stream is not None and not stream.receiver.is_finished:
            receiver = receiver_of(stream)
            receiver.consumed += count
            grant = receiver.consumed + STREAM_WINDOW
            if grant - stream.max_stream_data_local_sent > STREAM_WINDOW // 2:
                stream.max_stream_data_local = grant
                due = True
        return due

    def dropped(self, count: int) -> bool:
        """So many bytes that came will never be read: their stream is over. Returns what `consumed` does."""
        self._released += count
        return self._connection_credit() - self._local_max_data.sent > CONNECTION_WINDOW // 2

    def stop_reading(self, stream_id: int, code: int) -> None:
        """Tell the peer that nobody reads the stream any more."""
        if stream_id in self._streams:
            self.stop_stream(stream_id, code)

    @property
    def closing(self) -> bool:
        """True once we have said that the connection ends."""
        return bool(self._state is QuicConnectionState.CLOSING)

    @property
    def closing_seconds(self) -> float:
        """How long the peer may go on before it has heard the end. RFC 9000, 10.2."""
        return 3 * self._loss.get_probe_timeout()

    def silent(self, now: float) -> bool:
        """True when the peer has given no sign for half of the time after which the connection ends by that."""
        return self._close_at is not None and now >= self._close_at - self._idle_timeout() / 2

    def shut(self) -> None:
        """Close with `last_code` and `last_word`; it leaves with the next datagrams."""
        self.close(error_code=self.last_code, reason_phrase=self.last_word)

    def end_log(self) -> None:
        """Write the log of the connection, where one was asked for; blocks for as long as the disk takes."""
        if self._quic_logger is not None and self._configuration.quic_logger is not None:
            with suppress(OSError):
                self._configuration.quic_logger.end_trace(self._quic_logger)
            self._quic_logger = None

    def close(
        self,
        error_code: int = QuicErrorCode.NO_ERROR,
        frame_type: int | None = None,
        reason_phrase: str = "",
    ) -> None:
        """As the library's, with words that fit into a datagram: it fails when they do not."""
        super().close(error_code, frame_type, reason_phrase[:MAX_REASON])

    # --- the handshake

    def _receive_retry_packet(self, header: QuicHeader, packet_without_tag: bytes, now: float) -> None:
        """As the library's, which could send nothing at all with a token that leaves no room beside it."""
        if len(header.token) <= MAX_TOKEN:
            super()._receive_retry_packet(header, packet_without_tag, now)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        context = self.tls
        context._request_client_certificate = not self._is_client
        context._supported_groups = list(_GROUPS)
        # The library leaves no other place to judge certificates as libp2p does; test_private.py sees it move.
        context._set_peer_certificate = self._judge  # type: ignore[method-assign]  # a method is replaced
        if not self._is_client:
            handle = context._server_handle_certificate

            def handle_certificate(buffer: Any) -> None:
                handle(buffer)
                if self.peer_key is None:
                    raise self._refuses(TlsError("the peer showed no certificate"), _CERTIFICATE_REQUIRED)

            # As above: an empty certificate is not judged at all.
            context._server_handle_certificate = handle_certificate  # type: ignore[method-assign,assignment]  # and typed alike
        for stream in self._crypto_streams.values():
            stream.receiver = Receiver(None, MAX_CRYPTO)

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        """As the library's, which never heeds how large a datagram the peer takes. RFC 9000, 18.2."""
        super()._parse_transport_parameters(data, from_session_ticket)
        most = pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size
        if most is not None:
            self._max_datagram_size = min(self._max_datagram_size, most)

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
        self._remote_preferred_address = None  # a peer is where it was dialled: no gater was asked about elsewhere
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


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """What the library would warn of is what peers do: nobody else's log grows by it."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """At most as a detail."""
        super().log(min(level, logging.DEBUG), msg, *args, **kwargs)
