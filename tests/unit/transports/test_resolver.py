"""The system's name service: only what needs no network."""

import dns.exception
import dns.rdata
import dns.resolver
import pytest

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
