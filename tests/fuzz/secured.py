"""Certificates and TLS over memory: what a peer can send to each before and after it has proven itself.

A certificate is judged as it came, and with content of the input's that a peer has signed properly. A TLS handshake is
had with OpenSSL itself, whose bytes are changed on their way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL

from pyp2p.errors import RemoteError, TlsError
from pyp2p.peer.publickey import PublicKey
from pyp2p.security.tls.certificate import check_certificate
from pyp2p.security.tls.channel import TlsChannel
from pyp2p.security.tls.core import MAX_HANDSHAKE, Tls, TlsHandshake
from tests.fuzz.script import Edits, Script, edits
from tests.unit.security.tls_tools import ALICE, NOW, Bare, certificate, der, dialer, listener, signed_key
from tests.vectors import load

KEY = ec.derive_private_key(5, ec.SECP256R1())
VECTORS = [bytes.fromhex(each["certificate_der"]) for each in load("tls_certificates")["certificates"]]
OWN = certificate(ALICE, KEY)
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
TLS = Tls()
CAPACITY = 600  # bytes that the socket of a peer holds which never reads


# --- certificates


def extensions() -> Iterator[bytes]:
    """What the libp2p extension may hold."""
    yield signed_key(ALICE, KEY)
    yield from (der(0x30, b""), der(0x30, der(4, b"a") + der(4, b"b")), b"\x30\x80\x00\x00", b"\x30\x82\xff\xff")


MORE = [
    (x509.BasicConstraints(False, None), True),
    (x509.SubjectAlternativeName([x509.DNSName("a.example"), x509.RFC822Name("a@example")]), True),
    (x509.NameConstraints([x509.DNSName("a")], None), False),
    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), True),
]


def to_be_signed() -> Iterator[bytes]:
    """The content of certificates, before their signature."""
    ours = [certificate(ALICE, KEY, critical=True, more=MORE[:count]) for count in range(len(MORE) + 1)]
    for whole in (OWN, *ours, *VECTORS):
        start = 4 if whole[1] == 0x82 else 3
        size = (
            int.from_bytes(whole[start + 2 : start + 4], "big") + 4
            if whole[start + 1] == 0x82
            else whole[start + 2] + 3
        )
        yield whole[start : start + size]


def one_certificate(der_bytes: bytes) -> None:
    """A key, or an error of ours."""
    assert isinstance(check_certificate(der_bytes, NOW), PublicKey)


def one_extension(content: bytes) -> None:
    """In a certificate that is right otherwise."""
    one_certificate(certificate(ALICE, KEY, extension=content or b"\0"))


def one_signed(content: bytes) -> None:
    """Whatever a peer puts its signature under."""
    signature = KEY.sign(content, ec.ECDSA(SHA256()))
    one_certificate(der(0x30, content + ECDSA_SHA256 + der(3, b"\0" + signature)))


# --- TLS


def meetings() -> Iterator[bytes]:
    """Who begins, the size of pieces, and changes to each flight of the peer."""
    for role in (0, 1):
        for size in (0, 7):
            yield bytes((role, size))
            for unit in range(4):
                for change in ((0, 0, b"\x17"), (3, 0, b"\xff\xff"), (9, 0, b"\0"), (30, 1, b"xyz"), (50, 3, b"")):
                    yield bytes((role, size)) + edits((unit, *change))
            yield bytes((role, size)) + edits((1, 0, 4, b"\x14\x03\x03\0\1\1"), (2, 0, 4, b"\x15\x03\x03\0\2\2\x28"))
        yield bytes((role, 0)) + edits((0, 0, 4, b"GET / HTTP/1.1\r\n\r\n"))


def one_meeting(data: bytes) -> None:
    """A peer on OpenSSL whose bytes are changed: an error of ours, or a proof and then whatever it seals."""
    script = Script(data)
    outbound, size = script.byte() % 2 == 1, script.byte()
    changes = Edits(script)
    ours = dialer(tls=TLS) if outbound else listener(tls=TLS)
    theirs = Bare(not outbound, [OWN], key=KEY)
    channel: TlsChannel | None = None
    said = 0
    for turn in range(8):
        if theirs.done and turn > 3:
            with suppress(SSL.Error):
                theirs.connection.send(bytes(3000))
        flight = changes.apply(theirs.take_output())
        for start in range(0, len(flight), size or 1 << 20):
            piece = flight[start : start + (size or 1 << 20)]
            if channel is None:
                _fed(ours, piece)
                assert len(ours._buffer) <= 16384 + 256 + 5 + len(piece) and ours._total <= MAX_HANDSHAKE
                if ours.done:
                    channel = ours.result
                    assert channel.peer_key == ALICE.public_key
                    _opened(channel, ours.leftover)
            else:
                _opened(channel, piece)
        answer = ours.take_output() if channel is None else channel.seal([b"answer"])
        said += len(answer)
        assert said < MAX_HANDSHAKE
        if answer:
            theirs.feed(bytes(answer))
    if channel is not None:
        channel.close()


def _fed(ours: TlsHandshake, piece: bytes) -> None:
    try:
        ours.feed(piece)
    except RemoteError:
        assert not ours.done
        with suppress(TlsError):
            ours.feed(piece)
            raise AssertionError("a handshake that has failed went on") from None
        ours.take_output()
        raise


def _opened(channel: TlsChannel, piece: bytes) -> None:
    try:
        opened = channel.open(piece)
    except TlsError:
        with suppress(TlsError):
            channel.open(b"")
            raise AssertionError("a channel that is broken went on") from None
        channel.close()
        raise
    assert sum(map(len, opened)) <= len(piece) + 16384
