"""The libp2p TLS handshake (`/tls/1.0.0`, TLS 1.3 only, both sides proven) as a `Handshake` core.

Rules: pure; the state machine is OpenSSL's, over memory. A peer's certificate is judged while OpenSSL asks about it, by
`certificate.py` and whole: a refusal reaches the peer as an alert, and the handshake cannot end without a proof. What
OpenSSL itself finds wrong counts too, but for the two things that libp2p certificates have. libp2p specs, tls/tls.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from cryptography import x509
from OpenSSL import SSL, crypto

from pyp2p.errors import LocalProtocolError, PeerIdMismatch, RemoteError, TlsError
from pyp2p.io.handshake import Direction
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, PublicKey
from pyp2p.platform import Platform
from pyp2p.security.tls.certificate import check_certificate, make_certificate
from pyp2p.security.tls.channel import TlsChannel, drain, words

MAX_HANDSHAKE: Final = 64 * 1024  # bytes of one side; a certificate may have 16 KiB
_HEADER: Final = 5  # bytes before each record: type, version, length
_RECORD_TYPES: Final = range(20, 24)
_MAX_RECORD: Final = 16384 + 256  # RFC 8446, 5.2
_ALPN: Final = b"libp2p"  # agreed on when no muxer is
_SELF_SIGNED, _CRITICAL_EXTENSION = 18, 34  # X509_V_ERR_*: libp2p certificates are the one and may have the other
_PARTIAL_WRITE: Final = 1  # SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets and has no name for

KeyLog = Callable[[bytes], None]


class Tls:
    """The security protocol `/tls/1.0.0`. Needs the extra `tls`.

    An identity's certificate is made once, for all connections. `key_log` gets a line in the format of SSLKEYLOGFILE
    for each secret: whoever has them can read the connection. Early muxer negotiation is ALPN: the dialer offers its
    muxers, then `libp2p`.
    """

    protocol = "/tls/1.0.0"

    def __init__(self, *, key_log: KeyLog | None = None) -> None:
        self._key_log = key_log
        self._contexts: _Contexts | None = None

    def handshake(
        self,
        identity: Identity,
        direction: Direction,
        expect: PeerId | None,
        muxers: Sequence[str],
        platform: Platform,
    ) -> TlsHandshake:
        """A fresh handshake; certificates are judged by the date that the platform has now."""
        contexts = self._contexts
        if contexts is None or contexts.identity is not identity:
            contexts = self._contexts = _Contexts(identity, self._key_log)
        return TlsHandshake(contexts, direction, expect, muxers, platform.wall())


class _Contexts:
    """What all connections of an identity share: the settings of either side, with its certificate."""

    __slots__ = ("client", "identity", "server")

    def __init__(self, identity: Identity, key_log: KeyLog | None) -> None:
        self.identity = identity
        ours = make_certificate(identity)
        self.client, self.server = (SSL.Context(SSL.TLS_METHOD) for _ in range(2))
        for context in (self.client, self.server):
            context.set_min_proto_version(SSL.TLS1_3_VERSION)
            # No session is taken up again: it would come without a certificate.
            context.set_options(SSL.OP_NO_TICKET)
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            context.set_mode(SSL.MODE_RELEASE_BUFFERS)
            context.clear_mode(_PARTIAL_WRITE)
            context.use_certificate(x509.load_der_x509_certificate(ours.der))
            context.use_privatekey(ours.key)
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _judge)
            if key_log is not None:
                context.set_keylog_callback(_told(key_log))
        self.server.set_alpn_select_callback(_choose)


class TlsHandshake:
    """One TLS 1.3 handshake: proves both identities, may agree on a muxer.

    An outbound one has its first message in the output from the start, and is done when its last one is still to be
    sent: that the listener refuses it shows on the first read after that. `muxers` are ours, best first; the listener
    takes the first of the dialer's that it has too. `result` is a `TlsChannel`. Bounds: 64 KiB of input.
    """

    __slots__ = ("_broken", "_buffer", "_connection", "_expect", "_key", "_muxers", "_now", "_outbound", "_total",
                 "done", "leftover", "result")  # fmt: skip

    result: TlsChannel
    leftover: bytes

    def __init__(
        self, contexts: _Contexts, direction: Direction, expect: PeerId | None, muxers: Sequence[str], now: float
    ) -> None:
        self._outbound = direction.outbound
        self._expect = expect
        self._muxers = [muxer.encode() for muxer in muxers]
        self._now = now
        self._key: PublicKey | None = None
        self._buffer = bytearray()
        self._total = 0
        self._broken = ""
        self.done = False
        self._connection = SSL.Connection(contexts.client if self._outbound else contexts.server)
        self._connection.set_app_data(self)  # for the callbacks
        if self._outbound:
            self._connection.set_alpn_protos([*self._muxers, _ALPN])
            self._connection.set_connect_state()
            self._step()
        else:
            self._connection.set_accept_state()

    def take_output(self) -> bytes:
        """The bytes to send now; each byte is returned once."""
        return drain(self._connection)

    def feed(self, data: bytes) -> None:
        """Take input.

        Raises `TlsError` for what is no TLS 1.3, for a certificate that is missing, doubled or proves nothing, and when
        no ALPN was agreed; `InvalidKey` for an identity key that is none of ours to verify, `PeerIdMismatch` when
        somebody else answered, and `TlsError` on each call after an error.
        """
        if self.done:
            raise LocalProtocolError("the handshake is over: its leftover belongs to the channel")
        if self._broken:
            raise TlsError(self._broken)
        self._buffer += data
        try:
            while not self.done and (record := self._next_record()) is not None:
                self._connection.bio_write(record)
                self._step()
        except RemoteError as error:
            self._broken = f"the handshake has failed: {error}"
            self._buffer = bytearray()
            self._connection.set_app_data(None)
            raise

    def _next_record(self) -> bytes | None:
        """The next whole record: what follows the last one of the handshake is not OpenSSL's to see yet."""
        buffer = self._buffer
        if buffer and buffer[0] not in _RECORD_TYPES:
            raise TlsError("the peer does not speak TLS")
        if len(buffer) < _HEADER:
            return None
        size = int.from_bytes(buffer[3:_HEADER], "big")
        if size > _MAX_RECORD:
            raise TlsError(f"a TLS record of {size} bytes, {_MAX_RECORD} are allowed")
        end = _HEADER + size
        if len(buffer) < end:
            return None
        self._total += end
        if self._total > MAX_HANDSHAKE:
            raise TlsError(f"a TLS handshake of more than {MAX_HANDSHAKE} bytes")
        record = bytes(buffer[:end])
        del buffer[:end]
        return record

    def _step(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            raise TlsError(f"TLS: {words(error)}") from None
        self._finish()

    def _finish(self) -> None:
        agreed = self._connection.get_alpn_proto_negotiated()
        try:
            self._check_alone()
            if self._key is None:
                raise TlsError("the peer showed no certificate")
            if agreed not in (*self._muxers, _ALPN):
                raise TlsError(f"the peer agreed to {agreed!r} in ALPN, which we did not offer")
        except TlsError:
            self._connection.shutdown()  # the handshake is over: no alert can say why any more
            raise
        early = None if agreed == _ALPN else agreed.decode()
        self.result = TlsChannel(self._connection, PeerId.from_key(self._key), self._key, early)
        self.leftover = bytes(self._buffer)
        self._buffer = bytearray()
        self.done = True
        self._connection.set_app_data(None)

    # --- what OpenSSL asks on the way

    def judge(self, certificate: bytes, problem: int) -> None:
        """Raise unless the certificate proves the peer that is expected. OpenSSL asks for each thing it finds wrong."""
        self._check_alone()
        if self._key is None:
            key = check_certificate(certificate, self._now)
            peer = PeerId.from_key(key)
            if self._expect is not None and peer != self._expect:
                raise PeerIdMismatch(self._expect, peer)
            self._key = key
        if problem not in (0, _SELF_SIGNED, _CRITICAL_EXTENSION):
            raise TlsError(f"OpenSSL refuses the certificate, for its reason {problem}")

    def _check_alone(self) -> None:
        """A dialer learns it while it is asked, a listener at the end: then OpenSSL leaves out the first."""
        if len(self._connection.get_peer_cert_chain() or ()) > self._outbound:
            raise TlsError("the peer showed more than one certificate")

    def choose(self, offered: list[bytes]) -> bytes:
        """The first of a dialer's protocols that we speak. Raises `TlsError` when there is none."""
        ours = (*self._muxers, _ALPN)
        for name in offered:
            if name in ours:
                return name
        raise TlsError(f"the peer offers no protocol of ours in ALPN: {offered!r:.200}")


def _judge(connection: SSL.Connection, certificate: crypto.X509, problem: int, depth: int, fine: int) -> bool:
    handshake: TlsHandshake = connection.get_app_data()
    handshake.judge(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate), problem)
    return True


def _choose(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    handshake: TlsHandshake = connection.get_app_data()
    return handshake.choose(offered)


def _told(key_log: KeyLog) -> Callable[[SSL.Connection, bytes], None]:
    return lambda connection, line: key_log(line)
