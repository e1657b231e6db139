"""Ranking, backoff, gating and heartbeats: the pure decisions of the switch."""

import logging
import random

import pytest

from pyp2p.errors import BackingOff
from pyp2p.io.handshake import Direction
from pyp2p.io.loglimit import LogLimiter
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.switch.backoff import DialBackoff
from pyp2p.switch.config import Backoff
from pyp2p.switch.gater import AllowAll, BlockList
from pyp2p.switch.heartbeat import Beat, Heartbeat
from pyp2p.switch.ranking import dialable_claim, rank

ANNE, BOB = PeerId(b"\x12\x20" + b"a" * 32), PeerId(b"\x12\x20" + b"b" * 32)
addr = parse_multiaddr

RANKS = {
    "one": (["/ip4/1.2.3.4/tcp/1"], [(0, "/ip4/1.2.3.4/tcp/1")]),
    "duplicates": (["/ip4/1.2.3.4/tcp/1"] * 3, [(0, "/ip4/1.2.3.4/tcp/1")]),
    "families in turn, IPv6 first": (
        ["/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.5/tcp/1", "/ip6/2600::1/tcp/1"],
        [(0, "/ip6/2600::1/tcp/1"), (0.25, "/ip4/1.2.3.4/tcp/1"), (0.5, "/ip4/1.2.3.5/tcp/1")],
    ),
    "a zone is IPv6 too": (
        ["/ip4/10.0.0.1/tcp/1", "/ip6zone/eth0/ip6/fe80::1/tcp/1"],
        [(0, "/ip6zone/eth0/ip6/fe80::1/tcp/1"), (0.25, "/ip4/10.0.0.1/tcp/1")],
    ),
    "private and public at once": (
        ["/ip4/1.2.3.4/tcp/1", "/ip4/10.0.0.1/tcp/1"],
        [(0, "/ip4/10.0.0.1/tcp/1"), (0, "/ip4/1.2.3.4/tcp/1")],
    ),
    "QUIC has a head start": (
        ["/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/udp/1/quic-v1"],
        [(0, "/ip4/1.2.3.4/udp/1/quic-v1"), (0.25, "/ip4/1.2.3.4/tcp/1")],
    ),
    "a short one at home": (
        ["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/udp/1/quic-v1"],
        [(0, "/ip4/10.0.0.1/udp/1/quic-v1"), (0.03, "/ip4/10.0.0.1/tcp/1")],
    ),
    "QUIC over both IP versions, then TCP over both": (
        ["/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/udp/2/quic-v1", "/ip6/2600::1/tcp/1", "/ip6/2600::1/udp/2/quic-v1"],
        [
            (0, "/ip6/2600::1/udp/2/quic-v1"),
            (0.25, "/ip4/1.2.3.4/udp/2/quic-v1"),
            (0.25, "/ip6/2600::1/tcp/1"),
            (0.5, "/ip4/1.2.3.4/tcp/1"),
        ],
    ),
    "no IP at all": (["/memory/7", "/ip4/1.2.3.4/tcp/1"], [(0, "/ip4/1.2.3.4/tcp/1"), (0, "/memory/7")]),
    "relays wait": (
        ["/ip4/1.2.3.4/tcp/1/p2p-circuit", "/ip4/1.2.3.5/tcp/1"],
        [(0, "/ip4/1.2.3.5/tcp/1"), (0.5, "/ip4/1.2.3.4/tcp/1/p2p-circuit")],
    ),
    "relays alone do not": (["/ip4/1.2.3.4/tcp/1/p2p-circuit"], [(0, "/ip4/1.2.3.4/tcp/1/p2p-circuit")]),
    "nothing": ([], []),
}


@pytest.mark.parametrize("name", RANKS, ids=str)
def test_ranking(name: str) -> None:
    given, expected = RANKS[name]
    assert [(delay, str(address)) for delay, address in rank(map(addr, given))] == expected


