"""What the QUIC tests share: two cores without a network, a peer on the bare library, and frames of any kind."""

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import Epoch
from cryptography import x509

from pyp2p.muxers.base import MuxerLimits
from pyp2p.quic.core import QuicCore, Settings
from pyp2p.quic.muxer import QuicMuxer
from pyp2p.security.tls.certificate import Certificate, make_certificate
from tests.unit.security.noise_tools import entropy_of
from tests.unit.security.tls_tools import ALICE, BOB, NOW, P256

HERE, THERE = ("10.0.0.1", 1), ("10.0.0.2", 2)


def settings(identity, **more):
    return Settings(make_certificate(identity), lambda: NOW, entropy_of(1), datagram=1452, **more)


def client(expect=None, certificate=None):
    """Our dialling end."""
    ours = settings(ALICE)
    if certificate is not None:
        ours = Settings(Certificate(P256, certificate), ours.wall, ours.entropy)
    core = QuicCore(ours, client=True)
    core.expect = expect
    core.connect(THERE, 0.0)
    return core


class Pair:
    """A dialling end and a listening one that is ours, with time and a wire between them."""

    def __init__(self, dialler=None, expect=None, **more):
        self.dialler = client() if dialler is None else dialler
        self.now = 0.0
        first = self.dialler.datagrams_to_send(self.now)
        original = first[0][0][6 : 6 + first[0][0][5]]
        self.listener = QuicCore(settings(BOB, **more), client=False, original_cid=original)
        self.listener.expect = expect
        for data, _ in first:
            self.listener.receive_datagram(data, HERE, self.now)
        self.pump()

    def pump(self, seconds=1.0):
        """Move datagrams, and time where nobody has one, until nothing happens within some seconds."""
        until = self.now + seconds
        while self.now < until:
            moved = False
            for one, other, place in ((self.listener, self.dialler, THERE), (self.dialler, self.listener, HERE)):
                if isinstance(one, QuicCore):
                    one.look()
                for data, _ in one.datagrams_to_send(self.now):
                    other.receive_datagram(data, place, self.now)
                    moved = True
            if not moved:
                timers = [at for core in (self.dialler, self.listener) if (at := core.get_timer()) is not None]
                if not timers or min(timers) >= until:
                    break
                self.now = max(self.now, min(timers))
                for core in (self.dialler, self.listener):
                    if (at := core.get_timer()) is not None and at <= self.now:
                        core.handle_timer(self.now)
        for core in (self.dialler, self.listener):
            if isinstance(core, QuicCore):
                core.look()

    def muxers(self):
        limits = MuxerLimits()
        return QuicMuxer(self.dialler, limits, self.now), QuicMuxer(self.listener, limits, self.now)

    def say(self, *frames):
        """Send frames of any kind, each (type, bytes), from the dialler: one packet for all."""
        core = self.dialler
        builder = QuicPacketBuilder(
            host_cid=core.host_cid,
            is_client=True,
            max_datagram_size=1452,
            packet_number=core._packet_number,
            peer_cid=core._peer_cid.cid,
            version=core._version,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, core._cryptos[Epoch.ONE_RTT])
        for kind, raw in frames:
            builder.start_frame(kind, capacity=len(raw)).push_bytes(raw)
        datagrams, _ = builder.flush()
        core._packet_number = builder.packet_number
        for data in datagrams:
            self.listener.receive_datagram(data, HERE, self.now)
        self.listener.look()


def bare(chain=(), key=P256, **more):
    """A dialling end on the library as it is."""
    configuration = QuicConfiguration(
        alpn_protocols=more.pop("alpn", ["libp2p"]), is_client=True, verify_mode=0, **more
    )
    if chain:
        configuration.certificate = x509.load_der_x509_certificate(chain[0])
        configuration.certificate_chain = [x509.load_der_x509_certificate(each) for each in chain[1:]]
        configuration.private_key = key
    connection = QuicConnection(configuration=configuration)
    connection.connect(THERE, 0.0)
    return connection


def varint(value):
    for size, mark in ((1, 0), (2, 1), (4, 2), (8, 3)):
        if value < 1 << (8 * size - 2):
            return (value | mark << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(value)
