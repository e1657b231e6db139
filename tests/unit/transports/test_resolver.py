"""The system's name service: only what needs no network."""

import dns.asyncresolver
import dns.exception
import dns.message
import dns.rcode
import dns.rdata
import dns.resolver
import dns.rrset
import pytest
import trio

from pyp2p.errors import ResolveError
from pyp2p.transports.dns import Question, SystemResolver


async def test_localhost_and_numbers() -> None:
    assert "127.0.0.1" in await SystemResolver().resolve("localhost", Question.IP4)
    assert await SystemResolver().resolve("::1", Question.IP6) == ["::1"]


@pytest.mark.parametrize("name", ["a" * 64 + ".example", "a..b", "\udcff.example", "x" * 300])
@pytest.mark.parametrize("question", [Question.IP, Question.TXT])
async def test_what_is_no_name_is_a_resolve_error(name: str, question: Question) -> None:
    with pytest.raises(ResolveError) as caught:
        await SystemResolver().resolve(name, question)
    assert str(caught.value).isprintable()


async def test_texts_are_joined_and_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(text: str):
        return dns.rdata.from_text("IN", "TXT", text)

    async def resolve(self, name, kind, **kwargs):
        assert (name, kind) == ("_dnsaddr.x.example", "TXT")
        return [record('"dnsaddr=/ip4/" "192.0.2.2/tcp/1"'), record('"b\\255"'), record('"a"')]

    monkeypatch.setattr("dns.asyncresolver.Resolver.resolve", resolve)
    found = await SystemResolver().resolve("_dnsaddr.x.example", Question.TXT)
    assert found == ["a", "b\\xff", "dnsaddr=/ip4/192.0.2.2/tcp/1"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (dns.resolver.NXDOMAIN(), "no such name"),
        (dns.resolver.NoNameservers(), "NoNameservers"),
        (dns.exception.Timeout(timeout=1), "did not answer"),
        (OSError(101, "Network is unreachable"), "Network is unreachable"),
    ],
)
async def test_failures_in_plain_words(error: Exception, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(self, name, kind, **kwargs):
        raise error

    monkeypatch.setattr("dns.asyncresolver.Resolver.resolve", resolve)
    with pytest.raises(ResolveError) as caught:
        await SystemResolver().resolve("_dnsaddr.x.example", Question.TXT)
    assert text in str(caught.value)
    assert "_dnsaddr.x.example" in str(caught.value)


async def test_a_real_question_to_a_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """dnspython with trio, over UDP to a server of our own."""
    server = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await server.bind(("127.0.0.1", 0))
    plain = dns.asyncresolver.Resolver.__init__

    def ask_us(self: dns.asyncresolver.Resolver) -> None:
        plain(self, configure=False)
        self.nameservers = ["127.0.0.1"]
        self.port = server.getsockname()[1]

    async def serve() -> None:
        while True:
            data, asker = await server.recvfrom(4096)
            question = dns.message.from_wire(data)
            answer = dns.message.make_response(question)
            name = question.question[0].name
            if b"gone" in name.labels:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            elif b"empty" not in name.labels:
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", '"two"', '"one"'))
            await server.sendto(answer.to_wire(), asker)

    monkeypatch.setattr(dns.asyncresolver.Resolver, "__init__", ask_us)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        assert await SystemResolver().resolve("_dnsaddr.x.example", Question.TXT) == ["one", "two"]
        for name, text in [("_dnsaddr.gone.example", "no such name"), ("_dnsaddr.empty.example", "no such record")]:
            with pytest.raises(ResolveError) as caught:
                await SystemResolver().resolve(name, Question.TXT)
            assert text in str(caught.value)
        nursery.cancel_scope.cancel()
    server.close()