CLAIMS = [
    ("/ip4/0.0.0.0/tcp/4001", [], False),
    ("/ip4/224.0.0.1/tcp/4001", [], False),
    ("/ip4/255.255.255.255/tcp/4001", [], False),
    ("/ip4/1.2.3.4/tcp/0", [], False),
    ("/ip4/1.2.3.4/tcp/22", [], False),
    ("/ip4/1.2.3.4/tcp/25", ["/ip4/10.0.0.1/tcp/1"], False),
    ("/ip4/1.2.3.4/tcp/4001", ["/ip4/8.8.8.8/tcp/1"], True),
    ("/ip4/127.0.0.1/tcp/4001", [], True),
    ("/ip4/127.0.0.1/tcp/4001", ["/ip4/127.0.0.1/tcp/1"], True),
    ("/ip4/127.0.0.1/tcp/4001", ["/ip4/10.0.0.1/tcp/1"], False),
    ("/ip6/::ffff:127.0.0.1/tcp/4001", ["/ip4/10.0.0.1/tcp/1"], False),
    ("/ip4/192.168.0.1/tcp/4001", ["/ip4/10.0.0.1/tcp/1"], True),
    ("/ip4/192.168.0.1/tcp/4001", ["/ip4/8.8.8.8/tcp/1"], False),
    ("/ip4/169.254.169.254/tcp/4001", [], False),
    ("/ip6/::ffff:169.254.169.254/tcp/4001", ["/ip4/10.0.0.1/tcp/1"], False),
    ("/ip4/169.254.7.7/tcp/4001", ["/ip4/169.254.1.1/tcp/1"], True),
    ("/memory/1", ["/ip4/8.8.8.8/tcp/1"], True),
    ("/ip4/1.2.3.4", [], False),
    ("/ip6zone/eth0/ip6/fe80::1/tcp/22", [], False),
    ("/ip6zone/eth0/ip6/fe80::1/tcp/0", [], False),
    ("/ip6zone/eth0/ip6/fe80::1/tcp/4001", ["/ip4/10.0.0.1/tcp/1"], True),
    ("/dns4/a.example/tcp/22", [], False),
    ("/dns4/a.example/tcp/0", [], False),
    ("/dns4/a.example/tcp/4001", ["/ip4/8.8.8.8/tcp/1"], True),
    ("/dnsaddr/a.example", ["/ip4/8.8.8.8/tcp/1"], True),
    ("/dns/db.internal/tcp/4001", ["/ip4/8.8.8.8/tcp/1"], False),
    ("/dns/localhost/tcp/4001", ["/ip4/8.8.8.8/tcp/1"], False),
    ("/dns/db.internal/tcp/4001", ["/ip4/10.0.0.1/tcp/1"], True),
]


@pytest.mark.parametrize(("claim", "own", "expected"), CLAIMS)
def test_hostile_060_what_strangers_tell_is_not_dialled_into_our_own_network(claim, own, expected) -> None:
    assert dialable_claim(addr(claim), [addr(mine) for mine in own]) is expected


def test_backoff_grows_to_its_cap_and_is_forgotten() -> None:
    backoff = DialBackoff(Backoff(base=5, factor=2, cap=60, jitter=0), random.Random(1))
    now = 0.0
    for wait in (5, 10, 20, 40, 60, 60):
        assert backoff.failed("a", now) == now + wait
        with pytest.raises(BackingOff) as caught:
            backoff.check("a", now + wait - 0.1)
        assert caught.value.until == now + wait
        now += wait
        backoff.check("a", now)
    backoff.check("b", now)
    assert backoff.failed("a", now + 1000) == now + 1005  # long free: it starts anew
    backoff.succeeded("a")
    backoff.check("a", now)


def test_backoff_is_spread_and_bounded() -> None:
    backoff = DialBackoff(Backoff(base=10, jitter=0.2, entries=100), random.Random(1))
    waits = [backoff.failed(f"address {n}", 0) for n in range(1000)]
    assert all(8 <= wait <= 12 for wait in waits)
    assert max(waits) - min(waits) > 3
    assert len(backoff._failures) == 100
    for _ in range(2000):
        backoff.failed("again", 1e9)  # no overflow


def test_a_gater_that_allows_all() -> None:
    gater, address = AllowAll(), addr("/ip4/1.2.3.4/tcp/1")
    assert gater.allow_dial(None, address) is gater.allow_accept(address) is None
    assert gater.allow_secured(Direction.INBOUND, ANNE, address) is None


