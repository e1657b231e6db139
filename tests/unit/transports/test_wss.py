"""Which name a dialler of `/wss` asks for in TLS and HTTP, and whose certificate it takes."""

import ipaddress
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from pyp2p.errors import CertificateRefused, ConnectFailed
from pyp2p.peer.address import components, parse_multiaddr
from pyp2p.transports.dns import Question, resolve_all
from pyp2p.transports.ws import WebSocket, WsStream


class Web:
    """A CA of its own, listeners with its certificates, and a dialler that trusts it; keeps what each was asked."""

    def __init__(self) -> None:
        self.names: list[str | None] = []
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a throw-away CA")])
        self.certificate = self.signed(self.name, self.key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
        self.client = ssl.create_default_context(cadata=self.certificate.public_bytes(Encoding.DER))

    def signed(self, name: x509.Name, key: ec.EllipticCurvePublicKey, *extensions) -> x509.Certificate:
        now = datetime.now(UTC)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        made = x509.CertificateBuilder(subject_name=name, issuer_name=self.name, public_key=key)
        made = made.serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False)
        for extension in extensions:
            made = made.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        if name == self.name:
            made = made.add_extension(identifier, critical=False)
        return made.sign(self.key, SHA256())

    def server(self, name: x509.GeneralName, folder: Path) -> ssl.SSLContext:
        """Shows a certificate for `name`, and notes the name that it is asked for."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self.signed(x509.Name([]), key.public_key(), x509.SubjectAlternativeName([name]))
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "pem").write_bytes(secret + made.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "pem")
        context.sni_callback = lambda _socket, asked, _context: self.names.append(asked)
        return context


class Names:
    """A resolver for which every name is this machine."""

    async def resolve(self, name: str, question: Question) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["127.0.0.1"]


LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
HOST = x509.DNSName("peer.example")


@pytest.mark.parametrize(
    ("shown", "address", "sni", "host"),
    [
        (HOST, "/dns4/peer.example/tcp/{}/wss", "peer.example", "peer.example"),
        (HOST, "/dns/peer.example/tcp/{}/tls/ws", "peer.example", "peer.example"),
        (HOST, "/dns4/front.example/tcp/{}/tls/sni/peer.example/ws", "peer.example", "peer.example"),
        (HOST, "/ip4/127.0.0.1/tcp/{}/tls/sni/peer.example/ws", "peer.example", "peer.example"),
        (x509.DNSName("*.b.example"), "/dns4/a.b.example/tcp/{}/wss", "a.b.example", "a.b.example"),
        (LOOPBACK, "/ip4/127.0.0.1/tcp/{}/wss", None, "127.0.0.1"),  # an IP address is no name for SNI (RFC 6066, 3)
        (x509.DNSName("other.example"), "/dns4/peer.example/tcp/{}/wss", "peer.example", ""),
        (x509.DNSName("front.example"), "/dns4/front.example/tcp/{}/tls/sni/peer.example/ws", "peer.example", ""),
        (LOOPBACK, "/dns4/peer.example/tcp/{}/wss", "peer.example", ""),
        (HOST, "/ip4/127.0.0.1/tcp/{}/wss", None, ""),
    ],
)
async def test_the_name_is_asked_for_in_tls_and_http_and_the_certificate_has_to_be_for_it(
    shown: x509.GeneralName, address: str, sni: str | None, host: str, tmp_path: Path
) -> None:
    web = Web()
    transport = WebSocket(server=web.server(shown, tmp_path), client=web.client)
    listener = await transport.listen(parse_multiaddr("/ip4/127.0.0.1/tcp/0/tls/ws"))
    port = components(listener.address)[1].value
    (resolved,) = await resolve_all(parse_multiaddr(address.format(port)), Names())
    heads: list[bytes] = []
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            accepted = (await listener.accept()).stream
            assert isinstance(accepted, WsStream)
            with suppress(trio.BrokenResourceError):
                heads.append(await accepted._inner.receive_some(4096))
                await accepted._inner.send_all(b"HTTP/1.1 503 Seen\r\nContent-Length: 0\r\n\r\n")
            await accepted.aclose_now()

        nursery.start_soon(serve)
        with pytest.raises(ConnectFailed) as failed:
            await transport.dial(resolved)
    await listener.aclose()
    assert web.names == [sni]
    if host:
        assert "HTTP 503" in str(failed.value)
        assert f"\r\nHost: {host}:{port}\r\n".encode() in heads[0]
        return
    assert isinstance(failed.value, CertificateRefused)
    asked = sni or "127.0.0.1"
    why = "IP address mismatch" if sni is None else "Hostname mismatch"
    assert str(failed.value).startswith(
        f"TLS to {asked} (/ip4/127.0.0.1/tcp/{port}): its certificate is refused: {why}"
    )
    assert heads in ([], [b""])


async def test_a_server_without_tls_is_named() -> None:
    transport = WebSocket()
    listener = await transport.listen(parse_multiaddr("/ip4/127.0.0.1/tcp/0/ws"))
    port = components(listener.address)[1].value
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            raw = await listener.accept()
            with pytest.raises(trio.BrokenResourceError, match="no WebSocket request"):
                await raw.stream.receive_some()
            await raw.stream.aclose_now()

        nursery.start_soon(serve)
        with pytest.raises(ConnectFailed, match="speaks no TLS"):
            await transport.dial(parse_multiaddr(f"/ip4/127.0.0.1/tcp/{port}/wss"))
    await listener.aclose()
