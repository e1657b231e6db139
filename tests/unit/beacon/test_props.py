"""Any order of events to the peer manager and the dialer together, carried out as `peering.py` does."""

from __future__ import annotations

import math
import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.beacon.peer_types import Ban, Dial, Disconnect, Effect, PeerConfig, Unban, Want
from pyp2p.beacon.peers import PeerManager
from pyp2p.beacon.scores import Tolerance
from pyp2p.dialer import core as dialer
from pyp2p.dialer.tables import DialerConfig
from pyp2p.io.handshake import Direction
from pyp2p.peer.id import PeerId
from pyp2p.peer.store import Source
from pyp2p.trace import Stage
from tests.unit.beacon.peers_support import IN, OUT, attnet, ip, peer

NET = "beacon"
PEERS = [peer(number) for number in range(12)]
TRUSTED, STATIC = PEERS[:2]
ANY = st.sampled_from(PEERS)
NUMBER = st.integers(0, len(PEERS) - 1)


class Machine(RuleBasedStateMachine):
    """A switch is played: who is connected, who is being dialled, and who was told to go and has not gone yet."""

    @initialize(seed=st.integers(0, 3), most=st.integers(1, 6), already=st.integers(0, 6))
    def begin(self, seed: int, most: int, already: int) -> None:
        self.config = PeerConfig(target=most, grace=10.0, bans=4, remembered_good=4, remembered_faults=6)
        self.manager = PeerManager(self.config, random.Random(seed), static=[STATIC], trusted=[TRUSTED])
        limits = DialerConfig(attempts=3, candidates=8, backoffs=12, bans=12, patience=4)
        self.dialer = dialer.Dialer(limits, random.Random(seed))
        self.dialer.add_network(NET)
        self.now = 1000.0
        self.here: dict[PeerId, Direction] = {}
        self.going: dict[PeerId, GoodbyeReason | None] = {}
        self.dialled: list[PeerId] = []
        for each in (STATIC, TRUSTED):
            self.dialer.keep(NET, each)
        self.come(PEERS[2 : 2 + already])
        self.settle()

    # --- the switch

    def arrive(self, who: PeerId, direction: Direction) -> bool:
        """A connection passes the first handshake, or is refused."""
        if self.manager.refusal(who, ip(PEERS.index(who)), direction, self.now) is not None:
            return False
        if who not in self.here:
            self.here[who] = direction
            self.dialer.connected(NET, who, self.now, outbound=direction.outbound)
            self.manager.connected(who, direction, ip(PEERS.index(who)), self.now)
        return True

    def end(self, who: PeerId, goodbye: int | None = None) -> None:
        """The connection is closed."""
        del self.here[who]
        self.going.pop(who, None)
        self.dialer.disconnected(NET, who, self.now)
        self.manager.disconnected(who, self.now, goodbye)

    def whom(self, number: int) -> PeerId:
        """Those who are here come first, so that small numbers mean them."""
        return [*self.here, *(each for each in PEERS if each not in self.here)][number]

    # --- what is done about it

    def carry_out(self, effect: Effect | dialer.Effect) -> None:
        match effect:
            case Disconnect(who, code, _):
                assert who != TRUSTED
                assert who not in self.going, "told to go twice"
                if who in self.here:  # it may have left by itself
                    self.going[who] = code
            case Want(count, outbound):
                assert count <= self.config.most
                self.dialer.want(NET, count, outbound=outbound)
            case Dial(who):
                assert who not in self.here
                self.dialer.candidate(NET, who, (), Source.OBSERVED, self.now)
            case Ban(who, _, until, _):
                assert who != TRUSTED
                self.dialer.ban(NET, who, until)
            case Unban(who):
                self.dialer.unban(NET, who)
            case dialer.Dial(_, who, _):
                assert who not in self.here and who not in self.dialled
                self.dialled.append(who)
            case dialer.Drop(_, who, _, _):
                if who in self.here:
                    assert who in self.going, "nobody says why"
                    self.end(who)

    def settle(self) -> None:
        """Both are asked until neither has anything to do: they must not keep each other busy."""
        for _ in range(20):
            for effect in self.manager.poll(self.now):
                self.carry_out(effect)
            for effect in self.dialer.poll(self.now):
                self.carry_out(effect)
            wake = self.dialer.next_wake()
            if self.manager.next_wake() > self.now and (wake is None or wake > self.now):
                return
        raise AssertionError("they never come to rest")

    # --- what happens

    @rule(who=ANY, source=st.sampled_from([Source.DISCOVERY, Source.OBSERVED]))
    def told_of(self, who: PeerId, source: Source) -> None:
        self.dialer.candidate(NET, who, (), source, self.now)

    @rule(found=st.integers(0, 2))
    def searched(self, found: int) -> None:
        self.dialer.discovered(NET, found, self.now)

    @rule(peers=st.lists(ANY, min_size=1, max_size=6, unique=True))
    def come(self, peers: list[PeerId]) -> None:
        self.settle()  # what was decided is carried out before anybody else is let in
        for who in peers:
            if self.arrive(who, IN) and who in self.dialled:
                self.dialled.remove(who)  # its slot ends the attempt

    @precondition(lambda self: self.dialled)
    @rule(well=st.booleans())
    def reached(self, well: bool) -> None:
        who = self.dialled.pop(0)
        if not (well and self.arrive(who, OUT)):
            self.dialer.attempt_failed(NET, who, Stage.CONNECT, "refused", self.now)

    @precondition(lambda self: self.here)
    @rule(data=st.data(), goodbye=st.sampled_from([None, 1, 2, 3, 129, 250, 251, 7]))
    def leaves(self, data: st.DataObject, goodbye: int | None) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.here, key=str))), goodbye)

    @precondition(lambda self: self.going)
    @rule()
    def has_gone(self) -> None:
        self.end(next(iter(self.going)))

    @rule(number=NUMBER, tolerance=st.sampled_from(Tolerance), times=st.integers(1, 3), soon=st.booleans())
    def faulty(self, number: int, tolerance: Tolerance, times: int, soon: bool) -> None:
        for _ in range(times):
            self.manager.report(self.whom(number), tolerance, "so it was seen", self.now)
        if soon:
            self.settle()
            self.check_rest()

    @precondition(lambda self: self.here)
    @rule(number=NUMBER)
    def unforgivable(self, number: int) -> None:
        """Somebody who is here is to be banned."""
        self.faulty(number % len(self.here), Tolerance.FATAL, 1, True)

    @rule(number=NUMBER, score=st.sampled_from([-math.inf, -1e5, -10.0, 0.0, 5.0, 1e5, math.nan]))
    def gossips(self, number: int, score: float) -> None:
        self.manager.gossip_score(self.whom(number), score, self.now)

    @rule(number=NUMBER, seq=st.integers(0, 3), subnets=st.sets(st.integers(0, 2)))
    def says(self, number: int, seq: int, subnets: set[int]) -> None:
        self.manager.metadata(self.whom(number), seq=seq, attnets=subnets)

    @rule(number=st.integers(0, 2), seconds=st.sampled_from([-1.0, 30.0, math.inf]))
    def wanted(self, number: int, seconds: float) -> None:
        self.manager.want_subnet(attnet(number), self.now + seconds)

    @rule(seconds=st.sampled_from([0.0, 0.5, 5.0, 31.0, 700.0, 13 * 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.settle()
        self.check_rest()

    # --- what holds

    def check_rest(self) -> None:
        """Places are bounded, nobody banned stays or has a slot, the two agree on who is banned and who is here."""
        staying = [who for who in self.here if who not in self.going and who not in (STATIC, TRUSTED)]
        assert len(staying) <= self.config.most
        assert sum(self.here[who] is IN for who in staying) <= self.config.most_inbound
        slots = self.dialer.slots(NET)
        for who in PEERS:
            if who != TRUSTED and self.manager.score(who, self.now) == -100.0:
                assert who not in self.here or who in self.going
                assert who not in slots
        assert slots.keys() <= self.here.keys()
        assert {each.peer for each in self.manager.peers(self.now)} == self.here.keys() - self.going.keys()
        assert self.here.keys() - self.going.keys() <= slots.keys()
        assert self.manager.counters()["banned"] == self.dialer.gauges(NET)["bans"]
        assert TRUSTED in {*self.here, *self.dialled} or self._is_left_alone(TRUSTED)

    def _is_left_alone(self, who: PeerId) -> bool:
        wake = self.dialer.next_wake()
        return wake is not None or len(self.dialled) == 3

    @invariant()
    def tables_are_bounded(self) -> None:
        if not hasattr(self, "here"):
            return
        assert len(self.dialled) <= 3
        gauges, counters = self.dialer.gauges(NET), self.manager.counters()
        assert gauges["attempts"] == len(self.dialled)
        assert counters["banned"] <= 4 and counters["remembered_good"] <= 4 and counters["remembered_faults"] <= 6


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=60)
TestTogether = Machine.TestCase
