"""The TLS handshake: both sides of ours against each other and against bare OpenSSL, and everything that is refused."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from pyp2p.errors import LocalProtocolError, PeerIdMismatch, RemoteError, TlsError
from pyp2p.security.tls.certificate import make_certificate
from pyp2p.security.tls.core import MAX_HANDSHAKE, Tls
from tests.unit.security.noise_tools import EARLY_MUXERS
from tests.unit.security.tls_tools import ALICE, BOB, P256, Bare, certificate, dialer, listener, meet


@pytest.mark.parametrize("piece", [1 << 20, 100, 1], ids=["whole", "in pieces", "byte by byte"])
def test_both_sides_prove_themselves(piece: int) -> None:
    one, other = dialer(expect=BOB.peer), listener()
    meet(one, other, piece)
    assert one.done and other.done
    assert (one.result.peer, one.result.peer_key) == (BOB.peer, BOB.public_key)
    assert (other.result.peer, other.result.peer_key) == (ALICE.peer, ALICE.public_key)
    assert one.leftover == other.leftover == b""
    with pytest.raises(LocalProtocolError):
        one.feed(b"x")


@pytest.mark.parametrize(("ours", "theirs", "agreed"), EARLY_MUXERS)
def test_early_muxers(ours: list[str], theirs: list[str], agreed: str | None) -> None:
    one, other = dialer(muxers=ours), listener(muxers=theirs)
    meet(one, other)
    assert one.result.early_muxer == other.result.early_muxer == agreed


def test_what_follows_the_handshake_in_the_same_bytes_is_left_over() -> None:
    one, other = dialer(), listener()
    other.feed(one.take_output())
    one.feed(other.take_output())
    assert one.done and not other.done
    last = one.take_output()
    other.feed(last + one.result.seal([b"early"]))
    assert other.done
    assert other.result.open(other.leftover) == [b"early"]


def test_one_certificate_for_all_connections_of_an_identity() -> None:
    tls = Tls()
    shown = []
    for identity in (ALICE, ALICE, BOB):
        bare = Bare(False, [certificate()])
        meet(dialer(identity, tls=tls), bare)
        shown.append(bare.connection.get_peer_certificate(as_cryptography=True))
    assert shown[0] == shown[1] != shown[2]


def test_secrets_are_told_on_request_only() -> None:
    lines: list[bytes] = []
    meet(dialer(tls=Tls(key_log=lines.append)), listener())
    assert {line.split()[0] for line in lines} >= {b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0"}
    assert all(len(line.split()) == 3 for line in lines)


def test_no_name_is_sent_and_one_that_comes_is_ignored() -> None:
    bare = Bare(False, [certificate()])
    meet(dialer(), bare)
    assert bare.names in ([], [None])
    other = listener()
    meet(Bare(True, [certificate()], sni=b"example.org"), other)
    assert other.result.peer == ALICE.peer


# --- who proves nothing


@pytest.mark.hostile
@pytest.mark.parametrize("outbound", [True, False], ids=["dialling", "listening"])
def test_hostile_014_somebody_else_is_told_apart(outbound: bool) -> None:
    one, other = dialer(expect=None if outbound else BOB.peer), listener(expect=BOB.peer if outbound else None)
    if not outbound:
        one, other = dialer(expect=ALICE.peer), listener()
    with pytest.raises(PeerIdMismatch):
        meet(one, other)
    refuser = other if outbound else one
    assert not refuser.done
    with pytest.raises(TlsError, match="the handshake has failed"):
        refuser.feed(b"\x16")


@pytest.mark.hostile
def test_hostile_033_a_dialer_without_a_certificate_is_refused() -> None:
    one, other = Bare(True), listener()
    with pytest.raises(TlsError, match="peer did not return a certificate"):
        meet(one, other)
    assert not other.done
    one.feed(other.take_output())
    with pytest.raises(SSL.Error, match="certificate required"):
        one.connection.recv(1)


FOREIGN = ec.generate_private_key(ec.SECP256R1())
REFUSED = [
    pytest.param([certificate(extension=b"")], "has no libp2p extension", id="no extension"),
    pytest.param([certificate(), certificate(BOB)], "more than one certificate", id="doubled"),
    pytest.param([certificate(signer=FOREIGN)], "not signed with its own key", id="not self-signed"),
    pytest.param([certificate(extension=b"\x30\x00")], "no SignedKey", id="no proof"),
]


@pytest.mark.hostile
@pytest.mark.parametrize("outbound", [True, False], ids=["dialling", "listening"])
@pytest.mark.parametrize(("chain", "why"), REFUSED)
def test_hostile_035_036_037_who_proves_nothing_is_refused_and_told(chain, why: str, outbound: bool) -> None:
    bare = Bare(not outbound, chain)
    ours = dialer() if outbound else listener()
    with pytest.raises(RemoteError, match=why):
        meet(*((ours, bare) if outbound else (bare, ours)))
    assert not ours.done
    alert = ours.take_output()
    assert alert
    bare.feed(alert)
    if not bare.error:  # a dialer was done before
        with pytest.raises(SSL.Error) as told:
            bare.connection.recv(1)
        bare.error = str(told.value)
        if isinstance(told.value, SSL.ZeroReturnError):  # it was closed
            bare.error = "closing alert"
    assert "alert" in bare.error


@pytest.mark.parametrize("outbound", [True, False], ids=["dialling", "listening"])
def test_a_peer_on_bare_openssl_with_a_good_certificate_is_let_in(outbound: bool) -> None:
    bare = Bare(not outbound, [certificate(critical=True)])
    ours = dialer() if outbound else listener()
    meet(*((ours, bare) if outbound else (bare, ours)))
    assert ours.result.peer == ALICE.peer


@pytest.mark.hostile
@pytest.mark.parametrize("outbound", [True, False], ids=["dialling", "listening"])
def test_hostile_034_older_versions_are_refused(outbound: bool) -> None:
    bare = Bare(not outbound, [certificate()], version=SSL.TLS1_2_VERSION)
    ours = dialer() if outbound else listener()
    with pytest.raises(TlsError, match=r"protocol|version"):
        meet(*((ours, bare) if outbound else (bare, ours)))


@pytest.mark.hostile
@pytest.mark.parametrize("outbound", [True, False], ids=["dialling", "listening"])
@pytest.mark.parametrize("alpn", [(), (b"h3",)], ids=["none", "another"])
def test_hostile_034_without_a_protocol_of_ours_in_alpn_nothing_is_agreed(outbound: bool, alpn) -> None:
    if outbound:
        bare, ours = Bare(False, [certificate()], alpn=alpn), dialer()
    else:
        bare, ours = Bare(True, [certificate()], alpn=alpn), listener()
    with pytest.raises(TlsError, match=r"ALPN|alpn|application protocol|bad extension"):
        meet(*((ours, bare) if outbound else (bare, ours)))
    assert not ours.done


@pytest.mark.hostile
@pytest.mark.parametrize("outbound", [True, False], ids=["dialling", "listening"])
@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not speak TLS"),
        (b"\x13/multistream/1.0.0\n", "does not speak TLS"),
        (b"\x16\x03\x01\xff\xff", "a TLS record of 65535 bytes"),
        (b"\x16\x03\x01\x00\x05hello", "TLS: "),
        (b"\x17\x03\x03\x00\x05hello", "TLS: "),
        (b"\x15\x03\x03\x00\x02\x02\x28", "TLS: .*(alert|unexpected message)"),
    ],
    ids=["http", "multistream", "length", "rubbish", "data", "alert"],
)
def test_hostile_010_034_what_is_no_handshake(said: bytes, why: str, outbound: bool) -> None:
    ours = dialer() if outbound else listener()
    with pytest.raises(TlsError, match=why):
        ours.feed(said)
    with pytest.raises(TlsError, match="the handshake has failed"):
        ours.feed(said)


@pytest.mark.hostile
def test_hostile_038_an_endless_handshake_is_bounded() -> None:
    dummy = b"\x14\x03\x03\x00\x01\x01"  # which TLS 1.3 ignores
    with pytest.raises(TlsError):
        dialer().feed(dummy * (MAX_HANDSHAKE // len(dummy) + 1))


@pytest.mark.hostile
def test_hostile_038_a_certificate_of_64_kib_is_refused() -> None:
    large = certificate(extension=b"\0" * 65_000)
    bare = Bare(True, [large])
    ours = listener()
    with pytest.raises(TlsError, match=r"bytes|too large|excessive"):
        meet(bare, ours)


@pytest.mark.hostile
def test_hostile_039_data_in_front_of_the_proof_is_never_opened() -> None:
    """A dialer sends application data where its certificate is due."""
    one, other = Bare(True, [certificate()]), listener()
    other.feed(one.take_output())
    one.feed(other.take_output())
    proof = one.take_output()
    one.connection.send(b"let me in")
    data = one.take_output()
    with pytest.raises(TlsError):
        other.feed(data + proof)
    assert not other.done


def test_our_own_certificate_is_one_that_bare_openssl_takes_apart() -> None:
    made = make_certificate(ALICE)
    bare = Bare(False, [made.der], key=made.key)
    ours = dialer(expect=ALICE.peer)
    meet(ours, bare)
    assert ours.done and bare.done and P256 is not made.key
