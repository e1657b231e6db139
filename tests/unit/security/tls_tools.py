"""What the TLS tests share: certificates that are right or wrong in one thing, and a peer on bare OpenSSL."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from pyp2p.io.handshake import Direction
from pyp2p.peer.keys import Identity
from pyp2p.platform import Platform
from pyp2p.security.tls.core import Tls
from tests.unit.security.noise_tools import entropy_of

ALICE = Identity.generate(entropy=entropy_of("alice"))
BOB = Identity.generate(entropy=entropy_of("bob"))
NOW = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
PREFIX = b"libp2p-tls-handshake:"
EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
P256 = ec.generate_private_key(ec.SECP256R1())


def platform(now=NOW):
    return Platform(wall=lambda: now)


def dialer(identity=ALICE, expect=None, muxers=(), tls=None):
    return (tls or Tls()).handshake(identity, Direction.OUTBOUND, expect, muxers, platform())


def listener(identity=BOB, expect=None, muxers=(), tls=None):
    return (tls or Tls()).handshake(identity, Direction.INBOUND, expect, muxers, platform())


def spki(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def der(tag, content):
    if len(content) < 128:
        return bytes((tag, len(content))) + content
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def signed_key(identity, key, prefix=PREFIX):
    signature = identity.sign(prefix + spki(key))
    return der(0x30, der(4, identity.public_key.to_protobuf()) + der(4, signature))


def certificate(
    identity=ALICE,
    key=P256,
    *,
    signer=None,
    algorithm=SHA256(),  # noqa: B008
    extension=None,
    critical=False,
    more=(),
    first=datetime(1975, 1, 1, tzinfo=UTC),
    last=datetime(4096, 1, 1, tzinfo=UTC),
    subject="libp2p.io",
    **how,
):
    """A certificate of libp2p, but for what is asked for; `extension` are other bytes in the extension (none: b"")."""
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "libp2p.io")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, subject)]))
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(first)
        .not_valid_after(last)
    )
    said = signed_key(identity, key) if extension is None else extension
    if said:
        builder = builder.add_extension(x509.UnrecognizedExtension(EXTENSION, said), critical)
    for each, is_critical in more:
        builder = builder.add_extension(each, is_critical)
    return builder.sign(signer or key, algorithm, **how).public_bytes(Encoding.DER)


def meet(one, other, piece=1 << 20):
    """Move bytes between two sides until neither has more to say; what comes after a handshake is the channel's."""
    while True:
        outputs = [one.take_output(), other.take_output()]
        if not any(outputs):
            return
        for output, reader in zip(outputs, (other, one), strict=True):
            for start in range(0, len(output), piece):
                data = output[start : start + piece]
                if reader.done and not isinstance(reader, Bare):
                    assert reader.result.open(data) == []
                else:
                    reader.feed(data)


class Bare:
    """A peer on OpenSSL itself, which asks for nothing and shows what the test wants."""

    def __init__(self, outbound, chain=(), key=P256, alpn=(b"libp2p",), version=SSL.TLS1_3_VERSION, sni=None):
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(version)
        if chain:
            context.use_certificate(x509.load_der_x509_certificate(chain[0]))
            context.use_privatekey(key)
            for each in chain[1:]:
                context.add_extra_chain_cert(x509.load_der_x509_certificate(each))
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        if alpn:
            context.set_alpn_select_callback(lambda _, offered: next((a for a in alpn if a in offered), alpn[0]))
        self.names = []
        context.set_tlsext_servername_callback(lambda connection: self.names.append(connection.get_servername()))
        self.connection = SSL.Connection(context)
        if outbound:
            if alpn:
                self.connection.set_alpn_protos(list(alpn))
            if sni:
                self.connection.set_tlsext_host_name(sni)
            self.connection.set_connect_state()
        else:
            self.connection.set_accept_state()
        self.done = False
        self.error = ""
        self.step()

    def step(self):
        try:
            self.connection.do_handshake()
            self.done = True
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self.error = str(error)

    def feed(self, data):
        self.connection.bio_write(data)
        self.step()

    def take_output(self):
        try:
            return self.connection.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""
