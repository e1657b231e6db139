"""The peer store: trust between sources, expiry, bounds."""

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyp2p.errors import InvalidMultiaddr, RecordError
from pyp2p.peer.address import AddressKind, parse_multiaddr, text
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.peer.record import PeerRecord, seal
from pyp2p.peer.store import PeerBook, PeerStore, Source, StoreLimits


def someone(seed: int) -> Identity:
    return Identity.generate(entropy=lambda n: hashlib.sha256(b"%d" % seed).digest()[:n])


def peer(n: int) -> PeerId:
    return PeerId.from_bytes(b"\x12\x20" + hashlib.sha256(b"%d" % n).digest())


ME, OTHER = someone(1), someone(2)
A, B = ME.peer, OTHER.peer
SMALL = StoreLimits(left_peers=10, strangers=10)


def addr(n: int) -> str:
    return f"/ip4/192.0.2.1/tcp/{n}"


def addrs(*numbers: int) -> list[str]:
    return [addr(n) for n in numbers]


def found(store: PeerStore, who: PeerId = A, now: float = 0.0) -> list[str]:
    return [text(address) for address in store.addresses(who, now)]


def record(seq: int, *numbers: int, who: Identity = ME) -> bytes:
    return seal(who, PeerRecord(who.peer, seq, tuple(parse_multiaddr(addr(n)) for n in numbers)))


# Addresses.


def test_an_empty_store():
    store: PeerBook = PeerStore()
    assert store.addresses(A, 0) == [] and store.peers(0) == [] and store.protocols(A) == () and store.agent(A) == ""
    assert store.record(A) is None
    store.disconnected(A, 0)
    store.forget(A)
    assert store.peers(0) == []


def test_addresses_until_they_expire():
    store = PeerStore()
    assert store.add_addresses(A, addrs(1, 2), 10, Source.MANUAL, now=100) == 2
    assert store.add_addresses(A, addrs(2, 3), 20, Source.MANUAL, now=100) == 1
    assert found(store, now=109.9) == addrs(1, 2, 3)
    assert found(store, now=110) == addrs(2, 3)
    assert store.peers(110) == [A]
    assert found(store, now=120) == []
    assert store.peers(120) == [] and len(store) == 0


def test_a_shorter_time_does_not_shorten():
    store = PeerStore()
    store.add_addresses(A, addrs(1), 100, Source.MANUAL, now=0)
    store.add_addresses(A, addrs(1), 10, Source.MANUAL, now=0)
    assert found(store, now=50) == addrs(1)


def test_the_most_trusted_first_then_the_oldest():
    store = PeerStore()
    for source, number in ((Source.DISCOVERY, 1), (Source.OWN_CLAIM, 2), (Source.OBSERVED, 3), (Source.MANUAL, 4)):
        store.add_addresses(A, addrs(number, number + 10), 10, source, now=0)
    assert found(store) == addrs(4, 14, 3, 13, 2, 12, 1, 11)


def test_a_less_trusted_source_changes_nothing():
    store = PeerStore()
    store.add_addresses(A, addrs(1), 10, Source.OBSERVED, now=0)
    assert store.add_addresses(A, addrs(1), 1000, Source.DISCOVERY, now=0) == 0
    assert found(store, now=11) == []
    store.add_addresses(A, addrs(1), 10, Source.DISCOVERY, now=0)
    store.add_addresses(A, addrs(1), 100, Source.OBSERVED, now=0)
    assert found(store, now=50) == addrs(1)


def test_own_claims_replace_the_last_ones():
    store = PeerStore()
    store.add_addresses(A, addrs(9), 10, Source.OBSERVED, now=0)
    store.add_addresses(A, addrs(1, 2, 9), 10, Source.OWN_CLAIM, now=0)
    store.add_addresses(A, addrs(2, 3), 10, Source.OWN_CLAIM, now=0)
    assert found(store) == addrs(9, 2, 3)
    store.add_addresses(A, [], 10, Source.OWN_CLAIM, now=0)
    assert found(store) == addrs(9)


def test_nothing_is_made_of_no_addresses():
    store = PeerStore()
    assert store.add_addresses(A, [], 10, Source.OWN_CLAIM, now=0) == 0
    assert len(store) == 0


