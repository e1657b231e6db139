"""The packets of an established QUIC connection, without the library's detours: what decides how fast bulk data moves.

Rules: only what nearly all packets are is done here: those with a short header on the path and the connection id in
use, and of the frames in them one STREAM frame that fills the packet. Everything else, and everything that is wrong,
goes the library's way, before anything of it took effect. These ways are not taken before the handshake is confirmed,
nor while a log of the connection is written. RFC 9000, 12, 13 and 17.3.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from aioquic._buffer import Buffer, BufferReadError
from aioquic._crypto import CryptoError
from aioquic.buffer import encode_uint_var
from aioquic.quic.connection import (
    END_STATES,
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicErrorCode, QuicPacketType, decode_packet_number
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketSpace
from aioquic.quic.stream import FinalSizeError, QuicStream
from aioquic.tls import Epoch

from pyp2p.quic.receiver import receiver_of
from pyp2p.quic.recovery import Pacer, Recovery

CID_LENGTH: Final = 8
_FORM: Final = 0xC0  # the bits that tell a short header, and what they have to be
_SHORT: Final = 0x40
_RESERVED: Final = 0x18
_PHASE: Final = 0x04
_SPIN: Final = 0x20
_NUMBER: Final = 1 + CID_LENGTH  # where the packet number begins
_SMALLEST: Final = _NUMBER + 4 + 16  # bytes of a packet that can be sampled (RFC 9001, 5.4.2)
_TAG: Final = 16
_STREAM: Final = 0x08  # of its low bits: 4 an offset, 2 a length, 1 the end
_WITH_OFFSET: Final = bytes((_STREAM | 4,))
_EIGHT_BYTES: Final = 3 << 62  # the mark of a variable-length integer of that size
_TURN, _MOST = 4, 64  # datagrams of one stream, then it is another's turn; when there is no other
KEY_PACKETS: Final = 1 << 22  # sent under one key: AES-GCM is good for twice as many (RFC 9001, 6.6)


class Packets(QuicConnection):
    """`QuicConnection` with short ways for what an established one does most."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._one_rtt: tuple[CryptoPair, QuicPacketSpace] | None = None  # once there is nothing else any more
        self._used_cid = b""  # of our ids the one that the peer uses now
        self._idle = 0.0
        self._key_since = 0  # the first packet number under the current key
        self._pacer = Pacer(max_datagram_size=self._max_datagram_size)
        self._loss = Recovery(
            self._pacer,
            lambda: self._packet_number,
            congestion_control_algorithm=self._configuration.congestion_control_algorithm,
            initial_rtt=self._configuration.initial_rtt,
            max_datagram_size=self._max_datagram_size,
            peer_completed_address_validation=not self._is_client,
            send_probe=self._send_probe,
            logger=self._logger,
            quic_logger=self._quic_logger,
        )

    def _established(self) -> tuple[CryptoPair, QuicPacketSpace] | None:
        if self._one_rtt is None and self._handshake_confirmed and self._quic_logger is None:
            self._one_rtt = self._cryptos[Epoch.ONE_RTT], self._spaces[Epoch.ONE_RTT]
        return self._one_rtt

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream(frame_type, stream_id)
        receiver_of(stream)
        return stream

    # --- receiving

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """Take a datagram in. RFC 9000, 12."""
        established = self._established()
        if (
            established is None
            or len(data) < _SMALLEST
            or data[0] & _FORM != _SHORT
            or self._close_pending
            or self._state in END_STATES
            or data[1:_NUMBER] != self._used_cid
            or self._network_paths[0].addr != addr
            or not self._network_paths[0].is_validated
            or not self._receive_short(data, *established, now)
        ):
            super().receive_datagram(data, addr, now)
            if not self._is_client:
                self._used_cid = self.host_cid
            elif established is not None and any(data[1:_NUMBER] == each.cid for each in self._host_cids):
                self._used_cid = data[1:_NUMBER]  # the library does not follow a listener to another of our ids

    def _receive_short(self, data: bytes, crypto: CryptoPair, space: QuicPacketSpace, now: float) -> bool:
        """Take in a packet with a short header; False, and nothing done, where the library has more to say."""
        keys = crypto.recv
        assert keys.hp is not None and keys.aead is not None  # there since the handshake
        header, truncated = keys.hp.remove(data, _NUMBER)
        first = header[0]
        if (first & _PHASE) >> 2 != keys.key_phase:
            return False
        number = decode_packet_number(truncated, 8 * (len(header) - _NUMBER), space.expected_packet_number)
        try:
            payload = keys.aead.decrypt(data[len(header) :], header, number)
        except CryptoError:
            return True  # nobody's: anyone may send it
        if number in space.received_packets:
            return True
        if first & _RESERVED:
            return False
        if number > self._spin_highest_pn:
            self._spin_bit = bool(first & _SPIN) != self._is_client
            self._spin_highest_pn = number
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        try:
            eliciting = self._one_stream_frame(payload) or self._frames(payload, now)
        except QuicConnectionError as error:
            self.close(error_code=error.error_code, frame_type=error.frame_type, reason_phrase=error.reason_phrase)
        else:
            if self._state not in END_STATES and not self._close_pending:
                self._note(number, space, eliciting, now)
        return True

    def _note(self, number: int, space: QuicPacketSpace, eliciting: bool, now: float) -> None:
        """A packet has been taken in: it is acknowledged soon, and the peer is alive."""
        self._close_at = now + (self._idle or self._idle_timeout())
        self._ack_eliciting_sent_since_receipt = False
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        if eliciting and space.ack_at is None:
            space.ack_at = now + self._ack_delay

    def _frames(self, payload: bytes, now: float) -> bool:
        """Take in any frames; True when one of them asks for an acknowledgement."""
        context = QuicReceiveContext(
            epoch=Epoch.ONE_RTT,
            host_cid=self._used_cid,
            network_path=self._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=None,
        )
        eliciting, _ = self._payload_received(context, payload)
        self._idle = self._idle_timeout()  # it depends on the time of a round trip, which came with them
        return eliciting

    def _one_stream_frame(self, payload: bytes) -> bool:
        """Take in what is one STREAM frame, of a stream that is known and within its credit; else False."""
        kind = payload[0] if payload else 0
        if kind & ~7 != _STREAM:
            return False
        buffer = Buffer(data=payload)
        try:
            buffer.pull_uint8()
            stream = self._streams.get(number := buffer.pull_uint_var())
            offset = buffer.pull_uint_var() if kind & 4 else 0
            length = buffer.pull_uint_var() if kind & 2 else len(payload) - buffer.tell()
        except BufferReadError:
            return False
        begin = buffer.tell()
        end = offset + length
        if stream is None or number & 2 or begin + length != len(payload) or end > stream.max_stream_data_local:
            return False
        receiver = receiver_of(stream)
        new = max(0, end - receiver.highest_offset)
        if self._local_max_data.used + new > self._local_max_data.value:
            return False
        try:
            event = receiver.take(offset, payload[begin:], bool(kind & 1))
        except FinalSizeError as error:
            raise QuicConnectionError(QuicErrorCode.FINAL_SIZE_ERROR, kind, str(error)) from None
        if event is not None:
            self._events.append(event)
        self._local_max_data.used += new
        return True

    # --- sending

    def _write_application(self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float) -> None:
        established = self._established()
        space = self._spaces[Epoch.ONE_RTT]
        if space.ack_at == now:
            space.ack_at = now - 1e-6  # the library would have what is due just now wait for the pace
        if established is not None and self._packet_number - self._key_since >= KEY_PACKETS:
            self._key_since = self._packet_number
            self.request_key_update()
        bulk = deque[QuicStream]()
        if established is not None and network_path.is_validated:
            bulk.extend(stream for stream in self._streams_queue if self._bulk(stream))
        if established is None or not bulk:
            self._write_any(builder, network_path, now)
            return
        # What is not bulk goes first, then a turn of each stream until nothing may be sent or whole datagrams are gone.
        # What is left of those that are done goes the library's way, with their ends.
        hidden = set(bulk)
        self._streams_queue = [stream for stream in self._streams_queue if stream not in hidden]
        done: list[QuicStream] = []
        try:
            self._write_any(builder, network_path, now)
            while bulk:
                count = self._write_turn(builder, bulk[0], established[0], now, _TURN if len(bulk) > 1 else _MOST)
                if not count:
                    break  # and it is the first one next time
                stream = bulk.popleft()
                (bulk if self._bulk(stream) else done).append(stream)
            builder._datagram_init = True  # the window that is left has changed
            if done:
                self._streams_queue += done
                done = []
                self._write_any(builder, network_path, now)
        finally:
            self._streams_queue += [*done, *bulk]

    def _write_any(self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float) -> None:
        """Write in the library's way, which charges the pacer for packets that only acknowledge: it gets them back."""
        written = len(builder._packets)
        try:
            super()._write_application(builder, network_path, now)
        finally:
            if builder._packet is not None:
                builder._end_packet()
            self._pacer.give_back(sum(not packet.in_flight for packet in builder._packets[written:]))

    def _bulk(self, stream: QuicStream) -> int:
        """How many bytes of a stream may be sent in datagrams that they fill, without the last one."""
        sender = stream.sender
        if sender.buffer_is_empty or stream.is_blocked or stream.receiver.stop_pending or not len(sender._pending):
            return 0
        waiting = sender._pending[0]
        credit = min(
            sender.highest_offset + self._remote_max_data - self._remote_max_data_used, stream.max_stream_data_remote
        )
        return max(0, min(waiting.stop, credit) - waiting.start - self._max_datagram_size)

    def _write_turn(
        self, builder: QuicPacketBuilder, stream: QuicStream, crypto: CryptoPair, now: float, turn: int
    ) -> int:
        """Up to so many datagrams of one stream, each filled by one STREAM frame; returns how many were written."""
        sender, pacer = stream.sender, self._pacer
        first = at = sender._pending[0].start
        head = bytes((_SHORT | self._spin_bit * _SPIN | crypto.key_phase * _PHASE | 1,)) + self._peer_cid.cid
        lead = _WITH_OFFSET + encode_uint_var(stream.stream_id or 0)
        size = self._max_datagram_size - len(head) - 2 - len(lead) - 8 - _TAG
        stop = first + min(turn * size, self._bulk(stream))
        most = (builder.max_flight_bytes or 0) - self._max_datagram_size
        with memoryview(sender._buffer)[first - sender._buffer_start :] as waiting:
            while at < stop:
                self._pacing_at = pacer.next_send_time(now=now)
                if self._pacing_at is not None or builder._flight_bytes > most:
                    break
                number = builder._packet_number
                data = waiting[at - first : at - first + size]
                frame = b"".join((lead, (at | _EIGHT_BYTES).to_bytes(8, "big"), data))
                datagram = crypto.encrypt_packet(head + (number & 0xFFFF).to_bytes(2, "big"), frame, number)
                packet = QuicSentPacket(Epoch.ONE_RTT, True, True, False, number, QuicPacketType.ONE_RTT)
                packet.sent_bytes = len(datagram)
                packet.delivery_handlers.append((sender.on_data_delivery, (at, at + size, False)))
                builder._datagrams.append(datagram)
                builder._packets.append(packet)
                builder._packet_number = number + 1
                builder._flight_bytes += len(datagram)
                builder._total_bytes += len(datagram)
                pacer.update_after_send(now=now)
                at += size
        if at > first:
            sender._pending.subtract(first, at)
            self._remote_max_data_used += max(0, at - sender.highest_offset)
            sender.highest_offset = max(sender.highest_offset, at)
        return (at - first) // size
