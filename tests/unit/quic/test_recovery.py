"""When a packet counts as lost, what is learned from one that only came late, and the pace of the next ones."""

import pytest
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch

from pyp2p.quic.recovery import (
    _TRUE_ANYWAY,
    LEAST_BURST,
    MAX_GIVEN_UP,
    MAX_PATIENCE,
    MOST_BURST,
    Pacer,
    Recovery,
    Rounds,
)
from tests.unit.quic.quic_tools import Pair

DATAGRAM = 1452
ROUND_TRIP = 0.1


class Line:
    """A sender of packets, one in each `step`, of which the test says when they are acknowledged."""

    step = 0.001  # seconds

    def __init__(self, application: bool = True) -> None:
        self.recovery = Recovery(
            Pacer(max_datagram_size=DATAGRAM),
            lambda: self.next,
            congestion_control_algorithm="cubic",
            initial_rtt=ROUND_TRIP,
            max_datagram_size=DATAGRAM,
            peer_completed_address_validation=True,
            send_probe=lambda: None,
        )
        self.space = QuicPacketSpace(is_application_data=application)
        self.recovery.spaces = [self.space]
        self.now = 0.0
        self.next = 0
        self.lost: list[int] = []

    @property
    def window(self) -> int:
        return self.recovery.congestion_window

    def send(self, count: int) -> range:
        first = self.next
        for number in range(first, first + count):
            packet = QuicSentPacket(
                Epoch.ONE_RTT, True, True, False, number, QuicPacketType.ONE_RTT, self.now, DATAGRAM
            )
            packet.delivery_handlers.append((self.told, (number,)))
            self.recovery.on_packet_sent(packet=packet, space=self.space)
            self.now += self.step
        self.next = first + count
        return range(first, first + count)

    def told(self, state: QuicDeliveryState, number: int) -> None:
        if state is QuicDeliveryState.LOST:
            self.lost.append(number)

    def acknowledge(self, *numbers: int) -> None:
        acked = RangeSet()
        for number in numbers:
            acked.add(number, number + 1)
        self.recovery.on_ack_received(ack_rangeset=acked, ack_delay=0.0, now=self.now, space=self.space)


def warm() -> Line:
    """With a round trip of 0.1 s measured."""
    line = Line()
    sent = line.send(10)
    line.now = ROUND_TRIP
    for number in sent:
        line.acknowledge(number)
        line.now += 0.001
    assert line.recovery._rtt_smoothed == pytest.approx(ROUND_TRIP)
    return line


# --- what is lost


def test_a_packet_is_given_up_when_three_later_ones_were_acknowledged() -> None:
    line = warm()
    first, *others = line.send(10)
    window = line.window
    line.now += ROUND_TRIP - 0.01
    for number in others[:2]:
        line.acknowledge(number)
    assert line.lost == [] and line.space.loss_time is not None
    line.acknowledge(others[2])
    assert line.lost == [first]
    assert line.window < window
    assert line.space.loss_time is None


def test_a_packet_is_given_up_an_eighth_more_than_a_round_trip_after_it_left() -> None:
    line = warm()
    left = line.now
    first, second = line.send(2)
    line.now = left + ROUND_TRIP
    line.acknowledge(second)
    assert line.lost == []
    assert line.space.loss_time == pytest.approx(left + 9 / 8 * ROUND_TRIP, rel=0.01)
    line.now = line.space.loss_time
    line.recovery.on_loss_detection_timeout(now=line.now)
    assert line.lost == [first]


def test_what_is_lost_indeed_changes_nothing_of_how_long_the_next_one_is_waited_for() -> None:
    line = warm()
    for _ in range(5):
        first, *others = line.send(10)
        line.now += ROUND_TRIP
        line.acknowledge(*others)
        assert line.lost[-1] == first
    assert (line.recovery._apart, line.recovery._patience) == (3, 9 / 8)


# --- the window