def test_only_addresses_of_the_peer_itself_that_can_be_dialled():
    store = PeerStore()
    given_addresses = [
        f"{addr(1)}/p2p/{A}",
        f"{addr(2)}/p2p/{B}",
        f"{addr(3)}/p2p/{B}/p2p-circuit",
        f"/p2p/{A}",
        "/ip4/0.0.0.0/tcp/4",
        addr(0),
    ]
    assert store.add_addresses(A, given_addresses, 10, Source.OWN_CLAIM, now=0) == 2
    assert found(store) == [addr(1), f"{addr(3)}/p2p/{B}/p2p-circuit"]
    assert store.addresses(B, 0) == []
    with pytest.raises(InvalidMultiaddr):
        store.add_addresses(A, ["nonsense"], 10, Source.OWN_CLAIM, now=0)


def test_hostile_054_mapped_and_plain_are_one_address():
    store = PeerStore()
    store.add_addresses(A, ["/ip6/::ffff:192.0.2.1/tcp/1", addr(1)], 10, Source.OWN_CLAIM, now=0)
    assert found(store) == addrs(1)


# Records.


def test_a_record_wins_over_unsigned_claims():
    store = PeerStore()
    for source, number in ((Source.OWN_CLAIM, 1), (Source.DISCOVERY, 2), (Source.ALTERNATE, 3), (Source.MANUAL, 4)):
        store.add_addresses(A, addrs(number), 10_000, source, now=0)
    envelope = record(1, 5)
    assert store.consume_record(envelope, now=0)
    assert store.record(A) == envelope
    assert found(store) == addrs(4, 5)
    for source in (Source.OWN_CLAIM, Source.DISCOVERY, Source.ALTERNATE):
        assert store.add_addresses(A, addrs(6), 10_000, source, now=0) == 0
    store.add_addresses(A, addrs(7), 10_000, Source.OBSERVED, now=0)
    assert found(store) == addrs(4, 7, 5)
    # When the record is no longer alive, claims count again.
    assert store.add_addresses(A, addrs(6), 10_000, Source.OWN_CLAIM, now=4000) == 1


@pytest.mark.hostile
def test_hostile_053_only_higher_sequence_numbers_count():
    store = PeerStore()
    assert store.consume_record(record(5, 1, 2), 0, peer=A)
    assert not store.consume_record(record(4, 3), 0, peer=A)
    assert not store.consume_record(record(5, 3), 0, peer=A)
    assert found(store) == addrs(1, 2)
    assert store.consume_record(record((1 << 64) - 1), 0, peer=A)  # an empty record takes all addresses back
    assert found(store) == []
    assert not store.consume_record(record(6, 1), 0, peer=A)


@pytest.mark.hostile
def test_hostile_051_a_record_about_another_peer():
    store = PeerStore()
    with pytest.raises(RecordError):
        store.consume_record(record(1, 1, who=OTHER), 0, peer=A)
    with pytest.raises(RecordError):
        store.consume_record(b"nonsense", 0)
    assert len(store) == 0


@pytest.mark.hostile
def test_hostile_052_records_of_strangers_nobody_asked_for():
    store = PeerStore()
    for seed in range(10, 30):
        assert not store.consume_record(record(1, 1, who=someone(seed)), 0)
    assert len(store) == 0


@pytest.mark.hostile
def test_hostile_052_records_of_fresh_keys_are_bounded():
    store = PeerStore(SMALL)
    for seed in range(10, 60):
        who = someone(seed)
        assert store.consume_record(record(1, 1, who=who), 0, peer=who.peer)
    assert store.peers(0) == [someone(seed).peer for seed in range(50, 60)]


# Connections.


def test_nothing_expires_while_connected_and_the_best_stay():
    store = PeerStore(StoreLimits(kept=3, kept_ttl=100))
    store.connected(A)
    store.add_addresses(A, addrs(1, 2, 3), 10, Source.OWN_CLAIM, now=0)
    store.add_addresses(A, addrs(4), 10, Source.OBSERVED, now=0)
    assert found(store, now=50) == addrs(4, 1, 2, 3)
    assert store.peers(50) == [A]
    store.disconnected(A, now=50)
    assert found(store, now=149) == addrs(4, 1, 2)
    assert found(store, now=150) == []


def test_connected_twice_is_connected():
    store = PeerStore()
    store.connected(A)
    store.connected(A)
    store.set_protocols(A, ["/x"])
    assert store.protocols(A) == ("/x",) and store.peers(0) == [A]
    store.disconnected(A, 0)
    store.disconnected(A, 0)
    assert store.protocols(A) == () and store.peers(0) == [] and len(store) == 1


def test_what_a_peer_says_before_it_is_admitted_is_kept():
    store = PeerStore()
    store.set_protocols(A, ["/x"])
    store.set_agent(A, "agent")
    assert store.peers(0) == []
    store.connected(A)
    assert store.protocols(A) == ("/x",) and store.agent(A) == "agent"


