"""Sessions and TALKREQs by themselves: which keys are written with, who is forgotten first, which nonces come."""

from pyp2p.discv5.crypto import encrypt_message
from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.sessions import KeyPair, Session, Sessions
from pyp2p.discv5.talks import Talks
from pyp2p.discv5.types import Discv5Config
from tests.unit.discv5.script import Peer

RECORD = Peer("bob", "50.0.2.1").first


def pair(number: int) -> KeyPair:
    return KeyPair.of(bytes([number]) * 16, bytes([number + 100]) * 16)


def opens(session: Session, number: int, now: float) -> bool:
    """Whether a packet of the other side, written with that pair, is read."""
    nonce = bytes(12)
    sealed = encrypt_message(pair(number).read, nonce, b"hello", b"header")
    return session.open(nonce, sealed, b"header", now) == b"hello"


def writes_with(session: Session) -> int:
    sealed = encrypt_message(session.write, bytes(12), b"hello", b"header")
    return next(
        each for each in range(100) if encrypt_message(pair(each).write, bytes(12), b"hello", b"header") == sealed
    )


def session_of(*numbers: int, now: float = 0.0) -> Session:
    session = Session(RECORD)
    for number in numbers:
        session.renew(pair(number), True, now)
    return session


def test_of_crossing_handshakes_the_one_that_was_read_last_is_written_with() -> None:
    session = session_of(1, 2)
    assert writes_with(session) == 2
    for number in (1, 2, 1, 1, 2):
        assert opens(session, number, 1.9) and writes_with(session) == number


def test_two_seconds_after_a_handshake_the_keys_before_open_nothing() -> None:
    session = session_of(1, 2)
    assert not opens(session, 1, 2.0) and writes_with(session) == 2
    assert opens(session, 2, 2.0) and not opens(session, 1, 0.5)  # gone for good


def test_whichever_of_crossing_handshakes_the_node_chose_stays() -> None:
    session = session_of(1, 2)
    assert opens(session, 1, 1.0)
    assert opens(session, 1, 2.0) and not opens(session, 2, 2.0) and writes_with(session) == 1


def test_each_handshake_gives_the_keys_before_it_two_seconds() -> None:
    session = session_of(1, 2)
    session.renew(pair(3), True, 1.5)
    assert not opens(session, 1, 1.6)  # two are kept
    assert opens(session, 2, 3.4) and not opens(session, 3, 3.5)


def test_a_session_that_only_we_know_of_is_unproven_until_something_opens() -> None:
    session = Session(RECORD)
    session.renew(pair(1), False, 0.0)
    assert not opens(session, 2, 0.0) and not session.proven
    assert opens(session, 1, 0.0) and session.proven
    session.renew(pair(2), False, 0.0)
    assert not session.proven


def test_new_keys_count_as_use() -> None:
    sessions = Sessions(2)
    a, b, c = [(bytes([number]) * 32, Endpoint("50.0.1.1", number)) for number in (1, 2, 3)]
    for where in (a, b, a, c):
        sessions.renew(where, pair(1), RECORD, True, 0.0)
    assert sessions.get(b) is None and sessions.get(a) and sessions.get(c)


def test_nonces_differ_whatever_chance_gives() -> None:
    session = session_of(1)
    assert len({session.nonce(bytes(8)) for _ in range(1000)}) == 1000


def test_the_count_of_nonces_goes_on_with_new_keys() -> None:
    session = session_of(1)
    nonces = [session.nonce(bytes(8))]
    session.renew(pair(2), True, 0.0)
    assert session.nonce(bytes(8)) not in nonces


def test_a_talk_whose_time_is_over_gives_up_its_place_without_a_tick() -> None:
    talks = Talks(Discv5Config(max_talks=1))
    where = (bytes(32), Endpoint("50.0.1.1", 9000))
    assert talks.begin(1, where, b"1", 0.0)
    assert not talks.begin(2, where, b"2", 0.5)  # it may answer still
    assert talks.begin(3, where, b"3", 0.51) and len(talks) == 1
    assert talks.end(1, 0.51) is None and talks.end(3, 0.6) == (where, b"3")