def test_a_window_that_is_not_used_does_not_grow() -> None:
    line = warm()
    window = line.window
    for _ in range(1000):
        (sent,) = line.send(1)
        line.now += ROUND_TRIP
        line.acknowledge(sent)
    assert line.window == window
    for _ in range(3):
        sent = line.send(line.window // DATAGRAM)
        line.now += ROUND_TRIP
        line.acknowledge(*sent)
    assert line.window > 7 * window


def test_a_window_that_the_pace_does_not_let_be_used_grows() -> None:
    line = warm()
    window = line.window
    for _ in range(10):
        (sent,) = line.send(1)
        line.recovery._pacer.bucket_time = 0.0
        assert line.recovery._pacer.next_send_time(now=line.recovery._pacer.evaluation_time) is not None
        line.acknowledge(sent)
    assert line.window == window + 10 * DATAGRAM


def test_who_has_paused_begins_with_the_window_of_a_beginning() -> None:
    line = warm()
    for _ in range(3):
        sent = line.send(line.window // DATAGRAM)
        line.now += ROUND_TRIP
        line.acknowledge(*sent)
    line.now += 10
    line.send(1)
    assert line.window == 10 * DATAGRAM


def rounds(*times: float, samples: int = 10) -> list[int]:
    """In which rounds the round trip was found to take longer, of rounds with so many samples each."""
    said, now, found = Rounds(), 0.0, []
    for number, time in enumerate(times):
        for sample in range(samples):
            if said.is_rtt_increasing(now=now + sample * time / samples, rtt=time):
                found.append(number)
        now += time
    return sorted(set(found))


def test_a_round_trip_that_takes_longer_than_in_the_round_before_ends_the_fast_growth() -> None:
    assert rounds(0.1, 0.1, 0.1) == []
    assert rounds(0.1, 0.111) == []  # an eighth, of 4 to 16 ms: RFC 9406, 4.2
    assert rounds(0.1, 0.113) == [1]
    assert rounds(0.01, 0.0139) == [] and rounds(0.01, 0.0141) == [1]
    assert rounds(1.0, 1.015) == [] and rounds(1.0, 1.017) == [1]


def test_a_round_with_few_samples_says_nothing() -> None:
    assert rounds(0.1, 0.3, 0.1, 0.3, samples=7) == []
    said = Rounds()
    assert not any(said.is_rtt_increasing(now=number, rtt=0.01 * number) for number in range(100))


# --- what only came late


def test_a_packet_that_came_late_gives_back_the_window_and_more_is_waited_for() -> None:
    line = warm()
    first, *others = line.send(10)
    line.now += ROUND_TRIP - 0.01
    before = line.window
    line.acknowledge(*others[:5])
    assert line.lost == [first] and line.window < before
    line.now += 0.001
    line.acknowledge(first, *others[:5])
    assert line.window >= before
    assert line.recovery._apart == 6
    line.acknowledge(*others)
    for _ in range(3):  # as late again: nobody takes it for lost
        first, *others = line.send(10)
        line.now += ROUND_TRIP - 0.01
        line.acknowledge(*others[:5])
        line.acknowledge(first)
        line.acknowledge(*others)
    assert line.lost == [10]


def test_a_window_that_was_cut_for_two_stays_cut_until_both_have_come() -> None:
    line = warm()
    first, second, *others = line.send(10)
    line.now += ROUND_TRIP - 0.01
    before = line.window
    line.acknowledge(*others[:4])
    assert line.lost == [first, second]
    line.acknowledge(second, *others[:4])
    cut = line.window
    assert cut < before
    line.acknowledge(first, second)
    assert line.window >= before


def test_who_comes_late_by_time_is_waited_for_two_round_trips_at_most() -> None:
    line = warm()
    patience = []
    for late in (0.12, 0.15, 0.25):
        left = line.now
        first, second = line.send(2)
        line.now = left + ROUND_TRIP
        line.acknowledge(second)
        line.now = max(line.now, line.space.loss_time or 0.0)
        line.recovery.on_loss_detection_timeout(now=line.now)
        assert line.lost[-1] == first
        line.now = left + max(late, line.now - left)
        line.acknowledge(first, second)
        patience.append(line.recovery._patience)
    assert 9 / 8 < patience[0] < patience[1] < patience[2] == MAX_PATIENCE


def test_a_further_loss_after_it_is_a_loss() -> None:
    line = warm()
    first, *others = line.send(10)
    line.now += ROUND_TRIP - 0.01
    line.acknowledge(*others[:5])
    line.acknowledge(first, *others)
    line.now += 0.001  # of what left before a window was cut none cuts it again
    first, *others = line.send(30)
    line.now += ROUND_TRIP - 0.03
    line.acknowledge(*others[:9])
    assert line.recovery._apart == 10 and line.lost == [10]
    before = line.window
    line.acknowledge(others[9])
    assert line.lost == [10, first] and line.window < before


@pytest.mark.hostile
def test_of_what_was_given_up_no_more_is_remembered_than_its_bound() -> None:
    line = warm()
    line.step = 1e-6
    for _ in range(5):
        *sent, last = line.send(MAX_GIVEN_UP)
        line.now += ROUND_TRIP
        line.acknowledge(last)
    assert line.lost[-1] == last - 3
    assert len(line.recovery._given_up) == MAX_GIVEN_UP
    assert sent[0] in line.recovery._given_up and sent[0] - MAX_GIVEN_UP not in line.recovery._given_up
    line.acknowledge(0)  # of long ago: nothing comes of it
    assert line.recovery._apart == 3
    line.acknowledge(*sent)
    assert line.recovery._apart == sent[-1] + 1 - sent[0]
    assert line.recovery._given_up.keys().isdisjoint(sent)


def test_who_comes_when_nobody_expects_it_any_more_teaches_nothing() -> None:
    line = warm()
    first, *others = line.send(10)
    line.now += ROUND_TRIP
    line.acknowledge(*others)
    assert line.lost == [first]
    line.now += 3 * line.recovery.get_probe_timeout()
    line.acknowledge(first, *others)
    assert line.recovery._apart == 3 and not line.recovery._given_up


@pytest.mark.hostile
def test_hostile_043_what_was_never_sent_is_not_acknowledged() -> None:
    line = warm()
    with pytest.raises(QuicConnectionError) as caught:
        line.acknowledge(line.next)
    assert caught.value.error_code == QuicErrorCode.PROTOCOL_VIOLATION
    line.acknowledge(line.next - 1)


def test_the_handshake_teaches_nothing() -> None:
    line = Line(application=False)
    first, *others = line.send(10)
    line.now = ROUND_TRIP
    line.acknowledge(*others[:5])
    assert line.lost == [first]
    line.acknowledge(first, *others)
    assert line.recovery._apart == 3 and not line.recovery._given_up


def test_what_is_kept_of_the_controller_is_there() -> None:
    pair = Pair()
    assert set(_TRUE_ANYWAY) <= vars(pair.dialler._loss._cc).keys()


# --- the pace


def test_who_only_acknowledges_owes_the_pace_nothing() -> None:
    pacer = Pacer(max_datagram_size=DATAGRAM)
    pacer.update_rate(congestion_window=10 * DATAGRAM, smoothed_rtt=0.1)
    now = 100.0
    for _ in range(1000):
        pacer.update_after_send(now=now)
        pacer.give_back(1)
        now += 0.001
    assert pacer.next_send_time(now=now) is None
    assert pacer.bucket_time == pacer.bucket_max


def test_what_is_owed_has_a_bound() -> None:
    pacer = Pacer(max_datagram_size=DATAGRAM)
    pacer.update_rate(congestion_window=10 * DATAGRAM, smoothed_rtt=0.1)
    for _ in range(1000):
        pacer.update_after_send(now=100.0)
    assert pacer.next_send_time(now=100.0 + 1.01 * pacer.bucket_max) is None


@pytest.mark.parametrize("window", [2 * DATAGRAM, 20_000, 200_000, 2_000_000, 20_000_000])
def test_the_pace_is_a_quarter_more_than_a_window_each_round_trip(window: int) -> None:
    pacer = Pacer(max_datagram_size=DATAGRAM)
    pacer.update_rate(congestion_window=window, smoothed_rtt=0.05)
    now, sent, wakes, burst = 100.0, 0, 0, 0
    while now < 102:
        before = sent
        while (at := pacer.next_send_time(now=now)) is None:
            pacer.update_after_send(now=now)
            sent += 1
        burst = max(burst, sent - before)
        wakes += 1
        assert 0 < at - now < 0.05
        now = at
    assert sent == pytest.approx(2 * 1.25 * window / 0.05 / DATAGRAM, rel=0.05)
    assert burst <= min(MOST_BURST, max(2, window / DATAGRAM / 2)) + 1
    assert sent / wakes >= min(LEAST_BURST, window / DATAGRAM / 2) / 2 - 1


def test_a_pace_that_changes_takes_nothing_of_what_has_been_saved() -> None:
    pacer = Pacer(max_datagram_size=DATAGRAM)
    pacer.update_rate(congestion_window=2_000_000, smoothed_rtt=0.01)
    pacer.next_send_time(now=100.0)
    saved = pacer.bucket_time
    assert saved == pacer.bucket_max > LEAST_BURST * pacer.packet_time
    pacer.update_rate(congestion_window=2_000_000, smoothed_rtt=0.01)
    assert pacer.bucket_time == saved