def test_protocols_and_agent_are_replaced_and_cut():
    store = PeerStore(StoreLimits(protocols=3, agent=4))
    store.connected(A)
    store.set_protocols(A, ["/a", "/b"])
    store.set_protocols(A, ["/c", "/d", "/c", "/e", "/f"])
    assert store.protocols(A) == ("/c", "/d", "/e")
    store.set_agent(A, "pyp2p/1")
    assert store.agent(A) == "pyp2"
    store.disconnected(A, 0)
    assert store.agent(A) == "pyp2"


def test_learning_from_connections_of_each_kind():
    store = PeerStore()
    remote, claim = parse_multiaddr(addr(50123)), parse_multiaddr("/ip4/203.0.113.5/tcp/4001")
    store.learn(A, AddressKind.ISOLATED, remote, [claim], 0)
    assert len(store) == 0
    store.learn(A, AddressKind.INBOUND_DIRECT, remote, [claim], 0)
    assert found(store) == [text(claim), addr(4001)]
    store.learn(B, AddressKind.OUTBOUND_DIRECT, remote, [claim], 0)
    assert found(store, B) == [addr(50123), text(claim)]
    store.forget(B)
    store.learn(B, AddressKind.OUTBOUND_PROXY, remote, [claim], 0)
    assert found(store, B) == [text(claim)]


def test_forgetting():
    store = PeerStore()
    store.add_addresses(A, addrs(1), 10, Source.MANUAL, 0)
    store.forget(A)
    assert len(store) == 0
    store.connected(A)
    store.add_addresses(A, addrs(1), 10, Source.OWN_CLAIM, 0)
    store.set_protocols(A, ["/x"])
    store.forget(A)
    assert store.peers(0) == [A] and found(store) == [] and store.protocols(A) == ()
    store.disconnected(A, 0)
    assert store.peers(0) == []


# Bounds.


@pytest.mark.hostile
def test_hostile_054_addresses_of_one_peer():
    store = PeerStore()
    store.connected(A)
    for turn in range(1000):
        store.add_addresses(A, addrs(turn + 1), 3600, Source.OWN_CLAIM, now=turn)
        assert found(store, now=turn) == addrs(turn + 1)
    store.add_addresses(A, addrs(*range(1, 1000)), 3600, Source.OWN_CLAIM, now=0)
    assert found(store) == addrs(*range(1, 65))
    for turn in range(1000):
        store.add_addresses(A, addrs(10_000 + turn), 3600, Source.OBSERVED, now=0)
        store.add_addresses(A, addrs(20_000 + turn), 3600, Source.ALTERNATE, now=0)
        store.add_addresses(A, addrs(30_000 + turn), 3600, Source.DISCOVERY, now=0)
    assert found(store) == addrs(*range(10_992, 11_000), *range(1, 57))


def test_each_source_has_its_bound_and_the_newest_stay():
    store = PeerStore()
    for turn in range(1, 101):
        store.add_addresses(A, addrs(turn), 3600, Source.DISCOVERY, now=0)
    assert found(store) == addrs(*range(96, 101))
    for turn in range(101, 201):
        store.add_addresses(A, addrs(turn), 3600, Source.ALTERNATE, now=0)
    assert found(store) == addrs(*range(193, 201), *range(96, 101))


@pytest.mark.hostile
def test_hostile_098_strangers_do_not_push_out_those_we_met():
    store = PeerStore(SMALL)
    for n in range(8):
        store.connected(peer(n))
        store.add_addresses(peer(n), addrs(1), 1e6, Source.OWN_CLAIM, 0)
        store.disconnected(peer(n), 0)
    for n in range(1000, 2000):
        store.add_addresses(peer(n), addrs(1), 1e6, Source.DISCOVERY, 0)
    assert store.peers(0) == [peer(n) for n in (*range(8), *range(1990, 2000))]


def test_the_least_recently_used_goes_first():
    store = PeerStore(SMALL)
    for n in range(10):
        store.add_addresses(peer(n), addrs(1), 1e6, Source.DISCOVERY, 0)
    store.addresses(peer(0), 0)
    store.add_addresses(peer(10), addrs(1), 1e6, Source.DISCOVERY, 0)
    assert store.addresses(peer(1), 0) == [] and found(store, peer(0)) == addrs(1)


def test_those_who_left_are_bounded_and_come_back():
    store = PeerStore(SMALL)
    for n in range(50):
        store.connected(peer(n))
    assert len(store) == 50  # the connection limits bound these
    for n in range(50):
        store.add_addresses(peer(n), addrs(1), 1e6, Source.OWN_CLAIM, 0)
        store.disconnected(peer(n), 0)
    assert store.peers(0) == [peer(n) for n in range(40, 50)]
    store.connected(peer(40))
    store.connected(peer(0))
    assert store.peers(0) == [peer(40), peer(0), *(peer(n) for n in range(41, 50))]


