"""The certificate of `/wss` on both sides of the interop tests: for 127.0.0.1, signed by itself, made once a year."""

import ipaddress
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from pyp2p import WebSocket
from tests.interop.cache import cached


def certificate() -> Path:
    """The PEM file with the certificate and its key, which is a secret of nobody: only these tests trust it."""
    year = datetime.now(UTC).year

    def fill(work: Path, finished: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pyp2p interop tests")])
        made = (
            x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(year, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(year + 2, 1, 1, tzinfo=UTC))  # a run may last into the next year
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .sign(key, SHA256())
        )
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (finished / "pem").write_bytes(secret + made.public_bytes(Encoding.PEM))

    return cached("web-cert", str(year), fill) / "pem"


def secure_websocket() -> WebSocket:
    """A transport that listens with this certificate and, where it dials, takes no other."""
    pem = certificate()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return WebSocket(server=server, client=ssl.create_default_context(cafile=pem))
