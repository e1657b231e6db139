"""When a packet of a QUIC connection counts as lost, and how fast the next ones may leave.

Rules: no I/O; what is private of the library may be touched. The library takes a packet for lost once three later ones
were acknowledged (RFC 9002, 6.1.1), and never learns that it only came late: on a path that reorders, its window stays
near its least. Here what comes after all is noticed: from then on more is waited for, by number and by time, and a
window that was cut for nothing is as before (RFC 9002, 6.1; RFC 8985, 7.2, and RFC 4015, which do it for TCP).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final

from aioquic.quic.congestion.base import QuicRttMonitor
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import (
    K_PACKET_THRESHOLD,
    K_TIME_THRESHOLD,
    QuicPacketPacer,
    QuicPacketRecovery,
    QuicPacketSpace,
)

MAX_GIVEN_UP: Final = 1024  # packets that were taken for lost, of which it is remembered
REMEMBERED: Final = 3  # probe timeouts since they were sent
ROUND_SAMPLES: Final = 8  # of the time of a round trip, for a round to be compared
MAX_PATIENCE: Final = 2.0  # round trips that a packet is waited for once later ones have come
_PACE: Final = 1.25
LEAST_BURST, MOST_BURST = 10, 64  # packets
_SHORTEST: Final = 1e-6  # seconds between packets
# What the controller has measured or counted, which a mistake about a loss does not make wrong.
_TRUE_ANYWAY: Final = ("bytes_in_flight", "last_ack", "rtt", "_rtt_monitor", "_congestion_recovery_start_time")


def sent_at(packet: QuicSentPacket) -> float:
    """When it left; known of all that count as sent."""
    assert packet.sent_time is not None
    return packet.sent_time


class Pacer(QuicPacketPacer):
    """The library's, with bursts of what a millisecond carries: a timer for every few packets costs more than they do.

    Up to 64 packets, which is more than the 10 that RFC 9002, 7.7 advises, but never more than half a window; a quarter
    more than a window each round trip.
    """

    held_back = False  # something waited for the pace since this was last looked at

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """See `QuicPacketPacer`."""
        window = congestion_window / self._max_datagram_size  # in packets
        self.packet_time = max(_SHORTEST, min(smoothed_rtt / window / _PACE, 1.0))
        burst = max(LEAST_BURST, min(MOST_BURST, 0.001 / self.packet_time))
        self.bucket_max = self.packet_time * max(2.0, min(burst, window / 2))
        self.bucket_time = min(self.bucket_time, self.bucket_max)

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override]  # the library's gives None too
        """None when something may leave now."""
        if super().next_send_time(now) is None:
            return None
        self.held_back = True
        return now + self.bucket_max / 2

    def update_after_send(self, now: float) -> None:
        """See `QuicPacketPacer`, which gives away what lacks for a whole packet."""
        if self.packet_time is not None:
            self.update_bucket(now=now)
            self.bucket_time = max(self.bucket_time - self.packet_time, -self.bucket_max)

    def give_back(self, count: int) -> None:
        """So many packets were no burden to the path: what only acknowledges is not paced. RFC 9002, 7.7."""
        if self.packet_time is not None:
            self.bucket_time = min(self.bucket_time + count * self.packet_time, self.bucket_max)


class Rounds(QuicRttMonitor):
    """Says when the window has grown enough for a queue to build up: as HyStart++ does, RFC 9406, 4.2.

    In place of the library's, which compares with the least it has ever seen, be it of long ago and of a few packets.
    """

    def __init__(self) -> None:
        super().__init__()
        self._least = self._last = math.inf  # seconds, of this round and the one before
        self._count = 0
        self._ends = 0.0

    def is_rtt_increasing(self, *, now: float, rtt: float) -> bool:
        """True when a round trip takes longer than in the round before, and both were measured often enough."""
        if now >= self._ends:
            self._last = self._least if self._count >= ROUND_SAMPLES else math.inf
            self._least, self._count, self._ends = math.inf, 0, now + rtt
        self._least = min(self._least, rtt)
        self._count += 1
        return self._count >= ROUND_SAMPLES and self._least >= self._last + min(max(0.004, self._last / 8), 0.016)


class Recovery(QuicPacketRecovery):
    """The library's, that learns from packets which came after they had been given up.

    `next_number` tells the number of the next packet that will be sent.
    """

    def __init__(self, pacer: Pacer, next_number: Callable[[], int], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._next_number = next_number
        self._pacer: Pacer = pacer
        assert isinstance(self._cc, CubicCongestionControl)  # the one that is asked for
        self._cc._rtt_monitor = Rounds()
        self._apart = K_PACKET_THRESHOLD  # how many later ones a packet may let past
        self._patience = K_TIME_THRESHOLD
        self._given_up: dict[int, float] = {}  # numbers of application data, ascending, and when they were sent
        self._before: dict[str, Any] | None = None  # the controller as it was before its window was last cut
        self._blamed: set[int] = set()  # the packets for which it was

    def on_ack_received(self, *, ack_rangeset: RangeSet, ack_delay: float, now: float, space: QuicPacketSpace) -> None:
        """See `QuicPacketRecovery`.

        A window of which less than half is used does not grow, unless it is the pace that keeps us from more: RFC 9002,
        7.8. Raises `QuicConnectionError` for an acknowledgement of what was never sent: RFC 9000, 13.1.
        """
        if ack_rangeset.bounds().stop > self._next_number():
            why = "what was never sent is acknowledged"
            raise QuicConnectionError(QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.ACK, why)
        if self._given_up and space.is_application_data:
            self._learn(ack_rangeset, now)
        window, used = self.congestion_window, self.bytes_in_flight
        super().on_ack_received(ack_rangeset=ack_rangeset, ack_delay=ack_delay, now=now, space=space)
        if 2 * used < window < self.congestion_window and not self._pacer.held_back:
            self._cc.congestion_window = window
        self._pacer.held_back = False

    def _learn(self, acked: RangeSet, now: float) -> None:
        since = now - REMEMBERED * self.get_probe_timeout()
        self._given_up = {number: sent for number, sent in self._given_up.items() if sent > since}
        numbers = list(self._given_up)
        late = [
            number
            for part in acked
            for number in numbers[bisect_left(numbers, part.start) : bisect_left(numbers, part.stop)]
        ]
        if not late:
            return
        sent = min(self._given_up.pop(number) for number in late)
        self._apart = max(self._apart, acked.bounds().stop - min(late))
        took = (now - sent) / self._round_trip()
        self._patience = min(MAX_PATIENCE, max(self._patience, K_TIME_THRESHOLD * took))
        self._blamed.difference_update(late)
        if self._before is not None and not self._blamed:
            window = self._cc.congestion_window
            vars(self._cc).update(self._before)
            self._cc.congestion_window = max(window, self._cc.congestion_window)
            self._before = None

    def _detect_loss(self, *, now: float, space: QuicPacketSpace) -> None:
        """Give up what is too far behind, by number or by time; say when the next one will be."""
        delay = self._patience * self._round_trip()
        lost: list[QuicSentPacket] = []
        space.loss_time = None
        for number, packet in space.sent_packets.items():  # in the order in which they were sent
            if number > space.largest_acked_packet:
                break
            given_up_at = sent_at(packet) + delay
            if number > space.largest_acked_packet - self._apart and given_up_at > now:
                space.loss_time = given_up_at
                break
            lost.append(packet)
        if lost:
            self._give_up(lost, now, space)

    def _round_trip(self) -> float:
        """In seconds, the longer one of the last and the smoothed one; a guess before one was measured."""
        return max(self._rtt_latest, self._rtt_smoothed) if self._rtt_initialized else self._rtt_initial

    def _give_up(self, lost: list[QuicSentPacket], now: float, space: QuicPacketSpace) -> None:
        before = {name: value for name, value in vars(self._cc).items() if name not in _TRUE_ANYWAY}
        self._on_packets_lost(
            now=now,
            packets=lost,
            persistent_congestion=self._in_persistent_congestion(packets=lost),
            space=space,
        )
        if self._cc.congestion_window < before["congestion_window"]:
            self._before = before if space.is_application_data else None
            self._blamed.clear()
        if space.is_application_data:
            self._blamed.update(packet.packet_number for packet in lost)
            self._given_up.update((packet.packet_number, sent_at(packet)) for packet in lost)
            for number in list(self._given_up)[:-MAX_GIVEN_UP]:
                del self._given_up[number]
