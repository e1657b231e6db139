"""Names to addresses, with a resolver that answers from a table (and may lie)."""

import pytest
import trio
import trio.testing

from pyp2p.errors import ResolveError
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.transports.dns import Question, ResolveLimits, needs_resolving, resolve_all

P = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
Q = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"


class Table:
    """Answers by (name, question); what is not in it does not exist. Counts the questions."""

    def __init__(self, answers: dict[tuple[str, Question], list[str] | Exception] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0

    async def resolve(self, name: str, question: Question) -> list[str]:
        self.asked.append(name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await trio.lowlevel.checkpoint()
        self.at_once -= 1
        answer = self.answers.get((name, question), ResolveError(f"{name}: no such name"))
        if isinstance(answer, Exception):
            raise answer
        return answer


def txt(**names: list[str]) -> Table:
    """A table of TXT records below `.example`, each written without its `dnsaddr=`."""
    return Table(
        {
            (f"_dnsaddr.{name}.example", Question.TXT): ["dnsaddr=" + record for record in records]
            for name, records in names.items()
        }
    )


IPS = Table(
    {
        ("a.example", Question.IP): ["2001:db8::1", "192.0.2.1"],
        ("a.example", Question.IP4): ["192.0.2.1", "192.0.2.2"],
        ("a.example", Question.IP6): ["2001:db8::1"],
    }
)

ROWS = [
    ("/ip4/192.0.2.9/tcp/1", ["/ip4/192.0.2.9/tcp/1"]),
    ("/dns4/a.example/tcp/4001", ["/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.2/tcp/4001"]),
    ("/dns6/a.example/tcp/4001", ["/ip6/2001:db8::1/tcp/4001"]),
    ("/dns/a.example/tcp/4001", ["/ip6/2001:db8::1/tcp/4001", "/ip4/192.0.2.1/tcp/4001"]),
    (f"/dns6/a.example/tcp/1/p2p/{P}", [f"/ip6/2001:db8::1/tcp/1/p2p/{P}"]),
]


@pytest.mark.parametrize(("address", "expected"), ROWS)
async def test_host_names(address: str, expected: list[str]) -> None:
    assert [str(found) for found in await resolve_all(parse_multiaddr(address), IPS)] == expected


async def test_only_a_name_in_front_is_ours_to_resolve() -> None:
    assert needs_resolving(parse_multiaddr("/dnsaddr/a.example"))
    behind_relay = parse_multiaddr(f"/ip4/192.0.2.1/tcp/1/p2p/{P}/p2p-circuit/dns4/a.example/tcp/1")
    assert not needs_resolving(behind_relay)
    assert await resolve_all(behind_relay, table := Table()) == [behind_relay]
    assert table.asked == []


async def test_dnsaddr_refers_to_names_and_addresses_in_order() -> None:
    table = txt(
        boot=[f"/dnsaddr/one.example/p2p/{P}", f"/ip4/192.0.2.5/tcp/5/p2p/{Q}", f"/dns4/a.example/tcp/6/p2p/{Q}"],
        one=[f"/ip4/192.0.2.6/tcp/7/p2p/{P}", f"/ip4/192.0.2.7/tcp/8/p2p/{Q}"],
    )
    table.answers.update(IPS.answers)
    found = await resolve_all(parse_multiaddr("/dnsaddr/boot.example"), table)
    assert [str(address) for address in found] == [
        f"/ip4/192.0.2.5/tcp/5/p2p/{Q}",
        f"/ip4/192.0.2.6/tcp/7/p2p/{P}",  # and not the one of Q, which `one` was not asked for
        f"/ip4/192.0.2.1/tcp/6/p2p/{Q}",
        f"/ip4/192.0.2.2/tcp/6/p2p/{Q}",
    ]


async def test_a_failed_or_hanging_question_does_not_spoil_the_others(autojump_clock: trio.testing.MockClock) -> None:
    class Hangs(Table):
        async def resolve(self, name: str, question: Question) -> list[str]:
            if name == "hangs.example":
                await trio.sleep_forever()
            return await super().resolve(name, question)

    table = Hangs(txt(boot=["/dns4/gone.example/tcp/1", "/dns4/hangs.example/tcp/1", "/dns4/a.example/tcp/1"]).answers)
    table.answers.update(IPS.answers)
    found = await resolve_all(parse_multiaddr("/dnsaddr/boot.example"), table)
    assert [str(address) for address in found] == ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1"]
    assert trio.current_time() == ResolveLimits().patience


# ---- hostile 59: each row is a tree of records, and whether there is an address in it ----


async def refused(address: str, table: Table, limits: ResolveLimits = ResolveLimits()) -> str:  # noqa: B008
    with pytest.raises(ResolveError) as caught:
        await resolve_all(parse_multiaddr(address), table, limits)
    text = str(caught.value)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 2000
    return text


@pytest.mark.hostile
async def test_hostile_059_a_record_that_points_to_itself() -> None:
    table = txt(loop=["/dnsaddr/loop.example", "/dnsaddr/loop.example"])
    await refused("/dnsaddr/loop.example", table)
    assert table.asked == ["_dnsaddr.loop.example"]


@pytest.mark.hostile
async def test_hostile_059_a_chain_of_33() -> None:
    def chain(length: int) -> Table:
        names = {f"n{i}": [f"/dnsaddr/n{i + 1}.example"] for i in range(length - 1)}
        return txt(**names, **{f"n{length - 1}": ["/ip4/192.0.2.1/tcp/1"]})

    assert await resolve_all(parse_multiaddr("/dnsaddr/n0.example"), chain(32))
    table = chain(33)
    await refused("/dnsaddr/n0.example", table)
    assert len(table.asked) == 32


@pytest.mark.hostile
async def test_hostile_059_ten_thousand_records() -> None:
    table = txt(many=[f"/ip4/10.{i >> 8}.{i & 255}.1/tcp/1" for i in range(10_000)])
    found = await resolve_all(parse_multiaddr("/dnsaddr/many.example"), table)
    assert len(found) == 100
    table = txt(names=[f"/dnsaddr/x{i}.example" for i in range(10_000)])
    await refused("/dnsaddr/names.example", table)
    assert len(table.asked) == 100
    assert table.most_at_once == 8


@pytest.mark.hostile
async def test_hostile_059_a_tree_that_grows_at_every_level() -> None:
    depth = 31

    class Tree(Table):
        async def resolve(self, name: str, question: Question) -> list[str]:
            self.asked.append(name)
            label = name.removeprefix("_dnsaddr.").partition(".")[0]
            if len(label) >= depth:
                return []
            return [f"dnsaddr=/dnsaddr/{label}{letter}.example" for letter in "ab"]

    table = Tree()
    await refused("/dnsaddr/a.example", table)
    assert len(table.asked) == 100


@pytest.mark.hostile
@pytest.mark.parametrize(
    "record",
    [
        "/ip4/192.0.2.1/tcp/" + "1" * 65536,
        "/unix/" + "x" * 65536,
        "not an address",
        "",
        "/ip4/999.0.0.1/tcp/1",
        "/ip4/192.0.2.1/tcp/99999",
        "/ip4/192.0.2.1/tcp/1/p2p/" + "1" * 900,
        "\x1b[31m/ip4/\u202e",
    ],
)
async def test_hostile_059_a_record_that_is_no_address(record: str) -> None:
    await refused("/dnsaddr/bad.example", txt(bad=[record]))
    table = txt(bad=[record, "/ip4/192.0.2.1/tcp/1"])
    assert len(await resolve_all(parse_multiaddr("/dnsaddr/bad.example"), table)) == 1


@pytest.mark.hostile
async def test_hostile_059_wrong_peer_id() -> None:
    table = txt(boot=[f"/ip4/192.0.2.1/tcp/1/p2p/{Q}", "/ip4/192.0.2.1/tcp/1"])
    text = await refused(f"/dnsaddr/boot.example/p2p/{P}", table)
    assert P in text
    table = txt(boot=[f"/dnsaddr/two.example/p2p/{P}"], two=[f"/ip4/192.0.2.1/tcp/1/p2p/{Q}"])
    await refused(f"/dnsaddr/boot.example/p2p/{P}", table)
    with pytest.raises(ResolveError):  # the id may also be known from elsewhere
        await resolve_all(parse_multiaddr("/dnsaddr/two.example"), table, PeerId.parse(P))
    found = await resolve_all(parse_multiaddr("/dnsaddr/two.example"), table, PeerId.parse(Q))
    assert len(found) == 1


@pytest.mark.hostile
async def test_hostile_059_no_such_name_names_what_was_asked() -> None:
    assert "_dnsaddr.gone.example" in await refused("/dnsaddr/gone.example", Table())
    assert "gone.example" in await refused("/dns4/gone.example/tcp/1", Table())
    assert "no usable address" in await refused("/dns4/none.example/tcp/1", Table({("none.example", Question.IP4): []}))


@pytest.mark.hostile
async def test_hostile_059_timeout(autojump_clock: trio.testing.MockClock) -> None:
    class Hangs:
        async def resolve(self, name: str, question: Question) -> list[str]:
            await trio.sleep_forever()
            raise AssertionError

    with pytest.raises(trio.TooSlowError), trio.fail_after(5):  # the caller's deadline, and no other
        await resolve_all(parse_multiaddr("/dnsaddr/slow.example"), Hangs())
    assert trio.current_time() == 5.0


@pytest.mark.hostile
async def test_hostile_059_private_addresses_are_only_addresses() -> None:
    # A name may well stand for a private network; who must not dial those says so in the connection gater.
    found = await resolve_all(parse_multiaddr("/dnsaddr/lan.example"), txt(lan=["/ip4/10.0.0.1/tcp/1"]))
    assert [str(address) for address in found] == ["/ip4/10.0.0.1/tcp/1"]