@pytest.mark.hostile
def test_hostile_098_bytes_are_bounded_too():
    store = PeerStore(StoreLimits(bytes=100_000))
    for n in range(200):
        paths = [f"/unix/{n}/{i}/" + "a" * 900 for i in range(5)]
        store.add_addresses(peer(n), paths, 1e6, Source.DISCOVERY, 0)
    assert len(store) == 100_000 // (500 + 5 * (300 + len(parse_multiaddr(paths[0]).to_bytes())))
    one = PeerStore(StoreLimits(bytes=1000))
    one.add_addresses(A, paths, 1e6, Source.DISCOVERY, 0)
    assert len(one) == 0


# Tags and protection.


def test_tags():
    store = PeerStore()
    store.tag(A, "mesh", 5)
    store.tag(A, "bootstrap", 10)
    store.tag(A, "mesh", 7)
    assert store.value(A) == 17
    store.tag(A, "mesh", 0)
    assert store.value(A) == 10 and store.value(B) == 0


def test_protected_peers_stay():
    store = PeerStore(SMALL)
    store.protect(A, "static")
    store.protect(A, "mesh")
    store.add_addresses(A, addrs(1), 1e6, Source.DISCOVERY, 0)
    for n in range(100):
        store.add_addresses(peer(n), addrs(1), 1e6, Source.DISCOVERY, 0)
    assert found(store) == addrs(1) and store.is_protected(A) and not store.is_protected(B)
    assert store.unprotect(A, "static") and store.is_protected(A)
    assert not store.unprotect(A, "mesh") and not store.is_protected(A)
    assert not store.unprotect(A, "mesh") and not store.unprotect(B, "mesh")
    for n in range(100):
        store.add_addresses(peer(n), addrs(1), 1e6, Source.DISCOVERY, 0)
    assert found(store) == []


# Any sequence of calls.


class Churn(RuleBasedStateMachine):
    """The bounds hold and the accounts balance whatever is called in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = StoreLimits(own_claims=6, discovered=2, observed=2, kept=3, left_peers=3, strangers=3, bytes=9000)
        self.store = PeerStore(self.limits)
        self.now = 0.0
        self.open: dict[PeerId, None] = {}

    peers = st.integers(0, 9)

    @rule(
        n=peers, numbers=st.lists(st.integers(0, 20), max_size=10), source=st.sampled_from(Source), ttl=st.floats(0, 9)
    )
    def add(self, n, numbers, source, ttl):
        self.store.add_addresses(peer(n), addrs(*numbers), ttl, source, self.now)

    @rule(n=peers, seq=st.integers(0, 3), asked=st.booleans())
    def consume(self, n, seq, asked):
        who = someone(n)
        self.store.consume_record(record(seq, n + 1, who=who), self.now, peer=who.peer if asked else None)

    @rule(n=peers)
    def come(self, n):
        self.open[peer(n)] = None
        self.store.connected(peer(n))

    @rule(n=peers)
    def go(self, n):
        self.open.pop(peer(n), None)
        self.store.disconnected(peer(n), self.now)

    @rule(n=peers, seconds=st.floats(0, 5))
    def look(self, n, seconds):
        self.now += seconds
        self.store.addresses(peer(n), self.now)
        self.store.peers(self.now)

    @rule(n=peers)
    def forget(self, n):
        self.store.forget(peer(n))

    @rule(n=peers, on=st.booleans())
    def protect(self, n, on):
        (self.store.protect if on else self.store.unprotect)(peer(n), "why")

    @invariant()
    def bounded(self):
        store, limits = self.store, self.limits
        assert len(store._left.peers) <= limits.left_peers and len(store._strangers.peers) <= limits.strangers
        for table in store._tables:
            assert table.bytes == sum(state.weight for state in table.peers.values())
            assert table.limit is None or table.bytes <= limits.bytes
            for state in table.peers.values():
                assert state.table is table and len(state.addresses) <= limits.own_claims
        assert sorted(store._connected.peers) == sorted(self.open)


TestChurn = Churn.TestCase


@given(st.lists(st.integers(0, 5), max_size=40), st.randoms())
def test_the_same_calls_give_the_same_order(numbers, chance: random.Random):
    def run():
        store = PeerStore(SMALL)
        for n in numbers:
            store.add_addresses(peer(n), addrs(n + 1), 10, Source.DISCOVERY, 0)
        return store.peers(0)

    assert run() == run()