def test_a_block_list_refuses_peers_and_ranges_until_their_time() -> None:
    now = [0.0]
    gater = BlockList(lambda: now[0], limit=3)
    near, far = addr("/ip4/192.0.2.7/tcp/1"), addr("/ip6/2001:db8::1/tcp/1")
    gater.block_peer(ANNE, until=10)
    gater.block_peer(ANNE, until=5)  # never shortened
    gater.block_network("192.0.2.0/24", until=10)
    gater.block_network("2001:db8::/32")
    now[0] = 7
    assert "is blocked" in gater.allow_secured(Direction.OUTBOUND, ANNE, far)
    assert gater.allow_secured(Direction.OUTBOUND, BOB, far) is None
    assert "192.0.2.0/24" in gater.allow_accept(near)
    assert "192.0.2.0/24" in gater.allow_accept(addr("/ip6/::ffff:192.0.2.7/tcp/1"))
    assert gater.allow_dial(ANNE, addr("/memory/1")) is not None
    assert gater.allow_dial(None, far) is not None
    now[0] = 10
    assert gater.allow_secured(Direction.OUTBOUND, ANNE, far) is None
    assert gater.allow_accept(near) is None
    assert gater.allow_accept(far) is not None
    gater.unblock_network("2001:db8::/32")
    assert gater.allow_accept(far) is None
    gater.block_peer(BOB)
    gater.unblock_peer(BOB)
    assert gater.allow_dial(BOB, near) is None
    for n in range(10):
        gater.block_peer(PeerId(bytes([n])))
        gater.block_network(f"10.0.0.{n}")
    assert len(gater._peers) == len(gater._networks) == 3
    assert gater._lengths == {(4, 32): 3}
    with pytest.raises(ValueError, match="nonsense"):
        gater.block_network("nonsense")


def test_a_block_list_knows_ipv4_in_both_its_forms() -> None:
    gater = BlockList(lambda: 0.0)
    gater.block_network("::ffff:192.0.2.0/120")
    for text in ("/ip4/192.0.2.7/tcp/1", "/ip6/::ffff:192.0.2.7/tcp/1"):
        assert "192.0.2.0/24" in (gater.allow_accept(addr(text)) or "")
    assert gater.allow_accept(addr("/ip4/192.0.3.7/tcp/1")) is None
    gater.unblock_network("192.0.2.0/24")  # the same
    assert gater.allow_accept(addr("/ip4/192.0.2.7/tcp/1")) is None
    gater.block_network("::/0")
    assert gater.allow_accept(addr("/ip6/2600::1/tcp/1")) is not None
    assert gater.allow_accept(addr("/ip4/192.0.2.7/tcp/1")) is None


def test_a_block_that_is_over_is_forgotten() -> None:
    now = [0.0]
    gater = BlockList(lambda: now[0])
    gater.block_network("192.0.2.0/24", until=10)
    now[0] = 10
    assert gater.allow_accept(addr("/ip4/192.0.2.7/tcp/1")) is None
    assert not gater._networks
    assert not gater._lengths


def test_a_heartbeat_is_not_made_up_for() -> None:
    beat = Heartbeat(30, 20, now=0)
    assert beat.look(29, 0) is Beat.NOTHING
    assert beat.look(500, 0) is Beat.PING
    assert beat.look(501, 0) is Beat.NOTHING
    beat.answered()
    assert beat.look(529, 9) is Beat.NOTHING
    assert beat.look(530, 9) is Beat.PING
    assert beat.look(549, 9) is Beat.NOTHING
    assert beat.look(550, 9) is Beat.LOST


def test_a_peer_that_sends_anything_is_alive() -> None:
    beat = Heartbeat(30, 20, now=0)
    assert beat.look(30, 100) is Beat.PING
    assert beat.look(50, 101) is Beat.NOTHING
    assert beat.look(69, 101) is Beat.NOTHING
    assert beat.look(70, 101) is Beat.LOST


def test_log_lines_are_limited_and_counted(caplog) -> None:
    limiter = LogLimiter(logging.getLogger("pyp2p.test"))
    with caplog.at_level(logging.INFO, "pyp2p.test"):
        for _ in range(100):
            limiter.log(1.0, "refused addr=%s", "x")
        limiter.log(2.0, "refused addr=%s", "y")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 21
    assert lines[-1] == "refused addr=y (suppressed 80)"
