"""Any order of calls to the core of the dialer."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pyp2p.dialer.core import Dial
from pyp2p.peer.id import PeerId
from pyp2p.peer.store import Source
from pyp2p.trace import Stage
from tests.unit.dialer.support import A, B, dialer, peer, tell


class Machine(RuleBasedStateMachine):
    """Any order of calls: bounds hold, nobody is dialled who must not be, and no wake-up is in the past."""

    @initialize(seed=st.integers(0, 5))
    def begin(self, seed: int) -> None:
        config = {"attempts": 4, "candidates": 6, "backoffs": 5, "bans": 4, "patience": 3, "kept": 2}
        self.core = dialer(A, B, seed=seed, **config)
        self.now = 0.0
        self.under_way: list[tuple[str, PeerId]] = []
        self.bans: dict[tuple[str, PeerId], float] = {}

    @rule(net=st.sampled_from([A, B]), n=st.integers(0, 8), outbound=st.integers(0, 3))
    def want(self, net: str, n: int, outbound: int) -> None:
        self.core.want(net, n, outbound=min(n, outbound))

    @rule(net=st.sampled_from([A, B]), number=st.integers(0, 15), source=st.sampled_from(Source), urgent=st.booleans())
    def candidate(self, net: str, number: int, source: Source, urgent: bool) -> None:
        tell(self.core, number, net=net, now=self.now, source=source, urgent=urgent)

    @rule(net=st.sampled_from([A, B]), number=st.integers(0, 1))
    def keep(self, net: str, number: int) -> None:
        self.core.keep(net, peer(number))

    @rule(net=st.sampled_from([A, B]), number=st.integers(0, 15), seconds=st.integers(0, 100))
    def ban(self, net: str, number: int, seconds: int) -> None:
        self.core.ban(net, peer(number), self.now + seconds)
        assert not self.core.has_slot(net, peer(number))

    @rule(net=st.sampled_from([A, B]), number=st.integers(0, 15))
    def inbound(self, net: str, number: int) -> None:
        self.core.connected(net, peer(number), self.now, outbound=False)
        self.under_way = [each for each in self.under_way if each != (net, peer(number))]

    @rule(net=st.sampled_from([A, B]), number=st.integers(0, 15))
    def gone(self, net: str, number: int) -> None:
        had = self.core.has_slot(net, peer(number))
        assert self.core.disconnected(net, peer(number), self.now) == had

    @precondition(lambda self: self.under_way)
    @rule(well=st.booleans())
    def end(self, well: bool) -> None:
        net, who = self.under_way.pop(0)
        if well:
            self.core.connected(net, who, self.now, outbound=True)
        else:
            self.core.attempt_failed(net, who, Stage.HANDSHAKE, "refused", self.now)

    @rule(net=st.sampled_from([A, B]), found=st.integers(0, 3))
    def discovered(self, net: str, found: int) -> None:
        self.core.discovered(net, found, self.now)

    @rule(seconds=st.floats(0, 50))
    def poll(self, seconds: float) -> None:
        self.now += seconds
        slots = {net: self.core.slots(net) for net in (A, B)}
        for effect in self.core.poll(self.now):
            if isinstance(effect, Dial):
                assert effect.peer not in slots[effect.network]
                assert (effect.network, effect.peer) not in self.under_way
                self.under_way.append((effect.network, effect.peer))
        wake = self.core.next_wake()
        assert wake is None or wake > self.now

    @invariant()
    def bounded(self) -> None:
        if not hasattr(self, "core"):
            return
        assert len(self.under_way) <= 4
        for net in (A, B):
            gauges = self.core.gauges(net)
            assert gauges["candidates"] <= 2 * 6 + 2
            assert gauges["backoffs"] <= 5
            assert gauges["bans"] <= 4
            assert gauges["attempts"] == sum(one == net for one, _ in self.under_way)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestAnyOrder = Machine.TestCase
