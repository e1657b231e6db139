"""The lines that tools for all of libp2p filter: their words, their sample, and that a peer cannot forge them."""

import ast
import logging
import random
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import MuxerError
from pyp2p.io.handshake import Direction
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.keys import Identity
from pyp2p.switch.canonical import CanonicalLog, quoted

PEER = Identity.generate(entropy=random.Random(1).randbytes).peer


class Always(random.Random):
    """Chooses every connection."""

    def randrange(self, *_: int) -> int:
        return 0


def connection(direction: Direction = Direction.INBOUND) -> SimpleNamespace:
    return SimpleNamespace(peer=PEER, remote=parse_multiaddr("/ip4/147.75.74.239/tcp/4001"), direction=direction)


@pytest.mark.parametrize(("direction", "word"), [(Direction.INBOUND, "inbound"), (Direction.OUTBOUND, "outbound")])
def test_an_established_connection_is_told_in_the_words_of_go(caplog, direction: Direction, word: str) -> None:
    caplog.set_level(logging.INFO, "pyp2p.canonical")
    CanonicalLog(Always()).established(connection(direction))
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("pyp2p.canonical", "INFO")
    assert record.getMessage() == (
        f"CANONICAL_PEER_STATUS: peer={PEER} addr=/ip4/147.75.74.239/tcp/4001 sample_rate=100"
        f' connection_status="established" dir="{word}"'
    )


def test_one_connection_in_a_hundred_is_told(caplog) -> None:
    caplog.set_level(logging.INFO, "pyp2p.canonical")
    log = CanonicalLog(random.Random(7))
    for _ in range(10_000):
        log.established(connection())
    assert 70 <= len(caplog.records) <= 130


def test_what_is_logged_does_not_change_the_choices_of_a_seed(caplog) -> None:
    after = []
    for level in (logging.INFO, logging.CRITICAL):
        caplog.set_level(level, "pyp2p.canonical")
        rng = random.Random(7)
        CanonicalLog(rng).established(connection())
        after.append(rng.random())
    assert after[0] == after[1]


def test_a_misbehaving_peer_is_told_in_the_words_of_go(caplog) -> None:
    caplog.set_level(logging.INFO, "pyp2p.canonical")
    CanonicalLog(random.Random(1)).misbehaving(connection(), "muxer", MuxerError('frame "x" of type 9'), 0.0)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("pyp2p.canonical", "INFO")
    assert record.getMessage() == (
        f"CANONICAL_MISBEHAVING_PEER: peer={PEER} addr=/ip4/147.75.74.239/tcp/4001 component=muxer"
        r' err="frame \"x\" of type 9" msg="MuxerError"'
    )


def test_the_filter_of_fail2ban_for_go_finds_our_lines(caplog) -> None:
    caplog.set_level(logging.INFO, "pyp2p.canonical")
    log = CanonicalLog(Always())
    log.established(connection())
    log.misbehaving(connection(), "muxer", MuxerError("x"), 0.0)
    for record, word in zip(caplog.records, ("PEER_STATUS", "MISBEHAVING_PEER"), strict=True):
        found = re.search(r"CANONICAL_" + word + r": .* addr=/ip[46]/([^/\s]+)[^\s]*", record.getMessage())
        assert found is not None
        assert found[1] == "147.75.74.239"


@pytest.mark.hostile
def test_a_peer_that_misbehaves_all_the_time_does_not_fill_the_log(caplog) -> None:
    caplog.set_level(logging.INFO, "pyp2p.canonical")
    log = CanonicalLog(random.Random(1))
    for at in range(1_000):
        log.misbehaving(connection(), "muxer", MuxerError("x"), at / 1_000)
    assert len(caplog.records) <= 25
    assert "(suppressed " in caplog.records[-1].getMessage()


@pytest.mark.hostile
@given(st.text())
def test_no_text_ends_its_quotes_or_its_line(said: str) -> None:
    shown = quoted(said)
    assert shown.isascii()
    assert shown.isprintable()
    assert shown[0] == shown[-1] == '"'
    assert ast.literal_eval(shown).removesuffix("...").startswith(said[:300])
    assert len(said) > 300 or ast.literal_eval(shown) == said
