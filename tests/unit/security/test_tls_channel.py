"""The TLS session: what is sealed is opened, in any pieces, until one byte is wrong or somebody closes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from pyp2p.errors import LocalProtocolError, TlsError
from tests.unit.security.tls_tools import Bare, certificate, dialer, listener, meet


def pair():
    one, other = dialer(), listener()
    meet(one, other)
    return one.result, other.result


@given(st.lists(st.binary(max_size=40_000), max_size=4), st.integers(1, 30_000), st.booleans())
def test_whatever_is_sealed_is_opened(chunks: list[bytes], piece: int, turn: bool) -> None:
    one, other = pair()[:: -1 if turn else 1]
    sealed = bytes(one.seal(chunks))
    got = b"".join(
        plain for start in range(0, len(sealed), piece) for plain in other.open(sealed[start : start + piece])
    )
    assert got == b"".join(chunks)
    assert bool(sealed) == bool(got)


def test_large_ones_take_few_records() -> None:
    one, other = pair()
    data = bytes(1 << 20)
    sealed = one.seal([memoryview(data)[:500_000], data[500_000:]])
    assert len(sealed) == len(data) + 64 * 22
    assert b"".join(other.open(sealed)) == data


@pytest.mark.hostile
@given(st.integers(5, 5 + 16 + 10), st.integers(1, 255))
def test_hostile_012_a_byte_that_was_changed_ends_it_for_good(where: int, change: int) -> None:
    one, other = pair()
    sealed = bytearray(one.seal([b"some words"]))
    sealed[where] ^= change
    for _ in range(2):
        with pytest.raises(TlsError, match="TLS: "):
            other.open(bytes(sealed))
    with pytest.raises(TlsError):
        other.seal([b"x"])
    alert = other.close()
    with pytest.raises(TlsError, match="alert"):
        one.open(alert)


@pytest.mark.hostile
def test_hostile_012_what_is_said_again_is_refused() -> None:
    one, other = pair()
    sealed = one.seal([b"once"])
    assert other.open(sealed) == [b"once"]
    with pytest.raises(TlsError):
        other.open(sealed)


def test_after_the_close_nothing_is_sealed_and_nothing_more_comes() -> None:
    one, other = pair()
    last = one.seal([b"last"])
    closing = one.close()
    assert closing
    assert one.close() == b""
    with pytest.raises(LocalProtocolError):
        one.seal([b"x"])
    assert other.open(last + closing) == [b"last"]
    assert other.open(b"whatever comes then") == []
    assert other.seal([b"still"])


def test_a_new_key_is_followed_and_answered() -> None:
    bare = Bare(True, [certificate()])
    ours = listener()
    meet(bare, ours)
    channel = ours.result
    bare.connection.send(b"before")
    assert channel.open(ours.leftover + bare.take_output()) == [b"before"]
    if hasattr(bare.connection, "key_update"):
        bare.connection.key_update()
    bare.feed(bytes(channel.seal([b"answer"])))
    assert bare.connection.recv(10) == b"answer"
    with pytest.raises(SSL.WantReadError):
        bare.connection.recv(10)
