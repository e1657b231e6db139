"""Both muxers against a small model: two sessions back to back, any operations, any cuts, nothing lost or left over."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from pyp2p.errors import MuxerError
from pyp2p.io import varint
from pyp2p.muxers.base import Data, Eof, Opened, Reset, SubStream
from tests.unit.muxers.support import ACK, DATA, FIN, PING, RST, SYN, Rig, frame, mplex, pieces, plain, yamux


@dataclass
class Way:
    """The model: one direction of one stream."""

    sent: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    fin: bool = False
    eof: bool = False


@dataclass(eq=False)
class End:
    """One end of a stream as the model sees it; `sub` is None until this side hears of it."""

    rig: Rig
    out: Way
    into: Way
    sub: SubStream | None = None
    unread: int = 0
    over: bool = False  # reset by either side
    dropped: bool = False  # reset by this side


class YamuxMachine(RuleBasedStateMachine):
    """Operations at random on both sides; bytes travel in pieces cut at random."""

    ends = Bundle("ends")
    make = staticmethod(yamux)

    def __init__(self) -> None:
        super().__init__()
        self.rigs = [self.make(dialed=True), self.make(dialed=False)]
        self.known: dict[tuple[int, int, bool], End] = {}
        self.now = 0.0
        self.wire = [bytearray(), bytearray()]  # on its way to side 0 and to side 1

    @rule(target=ends, side=st.integers(0, 1))
    def open(self, side):
        if len(self.known) >= 12:
            return multiple()
        sub = self.rigs[side].session.open(self.now)
        there, back = Way(), Way()
        one, other = End(self.rigs[side], there, back, sub), End(self.rigs[1 - side], back, there)
        self.known[side, sub.id, False], self.known[1 - side, sub.id, True] = one, other
        return multiple(one, other)

    @rule(end=ends, size=st.sampled_from([0, 1, 100, 65_507, 65_508, 200_000, 600_000]))
    def send(self, end, size):
        if end.sub is None or end.over or end.out.fin or len(end.out.sent) > 3 << 20:
            return
        data = bytes([len(end.out.sent) % 251]) * size
        taken = end.rig.session.send(end.sub, data)
        assert taken or not size or not end.rig.session.writable(end.sub)
        end.out.sent += data[:taken]

    @rule(end=ends, part=st.integers(1, 4), seconds=st.sampled_from([0.0, 0.001, 1.0]))
    def take(self, end, part, seconds):
        self.now += seconds
        if end.unread:
            count = -(-end.unread // part)
            end.unread -= count
            end.rig.session.consumed(end.sub, count, self.now)

    @rule(end=ends)
    def accept(self, end):
        if end.sub is not None:
            end.rig.session.accept(end.sub)

    @rule(end=ends)
    def fin(self, end):
        if end.sub is not None:
            end.rig.session.fin(end.sub)
            end.out.fin = end.out.fin or not end.over

    @rule(end=ends, code=st.integers(0, 0xFFFFFFFF))
    def reset(self, end, code):
        if end.sub is not None:
            end.rig.session.reset(end.sub, code)
            end.over = end.dropped = True
            end.unread = 0

    @rule(side=st.integers(0, 1), share=st.integers(1, 3), cuts=st.lists(st.integers(0, 1 << 20), max_size=5))
    def carry(self, side, share, cuts):
        waiting = self.wire[side]
        waiting += self.rigs[1 - side].output()
        count = -(-len(waiting) // share)
        now, self.wire[side] = bytes(waiting[:count]), waiting[count:]
        for piece in pieces(now, cuts):
            for event in self.rigs[side].feed(piece, self.now):
                self.note(side, event)

    def note(self, side, event):
        if isinstance(event, Opened):
            self.known[side, event.sub.id, True].sub = event.sub
        elif isinstance(event, Data | Eof | Reset):
            end = self.known[side, event.sub.id, event.sub.inbound]
            assert end.sub is event.sub
            assert not end.dropped
            assert not end.over
            if isinstance(event, Data):
                assert not end.into.eof
                end.into.got += event.data
                end.unread += len(event.data)
            elif isinstance(event, Eof):
                end.into.eof = True
            else:
                assert event.sub.reset_by_peer
                end.over = True

    @invariant()
    def what_came_was_sent(self):
        for end in self.known.values():
            way = end.into
            assert way.sent.startswith(way.got)
            assert not way.eof or (way.fin and way.got == way.sent)

    @invariant()
    def unread_data_is_paid_for(self):
        for rig in self.rigs:
            assert rig.memory.used >= sum(end.unread for end in self.known.values() if end.rig is rig)

    @invariant()
    def windows_are_whole(self):
        for end in self.known.values():
            if end.sub is not None:
                self.check_window(end.sub)

    def check_window(self, sub):
        window = sub.window
        assert min(window.credit, window.unread, window.owed, window.grown, sub.send_window) >= 0
        if not sub.fin_received and sub.reset_code is None:
            unsettled = self.partial(sub)
            assert window.credit + window.unread + window.owed + unsettled == window.size
            assert window.size == 256 * 1024 + window.grown

    def partial(self, sub):
        """Bytes of a frame that has begun to arrive: their credit is gone, they are not yet here."""
        return sum(rig.session._left for rig in self.rigs if rig.session._body is sub)

    def settle(self):
        for _ in range(3):
            self.carry(0, 1, [])
            self.carry(1, 1, [])

    def teardown(self):
        self.settle()
        for end in self.known.values():
            if end.sub is not None and not end.over:
                assert end.into.got == end.into.sent
                assert end.into.eof == end.into.fin
        for _ in range(2):  # the first FIN may be the first that the other side hears of a stream
            for end in self.known.values():
                self.take(end, 1, 0.0)
                self.fin(end)
            self.settle()
        for rig in self.rigs:
            assert not rig.session._streams
            assert (rig.session._inbound, rig.session.strays, rig.session.refused) == (0, 0, 0)
            assert rig.memory.used == 0


class MplexMachine(YamuxMachine):
    """The same for mplex, which has no windows."""

    make = staticmethod(mplex)

    def check_window(self, sub):
        assert 0 <= sub.unread <= 4 << 20


TestYamuxMachine = YamuxMachine.TestCase
TestMplexMachine = MplexMachine.TestCase

bodies = st.binary(max_size=40)
yamux_frames = st.one_of(
    st.builds(
        lambda flags, sid, body: frame(DATA, flags, sid, body=body),
        st.sampled_from([0, 0, 0, SYN, ACK, FIN, RST, SYN | FIN, SYN | RST]),
        st.integers(0, 6),
        bodies,
    ),
    st.builds(
        frame, st.integers(0, 4), st.integers(0, 15), st.integers(0, 6), st.sampled_from([0, 1, 9, 2**18, 2**32 - 1])
    ),
    st.builds(lambda value: frame(PING, SYN, 0, value), st.integers(0, 2**32 - 1)),
    st.binary(max_size=14),
)
mplex_frames = st.one_of(
    st.builds(
        lambda flag, sid, body: varint.encode(sid << 3 | flag) + varint.encode(len(body)) + body,
        st.integers(0, 6),
        st.integers(0, 5),
        bodies,
    ),
    st.binary(max_size=20),
)


def meaning(make, data: list[bytes]) -> tuple[list, bytes, bool]:
    """Events up to a violation, what was answered, and whether there was one."""
    rig = make()
    rig.session.open(0.0)
    events = []
    for piece in data:
        try:
            events += rig.feed(piece)
        except MuxerError:
            rig.session.release_all()
            assert rig.memory.used == 0
            return [], b"", True
    for row in events:
        if isinstance(row, Data):
            rig.session.consumed(row.sub, len(row.data), 0.0)
    for stream in list(rig.session._streams.values()):
        rig.session.reset(stream)
    assert rig.memory.used == 0
    return plain(events), rig.output(), False


@given(st.lists(yamux_frames, max_size=20).map(b"".join), st.lists(st.integers(0, 1000), max_size=20))
def test_any_cut_of_yamux_input_means_the_same(data, cuts):
    assert meaning(yamux, [data]) == meaning(yamux, pieces(data, cuts)) == meaning(yamux, pieces(data, range(2000)))


@given(st.lists(mplex_frames, max_size=20).map(b"".join), st.lists(st.integers(0, 1000), max_size=20))
def test_any_cut_of_mplex_input_means_the_same(data, cuts):
    assert meaning(mplex, [data]) == meaning(mplex, pieces(data, cuts)) == meaning(mplex, pieces(data, range(2000)))
